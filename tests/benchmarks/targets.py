"""What is measured: our broker and the things beside it. Each is started afresh for every round."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests.benchmarks.process import ROOT, BenchError, Children, Process, listens, wait_for_port

OURS = "raspy"
LOOP = "pyzmq loop"
BARE_MDP = "bare MDP loop"
MOSQUITTO = "mosquitto"
LOAD = Path(__file__).with_name("load")
BARE_WORKER = str(LOAD / "mdp_worker.py")


@dataclass
class Running:
    """A broker that listens, and where its clients, workers, publishers and subscribers connect to."""

    process: Process
    clients: str = ""
    workers: str = ""
    protocol: str = ""
    subscribe_port: int = 0
    publish_port: int = 0


class Target:
    """One column of the comparison. ``backlog``: it keeps requests for a service nobody serves yet."""

    name = ""
    backlog = True

    def __init__(self, ports: Iterator[int]) -> None:
        self.ports = ports

    def missing(self) -> str:
        """Why it cannot be measured here, or empty."""
        return ""

    def start(self, children: Children) -> Running:
        raise NotImplementedError


class Raspy(Target):
    """Our broker and Proxy, one process on tcp, with a state directory of its own."""

    name = OURS

    def start(self, children: Children) -> Running:
        base = next(self.ports)
        argv = [sys.executable, "-m", "raspy.common.runner", "broker"]
        process = children.start(self.name, argv, environment(children, base))
        for port in range(base, base + 4):
            wait_for_port(port, process)
        url = f"tcp://127.0.0.1:{base}"
        return Running(process, url, url, "zmtp", base + 2, base + 3)


class Loop(Target):
    """A bare pyzmq loop (load/loop.py) for requests at once, for one at a time, or for updates."""

    backlog = False

    def __init__(self, ports: Iterator[int], name: str, kind: str) -> None:
        super().__init__(ports)
        self.name, self.kind = name, kind

    def start(self, children: Children) -> Running:
        base = next(self.ports)
        second = base if self.kind == "mdp" else base + 1
        process = children.start(self.name, [sys.executable, str(LOAD / "loop.py"), self.kind, str(base), str(second)])
        for port in {base, second}:
            wait_for_port(port, process)
        urls = f"tcp://127.0.0.1:{base}", f"tcp://127.0.0.1:{second}"
        return Running(process, *urls, protocol="zmtp", subscribe_port=second, publish_port=base)


class Reference(Target):
    """Any other MDP broker, given as NAME=COMMAND@ENDPOINT; it binds the endpoint by itself."""

    def __init__(self, text: str) -> None:
        self.name, equals, rest = text.partition("=")
        command, at, self.endpoint = rest.rpartition("@")
        self.argv = shlex.split(command)
        url = urlsplit(self.endpoint)
        if not (equals and at and self.name and self.argv and url.scheme == "tcp" and url.port):
            raise ValueError(f"--reference {text!r}: want NAME=COMMAND@tcp://127.0.0.1:PORT")
        if url.hostname not in ("127.0.0.1", "localhost"):
            raise ValueError(f"--reference {text!r}: only the loopback address is measured")
        self.port = url.port

    def start(self, children: Children) -> Running:
        if listens(self.port):
            raise BenchError(f"port {self.port} is taken already: end what listens there")
        process = children.start(self.name, self.argv)
        wait_for_port(self.port, process)
        return Running(process, self.endpoint, self.endpoint)


class Mosquitto(Target):
    """Debian's mosquitto with its defaults: one listener on loopback, nothing logged, nothing on disk."""

    name = MOSQUITTO

    def __init__(self, ports: Iterator[int]) -> None:
        super().__init__(ports)
        self.program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")

    def missing(self) -> str:
        return "" if self.program else "not installed"

    def start(self, children: Children) -> Running:
        assert self.program
        port = next(self.ports)
        config = children.scratch / f"mosquitto-{port}.conf"
        config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nlog_type none\n")
        process = children.start(self.name, [self.program, "-c", str(config)])
        wait_for_port(port, process)
        return Running(process, protocol="mqtt", subscribe_port=port, publish_port=port)


def environment(children: Children, base: int) -> dict[str, str]:
    """Settings of a process of ours: free ports, state and configuration in the scratch directory."""
    state = children.scratch / f"state-{base}"
    state.mkdir()
    config = state / "raspy.toml"
    config.touch()
    return {
        "RASPY_CONFIG": str(config),
        "XDG_STATE_HOME": str(state),
        "RASPY_BUS_BROKER_PORT": str(base),
        "RASPY_BUS_HOSTNAME": "host",
        "PYTHONPATH": str(ROOT),
    }


def mdp_targets(ports: Iterator[int], references: list[str]) -> list[Target]:
    """Ours, the two bare loops, and the references given."""
    loops: list[Target] = [Loop(ports, LOOP, "forward"), Loop(ports, BARE_MDP, "mdp")]
    return [Raspy(ports), *loops, *(Reference(text) for text in references)]


def kv_targets(ports: Iterator[int]) -> list[Target]:
    """Ours, a bare loop and mosquitto."""
    return [Raspy(ports), Loop(ports, LOOP, "kv"), Mosquitto(ports)]
