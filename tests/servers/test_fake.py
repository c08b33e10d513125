"""raspy.servers.fake: the server of simulated devices, on a real bus."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from raspy.common.config import Config, ConfigError, NothingDriven
from raspy.common.devices.value import Value
from raspy.common.mdcliapi import MajorDomoClient
from raspy.servers.fake import Fake, FakeConfig
from raspy.servers.fake.pins import Pin, Pins
from tests.bus import LIMIT, running, running_bus
from tests.support_devices import ask, broker, follow, reading, short_directory, started, until

SENSORS = {"tank", "outdoors", "filter", "wind"}
OUTPUTS = {"heater", "pump", "light"}


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[Fake]:
    """A server of which nothing is asked by bus, with pins."""
    with short_directory() as directory:
        server = Fake(hostname="pi", broker_ip=f"ipc://{directory}", pins=Pins(str(tmp_path / "pins")))
        with started(server):
            yield server


def details(server: Fake) -> dict[str, Any]:
    """The tank as it is, whatever its sensor says."""
    answer, status = ask(server, "info", "tank")
    assert status == "200"
    return dict(answer["details"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("poll", 0),
        ("speed", 0),
        ("speed", float("inf")),
        ("level", 101),
        ("level", 4.9),
        ("level_rate", 0.1),
        ("level_rate", float("nan")),
        ("temperature", 101),
        ("volume", 0),
        ("power", -1),
        ("loss", -1),
        ("room", 61),
        ("flow", "much"),
        ("temperature_min", 24),
    ],
)
def test_configuration_that_cannot_be_is_refused_by_its_key(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key):
        Config({"fake": {key: value}}).section(FakeConfig)


def test_its_values_are_on_the_tree(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    section = {"poll": 0.1, "level_rate": 0, "temperature": 27, "room": 27}
    config = Config({"bus": {"hostname": "pi", "titanic": False}, "fake": section})
    with broker() as broker_ip:
        config.tables["bus"]["broker_ip"] = broker_ip
        with started(Fake.from_config(config)) as server:
            tree = follow(server)
            # at once, and not only when what is set is published again, which is after 20 s
            until(server, lambda: {"/device/pi.fake.tank/level", "/device/pi.fake.tv/power"} <= set(tree), limit=15)
            until(server, lambda: {"/device/pi.fake.wind/speed", "/device/pi.fake.light/level"} <= set(tree), limit=15)
            wanted = {*SENSORS, *OUTPUTS, "tv"}
            until(server, lambda: wanted <= {key.split("/")[2].split(".")[2] for key in tree}, limit=15)
            # Those that are read may have grown too old for a moment, as on a busy machine.
            until(server, lambda: {Value.decode(body).quality for body in tree.values()} == {"ok"})
            values = {key: Value.decode(body) for key, body in tree.items()}
            temperature = values["/device/pi.fake.tank/temperature"]
            assert (temperature.number(), temperature.unit) == (27, "°C")
            level = values["/device/pi.fake.tank/level"]
            assert (level.number(), level.unit, level.log) == (95, "%", True)
            assert values["/device/pi.fake.tv.volume/volume"].number() == 20
            assert {key.split("/")[2].split(".")[2] for key in values} == wanted
            until(server, lambda: Value.decode(tree["/device/pi.fake.tank/level"]).time > level.time)


def test_its_devices(fake: Fake) -> None:
    until(fake, lambda: all(next(iter(fake.devices[name].values())).reading for name in SENSORS))
    assert set(ask(fake, "list_keys")[0]) == {*SENSORS, *OUTPUTS, "camera", "tv"} == Fake.fixed
    assert ask(fake, "info", "tank")[0]["oid"] == "sensor.tank"
    assert ask(fake, "exec", "pi.fake.tank", "level")[0]["value"] == 95.0
    assert ask(fake, "exec", "tank", "level", "5")[1] == "400"
    assert ask(fake, "exec", "tank", "config", '{"speed": 10}')[0]["speed"] == 10
    assert ask(fake, "exec", "tank", "config", '{"speed": 0}')[1] == "400"
    outdoors = ask(fake, "exec", "outdoors", "value")[0]
    assert 8 <= outdoors["value"] < 9
    assert outdoors["unit"] == "°C"
    assert fake.conditions == {}


def test_its_kinds_can_all_be_made_and_are_then_what_they_were_made(fake: Fake) -> None:
    kinds, status = ask(fake, "template")
    assert status == "200"
    assert list(kinds) == sorted(Fake.makes)
    for number, (oid, kind) in enumerate(kinds.items()):
        fields = kind["default"] | {"name": f"own{number}"}
        made, status = ask(fake, "new", json.dumps(fields))
        assert (status, made["oid"], made["name"]) == ("200", oid, f"own{number}")
    assert ask(fake, "new", '{"oid": "switch", "name": "tank"}')[1] == "400"
    assert ask(fake, "new", '{"oid": "sensor.cyclic", "name": "x", "period": 0}')[1] == "400"
    assert ask(fake, "delete", "tank")[1] == "400"
    for number in range(len(kinds)):
        assert ask(fake, "delete", f"own{number}")[1] == "200"
    assert set(fake.devices) == Fake.fixed


def test_a_contact_is_closed_and_opened_by_a_command_and_stays_so(fake: Fake) -> None:
    assert ask(fake, "new", '{"oid": "sensor.contact", "name": "float", "poll": 0.1}')[1] == "200"
    for word, closed in (("true", True), ("false", False), ("on", True)):
        answer, status = ask(fake, "exec", "float", "contact", word)
        assert (status, answer) == ("200", closed)
        found = reading(fake, "float", "contact")
        assert found is not None
        assert (found.value, found.quality) == (closed, "ok"), "at once"
        stamp = found.time
        until(fake, lambda stamp=stamp: fake.devices["float"].commands["contact"].reading.time > stamp)  # type: ignore[union-attr,misc]
        assert ask(fake, "exec", "float", "contact") == (closed, "200"), "a poll leaves it"
    assert ask(fake, "exec", "float", "contact", "half")[1] == "400"
    assert ask(fake, "exec", "float", "contact") == (True, "200")
    assert ask(fake, "exec", "float", "reset", "")[1] == "200"
    assert ask(fake, "exec", "float", "contact") == (False, "200")


def test_a_photo_over_the_bus_and_when_it_was_taken() -> None:
    with broker() as broker_ip, started(Fake(hostname="pi", broker_ip=broker_ip)) as server:
        tree = follow(server)
        photo, status = ask(server, "exec", "camera", "photo", "png")
        assert (status, photo["type"]) == ("200", "image/png")
        until(server, lambda: "/device/pi.fake.camera/taken" in tree)
        assert Value.decode(tree["/device/pi.fake.camera/taken"]).number() == photo["time"]
        assert not any("photo" in key for key in tree)


def test_a_tv_that_is_off_refuses_by_status(fake: Fake) -> None:
    answer, status = ask(fake, "exec", "tv.volume", "volume", "30")
    assert (answer, status) == ("volume of tv.volume cannot be changed: the TV is off", "409")
    assert ask(fake, "exec", "tv", "power", "on")[1] == "200"
    assert ask(fake, "exec", "tv.volume", "volume", "30")[0]["value"] == 30


def test_the_tank_feels_heater_and_pump(fake: Fake) -> None:
    assert (details(fake)["heater"], details(fake)["pump"]) == (0, 0)
    assert ask(fake, "exec", "heater", "power", "on")[1] == "200"
    assert ask(fake, "exec", "pump", "power", "on")[1] == "200"
    before = details(fake)
    assert (before["heater"], before["pump"]) == (1, 1)
    until(fake, lambda: details(fake)["elapsed"] > before["elapsed"] + 10)
    after = details(fake)
    assert after["temperature"] > before["temperature"]
    assert after["litres"] > before["litres"]
    assert ask(fake, "exec", "heater", "power", "off")[1] == "200"
    off = details(fake)
    assert (off["heater"], off["pump"]) == (0, 1)
    assert off["energy"] - before["energy"] == pytest.approx(100 / 3600 * (off["since"] - before["elapsed"]))
    until(fake, lambda: details(fake)["elapsed"] > off["elapsed"] + 10)
    assert details(fake)["energy"] == off["energy"]
    assert details(fake)["temperature"] < off["temperature"]


def test_the_tank_feels_an_output_fall_when_its_lease_ends(fake: Fake) -> None:
    assert ask(fake, "exec", "heater", "power", "on", "60", "a test")[1] == "200"
    assert details(fake)["heater"] == 1
    assert ask(fake, "exec", "heater", "power", "on", "0.2", "a test")[1] == "200"
    until(fake, lambda: details(fake)["heater"] == 0)
    fallen = details(fake)
    assert fallen["energy"] > 0
    until(fake, lambda: details(fake)["elapsed"] > fallen["elapsed"])
    assert details(fake)["energy"] == fallen["energy"]


def test_a_lamp_can_warm_the_tank_and_does_no_more_once_deleted(fake: Fake) -> None:
    assert ask(fake, "new", '{"oid": "dimmer", "name": "lamp"}')[1] == "200"
    assert ask(fake, "exec", "tank", "config", '{"heater": "lamp"}')[1] == "200"
    assert ask(fake, "exec", "lamp", "level", "40")[1] == "200"
    assert details(fake)["heater"] == pytest.approx(0.4)
    assert ask(fake, "delete", "lamp")[1] == "200"
    assert details(fake)["heater"] == 0


def test_an_output_whose_safe_state_is_on_does_no_more_once_deleted(fake: Fake) -> None:
    assert ask(fake, "new", '{"oid": "dimmer", "name": "lamp", "safe": 30}')[1] == "200"
    assert ask(fake, "exec", "tank", "config", '{"heater": "lamp"}')[1] == "200"
    assert details(fake)["heater"] == pytest.approx(0.3)
    assert ask(fake, "delete", "lamp")[1] == "200"
    assert details(fake)["heater"] == 0


def test_a_second_tank_feels_the_outputs_that_are_on(fake: Fake) -> None:
    assert ask(fake, "exec", "heater", "power", "on")[1] == "200"
    assert ask(fake, "new", '{"oid": "sensor.tank", "name": "second"}')[1] == "200"
    assert ask(fake, "info", "second")[0]["details"]["heater"] == 1


def test_the_pins_follow_and_are_made_safe_without_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    with short_directory() as directory:
        config = Config({"bus": {"hostname": "pi", "titanic": False, "broker_ip": f"ipc://{directory}"}})
        with started(Fake.from_config(config)) as server:
            pins = Pins(Pins.place("fake"))
            assert pins.directory.startswith(str(tmp_path))
            assert set(pins.names()) == OUTPUTS
            assert ask(server, "exec", "heater", "power", "on")[1] == "200"
            assert ask(server, "exec", "light", "level", "70")[1] == "200"
            assert (pins.read("heater").duty, pins.read("light").duty) == (1, 0.7)
            # as after a crash: nobody but the pins knows
            Fake.make_safe(config)
            assert {pins.read(name).duty for name in OUTPUTS} == {0}
            assert ask(server, "exec", "heater", "power", "on")[1] == "200"
        assert {pins.read(name).duty for name in OUTPUTS} == {0}


def test_pins_without_a_device_are_made_safe_at_the_start_and_tried_until_they_are(tmp_path: Path) -> None:
    left = Pins(str(tmp_path))
    left.claim("co2", 0)
    left.write("co2", 1)
    (tmp_path / "stuck").mkdir()
    with short_directory() as directory:
        server = Fake("pi", broker_ip=f"ipc://{directory}", pins=Pins(str(tmp_path)))
        with started(server):
            assert left.read("co2") == Pin(0, 0)
            assert "stuck: Is a directory" in server.conditions["pins"]
            assert ask(server, "exec", "heater", "power", "on", "60")[1] == "200"
            (tmp_path / "stuck").rmdir()
            (tmp_path / "stuck").write_bytes(b'{"duty": 1, "safe": 0}')
            until(server, lambda: "pins" not in server.conditions)
            assert left.read("stuck") == Pin(0, 0)
            assert left.read("heater").duty == 1, "what is held is left alone"


def test_a_deleted_output_is_off_and_its_pin_goes(tmp_path: Path) -> None:
    pins = Pins(str(tmp_path))
    with short_directory() as directory, started(Fake("pi", broker_ip=f"ipc://{directory}", pins=pins)) as server:
        assert ask(server, "new", '{"oid": "switch", "name": "air", "safe": true}')[1] == "200"
        assert pins.read("air") == Pin(1, 1)
        server.remove_device("air")
        assert "air" not in pins.names()
        assert server.duties.get("air", 0.0) == 0.0


def test_make_safe_says_what_and_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    with pytest.raises(NothingDriven, match=rf"there is no {tmp_path}/raspy/fake/pins: NOTHING was made safe"):
        Fake.make_safe(Config())
    pins = Pins(Pins.place("fake"))
    pins.claim("a", 0)
    assert Fake.make_safe(Config()) == f"safe in {tmp_path}/raspy/fake/pins: a"


def test_settings_outlive_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with broker() as broker_ip:
        config = Config({"bus": {"hostname": "pi", "titanic": False, "broker_ip": broker_ip}})
        with started(Fake.from_config(config)) as server:
            answers: list[list[bytes]] = []
            for words in (
                [b"exec", b"tank", b"config", b'{"volume": 250, "fault": "drop"}'],
                [b"new", b'{"oid": "sensor.linear", "name": "own", "rate": 7}'],
            ):
                server.handle(server.worker_devices(), words, answers.append)
            until(server, lambda: len(answers) == 2)
            assert [frames[-1] for frames in answers] == [b"200", b"200"]
        with started(Fake.from_config(config)) as server:
            assert ask(server, "exec", "tank", "config")[0]["volume"] == 250
            assert ask(server, "exec", "own", "config")[0]["rate"] == 7
            assert details(server)["litres"] == pytest.approx(0.95 * 250, rel=0.01)
            tank = server.devices["tank"].commands["level"]
            until(server, lambda: tank.reading)
            assert tank.reading is not None
            assert tank.reading.reason == "simulated fault: the reading was dropped"


class Thermostat:
    """The rule of the test: on at or below ``low``, off at or above ``high``, by requests on the bus."""

    def __init__(self, client: MajorDomoClient, low: float, high: float) -> None:
        self.client = client
        self.client.timeout = self.client.act_timeout = int(LIMIT * 1000)
        self.low = low
        self.high = high
        self.on = False

    def ask(self, *words: str) -> Any:
        """The answer of the fake server's devices."""
        reply = self.client.send("pi.fake.devices", [word.encode() for word in words])
        assert reply is not None
        assert reply[-1] == b"200", reply
        return msgspec.json.decode(reply[0])

    def water(self) -> dict[str, Any]:
        """The tank's details."""
        return dict(self.ask("info", "tank")["details"])

    def act(self) -> Value:
        """Look at the sensor once, and switch; the lease is renewed each time. Returns what the sensor said."""
        seen = Value.decode(msgspec.json.encode(self.ask("exec", "tank", "temperature")))
        if seen.number() <= self.low:
            self.on = True
        elif seen.number() >= self.high:
            self.on = False
        self.ask("exec", "heater", "power", "true" if self.on else "false", *(["5", "thermostat"] if self.on else []))
        return seen


