"""Tables and readings as a human reads them."""

from __future__ import annotations

import shutil
import sys
from typing import Any

from raspy.common.log import printable


def print_table(heads: list[str], rows: list[list[str]]) -> None:
    """Print columns as wide as what they hold; on a terminal the last one is cut to the width."""
    cells = [[head.upper() for head in heads], *[[printable(cell) or "-" for cell in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for row in cells:
        line = "  ".join(cell.ljust(widths[i]) for i, cell in enumerate(row)).rstrip()
        print(line if not width or len(line) <= width else line[: max(width - 1, 1)] + "…")


def duration(seconds: Any) -> str:
    """``3 d 4 h``, ``5 min`` or ``12 s``; empty when it is no number."""
    if not isinstance(seconds, int | float) or seconds != seconds:
        return ""
    left = max(0, int(min(seconds, 1e12)))
    if left < 120:
        return f"{left} s"
    if left < 7200:
        return f"{left // 60} min"
    if left < 48 * 3600:
        return f"{left // 3600} h {left % 3600 // 60} min"
    return f"{left // 86400} d {left % 86400 // 3600} h"


def size(count: Any) -> str:
    """Bytes in megabytes; empty when it is no number."""
    return f"{count / 1e6:.1f} MB" if isinstance(count, int | float) and count else ""


def number(value: Any) -> str:
    """A value as short as it can be told."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else str(round(value, 4))
    return value if isinstance(value, str) else "" if value is None else str(value)


def reading(value: Any) -> str:
    """The body of a key in one line: value and unit, or why there is none; anything else as it is."""
    if isinstance(value, dict) and "quality" in value:
        quality, reason = str(value["quality"]), str(value.get("reason") or "")
        if quality != "ok" or value.get("value") is None:
            text = f"{quality}: {reason}" if reason else quality
        else:
            text = f"{number(value['value'])} {value.get('unit') or ''}".rstrip()
        return printable(text)
    if isinstance(value, dict) and ("event" in value or "state" in value):
        conditions = value.get("conditions")
        reasons = conditions.values() if isinstance(conditions, dict) else []
        reason = value.get("reason") or "; ".join(map(str, reasons))
        return printable(": ".join(filter(None, [str(value.get("event") or value.get("state")), str(reason)])))
    return printable(value if isinstance(value, str) else _compact(value))


def _compact(value: Any) -> str:
    from msgspec import json

    return json.encode(value).decode()
