"""Manual control: puts outputs into a mode that stands above every scenario, and ends by itself.

  raspy mode                          how all outputs are
  raspy mode heater off --for 2h      off, whoever wants it on
  raspy mode pump auto                as before
  raspy mode feeding                  all outputs that know this mode, for as long as it says
  raspy mode auto                     the end of all modes

The modes are auto, on, off, and those that are declared in the setting "modes" of an output. Without --for a mode holds
for as long as it, or the output's setting "manual", says. What was told meanwhile by scenarios is done when it ends.
Exit code: 0 done, 1 refused, or no answer.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any, TypeVar

from raspy.cli import fail
from raspy.cli.command import Request
from raspy.cli.exec import seconds, user
from raspy.cli.naming import Devices
from raspy.cli.table import duration, print_table
from raspy.common import MDP
from raspy.common.mdcliapi import MajorDomoClient

AUTO = "auto"


def arguments(parser: ArgumentParser) -> None:
    """The outputs, and the mode."""
    parser.add_argument(
        "words", metavar="[OUTPUT...] MODE", nargs="*", help="outputs by name or label, and the mode; one word: a mode"
    )
    parser.add_argument("--for", metavar="TIME", dest="seconds", type=seconds, help="hold it so long: 90s, 10m, 2h, 1d")


def act(request: Request) -> dict[str, Any]:
    """Set the mode, or list all."""
    words = list(request.arguments.words)
    lasts = request.arguments.seconds
    with MajorDomoClient(request.address) as client:
        devices = Devices(request, client)
        if not words:
            if lasts is not None:
                raise MDP.ClientError("--for needs a mode to hold")
            rows, failed = _all(devices)
            return {"modes": rows, "failed": failed}
        mode = words.pop()
        if mode == AUTO and lasts is not None:
            raise MDP.ClientError("auto is no mode that ends: leave --for out")
        told = ["" if lasts is None else f"{lasts:.3f}", user()]
        found = _by_server(devices, words) if words else dict.fromkeys(devices.servers, "")
        failed = []
        if not words and mode != AUTO:
            known, failed = _asked(devices, _known)
            found = {server: "" for server, modes in known.items() if mode in modes}
            if not found and not failed:
                raise MDP.ClientError(
                    f"{mode}: no output has such a mode, and no output is named: raspy mode OUTPUT {mode}"
                )
        done: dict[str, Any] = {}
        for server, names in found.items():
            try:
                answer = devices.ask(server, "mode", names, mode, *told)
            except MDP.ClientError as error:
                failed.append(str(error))
                continue
            done |= {MDP.routing_key(server, path): facts for path, facts in answer.items()}
    if failed and not done:
        raise MDP.ClientError("; ".join(failed))
    return {"modes": [{"output": name, **facts} for name, facts in sorted(done.items())], "failed": failed}


def show(result: dict[str, Any]) -> None:
    """Print a line for each output."""
    for problem in result["failed"]:
        fail(problem)
    rows = result["modes"]
    if not rows:
        print("no outputs" if not result["failed"] else "")
        return
    now = time.time()
    table = []
    for row in rows:
        end = row.get("mode_end") or 0
        left = duration(end - now) if end else ""
        value = row.get("value")
        table.append([row["output"], row["mode"], left, str(row.get("by") or ""), value or "", row.get("waits") or ""])
    print_table(["output", "mode", "left", "by", "is", "waits"], table)


def code(result: dict[str, Any]) -> int:
    """A server that did not answer is a failure, as its outputs are not known."""
    return 1 if result["failed"] else 0


T = TypeVar("T")


def _asked(devices: Devices, question: Callable[[Devices, str], T]) -> tuple[dict[str, T], list[str]]:
    """What each server answers to a question, and why some did not."""
    found: dict[str, T] = {}
    failed = []
    for server in devices.servers:
        try:
            found[server] = question(devices, server)
        except MDP.ClientError as error:
            failed.append(str(error))
    return found, failed


def _by_server(devices: Devices, names: list[str]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for name in names:
        server, path = devices.find(name)
        found.setdefault(server, []).append(path)
    return {server: ",".join(paths) for server, paths in found.items()}


def _outputs(devices: Devices, server: str) -> list[dict[str, Any]]:
    """The outputs of a server, subdevices included."""
    parts = [
        part for device in devices.ask(server, "list") for part in (device, *device.get("subdevices", {}).values())
    ]
    return [part for part in parts if "mode" in part.get("details", {})]


def _known(devices: Devices, server: str) -> set[str]:
    """The named modes of a server's outputs."""
    texts = [str(part.get("modes") or "") for part in _outputs(devices, server)]
    return {each.partition(":")[0].strip() for text in texts for each in text.split(",") if ":" in each}


def _all(devices: Devices) -> tuple[list[dict[str, Any]], list[str]]:
    rows = []
    found, failed = _asked(devices, _outputs)
    for server, parts in found.items():
        for part in parts:
            details = part["details"]
            rows.append(
                {
                    "output": MDP.routing_key(server, part["name"]),
                    "mode": details["mode"],
                    "mode_end": details.get("mode_end", 0),
                    "by": details.get("mode_by", ""),
                    "waits": details.get("waits", ""),
                    "value": _value(part),
                }
            )
    return rows, failed


def _value(part: dict[str, Any]) -> str:
    for name in ("power", "level"):
        found = part.get("commands", {}).get(name, {}).get("reading")
        if found is not None:
            if found.get("quality") != "ok":
                return str(found.get("quality"))
            value = found.get("value")
            return (
                ("on" if value else "off") if isinstance(value, bool) else f"{value:g} {found.get('unit', '')}".strip()
            )
    return ""
