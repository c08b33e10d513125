"""Minimum, mean and maximum of even spans of time."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from operator import mul
from typing import Any

from raspy.servers.logger.packing import pack, unpack
from raspy.servers.logger.rows import OK, Rows

CODES = "qIIdddBI"
NONE = 0.0
"""Stands for minimum, mean and maximum, whatever their unit, where nothing was good."""


class Buckets:
    """Spans of time in which there were readings, in order; those in which there were none are left out.

    Of each: when it begins (Unix time in ms), how many readings were good and how many not, minimum, mean and maximum
    of the good ones, the worst quality, and for how long, in s, a reading in it stands at most.
    """

    __slots__ = ("bads", "counts", "highs", "holds", "lows", "means", "starts", "worsts")

    def __init__(self) -> None:
        self.starts: array[int] = array("q")
        self.counts: array[int] = array("I")
        self.bads: array[int] = array("I")
        self.lows: array[float] = array("d")
        self.means: array[float] = array("d")
        self.highs: array[float] = array("d")
        self.worsts: array[int] = array("B")
        self.holds: array[int] = array("I")

    def __len__(self) -> int:
        return len(self.starts)

    def columns(self) -> tuple[array[Any], ...]:
        """All of it, in the order of the packed form."""
        return (
            self.starts, self.counts, self.bads, self.lows, self.means, self.highs, self.worsts, self.holds
        )  # fmt: skip

    def extend(self, other: Buckets) -> None:
        """Add those of another, which are later."""
        for mine, more in zip(self.columns(), other.columns(), strict=True):
            mine.extend(more)

    def pack(self) -> bytes:
        """The bytes of them; when the first one begins is not in them."""
        return pack(CODES, self.columns())

    @staticmethod
    def unpack(start: int, data: bytes) -> Buckets:
        """Those that were packed.

        :raises raspy.servers.logger.packing.BadTable: they are none
        """
        buckets = Buckets()
        (
            buckets.starts, buckets.counts, buckets.bads, buckets.lows, buckets.means, buckets.highs, buckets.worsts,
            buckets.holds,
        ) = unpack(CODES, start, data)  # fmt: skip
        return buckets

    def between(self, since: int, until: int) -> Buckets:
        """Those that begin at ``since <= start < until``."""
        begin, end = bisect_left(self.starts, since), bisect_left(self.starts, until)
        part = Buckets()
        (
            part.starts, part.counts, part.bads, part.lows, part.means, part.highs, part.worsts, part.holds
        ) = (column[begin:end] for column in self.columns())  # fmt: skip
        return part

    def _add(
        self, start: int, count: int, bad: int, figures: tuple[float, float, float], worst: int, hold: int
    ) -> None:
        self.starts.append(start)
        self.counts.append(count)
        self.bads.append(bad)
        self.lows.append(figures[0])
        self.means.append(figures[1])
        self.highs.append(figures[2])
        self.worsts.append(worst)
        self.holds.append(hold)

    def _take(self, other: Buckets, i: int, start: int) -> None:
        figures = other.lows[i], other.means[i], other.highs[i]
        self._add(start, other.counts[i], other.bads[i], figures, other.worsts[i], other.holds[i])


def of_rows(rows: Rows, step: int) -> Buckets:
    """The buckets of sorted readings.

    :param step: their length in ms; they begin at multiples of it
    """
    buckets = Buckets()
    place, count = 0, len(rows)
    while place < count:
        start = rows.times[place] // step * step
        end = bisect_left(rows.times, start + step, place)
        qualities = rows.qualities[place:end]
        worst = max(qualities)
        values: Sequence[float] = rows.values[place:end]
        if worst != OK:
            values = [value for value, quality in zip(values, qualities, strict=True) if quality == OK]
        good = len(values)
        figures = NONE, NONE, NONE
        if good:
            low, high = min(values), max(values)
            figures = low, mean(values, low, high), high
        buckets._add(start, good, end - place - good, figures, worst, max(rows.holds[place:end]))
        place = end
    return buckets


def of_buckets(fine: Buckets, step: int) -> Buckets:
    """Longer buckets of shorter ones, which are in order and may be of one span twice.

    :param step: the length of the longer ones in ms, a multiple of that of the shorter ones
    """
    buckets = Buckets()
    place, count = 0, len(fine)
    while place < count:
        start = fine.starts[place] // step * step
        end = bisect_left(fine.starts, start + step, place)
        if end == place + 1:
            buckets._take(fine, place, start)
            place = end
            continue
        counts = fine.counts[place:end]
        good = sum(counts)
        figures = NONE, NONE, NONE
        if good:
            lows: Iterable[float] = fine.lows[place:end]
            highs: Iterable[float] = fine.highs[place:end]
            means: Sequence[float] = fine.means[place:end]
            if not min(counts):
                lows = [low for low, n in zip(lows, counts, strict=True) if n]
                highs = [high for high, n in zip(highs, counts, strict=True) if n]
            low, high = min(lows), max(highs)
            figures = low, weighted(means, counts, good, low, high), high
        worst, hold = max(fine.worsts[place:end]), max(fine.holds[place:end])
        buckets._add(start, good, sum(fine.bads[place:end]), figures, worst, hold)
        place = end
    return buckets


def merged(one: Buckets, other: Buckets, step: int) -> Buckets:
    """Two lots of buckets of the same length as one."""
    both = Buckets()
    places = sorted((start, which, i) for which in (0, 1) for i, start in enumerate((one, other)[which].starts))
    for start, which, i in places:
        both._take((one, other)[which], i, start)
    return of_buckets(both, step)


def replaced(kept: Buckets, fresh: Buckets, step: int) -> Buckets:
    """Buckets of which some are there anew, all of the same length."""
    anew = set(fresh.starts)
    others = Buckets()
    for place, start in enumerate(kept.starts):
        if start not in anew:
            others._take(kept, place, start)
    return merged(others, fresh, step)


def mean(values: Sequence[float], low: float, high: float) -> float:
    """The mean of finite numbers, which is finite, and not beyond the least and the greatest of them."""
    total = sum(values)
    found = total / len(values) if math.isfinite(total) else math.fsum(value / len(values) for value in values)
    return min(max(found, low), high)


def weighted(means: Sequence[float], counts: Sequence[int], count: int, low: float, high: float) -> float:
    """The mean of means, likewise."""
    total: float = sum(map(mul, means, counts))
    if math.isfinite(total):
        found = total / count
    else:
        found = math.fsum(each * (n / count) for each, n in zip(means, counts, strict=True))
    return min(max(found, low), high)
