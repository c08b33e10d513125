"""The few things that need root, each by one exact command line that ``systemd/sudoers/raspy-sync`` allows.

This module is all of RasPy that uses sudo. Tests put another object in the place of :class:`Privilege`.
"""

from __future__ import annotations

import os
import re
import select
import signal
import time

from raspy.common.log import printable
from raspy.common.MDP import ServerError

SUDO, DATE, HWCLOCK = "/usr/bin/sudo", "/usr/bin/date", "/usr/sbin/hwclock"
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "TZ": "UTC"}
PATIENCE = 10.0
"""Seconds that a command may take."""
GRACE = 1.0
"""Seconds that one which has closed its output, or was told to end, has left."""
OUTPUT = 4096
"""Bytes of what it says that are looked at."""
RTC_DEVICE = re.compile(r"/dev/rtc[0-9]")
SECONDS = range(10**9, 10**10)
"""Unix times of ten digits: 2001 to 2286."""


class PrivilegeError(ServerError, OSError):
    """The system refused, or the command failed; the message says which and why."""


class Privilege:
    """What sync may do as root. Each call blocks, so it is made on a thread."""

    def set_system(self, seconds: int) -> None:
        """Set the system clock (date(1)).

        :param seconds: Unix time, s
        :raises PrivilegeError: it was not set
        """
        run(date_command(seconds))

    def write_rtc(self, device: str) -> None:
        """Set the RTC to the system clock, in UTC (hwclock(8)). ``/etc/adjtime`` is neither read nor written.

        :param device: as ``/dev/rtc0``
        :raises PrivilegeError: it was not set
        """
        run(hwclock_command(device))


def date_command(seconds: int) -> list[str]:
    """The command line that sets the system clock.

    :raises PrivilegeError: not a time of ten digits
    """
    if seconds not in SECONDS:
        raise PrivilegeError(f"{seconds} is no time that the clock is ever set to")
    return [SUDO, "-n", DATE, "-u", "-s", f"@{seconds}"]


def hwclock_command(device: str) -> list[str]:
    """The command line that sets an RTC.

    :raises PrivilegeError: not the name of one
    """
    if not RTC_DEVICE.fullmatch(device):
        raise PrivilegeError(f"{device!r:.60} is no RTC")
    return [SUDO, "-n", HWCLOCK, "--systohc", "--utc", "--noadjfile", f"--rtc={device}"]


def run(command: list[str], patience: float = PATIENCE) -> None:
    """Run a command to its end, with nothing on its standard input.

    :param patience: seconds that it may take
    :raises PrivilegeError: it cannot be run, fails, or takes too long and is killed
    """
    called = os.path.basename(command[2] if command[0] == SUDO else command[0])
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            pid = os.posix_spawn(
                command[0],
                command,
                ENVIRONMENT,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, theirs, 1),
                    (os.POSIX_SPAWN_DUP2, theirs, 2),
                ],
                setpgroup=0,
                setsigmask=[],
                setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE],
            )
        except OSError as error:
            raise PrivilegeError(f"{command[0]} cannot be run: {error.strerror}") from error
        finally:
            os.close(theirs)
        said, ended = _follow(ours, patience)
        status = _end(pid, ended)
    finally:
        os.close(ours)
    if status is None:
        raise PrivilegeError(f"{called} did not end within {patience:g} s")
    code = os.waitstatus_to_exitcode(status)
    if code:
        lines = said.decode("utf-8", "replace").strip().splitlines()
        why = printable(lines[-1])[:200] if lines else f"exit code {code}"
        raise PrivilegeError(f"{called} failed: {why}")


def _follow(output: int, patience: float) -> tuple[bytes, bool]:
    """What a process says, the beginning of it, and whether it said all in time."""
    poller, end, said = select.poll(), time.monotonic() + patience, b""
    poller.register(output, select.POLLIN)
    while poller.poll(max(0, int((end - time.monotonic()) * 1000))):
        found = os.read(output, OUTPUT)
        if not found:
            return said, True
        said = (said + found)[:OUTPUT]
    return said, False


def _end(pid: int, ended: bool) -> int | None:
    """Wait for a process that has closed its output, end one that has not; its status, None when it was too slow."""
    limit = time.monotonic() + GRACE
    if not ended:
        # sudo passes SIGTERM on to what it runs; a user may not send it SIGKILL, or perhaps nothing at all.
        _signal(pid, signal.SIGTERM)
    while time.monotonic() < limit:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return status if ended else None
        time.sleep(0.01)
    _signal(pid, signal.SIGKILL)
    found, _ = os.waitpid(pid, os.WNOHANG)
    return None


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (PermissionError, ProcessLookupError):
        pass
