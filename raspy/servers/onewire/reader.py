"""Reading 1-Wire temperature probes from sysfs: plain functions, nothing of the bus or of threads.

The kernel's w1_therm driver shows each probe as a directory named ``<family>-<id>`` whose file ``w1_slave``
holds, after a conversion of up to 750 ms that opening and reading it starts, two lines (``w1_therm.rst`` of
the kernel's documentation)::

    51 01 4b 46 7f ff 0c 10 ab : crc=ab YES
    51 01 4b 46 7f ff 0c 10 ab t=21062

The first line is the scratchpad as it was read just now, the second the last one whose CRC held. The
temperature is computed here from the first: ``t=`` is cut to 1/1000 degree, is that of the damaged bytes
when the CRC failed, and says nothing of the reserved bytes.

A number is returned only when the kernel says YES, the CRC recomputed here holds, the scratchpad is not all
zero (a line held low; the CRC of zeros is zero), and the result is within the chip's -55 to 125 °C.

85.0 °C (raw 0x0550) is what the register holds after power-on (DS18B20 data sheet, "Temperature Register"),
so it is also what a probe says whose conversion failed for want of power. The data sheet calls byte 6
reserved. On genuine chips it is 0x0c after power-on, and 0x10 less the low four bits of the reading after a
conversion, hence 0x10 for a real 85.0. The kernel relies on the same (``features`` bit 0 in
``w1_therm.rst``, which also names 127.94, raw 0x07ff, for too little power). Clones differ: with some, byte
6 is the same at any temperature, mostly 0x0c. Hence, for a raw 0x0550:

* byte 6 is 0x10: real;
* byte 6 is 0x0c, and the chip is known to be genuine, as a reading at 12 bits had another byte 6, and the right
  one: the power-on value;
* else real when the reading before was within 10 degrees, as in a boiler on its way there. Without a reading
  before it is refused, however long.

On a DS18S20 (family 10) the power-on value 0x00aa comes with bytes 6 and 7 at 0x0c and 0x10, exactly as a
real 85.0 does; there the reading before decides alone.

Clones whose byte 7 is 0x66 begin at 25.0 (90 01 55 05 7f 7e 81 66), or with what they measured before they lost
power (C. Petrich, "Your DS18B20 temperature sensor is likely a fake", families D). For them 25.0 is judged by the
reading before in the same way. That such a clone has not measured at all, at a temperature within 10 degrees of
25.0, cannot be told.

Where ``w1_slave`` is missing or may not be read, ``temperature`` is: one number, in 1/1000 degree. The kernel
checks the CRC of that one too and gives nothing when it fails, but of the scratchpad there is no more to see.
Then 85.0 and 0.0, which is what a line held low reads as, are believed only when the reading before was within
10 degrees.
"""

from __future__ import annotations

import errno
import os
import re
from typing import NoReturn

import msgspec

from raspy.common.devices.errors import ReadingError

FAMILIES = {
    0x10: "DS18S20",
    0x22: "DS1822",
    0x28: "DS18B20",
    0x3B: "DS1825",
    0x42: "DS28EA00",
}
"""Family codes that are thermometers (``w1_therm.rst``)."""

ENTRY = re.compile(r"([0-9a-fA-F]{2})-([0-9a-fA-F]{12})")
"""The name of a probe's directory."""

LOWEST, HIGHEST = -55.0, 125.0
POWER_ON = 85.0
"""°C that a probe says after power-on, before it has measured (DS18B20 data sheet, table 1)."""
CLONE_ON = 25.0
"""°C that a clone says then whose byte 7 is :data:`CLONE`."""
CLONE = 0x66
JUMP = 10.0
"""Degrees from one reading to the next beyond which a doubtful one is not believed."""

_LIMIT = 4096  # a sysfs file is at most a page
_HEX9 = rb"((?:[0-9a-fA-F]{2} ){9})"
_TEXT = re.compile(_HEX9 + rb": crc=([0-9a-fA-F]{2}) (YES|NO)\n(?:" + _HEX9 + rb"t=-?[0-9]{1,10}\n?)?")
_NUMBER = re.compile(rb"-?[0-9]{1,6}\n?")


