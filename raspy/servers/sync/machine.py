"""All that sync touches outside of itself: clocks, files of the kernel, the I2C bus, and the commands of root.

:class:`~raspy.servers.sync.simulate.SimulatedMachine` is one that is made up.
"""

from __future__ import annotations

import os
import time
from typing import Any, Protocol

from raspy.common import clock
from raspy.common.clock import BootClock
from raspy.servers.sync.privilege import Privilege

FILE_LIMIT = 4096


class Bus(Protocol):
    """What is used of ``smbus2.SMBus``."""

    def read_i2c_block_data(self, i2c_addr: int, register: int, length: int) -> list[int]:
        """Registers, in one transfer."""

    def write_i2c_block_data(self, i2c_addr: int, register: int, data: list[int]) -> Any:
        """Write registers, in one transfer."""

    def close(self) -> None:
        """Let go of it."""


class Machine:
    """This machine.

    :param privilege: what is done as root
    """

    rtcs = "/sys/class/rtc"
    i2c = "/sys/bus/i2c/devices"
    dev = "/dev"
    proc = "/proc"
    cgroups: tuple[str, ...] = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd")

    synchronized = clock.SYNCHRONIZED
    mark = clock.MARK

    def __init__(self, privilege: Privilege | None = None) -> None:
        self.clock = BootClock()
        self.privilege = privilege or Privilege()
        self._ignored = ""

    @property
    def installed(self) -> bool:
        """Whether sync runs as the unit of an installed Pi: its directory is there, and it may write it. Nowhere else
        is any clock set: a developer's is nobody's business."""
        directory = os.path.dirname(self.mark)
        return os.path.isdir(directory) and os.access(directory, os.W_OK)

    def wall(self) -> float:
        """The system clock, Unix s."""
        return self.clock.wall()

    def since(self) -> float:
        """Seconds since the boot."""
        return self.clock.since()

    def trusted(self) -> str:
        """What the clock has been trusted for in this boot already; empty: it was not, or is no more."""
        stamp = clock.stamp(self.synchronized)
        return clock.believed(self.read_mark(), stamp if stamp != self._ignored else "")

    def read_mark(self) -> clock.Mark | None:
        """What was last told with :meth:`write_mark` in this boot, by a sync before this one too."""
        return clock.read_mark(self.mark, self.clock.boot_id)

    def write_mark(self, source: str, base: float | None = None) -> None:
        """Tell the other servers for what the clock is trusted; empty: it is not, whatever systemd-timesyncd has said
        up to now. They are told only on an installed Pi.

        :param base: the system clock less the seconds since the boot, as it is known; left out: as it is
        :raises OSError: it could not be told
        """
        stamp = clock.stamp(self.synchronized)
        self._ignored = "" if source else stamp
        if not self.installed:
            return
        with open(self.mark + ".new", "w", encoding="ascii") as file:
            os.fchmod(file.fileno(), 0o644)
            at = self.base() if base is None else base
            file.write(f"{self.clock.boot_id} {source or clock.NONE} {at:.3f} {stamp}\n")
        os.replace(self.mark + ".new", self.mark)

    def base(self) -> float:
        """The system clock less the seconds since the boot: another one when somebody has set it."""
        return self.wall() - self.since()

    def sleep(self, seconds: float) -> None:
        """Wait; on a thread only."""
        time.sleep(seconds)

    def read(self, path: str) -> str:
        """The text of a small file.

        :raises OSError: it cannot be read
        """
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(FILE_LIMIT).strip()

    def names(self, path: str) -> list[str]:
        """What is in a directory, sorted; nothing when that cannot be listed."""
        try:
            return sorted(os.listdir(path))
        except OSError:
            return []

    def open_bus(self, number: int) -> Bus:
        """An I2C bus.

        :raises OSError: it cannot be opened
        :raises ImportError: smbus2 is not installed
        """
        # It imports ctypes, which costs memory that only a chip without a driver is worth.
        from smbus2 import SMBus

        bus: Bus = SMBus(number)
        return bus
