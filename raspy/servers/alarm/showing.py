"""How alarms are shown: on the tree, in a list, in events and in the history."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from raspy.servers.alarm.alarms import ACKNOWLEDGED, ACTIVE, NORMAL, RETURNED, STATES, Alarm
from raspy.servers.alarm.message import SEVERITIES
from raspy.servers.alarm.store import Change

Dict = dict[str, Any]


def body(alarm: Alarm, now: float) -> Dict:
    """An alarm as the tree shows it.

    :param now: Unix time in s
    """
    kept = alarm.kept
    return {
        "state": alarm.state,
        "severity": alarm.severity,
        "label": alarm.label,
        "key": alarm.key,
        "value": kept.value,
        "unit": kept.unit,
        "reason": kept.reason,
        "since": kept.since,
        "until": round(kept.shelf.until, 3) if kept.shelf is not None else None,
        "by": kept.by,
        "time": round(now, 3),
    }


def listed(alarms: Iterable[Alarm], now: float) -> list[Dict]:
    """Alarms as the tree shows them with their names, the most urgent first; those that are normal left out.

    :param now: Unix time in s
    """
    found = [alarm for alarm in alarms if alarm.state != NORMAL]
    found.sort(
        key=lambda alarm: (
            STATES.index(alarm.state),
            -SEVERITIES.index(alarm.severity),
            -alarm.kept.since,
            alarm.name,
        )
    )
    return [{"name": alarm.name, **body(alarm, now)} for alarm in found]


def change_of(alarm: Alarm, state: str, now: float) -> Change:
    """An alarm's change to a state, as the history keeps it.

    :param now: Unix time in s
    """
    kept = alarm.kept
    return Change(
        name=alarm.name,
        time=round(now, 3),
        state=state,
        severity=alarm.severity,
        label=alarm.label,
        key=alarm.key,
        value=kept.value,
        unit=kept.unit,
        reason=kept.reason,
        by=kept.by,
        until=round(kept.shelf.until, 3) if kept.shelf is not None else None,
    )


def event_of(change: Change) -> Dict:
    """A change as its event tells it, which has its own time."""
    fields = {name: getattr(change, name) for name in change.__struct_fields__}
    return {name: value for name, value in fields.items() if name not in ("name", "time") and value not in (None, "")}


def telling_of(before: str, state: str) -> str:
    """What is told of a change of state; empty: nothing."""
    if state != NORMAL:
        return state
    return {ACTIVE: RETURNED, ACKNOWLEDGED: RETURNED, RETURNED: ACKNOWLEDGED}.get(before, "")
