"""Late readings: what a node has kept while the network was away.

``append`` takes a JSON object::

    {"host": "shed", "boot": "9b…", "trusted": true,
     "rows": [["/device/shed.onewire.28-0316/temperature", 1700000000.5, 812.4, 21.0625, "ok", 30, "°C"], …]}

``boot`` tells the sender's boot from others, ``trusted`` says whether its clock was right when the readings were made.
A host speaks for itself: its keys are below ``/device/<host>.``. Of each row: key, time (Unix, s), age in s (null when
it is not known, as after a reboot), value (null when there is none), quality, and if known ``max_age`` in s and the
unit.
"""

from __future__ import annotations

import math
import sqlite3
from typing import Any

import msgspec

from raspy.common import MDP
from raspy.common.kvsimple import BAD_BODY
from raspy.common.verbs import VerbError
from raspy.servers.logger import journal, reading
from raspy.servers.logger.folding import oldest_kept
from raspy.servers.logger.numbers import Names
from raspy.servers.logger.recent import MOST_SERIES, Batch, Segment
from raspy.servers.logger.rows import DAY, LATEST, OK, QUALITIES

MOST_ROWS = 10_000
MOST_OF_HOST = 256
"""Series of a host from which on its late readings begin no other one: there is a number of series for all."""
KEY_BYTES = 255
UNIT_LENGTH = 20
OLDEST_AGE = 10 * 365 * 86_400.0
"""Seconds."""
LONGEST_HOLD = 31_536_000
HOLD = 60
"""Seconds that a reading holds: at most, and when it does not say."""
SAME = 120_000
"""ms; the clock of a boot that was not set in between went on, so readings that are moved by nearly the same are moved
by the same."""
NEAR = 60_000
"""ms by which a clock that is not known to be right may be off and is taken as it is: what the same sender has told in
time was, too, and a reading that comes both ways is to count once."""
MOST_SENDERS = 1000
FUTURE = DAY
"""ms by which a reading may be ahead of a clock that is right."""


