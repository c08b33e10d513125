"""The real-time clock: found, read, and set, through the kernel where a driver has it, else straight.

The kernel's is read in ``/sys/class/rtc/rtcN/since_epoch`` (Documentation/ABI/testing/sysfs-class-rtc), which everybody
may, and set by hwclock. A chip without a driver is read and written over I2C, never one that a driver has.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import struct
from collections.abc import Callable

import msgspec

from raspy.common.clock import plausible
from raspy.common.devices.errors import ReadingError
from raspy.servers.sync.chips import CHIPS, Chip, Content
from raspy.servers.sync.machine import Bus, Machine
from raspy.servers.sync.ntp import date
from raspy.servers.sync.settings import Direct, direct

TICK = 1.6
"""s within which the seconds of a clock that goes have changed."""
LOOK = 0.02
"""s between looks for that."""
TRIES = 3
"""Times that a chip is written until it is what was written."""
EARLY = 0.003
"""s before the full second at which a chip is begun to be written."""

RTC_VL_READ = 0x80047013
"""_IOR('p', 0x13, unsigned int) of linux/rtc.h."""
VOLTAGE = {
    0x01: ("stopped", "the driver says that its time is not valid"),
    0x02: ("weak", "its battery is low"),
    0x04: ("stopped", "its battery is empty"),
    0x10: ("weak", "it does not use its battery"),
}
"""RTC_VL_DATA_INVALID, _BACKUP_LOW, _BACKUP_EMPTY and _BACKUP_SWITCH of linux/rtc.h."""

OWN = re.compile(r"\brpi[-_]rtc\b")
"""The Pi 5's own (drivers/rtc/rtc-rpi.c of the Raspberry Pi kernel)."""
ON_I2C = re.compile(r"[0-9]+-00[0-9a-f]{2}$")


class Reading(msgspec.Struct, frozen=True):
    """What an RTC said."""

    name: str
    device: str
    """``/dev/rtc0`` or ``i2c:1:0x68:ds3231``."""
    time: float | None = None
    """Unix s; None: it said none."""
    at: float = 0.0
    """Seconds since the boot at which it was that."""
    problem: str = ""
    """Why it is not to be trusted; empty: it may be."""
    weak: str = ""
    """What else is wrong with it."""
    mend: bool = False
    """That is mended when it is set."""

    @property
    def good(self) -> bool:
        """Whether it can be believed."""
        return self.time is not None and not self.problem

    def offset(self, base: float) -> float | None:
        """By how many s it is ahead of a system clock; None when it said nothing.

        :param base: that clock, less the seconds since the boot
        """
        return None if self.time is None else self.time - self.at - base


class RTC:
    """A real-time clock."""

    def __init__(self, machine: Machine, name: str, device: str) -> None:
        self.machine = machine
        self.name = name
        self.device = device

    def read(self) -> Reading:
        """What it says, to a few hundredths of a second. Blocks until its seconds change."""
        try:
            content, at = tick(self._content, self.machine)
        except ReadingError as error:
            return Reading(self.name, self.device, problem=str(error))
        problem = content.stopped
        if not problem and not plausible(content.time):
            problem = f"it says {date(content.time)}, which cannot be: its battery is empty, or it was never set"
        return Reading(self.name, self.device, content.time, at, problem, content.weak, content.mend)

    def write(self) -> None:
        """Set it to the system clock. Blocks for up to some seconds.

        :raises OSError: it is not set
        """
        raise NotImplementedError

    def _content(self) -> Content:
        """:raises ReadingError: it says nothing."""
        raise NotImplementedError


