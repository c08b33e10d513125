"""Replies on their way to clients, some of which do not read."""

from __future__ import annotations

import time
from collections import deque

import zmq

from raspy.common.executive import Executive, Socket, Timer
from raspy.common.zhelpers import sender
from raspy.servers.broker.state import FRAME_OVERHEAD, Budget

RETRY = 0.02
"""Seconds between attempts to send to a client whose queue was full."""
SLOWEST_RETRY = 0.5
STALLED = 60.0
"""Seconds after which a client that takes nothing is given up."""
LARGE = 65_536
"""Bytes of a frame that libzmq is lent instead of given a copy (pyzmq's copy_threshold), so that it tells when it is
done with it."""
WINDOW = 32 << 20
"""Bytes of large frames that libzmq may hold for clients."""


class Held:
    """The replies that wait for one client."""

    __slots__ = ("replies", "since")

    def __init__(self) -> None:
        self.replies: deque[list[bytes]] = deque()
        self.since = time.monotonic()
        """When the client last took one."""


class Outbox:
    """Sends replies; keeps those of a client whose queue is full, in order and within a budget.

    libzmq's own queue for a client is bounded in messages; large ones are counted here.

    :param loop: for the timer
    :param zsocket: a ROUTER with ROUTER_MANDATORY
    :param budget: the memory that may be taken
    """

    def __init__(self, loop: Executive, zsocket: Socket, budget: Budget) -> None:
        self.dropped = 0
        """Replies whose client was gone, or did not read for too long or until the memory was full."""
        self._loop = loop
        self._socket = zsocket
        self._send_small = sender(zsocket)
        self._budget = budget
        self._held: dict[bytes, Held] = {}
        self._under_way: list[tuple[bytes, int, list[zmq.MessageTracker]]] = []
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

    def _send(self, frames: list[bytes]) -> None:
        for frame in frames:
            if len(frame) >= LARGE:
                self._send_large(frames)
                return
        self._send_small(frames)

    def _send_large(self, frames: list[bytes]) -> None:
        size = sum(map(len, frames))
        self._under_way = [sent for sent in self._under_way if not all(tracker.done for tracker in sent[2])]
        # each client may have one under way, so that none waits for what another does not read
        waits_for_own = any(client == frames[0] for client, _, _ in self._under_way)
        if waits_for_own and size + sum(held for _, held, _ in self._under_way) > WINDOW:
            raise zmq.Again()
        send, last, trackers = self._socket.send, len(frames) - 1, []
        send(frames[0], zmq.SNDMORE | zmq.DONTWAIT)
        for index in range(1, len(frames)):
            frame, flags = frames[index], zmq.SNDMORE if index < last else 0
            if len(frame) >= LARGE:
                trackers.append(send(frame, flags, copy=False, track=True))
            else:
                send(frame, flags)
        self._under_way.append((frames[0], size, trackers))

    def _hold(self, frames: list[bytes]) -> None:
        if not self._budget.take(_size(frames)):
            self.dropped += 1
            return
        self._held.setdefault(frames[0], Held()).replies.append(frames)
        if self._timer is None:
            self._pause = RETRY
            self._timer = self._loop.call_later(RETRY, self._flush)

    def _flush(self) -> None:
        """Send what can be sent; the pause grows while nobody reads."""
        self._timer = None
        moved = False
        now = time.monotonic()
        for client, held in list(self._held.items()):
            if self._flush_client(held.replies):
                moved = True
                held.since = now
            elif now - held.since > STALLED:
                self._drop(held.replies)
            if not held.replies:
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
                self._drop(waiting)
                return True
            self._budget.give(_size(waiting.popleft()))
            moved = True
        return moved

    def _drop(self, waiting: deque[list[bytes]]) -> None:
        self.dropped += len(waiting)
        for frames in waiting:
            self._budget.give(_size(frames))
        waiting.clear()


def _size(frames: list[bytes]) -> int:
    return sum(map(len, frames)) + FRAME_OVERHEAD * len(frames)
