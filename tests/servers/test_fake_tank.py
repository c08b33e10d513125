"""raspy.servers.fake.tank: the simulated water follows the physics that the documentation tells.

What is expected is worked out here from docs/fake.rst: by its formulas, and by adding up small steps.
"""

from __future__ import annotations

import math
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raspy.servers.fake.simulated import SimulatedSettings
from raspy.servers.fake.tank import SensorTank, TankSettings, Water

DOCS = (Path(__file__).parents[2] / "docs" / "fake.rst").read_text(encoding="utf-8")
HOUR = 3600.0
PER_LITRE = 4186.0


def stepped(
    config: TankSettings, temperature: float, litres: float, seconds: float, heater: float, pump: float, steps: int
) -> tuple[float, float]:
    """Temperature and litres by small steps of the two balances, each by the midpoint rule."""
    step = seconds / steps
    inflow = max(config.flow, 0) * pump / HOUR
    outflow = max(-config.flow, 0) * pump / HOUR
    vapour = -config.level_rate / 100 * config.volume / HOUR
    rest = config.volume * 0.05

    def slope(temperature: float, litres: float) -> float:
        to_room = (config.loss + PER_LITRE * inflow) * (temperature - config.room)
        return (config.power * heater - to_room) / (PER_LITRE * litres)

    for _ in range(steps):
        after = min(max(litres + (inflow - outflow - vapour) * step, rest), config.volume)
        middle = temperature + slope(temperature, litres) * step / 2
        temperature += slope(middle, (litres + after) / 2) * step
        temperature = min(max(temperature, 0), 100)
        litres = after
    return temperature, litres


def tank(**settings: object) -> SensorTank:
    made = SensorTank.new({"name": "tank", "speed": 1, **settings})
    made.duties = {}
    return made


def test_heater_off_it_cools_towards_the_room() -> None:
    cooling = tank(temperature=30, level=100, level_rate=0)
    tau = 4186 * 100 / 10
    for hours in (0, 0.5, 1, 5, 11.6, 48):
        expected = 20 + (30 - 20) * math.exp(-hours * HOUR / tau)
        assert cooling.at(hours * HOUR)["temperature"] == pytest.approx(expected, abs=0.0006)


def test_heater_on_it_warms_towards_the_temperature_that_the_power_holds() -> None:
    warming = tank(temperature=20, level=100, level_rate=0)
    warming.duties = {"heater": 1.0}
    warming.turn(0)
    tau = 4186 * 100 / 10
    for hours in (0, 1, 5, 11.6, 48):
        expected = 20 + 10 * (1 - math.exp(-hours * HOUR / tau))
        assert warming.at(hours * HOUR)["temperature"] == pytest.approx(expected, abs=0.0006)
    # by hand: 100 W warm 100 L by 0.86 K in the first hour, less what is lost
    assert warming.at(HOUR)["temperature"] == pytest.approx(20.86 - 0.04, abs=0.01)


def test_without_loss_the_heat_stays() -> None:
    warming = tank(temperature=20, level=50, level_rate=0, loss=0)
    warming.duties = {"heater": 0.5}
    warming.turn(0)
    assert warming.at(HOUR)["temperature"] == pytest.approx(20 + 50 * 3600 / (4186 * 50), abs=0.0006)
    assert warming.at(1e7)["temperature"] == 100


def test_water_evaporates_down_to_the_rest() -> None:
    drying = tank(level=95, level_rate=-1)
    assert [drying.at(hours * HOUR)["level"] for hours in (0, 1, 10.5, 89.5, 90, 1000)] == [95, 94, 84.5, 5.5, 5, 5]


def test_the_pump_moves_the_level_up_to_the_brim_and_down_to_the_rest() -> None:
    filling = tank(level=50, level_rate=-1, flow=6)
    filling.duties = {"pump": 1.0}
    filling.turn(0)
    assert [filling.at(hours * HOUR)["level"] for hours in (0, 2, 10, 11)] == [50, 60, 100, 100]
    emptying = tank(level=50, level_rate=0, flow=-60, volume=200)
    emptying.duties = {"pump": 0.5}
    emptying.turn(0)
    assert [emptying.at(hours * HOUR)["level"] for hours in (0, 1, 3, 4)] == [50, 35, 5, 5]


def test_what_is_pumped_in_cools() -> None:
    mixing = tank(temperature=30, level=50, level_rate=0, loss=0, flow=10)
    mixing.duties = {"pump": 1.0}
    mixing.turn(0)
    # 50 L at 30 °C and 10 L at 20 °C
    assert mixing.at(HOUR)["temperature"] == pytest.approx((50 * 30 + 10 * 20) / 60, abs=0.0006)


