"""The mother class of the servers that own devices: reads them in time, publishes their values, serves them.

Each device is read at its own interval. A slow one is read on a pool thread, by one call at a time; a call
that hangs is given up, the device says so on the tree, and another call is tried later, so that a device
costs few threads whatever it does. All else happens on the loop.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import msgspec

from raspy.common import MDP
from raspy.common.devices.device import MISSED_POLLS, BaseDevice, DeviceRegister
from raspy.common.devices.errors import DeviceError, ReadingError, UnknownCommand, Unsupported
from raspy.common.devices.value import HELD, Value
from raspy.common.executive import Timer
from raspy.common.pool import JobTimeout, PoolFull
from raspy.common.server import Server
from raspy.common.statistics import SNMPCounter
from raspy.common.verbs import VerbError, Verbs

DEVICES_LIMIT = 256
"""Devices of one server, subdevices not counted."""
HUNG_LIMIT = 4
"""Calls of one device that may hang before no other is tried until one comes back."""


class Read:
    """One call on a pool thread, which can be asked whether it has come back."""

    __slots__ = ("function", "over")

    def __init__(self, function: Any) -> None:
        self.function = function
        self.over = False

    def run(self, *args: Any) -> Any:
        """Make the call; on the thread."""
        try:
            return self.function(*args)
        finally:
            self.over = True


class Source:
    """What the server keeps of a device or subdevice beside the device's own state."""

    __slots__ = ("current", "device", "due", "good", "published", "reads", "retry")

    def __init__(self, device: BaseDevice) -> None:
        self.device = device
        self.due = math.inf
        """When it is to be read next (monotonic, s)."""
        self.retry = 0.0
        """When another call is tried although one hangs."""
        self.reads: list[Read] = []
        """Calls that may not have come back."""
        self.current: Read | None = None
        """The call that has time left; None between two."""
        self.good: bool | None = None
        """Whether the last reading was; None before the first."""
        self.published: dict[str, Value] = {}
        """The reading of each command as it stands on the tree."""

    @property
    def hung(self) -> int:
        """Calls that have overrun their time and not come back."""
        self.reads = [read for read in self.reads if not read.over]
        return sum(read is not self.current for read in self.reads)


