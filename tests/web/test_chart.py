"""The device's page in a real browser: a chart and its zoom, live, without JavaScript, what is being typed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from raspy.web.site import STATIC
from tests.web.eyes import Eyes, chromium
from tests.web.hand import reading, until
from tests.web.stage_device import TANK, Stage, stage

pytestmark = pytest.mark.web

EXTRA = "/device/pi1.fake.tank/extra"
PAGE = "/device/pi1.fake.tank?key=%2Ftemperature&span=day"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def place() -> Iterator[Stage]:
    if not os.path.exists(f"{STATIC}/uplot.js"):
        pytest.skip("needs uPlot: scripts/bootstrap charts")
    with stage() as made:
        yield made


@pytest.fixture
def eyes(browser: Any, place: Stage) -> Iterator[Any]:
    opened: list[Eyes] = []

    def look(path: str = PAGE, **settings: Any) -> Eyes:
        made = Eyes(browser, place.hand.url, **settings)
        name, _, value = place.hand.cookie.partition("=")
        made.context.add_cookies([{"name": name, "value": value, "url": place.hand.url}])
        opened.append(made)
        made.go(path)
        return made

    yield look
    for each in opened:
        each.context.close()


def queries(place: Stage) -> list[tuple[str, ...]]:
    return [words for words in place.log.executive.asked if words[0] == "query"]


def spans(found: list[tuple[str, ...]]) -> list[float]:
    """The seconds that are asked for. The small pictures ask too, in any order."""
    return [float(words[3]) - float(words[2]) for words in found]


def drag(page: Any, first: float, last: float) -> None:
    """Across the plot, from and to a part of its width."""
    box = page.locator("#chart .u-over").bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * first, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * last, y, steps=5)
    page.mouse.up()


@pytest.mark.parametrize("width", [360, 1200])
def test_a_days_chart_is_zoomed_and_shown_whole_again(place: Stage, eyes: Any, width: int) -> None:
    look = eyes(viewport={"width": width, "height": 800})
    look.page.wait_for_selector("#chart canvas")
    assert look.width() <= 0
    asked = len(queries(place))
    drag(look.page, 0.25, 0.5)
    look.page.wait_for_selector('#chart[data-zoomed*=" "]')
    since, until_ = map(float, look.page.get_attribute("#chart", "data-zoomed").split())
    assert until_ - since == pytest.approx(86_400 / 4, rel=0.1)
    assert pytest.approx(until_ - since, abs=1) in spans(queries(place)[asked:])
    look.page.get_by_role("button", name="Show the whole period").click()
    look.page.wait_for_selector('#chart[data-zoomed=""]')
    assert not look.page.get_by_role("button", name="Show the whole period").is_visible()
    assert look.problems == []


def zoomed(page: Any) -> tuple[float, float]:
    """What is shown, once it is a part of the whole."""
    page.wait_for_selector('#chart[data-zoomed*=" "]')
    since, until_ = map(float, page.get_attribute("#chart", "data-zoomed").split())
    return since, until_


def test_a_finger_zooms_by_going_across(eyes: Any) -> None:
    look = eyes(viewport={"width": 360, "height": 800}, has_touch=True)
    look.page.wait_for_selector("#chart canvas")
    over = look.page.locator("#chart .u-over")
    over.scroll_into_view_if_needed()
    box = over.bounding_box()
    y, session = box["y"] + box["height"] / 2, look.context.new_cdp_session(look.page)

    def touch(kind: str, *places: float) -> None:
        points = [{"x": box["x"] + box["width"] * place, "y": y} for place in places]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", 0.25)
    for step in range(1, 11):
        touch("touchMove", 0.25 + step * 0.05)
    touch("touchEnd")
    since, until_ = zoomed(look.page)
    assert until_ - since == pytest.approx(86_400 / 2, rel=0.15)
    assert look.problems == []


def test_it_is_zoomed_by_keys(eyes: Any) -> None:
    look = eyes()
    look.page.wait_for_selector("#chart canvas")
    assert not look.page.get_by_role("button", name="A step back").is_visible()
    look.page.get_by_role("button", name="Zoom in").press("Enter")
    since, until_ = zoomed(look.page)
    assert until_ - since == pytest.approx(86_400 / 2, rel=0.01)
    look.page.get_by_role("button", name="A step back").press("Enter")
    until(lambda: zoomed(look.page)[0] < since - 1000, "it has gone back")
    assert zoomed(look.page)[1] == pytest.approx((since + until_) / 2, abs=1)
    look.page.get_by_role("button", name="Show the whole period").press("Enter")
    look.page.wait_for_selector('#chart[data-zoomed=""]')
    assert look.page.evaluate("document.activeElement.id") == "closer"
    assert look.problems == []


def test_a_chart_without_news_goes_on(place: Stage, eyes: Any) -> None:
    """What ended long ago is not to stand at its right edge."""
    look = eyes(PAGE.replace("day", "hour"))
    look.page.clock.install()
    look.page.reload()
    look.page.wait_for_selector("#chart canvas")
    look.page.evaluate("document.addEventListener('raspy:row', event => event.stopImmediatePropagation(), true)")
    for _ in range(2):
        begin = len(queries(place))
        look.page.clock.fast_forward(20_000)
        until(lambda begin=begin: len(queries(place)) > begin, "the history is asked for though nothing changes")
    assert look.problems == []


def test_the_chart_goes_on_with_the_values(place: Stage, eyes: Any) -> None:
    look = eyes(PAGE.replace("day", "hour"), viewport={"width": 700, "height": 700})
    look.page.wait_for_selector("#chart canvas")
    asked = len(queries(place))
    until(lambda: len(queries(place)) > asked, "the history is asked for again when the value changes")
    look.page.wait_for_selector(f'[data-key="{TANK}"][data-state=ok]')
    look.page.wait_for_selector("[data-link=live]")
    assert look.problems == []


def test_periods_are_reached_by_the_keyboard(place: Stage, eyes: Any) -> None:
    look = eyes()
    asked = len(queries(place))
    look.page.get_by_role("link", name="Week").focus()
    look.page.keyboard.press("Enter")
    look.page.wait_for_url("**span=week**")
    look.page.wait_for_selector("#chart canvas")
    assert pytest.approx(7 * 86_400, abs=2) in spans(queries(place)[asked:])
    assert look.problems == []


def test_without_javascript_there_is_a_picture_and_a_table(eyes: Any) -> None:
    look = eyes(java_script_enabled=False)
    assert look.page.locator("#chart svg path.line").count() == 1
    assert look.page.locator("table tbody tr").count() > 10
    look.page.get_by_role("link", name="Month").click()
    look.page.wait_for_url("**span=month**")
    look.page.locator("footer").wait_for()
    assert look.page.locator('meta[http-equiv="refresh"]').count() == 0
    assert "As of " in look.page.locator("header").inner_text()
    look.page.get_by_role("link", name="Load it anew").click()
    look.page.wait_for_url("**span=month**")


def test_what_is_typed_is_not_lost_when_values_change(place: Stage, eyes: Any) -> None:
    place.hand.put(EXTRA, reading(1))
    place.hand.settled()
    look = eyes()
    look.page.wait_for_selector("[data-link=live]")
    label = look.page.locator('[id="tank:label"]')
    label.fill("half a na")
    place.hand.put("/alarm/hot", {"state": "active", "severity": "critical", "label": "hot"})
    place.hand.put(EXTRA, reading(2))
    look.wait_text(f'[data-key="{EXTRA}"] [data-cell=value]', "2")
    assert label.input_value() == "half a na"
    look.go("/")
    look.page.wait_for_selector("[data-link=live]")
    level = look.page.locator('[id="level:pi1.fake.light"]')
    level.fill("37")
    place.hand.put("/alarm/cold", {"state": "active", "severity": "critical", "label": "cold"})
    place.hand.put(EXTRA, reading(3))
    look.wait_text(f'[data-key="{EXTRA}"] [data-cell=value]', "3")
    assert level.input_value() == "37"
    look.page.get_by_role("button", name="light: set the level for an hour").click()
    look.wait_text("#said", "light is told 37 % until")
    place.hand.put("/alarm/hot", b"")
    place.hand.put("/alarm/cold", b"")
    place.hand.put(EXTRA, b"")
    assert look.problems == []


def test_whoever_is_logged_out_elsewhere_is_led_to_the_way_in(place: Stage, eyes: Any) -> None:
    for path in ("/", PAGE):
        look = eyes(path)
        look.page.wait_for_selector("[data-link=live]")
        look.context.clear_cookies()
        look.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        look.page.wait_for_url("**/login?next=**")


def test_a_probe_is_renamed(place: Stage, eyes: Any) -> None:
    look = eyes()
    look.page.locator('[id="tank:label"]').fill("Reef")
    look.page.get_by_role("button", name="Keep the settings").click()
    look.wait_text("#said", "the settings are kept")
    assert look.page.get_by_role("heading", level=1).inner_text().startswith("Reef")
    look.page.get_by_role("link", name="pi1", exact=True).click()
    look.page.get_by_role("link", name="Reef").wait_for()
    assert look.problems == []
