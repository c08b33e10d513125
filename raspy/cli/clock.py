"""The three clocks of a Pi: the system's, what NTP servers say, and the real-time clock.

The offset is how far a clock is ahead of the system clock. "off" says of an RTC or a server why it is not believed.
Exit code: 0 the system clock is to be trusted, 1 it is not, or nobody answers.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser
from typing import Any

from raspy.cli import FAILED, GOOD, out
from raspy.cli.command import Request, body_value
from raspy.cli.table import duration, print_table
from raspy.common import MDP
from raspy.common.mdcliapi import MajorDomoClient


def arguments(parser: ArgumentParser) -> None:
    """Whose clocks."""
    parser.add_argument("host", metavar="HOST", nargs="?", help="another Pi of the bus; left out: this one")


def act(request: Request) -> dict[str, Any]:
    """Ask its server."""
    return ask(request, request.arguments.host or request.host)


def ask(request: Request, host: str) -> dict[str, Any]:
    """What the server ``sync`` of a host says.

    :raises raspy.common.MDP.ClientError: it is not there, or does not answer
    """
    service = MDP.routing_key(host, "sync.time")
    with MajorDomoClient(request.address) as client:
        if service.encode() not in request.services(client):
            raise MDP.ClientError(
                f"{service} is not served. Does servers in [run] name sync, or is raspy-sync running?"
            )
        reply = client.send(service, [b"status"])
    if reply is None:
        raise MDP.ClientError(f"{service}: no answer")
    fields = body_value(reply[0])
    if reply[-1] != MDP.OK or not isinstance(fields, dict):
        raise MDP.ClientError(f"{service}: {fields}")
    return fields


def show(result: dict[str, Any]) -> None:
    """Print a table of the clocks, and what there is to say."""
    system, ntp, rtc = result["system"], result["ntp"], result["rtc"]
    state = f"trusted by {system['source']}: " if system["trusted"] else "NOT to be trusted: "
    rows = [["system", _date(system["time"]), "", state + system["reason"]]]
    if ntp["offset"] is not None:
        said = f"{len(ntp['agreeing'])} of {ntp['answered']} agree, {duration(ntp['age'])} ago"
        rows.append(["ntp", _date(system["time"] + ntp["offset"]), _offset(ntp["offset"]), ntp["problem"] or said])
    else:
        rows.append(["ntp", "", "", ntp["problem"] or "not measured yet"])
    if rtc is not None:
        state = f"off: {rtc['problem']}" if rtc["problem"] else rtc["weak"] or "good"
        rows.append(["rtc", _date(rtc["time"]), _offset(rtc["offset"]), f"{rtc['name']}: {state}"])
    else:
        rows.append(["rtc", "", "", "there is none"])
    print_table(["clock", "time (UTC)", "offset", "state"], rows)
    if ntp["servers"]:
        out("")
        print_table(
            ["ntp server", "offset", "delay", "stratum", "asked", "state"], [_server(s) for s in ntp["servers"]]
        )
    out("")
    out(f"kept by:      {result['keeper'] or 'sync' if result['keeper'] or not result['may_set'] else 'nobody'}")
    if result["may_set"]:
        out(f"sync:         {result['may_set']}")
    change = result["last_change"]
    if change is not None:
        before = _date(change["before"]) or "nothing"
        out(
            f"last change:  {change['clock']} clock from {before} to {_date(change['after'])}, by {change['source']}: "
            f"{change['reason']}"
        )


def code(result: dict[str, Any]) -> int:
    """Whether the clock is to be trusted."""
    return GOOD if result["system"]["trusted"] else FAILED


def _server(server: dict[str, Any]) -> list[str]:
    return [
        server["server"],
        _offset(server["offset"]),
        "" if server["delay"] is None else f"{server['delay'] * 1000:.0f} ms",
        str(server["stratum"] or ""),
        duration(server["age"]),
        f"off: {server['problem']}" if server["problem"] else "good",
    ]


def _offset(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:+.3f} s" if abs(seconds) < 100 else f"{'-' if seconds < 0 else '+'}{duration(abs(seconds))}"


def _date(wall: float | None) -> str:
    if wall is None:
        return ""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(wall))
    except (ValueError, OverflowError, OSError):
        return f"{wall:.0f} s"
