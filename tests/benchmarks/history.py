"""A year of ten probes in the logger: how long a chart takes, how large the file is, what is written to the card.

Beside it, in the same run and on the same file system, the same rows in a plain clustered table of SQLite, committed
each minute. The file system is an ext4 of its own on a loop device, so that the blocks that reach the device can be
counted; without root, it is the given directory, and only what the process has had written is counted.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.process import BenchError, progress
from tests.benchmarks.table import aligned
from tests.benchmarks.targets import LOAD, ROOT

NAME = "history"
YEAR, MEASURED = 365, 10
"""Days of the history, and days at its end in which the plain table is written row by row."""
FIRST = 20_000
DISK_BYTES = 1 << 30
LIMIT_S = 3600.0
CHART_AIM, SIZE_AIM, DAY_AIM = 100.0, 200.0, 5.0
"""ms, MB, MB a day: less than."""
Figures = dict[str, Any]


@contextlib.contextmanager
def disk(directory: Path) -> Iterator[tuple[str, str]]:
    """An ext4 of its own, or the directory; and what it is."""
    with tempfile.TemporaryDirectory(prefix="history-", dir=directory) as scratch:
        image, place = os.path.join(scratch, "disk"), os.path.join(scratch, "mount")
        os.mkdir(place)
        with open(image, "wb") as file:
            file.truncate(DISK_BYTES)
        make = ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", image]
        path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
        try:
            subprocess.run(make, check=True, capture_output=True, env=os.environ | {"PATH": path})
            subprocess.run(["mount", "-o", "loop", image, place], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            yield scratch, "the given directory: no loop device could be mounted, so its blocks are not counted"
            return
        try:
            yield place, "ext4 on a loop device"
        finally:
            subprocess.run(["umount", place], check=False)


def load(what: str, directory: str, *numbers: int) -> Figures:
    """What one part of the load says."""
    argv = [sys.executable, str(LOAD / "history_load.py"), what, directory, str(FIRST), *map(str, numbers)]
    try:
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_S,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
    except subprocess.TimeoutExpired:
        raise BenchError(f"{what}: not done in {LIMIT_S:g} s") from None
    if done.returncode != 0:
        raise BenchError(f"{what}: {(done.stderr.strip() or 'it ended').splitlines()[-1]}")
    found: Figures = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(directory: Path, quick: bool) -> Figures:
    """All of it."""
    days, measured = (4, 1) if quick else (YEAR, MEASURED)
    with disk(directory) as (place, kind):
        ours, plain = (os.path.join(place, name) for name in ("ours", "plain"))
        os.mkdir(ours)
        os.mkdir(plain)
        found: Figures = {"disk": kind, "days": days}
        for part, where, numbers in (
            ("fill", ours, (days,)),
            ("ask", ours, (days,)),
            ("plain", plain, (days, measured)),
            ("plain-ask", plain, (days,)),
        ):
            progress(f"history: {part}")
            found[part] = load(part, where, *numbers)
        return found


def aimed(value: float, aim: float, digits: int = 1) -> str:
    """A figure with its aim."""
    return f"{value:.{digits}f} (aim < {aim:g}{'' if value < aim else ', MISSED'})"


def chart_figures(row: Figures) -> tuple[float, ...]:
    """The first time, with nothing cached; of the others the median, the longest, and the CPU time: ms."""
    return row["cold_ms"], median(row["ms"]), max(row["ms"]), median(row["cpu_ms"])


def text(found: Figures) -> str:
    """The two tables."""
    ours, plain = found["fill"], found["plain"]
    lines: list[tuple[str, ...]] = [("", "logger", "plain table, each minute")]
    if ours["device_mb"] is not None:
        written = aimed(ours["device_mb"], DAY_AIM)
        lines.append(("written to the device, MB a day", written, f"{plain['device_mb']:.1f}"))
    lines.append(("written by the process, MB a day", aimed(ours["process_mb"], DAY_AIM), f"{plain['process_mb']:.1f}"))
    lines.append(("the file, MB", aimed(ours["bytes"] / 1e6, SIZE_AIM), f"{plain['bytes'] / 1e6:.1f}"))
    asked = found["ask"]
    lines.append(("from the start to the first chart, ms", f"{asked['start_ms']:.0f}", ""))
    rate = asked["export_rows"] / max(asked["export_s"], 1e-9)
    lines.append(("rows exported per second", f"{rate:,.0f}", ""))
    each = ("cold ms", "median", "max", "CPU")
    charts: list[tuple[str, ...]] = [("chart", "points", *each, *(f"plain: {name}" for name in each), "")]
    for one, other in zip(asked["ranges"], found["plain-ask"]["ranges"], strict=True):
        worst = max(one["cold_ms"], *one["ms"])
        figures = [f"{value:.1f}" for row in (one, other) for value in chart_figures(row)]
        verdict = f"aim < {CHART_AIM:g} ms{'' if worst < CHART_AIM else ', MISSED'}"
        charts.append((one["range"], str(one["points"]), *figures, verdict))
    head = f"\nhistory of {found['days']} days of 10 probes, {ours['rows']:,} readings; {found['disk']}"
    return "\n".join([head, aligned(lines), aligned(charts)])
