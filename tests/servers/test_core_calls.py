"""What a scenario may ask of core, and what core believes of the values that it answers with."""

from __future__ import annotations

import json

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


# Waits


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
