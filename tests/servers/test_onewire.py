"""raspy.servers.onewire.OneWire on simulated buses, with a real broker where the tree counts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from unittest import mock

import msgspec
import pytest

from raspy.common import MDP
from raspy.common.config import Config, ConfigError
from raspy.common.devices.value import Value
from raspy.common.mdcliapi import MajorDomoClient
from raspy.servers import onewire
from raspy.servers.onewire import OneWire, OneWireConfig, reader, sysfs
from raspy.servers.onewire.simulate import BAD, GOOD, Tree, main
from tests.support_devices import LIMIT, ask, broker, follow, reading, short_directory, started, until

PROBE = "28-031655c9d5ff"
OTHER = "28-000004a1c1e6"
NONE = {"good": 0, "retried": 0, "crc": 0, "power-on": 0, "timeout": 0, "gone": 0}


@pytest.fixture
def nowhere() -> Generator[str, None, None]:
    """A broker_ip where no broker is."""
    with short_directory() as directory:
        yield f"ipc://{directory}"


def server(broker_ip: str, path: Path, poll: float = 0.2, timeout: float = 8.0) -> OneWire:
    settings = OneWireConfig(devices_dir=str(path), poll=poll, timeout=timeout)
    return OneWire(hostname="pi", broker_ip=broker_ip, settings=settings)


def quality(owner: OneWire, name: str) -> str:
    found = reading(owner, name, "temperature")
    return "none" if found is None else found.quality


def test_the_real_readings_reach_the_tree(tmp_path: Path) -> None:
    Tree.of_real_readings(str(tmp_path))
    with broker() as broker_ip, started(server(broker_ip, tmp_path, poll=10, timeout=8)) as owner:
        tree = follow(owner)
        until(owner, lambda: len(tree) == len(GOOD) + len(BAD))
        values = {key: Value.decode(body) for key, body in tree.items()}
    for name, (_, degrees) in GOOD.items():
        value = values.pop(f"/device/pi.onewire.{name}/temperature")
        assert (value.number(), value.unit, value.quality, value.max_age) == (degrees, "°C", "ok", 30)
    for name in BAD:
        value = values.pop(f"/device/pi.onewire.{name}/temperature")
        assert value.quality == "error"
        assert isinstance(value.reason, str)
        assert b"value" not in value.encode()
    assert not values


def test_values_come_again_before_they_are_too_old(nowhere: str, tmp_path: Path) -> None:
    Tree(str(tmp_path)).add(PROBE, GOOD[PROBE][0])
    with started(server(nowhere, tmp_path, poll=0.1)) as owner:
        seen: list[float] = []

        def read_thrice() -> bool:
            found = reading(owner, PROBE, "temperature")
            if found is not None and found.time not in seen:
                assert found.max_age == pytest.approx(0.3)
                seen.append(found.time)
            return len(seen) >= 3

        until(owner, read_thrice)


def test_a_probe_that_appears_is_found(nowhere: str, tmp_path: Path) -> None:
    tree = Tree(str(tmp_path))
    with started(server(nowhere, tmp_path)) as owner:
        tree.add(PROBE, GOOD[PROBE][0])
        until(owner, lambda: quality(owner, PROBE) == "ok")
        tree.add(OTHER, GOOD[OTHER][0])
        until(owner, lambda: quality(owner, OTHER) == "ok")
        assert owner.conditions == {}


def test_85_degrees_that_were_refused_are_not_believed_later(nowhere: str, tmp_path: Path) -> None:
    tree = Tree(str(tmp_path))
    tree.add(PROBE, GOOD[PROBE][0])
    with started(server(nowhere, tmp_path, poll=0.1)) as owner:
        until(owner, lambda: quality(owner, PROBE) == "ok")
        line = "50 05 55 05 7f a5 81 66 61"
        assert reader.crc8(bytes.fromhex(line)) == 0
        tree.add(PROBE, f"{line} : crc=61 YES\n{line} t=85000\n")
        probe = owner.probe(PROBE)
        assert probe is not None
        until(owner, lambda: probe.counts["power-on"])
        good = probe.counts["good"]
        until(owner, lambda: probe.counts["power-on"] > 6)
        assert not probe.fresh, "nothing is left to compare with"
        assert probe.counts["good"] == good


def test_a_probe_that_goes_stays_as_an_error_and_comes_back(tmp_path: Path) -> None:
    tree = Tree(str(tmp_path))
    tree.add(PROBE, GOOD[PROBE][0])
    with broker() as broker_ip, started(server(broker_ip, tmp_path)) as owner:
        shown = follow(owner)
        key = f"/device/pi.onewire.{PROBE}/temperature"

        def on_the_tree() -> Value | None:
            return Value.decode(shown[key]) if key in shown else None

        until(owner, lambda: (found := on_the_tree()) is not None and found.quality == "ok")
        tree.remove(PROBE)
        until(owner, lambda: (found := on_the_tree()) is not None and found.quality == "error")
        gone = on_the_tree()
        assert gone is not None
        assert gone.reason == "gone: the probe is not on the bus"
        until(owner, lambda: (found := on_the_tree()) is not None and found.time > gone.time)
        assert owner.devices[PROBE].details()["counts"]["gone"] >= 2
        tree.add(PROBE, GOOD[PROBE][0])
        until(owner, lambda: (found := on_the_tree()) is not None and found.quality == "ok")


def test_a_ghost_that_never_read_well_is_forgotten(tmp_path: Path) -> None:
    ghost = "28-011432f138fa"
    tree = Tree(str(tmp_path))
    tree.add(ghost, BAD[ghost][0])
    with broker() as broker_ip, started(server(broker_ip, tmp_path)) as owner:
        shown = follow(owner)
        until(owner, lambda: shown)
        tree.remove(ghost)
        until(owner, lambda: not shown)
        assert owner.devices == {}


def stays(owner: OneWire, name: str, polls: int = 3) -> None:
    """Several searches do not find a probe, and it is still there."""
    probe = owner.probe(name)
    assert probe is not None
    before = probe.counts["gone"]
    until(owner, lambda: probe.counts["gone"] >= before + polls)
    assert owner.devices[name] is probe
    assert quality(owner, name) == "error"


def test_a_probe_with_settings_that_never_read_well_is_missed(nowhere: str, tmp_path: Path) -> None:
    tree = Tree(str(tmp_path / "w1"))
    tree.add(PROBE, BAD["28-011432f138fa"][0])
    owner = server(nowhere, tmp_path / "w1")
    owner.keep_settings(str(tmp_path / "devices.json"), store=False)
    with started(owner):
        until(owner, lambda: quality(owner, PROBE) == "error")
        replies: list[list[bytes]] = []
        owner.handle(owner.worker_devices(), [b"exec", PROBE.encode(), b"config", b'{"offset": 1}'], replies.append)
        until(owner, lambda: replies)
        tree.remove(PROBE)
        stays(owner, PROBE)


def test_a_probe_of_which_the_settings_are_not_known_yet_is_missed(nowhere: str, tmp_path: Path) -> None:
    tree = Tree(str(tmp_path / "w1"))
    tree.add(PROBE, BAD["28-011432f138fa"][0])
    owner = server(nowhere, tmp_path / "w1")
    owner.keep_settings(str(tmp_path / "devices.json"), store=True)
    with started(owner):
        until(owner, lambda: quality(owner, PROBE) == "error")
        tree.remove(PROBE)
        stays(owner, PROBE)


def test_a_probe_whose_counts_were_reset_is_missed(nowhere: str, tmp_path: Path) -> None:
    tree = Tree(str(tmp_path))
    tree.add(PROBE, GOOD[PROBE][0])
    with started(server(nowhere, tmp_path)) as owner:
        until(owner, lambda: quality(owner, PROBE) == "ok")
        tree.remove(PROBE)
        assert ask(owner, "exec", PROBE, "reset", "")[1] == "200"
        stays(owner, PROBE)


def test_many_that_come_and_go_keep_no_turn_of_the_loop_for_themselves(nowhere: str, tmp_path: Path) -> None:
    tree = Tree(str(tmp_path))
    names = [f"28-0000000001{number:02x}" for number in range(60)]
    with started(server(nowhere, tmp_path)) as owner:
        until(owner, lambda: owner.buses.by_name)
        most = 0

        def counted(happened: Callable[[], bool]) -> Callable[[], bool]:
            before = [len(owner.devices)]

            def check() -> bool:
                nonlocal most
                most = max(most, abs(len(owner.devices) - before[0]))
                before[0] = len(owner.devices)
                return happened()

            return check

        with mock.patch.object(onewire, "PORTION", 0.0):
            for name in names:
                tree.add(name, "")
            until(owner, counted(lambda: len(owner.devices) == 60))
            for name in names:
                tree.remove(name)
            until(owner, counted(lambda: not owner.devices))
        assert most <= 2


def test_a_read_that_hangs_holds_up_neither_the_others_nor_the_loop(nowhere: str, tmp_path: Path) -> None:
    tree = Tree(str(tmp_path))
    stuck = [f"28-0000000000{i:02x}" for i in range(6)]
    for name in stuck:
        tree.add(name, GOOD[PROBE][0])
        tree.hang(name)
    tree.add(PROBE, GOOD[PROBE][0])
    with started(server(nowhere, tmp_path, timeout=0.3)) as owner:
        until(owner, lambda: quality(owner, PROBE) == "ok")
        until(owner, lambda: all(quality(owner, name) == "error" for name in stuck))
        found = reading(owner, stuck[0], "temperature")
        assert found is not None
        assert found.reason == "no answer within 0.3 s: the read hangs"
        assert "28-000000000000" in owner.conditions["hung"]
        first = reading(owner, PROBE, "temperature")
        assert first is not None
        until(owner, lambda: (now := reading(owner, PROBE, "temperature")) and now.time > first.time)
        until(owner, owner.alive)
        assert owner.errors == 0
        for name in stuck:
            tree.add(name, GOOD[OTHER][0])
        until(owner, lambda: all(quality(owner, name) == "ok" for name in stuck))
        until(owner, lambda: "hung" not in owner.conditions)


def test_one_that_hangs_costs_a_bounded_number_of_threads_and_recovers_without_its_call(
    nowhere: str, tmp_path: Path
) -> None:
    tree = Tree(str(tmp_path))
    tree.add(PROBE, GOOD[PROBE][0])
    tree.hang(PROBE)
    with started(server(nowhere, tmp_path, poll=0.1, timeout=0.1)) as owner:
        until(owner, lambda: owner.devices and owner.devices[PROBE].details()["counts"].get("timeout", 0) > 20)
        assert 1 <= owner._sources[PROBE].hung <= 4
        assert owner.conditions["hung"] == f"reads hang of {PROBE}"
        os.unlink(tree.file(PROBE))  # and the call stays in the FIFO that is no longer there
        tree.add(PROBE, GOOD[PROBE][0])
        until(owner, lambda: quality(owner, PROBE) == "ok")
        # From here on, 0.1 s of a busy machine are no read that hangs.
        owner.devices[PROBE].timeout = LIMIT
        good = owner.statistics()["onewire.readings"]
        until(owner, lambda: owner.statistics()["onewire.readings"] > good + 1)
        conditions = [owner.conditions.get("hung")]
        good = owner.statistics()["onewire.readings"]
        while owner.statistics()["onewire.readings"] < good + 10:
            owner.turn(0.05)
            conditions.append(owner.conditions.get("hung"))
        assert not any(conditions), "one that reads well does not hang, whatever it has lost"
        assert owner.statistics()["onewire.hung"] >= 1


def test_a_bus_without_a_sign_of_life_is_not_alive(nowhere: str, tmp_path: Path) -> None:
    tree = Tree(str(tmp_path))
    tree.add(PROBE, GOOD[PROBE][0])
    tree.hang(PROBE)
    with started(server(nowhere, tmp_path, poll=0.1, timeout=0.1)) as owner:
        assert owner.alive()
        until(owner, lambda: not owner.alive())
        tree.add(PROBE, GOOD[PROBE][0])
        until(owner, owner.alive)


def test_errors_and_a_missing_bus_are_signs_of_life(nowhere: str, tmp_path: Path) -> None:
    tree = Tree(str(tmp_path / "w1"))
    tree.add(PROBE, "")
    with started(server(nowhere, tmp_path / "w1", poll=0.1, timeout=0.1)) as owner:
        until(owner, lambda: owner.devices and owner.devices[PROBE].details()["counts"].get("silent", 0) > 6)
        until(owner, owner.alive)
        (tmp_path / "w1").rename(tmp_path / "away")
        until(owner, lambda: "bus" in owner.conditions)
        since = time.monotonic()
        until(owner, lambda: time.monotonic() > since + 0.6)  # more than three polls and the time limit
        until(owner, owner.alive)


def test_a_directory_that_hangs_from_the_start_is_no_life(
    nowhere: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, scan = threading.Event(), sysfs.scan

    def hanging(path: str) -> sysfs.Found:
        assert free.wait(60)
        return scan(path)

    Tree(str(tmp_path)).add(PROBE, GOOD[PROBE][0])
    monkeypatch.setattr(sysfs, "scan", hanging)
    with started(server(nowhere, tmp_path, poll=0.1, timeout=0.1)) as owner:
        assert owner.alive()
        until(owner, lambda: not owner.alive())
        free.set()
        until(owner, lambda: quality(owner, PROBE) == "ok")
        until(owner, owner.alive)


def test_a_missing_bus_is_a_condition_until_it_is_there(nowhere: str, tmp_path: Path) -> None:
    place = tmp_path / "w1"
    with started(server(nowhere, place)) as owner:
        until(owner, lambda: "bus" in owner.conditions)
        assert owner.conditions["bus"].startswith(f"no 1-Wire bus at {place}")
        Tree(str(place)).add(PROBE, GOOD[PROBE][0])
        until(owner, lambda: quality(owner, PROBE) == "ok")
        assert "bus" not in owner.conditions


def test_a_machine_without_a_bus_is_well(
    nowhere: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    place = tmp_path / "w1" / "devices"
    monkeypatch.setattr(onewire, "DEVICES_DIR", str(place))
    with started(server(nowhere, place, poll=0.1)) as owner:
        until(owner, lambda: owner.summary() == "no 1-Wire bus on this machine")
        since = time.monotonic()
        until(owner, lambda: time.monotonic() > since + 0.3)  # some more polls
        assert "bus" not in owner.conditions
        assert caplog.text.count("no 1-Wire bus on this machine") == 1
        place.parent.mkdir()
        until(owner, lambda: "bus" in owner.conditions)
        assert "devices" in owner.summary()
        Tree(str(place)).add(PROBE, GOOD[PROBE][0])
        until(owner, lambda: quality(owner, PROBE) == "ok" and "bus" not in owner.conditions)
        place.parent.rename(tmp_path / "away")
        until(owner, lambda: "bus" in owner.conditions)


def test_a_bus_that_goes_takes_its_probes_along(nowhere: str, tmp_path: Path) -> None:
    place = tmp_path / "w1"
    Tree(str(place)).add(PROBE, GOOD[PROBE][0])
    with started(server(nowhere, place)) as owner:
        until(owner, lambda: quality(owner, PROBE) == "ok")
        place.rename(tmp_path / "away")
        until(owner, lambda: quality(owner, PROBE) == "error" and "bus" in owner.conditions)
        (tmp_path / "away").rename(place)
        until(owner, lambda: quality(owner, PROBE) == "ok" and "bus" not in owner.conditions)


def test_a_directory_that_hangs_makes_no_probe_gone(
    nowhere: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Tree(str(tmp_path)).add(PROBE, GOOD[PROBE][0])
    with started(server(nowhere, tmp_path, timeout=0.3)) as owner:
        until(owner, lambda: quality(owner, PROBE) == "ok")
        free, scan = threading.Event(), sysfs.scan

        def hanging(path: str) -> sysfs.Found:
            assert free.wait(60)
            return scan(path)

        monkeypatch.setattr(sysfs, "scan", hanging)
        until(owner, lambda: "bus" in owner.conditions)
        assert owner.conditions["bus"] == f"{tmp_path} cannot be listed within 0.3 s"
        good = owner.devices[PROBE].details()["counts"]["good"]
        until(owner, lambda: owner.devices[PROBE].details()["counts"]["good"] > good + 2)
        assert owner.devices[PROBE].details()["counts"]["gone"] == 0
        free.set()
        until(owner, lambda: "bus" not in owner.conditions)


def test_a_devices_dir_that_is_no_directory_is_a_configuration_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path in (file, loop, file / "below"):
        with pytest.raises(ConfigError, match=rf"devices_dir in \[onewire\]: {path} ") as caught:
            OneWire(devices_dir=str(path))
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0 and not hasattr(os, "setuid"), reason="needs another user")
def test_a_devices_dir_without_permission_is_a_configuration_error() -> None:
    with short_directory() as directory:
        closed = Path(directory, "w1")
        closed.mkdir(mode=0o000)
        os.chmod(directory, 0o755)
        code = (
            "import os, sys\n"
            "from raspy.servers.onewire import OneWire\n"
            "if os.geteuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            "try: OneWire(devices_dir=sys.argv[1])\n"
            "except ValueError as error: print(error)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(closed)], capture_output=True, text=True, timeout=60, check=True
        )
        closed.chmod(0o700)
    assert done.stdout == (
        f"devices_dir in [onewire]: {closed} cannot be read: Permission denied; check its owner and mode\n"
    )


def test_configuration(tmp_path: Path) -> None:
    config = Config({"bus": {"hostname": "pi"}, "onewire": {"devices_dir": str(tmp_path), "poll": 5}})
    owner = OneWire.from_config(config)
    owner.destroy()
    assert owner.settings == OneWireConfig(devices_dir=str(tmp_path), poll=5)
    owner = OneWire(devices_dir=str(tmp_path))
    owner.destroy()
    assert owner.settings == OneWireConfig(devices_dir=str(tmp_path))
    for key, value in [("devices_dir", ""), ("poll", 0), ("timeout", -1), ("devcies_dir", "x")]:
        with pytest.raises(ConfigError, match=key):
            Config({"onewire": {key: value}}).section(OneWireConfig)


def test_verbs(nowhere: str, tmp_path: Path) -> None:
    Tree.of_real_readings(str(tmp_path))
    with started(server(nowhere, tmp_path, poll=10, timeout=8)) as owner:
        until(owner, lambda: all(quality(owner, name) != "none" for name in [*GOOD, *BAD]))
        names, status = ask(owner, "list_keys")
        assert (set(names), status) == ({*GOOD, *BAD}, "200")
        assert [device["name"] for device in ask(owner, "list")[0]] == names
        info, status = ask(owner, "info", PROBE)
        assert status == "200"
        assert info["oid"] == "sensor.temperature"
        assert info["commands"]["temperature"]["reading"]["value"] == 21.0625
        assert info["details"]["chip"] == "DS18B20"
        assert info["details"]["counts"] == NONE | {"good": 1}
        bad, _ = ask(owner, "info", f"pi.onewire.{next(iter(BAD))}")
        assert bad["details"]["counts"] == NONE | {"power-on": 1}
        assert "value" not in bad["commands"]["temperature"]
        assert ask(owner, "exec", PROBE, "temperature")[0]["value"] == 21.0625
        assert list(ask(owner, "template")[0]) == ["sensor.temperature", "sensor.vote"]
        assert ask(owner, "template", "sensor.temperature")[0]["default"]["name"] == ""
        json = f'{{"oid": "sensor.temperature", "name": "{PROBE}"}}'
        assert ask(owner, "check", json) == ({"ok": True, "errors": {}}, "200")
        assert list(ask(owner, "check", '{"oid": "sensor.temperature", "name": "tank"}')[0]["errors"]) == ["name"]
        assert ask(owner, "exec", PROBE, "config", '{"label": "Tank"}')[0]["label"] == "Tank"
        assert ask(owner, "exec", PROBE, "reset", "") == (True, "200")
        until(owner, lambda: quality(owner, PROBE) == "ok")
        assert owner.devices[PROBE].details()["counts"] == NONE | {"good": 1}


@pytest.mark.parametrize(
    ("frames", "status", "words"),
    [
        (["info", "tank"], "404", "no device 'tank'; known are "),
        (["info"], "400", "usage: info name"),
        (["exec", "tank", "temperature"], "404", "no device"),
        (["exec", PROBE, "volume"], "404", "no command 'volume'"),
        (["exec", PROBE, "temperature", "20"], "400", "read only"),
        (["exec", PROBE, "poll", "soon"], "400", "'soon' is not a number"),
        (["exec", PROBE, "poll", "0.01"], "400", "at least 0.1 s"),
        (["exec", PROBE, "config", '{"name": "x"}'], "400", "never changes"),
        (["exec", PROBE, b"\xff"], "400", "UTF-8"),
        (["template", "media.tv"], "404", "known are sensor.temperature"),
        (["new", "{}"], "400", "oid: is missing"),
        (["new", '{"oid": "sensor.temperature", "name": "28-000004a1c1e6"}'], "400", "what can be: sensor.vote"),
        (["delete", PROBE], "400", "is on the bus: unplug it first"),
    ],
)
def test_verbs_refuse_with_a_reason(
    nowhere: str, tmp_path: Path, frames: list[str | bytes], status: str, words: str
) -> None:
    Tree(str(tmp_path)).add(PROBE, GOOD[PROBE][0])
    with started(server(nowhere, tmp_path)) as owner:
        until(owner, lambda: quality(owner, PROBE) == "ok")
        reason, given = ask(owner, *frames)
        assert given == status
        assert words in reason
        assert owner.errors == 0


def test_a_request_over_the_bus(tmp_path: Path) -> None:
    Tree(str(tmp_path)).add(PROBE, GOOD[PROBE][0])
    with broker() as broker_ip:
        owner = server(broker_ip, tmp_path)
        thread = threading.Thread(target=owner.run)
        thread.start()
        try:
            with MajorDomoClient(MDP.endpoint(broker_ip, 5514)) as client:
                end = time.monotonic() + 30
                reply = None
                while not reply or reply[-1] != b"200":
                    assert time.monotonic() < end, reply
                    reply = client.send("pi.onewire.devices", [b"info", PROBE.encode()])
                assert b'"oid":"sensor.temperature"' in reply[0]
        finally:
            owner.shutdown()
            thread.join(30)
        assert not thread.is_alive()


def test_more_probes_than_can_be_are_told(nowhere: str, tmp_path: Path) -> None:
    for i in range(258):
        (tmp_path / f"28-0000000{i:05x}").mkdir()
    with started(server(nowhere, tmp_path, poll=60, timeout=8)) as owner:
        until(owner, lambda: "probes" in owner.conditions)
        assert len(owner.devices) == 256
        assert owner.conditions["probes"] == "2 probes above the limit of 256 are not read"


def test_probes_that_are_missed_take_no_place_of_one_that_is_there(nowhere: str, tmp_path: Path) -> None:
    kept = [f"28-0000000000{number:02x}" for number in range(256)]
    settings = {name: {"settings": {"oid": "sensor.temperature", "name": name}} for name in kept}
    (tmp_path / "devices.json").write_bytes(msgspec.json.encode({"format": 1, "devices": settings}))
    tree = Tree(str(tmp_path / "w1"))
    owner = server(nowhere, tmp_path / "w1")
    owner.keep_settings(str(tmp_path / "devices.json"), store=False)
    with started(owner):
        until(owner, lambda: len(owner.devices) == 256)
        assert "probes" not in owner.conditions
        tree.add(PROBE, GOOD[PROBE][0])
        until(owner, lambda: quality(owner, PROBE) == "ok")
        until(owner, lambda: "probes" in owner.conditions)
        assert owner.conditions["probes"] == "1 probes above the limit of 256 are not read"
        assert len(owner.devices) == 256
        assert list(owner.buses.by_name) == ["w1_bus_master1"], "no bus for those that are nowhere"
        tree.remove(PROBE)
        until(owner, lambda: quality(owner, PROBE) == "error")
        tree.add(kept[0], GOOD[PROBE][0])
        until(owner, lambda: quality(owner, kept[0]) == "ok")
        assert sum(probe.gone for probe in owner.probes()) == 255


def test_the_command_that_builds_a_tree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "w1")]) == 0
    assert f"RASPY_ONEWIRE_DEVICES_DIR={tmp_path}/w1 raspy run" in capsys.readouterr().out
    assert {*GOOD, *BAD, "w1_bus_master1"} <= set(os.listdir(tmp_path / "w1"))
    assert (tmp_path / "w1" / PROBE).is_symlink()
    assert (tmp_path / "w1" / PROBE / "temperature").read_text() == "21062\n"
    assert main([str(tmp_path / "w1")]) == 0
    assert main([]) == 2
    assert main(["--help"]) == 2
    (tmp_path / "file").touch()
    assert main([str(tmp_path / "file")]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_the_command_that_builds_a_live_tree_ends_with_a_signal_and_leaves_no_probe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The probes of a bus without bulk conversion are measured one by one: what the words ask for."""
    ended, seen = threading.Event(), []

    def read_and_end() -> None:
        probe = tmp_path / "w1" / f"28-{1:012x}"
        while not (probe / "temperature").exists() and not ended.wait(0.01):
            pass
        seen.append((probe / "temperature").read_text())
        seen.append(str((tmp_path / "w1" / "w1_bus_master1" / "therm_bulk_read").exists()))
        # Until there is something that takes it.
        while not ended.wait(0.02):
            os.kill(os.getpid(), signal.SIGTERM)

    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    thread = threading.Thread(target=read_and_end)
    thread.start()
    try:
        assert main([str(tmp_path / "w1"), "--live", "2", "--no-bulk", "--parasite"]) == 0
    finally:
        ended.set()
        thread.join(LIMIT)
        for number, handler in before.items():
            signal.signal(number, handler)
    assert seen == ["20062\n", "False"]
    assert "2 live probes are in" in capsys.readouterr().out
    assert [name for name in os.listdir(tmp_path / "w1") if name.startswith("28-")] == []


@pytest.mark.parametrize(
    "words",
    [
        ["--live", "0"],
        ["--live", "-1"],
        ["--live", "1000"],
        ["--live", "two"],
        ["--live"],
        ["--live", "2", "elsewhere"],
        ["--no-bulk"],
        ["--parasite"],
        ["--fast"],
    ],
)
def test_a_live_tree_is_asked_for_in_the_right_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main([str(tmp_path / "w1"), *words]) == 2
    assert capsys.readouterr().err.startswith("usage: ")
    assert os.listdir(tmp_path) == []
