"""Manual control: the mode of an output, which stands above whoever holds it, and ends by itself.

docs/outputs.rst tells an owner what the modes do.
"""

from __future__ import annotations

import math
import re
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from raspy.common.config import ID
from raspy.common.devices.command import shown
from raspy.common.devices.errors import BadValue, DriveError, Refused

if TYPE_CHECKING:
    from raspy.common.devices.output import OutputDevice

AUTO, ON, OFF = "auto", "on", "off"
LONGEST_MODE = 30 * 86_400.0
"""Seconds."""
MOST_MODES = 20
"""Named modes of an output."""
RETRY, CHATTER, LONGEST_PAUSE = 1.0, 5.0, 60.0
"""Seconds until a mode that has to wait is tried again; one that fell again within so many seconds, and again, is tried
after longer and longer pauses."""

_MODE = re.compile(r"([^:\s]+)\s*:\s*(on|off|\d{1,3}(?:\.\d{1,3})?\s*%)(?:\s+(\S+))?")
_TIME = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(s|m|min|h|d)?")
UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}


class ModeSpec(msgspec.Struct, frozen=True):
    """What a named mode is."""

    level: float | None
    """0 to 1; None: on, as far as the output goes."""
    seconds: float | None
    """How long it holds; None: as long as the setting ``manual`` says."""


class Mode(msgspec.Struct, frozen=True):
    """A mode that is in force."""

    name: str
    level: float
    """0 to 1."""
    end: float
    """On the output's clock (monotonic, s)."""
    by: str = ""


class Wish(msgspec.Struct, frozen=True):
    """What was told meanwhile, to be done when the mode ends, if its lease has not ended by then."""

    level: float
    by: str
    lease: float
    """Seconds, from when it was told."""
    told: float
    """On the output's clock."""


@lru_cache(maxsize=512)
def modes(text: str) -> dict[str, ModeSpec]:
    """The named modes that a setting ``modes`` declares, as ``feeding: off 10m, night: 20 % 8h``.

    :raises ValueError: a part of it is none
    """
    found: dict[str, ModeSpec] = {}
    for part in (part.strip() for part in text.split(",")):
        if not part:
            continue
        match = _MODE.fullmatch(part)
        if match is None:
            raise ValueError(
                f"{part[:60]!r} is no mode: write a name, what the output does, and how long: feeding: off 10m"
            )
        name, what, seconds = match[1], match[2], match[3]
        if not ID.fullmatch(name) or name in (AUTO, ON, OFF):
            raise ValueError(
                f"{name[:60]!r} is no name for a mode: 1 to 63 of a-z, 0-9, _ and -, and not auto, on, off"
            )
        if name in found:
            raise ValueError(f"the mode {name} is declared twice")
        level = {"on": None, "off": 0.0}[what] if what in ("on", "off") else float(what.rstrip(" %")) / 100
        found[name] = ModeSpec(level, None if seconds is None else mode_time(seconds))
    if len(found) > MOST_MODES:
        raise ValueError(f"{len(found)} modes; there can be {MOST_MODES}")
    return found


def mode_time(text: str) -> float:
    """Seconds, of ``600``, ``600s``, ``10m``, ``2h`` or ``1d``.

    :raises BadValue: it is no time, or not above 0, or more than 30 days
    """
    match = _TIME.fullmatch(text)
    seconds = float(match[1]) * UNITS[match[2] or ""] if match is not None else 0.0
    if not 0 < seconds <= LONGEST_MODE:
        raise BadValue(f"{shown(text)} is no time for a mode: above 0 and at most 30d, as 10m")
    return seconds


