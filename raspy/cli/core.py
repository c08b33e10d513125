"""What the commands cron, scenario and variable have in common: how the core is found and asked."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from raspy.cli.command import Parser, Request, UseError, body_value, bytes_of, text_of
from raspy.cli.store import read_bytes
from raspy.common import MDP
from raspy.common.mdcliapi import MajorDomoClient

PATIENCE = 10.0
"""Seconds that the core may take: what it is told it keeps on a card."""
DAY = 86_400


class MixedParser(Parser):
    """Takes ``NAME=VALUE`` behind options too, where argparse wants them all in one place."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """The arguments, and what is none."""
        found, rest = super().parse_known_args(args, namespace)
        if hasattr(found, "settings"):
            found.settings = [*found.settings, *(word for word in rest if not word.startswith("-"))]
            rest = [word for word in rest if word.startswith("-")]
        return found, rest


class Core:
    """The core on the bus: that of this host, if it has one.

    :param request: the command
    :param client: to ask it with
    :param service: the part of it that is asked, as ``cron``
    :raises raspy.common.MDP.ClientError: it is not there, or the broker does not answer
    """

    def __init__(self, request: Request, client: MajorDomoClient, service: str) -> None:
        self.client = client
        self.name = request.find(client, f"core.{service}", "the core").removesuffix(f".{service}")
        client.timeout = client.act_timeout = int(PATIENCE * 1000)

    def ask(self, service: str, *words: str | bytes) -> Any:
        """What a verb of one of its services answers.

        :raises raspy.common.MDP.ClientError: it refuses, or does not answer
        """
        reply = self.client.send(f"{self.name}.{service}", [bytes_of(word) for word in words])
        if reply is None:
            raise MDP.ClientError(f"{self.name}.{service}: no answer in {PATIENCE:g} s; raspy status shows how it is")
        answer = body_value(reply[0])
        if reply[-1] != MDP.OK:
            raise MDP.ClientError(f"{self.name}: {answer}")
        return answer


def moment(at: Any, zone: str = "") -> str:
    """A Unix time as local time, with its weekday; seconds where there are any.

    :param zone: whose local time, named behind it when that is another than here; empty, or one that is not known
        here: that of here
    """
    if isinstance(at, bool) or not isinstance(at, int | float):
        return ""
    try:
        here = time.localtime(at)
        known = _zone(zone)
        there = here if known is None else datetime.fromtimestamp(int(at), known).timetuple()
    except (OverflowError, OSError, ValueError):
        return "?"
    text = time.strftime("%a %Y-%m-%d %H:%M" + (":%S" if there.tm_sec else ""), there)
    return text if there[:6] == here[:6] else f"{text} {zone}"


@functools.cache
def _zone(name: str) -> tzinfo | None:
    try:
        return ZoneInfo(name) if name else None
    except (OSError, ValueError, LookupError):
        return UTC if name == "UTC" else None


def read(path: str) -> str:
    """The text in a file, or from standard input (``-``).

    :raises raspy.common.MDP.ClientError: it cannot be read
    """
    body, source = read_bytes(path)
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise MDP.ClientError(f"{source} is not text in UTF-8 (byte {error.start})") from error


def settings_of(words: Sequence[str], texts: Sequence[str]) -> dict[str, Any]:
    """Settings from the words ``name=value``; ``part.name=value`` is one within an object.

    A value is JSON where it is that, else text; one of no characters takes the setting away (None).

    :param texts: settings that are always text
    :raises UseError: a word is none
    """
    settings: dict[str, Any] = {}
    for word in words:
        name, equals, value = text_of(word).partition("=")
        part, dot, own = name.partition(".")
        if not equals or not part or (dot and not own):
            raise UseError(f"{text_of(word)[:60]!r}: a setting is given as name=value, as label=Morning")
        found = None if not value else value if name in texts else body_value(value.encode())
        if dot:
            inner = settings.setdefault(part, {})
            if not isinstance(inner, dict):
                raise UseError(f"{part} and {name} do not go together")
            inner[own] = found
        else:
            settings[name] = found
    return settings


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Settings with others in their place; None takes one away."""
    result = dict(old)
    for name, value in new.items():
        if isinstance(value, dict) and isinstance(result.get(name), dict):
            value = merged(result[name], value)
        if value is None:
            result.pop(name, None)
        else:
            result[name] = value
    return result
