"""Whom a page asks that is about one server, as core or Titanic, and what it says when that is not there."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from raspy.web.refusal import Refusal
from raspy.web.site import Site
from raspy.web.texts import clean
from raspy.web.visit import Visit

T = TypeVar("T")


class Missing(Refusal):
    """The server that a page is about does not run."""


def server(site: Site, visit: Visit, kind: str) -> str:
    """The name on the bus of a server: that of this host, if it has one.

    :param kind: as ``core``
    :raises Missing: there is none (503), so that nobody has to wait for it
    """
    snapshot = site.board.ask(site.board.snapshot)
    name = str(snapshot.service(site.hostname, kind))
    if snapshot.live and not snapshot.runs(name):
        raise _missing(visit, kind)
    return name


def ask(site: Site, visit: Visit, purpose: str, service: str, *words: str) -> Any:
    """What a verb of a server's service answers.

    :param purpose: as of :class:`raspy.web.hands.Hands`
    :param service: ``<server>.<service>``, without the host, as ``core.cron``
    :raises Missing: there is no such server (503)
    :raises Refusal: it refuses, or does not answer
    """
    kind, _, part = service.partition(".")
    whole = f"{server(site, visit, kind)}.{part}"
    try:
        return site.hands.call(purpose, whole, *words)
    except Refusal as refusal:
        raise told(visit, whole, refusal) from refusal


def told(visit: Visit, service: str, refusal: Refusal) -> Refusal:
    """A refusal as the page says it: that a whole server is not there in a sentence of its own."""
    if not refusal.reason.startswith(f"{service} is not there"):
        return refusal
    return _missing(visit, service.split(".")[1])


def _missing(visit: Visit, kind: str) -> Missing:
    sentence = visit.t("The server {server} does not run here; raspy status shows which do.", server=kind)
    return Missing("503 Service Unavailable", sentence)


def shaped(answer: Any, kind: type[T], what: str) -> T:
    """An answer as the type that it is to have.

    :raises Refusal: it has another
    """
    try:
        return msgspec.convert(answer, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise Refusal("502 Bad Gateway", clean(f"what {what} answers is not understood: {error}", 500)) from error
