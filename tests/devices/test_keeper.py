"""raspy.common.devices.keeper: the settings of devices over restarts, with a real disk and a real Titanic."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Meta

from raspy.common import MDP
from raspy.common.devices import keptfile, verbs
from raspy.common.devices.changes import CHANGES_LIMIT
from raspy.common.devices.device import Command, DeviceSettings
from raspy.common.devices.host import DeviceServer
from raspy.common.devices.keeper import WAITING
from raspy.common.devices.keptfile import Kept, KeptFile
from raspy.common.devices.sensor import SensorDevice
from raspy.common.devices.switch import Switch
from raspy.common.executive import Executive
from raspy.common.server import Server
from raspy.servers.fake.tv import FakeTV
from tests.servers.titanic_stage import Ship, at_sea
from tests.support_devices import LIMIT, reading, short_directory, started, until

RAW = 20.0


class ThermometerSettings(DeviceSettings, kw_only=True, forbid_unknown_fields=True):
    """Has something that must not be lost."""

    offset: Annotated[float, Meta(ge=-10, le=10)] = 0.0


class Thermometer(SensorDevice):
    """Reads 20 degrees and its offset."""

    oid = "test.thermometer"
    Settings: ClassVar[type[DeviceSettings]] = ThermometerSettings
    declared: ClassVar[tuple[Command, ...]] = (Command(name="temperature", type="Real", unit="°C", readonly=True),)

    def do_poll(self) -> Mapping[str, Any]:
        assert isinstance(self.config, ThermometerSettings)
        return {"temperature": RAW + self.config.offset}


class Made(Thermometer):
    """One that an owner makes."""

    oid = "test.made"


class Picky(Thermometer):
    """Cannot live with an offset of seven."""

    oid = "test.picky"

    def settings_changed(self) -> None:
        assert isinstance(self.config, ThermometerSettings)
        if self.config.offset == 7:
            raise RuntimeError("seven")
        super().settings_changed()


class Relay(Switch):
    """Remembers what it was driven to."""

    def __init__(self, json: Any = None) -> None:
        self.driven: list[float] = []
        super().__init__(json)

    def drive(self, value: float) -> None:
        self.driven.append(value)


class Rig(DeviceServer):
    """A server with two thermometers, and a place where owners make more."""

    makes = frozenset({"test.made"})
    fixed = frozenset({"one", "two", "relay"})
    shared = ""

    def __init__(self, broker_ip: str, path: Path | None = None, store: bool = False) -> None:
        super().__init__("pi", "rig", broker_ip)
        self.types.register(Thermometer)
        self.types.register(Made)
        self.types.register(Picky)
        self.types.register(FakeTV)
        self.types.register(Relay)
        if path is not None:
            self.keep_settings(str(path / "devices.json"), store)

    def start(self) -> None:
        super().start()
        for name in ("one", "two"):
            self.add_device(Thermometer.new({"name": name, "poll": 0.1}))
        self.add_device(Relay.new({"name": "relay"}))

    def settings_place(self, name: str) -> str:
        return "probes" if name == "two" else self.name

    def settings_places(self) -> tuple[str, ...]:
        return self.name, "probes"


@pytest.fixture
def nowhere() -> Generator[str, None, None]:
    with short_directory() as directory:
        yield f"ipc://{directory}"


def verb(rig: Rig, *words: str) -> tuple[Any, str]:
    """Answer and status of a verb, which may need the disk."""
    replies: list[list[bytes]] = []
    rig.handle(rig.worker_devices(), [word.encode() for word in words], replies.append)
    until(rig, lambda: replies)
    return msgspec.json.decode(replies[0][0]), replies[0][1].decode()


def temperature(rig: Rig, name: str) -> Any:
    found = reading(rig, name, "temperature")
    return None if found is None else found.value if found.quality == "ok" else found.reason


def becomes(rig: Rig, name: str, value: Any) -> None:
    until(rig, lambda: temperature(rig, name) == value)


# The file


def test_a_change_is_there_after_a_restart(nowhere: str, tmp_path: Path) -> None:
    with started(Rig(nowhere, tmp_path)) as rig:
        becomes(rig, "one", RAW)
        assert verb(rig, "exec", "one", "config", '{"offset": 1.5, "label": "Pond"}')[1] == "200"
        assert verb(rig, "exec", "one", "poll", "0.2")[1] == "200"
        assert verb(rig, "exec", "one", "log", "false")[1] == "200"
    with started(Rig(nowhere, tmp_path)) as rig:
        becomes(rig, "one", RAW + 1.5)
        one = rig.devices["one"]
        assert (one.label, one.poll, one.log) == ("Pond", 0.2, False)
        assert temperature(rig, "two") == RAW


def test_it_is_on_the_disk_when_it_is_acknowledged(nowhere: str, tmp_path: Path) -> None:
    with started(Rig(nowhere, tmp_path)) as rig:
        verb(rig, "exec", "one", "config", '{"offset": 2}')
        content = msgspec.json.decode((tmp_path / "devices.json").read_bytes())
        assert content["devices"]["one"]["settings"]["offset"] == 2


def test_what_cannot_be_kept_is_refused_and_undone(nowhere: str, tmp_path: Path) -> None:
    (tmp_path / "devices.json.new").mkdir()  # in the way of the new version
    with started(Rig(nowhere, tmp_path)) as rig:
        answer, status = verb(rig, "exec", "one", "config", '{"offset": 2}')
        assert status == MDP.UNAVAILABLE.decode()
        assert "devices.json" in answer
        assert rig.devices["one"].to_dict()["offset"] == 0
        assert "settings" in rig.conditions
        answer, status = verb(rig, "new", '{"oid": "test.made", "name": "pond"}')
        assert status == MDP.UNAVAILABLE.decode()
        assert "pond" not in rig.devices
        (tmp_path / "devices.json.new").rmdir()
        assert verb(rig, "exec", "one", "config", '{"offset": 3}')[1] == "200"
        assert "settings" not in rig.conditions
        assert rig.devices["one"].to_dict()["offset"] == 3


def test_a_refused_setting_is_not_kept(nowhere: str, tmp_path: Path) -> None:
    with started(Rig(nowhere, tmp_path)) as rig:
        answer, status = verb(rig, "exec", "one", "config", '{"offset": 99}')
        assert status == "400"
        assert "offset" in answer
        assert not (tmp_path / "devices.json").exists()


def test_a_device_that_was_made_is_made_again(nowhere: str, tmp_path: Path) -> None:
    with started(Rig(nowhere, tmp_path)) as rig:
        answer, status = verb(rig, "new", '{"oid": "test.made", "name": "pond", "offset": 1, "poll": 0.1}')
        assert (status, answer["name"], answer["offset"]) == ("200", "pond", 1)
        becomes(rig, "pond", RAW + 1)
    with started(Rig(nowhere, tmp_path)) as rig:
        becomes(rig, "pond", RAW + 1)
        assert verb(rig, "delete", "pond") == (None, "200")
        assert "pond" not in rig.devices
    with started(Rig(nowhere, tmp_path)) as rig:
        becomes(rig, "one", RAW)
        assert "pond" not in rig.devices


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["new", '{"oid": "test.thermometer", "name": "x"}'], "cannot be made here; what can be: test.made"),
        (["new", '{"oid": "test.made", "name": "one"}'], "there is a device one already"),
        (["new", '{"oid": "test.made"}'], "name: is missing"),
        (["new", '{"oid": "test.made", "name": "x", "offset": "warm"}'], "offset"),
        (["new", "no json"], "JSON"),
        (["delete", "one"], "one comes with the server"),
    ],
)
def test_what_cannot_be_made_or_deleted_is_said(nowhere: str, tmp_path: Path, words: list[str], reason: str) -> None:
    with started(Rig(nowhere, tmp_path)) as rig:
        answer, status = verb(rig, *words)
        assert status == "400"
        assert reason in answer
        assert sorted(rig.devices) == ["one", "relay", "two"]


def test_a_damaged_file_is_set_aside_and_nothing_is_passed_off_as_good(nowhere: str, tmp_path: Path) -> None:
    with started(Rig(nowhere, tmp_path)) as rig:
        verb(rig, "exec", "one", "config", '{"offset": 2}')
    (tmp_path / "devices.json").write_bytes(b"\0" * 4096)
    for _ in range(2):  # also at the start after that, when the file as such is good again
        with started(Rig(nowhere, tmp_path)) as rig:
            until(rig, lambda: temperature(rig, "one") is not None)
            assert "its settings were lost" in temperature(rig, "one")
            answer, status = verb(rig, "exec", "relay", "power", "on")
            assert (status, rig.devices["relay"].driven[-1]) == ("409", 0.0)  # type: ignore[attr-defined]
            assert "settings" in answer
    aside = [name for name in os.listdir(tmp_path) if ".damaged-" in name]
    assert len(aside) == 1
    assert (tmp_path / aside[0]).read_bytes() == b"\0" * 4096
    with started(Rig(nowhere, tmp_path)) as rig:
        assert verb(rig, "exec", "one", "config", '{"offset": 2}')[1] == "200"
        becomes(rig, "one", RAW + 2)
        assert "its settings were lost" in temperature(rig, "two")


def test_a_file_that_cannot_be_read_is_not_overwritten(nowhere: str, tmp_path: Path) -> None:
    (tmp_path / "devices.json").mkdir()
    with started(Rig(nowhere, tmp_path)) as rig:
        until(rig, lambda: temperature(rig, "one") is not None)
        assert "cannot be read" in temperature(rig, "one")
        assert verb(rig, "exec", "one", "config", '{"offset": 2}')[1] == MDP.UNAVAILABLE.decode()
        assert "cannot be read" in rig.conditions["settings"]


def test_two_changes_at_once_are_made_one_after_the_other(
    nowhere: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the disk hangs over the first, and then fails: the second is what is kept, and holds."""
    monkeypatch.setattr(verbs, "PATIENCE", 0.1)
    fifo = tmp_path / "devices.json.new"
    with started(Rig(nowhere, tmp_path)) as rig:
        os.mkfifo(fifo)
        answer, status = verb(rig, "exec", "one", "config", '{"offset": 1, "poll": 0.5}')
        assert status == MDP.UNAVAILABLE.decode()
        assert "may be kept yet" in answer
        assert rig.devices["one"].to_dict()["offset"] == 0, "what is not kept does not hold"
        replies: list[list[bytes]] = []
        rig.handle(rig.worker_devices(), [b"exec", b"one", b"config", b'{"offset": 2}'], replies.append)
        # An output can be told something all the while.
        assert verb(rig, "exec", "relay", "power", "on")[1] == "200"
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        fifo.unlink()
        until(rig, lambda: rig.devices["one"].to_dict()["offset"] == 2)
        os.close(reader)
        assert rig.devices["one"].poll == 0.1
    kept = msgspec.json.decode((tmp_path / "devices.json").read_bytes())["devices"]["one"]["settings"]
    assert (kept["offset"], kept["poll"]) == (2, 0.1)


