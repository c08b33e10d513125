"""What is not on the disk yet."""

from __future__ import annotations

from raspy.servers.logger.rows import OK, Rows

MOST_ROWS = 100_000
"""Readings that wait for the disk at most, besides those of a commit that is under way; some 2 MB. Then the older half
of them is given up."""
MOST_SERIES = 4095
"""Series that there can be."""


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

    __slots__ = ("rows", "segment", "units")

    def __init__(self, segment: Segment | None = None) -> None:
        self.rows: dict[str, Rows] = {}
        self.units: dict[str, str] = {}
        self.segment = segment

    def add(self, key: str, unit: str, time: int, value: float, quality: int, hold: int) -> None:
        """Add a reading (see :class:`~raspy.servers.logger.rows.Rows`)."""
        rows = self.rows.get(key)
        if rows is None:
            rows = self.rows[key] = Rows()
        rows.add(time, value, quality, hold)
        if unit or key not in self.units:
            self.units[key] = unit


class Recent:
    """The readings since the last batch, and those of batches that the disk works on."""

    def __init__(self) -> None:
        self.gathering = Batch()
        self.count = 0
        """Readings that are gathered."""
        self.lost = 0
        """Readings that were given up."""
        self.flying: list[Batch] = []
        """Batches that were given to the disk."""

    def add(self, key: str, unit: str, time: int, value: float, quality: int, hold: int) -> bool:
        """Add a reading; whether there was room for its series."""
        if key not in self.gathering.rows and len(self.gathering.rows) >= MOST_SERIES:
            return False
        if self.count >= MOST_ROWS:
            self._give_up()
        self.gathering.add(key, unit, time, value, quality, hold)
        self.count += 1
        return True

    def take(self, segment: Segment | None) -> Batch | None:
        """A batch for the disk; None when there is nothing."""
        batch = self.gathering
        self.gathering = Batch()
        self.count = 0
        if not batch.rows:
            return None
        batch.segment = segment
        self.flying.append(batch)
        return batch

    def landed(self, batch: Batch) -> None:
        """A batch is on the disk."""
        self.flying.remove(batch)

    def of(self, key: str) -> Rows:
        """A copy of what there is of a series."""
        found = Rows()
        for batch in (*self.flying, self.gathering):
            if key in batch.rows:
                found.extend(batch.rows[key])
        return found

    def units(self) -> dict[str, str]:
        """The series that there is anything of, with their units."""
        return {key: unit for batch in (*self.flying, self.gathering) for key, unit in batch.units.items()}

    def good(self) -> dict[str, str]:
        """Those of them of which there is a number."""
        batches = (*self.flying, self.gathering)
        return {
            key: batch.units.get(key, "")
            for batch in batches
            for key, rows in batch.rows.items()
            if OK in rows.qualities
        }

    def forget(self, key: str) -> None:
        """Let go of what is gathered of a series."""
        rows = self.gathering.rows.pop(key, None)
        self.gathering.units.pop(key, None)
        self.count -= len(rows) if rows is not None else 0

    def _give_up(self) -> None:
        """Keep the later half of each series."""
        for rows in self.gathering.rows.values():
            dropped = (len(rows) + 1) // 2
            rows.drop(dropped)
            self.lost += dropped
            self.count -= dropped
        self.gathering.rows = {key: rows for key, rows in self.gathering.rows.items() if len(rows)}
