"""What is asked: points of a chart, and every reading page by page.

The functions take a connection and run on a pool thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

from raspy.servers.logger import reading, rollups
from raspy.servers.logger.recent import named
from raspy.servers.logger.rollups import Buckets
from raspy.servers.logger.rows import DAY, OK, QUALITIES, Rows
from raspy.servers.logger.schema import LEVELS, RAW, Level

SECOND = 1000
STEPS = tuple(
    SECOND * seconds
    for seconds in (
        *(1, 2, 5, 10, 15, 30, 60, 120),
        *(300, 600, 900, 1800),
        *(3600, 7200, 10_800, 14_400, 21_600, 43_200),
        *(86_400 * days for days in (1, 2, 4, 7, 14, 28, 56, 112, 365, 730)),
    )
)
"""Lengths of the buckets of a chart: multiples of those of the level that it is made from."""
MOST_POINTS = 2000
MOST_ROWS = 10_000
MOST_PIECES = 24
"""Pieces of days with very many readings that a chart is made from; of more, from their rollups."""
GAP = "gap"
Point = tuple[float, float | None, float | None, float | None, int, int, str]
"""When (Unix time, s), mean, minimum, maximum, good readings, bad readings, worst quality. ``gap``: from here on there
is nothing, up to the next point."""


class Wanted:
    """A part of a series.

    :param key: its name
    :param since: Unix time in ms
    :param until: the end, which belongs to it
    :param count: points or rows at most
    :param recent: what is not on the disk yet
    :param now: Unix time in ms
    :param unit: that of what is not on the disk yet
    :param skip: how many of the first ones, all of the time ``since``, are not wanted
    """

    __slots__ = ("count", "end", "key", "recent", "since", "skip", "unit", "until")

    def __init__(
        self, key: str, since: int, until: int, count: int, recent: Rows, now: int = 0, unit: str = "", skip: int = 0
    ) -> None:
        self.key = key
        self.since = since
        self.until = until
        self.count = count
        self.recent = recent
        self.unit = unit
        self.skip = skip
        self.end = min(until + 1, now)
        """Up to when there should be something."""


def find(connection: sqlite3.Connection, wanted: Wanted) -> tuple[int, str] | None:
    """Number and unit of a series; number 0 when nothing of it is on the disk; None when there is nothing at all."""
    wanted_row = "SELECT id, unit FROM series WHERE key = ?"
    found: tuple[int, str] | None = connection.execute(wanted_row, (wanted.key,)).fetchone()
    if found is not None and wanted.unit and found[1] and found[1] != wanted.unit:
        # That of another unit, which will go by another name once what is not on the disk yet is.
        found = connection.execute(wanted_row, (named(wanted.key, wanted.unit),)).fetchone() or (0, wanted.unit)
    if found is None and not (OK in wanted.recent.qualities or (wanted.unit and len(wanted.recent))):
        return None
    number, unit = found or (0, "")
    return number, wanted.unit or unit


def chart(connection: sqlite3.Connection, wanted: Wanted) -> dict[str, Any] | None:
    """A chart of at most so many points; None when there is no such series."""
    found = find(connection, wanted)
    if found is None:
        return None
    series, unit = found
    step = fitting_step(wanted.until - wanted.since, wanted.count)
    level = next((level for level in reversed(LEVELS) if level.step <= step), None)
    level = _reaching(connection, series, wanted, level)
    if level is None and reading.count_pieces(connection, series, wanted.since, wanted.until) > MOST_PIECES:
        level = LEVELS[0]
    if level is None:
        step, points = _fine_points(connection, series, wanted, step)
    else:
        step = max(step, level.step)
        buckets = rollups.of_buckets(_stored(connection, level, series, wanted, step), step)
        points = list(_bucket_points(buckets, step, wanted.end))
    return {
        "key": wanted.key,
        "unit": unit,
        "since": wanted.since / SECOND,
        "until": wanted.until / SECOND,
        "level": level.step / SECOND if level else 0,
        "step": step / SECOND,
        "points": points,
    }


def _fine_points(connection: sqlite3.Connection, series: int, wanted: Wanted, step: int) -> tuple[int, list[Point]]:
    """The points that are made of single readings: each is one, and the length of a bucket is 0, if they are few."""
    since = wanted.since // step * step
    loose = _loose(connection, series, wanted, since, wanted.until + 1)
    exact: Rows | None = Rows()
    buckets = Buckets()
    for rows in reading.by_day(connection, series, loose, since, wanted.until + 1):
        buckets.extend(rollups.of_rows(rows, step))
        if exact is not None:
            exact.extend(rows.between(wanted.since, wanted.until + 1))
            exact = exact if len(exact) <= wanted.count else None
    if exact is not None:
        points = list(_row_points(exact, wanted.end))
        if len(points) <= wanted.count:
            return 0, points
    return step, list(_bucket_points(rollups.of_buckets(buckets, step), step, wanted.end))


def fitting_step(span: int, points: int) -> int:
    """The shortest length of buckets, in ms, of which so many cover a span and the edges of it."""
    wanted = next((step for step in STEPS if span // step + 2 <= points), None)
    if wanted is None:
        wanted = -(-span // max(points - 2, 1) // STEPS[-1]) * STEPS[-1]
    return wanted


def _reaching(connection: sqlite3.Connection, series: int, wanted: Wanted, level: Level | None) -> Level | None:
    """The first level from the wanted one on of which no day is gone that a coarser one still has."""
    place = 0 if level is None else LEVELS.index(level) + 1
    tables = [RAW, *(each.table for each in LEVELS)]
    span = wanted.since // DAY, wanted.until // DAY
    kept = len(reading.days(connection, tables[place], series, *span))
    for other in range(place + 1, len(tables)):
        more = len(reading.days(connection, tables[other], series, *span))
        if more > kept:
            place, kept = other, more
    return LEVELS[place - 1] if place else None


def _loose(connection: sqlite3.Connection, series: int, wanted: Wanted, since: int, until: int) -> Rows:
    """What is in no day that is over, sorted."""
    loose = reading.journal(connection, series, since, until)
    loose.extend(wanted.recent)
    loose.sort()
    return loose.between(since, until)


def _stored(connection: sqlite3.Connection, level: Level, series: int, wanted: Wanted, step: int) -> Buckets:
    """The buckets of a level; days of which anything is loose are derived again."""
    since, until = wanted.since // step * step, wanted.until + 1
    more = dict(_loose(connection, series, wanted, since // DAY * DAY, until // DAY * DAY + DAY).days())
    found = Buckets()
    for day in sorted({*more, *reading.days(connection, level.table, series, since // DAY, until // DAY)}):
        if day in more:
            buckets: Buckets | None = _of_day(connection, level, series, day, more[day])
        else:
            buckets = reading.rollup(connection, level.table, series, day)
        if buckets is not None:
            begin = day * DAY
            found.extend(buckets if since <= begin and begin + DAY <= until else buckets.between(since, until))
    return found


def _of_day(connection: sqlite3.Connection, level: Level, series: int, day: int, loose: Rows) -> Buckets:
    """The buckets of a day, with what is loose of it."""
    if reading.in_pieces(connection, series, day):
        return rollups.of_buckets(reading.fine_of_pieces(connection, series, day, loose), level.step)
    if not reading.gone(connection, series, day):
        return rollups.of_rows(reading.with_loose(reading.raw(connection, series, day), loose), level.step)
    kept = reading.rollup(connection, level.table, series, day)
    more = rollups.of_rows(loose, level.step)
    return rollups.merged(kept, more, level.step) if kept is not None else more


def _row_points(rows: Rows, end: int) -> Iterator[Point]:
    """A point for each reading, and one for each gap."""
    last = len(rows) - 1
    for place, time in enumerate(rows.times):
        quality = rows.qualities[place]
        if quality == OK:
            value = rows.values[place]
            yield time / SECOND, value, value, value, 1, 0, QUALITIES[OK]
        else:
            yield time / SECOND, None, None, None, 0, 1, QUALITIES[quality]
        stands = time + rows.holds[place] * SECOND
        if stands < (rows.times[place + 1] if place < last else end):
            yield stands / SECOND, None, None, None, 0, 0, GAP


def _bucket_points(buckets: Buckets, step: int, end: int) -> Iterator[Point]:
    last = len(buckets) - 1
    for place, start in enumerate(buckets.starts):
        good, bad, worst = buckets.counts[place], buckets.bads[place], QUALITIES[buckets.worsts[place]]
        if good:
            yield (
                start / SECOND, buckets.means[place], buckets.lows[place], buckets.highs[place], good, bad, worst
            )  # fmt: skip
        else:
            yield start / SECOND, None, None, None, 0, bad, worst
        stands = start + step + buckets.holds[place] * SECOND
        if stands < (buckets.starts[place + 1] if place < last else end):
            yield (start + step) / SECOND, None, None, None, 0, 0, GAP


def page(connection: sqlite3.Connection, wanted: Wanted) -> dict[str, Any] | None:
    """The first so many readings, and when the next one is; None when there is no such series."""
    found = find(connection, wanted)
    if found is None:
        return None
    series, unit = found
    loose = _loose(connection, series, wanted, wanted.since, wanted.until + 1)
    rows = Rows()
    for part in reading.by_day(connection, series, loose, wanted.since, wanted.until + 1):
        rows.extend(part)
        if len(rows) > wanted.skip + wanted.count:
            break
    begin = min(wanted.skip, rows.before(wanted.since + 1))
    end = min(begin + wanted.count, len(rows))
    following = rows.times[end] if end < len(rows) else None
    return {
        "key": wanted.key,
        "unit": unit,
        "rows": [
            (time / SECOND, value if quality == OK else None, QUALITIES[quality])
            for time, value, quality, _ in zip(
                *(column[begin:end] for column in (rows.times, rows.values, rows.qualities, rows.holds)), strict=True
            )
        ],
        "next": None if following is None else following / SECOND,
        "skip": 0 if following is None else end - rows.before(following),
    }


def everything(connection: sqlite3.Connection) -> dict[str, str]:
    """All series with their units."""
    return dict(connection.execute("SELECT key, unit FROM series ORDER BY key"))