class DeviceServer(Server):
    """A server that owns devices.

    ``register`` holds the device classes that it knows.
    """

    def __init__(
        self,
        hostname: str = "localhost",
        service: str = "devices",
        broker_ip: str = "127.0.0.1",
        broker_port: int = 5514,
    ) -> None:
        super().__init__(hostname, service, broker_ip, broker_port)
        self.types = DeviceRegister()
        self.devices: dict[str, BaseDevice] = {}
        """By name; to be changed with :meth:`add_device` and :meth:`remove_device` only."""
        self._sources: dict[str, Source] = {}
        self._poll_timer: Timer | None = None
        self._good = self.add_statistic(SNMPCounter(f"{service}.readings", "Good readings"))
        self._bad = self.add_statistic(SNMPCounter(f"{service}.reading_errors", "Readings that gave an error"))

    def start(self) -> None:
        """Open the channels, and read every device at once."""
        super().start()
        self.call_every(HELD / MISSED_POLLS, self._hold)
        self._arm()

    def add_device(self, device: BaseDevice) -> None:
        """Own a device; it is read at once, then at its interval.

        :raises ValueError: the name is taken, or there are too many
        """
        if device.name in self.devices:
            raise ValueError(f"there is a device {device.name} already")
        if len(self.devices) >= DEVICES_LIMIT:
            raise ValueError(f"there are {DEVICES_LIMIT} devices already")
        self.devices[device.name] = device
        for part in device.walk():
            self._sources[part.path] = Source(part)
            self.read_soon(part)

    def remove_device(self, name: str) -> None:
        """Own a device no more, and delete its values from the tree."""
        for part in self.devices.pop(name).walk():
            source = self._sources.pop(part.path)
            for command in source.published:
                self.publish(self._key(part, command), b"")
        self._show_hung()

    def read_soon(self, device: BaseDevice) -> None:
        """Have a device read now rather than at its next turn; not one that is never read by its settings."""
        self._sources[device.path].due = time.monotonic() if device.poll > 0 else math.inf
        self._arm()

    def read_devices(self, due: Iterable[BaseDevice]) -> None:
        """Read the devices whose time has come. To be extended where they can be read together."""
        for device in due:
            self._read(self._sources[device.path])

    def on_reading(self, device: BaseDevice, error: BaseException | None) -> None:
        """A device was read, well (None) or not; to be extended.

        A :class:`ReadingError` of kind ``timeout`` is a call that hangs.
        """

    def summary(self) -> str:
        """How many devices there are, and how many read well."""
        read = [source.good for source in self._sources.values() if source.good is not None]
        return f"{len(self.devices)} devices, {sum(read)} of {len(read)} read well"

    def worker_devices(self) -> Verbs:
        """Serve ``<hostname>.<server>.devices``."""
        return DEVICES

    def find_device(self, name: str) -> BaseDevice:
        """A device or subdevice by its name, with or without ``<host>.<server>.`` before it.

        :raises VerbError: 404
        """
        source = self._sources.get(name.removeprefix(self.name + "."))
        if source is None:
            known = ", ".join(self.devices) or "none"
            raise VerbError(MDP.NOT_FOUND, f"no device {name[:80]!r}; known are {known[:1000]}")
        return source.device

    def publish_device(self, device: BaseDevice) -> None:
        """Put on the tree what is new among a device's values."""
        source = self._sources[device.path]
        for command in device.values():
            if command.reading is source.published.get(command.name):
                continue
            if command.reading is None:
                del source.published[command.name]
                self.publish(self._key(device, command.name), b"")
            else:
                source.published[command.name] = command.reading
                self.publish(self._key(device, command.name), command.reading.encode())

    def _key(self, device: BaseDevice, command: str) -> str:
        return f"/device/{device.fullname(self.name)}/{command}"

    def _arm(self) -> None:
        """Wake up when the next device is due."""
        if self._poll_timer is not None:
            self._poll_timer.cancel()
            self._poll_timer = None
        due = min((source.due for source in self._sources.values()), default=math.inf)
        if self.publisher is not None and due < math.inf:
            self._poll_timer = self.call_later(max(due - time.monotonic(), 0), self._poll)

    def _poll(self) -> None:
        self._poll_timer = None
        now = time.monotonic()
        due = [source for source in self._sources.values() if source.due <= now]
        for source in due:
            source.due = max(source.due + source.device.poll, now + source.device.poll / 2)
        try:
            self.read_devices([source.device for source in due])
        finally:
            self._arm()

    def _hold(self) -> None:
        """Publish again what is set and not read, as the server vouches for it."""
        now = round(time.time(), 3)
        for source in self._sources.values():
            if source.device.poll > 0:
                continue
            for command in source.device.values():
                if command.reading is not None and not command.readonly:
                    command.update(msgspec.structs.replace(command.reading, time=now))
            self.publish_device(source.device)

    def _read(self, source: Source) -> None:
        device = source.device
        if not device.slow:
            try:
                self._accept(source, device.do_poll())
            except Exception as error:
                self._accept(source, error)
            return
        if source.current is not None:
            return
        hung = source.hung
        if hung and (hung >= HUNG_LIMIT or time.monotonic() < source.retry):
            self._accept(source, _hangs(device))
            return
        read = Read(device.do_poll)
        try:
            self.in_pool(read.run, done=partial(self._done, source), timeout=device.timeout)
        except PoolFull as error:
            self._accept(source, error)
            return
        source.current = read
        source.reads.append(read)

    def _done(self, source: Source, result: Any, error: BaseException | None) -> None:
        source.current = None
        if self._sources.get(source.device.path) is not source:
            return
        if isinstance(error, JobTimeout):
            source.retry = time.monotonic() + source.device.max_age * 2 ** max(source.hung - 1, 0)
            error = _hangs(source.device)
        self._accept(source, result if error is None else error)

    def _accept(self, source: Source, readings: Mapping[str, Any] | BaseException) -> None:
        """Take what a reading gave, and publish it."""
        device = source.device
        error = readings if isinstance(readings, BaseException) else None
        if error is None and not isinstance(readings, Mapping):
            error = TypeError(f"do_poll of {device.oid} returned no mapping")
        if error is not None and not isinstance(error, DeviceError | PoolFull):
            self.report(error, f"reading {device.path}")
            error = ReadingError("internal", f"{type(error).__name__}: {error}")
        changed = device.update(readings if error is None else error)
        self.publish_device(device)
        bad = [command for command in changed if command.reading is not None and command.reading.quality != "ok"]
        (self._bad if bad or error is not None else self._good).set()
        self._note(source, not bad and error is None, str(bad[0].reading.reason) if bad and bad[0].reading else "")
        self._show_hung()
        self.on_reading(device, error)

    def _note(self, source: Source, good: bool, reason: str) -> None:
        """Log a device when it turns good or bad, not at every reading."""
        if source.good is good:
            return
        if not good:
            MDP.logger.warning("%s: %s", source.device.path, reason)
        elif source.good is not None:
            MDP.logger.info("%s: reads well again", source.device.path)
        source.good = good
        self._tell()

    def _show_hung(self) -> None:
        """Say which devices hang; a call lost by one that is read again is counted by the statistic ``hung``."""
        hung = [source.device.path for source in self._sources.values() if source.good is False and source.hung]
        more = f" and {len(hung) - 5} more" if len(hung) > 5 else ""
        self.condition("hung", f"reads hang of {', '.join(hung[:5])}{more}" if hung else None)


