"""From keys and bodies of the tree to what an owner reads: one row of text for each key.

The page's template and its live updates both show these rows, so that what a value looks like is decided here
alone. Everything on the tree is taken as hostile: a body may be anything.
"""

from __future__ import annotations

import re
import time
from typing import Any

import msgspec

DEVICE = re.compile(
    r"/device/(?P<host>[a-z0-9_-]{1,63})\.(?P<server>[a-z0-9_-]{1,63})\.(?P<device>[a-z0-9_-]{1,63})"
    r"(?:\.(?P<sub>[a-z0-9_-]{1,63}))?/(?P<command>[A-Za-z0-9_.-]{1,63})"
)
EVENT = "/event/"
SERVER = re.compile(r"/server/(?P<host>[a-z0-9_-]{1,63})\.(?P<server>[a-z0-9_-]{1,63})")
SCENARIO = re.compile(r"/scenario/(?P<name>[a-z0-9_-]{1,63})")

TEXT_LIMIT = 240
"""Characters of any one text that are shown."""
KEY_LIMIT = 120
BODY_LIMIT = 65536
"""Bytes above which a body is not looked into."""
NOT_NOW = "—"
"""What stands where a number would be, when there is none for now."""
UNREACHABLE = "the bus is not reachable"

SCENARIO_STATES = {"running": "ok", "idle": "ok", "off": "ok", "stopping": "ok", "waiting": "stale", "paused": "error"}
"""How the states of scenarios look: as what is well, as what waits, as what needs its owner."""
RUNNING = ("ok", "degraded")
STOPPED = "it was stopped"
"""The broker's reason for a server that said goodbye."""

_decode = msgspec.json.Decoder().decode


class Held:
    """One key's body as it arrived.

    ``age`` was the age of its ``time`` in seconds at the monotonic time ``arrived``; from then on it grows on
    the monotonic clock, so that a wall clock that is set does not make a reading older or younger.
    """

    __slots__ = ("age", "arrived", "body", "key")

    def __init__(self, key: str, body: bytes, arrived: float, wall: float) -> None:
        self.key = key
        self.body = body
        self.arrived = arrived
        stamp = number(fields(body).get("time"))
        self.age = None if stamp is None else max(0.0, wall - stamp)

    def age_at(self, now: float) -> float | None:
        """Seconds since the body's ``time``; None: it has none."""
        return None if self.age is None else self.age + max(0.0, now - self.arrived)


class Row:
    """What is shown of one key: a state that decides the looks, texts by cell, and an age in seconds."""

    __slots__ = ("age", "cells", "key", "label", "state", "where")

    def __init__(self, key: str, state: str, label: str, age: float | None, **cells: str) -> None:
        self.key = key
        self.state = state
        self.label = label
        self.age = age
        self.cells = cells
        self.where = ""
        """The host of a server."""

    def update(self) -> dict[str, Any]:
        """The row as the page's script takes it."""
        age = None if self.age is None else round(self.age, 1)
        return {"key": self.key, "state": self.state, "age": age, "cells": self.cells}


def row(held: Held, now: float, live: bool) -> Row:
    """The row of a key.

    :param now: monotonic time, in s
    :param live: the bus is reachable; without it nothing counts as current
    """
    device = DEVICE.fullmatch(held.key)
    if device is not None:
        return device_row(held, device, now, live)
    server = SERVER.fullmatch(held.key)
    if server is not None:
        return server_row(held, server, now, live)
    scenario = SCENARIO.fullmatch(held.key)
    if scenario is not None:
        return scenario_row(held, scenario["name"], now, live)
    return other_row(held, now, live)


