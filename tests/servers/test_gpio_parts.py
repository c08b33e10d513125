"""The parts of raspy.servers.gpio: finding lines, the software PWM, mock lines, the kernel's package, the notes."""

from __future__ import annotations

import builtins
import json
import math
import os
import resource
import sys
import types
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raspy.servers.gpio import kernel, mockchips, pwm
from raspy.servers.gpio.chips import Busy, ChipInfo, Chips, LineError, Output, UnknownLine
from raspy.servers.gpio.drivers import SoftPwm, Wiring
from raspy.servers.gpio.kernel import KernelChips
from raspy.servers.gpio.mockchips import MockChips
from raspy.servers.gpio.notes import DamagedNotes, load
from tests.support_processes import wait_for

HEADER = tuple(f"GPIO{number}" for number in range(28))
OLD_NAMES = ("ID_SDA", "ID_SCL", "SDA1", "SCL1", "GPIO_GCLK", *HEADER[5:])
"""As Linux itself names the lines of a Pi 4."""


class Known(Chips):
    """Chips that are only looked at."""

    def __init__(self, *chips: tuple[str, tuple[str, ...]]) -> None:
        self.there = [ChipInfo(label, f"/dev/gpiochip{i}", names) for i, (label, names) in enumerate(chips)]

    def chips(self) -> list[ChipInfo]:
        return self.there


PI_4 = Known(("pinctrl-bcm2711", OLD_NAMES), ("raspberrypi-exp-gpio", ("BT_ON", "WL_ON", "", "GPIO4")))
PI_5 = Known(
    ("gpio-brcmstb@107d508500", ("-", "2712_BOOT_CS_N", "WL_ON", "GPIO17")),
    ("gpio-brcmstb@107d517c00", ("RP1_SDA", "WL_ON")),
    ("pinctrl-rp1", ("ID_SDA", "ID_SCL", *HEADER[2:])),
)
TWO = Known(("pcf8574", ("IN", *("",) * 7)), ("pcf8574", ("IN", *("",) * 7)), ("pinctrl-bcm2711", HEADER))
TWO.there = [
    msgspec.structs.replace(chip, device=device)
    for chip, device in zip(TWO.there, ("1-0020", "1-0021", "fe200000.gpio"), strict=True)
]
VIRT = Known(("9030000.pl061", ("",) * 8))


@pytest.mark.parametrize(
    ("chips", "line", "chip", "key"),
    [
        (PI_4, "GPIO17", "", "pinctrl-bcm2711:17"),
        # Line 4 has another name there, and is still GPIO4 on the header; so says no other chip.
        (PI_4, "GPIO2", "", "pinctrl-bcm2711:2"),
        (PI_4, "GPIO_GCLK", "", "pinctrl-bcm2711:4"),
        (PI_4, "WL_ON", "", "raspberrypi-exp-gpio:1"),
        (PI_4, "raspberrypi-exp-gpio:0", "", "raspberrypi-exp-gpio:0"),
        (PI_4, "gpiochip1:1", "", "raspberrypi-exp-gpio:1"),
        (PI_4, "/dev/gpiochip1:WL_ON", "", "raspberrypi-exp-gpio:1"),
        (PI_5, "GPIO17", "", "pinctrl-rp1:17"),
        (PI_5, "GPIO17", "gpio-brcmstb@107d508500", "gpio-brcmstb@107d508500:3"),
        (PI_5, "2712_BOOT_CS_N", "", "gpio-brcmstb@107d508500:1"),
        (PI_5, "gpio-brcmstb@107d517c00:WL_ON", "", "gpio-brcmstb@107d517c00:1"),
        (VIRT, "9030000.pl061:3", "", "9030000.pl061:3"),
        (VIRT, "3", "9030000.pl061", "9030000.pl061:3"),
        (TWO, "1-0021:3", "", "pcf8574/1-0021:3"),
        (TWO, "pcf8574/1-0020:3", "", "pcf8574/1-0020:3"),
        (TWO, "gpiochip1:3", "", "pcf8574/1-0021:3"),
        (TWO, "GPIO17", "", "pinctrl-bcm2711:17"),
    ],
)
def test_a_line_is_found_on_every_board(chips: Known, line: str, chip: str, key: str) -> None:
    assert chips.find(line, chip).key == key


