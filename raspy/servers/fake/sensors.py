"""Simulated sensors that nothing can be done to: cyclic, linear, wind."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from raspy.common.devices.command import Command
from raspy.common.devices.device import DeviceSettings
from raspy.common.devices.sensor import SensorWind
from raspy.servers.fake import signals
from raspy.servers.fake.simulated import DIGITS, SimulatedSensor, SimulatedSettings

Number = Annotated[float, Meta(ge=-1e9, le=1e9)]


class RangeSettings(SimulatedSettings, kw_only=True, forbid_unknown_fields=True):
    """A value of any unit, within a range."""

    unit: Annotated[str, Meta(max_length=16, title="Unit", description="Of the value.")] = ""
    minimum: Annotated[Number, Meta(title="Lowest", description="The lowest value.")] = 0.0
    maximum: Annotated[Number, Meta(title="Highest", description="The highest value.")] = 100.0

    def check(self) -> dict[str, str]:
        """The lowest value must not be above the highest."""
        errors = super().check()
        if self.minimum > self.maximum:
            errors["minimum"] = f"{self.minimum:g} is above the highest, {self.maximum:g}"
        if not self.unit.isprintable():
            errors["unit"] = "must be one line of text"
        return errors


class RangeSensor(SimulatedSensor):
    """A sensor of one ``value``, whose unit is a setting."""

    Settings: ClassVar[type[DeviceSettings]] = RangeSettings
    declared: ClassVar[tuple[Command, ...]] = (
        Command(name="value", type="Real", info="Value", readonly=True, datasource="GAUGE"),
    )

    def begin(self) -> None:
        """Start the simulation, or start it anew."""
        super().begin()
        self._set_unit()

    def changed(self, before: SimulatedSettings, elapsed: float) -> None:
        """The settings have changed; the unit may be another."""
        super().changed(before, elapsed)
        self._set_unit()

    def _set_unit(self) -> None:
        config = self.config
        assert isinstance(config, RangeSettings)
        self.commands["value"].unit = config.unit


class CyclicSettings(RangeSettings, kw_only=True, forbid_unknown_fields=True):
    """The settings of a sensor whose value swings."""

    period: Annotated[
        float,
        Meta(
            gt=0,
            le=1e9,
            title="Period",
            description="Time from the lowest value to the highest and back.",
            extra={"unit": "s"},
        ),
    ] = 600.0


class SensorCyclic(RangeSensor):
    """A simulated sensor whose value swings: lowest at time zero, highest at half a period."""

    oid: ClassVar[str] = "sensor.cyclic"
    Settings: ClassVar[type[DeviceSettings]] = CyclicSettings

    def at(self, elapsed: float) -> dict[str, float]:
        """The value at a time, in seconds since time zero."""
        config = self.config
        assert isinstance(config, CyclicSettings)
        return {"value": round(signals.cyclic(elapsed, config.period, config.minimum, config.maximum), DIGITS)}


class LinearSettings(RangeSettings, kw_only=True, forbid_unknown_fields=True):
    """The settings of a sensor whose value rises or falls evenly."""

    start: Annotated[Number, Meta(title="Start", description="The value at time zero.")] = 0.0
    rate: Annotated[
        float, Meta(ge=-1e9, le=1e9, title="Rate", description="How much the value changes in an hour.")
    ] = 1.0

    def check(self) -> dict[str, str]:
        """The start must be in the range."""
        errors = super().check()
        if not errors and not self.minimum <= self.start <= self.maximum:
            errors["start"] = f"{self.start:g} is not {self.minimum:g} to {self.maximum:g}"
        return errors


class SensorLinear(RangeSensor):
    """A simulated sensor whose value rises or falls evenly, until it comes to an end of its range."""

    oid: ClassVar[str] = "sensor.linear"
    Settings: ClassVar[type[DeviceSettings]] = LinearSettings

    def at(self, elapsed: float) -> dict[str, float]:
        """The value at a time, in seconds since time zero."""
        config = self.config
        assert isinstance(config, LinearSettings)
        value = signals.linear(elapsed, config.start, config.rate, config.minimum, config.maximum)
        return {"value": round(value, DIGITS)}


class WindSettings(SimulatedSettings, kw_only=True, forbid_unknown_fields=True):
    """The settings of a simulated wind sensor."""

    calm: Annotated[float, Meta(ge=0, le=100, title="Calm", description="The lowest speed.", extra={"unit": "m/s"})] = (
        1.0
    )
    gust: Annotated[
        float, Meta(ge=0, le=100, title="Gust", description="The highest speed.", extra={"unit": "m/s"})
    ] = 8.0
    period: Annotated[
        float,
        Meta(gt=0, le=1e9, title="Period", description="Time from one calm to the next.", extra={"unit": "s"}),
    ] = 120.0
    direction: Annotated[
        float,
        Meta(
            ge=0,
            le=360,
            title="Direction",
            description="Where the wind comes from at time zero, clockwise from north.",
            extra={"unit": "°"},
        ),
    ] = 270.0
    turn: Annotated[
        float,
        Meta(
            ge=-1e9,
            le=1e9,
            title="Turn",
            description="Time of a full turn of the direction, anticlockwise if negative; 0: it stays.",
            extra={"unit": "s"},
        ),
    ] = 3600.0

    def check(self) -> dict[str, str]:
        """A calm must not be above a gust."""
        errors = super().check()
        if self.calm > self.gust:
            errors["calm"] = f"{self.calm:g} is above the highest, {self.gust:g}"
        return errors


class FakeWind(SimulatedSensor, SensorWind):
    """A simulated wind, which swings between calm and gust and turns evenly."""

    oid: ClassVar[str] = "sensor.wind"
    Settings: ClassVar[type[DeviceSettings]] = WindSettings

    def at(self, elapsed: float) -> dict[str, float]:
        """Speed and direction at a time, in seconds since time zero."""
        config = self.config
        assert isinstance(config, WindSettings)
        speed = signals.cyclic(elapsed, config.period, config.calm, config.gust)
        direction = signals.direction(elapsed, config.direction, config.turn)
        return {"speed": round(speed, DIGITS), "direction": round(direction, DIGITS)}
