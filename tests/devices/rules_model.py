"""What docs/outputs.rst says of outputs, written down a second time, to be held against what their wires were told.

It knows the settings, what was told and what was answered, what the contacts said, and the trace of each wire. It
never looks into the product.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from tests.devices.rules_line import LONGEST_MODE, PATIENCE, STEP, Line, Mode, Told
from tests.devices.rules_machine import Wire
from tests.devices.rules_stage import Stage


class Rules:
    """What a server's outputs should do.

    :param stage: the machine
    """

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.lines: dict[str, Line] = {}
        self.asking = False
        """A command is on its way, of which it is not known yet whether it is taken."""
        self.breaches: list[str] = []
        """What a wire did that it never must."""

    @property
    def now(self) -> float:
        return self.stage.now

    def on_edge(self, wire: Wire, before: float) -> None:
        for line in self.lines.values():
            if line.wire is wire:
                line.on_edge(before)

    def on_pass(self, until: float) -> None:
        """Nothing is to be done until then: so nothing must have come to its end."""
        for line in self.lines.values():
            due = max(line.end() + STEP, self.now)
            assert until <= due, f"nothing is done until {until:g}, past {line.end():g}: {line}"

    def look(self) -> None:
        """A turn of the loop is over."""
        assert not self.breaches, "\n".join(self.breaches)
        for line in self.lines.values():
            line.step()
        for line in self.lines.values():
            line.check()

    def told(self, name: str, level: float, seconds: float | None, by: str) -> None:
        """Tell an output a level in %, and see what it answers."""
        line = self.lines[name]
        output = line.output
        if output.kind == "dimmer":
            words, value = ("exec", name, "level", f"{level:g}"), level
        else:
            words, value = ("exec", name, "power", "on" if level else "off"), bool(level)
        line.step()
        hindered, interlock, over = line.hindered(), line.interlock(), line.told is None
        before, unknown, failures = line.level, line.wire.unknown, line.wire.failures
        mode, late = line.mode, self.now > self.stage.late_from
        doubt = line.doubt() or any(other.rising() for other in line.partners())
        self.asking = True
        status, answer = self.stage.ask(*words, "" if seconds is None else f"{seconds:g}", by)
        self.asking = False
        told = Told(level, self.now + (output.lease if seconds is None else seconds), by)
        if not output.can(level):
            assert status == 400, (status, answer)
        elif mode is not None and late and status == 409 and output.ramp and output.longest_on:
            # It stood still at the beginning of its ramp for its longest time.
            line.sync()
            assert line.locked, f"{answer}: {line}"
        elif mode is not None:
            assert status == 200, f"{answer}: {line}"
            assert isinstance(answer, dict), f"no word that it waits: {answer}: {line}"
            assert answer["value"] == value
            assert answer["waits"]
            line.told = None if level == output.safe else told
            if level == output.safe:
                line.unlock()
        elif late and isinstance(answer, dict) and "waits" in answer:
            # The mode has come to its end meanwhile, which is seen to in a moment.
            line.told = None if level == output.safe or hindered else told
        elif late and status == 200 and line.wire.failures > failures and level != output.safe:
            # It fell, as a step on its way failed, and begins anew.
            line.told, line.moved_at, line.failures = told, self.now, line.wire.failures
        elif line.wire.failures > failures:
            assert status == 500 or (late and status == 409), f"{answer}: {line}"
            line.told = None
            if level == output.safe:
                line.unlock()
        elif level == output.safe:
            assert status == 200, f"{answer}: {line}"
            line.told = None
            line.unlock()
        else:
            no = bool(unknown or line.locked or (level and interlock) or (hindered and not before and level))
            if before and over and not output.safe:
                # It falls first.
                no = no or output.shortest_off > 0
            if doubt or (late and hindered == interlock and all(why.endswith(" is on") for why in interlock)):
                # Others may have come to their end meanwhile, which is seen to now or in a moment.
                no = status == 409
            if status == 409 and output.longest_on and line.tries() and "longest time" in answer:
                no = line.locked = True
            assert status == (409 if no else 200), f"{answer}: hindered by {hindered}: {line}"
            if no:
                reached = "its longest time on was reached in a break" in hindered
                line.locked = line.locked or (reached and not interlock) or "locked" in self.stage.details(name)
            else:
                if line.told is None or line.told.level != level:
                    line.moved_at = self.now
                line.told = told
        self.stage.advance(0)

    def release(self, name: str, by: str) -> None:
        line = self.lines[name]
        line.step()
        holds = line.told is not None and line.told.by == by
        status, answer = self.stage.ask("exec", name, "release", "", "", by)
        assert status == 200, f"{answer}: {line}"
        assert answer == holds or line.mode is not None, f"{answer}: {line}"
        if holds:
            line.told = None
        self.stage.advance(0)

    def reset(self, name: str) -> None:
        line = self.lines[name]
        status, answer = self.stage.ask("exec", name, "reset", "")
        assert status in (200, 500), answer
        line.told = line.mode = None
        line.unlock()
        self.stage.advance(0)

    def set_mode(self, names: list[str], mode: str, seconds: float | None, by: str, full: bool = False) -> None:
        """Put outputs into a mode; on a disk that may be full."""
        lines = [self.lines[name] for name in names]
        known = all(mode == "auto" or line.output.mode(mode) is not None for line in lines)
        for line in lines:
            line.step()
        stage = self.stage
        text = "" if seconds is None else f"{seconds:g}"
        words = ("exec", names[0], "mode") if len(names) == 1 else ("mode", ",".join(names))
        stage.disk.gate.clear()
        marks = [len(line.wire.trace) for line in lines]
        self.asking = True
        answers = stage.send(*words, mode, text, by)
        if known:
            for line, mark in zip(lines, marks, strict=True):
                found = line.output.mode(mode)
                safe = found is None or found[0] == line.output.safe
                # What it was told before may be due at this very moment.
                others = [line.output.safe, *(told.level for told in (line.mode, line.told) if told is not None)]
                acted = [level for _, level, _ in line.wire.trace[mark:] if round(level * 100, 6) not in others]
                assert safe or not acted, f"acted on before it was kept: {line}"
        if seconds is not None and seconds > LONGEST_MODE and mode != "auto":
            known = False
        assert not known or not answers or mode == "auto", "acknowledged before it was kept"
        stage.disk.full = full
        stage.disk.gate.set()
        status, answer = stage.answer(answers)
        stage.disk.full = self.asking = False
        assert known or status == 400, answer
        if status == 200:
            for line in lines:
                fell = line.mode is None and line.told is not None and line.told.level and line.interlock()
                if len(lines) > 1 and fell and "wish" not in stage.details(line.output.name):
                    # The mode of the other one had it fall before it was its turn.
                    line.told = None
                self._in_mode(line, mode, seconds)
        elif known:
            assert full, f"{status} {answer}: {lines}"
            assert status == 503, answer
            for line in lines:
                # What makes it safe, or ends its mode, is done all the same, and kept as soon as can be.
                found = line.output.mode(mode)
                if found is None or found[0] == line.output.safe:
                    self._in_mode(line, mode, seconds)
                elif line.mode is not None:
                    line.mode.seconds = line.mode.until - self.now
                    line.mode.wall = stage.clocks.wall() + line.mode.seconds
                    line.mode.trusted = stage.trusted
        # What the disk did not take is written again.
        stage.advance(PATIENCE if full else 0)

    def _in_mode(self, line: Line, mode: str, seconds: float | None) -> None:
        found = line.output.mode(mode)
        line.moved_at = line.may_since = self.now
        line.waiting = False
        if found is None:
            line.unlock()
            if line.mode is not None:
                line.end_mode()
            return
        level, lasts = found
        lasts = lasts if seconds is None else seconds
        if level == line.output.safe:
            line.unlock()
        clocks = self.stage.clocks
        until, wall, trusted = self.now + lasts, clocks.wall() + lasts, self.stage.trusted
        line.mode = Mode(mode, level, until, lasts, wall, trusted, clocks.boot)

    def configure(self, name: str, **changes: Any) -> None:
        """Change settings of an output: it is safe first, and then what they say."""
        line = self.lines[name]
        before, line.output = line.output, msgspec.structs.replace(line.output, **changes)
        fields = {key: value for key, value in line.output.json().items() if value != before.json()[key]}
        mark, mode = len(line.wire.trace), line.mode
        status, answer = self.stage.ask("exec", name, "config", msgspec.json.encode(fields).decode())
        assert status == 200, answer
        if fields:
            levels = [level * 100 for _, level, _ in line.wire.trace[mark:]]
            assert levels, f"it was not made safe: {line}"
            assert levels[0] == line.output.safe, f"it was not made safe first: {line}"
            if mode is None:
                line.told = None
            line.may_since = line.moved_at = line.changed_at = self.now
            assert (line.mode is None) == (mode is None)
        self.stage.advance(0)

    def stall(self, seconds: float) -> None:
        """The loop stands still."""
        self.stage.stall(seconds)
        for line in self.lines.values():
            line.shaky = bool(line.interlock()) or line.doubt()

    def restart(self, killed: bool, down: float, reboot: bool, trusted: bool) -> None:
        """The server ends and is started again, or the machine."""
        stage = self.stage
        stage.end(killed)
        if not killed:
            for line in self.lines.values():
                assert line.wire.unknown or line.level == line.output.safe, f"it was left so: {line}"
        stage.clocks.now += down
        if reboot:
            stage.clocks.reboot()
        stage.trust(trusted)
        for line in self.lines.values():
            line.restart()
        for sense in stage.senses.values():
            sense.said, sense.said_at = None, -math.inf
        stage.start()

    def show(self) -> None:
        """What the tree and ``info`` say of the modes is so."""
        for name, line in self.lines.items():
            details = self.stage.details(name)
            mode = "auto" if line.mode is None else line.mode.name
            assert details["mode"] == mode, f"{details}: {line}"
            assert self.stage.shown(name, "mode") == mode, f"{line}"
            if line.mode is not None:
                assert abs(details["mode_left"] - (line.mode.until - self.now)) < 0.01, f"{details}: {line}"
