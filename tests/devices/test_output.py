"""raspy.common.devices.output, switch, dimmer and the simulated pins: an output falls into its safe state."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from raspy.common.devices.device import BaseDevice
from raspy.common.devices.dimmer import Dimmer
from raspy.common.devices.errors import BadValue, FieldErrors, NotPermitted, UnknownCommand
from raspy.common.devices.output import DriveError, Hold, OutputDevice, Refused
from raspy.common.devices.switch import Switch
from raspy.servers.fake.outputs import FakeDimmer, FakeSwitch
from raspy.servers.fake.pins import Pin, Pins


class Clock:
    """A monotonic clock that the test sets."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Bench(OutputDevice):
    """An output whose hardware is a list of what it was driven to; ``broken`` and ``strikes`` make it fail."""

    def __init__(self, json: Any = None) -> None:
        self.driven: list[float] = []
        self.broken: Exception | None = None
        self.acts_anyway = False
        """A failing drive has its effect all the same."""
        self.told: list[dict[str, Any]] = []
        self.changes = 0
        super().__init__(json)
        self.time = Clock()
        self.clock = self.time
        self.on_event = lambda device, event: self.told.append(event)
        self.on_change = lambda device: self._count()

    def _count(self) -> None:
        self.changes += 1

    def drive(self, value: float) -> None:
        if self.broken is None or self.acts_anyway:
            self.driven.append(value)
        if self.broken is not None:
            raise self.broken

    @property
    def level(self) -> float:
        return self.driven[-1]

    def wait(self, seconds: float) -> None:
        """Let time pass, as a server does: settle() at each deadline."""
        end = self.time.now + seconds
        for _ in range(100_000):
            due = self.deadline()
            if due > end:
                break
            assert due >= self.time.now, "a deadline lies in the past: the loop would spin"
            self.time.now = due
            self.settle()
        else:
            raise AssertionError("settle() is asked for without end")
        self.time.now = end


class BenchSwitch(Bench, Switch):
    pass


class BenchDimmer(Bench, Dimmer):
    pass


def switch(**settings: Any) -> BenchSwitch:
    """A switch that its server has started, long ago."""
    made = BenchSwitch.new({"name": "heater", **settings})
    made.fall("start")
    made.time.now += 86_400
    return made


def dimmer(**settings: Any) -> BenchDimmer:
    made = BenchDimmer.new({"name": "light", **settings})
    made.fall("start")
    made.time.now += 86_400
    return made


def on(device: OutputDevice, seconds: float | None = None, by: str = "") -> Any:
    return device.exec_cmd("", "power", True, Hold(seconds, by))


def off(device: OutputDevice) -> Any:
    return device.exec_cmd("", "power", False)


def shows(device: BaseDevice, command: str) -> Any:
    """The value that stands on the tree, or why there is none."""
    reading = device.commands[command].reading
    assert reading is not None
    return reading.value if reading.quality == "ok" else reading.reason


# The lease


def test_it_is_driven_safe_at_the_start_and_says_so() -> None:
    device = BenchSwitch.new({"name": "heater"})
    assert device.driven == []
    device.fall("the server started")
    assert device.driven == [0.0]
    assert device.told == [{"state": "safe", "reason": "the server started", "power": False}]
    assert shows(device, "power") is False
    assert device.deadline() == math.inf
    assert device.changes == 1


def test_nobody_turns_it_on_before_its_server_has_driven_it() -> None:
    device = BenchSwitch.new({"name": "heater"})
    with pytest.raises(Refused, match="not driven it yet"):
        on(device)
    assert device.driven == []
    device.settle()
    assert device.driven == []


def test_it_is_held_for_the_lease_and_falls_at_its_end() -> None:
    device = switch()
    assert on(device, 10, "scenario.warm") is True
    assert (device.level, device.state, shows(device, "power")) == (1.0, "held", True)
    assert device.deadline() == device.time.now + 10
    device.wait(9.999)
    assert device.level == 1.0
    device.wait(0.001)
    assert (device.level, device.state, shows(device, "power")) == (0.0, "safe", False)
    assert device.told[1:] == [
        {"state": "held", "reason": "told by scenario.warm", "power": True, "by": "scenario.warm", "lease": 10},
        {
            "state": "safe",
            "reason": "the lease ended",
            "power": False,
            "by": "scenario.warm",
            "lease": 10,
            "after": 10.0,
            "on": 10.0,
        },
    ]


def test_without_a_time_the_lease_of_the_settings_counts() -> None:
    device = switch(lease=25)
    on(device)
    assert device.deadline() == device.time.now + 25


def test_a_command_renews_or_replaces_the_lease() -> None:
    device = switch()
    on(device, 10, "a")
    device.wait(9)
    on(device, 10, "b")
    assert device.deadline() == device.time.now + 10
    device.wait(1)
    on(device, 2, "c")
    assert device.deadline() == device.time.now + 2
    device.wait(2)
    assert device.level == 0.0
    assert len(device.told) == 3, "a renewal is no event"
    assert device.told[-1]["by"] == "c"
    assert (device.told[-1]["after"], device.told[-1]["on"]) == (2.0, 12.0)


