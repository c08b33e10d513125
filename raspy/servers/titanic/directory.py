"""Asks the broker which services are there."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
import zmq

from raspy.common import MDP
from raspy.common.executive import Executive, Socket, Timer
from raspy.common.kvsimple import BAD_BODY

ANSWER_TIME = 2.0
"""Seconds that the broker has for an answer before the question is asked on a new connection."""

PING, DEAD = 2000, 10_000
"""Milliseconds between questions whether the connection stands, and without an answer until it counts as dead."""

OnAnswer = Callable[[int, bool], None]
"""Called with the number of workers (0: the service is away) and whether the service is one of ours."""


def keep_alive(socket: Socket) -> None:
    """Have a connection that is dead end: PING and PONG of ZMTP 3.1, which any libzmq since 4.2 answers."""
    socket.heartbeat_ivl = PING
    socket.heartbeat_timeout = DEAD


class Told(msgspec.Struct):
    """What ``mmi.workers`` answers, as far as it matters here."""

    workers: int = 0
    ours: bool = False


decode = msgspec.json.Decoder(Told).decode


class Directory:
    """One question at a time, as replies of MDP do not tell which request they answer.

    ``mmi.workers`` is ours; a foreign broker that does not have it is asked for ``mmi.service`` (RFC 8/MMI), and
    such a service counts as one worker.

    :param loop: everything happens on it
    :param address: the broker's ROUTER
    :param on_lost: called when the connection to the broker is gone, and with it whatever the broker knew
    """

    def __init__(self, loop: Executive, address: str, on_lost: Callable[[], Any]) -> None:
        self.loop = loop
        self.address = address
        self.on_lost = on_lost
        self.foreign = False
        """The broker does not know ``mmi.workers``."""
        self._questions: deque[tuple[bytes, OnAnswer]] = deque()
        self._asking = b""
        self._socket: Socket | None = None
        self._timer: Timer | None = None
        # Asks nothing and is never closed: it shows by itself whether the connection stands, also one that died
        # without a word, as with a machine whose power went.
        self._watch: Socket = loop.ctx.socket(zmq.DEALER)
        self._watch.linger = 0
        keep_alive(self._watch)
        self._monitor: Socket = self._watch.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        loop.register(self._monitor, self._disconnected)
        self._watch.connect(address)
        self._open()

    def ask(self, service: bytes, on_answer: OnAnswer) -> None:
        """Ask for a service; the answer comes once, maybe long after."""
        self._questions.append((service, on_answer))
        if not self._asking:
            self._next()

    def close(self) -> None:
        """Close the connections; harmless when repeated."""
        self._close()
        if not self._watch.closed:
            self.loop.unregister(self._monitor)
            self._watch.disable_monitor()
            self._watch.close(linger=0)
            self._monitor.close(linger=0)

    def _open(self) -> None:
        try:
            socket = self.loop.ctx.socket(zmq.DEALER)
        except zmq.ZMQError as error:  # no descriptor is left
            self.loop.report(error, "opening a socket to the broker")
            self._timer = self.loop.call_later(ANSWER_TIME, self._late)
            return
        socket.linger = 0
        self.foreign = False
        keep_alive(socket)
        self._socket = socket
        socket.connect(self.address)
        self.loop.register(socket, self._receive)

    def _close(self) -> None:
        socket, self._socket = self._socket, None
        self._asking = b""
        self._still()
        if socket is not None:
            self.loop.unregister(socket)
            socket.close(linger=0)

    def _disconnected(self) -> None:
        try:
            while True:
                self._monitor.recv_multipart(zmq.DONTWAIT)
        except zmq.Again:
            pass
        self._close()
        self.on_lost()
        self._open()
        self._next()

    def _late(self) -> None:
        """No answer came: ask on a new connection, as an answer to the old question could come on this one."""
        self._close()
        self._open()
        self._next()

    def _still(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _next(self) -> None:
        if self._questions and self._socket is not None:
            self._send(b"mmi.service" if self.foreign else b"mmi.workers")

    def _send(self, mmi: bytes) -> None:
        if self._socket is None:
            return
        self._asking = mmi
        self._still()
        self._timer = self.loop.call_later(ANSWER_TIME, self._late)
        try:
            self._socket.send_multipart([b"", MDP.C_CLIENT, mmi, self._questions[0][0]], zmq.DONTWAIT)
        except zmq.Again:
            pass  # asked again when no answer comes

    def _receive(self) -> None:
        if self._socket is None:
            return
        try:
            frames = self._socket.recv_multipart(zmq.DONTWAIT)
        except zmq.Again:
            return
        if len(frames) < 4 or frames[2] != self._asking or not self._questions:
            return
        status = frames[-1]
        if self._asking == b"mmi.workers" and status == MDP.NOT_IMPLEMENTED:
            self.foreign = True
            self._next()
            return
        workers, ours = self._understand(frames[3:])
        self._asking = b""
        self._still()
        _, on_answer = self._questions.popleft()
        on_answer(workers, ours)
        if not self._asking:
            self._next()

    def _understand(self, body: list[bytes]) -> tuple[int, bool]:
        if body[-1] != MDP.OK:
            return 0, False
        if self._asking == b"mmi.service":
            return 1, False
        try:
            told = decode(body[0])
        except BAD_BODY:
            return 0, False
        return max(0, told.workers), told.ours
