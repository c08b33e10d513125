"""Values with ages, thresholds and documents: the parts of scenarios that need no process."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raspy.common.devices.value import Value
from raspy.common.executive import Executive, Timer
from raspy.common.verbs import VerbError
from raspy.servers.core import document
from raspy.servers.core.parts import Conf, Entry, Fire, PartError, device_of, parse_conf, parse_entries, whole_key
from raspy.servers.core.triggers import Threshold
from raspy.servers.core.values import Values
from tests.servers.core_stage import WATER, core_stage


class Clocks:
    """A monotonic and a wall clock that a test sets, and timers that it lets run."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.wall = 1_700_000_000.0
        self.timers: list[Timer] = []

    def go(self, seconds: float) -> None:
        """Let time pass, and make the calls that are due."""
        end = self.now + seconds
        while True:
            due = min((timer for timer in self.timers if not timer.cancelled), default=None)
            if due is None or due.due > end:
                break
            self.timers.remove(due)
            self.wall += due.due - self.now
            self.now = due.due
            due.function(*due.args)
        self.wall += end - self.now
        self.now = end

    def call_later(self, delay: float, function: Any, *args: Any) -> Timer:
        timer = Timer(self.now + delay, function, args, 0.0)
        self.timers.append(timer)
        return timer

    def guard(self, function: Any, *args: Any) -> None:
        function(*args)


class Tree(Values):
    """Values whose tree the test is."""

    def __init__(self) -> None:
        self.clocks = Clocks()
        loop: Any = self.clocks
        super().__init__(loop, lambda: self.clocks.now, lambda: self.clocks.wall)
        self.is_live = True

    @property
    def live(self) -> bool:
        return self.is_live

    def tell(self, value: Any, age: float = 0.0, max_age: float = 30.0) -> None:
        """A reading comes that was made so many seconds ago by the wall clock."""
        body = Value.ok(value, "°C", max_age, self.clocks.wall - age).encode()
        self._changed(WATER, body)

    def fail(self) -> None:
        """An error comes."""
        self._changed(WATER, Value.error("CRC failed").encode())


# Ages


def test_a_reading_grows_old_by_the_monotonic_clock() -> None:
    tree = Tree()
    tree.tell(20.0, age=2.0)
    assert (tree.read(WATER).value, round(tree.read(WATER).age, 3), tree.read(WATER).left) == (20.0, 2.0, 28.0)
    tree.clocks.go(28)
    assert tree.read(WATER).good
    version = tree.read(WATER).version
    tree.clocks.go(0.1)
    reading = tree.read(WATER)
    assert (reading.value, reading.quality, reading.reason) == (None, "stale", "nothing came for 30 s")
    assert reading.version != version


@pytest.mark.parametrize("jump", [-86_400.0, -3.0, 5.0, 86_400.0, 3e8])
def test_a_jump_of_the_wall_clock_changes_no_age(jump: float) -> None:
    tree = Tree()
    tree.tell(20.0)
    tree.clocks.go(10)
    tree.clocks.wall += jump
    assert tree.read(WATER).age == 10
    tree.clocks.go(21)
    assert tree.read(WATER).quality == "stale"


@pytest.mark.parametrize("off", [-86_400.0, 86_400.0])
def test_a_reading_of_a_machine_with_another_time_is_as_old_as_it_is_here(off: float) -> None:
    """It is known by the second reading: as much time has passed there as here."""
    tree = Tree()
    tree.tell(20.0, age=off)
    assert tree.read(WATER).quality == "stale"
    for _ in range(3):
        tree.clocks.go(10)
        tree.tell(20.0, age=off)
        assert tree.read(WATER).age == 0
    tree.clocks.go(31)
    assert tree.read(WATER).reason == "nothing came for 31 s"


@pytest.mark.parametrize("off", [-86_400.0, 86_400.0, 31.0])
def test_what_stood_on_the_tree_with_a_time_that_cannot_be_is_not_believed(off: float) -> None:
    tree = Tree()
    tree.is_live = False
    tree.tell(20.0, age=off)
    tree.is_live = True
    assert tree.read(WATER).reason == "it is not known how old it is"
    tree.clocks.go(10)
    tree.tell(21.0, age=off)
    assert tree.read(WATER).value == 21.0


def test_nothing_is_believed_while_the_tree_is_not_followed() -> None:
    tree = Tree()
    tree.tell(20.0)
    seen: list[str] = []
    tree.watch(WATER, lambda: seen.append(tree.read(WATER).quality))
    tree.is_live = False
    tree._state("lost")
    assert tree.read(WATER).reason == "the broker does not answer"
    assert tree.read("/device/pi.probe.other/temperature").quality == "stale"
    tree.is_live = True
    tree._state("live")
    assert seen == ["stale", "ok"]
    assert tree.read("/device/pi.probe.other/temperature").quality == "missing"


