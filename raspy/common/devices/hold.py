"""How long an output is held, and who says so: of one command, and by its settings."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from raspy.common.devices.command import shown
from raspy.common.devices.errors import BadValue
from raspy.common.devices.interlock import conditions, names
from raspy.common.devices.manual import LONGEST_MODE, modes
from raspy.common.devices.settings import DeviceSettings, Log

LONGEST_LEASE = 86_400.0
"""Seconds."""
NOT_READ = -1.0
"""In place of the seconds between readings: an output has none."""
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


class OutputSettings(DeviceSettings, kw_only=True, forbid_unknown_fields=True):
    """The settings of an output: a history of it is kept unless its owner says otherwise."""

    log: Log = True
    lease: Annotated[
        float,
        Meta(
            ge=1,
            le=LONGEST_LEASE,
            title="Lease",
            description="How long a command holds that does not say for how long.",
            extra={"unit": "s"},
        ),
    ] = 60.0
    longest_on: Annotated[
        float,
        Meta(
            ge=0,
            le=2_592_000,
            title="Longest time on",
            description="It goes off after so long without a break, however often it is renewed; 0: no limit. To be "
            "off for less than a tenth of it (at most 60 s) is no break.",
            extra={"unit": "s"},
        ),
    ] = 0.0
    shortest_off: Annotated[
        float,
        Meta(
            ge=0,
            le=LONGEST_LEASE,
            title="Shortest time off",
            description="Once off, it stays off for so long.",
            extra={"unit": "s"},
        ),
    ] = 0.0

    never_with: Annotated[
        str,
        Meta(
            max_length=1000,
            title="Never on with",
            description="Names of outputs of this server, with commas between: they are never on together with it.",
        ),
    ] = ""
    only_if: Annotated[
        str,
        Meta(
            max_length=1000,
            title="On only if",
            description="Names of switches of this server, as: float, not leak. Unless all are so, it is off.",
        ),
    ] = ""
    modes: Annotated[
        str,
        Meta(
            max_length=1000,
            title="Modes",
            description="Its own ones, with what it does and for how long, as: feeding: off 10m, night: 20 % 8h.",
        ),
    ] = ""
    manual: Annotated[
        float,
        Meta(
            ge=1,
            le=LONGEST_MODE,
            title="Manual control",
            description="How long a mode holds where nobody says for how long.",
            extra={"unit": "s"},
        ),
    ] = 3600.0

    @property
    def safe_level(self) -> float:
        """The safe state, 0 (off) to 1 (on)."""
        return 0.0

    @property
    def on_level(self) -> float:
        """What on means, up to 1."""
        return 1.0

    def unfit(self, level: float) -> str:
        """Why the output cannot be at a level, 0 to 1; empty: it can. To be extended."""
        return "" if level in (0.0, 1.0) else "it is on or off, and nothing between"

    def check(self) -> dict[str, str]:
        """An output is not read; what is on in its safe state can have no longest time on."""
        errors = super().check()
        if self.poll != NOT_READ:
            errors["poll"] = f"must be -1: an output is not read (got {self.poll:g})"
        for name, parse in (("never_with", names), ("only_if", conditions), ("modes", modes)):
            try:
                parse(getattr(self, name))
            except ValueError as error:
                errors[name] = str(error)
        if "only_if" not in errors and any(
            found.device == self.name for found in conditions(self.only_if) if self.name
        ):
            errors["only_if"] = "must name other devices"
        if "modes" not in errors:
            for mode, spec in modes(self.modes).items():
                why = "" if spec.level is None else self.unfit(spec.level)
                if why:
                    errors["modes"] = f"{mode}: {why}"
        if self.safe_level:
            for name in ("never_with", "only_if"):
                if getattr(self, name):
                    errors[name] = "must be empty where the safe state is not off"
            for name in ("longest_on", "shortest_off"):
                if getattr(self, name):
                    errors[name] = f"must be 0 where the safe state is not off (got {getattr(self, name):g})"
        return errors
