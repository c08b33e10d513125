"""What is read of one series: the journal, and the days that are over.

The functions take a connection and run on a pool thread.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator

from raspy.servers.logger.packing import BadTable
from raspy.servers.logger.rollups import Buckets
from raspy.servers.logger.rows import DAY, Rows
from raspy.servers.logger.schema import RAW, SHIFT

logger = logging.getLogger("raspy.logger")

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
            logger.error("history: row %s of journal cannot be read: %s", number, error)
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
    """All readings of a day that is over, sorted; None when there are none."""
    found = _blob(connection, RAW, series, day)
    try:
        return Rows.unpack(*found) if found else None
    except BadTable as error:
        _tell(RAW, series, day, error)
        return None


def rollup(connection: sqlite3.Connection, table: str, series: int, day: int) -> Buckets | None:
    """The rollups of a day that is over; None when there are none."""
    found = _blob(connection, table, series, day)
    try:
        return Buckets.unpack(*found) if found else None
    except BadTable as error:
        _tell(table, series, day, error)
        return None


def _tell(table: str, series: int, day: int, error: BadTable) -> None:
    logger.error("history: series %s of day %s in %s cannot be read: %s", series, day, table, error)


def by_day(
    connection: sqlite3.Connection, series: int, loose: Rows, since: int, until: int
) -> Iterator[tuple[int, Rows]]:
    """The readings of ``since <= time < until``, day by day, sorted.

    :param loose: those that are in no day that is over, sorted
    """
    more = dict(loose.days())
    kept = days(connection, RAW, series, since // DAY, until // DAY)
    for day in sorted({*more, *kept}):
        rows = with_loose(raw(connection, series, day), more.get(day))
        if rows is not None:
            yield day, rows.between(since, until)


def with_loose(rows: Rows | None, loose: Rows | None) -> Rows | None:
    """Readings and more of the same day, sorted."""
    if rows is None or loose is None:
        return rows if loose is None else loose
    rows.extend(loose)
    rows.sort()
    return rows
