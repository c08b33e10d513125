"""From keys and bodies of the tree to what an owner reads: one row of text for each key.

The page's template and its live updates both show these rows, so that what a value looks like is decided here
alone. Everything on the tree is taken as hostile: a body may be anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from raspy.web.texts import ENGLISH, KEY_LIMIT, clean, clock, duration, fields, number, summary, text
from raspy.web.words import Words

DEVICE = re.compile(
    r"/device/(?P<host>[a-z0-9_-]{1,63})\.(?P<server>[a-z0-9_-]{1,63})\.(?P<device>[a-z0-9_-]{1,63})"
    r"(?:\.(?P<sub>[a-z0-9_-]{1,63}))?/(?P<command>[A-Za-z0-9_.-]{1,63})"
)
EVENT = "/event/"
SERVER = re.compile(r"/server/(?P<host>[a-z0-9_-]{1,63})\.(?P<server>[a-z0-9_-]{1,63})")
SCENARIO = re.compile(r"/scenario/(?P<name>[a-z0-9_-]{1,63})")
ALARM = "/alarm/"
OUTPUT_EVENT = "/event/output/"
MODE, MODE_END = "/mode", "/mode_end"
"""What an output has on the tree of its mode: its name, and when it ends (Unix time, s; 0: it does not)."""
AUTO = "auto"

NOT_NOW = "—"
"""What stands where a number would be, when there is none for now."""
UNREACHABLE = "the bus is not reachable"

SCENARIO_STATES = {"running": "ok", "idle": "ok", "off": "ok", "stopping": "ok", "waiting": "stale", "paused": "error"}
"""How the states of scenarios look: as what is well, as what waits, as what needs its owner."""
SEVERITIES = {"critical": "error", "warning": "stale", "info": "ok"}
"""How severe an alarm is, the worst first, and how one looks that nobody has seen to."""
ALARM_STATES = ("active", "returned", "acknowledged", "shelved")
"""What an alarm may be in, that which wants its owner most first."""
RUNNING = ("ok", "degraded")
STOPPED = "it was stopped"
"""The broker's reason for a server that said goodbye."""


class Held:
    """One key's body as it arrived.

    ``age`` was the age of its ``time`` in seconds at the monotonic time ``arrived``; from then on it grows on
    the monotonic clock, so that a wall clock that is set does not make a reading older or younger.
    """

    __slots__ = ("age", "arrived", "body", "key", "logged", "max_age", "number")

    def __init__(self, key: str, body: bytes, arrived: float, wall: float) -> None:
        content = fields(body)
        self.key = key
        self.body = body
        self.arrived = arrived
        stamp = number(content.get("time"))
        self.age = None if stamp is None else max(0.0, wall - stamp)
        self.number = number(content.get("value")) if content.get("quality") == "ok" else None
        """A good reading, if it is a number."""
        self.max_age = number(content.get("max_age")) or 0.0
        """Seconds for which it stands."""
        self.logged = content.get("log") is True
        """Its history is kept."""

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


def row(held: Held, now: float, live: bool, tree: Mapping[str, Held], t: Words = ENGLISH) -> Row:
    """The row of a key.

    :param now: monotonic time, in s
    :param live: the bus is reachable; without it nothing counts as current
    :param tree: all that there is
    :param t: the language
    """
    device = DEVICE.fullmatch(held.key)
    if device is not None:
        shown = device_row(held, device, now, live, t)
        return mode_row(shown, output_of(held.key), tree, t) if is_mode(held.key, tree) else shown
    if held.key.startswith(ALARM):
        return alarm_row(held, now, live, t)
    server = SERVER.fullmatch(held.key)
    if server is not None:
        return server_row(held, server, now, live, t)
    scenario = SCENARIO.fullmatch(held.key)
    if scenario is not None:
        return scenario_row(held, scenario["name"], now, live, t)
    return other_row(held, now, live)


@lru_cache(maxsize=8)
def words(t: Words) -> dict[str, str]:
    """The words of ours that stand on the tree, in a language; what is not among them is shown as it is."""
    return {
        "ok": t("ok"),
        "stale": t("stale"),
        "error": t("error"),
        "unknown": t("unknown"),
        "active": t("active"),
        "returned": t("returned"),
        "acknowledged": t("acknowledged"),
        "shelved": t("shelved"),
        "critical": t("critical"),
        "warning": t("warning"),
        "info": t("info"),
        "running": t("running"),
        "idle": t("idle"),
        "off": t("off"),
        "on": t("on"),
        "auto": t("auto"),
        "stopping": t("stopping"),
        "waiting": t("waiting"),
        "paused": t("paused"),
        "degraded": t("degraded"),
        "lost": t("lost"),
        "stopped": t("stopped"),
        UNREACHABLE: t("the bus is not reachable"),
    }


def word(known: str, t: Words) -> str:
    """A word of the tree as an owner reads it."""
    return words(t).get(known, known)


