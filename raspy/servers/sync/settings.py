"""The section ``[sync]`` of the configuration."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from raspy.common.config import ConfigError, Section, shown
from raspy.common.hosts import HOST

CHIPS = ("ds3231", "ds1307", "pcf8523")
NTP_PORT = 123
SERVERS = 8
"""NTP servers that may be named."""

DEVICE = re.compile(r"/dev/rtc[0-9]")
DIRECT = re.compile(rf"i2c:([0-9]{{1,3}}):0x([0-7][0-9a-f]):({'|'.join(CHIPS)})")


class Direct(msgspec.Struct, frozen=True):
    """A chip that is spoken to without a driver."""

    bus: int
    address: int
    chip: str

    @property
    def name(self) -> str:
        """As the kernel names it: ``1-0068``."""
        return f"{self.bus}-{self.address:04x}"


class SyncConfig(Section, frozen=True):
    """``[sync]``: NTP, the RTC and the system clock."""

    SECTION: ClassVar[str] = "sync"

    servers: Annotated[
        list[str],
        Meta(
            max_length=SERVERS,
            description="NTP servers, as names or addresses, with :port where that is not 123; empty: none is asked. "
            "Four are a good number: with three and more, a wrong one is found out.",
            extra={"form": f'a list of at most {SERVERS} names, as ["ntp.example.org", "192.168.1.1"]'},
        ),
    ] = msgspec.field(default_factory=lambda: [f"{number}.debian.pool.ntp.org" for number in range(4)])
    interval: Annotated[
        float, Meta(ge=16, le=86400, description="Seconds between measurements.", extra={"unit": "s"})
    ] = 1024.0
    timeout: Annotated[
        float, Meta(ge=0.1, le=30, description="Seconds that an NTP server may take.", extra={"unit": "s"})
    ] = 5.0
    rtc: Annotated[
        str,
        Meta(
            description="The real-time clock: auto (what the kernel has, the best where there are several), none, "
            "a device as /dev/rtc0, or a chip without a driver as i2c:1:0x68:ds3231 (ds1307, pcf8523).",
        ),
    ] = "auto"
    step: Annotated[
        str,
        Meta(
            pattern="^(auto|never)$",
            description="auto: set the system clock and the RTC where that is right, on an installed Pi only; "
            "never: only measure and report.",
        ),
    ] = "auto"

    def check(self) -> None:
        found = {(host.lower().rstrip("."), port) for host, port in map(address, self.servers)}
        if len(found) < len(self.servers):
            raise ConfigError("servers: names a server twice, which would count twice when they are compared")
        if self.rtc not in ("auto", "none") and not DEVICE.fullmatch(self.rtc):
            direct(self.rtc)


def address(server: str) -> tuple[str, int]:
    """Host and port of an NTP server.

    :raises ConfigError: it is none
    """
    host, port = server, str(NTP_PORT)
    if server.startswith("["):
        host, bracket, rest = server[1:].partition("]")
        good = bool(bracket) and re.fullmatch(r"[0-9A-Fa-f:.]+(%\w+)?", host) is not None
        if rest.startswith(":"):
            port = rest[1:]
        else:
            good = good and not rest
    elif server.count(":") > 1:
        good = re.fullmatch(r"[0-9A-Fa-f:.]+(%\w+)?", server) is not None
    else:
        host, colon, given = server.partition(":")
        good = len(host) <= 253 and HOST.fullmatch(host) is not None
        port = given if colon else port
    if not good or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise ConfigError(
            f"servers: must be names or addresses, with :port where it is not {NTP_PORT}, as ntp.example.org, "
            f"192.168.1.1 or [fd00::1]:123 (got {shown(server)})"
        )
    return host, int(port)


def direct(text: str) -> Direct:
    """The chip that the key ``rtc`` names.

    :raises ConfigError: it names none
    """
    found = DIRECT.fullmatch(text)
    if found is None or not 0x08 <= int(found[2], 16) <= 0x77:
        raise ConfigError(
            "rtc: must be auto, none, a device as /dev/rtc0, or i2c:BUS:ADDRESS:CHIP as i2c:1:0x68:ds3231 with one of "
            f"{', '.join(CHIPS)} (got {shown(text)})"
        )
    return Direct(int(found[1]), int(found[2], 16), found[3])
