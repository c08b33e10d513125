"""The durable rows: requests through Titanic, the same ones not durable, and what the disk can do at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.process import ROOT, BenchError, Children, Process
from tests.benchmarks.rows import SERVICE, Row, Sample, python, start_workers
from tests.benchmarks.targets import LOAD, Raspy, Running, Target, environment

GROUP = "durable"
FSYNC, SQLITE, SQLITE_SAME = "fsync loop, 4 KiB", "bare SQLite commit", "bare SQLite, as grouped"
ONE_SLOT, SLOTS = "not durable, 1 slot", "not durable, 32 slots"
BARE_WORKER = "bare commit worker"
ACCEPTED, RUN = "accepted", "accepted, being run"
AWAY = "bench.away"
TITANIC = "host.titanic"
CLIENTS = (1, 10, 100)
BODY = 100
CARD_US = 10_000
"""Added to each fsync: what a memory card takes."""
WORKER_SLOTS = 16
MOST_SLOTS = 128
"""As Titanic opens by itself."""
TITANIC_REQUEST = "titanic.request"
ROUND_LIMIT_S = 60.0
MEMORY_ONLY = ("tmpfs", "ramfs")


class Disk:
    """Where the state of the durable rows lies, and the shim that counts and slows down fsync.

    :param directory: on the file system that is to be measured; it is emptied for each round
    :param scratch: where the shim is compiled
    """

    def __init__(self, directory: Path, scratch: Path) -> None:
        self.directory = directory
        self.scratch = scratch
        self.shim = scratch / "slow_sync.so"
        self.no_shim = self._compile()

    def _compile(self) -> str:
        """Why fsync is neither counted nor slowed down, or empty."""
        compiler = shutil.which("cc")
        if compiler is None:
            return "no C compiler (cc)"
        argv = [compiler, "-O2", "-shared", "-fPIC", "-o", str(self.shim), str(LOAD / "slow_sync.c")]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        return "" if done.returncode == 0 else f"cc: {done.stderr.strip().splitlines()[0]}"

    def environment(self, delay_us: int) -> tuple[dict[str, str], str]:
        """For a process that writes: the shim's settings, and the file with its count (empty without a shim)."""
        if self.no_shim:
            if delay_us:
                raise BenchError(self.no_shim)
            return {}, ""
        handle, count = tempfile.mkstemp(prefix="syncs-", dir=self.scratch)
        os.write(handle, bytes(8))
        os.close(handle)
        preload = {"LD_PRELOAD": str(self.shim), "BENCH_SYNC_COUNT": count}
        return preload | {"BENCH_SYNC_DELAY_US": str(delay_us)}, count

    def fresh(self) -> str:
        """A directory for this round. Those of earlier ones, whose processes have ended, are removed."""
        for old in self.directory.iterdir():
            shutil.rmtree(old)
        return tempfile.mkdtemp(dir=self.directory)

    def text(self) -> str:
        """What it is, for the head of the table."""
        kind, device = file_system(self.directory)
        notes = ["; this is memory, NOT A DISK: fsync does nothing there"] if kind in MEMORY_ONLY else []
        notes += [f"; fsync is neither counted nor slowed down: {self.no_shim}"] if self.no_shim else []
        return f"state on {kind} ({device}){''.join(notes)}"


def file_system(directory: Path) -> tuple[str, str]:
    """Type and device of the file system that a directory is on: proc_pid_mountinfo(5)."""
    found = Path("/"), "unknown", "unknown"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        ours, _, theirs = line.partition(" - ")
        point = Path(ours.split()[4].encode().decode("unicode_escape"))
        if directory.resolve().is_relative_to(point) and len(point.parts) >= len(found[0].parts):
            found = point, *theirs.split()[:2]  # type: ignore[assignment]
    return found[1], found[2]


class Way(Target):
    """One line of a row: a way to have requests answered, or only rows or blocks on the disk."""

    def __init__(self, ports: Iterator[int], disk: Disk, name: str) -> None:
        super().__init__(ports)
        self.disk, self.name = disk, name

    def round(self, children: Children, row: DurableRow) -> Sample:
        raise NotImplementedError


class DurableRow(Row):
    """So many clients, with or without a delay of each fsync."""

    def __init__(self, clients: int, delay_us: int, seconds: float) -> None:
        slow = f", fsync + {delay_us / 1000:g} ms" if delay_us else ""
        plural = "" if clients == 1 else "s"
        super().__init__(f"{GROUP}{slow}: {clients} client{plural}", "req/s", GROUP, self._measure)
        self.clients, self.delay_us, self.seconds = clients, delay_us, seconds

    def _measure(self, children: Children, way: Target) -> Sample:
        assert isinstance(way, Way)
        sample = way.round(children, self)
        if not sample["good"]:
            raise BenchError(f"nothing was done; the last answer was {sample['reason']!r}")
        sample["value"] = sample["good"] / sample["seconds"]
        return sample

    def fitting(self, ways: list[Target]) -> list[Target]:
        """Those that say something here: a slow disk is nothing to what is not durable, nor is one client a group."""
        left_out = {ONE_SLOT, SLOTS} if self.delay_us else set()
        left_out |= {SQLITE_SAME} if self.clients == 1 else set()
        return [way for way in ways if way.name not in left_out]

    def job(self, **more: object) -> dict[str, object]:
        return {"service": SERVICE, "body": BODY, "seconds": self.seconds, "warm_up": self.seconds / 5, **more}


