"""What sync says: the values of its device, and the answer to ``status``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from raspy.common.devices.device import MISSED_POLLS
from raspy.common.devices.errors import ReadingError

if TYPE_CHECKING:
    from raspy.servers.sync.server import Sync


def values(server: Sync) -> Mapping[str, Any]:
    """The values of the device, or a :class:`ReadingError` in the place of one that is not known."""
    facts = server.facts
    assert facts is not None
    found: dict[str, Any] = {
        "trusted": bool(server.trusted),
        "source": server.trusted or "none",
        "keeper": facts.keeper or "none",
    }
    offset = ntp_offset(server)
    consensus = server.consensus
    if offset is None or consensus is None:
        found["offset"] = found["stratum"] = ReadingError("ntp", server.decision.doubt or facts.ntp_problem)
    else:
        found["offset"], found["stratum"] = round(offset, 6), consensus.stratum
    rtc = server.rtc_now()
    if server.reading is None:
        return found  # nothing is wrong with an RTC that is not fitted
    if rtc is None or server.decision.rtc_doubt:
        found["rtc_offset"] = ReadingError("rtc", server.decision.rtc_doubt or facts.rtc_problem)
    else:
        found["rtc_offset"] = round(rtc - server.machine.wall(), 3)
    return found


def ntp_offset(server: Sync) -> float | None:
    """s to be added to the system clock, by what the servers last agreed on; None when that is too long ago."""
    consensus = server.consensus
    if consensus is None or server.machine.since() - server.measured > MISSED_POLLS * server.settings.interval:
        return None
    return consensus.offset + consensus.base - server.machine.base()


def status(server: Sync) -> dict[str, Any]:
    """All that is known, as JSON can hold it."""
    facts, machine = server.facts, server.machine
    consensus, now = server.consensus, machine.since()
    return {
        "system": {
            "time": machine.wall(),
            "trusted": bool(server.trusted),
            "source": server.trusted or None,
            "reason": server.reason,
            "last_known": server.kept.known.last,
        },
        "ntp": {
            "offset": ntp_offset(server),
            "age": now - server.measured if consensus is not None else None,
            "agreeing": list(consensus.agreeing) if consensus is not None else [],
            "answered": consensus.answered if consensus is not None else 0,
            "stratum": consensus.stratum if consensus is not None else None,
            "distance": consensus.distance if consensus is not None else None,
            "problem": (server.decision.doubt or ("" if facts.ntp else facts.ntp_problem)) if facts else "",
            "servers": [
                {
                    "server": source.name,
                    "offset": source.sample and source.sample.offset + source.sample.base - machine.base(),
                    "delay": source.sample and source.sample.delay,
                    "stratum": source.sample and source.sample.stratum,
                    "age": now - source.asked if math.isfinite(source.asked) else None,
                    "problem": source.problem,
                }
                for source in server.sources
            ],
        },
        "rtc": _rtc(server),
        "keeper": facts.keeper if facts else "",
        "may_set": server.may_set,
        "last_change": server.change,
    }


def _rtc(server: Sync) -> dict[str, Any] | None:
    """The RTC; None where there is none."""
    reading = server.reading
    if reading is None:
        return None
    time = server.rtc_now()
    return {
        "name": reading.name,
        "device": reading.device,
        "time": time,
        "offset": None if time is None else time - server.machine.wall(),
        "problem": server.decision.rtc_doubt,
        "weak": reading.weak,
    }
