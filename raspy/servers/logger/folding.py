"""The end of a day: the journal becomes a row for each day and series, with its rollups; what is old goes.

The functions take a connection and run on a pool thread, in a transaction.
"""

from __future__ import annotations

import logging
import sqlite3

from raspy.servers.logger import reading, rollups
from raspy.servers.logger.packing import BadTable
from raspy.servers.logger.rollups import Buckets
from raspy.servers.logger.rows import DAY, Rows
from raspy.servers.logger.schema import LEVELS, MASK, RAW, SHIFT

logger = logging.getLogger("raspy.logger")

AT_ONCE = 20_000
"""Rows of the journal in one transaction, so that a batch has not to wait for all of them."""
PATIENCE = 3
"""Days after which readings whose clock was not known to be right are taken as they are."""


class Fold:
    """What is to be done.

    :param today: the day (since 1970) that is not over: that of the last live reading
    :param boot: this boot; readings made in it while the clock was not known to be right may still be moved
    :param keep: by table, days that are kept
    """

    __slots__ = ("boot", "keep", "today")

    def __init__(self, today: int, boot: str, keep: dict[str, int]) -> None:
        self.today = today
        self.boot = boot
        self.keep = keep


def fold(connection: sqlite3.Connection, items: list[Fold]) -> list[bool]:
    """Do a part; whether there is more to do."""
    return [_fold(connection, item) for item in items]


def _fold(connection: sqlite3.Connection, item: Fold) -> bool:
    waits = {number for (number,) in connection.execute("SELECT id FROM clock WHERE boot = ?", (item.boot,))}
    due: dict[int, list[int]] = {}
    for number, start, clock in connection.execute("SELECT id, start, clock FROM journal"):
        day = start // DAY
        if day != item.today and (clock not in waits or day < item.today - PATIENCE):
            due.setdefault(number & MASK, []).append(number)
    done = 0
    for series in sorted(due):
        if done >= AT_ONCE:
            return True
        _fold_series(connection, series, due[series])
        done += len(due[series])
    for table, count in item.keep.items():
        _prune(connection, table, count, item.today)
    connection.execute("DELETE FROM clock WHERE id NOT IN (SELECT DISTINCT clock FROM journal)")
    connection.execute(
        f"DELETE FROM series WHERE last < (SELECT min(id) >> {SHIFT} FROM days) "  # noqa: S608  ours
        f"AND id NOT IN (SELECT DISTINCT id & {MASK} FROM journal)"
    )
    return False


def _fold_series(connection: sqlite3.Connection, series: int, numbers: list[int]) -> None:
    rows = Rows()
    for number in numbers:
        start, data = connection.execute("SELECT start, data FROM journal WHERE id = ?", (number,)).fetchone()
        try:
            rows.extend(Rows.unpack(start, data))
        except BadTable as error:
            logger.error("history: row %s of journal is given up: %s", number, error)
    rows.sort()
    day = 0
    for day, part in rows.days():
        _put_day(connection, series, day, part)
    connection.executemany("DELETE FROM journal WHERE id = ?", [(number,) for number in numbers])
    connection.execute("UPDATE series SET last = ? WHERE id = ? AND last < ?", (day, series, day))


def _put_day(connection: sqlite3.Connection, series: int, day: int, loose: Rows) -> None:
    """Write readings into their day, and derive it anew."""
    known = reading.raw(connection, series, day)
    rows = reading.with_loose(known, loose)
    assert rows is not None
    fine: Buckets | None = None
    for level in LEVELS:
        fine = rollups.of_rows(rows, level.step) if fine is None else rollups.of_buckets(fine, level.step)
        kept = reading.rollup(connection, level.table, series, day) if known is None else None
        # The single readings of an old day are gone, and its rollups stay.
        whole = rollups.merged(kept, fine, level.step) if kept is not None else fine
        _put(connection, level.table, series, day, whole.starts[0], whole.pack())
        if kept is not None and level is LEVELS[-1]:
            return
    _put(connection, RAW, series, day, rows.times[0], rows.pack())


def _put(connection: sqlite3.Connection, table: str, series: int, day: int, start: int, data: bytes) -> None:
    connection.execute(
        f"INSERT OR REPLACE INTO {table} (id, start, data) VALUES (?, ?, ?)",  # noqa: S608  ours
        (day << SHIFT | series, start, data),
    )


def _prune(connection: sqlite3.Connection, table: str, count: int, today: int) -> None:
    """Keep the last so many days up to today, and as many behind it.

    Days are counted, not compared with the clock: a clock that jumps ahead by years must not cost all that is kept.
    Behind today are those of a clock that was ahead; or today is wrong, and they are all there is.
    """
    for low, high in ((0, today + 1), (today + 1, 1 << 40)):
        first = oldest_kept(connection, table, count, low, high)
        if first is not None:
            connection.execute(
                f"DELETE FROM {table} WHERE id >= ? AND id < ?",  # noqa: S608  ours
                (low << SHIFT, first << SHIFT),
            )


def oldest_kept(connection: sqlite3.Connection, table: str, count: int, low: int, high: int) -> int | None:
    """Of the days from ``low`` to before ``high``, the first of the last ``count``; None when there are fewer."""
    found = connection.execute(
        f"""
        WITH RECURSIVE day(n) AS (
            SELECT (SELECT max(id) FROM {table} WHERE id < :high << {SHIFT}) >> {SHIFT}
            UNION ALL
            SELECT (SELECT max(id) FROM {table} WHERE id < n << {SHIFT}) >> {SHIFT} FROM day WHERE n >= :low
        )
        SELECT n FROM day WHERE n >= :low LIMIT 1 OFFSET :count
        """,  # noqa: S608  ours
        {"low": low, "high": high, "count": count - 1},
    ).fetchone()
    return found[0] if found else None
