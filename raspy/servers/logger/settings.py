"""``[logger]``: how often the history is written, and how long it is kept."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from raspy.common.config import ConfigError, Section

DAYS = 36_500


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

    def check(self) -> None:
        """Refuse a finer level that is kept for longer than a coarser one."""
        for shorter, longer in (("raw_days", "five_minute_days"), ("five_minute_days", "hour_days")):
            if getattr(self, shorter) > getattr(self, longer):
                raise ConfigError(
                    f"{longer}: must be at least {shorter}, which is {getattr(self, shorter)} "
                    f"(got {getattr(self, longer)})"
                )