def _hangs(device: BaseDevice) -> ReadingError:
    return ReadingError("timeout", f"no answer within {device.timeout:g} s: the read hangs")


def describe(device: BaseDevice) -> dict[str, Any]:
    """A device as a page or command line shows it: settings, commands with their readings, subdevices."""
    fields: dict[str, Any] = device.to_dict() | {
        "name": device.path,
        "commands": {
            name: command.to_dict() | ({"reading": command.reading} if command.reading is not None else {})
            for name, command in device.commands.items()
        },
    }
    details = device.details()
    if details:
        fields["details"] = details
    if device.subdevices:
        fields["subdevices"] = {name: describe(part) for name, part in device.subdevices.items()}
    return fields


DEVICES = Verbs("devices")


@DEVICES.verb(reads=True)
def list_keys(server: DeviceServer) -> list[str]:
    """The names of the devices."""
    return list(server.devices)


@DEVICES.verb(reads=True, name="list")
def list_devices(server: DeviceServer) -> list[dict[str, Any]]:
    """All devices, each as ``info`` gives it."""
    return [describe(device) for device in server.devices.values()]


@DEVICES.verb(reads=True)
def info(server: DeviceServer, name: str) -> dict[str, Any]:
    """A device's settings, commands with their last readings, and subdevices."""
    return describe(server.find_device(name))


@DEVICES.verb(reads=True)
def template(server: DeviceServer, oid: str = "") -> dict[str, Any]:
    """What a device of an oid is made of: schema, defaults, commands; without an oid, all kinds by oid."""
    known_types = sorted(server.types.types.items())
    found = {known: device_type().template for known, device_type in known_types if oid in ("", known)}
    if oid and not found:
        known = ", ".join(sorted(server.types.types)) or "none"
        raise VerbError(MDP.NOT_FOUND, f"no kind of device {oid[:80]!r}; known are {known}")
    return found[oid] if oid else found


@DEVICES.verb(reads=True)
def check(server: DeviceServer, json: str) -> dict[str, Any]:
    """Whether JSON describes a device of this server: ``{"ok": true, "errors": {field: reason}}``."""
    errors = server.types.check(json)
    return {"ok": not errors, "errors": errors}


@DEVICES.verb()
def new(server: DeviceServer, json: str) -> None:
    """Make a device. Not done yet."""
    raise VerbError(MDP.NOT_IMPLEMENTED, "devices cannot be made yet")


@DEVICES.verb()
def delete(server: DeviceServer, name: str) -> None:
    """Remove a device. Not done yet."""
    raise VerbError(MDP.NOT_IMPLEMENTED, "devices cannot be deleted yet")


@DEVICES.verb(name="exec")
def execute(server: DeviceServer, name: str, command: str, value: str | None = None) -> Any:
    """Set a command of a device to a value, or without one get it."""
    device = server.find_device(name)
    try:
        result = device.exec_cmd("", command, value)
    except UnknownCommand as error:
        raise VerbError(MDP.NOT_FOUND, str(error)) from error
    except Unsupported as error:
        raise VerbError(MDP.NOT_IMPLEMENTED, str(error)) from error
    except (DeviceError, ValueError) as error:
        raise VerbError(MDP.BAD_REQUEST, str(error)) from error
    if value is not None:
        for part in device.walk():
            server.publish_device(part)
        if command in ("poll", "config", "reset"):
            for part in device.walk():
                server.read_soon(part)
    return result
