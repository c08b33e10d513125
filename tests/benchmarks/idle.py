"""Idle processes: the whole appliance, then ten bare pyzmq workers, one after the other."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.benchmarks.process import MIB, BenchError, Children, cpu_seconds, descendants, memory_bytes, progress
from tests.benchmarks.table import aligned
from tests.benchmarks.targets import BARE_WORKER, Loop, environment

BARE = 10
SETTLED_CPU = 0.05
START_LIMIT_S = 60.0
PSS_AIM, CPU_AIM = 12.0, 0.2
"""Of each process of RasPy, less than: MiB, and % of one core."""
RASPY = "import sys; from raspy.cli import main; sys.exit(main())"
Figures = dict[str, str | float]


def settled(pids: Callable[[], set[int]], limit: float = START_LIMIT_S) -> set[int]:
    """The processes, once they are the same for a second and have used less than 5 % of a core in it."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        if not (these := pids()):
            time.sleep(0.1)
            continue
        before = sum(map(cpu_seconds, these))
        time.sleep(1)
        if pids() == these and sum(map(cpu_seconds, these)) - before < SETTLED_CPU:
            return these
    raise BenchError(f"the processes are not idle {limit:g} s after their start")


def window(named: dict[int, str], seconds: float) -> list[Figures]:
    """PSS and RSS in MiB at the end, CPU in % of one core over the window."""
    before = {pid: cpu_seconds(pid) for pid in named}
    began = time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    found: list[Figures] = []
    for pid, name in named.items():
        memory = memory_bytes(pid)
        sizes = {"pss_mib": memory["pss"] / MIB, "rss_mib": memory["rss"] / MIB}
        found.append({"process": name, **sizes, "cpu": (cpu_seconds(pid) - before[pid]) / took * 100})
    return found


def name_of(pid: int) -> str:
    """The server's name: the last word of its command line."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")[-1].decode(errors="replace")


def appliance(scratch: Path, ports: Iterator[int], seconds: float) -> list[Figures]:
    """``raspy run`` on embedded defaults: the supervisor and each server."""
    with Children(scratch) as children:
        argv = [sys.executable, "-c", RASPY, "run"]
        supervisor = children.start(
            "appliance", argv, environment(children, next(ports)) | {"RASPY_WEB_PORT": str(next(ports))}
        )

        def processes() -> set[int]:
            below = descendants(supervisor.pid)
            if supervisor.popen.poll() is not None:
                raise BenchError(f"the appliance ended: {supervisor.complaint()}")
            return {supervisor.pid, *below} if below else set()

        named = {pid: f"raspy {name_of(pid)}" for pid in sorted(settled(processes))}
        return window(named, seconds)


def bare_workers(scratch: Path, ports: Iterator[int], seconds: float) -> list[Figures]:
    """Ten bare pyzmq workers on the bare loop, which is not counted."""
    with Children(scratch) as children:
        broker = Loop(ports, "bare MDP loop", "mdp").start(children)
        argv = [sys.executable, BARE_WORKER, broker.workers, "bench.idle", "1"]
        workers = [children.start(f"bare worker {n}", argv, talks=True) for n in range(BARE)]
        for worker in workers:
            worker.line(15)
        pids = settled(lambda: {worker.pid for worker in workers})
        found = window(dict.fromkeys(pids, "bare pyzmq worker"), seconds)
    mean = {key: sum(float(one[key]) for one in found) / len(found) for key in ("pss_mib", "rss_mib", "cpu")}
    return [{"process": f"bare pyzmq worker (mean of {BARE})", **mean}]


def measure(scratch: Path, ports: Iterator[int], seconds: float) -> list[Figures]:
    """One line a process; a part that does not start is a line with its reason."""
    found: list[Figures] = []
    for part in (appliance, bare_workers):
        progress(f"idle: {part.__name__}")
        try:
            found += part(scratch, ports, seconds)
        except (BenchError, OSError) as error:  # OSError: a process ended while it was looked at
            found.append({"process": part.__name__, "error": str(error)})
    return found


def verdict(one: Figures) -> str:
    """Whether a process of RasPy reached the aims; empty for the others."""
    if not str(one["process"]).startswith("raspy "):
        return ""
    aims = ("PSS", "pss_mib", PSS_AIM), ("core", "cpu", CPU_AIM)
    missed = [name for name, key, aim in aims if float(one[key]) >= aim]
    return f"MISSED: {', '.join(missed)}" if missed else "reached"


def text(found: list[Figures], seconds: float) -> str:
    aims = f"aim: PSS < {PSS_AIM:g}, core < {CPU_AIM:g}"
    lines: list[tuple[str, ...]] = [("idle process", "", "PSS MiB", "RSS MiB", f"% of a core over {seconds:g} s", aims)]
    for one in found:
        if "error" in one:
            lines.append((str(one["process"]), str(one["error"]).splitlines()[-1]))
            continue
        sizes = [f"{float(one[key]):.1f}" for key in ("pss_mib", "rss_mib")]
        lines.append((str(one["process"]), "", *sizes, f"{float(one['cpu']):.2f}", verdict(one)))
    return "\n" + aligned(lines)
