"""One NTP server as sync sees it: what it said last, and when it may be asked again."""

from __future__ import annotations

import math

from raspy.common.devices.source import Read
from raspy.servers.sync.ntp import SLOWER_KISS, STOP_KISSES, NTPError, Sample
from raspy.servers.sync.settings import address

LONGEST_INTERVAL = 131_072.0
"""s between two requests to a server that wants fewer: NTP's longest poll (RFC 5905, section 7.3)."""


class Source:
    """An NTP server.

    :param name: as the configuration has it
    """

    __slots__ = ("asked", "due", "host", "interval", "name", "port", "problem", "read", "sample", "stopped")

    def __init__(self, name: str) -> None:
        self.name = name
        self.host, self.port = address(name)
        self.sample: Sample | None = None
        """What it said last; None: nothing that can be believed."""
        self.problem = "not asked yet"
        self.asked = -math.inf
        """When that was (seconds since the boot)."""
        self.interval = 0.0
        """s between two requests that it wants; 0: it has not said."""
        self.due = -math.inf
        """Before this (seconds since the boot) it is not asked."""
        self.stopped = False
        """It wants never to be asked again; kept until sync is started anew."""
        self.read: Read | None = None
        """The call that is under way, or hangs."""

    def ready(self, now: float) -> bool:
        """Whether it may be asked, and none of its calls hangs."""
        return not self.stopped and now >= self.due and (self.read is None or self.read.over)

    def take(self, sample: Sample | None, error: BaseException | None, now: float, interval: float) -> None:
        """Take what asking it gave.

        :param now: seconds since the boot
        :param interval: s between two measurements
        """
        self.sample, self.asked = sample, now
        self.problem = "" if error is None else str(error) or type(error).__name__
        code = self.problem.partition(" ")[0] if isinstance(error, NTPError) and error.kind == "kiss" else ""
        if code in STOP_KISSES:
            self.stopped = True
            self.problem += ": it is not asked again"
        elif code == SLOWER_KISS:
            self.interval = min(2 * max(self.interval, interval), LONGEST_INTERVAL)
            self.problem += f": it is asked every {self.interval:g} s from now on"
        self.due = now + self.interval if self.interval else -math.inf
