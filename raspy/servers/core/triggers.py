"""What fires a scenario when a value changes: a change of an entry, and a threshold with hysteresis and hold time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from raspy.servers.core.values import EVENT, MISSING

if TYPE_CHECKING:
    from raspy.common.executive import Executive, Timer
    from raspy.servers.core.parts import Entry, Fire
    from raspy.servers.core.values import Values

Cause = dict[str, Any]

_NOTHING = object()
SLACK = 0.002
"""Seconds by which a timer of the loop may be early."""


class Change:
    """Fires when an entry has another good value than its last good one.

    What stands on the tree when it begins is where it begins: that is no change.
    """

    def __init__(self, name: str, entry: Entry, values: Values, fire: Callable[[Cause], Any]) -> None:
        self.name = name
        self.key = entry.key
        self._values = values
        self._fire = fire
        self._last: Any = _NOTHING
        self._end = values.watch(self.key, self.look)
        self.look()

    def look(self) -> None:
        """See whether it is another."""
        reading = self._values.read(self.key)
        if reading.quality == MISSING and self._last is _NOTHING and self.key.startswith(EVENT):
            # The first event is one.
            self._last = None
        if not reading.good:
            return
        before, self._last = self._last, reading.value
        # True is not 1 here, nor 1 another value than 1.0
        if before is _NOTHING or (before == self._last and isinstance(before, bool) == isinstance(self._last, bool)):
            return
        self._fire({"by": "change", "entry": self.name, "value": self._last, "before": before})

    def close(self) -> None:
        """Look no more."""
        self._end()


class Threshold:
    """Fires once when a number has been beyond a threshold for some time without a gap.

    :param tripped: it has fired, and the value was not back yet
    :param keep: called with whether it has fired, before it fires; calls what it is given once that is kept
    """

    def __init__(
        self,
        name: str,
        entry: Entry,
        fire: Fire,
        values: Values,
        loop: Executive,
        tripped: bool,
        keep: Callable[[bool, Callable[[], Any]], None],
        act: Callable[[Cause], Any],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.key = entry.key
        self.fire = fire
        self.tripped = tripped
        self._values = values
        self._loop = loop
        self._keep = keep
        self._act = act
        self._clock = clock
        self._since: float | None = None
        self._timer: Timer | None = None
        self._end = values.watch(self.key, self.look)
        self.look()

    def look(self) -> None:
        """See where the value is."""
        reading = self._values.read(self.key)
        value = reading.value
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            # What cannot be believed was not beyond anything.
            self._rest()
        elif self.tripped:
            if self.fire.back(value):
                self.tripped = False
                self._keep(False, _nothing)
        elif not self.fire.beyond(value):
            self._rest()
        else:
            now = self._clock()
            if self._since is None:
                self._since = now
            left = self._since + self.fire.hold - now
            if left <= SLACK:
                self._rest()
                self.tripped = True
                cause = {"by": "threshold", "entry": self.name, "value": value}
                self._keep(True, lambda: self._act(cause))
            else:
                self._wake(min(left, reading.left + SLACK))

    def rearm(self) -> None:
        """Look as if it had not fired."""
        if self.tripped:
            self.tripped = False
            self.look()

    def close(self) -> None:
        """Look no more."""
        self._end()
        self._rest()

    def _rest(self) -> None:
        self._since = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake(self, delay: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay, self.look)


def _nothing() -> None:
    pass
