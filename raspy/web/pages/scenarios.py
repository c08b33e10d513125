"""Scenarios: a list of them, a page for each with what it printed last, and what can be done with it."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from raspy.common.config import ID
from raspy.common.verbs import json_encode
from raspy.web.asking import ask, shaped
from raspy.web.hands import LOOK, SET
from raspy.web.refusal import Refusal
from raspy.web.rows import SCENARIO, Held, Row, row, scenario_row
from raspy.web.site import Site
from raspy.web.texts import KEY_LIMIT, clean, number
from raspy.web.visit import Route, Visit

RESERVED = ("new", "import", "export")
"""Names of scenarios under which this page has something else; such a one is at ``/scenarios/<name>/show``."""
DOWNLOAD = "application/json; charset=utf-8"
SHOWN_LINE = 2000
"""Characters of one line of output that are shown."""


class Found(msgspec.Struct):
    """A scenario, as core tells of it; its parts may be anything when they cannot be used."""

    name: str
    state: str = ""
    reason: str = ""
    since: float | None = None
    cause: dict[str, Any] = {}
    runs: int = 0
    failures: int = 0
    label: str = ""
    last: dict[str, Any] | None = None
    conf: dict[str, Any] = {}
    entries: dict[str, Any] = {}
    code: str = ""

    @property
    def active(self) -> bool:
        """It acts by itself."""
        return self.conf.get("active") is True

    @property
    def called(self) -> str:
        """What its owner calls it, as it may stand on a page."""
        return clean(self.label or self.name, KEY_LIMIT)


class Output(msgspec.Struct):
    """What a scenario printed."""

    output: str = ""
    traceback: str = ""


def path_of(name: str) -> str:
    """Where the page of a scenario is."""
    return f"/scenarios/{name}/show" if name in RESERVED else f"/scenarios/{name}"


def find(site: Site, visit: Visit, name: str) -> Found:
    """A scenario.

    :raises Refusal: 404: there is none of that name
    """
    known(visit, name)
    return shaped(ask(site, visit, LOOK, "core.scenario", "show", name), Found, "core")


def known(visit: Visit, name: str) -> None:
    """See that a name can be one of a scenario.

    :raises Refusal: 404: it cannot
    """
    if ID.fullmatch(name) is None:
        raise Refusal("404 Not Found", visit.t("there is no such scenario"))


def scenarios(site: Site, visit: Visit) -> bytes:
    """All of them."""
    problem, found = "", []
    try:
        found = shaped(ask(site, visit, LOOK, "core.scenarios", "list"), list[Found], "core")
    except Refusal as refusal:
        problem = refusal.reason
    snapshot = site.board.ask(site.board.snapshot)
    now = time.monotonic()
    rows: list[tuple[Row, Found]] = []
    for one in found:
        held = snapshot.held.get(f"/scenario/{one.name}")
        rows.append((_row(visit, one) if held is None else row(held, now, snapshot.live, snapshot.held, visit.t), one))
    return site.page(
        visit, "scenarios.tpl", title=visit.t("Scenarios"), live="whole", rows=rows, problem=problem, path_of=path_of,
         data_version=snapshot.version, bus=snapshot.bus,
    )  # fmt: skip


def scenario(site: Site, visit: Visit, name: str) -> bytes:
    """One of them: its state, what fires it, its limits, what it printed."""
    known(visit, name)
    # First what it printed: how the run ended that printed it is known then.
    told = shaped(ask(site, visit, LOOK, "core.scenario", "output", name), Output, "core")
    found = find(site, visit, name)
    snapshot = site.board.ask(site.board.snapshot)
    held = snapshot.held.get(f"/scenario/{name}")
    shown = _row(visit, found) if held is None else row(held, time.monotonic(), snapshot.live, snapshot.held, visit.t)
    line = number((found.last or {}).get("line"))
    return site.page(
        visit, "scenario.tpl", title=found.called, live="rows", scripts=("editor.js",), found=found, row=shown,
        fired=fired_by(visit, found), entries=entries_of(found), facts=facts(visit, found),
        line=int(line) if line else 0, output=plain(told.output), traceback=plain(told.traceback), path=path_of(name),
        data_version=snapshot.version, bus=snapshot.bus,
    )  # fmt: skip


def act(site: Site, visit: Visit, name: str) -> bytes:
    """Run it, stop it, have it act by itself or not."""
    t = visit.t
    known(visit, name)
    action = visit.form.get("action", "")
    said = {
        "run": t("{name} is started", name=name),
        "stop": t("{name} is being stopped", name=name),
        "enable": t("{name} acts by itself", name=name),
        "disable": t("{name} acts by hand only", name=name),
        "resume": t("{name} acts again", name=name),
    }
    if action not in said:
        raise Refusal("400 Bad Request", t("this is no form of this page"))
    ask(site, visit, SET, "core.scenario", action, name)
    back = "/scenarios" if visit.form.get("back") == "/scenarios" else path_of(name)
    return site.done(visit, said[action], back)


def deletion(site: Site, visit: Visit, name: str) -> bytes:
    """Whether it is to be deleted."""
    found = find(site, visit, name)
    title = visit.t("Delete {name}?", name=name)
    return site.page(visit, "scenario_delete.tpl", title=title, found=found, path=path_of(name))


def delete(site: Site, visit: Visit, name: str) -> bytes:
    """Delete it."""
    known(visit, name)
    ask(site, visit, SET, "core.scenario", "delete", name)
    return site.done(visit, visit.t("{name} is deleted", name=name), "/scenarios")


def export(site: Site, visit: Visit, name: str = "") -> bytes:
    """One scenario, or all, as a file to be kept or shared."""
    if name:
        known(visit, name)
    document = ask(site, visit, LOOK, "core.scenarios", "export", *([name] if name else []))
    file = (
        f"raspy-scenario-{name}.json" if name else f"raspy-scenarios-{site.hostname}-{time.strftime('%Y-%m-%d')}.json"
    )
    visit.headers += [("Content-Type", DOWNLOAD), ("Content-Disposition", f'attachment; filename="{file}"')]
    return msgspec.json.format(json_encode(document), indent=2) + b"\n"


def fired_by(visit: Visit, found: Found) -> list[str]:
    """What fires it, besides a hand, another scenario and a cron job."""
    t = visit.t
    fired = [t("the start of core; it runs in the background")] if found.conf.get("startup") is True else []
    schedule = found.conf.get("schedule")
    fired += [t("its time: {when}", when=clean(str(when))) for when in schedule] if isinstance(schedule, list) else []
    for name, entry in found.entries.items():
        fire = entry.get("fire") if isinstance(entry, dict) else None
        shown = clean(name, 63)
        if fire == "change":
            fired.append(t("a change of {entry}", entry=shown))
        elif isinstance(fire, dict):
            fired.append(_threshold(visit, shown, fire))
    return fired


def _threshold(visit: Visit, name: str, fire: dict[str, Any]) -> str:
    t = visit.t
    above, below = number(fire.get("above")), number(fire.get("below"))
    back, hold = number(fire.get("hysteresis")), number(fire.get("for"))
    text = t("{entry} above {value}", entry=name, value=f"{above:g}") if above is not None else t(
        "{entry} below {value}", entry=name, value="?" if below is None else f"{below:g}"
    )  # fmt: skip
    text += t(" for {seconds} s", seconds=f"{hold:g}") if hold else ""
    return text + (t(", again once it was back by {value}", value=f"{back:g}") if back else "")


def entries_of(found: Found) -> list[tuple[str, str]]:
    """The entries: their names, and the keys of the tree."""
    pairs = (
        (name, entry.get("key", "") if isinstance(entry, dict) else entry) for name, entry in found.entries.items()
    )
    return [(clean(name, 63), clean(str(key), 300)) for name, key in pairs]


def facts(visit: Visit, found: Found) -> list[tuple[str, str]]:
    """Its limits, and its settings."""
    t = visit.t
    given = found.conf.get("limits")
    limits = {"memory": 128, "cpu": 10, "wall": 0, "output": 1_000_000} | (given if isinstance(given, dict) else {})
    shown = {name: clean(str(value), 30) for name, value in limits.items()}
    cpu = t("{seconds} s in any minute", seconds=shown["cpu"]) if number(limits["cpu"]) else t("no limit")
    wall = t("{seconds} s", seconds=shown["wall"]) if number(limits["wall"]) else t("no limit")
    return [
        (t("Memory"), t("{megabytes} MB", megabytes=shown["memory"])),
        (t("Processor"), cpu),
        (t("Time"), wall),
        (t("Output"), t("{bytes} bytes in any minute", bytes=shown["output"])),
    ]


def plain(text: str) -> str:
    """Text of several lines with nothing in it that cannot be seen."""
    return "\n".join("\t".join(clean(part, SHOWN_LINE) for part in line.split("\t")) for line in text.split("\n"))


def _row(visit: Visit, found: Found) -> Row:
    """The row of one that is not on the tree yet."""
    told = ("state", "reason", "since", "runs", "failures", "last")
    body = {name: getattr(found, name) for name in told}
    held = Held(f"/scenario/{found.name}", json_encode(body), time.monotonic(), time.time())
    assert SCENARIO.fullmatch(held.key)
    return scenario_row(held, found.name, time.monotonic(), True, visit.t)


ROUTES = (
    Route("/scenarios", scenarios),
    Route("/scenarios/export", export),
    Route("/scenarios/<name>", scenario),
    Route("/scenarios/<name>/show", scenario),
    Route("/scenarios/<name>/export", export),
    Route("/scenarios/<name>/delete", deletion),
    Route("/scenarios/<name>", act, "POST"),
    Route("/scenarios/<name>/show", act, "POST"),
    Route("/scenarios/<name>/delete", delete, "POST"),
)
