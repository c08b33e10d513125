"""The clock as a device, so that page, logger, alarm and scenarios get it like any other value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from raspy.common.devices.command import Command
from raspy.common.devices.device import DeviceSettings
from raspy.common.devices.errors import ReadingError
from raspy.common.devices.sensor import SensorDevice, SensorSettings


class ClockSettings(SensorSettings, kw_only=True, forbid_unknown_fields=True):
    """The settings of the clock."""

    poll: Annotated[
        float,
        Meta(ge=0, le=86400, title="Poll", description="Seconds between publications.", extra={"unit": "s"}),
    ] = 60.0


class Clock(SensorDevice):
    """The system clock, and what the other clocks say of it."""

    oid: ClassVar[str] = "sensor.clock"
    Settings: ClassVar[type[DeviceSettings]] = ClockSettings
    declared: ClassVar[tuple[Command, ...]] = (
        Command(name="trusted", type="Bool", info="Whether the system clock is to be trusted", readonly=True),
        Command(name="source", type="Str", info="What it is trusted for: ntp, rtc, a daemon, or none", readonly=True),
        Command(name="keeper", type="Str", info="The daemon that keeps it, or none", readonly=True),
        Command(
            name="offset",
            type="Real",
            unit="s",
            info="How far the true time is ahead of it, by NTP",
            readonly=True,
            datasource="GAUGE",
        ),
        Command(name="stratum", type="Int", info="Stratum of the best NTP server", readonly=True),
        Command(
            name="rtc_offset",
            type="Real",
            unit="s",
            info="How far the RTC is ahead of it",
            readonly=True,
            datasource="GAUGE",
        ),
    )

    def __init__(self, json: str | bytes | Mapping[str, Any] | None = None) -> None:
        self.look: Callable[[], Mapping[str, Any]] = _nothing
        """What the server knows, by command."""
        self.facts: Callable[[], dict[str, Any]] = dict
        super().__init__(json)

    def do_poll(self) -> Mapping[str, Any]:
        """What is known now."""
        return self.look()

    def details(self) -> dict[str, Any]:
        """All that ``status`` of the service ``time`` says."""
        return self.facts()


def _nothing() -> Mapping[str, Any]:
    raise ReadingError("early", "not measured yet")
