"""The 1-Wire server: reads the probes that the kernel shows under ``devices_dir``.

Each probe is a device named by its id in lower case, ``28-031655c9d5ff``. What is plugged in is found
within a poll. A probe that goes away stays as an error, so that an alarm on it is not silenced by the fault
it watches for; only one that never gave a good reading and has no settings, as noise on the line conjures up, is
forgotten.
Without a bus the server says so and keeps looking; on a machine that never had one, that is no fault.

A vote, ``sensor.vote``, is a device that an owner makes of several probes.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Annotated, Any, ClassVar, Self

from msgspec import Meta

from raspy.common import MDP
from raspy.common.config import BusConfig, ConfigError, Section
from raspy.common.devices.device import MISSED_POLLS, BaseDevice
from raspy.common.devices.errors import ReadingError
from raspy.common.devices.host import DEVICES_LIMIT, HUNG_LIMIT, DeviceServer
from raspy.common.devices.source import Read
from raspy.common.pool import JobTimeout, PoolFull
from raspy.common.verbs import Verbs
from raspy.servers.onewire import reader, sysfs
from raspy.servers.onewire.bus import Buses
from raspy.servers.onewire.probe import Probe, ProbeSettings
from raspy.servers.onewire.verbs import BUS
from raspy.servers.onewire.vote import Vote, VoteSettings

__all__ = ["OneWire", "OneWireConfig", "Probe", "ProbeSettings", "Vote", "VoteSettings"]

DEVICES_DIR = "/sys/bus/w1/devices"
STORE = "onewire"
"""The service of ``titanic.store`` that has the settings of all probes: they follow the probe from Pi to Pi."""
PORTION = 0.005
"""Seconds of one turn of the loop that are spent on probes that come, go or are gone."""
GONE = ReadingError("gone", "gone: the probe is not on the bus")


class OneWireConfig(Section, frozen=True):
    """``[onewire]``: the 1-Wire probes of this Pi."""

    SECTION: ClassVar[str] = "onewire"

    devices_dir: Annotated[str, Meta(min_length=1, description="Directory in which the kernel shows the probes.")] = (
        DEVICES_DIR
    )
    poll: Annotated[float, Meta(ge=0.1, le=3600, description="Seconds between readings.", extra={"unit": "s"})] = 10.0
    timeout: Annotated[
        float,
        Meta(ge=0.1, le=60, description="Seconds after which a reading is given up.", extra={"unit": "s"}),
    ] = 8.0
    bulk: Annotated[bool, Meta(description="Have all probes of a bus measure at once where the kernel can.")] = True

    def check_here(self, bus: BusConfig) -> None:
        _check_directory(self.devices_dir)


class OneWire(DeviceServer):
    """The 1-Wire server.

    :param devices_dir: the directory in which the kernel shows the probes; it need not exist yet
    :param settings: all of the section ``[onewire]``, instead of ``devices_dir``
    :raises ConfigError: ``devices_dir`` exists and is no directory that can be read
    """

    CONFIG: ClassVar[type[Section]] = OneWireConfig
    makes: ClassVar[frozenset[str]] = frozenset({Vote.oid})

    def __init__(
        self,
        hostname: str = "localhost",
        service: str = "onewire",
        broker_ip: str = "127.0.0.1",
        broker_port: int = 5514,
        devices_dir: str = DEVICES_DIR,
        settings: OneWireConfig | None = None,
    ) -> None:
        self.settings = settings or OneWireConfig(devices_dir=devices_dir)
        _check_directory(self.settings.devices_dir)
        super().__init__(hostname, service, broker_ip, broker_port)
        self.types.register(Probe)
        self.types.register(Vote)
        self.buses = Buses(self)
        self.unknown: dict[str, list[str]] = {}
        """Slaves that are no thermometers, by bus master."""
        self._scan_running: Read | None = None
        self._portions: deque[Callable[[], object]] = deque()
        """What is still to be done, a little in each turn."""
        self._settling = False
        """What a search has found is among that."""
        self._telling: set[str] = set()
        """Probes of which it is to be said that they are gone."""
        self._idle = False
        """This machine has never had a 1-Wire bus, and nobody asked for one."""
        self._sign = time.monotonic()
        """When a call last came back (monotonic, s)."""

    @classmethod
    def _configured(cls, bus: dict[str, Any], settings: Any) -> Self:
        return cls(**bus, settings=settings)

    def start(self) -> None:
        """Open the channels and look for probes, now and then at every poll."""
        super().start()
        self._sign = time.monotonic()
        # Nothing is read, and found gone, before it is known what is there.
        self.buses.held = True
        self._scan()
        self.call_every(self.settings.poll, self._scan)

    def reload(self) -> None:
        """Look for probes now."""
        self._scan()

    def summary(self) -> str:
        """How many probes read well, or that there is no bus to look at."""
        return "no 1-Wire bus on this machine" if self._idle else super().summary()

    def worker_devices(self) -> Verbs:
        """Serve ``<hostname>.onewire.devices``."""
        return super().worker_devices()

    def worker_bus(self) -> Verbs:
        """Serve ``<hostname>.onewire.bus``."""
        return BUS

    def settings_place(self, name: str) -> str:
        """The settings of a probe follow it to another Pi; those of a vote are of this one."""
        return STORE if reader.ENTRY.fullmatch(name) else super().settings_place(name)

    def settings_places(self) -> tuple[str, ...]:
        """The server's own service of the store, and that of all probes."""
        return (*super().settings_places(), STORE)

    def may_delete(self, device: BaseDevice) -> str:
        """A probe that is gone may be forgotten."""
        if isinstance(device, Probe):
            return "" if device.gone else f"{device.name} is on the bus: unplug it first"
        return super().may_delete(device)

    def add_device(self, device: BaseDevice, kept: bool = True) -> None:
        """Own a device; a vote looks at the others."""
        if isinstance(device, Vote):
            device.devices = self.devices
        super().add_device(device, kept)

    def remove_device(self, name: str) -> None:
        """Own a device no more."""
        self.buses.forget(name)
        super().remove_device(name)

    def read_devices(self, due: Iterable[BaseDevice]) -> None:
        """Read the devices whose time has come: the probes when it is their bus's turn."""
        probes: list[Probe] = []
        gone: list[Probe] = []
        for device in due:
            if isinstance(device, Probe):
                (gone if device.gone else probes).append(device)
            elif isinstance(device, Vote) and (self.buses.held or device.early):
                # Its probes are being read; the timer is for when they hang.
                self._sources[device.name].due = time.monotonic() + self.settings.timeout
            else:
                super().read_devices([device])
                if isinstance(device, Vote):
                    self._vote_again(device, self._sources[device.name].due)
        gone = [probe for probe in gone if probe.name not in self._telling]
        self._telling.update(probe.name for probe in gone)
        self._in_portions(partial(self._say_gone, probe) for probe in gone)
        self.buses.want([*probes, *self._neighbours(probes)])

    def _neighbours(self, due: list[Probe]) -> list[Probe]:
        """Probes that are due soon on buses where they can be measured together with those that are due now."""
        polls: dict[str, float] = {}
        for probe in due:
            if self.buses.in_bulk(self.buses.of(probe)):
                polls[probe.slave.master] = min(probe.poll, polls.get(probe.slave.master, probe.poll))
        if not polls:
            return []
        now, found = time.monotonic(), []
        for probe in self.probes():
            source, poll = self._sources[probe.name], polls.get(probe.slave.master)
            if poll is not None and not probe.gone and probe not in due:
                early = probe.poll / 2 if probe.poll == poll else probe.poll / 10
                if now < source.due <= now + early:
                    source.due = now + probe.poll
                    found.append(probe)
        return found

    def probe(self, name: str) -> Probe | None:
        """The probe of a name, if it is there."""
        device = self.devices.get(name)
        return device if isinstance(device, Probe) else None

    def probes(self) -> list[Probe]:
        """All probes."""
        return [device for device in self.devices.values() if isinstance(device, Probe)]

    def hung_calls(self, probe: Probe) -> int:
        """Calls of a probe that hang."""
        return self._sources[probe.name].hung

    def refuses(self, probe: Probe) -> bool:
        """No call of a probe would be made now, as others of it hang."""
        hung = self.hung_calls(probe)
        return bool(hung) and (hung >= HUNG_LIMIT or time.monotonic() < self._sources[probe.name].retry)

    def begin_read(self, probe: Probe) -> bool:
        """Read a probe now; whether a call is under way."""
        super().read_devices([probe])
        return self._sources[probe.name].current is not None

    def refuse(self, probe: Probe, error: ReadingError) -> None:
        """Say that a probe cannot be read now."""
        self._accept(self._sources[probe.name], error)

    def alive(self) -> bool:
        """False when for three polls nothing has come back at all, or nothing of a bus with a probe that is waited
        for."""
        recent = time.monotonic() - self._sign < MISSED_POLLS * self.settings.poll + 2 * self.settings.timeout
        return recent and self.buses.alive()

    def on_reading(self, device: BaseDevice, error: BaseException | None) -> None:
        """Give the thread to the next probe, and vote when all are read."""
        if not isinstance(device, Probe):
            return
        device.silent = isinstance(error, PoolFull) or (isinstance(error, ReadingError) and error.kind == "timeout")
        if device.silent:
            self._ask_another(device)
        elif not device.gone:
            device.known = True
            self._sign = time.monotonic()
        if device.problem or "resolution" in self.conditions:
            self._show_problems()
        self.buses.over(device)
        for vote in self.devices.values():
            if isinstance(vote, Vote) and vote.complete(device.name) and vote.poll > 0:
                super().read_devices([vote])
                self._vote_again(vote, time.monotonic() + 1.5 * vote.poll)

    def _vote_again(self, vote: Vote, due: float) -> None:
        """Vote when it is due, and no later than one of the readings is too old to be among those that count."""
        self._sources[vote.name].due = min(due, vote.good_until)

    def _ask_another(self, hung: Probe) -> None:
        """Read another probe of the bus of one that hangs, which tells whether it is the probe or the bus."""
        others = [
            probe
            for probe in self.probes()
            if probe.slave.master == hung.slave.master and not (probe.gone or probe.silent) and probe.poll > 0
        ]
        soon = time.monotonic() + hung.poll
        if others and all(self._sources[probe.name].due > soon for probe in others):
            self.read_soon(others[0])

    def _show_problems(self) -> None:
        problems = [f"{probe.name}: {probe.problem}" for probe in self.probes() if probe.problem and not probe.gone]
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        self.condition("resolution", "; ".join(problems[:3]) + more if problems else None)

    def _scan(self) -> None:
        if self._settling or (self._scan_running is not None and not self._scan_running.over):
            return
        read = Read(sysfs.scan)
        timeout = self.settings.timeout
        try:
            self.in_pool(read.run, self.settings.devices_dir, done=self._scanned, timeout=timeout)
        except PoolFull as error:
            self._scanned(None, error)
            return
        self._scan_running = read

    def _scanned(self, found: sysfs.Found | None, error: BaseException | None) -> None:
        place, problem, idle = self.settings.devices_dir, None, False
        if not isinstance(error, JobTimeout):
            self._scan_running = None
        if isinstance(error, JobTimeout | PoolFull):
            # Nothing is known of what is there; the probes' own reads will tell.
            self.condition("bus", f"{place} cannot be listed within {self.settings.timeout:g} s")
            self._in_portions([self._begin])
            return
        self._sign = time.monotonic()
        if found is None:
            problem = f"{place} cannot be read: {getattr(error, 'strerror', None) or error}"
            if isinstance(error, FileNotFoundError):
                idle = not self.probes() and _never_set_up(place)
                problem = None if idle else f"no 1-Wire bus at {place}: is dtoverlay=w1-gpio in config.txt?"
        self.condition("bus", problem)
        self._be_idle(idle)
        found = found or sysfs.Found({}, {}, {})
        self.unknown = found.unknown
        self._settling = True
        self._in_portions(
            [
                *(partial(self._missing, probe) for probe in self.probes() if probe.name not in found.probes),
                *(partial(self._present, name, slave) for name, slave in found.probes.items()),
                *(partial(self._expect, name) for name in sorted(self._settled_probes() - found.probes.keys())),
                partial(self._complete, found),
            ]
        )

    def _in_portions(self, calls: Iterable[Callable[[], object]]) -> None:
        """Make many calls without keeping the loop from its other work."""
        idle = not self._portions
        self._portions.extend(calls)
        if idle:
            self._portion()

    def _portion(self) -> None:
        end = time.monotonic() + PORTION
        while self._portions:
            self.guard(self._portions[0])
            self._portions.popleft()
            if self._portions and time.monotonic() >= end:
                self.call_later(0, self._portion)
                return

    def _complete(self, found: sysfs.Found) -> None:
        """All that a search has found is known of; none of what is new is read before."""
        self._settling = False
        many = len((found.probes.keys() | self._settled_probes()) - self.devices.keys())
        self.condition("probes", f"{many} probes above the limit of {DEVICES_LIMIT} are not read" if many else None)
        self.buses.found(found.masters)
        self._begin()

    def _begin(self) -> None:
        self.buses.held = False
        self.buses.begin()

    def _be_idle(self, idle: bool) -> None:
        if idle != self._idle:
            self._idle = idle
            if idle:
                MDP.logger.info("no 1-Wire bus on this machine; dtoverlay=w1-gpio in config.txt makes one")
            self._tell()

    def _present(self, name: str, slave: sysfs.Slave) -> None:
        """A probe is on the bus."""
        probe = self.probe(name)
        if probe is not None:
            probe.slave = slave
            if probe.gone:
                # It is tried anew, whatever became of its calls.
                probe.gone = probe.known = False
                self._sources[name].reads.clear()
                self.read_soon(probe)
            return
        gone = [probe for probe in self.probes() if probe.gone] if len(self.devices) >= DEVICES_LIMIT else []
        if gone:
            # What can be read counts for more than what is missed.
            self.remove_device(min(gone, key=self._has_settings).name)
        if name not in self.devices and len(self.devices) < DEVICES_LIMIT:
            self.buses.held = True
            self.add_device(self._probe(name, slave))

    def _probe(self, name: str, slave: sysfs.Slave) -> Probe:
        probe = Probe.new({"name": name, "poll": self.settings.poll})
        probe.slave = slave
        probe.timeout = self.settings.timeout
        return probe

    def _expect(self, name: str) -> None:
        """A probe to which its owner gave settings is missed when it is not there."""
        if name not in self.devices and len(self.devices) < DEVICES_LIMIT:
            probe = self._probe(name, sysfs.Slave(os.path.join(self.settings.devices_dir, name)))
            probe.gone = True
            self.add_device(probe)

    def _missing(self, probe: Probe) -> None:
        """A probe is not on the bus: it is gone, or was none."""
        source = self._sources.get(probe.name)
        if source is None or source.device is not probe:
            return
        if probe.proven or probe.unsettled or self._has_settings(probe):
            if not probe.gone:
                probe.gone = True
                self._say_gone(probe)
        elif source.current is None:
            # While a call of it is under way, that has to be counted.
            self.remove_device(probe.name)

    def _say_gone(self, probe: Probe) -> None:
        self._telling.discard(probe.name)
        if probe.gone and self.devices.get(probe.name) is probe:
            self.refuse(probe, GONE)

    def _has_settings(self, probe: Probe) -> bool:
        return self.keeper.find(probe.name) is not None

    def _settled_probes(self) -> set[str]:
        """The probes to which their owner gave settings."""
        names = filter(reader.is_probe, self.keeper.names())
        return {name for name in names if self.keeper.find(name) is not None}


def _never_set_up(place: str) -> bool:
    """Whether nobody chose the place and the kernel has no 1-Wire bus at all, as on a PC: nothing is wrong then."""
    return place == DEVICES_DIR and not os.path.exists(os.path.dirname(DEVICES_DIR))


def _check_directory(path: str) -> None:
    """Refuse what can never become a bus; what is not there yet may.

    :raises ConfigError: naming key and path
    """
    try:
        os.listdir(path)
    except FileNotFoundError:
        pass
    except NotADirectoryError:
        raise ConfigError(f"devices_dir in [onewire]: {path} is not a directory") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        hint = "; check its owner and mode" if isinstance(error, PermissionError) else ""
        raise ConfigError(f"devices_dir in [onewire]: {path} cannot be read: {reason}{hint}") from error
