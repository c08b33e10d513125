"""What is done with one SQLite file: it is opened, checked, brought to the present schema, read as far as that goes.

A file is in WAL mode with ``synchronous=FULL``: what was committed survives a power cut
(https://www.sqlite.org/pragma.html#pragma_synchronous).
"""

from __future__ import annotations

import functools
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from raspy.common.MDP import ServerError

logger = logging.getLogger("raspy.database")

T = TypeVar("T")

Schema = tuple[str, ...]
"""The statements that lead from one version of the schema to the next."""

APPLICATION_ID = 0x52617350
"""``RasP``: tells our files from those of others (``PRAGMA application_id``)."""
CHECK_TIME = 1.0
"""Seconds after which a check of a file's rows at its opening ends as if they were sound."""
CHECK_SIZE = 32 << 20
"""Bytes; a larger file is not checked at its opening. Before it comes to the rows the check reads all pages, and cannot
be told to stop then (SQLite 3.40): some seconds for this size on a slow card. A damaged page of a larger file is found
when it is used."""
SEARCH_TIME = 60.0
"""Seconds that go, for each table, into the search for rows behind damage. Copying takes as long as there are rows."""
STEPS = 64
"""Part of its way so far by which such a search goes on: each number is tried at first, then every second one..."""
UP, DOWN = 1, -1
MOST_TOLD = 20
"""Damaged places of a table that are in the log one by one."""
CACHE_KIB = 512
"""Memory of one connection for pages."""
WAL_LIMIT = 1 << 20
"""Bytes to which the write-ahead log is cut back when it starts anew."""
LOWEST, HIGHEST = -(1 << 63), (1 << 63) - 1
"""Rows have numbers in between (https://www.sqlite.org/rowidtable.html)."""


class StorageError(ServerError, OSError):
    """The disk does not take or give what it should; the message says which file and why."""


class InUse(StorageError):
    """Another process has the file."""


class NewerSchema(StorageError):
    """The file was written by a newer program; it is left as it is."""


class Damaged(StorageError):
    """The file is no sound database of ours."""


WORDS = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_READONLY: "it cannot be written: the file or its file system is read-only",
    sqlite3.SQLITE_IOERR: "the disk does not read or write as it should",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened",
    sqlite3.SQLITE_PERM: "this user may not open it",
    sqlite3.SQLITE_BUSY: "another process uses it",
    sqlite3.SQLITE_LOCKED: "another process uses it",
    sqlite3.SQLITE_NOMEM: "no memory is left",
}
VAGUE = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def explain(error: Exception, path: str) -> StorageError | None:
    """What an error of SQLite or of the system says of a file; None when the statement was at fault, not the disk."""
    if isinstance(error, StorageError):
        return error
    if isinstance(error, OSError):
        return StorageError(f"{path}: {error.strerror or error}")
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return None
    primary = code & 0xFF
    if primary in DAMAGE:
        return Damaged(f"{path}: it is damaged ({error})")
    if primary not in WORDS:
        return None
    words = WORDS[(_cause(path) if primary in VAGUE else None) or primary]
    return StorageError(f"{path}: {words} ({getattr(error, 'sqlite_errorname', error)})")


def _cause(path: str) -> int | None:
    """Whether the file system is full or read-only, each of which SQLite tells in several ways (statvfs(3))."""
    try:
        found = os.statvfs(os.path.dirname(path))
    except OSError:
        return None
    if found.f_flag & os.ST_RDONLY:
        return sqlite3.SQLITE_READONLY
    return sqlite3.SQLITE_FULL if found.f_bavail == 0 else None


def connect(path: str, schema: int) -> sqlite3.Connection:
    """A connection to a file that is ours, or new; any other is left as it is.

    :param schema: the newest version of the schema that is known
    :raises Damaged: it belongs to another program
    :raises NewerSchema: it belongs to a newer one
    :raises StorageError: its file system allows no write-ahead log
    """
    connection = sqlite3.connect(path, timeout=1.0, isolation_level=None, check_same_thread=False)
    try:
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        (owner,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if (tables or version) and owner != APPLICATION_ID:
            raise Damaged(f"{path}: it is a database of another program")
        if version > schema:
            raise NewerSchema(
                f"{path}: it was written by a newer RasPy (schema {version}; this one knows {schema}): "
                "install that version again, or move the file away to start with nothing"
            )
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise StorageError(f"{path}: its file system does not allow a write-ahead log (journal mode {mode})")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT}")
    except BaseException:
        close(connection, path)
        raise
    return connection


def check(connection: sqlite3.Connection, path: str) -> None:
    """Read a file of no more than :data:`CHECK_SIZE`: all its pages, and its rows as far as there is time.

    :raises Damaged: not all is as it should be
    """
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    if pages * size > CHECK_SIZE:
        return
    until = time.monotonic() + CHECK_TIME
    connection.set_progress_handler(lambda: time.monotonic() > until, 10_000)
    try:
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        verdict = "ok"
    finally:
        connection.set_progress_handler(None, 0)
    if verdict != "ok":
        raise Damaged(f"{path}: it is damaged ({' '.join(verdict.split())})")


def migrate(connection: sqlite3.Connection, schemas: Sequence[Schema]) -> None:
    """Bring a file to the last of the schemas, step by step, each whole or not at all."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    for number, statements in enumerate(schemas[version:], version + 1):
        steps = (*statements, f"PRAGMA application_id = {APPLICATION_ID}", f"PRAGMA user_version = {number}")
        transaction(connection, functools.partial(_execute_all, steps))


def _execute_all(statements: Sequence[str], connection: sqlite3.Connection) -> None:
    for statement in statements:
        connection.execute(statement)


def transaction(connection: sqlite3.Connection, function: Callable[[sqlite3.Connection], T]) -> T:
    """What a function returns that is called in a transaction, once that is on disk."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        result = function(connection)
        connection.execute("COMMIT")
    except BaseException:
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            logger.warning("undoing a write: %s", error)
        raise
    return result