def device_row(held: Held, name: re.Match[str], now: float, live: bool, t: Words = ENGLISH) -> Row:
    """A reading: its number only while it is current, else what it last was and why it is not."""
    label = name["command"].replace("_", " ")
    if name["sub"] and name["sub"] != name["command"]:
        label = f"{name['sub']} {label}"
    content = fields(held.body)
    unit = clean(content["unit"], 20) if isinstance(content.get("unit"), str) else ""
    quality = content.get("quality")
    reason = clean(content["reason"]) if isinstance(content.get("reason"), str) else ""
    value = content.get("value")
    if quality == "ok" and value is not None and live:
        shown = text(value, t)
        return Row(held.key, "ok", label, held.age_at(now), value=shown, unit=unit, badge=word("ok", t), note=reason)
    if quality == "ok" and value is not None:
        quality, reason, content = "stale", word(UNREACHABLE, t), {"last": value}
    if quality == "stale":
        last = content.get("last")
        was = "" if last is None else t("was {value}", value=f"{text(last, t)} {unit}".strip())
        note = "; ".join(part for part in (was, reason or t("no news")) if part)
    elif quality == "error":
        note = reason or t("the server gives no reason")
    else:
        quality, note = "error", t("unreadable: {body}", body=summary(held.body))
    return Row(
        held.key,
        str(quality),
        label,
        held.age_at(now),
        value=NOT_NOW,
        unit="",
        badge=word(str(quality), t),
        note=note,
    )


def is_mode(key: str, tree: Mapping[str, Held]) -> bool:
    """Whether a key has the mode of an output."""
    return key.endswith(MODE) and key.removesuffix(MODE) + MODE_END in tree


def is_mode_end(key: str, tree: Mapping[str, Held]) -> bool:
    """Whether a key has when the mode of an output ends, which is shown with the mode."""
    return key.endswith(MODE_END) and key.removesuffix(MODE_END) + MODE in tree


def output_of(key: str) -> str:
    """The whole name of the device that a key is of."""
    return key.removeprefix("/device/").partition("/")[0]


def mode_row(shown: Row, output: str, tree: Mapping[str, Held], t: Words = ENGLISH) -> Row:
    """The mode of an output: until when it holds, and by whom, as far as the tree tells."""
    mode = shown.cells["value"]
    shown.label = t("mode") if shown.label == MODE[1:] else shown.label
    if shown.state != "ok":
        return shown
    shown.cells["value"] = word(mode, t)
    if mode == AUTO:
        return shown
    end = number(fields(tree[f"/device/{output}{MODE_END}"].body).get("value"))
    notes = [t("until {time}", time=clock(end))] if end else []
    event = tree.get(OUTPUT_EVENT + output)
    told = fields(event.body) if event is not None else {}
    if told.get("mode") == mode and isinstance(told.get("by"), str) and told["by"]:
        notes.append(t("by {name}", name=clean(told["by"], 60)))
    shown.state, shown.cells["badge"], shown.cells["note"] = "manual", t("by hand"), ", ".join(notes)
    return shown


def alarm_row(held: Held, now: float, live: bool, t: Words = ENGLISH) -> Row:
    """An alarm: what it is about, why, since when, and who has seen to it."""
    content = fields(held.body)
    name = held.key.removeprefix(ALARM)
    label = content["label"] if isinstance(content.get("label"), str) and content["label"] else name
    given = content.get("state")
    if given not in ALARM_STATES:
        return _unreadable(held, clean(name, KEY_LIMIT), now, t)
    value = content.get("value")
    unit = clean(content["unit"], 20) if isinstance(content.get("unit"), str) else ""
    reason = clean(content["reason"]) if isinstance(content.get("reason"), str) else ""
    measured = "" if value is None else f"{text(value, t)} {unit}".strip()
    severity = severity_of(content)
    facts = [word(severity, t)]
    since, until = number(content.get("since")), number(content.get("until"))
    if since:
        facts.append(t("since {time}", time=clock(since)))
    if until:
        facts.append(t("until {time}", time=clock(until)))
    if isinstance(content.get("by"), str) and content["by"]:
        facts.append(t("by {name}", name=clean(content["by"], 60)))
    seen = given in ALARM_STATES[2:]
    state = ("ok" if seen else SEVERITIES[severity]) if live else "stale"
    story = ": ".join(part for part in (reason, measured) if part)
    badge = word(given if live else "unknown", t)
    age = held.age_at(now)
    return Row(held.key, state, clean(label, KEY_LIMIT), age, badge=badge, story=story, facts=" · ".join(facts))


def _unreadable(held: Held, label: str, now: float, t: Words, **more: str) -> Row:
    story = t("unreadable: {body}", body=summary(held.body))
    return Row(held.key, "error", label, held.age_at(now), badge=word("unknown", t), story=story, facts="", **more)


def severity_of(content: dict[str, Any]) -> str:
    """How severe an alarm is; the worst when it does not say so in a word of ours."""
    severity = content.get("severity")
    return severity if isinstance(severity, str) and severity in SEVERITIES else "critical"


def urgency(held: Held) -> tuple[bool, int, int, float, str]:
    """The place of an alarm among others: those that nobody has seen to, of these the worst first, then the newest."""
    content = fields(held.body)
    state = content.get("state")
    return (
        state in ALARM_STATES[2:],
        list(SEVERITIES).index(severity_of(content)),
        ALARM_STATES.index(state) if state in ALARM_STATES else 0,
        -(number(content.get("since")) or 0.0),
        held.key,
    )


