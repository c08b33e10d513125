"""Shows, makes, acknowledges and shelves alarms: what calls when something is wrong.

Without a verb the alarms are listed that are not normal. A definition says what is watched:

  raspy alarm new hot kind=high key=fake.tank/temperature limit=28 hysteresis=0.5 delay=5m severity=critical
  raspy alarm new leak kind=is key='/device/*/leak' value=true severity=critical
  raspy alarm edit stale delay=10m
  raspy alarm edit disk active=false
  raspy alarm acknowledge hot
  raspy alarm shelve hot --for 2h

Settings: kind (high, low, is, stale, error, server, clock, disk, output, scenario, notify, bus), key, but, limit,
hysteresis, value, delay in s or as 5m, severity (info, warning, critical), label, channels, active. but and channels
are names with commas between. name= without a value takes a setting back to its default.
Exit code: 0 good; 1 no such alarm, one that cannot be, or no answer; list: 1 when something is active.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

import msgspec

from raspy.cli import FAILED, GOOD
from raspy.cli.command import Request, UseError, adds_verbs, body_value, bytes_of, count_to, text_of
from raspy.cli.core import MixedParser, merged, moment, settings_of
from raspy.cli.exec import seconds, user
from raspy.cli.table import duration, number, print_table
from raspy.common import MDP
from raspy.common.log import printable
from raspy.common.mdcliapi import MajorDomoClient

SERVICE = "alarm.alarms"
PATIENCE = 10.0
"""Seconds that the server may take: what it is told it keeps on a card."""
TESTS = 90.0
"""Seconds that a channel may take for a test."""
TEXTS = ("kind", "key", "label", "severity")
LISTS = ("but", "channels")
SHOWN = 30
MOST = 1000

SAID = {"new": "is made", "edit": "is changed", "delete": "is deleted", "enable": "is active", "disable": "is off"}
DONE = {"acknowledge": "acknowledged", "shelve": "shelved", "unshelve": "told of again"}


def arguments(parser: ArgumentParser) -> None:
    """A verb, and what it is about."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", parser_class=MixedParser)
    add = adds_verbs(verbs)
    add("list", "list the alarms that are not normal, the most urgent first")
    add("definitions", "list what is watched")
    add("show", "all of a definition, or of one alarm", "name")
    new = add("new", "define an alarm", "name")
    new.add_argument(
        "settings", metavar="NAME=VALUE", nargs="+", help="as kind=high key=fake.tank/temperature limit=28"
    )
    edit = add("edit", "change settings of a definition, all that are given or none", "name")
    edit.add_argument("settings", metavar="NAME=VALUE", nargs="+", help="name= takes one back to its default")
    add("delete", "have a definition no more, or as it came with RasPy", "name")
    add("enable", "have a definition watch", "name")
    add("disable", "have a definition watch no more", "name")
    known = add("acknowledge", "say that you know of an alarm")
    known.add_argument("name", metavar="NAME", nargs="?", help="of an alarm, or of a definition for all its alarms")
    known.add_argument("--all", action="store_true", help="of all alarms")
    shelve = add("shelve", "do not hear of an alarm for some time", "name")
    shelve.add_argument("--for", metavar="TIME", dest="seconds", type=seconds, default=3600.0, help="as 2h; else 1h")
    back = add("unshelve", "hear of an alarm again")
    back.add_argument("name", metavar="NAME", nargs="?", help="of an alarm, or of a definition for all its alarms")
    back.add_argument("--all", action="store_true", help="of all alarms")
    past = add("history", "what became of the alarms, the newest first")
    past.add_argument("name", metavar="NAME", nargs="?", default="", help="of an alarm or definition; else of all")
    past.add_argument("--since", metavar="TIME", type=seconds, help="only of the last time, as 2d")
    past.add_argument("--count", metavar="N", type=count_to(MOST), default=SHOWN, help=f"how many, at most {MOST}")
    add("channels", "list how alarms are told")
    add("test", "send a message through a channel", "channel")
    add("status", "whether all is well")


