"""What the kernel tells of the machine: the disk and its wear, memory, load, temperature, power.

All of it is read from files of the kernel, none of which is believed: what is missing, unreadable or nonsense is not
known, and says nothing about the rest.
"""

from __future__ import annotations

import os
import re
import stat
from typing import Any

LIMIT = 4096
"""Bytes of a file that are read: none of the kernel's that are looked at has more of interest."""
SECTOR = 512
"""Bytes of a sector in a device's ``stat``, whatever the device has (Documentation/block/stat.rst)."""
WRITTEN = 6
"""Place of the sectors written in ``stat`` (Documentation/block/stat.rst), from 0."""
DEPTH = 4
"""Devices of a stack (device mapper, RAID) that are gone down."""
DISK_NAME = re.compile(r"[A-Za-z0-9!_-]{1,60}")
DAY = 86400.0
TENTHS = 0x0A
"""The last of the steps of 10 % in which an eMMC tells its life; 0x0B: it is beyond the end (JEDEC JESD84-B51, bytes
268 and 269 of the EXT_CSD register)."""
PRE_END = {1: "normal", 2: "warning", 3: "urgent"}
"""PRE_EOL_INFO, how many of the spare blocks are used up: 80 % are a warning, 90 % urgent (JEDEC JESD84-B51, byte 267
of the EXT_CSD register)."""
POWER = (
    (0, 16, "the supply voltage is too low"),
    (1, 17, "the clock of the CPU is capped"),
    (2, 18, "the CPU is slowed down"),
    (3, 19, "the CPU is near its temperature limit"),
)
"""Bits of the firmware's ``get_throttled``: now, since the start, and what it means (Raspberry Pi documentation,
vcgencmd get_throttled)."""
THROTTLED = "devices/platform/soc/soc:firmware/get_throttled"
HOTTEST, COLDEST = 150.0, -60.0
"""°C between which a temperature of a CPU is believed."""


