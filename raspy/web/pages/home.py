"""The first page: every value with its unit, age and quality; alarms; outputs to be worked; servers; what happened."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from typing import Any

from raspy.common.appliance import problems
from raspy.web.actions import can, split
from raspy.web.board import Snapshot
from raspy.web.hands import SET
from raspy.web.pages.modes import back_to
from raspy.web.refusal import Refusal
from raspy.web.rows import (
    ALARM,
    DEVICE,
    EVENT,
    SCENARIO,
    SERVER,
    Row,
    event_row,
    is_mode,
    is_mode_end,
    output_of,
    row,
    urgency,
)
from raspy.web.site import Site
from raspy.web.texts import ENGLISH, ago, clean, clock, fields
from raspy.web.visit import Route, Visit
from raspy.web.words import Words

DEVICE_ROWS = 500
ALARM_ROWS = 50
SERVER_ROWS = 100
SCENARIO_ROWS = 100
OTHER_ROWS = 200
ROWS = 500
"""Rows of each kind that one page shows; what is beyond is counted, and is in the API."""
ROWS_OF_ONE = 100
"""Rows of one device."""
MORE_DEVICES = 1000
"""Devices beyond that whose pages are led to."""

HELD = 3600
"""Seconds for which a dimmer is told a level from here."""


def home(site: Site, visit: Visit) -> bytes:
    """Everything on the tree."""
    snapshot = site.board.ask(site.board.snapshot)
    shown = sections(snapshot, visit.t, site.hostname)
    shown["boot_problems"] = problems()
    return site.page(visit, "home.tpl", title=site.hostname, live="whole", can=can, ago=ago, **shown)


def rows(site: Site, visit: Visit) -> bytes:
    """The rows of a branch of the tree as JSON, for pages that are not to be fetched anew as a whole."""
    snapshot = site.board.ask(site.board.snapshot)
    under, now, tree = visit.query("under"), time.monotonic(), snapshot.held
    keys = [key for key in sorted(tree) if key.startswith(under) and not is_mode_end(key, tree)]
    found = [row(tree[key], now, snapshot.live, tree, visit.t).update() for key in keys[:ROWS]]
    answer = {"version": snapshot.version, "bus": snapshot.bus, "notice": notice(snapshot, visit.t), "rows": found}
    return site.json(visit, answer)


def notice(snapshot: Snapshot, t: Words) -> str:
    """What is to be known of the bus before anything else."""
    if snapshot.bus == "connecting":
        return t("Connecting to the bus…")
    return "" if snapshot.live else t("The bus is not reachable: no value here is current. Is the broker running?")


def set_level(site: Site, visit: Visit) -> bytes:
    """Tell a dimmer a level, and show the page."""
    service, path = split(visit.form.get("output", ""))
    try:
        level = float(visit.form.get("level", "")[:40].replace(",", "."))
    except ValueError:
        level = math.nan
    if not 0 <= level <= 100:
        raise Refusal("400 Bad Request", visit.t("give a level from 0 to 100 %"))
    answer = site.hands.call(SET, service, "exec", path, "level", f"{level:g}", str(HELD), visit.by)
    name = site.board.ask(site.board.snapshot).label(visit.form["output"])
    waits = answer.get("waits") if isinstance(answer, dict) else None
    end = clock(time.time() + HELD)
    said = visit.t("{name} is told {level} % until {time}", name=name, level=f"{level:g}", time=end)
    if waits:
        said += ", " + visit.t("but waits: {reason}", reason=waits)
    return site.done(visit, clean(said, 500), back_to(visit))


class Device:
    """A device as the page shows it.

    :param name: ``<host>.<server>.<device>``
    """

    __slots__ = ("label", "name", "outputs", "rows", "where")

    def __init__(self, name: str, label: str, where: str) -> None:
        self.name = name
        self.label = label
        self.where = where
        self.rows: list[Row] = []
        self.outputs: list[tuple[str, str, Row | None]] = []
        """Of each the whole name, what it is called, and of a dimmer the row of its level."""


def devices_of(keys: Iterable[str], snapshot: Snapshot, t: Words) -> list[Device]:
    """The devices that keys of the tree are of, in the order of those, with the rows of their values."""
    now, tree = time.monotonic(), snapshot.held
    found: dict[str, Device] = {}
    for key in keys:
        part = DEVICE.fullmatch(key)
        if part is None or is_mode_end(key, tree):
            continue
        name = f"{part['host']}.{part['server']}.{part['device']}"
        device = found.get(name)
        if device is None:
            where = t("{server} on {host}", server=part["server"], host=part["host"])
            device = found[name] = Device(name, snapshot.label(name), where)
        shown = row(tree[key], now, snapshot.live, tree, t)
        called = snapshot.labels.get(f"{name}.{part['sub']}") if part["sub"] else None
        if called:
            shown.label = called if part["sub"] == part["command"] else called + shown.label.removeprefix(part["sub"])
        device.rows.append(shown)
        if is_mode(key, tree):
            output = output_of(key)
            level = tree.get(f"/device/{output}/level")
            dimmer = row(level, now, snapshot.live, tree, t) if level is not None else None
            device.outputs.append((output, called or device.label, dimmer))
    return list(found.values())


def shared(devices: dict[str, list[str]], own: str, room: int) -> set[str]:
    """The devices for which there is room, so that no server can hide those of another.

    Servers take turns, one device each; the other hosts together have no more than half of the room as long as this
    one has devices.

    :param devices: by name, the keys of their values
    :param own: this host's name
    :param room: rows
    """
    sides: tuple[dict[str, list[str]], dict[str, list[str]]] = {}, {}
    for name in sorted(devices):
        host, server, _ = name.split(".", 2)
        sides[host != own].setdefault(f"{host}.{server}", []).append(name)
    rows = [sum(len(devices[name]) for names in side.values() for name in names) for side in sides]
    theirs = max(min(rows[1], room // 2), room - rows[0])
    found: set[str] = set()
    for side, left in zip(sides, (room - min(theirs, rows[1]), theirs), strict=True):
        for name in _in_turn(list(side.values())):
            left -= len(devices[name])
            if left < 0:
                break
            found.add(name)
    return found


def _in_turn(groups: list[list[str]]) -> Iterator[str]:
    """The first of each, then the second of each, and so on."""
    place = 0
    while groups:
        groups = [group for group in groups if len(group) > place]
        for group in groups:
            yield group[place]
        place += 1


def sections(snapshot: Snapshot, t: Words = ENGLISH, hostname: str = "") -> dict[str, Any]:
    """A snapshot as the template takes it: alarms, devices, servers, events, the rest."""
    now, tree = time.monotonic(), snapshot.held
    alarms = sorted((held for key, held in tree.items() if key.startswith(ALARM)), key=urgency)
    values: dict[str, list[str]] = {}
    shown: dict[str, list[Row]] = {"server": [], "scenario": [], "other": []}
    room = {"server": SERVER_ROWS, "scenario": SCENARIO_ROWS, "other": OTHER_ROWS}
    left_out = max(len(alarms) - ALARM_ROWS, 0)
    for key in sorted(tree):
        if key.startswith((EVENT, ALARM)) or is_mode_end(key, tree):
            continue
        kind = kind_of(key)
        if kind == "device":
            keys = values.setdefault(device_of(key), [])
            if len(keys) < ROWS_OF_ONE:
                keys.append(key)
                continue
        elif room[kind]:
            room[kind] -= 1
            shown[kind].append(row(tree[key], now, snapshot.live, tree, t))
            continue
        left_out += 1
    near = shared(values, hostname, DEVICE_ROWS)
    far = [name for name in values if name not in near]
    left_out += sum(len(values[name]) for name in far)
    far.sort(key=lambda name: name.partition(".")[0] != hostname)
    return {
        "alarms": [(row(held, now, snapshot.live, tree, t), _state(held)) for held in alarms[:ALARM_ROWS]],
        "devices": devices_of((key for name, keys in values.items() if name in near for key in keys), snapshot, t),
        "more": [(name, snapshot.label(name)) for name in far[:MORE_DEVICES]],
        "sparks": snapshot.sparks,
        "servers": shown["server"],
        "scenarios": shown["scenario"],
        "others": shown["other"],
        "events": [event_row(held) for held in snapshot.events],
        "left_out": left_out,
        "data_version": snapshot.version,
        "bus": snapshot.bus,
        "notice": notice(snapshot, t),
    }


def device_of(key: str) -> str:
    """The device ``<host>.<server>.<device>`` of a value."""
    return ".".join(key.removeprefix("/device/").partition("/")[0].split(".")[:3])


def kind_of(key: str) -> str:
    """Where on the page a key of the tree stands."""
    if DEVICE.fullmatch(key):
        return "device"
    if SERVER.fullmatch(key):
        return "server"
    return "scenario" if SCENARIO.fullmatch(key) else "other"


def _state(held: Any) -> str:
    state = fields(held.body).get("state")
    return state if isinstance(state, str) else ""


ROUTES = (Route("/", home), Route("/rows", rows, api=True), Route("/level", set_level, "POST"))