def act(request: Request) -> dict[str, Any]:
    """Ask the server."""
    words = request.arguments
    verb = words.verb or "list"
    if verb in ("acknowledge", "unshelve") and bool(words.name) == words.all:
        raise UseError("name an alarm, or say --all")
    with MajorDomoClient(request.address) as client:
        asked = _Server(request, client)
        if verb == "test":
            client.act_timeout = int(TESTS * 1000)
        answer = _do(asked, verb, words)
    return {"verb": verb, "name": text_of(getattr(words, "name", None) or ""), "result": answer}


class _Server:
    """The alarm server on the bus: that of this host, if it has one."""

    def __init__(self, request: Request, client: MajorDomoClient) -> None:
        self.client = client
        self.name = request.find(client, SERVICE, "the server alarm")
        client.timeout = client.act_timeout = int(PATIENCE * 1000)

    def ask(self, *words: str | bytes) -> Any:
        """What a verb answers.

        :raises raspy.common.MDP.ClientError: it refuses, or does not answer
        """
        reply = self.client.send(self.name, [bytes_of(word) for word in words])
        if reply is None:
            raise MDP.ClientError(f"{self.name}: no answer in time; raspy status shows how it is")
        answer = body_value(reply[0])
        if reply[-1] != MDP.OK:
            raise MDP.ClientError(f"{self.name}: {answer}")
        return answer


def _do(server: _Server, verb: str, words: Any) -> Any:
    if verb in ("list", "definitions", "channels", "status"):
        return server.ask(verb)
    if verb == "new":
        if text_of(words.name) in [each["name"] for each in server.ask("definitions")]:
            raise MDP.ClientError(f"there is an alarm {text_of(words.name)} already; raspy alarm edit changes it")
        return _set(server, words.name, {}, _settings(words.settings))
    if verb in ("edit", "enable", "disable"):
        change = _settings(words.settings) if verb == "edit" else {"active": verb == "enable"}
        return _set(server, words.name, _definition(server, words.name), change)
    if verb == "acknowledge":
        return server.ask(verb, words.name or "", user())
    if verb == "shelve":
        return server.ask(verb, words.name, f"{words.seconds:.6g}", user())
    if verb == "unshelve":
        return server.ask(verb, words.name or "", user())
    if verb == "history":
        since = f"{time.time() - words.since:.3f}" if words.since else ""
        return server.ask(verb, words.name, since, "", str(words.count))
    if verb == "test":
        return server.ask(verb, words.channel)
    return server.ask(verb, words.name)


def _definition(server: _Server, name: str) -> dict[str, Any]:
    """The settings of a definition.

    :raises raspy.common.MDP.ClientError: there is none of that name
    """
    for each in server.ask("definitions"):
        if each["name"] == text_of(name):
            return dict(each.get("settings", {}))
    raise MDP.ClientError(f"no definition {text_of(name)[:80]!r}; raspy alarm definitions lists them")


def _set(server: _Server, name: str, old: dict[str, Any], new: dict[str, Any]) -> Any:
    return server.ask("set", name, msgspec.json.encode(merged(old, new)))


def _settings(words: list[str]) -> dict[str, Any]:
    """Settings from words.

    :raises UseError: one is none
    """
    settings = settings_of(words, (*TEXTS, *LISTS))
    for name in LISTS:
        if isinstance(settings.get(name), str):
            settings[name] = [each.strip() for each in settings[name].split(",") if each.strip()]
    if isinstance(settings.get("delay"), str):
        try:
            settings["delay"] = seconds(settings["delay"])
        except ArgumentTypeError as error:
            raise UseError(f"delay: {error}") from error
    return settings


def code(result: dict[str, Any]) -> int:
    """What is active, or not well, is a failure."""
    verb, answer = result["verb"], result["result"]
    if verb == "list":
        return FAILED if any(each["state"] == "active" for each in answer) else GOOD
    if verb == "status":
        return GOOD if answer["well"] else FAILED
    return GOOD


