"""Puts this Pi back to what is in a backup: all servers, or none.

The whole file is checked first. Each server copies its part beside what it has, and checks it; only when all can take
it is it decided, and they restart with it. What was before stays beside it (before-restore-...) until the next time.
--check only checks the file. With --json each line is a JSON object: what goes on, at last the result, or the error.
Exit code: 0 good, 1 refused, with nothing changed, 2 without --yes and nobody to ask, 3 it is decided and happens, but
not all servers were seen back with it yet.
"""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser
from typing import Any

from raspy.cli import GOOD
from raspy.cli.backup import coordinated, line, show_servers
from raspy.cli.command import Request, UseError, text_of
from raspy.common import MDP
from raspy.common.backup.client import summary
from raspy.common.backup.format import Manifest
from raspy.common.log import printable

LATE = 3
"""Exit code of a restore that is decided, and not over."""


class Late(MDP.ClientError):
    """A restore is decided, and not over."""

    exit_code = LATE


def arguments(parser: ArgumentParser) -> None:
    """What, and how."""
    parser.add_argument("file", metavar="FILE", help="as raspy backup has written it")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--check", action="store_true", help="only check the file")
    parser.add_argument("--partial", action="store_true", help="leave out a server that does not run")


def act(request: Request) -> dict[str, Any] | None:
    """Check the file, ask the owner, then have the servers do it."""
    words = request.arguments
    name = text_of(words.file)
    with coordinated(request) as (coordinator, progress):
        manifest = coordinator.check(words.file, name)
        progress.end()
        if words.check:
            result = {"file": name, "good": True, **summary(manifest)}
        else:
            if not words.yes:
                _ask(request, name, manifest)
            result = {"file": name, **coordinator.restore(words.file, name, manifest, words.partial)}
    if request.json:
        line({"event": "result", **result})
        if result.get("late"):
            raise Late(_late(result["late"]))
        return None
    return result


def _ask(request: Request, name: str, manifest: Manifest) -> None:
    """Have the owner say yes.

    :raises UseError: nobody is there to be asked
    :raises raspy.common.MDP.ClientError: the owner says no
    """
    if request.json or not sys.stdin.isatty():
        raise UseError("restore: it replaces what the servers have: say --yes")
    _describe(name, summary(manifest))
    sys.stdout.write("All servers restart, outputs go into their safe state meanwhile. Replace what they have? [y/N] ")
    sys.stdout.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise MDP.ClientError("nothing was changed")


def _describe(name: str, result: dict[str, Any]) -> None:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(result["time"]))
    print(f"{printable(name)}: of {printable(result['host'])}, {when}, RasPy {printable(result['version'])}")
    show_servers(result["servers"])


def show(result: dict[str, Any]) -> None:
    """Print what was done."""
    if "good" in result:
        _describe(result["file"], result)
        print("The file is good.")
        return
    back = [name for name in result["restored"] if name not in result["late"]]
    print(f"restored: {', '.join(back) or 'none yet'}")
    for name, why in result["left"].items():
        print(f"{name}: NOT restored: {printable(why)}")
    for name in result["kept"]:
        print(f"{name}: is not in the backup, and keeps what it has")
    if result["late"]:
        print(_late(result["late"]))


def _late(names: list[str]) -> str:
    return f"it is decided, and not over: {', '.join(names)} not back yet; each takes what is restored when it starts"


def code(result: dict[str, Any]) -> int:
    """Good when all are back."""
    return LATE if result.get("late") else GOOD