class Reading(msgspec.Struct):
    """A temperature that can be believed, and how it was come by."""

    degrees: float
    """As the chip has it, in °C."""
    bits: int = 0
    """The resolution that the chip has; 0: not known."""
    plain: bool = False
    """Read from ``temperature``, without the scratchpad."""
    retried: bool = False
    """The first attempt was no good."""
    conversion: float = 0.0
    """Seconds that the kernel gives the chip to measure; 0: not known."""
    problem: str = ""
    """Why the chip does not have the resolution that its owner wants."""
    genuine: bool | None = None
    """Byte 6 was that of a genuine chip, or not; None: that cannot be told from this reading."""


def is_probe(name: str) -> bool:
    """Whether a name is the id of a thermometer."""
    match = ENTRY.fullmatch(name)
    return match is not None and int(match[1], 16) in FAMILIES


def read(path: str, family: int, before: float | None = None, bits: int = 0, genuine: bool = False) -> Reading:
    """Read one probe, once more when the first reading is no good.

    :param path: the probe's ``w1_slave`` file
    :param family: its family code, one of :data:`FAMILIES`
    :param before: the good reading before this one, if it is recent, in °C
    :param bits: the chip's resolution, for a probe that does not tell it with the reading; 0: not known
    :param genuine: the chip is known to be genuine
    :raises ReadingError: there is none that can be believed
    """
    try:
        return _attempt(path, family, before, bits, genuine)
    except ReadingError as error:
        if error.kind == "gone":
            raise
    reading = _attempt(path, family, before, bits, genuine)
    reading.retried = True
    return reading


def _attempt(path: str, family: int, before: float | None, bits: int, genuine: bool) -> Reading:
    try:
        text = slurp(path)
    except ReadingError as error:
        try:
            text = slurp(os.path.join(os.path.dirname(path), "temperature"))
        except ReadingError:
            raise error from None
        return Reading(decode_plain(text, before, bits), bits=bits, plain=True)
    scratchpad = decode_scratchpad(text)
    degrees = degrees_of(scratchpad, family, before, genuine)
    return Reading(degrees, bits=bits_of(scratchpad, family), genuine=genuine_of(scratchpad, family))


def slurp(path: str) -> bytes:
    """The file's bytes, at most a page of them.

    :raises ReadingError: it cannot be read
    """
    try:
        # One read() only: sysfs makes the text, and the probe measures, when a file is read from its start.
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(file, _LIMIT)
        finally:
            os.close(file)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            raise ReadingError("gone", "gone: the probe is not on the bus") from error
        raise ReadingError("io", f"cannot be read: {os.strerror(error.errno or 0)}") from error


def decode(text: bytes, family: int, before: float | None = None, genuine: bool = False) -> float:
    """The temperature in °C that the text of a ``w1_slave`` file gives.

    :raises ReadingError: it gives none that can be believed
    """
    return degrees_of(decode_scratchpad(text), family, before, genuine)


def decode_scratchpad(text: bytes) -> bytes:
    """The nine bytes of the scratchpad that the text of a ``w1_slave`` file gives.

    :raises ReadingError: they cannot be believed
    """
    if not text:
        _refuse("silent", "no answer: the kernel got nothing from the probe whose CRC held")
    match = _TEXT.fullmatch(text)
    if match is None:
        _refuse("text", f"not the text of a w1_slave file: {text[:40].decode('ascii', 'replace')!r}")
    scratchpad = bytes.fromhex(match[1].decode())
    if not any(scratchpad):
        _refuse("silent", "nothing answered: all bytes are zero (line held low or short circuit)")
    if scratchpad == b"\xff" * 9:
        _refuse("silent", "nothing answered: all bytes are 255 (line open)")
    if match[3] != b"YES" or crc8(scratchpad[:8]) != scratchpad[8] or int(match[2], 16) != scratchpad[8]:
        _refuse("crc", "CRC failed: the bytes were damaged on the way")
    return scratchpad


def degrees_of(scratchpad: bytes, family: int, before: float | None = None, genuine: bool = False) -> float:
    """The temperature in °C that a scratchpad holds.

    :param genuine: the chip is known to be genuine
    :raises ReadingError: it holds none that can be believed
    """
    degrees = _ds18s20(scratchpad) if family == 0x10 else _ds18b20(scratchpad, family)
    if degrees == POWER_ON or (degrees == CLONE_ON and family != 0x10 and scratchpad[7] == CLONE):
        near = before is not None and abs(before - degrees) <= JUMP
        byte6 = scratchpad[6] if family != 0x10 else 0
        genuine = genuine and bits_of(scratchpad, family) == 12
        if not (degrees == POWER_ON and byte6 == 0x10) and (not near or (genuine and byte6 == 0x0C)):
            _refuse("power-on", f"{degrees:.1f} {_POWER_ON}")
    return _in_range(degrees)


