"""Which number a series has in the file, and under which name it goes.

A series is a key with its unit. The one that the key has now goes by the key; those of units that it had before, by the
unit in parentheses and the key, which no key can be. The functions run on a pool thread, in a transaction.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator

from raspy.servers.logger.recent import MOST_SERIES, named
from raspy.servers.logger.rows import DAY
from raspy.servers.logger.schema import MASK, PIECES_OF_DAY, SHIFT

logger = logging.getLogger("raspy.logger")

DAYS_OF = {
    "journal": f"max(start) / {DAY}",
    "raw": f"max(id) >> {SHIFT}",
    "pieces": f"(max(id) >> {SHIFT}) / {PIECES_OF_DAY}",
    "minutes": f"max(id) >> {SHIFT}",
    "hours": f"max(id) >> {SHIFT}",
    "days": f"max(id) >> {SHIFT}",
}
"""The tables that have rows of series, and how the last day of these is found."""


def settle(connection: sqlite3.Connection) -> None:
    """See, once for each file, that all numbers in it belong to a series.

    Of a damaged file the rows of a series may have been saved and its key not. Then the key is known from the other
    table that has it; or the rows are kept under a name of their own, so that no other series is given their number.
    """
    if connection.execute("SELECT 1 FROM checked").fetchone():
        return
    last: dict[int, int] = {}
    for table, day in DAYS_OF.items():
        query = f"SELECT id & {MASK}, {day} FROM {table} GROUP BY id & {MASK}"  # noqa: S608  ours
        for number, found in connection.execute(query):
            last[number] = max(found, last.get(number, 0))
    known = dict(connection.execute("SELECT id, key FROM series"))
    spare = {number: (key, unit) for number, key, unit in connection.execute("SELECT id, key, unit FROM name")}
    for number in sorted(last.keys() - known.keys() - {0}):
        key, unit = spare.get(number, ("", ""))
        if not key or key in known.values():
            key = named(str(number), "lost")
            logger.error("history: of series %s it is not known what it was; it goes by the name %s", number, key)
        known[number] = key
        put = "INSERT INTO series (id, key, unit, last) VALUES (?, ?, ?, ?)"
        connection.execute(put, (number, key, unit, last[number]))
    connection.execute("DELETE FROM name")
    connection.execute("INSERT INTO name (id, key, unit) SELECT id, key, unit FROM series")
    for table in ("journal", "event"):
        unknown = f"UPDATE {table} SET clock = 0 WHERE clock <> 0 AND clock NOT IN (SELECT id FROM clock)"  # noqa: S608
        connection.execute(unknown)
    connection.execute("INSERT INTO checked (id) VALUES (1)")


class Names:
    """The series, as they are in a transaction."""

    __slots__ = ("_connection", "_free", "_known")

    def __init__(self, connection: sqlite3.Connection) -> None:
        settle(connection)
        self._connection = connection
        self._known: dict[str, tuple[int, str]] = {
            key: (number, unit) for key, number, unit in connection.execute("SELECT key, id, unit FROM series")
        }
        self._free: Iterator[int] | None = None

    def number(self, name: str) -> int | None:
        """The number of a series; None when there is none of that name."""
        return self._known[name][0] if name in self._known else None

    def count(self, start: str) -> int:
        """How many series there are of keys that begin with this, whatever their units."""
        return sum(name.startswith(start) or f") {start}" in name for name in self._known)

    def place(self, key: str, unit: str, current: bool) -> str:
        """The name of the series to which readings of a key in a unit belong.

        :param unit: empty: not known, it is that which the key has
        :param current: it is the unit that the key has from now on
        """
        former = named(key, unit)
        known = self._known.get(key)
        if known is None:
            if unit and former in self._known:
                if not current:
                    return former
                self._rename(former, key, unit)
            return key
        number, its = known
        if not unit or its == unit:
            return key
        if not its:
            if current:
                self._write(number, key, unit)
            return key
        if not current:
            return former
        self._rename(key, self._unused(named(key, its)), its)
        if former in self._known:
            self._rename(former, key, unit)
        return key

    def begin(self, name: str, unit: str, day: int) -> int | None:
        """The number of a new series; None when there are as many as there can be."""
        if self._free is None:
            used = {number for number, _ in self._known.values()}
            self._free = iter(sorted(set(range(1, MOST_SERIES + 1)) - used))
        number = next(self._free, None)
        if number is not None:
            values = number, name, unit, day
            self._connection.execute("INSERT INTO series (id, key, unit, last) VALUES (?, ?, ?, ?)", values)
            self._connection.execute("INSERT OR REPLACE INTO name (id, key, unit) VALUES (?, ?, ?)", values[:3])
            self._known[name] = number, unit
        return number

    def _rename(self, name: str, other: str, unit: str) -> None:
        number, _ = self._known.pop(name)
        self._write(number, other, unit)

    def _write(self, number: int, name: str, unit: str) -> None:
        self._connection.execute("UPDATE series SET key = ?, unit = ? WHERE id = ?", (name, unit, number))
        self._connection.execute("INSERT OR REPLACE INTO name (id, key, unit) VALUES (?, ?, ?)", (number, name, unit))
        self._known[name] = number, unit

    def _unused(self, name: str) -> str:
        """A name, with a number if it is taken: a series that had no unit may have been given one that there was."""
        free, count = name, 1
        while free in self._known:
            count += 1
            free = f"{name} {count}"
        return free


def marks(connection: sqlite3.Connection) -> dict[str, int]:
    """By key, what tells the last reading that was written from others; of those that the file knows it of."""
    keys = dict(connection.execute("SELECT id, key FROM series"))
    found = dict(connection.execute("SELECT id, told FROM series WHERE told <> 0"))
    query = f"SELECT id & {MASK}, told, max(id) FROM journal WHERE told <> 0 GROUP BY id & {MASK}"  # noqa: S608  ours
    found.update((number, told) for number, told, _ in connection.execute(query))
    return {keys[number]: told for number, told in found.items() if number in keys}


def forget(connection: sqlite3.Connection, items: list[str]) -> list[bool]:
    """Delete series with all that was kept of them; whether there was any such."""
    found = []
    for key in items:
        number = connection.execute("SELECT id FROM series WHERE key = ?", (key,)).fetchone()
        if number:
            for table in DAYS_OF:
                connection.execute(f"DELETE FROM {table} WHERE id & {MASK} = ?", number)  # noqa: S608  ours
            for table in ("series", "name"):
                connection.execute(f"DELETE FROM {table} WHERE id = ?", number)  # noqa: S608  ours
        found.append(number is not None)
    return found
