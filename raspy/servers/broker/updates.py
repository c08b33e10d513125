"""The channel of updates to the subscribers, and what happens when one of them does not keep up.

A subscriber that is full holds up the collector for a moment, for in a burst the I/O thread needs no more. One that
stays full loses updates from then on: the others do not wait for it, and it mends its copy by itself.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from time import monotonic

import zmq

from raspy.common import MDP
from raspy.common.config import ConfigError
from raspy.common.kvsimple import FRAME_BYTES, HUGZ
from raspy.common.zhelpers import receiver
from raspy.servers.broker.door import Door

logger = logging.getLogger("raspy.proxy")

BATCH = 300
SOON = 0.01
"""Seconds until a new subscriber gets its first heartbeat; many that come together share it."""
SUBSCRIBER_LIMIT = 1000
"""Updates queued for one subscriber: 0.3 MB of a small Pi's memory for one that is stopped."""
PATIENCE = 0.2
"""Seconds that full subscribers may hold up the collector before their updates are dropped."""
RETRY = 0.002
"""Seconds between attempts meanwhile."""
SHORTEST_LOSSY, LONGEST_LOSSY = 1.0, 64.0
"""Seconds until subscribers are waited for again; doubled each time that waiting was in vain."""
CLOSE_MS = 100
"""ms that a closed socket goes on sending. Not 0: libzmq 4.3 aborts when a peer goes that has read half a message,
while its queue is thrown away (libzmq issue 3442)."""
LARGE = 16_384
"""Bytes from which a body is shared with libzmq instead of copied."""
LARGE_WINDOW = 16 << 20
"""Bytes of large bodies under way to subscribers; beyond that they are left out, and mended by snapshots."""
SUBSCRIPTION_BYTES = 1 << 17
"""Bytes of all subscriptions; libzmq takes up to 50 times as much memory for them."""
SUBSCRIBED_BYTES = 1 << 20
"""Bytes of subscriptions since the socket was opened, those that were ended included: a peer may say that it ends
what is another's, so what is left is not known for sure."""
REBIND = 0.25
"""Seconds until the address is bound again: libzmq closes the old socket by itself, and removes its file."""
SUBSCRIPTIONS_QUEUED = 100
LOG_INTERVAL = 10.0
"""Seconds between lines of the log on what was lost."""


