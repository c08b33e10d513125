"""Whose turn it is: the probes of several buses share a few threads, and no bus or probe that hangs takes them all.

The probes of a bus that are due are measured at once where the kernel can do that ("bulk conversion"), and then
read one by one; else each measures when it is read. One thread of the pool is always left for looking what is
plugged in.

A call that hangs keeps its thread, whatever becomes of its probe or bus. So the calls of the whole server that hang
are what is counted, and the more there are, the better must a probe be known that is still tried: one that has hung
has to wait first, one that has never answered next.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from raspy.common import MDP
from raspy.common.devices.device import MISSED_POLLS
from raspy.common.devices.errors import ReadingError
from raspy.common.devices.source import Read
from raspy.common.pool import JobTimeout, PoolFull
from raspy.servers.onewire import sysfs
from raspy.servers.onewire.probe import Probe

if TYPE_CHECKING:
    from raspy.servers.onewire import OneWire

SLOTS = 3
"""Calls under way at a time, of all buses: a thread less than the pool has."""
SUSPECTS = 8
"""Calls of the server that may hang, whosever they were, before no probe is tried again that has hung."""
STRANGERS = 24
"""The same before no probe is tried that has never come back, and no bulk conversion."""
ALL = 28
"""The same before none is tried: fewer than the pool replaces."""
BULK_RETRY = 300.0
"""Seconds after which a bulk conversion is tried again on a bus where it failed."""
GATHER = 0.05
"""Seconds that a probe which is due alone waits for others."""
FRESH = 3.0
"""Seconds for which the result of a bulk conversion is good."""


class Bus:
    """One bus master and its state."""

    __slots__ = (
        "converted",
        "converting",
        "file",
        "gather",
        "lost",
        "name",
        "problem",
        "reading",
        "retry",
        "sign",
        "waiting",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.file = ""
        """Its ``therm_bulk_read``; empty: it has none."""
        self.waiting: dict[str, float] = {}
        """Probes that are to be read, and since when (monotonic, s)."""
        self.reading: dict[str, bool] = {}
        """Probes with a call under way, and whether one of theirs hangs already."""
        self.converting: Read | None = None
        """The bulk conversion that is under way."""
        self.converted = -math.inf
        """When the last one was over (monotonic, s)."""
        self.lost: Read | None = None
        """A bulk conversion that overran its time and may not have come back."""
        self.problem = ""
        """Why no bulk conversion is tried for now."""
        self.retry = 0.0
        """When it will be (monotonic, s)."""
        self.gather = 0.0
        """Until when a probe waits for others."""
        self.sign = time.monotonic()
        """When a call of it last came back (monotonic, s)."""

    @property
    def calls(self) -> int:
        """Calls under way."""
        return len(self.reading) + (self.converting is not None)

    @property
    def fair_calls(self) -> int:
        """The same without those of probes that hung before, which all buses together have one of."""
        return self.calls - sum(self.reading.values())

    @property
    def hangs(self) -> bool:
        """A bulk conversion hangs, and may take place at any time."""
        return self.lost is not None and not self.lost.over

    @property
    def bulk(self) -> str:
        """Whether its probes are measured at once: ``yes``, or ``no`` and the reason."""
        if not self.file:
            return "no: the kernel has no therm_bulk_read for this bus"
        return f"no: {self.problem}" if self.problem else "yes"


class Buses:
    """The buses of a server, by the name of the master. Everything here is called on the loop."""

    def __init__(self, server: OneWire) -> None:
        self.server = server
        self.by_name: dict[str, Bus] = {}
        self.held = False
        """Probes are being added one after the other; nothing is begun before all are there."""
        self._beginning = False
        self._share = 1
        self._slow: dict[str, str] = {}

    def found(self, masters: dict[str, str]) -> None:
        """Take over which buses there are.

        :param masters: by name, with their ``therm_bulk_read``, empty where there is none
        """
        for name, file in masters.items():
            bus = self.by_name.setdefault(name, Bus(name))
            if not self.server.settings.bulk:
                bus.problem, bus.retry = "bulk = false in [onewire]", math.inf
            elif file != bus.file:
                bus.problem, bus.retry = "", 0.0
            bus.file = file
        used = {probe.slave.master for probe in self.server.probes() if not probe.gone}
        self._share = max(1, SLOTS + 1 - len(used))
        for name in self.by_name.keys() - masters.keys() - used:
            if not self.by_name[name].calls:
                del self.by_name[name]
                self._slow.pop(name, None)
        for bus in self.by_name.values():
            self._tell(bus)

    def of(self, probe: Probe) -> Bus:
        """The bus that a probe is on."""
        return self.by_name.setdefault(probe.slave.master, Bus(probe.slave.master))

    def in_bulk(self, bus: Bus) -> bool:
        """Whether a bulk conversion may be tried now."""
        return bool(bus.file) and time.monotonic() >= bus.retry and not bus.hangs and self._hung < STRANGERS

    def want(self, probes: Iterable[Probe]) -> None:
        """Have probes read as soon as it is their turn; one that is being read will do."""
        now = time.monotonic()
        for probe in probes:
            bus = self.of(probe)
            if probe.name not in bus.reading:
                bus.waiting.setdefault(probe.name, now)
        self.begin()

    def over(self, probe: Probe) -> None:
        """A probe was read, well or not."""
        for bus in self.by_name.values():
            bus.reading.pop(probe.name, None)
        if not probe.silent and not probe.gone:
            self.of(probe).sign = time.monotonic()
        self.begin()

    def forget(self, name: str) -> None:
        """A probe is no longer the server's."""
        for bus in self.by_name.values():
            bus.waiting.pop(name, None)
            bus.reading.pop(name, None)

    def alive(self) -> bool:
        """False when of one bus nothing has come back while some probe of it was waited for during three polls."""
        now, timeout = time.monotonic(), self.server.settings.timeout
        for bus in self.by_name.values():
            polls = [probe.poll for probe in self._probes(bus.name) if probe.silent and probe.poll > 0]
            # Time for the call that hangs, and for that of another probe that is asked then.
            if polls and now - bus.sign >= MISSED_POLLS * min(polls) + 2 * timeout:
                return False
        return True

    @property
    def _hung(self) -> int:
        """Calls of the server that hang, those of probes and buses included that are no longer there."""
        return self.server.pool.hung

    def begin(self) -> None:
        """Begin the calls for which there is a thread, of each bus in turn."""
        if self.held or self._beginning:
            return
        self._beginning = True
        try:
            while self._begin_one():
                pass
        finally:
            self._beginning = False

    def _begin_one(self) -> bool:
        for bus in list(self.by_name.values()):
            if bus.waiting and self._begin(bus):
                # to the end: the next call is another bus's
                self.by_name[bus.name] = self.by_name.pop(bus.name)
                return True
        return False

    def _begin(self, bus: Bus) -> bool:
        """Begin one call of a bus; False when there is none to begin now."""
        total = sum(other.calls for other in self.by_name.values())
        if bus.converting is not None or total >= SLOTS or bus.fair_calls >= self._share:
            return False
        now = time.monotonic()
        name = next(iter(bus.waiting))
        if not self._holds_result(bus, name, now) and self.in_bulk(bus):
            batch = [name for name in bus.waiting if self._converts(bus, name, now)]
            if len(batch) > 1:
                if bus.fair_calls:
                    return False  # they would get nothing, or what is only half measured
                self._convert(bus, batch)
                return True
            if self._gathers(bus, now):
                return False
        for name in bus.waiting:
            if self._may_read(bus, name):
                self._read(bus, name, now)
                return True
        return False

    def _holds_result(self, bus: Bus, name: str, now: float) -> bool:
        """A probe has been measured by the last bulk conversion and not been read since."""
        probe = self.server.probe(name)
        return probe is not None and probe.pending and now - bus.converted < FRESH

    def _converts(self, bus: Bus, name: str, now: float) -> bool:
        probe = self.server.probe(name)
        return (
            probe is not None
            and probe.family in sysfs.BULK_FAMILIES
            and not probe.gone
            and not self.server.hung_calls(probe)
            and not self._holds_result(bus, name, now)
        )

    def _gathers(self, bus: Bus, now: float) -> bool:
        """A probe that is alone waits a moment: others may become due, and all can be measured at once."""
        if len(bus.waiting) > 1 or len(self._probes(bus.name)) == 1:
            return False
        if not bus.gather:
            bus.gather = now + GATHER
            self.server.call_later(GATHER, self.begin)
        return now < bus.gather

    def _may_read(self, bus: Bus, name: str) -> bool:
        """Whether it is a probe's turn, be it to be refused. One that has hung is tried at a time, so that any number
        of them takes one thread."""
        probe = self.server.probe(name)
        if probe is None or probe.gone or self.server.refuses(probe) or self._hung >= self._limit(probe):
            return True
        others = self.by_name.values()
        if self.server.hung_calls(probe) and any(suspect for other in others for suspect in other.reading.values()):
            return False
        return self._hung + sum(other.calls for other in others) < self._limit(probe)

    def _limit(self, probe: Probe) -> int:
        """Calls of the server that may hang when a probe is tried: the better it is known, the more."""
        if self.server.hung_calls(probe):
            return SUSPECTS
        return ALL if probe.known else STRANGERS

    def _read(self, bus: Bus, name: str, now: float) -> None:
        since = bus.waiting.pop(name)
        bus.gather = 0.0
        probe = self.server.probe(name)
        if probe is None or probe.gone:
            return
        if self._hung >= self._limit(probe) and not self.server.refuses(probe):
            reason = f"not tried: {self._hung} calls hang, and none has come back"
            self.server.refuse(probe, ReadingError("timeout", reason))
            return
        if not self._hung:
            self._judge(bus, probe, now - since)
        bus.reading[name] = bool(self.server.hung_calls(probe))
        probe.result = "ours" if self._holds_result(bus, name, now) else "old" if bus.hangs else ""
        if self.server.begin_read(probe):
            probe.pending = False
        else:
            bus.reading.pop(name, None)

    def _convert(self, bus: Bus, batch: list[str]) -> None:
        directories = [probe.slave.directory for name in batch if (probe := self.server.probe(name))]
        timeout = self.server.settings.timeout
        bus.converting = read = Read(sysfs.convert_all)
        done = partial(self._converted, bus, read)
        try:
            self.server.in_pool(read.run, bus.file, directories, timeout * 0.8, done=done, timeout=timeout)
        except PoolFull as error:
            self._converted(bus, read, None, error)

    def _converted(self, bus: Bus, read: Read, result: None, error: BaseException | None) -> None:
        bus.converting = None
        now = time.monotonic()
        if not isinstance(error, JobTimeout | PoolFull):
            bus.sign = now
        if error is None:
            bus.converted, bus.problem = now, ""
            for probe in self._probes(bus.name):
                probe.pending = probe.family in sysfs.BULK_FAMILIES
        else:
            bus.converted, bus.retry = -math.inf, now + BULK_RETRY
            problem = str(error)
            if isinstance(error, JobTimeout):
                bus.lost = read
                problem = f"it hangs: not done in {self.server.settings.timeout:g} s"
            elif not isinstance(error, sysfs.BulkError | PoolFull):
                self.server.report(error, f"measuring the probes of {bus.name} at once")
            if problem != bus.problem:
                MDP.logger.warning("%s: no bulk conversion: %s; its probes are read one by one", bus.name, problem)
            bus.problem = problem
        self._tell(bus)
        self.begin()

    def _tell(self, bus: Bus) -> None:
        for probe in self._probes(bus.name):
            able = probe.family in sysfs.BULK_FAMILIES
            probe.how = bus.bulk if able else "no: its chip cannot"

    def _judge(self, bus: Bus, probe: Probe, waited: float) -> None:
        """Report a bus whose probes cannot all be read within their poll."""
        if waited > 2 * probe.poll > 0:
            self._slow[bus.name] = f"{bus.name}: its probes wait {waited:.0f} s for their turn; raise their poll"
        elif waited < probe.poll / 2 and bus.name in self._slow:
            del self._slow[bus.name]
        self.server.condition("slow", "; ".join(self._slow.values()) or None)

    def _probes(self, name: str) -> list[Probe]:
        return [probe for probe in self.server.probes() if probe.slave.master == name and not probe.gone]
