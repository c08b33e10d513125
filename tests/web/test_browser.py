"""The page in a real browser: live without reload, a lost connection, a phone, the dark, no JavaScript."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raspy.common.config import ConfigError
from tests.support_devices import broker
from tests.support_processes import free_block
from tests.web import hand as hand_module
from tests.web.eyes import LIMIT, chromium
from tests.web.hand import COOKIES, PASSWORD, TANK, Events, Hand, reading, until
from tests.web.stubs import HEATER, Stub, on_thread, put_alarm, put_output

pytestmark = pytest.mark.web

ROW = f'[data-key="{TANK}"]'
SUMP = "/device/pi1.onewire.sump/temperature"
SHOTS = os.environ.get("RASPY_SCREENSHOTS", "")
"""A directory for screenshots, for a look at them."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


def on_a_port_to_come_back_to() -> Hand:
    """A server on a free port that is named, as only then a second one may listen there right after it.

    The kernel gives it to nobody else while it is free again.
    """
    for _ in range(5):
        try:
            return Hand(port=free_block())
        except ConfigError:
            pass  # somebody else was quicker
    raise AssertionError("no port stays free")


@pytest.fixture
def hand() -> Iterator[Hand]:
    served = on_a_port_to_come_back_to()
    served.bus("live")
    served.put(TANK, reading(21.0625))
    served.put(SUMP, {"quality": "error", "reason": "CRC mismatch: check the wire"})
    served.put("/server/pi1.onewire", {"state": "ok", "restarts": 0})
    served.settled()
    yield served
    served.close()