def test_variables_are_core_s_own() -> None:
    tree = Tree()
    tree.is_live = False
    tree.put("/variable/mode", b'{"value": "feeding", "time": 1, "quality": "ok"}')
    tree._changed("/variable/mode", b'{"value": "forged", "time": 1, "quality": "ok"}')
    tree.clocks.go(1e6)
    assert tree.read("/variable/mode").value == "feeding"


@pytest.mark.parametrize(
    "body",
    [b"{", b"[" * 5000, b'{"quality": "ok"}', b'{"quality": "ok", "value": 1, "max_age": -1}', b'{"quality": 7}',
     b'{"quality": "ok", "value": 1, "time": "x"}', b'{"quality": "good", "value": 1}', b"\xff\xfe"],
)  # fmt: skip
def test_a_body_that_is_no_reading_is_an_error(body: bytes) -> None:
    tree = Tree()
    tree._changed(WATER, body)
    reading = tree.read(WATER)
    assert (reading.value, reading.quality) == (None, "error")
    assert reading.reason


def test_an_event_is_a_value_as_a_whole() -> None:
    tree = Tree()
    tree._changed("/event/cron/morning", b'{"time": 5, "state": "fired"}')
    assert tree.read("/event/cron/morning").value == {"time": 5, "state": "fired"}


# Thresholds


class Trap:
    """A threshold, what it has fired, and what was kept of it."""

    def __init__(self, tree: Tree, fire: Fire, tripped: bool = False) -> None:
        self.fired: list[float] = []
        self.kept: list[bool] = []

        def keep(is_so: bool, then: Any) -> None:
            self.kept.append(is_so)
            then()

        loop: Any = tree.clocks
        self.threshold = Threshold(
            "water", Entry(WATER, fire), fire, tree, loop, tripped, keep,
            lambda cause: self.fired.append(cause["value"]), lambda: tree.clocks.now,
        )  # fmt: skip


def test_a_threshold_fires_once_after_its_hold_time_and_again_after_the_hysteresis() -> None:
    tree = Tree()
    trap = Trap(tree, Fire(above=28, hysteresis=1, hold=10))
    for value in (28.5, 28.6, 28.1):
        tree.tell(value)
        tree.clocks.go(4)
    assert trap.fired == [28.1]
    for value in (28.5, 27.5, 28.5, 27.1, 29):
        tree.tell(value)
        tree.clocks.go(12)
    assert trap.fired == [28.1]
    tree.tell(27)
    assert trap.kept == [True, False]
    tree.tell(28.2)
    tree.clocks.go(9.9)
    assert trap.fired == [28.1]
    tree.clocks.go(0.2)
    assert trap.fired == [28.1, 28.2]


def test_below_without_hold_or_hysteresis() -> None:
    tree = Tree()
    tree.tell(5)
    trap = Trap(tree, Fire(below=4))
    for value in (4, 3.9, 3, 4, 3):
        tree.tell(value)
    assert trap.fired == [3.9, 3]


@pytest.mark.parametrize("gap", ["error", "stale", "lost", "text", "back"])
def test_a_gap_begins_the_hold_time_anew(gap: str) -> None:
    tree = Tree()
    trap = Trap(tree, Fire(above=28, hold=40))
    tree.tell(29)
    tree.clocks.go(20)
    if gap == "error":
        tree.fail()
    elif gap == "lost":
        tree.is_live = False
        tree._state("lost")
        tree.is_live = True
    elif gap == "text":
        tree.tell("hot")
    elif gap == "back":
        tree.tell(28)
    else:
        tree.clocks.go(15)
    tree.tell(29)
    tree.clocks.go(25)
    assert trap.fired == []
    tree.tell(29)
    tree.clocks.go(15.1)
    assert trap.fired == [29]


def test_what_has_fired_before_a_restart_does_not_fire_again() -> None:
    tree = Tree()
    tree.tell(29)
    trap = Trap(tree, Fire(above=28, hysteresis=1), tripped=True)
    tree.tell(30)
    assert trap.fired == []
    tree.tell(26)
    tree.tell(29)
    assert trap.fired == [29]


@given(
    st.lists(st.tuples(st.floats(20, 36), st.floats(0.1, 20)), max_size=40),
    st.floats(0, 4),
    st.floats(0, 15),
)
def test_between_two_firings_the_value_was_back(
    steps: list[tuple[float, float]], hysteresis: float, hold: float
) -> None:
    tree = Tree()
    trap = Trap(tree, Fire(above=28, hysteresis=hysteresis, hold=hold))
    back = True
    for value, seconds in steps:
        before = len(trap.fired)
        back = back or value <= 28 - hysteresis
        tree.tell(value)
        tree.clocks.go(seconds)
        if len(trap.fired) > before:
            assert len(trap.fired) == before + 1
            assert back
            assert value > 28
            back = False


