"""Scenarios: what their code can do, what fires them, and what becomes of them when they fail."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from collections.abc import Iterator

import pytest

from raspy.servers.core import Core, manager
from raspy.servers.core.arming import Rate
from raspy.servers.core.scene import INTERRUPT
from tests.bus import eventually
from tests.servers.core_stage import WATER, CoreStage, core_stage


@pytest.fixture
def stage() -> Iterator[CoreStage]:
    with core_stage() as made:
        yield made


def run(stage: CoreStage, code: str, entries: dict[str, object] | None = None, name: str = "one") -> dict[str, object]:
    """Run code by hand; return how that ended."""
    stage.make(name, code, entries)
    runs = stage.call(lambda core: core.scenarios.scenarios[name].runs)
    stage.good("scenario", "run", name)
    return stage.ended(name, runs + 1)


# What the code can do


def test_a_value_is_a_plain_number_with_its_unit_and_age(stage: CoreStage) -> None:
    stage.tell(21.5)
    code = "print(get('water'), reading('water').unit, reading('water').quality, reading('water').age < 10)\n"
    assert run(stage, code, {"water": "probe.water/temperature"})["how"] == "finished"
    assert stage.printed("one", "\n") == "21.5 °C ok True\n"


def test_names_of_entries_settings_and_cause(stage: CoreStage) -> None:
    stage.make(
        "one", "print(name, entries['water'], settings, cause['by'])", {"water": WATER}, settings={"a": [1, "b"]}
    )
    stage.good("scenario", "run", "one")
    assert f"one {WATER} {{'a': [1, 'b']}} hand" in stage.printed("one", "\n")


@pytest.mark.parametrize(
    ("told", "kind", "reason"),
    [("error", "ErrorValue", "CRC failed"), ("missing", "NoValue", "there is no"), ("stale", "StaleValue", "nothing")],
)
def test_a_value_that_cannot_be_believed_is_no_number(stage: CoreStage, told: str, kind: str, reason: str) -> None:
    if told == "error":
        stage.fail("CRC failed")
    elif told == "stale":
        stage.tell(20.0, max_age=0.05)
        eventually(lambda: not stage.call(lambda core: core.values.read(WATER).good))
    last = run(stage, "x = 1\nprint(get('water') < 25)\n", {"water": WATER})
    assert (last["how"], last["line"]) == ("raised", 2)
    assert str(last["reason"]).startswith(f"{kind}: water:")
    assert reason in str(last["reason"])
    assert run(stage, "print(get('water', None), reading('water').value)", {"water": WATER})["how"] == "finished"
    stage.printed("one", "None None")


def test_an_unknown_entry_says_which_there_are(stage: CoreStage) -> None:
    last = run(stage, "get('air')", {"water": WATER})
    assert last["reason"] == "ScenarioError: there is no entry 'air'; the entries are water"
    traceback = stage.good("scenario", "output", "one")["traceback"]
    assert 'File "<scenario one>", line 1' in traceback
    assert "get('air')" in traceback


def test_variables_are_on_the_tree_and_survive_a_restart(stage: CoreStage) -> None:
    code = "set('mode', 'feeding')\nset('count', 3)\nprint(get('mode'), get('count'))\n"
    entries = {"mode": "/variable/mode", "count": "/variable/count"}
    assert run(stage, code, entries)["how"] == "finished"
    assert stage.printed("one", "\n") == "feeding 3\n"
    eventually(lambda: (stage.tree("/variable/mode") or {}).get("value") == "feeding")
    stage.restart()
    assert stage.good("variable", "get", "mode")["value"] == "feeding"
    last = run(stage, "print(get('mode'), get('count'))", entries)
    assert last["how"] == "finished", last
    stage.good("variable", "delete", "mode")
    eventually(lambda: stage.tree("/variable/mode") is None)
    assert stage.ask("variable", "get", "mode")[1] == "404"


@pytest.mark.parametrize("value", ["None", "[1]", "'x' * 3000", "10**30"])
def test_what_is_no_variable_is_refused(stage: CoreStage, value: str) -> None:
    last = run(stage, f"set('mode', {value})")
    assert str(last["reason"]).startswith("ScenarioError"), last
    assert stage.good("variable", "list") == {}


def test_events_and_messages(stage: CoreStage) -> None:
    code = "publish('aquarium', 'fed', grams=2)\nnotify('look', 'Title', 'warning')\nlog('said', 1)\n"
    assert run(stage, code)["how"] == "finished"
    event = eventually(lambda: stage.tree("/event/aquarium/fed"))
    assert (event["grams"], event["by"]) == (2, "scenario one")
    told = eventually(lambda: stage.tree("/event/notify/one"))
    assert (told["text"], told["title"], told["severity"]) == ("look", "Title", "warning")
    stage.printed("one", "warning: look\nsaid 1\n")
    assert "for the servers' own events" in str(
        run(stage, "publish('output', 'pi.fake.heater', state='safe')")["reason"]
    )


def test_a_wait_for_a_condition_a_value_and_a_change(stage: CoreStage) -> None:
    stage.tell(20.0)
    code = (
        "print('a', wait('water', lambda t: t > 25))\nprint('b', wait('water', 30))\nprint('c', wait('water'))\n"
        "print('d', wait('water', lambda t: False, timeout=0.01))\n"
    )
    stage.make("one", code, {"water": WATER})
    stage.good("scenario", "run", "one")
    stage.printed("one", "") and stage.becomes("one", "running")
    for value, line in ((24.0, ""), (26.0, "a True"), (30.0, "b True")):
        stage.tell(value)
        stage.printed("one", line)
    # What it has when it begins to wait for a change is no change: it may be any of these.
    changes = itertools.count(31)

    def changed() -> bool:
        stage.tell(float(next(changes)))
        return "c True" in stage.good("scenario", "output", "one")["output"]

    eventually(changed, "c True")
    stage.printed("one", "d False")


def test_a_wait_ends_at_once_when_the_value_is_an_error_or_grows_too_old(stage: CoreStage) -> None:
    code = "try:\n    wait('water', lambda t: t > 90)\nexcept Unusable as error:\n    print(type(error).__name__)\n"
    for kind in ("ErrorValue", "StaleValue"):
        stage.tell(20.0, max_age=60.0 if kind == "ErrorValue" else 0.3)
        stage.make("one", code + f"# {kind}\n", {"water": WATER})
        stage.good("scenario", "run", "one")
        if kind == "ErrorValue":
            stage.becomes("one", "running")
            stage.fail("gone")
        stage.printed("one", kind)
        stage.ended("one")


# Commands and leases


def heater(stage: CoreStage) -> dict[str, object]:
    """What the tree says of the heater."""
    return dict(stage.tree("/event/output/pi.fake.heater") or {})


def let_go(stage: CoreStage) -> None:
    """Wait until the scenario has let go of the heater."""
    wanted = {"state": "safe", "reason": "let go by scenario one"}
    eventually(lambda: wanted.items() <= heater(stage).items(), "the heater off")


HOLD = "command('heater', 'power', True, seconds=60)\nprint('on')\n"
HEATER = {"heater": "fake.heater/power"}


def test_an_output_is_let_go_when_its_scenario_raises(stage: CoreStage) -> None:
    fake = stage.fake()
    last = run(stage, HOLD + "1 / 0\n", HEATER)
    assert (last["how"], last["line"]) == ("raised", 3)
    let_go(stage)
    assert fake.duties["heater"] == 0


def test_an_output_is_let_go_when_its_scenario_is_stopped_or_killed(stage: CoreStage) -> None:
    stage.fake()
    for polite, code in ((True, "while not stopping():\n    sleep(60)\n"), (False, "while True:\n    pass\n")):
        stage.make("one", HOLD + code, HEATER, stop_grace=60)
        stage.good("scenario", "run", "one")
        stage.printed("one", "on")
        eventually(lambda: heater(stage).get("state") == "held")
        stage.good("scenario", "stop", "one")
        if not polite:
            # As when half of its time is over.
            stage.call(lambda core: core.scenarios.scenarios["one"]._child._signal(INTERRUPT))
        let_go(stage)
        stage.ended("one")
        assert stage.call(lambda core: core.scenarios.scenarios["one"].last["how"]) == "stopped"


def test_an_output_stays_on_for_its_lease_when_the_scenario_has_finished(stage: CoreStage) -> None:
    fake = stage.fake()
    assert run(stage, HOLD, HEATER)["how"] == "finished"
    assert run(stage, "print(command('fake.heater', 'power'))", name="two")["how"] == "finished"
    stage.printed("two", "True")
    assert fake.duties["heater"] == 1


def test_what_somebody_else_holds_by_now_is_not_let_go(stage: CoreStage) -> None:
    fake = stage.fake()
    stage.make("one", HOLD + "wait('go', 2)\n1 / 0\n", {**HEATER, "go": "/variable/go"})
    stage.good("variable", "set", "go", "1")
    stage.good("scenario", "run", "one")
    stage.printed("one", "on")
    assert run(stage, HOLD, HEATER, "two")["how"] == "finished"
    stage.good("variable", "set", "go", "2")
    stage.ended("one")
    eventually(lambda: stage.call(lambda core: core.scenarios.releasing) == 0)
    assert fake.duties["heater"] == 1


def test_a_lease_counts_from_the_reading(stage: CoreStage) -> None:
    stage.fake()
    began = time.monotonic()
    stage.tell(20.0, max_age=60)
    code = "command('heater', 'power', True, seconds=10, since='water')"
    assert run(stage, code, {**HEATER, "water": WATER})["how"] == "finished"
    event = eventually(lambda: heater(stage).get("state") == "held" and heater(stage))
    took = time.monotonic() - began
    # Two seconds that it may be on its way, less half a second that is not counted.
    assert 8.0 - took <= event["lease"] <= 8.5
    last = run(
        stage, "command('heater', 'power', True, seconds=1, since=['water'])\nsleep(9)", {**HEATER, "water": WATER}
    )
    assert "StaleValue" in str(last["reason"]) or last["how"] == "finished"
    stage.fail("gone")
    last = run(stage, code, {**HEATER, "water": WATER})
    assert str(last["reason"]).startswith("ErrorValue: water: error: gone")
    last = run(stage, "command('heater', 'power', True, since='water')", {**HEATER, "water": WATER})
    assert "since needs seconds" in str(last["reason"])


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("command('fake.nothing', 'power', True)", "CommandRefused: fake.nothing power: no device 'nothing'"),
        ("command('fake.heater', 'level', True)", "CommandRefused: fake.heater level: "),
        ("command('fake.heater', 'power', 'maybe')", "ScenarioError: fake.heater power: "),
        ("command('heater', 'power', True)", "ScenarioError: command: 'heater' is no device"),
        ("command('fake.heater', 'power', True, seconds=-1)", "ScenarioError: seconds"),
        ("command('fake.heater', 'power', float('nan'))", "ScenarioError"),
    ],
)
def test_a_command_that_is_not_done_raises(stage: CoreStage, code: str, reason: str) -> None:
    stage.fake()
    assert str(run(stage, code)["reason"]).startswith(reason)


def test_a_command_that_nobody_answers_is_lost(stage: CoreStage) -> None:
    last = run(stage, "command('nobody.heater', 'power', True)")
    assert str(last["reason"]).startswith("CommandLost: nobody.heater power: no answer in 5 s"), last


# Fired


def test_a_change_fires_once_for_each_other_value(stage: CoreStage) -> None:
    stage.tell(20.0)
    code = "print(cause['by'], cause['entry'], cause['before'], cause['value'])"
    stage.make("one", code, {"water": {"key": WATER, "fire": "change"}}, active=True)
    stage.tell(20.0)
    stage.tell(21.0)
    stage.printed("one", "change water 20.0 21.0")
    stage.ended("one", 1)
    stage.fail("gone")
    stage.tell(21.0)
    stage.tell(22.0)
    stage.printed("one", "change water 21.0 22.0")
    assert stage.ended("one", 2)["how"] == "finished"
    assert stage.call(lambda core: core.scenarios.scenarios["one"].runs) == 2


def test_fired_while_it_runs_it_runs_once_more(stage: CoreStage) -> None:
    stage.tell(1.0)
    stage.good("variable", "set", "go", "0")
    code = "print('value', cause['value'])\nwait('go', 1)\n"
    stage.make("one", code, {"water": {"key": WATER, "fire": "change"}, "go": "/variable/go"}, active=True)
    for value in (2.0, 3.0, 4.0, 5.0):
        stage.tell(value)
    stage.printed("one", "value 2.0")
    assert stage.ask("scenario", "run", "one")[1] == "409"
    stage.good("variable", "set", "go", "1")
    stage.printed("one", "value 5.0")
    stage.ended("one", 2)
    assert stage.printed("one", "value").count("value") == 2


def test_a_scenario_fires_another_and_an_inactive_one_is_fired_by_hand_only(stage: CoreStage) -> None:
    stage.make("two", "print('by', cause['by'])")
    assert run(stage, "fire('two')")["how"] == "finished"
    assert stage.call(lambda core: core.scenarios.scenarios["two"].runs) == 0
    stage.good("scenario", "enable", "two")
    run(stage, "fire('two')\n")
    stage.printed("two", "by scenario")
    assert "no scenario 'three'" in str(run(stage, "fire('three')")["reason"])


def test_a_schedule_fires(stage: CoreStage) -> None:
    stage.make("one", "print(cause['by'])", schedule=["every 1s"], active=True)
    stage.printed("one", "cron", 2)
    assert stage.good("cron", "list_keys") == []
    stage.good("scenario", "disable", "one")
    assert stage.call(lambda core: list(core.cron.jobs)) == []
    answer, status = stage.ask("scenario", "set", "one", json.dumps({"conf": {"schedule": ["0 0 31 2 *"]}}))
    assert status == "400", answer


def test_hand_runs_do_not_put_off_what_waits_for_its_turn(stage: CoreStage) -> None:
    stage.tell(1.0)
    code = "print(cause['by'], cause.get('value'))"
    stage.make("one", code, {"water": {"key": WATER, "fire": "change"}}, active=True)
    eventually(lambda: stage.ask("scenario", "run", "one") and stage.state("one") == "waiting")

    def turn(core: Core) -> tuple[int, object]:
        one = core.scenarios.scenarios["one"]
        return one.runs, one._retry._timer

    runs, due = stage.call(turn)
    for _ in range(20):
        stage.ask("scenario", "run", "one")
    again = stage.call(turn)
    assert again == (runs, due) or again[0] > runs
    # What fires it meanwhile is what it then runs for. On a busy machine its turn may come between the two.
    for value in range(2, 42, 2):
        eventually(lambda: stage.ask("scenario", "run", "one") and stage.state("one") == "waiting")
        before = stage.call(lambda core: core.scenarios.scenarios["one"].runs)
        stage.tell(float(value))
        stage.tell(value + 1.0)
        if stage.call(lambda core: core.scenarios.scenarios["one"].runs) == before:
            break
    else:
        raise AssertionError("its turn came each time between two changes")
    assert f"change {value}.0" not in stage.printed("one", f"change {value + 1}.0")


def test_a_rate_is_never_in_debt_for_more_than_one() -> None:
    rate = Rate()
    waits = [rate.take() for _ in range(1000)]
    assert waits[:20] == [0.0] * 20
    assert 0 < max(waits) <= 0.5


# Memory


def test_memory_is_what_the_run_before_has_left(stage: CoreStage) -> None:
    count = "memory['runs'] = memory.get('runs', 0) + 1\nprint(memory)\n"
    stage.make("one", count + "if memory['runs'] == 2:\n    1 / 0\nif memory['runs'] == 4:\n    sleep(60)\n")
    for number in (1, 2, 3):
        stage.good("scenario", "run", "one")
        assert stage.ended("one", number)["how"] == ("raised" if number == 2 else "finished")
        stage.printed("one", f"{{'runs': {number}}}")
    # One that is killed leaves what the one before has left.
    stage.good("scenario", "run", "one")
    stage.printed("one", "{'runs': 4}")
    os.kill(stage.call(lambda core: core.scenarios.scenarios["one"]._child.pid), signal.SIGKILL)
    assert stage.ended("one", 4)["how"] == "killed"
    # One that is stopped leaves its own.
    stage.good("scenario", "run", "one")
    stage.printed("one", "{'runs': 4}", 2)
    stage.good("scenario", "stop", "one")
    assert stage.ended("one", 5)["how"] == "stopped"
    stage.good("scenario", "run", "one")
    stage.printed("one", "{'runs': 5}")
    stage.ended("one", 6)
    # Changed, it begins anew.
    stage.make("one", "print('new', memory)\n")
    stage.good("scenario", "run", "one")
    stage.printed("one", "new {}")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("memory['x'] = 'x' * 5000", " bytes of JSON, 4096 is the most"),
        ("memory['x'] = {1, 2}", "set is not JSON serializable"),
        ("memory['x'] = float('nan')", "not JSON compliant"),
        ("memory['x'] = memory", "Circular"),
        ("memory = []", "it is no dict"),
    ],
)
def test_a_memory_that_cannot_be_kept_is_told_and_changes_nothing(stage: CoreStage, code: str, reason: str) -> None:
    stage.make("one", f"print(memory)\nif memory:\n    {code}\nelse:\n    memory['a'] = [1, None, '°']\n")
    for number in (1, 2, 3):
        stage.good("scenario", "run", "one")
        assert stage.ended("one", number)["how"] == "finished"
    said = stage.printed("one", "{'a': [1, None, '°']}", 2)
    assert said.count("memory is not kept: ") == 2
    assert reason in said


# Failing


def noticed(stage: CoreStage, name: str, text: str) -> dict[str, object]:
    """Wait until somebody was told of a scenario what needs a look."""

    def found() -> dict[str, object] | None:
        event = stage.tree(f"/event/notify/{name}")
        return event if event and text in event["text"] else None

    notice = eventually(found, text)
    assert notice["severity"] == "critical"
    return dict(notice)


LOW = {"water": {"key": WATER, "fire": {"below": 20, "hysteresis": 1}}}


def test_a_threshold_whose_run_fails_from_outside_fires_again(stage: CoreStage) -> None:
    stage.fake()
    stage.tell(25.0)
    code = "print('sees', get('water'))\nwait('water', 30)\n"
    stage.make("one", code, LOW, active=True)
    stage.tell(19.0)
    stage.printed("one", "sees 19.0")
    stage.fail("a bad checksum")
    stage.becomes("one", "idle", "ErrorValue: water")
    stage.tell(18.0)
    stage.printed("one", "sees 18.0")
    stage.fail("a bad checksum")
    stage.becomes("one", "idle", "ErrorValue: water")
    # So it is over a restart.
    stage.restart()
    stage.tell(17.0)
    stage.printed("one", "sees 17.0")
    stage.tell(30.0)
    assert stage.ended("one")["how"] == "finished"
    assert stage.tree("/event/notify/one") is None


def test_a_threshold_whose_run_fails_is_not_repeated_and_that_is_told(stage: CoreStage) -> None:
    stage.tell(25.0)
    stage.make("one", "print('run')\n1 / 0\n", LOW, active=True)
    stage.tell(19.0)
    notice = noticed(stage, "one", "was fired by water, and ZeroDivisionError")
    assert "it is not fired again before that was back" in str(notice["text"])
    stage.tell(18.0)
    stage.restart()
    stage.tell(17.0)
    assert stage.good("scenario", "show", "one")["runs"] == 0
    assert stage.tree("/event/notify/one") == notice
    stage.tell(21.0)
    stage.tell(19.0)
    assert stage.ended("one")["how"] == "raised"


def test_a_run_of_a_threshold_that_core_s_end_has_cut_off_is_told(stage: CoreStage) -> None:
    stage.tell(25.0)
    stage.make("one", "print('run')\nwhile not stopping():\n    sleep(60)\n", LOW, active=True)
    stage.make("two", "print('run')\n", LOW, active=True)
    stage.tell(19.0)
    stage.printed("one", "run")
    stage.ended("two")
    stage.restart()
    stage.tell(18.0)
    noticed(stage, "one", "was fired by water, and core ended before it did: it is not fired again before")
    assert [stage.good("scenario", "show", name)["runs"] for name in ("one", "two")] == [0, 0]
    assert stage.tree("/event/notify/two") is None
    before = stage.tree("/event/notify/one")
    stage.restart()
    stage.tell(25.0)
    stage.tell(19.0)
    stage.printed("one", "run")
    assert stage.tree("/event/notify/one") == before


def test_what_never_began_is_started_again(stage: CoreStage) -> None:
    stage.tell(25.0)
    stage.make("one", "print('closes the valve for', cause['by'], cause['value'])\n", LOW, active=True)
    stage.make("two", "print('changes to', cause['value'])\n", {"w": {"key": WATER, "fire": "change"}}, active=True)
    pid = eventually(lambda: stage.call(lambda core: core.nursery.up and core.nursery.pid))
    os.kill(pid, signal.SIGSTOP)
    stage.tell(19.0)
    stage.becomes("one", "running")
    stage.becomes("two", "running")
    os.kill(pid, signal.SIGKILL)
    stage.printed("one", "closes the valve for threshold 19.0")
    stage.printed("two", "changes to 19.0")
    for name in ("one", "two"):
        assert stage.ended(name, 2)["how"] == "finished"
        assert stage.good("scenario", "show", name)["runs"] == 2
    # By hand: who did it sees that it failed.
    pid = eventually(lambda: stage.call(lambda core: core.nursery.up and core.nursery.pid))
    stage.make("three", "print('by hand')")
    os.kill(pid, signal.SIGSTOP)
    stage.good("scenario", "run", "three")
    os.kill(pid, signal.SIGKILL)
    assert stage.ended("three")["how"] == "lost"
    assert stage.state("three") == "off"


def test_one_that_runs_from_the_start_is_started_again_when_it_fails(stage: CoreStage) -> None:
    stage.make("one", "print('try', cause['by'])\n1 / 0\n", active=True, startup=True)
    stage.printed("one", "try restart", 1)
    told = stage.good("scenario", "show", "one")
    assert told["last"]["line"] == 2
    assert "ZeroDivisionError" in told["last"]["reason"]


def test_one_that_keeps_failing_is_paused_until_it_is_changed_or_resumed(stage: CoreStage) -> None:
    stage.make("one", "1 / 0", {"go": {"key": "/variable/go", "fire": "change"}}, active=True)
    for number in range(6):
        stage.good("variable", "set", "go", str(number))
        if number:
            stage.ended("one", number)
    told = stage.becomes("one", "paused", "it failed 5 times in a row, last: ZeroDivisionError")
    notice = noticed(stage, "one", "is paused")
    assert "it failed 5 times in a row, last: ZeroDivisionError" in notice["text"]
    assert told["failures"] == 5
    stage.good("variable", "set", "go", "10")
    assert stage.ask("scenario", "run", "one")[1] == "409"
    stage.restart()
    stage.becomes("one", "paused", "it failed 5 times")
    event = eventually(lambda: stage.tree("/event/scenario/one"))
    assert event["state"] == "paused"
    stage.good("scenario", "resume", "one")
    stage.becomes("one", "idle")
    stage.good("variable", "set", "go", "11")
    assert stage.ended("one", 1)["how"] == "raised"
    stage.make("one", "print('well')", {"go": {"key": "/variable/go", "fire": "change"}}, active=True)
    assert stage.good("scenario", "show", "one")["failures"] == 0
    stage.good("variable", "set", "go", "12")
    stage.printed("one", "well")


def test_a_probe_that_fails_never_pauses_and_the_scenario_is_back_at_once(stage: CoreStage) -> None:
    code = "while not stopping():\n    print('sees', get('water'))\n    wait('water')\n"
    stage.make("one", code, {"water": WATER}, active=True, startup=True)
    stage.becomes("one", "waiting", "NoValue: water: missing")
    for value in (20.0, 21.0, 22.0):
        stage.tell(value)
        stage.printed("one", f"sees {value}")
        stage.fail("CRC failed")
        stage.becomes("one", "waiting", "ErrorValue: water: ")
    told = stage.good("scenario", "show", "one")
    assert told["failures"] == 0


def test_a_scenario_that_finished_is_done_until_the_next_start(stage: CoreStage) -> None:
    stage.make("one", "print('done')", active=True, startup=True)
    stage.printed("one", "done")
    stage.becomes("one", "idle", "finished")
    stage.restart()
    stage.printed("one", "done")


def test_a_changed_scenario_is_stopped_and_starts_anew(stage: CoreStage) -> None:
    loop = "print({!r})\nwhile not stopping():\n    sleep(60)\n"
    stage.make("one", loop.format("old"), active=True, startup=True)
    stage.printed("one", "old")
    stage.make("one", loop.format("new"), active=True, startup=True)
    stage.printed("one", "new")
    stage.good("scenario", "stop", "one")
    stage.becomes("one", "idle", "stopped by hand")
    stage.good("scenario", "delete", "one")
    assert stage.ask("scenario", "show", "one")[1] == "404"
    eventually(lambda: stage.tree("/scenario/one") is None)
    stage.restart()
    assert stage.good("scenarios", "list_keys") == []


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"code": "x = 1\nif"}, "one: line 2"),
        ({"conf": {"actve": True}}, "actve"),
        ({"conf": {"limits": {"cpu": 1000}}}, "conf"),
        ({"entries": {"1": WATER}}, "'1' is no name"),
        ({"entries": {"water": "water"}}, "is no key"),
        ({"entries": {"water": {"key": WATER, "fire": {"above": 1, "below": 2}}}}, "either above or below"),
        ({"entries": {"water": {"key": WATER, "fire": "often"}}}, "water"),
        ({"text": "x"}, "text: a scenario has conf, entries and code"),
        ({"conf": {"schedule": ["@sunrise"]}}, "latitude"),
        ({"code": "x" * 100_001}, "100000"),
        ({"code": "#" + "€" * 99_999}, "a value has at most"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(stage: CoreStage, parts: dict[str, object], reason: str) -> None:
    stage.make("one", "print('as it was')", {"water": WATER})
    before = stage.good("scenarios", "export")
    answer, status = stage.ask("scenario", "set", "one", json.dumps(parts))
    assert status == "400"
    assert reason in answer
    assert stage.good("scenarios", "export") == before
    assert stage.ask("scenario", "set", "two", json.dumps(parts))[1] == "400"
    assert stage.good("scenarios", "list_keys") == ["one"]


def test_one_that_cannot_be_used_keeps_its_parts_and_says_so(stage: CoreStage) -> None:
    stage.make("one", "print('precious')", {"water": WATER})
    bad = {"limits": {"memory": 4}, "label": "One"}
    stage.call(lambda core: core.state.put({("scenario.one", "conf"): bad}))
    stage.restart()
    stage.becomes("one", "paused", "it cannot be used: conf")
    assert "it cannot be used: conf" in noticed(stage, "one", "is paused")["text"]
    shown = stage.good("scenario", "show", "one")
    assert (shown["conf"], shown["code"], shown["entries"]) == (bad, "print('precious')", {"water": WATER})
    exported = stage.good("scenarios", "export", "one")["scenarios"]["one"]
    assert exported == {"conf": {**bad, "active": False}, "code": shown["code"], "entries": {"water": WATER}}
    for words in (("enable", "one"), ("disable", "one"), ("set", "one", '{"code": "print(2)"}')):
        answer, status = stage.ask("scenario", *words)
        assert (status, "conf" in answer) == ("400", True), words
    stage.good("scenario", "set", "one", json.dumps({"conf": {"limits": {"memory": 64}}}))
    stage.restart()
    stage.good("scenario", "run", "one")
    stage.printed("one", "precious")
    assert stage.good("scenario", "show", "one")["entries"] == {"water": WATER}


def test_nothing_that_is_imported_is_active(stage: CoreStage) -> None:
    parts = {"code": "print('runs')", "conf": {"active": True, "startup": True}}
    document = json.dumps({"raspy": "scenarios", "version": 1, "scenarios": {"one": parts}})
    stage.good("scenarios", "import", document)
    assert stage.state("one") == "off"
    stage.good("scenario", "enable", "one")
    stage.printed("one", "runs")
    stage.ended("one")
    stage.good("scenarios", "import", document, "replace")
    assert stage.state("one") == "off"
    assert stage.good("scenario", "show", "one")["conf"] == {"active": False, "startup": True}
    assert stage.good("scenario", "show", "one")["runs"] == 1


def test_there_are_so_many_scenarios_and_no_more(stage: CoreStage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager, "MOST", 3)

    def document(*names: str) -> str:
        return json.dumps({"raspy": "scenarios", "version": 1, "scenarios": {name: {"code": ""} for name in names}})

    stage.good("scenarios", "import", document("a", "b"))
    answer, status = stage.ask("scenarios", "import", document("c", "d"))
    assert (status, answer) == ("400", "there can be 3 scenarios, and there are 2; delete some first")
    stage.good("scenarios", "import", document("b", "c"), "replace")
    assert stage.ask("scenario", "set", "d", '{"code": ""}')[1] == "400"
    stage.good("scenario", "set", "c", '{"code": "print(1)"}')
    assert stage.good("scenarios", "list_keys") == ["a", "b", "c"]


def test_a_deleted_one_ends_before_one_of_its_name_begins(stage: CoreStage) -> None:
    fake = stage.fake()
    deaf = "while True:\n    try:\n        sleep(1)\n    except BaseException:\n        pass\n"
    stage.make("one", HOLD + deaf, HEATER, active=True, startup=True, stop_grace=60)
    stage.printed("one", "on")
    pid = stage.call(lambda core: core.scenarios.scenarios["one"]._child.pid)
    stage.good("scenario", "delete", "one")
    stage.make("one", HOLD + "while not stopping():\n    sleep(60)\n", HEATER, active=True, startup=True)
    assert stage.call(lambda core: (core.nursery.running, core.scenarios.scenarios["one"].running)) == (1, False)
    answer, status = stage.ask("scenario", "run", "one")
    assert (status, "has not ended yet" in answer) == ("409", True)
    os.kill(pid, signal.SIGKILL)
    stage.printed("one", "on")
    eventually(lambda: stage.call(lambda core: core.scenarios.releasing) == 0)
    assert stage.call(lambda core: core.nursery.running) == 1
    eventually(lambda: heater(stage).get("state") == "held")
    assert fake.duties["heater"] == 1
    # Core's end waits for one that was deleted, and has its outputs let go of.
    stage.make("one", HOLD + deaf, HEATER, active=True, startup=True, stop_grace=1.0)
    stage.printed("one", "on", 2)
    stage.good("scenario", "delete", "one")
    stage.restart()
    eventually(lambda: fake.duties["heater"] == 0, "the heater off")
    let_go(stage)


def test_check_names_the_line(stage: CoreStage) -> None:
    assert stage.good("scenarios", "check", "x = 1\n") == {"ok": True}
    answer = stage.good("scenarios", "check", "x = 1\ny = (\n")
    assert (answer["ok"], answer["line"]) == (False, 2)


def test_ten_thousand_calls_a_second_do_not_keep_core_from_its_work(stage: CoreStage) -> None:
    stage.tell(20.0)
    stage.make("one", "while True:\n    get('water')\n", {"water": WATER})
    stage.good("scenario", "run", "one")
    stage.becomes("one", "running")
    assert run(stage, "print('other')", name="two")["how"] == "finished"
    stage.good("scenario", "stop", "one")
    stage.ended("one")
