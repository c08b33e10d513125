"""What is told of a scenario: its state on the tree, its events, and what its owner has to know."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from raspy.common import MDP

if TYPE_CHECKING:
    from raspy.common.executive import Timer
    from raspy.servers.core.child import End
    from raspy.servers.core.server import Core

TELL = 0.5
"""Seconds between two publications of a scenario's state."""


class Teller:
    """Tells of one scenario; without a core, nobody.

    :param told: what the tree is to show of it
    """

    def __init__(self, name: str, core: Core | None, told: Callable[[], dict[str, Any]]) -> None:
        self.name = name
        self._core = core
        self._told = told
        self._at = -TELL
        self._timer: Timer | None = None
        self.gone = False
        """There is no such scenario any more."""

    def soon(self) -> None:
        """Put its state on the tree, soon."""
        if self._core is not None and self._timer is None and not self.gone:
            wait = self._at + TELL - time.monotonic()
            self._timer = self._core.call_later(max(wait, 0.0), self._now)

    def remove(self) -> None:
        """Take it off the tree."""
        self.gone = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._core is not None:
            self._core.publish(f"/scenario/{self.name}", b"")

    def event(self, what: str, **fields: Any) -> None:
        """It was fired, has ended, or was paused."""
        if self._core is not None:
            self._core.event("scenario", self.name, state=what, **fields)

    def alert(self, title: str, text: str) -> None:
        """Tell the owner of what needs somebody to look at it."""
        MDP.logger.warning("scenario %s: %s", self.name, text)
        if self._core is not None:
            by = f"scenario {self.name}"
            self._core.event("notify", self.name, text=text, title=title, severity="critical", by=by)

    def failed(self, end: End, told: str, took: float) -> None:
        """A run did not end well.

        :param told: the reason
        :param took: seconds that it ran
        """
        MDP.logger.warning("scenario %s: %s: %s", self.name, end.how, told)
        outside = end.outside or end.how == "lost"
        self.event("failed", how=end.how, reason=told, line=end.line, took=round(took, 3), outside=outside)

    def paused(self, reason: str) -> None:
        """It does nothing any more by itself."""
        self.event("paused", reason=reason)
        self.alert("Paused", f"{self.name} is paused, and does nothing until somebody has looked: {reason}")

    def unrepeated(self, entries: list[str], why: str) -> None:
        """What entries fired it for was not done, and is not done later."""
        names = ", ".join(entries)
        self.alert(
            "Not repeated", f"{self.name} was fired by {names}, and {why}: it is not fired again before that was back"
        )

    def _now(self) -> None:
        self._timer = None
        self._at = time.monotonic()
        if self._core is not None:
            self._core.publish(f"/scenario/{self.name}", self._told())
