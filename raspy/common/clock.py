"""What a machine knows of the time: the wall clock, whether that may be believed, and seconds that never go back."""

from __future__ import annotations

import os
import time

from raspy.common import MDP

SYNCHRONIZED = "/run/systemd/timesync/synchronized"
"""Is there once the clock was set from the network (systemd-timesyncd(8))."""

LOOK = 1.0
"""Seconds between looks for it."""


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
        """Whether the wall clock was set from the network since the boot; then it stays so."""
        now = time.monotonic()
        if not self._trusted and now - self._looked > LOOK:
            self._looked, self._trusted = now, os.path.exists(SYNCHRONIZED)
        return self._trusted
