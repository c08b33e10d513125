"""The server ``sync``: measures NTP, the RTC and the system clock, decides, and sets what may be set."""

from __future__ import annotations

import os
import time
from math import isfinite
from typing import Any, ClassVar, Self

import msgspec

from raspy.common import MDP
from raspy.common.config import Section
from raspy.common.devices.host import DeviceServer
from raspy.common.directories import state_directory
from raspy.common.executive import Timer
from raspy.common.pool import JobTimeout, PoolFull
from raspy.common.verbs import Verbs
from raspy.servers.sync.decide import LIMIT, WRONG, Decision, Facts, decide
from raspy.servers.sync.device import Clock
from raspy.servers.sync.kept import Kept, Known
from raspy.servers.sync.machine import Machine
from raspy.servers.sync.ntp import Consensus, date
from raspy.servers.sync.privilege import PrivilegeError
from raspy.servers.sync.report import status, values
from raspy.servers.sync.round import JUMP, Round
from raspy.servers.sync.rtc import Reading
from raspy.servers.sync.settings import SyncConfig
from raspy.servers.sync.sources import Source
from raspy.servers.sync.step import LEAD, LONGEST_LEAD, Lately, Outcome, set_system
from raspy.servers.sync.verbs import SPACING, TIME

FIRST_AGAIN = 16.0
"""s until the next measurement when no server agreed; then twice as long each time, up to the interval. NTP's
shortest poll (RFC 5905, section 7.2)."""
AFTER_STEP = 64.0
"""s until the next measurement when the clock was set."""
WATCH = 10.0
"""s between looks whether somebody else has set the clock."""
ACTION = 30.0
"""s that setting a clock may take."""


