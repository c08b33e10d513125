"""What core knows of the tree: each value with its age, counted on a clock that nobody can set.

A value from the tree is a number only while it may be believed: its quality is ok, it is not older than its
``max_age`` by this process's own monotonic clock, and the tree is followed without a gap. Variables are core's own,
so they are read here as they were set, whatever becomes of the broker.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, UnsetType

from raspy.common.kvsubscriber import KvSubscriber

if TYPE_CHECKING:
    from raspy.common.executive import Executive

VARIABLE = "/variable/"
EVENT = "/event/"
FUTURE = 1.0
"""Seconds by which the time of a reading may be ahead of this clock: that of another machine."""
REASON = 200
"""Characters of a reason that are kept."""

OK, STALE, ERROR, MISSING = "ok", "stale", "error", "missing"
"""May be believed; may no longer be; its device says that it has none; there is no such key."""

Watcher = Callable[[], None]


class Body(msgspec.Struct):
    """What of a body of the tree is looked at."""

    value: Any = UNSET
    unit: str = ""
    time: float | None = None
    max_age: float | None = None
    quality: str | UnsetType = UNSET
    reason: str = ""


class Reading(msgspec.Struct, frozen=True):
    """A value as it is now."""

    value: Any
    """None unless the quality is ok."""
    unit: str
    quality: str
    """``ok``, ``stale``, ``error`` or ``missing``."""
    reason: str
    """Why there is no value."""
    age: float
    """Seconds since it was measured, at least; ``math.inf`` when there is none."""
    version: int
    """Another number after each change, of the value or of whether it may be believed."""
    left: float = math.inf
    """Seconds for which it may still be believed if nothing else comes."""

    @property
    def good(self) -> bool:
        """Whether it has a value."""
        return self.quality == OK


class Dated(msgspec.Struct):
    """What of a body tells how old it is."""

    time: float | None = None
    max_age: float | None = None


class Slot:
    """A key's last body, and when it came."""

    __slots__ = ("age", "at", "body", "changes", "doubt", "parsed", "time", "wall")

    def __init__(self, body: bytes, at: float, wall: float, changes: int) -> None:
        self.body = body
        self.at = at
        """Monotonic, s."""
        self.wall = wall
        """Unix, s, of the same moment."""
        self.time: float | None = None
        """Its own time, Unix, s."""
        self.age = 0.0
        """Seconds that it was old when it came, as far as that can be known."""
        self.doubt = ""
        """Why it was too old to be believed when it came."""
        self.changes = changes
        self.parsed: Body | None = None


