"""What belongs to no page: files, the stream of changes, the probe, the language."""

from __future__ import annotations

from collections.abc import Iterable

from raspy import __version__
from raspy.web.board import Busy, Stream
from raspy.web.guard import accepts_gzip
from raspy.web.pages.modes import back_to
from raspy.web.refusal import Elsewhere, Refusal
from raspy.web.site import Site
from raspy.web.visit import ANYONE, Route, Visit
from raspy.web.words import COOKIE, LANGUAGES

FOREVER = "public, max-age=31536000, immutable"
YEAR = 365


def static(site: Site, visit: Visit, name: str) -> bytes:
    """A file of the page; for ever when it is asked for by its version."""
    asset = site.assets.get(name)
    if asset is None:
        raise Refusal("404 Not Found", visit.t("there is no such file"))
    tag = f'"{asset.version}"'
    visit.headers += [
        ("ETag", tag),
        ("Cache-Control", FOREVER if visit.environ.get("QUERY_STRING") == asset.version else "no-cache"),
    ]
    if visit.header("If-None-Match") == tag:
        visit.status = "304 Not Modified"
        return b""
    visit.headers.append(("Content-Type", asset.kind))
    if accepts_gzip(visit.header("Accept-Encoding")):
        visit.headers.append(("Content-Encoding", "gzip"))
        return asset.packed
    return asset.body


def icon(site: Site, visit: Visit) -> bytes:
    """What browsers ask for unasked."""
    visit.headers.append(("Cache-Control", "public, max-age=86400"))
    visit.headers.append(("Content-Type", "image/svg+xml"))
    return site.assets["icon.svg"].body


def events(site: Site, visit: Visit) -> bytes | Iterable[bytes]:
    """Changes as they happen (Server-Sent Events); 503 when there are as many streams as may be."""
    if visit.method == "HEAD":
        visit.headers.append(("Content-Type", "text/event-stream"))
        return b""
    try:
        stream: Stream | None = site.board.ask(site.board.subscribe, visit.query("since"), visit.t)
    except Busy:
        stream = None
    if stream is None:
        reason = visit.t("too many pages are open for all to be told of changes")
        raise Refusal("503 Service Unavailable", reason, (("Retry-After", "10"),))
    visit.headers += [("Content-Type", "text/event-stream"), ("X-Accel-Buffering", "no")]
    return WhileIn(site, visit, stream)


class WhileIn:
    """A stream that ends with its session: a sign of life comes every few seconds, so it is seen as soon.

    :param stream: what is sent
    """

    def __init__(self, site: Site, visit: Visit, stream: Stream) -> None:
        self._auth = site.auth
        self._session = visit.session
        self._stream = stream

    def __iter__(self) -> WhileIn:
        return self

    def __next__(self) -> bytes:
        message = next(self._stream)
        if self._session is None or not self._auth.goes_on(self._session):
            raise StopIteration
        return message

    def close(self) -> None:
        """Called at the end, however it comes (PEP 3333)."""
        self._stream.close()


def health(site: Site, visit: Visit) -> bytes:
    """For probes: 200 when the server answers and the bus is reachable, else 503."""
    try:
        snapshot = site.board.ask(site.board.snapshot)
        bus, streams = snapshot.bus, snapshot.streams
    except Busy:
        bus, streams = "unknown", 0
    if bus != "live":
        visit.status = "503 Service Unavailable"
    answer = {"state": "ok" if bus == "live" else "degraded", "bus": bus, "streams": streams}
    return site.json(visit, {**answer, "version": __version__})


def language(site: Site, visit: Visit) -> bytes:
    """Choose the language of the page."""
    chosen = visit.form.get("language", "")
    if chosen not in LANGUAGES:
        raise Refusal("400 Bad Request", "there is no such language")
    visit.set_cookie(COOKIE, chosen, YEAR)
    raise Elsewhere(back_to(visit))


ROUTES = (
    Route("/static/<name>", static, access=ANYONE),
    Route("/favicon.ico", icon, access=ANYONE),
    Route("/events", events),
    Route("/health", health, access=ANYONE, api=True),
    Route("/language", language, "POST", access=ANYONE),
)
