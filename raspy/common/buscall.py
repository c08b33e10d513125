"""Requests that a server makes of another: one at a time, on its own loop, without waiting."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import zmq

from raspy.common import MDP
from raspy.common.executive import Executive, Socket, Timer
from raspy.common.zhelpers import receiver, sender

WAITING = 300
"""Calls that may wait for their turn."""
RECEIVE_LIMIT = 100
"""Messages taken in one turn of the loop."""
IDLE = 20.0
"""Seconds after which a connection that nobody needs is closed: it takes some 80 KB, as much again in the broker."""

Answer = Callable[[list[bytes] | None], None]
"""Takes the frames of the reply, the status last; None when there was none in time."""


class Call:
    """One request and who waits for its answer.

    :param timeout: seconds that the answer may take
    :param lifetime: seconds after which the request itself is late; None: it tells no lifetime
    """

    __slots__ = ("body", "done", "end", "identity", "service", "timeout")

    def __init__(
        self, service: bytes, body: list[bytes], done: Answer, timeout: float, identity: str, lifetime: float | None
    ) -> None:
        self.service = service
        self.body = body
        self.done = done
        self.timeout = timeout
        self.identity = identity
        self.end = None if lifetime is None else time.monotonic() + lifetime

    def lifetime(self) -> float:
        """Seconds that are left of it, as it is sent."""
        return self.timeout if self.end is None else max(self.end - time.monotonic(), 0.0)


class BusCaller:
    """Makes requests of services of ours. What is not answered in time is not done later: each has a lifetime.

    :param loop: everything happens on it
    :param address: the broker's ROUTER
    """

    def __init__(self, loop: Executive, address: str) -> None:
        self.loop = loop
        self.address = address
        self._calls: deque[Call] = deque()
        self._current: Call | None = None
        self._socket: Socket | None = None
        self._timer: Timer | None = None
        self._take: Callable[[], list[bytes] | None] = lambda: None

    def call(
        self,
        service: str,
        body: list[bytes],
        done: Answer,
        timeout: float = 5.0,
        identity: str = "",
        lifetime: float | None = None,
    ) -> None:
        """Make a request; ``done`` gets the reply, once.

        :param timeout: seconds, counted from when it is sent
        :param identity: 32 hexadecimal digits that tell a repeat from another request; empty: new ones
        :param lifetime: seconds from now after which it must not be done any more; None: the timeout
        :raises raspy.common.MDP.ClientError: too many wait
        """
        if len(self._calls) >= WAITING:
            raise MDP.ClientError(f"{len(self._calls)} requests wait for {self.address}")
        self._calls.append(Call(service.encode(), body, done, timeout, identity or MDP.new_id(), lifetime))
        self._next()

    @property
    def connected(self) -> bool:
        """Whether it has a connection now."""
        return self._socket is not None

    def close(self) -> None:
        """Forget all; nobody is told."""
        self._calls.clear()
        self._current = None
        self._hang_up()

    def _next(self) -> None:
        if self._current is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._calls:
            if self._socket is not None:
                self._timer = self.loop.call_later(IDLE, self._hang_up)
            return
        self._current = call = self._calls.popleft()
        self._timer = self.loop.call_later(call.timeout, self._end, None)
        try:
            if self._socket is None:
                self._connect()
            assert self._socket is not None
            marked = MDP.id_frame(call.identity, call.lifetime())
            sender(self._socket)([b"", MDP.C_CLIENT, call.service, marked, *call.body])
        except zmq.ZMQError as error:
            MDP.logger.warning("%s: no request can be sent: %s", self.address, error)

    def _connect(self) -> None:
        self._socket = self.loop.ctx.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.connect(self.address)
        self._take = receiver(self._socket)
        self.loop.register(self._socket, self._receive)

    def _hang_up(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._socket is not None:
            self.loop.unregister(self._socket)
            self._socket.close(linger=0)
            self._socket = None

    def _receive(self) -> None:
        for _ in range(RECEIVE_LIMIT):
            frames = self._take()
            if frames is None:
                return
            call = self._current
            if call is not None and len(frames) >= 4 and frames[:3] == [b"", MDP.C_CLIENT, call.service]:
                self._end(frames[3:])
            if self._socket is None:
                return

    def _end(self, reply: list[bytes] | None) -> None:
        call, self._current = self._current, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if reply is None:
            # What comes late on this connection could be taken for the answer to the next request.
            self._hang_up()
        if call is not None:
            self.loop.guard(call.done, reply)
        self._next()
