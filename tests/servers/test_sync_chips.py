"""The registers of the RTC chips."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raspy.common.clock import plausible
from raspy.common.devices.errors import ReadingError
from raspy.servers.sync.chips import CHIPS, Chip

NEW = {
    # As the data sheets have them after the first power-on.
    "ds1307": [0x80, 0, 0, 1, 1, 1, 0, 0x03],
    "ds3231": [0, 0, 0, 1, 1, 1, 0, *[0] * 7, 0x1C, 0x88],
    "pcf8523": [0, 0, 0xE0, 0x80, 0, 0, 1, 6, 1, 0],
}


def put(registers: list[int], writes: list[tuple[int, list[int]]]) -> None:
    for register, data in writes:
        registers[register : register + len(data)] = data


def wall(*words: int) -> float:
    return datetime(*words, tzinfo=UTC).timestamp()  # type: ignore[arg-type,misc]


READ = {
    # seconds, minutes, hours, day of the week, day, month, year
    "24 h": ("ds1307", [0x30, 0x59, 0x23, 1, 0x29, 0x02, 0x28, 0], wall(2028, 2, 29, 23, 59, 30)),
    "12 h, noon": ("ds1307", [0, 0, 0x72, 1, 1, 1, 0x26, 0], wall(2026, 1, 1, 12)),
    "12 h, midnight": ("ds1307", [0, 0, 0x52, 1, 1, 1, 0x26, 0], wall(2026, 1, 1, 0)),
    "12 h, 11 pm": ("ds3231", [0, 0, 0x71, 1, 1, 1, 0x26, *[0] * 9], wall(2026, 1, 1, 23)),
    "12 h, 1 am": ("ds3231", [0, 0, 0x41, 1, 1, 1, 0x26, *[0] * 9], wall(2026, 1, 1, 1)),
    "century": ("ds3231", [0, 0, 0, 1, 1, 0x81, 0x26, *[0] * 9], wall(2126, 1, 1)),
    "pcf8523": ("pcf8523", [0, 0, 0, 0x30, 0x59, 0x23, 0x29, 2, 0x02, 0x28], wall(2028, 2, 29, 23, 59, 30)),
    "pcf8523, 12 h, 1 pm": ("pcf8523", [0x08, 0, 0, 0, 0, 0x21, 1, 2, 1, 0x26], wall(2026, 1, 1, 13)),
    "pcf8523, 12 h, midnight": ("pcf8523", [0x08, 0, 0, 0, 0, 0x12, 1, 2, 1, 0x26], wall(2026, 1, 1, 0)),
}


@pytest.mark.parametrize("case", READ)
def test_read(case: str) -> None:
    kind, registers, time = READ[case]
    content = CHIPS[kind].read(registers)
    assert content.time == time
    assert content.stopped == content.weak == ""


BAD = {
    "all ones": [0xFF] * 16,
    "all zeros": [0] * 16,
    "no BCD": [0x5A, 0, 0, 1, 1, 1, 0x26, *[0] * 9],
    "61 minutes": [0, 0x61, 0, 1, 1, 1, 0x26, *[0] * 9],
    "25 hours": [0, 0, 0x25, 1, 1, 1, 0x26, *[0] * 9],
    "13 of 12 hours": [0, 0, 0x53, 1, 1, 1, 0x26, *[0] * 9],
    "0 of 12 hours": [0, 0, 0x40, 1, 1, 1, 0x26, *[0] * 9],
    "February 30": [0, 0, 0, 1, 0x30, 2, 0x26, *[0] * 9],
    "February 29, 2100": [0, 0, 0, 1, 0x29, 0x82, 0, *[0] * 9],
    "month 0": [0, 0, 0, 1, 1, 0, 0x26, *[0] * 9],
}


@pytest.mark.parametrize("case", BAD)
def test_registers_that_hold_no_time(case: str) -> None:
    with pytest.raises(ReadingError):
        CHIPS["ds3231"].read(BAD[case])


@pytest.mark.parametrize("chip", CHIPS.values(), ids=lambda chip: chip.name)
def test_a_new_chip_is_not_believed(chip: Chip) -> None:
    assert "oscillator" in chip.read(NEW[chip.name]).stopped


@pytest.mark.parametrize("chip", CHIPS.values(), ids=lambda chip: chip.name)
@given(
    time=st.datetimes(datetime(2026, 1, 1), datetime(2065, 12, 31)),  # noqa: DTZ001  as hypothesis wants them
    before=st.lists(st.integers(0, 255), min_size=16, max_size=16),
)
def test_what_is_written_is_read(chip: Chip, time: datetime, before: list[int]) -> None:
    wanted = float(int(time.replace(tzinfo=UTC).timestamp()))
    registers = before[: chip.length]
    put(registers, chip.write(wanted, registers))
    put(registers, chip.settle(registers))
    content = chip.read(registers)
    assert content.time == wanted
    assert content.stopped == ""


@pytest.mark.parametrize("chip", CHIPS.values(), ids=lambda chip: chip.name)
def test_the_flag_is_cleared_last(chip: Chip) -> None:
    registers = list(NEW[chip.name])
    writes = chip.write(wall(2026, 11, 22, 13), registers)
    for number, write in enumerate(writes):
        assert chip.read(registers).stopped, f"cleared before write {number}"
        put(registers, [write])
    if chip.name != "ds1307":
        # Whose flag halts it.
        assert chip.read(registers).stopped, "cleared before the time was read back"
    put(registers, chip.settle(registers))
    content = chip.read(registers)
    assert (content.time, content.stopped, content.weak) == (wall(2026, 11, 22, 13), "", "")


@pytest.mark.parametrize("chip", CHIPS.values(), ids=lambda chip: chip.name)
def test_a_chip_that_runs_is_set_in_one_block(chip: Chip) -> None:
    registers = list(NEW[chip.name])
    put(registers, chip.write(wall(2026, 11, 22, 13), registers))
    put(registers, chip.settle(registers))
    ((first, data),) = chip.write(wall(2026, 11, 22, 14), registers)
    assert (first, len(data)) == (chip.first, 7)
    assert chip.settle(registers) == []


def test_the_alarms_of_a_ds3231_are_left_alone() -> None:
    registers = list(NEW["ds3231"])
    registers[15] = 0x8A
    ((register, data),) = CHIPS["ds3231"].settle(registers)
    # Writing 1 to A1F and A2F leaves them as they are (data sheet, status register).
    assert (register, data) == (15, [0x0B])


# PCF8523, table 11: 110 is not allowed.
@pytest.mark.parametrize(("mode", "uses"), [*((m, True) for m in (0, 1, 4, 5)), *((m, False) for m in (2, 3, 6, 7))])
def test_how_a_pcf8523_uses_its_battery(mode: int, uses: bool) -> None:
    registers = list(NEW["pcf8523"])
    registers[2:4] = [mode << 5, 0]
    content = CHIPS["pcf8523"].read(registers)
    assert (content.weak, content.mend) == (("", False) if uses else ("it is not set to use its battery", True))
    assert CHIPS["pcf8523"].settle(registers) == ([] if uses else [(2, [0])])


def test_a_ds3231_that_stops_on_its_battery() -> None:
    registers = list(NEW["ds3231"])
    registers[14:16] = [0xBC, 0x08]
    content = CHIPS["ds3231"].read(registers)
    assert (content.stopped, content.mend) == ("", True)
    assert "stand still while it runs from its battery" in content.weak
    # Bit 5 would have it measure its temperature.
    assert CHIPS["ds3231"].settle(registers) == [(14, [0x1C])]


def test_the_day_of_the_week() -> None:
    sunday = wall(2026, 11, 22, 12)
    days = {
        chip.name: [chip.write(sunday + 86_400 * day, list(NEW[chip.name]))[0][1] for day in range(7)]
        for chip in CHIPS.values()
    }
    # A new DS1307 has all but the seconds written first. DS1307 and DS3231 count from 1 to 7, a PCF8523 from 0 to 6.
    assert [fields[2] for fields in days["ds1307"]] == [7, 1, 2, 3, 4, 5, 6]
    assert [fields[3] for fields in days["ds3231"]] == [7, 1, 2, 3, 4, 5, 6]
    assert [fields[4] for fields in days["pcf8523"]] == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("chip", CHIPS.values(), ids=lambda chip: chip.name)
def test_a_chip_that_is_not_to_be_believed(chip: Chip) -> None:
    registers = list(NEW[chip.name])
    put(registers, chip.write(wall(2026, 11, 22, 13), registers))
    put(registers, chip.settle(registers))
    put(registers, chip.void())
    content = chip.read(registers)
    assert content.stopped or not plausible(content.time)


def test_what_else_is_wrong_with_a_pcf8523() -> None:
    registers = list(NEW["pcf8523"])
    registers[2:4] = [0x04, 0]
    assert CHIPS["pcf8523"].read(registers).weak == "its battery is low (BLF)"
    registers[0] = 0x20
    assert CHIPS["pcf8523"].read(registers).stopped == "its clock is stopped (STOP)"
