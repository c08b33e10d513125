"""The alarm server on a real broker: every cause raised and cleared, and what people do with an alarm."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raspy.common.server import Server
from raspy.servers.alarm import Alarm, AlarmConfig
from raspy.servers.alarm.book import BACK
from raspy.servers.fake import Fake
from raspy.servers.fake.server import FakeConfig
from tests.bus import BASE, OnThread, eventually
from tests.servers.alarm_stage import WATER, AlarmStage, Watch, alarm_stage

TOLD = "/event/notify/tank"
OUTPUT = "/event/output/pi.probe.heater"
HEATER = "pi.probe.heater"


@pytest.fixture
def stage() -> Iterator[AlarmStage]:
    with alarm_stage() as made:
        yield made


def hot(stage: AlarmStage, **more: Any) -> None:
    """A definition of what is too hot."""
    stage.define("hot", **{"kind": "high", "key": "probe.water/temperature", "limit": 28, **more})


# Limits


def test_a_limit_is_crossed_acknowledged_and_back(stage: AlarmStage) -> None:
    hot(stage, hysteresis=0.5, severity="critical", label="Too hot")
    stage.tell(28.0)
    stage.arrived()
    assert stage.state("hot") == "normal"
    stage.tell(28.4)
    body = stage.becomes("hot", "active")
    assert (body["value"], body["unit"], body["severity"], body["label"]) == (28.4, "°C", "critical", "Too hot")
    assert (body["key"], body["reason"]) == (WATER, "it is above 28 °C")
    stage.heard("hot", "active")
    assert stage.good("acknowledge", "hot", "anna") == ["hot"]
    assert stage.becomes("hot", "acknowledged")["by"] == "anna"
    stage.heard("hot", "active", "acknowledged")
    # Not back by the hysteresis, and so still shown.
    stage.tell(27.6)
    stage.arrived()
    assert stage.state("hot") == "acknowledged"
    stage.tell(27.5)
    stage.becomes("hot", "normal")
    stage.heard("hot", "active", "acknowledged", "returned")
    stage.at_rest()
    assert [each["state"] for each in stage.good("history", "hot")] == ["normal", "acknowledged", "active"]
    key = "/event/alarm/hot"
    event = eventually(lambda: (found := stage.bus.tree(key)[key])["state"] == "normal" and found, "the event")
    assert event["value"] == 27.5


def test_what_returned_stays_until_somebody_knows(stage: AlarmStage) -> None:
    stage.define("cold", kind="low", key="probe.water/temperature", limit=20)
    stage.tell(19.0)
    stage.becomes("cold", "active")
    stage.heard("cold", "active")
    stage.tell(20.5)
    stage.becomes("cold", "returned")
    stage.heard("cold", "active", "returned")
    assert stage.good("acknowledge", "", "anna") == ["cold"]
    stage.becomes("cold", "normal")
    stage.heard("cold", "active", "returned", "acknowledged")


def test_what_returned_and_is_wrong_again_is_told_again(stage: AlarmStage) -> None:
    hot(stage)
    states = []
    for value, state in ((30.0, "active"), (20.0, "returned"), (30.0, "active")):
        stage.tell(value)
        stage.becomes("hot", state)
        states.append(state)
        stage.heard("hot", *states)


def test_a_delay_begins_anew_with_each_break(stage: AlarmStage) -> None:
    hot(stage, delay=3600)
    stage.tell(30.0)
    eventually(lambda: stage.call(lambda alarm: len(alarm.book._pending) == 1), "it waits")
    stage.tell(27.0)
    eventually(lambda: stage.call(lambda alarm: not alarm.book._pending), "it does not")
    stage.define("hot", kind="high", key="probe.water/temperature", limit=28, delay=0.3)
    stage.tell(30.0)
    stage.becomes("hot", "active")
    stage.heard("hot", "active")


def test_a_value_that_chatters_at_its_limit_is_one_alarm(stage: AlarmStage) -> None:
    stage.call(lambda alarm: setattr(alarm.book, "back", 3600.0))
    hot(stage)
    for _ in range(200):
        stage.tell(28.1)
        stage.tell(27.9)
    stage.becomes("hot", "active")
    stage.arrived()
    stage.at_rest()
    assert stage.state("hot") == "active"
    stage.heard("hot", "active")
    assert len(stage.good("history", "hot")) == 1


def test_what_cannot_be_believed_is_neither_beyond_nor_back(stage: AlarmStage) -> None:
    stage.only("hot", kind="high", key="probe.water/temperature", limit=28)
    for text in ("30", "true"):
        stage.publish(WATER, {"value": json.loads(f'"{text}"'), "quality": "ok", "time": 1, "max_age": 60})
    stage.fail()
    stage.arrived()
    assert stage.state("hot") == "normal"
    stage.tell(30.0)
    stage.becomes("hot", "active")
    stage.fail()
    stage.arrived()
    stage.call(lambda alarm: alarm.book.tick())
    assert stage.state("hot") == "active"


@pytest.mark.parametrize(("wanted", "wrong", "right"), [(True, True, False), ("open", "open", "shut"), (3, 3, 4)])
def test_a_value_that_must_not_be(stage: AlarmStage, wanted: Any, wrong: Any, right: Any) -> None:
    stage.define("leak", kind="is", key="/device/*/contact", value=wanted)
    key = "/device/pi.probe.leak/contact"
    name = "leak.pi.probe.leak.contact"
    stage.tell(right, key, "")
    stage.arrived(key)
    assert stage.state(name) == "normal"
    stage.tell(wrong, key, "")
    assert stage.becomes(name, "active")["label"] == "leak: pi.probe.leak.contact"
    stage.tell(right, key, "")
    stage.becomes(name, "returned")


def test_an_error_between_good_readings_is_no_break(stage: AlarmStage) -> None:
    hot(stage, delay=3600)
    stage.define("error", kind="error", delay=3600)
    stage.tell(45.0)
    eventually(lambda: stage.call(lambda alarm: alarm.book._pending), "it waits")
    since = stage.call(lambda alarm: alarm.book.alarms["hot", WATER].pending)
    name = "error", WATER
    for _ in range(5):
        stage.fail()
        stage.arrived()
        # Its time is over, but there is nothing to be judged now.
        stage.call(lambda alarm: (setattr(alarm.book.alarms["hot", WATER], "due", 0.0), alarm.book.tick()))
        assert stage.state("hot") == "normal"
        assert stage.call(lambda alarm: alarm.book.alarms["hot", WATER].pending) == since
        failing = stage.call(lambda alarm: alarm.book.alarms[name].pending)
        stage.call(lambda alarm: setattr(alarm.book.alarms["hot", WATER], "due", since + 3600.0))
        stage.tell(45.0)
        stage.arrived()
        # One good reading does not end that it flaps.
        assert stage.call(lambda alarm: alarm.book.alarms[name].pending) == failing
    stage.call(lambda alarm: setattr(alarm.book.alarms["hot", WATER], "due", 0.0))
    stage.tell(45.0)
    stage.becomes("hot", "active")
    stage.call(lambda alarm: setattr(alarm.book.alarms[name], "due", 0.0))
    stage.fail()
    assert stage.becomes("error.pi.probe.water.temperature", "active")["reason"] == "CRC failed"
    for number in range(3):
        stage.tell(45.0 + number)
    stage.becomes("error.pi.probe.water.temperature", "returned")


def test_a_single_error_is_forgotten_after_some_good_readings(stage: AlarmStage) -> None:
    stage.define("error", kind="error", delay=3600)
    stage.fail()
    eventually(lambda: stage.call(lambda alarm: alarm.book._pending), "it waits")

    def good() -> bool:
        stage.tell(20.0)
        stage.arrived()
        return bool(stage.call(lambda alarm: not alarm.book.alarms))

    eventually(good, "it is forgotten")


def test_another_definition_that_is_set_is_no_break(stage: AlarmStage) -> None:
    hot(stage, delay=3600)
    stage.tell(45.0)
    stage.define("lost", kind="high", key="probe.watr/temperature", limit=28, delay=3600)
    stage.miss()
    eventually(lambda: stage.call(lambda alarm: len(alarm.book._pending) == 2), "they wait")

    def found(alarm: Any) -> Any:
        return alarm.book.alarms["hot", WATER].pending, [*alarm.watch._absent.values()]

    before = stage.call(found)
    stage.define("other", kind="low", key="probe.water/temperature", limit=5)
    stage.arrived()
    stage.call(lambda alarm: alarm._tick())
    assert stage.call(found) == before


# Readings that do not come


def test_a_stale_value_and_one_in_error(stage: AlarmStage) -> None:
    stage.define("stale", kind="stale", key="/device/*")
    stage.define("error", kind="error", key="/device/*")
    name = "pi.probe.water.temperature"
    stage.publish(WATER, {"value": 1.0, "quality": "ok", "time": 1, "max_age": 0.2})
    assert "nothing" in stage.becomes(f"stale.{name}", "active")["reason"]
    stage.fail("CRC failed")
    stage.becomes(f"stale.{name}", "returned")
    assert stage.becomes(f"error.{name}", "active")["reason"] == "CRC failed"
    stage.tell(25.0)
    stage.becomes(f"error.{name}", "returned")


def test_a_probe_that_is_removed_is_no_alarm_any_more(stage: AlarmStage) -> None:
    stage.define("error", kind="error", key="/device/*")
    name = "error.pi.probe.water.temperature"
    stage.fail()
    stage.becomes(name, "active")
    stage.heard(name, "active")
    stage.publish(WATER, b"")
    stage.becomes(name, "normal")
    assert stage.heard(name, "active", "returned")[1].reason == "its value was removed"
    assert stage.good("list") == []


def test_a_key_that_never_was_says_so(stage: AlarmStage) -> None:
    told = stage.define("lost", kind="high", key="probe.watr/temperature", limit=28)
    assert told["note"] == "there is no such value"
    stage.miss()
    assert stage.becomes("lost", "active")["reason"] == "there is no such value"
    stage.at_rest()
    stage.restart()
    assert stage.becomes("lost", "active")["reason"] == "there is no such value"
    stage.heard("lost", "active")
    stage.tell(20.0, "/device/pi.probe.watr/temperature")
    stage.becomes("lost", "returned")


# Servers and the broker


def test_a_server_that_is_down_is_one_alarm_and_its_values_are_none(stage: AlarmStage) -> None:
    stage.define("server", kind="server", severity="critical", delay=0.2)
    stage.define("stale", kind="stale")
    other = stage.another(Server("pi", "other", stage.bus.ip, BASE))
    key = "/device/pi.other.water/temperature"
    body = json.dumps({"value": 1.0, "quality": "ok", "time": 1, "max_age": 60}).encode()
    other.call(lambda: other.executive.publish(key, body))
    eventually(lambda: "/server/pi.other" in stage.bus.tree("/server/"), "the server")
    eventually(lambda: stage.bus.tree(key), "its value")
    stage.arrived(key)
    other.stop()
    stage.others.remove(other)
    assert "stopped" in stage.becomes("server.pi.other", "active")["reason"]
    eventually(lambda: stage.bus.tree(key)[key]["quality"] == "stale", "its values are stale")
    stage.arrived(key)
    stage.call(lambda alarm: alarm.book.tick())
    assert [each["name"] for each in stage.good("list")] == ["server.pi.other"]
    # A broker that is started anew does not know it: that is no reason to forget it.
    stage.bus.restart()
    eventually(lambda: "/server/pi.probe" in stage.bus.tree("/server/"), "the servers are back")
    stage.becomes("server.pi.other", "active")
    back = stage.another(Server("pi", "other", stage.bus.ip, BASE))
    stage.becomes("server.pi.other", "returned")
    # Its value is not published any more by the one that is back.
    back.call(lambda: back.executive.publish(key, body.replace(b"60", b"0.2")))
    stage.becomes("stale.pi.other.water.temperature", "active")


def test_a_server_that_should_be_there_and_never_was() -> None:
    with alarm_stage(expected=("broker", "probe", "missing")) as stage:
        stage.define("server", kind="server", severity="critical")
        # The others have come before anybody is missed.
        eventually(lambda: stage.call(lambda alarm: "/server/pi.probe" in alarm.watch.tree), "the probe")
        stage.miss()
        assert "not started" in stage.becomes("server.pi.missing", "active")["reason"]
        assert [each["name"] for each in stage.good("list")] == ["server.pi.missing"]
        stage.another(Server("pi", "missing", stage.bus.ip, BASE))
        stage.becomes("server.pi.missing", "returned")


def test_a_server_with_a_problem(stage: AlarmStage) -> None:
    stage.define("degraded", kind="server", value="degraded")
    probe = stage.probe
    probe.call(lambda: probe.executive.condition("disk", "it is slow"))
    stage.bus.call(lambda broker: broker.presence._ask_all())
    assert stage.becomes("degraded.pi.probe", "active")["reason"] == "disk: it is slow"
    probe.call(lambda: probe.executive.condition("disk", None))
    stage.bus.call(lambda broker: broker.presence._ask_all())
    stage.becomes("degraded.pi.probe", "returned")


def test_a_broker_that_dies_is_one_alarm(stage: AlarmStage) -> None:
    stage.define("stale", kind="stale")
    stage.define("server", kind="server", severity="critical")
    stage.define("bus", kind="bus", severity="critical")
    for number in range(20):
        stage.tell(25.0, f"/device/pi.probe.water{number}/temperature")
    stage.arrived("/device/pi.probe.water19/temperature")
    stage.bus.runner.stop()
    eventually(lambda: stage.call(lambda alarm: [each["name"] for each in alarm.book.listed()]) == ["bus"], "the bus")
    assert stage.heard("bus", "active")[0].severity == "critical"
    assert not stage.call(lambda alarm: alarm.how()[0])
    stage.define("stale", kind="stale", delay=3600)
    stage.define("server", kind="server", delay=3600)
    stage.bus.runner = type(stage.bus.runner)(stage.bus._broker()).wait()
    eventually(lambda: stage.call(lambda alarm: alarm.watch.live), "the tree")
    stage.becomes("bus", "returned")
    stage.heard("bus", "active", "returned")
    assert [notice.name for notice in stage.told] == ["bus", "bus"]


@pytest.mark.parametrize("quick", [False, True])
def test_what_a_broker_started_anew_does_not_know_is_not_over(stage: AlarmStage, quick: bool) -> None:
    stage.only("leak", kind="is", key="/device/*/leak", value=True, severity="critical")
    # The others may be missed for a moment when the broker is another one.
    stage.define("server", kind="server", key="/server/pi.o*", severity="critical")
    key, name = "/device/pi.other.floor/leak", "leak.pi.other.floor.leak"
    other = stage.another(Server("pi", "other", stage.bus.ip, BASE))
    body = json.dumps({"value": True, "quality": "ok", "time": 1, "max_age": 60}).encode()
    other.call(lambda: other.executive.publish(key, body))
    stage.becomes(name, "active")
    stage.others.remove(other)
    if quick:
        # It is there again before anybody has missed it, and has forgotten the values meanwhile.
        stage.bus.runner.stop()
        other.stop()
        stage.bus.runner = type(stage.bus.runner)(stage.bus._broker()).wait()
    else:
        other.stop()
        stage.becomes("server.pi.other", "active")
        stage.good("acknowledge", "server.pi.other", "anna")
        stage.bus.runner.stop()
        eventually(lambda: stage.call(lambda alarm: not alarm.watch.live), "it is missed")
        stage.bus.runner = type(stage.bus.runner)(stage.bus._broker()).wait()
    eventually(lambda: stage.call(lambda alarm: alarm.watch.settled and key not in alarm.watch.tree), "it is unknown")
    stage.call(lambda alarm: alarm._tick())
    states = {each["name"]: each["state"] for each in stage.good("list")}
    assert states == ({name: "active"} if quick else {name: "active", "server.pi.other": "acknowledged"})
    assert "returned" not in [notice.state for notice in stage.told if notice.name != "bus"]
    # Somebody knows, and says so once more: it is over.
    assert stage.good("acknowledge", "", "anna") == [name]
    assert stage.good("acknowledge", "", "anna") == []
    assert stage.good("acknowledge", name, "anna") == [name]
    assert name not in [each["name"] for each in stage.good("list")]
    assert stage.good("history", name)[0]["reason"] == "its value is not there any more"


def test_a_broker_that_never_was(tmp_path: Path) -> None:
    alarm = Alarm("pi", "alarm", f"ipc://{tmp_path}", BASE, str(tmp_path), AlarmConfig(), False)
    alarm.watch.first = 0.2
    runner = OnThread(alarm).wait()
    try:
        done: list[Any] = []
        runner.call(lambda: alarm.definitions.set("bus", {"kind": "bus", "severity": "critical"}, done.append))
        eventually(
            lambda: [each["name"] for each in runner.call(alarm.book.listed) if each["state"] == "active"] == ["bus"],
            "the bus",
        )
    finally:
        runner.stop()


# The other causes


def test_a_clock_that_is_not_to_be_trusted(stage: AlarmStage) -> None:
    stage.define("clock", kind="clock")
    key = "/device/pi.sync.clock/trusted"
    stage.tell(False, key, "")
    stage.becomes("clock.pi.sync.clock.trusted", "active")
    stage.tell(True, key, "")
    stage.becomes("clock.pi.sync.clock.trusted", "returned")


def test_a_disk_that_is_nearly_full(stage: AlarmStage) -> None:
    stage.define("disk", kind="disk", limit=0.001)
    body = stage.becomes("disk", "active")
    assert "% full" in body["reason"]
    assert body["unit"] == "%"
    stage.define("disk", kind="disk", limit=100)
    stage.becomes("disk", "returned")
    stage.define("gone", kind="disk", limit=100, key="/there/is/no/such/place")
    assert "No such file" in stage.becomes("gone", "active")["reason"]


def event(stage: AlarmStage, state: str, reason: str, time: float, **more: Any) -> None:
    """What the server of an output tells."""
    stage.publish(OUTPUT, {"time": time, "state": state, "reason": reason, **more})
    stage.arrived(OUTPUT)


def test_an_output_that_fell_by_itself(stage: AlarmStage) -> None:
    name = f"output.{HEATER}"
    event(stage, "held", "told by heating", 1.0, by="heating", lease=60)
    event(stage, "safe", "told by heating", 2.0, by="heating", after=3.0, on=9.0)
    event(stage, "safe", "the lease ended", 3.0, by="anna", after=60.0, on=60.0)
    event(stage, "safe", "mode feeding ended: its time is over", 4.0)
    assert stage.state(name) == "normal"
    event(stage, "safe", "it was on for its longest time, 60 s", 5.0)
    assert "longest time" in stage.becomes(name, "active")["reason"]
    event(stage, "held", "told by heating", 6.0)
    stage.becomes(name, "returned")
    stage.good("acknowledge", name)
    event(stage, "safe", "the lease ended", 7.0, by="heating", after=60.0, on=600.0)
    assert stage.becomes(name, "active")["reason"] == "the lease ended: heating has not renewed it"
    # Once somebody knows of it there is nothing more to it, and the same event does not raise it again.
    stage.good("acknowledge", name)
    stage.becomes(name, "normal")
    stage.at_rest()
    stage.restart()
    stage.arrived(OUTPUT)
    stage.call(lambda alarm: alarm.book.tick())
    assert stage.state(name) == "normal"
    event(stage, "safe", "interlock: leak is on", 8.0)
    stage.becomes(name, "active")


def test_an_output_that_does_not_obey(stage: AlarmStage) -> None:
    stage.define("output-failed", kind="output", value="failed", severity="critical")
    event(stage, "failed", "told", 1.0, failure="I/O error")
    name = f"output-failed.{HEATER}"
    assert "I/O error" in stage.becomes(name, "active")["reason"]
    assert stage.state(f"output.{HEATER}") == "normal"
    event(stage, "safe", "told", 2.0, failed_for=3.0)
    stage.becomes(name, "returned")


def test_a_real_output_whose_longest_time_is_over(stage: AlarmStage) -> None:
    fake = stage.another(Fake("pi", "fake", stage.bus.ip, BASE, FakeConfig()))
    server = fake.executive
    replies: list[list[bytes]] = []

    def tell(*words: str) -> None:
        del replies[:]
        body = [word.encode() for word in words]
        fake.call(lambda: server.handle(server.worker_devices(), body, replies.append))
        eventually(lambda: replies, "an answer")
        assert replies[0][-1] == b"200", replies

    eventually(lambda: fake.call(lambda: "heater" in server.devices), "the heater")
    tell("exec", "heater", "config", '{"longest_on": 0.5}')
    tell("exec", "heater", "power", "true", "60", "heating")
    name = "output.pi.fake.heater"
    assert "longest time" in stage.becomes(name, "active")["reason"]
    tell("exec", "heater", "config", '{"longest_on": 0}')
    tell("exec", "heater", "power", "false")
    tell("exec", "heater", "power", "true", "60", "heating")
    stage.becomes(name, "returned")


def test_a_scenario_that_fails_or_is_paused(stage: AlarmStage) -> None:
    stage.define("scenario", kind="scenario")
    key = "/scenario/night"
    body = {"state": "waiting", "reason": "", "failures": 1, "last": {"reason": "water is stale"}}
    stage.publish(key, body)
    assert stage.becomes("scenario.night", "active")["reason"] == "it fails: water is stale"
    stage.publish(key, {**body, "state": "idle", "failures": 0})
    stage.becomes("scenario.night", "returned")
    stage.publish(key, {**body, "state": "paused", "reason": "it failed 5 times in a row"})
    assert "5 times" in stage.becomes("scenario.night", "active")["reason"]
    stage.publish(key, b"")
    stage.becomes("scenario.night", "normal")


def test_a_disk_that_does_not_answer_takes_one_thread(stage: AlarmStage, monkeypatch: pytest.MonkeyPatch) -> None:
    answer, looks = threading.Event(), []

    def used(directory: str) -> float:
        if directory.startswith("/mnt/"):
            looks.append(directory)
            answer.wait(30)
        return 99.0

    monkeypatch.setattr("raspy.servers.alarm.disks.used", used)
    # The disk of the server's own files would take a turn like any.
    for name in ("disk", "disk-full"):
        stage.define(name, kind="disk", limit=90, active=False)
    eventually(lambda: stage.call(lambda alarm: not alarm.disks._asked), "its own has answered")
    stage.call(lambda alarm: setattr(alarm.disks, "patience", 0.3))
    for number in range(12):
        stage.define(f"nas{number}", kind="disk", key=f"/mnt/{number}", limit=90)
    eventually(lambda: len([each for each in stage.good("list") if each["name"].startswith("nas")]) == 12, "all")
    eventually(lambda: len(looks) == 8, "they hang")
    for _ in range(5):
        stage.call(lambda alarm: alarm.disks.look())
    assert len(looks) == len(set(looks)) == 8
    assert stage.call(lambda alarm: alarm.pool.hung) == 8
    told = [each["reason"] for each in stage.good("list") if each["name"].startswith("nas")]
    assert sum("no answer in" in each for each in told) == 8
    assert sum("other disks do not answer" in each for each in told) == 4
    answer.set()
    eventually(lambda: stage.call(lambda alarm: not alarm.disks._asked), "they answer")
    stage.call(lambda alarm: alarm.disks.look())
    eventually(lambda: len(set(looks)) == 12, "the others are asked")
    eventually(lambda: stage.call(lambda alarm: not alarm.disks._asked), "they answer")


# What scenarios tell


def tells(stage: AlarmStage, text: str, time: float, severity: str = "warning", title: str = "", **more: Any) -> None:
    """What core publishes when a scenario notifies."""
    stage.publish(
        TOLD, {"time": time, "text": text, "title": title, "severity": severity, "by": "scenario tank", **more}
    )


def test_what_a_scenario_tells_is_told_once_each_time(stage: AlarmStage) -> None:
    tells(stage, "it did not rise", 1.0, "critical", "No rise")
    body = stage.becomes("notify.tank", "active")
    assert (body["severity"], body["label"], body["reason"]) == ("critical", "No rise: tank", "it did not rise")
    (notice,) = stage.heard("notify.tank", "active")
    assert (notice.severity, notice.label, notice.reason) == ("critical", "No rise: tank", "it did not rise")
    assert not stage.call(lambda alarm: alarm.how()[0])
    stage.at_rest()
    # The same event again is nothing new, whoever was started anew.
    stage.restart()
    stage.bus.restart()
    eventually(lambda: stage.call(lambda alarm: TOLD not in alarm.watch.tree), "the broker has forgotten it")
    assert stage.state("notify.tank") == "active"
    tells(stage, "it did not rise", 1.0, "critical", "No rise")
    stage.arrived(TOLD)
    stage.call(lambda alarm: alarm._tick())
    stage.heard("notify.tank", "active")
    # What is less grave hides nothing of which nobody knows.
    tells(stage, "the heater is refused", 2.0, "warning", "Refused")
    stage.heard("notify.tank", "active", "active")
    told = ("critical", "the heater is refused; before: it did not rise")
    eventually(lambda: ((body := stage.tree("notify.tank"))["severity"], body["reason"]) == told, "what there was too")
    assert stage.good("acknowledge", "notify.tank", "anna") == ["notify.tank"]
    stage.becomes("notify.tank", "normal")
    stage.heard("notify.tank", "active", "active", "acknowledged")
    stage.at_rest()
    stage.restart()
    stage.arrived(TOLD)
    stage.call(lambda alarm: alarm._tick())
    assert stage.state("notify.tank") == "normal"
    tells(stage, "all is good", 3.0, "info")
    body = stage.becomes("notify.tank", "active")
    assert (body["severity"], body["label"], body["reason"]) == ("info", "A scenario tells: tank", "all is good")
    stage.heard("notify.tank", "active", "active", "acknowledged", "active")
    # A broker may forget it: that is no reason not to tell it.
    stage.publish(TOLD, b"")
    stage.arrived(TOLD)
    assert stage.state("notify.tank") == "active"


def test_a_scenario_that_tells_in_a_loop(stage: AlarmStage) -> None:
    stage.call(lambda alarm: setattr(alarm.book, "gap", 3600.0))
    stage.call(lambda alarm: setattr(alarm.book, "most_told", 5))
    probe = stage.probe

    def storm() -> None:
        for number in range(1000):
            body = {"time": number + 1.0, "text": f"number {number}", "severity": "info"}
            probe.executive.publish(TOLD, json.dumps(body).encode())

    for _ in range(3):
        probe.call(storm)
    stage.arrived(TOLD)
    stage.heard("notify.tank", "active")
    stage.at_rest()
    assert len(stage.good("history")) == 1
    # The last is told when it is time.
    tells(stage, "the end", 5000.0)
    stage.arrived(TOLD)
    eventually(lambda: stage.call(lambda alarm: alarm.book._pending), "it waits")
    stage.call(lambda alarm: setattr(alarm.book.alarms["notify", TOLD], "due", 0.0))
    stage.heard("notify.tank", "active", "active")
    eventually(lambda: stage.tree("notify.tank")["reason"].startswith("the end; before: number "), "what there was too")
    # Nor do many of them take the place of alarms.
    for number in range(20):
        stage.publish(f"/event/notify/n{number}", {"time": 1.0, "text": "x", "severity": "critical"})
    eventually(lambda: stage.call(lambda alarm: "too many" in alarm.conditions), "it is said")
    assert len(stage.good("list")) == 5
    hot(stage)
    stage.tell(30.0)
    stage.becomes("hot", "active")
    assert "no delay" in stage.ask("set", "notify", '{"kind": "notify", "delay": 5}')[0]


# Shelving


def test_what_happens_while_shelved_is_in_the_history(stage: AlarmStage) -> None:
    hot(stage)
    stage.good("shelve", "hot", "600", "anna")
    for value in (30.0, 20.0):
        stage.tell(value)
        eventually(lambda value=value: (stage.tree("hot") or {}).get("value") == value, "it is shown")
    stage.at_rest()
    found = [(each["state"], each["reason"]) for each in stage.good("history", "hot")[:2]]
    assert found == [("shelved", "it is over"), ("shelved", "it is above 28 °C")]
    assert stage.told == []


def test_what_is_shelved_is_not_told_and_comes_back_by_itself() -> None:
    clock = Watch()
    with alarm_stage(clock) as stage:
        hot(stage)
        assert stage.good("shelve", "hot", "3600", "anna") == ["hot"]
        body = stage.becomes("hot", "shelved")
        assert body["by"] == "anna"
        assert abs(body["until"] - clock.wall() - 3600) < 30
        stage.tell(30.0)
        stage.arrived()
        stage.at_rest()
        assert stage.state("hot") == "shelved"
        stage.restart()
        stage.arrived()
        # A clock that is set by a year ends nothing.
        clock.off = 31_536_000.0
        stage.call(lambda alarm: alarm.book.tick())
        assert stage.state("hot") == "shelved"
        assert [notice for notice in stage.told if notice.name == "hot"] == []
        clock.went += 3601
        stage.becomes("hot", "active")
        stage.heard("hot", "active")
        assert stage.good("shelve", "hot", "60") == ["hot"]
        assert stage.good("unshelve", "hot", "anna") == ["hot"]
        eventually(lambda: (body := stage.tree("hot"))["state"] == "active" and body["by"] == "anna", "it is back")
        stage.tell(20.0)
        stage.becomes("hot", "returned")
        stage.good("shelve", "hot", "60")
        stage.becomes("hot", "shelved")
        clock.went += 61
        stage.becomes("hot", "normal")


@pytest.mark.parametrize(
    ("trusted", "off", "left"),
    [(True, 0.0, 3000.0), (True, 1e9, 0.0), (True, -1e9, 3600.0), (False, 0.0, 3000.0), (False, 1e9, 3600.0)],
)
def test_shelving_over_a_boot(trusted: bool, off: float, left: float) -> None:
    clock = Watch("1" * 32)
    with alarm_stage(clock) as stage:
        hot(stage)
        stage.good("shelve", "hot", "3600")
        stage.at_rest()
        stage.stop()
        stage.clock = later = Watch("2" * 32)
        later.right, later.off = trusted, 600.0 + off
        stage.start()
        if not left:
            stage.becomes("hot", "normal")
        else:
            shelf = stage.call(lambda alarm: alarm.book.alarms["hot", WATER].kept.shelf)
            assert abs(shelf.end - later.since() - left) < 30


def test_shelving_ends_though_nobody_ever_knows_the_time() -> None:
    clock = Watch("1" * 32)
    with alarm_stage(clock) as stage:
        hot(stage)
        stage.good("shelve", "hot", "3600")
        for boot, state in (("2", "shelved"), ("3", "normal")):
            stage.at_rest()
            stage.stop()
            stage.clock = clock = Watch(boot * 32)
            # 1970, as on a machine without a clock of its own.
            clock.right, clock.off = False, 1000.0 - clock.wall()
            stage.start()
            stage.becomes("hot", state)


# What people ask


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("A b", {"kind": "bus"}, "is no name of an alarm"),
        ("x", {"kind": "nothing"}, "nothing"),
        ("x", {"kind": "high", "key": "a.b/c"}, "give it a limit"),
        ("x", {"kind": "high", "limit": 1}, "give it the key"),
        ("x", {"kind": "high", "limit": 1, "key": "water"}, "is no key"),
        ("x", {"kind": "high", "limit": 1, "key": "/alarm/hot"}, "watches keys that begin with /device/ or /variable/"),
        ("x", {"kind": "high", "limit": 1, "key": "/device/a"}, "is no value"),
        ("x", {"kind": "high", "limit": 1, "key": "/device/" + "*a" * 9}, "more than 8 stars"),
        ("x", {"kind": "high", "limit": 1, "key": "a.b/c", "hysteresis": -1}, "hysteresis"),
        ("x", {"kind": "high", "limit": 1, "key": "a.b/c", "delay": 1e9}, "delay"),
        ("x", {"kind": "high", "limit": 1, "key": "a.b/c", "colour": "red"}, "colour"),
        ("x", {"kind": "high", "limit": 1, "key": "a.b/c", "severity": "bad"}, "severity"),
        ("x", {"kind": "high", "limit": 1, "key": "a.b/c", "channels": ["mail"]}, "there is no channel mail"),
        ("x", {"kind": "high", "limit": 1, "key": "a.b/c", "value": 3}, "value is for"),
        ("x", {"kind": "is", "key": "a.b/c"}, "give it the value"),
        ("x", {"kind": "stale", "limit": 3}, "limit and hysteresis are for"),
        ("x", {"kind": "server", "value": "sad"}, "down or degraded"),
        ("x", {"kind": "server", "key": "/device/a.b.c/d"}, "watches keys that begin with /server/"),
        ("x", {"kind": "disk", "limit": 101}, "at most 100"),
        ("x", {"kind": "disk", "limit": 90, "key": "home"}, "a directory"),
        ("x", {"kind": "bus", "key": "a.b/c"}, "has no key"),
        ("disk", {"kind": "bus"}, "stays of kind disk"),
    ],
)
def test_definitions_that_cannot_be(stage: AlarmStage, name: str, settings: dict[str, Any], says: str) -> None:
    before = stage.good("definitions")
    answer, status = stage.ask("set", name, json.dumps(settings))
    assert status == "400"
    assert says in answer
    assert stage.good("definitions") == before


def test_requests_that_cannot_be(stage: AlarmStage) -> None:
    for words, status, says in (
        (("set", "x", "[1]"), "400", "object"),
        (("acknowledge", "nope"), "404", "no alarm 'nope'"),
        (("shelve", "stale.nope", "60"), "404", "no alarm"),
        (("shelve", "stale", "60"), "409", "has no alarm that is not normal"),
        (("shelve", "bus", "1e9"), "400", "a number from 1 to 86400"),
        (("shelve", "bus", "nan"), "400", "a number"),
        (("shelve", "bus", "60", "a\nb"), "400", "printable"),
        (("shelve", "", "60"), "404", "no alarm"),
        (("unshelve", "nope"), "404", "no alarm"),
        (("show", "nope"), "404", "no alarm"),
        (("show", ""), "404", "no alarm"),
        (("delete", "nope"), "404", "no definition"),
        (("delete", "stale"), "409", "comes with RasPy"),
        (("history", "", "x"), "400", "since"),
        (("test", "nope"), "404", "no channel"),
    ):
        assert stage.ask(*words)[1] == status, words
        assert says in str(stage.ask(*words)[0]), words


def test_a_definition_that_is_changed_deleted_and_back_as_it_came(stage: AlarmStage) -> None:
    hot(stage)
    stage.tell(30.0)
    stage.becomes("hot", "active")
    hot(stage, limit=31)
    stage.becomes("hot", "returned")
    assert stage.good("delete", "hot") == "deleted"
    stage.becomes("hot", "normal")
    assert "hot" not in [each["name"] for each in stage.good("definitions")]
    stage.define("stale", kind="stale", active=False)
    stage.at_rest()
    stage.restart()
    shown = {each["name"]: each for each in stage.good("definitions")}
    assert (shown["stale"]["changed"], shown["stale"]["note"]) == (True, "it is not active")
    assert stage.good("delete", "stale") == "deleted"
    assert not stage.good("show", "stale")["changed"]
    assert len(stage.good("history", "hot")) == 3


def test_a_value_whose_alarm_is_shelved_before_it_is_one(stage: AlarmStage) -> None:
    stage.tell(20.0)
    stage.arrived()
    name = "error.pi.probe.water.temperature"
    assert stage.good("shelve", name, "60") == [name]
    stage.becomes(name, "shelved")
    assert stage.good("unshelve", "") == [name]
    stage.becomes(name, "normal")


def test_a_test_that_hangs_leaves_room_for_others(stage: AlarmStage) -> None:
    def hang(alarm: Any) -> list[Any]:
        waiting: list[Any] = []
        for name in ("one", "two"):
            alarm.settings.channels[name] = {}
        alarm.voice.test = lambda channel, done: waiting.append(done)
        return waiting

    waiting, replies = stage.call(hang), []

    def ask(channel: str) -> None:
        stage.call(lambda alarm: alarm.handle(alarm.worker_alarms(), [b"test", channel.encode()], replies.append))

    try:
        for channel in ("one", "one", "two"):
            ask(channel)
        assert [reply[-1] for reply in replies] == [b"409", b"409"]
        stage.call(lambda _: waiting.pop()(""))
        assert replies[-1][-1] == b"200"
        ask("two")
        assert len(waiting) == 1
    finally:
        stage.call(lambda alarm: alarm.settings.channels.clear())


def test_many_definitions_and_keys_do_not_hold_the_loop(stage: AlarmStage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raspy.servers.alarm.verbs.TURN", 0.0)
    for number in range(20):
        stage.tell(1.0, f"/device/pi.probe.water{number}/temperature")
    stage.arrived("/device/pi.probe.water19/temperature")
    turns = stage.call(lambda alarm: [])

    def ask(alarm: Any) -> None:
        alarm.call_later(0, turns.append, "another's")
        alarm.handle(alarm.worker_alarms(), [b"definitions"], turns.append)
        assert turns == []

    stage.call(ask)
    eventually(lambda: len(turns) == 2, "the answer")
    assert turns[0] == "another's"
    watches = {each["name"]: each["watches"] for each in json.loads(turns[1][0])}
    assert (watches["error"], watches["disk"], watches["scenario"]) == (20, None, 0)


# Over restarts, and when the disk is in trouble


def test_a_disk_that_takes_nothing_is_said_by_what_people_do(
    stage: AlarmStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    hot(stage)
    stage.tell(30.0)
    stage.becomes("hot", "active")
    stage.at_rest()
    held: list[Any] = []

    def hold(alarm: Any) -> None:
        storage = alarm.book.record._storage
        write = storage.write
        storage.write = lambda *words, **more: held.append(lambda: write(*words, **more))

    stage.call(hold)
    monkeypatch.setattr("raspy.servers.alarm.verbs.PATIENCE", 0.1)
    for words, state in ((("acknowledge", "hot", "anna"), "acknowledged"), (("shelve", "hot", "60"), "shelved")):
        answer, status = stage.ask(*words)
        assert (status, "it is done, but the disk has not taken it" in answer) == ("503", True)
        assert stage.becomes("hot", state)
    assert stage.call(lambda alarm: alarm.book.record._waits) == {}
    # Once the disk takes it, that is the answer.
    monkeypatch.setattr("raspy.servers.alarm.verbs.PATIENCE", 30.0)
    replies: list[Any] = []
    stage.call(lambda alarm: alarm.handle(alarm.worker_alarms(), [b"unshelve", b"hot"], replies.append))
    stage.call(lambda alarm: alarm.book.record._flush())
    assert replies == []
    stage.call(lambda alarm: delattr(alarm.book.record._storage, "write"))
    while held:
        stage.call(lambda _: held.pop(0)())
    eventually(lambda: replies, "the answer")
    assert replies[0][-1] == b"200"


def test_a_restart_repeats_nothing_and_forgets_nothing(stage: AlarmStage) -> None:
    hot(stage)
    stage.define("cold", kind="low", key="probe.water/temperature", limit=50)
    stage.tell(30.0)
    stage.becomes("hot", "active")
    stage.becomes("cold", "active")
    stage.heard("cold", "active")
    stage.good("acknowledge", "cold", "anna")
    stage.becomes("cold", "acknowledged")
    stage.heard("cold", "active", "acknowledged")
    stage.at_rest()
    since = stage.tree("hot")["since"]
    stage.restart()
    stage.arrived()
    stage.call(lambda alarm: alarm.book.tick())
    assert stage.becomes("hot", "active")["since"] == since
    assert stage.becomes("cold", "acknowledged")["by"] == "anna"
    stage.heard("hot", "active")
    stage.heard("cold", "active", "acknowledged")


def test_what_was_kept_and_not_told_is_told_after_a_restart(stage: AlarmStage) -> None:
    hot(stage)
    # A voice that never says that it has it on its disk, as before a crash.
    stage.call(lambda alarm: setattr(alarm.voice, "tell", lambda notice, done=None: None))
    stage.tell(30.0)
    stage.becomes("hot", "active")
    eventually(
        lambda: stage.call(lambda alarm: not (alarm.book.record._dirty or alarm.book.record._writing)), "it is written"
    )
    assert stage.told == []
    stage.restart()
    stage.heard("hot", "active")
    stage.at_rest()
    stage.restart()
    stage.heard("hot", "active")


def test_a_disk_that_takes_nothing_keeps_no_alarm_from_being_told(stage: AlarmStage) -> None:
    hot(stage)
    stage.call(lambda alarm: setattr(alarm.book.record._storage, "write", lambda *_, **__: None))
    stage.tell(30.0)
    stage.heard("hot", "active")
    stage.call(lambda alarm: alarm.book.record._writing.clear())
    stage.call(lambda alarm: delattr(alarm.book.record._storage, "write"))


def test_a_file_of_rows_that_are_none(stage: AlarmStage) -> None:
    hot(stage)
    stage.tell(30.0)
    stage.becomes("hot", "active")
    stage.at_rest()

    def spoil(alarm: Any) -> None:
        alarm.book.record._database.write(
            lambda connection: connection.execute(
                "INSERT INTO alarm (rule, key, data) VALUES ('hot', 'x', '[1]'), ('gone', '/device/a', '{}')"
            )
        )

    stage.call(spoil)
    stage.restart()
    stage.becomes("hot", "active")


# Bounds


def test_a_storm_of_changes_is_one_alarm_and_bounded(stage: AlarmStage) -> None:
    stage.call(lambda alarm: setattr(alarm.book, "back", BACK))
    hot(stage)
    key = "/device/pi.probe.other/temperature"
    probe = stage.probe

    def storm() -> None:
        for number in range(500):
            for each in (WATER, key):
                body = {"value": 20 + number % 2 * 10, "quality": "ok", "time": 1, "max_age": 60}
                probe.executive.publish(each, json.dumps(body).encode())

    for _ in range(5):
        probe.call(storm)
    stage.arrived()
    stage.arrived(key)
    stage.becomes("hot", "active")
    stage.at_rest()
    assert len([notice for notice in stage.told if notice.name == "hot"]) <= 5
    assert stage.call(lambda alarm: len(alarm._timers)) < 60
    assert stage.call(lambda alarm: len(alarm.book.alarms)) == 1


def test_there_are_no_more_alarms_than_can_be(stage: AlarmStage) -> None:
    stage.call(lambda alarm: setattr(alarm.book, "most", 5))
    stage.define("error", kind="error")
    for number in range(10):
        stage.fail(key=f"/device/pi.probe.water{number}/temperature")
    eventually(lambda: stage.call(lambda alarm: "too many" in alarm.conditions), "it is said")
    listed = {each["key"] for each in stage.good("list")}
    assert len(listed) == 5
    for key in listed:
        stage.tell(1.0, key)
    eventually(lambda: {each["state"] for each in stage.good("list")} == {"returned"}, "they are back")
    assert stage.call(lambda alarm: "too many" in alarm.conditions)
    stage.good("acknowledge", "")
    # Those for which there was no room are still in error.
    eventually(lambda: [each["state"] for each in stage.good("list")] == ["active"] * 5, "the others")
    assert not listed & {each["key"] for each in stage.good("list")}
    eventually(lambda: stage.call(lambda alarm: not alarm.conditions), "there is room")
    eventually(lambda: len({notice.name for notice in stage.told}) == 10, "all are told")


def test_there_are_no_more_definitions_than_can_be(stage: AlarmStage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raspy.servers.alarm.definitions.MOST", 2)
    for name in ("one", "two"):
        stage.define(name, kind="bus")
    answer, status = stage.ask("set", "three", '{"kind": "bus"}')
    assert (status, "all that can be" in answer) == ("409", True)
    stage.define("two", kind="bus", delay=3)


def test_history_is_bounded(stage: AlarmStage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raspy.servers.alarm.store.HISTORY", 5)
    monkeypatch.setattr("raspy.servers.alarm.store.PRUNE", 2)
    hot(stage)
    for _ in range(5):
        for value, state in ((30.0, "active"), (20.0, "returned")):
            stage.tell(value)
            stage.becomes("hot", state)
    stage.at_rest()
    assert 5 <= len(stage.good("history")) <= 7
    assert len(stage.good("history", "hot", "", "", "2")) == 2


def test_hostile_bodies_and_keys(stage: AlarmStage) -> None:
    stage.define("any", kind="high", key="/device/*", limit=1)
    stage.define("same", kind="is", key="/device/*", value=True)
    stage.define("server", kind="server", severity="critical")
    for key in ("/server/pi.x", OUTPUT, "/scenario/x", "/scenario/" + "y" * 490, "/variable/\u00e4 \u20ac", TOLD):
        for body in (b"[" * 10_000, b"\xff", b"3", b"null", b'{"state": 3}', b'{"failures": 1e400}', b'{"last": [1]}'):
            # Servers do not write /server/ themselves.
            stage.bus.call(lambda broker, key=key, body=body: broker.proxy.update(key, body))
            stage.arrived(key)
    stage.publish("/device/pi.probe.x/y", {"quality": "ok", "value": [1], "max_age": 1, "unit": "°C"})
    stage.publish("/device/pi.probe.x/z", {"quality": "ok", "value": 10**400, "max_age": 1})
    stage.tell(3.0)
    stage.becomes("any.pi.probe.water.temperature", "active")
    # What stands there already is judged by a definition that is made later, whatever stands beside it.
    stage.publish("/device/pi.probe.x/z", {"quality": "ok", "value": 10**400, "max_age": 60})
    stage.arrived("/device/pi.probe.x/z")
    hot(stage, limit=2)
    stage.becomes("hot", "active")
    assert stage.call(lambda alarm: alarm.errors) == 0


def test_one_key_that_cannot_be_judged_costs_the_others_nothing(stage: AlarmStage) -> None:
    def broken(alarm: Any) -> None:
        judge = alarm.watch._judge

        def judging(rule: Any, key: str, again: bool = False) -> None:
            if key == "/device/pi.probe.bad/x":
                raise ArithmeticError("as in a test")
            judge(rule, key, again)

        alarm.watch._judge = judging

    stage.call(broken)
    stage.tell(30.0, "/device/pi.probe.bad/x")
    stage.tell(30.0)
    stage.arrived()
    hot(stage)
    stage.becomes("hot", "active")
    stage.define("cold", kind="low", key="probe.water/temperature", limit=50)
    stage.becomes("cold", "active")
    stage.call(lambda alarm: setattr(alarm, "errors", 0))


def test_keys_that_are_long_and_names_that_are_the_same(stage: AlarmStage) -> None:
    stage.define("error", kind="error")
    for place in ("/device/pi.probe/water.temperature", WATER, "/device/pi.probe." + "x" * 440 + "/t"):
        stage.fail(key=place)
    eventually(lambda: len(stage.good("list")) == 3, "all three")
    names = sorted(each["name"] for each in stage.good("list"))
    assert names[0] == "error.pi.probe.water.temperature"
    assert names[1].startswith("error.pi.probe.water.temperature.")
    assert len(names[2]) == 200
    assert stage.good("acknowledge", names[2]) == [names[2]]
    long = "/device/pi.probe." + "y" * 440 + "/t"
    stage.define("long", kind="high", key=long, limit=28)
    stage.tell(30.0, long)
    stage.becomes("long", "active")
    stage.heard("long", "active")
    assert not stage.call(lambda alarm: alarm.conditions)
