"""The file in which notices wait until they are told, and messages until they are delivered.

Of each alarm and channel there is one row, with the last notice and how many changes it stands for: a storm takes no
more room than its alarms. A message is put together and kept before it is sent for the first time, and is there until
it is delivered, so that each repeat is the same, with the same id. Every function here runs on a pool thread, within a
transaction of :class:`raspy.common.storage.Storage`.
"""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec

from raspy.common.database import Schema
from raspy.servers.alarm.letters import Entry, Letter, Sent, after, letter_of
from raspy.servers.alarm.message import Frame, Told, rank

SCHEMAS: tuple[Schema, ...] = (
    (
        """CREATE TABLE waiting (
            id INTEGER PRIMARY KEY,
            channel TEXT NOT NULL CHECK (typeof(channel) = 'text'),
            name TEXT NOT NULL CHECK (typeof(name) = 'text'),
            rank INTEGER NOT NULL CHECK (typeof(rank) = 'integer'),
            told TEXT NOT NULL CHECK (json_valid(told)),
            UNIQUE (channel, name)
        )""",
        "CREATE INDEX by_rank ON waiting (rank, id)",
        """CREATE TABLE message (
            id INTEGER PRIMARY KEY,
            channel TEXT NOT NULL UNIQUE CHECK (typeof(channel) = 'text'),
            letter TEXT NOT NULL CHECK (json_valid(letter))
        )""",
        """CREATE TABLE mark (
            id INTEGER PRIMARY KEY,
            name TEXT NOT NULL UNIQUE CHECK (typeof(name) = 'text'),
            value TEXT NOT NULL CHECK (json_valid(value))
        )""",
    ),
)
TABLES = ("waiting", "message", "mark")
MOST = 10_000
"""Rows that wait; what is less grave is then only counted."""
GONE = "gone:"
"""Marks: by channel, changes that are only counted."""
SENT = "sent:"
"""Marks: by channel, when a message was last sent (:class:`~raspy.servers.alarm.letters.Sent`)."""
ASIDE, MOST_ASIDE = "aside:", 100
"""Marks: rows that could not be read, which are kept for whoever can, and how many."""
DAY = "well"
"""Mark: the last day on which all was said to be well, or not."""

encode = msgspec.json.Encoder().encode
read_told = msgspec.json.Decoder(Told).decode
BAD = (msgspec.MsgspecError, UnicodeError, RecursionError)
"""What reading a row raises that has another shape than this version writes."""


class Batch:
    """What is written together: notices, changes that are only counted by channel, and marks to be set."""

    __slots__ = ("entries", "gone", "marks")

    def __init__(self, entries: list[Entry], gone: dict[str, int], marks: dict[str, Any]) -> None:
        self.entries = entries
        self.gone = gone
        self.marks = marks


class Draft:
    """A message that is to be put together for a channel.

    :param again: the id of one that nobody has, to be replaced by one that says what is true now; empty: there is none
    """

    __slots__ = ("again", "channel", "frame")

    def __init__(self, channel: str, frame: Frame, again: str = "") -> None:
        self.channel = channel
        self.frame = frame
        self.again = again


class Found:
    """What the file holds at the start.

    ``bad`` is how many rows cannot be read; :func:`set_aside` has them out of the way.
    """

    __slots__ = ("bad", "counts", "letters", "marks")

    def __init__(self, counts: dict[str, int], letters: dict[str, Letter], marks: dict[str, Any], bad: int) -> None:
        self.counts = counts
        self.letters = letters
        self.marks = marks
        self.bad = bad


def load(connection: sqlite3.Connection) -> Found:
    """Everything that goes on from where it was."""
    letters: dict[str, Letter] = {}
    bad = 0
    for channel, text in connection.execute("SELECT channel, letter FROM message"):
        letter = _letter(text)
        if letter is not None:
            letters[channel] = letter
        else:
            bad += 1
    bad += sum(1 for (text,) in connection.execute("SELECT told FROM waiting") if _told(text) is None)
    names = [name for (name,) in connection.execute("SELECT name FROM mark")]
    marks = {name: _marked(connection, name) for name in names if not name.startswith(ASIDE)}
    return Found(counts(connection), letters, marks, bad)


def _told(text: str) -> Told | None:
    try:
        return read_told(text)
    except BAD:
        return None


def _letter(text: str) -> Letter | None:
    try:
        return msgspec.json.decode(text, type=Letter)
    except BAD:
        return None