def test_a_lease_that_is_over_is_not_renewed_by_a_command_that_comes_before_the_timer() -> None:
    device = switch(shortest_off=60)
    on(device, 10)
    device.time.now += 11  # the loop was stopped
    with pytest.raises(Refused, match="60 s are left"):
        on(device, 10)
    assert device.level == 0.0
    assert device.told[-1]["reason"] == "the lease ended"


def test_a_hold_for_less_is_told_by_its_deadline() -> None:
    device = switch()
    on(device, 0.25)
    assert device.deadline() == device.time.now + 0.25


@pytest.mark.parametrize("seconds", [0, -1, 86_400.1, math.inf, math.nan, True, "ten", "", None])
def test_seconds_out_of_bounds_are_refused_with_what_would_be_right(seconds: Any) -> None:
    if seconds in ("", None):
        assert Hold.from_text("").seconds is None
        return
    with pytest.raises(BadValue, match=r"seconds: .* is not"):
        Hold(seconds) if not isinstance(seconds, str) else Hold.from_text(seconds)
    with pytest.raises(BadValue, match=r"seconds: .* is not"):
        Hold.from_text(str(seconds))


@pytest.mark.parametrize("by", ["a\nb", "x" * 101, "\x1b[2J"])
def test_a_holders_name_is_one_short_line(by: str) -> None:
    with pytest.raises(BadValue, match="by: "):
        Hold.from_text("5", by)
    assert Hold.from_text("5", "x" * 100) == Hold(5.0, "x" * 100)


def test_a_hold_is_of_one_command_alone() -> None:
    device = switch(lease=60)
    on(device, 10, "a")
    device.exec_cmd("", "power", "on")
    assert device.deadline() == device.time.now + 60
    assert device.details()["by"] == ""


def test_what_is_wrong_with_a_command_changes_nothing() -> None:
    device = switch()
    on(device, 10)
    for command, value, error in [("power", "perhaps", BadValue), ("level", "5", UnknownCommand)]:
        with pytest.raises(error):
            device.exec_cmd("", command, value)
    with pytest.raises(UnknownCommand):
        device.exec_cmd("none", "power", "on")
    assert device.deadline() == device.time.now + 10


# Off is never refused


def test_told_off_it_goes_off_at_once() -> None:
    device = switch()
    on(device, 10)
    device.time.now += 3
    assert device.exec_cmd("", "power", "off", Hold(by="owner")) is False
    assert (device.level, device.deadline()) == (0.0, math.inf)
    assert device.told[-1]["reason"] == "told by owner"
    before = len(device.told)
    off(device)
    assert len(device.told) == before, "safe already: nothing has happened"
    assert device.driven[-1] == 0.0


def test_a_reset_is_safe() -> None:
    device = switch()
    on(device)
    assert device.exec_cmd("", "reset", "") is True
    assert (device.level, device.told[-1]["reason"]) == (0.0, "told to reset")
    assert shows(device, "power") is False


def test_whoever_holds_it_lets_go() -> None:
    device = switch()
    on(device, 30, "scenario thermostat")
    assert device.exec_cmd("", "release", "", Hold(by="scenario thermostat")) is True
    assert (device.level, device.told[-1]["reason"]) == (0.0, "let go by scenario thermostat")
    assert device.exec_cmd("", "release", "", Hold(by="scenario thermostat")) is False, "it holds it no more"


def test_nobody_lets_go_of_what_another_holds() -> None:
    device = switch()
    on(device, 30, "scenario thermostat")
    on(device, 30, "owner")
    assert device.exec_cmd("", "release", "", Hold(by="scenario thermostat")) is False
    assert device.exec_cmd("", "release", "") is False
    assert device.level == 1.0


def test_to_let_go_does_not_forgive_a_longest_time_that_was_reached() -> None:
    device = switch(longest_on=100)
    on(device, 1000, "stuck")
    device.wait(101)
    assert device.exec_cmd("", "release", "", Hold(by="stuck")) is False
    device.wait(3600)
    with pytest.raises(Refused, match="longest time"):
        on(device, 10, "stuck")


# The longest time on, the shortest time off


def test_no_renewal_keeps_it_on_past_its_longest_time() -> None:
    device = switch(longest_on=100)
    for _ in range(9):
        on(device, 30, "stuck")
        device.wait(10)
        assert device.level == 1.0
    on(device, 30, "stuck")
    assert device.deadline() == device.time.now + 10
    device.wait(10)
    assert device.level == 0.0
    assert device.told[-1]["reason"] == "it was on for its longest time, 100 s"
    assert device.told[-1]["on"] == 100.0


def test_after_its_longest_time_it_is_on_again_only_once_it_was_told_off() -> None:
    device = switch(longest_on=100)
    on(device, 3600)
    device.wait(5000)
    for _ in range(3):
        with pytest.raises(Refused, match="goes on again only after it was told off"):
            on(device, 30)
        device.wait(1000)
    assert "told off" in device.details()["locked"]
    off(device)
    assert "locked" not in device.details()
    on(device, 30)
    assert device.level == 1.0


def test_a_command_that_comes_late_does_not_slip_past_the_longest_time() -> None:
    device = switch(longest_on=100)
    on(device, 3600)
    device.time.now += 200  # the loop was stopped
    with pytest.raises(Refused, match="longest time"):
        on(device, 3600)
    assert device.level == 0.0