def test_of_one_device_a_bounded_number_of_changes_waits_for_the_disk(
    nowhere: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbs, "PATIENCE", LIMIT)
    fifo = tmp_path / "devices.json.new"
    replies: list[list[bytes]] = []
    with started(Rig(nowhere, tmp_path)) as rig:
        os.mkfifo(fifo)
        for number in range(CHANGES_LIMIT):
            request = [b"exec", b"one", b"config", b'{"offset": %d}' % (number % 10)]
            rig.handle(rig.worker_devices(), request, replies.append)
        answer, status = verb(rig, "exec", "one", "config", '{"offset": -1}')
        assert (status, answer) == (
            MDP.UNAVAILABLE.decode(),
            f"one: {CHANGES_LIMIT} changes of its settings wait for the disk",
        )
        rig.handle(rig.worker_devices(), [b"exec", b"two", b"config", b'{"offset": 1}'], replies.append)
        assert replies == [], "another device's may wait too"
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        fifo.unlink()
        until(rig, lambda: len(replies) == CHANGES_LIMIT + 1)
        os.close(reader)
        assert rig.devices["one"].to_dict()["offset"] == (CHANGES_LIMIT - 1) % 10, "the last that was taken"
        assert verb(rig, "exec", "one", "config", '{"offset": -1}')[1] == "200"


