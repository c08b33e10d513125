"""Workers of the Majordomo Protocol (RFC 7/MDP, worker side).

:class:`WorkerConnection` lives on an :class:`~raspy.common.executive.Executive` loop; the servers use it.
:class:`MajorDomoWorker` is the blocking worker of the manual: its connection lives on a thread of its own, so it
heartbeats while the caller works.
"""

from __future__ import annotations

import math
import os
import queue
import threading
import time
from collections.abc import Callable

import zmq

from raspy.common import MDP
from raspy.common.executive import Executive, Socket, Timer
from raspy.common.pollgroup import PollGroup
from raspy.common.zhelpers import looker, receiver, sender

FIRST_RECONNECT = 100
"""Milliseconds before the first attempt to connect again; it doubles from attempt to attempt."""
DISCONNECT_LINGER = 200
"""Milliseconds that a goodbye may take when a connection is closed."""
FRAME_LIMIT = 2048
"""Frames of a message; more than a broker's request has, which must not be cut: ours carries 1020 of body, and 5."""
RECEIVE_LIMIT = 100
"""Messages taken in one turn of the loop."""
ANSWERED = 0.02
"""Seconds in which nothing was sent before a heartbeat of the broker is answered; its shortest interval is longer."""

Reply = Callable[[list[bytes]], None]
OnRequest = Callable[[list[bytes], Reply], None]


