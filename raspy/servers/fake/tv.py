"""A simulated TV, which can be switched on, and does nothing before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from raspy.common.devices.command import Command
from raspy.common.devices.device import BaseDevice
from raspy.common.devices.media import MediaTV, MediaTVChannel, MediaTVSource, MediaTVVolume
from raspy.common.devices.output import Refused

CHANNELS = 99
SOURCES = ("antenna", "hdmi1", "hdmi2", "usb")
VOLUME = 20
"""%, at the start."""


class Part(BaseDevice):
    """What the TV and its parts have in common: states that are set, and kept while it is off."""

    start: ClassVar[dict[str, Any]] = {}
    """The values at the start, by command."""

    def __init__(self, json: str | bytes | Mapping[str, Any] | None = None) -> None:
        super().__init__(json)
        self.update(self.start)

    def set(self, command: str, value: Any) -> Any:
        """Put a command into a state, or (None) only give it back.

        :raises Refused: it is to be changed, and the TV is off
        """
        if value is not None:
            if self.parent is not None and not self.parent.commands["power"].value:
                raise Refused(f"{command} of {self.path} cannot be changed: the TV is off")
            self.update({command: value})
        return self.commands[command].reading

    def cmd_reset(self, value: Any = None) -> bool:
        """Be as at the start, all parts too."""
        for part in self.walk():
            if isinstance(part, Part):
                BaseDevice.cmd_reset(part)
                part.update(part.start)
        return True


class FakeTVVolume(Part, MediaTVVolume):
    """The volume of a simulated TV."""

    start: ClassVar[dict[str, Any]] = {"volume": VOLUME, "mute": False}

    def cmd_volume(self, value: Any = None) -> Any:
        """Get or set the volume, in %."""
        return self.set("volume", value)

    def cmd_mute(self, value: Any = None) -> Any:
        """Get or set whether it is silent; the volume stays what it is."""
        return self.set("mute", value)


class FakeTVChannel(Part, MediaTVChannel):
    """The channel selector of a simulated TV, which has 99 of them."""

    declared: ClassVar[tuple[Command, ...]] = (
        Command(name="channel", type="Int", info="Channel", minimum=1, maximum=CHANNELS),
    )
    start: ClassVar[dict[str, Any]] = {"channel": 1}

    def cmd_channel(self, value: Any = None) -> Any:
        """Get or set the channel."""
        return self.set("channel", value)

    def cmd_step(self, value: Any = None) -> Any:
        """Go to the next channel, or to the previous one; after the last comes the first."""
        step = 1 if value == "+" else -1
        return self.set("channel", (self.commands["channel"].value - 1 + step) % CHANNELS + 1)


class FakeTVSource(Part, MediaTVSource):
    """The inputs of a simulated TV."""

    declared: ClassVar[tuple[Command, ...]] = (Command(name="source", type="List", info="Source", choices=SOURCES),)
    start: ClassVar[dict[str, Any]] = {"source": SOURCES[0]}

    def cmd_source(self, value: Any = None) -> Any:
        """Get or set what it shows."""
        return self.set("source", value)


class FakeTV(Part, MediaTV):
    """A simulated TV: off at the start."""

    parts: ClassVar[dict[str, type[BaseDevice]]] = {
        "volume": FakeTVVolume,
        "channel": FakeTVChannel,
        "source": FakeTVSource,
    }
    start: ClassVar[dict[str, Any]] = {"power": False}

    def cmd_power(self, value: Any = None) -> Any:
        """Get or set whether it is on."""
        return self.set("power", value)
