"""The file of the durable requests: its schema and what is done with it.

The functions take a connection and run on a pool thread. A request's number is its place in the order of arrival;
its uuid is the number and eight random bytes, so that it is found without an index.
"""

from __future__ import annotations

import os
import sqlite3
from typing import Any

from raspy.common.database import Schema
from raspy.servers.titanic.records import DONE, LATE, PARKED, PENDING, Accepted, Begun, Boot, Request, unpack

# What may be long stands last: SQLite reads a row from its beginning, as far as it must.
SCHEMAS: tuple[Schema, ...] = (
    (
        """CREATE TABLE requests (
            id INTEGER PRIMARY KEY,
            secret BLOB NOT NULL CHECK (length(secret) = 8),
            client BLOB,
            service BLOB NOT NULL CHECK (typeof(service) = 'blob'),
            state INTEGER NOT NULL DEFAULT 0 CHECK (state BETWEEN 0 AND 3),
            failures INTEGER NOT NULL DEFAULT 0 CHECK (typeof(failures) = 'integer'),
            attempt INTEGER NOT NULL DEFAULT 0 CHECK (typeof(attempt) = 'integer'),
            starts INTEGER NOT NULL DEFAULT 0 CHECK (typeof(starts) = 'integer'),
            at REAL NOT NULL CHECK (typeof(at) = 'real'),
            deadline REAL,
            lifetime REAL,
            time REAL NOT NULL CHECK (typeof(time) = 'real'),
            trusted INTEGER NOT NULL CHECK (trusted BETWEEN 0 AND 1),
            reply BLOB,
            body BLOB NOT NULL CHECK (typeof(body) = 'blob')
        )""",
        "CREATE INDEX pending ON requests (service, id) WHERE state = 0",
        "CREATE UNIQUE INDEX client ON requests (client) WHERE client IS NOT NULL",
        "CREATE INDEX deadline ON requests (deadline) WHERE state = 0 AND deadline IS NOT NULL",
        "CREATE TABLE boot (id INTEGER PRIMARY KEY, boot_id TEXT NOT NULL, base REAL NOT NULL)",
    ),
)
TABLES = ("requests", "boot")


class Numbers:
    """Gives the requests their numbers; used by the thread that writes."""

    def __init__(self) -> None:
        self.next = 1
        self.base = 0.0

    def accept(self, connection: sqlite3.Connection, items: list[Accepted]) -> list[tuple[int, bytes, bool] | None]:
        """Keep new requests; number, secret, and whether it is new (a repeat of one that is kept is not).

        None when the file is full.
        """
        if used_bytes(connection) > min(item.most_bytes for item in items):
            kept = [known(connection, item.client) for item in items]
            return [(*found, False) if found else None for found in kept]
        rows = []
        for item in items:
            at = self.base + item.since
            item.deadline = None if item.lifetime is None else at + item.lifetime
            told = (item.client, item.service, item.body, at, item.deadline, item.lifetime, item.time, item.trusted)
            rows.append((self.next, os.urandom(8), *told))
            self.next += 1
        before = connection.total_changes
        connection.executemany(
            "INSERT INTO requests (id, secret, client, service, body, at, deadline, lifetime, time, trusted) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (client) WHERE client IS NOT NULL DO NOTHING",
            rows,
        )
        if connection.total_changes - before == len(items):
            return [(row[0], row[1], True) for row in rows]
        return [self._known(connection, row[0], row[1], row[2]) for row in rows]

    def _known(
        self, connection: sqlite3.Connection, number: int, secret: bytes, client: bytes | None
    ) -> tuple[int, bytes, bool]:
        kept = known(connection, client)
        return (number, secret, True) if kept is None or kept[0] == number else (*kept, False)

    def begin(self, connection: sqlite3.Connection, items: list[tuple[Boot, int]]) -> list[Begun]:
        """Find out where to go on. An item is what is known of this boot, and how many services to name."""
        (highest,) = connection.execute("SELECT max(id) FROM requests").fetchone()
        self.next = max(self.next, (highest or 0) + 1)
        found = []
        for boot, limit in items:
            begun = begin(connection, boot)
            self.base = begun.base
            begun.first_own = self.next
            begun.counts = counts(connection)
            begun.next_deadline = next_deadline(connection)
            begun.services = services(connection, b"", limit)
            found.append(begun)
        return found


def known(connection: sqlite3.Connection, client: bytes | None) -> tuple[int, bytes] | None:
    """Number and secret of the request to which its client gave an id; None when it is not kept."""
    if client is None:
        return None
    found: tuple[int, bytes] | None = connection.execute(
        "SELECT id, secret FROM requests WHERE client = ?", (client,)
    ).fetchone()
    return found


IN_TIME = "trusted AND :trusted AND time <= :time AND deadline - at > :time - time"
"""Of a request from before a reboot: that its age is known, and less than its lifetime."""


