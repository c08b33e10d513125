"""The editor of scenarios in a real browser: keys, line numbers, the line at fault, and without JavaScript."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.web.eyes import LIMIT, chromium
from tests.web.plans import Plans, plans

pytestmark = pytest.mark.web

CODE = "\n\nif True:\n\tx = '''\n<b>&amp;</b>  '''\n\n"


@pytest.fixture(scope="module")
def place() -> Iterator[Plans]:
    with plans("core") as made:
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture(params=[True, False], ids=["script", "plain"])
def page(place: Plans, browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A page of who has logged in, with and without JavaScript."""
    with browser.new_context(java_script_enabled=request.param, viewport={"width": 360, "height": 740}) as context:
        name, _, value = place.hand.cookie.partition("=")
        context.add_cookies([{"name": name, "value": value, "url": place.hand.url}])
        context.set_default_timeout(LIMIT)
        shown = context.new_page()
        problems: list[str] = []
        shown.on("pageerror", lambda error: problems.append(str(error)))
        shown.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
        shown.scripted = request.param
        yield shown
    # A form that is refused is told by the console, too, as is a server that is too busy to say what it printed.
    told = ("status of 400", "status of 503")
    assert [problem for problem in problems if not any(words in problem for words in told)] == []


def wide(page: Any) -> bool:
    """Whether something is wider than the screen (measured by a script of the test, where pages may have any)."""
    return page.scripted and bool(page.evaluate("document.documentElement.scrollWidth > innerWidth"))


def test_write_check_fix_run(place: Plans, page: Any) -> None:
    name = f"run-{page.scripted}".lower()
    page.goto(f"{place.hand.url}/scenarios")
    page.get_by_role("link", name="New scenario").click()
    page.get_by_label("Name", exact=True).first.fill(name)
    page.get_by_label("Code", exact=True).fill("print('one')\nif True\n    print('two')\n")
    page.get_by_role("button", name="Save").first.click()
    problem = page.locator("#problem")
    problem.wait_for()
    assert "line 2" in problem.inner_text()
    assert page.locator(".marked mark").inner_text() == "2  if True"
    page.locator("#problem:focus").wait_for()
    assert not wide(page)
    page.get_by_label("Code", exact=True).fill("print('one')\nif True:\n    print('two')\n")
    page.get_by_role("button", name="Save").first.click()
    page.get_by_role("button", name="Run").click()
    page.locator("#said", has_text=f"{name} is started").wait_for()
    if page.scripted:
        page.get_by_text("two").wait_for()
    else:
        for _ in range(100):
            if page.get_by_text("two").count():
                break
            page.get_by_role("link", name="Load it anew").first.click()
        assert page.get_by_text("two").count() == 1
    assert not wide(page)


def test_code_is_not_changed_on_its_way(place: Plans, page: Any) -> None:
    name = f"whole-{page.scripted}".lower()
    place.good("pi1.core.scenario", "set", name, json.dumps({"code": CODE}))
    page.goto(f"{place.hand.url}/scenarios/{name}/edit")
    assert page.get_by_label("Code", exact=True).input_value() == CODE
    page.get_by_label("Label").fill("other")
    page.get_by_role("button", name="Save").first.click()
    page.get_by_role("button", name="Run").wait_for()
    assert place.scenario(name)["code"] == CODE
    page.goto(f"{place.hand.url}/scenarios/{name}/edit")
    page.get_by_label("Code", exact=True).fill(CODE + "# é\n")
    page.get_by_role("button", name="Save").first.click()
    page.get_by_role("button", name="Run").wait_for()
    assert place.scenario(name)["code"] == CODE + "# é\n"


def test_keys(place: Plans, page: Any) -> None:
    page.goto(f"{place.hand.url}/scenarios/new")
    code = page.get_by_label("Code", exact=True)
    code.fill("")
    code.focus()
    if not page.scripted:
        page.keyboard.press("Tab")
        assert page.locator("#code:focus").count() == 0
        return
    page.keyboard.type("if True:")
    page.keyboard.press("Enter")
    page.keyboard.type("a()")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type("b()")
    assert code.input_value() == "if True:\n    a()\n        b()"
    page.keyboard.press("Shift+Tab")
    assert code.input_value() == "if True:\n    a()\n    b()"
    page.keyboard.press("Control+a")
    page.keyboard.press("Tab")
    assert code.input_value() == "    if True:\n        a()\n        b()"
    page.keyboard.press("Control+z")
    assert code.input_value() == "if True:\n    a()\n    b()"
    assert page.locator(".lines").inner_text().split() == ["1", "2", "3"]
    page.keyboard.press("Escape")
    page.keyboard.press("Tab")
    assert page.locator("#code:focus").count() == 0
    page.keyboard.press("Shift+Tab")
    assert page.locator("#code:focus").count() == 1
    page.keyboard.press("Escape")
    page.keyboard.press("Shift+Tab")
    assert page.locator("#code:focus").count() == 0


