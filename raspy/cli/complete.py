"""Not listed: what completion scripts ask for, one a line. ``raspy __complete WHAT PREFIX``, where WHAT is
keys, services, devices, scenarios, variables, jobs, or servers, which are those of other packages.

Silent and quick: when the broker does not answer there is nothing to offer.
"""

from __future__ import annotations

from argparse import ArgumentParser

from raspy.cli.command import Request, body_value
from raspy.common import MDP, others
from raspy.common.log import printable
from raspy.common.mdcliapi import MajorDomoClient
from raspy.common.registry import SERVERS

DEVICE = "/device/"
BRANCHES = {"scenarios": "/scenario/", "variables": "/variable/"}
"""Where on the tree each has a key."""
PATIENCE = 0.5
"""Seconds that somebody who pressed Tab waits."""


def arguments(parser: ArgumentParser) -> None:
    """What to complete."""
    parser.add_argument("what", choices=["keys", "services", "devices", *BRANCHES, "jobs", "servers"])
    parser.add_argument("prefix", nargs="?", default="")


def act(request: Request) -> list[str]:
    """The words that begin with the prefix."""
    prefix = request.arguments.prefix
    if request.arguments.what == "servers":
        others.find()
        return [name for name, entry in SERVERS.items() if entry.package and name.startswith(prefix)]
    try:
        if request.arguments.what == "keys":
            return list(request.snapshot(prefix or "/", PATIENCE))
        if request.arguments.what == "devices":
            keys = request.snapshot(DEVICE + prefix, PATIENCE)
            return sorted({key.removeprefix(DEVICE).partition("/")[0] for key in keys})
        if request.arguments.what in BRANCHES:
            branch = BRANCHES[request.arguments.what]
            return [key.removeprefix(branch) for key in request.snapshot(branch + prefix, PATIENCE)]
        with MajorDomoClient(request.address) as client:
            client.timeout, client.retries = int(PATIENCE * 1000), 1
            if request.arguments.what == "jobs":
                reply = client.send(MDP.routing_key(request.host, "core.cron"), [b"list_keys"]) or []
            else:
                reply = client.send("mmi.discovery", [b""]) or []
    except MDP.GenericError:
        return []
    names = [name for frame in reply[:-1] for name in _names(body_value(frame))]
    return sorted(name for name in names if name.startswith(prefix))


def _names(value: object) -> list[str]:
    if isinstance(value, list):
        return [str(name) for name in value]
    return str(value).split()


def show(result: list[str]) -> None:
    """Print them."""
    for word in result:
        print(printable(word))
