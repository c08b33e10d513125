"""The server of simulated devices."""

from __future__ import annotations

import os
from functools import partial
from typing import Annotated, Any, ClassVar, Self

from msgspec import Meta

from raspy.common.config import Config, NothingDriven, Section
from raspy.common.devices.device import BaseDevice
from raspy.common.devices.host import DeviceServer
from raspy.common.devices.output import RETRY
from raspy.common.verbs import Verbs
from raspy.servers.fake import tank
from raspy.servers.fake.camera import FakeCamera
from raspy.servers.fake.contact import FakeContact
from raspy.servers.fake.outputs import FakeDimmer, FakeOutput, FakeSwitch
from raspy.servers.fake.pins import Pins
from raspy.servers.fake.sensors import FakeWind, SensorCyclic, SensorLinear
from raspy.servers.fake.tank import SensorTank
from raspy.servers.fake.tv import FakeTV

TYPES: tuple[type[BaseDevice], ...] = (
    SensorCyclic,
    SensorLinear,
    SensorTank,
    FakeWind,
    FakeSwitch,
    FakeDimmer,
    FakeContact,
    FakeCamera,
    FakeTV,
)


class FakeConfig(Section, frozen=True):
    """``[fake]``: the simulated tank."""

    SECTION: ClassVar[str] = "fake"

    poll: Annotated[float, Meta(ge=0.1, le=3600, description="Seconds between readings.", extra={"unit": "s"})] = 2.0
    speed: tank.Speed = 60.0
    temperature: tank.Temperature = 25.0
    level: tank.Level = 95.0
    level_rate: tank.LevelRate = -0.05
    volume: tank.Volume = 100.0
    power: tank.Power = 100.0
    loss: tank.Loss = 10.0
    room: tank.Room = 20.0
    flow: tank.Flow = 6.0


class Fake(DeviceServer):
    """The server of simulated devices.

    :param settings: the section ``[fake]``
    :param pins: what the outputs drive; None: nothing
    """

    CONFIG: ClassVar[type[Section]] = FakeConfig
    makes: ClassVar[frozenset[str]] = frozenset(device_type.oid for device_type in TYPES)

    defaults: ClassVar[tuple[dict[str, Any], ...]] = (
        {"oid": "switch", "name": "heater"},
        {"oid": "switch", "name": "pump"},
        {"oid": "dimmer", "name": "light"},
        {"oid": "sensor.tank", "name": "tank"},
        {"oid": "sensor.cyclic", "name": "outdoors", "unit": "°C", "minimum": 8, "maximum": 22, "period": 600},
        {
            "oid": "sensor.linear",
            "name": "filter",
            "label": "Filter clogging",
            "unit": "%",
            "start": 10,
            "rate": 30,
        },
        {"oid": "sensor.wind", "name": "wind"},
        {"oid": "media.camera", "name": "camera"},
        {"oid": "media.tv", "name": "tv"},
    )
    """The settings of the devices that come with the server; the tank's are in the section ``[fake]``, too."""
    fixed: ClassVar[frozenset[str]] = frozenset(fields["name"] for fields in defaults)

    def __init__(
        self,
        hostname: str = "localhost",
        service: str = "fake",
        broker_ip: str = "127.0.0.1",
        broker_port: int = 5514,
        settings: FakeConfig | None = None,
        pins: Pins | None = None,
    ) -> None:
        super().__init__(hostname, service, broker_ip, broker_port)
        self.settings = settings or FakeConfig()
        self.pins = pins
        self.duties: dict[str, float] = {}
        """How far the outputs are on, 0 to 1, by name."""
        for device_type in TYPES:
            self.types.register(device_type)

    @classmethod
    def _configured(cls, bus: dict[str, Any], settings: Any) -> Self:
        server = cls(**bus, settings=settings)
        server.pins = Pins(Pins.place(server.service))
        return server

    @classmethod
    def make_safe(cls, config: Config) -> str:
        """Put the outputs into their safe state, with no server running; return what they are and where.

        :raises raspy.common.config.NothingDriven: there is no directory of pins
        :raises OSError: some could not be made safe
        """
        pins = Pins(Pins.place("fake"))
        if not os.path.lexists(pins.directory):
            raise NothingDriven(
                f"there is no {pins.directory}: NOTHING was made safe. The pins are there once the server has run; "
                "RUNTIME_DIRECTORY, STATE_DIRECTORY and XDG_STATE_HOME must be as the server has them"
            )
        return f"safe in {pins.directory}: {', '.join(pins.make_safe()) or 'no pin'}"

    def start(self) -> None:
        """Open the channels; the simulation's time zero is now."""
        super().start()
        tank_fields = {key: getattr(self.settings, key) for key in self.settings.__struct_fields__}
        for fields in self.defaults:
            own = tank_fields if fields["oid"] == SensorTank.oid else {}
            if fields["oid"].startswith("sensor."):
                own = {"poll": self.settings.poll, **own}
            self.add_device(self.types.new({**fields, **own}))

    def add_device(self, device: BaseDevice, kept: bool = True) -> None:
        """Own a device; an output gets its pin, a tank feels the outputs.

        :raises ValueError: the name is taken, or there are too many
        """
        if isinstance(device, FakeOutput):
            device.pins = self.pins
            device.on_drive = partial(self._driven, device.name)
        elif isinstance(device, SensorTank):
            device.duties = self.duties
            device.turn()
        super().add_device(device, kept)
        for part in device.walk():
            self.publish_device(part)

    def make_rest_safe(self) -> None:
        """Make the pins safe that have no device, or none yet; what fails is tried until it does not."""
        try:
            if self.pins is not None:
                self.pins.make_safe()
        except OSError as error:
            self.condition("pins", str(error))
            self.call_later(RETRY, self.make_rest_safe)
        else:
            self.condition("pins", None)

    def remove_device(self, name: str) -> None:
        """Own a device no more; a tank does not feel an output that is gone."""
        super().remove_device(name)
        self._driven(name, 0.0)
        self.duties.pop(name, None)

    def _driven(self, name: str, duty: float) -> None:
        """An output is in another state: the tanks go on with it from now on."""
        if self.duties.get(name, 0.0) != duty:
            self.duties[name] = duty
            for device in self.devices.values():
                if isinstance(device, SensorTank):
                    device.turn()

    def worker_devices(self) -> Verbs:
        """Serve ``<hostname>.fake.devices``."""
        return super().worker_devices()
