"""Shows, makes, changes, runs and stops scenarios: Python that acts on values, in a process of its own.

  raspy scenario new light --code light.py --entries '{"lamp": "fake.lamp/power"}' schedule='["@sunset"]'
  raspy scenario edit light                     # its code, in $EDITOR; checked before it is saved
  raspy scenario edit light active=true settings.level=80
  raspy scenario output light --follow

NAME=VALUE are settings of the scenario: active, startup, schedule, misfire, label, settings.*, limits.*, stop_grace; a
value is JSON where it is that, else text; name= takes one back to its default. What is exported is a JSON document to
share, and not active when it is imported: look at what you got, then enable it.
Exit code: 0 good, 1 no such scenario, code that does not compile, refused, or no answer.
"""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser
from typing import Any

import msgspec

from raspy.cli import FAILED, GOOD, OutputError, out
from raspy.cli.command import Request, adds_verbs, print_json, text_of
from raspy.cli.core import Core, MixedParser, merged, moment, read, settings_of
from raspy.cli.editor import edit_code
from raspy.cli.store import write_file
from raspy.cli.table import duration, print_table
from raspy.common import MDP
from raspy.common.log import printable
from raspy.common.mdcliapi import MajorDomoClient

ONE, ALL = "scenario", "scenarios"
TEXTS = ("label", "misfire")
FOLLOW = 0.5
"""Seconds between two looks for more output."""
CUT = "[... "
"""Begins the line that says how much of an output is not kept any more."""
PARTS = {"code": "its Python", "entries": "its entries, friendly names for keys", "conf": "its settings"}
NAMED = {
    "run": "run it now, by hand",
    "stop": "stop it if it runs",
    "enable": "have it act by itself",
    "disable": "have it act by hand only",
    "resume": "have it act again after it kept failing",
    "delete": "have it no more",
}
SAID = {
    "new": "is made; raspy scenario enable NAME has it act",
    "edit": "is changed",
    "run": "is started",
    "stop": "is being stopped",
    "enable": "acts by itself",
    "disable": "acts by hand only",
    "resume": "acts again",
    "delete": "is deleted",
}


