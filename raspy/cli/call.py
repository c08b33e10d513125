"""Sends a request to a service and prints the frames of its reply, the status last.

A frame is given as text; without one an empty frame is sent. A reply's frame that is JSON is printed indented.
Exit code: 0 when the status is 200, 1 otherwise, or when no reply came.
"""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from raspy.cli import FAILED, GOOD
from raspy.cli.command import Request, body_value, print_json
from raspy.cli.watch import positive
from raspy.common import MDP
from raspy.common.log import printable
from raspy.common.mdcliapi import MajorDomoClient


def arguments(parser: ArgumentParser) -> None:
    """The service and its request."""
    parser.add_argument("service", metavar="SERVICE", help="such as pi.onewire.devices, or mmi.discovery")
    parser.add_argument("frames", metavar="FRAME", nargs="*", help="a server takes a verb and its arguments")
    parser.add_argument("--timeout", metavar="SECONDS", type=positive, help="how long to wait for each try")


def act(request: Request) -> dict[str, Any]:
    """Send, and wait."""
    service = request.arguments.service
    frames = [frame.encode("utf-8", "surrogateescape") for frame in request.arguments.frames]
    # A request of no frame at all is none, to a broker.
    frames = frames or [b""]
    with MajorDomoClient(request.address) as client:
        _find(request, client, service)
        if request.arguments.timeout:
            client.timeout = client.act_timeout = int(request.arguments.timeout * 1000)
        reply = client.send(service, frames)
        if not reply:
            raise MDP.ClientError(f"{service}: no answer in time; --timeout gives it longer")
    status = reply[-1].decode("ascii", "replace")
    return {"service": service, "status": status, "frames": [body_value(frame) for frame in reply[:-1]]}


def show(result: dict[str, Any]) -> None:
    """Print the frames, then the status."""
    print_frames(result["frames"])
    print(printable(result["status"]))


def print_frames(frames: list[Any]) -> None:
    """Print frames as :func:`~raspy.cli.command.body_value` gives them: JSON indented, text as it is."""
    for frame in frames:
        if isinstance(frame, str):
            print("\n".join(map(printable, frame.splitlines())))
        else:
            print_json(frame)


def code(result: dict[str, Any]) -> int:
    """Good when the service says 200."""
    return GOOD if result["status"] == MDP.OK.decode() else FAILED


def _find(request: Request, client: MajorDomoClient, service: str) -> None:
    """Raise what is wrong when the broker does not answer or does not know the service."""
    retries, client.retries = client.retries, 3
    known = client.send("mmi.service", [service.encode("utf-8", "surrogateescape")])
    client.retries = retries
    if known is None:
        raise request.no_broker()
    if known[-1] == MDP.NOT_FOUND and not service.startswith(MDP.INTERNAL_SERVICE_PREFIX):
        raise MDP.ClientError(f"{service}: no such service; raspy call mmi.discovery lists them")
