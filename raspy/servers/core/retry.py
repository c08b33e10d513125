"""When a scenario that failed is started again: after a pause that grows, or as soon as a value is good."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raspy.common.executive import Timer
    from raspy.servers.core.server import Core

BACK_OFF, LONGEST_BACK_OFF = 1.0, 60.0
"""Seconds of the first pause, and of the longest after doublings."""


class Retry:
    """The next start of one scenario, if there is one."""

    def __init__(self) -> None:
        self._pause = BACK_OFF
        self._timer: Timer | None = None
        self._unwatch: Any = None

    def reset(self) -> None:
        """The next pause is a short one again."""
        self._pause = BACK_OFF

    def longer(self) -> float:
        """Seconds until the next try, the one after it being farther away."""
        wait, self._pause = self._pause, min(2 * self._pause, LONGEST_BACK_OFF)
        return wait

    def after(self, core: Core, wait: float, start: Callable[[], None]) -> None:
        """Start it after a pause.

        :param wait: seconds
        """
        self._timer = core.call_later(wait, start)

    def once_good(self, core: Core, key: str, soonest: float, start: Callable[[], None]) -> None:
        """Do not wait for the end of the pause when a value can be believed before.

        :param soonest: the time (monotonic, s) before which it is not started even then
        """
        self._unwatch = core.values.watch(key, lambda: self._look(core, key, soonest, start))
        self._look(core, key, soonest, start)

    def cancel(self) -> None:
        """Do not start it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._unwatch is not None:
            self._unwatch()
            self._unwatch = None

    def _look(self, core: Core, key: str, soonest: float, start: Callable[[], None]) -> None:
        if self._unwatch is None or not core.values.read(key).good:
            return
        self.cancel()
        self.reset()
        self._timer = core.call_later(max(soonest - time.monotonic(), 0.0), start)