def arguments(parser: ArgumentParser) -> None:
    """A verb, and what it is about."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=MixedParser)
    add = adds_verbs(verbs)

    def parts(verb: ArgumentParser) -> None:
        verb.add_argument("settings", metavar="NAME=VALUE", nargs="*", help="as startup=true, or settings.target=25")
        verb.add_argument("--code", metavar="FILE", help=f"{PARTS['code']}; - reads it from stdin")
        verb.add_argument("--entries", metavar="FILE|JSON", help=PARTS["entries"])
        verb.add_argument("--conf", metavar="FILE|JSON", help=PARTS["conf"])

    add("list", "list the scenarios with their states")
    add("show", "all of one: state, settings, entries, code", "name")
    new = add("new", "make a scenario; without --code it opens $EDITOR", "name")
    parts(new)
    parts(add("edit", "change a scenario; without options it opens its code in $EDITOR", "name"))
    for verb, text in NAMED.items():
        add(verb, text, "name")
    output = add("output", "what it printed and logged last, and its last traceback", "name")
    output.add_argument("--follow", action="store_true", help="print what comes, until Ctrl-C")
    add("check", "whether a file of code compiles; - reads it from stdin", "file")
    export = add("export", "print scenarios, or all of them, as one JSON document")
    export.add_argument("names", metavar="NAME", nargs="*")
    export.add_argument("--output", metavar="FILE", help="write it to a file instead, whole or not at all")
    taking = add("import", "take the scenarios of a document, all or none; - reads it from stdin", "file")
    taking.add_argument("--replace", action="store_true", help="replace those that are there already")
    examples = add("examples", "list the examples, or take one over")
    examples.add_argument(
        "example", metavar="EXAMPLE", nargs="?", help="print what it does, and its document with --json"
    )
    examples.add_argument("--import", dest="take", action="store_true", help="take it over, not active")


def act(request: Request) -> dict[str, Any] | None:
    """Ask the core."""
    words = request.arguments
    with MajorDomoClient(request.address) as client:
        core = Core(request, client, ALL)
        answer = VERBS.get(words.verb, _named)(core, words)
        if words.verb == "output" and words.follow:
            _follow(core, words.name, answer, request.json)
            return None
    if answer is None:
        return None
    return {"verb": words.verb, "name": text_of(getattr(words, "name", None) or ""), "result": answer}


def _list(core: Core, words: Any) -> Any:
    return core.ask(ALL, "list")


def _named(core: Core, words: Any) -> Any:
    return core.ask(ONE, words.verb, words.name)


def _new(core: Core, words: Any) -> Any:
    if words.name in core.ask(ALL, "list_keys"):
        raise MDP.ClientError(f"there is a scenario {text_of(words.name)} already; raspy scenario edit changes it")
    parts = {"code": "", "conf": {}, "entries": {}} | _parts(words, {})
    if words.code is not None:
        return _set(core, words.name, parts)

    def now() -> str:
        return "" if words.name not in core.ask(ALL, "list_keys") else "made by somebody else"

    return edit_code(
        words.name,
        "",
        lambda code: _problem(core, code),
        now,
        lambda code: _set(core, words.name, {**parts, "code": code}),
    )


def _edit(core: Core, words: Any) -> Any:
    before = core.ask(ONE, "show", words.name)
    parts = _parts(words, before["conf"])
    if parts:
        return _set(core, words.name, parts)

    def now() -> str:
        return str(core.ask(ONE, "show", words.name)["code"])

    return edit_code(
        words.name,
        before["code"],
        lambda code: _problem(core, code),
        now,
        lambda code: _set(core, words.name, {"code": code}),
    )


def _set(core: Core, name: str, parts: dict[str, Any]) -> Any:
    return core.ask(ONE, "set", name, msgspec.json.encode(parts))


def _parts(words: Any, conf: dict[str, Any]) -> dict[str, Any]:
    """The parts that the options give."""
    parts: dict[str, Any] = {}
    if words.code is not None:
        parts["code"] = read(words.code)
    if words.entries is not None:
        parts["entries"] = _object(words.entries, "--entries")
    if words.conf is not None:
        parts["conf"] = conf = _object(words.conf, "--conf")
    if words.settings:
        parts["conf"] = merged(conf, settings_of(words.settings, TEXTS))
    return parts


def _object(text: str, option: str) -> dict[str, Any]:
    """A JSON object, as it stands there or in a file."""
    body = text if text.lstrip().startswith("{") else read(text)
    try:
        value = msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MDP.ClientError(f"{option}: {text_of(text)[:60]!r} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise MDP.ClientError(f'{option}: must be an object, as {{"lamp": "fake.lamp/power"}}')
    return value


def _problem(core: Core, code: str) -> str:
    """What is wrong with code, empty when it compiles."""
    answer = core.ask(ALL, "check", code)
    return "" if answer["ok"] else f"line {answer['line']}: {answer['problem']}"


def _check(core: Core, words: Any) -> Any:
    return {**core.ask(ALL, "check", read(words.file)), "file": text_of(words.file)}


def _export(core: Core, words: Any) -> Any:
    document = core.ask(ALL, "export", *words.names)
    text = msgspec.json.format(msgspec.json.encode(document), indent=2)
    if words.output is not None:
        write_file(words.output, text + b"\n")
        return {"file": text_of(words.output)}
    # For a pipe or a file as it is, for a terminal without what may steer it.
    if sys.stdout.isatty():
        print_json(document)
    else:
        out(text.decode())
    return None


def _import(core: Core, words: Any) -> Any:
    return core.ask(ALL, "import", read(words.file), *(["replace"] if words.replace else []))


def _examples(core: Core, words: Any) -> Any:
    found = core.ask(ALL, "examples")
    if words.example is None:
        if words.take:
            raise MDP.ClientError("--import: which example? raspy scenario examples lists them")
        return found
    for document in found:
        if words.example in document["scenarios"]:
            return core.ask(ALL, "import", msgspec.json.encode(document)) if words.take else document
    known = ", ".join(name for document in found for name in document["scenarios"])
    raise MDP.ClientError(f"{text_of(words.example)}: no such example; there are {known}")


VERBS = {
    "list": _list,
    "new": _new,
    "edit": _edit,
    "check": _check,
    "export": _export,
    "import": _import,
    "examples": _examples,
}


def code(result: dict[str, Any]) -> int:
    """Code that does not compile is a failure."""
    return FAILED if result["verb"] == "check" and not result["result"]["ok"] else GOOD


def show(result: dict[str, Any]) -> None:
    """A table, a scenario, or what was done."""
    verb, name, answer = result["verb"], printable(result["name"]), result["result"]
    if verb == "list":
        _show_list(answer)
    elif verb == "show":
        _show_one(answer)
    elif verb == "output":
        _show_output(answer)
    elif verb == "check":
        where = f"{answer['file']}:{answer['line']}:{answer['column']}: " if not answer["ok"] else f"{answer['file']}: "
        print(printable(where + (answer["problem"] if not answer["ok"] else "good")))
    elif verb == "export":
        print(f"written to {printable(answer['file'])}")
    elif verb == "examples" and isinstance(answer, list) and all(isinstance(each, dict) for each in answer):
        rows = [[", ".join(each["scenarios"]), str(each.get("title") or "")] for each in answer]
        print_table(["example", "what it is"], rows)
    elif verb == "examples" and isinstance(answer, dict):
        _show_example(answer)
    elif verb in ("import", "examples"):
        names = ", ".join(map(str, answer))
        print(f"taken: {printable(names)}; not active: raspy scenario enable NAME has one act")
    else:
        print(f"{name} {SAID[verb].replace('NAME', name)}")


def _show_list(scenarios: list[dict[str, Any]]) -> None:
    rows = []
    for each in scenarios:
        since = each.get("since")
        ago = duration(time.time() - since) if isinstance(since, int | float) and since else ""
        conf = each.get("conf")
        active = "yes" if isinstance(conf, dict) and conf.get("active") else "no"
        counts = [str(each.get("runs", "")), str(each.get("failures", ""))]
        rows.append(
            [each["name"], each["state"], active, ago, *counts, str(each.get("reason") or each.get("label") or "")]
        )
    if rows:
        print_table(["scenario", "state", "active", "since", "runs", "failures", "reason"], rows)
    else:
        print("no scenarios; raspy scenario examples shows some")


def _show_one(found: dict[str, Any]) -> None:
    reason = f": {found['reason']}" if found.get("reason") else ""
    print(printable(f"state    {found['state']}{reason}"))
    for name in ("since", "cause", "runs", "failures", "last"):
        value = found.get(name)
        if value not in (None, "", {}):
            told = moment(value) if name == "since" else value
            print(printable(f"{name:<8} {told if isinstance(told, str) else msgspec.json.encode(told).decode()}"))
    for part in ("conf", "entries"):
        for i, (name, value) in enumerate(found[part].items()):
            text = msgspec.json.encode(value).decode()
            print(printable(f"{'' if i else part:<8} {name} = {text}"))
    print()
    print_text(found["code"])


def _show_example(document: dict[str, Any]) -> None:
    for text in (document.get("title"), document.get("text")):
        if text:
            print_text(str(text))
            print()
    for name, parts in document["scenarios"].items():
        print(printable(f"scenario {name}"))
        for part in ("conf", "entries"):
            for each, value in parts.get(part, {}).items():
                print(printable(f"  {part}: {each} = {msgspec.json.encode(value).decode()}"))
        print()
        print_text(parts["code"])


def _show_output(answer: dict[str, Any]) -> None:
    print_text(answer["output"])
    if answer.get("traceback"):
        print()
        print_text(answer["traceback"])


def print_text(text: str) -> None:
    """Print text of several lines, with nothing in it that steers a terminal."""
    for line in text.splitlines():
        print("\t".join(map(printable, line.split("\t"))))


def _follow(core: Core, name: str, answer: dict[str, Any], as_json: bool) -> None:
    """Print output as it comes; a core that restarts is waited for."""
    told, said = -1, False
    while True:
        try:
            start, text = placed(answer["output"])
            if told < start or start + len(text) < told:
                told = start  # the first look, or a core that was started anew, or more than is kept
            # Whole lines alone, as a line may still be on its way.
            end = text.rfind("\n") + 1
            fresh = text[told - start : end] if end > told - start else ""
            told += len(fresh)
            for line in fresh.splitlines():
                out(msgspec.json.encode({"line": line}).decode() if as_json else printable(line))
            if fresh:
                _flush()
            time.sleep(FOLLOW)
            answer = core.ask(ONE, "output", name)
            said = False
        except MDP.GenericError as error:
            if "no scenario" in str(error):
                raise
            if not said:
                said = True
                print(f"raspy: {error}; waiting for it", file=sys.stderr, flush=True)
            time.sleep(FOLLOW)


def placed(output: str) -> tuple[int, str]:
    """Where in all that was ever printed a tail begins, in characters, and the tail."""
    if output.startswith(CUT):
        head, _, rest = output.partition("\n")
        count = head.removeprefix(CUT).partition(" ")[0]
        if count.isascii() and count.isdecimal():
            return int(count), rest
    return 0, output


def _flush() -> None:
    try:
        sys.stdout.flush()
    except OSError as error:
        raise OutputError(error) from error
