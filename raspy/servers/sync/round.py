"""One measurement of all clocks, side by side on the pool's threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from raspy.common.devices.errors import ReadingError
from raspy.common.devices.source import Read
from raspy.common.pool import JobTimeout, PoolFull
from raspy.servers.sync import ntp
from raspy.servers.sync.decide import NO_RTC
from raspy.servers.sync.findrtc import find
from raspy.servers.sync.keepers import keeper
from raspy.servers.sync.ntp import Consensus, NTPError, Sample
from raspy.servers.sync.rtc import RTC, Reading
from raspy.servers.sync.sources import Source

if TYPE_CHECKING:
    from raspy.servers.sync.server import Sync

RESOLVER = 15.0
"""s that the resolver may take besides the server's own time."""
LOCAL = 10.0
"""s that the RTC, or the list of processes, may take."""
JUMP = 0.1
"""s by which the system clock must have been moved for answers from before not to count."""


class Round:
    """A measurement; ``done(round)`` follows on the loop when all of it is over.

    :param before: the round before, whose calls may hang
    """

    def __init__(self, server: Sync, before: Round | None, done: Callable[[Round], None]) -> None:
        self.server = server
        self.samples: list[Sample] = []
        self.asked = 0
        self.rtc: RTC | None = None
        self.reading: Reading | None = None
        self.rtc_problem = NO_RTC
        self.keeper: str = before.keeper if before is not None else ""
        self._done = done
        self._open = 1
        self._taken: dict[str, str] = {}
        self._reads: dict[str, Read] = dict(before._reads) if before is not None else {}

    def begin(self) -> None:
        """Ask everybody."""
        server, machine, timeout = self.server, self.server.machine, self.server.settings.timeout
        for source in server.sources:
            if source.ready(machine.since()):
                read = source.read = Read(ntp.ask)
                name = source.name, source.host, source.port
                limits = self._taken, dict(source.denied)
                self.asked += 1
                self._call(
                    read, *name, timeout, machine.wall, machine.since, *limits,
                    done=self._answered(source), timeout=timeout + RESOLVER,
                )  # fmt: skip
        self._local("rtc", self._read_rtc, self._rtc_read)
        self._local("keeper", lambda: keeper(machine), self._keeper_found)
        self._end()

    def consensus(self) -> tuple[Consensus | None, str]:
        """What the servers agree on, or why they do not."""
        sources = self.server.sources
        if not sources:
            return None, "no server is asked"
        try:
            return ntp.agree(self.samples, min(2, len(sources))), ""
        except NTPError as error:
            problems = "; ".join(f"{source.name}: {source.problem}" for source in sources if source.problem)
            return None, problems or str(error)

    def _read_rtc(self) -> tuple[RTC | None, Reading | None]:
        """On a thread."""
        found = find(self.server.settings.rtc, self.server.machine)
        return found, None if found is None else found.read()

    def _local(self, name: str, function: Callable[[], Any], done: Callable[[Any, Any], None]) -> None:
        read = self._reads.get(name)
        if read is not None and not read.over:
            done(None, ReadingError("timeout", "the call before still hangs"))
            return
        read = self._reads[name] = Read(function)
        self._call(read, done=done, timeout=LOCAL)

    def _call(self, read: Read, *words: Any, done: Callable[[Any, Any], None], timeout: float) -> None:
        self._open += 1

        def over(result: Any, error: BaseException | None) -> None:
            try:
                done(result, error)
            finally:
                self._end()

        try:
            self.server.in_pool(read.run, *words, done=over, timeout=timeout)
        except PoolFull as error:
            read.over = True
            over(None, error)

    def _answered(self, source: Source) -> Callable[[Any, Any], None]:
        def done(sample: Sample | None, error: BaseException | None) -> None:
            server = self.server
            self._note(error, f"asking {source.name}")
            if isinstance(error, JobTimeout):
                error = ReadingError("timeout", "the resolver does not answer")
            source.take(sample, error, server.machine.since(), server.settings.interval)
            if sample is not None:
                self.samples.append(sample)

        return done

    def _rtc_read(self, found: tuple[RTC | None, Reading | None] | None, error: BaseException | None) -> None:
        self._note(error, "reading the RTC")
        if found is not None:
            self.rtc, self.reading = found
        elif error is not None:
            hangs = isinstance(error, JobTimeout)
            self.rtc_problem = f"it gives no answer within {LOCAL:g} s" if hangs else str(error)
            self.reading = Reading("RTC", "", problem=self.rtc_problem)

    def _keeper_found(self, found: str | None, error: BaseException | None) -> None:
        """One that cannot be looked for is the one that was found before."""
        self._note(error, "looking for a time daemon")
        if found is not None:
            self.keeper = found

    def _note(self, error: BaseException | None, doing: str) -> None:
        if error is not None and not isinstance(error, ReadingError | JobTimeout | PoolFull):
            self.server.report(error, doing)

    def _end(self) -> None:
        self._open -= 1
        if self._open == 0:
            base = self.server.machine.base()
            self.samples = [sample for sample in self.samples if abs(sample.base - base) < JUMP]
            self._done(self)
