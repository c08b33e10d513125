"""Media devices: cameras and TVs. What they do is written where one is attached, in a subclass."""

from __future__ import annotations

from typing import ClassVar

from raspy.common.devices.command import Command
from raspy.common.devices.device import BaseDevice


class MediaDevice(BaseDevice):
    """A media device."""

    oid: ClassVar[str] = "media"


class MediaCamera(MediaDevice):
    """A camera.

    ``photo`` is told the format, and gives an object: ``type`` (of the media, as ``image/png``), ``time`` (Unix, s),
    ``width`` and ``height`` in pixels, ``data`` (Base64). A camera with other formats declares it with those.
    """

    oid: ClassVar[str] = "media.camera"
    declared: ClassVar[tuple[Command, ...]] = (
        Command(name="photo", type="List", info="Take a photo", choices=("png",), writeonly=True),
        Command(name="taken", type="Real", unit="s", info="When the last photo was taken (Unix time)", readonly=True),
    )


class MediaTVVolume(MediaDevice):
    """The volume of a TV."""

    oid: ClassVar[str] = "media.tv-volume"
    declared: ClassVar[tuple[Command, ...]] = (
        Command(name="volume", type="Int", unit="%", info="Volume", minimum=0, maximum=100, datasource="GAUGE"),
        Command(name="mute", type="Bool", info="Mute"),
    )


class MediaTVChannel(MediaDevice):
    """The channel selector of a TV."""

    oid: ClassVar[str] = "media.tv-channel"
    declared: ClassVar[tuple[Command, ...]] = (
        Command(name="channel", type="Int", info="Channel", minimum=1, maximum=9999),
        Command(name="step", type="List", info="Next or previous channel", choices=("+", "-"), writeonly=True),
    )


class MediaTVSource(MediaDevice):
    """The input that a TV shows. A TV with other inputs declares ``source`` with those."""

    oid: ClassVar[str] = "media.tv-source"
    declared: ClassVar[tuple[Command, ...]] = (Command(name="source", type="List", info="Source", choices=("tv",)),)


class MediaTV(MediaDevice):
    """A TV: power, and its volume, channel and source as subdevices."""

    oid: ClassVar[str] = "media.tv"
    declared: ClassVar[tuple[Command, ...]] = (Command(name="power", type="Bool", info="Power", datasource="GAUGE"),)
    parts: ClassVar[dict[str, type[BaseDevice]]] = {
        "volume": MediaTVVolume,
        "channel": MediaTVChannel,
        "source": MediaTVSource,
    }
