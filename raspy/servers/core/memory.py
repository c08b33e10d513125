"""What a job remembers over restarts, and the stretches of wall time that it lived through."""

from __future__ import annotations

# hashlib would bring in OpenSSL: 2 MB.
from _blake2 import blake2b
from itertools import pairwise
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

STRETCHES = 8
"""Stretches of wall time that a job remembers."""

MOST_BEGUN = 200
"""Firings of a job that are kept as begun."""

Cause = Literal["time", "misfire", "hand"]
Time = Annotated[float, Meta(ge=-1e11, le=1e11)]
"""Unix s, or s of elapsed time: anything else was never written here."""
Stretch = tuple[Time, Time]
"""From, not included, and up to, included; Unix s."""


class Begun(msgspec.Struct, frozen=True):
    """A firing that was given out and not yet reported as done; times are Unix s."""

    id: str
    due: Time
    at: Time
    cause: Cause = "time"


class Memory(msgspec.Struct):
    """What a job must not forget; kept on the disk. Times are Unix s unless said otherwise."""

    when: str
    """The expression that the rest is about."""
    active: bool = True
    begin: Time = 0.0
    through: Time = 0.0
    """Up to here all is handled; since ``begin`` without a break."""
    lived: Annotated[list[Stretch], Meta(max_length=STRETCHES)] = []
    """What was lived through before ``begin``, or in a time that turned out to be wrong; the latest is the last."""
    early: Stretch | None = None
    early_at: Time = 0.0
    """What was made up for last, and the elapsed time of that: when the clock was wrong, it was too early."""
    era: int = 0
    """How often the clock was corrected backwards: what happens again after that is a firing of its own."""
    seen: Time = 0.0
    seen_elapsed: Time = 0.0
    boot: str = ""
    """The last look: wall time, elapsed time (s since the boot), and of which boot."""
    unsure: bool = False
    """It was made in this boot, and by a clock that nobody trusted; ``made`` is the elapsed time of that."""
    made: Time = 0.0
    anchor: Time = 0.0
    anchor_wall: Time = 0.0
    anchor_trusted: bool = False
    """Of an interval: the elapsed time that it counts from, and the wall time of that, if it was trusted."""
    resume: bool = False
    """Once the clock is trusted it is to count from ``anchor_wall``, which was before this boot."""
    fired: bool = False
    """A single time has been; it never comes again."""
    runs: int = 0
    missed: int = 0
    last: Time | None = None
    last_due: Time | None = None
    begun: Annotated[list[Begun], Meta(max_length=MOST_BEGUN)] = []


def chance(text: str) -> float:
    """A number from 0 to 1, always the same for the same text."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") / (1 << 64)


def identity(text: str) -> str:
    """32 hexadecimal digits, always the same for the same text."""
    return blake2b(text.encode(), digest_size=16).hexdigest()


def joined(stretches: list[Stretch], new: Stretch) -> list[Stretch]:
    """The stretches with one more, which is the latest. It takes in those that end in it.

    One that ends later is kept beside it: who comes back to the end of the latest must find it. When there are too
    many, one that lies in another is given up, or the two that are closest become one.
    """
    begin, end = new
    if begin >= end:
        return stretches
    ending = [old for old in stretches if begin <= old[1] <= end]
    result = [old for old in stretches if old not in ending]
    result.append((min([begin, *(a for a, _ in ending)]), end))
    while len(result) > STRETCHES:
        inner = next((s for s in result if any(o != s and o[0] <= s[0] and s[1] <= o[1] for o in result)), None)
        if inner is not None:
            result.remove(inner)
            continue
        early, late = min(pairwise(sorted(result)), key=lambda pair: pair[1][0] - pair[0][1])
        result[result.index(early)] = (early[0], late[1])
        result.remove(late)
    return result


def without(start: float, until: float, stretches: list[Stretch]) -> list[Stretch]:
    """What of a stretch lies in none of the others, in order."""
    result: list[Stretch] = []
    for a, b in sorted(stretches):
        if b <= start:
            continue
        if a >= until:
            break
        if a > start:
            result.append((start, a))
        start = b
    if start < until:
        result.append((start, until))
    return result
