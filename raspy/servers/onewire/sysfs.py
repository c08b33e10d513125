"""What else than readings there is in the kernel's 1-Wire directory: masters and slaves, bulk conversion, resolution.

Plain functions that touch files only, for a thread of the pool. The facts are from the kernel's
``Documentation/ABI/testing/sysfs-driver-w1_therm``, ``Documentation/w1/slaves/w1_therm.rst`` and
``drivers/w1/slaves/w1_therm.c`` (Linux 6.x):

* ``therm_bulk_read`` of a master starts a conversion of all chips on its bus that can (not the DS28EA00) when
  ``trigger`` *and a newline* are written; anything else is silently ignored. The write returns when the
  conversion is over, and returns well whatever happened. The file then holds ``1`` while a probe has not been
  read, ``-1`` during a conversion, else ``0``. Where the bus does not answer it is ``1`` at once, without any
  conversion: only the time that passed tells.
* After that, the first read of each probe, of ``w1_slave`` or ``temperature``, gives what was measured then,
  however long ago and whoever asked for it; the next one measures anew. During the conversion a read gives nothing.
* The kernel makes one such file, at the first master that has a probe.
* Writing ``resolution`` changes the chip's memory until it loses power. A clone that stays at 12 bits is not
  noticed: the kernel then waits too short, and reads what was measured before. The same happens when a chip loses
  power and is back at the resolution of its EEPROM. Reading ``resolution`` asks the chip, and the kernel then knows.
* ``conv_time`` is how long the kernel waits for a conversion, in ms.
"""

from __future__ import annotations

import os
import time
from typing import Literal

import msgspec

from raspy.common.devices.errors import DeviceError, ReadingError
from raspy.servers.onewire import reader

BULK_FAMILIES = frozenset((0x10, 0x22, 0x28, 0x3B))
"""Families that take part in a bulk conversion (``bulk_read`` in ``w1_therm_families`` of ``w1_therm.c``)."""
SHORTEST = 0.09
"""Seconds that any conversion takes, 93.75 ms by the DS18B20's data sheet, where the kernel does not say."""
EARLY = 0.9
"""Part of its time after which a conversion may be believed to be over."""
LOOK = 0.005
"""Seconds between looks at a conversion that is under way."""
FOREIGN = 2.0
"""Seconds that the conversion of another program is waited for."""
LONGEST = 0.75
"""Seconds that a conversion at 12 bits may take; each bit less takes half of it (DS18B20 data sheet, table 2)."""


class BulkError(DeviceError, OSError):
    """A bulk conversion did not take place; the probes are to be read one by one."""


class NotBegun(BulkError):
    """The kernel was not even asked; no probe holds a result that nobody has fetched."""


Result = Literal["", "ours", "old"]
"""What is known of the result of a bulk conversion that a chip may hold: nothing; it was made for us just now; it is
to be passed over."""


class Slave(msgspec.Struct):
    """A probe as the directory shows it."""

    directory: str
    master: str = ""
    """The bus master that it is on; empty when the directory does not tell."""


class Found(msgspec.Struct):
    """What is in the directory."""

    probes: dict[str, Slave]
    """Thermometers, by id in lower case."""
    masters: dict[str, str]
    """Bus masters, with their ``therm_bulk_read``; empty: there is none."""
    unknown: dict[str, list[str]]
    """Slaves of other families, by master."""


def scan(devices_dir: str) -> Found:
    """What is in the directory that the kernel shows.

    :raises OSError: it cannot be listed
    """
    found = Found({}, {}, {})
    for entry in sorted(filter(str.isascii, os.listdir(devices_dir))):
        path = os.path.join(devices_dir, entry)
        match = reader.ENTRY.fullmatch(entry)
        if match is None:
            if entry.startswith("w1_bus_master"):
                bulk = os.path.join(path, "therm_bulk_read")
                found.masters[entry] = bulk if os.path.exists(bulk) else ""
            continue
        master = _master(path)
        if int(match[1], 16) in reader.FAMILIES:
            found.probes.setdefault(entry.lower(), Slave(path, master))
        else:
            found.unknown.setdefault(master, []).append(entry.lower())
    return found


def _master(path: str) -> str:
    """The directory that a slave is in: its entry is a link to ``../../../devices/<master>/<slave>``."""
    try:
        name = os.path.basename(os.path.dirname(os.readlink(path)))
    except OSError:
        return ""
    return name if name.isascii() else ""


def convert_all(file: str, directories: list[str], limit: float) -> None:
    """Have all probes of a bus measure at once, and wait until they have.

    :param file: the master's ``therm_bulk_read``
    :param directories: of the probes that are to be read afterwards
    :param limit: seconds that it may take
    :raises BulkError: they have not measured, or not for long enough
    """
    began = time.monotonic()
    try:
        _write(file, "trigger\n")
    except OSError as error:
        raise NotBegun(_reason(error, file)) from error
    while (state := _text(file)) != "1":
        if state == "0":
            raise BulkError("the kernel does not begin one: no probe of the bus can")
        if time.monotonic() - began > limit:
            raise BulkError(f"not done in {limit:g} s (state {state[:10]!r})")
        time.sleep(LOOK)
    least = EARLY * max([SHORTEST, *(conversion_time(directory) for directory in directories)])
    took = time.monotonic() - began
    if took < least:
        raise BulkError(f"over after {took * 1000:.0f} ms, too early for a measurement: the bus did not answer")


