"""The page of requests on a real Titanic: what it holds is told, tried again and dropped there."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from raspy.web.pages.requests import ON_PAGE
from tests.conformance.stage import unique
from tests.servers.titanic_stage import Ship, an_id, at_sea, make_quick
from tests.web.hand import Answer, Hand, ask, until
from tests.web.plans import FORM, HOSTILE, plans

FAILED = (b'"the pump is <b>dry</b> & \xe2\x80\xae"', b"500")


class Dock:
    """A Titanic, of another host than the page, and the page."""

    def __init__(self, ship: Ship) -> None:
        self.ship = ship
        self.hand = Hand(broker=ship.bus.ip)
        self.hand.bus("live")
        self.hand.put("/server/pi.titanic", {"state": "ok"})
        self.hand.settled()

    def get(self, path: str = "/requests", **headers: str) -> Answer:
        return ask(self.hand.port, path, **headers)

    def post(self, uuid: str, csrf: str | None = None, **fields: str) -> Answer:
        sent = {"csrf": self.hand.csrf if csrf is None else csrf, **fields}
        origin = {"Origin": f"http://127.0.0.1:{self.hand.port}", "Content_Type": FORM}
        return ask(self.hand.port, f"/requests/{uuid}", "POST", urlencode(sent).encode(), **origin)

    def parked(self) -> tuple[str, bytes]:
        """A request that was given up, and its service."""
        service = unique()
        worker = self.ship.worker(service)
        uuid = self.ship.request(service, b"<i>work</i>")
        for _ in range(3):
            self.ship.serve(worker, *FAILED)
        assert self.ship.fetch(uuid)[0].startswith(b"500 parked")
        self.ship.lose(worker, service)
        return uuid.decode(), service

    def state(self, uuid: str) -> str:
        told, status = self.ship.queue("info", uuid)
        return str(told["state"]) if status == b"200" else "gone"


@pytest.fixture
def dock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dock]:
    make_quick(monkeypatch)
    with at_sea(str(tmp_path)) as ship:
        made = Dock(ship.start())
        try:
            yield made
        finally:
            made.hand.close()


def listed(text: str) -> list[str]:
    """The ids of the requests that a page shows."""
    return re.findall(r'<h3><a href="/requests/([0-9a-f]{32})"', text)


def test_nothing_yet(dock: Dock) -> None:
    page = dock.get()
    assert page.status == 200
    assert page.text.count('<p class="empty">None.</p>') == 2
    assert "waiting or running: 0" in page.text


def test_what_waits_and_what_failed(dock: Dock) -> None:
    failed, service = dock.parked()
    waits = dock.ship.accepted(an_id(2, 1000), unique(), b"work").decode()
    slow = unique()
    runs = dock.ship.request(slow).decode()
    dock.ship.worker(slow).request()
    page = dock.get()
    text = html.unescape(page.text)
    assert listed(page.text) == [failed, waits, runs]
    assert re.findall(r'<b class="badge">([a-z ]+)</b>', page.text) == ["failed", "waiting", "running"]
    assert "waiting or running: 2" in text
    assert "failed: 1" in text
    assert "<b>dry" not in page.text
    assert "the pump is <b>dry</b> & ·" in text
    assert "failed attempts: 3" in text
    assert "worth it for 16 min more" in text
    assert f">{service.decode()}</a>" in page.text
    # What is still to be done is dropped after a second look only.
    assert page.text.count('value="drop"') == 1
    one = dock.get(f"/requests/{waits}")
    assert 'value="drop"' in one.text
    assert 'value="retry"' not in one.text
    shown = dock.get(f"/requests/{failed}").text
    assert "&lt;i&gt;work&lt;/i&gt;" in shown
    assert 'value="retry"' in shown


def test_retry(dock: Dock) -> None:
    uuid, service = dock.parked()
    answer = dock.post(uuid, action="retry", state="parked")
    assert answer.status == 303
    assert answer.headers["Location"].startswith("/requests?state=parked&said=")
    assert "the request waits to be tried again" in dock.get(answer.headers["Location"]).text
    dock.ship.worker(service).echo = True
    assert dock.ship.fetch(uuid.encode())[0] == b"200"
    assert dock.post(uuid, action="retry").status == 409
    assert listed(dock.get("/requests?state=done").text) == [uuid]
    assert "What was answered" in dock.get(f"/requests/{uuid}").text


def test_drop(dock: Dock) -> None:
    failed, _ = dock.parked()
    waits = dock.ship.request(unique()).decode()
    for uuid in (failed, waits):
        answer = dock.post(uuid, action="drop", state="//elsewhere")
        assert answer.status == 303
        assert answer.headers["Location"].startswith("/requests?said=")
        assert dock.state(uuid) == "gone"
        assert dock.post(uuid, action="drop").status == 404
    assert listed(dock.get().text) == []


def test_what_came_late(dock: Dock) -> None:
    late = dock.ship.accepted(an_id(1, 0), unique(), b"work").decode()

    def is_late() -> bool:
        dock.ship.call(lambda titanic: titanic._look_for_late())
        return dock.state(late) == "late"

    until(is_late, "it is late")
    assert listed(dock.get().text) == []
    page = dock.get("/requests?state=late").text
    assert listed(page) == [late]
    assert "too late" in page


def test_pages(dock: Dock) -> None:
    service = unique()
    uuids = [uuid.decode() for uuid in dock.ship.requests(service, *[b"%d" % i for i in range(2 * ON_PAGE + 1)])]
    first = dock.get()
    assert listed(first.text) == uuids[:ON_PAGE]
    assert 'href="/requests?state=pending">All of them' in first.text
    found = []
    path, count = "/requests?state=pending", 0
    while path:
        page = dock.get(path).text
        found += listed(page)
        count += 1
        following = re.search(r'rel="next" href="([^"]*)"', page)
        path = html.unescape(following[1]) if following else ""
    assert (found, count) == (uuids, 3)
    for odd in ("0", "-1", "x", "99999999999", "%00", "<b>"):
        assert listed(dock.get(f"/requests?state=pending&page={odd}").text), odd


@pytest.mark.parametrize("uuid", ["x", "0" * 31, "A" * 32, "0" * 32, "%3Cb%3E", "0" * 33, "%C3%A9"])
def test_unknown_ones(dock: Dock, uuid: str) -> None:
    assert dock.get(f"/requests/{uuid}").status == 404
    for action in ("retry", "drop"):
        assert dock.post(uuid, action=action).status == 404
    assert dock.get("/requests?state=%3Cb%3E").status == 404


def test_without_its_word_nothing_changes(dock: Dock) -> None:
    uuid, _ = dock.parked()
    for csrf in ("", "wrong"):
        for action in ("retry", "drop"):
            assert dock.post(uuid, csrf=csrf, action=action).status == 403
    assert dock.post(uuid, action="other").status == 400
    assert dock.state(uuid) == "parked"
    assert dock.get(Cookie="").status == 303


def test_hostile_frames(dock: Dock) -> None:
    service = unique() + b"<script>"
    uuid = dock.ship.request(service, HOSTILE.encode(), b"\xff\0" * 5000, b"<script>alert(1)</script>").decode()
    for path in ("/requests", f"/requests/{uuid}"):
        page = dock.get(path)
        assert page.status == 200
        assert "<script>alert" not in page.text
        assert service.decode() not in page.text


def test_without_titanic() -> None:
    with plans() as place:
        page = place.get("/requests")
        assert page.status == 200
        assert "The server titanic does not run here" in page.text
        assert place.get(f"/requests/{'0' * 32}").status == 503
        assert place.post(f"/requests/{'0' * 32}", action="drop").status == 503
