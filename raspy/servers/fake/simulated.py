"""What all simulated sensors have in common: time zero, and faults to be set."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from raspy.common.devices.command import Command
from raspy.common.devices.device import DeviceSettings
from raspy.common.devices.errors import ReadingError
from raspy.common.devices.sensor import SensorDevice, SensorSettings
from raspy.common.devices.settings import Poll

DIGITS = 3
"""Places that a reading has behind the point."""
SPIKE_EVERY = 10
"""Of so many readings one is a spike, unless the owner says otherwise."""
LONGEST_DELAY = 600.0
"""Seconds."""


class SimulatedSettings(SensorSettings, kw_only=True, forbid_unknown_fields=True):
    """The settings of a simulated sensor."""

    poll: Poll = 2.0
    fault: Annotated[
        Literal["none", "freeze", "drop", "spike", "delay"],
        Meta(
            title="Fault",
            description="freeze: the values stay what they are. drop: an error. spike: off by the size. "
            "delay: the reading takes the size in seconds.",
        ),
    ] = "none"
    fault_size: Annotated[
        float,
        Meta(
            ge=-1000,
            le=1000,
            title="Fault size",
            description="How far off a spike is, in the unit of the value, or the seconds of a delay.",
        ),
    ] = 5.0
    fault_every: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000,
            title="Fault every",
            description="Only each so many-th reading is a spike, dropped or delayed; 0: each tenth is a spike, and "
            "each is dropped or delayed.",
        ),
    ] = 0

    def check(self) -> dict[str, str]:
        """A delay is not negative, and not longer than ten minutes."""
        errors = super().check()
        if self.fault == "delay" and not 0 <= self.fault_size <= LONGEST_DELAY:
            errors["fault_size"] = f"a delay must be 0 to {LONGEST_DELAY:g} s (got {self.fault_size:g})"
        return errors

    def hits(self, number: int) -> bool:
        """Whether a reading has the fault.

        :param number: of the reading since the fault was set, the first is 1
        """
        if self.fault in ("none", "freeze"):
            return self.fault == "freeze"
        return number % (self.fault_every or (SPIKE_EVERY if self.fault == "spike" else 1)) == 0


class SimulatedSensor(SensorDevice):
    """A sensor whose values are a function of the time since time zero, which is when it was made.

    A subclass says in :meth:`at` what the values are, and makes none of its own on reading.
    """

    Settings: ClassVar[type[DeviceSettings]] = SimulatedSettings

    def __init__(self, json: str | bytes | Mapping[str, Any] | None = None) -> None:
        self.zero = time.monotonic()
        """The time from which the simulation counts (monotonic, s)."""
        self.readings = 0
        """Readings since the fault was set, or since time zero."""
        self._frozen: dict[str, float] | None = None
        self._release = threading.Event()
        self._simulates: SimulatedSettings | None = None
        super().__init__(json)
        self.begin()

    @property
    def slow(self) -> bool:  # type: ignore[override]
        """A reading that takes its time must not hold up the others."""
        return self._simulated.fault == "delay"

    @property
    def elapsed(self) -> float:
        """Seconds since time zero."""
        return time.monotonic() - self.zero

    @property
    def _simulated(self) -> SimulatedSettings:
        config = self.config
        assert isinstance(config, SimulatedSettings)
        return config

    def begin(self) -> None:
        """Start the simulation, or start it anew: time zero is now. To be extended."""
        self.zero = time.monotonic()
        self._simulates = self._simulated
        self._set_fault(0.0)

    def at(self, elapsed: float) -> dict[str, float]:
        """The values at a time, in seconds since time zero; to be overridden. Changes nothing."""
        raise NotImplementedError

    def settings_changed(self) -> None:
        """The simulation goes on with them from now on."""
        super().settings_changed()
        if self._simulates is not None:
            before, self._simulates = self._simulates, self._simulated
            self.changed(before, self.elapsed)

    def changed(self, before: SimulatedSettings, elapsed: float) -> None:
        """The settings have changed, at a time since time zero; to be extended."""
        if _fault(before) != _fault(self._simulated):
            self._set_fault(elapsed)

    def _set_fault(self, elapsed: float) -> None:
        self.readings = 0
        self._frozen = self.at(elapsed) if self._simulated.fault == "freeze" else None
        self._release.set()
        self._release = threading.Event()

    def do_poll(self) -> dict[str, float]:
        """The values of now, with the fault that is set."""
        config, release = self._simulated, self._release
        hit = config.hits(self.readings + 1)
        values = self._frozen
        if values is None or not hit:
            values = self.at(self.elapsed)
        if hit and config.fault == "delay":
            release.wait(config.fault_size)
        elif hit and config.fault == "drop":
            raise ReadingError("dropped", "simulated fault: the reading was dropped")
        elif hit and config.fault == "spike":
            return {name: _spiked(self.commands[name], value, config.fault_size) for name, value in values.items()}
        return values

    def update(self, readings: Mapping[str, Any] | BaseException) -> list[Command]:
        """Take what :meth:`do_poll` returned, or raised, and count it."""
        self.readings += 1
        return super().update(readings)

    def cmd_reset(self, value: Any = None) -> bool:
        """Forget the readings, and start the simulation anew: time zero is now."""
        self.begin()
        return super().cmd_reset(value)


def _fault(config: SimulatedSettings) -> tuple[str, float, int]:
    return config.fault, config.fault_size, config.fault_every


def _spiked(command: Command, value: float, size: float) -> float:
    """A value that is off, and still one that the sensor could have given."""
    value = round(value + size, DIGITS)
    if command.minimum is not None:
        value = max(value, command.minimum)
    return value if command.maximum is None else min(value, command.maximum)
