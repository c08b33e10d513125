"""The registers of three RTC chips: what they say, and what is to be written to set them.

Nothing here touches a bus. Facts are from the data sheets: DS1307 (Maxim 19-5124, table 2), DS3231 (Maxim 19-5170,
figure 1), PCF8523 (NXP rev. 7, table 5). All three hold the date as BCD, in UTC here, and have a bit that says
whether the oscillator stood still. That bit is cleared only after the time is written, so that a chip that was set by
halves is not believed; but for the DS1307, whose bit halts the oscillator, so that a running time has it cleared.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from raspy.common.devices.errors import ReadingError
from raspy.servers.sync.rtc import Content

CENTURY = 2000


Write = tuple[int, list[int]]
"""The first register, and the bytes to write from there."""


class Chip:
    """A kind of chip."""

    name = ""
    length = 0
    """Registers from 0 that are read, in one block: the chip holds the time still meanwhile."""
    first = 0
    """The register of the seconds."""
    weekday = 3
    """Which after that is the day of the week; the day of the month is the other."""
    sunday = 7
    """What that says on Sundays; on Mondays it says 1."""
    flag = 0
    """The bit of the seconds that says that they are not to be believed; 0: there is none there."""

    def read(self, registers: Sequence[int]) -> Content:
        """What the registers say.

        :raises ReadingError: they hold no time
        """
        raise NotImplementedError

    def write(self, time: float, registers: Sequence[int]) -> list[Write]:
        """What to write, in this order, to set the chip to a whole second.

        :param registers: as they are before
        """
        raise NotImplementedError

    def settle(self, registers: Sequence[int]) -> list[Write]:
        """What to write once the time has been read back and is right; ``registers`` are as they are then."""
        return []

    def void(self) -> list[Write]:
        """What to write so that a chip which was set by halves, or to something else, is not believed: its flag, and
        2000-01-01, which cannot be."""
        fields = self._fields(datetime(CENTURY, 1, 1, tzinfo=UTC).timestamp())
        return [(self.first, [fields[0] | self.flag, *fields[1:]])]

    def _date(self, fields: Sequence[int], hour: int) -> float:
        """The time from the seven registers, whose flags are masked off, and the hour."""
        names = ("second", "minute", "hour", "weekday", "day", "month", "year")
        values = {}
        for name, value in zip(names, self._ordered(fields), strict=True):
            if name != "hour" and name != "weekday":
                values[name] = bcd(value, name, self.name)
        try:
            date = datetime(
                CENTURY + values["year"], values["month"], values["day"], hour, values["minute"], values["second"],
                tzinfo=UTC,
            )  # fmt: skip
        except ValueError as error:
            raise ReadingError("date", f"{self.name}: its registers hold no date: {error}") from error
        return date.timestamp()

    def _ordered(self, fields: Sequence[int]) -> list[int]:
        """The registers with the day of the week before that of the month."""
        fields = list(fields)
        if self.weekday == 4:
            fields[3], fields[4] = fields[4], fields[3]
        return fields

    def _fields(self, time: float) -> list[int]:
        """The seven registers for a time, in 24 hours."""
        date = datetime.fromtimestamp(round(time), UTC)
        weekday = date.isoweekday() if date.isoweekday() < 7 else self.sunday
        fields = [date.second, date.minute, date.hour, weekday, date.day, date.month, date.year % 100]
        return [to_bcd(value) for value in self._ordered(fields)]


class DS1307(Chip):
    """DS1307: bit 7 of the seconds, CH, halts the oscillator; it is set when power comes for the first time."""

    name = "ds1307"
    length = 8
    flag = 0x80

    def read(self, registers: Sequence[int]) -> Content:
        """What the registers say."""
        fields = [*registers[:7]]
        stopped = "its oscillator is halted (CH)" if fields[0] & 0x80 else ""
        fields[0] &= 0x7F
        return Content(self._date(fields, hour_of(fields[2], self.name)), stopped)

    def write(self, time: float, registers: Sequence[int]) -> list[Write]:
        """All in one block; where the flag is set, the seconds, which clear it, last."""
        fields = self._fields(time)
        return [(1, fields[1:]), (0, fields[:1])] if registers[0] & self.flag else [(0, fields)]


class DS3231(Chip):
    """DS3231: bit 7 of register 0x0F, OSF, says that the oscillator stood still; bit 7 of the month is the century.
    Bit 7 of register 0x0E, EOSC, has the oscillator stop while it runs from the battery."""

    name = "ds3231"
    length = 16
    control = 0x0E
    status = 0x0F

    def read(self, registers: Sequence[int]) -> Content:
        """What the registers say."""
        fields = [*registers[:7]]
        century = bool(fields[5] & 0x80)
        fields[5] &= 0x7F
        stopped = "its oscillator stood still (OSF)" if registers[self.status] & 0x80 else ""
        found = self._date(fields, hour_of(fields[2], self.name))
        if century:
            # The year of the registers is a leap year in both centuries or in neither, but for 2000 and 2100.
            date = datetime.fromtimestamp(found, UTC)
            try:
                found = date.replace(year=date.year + 100).timestamp()
            except ValueError as error:
                raise ReadingError("date", f"{self.name}: its registers hold no date: {error}") from error
        stops = bool(registers[self.control] & 0x80)
        return Content(
            found, stopped, "it is set to stand still while it runs from its battery" if stops else "", stops
        )

    def write(self, time: float, registers: Sequence[int]) -> list[Write]:
        """All in one block, with the flag as it was."""
        fields = self._fields(time)
        fields[5] |= 0x80 if datetime.fromtimestamp(round(time), UTC).year >= CENTURY + 100 else 0
        return [(0, fields)]

    def settle(self, registers: Sequence[int]) -> list[Write]:
        """Clear EOSC and OSF. The flags of the alarms stay as they are: writing 1 does not change them; bit 5 of the
        control register would begin to measure the temperature."""
        control, status = registers[self.control], registers[self.status]
        writes = [(self.control, [control & 0x5F])] if control & 0x80 else []
        return [*writes, (self.status, [(status | 0x03) & 0x7F])] if status & 0x80 else writes


class PCF8523(Chip):
    """PCF8523: bit 7 of the seconds (register 3), OS, says that the oscillator stood still. The upper three bits of
    register 2 say how the battery is used: not at all with 010, 011 and 111, as after the first power-on (table 11;
    110 is not allowed)."""

    name = "pcf8523"
    length = 10
    first = 3
    weekday = 4
    sunday = 0
    flag = 0x80

    def read(self, registers: Sequence[int]) -> Content:
        """What the registers say."""
        fields = [*registers[3:10]]
        stopped = "its oscillator stood still (OS)" if fields[0] & 0x80 else ""
        if registers[0] & 0x20:
            stopped = "its clock is stopped (STOP)"
        fields[0] &= 0x7F
        # Whether there are 12 hours is said by control register 1; bit 5 is the afternoon then.
        twelve = bool(registers[0] & 0x08)
        hour = hour_of((0x40 if twelve else 0) | (fields[2] & 0x3F), self.name)
        weak = "its battery is low (BLF)" if registers[2] & 0x04 else ""
        unused = bool(registers[2] & 0x40)
        if unused:
            weak = "it is not set to use its battery"
        return Content(self._date(fields, hour), stopped, weak, unused)

    def write(self, time: float, registers: Sequence[int]) -> list[Write]:
        """All in one block, with the flag as it was. Hours as the chip counts them."""
        fields = self._fields(time)
        if registers[0] & 0x08:
            hour = datetime.fromtimestamp(round(time), UTC).hour
            fields[2] = to_bcd(hour % 12 or 12) | (0x20 if hour >= 12 else 0)
        fields[0] |= registers[self.first] & self.flag
        writes = [(self.first, fields)]
        if registers[0] & 0x20:
            writes.append((0, [registers[0] & ~0x20]))
        return writes

    def settle(self, registers: Sequence[int]) -> list[Write]:
        """Have it use its battery: standard switch-over, with the battery watched. Clear OS."""
        writes = [(2, [registers[2] & 0x1F])] if registers[2] & 0x40 else []
        seconds = registers[self.first]
        return [*writes, (self.first, [seconds & ~self.flag])] if seconds & self.flag else writes


CHIPS: dict[str, Chip] = {chip.name: chip for chip in (DS1307(), DS3231(), PCF8523())}


def bcd(value: int, name: str, chip: str) -> int:
    """The number that two BCD digits are.

    :raises ReadingError: they are none
    """
    high, low = value >> 4, value & 0x0F
    if high > 9 or low > 9:
        raise ReadingError("bcd", f"{chip}: its {name} is {value:#04x}, which is no number (BCD): is it that chip?")
    return high * 10 + low


def to_bcd(value: int) -> int:
    """A number below 100 as two BCD digits."""
    return value // 10 << 4 | value % 10


def hour_of(value: int, chip: str) -> int:
    """The hour, 0 to 23, of a register of 12 hours (bit 6 set, bit 5 the afternoon) or of 24.

    :raises ReadingError: it holds none
    """
    if not value & 0x40:
        return bcd(value, "hour", chip)
    hour = bcd(value & 0x1F, "hour", chip)
    if not 1 <= hour <= 12:
        raise ReadingError("date", f"{chip}: its hour is {hour}, of 12")
    return hour % 12 + (12 if value & 0x20 else 0)
