"""A simulated contact, which is closed and opened by a command."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from raspy.common.devices.command import Command
from raspy.common.devices.sensor import SensorContact, SensorSettings
from raspy.common.devices.settings import DeviceSettings


class FakeContactSettings(SensorSettings, kw_only=True, forbid_unknown_fields=True):
    """The settings of a simulated contact."""

    poll: Annotated[
        float, Meta(ge=0.1, le=3600, title="Poll", description="Seconds between readings.", extra={"unit": "s"})
    ] = 2.0


class FakeContact(SensorContact):
    """A simulated contact, as a float or leak switch: opened and closed by the command ``contact``."""

    Settings: ClassVar[type[DeviceSettings]] = FakeContactSettings
    declared: ClassVar[tuple[Command, ...]] = (
        Command(name="contact", type="Bool", info="Whether it is closed", datasource="GAUGE"),
    )

    def __init__(self, json: str | bytes | Mapping[str, Any] | None = None) -> None:
        self.closed = False
        super().__init__(json)

    def do_poll(self) -> dict[str, bool]:
        """How it was left."""
        return {"contact": self.closed}

    def cmd_contact(self, value: bool | None = None) -> Any:
        """Get whether it is closed, or close or open it."""
        if value is not None:
            self.closed = value
            self.update(self.do_poll())
        return self.closed

    def cmd_reset(self, value: Any = None) -> bool:
        """Forget the readings, and open it."""
        self.closed = False
        return super().cmd_reset(value)
