"""The file: what is in it, and how a row is found.

``journal``
    What was logged since the last whole day, in the order in which it came: for each batch one row for each series.
    Nothing but its end is ever written, so that a batch costs a card one or two pages.
``raw``, ``minutes``, ``hours``, ``days``
    One row for each day (UTC) and series: all readings, and the rollups of 5 minutes, an hour, a day. Each is written
    once, when the day is over, from the journal, and again when late readings come.
``pieces``
    The readings of days that have too many for one row: one row for each 5 minutes and series. ``raw`` says so
    (:data:`IN_PIECES`).
``series``, ``name``
    The keys of the numbers, twice: these rows are in other pages, so that a damaged one costs no series its name.
``checked``
    Has a row once it is known that each number in the file belongs to a series; a file that was saved from a damaged
    one has none.
``ahead``
    Days that lie ahead of the clock, and how many days were logged since.
``clock``
    The times in which the clock was not known to be right; rows of the journal refer to them, so that they can be moved
    as soon as it is.
``event``
    What happened: one row for each event, in the order in which they came. ``about`` is the key of the tree that it
    is about, ``left_out`` how many of its name came before it in its batch and are not there.
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
    (
        # Not added behind the data: what is behind a long column is read only with all of it.
        "ALTER TABLE journal RENAME TO journal_1",
        """CREATE TABLE journal (
            id INTEGER PRIMARY KEY,
            start INTEGER NOT NULL,
            clock INTEGER NOT NULL,
            told INTEGER NOT NULL DEFAULT 0,
            data BLOB NOT NULL
        )""",
        "INSERT INTO journal (id, start, clock, data) SELECT id, start, clock, data FROM journal_1",
        "DROP TABLE journal_1",
        "ALTER TABLE series ADD COLUMN told INTEGER NOT NULL DEFAULT 0",
        "CREATE TABLE name (id INTEGER PRIMARY KEY, key TEXT NOT NULL, unit TEXT NOT NULL)",
        "CREATE TABLE checked (id INTEGER PRIMARY KEY)",
        "CREATE TABLE pieces (id INTEGER PRIMARY KEY, start INTEGER NOT NULL, data BLOB NOT NULL)",
        "CREATE TABLE ahead (id INTEGER PRIMARY KEY, seen INTEGER NOT NULL, today INTEGER NOT NULL)",
    ),
    (
        """CREATE TABLE event (
            id INTEGER PRIMARY KEY,
            time INTEGER NOT NULL,
            clock INTEGER NOT NULL,
            kind TEXT NOT NULL,
            name TEXT NOT NULL,
            about TEXT NOT NULL,
            left_out INTEGER NOT NULL,
            body TEXT NOT NULL
        )""",
        "CREATE INDEX event_time ON event (time)",
        "CREATE INDEX event_clock ON event (clock) WHERE clock <> 0",
    ),
)
TABLES = ("series", "name", "clock", "sender", "journal", "raw", "pieces", "minutes", "hours", "days", "event")
"""What is saved from a damaged file."""
SHIFT, MASK = 12, 4095
RAW, PIECES = "raw", "pieces"
IN_PIECES = b"\2"
"""Instead of the readings of a day in ``raw``: they are in ``pieces``."""
PIECE = 300_000
"""ms; the length of a piece, which is that of the finest rollups."""
PIECES_OF_DAY = DAY // PIECE


class Level:
    """A table of rollups.

    :param step: the length of its buckets in ms
    """

    __slots__ = ("step", "table")

    def __init__(self, table: str, step: int) -> None:
        self.table = table
        self.step = step


LEVELS = (Level("minutes", PIECE), Level("hours", 3_600_000), Level("days", DAY))