@given(
    temperature=st.floats(0, 60),
    level=st.floats(5, 100),
    level_rate=st.floats(-20, 0),
    flow=st.floats(-50, 50),
    power=st.floats(0, 500),
    loss=st.floats(0, 50),
    room=st.floats(5, 40),
    heater=st.floats(0, 1),
    pump=st.floats(0, 1),
    hours=st.floats(0, 12),
)
def test_the_solution_is_what_small_steps_add_up_to(
    temperature: float, hours: float, heater: float, pump: float, **settings: float
) -> None:
    water = tank(temperature=temperature, **settings)
    config = water._tank
    found = water.stretch.water.after(hours * HOUR, config, heater, pump)
    expected, litres = stepped(
        config, temperature, config.level / 100 * config.volume, hours * HOUR, heater, pump, steps=2000
    )
    assert found.litres == pytest.approx(litres, abs=1e-6)
    assert found.temperature == pytest.approx(expected, abs=0.02)


@given(
    parts=st.lists(st.floats(0, 50_000), min_size=2, max_size=8),
    heater=st.floats(0, 1),
    pump=st.floats(0, 1),
    flow=st.floats(-100, 100),
    level_rate=st.floats(-10, 0),
)
def test_going_in_parts_comes_to_the_same(
    parts: list[float], heater: float, pump: float, flow: float, level_rate: float
) -> None:
    config = tank(flow=flow, level_rate=level_rate)._tank
    start = Water(0.0, 25.0, 80.0)
    whole = start.after(sum(parts), config, heater, pump)
    water = start
    for part in parts:
        water = water.after(part, config, heater, pump)
    assert water.temperature == pytest.approx(whole.temperature, abs=1e-7)
    assert water.litres == pytest.approx(whole.litres, abs=1e-7)
    assert water.energy == pytest.approx(whole.energy)


@pytest.mark.parametrize("rate", [-5e-324, -1e-300, -1e-18, -1e-9])
def test_hardly_any_evaporation_is_none(rate: float) -> None:
    slow, still = tank(level_rate=rate), tank(level_rate=0)
    assert slow.at(86_400) == still.at(86_400)
    assert still.at(86_400)["temperature"] < 24


def test_a_history_of_switching_is_the_same_however_often_it_is_read() -> None:
    history = [
        (100.0, {"heater": 1.0}),
        (7000.0, {"heater": 1.0, "pump": 1.0}),
        (9000.5, {"pump": 0.25}),
        (30_000.0, {}),
    ]
    found = []
    for step in (0.0, 7.0, 1000.0):
        read = tank(level_rate=-0.5)
        ends = [*(begin for begin, _ in history), 60_000.0]
        now = 0.0
        for end, duties in zip(ends, [*(duties for _, duties in history), {}], strict=True):
            while step and now < end:
                read.at(now)
                now += step
            read.duties = duties
            read.turn(end)
        found.append([read.at(moment) for moment in (60_000.0, 60_001.5, 90_000.0)])
    assert found[0] == found[1] == found[2]


def test_a_history_of_switching_by_the_formula() -> None:
    switched = tank(level=100, level_rate=0, temperature=25)
    tau, expected, now = 4186 * 100 / 10, 25.0, 0.0
    for begin, end, duty in ((0, 100, 0), (100, 5000, 1), (5000, 5001, 0), (5001, 40_000, 0.5), (40_000, 90_000, 0)):
        switched.duties = {"heater": duty}
        switched.turn(begin)
        goal = 20 + 100 * duty / 10
        for now in (begin, (begin + end) / 2, end):
            assert switched.at(now)["temperature"] == pytest.approx(
                goal + (expected - goal) * math.exp(-(now - begin) / tau), abs=0.0006
            )
        expected = goal + (expected - goal) * math.exp(-(end - begin) / tau)
    assert switched.stretch.at(now).energy == pytest.approx(100 * (4900 + 0.5 * 34_999))


def test_an_on_off_rule_has_the_period_that_the_documentation_tells() -> None:
    """With a rule that looks once in a simulated second, the cycle is the formula's, to a few seconds."""
    low, high = 24.5, 25.5
    ruled = tank(level=100, level_rate=0, temperature=24.5)
    tau = 4186 * 100 / 10
    on_for = tau * math.log((30 - low) / (30 - high))
    off_for = tau * math.log((high - 20) / (low - 20))
    switches: list[tuple[float, bool]] = []
    on = False
    for second in range(60_000):
        water = ruled.stretch.at(second)
        wanted = True if water.temperature <= low else False if water.temperature >= high else on
        assert low - 0.001 < water.temperature < high + 0.001
        if wanted != on:
            on = wanted
            switches.append((second, on))
            ruled.duties = {"heater": float(on)}
            ruled.turn(second)
    assert len(switches) == 8
    for (begin, was_on), (end, _) in pairwise(switches):
        assert end - begin == pytest.approx(on_for if was_on else off_for, abs=3)
    assert on_for + off_for == pytest.approx(4.67 * HOUR, rel=0.01)


