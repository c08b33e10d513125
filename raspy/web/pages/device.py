"""A device: its values as they are and as they were, and the forms that its server has for it."""

from __future__ import annotations

import time
from functools import partial
from typing import Any
from urllib.parse import quote, urlencode

from raspy.common.verbs import json_encode
from raspy.web.actions import TIMES, split
from raspy.web.board import Snapshot
from raspy.web.charts import SPANS, Chart, Picture
from raspy.web.formhtml import FormError, checked
from raspy.web.hands import LOOK, SET, STATUSES
from raspy.web.pages.home import Device, devices_of, notice
from raspy.web.refusal import Elsewhere, Refusal
from raspy.web.rows import DEVICE, Held, event_row, is_mode_end
from raspy.web.site import Site
from raspy.web.texts import KEY_LIMIT, ago, clean, clock, number, text
from raspy.web.visit import Route, Visit

POINTS = 240
"""Points of the picture."""
ROWS = 24
"""Points of the table."""
MARKS = 20
"""Events that are marked."""
OURS = ("csrf", "time")
"""Fields of a form that are the page's own."""
LAST = 253_402_300_799
"""9999-12-31 in Unix time, s."""


class Shown:
    """What was sent and refused: forms to be shown in place of those as they are.

    :param settings: of the settings
    :param command: of a command ``<device>/<command>``
    """

    __slots__ = ("command", "html", "settings")

    def __init__(self, settings: str = "", command: str = "", html: str = "") -> None:
        self.settings = settings
        self.command = command
        self.html = html


def device(site: Site, visit: Visit, name: str) -> bytes:
    """The page of a device."""
    return show(site, visit, name, Shown())


def show(site: Site, visit: Visit, name: str, again: Shown) -> bytes:
    """The page of a device, with forms that were sent and refused."""
    service, path = split(name)
    if "." in path:
        query = visit.environ.get("QUERY_STRING", "")
        raise Elsewhere(f"/device/{name.rpartition('.')[0]}{'?' + query if query else ''}")
    snapshot: Snapshot = site.board.ask(site.board.snapshot)
    keys = keys_of(snapshot, name)
    form, problem = _form(site, visit, service, path)
    found = devices_of(keys, snapshot, visit.t)
    if not found and not form:
        raise Refusal("404 Not Found", problem)
    shown = found[0] if found else Device(name, snapshot.label(name), "")
    label = clean(str(form.get("label") or shown.label), KEY_LIMIT)
    return site.page(
        visit,
        "device.tpl",
        title=label,
        live="rows",
        scripts=[script for script in ("uplot.js", "chart.js") if script in site.assets],
        name=name,
        found_at=f"/device/{name}" if visit.method == "POST" else "",
        device=shown,
        ago=ago,
        sparks={},
        data_version=snapshot.version,
        bus=snapshot.bus,
        notice=notice(snapshot, visit.t),
        rows_at=f"/rows?under={quote(f'/device/{name}')}",
        times=TIMES,
        problem=problem,
        plots=uplot(site),
        **forms(visit, form, again),
        **history(site, visit, snapshot, name, keys),
    )


def uplot(site: Site) -> bool:
    """Whether charts can be zoomed: the page was built with uPlot."""
    return "uplot.js" in site.assets and "uplot.css" in site.assets


def keys_of(snapshot: Snapshot, name: str) -> list[str]:
    """The keys of the values of a device and its parts."""
    starts = f"/device/{name}/", f"/device/{name}."
    return [key for key in sorted(snapshot.held) if key.startswith(starts) and not is_mode_end(key, snapshot.held)]


def _form(site: Site, visit: Visit, service: str, path: str) -> tuple[dict[str, Any], str]:
    """What the device's server has for it; and why it has nothing."""
    try:
        found = site.hands.call(LOOK, service, "form", path)
    except Refusal as refusal:
        return {}, refusal.reason
    return (found, "") if isinstance(found, dict) else ({}, visit.t("its server answers what is no form"))


def forms(visit: Visit, form: dict[str, Any], again: Shown) -> dict[str, Any]:
    """The forms of a device as the template takes them; what a server made is checked first."""
    commands = []
    told = form.get("commands")
    for each in told if isinstance(told, list) else []:
        if not isinstance(each, dict) or not DEVICE.fullmatch(f"/device/x.x.{each.get('device')}/{each.get('name')}"):
            continue
        place = f"{each['device']}/{each['name']}"
        html = again.html if place == again.command else each.get("html")
        label = clean(str(each.get("label") or ""), KEY_LIMIT)
        info = clean(str(each.get("info") or each["name"]), KEY_LIMIT)
        commands.append((place, f"{label} {info}".strip(), each.get("held") is True, made(visit, html)))
    return {
        "settings": made(visit, again.settings or form["settings"]) if "settings" in form else "",
        "commands": commands,
        "refused": again.command,
        "kind": clean(str(form.get("kind") or ""), KEY_LIMIT),
        "keep": clean(str(form.get("keep") or "")) if form else "",
        "form": form,
        "clean": clean,
    }


