"""The blocking client: ids, tries, and what it makes of strange answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import zmq

from raspy.common import MDP
from raspy.common.mdcliapi import READING_VERBS, MajorDomoClient
from raspy.common.server import MMI, Server
from raspy.common.statistics import STATISTICS
from raspy.common.verbs import Later, Verbs
from raspy.servers.broker import Broker
from tests.bus import BASE, Bus, eventually, running, running_bus
from tests.conformance.stage import Request, Worker, unique
from tests.support_devices import LIMIT, short_directory

Frames = list[bytes]
DEVICES = Verbs("devices", slots=8)


class Deaf(Server):
    """Takes requests, and answers none but ``exec ok``."""

    def __init__(self, broker_ip: str) -> None:
        super().__init__("pi", "deaf", broker_ip, BASE)
        self.taken: list[str] = []

    def worker_devices(self) -> Verbs:
        return DEVICES


@DEVICES.verb(reads=True)
def info(server: Deaf, name: str) -> Later:
    server.taken.append(name)
    return Later()


@DEVICES.verb(name="exec")
def execute(server: Deaf, name: str) -> Later | str:
    server.taken.append(name)
    return name if name == "ok" else Later()


@pytest.fixture
def bus() -> Iterator[Bus]:
    with running_bus(heartbeat=60_000) as running:
        yield running


@pytest.fixture
def client(bus: Bus) -> Iterator[MajorDomoClient]:
    with MajorDomoClient(bus.address) as client:
        client.timeout = int(LIMIT * 1000)
        yield client


@contextmanager
def deaf_server(bus: Bus) -> Iterator[Callable[[], list[str]]]:
    """A deaf server whose services are all known to be ours; gives what it has taken."""
    with running(Deaf(bus.ip)) as runner:
        bus.eventually(
            lambda broker: len(broker.workers) == 3 and all(service.ours for service in broker.services.values())
        )
        yield lambda: runner.call(lambda: list(runner.executive.taken))


class Served:
    """A worker of the stage that answers on a thread, while the test's client blocks."""

    def __init__(self, bus: Bus, service: bytes, answer: Callable[[Worker, Request], None]) -> None:
        self.bus = bus
        self.requests: list[Request] = []
        self.worker = bus.stage.worker(service)
        self._answer = answer
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.is_set():
            if self.bus.stage.until(lambda: bool(self.worker.requests) or self._ended.is_set(), LIMIT):
                while self.worker.requests:
                    request = self.worker.requests.popleft()
                    self.requests.append(request)
                    self._answer(self.worker, request)

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(LIMIT)


def echo(worker: Worker, request: Request) -> None:
    worker.reply(request, *request.body)


# ---------------------------------------------------------------- foreign services


@pytest.mark.parametrize(
    ("request_", "frames"), [(b"bare", [b"bare"]), ([b"a", b""], [b"a", b""]), ([], [b""]), ([b"exec"], [b"exec"])]
)
def test_a_foreign_service_gets_the_request_as_it_is(
    bus: Bus, client: MajorDomoClient, request_: Frames | bytes, frames: Frames
) -> None:
    service = unique()
    with Served(bus, service, echo) as served:
        assert client.send(service, request_) == frames
        assert client.send(service.decode(), request_) == frames
        assert [request.body for request in served.requests] == [frames, frames]


def test_a_foreign_service_is_tried_again(bus: Bus, client: MajorDomoClient) -> None:
    """Workers are idempotent by the specification, so the same request is sent again."""
    service = unique()

    def second(worker: Worker, request: Request) -> None:
        if len(served.requests) == 1:
            bus.eventually(lambda broker: broker.queued)  # the next try is there: the first is answered too late
            worker.reply(request, b"late")
        else:
            worker.reply(request, b"done")

    client.is_ours(service)
    client.timeout, client.retries = 300, 100
    with Served(bus, service, second) as served:
        assert client.send(service, b"work") == [b"done"]
        assert len(served.requests) >= 2
        assert all(request.body == [b"work"] for request in served.requests)


