"""One NTP server as sync sees it: what it said last, and when it may be asked again."""

from __future__ import annotations

import math

from raspy.common.devices.source import Read
from raspy.servers.sync.ntp import SLOWER_KISS, STOP_KISSES, NTPError, Sample
from raspy.servers.sync.settings import address

LONGEST_INTERVAL = 131_072.0
"""s between two requests to a server that wants fewer: NTP's longest poll (RFC 5905, section 7.3)."""
EASE = 8
"""Good answers in a row after which a server that wanted fewer requests is asked twice as often again. A name may be a
pool's, and each time be another machine."""
MOST_DENIED = 64
"""Addresses that want never to be asked again which are remembered for a name."""


class Source:
    """An NTP server.

    :param name: as the configuration has it
    """

    __slots__ = ("asked", "denied", "due", "good", "host", "interval", "name", "port", "problem", "read", "sample")

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
        self.denied: dict[str, str] = {}
        """Which of its addresses want never to be asked again, with the kiss code; kept until sync is started anew."""
        self.good = 0
        """Good answers in a row."""
        self.read: Read | None = None
        """The call that is under way, or hangs."""

    def ready(self, now: float) -> bool:
        """Whether it may be asked, and none of its calls hangs."""
        return now >= self.due and (self.read is None or self.read.over)

    def take(self, sample: Sample | None, error: BaseException | None, now: float, interval: float) -> None:
        """Take what asking it gave.

        :param now: seconds since the boot
        :param interval: s between two measurements
        """
        self.sample, self.asked = sample, now
        self.problem = "" if error is None else str(error) or type(error).__name__
        code = self.problem.partition(" ")[0] if isinstance(error, NTPError) and error.kind == "kiss" else ""
        self.good = self.good + 1 if sample is not None else 0
        if code in STOP_KISSES and isinstance(error, NTPError):
            self.denied[error.address] = code
            if len(self.denied) > MOST_DENIED:
                del self.denied[next(iter(self.denied))]
            self.problem += f": {error.address} is not asked again"
        elif code == SLOWER_KISS:
            self.interval = min(2 * max(self.interval, interval), LONGEST_INTERVAL)
            self.problem += f": it is asked every {self.interval:g} s from now on"
        elif self.interval and self.good >= EASE:
            self.good, self.interval = 0, self.interval / 2
            if self.interval <= interval:
                self.interval = 0.0
        self.due = now + self.interval if self.interval else -math.inf