def bits_of(scratchpad: bytes, family: int) -> int:
    """The resolution that a scratchpad tells, 9 to 12 bits; 0: none (DS18B20 data sheet, figure 10).

    A DS1825 has its address in the lower bits of that byte (its data sheet, "Configuration Register").
    """
    config, fixed = scratchpad[4], 0x90 if family == 0x3B else 0x9F
    return (config >> 5 & 3) + 9 if family != 0x10 and config & fixed == 0x1F & fixed else 0


def genuine_of(scratchpad: bytes, family: int) -> bool | None:
    """Whether a good scratchpad is that of a genuine chip; None: it does not tell."""
    if bits_of(scratchpad, family) != 12:
        return None
    if scratchpad[6] != 0x10 - (scratchpad[0] & 15):
        return False
    return None if scratchpad[6] == 0x0C else True


def decode_plain(text: bytes, before: float | None = None, bits: int = 0) -> float:
    """The temperature in °C that the text of a ``temperature`` file gives, to the sixteenth that the chip had.

    :param bits: the chip's resolution; 0: not known
    :raises ReadingError: it gives none that can be believed
    """
    if not text:
        _refuse("silent", "no answer: the kernel got nothing from the probe whose CRC held")
    if _NUMBER.fullmatch(text) is None:
        _refuse("text", f"not the text of a temperature file: {text[:40].decode('ascii', 'replace')!r}")
    thousandths = int(text)
    degrees = round(thousandths * 16 / 1000) / 16
    if abs(degrees * 1000 - thousandths) > 1:
        degrees = thousandths / 1000
    elif bits:
        degrees = (int(degrees * 16) & -1 << 12 - bits) / 16
    far = before is None or abs(before - degrees) > JUMP
    if degrees == POWER_ON and far:
        _refuse("power-on", f"85.0 {_POWER_ON}")
    if degrees == 0 and far:
        _refuse("silent", "0 °C is also what a line held low reads as, and there are no bytes to tell the two apart")
    if thousandths == 127937:
        _refuse("power", "the probe has too little power to measure")
    return _in_range(degrees)


def crc8(data: bytes) -> int:
    """The CRC of 1-Wire: x^8 + x^5 + x^4 + 1, least bit first (Maxim application note 27)."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x8C if crc & 1 else crc >> 1
    return crc


def _ds18b20(scratchpad: bytes, family: int) -> float:
    """Sixteenths of a degree; bits below the resolution are undefined (DS18B20 data sheet, table 1)."""
    if family == 0x3B and scratchpad[4] & 0x80:
        _refuse("unsupported", "a MAX31850 thermocouple, which is not supported")
    raw = int.from_bytes(scratchpad[:2], "little", signed=True)
    if raw == 0x07FF and scratchpad[6] == 0x0C:
        _refuse("power", "the probe has too little power to measure")
    if bits := bits_of(scratchpad, family):
        raw &= -1 << 12 - bits
    return raw / 16


def _ds18s20(scratchpad: bytes) -> float:
    """Half degrees, made finer by COUNT_REMAIN and COUNT_PER_C (DS18S20 data sheet, "Operation")."""
    remain, per_degree = scratchpad[6], scratchpad[7]
    if not per_degree or remain > per_degree:
        _refuse("text", f"COUNT_REMAIN {remain} and COUNT_PER_C {per_degree} cannot be")
    half_degrees = int.from_bytes(scratchpad[:2], "little", signed=True)
    return (half_degrees >> 1) - 0.25 + (per_degree - remain) / per_degree


_POWER_ON = "°C is what the probe says after power-on: it has lost power or not measured"


def _in_range(degrees: float) -> float:
    if not LOWEST <= degrees <= HIGHEST:
        _refuse("range", f"{degrees:g} °C is outside the probe's range of {LOWEST:g} to {HIGHEST:g} °C")
    return degrees


def _refuse(kind: str, reason: str) -> NoReturn:
    raise ReadingError(kind, reason)
