"""A client of the API: JSON over HTTP, with a token."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from raspy.web.auth import Auth
from tests.support_processes import Appliance, wait_for
from tests.web.hand import PASSWORD, Answer, ask

ALL = ["broker", "fake", "core", "titanic", "logger", "alarm", "sync", "web"]
MORE = '[web]\nport = 0\n[sync]\nservers = []\nrtc = "none"\n[fake]\npoll = 0.2\n'


class Client:
    """Asks with a token.

    :param port: of the page
    :param token: its secret; empty: none is brought along
    """

    def __init__(self, port: int, token: str) -> None:
        self.port = port
        self.token = token

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request; a body of bytes is sent as it is."""
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        sent = {"Cookie": "", **({"Authorization": f"Bearer {self.token}"} if self.token else {})}
        if raw:
            sent["Content_Type"] = "application/json"
        return ask(self.port, path, method, raw, **{**sent, **headers})

    def good(self, method: str, path: str, body: Any = None) -> Any:
        """What is answered to a request that is done."""
        answer = self.ask(method, f"/api/v1{path}", body)
        assert answer.status in (200, 201), f"{method} {path}: {answer.status} {answer.text}"
        return answer.json

    def refused(self, status: int, method: str, path: str, body: Any = None) -> str:
        """Why a request is not done."""
        answer = self.ask(method, f"/api/v1{path}", body)
        assert answer.status == status, f"{method} {path}: {answer.status} {answer.text}"
        assert answer.headers["Content-Type"] == "application/json"
        assert set(answer.json) == {"error", "status"}
        assert answer.json["status"] == status
        return str(answer.json["error"])


class Served:
    """A whole appliance with its page, the cookie of a session, a token that may write, and one that may read."""

    def __init__(self, servers: list[str] = ALL, more: str = MORE) -> None:
        self.appliance = Appliance(servers, more)
        try:
            state = self.appliance.directory / "raspy" / "web"
            self.cookie, self.write, self.read = make_tokens(state)
            self.appliance.start()
            found = wait_for("the page", lambda: re.search(r"page is on http://127\.0\.0\.1:(\d+)", self.appliance.log))
        except BaseException:
            self.appliance.destroy()
            raise
        self.port = int(found[1])
        self.client = Client(self.port, self.write)

    def settled(self) -> None:
        """Wait until the page knows what there is."""
        wanted = {f"pi.{name}" for name in self.appliance.servers}

        def known() -> bool:
            answer = self.client.ask("GET", "/api/v1/servers")
            names = {each["name"] for each in answer.json["items"]} if answer.status == 200 else set()
            devices = self.client.ask("GET", "/api/v1/devices")
            return wanted <= names and "pi.fake.tank" in devices.text and "pi.fake.heater" in devices.text

        wait_for("the page knows all servers", known)


def make_tokens(state: Path) -> tuple[str, str, str]:
    """In the state directory of a page that does not run yet: a session, and a token that may write, and one that may
    read."""
    state.mkdir(parents=True, mode=0o700)
    auth = Auth(str(state / "auth.json"))
    value = auth.set_up(PASSWORD, "127.0.0.1")
    return f"raspy={value}", auth.make_token("writer", "write"), auth.make_token("reader", "read")
