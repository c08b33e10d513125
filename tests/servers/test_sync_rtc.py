"""The RTC: found, read when its seconds change, written and read back."""

from __future__ import annotations

import errno
import os
import sys
import time
from pathlib import Path

import pytest

from raspy.common.devices.errors import ReadingError
from raspy.servers.sync import simulate
from raspy.servers.sync.directrtc import TRIES, DirectRTC
from raspy.servers.sync.findrtc import find
from raspy.servers.sync.machine import Machine
from raspy.servers.sync.rtc import Content, KernelRTC, tick
from raspy.servers.sync.settings import direct
from raspy.servers.sync.simulate import SimulatedChip, SimulatedKernelRTC, SimulatedMachine

PLACES = {kind: f"i2c:1:0x68:{kind}" for kind in ("ds3231", "ds1307", "pcf8523")}


class Time:
    """A time that goes on only while somebody waits, so that it says nothing how busy this machine is."""

    def __init__(self) -> None:
        self.now = self.start = time.time()

    def time(self) -> float:
        return self.now

    def since(self) -> float:
        return 1000.0 + self.now - self.start

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimulatedMachine:
    going = Time()
    monkeypatch.setattr(simulate, "time", going)
    machine = SimulatedMachine(str(tmp_path))
    monkeypatch.setattr(machine, "since", going.since)
    monkeypatch.setattr(machine, "sleep", going.sleep)
    return machine


def chip(machine: SimulatedMachine, kind: str = "ds3231", off: float = 0.0) -> tuple[SimulatedChip, DirectRTC]:
    found = machine.chips[1, 0x68] = SimulatedChip(machine, kind, off)
    return found, DirectRTC(machine, direct(PLACES[kind]))


@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize("off", [0.0, -3600.4, 0.25])
def test_a_chip_is_read_to_a_few_hundredths_of_a_second(machine: SimulatedMachine, kind: str, off: float) -> None:
    _, rtc = chip(machine, kind, off)
    reading = rtc.read()
    assert reading.good, reading
    assert reading.offset(machine.base()) == pytest.approx(off, abs=0.05)


@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize("flag", [False, True])
def test_a_chip_is_written(machine: SimulatedMachine, kind: str, flag: bool) -> None:
    simulated, rtc = chip(machine, kind, -90_000)
    if flag:
        simulated.flag()
        assert "oscillator" in rtc.read().problem
    rtc.write()
    assert simulated.time == pytest.approx(machine.wall(), abs=0.05)
    assert rtc.read().good


def test_a_transfer_that_fails_says_so_and_leaves_the_flag(machine: SimulatedMachine) -> None:
    simulated, rtc = chip(machine)
    simulated.flag()
    simulated.failing = 100
    assert "nothing answers" in rtc.read().problem
    with pytest.raises(ReadingError, match="nothing answers"):
        rtc.write()
    simulated.failing = 0
    assert simulated.registers[15] & 0x80


def test_a_chip_that_does_not_take_it(machine: SimulatedMachine) -> None:
    simulated, rtc = chip(machine)
    simulated.fixed = [0, 0, 0, 1, 1, 1, 0x26]
    simulated.flag()
    with pytest.raises(ReadingError, match="it is not what was written: it says 2026-01-01 00:00:00 UTC"):
        rtc.write()
    assert simulated.registers[15] & 0x80, "the flag is cleared only after writing"


class Worn(SimulatedChip):
    """A chip whose year is always another one."""

    def write_i2c_block_data(self, i2c_addr: int, register: int, data: list[int]) -> None:
        data, year = list(data), self.chip.first + 6 - register
        if 0 <= year < len(data):
            data[year] = 0x27
        super().write_i2c_block_data(i2c_addr, register, data)


@pytest.mark.parametrize("kind", PLACES)
def test_a_chip_that_was_set_to_something_else_is_not_believed(machine: SimulatedMachine, kind: str) -> None:
    simulated = machine.chips[1, 0x68] = Worn(machine, kind)
    simulated.flag()
    rtc = DirectRTC(machine, direct(PLACES[kind]))
    with pytest.raises(ReadingError, match="it is not what was written: it says 2027"):
        rtc.write()
    assert "oscillator" in rtc.read().problem


@pytest.mark.parametrize("kind", PLACES)
def test_a_bus_that_dies_while_a_chip_is_set(machine: SimulatedMachine, kind: str) -> None:
    simulated, rtc = chip(machine, kind, -90_000)
    write = simulated.write_i2c_block_data
    writes: list[int] = []

    def dies(i2c_addr: int, register: int, data: list[int]) -> None:
        writes.append(register)
        simulated.failing = 0 if len(writes) > TRIES else 1
        write(i2c_addr, register, data)

    simulated.write_i2c_block_data = dies  # type: ignore[method-assign]
    with pytest.raises(ReadingError, match="it cannot be written"):
        rtc.write()
    assert not rtc.read().good, "it may have taken a part"


def test_a_transfer_that_fails_once_is_made_again(machine: SimulatedMachine) -> None:
    simulated, rtc = chip(machine, "ds3231", -90_000)
    simulated.failing = 1
    rtc.write()
    assert rtc.read().good
    assert simulated.time == pytest.approx(machine.wall(), abs=0.05)


