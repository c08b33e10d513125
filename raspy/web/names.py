"""What owners call their devices: asked of the servers on the web server's loop, as it is not on the tree."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import msgspec

from raspy.common import MDP
from raspy.common.buscall import BusCaller
from raspy.common.executive import Executive
from raspy.web.texts import clean

SERVERS = 100
"""Servers that are asked."""
DEVICES = 600
"""Names of one server: 256 devices and their parts."""
PATIENCE = 3.0
"""Seconds for an answer."""
AGAIN = 60.0
"""Seconds after which servers are asked again while anybody looks."""
LIMIT = 100
"""Characters of a label."""


class Names:
    """The labels of all devices. Everything happens on the loop.

    :param loop: of the web server
    :param changed: called when there are others than before
    """

    def __init__(self, loop: Executive, changed: Callable[[], None]) -> None:
        self._loop = loop
        self._changed = changed
        self.labels: dict[str, str] = {}
        """By ``<host>.<server>.<device>``; never changed, but another one after a change."""
        self._known: dict[str, dict[str, str]] = {}
        self._waiting: deque[str] = deque()
        self._asking = False
        self._caller: BusCaller | None = None
        self._asked = time.monotonic()
        self._closed = False

    def close(self) -> None:
        """Ask for nothing more."""
        self._closed = True
        if self._caller is not None:
            self._caller.close()

    def see(self, server: str) -> None:
        """There is a device of a server."""
        if server not in self._known and len(self._known) < SERVERS:
            self._known[server] = {}
            self.ask(server)

    def look(self) -> None:
        """Somebody looks at them: have them asked for again when they are old."""
        now = time.monotonic()
        if now - self._asked > AGAIN:
            self._asked = now
            for server in self._known:
                self.ask(server)

    def ask(self, server: str) -> None:
        """Ask a server that is known."""
        if server in self._known and server not in self._waiting and not self._closed:
            self._waiting.append(server)
            self._next()

    def _next(self) -> None:
        if self._asking or not self._waiting or self._closed:
            return
        if self._caller is None:
            self._caller = BusCaller(self._loop, MDP.endpoint(self._loop.broker_ip, self._loop.broker_port))
        server = self._waiting.popleft()
        self._asking = True

        def done(frames: list[bytes] | None) -> None:
            self._asking = False
            if frames and frames[-1][:3] == MDP.OK:
                self._take(server, frames[0])
            self._next()

        self._caller.call(f"{server}.devices", [b"labels"], done, PATIENCE)

    def _take(self, server: str, answer: bytes) -> None:
        try:
            found = msgspec.json.decode(answer, type=dict[str, str])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return
        labels = {path: clean(label, LIMIT) for path, label in list(found.items())[:DEVICES] if label.strip()}
        if labels != self._known[server]:
            self._known[server] = labels
            self.labels = {f"{name}.{path}": told for name, of in self._known.items() for path, told in of.items()}
            self._changed()
