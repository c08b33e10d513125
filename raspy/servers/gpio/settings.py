"""The section ``[gpio]``, and the devices that are declared in it."""

from __future__ import annotations

import os
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from raspy.common.config import BusConfig, ConfigError, Section, shown
from raspy.common.devices.device import BaseDevice
from raspy.common.devices.errors import FieldErrors
from raspy.servers.gpio import pwm
from raspy.servers.gpio.chips import Chips
from raspy.servers.gpio.inputs import Contact, Counter
from raspy.servers.gpio.kernel import KernelChips
from raspy.servers.gpio.outputs import GpioDimmer, GpioSwitch

TYPES: tuple[type[BaseDevice], ...] = (GpioSwitch, GpioDimmer, Contact, Counter)
KINDS = {device_type.oid: device_type for device_type in TYPES}


class GpioConfig(Section, frozen=True):
    """``[gpio]``: the pins of this Pi."""

    SECTION: ClassVar[str] = "gpio"

    chip: Annotated[
        str,
        Meta(
            description="Chip of the lines that are named without one: its label, or as gpiochip0; empty: any that has "
            "such a line."
        ),
    ] = ""
    mock: Annotated[
        str, Meta(description="Directory of mock chips, in place of the kernel's; empty: none, the lines are real.")
    ] = ""
    pwm_dir: Annotated[str, Meta(min_length=1, description="Directory in which the kernel shows PWM chips.")] = (
        pwm.DIRECTORY
    )
    devices: Annotated[
        dict[str, dict[str, Any]],
        Meta(description="The devices by name, each with its kind, oid, and its settings."),
    ] = {}  # noqa: RUF012  msgspec copies it

    def check(self) -> None:
        lines: dict[str, str] = {}
        for name, fields in self.devices.items():
            place = f"devices.{name}"
            kind = KINDS.get(fields.get("oid"))  # type: ignore[arg-type]
            if kind is None:
                got = f" (got {shown(fields['oid'])})" if "oid" in fields else ""
                raise ConfigError(f"{place}{'.oid' if got else ''}: oid must be one of {', '.join(KINDS)}{got}")
            if "name" in fields:
                raise ConfigError(f"{place}.name: its name is {name}: leave this out")
            try:
                device = kind.new({**fields, "name": name})
            except FieldErrors as error:
                field, problem = next(iter(error.fields.items()))
                where = f"{place}.{field}" if field in fields else place
                raise ConfigError(f"{where}: {problem if field in fields else f'{field} {problem}'}") from error
            for key in ("line", "pwm"):
                wanted = getattr(device.config, key, "").strip()
                if wanted and lines.setdefault(wanted, name) != name:
                    raise ConfigError(f"{place}.{key}: {wanted} is the {key} of {lines[wanted]} already")

    def check_here(self, bus: BusConfig) -> None:
        if not self.mock:
            return
        # The server makes it, not who only looks, and may be root.
        place = self.mock_place
        while not os.path.lexists(place):
            place = os.path.dirname(place)
        problem = "is no directory" if not os.path.isdir(place) else "nothing can be written there"
        if not os.path.isdir(place) or not os.access(place, os.W_OK | os.X_OK):
            raise ConfigError(f"mock: {self.mock} cannot be used: {place}: {problem}")

    def chips(self) -> Chips:
        """The chips that there are.

        :raises OSError: the directory of mock chips cannot be made
        """
        if self.mock:
            from raspy.servers.gpio.mockchips import MockChips

            return MockChips(self.mock_place)
        return KernelChips()

    @property
    def mock_place(self) -> str:
        """The directory of mock chips, wherever the process is; empty: there is none."""
        return os.path.abspath(self.mock) if self.mock else ""

    @property
    def pwm_place(self) -> str:
        """Where PWM chips are found: those of a mock are with it."""
        return os.path.join(self.mock_place, "pwm") if self.mock and self.pwm_dir == pwm.DIRECTORY else self.pwm_dir
