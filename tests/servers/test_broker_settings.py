"""Where the broker may listen, and what it says of an address that it may not have."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import zmq

from raspy.common.config import BusConfig, Config, ConfigError
from raspy.servers.broker.settings import BrokerConfig, bind, try_address
from tests.support_devices import short_directory

KEY = zmq.curve_keypair()[0].decode()


def given(listen: list[str], **bus: object) -> tuple[BrokerConfig, BusConfig]:
    config = Config({"broker": {"listen": listen}, "bus": bus})
    return config.section(BrokerConfig), config.section(BusConfig)


@pytest.mark.parametrize(
    ("listen", "problem"),
    [
        (["raspy.local"], "'raspy.local' is no IP address"),
        (["192.168.1.500"], "'192.168.1.500' is no IP address"),
        (["fe80::x"], "'fe80::x' is no IP address"),
        (["\0"], "is no IP address"),
        (["192.168.1.5", "192.168.1.5"], "an address is in it twice"),
        (["::", "0.0.0.0"], ":: is all of IPv4 as well"),
    ],
)
def test_addresses_that_are_none_are_refused(listen: list[str], problem: str) -> None:
    with pytest.raises(ConfigError, match=r"listen in \[broker\]: ") as told:
        given(listen)
    assert problem in str(told.value)


def test_addresses_of_both_kinds_and_of_an_interface_are_taken() -> None:
    broker, _ = given(["192.168.1.5", "fe80::1%eth0", "2001:db8::1"])
    assert len(broker.listen) == 3


@pytest.mark.parametrize(
    ("listen", "bus", "problem"),
    [
        ([], {"broker_ip": "192.168.1.5", "broker_key": KEY}, "the broker will not listen on '192.168.1.5'"),
        ([], {"broker_ip": "127.0.0.1", "broker_key": KEY}, "broker_key: the broker itself is here"),
        (["0.0.0.0"], {"broker_ip": "127.0.0.1"}, "listen: 0.0.0.0 has broker_ip 127.0.0.1 in it"),
        (["127.0.0.1"], {"broker_ip": "127.0.0.1"}, "listen: 127.0.0.1 has broker_ip 127.0.0.1 in it"),
        ([], {"broker_ip": "ipc:///no/such"}, "there is no directory /no/such: make it"),
    ],
)
def test_what_does_not_go_together_is_refused(listen: list[str], bus: dict[str, object], problem: str) -> None:
    broker, reached = given(listen, **bus)
    with pytest.raises(ConfigError) as told:
        broker.check_here(reached)
    assert problem in str(told.value)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_port_that_is_taken_is_told_before_and_when_it_is_bound() -> None:
    with socket.socket() as other, zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        port = other.getsockname()[1]
        for attempt in (lambda: try_address("localhost", port, 0), lambda: bind(router, "localhost", port, 0)):
            with pytest.raises(ConfigError, match=f"broker_port: port {port} is taken"):
                attempt()


def test_an_address_that_may_come_yet_is_waited_for() -> None:
    """One of another network card, say; 192.0.2.0/24 is nobody's (RFC 5737)."""
    port = free_port()
    try_address("192.0.2.1", port, 0)
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        with pytest.raises(ConfigError, match=r"cannot listen on tcp://192\.0\.2\.1:"):
            bind(router, "192.0.2.1", port, 0)
        if os.path.exists("/proc/net/if_inet6"):
            bind(router, "::1", port, 0)


def test_a_socket_file_of_another_broker_is_not_taken_over() -> None:
    with short_directory() as directory, zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        bind(router, f"ipc://{directory}", 5514, 0)
        with pytest.raises(ConfigError, match="is taken: a broker runs already"):
            try_address(f"ipc://{directory}", 5514, 0)


def test_a_directory_that_is_not_there_takes_no_socket(tmp_path: Path) -> None:
    missing = f"ipc://{tmp_path}/none"
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        for attempt in (lambda: try_address(missing, 5514, 0), lambda: bind(router, missing, 5514, 0)):
            with pytest.raises(ConfigError, match="must exist and be writable"):
                attempt()
