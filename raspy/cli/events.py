"""Shows what happened: outputs that went on or off, alarms, contacts, scenarios, servers. Who, why, until when.

NAME is a part of <kind>/<name>, or a pattern of all of it (output/*heater, alarm/*). A key of the tree as
/device/pi.fake.heater/power, or the branch of a device there, shows what happened to the device and what is about the
key. FROM and TO are as for raspy history: a time ago (90s, 30min, 24h, 7d) or a local date and time. The newest ones
are last.
Exit code: 0 good, 1 the logger does not answer.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser
from typing import Any

import msgspec

from raspy.cli.command import Request, UseError, body_value, count_to, text_of
from raspy.cli.logger import Logger
from raspy.cli.moments import local, moment
from raspy.cli.table import number, print_table
from raspy.common.log import printable
from raspy.common.mdcliapi import MajorDomoClient

SHOWN = 50
MOST = 100_000
PAGE = 1000
"""Events that the logger gives at a time."""
BRANCH = "/event/"
HEADS = ["time", "kind", "name", "what", "by", "until", "why"]
SIGNS = "*?["
LARGEST = 1e15
"""Seconds; what is above is no time."""


class Event(msgspec.Struct):
    """Something that happened; ``time`` as the logger has it, ``left_out``: so many of its name before it are not
    kept."""

    time: float
    kind: str
    name: str
    body: Any
    left_out: int = 0


class Page(msgspec.Struct):
    """The answer to ``events``."""

    events: list[Event]
    next: float | None
    skip: int


def arguments(parser: ArgumentParser) -> None:
    """Which, of when, how many."""
    parser.add_argument("name", metavar="NAME", nargs="?", default="", help="without it: all")
    parser.add_argument("--kind", metavar="KIND", help="as output, alarm, contact, scenario, cron, server, time")
    parser.add_argument("--since", metavar="FROM", type=moment, help="begin")
    parser.add_argument("--until", metavar="TO", type=moment, help="end")
    parser.add_argument("--count", metavar="N", type=count_to(MOST), default=SHOWN, help=f"so many at most; {SHOWN}")
    parser.add_argument("--follow", action="store_true", help="then print each one as it happens, until Ctrl-C")


def act(request: Request) -> list[Event] | None:
    """Ask the logger; when that is wanted, stay and print what comes."""
    words = request.arguments
    wanted = pattern(text_of(words.name), words.kind)
    if words.follow and words.until is not None:
        raise UseError("--follow and --until do not go together")
    begun = time.time()
    with MajorDomoClient(request.address) as client:
        found = ask(Logger(request, client), wanted, words.since, words.until, words.count)[0]
    if not words.follow:
        return found
    follow(request, wanted, found, begun)
    return None


def pattern(name: str, kind: str | None) -> str:
    """What the logger is asked for.

    :raises UseError: the two do not go together
    """
    if kind is None:
        return name
    if name.startswith("/"):
        raise UseError("--kind and a key of the tree do not go together")
    if not kind or any(sign in kind for sign in "/*?[]"):
        raise UseError(f"--kind is one word, as output or alarm, and not {kind[:30]!r}")
    if any(sign in name for sign in SIGNS):
        return f"{kind}/{name}"
    # A part of a name is found whatever its case.
    part = "".join(f"[{each.lower()}{each.upper()}]" if each.isascii() and each.isalpha() else each for each in name)
    return f"{kind}/*{part}*" if name else f"{kind}/*"


def ask(bus: Logger, wanted: str, since: float | None, until: float | None, most: int) -> tuple[list[Event], bool]:
    """The last events, the newest last, and whether there are more.

    :raises raspy.common.MDP.ClientError: the logger refuses, or does not answer
    """
    found: list[Event] = []
    begin = "" if since is None else repr(since)
    end, skip = "" if until is None else repr(until), 0
    while True:
        limit = min(most - len(found), PAGE)
        page: Page = bus.ask(Page, "events", wanted, begin, end, str(limit), str(skip))
        found += page.events
        if page.next is None or len(found) >= most or not page.events:
            return found[::-1], page.next is not None
        end, skip = repr(page.next), page.skip


def show(events: list[Event]) -> None:
    """Print a table."""
    if events:
        print_table(HEADS, [row(event) for event in events])
    else:
        print("nothing happened that is kept")


def row(event: Event) -> list[str]:
    """The cells of an event: when, what, who, until when, why."""
    body = event.body if isinstance(event.body, dict) else {}
    more = f"{event.left_out} before it are not kept" if event.left_out else ""
    why = "; ".join(word for word in (_word(body, "reason") or _word(body, "text"), more) if word)
    when = local(event.time, seconds=True)
    return [when, event.kind, event.name, what(event.kind, body), _word(body, "by"), until(event.time, body), why]


def what(kind: str, body: dict[str, Any]) -> str:
    """What happened, in a word or two."""
    state = _word(body, "state") or _word(body, "event")
    if kind == "output":
        power, level = body.get("power"), body.get("level")
        shown = (
            "on" if power is True else "off" if power is False else f"{number(level)} %" if level is not None else ""
        )
        mode = _word(body, "mode")
        parts = [shown, state if state not in ("held", "safe") or not shown else "", f"mode {mode}" if mode else ""]
        return ", ".join(part for part in parts if part)
    if kind == "alarm":
        value = number(body.get("value"))
        unit = _word(body, "unit")
        measured = f"{value} {unit}".strip() if value else ""
        return ", ".join(part for part in (f"{_word(body, 'severity')} {state}".strip(), measured) if part)
    if state:
        return state
    left = {name: value for name, value in body.items() if name not in ("time", "reason", "by", "text", "key")}
    return ", ".join(f"{name} {number(value)}" for name, value in left.items())


def until(when: float, body: dict[str, Any]) -> str:
    """Until when it holds, as a local time; empty when that is not known."""
    end: Any = body.get("mode_end") or body.get("until")
    if not end and body.get("state") == "held" and _is_number(body.get("lease")):
        end = when + body["lease"]
    if not _is_number(end) or end <= 0:
        return ""
    text, began = local(end, seconds=True), local(when, seconds=True)
    day, _, rest = text.partition(" ")
    return rest if began.startswith(f"{day} ") else text


def _is_number(value: Any) -> bool:
    """Whether it is one that can be a time; JSON has whole numbers of any length."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST < value < LARGEST


