"""The file: the alarms as they are, and what became of them. The functions run on a pool thread, in a transaction."""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec

from raspy.common.database import Schema
from raspy.servers.alarm.alarms import Kept

HISTORY = 5000
"""Changes of alarms that are kept."""
PRUNE = 100
"""Changes by which they may be more for a while, so that not every one costs a deletion."""

SCHEMAS: tuple[Schema, ...] = (
    (
        """CREATE TABLE alarm (
            id INTEGER PRIMARY KEY,
            rule TEXT NOT NULL CHECK (typeof(rule) = 'text'),
            key TEXT NOT NULL CHECK (typeof(key) = 'text'),
            data TEXT NOT NULL CHECK (json_valid(data)),
            UNIQUE (rule, key)
        )""",
        """CREATE TABLE change (
            id INTEGER PRIMARY KEY,
            name TEXT NOT NULL,
            time REAL NOT NULL,
            data TEXT NOT NULL CHECK (json_valid(data))
        )""",
        "CREATE INDEX change_by_name ON change (name, id)",
    ),
)
TABLES = ("alarm", "change")

Key = tuple[str, str]
"""Of an alarm: the name of its definition, and its key."""

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Kept).decode


class Change(msgspec.Struct, omit_defaults=True):
    """What became of an alarm: its state, and the facts of it."""

    name: str
    time: float
    """Unix time, s."""
    state: str
    severity: str = ""
    label: str = ""
    key: str = ""
    value: Any = None
    unit: str = ""
    reason: str = ""
    by: str = ""
    until: float | None = None


def read_all(connection: sqlite3.Connection) -> list[tuple[Key, Kept]]:
    """All alarms that are kept; a row that is none is left out."""
    found = []
    for rule, key, data in connection.execute("SELECT rule, key, data FROM alarm"):
        try:
            found.append(((rule, key), decode(data)))
        except (msgspec.MsgspecError, ValueError, RecursionError):
            continue
    return found


class Item:
    """What is to be written together of one alarm.

    :param kept: the JSON of it; None: it is not kept any more
    """

    __slots__ = ("changes", "kept", "key")

    def __init__(self, key: Key, kept: bytes | None, changes: list[Change]) -> None:
        self.key = key
        self.kept = kept
        self.changes = changes


def write(connection: sqlite3.Connection, items: list[Item]) -> list[None]:
    """Write alarms, and what became of them."""
    for item in items:
        if item.kept is None:
            connection.execute("DELETE FROM alarm WHERE rule = ? AND key = ?", item.key)
        else:
            connection.execute(
                "INSERT INTO alarm (rule, key, data) VALUES (?, ?, ?) "
                "ON CONFLICT (rule, key) DO UPDATE SET data = excluded.data",
                (*item.key, item.kept.decode()),
            )
        connection.executemany(
            "INSERT INTO change (name, time, data) VALUES (?, ?, ?)",
            [(change.name, change.time, encode(change).decode()) for change in item.changes],
        )
    (least, last) = connection.execute("SELECT min(id), max(id) FROM change").fetchone()
    if least is not None and last - least >= HISTORY + PRUNE:
        connection.execute("DELETE FROM change WHERE id <= ?", (last - HISTORY,))
    return [None] * len(items)


def history(connection: sqlite3.Connection, name: str, since: float, until: float, limit: int) -> list[Any]:
    """The last changes of an alarm, or of all alarms, the newest first.

    :param name: of an alarm, or of a definition, which means all alarms of it; empty: of all
    """
    where, words = "time >= ? AND time <= ?", [since, until]
    names: list[Any] = []
    if name:
        # What begins with the name and a dot, in the order of SQLite's BINARY.
        where += " AND (name = ? OR (name >= ? AND name < ?))"
        names = [name, f"{name}.", f"{name}/"]
    rows = connection.execute(
        f"SELECT data FROM change WHERE {where} ORDER BY id DESC LIMIT ?",  # noqa: S608  of constants
        (*words, *names, limit),
    )
    return [msgspec.Raw(data.encode()) for (data,) in rows]
