"""Frames of the key/value channel, of friends and strangers."""

from __future__ import annotations

import json

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from raspy.common.kvsimple import KEY_BYTES, RESERVED, KVMsg, check_key, check_life, parse, stale, top
from raspy.common.MDP import GenericError, ProtocolError

FRAMES = st.lists(st.binary(max_size=12), max_size=5)


@pytest.fixture
def pair():
    with zmq.Context() as ctx, ctx.socket(zmq.DEALER) as one, ctx.socket(zmq.DEALER) as other:
        one.linger = other.linger = 0
        one.bind("inproc://pair")
        other.connect("inproc://pair")
        yield one, other


@pytest.mark.parametrize(
    ("message", "frames"),
    [
        (KVMsg(1, "/device/a", b"x"), [b"/device/a", b"\0\0\0\0\0\0\0\x01", b"x"]),
        (KVMsg(0), [b"", bytes(8), b""]),
        (KVMsg(2**64 - 1, "ü", b""), ["ü".encode(), b"\xff" * 8, b""]),
    ],
)
def test_three_frames_over_a_socket(pair, message, frames):
    message.send(pair[0])
    assert pair[1].recv_multipart() == frames
    pair[0].send_multipart(frames)
    received = KVMsg.recv(pair[1])
    assert (received.sequence, received.key, received.body) == (
        message.sequence,
        message.key or None,
        message.body or None,
    )


@given(FRAMES)
def test_strange_frames_are_a_protocol_error_or_a_message(frames):
    try:
        assert KVMsg.parse(frames).frames() == frames
    except ProtocolError:
        assert len(frames) != 3 or len(frames[1]) != 8 or not frames[0].isascii()


@given(FRAMES)
def test_parse_takes_three_frames_with_eight_bytes_of_sequence(frames):
    good = len(frames) == 3 and len(frames[1]) == 8
    try:
        key, sequence, body = parse(frames)
    except ProtocolError:
        assert not good
    else:
        assert good
        assert [key, sequence.to_bytes(8, "big"), body] == frames


def test_a_bad_message_costs_only_itself(pair):
    pair[0].send_multipart([b"only one"])
    KVMsg(7, "k", b"v").send(pair[0])
    with pytest.raises(ProtocolError, match="3 frames, this one 1"):
        KVMsg.recv(pair[1])
    assert KVMsg.recv(pair[1]).sequence == 7


@pytest.mark.parametrize("sequence", [-1, 2**64, "1", 1.0, None])
def test_sequence_must_fit(sequence):
    with pytest.raises(ProtocolError, match="sequence"):
        KVMsg(sequence)


def test_key_that_has_no_utf8():
    with pytest.raises(ProtocolError, match="UTF-8"):
        KVMsg(1, "\ud800", b"x").frames()


def test_store_puts_and_takes():
    tree: dict[str, KVMsg] = {}
    message = KVMsg(1, "a", b"1")
    message.store(tree)
    assert tree == {"a": message}
    KVMsg(2, None, b"1").store(tree)
    assert tree == {"a": message}
    KVMsg(3, "a").store(tree)
    assert tree == {}
    KVMsg(4, "a").store(tree)
    assert tree == {}


def test_dump_is_one_line():
    assert KVMsg(3, "a", b"\n").dump() == "[seq:3][key:a][size:1] b'\\n'"
    assert KVMsg(3).dump() == "[seq:3][key:None][size:0] b''"


@pytest.mark.parametrize("key", ["a", "/device/pi.fake.tank/temperature", "/ü/°", "x" * KEY_BYTES, "HUGZ2", "a b"])
def test_good_keys(key):
    assert check_key(key.encode()) == key


@pytest.mark.parametrize(
    "key",
    [b"", b"x" * (KEY_BYTES + 1), b"\xff", b"a\nb", b"a\0", b"\x7f", "a\x85".encode(), "\u2028".encode(), *RESERVED],
)
def test_bad_keys(key):
    with pytest.raises(ProtocolError) as caught:
        check_key(key)
    assert isinstance(caught.value, GenericError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("key", "name"),
    [("/device/a", "device"), ("/device/", "device"), ("/device", "*"), ("a/b", "*"), ("//a", "*"), ("", "*")],
)
def test_top(key, name):
    assert top(key) == name


@pytest.mark.parametrize(
    "body",
    [
        b'{"quality":"ok","max_age":30}',
        b'{"quality":"error","reason":"no answer"}',
        b'{"quality":"stale","x":[1]}',
    ],
)
def test_readings(body):
    assert check_life(body).quality == json.loads(body)["quality"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"21.5",
        b"[]",
        b"{}",
        b'{"quality":"ok"}',
        b'{"quality":"ok","max_age":0}',
        b'{"quality":"ok","max_age":-1}',
        b'{"quality":"ok","max_age":1e400}',
        b'{"quality":"ok","max_age":NaN}',
        b'{"quality":"ok","max_age":true}',
        b'{"quality":"ok","max_age":"30"}',
        b'{"quality":"fine","max_age":30}',
        b'{"max_age":30}',
        b'{"quality":"ok","max_age":30,"x":' + b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_no_readings(body):
    with pytest.raises(ProtocolError, match="not a reading"):
        check_life(body)


def test_stale_has_no_value():
    body = '{"value":21.5,"unit":"°C","time":17.5,"max_age":30,"quality":"ok"}'.encode()
    assert json.loads(stale(body, "why")) == {
        "last": 21.5,
        "unit": "°C",
        "time": 17.5,
        "max_age": 30,
        "quality": "stale",
        "reason": "why",
    }


@given(st.one_of(st.binary(max_size=40), st.from_regex(rb'\{"value":[0-9]+,"a":.*\}', fullmatch=True)))
def test_stale_of_anything_is_stale(body):
    reading = json.loads(stale(body, "why"))
    assert reading["quality"] == "stale"
    assert "value" not in reading


@pytest.mark.parametrize("closed", [b"]", b""])
def test_stale_of_what_is_nested_too_deep_is_stale(closed):
    body = b'{"quality":"ok","max_age":30,"value":' + b"[" * 100_000 + closed * 100_000 + b"}"
    assert json.loads(stale(body, "why")) == {"quality": "stale", "reason": "why"}
    for depth in range(900, 1100):
        body = b'{"quality":"ok","max_age":30,"x":' + b"[" * depth + b"]" * depth + b"}"
        assert b'"quality":"stale"' in stale(body, "why")
