"""``[logger]``: how often the history is written, and how long it is kept."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

from msgspec import Meta

from raspy.common.config import ConfigError, Section
from raspy.servers.logger.events import KINDS

DAYS = 36_500
KIND = re.compile("[a-z0-9_-]{1,63}")


class LoggerConfig(Section, frozen=True):
    """``[logger]``: the history."""

    SECTION: ClassVar[str] = "logger"

    batch: Annotated[
        float,
        Meta(
            ge=10,
            le=3600,
            description="Time between writes; what a power cut costs at most. Cards wear with each write.",
            extra={"unit": "s"},
        ),
    ] = 300.0
    raw_days: Annotated[int, Meta(ge=1, le=DAYS, description="Days for which every single reading is kept.")] = 90
    five_minute_days: Annotated[
        int, Meta(ge=1, le=DAYS, description="Days for which minimum, mean and maximum of each 5 minutes are kept.")
    ] = 730
    hour_days: Annotated[
        int, Meta(ge=1, le=DAYS, description="Days for which those of each hour, and of each day, are kept.")
    ] = 3650
    events: Annotated[
        tuple[str, ...],
        Meta(max_length=50, description="Kinds of events that are kept, as /event/<kind>/… has them; none: no events."),
    ] = KINDS
    event_count: Annotated[int, Meta(ge=100, le=1_000_000, description="Events that are kept at most.")] = 50_000
    event_days: Annotated[
        int, Meta(ge=1, le=DAYS, description="Days for which events are kept; those count on which anything happened.")
    ] = 730

    def check(self) -> None:
        """Refuse a finer level that is kept for longer than a coarser one, and what is no kind of events."""
        for kind in self.events:
            if not KIND.fullmatch(kind):
                raise ConfigError(f"events: {kind[:60]!r} is no kind of events: 1 to 63 of a-z, 0-9, _ and -")
        for shorter, longer in (("raw_days", "five_minute_days"), ("five_minute_days", "hour_days")):
            if getattr(self, shorter) > getattr(self, longer):
                raise ConfigError(
                    f"{longer}: must be at least {shorter}, which is {getattr(self, shorter)} "
                    f"(got {getattr(self, longer)})"
                )
