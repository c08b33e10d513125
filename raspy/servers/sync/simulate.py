"""A machine that is made up, for tests and for trying things out: its clock, its RTC chips, and what root would do.

Nothing of it touches the real clock::

    machine = SimulatedMachine(directory, off=-3600)          # the system clock is an hour behind
    machine.chips[1, 0x68] = SimulatedChip(machine, "ds3231")  # a chip on I2C bus 1, set to the true time
    server = Sync("pi", settings=SyncConfig(rtc="i2c:1:0x68:ds3231"), machine=machine)
"""

from __future__ import annotations

import os
import time
from typing import Any

from raspy.common.clock import BootClock
from raspy.servers.sync.chips import CHIPS
from raspy.servers.sync.machine import Bus, Machine
from raspy.servers.sync.privilege import Privilege, PrivilegeError, date_command, hwclock_command
from raspy.servers.sync.settings import Direct


class SimulatedClock(BootClock):
    """A system clock that is off.

    :param off: s by which it is ahead of the true time, negative: behind
    """

    def __init__(self, off: float) -> None:
        super().__init__("0" * 32)
        self.off = off

    def wall(self) -> float:
        """The system clock, Unix s."""
        return time.time() + self.off


class SimulatedPrivilege(Privilege):
    """Does to a simulated machine what root would do to a real one, and notes the command lines."""

    def __init__(self) -> None:
        self.machine: SimulatedMachine | None = None
        self.commands: list[list[str]] = []
        self.refusal = ""
        """What every command fails with."""

    def set_system(self, seconds: int) -> None:
        """Set the simulated system clock."""
        self._note(date_command(seconds))
        assert self.machine is not None
        self.machine.off = seconds - time.time()

    def write_rtc(self, device: str) -> None:
        """Set a simulated RTC of the kernel."""
        self._note(hwclock_command(device))
        assert self.machine is not None
        self.machine.kernel[int(device[-1])].set(self.machine.wall())

    def _note(self, command: list[str]) -> None:
        self.commands.append(command)
        if self.refusal:
            raise PrivilegeError(self.refusal)


class SimulatedChip:
    """The registers of an RTC chip, that go on with the time; on its bus it is what ``smbus2.SMBus`` is.

    :param kind: ``ds3231``, ``ds1307`` or ``pcf8523``
    :param off: s by which it is ahead of the true time
    """

    def __init__(self, machine: SimulatedMachine, kind: str, off: float = 0.0) -> None:
        self.machine = machine
        self.chip = CHIPS[kind]
        self.registers = [0] * 64
        self.running = True
        self.failing = 0
        """Transfers that fail before one does not."""
        self.log: list[tuple[str, int, int]] = []
        """``read`` or ``write``, first register, length."""
        self.fixed: list[int] | None = None
        """What the registers of the time always say."""
        self._off = off
        self._stopped_at = 0.0
        self._refresh()

    @property
    def time(self) -> float:
        """What it counts (Unix, s)."""
        return time.time() + self._off if self.running else self._stopped_at

    def set(self, wall: float) -> None:
        """Set what it counts, as a driver does."""
        self.running = True
        self._off = wall - time.time()

    def flag(self) -> None:
        """Set its flag: the oscillator stood still."""
        register = {"ds1307": 0, "ds3231": 15, "pcf8523": 3}[self.chip.name]
        self._refresh()
        self.registers[register] |= 0x80
        if self.chip.name == "ds1307":
            self._stopped_at, self.running = self.time, False

    def read_i2c_block_data(self, i2c_addr: int, register: int, length: int) -> list[int]:
        """Registers."""
        self._transfer("read", register, length)
        self._refresh()
        return self.registers[register : register + length]

    def write_i2c_block_data(self, i2c_addr: int, register: int, data: list[int]) -> None:
        """Write registers; writing the seconds starts the second anew."""
        self._transfer("write", register, len(data))
        self._refresh()
        self.registers[register : register + len(data)] = data
        first = self.chip.first
        if register <= first + 6 and register + len(data) > first:
            content = self.chip.read(self.registers)
            self.running = not (self.chip.name == "ds1307" and self.registers[0] & 0x80)
            seconds = register <= first
            part = 0.0 if seconds else (time.time() + self._off) % 1
            self._off = content.time + part - time.time()
            self._stopped_at = content.time

    def close(self) -> None:
        """Nothing is left."""

    def _transfer(self, what: str, register: int, length: int) -> None:
        self.log.append((what, register, length))
        if self.failing > 0:
            self.failing -= 1
            raise OSError(121, os.strerror(121))

    def _refresh(self) -> None:
        """Bring the registers of the time up to it; the flags among them stay."""
        first = self.chip.first
        if self.fixed is not None:
            self.registers[first : first + 7] = self.fixed
            return
        flags = self.registers[first] & 0x80
        for register, data in self.chip.write(int(self.time), [r & 0x7F for r in self.registers]):
            if register >= first:
                self.registers[register : register + len(data)] = data
        self.registers[first] |= flags


