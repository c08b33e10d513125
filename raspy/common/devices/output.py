"""Outputs: what switches something, and falls into its safe state by itself.

An output leaves its safe state under a lease only: whoever turns it on says for how long, and renews it. The
lease, the longest time on and the shortest time off are kept here, where the output lives, on the monotonic
clock, with no help from broker or network; so are its modes (:mod:`~raspy.common.devices.manual`) and interlocks
(:mod:`~raspy.common.devices.interlock`). docs/outputs.rst tells an owner all of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import msgspec

from raspy.common.devices.command import Command
from raspy.common.devices.driven import DrivenDevice, failure_text
from raspy.common.devices.errors import DriveError, ReadingError, Refused
from raspy.common.devices.hold import Hold, OutputSettings
from raspy.common.devices.manual import AUTO, Manual, Mode, Wish
from raspy.common.devices.settings import DeviceSettings
from raspy.common.devices.value import Value
from raspy.common.MDP import logger

__all__ = ["DriveError", "Hold", "OutputDevice", "OutputSettings", "Refused"]

RETRY = 1.0
"""Seconds until the safe state is tried again after the hardware did not take it."""

BREAK, LONGEST_BREAK = 0.1, 60.0
"""The part of the longest time on that an output must be off for a break to count, and the seconds that are enough."""

UNKNOWN, SAFE, HELD, FAILED, REMOVED = "unknown", "safe", "held", "failed", "removed"
"""Not driven yet; in the safe state; away from it under a lease; the safe state could not be reached; off for good."""

Report = Callable[["OutputDevice", dict[str, Any]], None]


class OutputDevice(DrivenDevice):
    """The mother class of outputs.

    The server calls :meth:`fall` with a reason once it owns the output, :meth:`settle` when :meth:`deadline`
    is due, and :meth:`fall` again before it lets go. Everything happens on its loop.
    """

    oid: ClassVar[str] = "output"
    Settings: ClassVar[type[DeviceSettings]] = OutputSettings
    declared: ClassVar[tuple[Command, ...]] = (
        Command(name="reset", type="Str", writeonly=True, info="Go into the safe state"),
        Command(name="release", type="Str", writeonly=True, info="Let go: into the safe state, if you still hold it"),
        Command(name="mode", type="Str", info="Mode: auto, on, off, or one of its own"),
        Command(
            name="mode_end", type="Real", readonly=True, unit="s", info="When the mode ends (Unix time); 0: it is auto"
        ),
    )

    def __init__(self, json: str | bytes | Mapping[str, Any] | None = None) -> None:
        self.on_event: Report = _no_event
        """Called when the output left or reached its safe state, with the facts: what ``/event/output/`` shows."""
        self.on_change: Callable[[OutputDevice], None] = _no_change
        """Called when values or the deadline may have changed."""
        self.on_mode: Callable[[OutputDevice], None] = _no_change
        """Called when its mode is another one."""
        self.interlock: Callable[[OutputDevice], str] = _no_interlock
        """Tells why it must not be on now; empty: it may."""
        self.manual = Manual(self)
        """Its mode."""
        self.state = UNKNOWN
        """``unknown`` until it was driven once, ``safe``, ``held``, ``failed``: the safe state is tried again, or at
        last ``removed``."""
        self.reason = "not driven yet"
        """Why it is in this state."""
        self.target = 0.0
        """The level that it was told, 0 to 1."""
        self.start_level = 0.0
        """The level that it had when it was told."""
        self.aimed_at = 0.0
        """When it was told (monotonic, s)."""
        self._hold = Hold()
        self._by = ""
        self._lease = 0.0
        self._renewed = 0.0
        self._left_safe = 0.0
        self._on_since: float | None = None
        self._step_at = math.inf
        self._shown_at = 0.0
        self._retry_at = math.inf
        self._failed_at = 0.0
        self._failure = ""
        self._locked = False
        self._driven_with: DeviceSettings | None = None
        self._mode_before: Mode | None = None
        self._unsettled = ""
        super().__init__(json)

    @property
    def unsettled(self) -> str:
        """Why its settings are not known; while it says so, it stays in its safe state and refuses."""
        return self._unsettled

    @unsettled.setter
    def unsettled(self, reason: str) -> None:
        before, self._unsettled = self._unsettled, reason
        if reason and self.state in (HELD, FAILED):
            self.fall(f"its settings are not known: {reason}")
        elif reason != before and self.state not in (UNKNOWN, REMOVED):
            self._show()
            self.on_change(self)

    # What a kind of output may say of its way to a level

    def course(self, now: float) -> float:
        """The level to drive at a time on the way to :attr:`target`; to be overridden by what takes its time."""
        return self.target

    def next_step(self, now: float) -> float:
        """When :meth:`course` is to be asked again (monotonic, s)."""
        return math.inf

    # What the server calls

    def deadline(self) -> float:
        """When :meth:`settle` is to be called (monotonic, s); ``math.inf``: not at all."""
        due = self.manual.deadline()
        if self.state == HELD:
            return min(due, self._renewed + self._lease, self._on_end(), self._step_at)
        return min(due, self._retry_at) if self.state == FAILED else due

    def settle(self) -> None:
        """Do what is due: the end of the lease, the mode, the longest time on, a step on the way, another try."""
        now = self.clock()
        try:
            if self.state == FAILED and now >= self._retry_at:
                self._try_again()
            elif self.state == HELD and now >= self._on_end():
                self.end_longest()
            self.manual.settle(now)
            if self.state == HELD:
                if now >= self._renewed + self._lease:
                    self.fall("the lease ended")
                elif now >= self._step_at:
                    failure = self._follow(now)
                    if failure:
                        self.fall(failure)
        finally:
            # Always, so that a call that came too early does not cost the next one.
            self.on_change(self)

    def fall(self, why: str) -> None:
        """Go into the safe state at once, from whichever state; tried every second until the hardware takes it.

        What was removed stays off.
        """
        if self.state == REMOVED:
            return
        was, level = self.state, self._duty
        facts = self._facts() if was == HELD else {}
        self.reason = why
        self._reach_safe()
        self.manual.wait(why, was == HELD)
        try:
            if was != self.state or (level != self._duty and self.state == SAFE):
                self._report(facts)
        finally:
            # Whatever becomes of the event: without a deadline nobody would try again.
            self.on_change(self)

    def remove(self, why: str) -> None:
        """Go off for good, whatever the safe state is, and let go of the hardware: it is nobody's any more.

        :raises DriveError: the hardware did not take it; it is an output as before, in its safe state or tried again
        """
        self.fall(why)
        if self.state == REMOVED:
            return
        failure = self._failure if self.state == FAILED else self._attempt(self.release)
        if failure:
            if self.state != FAILED:
                self._duty = None
                self.fall(failure)
            raise DriveError(f"{self.path}: it cannot be removed while it is not known to be off: {failure}")
        was_on, self._duty = bool(self._duty), 0.0
        self.state = REMOVED
        self._mode_before = self.manual.mode
        self.manual.drop()
        self._show()
        if was_on:
            self._report({})

    def restore(self, why: str) -> None:
        """Be an output again, in the safe state, after :meth:`remove`."""
        if self.state == REMOVED:
            self.state, self._duty = UNKNOWN, None
            self.fall(why)
            if self._mode_before is not None and self._mode_before.end > self.clock():
                self.manual.take_up(self._mode_before)

    def exec_cmd(self, oid: str, command: str, value: Any = None, hold: Hold | None = None) -> Any:
        """Execute a command as :meth:`BaseDevice.exec_cmd` does.

        :param hold: for how long, and by whom; None: as the settings say, by nobody in particular
        :raises Refused: the output must not leave its safe state now
        :raises DriveError: the hardware did not take it
        """
        device = self.find(oid)
        if not isinstance(device, OutputDevice):
            return super().exec_cmd(oid, command, value)
        device._hold = hold or Hold()
        try:
            return super().exec_cmd(oid, command, value)
        finally:
            device._hold = Hold()

    # What commands call

    def tell(self, level: float) -> str:
        """Go to a level, 0 to 1: away from the safe state under the hold of the command, or into it at once.

        In a mode it is remembered only: the text returned says so, and is empty otherwise.

        :raises Refused: the output must not leave its safe state now
        :raises DriveError: the hardware did not take it
        """
        hold = self._hold
        by = f" by {hold.by}" if hold.by else ""
        if self.state == REMOVED:
            raise Refused(f"{self.path}: it is being removed")
        if self.deadline() <= self.clock():
            # A lease or mode that has ended is not renewed by a command that was handled before the loop's timer.
            self.settle()
        lease = self.outputs.lease if hold.seconds is None else hold.seconds
        safe = level == self.outputs.safe_level
        if safe:
            self.unlock()
        if self.manual.mode is not None:
            if not safe:
                self._permit_settled()
            waits = self.manual.remember(level, hold.by, lease)
            self.on_change(self)
            return waits
        if safe:
            self.fall(f"told{by}")
            if self.state == FAILED:
                raise DriveError(f"{self.path}: {self._failure}; it is tried again every {RETRY:g} s")
        else:
            self.hold_at(Wish(level, hold.by, lease, self.clock()), f"told{by}")
        return ""

    def hold_at(self, wish: Wish, why: str) -> None:
        """Be at a level, or stay there, under a lease that began when it was told.

        :raises Refused: the output must not be there now
        :raises DriveError: the hardware did not take it
        """
        self._permit(wish.level)
        now = self.clock()
        entered = self.state != HELD
        if entered or wish.level != self.target:
            self.start_level = self.outputs.safe_level if self._duty is None else self._duty
            self.aimed_at, self.target = now, wish.level
        if entered:
            self._count_on(now)
            self._left_safe = now
            self.state, self.reason = HELD, why
        self._by, self._renewed, self._lease = wish.by, wish.told, wish.lease
        failure = self._follow(now, show=True)
        if failure:
            self.fall(failure)
            raise DriveError(f"{self.path}: {failure}")
        try:
            if entered:
                self._report({"by": self._by, "lease": round(self._lease, 3)})
        finally:
            self.on_change(self)

    # What its mode calls, and the interlocks

    @property
    def held(self) -> bool:
        """Whether it is away from its safe state."""
        return self.state == HELD

    @property
    def locked(self) -> bool:
        """Whether it was on for its longest time, and has to be told off once."""
        return self._locked

    @property
    def may_be_on(self) -> bool:
        """Whether it is on, is on its way there, or may be for all that is known."""
        return self._duty != 0 or (self.state == HELD and self.target > 0)

    def lease(self) -> Wish | None:
        """What holds it away from its safe state."""
        return Wish(self.target, self._by, self._lease, self._renewed) if self.state == HELD else None

    def look(self) -> None:
        """Another device of the server has changed: see whether this one may still be on, or may now."""
        if self.state == HELD and self.clock() >= self._on_end():
            # Its longest time was over before, and that is not to be forgotten.
            self.settle()
        # One that is on in its safe state, and on its way to be off, would only be kept on.
        goes_off = self.target == 0 and self.outputs.safe_level > 0
        if self.state == HELD and self.may_be_on and not goes_off:
            why = self.interlock(self)
            if why:
                self.fall(f"interlock: {why}")
        elif self.manual.waits:
            self.manual.look()

    def end_longest(self) -> None:
        """It was on for its longest time: so its mode is over, too."""
        why = f"it was on for its longest time, {self.outputs.longest_on:g} s"
        mode = self.manual.name
        self._locked = True
        self.manual.drop()
        self.fall(why)
        if mode != AUTO:
            self.tell_mode(f"mode {mode} ended: {why}")

    def tell_mode(self, why: str) -> None:
        """Its mode is another one: have that shown, and kept."""
        details = self.manual.details()
        facts = {"mode": details["mode"], "by": details.get("mode_by", ""), "mode_end": details.get("mode_end", 0)}
        if self.state != UNKNOWN:
            self._show()
        try:
            self.on_mode(self)
            self._report({**facts, "reason": why})
        finally:
            self.on_change(self)

    def reading(self, command: str) -> Value:
        """The reading of a command, for a method that is asked for it."""
        found = self.commands[command]
        return found.reading or Value.error("not driven yet", found.unit)

    def cmd_reset(self, value: Any = None) -> bool:
        """Go into the safe state, end the mode, and forget that the longest time on was reached."""
        self.unlock()
        if self.manual.mode is not None:
            self.manual.drop()
            self.tell_mode("told to reset")
        else:
            # One may be on its way to the disk.
            self.on_mode(self)
        self.fall("told to reset")
        return True

    def cmd_mode(self, value: str | None = None) -> Any:
        """Get the mode, or set it for as long as the command says (frame ``seconds``).

        :raises raspy.common.devices.errors.BadValue: it has no such mode
        """
        if value is None:
            return self.reading("mode")
        self.manual.set(self.manual.find(value, self._hold.seconds, self._hold.by), self._hold.by)
        return value

    def cmd_release(self, value: Any = None) -> bool:
        """Go into the safe state if whoever says so holds it (``by``); return whether that was so.

        Unlike being told off, this is no sign that somebody looked: a longest time on that was reached stays reached.
        """
        by = self._hold.by
        if self.manual.mode is not None:
            return self.manual.forget(by)
        if self.state != HELD or self._by != by:
            return False
        self.fall(f"let go by {by}" if by else "let go")
        return True

    def details(self) -> dict[str, Any]:
        """State, reason and holder; in s: what is left of the lease, of the time on, of the shortest time off.

        ``until`` is the end of the lease as the clock of now has it (Unix, s).
        """
        now = self.clock()
        found: dict[str, Any] = {"state": self.state, "reason": self.reason, **self.manual.details()}
        if self.state == FAILED:
            found["failure"] = self._failure
        if self.state == HELD:
            left = max(self._renewed + self._lease - now, 0.0)
            found |= {"by": self._by, "left": round(left, 3), "until": round(time.time() + left, 3)}
            if self.outputs.longest_on:
                found["on_left"] = round(max(self._on_end() - now, 0.0), 3)
        elif self._locked:
            found["locked"] = "on again only after it was told off"
        elif self._off_left(now):
            found["off_left"] = round(self._off_left(now), 3)
        return found

    @property
    def outputs(self) -> OutputSettings:
        """The settings as those of an output."""
        config = self.config
        assert isinstance(config, OutputSettings)
        return config

    def _permit_settled(self) -> None:
        unsettled = self.unsettled or (self.parent.unsettled if self.parent is not None else "")
        if unsettled:
            raise Refused(f"{self.path}: its settings are not known: {unsettled}")

    def _permit(self, level: float) -> None:
        """Raise :class:`Refused` unless the output may be at a level now that is not its safe state."""
        self._permit_settled()
        if self.state == REMOVED:
            raise Refused(f"{self.path}: it is being removed")
        if self.state == UNKNOWN:
            raise Refused(f"{self.path}: its server has not driven it yet")
        if self.state == FAILED:
            raise Refused(f"{self.path}: its safe state could not be reached: {self._failure}")
        why = self.interlock(self) if level > 0 else ""
        if why:
            if self.state == HELD:
                # The loop stood still, and this command came before the look that was due.
                self.look()
            raise Refused(f"{self.path}: interlock: {why}")
        if self.state == HELD:
            return
        now = self.clock()
        if now >= self._on_end() and now - self._off_since < self._break():
            self._locked = True
        if self._locked:
            raise Refused(
                f"{self.path}: it was on for its longest time, {self.outputs.longest_on:g} s, and goes on again only "
                "after it was told off"
            )
        left = self._off_left(now)
        if left:
            raise Refused(
                f"{self.path}: once off it stays off for {self.outputs.shortest_off:g} s; {math.ceil(left)} s are left"
            )

    def _on_end(self) -> float:
        longest = self.outputs.longest_on
        return self._on_since + longest if longest and self._on_since is not None else math.inf

    def _break(self) -> float:
        """For how long it must be off for the longest time on to begin anew, in s."""
        return min(self.outputs.longest_on * BREAK, LONGEST_BREAK)

    def _count_on(self, now: float) -> None:
        """From now on it is on, or nobody knows: the longest time begins, or goes on after what is no break."""
        if self._on_since is None or now - self._off_since >= self._break():
            self._on_since = now

    def _drive(self, level: float) -> str:
        was_off = self._duty == 0
        failure = super()._drive(level)
        if failure and was_off:
            self._count_on(self.clock())
        return failure

    def unlock(self) -> None:
        """It was told off: a longest time on that was reached is over."""
        if self._locked:
            self._locked, self._on_since = False, None

    def _off_left(self, now: float) -> float:
        shortest = self.outputs.shortest_off
        return max(self._off_since + shortest - now, 0.0) if shortest else 0.0

    def _follow(self, now: float, show: bool = False) -> str:
        """Drive what the course says, and have it shown; return what went wrong, whatever it was."""
        try:
            level = self.course(now)
            self._step_at = float(self.next_step(now))
        except Exception as error:
            logger.error("%s does not know its way", self.path, exc_info=error)
            return f"it does not know its way: {failure_text(error)}"
        failure = self._drive(level)
        if not failure and (show or self._step_at == math.inf or now - self._shown_at >= 1):
            failure = self._show()
        return failure

    def _reach_safe(self) -> None:
        self.target = self.outputs.safe_level
        self._step_at = self._retry_at = math.inf
        self._driven_with = _of_the_hardware(self.config)
        failure = self._drive(self.target)
        if failure:
            if self.state != FAILED:
                self._failed_at = self.clock()
            self.state, self._failure = FAILED, failure
            self._retry_at = self.clock() + RETRY
        else:
            self.state, self._failure = SAFE, ""
        self._show()

    def _try_again(self) -> None:
        self._reach_safe()
        if self.state == SAFE:
            self._report({"failed_for": round(self.clock() - self._failed_at, 3)})

    def _show(self) -> str:
        """Have the commands say what the hardware does; return what went wrong."""
        self._shown_at = self.clock()
        failure, found = "", ReadingError("output", self._failure or self.reason)
        details = self.manual.details()
        shown: dict[str, Any] = {"mode": details["mode"], "mode_end": details.get("mode_end", 0.0)}
        readings = self._readings(self._duty) if self._duty is not None else found
        if isinstance(readings, dict):
            self.update({**readings, **shown})
            return ""
        failure = str(readings) if self._duty is not None else ""
        self.update({command.name: readings for command in self.values()} | shown)
        return failure

    def _facts(self) -> dict[str, Any]:
        """What an event tells of the hold that is over: who, its lease, for how long since the last renewal, and in
        all (s)."""
        now = self.clock()
        return {
            "by": self._by,
            "lease": self._lease,
            "after": round(now - self._renewed, 3),
            "on": round(now - self._left_safe, 3),
        }

    def _report(self, facts: dict[str, Any]) -> None:
        event = {"state": self.state, "reason": self.reason, **facts}
        if self.manual.mode is not None:
            event.setdefault("mode", self.manual.name)
        found = self._readings(self.target if self.state != REMOVED else 0.0)
        if self._duty is None:
            event["failure"] = self._failure
        elif isinstance(found, dict):
            event |= found
        level = logger.warning if self.state == FAILED else logger.info
        level("%s: %s: %s%s", self.path, self.state, event["reason"], f" ({self._failure})" if self._failure else "")
        self.on_event(self, event)

    def settings_changed(self) -> None:
        super().settings_changed()
        if self._driven_with is not None and self._driven_with != _of_the_hardware(self.config):
            self.fall("the settings were changed")
        self.manual.settings_changed()


def _of_the_hardware(config: DeviceSettings) -> DeviceSettings:
    """The settings without those whose change does not concern the hardware."""
    return msgspec.structs.replace(config, label="", log=False)


def _no_event(device: OutputDevice, event: dict[str, Any]) -> None:
    pass


def _no_change(device: OutputDevice) -> None:
    pass


def _no_interlock(device: OutputDevice) -> str:
    return ""
