"""raspy.servers.fake: a simulated sensor lies, fails and dawdles exactly as its owner told it to."""

from __future__ import annotations

import time
from typing import Any

import pytest

from raspy.common.devices.errors import ReadingError
from raspy.common.devices.value import Value
from raspy.servers.fake import Fake
from raspy.servers.fake.sensors import FakeWind, SensorLinear
from raspy.servers.fake.simulated import SimulatedSensor
from raspy.servers.fake.tank import SensorTank
from tests.support_devices import ask, broker, follow, reading, short_directory, started, until


def ramp(**settings: Any) -> SensorLinear:
    """A sensor whose value is the seconds since time zero."""
    return SensorLinear.new({"name": "a", "rate": 3600, "maximum": 1e6, **settings})


def read(sensor: SimulatedSensor) -> Value:
    """One reading, as the server takes it."""
    try:
        sensor.update(sensor.do_poll())
    except ReadingError as error:
        sensor.update(error)
    found = next(iter(sensor.values())).reading
    assert found is not None
    return found


def test_frozen_the_reading_stays_what_it_was_and_looks_fresh() -> None:
    sensor = ramp()
    sensor.zero -= 100
    sensor.configure({"fault": "freeze"})
    frozen = read(sensor)
    assert 100 <= frozen.number() < 110
    sensor.zero -= 1000
    later = read(sensor)
    assert later.number() == frozen.number()
    assert (later.quality, later.max_age) == ("ok", 6)
    assert later.time >= frozen.time
    sensor.configure({"label": "still the same"})
    assert read(sensor).number() == frozen.number()
    sensor.configure({"fault": "none"})
    assert 1100 <= read(sensor).number() < 1110


def test_the_water_goes_on_while_its_sensor_is_frozen() -> None:
    tank = SensorTank.new({"name": "tank", "fault": "freeze"})
    tank.duties = {"heater": 1.0}
    tank.turn(0)
    tank.zero -= 3600
    assert read(tank).number() == 95
    assert tank.commands["temperature"].value == 25
    assert tank.details()["temperature"] > 27
    tank.configure({"fault": "none"})
    read(tank)
    assert tank.commands["temperature"].value > 27


@pytest.mark.parametrize(("every", "hit"), [(0, range(1, 13)), (1, range(1, 13)), (4, (4, 8, 12))])
def test_dropped_readings_are_errors(every: int, hit: Any) -> None:
    sensor = ramp()
    for _ in range(5):
        read(sensor)
    sensor.configure({"fault": "drop", "fault_every": every})
    for number in range(1, 13):
        found = read(sensor)
        assert found.quality == ("error" if number in hit else "ok")
        if number in hit:
            assert found.reason == "simulated fault: the reading was dropped"


@pytest.mark.parametrize(("every", "hit"), [(0, (10, 20)), (1, range(1, 22)), (7, (7, 14, 21))])
@pytest.mark.parametrize("size", [5, -40])
def test_spikes_are_at_exactly_defined_readings(every: int, hit: Any, size: float) -> None:
    sensor = ramp(rate=0, start=50)
    for _ in range(3):
        read(sensor)
    sensor.configure({"fault": "spike", "fault_every": every, "fault_size": size})
    for number in range(1, 22):
        assert read(sensor).number() == (50 + size if number in hit else 50)


def test_a_spike_stays_in_the_range_that_the_sensor_has() -> None:
    wind = FakeWind.new({"name": "a", "turn": 0, "fault": "spike", "fault_every": 1, "fault_size": -500})
    assert wind.do_poll() == {"speed": 0, "direction": 0}
    wind.configure({"fault_size": 500})
    assert wind.do_poll()["direction"] == 360
    assert wind.do_poll()["speed"] >= 501


def test_the_count_begins_when_the_fault_is_set_and_when_the_simulation_starts_anew() -> None:
    sensor = ramp(rate=0, fault="drop", fault_every=3)
    assert [read(sensor).quality for _ in range(4)] == ["ok", "ok", "error", "ok"]
    sensor.configure({"poll": 5})
    assert [read(sensor).quality for _ in range(2)] == ["ok", "error"]
    sensor.configure({"fault_every": 2})
    assert [read(sensor).quality for _ in range(2)] == ["ok", "error"]
    read(sensor)
    sensor.exec_cmd("", "reset", "")
    assert [read(sensor).quality for _ in range(2)] == ["ok", "error"]


def test_a_delayed_reading_takes_its_time_and_is_that_of_its_beginning() -> None:
    sensor = ramp(fault="delay", fault_size=0.2)
    assert sensor.slow
    early = time.monotonic()
    begun = sensor.elapsed
    value = sensor.do_poll()["value"]
    assert time.monotonic() - early >= 0.2
    assert begun - 0.001 <= value < sensor.elapsed - 0.2 + 0.001
    sensor.configure({"fault": "none"})
    assert not sensor.slow


def test_a_delayed_reading_holds_up_neither_the_others_nor_the_loop() -> None:
    with short_directory() as directory, started(Fake(hostname="pi", broker_ip=f"ipc://{directory}")) as server:
        until(server, lambda: reading(server, "tank", "level") and reading(server, "wind", "speed"))
        other = server.devices["wind"]
        server.devices["tank"].timeout = 600
        assert ask(server, "exec", "wind", "poll", "0.1")[1] == "200"
        assert ask(server, "exec", "tank", "config", '{"poll": 0.1, "fault": "delay", "fault_size": 600}')[1] == "200"
        # One that was begun before may have come meanwhile.
        before = reading(server, "tank", "level")
        seen: set[float] = set()

        def others_are_read() -> bool:
            found = other.commands["speed"].reading
            assert found is not None
            seen.add(found.time)
            return len(seen) > 5

        until(server, others_are_read)
        assert reading(server, "tank", "level") is before
        assert ask(server, "exec", "tank", "config", '{"fault_size": 0.2}')[1] == "200"
        until(server, lambda: reading(server, "tank", "level") is not before)
        after = reading(server, "tank", "level")
        assert after is not None
        assert after.quality == "ok"


def test_a_delay_longer_than_the_time_limit_is_a_read_that_hangs_and_ends_with_the_fault() -> None:
    with broker() as broker_ip, started(Fake(hostname="pi", broker_ip=broker_ip)) as server:
        tree = follow(server)
        key = "/device/pi.fake.tank/level"
        until(server, lambda: key in tree)
        server.devices["tank"].timeout = 0.2
        settings = '{"poll": 0.1, "fault": "delay", "fault_size": 600}'
        assert ask(server, "exec", "tank", "config", settings)[1] == "200"
        until(server, lambda: Value.decode(tree[key]).quality == "error")
        assert Value.decode(tree[key]).reason == "no answer within 0.2 s: the read hangs"
        assert server.pool.hung >= 1
        assert ask(server, "exec", "tank", "config", '{"fault": "none"}')[1] == "200"
        until(server, lambda: Value.decode(tree[key]).quality == "ok")
        until(server, lambda: server.pool.hung == 0)
