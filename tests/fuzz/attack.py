"""Hostile peers of a real broker."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

import zmq

from raspy.common import MDP
from tests.fuzz.messages import COLLECTOR, DEAF, REQUESTS, SNAPSHOT, UPDATES, Step

KINDS = {
    REQUESTS: (zmq.DEALER, MDP.REQUESTS),
    SNAPSHOT: (zmq.DEALER, MDP.SNAPSHOT),
    COLLECTOR: (zmq.PUSH, MDP.COLLECTOR),
    UPDATES: (zmq.XSUB, MDP.PUBLISHER),
}
AT_ONCE = 50


class Attackers:
    """The peers, connected when first used.

    :param broker_ip: ``ipc://`` and the directory of the broker's sockets
    :param broker_port: the broker's base port
    """

    def __init__(self, broker_ip: str, broker_port: int) -> None:
        self.counts: Counter[str] = Counter()
        self.recent: deque[Sequence[Step]] = deque(maxlen=50)
        """What was done last, for who looks for a fault."""
        self._place = (broker_ip, broker_port)
        self._ctx: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._peers: dict[tuple[str, int], zmq.Socket[bytes]] = {}

    def do(self, steps: Sequence[Step]) -> None:
        """Do what the steps say, without ever waiting."""
        self.recent.append(steps)
        for step in steps:
            self.counts[f"{step.what} {step.socket}"] += 1
            getattr(self, f"_{step.what}")(step)
        for name, socket in self._peers.items():
            if name not in DEAF and name[0] != COLLECTOR:
                self._drain(socket)

    def close(self) -> None:
        """All vanish."""
        self._ctx.destroy(linger=0)
        self._peers.clear()

    def _peer(self, step: Step) -> zmq.Socket[bytes]:
        name = (step.socket, step.peer)
        socket = self._peers.get(name)
        if socket is None:
            kind, offset = KINDS[step.socket]
            socket = self._peers[name] = self._ctx.socket(kind)
            socket.linger = 0
            socket.sndhwm = socket.rcvhwm = 100
            socket.connect(MDP.endpoint(*self._place, offset))
        return socket

    def _send(self, step: Step) -> None:
        self._put(self._peer(step), step.frames)

    def _put(self, socket: zmq.Socket[bytes], frames: Sequence[bytes]) -> None:
        try:
            socket.send_multipart(frames, zmq.DONTWAIT)
        except zmq.Again:
            self.counts["not sent: queue full"] += 1

    def _vanish(self, step: Step) -> None:
        socket = self._peers.pop((step.socket, step.peer), None)
        if socket is not None:
            socket.close(linger=0)

    def _read(self, step: Step) -> None:
        if step.socket != COLLECTOR and (step.socket, step.peer) not in DEAF:
            self._drain(self._peer(step))

    def _drain(self, socket: zmq.Socket[bytes]) -> None:
        for _ in range(AT_ONCE):
            try:
                socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            self.counts["received"] += 1

    def _answer(self, step: Step) -> None:
        """Be a worker: answer the next request, if one is there."""
        socket = self._peer(step)
        for _ in range(AT_ONCE):
            if not socket.poll(2 if step.peer % 2 else 0):
                return
            frames = socket.recv_multipart()
            self.counts["received"] += 1
            if len(frames) >= 5 and frames[2] == MDP.W_REQUEST:
                self.counts["answered requests"] += 1
                self._put(socket, [b"", MDP.W_WORKER, MDP.W_REPLY, frames[3], b"", *step.frames])
                return
