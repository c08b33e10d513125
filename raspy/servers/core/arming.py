"""The triggers of one scenario: set while it is active, with what each threshold has fired and what became of that."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from raspy.servers.core.triggers import Cause, Change, Threshold

if TYPE_CHECKING:
    from raspy.common.executive import Timer
    from raspy.servers.core.parts import Entry
    from raspy.servers.core.server import Core

BURST, RATE = 20.0, 2.0
"""Starts of one scenario at once, and per second; those above wait for their turn."""

Names = list[str]


class Arming:
    """What fires a scenario when a value changes. Thresholds are known by the names of their entries.

    :param core: without one nothing is fired
    :param fire: called with the cause
    :param keep: called when what :meth:`to_dict` says is to be kept; calls what it is given once it is
    """

    def __init__(
        self, core: Core | None, fire: Callable[[Cause], Any], keep: Callable[[Callable[[Any], Any] | None], None]
    ) -> None:
        self._core = core
        self._fire = fire
        self._keep = keep
        self._triggers: list[Change | Threshold] = []
        self._tripped: set[str] = set()
        """Thresholds that have fired, and the value was not back yet."""
        self._waiting: set[str] = set()
        """Those that have fired, and no run has begun since."""
        self._served: set[str] = set()
        """Those that the present run is of."""
        self._timer: Timer | None = None

    # What is kept

    def load(self, kept: dict[str, Any]) -> None:
        """Take up what was kept."""
        self._tripped = set(kept.get("tripped", ()))

    def to_dict(self) -> dict[str, Any]:
        """What is to be kept; ``open`` are those of which a run is not over, or did not begin."""
        found = {"tripped": self._tripped, "open": self._waiting | self._served}
        return {name: sorted(names) for name, names in found.items() if names}

    def forget(self) -> None:
        """Nothing has fired."""
        for names in (self._tripped, self._waiting, self._served):
            names.clear()

    # What fires

    def set(self, keys: dict[str, Entry]) -> None:
        """Set the triggers that the entries have."""
        core = self._core
        assert core is not None
        for name, entry in keys.items():
            if entry.fire == "change":
                self._triggers.append(Change(name, entry, core.values, self._fire))
            elif entry.fire is not None:
                self._triggers.append(
                    Threshold(
                        name, entry, entry.fire, core.values, core, name in self._tripped, self._kept(name), self._fire
                    )
                )

    def close(self) -> None:
        """Nothing fires any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        triggers, self._triggers = self._triggers, []
        for trigger in triggers:
            trigger.close()

    def rearm(self, names: Names, wait: float) -> None:
        """Have thresholds fire again, in so many seconds, though their values were not back."""
        assert self._core is not None
        self._tripped.difference_update(names)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._core.call_later(wait, self._look)

    def _look(self) -> None:
        self._timer = None
        for trigger in self._triggers:
            if isinstance(trigger, Threshold) and trigger.name not in self._tripped:
                trigger.rearm()

    def _kept(self, name: str) -> Callable[[bool, Callable[[], Any]], None]:
        def keep(tripped: bool, then: Callable[[], Any]) -> None:
            if tripped:
                self._tripped.add(name)
                self._waiting.add(name)
            else:
                self._tripped.discard(name)
            # On the disk first, so that it fires once whatever happens; whether the disk took it or not.
            self._keep(lambda error: then())

        return keep

    # What becomes of it

    def begin(self) -> None:
        """A run begins: it is that of all that have fired."""
        self._served |= self._waiting
        self._waiting.clear()

    def undo(self) -> None:
        """It did not begin."""
        self._waiting |= self._served
        self._served.clear()

    def end(self) -> Names:
        """It is over; those that it was of."""
        served, self._served = sorted(self._served), set()
        return served

    def rest(self) -> bool:
        """No run is to come of what has fired; whether anything has."""
        waiting, self._waiting = self._waiting, set()
        return bool(waiting)


class Rate:
    """How often a scenario may be started."""

    def __init__(self) -> None:
        self._tokens, self._filled = BURST, time.monotonic()

    def take(self) -> float:
        """Seconds to wait before the next start."""
        now = time.monotonic()
        self._tokens = max(min(self._tokens + (now - self._filled) * RATE, BURST) - 1, -1.0)
        self._filled = now
        return max(-self._tokens / RATE, 0.0)
