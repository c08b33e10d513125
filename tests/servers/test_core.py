"""raspy.servers.core: its services on a real bus, what is kept, and what fires."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raspy.common import MDP
from raspy.servers.core import delivery, mirror
from raspy.servers.core.delivery import exec_frames, place
from tests.bus import eventually
from tests.servers.core_house import House, house
from tests.support_disks import small_disk

HOUR, DAY = 3600.0, 86_400.0
HEATER = {"device": "fake.heater", "command": "power", "value": True, "seconds": 60}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[House]:
    with house(str(tmp_path)) as made:
        yield made


SOON = 600.0
"""Seconds until a one-shot, which go by when the test wants it: how long it takes to make it makes no difference."""


def soon(home: House, name: str, **settings: Any) -> None:
    """Make a one-shot that is due once the clock is set by :func:`go_on`."""
    at = time.strftime("at %Y-%m-%dT%H:%M:%S+00:00", time.gmtime(home.clock.wall() + SOON))
    home.ask("cron", "set", name, {"when": at, **settings})


def go_on(home: House) -> None:
    """Have the time come for what is due soon."""
    home.clock.offset += SOON + 1


# Cron jobs over the bus


def test_a_job_is_made_shown_and_deleted(home: House) -> None:
    home.start()
    made = home.ask("cron", "set", "lights", {"when": "0 8 * * *", "label": "Lights on"})
    assert len(made["next"]) == 3
    assert all(DAY - 3700 <= b - a <= DAY + 3700 for a, b in zip(made["next"], made["next"][1:], strict=False))
    assert home.ask("cron", "list_keys") == ["lights"]
    assert home.ask("cron", "show", "lights")["settings"]["label"] == "Lights on"
    assert [job["name"] for job in home.ask("cron", "list")] == ["lights"]
    assert len(home.ask("cron", "next", "lights", "7")) == 7
    assert home.ask("cron", "delete", "lights") == "deleted"
    assert home.ask("cron", "list_keys") == []


@pytest.mark.parametrize(
    ("name", "settings", "problem"),
    [
        ("Lights", {"when": "0 8 * * *"}, "is no name"),
        ("a", {"when": "61 8 * * *"}, ""),
        ("a", {"when": "0 0 31 2 *"}, ""),
        ("a", {"when": "@sunset"}, "latitude"),
        ("a", {"when": "0 8 * * *", "jiter": 3}, "jiter"),
        ("a", {"when": "0 8 * * *", "jitter": -3}, "jitter"),
        ("a", {"when": "0 8 * * *", "misfire": "never"}, "misfire"),
        ("a", {"when": "0 8 * * *", "scenario": "No!"}, "scenario"),
        ("a", {"when": "0 8 * * *", "command": {"device": "heater", "command": "power"}}, "command.device"),
        ("a", {"label": "no time"}, "when"),
        ("a", [], ""),
        ("a", "nonsense{", ""),
    ],
)
def test_a_job_that_cannot_be_is_refused_and_leaves_nothing(
    home: House, name: str, settings: Any, problem: str
) -> None:
    home.start()
    answer, status = home.answer("cron", "set", name, settings)
    assert status == MDP.BAD_REQUEST, answer
    assert problem in answer
    assert home.ask("cron", "list_keys") == []


@pytest.mark.parametrize("words", [("show", "x"), ("delete", "x"), ("run", "x"), ("next", "x")])
def test_an_unknown_job_is_not_found(home: House, words: tuple[str, ...]) -> None:
    home.start()
    assert home.answer("cron", *words)[1] == MDP.NOT_FOUND


def test_when_it_is_to_happen_can_be_checked(home: House) -> None:
    home.start(latitude=48.85, longitude=2.35)
    good = home.ask("cron", "check", "@sunset-00:30")
    assert good["ok"]
    assert len(good["next"]) == 3
    bad = home.ask("cron", "check", "every now and then")
    assert not bad["ok"]
    assert bad["problem"]


def test_jobs_survive_a_restart(home: House) -> None:
    home.start()
    home.ask("cron", "set", "lights", {"when": "0 8 * * *", "label": "Lights on", "jitter": 30})
    before = home.ask("cron", "show", "lights")
    home.stop()
    home.start()
    after = home.ask("cron", "show", "lights")
    assert after == before


def test_a_job_fires_and_says_so_once(home: House) -> None:
    home.start()
    events = home.follow("/event/cron/")
    soon(home, "soon")
    go_on(home)
    eventually(lambda: events, "it fires")
    home.stop()
    home.start()
    assert home.call(lambda core: core.cron.due()) == []
    assert [event["state"] for _, event in events] == ["fired"]
    assert events[0][0] == "/event/cron/soon"
    assert events[0][1]["late"] < 60


def test_a_job_commands_a_device_through_titanic(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "FORGET", 0.05)
    titanic = home.add_titanic()
    fake = home.add_tank()
    home.start(titanic=True)
    home.eventually(
        lambda core: home.others["fake"].call(lambda: not fake.devices["heater"].unsettled), "it is settled"
    )
    events = home.follow("/event/cron/")
    soon(home, "warm", command=HEATER)
    go_on(home)
    eventually(lambda: len(events) >= 2, "it is done")
    assert [event["state"] for _, event in events] == ["fired", "done"]
    heater = home.ask("pi.fake.devices", "info", "heater")
    assert heater["details"]["by"] == "cron warm"
    assert home.ask("cron", "show", "warm")["note"] == "its command: done"
    assert home.others["titanic"].call(titanic.statistics)["titanic.accepted"] == 1
    eventually(lambda: not home.ask("pi.titanic.queue", "list")["requests"], "it is forgotten")


def test_a_job_commands_a_device_where_there_is_no_titanic(home: House) -> None:
    fake = home.add_tank()
    home.others["fake"].call(lambda: setattr(fake.devices["heater"], "unsettled", ""))
    home.start()
    home.ask("cron", "set", "warm", {"when": "0 0 1 1 *", "command": HEATER})
    assert home.ask("cron", "run", "warm") == "fired"
    eventually(lambda: home.ask("cron", "show", "warm")["note"] == "its command: done", "it is done")
    assert home.ask("pi.fake.devices", "info", "heater")["details"]["by"] == "cron warm"


def settle(home: House) -> None:
    """Have the tank's outputs take commands, where no Titanic says what their settings are."""
    fake = home.others["fake"].executive
    home.others["fake"].call(lambda: [setattr(device, "unsettled", "") for device in fake.devices.values()])