def test_the_longest_time_counts_when_both_ends_have_passed() -> None:
    device = switch(longest_on=100)
    on(device, 50)
    device.time.now += 200
    device.settle()
    assert device.told[-1]["reason"] == "it was on for its longest time, 100 s"


@pytest.mark.parametrize(("longest", "gap"), [(100, 9), (3600, 59)])
def test_a_lease_that_ends_and_begins_again_at_once_is_no_break(longest: float, gap: float) -> None:
    device = switch(longest_on=longest)
    begun = device.time.now
    while device.time.now < begun + 3 * longest:
        with contextlib.suppress(Refused):
            on(device, 50, "stuck")
        assert device.time.now < begun + longest or device.level == 0.0, "on past its longest time"
        device.wait(50 + gap)
    assert "told off" in device.details()["locked"]
    off(device)
    on(device)
    assert device.level == 1.0


def test_a_break_that_counts_begins_the_longest_time_anew() -> None:
    device = switch(longest_on=100)
    for _ in range(10):
        on(device, 90)
        device.wait(90 + 10)
    assert "locked" not in device.details()
    on(device, 3600)
    assert device.details()["on_left"] == 100
    off(device)
    device.wait(5)
    on(device, 3600)
    assert device.details()["on_left"] == 95, "to be told off for a moment is no break either"
    device.wait(95)
    assert device.told[-1]["reason"] == "it was on for its longest time, 100 s"
    assert device.told[-1]["on"] == 95, "since it last left its safe state"


def test_the_longest_time_may_end_in_a_break() -> None:
    device = switch(longest_on=100)
    on(device, 95)
    device.wait(102)
    with pytest.raises(Refused, match="longest time, 100 s"):
        on(device, 10)
    device.wait(1000)
    with pytest.raises(Refused, match="told off"):
        on(device, 10)


def test_it_stays_off_for_its_shortest_time() -> None:
    device = switch(shortest_off=60)
    on(device, 10)
    device.wait(10)
    with pytest.raises(Refused, match=r"heater: once off it stays off for 60 s; 60 s are left"):
        on(device)
    device.wait(30.5)
    assert device.details()["off_left"] == 29.5
    with pytest.raises(Refused, match="30 s are left"):
        on(device)
    off(device)
    device.wait(29.25)
    with pytest.raises(Refused, match="1 s are left"):
        on(device)
    device.wait(0.25)
    on(device)
    assert device.level == 1.0, "told off again, the time counts from when it went off"


def test_the_shortest_time_off_counts_from_the_start_of_the_server_too() -> None:
    device = BenchSwitch.new({"name": "heater", "shortest_off": 60})
    device.fall("start")
    with pytest.raises(Refused, match="60 s are left"):
        on(device)
    device.wait(60)
    on(device)
    assert device.level == 1.0


# What is safe when it is on


def test_what_must_not_stand_still_is_on_unless_held() -> None:
    device = switch(safe=True)
    assert device.level == 1.0
    off(device)
    assert (device.level, device.state) == (0.0, "held")
    device.wait(60)
    assert (device.level, device.told[-1]["reason"], device.told[-1]["power"]) == (1.0, "the lease ended", True)
    device.exec_cmd("", "power", False, Hold(3600))
    on(device)
    assert (device.level, device.state) == (1.0, "safe")


@pytest.mark.parametrize("kind", [BenchSwitch, BenchDimmer])
def test_a_safe_state_that_is_not_off_excludes_the_two_times(kind: type[OutputDevice]) -> None:
    with pytest.raises(FieldErrors) as caught:
        kind.new({"name": "pump", "safe": 30 if kind is BenchDimmer else True, "longest_on": 5, "shortest_off": 6})
    assert set(caught.value.fields) == {"longest_on", "shortest_off"}
    assert "safe state is not off" in str(caught.value)


def test_an_output_is_not_read() -> None:
    device = switch()
    with pytest.raises(FieldErrors, match="an output is not read"):
        device.exec_cmd("", "poll", "5")
    with pytest.raises(NotPermitted):
        device.exec_cmd("", "reset")


# Settings


def test_a_change_of_settings_is_safe_first() -> None:
    device = switch()
    on(device, 3600)
    device.configure({"longest_on": 600})
    assert (device.level, device.state) == (0.0, "safe")
    assert device.told[-1]["reason"] == "the settings were changed"


def test_settings_that_are_refused_change_nothing() -> None:
    device = switch()
    on(device, 3600)
    with pytest.raises(FieldErrors):
        device.configure({"longest_on": -1})
    assert (device.level, device.state) == (1.0, "held")


def test_a_new_safe_state_is_taken_at_once() -> None:
    device = switch()
    device.configure({"safe": True})
    assert device.level == 1.0
    assert device.told[-1] == {"state": "safe", "reason": "the settings were changed", "power": True}
    device.configure({"safe": False, "shortest_off": 60})
    assert device.level == 0.0
    with pytest.raises(Refused, match="60 s are left"):
        on(device)


def test_a_new_label_turns_nothing_off() -> None:
    device = switch()
    on(device, 3600)
    device.configure({"label": "Heater", "log": True})
    assert (device.level, device.state) == (1.0, "held")


