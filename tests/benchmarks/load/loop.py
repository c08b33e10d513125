"""The least Python that moves MDP frames, without any safety. Usage: loop.py KIND PORT PORT

``forward`` passes requests on at once, round robin, between two ROUTERs (clients, workers).
``mdp`` gives a worker one request at a time, on one ROUTER: no checks, expiry or heartbeats.
``kv`` gives updates a sequence and passes them on (publishers, subscribers): no store, snapshot or heartbeat.
"""

from __future__ import annotations

import sys
from collections import deque

import zmq

CLIENT, WORKER = b"MDPC01", b"MDPW01"
READY, REQUEST, REPLY = b"\x01", b"\x02", b"\x03"
BURST = 100


def bound(kind: int, port: str) -> zmq.Socket[bytes]:
    sock: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
    sock.set_hwm(0)
    sock.bind(f"tcp://127.0.0.1:{port}")
    return sock


def forward(client_port: str, worker_port: str) -> None:
    front, back = bound(zmq.ROUTER, client_port), bound(zmq.ROUTER, worker_port)
    poller = zmq.Poller()
    poller.register(front, zmq.POLLIN)
    poller.register(back, zmq.POLLIN)
    workers: deque[bytes] = deque()
    service = b""

    def from_client() -> None:
        nonlocal service
        client, _, _, service, *body = front.recv_multipart(zmq.DONTWAIT)
        if workers:
            workers.rotate()
            back.send_multipart([workers[0], b"", WORKER, REQUEST, client, b"", *body])

    def from_worker() -> None:
        worker, _, _, code, *rest = back.recv_multipart(zmq.DONTWAIT)
        if code == REPLY:
            front.send_multipart([rest[0], b"", CLIENT, service, *rest[2:]])
        elif code == READY:
            workers.append(worker)

    while True:
        for sock, _ in poller.poll():
            step = from_client if sock is front else from_worker
            try:
                for _ in range(BURST):
                    step()
            except zmq.Again:
                pass


def mdp(port: str, _: str) -> None:
    sock = bound(zmq.ROUTER, port)
    waiting: deque[bytes] = deque()
    requests: deque[list[bytes]] = deque()
    service = b""
    while True:
        peer, _empty, header, code, *rest = sock.recv_multipart()
        if header == CLIENT:
            service = code
            requests.append([peer, b"", *rest])
        elif code in (READY, REPLY):
            waiting.append(peer)
            if code == REPLY:
                sock.send_multipart([rest[0], b"", CLIENT, service, *rest[2:]])
        while waiting and requests:
            sock.send_multipart([waiting.popleft(), b"", WORKER, REQUEST, *requests.popleft()])


def kv(collector_port: str, publisher_port: str) -> None:
    collector, publisher = bound(zmq.PULL, collector_port), bound(zmq.PUB, publisher_port)
    sequence = 0
    while True:
        key, _, body = collector.recv_multipart()
        sequence += 1
        publisher.send_multipart([key, sequence.to_bytes(8, "big"), body])


if __name__ == "__main__":
    {"forward": forward, "mdp": mdp, "kv": kv}[sys.argv[1]](*sys.argv[2:])
