"""The lines of a server: which device has which, and those that no device has any more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from raspy.common.devices.device import BaseDevice, Plan
from raspy.common.devices.errors import FieldErrors
from raspy.common.devices.output import RETRY
from raspy.common.MDP import logger
from raspy.servers.gpio import pwm
from raspy.servers.gpio.chips import HEADER_CHIPS, Busy, Chips, Input, LineError, Place, UnknownLine
from raspy.servers.gpio.drivers import Driver, LineDriver, PwmDriver, SoftPwm, Wiring
from raspy.servers.gpio.notes import Entry, Notes

if TYPE_CHECKING:
    from raspy.common.devices.host import DeviceServer


class Rest(msgspec.Struct):
    """What is noted, and no device has."""

    entry: Entry
    driver: Driver | None = None
    """What holds it safe; None: it could not be had, and is tried again."""
    lost: bool = False
    """Its device had it, or was to have it."""


class Lines:
    """All lines of a server. Everything here is called on its loop.

    Whatever is noted is either a device's or among the rest, where it is tried until it is safe.

    :param server: whose loop, conditions and devices are used
    :param chips: where lines are found
    :param notes: where it is noted what is driven
    :param chip: the chip that has the lines without a label; empty: any
    :param pwm_dir: where PWM chips are found
    """

    def __init__(self, server: DeviceServer, chips: Chips, notes: Notes, chip: str, pwm_dir: str) -> None:
        self.server = server
        self.chips = chips
        self.notes = notes
        self.chip = chip
        self.pwm_dir = pwm_dir
        self._owners: dict[str, str] = {}
        """The device that has a line, by the line's key."""
        self._rest: dict[str, Rest] = {}
        self._retrying = False
        self._closed = False

    def find(self, line: str) -> Place:
        """Where a line is.

        :raises UnknownLine: there is no such line
        :raises LineError: nobody can tell
        """
        try:
            place = self.chips.find(line, self.chip)
        except UnknownLine:
            self.server.condition("chips", None)
            raise
        except LineError as error:
            self.server.condition("chips", str(error))
            raise
        self.server.condition("chips", None)
        return place

    def key(self, line: str, channel: str = "") -> str:
        """What is the same for all names of a line, or of a PWM channel.

        :raises LineError: there is no such line, or nobody can tell
        """
        return self.find(line).key if line else pwm.find(self.pwm_dir, channel)[1]

    def output(self, device: str, wiring: Wiring, failed: Callable[[LineError], None]) -> Driver:
        """Have the hardware of an output, in its safe state, and note it.

        :param failed: called when it fails later, by itself
        :raises Busy: another device, or somebody else, has it
        :raises LineError: it cannot be had
        """
        place, path = None, ""
        if wiring.line:
            place = self.find(wiring.line)
            key = place.key
        else:
            path, key = pwm.find(self.pwm_dir, wiring.pwm)
        entry = Entry(
            device, line=key if wiring.line else "", name=wiring.line or wiring.pwm,
            pwm="" if wiring.line else key.removeprefix("pwm:"),
            active_low=wiring.active_low, safe=wiring.safe, period=wiring.period,
        )  # fmt: skip
        held = self._take(key, device)
        try:
            driver = self._line(place, entry, wiring, held, failed) if place else self._channel(path, key, wiring, held)
            self._guarded(driver, lambda: driver.put(wiring.safe))
        except LineError:
            self._lose(key)
            raise
        self._owners[key] = device
        self.notes.put(key, entry)
        self._put_off(device, lost=True)
        return driver

    def _line(
        self, place: Place, entry: Entry, wiring: Wiring, held: Rest | None, failed: Callable[[LineError], None]
    ) -> Driver:
        driver = held.driver if held is not None else None
        if isinstance(driver, LineDriver) and held is not None and held.entry.level == entry.level:
            line = driver.line
        else:
            if driver is not None:
                # It would be pulled to where it was safe.
                driver.close()
            line = self.chips.output(place, self._consumer(entry.device), entry.level)
        if wiring.period:
            return SoftPwm(place.key, line, wiring, self.server, failed)
        return LineDriver(place.key, line, wiring.active_low)

    def _channel(self, path: str, key: str, wiring: Wiring, held: Rest | None) -> Driver:
        driver = held.driver if held is not None else None
        channel = driver if isinstance(driver, PwmDriver) else PwmDriver(key, self.chips.channel(path))
        self._guarded(channel, lambda: channel.channel.set_up(wiring.period, wiring.active_low))
        return channel

    def input(self, device: str, line: str, bias: str, debounce: float, edges: str) -> tuple[str, Input]:
        """Have a line as an input; with its key.

        :raises Busy: another device, or somebody else, has it
        :raises LineError: it cannot be had
        """
        place = self.find(line)
        held = self._take(place.key, device)
        try:
            if held is not None:
                self.notes.put(place.key, msgspec.structs.replace(held.entry, safe=0.0))
                driver = held.driver
                if driver is not None:
                    self._guarded(driver, lambda: driver.put(0.0))
                    driver.close()
            found = self.chips.input(place, self._consumer(device), bias, debounce, edges)
        except LineError:
            self._lose(place.key)
            raise
        self.notes.drop(place.key)
        self._owners[place.key] = device
        return place.key, found

    def free(self, device: str, key: str) -> None:
        """A device does not have a line any more, which it has given back. What it drove is to be made safe."""
        if self._owners.get(key) == device:
            del self._owners[key]
            self._lose(key)

    def _lose(self, key: str) -> None:
        entry = self.notes.outputs.get(key)
        if entry is not None:
            self._rest[key] = Rest(entry, lost=True)
            self._retry_soon()

    def leave(self, device: str, driver: Driver) -> None:
        """A device has other hardware from now on: put off what it had, now or as soon as that can be done."""
        key = driver.key
        if self._owners.get(key) == device:
            del self._owners[key]
        entry = self.notes.outputs.get(key)
        off = msgspec.structs.replace(entry, safe=0.0) if entry is not None else None
        try:
            try:
                driver.put(0.0)
            finally:
                driver.close()
            if off is not None and entry != off and off.line:
                # So that it is not pulled to where it was safe.
                self.hold(off).close()
        except LineError as error:
            logger.error("%s could not be put off: %s; it is tried again", entry or key, error)
            if off is not None:
                self.notes.put(key, off)
                self._lose(key)
        else:
            self.notes.drop(key)

    def drove(self, device: str) -> bool:
        """Whether something is noted that a device drives."""
        return any(
            entry.device == device and (key not in self._rest or self._rest[key].lost)
            for key, entry in self.notes.outputs.items()
        )

    def forget(self, device: str) -> None:
        """A device is no more: what it drove, and could not be put off, is as soon as that can be done."""
        self._put_off(device, lost=False)

    def _put_off(self, device: str, lost: bool) -> None:
        """Have the rest that a device drove go off, whatever its safe state is.

        :param lost: only what it had, or was to have; else also what nobody could have yet
        """
        for key, rest in self._rest.items():
            if rest.entry.device != device or not (rest.lost or (rest.driver is None and not lost)):
                continue
            if rest.driver is not None and rest.entry.safe:
                rest.driver.close()
                rest.driver = None
            rest.entry = msgspec.structs.replace(rest.entry, safe=0.0)
            self.notes.put(key, rest.entry)
            self._retry_soon()

    def noted(self, driver: Driver) -> bool:
        """Whether the disk knows what is driven."""
        return self.notes.has(driver.key)

    def problem(self, device: str, line: str, channel: str) -> str:
        """Why a device cannot have a line, or a PWM channel; empty: it may, for all that is known."""
        try:
            key = self.key(line, channel)
        except UnknownLine as error:
            return str(error)
        except LineError:
            return ""
        for name, other in self.server.devices.items():
            wired = getattr(other.config, "line", ""), getattr(other.config, "pwm", "")
            if name != device and any(wired) and self._is(key, *wired):
                return f"{line or channel} is {'the line' if line else 'the channel'} of {name}"
        return ""

    def _is(self, key: str, line: str, channel: str) -> bool:
        try:
            return self.key(line, channel) == key
        except LineError:
            return False

    def owner(self, key: str) -> str:
        """The device that has a line; empty: none."""
        return self._owners.get(key, "")

    def begin(self) -> None:
        """Make safe what was driven before, whether there will be a device for it or not."""
        self._rest = {key: Rest(entry) for key, entry in self.notes.begin().items()}
        self._make_safe()

    def settle(self) -> None:
        """All devices are there: what is off, and none of them has, is let go of. Then the file is brought up to date,
        and what is left is tried until it is safe."""
        self._tidy()
        for rest in self._rest.values():
            if rest.driver is not None:
                logger.warning("%s has no device any more, and is kept in its safe state", rest.entry)
        self.notes.flush()

    def _make_safe(self) -> None:
        problems = []
        for key, rest in list(self._rest.items()):
            if rest.driver is not None:
                continue
            try:
                rest.driver = driver = self.hold(rest.entry)
            except LineError as error:
                problems.append(f"{rest.entry}: {error}")
                continue
            logger.info("%s: safe", rest.entry)
            if driver.key != key:
                # Noted under another name of its chip.
                del self._rest[key]
                self._rest[driver.key] = rest
                self.notes.drop(key)
                rest.entry = msgspec.structs.replace(rest.entry, line=driver.key) if rest.entry.line else rest.entry
                self.notes.put(driver.key, rest.entry)
        self.server.condition("rest", f"not known to be safe: {'; '.join(problems)}" if problems else None)
        if problems:
            self._retry_soon()

    def hold(self, entry: Entry) -> Driver:
        """Have what is noted, in its safe state.

        :raises LineError: it cannot be had
        """
        return hold(entry, self.chips, self.pwm_dir, self._consumer(entry.device))

    def _retry_soon(self) -> None:
        if not self._retrying and not self._closed:
            self._retrying = True
            self.server.call_later(RETRY, self._retry)

    def _retry(self) -> None:
        self._retrying = False
        self._make_safe()
        self._tidy()

    def _tidy(self) -> None:
        for key, rest in list(self._rest.items()):
            if rest.driver is not None and not rest.entry.safe:
                rest.driver.close()
                del self._rest[key]
                self.notes.drop(key)

    def close(self) -> None:
        """Give back what no device has; from now on nothing is tried again."""
        self._closed = True
        for rest in self._rest.values():
            if rest.driver is not None:
                rest.driver.close()
        self._rest.clear()

    def _take(self, key: str, device: str) -> Rest | None:
        """Have a line for a device; returns what is noted of it that no device has.

        :raises Busy: another device has it
        """
        owner = self._owners.get(key, device)
        if owner != device:
            raise Busy(f"{key} is the line of {owner}")
        return self._rest.pop(key, None)

    def _guarded(self, driver: Driver, act: Callable[[], None]) -> None:
        """Do something with hardware that is given back if it fails."""
        try:
            act()
        except LineError:
            driver.close()
            raise

    def _consumer(self, device: str) -> str:
        return f"raspy {device}"


