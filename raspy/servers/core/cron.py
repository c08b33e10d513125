"""Cron jobs: what is due, at most once, whatever the clock does.

:class:`CronManager` acts on nothing. It says what is due (:meth:`~CronManager.due`) and what must be on the disk before
that is acted on (:meth:`~CronManager.state`). It takes all its clocks from outside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from raspy.servers.core.memory import MOST_BEGUN, Begun, Cause, Memory, identity
from raspy.servers.core.timetable import Calendar, Interval, Now, Rules, Timetable
from raspy.servers.core.when import LONGEST_TEXT, Every, Place, When, WhenError, parse

MOST_JOBS = 2000
"""Jobs of a manager, those of scenarios among them."""
MOST_NOTES = 500
LOOK = 1.0
"""Seconds after which the clock may have jumped."""
JUMP = 2.0
"""Seconds by which wall and elapsed time disagree when the clock was set."""


class Command(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A command that a job sends to a device."""

    device: Annotated[str, Meta(min_length=3, max_length=255)]
    """``<host>.<server>.<name>[.<sub>]``; without the host, this one."""
    command: Annotated[str, Meta(min_length=1, max_length=63)]
    value: Any = None
    seconds: Annotated[float, Meta(gt=0, le=86400)] | None = None
    """How long an output is to be held."""


class CronSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What an owner says of a job."""

    when: Annotated[str, Meta(max_length=LONGEST_TEXT)]
    """See :mod:`raspy.servers.core.when`."""
    active: bool = True
    label: Annotated[str, Meta(max_length=100)] = ""
    jitter: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    """Seconds, the most by which a firing is put off; how much is told by job and instant."""
    misfire: Literal["once", "skip", "all"] = "once"
    """What becomes of instants that were missed."""
    grace: Annotated[float, Meta(ge=0, le=86400)] = 60.0
    """Seconds by which an instant may be late before it is missed; less than 5 count as 5."""
    trusted: bool = False
    """It fires only while the clock is to be trusted; until then it waits."""
    scenario: Annotated[str, Meta(max_length=63)] = ""
    command: Command | None = None


class Firing:
    """A job is to act now.

    :param job: its name
    :param due: the instant, Unix s
    :param at: now, Unix s
    :param missed: instants that were missed before, and for which it stands
    :param cause: what it is fired by
    :param id: 32 hexadecimal digits, the same for the same instant of the same job, over restarts too
    """

    __slots__ = ("at", "cause", "due", "id", "job", "missed")

    def __init__(self, job: str, due: float, at: float, missed: int, cause: Cause, id: str) -> None:  # noqa: A002
        self.job = job
        self.due = due
        self.at = at
        self.missed = missed
        self.cause = cause
        self.id = id

    def __repr__(self) -> str:
        return f"Firing({self.job!r}, due={self.due}, at={self.at}, missed={self.missed}, cause={self.cause!r})"


class Cron:
    """One job. Made by :meth:`CronManager.add`."""

    def __init__(self, name: str, settings: CronSettings, when: When, table: Timetable) -> None:
        self.name = name
        self.settings = settings
        self.when = when
        self.table = table
        self.note = ""
        """What happened to it last that its owner should know."""

    @property
    def last(self) -> float | None:
        """When it fired last, Unix s."""
        return self.table.memory.last

    @property
    def runs(self) -> int:
        """How often it fired."""
        return self.table.memory.runs

    @property
    def missed(self) -> int:
        """How many instants were missed, made up for or not."""
        return self.table.memory.missed

    @property
    def active(self) -> bool:
        """Whether it will fire by itself; not once its single time is over."""
        return self.settings.active and not self.table.over

    def to_dict(self) -> dict[str, Any]:
        """The job as JSON can hold it; times are Unix s."""
        return {
            "name": self.name,
            "settings": msgspec.to_builtins(self.settings),
            "kind": self.when.kind,
            "active": self.active,
            "last": self.last,
            "runs": self.runs,
            "missed": self.missed,
            "note": self.note,
        }


class CronManager:
    """The jobs, and what of them is due.

    :param place: time zone, and where the sun is seen from
    :param wall: gives Unix time, s, as right as the machine knows it
    :param elapsed: gives seconds since the boot, that never go back
    :param boot_id: which boot this is
    :param trusted: tells whether the wall clock may be believed
    """

    def __init__(
        self,
        place: Place,
        wall: Callable[[], float],
        elapsed: Callable[[], float],
        boot_id: str,
        trusted: Callable[[], bool],
    ) -> None:
        self.place = place
        self.jobs: dict[str, Cron] = {}
        """By name."""
        self.notes: list[str] = []
        """What happened that is to be told: jumps of the clock, what was missed; see :meth:`take_notes`."""
        self.changed: set[str] = set()
        """Jobs whose :meth:`state` is worth keeping; whoever keeps it takes them out."""
        self.interrupted: list[Firing] = []
        """What was begun before a restart, and not done. It is not repeated."""
        self._wall = wall
        self._elapsed = elapsed
        self._boot_id = boot_id
        self._trusted = trusted
        self._before: Now | None = None
        self._hurry = False
        self._unknown, self._start = "", 0.0
        """Why nobody knows what was done before the start, and when that was (elapsed time)."""

    def add(self, name: str, settings: CronSettings, state: dict[str, Any] | None = None) -> Cron:
        """Make a job, or put other settings in its place.

        :param state: what :meth:`state` gave for it; None for a new one. It is left out of account when it is about
            another ``when``, or cannot be read
        :raises WhenError: ``when`` cannot be used; nothing is changed then
        """
        if name not in self.jobs and len(self.jobs) >= MOST_JOBS:
            raise WhenError(f"when: there are {MOST_JOBS} jobs already; delete one first")
        when = parse(settings.when, self.place)
        now = self._now()
        memory, notes = self._memory(when, state, now)
        asleep = not memory.active
        memory.active = settings.active
        rules = Rules(name, settings.jitter, settings.grace, settings.misfire)
        old = memory.boot != now.boot or memory.seen_elapsed < self._start
        table = Interval(when, rules, memory, now) if isinstance(when, Every) else Calendar(when, rules, memory)
        if asleep and settings.active:
            table.skip_to(now)
        known = name in self.jobs
        job = self.jobs[name] = Cron(name, settings, when, table)
        if not known:
            self._tell_interrupted(job)
            if self._unknown and old:
                self._skip(job, now)
        if table.over and not memory.fired and not table.notes:
            notes.append("its time is over already")
        self.changed.add(name)
        table.notes[:0] = notes
        self._collect(job)
        return job

    def skip_missed(self, why: str) -> None:
        """Make up for nothing from before this start, as nobody knows what of it was done. That goes for all jobs that
        are there, and for those that are added later with what was kept before.

        :param why: told with it
        """
        now = self._now()
        self._unknown, self._start = why, now.elapsed
        self._tell(f"nothing from before this start is made up for: {why}")
        for job in self.jobs.values():
            self._skip(job, now)
            self._collect(job)

    def delete(self, name: str) -> None:
        """Have a job no more.

        :raises KeyError: there is none
        """
        del self.jobs[name]
        self.changed.discard(name)

    def due(self) -> list[Firing]:
        """What is to be done now, in the order of time. Each is told once, and counts as begun until :meth:`done`."""
        now = self._now()
        self._look_for_jump(now)
        firings: list[Firing] = []
        behind = False
        self._hurry = False
        for job in self.jobs.values():
            settings = job.settings
            if not settings.active or (settings.trusted and not now.trusted):
                continue
            if job.table.behind(now):
                if behind:
                    # It may take long to count what was missed: one job in each turn.
                    self._hurry = True
                    continue
                behind = True
            firings += self._turn(job, now)
            self._collect(job)
        firings.sort(key=lambda firing: firing.due)
        return firings

    def delay(self) -> float:
        """Seconds until it is worth while to ask :meth:`due` again; at most one, as the clock may jump."""
        if self._hurry:
            return 0.0
        now = self._now()
        delay = LOOK
        for job in self.jobs.values():
            if job.settings.active and (now.trusted or not job.settings.trusted):
                wait = job.table.wait(now)
                if wait is not None and wait < delay:
                    delay = wait
        return max(delay, 0.0)

    def done(self, firing: Firing) -> None:
        """What a firing asked for was begun for good; a restart has nothing to tell of it."""
        job = self.jobs.get(firing.job)
        if job is not None:
            memory = job.table.memory
            memory.begun = [begun for begun in memory.begun if begun.id != firing.id]
            self.changed.add(job.name)

    def state(self, name: str) -> dict[str, Any]:
        """What must not be forgotten of a job, as JSON can hold it.

        It is to be on the disk before a firing is acted on, and again after :meth:`done`.

        :raises KeyError: there is no such job
        """
        return self.jobs[name].table.kept(self._now())

    def next(self, name: str, count: int) -> list[float]:
        """The next instants of a job, Unix s, as far as is known now; without jitter.

        :raises KeyError: there is no such job
        """
        job = self.jobs[name]
        return job.table.upcoming(self._now(), count) if job.active else []

    def take_notes(self) -> list[str]:
        """What is to be told since the last time."""
        notes, self.notes = self.notes, []
        return notes

    def _now(self) -> Now:
        return Now(self._wall(), self._elapsed(), self._boot_id, self._trusted())

    def _memory(self, when: When, state: dict[str, Any] | None, now: Now) -> tuple[Memory, list[str]]:
        fresh = Memory(
            when=when.text,
            through=now.wall,
            seen=now.wall,
            seen_elapsed=now.elapsed,
            boot=now.boot,
            unsure=not now.trusted,
            made=now.elapsed,
            anchor=now.elapsed,
        )
        if state is None:
            return fresh, []
        try:
            memory = msgspec.convert(state, Memory)
        except (msgspec.ValidationError, RecursionError) as error:
            return fresh, [f"what was kept of it cannot be read, it begins anew: {error}"]
        if memory.through != memory.last_due:
            memory.seen = max(memory.seen, memory.through)
        if memory.when != when.text:
            fresh.runs, fresh.missed, fresh.last = memory.runs, memory.missed, memory.last
            return fresh, []
        return memory, []

    def _skip(self, job: Cron, now: Now) -> None:
        table = job.table
        wait = table.wait(now)
        due = job.active and wait is not None and wait <= 0
        table.skip_unknown(now)
        if due:
            what = "its time is past" if table.over else "it was due before this start"
            table.notes.append(f"{what}, and may have been done; it is not made up for: {self._unknown}")
        self.changed.add(job.name)

    def _tell_interrupted(self, job: Cron) -> None:
        memory = job.table.memory
        for begun in memory.begun:
            self.interrupted.append(Firing(job.name, begun.due, begun.at, 0, begun.cause, begun.id))
        number = len(memory.begun)
        if number:
            # In one line, as a log leaves out what repeats itself.
            what = (
                "a firing was cut short by a restart; it is"
                if number == 1
                else (f"{number} firings were cut short by a restart; they are")
            )
            job.table.notes.append(f"{what} not repeated")
        del self.interrupted[:-MOST_NOTES]
        memory.begun = []

    def _look_for_jump(self, now: Now) -> None:
        before, self._before = self._before, now
        if now.trusted and (before is None or not before.trusted):
            # From now on the wall time of their last instants is worth knowing.
            self.changed.update(name for name, job in self.jobs.items() if job.when.kind == "every")
        if before is None:
            return
        jump = (now.wall - before.wall) - (now.elapsed - before.elapsed)
        if abs(jump) >= JUMP:
            self._tell(f"the clock was set {'forward' if jump > 0 else 'back'} by {abs(jump):.0f} s")

    def _turn(self, job: Cron, now: Now) -> list[Firing]:
        memory, table = job.table.memory, job.table
        try:
            found = table.turn(now)
        except Exception as error:
            # One job that cannot be worked out must not cost the others.
            table.notes.append(f"cannot tell when it is due: {error!r}")
            return []
        firings = []
        for due in found:
            firing = Firing(job.name, due.due, now.wall, due.missed, due.cause, identity(f"{job.name}\n{due.key}"))
            memory.begun.append(Begun(firing.id, firing.due, firing.at, firing.cause))
            memory.runs += 1
            memory.last, memory.last_due = firing.at, firing.due
            firings.append(firing)
        del memory.begun[:-MOST_BEGUN]
        if found or table.notes:
            self.changed.add(job.name)
        return firings

    def _collect(self, job: Cron) -> None:
        for note in job.table.notes:
            if note != job.note or not note.startswith("cannot"):
                self._tell(f"job {job.name}: {note}")
            job.note = note
        job.table.notes.clear()
        if job.when.kind == "at" and job.table.memory.fired:
            job.note = job.note or "done"

    def _tell(self, note: str) -> None:
        self.notes.append(note)
        del self.notes[:-MOST_NOTES]