class KernelRTC(RTC):
    """One that the kernel has a driver for.

    :param number: of ``/dev/rtcN``
    """

    def __init__(self, machine: Machine, number: int) -> None:
        self.directory = f"{machine.rtcs}/rtc{number}"
        try:
            driver = machine.read(f"{self.directory}/name")
        except OSError:
            driver = "not there"
        super().__init__(machine, f"rtc{number} ({driver[:60]})", f"/dev/rtc{number}")
        self.driver = driver

    @property
    def rank(self) -> int:
        """Which is the best: a chip that somebody has added, then the Pi 5's own, then others."""
        if ON_I2C.search(self.driver):
            return 0
        return 1 if OWN.search(self.driver) else 2

    def write(self) -> None:
        """Have hwclock set it."""
        self.machine.privilege.write_rtc(self.device)

    def read(self) -> Reading:
        """What it says, and what the driver says of its battery if that may be asked."""
        reading = super().read()
        for kind, text in self._voltage():
            if kind == "stopped" and not reading.problem:
                reading = msgspec.structs.replace(reading, problem=text)
            elif kind == "weak" and not reading.weak:
                reading = msgspec.structs.replace(reading, weak=text)
        return reading

    def _content(self) -> Content:
        try:
            text = self.machine.read(f"{self.directory}/since_epoch")
        except FileNotFoundError:
            raise ReadingError("none", f"there is no {self.device}") from None
        except OSError as error:
            # What most drivers answer when the chip says that its oscillator stood still.
            stopped = error.errno == errno.EINVAL
            why = "the driver says that its time is not valid" if stopped else error.strerror or str(error)
            raise ReadingError("stopped" if stopped else "io", f"it cannot be read: {why}") from error
        if not re.fullmatch("-?[0-9]{1,12}", text):
            raise ReadingError("text", f"what the driver says is no time: {text[:40]!r}")
        return Content(float(text))

    def _voltage(self) -> list[tuple[str, str]]:
        """What RTC_VL_READ says; nothing where the device may not be opened, or has none."""
        try:
            device = os.open(f"{self.machine.dev}/{os.path.basename(self.device)}", os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return []
        try:
            flags = struct.unpack("I", fcntl.ioctl(device, RTC_VL_READ, bytes(4)))[0]
        except OSError:
            return []
        finally:
            os.close(device)
        return [said for bit, said in VOLTAGE.items() if flags & bit]


class DirectRTC(RTC):
    """A chip that no driver has.

    :param place: where it is
    """

    def __init__(self, machine: Machine, place: Direct) -> None:
        super().__init__(
            machine,
            f"{place.chip} at {place.address:#04x} of I2C bus {place.bus}",
            f"i2c:{place.bus}:{place.address:#04x}:{place.chip}",
        )
        self.place = place
        self.chip: Chip = CHIPS[place.chip]
        self._touched = False

    def read(self) -> Reading:
        """What the chip says, in one block read for each look."""
        try:
            bus = self._open()
        except ReadingError as error:
            return Reading(self.name, self.device, problem=str(error))
        self._bus = bus
        try:
            return super().read()
        finally:
            bus.close()

    def _content(self) -> Content:
        return self.chip.read(self._registers(self._bus))

    def write(self) -> None:
        """Write the time of the system clock at its next full second, look whether it is right, clear the flag. One
        that is not right in the end is left so that nobody believes it."""
        bus = self._open()
        self._touched = False
        try:
            problem = "it was not tried"
            for _ in range(TRIES):
                try:
                    problem = self._write(bus)
                except ReadingError as error:
                    problem = str(error)
                if not problem:
                    return
            if self._touched:
                try:
                    self._put(bus, self.chip.void())
                except ReadingError:
                    problem += "; and it may say so as if it were right"
            raise ReadingError("set", problem)
        finally:
            bus.close()

    def _write(self, bus: Bus) -> str:
        """Write it once; what is wrong with what it says then."""
        machine = self.machine
        before = self._registers(bus)
        target = int(machine.wall() + 0.05) + 1
        machine.sleep(max(0.0, target - machine.wall() - EARLY))
        self._put(bus, self.chip.write(target, before))
        found = self.chip.read(self._registers(bus))
        if abs(found.time - machine.wall()) <= 1.1:
            self._put(bus, self.chip.settle(self._registers(bus)))
            found = self.chip.read(self._registers(bus))
        if abs(found.time - machine.wall()) > 1.1:
            return f"it is not what was written: it says {date(found.time)}"
        return found.stopped

    def _put(self, bus: Bus, writes: list[tuple[int, list[int]]]) -> None:
        for register, data in writes:
            self._touched = True
            try:
                bus.write_i2c_block_data(self.place.address, register, data)
            except OSError as error:
                raise ReadingError("io", f"it cannot be written: {error.strerror or error}") from error

    def _registers(self, bus: Bus) -> list[int]:
        try:
            return bus.read_i2c_block_data(self.place.address, 0, self.chip.length)
        except OSError as error:
            raise ReadingError("io", f"nothing answers: {error.strerror or error}") from error

    def _open(self) -> Bus:
        driver = bound(self.machine, self.place)
        if driver:
            raise ReadingError("bound", f"the driver {driver} has it by now, and it is not touched")
        try:
            return self.machine.open_bus(self.place.bus)
        except ImportError as error:
            raise ReadingError("smbus2", "smbus2 is not installed: sudo apt-get install python3-smbus2") from error
        except OSError as error:
            why = error.strerror or str(error)
            raise ReadingError("bus", f"I2C bus {self.place.bus} cannot be opened: {why}") from error


def bound(machine: Machine, place: Direct) -> str:
    """The driver that has a chip; empty when none does."""
    try:
        return os.path.basename(os.readlink(f"{machine.i2c}/{place.name}/driver"))
    except OSError:
        return ""


def find(setting: str, machine: Machine) -> RTC | None:
    """The RTC that the key ``rtc`` means; None where there is none.

    :raises ReadingError: the one that is named is there, and cannot be used
    """
    if setting == "none":
        return None
    if setting == "auto":
        found = [KernelRTC(machine, number) for number in _numbers(machine.names(machine.rtcs))]
        return min(found, key=lambda rtc: rtc.rank, default=None)
    if setting.startswith("/dev/"):
        return KernelRTC(machine, int(setting[-1]))
    place = direct(setting)
    driver = bound(machine, place)
    if not driver:
        return DirectRTC(machine, place)
    numbers = _numbers(machine.names(f"{machine.i2c}/{place.name}/rtc"))
    if not numbers:
        raise ReadingError("bound", f"the driver {driver} has {place.name}, which is no RTC to it: it is not touched")
    return KernelRTC(machine, numbers[0])


def _numbers(names: list[str]) -> list[int]:
    return [int(name[3:]) for name in names if re.fullmatch("rtc[0-9]", name)]


def tick(read: Callable[[], Content], machine: Machine) -> tuple[Content, float]:
    """What a clock of whole seconds says just when they change, and the seconds since the boot at that.

    :raises ReadingError: it cannot be read, or does not go
    """
    first, began = read(), machine.since()
    if first.stopped:
        return first, began
    while machine.since() - began < TICK:
        machine.sleep(LOOK)
        found = read()
        if found.time != first.time:
            if not 0 < found.time - first.time <= 2:
                raise ReadingError("jumps", f"it jumped from {date(first.time)} to {date(found.time)}")
            return found, machine.since()
    raise ReadingError("stands", f"it stands still at {date(first.time)}")
