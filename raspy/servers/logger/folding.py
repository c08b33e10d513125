"""The end of a day: the journal becomes a row for each day and series, with its rollups; what is old goes.

The functions take a connection and run on a pool thread, in a transaction.
"""

from __future__ import annotations

import sqlite3

from raspy.servers.logger import reading, rollups
from raspy.servers.logger.numbers import settle
from raspy.servers.logger.packing import BadTable
from raspy.servers.logger.rollups import Buckets
from raspy.servers.logger.rows import DAY, Rows
from raspy.servers.logger.schema import IN_PIECES, LEVELS, MASK, PIECES, PIECES_OF_DAY, RAW, SHIFT

AT_ONCE = 20_000
"""Rows of the journal in one transaction, so that a batch has not to wait for all of them."""
READINGS_AT_ONCE = 200_000
"""Readings likewise."""
MOST_OF_DAY = 50_000
"""Readings of a series that are in one row; those of a day that has more are kept in pieces. As many are in memory."""
HEAVY = 200_000
"""Bytes of a series in the journal after which they are put into their day before it is over."""
MOST_WAITING = 2 * HEAVY
"""Bytes of a series in the journal that wait for the clock."""
PATIENCE = 3 * DAY
"""ms of this boot after which readings whose clock was not known to be right are taken as they are."""


class Fold:
    """What is to be done.

    :param today: the day (since 1970) that is not over: that of the last live reading
    :param boot: this boot; readings made in it while the clock was not known to be right may still be moved
    :param since: ms since this boot began
    :param right: whether the clock is known to be right
    :param keep: by table, days that are kept
    """

    __slots__ = ("boot", "keep", "right", "since", "today")

    def __init__(self, today: int, boot: str, since: int, right: bool, keep: dict[str, int]) -> None:
        self.today = today
        self.boot = boot
        self.since = since
        self.right = right
        self.keep = keep


def fold(connection: sqlite3.Connection, items: list[Fold]) -> list[tuple[bool, list[str]]]:
    """Do a part; whether there is more to do, and what of it could not be kept."""
    return [(_fold(connection, item), reading.noted()) for item in items]


def _fold(connection: sqlite3.Connection, item: Fold) -> bool:
    settle(connection)
    rows = readings = 0
    for series, numbers in sorted(_due(connection, item).items()):
        place = 0
        while place < len(numbers):
            if rows >= AT_ONCE or readings >= READINGS_AT_ONCE:
                return True
            count, size = _fold_some(connection, series, numbers[place : place + AT_ONCE])
            place += count
            rows += count
            readings += size
    _prune(connection, item)
    # What is of another boot will never be moved.
    _forget_clocks(connection, item.boot)
    _drop_series(connection)
    return False


def _forget_clocks(connection: sqlite3.Connection, boot: str) -> None:
    others = "SELECT id FROM clock WHERE boot <> ?"
    connection.execute(f"UPDATE event SET clock = 0 WHERE clock <> 0 AND clock IN ({others})", (boot,))  # noqa: S608
    connection.execute(
        "DELETE FROM clock WHERE id NOT IN (SELECT DISTINCT clock FROM journal) "
        "AND id NOT IN (SELECT DISTINCT clock FROM event WHERE clock <> 0)"
    )


def _due(connection: sqlite3.Connection, item: Fold) -> dict[int, list[int]]:
    """By series, the rows of the journal that are to be put into their days."""
    waits = dict(connection.execute("SELECT id, offset FROM clock WHERE boot = ?", (item.boot,)))
    due: dict[int, list[int]] = {}
    later: dict[tuple[int, int], list[int]] = {}
    sizes: dict[tuple[int, int], int] = {}
    made = 0
    query = "SELECT id, start, clock, length(data) FROM journal ORDER BY id"
    for number, start, clock, size in connection.execute(query):
        series, most = number & MASK, 0
        if clock in waits:
            # Late readings were made before they came, so that no row is older than one before it.
            made = max(made, start - waits[clock])
            most = MOST_WAITING if item.since - made <= PATIENCE else 0
        elif start // DAY == item.today:
            most = HEAVY
        if most:
            later.setdefault((series, most), []).append(number)
            sizes[series, most] = sizes.get((series, most), 0) + size
        else:
            due.setdefault(series, []).append(number)
    for (series, most), size in sizes.items():
        if size > most:
            due.setdefault(series, []).extend(later[series, most])
    return due


def _fold_some(connection: sqlite3.Connection, series: int, numbers: list[int]) -> tuple[int, int]:
    """Put the first rows into their days: how many rows, and readings."""
    rows = Rows()
    count = last = 0
    for number in numbers:
        start, told, data = connection.execute(
            "SELECT start, told, data FROM journal WHERE id = ?", (number,)
        ).fetchone()
        try:
            rows.extend(Rows.unpack(start, data))
        except BadTable as error:
            reading.note(connection, series, f"row {number} of journal that cannot be read ({error})")
        last = told or last
        count += 1
        if len(rows) >= MOST_OF_DAY:
            break
    rows.sort()
    day = 0
    for day, part in rows.days():
        _put_day(connection, series, day, part)
    connection.executemany("DELETE FROM journal WHERE id = ?", [(number,) for number in numbers[:count]])
    connection.execute("UPDATE series SET last = ? WHERE id = ? AND last < ?", (day, series, day))
    if last:
        connection.execute("UPDATE series SET told = ? WHERE id = ?", (last, series))
    return count, len(rows)


