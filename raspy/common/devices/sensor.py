"""Sensors: devices that are only read."""

from __future__ import annotations

from typing import ClassVar

from raspy.common.devices.command import Command
from raspy.common.devices.device import BaseDevice
from raspy.common.devices.settings import DeviceSettings, Log


class SensorSettings(DeviceSettings, kw_only=True, forbid_unknown_fields=True):
    """The settings of a sensor: a history of what it reads is kept unless its owner says otherwise."""

    log: Log = True


class SensorDevice(BaseDevice):
    """A sensor."""

    oid: ClassVar[str] = "sensor"
    Settings: ClassVar[type[DeviceSettings]] = SensorSettings


class SensorTemperature(SensorDevice):
    """A temperature sensor."""

    oid: ClassVar[str] = "sensor.temperature"
    declared: ClassVar[tuple[Command, ...]] = (
        Command(
            name="temperature",
            type="Real",
            unit="°C",
            info="Temperature",
            minimum=-273.15,
            readonly=True,
            datasource="GAUGE",
        ),
    )


class SensorContact(SensorDevice):
    """A contact: a float or leak switch, a door, a button."""

    oid: ClassVar[str] = "sensor.contact"
    declared: ClassVar[tuple[Command, ...]] = (
        Command(name="contact", type="Bool", info="Whether it is closed", readonly=True, datasource="GAUGE"),
    )


class SensorWind(SensorDevice):
    """A wind sensor: speed, and the direction that the wind comes from."""

    oid: ClassVar[str] = "sensor.wind"
    declared: ClassVar[tuple[Command, ...]] = (
        Command(name="speed", type="Real", unit="m/s", info="Speed", minimum=0, readonly=True, datasource="GAUGE"),
        Command(
            name="direction",
            type="Real",
            unit="°",
            info="Direction, clockwise from north",
            minimum=0,
            maximum=360,
            readonly=True,
            datasource="GAUGE",
        ),
    )


class SensorLevel(SensorDevice):
    """A level sensor: how full a tank is."""

    oid: ClassVar[str] = "sensor.level"
    declared: ClassVar[tuple[Command, ...]] = (
        Command(
            name="level",
            type="Real",
            unit="%",
            info="Level",
            minimum=0,
            maximum=100,
            readonly=True,
            datasource="GAUGE",
        ),
    )
