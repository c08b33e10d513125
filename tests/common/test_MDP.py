"""The constants and errors of the protocol."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raspy.common import MDP


def test_the_values_of_the_specification() -> None:
    assert (MDP.C_CLIENT, MDP.W_WORKER) == (b"MDPC01", b"MDPW01")
    commands = (MDP.W_READY, MDP.W_REQUEST, MDP.W_REPLY, MDP.W_HEARTBEAT, MDP.W_DISCONNECT)
    assert commands == (b"\x01", b"\x02", b"\x03", b"\x04", b"\x05")


def test_a_request_id_has_the_length_that_is_looked_for() -> None:
    assert len(MDP.REQUEST_ID + b"0" * 32) == MDP.REQUEST_ID_LENGTH


DIGITS = st.from_regex(r"[0-9a-f]{32}", fullmatch=True)


@given(DIGITS, st.none() | st.floats(0, 9e9))
def test_an_id_and_its_lifetime_are_read_as_they_were_written(digits: str, lifetime: float | None) -> None:
    begun = time.monotonic()
    parsed = MDP.parse_id(MDP.id_frame(digits, lifetime))
    took = time.monotonic() - begun
    assert parsed is not None
    assert parsed[0] == MDP.id_frame(digits)
    if lifetime is None:
        assert parsed[1] is None
    else:
        left = min(lifetime, MDP.LONGEST_LIFETIME)
        assert parsed[1] is not None
        assert max(0.0, left - took - 0.001) <= parsed[1] <= left + 0.001


@given(DIGITS, st.floats(max_value=0))
def test_a_lifetime_that_is_over_is_none_left(digits: str, lifetime: float) -> None:
    assert MDP.parse_id(MDP.id_frame(digits, lifetime)) == (MDP.id_frame(digits), 0.0)


@given(st.binary(max_size=80) | st.binary(max_size=80).map(MDP.REQUEST_ID.__add__))
def test_any_frame_is_an_id_or_none(frame: bytes) -> None:
    parsed = MDP.parse_id(frame)
    if parsed is not None:
        assert frame.startswith(parsed[0])
        assert len(parsed[0]) == MDP.REQUEST_ID_LENGTH
        assert parsed[1] is None or 0 <= parsed[1] <= MDP.LONGEST_LIFETIME
        assert MDP.parse_id(parsed[0]) == (parsed[0], None)


def test_on_the_same_machine_a_lifetime_runs_out_on_the_way() -> None:
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    digits = "ab" * 16

    def left(boot: str, until: float) -> float | None:
        parsed = MDP.parse_id(MDP.REQUEST_ID + f"{digits} 30.000 {boot}:{until:.3f}".encode())
        assert parsed is not None
        return parsed[1]

    assert left(MDP.boot_id(), now - 1) == 0.0
    assert left(MDP.boot_id(), now + 3600) == 30.0
    on_its_way = left(MDP.boot_id(), now + 20)
    assert on_its_way is not None
    assert 0 < on_its_way <= 20.001, "what is written is rounded to milliseconds"
    assert left("0" * 32, now - 1) == 30.0, "of another machine, or of another start"


@pytest.mark.parametrize(
    "end",
    [
        "",
        " ",
        "  5",
        " 5 ",
        " -1",
        " +1",
        " nan",
        " inf",
        " 1e3",
        " 1.",
        " .5",
        " 5,0",
        " 0x5",
        " 12345678901",
        "5",
        " ٣",
    ],
)
def test_what_is_no_lifetime_makes_it_no_id(end: str) -> None:
    frame = MDP.id_frame("0" * 32) + end.encode()
    assert (MDP.parse_id(frame) is None) == bool(end)


@pytest.mark.parametrize(
    "digits", [b"0" * 31, b"0" * 33, b"g" * 32, b"", b"0" * 31 + b" ", b"\xff" * 32, b"0" * 32 + b"\n"]
)
def test_what_is_no_id(digits: bytes) -> None:
    assert MDP.parse_id(MDP.REQUEST_ID + digits) is None
    assert MDP.parse_id(digits) is None


def test_ids_are_unlike_each_other() -> None:
    assert len({MDP.new_id() for _ in range(100)}) == 100
    assert MDP.parse_id(MDP.id_frame(MDP.new_id())) is not None


@pytest.mark.parametrize(
    ("ip", "offset", "expected"),
    [
        ("127.0.0.1", MDP.REQUESTS, "tcp://127.0.0.1:5514"),
        ("127.0.0.1", MDP.COLLECTOR, "tcp://127.0.0.1:5517"),
        ("localhost", MDP.SNAPSHOT, "tcp://localhost:5515"),
        ("::1", MDP.PUBLISHER, "tcp://[::1]:5516"),
        ("[::1]", MDP.PUBLISHER, "tcp://[::1]:5516"),
        ("ipc:///run/raspy", MDP.PUBLISHER, "ipc:///run/raspy/5516"),
        ("ipc:///run/raspy/", MDP.REQUESTS, "ipc:///run/raspy/5514"),
    ],
)
def test_the_addresses_of_the_four_sockets(ip: str, offset: int, expected: str) -> None:
    assert MDP.endpoint(ip, 5514, offset) == expected


def test_a_name_on_the_bus() -> None:
    assert MDP.routing_key("pi1", "onewire") == "pi1.onewire"


@pytest.mark.parametrize("kind", [MDP.ClientError, MDP.ServerError, MDP.ConnectionLost, MDP.ProtocolError])
def test_errors_are_ours_and_say_what_they_are_given(kind: type[MDP.GenericError]) -> None:
    error = kind("frame 3 is missing")
    assert isinstance(error, MDP.GenericError)
    assert (str(error), error.value) == ("frame 3 is missing", "frame 3 is missing")


def test_errors_are_the_built_in_ones_too() -> None:
    assert issubclass(MDP.ConnectionLost, ConnectionError)
    assert issubclass(MDP.ProtocolError, ValueError)
