"""Dimmers: lights, fans and pumps whose strength can be set, by a duty cycle of 0 to 100 %."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from raspy.common.devices.command import Command
from raspy.common.devices.errors import BadValue
from raspy.common.devices.output import OutputDevice, OutputSettings
from raspy.common.devices.settings import DeviceSettings

STEP = 0.1
"""Seconds between the steps of a ramp, at least."""
STEPS = 1000
"""Steps of a ramp from 0 to 100 %, at most."""


class DimmerSettings(OutputSettings, kw_only=True, forbid_unknown_fields=True):
    """The settings of a dimmer."""

    safe: Annotated[
        float,
        Meta(
            ge=0,
            le=100,
            title="Safe state",
            description="Its level while nobody holds it.",
            extra={"unit": "%"},
        ),
    ] = 0.0
    lowest: Annotated[
        float,
        Meta(
            ge=0,
            le=100,
            title="Lowest level",
            description="Below this it is off: where a lamp flickers, or a pump does not turn.",
            extra={"unit": "%"},
        ),
    ] = 0.0
    highest: Annotated[
        float, Meta(gt=0, le=100, title="Highest level", description="It never gets more.", extra={"unit": "%"})
    ] = 100.0
    ramp: Annotated[
        float,
        Meta(
            ge=0,
            le=86_400,
            title="Ramp",
            description="Time from 0 to 100 %; 0: at once. The safe state is always reached at once.",
            extra={"unit": "s"},
        ),
    ] = 0.0

    @property
    def safe_level(self) -> float:
        """The safe state, 0 (off) to 1."""
        return self.safe / 100

    @property
    def on_level(self) -> float:
        """Its highest level."""
        return self.highest / 100

    def unfit(self, level: float) -> str:
        """It is off, or in its range."""
        fits = not level or self.lowest <= round(level * 100, 6) <= self.highest
        return "" if fits else f"{level * 100:g} % is not 0, or {self.lowest:g} to {self.highest:g} %"

    def check(self) -> dict[str, str]:
        """The range must be one, and the safe state off or in it."""
        errors = super().check()
        if self.lowest > self.highest:
            errors["lowest"] = f"{self.lowest:g} is above the highest level, {self.highest:g}"
        elif self.safe and not self.lowest <= self.safe <= self.highest:
            errors["safe"] = f"must be 0, or {self.lowest:g} to {self.highest:g} (got {self.safe:g})"
        return errors


class Dimmer(OutputDevice):
    """A dimmer."""

    oid: ClassVar[str] = "dimmer"
    Settings: ClassVar[type[DeviceSettings]] = DimmerSettings
    declared: ClassVar[tuple[Command, ...]] = (
        Command(name="level", type="Real", unit="%", info="Level", minimum=0, maximum=100, datasource="GAUGE"),
    )

    @property
    def dimming(self) -> DimmerSettings:
        """The settings as those of a dimmer."""
        config = self.config
        assert isinstance(config, DimmerSettings)
        return config

    def readings(self, level: float) -> dict[str, Any]:
        """How strong it is, in %."""
        return {"level": round(level * 100, 3)}

    def course(self, now: float) -> float:
        """On the ramp, evenly from the level that it had to the one that it was told; never between 0 and the
        lowest."""
        if now >= self._ramp_end():
            return self.target
        moved = math.copysign((now - self.aimed_at) / self.dimming.ramp, self.target - self.start_level)
        return max(self.start_level + moved, self.dimming.lowest / 100)

    def next_step(self, now: float) -> float:
        """When the ramp goes on (monotonic, s)."""
        end = self._ramp_end()
        return math.inf if now >= end else min(now + max(STEP, self.dimming.ramp / STEPS), end)

    def cmd_level(self, value: float | None = None) -> Any:
        """Get the level, or set it, in %.

        :raises BadValue: it is neither 0 nor in the range
        :raises raspy.common.devices.errors.Refused: it must not leave its safe state now
        :raises raspy.common.devices.errors.DriveError: the hardware did not take it
        """
        if value is None:
            return self.reading("level")
        low, high = self.dimming.lowest, self.dimming.highest
        if value and not low <= value <= high:
            raise BadValue(f"level: {value:g} is not 0, or {low:g} to {high:g}")
        waits = self.tell(abs(value) / 100)
        return {"value": value, "waits": waits} if waits else value

    def _ramp_end(self) -> float:
        return self.aimed_at + abs(self.target - self.start_level) * self.dimming.ramp
