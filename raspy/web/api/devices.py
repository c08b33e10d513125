"""Devices: readings, commands, settings; and the modes of outputs."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from raspy.web.actions import Actions
from raspy.web.api import services
from raspy.web.api.operation import LIST, NAME, SERVER, Operations, Page, Parameter, encoded, page
from raspy.web.hands import LOOK, SET
from raspy.web.refusal import Refusal
from raspy.web.rows import DEVICE, UNREACHABLE
from raspy.web.site import Site
from raspy.web.texts import fields, summary
from raspy.web.visit import Visit

OPERATIONS = Operations("devices")

DEVICE_NAME = {
    "name": Parameter(
        "the whole name of a device, as pi.fake.heater, or of a part of one, as pi.fake.tank.top",
        pattern=rf"{NAME}\.{NAME}\.{NAME}(?:\.{NAME})?",
    )
}
COMMAND = {**DEVICE_NAME, "command": Parameter("a command of it", pattern=r"[A-Za-z0-9_.-]{1,63}")}
Seconds = Annotated[float, Meta(ge=0.001, le=1e8, extra_json_schema={"unit": "s"})]


def _ask(site: Site, purpose: str, name: str, verb: str, *words: str) -> Any:
    """What a verb answers to the name of a device."""
    host, server, path = name.split(".", 2)
    return services.call(site, purpose, f"{host}.{server}", "devices", verb, path, *words)


class Readings(msgspec.Struct):
    """A device as the tree has it."""

    name: str
    label: str
    """What its owner calls it."""
    server: str
    readings: dict[str, Any]
    """By command: ``value`` or ``last``, ``unit``, ``time`` (Unix, s), ``quality`` (ok, stale, error), ``reason``."""


class Devices(msgspec.Struct):
    """Devices by name."""

    bus: str
    """``live``, ``connecting`` or ``lost``: then no reading is current."""
    items: list[Readings]
    next: str | None
    """To be given as ``after`` for the next part; null: this is the last."""


class Set(msgspec.Struct, forbid_unknown_fields=True):
    """What a command is set to."""

    value: Any
    """Of the type that the command has."""
    seconds: Seconds | None = None
    """For how long an output is held so; left out: its setting ``lease``."""


class Mode(msgspec.Struct, forbid_unknown_fields=True):
    """A mode of an output."""

    mode: Annotated[str, Meta(pattern=f"^{NAME}$")]
    """``auto``, ``on``, ``off``, or one of its own."""
    seconds: Seconds | None = None
    """For how long; left out: as long as it is set."""


MODE_NAME = Parameter("a mode", pattern=NAME)


class New(msgspec.Struct, forbid_unknown_fields=True):
    """A device to be made."""

    server: Annotated[str, Meta(pattern=rf"^{NAME}\.{NAME}$")]
    """Where, as pi.fake."""
    settings: dict[str, Any]
    """``oid`` (its kind), ``name``, and any of its settings."""


@OPERATIONS.add("GET", "/devices", LIST, answer=Devices, asks=False)
def list_devices(site: Site, visit: Visit, limit: int, after: str) -> Devices:
    """All devices with their last readings, as they are on the tree. While the bus is not live no reading has the
    quality ok."""
    snapshot = services.snapshot(site)
    found: dict[str, Readings] = {}
    for key, held in snapshot.held.items():
        # Only whole names of devices match: what stands there else is no device.
        part = DEVICE.fullmatch(key)
        if part is None:
            continue
        name = key[8 : part.start("command") - 1]
        if name <= after:
            continue
        device = found.get(name)
        if device is None:
            device = found[name] = Readings(name, snapshot.label(name), f"{part['host']}.{part['server']}", {})
        device.readings[part["command"]] = reading(held.body, snapshot.live)
    names = sorted(found)
    last = names[limit - 1] if len(names) > limit else None
    return Devices(snapshot.bus, [found[name] for name in names[:limit]], last)


def reading(body: bytes, live: bool) -> Any:
    """A reading as a program gets it: one that is not current has its number under ``last`` alone."""
    found = fields(body)
    if not found:
        return {"quality": "error", "reason": f"unreadable: {summary(body)}"}
    good = found.get("quality") == "ok"
    if (good and live) or (not good and "value" not in found):
        return msgspec.Raw(body)
    value = found.pop("value", None)
    if value is not None:
        found["last"] = value
    return {**found, "quality": "stale", "reason": UNREACHABLE} if good else found


@OPERATIONS.add("POST", "/devices", body=New, status="201 Created")
def make_device(site: Site, visit: Visit, body: New) -> Any:
    """Make a device; the answer is the whole of it. GET /servers/{name}/kinds tells what can be made."""
    server = SERVER.read("server", body.server)
    return services.call(site, SET, server, "devices", "new", encoded(body.settings))


@OPERATIONS.add("GET", "/devices/{name}", DEVICE_NAME)
def device(site: Site, visit: Visit, name: str) -> Any:
    """A device as its server describes it: settings, commands with their readings, subdevices."""
    return _ask(site, LOOK, name, "info")


@OPERATIONS.add("DELETE", "/devices/{name}", DEVICE_NAME, answer=None)
def delete_device(site: Site, visit: Visit, name: str) -> Any:
    """Delete a device that was made, or forget a probe that is gone."""
    return _ask(site, SET, name, "delete")


@OPERATIONS.add("POST", "/devices/{name}/settings", DEVICE_NAME, body=dict[str, Any])
def change_settings(site: Site, visit: Visit, name: str, body: dict[str, Any]) -> Any:
    """Change settings of a device, all that are given or none; the answer is all of them. Those of a subdevice are in
    an object under its name."""
    return _ask(site, SET, name, "exec", "config", encoded(body), "", services.by(visit))


@OPERATIONS.add("GET", "/devices/{name}/commands/{command}", COMMAND, answer=Any)
def get_command(site: Site, visit: Visit, name: str, command: str) -> Any:
    """What a command of a device says now."""
    return _ask(site, LOOK, name, "exec", command)


@OPERATIONS.add("PUT", "/devices/{name}/commands/{command}", COMMAND, body=Set, answer=Any)
def set_command(site: Site, visit: Visit, name: str, command: str, body: Set) -> Any:
    """Set a command of a device. An output that is in a mode by hand does it when the mode ends."""
    text = body.value if isinstance(body.value, str) else encoded(body.value)
    return _ask(site, SET, name, "exec", command, text, span(body.seconds), services.by(visit))


@OPERATIONS.add("PUT", "/devices/{name}/mode", DEVICE_NAME, body=Mode)
def set_mode(site: Site, visit: Visit, name: str, body: Mode) -> Any:
    """Put an output into a mode, which stands above all scenarios. The answer has ``mode``, ``mode_end`` (Unix time, s;
    0: none) and perhaps what it ``waits`` for, under its name on its server."""
    return _ask(site, SET, name, "mode", mode_of(body), span(body.seconds), services.by(visit))


class Modes(msgspec.Struct):
    """The modes that outputs know besides auto, on and off."""

    modes: dict[str, list[str]]
    """By name, what it does to which."""
    problems: list[str]
    """Why some servers do not say."""


@OPERATIONS.add("GET", "/modes", answer=Modes)
def list_modes(site: Site, visit: Visit) -> Modes:
    """The named modes of all outputs."""
    return Modes(*Actions(site.board, site.hands, site.hostname).named())


@OPERATIONS.add("PUT", "/modes", body=Mode, answer=dict[str, dict[str, Any]])
def set_modes(site: Site, visit: Visit, body: Mode) -> dict[str, Any]:
    """Put all outputs that know a mode into it. The answer has each output as with one; when a server did not do it the
    answer is its refusal, which names those that did."""
    words = "mode", "", mode_of(body), span(body.seconds), services.by(visit)
    answers = site.hands.call_all(SET, services.with_outputs(site), *words)
    done: dict[str, Any] = {}
    problems: list[Refusal] = []
    for service, answer in answers.items():
        if isinstance(answer, Refusal):
            problems.append(answer)
        elif isinstance(answer, dict):
            server = service.removesuffix(".devices")
            done |= {f"{server}.{path}": facts for path, facts in answer.items()}
    if problems:
        reason = "; ".join(problem.reason for problem in problems)
        told = f"not all did it: {reason}; done by {', '.join(done) or 'none'}"
        raise Refusal(problems[0].status, told[:2000])
    return done


SERVER_NAME = {"name": Parameter("the whole name of a server with devices, as pi.fake", pattern=rf"{NAME}\.{NAME}")}


@OPERATIONS.add("GET", "/servers/{name}/kinds", {**SERVER_NAME, **LIST}, answer=Page)
def kinds(site: Site, visit: Visit, name: str, limit: int, after: str) -> Page:
    """The kinds of devices of a server: schema and defaults of the settings, commands, and whether one can be made
    (``make``)."""
    found = services.call(site, LOOK, name, "devices", "template")
    items = [{**kind, "oid": oid} for oid, kind in found.items()] if isinstance(found, dict) else []
    return page(items, "oid", limit, after)


def mode_of(body: Mode) -> str:
    """The mode; to the patterns of bodies a line that ends is none the worse.

    :raises Refusal: 400
    """
    return str(MODE_NAME.read("mode", body.mode))


def span(seconds: float | None) -> str:
    """Seconds as a verb takes them."""
    return "" if seconds is None else f"{seconds:.3f}"


ROUTES = OPERATIONS.routes()
