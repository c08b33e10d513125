"""A vote: one temperature from several probes of this server, and an error when they contradict each other."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from raspy.common.devices.command import Command, shown
from raspy.common.devices.device import BaseDevice, DeviceSettings
from raspy.common.devices.errors import ReadingError
from raspy.common.devices.sensor import SensorSettings, SensorTemperature
from raspy.servers.onewire import reader
from raspy.servers.onewire.probe import Probe

MEMBERS = 16


class VoteSettings(SensorSettings, kw_only=True, forbid_unknown_fields=True):
    """The settings of a vote."""

    poll: Annotated[
        float,
        Meta(
            ge=0,
            le=86400,
            title="Poll",
            description="Seconds within which it is published, which it is whenever its probes were read. 0: not.",
            extra={"unit": "s"},
        ),
    ] = 10.0
    probes: Annotated[
        str,
        Meta(max_length=400, title="Probes", description="Ids of probes of this server, with spaces between."),
    ] = ""
    method: Annotated[
        Literal["median", "agreement"],
        Meta(
            title="Method",
            description="median: the middle one, or the mean of the two, none further from it than the limit; "
            "agreement: the mean, no two further apart than the limit.",
        ),
    ] = "median"
    limit: Annotated[
        float,
        Meta(ge=0.1, le=50, title="Limit", description="How far they may differ.", extra={"unit": "°C"}),
    ] = 1.0
    quorum: Annotated[int, Meta(ge=1, le=MEMBERS, title="Quorum", description="How many must have been read well.")] = 2

    @property
    def members(self) -> list[str]:
        """The ids of the probes."""
        return self.probes.lower().replace(",", " ").split()

    def check(self) -> dict[str, str]:
        """The probes must be thermometers, each there once, and as many as the quorum."""
        errors = super().check()
        members = self.members
        match = reader.ENTRY.fullmatch(self.name)
        if match is not None:
            errors["name"] = "is the id of a probe; a vote needs a name of its own, as tank"
        strange = [name for name in members if not reader.is_probe(name)]
        if strange:
            errors["probes"] = f"{shown(strange[0])} is not the id of a thermometer, as 28-031655c9d5ff"
        elif len(set(members)) < len(members):
            errors["probes"] = "names a probe twice"
        elif not 2 <= len(members) <= MEMBERS:
            errors["probes"] = f"must be 2 to {MEMBERS} probes (got {len(members)})"
        elif self.quorum > len(members):
            errors["quorum"] = f"is more than there are probes ({len(members)})"
        return errors


class Vote(SensorTemperature):
    """One temperature out of several probes: their median, or what they agree on."""

    oid: ClassVar[str] = "sensor.vote"
    Settings: ClassVar[type[DeviceSettings]] = VoteSettings
    config: VoteSettings

    def __init__(self, json: str | bytes | Mapping[str, Any] | None = None) -> None:
        self.devices: Mapping[str, BaseDevice] = {}
        """The devices of the server."""
        self.seen: set[str] = set()
        """Members that were read since the last vote."""
        self.used: list[str] = []
        """Members whose reading counted in the last vote."""
        self.left_out: dict[str, str] = {}
        """Members whose reading did not, and why."""
        self.age = 0.0
        """Seconds that the oldest reading which counted was old then."""
        self.good_until = math.inf
        """When the first of the readings that counted is too old to count again (monotonic, s)."""
        super().__init__(json)

    def complete(self, name: str) -> bool:
        """Note that a probe was read; whether all members that can be have been since the last vote."""
        members = self.config.members
        if name not in members:
            return False
        self.seen.add(name)
        return all(member in self.seen for member in members if self._polled(member))

    @property
    def early(self) -> bool:
        """A member has not been read at all yet."""
        members = filter(self._polled, self.config.members)
        return any(self.devices[name].commands["temperature"].reading is None for name in members)

    def do_poll(self) -> dict[str, float]:
        """Count the votes; what is not fresh and good is left out."""
        self.seen = set()
        good: dict[str, float] = {}
        self.left_out = {}
        self.age, self.good_until = 0.0, math.inf
        now = time.monotonic()
        for name in self.config.members:
            found = self._reading(name, now)
            if isinstance(found, str):
                self.left_out[name] = found
            else:
                good[name], age, left = found
                self.age, self.good_until = max(self.age, age), min(self.good_until, now + left)
        self.used = list(good)
        if len(good) < self.config.quorum:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self.left_out.items())
            raise ReadingError("quorum", f"{len(good)} of {self.config.quorum} good readings: {reasons}")
        return {"temperature": _count(good, self.config.method, self.config.limit)}

    def update(self, readings: Mapping[str, Any] | BaseException) -> list[Command]:
        """Take the result, which is as old as the oldest reading that counted: to vote makes nothing newer."""
        changed = super().update(readings)
        for command in changed:
            if command.reading is not None and command.reading.quality == "ok":
                measured = round(command.reading.time - self.age, 3)
                command.update(msgspec.structs.replace(command.reading, time=measured))
        return changed

    def details(self) -> dict[str, Any]:
        """Whose readings counted, and whose did not and why."""
        return {"used": self.used, "left_out": self.left_out}

    def _polled(self, name: str) -> bool:
        device = self.devices.get(name)
        return isinstance(device, Probe) and device.poll > 0

    def _reading(self, name: str, now: float) -> tuple[float, float, float] | str:
        """What a member says, how old that is and for how long it counts yet (s), or why it does not count."""
        probe = self.devices.get(name)
        if not isinstance(probe, Probe):
            return "not on this server"
        reading = probe.commands["temperature"].reading
        if reading is None:
            return "not read yet"
        if reading.quality != "ok":
            return str(reading.reason or reading.quality)
        # A member that is read less often than the vote must not make it so old that nobody believes it.
        age = now - probe.last_at
        left = min(probe.max_age, self.max_age) - age
        return (reading.number(), age, left) if left > 0 else "its last reading is too old"


def _count(good: Mapping[str, float], method: str, limit: float) -> float:
    """The result of a vote.

    :raises ReadingError: they differ by more than the limit
    """
    ordered = sorted(good, key=good.__getitem__)
    if method == "agreement":
        _compare(ordered[0], ordered[-1], good, limit)
        return round(sum(good.values()) / len(good), 4)
    low, high = ordered[(len(good) - 1) // 2], ordered[len(good) // 2]
    _compare(low, high, good, limit)
    median = (good[low] + good[high]) / 2
    off = [f"{name} ({degrees:g} °C)" for name, degrees in good.items() if abs(degrees - median) > limit]
    if off:
        raise ReadingError(
            "differ", f"{', '.join(off)} differ by more than {limit:g} °C from the median ({median:g} °C)"
        )
    return round(median, 4)


def _compare(low: str, high: str, good: Mapping[str, float], limit: float) -> None:
    if good[high] - good[low] > limit:
        raise ReadingError(
            "differ", f"{low} ({good[low]:g} °C) and {high} ({good[high]:g} °C) differ by more than {limit:g} °C"
        )
