"""Replies on their way to clients, some of which do not read."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import zmq

from raspy.common.executive import Executive, Timer
from raspy.servers.broker.state import FRAME_OVERHEAD, Budget

RETRY = 0.02
"""Seconds between attempts to send to a client whose queue was full."""
SLOWEST_RETRY = 0.5


class Outbox:
    """Sends replies; keeps those of a client whose queue is full, in order and within a budget.

    :param loop: for the timer
    :param send: sends one message, or raises ``zmq.Again`` or EHOSTUNREACH
    :param budget: the memory that may be taken
    """

    def __init__(self, loop: Executive, send: Callable[[list[bytes]], None], budget: Budget) -> None:
        self.dropped = 0
        """Replies whose client was gone, or did not read until the memory was full."""
        self._loop = loop
        self._send = send
        self._budget = budget
        self._held: dict[bytes, deque[list[bytes]]] = {}
        self._timer: Timer | None = None
        self._pause = RETRY

    def send(self, frames: list[bytes]) -> None:
        """Send a reply now or as soon as its client (the first frame) takes it."""
        if self._held and frames[0] in self._held:
            self._hold(frames)
            return
        try:
            self._send(frames)
        except zmq.Again:
            self._hold(frames)
        except zmq.ZMQError:
            self.dropped += 1

    def _hold(self, frames: list[bytes]) -> None:
        if not self._budget.take(_size(frames)):
            self.dropped += 1
            return
        self._held.setdefault(frames[0], deque()).append(frames)
        if self._timer is None:
            self._pause = RETRY
            self._timer = self._loop.call_later(RETRY, self._flush)

    def _flush(self) -> None:
        """Send what can be sent; the pause grows while nobody reads."""
        self._timer = None
        moved = False
        for client, waiting in list(self._held.items()):
            moved = self._flush_client(waiting) or moved
            if not waiting:
                del self._held[client]
        if self._held:
            self._pause = RETRY if moved else min(self._pause * 2, SLOWEST_RETRY)
            self._timer = self._loop.call_later(self._pause, self._flush)

    def _flush_client(self, waiting: deque[list[bytes]]) -> bool:
        moved = False
        while waiting:
            try:
                self._send(waiting[0])
            except zmq.Again:
                break
            except zmq.ZMQError:
                self.dropped += len(waiting)
                for frames in waiting:
                    self._budget.give(_size(frames))
                waiting.clear()
                return True
            self._budget.give(_size(waiting.popleft()))
            moved = True
        return moved


def _size(frames: list[bytes]) -> int:
    return sum(map(len, frames)) + FRAME_OVERHEAD * len(frames)
