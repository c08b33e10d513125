"""Times as an owner writes and reads them: local, or so long ago."""

from __future__ import annotations

import calendar
import re
import time
from argparse import ArgumentTypeError

UNITS = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400, "y": 365 * 86_400}
SPAN = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)(s|min|m|h|d|w|y)")
FORMATS = ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d")
SHIFTS = (-7200, -3600, -1800, 1800, 3600, 7200)
"""Seconds by which clocks are set back in autumn (tz database), and those before and behind them."""


def moment(text: str) -> float:
    """A time ago, or a local date, as Unix time."""
    found = SPAN.fullmatch(text)
    if found:
        return max(time.time() - float(found[1]) * UNITS[found[2]], 0.0)
    for form in FORMATS:
        for offset in ("", "%z", " %z"):
            try:
                read = time.strptime(text, form + offset)
                return float(calendar.timegm(read) - read.tm_gmtoff) if offset else time.mktime(read)
            except (ValueError, OverflowError):
                continue
    raise ArgumentTypeError(f"{text!r} is no time: a time ago as 24h, 30min or 7d, or a date as 2026-03-01T18:30")


def local(when: float, seconds: bool = False) -> str:
    """A local time; one that there is twice, as clocks go back, has its offset from UTC."""
    form = "%Y-%m-%d %H:%M:%S" if seconds else "%Y-%m-%d %H:%M"
    try:
        here = time.localtime(when)
        text = time.strftime(form, here)
        others = (time.localtime(when + shift) for shift in SHIFTS)
        return (
            text + time.strftime(" %z", here) if any(time.strftime(form, other) == text for other in others) else text
        )
    except (ValueError, OverflowError, OSError):
        return f"{when:.0f}" if abs(when) < 1e15 else "an unknown time"
