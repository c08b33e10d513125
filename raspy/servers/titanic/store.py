"""``titanic.store``: values of any JSON under service, section and key, each with a version.

The functions up to the verbs take a connection and run on a pool thread.
"""

from __future__ import annotations

import re
import sqlite3
from typing import TYPE_CHECKING, Any

import msgspec

from raspy.common import MDP
from raspy.common.database import Schema
from raspy.common.kvsimple import BAD_BODY
from raspy.common.verbs import Later, VerbError, Verbs, json_encode

if TYPE_CHECKING:
    from raspy.servers.titanic.titanic import Titanic

SCHEMAS: tuple[Schema, ...] = (
    (
        # AUTOINCREMENT: a number is never given twice, so that it tells a version from every other, deleted ones too.
        """CREATE TABLE store (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            service TEXT NOT NULL CHECK (typeof(service) = 'text'),
            section TEXT NOT NULL CHECK (typeof(section) = 'text'),
            key TEXT NOT NULL CHECK (typeof(key) = 'text'),
            value TEXT NOT NULL CHECK (json_valid(value)),
            UNIQUE (service, section, key)
        )""",
    ),
)
TABLES = ("sqlite_sequence", "store")
"""With the first, SQLite's own, no version is given twice even after the file was damaged (autoinc.html)."""
NAME_BYTES = 255
ENTRIES = 20_000
DEPTH = 500
"""Arrays and objects within each other in a value: half of what Python decodes (sys.getrecursionlimit), so that whoever
reads an export, in which the value is some levels deeper, can read it."""
FORMAT, FORMAT_VERSION = "raspy-store", 1
TOTAL = (
    "SELECT count(*), total(length(CAST(value AS BLOB)) + length(CAST(service AS BLOB)) "
    "+ length(CAST(section AS BLOB)) + length(CAST(key AS BLOB))) FROM store"
)

decode_any = msgspec.json.Decoder().decode
find_levels = re.compile(r'"(?:[^"\\]++|\\.)*+"|[\[\]{}]').finditer
"""Finds the brackets, and the texts, in which brackets mean nothing."""
Name = tuple[str, str, str]
"""Service, section and key."""


class Document(msgspec.Struct):
    """Everything in the store, as it is exported and imported."""

    format: str
    version: int
    services: dict[str, dict[str, dict[str, msgspec.Raw]]]


class Limits:
    """What the store may hold: bytes of all names and values together."""

    __slots__ = ("total_bytes",)

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes


class Change:
    """A value to be set.

    :param value: JSON
    :param expected: the version that it must have; 0: it must not exist; None: whatever it has
    """

    __slots__ = ("expected", "limits", "name", "value")

    def __init__(self, name: Name, value: str, expected: int | None, limits: Limits) -> None:
        self.name = name
        self.value = value
        self.expected = expected
        self.limits = limits


def put(connection: sqlite3.Connection, items: list[Change]) -> list[int | VerbError]:
    """Set values; their new versions, or why one was not set."""
    count, size = connection.execute(TOTAL).fetchone()
    results: list[int | VerbError] = []
    for item in items:
        known = connection.execute(
            "SELECT id, length(CAST(value AS BLOB)) FROM store WHERE service = ? AND section = ? AND key = ?", item.name
        ).fetchone()
        version = known[0] if known else 0
        if item.expected is not None and item.expected != version:
            results.append(_moved_on(item, version))
            continue
        grows = len(item.value.encode()) - (known[1] if known else -_bytes(item.name))
        refused = _no_room(count + (known is None), size + grows, item.limits) if grows > 0 else None
        if refused is not None:
            results.append(refused)
            continue
        count, size = count + (known is None), size + grows
        results.append(_replace(connection, item.name, item.value))
    return results


def _replace(connection: sqlite3.Connection, name: Name, value: str) -> int:
    connection.execute("DELETE FROM store WHERE service = ? AND section = ? AND key = ?", name)
    cursor = connection.execute("INSERT INTO store (service, section, key, value) VALUES (?, ?, ?, ?)", (*name, value))
    return cursor.lastrowid or 0


def _bytes(name: Name) -> int:
    return sum(len(part.encode()) for part in name)


def _moved_on(item: Change, version: int) -> VerbError:
    now = f"has version {version}" if version else "does not exist"
    return VerbError(MDP.CONFLICT, f"{'/'.join(item.name)} {now}, not {item.expected}: read it again, then decide")


