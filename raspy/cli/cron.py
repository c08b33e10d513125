"""Shows, makes, changes and deletes cron jobs: what happens at a time, by the sun, or again and again.

WHEN is a cron expression ('0 8 * * *'), a sun event (@sunset-00:30), an interval ('every 10m') or one time ('at
2026-12-01T08:00'), in the time zone of the appliance. A job publishes an event, and fires a scenario or sends a command
to a device besides, if it is told so:

  raspy cron new feeding '0 8,18 * * *' scenario=feed jitter=300
  raspy cron new evening @sunset-00:30 command.device=fake.heater command.command=power command.value=true
  raspy cron edit feeding when='0 7 * * *' misfire=skip

Settings: when, label, active, scenario, command.device, .command, .value, .seconds; jitter and grace in s or as 5m;
misfire (once, skip, all: what becomes of times that were missed); trusted=true fires only while the clock is known to
be right. name= without a value takes a setting back to its default. Times are shown in the time zone of the
appliance, which is named where the time here is another.
Exit code: 0 good, 1 no such job, one that cannot be, or no answer.
"""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

import msgspec

from raspy.cli import FAILED, GOOD
from raspy.cli.command import Request, UseError, adds_verbs, count_to, text_of
from raspy.cli.core import Core, MixedParser, merged, moment, settings_of
from raspy.cli.exec import seconds
from raspy.cli.table import print_table
from raspy.common import MDP
from raspy.common.log import printable
from raspy.common.mdcliapi import MajorDomoClient

SERVICE = "cron"
TEXTS = ("when", "label", "scenario", "misfire", "command.device", "command.command")
TIMES = ("jitter", "grace")
SHOWN = 3
"""Next times in a table."""
MOST = 100
SAID = {
    "new": "is made",
    "edit": "is changed",
    "delete": "is deleted",
    "run": "was fired",
    "enable": "is active",
    "disable": "is not active",
}
"""What is said of a job once that was done."""