class Late(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """One late reading."""

    key: str
    time: float
    age: float | None
    """Seconds; None when its sender cannot tell."""
    value: bool | float | None
    quality: str
    max_age: float = HOLD
    unit: str = ""


class Envelope(msgspec.Struct):
    """What ``append`` takes."""

    host: str
    boot: str
    trusted: bool
    rows: list[msgspec.Raw]


decode_late = msgspec.json.Decoder(Late).decode
decode_envelope = msgspec.json.Decoder(Envelope).decode


class Lot:
    """Late readings that are to be placed.

    :param now: when they came: Unix time in ms
    :param segment: None: the clock was right then
    :param raw_days: days for which single readings are kept
    """

    __slots__ = ("boot", "host", "now", "problem", "raw_days", "refused", "rows", "segment", "trusted")

    def __init__(self, envelope: Envelope, now: int, segment: Segment | None, raw_days: int) -> None:
        self.host = envelope.host
        self.boot = envelope.boot
        self.trusted = envelope.trusted
        self.now = now
        self.segment = segment
        self.raw_days = raw_days
        self.rows: list[Late] = []
        self.refused = 0
        self.problem = ""

    def refuse(self, problem: str, count: int = 1) -> None:
        """Count what cannot be kept; the first reason is told."""
        self.refused += count
        self.problem = self.problem or problem


def read(text: str, now: int, segment: Segment | None, raw_days: int) -> Lot:
    """The readings in a request. One that cannot be kept costs the others nothing.

    :raises VerbError: 400: it is no such request
    """
    try:
        envelope = decode_envelope(text)
    except BAD_BODY as error:
        raise VerbError(MDP.BAD_REQUEST, f"append: this is not understood: {error}") from None
    if len(envelope.rows) > MOST_ROWS:
        raise VerbError(MDP.BAD_REQUEST, f"append: {len(envelope.rows)} rows; at most {MOST_ROWS} at a time")
    for name, word in (("host", envelope.host), ("boot", envelope.boot)):
        if not (0 < len(word) <= 64 and word.isprintable()):
            raise VerbError(MDP.BAD_REQUEST, f"append: {name} is 1 to 64 characters of printable text")
    lot = Lot(envelope, now, segment, raw_days)
    for number, raw in enumerate(envelope.rows):
        try:
            late = decode_late(raw)
            problem = flaw(late, envelope.host)
        except BAD_BODY as error:
            problem = str(error)
        if problem:
            lot.refuse(f"row {number}: {problem}")
        else:
            lot.rows.append(late)
    return lot


def flaw(late: Late, host: str) -> str:
    """Why a reading of a host cannot be kept; empty when it can."""
    if not is_key(late.key):
        return f"key {late.key!r:.60}: a key begins with /, and is at most {KEY_BYTES} bytes of printable text"
    if not late.key.startswith(branch(host)):
        return f"key {late.key!r:.60}: it is not below {branch(host)}, the host that sends it"
    if not 0 <= late.time * 1000 < LATEST:
        return f"time {late.time!r:.30}: a Unix time in s"
    if late.age is not None and not 0 <= late.age <= OLDEST_AGE:
        return f"age {late.age!r:.30}: seconds, or null"
    if late.quality not in QUALITIES:
        return f"quality {late.quality!r:.30}: ok, stale or error"
    if (late.quality == QUALITIES[OK]) != (late.value is not None):
        return "a reading that is ok has a value, another one has null"
    if late.value is not None and not math.isfinite(late.value):
        return "the value is not finite"
    if not 0 < late.max_age <= LONGEST_HOLD:
        return f"max_age {late.max_age!r:.30}: seconds, above 0 and at most a year"
    if not is_unit(late.unit):
        return f"unit {late.unit!r:.30}: at most {UNIT_LENGTH} characters"
    return ""


def branch(host: str) -> str:
    """With what the keys of a host's readings begin."""
    return f"/device/{host}."


def is_key(key: str) -> bool:
    """Whether it can be a key of the tree."""
    return key.startswith("/") and 1 < len(key.encode("utf-8", "replace")) <= KEY_BYTES and key.isprintable()


def is_unit(unit: str) -> bool:
    """Whether it can be a unit, or is none."""
    return len(unit) <= UNIT_LENGTH and unit.isprintable()


def append(connection: sqlite3.Connection, items: list[Lot]) -> list[dict[str, Any]]:
    """Place late readings and write them: how many were kept, and why others were not."""
    return [_append(connection, lot) for lot in items]


def _append(connection: sqlite3.Connection, lot: Lot) -> dict[str, Any]:
    right, moved = Batch(), Batch(lot.segment)
    names = Names(connection)
    days = _Days(connection, lot, names)
    room = _Room(lot.host, names)
    unplaced = old = 0
    shifts = _Shifts(connection, lot)
    for late in lot.rows:
        if lot.trusted:
            time, batch = round(late.time * 1000), right
        elif late.age is not None:
            wall = round(late.time * 1000)
            time, batch = wall + shifts.of(lot.now - round(late.age * 1000) - wall), moved
        else:
            unplaced += 1
            continue
        if days.gone(late.key, late.unit, time // DAY):
            old += 1
        elif time < 0 or (lot.segment is None and time > lot.now + FUTURE):
            lot.refuse(f"{late.key}: its time is more than a day ahead")
        elif not room.has(late.key, late.unit):
            lot.refuse(f"{late.key}: of {lot.host} there are {MOST_OF_HOST} series already")
        else:
            value = float(late.value) + 0.0 if late.value is not None else 0.0  # no minus zero
            hold = math.ceil(late.max_age)
            batch.add(late.key, late.unit, time, value, QUALITIES.index(late.quality), hold)
    kept = 0
    for batch in (right, moved):
        kept += len(batch)
        for key, count in journal.keep_one(connection, batch, late=True):
            kept -= count
            lot.refuse(f"{key}: there are {MOST_SERIES} series already", count)
    return {"kept": kept, "unplaced": unplaced, "old": old, "refused": lot.refused, "problem": lot.problem}


class _Days:
    """Of which days single readings are still known, so that one that is sent again counts once."""

    def __init__(self, connection: sqlite3.Connection, lot: Lot, names: Names) -> None:
        self._connection = connection
        self._first = oldest_kept(connection, lot.raw_days, 0, lot.now // DAY + 1) or 0
        self._names = names
        self._gone: dict[tuple[str, str, int], bool] = {}

    def gone(self, key: str, unit: str, day: int) -> bool:
        """Whether they are not, of a series."""
        if day < self._first:
            return True
        known = self._gone.get((key, unit, day))
        if known is None:
            number = self._names.number(self._names.place(key, unit, False))
            known = number is not None and reading.gone(self._connection, number, day)
            self._gone[key, unit, day] = known
        return known


class _Room:
    """Whether late readings of a host may begin another series: one host is not to take the room of all."""

    def __init__(self, host: str, names: Names) -> None:
        self._names = names
        self._left = MOST_OF_HOST - names.count(branch(host))
        self._may: dict[tuple[str, str], bool] = {}

    def has(self, key: str, unit: str) -> bool:
        """Whether there is room for the series of a key and unit, which there may be already."""
        may = self._may.get((key, unit))
        if may is None:
            is_new = self._names.number(self._names.place(key, unit, False)) is None
            may = self._may[key, unit] = not is_new or self._left > 0
            self._left -= is_new and may
        return may


class _Shifts:
    """By how much the readings of one boot of a sender are moved: always by the same, unless its clock was set."""

    def __init__(self, connection: sqlite3.Connection, lot: Lot) -> None:
        self._connection = connection
        self._sender = lot.host, lot.boot
        self._known: list[int] | None = None

    def of(self, shift: int) -> int:
        """The known one that is next to this, else this, which is known from now on."""
        if self._known is None:
            found = self._connection.execute("SELECT moved FROM sender WHERE host = ? AND boot = ?", self._sender)
            self._known = [moved for (moved,) in found]
        nearest = min(self._known, key=lambda known: abs(known - shift), default=None)
        if nearest is not None and abs(nearest - shift) <= SAME:
            return nearest
        if abs(shift) <= NEAR:
            shift = 0
        self._known.append(shift)
        self._connection.execute("INSERT INTO sender (host, boot, moved) VALUES (?, ?, ?)", (*self._sender, shift))
        self._connection.execute(
            "DELETE FROM sender WHERE id <= (SELECT max(id) FROM sender) - ?",
            (MOST_SENDERS,),
        )
        return shift