class Values:
    """A copy of the tree, from which readings are taken.

    :param loop: the loop it lives on, which also says where the broker is
    :param monotonic: the clock by which ages are counted, s
    :param wall: the wall clock, Unix s
    """

    def __init__(
        self,
        loop: Executive,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.loop = loop
        self.subscriber: KvSubscriber | None = None
        self.on_live: list[Watcher] = []
        """Called when the tree has become live, or was lost."""
        self._monotonic = monotonic
        self._wall = wall
        self._slots: dict[str, Slot] = {}
        self._watchers: dict[str, list[Watcher]] = {}
        self._changes = 0

    def start(self) -> None:
        """Follow the tree."""
        self.subscriber = KvSubscriber(self.loop, "", self._changed, self._state)

    def close(self) -> None:
        """Follow it no more; everything but the variables is stale."""
        if self.subscriber is not None:
            self.subscriber.close()
            self.subscriber = None

    @property
    def live(self) -> bool:
        """Whether the tree is followed without a gap."""
        return self.subscriber is not None and self.subscriber.state == "live"

    def keys(self, prefix: str = "") -> list[str]:
        """The keys that begin with a prefix."""
        return [key for key in self._slots if key.startswith(prefix)]

    def read(self, key: str) -> Reading:
        """A value as it is now; never raises."""
        slot = self._slots.get(key)
        own = key.startswith(VARIABLE)
        if slot is None:
            if own or self.live:
                return Reading(None, "", MISSING, f"there is no {key}", math.inf, 0)
            return Reading(None, "", STALE, "the tree of values is not known: the broker does not answer", math.inf, 1)
        body = self._parsed(slot)
        age = self._monotonic() - slot.at
        if not own and body.time is not None:
            age += slot.age
        limit = math.inf if body.max_age is None or own else body.max_age
        quality = OK if body.quality is UNSET else body.quality
        reason = body.reason
        if quality == OK and not own and not self.live:
            quality, reason = STALE, "the broker does not answer"
        elif quality == OK and age > limit:
            quality, reason = STALE, slot.doubt or f"nothing came for {age:.{0 if age >= 10 else 1}f} s"
        elif quality not in (OK, STALE):
            quality = ERROR
        good = quality == OK
        return Reading(
            body.value if good else None,
            body.unit,
            quality,
            "" if good else (reason or "no reason is given")[:REASON],
            age,
            4 * slot.changes + (0 if good else 2 if quality == STALE else 3),
            limit - age if good else math.inf,
        )

    def watch(self, key: str, callback: Watcher) -> Callable[[], None]:
        """Have ``callback()`` called after each change of a key, and when the tree becomes live or is lost.

        That a value grows too old is no change: see :attr:`Reading.left`.

        :returns: ends it; harmless when repeated
        """
        self._watchers.setdefault(key, []).append(callback)

        def end() -> None:
            left = self._watchers.get(key, [])
            if callback in left:
                left.remove(callback)
                if not left:
                    del self._watchers[key]

        return end

    def put(self, key: str, body: bytes) -> None:
        """A variable was set, or (an empty body) deleted."""
        self._take(key, body, True)

    def _parsed(self, slot: Slot) -> Body:
        if slot.parsed is None:
            slot.parsed = _parse(slot.body)
        return slot.parsed

    def _changed(self, key: str, body: bytes) -> None:
        if not key.startswith(VARIABLE):
            self._take(key, body, self.live)

    def _take(self, key: str, body: bytes, known: bool) -> None:
        """A body came.

        :param known: as it was published; else it may have stood on the tree before
        """
        self._changes += 1
        if body:
            slot = Slot(body, self._monotonic(), self._wall(), self._changes)
            if not key.startswith((VARIABLE, EVENT)):
                _date(slot, self._slots.get(key), known)
            self._slots[key] = slot
        else:
            self._slots.pop(key, None)
        self._call(list(self._watchers.get(key, ())))

    def _state(self, state: str) -> None:
        self._call([*self.on_live, *(watcher for found in list(self._watchers.values()) for watcher in found)])

    def _call(self, watchers: list[Watcher]) -> None:
        for watcher in watchers:
            self.loop.guard(watcher)


def _date(slot: Slot, before: Slot | None, known: bool) -> None:
    """Find how old a body was when it came.

    Its own time tells, unless clocks were set: this machine's since the body before came, which its monotonic clock
    shows; or that of the sender, which goes wrong but steadily, so that from the body before to this one as much time
    has passed there as here. A time that cannot be for any other reason is one of a reading that came too late, or
    had stood on the tree for nobody knows how long: it is not believed.

    :param before: what came before of the same key
    """
    try:
        dated = _dates(slot.body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return
    if dated.time is None:
        return
    slot.time = dated.time
    limit = math.inf if dated.max_age is None else dated.max_age
    slot.age = age = slot.wall - dated.time
    if before is not None and known and not -FUTURE <= age <= limit:
        passed = slot.at - before.at
        was_set = slot.wall - before.wall - passed
        if abs(was_set) > FUTURE and -FUTURE <= age - was_set <= limit:
            slot.age = age - was_set
        elif before.time is not None and abs(dated.time - before.time - passed) < min(passed / 2, FUTURE):
            slot.age = 0.0
    if slot.age > limit and known:
        slot.doubt = f"it was {slot.age:.0f} s old when it came, or a clock is wrong"
    elif slot.age > limit or (slot.age < -FUTURE and limit < math.inf):
        slot.age, slot.doubt = limit + FUTURE, "it is not known how old it is"
    slot.age = max(slot.age, 0.0)


def _parse(body: bytes) -> Body:
    """The value in a body; what is no reading, as an event, is a value as a whole."""
    try:
        whole = _decode(body)
        if not isinstance(whole, dict) or ("quality" not in whole and "value" not in whole):
            return Body(value=whole)
        parsed = msgspec.convert(whole, Body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return Body(quality=ERROR, reason=f"it is not understood: {error}"[:REASON])
    if (parsed.value is UNSET and parsed.quality == OK) or (parsed.max_age is not None and not parsed.max_age > 0):
        return Body(quality=ERROR, reason="it is no reading")
    return parsed


_decode = msgspec.json.Decoder().decode
_dates = msgspec.json.Decoder(Dated).decode