def _word(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    return value if isinstance(value, str) else ""


def follow(request: Request, wanted: str, shown: list[Event], begun: float) -> None:
    """Print the events that are there, and each further one as it comes, one a line, until Ctrl-C.

    :param begun: when they were asked for, Unix time in s; what the tree holds of before is none that comes
    """
    from raspy.cli import OutputError
    from raspy.common.executive import Executive
    from raspy.common.kvcliapi import KvSubscriber

    bus = request.bus
    loop = Executive("localhost", "events", bus.broker_ip, bus.broker_port)
    broken: list[OSError] = []
    known = {(event.kind, event.name, event.time) for event in shown}

    def say(event: Event) -> None:
        cells = row(event)
        line = "  ".join(printable(cell) for cell in (*cells[:4], *filter(None, cells[4:])))
        print(msgspec.json.encode(event).decode() if request.json else line, flush=True)

    def on_change(key: str, body: bytes) -> None:
        kind, _, name = key.removeprefix(BRANCH).partition("/")
        event = Event(time.time(), kind, name, body_value(body))
        stamp: Any = event.body.get("time") if isinstance(event.body, dict) else None
        event.time = float(stamp) if _is_number(stamp) else event.time
        # As the logger has it, in ms.
        event.time = round(event.time, 3)
        if not body or event.time < begun or not fits(wanted, event) or (kind, name, event.time) in known:
            return
        try:
            say(event)
        except OSError as error:
            broken.append(error)
            loop.shutdown()

    for event in shown:
        say(event)
    subscriber = KvSubscriber(loop, "/event", on_change)
    try:
        loop.run()
    finally:
        if not loop.ctx.closed:
            subscriber.close()
        loop.destroy()
    if broken:
        raise OutputError(broken[0])


def fits(wanted: str, event: Event) -> bool:
    """Whether an event is one of those that the logger would give: it is asked of SQLite in its words."""
    import sqlite3
    from contextlib import closing

    from raspy.servers.logger import events

    about = event.body.get("key") if isinstance(event.body, dict) else None
    kept = events.Event(event.kind, event.name, 0, "", about if isinstance(about, str) else "")
    match, words = events.Wanted(wanted, 0, 0, 1, 0, []).condition()
    with closing(sqlite3.connect(":memory:")) as connection:
        return bool(events.matching(connection, match, words, [kept]))
