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
"""Seconds that these become, at most."""
STALLED = 60.0
"""Seconds after which a client that takes nothing is given up."""
LARGE = 4096
"""Bytes of a message whose frames libzmq is lent instead of given copies, so that it tells when it is done."""
CLIENT_SHARE = 2
"""One client may take this part of the budget."""
WINDOW = 32 << 20
"""Bytes of large frames that libzmq may hold for clients."""


class Held:
    """The replies that wait for one client."""

    __slots__ = ("bytes", "key", "replies", "since")

    def __init__(self, key: str) -> None:
        self.key = key
        """The key of the client's host; empty: this one."""
        self.replies: deque[list[bytes]] = deque()
        self.bytes = 0
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
        self.budget = budget
        zsocket.copy_threshold = 0  # or small frames are copied although they are lent
        self._held: dict[bytes, Held] = {}
        self._lent: dict[bytes, deque[tuple[int, list[zmq.MessageTracker]]]] = {}
        self._lent_bytes = 0
        self._timer: Timer | None = None
        self._pause = RETRY

    def send(self, frames: list[bytes], key: str = "") -> None:
        """Send a reply now or as soon as its client (the first frame) takes it.

        :param key: the key of the client's host; empty: this one
        """
        if self._held and frames[0] in self._held:
            self._hold(frames, key)
            return
        try:
            self._send(frames)
        except zmq.Again:
            self._hold(frames, key)
        except zmq.ZMQError:
            self.dropped += 1

    def _send(self, frames: list[bytes]) -> None:
        size = sum(map(len, frames))
        if size >= LARGE:
            self._send_large(frames, size)
        else:
            self._send_small(frames)

    def _send_large(self, frames: list[bytes], size: int) -> None:
        client = frames[0]
        self._take_back(client)
        if client in self._lent and self._lent_bytes + size > WINDOW:
            for other in list(self._lent):
                self._take_back(other)
            # each client may have one under way, so that none waits for what another does not read
            if client in self._lent and self._lent_bytes + size > WINDOW:
                raise zmq.Again()
        send, last, trackers = self._socket.send, len(frames) - 1, []
        send(client, zmq.SNDMORE | zmq.DONTWAIT)
        for index in range(1, last):
            if len(frames[index]) >= LARGE:
                trackers.append(send(frames[index], zmq.SNDMORE, copy=False, track=True))
            else:
                send(frames[index], zmq.SNDMORE)
        trackers.append(send(frames[last], copy=False, track=True))
        self._lent.setdefault(client, deque()).append((size, trackers))
        self._lent_bytes += size

    def _take_back(self, client: bytes) -> None:
        """Count what libzmq is done with; it sends a client's messages in order."""
        lent = self._lent.get(client)
        while lent and all(tracker.done for tracker in lent[0][1]):
            self._lent_bytes -= lent.popleft()[0]
        if lent is not None and not lent:
            del self._lent[client]

    def silence(self, keys: set[str]) -> None:
        """Drop what waits for clients with these keys."""
        for client, held in list(self._held.items()):
            if held.key in keys:
                self._drop(held)
                del self._held[client]

    def _hold(self, frames: list[bytes], key: str) -> None:
        size = _size(frames)
        held = self._held.get(frames[0])
        mine = held.bytes if held else 0
        if mine + size > self.budget.limit // CLIENT_SHARE or not self.budget.take(size):
            self.dropped += 1
            return
        if held is None:
            held = self._held[frames[0]] = Held(key)
        held.replies.append(frames)
        held.bytes += size
        if self._timer is None:
            self._pause = RETRY
            self._timer = self._loop.call_later(RETRY, self._flush)

    def _flush(self) -> None:
        """Send what can be sent; the pause grows while nobody reads."""
        self._timer = None
        moved = False
        now = time.monotonic()
        for client, held in list(self._held.items()):
            if self._flush_client(held):
                moved = True
                held.since = now
            elif now - held.since > STALLED:
                self._drop(held)
            if not held.replies:
                del self._held[client]
        if self._held:
            self._pause = RETRY if moved else min(self._pause * 2, SLOWEST_RETRY)
            self._timer = self._loop.call_later(self._pause, self._flush)

    def _flush_client(self, held: Held) -> bool:
        moved = False
        while held.replies:
            try:
                self._send(held.replies[0])
            except zmq.Again:
                break
            except zmq.ZMQError:
                self._drop(held)
                return True
            size = _size(held.replies.popleft())
            held.bytes -= size
            self.budget.give(size)
            moved = True
        return moved

    def _drop(self, held: Held) -> None:
        self.dropped += len(held.replies)
        self.budget.give(held.bytes)
        held.bytes = 0
        held.replies.clear()


def _size(frames: list[bytes]) -> int:
    return sum(map(len, frames)) + FRAME_OVERHEAD * len(frames)