def test_without_settings_it_stays_safe_and_refuses() -> None:
    device = switch()
    device.unsettled = "its settings are damaged"
    with pytest.raises(Refused, match="its settings are damaged"):
        on(device)
    assert off(device) is False
    assert device.level == 0.0
    assert shows(device, "power") == "its settings are damaged"
    before = device.changes
    device.unsettled = ""
    assert shows(device, "power") is False
    assert device.changes > before
    on(device)
    device.unsettled = "its settings are damaged"
    assert device.level == 0.0
    assert "its settings are damaged" in device.told[-1]["reason"]


class Rack(BaseDevice):
    oid = "test.rack"
    parts = {"relay": BenchSwitch}  # noqa: RUF012


def test_an_output_that_is_a_subdevice() -> None:
    rack = Rack.new({"name": "rack"})
    relay = rack.subdevices["relay"]
    assert isinstance(relay, BenchSwitch)
    relay.fall("start")
    relay.exec_cmd("", "power", True, Hold(5))
    assert relay.deadline() == relay.time.now + 5
    rack.exec_cmd("relay", "power", "on")
    assert relay.deadline() == relay.time.now + 60
    rack.configure({"subdevices": {"relay": {"longest_on": 5}}})
    assert (relay.level, relay.told[-1]["reason"]) == (0.0, "the settings were changed")
    rack.unsettled = "no settings"
    with pytest.raises(Refused, match=r"rack\.relay: .* no settings"):
        rack.exec_cmd("relay", "power", "on")


# Hardware that fails


def test_what_cannot_be_turned_on_is_put_off_and_the_caller_is_told() -> None:
    device = switch()
    device.broken = OSError(5, "Input/output error")
    device.acts_anyway = True
    with pytest.raises(DriveError, match="Input/output error"):
        on(device)
    assert device.driven[-2:] == [1.0, 0.0]
    assert device.state == "failed"
    assert "Input/output error" in shows(device, "power")
    event = device.told[-1]
    assert event["state"] == "failed"
    assert "Input/output error" in event["failure"]
    assert "power" not in event, "nobody knows"


def test_the_safe_state_is_tried_every_second_until_the_hardware_takes_it() -> None:
    device = switch(shortest_off=60)
    on(device, 10)
    device.broken = OSError("no chip")
    device.wait(14.5)
    assert device.level == 1.0
    assert device.deadline() == device.time.now + 0.5
    with pytest.raises(Refused, match="no chip"):
        on(device)
    with pytest.raises(DriveError, match="tried again every 1 s"):
        off(device)
    failing = [event for event in device.told if event["state"] == "failed"]
    assert [event["reason"] for event in failing] == ["the lease ended"], "one event, not one a second"
    device.broken = None
    device.wait(1)
    assert (device.level, device.state, shows(device, "power")) == (0.0, "safe", False)
    assert device.told[-1]["state"] == "safe"
    assert device.told[-1]["failed_for"] >= 4.5
    with pytest.raises(Refused, match="60 s are left"):
        on(device)


def test_a_failure_at_the_start_is_tried_again_too() -> None:
    device = BenchSwitch.new({"name": "heater"})
    device.broken = OSError("no chip")
    device.fall("start")
    assert device.told == [{"state": "failed", "reason": "start", "failure": "it could not be driven: no chip"}]
    device.broken = None
    device.wait(1)
    assert device.level == 0.0


def test_a_bug_in_a_driver_is_a_failure_and_has_its_traceback_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    device = switch()
    device.broken = TypeError("a bug")
    device.acts_anyway = True
    with pytest.raises(DriveError, match="a bug"):
        on(device)
    assert device.level == 0.0
    assert [record for record in caplog.records if record.exc_info and record.levelno == logging.ERROR]


def test_whoever_fails_to_listen_does_not_cost_the_deadline() -> None:
    device = switch()

    def fails(*_: object) -> None:
        raise RuntimeError("the tree is away")

    device.on_event = fails
    before = device.changes
    with pytest.raises(RuntimeError):
        on(device, 10)
    assert device.changes > before
    assert device.deadline() == device.time.now + 10
    device.time.now += 10
    before = device.changes
    with pytest.raises(RuntimeError):
        device.settle()
    assert (device.level, device.state) == (0.0, "safe")
    assert device.changes > before


class Moody(BenchSwitch):
    """A kind of output whose own code fails where it is told to, while it is on."""

    fails = ""

    def strike(self, where: str) -> None:
        if self.fails == where:
            raise ZeroDivisionError(f"a bug in {where}")

    def readings(self, level: float) -> dict[str, Any]:
        if level or self.fails == "readings always":
            self.strike("readings always")
            self.strike("readings")
        return super().readings(level)

    def course(self, now: float) -> float:
        self.strike("course")
        return super().course(now)

    def next_step(self, now: float) -> Any:
        self.strike("next_step")
        return None if self.fails == "no number" else now + 1


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("where", ["readings", "readings always", "course", "next_step", "no number"])
def test_a_kind_whose_own_code_fails_falls(where: str, late: bool, caplog: pytest.LogCaptureFixture) -> None:
    device = Moody.new({"name": "m"})
    device.fall("start")
    if late:
        on(device, 10)
        device.fails = where
        device.wait(2)
    else:
        device.fails = where
        with pytest.raises(DriveError, match=r"it (cannot say what it does|does not know its way): "):
            on(device, 10)
    assert (device.level, device.state, device.deadline()) == (0.0, "safe", math.inf)
    assert device.told[-1]["state"] == "safe"
    assert re.match("it (cannot say|does not know)", device.told[-1]["reason"])
    assert [record for record in caplog.records if record.exc_info]
    device.fails = ""
    on(device, 10)
    assert shows(device, "power") is True


