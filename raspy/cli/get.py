"""Prints a key of the tree: its body alone; or, when KEY ends in / or is no key, all keys that begin with it.

With --json a body that is JSON is printed as it is, any other as a string; several keys as an object.
Exit code: 0 found, 1 no such key, or the broker does not answer.
"""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from raspy.cli.command import Request, body_value
from raspy.cli.table import reading
from raspy.common import MDP
from raspy.common.log import printable


def arguments(parser: ArgumentParser) -> None:
    """The key."""
    parser.add_argument("key", metavar="KEY", help="such as /device/pi.onewire.28-0316a2794bff/temperature")


def act(request: Request) -> Any:
    """Read the key, or all below."""
    key = request.arguments.key
    tree = request.snapshot(key)
    if key in tree:
        return Single(body_value(tree[key])) if not request.json else body_value(tree[key])
    if not tree:
        raise MDP.ClientError(f"no key is or begins with {key!r}; raspy get / prints all")
    return {name: body_value(body) for name, body in tree.items()}


class Single:
    """The body of the one key that was asked for."""

    def __init__(self, value: Any) -> None:
        self.value = value


def show(result: Any) -> None:
    """Print one body in full, several keys with what they read."""
    if isinstance(result, Single):
        value = result.value
        if isinstance(value, str):
            print("\n".join(map(printable, value.splitlines())))
        else:
            from raspy.cli.command import print_json

            print_json(value)
        return
    width = max(map(len, result))
    for key, value in result.items():
        print(f"{printable(key):<{width}}  {reading(value)}")
