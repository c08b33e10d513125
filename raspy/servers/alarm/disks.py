"""How full disks are: what the alarms of kind ``disk`` watch."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from raspy.common.pool import PoolFull
from raspy.servers.alarm.causes import UNKNOWN, Verdict, beyond
from raspy.servers.alarm.rules import Rule

if TYPE_CHECKING:
    from raspy.servers.alarm.server import Alarm

LOOKS = 60.0
"""Seconds between looks."""
PATIENCE = 30.0
"""Seconds that a file system may take to answer."""
MOST_ASKED = 8
"""File systems that are asked at a time: each that hangs takes a thread."""


def used(directory: str) -> float:
    """How full the file system of a directory is, in %, as df(1) tells it: of the room that anybody may fill.

    :raises OSError: it cannot be asked
    """
    found = os.statvfs(directory)
    taken = found.f_blocks - found.f_bfree
    room = taken + found.f_bavail
    return round(100 * taken / room, 1) if room else 0.0


class Disks:
    """Looks at disks.

    :param server: whose pool and definitions are used
    :param own: the directory of this server's files
    """

    def __init__(self, server: Alarm, own: str) -> None:
        self.server = server
        self.own = own
        self.every = LOOKS
        self.patience = PATIENCE
        self._found: dict[str, float | str] = {}
        """How full (%), or why that is not known, by directory."""
        self._asked: set[str] = set()
        """Those that have not answered yet, however long ago they were asked."""
        self._hung: set[str] = set()
        """Those of them that should have."""
        self._waiting: dict[str, None] = {}

    def start(self) -> None:
        """Begin to look."""
        self.server.call_every(self.every, self.look)
        self.look()

    def look(self) -> None:
        """Look at all disks that a definition watches, on threads: one that hangs holds up nobody."""
        for directory in {self._place(rule) for rule in self._rules()} - self._asked:
            self._waiting[directory] = None
        self._go_on()

    def judge(self, rule: Rule, engaged: bool) -> Verdict:
        """Whether a disk is as full as a definition says."""
        directory = self._place(rule)
        found = self._found.get(directory)
        if found is None:
            return UNKNOWN
        if isinstance(found, str):
            return Verdict(True, None, "", found)
        verdict = beyond(rule, found, "%", engaged)
        verdict.reason = f"{directory} is {found:g} % full, more than {rule.settings.limit:g} %"
        return verdict

    def _rules(self) -> list[Rule]:
        return [
            rule for rule in self.server.watch.rules.values() if rule.settings.kind == "disk" and rule.settings.active
        ]

    def _place(self, rule: Rule) -> str:
        return rule.settings.key or self.own

    def _go_on(self) -> None:
        while self._waiting and len(self._asked) < MOST_ASKED:
            directory = next(iter(self._waiting))
            del self._waiting[directory]
            self._ask(directory)
        if len(self._hung) >= MOST_ASKED:
            waiting, self._waiting = self._waiting, {}
            for directory in waiting:
                self._take(directory, f"{directory} was not looked at: {MOST_ASKED} other disks do not answer")

    def _ask(self, directory: str) -> None:
        def look() -> float:
            try:
                return used(directory)
            finally:
                # Its thread is there for others now, which is all that counts for one that has hung.
                self.server.call_threadsafe(self._back, directory)

        def done(found: float | None, error: BaseException | None) -> None:
            if isinstance(error, PoolFull):
                self._back(directory)
            elif error is not None or found is None:
                self._hung |= {directory} & self._asked
                reason = getattr(error, "strerror", None) or f"no answer in {self.patience:g} s"
                self._take(directory, f"{directory} cannot be looked at: {reason}")
                self._go_on()
            else:
                self._take(directory, found)

        self._asked.add(directory)
        try:
            self.server.in_pool(look, done=done, timeout=self.patience)
        except PoolFull as error:
            done(None, error)

    def _back(self, directory: str) -> None:
        """Nothing is asked of it any more."""
        self._asked.discard(directory)
        self._hung.discard(directory)
        if not self.server.stopping:
            self._go_on()

    def _take(self, directory: str, found: float | str) -> None:
        self._found[directory] = found
        self._judge(directory)

    def _judge(self, directory: str) -> None:
        book = self.server.book
        for rule in self._rules():
            if self._place(rule) == directory:
                alarm = book.find(rule, rule.settings.key)
                book.judged(rule, rule.settings.key, self.judge(rule, alarm is not None and alarm.kept.on))

    def summary(self) -> dict[str, Any]:
        """How full each is."""
        return dict(self._found)