def test_a_command_goes_straight_to_its_device_while_titanic_is_away(home: House) -> None:
    home.add_tank()
    settle(home)
    home.start(titanic=True)
    home.ask("cron", "set", "warm", {"when": "0 0 1 1 *", "command": HEATER})
    home.ask("cron", "run", "warm")
    eventually(lambda: home.ask("cron", "show", "warm")["note"] == "its command: done", "it is done")


def test_a_command_goes_straight_to_its_device_when_titanics_disk_takes_nothing(home: House, tmp_path: Path) -> None:
    (tmp_path / "t").write_text("no directory")
    home.add_titanic()
    home.add_tank()
    settle(home)
    home.start(titanic=True)
    home.ask("cron", "set", "warm", {"when": "0 0 1 1 *", "command": HEATER})
    home.ask("cron", "run", "warm")
    eventually(lambda: home.ask("cron", "show", "warm")["note"] == "its command: done", "it is done")


@pytest.mark.parametrize("titanic", [True, False])
def test_more_commands_than_are_sent_at_a_time_are_all_done(home: House, titanic: bool) -> None:
    if titanic:
        home.add_titanic()
    home.add_tank()
    settle(home)
    home.start(titanic=titanic)
    home.ask("cron", "set", "warm", {"when": "0 0 1 1 *", "command": HEATER})
    events = home.follow("/event/cron/")
    for _ in range(250):
        home.ask("cron", "run", "warm")
    eventually(lambda: len(events) == 500, "all are told")
    assert {event["state"] for _, event in events} == {"fired", "done"}


def test_a_server_that_hangs_keeps_no_command_from_another(home: House) -> None:
    home.add_tank()
    settle(home)
    home.start()
    for number in range(20):
        command = {**HEATER, "device": "nobody.heater"}
        home.ask("cron", "set", f"lost{number}", {"when": "0 0 1 1 *", "command": command})
        home.ask("cron", "run", f"lost{number}")
    home.ask("cron", "set", "warm", {"when": "0 0 1 1 *", "command": HEATER})
    home.ask("cron", "run", "warm")
    began = time.monotonic()
    eventually(lambda: home.ask("cron", "show", "warm")["note"] == "its command: done", "it is done")
    assert home.call(lambda core: core.delivery.flying) == 20, f"after {time.monotonic() - began:.1f} s"


