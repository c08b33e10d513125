"""The page in a real browser: live without reload, a lost connection, a phone, the dark, no JavaScript."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raspy.common.config import ConfigError
from tests.support import need_module, need_program
from tests.web.hand import TANK, Events, Hand, reading, until

pytestmark = pytest.mark.web

LIMIT = 20_000
"""Milliseconds for what must happen."""
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
FLAGS += ["--disable-component-update", "--disable-sync"]
ROW = f'[data-key="{TANK}"]'
SUMP = "/device/pi1.onewire.sump/temperature"
SHOTS = os.environ.get("RASPY_SCREENSHOTS", "")
"""A directory for screenshots, for a look at them."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = need_program("chromium")
    playwright = need_module("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=program, args=FLAGS)
        yield running
        running.close()


def on_a_port_to_come_back_to() -> Hand:
    """A server on a free port that is named, as only then a second one may listen there right after it."""
    for _ in range(5):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        try:
            return Hand(port=port)
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


def test_a_lost_connection_is_seen_and_mends_by_itself(hand: Hand, visit: Any) -> None:
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
    again = Hand(port=hand.port)
    try:
        again.bus("live")
        again.put(TANK, reading(23))
        page.wait("[data-link=live]")
        page.wait_text(f"{ROW}[data-state=ok] [data-cell=value]", "23")
        assert page.page.evaluate("window.same") is True
    finally:
        again.close()


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
