"""What one output should do, by docs/outputs.rst, and what its wire has done: see rules_model.py."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec

from tests.devices.rules_machine import MAX_AGE, Wire

if TYPE_CHECKING:
    from tests.devices.rules_model import Rules

LONG_PATIENCE, CHATTER = 60.0, 60.0
"""The same of a mode that had to wait more than once within so many seconds, so that no relay chatters."""
PATIENCE = 1.0
"""Seconds within which what failed is tried again, and a mode that waits goes on once it may."""
STEP = 0.1
"""Seconds between the steps of a ramp."""
CLOSE = 1e-6
LONGEST_MODE = 30 * 86_400.0


class Output(msgspec.Struct, frozen=True):
    """The settings of an output, as an owner gives them; a dimmer's levels in %."""

    name: str
    kind: str = "switch"
    safe: float = 0
    lease: float = 60
    longest_on: float = 0
    shortest_off: float = 0
    never_with: tuple[str, ...] = ()
    only_if: tuple[tuple[str, bool], ...] = ()
    modes: tuple[tuple[str, float, float], ...] = ()
    """Name, level in % (of a switch 0 or 100), s (0: as ``manual`` says)."""
    manual: float = 30
    ramp: float = 0
    lowest: float = 0
    highest: float = 100

    def json(self) -> dict[str, Any]:
        """The settings as the product takes them."""
        found: dict[str, Any] = {
            "lease": self.lease,
            "longest_on": self.longest_on,
            "shortest_off": self.shortest_off,
            "manual": self.manual,
            "safe": self.safe if self.kind == "dimmer" else bool(self.safe),
            "never_with": ", ".join(self.never_with),
            "only_if": ", ".join(name if so else f"not {name}" for name, so in self.only_if),
            "modes": ", ".join(
                f"{name}: {self._word(level)}" + (f" {seconds:g}s" if seconds else "")
                for name, level, seconds in self.modes
            ),
        }
        if self.kind == "dimmer":
            found |= {"ramp": self.ramp, "lowest": self.lowest, "highest": self.highest}
        return found

    def as_new(self) -> str:
        """The JSON that makes it."""
        fields = {"oid": self.kind, "name": self.name, **self.json()}
        return msgspec.json.encode(fields).decode()

    def _word(self, level: float) -> str:
        if level in (0, self.highest):
            return "on" if level else "off"
        return f"{level:g} %"

    @property
    def on(self) -> float:
        """What on is, in %."""
        return self.highest if self.kind == "dimmer" else 100

    def mode(self, name: str) -> tuple[float, float] | None:
        """Level in % and time in s of a mode; None: it is not known."""
        known = {"on": (self.on, self.manual), "off": (0.0, self.manual)}
        known |= {name: (level, seconds or self.manual) for name, level, seconds in self.modes}
        return known.get(name)

    def can(self, level: float) -> bool:
        """Whether it takes a level in %."""
        return level == 0 or (self.lowest <= level <= self.highest if self.kind == "dimmer" else level == 100)


class Told(msgspec.Struct, frozen=True):
    """What a command wanted, for how long, and who gave it."""

    level: float
    until: float
    by: str


class Mode(msgspec.Struct):
    """A mode that is in force."""

    name: str
    level: float
    until: float
    seconds: float
    wall: float
    """Its end on the wall clock, as that was when it was set."""
    trusted: bool
    """That clock was to be trusted then."""
    boot: int


