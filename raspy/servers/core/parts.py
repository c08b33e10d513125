"""The parts of a scenario besides its code: its settings, and the entries of the tree that it knows, by name."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from raspy.common import MDP
from raspy.common.config import ID
from raspy.common.kvsimple import check_key
from raspy.common.verbs import VerbError
from raspy.servers.core.limits import Limits

FRIENDLY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
"""The name under which a scenario knows an entry."""
DEVICE = "/device/"

CODE_LIMIT = 100_000
"""Characters of the code of a scenario."""
ENTRIES = 100
"""Entries of a scenario."""
SCHEDULES = 20
"""Expressions of a schedule."""
SETTINGS_LIMIT = 20_000
"""Bytes of JSON of the settings that are given to the code."""


class PartError(VerbError):
    """A part of a scenario that cannot be (status 400); the message names the part and the field."""

    def __init__(self, reason: str) -> None:
        super().__init__(MDP.BAD_REQUEST, reason)


class Bounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a run may use; see :class:`raspy.servers.core.limits.Limits`."""

    memory: Annotated[int, Meta(ge=16, le=1024, description="MB of memory on top of what an empty run has.")] = 128
    cpu: Annotated[float, Meta(ge=0, le=60, description="Seconds of CPU in any minute; 0: no limit.")] = 10.0
    wall: Annotated[float, Meta(ge=0, le=31_536_000, description="Seconds from start to end; 0: no limit.")] = 0.0
    output: Annotated[int, Meta(ge=1000, le=10_000_000, description="Bytes printed in any minute.")] = 1_000_000

    def limits(self) -> Limits:
        """The same for the child."""
        return Limits(memory=self.memory, cpu=self.cpu, wall=self.wall, output=self.output)


class Conf(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``conf`` of a scenario."""

    active: bool = False
    """It is fired by what is said here and in the entries; else by hand only."""
    startup: bool = False
    """It runs in the background from core's start, and is started again when it fails."""
    schedule: Annotated[list[Annotated[str, Meta(max_length=200)]], Meta(max_length=SCHEDULES)] = []
    """When it is fired: cron expressions, sun events, intervals, as of a cron job."""
    misfire: Literal["once", "skip", "all"] = "once"
    """What becomes of times of the schedule that passed while nothing ran."""
    label: Annotated[str, Meta(max_length=200)] = ""
    settings: dict[str, Any] = {}
    """Given to the code as ``settings``."""
    limits: Bounds = Bounds()
    stop_grace: Annotated[float, Meta(ge=0.1, le=60, extra={"unit": "s"})] = 5.0
    """Seconds from a polite stop to a kill."""


class Fire(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, rename={"hold": "for"}):
    """A threshold that fires once: when the value has been beyond it for ``for`` seconds. It fires again only after
    the value was back by the hysteresis."""

    above: float | None = None
    below: float | None = None
    hysteresis: Annotated[float, Meta(ge=0)] = 0.0
    hold: Annotated[float, Meta(ge=0, le=86_400)] = 0.0

    def __post_init__(self) -> None:
        if (self.above is None) == (self.below is None):
            raise ValueError("a threshold has either above or below")

    def beyond(self, value: float) -> bool:
        """Whether a value is beyond it."""
        return value > self.above if self.above is not None else value < (self.below or 0.0)

    def back(self, value: float) -> bool:
        """Whether a value is back by the hysteresis."""
        if self.above is not None:
            return value <= self.above - self.hysteresis
        return value >= (self.below or 0.0) + self.hysteresis


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One entry: a key of the tree, and whether it fires the scenario."""

    key: Annotated[str, Meta(min_length=1, max_length=500)]
    fire: Literal["change"] | Fire | None = None


def parse_conf(conf: Any) -> Conf:
    """The settings in a JSON object.

    :raises PartError: they are not good
    """
    try:
        found = msgspec.convert(conf, Conf)
        size = len(msgspec.json.encode(found.settings))
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        raise PartError(f"conf: {_words(error)}") from error
    if size > SETTINGS_LIMIT:
        raise PartError(f"conf: its settings are {size} bytes of JSON; they may be {SETTINGS_LIMIT}")
    return found


def parse_entries(entries: Any, host: str) -> dict[str, Entry]:
    """The entries in a JSON object, by friendly name, with whole keys.

    :param host: this host's name, for keys that name none
    :raises PartError: they are not good
    """
    if not isinstance(entries, dict):
        raise PartError("entries: must be an object of names and keys")
    if len(entries) > ENTRIES:
        raise PartError(f"entries: {len(entries)} are more than {ENTRIES}")
    found = {}
    for name, given in entries.items():
        if not isinstance(name, str) or FRIENDLY.fullmatch(name) is None:
            raise PartError(f"entries: {str(name)[:60]!r} is no name: letters, digits and _, no digit first")
        try:
            entry = msgspec.convert({"key": given} if isinstance(given, str) else given, Entry)
            found[name] = msgspec.structs.replace(entry, key=whole_key(entry.key, host))
        except (msgspec.MsgspecError, ValueError, TypeError) as error:
            raise PartError(f"entries: {name}: {_words(error)}") from error
    return found


def check_code(code: Any) -> str:
    """The code of a scenario, which is not looked into.

    :raises PartError: it is no text, or too long
    """
    if not isinstance(code, str) or len(code) > CODE_LIMIT or "\0" in code:
        raise PartError(f"code: must be text of at most {CODE_LIMIT} characters, without NUL")
    return code


def check_part(part: str, value: Any, host: str) -> None:
    """See whether a value can be a part of a scenario.

    :raises PartError: it cannot, or there is no such part
    """
    if part == "code":
        check_code(value)
    elif part == "conf":
        parse_conf(value)
    elif part == "entries":
        parse_entries(value, host)
    else:
        raise PartError(f"{part[:40]}: a scenario has conf, entries and code")


def whole_key(key: str, host: str) -> str:
    """The key of the tree that a short one means: ``onewire.tank/temperature`` is this host's.

    :raises PartError: there can be no such key
    """
    text = key
    if not key.startswith("/"):
        device, slash, command = key.partition("/")
        if not slash or not command or "." not in device:
            raise PartError(
                f"{key[:80]!r} is no key: as /variable/name, or server.device/command with or without the host"
            )
        text = f"{DEVICE}{whole_device(device, host)}/{command}"
    try:
        return check_key(text.encode())
    except (MDP.ProtocolError, UnicodeEncodeError) as error:
        raise PartError(str(error)) from error


def whole_device(device: str, host: str) -> str:
    """``<host>.<server>.<device>[.<subdevice>]`` for a name that may lack the host: then it is this one.

    :raises PartError: it is no name of a device
    """
    parts = device.split(".")
    if len(parts) == 2:
        parts.insert(0, host)
    if not 3 <= len(parts) <= 4 or not all(ID.fullmatch(part) for part in parts):
        raise PartError(f"{device[:80]!r} is no device: as server.device or host.server.device")
    return ".".join(parts)


def device_of(key: str) -> str | None:
    """The device that a key of the tree is a value of; None when it is of none."""
    if not key.startswith(DEVICE):
        return None
    device, slash, _ = key.removeprefix(DEVICE).partition("/")
    return device if device and slash else None


def _words(error: Exception) -> str:
    return str(error)[:300]
