"""What makes a Pi an appliance: systemd calls it as root, at boot and when the page asks for something.

  raspy appliance status        what the last boot found on the boot partition, and what waits
  raspy appliance first-boot    a factory reset, the owner's raspy.toml, keys: before the servers start
  raspy appliance request       begin what the page asks for: a restart, power off, a factory reset
  raspy appliance customised    after cloud-init: have it rest until its files on the boot partition change

Exit code: 0 done, also where a file of the owner is no good, which is told; 1 something else could not be done.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser
from typing import Any

from raspy.cli import cloudinit, firstboot, out
from raspy.cli.command import Request
from raspy.common import MDP
from raspy.common.appliance import at, listens, problems


def arguments(parser: ArgumentParser) -> None:
    """What is to be done."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, text in (
        ("status", "what the last boot found, and what waits"),
        ("first-boot", "what is to be done before the servers start"),
        ("request", "begin what the page asks for"),
        ("customised", "see whether cloud-init may rest, or is to run again"),
    ):
        verbs.add_parser(name, help=text, description=text, allow_abbrev=False)


def act(request: Request) -> dict[str, Any]:
    """Do what the verb says."""
    verb = request.arguments.verb
    if verb == "status":
        return {
            "appliance": listens(),
            "problems": problems(),
            "reset_waits": os.path.exists(at(firstboot.MARKER)),
            "customised": os.path.exists(at(cloudinit.OFF)),
        }
    if os.geteuid() != 0 and not at(""):
        raise MDP.ClientError(f"appliance {verb}: it takes root")
    try:
        if verb == "first-boot":
            return {"problems": firstboot.first_boot()}
        return {"did": firstboot.requested() if verb == "request" else cloudinit.customised()}
    except OSError as error:
        raise MDP.ClientError(f"appliance {verb}: {error.filename or 'a file'}: {error.strerror}") from error


def show(result: dict[str, Any]) -> None:
    """Print it for a human, or for the journal."""
    if "appliance" in result:
        out("this machine is an appliance" if result["appliance"] else "this machine is no appliance")
        if result["reset_waits"]:
            out("at the next start everything is set back as it left the factory")
    if result.get("did"):
        out(f"{result['did']} is under way" if result["did"] != "noted" else "cloud-init rests from now on")
    for text in result.get("problems", ()):
        out(f"problem: {text}")
