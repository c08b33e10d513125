"""Replies that wait for clients, on real sockets with room for a few messages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
import zmq

from raspy.common.executive import Executive
from raspy.servers.broker import outbox
from raspy.servers.broker.outbox import Outbox
from raspy.servers.broker.state import Budget
from tests.support_devices import LIMIT, short_directory

BODY = bytes(100_000)
"""The buffers of the system hold a few of them."""
LIMIT_MS = int(LIMIT * 1000)


class Post:
    """An outbox on a ROUTER, and its clients; the test turns the loop."""

    def __init__(self, directory: str, limit: int = 1 << 27, sndhwm: int = 5) -> None:
        self.loop = Executive()
        self.router = self.loop.ctx.socket(zmq.ROUTER)
        self.router.router_mandatory = True
        # Before bind: a connection has the bound that the socket had then.
        self.router.sndhwm = sndhwm
        self.router.linger = 0
        self.address = f"ipc://{directory}/post"
        self.router.bind(self.address)
        self.loop.register(self.router, self.take)
        self.clients: dict[bytes, zmq.Socket[bytes]] = {}
        self.budget = Budget(limit)
        self.outbox = Outbox(self.loop, self.router, self.budget)

    def client(self, name: bytes) -> zmq.Socket[bytes]:
        client = self.clients[name] = self.loop.ctx.socket(zmq.DEALER)
        client.linger = 0
        client.rcvhwm = 5
        client.setsockopt(zmq.IDENTITY, name)
        client.connect(self.address)
        client.send(b"here")
        assert self.router.poll(LIMIT_MS)
        self.take()
        return client

    def take(self) -> None:
        """Read what clients say, as a broker does: only so it learns that one is gone."""
        while self.router.poll(0):
            self.router.recv_multipart()

    def send(self, name: bytes, numbers: range) -> None:
        for number in numbers:
            self.outbox.send([name, b"%d" % number, BODY])

    def until(self, happened: Callable[[], bool]) -> None:
        end = time.monotonic() + LIMIT
        while not happened():
            assert time.monotonic() < end
            self.loop.turn(0.01)


def read(client: zmq.Socket[bytes]) -> list[int]:
    numbers = []
    while client.poll(0):
        numbers.append(int(client.recv_multipart()[0]))
    return numbers


@pytest.fixture
def post() -> Iterator[Post]:
    with short_directory() as directory:
        post = Post(directory)
        yield post
        post.loop.destroy()


def test_replies_go_out_at_once_to_a_client_that_reads(post: Post) -> None:
    client = post.client(b"c")
    for number in range(100):
        post.send(b"c", range(number, number + 1))
        post.until(lambda: bool(client.poll(0)))
        assert read(client) == [number]
    assert post.budget.used == 0
    assert post.outbox.dropped == 0


def test_every_reply_arrives_in_order_when_the_client_reads_again(post: Post) -> None:
    client = post.client(b"c")
    post.send(b"c", range(100))
    assert post.budget.used > 50 * len(BODY)
    got: list[int] = []

    def all_there() -> bool:
        got.extend(read(client))
        if len(got) == 50:
            post.send(b"c", range(100, 101))  # goes behind what is held
        return len(got) >= 100

    post.until(all_there)
    post.until(lambda: post.budget.used == 0)
    got += read(client)
    assert got[:100] == list(range(100))
    assert post.outbox.dropped == 0


def test_a_client_that_does_not_read_holds_up_no_other(post: Post) -> None:
    post.client(b"stuck")
    reader = post.client(b"reader")
    post.send(b"stuck", range(50))
    got = []
    for number in range(50):
        post.send(b"reader", range(number, number + 1))
        post.until(lambda: bool(reader.poll(0)))
        got += read(reader)
    assert got == list(range(50))
    assert set(post.outbox._held) == {b"stuck"}


def test_beyond_the_budget_replies_are_dropped_and_counted(post: Post) -> None:
    client = post.client(b"c")
    post.budget.limit = 10 * len(BODY)
    post.send(b"c", range(100))
    dropped = post.outbox.dropped
    assert 0 < dropped < 100
    assert post.budget.used <= post.budget.limit
    got: list[int] = []

    def all_there() -> bool:
        got.extend(read(client))
        return len(got) == 100 - dropped

    post.until(all_there)
    assert got == list(range(100 - dropped))
    assert post.budget.used == 0
    assert post.outbox.dropped == dropped


@pytest.fixture
def roomy_post() -> Iterator[Post]:
    with short_directory() as directory:
        post = Post(directory, sndhwm=1000)
        yield post
        post.loop.destroy()


def test_large_replies_that_nobody_reads_are_bounded_in_bytes(
    roomy_post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    post = roomy_post
    monkeypatch.setattr(outbox, "WINDOW", 4 * len(BODY))
    stuck, reader = post.client(b"stuck"), post.client(b"reader")
    post.send(b"stuck", range(100))
    assert 0 < post.outbox._lent_bytes <= outbox.WINDOW
    assert post.budget.used >= 80 * len(BODY)
    post.send(b"reader", range(1))
    post.until(lambda: read(reader) == [0])
    got: list[int] = []

    def all_there() -> bool:
        got.extend(read(stuck))
        return len(got) == 100

    post.until(all_there)
    assert got == list(range(100))
    assert post.budget.used == 0


def test_a_client_that_takes_nothing_is_given_up(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    post.client(b"c")
    post.send(b"c", range(100))
    held = len(post.outbox._held[b"c"].replies)
    monkeypatch.setattr(outbox, "STALLED", 0.05)
    post.until(lambda: not post.outbox._held)
    assert 0 < post.outbox.dropped <= held
    assert post.budget.used == 0


def test_what_is_held_for_a_client_goes_with_it(post: Post) -> None:
    client = post.client(b"c")
    post.send(b"c", range(100))
    held = post.budget.used
    assert held > 0
    client.close()
    post.until(lambda: post.budget.used == 0)
    assert post.outbox.dropped > 50
    post.send(b"c", range(1))
    assert post.budget.used == 0


def test_a_client_that_was_never_there(post: Post) -> None:
    post.send(b"nobody", range(3))
    assert post.outbox.dropped == 3
    assert post.budget.used == 0


def test_nothing_is_tried_when_nothing_is_held(post: Post) -> None:
    client = post.client(b"c")
    post.send(b"c", range(50))
    assert post.outbox._held
    post.until(lambda: bool(read(client)) and post.budget.used == 0)
    post.until(lambda: not any(not timer.cancelled for timer in post.loop._timers))
    assert post.outbox._held == {}
