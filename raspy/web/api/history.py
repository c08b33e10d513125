"""History: charts, readings, and what happened."""

from __future__ import annotations

from typing import Any

import msgspec

from raspy.web.api import services
from raspy.web.api.operation import Operations, Parameter
from raspy.web.hands import LOOK
from raspy.web.site import Site
from raspy.web.visit import Visit

OPERATIONS = Operations("history")

LAST = 253_402_300_799
"""9999-12-31 in Unix time, s."""
KEY = {"key": Parameter("a key of the tree, as /device/pi.fake.tank/temperature", least=1, most=512)}
SINCE = Parameter("from then on; Unix time, s", "number", least=0, most=LAST)
UNTIL = Parameter("up to and with then; Unix time, s", "number", least=0, most=LAST)
TIMES = {"since": SINCE, "until": UNTIL}
PERHAPS = {
    "since": Parameter("from then on; Unix time, s; left out: the beginning", "number", default="", most=LAST),
    "until": Parameter("up to and with then; Unix time, s; left out: now", "number", default="", most=LAST),
}
POINTS = {"points": Parameter("points at most", "integer", default=400, least=10, most=2000)}
SKIP = Parameter("skip of the answer before", "integer", default=0, most=999_999_999)


class Key(msgspec.Struct):
    """A value that has a history."""

    key: str
    unit: str


class Keys(msgspec.Struct):
    """All of them."""

    keys: list[Key]


class Chart(msgspec.Struct):
    """A chart of a value."""

    key: str
    unit: str
    since: float
    until: float
    level: float
    """Seconds of the rollups that it is made from; 0: of single readings."""
    step: float
    """Seconds that a point stands for; 0: a single reading."""
    points: list[tuple[float, float | None, float | None, float | None, int, int, str]]
    """Each time (Unix, s), mean, minimum, maximum, good readings, bad readings, worst quality. Where there was nothing
    at all the quality is ``gap``."""


class Rows(msgspec.Struct):
    """Readings as they were kept."""

    key: str
    unit: str
    rows: list[tuple[float, float | None, str]]
    """Each time (Unix, s), value, quality."""
    next: float | None
    """The ``since`` of the next page; null: this is the last."""
    skip: int
    """The ``skip`` of the next page."""


@OPERATIONS.add("GET", "/history/keys", answer=Keys)
def history_keys(site: Site, visit: Visit) -> Any:
    """The values that have a history."""
    return services.ask(site, LOOK, "logger", "log", "keys")


@OPERATIONS.add("GET", "/history", {**KEY, **TIMES, **POINTS}, answer=Chart)
def chart(site: Site, visit: Visit, key: str, since: float, until: float, points: int) -> Any:
    """A chart of a value."""
    return services.ask(site, LOOK, "logger", "log", "query", key, repr(since), repr(until), str(points))


ROW_LIMIT = Parameter("readings at most", "integer", default=1000, least=1, most=10_000)


@OPERATIONS.add("GET", "/history/rows", {**KEY, **TIMES, "limit": ROW_LIMIT, "skip": SKIP}, answer=Rows)
def rows(site: Site, visit: Visit, key: str, since: float, until: float, limit: int, skip: int) -> Any:
    """Every reading of a value as it was kept, page by page."""
    words = "rows", key, repr(since), repr(until), str(limit), str(skip)
    return services.ask(site, LOOK, "logger", "log", *words)


EVENT_LIMIT = Parameter("events at most", "integer", default=100, least=1, most=1000)
PATTERN = Parameter("a part of <kind>/<name>, a pattern of it with * and ?, or a key of the tree", default="", most=300)


@OPERATIONS.add("GET", "/events", {"pattern": PATTERN, **PERHAPS, "limit": EVENT_LIMIT, "skip": SKIP})
def events(
    site: Site, visit: Visit, pattern: str, since: float | str, until: float | str, limit: int, skip: int
) -> Any:
    """What happened, the newest first. ``next`` and ``skip`` are the ``until`` and the ``skip`` of the next page."""
    words = "events", pattern, *(repr(at) if at != "" else "" for at in (since, until)), str(limit), str(skip)
    return services.ask(site, LOOK, "logger", "log", *words)


ROUTES = OPERATIONS.routes()