def test_what_is_removed_is_off_for_good_and_let_go_of() -> None:
    device = switch(safe=True)
    let_go: list[float] = []
    device.release = lambda: let_go.append(device.level)  # type: ignore[method-assign]
    device.remove("it is removed")
    assert let_go == [1.0]
    assert device.told[-1] == {"state": "removed", "reason": "it is removed", "power": False}
    assert shows(device, "power") is False
    assert device.deadline() == math.inf
    before = list(device.driven)
    for command in (on, off):
        with pytest.raises(Refused, match="heater: it is being removed"):
            command(device)
    device.fall("the server stops")
    device.settle()
    device.unsettled = "lost"
    device.unsettled = ""
    device.remove("again")
    device.configure({"lease": 5})
    assert device.driven == before
    device.restore("it is not removed after all")
    assert (device.level, device.state) == (1.0, "safe")
    off(device)
    assert device.level == 0.0


@pytest.mark.parametrize("safe", [False, True])
def test_what_cannot_be_put_off_is_not_removed(safe: bool) -> None:
    device = switch(safe=safe)
    device.exec_cmd("", "power", not safe, Hold(10))
    device.broken = OSError("stuck")
    with pytest.raises(DriveError, match=r"heater: it cannot be removed .*: it could not be driven: stuck"):
        device.remove("it is removed")
    assert device.state == "failed"
    device.broken = None
    device.wait(1)
    assert (device.level, device.state) == (float(safe), "safe")
    device.remove("it is removed")
    assert (device.level, device.state) == (0.0, "removed")


def test_one_that_is_safe_and_cannot_be_put_off_is_not_removed() -> None:
    device = switch(safe=True)

    def stuck() -> None:
        raise OSError("stuck")

    device.release = stuck  # type: ignore[method-assign]
    with pytest.raises(DriveError, match="stuck"):
        device.remove("it is removed")
    assert (device.level, device.state) == (1.0, "safe")
    off(device)
    assert device.level == 0.0


def test_an_output_without_hardware_is_failed() -> None:
    device = Switch.new({"name": "a"})
    device.fall("start")
    assert device.state == "failed"
    assert "has no hardware" in device.details()["failure"]


# What an owner is told


def test_details_say_who_holds_it_and_what_is_left() -> None:
    device = switch(longest_on=600)
    assert device.details() == {"state": "safe", "reason": "start", "mode": "auto"}
    on(device, 10, "owner")
    device.time.now += 4
    details = device.details()
    until = details.pop("until")
    assert until > 1e9
    told = {"state": "held", "reason": "told by owner", "mode": "auto"}
    assert details == {**told, "by": "owner", "left": 6.0, "on_left": 596.0}
    msgspec.json.encode(device.details())


def test_the_value_is_read_without_changing_anything() -> None:
    device = switch(log=True)
    on(device, 10)
    reading = device.exec_cmd("", "power")
    assert (reading.value, reading.log) == (True, True)
    assert device.deadline() == device.time.now + 10
    assert BenchSwitch.new({"name": "a"}).exec_cmd("", "power").reason == "not driven yet"


@pytest.mark.parametrize("kind", [Switch, Dimmer])
def test_json_both_ways(kind: type[OutputDevice]) -> None:
    device = kind.new({"name": "a", "lease": 5, "longest_on": 7, "shortest_off": 9})
    assert kind.new(device.json).to_dict() == device.to_dict()
    history = {command.name: command.datasource for command in device.values()}
    assert history == {"power" if kind is Switch else "level": "GAUGE", "mode": "", "mode_end": ""}
    assert device.template["commands"]["reset"]["info"] == "Go into the safe state"


# Dimmers


def level(device: OutputDevice, percent: float | str, seconds: float | None = None) -> Any:
    return device.exec_cmd("", "level", percent, Hold(seconds))


def test_a_dimmer_has_a_level_in_percent() -> None:
    device = dimmer()
    assert level(device, "42.5", 10) == 42.5
    assert (device.level, shows(device, "level")) == (0.425, 42.5)
    level(device, 50, 10)
    assert device.told[-1]["level"] == 42.5, "a new level is a value, not an event"
    device.wait(10)
    assert (device.level, shows(device, "level"), device.told[-1]["level"]) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("percent", [9.99, 80.01, 100, 1e-9])
def test_a_level_out_of_range_is_refused_and_zero_never(percent: float) -> None:
    device = dimmer(lowest=10, highest=80)
    level(device, 10)
    level(device, 80)
    with pytest.raises(BadValue, match="not 0, or 10 to 80"):
        level(device, percent)
    assert device.level == 0.8
    level(device, 0)
    assert device.level == 0.0


