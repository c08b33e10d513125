"""The mother class of the servers that own devices: reads them in time, publishes their values, serves them.

Each device is read at its own interval. A slow one is read on a pool thread, by one call at a time; a call
that hangs is given up, the device says so on the tree, and another call is tried later, so that a device
costs few threads whatever it does. All else happens on the loop.

The settings of the devices are kept over restarts by a :class:`~raspy.common.devices.keeper.Keeper`. Outputs are
held to their rules from the loop, with no help from anybody else.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, ClassVar, Self

import msgspec

from raspy.common import MDP
from raspy.common.backup.parts import Part
from raspy.common.config import BusConfig, Config
from raspy.common.devices import plugins
from raspy.common.devices.changes import Changes
from raspy.common.devices.device import MISSED_POLLS, BaseDevice, DeviceRegister
from raspy.common.devices.errors import DeviceError, FieldErrors, ReadingError
from raspy.common.devices.formverbs import DEVICES
from raspy.common.devices.keeper import Keeper
from raspy.common.devices.keptfile import adopt, check_content
from raspy.common.devices.modekeeper import FILE, ModeKeeper
from raspy.common.devices.output import OutputDevice
from raspy.common.devices.outputs import Outputs
from raspy.common.devices.source import Read, Source
from raspy.common.devices.value import HELD
from raspy.common.directories import state_directory
from raspy.common.executive import Timer
from raspy.common.pool import JobTimeout, PoolFull
from raspy.common.server import Server
from raspy.common.statistics import SNMPCounter
from raspy.common.verbs import VerbError, Verbs

DEVICES_LIMIT = 256
"""Devices of one server, subdevices not counted."""
HUNG_LIMIT = 4
"""Calls of one device that may hang before no other is tried until one comes back."""


class DeviceServer(Server):
    """A server that owns devices.

    ``types`` holds the device classes that it knows.
    """

    KEEPS: ClassVar[tuple[Part, ...]] = (Part("devices.json", check=check_content, adopt=adopt),)
    makes: ClassVar[frozenset[str]] = frozenset()
    """The oids of which an owner may make devices; those of other packages come on top of them."""
    fixed: ClassVar[frozenset[str]] = frozenset()
    """The names of the devices that come with the server, and can neither be made nor deleted."""

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
        self.outputs = Outputs(self)
        self.changes = Changes(self)
        self.keeper = self._keeper(None, False)
        """Keeps the settings; without :meth:`keep_settings` nothing outlives the server."""
        self._good = self.add_statistic(SNMPCounter(f"{service}.readings", "Good readings"))
        self._bad = self.add_statistic(SNMPCounter(f"{service}.reading_errors", "Readings that gave an error"))

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """The server that a configuration describes; its devices' settings are in its state directory.

        :raises raspy.common.config.ConfigError: naming file, line and key
        """
        server = super().from_config(config)
        path = os.path.join(state_directory(server.service), "devices.json")
        server.keep_settings(path, config.section(BusConfig).titanic)
        return server

    def keep_settings(self, path: str, store: bool) -> None:
        """Keep the settings of the devices over restarts. Called before the start.

        :param path: the server's own file
        :param store: Titanic is on the bus, and has them too
        """
        self.keeper = self._keeper(path, store)
        self.outputs.modes = ModeKeeper(self, os.path.join(os.path.dirname(path), FILE))

    def _keeper(self, path: str | None, store: bool) -> Keeper:
        keeper = Keeper(self, path, store, self.settings_place, self.settings_places())
        keeper.on_settings = self._settings_found
        keeper.on_nothing = self._settings_missing
        keeper.owned = self.devices.__contains__
        return keeper

    def settings_place(self, name: str) -> str:
        """The service of the store under which the settings of a device are. To be extended where they follow the
        device from one Pi to another."""
        return self.name

    def settings_places(self) -> tuple[str, ...]:
        """All such services, the server's own first. To be extended together with :meth:`settings_place`."""
        return (self.name,)

    def start(self) -> None:
        """Open the channels, make the devices that an owner made, and read every device at once.

        :raises raspy.common.devices.keptfile.KeepError: another process keeps the same settings
        """
        self.keeper.lock()
        self.make_rest_safe()
        super().start()
        for oid, path in plugins.found().items():
            self.types.plugin(oid, path)
        for name in self.keeper.names():
            self._make_again(name, self.keeper.find(name) or {})
        self.keeper.start()
        self.call_every(HELD / MISSED_POLLS, self._hold)
        self._arm()

    def make_rest_safe(self) -> None:
        """Make all the hardware safe that there is, whether there will be a device for it or not; to be extended."""

    def stop(self) -> None:
        """Put the outputs into their safe state, and leave the bus."""
        self.outputs.make_safe("the server stops")
        self.keeper.close()
        self.outputs.modes.close()
        # The loop has turned meanwhile, and a command may have come.
        self.outputs.make_safe("the server stops")
        super().stop()

    def add_device(self, device: BaseDevice, kept: bool = True) -> None:
        """Own a device; it is read at once, then at its interval.

        :param kept: it has the settings that are kept of it; False: those that it has now are to be kept
        :raises ValueError: the name is taken, or there are too many
        """
        if device.name in self.devices:
            raise ValueError(f"there is a device {device.name} already")
        if len(self.devices) >= DEVICES_LIMIT:
            raise ValueError(f"there are {DEVICES_LIMIT} devices already")
        if kept:
            self._settle(device)
        self.devices[device.name] = device
        for part in device.walk():
            self._sources[part.path] = Source(part)
            if isinstance(part, OutputDevice):
                self.outputs.add(part, new=not kept)
            self.read_soon(part)

    def remove_device(self, name: str) -> None:
        """Own a device no more, and delete its values from the tree. An output is put off for good.

        :raises raspy.common.devices.errors.DriveError: an output could not be; the device stays
        """
        parts = list(self.devices[name].walk())
        self.outputs.remove(*(part for part in parts if isinstance(part, OutputDevice)))
        self.keeper.forget(name)
        del self.devices[name]
        for part in parts:
            source = self._sources.pop(part.path)
            for command in source.published:
                self.publish(self._key(part, command), b"")
        self._show_hung()
        # It may be what another one is on only with.
        self.outputs.look()

    def makeable(self) -> list[str]:
        """The oids of which an owner may make devices, sorted."""
        return sorted(oid for oid in self.types.oids() if oid in self.makes or oid in self.types.foreign)

    def may_delete(self, device: BaseDevice) -> str:
        """Why a device cannot be deleted; empty: it can. To be extended where devices are found."""
        if device.name in self.fixed:
            return f"{device.name} comes with the server"
        return "" if device.oid in self.makeable() else f"{device.name} is found, not made"

    def _settle(self, device: BaseDevice) -> None:
        """Give a device the settings that are kept of it, or the reason why they are not known."""
        settings = self.keeper.find(device.name)
        reason = self.keeper.missing(device.name)
        if settings is not None:
            try:
                device.configure(settings)
            except FieldErrors as error:
                reason = f"its settings are no good: {error}"
                MDP.logger.error("%s: %s", device.name, reason)
        self._unsettle(device, reason)

    def _unsettle(self, device: BaseDevice, reason: str) -> None:
        for part in device.walk():
            part.unsettled = reason

    def settled(self, device: BaseDevice) -> None:
        """The settings of a device are known, or are others than before."""
        self._unsettle(device, "")
        for part in device.walk():
            if part.path in self._sources:
                self.publish_device(part)
                self.read_soon(part)
                if isinstance(part, OutputDevice):
                    self.outputs.changed(part)

    def _settings_found(self, name: str, settings: dict[str, Any]) -> dict[str, Any] | None:
        """The store has settings for a device; returns those that it has then, None when there is no such device.

        :raises FieldErrors: it cannot have these
        """
        device = self.devices.get(name)
        if device is None:
            self._make_again(name, settings)
            device = self.devices.get(name)
            return None if device is None else device.to_dict()
        device.configure(settings)
        self.settled(device)
        return device.to_dict()

    def _settings_missing(self, name: str, reason: str) -> None:
        """The store has nothing for a device: it is new, or (with a reason) that is not sure."""
        device = self.devices.get(name)
        if device is not None and reason:
            self._unsettle(device, reason)
        elif device is not None:
            self.settled(device)

    def _make_again(self, name: str, settings: dict[str, Any]) -> None:
        """Make a device that an owner made once; what is wrong with its settings is reported."""
        oid = settings.get("oid")
        if name in self.fixed or name in self.devices or oid not in self.makeable():
            return
        if oid in self.types.plugins:
            self.import_types([oid], lambda: self._make_again(name, settings))
            return
        problem: str | None = None
        try:
            self.add_device(self.types.new({**settings, "name": name}))
        except Exception as error:
            problem = f"it cannot be made: {error}"
            if not isinstance(error, ValueError):
                self.report(error, f"making {name}")
        self.condition(f"device {name}", problem)

    def import_types(self, oids: Iterable[str], then: Callable[[], None]) -> None:
        """Import the classes of other packages that are still to be, on a thread; ``then()`` follows."""
        self.types.import_later(oids, then, self.in_pool)

    def late(self, verbs: Verbs, body: list[bytes]) -> None:
        """A command to an output that came too late is an event."""
        words = [frame.decode("utf-8", "replace") for frame in body[:4]]
        if verbs is not DEVICES or len(words) < 3 or words[0] not in ("exec", "form_do", "mode"):
            return
        names = words[1].split(",")[:DEVICES_LIMIT] if words[0] == "mode" else [words[1]]
        command, wanted = words[2:4] if words[0] != "mode" and len(words) == 4 else ("mode", words[2])
        for name in names:
            source = self._sources.get(name.strip().removeprefix(self.name + "."))
            if source is not None and isinstance(source.device, OutputDevice):
                facts = {"reason": "a command came too late", "command": command[:60], "wanted": wanted[:60]}
                self.outputs.report(source.device, facts)

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

    def device_at(self, path: str) -> BaseDevice | None:
        """A device or subdevice by its path on this server, ``<name>[.<sub>]``."""
        source = self._sources.get(path)
        return None if source is None else source.device

    def publish_device(self, device: BaseDevice) -> None:
        """Put on the tree what is new among a device's values; interlocks see to it first."""
        self.outputs.look()
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
                vouched = not command.readonly or isinstance(source.device, OutputDevice)
                if command.reading is not None and vouched:
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

    def _done(self, source: Source, result: Any, error: BaseException | None) -> None:
        read, source.current = source.current, None
        if self._sources.get(source.device.path) is not source:
            return
        if isinstance(error, JobTimeout):
            source.reads += [read] if read is not None else []
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
        if source.good is good or source.device.unsettled:
            # That settings are waited for is told once, for all devices.
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
