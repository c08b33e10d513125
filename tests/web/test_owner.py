"""What an owner does, in a real browser on a real appliance; also without JavaScript, and by keys alone."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support_processes import wait_for
from tests.web.eyes import DESK, LIMIT, OUTDOORS, PASSWORD, PHONE, Eyes, House, chromium, house, wait_reading

pytestmark = [pytest.mark.web, pytest.mark.timeout(240)]

LEVEL = "/device/pi.fake.tank/level"
WATER = "/device/pi.fake.tank/temperature"
LOOKS: dict[str, dict[str, Any]] = {
    "desk": DESK,
    "phone": {**PHONE, "color_scheme": "dark"},
    "no-javascript": {**PHONE, "java_script_enabled": False},
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def home() -> Iterator[House]:
    with house(lived=True) as made:
        yield made


@pytest.fixture(scope="module")
def owner(browser: Any, home: House) -> Iterator[Eyes]:
    """Who has logged in first."""
    eyes = Eyes(browser, home.url)
    eyes.log_in()
    yield eyes
    eyes.close()


@pytest.fixture
def enter(browser: Any, owner: Eyes) -> Iterator[Callable[[str], Eyes]]:
    """Makes a browser with a look, in which the owner has logged in; nothing may have gone wrong in it at the end."""
    opened: list[Eyes] = []

    def make(look: str) -> Eyes:
        opened.append(Eyes(browser, owner.url, **LOOKS[look]))
        opened[-1].adopt(owner)
        return opened[-1]

    yield make
    for eyes in opened:
        eyes.close()
        assert not eyes.problems


def value(eyes: Eyes, key: str) -> float:
    """The number that the page shows of a key; loads it anew where it cannot do so itself."""
    if not eyes.script:
        eyes.page.reload()
    shown = str(eyes.page.locator(f'[data-key="{key}"] [data-cell=value]').first.text_content())
    return float(shown) if re.fullmatch(r"-?[\d.]+", shown) else float("nan")


@pytest.mark.parametrize("look", LOOKS)
def test_the_first_password_is_set_and_used(browser: Any, look: str) -> None:
    with house() as made:
        eyes = Eyes(browser, made.url, **LOOKS[look])
        eyes.go("/")
        assert eyes.page.url.endswith("/setup")
        eyes.shot(f"owner-{look}-1-first-start")
        eyes.page.get_by_label("Password", exact=True).fill(PASSWORD)
        eyes.page.get_by_label("The same again").fill(PASSWORD)
        eyes.page.get_by_role("button", name="Set the password").click()
        eyes.page.wait_for_url(f"{made.url}/")
        eyes.page.locator(f'[data-key="{WATER}"]').wait_for()
        eyes.page.get_by_role("button", name="Log out").click()
        eyes.page.wait_for_url(f"{made.url}/login")
        eyes.go("/modes")
        assert "/login" in eyes.page.url
        eyes.page.get_by_label("Password").fill("three clownfish and a goby")
        eyes.page.get_by_role("button", name="Log in").click()
        eyes.page.get_by_role("alert").wait_for()
        assert [problem for problem in eyes.problems if "403" not in problem] == []
        eyes.shot(f"owner-{look}-2-wrong-password")
        eyes.page.get_by_label("Password").fill(PASSWORD)
        eyes.page.get_by_role("button", name="Log in").click()
        eyes.page.wait_for_url(f"{made.url}/modes")
        eyes.close()
        # Somebody else's browser knows nothing of it.
        other = Eyes(browser, made.url)
        other.go("/")
        assert other.page.url.endswith("/login")
        other.close()


def test_a_value_changes_before_ones_eyes(home: House, enter: Callable[[str], Eyes]) -> None:
    eyes = enter("desk")
    eyes.go("/")
    eyes.page.wait_for_selector("[data-link=live]")
    eyes.page.evaluate("window.same = true")
    assert home.raspy("device", "edit", "tank", "temperature=31").returncode == 0
    wait_for("the water warm", lambda: 30 < value(eyes, WATER) < 32)
    assert home.raspy("device", "edit", "tank", "temperature=25").returncode == 0
    wait_for("the water as before", lambda: 24 < value(eyes, WATER) < 26)
    assert eyes.page.evaluate("window.same") is True
    eyes.shot("owner-live")


@pytest.mark.parametrize("look", LOOKS)
def test_the_pump_is_switched_and_the_tank_reacts(home: House, enter: Callable[[str], Eyes], look: str) -> None:
    level = 30 + 10 * list(LOOKS).index(look)
    assert home.raspy("device", "edit", "tank", f"level={level}", "flow=600").returncode == 0
    eyes = enter(look)
    eyes.go("/")
    wait_for("the level as it was set", lambda: level - 1 < value(eyes, LEVEL) < level + 1)
    before = value(eyes, LEVEL)
    eyes.page.get_by_role("button", name="pump: on").click()
    eyes.wait_text("#said", "pump is in mode on until")
    eyes.shot(f"owner-{look}-pump-on")
    wait_for("the water rises", lambda: value(eyes, LEVEL) > before + 1)
    eyes.page.get_by_role("button", name="pump: off").click()
    eyes.wait_text("#said", "pump is in mode off until")
    wait_reading(home, "/device/pi.fake.pump/power", False)
    eyes.page.get_by_role("button", name="pump: auto").click()
    eyes.wait_text("#said", "pump is in no mode any more")


@pytest.mark.parametrize("look", LOOKS)
def test_an_alarm_is_acknowledged(home: House, enter: Callable[[str], Eyes], look: str) -> None:
    name = f"hot-{look}"
    words = ("kind=high", "key=fake.tank/temperature", "limit=1", "hysteresis=0.5", "severity=warning")
    assert home.raspy("alarm", "new", name, *words).returncode == 0
    eyes = enter(look)
    wait_for("the alarm", lambda: f'"{name}"' in home.raspy("alarm", "--json").stdout)
    eyes.go("/")
    eyes.page.get_by_role("button", name=re.compile(f"Acknowledge: .*{name}")).click()
    eyes.wait_text("#said", "is acknowledged")
    eyes.shot(f"owner-{look}-alarm")
    wait_for("it is known", lambda: "acknowledged" in home.raspy("alarm", "list").stdout)
    assert home.raspy("alarm", "delete", name).returncode == 0


@pytest.mark.parametrize("look", LOOKS)
def test_a_probe_gets_another_name(enter: Callable[[str], Eyes], look: str) -> None:
    eyes = enter(look)
    eyes.go("/")
    eyes.page.locator("article", has=eyes.page.locator(f'[data-key="{OUTDOORS}"]')).get_by_role("link").first.click()
    name = f"Balcony, seen from the {look}"
    eyes.page.get_by_label("Label", exact=True).fill(name)
    eyes.page.get_by_role("button", name="Keep the settings").click()
    eyes.wait_text("#said", "the settings are kept")
    eyes.shot(f"owner-{look}-renamed")
    eyes.wait_text("h1", name)
    eyes.go("/")
    eyes.wait_text("article h3", name)


@pytest.mark.parametrize("look", LOOKS)
def test_a_days_chart_is_looked_at(enter: Callable[[str], Eyes], look: str) -> None:
    eyes = enter(look)
    page = eyes.page
    eyes.go("/device/pi.fake.outdoors")
    page.get_by_role("link", name="Day", exact=True).click()
    page.locator("#table tbody tr").nth(20).wait_for()
    if not eyes.script:
        assert page.get_by_role("img").get_attribute("aria-label")
        eyes.shot(f"owner-{look}-chart")
        return
    chart = page.locator("#chart")
    page.wait_for_selector("#chart[data-points] canvas")
    assert int(chart.get_attribute("data-points") or 0) > 100
    eyes.shot(f"owner-{look}-chart")
    assert not page.get_by_role("button", name="Show the whole period").is_visible()
    over = page.locator("#chart .u-over")
    over.scroll_into_view_if_needed()
    box = over.bounding_box()
    assert box is not None
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.25, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.75, middle, steps=5)
    page.mouse.up()
    page.wait_for_selector('#chart[data-zoomed]:not([data-zoomed=""])')
    since, until = (float(end) for end in str(chart.get_attribute("data-zoomed")).split())
    assert 10 * 3600 < until - since < 14 * 3600
    eyes.shot(f"owner-{look}-chart-zoomed")
    page.get_by_role("button", name="Show the whole period").click()
    page.wait_for_selector('#chart[data-zoomed=""]')


@pytest.mark.parametrize("look", LOOKS)
def test_the_thermostat_is_written_with_a_mistake_and_mended(
    home: House, enter: Callable[[str], Eyes], look: str
) -> None:
    eyes = enter(look)
    page = eyes.page
    name = f"warm-{look}"
    eyes.go("/scenarios")
    page.get_by_role("link", name="New scenario").click()
    page.get_by_role("link", name="Thermostat").click()
    page.get_by_label("Name", exact=True).first.fill(name)
    code = page.get_by_label("Code", exact=True).and_(page.locator("textarea"))
    good = code.input_value()
    line = good.splitlines().index("while True:") if "while True:" in good else 20
    wrong = good.splitlines()
    wrong.insert(line, "if water > high")
    code.fill("\n".join(wrong))
    page.get_by_role("button", name="Save").first.click()
    eyes.wait_text("#problem", f"line {line + 1}")
    eyes.wait_text("mark", "if water > high")
    eyes.shot(f"owner-{look}-thermostat-mistake")
    assert name not in home.raspy("scenario", "list").stdout
    code.fill(good)
    page.get_by_role("button", name="Save").first.click()
    eyes.wait_text("#said", f"{name} is saved")
    eyes.go(f"/scenarios/{name}")
    page.get_by_role("button", name="Run").click()
    eyes.wait_text("#said", f"{name} is started")
    eyes.shot(f"owner-{look}-thermostat-runs")
    wait_for("it runs", lambda: "running" in home.raspy("scenario", "show", name).stdout)
    page.get_by_role("button", name="Stop").click()
    eyes.wait_text("#said", f"{name} is being stopped")
    wait_for("it stops", lambda: "running" not in home.raspy("scenario", "show", name).stdout)
    # What is refused is told to the console, too.
    eyes.problems = [problem for problem in eyes.problems if "400 (Bad Request)" not in problem]


@pytest.mark.parametrize("look", ["desk", "no-javascript"])
def test_everything_is_restored_from_a_backup(browser: Any, tmp_path: Path, look: str) -> None:
    with house() as made:
        assert made.raspy("device", "edit", "outdoors", "label=Balcony").returncode == 0
        eyes = Eyes(browser, made.url, accept_downloads=True, **LOOKS[look])
        page = eyes.page
        eyes.log_in()
        page.get_by_role("link", name="System").click()
        page.get_by_role("link", name="Back up and restore").click()
        page.get_by_role("button", name="Make a backup").click()
        link = page.get_by_role("link", name=re.compile("^Download"))
        look_until(eyes, link)
        eyes.shot(f"owner-{look}-backup")
        with page.expect_download() as coming:
            link.click()
        file = tmp_path / coming.value.suggested_filename
        coming.value.save_as(file)
        assert file.name.endswith(".backup")
        assert made.raspy("device", "edit", "outdoors", "label=Cellar").returncode == 0
        eyes.go("/system/backup")
        page.get_by_label("A backup of RasPy").set_input_files(file)
        page.get_by_role("button", name="Send and check").click()
        sure = page.get_by_role("button", name="Replace everything by this backup")
        look_until(eyes, sure)
        eyes.shot(f"owner-{look}-restore")
        sure.click()

        def restored() -> bool:
            return "Balcony" in made.raspy("device", "list").stdout

        wait_for("the name of before", restored, 60)
        made.wait_ready("web", 2)
        # What could not be loaded while the page restarted is told to the console.
        eyes.problems.clear()
        eyes.go("/login")
        look_until(eyes, eyes.page.get_by_label("Password"))
        eyes.page.get_by_label("Password").fill(PASSWORD)
        eyes.page.get_by_role("button", name="Log in").click()
        eyes.page.wait_for_url(f"{made.url}/")
        eyes.wait_text("article h3", "Balcony")
        eyes.shot(f"owner-{look}-restored")
        eyes.close()


def look_until(eyes: Eyes, wanted: Any) -> None:
    """Wait until something is on a page that loads itself anew; by hand where it cannot."""
    end = time.monotonic() + LIMIT / 1000
    while not wanted.count():
        assert time.monotonic() < end, eyes.main()
        if not eyes.script:
            # It loads itself anew as well, some seconds later.
            eyes.go(eyes.page.url.removeprefix(eyes.url))
        eyes.page.wait_for_timeout(100)


def tab_to(eyes: Eyes, wanted: str) -> None:
    """Press Tab until what has this accessible name, or text, has the focus, which is then seen."""
    for _ in range(200):
        eyes.page.keyboard.press("Tab")
        found = eyes.page.evaluate(
            "() => { const e = document.activeElement; const label = e.labels?.[0]?.textContent ?? '';"
            " return (e.getAttribute('aria-label') || label || e.textContent).trim() }"
        )
        if found == wanted:
            outline = eyes.page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
            assert outline == "solid"
            return
    raise AssertionError(f"Tab does not lead to {wanted}")


def test_all_of_it_is_done_by_keys_alone(browser: Any, home: House, owner: Eyes) -> None:
    eyes = Eyes(browser, owner.url)
    keys = eyes.page.keyboard
    eyes.go("/login")
    tab_to(eyes, "Password") if eyes.page.evaluate("document.activeElement.id") != "password" else None
    keys.type(PASSWORD)
    keys.press("Enter")
    eyes.page.wait_for_url(f"{owner.url}/")
    eyes.page.wait_for_selector("[data-link=live]")
    keys.press("Tab")
    assert eyes.page.evaluate("document.activeElement.className") == "skip"
    eyes.shot("owner-keys-skip")
    keys.press("Enter")
    eyes.page.wait_for_url(re.compile("#main$"))
    keys.press("Tab")
    assert eyes.page.evaluate("document.getElementById('main').contains(document.activeElement)")
    tab_to(eyes, "pump: off")
    eyes.shot("owner-keys-focus")
    keys.press("Enter")
    eyes.wait_text("#said", "pump is in mode off until")
    tab_to(eyes, "pump: auto")
    keys.press("Space")
    eyes.wait_text("#said", "pump is in no mode any more")
    tab_to(eyes, "System")
    keys.press("Enter")
    eyes.page.wait_for_url(f"{owner.url}/system")
    tab_to(eyes, "Log out")
    keys.press("Enter")
    eyes.page.wait_for_url(f"{owner.url}/login")
    assert not eyes.problems
    eyes.close()


@pytest.mark.parametrize("script", [True, False])
def test_the_page_speaks_french(browser: Any, owner: Eyes, script: bool) -> None:
    eyes = Eyes(browser, owner.url, locale="fr-CH", java_script_enabled=script)
    eyes.adopt(owner)
    eyes.go("/")
    assert eyes.page.locator("html").get_attribute("lang") == "fr"
    eyes.wait_text("header nav", "Accueil")
    if script:
        eyes.wait_text("#link", "En direct")
    eyes.shot(f"owner-french-{script}")
    eyes.go("/system")
    eyes.page.get_by_role("button", name="English").click()
    eyes.wait_text("header nav", "Home")
    eyes.wait_text("h1", "System")
    eyes.page.get_by_role("button", name="Français").click()
    eyes.wait_text("header nav", "Accueil")
    assert not eyes.problems
    eyes.close()
