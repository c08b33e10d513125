"""How each value went in the last 24 hours, for a small line beside it: kept on the web server's loop.

A value has a ring of 48 means, half an hour each. What was before the page's server started comes from the logger, one
value after the other; what comes then, from the tree. Where nothing is known there is a gap.
"""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Callable
from typing import Any

import msgspec

from raspy.common import MDP
from raspy.common.buscall import BusCaller
from raspy.common.executive import Executive, Timer
from raspy.web.rows import Held
from raspy.web.texts import number

BUCKETS = 48
STEP = 1800
"""Seconds of a bucket."""
KEYS = 300
"""Values that have a line, the first that came; each takes about 0.5 kB."""
FRESH = 60.0
"""Seconds for which lines are used again before they are drawn anew."""
PATIENCE = 5.0
"""Seconds for an answer of the logger."""
RETRY = 60.0
"""Seconds after which the logger is asked again when it did not answer."""
POINTS = BUCKETS + 2
"""Points that are asked for: as many have the logger answer with our buckets (docs/history.rst)."""
WIDTH, HEIGHT = 96, 24
"""Units of the picture."""
MARGIN = 2


class Spark:
    """A line as it is drawn: the attribute ``d`` of an SVG path, and between what it goes."""

    __slots__ = ("high", "low", "path")

    def __init__(self, path: str, low: float, high: float) -> None:
        self.path = path
        self.low = low
        self.high = high


