"""Whatever is done to a server's outputs, in any order, no rule of docs/outputs.rst is broken.

RASPY_TEST_EXAMPLES is how many sequences of 40 steps are tried, others each time; 20 a second, or so. Without it the
same ones are tried each time, as too few others were tried since the model was last found wrong. One that fails is
printed step by step.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.devices.rules_line import Line, Output
from tests.devices.rules_model import Rules
from tests.devices.rules_stage import Stage

EXAMPLES = int(os.environ.get("RASPY_TEST_EXAMPLES", "120"))

NAMES = ("ant", "bee", "cat", "dog")
CONTACTS = ("float", "leak")
HOLDERS = st.sampled_from(["scenario", "owner", ""])
QUARTERS = st.sampled_from([0.25, 0.5, 1, 1.25, 2, 3, 4, 5, 6, 9, 10, 12, 15, 20, 25, 40])
"""Seconds that a float holds exactly, so that two ends are at the same moment every now and then."""
LEASES = st.none() | QUARTERS
ONLY_IF = st.sampled_from([(), (), (("float", True),), (("leak", False),), (("float", True), ("leak", False))])
LONGEST, SHORTEST = st.sampled_from([0, 10, 20, 40]), st.sampled_from([0, 0, 2, 5])
MODES = (("feeding", 0.0, 10.0), ("boost", 100.0, 0.0), ("night", 100.0, 25.0))


@st.composite
def outputs(draw: st.DrawFn, most: int = 4) -> list[Output]:
    """The settings of a few outputs that concern each other."""
    names = NAMES[: draw(st.integers(1, most))]
    found = []
    for name in names:
        dims = draw(st.booleans())
        fields: dict[str, Any] = {"kind": "dimmer" if dims else "switch", "lease": draw(st.sampled_from([4, 15, 60]))}
        if draw(st.sampled_from([False, False, True])):
            fields["safe"] = draw(st.sampled_from([40, 100])) if dims else 100
        else:
            fields |= {"longest_on": draw(LONGEST), "shortest_off": draw(SHORTEST), "only_if": draw(ONLY_IF)}
            fields["never_with"] = draw(st.lists(st.sampled_from(names), unique=True, max_size=2))
            fields["never_with"] = tuple(other for other in fields["never_with"] if other != name)
        fields["modes"] = MODES
        if dims:
            fields |= {"ramp": draw(st.sampled_from([0, 2, 8])), "lowest": draw(st.sampled_from([0, 20]))}
            fields["modes"] = (*MODES, ("dusk", 30.0, 5.0))
        found.append(Output(name=name, **fields))
    return found


class Outputs(RuleBasedStateMachine):
    """Commands, modes, contacts, failures, clocks, restarts in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = Stage(
            lambda wire, before: self.rules_.on_edge(wire, before),
            lambda: self.rules_.look(),
            lambda until: self.rules_.on_pass(until),
        )
        self.rules_ = Rules(self.stage)

    def teardown(self) -> None:
        self.stage.close()

    @initialize(found=outputs())
    def begin(self, found: list[Output]) -> None:
        for name in CONTACTS:
            self.stage.sense(name).closed = name == "float"
        self.stage.start()
        for output in found:
            self.stage.safe_levels[output.name] = output.safe / 100
            self.rules_.lines[output.name] = Line(self.rules_, output, self.stage.wire(output.name))
            status, answer = self.stage.ask("new", output.as_new())
            assert status == 200, answer
        self.stage.advance(0)

    def line(self, which: int) -> Line:
        lines = list(self.rules_.lines.values())
        return lines[which % len(lines)]

    WHICH = st.integers(0, 3)

    # Commands

    @rule(which=WHICH, level=st.sampled_from([100, 100, 60, 30, 10]), seconds=LEASES, by=HOLDERS)
    def turn_on(self, which: int, level: float, seconds: float | None, by: str) -> None:
        line = self.line(which)
        self.rules_.told(line.output.name, level if line.output.kind == "dimmer" else 100, seconds, by)

    @rule(which=WHICH, times=st.integers(2, 12), every=st.sampled_from([1, 3, 5]))
    def keep_on(self, which: int, times: int, every: float) -> None:
        """As a program that is stuck does."""
        for _ in range(times):
            self.rules_.told(self.line(which).output.name, 100, 4, "stuck")
            self.stage.advance(every)

    @rule(which=WHICH, seconds=LEASES, by=HOLDERS)
    def turn_off(self, which: int, seconds: float | None, by: str) -> None:
        self.rules_.told(self.line(which).output.name, 0, seconds, by)

    @rule(which=WHICH, by=HOLDERS)
    def release(self, which: int, by: str) -> None:
        self.rules_.release(self.line(which).output.name, by)

    @rule(which=WHICH)
    def reset(self, which: int) -> None:
        self.rules_.reset(self.line(which).output.name)

    # Modes

    @rule(
        which=WHICH,
        more=st.none() | WHICH,
        mode=st.sampled_from(["on", "on", "off", "feeding", "boost", "night", "dusk", "nonsense"]),
        seconds=st.none() | QUARTERS | st.just(90.0 * 86_400),
        by=HOLDERS,
        full=st.sampled_from([False, False, False, True]),
    )
    def set_mode(self, which: int, more: int | None, mode: str, seconds: float | None, by: str, full: bool) -> None:
        names = [self.line(which).output.name]
        if more is not None and self.line(more).output.name not in names:
            names.append(self.line(more).output.name)
        self.rules_.set_mode(names, mode, seconds, by, full)

    @rule(which=WHICH, by=HOLDERS)
    def set_auto(self, which: int, by: str) -> None:
        self.rules_.set_mode([self.line(which).output.name], "auto", None, by)

    # What chance alone brings about too rarely

    @rule(
        which=WHICH, mode=st.sampled_from(["on", "off", "boost"]), lease=QUARTERS, then=st.sampled_from(["off", "", ""])
    )
    def wish(self, which: int, mode: str, lease: float, then: str) -> None:
        """A hand is above a program, which says what it wants meanwhile."""
        name = self.line(which).output.name
        self.rules_.told(name, 100, 4, "scenario")
        self.rules_.set_mode([name], mode, 5, "owner")
        self.rules_.told(name, 0 if self.line(which).output.safe else 100, lease, "scenario")
        if then:
            self.turn_off(which, None, "owner")
        self.stage.advance(6)

    @rule(which=WHICH, mode=st.sampled_from(["on", "boost"]), seconds=st.sampled_from([11, 22, 45]))
    def long_mode(self, which: int, mode: str, seconds: float) -> None:
        """A hand asks for more than the longest time on."""
        self.contacts_are_well()
        self.rules_.set_mode([self.line(which).output.name], mode, 90, "owner")
        self.stage.advance(seconds)

    @rule(which=WHICH, other=WHICH, level=st.sampled_from([30, 60]))
    def in_turn(self, which: int, other: int, level: float) -> None:
        """One is put off, another on, and the first on again."""
        one, two = self.line(which).output, self.line(other).output
        self.contacts_are_well()
        self.rules_.told(one.name, 0, 25, "scenario")
        self.rules_.told(two.name, 100, 25, "scenario")
        self.rules_.told(one.name, level if one.kind == "dimmer" else 100, 25, "scenario")

    @rule(which=WHICH, contact=st.sampled_from(CONTACTS), seconds=st.sampled_from([6, 15, 20]))
    def fall_silent(self, which: int, contact: str, seconds: float) -> None:
        """A contact is not heard any more while an output is on."""
        self.contacts_are_well()
        self.rules_.told(self.line(which).output.name, 100, 25, "scenario")
        self.stage.senses[contact].trouble = "mute"
        self.stage.advance(seconds)

    @rule(which=WHICH, mode=st.sampled_from(["on", "off"]), trusted=st.booleans(), jump=st.sampled_from([0, -60]))
    def reboot_and_restart(self, which: int, mode: str, trusted: bool, jump: float) -> None:
        """A server that does not stay up after a reboot."""
        self.rules_.set_mode([self.line(which).output.name], mode, 25, "owner")
        self.rules_.restart(True, 1, True, trusted)
        for _ in range(3):
            self.stage.clocks.offset += jump
            self.stage.advance(5)
            self.rules_.restart(True, 1, False, trusted)

    # Time

    @rule(seconds=QUARTERS)
    def wait(self, seconds: float) -> None:
        self.stage.advance(seconds)

    @rule(seconds=QUARTERS, which=WHICH, act=st.sampled_from(["turn", "on", "off", "edge"]), so=st.booleans())
    def stall(self, seconds: float, which: int, act: str, so: bool) -> None:
        """The loop stands still; what is due is done by what comes first, a command or the loop itself."""
        self.rules_.stall(seconds)
        if act in ("on", "off"):
            self.turn_on(which, 100, None, "late") if act == "on" else self.turn_off(which, None, "late")
        elif act == "edge":
            self.contact(CONTACTS[which % 2], so, "")
        self.stage.advance(0)

    @rule(seconds=st.sampled_from([-86_400, -20, 20, 3600, 86_400 * 40]))
    def set_the_clock(self, seconds: float) -> None:
        self.stage.clocks.offset += seconds
        self.stage.advance(0)

    # Contacts and hardware

    @rule(name=st.sampled_from(CONTACTS), so=st.booleans(), trouble=st.sampled_from(["", "", "", "error", "mute"]))
    def contact(self, name: str, so: bool, trouble: str) -> None:
        sense = self.stage.senses[name]
        sense.closed, sense.trouble = so, trouble
        if trouble != "mute":
            self.stage.edge(name)
        if self.stage.late_from > self.stage.now:
            # In the same turn, before anything else.
            self.rules_.look()
        self.stage.advance(0)

    @rule()
    def contacts_are_well(self) -> None:
        for name in CONTACTS:
            self.contact(name, name == "float", "")

    @rule(which=WHICH, trouble=st.sampled_from(["refuses", "complains", "off only"]), seconds=QUARTERS)
    def trouble(self, which: int, trouble: str, seconds: float) -> None:
        self.line(which).wire.trouble = trouble
        self.stage.advance(seconds)

    @rule()
    def repair(self) -> None:
        for line in self.rules_.lines.values():
            line.wire.trouble = ""
        self.stage.advance(1)

    # Settings and restarts

    @rule(which=WHICH, longest=LONGEST, shortest=SHORTEST, only_if=ONLY_IF)
    def change(self, which: int, longest: float, shortest: float, only_if: Any) -> None:
        output = self.line(which).output
        if output.safe:
            self.rules_.configure(output.name, lease=17 if output.lease != 17 else 18)
        else:
            self.rules_.configure(output.name, longest_on=longest, shortest_off=shortest, only_if=only_if)

    @rule(
        killed=st.booleans(),
        down=st.sampled_from([0, 1, 5, 30]),
        reboot=st.booleans(),
        trusted=st.booleans(),
    )
    def restart(self, killed: bool, down: float, reboot: bool, trusted: bool) -> None:
        self.rules_.restart(killed, down, reboot, trusted if reboot else self.stage.trusted)

    @invariant()
    @precondition(lambda self: self.rules_.lines)
    def shows(self) -> None:
        self.rules_.show()


TestOutputs = pytest.mark.timeout(60 + EXAMPLES)(Outputs.TestCase)
TestOutputs.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=40,
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
    derandomize="RASPY_TEST_EXAMPLES" not in os.environ,
    print_blob=True,
    # Without Phase.explain, which traces every line and takes minutes.
    phases=(Phase.reuse, Phase.generate, Phase.shrink),
)
