"""raspy.servers.fake: the simulated sensors say what the documentation tells, whenever and however often asked."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raspy.common.devices.device import BaseDevice
from raspy.servers.fake.sensors import FakeWind, SensorCyclic, SensorLinear
from raspy.servers.fake.signals import cyclic, direction, linear
from raspy.servers.fake.simulated import SimulatedSensor


@pytest.mark.parametrize(
    ("elapsed", "value"), [(0, 24), (150, 25), (300, 26), (450, 25), (600, 24), (900, 26), (6000300, 26)]
)
def test_cyclic(elapsed: float, value: float) -> None:
    assert cyclic(elapsed, 600, 24, 26) == pytest.approx(value)


@given(st.floats(0, 1e9), st.floats(1, 1e6), st.floats(-55, 125), st.floats(0, 100))
def test_cyclic_stays_in_its_range(elapsed: float, period: float, low: float, span: float) -> None:
    assert low - 1e-9 <= cyclic(elapsed, period, low, low + span) <= low + span + 1e-9


@given(st.floats(0, 300), st.floats(0, 300))
def test_cyclic_rises_to_half_a_period(one: float, other: float) -> None:
    early, late = sorted((one, other))
    assert cyclic(early, 600, 24, 26) <= cyclic(late, 600, 24, 26) + 1e-12


@pytest.mark.parametrize(("elapsed", "value"), [(0, 95), (3600, 93), (1800, 94), (1e9, 0)])
def test_linear(elapsed: float, value: float) -> None:
    assert linear(elapsed, 95, -2, 0, 100) == pytest.approx(value)


def test_linear_upwards_ends_at_the_top() -> None:
    assert linear(7200, 50, 10, 0, 100) == pytest.approx(70)
    assert linear(1e9, 50, 10, 0, 100) == 100


@pytest.mark.parametrize(
    ("elapsed", "start", "turn", "degrees"),
    [
        (0, 270, 3600, 270),
        (900, 270, 3600, 0),
        (1800, 270, 3600, 90),
        (900, 270, -3600, 180),
        (5, 360, 0, 0),
        (1e-12, 0, -1e9, 0),
    ],
)
def test_direction(elapsed: float, start: float, turn: float, degrees: float) -> None:
    assert direction(elapsed, start, turn) == pytest.approx(degrees)


@given(st.floats(0, 1e9), st.floats(0, 360), st.floats(-1e9, 1e9))
def test_direction_is_below_a_full_turn(elapsed: float, start: float, turn: float) -> None:
    assert 0 <= direction(elapsed, start, turn) < 360


def test_a_cyclic_sensor_swings_between_its_settings() -> None:
    sensor = SensorCyclic.new({"name": "a", "minimum": 8, "maximum": 22, "period": 600, "unit": "°C"})
    for elapsed in (0, 1, 17.5, 150, 300, 433, 600, 86400.25):
        expected = 15 - 7 * math.cos(elapsed * 2 * math.pi / 600)
        assert sensor.at(elapsed) == {"value": pytest.approx(expected, abs=0.0006)}
    assert sensor.at(300) == {"value": 22}
    assert sensor.commands["value"].unit == "°C"


def test_a_linear_sensor_rises_by_its_rate() -> None:
    sensor = SensorLinear.new({"name": "a", "start": 10, "rate": 30, "unit": "%"})
    assert [sensor.at(elapsed)["value"] for elapsed in (0, 60, 3600, 10_800, 1e7)] == [10, 10.5, 40, 100, 100]


def test_wind_swings_and_turns() -> None:
    wind = FakeWind.new({"name": "a", "calm": 1, "gust": 8, "period": 120, "direction": 350, "turn": 360})
    assert wind.at(0) == {"speed": 1, "direction": 350}
    assert wind.at(60) == {"speed": 8, "direction": 50}
    assert wind.at(30) == {"speed": 4.5, "direction": 20}


@pytest.mark.parametrize("kind", [SensorCyclic, SensorLinear, FakeWind])
def test_a_value_does_not_depend_on_how_often_it_is_read(kind: type[SimulatedSensor]) -> None:
    often, seldom = kind.new({"name": "often", "poll": 0.1}), kind.new({"name": "seldom", "poll": 60})
    for tenths in range(6000):
        value = often.at(tenths / 10)
        if tenths % 600 == 0:
            assert value == seldom.at(tenths / 10)


@pytest.mark.parametrize("kind", [SensorCyclic, SensorLinear, FakeWind])
def test_a_reading_is_the_value_of_its_time(kind: type[SimulatedSensor]) -> None:
    sensor = kind.new({"name": "a", "period": 0.5} if kind is not SensorLinear else {"name": "a", "rate": 1e8})
    sensor.zero -= 0.01
    for _ in range(50):
        early = sensor.elapsed
        found = sensor.do_poll()
        late = sensor.elapsed
        for name, value in found.items():
            # whatever the curve does meanwhile, it is on it at some time between the two
            between = [sensor.at(early + (late - early) * part / 200)[name] for part in range(201)]
            assert min(between) - 0.01 <= value <= max(between) + 0.01


def test_a_reset_is_time_zero() -> None:
    sensor = SensorLinear.new({"name": "a", "rate": 1e8})
    sensor.zero -= 100
    assert sensor.do_poll() == {"value": 100}
    sensor.exec_cmd("", "reset", "")
    assert sensor.elapsed < 100
    assert sensor.at(0) == {"value": 0}


def test_a_unit_follows_the_settings() -> None:
    sensor = SensorCyclic.new({"name": "a"})
    sensor.update({"value": 1})
    sensor.configure({"unit": "bar"})
    sensor.update({"value": 1})
    reading = sensor.commands["value"].reading
    assert reading is not None
    assert reading.unit == "bar"


@pytest.mark.parametrize(
    ("kind", "fields", "at_fault"),
    [
        (SensorCyclic, {"period": 0}, "period"),
        (SensorCyclic, {"minimum": 3, "maximum": 2}, "minimum"),
        (SensorCyclic, {"unit": "a\nb"}, "unit"),
        (SensorLinear, {"start": 101}, "start"),
        (SensorLinear, {"rate": float("nan")}, "rate"),
        (FakeWind, {"calm": 9}, "calm"),
        (FakeWind, {"direction": 361}, "direction"),
        (FakeWind, {"fault": "smoke"}, "fault"),
        (FakeWind, {"fault": "delay", "fault_size": -1}, "fault_size"),
        (FakeWind, {"fault": "delay", "fault_size": 601}, "fault_size"),
        (FakeWind, {"fault_every": -1}, "fault_every"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(
    kind: type[BaseDevice], fields: dict[str, object], at_fault: str
) -> None:
    assert list(kind.check({"name": "a", **fields})) == [at_fault]


@pytest.mark.parametrize("kind", [SensorCyclic, SensorLinear, FakeWind])
def test_json_both_ways(kind: type[BaseDevice]) -> None:
    device = kind.new({"name": "a", "fault": "spike", "fault_size": -3, "fault_every": 7, "poll": 5, "log": False})
    assert kind.new(device.json).json == device.json
