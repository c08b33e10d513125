"""``python -m tests.benchmarks.curve``: what a door to other machines costs a broker; requests, and its CPU for each.

The worker is on the broker's own machine, and the client in this process, with a window of requests under way. CPU of
the broker is told as well, as it says more than the time where other things run.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import zmq

from raspy.cli.keys import Place
from raspy.common import MDP
from raspy.common.curve import read_file
from tests.benchmarks.process import MIB, Children, Process, cpu_seconds, memory_bytes, progress
from tests.benchmarks.rows import start_workers

ADDRESS = "127.88.44.2"
SERVICE = b"bench.echo"
WINDOW = 100
BODY = bytes(32)
LIMIT_MS = 20_000
PLAIN, DOOR, KEYS = "files, no door", "files, with a door", "encrypted, through the door"


@contextmanager
def broker(door: bool) -> Iterator[tuple[Process, str, Path]]:
    """A broker in a process, its directory of sockets and that of its keys."""
    with tempfile.TemporaryDirectory(prefix="raspy-") as name, Children(Path(name)) as children:
        keys = Path(name, "keys")
        config = Path(name, "raspy.toml")
        listen = f'[broker]\nlisten = ["{ADDRESS}"]\n' if door else ""
        config.write_text(f'[bus]\nhostname = "host"\nbroker_ip = "ipc://{name}"\n{listen}')
        place = Place(str(keys))
        place.init()
        place.new("client")
        argv = [sys.executable, "-m", "raspy.common.runner", "broker", "--config", str(config)]
        process = children.start("broker", argv, {"RASPY_KEYS": str(keys)})
        end = time.monotonic() + 20
        while not os.path.exists(f"{name}/{MDP.COLLECTOR + 5514}") and time.monotonic() < end:
            time.sleep(0.02)
        start_workers(children, MDP.endpoint(f"ipc://{name}", 5514), 1, 1)
        yield process, f"ipc://{name}", keys


def measure(way: str, total: int) -> tuple[float, float, float]:
    """Requests a second, microseconds of the broker's CPU for each, and MiB of the broker afterwards."""
    with broker(way != PLAIN) as (process, ip, keys), zmq.Context() as context, context.socket(zmq.DEALER) as client:
        client.linger = 0
        if way == KEYS:
            pair = read_file(str(keys / "nodes" / "client" / "client.key_secret"))
            client.curve_serverkey = read_file(str(keys / "broker.key")).public.encode()
            client.curve_publickey, client.curve_secretkey = pair.public.encode(), pair.secret.encode()
            ip = ADDRESS
        client.connect(MDP.endpoint(ip, 5514))
        ask(client, WINDOW)
        before, began = cpu_seconds(process.pid), time.perf_counter()
        ask(client, total)
        took = time.perf_counter() - began
        return total / took, (cpu_seconds(process.pid) - before) / total * 1e6, memory_bytes(process.pid)["pss"] / MIB


def ask(client: zmq.Socket[bytes], total: int) -> None:
    """Have so many requests answered."""
    request = [b"", MDP.C_CLIENT, SERVICE, BODY]
    sent = min(WINDOW, total)
    for _ in range(sent):
        client.send_multipart(request)
    for _ in range(total):
        assert client.poll(LIMIT_MS), "a request is not answered"
        client.recv_multipart()
        if sent < total:
            client.send_multipart(request)
            sent += 1


def table(total: int, rounds: int) -> str:
    """The medians of all ways."""
    found: dict[str, list[tuple[float, float, float]]] = {PLAIN: [], DOOR: [], KEYS: []}
    for turn in range(rounds):
        for way, samples in found.items():
            progress(f"{turn + 1}/{rounds} {way}")
            samples.append(measure(way, total))
    lines = [f"{'':<30}{'req/s':>10}{'CPU us':>10}{'PSS MiB':>10}"]
    for way, samples in found.items():
        rate, cpu, pss = (median(sample[n] for sample in samples) for n in range(3))
        lines.append(f"{way:<30}{rate:>10.0f}{cpu:>10.1f}{pss:>10.1f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--total", type=int, default=20_000, metavar="N", help="requests of a round")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    options = parser.parse_args()
    print(table(options.total, options.rounds))


if __name__ == "__main__":
    main()
