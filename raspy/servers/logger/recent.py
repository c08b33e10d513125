"""What is not on the disk yet."""

from __future__ import annotations

from collections.abc import Iterator

from raspy.servers.logger.events import Event, Gathered
from raspy.servers.logger.rows import OK, Rows

MOST_ROWS = 100_000
"""Readings that wait for the disk at most, besides those of a commit that is under way; some 2 MB. Then the older half
of them is given up."""
MOST_SERIES = 4095
"""Series that there can be."""


def named(key: str, unit: str) -> str:
    """What the series of a key goes by once the key has another unit."""
    return f"({unit}) {key}"


class Segment:
    """A time in which the clock was not known to be right, and was not set.

    :param boot: the boot
    :param offset: what the wall clock said when the machine started, as it went then, in ms
    """

    __slots__ = ("boot", "offset")

    def __init__(self, boot: str, offset: int) -> None:
        self.boot = boot
        self.offset = offset


class Batch:
    """Readings that are written together.

    :param segment: while which they were made; None: the clock was right
    """

    __slots__ = ("events", "marks", "room", "rows", "segment", "units")

    def __init__(self, segment: Segment | None = None) -> None:
        self.rows: dict[tuple[str, str], Rows] = {}
        """By key and unit."""
        self.units: dict[str, str] = {}
        """By key, the unit of the last one of which it is known."""
        self.marks: dict[str, int] = {}
        """By key, what tells the last one from others."""
        self.events = Gathered()
        self.room: tuple[int, int] | None = None
        """How many events there may be in the file, and of how many days; None: it is not looked at."""
        self.segment = segment

    def add(self, key: str, unit: str, time: int, value: float, quality: int, hold: int) -> None:
        """Add a reading (see :class:`~raspy.servers.logger.rows.Rows`).

        :param unit: empty: not known, it is that which the key has
        """
        if unit or key not in self.units:
            self.units[key] = unit
        rows = self.rows.get((key, unit))
        if rows is None:
            rows = self.rows[key, unit] = Rows()
        rows.add(time, value, quality, hold)

    def __len__(self) -> int:
        """How many readings."""
        return sum(map(len, self.rows.values()))


class Recent:
    """The readings and events since the last batch, and those of batches that the disk works on."""

    def __init__(self) -> None:
        self.gathering = Batch()
        self.count = 0
        """Readings that are gathered."""
        self.lost = 0
        """Readings that were given up."""
        self.flying: list[Batch] = []
        """Batches that were given to the disk."""
        self.marks: dict[str, int] = {}
        """By key, what tells the last reading from others."""

    def seen(self, key: str, mark: int) -> bool:
        """Whether a reading is the last one of its key once more; if not, it is the last one now."""
        if self.marks.get(key) == mark:
            return True
        if key in self.marks or len(self.marks) < MOST_SERIES:
            self.marks[key] = self.gathering.marks[key] = mark
        return False

    def add(self, key: str, unit: str, time: int, value: float, quality: int, hold: int) -> bool:
        """Add a reading; whether there was room for its series."""
        batch = self.gathering
        unit = unit or batch.units.get(key, "")
        if len(batch.rows) >= MOST_SERIES and (key, unit) not in batch.rows:
            return False
        if self.count >= MOST_ROWS:
            self._give_up()
        batch.add(key, unit, time, value, quality, hold)
        self.count += 1
        return True

    def take(self, segment: Segment | None) -> Batch | None:
        """A batch for the disk; None when there is nothing."""
        batch = self.gathering
        self.gathering = Batch()
        self.count = 0
        if not batch.rows and not batch.events.events:
            return None
        batch.segment = segment
        self.flying.append(batch)
        return batch

    def landed(self, batch: Batch) -> None:
        """A batch is on the disk."""
        self.flying.remove(batch)

    def move(self, by: int) -> None:
        """The clock was set: what is gathered was so many ms later."""
        for rows in self.gathering.rows.values():
            rows.move(by)
        self.gathering.events.move(by)

    def of(self, name: str) -> Rows:
        """A copy of what there is of a series."""
        found = Rows()
        units = self.units()
        for batch in self._batches():
            for (key, unit), rows in batch.rows.items():
                if name.endswith(key) and name == (named(key, unit) if unit and unit != units.get(key) else key):
                    found.extend(rows)
        return found

    def units(self) -> dict[str, str]:
        """The keys that there is anything of, with their units."""
        found: dict[str, str] = {}
        for batch in self._batches():
            found.update((key, unit) for key, unit in batch.units.items() if unit or key not in found)
        return found

    def begun(self) -> dict[str, str]:
        """Those of them of which there is, or will be, a series."""
        units = self.units()
        good = {key for batch in self._batches() for (key, _), rows in batch.rows.items() if OK in rows.qualities}
        return {key: unit for key, unit in units.items() if unit or key in good}

    def events(self) -> list[Event]:
        """Copies of the events, in the order in which they came."""
        return [event.copy() for batch in self._batches() for event in batch.events.events]

    def forget(self, name: str) -> None:
        """Let go of what is gathered of a series."""
        batch = self.gathering
        for key, unit in list(batch.rows):
            former = unit and unit != batch.units.get(key)
            if name == (named(key, unit) if former else key):
                self.count -= len(batch.rows.pop((key, unit)))
                if not former:
                    batch.marks.pop(key, None)
        batch.units = {key: unit for key, unit in batch.units.items() if key != name}

    def _batches(self) -> Iterator[Batch]:
        yield from self.flying
        yield self.gathering

    def _give_up(self) -> None:
        """Keep the later half."""
        batch = self.gathering
        times = sorted(time for rows in batch.rows.values() for time in rows.times)
        first = times[len(times) // 2]
        if first == times[0]:
            first += 1
        for rows in batch.rows.values():
            rows.sort()
            dropped = rows.before(first)
            rows.drop(dropped)
        batch.rows = {group: rows for group, rows in batch.rows.items() if len(rows)}
        self.lost += self.count - len(batch)
        self.count = len(batch)
