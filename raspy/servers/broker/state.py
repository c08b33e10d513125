"""What the broker remembers: requests, services and workers."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable

REQUEST_OVERHEAD = 250
"""Bytes that a waiting request takes beside its frames."""
FRAME_OVERHEAD = 41
"""Bytes that a frame takes beside its content: the bytes object and its place in a list."""


class Budget:
    """Memory that waiting messages may take together.

    :param limit: bytes
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def take(self, size: int, *, force: bool = False, unless: bool = False) -> bool:
        """Take bytes; False when they are not there.

        :param force: take them in any case: what was accepted before is not refused now
        :param unless: refuse in any case
        """
        if unless or (self.used + size > self.limit and not force):
            return False
        self.used += size
        return True

    def give(self, size: int) -> None:
        """Give bytes back."""
        self.used -= size


class Request:
    """A client's request, waiting for a worker or being worked on.

    ``on_reply`` is set for a request of the broker itself, which then has no client.
    """

    __slots__ = ("attempts", "body", "client", "expiry", "key", "on_reply", "size")

    def __init__(
        self,
        client: bytes,
        body: list[bytes],
        expiry: float,
        on_reply: Callable[[list[bytes]], None] | None = None,
        key: str = "",
    ) -> None:
        self.client = client
        self.body = body
        self.expiry = expiry
        """Monotonic time, in seconds, after which nobody waits for it any more."""
        self.attempts = 0
        self.on_reply = on_reply
        self.key = key
        """The key of the host that it came from; empty: this one."""
        self.size = REQUEST_OVERHEAD + FRAME_OVERHEAD * len(body) + sum(map(len, body))
        """Bytes that it takes while it waits, about."""


class Service:
    """A single service: the requests that wait for a worker, and the workers that wait for a request.

    :param name: its name, opaque bytes
    """

    __slots__ = ("count", "name", "ours", "requests", "waiting")

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.requests: deque[Request] = deque()
        self.waiting: OrderedDict[bytes, Worker] = OrderedDict()
        """Idle workers by address, the least recently used first (RFC 7/MDP asks for this order)."""
        self.count = 0
        """Workers, idle and busy."""
        self.ours = False
        """It belongs to one of our servers, which answers a repeated request from memory."""


class Worker:
    """A worker, idle or busy.

    :param identity: its address in hexadecimal, for messages
    :param address: the identity that the ROUTER gives it, opaque bytes
    :param lifetime: seconds of silence after which it counts as dead
    """

    __slots__ = ("address", "expiry", "identity", "key", "request", "sent", "service")

    def __init__(self, identity: str, address: bytes, lifetime: float) -> None:
        self.identity = identity
        self.address = address
        self.expiry = lifetime
        """Monotonic time, in seconds, after which it counts as dead; the lifetime until it is first heard."""
        self.key = ""
        """The key of the host that it is on; empty: this one."""
        self.service: Service | None = None
        self.request: Request | None = None
        """What it works on."""
        self.sent = 0.0
        """Monotonic time, in seconds, when something was last sent to it."""
