"""A real browser on the page of a real appliance: what an owner sees, and all that goes wrong meanwhile."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.servers.logger_stage import Book, Watch
from tests.support import need_module, need_program
from tests.support_processes import TOP, Appliance, free_block, wait_for

LIMIT = 20_000
"""Milliseconds for what must happen."""
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
FLAGS += ["--disable-component-update", "--disable-sync"]
SHOTS = TOP / "build" / "screenshots"
PHONE = {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "has_touch": True}
DESK = {"viewport": {"width": 1200, "height": 800}}
SERVERS = ["broker", "titanic", "core", "logger", "alarm", "fake", "web"]
OUTDOORS = "/device/pi.fake.outdoors/value"
PASSWORD = "two clownfish and a goby"
PROBLEMS = """
document.addEventListener('securitypolicyviolation', event => console.error(
    `CSP: ${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`));
"""


@contextmanager
def chromium() -> Iterator[Any]:
    """A running browser; skips the calling test where there is none."""
    program = need_program("chromium")
    playwright = need_module("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=program, args=FLAGS)
        try:
            yield running
        finally:
            running.close()


class House(Appliance):
    """An appliance with simulated devices and all servers that the page has pages for."""

    def __init__(self) -> None:
        # Only to a port that is known can one come back after a restart.
        port = free_block()
        super().__init__(SERVERS, f"[web]\nport = {port}\n[fake]\npoll = 0.5\n")
        self.url = f"http://127.0.0.1:{port}"

    def live_a_day(self) -> None:
        """Have its logger know of the day before; before the start."""
        directory = self.directory / "raspy" / "logger"
        directory.mkdir(parents=True)
        now = time.time()
        book = Book(directory, Watch(now))
        for age in range(86_400, 0, -300):
            book.log(now - age, 15 - 7 * math.cos(age / 86_400 * math.tau), OUTDOORS, hold=900)
        book.flush()
        book.stop()


@contextmanager
def house(lived: bool = False) -> Iterator[House]:
    """One that is running.

    :param lived: its logger knows of the day before
    """
    made = House()
    try:
        if lived:
            made.live_a_day()
        made.start()
        yield made
    finally:
        made.destroy()


class Eyes:
    """A browser context of its own, as an owner has one: what is on the page, and what went wrong on it.

    :param browser: the running browser
    :param url: of the page
    :param settings: of Playwright's ``new_context``
    """

    def __init__(self, browser: Any, url: str, **settings: Any) -> None:
        self.url = url
        self.problems: list[str] = []
        """Errors and warnings of the console, of scripts and of the Content-Security-Policy; requests elsewhere."""
        self.context = browser.new_context(**{"locale": "en-GB", **settings})
        self.context.set_default_timeout(LIMIT)
        self.script = settings.get("java_script_enabled", True)
        if self.script:
            self.context.add_init_script(PROBLEMS)
        self.page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda told: self._told(told.type, told.text))
        self.page.on("request", lambda request: self._asked(request.url))
        self.page.on("dialog", lambda dialog: dialog.accept())

    def _told(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.problems.append(text)

    def _asked(self, url: str) -> None:
        if not url.startswith((f"{self.url}/", "blob:", "data:")):
            self.problems.append(f"asked elsewhere: {url}")

    def go(self, path: str = "/") -> None:
        """Load a page, also from one that loads itself anew meanwhile: each of its own loads comes first."""
        end = time.monotonic() + LIMIT / 1000
        while True:
            try:
                self.page.goto(self.url + path)
                return
            except Exception as error:
                if "interrupted by another navigation" not in str(error) or time.monotonic() > end:
                    raise
            self.page.wait_for_load_state()

    def log_in(self) -> None:
        """Set the first password, or give it."""
        self.go("/login")
        first = self.page.url.endswith("/setup")
        for label in ("Password", "The same again") if first else ("Password",):
            self.page.get_by_label(label, exact=True).fill(PASSWORD)
        self.page.get_by_role("button", name="Set the password" if first else "Log in").click()
        self.page.wait_for_url(f"{self.url}/")

    def adopt(self, other: Eyes) -> None:
        """Have the session of another context, as if one had logged in here."""
        self.context.add_cookies(other.context.cookies())

    def width(self) -> int:
        """CSS pixels by which the page is wider than its window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))

    def main(self) -> str:
        """All texts of the page's own part."""
        return str(self.page.locator("main").inner_text())

    def wait_text(self, selector: str, text: str | re.Pattern[str]) -> None:
        """Wait until an element has a text."""
        self.page.locator(selector, has_text=text).first.wait_for()

    def shot(self, name: str) -> None:
        """Keep what is seen now, as a result of the build."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=Path(SHOTS) / f"{name}.png", full_page=True)

    def close(self) -> None:
        self.context.close()


def reading(appliance: Appliance, key: str) -> Any:
    """The value of a key of the tree as the command line tells it; None when it is not good."""
    done = appliance.raspy("get", key)
    try:
        body = json.loads(done.stdout)
    except ValueError:
        return None
    return body.get("value") if isinstance(body, dict) and body.get("quality") == "ok" else None


def wait_reading(appliance: Appliance, key: str, value: Any) -> None:
    """Wait until a key of the tree has a value."""
    wait_for(f"{key} is {value}", lambda: reading(appliance, key) == value)
