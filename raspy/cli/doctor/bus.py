"""The bus: whether the broker answers, how the servers are, and whether values are current."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

from raspy.cli.command import body_value
from raspy.cli.doctor.check import Found, Look, check, listed, ok, problem, unchecked, warning
from raspy.cli.status import act as status
from raspy.cli.status import problem as what_is_wrong
from raspy.cli.status import well
from raspy.common import MDP
from raspy.common.config import BusConfig, ConfigError
from raspy.common.hosts import is_local

SLOW = 1.0
"""Seconds after which an answer of the broker is a late one."""
CONNECT = 2.0
"""Seconds that connecting may take."""
DENIED = "this user may not use its socket"
MANY_RESTARTS = 3
DEVICES = "/device/"


@check("broker")
def broker(look: Look) -> Iterator[Found]:
    """Whether it can be reached, and answers."""
    bus = look.config.section(BusConfig)
    address = MDP.endpoint(bus.broker_ip, bus.broker_port)
    try:
        look.request.bus  # noqa: B018  the keys for it are looked for
    except ConfigError as error:
        yield problem(str(error), "see the page on keys: raspy keys, on the broker's host, makes them")
        return
    began = time.monotonic()
    try:
        tree = look.request.snapshot("/")
    except MDP.ConnectionLost:
        why = unreachable(bus)
        todo = (
            look.restart("broker") if is_local(bus.broker_ip) else "look whether that machine runs; raspy doctor there"
        )
        yield problem(f"{address} does not answer: {why}", "see the finding on permissions" if why == DENIED else todo)
        return
    took = time.monotonic() - began
    said = f"{address} answers in {took * 1000:.0f} ms; {len(tree)} keys on the tree"
    if took > SLOW:
        yield warning(f"{said}, which is slow", "look at memory, load and disk: the machine is very busy")
    else:
        yield ok(said)


def unreachable(bus: BusConfig) -> str:
    """What the kernel says of a connection to the broker."""
    local = bus.broker_ip.startswith("ipc://")
    place = os.path.join(bus.broker_ip.removeprefix("ipc://"), str(bus.broker_port))
    try:
        if local:
            with socket.socket(socket.AF_UNIX) as peer:
                peer.settimeout(CONNECT)
                peer.connect(place)
        else:
            socket.create_connection((bus.broker_ip.strip("[]"), bus.broker_port), CONNECT).close()
    except TimeoutError:
        return f"nothing comes back within {CONNECT:g} s"
    except BlockingIOError:
        # On a socket of the file system at once, and never a timeout (connect(2), EAGAIN).
        return "more wait there than it takes: it hangs"
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
            return "nobody listens there, so the broker does not run"
        return DENIED if error.errno == errno.EACCES else (error.strerror or str(error)).lower()
    return "somebody listens there, and says nothing: it hangs, is no broker of RasPy, or does not know this host's key"


@check("servers")
def servers(look: Look) -> Iterator[Found]:
    """How each server is, as the broker tells it."""
    rows = status(look.request)
    good = [row["server"] for row in rows if well(row)]
    if not rows:
        yield problem("the broker knows no server", look.restart("broker"))
    elif good:
        yield ok(f"{len(good)} of {len(rows)} are as they should be: {listed(good, 12)}")
    for row in rows:
        yield from _server(look, row)


def _server(look: Look, row: dict[str, Any]) -> Iterator[Found]:
    name, state = row["server"], str(row.get("state", "unknown"))
    own = name.removeprefix(f"{look.request.host}.")
    todo = look.restart(own) if own != name else "raspy doctor on that Pi says more"
    if not well(row):
        said = f"{name} is {state}: {what_is_wrong(row) or 'it gives no reason'}"
        yield warning(said, f"raspy call {name}.mmi log shows its log") if state == "degraded" else problem(said, todo)
    restarts = row.get("restarts")
    if isinstance(restarts, int) and restarts >= MANY_RESTARTS:
        why = what_is_wrong(row)
        yield warning(
            f"{name} was restarted {restarts} times since the broker's start{f': {why}' if why else ''}", todo
        )


@check("values")
def values(look: Look) -> Iterator[Found]:
    """Whether the values of devices are current and good."""
    found: dict[str, list[str]] = {"ok": [], "stale": [], "error": []}
    for key, body in look.request.snapshot(DEVICES).items():
        value = body_value(body)
        if isinstance(value, dict) and "quality" in value:
            found.setdefault(str(value["quality"]), []).append(key.removeprefix(DEVICES))
    count = sum(map(len, found.values()))
    bad = [f"{len(keys)} {quality}: {listed(keys, 3)}" for quality, keys in found.items() if keys and quality != "ok"]
    if bad:
        yield warning(f"{len(found['ok'])} of {count} are good; {'; '.join(bad)}", "raspy devices says why of each")
    elif count:
        yield ok(f"{count}, all of them good and current")
    else:
        yield unchecked("there are none on the tree", "a server with devices publishes them within a poll")
