"""GPIO chips: finding a line by name, and having it as an output or an input.

What stands here is the same for the kernel's chips (:mod:`~raspy.servers.gpio.kernel`) and for those to try things
with (:mod:`~raspy.servers.gpio.mock`). Levels are those of the wire: what a relay makes of them is not known here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from raspy.common.MDP import GenericError

if TYPE_CHECKING:
    from raspy.servers.gpio.pwm import Channel

HEADER_CHIPS = ("pinctrl-bcm", "pinctrl-rp1")
"""How the labels of the chips begin whose lines are on a Pi's header: BCM2835 to BCM2711, and the RP1 of a Pi 5. Their
line 17 is GPIO17, whatever the kernel calls it there."""
_GPIO = re.compile(r"GPIO(\d{1,3})")
NEAR = 8
"""Names that are shown in place of one that does not exist."""
CONSUMER_LIMIT = 31
"""Characters of a consumer (GPIO_MAX_NAME_SIZE less its end, linux/gpio.h)."""


class LineError(GenericError, OSError):
    """A line cannot be had, or does not do what it was told; the message says which, and why."""


class UnknownLine(LineError, LookupError):
    """There is no such line on this machine."""


class Busy(LineError):
    """Somebody has the line; the message says who."""


class ChipInfo(msgspec.Struct, frozen=True):
    """A chip as it is now."""

    label: str
    path: str
    """``/dev/gpiochip0``, or a directory."""
    names: tuple[str, ...]
    """Of its lines, by offset; empty: it has none."""
    device: str = ""
    """What it is a part of, as ``1-0020`` of an I2C bus: the same when chips are numbered anew, and another for each
    chip, which a label is not; empty: nobody knows."""

    @property
    def key(self) -> str:
        """What identifies it."""
        return chip_key(self.label, self.device)


class Place(msgspec.Struct, frozen=True):
    """Where a line is."""

    label: str
    """Of the chip, which stays the same when chips are numbered anew."""
    offset: int
    path: str = ""
    name: str = ""
    device: str = ""
    """See :attr:`ChipInfo.device`."""

    @property
    def chip(self) -> str:
        """What identifies its chip."""
        return chip_key(self.label, self.device)

    @property
    def key(self) -> str:
        """The same for every name of the line, and of no other line."""
        return f"{self.chip}:{self.offset}"


def chip_key(label: str, device: str) -> str:
    """What identifies a chip: its label, as far as that does, and what it is a part of."""
    return label if not device or device == label or label.startswith(HEADER_CHIPS) else f"{label}/{device}"


class Edge(msgspec.Struct, frozen=True):
    """An edge on a line."""

    time: int
    """Monotonic, ns."""
    level: bool
    """After it."""
    number: int
    """Counted by the chip from the moment the line was taken, edges included that were lost."""


class Output:
    """A line that is driven. It is this process's alone until it is closed, or the process ends."""

    __slots__ = ()

    def set(self, level: bool) -> None:
        """Drive it high or low.

        :raises LineError: it does not do so
        """
        raise NotImplementedError

    def close(self) -> None:
        """Give it back; harmless when repeated."""
        raise NotImplementedError


class Input:
    """A line that is read. It is this process's alone until it is closed, or the process ends."""

    __slots__ = ()

    edges = True
    """Edges are told; else the level can be asked for only."""

    def get(self) -> bool:
        """The level, after debouncing.

        :raises LineError: it cannot be read
        """
        raise NotImplementedError

    def read(self) -> list[Edge]:
        """The edges since the last time, oldest first; not all if there are many.

        :raises LineError: it cannot be read
        """
        raise NotImplementedError

    def fileno(self) -> int:
        """What can be read when there are edges."""
        raise NotImplementedError

    def close(self) -> None:
        """Give it back; harmless when repeated."""
        raise NotImplementedError


