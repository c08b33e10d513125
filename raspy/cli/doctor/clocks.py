"""The clocks: whether the time is to be trusted, who keeps it, the RTC, and the time zone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from raspy.cli import clock
from raspy.cli.doctor.check import Found, Look, check, ok, problem, warning
from raspy.cli.table import duration
from raspy.common.clock import BUILT, BootClock, plausible
from raspy.common.MDP import GenericError
from raspy.servers.core.settings import CoreConfig, machine_zone
from raspy.servers.sync.keepers import keeper
from raspy.servers.sync.machine import Machine
from raspy.servers.sync.settings import SyncConfig

FAR = 1.0
"""Seconds by which the RTC may be off."""


@check("clock")
def trusted(look: Look) -> Iterator[Found]:
    """Whether the time is believed, and why; what NTP and the RTC say."""
    if not plausible(time.time()):
        yield problem(
            f"it shows {_date(time.time())}, and this release was made after {_date(BUILT)}",
            "set it (sudo date -s), or connect the network; an RTC keeps it without one",
        )
    try:
        told = clock.ask(look.request, look.request.host)
    except GenericError:
        yield _own()
        return
    system = told["system"]
    if system["trusted"]:
        yield ok(f"{_date(time.time())}, trusted by {system['source']}: {system['reason']}")
    else:
        yield warning(
            f"{_date(time.time())}, not to be trusted: {system['reason']}",
            "connect the network, or fit an RTC; raspy clock tells more. Commands with a lifetime are late until then",
        )
    if look.config.section(SyncConfig).servers:
        yield _ntp(told["ntp"])
    yield _rtc(told["rtc"])


def _own() -> Found:
    """What is known without the server sync."""
    daemon = keeper(Machine())
    kept = f"kept by {daemon}" if daemon else "nobody keeps it"
    if BootClock().trusted():
        return ok(f"{_date(time.time())}, set from the network since the machine was started; {kept}")
    todo = "raspy clock tells more where the server sync runs" if daemon else "start the server sync, or a time daemon"
    return warning(f"{_date(time.time())}, not set from the network since the machine was started; {kept}", todo)


def _ntp(ntp: dict[str, Any]) -> Found:
    if ntp["problem"] or ntp["offset"] is None:
        why = ntp["problem"] or "not measured yet"
        return warning(f"NTP: {why}", "look at the network and at servers in [sync]; raspy clock tells of each")
    agree = f"{len(ntp['agreeing'])} of {ntp['answered']} servers agree, {duration(ntp['age'])} ago"
    return ok(f"NTP: off by {ntp['offset']:+.3f} s, {agree}")


def _rtc(rtc: dict[str, Any] | None) -> Found:
    if rtc is None:
        return ok("RTC: there is none, so after a power cut the time comes from the network alone")
    wrong = rtc["problem"] or rtc["weak"]
    if wrong:
        return warning(f"RTC: {rtc['name']}: {wrong}", "change its battery; raspy clock tells more")
    off = rtc["offset"]
    if isinstance(off, int | float) and abs(off) > FAR:
        return warning(f"RTC: {rtc['name']} is off by {off:+.1f} s", "sync sets it once the time is trusted")
    return ok(f"RTC: {rtc['name']} is good")


@check("time zone")
def zone(look: Look) -> Iterator[Found]:
    """By which local time cron jobs are done."""
    settings = look.config.section(CoreConfig)
    found = settings.zone()
    now = datetime.now(UTC).astimezone(found)
    said = f"{found.key or 'local'}, now {now:%H:%M} (UTC{now:%z})"
    if not settings.timezone:
        yield ok(f"{said}, the machine's")
    elif machine_zone().utcoffset(now.replace(tzinfo=None)) != now.utcoffset():
        yield ok(f"{said}, of timezone in [core]; the machine has another one")
    else:
        yield ok(f"{said}, of timezone in [core]")


def _date(wall: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(wall))