class Line:
    """What one output should do, and what its wire has done."""

    def __init__(self, rules: Rules, output: Output, wire: Wire) -> None:
        self.rules, self.output, self.wire = rules, output, wire
        self.told: Told | None = None
        """What holds it; in a mode, the wish."""
        self.mode: Mode | None = None
        self.locked = False
        self.off_at = rules.now
        """When the wire went off, or the server began to know that it is."""
        self.fell_at = -math.inf
        """When the wire went off."""
        self.tried: float | None = None
        """When it should have gone on, had it not failed: the product may count from then."""
        self.shaky = False
        """A contact's reading was stale while the loop stood still: it may have fallen, if that was seen."""
        self.changed_at = -math.inf
        """When its settings were changed."""
        self.begun: float | None = None
        """When it went on after the last break that counts."""
        self.moved_at = 0.0
        """When it was told the level that it is to be at, so that a ramp may be on its way."""
        self.may_since = 0.0
        """Since when it might be at the level of its mode."""
        self.waits: list[float] = []
        """When a mode began to wait."""
        self.waiting = False
        self.failures = wire.failures

    def __repr__(self) -> str:
        trace = ", ".join(f"{at:g}: {level:g}{'' if good else '!'}" for at, level, good in self.wire.trace[-12:])
        return (
            f"{self.output} at {self.wire.level:g} now {self.rules.now:g}; told {self.told}, {self.mode}, "
            f"locked {self.locked}, off at {self.off_at:g}, begun {self.begun}; …{trace}"
        )

    # Rules

    @property
    def level(self) -> float:
        """What the wire is at, in %."""
        return round(self.wire.level * 100, 6)

    @property
    def on(self) -> bool:
        """On, or nobody knows: so it is for a partner."""
        return self.wire.level > 0 or self.wire.unknown

    def rising(self) -> bool:
        """Perhaps on its way to be on, although the wire is still off: the first step of a ramp."""
        told = self.mode or self.told
        recent = self.rules.now - self.moved_at <= STEP + CLOSE
        return bool(self.output.ramp and recent and self.wire.level == 0 and told is not None and told.level)

    def partners(self) -> list[Line]:
        """Those with which it must never be on: it says so, or they do."""
        lines = self.rules.lines
        return [
            other
            for name, other in lines.items()
            if other is not self and (name in self.output.never_with or self.output.name in other.output.never_with)
        ]

    def interlock(self) -> list[str]:
        """Why it must not be on because of others."""
        found = [f"{other.output.name} is on" for other in self.partners() if other.on]
        senses = self.rules.stage.senses
        found += [name for name, so in self.output.only_if if name not in senses or not senses[name].so(so)]
        return found

    def hindered(self) -> list[str]:
        """Why it cannot be on now."""
        output, now = self.output, self.rules.now
        found = self.interlock()
        if self.wire.unknown:
            found.append("it failed")
        if self.locked:
            found.append("it was on for its longest time")
        elif self.wire.level == 0 and self.begun is not None and output.longest_on:
            reached = now >= self.begun + output.longest_on
            found += ["its longest time on was reached in a break"] * (reached and now - self.off_at < self.rest)
        if self.wire.level == 0 and output.safe == 0 and now < self.known_off + output.shortest_off:
            found.append("its shortest time off")
        return found

    @property
    def known_off(self) -> float:
        """Since when it is off, and known to be."""
        return max(self.off_at, self.wire.known_at)

    @property
    def rest(self) -> float:
        """Seconds for which it must be off for a break to count."""
        return min(self.output.longest_on / 10, 60.0)

    def rested(self, until: float) -> bool:
        """Whether it was known to be off for so long, since it fell, that the break counts."""
        known: float | None = None
        last = -math.inf
        for at, level, good in self.wire.trace:
            if at < self.fell_at or at > until:
                continue
            off = good and level == 0
            if known is not None and not off and at - known >= self.rest:
                return True
            known = (at if known is None else known) if off else None
            last = at
        if last == -math.inf:
            known = self.fell_at
        return known is not None and until - known >= self.rest

    def on_edge(self, before: float) -> None:
        """The wire took another level: what must never be is noted at once, whatever the end of the turn brings."""
        breach = self.rules.breaches.append
        output, now, level = self.output, self.rules.now, self.level
        if self.mode is not None and now - self.moved_at > STEP + CLOSE and abs(before * 100 - output.safe) < CLOSE:
            # It has waited.
            self.moved_at = now
        free = output.kind != "dimmer" or not level or level == output.safe
        if not free and not output.lowest - CLOSE <= level <= output.highest + CLOSE:
            breach(f"out of its range: {self}")
        if level and not before:
            wanted = any(want and want.level and now < want.until for want in (self.told, self.mode))
            if level != output.safe and not wanted and not self.rules.asking:
                breach(f"on although nobody wants it: {self}")
            others = self.interlock()
            if level != output.safe and others and not self.doubt():
                breach(f"on although {others}: {self}")
            if not output.safe and now < self.off_at + output.shortest_off:
                breach(f"on within its shortest time off: {self}")
            # A ramp from 0 begins a step before the wire is on.
            ramp = output.ramp and (now - self.moved_at <= STEP + CLOSE or (self.mode is None and self.told))
            since = max(self.moved_at, self.fell_at) if ramp else now
            if self.begun is None or self.rested(since):
                self.begun = self.tried = since
            self.tried = min([self.begun if self.tried is None else self.tried, *self.tries()])
        elif before and not level:
            self.off_at = self.fell_at = now

    # What time and others bring about

    def step(self) -> None:
        """Take account of what is over by now."""
        now, output = self.rules.now, self.output
        if self.wire.failures > self.failures:
            self.failures = self.wire.failures
            self.may_since = now
            if self.mode is None or now >= self.mode.until:
                self.told = None
        if self.begun is not None and output.longest_on and not output.safe and not self.locked:
            end = self.begun + output.longest_on
            early = (
                self.tried is not None and self.tried < self.begun and self.fell_at >= self.tried + output.longest_on
            )
            at_end = abs(self.fell_at - end) < CLOSE and self.fell_at != self.changed_at
            if self.wire.unknown:
                # What it is at is not known to whoever drives it.
                self.sync()
            elif (self.wire.level > 0 and now >= end) or (at_end and not self.interlock()):
                self.told, self.mode, self.locked = None, None, True
            elif self.wire.level == 0 and (self.fell_at >= end - CLOSE or early):
                # It fell late, or at the same moment for another reason.
                if self.mode is None and not self.begins():
                    self.told = None
                self.sync()
            elif self.mode is not None and self.wire.level == 0 and end <= now < self.known_off + self.rest:
                # Tried again before the break counted, or not yet.
                self.sync()
        stalled = output.ramp and (self.told or self.mode)
        if output.longest_on and not self.locked and not self.wire.level and (self.tries() or stalled):
            self.sync()
        if self.told is not None and now >= self.told.until:
            self.told = None
        if self.mode is not None and now >= self.mode.until:
            self.end_mode()
        held = self.mode is None and self.told is not None and self.told.level not in (0, output.safe)
        if held and (self.interlock() or ((self.shaky or self.doubt()) and self.wire.level == 0)):
            self.told = None
        self.shaky = False

    def patience(self) -> float:
        """Seconds within which a mode that waits goes on once it may."""
        chatters = len(self.waits) > 1 and self.waits[-1] - self.waits[-2] < CHATTER
        return LONG_PATIENCE + PATIENCE if chatters or self.tries() else PATIENCE

    def tries(self) -> list[float]:
        """When it failed since it went off: for whoever drove it, it may have been on."""
        since = max(self.fell_at, self.off_at)
        return [at for at, _, good in self.wire.trace[-400:] if not good and at >= since]

    def sync(self) -> None:
        """After failures the product may count more time as on than the wire was; it then says so."""
        details = self.rules.stage.details(self.output.name)
        if "locked" in details:
            self.locked = True
            if details["mode"] == "auto":
                self.told = self.mode = None

    def begins(self) -> bool:
        """Whether it is at the beginning of a ramp, where its wire tells nothing yet."""
        return bool(self.rules.stage.details(self.output.name)["state"] == "held")

    def doubt(self) -> bool:
        """A contact's reading turns stale at this very moment."""
        said = [self.rules.stage.senses[name].said_at for name, _ in self.output.only_if]
        return any(abs(self.rules.now - at - MAX_AGE) < STEP for at in said)

    def end_mode(self) -> None:
        """The mode is over: the wish is done, if it may be."""
        self.mode = None
        self.moved_at = self.rules.now
        if self.told is not None and self.rules.now >= self.told.until:
            self.told = None
        if self.told is None:
            return
        hindered = self.told.level and (self.interlock() or (not self.wire.level and self.hindered()))
        # Of two that come to their end at the same moment, either may be the first.
        rising = self.level == self.output.safe and any(
            other.rising() or other.fell_at == self.rules.now for other in self.partners()
        )
        if hindered or self.wire.unknown or (self.told.level and rising and not self.begins()):
            self.told = None

    def unlock(self) -> None:
        """It was told off."""
        if self.locked:
            self.locked = False
            rose = self.wire.level > 0 and self.wire.told_at == self.rules.now and self.wire.trace[-1][1] > 0
            self.begun = self.rules.now if rose else None

    def restart(self) -> None:
        """The server is started again: it begins to count anew, and a mode goes on with what is left of it."""
        now, clocks, mode = self.rules.now, self.rules.stage.clocks, self.mode
        self.told, self.locked, self.begun, self.shaky = None, False, None, False
        self.off_at = self.moved_at = self.may_since = now
        self.wire.unknown = True
        if mode is None:
            return
        if mode.boot != clocks.boot:
            trusted = self.rules.stage.trusted
            left = 0.0
            if mode.trusted and trusted:
                left = min(mode.wall - clocks.wall(), mode.seconds)
            elif mode.level == self.output.safe:
                left = mode.seconds
            mode.until, mode.seconds, mode.boot = now + left, left, clocks.boot
            if trusted or not mode.trusted:
                # Else what was known of its end may be of use yet.
                mode.wall, mode.trusted = clocks.wall() + left, trusted
        if mode.until <= now:
            self.mode = None

    def end(self) -> float:
        """When it must not be any more what it is now."""
        output, told, mode = self.output, self.told, self.mode
        if self.wire.unknown or self.level == output.safe:
            return math.inf
        ends = [mode.until if mode is not None else told.until if told is not None else math.inf]
        if self.wire.level > 0:
            senses = self.rules.stage.senses
            ends += [senses[name].said_at + MAX_AGE for name, _ in output.only_if]
            if self.begun is not None and output.longest_on and not output.safe:
                ends.append(self.begun + output.longest_on)
        return min(ends)

    def target(self) -> float:
        """The level in % at which it should be now."""
        output = self.output
        if self.mode is None:
            return self.told.level if self.told is not None else output.safe
        level = self.mode.level
        if level == output.safe:
            return level
        hindered = self.interlock() or self.hindered()
        return output.safe if level and hindered else level

    def check(self) -> None:
        """See that the wire is at what it should be at the end of a turn."""
        output, now, level = self.output, self.rules.now, self.level
        if self.wire.unknown:
            assert self.wire.trace[-1][1] * 100 == output.safe, f"it failed, and was not made safe: {self}"
            assert now - self.wire.told_at <= PATIENCE + CLOSE, f"it failed, and nobody tries again: {self}"
            self.may_since = now
            return
        target = self.target()
        if self.doubt() and level == output.safe:
            return
        if self.mode is not None and self.mode.level != output.safe:
            if target != self.mode.level or self.doubt():
                if not self.waiting:
                    self.waits.append(now)
                self.may_since, self.waiting = now, True
            elif level == output.safe and (
                now - self.may_since <= self.patience() + CLOSE or (output.ramp and now == self.wire.told_at)
            ):
                self.moved_at = now
                return
            else:
                self.waiting = False
        if target == output.safe:
            assert level == output.safe, f"it should be safe: {self}"
            return
        if output.ramp and now <= self.moved_at + output.ramp + STEP:
            return
        assert abs(level - target) < CLOSE, f"it should be at {target:g}: {self}"
