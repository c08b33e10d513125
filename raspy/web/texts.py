"""Anything that comes from the bus, as a text that may stand on a page: one line, bounded, in a visitor's language."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from raspy.web.words import Words

TEXT_LIMIT = 240
"""Characters of any one text that are shown."""
KEY_LIMIT = 120
BODY_LIMIT = 65536
"""Bytes above which a body is not looked into."""
ENGLISH = Words("en")

_decode = msgspec.json.Decoder().decode


def fields(body: bytes) -> dict[str, Any]:
    """The body as a JSON object; anything else, and what is too long for a value: an empty one."""
    if len(body) > BODY_LIMIT:
        return {}
    try:
        content = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def number(value: Any) -> float | None:
    """The value when it is a number that can be calculated with."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1e15 < value < 1e15:
        return None
    return value


def text(value: Any, t: Words = ENGLISH) -> str:
    """A value as it is read: numbers with up to four decimals, switches as on and off."""
    if value is True or value is False:
        return t("on") if value else t("off")
    if isinstance(value, float) and (value == 0 or 1e-3 <= abs(value) < 1e12):
        digits = f"{value:.4f}".rstrip("0").rstrip(".")
        return "0" if digits == "-0" else digits
    if isinstance(value, str):
        return clean(value)
    try:
        if isinstance(value, (int, float)):
            return str(value) if isinstance(value, int) and abs(value) < 10**18 else f"{float(value):.6g}"
        return clean(msgspec.json.encode(value).decode())
    except OverflowError:
        return "a number too large to show"
    except (RecursionError, ValueError):
        return "a value that cannot be shown"


def summary(body: bytes) -> str:
    """A body of any kind in one short line."""
    try:
        return clean(body[: TEXT_LIMIT * 4 + 4].decode())
    except UnicodeDecodeError as error:
        if error.start > TEXT_LIMIT:
            return clean(body[: error.start].decode())
        return f"{len(body)} bytes that are not text"


def clean(given: str, limit: int = TEXT_LIMIT) -> str:
    """Text as it may stand on a page: one line, bounded, no control characters, no changes of direction."""
    short = given[: limit + 1]
    shown = "".join(character if character.isprintable() else "·" for character in short[:limit])
    return shown + "…" if len(short) > limit else shown


def clock(stamp: float) -> str:
    """A wall time as this Pi's owner reads it: the time alone when it is of the last 12 hours."""
    try:
        local = time.localtime(stamp)
    except (OverflowError, OSError, ValueError):
        return "an unknown time"
    recent = abs(time.time() - stamp) < 12 * 3600
    return time.strftime("%H:%M:%S" if recent else "%Y-%m-%d %H:%M:%S", local)


def duration(seconds: float, t: Words = ENGLISH) -> str:
    """A span of time in its largest fitting unit. The page's script has the same rule."""
    if seconds < 60:
        return t("{count} s", count=max(0, int(seconds)))
    if seconds < 3600:
        return t("{count} min", count=int(seconds // 60))
    if seconds < 48 * 3600:
        return t("{count} h", count=int(seconds // 3600))
    return t("{count} d", count=int(seconds // 86400))


def ago(age: float | None, t: Words = ENGLISH) -> str:
    """How long ago something was.

    :param age: seconds; None: not known
    """
    if age is None:
        return t("at an unknown time")
    return t("now") if age < 2 else t("{time} ago", time=duration(age, t))
