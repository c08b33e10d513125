"""The broker's section of the configuration, and the sockets that it binds."""

from __future__ import annotations

import errno
import os
import socket
from typing import Annotated, ClassVar

import zmq
from msgspec import Meta

from raspy.common import MDP
from raspy.common.config import BusConfig, ConfigError, Section, shown
from raspy.common.hosts import is_local

MESSAGE_LIMIT = 16 << 20
"""Bytes of one frame; libzmq closes the connection of a peer that sends more (ZMQ_MAXMSGSIZE)."""
EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104  never without keys
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

    listen: Annotated[
        list[str],
        Meta(
            max_length=16,
            description="Addresses on which other machines reach the broker, with keys only; 0.0.0.0 and :: are all.",
            extra={"form": 'a list of IP addresses, as ["192.168.1.5"]'},
        ),
    ] = []  # noqa: RUF012  msgspec gives each its own

    def check(self) -> None:
        for address in self.listen:
            try:
                if ":" in address:
                    socket.inet_pton(socket.AF_INET6, address.partition("%")[0])  # fe80::1%eth0 has its interface
                else:
                    socket.inet_pton(socket.AF_INET, address)
            except (OSError, ValueError):
                raise ConfigError(
                    f"listen: {shown(address)} is no IP address: write one of this machine's, as 192.168.1.5"
                ) from None
        if len(set(self.listen)) < len(self.listen) or ("::" in self.listen and "0.0.0.0" in self.listen):  # noqa: S104
            raise ConfigError("listen: an address is in it twice; :: is all of IPv4 as well")

    def check_here(self, bus: BusConfig) -> None:
        check_address(bus.broker_ip)
        if bus.broker_key:
            raise ConfigError("broker_key: the broker itself is here, and is spoken to without it: leave it out")
        everywhere = [address for address in self.listen if address in EVERYWHERE]
        if not bus.broker_ip.startswith("ipc://") and (everywhere or bus.broker_ip in self.listen):
            raise ConfigError(
                f"listen: {(everywhere or [bus.broker_ip])[0]} has broker_ip {bus.broker_ip} in it: set broker_ip to "
                "ipc:///run/raspy, or list the other addresses"
            )
        if bus.broker_ip.startswith("ipc://"):
            directory = bus.broker_ip.removeprefix("ipc://")
            if not os.path.isdir(directory):
                raise ConfigError(f"broker_ip: there is no directory {directory}: make it, or set another one")

    def check_free(self, bus: BusConfig) -> None:
        for offset in range(PORTS):
            for address in (bus.broker_ip, *self.listen):
                try_address(address, bus.broker_port, offset)


def check_address(broker_ip: str) -> None:
    """Refuse to listen where strangers could speak to the broker.

    :raises ConfigError: the address is neither loopback nor a directory of sockets
    """
    if not is_local(broker_ip):
        raise ConfigError(
            f"broker_ip: the broker will not listen on {broker_ip!r}: there is no encryption there, so it is for "
            "this machine, as ipc:///run/raspy or 127.0.0.1; other machines reach the broker at the addresses of "
            "listen in [broker], with the keys that `raspy keys` makes"
        )


def try_address(broker_ip: str, broker_port: int, offset: int) -> None:
    """Whether one of the broker's sockets could be bound now. A plain socket is taken for it, with libzmq's option.

    :raises ConfigError: as :func:`bind` does
    """
    address = endpoint(broker_ip, broker_port, offset)
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
            if error.errno == errno.EADDRNOTAVAIL and not is_local(broker_ip):
                return  # it may come yet, and the broker waits for it
            raise _refusal(address, broker_port + offset, error.errno or 0) from error


def bind(zsocket: zmq.Socket[bytes], broker_ip: str, broker_port: int, offset: int) -> None:
    """Bind one of the broker's sockets.

    :raises ConfigError: the address is taken or cannot be used; the message says what to do
    """
    address = endpoint(broker_ip, broker_port, offset)
    if address.startswith("ipc://"):
        _bind_ipc(zsocket, address)
        return
    if address.startswith("tcp://["):
        zsocket.setsockopt(zmq.IPV6, 1)
    try:
        zsocket.bind(address)
    except zmq.ZMQError as error:
        raise _refusal(address, broker_port + offset, error.errno or 0) from error


def endpoint(broker_ip: str, broker_port: int, offset: int) -> str:
    """The ZeroMQ address of one of the broker's sockets, to bind."""
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
