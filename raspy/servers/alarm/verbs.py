"""``<hostname>.alarm.alarms``: what can be asked of the alarms, and done with them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from raspy.common import MDP
from raspy.common.verbs import PATIENCE, Later, VerbError, Verbs, kept
from raspy.servers.alarm import hands, store
from raspy.servers.alarm.alarms import Alarm as OneAlarm
from raspy.servers.alarm.rules import Rule
from raspy.servers.alarm.shelves import LONGEST

if TYPE_CHECKING:
    from raspy.servers.alarm.server import Alarm

ALARMS = Verbs("alarms", slots=4)

MOST_TESTS = 1
"""Tests at a time: each may take a minute, and a slot."""
TURN = 0.01
"""Seconds of a turn of the loop that a long answer may take."""
READING = 5.0
"""Seconds that the disk may take for history."""
BY = 60
"""Characters of who does something."""
LIMIT, MOST_LIMIT = 100, 1000
LAST = 1e11
"""Unix time in s that no clock shows."""

Dict = dict[str, Any]


def _definition(server: Alarm, rule: Rule, count: int | None = None) -> Dict:
    """A definition as a page or command line shows it.

    :param count: how many keys it watches, if that is known
    """
    watch = server.watch
    if rule.settings.kind in ("bus", "disk"):
        count = None
    elif count is None:
        count = len(watch.keys_of(rule))
    note = ""
    if not rule.settings.active:
        note = "it is not active"
    elif not watch.live:
        note = "the broker does not answer"
    elif watch.absent(rule):
        note = "there is no such value"
    elif count == 0:
        note = "there is nothing that it watches"
    return {
        "name": rule.name,
        "built_in": rule.name in server.definitions.built_in,
        "changed": rule.name in server.definitions.built_in and not rule.built_in,
        "settings": msgspec.to_builtins(rule.settings),
        "watches": count,
        "note": note,
    }


def _by(by: str) -> str:
    if not by.isprintable() or len(by) > BY:
        raise VerbError(MDP.BAD_REQUEST, f"by: at most {BY} printable characters that say who does it")
    return by


def _number(name: str, text: str, least: float, most: float) -> float:
    try:
        found = float(text) if len(text) <= 40 else math.nan
    except ValueError:
        found = math.nan
    if not least <= found <= most:
        raise VerbError(MDP.BAD_REQUEST, f"{name}: a number from {least:g} to {most:g}, not {text[:40]!r}")
    return found


def _done(server: Alarm, alarms: list[OneAlarm]) -> Later:
    """Answer the names of alarms once they are on the disk as they are now; 503 when that takes too long."""
    later, names = Later(), sorted(alarm.name for alarm in alarms)

    def late() -> None:
        server.book.record.wait_no_more(later)
        later.fail(
            MDP.UNAVAILABLE,
            f"it is done, but the disk has not taken it for {PATIENCE:g} s: until it has, a restart of the server "
            f"forgets it ({', '.join(names)[:200]})",
        )

    waits = server.call_later(PATIENCE, late)

    def kept() -> None:
        waits.cancel()
        later.reply(names)

    server.book.record.wait(later, {alarm.place for alarm in alarms}, kept)
    return later


@ALARMS.verb(reads=True, name="list")
def list_alarms(server: Alarm) -> list[Dict]:
    """All alarms that are not normal, the most urgent first, each with its ``name`` and as the tree shows it."""
    return server.book.listed()


@ALARMS.verb(reads=True)
def definitions(server: Alarm) -> Later:
    """All definitions: ``settings``, how many values or servers each ``watches``, and a ``note`` when it cannot do what
    it is for. One that is kept and cannot be used has its ``problem`` instead."""
    later = Later()
    _count(server, later, server.watch.rules, iter(list(server.watch.tree)), {})
    return later


def _count(server: Alarm, later: Later, rules: dict[str, Rule], keys: Iterator[str], counts: dict[str, int]) -> None:
    """Count what each definition watches, some keys in each turn of the loop, and answer."""
    watch, until = server.watch, time.monotonic() + TURN
    if watch.rules is not rules:
        # They have changed meanwhile.
        rules, keys, counts = watch.rules, iter(list(watch.tree)), {}
    for key in keys:
        if key in watch.tree:
            for rule in watch.rules_of(key):
                counts[rule.name] = counts.get(rule.name, 0) + 1
        if time.monotonic() >= until:
            server.call_later(0, _count, server, later, rules, keys, counts)
            return
    found: list[Dict] = [_definition(server, rule, counts.get(rule.name, 0)) for rule in rules.values()]
    later.reply(found + [{"name": name, "problem": why} for name, why in server.definitions.broken.items()])


@ALARMS.verb(reads=True)
def show(server: Alarm, name: str) -> Dict:
    """A definition, and its alarms that are not normal; or one alarm with its definition."""
    rules = server.watch.rules
    if name in server.definitions.broken and name not in rules:
        return {"name": name, "problem": server.definitions.broken[name], "alarms": []}
    alarms = hands.chosen(server.book, name)
    rule = rules.get(name) or rules.get(name.partition(".")[0])
    if rule is None or not name:
        raise VerbError(MDP.NOT_FOUND, f"no alarm {name[:100]!r}; list and definitions name them")
    return {**_definition(server, rule), "alarms": server.book.listed(alarms)}


@ALARMS.verb(name="set")
def set_definition(server: Alarm, name: str, json: str) -> Later:
    """Make a definition, or put other settings in the place of all that it had; answers the whole of it."""
    try:
        given = msgspec.json.decode(json, type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise VerbError(MDP.BAD_REQUEST, f"{name[:80]}: a JSON object of settings: {error}") from error
    return kept(
        server,
        lambda done: server.definitions.set(name, given, done),
        lambda: _definition(server, server.watch.rules[name]),
    )


@ALARMS.verb()
def delete(server: Alarm, name: str) -> Later:
    """Have a definition no more; one that comes with RasPy is as it came again."""
    return kept(server, lambda done: server.definitions.delete(name, done), lambda: "deleted")


@ALARMS.verb()
def acknowledge(server: Alarm, name: str, by: str = "") -> Later:
    """Say that somebody knows of an alarm, of all alarms of a definition, or (an empty name) of all. Answers the names
    of those of which nobody knew. One whose value is not there any more is over when it is acknowledged once more by
    its own name."""
    return _done(server, hands.acknowledge(server.book, name, _by(by)))


@ALARMS.verb()
def shelve(server: Alarm, name: str, seconds: str, by: str = "") -> Later:
    """Do not tell of an alarm for so many seconds, at most a day, whatever becomes of it; of a definition: of all its
    alarms that are not normal. Answers the names."""
    return _done(server, hands.shelve(server.book, name, _number("seconds", seconds, 1, LONGEST), _by(by)))


@ALARMS.verb()
def unshelve(server: Alarm, name: str, by: str = "") -> Later:
    """Tell of alarms again that are shelved, or (an empty name) of all. Answers the names."""
    return _done(server, hands.unshelve(server.book, name, _by(by)))


@ALARMS.verb(reads=True)
def history(server: Alarm, name: str = "", since: str = "0", until: str = str(LAST), limit: str = str(LIMIT)) -> Later:
    """The last changes of an alarm, of all alarms of a definition, or (an empty name) of all: ``name``, ``time``
    (Unix, s), ``state`` and the facts; the newest first, from ``since`` to ``until``, at most ``limit``."""
    first, last = _number("since", since or "0", -LAST, LAST), _number("until", until or str(LAST), -LAST, LAST)
    count = int(_number("limit", limit or str(LIMIT), 1, MOST_LIMIT))
    later = Later()
    waits = server.call_later(READING, later.fail, MDP.UNAVAILABLE, f"the disk has not answered for {READING:g} s")

    def done(rows: list[Any] | None, error: Exception | None) -> None:
        waits.cancel()
        if error is not None:
            later.fail(MDP.ERROR, str(error))
        else:
            later.reply(rows)

    server.book.record.read(lambda connection: store.history(connection, name, first, last, count), done)
    return later


@ALARMS.verb(reads=True)
def channels(server: Alarm) -> list[Dict]:
    """The channels through which alarms are told: what waits, and when it was last delivered, or why not."""
    return server.voice.channels()


@ALARMS.verb()
def test(server: Alarm, channel: str) -> Later:
    """Send a message through a channel, to see whether it arrives; answers once it was taken, or why not."""
    if channel not in server.settings.channels:
        known = ", ".join(server.settings.channels) or "none: see [alarm.channels.NAME] in the configuration"
        raise VerbError(MDP.NOT_FOUND, f"no channel {channel[:80]!r}; known are {known}")
    if len(server.testing) >= MOST_TESTS:
        raise VerbError(MDP.CONFLICT, f"a test of {', '.join(server.testing)} is under way; try again when it is over")
    later = Later()

    def done(problem: str) -> None:
        server.testing.discard(channel)
        if problem:
            later.fail(MDP.ERROR, problem)
        else:
            later.reply("sent")

    server.testing.add(channel)
    server.voice.test(channel, done)
    return later


@ALARMS.verb(reads=True)
def status(server: Alarm) -> Dict:
    """Whether all is well, and how many alarms are in which state."""
    return server.status()
