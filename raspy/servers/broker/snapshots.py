"""Snapshots of the tree, each at the pace of its reader."""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import TYPE_CHECKING

import zmq

from raspy.common import MDP
from raspy.common.executive import Timer
from raspy.common.kvsimple import FRAME_BYTES, ICANHAZ, KEY_BYTES, KTHXBAI, MOST_FRAMES, pack
from raspy.servers.broker.rules import may_ask
from raspy.servers.broker.updates import CLOSE_MS

if TYPE_CHECKING:
    from raspy.servers.broker.proxy import Proxy

BATCH = 300
"""Entries sent, of all snapshots together, before other sockets and timers have their turn."""
SHARE = 30
"""Entries of a batch that one snapshot may send however many there are."""
LOOKS = 10
"""Keys that may be looked at in place of sending one entry."""

ROUTES = 64
"""Snapshots under way at a time."""
ROUTE_LIMIT = 100
"""Entries queued for one reader."""
SHARED = 1024
"""Bytes from which a body is shared with libzmq instead of copied."""
ROUTE_BYTES = 1 << 18
"""Bytes of such bodies queued for one reader: they may have been replaced in the tree since."""
ROUTE_EXPIRY = 30.0
"""Seconds without progress after which a snapshot is given up."""
ROUTE_STALLED = 5.0
"""Seconds without progress after which a snapshot makes room for another reader."""
FASTEST_RETRY, SLOWEST_RETRY = 0.002, 0.1


class Route:
    """A snapshot on its way to one reader, and how far it is.

    :param socket: the ROUTER
    :param identity: the reader
    :param subtree: prefix of the keys wanted
    """

    __slots__ = (
        "due",
        "held",
        "identity",
        "keys",
        "pause",
        "position",
        "progress",
        "sequence",
        "socket",
        "subtree",
        "under_way",
    )

    def __init__(self, socket: zmq.Socket[bytes], identity: bytes, subtree: bytes) -> None:
        self.socket = socket
        self.identity = identity
        self.subtree = subtree
        self.keys: list[bytes] = []
        self.position = 0
        self.sequence = 0
        self.progress = monotonic()
        self.pause = FASTEST_RETRY
        self.due = self.progress
        """Monotonic time at which it may go on."""
        self.under_way: deque[tuple[zmq.MessageTracker, int]] = deque()
        """The shared bodies that libzmq holds for the reader, in order."""
        self.held = 0

    def room_for(self, size: int) -> bool:
        """Whether a shared body of ``size`` bytes may be sent, given those that still wait for the reader."""
        while self.under_way and self.under_way[0][0].done:
            self.held -= self.under_way.popleft()[1]
        return not self.under_way or self.held + size <= ROUTE_BYTES

    def hold(self, tracker: zmq.MessageTracker, size: int) -> None:
        """Note that a shared body of ``size`` bytes was sent."""
        self.under_way.append((tracker, size))
        self.held += size