def set_aside(connection: sqlite3.Connection, items: list[str]) -> list[dict[str, int]]:
    """Have rows of channels that cannot be read out of the way, as marks; how many alarms wait then, by channel.

    :param items: the channels; empty: all
    """
    for channel in items:
        for table, column, read in (("message", "letter", _letter), ("waiting", "told", _told)):
            rows = connection.execute(
                f"SELECT id, channel, {column} FROM {table} WHERE ? IN ('', channel)",  # noqa: S608  the names above
                (channel,),
            )
            for row in [row for row in rows if read(row[2]) is None]:
                _put_aside(connection, table, *row)
    found = counts(connection)
    return [found for _ in items]


def _put_aside(connection: sqlite3.Connection, table: str, number: int, channel: str, text: str) -> None:
    connection.execute(f"DELETE FROM {table} WHERE id = ?", (number,))  # noqa: S608  one of TABLES
    (known,) = connection.execute(
        "SELECT count(*) FROM mark WHERE substr(name, 1, ?) = ?", (len(ASIDE), ASIDE)
    ).fetchone()
    if known < MOST_ASIDE:
        mark(connection, f"{ASIDE}{known + 1}", [table, channel, text])


def counts(connection: sqlite3.Connection) -> dict[str, int]:
    """How many alarms wait, by channel."""
    return dict(connection.execute("SELECT channel, count(*) FROM waiting GROUP BY channel").fetchall())


def put(connection: sqlite3.Connection, items: list[Batch]) -> list[dict[str, int]]:
    """Keep what is to be told; how many alarms wait then, by channel."""
    (total,) = connection.execute("SELECT count(*) FROM waiting").fetchone()
    for batch in items:
        for channel, number in batch.gone.items():
            _count(connection, channel, number)
        for entry in batch.entries:
            told = entry.told()
            for channel in entry.channels:
                if channel not in entry.without:
                    total += _add(connection, channel, told, total)
        for name, value in batch.marks.items():
            mark(connection, name, value)
    found = counts(connection)
    return [found for _ in items]


def _add(connection: sqlite3.Connection, channel: str, told: Told, total: int) -> int:
    """Add to what waits; how many rows there are more."""
    known = _known(connection, channel, told.name)
    if known is not None:
        told = after(known, told)
    elif total >= MOST and not _make_room(connection, told):
        _count(connection, channel, told.changes)
        return 0
    _write(connection, channel, told)
    return int(known is None and total < MOST)


def _known(connection: sqlite3.Connection, channel: str, name: str) -> Told | None:
    row = connection.execute(
        "SELECT id, channel, told FROM waiting WHERE channel = ? AND name = ?", (channel, name)
    ).fetchone()
    if row is None:
        return None
    told = _told(row[2])
    if told is None:
        _put_aside(connection, "waiting", *row)
    return told


def _write(connection: sqlite3.Connection, channel: str, told: Told) -> None:
    connection.execute(
        "INSERT INTO waiting (channel, name, rank, told) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (channel, name) DO UPDATE SET rank = excluded.rank, told = excluded.told",
        (channel, told.name, rank(told.severity), encode(told).decode()),
    )


def _make_room(connection: sqlite3.Connection, told: Told) -> bool:
    """Only count the oldest row that is less grave than another; whether there was one."""
    row = connection.execute(
        "SELECT id, channel, told FROM waiting WHERE rank < ? ORDER BY rank, id LIMIT 1", (rank(told.severity),)
    ).fetchone()
    if row is None:
        return False
    told_before = _told(row[2])
    if told_before is None:
        _put_aside(connection, "waiting", *row)
    else:
        connection.execute("DELETE FROM waiting WHERE id = ?", row[:1])
        _count(connection, row[1], told_before.changes)
    return True


def _count(connection: sqlite3.Connection, channel: str, number: int) -> None:
    mark(connection, GONE + channel, _gone(connection, channel) + number)


def _gone(connection: sqlite3.Connection, channel: str) -> int:
    known = _marked(connection, GONE + channel)
    return known if isinstance(known, int) else 0


def mark(connection: sqlite3.Connection, name: str, value: Any) -> None:
    """Remember a value under a name; None: forget it."""
    if value is None:
        connection.execute("DELETE FROM mark WHERE name = ?", (name,))
        return
    connection.execute(
        "INSERT INTO mark (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (name, encode(value).decode()),
    )


def _marked(connection: sqlite3.Connection, name: str) -> Any:
    row = connection.execute("SELECT value FROM mark WHERE name = ?", (name,)).fetchone()
    try:
        return msgspec.json.decode(row[0]) if row else None
    except BAD:
        return None


