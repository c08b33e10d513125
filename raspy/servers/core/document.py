"""Scenarios as one JSON document, to share with friends: ``{"raspy": "scenarios", "version": 1, "scenarios": {…}}``."""

from __future__ import annotations

import os
from typing import Any

import msgspec

from raspy.common import MDP
from raspy.common.config import ID
from raspy.common.verbs import VerbError
from raspy.servers.core.parts import PartError, check_code, parse_conf, parse_entries

WHAT, VERSION = "scenarios", 1
MOST = 200
"""Scenarios of a document."""
EXAMPLES = ("thermostat", "filling", "daylight")


class DocumentError(VerbError):
    """A document that cannot be taken (status 400); the message names the scenario and the part at fault."""

    def __init__(self, reason: str) -> None:
        super().__init__(MDP.BAD_REQUEST, reason)


class Parts(msgspec.Struct, forbid_unknown_fields=True):
    """One scenario of a document."""

    code: str
    conf: dict[str, Any] = {}
    entries: dict[str, Any] = {}


class Document(msgspec.Struct, forbid_unknown_fields=True):
    """The document."""

    raspy: str
    version: int
    scenarios: dict[str, Parts]
    title: str = ""
    """What it is, in a line."""
    text: str = ""
    """What it does, and what to set before it is made active."""


def make(scenarios: dict[str, Parts]) -> dict[str, Any]:
    """The document of some scenarios. They are not active in it: whoever takes them looks at them first."""
    given = {
        name: {"conf": {**parts.conf, "active": False}, "entries": parts.entries, "code": parts.code}
        for name, parts in sorted(scenarios.items())
    }
    return {"raspy": WHAT, "version": VERSION, "scenarios": given}


def read(document: Any, host: str) -> dict[str, Parts]:
    """The scenarios of a document, every part of them checked but whether the code compiles.

    :param host: this host's name, for keys that name none
    :raises DocumentError: it is none, or something in it cannot be
    """
    if not isinstance(document, dict) or document.get("raspy") != WHAT:
        raise DocumentError(f'this is no document of scenarios: it does not say "raspy": "{WHAT}"')
    version = document.get("version")
    if version != VERSION or isinstance(version, bool):
        raise DocumentError(
            f"the document has version {str(version)[:20]}, and this RasPy takes version {VERSION}: "
            "update RasPy, or have the document exported by one as old as this"
        )
    try:
        found = msgspec.convert(document, Document).scenarios
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DocumentError(f"the document is not good: {error}"[:500]) from error
    if not found:
        raise DocumentError("there is no scenario in the document")
    if len(found) > MOST:
        raise DocumentError(f"the document has {len(found)} scenarios; {MOST} can be taken at once")
    for name, parts in found.items():
        if ID.fullmatch(name) is None:
            raise DocumentError(f"{name[:80]!r} is no name: 1 to 63 of a-z, 0-9, _ and -")
        try:
            check_code(parts.code)
            parse_conf(parts.conf)
            parse_entries(parts.entries, host)
        except PartError as error:
            raise DocumentError(f"{name}: {error}") from error
    return found


def examples() -> list[dict[str, Any]]:
    """The documents that come with RasPy."""
    directory = os.path.join(os.path.dirname(__file__), "examples")
    found = []
    for name in EXAMPLES:
        with open(os.path.join(directory, f"{name}.json"), "rb") as file:
            found.append(msgspec.json.decode(file.read(), type=dict[str, Any]))
    return found
