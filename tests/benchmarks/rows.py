"""The rows: one measurement each, on one target, in one round."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.benchmarks.process import MIB, BenchError, Children, Process
from tests.benchmarks.targets import BARE_WORKER, Running, Target

SERVICE = "bench.echo"
ROUND_LIMIT_S = 120.0
Sample = dict[str, float]


@dataclass
class Row:
    """``unit`` names ``value`` of a sample; ``more_is_better`` tells how to read the ratio."""

    name: str
    unit: str
    group: str
    measure: Callable[[Children, Target], Sample]
    more_is_better: bool = True
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def python(children: Children, module: str, *arguments: str, name: str = "") -> Process:
    argv = [sys.executable, "-m", f"tests.benchmarks.load.{module}", *arguments]
    return children.start(name or module, argv, talks=True)


def start_workers(children: Children, endpoint: str, processes: int, slots: int) -> list[Process]:
    """Worker processes with ``slots`` connections each, all of which have said READY."""
    argv = [sys.executable, BARE_WORKER, endpoint, SERVICE, str(slots)]
    workers = [children.start(f"worker {n}", argv, talks=True) for n in range(processes)]
    for worker in workers:
        worker.line(15)
    return workers


def client_job(children: Children, running: Running, **job: object) -> Sample:
    job |= {"endpoint": running.clients, "pid": running.process.pid}
    sample: Sample = json.loads(python(children, "mdp_client", json.dumps(job)).line(ROUND_LIMIT_S))
    return sample


def round_trips(name: str, total: int, window: int, processes: int = 1, slots: int = 1, body: int = 32) -> Row:
    """Requests of one client to echo workers."""

    def measure(children: Children, target: Target) -> Sample:
        running = target.start(children)
        workers = start_workers(children, running.workers, processes, slots)
        job = {"kind": "round trips", "service": SERVICE, "body": body, "total": total, "window": window}
        sample = client_job(children, running, warm_up=min(500, total), **job)
        shares: list[int] = []
        for worker in workers:
            worker.popen.terminate()
            shares += map(int, worker.line(5).split())
        seconds, good = sample["seconds"], sample["good"]
        if not good:
            raise BenchError("no request was answered")
        return sample | {
            "value": good / seconds,
            "cpu_us": sample["broker_cpu"] / good * 1e6,
            "busy": sample["broker_cpu"] / seconds,
            "idle_slots": shares.count(0),
        }

    return Row(name, "req/s", "mdp", measure)


def backlog(total: int, body: int = 32) -> Row:
    """Growth of the broker by requests that nobody serves."""

    def measure(children: Children, target: Target) -> Sample:
        if not target.backlog:
            raise BenchError("keeps no queue of its own")
        running = target.start(children)
        job = {"kind": "backlog", "service": "bench.nobody", "body": body, "total": total}
        sample = client_job(children, running, **job)
        return sample | {"value": sample["pss"] / MIB, "rss_mib": sample["rss"] / MIB, "lost": 0}

    return Row(f"memory for {total:,} queued, {body} bytes", "MiB", "backlog", measure, more_is_better=False)


def key_value(subscribers: int, total: int) -> Row:
    """Updates of one publisher to ``subscribers`` connections, held by at most two processes."""

    def measure(children: Children, target: Target) -> Sample:
        running = target.start(children)
        pid, count = str(running.process.pid), min(2, subscribers)
        shares = [subscribers // count + (n < subscribers % count) for n in range(count)]
        readers = [
            python(
                children,
                "subscribers",
                *(running.protocol, str(running.subscribe_port), str(share), str(total), pid, str(n)),
                name=f"subscribers {n}",
            )
            for n, share in enumerate(shares)
        ]
        publisher = python(children, "publisher", running.protocol, str(running.publish_port), str(total), pid)
        publisher.line(30)
        probe_until_ready(publisher, readers)
        publisher.say("go")
        began, taken, cpu_before = map(float, publisher.line(ROUND_LIMIT_S).split())
        ends = [list(map(float, reader.line(ROUND_LIMIT_S).split())) for reader in readers]
        delivered = sum(end[0] for end in ends)
        if not delivered:
            raise BenchError("no update arrived")
        seconds = max(end[1] for end in ends) - began
        cpu = max(end[3] for end in ends) - cpu_before
        return {
            "value": delivered / seconds,
            "seconds": seconds,
            "taken": taken - began,
            "delivered": delivered,
            "lost": total * subscribers - delivered,
            "broker_cpu": cpu,
            "cpu_us": cpu / total * 1e6,
            "busy": cpu / seconds,
            "load_cpu": sum(end[2] for end in ends),
        }

    plural = "" if subscribers == 1 else "s"
    return Row(f"key/value to {subscribers} subscriber{plural}", "msg/s", "kv", measure)


def probe_until_ready(publisher: Process, readers: list[Process], limit: float = 30.0) -> None:
    """Probes until every subscriber has one: all subscriptions are in place."""
    waiting = list(readers)
    deadline = time.monotonic() + limit
    while waiting:
        if time.monotonic() > deadline:
            raise BenchError("a subscriber saw no probe")
        publisher.say("probe")
        if waiting[0].heard(0.1):
            waiting.pop(0).line(1)


def all_rows(quick: bool) -> list[Row]:
    """Every compared row; ``quick`` is for the smoke test and says nothing about speed."""
    share = 100 if quick else 1
    return [
        round_trips("one outstanding", 5_000 // share, 1),
        round_trips("100 outstanding, 1 slot", 20_000 // share, 100),
        round_trips("100 outstanding, 16 slots", 30_000 // share, 100, slots=16),
        round_trips(f"{100_000 // share:,} pipelined, 4 workers", 100_000 // share, 0, processes=4),
        backlog(100_000 // share),
        backlog(100_000 // share, body=256),
        key_value(1, 100_000 // share),
        key_value(10, 50_000 // share),
        key_value(100, 10_000 // share),
    ]
