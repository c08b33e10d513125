"""Workers: on a loop and on a thread of their own, at a real broker and at one that the test plays."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import zmq

from raspy.common import MDP, mdwrkapi
from raspy.common.executive import Executive
from raspy.common.mdwrkapi import MajorDomoWorker, Reply, WorkerConnection
from raspy.servers.broker import Broker
from tests.bus import Bus, eventually, running_bus
from tests.conformance.stage import unique
from tests.support_devices import LIMIT, short_directory

Frames = list[bytes]
LIMIT_MS = int(LIMIT * 1000)
READY, REQUEST, REPLY, HEARTBEAT, DISCONNECT = b"\x01", b"\x02", b"\x03", b"\x04", b"\x05"


@pytest.fixture
def bus() -> Iterator[Bus]:
    with running_bus(heartbeat=60_000) as running:
        yield running


class HandPlayed:
    """A broker that the test plays, and a loop that the test turns."""

    def __init__(self, directory: str) -> None:
        self.loop = Executive()
        self.address = f"ipc://{directory}/broker"
        self.requests: list[tuple[Frames, Reply]] = []
        self.router = self.bind()

    def bind(self) -> zmq.Socket[bytes]:
        self.router = self.loop.ctx.socket(zmq.ROUTER)
        self.router.linger = 0
        self.router.bind(self.address)
        return self.router

    def worker(self, heartbeat: int = 60_000, liveness: int = 5, reconnect: int = 3500) -> WorkerConnection:
        def take(body: Frames, reply: Reply) -> None:
            self.requests.append((body, reply))

        return WorkerConnection(self.loop, self.address, b"svc", take, heartbeat, liveness, reconnect)

    def receive(self) -> tuple[bytes, Frames]:
        """The next message of a worker: its address, and what stands behind the header."""
        end = time.monotonic() + LIMIT
        while not self.router.poll(0):
            assert time.monotonic() < end, "the worker sent nothing"
            self.loop.turn(0.01)
        sender, empty, header, *rest = self.router.recv_multipart()
        assert (empty, header) == (b"", b"MDPW01")
        return sender, rest

    def registered(self) -> bytes:
        """The address of a worker whose READY comes next, save for what an earlier one still sends."""
        while True:
            sender, rest = self.receive()
            if rest == [READY, b"svc"]:
                return sender

    def send(self, worker: bytes, *frames: bytes) -> None:
        self.router.send_multipart([worker, b"", b"MDPW01", *frames])

    def request(self, worker: bytes, client: bytes = b"client", *body: bytes) -> Reply:
        """Give a worker a request; returns what it replies with."""
        before = len(self.requests)
        self.send(worker, REQUEST, client, b"", *body)
        self.until(lambda: len(self.requests) > before)
        return self.requests[-1][1]

    def until(self, happened: Callable[[], bool]) -> None:
        """Turn the loop until something has happened."""
        end = time.monotonic() + LIMIT
        while not happened():
            assert time.monotonic() < end
            self.loop.turn(0.01)

    def quiet(self) -> None:
        """Nothing comes of what was done."""
        self.loop.turn(0.05)
        assert not self.router.poll(20)


@pytest.fixture
def hand() -> Iterator[HandPlayed]:
    with short_directory() as directory:
        hand = HandPlayed(directory)
        yield hand
        hand.router.close(linger=0)
        assert hand.loop.errors == 0, hand.loop.last_error
        hand.loop.destroy()


# ---------------------------------------------------------------- a worker on a loop


def test_a_request_and_its_reply(hand: HandPlayed) -> None:
    worker = hand.worker()
    address = hand.registered()
    reply = hand.request(address, b"client", b"a", b"")
    assert hand.requests[0][0] == [b"a", b""]
    assert worker.client == b"client"
    reply([b"x", b"y"])
    assert hand.receive() == (address, [REPLY, b"client", b"", b"x", b"y"])
    assert worker.client is None
    reply([b"again"])
    hand.quiet()
    worker.close()
    assert hand.receive() == (address, [DISCONNECT])
    worker.close()


def test_it_sends_heartbeats_and_none_on_top_of_traffic(hand: HandPlayed) -> None:
    worker = hand.worker(heartbeat=30, liveness=1_000_000)
    address = hand.registered()
    for _ in range(3):
        assert hand.receive() == (address, [HEARTBEAT])
    worker.close()


def test_a_heartbeat_is_answered(hand: HandPlayed) -> None:
    """The broker decides how often it wants to hear from a worker, and tells by its own."""
    worker = hand.worker()
    address = hand.registered()
    for _ in range(2):
        hand.until(lambda: time.monotonic() - worker._sent >= mdwrkapi.ANSWERED)
        hand.send(address, HEARTBEAT)
        assert hand.receive() == (address, [HEARTBEAT])
    worker.close()


def test_a_silent_broker_is_left_for_a_new_connection(hand: HandPlayed) -> None:
    worker = hand.worker(heartbeat=20, liveness=2)
    first = hand.registered()
    second = hand.registered()
    assert first != second
    worker.close()


@pytest.mark.parametrize("frames", [[HEARTBEAT], [b"\x77"], [REQUEST]])
def test_anything_that_a_broker_says_is_a_sign_of_life(hand: HandPlayed, frames: Frames) -> None:
    worker = hand.worker(heartbeat=60_000)
    address = hand.registered()
    worker.liveness = 1
    hand.send(address, *frames)
    hand.until(lambda: worker.liveness == 5)
    worker.close()


def test_a_disconnected_worker_opens_a_new_connection(hand: HandPlayed) -> None:
    worker = hand.worker()
    first = hand.registered()
    hand.send(first, DISCONNECT)
    assert hand.registered() != first
    worker.close()


def test_the_pauses_grow_to_their_bound_and_begin_anew(hand: HandPlayed, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    later = hand.loop.call_later

    def noted(delay: float, function: object, *args: object) -> object:
        pauses.append(delay)
        return later(0, function, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(hand.loop, "call_later", noted)
    worker = hand.worker(reconnect=1000)
    for _ in range(8):
        hand.send(hand.registered(), DISCONNECT)
    address = hand.registered()
    for pause, most in zip(pauses, [0.1, 0.2, 0.4, 0.8, 1, 1, 1, 1], strict=True):
        assert most / 2 <= pause <= most
    hand.send(address, HEARTBEAT)
    hand.send(address, DISCONNECT)
    hand.registered()
    assert 0.05 <= pauses[-1] <= 0.1
    worker.close()


def test_pauses_of_many_workers_differ(hand: HandPlayed, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter(range(0, 256, 51))
    monkeypatch.setattr(os, "urandom", lambda count: bytes([next(drawn)]) if count == 1 else os.getrandom(count))
    pauses: list[float] = []
    monkeypatch.setattr(hand.loop, "call_later", lambda delay, *_: pauses.append(delay))
    worker = hand.worker()
    for _ in range(6):
        worker.reopen()
    assert pauses == pytest.approx([0.05, 0.06, 0.07, 0.08, 0.09, 0.1])


def test_the_reply_of_a_lost_connection_is_dropped(hand: HandPlayed) -> None:
    worker = hand.worker()
    first = hand.registered()
    late = hand.request(first, b"client", b"work")
    hand.send(first, DISCONNECT)
    second = hand.registered()
    late([b"too late"])
    again = hand.request(second, b"client", b"work")
    late([b"too late"])
    again([b"in time"])
    assert hand.receive() == (second, [REPLY, b"client", b"", b"in time"])
    worker.close()


@pytest.mark.parametrize(
    "message",
    [
        [b""],
        [b"", b"MDPW01"],
        [b"x", b"MDPW01", REQUEST, b"c", b"", b"b"],
        [b"", b"MDPC01", REQUEST, b"c", b"", b"b"],
        [b"", b"MDPW01", REQUEST],
        [b"", b"MDPW01", REQUEST, b"c", b""],
        [b"", b"MDPW01", REQUEST, b"c", b"x", b"b"],
        [b"", b"MDPW01", READY, b"svc"],
        [b"", b"MDPW01", b""],
        [b"\xff"] * 5,
    ],
)
def test_a_message_that_is_no_request_is_dropped(hand: HandPlayed, message: Frames) -> None:
    worker = hand.worker()
    address = hand.registered()
    hand.router.send_multipart([address, *message])
    hand.request(address, b"client", b"work")([b"done"])
    assert hand.receive() == (address, [REPLY, b"client", b"", b"done"])
    assert len(hand.requests) == 1
    worker.close()


def test_a_second_request_while_one_is_worked_on_is_dropped(hand: HandPlayed) -> None:
    worker = hand.worker()
    address = hand.registered()
    reply = hand.request(address, b"first", b"1")
    hand.send(address, REQUEST, b"second", b"", b"2")
    hand.send(address, HEARTBEAT)
    worker.liveness = 1
    hand.until(lambda: worker.liveness == 5)
    reply([b"done"])
    assert hand.receive() == (address, [REPLY, b"first", b"", b"done"])
    assert len(hand.requests) == 1
    worker.close()


def test_a_broker_that_takes_nothing_is_reported(hand: HandPlayed) -> None:
    hand.router.close(linger=0)
    worker = hand.worker()
    for _ in range(5000):
        worker.send(HEARTBEAT)
        if hand.loop.errors:
            break
    assert "takes nothing" in hand.loop.last_error
    worker.close()
    hand.loop.errors = 0


def test_a_socket_that_cannot_be_opened_is_tried_for_again(hand: HandPlayed, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = hand.worker()
    first = hand.registered()
    open_socket, refused = hand.loop.ctx.socket, []

    def refuse_twice(kind: int) -> zmq.Socket[bytes]:
        if len(refused) < 2:
            refused.append(kind)
            raise zmq.ZMQError(errno.EMFILE)
        return open_socket(kind)

    monkeypatch.setattr(hand.loop.ctx, "socket", refuse_twice)
    worker.reopen()
    assert hand.registered() != first
    assert len(refused) == hand.loop.errors == 2
    hand.loop.errors = 0
    worker.close()


def test_an_address_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(zmq.ZMQError):
        MajorDomoWorker("tcp://bad host:1", "svc")


def test_it_registers_again_at_a_new_broker(bus: Bus) -> None:
    """Its own heartbeats are what a new broker hears first, and answers with DISCONNECT."""
    loop = Executive()
    service = unique()
    worker = WorkerConnection(loop, bus.address, service, lambda body, reply: reply(body), 100, 50)
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        for _ in range(2):
            client = bus.stage.client()
            assert client.ask(service, b"there?") == [b"there?"]
            bus.restart()
        assert bus.stage.client().ask(service, b"there?") == [b"there?"]
    finally:
        loop.call_threadsafe(worker.close)
        loop.shutdown()
        thread.join(LIMIT)


# ---------------------------------------------------------------- the blocking worker


class Quick(MajorDomoWorker):
    """A worker whose broker has a heartbeat of 50 ms; neither gives up the other because the machine is busy."""

    HEARTBEAT_LIVENESS = 100
    heartbeat = 50
    reconnect = 200
    timeout = 50


def test_a_blocking_worker_serves(bus: Bus) -> None:
    service, client = unique(), bus.stage.client()
    with MajorDomoWorker(bus.address, service) as worker:
        assert not worker.expect_reply
        client.request(service, b"a", b"")
        assert worker.recv() == [b"a", b""]
        assert worker.expect_reply
        assert worker.reply_to is not None
        client.request(service, b"b")
        assert worker.recv([b"x", b"y"]) == [b"b"]
        assert client.reply().body == [b"x", b"y"]
        client.request(service, b"c")
        assert worker.recv(b"bare") == [b"c"]
        assert client.reply().body == [b"bare"]
    bus.eventually(lambda broker: not broker.workers)


def test_a_request_of_as_many_frames_as_the_broker_carries_comes_whole(bus: Bus) -> None:
    service, client = unique(), bus.stage.client()
    frames = [b"%d" % number for number in range(1020)]
    with MajorDomoWorker(bus.address, service) as worker:
        client.request(service, *frames)
        assert worker.recv() == frames
        assert bus.statistic("malformed") == 0


def test_a_reply_must_be_given_when_and_only_when_one_is_awaited(bus: Bus) -> None:
    service, client = unique(), bus.stage.client()
    with MajorDomoWorker(bus.address, service.decode()) as worker:
        with pytest.raises(MDP.ServerError, match="no request awaits"):
            worker.recv([b"x"])
        client.request(service, b"a")
        assert worker.recv() == [b"a"]
        with pytest.raises(MDP.ServerError, match="awaits its reply"):
            worker.recv()
        client.request(service, b"b")
        assert worker.recv([]) == [b"b"]
        assert client.reply().body == [b""], "an empty reply is one"


def test_it_heartbeats_while_its_caller_works() -> None:
    with running_bus(heartbeat=50, liveness=100) as bus:
        service, client = unique(), bus.stage.client()
        with Quick(bus.address, service) as worker:
            client.request(service, b"slow")
            assert worker.recv() == [b"slow"]
            address = bus.call(lambda broker: next(iter(broker.workers)))
            heard: set[float] = set()

            def hear(broker: Broker) -> bool:
                heard.add(broker.workers[address].expiry)
                return len(heard) > 12

            bus.eventually(hear, "a sign of life, again and again, while the caller works")
            assert bus.call(lambda broker: list(broker.workers)) == [address]
            client.request(service, b"next")
            assert worker.recv([b"done"]) == [b"next"]
            assert client.reply().body == [b"done"]


def test_it_registers_again_while_its_caller_works() -> None:
    with running_bus(heartbeat=50, liveness=100) as bus:
        service, client = unique(), bus.stage.client()
        with Quick(bus.address, service) as worker:
            client.request(service, b"before")
            assert worker.recv() == [b"before"]
            bus.restart()
            bus.eventually(lambda broker: broker.workers)
            other = bus.stage.client()
            other.request(service, b"after")
            assert worker.recv([b"late"]) == [b"after"]
            other.request(service, b"end")
            assert worker.recv([b"in time"]) == [b"end"]
            assert other.reply().body == [b"in time"]
            assert not client.replies


def test_it_can_be_told_to_register_again(bus: Bus) -> None:
    service = unique()
    with Quick(bus.address, service) as worker:
        first = bus.eventually(lambda broker: set(broker.workers))
        worker.reconnect_to_broker()
        bus.eventually(lambda broker: broker.workers and not first & set(broker.workers))
        assert worker.liveness > 0


def test_a_command_of_its_callers(bus: Bus) -> None:
    with MajorDomoWorker(bus.address, unique()) as worker:
        bus.eventually(lambda broker: broker.workers)
        worker.send_to_broker(MDP.W_DISCONNECT)
        bus.eventually(lambda broker: not broker.workers)


def test_shutdown_from_another_thread_ends_recv(bus: Bus) -> None:
    worker = MajorDomoWorker(bus.address, unique())
    got: list[object] = []
    thread = threading.Thread(target=lambda: got.append(worker.recv()))
    thread.start()
    worker.shutdown()
    thread.join(LIMIT)
    assert got == [None]
    assert not worker.status
    assert worker.recv() is None
    worker.destroy()
    worker.destroy()


def test_without_a_broker_it_waits_and_ends_when_asked() -> None:
    with short_directory() as directory:
        worker = Quick(f"ipc://{directory}/nobody", "svc")
        eventually(lambda: worker.worker is not None)
        worker.destroy()
        assert worker.recv() is None