@pytest.mark.parametrize(
    ("chips", "line", "chip", "problem"),
    [
        (Known(), "GPIO17", "", "GPIO17: there is no GPIO chip on this machine"),
        (
            PI_5,
            "WL_ON",
            "",
            r"several chips have it; write gpio-brcmstb@107d508500:WL_ON or gpio-brcmstb@107d517c00:WL_ON",
        ),
        (PI_5, "pinctrl-bcm2711:17", "", "there is no chip pinctrl-bcm2711; the chips are gpio-brcmstb@107d508500, "),
        (PI_5, "GPIO17", "gone", "there is no chip gone"),
        (PI_4, "GPIO99", "", "GPIO99: pinctrl-bcm2711 has the lines 0 to 27"),
        (PI_4, "pinctrl-bcm2711:28", "", "pinctrl-bcm2711 has the lines 0 to 27"),
        (PI_4, "WLON", "", "there is no such line; near are WL_ON"),
        (VIRT, "GPIO17", "", "no line has a name there: write the chip and a number, as 9030000.pl061:0"),
        (VIRT, "3", "", "there is no such line"),
        (VIRT, "", "", "there is no such line"),
        (VIRT, ":", "", "there is no such line"),
        (VIRT, "9030000.pl061:-1", "", "there is no such line"),
        (VIRT, "9030000.pl061:" + "9" * 50, "", "has the lines 0 to 7"),
        (
            Known(("a", ("x",)), ("a", ("x",))),
            "a:0",
            "",
            "2 chips are called a: name it by its device: gpiochip0, ",
        ),
        (Known(("a", ("x",)), ("a", ("y",))), "gpiochip0:0", "", "several chips are called a, and nothing here tells"),
        (TWO, "pcf8574:3", "", "2 chips are called pcf8574: name it by its device: 1-0020, 1-0021"),
        (TWO, "IN", "", "several chips have it; write pcf8574/1-0020:IN or pcf8574/1-0021:IN"),
    ],
)
def test_a_line_that_cannot_be_told_is_refused_with_what_to_do(
    chips: Known, line: str, chip: str, problem: str
) -> None:
    with pytest.raises(UnknownLine, match=problem):
        chips.find(line, chip)


@given(st.text(max_size=30), st.text(max_size=30))
def test_whatever_a_line_is_called_it_is_found_or_refused(line: str, chip: str) -> None:
    for chips in (PI_4, PI_5, TWO, VIRT, Known()):
        try:
            place = chips.find(line, chip)
        except UnknownLine:
            continue
        assert 0 <= place.offset < 28


# The software PWM


class Loop:
    """Timers, and a time that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.due: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, delay: float, function: Callable[[], None]) -> Any:
        entry = (self.now + delay, function)
        self.due.append(entry)
        return types.SimpleNamespace(cancel=lambda: entry in self.due and self.due.remove(entry))

    def run(self, seconds: float, late: float = 0.0) -> None:
        """Let time pass; timers fire so much too late."""
        end = self.now + seconds
        for _ in range(100_000):
            if not self.due or min(self.due)[0] + late > end:
                break
            entry = min(self.due, key=lambda e: e[0])
            self.due.remove(entry)
            self.now = max(self.now, entry[0] + late)
            entry[1]()
        else:
            raise AssertionError("the timers do not end")
        self.now = end


class Wire(Output):
    """Notes when it was on."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.level = False
        self.since = loop.now
        self.pulses: list[float] = []
        self.breaks: list[float] = []
        self.broken = ""

    def set(self, level: bool) -> None:
        if self.broken:
            raise LineError(self.broken)
        if level is not self.level:
            (self.pulses if self.level else self.breaks).append(self.loop.now - self.since)
            self.level, self.since = level, self.loop.now

    def close(self) -> None:
        pass


def soft(loop: Loop, period: float, pulse: float = 0.001, failed: Any = None) -> tuple[SoftPwm, Wire]:
    wire = Wire(loop)
    wiring = Wiring(line="GPIO1", period=period, pulse=pulse)
    return SoftPwm("k", wire, wiring, loop, failed, lambda: loop.now), wire  # type: ignore[arg-type]


