"""The broker's section of the configuration, and the sockets that it binds."""

from __future__ import annotations

import errno
import os
import socket
from typing import Annotated, ClassVar

import zmq
from msgspec import Meta

from raspy.common import MDP
from raspy.common.config import BusConfig, ConfigError, Section

MESSAGE_LIMIT = 16 << 20
"""Bytes of one frame; libzmq closes the connection of a peer that sends more (ZMQ_MAXMSGSIZE)."""
LOOPBACK = ("localhost", "::1", "[::1]")
IPC_MODE = 0o660
PORTS = 4


class BrokerConfig(Section, frozen=True):
    """``[broker]``: bounds of the broker and the Proxy."""

    SECTION: ClassVar[str] = "broker"

    heartbeat: Annotated[
        int,
        Meta(ge=50, le=60_000, description="Interval of heartbeats to workers.", extra={"unit": "ms"}),
    ] = MDP.HEARTBEAT_INTERVAL
    liveness: Annotated[
        int,
        Meta(ge=2, le=100, description="Silent heartbeat intervals after which a worker counts as dead."),
    ] = MDP.HEARTBEAT_LIVENESS
    queue_requests: Annotated[
        int,
        Meta(ge=1, le=1_000_000, description="Requests that may wait for one service."),
    ] = 100_000
    queue_bytes: Annotated[
        int,
        Meta(
            ge=1 << 16,
            le=1 << 30,
            description="Memory that waiting requests and replies may take together.",
            extra={"unit": "B"},
        ),
    ] = 64 << 20
    request_expiry: Annotated[
        float,
        Meta(gt=0, le=86_400, description="Longest time that a request waits for a worker.", extra={"unit": "s"}),
    ] = 60.0
    attempts: Annotated[
        int,
        Meta(ge=1, le=100, description="Workers that may die over one request before it is answered 500."),
    ] = 3
    tree_keys: Annotated[int, Meta(ge=1, le=1 << 24, description="Keys that the tree may hold.")] = 65_536
    tree_bytes: Annotated[
        int,
        Meta(
            ge=1 << 16, le=1 << 30, description="Memory that keys and bodies of the tree may take.", extra={"unit": "B"}
        ),
    ] = 64 << 20
    body_bytes: Annotated[
        int,
        Meta(ge=64, le=MESSAGE_LIMIT, description="Longest body of one key of the tree.", extra={"unit": "B"}),
    ] = 1 << 20

    def check_here(self, bus: BusConfig) -> None:
        check_address(bus.broker_ip)
        if bus.broker_ip.startswith("ipc://"):
            directory = bus.broker_ip.removeprefix("ipc://")
            if not os.path.isdir(directory):
                raise ConfigError(f"broker_ip: there is no directory {directory}: make it, or set another one")

    def check_free(self, bus: BusConfig) -> None:
        for offset in range(PORTS):
            try_address(bus.broker_ip, bus.broker_port, offset)


def check_address(broker_ip: str) -> None:
    """Refuse to listen where strangers could speak to the broker.

    :raises ConfigError: the address is neither loopback nor a directory of sockets
    """
    if broker_ip.startswith("ipc://") or broker_ip in LOOPBACK:
        return
    try:
        if socket.inet_pton(socket.AF_INET, broker_ip)[0] == 127:
            return
    except OSError:
        pass
    raise ConfigError(
        f"broker_ip: the broker will not listen on {broker_ip!r}: there is no encryption and no check of who speaks "
        "yet, so only this machine may reach it; use 127.0.0.1, ::1 or ipc:///run/raspy"
    )


def try_address(broker_ip: str, broker_port: int, offset: int) -> None:
    """Whether one of the broker's sockets could be bound now. A plain socket is taken for it, with libzmq's option.

    :raises ConfigError: as :func:`bind` does
    """
    address = _address(broker_ip, broker_port, offset)
    if address.startswith("ipc://"):
        path = address.removeprefix("ipc://")
        _ask_ipc(path)
        if not os.access(os.path.dirname(path), os.W_OK | os.X_OK):
            raise _refusal(address, 0, errno.EACCES)
        return
    host = address.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, broker_port + offset))
            probe.listen(1)
        except OSError as error:
            raise _refusal(address, broker_port + offset, error.errno or 0) from error


def bind(zsocket: zmq.Socket[bytes], broker_ip: str, broker_port: int, offset: int) -> None:
    """Bind one of the broker's sockets.

    :raises ConfigError: the address is taken or cannot be used; the message says what to do
    """
    address = _address(broker_ip, broker_port, offset)
    if address.startswith("ipc://"):
        _bind_ipc(zsocket, address)
        return
    if address.startswith("tcp://["):
        zsocket.setsockopt(zmq.IPV6, 1)
    try:
        zsocket.bind(address)
    except zmq.ZMQError as error:
        raise _refusal(address, broker_port + offset, error.errno or 0) from error


def _address(broker_ip: str, broker_port: int, offset: int) -> str:
    return MDP.endpoint("127.0.0.1" if broker_ip == "localhost" else broker_ip, broker_port, offset)


def _ask_ipc(path: str) -> None:
    """Refuse a socket file that somebody listens on; libzmq would take it over from them."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            pass
        else:
            raise ConfigError(f"broker_ip: {path} is taken: a broker runs already; stop it, or set another directory")


def _bind_ipc(zsocket: zmq.Socket[bytes], address: str) -> None:
    """Bind a socket file for user and group."""
    _ask_ipc(address.removeprefix("ipc://"))
    before = os.umask(0o777 & ~IPC_MODE)
    try:
        zsocket.bind(address)
    except zmq.ZMQError as error:
        raise _refusal(address, 0, error.errno or 0) from error
    finally:
        os.umask(before)


def _refusal(address: str, port: int, number: int) -> ConfigError:
    reason = zmq.strerror(number)
    if number == errno.EADDRINUSE:
        return ConfigError(
            f"broker_port: port {port} is taken (another broker?); stop what listens on {address}, "
            "or set broker_port in [bus]"
        )
    if address.startswith("ipc://"):
        directory = os.path.dirname(address.removeprefix("ipc://"))
        return ConfigError(
            f"broker_ip: cannot make the socket {address}: {reason}; the directory {directory} must exist "
            "and be writable"
        )
    return ConfigError(f"broker_ip: cannot listen on {address}: {reason}; correct broker_ip in [bus]")
