"""The page's server with a tree that a test feeds by hand, and a small HTTP client."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from raspy.common.config import ConfigError
from raspy.common.executive import Executive
from raspy.web.app import application
from raspy.web.board import Board
from raspy.web.serve import PLAIN_THREADS, HttpServer

LIMIT = 10.0
"""Seconds after which something that must happen has not."""

TANK = "/device/pi1.onewire.tank/temperature"


def reading(value: float, age: float = 0.0, **more: Any) -> dict[str, Any]:
    """A good reading as a device server publishes it."""
    return {"value": value, "unit": "°C", "time": time.time() - age, "max_age": 30, "quality": "ok", **more}


class Hand:
    """A board on a loop of its own, served over HTTP on a free port; the test is the bus."""

    def __init__(self, streams: int = 4, names: tuple[str, ...] = (), port: int = 0) -> None:
        self.loop = Executive("pi1", "web")
        self.board = Board(self.loop, streams)
        app = application(self.board, "pi1", names)
        self.http = HttpServer(("127.0.0.1", port), app, streams + PLAIN_THREADS)
        self.http.expiration_interval = 0.05  # its stop waits for one of these
        try:
            self.url = self.http.begin()
        except ConfigError:
            self.loop.destroy()
            raise
        self.port = int(self.url.rsplit(":", 1)[1])
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


def ask(port: int, path: str = "/", method: str = "GET", **headers: str) -> Answer:
    """One request on a connection of its own; ``Host_=`` sends another Host header."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", headers.pop("Host_", f"127.0.0.1:{port}"))
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        return Answer(connection.getresponse())
    finally:
        connection.close()


class Events:
    """A client of the event stream."""

    def __init__(self, port: int, since: str = "") -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
        self._connection.request("GET", f"/events?since={since}")
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
