"""The page's server with a tree that a test feeds by hand, and a small HTTP client."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

from raspy.common.config import ConfigError
from raspy.common.executive import Executive
from raspy.web.app import application
from raspy.web.auth import Auth
from raspy.web.auth.sessions import csrf
from raspy.web.board import Board
from raspy.web.hands import Hands
from raspy.web.serve import PLAIN_THREADS, HttpServer
from raspy.web.site import Site

LIMIT = 30.0
"""Seconds after which something that must happen has not: on a busy machine a process alone takes some to start."""

PASSWORD = "a good password"
COOKIES: dict[int, str] = {}
"""By port, the cookie of a session that has logged in; :func:`ask` brings it along."""

TANK = "/device/pi1.onewire.tank/temperature"


def reading(value: float, age: float = 0.0, **more: Any) -> dict[str, Any]:
    """A good reading as a device server publishes it."""
    return {"value": value, "unit": "°C", "time": time.time() - age, "max_age": 30, "quality": "ok", **more}


def cheap(text: str, n: int = 2, r: int = 1, p: int = 1, salt: bytes = b"saltsalt") -> str:
    """A stored hash that costs nothing."""
    found = hashlib.scrypt(text.encode(), salt=salt, n=n, r=r, p=p, dklen=32)
    return f"scrypt${n}${r}${p}${base64.b64encode(salt).decode()}${base64.b64encode(found).decode()}"


class Hand:
    """A board on a loop of its own, served over HTTP on a free port; the test puts on the tree what it likes.

    :param broker: where a broker is that takes what the forms ask for
    :param password: whether there is a password, and somebody who has logged in by it
    """

    def __init__(
        self,
        streams: int = 4,
        names: tuple[str, ...] = (),
        port: int = 0,
        broker: str = "ipc:///nowhere",
        password: bool = True,
    ) -> None:
        self.loop = Executive("pi1", "web", broker)
        self.board = Board(self.loop, streams)
        self.hands = Hands(self.loop)
        self.auth = Auth(None, hostname="pi1")
        self.site = Site(self.board, self.hands, self.auth, "pi1")
        app = application(self.site, names)
        self.http = HttpServer(("127.0.0.1", port), app, streams + PLAIN_THREADS)
        self.http.expiration_interval = 0.05  # its stop waits for one of these
        try:
            self.url = self.http.begin()
        except ConfigError:
            self.loop.destroy()
            raise
        self.port = int(self.url.rsplit(":", 1)[1])
        self.cookie = self.csrf = ""
        if password:
            self.auth.put_hash(cheap(PASSWORD))
            value = self.auth.log_in(PASSWORD, "127.0.0.1")
            self.cookie, self.csrf = f"raspy={value}", csrf(value)
        COOKIES[self.port] = self.cookie
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, key: str, body: Any) -> None:
        """Put a body on the tree: bytes as they are, anything else as JSON."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.loop.call_threadsafe(self.board.change, key, raw)

    def bus(self, state: str) -> None:
        self.loop.call_threadsafe(self.board.bus, state)

    def settled(self) -> str:
        """Wait until every open page has been told of what was put; return the board's version."""
        until(lambda: self.board.ask(lambda: self.board._flush_timer is None), "changes are told")
        return str(ask(self.port, "/api/v1/tree").json["version"])

    def close(self) -> None:
        if self._thread.is_alive():
            self.loop.call_threadsafe(self.board.close)
            self.loop.call_threadsafe(self.hands.close)
            self.http.end(2.0)
            self.loop.shutdown()
            self._thread.join(LIMIT)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        self.loop.call_later(0, self.board.start)
        self.loop.run()


class Answer:
    """A whole HTTP response."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(port: int, path: str = "/", method: str = "GET", body: bytes = b"", **headers: str) -> Answer:
    """One request on a connection of its own; ``Host_=`` sends another Host header, ``Cookie=`` another one or none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", headers.pop("Host_", f"127.0.0.1:{port}"))
        headers.setdefault("Cookie", COOKIES.get(port, ""))
        for name, value in headers.items():
            if name == "Cookie" and not value:
                continue
            connection.putheader(name.replace("_", "-"), value)
        if body:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body or None)
        return Answer(connection.getresponse())
    finally:
        connection.close()


def enter(port: int) -> str:
    """Set the first password of a page, as its first visitor does; return the word for the forms of the session.

    From then on :func:`ask` brings its cookie along.
    """
    body = urlencode({"password": PASSWORD, "again": PASSWORD}).encode()
    answer = post(port, "/setup", body)
    assert answer.status == 303, answer.text
    value = answer.headers["Set-Cookie"].partition(";")[0].partition("=")[2]
    COOKIES[port] = f"raspy={value}"
    return csrf(value)


def post(port: int, path: str, body: bytes, **headers: str) -> Answer:
    """Send a form as a browser does that shows our page."""
    sent = {"Origin": f"http://127.0.0.1:{port}", "Content_Type": "application/x-www-form-urlencoded", **headers}
    return ask(port, path, "POST", body, **sent)


class Events:
    """A client of the event stream."""

    def __init__(self, port: int, since: str = "") -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
        self._connection.request("GET", f"/events?since={since}", headers={"Cookie": COOKIES.get(port, "")})
        self.response = self._connection.getresponse()
        self.status = self.response.status

    def next(self) -> tuple[str, Any]:
        """The next message's event and data; ('', None) when the stream has ended."""
        event, data = "", None
        while line := self.response.readline():
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "event":
                event = value
            elif name == "data":
                data = json.loads(value)
            elif not name and event:
                return event, data
        return "", None

    def wait(self, wanted: str) -> Any:
        """The data of the next message of an event."""
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            event, data = self.next()
            if event == wanted:
                return data
            assert event, f"the stream ended before {wanted!r}"
        raise AssertionError(f"no {wanted!r} within {LIMIT} s")

    def close(self) -> None:
        self.response.close()
        self._connection.close()


@contextmanager
def events(port: int, since: str = "") -> Iterator[Events]:
    stream = Events(port, since)
    try:
        yield stream
    finally:
        stream.close()


def until(condition: Callable[[], Any], what: str) -> Any:
    """Ask until it is true, with a limit; return what it was."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        result = condition()
        if result:
            return result
        time.sleep(0.02)
    raise AssertionError(f"not within {LIMIT} s: {what}")
