"""Processes of a run: start, watch, measure through /proc, and end every one of them whatever happens."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
TICKS = os.sysconf("SC_CLK_TCK")
PORTS = range(20000, 30000, 4)
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


class BenchError(Exception):
    """A part of a round did not do its part: the round has no figure."""


def progress(text: str) -> None:
    """One line that is overwritten, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r{text}\033[K", end="", file=sys.stderr, flush=True)


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads, in steps of a tick (10 ms): proc_pid_stat(5), fields 14 and 15."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory_bytes(pid: int) -> dict[str, int]:
    """``pss`` and ``rss`` in bytes, from smaps_rollup: proc_pid_smaps(5)."""
    sizes = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in ("Pss", "Rss"):
            sizes[name.lower()] = int(rest.split()[0]) * 1024
    return sizes


def descendants(pid: int) -> list[int]:
    """All processes below ``pid``."""
    found: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *descendants(child)]
    except OSError:
        pass
    return found


def started_at(pid: int) -> str:
    """The start time of a process, empty when there is none: with the pid it names one process for ever."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def free_ports() -> Iterator[int]:
    """Bases of four free loopback ports in a row, each base once."""
    start = os.getpid() * 4 % len(PORTS)
    for base in [*PORTS[start:], *PORTS[:start]]:
        try:
            for port in range(base, base + 4):
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        yield base


def listens(port: int) -> bool:
    """Whether something accepts connections on a loopback port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def wait_for_port(port: int, process: Process, limit: float = 15.0) -> None:
    """Until something listens on a loopback port."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        if process.popen.poll() is not None:
            raise BenchError(f"{process.name} ended with {process.popen.returncode}: {process.complaint()}")
        if listens(port):
            return
        time.sleep(0.02)
    raise BenchError(f"{process.name} does not listen on port {port}: {process.complaint()}")


def end_with_parent() -> None:
    """In a child, before it becomes a program, ours or not: have it ended when the harness is killed (prctl(2))."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Process:
    """One child: lines from it with a limit, and its last words."""

    def __init__(self, name: str, argv: Sequence[str], env: Mapping[str, str] | None, log: Path, talks: bool):
        self.name = name
        self.log = log
        pipe = subprocess.PIPE if talks else subprocess.DEVNULL
        settings = {key: text for key, text in os.environ.items() if not key.startswith("RASPY_")}
        settings |= env or {}
        with log.open("wb") as errors:
            self.popen = subprocess.Popen(
                argv,
                stdin=pipe,
                stdout=subprocess.PIPE if talks else errors,
                stderr=errors,
                env=settings,
                cwd=ROOT,
                bufsize=0,
                preexec_fn=end_with_parent,
                start_new_session=True,  # Ctrl-C reaches the harness alone, which ends the children in order
            )
        self.pid = self.popen.pid
        self._pending = b""

    def say(self, line: str) -> None:
        stdin: IO[bytes] | None = self.popen.stdin
        assert stdin is not None
        stdin.write(line.encode() + b"\n")

    def line(self, limit: float) -> str:
        """The next line it prints; BenchError when it ends or stays silent for ``limit`` seconds."""
        assert self.popen.stdout is not None
        deadline = time.monotonic() + limit
        while b"\n" not in self._pending:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.popen.stdout], [], [], left)[0]:
                raise BenchError(f"{self.name} said nothing for {limit:g} s: {self.complaint()}")
            data = os.read(self.popen.stdout.fileno(), 65536)
            if not data:
                raise BenchError(f"{self.name} ended: {self.complaint()}")
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode()

    def heard(self, limit: float) -> bool:
        """Whether something can be read within ``limit`` seconds."""
        assert self.popen.stdout is not None
        return b"\n" in self._pending or bool(select.select([self.popen.stdout], [], [], limit)[0])

    def complaint(self) -> str:
        return self.log.read_text(errors="replace").strip()[-800:] or "it printed nothing"

    def end(self, grace: float = 3.0) -> None:
        """SIGTERM, then SIGKILL for it, its group and what it started."""
        below = {pid: started_at(pid) for pid in descendants(self.pid)}
        if self.popen.poll() is None:
            self.popen.terminate()
            try:
                self.popen.wait(grace)
            except subprocess.TimeoutExpired:
                pass
        self._kill(below)
        self.popen.wait(5)
        for stream in (self.popen.stdin, self.popen.stdout):
            if stream:
                stream.close()

    def _kill(self, below: Mapping[int, str]) -> None:
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        if self.popen.poll() is None:
            self.popen.kill()
        for pid, start in below.items():
            if start and started_at(pid) == start:
                os.kill(pid, signal.SIGKILL)


@contextmanager
def held_back() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait: a child is either not started or in the list, and is ended in full."""
    came: list[int] = []
    kept = {number: signal.signal(number, lambda n, _: came.append(n)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
        for arrived in came:
            signal.raise_signal(arrived)


class Children:
    """All children of a part of the run; leaving the ``with`` ends them."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self._all: list[Process] = []

    def start(
        self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None, talks: bool = False
    ) -> Process:
        log = self.scratch / f"{name.replace(' ', '-').replace('/', '-')}-{time.monotonic_ns()}.log"
        with held_back():
            try:
                process = Process(name, argv, env, log, talks)
            except OSError as error:
                raise BenchError(f"{argv[0]} cannot be started: {error.strerror}") from error
            self._all.append(process)
        return process

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        with held_back():
            for process in reversed(self._all):
                process.end()
            self._all.clear()
