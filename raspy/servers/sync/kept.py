"""What sync keeps on the disk: the latest time at which the clock was trusted, and when the RTC was set."""

from __future__ import annotations

import msgspec

from raspy.common import MDP
from raspy.common.clock import plausible
from raspy.common.wholefile import replace

LIMIT = 4096
"""Bytes of the file."""
INTERVAL = 3600.0
"""s between two writes, at least, while the time goes on as it should."""


class Known(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known from before."""

    last: float | None = None
    """Unix s."""
    boot: str = ""
    rtc_set: float = 0.0
    """When the RTC was last set: seconds since the start of that boot."""


class Kept:
    """The file.

    :param path: None: nothing outlives the process
    """

    def __init__(self, path: str | None) -> None:
        self.path = path
        self.known = Known()

    def load(self) -> None:
        """Read it. One that is no good is as none: it is a floor for the RTC, and the next good time makes it anew."""
        if self.path is None:
            return
        try:
            with open(self.path, "rb") as file:
                known = msgspec.json.decode(file.read(LIMIT), type=Known)
        except FileNotFoundError:
            return
        except (OSError, msgspec.MsgspecError, ValueError) as error:
            MDP.logger.warning("%s is no good, and will be written anew: %s", self.path, error)
            return
        if known.last is not None and not plausible(known.last):
            MDP.logger.warning("%s has a time that cannot be, which does not count", self.path)
            known = msgspec.structs.replace(known, last=None)
        self.known = known

    def due(self, now: float, sure: bool) -> bool:
        """Whether a trusted time is to be written: an hour is over, or it went back.

        :param sure: it may have gone back; else it is a floor
        """
        last = self.known.last
        return last is None or now >= last + INTERVAL or (sure and now < last)

    def rtc_age(self, boot: str, since: float) -> float:
        """Seconds since the RTC was set in this boot; infinite when it was not."""
        known = self.known
        return since - known.rtc_set if known.boot == boot else float("inf")

    def write(self, known: Known) -> None:
        """Have it on the disk; on a thread, or when all is over.

        :raises OSError: it is not
        """
        if self.path is not None:
            replace(self.path, msgspec.json.encode(known))
