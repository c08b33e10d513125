"""What a machine knows of the time: the wall clock, whether that may be believed, and seconds that never go back."""

from __future__ import annotations

import os
import time

import msgspec

from raspy.common import MDP

SYNCHRONIZED = "/run/systemd/timesync/synchronized"
"""Is there once the clock was set from the network, and touched each time that it is (systemd-timesyncd(8))."""
TIMESYNCD = "systemd-timesyncd"

MARK = "/run/raspy-sync/trusted"
"""What the server ``sync`` says of the clock in one line (:class:`Mark`). Its directory is made for that server alone
by its unit, so that nobody else can write it."""
MARK_LIMIT = 200
"""Bytes of it."""
NONE = "none"
"""Its source while the clock is not to be believed."""

LOOK = 1.0
"""Seconds between looks for them."""

BUILT = 1_767_225_600.0
"""Unix time in s before which this release was not made (2026-01-01): a clock that says less is wrong."""
LATEST = BUILT + 40 * 31_556_952.0
"""Unix time in s that no clock is believed to show while this release runs, 40 years on."""


def plausible(wall: float) -> bool:
    """Whether a Unix time in s can be the present at all."""
    return BUILT <= wall <= LATEST


class BootClock:
    """The clocks of this boot.

    :param boot_id: what tells this boot from others
    """

    def __init__(self, boot_id: str | None = None) -> None:
        self.boot_id = boot_id or MDP.boot_id()
        self._trusted = False
        self._looked = float("-inf")

    def since(self) -> float:
        """Seconds since the machine started. Suspended time counts too (CLOCK_BOOTTIME, clock_gettime(2))."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall(self) -> float:
        """Unix time in s, as right as the machine knows it."""
        return time.time()

    def trusted(self) -> bool:
        """Whether the wall clock was set since the boot, from the network or by ``sync``; then it stays so until
        ``sync`` says that it is not to be believed any more."""
        now = time.monotonic()
        if now - self._looked > LOOK:
            self._looked = now
            mark = read_mark(MARK, self.boot_id)
            found = believed(mark, stamp(SYNCHRONIZED))
            if found or mark is not None:
                self._trusted = bool(found)
        return self._trusted


class Mark(msgspec.Struct, frozen=True):
    """What ``sync`` says of the clock: the words of its line, after the id of the boot."""

    source: str
    """What the clock is believed for, as ``ntp``; :data:`NONE`: it is not to be believed."""
    base: float | None = None
    """The wall clock less the seconds since the boot, as it was then: another one when somebody has set it since."""
    stamp: str = ""
    """The :func:`stamp` of systemd-timesyncd as it was then."""


def read_mark(path: str, boot_id: str = "") -> Mark | None:
    """What ``sync`` has said of the clock in this boot; None: nothing.

    A mark of another boot, where ``/run`` outlives one, is none.

    :param boot_id: what tells this boot from others; empty: the kernel's
    """
    try:
        with open(path, encoding="ascii") as file:
            marked, source, *more = file.read(MARK_LIMIT).split()
        base = float(more[0]) if more else None
    except (OSError, ValueError):
        return None
    return Mark(source, base, more[1] if len(more) > 1 else "") if marked == (boot_id or MDP.boot_id()) else None


def stamp(path: str) -> str:
    """When systemd-timesyncd last set the clock, to be compared with another one; empty: it has not."""
    try:
        return str(os.stat(path).st_mtime_ns)
    except OSError:
        return ""


def believed(mark: Mark | None, stamp: str) -> str:
    """What the clock is to be trusted for; empty: it is not.

    The stamp of systemd-timesyncd stays for the rest of the boot, so it says nothing once ``sync`` has found that the
    clock is wrong, until that daemon sets it again.
    """
    if mark is not None and mark.source != NONE:
        return mark.source
    return TIMESYNCD if stamp and (mark is None or mark.stamp != stamp) else ""
