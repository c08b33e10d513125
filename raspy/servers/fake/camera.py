"""A simulated camera: its photos show a tank, and the time."""

from __future__ import annotations

import time
from binascii import b2a_base64
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from raspy.common.devices.device import DeviceSettings
from raspy.common.devices.media import MediaCamera
from raspy.servers.fake.png import Picture

WIDTH, HEIGHT = 320, 240
"""Pixels of a photo."""
WALL, WATER, GRAVEL, DARK, LIGHT = range(5)
PALETTE = ((206, 212, 218), (44, 110, 160), (150, 120, 84), (16, 24, 32), (255, 255, 255))
SURFACE, GROUND, BAR = 40, 190, 216
"""The rows in which water, gravel and the bar with the time begin."""
SCALE = 2
TIME = "%Y-%m-%d %H:%M:%S"


def draw(text: str) -> bytes:
    """The PNG file of a photo that bears a text of digits, dashes, colons and spaces, at most 26 of them."""
    picture = Picture(WIDTH, HEIGHT, PALETTE)
    picture.fill(0, SURFACE, WIDTH, HEIGHT - SURFACE, WATER)
    picture.fill(0, GROUND, WIDTH, HEIGHT - GROUND, GRAVEL)
    picture.fill(0, BAR, WIDTH, HEIGHT - BAR, DARK)
    picture.text(6, BAR + 5, text, LIGHT, SCALE)
    return picture.png()


class CameraSettings(DeviceSettings, kw_only=True, forbid_unknown_fields=True):
    """The settings of a simulated camera."""

    poll: Annotated[
        float,
        Meta(
            ge=-1,
            le=86400,
            title="Poll",
            description="Seconds after which it is said again when the last photo was taken; 0: not.",
            extra={"unit": "s"},
        ),
    ] = 20.0


class FakeCamera(MediaCamera):
    """A simulated camera, whose photos bear the time."""

    oid: ClassVar[str] = "media.camera"
    Settings: ClassVar[type[DeviceSettings]] = CameraSettings

    def __init__(self, json: str | bytes | Mapping[str, Any] | None = None) -> None:
        self.last: float | None = None
        """When the last photo was taken (Unix time, s); None: none was."""
        super().__init__(json)

    def do_poll(self) -> dict[str, Any]:
        """When the last photo was taken."""
        return {} if self.last is None else {"taken": self.last}

    def cmd_photo(self, value: Any = None) -> dict[str, Any]:
        """Take a photo: ``type``, ``time`` (Unix, s), ``width`` and ``height`` in pixels, and ``data`` in base64."""
        self.last = round(time.time(), 3)
        data = draw(time.strftime(TIME, time.localtime(self.last)))
        self.update({"taken": self.last})
        return {
            "type": "image/png",
            "time": self.last,
            "width": WIDTH,
            "height": HEIGHT,
            "data": b2a_base64(data, newline=False).decode(),
        }

    def cmd_reset(self, value: Any = None) -> bool:
        """Forget when the last photo was taken."""
        self.last = None
        return super().cmd_reset(value)