class Snapshots:
    """The ROUTER that is asked for snapshots. One at a time for each reader.

    :param proxy: whose tree it is
    """

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.routes: dict[bytes, Route] = {}
        self._timer: Timer | None = None
        self.socket = proxy.loop.ctx.socket(zmq.ROUTER)
        self._take = proxy.door.receiver(self.socket, MOST_FRAMES, may_ask)

    def start(self) -> None:
        """Bind the socket.

        :raises raspy.common.config.ConfigError: the address is taken or cannot be used
        """
        loop, socket = self.proxy.loop, self.socket
        socket.linger = 0
        socket.setsockopt(zmq.MAXMSGSIZE, FRAME_BYTES)
        socket.router_mandatory = True
        socket.sndhwm = ROUTE_LIMIT
        socket.copy_threshold = SHARED
        self.proxy.door.bind(socket, MDP.SNAPSHOT, cut=True)
        loop.register(socket, self._take_requests)

    def stop(self) -> None:
        """Give all snapshots up."""
        self.routes.clear()
        if self._timer is not None:
            self._timer.cancel()
        self.proxy.loop.unregister(self.socket)
        self.proxy.door.leave(self.socket)
        self.socket.close(linger=CLOSE_MS)

    def _take_requests(self) -> None:
        for _ in range(BATCH):
            frames = self._take()
            if frames is None:
                return
            if len(frames) not in (2, 3) or frames[1] != ICANHAZ or len(frames[-1]) > KEY_BYTES:
                self.proxy.refuse("not a request for a snapshot", frames[1] if len(frames) > 1 else b"")
                continue
            self._begin(Route(self.socket, frames[0], frames[2] if len(frames) == 3 else b""))

    def _begin(self, route: Route) -> None:
        """Start a snapshot, in place of the reader's earlier one."""
        before = self.routes.pop(route.identity, None)
        if before is not None:
            route.under_way, route.held = before.under_way, before.held
        elif len(self.routes) >= ROUTES:
            slowest = min(self.routes.values(), key=lambda other: other.progress)
            if monotonic() - slowest.progress < ROUTE_STALLED:
                self.proxy.refuse("too many snapshots under way", route.subtree)
                return
            self._drop(slowest)
        route.keys = self.proxy.keys()
        route.sequence = self.proxy.sequence
        self.routes[route.identity] = route
        self._arm(route.due)

    def _arm(self, due: float) -> None:
        """Go on at a monotonic time, or before."""
        if self._timer is not None:
            if self._timer.due <= due:
                return
            self._timer.cancel()
        self._timer = self.proxy.loop.call_later(max(0.0, due - monotonic()), self._work)

    def _work(self) -> None:
        """Send one batch of entries of all snapshots together; who had to wait for longest comes first."""
        self._timer = None
        now = monotonic()
        ready = sorted((route for route in self.routes.values() if route.due <= now), key=lambda route: route.due)
        share = max(SHARE, BATCH // max(1, len(ready)))
        left = BATCH
        try:
            for route in ready:
                if left <= 0:
                    break
                left -= self._continue(route, min(share, left))
        finally:
            if self.routes:
                self._arm(min(route.due for route in self.routes.values()))

    def _continue(self, route: Route, most: int) -> int:
        """Send as much of a snapshot as the reader takes now, at most so many entries; answers what it cost.

        It is as of the sequence at its beginning, though an entry may be newer by the time it is sent: the update
        that made it newer comes to the reader from the channel as well, and the later one of the two stands.
        """
        position = route.position
        sent = 0
        full = False
        entries = self.proxy.entries
        try:
            for key in route.keys[position : position + LOOKS * most]:
                entry = entries.get(key)
                if entry is not None and key.startswith(route.subtree):
                    if sent == most:
                        break
                    self.proxy.send_single(key, entry, route)
                    sent += 1
                route.position += 1
            if route.position >= len(route.keys):
                route.socket.send(route.identity, zmq.SNDMORE | zmq.DONTWAIT)
                route.socket.send_multipart([KTHXBAI, pack(route.sequence), route.subtree])
                self._drop(route)
        except zmq.Again:
            full = True
        except zmq.ZMQError:
            self._drop(route)  # EHOSTUNREACH: the reader is gone
        self._pace(route, route.position > position, full)
        return 1 + sent + (route.position - position) // LOOKS

    def _pace(self, route: Route, moved: bool, full: bool) -> None:
        """Decide when a snapshot goes on; it is given up when it has not for too long."""
        now = monotonic()
        if moved:
            route.progress = now
            route.pause = FASTEST_RETRY
        elif full:
            route.pause = min(2 * route.pause, SLOWEST_RETRY)
            if now - route.progress > ROUTE_EXPIRY:
                self._drop(route)
        route.due = now + route.pause if full else now

    def _drop(self, route: Route) -> None:
        self.routes.pop(route.identity, None)
