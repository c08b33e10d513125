"""1-Wire: how long all probes of a bus take, in conversion times of one, and the longest turn of the server's loop."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from tests.benchmarks.process import BenchError, Children, progress
from tests.benchmarks.table import aligned
from tests.benchmarks.targets import LOAD, Raspy

CONVERSION_S = 0.75
"""Of a simulated probe, as of a real one at 12 bits."""
LONGEST_TURN_MS = 20.0
"""Aim: less."""
LIMIT_S = 120.0


class Case(NamedTuple):
    """A bus. ``aim``: the conversion times that all probes may take; 0: none."""

    name: str
    probes: int
    flags: tuple[str, ...] = ()
    aim: float = 0.0


NO_BULK, PARASITE = "--no-bulk", "--parasite"
CASES = [
    Case("onewire: 1 probe", 1),
    Case("onewire: 10 probes, bulk", 10, aim=1.2),
    Case("onewire: 10 probes, bulk, fed by the data line", 10, (PARASITE,), aim=1.2),
    Case("onewire: 10 probes, no bulk", 10, (NO_BULK,), aim=10),
    Case("onewire: 10 probes, no bulk, fed by the data line", 10, (NO_BULK, PARASITE)),
    Case("onewire: 100 probes, bulk", 100),
    Case("onewire: 100 probes, no bulk", 100, (NO_BULK,)),
]
QUICK = CASES[:2]

Found = dict[str, Any]


def measure(scratch: Path, ports: Iterator[int], cases: list[Case], rounds: int) -> list[Found]:
    """One entry a case, with its rounds, or the reason why there are none."""
    found: list[Found] = []
    for number, case in enumerate(cases):
        progress(case.name)
        entry: Found = {"name": case.name, "aim": case.aim, "rounds": []}
        found.append(entry)
        directory = scratch / f"w1-{number}"
        try:
            with Children(scratch) as children:
                broker = Raspy(ports).start(children)
                port = broker.clients.rpartition(":")[2]
                argv = [sys.executable, "-m", "raspy.servers.onewire.simulate", str(directory)]
                bus = children.start("bus", [*argv, "--live", str(case.probes), *case.flags], talks=True)
                bus.line(LIMIT_S)
                program = [sys.executable, str(LOAD / "onewire_round.py")]
                words = [str(directory), port, str(case.probes), str(rounds)]
                server = children.start("onewire", [*program, *words], {"PYTHONPATH": "."}, talks=True)
                for _ in range(rounds):
                    entry["rounds"].append(json.loads(server.line(LIMIT_S)))
        except BenchError as error:
            entry["error"] = str(error)
    return found


def verdict(entry: Found) -> str:
    """What of the aims was reached."""
    took = median(one["all"] for one in entry["rounds"]) / CONVERSION_S
    turn = max(one["longest_turn"] for one in entry["rounds"]) * 1000
    parts = [f"aim <= {entry['aim']:g}" + (", MISSED" if took > entry["aim"] else "")] if entry["aim"] else []
    return "; ".join(parts + (["longest turn MISSED"] if turn >= LONGEST_TURN_MS else []))


def text(found: list[Found]) -> str:
    """The table."""
    head = f"longest turn, ms (aim < {LONGEST_TURN_MS:g})"
    lines: list[tuple[str, ...]] = [("row", "", "conversion times", "min", "max", "first", head, "")]
    for entry in found:
        if "error" in entry or not entry["rounds"]:
            lines.append((entry["name"], entry.get("error", "no round").splitlines()[-1]))
            continue
        times = [one["all"] / CONVERSION_S for one in entry["rounds"]]
        first = median(one["first"] for one in entry["rounds"]) / CONVERSION_S
        turn = max(one["longest_turn"] for one in entry["rounds"]) * 1000
        figures = [f"{value:.2f}" for value in (median(times), min(times), max(times), first)]
        lines.append((entry["name"], "", *figures, f"{turn:.1f}", verdict(entry)))
    return "\n" + aligned(lines)
