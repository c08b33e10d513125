"""What is told: the notices of alarms, and the message that a group of them becomes.

Everything here is a function of its arguments, and runs on a pool thread or in the process that sends.
"""

from __future__ import annotations

import math
import time
from typing import Any

import msgspec

from raspy.common.log import printable

SEVERITIES = ("info", "warning", "critical")
"""From the least on."""
WELL = "\x00well"
"""Under which name the daily word is kept, which no alarm can have."""
FORMAT, VERSION = "raspy-message", 1
LISTED = 100
"""Alarms that one message lists; the others are counted."""
NAME, LABEL, KEY, UNIT, REASON, TEXT = 200, 200, 300, 20, 500, 100
"""Characters of each that are told."""
SUBJECT = 200
"""Characters of a subject."""
NAMED = 3
"""Alarms that a subject names."""
DOUBT = "The clock of this Pi is not known to be right, so the times here may be wrong."


class Notice(msgspec.Struct, kw_only=True):
    """Something to be told of an alarm: the state that it has now, and why."""

    name: str
    """Of the alarm, the same each time."""
    label: str = ""
    """What people call it; empty: its name."""
    severity: str = "warning"
    state: str = "active"
    """``active``, ``returned``, ``acknowledged``, ``shelved``."""
    key: str = ""
    value: Any = None
    unit: str = ""
    reason: str = ""
    time: float = 0.0
    """Unix time in s; 0: now."""
    channels: list[str] = []
    """Empty: all."""


class Told(msgspec.Struct, kw_only=True):
    """An alarm in a message: its last notice, and how often it has changed since the message before."""

    name: str
    label: str
    severity: str
    state: str
    key: str
    value: Any
    unit: str
    reason: str
    time: float
    changes: int
    first: float
    """Unix time in s of the first of the changes."""


class Message(msgspec.Struct, kw_only=True):
    """What goes out, the same at each try.

    As JSON it is what a webhook gets; ``version`` counts up when a reader of the version before would be misled.
    """

    id: str
    """32 hexadecimal digits: a repeat has the same."""
    format: str = FORMAT
    version: int = VERSION
    kind: str = "alarms"
    """``alarms``, ``well`` or ``test``."""
    host: str
    time: float
    """Unix time in s at which it was put together."""
    clock_trusted: bool
    severity: str = "info"
    """The highest of the alarms that are active; ``info`` when none is."""
    subject: str = ""
    text: str = ""
    link: str = ""
    alarms: list[Told] = []
    more: int = 0
    """Changes of alarms that are not listed."""


class Frame(msgspec.Struct, frozen=True):
    """What surrounds the notices of a message."""

    id: str
    host: str
    link: str
    time: float
    trusted: bool
    note: str = ""
    """Another line for the owner."""


def cleaned(notice: Notice, now: float) -> Notice:
    """A notice that can be kept and told, whatever it held: short texts that forge nothing, a time that is one."""
    wanted = notice.time
    usable = isinstance(wanted, int | float) and math.isfinite(wanted) and wanted > 0
    return Notice(
        name=_short(notice.name, NAME),
        label=_short(notice.label or notice.name, LABEL),
        severity=notice.severity if notice.severity in SEVERITIES else "warning",
        state=_short(notice.state, NAME),
        key=_short(notice.key, KEY),
        value=_plain(notice.value),
        unit=_short(notice.unit, UNIT),
        reason=_short(notice.reason, REASON),
        time=float(wanted) if usable else now,
        channels=list(notice.channels),
    )


def rank(severity: str) -> int:
    """How grave something is: more for worse."""
    return SEVERITIES.index(severity) if severity in SEVERITIES else 1


