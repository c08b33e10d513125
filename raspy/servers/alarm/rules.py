"""Definitions: what an alarm watches, when it is raised, and when it is over."""

from __future__ import annotations

import binascii
import math
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from raspy.common import MDP
from raspy.common.config import ID
from raspy.common.kvsimple import check_key
from raspy.common.verbs import VerbError

DEVICE, VARIABLE, SERVER, OUTPUT, SCENARIO = "/device/", "/variable/", "/server/", "/event/output/", "/scenario/"
EVENT = "/event/notify/"
"""What scenarios tell their owner."""

LONGEST_DELAY = 86_400.0
"""Seconds."""
MOST_CHANNELS = 20
MOST_BUT = 20
LONGEST_NAME = 200
"""Bytes of the name of an alarm; a longer one is cut, and told from others by a number."""
STARS = 8
"""Stars in a pattern."""

LIMITS = ("high", "low", "disk")
"""Kinds that have a limit and a hysteresis."""
DOWN, DEGRADED = "down", "degraded"
FELL, FAILED = "fell", "failed"
CHOICES = {"server": (DOWN, DEGRADED), "output": (FELL, FAILED)}
"""What ``value`` may be of kinds that have several causes; the first is that of a definition without one."""
PLACES = {
    "high": (DEVICE, VARIABLE),
    "low": (DEVICE, VARIABLE),
    "is": (DEVICE, VARIABLE),
    "stale": (DEVICE,),
    "error": (DEVICE,),
    "clock": (DEVICE,),
    "server": (SERVER,),
    "output": (OUTPUT,),
    "scenario": (SCENARIO,),
    "notify": (EVENT,),
}
"""Where the keys are that a kind can watch."""
ALL = {
    "stale": "/device/*",
    "error": "/device/*",
    "clock": "/device/*.sync.clock/trusted",
    "server": "/server/*",
    "output": "/event/output/*",
    "scenario": "/scenario/*",
    "notify": "/event/notify/*",
}
"""What a definition without a key watches."""
ITSELF = "bus"
"""The kind that watches no key: the tree of values is there."""
NOTIFY: Literal["notify"] = "notify"
"""The kind that passes on what scenarios tell: each event is one more thing to know, and nothing says that it is over.
"""
FLAPPING = ("stale", "error")
"""Kinds whose cause may come and go with each reading, and is one all the same."""

Kind = Literal["high", "low", "is", "stale", "error", "server", "clock", "disk", "output", "scenario", "notify", "bus"]
Severity = Literal["info", "warning", "critical"]

Text = Annotated[str, Meta(max_length=500)]


class RuleError(VerbError):
    """A definition that cannot be (status 400); the message names the setting and says what to do."""

    def __init__(self, reason: str) -> None:
        super().__init__(MDP.BAD_REQUEST, reason)


class AlarmSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The settings of a definition."""

    kind: Kind
    key: Text = ""
    """Which key of the tree; with ``*`` for any characters, which makes an alarm for each key that fits. Of ``disk`` a
    directory; empty: the one in which this server keeps its files."""
    but: Annotated[list[Text], Meta(max_length=MOST_BUT)] = []
    """Patterns of keys that are left out."""
    limit: float | None = None
    """Of ``high``, ``low`` and ``disk`` (%)."""
    hysteresis: Annotated[float, Meta(ge=0)] = 0.0
    """By how much it must be back, in the unit of the value."""
    value: bool | float | Annotated[str, Meta(max_length=255)] | None = None
    """Of ``is``: the value that raises it. Of ``server``: ``down`` or ``degraded``. Of ``output``: ``fell`` or
    ``failed``."""
    delay: Annotated[float, Meta(ge=0, le=LONGEST_DELAY, extra={"unit": "s"})] = 0.0
    """For how long it must be so without a break."""
    severity: Severity = "warning"
    """Of ``notify`` it is that of the event."""
    label: Annotated[str, Meta(max_length=100)] = ""
    channels: Annotated[list[Text], Meta(max_length=MOST_CHANNELS)] = []
    """Where it is told; empty: everywhere."""
    active: bool = True


class Rule:
    """A definition as it is used.

    :param name: its name
    :param settings: what :func:`parse` has checked
    :param built_in: it comes with RasPy
    """

    __slots__ = ("_but", "_pattern", "built_in", "cause", "exact", "latched", "name", "settings")

    def __init__(self, name: str, settings: AlarmSettings, built_in: bool) -> None:
        self.name = name
        self.settings = settings
        self.built_in = built_in
        self.exact = "*" not in settings.key and settings.kind not in (ITSELF, "disk")
        """It is of one key of the tree."""
        self.cause = settings.value or CHOICES[settings.kind][0] if settings.kind in CHOICES else ""
        self.latched = self.cause == FELL or settings.kind == NOTIFY
        """It is over once somebody knows."""
        self._pattern = tuple(settings.key.split("*"))
        self._but = tuple(tuple(each.split("*")) for each in settings.but)

    def fits(self, key: str) -> bool:
        """Whether it watches a key of the tree."""
        settings = self.settings
        if not settings.active or settings.kind in (ITSELF, "disk") or not fits(self._pattern, key):
            return False
        return not any(fits(each, key) for each in self._but)


def fits(parts: tuple[str, ...], key: str) -> bool:
    """Whether a key is what a pattern, split at its stars, says; takes time in proportion to the key, whatever both
    are."""
    if len(parts) == 1:
        return key == parts[0]
    if not key.startswith(parts[0]) or not key.endswith(parts[-1]):
        return False
    at, end = len(parts[0]), len(key) - len(parts[-1])
    for part in parts[1:-1]:
        found = key.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return at <= end


def parse(name: str, given: Any, host: str) -> AlarmSettings:
    """The settings of a definition, checked, with whole keys.

    :param host: this host's name, for keys that name none
    :raises RuleError: they cannot be
    """
    if ID.fullmatch(name) is None:
        raise RuleError(f"{name[:80]!r} is no name of an alarm: 1 to 63 of a-z, 0-9, _ and -")
    try:
        settings = msgspec.convert(given, AlarmSettings)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        raise RuleError(f"{name}: {str(error)[:300]}") from error
    try:
        return _checked(settings, host)
    except RuleError as error:
        raise RuleError(f"{name}: {error}") from None


def _checked(settings: AlarmSettings, host: str) -> AlarmSettings:
    kind = settings.kind
    for text in (settings.label, *settings.channels):
        if not text.isprintable():
            raise RuleError("label and channels are printable text")
    for channel in settings.channels:
        if ID.fullmatch(channel) is None:
            raise RuleError(f"channels: {channel[:60]!r} is no name of a channel: 1 to 63 of a-z, 0-9, _ and -")
    for number in (settings.limit, settings.hysteresis, settings.value):
        if isinstance(number, float) and not math.isfinite(number):
            raise RuleError("a limit, hysteresis or value is a finite number")
    if kind in LIMITS and settings.limit is None:
        raise RuleError("give it a limit, as limit=28")
    if kind not in LIMITS and (settings.limit is not None or settings.hysteresis):
        raise RuleError(f"limit and hysteresis are for {', '.join(LIMITS)}; an alarm of kind {kind} has none")
    if kind == NOTIFY and settings.delay:
        raise RuleError("what a scenario tells is told at once; an alarm of kind notify has no delay")
    if kind == "disk" and not 0 < (settings.limit or 0) <= 100:
        raise RuleError("the limit of a disk is how full it is: above 0 and at most 100 %")
    if settings.but and kind in (ITSELF, "disk"):
        raise RuleError(f"but is for what watches several keys; an alarm of kind {kind} does not")
    _check_value(settings)
    return msgspec.structs.replace(
        settings, key=_whole(settings, settings.key, host), but=[_whole(settings, each, host) for each in settings.but]
    )


def _check_value(settings: AlarmSettings) -> None:
    kind, value = settings.kind, settings.value
    if kind == "is":
        if value is None:
            raise RuleError("give it the value that raises it, as value=true")
    elif kind in CHOICES:
        if value is not None and value not in CHOICES[kind]:
            raise RuleError(f"value: of a {kind} it is {' or '.join(CHOICES[kind])}")
    elif value is not None:
        raise RuleError(f"value is for is, {' and '.join(CHOICES)}; an alarm of kind {kind} has none")


def _whole(settings: AlarmSettings, key: str, host: str) -> str:
    """The whole key, or pattern of keys, that an owner has written.

    :raises RuleError: it can be none, or none that this kind can watch
    """
    kind = settings.kind
    if kind == ITSELF:
        if key:
            raise RuleError(f"an alarm of kind {kind} has no key")
        return ""
    if kind == "disk":
        if key and (not key.startswith("/") or not key.isprintable() or "*" in key):
            raise RuleError("the key of a disk is a directory, as /var/lib, or nothing: where this server's files are")
        return key
    text = key or ALL.get(kind, "")
    places = PLACES[kind]
    if not text:
        raise RuleError("give it the key of a value, as key=fake.tank/temperature, or with stars: /device/*/contact")
    if not text.startswith("/"):
        if "." in text.partition("/")[0] or places[0] != DEVICE:
            text = places[0] + _with_host(text, host, places[0])
        else:
            raise RuleError(f"{key[:80]!r} is no key: as fake.tank/temperature, or a whole one: /variable/name")
    if not text.startswith(places) or text in places:
        raise RuleError(f"{key[:80]!r}: an alarm of kind {kind} watches keys that begin with {' or '.join(places)}")
    if places == (DEVICE,) or text.startswith(DEVICE):
        device, slash, command = text.removeprefix(DEVICE).partition("/")
        if not (slash and device and command) and "*" not in text:
            raise RuleError(f"{key[:80]!r} is no value: as server.device/command")
    if text.count("*") > STARS:
        raise RuleError(f"{key[:80]!r}: more than {STARS} stars")
    try:
        return check_key(text.encode())
    except (MDP.ProtocolError, UnicodeEncodeError) as error:
        raise RuleError(str(error)) from error


def _with_host(text: str, host: str, place: str) -> str:
    """A name that may lack the host: then it is this one."""
    name = text.partition("/")[0]
    if "*" in name or place in (SCENARIO, EVENT):
        return text
    wanted = {DEVICE: 3, OUTPUT: 3, SERVER: 2}.get(place, 0)
    return text if name.count(".") + 1 >= wanted else f"{host}.{text}"


def named(rule: Rule, key: str) -> str:
    """The name of the alarm of a definition for one key: its own, or with what the key is of behind it."""
    if rule.exact or rule.settings.kind in (ITSELF, "disk"):
        return rule.name
    for place in (DEVICE, SERVER, OUTPUT, SCENARIO, EVENT):
        if key.startswith(place):
            return short(f"{rule.name}.{key.removeprefix(place).replace('/', '.')}", key)
    return short(f"{rule.name}{key.replace('/', '.')}", key)


def short(name: str, key: str) -> str:
    """A name that fits, and is no other key's."""
    data = name.encode()
    return name if len(data) <= LONGEST_NAME else apart(data[: LONGEST_NAME - 9].decode("utf-8", "ignore"), key)


