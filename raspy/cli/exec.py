"""Reads a command of a device, or sets it: raspy exec heater power on --for 10m

A device is named in full (pi.fake.heater), without the host (fake.heater), by its name alone or by its label, as long
as only one is meant. An output is held for the time said with --for, or for its setting "lease", then it goes into
its safe state. A command is not done when it comes late: it has 10 s.
Exit code: 0 done, 1 refused, or no answer.
"""

from __future__ import annotations

import binascii
import getpass
import os
import re
from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

from raspy.cli.command import Request, print_json
from raspy.cli.naming import Devices
from raspy.cli.table import reading
from raspy.common import MDP
from raspy.common.mdcliapi import MajorDomoClient

UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def seconds(text: str) -> float:
    """A time, as ``90``, ``90s``, ``10m`` or ``2h``."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)(s|m|min|h|d)?", text, re.ASCII)
    if match is None or float(match[1]) == 0:
        raise ArgumentTypeError(f"{text[:30]!r} is no time: a number above 0 and s, m, h or d, as 10m")
    return float(match[1]) * UNITS[match[2] or ""]


def arguments(parser: ArgumentParser) -> None:
    """The device, the command and the value."""
    parser.add_argument("device", metavar="DEVICE", help="its name or label")
    parser.add_argument("name", metavar="COMMAND", help="raspy device show DEVICE names them")
    parser.add_argument("value", metavar="VALUE", nargs="?", help="what to set; without it the value is read")
    parser.add_argument("--for", metavar="TIME", dest="seconds", type=seconds, help="hold an output so long: 90s, 10m")
    parser.add_argument("--output", metavar="FILE", help="write what a camera gives to a file")


def act(request: Request) -> Any:
    """Find the device and tell it."""
    words = request.arguments
    frames = ["exec", words.name]
    if words.value is not None:
        frames.append(words.value)
        if words.seconds is not None:
            frames.append(f"{words.seconds:g}")
    elif words.seconds is not None:
        raise MDP.ClientError("--for needs a value to hold")
    with MajorDomoClient(request.address) as client:
        devices = Devices(request, client)
        server, path = devices.find(words.device)
        if words.value is not None:
            frames += [""] * (4 - len(frames)) + [user()]
        result = devices.ask(server, frames[0], path, *frames[1:])
    return _write(words.output, result) if words.output else {"result": result}


def show(result: dict[str, Any]) -> None:
    """Print a value in one line, anything else as JSON."""
    value = result["result"]
    if isinstance(value, dict) and "quality" not in value:
        print_json(value)
    elif value is not None:
        print(reading(value))


def code(result: dict[str, Any]) -> int:
    """A value that is no good is a failure, as its reason is all there is."""
    value = result["result"]
    return 1 if isinstance(value, dict) and value.get("quality", "ok") != "ok" else 0


def user() -> str:
    """Who is at the command line, for the record."""
    try:
        return f"{getpass.getuser()} (command line)"[:60]
    except (OSError, KeyError):
        return f"user {os.getuid()} (command line)"


def _write(path: str, result: Any) -> dict[str, Any]:
    """Put a picture into a file."""
    try:
        data = binascii.a2b_base64(result["data"])
    except (KeyError, TypeError, ValueError) as error:
        raise MDP.ClientError("there is nothing to write to a file in what it answers") from error
    try:
        with open(path, "wb") as file:
            file.write(data)
    except OSError as error:
        raise MDP.ClientError(f"{path}: {error.strerror}") from error
    fields = {key: value for key, value in result.items() if key != "data"}
    return {"result": {**fields, "file": path, "bytes": len(data)}}