def checked(device: BaseDevice, plan: Plan, given: Mapping[str, Any], lines: Lines | None) -> Plan:
    """The settings that a device would have, seen to be those that the configuration gives it, and to name a line that
    it can have.

    :raises FieldErrors: with an entry for each field at fault
    """
    (_, config), errors = plan[0], {}
    for key, value in given.items():
        if getattr(config, key) != value:
            errors[key] = "comes from the configuration file: change it there"
    before = device.config
    for key in ("line", "pwm"):
        wanted = getattr(config, key, "").strip()
        if lines is None or lines.server.devices.get(device.name) is not device:
            # It is being made.
            break
        if wanted and key not in errors and wanted != getattr(before, key):
            problem = lines.problem(device.name, *((wanted, "") if key == "line" else ("", wanted)))
            if problem:
                errors[key] = problem
    if errors:
        raise FieldErrors(errors)
    return plan


def hold(entry: Entry, chips: Chips, pwm_dir: str, consumer: str, chip: str = "") -> Driver:
    """Have what is noted of an output, in its safe state. A line with a software PWM is off, as that needs a server.

    :param chip: the one that has the lines without a chip; empty: any
    :raises UnknownLine: it is not there, which does not say that it is safe
    :raises LineError: it cannot be had
    """
    if entry.pwm:
        path, key = pwm.find(pwm_dir, entry.pwm)
        channel = PwmDriver(key, chips.channel(path))
        try:
            channel.channel.set_up(entry.period, entry.active_low)
            channel.put(entry.safe)
        except LineError:
            channel.close()
            raise
        return channel
    place = _noted(entry.line, chips, chip)
    return LineDriver(place.key, chips.output(place, consumer, entry.level), entry.active_low)


def _noted(line: str, chips: Chips, chip: str) -> Place:
    """Where a line is that was noted, maybe on another Pi, or by a kernel that calls the chip of the header otherwise.

    :raises UnknownLine: it is not there
    :raises LineError: nobody can tell
    """
    try:
        return chips.find(line, chip)
    except UnknownLine:
        label, _, number = line.rpartition(":")
        if not label.startswith(HEADER_CHIPS) or not number.isdecimal():
            raise
        place = chips.find(f"GPIO{number}")
        if not place.label.startswith(HEADER_CHIPS):
            raise
        return place