class Ring:
    """The means of one value; NaN where nothing is known."""

    __slots__ = ("_count", "_means", "_sum", "_until", "newest")

    def __init__(self, bucket: int) -> None:
        self._means = array("f", [math.nan]) * BUCKETS
        self.newest = bucket
        """The number of the newest bucket: Unix time through :data:`STEP`."""
        self._sum, self._count = 0.0, 0
        self._until = 0.0
        """Up to when the last good reading stands (Unix time, s)."""

    def add(self, value: float, when: float, max_age: float) -> None:
        """Take a good reading.

        :param when: Unix time, s
        :param max_age: seconds for which it stands
        """
        bucket = int(when // STEP)
        if bucket > self.newest:
            self.advance(bucket)
        elif bucket <= self.newest - BUCKETS:
            # A clock that was ahead: what it has dated is in nobody's way.
            self.__init__(bucket)  # type: ignore[misc]
        elif bucket < self.newest:
            self.fill(bucket, bucket, value)
            return
        self._sum += value
        self._count += 1
        self._means[bucket % BUCKETS] = self._sum / self._count
        self._until = max(self._until, when + max_age)

    def advance(self, bucket: int) -> None:
        """Go on to a bucket; those in between have the last value as long as that stood."""
        held = self._means[self.newest % BUCKETS]
        for each in range(max(self.newest + 1, bucket - BUCKETS + 1), bucket + 1):
            self._means[each % BUCKETS] = held if each * STEP < self._until else math.nan
        self.newest = bucket
        self._sum, self._count = 0.0, 0

    def fill(self, first: int, last: int, value: float) -> None:
        """Have a value in buckets of which nothing is known."""
        for each in range(max(first, self.newest - BUCKETS + 1), min(last, self.newest) + 1):
            if math.isnan(self._means[each % BUCKETS]):
                self._means[each % BUCKETS] = value

    def means(self, bucket: int) -> list[float]:
        """The means of the 48 buckets that end with one."""
        if bucket > self.newest:
            self.advance(bucket)
        return [
            self._means[each % BUCKETS] if self.newest - BUCKETS < each <= self.newest else math.nan
            for each in range(bucket - BUCKETS + 1, bucket + 1)
        ]


def drawn(means: list[float]) -> Spark | None:
    """The line of means; None when nothing is known."""
    known = [mean for mean in means if mean == mean]
    if not known:
        return None
    low, high = min(known), max(known)
    scale = (HEIGHT - 2 * MARGIN) / (high - low) if high > low else 0.0
    across = (WIDTH - 2 * MARGIN) / (len(means) - 1)
    parts, pen = [], False
    for place, mean in enumerate(means):
        if mean != mean:
            pen = False
            continue
        x = MARGIN + place * across
        y = HEIGHT - MARGIN - (mean - low) * scale if scale else HEIGHT / 2
        parts.append(f"{'L' if pen else 'M'}{x:.0f} {y:.1f}")
        if not pen and not (place + 1 < len(means) and means[place + 1] == means[place + 1]):
            parts.append("h0")  # a point by itself
        pen = True
    return Spark("".join(parts), low, high)


class Sparks:
    """The lines of all values. Everything happens on the loop.

    :param loop: of the web server
    :param changed: called when the logger has told of values that stand still
    """

    def __init__(self, loop: Executive, changed: Callable[[], None]) -> None:
        self._loop = loop
        self._changed = changed
        self._rings: dict[str, Ring] = {}
        self._lines: dict[str, Spark] = {}
        self._drawn = -math.inf
        self._caller: BusCaller | None = None
        self.service = ""
        """Of the logger; empty: none has come yet."""
        self._waiting: dict[str, None] = {}
        """Values of which the logger is still to be asked."""
        self._asked: set[str] = set()
        self._asking = False
        self._retry: Timer | None = None
        self._closed = False

    def close(self) -> None:
        """Ask for nothing more."""
        self._closed = True
        if self._caller is not None:
            self._caller.close()

    def add(self, held: Held, wall: float) -> None:
        """A value of the tree has changed.

        :param wall: Unix time, s
        """
        key, value = held.key, held.number
        if value is None:
            return
        ring = self._rings.get(key)
        if ring is None:
            if len(self._rings) >= KEYS:
                return
            ring = self._rings[key] = Ring(int(wall // STEP))
        ring.add(value, wall - (held.age or 0.0), held.max_age)
        if held.logged and key not in self._asked:
            self._asked.add(key)
            self._waiting[key] = None
            self._ask()

    def drop(self, key: str) -> None:
        """A key is gone."""
        self._rings.pop(key, None)
        self._waiting.pop(key, None)
        self._asked.discard(key)
        self._lines.pop(key, None)

    def logger(self, service: str) -> None:
        """A logger has just come."""
        self.service = service
        self._ask()

    def lines(self) -> dict[str, Spark]:
        """By key; nobody changes it."""
        now = time.monotonic()
        if now - self._drawn > FRESH:
            bucket = int(time.time() // STEP)
            found = ((key, drawn(ring.means(bucket))) for key, ring in self._rings.items())
            self._lines = {key: line for key, line in found if line is not None}
            self._drawn = now
        return self._lines

    def _ask(self) -> None:
        """Ask the logger for the next value, if nothing is under way."""
        if self._asking or self._closed or not self.service or not self._waiting or self._retry is not None:
            return
        if self._caller is None:
            self._caller = BusCaller(self._loop, MDP.endpoint(self._loop.broker_ip, self._loop.broker_port))
        key = next(iter(self._waiting))
        now = time.time()
        body = ["query", key, f"{now - (BUCKETS - 1) * STEP:.0f}", f"{now:.0f}", str(POINTS)]
        self._asking = True

        def done(frames: list[bytes] | None) -> None:
            self._asking = False
            self._answered(key, frames)

        self._caller.call(self.service, [word.encode() for word in body], done, PATIENCE)

    def _answered(self, key: str, frames: list[bytes] | None) -> None:
        status = frames[-1][:3] if frames else b""
        if status not in (MDP.OK, MDP.NOT_FOUND):
            # It is stopping, or not there yet: what waits goes on waiting.
            self._retry = self._loop.call_later(RETRY, self._again)
            return
        self._waiting.pop(key, None)
        ring = self._rings.get(key)
        if frames and status == MDP.OK and ring is not None:
            take(ring, frames[0], time.time())
            self._drawn = -math.inf
        if not self._waiting:
            self._changed()
        self._ask()

    def _again(self) -> None:
        self._retry = None
        self._ask()


def take(ring: Ring, answer: bytes, now: float) -> None:
    """Take the logger's answer to a query; what is no such answer is as nothing.

    :param now: Unix time, s
    """
    try:
        found = msgspec.json.decode(answer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return
    points = found.get("points") if isinstance(found, dict) else None
    step = (number(found.get("step")) or 0.0) if points else 0.0
    points = [point for point in points if _is_point(point)] if isinstance(points, list) else []
    for place, point in enumerate(points):
        mean: Any = number(point[1])
        if mean is None:
            continue
        following = points[place + 1][0] if place + 1 < len(points) else point[0] + step if step else now
        ring.fill(int(point[0] // STEP), int((max(following, point[0] + 1) - 1) // STEP), mean)


def _is_point(point: Any) -> bool:
    return isinstance(point, list) and len(point) > 1 and number(point[0]) is not None