def test_a_command_that_was_on_its_way_when_core_ended_is_sent_again(home: House) -> None:
    home.start()
    soon(home, "warm", command=HEATER)
    go_on(home)
    home.eventually(lambda core: core.delivery.flying, "it is on its way")
    home.stop()
    home.add_tank()
    settle(home)
    events = home.follow("/event/cron/")
    home.start()
    eventually(lambda: any(event["state"] == "done" for _, event in events), "it is done")
    assert [event["state"] for _, event in events] == ["interrupted", "done"]
    assert home.ask("pi.fake.devices", "info", "heater")["details"]["by"] == "cron warm"


def test_a_command_that_came_too_late_over_a_restart_is_told_and_not_sent(home: House) -> None:
    home.start()
    soon(home, "warm", command=HEATER)
    go_on(home)
    home.eventually(lambda core: core.delivery.flying, "it is on its way")
    home.stop()
    home.clock.offset += 60
    home.add_tank()
    settle(home)
    events = home.follow("/event/cron/")
    home.start()
    eventually(lambda: events, "it is told")
    assert [event["state"] for _, event in events] == ["interrupted"]
    assert "not repeated" in events[0][1]["reason"]
    assert home.call(lambda core: core.delivery.flying) == 0


def test_a_change_that_the_disk_refuses_is_none(home: House, tmp_path: Path) -> None:
    with small_disk() as disk:
        home.directory = disk.place
        home.start()
        home.ask("cron", "set", "lights", {"when": "0 8 * * *"})
        disk.fill()
        before = home.ask("cron", "show", "lights")
        assert home.answer("cron", "set", "lights", {"when": "0 9 * * *", "label": "x" * 100})[1] == MDP.ERROR
        assert home.answer("cron", "set", "other", {"when": "0 9 * * *", "label": "x" * 100})[1] == MDP.ERROR
        assert home.answer("cron", "delete", "lights")[1] == MDP.ERROR
        assert home.ask("cron", "list_keys") == ["lights"]
        after = home.ask("cron", "show", "lights")
        assert (after["settings"], after["next"]) == (before["settings"], before["next"])
        disk.make_room()
        home.eventually(lambda core: not core.conditions, "all is well again")
        home.stop()


def test_with_a_full_disk_nothing_is_done_again_at_each_restart(home: House) -> None:
    with small_disk() as disk:
        home.directory = disk.place
        # No full hour comes by itself.
        home.clock.offset = HOUR / 4 - time.time() % HOUR
        home.start()
        soon(home, "shot")
        home.ask("cron", "set", "dose", {"when": "0 * * * *", "misfire": "all"})
        events = home.follow("/event/cron/")
        disk.fill()
        go_on(home)
        eventually(lambda: events, "it fires all the same")
        home.clock.offset += 3 * HOUR
        eventually(lambda: len(events) >= 4, "what was missed is made up for")
        told = [(key, event["state"]) for key, event in events]
        for _ in range(2):
            home.stop()
            home.start()
            home.ask("cron", "list")
            home.eventually(lambda core: core.jobs._begun and core.scenarios.begun, "it fires what is due")
            home.call(lambda core: core.jobs._tick())
        assert [(key, event["state"]) for key, event in events] == told
        home.stop()


def test_a_job_for_a_scenario_that_is_not_there_says_so(home: House) -> None:
    home.start()
    made = home.ask("cron", "set", "morning", {"when": "0 8 * * *", "scenario": "nosuch"})
    assert made["note"] == "there is no scenario nosuch"


def test_a_command_that_is_refused_is_told(home: House) -> None:
    home.add_tank()
    home.start()
    events = home.follow("/event/cron/")
    home.ask("cron", "set", "bad", {"when": "0 0 1 1 *", "command": {**HEATER, "device": "fake.hoover"}})
    home.ask("cron", "run", "bad")
    eventually(lambda: len(events) >= 2, "it is told")
    assert events[1][1]["state"] == "refused"
    assert "hoover" in events[1][1]["reason"]