def test_settings_of_a_part_are_kept_with_its_device(nowhere: str, tmp_path: Path) -> None:
    for label in ("volume", "Loud"):
        with started(Rig(nowhere, tmp_path)) as rig:
            rig.add_device(FakeTV.new({"name": "tv"}))
            part = rig.devices["tv"].subdevices["volume"]
            assert part.label == label
            assert verb(rig, "exec", "tv.volume", "config", '{"label": "Loud"}')[1] == "200"
            assert part.label == "Loud"
            answer, status = verb(rig, "exec", "tv.volume", "config", '{"poll": -7}')
            assert (status, "poll" in answer) == ("400", True)
    kept = msgspec.json.decode((tmp_path / "devices.json").read_bytes())["devices"]
    assert list(kept) == ["tv"]
    assert kept["tv"]["settings"]["subdevices"]["volume"]["label"] == "Loud"


def test_settings_that_a_device_cannot_live_with_are_neither_held_nor_kept(nowhere: str, tmp_path: Path) -> None:
    with started(Rig(nowhere, tmp_path)) as rig:
        rig.add_device(Picky.new({"name": "picky", "poll": 0.1}))
        assert verb(rig, "exec", "picky", "config", '{"offset": 2}')[1] == "200"
        answer, status = verb(rig, "exec", "picky", "config", '{"offset": 7}')
        assert status == "400"
        assert "test.picky cannot live with them: RuntimeError: seven" in answer
        becomes(rig, "picky", RAW + 2)
        until(rig, lambda: rig.keeper.find("picky") is not None and b'"offset":7' not in compact(tmp_path))
    with started(Rig(nowhere, tmp_path)) as rig:
        rig.add_device(Picky.new({"name": "picky", "poll": 0.1}))
        becomes(rig, "picky", RAW + 2)


