"""Snapshots of the tree, each at the pace of its reader."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

import zmq

from raspy.common import MDP
from raspy.common.executive import Timer
from raspy.common.kvsimple import ICANHAZ, KEY_BYTES, KTHXBAI, MOST_FRAMES, pack
from raspy.common.zhelpers import receiver
from raspy.servers.broker.settings import bind
from raspy.servers.broker.updates import CLOSE_MS, LARGE

if TYPE_CHECKING:
    from raspy.servers.broker.proxy import Proxy

BATCH = 300
"""Entries sent before other sockets and timers have their turn."""

ROUTES = 64
"""Snapshots under way at a time."""
ROUTE_LIMIT = 500
"""Entries queued for one reader."""
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
        "identity",
        "keys",
        "pause",
        "position",
        "progress",
        "sequence",
        "socket",
        "subtree",
        "timer",
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
        self.timer: Timer | None = None


class Snapshots:
    """The ROUTER that is asked for snapshots. One at a time for each reader.

    :param proxy: whose tree it is
    """

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.routes: dict[bytes, Route] = {}
        self.socket = proxy.loop.ctx.socket(zmq.ROUTER)
        self._take = receiver(self.socket, MOST_FRAMES)

    def start(self) -> None:
        """Bind the socket.

        :raises raspy.common.config.ConfigError: the address is taken or cannot be used
        """
        loop, socket = self.proxy.loop, self.socket
        socket.linger = 0
        socket.setsockopt(zmq.MAXMSGSIZE, 2 * KEY_BYTES)
        socket.router_mandatory = True
        socket.sndhwm = ROUTE_LIMIT
        socket.copy_threshold = LARGE
        bind(socket, loop.broker_ip, loop.broker_port, MDP.SNAPSHOT)
        loop.register(socket, self._take_requests)

    def stop(self) -> None:
        """Give all snapshots up."""
        for route in list(self.routes.values()):
            self._drop(route)
        self.proxy.loop.unregister(self.socket)
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
        before = self.routes.get(route.identity)
        if before is not None:
            self._drop(before)
        elif len(self.routes) >= ROUTES:
            slowest = min(self.routes.values(), key=lambda other: other.progress)
            if monotonic() - slowest.progress < ROUTE_STALLED:
                self.proxy.refuse("too many snapshots under way", route.subtree)
                return
            self._drop(slowest)
        route.keys = self.proxy.keys()
        route.sequence = self.proxy.sequence
        self.routes[route.identity] = route
        self._continue(route)

    def _continue(self, route: Route) -> None:
        """Send as much of a snapshot as the reader takes now.

        It is as of the sequence at its beginning, though an entry may be newer by the time it is sent: the update
        that made it newer comes to the reader from the channel as well, and the later one of the two stands.
        """
        route.timer = None
        position = route.position
        entries = self.proxy.entries
        try:
            for key in route.keys[position : position + BATCH]:
                entry = entries.get(key)
                if entry is not None and key.startswith(route.subtree):
                    self.proxy.send_single(key, entry, route)
                route.position += 1
            if route.position >= len(route.keys):
                route.socket.send(route.identity, zmq.SNDMORE | zmq.DONTWAIT)
                route.socket.send_multipart([KTHXBAI, pack(route.sequence), route.subtree])
                self._drop(route)
                return
        except zmq.Again:
            pass
        except zmq.ZMQError:
            self._drop(route)  # EHOSTUNREACH: the reader is gone
            return
        if route.position > position:
            route.progress = monotonic()
            route.pause = FASTEST_RETRY
        elif monotonic() - route.progress > ROUTE_EXPIRY:
            self._drop(route)
            return
        else:
            route.pause = min(2 * route.pause, SLOWEST_RETRY)
        route.timer = self.proxy.loop.call_later(route.pause, self._continue, route)

    def _drop(self, route: Route) -> None:
        if route.timer is not None:
            route.timer.cancel()
        del self.routes[route.identity]