def server_row(held: Held, name: re.Match[str], now: float, live: bool, t: Words = ENGLISH) -> Row:
    """A server: its state, what happened to it lately, and its facts."""
    content = fields(held.body)
    label, age = name["server"], held.age_at(now)
    given = content.get("state")
    if isinstance(given, str) and given:
        given = clean(given, 20)
        texts = {
            "story": _story(content, t),
            "facts": _facts(content, now - held.arrived, t),
            "trouble": _trouble(content, t),
        }
        badge = word(given if live else "unknown", t)
        shown = Row(held.key, given if live else "stale", label, age, badge=badge, **texts)
    else:
        shown = _unreadable(held, label, now, t, trouble="")
    shown.where = t("on {host}", host=name["host"])
    return shown


def scenario_row(held: Held, name: str, now: float, live: bool, t: Words = ENGLISH) -> Row:
    """A scenario: its state, and why it is in it."""
    content = fields(held.body)
    given = content.get("state")
    if not isinstance(given, str) or not given:
        return _unreadable(held, name, now, t)
    given = clean(given, 20)
    story = clean(content["reason"]) if isinstance(content.get("reason"), str) else ""
    since, facts = number(content.get("since")), []
    if since is not None:
        facts.append(t("since {time}", time=clock(since)))
    runs = number(content.get("runs"))
    if runs is not None:
        facts.append(t("1 run") if runs == 1 else t("{count} runs", count=text(runs)))
    failures = number(content.get("failures"))
    if failures:
        facts.append(t("1 failure") if failures == 1 else t("{count} failures", count=text(failures)))
    facts += _last_run(content.get("last"), t)
    state = SCENARIO_STATES.get(given, "stale") if live else "stale"
    badge = word(given if live else "unknown", t)
    return Row(held.key, state, name, held.age_at(now), badge=badge, story=story, facts=" · ".join(facts))


def _last_run(last: Any, t: Words) -> list[str]:
    """When and how the last run of a scenario ended, and at which line of its code."""
    told = last if isinstance(last, dict) else {}
    ended, line = number(told.get("time")), number(told.get("line"))
    if ended is None:
        return []
    facts = [t("last run {time}: {how}", time=clock(ended), how=clean(str(told.get("how", "")), 20))]
    return facts + ([t("line {line}", line=int(line))] if line else [])


def _story(content: dict[str, Any], t: Words) -> str:
    """What happened lately, in one sentence; empty when there is nothing to tell."""
    since = number(content.get("time"))
    down = content.get("last_down")
    down = down if isinstance(down, dict) else {}
    went, why = number(down.get("time")), clean(down["reason"]) if isinstance(down.get("reason"), str) else ""
    if content["state"] not in RUNNING:
        what = clean(content["state"], 20)
        if content["state"] == "lost":
            what = t("stopped") if why == STOPPED else t("lost ({why})", why=why) if why else t("lost")
        return what if since is None else t("{what} since {time}", what=what, time=clock(since))
    if went is None:
        return ""
    when = clock(went)
    if why == STOPPED:
        story = t("was stopped at {time} and is back", time=when)
    elif why:
        story = t("was lost ({why}) at {time} and is back", why=why, time=when)
    else:
        story = t("was lost at {time} and is back", time=when)
    return story if since is None or since <= went else t("{what} since {time}", what=story, time=clock(since))


def _facts(content: dict[str, Any], elapsed: float, t: Words) -> str:
    facts = []
    uptime = number(content.get("uptime"))
    if uptime is not None and content["state"] in RUNNING:
        facts.append(t("up for {time}", time=duration(uptime + elapsed, t)))
    restarts = number(content.get("restarts"))
    if restarts is not None:
        facts.append(t("1 restart") if restarts == 1 else t("{count} restarts", count=text(restarts)))
    memory = number(content.get("memory"))
    if memory:
        facts.append(t("{count} MB", count=f"{memory / 1e6:.1f}"))
    errors = number(content.get("errors"))
    if errors:
        facts.append(t("1 error") if errors == 1 else t("{count} errors", count=text(errors)))
    if isinstance(content.get("version"), str):
        facts.append(t("version {version}", version=clean(content["version"], 20)))
    return " · ".join(facts)


def _trouble(content: dict[str, Any], t: Words) -> str:
    conditions = content.get("conditions")
    problems = list(conditions.items())[:8] if isinstance(conditions, dict) else []
    trouble = [clean(f"{name}: {text(problem)}") for name, problem in problems]
    if isinstance(content.get("last_error"), str) and content["last_error"]:
        trouble.append(t("last error: {reason}", reason=clean(content["last_error"])))
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
        what = clean(
            ", ".join(f"{key} {text(value)}" for key, value in content.items() if key not in ("time", "reason"))
        )
    return Row(
        held.key,
        "ok",
        clean(f"{kind} {name}", KEY_LIMIT),
        None,
        when="" if stamp is None else clock(stamp),
        what=what + (f" ({why})" if why else ""),
    )
