"""raspy.servers.fake: the simulated aquarium can be predicted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raspy.common.config import Config, ConfigError
from raspy.common.devices.value import Value
from raspy.servers.fake import Fake, FakeConfig, SensorTank, cyclic, linear
from tests.support_devices import ask, broker, follow, short_directory, started, until


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


def test_two_tanks_with_the_same_settings_agree() -> None:
    one = SensorTank.new({"name": "one", "period": 60, "temperature_max": 30})
    other = SensorTank.new({"name": "other", "period": 60, "temperature_max": 30})
    for elapsed in (0, 1.5, 17, 30, 1e6):
        assert one.at(elapsed) == other.at(elapsed)
    assert one.at(30)["temperature"] == 30


def test_a_tank_is_json_both_ways_and_checks_its_settings() -> None:
    tank = SensorTank.new({"name": "tank", "period": 60, "level": 50})
    assert SensorTank.new(tank.json).json == tank.json
    assert list(SensorTank.check({"name": "t", "temperature_min": 30})) == ["temperature_min"]
    assert list(SensorTank.check({"name": "t", "period": 0})) == ["period"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("period", 0),
        ("period", -5),
        ("level", 101),
        ("poll", 0),
        ("temperature_min", 30),
        ("level_rate", float("nan")),
        ("temperature_max", float("nan")),
        ("period", float("inf")),
    ],
)
def test_configuration_that_cannot_be_is_refused_by_its_key(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=key):
        Config({"fake": {key: value}}).section(FakeConfig)


def test_its_values_are_on_the_tree() -> None:
    config = Config({"bus": {"hostname": "pi"}, "fake": {"poll": 0.1, "period": 3600, "level_rate": 0}})
    with broker() as broker_ip:
        config.tables["bus"]["broker_ip"] = broker_ip
        with started(Fake.from_config(config)) as server:
            tree = follow(server)
            until(server, lambda: len(tree) == 2)
            temperature = Value.decode(tree["/device/pi.fake.tank/temperature"])
            level = Value.decode(tree["/device/pi.fake.tank/level"])
            assert 24 <= temperature.number() < 24.1
            assert temperature.unit == "°C"
            assert (level.number(), level.unit) == (95, "%")
            until(server, lambda: Value.decode(tree["/device/pi.fake.tank/level"]).time > level.time)


def test_verbs() -> None:
    with short_directory() as directory, started(Fake(hostname="pi", broker_ip=f"ipc://{directory}")) as server:
        until(server, lambda: server.devices["tank"].commands["level"].reading)
        assert ask(server, "list_keys") == (["tank"], "200")
        assert ask(server, "info", "tank")[0]["oid"] == "sensor.tank"
        assert ask(server, "exec", "pi.fake.tank", "level")[0]["value"] == 95.0
        assert ask(server, "exec", "tank", "level", "5")[1] == "400"
        assert ask(server, "exec", "tank", "config", '{"period": 10}')[0]["period"] == 10
        assert ask(server, "exec", "tank", "config", '{"period": 0}')[1] == "400"
        assert list(ask(server, "template")[0]) == ["sensor.tank"]