def test_to_the_line(place: Plans, page: Any) -> None:
    page.goto(f"{place.hand.url}/scenarios/new")
    code = page.get_by_label("Code", exact=True)
    code.fill("a\n" * 50 + "if\n" + "b\n" * 50)
    page.get_by_role("button", name="Check").first.click()
    link = page.get_by_role("link", name="To line 51")
    link.click()
    if page.scripted:
        assert page.locator(".lines mark").inner_text().strip() == "51"
        place_of = (
            "[document.activeElement.id, document.activeElement.selectionStart, document.activeElement.selectionEnd]"
        )
        assert page.evaluate(place_of) == ["code", 100, 102]
    else:
        assert page.url.endswith("#code")


@pytest.mark.parametrize("page", [True], indirect=True)  # without a script, the browser's own way back is all there is
def test_who_was_logged_out_has_what_was_typed(place: Plans, page: Any) -> None:
    place.good("pi1.core.scenario", "set", "out", json.dumps({"code": "print(1)\n"}))
    address = f"{place.hand.url}/scenarios/out/edit"
    page.goto(address)
    cookies = page.context.cookies()
    page.get_by_label("Code", exact=True).fill("print('typed')\n")
    page.get_by_role("button", name="More rows").nth(1).click()
    page.locator("#entry_name-4").fill("far")
    page.locator("#entry_key-4").fill("fake.tank/level")
    page.context.clear_cookies()
    page.get_by_role("button", name="Save").first.click()
    page.get_by_role("heading", name="Log in").wait_for()
    assert place.scenario("out")["code"] == "print(1)\n"
    page.context.add_cookies(cookies)
    page.goto(address)
    assert page.get_by_label("Code", exact=True).input_value() == "print(1)\n"
    page.get_by_role("button", name="Bring it back").click()
    page.locator("form[data-typed]").wait_for()
    assert page.get_by_label("Code", exact=True).input_value() == "print('typed')\n"
    page.get_by_role("button", name="Save").first.click()
    page.get_by_role("button", name="Run").wait_for()
    assert place.scenario("out")["code"] == "print('typed')\n"
    assert place.scenario("out")["entries"] == {"far": "fake.tank/level"}
    page.goto(address)
    assert page.get_by_role("button", name="Bring it back").count() == 0


def test_a_file_to_import(place: Plans, page: Any) -> None:
    page.goto(f"{place.hand.url}/scenarios/import")
    name = f"file-{page.scripted}".lower()
    document = json.dumps({"raspy": "scenarios", "version": 1, "scenarios": {name: {"code": CODE}}})
    if page.scripted:
        payload = {"name": "a.json", "mimeType": "application/json", "buffer": document.encode()}
        page.get_by_label("Or a file of it").set_input_files(payload)
    else:
        assert not page.get_by_label("Or a file of it").is_visible()
        page.get_by_label("The document").fill(document)
    page.get_by_role("button", name="Show what is in it").click()
    page.get_by_role("button", name="Import").click()
    page.locator("#said", has_text="taken over").wait_for()
    assert place.scenario(name)["code"] == CODE


def test_a_job(place: Plans, page: Any) -> None:
    name = f"job-{page.scripted}".lower()
    page.goto(f"{place.hand.url}/schedule/new")
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_label("When").fill("0 8 * *")
    page.get_by_role("button", name="Save").click()
    page.locator("#when:focus").wait_for()
    assert "0 8 * *" in page.locator("#fault").inner_text()
    page.get_by_label("When").fill("0 8 * * *")
    page.get_by_role("button", name="Show the next times").click()
    page.locator(".times li").nth(2).wait_for()
    assert page.locator(".times li").count() == 3
    assert not wide(page)
    page.get_by_role("button", name="Save").click()
    page.locator("#said", has_text=f"{name} is saved").wait_for()
    assert place.job(name)["settings"]["when"] == "0 8 * * *"
    assert not wide(page)
