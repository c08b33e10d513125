"""``[core]``: where the place is at which things happen at the right time."""

from __future__ import annotations

import os
from typing import Annotated, ClassVar
from zoneinfo import ZoneInfo

from msgspec import Meta

from raspy.common.config import BusConfig, ConfigError, Section, shown

LOCALTIME = "/etc/localtime"
"""The machine's time zone, a file of the tz database (localtime(5))."""


class CoreConfig(Section, frozen=True):
    """``[core]``: cron jobs, sun events and scenarios."""

    SECTION: ClassVar[str] = "core"

    timezone: Annotated[
        str,
        Meta(max_length=100, description="Time zone of cron jobs, as Europe/Paris; empty: the machine's."),
    ] = ""
    latitude: Annotated[
        Annotated[float, Meta(ge=-90, le=90)] | None,
        Meta(
            description="Where the sun rises and sets: degrees north, south negative; sun events need it.",
            extra={"form": "a number from -90 to 90 (degrees)"},
        ),
    ] = None
    longitude: Annotated[
        Annotated[float, Meta(ge=-180, le=180)] | None,
        Meta(
            description="And degrees east, west negative.",
            extra={"form": "a number from -180 to 180 (degrees)"},
        ),
    ] = None

    def check(self) -> None:
        if (self.latitude is None) != (self.longitude is None):
            missing = "latitude" if self.latitude is None else "longitude"
            raise ConfigError(f"{missing}: must be given too; sun events need latitude and longitude")

    def check_here(self, bus: BusConfig) -> None:
        self.zone()

    def zone(self) -> ZoneInfo:
        """The time zone.

        :raises ConfigError: it is not one, or this machine does not know it
        """
        try:
            if self.timezone:
                return ZoneInfo(self.timezone)
            return machine_zone()
        except (OSError, ValueError, LookupError) as error:
            raise ConfigError(
                f"timezone: must be a time zone that this machine knows, as Europe/Paris (got {shown(self.timezone)}): "
                f"{error}; the zones are in Debian's package tzdata"
            ) from error


def machine_zone() -> ZoneInfo:
    """The machine's own time zone, under its name where that can be told; UTC where none was set (localtime(5)).

    :raises ValueError: the file is no time zone
    """
    target = os.path.realpath(LOCALTIME)
    _, found, name = target.partition("/zoneinfo/")
    if found:
        try:
            return ZoneInfo(name.removeprefix("posix/").removeprefix("right/"))
        except (OSError, ValueError, LookupError):
            pass
    try:
        with open(LOCALTIME, "rb") as file:
            return ZoneInfo.from_file(file, key="localtime")
    except FileNotFoundError:
        return utc()


def utc() -> ZoneInfo:
    """UTC, with no need of a tz database."""
    import io

    # A file of the tz database without transitions: RFC 8536, section 3; version 1, one type, "UTC".
    head = b"TZif" + b"\0" * 16 + b"".join(n.to_bytes(4, "big") for n in (0, 0, 0, 0, 1, 4))
    return ZoneInfo.from_file(io.BytesIO(head + b"\0" * 6 + b"UTC\0"), key="UTC")
