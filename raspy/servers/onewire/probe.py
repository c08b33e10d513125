"""A 1-Wire probe: what its owner may set, how a reading becomes its value, and what went wrong how often."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from raspy.common.devices.device import DeviceSettings
from raspy.common.devices.errors import ReadingError
from raspy.common.devices.sensor import SensorSettings, SensorTemperature
from raspy.servers.onewire import reader, sysfs

FAR = 10.0
"""Degrees that a calibration may move a point: a probe that is wrong by more is broken."""
APART = 5.0
"""Degrees that the two points must be apart: closer ones tell nothing of the slope."""
SLOPES = 0.8, 1.25
POINTS = ("measured_low", "true_low", "measured_high", "true_high")
KINDS = ("good", "retried", "crc", "power-on", "timeout", "gone")
"""Counts that are there from the start; a further kind comes with the first reading of it."""
TRY_AGAIN = 3600.0
"""Seconds after which a resolution that could not be set is tried again."""


def _meta(title: str, description: str, beyond: float = 0.0) -> Meta:
    low, high = reader.LOWEST - beyond, reader.HIGHEST + beyond
    return Meta(ge=low, le=high, title=title, description=description, extra={"unit": "°C"})


class ProbeSettings(SensorSettings, kw_only=True, forbid_unknown_fields=True):
    """The settings of a probe; its name is its id.

    What it says is calibrated by a straight line through two points, when these are given, and then by the offset.
    """

    offset: Annotated[
        float,
        Meta(ge=-FAR, le=FAR, title="Offset", description="Added to what the probe says.", extra={"unit": "°C"}),
    ] = 0.0
    measured_low: Annotated[float, _meta("Lower point, measured", "What the probe said there.")] | None = None
    true_low: Annotated[float, _meta("Lower point, true", "What it should have said.", FAR)] | None = None
    measured_high: Annotated[float, _meta("Upper point, measured", "What the probe said there.")] | None = None
    true_high: Annotated[float, _meta("Upper point, true", "What it should have said.", FAR)] | None = None
    resolution: Annotated[
        int,
        Meta(
            ge=0,
            le=12,
            title="Resolution",
            description="9 to 12: from 1/2 to 1/16 °C, in 94 to 750 ms. 0: leave the chip as it is.",
            extra={"unit": "bits"},
        ),
    ] = 0

    def check(self) -> dict[str, str]:
        """The name must be that of a thermometer, the resolution one that there is, the two points a calibration."""
        errors = super().check()
        if self.name and not reader.is_probe(self.name):
            errors["name"] = "must be the id of a thermometer, as 28-031655c9d5ff"
        if 0 < self.resolution < 9:
            errors["resolution"] = f"must be 9 to 12, or 0 to leave it (got {self.resolution})"
        elif self.resolution and self.name.startswith("10-"):
            errors["resolution"] = "must be 0: a DS18S20 has one resolution only"
        points = [getattr(self, name) for name in POINTS]
        if any(point is not None for point in points):
            errors.update(_check_points(points))
        return errors

    def calibrated(self, degrees: float) -> float:
        """The true temperature for what the probe says, both in °C."""
        if self.measured_low is not None and self.true_low is not None:
            assert self.measured_high is not None
            assert self.true_high is not None
            slope = (self.true_high - self.true_low) / (self.measured_high - self.measured_low)
            degrees = self.true_low + (degrees - self.measured_low) * slope
        return round(degrees + self.offset, 4)


def _check_points(points: list[float | None]) -> dict[str, str]:
    """What is wrong with two points, by field."""
    errors = {
        name: "is missing: a calibration needs both points, or none"
        for name, point in zip(POINTS, points, strict=True)
        if point is None
    }
    if errors:
        return errors
    measured_low, true_low, measured_high, true_high = (point or 0.0 for point in points)
    if measured_high - measured_low < APART:
        return {"measured_high": f"must be at least {APART:g} °C above the lower point ({measured_low:g} °C)"}
    for name, true, measured in (("true_low", true_low, measured_low), ("true_high", true_high, measured_high)):
        if abs(true - measured) > FAR:
            errors[name] = f"is more than {FAR:g} °C off what was measured ({measured:g} °C): the probe is broken"
    slope = (true_high - true_low) / (measured_high - measured_low)
    if not errors and not SLOPES[0] <= slope <= SLOPES[1]:
        limits = f"{SLOPES[0]:g} to {SLOPES[1]:g}"
        errors["true_high"] = f"makes a degree of the probe {slope:.2f} °C, not {limits}: one of the points is wrong"
    return errors


class Probe(SensorTemperature):
    """A 1-Wire temperature probe."""

    Settings: ClassVar[type[DeviceSettings]] = ProbeSettings
    config: ProbeSettings
    slow: ClassVar[bool] = True

    def __init__(self, json: str | bytes | Mapping[str, Any] | None = None) -> None:
        super().__init__(json)
        self.slave = sysfs.Slave("")
        """Where it is."""
        self.counts: dict[str, int] = dict.fromkeys(KINDS, 0)
        """Readings by kind: good, or the kind of error; ``retried`` are good ones whose first attempt was not."""
        self.gone = False
        """Its directory is not there."""
        self.known = False
        """A call of it has come back since the start."""
        self.silent = False
        """The last one has not, or none was made as others hang."""
        self.proven = False
        """It has read well since the start, so it is none that noise on the line has conjured up."""
        self.pending = False
        """The chip holds the result of the bus's last bulk conversion, which has not been fetched."""
        self.result: sysfs.Result = ""
        """What the reading that is made now has to think of such a result."""
        self.how = ""
        """How its bus has it read: in bulk, or why not."""
        self.last: reader.Reading | None = None
        """The last good reading, as the chip has it."""
        self.last_at = -math.inf
        """When that was (monotonic, s)."""
        self.genuine = False
        """Its byte 6 was last that of a genuine chip."""
        self.problem = ""
        """Why it does not have the resolution that is wanted."""
        self._tried = (0, -math.inf)

    @property
    def family(self) -> int:
        """The family code, the first two digits of the id."""
        return int(self.name[:2], 16)

    @property
    def file(self) -> str:
        """The path of its ``w1_slave``."""
        return f"{self.slave.directory}/w1_slave"

    @property
    def fresh(self) -> bool:
        """The last good reading is recent enough to speak of the temperature now."""
        return time.monotonic() - self.last_at < self.max_age

    def do_poll(self) -> dict[str, Any]:
        """Read the probe; on a pool thread."""
        before = self.last.degrees if self.last is not None and self.fresh else None
        wanted = self.config.resolution
        tried, when = self._tried
        if tried == wanted and time.monotonic() - when < TRY_AGAIN:
            wanted = 0
        found = sysfs.measure(self.slave.directory, self.family, before, wanted, self.result, self.genuine)
        return {"temperature": found.degrees, "found": found}

    def update(self, readings: Mapping[str, Any] | BaseException) -> list[Any]:
        """Take a reading, count it, calibrate it, and keep a good one to judge the next by."""
        if isinstance(readings, BaseException):
            self._count(readings.kind if isinstance(readings, ReadingError) else "internal")
            return super().update(readings)
        found: reader.Reading = readings["found"]
        self._count("good")
        self.proven = True
        if found.genuine is not None:
            self.genuine = found.genuine
        if found.retried:
            self._count("retried")
        self.last, self.last_at = found, time.monotonic()
        if found.problem:
            self.problem, self._tried = found.problem, (self.config.resolution, self.last_at)
        elif self.config.resolution in (0, found.bits):
            self.problem = ""
        return super().update({"temperature": self.config.calibrated(found.degrees)})

    def cmd_reset(self, value: Any = None) -> bool:
        """Forget the readings and the counts, and try anew what could not be done."""
        self.last, self.last_at = None, -math.inf
        self.genuine = False
        self.problem, self._tried = "", (0, -math.inf)
        self.counts = dict.fromkeys(KINDS, 0)
        return super().cmd_reset(value)

    def details(self) -> dict[str, Any]:
        """Chip, file and master, the reading as the chip has it, how it is read, and how often that went wrong."""
        found: dict[str, Any] = {
            "chip": reader.FAMILIES.get(self.family, "unknown"),
            "file": self.file,
            "master": self.slave.master,
            "bulk": self.how,
            "counts": self.counts,
        }
        if self.last is not None:
            found["raw"] = self.last.degrees
            if self.last.bits:
                found["resolution"] = self.last.bits
            if self.last.conversion:
                found["conversion"] = self.last.conversion
            if self.last.plain:
                found["checks"] = "w1_slave cannot be read: only the number of temperature is checked, not the bytes"
        if self.problem:
            found["problem"] = self.problem
        return found

    def _count(self, kind: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1