class Manual:
    """The mode of one output, and what was told it meanwhile.

    :param output: whose mode it is; only this class and it know of each other's inside
    """

    def __init__(self, output: OutputDevice) -> None:
        self.output = output
        self.mode: Mode | None = None
        """None: ``auto``."""
        self.wish: Wish | None = None
        self.waits = ""
        """Why the mode is not in effect."""
        self._retry_at = math.inf
        self._enforcing = self._failed = False
        self._enforced_at = -math.inf
        self._pause, self._falls = RETRY, 0

    @property
    def name(self) -> str:
        """``auto``, ``on``, ``off``, or a named one."""
        return AUTO if self.mode is None else self.mode.name

    def find(self, name: str, seconds: float | None, by: str) -> Mode | None:
        """The mode of a name, from now on; None: ``auto``.

        :param seconds: None: as the mode, or the output's settings, say
        :raises BadValue: the output has no such mode, or it cannot last so long
        """
        config = self.output.outputs
        known = modes(config.modes)
        if name == AUTO:
            return None
        if name in (ON, OFF):
            spec = ModeSpec(None if name == ON else 0.0, None)
        elif name in known:
            spec = known[name]
        else:
            raise BadValue(
                f"{self.output.path} has no mode {shown(name)}; its modes are {', '.join([AUTO, ON, OFF, *known])}"
            )
        lasts = seconds if seconds is not None else spec.seconds if spec.seconds is not None else config.manual
        if isinstance(lasts, bool) or not 0 < lasts <= LONGEST_MODE:
            raise BadValue(f"{self.output.path}: a mode lasts above 0 s and at most 30 days (got {shown(lasts)})")
        level = config.on_level if spec.level is None else spec.level
        return Mode(name, level, self.output.clock() + lasts, by)

    def set(self, mode: Mode | None, by: str = "") -> None:
        """Be in a mode from now on, or (None) in none."""
        told = f"told by {by}" if by else "told"
        if mode is None or mode.level == self.output.outputs.safe_level:
            # Somebody looked.
            self.output.unlock()
        if mode is None:
            self.end(told)
            return
        if self.mode is None:
            self.wish = self.output.lease()
        self.mode, self.waits = mode, ""
        self._pause, self._falls = RETRY, 0
        self.enforce()
        self.output.tell_mode(f"{told} to be in mode {mode.name}")

    def take_up(self, mode: Mode) -> bool:
        """Go on with a mode after a restart; whether the output still has such a mode."""
        if not self.output.unsettled and not self._fits(mode):
            return False
        self.mode, self.wish = mode, None
        self.enforce()
        self.output.tell_mode("the mode goes on after a restart")
        return True

    def remember(self, level: float, by: str, lease: float) -> str:
        """Keep what was told for when the mode ends; return what to say to that."""
        safe = level == self.output.outputs.safe_level
        self.wish = None if safe else Wish(level, by, lease, self.output.clock())
        return self.reason()

    def forget(self, by: str) -> bool:
        """Whoever wished something lets go of it; whether that was so."""
        wish, now = self.wish, self.output.clock()
        if wish is None or wish.by != by:
            return False
        self.wish = None
        return now < wish.told + wish.lease

    def reason(self) -> str:
        """Why what is told is not done now."""
        if self.mode is None:
            return ""
        by = f", set by {self.mode.by}" if self.mode.by else ""
        return f"its mode is {self.mode.name}{by}, for {max(self.mode.end - self.output.clock(), 0):.0f} s more"

    def enforce(self) -> None:
        """Have the output do what the mode says, as far as its rules let it."""
        mode, output = self.mode, self.output
        self._retry_at = math.inf
        if mode is None:
            return
        why = f"mode {mode.name}{f', set by {mode.by}' if mode.by else ''}"
        if mode.level == output.outputs.safe_level:
            self.waits = ""
            if output.held:
                output.fall(why)
            return
        now = output.clock()
        self._enforcing, self._failed = True, False
        self._enforced_at = now
        try:
            output.hold_at(Wish(mode.level, mode.by, mode.end - now, now), why)
            self.waits = ""
        except (Refused, DriveError) as error:
            self._failed = isinstance(error, DriveError)
            if output.held:
                output.fall(f"{why}, has to wait: {error}")
            else:
                self.wait(str(error), False)
        finally:
            self._enforcing = False

    def _go_on(self) -> None:
        """Try what has waited; it is over if the longest time on was reached in a break too short to count."""
        locked = self.output.locked
        self.enforce()
        if self.output.locked and not locked:
            self.output.end_longest()

    def wait(self, why: str, fell: bool) -> None:
        """The output had to fall, or could not follow: it is tried again.

        :param fell: it was on, or wherever the mode wants it
        """
        mode = self.mode
        if mode is not None and mode.level != self.output.outputs.safe_level:
            now = self.output.clock()
            # Rules that contradict each other, or a switch that chatters, must not have a relay chatter for hours.
            if fell:
                self._falls = self._falls + 1 if now - self._enforced_at < CHATTER else 0
            self._pause = min(RETRY * 2 ** (self._falls - 1), LONGEST_PAUSE) if fell and self._falls else RETRY
            self.waits = why
            self._retry_at = now + self._pause

    def look(self) -> None:
        """Something has changed that the mode may have waited for; hardware that failed is waited for by time alone."""
        if (
            self.waits
            and self.mode is not None
            and self.output.clock() < self.mode.end
            and not (self.output.held or self._enforcing or self._failed or self._pause > RETRY)
        ):
            self._go_on()

    def deadline(self) -> float:
        """When :meth:`settle` has something to do (monotonic, s)."""
        return math.inf if self.mode is None else min(self.mode.end, self._retry_at)

    def settle(self, now: float) -> None:
        """Do what is due."""
        if self.mode is None:
            return
        if now >= self.mode.end:
            self.end("its time is over")
        elif now >= self._retry_at:
            self._go_on()

    def end(self, why: str) -> None:
        """Be in no mode any more: what was wished is done if it still holds."""
        mode, wish = self.mode, self.wish
        if mode is None:
            return
        output = self.output
        self.drop()
        done = False
        if wish is not None and output.clock() < wish.told + wish.lease and not output.outputs.unfit(wish.level):
            try:
                output.hold_at(wish, f"told by {wish.by}" if wish.by else "told")
                done = True
            except (Refused, DriveError):
                # Its holder is told so when it says it again.
                done = False
        if not done and output.held:
            output.fall(f"mode {mode.name} ended: {why}")
        output.tell_mode(f"mode {mode.name} ended: {why}")

    def drop(self) -> None:
        """Be in no mode any more, and forget all about it."""
        self.mode = self.wish = None
        self.waits, self._retry_at = "", math.inf

    def settings_changed(self) -> None:
        """The output's settings are others: a mode that it does not know any more ends."""
        mode = self.mode
        if mode is None:
            return
        if not self._fits(mode):
            self.end("the output has no such mode any more")
        elif self.waits:
            self._retry_at = self.output.clock()

    def _fits(self, mode: Mode) -> bool:
        config = self.output.outputs
        return (mode.name in (ON, OFF) or mode.name in modes(config.modes)) and not config.unfit(mode.level)

    def details(self) -> dict[str, Any]:
        """What an owner is told; times left in s, and the end as the clock of now has it (Unix, s)."""
        mode = self.mode
        if mode is None:
            return {"mode": AUTO}
        left = max(mode.end - self.output.clock(), 0.0)
        found: dict[str, Any] = {
            "mode": mode.name,
            "mode_left": round(left, 3),
            "mode_end": round(time.time() + left, 3),
        }
        if mode.by:
            found["mode_by"] = mode.by
        if self.waits:
            found["waits"] = self.waits
        wish = self.wish
        if wish is not None and self.output.clock() < wish.told + wish.lease:
            rest = wish.told + wish.lease - self.output.clock()
            found["wish"] = {"by": wish.by, "left": round(rest, 3), **self.output.readings(wish.level)}
        return found
