"""A Titanic that a test plays, worker by worker: what it took is known, and it fails where that is wanted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Self

from raspy.common import MDP
from tests.bus import Bus, eventually
from tests.conformance.stage import Request, Stage, Worker
from tests.support_devices import LIMIT

Frames = list[bytes]
REQUEST, REPLY, CLOSE = SERVICES = b"titanic.request", b"titanic.reply", b"titanic.close"


class FakeTitanic:
    """The three services of 9/TSP, on a thread of its own. What it has kept survives its restarts.

    :param ours: the broker is told that it is one of our servers
    """

    def __init__(self, bus: Bus, ours: bool = True) -> None:
        self.bus = bus
        self.ours = ours
        self.got: list[tuple[bytes, Frames]] = []
        """Each request as it came: service and body."""
        self.kept: dict[bytes, Frames] = {}
        """The bodies that were accepted, by uuid."""
        self.replies: dict[bytes, Frames] = {}
        """What ``titanic.reply`` answers, by uuid; ``300`` when nothing is here."""
        self.closed: list[bytes] = []
        self.before: Callable[[bytes, Frames], Frames | None] = lambda service, body: None
        """Called with each request; what it returns is the answer, instead of the usual one."""
        self.deaf = threading.Event()
        """While this is set nothing is answered."""
        self.die_after_commit = threading.Event()
        """When this is set the next request is kept, and Titanic dies before it says so."""
        self.reopen = threading.Event()
        """Register anew: the broker is another one."""
        self._uuids: dict[bytes, bytes] = {}
        self._stage = Stage(bus.stage.target)
        self._workers: dict[bytes, Worker] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> Self:
        """Register, and be known as ours."""
        self._thread.start()
        for name in SERVICES:
            eventually(lambda name=name: self.bus.call(lambda broker: name in broker.services))  # type: ignore[misc]
            if self.ours:
                self.bus.call(lambda broker, name=name: setattr(broker.services[name], "ours", True))  # type: ignore[misc]
        return self

    def count(self, service: bytes) -> int:
        """How many requests of a service have come."""
        return sum(name == service for name, _ in self.got)

    def ids(self) -> list[bytes]:
        """The first frames of the requests to be kept."""
        return [body[0] for name, body in self.got if name == REQUEST]

    def close(self) -> None:
        """End it."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join(LIMIT)

    def _run(self) -> None:
        with self._stage:
            while not self._ended.is_set():
                if self.reopen.is_set():
                    self.reopen.clear()
                    self._die()
                for name in SERVICES:
                    worker = self._workers.get(name)
                    if worker is None or worker.disconnects:
                        if worker is not None:
                            worker.close()
                        self._workers[name] = self._stage.worker(name)
                self._stage.until(self._something, 0.05)
                for name, worker in list(self._workers.items()):
                    # Answering one may be the death of all.
                    while worker.requests and self._workers.get(name) is worker:
                        self._take(name, worker, worker.requests.popleft())

    def _something(self) -> bool:
        return self._ended.is_set() or any(worker.requests or worker.disconnects for worker in self._workers.values())

    def _take(self, name: bytes, worker: Worker, request: Request) -> None:
        self.got.append((name, request.body))
        if self.deaf.is_set():
            return
        answer = self.before(name, request.body)
        if answer is None:
            answer = {REQUEST: self._request, REPLY: self._reply, CLOSE: self._close}[name](request.body)
        if name == REQUEST and self.die_after_commit.is_set():
            self.die_after_commit.clear()
            self._die()
            return
        worker.reply(request, *answer)

    def _die(self) -> None:
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()

    def _request(self, body: Frames) -> Frames:
        known = MDP.parse_id(body[0])
        identity = known[0] if known else b"nobody's %d" % len(self._uuids)
        uuid = self._uuids.setdefault(identity, b"%032x" % (len(self._uuids) + 1))
        self.kept[uuid] = body[1:] if known else body
        return [b"200", uuid]

    def _reply(self, body: Frames) -> Frames:
        uuid = _without_id(body)[0]
        if uuid not in self.kept or uuid in self.closed:
            return [b"400"]
        return self.replies.get(uuid, [b"300"])

    def _close(self, body: Frames) -> Frames:
        self.closed.append(_without_id(body)[0])
        return [b"200"]

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()


def _without_id(body: Frames) -> Frames:
    return body[1:] if MDP.parse_id(body[0]) is not None else body
