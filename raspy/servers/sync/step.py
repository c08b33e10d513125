"""The system clock is set: at a full second of the true time, and as late as the command will be."""

from __future__ import annotations

import msgspec

from raspy.common.clock import plausible
from raspy.servers.sync.machine import Machine
from raspy.servers.sync.ntp import date
from raspy.servers.sync.privilege import PrivilegeError
from raspy.servers.sync.round import JUMP

LEAD = 0.03
"""s that sudo and date take until the clock is set, before that was measured."""
LONGEST_LEAD = 5.0
"""s that they are believed to take."""
HOUR = 3600.0
MOST = 16
"""Times that are remembered."""
ACCURACY = 1.0
"""s within which the clock must be right when it was set: a command takes whole seconds, at its own pace."""


class Lately:
    """When something happened within the last hour."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def note(self, since: float) -> None:
        """It happened now (seconds since the boot)."""
        self.times = [*self.times[1 - MOST :], since]

    def count(self, since: float) -> int:
        """How many times, :data:`MOST` at most."""
        return sum(since - time < HOUR for time in self.times)


class Outcome(msgspec.Struct, frozen=True):
    """What became of the clock."""

    before: float
    """The system clock less the seconds since the boot, when the command was begun."""
    after: float
    """The same when it had ended."""
    left: float
    """s by which the true time is ahead of it then."""
    lead: float
    """s that the command took until the clock was set."""
    error: PrivilegeError | None
    """The command failed, or the clock is not right."""

    @property
    def moved(self) -> bool:
        """Whether it was set at all."""
        return abs(self.after - self.before) > JUMP


def set_system(machine: Machine, base: float, offset: float, lead: float = LEAD) -> Outcome:
    """Set the system clock at a full second of the true time. Blocks.

    :param base: the system clock less the seconds since the boot, that ``offset`` (s) is to be added to
    :param lead: s that the command is believed to take until the clock is set
    :raises PrivilegeError: it was not tried
    """
    target = base + offset
    if abs(machine.base() - base) > JUMP:
        raise PrivilegeError("somebody has set the clock meanwhile; it is measured again")
    if not plausible(target + machine.since()):
        raise PrivilegeError(f"{date(target + machine.since())} is no time that the clock is set to")
    second = int(target + machine.since() + lead) + 1
    machine.sleep(max(0.0, second - lead - target - machine.since()))
    before, error = machine.base(), None
    try:
        machine.privilege.set_system(second)
    except PrivilegeError as problem:
        error = problem
    after = machine.base()
    left = target - after
    if error is None and abs(left) > ACCURACY:
        error = PrivilegeError(f"the command was done, and the clock is off by {-left:+.3f} s")
    return Outcome(before, after, left, lead + left, error)
