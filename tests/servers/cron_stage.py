"""A manager of cron jobs with clocks that the test turns."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from raspy.servers.core.cron import CronManager, CronSettings, Firing
from raspy.servers.core.timetable import Now
from raspy.servers.core.when import Place

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
YEAR = 365 * DAY


def unix(text: str) -> float:
    """Unix s of ``2028-03-26 01:00`` (UTC, or with an offset)."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def text(instant: float) -> str:
    """The opposite, in UTC."""
    return datetime.fromtimestamp(instant, UTC).strftime("%Y-%m-%d %H:%M:%S").removesuffix(":00")


class Stage:
    """The clocks, the manager, and what fired.

    :param start: wall time, as :func:`unix` takes it
    """

    def __init__(
        self, start: str, zone: str = "UTC", latitude: float | None = None, longitude: float | None = None
    ) -> None:
        self.wall = unix(start)
        self.elapsed = 1000.0
        self.boot = 1
        self.trusted = True
        self.place = Place(ZoneInfo(zone), latitude, longitude)
        self.fired: list[Firing] = []
        self.notes: list[str] = []
        self.settings: dict[str, CronSettings] = {}
        self.kept: dict[str, Any] = {}
        self.manager = self._new()

    def _new(self) -> CronManager:
        return CronManager(
            self.place, lambda: self.wall, lambda: self.elapsed, f"boot {self.boot}", lambda: self.trusted
        )

    def add(self, when: str, name: str = "job", **settings: Any) -> None:
        self.settings[name] = msgspec.convert({"when": when, **settings}, CronSettings)
        before = name in self.manager.jobs
        self.manager.add(name, self.settings[name], self.manager.state(name) if before else None)
        self.keep(name)

    def keep(self, name: str) -> None:
        """What is on the disk went through JSON."""
        self.kept[name] = msgspec.json.decode(msgspec.json.encode(self.manager.state(name)))

    def look(self) -> list[Firing]:
        """Turns, as long as there is something to do now."""
        found = self.turn()
        while self.manager.delay() == 0.0:
            found += self.turn()
        return found

    def turn(self) -> list[Firing]:
        """One turn as the core does it: kept, acted on, kept again."""
        found = self.manager.due()
        for firing in found:
            self.keep(firing.job)
        for firing in found:
            self.manager.done(firing)
            self.keep(firing.job)
        for name in self.manager.changed:
            self.keep(name)
        self.manager.changed.clear()
        self.fired += found
        self.notes += self.manager.take_notes()
        return found

    def run(self, seconds: float) -> None:
        """Let time go by, and look each time that something is due."""
        end = self.elapsed + seconds
        self.look()
        while self.elapsed < end:
            now = Now(self.wall, self.elapsed, f"boot {self.boot}", self.trusted)
            waits = [job.table.wait(now) for job in self.manager.jobs.values() if job.active]
            self.step(min([w for w in waits if w is not None and w > 0] + [end - self.elapsed]))

    def walk(self, seconds: float) -> None:
        """Let time go by as the core does, at most a second at a time."""
        end = self.elapsed + seconds
        while self.elapsed < end:
            self.step(min(max(self.manager.delay(), 0.001), end - self.elapsed))

    def step(self, seconds: float) -> None:
        self.wall += seconds
        self.elapsed += seconds
        self.look()

    def set_clock(self, by: float) -> None:
        self.wall += by
        self.look()

    def off(self, seconds: float, reboot: bool = False, wall: float | None = None, unknown: str = "") -> None:
        """Stop, and start again later; what is not on the disk is forgotten.

        :param wall: by how much the wall clock goes on meanwhile, when it is not ``seconds``
        :param unknown: why nobody knows what was done before
        """
        self.wall += seconds if wall is None else wall
        self.elapsed = 20.0 if reboot else self.elapsed + seconds
        self.boot += reboot
        self.manager = self._new()
        for name, settings in self.settings.items():
            self.manager.add(name, settings, self.kept[name])
        if unknown:
            self.manager.skip_missed(unknown)
        self.look()

    def times(self, name: str = "job", cause: str | None = None) -> list[str]:
        """The instants that fired, and forget them."""
        found = [text(f.due) for f in self.fired if f.job == name and cause in (None, f.cause)]
        self.fired = [f for f in self.fired if f.job != name]
        return found

    def missed(self, name: str = "job") -> int:
        return self.manager.jobs[name].missed