def test_what_was_missed_while_it_was_off_follows_its_rule(home: House) -> None:
    home.start()
    rules = {"skip": 0, "once": 1, "all": 3}
    for rule in rules:
        home.ask("cron", "set", rule, {"when": "0 12 * * *", "misfire": rule})
    home.stop()
    home.clock.offset = 3 * DAY
    events = home.follow("/event/cron/")
    home.start()
    wanted = sum(rules.values())
    eventually(lambda: len(events) >= wanted, "they fire")
    home.ask("cron", "list")
    fired = [key.removeprefix("/event/cron/") for key, _ in events]
    assert {rule: fired.count(rule) for rule in rules} == rules


def test_a_kept_job_that_is_no_good_costs_no_other(home: House) -> None:
    home.start()
    home.ask("cron", "set", "good", {"when": "0 8 * * *"})
    home.call(lambda core: core.state.put({("cron.bad", "settings"): {"when": "nonsense"}}))
    home.stop()
    home.start()
    assert home.ask("cron", "list_keys") == ["bad", "good"]
    assert "problem" in next(job for job in home.ask("cron", "list") if job["name"] == "bad")
    assert "bad" in home.call(lambda core: core.conditions)["cron jobs"]
    assert home.ask("cron", "delete", "bad") == "deleted"
    assert home.ask("cron", "list_keys") == ["good"]


# Variables


def test_a_variable_is_on_the_tree_and_survives_a_restart(home: House) -> None:
    home.start()
    assert home.ask("variable", "set", "target", 25.5)["value"] == 25.5
    eventually(lambda: "/variable/target" in home.tree("/variable/"), "it is on the tree")
    home.stop()
    home.start()
    assert home.ask("variable", "get", "target")["value"] == 25.5
    assert home.ask("variable", "list")["target"]["value"] == 25.5
    home.ask("variable", "delete", "target")
    assert home.answer("variable", "get", "target")[1] == MDP.NOT_FOUND
    eventually(lambda: "/variable/target" not in home.tree("/variable/"), "it is gone")


@pytest.mark.parametrize("value", ["[1]", "{}", "null", "1e999", "nan", "", '"' + "x" * 100_000 + '"'])
def test_what_no_variable_can_be_is_refused(home: House, value: str) -> None:
    home.start()
    answer, status = home.answer("variable", "set", "target", value)
    assert status == MDP.BAD_REQUEST, answer


# Scenarios over the bus


def test_a_scenario_is_made_run_and_deleted(home: House) -> None:
    home.start()
    made = home.ask("scenario", "set", "hello", {"code": "print('hello', name)\nset('greeted', True)\n"})
    assert made["code"].startswith("print")
    assert home.ask("scenarios", "list_keys") == ["hello"]
    home.ask("scenario", "run", "hello")
    eventually(lambda: home.ask("scenario", "show", "hello").get("last"), "it has run")
    assert "hello hello" in home.ask("scenario", "output", "hello")["output"]
    assert home.ask("variable", "get", "greeted")["value"] is True
    home.ask("scenario", "delete", "hello")
    assert home.ask("scenarios", "list_keys") == []


def test_code_that_cannot_be_compiled_says_where(home: House) -> None:
    home.start()
    problem = home.ask("scenarios", "check", "x = 1\nif x\n  y\n")
    assert (problem["ok"], problem["line"]) == (False, 2)
    answer, status = home.answer("scenario", "set", "bad", {"code": "x = 1\nif x\n  y\n"})
    assert status == MDP.BAD_REQUEST
    assert "line 2" in answer


def test_a_cron_job_runs_a_scenario(home: House) -> None:
    home.start()
    home.ask("scenario", "set", "hello", {"conf": {"active": True}, "code": "set('by', cause['by'])"})
    home.ask("cron", "set", "morning", {"when": "0 0 1 1 *", "scenario": "hello"})
    home.ask("cron", "run", "morning")
    eventually(lambda: home.ask("variable", "list").get("by"), "it has run")
    assert home.ask("variable", "get", "by")["value"] == "cron"


