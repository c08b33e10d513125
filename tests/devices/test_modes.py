"""Modes and interlocks of outputs: raspy.common.devices.manual, interlock and modekeeper, on a server's loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from raspy.common.clock import BootClock
from raspy.common.devices import keptfile
from raspy.common.devices.command import Command
from raspy.common.devices.device import BaseDevice
from raspy.common.devices.dimmer import Dimmer
from raspy.common.devices.errors import BadValue, DriveError, FieldErrors, ReadingError, Refused
from raspy.common.devices.host import DeviceServer
from raspy.common.devices.interlock import conditions, names
from raspy.common.devices.manual import mode_time, modes
from raspy.common.devices.modekeeper import ModeKeeper
from raspy.common.devices.output import Hold, OutputDevice
from raspy.common.devices.switch import Switch
from tests.support_devices import ask, reading, short_directory, started, until


class Time:
    """A monotonic clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Recorded(OutputDevice):
    """Remembers what it was driven to, and when."""

    def __init__(self, json: Any = None) -> None:
        self.trace: list[tuple[float, float]] = []
        self.broken = False
        self.told: list[dict[str, Any]] = []
        super().__init__(json)

    def drive(self, value: float) -> None:
        if self.broken:
            raise OSError("the relay does not answer")
        self.trace.append((self.clock(), value))

    @property
    def level(self) -> float:
        return self.trace[-1][1]


class Relay(Recorded, Switch):
    oid = "test.relay"


class Lamp(Recorded, Dimmer):
    oid = "test.lamp"


class Contact(BaseDevice):
    """A switch that is read."""

    oid = "test.contact"
    declared = (Command(name="contact", type="Bool", readonly=True, info="Whether it is closed", datasource="GAUGE"),)

    def do_poll(self) -> dict[str, Any]:
        return {}


def alone(kind: type[Recorded] = Relay, **settings: Any) -> Recorded:
    """An output without a server, on a clock of its own."""
    made = kind.new({"name": "relay", **settings})
    made.clock = Time()
    made.on_event = lambda device, event: made.told.append(event)
    made.fall("start")
    return made


def wait(device: Recorded, seconds: float) -> None:
    """Let time pass, as a server does."""
    time = device.clock
    assert isinstance(time, Time)
    end = time.now + seconds
    while device.deadline() <= end:
        assert device.deadline() >= time.now, "a deadline lies in the past: the loop would spin"
        time.now = device.deadline()
        device.settle()
    time.now = end


def power(device: Recorded, on: bool, seconds: float | None = None, by: str = "") -> Any:
    return device.exec_cmd("", "power", on, Hold(seconds, by))


def mode(device: Recorded, name: str, seconds: float | None = None, by: str = "") -> Any:
    return device.exec_cmd("", "mode", name, Hold(seconds, by))


# What an owner writes


def test_modes_are_read_as_they_are_written() -> None:
    found = modes("feeding: off 10m, night: 20 % 8h, service: on,")
    assert {name: (spec.level, spec.seconds) for name, spec in found.items()} == {
        "feeding": (0.0, 600.0),
        "night": (0.2, 28_800.0),
        "service": (None, None),
    }


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("feeding", "is no mode"),
        ("feeding: off 10 fortnights", "is no mode"),
        ("feeding: off 10x", "is no time"),
        ("feeding: off 31d", "is no time"),
        ("feeding: off 0", "is no time"),
        ("auto: off", "is no name"),
        ("on: off", "is no name"),
        ("Feeding: off", "is no name"),
        ("a: on, a: off", "twice"),
        (", ".join(f"m{number}: off" for number in range(21)), "there can be 20"),
    ],
)
def test_what_is_no_mode_is_refused(text: str, reason: str) -> None:
    with pytest.raises(FieldErrors) as caught:
        Relay.new({"name": "relay", "modes": text})
    assert reason in caught.value.fields["modes"]


@pytest.mark.parametrize(
    ("kind", "settings", "field"),
    [
        (Relay, {"modes": "night: 20 %"}, "modes"),
        (Lamp, {"modes": "night: 5 %", "lowest": 10}, "modes"),
        (Relay, {"never_with": "a.b.c"}, "never_with"),
        (Relay, {"never_with": "Chiller"}, "never_with"),
        (Relay, {"only_if": "not"}, "only_if"),
        (Relay, {"only_if": "float/"}, None),
        (Relay, {"only_if": "maybe float"}, "only_if"),
        (Relay, {"only_if": ",".join("abcdefghijklmnopqrstuvwxyz")}, "only_if"),
        (Relay, {"safe": True, "only_if": "float"}, "only_if"),
        (Relay, {"safe": True, "never_with": "chiller"}, "never_with"),
        (Relay, {"manual": 0}, "manual"),
    ],
)
def test_settings_that_cannot_be_are_refused(kind: type[Recorded], settings: dict[str, Any], field: str | None) -> None:
    if field == "only_if" and settings["only_if"] == "not":
        # A device may be called "not".
        field = None
    errors = kind.check({"name": "relay", **settings})
    assert list(errors) == ([field] if field else [])


