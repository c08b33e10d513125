"""``/metrics``: what there is in numbers, as Prometheus takes it (text exposition format 0.0.4)."""

from __future__ import annotations

import time
from collections.abc import Iterable

from raspy import __version__
from raspy.web.api.services import snapshot
from raspy.web.board import Snapshot
from raspy.web.rows import ALARM, ALARM_STATES, DEVICE, RUNNING, SERVER, Held
from raspy.web.site import Site
from raspy.web.texts import fields, number
from raspy.web.visit import Route, Visit

TEXT = "text/plain; version=0.0.4; charset=utf-8"
MOST_READINGS, MOST_SERVERS = 2000, 200
LABEL = 63
"""Characters of a unit."""
GAUGE, COUNTER = "gauge", "counter"

Labels = tuple[tuple[str, str], ...]


class Metric:
    """A metric, and its samples.

    :param name: of letters, digits and underscores
    :param doc: in one line
    :param kind: ``gauge`` or ``counter``
    """

    __slots__ = ("doc", "kind", "lines", "name")

    def __init__(self, name: str, doc: str, kind: str = GAUGE) -> None:
        self.name = name
        self.doc = doc
        self.kind = kind
        self.lines: list[str] = []

    def add(self, value: float, labels: Labels = ()) -> None:
        """Add a sample."""
        inner = ",".join(f'{name}="{escaped(text)}"' for name, text in labels)
        shown = f"{{{inner}}}" if inner else ""
        self.lines.append(f"{self.name}{shown} {value:.15g}\n")

    def text(self) -> str:
        """It with its samples; empty when there are none."""
        head = f"# HELP {self.name} {self.doc}\n# TYPE {self.name} {self.kind}\n"
        return head + "".join(self.lines) if self.lines else ""


def escaped(text: str) -> str:
    """The value of a label."""
    clean = text.encode("utf-8", "replace").decode()
    return clean.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", " ")


def metrics(site: Site, visit: Visit) -> bytes:
    """All metrics."""
    visit.headers.append(("Content-Type", TEXT))
    return text(snapshot(site)).encode()


def text(found: Snapshot) -> str:
    """A snapshot as Prometheus takes it."""
    made = [*page_metrics(found), *readings(found), *servers(found), *alarms(found)]
    return "".join(metric.text() for metric in made)


def page_metrics(found: Snapshot) -> Iterable[Metric]:
    """Of the page itself."""
    build = Metric("raspy_build_info", "The version of RasPy; always 1.")
    build.add(1, (("version", __version__),))
    bus = Metric("raspy_bus_live", "Whether the page reaches the bus; while it does not, nothing is current.")
    bus.add(found.live)
    streams = Metric("raspy_page_streams", "Open pages that are told of changes.")
    streams.add(found.streams)
    return build, bus, streams


def readings(found: Snapshot) -> Iterable[Metric]:
    """Of the devices. A value is there only while it is current."""
    value = Metric("raspy_reading", "The value of a reading that is current; switches are 1 and 0.")
    good = Metric("raspy_reading_ok", "Whether a reading is current and good.")
    age = Metric("raspy_reading_age_seconds", "Age of the last reading.")
    left = Metric("raspy_readings_left_out", "Readings that are too many to be told.")
    now, keys = time.monotonic(), [key for key in sorted(found.held) if DEVICE.fullmatch(key)]
    for key in keys[:MOST_READINGS]:
        _reading(found.held[key], now, found.live, value, good, age)
    left.add(max(len(keys) - MOST_READINGS, 0))
    return value, good, age, left


def _reading(held: Held, now: float, live: bool, value: Metric, good: Metric, age: Metric) -> None:
    name = DEVICE.fullmatch(held.key)
    if name is None:
        return
    device = f"{name['device']}.{name['sub']}" if name["sub"] else name["device"]
    labels = (
        ("host", name["host"]), ("server", name["server"]), ("device", device), ("command", name["command"]),
    )  # fmt: skip
    content = fields(held.body)
    given = content.get("value")
    current = live and content.get("quality") == "ok" and given is not None
    good.add(current, labels)
    seconds = held.age_at(now)
    if seconds is not None:
        age.add(round(seconds, 3), labels)
    figure = float(given) if isinstance(given, bool) else number(given)
    if current and figure is not None:
        unit = content.get("unit")
        value.add(figure, (*labels, ("unit", unit[:LABEL] if isinstance(unit, str) else "")))


def servers(found: Snapshot) -> Iterable[Metric]:
    """Of the servers, as the broker and they themselves tell."""
    up = Metric("raspy_server_up", "Whether a server runs; 0 also while the bus is not reached.")
    well = Metric("raspy_server_ok", "Whether a server runs and has nothing to complain of.")
    memory = Metric("raspy_server_memory_bytes", "Memory of a server (proportional set size).")
    restarts = Metric("raspy_server_restarts_total", "Restarts of a server.", COUNTER)
    errors = Metric("raspy_server_errors_total", "Unexpected errors of a server since its start.", COUNTER)
    for key in [key for key in sorted(found.held) if SERVER.fullmatch(key)][:MOST_SERVERS]:
        host, _, server = key.removeprefix("/server/").partition(".")
        labels = (("host", host), ("server", server))
        content = fields(found.held[key].body)
        runs = found.live and content.get("state") in RUNNING
        up.add(runs, labels)
        well.add(runs and content.get("state") == RUNNING[0], labels)
        for metric, word in ((memory, "memory"), (restarts, "restarts"), (errors, "errors")):
            figure = number(content.get(word))
            if figure is not None and (runs or metric is restarts):
                metric.add(figure, labels)
    return up, well, memory, restarts, errors


def alarms(found: Snapshot) -> Iterable[Metric]:
    """How many alarms are in each state."""
    counts = dict.fromkeys(ALARM_STATES, 0)
    for key, held in found.held.items():
        if key.startswith(ALARM):
            state = fields(held.body).get("state")
            if isinstance(state, str) and state in counts:
                counts[state] += 1
    metric = Metric("raspy_alarms", "Alarms that are not normal, by state.")
    for state, count in counts.items():
        metric.add(count, (("state", state),))
    return (metric,)


ROUTES = (Route("/metrics", metrics, api=True),)