class SimulatedKernelRTC:
    """An RTC that the kernel has a driver for.

    :param name: as ``rtc-ds1307 1-0068``
    """

    def __init__(self, name: str, off: float = 0.0) -> None:
        self.name = name
        self.off = off
        self.error = 0
        """What reading it fails with (errno)."""
        self.stands = 0.0
        """A time that it stands still at."""

    def set(self, wall: float) -> None:
        """Set it."""
        self.off, self.error, self.stands = wall - time.time(), 0, 0.0

    def read(self) -> str:
        """What ``since_epoch`` says."""
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        return str(int(self.stands or time.time() + self.off))


class SimulatedMachine(Machine):
    """A machine whose files are below a directory.

    :param directory: an empty one
    :param off: s by which the system clock is ahead of the true time
    """

    def __init__(self, directory: str, off: float = 0.0) -> None:
        self.done = SimulatedPrivilege()
        super().__init__(self.done)
        self.done.machine = self
        self._clock = SimulatedClock(off)
        self.clock = self._clock
        self.rtcs, self.i2c, self.dev, self.proc = (f"{directory}/{name}" for name in ("rtc", "i2c", "dev", "proc"))
        self.cgroups = (f"{directory}/cgroup",)
        self.synchronized = f"{directory}/synchronized"
        self.mark = f"{directory}/run/trusted"
        os.makedirs(f"{directory}/run", exist_ok=True)
        self.kernel: dict[int, SimulatedKernelRTC] = {}
        """By number."""
        self.chips: dict[tuple[int, int], SimulatedChip] = {}
        """By bus and address."""

    @property
    def off(self) -> float:
        """s by which the system clock is ahead of the true time."""
        return self._clock.off

    @off.setter
    def off(self, seconds: float) -> None:
        self._clock.off = seconds

    def start_daemon(self, unit: str) -> None:
        """Have a time daemon run, as its unit is called."""
        os.makedirs(f"{self.cgroups[0]}/system.slice/{unit}.service")

    def bind(self, place: Direct, driver: str, number: int | None = None) -> None:
        """Have a driver take a chip, as RTC of a number if it is one to it."""
        where = f"{self.i2c}/{place.name}"
        os.makedirs(where)
        os.symlink(f"../../drivers/{driver}", f"{where}/driver")
        if number is not None:
            os.makedirs(f"{where}/rtc/rtc{number}")

    def read(self, path: str) -> str:
        """A file; those of the RTCs are made up."""
        directory, _, name = path.rpartition("/")
        if directory.startswith(f"{self.rtcs}/rtc"):
            found = self.kernel.get(int(directory[-1]))
            if found is None:
                raise FileNotFoundError(2, os.strerror(2), path)
            return found.name if name == "name" else found.read()
        return super().read(path)

    def names(self, path: str) -> list[str]:
        """What is in a directory; the RTCs are made up."""
        return [f"rtc{number}" for number in sorted(self.kernel)] if path == self.rtcs else super().names(path)

    def open_bus(self, number: int) -> Bus:
        """A bus with the chips."""
        return _Wires(self, number)


class _Wires:
    """An I2C bus: each transfer goes to the chip of its address."""

    def __init__(self, machine: SimulatedMachine, number: int) -> None:
        if number not in {bus for bus, _ in machine.chips}:
            raise FileNotFoundError(2, os.strerror(2), f"/dev/i2c-{number}")
        self.machine, self.number = machine, number

    def read_i2c_block_data(self, i2c_addr: int, register: int, length: int) -> list[int]:
        return self._chip(i2c_addr).read_i2c_block_data(i2c_addr, register, length)

    def write_i2c_block_data(self, i2c_addr: int, register: int, data: list[int]) -> Any:
        self._chip(i2c_addr).write_i2c_block_data(i2c_addr, register, data)

    def close(self) -> None:
        """Nothing is left."""

    def _chip(self, address: int) -> SimulatedChip:
        chip = self.machine.chips.get((self.number, address))
        if chip is None:
            raise OSError(121, os.strerror(121))
        return chip
