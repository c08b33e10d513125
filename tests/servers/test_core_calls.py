"""What a scenario may ask of core, and what core believes of the values that it answers with."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from raspy.common.buscall import BusCaller
from raspy.common.devices.value import Value
from raspy.servers.core import calls, release
from raspy.servers.core.server import Core
from tests.bus import eventually
from tests.servers.core_stage import WATER, core_stage
from tests.servers.test_core_scenario_parts import Tree

# How old a value is when it comes


@pytest.mark.parametrize("late", [31.0, 60.0, 86_400.0])
def test_a_reading_that_comes_too_late_is_not_believed(late: float) -> None:
    tree = Tree()
    tree.tell(20.0, age=20)
    assert (tree.read(WATER).value, round(tree.read(WATER).age)) == (20.0, 20)
    tree.clocks.go(late)
    tree.tell(20.1, age=late)
    reading = tree.read(WATER)
    assert (reading.value, reading.quality) == (None, "stale")
    assert reading.reason == f"it was {late:.0f} s old when it came, or a clock is wrong"
    assert round(reading.age) == late
    assert reading.left == float("inf")


def test_what_was_held_up_and_comes_all_at_once_is_as_old_as_it_says() -> None:
    """As after a program between here and there has stood still for a minute."""
    tree = Tree()
    tree.tell(20.0)
    tree.clocks.go(70)
    found = []
    for age in (60, 50, 40, 30, 20, 10, 0):
        tree.tell(20.0 + age, age=age)
        found.append((tree.read(WATER).quality, round(tree.read(WATER).age)))
        tree.clocks.go(0.001)
    late = [("stale", 60), ("stale", 50), ("stale", 40)]
    assert found == [*late, ("ok", 30), ("ok", 20), ("ok", 10), ("ok", 0)]


def test_the_same_late_reading_again_is_no_newer() -> None:
    tree = Tree()
    body = Value.ok(20.0, "°C", 30.0, tree.clocks.wall - 60).encode()
    for _ in range(3):
        tree._changed(WATER, body)
        assert tree.read(WATER).quality == "stale"
        tree.clocks.go(1)


@pytest.mark.parametrize("jump", [-86_400.0, -3600.0, 3600.0, 86_400.0, 3e8])
def test_the_clock_is_set_and_every_reading_is_believed(jump: float) -> None:
    """That one is under way at that moment, with a time of the clock before, makes no difference."""
    tree = Tree()
    for _ in range(3):
        tree.tell(20.0, age=0.5)
        tree.clocks.go(10)
    tree.clocks.wall += jump
    tree.tell(21.0, age=jump + 0.5)
    assert (tree.read(WATER).value, round(tree.read(WATER).age, 3)) == (21.0, 0.5)
    for _ in range(3):
        tree.clocks.go(10)
        tree.tell(22.0, age=0.5)
        assert (tree.read(WATER).value, round(tree.read(WATER).age, 3)) == (22.0, 0.5)


def test_a_clock_that_is_set_makes_a_late_reading_no_newer() -> None:
    tree = Tree()
    tree.tell(20.0)
    tree.clocks.go(70)
    tree.clocks.wall += 3600
    tree.tell(20.0, age=3600 + 60)
    assert tree.read(WATER).quality == "stale"


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
def test_the_clock_of_another_machine_is_set_and_costs_one_reading_at_most(jump: float) -> None:
    tree = Tree()
    off = 0.0
    found = []
    for step in (0.0, 0.0, jump, 0.0, 0.0, -jump, 0.0):
        off += step
        tree.clocks.go(10)
        tree.tell(20.0, age=off)
        found.append(tree.read(WATER).quality)
    assert found == ["ok", "ok", "stale", "ok", "ok", "ok", "ok"]


# Commands

HEATER, PUMP = "pi.fake.heater", "pi.fake.pump"


def test_what_no_device_has_taken_is_not_held() -> None:
    code = (
        "def tell(*words, **more):\n"
        "    try:\n"
        "        print(command(*words, **more))\n"
        "    except (CommandRefused, CommandLost, ScenarioError) as error:\n"
        "        print(type(error).__name__)\n"
        "tell('fake.heater', 'power', True, seconds=60)\n"
        "tell('fake.heater', 'powr', True)\n"
        "tell('fake.heater', 'power', 'sideways')\n"
        "tell('fake.pump', 'power', 'sideways')\n"
        "for n in range(100):\n"
        "    tell(f'fake.d{n}', 'power', True)\n"
        "print('told')\n"
        "while not stopping():\n"
        "    sleep(1)\n"
    )
    with core_stage() as stage:
        stage.fake()
        stage.make("one", code)
        stage.good("scenario", "run", "one")
        output = stage.printed("one", "told")
        assert output.count("CommandRefused") + output.count("ScenarioError") == 103
        assert stage.call(lambda core: core.scenarios.scenarios["one"]._calls.held) == [HEATER]
        stage.good("scenario", "stop", "one")
        stage.ended("one")
        eventually(lambda: stage.call(lambda core: core.values.read(f"/device/{HEATER}/power").value) is False)


def test_a_run_holds_so_many_devices_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MOST_HELD", 2)
    code = (
        "command('fake.heater', 'power', True, seconds=60)\n"
        "command('fake.pump', 'power', True, seconds=60)\n"
        "command('fake.heater', 'power', True, seconds=60)\n"
        "command('fake.lamp', 'level', 50, seconds=60)\n"
    )
    made: list[BusCaller] = []

    def count(core: Core) -> BusCaller:
        made.append(caller(core))
        return made[-1]

    caller = release.caller
    monkeypatch.setattr(release, "caller", count)
    with core_stage() as stage:
        stage.fake()
        stage.make("one", code)
        stage.good("scenario", "run", "one")
        end = stage.ended("one")
        assert (end["how"], end["line"]) == ("raised", 4)
        assert "holds 2 devices at most" in end["reason"]
        for device in (HEATER, PUMP):
            key = f"/device/{device}/power"
            eventually(lambda key=key: stage.call(lambda core: core.values.read(key).value) is False)
        eventually(lambda: stage.call(lambda core: core.scenarios.releasing) == 0)
    # What they are let go of by is one connection for their server.
    assert len(made) == 1


def test_since_no_entry_is_refused_by_core_too() -> None:
    code = (
        "import json, os\n"
        "os.write(3, json.dumps([1, 'command', ['fake.heater', 'power', True, 30, []]]).encode())\n"
        "print(os.read(3, 1000).decode())\n"
    )
    with core_stage() as stage:
        stage.make("one", code)
        stage.good("scenario", "run", "one")
        output = stage.printed("one", "]")
        assert json.loads(output) == [1, "ScenarioError", "since: names no entry, and would guard nothing"]
        stage.ended("one")


RAW = (
    "import json, os\n"
    "for number, call in enumerate(json.loads(settings['calls']), 1):\n"
    "    os.write(3, json.dumps([number, *call]).encode())\n"
    "    print(os.read(3, 5000).decode())\n"
    "print('done')\n"
)
"""Calls as they are, of which nothing is checked before core has them."""


def test_what_core_does_not_do_is_refused_with_its_reason() -> None:
    deep: list[Any] = []
    for _ in range(100):
        deep = [deep]
    refused = [
        ("explode", [], "ScenarioError", "there is no explode"),
        ("get", [], "ScenarioError", "get: "),
        ("get", ["water", 1, 2, 3], "ScenarioError", "get: "),
        ("get", [{}], "ScenarioError", "there is no entry '{}'; the entries are water, level"),
        ("publish", ["fed", "tank!", {}], "ScenarioError", "name: 'tank!' is no name"),
        ("publish", [5, "tank", {}], "ScenarioError", "kind: '5' is no name"),
        ("publish", ["output", "heater", {}], "ScenarioError", "kind: output is for the servers' own events"),
        ("publish", ["fed", "tank", [1]], "ScenarioError", "a field is wrong"),
        ("publish", ["fed", "tank", {"a": deep}], "ScenarioError", "a field is nested more than"),
        ("publish", ["fed", "tank", {"a": "x" * 8000}], "ScenarioError", "its fields are more than 8000 bytes"),
        ("notify", ["look", "", "grave"], "ScenarioError", "severity: 'grave' is none of info, warning, critical"),
        ("fire", ["nobody"], "ScenarioError", "there is no scenario 'nobody'"),
        ("fire", [["one"]], "ScenarioError", "there is no scenario"),
        ("command", [5, "power"], "ScenarioError", "'5' is no device"),
        ("command", ["heater", "power"], "ScenarioError", "command: 'heater' is no device"),
        ("command", ["level", "power"], "ScenarioError", "the entry level is of no device, but /variable/level"),
        ("command", ["fake.heater", ""], "ScenarioError", "'' is no command"),
        ("command", ["fake.heater", "x" * 101], "ScenarioError", f"'{'x' * 60}' is no command"),
        ("command", ["fake.heater", "po\nwer"], "ScenarioError", "'po\\nwer' is no command"),
        ("command", ["fake.heater", "power", deep], "ScenarioError", "the value is nested more than"),
        ("command", ["fake.heater", "power", True, 0], "ScenarioError", "seconds: must be above 0"),
        ("command", ["fake.heater", "power", True, -1], "ScenarioError", "seconds: '-1' is no number of 0 to"),
        ("command", ["fake.heater", "power", True, True], "ScenarioError", "seconds: 'True' is no number"),
        ("command", ["fake.heater", "power", True, None, "water"], "ScenarioError", "since needs seconds"),
        ("command", ["fake.heater", "power", True, 60, "air"], "ScenarioError", "there is no entry 'air'"),
        ("command", ["fake.heater", "power", True, 60, "level"], "NoValue", "level: "),
        ("command", ["fake.heater", "power", True, 10, "water"], "StaleValue", "water: its last reading is 2"),
        ("watch", ["water", 0, "soon"], "ScenarioError", "timeout: 'soon' is no number of 0 to 86400 s"),
        ("set", ["No!", 1], "ScenarioError", "set: 'No!' is no name"),
    ]
    entries = {"water": WATER, "level": "/variable/level"}
    with core_stage() as stage:
        stage.tell(20.0, time=time.time() - 20)
        calls = [[method, args] for method, args, _, _ in refused]
        stage.make("one", RAW, entries, settings={"calls": json.dumps(calls)})
        stage.good("scenario", "run", "one")
        said = [json.loads(line) for line in stage.printed("one", "done").splitlines()[:-1]]
        for (method, args, kind, reason), (_, found, text) in zip(refused, said, strict=True):
            assert (found, text[: len(reason)]) == (kind, reason), (method, args)
        assert stage.ended("one")["how"] == "finished"
        assert stage.bus.tree("/event/fed/") == {}


def test_a_call_that_core_itself_fails_at_says_where_the_details_are() -> None:
    code = "try:\n    set('level', 1)\nexcept ScenarioError as error:\n    print(error)\n"
    with core_stage() as stage:

        def fail(*_: object) -> None:
            raise ArithmeticError("as in a test")

        stage.call(lambda core: setattr(core.scenarios, "set_variable", fail))
        stage.make("one", code)
        stage.good("scenario", "run", "one")
        stage.printed("one", "set: ArithmeticError in core; its log has the details")
        assert stage.ended("one")["how"] == "finished"
        assert "as in a test" in stage.call(lambda core: core.last_error)
        stage.call(lambda core: setattr(core, "errors", 0))


def test_a_variable_that_is_not_kept_is_not_set() -> None:
    with core_stage() as stage:
        stage.call(
            lambda core: setattr(core.scenarios, "set_variable", lambda name, value, done: done(OSError("full")))
        )
        stage.make("one", "set('level', 1)")
        stage.good("scenario", "run", "one")
        assert stage.ended("one")["reason"] == "ScenarioError: level is not kept: full"


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        ([b"true", b"200"], True),
        ([b"200"], None),
        (None, ("CommandLost", "heater power: no answer in 5 s")),
        ([], ("CommandLost", "heater power: no answer in 5 s")),
        ([b"{", b"200"], ("CommandLost", "heater power: its answer is not understood")),
        ([b"[" * 100_000, b"200"], ("CommandLost", "heater power: its answer is not understood")),
        ([b'"no such command"', b"400"], ("ScenarioError", "heater power: no such command")),
        ([b'"never"', b"501"], ("ScenarioError", "heater power: never")),
        ([b'"it is blocked"', b"409"], ("CommandRefused", "heater power: it is blocked (409)")),
        ([b"5", b"\xff\xff"], ("CommandRefused", "heater power: 5 (\ufffd\ufffd)")),
    ],
)
def test_what_a_device_answers_is_an_answer_or_says_what_it_is(reply: list[bytes] | None, told: object) -> None:
    said: list[object] = []
    core: Any = None
    made = calls.Calls(core, "one", {}, lambda text: None)
    made._replied(said.append, lambda *refusal: said.append(refusal), "heater power", reply)
    assert said == [told]


# Waits


def test_a_run_that_is_over_waits_for_nothing_and_is_told_nothing() -> None:
    with core_stage() as stage:
        stage.tell(20.0)
        stage.make("one", "wait('water')", {"water": WATER})
        stage.good("scenario", "run", "one")
        eventually(lambda: stage.call(lambda core: len(core.values._watchers.get(WATER, []))) == 1)
        made = stage.call(lambda core: core.scenarios.scenarios["one"]._calls)
        child = stage.call(lambda core: core.scenarios.scenarios["one"]._child)
        stage.call(lambda core: child.kill("as in a test"))
        assert stage.ended("one")["reason"] == "as in a test"
        assert stage.call(lambda core: (len(core.values._watchers.get(WATER, [])), made._waits)) == (0, {})
        # What comes from it all the same, as core ends, does nothing.
        stage.call(lambda core: made.take(child, 99, "set", ["level", 1]))
        stage.call(lambda core: made.take(child, 100, "nothing", []))
        assert stage.good("variable", "list") == {}


def test_a_wait_that_a_signal_has_ended_is_nothing_to_core_any_more() -> None:
    """Out of a hundred of them an exception comes, and the next is another call."""
    code = (
        "import signal\n"
        "class Alarm(Exception):\n"
        "    pass\n"
        "def ring(*_):\n"
        "    raise Alarm\n"
        "signal.signal(signal.SIGALRM, ring)\n"
        "for n in range(100):\n"
        "    try:\n"
        "        signal.setitimer(signal.ITIMER_REAL, 0.005)\n"
        "        wait('water', timeout=60)\n"
        "    except Alarm:\n"
        "        pass\n"
        "print('waits')\n"
        "print(wait('water', 21.0))\n"
    )
    with core_stage() as stage:
        stage.tell(20.0)
        stage.make("one", code, {"water": WATER})
        stage.good("scenario", "run", "one")
        stage.printed("one", "waits")
        eventually(lambda: stage.call(lambda core: len(core.scenarios.scenarios["one"]._calls._waits)) == 1)
        stage.tell(21.0)
        stage.printed("one", "True")
        assert stage.ended("one")["how"] == "finished"
        assert stage.call(lambda core: len(core.values._watchers.get(WATER, []))) == 0