def test_conditions_and_names_are_read_as_they_are_written() -> None:
    assert names(" chiller, strip.left ,") == ("chiller", "strip.left")
    assert [str(found) for found in conditions("float, not leak, pump/power")] == ["float", "not leak", "pump/power"]


@pytest.mark.parametrize(("text", "seconds"), [("600", 600.0), ("90s", 90.0), ("2h", 7200.0), ("30d", 2_592_000.0)])
def test_times_of_modes(text: str, seconds: float) -> None:
    assert mode_time(text) == seconds


# A mode stands above leases, and ends by itself


def test_on_and_off_by_hand_end_by_themselves() -> None:
    relay = alone()
    mode(relay, "on", 60, "anna")
    assert relay.level == 1.0
    assert relay.details()["mode"] == "on"
    assert relay.details()["mode_by"] == "anna"
    assert relay.commands["mode"].reading.value == "on"  # type: ignore[union-attr]
    wait(relay, 59.9)
    assert relay.level == 1.0
    wait(relay, 0.1)
    assert (relay.level, relay.state, relay.details()["mode"]) == (0.0, "safe", "auto")
    assert relay.commands["mode_end"].reading.value == 0  # type: ignore[union-attr]
    mode(relay, "off")
    wait(relay, 3599)
    assert relay.details()["mode"] == "off"
    wait(relay, 1)
    assert relay.details()["mode"] == "auto"
    assert relay.deadline() == float("inf")


def test_who_holds_it_waits_for_the_end_of_the_mode() -> None:
    relay = alone()
    mode(relay, "off", 60, "anna")
    answer = power(relay, True, 100, "thermostat")
    assert answer["value"] is True
    assert "its mode is off, set by anna" in answer["waits"]
    assert relay.level == 0.0
    assert relay.details()["wish"] == {"by": "thermostat", "left": 100.0, "power": True}
    wait(relay, 60)
    assert (relay.level, relay.details()["by"], relay.details()["left"]) == (1.0, "thermostat", 40.0)
    wait(relay, 40)
    assert relay.level == 0.0


def test_what_held_it_before_goes_on_with_what_is_left_of_its_lease() -> None:
    relay = alone()
    power(relay, True, 100, "thermostat")
    mode(relay, "off", 60)
    assert relay.level == 0.0
    mode(relay, "auto")
    assert (relay.level, relay.details()["left"]) == (1.0, 100.0)
    mode(relay, "off", 60)
    wait(relay, 60)
    assert relay.level == 1.0
    mode(relay, "on", 60)
    wait(relay, 60)
    assert relay.level == 0.0, "the lease ended in the mode"


def test_a_wish_may_be_taken_back_by_whoever_has_it() -> None:
    relay = alone()
    mode(relay, "off", 60)
    power(relay, True, 1000, "thermostat")
    assert relay.exec_cmd("", "release", "", Hold(by="other")) is False
    assert relay.exec_cmd("", "release", "", Hold(by="thermostat")) is True
    wait(relay, 60)
    assert relay.level == 0.0
    mode(relay, "on", 60)
    power(relay, True, 1000, "thermostat")
    power(relay, False, by="thermostat")
    assert relay.level == 1.0, "told off by a scenario, which a mode stands above"
    wait(relay, 60)
    assert relay.level == 0.0


def test_an_air_pump_may_be_off_for_a_while() -> None:
    pump = alone(safe=True, modes="feeding: off 10m")
    assert pump.level == 1.0
    mode(pump, "feeding")
    assert pump.level == 0.0
    wait(pump, 600)
    assert (pump.level, pump.state) == (1.0, "safe")


def test_a_dimmer_goes_to_the_level_of_its_mode_by_its_ramp() -> None:
    lamp = alone(Lamp, modes="night: 20 % 8h", ramp=10, highest=80)
    mode(lamp, "night")
    wait(lamp, 10)
    assert lamp.level == pytest.approx(0.2)
    mode(lamp, "on")
    wait(lamp, 10)
    assert lamp.level == pytest.approx(0.8)
    mode(lamp, "off")
    assert lamp.level == 0.0
    with pytest.raises(BadValue, match="has no mode 'dusk'; its modes are auto, on, off, night"):
        mode(lamp, "dusk")


def test_reset_ends_all_of_it() -> None:
    relay = alone()
    mode(relay, "on", 60)
    power(relay, True, 1000)
    relay.exec_cmd("", "reset", "")
    assert (relay.level, relay.details()["mode"]) == (0.0, "auto")
    wait(relay, 1000)
    assert relay.level == 0.0


# The rules hold in a mode, too


def test_the_longest_time_on_ends_a_mode() -> None:
    relay = alone(longest_on=30)
    power(relay, True, 1000, "scenario")
    mode(relay, "on", 600)
    wait(relay, 30)
    assert (relay.level, relay.details()["mode"]) == (0.0, "auto")
    with pytest.raises(Refused, match="told off"):
        power(relay, True)
    wait(relay, 1000)
    assert relay.level == 0.0
    mode(relay, "off", 60)
    mode(relay, "on", 60)
    assert relay.level == 1.0, "told off by hand: somebody looked"


