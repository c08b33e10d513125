"""The publisher: puts values on the tree from an :class:`~raspy.common.executive.Executive`, without blocking
it."""

from __future__ import annotations

import math
import struct
from collections import deque
from collections.abc import Callable
from time import monotonic

import zmq

from raspy.common import MDP
from raspy.common.executive import Executive, Timer
from raspy.common.kvsimple import (
    BAD_BODY,
    BODY_BYTES,
    DEVICE,
    check_key,
    connection,
    decode_life,
    pack,
    stale,
)
from raspy.common.zhelpers import sender

BATCH = 300
"""Messages handled before other sockets and timers have their turn."""
FULL_RETRY, LONGEST_RETRY = 0.05, 1.0
MOST_EVENTS = 256
MOST_DELETED = 1024
"""Deletions that are sent again after a broken connection."""
EVENT = "/event/"
READINGS = DEVICE.decode()
ZERO = pack(0)
LATE = "nothing was published in time"


class KvPublisher:
    """Publishes without ever waiting, and sends what it owns again when the Proxy was away.

    A new connection is all it takes to know that: a Proxy that started anew has no old one, and what was
    under way on a broken one may be lost. The latest value of each key is kept for it.

    :param loop: the loop it lives on, which also says where the broker is
    """

    def __init__(self, loop: Executive) -> None:
        self.loop = loop
        self.on_epoch: Callable[[], None] | None = None
        """Called when the Proxy is back after it was away."""
        self.on_connected: Callable[[bool], None] | None = None
        """Called when the connection was made (True) or broke (False)."""
        self.on_reading: Callable[[str, bytes], None] | None = None
        """Called with each value that is published below ``/device/``, before it is sent."""
        self.dropped = 0
        """Events that were dropped because too many waited; the oldest go first."""
        self.connected = False
        self.lost = math.inf
        """When the last connection broke (monotonic, s); infinity: none has."""
        self._kept: dict[str, tuple[bytes, float]] = {}
        self._deleted: dict[str, None] = {}
        self._waiting: dict[str, bytes] = {}
        self._events: deque[tuple[str, bytes]] = deque()
        self._retry: Timer | None = None
        self._pause = FULL_RETRY
        self._connections = 0
        self._expiries: list[Timer] = []
        address = MDP.endpoint(loop.broker_ip, loop.broker_port, MDP.COLLECTOR)
        self._socket = connection(loop.ctx, zmq.PUSH, address)
        # only an established connection gets values: without one, old values would queue up before the latest
        self._socket.immediate = True
        self._put = sender(self._socket)
        monitor = self._socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        assert monitor is not None
        self._monitor = monitor
        loop.register(monitor, self._connection)
        self._socket.connect(address)

    def send(self, key: str, body: bytes, keep: bool | None = None) -> None:
        """Publish a value; an empty body deletes the key.

        :param keep: send it again to a Proxy that was away; by default all but what is below ``/event/``
        :raises raspy.common.MDP.ProtocolError: the key or the body cannot be published
        """
        check_key(key.encode())
        if len(body) > BODY_BYTES:
            raise MDP.ProtocolError(f"{key}: a body may have {BODY_BYTES} bytes, this one has {len(body)}")
        if keep is None:
            keep = not key.startswith(EVENT)
        if not keep:
            if len(self._events) >= MOST_EVENTS:
                self._events.popleft()
                self.dropped += 1
            self._events.append((key, body))
        else:
            self._remember(key, body)
            if self.on_reading is not None and body and key.startswith(READINGS):
                self.loop.guard(self.on_reading, key, body)
            if not self._waiting and not self._events and self._sent(key, body):
                return
            # at the end, so that keys keep the order of their last values
            self._waiting.pop(key, None)
            self._waiting[key] = body
        if self._retry is None:
            self._flush()

    def close(self, linger: float = 0.5) -> None:
        """Let go of the channel; what was handed to the connection still has ``linger`` seconds to leave.
        Harmless when repeated."""
        if self._socket.closed:
            return
        self._flush()
        for timer in (*self._expiries, self._retry):
            if timer is not None:
                timer.cancel()
        self._expiries.clear()
        self.loop.unregister(self._monitor)
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=int(linger * 1000))

    @property
    def waiting(self) -> int:
        """Values and events that were not handed to a connection yet."""
        return len(self._waiting) + len(self._events)

    def _remember(self, key: str, body: bytes) -> None:
        if body:
            self._kept[key] = (body, monotonic())
            self._deleted.pop(key, None)
            return
        self._kept.pop(key, None)
        self._deleted[key] = None
        if len(self._deleted) > MOST_DELETED:
            del self._deleted[next(iter(self._deleted))]

    def _sent(self, key: str, body: bytes) -> bool:
        if self._socket.closed:
            return False
        try:
            self._put([key.encode(), ZERO, body])
        except zmq.Again:
            return False
        return True

    def _flush(self) -> None:
        """Send what waits, as much as the connection takes, and a batch at most."""
        self._retry = None
        sent = 0
        while self.waiting and sent < BATCH:
            key, body = next(iter(self._waiting.items())) if self._waiting else self._events[0]
            if not self._sent(key, body):
                break
            sent += 1
            if self._waiting:
                del self._waiting[key]
            else:
                self._events.popleft()
        if self.waiting and not self._socket.closed:
            self._pause = FULL_RETRY if sent else min(2 * self._pause, LONGEST_RETRY)
            self._retry = self.loop.call_later(0.0 if sent == BATCH else self._pause, self._flush)

    def _connection(self) -> None:
        """The connection was made, or broke."""
        while not self._monitor.closed:
            try:
                event = self._monitor.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            connected = struct.unpack("=H", event[0][:2])[0] == zmq.EVENT_HANDSHAKE_SUCCEEDED
            changed, self.connected = connected != self.connected, connected
            if changed and not connected:
                self.lost = monotonic()
            if changed and self.on_connected is not None:
                self.on_connected(connected)
            if self.connected:
                self._connections += 1
                if self._connections > 1:
                    self._send_all_again()
                    if self.on_epoch is not None:
                        self.on_epoch()
                elif self._retry is not None:
                    self._retry.cancel()
                    self._flush()

    def _send_all_again(self) -> None:
        """A new connection: send all that is owned, readings only for as long as they may still be believed."""
        now = monotonic()
        for timer in self._expiries:
            timer.cancel()
        self._expiries.clear()
        self._waiting = dict.fromkeys(self._deleted, b"")
        for key, (body, when) in self._kept.items():
            if key.encode().startswith(DEVICE):
                left = _time_left(body, now - when)
                if left is not None and left <= 0:
                    body = stale(body, LATE)
                elif left is not None:
                    self._expiries.append(self.loop.call_later(left, self._expire, key, when))
            self._waiting[key] = body
        if self._retry is not None:
            self._retry.cancel()
        self._pause = FULL_RETRY
        self._flush()

    def _expire(self, key: str, when: float) -> None:
        """The Proxy counts a value's age from when it was sent again; it is older than that."""
        kept = self._kept.get(key)
        if kept is not None and kept[1] == when:
            self._waiting.pop(key, None)
            self._waiting[key] = stale(kept[0], LATE)
            if self._retry is None:
                self._flush()


def _time_left(body: bytes, age: float) -> float | None:
    """Seconds that a reading may still be believed; None when it says nothing about it."""
    try:
        life = decode_life(body)
    except BAD_BODY:
        return None
    return None if life.max_age is None or life.quality == "stale" else life.max_age - age
