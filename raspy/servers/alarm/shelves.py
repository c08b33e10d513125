"""Shelving: for how long an alarm is not told of, whatever becomes of the clocks.

Within a boot it is the machine's own clock that counts, which nobody can set (CLOCK_BOOTTIME). Over a boot only the
wall clock can tell. Where that was not known to be right, before the boot or after it, shelving ends when it says so,
but at the latest when the time that it was to have has passed once more; a clock that is past the end does not end it.
That happens once: the next boot whose clock is not known to be right ends it.
"""

from __future__ import annotations

from raspy.common.clock import BootClock
from raspy.servers.alarm.alarms import Shelf

LONGEST = 86_400.0
"""Seconds."""
MOVED = 2.0
"""Seconds by which the wall clock must have been set for the end to be told anew."""


def shelf(clock: BootClock, seconds: float) -> Shelf:
    """A shelf for so many seconds from now on."""
    return Shelf(seconds, clock.boot_id, clock.since() + seconds, clock.wall() + seconds, clock.trusted())


def left(clock: BootClock, found: Shelf) -> float:
    """Seconds that are left of it; below 0: it is over."""
    return found.end - clock.since()


def take_up(clock: BootClock, found: Shelf) -> bool:
    """See what is left after a start: the boot may be another one, which has a clock of its own. Whether it is."""
    if found.boot == clock.boot_id:
        return False
    rest = found.until - clock.wall()
    if found.trusted and clock.trusted():
        rest = min(rest, found.seconds)
    elif found.extended:
        rest = 0.0
    else:
        # A clock that has stood still meanwhile has it last longer; one that is years ahead does not end it.
        rest = min(rest, found.seconds) if rest > 0 else found.seconds
        found.extended = True
    found.boot, found.end = clock.boot_id, clock.since() + rest
    return True


def follow(clock: BootClock, found: Shelf) -> bool:
    """See whether the wall clock was set; whether the end is another one on it."""
    until = clock.wall() + left(clock, found)
    trusted = clock.trusted()
    if abs(until - found.until) < MOVED and trusted == found.trusted:
        return False
    found.until, found.trusted = until, trusted
    return True
