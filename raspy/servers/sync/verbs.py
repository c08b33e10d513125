"""The verbs of the service ``<hostname>.sync.time``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from raspy.common import MDP
from raspy.common.verbs import Later, VerbError, Verbs
from raspy.servers.sync.decide import LIMIT, NO_RTC
from raspy.servers.sync.report import ntp_offset
from raspy.servers.sync.report import status as report

if TYPE_CHECKING:
    from raspy.servers.sync.server import Sync

TIME = Verbs("time")

SPACING = 16.0
"""s between two measurements that are asked for by hand, at least; the answer before is given again."""


@TIME.verb(reads=True)
def status(server: Sync) -> dict[str, Any]:
    """The three clocks as they were last measured: ``system``, ``ntp`` with each server, ``rtc``; who keeps the
    system clock, and the last change."""
    return report(server)


@TIME.verb()
def ntp(server: Sync) -> Later:
    """Measure now, at most once in 16 s, do what follows from it, and answer what the NTP servers say."""
    return _measure(server, "ntp")


@TIME.verb()
def rtc(server: Sync) -> Later:
    """Measure now, at most once in 16 s, do what follows from it, and answer what the RTC says."""
    return _measure(server, "rtc")


@TIME.verb()
def rtc_to_system(server: Sync) -> Later:
    """Set the system clock from the RTC, by hand: also to before the last known time."""
    _may(server)
    reading, time = server.reading, server.rtc_now()
    if reading is None and server.facts is not None:
        raise VerbError(MDP.CONFLICT, NO_RTC)
    if reading is None or time is None or not reading.good:
        raise VerbError(MDP.CONFLICT, f"the RTC: {server.decision.rtc_doubt or 'not read yet'}")
    base, offset = server.machine.base(), time - server.machine.wall()
    reason = f"set by {reading.name}, by hand"
    server.by_hand(msgspec.structs.replace(server.decision, trusted="rtc", reason=reason, step=offset, write_rtc=""))
    server.step(base, offset, "rtc", "by hand")
    return _later(server, "system")


@TIME.verb()
def ntp_to_rtc(server: Sync) -> Later:
    """Set the RTC, by hand: to the system clock, when that agrees with NTP."""
    _may(server)
    offset = ntp_offset(server)
    if offset is None or abs(offset) > LIMIT:
        told = "no NTP server says so" if offset is None else f"it is off by {-offset:+.3f} s"
        raise VerbError(MDP.CONFLICT, f"the system clock is not known to be right: {told}")
    if server.reading is None or not server.reading.device:
        raise VerbError(MDP.CONFLICT, NO_RTC)
    server.by_hand(msgspec.structs.replace(server.decision, step=None))
    server.write_rtc("by hand")
    return _later(server, "rtc")


def _may(server: Sync) -> None:
    if server.may_set:
        raise VerbError(MDP.CONFLICT, server.may_set)
    if server.round is not None:
        raise VerbError(MDP.UNAVAILABLE, "a measurement is under way; try again in some seconds")


def _measure(server: Sync, part: str) -> Later:
    if server.round is None and server.machine.since() - server.ended < SPACING:
        later = Later()
        later.reply(report(server)[part])
        return later
    server.measure()
    return _later(server, part)


def _later(server: Sync, part: str) -> Later:
    """The answer that is given when the round is over."""
    later = Later()

    def answer() -> None:
        failed = server.conditions.get("set") if part == "system" else server.conditions.get("set RTC")
        if failed and part != "ntp":
            later.fail(MDP.ERROR, failed)
        else:
            later.reply(report(server)[part])

    if server.round is None:
        answer()
    else:
        server.waiting.append(answer)
    return later
