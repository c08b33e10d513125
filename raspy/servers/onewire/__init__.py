"""The 1-Wire server: reads the probes that the kernel shows under ``devices_dir``.

Each probe is a device named by its id in lower case, ``28-031655c9d5ff``. What is plugged in is found
within a poll. A probe that goes away stays as an error, so that an alarm on it is not silenced by the fault
it watches for; only one that never gave a good reading, as noise on the line conjures up, is forgotten.
Without a bus the server says so and keeps looking; on a machine that never had one, that is no fault.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from msgspec import Meta

from raspy.common import MDP
from raspy.common.config import BusConfig, ConfigError, Section
from raspy.common.devices.device import MISSED_POLLS, BaseDevice, DeviceSettings
from raspy.common.devices.errors import ReadingError
from raspy.common.devices.host import DEVICES_LIMIT, DeviceServer, Read
from raspy.common.devices.sensor import SensorTemperature
from raspy.common.verbs import Verbs
from raspy.servers.onewire import reader

DEVICES_DIR = "/sys/bus/w1/devices"


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

    def check_here(self, bus: BusConfig) -> None:
        _check_directory(self.devices_dir)


class ProbeSettings(DeviceSettings, kw_only=True, forbid_unknown_fields=True):
    """The settings of a probe; its name is its id."""

    def check(self) -> dict[str, str]:
        """The name must be that of a thermometer."""
        errors = super().check()
        match = reader.ENTRY.fullmatch(self.name)
        if self.name and (match is None or int(match[1], 16) not in reader.FAMILIES):
            errors["name"] = "must be the id of a thermometer, as 28-031655c9d5ff"
        return errors


class Probe(SensorTemperature):
    """A 1-Wire temperature probe."""

    Settings: ClassVar[type[DeviceSettings]] = ProbeSettings
    slow: ClassVar[bool] = True

    def __init__(self, json: str | bytes | Mapping[str, Any] | None = None) -> None:
        super().__init__(json)
        self.file = ""
        """The path of its ``w1_slave``."""
        self.counts: dict[str, int] = {"good": 0}
        """Readings by kind: good, or the kind of error."""
        self.gone = False
        """Its directory is not there."""
        self._before: tuple[float, float] | None = None

    @property
    def family(self) -> int:
        """The family code, the first two digits of the id."""
        return int(self.name[:2], 16)

    def do_poll(self) -> dict[str, float]:
        """Read the probe; on a pool thread."""
        before = self._before
        recent = before is not None and time.monotonic() - before[1] < self.max_age
        return {"temperature": reader.read(self.file, self.family, before[0] if before and recent else None)}

    def update(self, readings: Mapping[str, Any] | BaseException) -> list[Any]:
        """Take a reading, count it, and keep a good one to judge the next by."""
        kind = "good"
        if isinstance(readings, BaseException):
            kind = readings.kind if isinstance(readings, ReadingError) else "internal"
        else:
            self._before = (readings["temperature"], time.monotonic())
        self.counts[kind] = self.counts.get(kind, 0) + 1
        return super().update(readings)

    def cmd_reset(self, value: Any = None) -> bool:
        """Forget the readings and the counts."""
        self._before = None
        self.counts = {"good": 0}
        return super().cmd_reset(value)

    def details(self) -> dict[str, Any]:
        """Chip, file, and how many readings were good or went wrong in which way."""
        return {"chip": reader.FAMILIES.get(self.family, "unknown"), "file": self.file, "counts": self.counts}


class OneWire(DeviceServer):
    """The 1-Wire server.

    :param devices_dir: the directory in which the kernel shows the probes; it need not exist yet
    :param settings: all of the section ``[onewire]``, instead of ``devices_dir``
    :raises ConfigError: ``devices_dir`` exists and is no directory that can be read
    """

    CONFIG: ClassVar[type[Section]] = OneWireConfig

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
        self._scan_running: Read | None = None
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

    def alive(self) -> bool:
        """False when reads hang, and not one of any probe has come back for three polls."""
        if not any(source.reads for source in self._sources.values()):
            return True
        longest = max([self.settings.poll, *(device.poll for device in self.devices.values())])
        return time.monotonic() - self._sign < MISSED_POLLS * longest + self.settings.timeout

    def on_reading(self, device: BaseDevice, error: BaseException | None) -> None:
        """Anything but a read that hangs is a sign of life."""
        if not (isinstance(error, ReadingError) and error.kind == "timeout"):
            self._sign = time.monotonic()

    def _scan(self) -> None:
        if self._scan_running is not None and not self._scan_running.over:
            return
        self._scan_running = Read(reader.probes)
        self.in_pool(
            self._scan_running.run,
            self.settings.devices_dir,
            done=self._scanned,
            timeout=self.settings.timeout,
        )

    def _scanned(self, found: dict[str, str] | None, error: BaseException | None) -> None:
        place, problem, idle = self.settings.devices_dir, None, False
        if found is None:
            problem = f"{place} cannot be read: {getattr(error, 'strerror', None) or error}"
            if isinstance(error, FileNotFoundError):
                idle = not self.devices and _never_set_up(place)
                problem = None if idle else f"no 1-Wire bus at {place}: is dtoverlay=w1-gpio in config.txt?"
        self.condition("bus", problem)
        self._be_idle(idle)
        found = found or {}
        if not found:
            self._sign = time.monotonic()
        for name in [name for name in self.devices if name not in found]:
            self._missing(name)
        for name, entry in found.items():
            self._present(name, os.path.join(place, entry, "w1_slave"))
        many = len(found.keys() - self.devices.keys())
        self.condition("probes", f"{many} probes above the limit of {DEVICES_LIMIT} are not read" if many else None)

    def _be_idle(self, idle: bool) -> None:
        if idle != self._idle:
            self._idle = idle
            if idle:
                MDP.logger.info("no 1-Wire bus on this machine; dtoverlay=w1-gpio in config.txt makes one")
            self._tell()

    def _present(self, name: str, file: str) -> None:
        probe = self.devices.get(name)
        if isinstance(probe, Probe):
            probe.file = file
            if probe.gone:
                probe.gone = False
                self.read_soon(probe)
        elif len(self.devices) < DEVICES_LIMIT:
            probe = Probe.new({"name": name, "poll": self.settings.poll})
            probe.file = file
            probe.timeout = self.settings.timeout
            self.add_device(probe)

    def _missing(self, name: str) -> None:
        probe = self.devices[name]
        if not isinstance(probe, Probe) or probe.gone:
            return
        if not probe.counts["good"]:
            self.remove_device(name)
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