def _no_room(count: int, size: float, limits: Limits) -> VerbError | None:
    if count > ENTRIES:
        return VerbError(MDP.ERROR, f"the store is full: {ENTRIES} entries")
    if size > limits.total_bytes:
        return VerbError(MDP.ERROR, f"the store is full: store_bytes in [titanic] allows {limits.total_bytes} bytes")
    return None


def remove(connection: sqlite3.Connection, items: list[tuple[str, ...]]) -> list[int]:
    """Delete what is below each of the paths (service, section, key; the last may be missing): how many entries."""
    return [connection.execute(f"DELETE FROM store WHERE {_below(item)}", item).rowcount for item in items]  # noqa: S608


def _below(path: tuple[str, ...]) -> str:
    names = ("service", "section", "key")[: len(path)]
    return " AND ".join(f"{name} = ?" for name in names) or "1"


class Import:
    """A document to be taken in, all or nothing.

    :param replace: what is not in the document is deleted
    """

    __slots__ = ("limits", "replace", "values")

    def __init__(self, values: dict[Name, str], replace: bool, limits: Limits) -> None:
        self.values = values
        self.replace = replace
        self.limits = limits


def take_in(connection: sqlite3.Connection, items: list[Import]) -> list[dict[str, int] | VerbError]:
    """Import documents: what was set and deleted, or why nothing was."""
    results: list[dict[str, int] | VerbError] = []
    for item in items:
        connection.execute("SAVEPOINT document")
        deleted = 0
        if item.replace:
            names = connection.execute("SELECT service, section, key FROM store").fetchall()
            gone = [name for name in names if name not in item.values]
            deleted = sum(remove(connection, gone))
        for name, value in item.values.items():
            _replace(connection, name, value)
        count, size = connection.execute(TOTAL).fetchone()
        refused = _no_room(count, size, item.limits)
        if refused is not None:
            connection.execute("ROLLBACK TO document")
        connection.execute("RELEASE document")
        results.append(refused or {"set": len(item.values), "deleted": deleted})
    return results


def fetch(connection: sqlite3.Connection, name: Name) -> tuple[str, int] | None:
    """Value and version of one entry."""
    found: tuple[str, int] | None = connection.execute(
        "SELECT value, id FROM store WHERE service = ? AND section = ? AND key = ?", name
    ).fetchone()
    return found


def names_below(connection: sqlite3.Connection, path: tuple[str, ...]) -> dict[str, int]:
    """What is below a path: services or sections with the number of their entries, or keys with their versions."""
    column = ("service", "section", "key")[len(path)]
    figure, group = ("id", "") if len(path) == 2 else ("count(*)", f"GROUP BY {column}")
    return dict(
        connection.execute(
            f"SELECT {column}, {figure} FROM store WHERE {_below(path)} {group} ORDER BY {column}",  # noqa: S608  ours
            path,
        ).fetchall()
    )


def everything(connection: sqlite3.Connection, path: tuple[str, ...]) -> bytes:
    """All entries below a path, as a document."""
    services: dict[str, dict[str, dict[str, msgspec.Raw]]] = {}
    for service, section, key, value in connection.execute(
        f"SELECT service, section, key, value FROM store WHERE {_below(path)} ORDER BY 1, 2, 3",  # noqa: S608  ours
        path,
    ):
        services.setdefault(service, {}).setdefault(section, {})[key] = msgspec.Raw(value.encode())
    return json_encode(Document(FORMAT, FORMAT_VERSION, services))


def read_document(text: str, value_bytes: int) -> dict[Name, str]:
    """The values in a document.

    :raises VerbError: it is none
    """
    try:
        document = msgspec.json.decode(text, type=Document)
    except BAD_BODY as error:
        raise VerbError(MDP.BAD_REQUEST, f"this is no exported store: {error}") from None
    if (document.format, document.version) != (FORMAT, FORMAT_VERSION):
        raise VerbError(
            MDP.BAD_REQUEST,
            f"this is no exported store of version {FORMAT_VERSION}: it says {document.format!r:.60}, "
            f"version {document.version}",
        )
    values = {}
    for service, sections in document.services.items():
        for section, keys in sections.items():
            for key, raw in keys.items():
                name = checked_name(service, section, key)
                values[name] = checked_value(bytes(raw).decode(), value_bytes, "/".join(name))
    return values


def checked_name(*parts: str) -> Any:
    """The parts of a name, when each can be one.

    :raises VerbError: 400
    """
    for part in parts:
        if not part or len(part.encode()) > NAME_BYTES or not part.isprintable():
            raise VerbError(MDP.BAD_REQUEST, f"{part!r:.60}: a name is 1 to {NAME_BYTES} bytes of printable text")
    return parts


