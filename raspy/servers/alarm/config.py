"""``[alarm]``: through which channels alarms are told, and who is told that this Pi lives."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from msgspec import Meta, field

from raspy.common.config import ConfigError, Section
from raspy.servers.alarm.channels import ChannelSettings, check_url, read_channel
from raspy.servers.alarm.secrets import ELSEWHERE


class AlarmConfig(Section, frozen=True):
    """``[alarm]``: how alarms are told."""

    SECTION: ClassVar[str] = "alarm"

    channels: Annotated[
        dict[str, dict[str, Any]],
        Meta(description="Where messages go: a table [alarm.channels.NAME] for each channel."),
    ] = field(default_factory=dict)
    link: Annotated[
        str,
        Meta(max_length=500, description="Address of the page, for messages; empty: http://<host name>.local/."),
    ] = ""
    well_at: Annotated[
        str,
        Meta(
            pattern=r"^(([01][0-9]|2[0-3]):[0-5][0-9])?$",
            description='Local time of the daily "all is well"; empty: none.',
            extra={"form": 'a time of day, as "08:00"'},
        ),
    ] = ""
    ping_url: Annotated[
        str,
        Meta(
            description="Address that is fetched regularly while all is well, so that somebody outside misses a dead "
            'Pi; "@secret": it is the secret ping; empty: none.'
        ),
    ] = ""
    ping_every: Annotated[
        float, Meta(ge=60, le=86400, description="Time from one such call to the next.", extra={"unit": "s"})
    ] = 300.0

    def check(self) -> None:
        """Refuse channels that cannot be, and addresses that are none."""
        self.read_channels()
        if self.link:
            if self.link == ELSEWHERE:
                raise ConfigError("link: cannot be given as a secret, as it is in every message")
            check_url("link", self.link)
        if self.ping_url:
            check_url("ping_url", self.ping_url)

    def read_channels(self) -> dict[str, ChannelSettings]:
        """The settings of the channels, by name.

        :raises raspy.common.config.ConfigError: the first mistake
        """
        return {name: read_channel(name, table) for name, table in self.channels.items()}
