"""Scenarios' processes: how soon the code of one runs, what one costs, its calls, and core's longest turn."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

from raspy.servers.core import run as run_module
from tests.benchmarks.process import BenchError, progress
from tests.benchmarks.table import aligned
from tests.servers.child_stage import HARMLESS, Stage

NAME = "scenario: process"
WARM_MS = 50.0
"""Aim: less."""
TURN_MS = 50.0
"""Aim: less."""

Found = dict[str, Any]

SAYS = "log()"
CALLS = "for n in range({}):\n    get('x')"
BUSY = "while True:\n    print('x' * 1000)"


def measure(quick: bool) -> Found:
    """The figures, or ``error``."""
    starts, calls = (5, 100) if quick else (300, 10_000)
    answers = {"log": None, "publish": None, "get": {"value": 1}}
    try:
        with Stage() as stage:
            progress(NAME)
            began = time.monotonic()
            stage.until("the nursery is up", lambda: stage.nursery.up)
            found: Found = {"name": NAME, "cold_ms": (time.monotonic() - began) * 1000}
            found["nursery_kib"] = _sizes(stage.nursery.pid)["Pss"]
            found["warm_ms"] = [_start(stage, answers) for _ in range(starts)]
            found |= _memory(stage, answers)
            found["calls"] = _calls(stage, answers, calls)
            stage.watch_turns()
            runs = [stage.play(BUSY, answers=answers) for _ in range(5)]
            for run in runs:
                run.until_end()
            found["longest_turn_ms"] = stage.longest * 1000
    except AssertionError as error:
        raise BenchError(f"{NAME}: {error}") from error
    return found


def _start(stage: Stage, answers: dict[str, Any]) -> float:
    """Milliseconds from the order to run it to the first call of its code."""
    began = time.monotonic()
    run = stage.play(SAYS, answers=answers)
    stage.until("it runs", lambda: run.calls)
    took = (time.monotonic() - began) * 1000
    run.until_end()
    return took


def _memory(stage: Stage, answers: dict[str, Any]) -> Found:
    """KiB of one of ten that run: what is its own, and its share with what all have in common."""
    runs = [stage.play(HARMLESS, answers=answers) for _ in range(10)]
    stage.until("they run", lambda: all(len(run.calls) > 3 for run in runs))
    sizes = [_sizes(run.child.pid) for run in runs]
    for run in runs:
        run.child.stop()
        run.until_end()
    own = statistics.median(size["Private_Dirty"] + size["Private_Clean"] for size in sizes)
    return {"own_kib": own, "pss_kib": statistics.median(size["Pss"] for size in sizes)}


def _calls(stage: Stage, answers: dict[str, Any], number: int) -> float:
    """Calls in a second, one at a time, where core does not slow them down."""
    burst, run_module.BURST = run_module.BURST, number + 1
    try:
        run = stage.play(CALLS.format(number), answers=answers)
        stage.until("it runs", lambda: run.calls)
        began = time.monotonic()
        run.until_end()
        return number / (time.monotonic() - began)
    finally:
        run_module.BURST = burst


def _sizes(pid: int) -> dict[str, int]:
    """KiB, from smaps_rollup: proc_pid_smaps(5)."""
    words = [line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]]
    return {line[0].rstrip(":"): int(line[1]) for line in words}


def text(found: Found) -> str:
    """The table."""
    warm = statistics.quantiles(found["warm_ms"], n=100, method="inclusive")
    missed = ", MISSED" if warm[98] >= WARM_MS else ""
    turn = found["longest_turn_ms"]
    lines: list[tuple[str, ...]] = [
        (NAME, "", "", ""),
        ("order to code running, ms", "", f"{warm[49]:.1f}", f"p99 {warm[98]:.1f}, aim < {WARM_MS:g}{missed}"),
        ("the nursery's own start, ms", "", f"{found['cold_ms']:.0f}", ""),
        ("the nursery alone, KiB", "", f"{found['nursery_kib']:.0f}", "PSS"),
        ("one of ten that run, KiB", "", f"{found['own_kib']:.0f}", f"its own; PSS {found['pss_kib']:.0f}"),
        ("calls/s, one at a time", "", f"{found['calls']:.0f}", ""),
        ("longest turn, 5 floods, ms", "", f"{turn:.1f}", f"aim < {TURN_MS:g}{', MISSED' * (turn >= TURN_MS)}"),
    ]
    return "\n" + aligned(lines)