class Raw(Way):
    """load/commit.py: blocks or rows, without a server."""

    def round(self, children: Children, row: DurableRow) -> Sample:
        rows = row.clients
        if self.name == SQLITE_SAME:
            theirs = row.samples.get(ACCEPTED)
            if not theirs or not theirs[-1]["commits"]:
                raise BenchError("how Titanic groups is not known")
            rows = max(1, round(theirs[-1]["good"] / theirs[-1]["commits"]))
        preload, count = self.disk.environment(row.delay_us)
        kind = "fsync" if self.name == FSYNC else "sqlite"
        job = row.job(kind=kind, directory=self.disk.fresh(), rows=rows, sync_file=count)
        argv = [sys.executable, "-m", "tests.benchmarks.load.commit", json.dumps(job)]
        sample: Sample = json.loads(children.start("commit", argv, preload, talks=True).line(ROUND_LIMIT_S))
        return sample | {"rows": rows}


class Straight(Way):
    """Clients, our broker, and echo workers."""

    def __init__(self, ports: Iterator[int], disk: Disk, name: str, slots: int) -> None:
        super().__init__(ports, disk, name)
        self.slots = slots

    def round(self, children: Children, row: DurableRow) -> Sample:
        running = Raspy(self.ports).start(children)
        start_workers(children, running.workers, 1, self.slots)
        return clients(children, running, running.process, row.job(clients=row.clients, durable=False, whole=False))


class Durable(Way):
    """Clients, our broker, and a server that puts requests on disk before it answers."""

    def round(self, children: Children, row: DurableRow) -> Sample:
        running = Raspy(self.ports).start(children)
        preload, count = self.disk.environment(row.delay_us)
        server = self.server(children, running, preload)
        job = row.job(clients=row.clients, durable=True, whole=False, sync_file=count)
        return clients(children, running, server, job | self.service(children, running))

    def server(self, children: Children, running: Running, preload: dict[str, str]) -> Process:
        """Titanic."""
        settings = environment(children, next(self.ports)) | preload
        settings |= {"STATE_DIRECTORY": self.disk.fresh(), "RASPY_BUS_BROKER_PORT": running.clients.rpartition(":")[2]}
        return children.start("titanic", [sys.executable, "-m", "raspy.common.runner", "titanic"], settings)

    def service(self, children: Children, running: Running) -> dict[str, object]:
        """The service that is asked for, which nobody serves; nothing is dispatched."""
        return {"service": AWAY}


class DurableRun(Durable):
    """Titanic, whose service is run by echo workers; the clients fetch the replies."""

    def service(self, children: Children, running: Running) -> dict[str, object]:
        start_workers(children, running.workers, 1, WORKER_SLOTS)
        return {"whole": True}


class Bare(Durable):
    """load/commit_worker.py in place of Titanic."""

    def server(self, children: Children, running: Running, preload: dict[str, str]) -> Process:
        arguments = running.workers, TITANIC_REQUEST, str(MOST_SLOTS), self.disk.fresh()
        argv = [sys.executable, "-m", "tests.benchmarks.load.commit_worker", *arguments]
        worker = children.start("commit worker", argv, preload, talks=True)
        worker.line(15)
        return worker


def clients(children: Children, running: Running, server: Process, job: dict[str, object]) -> Sample:
    """load/clients.py; the processor time and so on that it tells are those of ``server``."""
    statistics = f"{TITANIC}.statistics" if server.name == "titanic" else ""
    job = {"sync_file": "", "statistics": statistics, **job}
    job |= {"endpoint": running.clients, "pid": server.pid, "broker": running.process.pid}
    load = python(children, "clients", json.dumps(job))
    until = time.monotonic() + ROUND_LIMIT_S
    while not load.heard(0.2) and time.monotonic() < until:
        if server.popen.poll() is not None:
            raise BenchError(f"{server.name} ended: {server.complaint()}")
    sample: Sample = json.loads(load.line(1))
    return sample


def durable_ways(ports: Iterator[int], disk: Disk) -> list[Target]:
    """In the order in which they are measured."""
    return [
        Raw(ports, disk, FSYNC),
        Raw(ports, disk, SQLITE),
        Straight(ports, disk, ONE_SLOT, 1),
        Straight(ports, disk, SLOTS, 32),
        Bare(ports, disk, BARE_WORKER),
        Durable(ports, disk, ACCEPTED),
        Raw(ports, disk, SQLITE_SAME),
        DurableRun(ports, disk, RUN),
    ]


def durable_rows(quick: bool) -> list[DurableRow]:
    """Each number of clients, on the disk as it is and on one as slow as a card."""
    return [DurableRow(count, delay, 0.2 if quick else 2.0) for delay in (0, CARD_US) for count in CLIENTS]


def default_directory() -> Path:
    return ROOT / "build"
