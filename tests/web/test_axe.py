"""Every page of an appliance that is lived in, found by its links, in every look.

axe-core has nothing to say, nothing is wider than the window or asked for elsewhere, no script or style breaks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from raspy.web.pages import PAGES
from tests.support import need_module
from tests.support_processes import wait_for
from tests.web.eyes import DESK, LIMIT, PHONE, Eyes, House, chromium, house

pytestmark = [pytest.mark.web, pytest.mark.timeout(400)]

NO_PAGES = ("/static/<name>", "/favicon.ico", "/events", "/health", "/system/backup/file/<identity>")
"""Routes that answer GET with something else than a page."""
SAMPLES = 2
"""Pages that are looked at of each kind."""
AXE = """() => axe.run(document, {resultTypes: ['violations'], preload: false}).then(found => found.violations.map(
    rule => rule.id + ': ' + rule.help + '\\n' + rule.nodes.slice(0, 5).map(
        node => '  ' + node.html.slice(0, 200) + '\\n    ' + node.any.concat(node.all, node.none).map(
            check => check.message).join('; ')).join('\\n')))"""
SMALL = """() => [...document.querySelectorAll(
        'a[href], button, select, summary, textarea, label:has([type=checkbox], [type=radio]), ' +
        'input:not([type=hidden], [type=checkbox], [type=radio])')].filter(
    e => e.checkVisibility() && !e.closest('.unseen')).map(e => [e, e.getBoundingClientRect()]).filter(
    ([e, box]) => box.height && (box.height < 43.5 || box.width < 43.5)).map(
    ([e, box]) => `${e.outerHTML.slice(0, 120)}: ${box.width} x ${box.height}`)"""
"""What is to be touched and is smaller than 44 px."""
WIDE = """() => [...document.body.querySelectorAll('*')].filter(
    e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.scroll, pre, textarea, .unseen, .chart')).map(
    e => e.outerHTML.slice(0, 160)).slice(0, 5)"""
LOOKS: dict[str, dict[str, Any]] = {
    "light": {**DESK, "color_scheme": "light"},
    "dark": {**DESK, "color_scheme": "dark"},
    "phone": {**PHONE, "color_scheme": "light"},
    "phone-dark-french": {**PHONE, "color_scheme": "dark", "locale": "fr-FR"},
}
SORRY = 'print("I try")\nraise RuntimeError("there is no such pump")\n'


def rules() -> dict[str, re.Pattern[str]]:
    """The routes of pages, and which paths each takes."""
    found = {
        route.rule: route for module in PAGES for route in module.ROUTES if route.method == "GET" and not route.api
    }
    # As in Bottle, a path that is named is no wildcard's.
    known = sorted((rule for rule in found if rule not in NO_PAGES), key=lambda rule: "<" in rule)
    return {rule: re.compile(re.sub(r"<\w+(?::\w+)?>", "[^/]+", rule)) for rule in known}


def live_in(home: House) -> None:
    """Give the appliance what an owner has after some time: alarms, scenarios, jobs, requests, modes."""
    sorry = home.directory / "sorry.py"
    sorry.write_text(SORRY)
    for words in (
        "alarm new hot kind=high key=fake.tank/temperature limit=1 hysteresis=0.5 severity=critical label=Tank",
        "alarm new warm kind=high key=fake.tank/temperature limit=2 hysteresis=0.5 severity=warning",
        "scenario examples thermostat --import",
        f"scenario new sorry --code {sorry}",
        "scenario run sorry",
        f"scenario new new --code {sorry}",
        "cron new feeding every_10m label=Breakfast command.device=fake.light command.command=level command.value=5",
        "variable set level 21.5",
        "mode heater off --for 2h",
        "device new fake sensor.cyclic name=room label=Living_room minimum=18 maximum=22 unit=°C",
        "request pi.nobody.devices list --no-wait --lifetime 5000",
        "request pi.fake.devices list_keys --no-wait",
    ):
        done = home.raspy(
            *(word.replace("_", " ") if "every" in word or "label" in word else word for word in words.split())
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    wait_for("the alarm", lambda: '"active"' in home.raspy("alarm", "--json").stdout)


@pytest.fixture(scope="module")
def home() -> Iterator[House]:
    need_module("axe_playwright_python")
    with house() as made:
        live_in(made)
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def owner(browser: Any, home: House) -> Iterator[Eyes]:
    """Who has logged in, and whose session the others have."""
    eyes = Eyes(browser, home.url)
    eyes.log_in()
    yield eyes
    eyes.close()


def axe() -> str:
    """The source of axe-core."""
    package = need_module("axe_playwright_python")
    return (Path(str(package.__file__)).parent / "axe.min.js").read_text()


def settle(eyes: Eyes) -> None:
    """Wait until a page that is kept current is."""
    if eyes.script and eyes.page.locator("#link").count():
        eyes.page.wait_for_selector("[data-link=live], [data-link=polling]", timeout=LIMIT)
    for details in eyes.page.locator("main details:not([open]) > summary").all():
        details.click()


def links(eyes: Eyes) -> list[str]:
    """Where the page leads to on this server."""
    found = eyes.page.locator("a[href^='/']:not([download])").evaluate_all(
        "all => all.map(a => a.getAttribute('href'))"
    )
    return [str(path).partition("#")[0] for path in found]


def walk(eyes: Eyes) -> Iterator[str]:
    """Open page after page, by the links from the first, at most so many of each kind; give each kind's name."""
    left, seen, counts = ["/"], {"/"}, dict.fromkeys(rules(), 0)
    while left:
        path = left.pop(0)
        plain = urlsplit(path).path
        rule = next((rule for rule, pattern in rules().items() if pattern.fullmatch(plain)), None)
        if rule is None or counts[rule] >= SAMPLES:
            continue
        try:
            answer = eyes.page.goto(eyes.url + path)
        except Exception as error:
            if "Download is starting" not in str(error):
                raise
            counts[rule] += SAMPLES  # a file to be saved: no page
            continue
        if answer.status != 200:
            eyes.problems.append(f"a link leads to {path}: {answer.status}")
        counts[rule] += 1
        settle(eyes)
        for link in links(eyes):
            if link not in seen:
                seen.add(link)
                left.append(link)
        yield path
    # Only an appliance has the page for its power.
    never = {rule for rule, count in counts.items() if not count} - {"/login", "/setup", "/system/power"}
    assert not never, f"no link leads to {never}"


