"""The connections that come from other machines: how many wait to be let in, and what they send without an end.

libzmq bounds neither: it keeps every connection until its handshake is over or timed out, and the frames of a message
until the last one has come. So its monitors are listened to, and what is too much is shut down at the kernel.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from time import monotonic

import zmq

from raspy.common.curve import HANDSHAKE
from raspy.common.executive import Socket

MOST_WAITING = 256
"""Connections of one address that have not said yet who they are."""
MOST_STRANGERS = 1024
"""The same, of all addresses."""
MOST_CONNECTIONS = 4096
UNFINISHED = 8 << 20
"""Bytes that a connection may send without a whole message..."""
ALL_UNFINISHED = 32 << 20
"""...and all of them together."""
BYTES_RECEIVED = struct.Struct("=128xQ")
"""``tcpi_bytes_received`` in the kernel's ``struct tcp_info`` (linux/tcp.h)."""

TOO_MANY = "too many connections at a time that do not say who they are"
TOO_MUCH = "a message without an end"


def monitor(zsocket: Socket, events: int) -> Socket:
    """Have a socket's events. Its queue has no bound: with one libzmq's thread would wait for room in it, with a lock
    that ``bind`` and ``close`` on the loop want as well, and the loop would never read it again."""
    address = f"inproc://monitor-{os.urandom(8).hex()}"
    zsocket.monitor(address, events)
    made: Socket = zsocket.context.socket(zmq.PAIR)
    made.linger = 0
    made.rcvhwm = 0
    made.connect(address)
    return made


class Caller:
    """A connection from another machine."""

    __slots__ = ("address", "mark", "peer", "since")

    def __init__(self, peer: tuple[object, ...]) -> None:
        self.peer = peer
        """Address and port at its other end."""
        self.address = plain(str(peer[0]))
        self.since = monotonic()
        self.mark = 0
        """Bytes that it had sent when its last message came."""


class Callers:
    """All connections from other machines.

    :param complain: called with an address and what is wrong with it
    """

    def __init__(self, complain: Callable[[str, str], None]) -> None:
        self._complain = complain
        self.all: dict[int, Caller] = {}
        """By their descriptors, which are libzmq's."""
        self._waiting: dict[str, dict[int, Caller]] = {}
        """Those that may not be let in yet, by address; the last that came is at the end."""
        self._waits = 0
        self._spoke: set[int] = set()
        """Descriptors of those by which a message came since they were last looked at."""

    def accepted(self, descriptor: int) -> None:
        """Note a new connection; one too many is ended."""
        self.gone(descriptor)
        caller = self.all[descriptor] = Caller(_peer_of(descriptor))
        waiting = self._waiting.setdefault(caller.address, {})
        waiting[descriptor] = caller
        self._waits += 1
        if len(waiting) > MOST_WAITING or self._waits > MOST_STRANGERS:
            self._forget_settled()
        if len(waiting) > MOST_WAITING or self._waits > MOST_STRANGERS or len(self.all) > MOST_CONNECTIONS:
            _end(descriptor, caller)
            self._complain(caller.address, TOO_MANY)

    def settled(self, address: str) -> None:
        """Of a connection it was decided whether it is let in: the last one, as that takes milliseconds."""
        waiting = self._waiting.get(plain(address))
        if waiting:
            descriptor = next(reversed(waiting))
            self._settle(descriptor, waiting[descriptor])

    def gone(self, descriptor: int) -> tuple[str, bool]:
        """Forget a connection; answers its address, empty when it was gone too soon, and whether it was not let in."""
        caller = self.all.pop(descriptor, None)
        self._spoke.discard(descriptor)
        if caller is None:
            return "", False
        return caller.address, self._settle(descriptor, caller) and monotonic() - caller.since < HANDSHAKE / 1000 + 1

    def spoke(self, descriptor: int) -> None:
        """Note that a message came by a connection."""
        self._spoke.add(descriptor)

    def look(self) -> None:
        """End the connections that have sent too much without the end of a message."""
        unfinished: list[tuple[int, int]] = []
        spoke, self._spoke = self._spoke, set()
        for descriptor, caller in list(self.all.items()):
            received = _received(descriptor, caller)
            if received < 0:
                if descriptor not in self._waiting.get(caller.address, ()):
                    self.gone(descriptor)
            elif descriptor in spoke:
                caller.mark = received
            elif received > caller.mark:
                unfinished.append((received - caller.mark, descriptor))
        unfinished.sort()
        total = sum(size for size, _ in unfinished)
        while unfinished and (unfinished[-1][0] > UNFINISHED or total > ALL_UNFINISHED):
            size, descriptor = unfinished.pop()
            total -= size
            caller = self.all[descriptor]
            _end(descriptor, caller)
            self._complain(caller.address, TOO_MUCH)

    def _settle(self, descriptor: int, caller: Caller) -> bool:
        waiting = self._waiting.get(caller.address)
        if waiting is None or waiting.pop(descriptor, None) is None:
            return False
        self._waits -= 1
        if not waiting:
            del self._waiting[caller.address]
        return True

    def _forget_settled(self) -> None:
        """Whoever is still there after the time for a handshake was let in."""
        before = monotonic() - HANDSHAKE / 1000 - 1
        for waiting in list(self._waiting.values()):
            for descriptor, caller in list(waiting.items()):
                if caller.since > before:
                    break
                self._settle(descriptor, caller)


def plain(address: str) -> str:
    """An address without the interface of IPv6."""
    return address.partition("%")[0]


def _peer_of(descriptor: int) -> tuple[object, ...]:
    """The other end of a connection of libzmq's; an empty address when it is gone already."""
    try:
        with socket.socket(fileno=os.dup(descriptor)) as connection:
            peer = connection.getpeername()
    except OSError:
        return ("",)
    return peer if isinstance(peer, tuple) else ("",)


def _end(descriptor: int, caller: Caller) -> None:
    """Shut a connection down; libzmq then closes it. The descriptor may be another's by now: that one stays."""
    try:
        with socket.socket(fileno=os.dup(descriptor)) as connection:
            if connection.getpeername() == caller.peer:
                connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it is gone


def _received(descriptor: int, caller: Caller) -> int:
    """Bytes that a connection has received since its beginning, 0 where the kernel does not say; -1: it is gone."""
    try:
        with socket.socket(fileno=os.dup(descriptor)) as connection:
            if connection.getpeername() != caller.peer:
                return -1
            about = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, BYTES_RECEIVED.size)
    except OSError:
        return -1
    return int(BYTES_RECEIVED.unpack(about)[0]) if len(about) == BYTES_RECEIVED.size else 0