def test_without_any_answer_there_is_none_after_all_tries(
    bus: Bus, client: MajorDomoClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = unique()
    tries: list[bytes] = []

    def waiting(broker: Broker) -> list[Frames]:
        return [request.body for request in broker.services[service].requests]

    def give_up_once_it_is_there(name: bytes, until: float) -> None:
        if name == service:
            tries.append(name)
            bus.eventually(lambda broker: service in broker.services and waiting(broker) == [[b"work"]] * len(tries))

    monkeypatch.setattr(client, "_wait", give_up_once_it_is_there)
    client.retries = 3
    assert client.send(service, b"work") is None
    assert bus.call(waiting) == [[b"work"]] * 3


def test_a_late_reply_to_an_earlier_request_is_not_the_next_ones(bus: Bus, client: MajorDomoClient) -> None:
    service = unique()
    client.timeout, client.retries = 50, 1
    assert client.send(service, b"first") is None
    with Served(bus, service, echo):
        client.timeout = int(LIMIT * 1000)
        assert client.send(service, b"second") == [b"second"]


# ---------------------------------------------------------------- our services


def test_an_acting_verb_is_sent_once_with_an_id(
    bus: Bus, client: MajorDomoClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It is not begun later than that.
    client.act_timeout = int(LIMIT * 1000)
    with deaf_server(bus) as taken:
        assert client.is_ours(b"pi.deaf.devices")
        before = bus.statistic("requests")
        # Who waits for the reply gives up once the request is there.
        monkeypatch.setattr(client, "_wait", lambda name, until: not eventually(taken) or None)
        assert client.send("pi.deaf.devices", [b"exec", b"feed"]) is None
        assert bus.statistic("requests") == before + 1
        assert eventually(taken) == ["feed"]


def test_a_reading_verb_is_tried_again(bus: Bus, client: MajorDomoClient) -> None:
    with deaf_server(bus) as taken:
        assert client.is_ours(b"pi.deaf.devices")
        client.timeout, client.retries = 200, 4
        assert client.send("pi.deaf.devices", [b"info", b"tank"]) is None
        assert eventually(lambda: taken() == ["tank"] * 4)


def test_ours_is_asked_until_it_is_so_and_then_no_more(bus: Bus, client: MajorDomoClient) -> None:
    with deaf_server(bus):
        before = bus.statistic("requests")
        for _ in range(3):
            assert client.send("pi.deaf.devices", [b"exec", b"ok"]) == [b'"ok"', b"200"]
        assert bus.statistic("requests") - before == 4


def test_each_request_has_an_id_of_its_own(bus: Bus, client: MajorDomoClient) -> None:
    with deaf_server(bus) as taken:
        for _ in range(3):
            client.send("pi.deaf.devices", [b"exec", b"ok"])
        assert taken() == ["ok"] * 3


def test_an_empty_request_to_ours_is_refused_by_it(bus: Bus, client: MajorDomoClient) -> None:
    with deaf_server(bus):
        reply = client.send("pi.deaf.devices", [])
        assert reply is not None
        assert reply[1] == b"501"


def test_every_verb_that_is_sent_again_changes_nothing() -> None:
    for verbs in (MMI, STATISTICS):
        for verb in verbs:
            assert verb.reads == (verb.name.encode() in READING_VERBS), verb.name


def test_the_broker_itself_gets_no_id(bus: Bus, client: MajorDomoClient) -> None:
    before = bus.statistic("requests")
    assert client.send("mmi.service", b"nobody's") == [b"404"]
    assert bus.statistic("requests") == before + 1


# ---------------------------------------------------------------- brokers that play foul


class Foul:
    """A broker on a thread that answers ``mmi.workers`` and requests with what a test gives it."""

    def __init__(self, directory: str, marked: Frames, replies: list[Frames]) -> None:
        self.address = f"ipc://{directory}/foul"
        self.ctx: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.router = self.ctx.socket(zmq.ROUTER)
        self.router.linger = 0
        self.router.bind(self.address)
        self.marked = marked
        self.replies = replies
        self.got: list[Frames] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.is_set():
            if self.router.poll(20):
                sender, _, header, service, *body = self.router.recv_multipart()
                if service == b"mmi.workers":
                    self.router.send_multipart([sender, b"", header, service, *self.marked])
                    continue
                self.got.append(body)
                for frames in self.replies:
                    self.router.send_multipart([sender, *frames])
        self.router.close()

    def close(self) -> None:
        self._ended.set()
        self._thread.join(LIMIT)
        self.ctx.term()


@pytest.mark.parametrize(
    "marked",
    [
        [b"501"],
        [b"404"],
        [b"", b"200"],
        [b"200"],
        [b"\xff", b"200"],
        [b'{"other":"\xff"}', b"200"],
        [b"[" * 20_000, b"200"],
        [b'{"x":' + b"[" * 20_000, b"200"],
        [b"[]", b"200"],
        [b'{"ours":1}', b"200"],
        [b'{"ours":true}', b"404"],
        [b'{"ours":true}'],
    ],
    ids=range(12),
)
def test_a_broker_that_marks_nothing_gets_no_id(marked: Frames) -> None:
    with short_directory() as directory:
        foul = Foul(directory, marked, [[b"", b"MDPC01", b"svc", b"done"]])
        try:
            with MajorDomoClient(foul.address) as client:
                client.timeout = int(LIMIT * 1000)
                assert client.send("svc", [b"exec"]) == [b"done"]
            assert foul.got == [[b"exec"]]
        finally:
            foul.close()


def test_what_is_no_reply_is_dropped() -> None:
    junk: list[Frames] = [
        [b""],
        [b"", b"MDPC01"],
        [b"", b"MDPC01", b"svc"],
        [b"x", b"MDPC01", b"svc", b"wrong"],
        [b"", b"MDPW01", b"svc", b"wrong"],
        [b"", b"MDPC01", b"other", b"wrong"],
        [b"", b"MDPC01", b"svc", b"right"],
    ]
    with short_directory() as directory:
        foul = Foul(directory, [json.dumps({"ours": True}).encode(), b"200"], junk)
        try:
            with MajorDomoClient(foul.address) as client:
                client.verbose = True
                client.timeout = int(LIMIT * 1000)
                assert client.send("svc", [b"exec"]) == [b"right"]
                marked = MDP.parse_id(foul.got[0][0])
            assert marked is not None
            assert 0 < (marked[1] or 0) <= client.act_timeout / 1000
            assert foul.got[0][1:] == [b"exec"]
        finally:
            foul.close()


def test_without_a_broker_there_is_no_reply_and_no_harm() -> None:
    with short_directory() as directory, MajorDomoClient(f"ipc://{directory}/nobody") as client:
        client.timeout, client.retries = 10, 2
        assert client.send("svc", b"work") is None


def test_a_destroyed_client_says_so(bus: Bus) -> None:
    client = MajorDomoClient(bus.address)
    client.destroy()
    client.destroy()
    with pytest.raises(MDP.ClientError, match="destroyed"):
        client.send("svc", b"work")
