"""The 1-Wire server: reads the probes that the kernel shows under ``devices_dir``.

Each probe is a device named by its id in lower case, ``28-031655c9d5ff``. What is plugged in is found
within a poll. A probe that goes away stays as an error, so that an alarm on it is not silenced by the fault
it watches for; only one that never gave a good reading, as noise on the line conjures up, is forgotten.
Without a bus the server says so and keeps looking; on a machine that never had one, that is no fault.

A vote, ``sensor.vote``, is a device that an owner makes of several probes.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Self

from msgspec import Meta

from raspy.common import MDP
from raspy.common.config import BusConfig, ConfigError, Section
from raspy.common.devices.device import MISSED_POLLS, BaseDevice
from raspy.common.devices.errors import ReadingError
from raspy.common.devices.host import DEVICES_LIMIT, HUNG_LIMIT, DeviceServer
from raspy.common.devices.source import Read
from raspy.common.pool import JobTimeout
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
ARRIVALS = 4
"""Probes that are added in one turn of the loop."""


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
        self._arriving: deque[tuple[str, sysfs.Slave]] = deque()
        self._idle = False
        """This machine has never had a 1-Wire bus, and nobody asked for one."""
        self._sign = time.monotonic()
        """When the bus last gave a sign of life."""

    @classmethod
    def _configured(cls, bus: dict[str, Any], settings: Any) -> Self:
        return cls(**bus, settings=settings)

    def start(self) -> None:
        """Open the channels and look for probes, now and then at every poll."""
        super().start()
        # Nothing is read, and found gone, before it is known what is there.
        self.buses.held = True
        for name in self.keeper.names():
            if reader.ENTRY.fullmatch(name) and self.keeper.find(name) is not None and name not in self.devices:
                self._expect(name)
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
        for device in due:
            if isinstance(device, Probe):
                probes.append(device)
            elif isinstance(device, Vote) and (self.buses.held or device.early):
                # Its probes are being read; the timer is for when they hang.
                self._sources[device.name].due = time.monotonic() + self.settings.timeout
            else:
                super().read_devices([device])
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
            if poll is not None and probe not in due:
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
        source = self._sources[probe.name]
        return source.hung if source.reads else 0

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
        """False when reads hang, and not one of any probe has come back for three polls."""
        if not any(source.reads for source in self._sources.values()):
            return True
        longest = max([self.settings.poll, *(probe.poll for probe in self.probes())])
        return time.monotonic() - self._sign < MISSED_POLLS * longest + self.settings.timeout

    def on_reading(self, device: BaseDevice, error: BaseException | None) -> None:
        """Give the thread to the next probe, and vote when all are read. Anything but a read that hangs is a sign of
        life."""
        if not isinstance(device, Probe):
            return
        lost: list[Read] = []
        if isinstance(error, ReadingError) and error.kind == "timeout":
            lost = [read for read in self._sources[device.name].reads if not read.over]
            device.pending = True
        else:
            self._sign = time.monotonic()
        self._show_problems()
        self.buses.over(device, lost)
        for vote in self.devices.values():
            if isinstance(vote, Vote) and vote.complete(device.name) and vote.poll > 0:
                super().read_devices([vote])
                self._sources[vote.name].due = time.monotonic() + 1.5 * vote.poll

    def _show_problems(self) -> None:
        problems = [f"{probe.name}: {probe.problem}" for probe in self.probes() if probe.problem and not probe.gone]
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        self.condition("resolution", "; ".join(problems[:3]) + more if problems else None)

    def _scan(self) -> None:
        if self._arriving or (self._scan_running is not None and not self._scan_running.over):
            return
        self._scan_running = Read(sysfs.scan)
        self.in_pool(
            self._scan_running.run,
            self.settings.devices_dir,
            done=self._scanned,
            timeout=self.settings.timeout,
        )

    def _scanned(self, found: sysfs.Found | None, error: BaseException | None) -> None:
        place, problem, idle = self.settings.devices_dir, None, False
        if isinstance(error, JobTimeout):
            # Nothing is known of what is there; the probes' own reads will tell.
            self.condition("bus", f"{place} cannot be listed within {self.settings.timeout:g} s")
            self.buses.held = False
            self.buses.begin()
            return
        if found is None:
            problem = f"{place} cannot be read: {getattr(error, 'strerror', None) or error}"
            if isinstance(error, FileNotFoundError):
                idle = not self.probes() and _never_set_up(place)
                problem = None if idle else f"no 1-Wire bus at {place}: is dtoverlay=w1-gpio in config.txt?"
        self.condition("bus", problem)
        self._be_idle(idle)
        found = found or sysfs.Found({}, {}, {})
        if not found.probes:
            self._sign = time.monotonic()
        self.unknown = found.unknown
        for probe in self.probes():
            if probe.name not in found.probes:
                self._missing(probe)
        self._arriving.extend(found.probes.items())
        self._arrive(found)

    def _arrive(self, found: sysfs.Found) -> None:
        """Add the probes that are new, a few in a turn; none is read before all are there."""
        new = 0
        while self._arriving and new < ARRIVALS:
            name, slave = self._arriving.popleft()
            new += self._present(name, slave, bool(found.masters.get(slave.master)))
        self.buses.held = bool(self._arriving)
        if self._arriving:
            self.call_later(0, self._arrive, found)
            return
        many = len(found.probes.keys() - self.devices.keys())
        self.condition("probes", f"{many} probes above the limit of {DEVICES_LIMIT} are not read" if many else None)
        self.buses.found(found.masters)
        self.buses.begin()

    def _be_idle(self, idle: bool) -> None:
        if idle != self._idle:
            self._idle = idle
            if idle:
                MDP.logger.info("no 1-Wire bus on this machine; dtoverlay=w1-gpio in config.txt makes one")
            self._tell()

    def _present(self, name: str, slave: sysfs.Slave, bulk: bool) -> bool:
        """A probe is on the bus; whether it is new."""
        probe = self.probe(name)
        if probe is not None:
            probe.slave = slave
            if probe.gone:
                probe.gone = False
                probe.pending = bulk and probe.family in sysfs.BULK_FAMILIES
                self.read_soon(probe)
            return False
        if name in self.devices or len(self.devices) >= DEVICES_LIMIT:
            return False
        probe = self._probe(name, slave)
        # Whoever was here before may have left a result in it.
        probe.pending = bulk and probe.family in sysfs.BULK_FAMILIES
        self.add_device(probe)
        return True

    def _probe(self, name: str, slave: sysfs.Slave) -> Probe:
        probe = Probe.new({"name": name, "poll": self.settings.poll})
        probe.slave = slave
        probe.timeout = self.settings.timeout
        return probe

    def _expect(self, name: str) -> None:
        """A probe to which its owner gave settings is missed when it is not there."""
        try:
            probe = self._probe(name, sysfs.Slave(os.path.join(self.settings.devices_dir, name)))
            probe.gone = True
            self.add_device(probe)
        except ValueError as error:
            MDP.logger.error("%s: %s", name, error)

    def _missing(self, probe: Probe) -> None:
        if probe.gone:
            return
        if not probe.counts["good"]:
            self.remove_device(probe.name)
            return
        probe.gone = True
        self.read_soon(probe)


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