# Settings and documents


def test_a_short_key_is_of_this_host() -> None:
    assert whole_key("onewire.tank/temperature", "pi") == "/device/pi.onewire.tank/temperature"
    assert whole_key("shed.onewire.tank/temperature", "pi") == "/device/shed.onewire.tank/temperature"
    assert whole_key("/variable/mode", "pi") == "/variable/mode"
    assert device_of("/device/pi.fake.tv.volume/level") == "pi.fake.tv.volume"
    assert device_of("/variable/mode") is None
    for key in ("", "tank", "tank/temperature", "a.b.c.d.e/x", "onewire.Tank/temperature", "/x\n", "/" + "x" * 600):
        with pytest.raises(PartError):
            whole_key(key, "pi")


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
NAMES = [*Conf.__struct_fields__, "x"]


def refusal(function: Callable[..., object], *args: object) -> str:
    """Why something is refused; empty when it is not."""
    try:
        function(*args)
    except VerbError as error:
        return f"{error.status.decode()} {error}"
    return ""


@given(st.dictionaries(st.sampled_from(NAMES), json_values) | json_values)
def test_settings_are_taken_or_refused_with_a_reason(given_: Any) -> None:
    assert refusal(parse_conf, given_).startswith("400 conf") or parse_conf(given_)
    assert refusal(parse_entries, given_, "pi").startswith("400 ") or parse_entries(given_, "pi") is not None


@given(json_values)
def test_what_is_no_document_is_refused_with_a_reason(given_: Any) -> None:
    assert refusal(document.read, given_, "pi").startswith("400 this is no document of scenarios")
    whole = {"raspy": "scenarios", "version": 1, "scenarios": given_}
    assert refusal(document.read, whole, "pi").startswith("400 ") or document.read(whole, "pi")


def test_a_document_of_another_version_says_what_to_do() -> None:
    with pytest.raises(VerbError, match="version 2, and this RasPy takes version 1: update RasPy"):
        document.read({"raspy": "scenarios", "version": 2, "scenarios": {}}, "pi")


def test_what_is_exported_is_imported_elsewhere_and_nothing_of_what_cannot_be() -> None:
    with core_stage() as stage:
        stage.make("one", "print(1)", {"water": WATER}, settings={"a": 1}, active=True, label="One")
        stage.make("two", "print(2)")
        both = stage.good("scenarios", "export")
        assert list(stage.good("scenarios", "export", "two")["scenarios"]) == ["two"]
        assert stage.ask("scenarios", "export", "three")[1] == "404"
        assert stage.ask("scenarios", "import", json.dumps(both))[1] == "409"
        broken = {**both, "scenarios": {**both["scenarios"], "three": {"code": "x = ("}}}
        answer, status = stage.ask("scenarios", "import", json.dumps(broken), "replace")
        assert (status, answer[:14]) == ("400", "three: line 1:"), answer
        broken["scenarios"]["three"] = {"code": "", "conf": {"active": 3}}
        assert stage.ask("scenarios", "import", json.dumps(broken), "replace")[1] == "400"
        assert stage.good("scenarios", "list_keys") == ["one", "two"]
    with core_stage() as stage:
        assert stage.good("scenarios", "import", json.dumps(both)) == ["one", "two"]
        assert stage.good("scenarios", "export") == both
        found = stage.good("scenario", "show", "one")
        assert (found["conf"]["settings"], found["conf"]["active"], found["state"]) == ({"a": 1}, False, "off")


def test_half_of_a_scenario_from_the_store_waits_for_the_rest() -> None:
    with core_stage() as stage:

        def take(parts: dict[str, Any]) -> None:
            def took(core: Any) -> None:
                core.state.put({("scenario.one", part): value for part, value in parts.items()})
                core.scenarios.taken({("scenario.one", part) for part in parts})

            stage.call(took)

        take({"code": "print('runs')"})
        assert stage.state("one") == "off"
        take({"conf": {"active": True, "startup": 5}})
        stage.becomes("one", "paused", "it cannot be used: conf:")
        take({"conf": {"active": True, "startup": True}, "entries": {}})
        stage.printed("one", "runs")
        take({"conf": None, "entries": None, "code": None})
        assert stage.good("scenarios", "list_keys") == []


def test_the_loop_is_that_of_a_server() -> None:
    # What the clocks of these tests stand for.
    assert all(hasattr(Executive, name) for name in ("call_later", "guard"))
    assert math.isinf(Tree().read(WATER).left)
