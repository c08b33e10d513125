"""The kernel's GPIO chips, through libgpiod 2 (https://libgpiod.readthedocs.io; the kernel's side is
Documentation/userspace-api/gpio/chardev.rst).

The package ``gpiod`` is imported when it is needed first: without it a server says so, and goes on.
"""

from __future__ import annotations

import errno
import glob
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from raspy.servers.gpio.chips import (
    CONSUMER_LIMIT,
    Busy,
    ChipInfo,
    Chips,
    Edge,
    Input,
    LineError,
    Output,
    Place,
    chip_key,
)
from raspy.servers.gpio.pwm import Channel

DEVICES = "/dev/gpiochip*"
SYSFS = "/sys/bus/gpio/devices"
_COUNTED = re.compile(r"[0-9A-F]{4}:[0-9A-F]{4}:[0-9A-F]{4}\.[0-9A-F]{4}|.+\.[0-9]+\.auto")
"""Devices that are numbered as they come, and so are another one when they come back: those of HID (hid_add_device) and
those with PLATFORM_DEVID_AUTO. What they are a part of stays: where they are plugged in."""
EVENTS, FEW_EVENTS = 1024, 64
"""Edges that the kernel keeps for us, at most (GPIO_V2_LINES_MAX * 16), and of lines that are debounced; the oldest
goes first, and is counted."""
UNNEEDED = ("inspect", "ast", "dis", "opcode", "tokenize", "token")
"""What dataclasses import only to make the classes of gpiod; 2 MB for each process."""
_TOLD = {
    errno.ENODEV: "the chip is gone",
    errno.ENOENT: "the chip is gone",
    errno.EACCES: "this user may not use it: is it in the group gpio?",
    errno.EPERM: "this user may not use it: is it in the group gpio?",
}


def load() -> Any:
    """The package ``gpiod``.

    :raises LineError: it is missing, or is that of libgpiod 1
    """
    before = set(sys.modules)
    try:
        import gpiod
    except ImportError as error:
        raise LineError(
            f"the Python package gpiod is missing ({error}): sudo apt-get install python3-libgpiod, or "
            "pip install raspy[hardware]"
        ) from error
    for name in UNNEEDED:
        if name not in before:
            sys.modules.pop(name, None)
    if not hasattr(gpiod, "request_lines"):
        raise LineError("the Python package gpiod is that of libgpiod 1; version 2 is needed, as Debian 13 has it")
    return gpiod


@contextmanager
def _told(line: str) -> Iterator[None]:
    """What the kernel refuses, in our words."""
    try:
        yield
    except LineError:
        raise
    except (OSError, ValueError) as error:
        number = getattr(error, "errno", None) or 0
        reason = _TOLD.get(number) or getattr(error, "strerror", None) or str(error) or type(error).__name__
        found = LineError(f"{line}: {reason}")
        found.errno = number
        raise found from error


