"""Hardware PWM, as the kernel shows it below ``/sys/class/pwm`` (Documentation/driver-api/pwm.rst of Linux).

A channel keeps what it was set to when the process that set it has ended. Its files belong to nobody in particular:
processes of RasPy keep off each other's by a lock (flock(2)); that no other program uses a channel cannot be told.
"""

from __future__ import annotations

import fcntl
import os

from raspy.servers.gpio.chips import Busy, LineError, UnknownLine

DIRECTORY = "/sys/class/pwm"
NS = 1_000_000_000


def chips(directory: str) -> dict[str, str]:
    """The PWM chips by name, as ``pwmchip0``, each with the name of its device, as ``fe20c000.pwm``; empty where that
    is not known, or is that of several."""
    found = {}
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return {}
    for name in names:
        if name.startswith("pwmchip"):
            device = os.path.join(directory, name, "device")
            found[name] = os.path.basename(os.path.realpath(device)) if os.path.exists(device) else ""
    devices = list(found.values())
    return {name: device if devices.count(device) == 1 else "" for name, device in found.items()}


def find(directory: str, channel: str) -> tuple[str, str]:
    """The directory of a channel, whether it has been exported or not, and what is the same for all names of it.

    :param channel: the chip or its device, ``:``, and the number of the channel, as ``pwmchip0:1``
    :raises UnknownLine: there is no such channel
    """
    wanted, _, number = channel.rpartition(":")
    there = chips(directory)
    names = [name for name, device in there.items() if wanted in (name, device)]
    if len(names) != 1:
        known = ", ".join(f"{name}{f' ({device})' if device else ''}" for name, device in there.items()) or "none"
        hint = "" if there else ": is dtoverlay=pwm-2chan in config.txt?"
        raise UnknownLine(f"{channel}: there is no PWM chip {wanted}; known are {known}{hint}")
    path = os.path.join(directory, names[0])
    try:
        count = int(_read(os.path.join(path, "npwm")))
    except ValueError:
        count = 0
    if not number.isdecimal() or int(number) >= count:
        raise UnknownLine(f"{channel}: {names[0]} has the channels 0 to {count - 1}")
    return os.path.join(path, f"pwm{int(number)}"), f"pwm:{there[names[0]] or names[0]}:{int(number)}"


class Channel:
    """A channel in use. Taking it changes nothing of what it does.

    :param path: its directory, from :func:`find`
    :raises Busy: another process of RasPy has it
    :raises LineError: it cannot be had
    """

    __slots__ = ("_duty", "_inverted", "_lock", "_period", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self._period = 0
        self._inverted = False
        self._duty = -1
        self._lock = -1
        if not os.path.isdir(path):
            self._export()
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise LineError(f"{path}: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            if isinstance(error, BlockingIOError):
                raise Busy(f"{path} is in use by another process of RasPy") from error
            raise LineError(f"{path}: {error.strerror}") from error
        self._lock = lock

    def set_up(self, period: float, inverted: bool) -> None:
        """Have a period, in s, and a polarity, with the output off until :meth:`set`.

        :raises LineError: it does not do so
        """
        # Whatever is written, the kernel refuses what would leave a period of 0, which a new channel has, or one that
        # is shorter than the duty cycle (__pwm_apply in drivers/pwm/core.c).
        self._duty = -1
        if self._get("period") != "0":
            self._put("duty_cycle", 0)
        self._period = round(period * NS)
        self._put("period", self._period)
        self._put("duty_cycle", 0)
        polarity = "inversed" if inverted else "normal"
        if self._get("polarity") != polarity:
            # Only a channel that is not enabled can be turned round.
            self._put("enable", 0)
            self._put("polarity", polarity)
        self._inverted = inverted
        self._put("enable", 1)

    def set(self, duty: float) -> None:
        """Have a duty cycle, 0 to 1.

        :raises LineError: it does not do so
        """
        wanted = min(max(round(self._period * duty), 1 if duty > 0 else 0), self._period)
        self._duty = -1
        self._put("duty_cycle", wanted)
        self._duty = wanted

    def close(self) -> None:
        """Give it back, as it is. It stays in use where it is on, and where it is inverted: disabled it would be low,
        which is on."""
        lock, self._lock = self._lock, -1
        if lock < 0:
            return
        try:
            if not self._duty and not self._inverted:
                self._put("enable", 0)
                chip, name = os.path.split(self.path)
                _write(os.path.join(chip, "unexport"), name.removeprefix("pwm"))
        except LineError:
            # It is gone, or somebody else has given it back.
            pass
        finally:
            os.close(lock)

    def _export(self) -> None:
        chip, name = os.path.split(self.path)
        _write(os.path.join(chip, "export"), name.removeprefix("pwm"))

    def _put(self, file: str, value: int | str) -> None:
        _write(os.path.join(self.path, file), str(value))

    def _get(self, file: str) -> str:
        return _read(os.path.join(self.path, file)).strip()


def _write(path: str, text: str) -> None:
    try:
        # Not made when it is not there: a chip that is gone does not come back as a file.
        descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        raise LineError(f"{path}: {error.strerror}") from error


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(64)
    except OSError as error:
        raise LineError(f"{path}: {error.strerror}") from error
