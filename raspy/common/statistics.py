"""Statistics of a server: small values with a name and a text, read over the bus."""

from __future__ import annotations

import os
from typing import Any, TypeVar

from raspy.common import MDP
from raspy.common.process import LAST_END, STARTS
from raspy.common.verbs import VerbError, Verbs


class SNMP:
    """One statistic.

    :param oid: its name, in parts joined by dots
    :param doc: what it counts, with its unit
    :param initial: its first value
    """

    def __init__(self, oid: str = "module.snmp.key", doc: str = "A statistic integer value", initial: Any = 0) -> None:
        self.oid = oid
        self.doc = doc
        self.value = initial

    def set(self, value: Any) -> None:
        """Set the value."""
        self.value = value


class SNMPCounter(SNMP):
    """A counter of 32 bits, which starts again at 0 when it overflows (Counter32, RFC 2578 section 7.1.6)."""

    def __init__(
        self,
        oid: str = "module.snmp.key",
        doc: str = "A statistic counter value with overflow",
        initial: int = 0,
        overflow: int = 4294967296,
    ) -> None:
        super().__init__(oid, doc, initial)
        self.overflow = overflow
        """The number at which it is 0 again."""

    def set(self, value: int = 1) -> None:
        """Add to the counter."""
        self.value = (self.value + value) % self.overflow


class SNMPFloat(SNMP):
    """A statistic with a fraction."""

    def __init__(
        self, oid: str = "module.snmp.key", doc: str = "A statistic float value", initial: float = 0.0
    ) -> None:
        super().__init__(oid, doc, initial)


class SNMPString(SNMP):
    """A statistic of text."""

    def __init__(self, oid: str = "module.snmp.key", doc: str = "A statistic string value", initial: str = "") -> None:
        super().__init__(oid, doc, initial)


def memory() -> int:
    """Proportional set size of this process in bytes (``/proc/PID/smaps_rollup``, proc_pid_smaps(5)); 0: not known."""
    try:
        with open("/proc/self/smaps_rollup", encoding="ascii") as file:
            for line in file:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def supervised() -> tuple[int, str]:
    """Which of its starts this process is, and why the one before ended, as far as its supervisor has told."""
    starts, last_end = os.environ.get(STARTS, ""), os.environ.get(LAST_END, "")
    return (int(starts) if starts.isascii() and starts.isdecimal() and len(starts) < 9 else 0), last_end


T = TypeVar("T", bound=SNMP)

STATISTICS = Verbs("statistics")


class Statistics:
    """The statistics of one server, and the worker that serves them."""

    def __init__(self) -> None:
        self._statistics: dict[str, SNMP] = {}

    def add_statistic(self, statistic: T) -> T:
        """Add a statistic and return it.

        :raises ValueError: its oid is taken
        """
        if statistic.oid in self._statistics:
            raise ValueError(f"statistic {statistic.oid} exists already")
        self._statistics[statistic.oid] = statistic
        return statistic

    def remove_statistic(self, oid: str) -> None:
        """Remove a statistic; harmless when there is none of that oid."""
        self._statistics.pop(oid, None)

    def update_statistic(self, oid: str = "") -> None:
        """Bring values that are read elsewhere up to date, one or (empty) all. To be extended."""

    def statistics(self) -> dict[str, Any]:
        """All values by oid."""
        self.update_statistic()
        return {oid: statistic.value for oid, statistic in self._statistics.items()}

    def worker_statistics(self) -> Verbs:
        """Serve ``<hostname>.<server>.statistics``."""
        return STATISTICS


@STATISTICS.verb(reads=True)
def list_keys(server: Statistics) -> list[str]:
    """The oids of all statistics."""
    return list(server._statistics)


@STATISTICS.verb(reads=True, name="all")
def all_values(server: Statistics) -> dict[str, Any]:
    """Every statistic's value, by oid."""
    return server.statistics()


@STATISTICS.verb(reads=True)
def get(server: Statistics, oid: str) -> dict[str, Any]:
    """One statistic: its oid, value and text."""
    if oid not in server._statistics:
        raise VerbError(MDP.NOT_FOUND, f"no statistic {oid[:60]!r}; list_keys names them")
    server.update_statistic(oid)
    statistic = server._statistics[oid]
    return {"oid": oid, "value": statistic.value, "doc": statistic.doc}
