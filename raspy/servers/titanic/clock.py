"""The server's own clock: seconds that never go back, over reboots too."""

from __future__ import annotations

import os
import time

from raspy.common import MDP
from raspy.servers.titanic.records import Boot

SYNCHRONIZED = "/run/systemd/timesync/synchronized"
"""Is there once the clock was set from the network (systemd-timesyncd(8))."""

LOOK = 1.0
"""Seconds between looks for it."""


class Clock:
    """Counts from :meth:`start`. Suspended time counts too (CLOCK_BOOTTIME, clock_gettime(2)).

    :param boot_id: what tells this boot from others
    """

    def __init__(self, boot_id: str | None = None) -> None:
        self.boot_id = boot_id or MDP.boot_id()
        self.base: float | None = None
        """What is added to the seconds since the boot; None until the file has said it."""
        self._trusted = False
        self._looked = float("-inf")

    def boot(self) -> Boot:
        """What is known now."""
        return Boot(self.boot_id, self.since(), time.time(), self.trusted(), self.base)

    def start(self, base: float) -> None:
        """Go on from where the file says."""
        self.base = base

    def since(self) -> float:
        """Seconds since the machine started."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def now(self) -> float:
        """Seconds."""
        return (self.base or 0.0) + self.since()

    def trusted(self) -> bool:
        """Whether the wall clock was set from the network since the boot."""
        now = time.monotonic()
        if now - self._looked > LOOK:
            self._looked, self._trusted = now, os.path.exists(SYNCHRONIZED)
        return self._trusted
