"""The server: what it does over time, what it publishes, its verbs, and what it needs of its machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from raspy.common import clock
from raspy.common.config import Config, ConfigError
from raspy.servers.sync import Sync, SyncConfig, ntp, server
from raspy.servers.sync import round as measurement
from raspy.servers.sync.decide import STEPS
from raspy.servers.sync.settings import address, direct
from raspy.servers.sync.simulate import SimulatedChip, SimulatedKernelRTC, SimulatedMachine
from tests.servers.ntp_stage import ntp_servers
from tests.servers.sync_stage import SHORT, again, call, fall_silent, measured, sync
from tests.support import unmeasured
from tests.support_devices import ask, broker, follow, reading, until

HOUR, DAY = 3600.0, 86_400.0
RIGHT = ("right", 0.0)
DS3231 = "i2c:1:0x68:ds3231"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimulatedMachine:
    # A release that is a year old: clocks that are a month slow may be believed on the day that one is made, too.
    monkeypatch.setattr(clock, "BUILT", time.time() - 365 * DAY)
    return SimulatedMachine(str(tmp_path))


# Over time


def test_the_clock_is_set_and_measured_again(machine: SimulatedMachine) -> None:
    machine.off = -HOUR
    with ntp_servers(RIGHT, RIGHT) as servers, sync(machine, servers=[each.name for each in servers]) as it:
        measured(it)
        assert abs(machine.off) < 0.3
        again(it)
        assert it.decision.step is None
        assert it.trusted == "ntp"
        assert len(machine.done.commands) == 1
        servers[0].ahead = servers[1].ahead = 1.0
        again(it)
        assert machine.off == pytest.approx(1.0, abs=0.3)


def test_servers_that_fall_silent_leave_the_clock_trusted(machine: SimulatedMachine) -> None:
    with ntp_servers(RIGHT, RIGHT) as servers, sync(machine, servers=[each.name for each in servers]) as it:
        measured(it)
        fall_silent(it, servers)
        again(it)
        assert (it.trusted, it.reason) == ("ntp", "it was set in this boot, and goes on")
        assert it._again == 2 * server.FIRST_AGAIN


def test_a_kiss_keeps_the_server_from_being_asked(machine: SimulatedMachine) -> None:
    with (
        ntp_servers(RIGHT, RIGHT, ("DENY", 0.0), ("RATE", 0.0)) as servers,
        sync(machine, servers=[each.name for each in servers]) as it,
    ):
        measured(it)
        for _ in range(3):
            again(it)
        assert [len(each.requests) for each in servers] == [4, 4, 1, 1]
        assert it.trusted == "ntp"
        problems = [each["problem"] for each in call(it, "status")[0]["ntp"]["servers"]]
        assert problems[:2] == ["", ""]
        assert "not asked again" in problems[2]
        assert "every 2048 s" in problems[3]


def test_a_clock_that_another_sets_while_it_is_measured(machine: SimulatedMachine) -> None:
    # The round waits for the one that is mute.
    with (
        ntp_servers(RIGHT, RIGHT, ("mute", 0.0)) as servers,
        sync(machine, servers=[s.name for s in servers], timeout=2.0) as it,
    ):
        until(it, lambda: it.round is not None and len(it.round.samples) == 2)
        machine.off = 500.0
        measured(it)
        # What was measured before says nothing of the clock as it is now.
        assert machine.done.commands == []
        assert it.trusted == ""
        servers[2].mode = "right"
        again(it)
        assert abs(machine.off) < 0.3


def told(machine: SimulatedMachine) -> bool:
    """Whether the other servers have the clock for trusted."""
    return bool(clock.believed(machine.read_mark(), clock.stamp(machine.synchronized)))


def test_a_clock_that_somebody_sets(machine: SimulatedMachine) -> None:
    with ntp_servers(RIGHT, RIGHT) as servers, sync(machine, servers=[each.name for each in servers]) as it:
        measured(it)
        assert told(machine)
        machine.off = -DAY
        it.ended -= 17
        it._watch()
        assert it.trusted == ""
        assert not told(machine)
        assert it.change is not None
        assert (it.change["source"], it.change["clock"]) == ("somebody", "system")
        assert it.change["after"] - it.change["before"] == pytest.approx(-DAY, abs=1)
        measured(it)
        assert it.trusted == "ntp"
        assert abs(machine.off) < 0.3
        before = it.change
        it._watch()
        assert it.change is before, "its own change is no one else's"


def test_a_clock_that_a_daemon_sets(machine: SimulatedMachine) -> None:
    machine.start_daemon("chrony")
    machine.off = -HOUR
    with ntp_servers(RIGHT, RIGHT) as servers, sync(machine, servers=[each.name for each in servers]) as it:
        measured(it)
        assert it.conditions["clock"].endswith("chrony is to bring it in")
        machine.off = 0.0
        it.ended -= 17
        it._watch()
        assert it.change is not None
        assert it.change["source"] == "chrony"
        measured(it)
        assert it.trusted == "ntp"
        assert machine.done.commands == []


def test_a_command_that_fails(machine: SimulatedMachine) -> None:
    machine.off = -HOUR
    machine.done.refusal = "date failed: sudo: a password is required"
    with ntp_servers(RIGHT, RIGHT) as servers, sync(machine, servers=[each.name for each in servers]) as it:
        measured(it)
        assert it.conditions["set"] == f"the system clock could not be set: {machine.done.refusal}"
        assert "could not be set" in it.conditions["clock"]
        assert it.trusted == ""
        assert it.change is None
        assert it.errors == 0
        machine.done.refusal = ""
        again(it)
        assert it.trusted == "ntp"
        assert it.conditions == {}


def test_a_command_that_does_nothing(machine: SimulatedMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.off = -HOUR
    monkeypatch.setattr(machine.done, "set_system", lambda seconds: None)
    with ntp_servers(RIGHT, RIGHT) as servers, sync(machine, servers=[each.name for each in servers]) as it:
        measured(it)
        assert "the clock is off by" in it.conditions["set"]
        assert it.trusted == ""


def late(machine: SimulatedMachine, seconds: float) -> None:
    """Have every command set the clock some seconds late, as on a machine that is busy; it starts as soon as ever."""

    def set_system(second: int) -> None:
        machine.done.commands.append([str(second)])
        machine.off = second - time.time() - seconds

    machine.done.set_system = set_system  # type: ignore[method-assign]


@pytest.mark.parametrize("seconds", [0.7, 3.3])
def test_a_command_that_is_slow(machine: SimulatedMachine, seconds: float) -> None:
    machine.off = -HOUR
    late(machine, seconds)
    with ntp_servers(RIGHT, RIGHT) as servers, sync(machine, servers=[each.name for each in servers]) as it:
        measured(it)
        # It was done, so it is told, whether the clock is right by now or not.
        assert it.change is not None
        assert it.change["after"] - it.change["before"] == pytest.approx(HOUR - seconds, abs=0.3)
        assert bool(it.trusted) == (seconds < 1)
        assert ("set" in it.conditions) == (seconds > 1)
        again(it)
        assert it.trusted == "ntp"
        assert it._lead == pytest.approx(seconds, abs=0.3)
        assert it.conditions == {}
        # How late it is was learned by the first one.
        assert abs(machine.off) < 0.5
        again(it)
        assert len(machine.done.commands) == 2


def test_another_program_that_keeps_setting_the_clock(machine: SimulatedMachine) -> None:
    with ntp_servers(RIGHT, RIGHT) as servers, sync(machine, servers=[each.name for each in servers]) as it:
        measured(it)
        for number in range(2 * STEPS):
            machine.off = 5.0 + number
            it._watch()
            again(it)
        assert len(machine.done.commands) == STEPS
        assert it.trusted == ""
        assert "does another program set it?" in it.conditions["clock"]
        # An hour later it is set again.
        it._steps.times = [since - HOUR for since in it._steps.times]
        again(it)
        assert it.trusted == "ntp"


def test_servers_are_not_asked_each_time_that_somebody_sets_the_clock(machine: SimulatedMachine) -> None:
    with ntp_servers(RIGHT, RIGHT) as servers, sync(machine, servers=[each.name for each in servers]) as it:
        measured(it)
        spacings = []
        for number in range(10):
            machine.off = 5.0 * (number + 1)
            it._watch()
            assert it.round is None
            spacings.append(it._spacing())
        assert spacings == [16, 32, 64, 128, 256, 512, 1024, 1024, 1024, 1024]
        assert it._timer is not None
        assert it._timer.due - time.monotonic() <= 16, "the first one is not put off"
        it.reload()
        assert it.round is None
        assert [len(each.requests) for each in servers] == [1, 1]


def test_two_names_of_one_server_are_one(machine: SimulatedMachine) -> None:
    chip = machine.chips[1, 0x68] = SimulatedChip(machine, "ds3231")
    with ntp_servers(("right", 365 * DAY)) as (server,):
        port = server.name.partition(":")[2]
        with sync(machine, servers=[server.name, f"127.1:{port}"], rtc=DS3231) as it:
            measured(it)
            assert it.trusted == "rtc"
            assert machine.off == 0
            assert abs(chip.time - time.time()) < 1
            assert len(server.requests) == 1
            (twin,) = [source.problem for source in it.sources if source.problem]
            assert "it is the same server as" in twin


def test_the_rtc_is_set_once_an_hour_at_most(machine: SimulatedMachine) -> None:
    chip = machine.chips[1, 0x68] = SimulatedChip(machine, "ds3231", 30.0)
    with ntp_servers(RIGHT, RIGHT) as servers:
        settings: dict[str, Any] = {"servers": [each.name for each in servers], "rtc": DS3231}
        with sync(machine, **settings) as it:
            measured(it)
            assert abs(chip.time - time.time()) < 0.3
            chip.set(time.time() + 30)
            again(it)
            assert abs(chip.time - time.time()) > 29
        with sync(machine, **settings) as it:
            # A restart does not forget it.
            measured(it)
            assert abs(chip.time - time.time()) > 29
            it.kept.known = msgspec.structs.replace(it.kept.known, rtc_set=machine.since() - 3601)
            again(it)
            assert abs(chip.time - time.time()) < 0.3


def test_a_clock_that_somebody_sets_while_the_rtc_is_set(machine: SimulatedMachine) -> None:
    simulated = machine.kernel[0] = SimulatedKernelRTC("rtc-x", -100.0)
    entered, release, write = threading.Event(), threading.Event(), machine.done.write_rtc

    def slow(device: str) -> None:
        entered.set()
        assert release.wait(30)
        write(device)

    machine.done.write_rtc = slow  # type: ignore[method-assign]
    with ntp_servers(RIGHT, RIGHT) as servers, sync(machine, servers=[s.name for s in servers], rtc="auto") as it:
        until(it, entered.is_set)
        machine.off = DAY
        it._watch()
        release.set()
        measured(it)
        assert it.trusted == ""
        assert "somebody has set the system clock meanwhile" in it.conditions["set RTC"]
        assert simulated.off == pytest.approx(DAY, abs=1)
        reason, code = call(it, "rtc_to_system")
        assert code == "409"
        assert "meanwhile" in reason
        # What was wanted then is done soon, and the RTC has not had its hour.
        assert it._timer is not None
        assert it._timer.due - time.monotonic() < 20
        again(it)
        assert it.trusted == "ntp"
        assert abs(simulated.off) < 0.3
        assert it.conditions == {}


def test_the_rtc_reads_well_as_soon_as_it_is_set(machine: SimulatedMachine) -> None:
    machine.chips[1, 0x68] = SimulatedChip(machine, "ds3231")
    machine.chips[1, 0x68].flag()
    with ntp_servers(RIGHT, RIGHT) as s, sync(machine, servers=[each.name for each in s], rtc=DS3231) as it:
        measured(it)
        assert "rtc" not in it.conditions
        until(it, lambda: reading(it, "clock", "rtc_offset"))
        found = reading(it, "clock", "rtc_offset")
        assert found is not None
        assert abs(found.number()) < 0.5


def test_the_next_measurement_comes_by_itself(machine: SimulatedMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "FIRST_AGAIN", 0.05)
    with ntp_servers(("mute", 0.0)) as servers, sync(machine, servers=[servers[0].name], timeout=0.1) as it:
        it._again = 0.05
        until(it, lambda: len(servers[0].requests) >= 3)
        servers[0].mode = "right"
        until(it, lambda: it.trusted == "ntp")
        assert it._again == 0.05


def test_a_resolver_and_a_chip_that_hang(machine: SimulatedMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(measurement, "RESOLVER", 0.2)
    monkeypatch.setattr(measurement, "LOCAL", 0.2)
    monkeypatch.setattr(ntp, "ask", lambda *words: release.wait(30) and None)
    monkeypatch.setattr(measurement, "find", lambda *words: release.wait(30) and None)
    try:
        with sync(machine, servers=["a", "b"], rtc="auto", timeout=0.1) as it:
            measured(it)
            assert "the resolver does not answer" in it.reason
            assert "no answer within 0.2 s" in it.conditions["rtc"]
            hung = it.pool.hung
            again(it)
            assert it.pool.hung == hung, "no other call is made while one hangs"
            assert it.errors == 0
    finally:
        release.set()


# What it is told by others, and tells them


def test_other_servers_learn_that_trust_is_withdrawn(
    machine: SimulatedMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "MARK", machine.mark)
    monkeypatch.setattr(clock, "SYNCHRONIZED", machine.synchronized)
    monkeypatch.setattr(clock, "LOOK", -1.0)
    other = clock.BootClock(machine.clock.boot_id)
    with ntp_servers(RIGHT, RIGHT) as servers, sync(machine, servers=[each.name for each in servers]) as it:
        assert not other.trusted()
        measured(it)
        assert other.trusted()
        machine.off = 400 * DAY
        it._watch()
        assert not other.trusted()
        again(it)
        assert other.trusted()
    assert other.trusted()


def test_a_daemon_that_was_found_wrong_is_not_believed_until_it_sets_the_clock_again(
    machine: SimulatedMachine,
) -> None:
    machine.start_daemon("systemd-timesyncd")
    Path(machine.synchronized).touch()
    hour = ("right", HOUR)
    with ntp_servers(hour, hour) as servers:
        settings: dict[str, Any] = {"servers": [each.name for each in servers]}
        with sync(machine, **settings) as it:
            measured(it)
            assert it.trusted == ""
            fall_silent(it, servers)
            again(it)
            assert it.trusted == ""
        with sync(machine, **settings, timeout=SHORT) as it:
            measured(it)
            assert it.trusted == "", "a restart does not forget it"
            os.utime(machine.synchronized, (1, 1))
            again(it)
            assert it.trusted == "systemd-timesyncd"


@pytest.mark.parametrize("installed", [True, False])
def test_a_daemon_that_ran_says_nothing_of_a_clock_that_somebody_set_since(
    machine: SimulatedMachine, installed: bool
) -> None:
    Path(machine.synchronized).touch()
    if not installed:
        os.rmdir(os.path.dirname(machine.mark))
    with sync(machine) as it:
        measured(it)
        assert it.trusted == "systemd-timesyncd"
        machine.off = DAY
        it._watch()
        again(it)
        assert it.trusted == ""


def test_a_clock_that_was_set_while_sync_did_not_run(machine: SimulatedMachine) -> None:
    with ntp_servers(RIGHT) as servers:
        with sync(machine, servers=[servers[0].name]) as it:
            measured(it)
        machine.off = 365 * DAY
        with sync(machine, servers=[servers[0].name]) as it:
            assert it.trusted == ""
            assert not told(machine)
            assert it.change is not None
            assert it.change["after"] - it.change["before"] == pytest.approx(365 * DAY, abs=1)
            measured(it)
            # The only server contradicts nothing that is to be believed.
            assert it.trusted == "ntp"
            assert machine.off == pytest.approx(0, abs=0.5)


def test_the_time_of_a_clock_that_was_just_set_is_not_kept(machine: SimulatedMachine) -> None:
    with ntp_servers(RIGHT) as servers, sync(machine, servers=[servers[0].name]) as it:
        measured(it)
        machine.off = 365 * DAY
    assert it.kept.path is not None
    assert json.loads(Path(it.kept.path).read_bytes())["last"] == pytest.approx(time.time(), abs=10)
    assert not told(machine)


def test_a_measurement_notices_a_clock_that_was_just_set(machine: SimulatedMachine) -> None:
    with ntp_servers(RIGHT) as servers, sync(machine, servers=[servers[0].name]) as it:
        measured(it)
        machine.off = 365 * DAY
        fall_silent(it, servers)
        again(it)
        assert it.trusted == ""
        assert it.kept.known.last == pytest.approx(time.time(), abs=10)


# What it keeps


def test_the_last_known_time(machine: SimulatedMachine) -> None:
    with ntp_servers(RIGHT, RIGHT) as servers:
        with sync(machine, servers=[each.name for each in servers]) as it:
            measured(it)
            path = it.kept.path
            assert path is not None
            assert json.loads(Path(path).read_bytes())["last"] == pytest.approx(time.time(), abs=5)
        first = json.loads(Path(path).read_bytes())["last"]
        # A stop writes it too.
        assert first == pytest.approx(time.time(), abs=1)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"[]", b'{"last": 1e99}', b'{"last": -5}', b"{" * 100_000])
def test_a_file_that_is_no_good(machine: SimulatedMachine, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "clock.json").write_bytes(content)
    machine.kernel[0] = SimulatedKernelRTC("rtc-x")
    with sync(machine, rtc="auto") as it:
        measured(it)
        assert it.trusted == "rtc"
        assert it.kept.known.last == pytest.approx(time.time(), abs=5)


def test_a_disk_that_does_not_take_it(machine: SimulatedMachine, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file in the place of the directory")
    machine.kernel[0] = SimulatedKernelRTC("rtc-x")
    with sync(machine, rtc="auto") as it:
        measured(it)
        assert it.trusted == "rtc"
        assert "the last known time is not kept" in it.conditions["disk"]


def test_nothing_is_set_where_it_is_not_installed(machine: SimulatedMachine) -> None:
    os.rmdir(os.path.dirname(machine.mark))
    machine.off = -HOUR
    chip = machine.chips[1, 0x68] = SimulatedChip(machine, "ds3231", -DAY)
    with ntp_servers(RIGHT, RIGHT) as s, sync(machine, servers=[each.name for each in s], rtc=DS3231) as it:
        measured(it)
        assert "no installed Pi" in it.reason
        assert call(it, "rtc_to_system")[1] == call(it, "ntp_to_rtc")[1] == "409"
    assert machine.done.commands == []
    assert not [entry for entry in chip.log if entry[0] == "write"]
    assert machine.off == -HOUR


# What it says


def test_the_tree_and_the_events(machine: SimulatedMachine) -> None:
    machine.off = -HOUR
    machine.kernel[0] = SimulatedKernelRTC("rtc-x", 20.0)
    with (
        broker() as ip,
        ntp_servers(RIGHT, RIGHT) as servers,
        sync(machine, ip, servers=[each.name for each in servers], rtc="auto") as it,
    ):
        tree = follow(it, "")
        until(it, lambda: "/device/pi.sync.clock/rtc_offset" in tree and "/event/time/pi" in tree)
        until(it, lambda: json.loads(tree["/event/time/pi"])["clock"] == "rtc")
        event = json.loads(tree["/event/time/pi"])
        assert event["before"] == pytest.approx(time.time() + 20, abs=5)
        assert event["after"] == pytest.approx(time.time(), abs=5)
        assert event["source"] == "system"
        assert "off by +20" in event["reason"]
        values = {key.rpartition("/")[2]: json.loads(body) for key, body in tree.items() if ".clock/" in key}
        assert values["trusted"]["value"] is True
        assert (values["source"]["value"], values["keeper"]["value"]) == ("ntp", "none")
        assert abs(values["offset"]["value"]) < 0.5
        assert values["offset"]["unit"] == "s"
        assert values["stratum"]["value"] == 2
        assert abs(values["rtc_offset"]["value"]) < 0.5


def test_ntp_that_was_lost_is_told(machine: SimulatedMachine) -> None:
    machine.kernel[0] = SimulatedKernelRTC("rtc-x")
    with ntp_servers(RIGHT, RIGHT) as servers:
        settings: dict[str, Any] = {"servers": [each.name for each in servers], "rtc": "auto"}
        with sync(machine, **settings) as it:
            measured(it)
            fall_silent(it, servers)
            again(it)
            assert it.conditions == {}, "it has been silent for a moment only"
            it.measured -= 2 * DAY
            machine.kernel[0].set(time.time() + 60)
            again(it)
            assert "for more than a day" in it.conditions["ntp"]
            assert "the RTC is 60 s ahead of" in it.conditions["drift"]
        machine.kernel[0].set(time.time())
        with sync(machine, **settings, timeout=SHORT) as it:
            measured(it)
            assert it.trusted == "ntp"
            assert it.conditions == {}
            it.measured -= 2 * DAY
            again(it)
            assert "ntp" in it.conditions, "a restart counts from its start"
            for each in servers:
                each.mode = "right"
            it.settings = msgspec.structs.replace(it.settings, timeout=5.0)
            again(it)
            assert it.conditions == {}


def test_a_machine_that_never_had_a_network_is_well_with_its_rtc(machine: SimulatedMachine) -> None:
    machine.kernel[0] = SimulatedKernelRTC("rtc-x")
    with (
        ntp_servers(("mute", 0.0)) as servers,
        sync(machine, servers=[servers[0].name], rtc="auto", timeout=SHORT) as it,
    ):
        measured(it)
        assert it.trusted == "rtc"
        since = machine.since
        machine.since = lambda: since() + 30 * DAY  # type: ignore[method-assign]
        machine.off += 30 * DAY
        machine.kernel[0].off += 30 * DAY
        again(it)
        assert it.trusted == "rtc"
        assert it.conditions == {}


def test_nothing_is_said_of_an_rtc_that_is_not_fitted(
    machine: SimulatedMachine, caplog: pytest.LogCaptureFixture
) -> None:
    with ntp_servers(RIGHT, RIGHT) as servers, sync(machine, servers=[each.name for each in servers]) as it:
        measured(it)
        until(it, lambda: reading(it, "clock", "trusted"))
        assert reading(it, "clock", "offset") is not None
        assert reading(it, "clock", "rtc_offset") is None
        assert call(it, "rtc_to_system") == ("there is no RTC", "409")
    assert not [record for record in caplog.records if "none" in record.getMessage()]


def test_what_is_not_known_is_no_number(machine: SimulatedMachine) -> None:
    with sync(machine) as it:
        measured(it)
        until(it, lambda: reading(it, "clock", "trusted"))
        trusted, offset = reading(it, "clock", "trusted"), reading(it, "clock", "offset")
        assert trusted is not None
        assert trusted.value is False
        assert offset is not None
        assert (offset.quality, offset.reason) == ("error", "no server is asked")
        info, status = ask(it, "info", "clock")
        assert status == "200"
        assert info["details"]["system"]["trusted"] is False
        assert "comes with the server" in ask(it, "delete", "clock")[0]


def test_a_measurement_that_is_long_ago_is_no_value(machine: SimulatedMachine) -> None:
    with ntp_servers(RIGHT, RIGHT) as servers, sync(machine, servers=[each.name for each in servers]) as it:
        measured(it)
        assert server.status(it)["ntp"]["offset"] is not None
        it.measured -= 3 * 1024 + 1
        assert server.status(it)["ntp"]["offset"] is None


# Verbs


def test_status(machine: SimulatedMachine) -> None:
    machine.kernel[0] = SimulatedKernelRTC("rtc-x", 0.0)
    with (
        ntp_servers(RIGHT, ("mute", 0.0), RIGHT) as s,
        sync(machine, servers=[e.name for e in s], rtc="auto", timeout=2.0) as it,
    ):
        early, code = call(it, "status")
        assert code == "200"
        assert early["system"]["trusted"] is False
        measured(it)
        answer, code = call(it, "status")
        assert code == "200"
        assert answer["system"]["source"] == "ntp"
        assert answer["ntp"]["answered"] == len(answer["ntp"]["agreeing"]) == 2
        assert [each["problem"] for each in answer["ntp"]["servers"]] == ["", "no answer within 2 s", ""]
        assert answer["rtc"]["name"] == "rtc0 (rtc-x)"
        assert abs(answer["rtc"]["offset"]) < 0.5
        assert answer["keeper"] == answer["may_set"] == ""


def test_measured_by_hand_but_not_too_often(machine: SimulatedMachine) -> None:
    with ntp_servers(RIGHT) as servers, sync(machine, servers=[servers[0].name]) as it:
        measured(it)
        answer, code = call(it, "ntp")
        assert (code, len(servers[0].requests)) == ("200", 1)
        it.ended -= 17
        answer, code = call(it, "ntp")
        assert (code, len(servers[0].requests)) == ("200", 2)
        assert answer["agreeing"] == [servers[0].name]
        assert call(it, "rtc") == (None, "200")


def test_the_clocks_set_by_hand(machine: SimulatedMachine) -> None:
    simulated = machine.kernel[0] = SimulatedKernelRTC("rtc-x", -30 * DAY)
    machine.off = -60 * DAY
    with sync(machine, rtc="auto") as it:
        measured(it)
        it.kept.known = msgspec.structs.replace(it.kept.known, last=time.time())
        again(it)
        assert machine.off == pytest.approx(-30 * DAY, abs=1)
        machine.off = -60 * DAY
        it._watch()
        again(it)
        assert "already" in it.reason
        answer, code = call(it, "rtc_to_system")
        assert (code, answer["source"]) == ("200", "rtc")
        assert machine.off == pytest.approx(-30 * DAY, abs=1)
        assert call(it, "ntp_to_rtc")[1] == "409"
        machine.done.refusal = "no"
        assert call(it, "rtc_to_system") == ("the system clock could not be set: no", "500")
        simulated.error = 5
        again(it)
        assert call(it, "rtc_to_system")[1] == "409"


def test_the_rtc_set_by_hand(machine: SimulatedMachine) -> None:
    simulated = machine.kernel[0] = SimulatedKernelRTC("rtc-x", 0.6)
    with ntp_servers(RIGHT) as servers, sync(machine, servers=[servers[0].name], rtc="auto") as it:
        assert call(it, "ntp_to_rtc")[1] in ("409", "503")
        measured(it)
        answer, code = call(it, "ntp_to_rtc")
        assert code == "200"
        assert abs(answer["offset"]) < 0.3
        assert abs(simulated.off) < 0.3


# The configuration


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ntp.example.org", ("ntp.example.org", 123)),
        ("192.168.1.1:1123", ("192.168.1.1", 1123)),
        ("fd00::1", ("fd00::1", 123)),
        ("[fd00::1]", ("fd00::1", 123)),
        ("[fe80::1%eth0]:9", ("fe80::1%eth0", 9)),
    ],
)
def test_the_address_of_a_server(text: str, found: tuple[str, int]) -> None:
    assert address(text) == found


@pytest.mark.parametrize(
    "keys",
    [
        {"servers": [""]},
        {"servers": ["a b"]},
        {"servers": ["a:0"]},
        {"servers": ["a:65536"]},
        {"servers": ["a:"]},
        {"servers": ["[::1"]},
        {"servers": ["[::1]x"]},
        {"servers": ["a", "a"]},
        {"servers": ["192.168.1.1", "192.168.1.1:123"]},
        {"servers": ["ntp.example.org", "NTP.example.org"]},
        {"servers": ["ntp.example.org", "ntp.example.org."]},
        {"servers": [str(number) for number in range(9)]},
        {"rtc": "rtc0"},
        {"rtc": "/dev/rtc10"},
        {"rtc": "i2c:1:0x68:ds9999"},
        {"rtc": "i2c:1:104:ds3231"},
        {"rtc": "i2c:1:0x03:ds3231"},
        {"rtc": ""},
        {"step": "always"},
        {"interval": 1},
        {"timeout": 0},
    ],
)
def test_what_is_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"\[sync\]|servers|rtc") as caught:
        Config({"sync": keys}).section(SyncConfig)
    assert "got" in str(caught.value) or "twice" in str(caught.value)


def test_what_is_taken() -> None:
    for text in ("auto", "none", "/dev/rtc1", DS3231, "i2c:10:0x68:pcf8523"):
        assert Config({"sync": {"rtc": text}}).section(SyncConfig).rtc == text
    assert direct("i2c:10:0x68:ds1307").name == "10-0068"
    assert len(SyncConfig().servers) == 4
    assert Sync.CONFIG is SyncConfig


def test_what_a_process_does_not_import() -> None:
    code = (
        "import sys; from raspy.common.runner import light_msgspec, light_zmq, load_class; "
        "light_zmq(); light_msgspec(); load_class('sync'); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=unmeasured())
    heavy = {"ctypes", "smbus2", "asyncio", "subprocess", "multiprocessing", "inspect", "argparse", "typing_extensions"}
    assert heavy & set(done.stdout.split()) == set()