class Sync(DeviceServer):
    """The server that keeps the time.

    :param settings: the section ``[sync]``
    :param machine: what it works on
    :param path: where the last known time is kept; None: nowhere
    """

    CONFIG: ClassVar[type[Section]] = SyncConfig
    fixed: ClassVar[frozenset[str]] = frozenset({"clock"})

    def __init__(
        self,
        hostname: str = "localhost",
        service: str = "sync",
        broker_ip: str = "127.0.0.1",
        broker_port: int = 5514,
        settings: SyncConfig | None = None,
        machine: Machine | None = None,
        path: str | None = None,
    ) -> None:
        super().__init__(hostname, service, broker_ip, broker_port)
        self.settings = settings or SyncConfig()
        self.machine = machine or Machine()
        self.types.register(Clock)
        self.sources = [Source(name) for name in self.settings.servers]
        self.kept = Kept(path)
        self.trusted = ""
        """What the system clock is trusted for; empty: it is not."""
        self.reason = "not measured yet"
        self.facts: Facts | None = None
        """What the last decision was made from."""
        self.decision = Decision()
        self.consensus: Consensus | None = None
        """What the servers last agreed on, and was believed."""
        self.measured = float("-inf")
        """When that was (seconds since the boot); at the latest the start, when a sync before this one had it."""
        self.change: dict[str, Any] | None = None
        """The last change of a clock, as its event has it."""
        self.reading: Reading | None = None
        """What the RTC last said, or was set to."""
        self.round: Round | None = None
        """The measurement that is under way, until what it led to is done."""
        self.ended = float("-inf")
        """When the last one ended (seconds since the boot)."""
        self.waiting: list[Any] = []
        """Called when a measurement ends."""
        self._sure = False
        """What the clock is trusted for was measured now, or an owner has said it: it may be before the last known
        time."""
        self._last: Round | None = None
        self._timer: Timer | None = None
        self._again = FIRST_AGAIN
        self._base = 0.0
        self._lead = LEAD
        self._steps, self._foreign = Lately(), Lately()
        """When the clock was set, by us and by others."""
        self._wanted = False
        """Another measurement is to follow the one that is under way."""
        self._setting = False
        self._saving = False

    @classmethod
    def _configured(cls, bus: dict[str, Any], settings: Any) -> Self:
        server = cls(**bus, settings=settings)
        server.kept = Kept(os.path.join(state_directory(server.service), "clock.json"))
        return server

    def start(self) -> None:
        """Open the channels, and measure at once."""
        self.kept.load()
        mark = self.machine.read_mark()
        self._base = self.machine.base()
        self.trusted = self.machine.trusted()
        super().start()
        if mark is not None and mark.base is not None:
            # The clock that was believed may have been set while sync did not run.
            self._base = mark.base
            self._look()
        if self.trusted == "ntp":
            self.measured = self.machine.since()
        self.call_every(WATCH, self._watch)
        self.measure()

    def stop(self) -> None:
        """Keep the time, and leave the bus."""
        if self.trusted:
            self._look()
        if self.trusted and self.facts is not None and not self._saving and not self._setting:
            try:
                self.kept.write(msgspec.structs.replace(self.kept.known, last=self.machine.wall()))
            except OSError as error:
                MDP.logger.warning("the time is not kept: %s", error)
        super().stop()

    def reload(self) -> None:
        """Measure now, or as soon as the servers may be asked again."""
        self._soon(SPACING)

    def summary(self) -> str:
        """What the clock is trusted for."""
        return f"clock trusted ({self.trusted})" if self.trusted else "measuring the clocks"

    def worker_devices(self) -> Verbs:
        """Serve ``<hostname>.sync.devices``."""
        return super().worker_devices()

    def worker_time(self) -> Verbs:
        """Serve ``<hostname>.sync.time``."""
        return TIME

    @property
    def may_set(self) -> str:
        """Why no clock may be set; empty: they may."""
        if self.settings.step == "never":
            return 'nothing is set, as step = "never" in [sync]'
        return "" if self.machine.installed else "nothing is set, as this is no installed Pi"

    def measure(self) -> None:
        """Measure all clocks, decide, and do it; harmless while that is under way."""
        if self.round is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wanted = False
        self.round = Round(self, self._last, self._measured)
        self.round.begin()

    def _measured(self, found: Round) -> None:
        self._last, self.reading = found, found.reading
        machine = self.machine
        if self._look():
            self._wanted = True
        # Who runs on this machine may have set the clock since the start.
        self.trusted = self.trusted or machine.trusted()
        consensus, problem = found.consensus()
        silence = machine.since() - self.measured - self.settings.interval
        facts = self.facts = Facts(
            base=machine.base(),
            since=machine.since(),
            trusted=self.trusted,
            ntp=consensus,
            ntp_problem=problem,
            rtc=found.reading,
            rtc_problem=found.rtc_problem,
            last=self.kept.known.last,
            keeper=found.keeper,
            may_set=self.may_set,
            rtc_set=self.kept.rtc_age(machine.clock.boot_id, machine.since()),
            steps=self._steps.count(machine.since()),
            silence=max(0.0, silence) if isfinite(silence) else 0.0,
        )
        decision = self.decision = decide(facts)
        self._sure = consensus is not None and not decision.doubt
        if self._sure:
            self.consensus, self.measured = consensus, facts.since
        self.condition("ntp", decision.doubt or decision.silence or None)
        self.condition("drift", decision.drift or None)
        weak = found.reading.weak if found.reading is not None else ""
        self.condition("rtc", (decision.rtc_doubt or weak or None) if found.reading is not None else None)
        if decision.step is not None:
            self.step(facts.base, decision.step, decision.step_source, decision.reason)
        else:
            self._stepped(None, 0.0)

    def by_hand(self, decision: Decision) -> None:
        """A clock is to be set by hand: there is no measurement until that is done."""
        self.round, self.decision, self._sure = self._last, decision, True

    def step(self, base: float, offset: float, source: str, reason: str) -> None:
        """Set the system clock; :meth:`_stepped` follows.

        :param base: the system clock less the seconds since the boot, that ``offset`` (s) is to be added to
        """
        self._setting = True
        try:
            self.in_pool(
                set_system,
                self.machine,
                base,
                offset,
                self._lead,
                done=lambda outcome, error: self._set(outcome, error, offset, source, reason),
                timeout=ACTION,
            )
        except PoolFull as error:
            self._set(None, error, offset, source, reason)

    def _set(self, outcome: Outcome | None, error: BaseException | None, left: float, source: str, reason: str) -> None:
        """What it led to; ``left`` is by how many s the clock is off when nothing was done."""
        self._setting = False
        if outcome is not None:
            since = self.machine.since()
            error, left, self._base = outcome.error, outcome.left, outcome.after
            if outcome.moved or error is None:
                self._steps.note(since)
                self._changed("system", outcome.before + since, outcome.after + since, source, reason)
            if outcome.moved and abs(left) <= LONGEST_LEAD:
                self._lead = min(max(outcome.lead, 0.0), LONGEST_LEAD)
        self._stepped(error, left)

    def _stepped(self, error: BaseException | None, left: float) -> None:
        """The system clock is as it is to be, or could not be set, and is off by ``left`` s."""
        decision = self.decision
        if error is not None:
            self._failed("the system clock", error)
            decision.trusted, decision.write_rtc = self.trusted if abs(left) <= WRONG else "", ""
            decision.reason = f"it is off by {-left:+.3f} s, and could not be set right"
        else:
            self.condition("set", None)
        self._trust(decision.trusted, decision.reason)
        found = self._last
        if decision.write_rtc and found is not None and found.rtc is not None:
            self.write_rtc(decision.write_rtc)
        else:
            self._end()

    def write_rtc(self, reason: str) -> None:
        """Set the RTC to the system clock; the round ends then."""
        found = self._last.rtc if self._last is not None else None
        before, base = self.rtc_now(), self.machine.base()
        if found is None:
            self._end()
            return

        def done(_: Any, error: BaseException | None) -> None:
            if error is None and abs(self.machine.base() - base) > JUMP:
                # To which of the two times, nobody knows.
                error = PrivilegeError("somebody has set the system clock meanwhile")
                self.reading = Reading(found.name, found.device, problem=f"it was set, and {error}")
                self.decision.rtc_doubt = self.reading.problem
            if error is not None:
                self._failed(found.name, error)
            else:
                self.condition("set RTC", None)
                known = self.kept.known
                boot, since, wall = self.machine.clock.boot_id, self.machine.since(), self.machine.wall()
                self.reading = Reading(found.name, found.device, wall, since)
                self.decision.rtc_doubt = ""
                self.condition("rtc", None)
                self.kept.known = msgspec.structs.replace(known, boot=boot, rtc_set=since)
                self._changed("rtc", before, wall, "system", reason)
                self._save(self.kept.known)
            self._end()

        try:
            self.in_pool(found.write, done=done, timeout=ACTION)
        except PoolFull as error:
            done(None, error)

    def rtc_now(self) -> float | None:
        """What the RTC says now, by its last reading (Unix, s); None when that said nothing."""
        reading = self.reading
        if reading is None or reading.time is None:
            return None
        return reading.time + self.machine.since() - reading.at

    def _failed(self, what: str, error: BaseException) -> None:
        hangs = isinstance(error, JobTimeout)
        if not hangs and not isinstance(error, OSError | PoolFull):
            self.report(error, f"setting {what}")
        name = "set" if what == "the system clock" else "set RTC"
        self.condition(name, f"{what} could not be set: {f'no end within {ACTION:g} s' if hangs else error}")

    def _changed(self, clock: str, before: float | None, after: float, source: str, reason: str) -> None:
        """A clock was set: into the log, and onto the tree."""
        told = "nothing" if before is None else date(before)
        MDP.logger.warning("%s clock set from %s to %s by %s: %s", clock, told, date(after), source, reason)
        self.change = {"clock": clock, "before": before, "after": after, "source": source, "reason": reason[:500]}
        self.event("time", self.hostname, **self.change)

    def _trust(self, source: str, reason: str) -> None:
        if source != self.trusted:
            MDP.logger.info(
                "the clock is trusted by %s" if source else "the clock is not trusted: %s", source or reason
            )
        self.trusted, self.reason = source, reason
        self.condition("clock", None if source else f"is not to be trusted: {reason}")
        try:
            self.machine.write_mark(source, self._base)
        except OSError as error:
            self.condition("mark", f"{self.machine.mark} cannot be written: {error.strerror}")
        else:
            self.condition("mark", None)
        if source and self.kept.due(self.machine.wall(), self._sure):
            self._save(msgspec.structs.replace(self.kept.known, last=self.machine.wall()))

    def _save(self, known: Known) -> None:
        """Keep what is known; a disk that does not take it is reported, and tried again in the next round."""
        self.kept.known = known
        if self._saving:
            return
        self._saving = True

        def done(_: Any, error: BaseException | None) -> None:
            self._saving = False
            self.condition("disk", None if error is None else f"the last known time is not kept: {error}")
            if error is None and known is not self.kept.known:
                self._save(self.kept.known)

        try:
            self.in_pool(self.kept.write, known, done=done)
        except PoolFull as error:
            done(None, error)

    def _end(self) -> None:
        """The round is over: say what is known, and arrange the next one."""
        found, self.round = self.round, None
        self.ended = self.machine.since()
        if "clock" not in self.devices:
            # Not sooner: there would be nothing to read.
            device = Clock({"name": "clock", "label": "System clock"})
            device.look, device.facts = lambda: values(self), lambda: status(self)
            self.add_device(device)
        self.read_soon(self.devices["clock"])
        self._tell()
        interval = self.settings.interval
        if self.decision.step is not None:
            delay = min(AFTER_STEP if self.trusted else FIRST_AGAIN, interval)
        elif found is None or not self.sources or (self.facts is not None and self.facts.ntp is not None):
            delay, self._again = interval, FIRST_AGAIN
        else:
            delay = min(self._again, interval)
            self._again = min(2 * self._again, interval)
        if self._wanted:
            delay = min(delay, self._spacing())
        if self._timer is not None:
            self._timer.cancel()
        # A fleet that was switched on at once is not to ask at once.
        self._timer = self.call_later(delay * (0.95 + os.urandom(1)[0] / 2550), self.measure)
        waiting, self.waiting = self.waiting, []
        for call in waiting:
            self.guard(call)

    def _watch(self) -> None:
        """Measure when somebody else has set the system clock."""
        if self._look():
            self._soon(self._spacing())

    def _look(self) -> bool:
        """Whether somebody else has set the system clock since the last look; if so, that is told."""
        if self._setting:
            return False
        before, self._base = self._base, self.machine.base()
        moved = self._base - before
        if abs(moved) <= LIMIT:
            return False
        self._foreign.note(self.machine.since())
        wall, keeper = self.machine.wall(), self._last.keeper if self._last is not None else ""
        self._changed("system", wall - moved, wall, keeper or "somebody", "it was not set by sync")
        if not keeper:
            self._trust("", f"somebody has set it by {moved:+.3f} s")
        return True

    def _spacing(self) -> float:
        """s between two measurements, at least, that are made because somebody else has set the clock: twice as long
        each time, so that the servers are not asked all the time while another program fights for it."""
        count = self._foreign.count(self.machine.since())
        return min(SPACING * 2.0 ** max(count - 1, 0), self.settings.interval)

    def _soon(self, spacing: float) -> None:
        """Measure now, or ``spacing`` s after the last measurement, if none is to come sooner anyway."""
        if self.round is not None:
            self._wanted = True
            return
        delay = self.ended + spacing - self.machine.since()
        if delay <= 0:
            self.measure()
        elif self._timer is None or self._timer.due > time.monotonic() + delay:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self.call_later(delay, self.measure)
