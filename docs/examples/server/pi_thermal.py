"""A server that publishes how warm the CPU is."""

from pathlib import Path
from typing import Annotated

from raspy.common.config import Meta, Section
from raspy.common.devices.value import Value
from raspy.common.server import Server
from raspy.common.verbs import Verbs

CPU = Verbs("cpu")


@CPU.verb()
def read(server):
    """Read it now, and not when its time has come."""
    server.in_pool(Path(server.settings.file).read_text, done=server.show)
    return "reading"


class ThermalConfig(Section, frozen=True):
    SECTION = "thermal"
    every: Annotated[float, Meta(ge=0.1, le=600, description="Between readings.", extra={"unit": "s"})] = 10.0
    file: Annotated[str, Meta(description="Where the kernel tells it.")] = "/sys/class/thermal/thermal_zone0/temp"


class Thermal(Server):
    CONFIG = ThermalConfig

    def start(self):
        super().start()
        self.call_every(self.settings.every, read, self)
        read(self)

    def show(self, text, error):
        value = Value.error(str(error)) if error else Value.ok(int(text) / 1e3, "°C", 3 * self.settings.every, log=True)
        self.publish(f"/device/{self.name}.cpu/temperature", value.encode())

    def worker_cpu(self):
        return CPU