def compose(frame: Frame, alarms: list[Told], more: int) -> Message:
    """A message of alarms, the gravest first.

    :param more: changes of alarms that were grouped away before
    """
    well = next((told for told in alarms if told.name == WELL), None)
    alarms = sorted((told for told in alarms if told.name != WELL), key=_order)
    active = [told for told in alarms if told.state == "active"]
    listed, rest = alarms[:LISTED], alarms[LISTED:]
    if well is not None and not alarms and not more:
        return _finish(frame, "well", "info", well.label, [well.reason] if well.reason else [], [], 0)
    more += sum(told.changes for told in rest)
    severity = max((told.severity for told in active), key=rank, default="info")
    lines: list[str] = []
    for told in listed:
        lines += [*_lines(told), ""]
    if more:
        lines += [f"And {more} more changes of other alarms: `raspy alarm` lists them all.", ""]
    if well is not None:
        lines += [f"{well.label}{': ' if well.reason else ''}{well.reason}", ""]
    return _finish(frame, "alarms", severity, _subject(alarms, active, more), lines[:-1], listed, more)


def trial(frame: Frame, channel: str) -> Message:
    """What is sent when an owner wants to see whether a channel works."""
    lines = [f"This is a test of the channel {channel}: alarms of {frame.host} will reach you here."]
    return _finish(frame, "test", "info", f"test of the channel {channel}", lines, [], 0)


def _finish(
    frame: Frame, kind: str, severity: str, subject: str, lines: list[str], alarms: list[Told], more: int
) -> Message:
    text = [*lines, ""]
    if frame.note:
        text += [frame.note, ""]
    if not frame.trusted:
        text += [DOUBT, ""]
    if frame.link:
        text.append(frame.link)
    text.append(f"RasPy on {frame.host}, {when(frame.time)}, message {frame.id[:8]}")
    return Message(
        id=frame.id,
        kind=kind,
        host=frame.host,
        time=frame.time,
        clock_trusted=frame.trusted,
        severity=severity,
        subject=f"[{frame.host}] {subject}"[:SUBJECT],
        text="\n".join(text) + "\n",
        link=frame.link,
        alarms=alarms,
        more=more,
    )


def _subject(alarms: list[Told], active: list[Told], more: int) -> str:
    if len(alarms) == 1 and not more:
        (told,) = alarms
        value = shown(told.value, told.unit)
        # Without a value it is the reason that says what it is about.
        more_of_it = f" {value}" if value else f": {told.reason}" if told.reason else ""
        return f"{_headline(told)}: {told.label}{more_of_it}"
    names = ", ".join(told.label for told in alarms[:NAMED]) + (", …" if len(alarms) > NAMED or more else "")
    counts = [
        f"{count} {severity}"
        for severity in reversed(SEVERITIES)
        if (count := sum(1 for told in active if told.severity == severity))
    ]
    what = f"{', '.join(counts)} active" if counts else "none active"
    return f"{len(alarms)} alarms, {what}: {names}"


def _lines(told: Told) -> list[str]:
    value = shown(told.value, told.unit)
    lines = [f"{_headline(told)}: {told.label}{' ' if value else ''}{value}"]
    if told.reason:
        lines.append(f"    {told.reason}")
    often = f"; {told.changes} changes since {when(told.first)}" if told.changes > 1 else ""
    lines.append(f"    {when(told.time)}{often}")
    if told.key:
        lines.append(f"    {told.key}")
    return lines


def _headline(told: Told) -> str:
    return told.severity.upper() if told.state == "active" else told.state


def _order(told: Told) -> tuple[bool, int, float]:
    return told.state != "active", -rank(told.severity), -told.time


def shown(value: Any, unit: str) -> str:
    """A value as people read it; empty when there is none."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    text: str = f"{value:.6g}" if isinstance(value, float) else str(value)
    return f"{text} {unit}" if unit else text


def when(wall: float) -> str:
    """A Unix time in s as the clock on the wall shows it."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(wall))
    except (OverflowError, OSError, ValueError):
        return "at an unknown time"


def _short(given: Any, length: int) -> str:
    text = printable(str(given))
    return text if len(text) <= length else text[: length - 1] + "…"


def _plain(value: Any) -> Any:
    """A value as JSON holds it."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) < 1 << 53:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return _short(value, TEXT)
