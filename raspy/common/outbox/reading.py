"""One reading as it is kept, and as the logger takes it late (``append`` of :doc:`the history </history>`)."""

from __future__ import annotations

import math
import sys
from typing import Any, Literal

import msgspec

from raspy.common.clock import BootClock
from raspy.common.kvsimple import BAD_BODY
from raspy.common.log import printable

KEY_BYTES = 255
UNIT_LENGTH = 20
LONGEST_HOLD = 31_536_000.0
"""The bounds of ``append``, the last in s; the logger keeps nothing beyond them that comes in time either."""
BODY_BYTES = 8192
"""A body that is longer is no reading of a number."""
NEAR = 60.0
"""Seconds that a reading may be old when it is published; its own ``max_age`` where that is longer."""


class Reading(msgspec.Struct, gc=False, eq=False):
    """A reading of a number, or that there was none.

    ``time`` is Unix time in s as the reading has it, ``since`` the seconds from the start of the machine to the reading
    (CLOCK_BOOTTIME), in the boot ``boot``; ``trusted`` says whether the wall clock was known to be right.
    """

    key: str
    time: float
    since: float
    boot: str
    trusted: bool
    value: float | None
    quality: str
    max_age: float
    unit: str

    def late(self, boot: str, now: float) -> list[Any]:
        """The row of ``append``.

        :param boot: this boot
        :param now: seconds since it began
        """
        age = max(now - self.since, 0.0) if self.boot == boot else None
        return [self.key, self.time, age, self.value, self.quality, self.max_age, self.unit]

    def set_right(self, base: float) -> None:
        """The clock of its boot is right by now.

        :param base: Unix time in s at which the machine started
        """
        self.time = round(base + self.since, 3)
        self.trusted = True


class Body(msgspec.Struct):
    """What of the body of a value is kept."""

    quality: Literal["ok", "stale", "error"]
    value: Any = None
    time: float | None = None
    max_age: float = NEAR
    unit: str = ""
    log: bool = False


decode = msgspec.json.Decoder(Body).decode


def read(key: str, body: bytes, clock: BootClock) -> Reading | None:
    """The reading that is being published; None: nothing that the logger would keep."""
    if len(body) > BODY_BYTES or len(key.encode("utf-8", "replace")) > KEY_BYTES or not key.isprintable():
        return None
    try:
        found = decode(body)
        value = float(found.value) if found.quality == "ok" and isinstance(found.value, bool | int | float) else None
    except (*BAD_BODY, OverflowError):
        return None
    if not found.log or (found.quality == "ok") != (value is not None) or not 0 < found.max_age <= LONGEST_HOLD:
        return None
    since, wall = clock.since(), clock.wall()
    time = wall if found.time is None else found.time
    age = wall - time
    if 0 <= age <= max(found.max_age, NEAR):
        since -= age
    if not 0 <= time < math.inf:
        return None
    unit = found.unit
    if len(unit) > UNIT_LENGTH or not unit.isprintable():
        unit = printable(unit)[:UNIT_LENGTH]
    return Reading(
        sys.intern(key), time, since, clock.boot_id, clock.trusted(),
        value, found.quality, found.max_age, sys.intern(unit),
    )  # fmt: skip
