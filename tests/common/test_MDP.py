"""The constants and errors of the protocol."""

from __future__ import annotations

import pytest

from raspy.common import MDP


def test_the_values_of_the_specification() -> None:
    assert (MDP.C_CLIENT, MDP.W_WORKER) == (b"MDPC01", b"MDPW01")
    commands = (MDP.W_READY, MDP.W_REQUEST, MDP.W_REPLY, MDP.W_HEARTBEAT, MDP.W_DISCONNECT)
    assert commands == (b"\x01", b"\x02", b"\x03", b"\x04", b"\x05")


def test_a_request_id_has_the_length_that_is_looked_for() -> None:
    assert len(MDP.REQUEST_ID + b"0" * 32) == MDP.REQUEST_ID_LENGTH


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
