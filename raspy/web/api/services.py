"""Whom an operation asks, by what is on the tree; and who says so."""

from __future__ import annotations

from typing import Any

from raspy.web.api.operation import TOP
from raspy.web.board import Snapshot
from raspy.web.refusal import Refusal
from raspy.web.rows import DEVICE, is_mode_end
from raspy.web.site import Site
from raspy.web.visit import Visit

MOST_SERVERS = 50
"""Servers that are asked at the same time; each costs a socket meanwhile."""
BY = 60
"""Characters of who did something."""


def snapshot(site: Site) -> Snapshot:
    """All that is on the tree.

    :raises raspy.web.board.Busy: the loop does not answer
    """
    found: Snapshot = site.board.ask(site.board.snapshot)
    return found


def ask(site: Site, purpose: str, kind: str, part: str, *words: str) -> Any:
    """What a verb of a server answers, of which one is meant: that of this host, if it has one.

    :param kind: which server, as ``core``
    :param part: of its services
    :raises Refusal: it refuses, does not answer, or there is no such server
    """
    return call(site, purpose, snapshot(site).service(site.hostname, kind), part, *words)


def call(site: Site, purpose: str, server: str, part: str, *words: str) -> Any:
    """What a verb of a server answers.

    :param server: ``<host>.<server>``
    :param part: of its services
    :raises Refusal: it refuses, does not answer, or there is no such server
    """
    if f"/server/{server}" not in snapshot(site).held:
        # The broker would have the request wait for it.
        raise Refusal("404 Not Found", f"there is no server {server}; GET {TOP}/servers names those that there are")
    return site.hands.call(purpose, f"{server}.{part}", *words)


def with_outputs(site: Site) -> list[str]:
    """The services of the servers that have outputs.

    :raises Refusal: 502: they are too many
    """
    tree = snapshot(site).held
    ends = (DEVICE.fullmatch(key) for key in tree if is_mode_end(key, tree))
    found = sorted({f"{end['host']}.{end['server']}.devices" for end in ends if end is not None})
    if len(found) > MOST_SERVERS:
        raise Refusal("502 Bad Gateway", f"{len(found)} servers have outputs; {MOST_SERVERS} are asked at most")
    return found


def by(visit: Visit) -> str:
    """Who is said to have done something."""
    return visit.by[:BY]
