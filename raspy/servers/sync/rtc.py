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
from raspy.servers.sync.machine import Machine
from raspy.servers.sync.ntp import date
from raspy.servers.sync.settings import Direct

TICK = 1.6
"""s within which the seconds of a clock that goes have changed."""
LOOK = 0.02
"""s between looks for that."""

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


class Content(msgspec.Struct, frozen=True):
    """What a clock chip says."""

    time: float
    """Unix s, whole."""
    stopped: str = ""
    """Why its time is not to be trusted; empty: it may be."""
    weak: str = ""
    """What else is wrong with it."""
    mend: bool = False
    """That is mended when it is set."""


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


def bound(machine: Machine, place: Direct) -> str:
    """The driver that has a chip; empty when none does."""
    try:
        return os.path.basename(os.readlink(f"{machine.i2c}/{place.name}/driver"))
    except OSError:
        return ""


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
