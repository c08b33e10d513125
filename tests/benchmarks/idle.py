"""Idle processes: the whole appliance, then ten bare pyzmq workers, one after the other."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.process import BenchError, Children, cpu_seconds, descendants, memory_bytes, progress
from tests.benchmarks.table import aligned
from tests.benchmarks.targets import BARE_WORKER, Loop, environment

BARE = 10
SETTLED_CPU = 0.05
START_LIMIT_S = 60.0
RASPY = "import sys; from raspy.cli import main; sys.exit(main())"
Figures = dict[str, str | float]


def settle(pids: list[int], limit: float = START_LIMIT_S) -> None:
    """Until the processes together use less than 5 % of a core for a second: their start is over."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        before = sum(map(cpu_seconds, pids))
        time.sleep(1)
        if sum(map(cpu_seconds, pids)) - before < SETTLED_CPU:
            return
    raise BenchError(f"the processes are not idle {limit:g} s after their start")


def window(named: dict[int, str], seconds: float) -> list[Figures]:
    """PSS and RSS in MB at the end, CPU in % of one core over the window."""
    settle(list(named))
    before = {pid: cpu_seconds(pid) for pid in named}
    began = time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    found: list[Figures] = []
    for pid, name in named.items():
        memory = memory_bytes(pid)
        cpu = (cpu_seconds(pid) - before[pid]) / took * 100
        found.append(
            {"process": name, "pss_mb": memory["pss"] / 1e6, "rss_mb": memory["rss"] / 1e6, "cpu": cpu}
        )
    return found


def name_of(pid: int) -> str:
    """The server's name: the last word of its command line."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")[-1].decode(errors="replace")


def appliance(scratch: Path, ports: Iterator[int], seconds: float) -> list[Figures]:
    """``raspy run`` on embedded defaults: the supervisor and each server."""
    with Children(scratch) as children:
        argv = [sys.executable, "-c", RASPY, "run"]
        supervisor = children.start("appliance", argv, environment(children, next(ports)))
        deadline = time.monotonic() + START_LIMIT_S
        while not descendants(supervisor.pid):
            if supervisor.popen.poll() is not None or time.monotonic() > deadline:
                raise BenchError(f"the appliance did not start: {supervisor.complaint()}")
            time.sleep(0.1)
        settle([supervisor.pid])
        named = {pid: f"raspy {name_of(pid)}" for pid in [supervisor.pid, *descendants(supervisor.pid)]}
        return window(named, seconds)


def bare_workers(scratch: Path, ports: Iterator[int], seconds: float) -> list[Figures]:
    """Ten bare pyzmq workers on the bare loop, which is not counted."""
    with Children(scratch) as children:
        broker = Loop(ports, "bare MDP loop", "mdp").start(children)
        argv = [sys.executable, BARE_WORKER, broker.workers, "bench.idle", "1"]
        workers = [children.start(f"bare worker {n}", argv, talks=True) for n in range(BARE)]
        for worker in workers:
            worker.line(15)
        found = window({worker.pid: "bare pyzmq worker" for worker in workers}, seconds)
    mean = {key: sum(float(one[key]) for one in found) / len(found) for key in ("pss_mb", "rss_mb", "cpu")}
    return [{"process": f"bare pyzmq worker (mean of {BARE})", **mean}]


def measure(scratch: Path, ports: Iterator[int], seconds: float) -> list[Figures]:
    """One line a process; a part that does not start is a line with its reason."""
    found: list[Figures] = []
    for part in (appliance, bare_workers):
        progress(f"idle: {part.__name__}")
        try:
            found += part(scratch, ports, seconds)
        except BenchError as error:
            found.append({"process": part.__name__, "error": str(error)})
    return found


def text(found: list[Figures], seconds: float) -> str:
    lines: list[tuple[str, ...]] = [
        ("idle process", "", "PSS MB", "RSS MB", f"% of a core over {seconds:g} s")
    ]
    for one in found:
        if "error" in one:
            lines.append((str(one["process"]), str(one["error"]).splitlines()[-1]))
            continue
        sizes = [f"{float(one[key]):.1f}" for key in ("pss_mb", "rss_mb")]
        lines.append((str(one["process"]), "", *sizes, f"{float(one['cpu']):.2f}"))
    return "\n" + aligned(lines)
