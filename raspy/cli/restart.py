"""Has a server end cleanly and start again, which costs its values for a moment and nothing else.

SERVER is the name of one of this host, as fake, or HOST.SERVER. Outputs that it drives go into their safe state until
it is back.
Exit code: 0 it restarts, 1 it is not there, or nobody answers.
"""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from raspy.cli import out
from raspy.cli.command import Request, body_value
from raspy.common import MDP
from raspy.common.log import printable
from raspy.common.mdcliapi import MajorDomoClient


def arguments(parser: ArgumentParser) -> None:
    """Which."""
    parser.add_argument("server", metavar="SERVER", help="such as fake, or pi.fake")


def act(request: Request) -> dict[str, Any]:
    """Ask it to, as the process that it is."""
    given = request.arguments.server
    name = given if "." in given else MDP.routing_key(request.host, given)
    fields = body_value(request.snapshot(f"/server/{name}").get(f"/server/{name}", b""))
    if not isinstance(fields, dict) or not isinstance(fields.get("pid"), int):
        raise MDP.ClientError(f"{printable(name)}: there is no such server; raspy status lists them")
    pid = str(fields["pid"]).encode()
    with MajorDomoClient(request.address) as client:
        broker = name.partition(".")[2] == "broker"
        reply = client.send("mmi.restart", [pid]) if broker else client.send(f"{name}.mmi", [b"restart", pid])
    if reply is None:
        raise MDP.ClientError(f"{printable(name)}: no answer")
    if reply[-1] != MDP.OK:
        reason = body_value(reply[0]) if len(reply) > 1 else ""
        raise MDP.ClientError(f"{printable(name)}: {reason or 'it does not run'}")
    return {"server": name, "pid": fields["pid"], "state": "restarting"}


def show(result: dict[str, Any]) -> None:
    """Print a line."""
    out(f"{printable(result['server'])} restarts")
