"""Checks the configuration and the packages that bring servers, then that the broker answers, then that every server
which should be up is.

Exit code: 0 all is well, 1 something is not up, 2 the configuration is wrong.
"""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from raspy.cli import FAILED, GOOD
from raspy.cli.command import Request
from raspy.cli.status import act as status
from raspy.cli.status import problem, well
from raspy.common import MDP, others
from raspy.common.checking import check_config
from raspy.common.log import printable


def arguments(parser: ArgumentParser) -> None:
    """What to leave out."""
    parser.add_argument("--offline", action="store_true", help="check the configuration alone")


def act(request: Request) -> list[dict[str, Any]]:
    """Check one after the other; what does not answer ends it."""
    broken = [*others.find(), *check_config(request.config)]
    place = request.config.path or "no file, so the defaults"
    checks = [{"check": "configuration", "good": True, "text": place}]
    checks += [{"check": "packages", "good": False, "text": problem} for problem in broken]
    if request.arguments.offline:
        return checks
    try:
        servers = status(request)
    except MDP.ConnectionLost as error:
        return [*checks, {"check": "broker", "good": False, "text": str(error)}]
    checks.append({"check": "broker", "good": True, "text": f"answers at {request.address}"})
    for row in servers:
        state = str(row.get("state", "unknown"))
        why = problem(row) if state != "ok" else ""
        checks.append({"check": row["server"], "good": well(row), "text": f"{state}: {why}" if why else state})
    return checks


def refused(error: Exception) -> list[dict[str, Any]]:
    """The check that failed, as the others are told."""
    return [{"check": "configuration", "good": False, "text": str(error)}]


def show(result: list[dict[str, Any]]) -> None:
    """Print a line for each check."""
    for row in result:
        print(f"{'good' if row['good'] else 'BAD '}  {printable(row['check'])}: {printable(row['text'])}")


def code(result: list[dict[str, Any]]) -> int:
    """Good when every check is."""
    return GOOD if all(row["good"] for row in result) else FAILED