def test_a_mode_waits_for_the_shortest_time_off() -> None:
    relay = alone(shortest_off=100)
    wait(relay, 40)
    mode(relay, "on", 600)
    assert relay.level == 0.0
    assert "60 s are left" in relay.details()["waits"]
    wait(relay, 60)
    assert relay.level == 1.0
    assert "waits" not in relay.details()


def test_a_mode_is_tried_again_when_the_hardware_failed() -> None:
    relay = alone()
    relay.broken = True
    mode(relay, "on", 600)
    assert relay.state == "failed"
    relay.broken = False
    wait(relay, 3)
    assert (relay.level, relay.state) == (1.0, "held")


def test_a_mode_that_the_output_does_not_know_any_more_ends() -> None:
    relay = alone(modes="service: on 1h")
    mode(relay, "service")
    relay.configure({"label": "Pump"})
    assert relay.level == 1.0
    relay.configure({"modes": ""})
    assert (relay.level, relay.details()["mode"]) == (0.0, "auto")


def test_each_change_of_a_mode_is_an_event() -> None:
    relay = alone()
    mode(relay, "on", 60, "anna")
    wait(relay, 60)
    told = [(event["state"], event.get("mode"), event["reason"]) for event in relay.told if "mode_end" in event]
    assert told == [
        ("held", "on", "told by anna to be in mode on"),
        ("safe", "auto", "mode on ended: its time is over"),
    ]
    assert [event["state"] for event in relay.told if "mode_end" not in event] == ["safe", "held", "safe"]


# On a server: the verb, interlocks, and restarts


class Boot(BootClock):
    """The clocks of a boot that the test makes up."""

    def __init__(self, boot: str = "boot1", trusted: bool = True, ahead: float = 0.0) -> None:
        super().__init__(boot)
        self.believed, self.ahead = trusted, ahead

    def trusted(self) -> bool:
        return self.believed

    def wall(self) -> float:
        return super().wall() + self.ahead


@contextmanager
def owner(directory: str, path: str | None = None, boot: Boot | None = None) -> Generator[DeviceServer, None, None]:
    made = DeviceServer(hostname="pi", service="test", broker_ip=f"ipc://{directory}")
    for kind in (Relay, Lamp, Contact):
        made.types.register(kind)
    if path is not None:
        made.outputs.modes = ModeKeeper(made, path, boot or Boot())
    with started(made):
        yield made


@pytest.fixture
def server() -> Generator[DeviceServer, None, None]:
    with short_directory() as directory, owner(directory) as made:
        yield made


def add(server: DeviceServer, name: str, kind: type[Recorded] = Relay, **settings: Any) -> Recorded:
    made = kind.new({"name": name, **settings})
    server.add_device(made)
    return made


def contact(server: DeviceServer, name: str, closed: bool | BaseException) -> None:
    if name not in server.devices:
        server.add_device(Contact.new({"name": name, "poll": 0}))
    device = server.devices[name]
    device.update(closed if isinstance(closed, BaseException) else {"contact": closed})
    server.publish_device(device)


def test_the_verb_puts_outputs_into_a_mode(server: DeviceServer) -> None:
    pump = add(server, "pump", modes="feeding: off 10m")
    air = add(server, "air", safe=True, modes="feeding: off 5m")
    heater = add(server, "heater")
    answer, status = ask(server, "mode", "", "feeding", "", "anna")
    assert status == "200"
    assert {name: found["mode"] for name, found in answer.items()} == {"pump": "feeding", "air": "feeding"}
    assert (pump.level, air.level, heater.details()["mode"]) == (0.0, 0.0, "auto")
    assert ask(server, "mode", "heater, pump", "on", "2h")[1] == "200"
    assert (heater.level, pump.level) == (1.0, 1.0)
    answer, status = ask(server, "mode", "", "auto")
    assert set(answer) == {"pump", "air", "heater"}
    assert (heater.level, pump.level, air.level) == (0.0, 0.0, 1.0)
    assert ask(server, "exec", "heater", "mode", "on", "60", "anna")[1] == "200"
    assert reading(server, "heater", "mode").value == "on"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("words", "status", "reason"),
    [
        (("mode", "pump", "dusk"), "400", "has no mode 'dusk'"),
        (("mode", "pump", "on", "0"), "400", "no time for a mode"),
        (("mode", "pump", "on", "nan"), "400", "no time for a mode"),
        (("mode", "pump", "on", "31d"), "400", "no time for a mode"),
        (("mode", "pump", "on", "5", "x" * 101), "400", "by"),
        (("mode", "pump,float", "on"), "404", "is no output"),
        (("mode", "nothing", "on"), "404", "no device"),
        (("exec", "pump", "mode", "dusk"), "400", "has no mode 'dusk'"),
        (("exec", "pump", "mode_end", "5"), "400", "read only"),
    ],
)
def test_what_is_no_mode_is_refused_and_nothing_is_changed(
    server: DeviceServer, words: tuple[str, ...], status: str, reason: str
) -> None:
    pump = add(server, "pump")
    contact(server, "float", True)
    answer, given = ask(server, *words)
    assert given == status
    assert reason in answer
    assert (pump.level, pump.details()["mode"]) == (0.0, "auto")


