"""Switches: relays, sockets, valves; an output that is on or off."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from msgspec import Meta

from raspy.common.devices.command import Command
from raspy.common.devices.output import OutputDevice, OutputSettings
from raspy.common.devices.settings import DeviceSettings


class SwitchSettings(OutputSettings, kw_only=True, forbid_unknown_fields=True):
    """The settings of a switch."""

    safe: Annotated[bool, Meta(title="Safe state", description="On for what must not stand still, as an air pump.")] = (
        False
    )

    @property
    def safe_level(self) -> float:
        """The safe state, 0 (off) or 1 (on)."""
        return float(self.safe)


class Switch(OutputDevice):
    """A switch."""

    oid: ClassVar[str] = "switch"
    Settings: ClassVar[type[DeviceSettings]] = SwitchSettings
    declared: ClassVar[tuple[Command, ...]] = (Command(name="power", type="Bool", info="Power", datasource="GAUGE"),)

    def readings(self, level: float) -> dict[str, Any]:
        """Whether it is on."""
        return {"power": level > 0}

    def cmd_power(self, value: bool | None = None) -> Any:
        """Get whether it is on, or turn it on or off.

        :raises raspy.common.devices.errors.Refused: it must not leave its safe state now
        :raises raspy.common.devices.errors.DriveError: the hardware did not take it
        """
        if value is None:
            return self.reading("power")
        waits = self.tell(float(value))
        return {"value": value, "waits": waits} if waits else value
