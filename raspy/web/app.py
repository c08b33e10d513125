"""The page's routes, on Bottle. The only module that imports it."""

from __future__ import annotations

import base64
import hashlib
import os
import time
from collections.abc import Iterable
from typing import Any

import bottle
import msgspec

from raspy import __version__
from raspy.common.verbs import json_encode
from raspy.web.board import Board, Busy, Snapshot, Stream
from raspy.web.guard import App, Guard, accepts_gzip, compress
from raspy.web.rows import (
    DEVICE,
    EVENT,
    SCENARIO,
    SERVER,
    UNREACHABLE,
    Row,
    clean,
    clock,
    duration,
    event_row,
    fields,
    row,
)

DEVICE_ROWS = 500
SERVER_ROWS = 100
SCENARIO_ROWS = 100
OTHER_ROWS = 200
"""Rows of each kind that one page shows; what is beyond is counted, and is in the API."""

HERE = os.path.dirname(os.path.abspath(__file__))
STATIC = {
    "style.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
NOTICES = {
    "connecting": "Connecting to the bus…",
    "lost": "The bus is not reachable: no value here is current. Is the broker running?",
}
FOREVER = "public, max-age=31536000, immutable"


class Asset:
    """A static file, in memory as it is and compressed; its address changes with its content."""

    __slots__ = ("body", "kind", "packed", "version")

    def __init__(self, name: str, kind: str) -> None:
        with open(os.path.join(HERE, "static", name), "rb") as file:
            self.body = file.read()
        self.packed = compress(self.body, 9)
        self.kind = kind
        self.version = hashlib.sha256(self.body).hexdigest()[:12]


def application(board: Board, hostname: str, names: Iterable[str]) -> App:
    """The WSGI application of one board.

    :param hostname: this host's name on the bus, for the title
    :param names: host names that are answered besides the local ones
    """
    pages = Pages(board, hostname)
    app = bottle.Bottle()
    app.config["catchall"] = False  # what fails is logged and answered by the guard
    app.route("/", callback=pages.home)
    app.route("/events", callback=pages.events)
    app.route("/health", callback=pages.health)
    app.route("/favicon.ico", callback=lambda: bottle.redirect("/static/icon.svg", 301))
    app.route("/static/<name>", callback=pages.static)
    app.route("/api/v1/tree", callback=pages.tree)
    app.default_error_handler = pages.failed
    return Guard(app, names, pages.refusal)


class Pages:
    """The views. They run on the threads that serve HTTP, and read snapshots only."""

    def __init__(self, board: Board, hostname: str) -> None:
        self._board = board
        self._hostname = hostname
        self._assets = {name: Asset(name, kind) for name, kind in STATIC.items()}
        self._common = {
            "hostname": hostname,
            "version": __version__,
            "duration": duration,
            "static": {name: f"/static/{name}?{asset.version}" for name, asset in self._assets.items()},
        }
        self._home = self._template("home.tpl")
        self._error = self._template("error.tpl")

    def home(self) -> list[bytes]:
        """Everything on the tree, for reading."""
        try:
            snapshot = self._board.ask(self._board.snapshot)
        except Busy as error:
            return self._failure("503 Service Unavailable", str(error))
        return _html(self._home.render(self._common, **sections(snapshot), clock=clock(time.time())))

    def events(self) -> Iterable[bytes]:
        """Changes as they happen (Server-Sent Events); 503 when there are as many streams as may be."""
        if bottle.request.method == "HEAD":
            return _typed("text/event-stream", b"")
        try:
            stream: Stream | None = self._board.ask(self._board.subscribe, bottle.request.query.get("since", ""))
        except Busy:
            stream = None
        if stream is None:
            bottle.response.set_header("Retry-After", "10")
            return self._failure("503 Service Unavailable", "too many pages are open for all to be told of changes")
        bottle.response.content_type = "text/event-stream"
        bottle.response.set_header("X-Accel-Buffering", "no")
        return stream

    def tree(self) -> list[bytes]:
        """The whole tree: each key's body as JSON, text or base64, and the age of its time in s."""
        try:
            snapshot = self._board.ask(self._board.snapshot)
        except Busy as error:
            bottle.response.status = 503
            return _typed("application/json", json_encode({"error": str(error)}))
        now = time.monotonic()
        entries = {}
        for key in sorted(snapshot.held):
            held = snapshot.held[key]
            age = held.age_at(now)
            entries[key] = {
                "age": None if age is None else round(age, 3),
                **body(key, held.body, snapshot.live),
            }
        answer = {"time": time.time(), "version": snapshot.version, "bus": snapshot.bus, "tree": entries}
        return _typed("application/json", json_encode(answer))

    def health(self) -> list[bytes]:
        """For probes: 200 when the server answers and the bus is reachable, else 503."""
        try:
            snapshot = self._board.ask(self._board.snapshot)
            bus, streams = snapshot.bus, snapshot.streams
        except Busy:
            bus, streams = "unknown", 0
        if bus != "live":
            bottle.response.status = 503
        answer = {"state": "ok" if bus == "live" else "degraded", "bus": bus, "streams": streams}
        return _typed("application/json", json_encode({**answer, "version": __version__}))

    def static(self, name: str) -> list[bytes]:
        """A file of the page; for ever when it is asked for by its version."""
        asset = self._assets.get(name)
        if asset is None:
            return self._failure("404 Not Found", "there is no such file")
        response, request = bottle.response, bottle.request
        tag = f'"{asset.version}"'
        response.set_header("ETag", tag)
        response.set_header("Cache-Control", FOREVER if request.query_string == asset.version else "no-cache")
        if request.get_header("If-None-Match") == tag:
            response.status = 304
            return []
        if accepts_gzip(request.get_header("Accept-Encoding", "")):
            response.set_header("Content-Encoding", "gzip")
            return _typed(asset.kind, asset.packed)
        return _typed(asset.kind, asset.body)

    def failed(self, error: Any) -> bytes:
        """Bottle's own errors: no such page."""
        reason = "there is no such page" if error.status_code == 404 else clean(str(error.body))
        return b"".join(self._failure(error.status_line, reason))

    def refusal(self, status: str, reason: str) -> bytes:
        """The page of an error, alone."""
        return self._error.render(self._common, status=status, reason=reason).encode("utf-8", "replace")

    def _failure(self, status: str, reason: str) -> list[bytes]:
        bottle.response.status = status
        return _typed("text/html; charset=utf-8", self.refusal(status, reason))

    def _template(self, name: str) -> Any:
        template = bottle.SimpleTemplate(name=name, lookup=[os.path.join(HERE, "templates")])
        template.co  # noqa: B018 -- compiled now, so that no two threads do it later
        return template


def sections(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot as the template takes it: devices by server, servers, events, the rest."""
    now = time.monotonic()
    devices: dict[str, dict[str, list[Row]]] = {}
    servers: list[Row] = []
    scenarios: list[Row] = []
    others: list[Row] = []
    room = {"device": DEVICE_ROWS, "server": SERVER_ROWS, "scenario": SCENARIO_ROWS, "other": OTHER_ROWS}
    left_out = 0
    for key in sorted(snapshot.held):
        if key.startswith(EVENT):
            continue
        found = DEVICE.fullmatch(key)
        kind = "device" if found is not None else "other"
        for other, pattern in (("server", SERVER), ("scenario", SCENARIO)):
            if pattern.fullmatch(key):
                kind = other
        if not room[kind]:
            left_out += 1
            continue
        room[kind] -= 1
        shown = row(snapshot.held[key], now, snapshot.live)
        if found is not None:
            group = devices.setdefault(f"{found['host']}.{found['server']}", {})
            group.setdefault(found["device"], []).append(shown)
        else:
            {"server": servers, "scenario": scenarios, "other": others}[kind].append(shown)
    return {
        "devices": devices,
        "servers": servers,
        "scenarios": scenarios,
        "others": others,
        "events": [event_row(held) for held in snapshot.events],
        "left_out": left_out,
        "data_version": snapshot.version,
        "bus": snapshot.bus,
        "notice": NOTICES.get(snapshot.bus, ""),
    }


def body(key: str, content: bytes, live: bool) -> dict[str, Any]:
    """A body as the API gives it. A reading that cannot be current has its number under ``last`` alone."""
    if key.startswith("/device/") and not live:
        reading = fields(content)
        if reading.get("quality") == "ok":
            reading["last"] = reading.pop("value", None)
            return {"body": {**reading, "quality": "stale", "reason": UNREACHABLE}}
    try:
        text = content.decode()
        msgspec.json.decode(content)
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(content).decode()}
    except (msgspec.DecodeError, RecursionError):
        return {"text": text}
    return {"body": msgspec.Raw(content)}


def _html(page: str) -> list[bytes]:
    return _typed("text/html; charset=utf-8", page.encode("utf-8", "replace"))


def _typed(kind: str, content: bytes) -> list[bytes]:
    bottle.response.content_type = kind
    return [content]