def device_row(held: Held, name: re.Match[str], now: float, live: bool) -> Row:
    """A reading: its number only while it is current, else what it last was and why it is not."""
    label = " ".join(part for part in (name["sub"], name["command"].replace("_", " ")) if part)
    content = fields(held.body)
    unit = clean(content["unit"], 20) if isinstance(content.get("unit"), str) else ""
    quality = content.get("quality")
    reason = clean(content["reason"]) if isinstance(content.get("reason"), str) else ""
    value = content.get("value")
    if quality == "ok" and value is not None and live:
        return Row(held.key, "ok", label, held.age_at(now), value=text(value), unit=unit, badge="ok", note=reason)
    if quality == "ok" and value is not None:
        quality, reason, content = "stale", UNREACHABLE, {"last": value}
    if quality == "stale":
        last = content.get("last")
        was = "" if last is None else f"was {text(last)} {unit}".strip()
        note = "; ".join(part for part in (was, reason or "no news") if part)
    elif quality == "error":
        note = reason or "the server gives no reason"
    else:
        quality, note = "error", f"unreadable: {summary(held.body)}"
    return Row(
        held.key,
        str(quality),
        label,
        held.age_at(now),
        value=NOT_NOW,
        unit="",
        badge=str(quality),
        note=note,
    )


def server_row(held: Held, name: re.Match[str], now: float, live: bool) -> Row:
    """A server: its state, what happened to it lately, and its facts."""
    content = fields(held.body)
    label, age = name["server"], held.age_at(now)
    given = content.get("state")
    if isinstance(given, str) and given:
        given = clean(given, 20)
        texts = {
            "story": _story(content),
            "facts": _facts(content, now - held.arrived),
            "trouble": _trouble(content),
        }
        shown = Row(held.key, given if live else "stale", label, age, badge=given if live else "unknown", **texts)
    else:
        story = f"unreadable: {summary(held.body)}"
        shown = Row(held.key, "error", label, age, badge="unknown", story=story, facts="", trouble="")
    shown.where = f"on {name['host']}"
    return shown


def scenario_row(held: Held, name: str, now: float, live: bool) -> Row:
    """A scenario: its state, and why it is in it."""
    content = fields(held.body)
    given = content.get("state")
    if not isinstance(given, str) or not given:
        story = f"unreadable: {summary(held.body)}"
        return Row(held.key, "error", name, held.age_at(now), badge="unknown", story=story, facts="")
    given = clean(given, 20)
    story = clean(content["reason"]) if isinstance(content.get("reason"), str) else ""
    since, facts = number(content.get("since")), []
    if since is not None:
        facts.append(f"since {clock(since)}")
    runs = number(content.get("runs"))
    if runs is not None:
        facts.append("1 run" if runs == 1 else f"{text(runs)} runs")
    failures = number(content.get("failures"))
    if failures:
        facts.append("1 failure" if failures == 1 else f"{text(failures)} failures")
    state = SCENARIO_STATES.get(given, "stale") if live else "stale"
    badge = given if live else "unknown"
    return Row(held.key, state, name, held.age_at(now), badge=badge, story=story, facts=" · ".join(facts))


def _story(content: dict[str, Any]) -> str:
    """What happened lately, in one sentence; empty when there is nothing to tell."""
    since = number(content.get("time"))
    down = content.get("last_down")
    down = down if isinstance(down, dict) else {}
    went, why = number(down.get("time")), clean(down["reason"]) if isinstance(down.get("reason"), str) else ""
    how = "was stopped" if why == STOPPED else f"was lost ({why})" if why else "was lost"
    if content["state"] not in RUNNING:
        what = how.removeprefix("was ") if content["state"] == "lost" else clean(content["state"], 20)
        return what if since is None else f"{what} since {clock(since)}"
    if went is None:
        return ""
    story = f"{how} at {clock(went)} and is back"
    return story if since is None or since <= went else f"{story} since {clock(since)}"


def _facts(content: dict[str, Any], elapsed: float) -> str:
    facts = []
    uptime = number(content.get("uptime"))
    if uptime is not None and content["state"] in RUNNING:
        facts.append(f"up for {duration(uptime + elapsed)}")
    restarts = number(content.get("restarts"))
    if restarts is not None:
        facts.append("1 restart" if restarts == 1 else f"{text(restarts)} restarts")
    memory = number(content.get("memory"))
    if memory:
        facts.append(f"{memory / 1e6:.1f} MB")
    errors = number(content.get("errors"))
    if errors:
        facts.append("1 error" if errors == 1 else f"{text(errors)} errors")
    if isinstance(content.get("version"), str):
        facts.append(f"version {clean(content['version'], 20)}")
    return " · ".join(facts)


