"""A pH probe whose electronics write what they measure into a file."""

from typing import Annotated

from msgspec import Meta

from raspy.common.devices.device import Command, ReadingError
from raspy.common.devices.sensor import SensorDevice, SensorSettings


class PhSettings(SensorSettings):
    file: Annotated[str, Meta(title="File", description="Where the pH stands.")] = "/run/ph"
    offset: Annotated[float, Meta(ge=-2, le=2, title="Offset", extra={"unit": "pH"})] = 0.0


class SensorPh(SensorDevice):
    """A pH probe."""

    oid = "sensor.ph"
    Settings = PhSettings
    slow = True  # do_poll is called on a thread, and must not change the device
    declared = (Command(name="ph", type="Real", info="pH", minimum=0, maximum=14, readonly=True, datasource="GAUGE"),)

    def do_poll(self):
        try:
            with open(self.config.file, encoding="ascii") as file:
                return {"ph": float(file.read(16)) + self.config.offset}
        except (OSError, ValueError) as error:
            raise ReadingError("io", f"the pH cannot be read: {error}") from error
