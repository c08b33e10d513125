"""Many MDP clients in one process, each with one request outstanding. Argument: one JSON object (see :func:`main`).

All of them ask for ``seconds``; then, where the job says so, it waits until everything is run, and they fetch and
close. Prints what each part took.
"""

from __future__ import annotations

import json
import select
import sys
import time
from collections.abc import Callable
from typing import Any

import zmq

from raspy.common.zhelpers import receiver, sender
from tests.benchmarks.load.counters import between, look
from tests.benchmarks.process import cpu_seconds, memory_bytes

CLIENT = b"MDPC01"
REQUEST, REPLY, CLOSE = b"titanic.request", b"titanic.reply", b"titanic.close"
OK, PENDING = b"200", b"300"
SILENCE_S = 10.0
ASK_AGAIN_S = 0.005
LAST = 256
"""So many of the last requests are asked for until they are run; Titanic has fewer than that in flight."""
Frames = list[bytes]


class Client:
    """One connection. ``uuid``: of the request that it is busy with."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> None:
        self.socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.connect(endpoint)
        self.take, self.put = receiver(self.socket), sender(self.socket)
        self.uuid = b""


Step = Callable[[Client, Frames | None], Frames | None]
"""What a client sends next, from the reply to what it sent last (None at first); None when it has done its share."""


class Load:
    """The clients on one epoll, so that a wake-up costs by those that have something, not by all."""

    def __init__(self, endpoint: str, count: int) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.clients = [Client(context, endpoint) for _ in range(count)]
        self._epoll = select.epoll()
        self._by_file = {client.socket.fileno(): client for client in self.clients}
        for file in self._by_file:
            self._epoll.register(file, select.EPOLLIN)

    def drive(self, step: Step) -> None:
        """Until every client has done its share; ends the process when nothing comes for 10 s."""
        busy = 0
        for client in self.clients:
            if request := step(client, None):
                client.put(request)
                busy += 1
        while busy:
            events = self._epoll.poll(SILENCE_S)
            if not events:
                raise SystemExit(f"{busy} of {len(self.clients)} clients had no answer for {SILENCE_S:g} s")
            for file, _ in events:
                busy -= self._turn(self._by_file[file], step)

    def _turn(self, client: Client, step: Step) -> int:
        """All that a socket has. Only when it has nothing more does its file tell of the next (zmq_getsockopt(3))."""
        done = 0
        while frames := client.take():
            if request := step(client, frames):
                client.put(request)
            else:
                done += 1
        return done

    def ask(self, *frames: bytes) -> Frames:
        """One request of the first client; the reply's body."""
        answer: list[Frames] = []

        def step(client: Client, reply: Frames | None) -> Frames | None:
            if reply:
                answer.append(reply[3:])
            return None if reply or client is not self.clients[0] else [b"", CLIENT, *frames]

        self.drive(step)
        return answer[0]


class Job:
    """One round."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.load = Load(job["endpoint"], job["clients"])
        self.durable: bool = job["durable"]
        self.body = b"x" * job["body"]
        service = job["service"].encode()
        called = [REQUEST, service] if self.durable else [service]
        self.request = [b"", CLIENT, *called, self.body]
        self.uuids: list[bytes] = []
        self.good = self.refused = 0
        self.reason = ""

    def requests(self, seconds: float) -> None:
        """Every client asks, and asks again when it has its answer, for so long."""
        until = time.monotonic() + seconds

        def step(_: Client, reply: Frames | None) -> Frames | None:
            if reply is not None:
                self._count(reply)
            return self.request if reply is None or time.monotonic() < until else None

        self.load.drive(step)

    def _count(self, reply: Frames) -> None:
        if reply[3] == OK and self.durable:
            self.uuids.append(reply[4])
        elif self.durable or reply[3] != self.body:
            self.refused += 1
            self.reason = b" ".join(reply[3:])[:200].decode(errors="replace")
            return
        self.good += 1

    def wait_until_run(self) -> None:
        """Requests to one service are begun in order, so the last ones tell of all; fetching checks it."""
        silent = time.monotonic() + SILENCE_S
        left = self.uuids[-LAST:]
        while left:
            if self.load.ask(REPLY, left[-1])[0] != PENDING:
                left.pop()
                silent = time.monotonic() + SILENCE_S
            elif time.monotonic() > silent:
                raise SystemExit(f"{len(left)} of the last requests are not run after {SILENCE_S:g} s")
            else:
                time.sleep(ASK_AGAIN_S)

    def fetch_and_close(self) -> int:
        """Every client fetches a reply, closes it and takes the next; the number that was not the echo."""
        left = list(reversed(self.uuids))
        bad = 0

        def step(client: Client, reply: Frames | None) -> Frames | None:
            nonlocal bad
            if reply is not None and reply[2] == REPLY:
                bad += reply[3:] != [OK, self.body]
                return [b"", CLIENT, CLOSE, client.uuid]
            bad += reply is not None and reply[3] != OK
            if not left:
                return None
            client.uuid = left.pop()
            return [b"", CLIENT, REPLY, client.uuid]

        self.load.drive(step)
        return bad

    def commits(self, statistics: str) -> float:
        """The transactions that Titanic has committed, by its own count."""
        if not statistics:
            return 0
        frames = self.load.ask(statistics.encode(), b"get", b"titanic.commits")
        return float(json.loads(frames[0])["value"]) if frames[-1] == OK else 0


def main() -> None:
    """Keys of the job.

    endpoint, service, body (bytes), clients, seconds, warm_up (seconds), durable (through Titanic), whole (wait until
    all is run, fetch, close), pid (whose use is told: Titanic or the broker), broker (its pid), sync_file, statistics.
    """
    job = json.loads(sys.argv[1])
    run = Job(job)
    run.load.ask(*run.request[2:])
    run.requests(job["warm_up"])
    if job["whole"]:
        run.wait_until_run()
    run.uuids.clear()
    run.good = run.refused = 0

    pid, sync_file = job["pid"], job["sync_file"]
    commits, memory = run.commits(job["statistics"]), memory_bytes(pid)
    broker, own, begin = cpu_seconds(job["broker"]), time.process_time(), look(pid, sync_file)
    run.requests(job["seconds"])
    found = between(begin, look(pid, sync_file))
    found |= {"good": run.good, "refused": run.refused, "load_cpu": time.process_time() - own}
    found |= {"broker_cpu": cpu_seconds(job["broker"]) - broker}
    if job["whole"]:
        run.wait_until_run()
        found |= {f"run_{key}": value for key, value in between(begin, look(pid, sync_file)).items()}
        found["lost"] = run.fetch_and_close()
        found |= {f"closed_{key}": value for key, value in between(begin, look(pid, sync_file)).items()}
    found |= {"commits": run.commits(job["statistics"]) - commits}
    found |= {"pss": memory["pss"], "pss_after": memory_bytes(pid)["pss"]}
    print(json.dumps({**found, "reason": run.reason}), flush=True)


if __name__ == "__main__":
    main()
