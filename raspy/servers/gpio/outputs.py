"""Relays and dimmers on lines, or on PWM channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from raspy.common.devices.device import DeviceSettings, Plan
from raspy.common.devices.dimmer import Dimmer, DimmerSettings
from raspy.common.devices.output import REMOVED, DriveError, OutputDevice, Refused
from raspy.common.devices.switch import Switch, SwitchSettings
from raspy.servers.gpio.chips import LineError, UnknownLine
from raspy.servers.gpio.drivers import Driver, Wiring
from raspy.servers.gpio.lines import Lines, checked

HARDWARE_PWM, SOFTWARE_PWM = 100_000.0, 100.0
"""Hz, at most."""

Line = Annotated[
    str,
    Meta(
        max_length=100,
        title="Line",
        description="As GPIO17; or chip and number, as pinctrl-rp1:17 or gpiochip0:17.",
    ),
]
ActiveLow = Annotated[
    bool, Meta(title="Active low", description="It is on while the line is low, as on most relay boards.")
]


class GpioSwitchSettings(SwitchSettings, kw_only=True, forbid_unknown_fields=True):
    """The settings of a relay."""

    line: Line = ""
    active_low: ActiveLow = False

    def check(self) -> dict[str, str]:
        """It needs a line."""
        errors = super().check()
        if not self.line.strip():
            errors["line"] = "is missing: the name of a line, as GPIO17"
        return errors


class GpioDimmerSettings(DimmerSettings, kw_only=True, forbid_unknown_fields=True):
    """The settings of a dimmer on a line."""

    line: Annotated[
        str,
        Meta(
            max_length=100,
            title="Line",
            description="For a software PWM: as GPIO17; or chip and number, as pinctrl-rp1:17 or gpiochip0:17.",
        ),
    ] = ""
    pwm: Annotated[
        str,
        Meta(
            max_length=100,
            title="PWM channel",
            description="For a hardware PWM, in place of the line: chip or its device, and number, as pwmchip0:0.",
        ),
    ] = ""
    active_low: ActiveLow = False
    frequency: Annotated[
        float,
        Meta(
            ge=0.01,
            le=HARDWARE_PWM,
            title="Frequency",
            description="Of the PWM; in software at most 100 Hz.",
            extra={"unit": "Hz"},
        ),
    ] = 100.0
    pulse: Annotated[
        float,
        Meta(
            ge=0.001,
            le=60,
            title="Shortest pulse",
            description="In software no pulse and no break is shorter: the period is longer instead.",
            extra={"unit": "s"},
        ),
    ] = 0.001
    gamma: Annotated[
        float,
        Meta(
            ge=1,
            le=4,
            title="Gamma",
            description="The duty cycle is the level to this power: 2.2 has a light look evenly dimmed; 1 for a pump.",
        ),
    ] = 1.0

    def check(self) -> dict[str, str]:
        """It needs a line or a PWM channel."""
        errors = super().check()
        if bool(self.line.strip()) == bool(self.pwm.strip()):
            errors["line"] = (
                "must be empty where a PWM channel is given"
                if self.pwm.strip()
                else "is missing: the name of a line, as GPIO18; or a PWM channel, as pwm = pwmchip0:0"
            )
        if not self.pwm.strip() and self.frequency > SOFTWARE_PWM:
            errors["frequency"] = (
                f"must be at most {SOFTWARE_PWM:g} Hz on a line (got {self.frequency:g}); more needs a PWM channel"
            )
        return errors


class GpioOutput(OutputDevice):
    """What the outputs have in common."""

    def __init__(self, json: str | bytes | Mapping[str, Any] | None = None) -> None:
        self.lines: Lines | None = None
        """Those of its server; without them it cannot be driven."""
        self.given: dict[str, Any] = {}
        """Settings that come from the configuration, and cannot be changed elsewhere."""
        self._driver: Driver | None = None
        self._wiring = Wiring()
        self._error: LineError | None = None
        """What went wrong with the hardware the last time."""
        super().__init__(json)

    def wiring(self) -> Wiring:
        """What it drives, by its settings."""
        raise NotImplementedError

    def duty(self, level: float) -> float:
        """The duty cycle of a level, both 0 to 1."""
        return level

    def drive(self, value: float) -> None:
        """Put the hardware into a level, 0 to 1; what it does not have yet it takes.

        :raises LineError: the hardware did not take it
        """
        if self.lines is None:
            raise LineError("it has no server")
        wiring = self.wiring()
        if self._driver is not None and wiring != self._wiring:
            self._rewire(wiring)
        try:
            if self._driver is None:
                self._wiring = wiring
                self._driver = self.lines.output(self.name, wiring, self._failed)
            self._driver.put(self.duty(value))
        except LineError as error:
            self._error = error
            self._drop()
            raise
        self._error = None

    def release(self) -> None:
        """Put the hardware off, and give it back.

        :raises LineError: the hardware did not take it
        """
        if self.lines is not None and self._driver is not None:
            try:
                self._driver.put(0.0)
            except LineError:
                self._drop()
                raise
            self.lines.leave(self.name, self._driver)
            self._driver = None

    def remove(self, why: str) -> None:
        """Go off for good; see :meth:`OutputDevice.remove`. Where it never had its hardware nothing is to be put off;
        where that is not there, it is put off when it is back.

        :raises DriveError: the hardware did not take it
        """
        try:
            super().remove(why)
        except DriveError:
            if self.lines is None or (self.lines.drove(self.name) and not isinstance(self._error, UnknownLine)):
                raise
            self.state = REMOVED
            self.manual.drop()
            self.on_mode(self)
        if self.lines is not None:
            self.lines.forget(self.name)

    def close(self) -> None:
        """Give the hardware back as it is."""
        self._drop()

    def plan(self, json: str | bytes | Mapping[str, Any]) -> Plan:
        """The settings that it would have; see :meth:`BaseDevice.plan`."""
        return checked(self, super().plan(json), self.given, self.lines)

    def details(self) -> dict[str, Any]:
        """What an owner may want to know beside its state: the line by chip and number."""
        found = super().details()
        return found | {"wired": self._driver.key} if self._driver is not None else found

    def _permit(self, level: float) -> None:
        super()._permit(level)
        if self.lines is not None and self._driver is not None and not self.lines.noted(self._driver):
            raise Refused(f"{self.path}: the disk does not know yet what it drives; try again in a moment")

    def _rewire(self, wiring: Wiring) -> None:
        """Other settings: what they do not name any more is put off, and given back."""
        if self.lines is None or self._driver is None:
            return
        if msgspec.structs.replace(self._wiring, safe=wiring.safe) == wiring:
            # The same hardware, which goes from one safe state to the other.
            self._drop()
        else:
            self.lines.leave(self.name, self._driver)
            self._driver = None

    def _drop(self) -> None:
        driver, self._driver = self._driver, None
        if driver is not None:
            driver.close()
            if self.lines is not None:
                self.lines.free(self.name, driver.key)

    def _failed(self, error: LineError) -> None:
        """The hardware failed by itself, between two commands."""
        self.fall(f"it could not be driven: {error}")


class GpioSwitch(GpioOutput, Switch):
    """A relay on a line."""

    Settings: ClassVar[type[DeviceSettings]] = GpioSwitchSettings

    def wiring(self) -> Wiring:
        """What it drives, by its settings."""
        config = self.config
        assert isinstance(config, GpioSwitchSettings)
        return Wiring(line=config.line.strip(), active_low=config.active_low, safe=config.safe_level)


class GpioDimmer(GpioOutput, Dimmer):
    """A dimmer on a line, or on a PWM channel."""

    Settings: ClassVar[type[DeviceSettings]] = GpioDimmerSettings

    def wiring(self) -> Wiring:
        """What it drives, by its settings."""
        config = self._config
        return Wiring(
            line=config.line.strip(),
            pwm=config.pwm.strip(),
            active_low=config.active_low,
            safe=self.duty(config.safe_level),
            period=1 / config.frequency,
            pulse=config.pulse,
        )

    def duty(self, level: float) -> float:
        """The duty cycle of a level: the level to the power of gamma."""
        return float(level**self._config.gamma)

    @property
    def _config(self) -> GpioDimmerSettings:
        config = self.config
        assert isinstance(config, GpioDimmerSettings)
        return config
