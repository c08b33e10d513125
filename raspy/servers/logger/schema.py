"""The file: what is in it, and how a row is found.

``journal``
    What was logged since the last whole day, in the order in which it came: for each batch one row for each series.
    Nothing but its end is ever written, so that a batch costs a card one or two pages.
``raw``, ``minutes``, ``hours``, ``days``
    One row for each day (UTC) and series: all readings, and the rollups of 5 minutes, an hour, a day. Each is written
    once, when the day is over, from the journal, and again when late readings come.
``clock``
    The times in which the clock was not known to be right; rows of the journal refer to them, so that they can be moved
    as soon as it is.
``sender``
    By how much readings of other hosts were moved, so that the same one sent twice is moved to the same time.

Numbers of rows are ``batch * 4096 + series`` and ``day * 4096 + series``: ascending, whatever the clock does, or nearly
so, and a chart reads what belongs to its own series, and no index.
"""

from __future__ import annotations

from raspy.common.database import Schema
from raspy.servers.logger.rows import DAY

SCHEMAS: tuple[Schema, ...] = (
    (
        """CREATE TABLE series (
            id INTEGER PRIMARY KEY CHECK (id BETWEEN 1 AND 4095),
            key TEXT NOT NULL UNIQUE,
            unit TEXT NOT NULL,
            last INTEGER NOT NULL
        )""",
        "CREATE TABLE clock (id INTEGER PRIMARY KEY, boot TEXT NOT NULL, offset INTEGER NOT NULL)",
        "CREATE TABLE sender (id INTEGER PRIMARY KEY, host TEXT NOT NULL, boot TEXT NOT NULL, moved INTEGER NOT NULL)",
        """CREATE TABLE journal (
            id INTEGER PRIMARY KEY,
            start INTEGER NOT NULL,
            clock INTEGER NOT NULL,
            data BLOB NOT NULL
        )""",
        *(
            f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, start INTEGER NOT NULL, data BLOB NOT NULL)"
            for table in ("raw", "minutes", "hours", "days")
        ),
    ),
)
TABLES = ("series", "clock", "sender", "journal", "raw", "minutes", "hours", "days")
SHIFT, MASK = 12, 4095
RAW = "raw"


class Level:
    """A table of rollups.

    :param step: the length of its buckets in ms
    """

    __slots__ = ("step", "table")

    def __init__(self, table: str, step: int) -> None:
        self.table = table
        self.step = step


LEVELS = (Level("minutes", 300_000), Level("hours", 3_600_000), Level("days", DAY))