def test_two_that_never_are_on_together(server: DeviceServer) -> None:
    heater = add(server, "heater", never_with="chiller")
    assert ask(server, "exec", "heater", "power", "on") == (
        "heater: interlock: it must never be on with chiller, and there is no such output here",
        "409",
    )
    chiller = add(server, "chiller")
    assert ask(server, "exec", "chiller", "power", "on")[1] == "200"
    answer, status = ask(server, "exec", "heater", "power", "on")
    assert (answer, status) == ("heater: interlock: it must never be on with chiller, which is on", "409")
    assert ask(server, "exec", "chiller", "power", "off")[1] == "200"
    assert ask(server, "exec", "heater", "power", "on")[1] == "200"
    # It holds both ways, whoever declares it.
    assert ask(server, "exec", "chiller", "power", "on")[1] == "409"
    assert (heater.level, chiller.level) == (1.0, 0.0)


def test_one_that_is_on_all_the_same_makes_the_other_fall(server: DeviceServer) -> None:
    heater = add(server, "heater", never_with="chiller")
    chiller = add(server, "chiller", safe=True)
    assert ask(server, "exec", "chiller", "power", "off", "3600")[1] == "200"
    assert ask(server, "exec", "heater", "power", "on")[1] == "200"
    assert ask(server, "exec", "chiller", "reset", "1")[1] == "200"
    assert (heater.level, chiller.level) == (0.0, 1.0)
    assert heater.details()["reason"] == "interlock: it must never be on with chiller, which is on"


def test_a_partner_that_fails_counts_as_on(server: DeviceServer) -> None:
    heater = add(server, "heater", never_with="chiller")
    chiller = add(server, "chiller")
    assert ask(server, "exec", "heater", "power", "on")[1] == "200"
    chiller.broken = True
    with pytest.raises(DriveError):
        chiller.exec_cmd("", "power", False)
    assert heater.level == 0.0
    assert "not known to be off" in heater.details()["reason"]


@pytest.mark.parametrize(
    ("wanted", "found", "reason"),
    [
        ("float", False, "float is off"),
        ("not float", True, "float is on"),
        ("float", ReadingError("gone", "the line is gone"), "the line is gone"),
        ("float/contact", False, "float is off"),
        ("other", True, "there is no device other here"),
        ("float/level", True, "no value level that is true or false"),
    ],
)
def test_on_only_if_a_switch_says_so(
    server: DeviceServer, wanted: str, found: bool | BaseException, reason: str
) -> None:
    pump = add(server, "pump", only_if=wanted)
    contact(server, "float", found)
    answer, status = ask(server, "exec", "pump", "power", "on")
    assert status == "409"
    assert reason in answer
    assert pump.level == 0.0


def test_it_falls_in_the_same_turn_in_which_the_switch_says_so(server: DeviceServer) -> None:
    pump = add(server, "pump", only_if="float, not leak")
    contact(server, "float", True)
    contact(server, "leak", False)
    assert ask(server, "exec", "pump", "power", "on", "3600", "filling")[1] == "200"
    contact(server, "float", False)
    assert pump.level == 0.0
    assert pump.details()["reason"] == "interlock: it may be on only if float: float is off"
    contact(server, "float", True)
    assert pump.level == 0.0, "who held it has to say so again"
    assert ask(server, "mode", "pump", "on", "1h")[1] == "200"
    contact(server, "leak", True)
    assert pump.level == 0.0
    assert "leak is on" in pump.details()["waits"]
    contact(server, "leak", False)
    assert pump.level == 1.0, "a mode goes on by itself"


def test_an_output_may_be_the_condition_of_another(server: DeviceServer) -> None:
    heater = add(server, "heater", only_if="pump")
    pump = add(server, "pump")
    assert ask(server, "exec", "heater", "power", "on")[1] == "409"
    assert ask(server, "exec", "pump", "power", "on", "60")[1] == "200"
    assert ask(server, "exec", "heater", "power", "on", "60")[1] == "200"
    assert ask(server, "exec", "pump", "power", "off")[1] == "200"
    assert (heater.level, pump.level) == (0.0, 0.0)


def test_a_device_that_is_deleted_is_no_condition_any_more(server: DeviceServer) -> None:
    pump = add(server, "pump", only_if="float")
    contact(server, "float", True)
    assert ask(server, "exec", "pump", "power", "on", "3600")[1] == "200"
    server.remove_device("float")
    until(server, lambda: pump.level == 0.0)


def test_a_mode_is_on_the_disk_before_it_is_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "modes.json"
    with short_directory() as directory, owner(directory, str(path)) as server:
        add(server, "pump")
        assert ask(server, "mode", "pump", "on", "1h", "anna")[1] == "200"
        kept = msgspec.json.decode(path.read_bytes())["devices"]["pump"]["settings"]
        assert (kept["mode"], kept["level"], kept["by"], kept["seconds"]) == (
            "on",
            1.0,
            "anna",
            pytest.approx(3600, abs=5),
        )
        assert ask(server, "mode", "pump", "auto")[1] == "200"
        assert msgspec.json.decode(path.read_bytes())["devices"] == {}


