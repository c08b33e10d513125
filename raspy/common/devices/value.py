"""A value on the tree: what is published under ``/device/...`` and read by everything else.

The JSON body::

    {"value": 21.0625, "unit": "°C", "time": 1700000000.5, "max_age": 30, "quality": "ok"}
    {"unit": "°C", "time": 1700000000.5, "max_age": 30, "quality": "error", "reason": "CRC failed"}

``quality`` is ``ok``, ``stale`` (no fresh value came within ``max_age``; the last one is under ``last``) or
``error``. Only an ``ok`` value has a ``value``, so that nothing can take another one for a number. ``"log": true`` is
there when its owner wants a history.
"""

from __future__ import annotations

import math
import time as clock
from collections.abc import Iterable
from itertools import chain
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from raspy.common.MDP import GenericError

Quality = Literal["ok", "stale", "error"]
Content = bool | int | float | str | list[Any] | dict[str, Any]

HELD = 60.0
"""``max_age``, in s, of a state that its server holds, which is not read but set."""
OLDEST = 31_536_000.0
"""Seconds that ``max_age`` may be."""

REASON_LIMIT = 200
"""Characters of a reason that are kept."""
INTEGERS = 1 << 63
"""Whole numbers are below this, and at least minus this."""
DEPTH_LIMIT = 32
"""Arrays and objects within one another."""


class ValueFormatError(GenericError, ValueError):
    """Bytes that are not the JSON of a value."""


class NoValue(GenericError, ValueError):
    """A number was asked of a value that has none: it is stale, an error, or not a number."""


class Value(msgspec.Struct, kw_only=True, frozen=True):
    """One reading with what is needed to judge it.

    ``time`` is wall time (Unix, s) of the reading; ``max_age`` is the time in s within which the next one is
    published.
    """

    value: Content | UnsetType = UNSET
    unit: str = ""
    time: float
    max_age: float = HELD
    quality: Quality
    reason: str | UnsetType = UNSET
    last: Content | UnsetType = UNSET
    log: bool | UnsetType = UNSET
    """Whether a history of it is wanted; left out when not."""

    def __post_init__(self) -> None:
        if (self.quality == "ok") != (self.value is not UNSET):
            raise ValueError("a value of quality ok has a value, one of another quality has none")
        found = flaw(self.value) or flaw(self.last)
        if found:
            raise ValueError(f"the value {found}")
        if not math.isfinite(self.time):
            raise ValueError("time is not finite")
        if not 0 < self.max_age <= OLDEST:
            raise ValueError("max_age is not above 0 and at most a year")

    @classmethod
    def ok(
        cls, value: Content, unit: str = "", max_age: float = HELD, time: float | None = None, log: bool = False
    ) -> Value:
        """A good value, read now unless ``time`` is given.

        :raises ValueError: it is nothing that JSON can hold, as a number that is not finite
        """
        return cls(value=value, unit=unit, time=_at(time), max_age=max_age, quality="ok", log=log or UNSET)

    @classmethod
    def error(
        cls, reason: str, unit: str = "", max_age: float = HELD, time: float | None = None, log: bool = False
    ) -> Value:
        """No value, and why."""
        return cls(
            unit=unit,
            time=_at(time),
            max_age=max_age,
            quality="error",
            reason=reason[:REASON_LIMIT] or "unknown",
            log=log or UNSET,
        )

    def number(self) -> float:
        """The number.

        :raises NoValue: the quality is not ok, or the value is not a number
        """
        if self.quality != "ok":
            raise NoValue(f"no value ({self.quality}): {self.reason or 'no reason given'}")
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise NoValue(f"the value {self.value!r:.60} is not a number")
        return self.value

    def encode(self) -> bytes:
        """The JSON of the tree."""
        return _encode(self)

    @staticmethod
    def decode(body: bytes) -> Value:
        """The value that a body of the tree holds.

        :raises ValueFormatError: it holds none
        """
        try:
            return _decode(body)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise ValueFormatError(f"not a value of the tree: {error}") from error


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Value).decode


def _at(time: float | None) -> float:
    return round(clock.time(), 3) if time is None else time


def flaw(value: object, depth: int = DEPTH_LIMIT) -> str:
    """What keeps a value from being sent as JSON and read again; empty when nothing does."""
    if isinstance(value, float):
        return "" if math.isfinite(value) else "is not finite"
    if isinstance(value, int):
        return "" if -INTEGERS <= value < INTEGERS else "is not a whole number of 64 bits"
    if isinstance(value, str):
        return "" if _encodable(value) else "holds half of a surrogate pair, which is no character"
    if value is None or value is UNSET:
        return ""
    inner: Iterable[object]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        inner = chain(value, value.values())
    elif isinstance(value, list | tuple):
        inner = value
    else:
        return "is nothing that JSON has"
    if depth == 0:
        return f"is nested more than {DEPTH_LIMIT} deep"
    return next(filter(None, (flaw(item, depth - 1) for item in inner)), "")


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
