"""A whole appliance of real processes: `raspy run` on sockets of its own, and the command line to ask it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raspy.common.config import PORTS
from raspy.common.mdcliapi import MajorDomoClient

TOP = Path(__file__).resolve().parents[1]
LIMIT_S = 30.0


def environment(**added: str) -> dict[str, str]:
    """This process's, without what would configure RasPy."""
    known = {key: value for key, value in os.environ.items() if not key.startswith(("RASPY_", "NOTIFY_", "WATCHDOG_"))}
    return {**known, "PYTHONPATH": str(TOP), "PYTHONWARNINGS": "", **added}


def raspy(*words: str, **added: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "raspy", *words],
        env=environment(**added),
        capture_output=True,
        text=True,
        timeout=60,
    )


def wait_for(what: str, found: Callable[[], Any], limit: float = LIMIT_S) -> Any:
    """Ask again until the answer is true; return it."""
    end = time.monotonic() + limit
    while True:
        answer = found()
        if answer:
            return answer
        assert time.monotonic() < end, f"{what}: not within {limit:g} s"
        time.sleep(0.02)


def doing(pid: int) -> str:
    """What each thread of a process does at the moment: its state, the function of the kernel it waits in, its call."""
    lines = []
    for task in sorted(Path(f"/proc/{pid}/task").glob("*")):
        try:
            state = (task / "stat").read_text().rpartition(")")[2].split()[0]
            told = [(task / name).read_text().strip() for name in ("comm", "wchan", "syscall")]
        except OSError as error:
            told, state = [str(error)], "?"
        lines.append(" ".join([task.name, state, *told]))
    return "\n".join(lines)


class Appliance:
    """`raspy run` in a directory of its own, under the host name ``pi``.

    :param servers: which ones it runs
    :param more: more of the configuration
    """

    def __init__(self, servers: list[str], more: str = "") -> None:
        # The path of a socket may have 107 bytes, which pytest's own directories use up.
        self.directory = Path(tempfile.mkdtemp(prefix="raspy-"))
        self.config = self.directory / "raspy.toml"
        self.config.write_text(
            f'[bus]\nhostname = "pi"\nbroker_ip = "ipc://{self.directory}"\n'
            f"titanic = {json.dumps('titanic' in servers)}\n"
            f"[run]\nservers = {json.dumps(servers)}\n{more}"
        )
        self.servers = servers
        self.log_path = self.directory / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, **added: str) -> Appliance:
        """Start it and wait until all servers are ready, and the broker knows them."""
        self.launch(**added)
        self.wait_all()
        return self

    def launch(self, **added: str) -> subprocess.Popen[bytes]:
        """Start it."""
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "raspy", "run", "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(XDG_STATE_HOME=str(self.directory), **added),
            )
        return self.process

    def wait_all(self) -> None:
        """Wait until all servers are ready, and the broker knows them."""
        for name in self.servers:
            self.wait_ready(name)
        if "broker" in self.servers:
            self._wait_known()

    def _wait_known(self) -> None:
        """A server is ready before the broker has heard of it."""
        with MajorDomoClient(f"ipc://{self.directory}/5514") as client:
            for name in self.servers:
                service = f"pi.{name}.mmi".encode()
                if name != "broker":
                    wait_for(f"{name} on the bus\n{self.log}", lambda service=service: client.is_ours(service))

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def wait_ready(self, name: str, times: int = 1) -> None:
        """Wait until the supervisor has seen so many READYs of a server."""
        try:
            wait_for(f"{name} ready {times} times", lambda: self.log.count(f" {name}: started in") >= times)
        except AssertionError as error:
            pid = self.process.pid if self.process else 0
            raise AssertionError(f"{error}\n{self.log}\n{doing(pid)}") from None

    def raspy(self, *words: str, **added: str) -> subprocess.CompletedProcess[str]:
        """Run a command against it."""
        return raspy(*words, "--config", str(self.config), **added)

    def json(self, *words: str) -> Any:
        """What a command says in JSON."""
        done = self.raspy(*words, "--json")
        return json.loads(done.stdout) if done.stdout else None

    def server(self, name: str) -> dict[str, Any]:
        """What the tree says of a server; empty when there is nothing."""
        for row in self.json("status") or []:
            if row["server"] == f"pi.{name}":
                return dict(row)
        return {}

    def pid(self, name: str) -> int:
        """The process of a server, as the machine sees it."""
        for entry in Path("/proc").iterdir():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if name.encode() in words and b"server" in words and f"--config={self.config}".encode() in words:
                return int(entry.name)
        return 0

    def restarts(self) -> dict[str, int]:
        """How often the supervisor has started each server again."""
        return {name: len(re.findall(f" {name}: restarting in", self.log)) for name in self.servers}

    def stop(self) -> int:
        """Stop it; return its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(LIMIT_S)

    def destroy(self) -> None:
        """Leave nothing behind."""
        if self.process is not None and self.process.poll() is None:
            self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


def free_block() -> int:
    """The first of as many free ports as a broker wants, below those that the kernel gives to others."""
    for _ in range(100):
        base = 10_000 + int.from_bytes(os.urandom(2), "big") % 20_000
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(base, base + PORTS):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return base
    raise AssertionError("no free ports")
