"""The devices and their values, with unit, age and quality.

A value that is not good is never shown as a number; the reason is.
Exit code: 0 good, 1 when the broker does not answer.
"""

from __future__ import annotations

import time
from typing import Any

from raspy.cli.command import Request, body_value
from raspy.cli.table import duration, number, print_table

PREFIX = "/device/"


def act(request: Request) -> list[dict[str, Any]]:
    """Read all values."""
    rows = []
    for key, body in request.snapshot(PREFIX).items():
        device, _, command = key[len(PREFIX) :].partition("/")
        value = body_value(body)
        fields = value if isinstance(value, dict) else {"value": value}
        rows.append({"device": device, "command": command, **fields})
    return rows


def show(result: list[dict[str, Any]]) -> None:
    """Print a line for each value."""
    if not result:
        print("no devices")
        return
    now = time.time()
    rows = []
    for row in result:
        good = row.get("quality", "ok") == "ok"
        taken = row.get("time")
        rows.append(
            [
                row["device"],
                row["command"],
                number(row.get("value")) if good else "",
                str(row.get("unit") or ""),
                duration(now - taken) if isinstance(taken, int | float) else "",
                str(row.get("quality", "")),
                str(row.get("reason") or ""),
            ]
        )
    print_table(["device", "command", "value", "unit", "age", "quality", "reason"], rows)
