"""A page beside real simulated devices on a real broker, and a logger whose history the test makes up."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

from raspy.common.kvcliapi import KvSubscriber
from raspy.common.server import Server
from raspy.common.verbs import VerbError, Verbs
from raspy.servers.fake.pins import Pins
from raspy.servers.fake.server import Fake
from tests.bus import BASE, OnThread, running, running_bus
from tests.support_devices import short_directory
from tests.support_forms import Page
from tests.web.hand import Answer, Hand, ask, post, until

TANK = "/device/pi1.fake.tank/temperature"
LOG = Verbs("log", slots=4)


class Log(Server):
    """Answers as the logger does, of a history that is a sine of 24 h."""

    def __init__(self, address: str) -> None:
        super().__init__("pi1", "logger", address, BASE)
        self.asked: list[tuple[str, ...]] = []
        self.refusal: VerbError | None = None
        self.shift = 0.0

    def worker_log(self) -> Verbs:
        return LOG

    def take(self, *words: str) -> None:
        self.asked.append(words)
        if self.refusal is not None:
            raise self.refusal


@LOG.verb(reads=True)
def query(server: Log, key: str, since: str, until: str, points: str) -> Any:
    server.take("query", key, since, until, points)
    first, last, count = float(since), float(until), int(points)
    step = max((last - first) / (count - 2), 1.0)
    rows: list[list[Any]] = []
    for place in range(count - 2):
        at = first + place * step
        mean = 25 + 2 * math.sin(at / 86_400 * 2 * math.pi) + server.shift
        rows.append([at, mean, mean - 0.2, mean + 0.2, 9, 0, "ok"])
    rows[5] = [rows[5][0], None, None, None, 0, 0, "gap"]
    rows[9] = [rows[9][0], None, None, None, 0, 3, "error"]
    return {"key": key, "unit": "°C", "since": first, "until": last, "level": 300, "step": step, "points": rows}


@LOG.verb(reads=True)
def events(server: Log, pattern: str, since: str, until: str, limit: str, skip: str = "0") -> Any:
    server.take("events", pattern, since, until, limit)
    body = {"state": "active", "reason": "<b>too warm</b>"}
    return {"events": [{"time": float(since) + 60, "kind": "alarm", "name": "hot", "body": body}], "next": None}


class Stage:
    """All of it."""

    def __init__(self, hand: Hand, fake: OnThread[Fake], log: OnThread[Log]) -> None:
        self.hand = hand
        self.fake = fake
        self.log = log

    def get(self, path: str, **headers: str) -> Answer:
        return ask(self.hand.port, path, **headers)

    def post(self, path: str, fields: dict[str, list[str]], csrf: str | None = None, **headers: str) -> Answer:
        """Send a form as a browser does."""
        word = self.hand.csrf if csrf is None else csrf
        body = urlencode({"csrf": [word], **fields}, doseq=True).encode()
        return post(self.hand.port, path, body, **headers)

    def said(self, answer: Answer) -> str:
        """The page that a form leads to."""
        assert answer.status == 303, answer.text
        return self.get(answer.headers["Location"].partition("#")[0]).text

    def settings(self, device: str) -> Any:
        """Those that a device has."""
        return self.fake.call(lambda: self.fake.executive.devices[device].to_dict())


@contextmanager
def stage(refusal: VerbError | None = None) -> Iterator[Stage]:
    """One that is running, with the values of its devices on the page.

    :param refusal: of the logger, at first
    """
    with running_bus() as bus, short_directory() as directory:
        made = Fake("pi1", "fake", bus.ip, BASE, pins=Pins(directory))
        logger = Log(bus.ip)
        logger.refusal = refusal
        with running(made) as fake, running(logger) as log:
            hand = Hand(streams=16, broker=bus.ip)  # browsers that are gone keep theirs for some seconds
            subscribers: list[KvSubscriber] = []
            try:
                board = hand.board
                board.ask(lambda: subscribers.append(KvSubscriber(hand.loop, "", board.change, board.bus)))
                until(lambda: TANK in board.ask(board.snapshot).held, "the tank is on the page")
                until(lambda: "/server/pi1.logger" in board.ask(board.snapshot).held, "the logger is known")
                yield Stage(hand, fake, log)
            finally:
                for each in subscribers:
                    hand.board.ask(each.close)
                hand.close()


def form_of(html: str, action: str) -> Page:
    """What is inside the form that is sent to an address, without what is the page's own."""
    start = html.index('<div lang="en">', html.index(f'action="{action}"')) + len('<div lang="en">')
    return Page(html[start : html.index("</div>\n<p", start)])
