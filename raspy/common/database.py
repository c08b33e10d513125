"""SQLite files: opened, checked, brought to the present schema, and set aside when damaged.

Everything here waits for the disk, so it runs on a pool thread; :mod:`raspy.common.storage` is what a loop uses.
A file is in WAL mode with ``synchronous=FULL``: what was committed survives a power cut
(https://www.sqlite.org/pragma.html#pragma_synchronous).
"""

from __future__ import annotations

import fcntl
import functools
import logging
import os
import sqlite3
import threading
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
"""Seconds that a check of the whole file at its opening may take; a larger file is checked as far as that goes."""
CACHE_KIB = 512
"""Memory of one connection for pages."""
WAL_LIMIT = 1 << 20
"""Bytes to which the write-ahead log is cut back when it starts anew."""
NOT_FOUND = -1
SUFFIXES = ("", "-wal", "-shm")
"""What a file consists of while it is open (https://www.sqlite.org/walformat.html)."""
SAVED = ".saved"
"""Behind the name of a file that takes the place of a damaged one."""


class StorageError(ServerError, OSError):
    """The disk does not take or give what it should; the message says which file and why."""


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


class Database:
    """One file and the two connections to it: one writes, the other reads beside it.

    :param path: the file; its directory is made when it is missing
    :param schemas: what leads from an empty file to version 1, from that to 2, and so on
    :param tables: the tables, each with an INTEGER PRIMARY KEY as first column, of which rows are saved from a
        damaged file
    """

    def __init__(self, path: str, schemas: Sequence[Schema], tables: Sequence[str] = ()) -> None:
        self.path = path
        self.schemas = schemas
        self.tables = tables
        self.notice = ""
        """What was set aside since the start, for the owner."""
        self._lock = NOT_FOUND
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        # Pool threads wait for these, never the loop.
        self._while_writing = threading.Lock()
        self._while_reading = threading.RLock()
        self._known = False
        self._place: tuple[int, int] | None = None
        self.begun = 0
        """How often another file than before was found or made under the name."""

    def open(self) -> None:
        """Open, check and migrate; harmless when it is open. A damaged file is set aside, and what can be is saved.

        :raises StorageError: it cannot be opened now
        :raises NewerSchema: it belongs to a newer program
        """
        with self._while_writing:
            self._open()

    def close(self) -> None:
        """Close the file; harmless when repeated."""
        with self._while_writing, self._while_reading:
            self._disconnect()
            self._unlock()

    def write(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """What ``function(connection)`` returns, which runs in a transaction; it is on disk when this returns.

        :raises StorageError: the disk did not take it; nothing was changed, or it is in a file that was moved away
        """
        with self._while_writing:
            connection = self._open()
            try:
                result = _transaction(connection, function)
                self._check_place()
                return result
            except Exception as error:
                told = explain(error, self.path)
                if told is not None and not _is_full(error):
                    # What a connection believes of its file is no longer true after an I/O error.
                    self._drop_writer()
                raise told or error from error

    def read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """What ``function(connection)`` returns, which sees what has been committed.

        :raises StorageError: the disk did not give it
        """
        if not self._known:
            self.open()
        with self._while_reading:
            try:
                if self._reader is None:
                    if not self._known:
                        raise StorageError(f"{self.path}: it is not open")
                    self._reader = self._connect()
                    self._reader.execute("PRAGMA query_only = ON")
                return function(self._reader)
            except Exception as error:
                told = explain(error, self.path)
                if told is not None:
                    self._drop_reader()
                raise told or error from error

    def recover(self, error: Damaged) -> None:
        """The file was found damaged while it was used: set it aside, save what can be, and go on with a new one.

        :raises StorageError: a new one cannot be made
        """
        with self._while_writing, self._while_reading:
            self._disconnect()
            try:
                self._take_lock()
                self._set_aside(error)
            except Exception as caught:
                self._disconnect()
                raise explain(caught, self.path) or caught from caught

    def _open(self) -> sqlite3.Connection:
        if self._writer is not None:
            return self._writer
        try:
            self._take_lock()
            try:
                return self._open_file()
            except Exception as error:
                self._drop_writer()
                told = explain(error, self.path)
                if not isinstance(told, Damaged):
                    raise
                with self._while_reading:
                    self._disconnect()
                    return self._set_aside(told)
        except (OSError, sqlite3.Error) as error:
            # A statement that is at fault here is one of a migration: the file is as it was before.
            self._drop_writer()
            raise explain(error, self.path) or StorageError(f"{self.path}: it cannot be opened: {error}") from error

    def _take_lock(self) -> None:
        """Let nobody else use the file: two servers on one queue would each do all of it."""
        if self._lock != NOT_FOUND:
            return
        os.makedirs(os.path.dirname(self.path), mode=0o750, exist_ok=True)
        # A file of its own: closing any descriptor of the database would drop SQLite's locks on it (fcntl(2)).
        lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise StorageError(f"{self.path}: another process uses it") from None
        self._lock = lock

    def _unlock(self) -> None:
        if self._lock != NOT_FOUND:
            os.close(self._lock)
            self._lock = NOT_FOUND

    def _open_file(self) -> sqlite3.Connection:
        new = not os.path.exists(self.path)
        if new and os.path.exists(self.path + SAVED):
            self._put_in_place()  # the power failed between the two names
        writer = self._writer = self._connect()
        check(writer, self.path)
        migrate(writer, self.schemas)
        if new:
            self._sync_directory()
        found = os.stat(self.path)
        if new or self._place != (found.st_dev, found.st_ino):
            self.begun += 1
            with self._while_reading:
                self._drop_reader()
        self._place = found.st_dev, found.st_ino
        self._known = True
        return writer

    def _connect(self) -> sqlite3.Connection:
        return connect(self.path, len(self.schemas))

    def _check_place(self) -> None:
        """See that the file is still there: one that was deleted takes writes as before, and they are gone with it."""
        try:
            found = os.stat(self.path)
            if self._place == (found.st_dev, found.st_ino):
                return
        except FileNotFoundError:
            pass
        with self._while_reading:
            self._disconnect()
        self._unlock()
        raise StorageError(f"{self.path}: it was deleted or moved away while it was used")

    def _set_aside(self, error: Damaged) -> sqlite3.Connection:
        """Save into a new file what can still be read, then give that the damaged one's name.

        Up to then everything stays as it is, so that a full disk or a power cut meanwhile costs nothing.
        """
        self._remove_saved()
        try:
            saved = self._save()
        except BaseException:
            self._remove_saved()
            raise
        aside = f"{self.path}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
        number = 1
        while os.path.exists(aside if number == 1 else f"{aside}-{number}"):
            number += 1
        aside += f"-{number}" if number > 1 else ""
        for suffix in SUFFIXES:
            if os.path.exists(self.path + suffix):
                os.rename(self.path + suffix, aside + suffix)
        self._put_in_place()
        self.notice = f"{error}; it was set aside as {aside}, {saved} entries could be saved from it"
        logger.error("%s", self.notice)
        return self._open_file()

    def _save(self) -> int:
        """Copy the rows that can still be read, from both ends of each table up to the damage: how many."""
        new = connect(self.path + SAVED, len(self.schemas))
        try:
            migrate(new, self.schemas)
            # Everything in one file, which needs no more room than the rows; it is on disk after the last commit.
            new.execute("PRAGMA journal_mode = DELETE")
            # Its log too is read where there is one, so not immutable.
            old = sqlite3.connect(f"file:{_escaped(self.path)}?mode=ro", uri=True, isolation_level=None)
            try:
                return sum(_transaction(new, functools.partial(_copy, old, table)) for table in self.tables)
            finally:
                _close(old, self.path)
        finally:
            new.close()

    def _remove_saved(self) -> None:
        for suffix in SUFFIXES:
            _remove(self.path + SAVED + suffix)

    def _put_in_place(self) -> None:
        """Give the new file its name. What is left of the damaged one under that name would be taken for its log."""
        for suffix in SUFFIXES[1:]:
            _remove(self.path + suffix)
        os.rename(self.path + SAVED, self.path)
        self._sync_directory()

    def _sync_directory(self) -> None:
        """Have the file's name on disk too (fsync(2))."""
        directory = os.open(os.path.dirname(self.path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _disconnect(self) -> None:
        self._drop_reader()
        self._drop_writer()
        self._known = False

    def _drop_reader(self) -> None:
        reader, self._reader = self._reader, None
        _close(reader, self.path)

    def _drop_writer(self) -> None:
        writer, self._writer = self._writer, None
        _close(writer, self.path)


def connect(path: str, schema: int) -> sqlite3.Connection:
    """A connection to a file that is ours, or new; any other is left as it is.

    :param schema: the newest version of the schema that is known
    :raises Damaged: it belongs to another program
    :raises NewerSchema: it belongs to a newer one
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
        _close(connection, path)
        raise
    return connection


def check(connection: sqlite3.Connection, path: str) -> None:
    """Read the file, as far as there is time.

    :raises Damaged: not all is as it should be
    """
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
        _transaction(connection, functools.partial(_execute_all, steps))


def _execute_all(statements: Sequence[str], connection: sqlite3.Connection) -> None:
    for statement in statements:
        connection.execute(statement)


def _transaction(connection: sqlite3.Connection, function: Callable[[sqlite3.Connection], T]) -> T:
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


def _close(connection: sqlite3.Connection | None, path: str) -> None:
    if connection is not None:
        try:
            connection.close()
        except sqlite3.Error as error:
            logger.warning("%s: closing: %s", path, error)


def _is_full(error: Exception) -> bool:
    return (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF == sqlite3.SQLITE_FULL


def _escaped(path: str) -> str:
    """A path as a part of an SQLite URI (https://www.sqlite.org/uri.html)."""
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _copy(old: sqlite3.Connection, table: str, new: sqlite3.Connection) -> int:
    """Copy what can be read of a table; what the new one's checks refuse is left."""
    before = new.total_changes
    damage: list[sqlite3.Error] = []
    # A damaged file of an older schema may not have all columns.
    has = {row[1] for row in _readable(old, f"PRAGMA table_info({table})", damage)}
    names = [row[1] for row in new.execute(f"PRAGMA table_info({table})") if row[1] in has]
    columns = ", ".join(names)
    into = f"INSERT OR IGNORE INTO {table} ({columns}) VALUES ({', '.join('?' * len(names))})"  # noqa: S608  ours
    last = None
    for order in ("ASC", "DESC") if names else ():
        damage.clear()
        rows = f"SELECT {columns} FROM {table} NOT INDEXED ORDER BY rowid {order}"  # noqa: S608  ours
        for row in _readable(old, rows, damage):
            if order == "DESC" and last is not None and row[0] <= last:
                break
            new.execute(into, row)
            last = row[0] if order == "ASC" else last
        if not damage:
            break
    return new.total_changes - before


def _readable(old: sqlite3.Connection, query: str, damage: list[sqlite3.Error]) -> Iterator[Any]:
    """The rows up to the damage, if there is any."""
    try:
        yield from old.execute(query)
    except sqlite3.Error as error:
        logger.warning("reading from the damaged file: %s", error)
        damage.append(error)