@given(
    st.floats(0.001, 0.999), st.sampled_from([0.01, 0.1, 1, 100]), st.sampled_from([0.001, 0.02, 1.0]),
    # As late as the shortest pulse is long, and there would be none.
    st.floats(0, 0.0009),
)  # fmt: skip
def test_the_part_of_the_time_is_right_and_no_pulse_is_too_short(
    duty: float, period: float, pulse: float, late: float
) -> None:
    loop = Loop()
    driver, wire = soft(loop, period, pulse)
    driver.put(duty)
    loop.run(driver.period * 50, late)
    on = sum(wire.pulses)
    whole = on + sum(wire.breaks[1:])
    assert min(wire.pulses) >= pulse - late - 1e-9
    assert min(wire.breaks[1:], default=math.inf) >= pulse - late - 1e-9
    assert on / (whole + (loop.now - wire.since)) == pytest.approx(duty, abs=0.04 + late / driver.period)
    driver.put(0)
    assert (wire.level, loop.due) == (False, [])


def test_full_and_off_need_no_timer() -> None:
    loop = Loop()
    driver, wire = soft(loop, 1.0)
    driver.put(0.5)
    for duty in (1.0, 0.0):
        driver.put(duty)
        assert (wire.level, loop.due) == (duty == 1, [])


def test_a_new_duty_cycle_holds_in_the_period_that_has_begun() -> None:
    loop = Loop()
    driver, wire = soft(loop, 100.0)
    driver.put(0.1)
    loop.run(20)
    assert wire.level is False
    driver.put(0.5)
    assert wire.level is True
    loop.run(40)
    assert wire.level is False


def test_a_line_that_fails_at_an_edge_is_told_once() -> None:
    loop = Loop()
    told: list[str] = []
    driver, wire = soft(loop, 1.0, failed=lambda error: told.append(str(error)))
    driver.put(0.5)
    wire.broken = "gone"
    loop.run(10)
    assert (told, loop.due) == (["gone"], [])


def test_a_loop_that_was_held_up_makes_up_for_nothing() -> None:
    loop = Loop()
    driver, wire = soft(loop, 1.0)
    driver.put(0.5)
    loop.run(1000.3, 1000.2)
    loop.run(5)
    assert max(wire.pulses[1:], default=0.0) <= 0.5 + 1e-6


# Mock lines


@pytest.fixture
def chips(tmp_path: Path) -> MockChips:
    return MockChips(str(tmp_path / "chips"))


def test_a_mock_line_belongs_to_one_until_it_gives_it_back(chips: MockChips) -> None:
    place = chips.find("GPIO17")
    line = chips.output(place, "heater", True)
    with pytest.raises(Busy, match=rf"pinctrl-mock:17 is in use by heater \(process {os.getpid()}\)"):
        MockChips(chips.directory).input(place, "b", "up", 0, "both")
    line.close()
    line.close()
    assert chips.level(place) is True
    chips.input(place, "b", "up", 0, "both").close()
    with pytest.raises(LineError, match="was given back"):
        line.set(False)


def test_the_bias_is_what_nobody_drives(chips: MockChips) -> None:
    place = chips.find("GPIO17")
    for bias, level in (("up", True), ("down", False), ("off", False)):
        line = chips.input(place, "a", bias, 0, "both")
        assert line.get() is level
        line.close()


@pytest.mark.parametrize(
    ("edges", "levels"), [("both", [False, True, False]), ("rising", [True]), ("falling", [False] * 2)]
)
def test_the_edges_that_are_asked_for_are_told_with_their_numbers(
    chips: MockChips, edges: str, levels: list[bool]
) -> None:
    place = chips.find("GPIO17")
    chips.set(place, True)
    line = chips.input(place, "a", "up", 0, edges)
    for level in (True, False, True, True, False):
        chips.set(place, level)
    found = line.read()
    assert [edge.level for edge in found] == levels
    assert [edge.number for edge in found] == list(range(1, len(levels) + 1))
    assert sorted(edge.time for edge in found) == [edge.time for edge in found]
    assert line.read() == []
    line.close()