def made(visit: Visit, html: object) -> str:
    """A form that a server made, as the page may show it.

    :raises Refusal: it is no form
    """
    try:
        return checked(html)
    except FormError as error:
        raise Refusal("502 Bad Gateway", visit.t("what its server sends is no form: {reason}", reason=error)) from error


# ---------------------------------------------------------------- what was


def history(site: Site, visit: Visit, snapshot: Snapshot, name: str, keys: list[str]) -> dict[str, Any]:
    """The chart of one of the device's values, and which others there are."""
    start = f"/device/{name}"
    address = partial(_address, start)
    numbers = [key for key in keys if snapshot.held[key].logged]
    chosen = f"{start}{visit.query('key')}"
    key = chosen if chosen in numbers else next(iter(numbers), "")
    span = visit.query("span") if visit.query("span") in SPANS else "day"
    now = time.time()
    asked = _time(visit.query("until"))
    until = min(asked, now) if asked else now
    found: dict[str, Any] = {
        "key": key,
        "span": span,
        "spans": _spans(visit),
        "curves": [(each.removeprefix(start), _called(snapshot, each)) for each in numbers],
        "here": key.removeprefix(start),
        "since": until - SPANS[span],
        "until": until,
        "ends_now": not asked,
        "earlier": address(key.removeprefix(start), span, until - SPANS[span]),
        "later": address(key.removeprefix(start), span, until + SPANS[span] if asked < now - SPANS[span] else 0.0),
        "chart": None,
        "picture": None,
        "table": [],
        "why_not": "",
        "happened": [],
        "marks": "[]",
        "clock": clock,
        "text": text,
        "address": address,
    }
    if not key:
        return found
    service = f"{snapshot.service(site.hostname, 'logger')}.log"
    words = f"{found['since']:.3f}", f"{until:.3f}"
    try:
        answer = site.hands.call(LOOK, service, "query", key, *words, str(POINTS))
    except Refusal as refusal:
        found["why_not"] = refusal.reason
        return found
    chart = Chart(answer, found["since"], until)
    happened = _happened(site, service, key, words)
    return {
        **found,
        "chart": chart,
        "picture": Picture(chart) if chart.known else None,
        "table": [point for point in chart.points if point.quality != "gap"][-ROWS:][::-1],
        "happened": [event for _, event in happened],
        "marks": json_encode([at for at, _ in happened]).decode(),
    }


def _spans(visit: Visit) -> list[tuple[str, str]]:
    t = visit.t
    return [("hour", t("1 h")), ("day", t("Day")), ("week", t("Week")), ("month", t("Month")), ("year", t("Year"))]


def _happened(site: Site, service: str, key: str, words: tuple[str, ...]) -> list[tuple[float, Any]]:
    """What happened meanwhile to the value and its device, the newest first; nothing if it cannot be told."""
    try:
        answer = site.hands.call(LOOK, service, "events", key, *words, str(MARKS))
    except Refusal:
        return []
    told = answer.get("events") if isinstance(answer, dict) else None
    found = []
    for event in told if isinstance(told, list) else []:
        at = number(event.get("time")) if isinstance(event, dict) else None
        body = event.get("body") if at is not None else None
        if isinstance(body, dict):
            name = f"/event/{event.get('kind')}/{event.get('name')}"
            found.append((at or 0.0, event_row(Held(name, json_encode({**body, "time": at}), 0.0, 0.0))))
    return found[:MARKS]


def _called(snapshot: Snapshot, key: str) -> str:
    part = DEVICE.fullmatch(key)
    if part is None:
        return key
    sub = part["sub"] or ""
    label = snapshot.labels.get(f"{part['host']}.{part['server']}.{part['device']}.{sub}", sub)
    return label if sub == part["command"] else f"{label} {part['command'].replace('_', ' ')}".strip()


def _address(page: str, key: str, span: str, until: float = 0.0) -> str:
    """The page with another chart."""
    return (
        f"{page}?" + urlencode({"key": key, "span": span, **({"until": f"{until:.0f}"} if until else {})}) + "#history"
    )


def _time(given: str) -> float:
    """A Unix time of the address; 0 when there is none."""
    whole = given.isascii() and given.isdecimal() and len(given) <= 12
    return min(float(given), LAST) if whole else 0.0


# ---------------------------------------------------------------- what is done


