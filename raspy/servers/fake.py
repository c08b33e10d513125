"""Simulated devices: an aquarium to try RasPy with, before any hardware is there.

Nothing is random: a value is a function of the settings and of the time since the server's start, on the
monotonic clock, so that the same is seen at every start.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from msgspec import Meta

from raspy.common.config import ConfigError, Section
from raspy.common.devices.device import DeviceSettings
from raspy.common.devices.host import DeviceServer
from raspy.common.devices.sensor import SensorLevel, SensorTemperature
from raspy.common.verbs import Verbs

DIGITS = 3


Period = Annotated[
    float,
    Meta(gt=0, le=1e9, description="Time in which the temperature goes up and down again.", extra={"unit": "s"}),
]
Lowest = Annotated[
    float,
    Meta(ge=-55, le=125, description="Temperature at the start of a period.", extra={"unit": "°C"}),
]
Highest = Annotated[float, Meta(ge=-55, le=125, description="Temperature at half a period.", extra={"unit": "°C"})]
Level = Annotated[float, Meta(ge=0, le=100, description="Water level at the start.", extra={"unit": "%"})]
LevelRate = Annotated[
    float,
    Meta(ge=-1e6, le=1e6, description="How the level changes; water evaporates.", extra={"unit": "%/h"}),
]


class FakeConfig(Section, frozen=True):
    """``[fake]``: the simulated aquarium."""

    SECTION: ClassVar[str] = "fake"

    poll: Annotated[float, Meta(ge=0.1, le=3600, description="Seconds between readings.", extra={"unit": "s"})] = 2.0
    period: Period = 600.0
    temperature_min: Lowest = 24.0
    temperature_max: Highest = 26.0
    level: Level = 95.0
    level_rate: LevelRate = -2.0

    def check(self) -> None:
        if self.temperature_min > self.temperature_max:
            raise ConfigError(
                f"temperature_min: {self.temperature_min:g} is above temperature_max {self.temperature_max:g}"
            )


def cyclic(elapsed: float, period: float, low: float, high: float) -> float:
    """A value that swings as a cosine does: ``low`` at 0 and at each period, ``high`` at half of one.

    :param elapsed: seconds since time zero
    :param period: seconds
    """
    phase = math.fmod(elapsed, period) / period
    return low + (high - low) * (1 - math.cos(2 * math.pi * phase)) / 2


def linear(elapsed: float, start: float, rate: float, low: float, high: float) -> float:
    """A value that changes evenly until it comes to an end of its range.

    :param elapsed: seconds since time zero
    :param start: the value at time zero
    :param rate: change per hour
    """
    return min(max(start + rate * elapsed / 3600, low), high)


class TankSettings(DeviceSettings, kw_only=True, forbid_unknown_fields=True):
    """The settings of a simulated aquarium; the same as in the section ``[fake]``."""

    period: Period = 600.0
    temperature_min: Lowest = 24.0
    temperature_max: Highest = 26.0
    level: Level = 95.0
    level_rate: LevelRate = -2.0

    def check(self) -> dict[str, str]:
        """The lowest temperature must not be above the highest."""
        errors = super().check()
        if self.temperature_min > self.temperature_max:
            errors["temperature_min"] = f"{self.temperature_min:g} is above the highest, {self.temperature_max:g}"
        return errors


class SensorTank(SensorTemperature, SensorLevel):
    """A simulated aquarium: its temperature and its water level."""

    oid: ClassVar[str] = "sensor.tank"
    Settings: ClassVar[type[DeviceSettings]] = TankSettings

    def __init__(self, json: str | bytes | Mapping[str, Any] | None = None) -> None:
        super().__init__(json)
        self.zero = time.monotonic()
        """The time from which the simulation counts (monotonic, s)."""

    def do_poll(self) -> dict[str, float]:
        """The values of now."""
        return self.at(time.monotonic() - self.zero)

    def at(self, elapsed: float) -> dict[str, float]:
        """The values at a time, in seconds since time zero."""
        config = self.config
        assert isinstance(config, TankSettings)
        temperature = cyclic(elapsed, config.period, config.temperature_min, config.temperature_max)
        level = linear(elapsed, config.level, config.level_rate, 0.0, 100.0)
        return {"temperature": round(temperature, DIGITS), "level": round(level, DIGITS)}


class Fake(DeviceServer):
    """The server of simulated devices: one aquarium, ``tank``.

    :param settings: the section ``[fake]``
    """

    CONFIG: ClassVar[type[Section]] = FakeConfig

    def __init__(
        self,
        hostname: str = "localhost",
        service: str = "fake",
        broker_ip: str = "127.0.0.1",
        broker_port: int = 5514,
        settings: FakeConfig | None = None,
    ) -> None:
        super().__init__(hostname, service, broker_ip, broker_port)
        self.settings = settings or FakeConfig()
        self.types.register(SensorTank)

    @classmethod
    def _configured(cls, bus: dict[str, Any], settings: Any) -> Self:
        return cls(**bus, settings=settings)

    def start(self) -> None:
        """Open the channels; the simulation's time zero is now."""
        super().start()
        fields = {key: getattr(self.settings, key) for key in self.settings.__struct_fields__}
        self.add_device(SensorTank.new({"name": "tank", **fields}))

    def worker_devices(self) -> Verbs:
        """Serve ``<hostname>.fake.devices``."""
        return super().worker_devices()
