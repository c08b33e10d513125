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
from collections.abc import Callable, Sequence
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
LOWEST, HIGHEST = -(1 << 63), (1 << 63) - 1
"""Rows have numbers in between (https://www.sqlite.org/rowidtable.html)."""


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
        close(connection, path)
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
    """Copy what can be read of a table, from its beginning and from its end up to the damage; what the new one's checks
    refuse is left."""
    before = new.total_changes
    try:
        # A damaged file of an older schema may not have all columns.
        has = {row[1] for row in old.execute(f"PRAGMA table_info({table})")}
    except sqlite3.Error as error:
        logger.warning("reading from the damaged file: %s", error)
        return 0
    names = [row[1] for row in new.execute(f"PRAGMA table_info({table})") if row[1] in has]
    columns = ", ".join(names)
    into = f"INSERT OR IGNORE INTO {table} ({columns}) VALUES ({', '.join('?' * len(names))})"  # noqa: S608  ours
    low, high = LOWEST, HIGHEST
    for order in ("ASC", "DESC") if names else ():
        # One at a time, as the module sqlite3 reads ahead and would lose the row before the damage.
        query = (
            f"SELECT rowid, {columns} FROM {table} NOT INDEXED WHERE rowid > ? AND rowid < ? "  # noqa: S608  ours
            f"ORDER BY rowid {order} LIMIT 1"
        )
        while (row := _readable(old, query, low, high)) is not None:
            new.execute(into, row[1:])
            low, high = (row[0], high) if order == "ASC" else (low, row[0])
    return new.total_changes - before


def _readable(old: sqlite3.Connection, query: str, low: int, high: int) -> tuple[Any, ...] | None:
    """A row; None when there is none more, or the damage comes next."""
    try:
        row: tuple[Any, ...] | None = old.execute(query, (low, high)).fetchone()
    except sqlite3.Error as error:
        logger.warning("reading from the damaged file: %s", error)
        return None
    return row
