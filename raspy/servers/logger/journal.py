"""What is written: batches, the days that are over, late readings, and a clock that was set right.

The functions take a connection and run on a pool thread, in a transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from raspy.servers.logger.recent import MOST_SERIES, Batch, Segment
from raspy.servers.logger.rows import DAY, OK, Rows
from raspy.servers.logger.schema import MASK, SHIFT

CHECKPOINT = 250
"""Pages of the write-ahead log after which they are brought into the file. As many as the log keeps room for
(:data:`~raspy.common.sqlitefile.WAL_LIMIT`): one that has to grow costs the file system's journal some more."""
Refused = list[str]
"""Series for which there was no room."""


def prepare(connection: sqlite3.Connection, items: list[None]) -> list[None]:
    """Open the file."""
    return items


def keep(connection: sqlite3.Connection, items: list[Batch]) -> list[Refused]:
    """Write batches."""
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT}")
    return [keep_one(connection, batch) for batch in items]


def keep_one(connection: sqlite3.Connection, batch: Batch, new: bool = False) -> Refused:
    """Write one batch: a row for each series, of each day one more.

    :param new: a series may begin with a reading that is not good, of which it is not known whether it is a number
    """
    numbers = dict(connection.execute("SELECT key, id FROM series"))
    free: Iterator[int] = iter(())
    if any(key not in numbers for key in batch.rows):
        free = iter(sorted(set(range(1, MOST_SERIES + 1)) - set(numbers.values())))
    clock = _clock(connection, batch.segment)
    days: dict[int, list[tuple[int, Rows]]] = {}
    refused: Refused = []
    for key, rows in batch.rows.items():
        rows = rows.copy()
        rows.sort()
        number = numbers.get(key)
        if number is None:
            if not new and OK not in rows.qualities:
                continue
            number = next(free, None)
            if number is None:
                refused.append(key)
                continue
            connection.execute(
                "INSERT INTO series (id, key, unit, last) VALUES (?, ?, ?, ?)",
                (number, key, batch.units.get(key, ""), rows.times[-1] // DAY),
            )
        elif batch.units.get(key):
            unit = batch.units[key]
            connection.execute("UPDATE series SET unit = ? WHERE id = ? AND unit <> ?", (unit, number, unit))
        for day, part in rows.days():
            days.setdefault(day, []).append((number, part))
    for parts in days.values():
        _append(connection, parts, clock)
    return refused


def _append(connection: sqlite3.Connection, parts: list[tuple[int, Rows]], clock: int) -> None:
    (last,) = connection.execute("SELECT max(id) FROM journal").fetchone()
    batch = ((last or 0) >> SHIFT) + 1
    connection.executemany(
        "INSERT INTO journal (id, start, clock, data) VALUES (?, ?, ?, ?)",
        [(batch << SHIFT | number, rows.times[0], clock, rows.pack()) for number, rows in sorted(parts, key=_number)],
    )


def _number(part: tuple[int, Rows]) -> int:
    return part[0]


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
        if count:
            # They were moved by a clock that was wrong.
            connection.execute("DELETE FROM sender")
        connection.execute("DELETE FROM clock WHERE boot = ?", (right.boot,))
        moved.append(count)
    return moved


def forget(connection: sqlite3.Connection, items: list[str]) -> list[bool]:
    """Delete series with all that was kept of them; whether there was any such."""
    found = []
    for key in items:
        number = connection.execute("SELECT id FROM series WHERE key = ?", (key,)).fetchone()
        if number:
            for table in ("journal", "raw", "minutes", "hours", "days"):
                connection.execute(f"DELETE FROM {table} WHERE id & {MASK} = ?", number)  # noqa: S608  ours
            connection.execute("DELETE FROM series WHERE id = ?", number)
        found.append(number is not None)
    return found