class Machine:
    """Reads what the kernel tells.

    :param directory: whose file system and disk are looked at; the nearest one above it that is there
    :param sys: where sysfs is
    :param proc: where the files of the kernel and its processes are
    """

    def __init__(self, directory: str, sys: str = "/sys", proc: str = "/proc") -> None:
        self._directory = directory
        self._sys = sys
        self._proc = proc

    def room(self) -> dict[str, int] | None:
        """Bytes of the directory's file system: ``total``, and ``free`` for this user (statvfs(3))."""
        try:
            found = os.statvfs(self._existing())
        except OSError:
            return None
        if found.f_blocks <= 0:
            return None
        return {"total": found.f_blocks * found.f_frsize, "free": found.f_bavail * found.f_frsize}

    def disk(self, device: int | None = None) -> dict[str, Any] | None:
        """The disk that holds the directory: ``name``, ``written`` (bytes since the boot), ``per_day`` (bytes, averaged
        over the uptime), ``life``; None when that cannot be told.

        :param device: of the file system (``st_dev``); None: the directory's
        """
        if device is None:
            try:
                device = os.stat(self._existing()).st_dev
            except OSError:
                return None
        path = self._whole_disk(os.path.join(self._sys, "dev", "block", f"{os.major(device)}:{os.minor(device)}"))
        if path is None:
            return None
        written, uptime = self._written(path), self.uptime()
        return {
            "name": os.path.basename(path),
            "written": written,
            "per_day": written / uptime * DAY if written is not None and uptime else None,
            "life": self._life(path),
        }

    def uptime(self) -> float | None:
        """Seconds since the boot (proc_uptime(5))."""
        words = self._words(os.path.join(self._proc, "uptime"))
        found = _number(words[0]) if words else None
        return found if found and found > 0 else None

    def memory(self) -> dict[str, int] | None:
        """Bytes of memory: ``total``, ``free`` for programs (MemAvailable, proc_meminfo(5))."""
        found: dict[str, int] = {}
        for line in (_read(os.path.join(self._proc, "meminfo")) or "").splitlines():
            name, _, value = line.partition(":")
            words = value.split()
            size = _number(words[0]) if len(words) == 2 and words[1] == "kB" else None
            if name in ("MemTotal", "MemAvailable") and size is not None and size >= 0:
                found[name] = int(size) * 1024
        if set(found) != {"MemTotal", "MemAvailable"} or not 0 < found["MemTotal"] >= found["MemAvailable"]:
            return None
        return {"total": found["MemTotal"], "free": found["MemAvailable"]}

    def load(self) -> list[float] | None:
        """The load over 1, 5 and 15 min: tasks that run or wait for a CPU or a disk (proc_loadavg(5))."""
        found = [_number(word) for word in self._words(os.path.join(self._proc, "loadavg"))[:3]]
        known = [each for each in found if each is not None and each >= 0]
        return known if len(known) == 3 else None

    def temperature(self) -> float | None:
        """°C of the CPU (Documentation/driver-api/thermal/sysfs-api.rst: millidegrees)."""
        zones = os.path.join(self._sys, "class", "thermal")
        found: list[tuple[bool, float]] = []
        for name in _names(zones):
            if not name.startswith("thermal_zone"):
                continue
            words = self._words(os.path.join(zones, name, "temp"))
            degrees = _number(words[0]) if words else None
            if degrees is not None and COLDEST <= degrees / 1000 <= HOTTEST:
                kind = (_read(os.path.join(zones, name, "type")) or "").lower()
                found.append(("cpu" not in kind and "soc" not in kind, degrees / 1000))
        return min(found, key=lambda each: each[0])[1] if found else None

    def power(self) -> dict[str, list[str]] | None:
        """What the firmware of a Pi complains about: ``now``, and ``before`` since the boot; None: it does not tell."""
        words = self._words(os.path.join(self._sys, THROTTLED))
        try:
            bits = int(words[0], 16) if len(words) == 1 and len(words[0]) <= 10 else None
        except ValueError:
            bits = None
        if bits is None or bits < 0:
            return self._low_voltage()
        return complaints(bits)

    def _low_voltage(self) -> dict[str, list[str]] | None:
        """The driver raspberrypi-hwmon tells of the voltage alone (Documentation/hwmon/sysfs-interface.rst)."""
        monitors = os.path.join(self._sys, "class", "hwmon")
        for name in _names(monitors):
            if self._words(os.path.join(monitors, name, "name")) == ["rpi_volt"]:
                alarm = self._words(os.path.join(monitors, name, "in0_lcrit_alarm"))
                if alarm in (["0"], ["1"]):
                    return {"now": [POWER[0][2]] if alarm == ["1"] else [], "before": []}
        return None

    def _existing(self) -> str:
        path = os.path.abspath(self._directory)
        while not os.path.isdir(path) and path != os.path.dirname(path):
            path = os.path.dirname(path)
        return path

    def _whole_disk(self, link: str, depth: int = DEPTH) -> str | None:
        """The directory of the disk that a device is, is a partition of, or is made of."""
        path = os.path.realpath(link)
        if not os.path.isdir(path) or not _within(path, self._sys):
            return None
        if os.path.exists(os.path.join(path, "partition")):
            path = os.path.dirname(path)
        if DISK_NAME.fullmatch(os.path.basename(path)) is None:
            return None
        below = _names(os.path.join(path, "slaves"))
        if not below or depth <= 0:
            return path
        # Of several disks the first stands for all: they are written alike, or nobody could tell which.
        return self._whole_disk(os.path.join(path, "slaves", below[0]), depth - 1)

    def _written(self, path: str) -> int | None:
        words = self._words(os.path.join(path, "stat"))
        found = words[WRITTEN] if len(words) > WRITTEN else ""
        return int(found) * SECTOR if found.isascii() and found.isdecimal() and len(found) <= 20 else None

    def _life(self, path: str) -> dict[str, Any] | None:
        """What an eMMC tells of its wear, as drivers/mmc/core/mmc.c prints it: ``used`` (%, the worse of
        its two kinds of memory, rounded up to a step of 10; above 100: beyond its end), ``spare`` (:data:`PRE_END`).

        Of an SD card the kernel tells nothing like it.
        """
        device = os.path.join(path, "device")
        steps = [_hex(word) for word in self._words(os.path.join(device, "life_time"))[:2]]
        known = [step for step in steps if step is not None and 0 < step <= TENTHS + 1]
        spares = self._words(os.path.join(device, "pre_eol_info"))
        spare = PRE_END.get(_hex(spares[0]) or 0) if len(spares) == 1 else None
        if not known and spare is None:
            return None
        return {"used": max(known) * 10 if known else None, "spare": spare}

    def _words(self, path: str) -> list[str]:
        return (_read(path) or "").split()


def complaints(bits: int) -> dict[str, list[str]]:
    """What the bits of ``get_throttled`` mean: ``now``, and ``before`` since the boot."""
    return {
        "now": [text for now, _, text in POWER if bits >> now & 1],
        "before": [text for now, before, text in POWER if bits >> before & 1 and not bits >> now & 1],
    }


def _within(path: str, root: str) -> bool:
    root = os.path.realpath(root)
    return path.startswith(root.rstrip("/") + "/")


def _read(path: str) -> str | None:
    """The beginning of a file as text; None: it cannot be read, or is no file or no text."""
    try:
        # Not to be held up by what is no file but a pipe.
        opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError):
        return None
    try:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            return None
        return os.read(opened, LIMIT).decode("ascii")
    except (OSError, UnicodeDecodeError):
        return None
    finally:
        os.close(opened)


def _names(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))[:64]
    except OSError:
        return []


def _number(word: str) -> float | None:
    try:
        found = float(word)
    except ValueError:
        return None
    return found if -1e15 < found < 1e15 else None


def _hex(word: str) -> int | None:
    try:
        return int(word, 16) if len(word) <= 6 else None
    except ValueError:
        return None