def apart(name: str, key: str) -> str:
    """A name with a number behind it that only this key has."""
    return f"{name}.{binascii.crc32(key.encode()):08x}"


def built_in() -> dict[str, AlarmSettings]:
    """The definitions that come with RasPy, by name."""
    return {
        "bus": AlarmSettings(kind="bus", delay=30.0, severity="critical", label="The broker does not answer"),
        "server": AlarmSettings(
            kind="server", key=ALL["server"], delay=120.0, severity="critical", label="A server is down"
        ),
        "degraded": AlarmSettings(
            kind="server", key=ALL["server"], value=DEGRADED, delay=300.0, label="A server has a problem"
        ),
        "stale": AlarmSettings(kind="stale", key=ALL["stale"], delay=120.0, label="A value does not come any more"),
        "error": AlarmSettings(
            kind="error",
            key=ALL["error"],
            but=["/device/*.sync.clock/*"],
            delay=120.0,
            label="A value cannot be read",
        ),
        "clock": AlarmSettings(kind="clock", key=ALL["clock"], delay=900.0, label="The clock is not to be trusted"),
        "disk": AlarmSettings(kind="disk", limit=90.0, hysteresis=2.0, delay=60.0, label="The disk is nearly full"),
        "disk-full": AlarmSettings(
            kind="disk", limit=95.0, hysteresis=1.0, delay=60.0, severity="critical", label="The disk is full"
        ),
        "output": AlarmSettings(kind="output", key=ALL["output"], label="An output fell into its safe state"),
        "output-failed": AlarmSettings(
            kind="output",
            key=ALL["output"],
            value=FAILED,
            delay=3.0,
            severity="critical",
            label="An output cannot be put into its safe state",
        ),
        "scenario": AlarmSettings(
            kind="scenario", key=ALL["scenario"], delay=60.0, label="A scenario fails, or is paused"
        ),
        "notify": AlarmSettings(kind=NOTIFY, key=ALL[NOTIFY], label="A scenario tells"),
    }