def begin(connection: sqlite3.Connection, boot: Boot) -> Begun:
    """Set the server's own clock, which never goes back.

    Within one boot it is the kernel's. After a reboot it goes on from the latest time in the file: how long the
    machine was off is not known, unless the clock could be believed before and can be now.
    """
    known = connection.execute("SELECT boot_id, base FROM boot").fetchone()
    if boot.base is None and known is not None and known[0] == boot.boot_id:
        return Begun(known[1], [])
    if boot.base is not None:
        # Another file than before, with what could be saved of that: its times are those of this process.
        connection.execute(
            "INSERT OR REPLACE INTO boot (id, boot_id, base) VALUES (1, ?, ?)", (boot.boot_id, boot.base)
        )
        return Begun(boot.base, [])
    (latest,) = connection.execute("SELECT max(at) FROM requests").fetchone()
    base = max(latest or 0.0, known[1] if known else 0.0)
    now = {"now": base + boot.since, "time": boot.time, "trusted": boot.trusted}
    connection.execute("INSERT OR REPLACE INTO boot (id, boot_id, base) VALUES (1, ?, ?)", (boot.boot_id, base))
    old = f"WHERE state = {PENDING} AND deadline IS NOT NULL AND NOT ({IN_TIME})"
    late = connection.execute(
        f"SELECT service, count(*) FROM requests INDEXED BY deadline {old} GROUP BY service",  # noqa: S608  ours
        now,
    ).fetchall()
    connection.execute(f"UPDATE requests SET state = {LATE}, at = :now {old}", now)  # noqa: S608  ours
    connection.execute(
        "UPDATE requests SET at = :now - (:time - time), deadline = :now - (:time - time) + deadline - at "  # noqa: S608
        f"WHERE state = {PENDING} AND deadline IS NOT NULL",
        now,
    )
    return Begun(base, late)


def finish(connection: sqlite3.Connection, items: list[tuple[bytes, float, int]]) -> list[int]:
    """Keep replies; an item is the packed reply, the time, the number. 0 for one that is not kept any more.

    The body is not needed again.
    """
    statement = f"UPDATE requests SET state = {DONE}, body = x'', reply = ?, at = ? WHERE id = ? AND state = {PENDING}"  # noqa: S608
    return [connection.execute(statement, item).rowcount for item in items]


def fail(connection: sqlite3.Connection, items: list[tuple[int, bytes, float, int]]) -> list[int]:
    """Count failures: state (pending or parked), packed last reply, time, number. 0 for one that is not kept."""
    statement = (
        "UPDATE requests SET failures = failures + 1, attempt = attempt + 1, state = ?1, reply = ?2, "  # noqa: S608
        f"at = iif(?1, ?3, at) WHERE id = ?4 AND state = {PENDING}"
    )
    return [connection.execute(statement, item).rowcount for item in items]


