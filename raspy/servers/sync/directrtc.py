"""A real-time clock whose chip no driver has: read and written over I2C, never one that a driver has."""

from __future__ import annotations

from raspy.common.devices.errors import ReadingError
from raspy.servers.sync.chips import CHIPS, Chip
from raspy.servers.sync.machine import Bus, Machine
from raspy.servers.sync.ntp import date
from raspy.servers.sync.rtc import RTC, Content, Reading, bound
from raspy.servers.sync.settings import Direct

TRIES = 3
"""Times that a chip is written until it is what was written."""
EARLY = 0.003
"""s before the full second at which a chip is begun to be written."""


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
