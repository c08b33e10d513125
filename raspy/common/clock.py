"""What a machine knows of the time: the wall clock, whether that may be believed, and seconds that never go back."""

from __future__ import annotations

import os
import time

from raspy.common import MDP

SYNCHRONIZED = "/run/systemd/timesync/synchronized"
"""Is there once the clock was set from the network (systemd-timesyncd(8))."""

MARK = "/run/raspy-sync/trusted"
"""Is there once the server ``sync`` believes the clock: one line, the boot's id and what the time is from. Its
directory is made for that server alone by its unit, so that nobody else can write it."""
MARK_LIMIT = 100
"""Bytes of it."""

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
        """Whether the wall clock was set since the boot, from the network or by ``sync``; then it stays so."""
        now = time.monotonic()
        if not self._trusted and now - self._looked > LOOK:
            self._looked = now
            self._trusted = os.path.exists(SYNCHRONIZED) or bool(read_mark(MARK, self.boot_id))
        return self._trusted


def read_mark(path: str, boot_id: str = "") -> str:
    """What ``sync`` has believed the clock for in this boot, as ``ntp``; empty: it has not.

    A mark of another boot, where ``/run`` outlives one, is none.

    :param boot_id: what tells this boot from others; empty: the kernel's
    """
    try:
        with open(path, encoding="ascii") as file:
            marked, _, source = file.read(MARK_LIMIT).strip().partition(" ")
    except (OSError, ValueError):
        return ""
    return source if marked == (boot_id or MDP.boot_id()) else ""
