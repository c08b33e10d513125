"""Servers on a real bus that take down what the page asks of them, and what they put on the tree."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from raspy.common.server import Server
from raspy.common.verbs import Later, VerbError, Verbs
from tests.bus import OnThread
from tests.web.hand import Hand, reading

HEATER = "pi1.stub.heater"
INFO = {
    "name": "heater",
    "label": "Tank heater",
    "modes": "feeding: off 10m, night: 20 % 8h",
    "commands": {"mode": {}, "mode_end": {}, "power": {}},
    "details": {"mode": "off", "mode_end": 1e9, "mode_by": "ada", "waits": "it has to cool", "reason": "told"},
}
DEVICES, ALARMS = Verbs("devices"), Verbs("alarms")


class Stub(Server):
    """A server on the bus that takes down what it is told."""

    def __init__(self, service: str, address: str) -> None:
        super().__init__("pi1", service, address)
        self.told: list[tuple[str, ...]] = []
        self.refusal: VerbError | None = None
        self.silent = False
        self.waiting: list[Later] = []

    def worker_devices(self) -> Verbs:
        return DEVICES

    def worker_alarms(self) -> Verbs:
        return ALARMS

    def take(self, answer: Any, *words: str) -> Any:
        self.told.append(words)
        if self.silent:
            self.waiting.append(Later())
            return self.waiting[-1]
        if self.refusal is not None:
            raise self.refusal
        return answer

    def speak(self) -> None:
        """Answer what it was silent about; on its loop."""
        self.silent = False
        while self.waiting:
            self.waiting.pop().reply(None)


@DEVICES.verb()
def mode(server: Stub, names: str, mode: str, seconds: str = "", by: str = "") -> Any:
    path = names or "heater"
    return server.take({path: {"mode": mode, "mode_end": time.time() + 60}}, "mode", names, mode, seconds, by)


@DEVICES.verb(reads=True)
def info(server: Stub, name: str) -> Any:
    return server.take(INFO if name == "heater" else {"commands": {}}, "info", name)


@DEVICES.verb(reads=True, name="list")
def list_devices(server: Stub) -> Any:
    board = {"name": "board", "subdevices": {"a": {"name": "board.a", "label": "Pump", "modes": "feeding: off 5m"}}}
    return server.take([INFO, board], "list")


@ALARMS.verb()
def acknowledge(server: Stub, name: str, by: str) -> Any:
    return server.take(None, "acknowledge", name, by)


@ALARMS.verb()
def shelve(server: Stub, name: str, seconds: str, by: str) -> Any:
    return server.take(None, "shelve", name, seconds, by)


@ALARMS.verb()
def unshelve(server: Stub, name: str, by: str) -> Any:
    return server.take(None, "unshelve", name, by)


def put_output(hand: Hand, mode: str = "auto", end: float = 0) -> None:
    hand.bus("live")
    hand.put(f"/device/{HEATER}/power", {**reading(0), "value": False})
    hand.put(f"/device/{HEATER}/mode", {"value": mode, "quality": "ok", "time": time.time()})
    hand.put(f"/device/{HEATER}/mode_end", {"value": end, "quality": "ok", "time": time.time()})


def put_alarm(hand: Hand, name: str = "hot", **body: Any) -> None:
    hand.put(f"/alarm/{name}", {"state": "active", "severity": "critical", "label": "Tank too hot", **body})


@contextmanager
def on_thread(server: Stub) -> Generator[Stub, None, None]:
    running = OnThread(server)
    try:
        running.wait()
        yield server
    finally:
        running.stop()