class WorkerConnection:
    """One worker, which takes one request at a time ("slot").

    Each request comes to ``on_request(body, reply)``; ``reply(frames)`` is called once, then or later, on the loop.
    A reply to a request of a connection that was lost meanwhile is dropped: the broker has dispatched that request
    again. The connection is opened anew after DISCONNECT or silence, with exponential back-off and jitter.

    :param loop: the loop on which everything happens
    :param address: the broker's ROUTER
    :param service: the name to register
    :param heartbeat: milliseconds between heartbeats
    :param liveness: silent heartbeats after which the broker counts as lost
    :param reconnect: milliseconds, the longest pause between attempts
    :param group: watches the socket in place of the loop
    """

    def __init__(
        self,
        loop: Executive,
        address: str,
        service: bytes,
        on_request: OnRequest,
        heartbeat: int = MDP.HEARTBEAT_INTERVAL,
        liveness: int = MDP.HEARTBEAT_LIVENESS,
        reconnect: int = MDP.HEARTBEAT_INTERVAL,
        group: PollGroup | None = None,
    ) -> None:
        self.loop = loop
        self.group = group
        self.address = address
        self.service = service
        self.on_request = on_request
        self.heartbeat = heartbeat / 1000
        self.full_liveness = liveness
        self.reconnect = reconnect
        self.liveness = liveness
        self.client: bytes | None = None
        """Address of the client whose request is being worked on."""
        self._socket: Socket | None = None
        self._receiving = False
        self._put: Callable[[list[bytes]], None]
        self._get: Callable[[], list[bytes] | None]
        self._has_input: Callable[[], bool]
        self._connection = 0
        self._opened = 0.0
        self._attempts = 0
        self._sent = 0.0
        self._waiting: Timer | None = None
        self._ticker = loop.call_every(self.heartbeat, self._tick)
        self._connect()

    def close(self) -> None:
        """Say goodbye and close; harmless when repeated."""
        self._ticker.cancel()
        if self._waiting is not None:
            self._waiting.cancel()
        self._disconnect(goodbye=True)

    def reopen(self, lost: float = math.inf) -> None:
        """Register again on a new socket: the broker is known to have started anew.

        :param lost: when the old one went (monotonic, s). A socket that was opened since has registered, or will when
            it is connected: to close it would tell the new broker that this worker has crashed
        """
        if self._opened > lost:
            return
        self._attempts = 0
        self._retry()

    def send(self, command: bytes, *frames: bytes) -> None:
        """Send a worker command; dropped when the connection is down or its queue is full."""
        if self._socket is None:
            return
        self._sent = time.monotonic()
        try:
            self._put([b"", MDP.W_WORKER, command, *frames])
        except zmq.Again:
            self.loop.report(MDP.ServerError(f"{self.address} takes nothing"), "sending to the broker")

    def _connect(self) -> None:
        self._waiting = None
        self._connection += 1
        try:
            self._socket = self.loop.ctx.socket(zmq.DEALER)
        except zmq.ZMQError as error:  # no descriptor is left
            self.loop.report(error, "opening a socket to the broker")
            self._retry()
            return
        self._opened = time.monotonic()
        self._socket.linger = 0
        if not self._socket.heartbeat_ivl:  # else the context has given it what another machine needs
            self._socket.reconnect_ivl = 100
            self._socket.reconnect_ivl_max = 2000
        self._socket.connect(self.address)
        self._put, self._get, self._has_input = (
            sender(self._socket),
            receiver(self._socket, FRAME_LIMIT),
            looker(self._socket),
        )
        (self.group or self.loop).register(self._socket, self._receive)
        self.liveness = self.full_liveness
        self.send(MDP.W_READY, self.service)
        if self.group is not None:
            self.loop.call_later(0, self._receive)  # not at once: whoever makes the connection does not have it yet

    def _disconnect(self, goodbye: bool) -> None:
        socket, self.client = self._socket, None
        if socket is None:
            return
        if goodbye:
            self.send(MDP.W_DISCONNECT)
        self._socket = None
        (self.group or self.loop).unregister(socket)
        socket.close(linger=DISCONNECT_LINGER if goodbye else 0)

    def _retry(self) -> None:
        """Open anew after a pause: 50 to 100 % (jitter, so that many workers do not come at once) of the back-off."""
        self._disconnect(goodbye=False)
        if self._waiting is not None:
            self._waiting.cancel()
        pause = min(FIRST_RECONNECT << min(self._attempts, 16), self.reconnect)
        self._attempts += 1
        self._waiting = self.loop.call_later(pause / 1000 * (0.5 + os.urandom(1)[0] / 510), self._connect)

    def _tick(self) -> None:
        if self._socket is None:
            return
        self.liveness -= 1
        if self.liveness <= 0:
            self._retry()
        elif time.monotonic() - self._sent >= self.heartbeat / 2:
            self.send(MDP.W_HEARTBEAT)
            if self.group is not None:
                self._receive()

    def _receive(self) -> None:
        """Take what has come up to a request. Before its reply only heartbeats come, and to look for them costs as much
        as a request; a group, which tells only once that something has come, is looked after behind the reply."""
        if self._receiving:
            return
        self._receiving = True
        try:
            for _ in range(RECEIVE_LIMIT):
                frames = self._get() if self._socket is not None else None
                if frames is None:
                    return
                self._take(frames)
                if self.client is not None:
                    return
        finally:
            self._receiving = False
        if self.group is not None:
            self.loop.call_later(0, self._receive)

    def _take(self, frames: list[bytes]) -> None:
        if len(frames) < 3 or frames[0] or frames[1] != MDP.W_WORKER:
            MDP.logger.warning("%s: a message of %d frames that is no MDP is dropped", self.address, len(frames))
            return
        self.liveness = self.full_liveness
        command = frames[2]
        if command == MDP.W_DISCONNECT:
            self._retry()
            return
        self._attempts = 0
        if command == MDP.W_HEARTBEAT and time.monotonic() - self._sent >= ANSWERED:
            # The broker may be set to expect them more often than we send them.
            self.send(MDP.W_HEARTBEAT)
        if command != MDP.W_REQUEST:
            return
        if len(frames) < 6 or frames[4] or self.client is not None:
            MDP.logger.warning(
                "%s: a request that is %s is dropped", self.address, "a second" if self.client else "short"
            )
            return
        self.client = frames[3]
        connection = self._connection

        def reply(body: list[bytes]) -> None:
            self._reply(connection, body)

        self.on_request(frames[5:], reply)

    def _reply(self, connection: int, body: list[bytes]) -> None:
        if connection == self._connection and self.client is not None:
            client, self.client = self.client, None
            # without a body it is no reply, and the broker would wait for one for ever
            self.send(MDP.W_REPLY, client, b"", *(body or [b""]))
            if self.group is not None and self._has_input():
                self._receive()


