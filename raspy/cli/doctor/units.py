"""The units of systemd, where it runs."""

from __future__ import annotations

import os
from collections.abc import Iterator

from raspy.cli.doctor.check import SYSTEMD, Found, Look, check, ok, problem, program, unchecked, warning
from raspy.common.appliance import at

PATTERNS = ("raspy-*.service", "raspy.target", "appliance-*.service")
FIELDS = ("Id", "ActiveState", "SubState", "Result", "NRestarts", "UnitFileState", "ExecMainStatus")
MANY_RESTARTS = 5


@check("units")
def units(look: Look) -> Iterator[Found]:
    """Whether one of RasPy's has failed, or is started again and again."""
    if not os.path.isdir(at(SYSTEMD)):
        yield unchecked("systemd does not run here")
        return
    text = program("systemctl", "show", "--all", f"--property={','.join(FIELDS)}", *PATTERNS)
    if text is None:
        yield unchecked("systemctl gives no answer", "systemctl status says why")
        return
    found = [unit for unit in _parsed(text) if unit.get("Id")]
    if not found:
        yield unchecked("there are no units of RasPy here: raspy run, or nobody, looks after the servers")
        return
    good = 0
    for unit in found:
        wrong = list(_unit(unit))
        good += not wrong
        yield from wrong
    if good:
        yield ok(f"{good} of {len(found)} are as they should be")


def _unit(unit: dict[str, str]) -> Iterator[Found]:
    name, state, below = unit["Id"], unit.get("ActiveState", ""), unit.get("SubState", "")
    restarts = unit.get("NRestarts", "")
    log = f"journalctl -u {name} says why; sudo systemctl restart {name}"
    ended = f"{unit.get('Result')}, exit code {unit.get('ExecMainStatus')}"
    if state == "failed":
        yield problem(f"{name} has failed ({ended})", log)
    elif below.startswith("auto-restart"):
        yield problem(f"{name} ends again and again ({ended}; {restarts} times)", log)
    elif state == "inactive" and unit.get("UnitFileState") == "enabled" and name.startswith("raspy"):
        yield problem(f"{name} is enabled, and does not run", log)
    elif restarts.isdecimal() and int(restarts) >= MANY_RESTARTS:
        yield warning(f"{name} was started again {restarts} times since it was first started", log)


def _parsed(text: str) -> Iterator[dict[str, str]]:
    """The units that ``systemctl show`` tells of: lines ``name=value``, an empty one between two units."""
    for block in text.split("\n\n"):
        yield dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
