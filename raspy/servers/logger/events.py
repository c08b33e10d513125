"""What happened: events of the tree, as they are gathered, written and asked for.

Functions that take a connection run on a pool thread.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterable
from typing import Any

import msgspec

from raspy.common.kvsimple import BAD_BODY
from raspy.servers.logger.rows import DAY

BRANCH = "/event/"
KINDS = ("output", "alarm", "contact", "press", "scenario", "cron", "notify", "time", "server", "request")
"""Those that are kept if the settings name no others."""
OF_DEVICES = ("output", "contact", "press")
"""Kinds whose name is that of a device."""
BODY_BYTES = 4096
NAME_BYTES = 255
MOST = 1000
"""Events that are gathered at most, and so written in one batch."""
ROOM_OF_KIND = 50
"""Of each kind there is room for so many all the same: a storm of one costs the others nothing."""
MOST_OF_NAME = 100
"""Of one name; of more in one batch the last one is kept, with how many were left out before it."""
MOST_MARKS = 1000
"""Of so many of the last ones it is known what they were, even if their times were moved meanwhile."""
ROOM = 20
"""When there are more than there may be by one part in so many, they are cut down to what there may be: not with each
batch, as what goes is in other pages than what comes."""
SECOND = 1000

_decode = msgspec.json.Decoder().decode


class Event:
    """Something that happened.

    :param kind: the second part of its key
    :param name: the rest of it
    :param time: Unix time in ms
    :param body: the JSON object as it was published
    :param about: the key of the tree that it is about, if the body names one
    :param moves: its time is of a clock that is not known to be right, and is moved with it
    :param stamped: its time is in the body, so that the same body is the same event
    """

    __slots__ = ("about", "body", "kind", "left_out", "moves", "name", "stamped", "time")

    def __init__(
        self, kind: str, name: str, time: int, body: str, about: str = "", moves: bool = False, stamped: bool = False
    ) -> None:
        self.kind = kind
        self.name = name
        self.time = time
        self.body = body
        self.about = about
        self.moves = moves
        self.stamped = stamped
        self.left_out = 0
        """Earlier ones of its name that it stands for too."""

    def copy(self) -> Event:
        """The same once more."""
        other = Event(self.kind, self.name, self.time, self.body, self.about, self.moves, self.stamped)
        other.left_out = self.left_out
        return other


def read(
    key: str, body: bytes, kinds: Iterable[str], now: float, near: float, boot: float = float("inf")
) -> Event | None:
    """The event in a change of the tree; None when it is none that is kept.

    :param now: Unix time in s
    :param near: seconds by which the time of one that was made now may be off; one that is ahead by more was made now.
        One that is older is told late, or again
    :param boot: when this boot began, by the clock that says what ``now`` is: what is of this boot is moved with it
    """
    kind, slash, name = key.removeprefix(BRANCH).partition("/")
    if not (key.startswith(BRANCH) and slash and name and name.isprintable() and kind in kinds):
        return None
    if not 0 < len(body) <= BODY_BYTES or len(name.encode("utf-8", "replace")) > NAME_BYTES:
        return None
    try:
        content = _decode(body)
        text = body.decode()
    except BAD_BODY:
        return None
    if not isinstance(content, dict):
        return None
    time, about = content.get("time"), content.get("key")
    stamped = True
    if isinstance(time, bool) or not isinstance(time, int | float) or not 0 <= time <= now + near:
        time, stamped = now, False
    about = about if isinstance(about, str) and len(about) <= NAME_BYTES and about.startswith("/") else ""
    return Event(kind, name, round(time * SECOND), text, about, min(now - near, boot) <= time, stamped)


class Gathered:
    """The events since the last batch: so many at most, whatever happens."""

    __slots__ = ("_kinds", "_of", "events")

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._of: dict[tuple[str, str], tuple[int, Event]] = {}
        self._kinds: dict[str, int] = {}

    @property
    def full(self) -> bool:
        """Whether there is only room for kinds that have few."""
        return len(self.events) >= MOST

    def __len__(self) -> int:
        """How many there are, with those that they stand for."""
        return sum(1 + event.left_out for event in self.events)

    def add(self, event: Event) -> bool:
        """Add one; whether there was room for it. One that comes too often takes the place of the one before."""
        count, last = self._of.get((event.kind, event.name), (0, None))
        of_kind = self._kinds.get(event.kind, 0)
        full = self.full and of_kind >= ROOM_OF_KIND
        if last is not None and (count >= MOST_OF_NAME or full):
            last.time, last.body, last.about, last.moves = event.time, event.body, event.about, event.moves
            last.left_out += 1
            return True
        if full:
            return False
        self.events.append(event)
        self._kinds[event.kind] = of_kind + 1
        self._of[event.kind, event.name] = count + 1, event
        return True

    def move(self, by: int) -> None:
        """The clock was set: those of now were so many ms later."""
        for event in self.events:
            if event.moves:
                event.time = max(event.time + by, 0)


def mark(kind: str, name: str, body: str) -> int:
    """What tells an event from others."""
    return zlib.crc32(f"{kind}/{name} {body}".encode())


def marks(connection: sqlite3.Connection) -> set[int]:
    """Those of the last events that were written."""
    query = "SELECT kind, name, body FROM event ORDER BY id DESC LIMIT ?"
    return {mark(*map(str, row)) for row in connection.execute(query, (MOST_MARKS,))}


def keep(connection: sqlite3.Connection, events: list[Event], clock: int) -> None:
    """Write events, each once.

    :param clock: the number of the time in which the clock was not known to be right, as they were made; 0: it was
    """
    seen = "SELECT 1 FROM event WHERE time = ? AND kind = ? AND name = ? AND body = ?"
    put = "INSERT INTO event (time, clock, kind, name, about, left_out, body) VALUES (?, ?, ?, ?, ?, ?, ?)"
    for event in events:
        if connection.execute(seen, (event.time, event.kind, event.name, event.body)).fetchone() is None:
            its = clock if event.moves else 0
            row = event.time, its, event.kind, event.name, event.about, event.left_out, event.body
            connection.execute(put, row)


def prune(connection: sqlite3.Connection, most: int, days: int) -> None:
    """Let go of the oldest: of more than ``most`` those of the kinds that have most; and all but those of the last so
    many days in which anything happened, as a clock that jumps ahead by years is to cost nothing."""
    (count,) = connection.execute("SELECT count(*) FROM event").fetchone()
    if count > most + most // ROOM:
        counts = dict(connection.execute("SELECT kind, count(*) FROM event GROUP BY kind"))
        share = fair_share(list(counts.values()), most)
        for kind, its in counts.items():
            if its > share:
                connection.execute(
                    "DELETE FROM event WHERE id IN (SELECT id FROM event WHERE kind = ? ORDER BY id LIMIT ?)",
                    (kind, its - share),
                )
    # Each by itself, as only then the index has it at its end.
    (oldest,) = connection.execute("SELECT min(time) FROM event").fetchone()
    (newest,) = connection.execute("SELECT max(time) FROM event").fetchone()
    if oldest is None or newest // DAY - oldest // DAY < days:
        return
    first = connection.execute(
        """
        WITH RECURSIVE day(n) AS (
            SELECT max(time) / :day FROM event
            UNION ALL
            SELECT (SELECT max(time) FROM event WHERE time < n * :day) / :day FROM day WHERE n IS NOT NULL
        )
        SELECT n FROM day WHERE n IS NOT NULL LIMIT 1 OFFSET :count
        """,
        {"day": DAY, "count": days - 1},
    ).fetchone()
    if first is not None:
        connection.execute("DELETE FROM event WHERE time < ?", (first[0] * DAY,))


def fair_share(counts: list[int], room: int) -> int:
    """How many each may have at most, so that all together have no more than there is room for."""
    left, share = room, room
    for done, count in enumerate(sorted(counts)):
        share = left // (len(counts) - done)
        if count > share:
            break
        left -= count
    return share


def set_right(connection: sqlite3.Connection, clock: int, by: int) -> None:
    """The clock is right now: move those of a time in which it was not."""
    connection.execute("UPDATE event SET time = max(time + ?, 0), clock = 0 WHERE clock = ?", (by, clock))


class Wanted:
    """What is asked for.

    :param pattern: a part of ``<kind>/<name>``, or a pattern of all of it (``*``, ``?``, ``[…]``); or a key of the tree
        or the branch of a device there: what happened to the device, and what is about the key. Empty: all
    :param since: Unix time in ms
    :param until: the end, which belongs to it
    :param count: so many at most
    :param skip: how many of the first ones, all of the time ``until``, are not wanted
    :param recent: those that are not on the disk yet, in the order in which they came
    """

    __slots__ = ("count", "pattern", "recent", "since", "skip", "until")

    def __init__(self, pattern: str, since: int, until: int, count: int, skip: int, recent: list[Event]) -> None:
        self.pattern = pattern
        self.since = since
        self.until = until
        self.count = count
        self.skip = skip
        self.recent = recent

    def condition(self) -> tuple[str, dict[str, Any]]:
        """What is true of a row that is wanted, in SQL."""
        pattern = self.pattern
        if not pattern:
            return "1", {}
        if pattern.startswith("/"):
            device = pattern.removeprefix("/device/").partition("/")[0] if pattern.startswith("/device/") else ""
            kinds = ", ".join(f"'{kind}'" for kind in OF_DEVICES)
            match = f"(kind IN ({kinds}) AND name = :device) OR about = :pattern OR substr(about, 1, :length) = :below"
            below = pattern.rstrip("/") + "/"
            return match, {"device": device, "pattern": pattern, "below": below, "length": len(below)}
        if any(sign in pattern for sign in "*?["):
            return "kind || '/' || name GLOB :pattern", {"pattern": pattern}
        return "instr(lower(kind || '/' || name), lower(:pattern)) > 0", {"pattern": pattern}


Found = tuple[int, str, str, int, str]
"""Time in ms, kind, name, how many were left out before it, body."""


def find(connection: sqlite3.Connection, wanted: Wanted) -> dict[str, Any]:
    """The newest events that are wanted, newest first, and where the next page begins."""
    match, words = wanted.condition()
    # What is not on the disk yet came later, so that it is first among those of one time. A batch that was written
    # meanwhile is in both.
    loose = [row for row in reversed(wanted.recent) if wanted.since <= row.time <= wanted.until]
    (same,) = connection.execute(
        f"SELECT count(*) FROM event WHERE time = :until AND ({match})",  # noqa: S608
        {**words, "until": wanted.until},
    ).fetchone()
    skip = min(wanted.skip, same + len(loose))
    given = {**words, "since": wanted.since, "until": wanted.until, "most": skip + wanted.count + 1}
    rows = connection.execute(
        f"SELECT time, kind, name, left_out, body FROM event WHERE time >= :since AND time <= :until AND ({match}) "  # noqa: S608
        "ORDER BY time DESC, id DESC LIMIT :most",
        given,
    ).fetchall()
    matches = matching(connection, match, words, loose)
    found: dict[tuple[int, str, str, str], Found] = {}
    fresh = ((e.time, e.kind, e.name, e.left_out, e.body) for e in matches)
    for row in sorted([*fresh, *rows], key=lambda row: -row[0]):
        found.setdefault((row[0], row[1], row[2], row[4]), row)
    ordered = list(found.values())
    begin = min(skip, sum(row[0] == wanted.until for row in ordered))
    page, rest = ordered[begin : begin + wanted.count], ordered[begin + wanted.count :]
    following = rest[0][0] if rest else None
    return {
        "events": [told(row) for row in page],
        "next": None if following is None else following / SECOND,
        "skip": 0 if following is None else _skipped(ordered, begin + wanted.count, following),
    }


def _skipped(ordered: list[Found], place: int, time: int) -> int:
    """How many of those before a place are of a time."""
    return sum(row[0] == time for row in ordered[:place])


def matching(connection: sqlite3.Connection, match: str, words: dict[str, Any], events: list[Event]) -> list[Event]:
    """Those of which a condition is true, as SQLite sees it, which reads patterns its own way."""
    query = f"SELECT 1 FROM (SELECT :kind AS kind, :name AS name, :about AS about) WHERE {match}"  # noqa: S608  ours
    known: dict[tuple[str, str, str], bool] = {}

    def is_wanted(event: Event) -> bool:
        key = event.kind, event.name, event.about
        if key not in known:
            row = {**words, "kind": event.kind, "name": event.name, "about": event.about}
            known[key] = connection.execute(query, row).fetchone() is not None
        return known[key]

    return [event for event in events if is_wanted(event)]


def told(row: Found) -> dict[str, Any]:
    """An event as it is answered."""
    time, kind, name, left_out, text = row
    try:
        body = _decode(text)
    except (*BAD_BODY, TypeError):
        body = {"reason": "what was kept of it cannot be read"}
    answer: dict[str, Any] = {"time": time / SECOND, "kind": kind, "name": name, "body": body}
    if left_out:
        answer["left_out"] = left_out
    return answer
