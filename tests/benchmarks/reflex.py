"""From a float switch's edge to a relay: through an interlock, through a scenario, and through a bare loop."""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import Any

from raspy.servers.gpio.mockchips import MockChips
from tests.benchmarks.process import BenchError, Children, progress
from tests.benchmarks.table import aligned
from tests.support_processes import wait_for
from tests.support_reflex import DEBOUNCE_MS, DRAIN, FLOAT, PUMP, ReflexStage, latencies

NAME = "reflex"
INTERLOCK_MS, SCENARIO_MS = 10.0, 60.0
"""Aims at p99: less."""
BURST = 16
"""Edges for one scenario: what is fired too often waits, which is not what is to be measured. Even, so that each
scenario begins with the float closed."""
LOOP = str(Path(__file__).with_name("load") / "reflex_loop.py")

Found = dict[str, Any]


def measure(quick: bool, scratch: Path) -> Found:
    """The figures: milliseconds of each edge, by the way that it took."""
    edges = 5 if quick else 500
    stage = ReflexStage()
    try:
        with Children(scratch) as children:
            progress(NAME)
            stage.start()
            bare = Bare(children, scratch / "bare-chips")
            for count in range(edges):
                progress(f"{NAME}: interlock {count + 1}/{edges}")
                stage.pump_on()
                stage.open_float()
                stage.becomes(PUMP, False)
                stage.close_float()
                # Beside it, so that a slow minute of the machine hits both.
                bare.edge(True)
                bare.edge(False)
            interlock = latencies(stage.chips, PUMP, stage.began, False)
            began = time.monotonic_ns()
            for count in range(edges):
                progress(f"{NAME}: scenario {count + 1}/{edges}")
                if count % BURST == 0:
                    if count:
                        stage.follow_no_more()
                    stage.follow()
                is_open = count % 2 == 0
                (stage.open_float if is_open else stage.close_float)()
                stage.becomes(DRAIN, is_open)
                stage.ran(count % BURST + 1)
            scenario = latencies(stage.chips, DRAIN, began)
            bare_ms = latencies(bare.chips, PUMP, 0, False)
            return {"name": NAME, "bare_ms": bare_ms, "interlock_ms": interlock, "scenario_ms": scenario}
    except AssertionError as error:
        raise BenchError(f"{NAME}: {error}") from error
    finally:
        stage.destroy()


class Bare:
    """The bare loop, on chips of its own."""

    def __init__(self, children: Children, directory: Path) -> None:
        self.chips = MockChips(str(directory))
        self.float, self.relay = self.chips.find(FLOAT), self.chips.find(PUMP)
        self.chips.set(self.float, False)
        words = [str(directory), FLOAT, PUMP, f"{DEBOUNCE_MS:g}"]
        children.start("bare loop", [sys.executable, LOOP, *words], talks=True).line(15)

    def edge(self, is_open: bool) -> None:
        """Open or close its float, and wait for its relay."""
        self.chips.set(self.float, is_open)
        wait_for("the bare loop's relay", lambda: self.chips.level(self.relay) is not is_open)


def text(found: Found) -> str:
    """The table."""
    lines: list[tuple[str, ...]] = [
        (f"{NAME}: edge to relay, ms; {DEBOUNCE_MS:g} ms of it debouncing", "edges", "p50", "p99", "")
    ]
    for name, key, aim in (
        ("a bare loop", "bare_ms", 0.0),
        ("interlock: only_if = float", "interlock_ms", INTERLOCK_MS),
        ("scenario: on change, command", "scenario_ms", SCENARIO_MS),
    ):
        cuts = statistics.quantiles(found[key], n=100, method="inclusive")
        missed = ", MISSED" * (cuts[98] >= aim)
        says = f"aim at p99 < {aim:g}{missed}" if aim else ""
        lines.append((name, f"{len(found[key])}", f"{cuts[49]:.1f}", f"{cuts[98]:.1f}", says))
    return "\n" + aligned(lines)