def show(result: dict[str, Any]) -> None:
    """A table, a definition, or what was done."""
    verb, answer = result["verb"], result["result"]
    if verb == "list":
        _show_alarms(answer)
    elif verb == "definitions":
        _show_definitions(answer)
    elif verb == "history":
        _show_history(answer)
    elif verb == "channels":
        _show_channels(answer)
    elif verb == "status":
        print(printable(("all is well: " if answer["well"] else "not well: ") + str(answer["text"])))
    elif verb in DONE:
        print(printable(f"{DONE[verb]}: {', '.join(answer)}" if answer else f"nothing had to be {DONE[verb]}"))
    elif verb == "test":
        print("it was delivered")
    else:
        if verb != "show":
            print(f"{printable(result['name'])} {SAID[verb]}")
        if isinstance(answer, dict):
            _show_definition(answer)


def _show_alarms(alarms: list[dict[str, Any]]) -> None:
    if not alarms:
        print("no alarms")
        return
    print_table(
        ["alarm", "state", "severity", "value", "since", "why"],
        [
            [
                each["name"],
                _state(each),
                each["severity"],
                _value(each),
                moment(each["since"]),
                f"{each['label']}: {each['reason']}" if each["reason"] else each["label"],
            ]
            for each in alarms
        ],
    )


def _state(alarm: dict[str, Any]) -> str:
    if alarm.get("until"):
        return f"{alarm['state']} until {moment(round(alarm['until']))}"
    return f"{alarm['state']} by {alarm['by']}" if alarm.get("by") else str(alarm["state"])


def _value(each: dict[str, Any]) -> str:
    return f"{number(each.get('value'))} {each.get('unit') or ''}".strip()


def _show_definitions(found: list[dict[str, Any]]) -> None:
    rows = []
    for each in found:
        settings = each.get("settings")
        if settings is None:
            rows.append([each["name"], "", "", "", "", "", each["problem"]])
            continue
        watches = each["watches"]
        rows.append(
            [
                each["name"],
                _what(settings),
                settings.get("key", ""),
                duration(settings.get("delay", 0)),
                settings.get("severity", "warning"),
                "" if watches is None else str(watches),
                each["note"],
            ]
        )
    print_table(["name", "when", "key", "delay", "severity", "watches", "note"], rows)


def _what(settings: dict[str, Any]) -> str:
    parts = [str(settings["kind"])]
    if settings.get("limit") is not None:
        parts.append(number(settings["limit"]))
    if settings.get("value") is not None:
        parts.append(number(settings["value"]))
    return " ".join(parts)


def _show_definition(found: dict[str, Any]) -> None:
    if "problem" in found:
        print(printable(f"problem   {found['problem']}"))
        return
    facts = dict(found["settings"])
    facts.setdefault("severity", "warning")
    facts["watches"] = found["watches"]
    facts["note"] = found["note"]
    for name, value in facts.items():
        if value not in (None, "", []):
            print(printable(f"{name:<10} {value if isinstance(value, str) else msgspec.json.encode(value).decode()}"))
    if found.get("alarms"):
        print()
        _show_alarms(found["alarms"])


def _show_history(rows: list[dict[str, Any]]) -> None:
    if not rows:
        print("nothing has happened")
        return
    print_table(
        ["time", "alarm", "state", "value", "by", "why"],
        [
            [
                moment(each["time"]),
                each["name"],
                each["state"],
                _value(each),
                each.get("by", ""),
                each.get("reason", ""),
            ]
            for each in rows
        ],
    )


def _show_channels(rows: list[dict[str, Any]]) -> None:
    if not rows:
        print("no channels: nobody is told. [alarm.channels.NAME] in the configuration makes one")
        return
    print_table(
        ["channel", "kind", "waiting", "last success", "last error"],
        [
            [
                each["name"],
                each["kind"],
                str(each.get("waiting", "")),
                moment(each.get("last_success")),
                str(each.get("last_error") or ""),
            ]
            for each in rows
        ],
    )