class Chips:
    """The chips of this machine."""

    def chips(self) -> list[ChipInfo]:
        """Those that there are now.

        :raises LineError: nobody can tell
        """
        raise NotImplementedError

    def output(self, place: Place, consumer: str, level: bool) -> Output:
        """Have a line as an output that begins with a level, to which it is pulled when nobody drives it, on chips that
        can.

        :raises Busy: somebody has it
        :raises LineError: the chip does not do so
        """
        raise NotImplementedError

    def input(self, place: Place, consumer: str, bias: str, debounce: float, edges: str) -> Input:
        """Have a line as an input.

        :param bias: ``up``, ``down``, ``off``, or ``as-is``
        :param debounce: for how long a level must stay before it counts, in s
        :param edges: those that are told: ``rising``, ``falling``, ``both``
        :raises Busy: somebody has it
        :raises LineError: the chip does not do so
        """
        raise NotImplementedError

    def channel(self, path: str) -> Channel:
        """Have a PWM channel.

        :param path: its directory, from :func:`pwm.find() <raspy.servers.gpio.pwm.find>`
        :raises Busy: another process of RasPy has it
        :raises LineError: it cannot be had
        """
        raise NotImplementedError

    def find(self, line: str, chip: str = "") -> Place:
        """Where a line is.

        :param line: its name, as ``GPIO17``; or a chip, ``:``, and a name or number. A chip is its label, what it is
            a part of, both with ``/`` between, or ``gpiochip0``
        :param chip: the one that has the lines without a chip; empty: any
        :raises UnknownLine: there is no such line, or there are several
        """
        there = self.chips()
        place = self._find(there, line, chip)
        if sum(found.key == place.chip for found in there) > 1:
            raise UnknownLine(f"{line}: several chips are called {place.chip}, and nothing here tells them apart")
        return place

    def _find(self, there: list[ChipInfo], line: str, chip: str) -> Place:
        if not there:
            raise UnknownLine(f"{line}: there is no GPIO chip on this machine")
        label, _, name = line.rpartition(":")
        wanted = label or chip
        among = [found for found in there if not wanted or wanted in _names(found)]
        if not among:
            raise UnknownLine(f"{line}: there is no chip {wanted}; the chips are {_listed(c.key for c in there)}")
        if len(among) > 1 and wanted:
            devices = _listed(found.device or _number(found.path) for found in among)
            raise UnknownLine(f"{line}: {len(among)} chips are called {wanted}: name it by its device: {devices}")
        if name.isdecimal() and wanted:
            return self._numbered(among[0], int(name), line)
        found = [_place(c, c.names.index(name)) for c in among if name and name in c.names]
        if not found:
            number = _GPIO.fullmatch(name)
            header = [c for c in among if c.label.startswith(HEADER_CHIPS)]
            if number is not None and len(header) == 1:
                return self._numbered(header[0], int(number[1]), line)
            raise UnknownLine(f"{line}: there is no such line; {_near(name, among)}")
        header_lines = [place for place in found if place.label.startswith(HEADER_CHIPS)]
        if len(found) > 1 and len(header_lines) != 1:
            raise UnknownLine(f"{line}: several chips have it; write {' or '.join(f'{p.chip}:{name}' for p in found)}")
        return (header_lines or found)[0]

    @staticmethod
    def _numbered(chip: ChipInfo, offset: int, line: str) -> Place:
        if offset >= len(chip.names):
            raise UnknownLine(f"{line}: {chip.label} has the lines 0 to {len(chip.names) - 1}")
        return _place(chip, offset)


def _place(chip: ChipInfo, offset: int) -> Place:
    return Place(chip.label, offset, chip.path, chip.names[offset], chip.device)


def _names(chip: ChipInfo) -> tuple[str, ...]:
    """What an owner may call a chip."""
    return chip.label, chip.key, chip.device, chip.path, _number(chip.path)


def _number(path: str) -> str:
    """``gpiochip0`` of ``/dev/gpiochip0``."""
    return path.rpartition("/")[2]


def _listed(names: object) -> str:
    return ", ".join(dict.fromkeys(names)) or "none"  # type: ignore[call-overload]


def _near(name: str, chips: list[ChipInfo]) -> str:
    """The names that are most like one that does not exist, by the parts of two characters that both have."""
    names = dict.fromkeys(each for chip in chips for each in chip.names if each not in ("", "-"))
    if not names:
        return f"no line has a name there: write the chip and a number, as {chips[0].label}:0"
    parts = _pairs(name)

    def unlike(other: str) -> float:
        theirs = _pairs(other)
        return -len(parts & theirs) / (len(parts | theirs) or 1)

    return f"near are {', '.join(sorted(names, key=unlike)[:NEAR])}"


def _pairs(name: str) -> set[str]:
    text = f" {name.lower()} "
    return {text[i : i + 2] for i in range(len(text) - 1)}