@pytest.mark.parametrize("percent", [-1, 101, "bright", math.nan])
def test_what_is_no_level_is_refused(percent: Any) -> None:
    device = dimmer()
    with pytest.raises(BadValue):
        level(device, percent)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"lowest": 50, "highest": 40}, "lowest"),
        ({"lowest": 10, "safe": 5}, "safe"),
        ({"highest": 60, "safe": 70}, "safe"),
        ({"highest": 0}, "highest"),
        ({"ramp": -1}, "ramp"),
        ({"lease": 0.5}, "lease"),
        ({"lease": 86_401}, "lease"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(FieldErrors) as caught:
        BenchDimmer.new({"name": "a", **settings})
    assert list(caught.value.fields) == [field]


def test_a_ramp_takes_its_time_and_ends_where_it_was_told() -> None:
    device = dimmer(ramp=10, lease=3600)
    level(device, 50)
    assert device.level == 0.0
    device.wait(2.5)
    assert device.level == pytest.approx(0.25, abs=0.011)
    device.wait(2.5)
    assert device.level == 0.5
    assert shows(device, "level") == 50.0
    steps = device.driven[1:]
    assert steps == sorted(steps)
    assert 45 <= len(steps) <= 55
    level(device, 20)
    device.wait(1)
    assert device.level == pytest.approx(0.4, abs=0.011)
    device.wait(2)
    assert device.level == 0.2


def test_a_renewal_does_not_start_the_ramp_anew() -> None:
    device = dimmer(ramp=10)
    level(device, 100)
    for _ in range(10):
        device.wait(1)
        level(device, 100)
    assert device.level == 1.0


def test_a_ramp_never_is_where_the_lamp_flickers() -> None:
    device = dimmer(ramp=10, lowest=20, lease=3600)
    level(device, 100)
    device.wait(10)
    level(device, 20)
    device.wait(10)
    assert device.level == 0.2
    assert min(driven for driven in device.driven if driven) == 0.2


def test_the_safe_state_is_reached_without_a_ramp() -> None:
    device = dimmer(ramp=3600, safe=30)
    level(device, 100, 1000)
    device.wait(999)
    assert 0.5 < device.level < 0.6
    device.wait(1)
    assert device.level == 0.3
    level(device, 100, 1000)
    device.wait(500)
    level(device, 30)
    assert (device.level, device.state) == (0.3, "safe")


def test_a_long_ramp_has_few_steps_and_shows_no_more_than_one_a_second() -> None:
    device = dimmer(ramp=3600, lease=86_400)
    level(device, 100)
    device.wait(3600)
    assert device.level == 1.0
    assert len(device.driven) < 1100
    quick = dimmer(ramp=10, lease=86_400)
    seen = []
    quick.on_change = lambda device: seen.append(device.commands["level"].reading)
    level(quick, 100)
    quick.wait(10)
    assert len({id(reading) for reading in seen}) <= 13


def test_a_ramp_whose_hardware_fails_half_way_falls() -> None:
    device = dimmer(ramp=10, lease=3600)
    level(device, 100)
    device.wait(5)
    device.broken = OSError("no chip")
    device.wait(0.2)
    assert device.state == "failed"
    device.broken = None
    device.wait(1)
    assert (device.level, device.state) == (0.0, "safe")


# The simulated pins


def test_pins_outlive_their_process_and_are_made_safe_without_it(tmp_path: Path) -> None:
    pins = Pins(str(tmp_path / "pins"))
    Pins(str(tmp_path / "pins")).make_safe()
    pins.claim("heater", 0)
    pins.claim("air", 1)
    assert (pins.read("heater"), pins.read("air")) == (Pin(0, 0), Pin(1, 1))
    pins.write("heater", 1)
    pins.write("air", 0)
    other = Pins(str(tmp_path / "pins"))
    assert (other.read("heater"), other.read("air")) == (Pin(1, 0), Pin(0, 1))
    other.make_safe()
    assert (pins.read("heater"), pins.read("air")) == (Pin(0, 0), Pin(1, 1))
    assert pins.names() == ["air", "heater"]


@pytest.mark.parametrize(
    "text", [b"", b"1", b"{}", b'{"duty": 1, "safe": 2}', b'{"duty": NaN, "safe": 0}', b"\xff" * 999]
)
def test_a_damaged_pin_is_put_off(tmp_path: Path, text: bytes) -> None:
    pins = Pins(str(tmp_path))
    (tmp_path / "heater").write_bytes(text)
    with pytest.raises(ValueError):  # noqa: PT011
        pins.read("heater")
    pins.make_safe()
    assert pins.read("heater") == Pin(0, 0)


def test_one_pin_that_fails_does_not_cost_the_others(tmp_path: Path) -> None:
    pins = Pins(str(tmp_path))
    (tmp_path / "a").mkdir()
    pins.claim("b", 0)
    pins.write("b", 1)
    with pytest.raises(OSError, match=rf"pins in {tmp_path} that could not be made safe: a: Is a directory"):
        Pins(str(tmp_path)).make_safe()
    assert pins.read("b") == Pin(0, 0)


def test_pins_that_are_in_use_are_left_to_who_uses_them(tmp_path: Path) -> None:
    before = Pins(str(tmp_path))
    for name in ("a", "b"):
        before.claim(name, 0)
        before.write(name, 1)
    pins = Pins(str(tmp_path))
    pins.claim("a", 0)
    pins.write("a", 1)
    assert pins.make_safe() == ["b"]
    assert (pins.read("a"), pins.read("b")) == (Pin(1, 0), Pin(0, 0))


def test_a_pin_that_is_released_is_off_and_gone(tmp_path: Path) -> None:
    pins = Pins(str(tmp_path))
    pins.claim("a", 1)
    pins.release("a")
    assert pins.names() == []
    assert pins.claimed("a") is None
    pins.release("a")


def test_a_directory_of_pins_that_was_deleted_is_made_again(tmp_path: Path) -> None:
    pins = Pins(str(tmp_path / "pins"))
    pins.claim("a", 0)
    pins.write("a", 1)
    shutil.rmtree(tmp_path / "pins")
    pins.write("a", 0.5)
    assert pins.read("a") == Pin(0.5, 0)


def test_pins_may_be_made_safe_while_they_are_driven(tmp_path: Path) -> None:
    """Both write the same file at a time: each write is whole, and none fails."""
    pins = Pins(str(tmp_path))
    pins.claim("a", 0)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            for _ in range(500):
                Pins(str(tmp_path)).make_safe()
            code = 0
        finally:
            os._exit(code)
    ended = 0
    while not ended:
        pins.write("a", 1)
        ended, status = os.waitpid(pid, os.WNOHANG)
    assert status == 0
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("name", ["", "../heater", "a/b", "A", "a.new", "x" * 64])
def test_a_pin_has_an_id(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="no name for a pin"):
        Pins(str(tmp_path)).claim(name, 0)
    with pytest.raises(ValueError, match="not claimed"):
        Pins(str(tmp_path)).write(name, 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("duty", [-0.1, 1.1, math.nan, math.inf])
def test_a_duty_cycle_is_0_to_1(tmp_path: Path, duty: float) -> None:
    pins = Pins(str(tmp_path))
    pins.claim("a", 0)
    with pytest.raises(ValueError, match="not a duty cycle"):
        pins.write("a", duty)
    with pytest.raises(ValueError, match="not a duty cycle"):
        pins.claim("a", duty)
    assert pins.read("a") == Pin(0, 0)


def test_the_place_of_pins_is_the_runtime_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/raspy/fake:/run/other")
    assert Pins.place("fake") == "/run/raspy/fake/pins"
    monkeypatch.delenv("RUNTIME_DIRECTORY")
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/raspy/fake")
    assert Pins.place("fake") == "/var/lib/raspy/fake/pins"


@pytest.mark.parametrize(("kind", "command", "value"), [(FakeSwitch, "power", "on"), (FakeDimmer, "level", "100")])
def test_simulated_outputs_drive_their_pin(tmp_path: Path, kind: type[Any], command: str, value: str) -> None:
    device = kind.new({"name": "a"})
    duties: list[float] = []
    device.pins = Pins(str(tmp_path))
    device.on_drive = duties.append
    device.fall("start")
    assert device.pins.read("a") == Pin(0, 0)
    device.exec_cmd("", command, value)
    assert device.pins.read("a") == Pin(1, 0)
    assert device.duty == 1.0
    device.configure({"safe": True} if kind is FakeSwitch else {"safe": 40})
    safe = 1.0 if kind is FakeSwitch else 0.4
    assert device.pins.read("a") == Pin(safe, safe)
    device.remove("it is removed")
    assert device.pins.names() == []
    assert duties == [0.0, 1.0, safe, safe, 0.0]
    device.restore("after all")
    assert device.pins.read("a") == Pin(safe, safe)


def test_a_simulated_output_whose_pin_cannot_be_written_fails(tmp_path: Path) -> None:
    device = FakeSwitch.new({"name": "a"})
    place = tmp_path / "pins"
    device.pins = Pins(str(place))
    place.write_text("in the way")
    device.fall("start")
    assert device.state == "failed"
    os.unlink(place)
    device.clock = Clock(device.deadline())
    device.settle()
    assert device.state == "safe"
    assert device.pins.read("a") == Pin(0, 0)


# Whatever happens

SECONDS = st.one_of(st.floats(0.001, 200), st.sampled_from([0.5, 1.0, 10.0, 100.0]))


class Whatever(RuleBasedStateMachine):
    """Commands, time, failures and changes of settings in any order: the hardware is watched from outside.

    ``late`` is how long the loop was stopped, for which the output cannot answer.
    """

    device: Bench
    command = "power"

    def __init__(self) -> None:
        super().__init__()
        self.time = Clock()
        self.level = 0.0
        self.since = self.time.now
        """When the hardware last went from off to on or back."""
        self.begun: float | None = None
        """When it went on after the last break that counts."""
        self.until = -math.inf
        """The end of the last lease that was granted."""
        self.late = 0.0
        self.falls = 0
        self.failing: str | None = None
        self.excused = False
        """The hardware refused to go off: until it takes it, it may be on."""

    kind: type[Bench] = BenchSwitch

    @initialize(
        longest=st.sampled_from([0, 5, 50]),
        shortest=st.sampled_from([0, 5, 50]),
        ramp=st.sampled_from([0, 3, 30]),
        lease=st.sampled_from([1, 10]),
    )
    def begin(self, longest: float, shortest: float, ramp: float, lease: float) -> None:
        fields = {"name": "a", "longest_on": longest, "shortest_off": shortest, "lease": lease}
        if self.kind is BenchDimmer:
            fields["ramp"] = ramp
        self.device = self.kind.new(fields)
        self.device.clock = self.device.time = self.time
        self.device.drive = self.drive  # type: ignore[method-assign]
        self.device.fall("start")

    def drive(self, value: float) -> None:
        if self.failing != "refuses":
            if value and not self.level:
                shortest = self.device.outputs.shortest_off
                assert self.time.now >= self.since + shortest, "on within its shortest time off"
                if self.begun is None or self.time.now - self.since >= self.device.outputs.longest_on / 10:
                    self.begun = self.time.now
                self.since = self.time.now
            elif self.level and not value:
                self.since = self.time.now
                self.falls += 1
            self.level = value
        if self.failing is not None:
            self.excused = self.excused or self.level > 0
            raise OSError("broken")
        self.excused = False

    def told(self, value: Any, seconds: float | None) -> None:
        longest = self.device.outputs.longest_on
        # After a stall the command itself is what finds that its longest time is over.
        reached = longest and self.begun is not None and self.time.now >= self.begun + longest and self.level > 0
        if not value and ("locked" in self.device.details() or reached):
            self.begun = None
        lease = self.device.outputs.lease if seconds is None else seconds
        over = self.level > 0 and self.time.now >= self.until and not self.excused
        before = self.falls
        try:
            self.device.exec_cmd("", self.command, value, Hold(seconds, "me"))
        except (Refused, DriveError):
            return
        if value:
            assert not over or self.falls > before, "a lease that was over was renewed"
            self.until = self.time.now + lease
            self.late = 0.0

    @rule(seconds=st.none() | SECONDS)
    def turn_on(self, seconds: float | None) -> None:
        self.told(True if self.command == "power" else 100.0, seconds)

    @rule(seconds=st.floats(0.1, 30))
    def turn_on_after_a_stall(self, seconds: float) -> None:
        self.stall(seconds)
        self.turn_on(None)

    @rule(times=st.integers(2, 20), every=st.floats(0.1, 10))
    def keep_on(self, times: int, every: float) -> None:
        for _ in range(times):
            self.turn_on(None)
            self.wait(every)
            self.watch()

    @rule()
    def turn_off(self) -> None:
        self.told(False if self.command == "power" else 0.0, None)

    @rule(seconds=SECONDS)
    def wait(self, seconds: float) -> None:
        end = self.time.now + seconds
        calls = 0
        while (due := self.device.deadline()) <= end:
            calls += 1
            assert calls < 20_000, "settle() is asked for without end"
            self.time.now = max(self.time.now, due)
            self.settle()
            self.watch()
        self.time.now, self.late = end, 0.0

    @rule(seconds=st.floats(0.1, 20))
    def stall(self, seconds: float) -> None:
        """The loop stands still; what is due is done by what comes first, a command or settle()."""
        self.time.now += seconds
        self.late += seconds

    @rule()
    def settle(self) -> None:
        self.device.settle()
        self.late = 0.0

    @rule(
        trouble=st.sampled_from(["refuses", "acts, then complains", "unsettled", "stop", "reset", "change"]),
        longest=st.sampled_from([0, 5, 50]),
        shortest=st.sampled_from([0, 5, 50]),
    )
    def trouble(self, trouble: str, longest: float, shortest: float) -> None:
        """One rule for all of it, so that most of the time nothing stands in the way of being on."""
        before = self.device.config
        if trouble == "unsettled":
            self.device.unsettled = "lost"
        elif trouble == "stop":
            self.device.fall("stop")
        elif trouble == "reset":
            if "locked" in self.device.details():
                self.begun = None
            self.device.exec_cmd("", "reset", "")
        elif trouble == "change":
            self.device.configure({"longest_on": longest, "shortest_off": shortest})
            if self.device.config == before:
                return
        else:
            self.failing = trouble
            return
        assert self.level == 0.0 or self.failing == "refuses"

    @rule()
    def recover(self) -> None:
        self.failing = None
        self.device.unsettled = ""

    @invariant()
    def watch(self) -> None:
        if not hasattr(self, "device"):
            return
        due = self.device.deadline()
        assert due > self.time.now - self.late - 1e-6 or self.late, "a deadline was passed over"
        if not self.level:
            return
        if self.excused or (self.failing and self.device.state == "failed"):
            assert self.device.state == "failed", "the hardware refused, and nobody tries again"
            assert due <= self.time.now + 1
            return
        assert self.device.state == "held"
        assert self.time.now <= self.until + self.late, "on without a lease"
        longest = self.device.outputs.longest_on
        if longest:
            assert self.begun is not None
            assert self.time.now <= self.begun + longest + self.late, "on past its longest time"
        assert due <= self.until

    def teardown(self) -> None:
        """Whatever was done: left alone, with hardware that works, it goes off and stays off."""
        if not hasattr(self, "device"):
            return
        self.failing = None
        self.wait(max(self.until - self.time.now, 0) + 2)
        assert self.level == 0.0
        assert self.device.deadline() == math.inf


class WhateverDimmed(Whatever):
    kind = BenchDimmer
    command = "level"

    @rule(percent=st.floats(0.5, 100), seconds=st.none() | SECONDS)
    def dim(self, percent: float, seconds: float | None) -> None:
        self.told(percent, seconds)


TestWhatever = Whatever.TestCase
TestWhateverDimmed = WhateverDimmed.TestCase
TestWhatever.settings = settings(max_examples=100, stateful_step_count=40)
TestWhateverDimmed.settings = settings(max_examples=100, stateful_step_count=40)
