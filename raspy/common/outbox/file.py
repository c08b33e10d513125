"""The readings on the disk: a file that is there only while there is something in it.

The functions that take a connection run on a pool thread, in a transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from raspy.common.database import Database, Schema
from raspy.common.outbox.reading import Reading
from raspy.common.storage import Storage

if TYPE_CHECKING:
    from raspy.common.server import Server

COLUMNS = "key, time, since, boot, trusted, value, quality, max_age, unit"
SCHEMAS: tuple[Schema, ...] = (
    (
        """CREATE TABLE reading (
            id INTEGER PRIMARY KEY,
            key TEXT NOT NULL,
            time REAL NOT NULL,
            since REAL NOT NULL,
            boot TEXT NOT NULL,
            trusted INTEGER NOT NULL,
            value REAL,
            quality TEXT NOT NULL,
            max_age REAL NOT NULL,
            unit TEXT NOT NULL
        ) STRICT""",
    ),
)

CANNOT_TELL = -1


class Written(msgspec.Struct):
    """How the file stands after a write."""

    first: int
    """The number of its oldest reading; 0: there is none."""
    last: int
    """That of its newest."""
    dropped: int = 0
    """Readings for which there was no room any more."""


class Batch(msgspec.Struct):
    """Readings that are to be written.

    :param sent: up to this number all are with the logger
    :param floor: no number up to this one is given again
    :param most: readings that may be in the file
    """

    readings: list[Reading]
    sent: int
    floor: int
    most: int


class File:
    """The file of one server. Everything here is called on the loop.

    :param path: where it is
    :param most: readings that it may hold; the oldest go first
    :param on_dropped: is told how many went
    """

    def __init__(self, server: Server, path: str, most: int, on_dropped: Callable[[int], None]) -> None:
        self.path = path
        self.most = most
        self.storage = Storage(server, Database(path, SCHEMAS, ("reading",)), "outbox")
        self._server = server
        self._on_dropped = on_dropped
        self._stands: Written | None = None
        self._last = self._sent = 0
        # One at a time: of two in one transaction with a write in between, the later answer would be the older one.
        self._removing = False

    @property
    def waiting(self) -> int:
        """Readings that are not with the logger yet; below 0: that is not known yet.

        From their numbers alone, so that it does not matter in which order the disk and the logger answer.
        """
        stands = self._stands
        if stands is None:
            return CANNOT_TELL
        return max(stands.last - max(stands.first - 1, self._sent), 0) if stands.last else 0

    @property
    def usable(self) -> bool:
        """Whether the disk does what it should."""
        return not self.storage.problem

    def look(self, done: Callable[[], None]) -> None:
        """Find out how much there is, unless that is under way."""

        def told(written: Written | None, error: Exception | None) -> None:
            self._removed(written, error)
            if error is None:
                done()

        if not self._removing:
            self._removing = True
            self.storage.write(remove, self._sent, told)

    def write(self, readings: list[Reading], done: Callable[[bool], None]) -> None:
        """Write readings behind the others; ``done`` is told whether they are on the disk."""

        def told(written: Written | None, error: Exception | None) -> None:
            if written is not None and error is None:
                self._take(written)
                if written.dropped:
                    self._on_dropped(written.dropped)
            done(error is None)

        self.storage.write(write, Batch(readings, self._sent, self._last, self.most), told)

    def read(self, count: int, done: Callable[[list[Reading], int], None]) -> None:
        """The oldest readings, all of one boot and one kind of clock, and the number of the last of them; none when the
        disk does not give them."""
        sent, last = self._sent, self._last

        def told(found: tuple[list[Reading], int] | None, error: Exception | None) -> None:
            if found is None or error is not None:
                done([], CANNOT_TELL)
                return
            if not found[0]:
                # Of those that were there at the call none is left; others may have been written meanwhile.
                self._sent = max(self._sent, last)
            done(*found)

        self.storage.read(lambda connection: head(connection, sent, count), told)

    def sent(self, last: int) -> None:
        """The logger has all up to this one. They are removed as soon as the disk lets them be; until then they are
        passed over."""
        self._sent = max(self._sent, last)
        self.remove()

    def remove(self) -> None:
        """Remove what the logger has."""
        if not self._removing and self._sent:
            self._removing = True
            self.storage.write(remove, self._sent, self._removed)

    @property
    def rests(self) -> bool:
        """Whether there is no file, and nobody needs one."""
        return self.storage.rests

    def rest(self) -> None:
        """Close and delete the file once the logger has all: SQLite takes memory for one, and it would be opened at the
        next start. To be called until it rests."""
        if self.waiting == 0:
            self.storage.rest()

    def set_right(self, boot: str, base: float) -> None:
        """The clock of a boot is right now: give its readings their times, before another boot makes it impossible."""
        self.storage.write(set_right, (boot, base), lambda *_: None, keep=True)

    def close(self) -> None:
        """Write what is under way and close; an empty file is deleted. Waits, so it is for the end of the server."""
        self.storage.close(lambda: self.waiting == 0)

    def _removed(self, written: Written | None, error: Exception | None) -> None:
        self._removing = False
        if written is not None and error is None:
            self._take(written)

    def _take(self, written: Written) -> None:
        self._last = max(self._last, written.last)
        self._stands = written


def write(connection: sqlite3.Connection, items: list[Batch]) -> list[Written]:
    """Write batches; what there is no room for is dropped, the oldest first."""
    return [_write(connection, batch) for batch in items]


def _write(connection: sqlite3.Connection, batch: Batch) -> Written:
    connection.execute("DELETE FROM reading WHERE id <= ?", (batch.sent,))
    (last,) = connection.execute("SELECT max(id) FROM reading").fetchone()
    first = max(last or 0, batch.floor) + 1
    connection.executemany(
        f"INSERT INTO reading (id, {COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608  ours
        [(number, *msgspec.structs.astuple(reading)) for number, reading in enumerate(batch.readings, first)],
    )
    last = first + len(batch.readings) - 1
    dropped = connection.execute("DELETE FROM reading WHERE id <= ?", (last - batch.most,)).rowcount
    stands = _stands(connection)
    stands.dropped = dropped
    return stands


def remove(connection: sqlite3.Connection, items: list[int]) -> list[Written]:
    """Remove all up to a number."""
    connection.execute("DELETE FROM reading WHERE id <= ?", (max(items),))
    return [_stands(connection)] * len(items)


def set_right(connection: sqlite3.Connection, items: list[tuple[str, float]]) -> list[None]:
    """Give readings their times that were made while the clock was not known to be right."""
    for boot, base in items:
        connection.execute(
            "UPDATE reading SET time = round(since + ?, 3), trusted = 1 WHERE boot = ? AND NOT trusted", (base, boot)
        )
    return [None] * len(items)


def head(connection: sqlite3.Connection, sent: int, count: int) -> tuple[list[Reading], int]:
    """The oldest readings behind a number that are of one boot and one kind of clock, and the number of the last."""
    found: list[Reading] = []
    last = sent
    for number, *row in connection.execute(
        f"SELECT id, {COLUMNS} FROM reading WHERE id > ? ORDER BY id LIMIT ?",  # noqa: S608  ours
        (sent, count),
    ):
        reading = Reading(*row)
        reading.trusted = bool(reading.trusted)
        if found and (reading.boot, reading.trusted) != (found[0].boot, found[0].trusted):
            break
        found.append(reading)
        last = number
    return found, last


def _stands(connection: sqlite3.Connection) -> Written:
    """From both ends of the table alone, as a card reads slowly: numbers follow one another but where a page was lost.

    They are two statements, as SQLite looks up one end at a time (https://www.sqlite.org/optoverview.html#minmax).
    """
    (first,) = connection.execute("SELECT min(id) FROM reading").fetchone()
    (last,) = connection.execute("SELECT max(id) FROM reading").fetchone()
    return Written(0, 0) if first is None else Written(first, last)