def used_bytes(connection: sqlite3.Connection) -> int:
    """Bytes of the file that are in use."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    return int((pages - free) * size)


def mark(connection: sqlite3.Connection, items: list[int]) -> list[int]:
    """Take note, before they are begun, of requests that an earlier Titanic may have begun. 0 for one not kept."""
    statement = f"UPDATE requests SET starts = starts + 1 WHERE id = ? AND state = {PENDING}"  # noqa: S608  ours
    return [connection.execute(statement, (item,)).rowcount for item in items]


def unmark(connection: sqlite3.Connection, items: list[int]) -> list[None]:
    """Take the note back: this Titanic ends in good order."""
    connection.executemany("UPDATE requests SET starts = max(0, starts - 1) WHERE id = ?", [(item,) for item in items])
    return [None] * len(items)


def close(connection: sqlite3.Connection, items: list[tuple[int, bytes]]) -> list[tuple[int, bytes] | None]:
    """Forget requests: number, secret; its state and service come back, None when it is not known."""
    return [
        connection.execute("DELETE FROM requests WHERE id = ? AND secret = ? RETURNING state, service", item).fetchone()
        for item in items
    ]


EXPIRED = 2000
"""Requests forgotten in one transaction."""


def expire(connection: sqlite3.Connection, items: list[float]) -> list[dict[int, int]]:
    """Forget what ended before a time; how many by state."""
    found = []
    for before in items:
        counts: dict[int, int] = {}
        for (state,) in connection.execute(
            "DELETE FROM requests WHERE id IN (SELECT id FROM requests WHERE state > 0 AND at < ? LIMIT ?) "
            "RETURNING state",
            (before, EXPIRED),
        ).fetchall():
            counts[state] = counts.get(state, 0) + 1
        found.append(counts)
    return found


def overdue(
    connection: sqlite3.Connection, items: list[tuple[float, frozenset[int]]]
) -> list[tuple[list[tuple[int, bytes, bytes]], float | None]]:
    """End what should have begun by now, those excepted that have begun: those ended, and the next deadline."""
    found = []
    for now, begun in items:
        rows = connection.execute(
            "SELECT id, secret, service FROM requests WHERE state = 0 AND deadline <= ? LIMIT ?",
            (now, 2000 + len(begun)),
        ).fetchall()
        late = [row for row in rows if row[0] not in begun]
        connection.executemany(
            f"UPDATE requests SET state = {LATE}, at = ? WHERE id = ?",  # noqa: S608  a constant
            [(now, row[0]) for row in late],
        )
        found.append((late, next_deadline(connection)))
    return found


def next_deadline(connection: sqlite3.Connection) -> float | None:
    """The earliest of the deadlines."""
    (first,) = connection.execute(
        "SELECT min(deadline) FROM requests WHERE state = 0 AND deadline IS NOT NULL"
    ).fetchone()
    return None if first is None else float(first)


def retry(connection: sqlite3.Connection, items: list[tuple[int, bytes, float]]) -> list[tuple[int, bytes] | None]:
    """Have parked requests run again: state before and service come back, None for one that is not known.

    An item is number, secret and the time, from which its lifetime counts anew.
    """
    found = []
    for number, secret, now in items:
        row = connection.execute(
            "SELECT state, service FROM requests WHERE id = ? AND secret = ?", (number, secret)
        ).fetchone()
        found.append(row)
        if row is not None and row[0] == PARKED:
            # An attempt more, as its id must be a new one: the server would answer a known one from memory.
            connection.execute(
                "UPDATE requests SET state = 0, failures = 0, starts = 0, attempt = attempt + 1, at = ?1, "
                "deadline = ?1 + lifetime, reply = NULL WHERE id = ?2",
                (now, number),
            )
    return found


def page(
    connection: sqlite3.Connection, service: bytes, after: int, limit: int, most_bytes: int
) -> tuple[list[Request], bool]:
    """The next requests of a service that are pending, in order, and whether there are more.

    One comes in any case; further ones while their bodies do not have more bytes than they may.
    """
    found: list[Request] = []
    size = 0
    rows = connection.execute(
        "SELECT id, secret, body, failures, attempt, starts, deadline FROM requests "
        "WHERE state = 0 AND service = ? AND id > ? ORDER BY id LIMIT ?",
        (service, after, limit + 1),
    )
    for row in rows:
        size += len(row[2])
        if found and (len(found) == limit or size > most_bytes):
            return found, True
        found.append(Request(row[0], row[1], service, unpack(row[2]), *row[3:]))
    return found, False


def services(connection: sqlite3.Connection, after: bytes, limit: int) -> list[bytes]:
    """The next services, in the order of their names, for which requests are pending.

    Each is one look into the index, however many requests it has.
    """
    found: list[bytes] = []
    while len(found) < limit:
        row = connection.execute(
            "SELECT service FROM requests WHERE state = 0 AND service > ? ORDER BY service LIMIT 1", (after,)
        ).fetchone()
        if row is None:
            break
        after = row[0]
        found.append(after)
    return found


def counts(connection: sqlite3.Connection) -> dict[int, int]:
    """How many requests are in each state."""
    return dict(connection.execute("SELECT state, count(*) FROM requests GROUP BY state").fetchall())


def replies(connection: sqlite3.Connection, number: int, secret: bytes) -> tuple[int, bytes | None, int] | None:
    """State, reply and failures of a request; None when it is not known."""
    found: tuple[int, bytes | None, int] | None = connection.execute(
        "SELECT state, reply, failures FROM requests WHERE id = ? AND secret = ?", (number, secret)
    ).fetchone()
    return found


COLUMNS = "id, secret, service, state, at, failures, deadline, time, reply, body"
SHORT_COLUMNS = (
    f"id, secret, service, state, at, failures, deadline, time, iif(state = {DONE}, NULL, substr(reply, 1, 1024))"
)
"""Without what may be long; of a failed one's reply the reason is first."""


def rows(connection: sqlite3.Connection, state: int | None, limit: int) -> list[Any]:
    """What the file says of requests, those of one state or all, the oldest first; without their bodies."""
    where = "" if state is None else "WHERE state = ?"
    return connection.execute(
        f"SELECT {SHORT_COLUMNS} FROM requests {where} ORDER BY id LIMIT ?",  # noqa: S608  ours
        (limit,) if state is None else (state, limit),
    ).fetchall()


def row(connection: sqlite3.Connection, number: int, secret: bytes) -> Any:
    """What the file says of one request; None when it is not known."""
    return connection.execute(
        f"SELECT {COLUMNS} FROM requests WHERE id = ? AND secret = ?",  # noqa: S608  ours
        (number, secret),
    ).fetchone()
