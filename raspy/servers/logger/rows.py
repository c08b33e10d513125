"""Readings of one series: time, value, quality, and for how long each stands."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from itertools import groupby, islice
from operator import lt

from raspy.servers.logger.packing import pack, unpack

DAY = 86_400_000
"""Milliseconds; days begin at midnight UTC."""
LATEST = 253_402_300_800_000
"""ms; the year 10000."""
QUALITIES = ("ok", "stale", "error")
OK, STALE, ERROR = range(3)
CODES = "qdBI"


class Rows:
    """Readings, in any order unless :meth:`sort` was called.

    Times are Unix times in ms. The value of a reading that is not ok is 0. A reading stands for ``holds`` seconds:
    when the next one comes later than that, there is a gap.
    """

    __slots__ = ("holds", "qualities", "times", "values")

    def __init__(self) -> None:
        self.times: array[int] = array("q")
        self.values: array[float] = array("d")
        self.qualities: array[int] = array("B")
        self.holds: array[int] = array("I")

    def __len__(self) -> int:
        return len(self.times)

    def add(self, time: int, value: float, quality: int, hold: int) -> None:
        """Add one reading."""
        self.times.append(time)
        self.values.append(value)
        self.qualities.append(quality)
        self.holds.append(hold)

    def extend(self, other: Rows) -> None:
        """Add those of another."""
        self.times.extend(other.times)
        self.values.extend(other.values)
        self.qualities.extend(other.qualities)
        self.holds.extend(other.holds)

    def copy(self) -> Rows:
        """The same once more."""
        return self._part(0, len(self))

    def drop(self, count: int) -> None:
        """Forget the first ones."""
        for column in (self.times, self.values, self.qualities, self.holds):
            del column[:count]

    def cut(self, count: int) -> int:
        """Keep only the first ones; how many there were more."""
        more = max(len(self) - count, 0)
        for column in (self.times, self.values, self.qualities, self.holds):
            del column[count:]
        return more

    def sort(self) -> None:
        """Bring them into the order of their times; a reading that is there twice, time, value and quality, is kept
        once."""
        times = self.times
        if all(map(lt, times, islice(times, 1, None))):
            return
        order = sorted(range(len(times)), key=times.__getitem__)
        kept = Rows()
        for time, places in groupby(order, times.__getitem__):
            together = [(self.values[place], self.qualities[place], self.holds[place]) for place in places]
            last: tuple[float, int] | None = None
            for value, quality, hold in sorted(together):
                if (value, quality) == last:
                    kept.holds[-1] = hold  # in ascending order
                    continue
                last = value, quality
                kept.add(time, value, quality, hold)
        self.times, self.values, self.qualities, self.holds = kept.times, kept.values, kept.qualities, kept.holds

    def move(self, by: int) -> None:
        """Let all of them be so many ms later, but none before 1970."""
        self.times = array("q", (max(time + by, 0) for time in self.times))

    def between(self, since: int, until: int) -> Rows:
        """Those of ``since <= time < until``; they must be sorted."""
        return self._part(bisect_left(self.times, since), bisect_left(self.times, until))

    def before(self, time: int) -> int:
        """How many of them are before a time; they must be sorted."""
        return bisect_left(self.times, time)

    def days(self) -> Iterator[tuple[int, Rows]]:
        """The days in which there are any, each with its readings; they must be sorted."""
        return self.parts(DAY)

    def parts(self, length: int) -> Iterator[tuple[int, Rows]]:
        """The same for other spans of time, of so many ms."""
        place = 0
        while place < len(self):
            number = self.times[place] // length
            end = bisect_left(self.times, (number + 1) * length, place)
            yield number, self._part(place, end)
            place = end

    def pack(self) -> bytes:
        """The bytes of sorted readings of less than 49 days; the first one's time is not in them."""
        return pack(CODES, (self.times, self.values, self.qualities, self.holds))

    @staticmethod
    def unpack(start: int, data: bytes) -> Rows:
        """The readings that were packed.

        :param start: the time of the first one, in ms
        :raises raspy.servers.logger.packing.BadTable: they are none
        """
        rows = Rows()
        rows.times, rows.values, rows.qualities, rows.holds = unpack(CODES, start, data)
        return rows

    def _part(self, begin: int, end: int) -> Rows:
        rows = Rows()
        rows.times, rows.values = self.times[begin:end], self.values[begin:end]
        rows.qualities, rows.holds = self.qualities[begin:end], self.holds[begin:end]
        return rows