class Visit:
    """A page in a browser context of its own, with all that went wrong on it."""

    def __init__(self, browser: Any, url: str, **settings: Any) -> None:
        self.context = browser.new_context(**settings)
        cookie = COOKIES.get(int(url.rsplit(":", 1)[1].partition("/")[0]), "")
        if cookie:
            name, _, value = cookie.partition("=")
            self.context.add_cookies([{"name": name, "value": value, "url": url}])
        self.page = self.context.new_page()
        self.page.set_default_timeout(LIMIT)
        self.problems: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda said: self._said(said.type, said.text))
        self.page.goto(url)

    def _said(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.problems.append(text)

    def text(self, selector: str) -> str:
        return str(self.page.locator(selector).inner_text())

    def wait(self, selector: str) -> None:
        self.page.wait_for_selector(selector, state="attached")

    def wait_text(self, selector: str, text: str) -> None:
        self.page.locator(selector, has_text=text).wait_for()

    def shot(self, name: str) -> None:
        if SHOTS:
            self.page.screenshot(path=Path(SHOTS) / f"{name}.png", full_page=True)

    def close(self) -> None:
        self.context.close()


@pytest.fixture
def visit(browser: Any, hand: Hand) -> Iterator[Any]:
    visits: list[Visit] = []

    def make(**settings: Any) -> Visit:
        visits.append(Visit(browser, hand.url, **settings))
        return visits[-1]

    yield make
    for each in visits:
        each.close()


def test_a_value_changes_without_reload(hand: Hand, visit: Any) -> None:
    page = visit()
    page.wait("[data-link=live]")
    page.page.evaluate("window.same = true")
    hand.put(TANK, reading(22.5))
    page.wait_text(f"{ROW} [data-cell=value]", "22.5")
    hand.put("/device/pi1.onewire.new/temperature", reading(19))
    page.wait('[data-key="/device/pi1.onewire.new/temperature"]')
    hand.put("/server/pi1.onewire", {"state": "lost", "time": 1, "last_down": {"time": 1, "reason": "killed"}})
    page.wait_text('[data-key="/server/pi1.onewire"]', "lost (killed) since")
    hand.put("/event/server/pi1.onewire", {"event": "lost", "reason": "killed"})
    page.wait_text("#lately", "lost (killed)")
    assert page.page.evaluate("window.same") is True
    assert page.problems == []


def test_a_value_that_goes_bad_is_a_word_and_is_announced(hand: Hand, visit: Any) -> None:
    page = visit()
    page.wait("[data-link=live]")
    stale = {"quality": "stale", "unit": "°C", "last": 21.0625, "reason": "nothing was published in time"}
    hand.put(TANK, stale)
    page.wait(f"{ROW}[data-state=stale]")
    assert page.text(f"{ROW} [data-cell=value]") == "—"
    assert "was 21.0625 °C; nothing was published in time" in page.text(ROW)
    assert "stale" in page.page.locator("#announce").text_content()
    hand.put(TANK, reading(21.125))
    page.wait_text(f"{ROW}[data-state=ok] [data-cell=value]", "21.125")
    page.shot("recovered")
    assert page.problems == []


def test_a_lost_connection_is_seen_and_mends_by_itself(hand: Hand, visit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    page = visit()
    page.wait("[data-link=live]")
    page.page.evaluate("window.same = true")
    hand.close()
    page.wait("[data-link=lost]")
    assert "Connection lost" in page.text("#link")
    page.wait(f"{ROW}[data-state=stale]")
    assert "was 21.0625 °C" in page.text(ROW)
    assert page.text(f"{ROW} [data-cell=value]") == "—"
    page.shot("lost")
    # Sessions are kept over a restart.
    monkeypatch.setattr(hand_module, "Auth", lambda *_, **__: hand.auth)
    again = Hand(port=hand.port, password=False)
    try:
        again.bus("live")
        again.put(TANK, reading(23))
        page.wait("[data-link=live]")
        page.wait_text(f"{ROW}[data-state=ok] [data-cell=value]", "23")
        assert page.page.evaluate("window.same") is True
    finally:
        again.close()


@pytest.mark.parametrize("text", ["", "55", "55 and left"])
def test_what_is_typed_stays_and_all_around_it_goes_on(hand: Hand, visit: Any, text: str) -> None:
    """It is there as long as what it is for, and hides no alarm; be it that the field has the focus alone."""
    put_output(hand)
    hand.put(f"/device/{HEATER}/level", reading(30))
    hand.settled()
    page = visit()
    page.wait("[data-link=live]")
    field = page.page.locator(f'[id="level:{HEATER}"]')
    field.focus()
    typed = text.partition(" ")[0] or "30"
    field.fill(typed)
    if "left" in text:
        field.blur()
    put_alarm(hand)
    hand.put(SUMP, b"")
    page.wait_text(".alarm h3", "Tank too hot")
    until(lambda: page.page.locator(f'[data-key="{SUMP}"]').count() == 0, "what was deleted is gone")
    assert field.input_value() == typed
    focused = page.page.evaluate("document.activeElement.id")
    assert (focused == f"level:{HEATER}") is ("left" not in text)
    hand.put("/alarm/hot", b"")
    until(lambda: page.page.locator(".alarm").count() == 0, "the alarm is gone")
    hand.put("/device/pi1.aaa.new/temperature", reading(19))
    page.wait('[data-key="/device/pi1.aaa.new/temperature"]')
    assert field.input_value() == typed
    assert page.page.locator("article").count() == 3
    hand.put(f"/device/{HEATER}/level", b"")
    until(lambda: field.count() == 0, "a field for nothing is gone")
    assert page.problems == []


def test_a_newer_page_waits_for_what_is_typed(hand: Hand, visit: Any) -> None:
    put_output(hand)
    hand.put(f"/device/{HEATER}/level", reading(30))
    hand.settled()
    page = visit()
    page.wait("[data-link=live]")
    page.page.evaluate("window.same = true")
    field = page.page.locator(f'[id="level:{HEATER}"]')
    field.fill("55")

    def newer(route: Any) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=answer.text().replace("/static/page.js?", "/static/page.js?newer="))

    page.page.route(f"{hand.url}/", newer)
    put_alarm(hand)
    page.wait_text(".alarm h3", "Tank too hot")
    assert field.input_value() == "55"
    assert page.page.evaluate("window.same") is True
    with page.page.expect_navigation():
        field.fill("30")
        field.blur()
    page.wait("[data-link=live]")


def test_the_field_of_a_dimmer_has_its_level_until_another_is_typed(hand: Hand, visit: Any) -> None:
    put_output(hand)
    hand.put(f"/device/{HEATER}/level", reading(30))
    hand.settled()
    page = visit()
    page.wait("[data-link=live]")
    field = page.page.locator(f'[id="level:{HEATER}"]')
    hand.put(f"/device/{HEATER}/level", reading(80))
    until(lambda: field.input_value() == "80", "it follows")
    hand.put(f"/device/{HEATER}/level", {"quality": "stale", "last": 80})
    until(lambda: field.input_value() == "", "what is not known stands in no field")
    field.fill("5")
    hand.put(f"/device/{HEATER}/level", reading(70))
    page.wait_text(f'[data-key="/device/{HEATER}/level"] [data-cell=value]', "70")
    assert field.input_value() == "5"


def test_the_bus_lost_is_seen_and_mends_by_itself(hand: Hand, visit: Any) -> None:
    page = visit()
    page.wait("[data-link=live]")
    hand.bus("lost")
    page.wait_text("#notice", "The bus is not reachable")
    page.wait(f"{ROW}[data-state=stale]")
    page.shot("bus-lost")
    hand.bus("live")
    page.wait(f"{ROW}[data-state=ok]")
    until(lambda: page.page.locator("#notice").text_content() == "", "the notice is gone")
    assert page.problems == []


def test_without_a_stream_it_asks_again_and_again(hand: Hand, visit: Any) -> None:
    streams = [Events(hand.port) for _ in range(4)]
    try:
        page = visit()
        page.wait("[data-link=polling]")
        hand.put(TANK, reading(24.25))
        page.wait_text(f"{ROW} [data-cell=value]", "24.25")
        page.shot("polling")
    finally:
        for stream in streams:
            stream.close()


@pytest.mark.parametrize("width", [320, 360, 768, 1400])
def test_no_width_scrolls_sideways(hand: Hand, visit: Any, width: int) -> None:
    hand.put("/variable/" + "long" * 50, b"x" * 3000)
    hand.put("/device/pi1.onewire." + "d" * 63 + "/" + "c" * 63, reading(-123456.7891, unit="u" * 30))
    hand.put(SUMP, {"quality": "error", "reason": "w" * 300})
    hand.settled()
    page = visit(viewport={"width": width, "height": 740}, device_scale_factor=2)
    page.wait("[data-link=live]")
    page.page.locator("summary").click()
    assert page.page.evaluate("document.documentElement.scrollWidth") <= width
    page.shot(f"width-{width}")
    assert page.problems == []


CONTRAST = """() => {
  const light = (c) => { const f = c / 255; return f <= 0.04045 ? f / 12.92 : ((f + 0.055) / 1.055) ** 2.4; };
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const luminance = (c) => 0.2126 * light(c[0]) + 0.7152 * light(c[1]) + 0.0722 * light(c[2]);
  const back = (e) => {
    for (; e; e = e.parentElement) {
      const c = rgb(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] > 0) return c;
    }
    throw new Error("no background");
  };
  const poor = [];
  for (const e of document.body.querySelectorAll("*")) {
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || !e.offsetWidth) continue;
    const [a, b] = [luminance(rgb(getComputedStyle(e).color)), luminance(back(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) poor.push([e.tagName, e.className, e.textContent.trim().slice(0, 30), ratio.toFixed(2)]);
  }
  return poor;
}"""
"""Texts whose contrast is under 4.5:1 (WCAG 2.2, 1.4.3)."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("state", ["live", "lost"])
def test_every_text_has_contrast(hand: Hand, visit: Any, scheme: str, state: str) -> None:
    hand.put("/device/pi1.onewire.a/temperature", {"quality": "stale", "last": 5, "reason": "no news"})
    for name, word in (("a", "degraded"), ("b", "lost"), ("c", "stopped")):
        hand.put(f"/server/pi1.{name}", {"state": word, "conditions": {"bus": "no bus"}, "restarts": 3})
    hand.put("/variable/x", b"1")
    hand.put("/event/server/pi1.b", {"event": "lost", "time": 1})
    hand.settled()
    page = visit(color_scheme=scheme)
    page.wait("[data-link=live]")
    page.page.locator("summary").click()
    background = page.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 200) is (scheme == "dark")
    if state == "lost":
        hand.close()
        page.wait("[data-link=lost]")
    page.shot(f"contrast-{scheme}-{state}")
    assert page.page.evaluate(CONTRAST) == []


def test_without_javascript_it_can_be_read(hand: Hand, visit: Any) -> None:
    page = visit(java_script_enabled=False)
    text = page.page.content()
    assert page.text(f"{ROW} [data-cell=value]") == "21.0625"
    assert "CRC mismatch: check the wire" in page.text(f'[data-key="{SUMP}"]')
    assert "This page loads itself anew" in page.text("header")
    assert '<meta http-equiv="refresh"' in text
    page.shot("no-javascript")


@pytest.fixture(scope="module")
def bus() -> Iterator[tuple[str, Stub, Stub]]:
    with broker() as address, on_thread(Stub("stub", address)) as stub, on_thread(Stub("alarm", address)) as alarm:
        yield address, stub, alarm


@pytest.fixture
def handy(browser: Any, bus: tuple[str, Stub, Stub]) -> Iterator[Any]:
    """Visits to a page whose forms reach servers, which are told what was done."""
    address, stub, alarm = bus
    stub.told.clear()
    alarm.told.clear()
    hand = Hand(broker=address)
    put_output(hand)
    put_alarm(hand, reason="above 30 °C", value=31.25, unit="°C", since=1e9)
    hand.settled()
    visits: list[Visit] = []

    def make(**settings: Any) -> tuple[Hand, Visit, Stub, Stub]:
        visits.append(Visit(browser, hand.url, **settings))
        return hand, visits[-1], stub, alarm

    yield make
    for each in visits:
        each.close()
    hand.close()


@pytest.mark.parametrize("script", [True, False])
def test_a_mode_is_set_with_and_without_javascript(handy: Any, script: bool) -> None:
    hand, page, stub, _ = handy(java_script_enabled=script)
    page.page.get_by_role("button", name="heater: off").click()
    page.wait_text("#said", "heater is in mode off until")
    assert stub.told[-1] == ("mode", "heater", "off", "", "the page")
    put_output(hand, "off", 4e9)
    hand.settled()
    if not script:
        page.page.reload()
    page.wait_text(f'[data-key="/device/{HEATER}/mode"][data-state=manual]', "until 2096")
    page.shot(f"mode-{script}")
    page.page.get_by_role("link", name="heater: mode and time").click()
    page.page.get_by_label("feeding").check()
    page.page.get_by_label("For").select_option("1 hour")
    page.shot(f"mode-form-{script}")
    page.page.get_by_role("button", name="Set the mode").click()
    page.wait_text("#said", "heater is in mode feeding until")
    assert stub.told[-1] == ("mode", "heater", "feeding", "3600", "the page")
    page.page.get_by_role("link", name="Modes of all outputs").click()
    page.shot(f"modes-{script}")
    page.page.get_by_role("button", name="feeding").click()
    page.wait_text("#said", "in mode feeding: heater")
    assert page.problems == []


def test_what_a_form_did_is_not_said_for_ever(handy: Any) -> None:
    hand, page, _, _ = handy()
    page.page.clock.install()
    page.page.get_by_role("button", name="heater: off").click()
    page.wait_text("#said", "heater is in mode off until")
    # Its script has seen it by then, and looks at the clock.
    page.page.wait_for_url(f"{hand.url}/")
    page.page.clock.fast_forward(30_000)
    page.page.wait_for_function("document.getElementById('said').textContent === ''")
    assert page.problems == []


@pytest.mark.parametrize("script", [True, False])
def test_an_alarm_is_acknowledged_with_and_without_javascript(handy: Any, script: bool) -> None:
    hand, page, _, alarm = handy(java_script_enabled=script)
    assert "above 30 °C: 31.25 °C" in page.text(".alarm")
    page.shot(f"alarm-{script}")
    page.page.get_by_role("button", name="Acknowledge: Tank too hot").click()
    page.wait_text("#said", "the alarm hot is acknowledged")
    assert alarm.told[-1] == ("acknowledge", "hot", "the page")
    put_alarm(hand, state="acknowledged", by="the page")
    hand.settled()
    if not script:
        page.page.reload()
    page.wait_text(".alarm[data-state=ok] .badge", "acknowledged")
    until(lambda: page.page.get_by_role("button", name="Acknowledge: Tank too hot").count() == 0, "no button")
    page.page.get_by_role("button", name="Shelve for an hour: Tank too hot").click()
    page.wait_text("#said", "is shelved for an hour")
    hand.put("/alarm/hot", b"")
    hand.settled()
    if not script:
        page.page.reload()
    until(lambda: page.page.locator(".alarm").count() == 0, "the alarm is gone")
    assert page.problems == []


def test_a_foreign_page_cannot_use_a_form(handy: Any) -> None:
    """A page from elsewhere sends a form that has all but our origin."""
    place, page, stub, _ = handy()
    page.page.goto("about:blank")
    page.page.set_content(
        f'<form method="post" action="{place.url}/mode"><input name="csrf" value="{place.csrf}">'
        f'<input name="output" value="{HEATER}"><button name="mode" value="on">x</button></form>'
    )
    page.page.get_by_role("button").click()
    page.wait_text("main", "does not come from this page")
    assert stub.told == []


def test_whoever_was_logged_out_meanwhile_logs_in_and_goes_on(handy: Any) -> None:
    hand, page, stub, _ = handy()
    page.wait("[data-link=live]")
    # The page would find out, too, and perhaps lead to the login before the button is pressed.
    page.page.route("**/*", lambda route: route.abort() if route.request.resource_type == "fetch" else route.fallback())
    hand.auth.log_out_all()
    page.page.get_by_role("button", name="heater: off").click()
    page.page.wait_for_url("**/login")
    assert stub.told == []
    page.page.get_by_label("Password").fill(PASSWORD)
    page.page.get_by_role("button", name="Log in").click()
    page.page.get_by_role("button", name="heater: off").click()
    page.wait_text("#said", "heater is in mode off")
    assert len(stub.told) == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1400])
def test_forms_and_alarms_can_be_read(handy: Any, scheme: str, width: int) -> None:
    hand, page, _, _ = handy(color_scheme=scheme, viewport={"width": width, "height": 740})
    put_output(hand, "feeding", 4e9)
    for number, (state, severity) in enumerate((("active", "warning"), ("returned", "info"), ("shelved", "critical"))):
        put_alarm(hand, f"a{number}", state=state, severity=severity, label="w" * 100, reason="v" * 200)
    hand.settled()
    page.page.get_by_role("button", name="heater: off").click()
    page.wait_text("#said", "heater is in mode off")
    page.wait("[data-link=live]")
    page.shot(f"forms-{scheme}-{width}")
    for path in ("", f"/mode/{HEATER}", "/modes"):
        page.page.goto(hand.url + path)
        assert page.page.evaluate(CONTRAST) == []
        assert page.page.evaluate("document.documentElement.scrollWidth") <= width
        page.shot(f"forms-{scheme}-{width}-{path[1:5]}")


def test_what_a_screen_reader_needs_is_there(visit: Any) -> None:
    page = visit()
    page.wait("[data-link=live]")
    tree = page.page.locator("body").aria_snapshot()
    for words in (
        'heading "pi1" [level=1]',
        'heading "Values" [level=2]',
        'heading "tank onewire on pi1" [level=3]',
        "main",
        "banner",
        "contentinfo",
    ):
        assert words in tree
    assert page.page.locator("#link").get_attribute("role") == "status"
    assert page.page.locator("html").get_attribute("lang") == "en"
