"""Variables: values that scenarios and the owner share, on the tree and over restarts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from raspy.common import MDP
from raspy.common.config import ID
from raspy.common.devices.value import flaw
from raspy.common.verbs import VerbError, json_encode
from raspy.servers.core import values

if TYPE_CHECKING:
    from raspy.servers.core.server import Core

VARIABLE = "variable"
"""The section of core's memory that they are in."""
MOST = 500
TEXT = 2000
"""Characters of a variable."""

Done = Callable[[Exception | None], None]


def check_variable(name: Any, value: Any) -> None:
    """See whether there can be such a variable.

    :raises VerbError: there cannot
    """
    if not isinstance(name, str) or ID.fullmatch(name) is None:
        raise VerbError(MDP.BAD_REQUEST, f"{str(name)[:80]!r} is no name: 1 to 63 of a-z, 0-9, _ and -")
    wrong = flaw(value) if isinstance(value, bool | int | float | str) else "is no number, text, true or false"
    if wrong or (isinstance(value, str) and len(value) > TEXT):
        raise VerbError(MDP.BAD_REQUEST, f"{name}: its value {wrong or f'has more than {TEXT} characters'}")


def check_kept(name: str, kept: Any) -> None:
    """See whether something can be what is kept of a variable.

    :raises VerbError: it cannot
    """
    if not isinstance(kept, dict) or set(kept) != {"value", "time"}:
        raise VerbError(MDP.BAD_REQUEST, f"{name[:80]!r}: a variable has value and time")
    check_variable(name, kept["value"])
    if isinstance(kept["time"], bool) or not isinstance(kept["time"], int | float):
        raise VerbError(MDP.BAD_REQUEST, f"{name}: its time must be Unix time, in s")


class Variables:
    """The variables.

    :param core: whose memory and tree they are in
    """

    def __init__(self, core: Core) -> None:
        self.core = core

    def start(self) -> None:
        """Show what was kept."""
        for name in self.all():
            self.show(name)

    def all(self) -> dict[str, Any]:
        """Value and time (Unix, s) by name."""
        return self.core.state.section(VARIABLE)

    def set(self, name: Any, value: Any, done: Done) -> None:
        """Set one; ``done`` follows when it is on the disk.

        :raises VerbError: it is none
        """
        check_variable(name, value)
        before = self.all().get(name)
        if before is None and len(self.all()) >= MOST:
            raise VerbError(MDP.BAD_REQUEST, f"there are {MOST} variables already; delete one first")
        kept = {"value": value, "time": round(time.time(), 3)}
        if isinstance(before, dict) and before.get("value") == value and type(before.get("value")) is type(value):
            # Nothing new, and no wear of the card.
            kept = before
        self._put(name, kept, done)

    def delete(self, name: str, done: Done) -> None:
        """Have one no more; ``done`` follows when that is on the disk.

        :raises VerbError: 404
        """
        if name not in self.all():
            raise VerbError(MDP.NOT_FOUND, f"no variable {name[:80]!r}")
        self._put(name, None, done)

    def show(self, name: str) -> None:
        """Have one on the tree as it is kept."""
        kept, body = self.core.state.get(VARIABLE, name), b""
        if isinstance(kept, dict) and "value" in kept:
            body = json_encode({"value": kept["value"], "time": kept.get("time", 0), "quality": "ok"})
        self.core.values.put(values.VARIABLE + name, body)
        self.core.publish(values.VARIABLE + name, body)

    def _put(self, name: str, kept: dict[str, Any] | None, done: Done) -> None:
        def written(error: Exception | None) -> None:
            if error is None:
                self.show(name)
            done(error)

        self.core.state.put({(VARIABLE, name): kept}, written)
