"""The server of the pins."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from raspy.common.config import Config, Section
from raspy.common.devices.device import BaseDevice
from raspy.common.devices.errors import FieldErrors
from raspy.common.devices.host import DeviceServer
from raspy.common.MDP import logger
from raspy.common.verbs import Verbs
from raspy.servers.gpio import notes, safety
from raspy.servers.gpio.inputs import GpioInput
from raspy.servers.gpio.lines import Lines
from raspy.servers.gpio.outputs import GpioOutput
from raspy.servers.gpio.settings import KINDS, TYPES, GpioConfig


class Gpio(DeviceServer):
    """The server of the pins.

    :param settings: the section ``[gpio]``
    :param path: the file in which it is noted what is driven; None: there is none
    """

    CONFIG: ClassVar[type[Section]] = GpioConfig
    makes: ClassVar[frozenset[str]] = frozenset(KINDS)

    def __init__(
        self,
        hostname: str = "localhost",
        service: str = "gpio",
        broker_ip: str = "127.0.0.1",
        broker_port: int = 5514,
        settings: GpioConfig | None = None,
        path: str | None = None,
    ) -> None:
        super().__init__(hostname, service, broker_ip, broker_port)
        self.settings = settings or GpioConfig()
        self.fixed = frozenset(self.settings.devices)  # type: ignore[misc]
        head = notes.Content(notes.FORMAT, {}, self.settings.mock_place, self.settings.pwm_dir)
        self.lines = Lines(
            self,
            self.settings.chips(),
            notes.Notes(self, path, head),
            self.settings.chip,
            self.settings.pwm_place,
        )
        for device_type in TYPES:
            self.types.register(device_type)

    @classmethod
    def _configured(cls, bus: dict[str, Any], settings: Any) -> Self:
        return cls(**bus, settings=settings, path=notes.place("gpio"))

    @classmethod
    def make_safe(cls, config: Config) -> str:
        """Put the outputs into their safe state, with no server running; return what they are and where.

        :raises raspy.common.config.NothingDriven: there is nothing that was ever driven
        :raises OSError: some could not be made safe
        """
        return safety.make_safe(config)

    def start(self) -> None:
        """Open the channels, and take the lines of all devices, the outputs' in their safe state."""
        super().start()
        for name, fields in self.settings.devices.items():
            self.add_device(self.types.new({**fields, "name": name}))
        self.lines.settle()

    def stop(self) -> None:
        """Put the outputs into their safe state, give all lines back, and leave the bus."""
        super().stop()
        self.lines.close()
        for device in self.devices.values():
            if isinstance(device, GpioOutput | GpioInput):
                device.close()

    def make_rest_safe(self) -> None:
        """Make safe what was driven before, whether there will be a device for it or not; what fails is tried until it
        does not."""
        self.lines.begin()

    def add_device(self, device: BaseDevice, kept: bool = True) -> None:
        """Own a device, which takes its line.

        :raises ValueError: the name is taken, there are too many, or a device that is new cannot have its line
        """
        if isinstance(device, GpioOutput | GpioInput):
            config = device.config
            problem = (
                ""
                if kept
                else self.lines.problem(
                    device.name, getattr(config, "line", "").strip(), getattr(config, "pwm", "").strip()
                )
            )
            if problem:
                raise FieldErrors({"line" if getattr(config, "line", "").strip() else "pwm": problem})
            device.lines = self.lines
        super().add_device(device, kept)
        self.publish_device(device)

    def remove_device(self, name: str) -> None:
        """Own a device no more; its line is given back."""
        device = self.devices[name]
        super().remove_device(name)
        if isinstance(device, GpioOutput | GpioInput):
            device.close()

    def _settle(self, device: BaseDevice) -> None:
        """Give a device the settings that are kept of it, and above those what the configuration says."""
        super()._settle(device)
        given = self._given(device.name)
        if given and isinstance(device, GpioOutput | GpioInput):
            try:
                device.configure(given)
            except FieldErrors as error:
                self._unsettle(device, f"the settings that are kept do not go with the configuration: {error}")
                logger.error("%s: %s", device.name, device.unsettled)
                return
            device.given = given

    def _settings_found(self, name: str, settings: dict[str, Any]) -> dict[str, Any] | None:
        return super()._settings_found(name, settings | self._given(name))

    def _given(self, name: str) -> dict[str, Any]:
        return {key: value for key, value in self.settings.devices.get(name, {}).items() if key != "oid"}

    def worker_devices(self) -> Verbs:
        """Serve ``<hostname>.gpio.devices``."""
        return super().worker_devices()
