"""The scenarios that come with RasPy, on the simulated tank: they hold their targets, and what goes wrong is found."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.bus import eventually
from tests.conftest import COUNTED
from tests.servers.core_stage import CoreStage, core_stage

TANK = {"poll": 0.1, "speed": 200.0, "volume": 20.0, "power": 200.0, "level_rate": 0.0}
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
    return float(stage.call(lambda core: core.values.read("/device/pi.fake.tank/level").value))


def output(stage: CoreStage, name: str) -> dict[str, Any]:
    return dict(stage.tree(f"/event/output/pi.fake.{name}") or {})


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
    told = eventually(lambda: stage.tree("/event/notify/thermostat"))
    assert told["severity"] == "critical"
    assert "did not rise" in told["text"]
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
    told = eventually(lambda: stage.tree("/event/notify/thermostat"))
    assert "it was on for its longest time" in told["text"]
    assert fake.duties.get("heater", 0.0) == 0
    assert stage.state("thermostat") == "running"
    stage.configure("heater", longest_on=20.0)
    assert fake.duties.get("heater", 0.0) == 0
    stage.configure("tank", fault="none")
    eventually(lambda: fake.duties.get("heater", 0.0) == 1, "the heater on again")


def test_filling_ends_at_its_level(stage: CoreStage) -> None:
    fake = stage.fake(level=80.0, flow=20.0, **TANK)
    entry = {"key": "fake.tank/level", "fire": {"below": 85.0, "hysteresis": 5.0, "for": 0.3}}
    start(stage, "filling", {"level": entry}, until=95.0, poll=0.5)
    eventually(lambda: fake.duties.get("pump", 0.0) == 1, "the pump on")
    assert stage.ended("filling")["how"] == "finished"
    assert fake.duties.get("pump", 0.0) == 0
    # 5.6 % a second.
    assert 95 <= level(stage) < 99
    told = stage.good("scenario", "show", "filling")
    assert (told["runs"], told["cause"]["by"]) == (1, "threshold")
    stage.configure("tank", level=79.0)
    assert stage.ended("filling", 2)["how"] == "finished"


def test_filling_ends_at_its_time_limit_and_is_not_tried_again(stage: CoreStage) -> None:
    fake = stage.fake(level=80.0, flow=0.01, **TANK)
    entry = {"key": "fake.tank/level", "fire": {"below": 85.0, "hysteresis": 5.0}}
    start(stage, "filling", {"level": entry}, minutes=0.03, poll=0.2)
    assert stage.ended("filling")["how"] == "finished"
    told = eventually(lambda: stage.tree("/event/notify/filling"))
    assert "not full after 0.03 minutes" in told["text"]
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