class Updates:
    """The XPUB: PUB on the wire, but it tells of new subscriptions, and when it would drop.

    :param door: who may subscribe; on the broker's loop
    :param hold: called with True when no update may be taken any more, with False when they may again
    :param greet: publishes a heartbeat
    """

    def __init__(self, door: Door, hold: Callable[[bool], None], greet: Callable[[], None]) -> None:
        self.loop = loop = door.loop
        self._door = door
        self.lossy = False
        """Whether subscribers that do not keep up lose updates now, instead of being waited for."""
        self.left_out = 0
        """Large updates that no subscriber got, because too much was under way already."""
        self.waiting: deque[tuple[bytes, bytes, bytes]] = deque()
        """What could not be sent yet, in order: the update that found a full queue, and a few of the Proxy's own."""
        self._subscriptions = 0
        """Bytes of subscriptions that stand, as far as that is known."""
        self._subscribed = 0
        self._log_after = 0.0
        self._hold = hold
        self._greet = greet
        self._greeting = False
        self._waiting_since = 0.0
        self._lossy_until = 0.0
        self._lossy_for = SHORTEST_LOSSY
        self._under_way: deque[tuple[zmq.MessageTracker, int]] = deque()
        self._large = 0
        self._open(loop.ctx.socket(zmq.XPUB))

    def start(self) -> None:
        """Bind the socket.

        :raises raspy.common.config.ConfigError: the address is taken or cannot be used
        """
        self._set_up()
        self._door.bind(self.socket, MDP.PUBLISHER, cut=True)
        self.loop.register(self.socket, self._take_subscriptions)

    def stop(self) -> None:
        """Close the socket."""
        self.loop.unregister(self.socket)
        self._door.leave(self.socket)
        self.socket.close(linger=CLOSE_MS)

    def publish(self, key: bytes, sequence: bytes, body: bytes) -> None:
        """Send an update, or keep it in order until the slowest subscriber has room."""
        self.waiting.append((key, sequence, body))
        if len(self.waiting) > 1:
            return
        self._waiting_since = monotonic()
        if not self._flush():
            self._hold(True)
            self.loop.call_later(RETRY, self._flush_later)

    def end_lossy(self) -> None:
        """Wait for subscribers again, if it is time to; called now and then."""
        if self.lossy and monotonic() >= self._lossy_until:
            self.lossy = False
            self.socket.setsockopt(zmq.XPUB_NODROP, 1)

    def _flush(self) -> bool:
        """Send what waits; False when a subscriber is full."""
        send = self.socket.send
        while self.waiting:
            key, sequence, body = self.waiting[0]
            large = len(body) >= LARGE
            if large and not self._room_for(len(body)):
                self.left_out += 1
                self.waiting.popleft()
                continue
            try:
                send(key, zmq.SNDMORE | zmq.DONTWAIT)
            except zmq.Again:
                return False
            send(sequence, zmq.SNDMORE)
            if large:
                self._under_way.append((send(body, copy=False, track=True), len(body)))
                self._large += len(body)
            else:
                send(body)
            self.waiting.popleft()
        return True

    def _flush_later(self) -> None:
        """Try again; a subscriber that stays full too long is not waited for any more."""
        if self.socket.closed:
            return
        if self._flush():
            self._lossy_for = SHORTEST_LOSSY
        else:
            now = monotonic()
            if now - self._waiting_since < PATIENCE:
                self.loop.call_later(RETRY, self._flush_later)
                return
            self.lossy = True
            self._lossy_until = now + self._lossy_for
            self._lossy_for = min(2 * self._lossy_for, LONGEST_LOSSY)
            self.socket.setsockopt(zmq.XPUB_NODROP, 0)
            self._flush()
        self._hold(False)

    def _room_for(self, size: int) -> bool:
        """Whether a large body may be sent, given those that libzmq still holds."""
        while self._under_way and self._under_way[0][0].done:
            self._large -= self._under_way.popleft()[1]
        return not self._under_way or self._large + size <= LARGE_WINDOW

    def _take_subscriptions(self) -> None:
        """A new subscriber gets a heartbeat soon, for only then it asks for its snapshot."""
        for _ in range(BATCH):
            frames = self._take()
            if frames is None:
                return
            frame = frames[0]
            if frame[:1] == b"\x01":
                self._subscribed += len(frame)
                self._subscriptions += len(frame)
                if self._subscriptions > SUBSCRIPTION_BYTES or self._subscribed > SUBSCRIBED_BYTES:
                    self._start_anew()
                    return
                if frame in (b"\x01", b"\x01" + HUGZ) and not self._greeting:
                    self._greeting = True
                    self.loop.call_later(SOON, self._greet_now)
            elif frame[:1] == b"\x00":
                self._subscriptions = max(0, self._subscriptions - len(frame))

    def _greet_now(self) -> None:
        self._greeting = False
        if not self.socket.closed:
            self._greet()

    def _open(self, socket: zmq.Socket[bytes]) -> None:
        self.socket = socket
        self.send = socket.send
        self._take = receiver(socket, 1)
        self._subscribed = self._subscriptions = 0

    def _set_up(self) -> None:
        socket = self.socket
        socket.linger = 0
        socket.setsockopt(zmq.MAXMSGSIZE, FRAME_BYTES)
        socket.setsockopt(zmq.XPUB_VERBOSER, 1)
        socket.setsockopt(zmq.XPUB_NODROP, 1)
        socket.sndhwm = SUBSCRIBER_LIMIT
        socket.rcvhwm = SUBSCRIPTIONS_QUEUED
        socket.copy_threshold = LARGE

    def _start_anew(self) -> None:
        """Disconnect all subscribers, who come again by themselves: one alone cannot be, nor its memory be freed."""
        try:
            socket = self.loop.ctx.socket(zmq.XPUB)
        except zmq.ZMQError:
            return  # out of descriptors; the next subscription leads here again
        now = monotonic()
        if now >= self._log_after:
            self._log_after = now + LOG_INTERVAL
            logger.warning("subscriptions take too much memory: all subscribers are disconnected, and must come again")
        self.loop.unregister(self.socket)
        self._door.leave(self.socket)
        self.socket.close(linger=CLOSE_MS)
        self._open(socket)
        self._set_up()
        self.lossy = False
        self.loop.call_later(REBIND, self._bind_again)

    def _bind_again(self) -> None:
        if self.socket.closed:
            return
        try:
            self._door.bind(self.socket, MDP.PUBLISHER, cut=True, again=True)
        except ConfigError:
            self.loop.call_later(REBIND, self._bind_again)
            return
        self.loop.register(self.socket, self._take_subscriptions)