def test_speed_is_a_factor_of_time() -> None:
    one, fast = tank(), tank(speed=60)
    for elapsed in (0.0, 60.0, 3600.0, 86_400.0):
        assert fast.at(elapsed / 60) == one.at(elapsed)


def test_the_defaults_are_those_of_the_documentation() -> None:
    rows = re.findall(r"^``(\w+)`` +(-?[\d.]+|heater|pump)  ", DOCS.split("The tank\n----")[1], re.M)
    own = set(TankSettings.__struct_fields__) - set(SimulatedSettings.__struct_fields__)
    assert {name for name, _ in rows} == own
    config = SensorTank.new({"name": "tank"})._tank
    for name, default in rows:
        assert str(getattr(config, name)).removesuffix(".0") == default, name


def test_the_table_of_predictions_is_right() -> None:
    rows = re.findall(r"^(\d+)[^°]{,22}? +([\d.]+) °C +([\d.]+) °C$", DOCS, re.M)
    assert [hours for hours, _, _ in rows] == ["0", "1", "10", "60"]
    for duty, column in ((1.0, 1), (0.0, 2)):
        water = SensorTank.new({"name": "tank"})
        water.duties = {"heater": duty}
        water.turn(0)
        for row in rows:
            assert water.at(int(row[0]) * 60)["temperature"] == pytest.approx(float(row[column]), abs=0.0051)


def test_settings_changed_on_the_way_change_what_comes_and_not_what_was() -> None:
    changed, same = tank(), tank()
    for each in (changed, same):
        each.zero -= 5000
    changed.configure({"speed": 100})
    changed.configure({"speed": 1, "power": 500, "label": "Reef"})
    assert changed.stretch.begin == pytest.approx(5000, abs=5)
    now = changed.stretch.begin
    assert changed.stretch.at(now).temperature == pytest.approx(same.stretch.at(now).temperature, abs=0.01)
    assert changed.stretch.at(now).litres == pytest.approx(same.stretch.at(now).litres, abs=0.01)


def test_temperature_and_level_can_be_set() -> None:
    water = tank(level_rate=0)
    water.configure({"temperature": 31})
    assert water.at(water.stretch.begin) == {"temperature": 31, "level": 95}
    water.configure({"level": 40})
    assert water.at(water.stretch.begin) == {"temperature": pytest.approx(31, abs=0.01), "level": 40}
    water.configure({"volume": 50})
    assert water.stretch.water.litres == pytest.approx(20)
    assert water.at(water.stretch.begin)["level"] == 40


def test_another_output_can_be_its_heater() -> None:
    water = tank()
    water.duties = {"heater": 1.0, "kettle": 0.25}
    water.turn(0)
    assert (water.stretch.heater, water.stretch.pump) == (1, 0)
    water.configure({"heater": "kettle", "pump": "heater"})
    assert (water.stretch.heater, water.stretch.pump) == (0.25, 1)


def test_a_reset_starts_anew_with_what_is_switched_on() -> None:
    water = tank()
    water.duties = {"heater": 1.0}
    water.zero -= 50_000
    water.turn()
    water.exec_cmd("", "reset", "")
    assert water.stretch.at(0) == Water(0.0, 25.0, 95.0)
    assert water.stretch.heater == 1
    assert water.elapsed < 50


def test_two_tanks_with_the_same_settings_agree() -> None:
    one, other = (SensorTank.new({"name": name, "volume": 60, "level": 30}) for name in ("one", "other"))
    for elapsed in (0, 1.5, 17, 30, 1e6):
        assert one.at(elapsed) == other.at(elapsed)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1),
        ("temperature", float("nan")),
        ("level", 4),
        ("level", 101),
        ("level_rate", 1),
        ("volume", 0),
        ("power", -1),
        ("loss", float("inf")),
        ("speed", 0),
        ("heater", "../x"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(field: str, value: object) -> None:
    assert list(SensorTank.check({"name": "t", field: value})) == [field]


@given(
    st.floats(0.001, 1e5),
    st.floats(0, 1e6),
    st.floats(0, 1e6),
    st.floats(0.1, 1e6),
    st.floats(-1e6, 1e6),
    st.floats(-1000, 0),
    st.floats(0, 1e9),
)
def test_whatever_the_settings_the_water_is_water(
    speed: float, power: float, loss: float, volume: float, flow: float, level_rate: float, elapsed: float
) -> None:
    water = tank(speed=speed, power=power, loss=loss, volume=volume, flow=flow, level_rate=level_rate)
    water.duties = {"heater": 1.0, "pump": 1.0}
    water.turn(0)
    found = water.at(elapsed)
    assert 0 <= found["temperature"] <= 100
    assert 5 <= found["level"] <= 100


def test_json_both_ways() -> None:
    device = SensorTank.new({"name": "tank", "volume": 60, "level": 50, "pump": ""})
    assert SensorTank.new(device.json).json == device.json