def conversion_time(directory: str) -> float:
    """Seconds that the kernel gives a probe to measure; 0: it does not say."""
    text = _text(os.path.join(directory, "conv_time"))
    return min(int(text) / 1000, 60.0) if text.isdecimal() and len(text) < 9 else 0.0


def resolution(directory: str) -> int:
    """The resolution of a probe whose readings do not tell it, 9 to 12; 0: not known. Asks the chip."""
    text = _text(os.path.join(directory, "resolution"))
    return int(text) if text in ("9", "10", "11", "12") else 0


def set_resolution(directory: str, bits: int) -> str:
    """Write a resolution, into the chip's memory and not into its EEPROM.

    :returns: why it could not be written; empty: it was, and is to be read back
    """
    file = os.path.join(directory, "resolution")
    try:
        _write(file, f"{bits}\n")
    except OSError as error:
        return f"{bits} bits cannot be set: {_reason(error, file)}"
    return ""


def measure(
    directory: str, family: int, before: float | None, wanted: int, result: Result, genuine: bool = False
) -> reader.Reading:
    """Read one probe, and see to its resolution.

    :param directory: the probe's own
    :param family: its family code
    :param before: the good reading before this one, if it is recent, in °C
    :param wanted: the resolution that it is to have, 9 to 12; 0: whatever it has
    :param result: what is known of the result of a bulk conversion that it may hold
    :param genuine: the chip is known to be genuine
    :raises ReadingError: there is none that can be believed
    """
    path = os.path.join(directory, "w1_slave")
    if family in BULK_FAMILIES and (result == "old" or (result == "" and _holds_foreign(directory))):
        _pass_over(path)
    bits = 0 if os.access(path, os.R_OK) else resolution(directory)
    reading, problem = reader.read(path, family, before, bits, genuine), ""
    if wanted and family != 0x10 and reading.bits != wanted:
        problem = set_resolution(directory, wanted)
        if not problem:
            reading, problem = _measure_again(path, family, before, wanted, reading, genuine)
    if _hurried(directory, reading.bits):
        reading = reader.read(path, family, before, reading.bits, genuine)
    reading.problem = problem
    reading.conversion = conversion_time(directory)
    return reading


def _measure_again(
    path: str, family: int, before: float | None, wanted: int, first: reader.Reading, genuine: bool
) -> tuple[reader.Reading, str]:
    """Read at a resolution that was just written: whether the chip has it, its own bytes say."""
    directory = os.path.dirname(path)
    reading = reader.read(path, family, before, resolution(directory) if first.plain else 0, genuine)
    if reading.bits == wanted:
        return reading, ""
    _wait_longer(directory, reading.bits or 12)
    return reader.read(path, family, before, reading.bits, genuine), f"the chip stays at {reading.bits or 12} bits"


def _hurried(directory: str, bits: int) -> bool:
    """Whether the kernel took the chip for one of fewer bits than it has, and read it too soon; it no longer does.

    :raises ReadingError: it still does
    """
    waited = conversion_time(directory)
    if not bits or not waited or waited > 0.6 * LONGEST / (1 << 12 - bits):
        return False
    if 0 < resolution(directory) < bits:
        _wait_longer(directory, bits)
        return True
    # Unless it is another now, its owner has set how long to wait.
    return conversion_time(directory) > waited


def _wait_longer(directory: str, bits: int) -> None:
    """Tell the kernel, which believes that a chip is quicker, how many bits it has."""
    if set_resolution(directory, bits):
        raise ReadingError("resolution", f"the chip has {bits} bits and the kernel does not wait for them")


def _holds_foreign(directory: str) -> bool:
    """Whether a probe of the bus may hold the result of a bulk conversion, which is of nobody knows when."""
    file, end = os.path.join(directory, "..", "therm_bulk_read"), time.monotonic() + FOREIGN
    while (state := _text(file)) == "-1" and time.monotonic() < end:
        time.sleep(LOOK)
    return state in ("1", "-1")


def _pass_over(path: str) -> None:
    """Fetch what a probe holds, and forget it."""
    for file in (path, os.path.join(os.path.dirname(path), "temperature")):
        try:
            reader.slurp(file)
        except ReadingError:
            continue
        return


def _text(path: str) -> str:
    """A short file's text without its line end; empty when it cannot be read."""
    try:
        return reader.slurp(path).decode("ascii", "replace").strip()
    except ReadingError:
        return ""


def _write(path: str, text: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)


def _reason(error: OSError, path: str) -> str:
    reason = os.strerror(error.errno or 0)
    return f"{reason}: the server must be allowed to write {path}" if isinstance(error, PermissionError) else reason
