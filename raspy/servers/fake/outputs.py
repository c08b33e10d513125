"""Simulated outputs: a switch and a dimmer on simulated pins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from raspy.common.devices.dimmer import Dimmer
from raspy.common.devices.output import OutputDevice
from raspy.common.devices.switch import Switch
from raspy.servers.fake.pins import Pins


class FakeOutput(OutputDevice):
    """What the simulated outputs have in common."""

    def __init__(self, json: str | bytes | Mapping[str, Any] | None = None) -> None:
        self.pins: Pins | None = None
        """The chip; None: nothing but :attr:`duty` follows."""
        self.duty = 0.0
        """The last duty cycle that the hardware took, 0 to 1."""
        self.on_drive: Callable[[float], None] = _nothing
        """Called with each duty cycle that the hardware took."""
        super().__init__(json)

    def drive(self, value: float) -> None:
        """Put the pin into a duty cycle, 0 to 1.

        :raises OSError: its file cannot be written
        """
        if self.pins is not None:
            if self.pins.claimed(self.name) != self.outputs.safe_level:
                self.pins.claim(self.name, self.outputs.safe_level)
            self.pins.write(self.name, value)
        self.duty = value
        self.on_drive(value)

    def release(self) -> None:
        """Put the pin off, and give it back: its file goes.

        :raises OSError: its file cannot be written
        """
        if self.pins is not None:
            self.pins.release(self.name)
        self.duty = 0.0
        self.on_drive(0.0)


class FakeSwitch(FakeOutput, Switch):
    """A simulated switch."""


class FakeDimmer(FakeOutput, Dimmer):
    """A simulated dimmer."""


def _nothing(duty: float) -> None:
    pass
