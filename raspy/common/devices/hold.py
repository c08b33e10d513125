"""How long an output is held, and who says so."""

from __future__ import annotations

import msgspec

from raspy.common.devices.command import shown
from raspy.common.devices.errors import BadValue

LONGEST_LEASE = 86_400.0
"""Seconds."""
BY_LIMIT = 100
"""Characters that name a holder."""


class Hold(msgspec.Struct, frozen=True):
    """For how long an output is to be held, and who says so.

    :raises BadValue: a field is out of its bounds
    """

    seconds: float | None = None
    """Above 0 and at most 86400; None: as the output's settings say."""
    by: str = ""
    """Who holds it, for events and pages; at most 100 characters."""

    def __post_init__(self) -> None:
        seconds = self.seconds
        if seconds is not None and (isinstance(seconds, bool) or not 0 < seconds <= LONGEST_LEASE):
            raise BadValue(f"seconds: {shown(seconds)} is not above 0 and at most {LONGEST_LEASE:g}")
        if len(self.by) > BY_LIMIT or not self.by.isprintable():
            raise BadValue(f"by: {shown(self.by)} is not one line of at most {BY_LIMIT} characters")

    @classmethod
    def from_text(cls, seconds: str = "", by: str = "") -> Hold:
        """The hold that two texts describe; empty ``seconds``: as the output's settings say.

        :raises BadValue: they describe none
        """
        try:
            number = float(seconds[:40]) if seconds else None
        except ValueError:
            raise BadValue(f"seconds: {shown(seconds)} is not a number") from None
        return cls(number, by)
