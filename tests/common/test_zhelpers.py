"""The helpers around sockets, on real ones."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

import pytest
import zmq

from raspy.common.zhelpers import dump, receiver, sender, set_id, zpipe

Sockets = tuple[zmq.Socket[bytes], zmq.Socket[bytes]]
LIMIT_MS = 10_000


@pytest.fixture
def ctx() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture
def pair(ctx: zmq.Context[zmq.Socket[bytes]]) -> Iterator[Sockets]:
    """Two PAIR sockets with room for a few messages."""
    with ctx.socket(zmq.PAIR) as one, ctx.socket(zmq.PAIR) as other:
        one.sndhwm = one.rcvhwm = other.sndhwm = other.rcvhwm = 5
        one.bind("inproc://pair")
        other.connect("inproc://pair")
        yield one, other


@pytest.mark.parametrize(
    "frames", [[b""], [b"", b""], [b"a"], [b"a", b"", bytes(100_000)], [b"%d" % n for n in range(900)]]
)
def test_what_is_sent_is_what_is_received(pair: Sockets, frames: list[bytes]) -> None:
    send, take = sender(pair[0]), receiver(pair[1])
    assert take() is None
    for _ in range(3):
        send(frames)
        assert take() == frames
    assert take() is None
    pair[0].send_multipart(frames)
    assert take() == frames
    send(frames)
    assert pair[1].recv_multipart() == frames


def test_the_rest_of_a_long_message_is_dropped_and_the_next_is_whole(pair: Sockets) -> None:
    take = receiver(pair[1], 3)
    pair[0].send_multipart([b"%d" % number for number in range(10)])
    pair[0].send_multipart([b"a", b"b", b"c"])
    assert take() == [b"0", b"1", b"2"]
    assert take() == [b"a", b"b", b"c"]
    assert take() is None


def test_a_message_of_very_many_parts_is_dropped_over_many_calls(pair: Sockets) -> None:
    take = receiver(pair[1], 3)
    pair[0].send_multipart([b""] * 10_000)
    pair[0].send_multipart([b"next"])
    assert take() == [b"", b"", b""]
    assert [take() for _ in range(4)] == [None] * 4
    assert take() == [b"next"]


def test_a_full_queue_refuses_the_whole_message(pair: Sockets) -> None:
    send, take, sent = sender(pair[0]), receiver(pair[1]), 0
    try:
        while sent < 1000:
            send([b"%d" % sent, b"end"])
            sent += 1
    except zmq.Again:
        pass
    assert 0 < sent < 1000
    assert [take() for _ in range(sent)] == [[b"%d" % number, b"end"] for number in range(sent)]
    assert take() is None


def test_a_router_says_that_a_peer_is_not_there(ctx: zmq.Context[zmq.Socket[bytes]]) -> None:
    with ctx.socket(zmq.ROUTER) as router, ctx.socket(zmq.DEALER) as dealer:
        router.router_mandatory = True
        router.bind("inproc://router")
        with pytest.raises(zmq.ZMQError) as caught:
            sender(router)([b"nobody", b"", b"x"])
        assert caught.value.errno == errno.EHOSTUNREACH
        set_id(dealer)
        dealer.connect("inproc://router")
        dealer.send(b"here")
        assert router.poll(LIMIT_MS)
        name = router.recv_multipart()[0]
        sender(router)([name, b"", b"x"])
        assert dealer.poll(LIMIT_MS)
        assert dealer.recv_multipart() == [b"", b"x"], "the refused message left no part behind"


def test_an_identity_is_printable_and_new_each_time(ctx: zmq.Context[zmq.Socket[bytes]]) -> None:
    names = set()
    for _ in range(20):
        socket = ctx.socket(zmq.DEALER)
        set_id(socket)
        names.add(socket.getsockopt(zmq.IDENTITY))
        socket.close()
    assert len(names) == 20
    assert all(isinstance(name, bytes) and re.fullmatch(rb"[0-9A-F]{4}-[0-9A-F]{4}", name) for name in names)


def test_a_pipe_talks_both_ways_and_is_bounded(ctx: zmq.Context[zmq.Socket[bytes]]) -> None:
    one, other = zpipe(ctx)
    with one, other:
        one.send(b"there")
        assert other.recv() == b"there"
        other.send(b"and back")
        assert one.recv() == b"and back"
        assert one.poll(0, zmq.POLLOUT)
        for _ in range(2):  # one at each end
            one.send(b"x", zmq.DONTWAIT)
        assert not one.poll(0, zmq.POLLOUT)


def test_a_message_is_shown_a_frame_a_line(pair: Sockets, capsys: pytest.CaptureFixture[str]) -> None:
    frames = [b"text", b"", b"\x01\xff", b"line\n", "grün".encode()]
    lines = dump(frames).splitlines()
    assert lines[0] == "-" * 40
    assert lines[1:] == ["[004] text", "[000] ", "[002] 0x01ff", "[005] 0x6c696e650a", "[005] 0x6772c3bc6e"]
    assert capsys.readouterr().out.splitlines() == lines
    pair[0].send_multipart(frames)
    assert dump(pair[1]).splitlines() == lines
