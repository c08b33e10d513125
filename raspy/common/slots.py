"""The worker connections of one service: one, and more while more requests come at a time."""

from __future__ import annotations

from raspy.common.executive import Executive, Timer
from raspy.common.mdwrkapi import OnRequest, Reply, WorkerConnection
from raspy.common.pollgroup import PollGroup

FEW = 1
"""Connections that are there though nobody asks."""
SHRINK = 30.0
"""Seconds after which connections that were not needed are closed."""


class Slots:
    """Each connection takes one request at a time, and about 90 KB of memory, as much again in the broker.

    :param loop: everything happens on it
    :param address: the broker's ROUTER
    :param service: the name to register
    :param on_request: called with body and reply, as by a :class:`~raspy.common.mdwrkapi.WorkerConnection`
    :param most: connections at most
    :param grouped: they are many, and watched as one
    """

    def __init__(
        self,
        loop: Executive,
        address: str,
        service: bytes,
        on_request: OnRequest,
        most: int,
        grouped: bool = False,
    ) -> None:
        self.loop = loop
        self.address = address
        self.service = service
        self.on_request = on_request
        self.most = most
        self.connections: list[WorkerConnection] = []
        self._busy = 0
        self._peak = 0
        self._group = PollGroup(loop) if grouped else None
        self._ticker: Timer | None = loop.call_every(SHRINK, self._shrink) if most > FEW else None
        self._grow(min(FEW, most))

    def reopen(self, lost: float) -> None:
        """Register again: the broker is known to have started anew.

        :param lost: when the old one went (monotonic, s)
        """
        for connection in self.connections:
            connection.reopen(lost)

    def close(self) -> None:
        """Leave the broker; harmless when repeated."""
        if self._ticker is not None:
            self._ticker.cancel()
        for connection in self.connections:
            connection.close()
        self.connections.clear()
        if self._group is not None:
            self._group.close()

    def _grow(self, count: int) -> None:
        for _ in range(count):
            connection = WorkerConnection(self.loop, self.address, self.service, self._request, group=self._group)
            self.connections.append(connection)

    def _shrink(self) -> None:
        wanted = max(FEW, 2 * self._peak)
        self._peak = self._busy
        for connection in [c for c in self.connections if c.client is None][: max(0, len(self.connections) - wanted)]:
            self.connections.remove(connection)
            connection.close()

    def _request(self, body: list[bytes], reply: Reply) -> None:
        self._busy += 1

        def answer(frames: list[bytes]) -> None:
            self._busy -= 1
            reply(frames)

        self.on_request(body, answer)
        # What is answered at once needs no further connection.
        if self._busy > self._peak:
            self._peak = self._busy
            if self._busy >= len(self.connections) < self.most:
                self._grow(min(len(self.connections), self.most - len(self.connections)))