def checked_value(text: str, limit: int, name: str) -> str:
    """A value, when it is JSON: without the spaces between its parts, so that an export may be indented.

    :raises VerbError: 400
    """
    try:
        value = msgspec.json.format(text, indent=-1)
        size = len(value.encode())
        if size <= limit:
            decode_any(value)
    except BAD_BODY as error:
        raise VerbError(MDP.BAD_REQUEST, f"{name}: the value is not JSON: {error}") from None
    if size > limit:
        raise VerbError(
            MDP.BAD_REQUEST, f"{name}: a value has at most {limit} bytes (value_bytes in [titanic]), not {size}"
        )
    if value.count("[") + value.count("{") > DEPTH and levels(value) > DEPTH:
        raise VerbError(MDP.BAD_REQUEST, f"{name}: a value has at most {DEPTH} arrays and objects within each other")
    return value


def levels(text: str) -> int:
    """How many arrays and objects are within each other, at most, in a JSON text."""
    deepest = depth = 0
    for found in find_levels(text):
        mark = found[0]
        depth += (mark in ("[", "{")) - (mark in ("]", "}"))
        deepest = max(deepest, depth)
    return deepest


STORE = Verbs("titanic.store", slots=4, whole_name=True)


@STORE.verb(name="set")
def set_value(server: Titanic, service: str, section: str, key: str, value: str, version: str = "") -> Later:
    """Set a value, given as JSON, and answer its new ``version``. With the version that was read, it is set only if it
    still has that one (0: only if it does not exist), else ``409``."""
    name = checked_name(service, section, key)
    if version and not (len(version) < 19 and version.isascii() and version.isdecimal()):
        raise VerbError(MDP.BAD_REQUEST, f"version: a number that was read before, or 0, not {version!r:.60}")
    value = checked_value(value, server.settings.value_bytes, "/".join(name))
    change = Change(name, value, int(version) if version else None, Limits(server.settings.store_bytes))
    return server.store_write(put, change, lambda number: {"version": number})


@STORE.verb(name="get", reads=True)
def get_value(server: Titanic, service: str, section: str, key: str) -> Later:
    """``value`` and ``version`` of an entry; ``404`` when there is none."""
    name = checked_name(service, section, key)

    def answer(found: tuple[str, int] | None) -> Any:
        if found is None:
            return VerbError(MDP.NOT_FOUND, f"there is no {'/'.join(name)}")
        return {"value": msgspec.Raw(found[0].encode()), "version": found[1]}

    return server.store_read(lambda connection: fetch(connection, name), answer)


@STORE.verb(name="delete")
def delete_value(server: Titanic, service: str, section: str | None = None, key: str | None = None) -> Later:
    """Delete an entry, a section or all of a service; how many entries were ``deleted``, which may be 0."""
    # An empty name is refused here: it must not stand for everything.
    path = checked_name(*(name for name in (service, section, key) if name is not None))
    return server.store_write(remove, path, lambda count: {"deleted": count})


@STORE.verb(name="list", reads=True)
def list_names(server: Titanic, service: str | None = None, section: str | None = None) -> Later:
    """The ``services`` and the ``sections`` of one with the number of their entries, or the ``keys`` of a section with
    their versions."""
    path = _path(service, section)
    heading = ("services", "sections", "keys")[len(path)]
    return server.store_read(lambda connection: names_below(connection, path), lambda names: {heading: names})


@STORE.verb(name="export", reads=True)
def export_all(server: Titanic, service: str | None = None) -> Later:
    """Everything, or everything of one service, as a document that ``import`` takes."""
    path = _path(service)
    return server.store_read(lambda connection: everything(connection, path), msgspec.Raw)


@STORE.verb(name="import")
def import_all(server: Titanic, document: str, mode: str = "merge") -> Later:
    """Take in a document, all of it or nothing. ``merge`` leaves what it does not name; ``replace`` deletes that."""
    if mode not in ("merge", "replace"):
        raise VerbError(MDP.BAD_REQUEST, f"the mode is merge or replace, not {mode!r:.60}")
    values = read_document(document, server.settings.value_bytes)
    return server.store_write(
        take_in, Import(values, mode == "replace", Limits(server.settings.store_bytes)), lambda counts: counts
    )


def _path(*parts: str | None) -> tuple[str, ...]:
    """The parts that are given. An empty one is not a missing one: it must not widen what is deleted.

    :raises VerbError: 400
    """
    path: tuple[str, ...] = checked_name(*(part for part in parts if part is not None))
    return path
