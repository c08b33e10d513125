"""When the sun rises and sets today, which every scenario is told."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from raspy.servers.core.when import Place, parse

EVENTS = ("dawn", "sunrise", "noon", "sunset", "dusk")


class Sun:
    """The sun of a place.

    :param place: where; without latitude there is none
    :param wall: the wall clock, Unix s
    """

    def __init__(self, place: Place, wall: Callable[[], float]) -> None:
        self._place = place
        self._wall = wall
        self._day = ""
        self._times: dict[str, float | None] = {}

    def today(self) -> dict[str, float | None]:
        """The events of the day by name (Unix, s), None for one that there is not today; empty: not known."""
        if self._place.latitude is None:
            return {}
        now = datetime.fromtimestamp(self._wall(), self._place.tz)
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
        if self._day != midnight.date().isoformat():
            begin, end = midnight.timestamp() - 1, (midnight + timedelta(days=1)).timestamp()
            for event in EVENTS:
                at = parse(f"@{event}", self._place).next(begin)
                self._times[event] = at if at is not None and at < end else None
            self._day = midnight.date().isoformat()
        return dict(self._times)