def test_a_bus_or_chip_that_is_not_there(machine: SimulatedMachine) -> None:
    rtc = DirectRTC(machine, direct(PLACES["ds3231"]))
    assert rtc.read().problem == "I2C bus 1 cannot be opened: No such file or directory"
    chip(machine)
    assert "nothing answers" in DirectRTC(machine, direct("i2c:1:0x51:ds3231")).read().problem


def test_smbus2_that_is_not_installed(machine: SimulatedMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "smbus2", None)
    machine.open_bus = Machine.open_bus.__get__(machine)  # type: ignore[method-assign]
    assert "python3-smbus2" in DirectRTC(machine, direct(PLACES["ds3231"])).read().problem


def test_the_kernel_is_not_gone_behind(machine: SimulatedMachine) -> None:
    simulated, rtc = chip(machine)
    place = direct(PLACES["ds3231"])
    machine.bind(place, "rtc-ds1307", 3)
    machine.kernel[3] = SimulatedKernelRTC("rtc-ds1307 1-0068")
    found = find(PLACES["ds3231"], machine)
    assert isinstance(found, KernelRTC)
    assert found.device == "/dev/rtc3"
    # Bound between the finding and the reading.
    assert "rtc-ds1307" in rtc.read().problem
    with pytest.raises(ReadingError, match="not touched"):
        rtc.write()
    assert simulated.log == []


def test_a_driver_that_makes_no_rtc_of_it(machine: SimulatedMachine) -> None:
    machine.bind(direct(PLACES["ds3231"]), "mpu6050")
    with pytest.raises(ReadingError, match="mpu6050 has 1-0068"):
        find(PLACES["ds3231"], machine)


NAMES = {
    "none": ({}, None),
    "one": ({0: "rtc-ds1307 1-0068"}, "/dev/rtc0"),
    "Pi 5 alone": ({0: "rpi-rtc soc:rpi_rtc"}, "/dev/rtc0"),
    "Pi 5 and a chip": ({0: "rpi_rtc soc:rpi_rtc", 1: "rtc-pcf8523 1-0068"}, "/dev/rtc1"),
    "Pi 5 and another": ({0: "rtc-test rtc-test", 1: "rpi-rtc soc:rpi_rtc"}, "/dev/rtc1"),
    "a PC": ({0: "rtc_cmos 00:03"}, "/dev/rtc0"),
}


@pytest.mark.parametrize("case", NAMES)
def test_which_is_the_best(machine: SimulatedMachine, case: str) -> None:
    names, device = NAMES[case]
    machine.kernel = {number: SimulatedKernelRTC(name) for number, name in names.items()}
    found = find("auto", machine)
    assert (found and found.device) == device
    assert find("none", machine) is None
    named = find("/dev/rtc7", machine)
    assert named is not None
    assert named.read().problem == "there is no /dev/rtc7"


def test_the_kernels_rtc(machine: SimulatedMachine) -> None:
    simulated = machine.kernel[0] = SimulatedKernelRTC("rtc-ds1307 1-0068", 120.0)
    rtc = KernelRTC(machine, 0)
    reading = rtc.read()
    assert reading.good
    assert reading.offset(machine.base()) == pytest.approx(120, abs=0.05)
    simulated.error = errno.EINVAL
    assert rtc.read().problem.endswith("its time is not valid")
    simulated.error = errno.EIO
    assert rtc.read().problem == "it cannot be read: Input/output error"
    simulated.error, simulated.stands = 0, 1_800_000_000.0
    assert "stands still at 2027-01-15" in rtc.read().problem
    rtc.write()
    assert rtc.read().good
    assert machine.done.commands == [
        ["/usr/bin/sudo", "-n", "/usr/sbin/hwclock", "--systohc", "--utc", "--noadjfile", "--rtc=/dev/rtc0"]
    ]


@pytest.mark.parametrize("text", ["", "x", "12e9", "1" * 40, "١٢٣"])
def test_what_a_driver_says_that_is_no_time(machine: SimulatedMachine, text: str) -> None:
    machine.kernel[0] = SimulatedKernelRTC("rtc-x")
    machine.kernel[0].read = lambda: text  # type: ignore[method-assign]
    assert "is no time" in KernelRTC(machine, 0).read().problem


def test_a_device_without_the_question_for_its_battery(machine: SimulatedMachine) -> None:
    machine.kernel[0] = SimulatedKernelRTC("rtc-x")
    os.mkdir(machine.dev)
    Path(machine.dev, "rtc0").touch()
    assert KernelRTC(machine, 0).read().good


def test_a_clock_that_jumps(machine: SimulatedMachine) -> None:
    times = iter([100.0, 100.0, 500.0])
    with pytest.raises(ReadingError, match="it jumped"):
        tick(lambda: Content(next(times)), machine)


def test_what_the_real_machine_has() -> None:
    # Whatever that is, it is found and read, or said to be missing, without an exception.
    found = find("auto", Machine())
    if found is not None:
        reading = found.read()
        assert reading.good or reading.problem