def _put_day(connection: sqlite3.Connection, series: int, day: int, loose: Rows) -> None:
    """Write readings into their day, and derive it anew."""
    if reading.gone(connection, series, day):
        _merge(connection, series, day, loose)
        return
    rows = reading.raw(connection, series, day)
    if reading.in_pieces(connection, series, day) or len(loose) + len(rows or ()) > MOST_OF_DAY:
        _put_pieces(connection, series, day, reading.with_loose(rows, loose))
        return
    rows = reading.with_loose(rows, loose)
    _put_levels(connection, series, day, rollups.of_rows(rows, LEVELS[0].step))
    _put(connection, RAW, series, day, rows.times[0], rows.pack())


def _merge(connection: sqlite3.Connection, series: int, day: int, loose: Rows) -> None:
    """Add to the rollups of a day of which there are no single readings."""
    for level in LEVELS:
        more = rollups.of_rows(loose, level.step)
        kept = reading.rollup(connection, level.table, series, day)
        whole = rollups.merged(kept, more, level.step) if kept is not None else more
        _put(connection, level.table, series, day, whole.starts[0], whole.pack())


def _put_pieces(connection: sqlite3.Connection, series: int, day: int, loose: Rows) -> None:
    """Write readings of a day that has too many for one row: only the pieces that they are in."""

    def put(number: int, rows: Rows) -> None:
        _put(connection, PIECES, series, number, rows.times[0], rows.pack())

    fine = reading.fine_of_pieces(connection, series, day, loose, put)
    if len(fine):
        _put_levels(connection, series, day, fine)
    _put(connection, RAW, series, day, day * DAY, IN_PIECES)


def _put_levels(connection: sqlite3.Connection, series: int, day: int, fine: Buckets) -> None:
    for level in LEVELS:
        if level is not LEVELS[0]:
            fine = rollups.of_buckets(fine, level.step)
        _put(connection, level.table, series, day, fine.starts[0], fine.pack())


def _put(connection: sqlite3.Connection, table: str, series: int, day: int, start: int, data: bytes) -> None:
    connection.execute(
        f"INSERT OR REPLACE INTO {table} (id, start, data) VALUES (?, ?, ?)",  # noqa: S608  ours
        (day << SHIFT | series, start, data),
    )


def _prune(connection: sqlite3.Connection, item: Fold) -> None:
    """Keep the last so many days up to today, and as many behind it.

    Days are counted, not compared with the clock: a clock that jumps ahead by years must not cost all that is kept.
    Behind today are those of a clock that was ahead; or today is wrong, and they are all there is. So they go once as
    many days were logged since by a clock that is right.
    """
    if item.right:
        _count_ahead(connection, item.today)
    ahead = connection.execute("SELECT id, seen FROM ahead").fetchall()
    for table, count in item.keep.items():
        length = PIECES_OF_DAY if table == PIECES else 1
        spans = [(day, day + 1) for day, seen in ahead if seen >= count]
        for low, high in ((0, item.today + 1), (item.today + 1, 1 << 40)):
            first = oldest_kept(connection, count, low, high)
            if first is not None:
                spans.append((low, first))
        for low, high in spans:
            connection.execute(
                f"DELETE FROM {table} WHERE id >= ? AND id < ?",  # noqa: S608  ours
                (low * length << SHIFT, high * length << SHIFT),
            )


def _count_ahead(connection: sqlite3.Connection, today: int) -> None:
    """Count, for each day behind today, the days that are logged while it is there."""
    there = f"SELECT DISTINCT id >> {SHIFT} FROM days WHERE id >= ?"  # noqa: S608  ours
    days = connection.execute(there, (today + 2 << SHIFT,)).fetchall()
    found = dict(connection.execute("SELECT id, today FROM ahead"))
    if {day for (day,) in days} == found.keys() and set(found.values()) <= {today}:
        return
    put = "INSERT OR IGNORE INTO ahead (id, seen, today) VALUES (?, 0, ?)"
    connection.executemany(put, [(day, today) for (day,) in days])
    connection.execute("UPDATE ahead SET seen = seen + 1, today = ? WHERE today <> ?", (today, today))
    connection.executemany("DELETE FROM ahead WHERE id = ?", [(day,) for day in found if (day,) not in set(days)])


def _drop_series(connection: sqlite3.Connection) -> None:
    """Forget the series of which nothing is left in any table."""
    first = [
        connection.execute(f"SELECT min(id) >> {SHIFT} FROM {table}").fetchone()[0]  # noqa: S608  ours
        for table in (RAW, *(level.table for level in LEVELS))
    ]
    query = f"SELECT (min(id) >> {SHIFT}) / {PIECES_OF_DAY} FROM pieces"  # noqa: S608  ours
    there = [day for day in (*first, connection.execute(query).fetchone()[0]) if day is not None]
    if there:
        query = f"DELETE FROM series WHERE last < ? AND id NOT IN (SELECT DISTINCT id & {MASK} FROM journal)"  # noqa: S608
        connection.execute(query, (min(there),))
        connection.execute("DELETE FROM name WHERE id NOT IN (SELECT id FROM series)")


def oldest_kept(connection: sqlite3.Connection, count: int, low: int, high: int) -> int | None:
    """Of the days from ``low`` to before ``high`` in which something was logged, the first of the last ``count``; None
    when there are fewer."""
    found = connection.execute(
        f"""
        WITH RECURSIVE day(n) AS (
            SELECT (SELECT max(id) FROM days WHERE id < :high << {SHIFT}) >> {SHIFT}
            UNION ALL
            SELECT (SELECT max(id) FROM days WHERE id < n << {SHIFT}) >> {SHIFT} FROM day WHERE n >= :low
        )
        SELECT n FROM day WHERE n >= :low LIMIT 1 OFFSET :count
        """,  # noqa: S608  ours
        {"low": low, "high": high, "count": count - 1},
    ).fetchone()
    return found[0] if found else None