class KernelChips(Chips):
    """The chips that the kernel shows as ``/dev/gpiochipN``.

    :param pattern: where they are
    :param sysfs: where the kernel shows what they are parts of
    """

    def __init__(self, pattern: str = DEVICES, sysfs: str = SYSFS) -> None:
        self.pattern = pattern
        self.sysfs = sysfs
        self._seen: dict[str, tuple[int, ChipInfo]] = {}
        """What was seen of a device, as long as it is the same one: names do not change."""

    def chips(self) -> list[ChipInfo]:
        """Those that there are now; one that cannot be opened is left out while there are others."""
        found: list[ChipInfo] = []
        problem: LineError | None = None
        paths = sorted(glob.glob(self.pattern), key=lambda path: (len(path), path))
        seen, self._seen = self._seen, {}
        for path in paths:
            try:
                with _told(path):
                    mark = os.stat(path).st_ctime_ns
                    known = seen.get(path)
                    info = known[1] if known is not None and known[0] == mark else self._look(path)
            except LineError as error:
                problem = error
                continue
            if info.path == path:
                # Not a link to another, as Raspberry Pi OS has one.
                self._seen[path] = (mark, info)
                found.append(info)
        if problem is not None and not found:
            raise problem
        return found

    def _look(self, path: str) -> ChipInfo:
        gpiod = load()
        real = os.path.realpath(path)
        if real != path:
            return ChipInfo("", real, ())
        with gpiod.Chip(path) as chip:
            info = chip.get_info()
            names = tuple(chip.get_line_info(offset).name or "" for offset in range(info.num_lines))
            return ChipInfo(info.label, path, names, self._device(path))

    def _device(self, path: str) -> str:
        """What a chip is a part of; with its number there, where that is not the first: the banks of one controller
        may have one label, as on a Pi 5."""
        link = os.path.join(self.sysfs, os.path.basename(path))
        if not os.path.exists(link):
            return ""
        parent, name = os.path.split(os.path.realpath(link))
        try:
            banks = sorted((n for n in os.listdir(parent) if n.startswith("gpiochip")), key=lambda n: (len(n), n))
            number = banks.index(name)
        except (OSError, ValueError):
            return ""
        while _COUNTED.fullmatch(os.path.basename(parent)):
            parent = os.path.dirname(parent)
        return os.path.basename(parent) + (f"#{number}" if number else "")

    def holder(self, place: Place) -> str:
        """Who has a line; empty: nobody."""
        with _told(place.key), load().Chip(place.path) as chip:
            info = chip.get_line_info(place.offset)
            return (info.consumer or "somebody without a name") if info.used else ""

    def output(self, place: Place, consumer: str, level: bool) -> Output:
        """Have a line as an output; see :meth:`Chips.output`."""
        gpiod = load()
        line = gpiod.line
        bias = line.Bias.PULL_UP if level else line.Bias.PULL_DOWN
        value = line.Value.ACTIVE if level else line.Value.INACTIVE
        settings = gpiod.LineSettings(direction=line.Direction.OUTPUT, bias=bias, output_value=value)
        return KernelOutput(self._request(place, consumer, settings), place.offset, place.key, line.Value)

    def input(self, place: Place, consumer: str, bias: str, debounce: float, edges: str) -> Input:
        """Have a line as an input; see :meth:`Chips.input`. On a chip without interrupts edges are not told."""
        gpiod = load()
        line = gpiod.line
        from datetime import timedelta

        biases = {
            "up": line.Bias.PULL_UP,
            "down": line.Bias.PULL_DOWN,
            "off": line.Bias.DISABLED,
            "as-is": line.Bias.AS_IS,
        }
        kinds = {"rising": line.Edge.RISING, "falling": line.Edge.FALLING, "both": line.Edge.BOTH}
        settings = gpiod.LineSettings(
            direction=line.Direction.INPUT,
            bias=biases[bias],
            edge_detection=kinds[edges],
            debounce_period=timedelta(seconds=debounce),
        )
        try:
            request = self._request(place, consumer, settings, FEW_EVENTS if debounce else EVENTS)
            return KernelInput(request, place, True, gpiod)
        except Busy:
            raise
        except LineError as error:
            if error.errno not in (errno.ENXIO, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, 524):
                raise
        # 524 is ENOTSUPP of the kernel. The line is then asked in turns, which debounces as well.
        settings = gpiod.LineSettings(direction=line.Direction.INPUT, bias=biases[bias])
        return KernelInput(self._request(place, consumer, settings), place, False, gpiod)

    def channel(self, path: str) -> Channel:
        """Have a PWM channel; see :meth:`Chips.channel`."""
        return Channel(path)

    def _request(self, place: Place, consumer: str, settings: Any, events: int | None = None) -> Any:
        with _told(place.key), load().Chip(place.path) as chip:
            now = chip_key(chip.get_info().label, self._device(place.path))
            if now != place.chip:
                raise LineError(f"{place.key}: {place.path} is {now} by now")
            try:
                request = chip.request_lines(
                    {place.offset: settings}, consumer=consumer[:CONSUMER_LIMIT], event_buffer_size=events
                )
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                info = chip.get_line_info(place.offset)
                raise Busy(f"{place.key} is in use by {info.consumer or 'somebody without a name'}") from error
            if events is not None:
                os.set_blocking(request.fd, False)
            return request


class KernelOutput(Output):
    """A line that is driven."""

    __slots__ = ("_key", "_offset", "_request", "_values")

    def __init__(self, request: Any, offset: int, key: str, values: Any) -> None:
        self._request = request
        self._offset = offset
        self._key = key
        self._values = values

    def set(self, level: bool) -> None:
        """Drive it high or low."""
        with _told(self._key):
            self._request.set_value(self._offset, self._values.ACTIVE if level else self._values.INACTIVE)

    def close(self) -> None:
        """Give it back."""
        self._request.release()


class KernelInput(Input):
    """A line that is read."""

    __slots__ = ("_active", "_key", "_offset", "_request", "_rising", "edges")

    def __init__(self, request: Any, place: Place, edges: bool, gpiod: Any) -> None:
        self._request = request
        self._key = place.key
        self._offset = place.offset
        self._active = gpiod.line.Value.ACTIVE
        self._rising = gpiod.EdgeEvent.Type.RISING_EDGE
        self.edges = edges

    def get(self) -> bool:
        """The level."""
        with _told(self._key):
            return bool(self._request.get_value(self._offset) is self._active)

    def read(self) -> list[Edge]:
        """The edges since the last time."""
        if not self.edges:
            return []
        with _told(self._key):
            try:
                events = self._request.read_edge_events()
            except BlockingIOError:
                return []
            rising = self._rising
            return [Edge(event.timestamp_ns, event.event_type is rising, event.line_seqno) for event in events]

    def fileno(self) -> int:
        """What can be read when there are edges."""
        with _told(self._key):
            return int(self._request.fd)

    def close(self) -> None:
        """Give it back."""
        self._request.release()