def arguments(parser: ArgumentParser) -> None:
    """A verb, and what it is about."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=MixedParser)
    add = adds_verbs(verbs)
    add("list", "list the jobs with their next three times")
    add("show", "all of one job: its settings, what it has done, its next times", "name")
    new = add("new", "make a job", "name", "when")
    new.add_argument("settings", metavar="NAME=VALUE", nargs="*", help="as scenario=feed, or label=Breakfast")
    edit = add("edit", "change settings of a job, all that are given or none", "name")
    edit.add_argument("settings", metavar="NAME=VALUE", nargs="+", help="name= takes one back to its default")
    add("delete", "have a job no more", "name")
    add("run", "fire a job now, by hand", "name")
    following = add("next", "the next times of a job", "name")
    following.add_argument("--count", metavar="N", type=count_to(MOST), default=SHOWN, help=f"how many, at most {MOST}")
    add("check", "whether WHEN is a time, and its next three", "when")
    add("enable", "have a job fire at its times", "name")
    add("disable", "have a job fire by hand only", "name")


def act(request: Request) -> dict[str, Any]:
    """Ask the core."""
    words = request.arguments
    with MajorDomoClient(request.address) as client:
        core = Core(request, client, SERVICE)
        answer = _do(core, words)
        zone = core.ask(SERVICE, "show", words.name).get("zone", "") if words.verb == "next" else ""
    return {"verb": words.verb, "name": text_of(getattr(words, "name", "")), "result": answer, "zone": zone}


def _do(core: Core, words: Any) -> Any:
    verb = words.verb
    if verb == "list":
        return core.ask(SERVICE, verb)
    if verb == "next":
        return core.ask(SERVICE, verb, words.name, str(words.count))
    if verb == "check":
        return core.ask(SERVICE, verb, words.when)
    if verb == "new":
        if words.name in core.ask(SERVICE, "list_keys"):
            raise MDP.ClientError(f"there is a cron job {text_of(words.name)} already; raspy cron edit changes it")
        return _set(core, words.name, {"when": text_of(words.when)}, _settings(words.settings))
    if verb in ("edit", "enable", "disable"):
        change = _settings(words.settings) if verb == "edit" else {"active": verb == "enable"}
        return _set(core, words.name, settings_in(core.ask(SERVICE, "show", words.name)), change)
    return core.ask(SERVICE, verb, words.name)


def _set(core: Core, name: str, old: dict[str, Any], new: dict[str, Any]) -> Any:
    return core.ask(SERVICE, "set", name, msgspec.json.encode(merged(old, new)))


def settings_in(job: dict[str, Any]) -> dict[str, Any]:
    """The settings of a job in what the core says of it."""
    return dict(job["settings"])


def _settings(words: list[str]) -> dict[str, Any]:
    """Settings from words.

    :raises UseError: one is none
    """
    settings = settings_of(words, TEXTS)
    command = settings.get("command")
    for part, name in [(settings, name) for name in TIMES] + [(command, "seconds")] * isinstance(command, dict):
        if isinstance(part, dict) and isinstance(part.get(name), str):
            try:
                part[name] = seconds(part[name])
            except ArgumentTypeError as error:
                raise UseError(f"{name}: {error}") from error
    return settings


def code(result: dict[str, Any]) -> int:
    """What is no time is a failure."""
    return FAILED if result["verb"] == "check" and not result["result"]["ok"] else GOOD


def show(result: dict[str, Any]) -> None:
    """A table, a job, times, or what was done."""
    verb, answer = result["verb"], result["result"]
    if verb == "list":
        _show_list(answer)
    elif verb == "next":
        _show_times(answer, result["zone"])
    elif verb == "check":
        if answer["ok"]:
            _show_times(answer["next"], answer.get("zone", ""))
        else:
            print(printable(answer["problem"]))
    else:
        if verb != "show":
            print(f"{printable(result['name'])} {SAID[verb]}")
        if isinstance(answer, dict):
            _show_job(answer)


def _show_list(jobs: list[dict[str, Any]]) -> None:
    rows = []
    for job in jobs:
        if "problem" in job:
            rows.append([job["name"], "", "", "", "", job["problem"]])
            continue
        settings = settings_in(job)
        times = [moment(at, job.get("zone", "")) for at in job.get("next", [])[:SHOWN]] or [""]
        does = does_what(settings)
        active = settings.get("active", True)
        rows.append(
            [job["name"], settings["when"], "yes" if active else "no", times[0], does, str(job.get("note") or "")]
        )
        rows += [["", "", "", at, "", ""] for at in times[1:]]
    if rows:
        # What is empty is not told as unknown here: it belongs to the row above.
        _print_rows(["job", "when", "active", "next", "does", "note"], rows)
    else:
        print("no cron jobs")


def _print_rows(heads: list[str], rows: list[list[str]]) -> None:
    print_table(heads, [[cell or " " for cell in row] for row in rows])


def does_what(settings: dict[str, Any]) -> str:
    """What a job does beside its event."""
    parts = []
    if settings.get("scenario"):
        parts.append(f"scenario {settings['scenario']}")
    command = settings.get("command")
    if isinstance(command, dict):
        value = command.get("value")
        told = "" if value is None else f" {value if isinstance(value, str) else msgspec.json.encode(value).decode()}"
        held = f" for {command['seconds']:g} s" if command.get("seconds") else ""
        parts.append(f"{command.get('device')} {command.get('command')}{told}{held}")
    return "; ".join(parts) or "event"


def _show_job(job: dict[str, Any]) -> None:
    if "problem" in job:
        print(printable(f"problem   {job['problem']}"))
        return
    settings, zone = settings_in(job), job.get("zone", "")
    facts = {
        "when": settings["when"],
        "does": does_what(settings),
        "active": "yes" if settings.get("active", True) else "no",
        "label": settings.get("label"),
        "last": moment(job.get("last"), zone),
        "runs": job.get("runs"),
        "missed": job.get("missed"),
        "note": job.get("note"),
    }
    known = ("when", "scenario", "command", "active", "label")
    facts |= {name: value for name, value in settings.items() if name not in known}
    for name, value in facts.items():
        if value not in (None, "", []):
            print(printable(f"{name:<9} {value if isinstance(value, str) else msgspec.json.encode(value).decode()}"))
    for i, at in enumerate(job.get("next", [])):
        print(f"{'' if i else 'next':<9} {moment(at, zone)}")


def _show_times(times: list[float], zone: str) -> None:
    for at in times:
        print(moment(at, zone))
    if not times:
        print("never")
