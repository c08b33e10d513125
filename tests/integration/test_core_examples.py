"""The scenarios that come with RasPy, on the simulated tank: they hold their targets, and what goes wrong is found."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.bus import eventually
from tests.conftest import COUNTED
from tests.servers.core_stage import WATER, CoreStage, core_stage

TANK = {"poll": 0.3, "speed": 200.0, "volume": 20.0, "power": 200.0, "level_rate": 0.0}
"""With a poll of 0.3 s a reading is good for 0.9 s, which a busy machine keeps: one that is stale ends a run."""
LIMIT = 60.0


@pytest.fixture
def stage() -> Iterator[CoreStage]:
    with core_stage() as made:
        yield made


def start(stage: CoreStage, name: str, entries: dict[str, Any] | None = None, **settings: Any) -> None:
    """Take an example as an owner does, with other settings, and make it active."""
    document = next(found for found in stage.good("scenarios", "examples") if name in found["scenarios"])
    stage.good("scenarios", "import", json.dumps(document))
    parts = stage.good("scenario", "show", name)
    conf = {**parts["conf"], "active": True, "settings": {**parts["conf"]["settings"], **settings}}
    change = {"conf": conf, "entries": {**parts["entries"], **(entries or {})}}
    stage.good("scenario", "set", name, json.dumps(change))


def water(stage: CoreStage) -> float:
    # On a busy machine it may be stale for a moment.
    return float(
        eventually(lambda: stage.call(lambda core: core.values.read("/device/pi.fake.tank/temperature").value))
    )


def level(stage: CoreStage) -> float:
    # As above; and a core that has just started may not have it yet.
    return float(eventually(lambda: stage.call(lambda core: core.values.read("/device/pi.fake.tank/level").value)))


def told(stage: CoreStage, name: str, text: str) -> dict[str, Any]:
    """Wait until a scenario has told its owner something."""

    def found() -> Any:
        event = stage.tree(f"/event/notify/{name}")
        return event if event and text in event["text"] else None

    return dict(eventually(found, text))


LEVEL = "/device/pi.probe.tank/level"


def hand(stage: CoreStage, device: str) -> None:
    """Somebody turns an output on, for an hour."""
    server, replies = stage.tank.executive, []
    body = [b"exec", device.encode(), b"power", b"true", b"3600", b"web"]
    stage.tank.call(lambda: server.handle(server.worker_devices(), body, replies.append))
    eventually(lambda: replies, "an answer")
    assert replies[0][-1] == b"200", replies


def flicker(stage: CoreStage, output: str, value: float, key: str, found: Callable[[], Any]) -> Any:
    """Give one reading again and again, with an error whenever the output was on for 0.3 s, until something is."""
    duties, end, since = stage.tank.executive.duties, time.monotonic() + LIMIT, 0.0
    while not (result := found()):
        assert time.monotonic() < end, stage.good("scenarios", "list")
        on, now = duties.get(output, 0.0) == 1, time.monotonic()
        since = since or now if on else 0.0
        if since and now - since > 0.3:
            stage.fail("a bad checksum", key)
            eventually(lambda: duties.get(output, 0.0) == 0, "the output off")
        stage.tell(value, key)
        time.sleep(0.02)
    return result


def test_every_example_can_be_taken_as_it_is_and_is_not_active(stage: CoreStage) -> None:
    documents = stage.good("scenarios", "examples")
    assert [list(document["scenarios"]) for document in documents] == [["thermostat"], ["filling"], ["daylight"]]
    for document in documents:
        (name,) = stage.good("scenarios", "import", json.dumps(document))
        assert stage.state(name) == "off"
        assert stage.good("scenarios", "check", stage.good("scenario", "show", name)["code"]) == {"ok": True}


def test_the_thermostat_holds_its_target(stage: CoreStage, record_property: Any) -> None:
    fake = stage.fake(temperature=23.5, **TANK)
    start(stage, "thermostat", target=25.0, band=0.6, poll=0.2, lease=3)
    eventually(lambda: fake.duties.get("heater", 0.0) == 1, "the heater on")
    eventually(lambda: water(stage) > 25.2, "the target")
    seen, switched, before = [], 0, fake.duties.get("heater", 0.0)
    end = time.monotonic() + LIMIT
    while switched < 5:
        assert time.monotonic() < end, f"switched {switched} times"
        seen.append(water(stage))
        switched += before != fake.duties.get("heater", 0.0)
        before = fake.duties.get("heater", 0.0)
        time.sleep(0.02)
    record_property(COUNTED, f"{min(seen):.2f} to {max(seen):.2f} °C for 25 ± 0.3 °C, at 200 times the speed of time")
    # A second is more than three minutes of the tank: 0.5 °C with the heater on.
    assert min(seen) > 24.0
    assert max(seen) < 26.0
    assert stage.good("scenario", "show", "thermostat")["failures"] == 0


def test_heating_without_a_rise_is_found_and_ends_with_the_freeze(stage: CoreStage) -> None:
    fake = stage.fake(temperature=23.5, **TANK)
    stage.configure("tank", fault="freeze")
    start(stage, "thermostat", target=25.0, poll=0.2, lease=3, minutes=0.03)
    eventually(lambda: fake.duties.get("heater", 0.0) == 1, "the heater on")
    assert told(stage, "thermostat", "did not rise")["severity"] == "critical"
    eventually(lambda: fake.duties.get("heater", 0.0) == 0, "the heater off")
    assert stage.state("thermostat") == "running"
    stage.configure("tank", fault="none")
    eventually(lambda: fake.duties.get("heater", 0.0) == 1, "the heater on again")
    stage.printed("thermostat", "the reading changes again")


def test_the_longest_time_on_ends_with_the_freeze_too(stage: CoreStage) -> None:
    fake = stage.fake(temperature=23.5, **TANK)
    stage.configure("tank", fault="freeze")
    stage.configure("heater", longest_on=1.5)
    start(stage, "thermostat", target=25.0, poll=0.2, lease=3)
    told(stage, "thermostat", "it was on for its longest time")
    assert fake.duties.get("heater", 0.0) == 0
    assert stage.state("thermostat") == "running"
    stage.configure("heater", longest_on=20.0)
    assert fake.duties.get("heater", 0.0) == 0
    stage.configure("tank", fault="none")
    eventually(lambda: fake.duties.get("heater", 0.0) == 1, "the heater on again")


def test_a_frozen_probe_is_found_though_it_fails_now_and_then(stage: CoreStage) -> None:
    fake = stage.fake(temperature=23.5, **TANK)
    stage.configure("heater", longest_on=600.0)
    stage.tell(20.0)
    start(stage, "thermostat", {"water": WATER}, target=25.0, poll=0.2, lease=3, minutes=0.015)

    def runs() -> int:
        return int(stage.good("scenario", "show", "thermostat")["runs"])

    def lines() -> int:
        return str(stage.good("scenario", "output", "thermostat")["output"]).count("did not rise")

    flicker(stage, "heater", 20.0, WATER, lines)
    # It may have failed once more in the moment in which it told: then this run counts as well.
    stage.becomes("thermostat", "running")
    before = runs()
    assert before > 1
    # What is known of it outlives the next errors too, and is told once.
    for _ in range(2):
        stage.fail("a bad checksum")
        stage.becomes("thermostat", "waiting", "ErrorValue: water")
        stage.tell(20.0)
        stage.becomes("thermostat", "running")
    eventually(lambda: runs() == before + 2)
    assert (lines(), fake.duties.get("heater", 0.0)) == (1, 0)
    stage.tell(20.2)
    eventually(lambda: fake.duties.get("heater", 0.0) == 1, "the heater on again")
    stage.printed("thermostat", "the reading changes again")


def test_the_thermostat_turns_off_what_a_hand_has_turned_on_when_it_is_too_warm(stage: CoreStage) -> None:
    fake = stage.fake(**TANK)
    stage.tell(24.9)
    start(stage, "thermostat", {"water": WATER}, target=25.0, band=0.5, poll=0.1, lease=3)
    stage.becomes("thermostat", "running")
    hand(stage, "heater")
    assert fake.duties.get("heater", 0.0) == 1
    # Within the band a hand may.
    stage.tell(25.1)
    stage.make("look", "print(get('heater'))", {"heater": "fake.heater/power"})
    stage.good("scenario", "run", "look")
    stage.ended("look")
    assert fake.duties.get("heater", 0.0) == 1
    stage.tell(25.3)
    eventually(lambda: fake.duties.get("heater", 0.0) == 0, "the heater off")
    hand(stage, "heater")
    eventually(lambda: fake.duties.get("heater", 0.0) == 0, "the heater off again")


def test_the_thermostat_says_when_the_heater_has_no_longest_time_on(stage: CoreStage) -> None:
    stage.fake(**TANK)
    stage.tell(25.0)
    start(stage, "thermostat", {"water": WATER}, poll=0.1)
    assert told(stage, "thermostat", "set longest_on")["severity"] == "warning"
    stage.fail("a bad checksum")
    stage.becomes("thermostat", "waiting")
    stage.tell(25.0)
    stage.becomes("thermostat", "running")
    assert stage.good("scenario", "output", "thermostat")["output"].count("longest_on") == 1
    stage.configure("heater", longest_on=600.0)
    stage.good("scenario", "disable", "thermostat")
    stage.ended("thermostat", 2)
    stage.good("scenario", "enable", "thermostat")
    stage.becomes("thermostat", "running")
    stage.tell(24.0)
    eventually(lambda: stage.tank.executive.duties.get("heater", 0.0) == 1, "the heater on")
    assert stage.good("scenario", "output", "thermostat")["output"].count("longest_on") == 1


def test_filling_goes_on_after_a_bad_reading_and_its_limit_holds(stage: CoreStage) -> None:
    fake = stage.fake(**TANK)
    stage.tell(95.0, LEVEL)
    entry = {"key": LEVEL, "fire": {"below": 85.0, "hysteresis": 5.0}}
    start(stage, "filling", {"level": entry}, until=95.0, poll=0.2, lease=3, minutes=0.015)
    stage.tell(80.0, LEVEL)
    event = flicker(
        stage, "pump", 80.0, LEVEL, lambda: (stage.tree("/event/notify/filling") or {}).get("severity") == "critical"
    )
    assert event
    told(stage, "filling", "not full after 0.015 minutes")
    shown = stage.becomes("filling", "idle", "finished")
    assert shown["runs"] > 1
    assert fake.duties.get("pump", 0.0) == 0
    # It was full by hand: all is as at the beginning.
    stage.tell(95.0, LEVEL)
    stage.tell(80.0, LEVEL)
    eventually(lambda: fake.duties.get("pump", 0.0) == 1, "the pump on again")
    stage.tell(95.0, LEVEL)
    assert stage.ended("filling", shown["runs"] + 1)["how"] == "finished"
    assert stage.state("filling") == "idle"


def test_filling_ends_at_its_level(stage: CoreStage) -> None:
    fake = stage.fake(level=80.0, flow=10.0, **TANK)
    entry = {"key": "fake.tank/level", "fire": {"below": 85.0, "hysteresis": 5.0, "for": 0.3}}
    start(stage, "filling", {"level": entry}, until=95.0, poll=0.5)
    eventually(lambda: fake.duties.get("pump", 0.0) == 1, "the pump on")
    assert stage.ended("filling")["how"] == "finished"
    assert fake.duties.get("pump", 0.0) == 0
    # 2.8 % a second.
    assert 95 <= level(stage) < 99
    shown = stage.good("scenario", "show", "filling")
    assert (shown["runs"], shown["cause"]["by"]) == (1, "threshold")
    stage.configure("tank", level=79.0)
    assert stage.ended("filling", 2)["how"] == "finished"


def test_filling_ends_at_its_time_limit_and_is_not_tried_again(stage: CoreStage) -> None:
    fake = stage.fake(level=80.0, flow=0.01, **TANK)
    entry = {"key": "fake.tank/level", "fire": {"below": 85.0, "hysteresis": 5.0}}
    start(stage, "filling", {"level": entry}, minutes=0.03, poll=0.2)
    assert stage.ended("filling")["how"] == "finished"
    told(stage, "filling", "not full after 0.03 minutes")
    assert fake.duties.get("pump", 0.0) == 0
    stage.restart()
    stage.configure("tank", level=79.0)
    eventually(lambda: level(stage) < 80)
    stage.call(lambda core: None)
    assert stage.good("scenario", "show", "filling")["runs"] == 0
    # Full by hand, and low again: now it may.
    stage.configure("tank", level=95.0)
    eventually(lambda: level(stage) > 94)
    stage.configure("tank", level=80.0, flow=20.0)
    assert stage.ended("filling")["how"] == "finished"


def test_the_light_follows_the_day(stage: CoreStage, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = stage.fake(**TANK)
    # It is noon here, so that today is today for as long as this takes.
    shift = time.gmtime().tm_hour - 12
    monkeypatch.setenv("TZ", f"TST{shift:+d}")
    stage.restart()

    def text(moment: float) -> str:
        return time.strftime("%H:%M:%S", time.gmtime(moment - 3600 * shift))

    now = time.time()
    start(stage, "daylight", sunrise=text(now + 2), sunset=text(now + 10), step=0.1, lease=3, peak=90, lowest=5)
    levels: list[float] = []
    end = time.monotonic() + LIMIT
    while stage.state("daylight") == "running" or not levels:
        assert time.monotonic() < end, levels
        found = fake.duties.get("light", 0.0)
        if found and (not levels or found != levels[-1]):
            levels.append(found)
        time.sleep(0.02)
    stage.becomes("daylight", "idle", "finished")
    peak = levels.index(max(levels))
    assert 0.85 < levels[peak] <= 0.9
    assert levels[: peak + 1] == sorted(levels[: peak + 1])
    assert levels[peak:] == sorted(levels[peak:], reverse=True)
    assert len(levels) > 10
    assert fake.duties.get("light", 0.0) == 0


def test_the_light_needs_to_know_the_sun(stage: CoreStage) -> None:
    start(stage, "daylight")
    stage.becomes("daylight", "waiting", "ScenarioError: no sunrise: give latitude and longitude in [core]")


def test_a_scenario_knows_the_sun_of_its_place() -> None:
    with core_stage(timezone="Europe/Paris", latitude=48.86, longitude=2.35) as stage:
        stage.make("one", "sun = cause['sun']\nprint(sun['dawn'] < sun['sunrise'] < sun['noon'] < sun['sunset'])")
        stage.good("scenario", "run", "one")
        stage.printed("one", "True")
    with core_stage(timezone="UTC", latitude=89.9, longitude=0.0) as stage:
        stage.make("one", "print(cause['sun']['sunrise'], 'is no time')")
        stage.good("scenario", "run", "one")
        assert stage.ended("one")["how"] == "finished"
