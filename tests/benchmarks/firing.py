"""Scenarios in core: how soon a change of a value has code running, and what a loaded scenario costs that waits."""

from __future__ import annotations

import gc
import statistics
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.process import BenchError, progress
from tests.benchmarks.table import aligned
from tests.servers.core_stage import CoreStage, core_stage

NAME = "scenario: firing"
LOADED = 100
LATENCY_MS = 60.0
"""Aim at p99: less."""
OWN_KIB = 200.0
"""Aim for a scenario that is loaded and idle: less."""
CODE = (
    "import time\n\n# What a scenario of some length has to say of itself.\n" * 10
    + "print(time.monotonic(), cause['value'])\n"
)

Found = dict[str, Any]


def measure(quick: bool) -> Found:
    """The figures, or ``error``."""
    changes, loaded = (5, 10) if quick else (500, LOADED)
    try:
        with core_stage() as stage:
            progress(NAME)
            _load(stage, "warm", 5)
            before = _private()
            _load(stage, "idle", loaded)
            own = (_private() - before) / loaded
            return {"name": NAME, "loaded": loaded, "own_kib": own, "latency_ms": _fire(stage, changes, loaded)}
    except AssertionError as error:
        raise BenchError(f"{NAME}: {error}") from error


def _load(stage: CoreStage, name: str, number: int) -> None:
    for count in range(number):
        entries = {
            "own": {"key": f"probe.{name}-{count}/temperature", "fire": "change"},
            "water": "probe.water/temperature",
            "heater": "fake.heater/power",
        }
        stage.make(f"{name}-{count}", CODE, entries, active=True)


def _fire(stage: CoreStage, changes: int, loaded: int) -> list[float]:
    """Milliseconds from the publication of a value to the code of the scenario that it fires."""
    took = []
    key = "/device/pi.probe.idle-{}/temperature"
    for count in range(loaded):
        stage.tell(0.0, key.format(count))
    for change in range(1, changes + 1):
        name = f"idle-{change % loaded}"
        began = time.monotonic()
        stage.tell(float(change), key.format(change % loaded))
        words = stage.printed(name, f" {float(change)}\n").split()
        took.append((float(words[-2]) - began) * 1000)
        stage.ended(name)
    return took


def _private() -> float:
    """KiB of this process that are its own, from smaps_rollup: proc_pid_smaps(5)."""
    gc.collect()
    words = [line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]]
    return float(sum(int(line[1]) for line in words if line[0].startswith("Private_")))


def text(found: Found) -> str:
    """The table."""
    latency = statistics.quantiles(found["latency_ms"], n=100, method="inclusive")
    p99, missed = latency[98], ", MISSED" * (latency[98] >= LATENCY_MS)
    over = ", MISSED" if found["own_kib"] >= OWN_KIB else ""
    lines: list[tuple[str, ...]] = [
        (f"{NAME}, {found['loaded']} loaded", "", "", ""),
        ("change to code running, ms", "", f"{latency[49]:.1f}", f"p99 {p99:.1f}, aim < {LATENCY_MS:g}{missed}"),
        ("one that is loaded and idle, KiB", "", f"{found['own_kib']:.0f}", f"aim < {OWN_KIB:g}{over}"),
    ]
    return "\n" + aligned(lines)