def _trouble(content: dict[str, Any]) -> str:
    conditions = content.get("conditions")
    problems = list(conditions.items())[:8] if isinstance(conditions, dict) else []
    trouble = [clean(f"{name}: {problem}") for name, problem in problems]
    if isinstance(content.get("last_error"), str) and content["last_error"]:
        trouble.append(f"last error: {clean(content['last_error'])}")
    return "; ".join(trouble)


def other_row(held: Held, now: float, live: bool) -> Row:
    """Anything else on the tree, as it is."""
    state = "ok" if live else "stale"
    return Row(held.key, state, clean(held.key, KEY_LIMIT), held.age_at(now), value=summary(held.body))


def event_row(held: Held) -> Row:
    """Something that happened: when, to whom, what."""
    content = fields(held.body)
    kind, _, name = held.key.removeprefix(EVENT).partition("/")
    stamp = number(content.get("time"))
    what = clean(content["event"]) if isinstance(content.get("event"), str) else ""
    why = clean(content["reason"]) if isinstance(content.get("reason"), str) else ""
    if not content:
        what = summary(held.body)
    elif not what:
        what = clean(", ".join(f"{key} {value}" for key, value in content.items() if key not in ("time", "reason")))
    return Row(
        held.key,
        "ok",
        clean(f"{kind} {name}", KEY_LIMIT),
        None,
        when="" if stamp is None else clock(stamp),
        what=what + (f" ({why})" if why else ""),
    )


def fields(body: bytes) -> dict[str, Any]:
    """The body as a JSON object; anything else, and what is too long for a value: an empty one."""
    if len(body) > BODY_LIMIT:
        return {}
    try:
        content = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def number(value: Any) -> float | None:
    """The value when it is a number that can be calculated with."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1e15 < value < 1e15:
        return None
    return value


def text(value: Any) -> str:
    """A value as it is read: numbers with up to four decimals, switches as on and off."""
    if value is True or value is False:
        return "on" if value else "off"
    if isinstance(value, float) and (value == 0 or 1e-3 <= abs(value) < 1e12):
        digits = f"{value:.4f}".rstrip("0").rstrip(".")
        return "0" if digits == "-0" else digits
    if isinstance(value, str):
        return clean(value)
    try:
        if isinstance(value, (int, float)):
            return str(value) if isinstance(value, int) and abs(value) < 10**18 else f"{float(value):.6g}"
        return clean(msgspec.json.encode(value).decode())
    except OverflowError:
        return "a number too large to show"


def summary(body: bytes) -> str:
    """A body of any kind in one short line."""
    try:
        return clean(body[: TEXT_LIMIT * 4 + 4].decode())
    except UnicodeDecodeError as error:
        if error.start > TEXT_LIMIT:
            return clean(body[: error.start].decode())
        return f"{len(body)} bytes that are not text"


def clean(given: str, limit: int = TEXT_LIMIT) -> str:
    """Text as it may stand on a page: one line, bounded, no control characters, no changes of direction."""
    short = given[: limit + 1]
    shown = "".join(character if character.isprintable() else "·" for character in short[:limit])
    return shown + "…" if len(short) > limit else shown


def clock(stamp: float) -> str:
    """A wall time as this Pi's owner reads it: the time alone when it is of the last 12 hours."""
    try:
        local = time.localtime(stamp)
    except (OverflowError, OSError, ValueError):
        return "an unknown time"
    recent = abs(time.time() - stamp) < 12 * 3600
    return time.strftime("%H:%M:%S" if recent else "%Y-%m-%d %H:%M:%S", local)


def duration(seconds: float) -> str:
    """A span of time in its largest fitting unit. The page's script has the same rule."""
    if seconds < 60:
        return f"{max(0, int(seconds))} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min"
    if seconds < 48 * 3600:
        return f"{int(seconds // 3600)} h"
    return f"{int(seconds // 86400)} d"
