"""A simulated tank: its water is warmed by a heater, cooled by the room, moved by a pump, and evaporates.

The water is well mixed: one temperature ``T``, one volume ``V``. With heater and pump at their duties, the heater's
power ``P`` (W), the loss to the room ``U`` (W/K), the inflow ``q`` of water at the room's temperature ``R`` (L/s),
and all that flows in and out together, ``r`` (L/s),

.. code-block:: text

   dV/dt = r
   4186 * V * dT/dt = P - (U + 4186 * q) * (T - R)

which has an exact solution, as long as nothing is switched: with ``s = ln(1 + r * t / V0) / r`` (``t / V0`` if r is 0)
and ``K = U + 4186 * q``,

.. code-block:: text

   V = V0 + r * t
   T = R + P / K + (T0 - R - P / K) * exp(-K * s / 4186)

So there are no steps to add up: a value does not depend on when, or how often, it is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from raspy.common.devices.device import DeviceSettings
from raspy.common.devices.sensor import SensorLevel, SensorTemperature
from raspy.servers.fake.simulated import DIGITS, SimulatedSensor, SimulatedSettings

HEAT = 4186.0
"""Joules that warm one litre of water by one kelvin (the 15 °C calorie, 4.1855 J/g, CIPM 1950)."""
REST = 5.0
"""Level, in %, below which neither pump nor evaporation takes water: it lies in the gravel."""
COLDEST, HOTTEST = 0.0, 100.0
"""Temperatures, in °C, at which the water would freeze or boil; it does neither, and stays at them."""

Level = Annotated[
    float,
    Meta(
        ge=REST, le=100, title="Level", description="Of the water at the start, or when it is set.", extra={"unit": "%"}
    ),
]
LevelRate = Annotated[
    float,
    Meta(ge=-1000, le=0, title="Evaporation", description="How the level changes by itself.", extra={"unit": "%/h"}),
]
Temperature = Annotated[
    float,
    Meta(
        ge=COLDEST,
        le=HOTTEST,
        title="Temperature",
        description="Of the water at the start, or when it is set.",
        extra={"unit": "°C"},
    ),
]
Volume = Annotated[
    float, Meta(ge=0.1, le=1e6, title="Volume", description="The water in a full tank.", extra={"unit": "L"})
]
Power = Annotated[float, Meta(ge=0, le=1e6, title="Power", description="The power of the heater.", extra={"unit": "W"})]
Loss = Annotated[
    float,
    Meta(
        ge=0,
        le=1e6,
        title="Heat loss",
        description="Heat that goes to the room for each degree that the water is warmer.",
        extra={"unit": "W/K"},
    ),
]
Room = Annotated[
    float,
    Meta(
        ge=-40,
        le=60,
        title="Room",
        description="Temperature around the tank, and of the water that is pumped in.",
        extra={"unit": "°C"},
    ),
]
Flow = Annotated[
    float,
    Meta(
        ge=-1e6,
        le=1e6,
        title="Pump",
        description="What the pump moves into the tank, out of it if negative.",
        extra={"unit": "L/h"},
    ),
]
Speed = Annotated[
    float,
    Meta(ge=0.001, le=1e5, title="Speed", description="Seconds of the simulated tank in one second."),
]
Output = Annotated[str, Meta(pattern=r"^[a-z0-9_\-]{0,63}$")]


class TankSettings(SimulatedSettings, kw_only=True, forbid_unknown_fields=True):
    """The settings of a simulated tank."""

    temperature: Temperature = 25.0
    level: Level = 95.0
    level_rate: LevelRate = -0.05
    volume: Volume = 100.0
    power: Power = 100.0
    loss: Loss = 10.0
    room: Room = 20.0
    flow: Flow = 6.0
    speed: Speed = 60.0
    heater: Annotated[Output, Meta(title="Heater", description="The output of this server that warms the water.")] = (
        "heater"
    )
    pump: Annotated[Output, Meta(title="Pump", description="The output of this server that moves the water.")] = "pump"


class Water(msgspec.Struct, frozen=True):
    """The water at one moment."""

    elapsed: float
    """Seconds of the tank's own time since time zero."""
    temperature: float
    """°C"""
    litres: float
    energy: float = 0.0
    """What the heater has used since time zero, J."""

    def after(self, seconds: float, config: TankSettings, heater: float, pump: float) -> Water:
        """The water later, when nothing was switched or set meanwhile.

        :param seconds: of the tank's own time
        :param heater: share of its power, 0 to 1
        :param pump: share of its flow, 0 to 1
        """
        watts = config.power * heater
        inflow = max(config.flow, 0.0) * pump / 3600
        rate = config.flow * pump / 3600 + config.level_rate / 100 * config.volume / 3600
        end = config.volume if rate > 0 else config.volume * REST / 100
        # s/L; the integral of 1/V, which is what the temperature depends on.
        share, left = 0.0, seconds
        litres = self.litres
        if rate and (end - litres) / rate > 0:
            moving = min(seconds, (end - litres) / rate)
            left = seconds - moving
            change = rate * moving / litres
            share = moving / litres * (math.log1p(change) / change if change else 1.0)
            litres = end if left else litres + rate * moving
        # When full the surplus runs over, at the rest nothing is taken: V stays, and what flows in still cools.
        share += left / litres
        above = _above(self.temperature - config.room, share, watts, config.loss + HEAT * inflow)
        temperature = min(max(config.room + above, COLDEST), HOTTEST)
        return Water(self.elapsed + seconds, temperature, litres, self.energy + watts * seconds)


