"""Which loggers there are, as the broker says (``/server/<host>.logger`` on the tree).

The connection to the broker says nothing about them: what is published while the logger is away, or restarts, is on the
tree, and in no history.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from raspy.common import MDP
from raspy.common.kvcliapi import KvSubscriber
from raspy.common.kvsimple import BAD_BODY

if TYPE_CHECKING:
    from raspy.common.server import Server

SERVERS = "/server/"
LOGGER = ".logger"
GONE = ("lost", "stopped")

There = frozenset[tuple[str, int, int]]
"""Loggers: key, process id and number of restarts."""


class State(msgspec.Struct):
    """What tells a logger from the one that it was before a restart."""

    state: str = ""
    pid: int = 0
    restarts: int = 0


decode = msgspec.json.Decoder(State).decode


class Loggers:
    """Follows them.

    :param server: on whose loop
    :param on_change: called when it is first known which there are, and with each change of that
    """

    def __init__(self, server: Server, on_change: Callable[[], None]) -> None:
        self.there: There | None = None
        """Those that there are; None: that is not known yet."""
        self.seen = False
        """Whether there ever was one."""
        self._on_change = on_change
        self._subscriber = KvSubscriber(server, SERVERS, self._changed, lambda _: self._look())

    @property
    def away(self) -> bool:
        """Whether there is none for certain."""
        return self.there is not None and not self.there

    def close(self) -> None:
        """Stop following."""
        self._subscriber.close()

    def _changed(self, key: str, body: bytes) -> None:
        if key.endswith(LOGGER):
            self._look()

    def _look(self) -> None:
        if self._subscriber.state != "live":
            return
        found = []
        for key, body in self._subscriber.tree.items():
            if not key.endswith(LOGGER):
                continue
            try:
                state = decode(body)
            except BAD_BODY as error:
                MDP.logger.warning("%s is not understood: %s", key, error)
                continue
            if state.state not in GONE:
                found.append((key, state.pid, state.restarts))
        there = frozenset(found)
        if there != self.there:
            self.there = there
            self.seen = self.seen or bool(there)
            self._on_change()
