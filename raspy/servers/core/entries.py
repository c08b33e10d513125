"""What core's memory is made of: entries, each a value under a section and a key, and the rows of its file."""

from __future__ import annotations

import os
import sqlite3
from typing import Any

import msgspec

from raspy.common import MDP
from raspy.common.database import Schema
from raspy.common.kvsimple import BAD_BODY
from raspy.common.sqlitefile import close, connect, migrate, transaction
from raspy.common.verbs import json_encode

LOCAL = "state."
"""Begins the names of the sections of which the store has no copy."""
NAME_BYTES = 255
VALUE_BYTES = 256 << 10
"""Bytes of a value as JSON; what the store takes, unless it is told otherwise (``value_bytes`` in ``[titanic]``)."""
PLACES = ("/dev/shm", "/run", "/tmp")  # noqa: S108  a directory of its own is made there
"""Where a file is copied to that cannot be opened where it is: file systems in memory."""

SCHEMAS: tuple[Schema, ...] = (
    (
        """CREATE TABLE entry (
            id INTEGER PRIMARY KEY,
            section TEXT NOT NULL CHECK (typeof(section) = 'text'),
            key TEXT NOT NULL CHECK (typeof(key) = 'text'),
            value TEXT CHECK (value IS NULL OR json_valid(value)),
            pending INTEGER NOT NULL,
            UNIQUE (section, key)
        )""",
    ),
)
TABLES = ("entry",)

BAD_VALUE = (*BAD_BODY, ValueError, TypeError, OverflowError)
"""What the making and reading of JSON may raise over a value."""

Name = tuple[str, str]
"""Section and key."""
Row = tuple[str, str, str | None, bool]
"""As it is in the file. No value: it was deleted, which the store does not know yet."""


class StateError(MDP.ClientError, ValueError):
    """What is to be kept has no name or value that can be."""


class Entry:
    """A value, and whether the store does not have it yet. Without a value it was deleted."""

    __slots__ = ("pending", "value")

    def __init__(self, value: Any, pending: bool) -> None:
        self.value = value
        self.pending = pending


def checked(name: Name, value: Any) -> Any:
    """A value as it is kept, which is what JSON makes of it.

    :raises StateError: the name or the value is none
    """
    for part in name:
        if not isinstance(part, str) or not part or not part.isprintable() or len(part.encode()) > NAME_BYTES:
            raise StateError(f"{part!r:.60}: a name is 1 to {NAME_BYTES} bytes of printable text")
    try:
        text = json_encode(value)
        kept = msgspec.json.decode(text)
    except BAD_VALUE as error:
        raise StateError(f"{'/'.join(name)}: the value cannot be kept: {error}") from None
    if len(text) > VALUE_BYTES:
        raise StateError(f"{'/'.join(name)}: a value has at most {VALUE_BYTES} bytes, not {len(text)}")
    return kept


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same in JSON, where 1, 1.0 and true are three."""
    return one is other or (one == other and json_encode(one) == json_encode(other))


def row(name: Name, entry: Entry | None) -> Row:
    """An entry as it is in the file."""
    if entry is None:
        return *name, None, False
    return *name, None if entry.value is None else json_encode(entry.value).decode(), entry.pending


def read_all(connection: sqlite3.Connection) -> list[Any]:
    """On any thread: all rows."""
    return connection.execute("SELECT section, key, value, pending FROM entry ORDER BY id").fetchall()


def write_rows(connection: sqlite3.Connection, items: list[list[Row]]) -> list[None]:
    """On a pool thread: write rows; one that is neither a value nor waits for the store is deleted."""
    for rows in items:
        for each in rows:
            if each[2] is None and not each[3]:
                connection.execute("DELETE FROM entry WHERE section = ? AND key = ?", each[:2])
            else:
                connection.execute(
                    "INSERT INTO entry (section, key, value, pending) VALUES (?, ?, ?, ?) "
                    "ON CONFLICT (section, key) DO UPDATE SET value = excluded.value, pending = excluded.pending",
                    each,
                )
    return [None] * len(items)


def replace_rows(connection: sqlite3.Connection, items: list[list[Row]]) -> list[None]:
    """On a pool thread: have these rows and no others."""
    connection.execute("DELETE FROM entry")
    return write_rows(connection, items[-1:]) * len(items)


def adopt(path: str, before: str | None) -> None:
    """Have a file that is restored win over the store: what it has is a change that the store does not know, and what
    only the file before it has is deleted there.

    :raises OSError: it cannot be written
    """
    gone = [name for name in _names(before) if not name[0].startswith(LOCAL)]

    def mark(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE entry SET pending = 1 WHERE substr(section, 1, ?) <> ?", (len(LOCAL), LOCAL))
        deleted = "INSERT OR IGNORE INTO entry (section, key, value, pending) VALUES (?, ?, NULL, 1)"
        connection.executemany(deleted, gone)

    connection = sqlite3.connect(path, isolation_level=None)
    try:
        # One file, with no log beside it.
        connection.execute("PRAGMA journal_mode = DELETE")
        migrate(connection, SCHEMAS)
        transaction(connection, mark)
    except sqlite3.Error as error:
        raise OSError(f"{path}: {error}") from error
    finally:
        close(connection, path)


def _names(path: str | None) -> list[Name]:
    if path is None:
        return []
    connection = None
    try:
        connection = connect(path, len(SCHEMAS))
        return connection.execute("SELECT section, key FROM entry WHERE value IS NOT NULL").fetchall()
    except (OSError, sqlite3.Error):
        return []  # what cannot be read was not served either
    finally:
        close(connection, path)


def read_copy(path: str) -> list[Any] | None:
    """All rows of a file that cannot be opened where it is, by a copy of it in memory; None when that fails too.

    SQLite wants to write beside a file to read what its log has (https://www.sqlite.org/wal.html#readonly).
    """
    for place in (os.environ.get("RUNTIME_DIRECTORY", ""), *PLACES):
        directory = f"{place}/raspy-{os.urandom(8).hex()}"
        copy = f"{directory}/state.db"
        connection = None
        try:
            os.mkdir(directory, 0o700)
            for suffix in ("", "-wal"):
                if not suffix or os.path.exists(path + suffix):
                    with open(path + suffix, "rb") as old, open(copy + suffix, "wb") as made:
                        while part := old.read(1 << 16):
                            made.write(part)
            connection = connect(copy, len(SCHEMAS))
            return read_all(connection)
        except (OSError, sqlite3.Error) as error:
            MDP.logger.warning("%s: its copy in %s cannot be read: %s", path, place or "$RUNTIME_DIRECTORY", error)
        finally:
            close(connection, copy)
            for suffix in ("", "-wal", "-shm"):
                if os.path.exists(copy + suffix):
                    os.unlink(copy + suffix)
            if os.path.isdir(directory):
                os.rmdir(directory)
    return None
