"""A call of a scenario that waits for an entry to change."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raspy.common.executive import Timer
    from raspy.servers.core.calls import Calls

LATER = 0.01
"""Seconds after which a value that has grown too old is looked at."""


class Wait:
    """A call that waits for an entry to change.

    :param version: the one that the scenario knows
    :param end: monotonic time until which it waits, s
    """

    def __init__(
        self, calls: Calls, entry: str, key: str, version: Any, end: float, answer: Callable[[Any], None]
    ) -> None:
        self._calls = calls
        self._entry = entry
        self._key = key
        self._version = version
        self._until = end
        self._answer = answer
        self._timer: Timer | None = None
        self._unwatch = calls.core.values.watch(key, self.look)

    def look(self) -> None:
        """See whether the wait is over."""
        reading = self._calls.core.values.read(self._key)
        now = time.monotonic()
        if reading.version == self._version and now < self._until:
            self._arm(min(self._until - now, reading.left + LATER))
            return
        self.close()
        found = None
        if reading.version != self._version:
            if not reading.good:
                self._calls.unusable = self._key
            found = {
                "value": reading.value,
                "unit": reading.unit,
                "quality": reading.quality,
                "reason": reading.reason if reading.good else f"{self._entry}: {reading.reason}",
                "age": reading.age if reading.age < math.inf else None,
            }
        self._answer({"version": reading.version, "reading": found})

    def give_up(self) -> None:
        """Answer at once that nothing has changed."""
        self.close()
        self._answer({"version": self._version, "reading": None})

    def close(self) -> None:
        """Wait no more."""
        self._unwatch()
        self._calls._waits.pop(id(self), None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, delay: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if delay < math.inf:
            self._timer = self._calls.core.call_later(delay, self.look)
