"""A page beside a real core and a real Titanic on a real broker."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlencode

from raspy.common.mdcliapi import MajorDomoClient
from raspy.servers.core.server import Core
from raspy.servers.core.settings import CoreConfig
from raspy.servers.titanic import Titanic, TitanicConfig
from tests.bus import BASE, Bus, OnThread, eventually, running_bus
from tests.support_devices import short_directory
from tests.web.hand import Answer, Hand, ask

FORM = "application/x-www-form-urlencoded"
Fields = list[tuple[str, str]]
HOSTILE = "<script>alert(\"1\")</script> & 'x' \u202e \x1b[2J \x07 é 🐟 </textarea><b>"


class Filled(HTMLParser):
    """The fields of the forms of a page, as a browser has them (HTML, 4.10)."""

    def __init__(self, action: str) -> None:
        super().__init__()
        self.action = action
        self.fields: Fields = []
        self.marked: list[str] = []
        """The ids of what is at fault."""
        self._inside = False
        self._area: str | None = None
        self._text = ""
        self._select = ""
        self._options: list[tuple[str | None, bool]] = []
        self._option = False

    def handle_starttag(self, tag: str, given: list[tuple[str, str | None]]) -> None:
        has = dict(given)
        if "aria-invalid" in has:
            self.marked.append(has.get("id") or "")
        if tag == "form":
            self._inside = has.get("action") == self.action
        if not self._inside:
            return
        if tag == "input" and has.get("name"):
            if has.get("type") != "checkbox" or "checked" in has:
                self.fields.append((has["name"] or "", (has.get("value") or "").replace("\n", "").replace("\r", "")))
        elif tag == "textarea":
            self._area, self._text = has.get("name"), ""
        elif tag == "select":
            self._select, self._options = has.get("name") or "", []
        elif tag == "option" and self._select:
            self._options.append((has.get("value"), "selected" in has))
            self._option = True

    def handle_data(self, data: str) -> None:
        if self._area is not None:
            self._text += data
        elif self._option and self._options[-1][0] is None:
            self._options[-1] = (data, self._options[-1][1])

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea" and self._area is not None:
            # The first line end is not part of it, and each is sent as CR LF.
            text = self._text.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\n")
            self.fields.append((self._area, text.replace("\n", "\r\n")))
            self._area = None
        elif tag == "option":
            self._option = False
        elif tag == "select" and self._select:
            chosen = [value for value, selected in self._options if selected] or [self._options[0][0]]
            self.fields.append((self._select, chosen[-1] or ""))
            self._select = ""
        elif tag == "form":
            self._inside = False


def filled(text: str, action: str) -> Filled:
    """The fields of the form of a page that goes to ``action``."""
    found = Filled(action)
    found.feed(text)
    return found


class Plans:
    """The page, and what is behind it."""

    def __init__(self, bus: Bus, directory: str) -> None:
        self.bus = bus
        self.directory = directory
        self.hand = Hand(broker=bus.ip)
        self.hand.bus("live")
        self.runners: dict[str, OnThread[Any]] = {}
        self.client = MajorDomoClient(bus.address)

    def start_core(self) -> Core:
        config = CoreConfig(timezone="Europe/Paris", latitude=48.9, longitude=2.4)
        core = Core("pi1", "core", self.bus.ip, BASE, self.directory, config, False)
        runner = self.runners["core"] = OnThread(core).wait()
        eventually(lambda: runner.call(lambda: core.scenarios.begun), "core has begun")
        self._known("pi1.core.cron", "pi1.core.scenario", "pi1.core.scenarios")
        return core

    def start_titanic(self) -> Titanic:
        titanic = Titanic("pi1", "titanic", self.bus.ip, BASE, self.directory, TitanicConfig())
        self.runners["titanic"] = OnThread(titanic).wait()
        self._known("pi1.titanic.queue", "titanic.request")
        return titanic

    def _known(self, *services: str) -> None:
        self.bus.eventually(
            lambda broker: all(
                name.encode() in broker.services and broker.services[name.encode()].ours for name in services
            )
        )
        self.hand.put(f"/server/{services[0].rpartition('.')[0]}", {"state": "ok"})
        self.hand.settled()

    def close(self) -> None:
        self.hand.close()
        self.client.destroy()
        for runner in self.runners.values():
            runner.stop()

    # The servers themselves

    def call(self, name: str, function: Any) -> Any:
        """What a function says of a server, on its loop."""
        runner = self.runners[name]
        return runner.call(lambda: function(runner.executive))

    def scenario(self, name: str) -> Any:
        """A scenario as core has it; None: it has none."""
        return self.call("core", lambda core: core.scenarios.show(name) if name in core.scenarios.scenarios else None)

    def job(self, name: str) -> Any:
        """A cron job as core has it; None: it has none."""
        return self.call("core", lambda core: core.jobs.find(name).to_dict() if name in core.jobs.names() else None)

    def good(self, service: str, *words: str) -> Any:
        """What a server answers that is asked past the page."""
        reply = self.client.send(service, [word.encode() for word in words])
        assert reply is not None
        assert reply[-1] == b"200", (service, words[:2], reply)
        return reply[0]

    # The page

    def get(self, path: str, **headers: str) -> Answer:
        return ask(self.hand.port, path, **headers)

    def send(self, path: str, fields: Fields, **headers: str) -> Answer:
        """Send fields as a browser does that shows our page."""
        origin = f"http://127.0.0.1:{self.hand.port}"
        sent = {"Origin": origin, "Sec_Fetch_Site": "same-origin", "Content_Type": FORM, **headers}
        return ask(self.hand.port, path, "POST", urlencode(fields).encode(), **sent)

    def post(self, path: str, csrf: str | None = None, **fields: str) -> Answer:
        """Send a form with a few fields."""
        return self.send(path, [("csrf", self.hand.csrf if csrf is None else csrf), *fields.items()])

    def submit(self, page: str, path: str, do: str = "save", **changed: str) -> Answer:
        """Press a button of the form of a page, some fields of which were typed anew."""
        fields = filled(page, path).fields
        assert fields, f"no form for {path}"
        for name, text in changed.items():
            assert name in dict(fields), name
            fields = [(field, text if field == name else value) for field, value in fields]
        return self.send(path, [*fields, ("do", do)])

    def said(self, answer: Answer) -> str:
        """What the page says that a form leads to."""
        assert answer.status == 303, answer.text
        page = self.get(answer.headers["Location"])
        assert page.status == 200, page.text
        found = re.search(r'<p id="said" role="status">([^<]*)</p>', page.text)
        assert found is not None
        return html.unescape(found[1])


def fault(answer: Answer) -> str:
    """What the page says is wrong in a form."""
    found = re.search(r'<p[^>]* id="fault"[^>]*>([^<]*)</p>', answer.text)
    return html.unescape(found[1]) if found else ""


@contextmanager
def plans(*servers: str) -> Iterator[Plans]:
    """A :class:`Plans` for the length of a test, with ``core``, ``titanic``, both or none."""
    with running_bus() as bus, short_directory() as directory:
        made = Plans(bus, directory)
        try:
            if "titanic" in servers:
                made.start_titanic()
            if "core" in servers:
                made.start_core()
            yield made
        finally:
            made.close()
