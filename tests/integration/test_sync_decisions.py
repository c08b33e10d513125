"""Servers that are right, wrong, not set, unwilling or mute, and RTC chips in every state: what sync decides.

The same table stands in docs/clock.rst.
"""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from raspy.common import clock
from raspy.common.clock import believed, stamp
from raspy.servers.sync.kept import Known
from raspy.servers.sync.settings import direct
from raspy.servers.sync.simulate import SimulatedChip, SimulatedKernelRTC, SimulatedMachine
from tests.servers.ntp_stage import ntp_servers
from tests.servers.sync_stage import SHORT, measured, sync

YEAR, DAY, HOUR = 31_556_952.0, 86_400.0, 3600.0
PAGE = Path(__file__).parents[2] / "docs" / "clock.rst"
RIGHT, DS3231 = ("right", 0.0), "i2c:1:0x68:ds3231"


@pytest.fixture(autouse=True)
def old_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release that is a year old: what a clock said a month ago may be believed on the day that one is made, too."""
    monkeypatch.setattr(clock, "BUILT", time.time() - YEAR)


class Case(msgspec.Struct, kw_only=True):
    """What is there, and what is decided."""

    ntp: list[tuple[str, float]] = []
    """Servers by mode and by how far they are ahead, in s."""
    rtc: str = "none"
    rtc_off: float = 0.0
    flag: bool = False
    fixed: list[int] | None = None
    kernel: dict[int, tuple[str, float, int]] = {}
    """RTCs of the kernel: name, how far they are ahead in s, errno of reading."""
    bound: str = ""
    off: float = 0.0
    """How far the system clock is ahead."""
    last: float | None = None
    """The last known time, seconds before (negative) the true time."""
    daemon: str = ""
    synchronized: bool = False
    mark: str = ""
    set_since: float = 0.0
    """By how much somebody has set the clock since that mark was made."""
    again: bool = False
    """The first server is named once more, by another name."""
    step: str = "auto"
    decided: str
    reason: str = ""
    """A part of what is said."""


CASES: dict[str, Case] = {
    "four servers, right; the clock is an hour behind": Case(
        ntp=[RIGHT] * 4, off=-HOUR, decided="trusted by ntp; system clock set by ntp", reason="set by 4 servers"
    ),
    "the same; the clock is right": Case(ntp=[RIGHT] * 4, decided="trusted by ntp", reason="4 servers agree"),
    "the same; the clock is three years ahead": Case(
        ntp=[RIGHT] * 4, off=3 * YEAR, decided="trusted by ntp; system clock set by ntp"
    ),
    "the same; systemd-timesyncd runs": Case(
        ntp=[RIGHT] * 4, off=-HOUR, daemon="systemd-timesyncd", decided="not trusted", reason="is to bring it in"
    ),
    "the same; chrony runs, and the clock is right": Case(ntp=[RIGHT] * 4, daemon="chrony", decided="trusted by ntp"),
    "the same; step is never": Case(ntp=[RIGHT] * 4, off=-HOUR, step="never", decided="not trusted", reason="never"),
    "one of four wrong by a year": Case(
        ntp=[RIGHT, RIGHT, RIGHT, ("right", YEAR)], off=-HOUR, decided="trusted by ntp; system clock set by ntp"
    ),
    "two of four wrong by a year": Case(
        ntp=[RIGHT, RIGHT, ("right", YEAR), ("right", YEAR)], decided="not trusted", reason="NTP: "
    ),
    "one of four right, three unsynchronised": Case(
        ntp=[RIGHT, *[("unsynchronised", 0.0)] * 3], decided="not trusted", reason="its own clock is not set"
    ),
    "all unsynchronised": Case(ntp=[("unsynchronised", 0.0)] * 2, decided="not trusted", reason="not set"),
    "all say kiss-o'-death": Case(ntp=[("DENY", 0.0), ("RATE", 0.0)], decided="not trusted", reason="not asked again"),
    "one kiss-o'-death, two right": Case(ntp=[RIGHT, RIGHT, ("DENY", 0.0)], decided="trusted by ntp"),
    "all mute": Case(ntp=[("mute", 0.0)] * 2, decided="not trusted", reason="no answer within 0.5 s"),
    "garbage, answers to other requests": Case(
        ntp=[("short", 0.0), ("noise", 0.0), ("stranger", 0.0)], decided="not trusted", reason="another request"
    ),
    "a long way back": Case(ntp=[("slow", 0.0)] * 2, decided="not trusted", reason="no answer within 0.5 s"),
    "the only one, wrong by a year; RTC good": Case(
        ntp=[("right", YEAR)],
        rtc=DS3231,
        decided="trusted by rtc",
        reason="agrees with it",
    ),
    "the only one, wrong by a year; nothing else is known": Case(
        ntp=[("right", YEAR)], decided="trusted by ntp; system clock set by ntp", reason="set by 1 server"
    ),
    "the only one, wrong by a year, under two names; nothing else is known": Case(
        ntp=[("right", YEAR)], again=True, decided="not trusted", reason="it is the same server as"
    ),
    "the only one, a year back; it was later already": Case(
        ntp=[("right", -30 * DAY)], last=-DAY, decided="not trusted", reason="already"
    ),
    "three, a month back; it was later already": Case(
        ntp=[("right", -30 * DAY)] * 3, last=-DAY, decided="trusted by ntp; system clock set by ntp"
    ),
    "the only one, wrong by a year; the clock is trusted": Case(
        ntp=[("right", YEAR)], mark="ntp", decided="trusted by ntp", reason="goes on"
    ),
    "servers right; RTC 10 s off": Case(
        ntp=[RIGHT] * 2, rtc=DS3231, rtc_off=10, decided="trusted by ntp; RTC set", reason="2 servers"
    ),
    "servers right; RTC right": Case(ntp=[RIGHT] * 2, rtc=DS3231, decided="trusted by ntp"),
    "servers right; RTC with its flag set": Case(
        ntp=[RIGHT] * 2, rtc=DS3231, flag=True, decided="trusted by ntp; RTC set"
    ),
    "servers right; clock and RTC an hour behind": Case(
        ntp=[RIGHT] * 2,
        rtc=DS3231,
        rtc_off=-HOUR,
        off=-HOUR,
        decided="trusted by ntp; system clock set by ntp; RTC set",
    ),
    "no network; RTC good, the clock a day behind": Case(
        ntp=[("mute", 0.0)], rtc=DS3231, off=-DAY, last=-2 * DAY, decided="trusted by rtc; system clock set by rtc"
    ),
    "the same with a DS1307": Case(
        rtc="i2c:1:0x68:ds1307", off=-DAY, last=-2 * DAY, decided="trusted by rtc; system clock set by rtc"
    ),
    "the same with a PCF8523": Case(
        rtc="i2c:1:0x68:pcf8523", off=-DAY, last=-2 * DAY, decided="trusted by rtc; system clock set by rtc"
    ),
    "no network; RTC with its flag set": Case(
        rtc=DS3231, flag=True, off=-DAY, decided="not trusted", reason="oscillator stood still"
    ),
    "no network; DS1307 halted": Case(
        rtc="i2c:1:0x68:ds1307", flag=True, off=-DAY, decided="not trusted", reason="oscillator is halted"
    ),
    "no network; RTC at 2000-01-01": Case(
        rtc=DS3231, fixed=[0, 0, 0, 1, 1, 1, 0], decided="not trusted", reason="stands still at 2000-01-01"
    ),
    "no network; RTC all ones": Case(rtc=DS3231, fixed=[0x7F, *[0xFF] * 6], decided="not trusted", reason="no number"),
    "no network; RTC behind the last known time": Case(
        rtc=DS3231, rtc_off=-3 * DAY, last=-2 * DAY, decided="not trusted", reason="already"
    ),
    "no network; RTC three years after the last known time": Case(
        rtc=DS3231, rtc_off=3 * YEAR, last=-DAY, decided="not trusted", reason="more than two years after"
    ),
    "no network; RTC before the build": Case(
        rtc=DS3231, rtc_off=-20 * YEAR, off=-20 * YEAR, decided="not trusted", reason="which cannot be"
    ),
    "no network; the kernel's RTC good": Case(
        rtc="auto",
        kernel={0: ("rtc-ds1307 1-0068", 0.0, 0)},
        off=-DAY,
        decided="trusted by rtc; system clock set by rtc",
        reason="set by rtc0 (rtc-ds1307 1-0068)",
    ),
    "no network; the kernel says that its time is not valid": Case(
        rtc="auto", kernel={0: ("rtc-pcf8523 1-0068", 0.0, errno.EINVAL)}, decided="not trusted", reason="not valid"
    ),
    "servers right; the kernel's RTC is not valid": Case(
        ntp=[RIGHT] * 2,
        rtc="auto",
        kernel={0: ("rtc-pcf8523 1-0068", 0.0, errno.EINVAL)},
        decided="trusted by ntp; RTC set",
    ),
    "a Pi 5's own RTC and a chip beside it": Case(
        rtc="auto",
        kernel={0: ("rpi-rtc soc:rpi_rtc", -HOUR, 0), 1: ("rtc-ds1307 1-0068", 0.0, 0)},
        off=-DAY,
        decided="trusted by rtc; system clock set by rtc",
        reason="set by rtc1",
    ),
    "a chip that a driver has, named without": Case(
        rtc=DS3231,
        bound="rtc-ds1307",
        kernel={0: ("rtc-ds1307 1-0068", 0.0, 0)},
        off=-DAY,
        decided="trusted by rtc; system clock set by rtc",
        reason="set by rtc0",
    ),
    "a chip that another driver has": Case(
        rtc=DS3231, bound="mpu6050", decided="not trusted", reason="it is not touched"
    ),
    "no network, no RTC": Case(decided="not trusted", reason="there is no RTC"),
    "no network; systemd-timesyncd has set the clock": Case(
        daemon="systemd-timesyncd", synchronized=True, decided="trusted by systemd-timesyncd"
    ),
    "no network; sync starts anew within the boot": Case(mark="ntp", decided="trusted by ntp", reason="goes on"),
    "the same; somebody has set the clock meanwhile": Case(mark="ntp", set_since=HOUR, decided="not trusted"),
    "the same; systemd-timesyncd set it before that": Case(
        mark="ntp", set_since=HOUR, synchronized=True, decided="not trusted"
    ),
}


def prepare(case: Case, directory: str) -> SimulatedMachine:
    machine = SimulatedMachine(directory, case.off)
    if case.rtc.startswith("i2c"):
        place = direct(case.rtc)
        chip = machine.chips[1, 0x68] = SimulatedChip(machine, place.chip, case.rtc_off)
        chip.fixed = case.fixed
        if case.flag:
            chip.flag()
        if case.bound:
            machine.bind(place, case.bound, 0 if case.kernel else None)
    for number, (name, off, error) in case.kernel.items():
        machine.kernel[number] = SimulatedKernelRTC(name, off)
        machine.kernel[number].error = error
    if case.daemon:
        machine.start_daemon(case.daemon)
    if case.synchronized:
        Path(machine.synchronized).touch()
    if case.mark:
        machine.write_mark(case.mark, machine.base() - case.set_since)
    if case.last is not None:
        os.mkdir(f"{directory}/state")
        Path(f"{directory}/state/clock.json").write_bytes(msgspec.json.encode(Known(last=time.time() + case.last)))
    return machine


@pytest.mark.parametrize("name", CASES)
def test_decided(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    machine = prepare(case, str(tmp_path))
    with ntp_servers(*case.ntp) as servers:
        names = [server.name for server in servers]
        if case.again:
            names.append(names[0].replace("127.0.0.1", "127.1"))
        silent = {"mute", "short", "noise", "stranger", "slow"} & {mode for mode, _ in case.ntp}
        timeout = SHORT if silent else 5.0
        with sync(machine, servers=names, rtc=case.rtc, step=case.step, timeout=timeout) as server:
            measured(server)
            changes = [command[2] for command in machine.done.commands]
            wrote = [entry for chip in machine.chips.values() for entry in chip.log if entry[0] == "write"]
            parts = [f"trusted by {server.trusted}" if server.trusted else "not trusted"]
            parts += [f"system clock set by {server.decision.step_source}"] * changes.count("/usr/bin/date")
            parts += ["RTC set"] * bool(wrote or "/usr/sbin/hwclock" in changes)
            assert "; ".join(parts) == case.decided, server.reason
            assert case.reason in server.reason
            check(server, machine, case)
        assert all(len(each.requests) == 1 for each in servers)


def check(server: Any, machine: SimulatedMachine, case: Case) -> None:
    """What must be true whatever was decided."""
    if "system clock set" in case.decided:
        true = case.ntp[0][1] if server.decision.step_source == "ntp" else 0.0
        assert machine.off == pytest.approx(true, abs=0.5)
        assert server.change is not None
    else:
        assert machine.off == case.off
    for chip in machine.chips.values():
        if "RTC set" in case.decided:
            assert chip.time == pytest.approx(time.time(), abs=0.5)
            assert not chip.chip.read(chip.read_i2c_block_data(0x68, 0, chip.chip.length)).stopped
        # One block read for all registers that belong together, always.
        assert {entry[1:] for entry in chip.log if entry[0] == "read"} <= {(0, chip.chip.length)}
    if case.bound:
        assert not machine.chips[1, 0x68].log, "the bus was used behind the kernel's back"
    assert ("clock" in server.conditions) == (not server.trusted)
    assert believed(machine.read_mark(), stamp(machine.synchronized)) == server.trusted


def test_the_table_of_the_docs() -> None:
    shown = PAGE.read_text(encoding="utf-8")
    rows = "".join(f"   * - {name}\n     - {case.decided}\n" for name, case in CASES.items())
    assert rows in shown, f"docs/clock.rst is to have:\n{rows}"
