"""How the servers are: state, uptime, version, memory, restarts and last error of each.

A server that the configuration wants on this host and that never came up is listed as "missing"; one that was
stopped and is not wanted here any more does no harm.
Exit code: 0 when all is well, 1 when not, or when the broker does not answer.
"""

from __future__ import annotations

import time
from typing import Any

from raspy.cli import FAILED, GOOD
from raspy.cli.command import Request, body_value
from raspy.cli.table import duration, print_table, size

PREFIX = "/server/"
GONE = ("lost", "stopped", "missing")
YOUNG = 10.0
"""Seconds after the broker's start in which a server may not have been seen yet."""


def act(request: Request) -> list[dict[str, Any]]:
    """Read what the broker says of each server."""
    rows = []
    expected = request.expected()
    host = f"{request.host}." if expected else ""
    tree = request.snapshot(PREFIX)
    for key, body in tree.items():
        name, value = key[len(PREFIX) :], body_value(body)
        row = {"server": name, **(value if isinstance(value, dict) else {"state": "unknown"})}
        if expected and name.startswith(host):
            row["wanted"] = name in expected
        rows.append(row)
    ages = [uptime(row) for row in rows if row["server"] in expected and row["server"].endswith(".broker")]
    young = any(age is not None and age < YOUNG for age in ages)
    why = "not seen yet: the broker has just started" if young else "has never come up: is it installed and started?"
    rows += [
        {"server": name, "state": "missing", "last_error": why, "wanted": True}
        for name in expected
        if PREFIX + name not in tree
    ]
    return rows


def show(result: list[dict[str, Any]]) -> None:
    """Print a line for each server."""
    print_table(
        ["server", "state", "uptime", "version", "memory", "restarts", "last error"],
        [
            [
                row["server"],
                str(row.get("state", "unknown")),
                duration(uptime(row)),
                str(row.get("version", "")),
                size(row.get("memory")),
                str(row.get("restarts", "")),
                problem(row),
            ]
            for row in result
        ],
    )


def uptime(row: dict[str, Any]) -> float | None:
    """Seconds since the server started: what it said, and the time since; None when it is not running."""
    said, when = row.get("uptime"), row.get("as_of")
    if row.get("state") in GONE or not isinstance(said, int | float) or not isinstance(when, int | float):
        return None
    return said + max(0.0, time.time() - when)


def problem(row: dict[str, Any]) -> str:
    """What is wrong now, else the last error, else when and why it was down."""
    conditions = row.get("conditions")
    if isinstance(conditions, dict) and conditions:
        return "; ".join(f"{name}: {text}" for name, text in conditions.items())
    if row.get("last_error"):
        return str(row["last_error"])
    down = row.get("last_down")
    if isinstance(down, dict):
        since = down.get("time")
        ago = f" {duration(time.time() - since)} ago" if isinstance(since, int | float) else ""
        return f"down{ago}: {down.get('reason', '')}"
    return ""


def well(row: dict[str, Any]) -> bool:
    """Whether a server is as it should be: well, or stopped and not wanted."""
    return row.get("state") == "ok" or (row.get("state") == "stopped" and row.get("wanted") is False)


def code(result: list[dict[str, Any]]) -> int:
    """Good only when there are servers and all of them are well."""
    return GOOD if result and all(map(well, result)) else FAILED