def test_the_log_is_bounded(chips: MockChips, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raspy.servers.gpio.mockchips.LOG_LIMIT", 2000)
    line = chips.output(chips.find("GPIO17"), "a", False)
    for number in range(100):
        line.set(number % 2 == 0)
    assert 5 < len(chips.log()) < 60
    line.close()


def test_a_mock_chip_that_is_damaged_or_gone_is_told(chips: MockChips) -> None:
    place = chips.find("GPIO17")
    line = chips.output(place, "a", False)
    Path(place.path, "names").write_bytes(b"[1")
    with pytest.raises(UnknownLine, match="no GPIO chip"):
        chips.find("GPIO17")
    Path(place.path, "names").unlink()
    with pytest.raises(LineError, match="the chip is gone"):
        line.set(True)
    line.close()
    assert chips.chips() == []


# PWM channels


def test_a_channel_is_exported_where_it_is_not(tmp_path: Path) -> None:
    directory = Path(MockChips(str(tmp_path / "chips")).make_pwm(1))
    path, key = pwm.find(str(directory), "pwmchip0:0")
    assert (path, key) == (str(directory / "pwmchip0" / "pwm0"), "pwm:pwmchip0:0")
    for file in Path(path).iterdir():
        file.unlink()
    Path(path).rmdir()
    with pytest.raises(LineError, match="No such file or directory"):
        pwm.Channel(path)
    assert (directory / "pwmchip0" / "export").read_text() == "0"


@pytest.mark.parametrize(
    ("found", "inverted"),
    [
        # As Linux exports it; as a shorter, as a longer period leaves it; turned round and on.
        (("0", "0", "0", "normal"), False),
        (("0", "0", "0", "normal"), True),
        (("1000", "1000", "1", "normal"), False),
        (("9000000", "9000000", "1", "normal"), True),
        (("9000000", "8000000", "1", "inversed"), False),
    ],
)
def test_a_channel_is_set_up_from_whatever_it_was(chips: MockChips, found: tuple[str, ...], inverted: bool) -> None:
    path, _ = pwm.find(chips.make_pwm(1), "pwmchip0:0")
    files = ("period", "duty_cycle", "enable", "polarity")
    for file, text in zip(files, found, strict=True):
        Path(path, file).write_text(f"{text}\n")
    channel = chips.channel(path)
    channel.set_up(0.001, inverted)
    channel.set(0.25)
    now = [Path(path, file).read_text().strip() for file in files]
    assert now == ["1000000", "250000", "1", "inversed" if inverted else "normal"]
    channel.close()


@pytest.mark.parametrize(("file", "text"), [("duty_cycle", "0"), ("enable", "1"), ("polarity", "inversed")])
def test_a_mock_channel_refuses_what_the_kernel_does(chips: MockChips, file: str, text: str) -> None:
    path, _ = pwm.find(chips.make_pwm(1), "pwmchip0:0")
    channel = chips.channel(path)
    # Its period is 0.
    with pytest.raises(LineError, match=f"{file}: Invalid argument"):
        channel._put(file, text)
    channel.set_up(0.001, False)
    with pytest.raises(LineError, match="duty_cycle: Invalid argument"):
        channel._put("duty_cycle", 1_000_001)
    with pytest.raises(LineError, match="polarity: Device or resource busy"):
        channel._put("polarity", "inversed")
    channel.close()


def test_a_channel_belongs_to_one_until_it_gives_it_back(chips: MockChips) -> None:
    path, _ = pwm.find(chips.make_pwm(1), "pwmchip0:0")
    channel = chips.channel(path)
    with pytest.raises(Busy, match="pwm0 is in use by another process of RasPy"):
        pwm.Channel(path)
    channel.close()
    channel.close()
    pwm.Channel(path).close()


def test_two_pwm_chips_of_one_device_are_told_apart_by_their_names(tmp_path: Path) -> None:
    for name in ("pwmchip0", "pwmchip1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "npwm").write_text("1")
        (tmp_path / name / "device").symlink_to(tmp_path)
    assert [pwm.find(str(tmp_path), f"pwmchip{n}:0")[1] for n in (0, 1)] == ["pwm:pwmchip0:0", "pwm:pwmchip1:0"]
    with pytest.raises(UnknownLine, match="there is no PWM chip"):
        pwm.find(str(tmp_path), f"{tmp_path.name}:0")


def test_a_pwm_chip_is_found_by_its_device(tmp_path: Path) -> None:
    directory = Path(MockChips(str(tmp_path / "chips")).make_pwm(1))
    device = tmp_path / "1f00098000.pwm"
    device.mkdir()
    (directory / "pwmchip0" / "device").symlink_to(device)
    assert pwm.find(str(directory), "1f00098000.pwm:0")[1] == "pwm:1f00098000.pwm:0"
    assert pwm.find(str(directory), "pwmchip0:0")[1] == "pwm:1f00098000.pwm:0"
    with pytest.raises(UnknownLine, match=r"no PWM chip x; known are pwmchip0 \(1f00098000.pwm\)"):
        pwm.find(str(directory), "x:0")
    with pytest.raises(UnknownLine, match="dtoverlay=pwm-2chan"):
        pwm.find(str(tmp_path / "none"), "pwmchip0:0")


# The kernel's chips


def test_a_missing_package_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any) -> Any:
        if name == "gpiod":
            raise ImportError("No module named 'gpiod'")
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(LineError, match=r"gpiod is missing .*: sudo apt-get install python3-libgpiod"):
        kernel.load()


def test_the_package_of_libgpiod_1_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gpiod", types.ModuleType("gpiod"))
    with pytest.raises(LineError, match="is that of libgpiod 1; version 2 is needed"):
        kernel.load()


def test_a_machine_without_chips(tmp_path: Path) -> None:
    chips = KernelChips(str(tmp_path / "gpiochip*"))
    assert chips.chips() == []
    with pytest.raises(UnknownLine, match="there is no GPIO chip on this machine"):
        chips.find("GPIO17")


@pytest.mark.parametrize(
    ("real", "device"),
    [
        ("platform/soc/fe804000.i2c/i2c-1/1-0020/gpiochip1", "1-0020"),
        # The second bank of one controller.
        ("platform/soc/107d508500.gpio/gpiochip1", "107d508500.gpio#1"),
        # HID devices, and those of some drivers, are counted as they come.
        ("usb1/1-1/1-1.2/1-1.2:1.0/0003:10C4:EA90.0007/gpiochip1", "1-1.2:1.0"),
        ("usb1/1-1/1-1.2/1-1.2:1.0/dln2-gpio.3.auto/gpiochip1", "1-1.2:1.0"),
        ("", ""),
    ],
)
def test_what_a_chip_is_a_part_of_is_told_by_the_kernel(tmp_path: Path, real: str, device: str) -> None:
    (tmp_path / "sysfs").mkdir()
    if real:
        (tmp_path / "devices" / real).mkdir(parents=True)
        (tmp_path / "sysfs" / "gpiochip1").symlink_to(tmp_path / "devices" / real)
    if "#" in device:
        (tmp_path / "devices" / real).with_name("gpiochip0").mkdir()
    assert KernelChips("/dev/gpiochip*", str(tmp_path / "sysfs"))._device("/dev/gpiochip1") == device


def test_a_device_that_is_no_chip_is_told(tmp_path: Path) -> None:
    pytest.importorskip("gpiod")
    (tmp_path / "gpiochip0").write_text("")
    with pytest.raises(LineError, match=r"gpiochip0: "):
        KernelChips(str(tmp_path / "gpiochip*")).find("GPIO17")


# The notes


@given(st.binary(max_size=200) | st.dictionaries(st.text(), st.text() | st.integers()).map(json.dumps).map(str.encode))
def test_whatever_the_notes_are_they_are_taken_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("notes") / "outputs.json"
    path.write_bytes(data)
    try:
        content = load(str(path))
    except DamagedNotes as error:
        told = str(error)
    else:
        told = f"{path}: {content}"
    assert str(path) in told
    assert "None" not in told


def test_notes_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(DamagedNotes, match="cannot be read: Is a directory"):
        load(str(tmp_path))
    assert load(str(tmp_path / "none")) is None


def test_a_contact_is_debounced_with_many_descriptors() -> None:
    """select() takes none from 1024 on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(1100):
            stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        fifo, writer = os.pipe2(os.O_CLOEXEC)
        for descriptor in (fifo, writer):
            stack.callback(os.close, descriptor)
        debounced = mockchips._Debounced(fifo, 0.01, False)
        stack.callback(debounced.close)
        assert debounced.fileno >= 1024
        os.write(writer, mockchips.RECORD.pack(0, 0, True))
        assert wait_for("the edge", debounced.records)[-1][2]
