"""The 1-Wire bus and its probes: what the kernel shows, and what the readings say."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from raspy.cli.command import body_value
from raspy.cli.doctor.check import Found, Look, check, listed, ok, problem, unchecked, warning
from raspy.common import MDP
from raspy.common.appliance import at
from raspy.servers.onewire import DEVICES_DIR, OneWireConfig, sysfs
from raspy.servers.onewire.reader import ENTRY

MODULES = ("wire", "w1_therm")
"""What the kernel must have loaded; what drives the bus, as w1_gpio, is one of several."""
OVERLAY = "dtoverlay=w1-gpio must be in config.txt; then start the machine again"
WIRING = (
    "look at the plugs, and for the resistor of 4.7 kohm between data and 3.3 V; long cables want one of 2.2 kohm, "
    "and no star"
)
ADVICE = (
    ("power-on", f"the probe lost its power, or has too little: {WIRING}"),
    ("too little power", "feed the probe by its third wire, not by the data line"),
    ("CRC", f"the line is disturbed: {WIRING}"),
    ("gone", "plug it in again; raspy device delete forgets one that is gone for good"),
    ("hang", "the kernel waits for the bus: unplug one probe after the other, or start the machine again"),
)
"""By what the reason of a reading that failed has in it, what to do; of any other it is the wiring."""
NOISE = "00-"
"""How the names begin of slaves that are there only because the data line floats."""
ERRORS = 0.02
"""Part of the readings of a probe that may fail before it is told, of a hundred or more."""
ASKED = 32
"""Probes that are asked for their counts."""


@check("1-Wire bus")
def bus(look: Look) -> Iterator[Found]:
    """Whether the kernel shows a bus, and what is on it."""
    if not look.runs("onewire"):
        yield unchecked("the server onewire does not run here")
        return
    place, default = _directory(look)
    try:
        found = sysfs.scan(place)
    except FileNotFoundError:
        if default and not os.path.exists(os.path.dirname(place)):
            yield unchecked(f"this machine has no 1-Wire bus: there is no {os.path.dirname(place)}", OVERLAY)
        else:
            yield problem(f"there is no {place}", OVERLAY if default else "see devices_dir in [onewire]")
        return
    except PermissionError:
        yield problem(f"{place} cannot be listed", "everybody must be able to read it")
        return
    said = f"{place}: bus masters: {len(found.masters)}, probes: {len(found.probes)}"
    noise = [name for names in found.unknown.values() for name in names if name.startswith(NOISE)]
    if noise:
        yield warning(f"{said}; {len(noise)} that do not exist, as {noise[0]}: the data line floats", WIRING)
    elif not found.probes:
        yield warning(said, WIRING if found.masters or not default else OVERLAY)
    else:
        yield ok(said)


@check("kernel modules")
def modules(look: Look) -> Iterator[Found]:
    """Whether the kernel can read probes."""
    if not look.runs("onewire"):
        yield unchecked("the server onewire does not run here")
        return
    place, default = _directory(look)
    if not default or not os.path.exists(os.path.dirname(place)):
        yield unchecked("the probes are not the kernel's" if not default else "this machine has no 1-Wire bus")
        return
    missing = [name for name in MODULES if not os.path.isdir(at(f"/sys/module/{name}"))]
    if missing:
        names = " ".join(missing).replace("_", "-")
        yield problem(
            f"not loaded: {', '.join(missing)}",
            f"sudo modprobe -a {names}; a line for each in /etc/modules-load.d/raspy.conf keeps them",
        )
    else:
        yield ok(f"loaded: {', '.join(MODULES)}")


@check("probes")
def probes(look: Look) -> Iterator[Found]:
    """How the probes of this host read."""
    if not look.runs("onewire"):
        yield unchecked("the server onewire does not run here")
        return
    server = MDP.routing_key(look.request.host, "onewire")
    prefix = f"/device/{server}."
    known: dict[str, Any] = {}
    for key, body in look.request.snapshot(prefix).items():
        name, _, command = key.removeprefix(prefix).partition("/")
        value = body_value(body)
        if command == "temperature" and isinstance(value, dict):
            known[name] = value
    if not known:
        yield unchecked("no probe is on the tree", "see the findings on servers and the 1-Wire bus")
        return
    good = [name for name, value in known.items() if value.get("quality") == "ok"]
    if good:
        yield ok(f"{len(good)} of {len(known)} read well: {listed(good)}")
    for name, value in known.items():
        if name not in good:
            reason = str(value.get("reason") or value.get("quality"))
            yield problem(f"{name}: {reason}", advice(reason))
    for name in [name for name in known if ENTRY.fullmatch(name)][:ASKED]:
        yield from _counts(name, look.ask(f"{server}.devices", "info", name))


def advice(reason: str) -> str:
    """What to do about a reading that failed."""
    return next((todo for words, todo in ADVICE if words in reason), WIRING)


def _counts(name: str, told: Any) -> Iterator[Found]:
    """Failures that come and go, which no single value shows."""
    details = told.get("details") if isinstance(told, dict) else None
    counts = details.get("counts") if isinstance(details, dict) else None
    if not isinstance(counts, dict):
        return
    known = {kind: count for kind, count in counts.items() if isinstance(count, int) and kind != "retried"}
    total, failed = sum(known.values()), {kind: count for kind, count in known.items() if count and kind != "good"}
    if total >= 100 and sum(failed.values()) > ERRORS * total:
        kinds = ", ".join(f"{count} {kind}" for kind, count in failed.items())
        yield warning(f"{name}: {sum(failed.values())} of {total} readings failed ({kinds})", WIRING)


def _directory(look: Look) -> tuple[str, bool]:
    """Where probes are, and whether that is the kernel's own directory."""
    place = look.config.section(OneWireConfig).devices_dir
    return (at(place), True) if place == DEVICES_DIR else (place, False)
