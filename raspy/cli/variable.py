"""Shows and sets the variables: values that scenarios and their owner share. They survive restarts.

raspy variable set level 21.5 sets a number, raspy variable set feeding true a truth value; what is neither is a text,
and so is what stands in quotes of its own: raspy variable set code '"0815"'.
Exit code: 0 good, 1 no such variable, one that cannot be set so, or no answer.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser
from typing import Any

import msgspec

from raspy.cli.command import Request, adds_verbs, body_value, text_of
from raspy.cli.core import Core, moment
from raspy.cli.table import duration, number, print_table
from raspy.common.log import printable
from raspy.common.mdcliapi import MajorDomoClient

SERVICE = "variable"


def arguments(parser: ArgumentParser) -> None:
    """A verb, a name and a value."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    add = adds_verbs(verbs)
    add("list", "list the variables with their values and when they were set")
    add("get", "print the value of one", "name")
    add("set", "set one, which makes it if it is not there", "name", "value")
    add("delete", "have one no more", "name")


def act(request: Request) -> dict[str, Any]:
    """Ask the core."""
    words = request.arguments
    with MajorDomoClient(request.address) as client:
        core = Core(request, client, SERVICE)
        given = [] if words.verb == "list" else [words.name]
        if words.verb == "set":
            given.append(msgspec.json.encode(_value(words.value)))
        answer = core.ask(SERVICE, words.verb, *given)
    return {"verb": words.verb, "name": text_of(getattr(words, "name", "")), "result": answer}


def show(result: dict[str, Any]) -> None:
    """A table, a value, or what was done."""
    name, answer = result["name"], result["result"]
    if result["verb"] == "list":
        rows = [[each, _shown(kept), moment(kept.get("time")), _age(kept)] for each, kept in sorted(answer.items())]
        if rows:
            print_table(["variable", "value", "set", "ago"], rows)
        else:
            print("no variables")
    elif result["verb"] == "get":
        print(printable(_shown(answer)))
    elif result["verb"] == "set":
        print(f"{printable(name)} is {printable(_shown(answer))}")
    else:
        print(f"{printable(name)} is deleted")


def _value(text: str) -> Any:
    """What JSON says, where that is a number, a truth value or a text; else the text itself."""
    value = body_value(text_of(text).encode())
    return value if isinstance(value, bool | int | float | str) else text_of(text)


def _shown(kept: Any) -> str:
    return number(kept.get("value")) if isinstance(kept, dict) else "?"


def _age(kept: Any) -> str:
    at = kept.get("time") if isinstance(kept, dict) else None
    return duration(time.time() - at) if isinstance(at, int | float) else ""
