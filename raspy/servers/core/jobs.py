"""What cron jobs do: each firing is on the disk before it is acted on, so that none is acted on twice."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from raspy.common import MDP
from raspy.common.config import ID
from raspy.common.executive import Timer
from raspy.common.verbs import VerbError
from raspy.servers.core.cron import Command, Cron, CronSettings, Firing
from raspy.servers.core.delivery import DONE, LIFETIME, place
from raspy.servers.core.entries import StateError
from raspy.servers.core.when import WhenError, parse

if TYPE_CHECKING:
    from raspy.servers.core.server import Core

KEPT_IN = 2.0
"""Seconds that the disk may take to note a firing before what is due is done all the same: a light that does not go on
costs more than one that is told so twice, and that only if the power fails in just this moment."""
BEGIN = 0.05
"""Seconds between looks whether scenarios can be fired yet."""
NOTED = 2.0
"""Seconds in which it is noted that firings were acted on."""
SECTION, KEY, STATES = "cron.", "settings", "state.cron"
"""Where a job is kept, by its name; and where is what all of them have done."""
MOST = 500
"""Jobs of an owner."""

Done = Callable[[Exception | None], None]


class Jobs:
    """Keeps the jobs, asks what is due, and has it done.

    :param core: whose jobs they are
    """

    def __init__(self, core: Core) -> None:
        self.core = core
        self.manager = core.cron
        self.broken: dict[str, str] = {}
        """Jobs that are kept and cannot be used, and why."""
        self._timer: Timer | None = None
        self._noting: Timer | None = None
        self._begun = False
        self._failed: dict[str, int] = {}
        """Commands of a job that were not done, since core's start."""

    def load(self) -> None:
        """Take up what was kept."""
        for section in self.core.state.sections(SECTION):
            self._take(section.removeprefix(SECTION))
        if not self.core.state.writable:
            # What was done since the disk took its last write is not known: to do it twice would be worse.
            self.manager.skip_missed(self.core.state.doubt)

    def start(self) -> None:
        """Begin to fire."""
        self._begun = True
        self._tick()

    def close(self) -> None:
        """Fire nothing more, and note what was done."""
        for timer in (self._timer, self._noting):
            if timer is not None:
                timer.cancel()
        self._timer = self._noting = None
        self._note()

    def names(self) -> list[str]:
        """The jobs of the owner; those that belong to scenarios are not among them."""
        return sorted([*(name for name in self.manager.jobs if ID.fullmatch(name)), *self.broken])

    def find(self, name: str) -> Cron:
        """A job of the owner.

        :raises VerbError: 404
        """
        job = self.manager.jobs.get(name) if ID.fullmatch(name) else None
        if job is None:
            why = self.broken.get(name)
            known = ", ".join(self.names()) or "none"
            raise VerbError(
                MDP.NOT_FOUND,
                f"cron job {name}: {why}" if why else f"no cron job {name[:80]!r}; known are {known[:1000]}",
            )
        return job

    def change(self, name: str, settings: CronSettings, done: Done) -> None:
        """Make a job, or change it; ``done`` follows when it is on the disk.

        :raises VerbError: it cannot be
        """
        if not ID.fullmatch(name):
            raise VerbError(MDP.BAD_REQUEST, f"{name[:80]!r} is no name: 1 to 63 of a-z, 0-9, _ and -")
        if name not in self.manager.jobs and len(self.names()) >= MOST:
            raise VerbError(MDP.BAD_REQUEST, f"there are {MOST} cron jobs already; delete one first")
        try:
            parse(settings.when, self.manager.place)
        except WhenError as error:
            raise VerbError(MDP.BAD_REQUEST, str(error)) from error
        self._check(settings)

        def kept(error: Exception | None) -> None:
            if error is not None:
                done(error)
                return
            self._take(name)
            self._soon()
            self.note(done)

        self.core.state.put({(SECTION + name, KEY): msgspec.to_builtins(settings)}, kept)

    def delete(self, name: str, done: Done) -> None:
        """Have a job no more; ``done`` follows when that is on the disk.

        :raises VerbError: 404
        """
        if name not in self.broken:
            self.find(name)

        def kept(error: Exception | None) -> None:
            if error is None:
                self._take(name)
            done(error)

        self.core.state.put({(SECTION + name, KEY): None, (STATES, name): None}, kept)

    def run(self, name: str) -> str:
        """Fire a job by hand, now; its times stay as they are. Returns the id of the firing.

        :raises VerbError: 404
        """
        job = self.find(name)
        now = self.core.clock.wall()
        firing = Firing(job.name, now, now, 0, "hand", MDP.new_id())
        self._act(firing)
        return firing.id

    def read(self, name: str, kept: Any) -> CronSettings:
        """The settings of a job as they are kept.

        :raises ValueError: they can be of no use
        """
        if not ID.fullmatch(name):
            raise ValueError("its name is none: 1 to 63 of a-z, 0-9, _ and -")
        settings = msgspec.convert(kept, CronSettings)
        parse(settings.when, self.manager.place)
        self._check(settings)
        return settings

    def note(self, done: Done) -> None:
        """Keep since when jobs are there before ``done`` tells that they are: what passes after a power cut was missed
        by them. What the disk refuses of this is written as soon as it takes it, and no reason to tell otherwise."""
        self._put(lambda error: done(None))

    def taken(self, places: set[tuple[str, str]]) -> None:
        """Jobs were changed in the store."""
        for section, _ in places:
            if section.startswith(SECTION):
                self._take(section.removeprefix(SECTION))
        self._soon()

    def _check(self, settings: CronSettings) -> None:
        if settings.command is not None:
            try:
                place(self.core.hostname, settings.command.device)
            except VerbError as error:
                raise VerbError(MDP.BAD_REQUEST, f"command.device: {error}") from error
        if settings.scenario and not ID.fullmatch(settings.scenario):
            raise VerbError(MDP.BAD_REQUEST, f"scenario: {settings.scenario[:80]!r} is not the name of one")

    def _take(self, name: str) -> None:
        """Have a job as it is kept; what is wrong with it costs no other."""
        state = self.core.state
        kept = state.get(SECTION + name, KEY)
        self.broken.pop(name, None)
        if kept is None:
            if name in self.manager.jobs and ID.fullmatch(name):
                self.manager.delete(name)
        else:
            try:
                settings = self.read(name, kept)
                before = self.manager.jobs.get(name)
                same = before is not None and before.settings.when == settings.when
                job = self.manager.add(name, settings, self.manager.state(name) if same else state.get(STATES, name))
                if settings.scenario and self._begun and settings.scenario not in self.core.scenarios.scenarios:
                    job.note = f"there is no scenario {settings.scenario}"
            except ValueError as error:
                if name in self.manager.jobs and ID.fullmatch(name):
                    self.manager.delete(name)
                self.broken[name] = f"it cannot be used: {error}"
        problems = "; ".join(f"{broken}: {why}" for broken, why in self.broken.items())
        self.core.condition("cron jobs", problems[:400] or None)

    # What is due

    def _soon(self) -> None:
        """Look at once, as there is something new."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = self.core.call_later(0, self._tick)

    def _tick(self) -> None:
        """Fire what is due."""
        if not self.core.scenarios.begun:
            # A scenario that was fired now would be refused, and a command gets nowhere without the broker.
            self._timer = self.core.call_later(BEGIN, self._tick)
            return
        try:
            self._resume()
            firings = self.manager.due()
            for note in self.manager.take_notes():
                self._tell(note)
            if firings:
                self._fire(firings)
            elif self.manager.changed and self._noting is None:
                self._noting = self.core.call_later(NOTED, self._note)
        finally:
            # Always, so that what goes wrong with one does not cost the others.
            self._timer = self.core.call_later(self.manager.delay(), self._tick)

    def _fire(self, firings: list[Firing]) -> None:
        """Note that they are begun, then act."""
        acted: list[bool] = []

        def act(error: Exception | None = None) -> None:
            if acted:
                return
            acted.append(True)
            slow.cancel()
            for firing in firings:
                self.core.guard(self._act, firing)

        slow = self.core.call_later(KEPT_IN, act)
        self._put(act)

    def _put(self, done: Done | None = None) -> None:
        """Keep what the jobs have done."""
        try:
            self.core.state.put(self._changes(), done)
        except StateError as error:
            self.core.condition("cron state", str(error))
            if done is not None:
                done(error)
        else:
            self.core.condition("cron state", None)

    def _changes(self) -> dict[tuple[str, str], Any]:
        """What is to be kept of what the jobs have done."""
        changed = {name for name in self.manager.changed if name in self.manager.jobs}
        self.manager.changed.clear()
        return {(STATES, name): self.manager.state(name) for name in changed}

    def _act(self, firing: Firing) -> None:
        job = self.manager.jobs.get(firing.job)
        if job is None:
            return
        self.core.fired.set()
        settings = job.settings
        late = max(firing.at - firing.due, 0.0)
        MDP.logger.info("cron job %s fires (%s)%s", job.name, firing.cause, f", {late:.0f} s late" if late >= 1 else "")
        facts: dict[str, Any] = {
            "due": round(firing.due, 3),
            "late": round(late, 3),
            "cause": firing.cause,
            "missed": firing.missed,
            "trusted": self.core.clock.trusted(),
        }
        self.core.event("cron", job.name, state="fired", **facts)
        if settings.scenario:
            cause = {"by": "cron", "job": job.name, **facts}
            if not self.core.scenarios.fire(settings.scenario, cause):
                self._tell_of(job.name, f"scenario {settings.scenario} is not run: see its state")
        if settings.command is None:
            self._done(firing)
        else:
            self._send(firing, settings.command)

    def _send(self, firing: Firing, command: Command, lifetime: float = LIFETIME) -> None:
        """Have a job's command done; it counts as done once nothing of it is lost when core ends."""
        told = partial(self._delivered, firing.job)
        self.core.delivery.send(
            command, self._identity(firing), f"cron {firing.job}", told, partial(self._done, firing), lifetime
        )

    def _done(self, firing: Firing) -> None:
        if firing.cause != "hand":
            # Noted with the next firing, or soon.
            self.manager.done(firing)

    def _resume(self) -> None:
        """See to what was begun before a restart: a command that is still worth something is sent, under its id."""
        interrupted, self.manager.interrupted[:] = list(self.manager.interrupted), []
        now = self.core.clock.wall()
        for firing in interrupted:
            job = self.manager.jobs.get(firing.job)
            command = job.settings.command if job is not None else None
            left = firing.at + LIFETIME - now
            if command is not None and 0 < left <= LIFETIME:
                self._send(firing, command, left)
                reason = "core was restarted; its command is sent again, under its id"
            else:
                reason = "core was restarted; nobody knows how far it came, and it is not repeated"
            self.core.event("cron", firing.job, state="interrupted", due=round(firing.due, 3), reason=reason)

    def _identity(self, firing: Firing) -> str:
        """What tells this firing's command from others, those of another core on the same bus too."""
        return f"{zlib.crc32(self.core.name.encode()):08x}{firing.id[8:]}"

    def _note(self) -> None:
        """Keep that firings were acted on."""
        self._noting = None
        if self.manager.changed:
            self._put()

    def _delivered(self, name: str, how: str, why: str) -> None:
        """What became of a job's command."""
        job = self.manager.jobs.get(name)
        if job is not None:
            job.note = f"its command: {how}{': ' + why if why else ''}"
        if how != DONE:
            self._failed[name] = self._failed.get(name, 0) + 1
            if job is not None:
                job.note += f" ({self._failed[name]} not done since core's start)"
            MDP.logger.warning("cron job %s: its command was %s: %s", name, how, why)
        self.core.event("cron", name, state=how, reason=why)

    def _tell_of(self, name: str, why: str) -> None:
        job = self.manager.jobs.get(name)
        if job is not None:
            job.note = why
        MDP.logger.warning("cron job %s: %s", name, why)
        self.core.event("cron", name, state="refused", reason=why)

    def _tell(self, note: str) -> None:
        """Something about time that nobody asked for: a jump of the clock, what was missed."""
        MDP.logger.warning("cron: %s", note)
        self.core.event("time", self.core.hostname, reason=note)
