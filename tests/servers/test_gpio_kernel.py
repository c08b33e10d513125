"""raspy.servers.gpio.kernel: what is asked of libgpiod, and what its answers and refusals become.

The package is the real one but for its classes Chip and LineRequest, which need a chip; in their place are some that
answer as its documentation says. The chips of a kernel are those of ``make test-gpio``.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from raspy.servers.gpio.chips import CONSUMER_LIMIT, Busy, Edge, LineError, Place
from raspy.servers.gpio.kernel import EVENTS, FEW_EVENTS, KernelChips

gpiod = pytest.importorskip("gpiod")
line = gpiod.line

PI = "pinctrl-bcm2835"
RECORD = struct.Struct("=?QQ")


class Wires:
    """A chip's lines, and who has them."""

    def __init__(self, label: str, names: tuple[str | None, ...]) -> None:
        self.label = label
        self.names = names
        self.held: dict[int, str | None] = {}
        """By offset, the consumers; None: one without a name."""
        self.asked: list[tuple[Any, int | None]] = []
        """Settings and sizes of the buffers for edges."""
        self.levels: dict[int, Any] = {}
        self.refusal: OSError | ValueError | None = None
        """Of a request for a line with edges; then of none."""
        self.gone = False
        self.opened = 0

    def check(self) -> None:
        if self.gone:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))


class Request:
    """As gpiod.LineRequest, of one line. Edges come through a pipe, as from the kernel."""

    def __init__(self, wires: Wires, offset: int) -> None:
        self.wires, self.offset = wires, offset
        self.fd, self.writer = os.pipe()
        self.released = 0

    def edge(self, rising: bool, time: int, number: int) -> None:
        os.write(self.writer, RECORD.pack(rising, time, number))

    def get_value(self, offset: int) -> Any:
        self.wires.check()
        assert offset == self.offset
        return self.wires.levels.get(offset, line.Value.INACTIVE)

    def set_value(self, offset: int, value: Any) -> None:
        self.wires.check()
        assert offset == self.offset
        self.wires.levels[offset] = value

    def read_edge_events(self, max_events: int | None = None) -> list[Any]:
        self.wires.check()
        data = os.read(self.fd, 64 * RECORD.size)
        kinds = gpiod.EdgeEvent.Type
        return [
            gpiod.EdgeEvent((kinds.RISING_EDGE if up else kinds.FALLING_EDGE).value, time, self.offset, number, number)
            for up, time, number in RECORD.iter_unpack(data)
        ]

    def release(self) -> None:
        self.released += 1
        if self.released == 1:
            del self.wires.held[self.offset]
            for descriptor in (self.fd, self.writer):
                os.close(descriptor)