def close(connection: sqlite3.Connection | None, path: str) -> None:
    """Close a connection, if there is one; what its closing says is in the log."""
    if connection is not None:
        try:
            connection.close()
        except sqlite3.Error as error:
            logger.warning("%s: closing: %s", path, error)


def copy_rows(old: sqlite3.Connection, table: str, new: sqlite3.Connection) -> int:
    """Copy what can be read of a table before, between and behind damaged places; what the new one's checks refuse is
    left.

    :returns: how many rows
    """
    before = new.total_changes
    try:
        # A damaged file of an older schema may not have all columns.
        has = {row[1] for row in old.execute(f"PRAGMA table_info({table})")}
    except sqlite3.Error as error:
        logger.warning("reading from the damaged file: %s", error)
        return 0
    names = [row[1] for row in new.execute(f"PRAGMA table_info({table})") if row[1] in has]
    if names:
        columns = ", ".join(names)
        into = f"INSERT OR IGNORE INTO {table} ({columns}) VALUES ({', '.join('?' * len(names))})"  # noqa: S608  ours
        for row in _Readable(old, table, columns):
            new.execute(into, row[1:])
    return new.total_changes - before


class _Readable:
    """The rows of a table that can be read, their numbers first, each once.

    A place is a number; it can be read when the first row from there on, up or down, can be. In a torn page no place
    can be, up to the last number that belongs to that page.
    """

    __slots__ = ("_gaps", "_left", "_old", "_query", "_table")

    def __init__(self, old: sqlite3.Connection, table: str, columns: str) -> None:
        self._old = old
        self._table = table
        self._query = f"SELECT rowid, {columns} FROM {table} NOT INDEXED WHERE rowid "  # noqa: S608  ours
        self._left = SEARCH_TIME
        self._gaps = 0

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        low = LOWEST
        while low <= HIGHEST:
            try:
                row = self._row(low, UP)
            except sqlite3.Error as error:
                place = self._behind(low, HIGHEST, UP)
                # Steps that grow may have passed over sound rows; those near their end are found on the way back.
                yield from self._back(low, HIGHEST if place is None else place - 1, error)
                if place is None:
                    return
                low = place
                continue
            if row is None:
                return
            yield row
            low = row[0] + 1

    def _back(self, low: int, high: int, cause: sqlite3.Error) -> Iterator[tuple[Any, ...]]:
        """The rows from one place back to another that is bad."""
        while low <= high:
            try:
                row = self._row(high, DOWN)
            except sqlite3.Error as error:
                cause = error
                place = self._behind(high, low, DOWN)
                if place is None:
                    break
                self._tell(place + 1, high, error)
                high = place
                continue
            if row is None or row[0] < low:
                break
            yield row
            high = row[0] - 1
        if low <= high:
            self._tell(low, high, cause)

    def _row(self, place: int, direction: int) -> tuple[Any, ...] | None:
        """The first row from a place on; None when there is none.

        :raises sqlite3.Error: it cannot be read
        """
        # One at a time, as the module sqlite3 reads ahead and would lose the row before the damage.
        found = ">= ? ORDER BY rowid ASC LIMIT 1" if direction == UP else "<= ? ORDER BY rowid DESC LIMIT 1"
        row: tuple[Any, ...] | None = self._old.execute(self._query + found, (place,)).fetchone()
        # A damaged number would lead past sound rows, or back: a row that is in its place is found under its number.
        if row is not None and row[0] != place and self._old.execute(f"{self._query}= ?", row[:1]).fetchone() != row:
            raise sqlite3.DatabaseError(f"row {row[0]} is not in its place")
        return row

    def _can_be_read(self, place: int, direction: int) -> bool:
        try:
            self._row(place, direction)
        except sqlite3.Error:
            return False
        return True

    def _behind(self, bad: int, last: int, direction: int) -> int | None:
        """The first place behind a bad one that can be read; None when none is found in time."""
        begun = time.monotonic()
        try:
            found = self._any_behind(bad, last, direction, begun + self._left)
            if found is None:
                return None
            bad, good = found
            while abs(good - bad) > 1:
                middle = (bad + good) // 2
                bad, good = (bad, middle) if self._can_be_read(middle, direction) else (middle, good)
            return good
        finally:
            self._left -= time.monotonic() - begun

    def _any_behind(self, bad: int, last: int, direction: int, until: float) -> tuple[int, int] | None:
        """The last bad place that was tried, and one behind it that can be read."""
        # Rows are numbered from 1 on; steps that begin at the lowest number of all would be too wide there.
        start = max(bad, 0) if direction == UP else bad
        way = 0
        while time.monotonic() < until:
            place = min(start + way, last) if direction == UP else max(start - way, last)
            if place != bad and self._can_be_read(place, direction):
                return bad, place
            if place == last:
                break
            bad = place
            way += 1 + way // STEPS
        return None

    def _tell(self, first: int, last: int, error: sqlite3.Error) -> None:
        self._gaps += 1
        if self._gaps <= MOST_TOLD:
            begin, end = "the first" if first == LOWEST else first, "the last" if last == HIGHEST else last
            logger.warning("rows of %s from %s to %s cannot be read: %s", self._table, begin, end, error)
        elif self._gaps == MOST_TOLD + 1:
            logger.warning("more rows of %s cannot be read", self._table)
