"""What is wrong, as the tree tells it: whether the cause of an alarm is there."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from raspy.common.log import printable
from raspy.servers.alarm.message import SEVERITIES
from raspy.servers.alarm.rules import DEGRADED, FAILED, NOTIFY, Rule

STEADY = 60.0
"""Seconds that a server must have run before it counts as being there again: one that crashes again and again is
down."""
GONE = {"lost": "it is gone without a goodbye", "silent": "it does not answer", "stopped": "it was stopped"}
"""States of a server that is down."""
PLANNED = (
    "told",
    "let go",
    "mode ",
    "the settings were changed",
    "the server st",
    "it was made",
    "it is removed",
)
"""What the reasons begin with for which an output is in its safe state as somebody wants it (docs/outputs.rst)."""
LEASE = "the lease ended"
RENEWED = 1.0
"""Seconds by which an output was on longer than since its last command, so that this was no first one."""
MOST = 1 << 1000
"""No number that anything measures; a larger one is not even a float."""
NOT_DEGRADED = ("clock",)
"""Conditions of a server that have an alarm of their own."""


class Verdict:
    """What is known of a cause now.

    :param wrong: None: it cannot be told, so that an alarm stays as it is
    """

    __slots__ = ("label", "mark", "reason", "severity", "unit", "value", "wrong")

    def __init__(
        self, wrong: bool | None, value: Any = None, unit: str = "", reason: str = "", mark: float | None = None
    ) -> None:
        self.wrong = wrong
        self.value = value
        self.unit = unit
        self.reason = reason
        self.mark = mark
        """The time of the event that it is of."""
        self.label = self.severity = ""
        """What the event says of itself."""


UNKNOWN = Verdict(None)


class Reading(Struct):
    """What of a value is looked at."""

    value: Any = UNSET
    unit: str = ""
    quality: str = "ok"
    reason: str = ""


class Server(Struct):
    """What of ``/server/`` is looked at."""

    state: str = ""
    uptime: float = 0.0
    restarts: int = 0
    conditions: dict[str, str] | UnsetType = UNSET
    last_error: str = ""


class Output(Struct):
    """What of ``/event/output/`` is looked at."""

    state: str = ""
    reason: str = ""
    time: float = 0.0
    after: float = 0.0
    on: float = 0.0
    by: str = ""
    failure: str = ""


class Told(Struct):
    """What of ``/event/notify/`` is looked at."""

    text: str = ""
    title: str = ""
    severity: str = ""
    time: float = 0.0


class Scenario(Struct):
    """What of ``/scenario/`` is looked at."""

    state: str = ""
    reason: str = ""
    failures: int = 0
    last: Any = None


_reading_in = msgspec.json.Decoder(Reading).decode
server_in = msgspec.json.Decoder(Server).decode
_output_in = msgspec.json.Decoder(Output).decode
_told_in = msgspec.json.Decoder(Told).decode
_scenario_in = msgspec.json.Decoder(Scenario).decode
BAD = (msgspec.MsgspecError, ValueError, RecursionError)


def judge(rule: Rule, body: bytes, engaged: bool) -> Verdict:
    """Whether a body of the tree is a cause of an alarm.

    :param engaged: it was one before, so that the hysteresis counts
    """
    kind = rule.settings.kind
    try:
        if kind == "server":
            return _server(rule, server_in(body), engaged)
        if kind == "output":
            return _output(rule, _output_in(body))
        if kind == "scenario":
            return _scenario(_scenario_in(body))
        if kind == NOTIFY:
            return _notice(_told_in(body))
        reading = _reading_in(body)
    except BAD:
        return UNKNOWN
    if kind in ("stale", "error"):
        return Verdict(reading.quality == kind, None, "", reading.reason or "no reason is given")
    if reading.quality != "ok" or reading.value is UNSET:
        return UNKNOWN
    value, unit = reading.value, reading.unit
    if isinstance(value, int) and abs(value) > MOST:
        return UNKNOWN
    if kind == "clock":
        return Verdict(value is False, value, "", "nothing has told the right time")
    if kind == "is":
        return Verdict(_same(value, rule.settings.value), value, unit, f"it is {_told(value, unit)}")
    return beyond(rule, value, unit, engaged)


def beyond(rule: Rule, value: Any, unit: str, engaged: bool) -> Verdict:
    """Whether a number is beyond the limit of a definition."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return UNKNOWN
    settings = rule.settings
    limit = settings.limit or 0.0
    high = settings.kind != "low"
    back = settings.hysteresis if engaged else 0.0
    if high:
        wrong = value > limit - back if engaged and back else value > limit
    else:
        wrong = value < limit + back if engaged and back else value < limit
    return Verdict(wrong, value, unit, f"it is {'above' if high else 'below'} {_told(limit, unit)}")


def _server(rule: Rule, server: Server, engaged: bool) -> Verdict:
    if rule.cause == DEGRADED:
        conditions = {} if server.conditions is UNSET else server.conditions
        found = [f"{name}: {text}" for name, text in conditions.items() if name not in NOT_DEGRADED]
        if server.state != "degraded":
            return Verdict(False if server.state == "ok" else None)
        return Verdict(
            bool(found) or not conditions, None, "", "; ".join(found) or server.last_error or "it says not why"
        )
    if server.state in GONE:
        return Verdict(True, server.state, "", GONE[server.state])
    if not server.state:
        return UNKNOWN
    if engaged and server.restarts and server.uptime < STEADY:
        return Verdict(True, server.state, "", f"it was started again {server.restarts} times")
    return Verdict(False, server.state)


def _output(rule: Rule, output: Output) -> Verdict:
    failed = output.state == "failed"
    if rule.cause == FAILED:
        return Verdict(failed, None, "", f"{output.failure or output.reason}; it is tried again every second")
    if failed or output.state != "safe" or output.reason.startswith(PLANNED):
        # What failed has an alarm of its own.
        return Verdict(None if failed else False)
    if output.reason == LEASE:
        if output.on - output.after < RENEWED:
            # One command for some time, which is over as it was told.
            return Verdict(False)
        by = f": {output.by} has not renewed it" if output.by else ": nobody has renewed it"
        return Verdict(True, None, "", output.reason + by, output.time)
    return Verdict(True, None, "", output.reason or "no reason is given", output.time)


def _scenario(scenario: Scenario) -> Verdict:
    if scenario.state == "off":
        return Verdict(False, scenario.state)
    last = scenario.last if isinstance(scenario.last, dict) else {}
    reason = scenario.reason or str(last.get("reason") or "")
    if scenario.state == "paused":
        return Verdict(True, scenario.state, "", reason or "it is paused")
    return Verdict(scenario.failures > 0, scenario.state, "", f"it fails: {reason}" if reason else "it fails")


def _notice(told: Told) -> Verdict:
    if not math.isfinite(told.time):
        return UNKNOWN
    found = Verdict(True, None, "", told.text or "it says nothing more", told.time)
    found.label = printable(told.title[:100])
    found.severity = told.severity if told.severity in SEVERITIES else "warning"
    return found


def _same(value: Any, wanted: Any) -> bool:
    """Whether a value is the wanted one: true is not 1 here."""
    return bool(value == wanted) and isinstance(value, bool) == isinstance(wanted, bool)


def _told(value: Any, unit: str) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:.6g} {unit}".rstrip() if isinstance(value, int | float) else str(value)[:100]
