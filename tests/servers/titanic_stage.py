"""A real Titanic on a thread beside a real broker on another, and what its tests ask of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from raspy.common import MDP, storage
from raspy.common.server import Server
from raspy.common.verbs import Later, VerbError, Verbs
from raspy.servers.titanic import Titanic, TitanicConfig, dispatch, lane
from raspy.servers.titanic.clock import Clock
from tests.bus import BASE, Bus, OnThread, found_on, running_bus
from tests.conformance.stage import REQUEST as WORKER_REQUEST
from tests.conformance.stage import Client, Request, Worker

FOR_EVER_MS = 60_000
"""A heartbeat interval in which no test ends."""
REQUEST, REPLY, CLOSE, STORE = b"titanic.request", b"titanic.reply", b"titanic.close", b"titanic.store"
PENDING = [b"300"]


def make_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses that a test can wait for."""
    monkeypatch.setattr(lane, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(lane, "LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(dispatch, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(dispatch, "FAILURE_PAUSE", (0.01, 0.05))
    monkeypatch.setattr(dispatch, "STRANGER_PAUSE", 0.01)
    monkeypatch.setattr(dispatch, "TICK", 0.01)
    monkeypatch.setattr(dispatch, "ASK_AGAIN", 0.05)
    monkeypatch.setattr(dispatch, "AGREE", 0.01)
    monkeypatch.setattr(dispatch, "SCAN", 0.02)
    monkeypatch.setattr(storage, "RETRY", 0.05)


def an_id(number: int, lifetime: float | None = None) -> bytes:
    """The id frame of a request."""
    return MDP.id_frame(f"{number:032x}", lifetime)


class Ship:
    """Broker, Titanic and one client. Titanic is started by :meth:`start`, again and again where a test wants that."""

    def __init__(self, bus: Bus, directory: str) -> None:
        self.bus = bus
        self.stage = bus.stage
        self.directory = directory
        self.client: Client = bus.stage.client()
        self.runner: OnThread[Titanic] | None = None

    def start(self, clock: Clock | None = None, **settings: Any) -> Ship:
        """Start it, and wait until its services are known as ours and its file is read, or cannot be."""
        self.launch(clock, **settings)
        self.ready()
        self.eventually(lambda t: dispatcher(t).first_own or t.queue.problem, "its file is read, or cannot be")
        return self

    def launch(self, clock: Clock | None = None, **settings: Any) -> Ship:
        """Start it."""
        titanic = Titanic("pi", "titanic", self.bus.ip, BASE, self.directory, TitanicConfig(**settings), clock)
        self.runner = OnThread(titanic).wait()
        return self

    def ready(self) -> None:
        """Wait until its services are known as ours."""
        names = [name.encode() for name in self.titanic.services()]
        self.bus.eventually(
            lambda broker: all(name in broker.services and broker.services[name].ours for name in names),
            "Titanic is there",
        )

    def stop(self) -> None:
        """End it; nothing unexpected may have happened to it. Harmless when repeated."""
        if self.runner is not None:
            runner, self.runner = self.runner, None
            titanic = runner.executive
            runner.stop()
            assert titanic.errors == 0, titanic.last_error

    def restart(self, clock: Clock | None = None, **settings: Any) -> Ship:
        """Another one in its place."""
        self.stop()
        return self.start(clock, **settings)

    @property
    def titanic(self) -> Titanic:
        """The server itself; to be touched inside :meth:`call` only."""
        assert self.runner is not None
        return self.runner.executive

    def call(self, function: Callable[[Titanic], Any]) -> Any:
        """What a function says that is called with the server on its loop."""
        assert self.runner is not None
        return self.runner.call(lambda: function(self.titanic))

    def eventually(self, condition: Callable[[Titanic], Any], what: str = "") -> Any:
        """Wait until something is true of the server, with the peers of the stage running."""
        return found_on(self.stage, lambda: self.call(condition), what or condition)

    def statistic(self, name: str) -> Any:
        """One of its statistics."""
        return self.call(lambda titanic: titanic.statistics()[f"titanic.{name}"])

    def counts(self, **wanted: int) -> None:
        """Wait until statistics are as wanted: the file has a reply a moment before the loop has counted it."""

        def found(titanic: Titanic) -> bool:
            values = titanic.statistics()
            return all(values[f"titanic.{name}"] == value for name, value in wanted.items())

        self.eventually(found, f"{wanted}")

    def request(self, service: bytes, *body: bytes) -> bytes:
        """Have a request accepted; its uuid."""
        return self.accepted(service, *(body or (b"work",)))

    def accepted(self, *frames: bytes) -> bytes:
        """Have a request accepted, whatever its frames; its uuid."""
        status, uuid = self.client.ask(REQUEST, *frames)
        assert status == b"200", status
        assert len(uuid) == 32
        return uuid

    def requests(self, service: bytes, *texts: bytes) -> list[bytes]:
        """Have several accepted, one after the other, as only then they have an order; the uuids."""
        return [self.request(service, text) for text in texts]

    def refused(self, *frames: bytes) -> str:
        """The status and reason with which a request is refused."""
        (reason,) = self.client.ask(REQUEST, *frames)
        return reason.decode()

    def reply(self, uuid: bytes) -> list[bytes]:
        """What ``titanic.reply`` answers now."""
        return self.client.ask(REPLY, uuid)

    def fetch(self, uuid: bytes) -> list[bytes]:
        """What it answers as soon as that is not 300."""
        found: list[list[bytes]] = []

        def has_ended() -> bool:
            found[:] = [self.reply(uuid)]
            return found[0] != PENDING

        assert self.stage.until(has_ended), self.info(uuid)
        return found[0]

    def close(self, uuid: bytes) -> list[bytes]:
        """What ``titanic.close`` answers."""
        return self.client.ask(CLOSE, uuid)

    def verb(self, service: bytes, *frames: str | bytes) -> tuple[Any, bytes]:
        """The decoded answer of a verb, and its status."""
        asked = [frame.encode() if isinstance(frame, str) else frame for frame in frames]
        body, status = self.client.ask(service, *asked)
        return json.loads(body), status

    def store(self, *frames: str | bytes) -> tuple[Any, bytes]:
        """The answer of a verb of the store."""
        return self.verb(STORE, *frames)

    def queue(self, *frames: str | bytes) -> tuple[Any, bytes]:
        """The answer of a verb of the queue."""
        return self.verb(b"pi.titanic.queue", *frames)

    def info(self, uuid: bytes) -> Any:
        """What the queue says of a request."""
        told, status = self.queue("info", uuid)
        assert status == b"200", told
        return told

    def event(self, service: bytes) -> dict[str, Any]:
        """The last event about the requests to a service, as soon as there is one."""
        key = f"/event/request/{service.decode()}"
        found: list[dict[str, Any]] = []

        def is_there() -> bool:
            found[:] = [event for name, event in self.bus.tree("/event/request/").items() if name == key]
            return bool(found)

        assert self.stage.until(is_there), self.bus.tree("/event/request/")
        return found[0]

    def away(self, service: bytes) -> None:
        """Wait until Titanic knows that nobody serves a service for which it has a request."""
        self.eventually(lambda t: dispatcher(t).lanes[service].pause > lane.FIRST_PAUSE, "it is known to be away")

    def worker(self, service: bytes) -> Worker:
        """A foreign worker."""
        return self.stage.worker(service)

    def lose(self, worker: Worker, service: bytes) -> None:
        """Have the only worker of a service die; the broker has noticed it."""
        worker.close()
        self.bus.eventually(lambda broker: service not in broker.services or not broker.services[service].count)

    def serve(self, worker: Worker, *reply: bytes) -> Request:
        """Have a worker answer its next request: with the frames given, or with those of the request."""
        request = worker.request()
        worker.reply(request, *(reply or request.body))
        return request


@contextmanager
def at_sea(directory: str, **broker: Any) -> Iterator[Ship]:
    """A :class:`Ship` without its Titanic, which is ended with the test."""
    with running_bus(**{"heartbeat": FOR_EVER_MS, **broker}) as bus:
        ship = Ship(bus, directory)
        try:
            yield ship
        finally:
            ship.stop()


def dispatcher(titanic: Titanic) -> dispatch.Dispatcher:
    """The part of a running one that runs the requests."""
    assert titanic.dispatcher is not None
    return titanic.dispatcher


def hold_the_disk(ship: Ship) -> None:
    """Have everything that is to be written wait for :func:`let_go`."""
    ship.call(lambda t: setattr(t.queue, "_writing", True))


def let_go(ship: Ship) -> None:
    """Have it written."""

    def go_on(titanic: Titanic) -> None:
        titanic.queue._writing = False
        titanic.queue._go()

    ship.call(go_on)


def pass_time(ship: Ship, seconds: float) -> None:
    """Have the server's own clock go on at once: a lifetime short enough to wait for is over on a busy machine before
    anything has begun."""
    ship.call(lambda t: t.clock.start((t.clock.base or 0.0) + seconds))


def given(worker: Worker) -> int:
    """How many requests a worker was ever given."""
    return sum(frames[2] == WORKER_REQUEST for frames in worker.log)


DEVICES = Verbs("devices", slots=2)
TANK = b"pi.tank.devices"


class Tank(Server):
    """A server of ours, that counts what it does."""

    def __init__(self, bus: Bus) -> None:
        super().__init__("pi", "tank", bus.ip, BASE)
        self.done: list[str] = []
        self.later: list[Later] = []
        self.ids: list[bytes] = []
        """The id frames that came."""
        self.trouble: list[bytes] = []
        """The statuses with which the next ones are refused."""

    def worker_devices(self) -> Verbs:
        return DEVICES

    def handle(self, verbs: Verbs, body: list[bytes], reply: Callable[[list[bytes]], None]) -> None:
        """Note the id."""
        if verbs is DEVICES:
            self.ids.append(body[0])
        super().handle(verbs, body, reply)


@DEVICES.verb(name="exec")
def execute(server: Tank, command: str) -> str:
    """Do it."""
    server.done.append(command)
    if server.trouble:
        raise VerbError(server.trouble.pop(0), "the lamp is hot")
    return command


@DEVICES.verb()
def slow(server: Tank, command: str) -> Later:
    """Answered when the test says so."""
    server.done.append(command)
    server.later.append(Later())
    return server.later[-1]


class Tanks:
    """A running :class:`Tank`, known as ours."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.tank = Tank(bus)
        self.runner = OnThread(self.tank).wait()
        bus.eventually(lambda broker: TANK in broker.services and broker.services[TANK].ours, "the tank is ours")

    @property
    def done(self) -> list[str]:
        """What it has done."""
        return self.runner.call(lambda: list(self.tank.done))

    @property
    def ids(self) -> list[bytes]:
        """The id frames that came."""
        return self.runner.call(lambda: list(self.tank.ids))

    def does(self, count: int) -> list[str]:
        """What it has done, as soon as it is so much."""
        assert self.bus.stage.until(lambda: len(self.done) >= count), self.done
        return self.done

    def answer(self, number: int = 0, value: Any = "ready") -> None:
        """Complete a slow one."""
        self.runner.call(lambda: self.tank.later[number].reply(value))


@contextmanager
def tank_on(bus: Bus) -> Iterator[Tanks]:
    """A tank for the length of a block."""
    tanks = Tanks(bus)
    try:
        yield tanks
    finally:
        tanks.runner.stop()