class Machine:
    """The chips of a machine, by their paths; :meth:`open` stands for gpiod.Chip."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.wires: dict[str, Wires] = {}
        self.requests: list[Request] = []
        self.chips = KernelChips(str(directory / "gpiochip*"), str(directory / "sysfs"))

    def plug(self, name: str, label: str, *names: str | None) -> Wires:
        path = self.directory / name
        path.unlink(missing_ok=True)
        path.touch()
        self.wires[str(path)] = wires = Wires(label, names)
        return wires

    def open(self, path: str) -> Any:
        wires = self.wires[path]
        wires.check()
        wires.opened += 1
        return Opened(self, wires, path)

    def place(self, offset: int = 17, name: str = "gpiochip0") -> Place:
        path = str(self.directory / name)
        return Place(self.wires[path].label, offset, path)


class Opened:
    """As gpiod.Chip."""

    def __init__(self, machine: Machine, wires: Wires, path: str) -> None:
        self.machine, self.wires, self.path = machine, wires, path
        self.closed = False

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def get_info(self) -> Any:
        assert not self.closed
        return gpiod.ChipInfo(os.path.basename(self.path), self.wires.label, len(self.wires.names))

    def get_line_info(self, offset: int) -> Any:
        assert not self.closed
        used, name, consumer = offset in self.wires.held, self.wires.names[offset], self.wires.held.get(offset)
        values = (kind.value for kind in (line.Bias.UNKNOWN, line.Drive.PUSH_PULL, line.Edge.NONE))
        bias, drive, edge = values
        direction, clock = line.Direction.INPUT.value, line.Clock.MONOTONIC.value
        return gpiod.LineInfo(offset, name, used, consumer, direction, False, bias, drive, edge, clock, False, 0)

    def request_lines(self, config: dict[int, Any], consumer: str, event_buffer_size: int | None) -> Request:
        assert not self.closed
        [(offset, settings)] = config.items()
        # As the kernel would be given it, which raises for what is of the wrong type.
        gpiod.line_settings._line_settings_to_ext(settings)
        if offset in self.wires.held:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        self.wires.asked.append((settings, event_buffer_size))
        if self.wires.refusal is not None and settings.edge_detection is not line.Edge.NONE:
            raise self.wires.refusal
        if settings.direction is line.Direction.OUTPUT:
            self.wires.levels[offset] = settings.output_value
        self.wires.held[offset] = consumer
        self.machine.requests.append(Request(self.wires, offset))
        return self.machine.requests[-1]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    made = Machine(tmp_path)
    monkeypatch.setattr(gpiod, "Chip", made.open)
    made.plug("gpiochip0", PI, *(f"GPIO{number}" for number in range(28)))
    yield made
    for request in made.requests:
        if not request.released:
            request.release()


# What there is


def test_each_chip_is_there_once_and_is_looked_at_once(machine: Machine) -> None:
    """On Raspberry Pi OS /dev/gpiochip4 leads to the chip of the header; lines without a name have an empty one."""
    expander = machine.plug("gpiochip10", "pcf8574", "IN", None)
    machine.plug("gpiochip2", "gpio-brcmstb", "-")
    (machine.directory / "gpiochip4").symlink_to(machine.directory / "gpiochip0")
    for _ in range(2):
        found = machine.chips.chips()
        assert [(chip.label, os.path.basename(chip.path)) for chip in found] == [
            (PI, "gpiochip0"),
            ("gpio-brcmstb", "gpiochip2"),
            ("pcf8574", "gpiochip10"),
        ]
        assert found[2].names == ("IN", "")
    assert expander.opened == 1
    assert machine.chips.find("GPIO17").key == f"{PI}:17"
    again = machine.plug("gpiochip10", "mcp23017", "A0")
    (machine.directory / "gpiochip10").touch()
    assert machine.chips.chips()[-1].label == "mcp23017", "another device is looked at anew"
    assert again.opened == 1


def test_two_chips_of_one_label_are_told_apart_by_what_they_are_parts_of(machine: Machine) -> None:
    for number, device in ((1, "1-0020"), (2, "1-0021")):
        machine.plug(f"gpiochip{number}", "pcf8574", "IN")
        real = machine.directory / "devices" / device / f"gpiochip{number}"
        real.mkdir(parents=True)
        (machine.directory / "sysfs").mkdir(exist_ok=True)
        (machine.directory / "sysfs" / f"gpiochip{number}").symlink_to(real)
    place = machine.chips.find("1-0021:0")
    assert (place.key, os.path.basename(place.path)) == ("pcf8574/1-0021:0", "gpiochip2")
    machine.chips.output(place, "raspy", True).close()
    # It is another device's number by now.
    (machine.directory / "sysfs" / "gpiochip2").unlink()
    (machine.directory / "sysfs" / "gpiochip2").symlink_to(machine.directory / "devices" / "1-0020" / "gpiochip1")
    with pytest.raises(LineError, match=r"^pcf8574/1-0021:0: \S+/gpiochip2 is pcf8574/1-0020 by now$"):
        machine.chips.output(place, "raspy", True)


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EACCES, "this user may not use it: is it in the group gpio?"),
        (errno.EPERM, "this user may not use it: is it in the group gpio?"),
        (errno.ENODEV, "the chip is gone"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_a_chip_that_cannot_be_opened_is_told_when_there_is_no_other(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, number: int, reason: str
) -> None:
    machine.plug("gpiochip1", "pcf8574", "IN")
    real = machine.open

    def refuse(path: str) -> Any:
        if path.endswith("gpiochip0"):
            raise OSError(number, os.strerror(number))
        return real(path)

    monkeypatch.setattr(gpiod, "Chip", refuse)
    assert [chip.label for chip in machine.chips.chips()] == ["pcf8574"]
    (machine.directory / "gpiochip1").unlink()
    with pytest.raises(LineError) as caught:
        machine.chips.chips()
    assert str(caught.value) == f"{machine.directory}/gpiochip0: {reason}"
    assert caught.value.errno == number
    with pytest.raises(LineError):
        machine.chips.holder(machine.place())
    monkeypatch.setattr(gpiod, "Chip", real)
    assert machine.chips.chips()[0].label == PI


def test_who_has_a_line(machine: Machine) -> None:
    wires = machine.wires[machine.place().path]
    wires.held |= {17: "w1", 18: None}
    assert machine.chips.holder(machine.place(17)) == "w1"
    assert machine.chips.holder(machine.place(18)) == "somebody without a name"
    assert machine.chips.holder(machine.place(19)) == ""


# Outputs


@pytest.mark.parametrize("level", [False, True])
def test_an_output_begins_with_its_level_and_is_pulled_to_it(machine: Machine, level: bool) -> None:
    place, names = machine.place(), (line.Value.INACTIVE, line.Value.ACTIVE)
    wires = machine.wires[place.path]
    output = machine.chips.output(place, "raspy pi.gpio.heater of the tank in the cellar", level)
    [(settings, size)] = wires.asked
    assert (settings.direction, settings.output_value) == (line.Direction.OUTPUT, names[level])
    assert settings.bias is (line.Bias.PULL_UP if level else line.Bias.PULL_DOWN)
    assert not settings.active_low, "levels are those of the wire"
    assert size is None
    assert wires.held[17] == "raspy pi.gpio.heater of the tank in the cellar"[:CONSUMER_LIMIT]
    for wanted in (not level, level):
        output.set(wanted)
        assert wires.levels[17] is names[wanted]
    output.close()
    output.close()
    assert wires.held == {}


def test_an_output_whose_chip_goes_says_so(machine: Machine) -> None:
    place = machine.place()
    output = machine.chips.output(place, "raspy", False)
    machine.wires[place.path].gone = True
    with pytest.raises(LineError) as caught:
        output.set(True)
    assert str(caught.value) == f"{PI}:17: the chip is gone"
    assert caught.value.errno == errno.ENODEV
    with pytest.raises(LineError, match="the chip is gone"):
        machine.chips.output(machine.place(18), "raspy", False)


@pytest.mark.parametrize(("consumer", "told"), [("w1", "w1"), (None, "somebody without a name")])
def test_a_line_that_somebody_has_is_busy_and_told_with_who(machine: Machine, consumer: str | None, told: str) -> None:
    place = machine.place()
    wires = machine.wires[place.path]
    wires.held[17] = consumer
    for ask in (
        lambda: machine.chips.output(place, "raspy", False),
        lambda: machine.chips.input(place, "raspy", "up", 0.0, "both"),
    ):
        with pytest.raises(Busy) as caught:
            ask()
        assert str(caught.value) == f"{PI}:17 is in use by {told}"
    assert wires.asked == []
    assert wires.held == {17: consumer}


def test_a_path_that_is_another_chip_by_now_is_not_touched(machine: Machine) -> None:
    place = machine.place()
    wires = machine.plug("gpiochip0", "pcf8574", *["IN"] * 28)
    for ask in (
        lambda: machine.chips.output(place, "raspy", True),
        lambda: machine.chips.input(place, "raspy", "up", 0.0, "both"),
    ):
        with pytest.raises(LineError, match=rf"^{PI}:17: {place.path} is pcf8574 by now$"):
            ask()
    assert wires.asked == []


# Inputs


@pytest.mark.parametrize(
    ("bias", "edges", "debounce", "expected"),
    [
        ("up", "both", 0.0, (line.Bias.PULL_UP, line.Edge.BOTH, EVENTS)),
        ("down", "rising", 0.02, (line.Bias.PULL_DOWN, line.Edge.RISING, FEW_EVENTS)),
        ("off", "falling", 0.0, (line.Bias.DISABLED, line.Edge.FALLING, EVENTS)),
        ("as-is", "both", 1.5, (line.Bias.AS_IS, line.Edge.BOTH, FEW_EVENTS)),
    ],
)
def test_an_input_is_asked_for_as_its_settings_are(
    machine: Machine, bias: str, edges: str, debounce: float, expected: tuple[Any, ...]
) -> None:
    place = machine.place()
    found = machine.chips.input(place, "raspy", bias, debounce, edges)
    [(settings, size)] = machine.wires[place.path].asked
    assert settings.direction is line.Direction.INPUT
    assert (settings.bias, settings.edge_detection, size) == expected
    assert settings.debounce_period == timedelta(seconds=debounce)
    assert settings.event_clock is line.Clock.MONOTONIC
    assert found.edges
    found.close()
    found.close()
    assert machine.wires[place.path].held == {}


def test_the_level_and_the_edges_of_an_input(machine: Machine) -> None:
    place = machine.place()
    found = machine.chips.input(place, "raspy", "up", 0.0, "both")
    [request] = machine.requests
    assert found.fileno() == request.fd
    assert found.read() == [], "and does not wait for one"
    assert not found.get()
    machine.wires[place.path].levels[17] = line.Value.ACTIVE
    assert found.get()
    request.edge(True, 5_000_000_000, 1)
    request.edge(False, 5_000_000_400, 4)
    assert found.read() == [Edge(5_000_000_000, True, 1), Edge(5_000_000_400, False, 4)], "two were lost"
    assert found.read() == []


def test_an_input_whose_chip_goes_says_so(machine: Machine) -> None:
    place = machine.place()
    found = machine.chips.input(place, "raspy", "up", 0.0, "both")
    machine.wires[place.path].gone = True
    for ask in (found.get, found.read):
        with pytest.raises(LineError, match=rf"^{PI}:17: the chip is gone$"):
            ask()


@pytest.mark.parametrize("number", [errno.ENXIO, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, 524])
def test_a_chip_without_interrupts_is_asked_in_turns(machine: Machine, number: int) -> None:
    place = machine.place()
    wires = machine.wires[place.path]
    wires.refusal = OSError(number, "refused")
    found = machine.chips.input(place, "raspy", "down", 0.02, "both")
    assert not found.edges
    settings, size = wires.asked[-1]
    assert (settings.direction, settings.bias) == (line.Direction.INPUT, line.Bias.PULL_DOWN)
    assert settings.debounce_period == timedelta(), "the chip could not do that either"
    assert size is None
    wires.levels[17] = line.Value.ACTIVE
    assert found.get()
    machine.requests[-1].edge(True, 1, 1)
    assert found.read() == []
    found.close()
    assert wires.held == {}


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        (OSError(errno.EPERM, "refused"), "this user may not use it: is it in the group gpio?"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (ValueError("debounce period out of range"), "debounce period out of range"),
        (ValueError(), "ValueError"),
    ],
)
def test_any_other_refusal_is_told_and_not_tried_otherwise(
    machine: Machine, refusal: OSError | ValueError, reason: str
) -> None:
    place = machine.place()
    wires = machine.wires[place.path]
    wires.refusal = refusal
    with pytest.raises(LineError) as caught:
        machine.chips.input(place, "raspy", "up", 0.0, "both")
    assert str(caught.value) == f"{PI}:17: {reason}"
    assert len(wires.asked) == 1
    assert wires.held == {}


def test_a_pwm_channel_that_is_not_there_is_told(machine: Machine) -> None:
    with pytest.raises(LineError, match="pwmchip0/export: No such file or directory"):
        machine.chips.channel(str(machine.directory / "pwmchip0" / "pwm0"))
