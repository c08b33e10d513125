"""The registry of check groups: one group per file, one function per check."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.conformance.stage import Stage

#: The modules that hold a group each, in the order in which they run; a new group is a new file and a word
#: here.
GROUP_MODULES = (
    "client",
    "worker",
    "reliability",
    "malformed",
    "mmi",
    "extensions",
    "tsp",
    "tsp_hostile",
    "tsp_extensions",
)

#: What the source asks: the words of RFC 2119, "goal" for the goals and assumptions of 7/MDP, "ours" for what
#: docs/protocol.rst alone asks.
LEVELS = ("MUST", "SHOULD", "MAY", "goal", "ours")


class CheckFailed(AssertionError):
    """The broker did not do what the statement says; the message tells what it did instead."""


class Unanswered(CheckFailed):
    """A bystander, who had nothing to do with the matter of the check, got no answer."""


class NotApplicable(Exception):
    """The check does not concern this broker; the message is the reason."""


@dataclass(frozen=True)
class Check:
    """One statement about a broker and the function that tries it."""

    id: str
    source: str
    level: str
    statement: str
    function: Callable[[Stage], None]
    settle: bool = False
    """Wait for the broker's next purge of dead workers before the verdict: some brokers die only then."""


@dataclass
class Group:
    """The checks of one file. `applies` raises NotApplicable when none of them concerns the broker.

    `bystander` raises CheckFailed when what the group is about (`party`) serves nobody any more; it is asked
    after each check.
    """

    name: str
    title: str
    applies: Callable[[Stage], None] | None = None
    bystander: Callable[[Stage], None] | None = None
    party: str = "broker"
    checks: list[Check] = field(default_factory=list)

    def check(
        self, name: str, source: str, level: str, statement: str, settle: bool = False
    ) -> Callable[[Callable[[Stage], None]], Callable[[Stage], None]]:
        """Register the decorated function as check `<group>.<name>`."""
        if level not in LEVELS:
            raise ValueError(f"level {level!r} of {name} is none of {', '.join(LEVELS)}")

        def register(function: Callable[[Stage], None]) -> Callable[[Stage], None]:
            self.add(name, source, level, statement, function, settle)
            return function

        return register

    def add(
        self,
        name: str,
        source: str,
        level: str,
        statement: str,
        function: Callable[[Stage], None],
        settle: bool = False,
    ) -> None:
        """Register `function` as check `<group>.<name>`; for checks that are made from a table."""
        self.checks.append(Check(f"{self.name}.{name}", source, level, statement, function, settle))


def groups() -> list[Group]:
    """Every group, in the order in which they run."""
    return [importlib.import_module(f"tests.conformance.{name}").GROUP for name in GROUP_MODULES]


def load_checks(pattern: str = "") -> list[tuple[Group, Check]]:
    """The checks whose id contains `pattern` (or matches it, when it holds `*` or `?`)."""
    from fnmatch import fnmatchcase

    wild = any(c in pattern for c in "*?[")
    chosen = [
        (group, check)
        for group in groups()
        for check in group.checks
        if (fnmatchcase(check.id, pattern) if wild else pattern in check.id)
    ]
    seen = {check.id for _, check in chosen}
    if len(seen) != len(chosen):
        raise ValueError("two checks have the same id")
    return chosen