def look_at(eyes: Eyes, path: str, source: str) -> list[str]:
    """All that is wrong on the page that is open."""
    found = [f"wider than the window by {eyes.width()} px: {eyes.page.evaluate(WIDE)}"] if eyes.width() > 0 else []
    found += [f"too small: {small}" for small in eyes.page.evaluate(SMALL)]
    eyes.page.evaluate(source)
    found += eyes.page.evaluate(AXE)
    if eyes.page.locator("h1").count() != 1:
        found.append("not exactly one h1")
    found += eyes.problems
    eyes.problems.clear()
    return [f"{path}: {problem}" for problem in found]


@pytest.mark.parametrize(
    "look", [pytest.param(look, marks=[] if look == "phone-dark-french" else [pytest.mark.soak]) for look in LOOKS]
)
def test_no_page_has_anything_wrong(browser: Any, home: House, owner: Eyes, look: str) -> None:
    eyes = Eyes(browser, owner.url, **LOOKS[look])
    try:
        eyes.go("/login")
        wrong = look_at(eyes, "/login", axe())
        eyes.shot(f"{look}-login")
        eyes.adopt(owner)
        pages = 0
        for path in walk(eyes):
            wrong += look_at(eyes, path, axe())
            eyes.shot(f"{look}-{re.sub('[^a-z0-9]+', '-', path).strip('-') or 'home'}")
            pages += 1
        eyes.go("/nothing")
        assert [problem for problem in eyes.problems if "404 (Not Found)" not in problem] == []
        eyes.problems.clear()
        wrong += look_at(eyes, "/nothing", axe())
        assert not wrong, "\n".join(wrong)
        assert pages >= 8
    finally:
        eyes.close()


def test_every_page_can_be_read_without_javascript(browser: Any, home: House, owner: Eyes) -> None:
    eyes = Eyes(browser, owner.url, java_script_enabled=False, **PHONE)
    try:
        eyes.adopt(owner)
        for path in walk(eyes):
            assert eyes.width() <= 0, f"{path}: {eyes.page.evaluate(WIDE)}"
            assert len(eyes.main()) > 20, path
            eyes.shot(f"no-javascript-{re.sub('[^a-z0-9]+', '-', path).strip('-') or 'home'}")
        assert not eyes.problems
    finally:
        eyes.close()


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_the_first_page_of_all_has_nothing_wrong(browser: Any, look: str) -> None:
    from tests.web.hand import Hand

    hand = Hand(password=False)
    eyes = Eyes(browser, hand.url, **LOOKS[look])
    try:
        eyes.go("/")
        assert eyes.page.url.endswith("/setup")
        wrong = look_at(eyes, "/setup", axe())
        eyes.shot(f"{look}-setup")
        eyes.page.get_by_label("Password", exact=True).fill("raspberry")
        eyes.page.get_by_label("The same again").fill("raspberry")
        eyes.page.get_by_role("button", name="Set the password").click()
        eyes.page.get_by_role("alert").wait_for()
        eyes.problems.clear()  # that the form was refused is told to the console too
        wrong += look_at(eyes, "/setup", axe())
        assert not wrong, "\n".join(wrong)
    finally:
        eyes.close()
        hand.close()


def test_axe_finds_what_is_wrong(browser: Any) -> None:
    """That it is there, and looks."""
    page = browser.new_page()
    page.set_content("<img src=x><button></button><p style='color:#ccc;background:#fff'>pale</p>")
    page.evaluate(axe())
    found = json.dumps(page.evaluate(AXE))
    page.close()
    for rule in ("image-alt", "button-name", "color-contrast"):
        assert rule in found
