"""What is written: batches, the days that are over, late readings, and a clock that was set right.

The functions take a connection and run on a pool thread, in a transaction.
"""

from __future__ import annotations

import sqlite3

from raspy.servers.logger import events, reading
from raspy.servers.logger.numbers import Names, settle
from raspy.servers.logger.recent import Batch, Segment
from raspy.servers.logger.rows import DAY, OK, Rows
from raspy.servers.logger.schema import SHIFT

CHECKPOINT = 250
"""Pages of the write-ahead log after which they are brought into the file. As many as the log keeps room for
(:data:`~raspy.common.sqlitefile.WAL_LIMIT`): one that has to grow costs the file system's journal some more."""
Refused = list[tuple[str, int]]
"""Keys for whose series there was no room, and how many readings of each."""


def prepare(connection: sqlite3.Connection, items: list[None]) -> list[None]:
    """Open the file."""
    settle(connection)
    return items


def keep(connection: sqlite3.Connection, items: list[Batch]) -> list[Refused]:
    """Write batches."""
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT}")
    return [keep_one(connection, batch) for batch in items]


def keep_one(connection: sqlite3.Connection, batch: Batch, late: bool = False) -> Refused:
    """Write one batch: a row for each series, of each day one more.

    :param late: the units are not those that the keys have from now on, and a series may begin with a reading that is
        not good, of which it is not known whether it is a number
    """
    names = Names(connection)
    clock = _clock(connection, batch.segment)
    days: dict[int, list[tuple[int, int, Rows]]] = {}
    refused: Refused = []
    for (key, unit), rows in batch.rows.items():
        rows = rows.copy()
        rows.sort()
        current = not late and unit == batch.units.get(key)
        name = names.place(key, unit, current)
        number = names.number(name)
        if number is None:
            unit = unit or batch.units.get(key, "")
            if not (late or unit or OK in rows.qualities):
                continue
            number = names.begin(name, unit, rows.times[-1] // DAY)
            if number is None:
                refused.append((key, len(rows)))
                continue
        told = batch.marks.get(key, 0) if current else 0
        for day, part in rows.days():
            days.setdefault(day, []).append((number, told, part))
    for parts in days.values():
        _append(connection, parts, clock)
    if batch.events.events:
        events.keep(connection, batch.events.events, clock)
        if batch.room is not None:
            events.prune(connection, *batch.room)
    return refused


def _append(connection: sqlite3.Connection, parts: list[tuple[int, int, Rows]], clock: int) -> None:
    found: dict[int, tuple[int, Rows]] = {}
    for number, told, rows in parts:
        if number in found:  # of which the unit was not known at first
            told, rows = told or found[number][0], reading.with_loose(found[number][1], rows)
        found[number] = told, rows
    (last,) = connection.execute("SELECT max(id) FROM journal").fetchone()
    batch = ((last or 0) >> SHIFT) + 1
    connection.executemany(
        "INSERT INTO journal (id, start, clock, told, data) VALUES (?, ?, ?, ?, ?)",
        [
            (batch << SHIFT | number, rows.times[0], clock, told, rows.pack())
            for number, (told, rows) in sorted(found.items())
        ],
    )


def _clock(connection: sqlite3.Connection, segment: Segment | None) -> int:
    """The number of a time in which the clock was not known to be right; 0 for any other."""
    if segment is None:
        return 0
    wanted = segment.boot, segment.offset
    found = connection.execute("SELECT id FROM clock WHERE boot = ? AND offset = ?", wanted).fetchone()
    if found:
        return int(found[0])
    return connection.execute("INSERT INTO clock (boot, offset) VALUES (?, ?)", wanted).lastrowid or 0


def set_right(connection: sqlite3.Connection, items: list[Segment]) -> list[int]:
    """The clock of this boot is right now: move what was logged in it before. How many rows of the journal."""
    moved = []
    for right in items:
        count = 0
        for number, offset in connection.execute(
            "SELECT id, offset FROM clock WHERE boot = ?", (right.boot,)
        ).fetchall():
            count += connection.execute(
                "UPDATE journal SET start = max(start + ?, 0), clock = 0 WHERE clock = ?",
                (right.offset - offset, number),
            ).rowcount
            events.set_right(connection, number, right.offset - offset)
        if count:
            # They were moved by a clock that was wrong.
            connection.execute("DELETE FROM sender")
        connection.execute("DELETE FROM clock WHERE boot = ?", (right.boot,))
        moved.append(count)
    return moved
