"""Interlocks: outputs that must not be on together, and those that may be on only while a switch says so.

They are kept where the outputs live, in the same turn of the loop in which a reading arrives. What is not known to be
as it should counts as if it were not.
"""

from __future__ import annotations

import math
import time
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from raspy.common.config import ID
from raspy.common.devices.command import Command

if TYPE_CHECKING:
    from raspy.common.devices.host import DeviceServer
    from raspy.common.devices.output import OutputDevice

MOST = 20
"""Names in one setting."""


class Condition(msgspec.Struct, frozen=True):
    """What a device's value must be."""

    device: str
    """Its path on the server, ``<name>[.<sub>]``."""
    command: str
    """Empty: the one that is true or false."""
    wanted: bool

    def __str__(self) -> str:
        return f"{'' if self.wanted else 'not '}{self.device}{'/' if self.command else ''}{self.command}"


@lru_cache(maxsize=512)
def names(text: str) -> tuple[str, ...]:
    """The outputs that a setting ``never_with`` names.

    :raises ValueError: one of them is no name
    """
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    for name in found:
        _check(name)
    _few(len(found))
    return found


@lru_cache(maxsize=512)
def conditions(text: str) -> tuple[Condition, ...]:
    """What a setting ``only_if`` asks for.

    :raises ValueError: a part of it is none
    """
    found = []
    for part in (part.strip() for part in text.split(",")):
        if not part:
            continue
        negated, _, rest = part.partition(" ")
        wanted = negated != "not" or not rest
        device, _, command = (part if wanted else rest.strip()).partition("/")
        _check(device)
        if command and not ID.fullmatch(command):
            raise ValueError(f"{command[:40]!r} is no command")
        found.append(Condition(device, command, wanted))
    _few(len(found))
    return tuple(found)


def _few(number: int) -> None:
    if number > MOST:
        raise ValueError(f"{number} names; there can be {MOST}")


def _check(name: str) -> None:
    parts = name.split(".")
    if len(parts) > 2 or not all(ID.fullmatch(part) for part in parts):
        raise ValueError(f"{name[:40]!r} is no name of a device of this server, as heater")


class Interlocks:
    """The interlocks between the devices of a server.

    :param server: whose devices they are
    """

    def __init__(self, server: DeviceServer) -> None:
        self.server = server

    def why_not(self, output: OutputDevice) -> str:
        """Why an output must not be on now; empty: it may."""
        for name in self._partners(output):
            partner = self.server.outputs.find(name)
            if partner is None:
                return f"it must never be on with {name}, and there is no such output here"
            if partner.may_be_on:
                known = "not known to be off" if partner.hardware_level is None else "on"
                return f"it must never be on with {name}, which is {known}"
        for condition in conditions(output.outputs.only_if):
            reason = self._unmet(condition)
            if reason:
                return f"it may be on only if {condition}: {reason}"
        return ""

    def until(self, output: OutputDevice) -> float:
        """When the first of the readings that let an output be on gets too old (monotonic, s)."""
        found = math.inf
        for condition in conditions(output.outputs.only_if):
            command = self._value(condition)
            if isinstance(command, Command) and command.reading is not None:
                found = min(found, command.read_at + command.reading.max_age)
        return found

    def _partners(self, output: OutputDevice) -> list[str]:
        """Whichever of two declares it, it holds for both."""
        found = [name for name in names(output.outputs.never_with) if name != output.path]
        for other in self.server.outputs:
            if other is not output and output.path in names(other.outputs.never_with) and other.path not in found:
                found.append(other.path)
        return found

    def _unmet(self, condition: Condition) -> str:
        command = self._value(condition)
        if isinstance(command, str):
            return command
        reading = command.reading
        if reading is None or reading.quality != "ok" or not isinstance(reading.value, bool):
            why = "it was not read yet" if reading is None else reading.reason or reading.quality
            return f"nobody knows, as {condition.device} gives no reading: {why}"
        # By the clock that nobody sets; the time in a reading is the wall clock's.
        if time.monotonic() >= command.read_at + reading.max_age:
            return f"nobody knows, as the last reading of {condition.device} is older than {reading.max_age:g} s"
        if reading.value is not condition.wanted:
            return f"{condition.device} is {'on' if reading.value else 'off'}"
        return ""

    def _value(self, condition: Condition) -> Command | str:
        """What a condition is about, or why there is no such thing."""
        device = self.server.device_at(condition.device)
        if device is None:
            return f"there is no device {condition.device} here"
        found = [
            command for command in device.values() if command.type == "Bool" and condition.command in ("", command.name)
        ]
        if len(found) == 1:
            return found[0]
        what = f"no value {condition.command}" if condition.command else f"{len(found)} values"
        return f"{condition.device} has {what} that is true or false"