@pytest.mark.parametrize(
    ("name", "before", "after", "goes_on"),
    [
        ("on", Boot("boot1"), Boot("boot1", trusted=False), True),
        ("on", Boot("boot1"), Boot("boot2"), True),
        ("on", Boot("boot1"), Boot("boot2", ahead=3601), False),
        ("on", Boot("boot1"), Boot("boot2", trusted=False), False),
        ("on", Boot("boot1", trusted=False), Boot("boot2"), False),
        ("off", Boot("boot1"), Boot("boot2", trusted=False), True),
        ("off", Boot("boot1"), Boot("boot2", trusted=False, ahead=-9e8), True),
        # Set for an hour, it lasts an hour at most, whatever the clock says.
        ("on", Boot("boot1"), Boot("boot2", ahead=-9e8), True),
    ],
)
def test_a_mode_goes_on_after_a_restart_with_what_is_left(
    tmp_path: Path, name: str, before: Boot, after: Boot, goes_on: bool
) -> None:
    path = str(tmp_path / "modes.json")
    with short_directory() as directory:
        with owner(directory, path, before) as server:
            add(server, "pump")
            assert ask(server, "mode", "pump", name, "1h", "anna")[1] == "200"
        with owner(directory, path, after) as server:
            pump = add(server, "pump")
            assert pump.level == 0.0, "not before all others have been driven"
            server.turn(0.0)
            details = pump.details()
            assert details["mode"] == (name if goes_on else "auto")
            if goes_on:
                assert pump.level == float(name == "on")
                assert 3500 < details["mode_left"] <= 3600
                assert details["mode_by"] == "anna"
            else:
                assert pump.level == 0.0


