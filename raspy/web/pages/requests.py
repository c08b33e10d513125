"""What Titanic has in hand: requests that wait, run, were given up, came late or are done."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from raspy.web.asking import ask, shaped
from raspy.web.hands import LOOK, SET
from raspy.web.refusal import Refusal
from raspy.web.site import Site
from raspy.web.texts import clean
from raspy.web.visit import Route, Visit

STATES = ("parked", "pending", "late", "done")
"""The states by which Titanic lists, those first that want their owner."""
FIRST = ("parked", "pending")
"""Those that are shown when none is asked for."""
OVER = ("parked", "late", "done")
"""States in which nothing is lost that was still to be done."""
ON_PAGE = 50
ID = re.compile(r"[0-9a-f]{32}")
FRAME = 1000
"""Characters of a frame that are shown."""


class Request(msgspec.Struct):
    """A request, as Titanic tells of it."""

    uuid: str
    service: str
    state: str
    age: float
    """Seconds since it came."""
    failures: int = 0
    lifetime: float | None = None
    reason: str = ""
    body: list[str] = []
    reply: list[str] | None = None


class Queue(msgspec.Struct):
    """Those that it lists: the oldest thousand."""

    counts: dict[str, int]
    requests: list[Request]
    more: bool = False


class Part:
    """One state's requests, as far as they are on this page."""

    __slots__ = ("all", "more", "page", "pages", "shown", "state")

    def __init__(self, state: str, queue: Queue, page: int) -> None:
        self.state = state
        self.pages = max(-(-len(queue.requests) // ON_PAGE), 1)
        self.page = min(max(page, 1), self.pages)
        self.all = len(queue.requests)
        self.more = queue.more
        self.shown = queue.requests[(self.page - 1) * ON_PAGE : self.page * ON_PAGE]


def requests(site: Site, visit: Visit) -> bytes:
    """The requests of a state, or those that wait and those that were given up."""
    chosen, page = visit.query("state"), visit.query("page", "1")
    if chosen and chosen not in STATES:
        raise Refusal("404 Not Found", visit.t("there is no such state of requests"))
    number = int(page[:6]) if page.isascii() and page.isdecimal() else 1
    parts: list[Part] = []
    counts: dict[str, int] = {}
    problem = ""
    try:
        for state in (chosen,) if chosen else FIRST:
            queue = shaped(ask(site, visit, LOOK, "titanic.queue", "list", state), Queue, "titanic")
            parts.append(Part(state, queue, number if chosen else 1))
            counts = queue.counts
    except Refusal as refusal:
        problem = refusal.reason
    return site.page(
        visit, "requests.tpl", title=visit.t("Requests"), parts=parts, counts=counts, chosen=chosen, problem=problem,
        states=STATES, called=_called(visit), clean=clean, over=OVER, back=visit.path,
    )  # fmt: skip


def request(site: Site, visit: Visit, uuid: str) -> bytes:
    """All that is known of one."""
    _known(visit, uuid)
    found = shaped(ask(site, visit, LOOK, "titanic.queue", "info", uuid), Request, "titanic")
    return site.page(
        visit, "request.tpl", title=visit.t("Request to {service}", service=clean(found.service, 120)), found=found,
        called=_called(visit), shown=lambda frames: [clean(frame, FRAME) for frame in frames], clean=clean,
    )  # fmt: skip


def act(site: Site, visit: Visit, uuid: str) -> bytes:
    """Have it tried again, or drop it."""
    _known(visit, uuid)
    t, action = visit.t, visit.form.get("action", "")
    said = {"retry": t("the request waits to be tried again"), "drop": t("the request is dropped")}
    if action not in said:
        raise Refusal("400 Bad Request", t("this is no form of this page"))
    ask(site, visit, SET, "titanic.queue", action, uuid)
    state = visit.form.get("state", "")
    return site.done(visit, said[action], f"/requests?state={state}" if state in STATES else "/requests")


def _called(visit: Visit) -> dict[str, Any]:
    """What the states are called."""
    t = visit.t
    return {
        "pending": t("waiting"),
        "in flight": t("running"),
        "parked": t("failed"),
        "late": t("too late"),
        "done": t("done"),
    }


def _known(visit: Visit, uuid: str) -> None:
    if ID.fullmatch(uuid) is None:
        raise Refusal("404 Not Found", visit.t("there is no such request"))


ROUTES = (
    Route("/requests", requests),
    Route("/requests/<uuid>", request),
    Route("/requests/<uuid>", act, "POST"),
)