def form(connection: sqlite3.Connection, items: list[Draft]) -> list[Letter | None]:
    """Make messages of what waits; None where nothing does."""
    return [_form(connection, draft) for draft in items]


def _form(connection: sqlite3.Connection, draft: Draft) -> Letter | None:
    channel, more = draft.channel, 0
    set_aside(connection, [channel])
    row = connection.execute("SELECT letter FROM message WHERE channel = ?", (channel,)).fetchone()
    if row is not None:
        letter = msgspec.json.decode(row[0], type=Letter)
        if letter.message.id != draft.again:
            return letter
        more = letter.message.more
        for told in letter.parts:
            _put_back(connection, channel, told)
        connection.execute("DELETE FROM message WHERE channel = ?", (channel,))
    alarms = peek(connection, channel)
    more += _gone(connection, channel)
    if not alarms and not more:
        return None
    letter = letter_of(draft.frame, alarms, more)
    connection.execute("DELETE FROM waiting WHERE channel = ?", (channel,))
    mark(connection, GONE + channel, None)
    _keep(connection, channel, letter)
    return letter


def _put_back(connection: sqlite3.Connection, channel: str, told: Told) -> None:
    """Have what was in a message wait again, under what is newer."""
    newer = _known(connection, channel, told.name)
    if newer is not None:
        told = after(told, newer)
    _write(connection, channel, told)


def keep(connection: sqlite3.Connection, items: list[tuple[str, Letter]]) -> list[None]:
    """Have messages in the file that are not there any more, as it is a new one."""
    for channel, letter in items:
        _keep(connection, channel, letter)
    return [None] * len(items)


def _keep(connection: sqlite3.Connection, channel: str, letter: Letter) -> None:
    connection.execute(
        "INSERT INTO message (channel, letter) VALUES (?, ?) "
        "ON CONFLICT (channel) DO UPDATE SET letter = excluded.letter",
        (channel, encode(letter).decode()),
    )


def change(connection: sqlite3.Connection, items: list[tuple[str, Letter]]) -> list[None]:
    """Remember what a try has shown of a message; one that is not there any more stays away."""
    for channel, letter in items:
        connection.execute(
            "UPDATE message SET letter = ? WHERE channel = ? AND json_extract(letter, '$.message.id') = ?",
            (encode(letter).decode(), channel, letter.message.id),
        )
    return [None] * len(items)


def delivered(connection: sqlite3.Connection, items: list[tuple[str, str, Sent]]) -> list[int]:
    """Forget messages that have arrived: channel, id, and when; how many alarms wait for the channel."""
    for channel, message, sent in items:
        connection.execute(
            "DELETE FROM message WHERE channel = ? AND json_extract(letter, '$.message.id') = ?", (channel, message)
        )
        mark(connection, SENT + channel, sent)
    found = counts(connection)
    return [found.get(channel, 0) for channel, *_ in items]


def peek(connection: sqlite3.Connection, channel: str) -> list[Told]:
    """What waits for a channel, the oldest first."""
    rows = connection.execute("SELECT told FROM waiting WHERE channel = ? ORDER BY id", (channel,))
    return [told for (text,) in rows if (told := _told(text)) is not None]


def taken(connection: sqlite3.Connection, items: list[tuple[str, list[Told], Sent]]) -> list[int]:
    """Forget what was told without a disk; what has changed since waits on: how many alarms do, for the channel."""
    for channel, parts, sent in items:
        for told in parts:
            known = _known(connection, channel, told.name)
            if known is not None and known.changes > told.changes:
                _write(connection, channel, msgspec.structs.replace(known, changes=known.changes - told.changes))
            elif known is not None:
                connection.execute("DELETE FROM waiting WHERE channel = ? AND name = ?", (channel, told.name))
        mark(connection, SENT + channel, sent)
    found = counts(connection)
    return [found.get(channel, 0) for channel, *_ in items]


def drop(connection: sqlite3.Connection, items: list[str]) -> list[int]:
    """Forget all of channels that are there no more: how much was waiting."""
    found = []
    for channel in items:
        rows = connection.execute("DELETE FROM waiting WHERE channel = ?", (channel,)).rowcount
        rows += connection.execute("DELETE FROM message WHERE channel = ?", (channel,)).rowcount
        for name in (GONE, SENT):
            mark(connection, name + channel, None)
        found.append(rows)
    return found