def test_what_cannot_be_kept_is_refused_but_what_makes_safe_is_done(tmp_path: Path) -> None:
    # A file where the directory should be: nobody can write there, root neither.
    (tmp_path / "full").write_text("")
    path = str(tmp_path / "full" / "modes.json")
    with short_directory() as directory, owner(directory, path) as server:
        pump = add(server, "pump")
        answer, status = ask(server, "mode", "pump", "on", "1h")
        assert status == "503"
        assert "modes.json cannot be" in answer
        assert (pump.level, pump.details()["mode"]) == (0.0, "auto")
        assert ask(server, "exec", "pump", "power", "on", "600")[1] == "200"
        answer, status = ask(server, "mode", "pump", "off", "1h")
        assert status == "503"
        assert "pump did it" in answer
        assert (pump.level, pump.details()["mode"]) == (0.0, "off")
        assert "modes" in server.conditions


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"format": 1, "devices": {"pump": {"settings": {"mode": "on"}}}}', b'{"format": 9, "devices": {}}'],
)
def test_a_file_that_is_no_good_leaves_the_output_safe(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "modes.json"
    path.write_bytes(content)
    with short_directory() as directory, owner(directory, str(path)) as server:
        pump = add(server, "pump")
        assert (pump.level, pump.details()["mode"]) == (0.0, "auto")
        assert ask(server, "mode", "pump", "on", "1h")[1] == "200"
        assert pump.level == 1.0


def test_a_level_out_of_bounds_in_the_file_is_no_mode(tmp_path: Path) -> None:
    path = tmp_path / "modes.json"
    with short_directory() as directory:
        with owner(directory, str(path)) as server:
            add(server, "pump")
            assert ask(server, "mode", "pump", "on", "1h")[1] == "200"
        content = msgspec.json.decode(path.read_bytes())
        content["devices"]["pump"]["settings"]["level"] = 7
        path.write_bytes(msgspec.json.encode(content))
        with owner(directory, str(path)) as server:
            pump = add(server, "pump")
            server.turn(0.0)
            assert (pump.level, pump.details()["mode"]) == (0.0, "auto")


def test_a_device_that_is_deleted_leaves_no_mode_behind(tmp_path: Path) -> None:
    path = tmp_path / "modes.json"
    with short_directory() as directory, owner(directory, str(path)) as server:
        server.makes = frozenset(["test.relay"])  # type: ignore[misc]
        add(server, "pump")
        assert ask(server, "mode", "pump", "on", "1h")[1] == "200"
        assert ask(server, "delete", "pump")[1] == "200"
        assert add(server, "pump").details()["mode"] == "auto"
        until(server, lambda: msgspec.json.decode(path.read_bytes())["devices"] == {})


def test_nothing_goes_on_again_while_the_server_stops(server: DeviceServer) -> None:
    pump = add(server, "pump")
    assert ask(server, "mode", "pump", "on", "1h")[1] == "200"
    server.outputs.make_safe("the server stops")
    assert pump.level == 0.0
    for _ in range(30):
        server.turn(0.05)
    assert pump.level == 0.0


def test_a_reading_that_nothing_followed_is_no_reading(server: DeviceServer) -> None:
    pump = add(server, "pump", only_if="float")
    server.add_device(Contact.new({"name": "float", "poll": 0.1}))

    def goes_on() -> bool:
        # On a busy machine 0.3 s may be over before it is told.
        contact(server, "float", True)
        return ask(server, "exec", "pump", "power", "on", "3600")[1] == "200"

    until(server, goes_on)
    until(server, lambda: pump.level == 0.0)
    assert "the last reading of float is older than 0.3 s" in pump.details()["reason"]
    assert ask(server, "exec", "pump", "power", "on", "3600")[1] == "409"


def test_hardware_that_refuses_to_go_on_is_tried_by_time_alone(server: DeviceServer) -> None:
    class Stuck(Relay):
        tries = 0

        def drive(self, value: float) -> None:
            if value:
                self.tries += 1
                raise OSError("stuck at off")
            super().drive(value)

    pump = Stuck.new({"name": "pump"})
    server.add_device(pump)
    assert ask(server, "mode", "pump", "on", "1h")[1] == "200"
    assert pump.tries == 1
    assert "stuck at off" in pump.details()["waits"]
    server.publish_device(pump)
    assert pump.tries == 1
    until(server, lambda: pump.tries == 2)
    assert server.errors == 0


def test_a_mode_that_a_reboot_prolonged_is_not_prolonged_again(tmp_path: Path) -> None:
    path = tmp_path / "modes.json"
    with short_directory() as directory:
        with owner(directory, str(path), Boot("boot1")) as server:
            add(server, "pump")
            assert ask(server, "mode", "pump", "off", "1h")[1] == "200"
        with owner(directory, str(path), Boot("boot2", trusted=False)) as server:
            pump = add(server, "pump")
            server.turn(0.0)
            end = pump.manual.deadline()
            until(server, lambda: b"boot2" in path.read_bytes())
        # As if ten minutes had passed meanwhile: some milliseconds may be lost between two looks at the clock.
        content = msgspec.json.decode(path.read_bytes())
        content["devices"]["pump"]["settings"]["end"] -= 600
        path.write_bytes(msgspec.json.encode(content))
        with owner(directory, str(path), Boot("boot2", trusted=False)) as server:
            pump = add(server, "pump")
            server.turn(0.0)
            assert pump.manual.deadline() == pytest.approx(end - 600, abs=60)


# A disk that stalls, refuses, and comes back


class Disk:
    """Between the file and the disk: writes may be held, and fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.full = False
        self._replace = keptfile.replace
        monkeypatch.setattr(keptfile, "replace", self.replace)

    def replace(self, path: str, data: bytes) -> None:
        assert self.gate.wait(30)
        if self.full:
            raise OSError(28, "No space left on device")
        self._replace(path, data)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def kept(path: Path) -> dict[str, str]:
    """The modes that the file has."""
    devices = msgspec.json.decode(path.read_bytes())["devices"] if path.exists() else {}
    return {name: entry["settings"]["mode"] for name, entry in devices.items()}


def begin(server: DeviceServer, *words: str) -> list[list[bytes]]:
    """Send what is not answered yet."""
    replies: list[list[bytes]] = []
    server.handle(server.worker_devices(), [word.encode() for word in words], replies.append)
    return replies


@pytest.mark.parametrize("last", [("mode", "heater", "off", "2h"), ("exec", "heater", "reset", "1")])
def test_what_was_said_last_holds_though_the_disk_was_slow(tmp_path: Path, disk: Disk, last: tuple[str, ...]) -> None:
    path = tmp_path / "modes.json"
    with short_directory() as directory, owner(directory, str(path)) as server:
        heater = add(server, "heater")
        disk.gate.clear()
        on, off = begin(server, "mode", "heater", "on", "2h"), begin(server, *last)
        assert heater.level == 0.0
        disk.gate.set()
        until(server, lambda: on and off)
        assert off[0][-1] == b"200"
        assert 1.0 not in [level for _, level in heater.trace]
        assert kept(path) == ({"heater": "off"} if last[0] == "mode" else {})


@pytest.mark.parametrize(
    "words", [("exec", "heater", "reset", "1"), ("mode", "heater", "off", "1h"), ("mode", "heater", "auto")]
)
def test_what_makes_safe_is_done_on_a_full_disk_and_kept_once_there_is_room(
    tmp_path: Path, disk: Disk, words: tuple[str, ...]
) -> None:
    path = tmp_path / "modes.json"
    with short_directory() as directory, owner(directory, str(path)) as server:
        heater = add(server, "heater")
        assert ask(server, "mode", "heater", "on", "2h")[1] == "200"
        disk.full = True
        answer, status = ask(server, *words)
        assert (status, heater.level) == ("503", 0.0), "not acknowledged, as it is not kept, and done"
        assert "No space left" in answer
        disk.full = False
        until(server, lambda: kept(path) == ({"heater": "off"} if words[2] == "off" else {}))


def test_the_end_of_a_mode_is_written_though_the_disk_was_full(tmp_path: Path, disk: Disk) -> None:
    path = tmp_path / "modes.json"
    with short_directory() as directory, owner(directory, str(path)) as server:
        heater = add(server, "heater", longest_on=0.3)
        assert ask(server, "mode", "heater", "on", "2h")[1] == "200"
        disk.full = True
        until(server, lambda: heater.level == 0.0 and "modes" in server.conditions)
        disk.full = False
        until(server, lambda: kept(path) == {})


def test_what_was_refused_is_not_written_by_what_comes_later(tmp_path: Path, disk: Disk) -> None:
    path = tmp_path / "modes.json"
    with short_directory() as directory, owner(directory, str(path)) as server:
        heater = add(server, "heater")
        add(server, "pump")
        disk.full = True
        assert ask(server, "mode", "heater", "on", "2h")[1] == "503"
        assert ask(server, "mode", "heater", "off", "1h")[1] == "503"
        assert ask(server, "mode", "heater", "on", "2h")[1] == "503"
        disk.full = False
        assert ask(server, "mode", "pump", "off", "1h")[1] == "200"
        assert kept(path) == {"heater": "off", "pump": "off"}
        assert 1.0 not in [level for _, level in heater.trace]


def test_a_mode_that_was_over_before_it_was_written_is_not_done(tmp_path: Path, disk: Disk) -> None:
    path = tmp_path / "modes.json"
    with short_directory() as directory, owner(directory, str(path)) as server:
        heater = add(server, "heater")
        disk.gate.clear()
        replies = begin(server, "mode", "heater", "on", "0.2")
        late = time.monotonic() + 0.3
        until(server, lambda: time.monotonic() > late)
        disk.gate.set()
        until(server, lambda: replies and kept(path) == {})
        assert 1.0 not in [level for _, level in heater.trace]


def test_a_new_device_has_nothing_of_the_mode_of_another_of_its_name(tmp_path: Path) -> None:
    path = tmp_path / "modes.json"
    with short_directory() as directory:
        with owner(directory, str(path)) as server:
            add(server, "heater")
            assert ask(server, "mode", "heater", "on", "2h")[1] == "200"
        with owner(directory, str(path)) as server:
            server.turn(0.0)
            heater = Relay.new({"name": "heater"})
            server.add_device(heater, kept=False)
            assert (heater.level, heater.details()["mode"]) == (0.0, "auto")
            until(server, lambda: kept(path) == {})


@pytest.mark.parametrize("settings", [{"highest": 40}, {"modes": ""}])
def test_a_mode_that_the_settings_do_not_allow_any_more_is_over(tmp_path: Path, settings: dict[str, Any]) -> None:
    path = tmp_path / "modes.json"
    with short_directory() as directory:
        with owner(directory, str(path)) as server:
            add(server, "lamp", Lamp, modes="bright: 90 %")
            assert ask(server, "mode", "lamp", "bright", "2h")[1] == "200"
        with owner(directory, str(path)) as server:
            lamp = add(server, "lamp", Lamp, **({"modes": "bright: 30 %"} | settings))
            server.turn(0.0)
            assert (lamp.level, lamp.details()["mode"]) == (0.0, "auto")


def test_a_wish_above_the_highest_level_is_not_done() -> None:
    lamp = alone(Lamp)
    mode(lamp, "off", 60)
    lamp.exec_cmd("", "level", 100, Hold(1000, "scenario"))
    lamp.configure({"highest": 40})
    wait(lamp, 60)
    assert lamp.level == 0.0


def test_a_mode_survives_a_delete_that_failed(tmp_path: Path, disk: Disk) -> None:
    with short_directory() as directory:
        server = DeviceServer(hostname="pi", service="test", broker_ip=f"ipc://{directory}")
        server.types.register(Relay)
        server.makes = frozenset({"test.relay"})  # type: ignore[misc]
        server.keep_settings(str(tmp_path / "devices.json"), False)
        with started(server):
            assert ask(server, "new", '{"oid": "test.relay", "name": "heater"}')[1] == "200"
            heater = server.devices["heater"]
            assert ask(server, "mode", "heater", "off", "2h")[1] == "200"
            disk.full = True
            assert ask(server, "delete", "heater")[1] == "503"
            assert heater.details()["mode"] == "off"
            disk.full = False
            disk.gate.clear()
            replies = begin(server, "delete", "heater")
            assert ask(server, "mode", "heater", "on", "2h") == ("heater: it is being removed", "409")
            disk.gate.set()
            until(server, lambda: replies)
            assert replies[0][-1] == b"200"


def test_a_reboot_with_an_untrusted_clock_goes_on_with_what_was_left(tmp_path: Path) -> None:
    path = tmp_path / "modes.json"
    later = Boot("boot2", trusted=False, ahead=9 * 86_400)
    with short_directory() as directory:
        with owner(directory, str(path), Boot("boot1")) as server:
            pump = add(server, "pump")
            assert ask(server, "mode", "pump", "off", "10d")[1] == "200"
        with owner(directory, str(path), later) as server:
            pump = add(server, "pump")
            server.turn(0.0)
            assert pump.details()["mode_left"] > 9 * 86_400
            later.ahead = 11 * 86_400
            later.believed = True
            server.outputs.modes._look()
            assert pump.details()["mode"] == "auto", "the clock knows by now that it is over"


def test_what_another_is_on_only_with_is_deleted(server: DeviceServer) -> None:
    heater = add(server, "heater", never_with="chiller")
    add(server, "chiller")
    pump = add(server, "pump", only_if="float")
    contact(server, "float", True)
    assert ask(server, "exec", "heater", "power", "on", "3600")[1] == "200"
    assert ask(server, "exec", "pump", "power", "on", "3600")[1] == "200"
    server.remove_device("chiller")
    server.remove_device("float")
    assert (heater.level, pump.level) == (0.0, 0.0)


def test_rules_that_contradict_each_other_do_not_wear_the_relay() -> None:
    assert "only_if" in Relay.check({"name": "pump", "only_if": "not pump"})
    relay = alone()
    relay.interlock = lambda output: "the other is on" if output.held else ""
    mode(relay, "on", 3600)
    for _ in range(600):
        wait(relay, 1)
        relay.look()
    assert len([level for _, level in relay.trace if level]) < 25


def test_a_late_mode_is_an_event(server: DeviceServer) -> None:
    pump = add(server, "pump")
    told: list[dict[str, Any]] = []
    pump.on_event = lambda device, event: told.append(dict(event))
    server.outputs.report = lambda device, event: told.append(dict(event))  # type: ignore[method-assign, assignment]
    server.late(server.worker_devices(), [b"mode", b"pump,nothing", b"off"])
    assert told == [{"reason": "a command came too late", "command": "mode", "wanted": "off"}]


def test_a_mode_that_waited_before_is_not_made_to_wait_longer() -> None:
    relay = alone(shortest_off=2)
    for _ in range(5):
        mode(relay, "on", 600)
        wait(relay, 3.1)
        assert relay.level == 1.0
        relay.exec_cmd("", "reset", "")


def test_the_clock_is_set_in_the_boot_of_the_mode(tmp_path: Path) -> None:
    clock = Boot("boot1")
    with short_directory() as directory, owner(directory, str(tmp_path / "modes.json"), clock) as server:
        pump = add(server, "pump")
        server.turn(0.0)
        assert ask(server, "mode", "pump", "on", "2h")[1] == "200"
        clock.ahead = 86_400
        server.outputs.modes._look()
        assert (pump.level, pump.details()["mode"]) == (1.0, "on")


def test_the_longest_time_on_counts_though_an_interlock_was_looked_at_first() -> None:
    relay = alone(longest_on=10)
    held = [""]
    relay.interlock = lambda output: held[0]
    power(relay, True, 100)
    # The loop stood still until after the end, and the first thing that it does is to take a reading.
    relay.clock.now += 11  # type: ignore[attr-defined]
    held[0] = "the float is down"
    relay.look()
    held[0] = ""
    wait(relay, 5)
    with pytest.raises(Refused, match="told off"):
        power(relay, True)


def test_a_mode_that_waited_until_its_end_does_not_go_on_any_more() -> None:
    relay = alone()
    held = ["the chiller is on"]
    relay.interlock = lambda output: held[0]
    mode(relay, "on", 5)
    # What it waited for ends in the same moment, and is seen to before.
    relay.clock.now += 5  # type: ignore[attr-defined]
    held[0] = ""
    relay.look()
    relay.settle()
    assert [level for _, level in relay.trace if level] == []
    assert relay.details()["mode"] == "auto"


@pytest.mark.parametrize("lowered", [False, True])
def test_a_mode_is_over_when_the_longest_time_on_is_reached_in_a_break_that_does_not_count(lowered: bool) -> None:
    relay = alone(longest_on=40)
    held = [""]
    relay.interlock = lambda output: held[0]
    mode(relay, "on", 300)
    wait(relay, 38)
    if lowered:
        # It has been on for longer already than it may be from now on.
        relay.exec_cmd("", "config", '{"longest_on": 20}')
        wait(relay, 0)
    else:
        held[0] = "the float is down"
        relay.look()
        wait(relay, 3)
        held[0] = ""
        relay.look()
    details = relay.details()
    assert (relay.level, details["mode"], "locked" in details) == (0.0, "auto", True)
    assert "longest time" in relay.told[-1]["reason"]


def test_a_failure_while_it_was_off_long_ago_is_no_longest_time_on() -> None:
    relay = alone(longest_on=600)
    power(relay, True, 60)
    wait(relay, 18_000)
    relay.broken = True
    with pytest.raises(DriveError):
        power(relay, False)
    relay.broken = False
    wait(relay, 1)
    power(relay, True, 60)
    assert (relay.level, relay.details()["on_left"]) == (1.0, 599)


def test_what_an_interlock_refuses_is_off_at_once() -> None:
    relay = alone()
    held = [""]
    relay.interlock = lambda output: held[0]
    power(relay, True, 100)
    # The loop stood still, and a command comes before the look that is due.
    held[0] = "nobody has heard the float"
    with pytest.raises(Refused, match="float"):
        power(relay, True)
    assert (relay.level, relay.held) == (0, False)


def test_an_interlock_does_not_keep_on_what_is_on_its_way_off() -> None:
    lamp = alone(Lamp, safe=40, ramp=10)
    lamp.interlock = lambda output: "the heater is not known to be off"
    lamp.exec_cmd("", "level", 0, Hold(60))
    wait(lamp, 1)
    lamp.look()
    wait(lamp, 9)
    assert lamp.level == 0
    lamp.exec_cmd("", "mode", "off", Hold(60))
    lamp.look()
    assert lamp.level == 0