def test_under_an_on_off_rule_the_temperature_follows_the_physics_that_the_documentation_tells() -> None:
    speed, low, high, litres = 8000, 24.5, 25.5, 0.95 * 100
    tau = 4186 * litres / 10
    settings = FakeConfig(poll=0.1, speed=speed, level_rate=0, temperature=25)
    history: list[tuple[float, float]] = [(0.0, 0.0)]
    """When the heater was switched, in the tank's seconds, and what it has been since."""

    def by_hand(elapsed: float) -> float:
        """The temperature by docs/fake.rst, from 25 °C, all that was switched, and nothing else."""
        temperature = 25.0
        for number, (begin, duty) in enumerate(history):
            end = min(history[number + 1][0] if number + 1 < len(history) else math.inf, elapsed)
            goal = 20 + 100 * duty / 10
            temperature = goal + (temperature - goal) * math.exp(-max(end - begin, 0) / tau)
        return temperature

    with (
        running_bus() as bus,
        running(Fake("pi", broker_ip=bus.ip, settings=settings)),
        MajorDomoClient(bus.address) as client,
    ):
        rule = Thermostat(client, low, high)
        end = time.monotonic() + LIMIT
        before = rule.water()
        seen: set[float] = set()
        while len(history) < 6:
            assert time.monotonic() < end
            said = rule.act()
            asked = time.time()
            now = rule.water()
            answered = time.time()
            if now["heater"] != history[-1][1]:
                history.append((now["since"], now["heater"]))
            assert now["temperature"] == pytest.approx(by_hand(now["elapsed"]), abs=1e-6)
            assert before["elapsed"] < now["elapsed"]
            before = now
            # What the sensor said is what the water was then; a busy machine may take its time to write down when.
            early = now["elapsed"] - (answered - said.time + 0.3) * speed
            late = now["elapsed"] - (asked - said.time - 0.002) * speed
            possible = [by_hand(max(early + (late - early) * part / 100, 0)) for part in range(101)]
            assert min(possible) - 0.01 <= said.number() <= max(possible) + 0.01
            seen.add(said.time)
        renewed = rule.water()
        rule.ask("exec", "heater", "power", "true", "0.5", "thermostat")
        while rule.water()["heater"]:
            assert time.monotonic() < end
        fallen = rule.water()
    assert len(seen) > 10
    # on and off in turn, and the cycle takes what the formula says for the temperatures at which it was switched
    assert [duty for _, duty in history] == [0, 1, 0, 1, 0, 1]
    turned = [(at, by_hand(at), duty) for at, duty in history[1:]]
    for (begin, first, duty), (finish, last, _) in pairwise(turned):
        goal = 20 + 10 * duty
        assert finish - begin == pytest.approx(tau * math.log((first - goal) / (last - goal)), rel=1e-6)
        # which is never less than between the thresholds: the rule acts after it has seen
        shortest = tau * math.log((goal - low) / (goal - high)) if duty else tau * math.log((high - 20) / (low - 20))
        assert shortest < finish - begin
    # nobody renewed the lease: the heater fell, and the water cools from then on
    history.append((fallen["since"], 0.0))
    assert fallen["since"] >= renewed["elapsed"]
    assert fallen["temperature"] == pytest.approx(by_hand(fallen["elapsed"]), abs=1e-6)