class MajorDomoWorker:
    """A worker that blocks: ``request = worker.recv(reply)`` in a loop.

    :param broker: address of the broker's ROUTER
    :param service: the name to register
    :raises zmq.ZMQError: the address is none
    """

    HEARTBEAT_LIVENESS = MDP.HEARTBEAT_LIVENESS
    """Silent intervals after which the broker counts as gone."""
    heartbeat = MDP.HEARTBEAT_INTERVAL
    """Milliseconds between heartbeats."""
    reconnect = MDP.HEARTBEAT_INTERVAL
    """Milliseconds, the longest pause before connecting again."""
    timeout = 2500
    """Milliseconds after which :meth:`recv` looks whether it shall end."""

    def __init__(self, broker: str, service: str | bytes) -> None:
        self.broker = broker
        self.service = service.encode() if isinstance(service, str) else service
        self.status = True
        """False once the worker is shut down."""
        self._requests: queue.SimpleQueue[tuple[list[bytes], Reply] | None] = queue.SimpleQueue()
        self._answer: Reply | None = None
        self._loop = Executive(service="worker")
        self.ctx = self._loop.ctx
        try:
            self.worker = WorkerConnection(
                self._loop,
                broker,
                self.service,
                lambda body, reply: self._requests.put((body, reply)),
                self.heartbeat,
                self.HEARTBEAT_LIVENESS,
                self.reconnect,
            )
        except zmq.ZMQError:
            self._loop.destroy()
            raise
        self._thread = threading.Thread(target=self._run, daemon=True, name="raspy-worker")
        self._thread.start()

    @property
    def expect_reply(self) -> bool:
        """A request was given out by :meth:`recv` and not answered yet."""
        return self._answer is not None

    @property
    def reply_to(self) -> bytes | None:
        """Address of the client whose request is being worked on."""
        return self.worker.client

    @property
    def liveness(self) -> int:
        """Heartbeats that may still be missed before the broker counts as lost."""
        return self.worker.liveness

    def recv(self, reply: list[bytes] | bytes | None = None) -> list[bytes] | None:
        """Send the reply to the last request, if there was one, and wait for the next request.

        :param reply: the frames of the reply (one frame may be given bare)
        :returns: the frames of the request; None once the worker is shut down
        :raises raspy.common.MDP.ServerError: a reply is missing, or nobody asked for one
        """
        if self.expect_reply != (reply is not None):
            raise MDP.ServerError("a request awaits its reply" if reply is None else "no request awaits a reply")
        if self._answer is not None and reply is not None:
            frames = [reply] if isinstance(reply, bytes) else list(reply)
            self._loop.call_threadsafe(self._answer, frames)
            self._answer = None
        while self.status:
            try:
                item = self._requests.get(timeout=self.timeout / 1000)
            except queue.Empty:
                continue
            if item is not None:
                self._answer = item[1]
                return item[0]
        return None

    def send_to_broker(self, command: bytes, option: bytes | None = None, msg: list[bytes] | None = None) -> None:
        """Send a worker command, with the frame ``option`` and the frames ``msg`` behind it."""
        frames = ([option] if option is not None else []) + (msg or [])
        self._loop.call_threadsafe(self.worker.send, command, *frames)

    def reconnect_to_broker(self) -> None:
        """Register anew on a new socket."""
        self._loop.call_threadsafe(self.worker.reopen)

    def shutdown(self) -> None:
        """Have :meth:`recv` return None; may be called from any thread."""
        self.status = False
        self._requests.put(None)

    def destroy(self) -> None:
        """Say goodbye and close; harmless when repeated."""
        self.shutdown()
        self._loop.shutdown()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        loop = self._loop
        while not loop.stopping:
            loop.turn()
        self.worker.close()
        loop.destroy()

    def __enter__(self) -> MajorDomoWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.destroy()