def compact(path: Path) -> bytes:
    return (path / "devices.json").read_bytes().replace(b" ", b"")


def test_a_device_that_is_asked_for_twice_is_made_once_and_stays(
    nowhere: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the disk hangs over the first: the second, refused, must not take the first one's settings away."""
    monkeypatch.setattr(verbs, "PATIENCE", 0.1)
    fifo = tmp_path / "devices.json.new"
    words = ("new", '{"oid": "test.made", "name": "pond"}')
    with started(Rig(nowhere, tmp_path)) as rig:
        os.mkfifo(fifo)
        assert verb(rig, *words)[1] == MDP.UNAVAILABLE.decode()
        answer, status = verb(rig, *words)
        assert (status, "there is a device pond already" in answer) == ("400", True)
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        fifo.unlink()
        until(rig, lambda: not rig.changes.changing("pond"))
        os.close(reader)
        with monkeypatch.context() as patience:
            # The disk of a busy machine takes longer than that for what it does take.
            patience.setattr(verbs, "PATIENCE", LIMIT)
            assert verb(rig, *words)[1] == "200"
    with started(Rig(nowhere, tmp_path)) as rig:
        assert "pond" in rig.devices
        os.mkfifo(fifo)
        assert verb(rig, "delete", "pond")[1] == MDP.UNAVAILABLE.decode()
        assert verb(rig, "exec", "pond", "poll", "5")[1] == MDP.UNAVAILABLE.decode()
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        fifo.unlink()
        until(rig, lambda: not rig.changes.changing("pond"))
        os.close(reader)
        assert "pond" in rig.devices, "what could not be kept is not so"


def test_a_second_process_of_the_same_server_does_not_start(
    nowhere: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keptfile, "LOCK_PATIENCE", 0.0)
    with started(Rig(nowhere, tmp_path)) as rig:
        becomes(rig, "one", RAW)
        other = Rig(nowhere, tmp_path)
        with pytest.raises(keptfile.KeepError, match="another process uses it"):
            other.start()
        other.stop()
        other.destroy()
    with started(Rig(nowhere, tmp_path)) as rig:
        becomes(rig, "one", RAW)


@pytest.mark.parametrize("name", ["two", "other", "", "relay"])
def test_a_record_of_another_name_is_no_good(nowhere: str, tmp_path: Path, name: str) -> None:
    record = {"oid": "test.thermometer", "name": name, "offset": 5}
    relay = {"oid": "switch", "name": name}
    content = {"format": 1, "devices": {"one": {"settings": record}, "relay": {"settings": relay}}}
    (tmp_path / "devices.json").write_bytes(msgspec.json.encode(content))
    with started(Rig(nowhere, tmp_path)) as rig:
        until(rig, lambda: temperature(rig, "one") is not None)
        assert sorted(rig.devices) == sorted(device.name for device in rig.devices.values()) == ["one", "relay", "two"]
        assert "its settings are no good: name" in temperature(rig, "one")
        becomes(rig, "two", RAW)
        assert verb(rig, "exec", "one", "config", '{"offset": 1}')[1] == "200"
        becomes(rig, "one", RAW + 1)


def test_much_json_is_refused_before_it_is_decoded(nowhere: str, tmp_path: Path) -> None:
    much = msgspec.json.encode({f"key{number}": number for number in range(40_000)}).decode()
    with started(Rig(nowhere, tmp_path)) as rig:
        assert verb(rig, "exec", "one", "config", much)[1] == "400"
        assert verb(rig, "new", much)[1] == "400"
        assert "at most" in verb(rig, "check", much)[0]["errors"][""]


class Bare(Server):
    """For the file alone."""


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=5),
        lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=8), each, max_size=3),
    ).map(lambda found: msgspec.json.encode({"format": 1, "devices": found}))
)
def test_no_file_can_stop_a_server(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "devices.json"
    path.write_bytes(data)
    server = Bare()
    try:
        kept = KeptFile(server, str(path)).load()
        assert all(isinstance(each, Kept) for each in kept.values())
        assert kept or server.conditions or b'"devices":{}' in data
    finally:
        server.destroy()


# The store


@pytest.fixture
def ship(tmp_path: Path) -> Generator[Ship, None, None]:
    with at_sea(str(tmp_path / "titanic")) as found:
        yield found


def rig_on(ship: Ship, path: Path) -> AbstractContextManager[Rig]:
    return started(Rig(ship.bus.ip, path, store=True))


def stored(ship: Ship, place: str, name: str) -> Any:
    value, status = ship.store("get", place, "devices", name)
    return value["value"] if status == MDP.OK else None


def in_store(rig: Rig, ship: Ship, place: str, name: str, holds: Callable[[Any], bool]) -> None:
    """Turn the server's loop until the store has it."""
    until(rig, lambda: holds(stored(ship, place, name)))


def test_an_uncalibrated_probe_is_never_passed_off_as_good(ship: Ship, tmp_path: Path) -> None:
    with rig_on(ship, tmp_path / "a") as rig:
        becomes(rig, "one", WAITING)
        answer, status = verb(rig, "exec", "relay", "power", "on")
        assert status == "409"
        assert WAITING in answer
        ship.start()
        becomes(rig, "one", RAW)
        becomes(rig, "two", RAW)
        assert verb(rig, "exec", "relay", "power", "on")[1] == "200"
    ship.stop()
    # What is known once needs nobody.
    with rig_on(ship, tmp_path / "a") as rig:
        becomes(rig, "one", RAW)


def test_of_a_device_that_was_never_there_nothing_is_left(ship: Ship, tmp_path: Path) -> None:
    ship.start()
    with rig_on(ship, tmp_path / "a") as rig:
        becomes(rig, "one", RAW)
        until(rig, lambda: "two" in rig.keeper.names())
        rig.remove_device("two")
        assert "two" not in rig.keeper.names()
    assert "two" not in msgspec.json.decode((tmp_path / "a" / "devices.json").read_bytes())["devices"]


def test_settings_survive_a_swap_of_the_card(ship: Ship, tmp_path: Path) -> None:
    ship.start()
    with rig_on(ship, tmp_path / "old") as rig:
        becomes(rig, "one", RAW)
        verb(rig, "exec", "one", "config", '{"offset": 1}')
        verb(rig, "exec", "two", "config", '{"offset": 2}')
        verb(rig, "new", '{"oid": "test.made", "name": "pond", "offset": 3, "poll": 0.1}')
        in_store(rig, ship, "pi.rig", "pond", bool)
        assert stored(ship, "pi.rig", "one")["offset"] == 1
        assert stored(ship, "probes", "two")["offset"] == 2
        assert stored(ship, "pi.rig", "two") is None
    with rig_on(ship, tmp_path / "new") as rig:
        becomes(rig, "one", RAW + 1)
        becomes(rig, "two", RAW + 2)
        becomes(rig, "pond", RAW + 3)


def test_what_is_changed_in_the_store_is_taken_over(ship: Ship, tmp_path: Path) -> None:
    ship.start()
    with rig_on(ship, tmp_path / "a") as rig:
        becomes(rig, "one", RAW)
        verb(rig, "exec", "one", "config", '{"offset": 1}')
        in_store(rig, ship, "pi.rig", "one", bool)
        value = stored(ship, "pi.rig", "one") | {"offset": 4}
        ship.store("set", "pi.rig", "devices", "one", msgspec.json.encode(value))
        rig.keeper.look()
        becomes(rig, "one", RAW + 4)
    ship.stop()
    with rig_on(ship, tmp_path / "a") as rig:
        becomes(rig, "one", RAW + 4)


def test_a_change_made_while_titanic_is_away_reaches_it_later(ship: Ship, tmp_path: Path) -> None:
    ship.start()
    with rig_on(ship, tmp_path / "a") as rig:
        becomes(rig, "one", RAW)
        verb(rig, "exec", "one", "config", '{"offset": 1}')
        in_store(rig, ship, "pi.rig", "one", bool)
        value = stored(ship, "pi.rig", "one") | {"offset": 4}
        ship.store("set", "pi.rig", "devices", "one", msgspec.json.encode(value))
        ship.stop()
        assert verb(rig, "exec", "one", "config", '{"offset": 2}')[1] == "200"
    with rig_on(ship, tmp_path / "a") as rig:
        becomes(rig, "one", RAW + 2)
        ship.start()
        in_store(rig, ship, "pi.rig", "one", lambda found: found["offset"] == 2)
        becomes(rig, "one", RAW + 2)


def test_a_deleted_device_stays_deleted(ship: Ship, tmp_path: Path) -> None:
    ship.start()
    with rig_on(ship, tmp_path / "a") as rig:
        becomes(rig, "one", RAW)
        verb(rig, "new", '{"oid": "test.made", "name": "pond", "poll": 0.1}')
        in_store(rig, ship, "pi.rig", "pond", bool)
        ship.stop()
        assert verb(rig, "delete", "pond")[1] == "200"
    with rig_on(ship, tmp_path / "a") as rig:
        ship.start()
        in_store(rig, ship, "pi.rig", "pond", lambda found: found is None)
        assert "pond" not in rig.devices


def test_a_store_that_lost_everything_gets_it_back(ship: Ship, tmp_path: Path) -> None:
    ship.start()
    with rig_on(ship, tmp_path / "a") as rig:
        becomes(rig, "one", RAW)
        verb(rig, "exec", "one", "config", '{"offset": 1}')
        in_store(rig, ship, "pi.rig", "one", bool)
        ship.store("delete", "pi.rig")
        rig.keeper.look()
        in_store(rig, ship, "pi.rig", "one", lambda found: found is not None and found["offset"] == 1)


@pytest.mark.parametrize("value", ['{"offset": 99}', '"text"', "[1]", '{"oid": "test.made"}', '{"unknown": 1}'])
def test_settings_in_the_store_that_are_none_are_told(ship: Ship, tmp_path: Path, value: str) -> None:
    ship.start()
    with rig_on(ship, tmp_path / "a") as rig:
        becomes(rig, "one", RAW)
        verb(rig, "exec", "one", "config", '{"offset": 1}')
        in_store(rig, ship, "pi.rig", "one", bool)
        ship.store("set", "pi.rig", "devices", "one", value)
        rig.keeper.look()
        until(rig, lambda: "one" in rig.conditions.get("store", ""))
        becomes(rig, "one", RAW + 1)
        assert rig.errors == 0
        # An owner's next word is the cure.
        verb(rig, "exec", "one", "config", '{"offset": 2}')
        in_store(rig, ship, "pi.rig", "one", lambda found: isinstance(found, dict) and found.get("offset") == 2)
        until(rig, lambda: "store" not in rig.conditions)


def test_an_unknown_device_in_the_store_costs_nobody_anything(ship: Ship, tmp_path: Path) -> None:
    ship.start()
    ship.store("set", "pi.rig", "devices", "strange", '{"oid": "no.such", "name": "strange"}')
    ship.store("set", "pi.rig", "devices", "../../etc", '{"oid": "test.made", "name": "../../etc"}')
    ship.store("set", "probes", "devices", "elsewhere", '{"oid": "test.thermometer", "offset": 1}')
    with rig_on(ship, tmp_path / "a") as rig:
        becomes(rig, "one", RAW)
        until(rig, lambda: any("../../etc" in name for name in rig.conditions))
        assert sorted(rig.devices) == ["one", "relay", "two"]
        assert "elsewhere" not in rig.keeper.names()
        assert isinstance(rig, Executive)
        assert rig.errors == 0


def test_settings_that_are_not_known_yet_are_not_overwritten(ship: Ship, tmp_path: Path) -> None:
    ship.start()
    ship.store("set", "pi.rig", "devices", "one", '{"oid": "test.thermometer", "name": "one", "offset": -2.0}')
    ship.stop()
    with rig_on(ship, tmp_path / "new card") as rig:
        becomes(rig, "one", WAITING)
        for words in (("log", "true"), ("poll", "5"), ("config", '{"label": "Pond"}')):
            answer, status = verb(rig, "exec", "one", *words)
            assert (status, WAITING in answer) == (MDP.CONFLICT.decode(), True)
        assert temperature(rig, "one") == WAITING
        ship.start()
        becomes(rig, "one", RAW - 2)
        assert verb(rig, "exec", "one", "config", '{"label": "Pond"}')[1] == "200"
        in_store(rig, ship, "pi.rig", "one", lambda found: found.get("label") == "Pond" and found["offset"] == -2)


def test_lost_settings_that_the_store_never_had_are_not_taken_for_none(ship: Ship, tmp_path: Path) -> None:
    with started(Rig(ship.bus.ip, tmp_path / "a", store=False)) as rig:
        assert verb(rig, "exec", "one", "config", '{"offset": 3}')[1] == "200"
    (tmp_path / "a" / "devices.json").write_bytes(b"no json")
    with rig_on(ship, tmp_path / "a") as rig:
        ship.start()
        until(rig, lambda: "were lost" in str(temperature(rig, "one")))
        assert verb(rig, "exec", "relay", "power", "on")[1] == MDP.CONFLICT.decode()
        assert verb(rig, "exec", "one", "config", '{"offset": 3}')[1] == "200"
        becomes(rig, "one", RAW + 3)
    # Once the owner has looked at what was set aside and deleted it, that is over.
    for path in (tmp_path / "a").glob("*.damaged-*"):
        path.unlink()
    with rig_on(ship, tmp_path / "a") as rig:
        becomes(rig, "two", RAW)
        assert "settings damaged" not in rig.conditions


def test_a_restored_store_is_taken_over_whatever_its_versions_are(ship: Ship, tmp_path: Path) -> None:
    ship.start()
    with rig_on(ship, tmp_path / "a") as rig:
        becomes(rig, "one", RAW)
        verb(rig, "exec", "one", "config", '{"label": "new card"}')
        in_store(rig, ship, "pi.rig", "one", bool)
        ship.stop()
        for path in (tmp_path / "titanic").iterdir():
            path.unlink()
        ship.start()
        record = {"oid": "test.thermometer", "name": "one", "offset": 4.0}
        ship.store("set", "pi.rig", "devices", "one", msgspec.json.encode(record))
        rig.keeper.look()
        becomes(rig, "one", RAW + 4)


def test_a_partial_entry_means_the_same_before_and_after_a_restart(ship: Ship, tmp_path: Path) -> None:
    ship.start()
    with rig_on(ship, tmp_path / "a") as rig:
        becomes(rig, "one", RAW)
        verb(rig, "exec", "one", "config", '{"offset": 2}')
        in_store(rig, ship, "pi.rig", "one", bool)
        ship.store("set", "pi.rig", "devices", "one", '{"label": "tank"}')
        rig.keeper.look()
        until(rig, lambda: rig.devices["one"].label == "tank")
        becomes(rig, "one", RAW + 2)
        in_store(rig, ship, "pi.rig", "one", lambda found: found.get("offset") == 2 and found["label"] == "tank")
    with rig_on(ship, tmp_path / "a") as rig:
        becomes(rig, "one", RAW + 2)
        assert rig.devices["one"].label == "tank"


def test_what_no_device_has_use_for_is_neither_kept_nor_brought_back(ship: Ship, tmp_path: Path) -> None:
    ship.start()
    for number in range(30):
        ship.store("set", "pi.rig", "devices", f"junk{number}", '{"oid": "no.such"}')
    with rig_on(ship, tmp_path / "a") as rig:
        becomes(rig, "one", RAW)
        assert sorted(rig.keeper.names()) == ["one", "relay", "two"]
        ship.store("delete", "pi.rig")
        assert verb(rig, "exec", "one", "config", '{"offset": 1}')[1] == "200"
        in_store(rig, ship, "pi.rig", "one", bool)
        assert ship.store("list", "pi.rig", "devices")[0]["keys"].keys() == {"one"}


@pytest.mark.parametrize("name", ["two", "other", ""])
def test_a_record_in_the_store_under_another_name_is_refused(ship: Ship, tmp_path: Path, name: str) -> None:
    ship.start()
    with rig_on(ship, tmp_path / "a") as rig:
        becomes(rig, "one", RAW)
        verb(rig, "exec", "relay", "power", "on", "600")
        for device, oid in (("one", "test.thermometer"), ("relay", "switch")):
            record = {"oid": oid, "name": name}
            ship.store("set", "pi.rig", "devices", device, msgspec.json.encode(record))
        rig.keeper.look()
        until(rig, lambda: "relay: name: never changes" in rig.conditions.get("store", ""))
        assert all(device.name == key for key, device in rig.devices.items())
        assert verb(rig, "exec", "relay", "power", "off")[1] == "200"
        assert rig.devices["relay"].driven[-1] == 0.0  # type: ignore[attr-defined]
        assert rig.errors == 0