def given(visit: Visit) -> str:
    """What the form of a device sent, without what is the page's own."""
    return json_encode({name: texts for name, texts in visit.lists.items() if name not in OURS}).decode()


def done(visit: Visit, answer: Any) -> str:
    """The HTML of a form that is to be shown again; empty when it was done."""
    if isinstance(answer, dict) and answer.get("ok") is True:
        return ""
    told = answer if isinstance(answer, dict) else {}
    visit.status = STATUSES.get(str(told.get("status")).encode(), "400 Bad Request")
    return made(visit, told.get("html"))


def settings(site: Site, visit: Visit, name: str) -> bytes:
    """Change the settings of a device."""
    service, path = split(name)
    html = done(visit, site.hands.call(SET, service, "form_set", path, given(visit)))
    if html:
        return show(site, visit, name, Shown(settings=html))
    site.board.ask(site.board.names.ask, service.removesuffix(".devices"))
    return site.done(visit, visit.t("the settings are kept"), f"/device/{name}")


def do(site: Site, visit: Visit, name: str, part: str, command: str) -> bytes:
    """Give a command of a device, or of a part of it, its value."""
    service, _ = split(name)
    seconds = visit.form.get("time", "")
    if seconds not in (known for known, _ in TIMES):
        raise Refusal("400 Bad Request", visit.t("choose one of the times that are offered"))
    answer = site.hands.call(SET, service, "form_do", part, command, given(visit), seconds, visit.by)
    html = done(visit, answer)
    if html:
        return show(site, visit, name, Shown(command=f"{part}/{command}", html=html))
    result = answer.get("result")
    waits = result.get("waits") if isinstance(result, dict) else None
    said = visit.t("{command} was told", command=command)
    return site.done(visit, f"{said}, {visit.t('but waits: {reason}', reason=clean(str(waits)))}" if waits else said,
                     f"/device/{name}")  # fmt: skip


def delete(site: Site, visit: Visit, name: str) -> bytes:
    """Delete a device that was made, or forget a probe that is gone."""
    service, path = split(name)
    if visit.form.get("sure") != "yes":
        raise Refusal("400 Bad Request", visit.t("say that you are sure; nothing was deleted"))
    site.hands.call(SET, service, "delete", path)
    return site.done(visit, visit.t("{name} is deleted", name=path), "/")


# ---------------------------------------------------------------- a new one


def new(site: Site, visit: Visit) -> bytes:
    """What can be made, on which servers; or the form of one kind."""
    server, oid = visit.query("server"), visit.query("oid")
    if server and oid:
        html = made(visit, site.hands.call(LOOK, service_of(server), "form_new", oid))
        return _new(site, visit, server, oid, html)
    kinds: list[tuple[str, str, str]] = []
    snapshot: Snapshot = site.board.ask(site.board.snapshot)
    parts = (DEVICE.fullmatch(key) for key in snapshot.held)
    servers = sorted({f"{part['host']}.{part['server']}" for part in parts if part is not None})[:50]
    answers = site.hands.call_all(LOOK, [f"{each}.devices" for each in servers], "form_kinds")
    for service, answer in answers.items():
        for kind, doc in answer.items() if isinstance(answer, dict) else ():
            kinds.append((service.removesuffix(".devices"), clean(kind, 120), clean(str(doc), 120)))
    return site.page(visit, "device_new.tpl", title=visit.t("New device"), kinds=sorted(kinds), quote=quote)


def make(site: Site, visit: Visit) -> bytes:
    """Make a device of what its form sent."""
    server, oid = visit.query("server"), visit.query("oid")
    answer = site.hands.call(SET, service_of(server), "form_make", oid, given(visit))
    html = done(visit, answer)
    if html:
        return _new(site, visit, server, oid, html)
    name = visit.form.get("name", "")
    return site.done(visit, visit.t("{name} is made", name=clean(name, 63)), f"/device/{server}.{name}")


def service_of(server: str) -> str:
    """The service of a server's devices.

    :raises Refusal: it is no name of a server
    """
    return split(f"{server}.x")[0]


def _new(site: Site, visit: Visit, server: str, oid: str, html: str) -> bytes:
    title = visit.t("New device of {server}", server=clean(server, 128))
    return site.page(
        visit, "device_form.tpl", title=title, oid=clean(oid, 120), html=html, action=visit.path, found_at=visit.path
    )


ROUTES = (
    Route("/device/new", new),
    Route("/device/new", make, "POST"),
    Route("/device/<name>", device),
    Route("/device/<name>/settings", settings, "POST"),
    Route("/device/<name>/do/<part>/<command>", do, "POST"),
    Route("/device/<name>/delete", delete, "POST"),
)
