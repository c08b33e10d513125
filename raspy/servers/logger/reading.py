"""What is read of one series: the journal, and the days that are over.

The functions take a connection and run on a pool thread.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from raspy.servers.logger import rollups
from raspy.servers.logger.packing import BadTable
from raspy.servers.logger.rollups import Buckets
from raspy.servers.logger.rows import DAY, LATEST, Rows
from raspy.servers.logger.schema import IN_PIECES, LEVELS, PIECE, PIECES, PIECES_OF_DAY, RAW, SHIFT

logger = logging.getLogger("raspy.logger")

MOST_OF_PIECE = 200_000
"""Readings of a series in 5 minutes; of more the later ones are given up."""
MOST_NOTES = 20
"""What is told of one job."""

JOURNAL = f"""
    WITH RECURSIVE batch(n) AS (
        SELECT min(id) >> {SHIFT} FROM journal
        UNION ALL SELECT n + 1 FROM batch WHERE n < (SELECT max(id) >> {SHIFT} FROM journal)
    )
    SELECT journal.id, start, data FROM batch CROSS JOIN journal ON journal.id = (n << {SHIFT} | :series)
    WHERE start < :until AND start > :since - {DAY}
"""  # noqa: S608  ours
"""By the numbers that they must have, one after the other: the rows of a series are found without an index."""


def journal(connection: sqlite3.Connection, series: int, since: int, until: int) -> Rows:
    """What the journal has of a series in ``since <= time < until`` (ms); not sorted."""
    found = Rows()
    given = {"series": series, "since": since, "until": until}
    for number, start, data in connection.execute(JOURNAL, given):
        try:
            rows = Rows.unpack(start, data)
        except BadTable as error:
            note(connection, series, f"row {number} of journal that cannot be read ({error})")
            continue
        if rows.times[0] < since or rows.times[-1] >= until:
            rows = rows.between(since, until)
        found.extend(rows)
    return found


def days(connection: sqlite3.Connection, table: str, series: int, first: int, last: int) -> list[int]:
    """The days from ``first`` to ``last`` of which there is a row of a series."""
    # From day to day that is there, not from number to number: a clock that was wrong may have left days far away.
    return [
        day
        for (day,) in connection.execute(
            f"""
            WITH RECURSIVE day(n) AS (
                SELECT (SELECT min(id) FROM {table} WHERE id >= :first << {SHIFT}) >> {SHIFT}
                UNION ALL
                SELECT (SELECT min(id) FROM {table} WHERE id >= (n + 1) << {SHIFT}) >> {SHIFT} FROM day WHERE n < :last
            )
            SELECT n FROM day CROSS JOIN {table} ON {table}.id = (n << {SHIFT} | :series) WHERE n <= :last
            """,  # noqa: S608  ours
            {"series": series, "first": first, "last": last},
        )
    ]


def _blob(connection: sqlite3.Connection, table: str, series: int, day: int) -> tuple[int, bytes] | None:
    found: tuple[int, bytes] | None = connection.execute(
        f"SELECT start, data FROM {table} WHERE id = ?",  # noqa: S608  ours
        (day << SHIFT | series,),
    ).fetchone()
    return found


def raw(connection: sqlite3.Connection, series: int, day: int) -> Rows | None:
    """All readings of a day that is over, sorted; None when there are none, or they are in pieces."""
    found = _blob(connection, RAW, series, day)
    return _unpack(connection, RAW, series, day, Rows, found) if found and found[1] != IN_PIECES else None


def in_pieces(connection: sqlite3.Connection, series: int, day: int) -> bool:
    """Whether the readings of a day are too many for one row."""
    # Without the readings of a day that has none: the length of a column is known before it is read.
    query = "SELECT data FROM raw WHERE id = ? AND length(data) = ?"
    return bool(connection.execute(query, (day << SHIFT | series, len(IN_PIECES))).fetchone() == (IN_PIECES,))


def gone(connection: sqlite3.Connection, series: int, day: int) -> bool:
    """Whether the single readings of a day are no longer there, or cannot be read, and its rollups are there: another
    reading may be one that is counted in them already."""
    if not _blob(connection, LEVELS[-1].table, series, day) or in_pieces(connection, series, day):
        return False
    return raw(connection, series, day) is None


def pieces(connection: sqlite3.Connection, series: int, day: int) -> list[int]:
    """The numbers of the pieces of a day: since 1970, each 5 minutes."""
    first = day * PIECES_OF_DAY
    wanted = "SELECT id FROM pieces WHERE id = ?"
    numbers = range(first, first + PIECES_OF_DAY)
    return [number for number in numbers if connection.execute(wanted, (number << SHIFT | series,)).fetchone()]


def piece(connection: sqlite3.Connection, series: int, number: int) -> tuple[Rows | None, bool]:
    """The readings of a piece, sorted; and whether it is there and cannot be read."""
    found = _blob(connection, PIECES, series, number)
    if found is None:
        return None, False
    rows = _unpack(connection, PIECES, series, number, Rows, found)
    return rows, rows is None


def count_pieces(connection: sqlite3.Connection, series: int, since: int, until: int) -> int:
    """How many pieces there are at most in ``since <= time < until``."""
    return sum(
        (min(until, (day + 1) * DAY) - max(since, day * DAY)) // PIECE + 2
        for day in days(connection, RAW, series, since // DAY, until // DAY)
        if in_pieces(connection, series, day)
    )


def fine_of_pieces(
    connection: sqlite3.Connection,
    series: int,
    day: int,
    loose: Rows,
    put: Callable[[int, Rows], None] | None = None,
) -> Buckets:
    """The finest rollups of a day in pieces, with more readings, sorted; only the pieces are read that these are in.

    :param put: called with each such piece as it is now
    """
    kept = rollup(connection, LEVELS[0].table, series, day)
    if kept is None:
        kept = Buckets()
        for number in pieces(connection, series, day):
            rows, _ = piece(connection, series, number)
            if rows is not None:
                kept.extend(rollups.of_rows(rows, PIECE))
    fresh = Buckets()
    for number, part in loose.parts(PIECE):
        known, unreadable = piece(connection, series, number)
        if unreadable:
            continue  # these may be counted in its rollups already
        rows = with_loose(known, part)
        more = rows.cut(MOST_OF_PIECE)
        if more:
            note(connection, series, f"{more} readings of 5 minutes that had more than {MOST_OF_PIECE}")
        fresh.extend(rollups.of_rows(rows, PIECE))
        if put is not None:
            put(number, rows)
    return rollups.replaced(kept, fresh, PIECE)


def rollup(connection: sqlite3.Connection, table: str, series: int, day: int) -> Buckets | None:
    """The rollups of a day that is over; None when there are none."""
    found = _blob(connection, table, series, day)
    return _unpack(connection, table, series, day, Buckets, found) if found else None


Packed = TypeVar("Packed", Rows, Buckets)


def _unpack(
    connection: sqlite3.Connection, table: str, series: int, number: int, kind: type[Packed], found: tuple[int, bytes]
) -> Packed | None:
    try:
        return kind.unpack(*found)
    except BadTable as error:
        note(connection, series, f"a row of {table} from {_date(found[0])} that cannot be read ({error})")
        return None


def _key(connection: sqlite3.Connection, series: int) -> str:
    found = connection.execute("SELECT key FROM series WHERE id = ?", (series,)).fetchone()
    return found[0] if found else f"series {series}"


def _date(start: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(start / 1000)) if 0 <= start < LATEST else "an unknown day"


class _Notes(threading.local):
    """What a job came across on its thread."""

    def __init__(self) -> None:
        self.found: list[str] = []


_notes = _Notes()


def note(connection: sqlite3.Connection, series: int, what: str) -> None:
    """Remember what is missing of a series."""
    problem = f"{_key(connection, series)}: {what}"
    if problem not in _notes.found and len(_notes.found) < MOST_NOTES:
        _notes.found.append(problem)
        logger.error("history: missing: %s", problem)


def noted() -> list[str]:
    """What is missing of all that was read on this thread since the last time."""
    found, _notes.found = _notes.found, []
    return found


def by_day(connection: sqlite3.Connection, series: int, loose: Rows, since: int, until: int) -> Iterator[Rows]:
    """The readings of ``since <= time < until``, day by day or in shorter pieces, sorted.

    :param loose: those that are in no day that is over, sorted
    """
    more = dict(loose.days())
    kept = days(connection, RAW, series, since // DAY, until // DAY)
    for day in sorted({*more, *kept}):
        if in_pieces(connection, series, day):
            parts = dict(more[day].parts(PIECE)) if day in more else {}
            numbers = (n for n in pieces(connection, series, day) if since // PIECE <= n <= until // PIECE)
            for number in sorted({*parts, *numbers}):
                rows, _ = piece(connection, series, number)
                yield with_loose(rows, parts.get(number)).between(since, until)
        else:
            yield with_loose(raw(connection, series, day), more.get(day)).between(since, until)


def with_loose(rows: Rows | None, loose: Rows | None) -> Rows:
    """Readings and more of the same time, sorted."""
    if rows is None or loose is None:
        return rows or loose or Rows()
    rows.extend(loose)
    rows.sort()
    return rows
