"""The states of one alarm, as operators know them (ISA-18.2, section 10): pure, without a clock or a loop.

``normal``        nothing is wrong
``active``        something is wrong, and nobody has said yet that he knows
``acknowledged``  something is wrong, and somebody knows
``returned``      something was wrong, and nobody has said yet that he knows
``shelved``       somebody does not want to hear of it for some time, whatever it is
"""

from __future__ import annotations

import math
from typing import Any

from msgspec import Struct

from raspy.common.log import printable
from raspy.servers.alarm.message import SEVERITIES
from raspy.servers.alarm.rules import Rule

NORMAL, ACTIVE, ACKNOWLEDGED, RETURNED, SHELVED = "normal", "active", "acknowledged", "returned", "shelved"
STATES = (ACTIVE, RETURNED, ACKNOWLEDGED, SHELVED, NORMAL)
"""The most urgent first."""

READINGS = 3
"""Good readings in a row, after which one that could not be made was a single one."""
BEFORE = "; before: "
"""Between what a scenario has told last and what it told before, of which nobody knows yet."""

Content = bool | int | float | str | None


class Shelf(Struct, forbid_unknown_fields=True):
    """Until when an alarm is shelved, in all the clocks that can tell it later."""

    seconds: float
    """For how long it was to be."""
    boot: str
    """The boot in which ``end`` was found."""
    end: float
    """Seconds since that boot."""
    until: float
    """Unix time, s."""
    trusted: bool
    """Whether the wall clock was, by which ``until`` was found."""
    extended: bool = False
    """It has gone on over a boot in which nobody knew the time."""


class Kept(Struct, omit_defaults=True):
    """What outlives the server."""

    on: bool = False
    """Something is wrong."""
    unseen: bool = False
    """Nobody has acknowledged it."""
    shelf: Shelf | None = None
    since: float = 0.0
    """When it came into its state (Unix time, s)."""
    value: Content = None
    unit: str = ""
    reason: str = ""
    severity: str = ""
    """That of the event; empty: that of the definition."""
    label: str = ""
    """What the event says of itself; empty: what the definition does."""
    by: str = ""
    """Who acknowledged or shelved it."""
    mark: float | None = None
    """The time of the event that raised it, so that this one does not do it again."""
    told: str = ""
    """The state that was told last; empty: none since it was normal."""
    to_tell: str = ""
    """The state that is to be told, and was not yet."""


class Alarm:
    """One alarm: of one definition, for one key.

    :param name: its name
    :param rule: its definition
    :param key: of the tree; empty: it is of none
    """

    __slots__ = ("due", "good", "good_since", "kept", "key", "name", "pending", "raised", "rule", "shown", "thing")

    def __init__(self, name: str, rule: Rule, key: str, kept: Kept | None = None) -> None:
        self.name = name
        self.rule = rule
        self.key = key
        self.kept = kept or Kept()
        self.pending: float | None = None
        """Since when it is otherwise than :attr:`Kept.on` says (monotonic, s)."""
        self.due = 0.0
        """When that is to be believed (monotonic, s)."""
        self.shown = False
        """It is on the tree."""
        self.raised = -math.inf
        """When it was raised last (monotonic, s)."""
        self.good = 0
        """Readings since the last that was wrong, of a kind that flaps."""
        self.good_since: float | None = None
        """When the first of them came (monotonic, s)."""
        self.thing = name.removeprefix(f"{rule.name}.") if name != rule.name else ""
        """What it is of, when its definition is of several things."""

    @property
    def state(self) -> str:
        """One of :data:`STATES`."""
        kept = self.kept
        if kept.shelf is not None:
            return SHELVED
        if kept.on:
            return ACTIVE if kept.unseen else ACKNOWLEDGED
        return RETURNED if kept.unseen else NORMAL

    @property
    def place(self) -> tuple[str, str]:
        """What it is kept under: the name of its definition, and its key."""
        return self.rule.name, self.key

    @property
    def severity(self) -> str:
        """How grave it is."""
        return self.kept.severity or self.rule.settings.severity

    @property
    def label(self) -> str:
        """What it is called by people."""
        label = self.kept.label or self.rule.settings.label or self.rule.name
        return f"{label}: {self.thing}" if self.thing else label

    @property
    def idle(self) -> bool:
        """Nothing would be lost with it."""
        kept = self.kept
        return self.state == NORMAL and kept.mark is None and not kept.to_tell and self.pending is None

    def read(self, wrong: bool, now: float, again: bool) -> None:
        """A reading has come, or (again) one is looked at once more."""
        if wrong:
            self.good, self.good_since = 0, None
        else:
            self.good += not again
            self.good_since = now if self.good_since is None else self.good_since

    def well(self, now: float, back: float) -> bool:
        """Whether readings are good for so long that what was wrong before does not count any more."""
        if self.good_since is None:
            return False
        good = now - self.good_since
        return good >= back and (self.good >= READINGS or good >= self.rule.settings.delay)

    def hear(self, label: str, severity: str, text: str) -> str:
        """Somebody tells something: take up what it is called and how grave it is. What there is to tell then, which
        is all of which nobody knows yet."""
        kept = self.kept
        if not (kept.on and kept.unseen):
            kept.label, kept.severity = label, severity
            return text
        if SEVERITIES.index(severity) >= SEVERITIES.index(self.severity):
            kept.label, kept.severity = label, severity
        known = kept.reason == text or kept.reason.startswith(text + BEFORE)
        return kept.reason if known else f"{text}{BEFORE}{kept.reason}"

    def rise(self, value: Any, unit: str, reason: str) -> bool:
        """Something is wrong. Whether that is another state."""
        kept, before = self.kept, self.state
        kept.on, kept.unseen, kept.by = True, True, kept.by if kept.shelf is not None else ""
        self._note(value, unit, reason)
        return self.state != before

    def fall(self, value: Any, unit: str, reason: str, forget: bool = False) -> bool:
        """Nothing is wrong any more. Whether that is another state.

        :param forget: there is nothing left that somebody would have to know of
        """
        kept, before = self.kept, self.state
        kept.on = False
        if forget or kept.shelf is not None:
            kept.unseen = False
        self._note(value, unit, reason)
        return self.state != before

    def acknowledge(self, by: str, latched: bool) -> bool:
        """Somebody knows. Whether that is another state.

        :param latched: what was wrong is over once somebody knows
        """
        kept, before = self.kept, self.state
        if not kept.unseen or kept.shelf is not None:
            return False
        kept.unseen = False
        kept.by = by
        if latched:
            kept.on = False
        return self.state != before

    def shelve(self, shelf: Shelf, by: str) -> None:
        """Do not tell of it for some time."""
        self.kept.shelf, self.kept.by, self.kept.unseen = shelf, by, False

    def unshelve(self, by: str) -> None:
        """Tell of it again: what is wrong now is so anew."""
        kept = self.kept
        kept.shelf, kept.by = None, by
        kept.unseen = kept.on

    def _note(self, value: Any, unit: str, reason: str) -> None:
        self.kept.value = value if isinstance(value, bool | int | float | str) else None
        if isinstance(value, str):
            self.kept.value = value[:200]
        self.kept.unit, self.kept.reason = printable(unit[:40]), printable(reason[:300])
