"""Databases: SQLite files that are ours alone while they are open, and are set aside when they are damaged.

Everything here waits for the disk, so it runs on a pool thread; :mod:`raspy.common.storage` is what a loop uses.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from raspy.common.sqlitefile import (
    APPLICATION_ID,
    Damaged,
    InUse,
    NewerSchema,
    Schema,
    StorageError,
    check,
    close,
    connect,
    copy_rows,
    explain,
    migrate,
    transaction,
)

__all__ = ["APPLICATION_ID", "Damaged", "Database", "InUse", "NewerSchema", "Schema", "StorageError"]

logger = logging.getLogger("raspy.database")

T = TypeVar("T")

NOT_FOUND = -1
SUFFIXES = ("", "-wal", "-shm")
"""What a file consists of while it is open (https://www.sqlite.org/walformat.html)."""
SAVED = ".saved"
"""Behind the name of a file that takes the place of a damaged one."""


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

    def close(self, remove: bool = False) -> None:
        """Close the file; harmless when repeated. The next write or read opens it again.

        :param remove: delete it too, as it holds nothing any more
        """
        with self._while_writing, self._while_reading:
            self._disconnect()
            # What of its log is left was not brought into it: somebody else reads it, or the disk refused.
            if remove and self._lock != NOT_FOUND and not os.path.exists(self.path + SUFFIXES[1]):
                for name in (self.path, f"{self.path}.lock"):
                    with contextlib.suppress(OSError):  # it is found empty then
                        os.unlink(name)
            self._unlock()

    def write(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """What ``function(connection)`` returns, which runs in a transaction; it is on disk when this returns.

        :raises StorageError: the disk did not take it; nothing was changed, or it is in a file that was moved away
        """
        with self._while_writing:
            connection = self._open()
            try:
                result = transaction(connection, function)
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
            raise InUse(f"{self.path}: another process uses it") from None
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
        """Copy the rows that can still be read: how many."""
        new = connect(self.path + SAVED, len(self.schemas))
        try:
            migrate(new, self.schemas)
            # Everything in one file, which needs no more room than the rows; it is on disk after the last commit.
            new.execute("PRAGMA journal_mode = DELETE")
            # Its log too is read where there is one, so not immutable.
            old = sqlite3.connect(f"file:{_escaped(self.path)}?mode=ro", uri=True, isolation_level=None)
            try:
                return sum(transaction(new, functools.partial(copy_rows, old, table)) for table in self.tables)
            finally:
                close(old, self.path)
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
        close(reader, self.path)

    def _drop_writer(self) -> None:
        writer, self._writer = self._writer, None
        close(writer, self.path)


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