def _above(start: float, share: float, watts: float, conductance: float) -> float:
    """How much warmer than the room the water is, when it was ``start`` warmer ``share`` s/L before."""
    x = conductance * share / HEAT
    if x < 1e-12:
        return start + watts * share / HEAT
    return start * math.exp(-x) - watts / conductance * math.expm1(-x)


class Stretch(msgspec.Struct, frozen=True):
    """The time from one switching to the next. Never changed but replaced, as a reading may be on a thread."""

    begin: float
    """Seconds since time zero, of the owner's time."""
    water: Water
    config: TankSettings
    heater: float
    pump: float

    def at(self, elapsed: float) -> Water:
        """The water at a time, in seconds of the owner's time since time zero."""
        seconds = max(elapsed - self.begin, 0.0) * self.config.speed
        return self.water.after(seconds, self.config, self.heater, self.pump)


class SensorTank(SimulatedSensor, SensorTemperature, SensorLevel):
    """A simulated tank: the temperature of its water, and its level."""

    oid: ClassVar[str] = "sensor.tank"
    Settings: ClassVar[type[DeviceSettings]] = TankSettings

    def __init__(self, json: str | bytes | Mapping[str, Any] | None = None) -> None:
        self.duties: Mapping[str, float] = {}
        """How far the outputs are on, 0 to 1, by name; the server's own. After a change it calls :meth:`turn`."""
        super().__init__(json)

    @property
    def _tank(self) -> TankSettings:
        config = self.config
        assert isinstance(config, TankSettings)
        return config

    def begin(self) -> None:
        """Start the simulation, or start it anew, with the temperature and the level of the settings."""
        config = self._tank
        self._go_on(0.0, Water(0.0, config.temperature, config.level / 100 * config.volume))
        super().begin()

    def _go_on(self, elapsed: float, water: Water) -> None:
        config = self._tank
        heater, pump = (min(max(self.duties.get(name, 0.0), 0.0), 1.0) for name in (config.heater, config.pump))
        self.stretch = Stretch(elapsed, water, config, heater, pump)

    def at(self, elapsed: float) -> dict[str, float]:
        """The values at a time, in seconds since time zero, when nothing is switched until then."""
        stretch = self.stretch
        water = stretch.at(elapsed)
        level = 100 * water.litres / stretch.config.volume
        return {"temperature": round(water.temperature, DIGITS), "level": round(min(level, 100.0), DIGITS)}

    def turn(self, elapsed: float | None = None) -> None:
        """Heater or pump was switched now, or at a time since time zero."""
        if elapsed is None:
            elapsed = self.elapsed
        self._go_on(elapsed, self.stretch.at(elapsed))

    def changed(self, before: SimulatedSettings, elapsed: float) -> None:
        """The settings have changed: the water goes on from what it was, but for what of it was set."""
        assert isinstance(before, TankSettings)
        config, water = self._tank, self.stretch.at(elapsed)
        temperature, litres = water.temperature, water.litres * config.volume / before.volume
        if config.temperature != before.temperature:
            temperature = config.temperature
        if config.level != before.level:
            litres = config.level / 100 * config.volume
        self._go_on(elapsed, Water(water.elapsed, temperature, litres, water.energy))
        super().changed(before, elapsed)

    def details(self) -> dict[str, Any]:
        """The water itself, whatever the fault of the sensor: what a test compares a reading with."""
        stretch = self.stretch
        water = stretch.at(self.elapsed)
        return {
            "elapsed": water.elapsed,
            "temperature": water.temperature,
            "litres": water.litres,
            "energy": water.energy / 3600,
            "heater": stretch.heater,
            "pump": stretch.pump,
            "since": stretch.water.elapsed,
        }