def test_scenarios_are_exported_and_imported(home: House) -> None:
    home.start()
    home.ask("scenario", "set", "hello", {"code": "print(1)", "conf": {"label": "Hello"}})
    document = home.ask("scenarios", "export")
    home.ask("scenario", "delete", "hello")
    assert home.ask("scenarios", "import", document) == ["hello"]
    assert home.ask("scenarios", "export") == document
    assert home.answer("scenarios", "import", document)[1] != MDP.OK
    assert home.ask("scenarios", "import", document, "replace") == ["hello"]


def test_everything_is_in_the_store_under_the_keys_of_the_manual(home: House) -> None:
    home.add_titanic()
    home.start(titanic=True)
    home.ask("scenario", "set", "hello", {"code": "print(1)", "entries": {"water": "/device/pi.fake.tank/temperature"}})

    def stored(section: str, key: str) -> Any:
        reply = home.client.send("titanic.store", [b"get", b"pi.core", section.encode(), key.encode()])
        return json.loads(reply[0])["value"] if reply is not None and reply[-1] == MDP.OK else None

    eventually(lambda: stored("scenario.hello", "code") == "print(1)", "the code is in the store")
    eventually(lambda: stored("scenario.main", "keys") == ["hello"], "the names are")
    assert "water" in stored("scenario.hello", "entries")
    assert stored("scenario.hello", "conf") == {}


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("cron.lights", "settings", {"when": "99 99 * * *"}),
        ("cron.lights", "settings", []),
        ("scenario.hello", "conf", {"active": "perhaps"}),
        ("scenario.hello", "code", 5),
        ("scenario.hello", "entries", {"1": "x"}),
        ("scenario.hello", "odd", {}),
        ("variable", "target", 26),
        ("variable", "target", {"value": [26], "time": 0}),
        ("variable", "No!", {"value": 26, "time": 0}),
    ],
)
def test_what_the_store_has_and_nobody_can_use_replaces_nothing(
    home: House, monkeypatch: pytest.MonkeyPatch, section: str, key: str, value: Any
) -> None:
    monkeypatch.setattr(mirror, "VARIABLES", 0.0)
    home.add_titanic()
    home.start(titanic=True)
    home.ask("cron", "set", "lights", {"when": "0 8 * * *"})
    home.ask("scenario", "set", "hello", {"code": "print(1)"})
    home.ask("variable", "set", "target", 25)

    def kept() -> list[Any]:
        return [home.ask("cron", "list"), home.ask("scenario", "show", "hello"), home.ask("variable", "list")]

    before = kept()
    home.eventually(lambda core: not any(entry.pending for _, entry in core.state.entries()), "all is in the store")
    frames = [frame.encode() for frame in ("set", "pi.core", section, key, json.dumps(value))]
    assert home.client.send("titanic.store", frames)[-1] == MDP.OK
    home.call(lambda core: core.state._mirror.look())
    home.eventually(lambda core: core.conditions.get("store"), "it is told")
    assert kept() == before


def test_a_list_of_scenarios_leaves_their_code_out(home: House) -> None:
    home.start()
    home.ask("scenario", "set", "hello", {"code": "print(1)", "conf": {"label": "Hello"}})
    (row,) = home.ask("scenarios", "list")
    assert (row["name"], row["conf"]["label"], "code" in row) == ("hello", "Hello", False)


# What is sent


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("fake.heater", ("pi.fake.devices", "heater")),
        ("pi2.gpio.heater", ("pi2.gpio.devices", "heater")),
        ("pi.fake.tv.volume", ("pi.fake.devices", "tv.volume")),
    ],
)
def test_the_place_of_a_device(device: str, expected: tuple[str, str]) -> None:
    assert place("pi", device) == expected


@pytest.mark.parametrize("device", ["", "heater", "a.b.c.d.e", "a..b", ".a", "a.", "/x"])
def test_what_is_no_device_has_no_place(device: str) -> None:
    with pytest.raises(ValueError, match="is no device"):
        place("pi", device)


def test_the_frames_of_a_command() -> None:
    assert exec_frames("heater", "power", True, 30, "cron a") == [
        b"exec",
        b"heater",
        b"power",
        b"true",
        b"30",
        b"cron a",
    ]
    assert exec_frames("tv", "source", "hdmi", None, "x")[3:] == [b"hdmi", b"", b"x"]
