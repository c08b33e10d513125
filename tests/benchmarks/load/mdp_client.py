"""MDP client that measures one round. Argument: one JSON object (see :func:`main`); prints another."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import zmq

from tests.benchmarks.process import cpu_seconds, memory_bytes

CLIENT = b"MDPC01"
SILENCE_MS = 5000
BURST = 64


class Client:
    """Counts replies to equal requests: good (the echo), refused (anything else)."""

    def __init__(self, endpoint: str, service: str, body: bytes) -> None:
        self.socket: zmq.Socket[bytes] = zmq.Context().socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.rcvhwm = 0  # read replies as they come, whatever the client is busy with
        self.socket.rcvtimeo = SILENCE_MS
        self.socket.sndtimeo = SILENCE_MS
        self.socket.connect(endpoint)
        self.body = body
        self.request = [b"", CLIENT, service.encode(), body]
        self.good = self.refused = 0

    def count(self, frames: list[bytes]) -> None:
        if frames[-1] == self.body:
            self.good += 1
        else:
            self.refused += 1

    def meet(self) -> None:
        """Until one request is answered by the worker: broker and worker are up."""
        self.socket.rcvtimeo = 500
        for _ in range(20):
            self.socket.send_multipart(self.request)
            try:
                while self.socket.recv_multipart()[-1] != self.body:
                    pass
                break
            except zmq.Again:
                continue
        else:
            raise SystemExit("no reply from the worker within 10 s")
        while self.socket.poll(100):
            self.socket.recv_multipart()
        self.socket.rcvtimeo = SILENCE_MS

    def windowed(self, total: int, window: int) -> None:
        """Keep ``window`` requests outstanding; ends early after 5 s of silence."""
        sock, request = self.socket, self.request
        for _ in range(min(window, total)):
            sock.send_multipart(request)
        sent = min(window, total)
        try:
            for _ in range(total):
                self.count(sock.recv_multipart())
                if sent < total:
                    sock.send_multipart(request)
                    sent += 1
        except zmq.Again:
            return

    def pipelined(self, total: int) -> None:
        """Send as fast as the socket takes it, read replies as they come; ends early after 5 s of silence."""
        sock, request = self.socket, self.request
        sent = 0
        while sent < total:
            burst_end = min(sent + BURST, total)
            try:
                while sent < burst_end:
                    sock.send_multipart(request, zmq.DONTWAIT)
                    sent += 1
            except zmq.Again:  # broker at its bound: wait until either way is open
                if not sock.poll(SILENCE_MS, zmq.POLLIN | zmq.POLLOUT):
                    return
            try:
                for _ in range(BURST):
                    self.count(sock.recv_multipart(zmq.DONTWAIT))
            except zmq.Again:
                pass
        try:
            while self.good + self.refused < total:
                self.count(sock.recv_multipart())
        except zmq.Again:
            return


def round_trips(job: dict[str, Any]) -> dict[str, float]:
    """One round of round trips, after a warm-up of the same shape."""
    client = Client(job["endpoint"], job["service"], b"x" * job["body"])
    client.meet()

    def run(total: int) -> None:
        client.good = client.refused = 0
        if job["window"]:
            client.windowed(total, job["window"])
        else:
            client.pipelined(total)

    run(job["warm_up"])
    cpu, own, began = cpu_seconds(job["pid"]), time.process_time(), time.monotonic()
    run(job["total"])
    seconds = time.monotonic() - began
    lost = job["total"] - client.good - client.refused
    if lost:
        seconds -= SILENCE_MS / 1000
    return {
        "seconds": seconds,
        "good": client.good,
        "refused": client.refused,
        "lost": lost,
        "broker_cpu": cpu_seconds(job["pid"]) - cpu,
        "load_cpu": time.process_time() - own,
    }


def backlog(job: dict[str, Any]) -> dict[str, float]:
    """Memory of the broker around requests for a service without a worker; an mmi reply marks the end."""
    client = Client(job["endpoint"], job["service"], b"x" * job["body"])
    client.socket.rcvtimeo = client.socket.sndtimeo = 60_000
    marker = [b"", CLIENT, b"mmi.service", b"bench.marker"]

    def settle() -> None:
        client.socket.send_multipart(marker)
        while client.socket.recv_multipart()[2] != marker[2]:
            client.refused += 1

    settle()
    before, began = memory_bytes(job["pid"]), time.monotonic()
    for _ in range(job["total"]):
        client.socket.send_multipart(client.request)
    settle()
    after = memory_bytes(job["pid"])
    return {
        "seconds": time.monotonic() - began,
        "refused": client.refused,
        "pss": after["pss"] - before["pss"],
        "rss": after["rss"] - before["rss"],
    }


def main() -> None:
    """Keys of the job: kind, endpoint, service, body (bytes), total, warm_up, window (0: pipelined), pid."""
    job = json.loads(sys.argv[1])
    print(json.dumps(backlog(job) if job["kind"] == "backlog" else round_trips(job)), flush=True)


if __name__ == "__main__":
    main()
