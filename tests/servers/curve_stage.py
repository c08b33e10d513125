"""A broker with a door: its files, an address of loopback in the place of the LAN's, and hosts with keys."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import zmq

from raspy.cli.keys import Place
from raspy.common import MDP
from raspy.common.curve import KeyPair, read_file
from raspy.common.kvsimple import ICANHAZ, KTHXBAI, pack
from tests.bus import BASE, Bus, eventually
from tests.support_devices import LIMIT, short_directory

READING = b'{"value": 21.5, "unit": "C", "time": 1700000000.5, "max_age": 600, "quality": "ok"}'


def own_address() -> str:
    """An address of this machine that no other test listens on."""
    return "127." + ".".join(str(random.randint(2, 250)) for _ in range(3))


class Lan(Bus):
    """A broker on a thread that is reached over files and over an address."""

    def __init__(self, directory: str, keys: str, **settings: Any) -> None:
        self.keys = keys
        self.place = Place(keys)
        self.broker_key = self.place.init()["broker_key"]
        self.lan = own_address()
        super().__init__(directory, listen=[self.lan], **settings)

    def new(self, host: str) -> KeyPair:
        """Make a key for a host, and have the broker look."""
        made = read_file(self.place.new(host)["secret"])
        self.look()
        return made

    def revoke(self, host: str, old: bool = False) -> None:
        """Revoke a host's keys, and have the broker look."""
        self.place.revoke(host, old)
        self.look()

    def look(self) -> None:
        """Have the broker look at its list."""
        self.call(lambda broker: broker.reload())

    def connect(self, kind: int, offset: int, pair: KeyPair | None, server: str | None = None) -> zmq.Socket[bytes]:
        """A connection over the LAN with a key, or without any."""
        socket: zmq.Socket[bytes] = self.stage.context.socket(kind)
        self._dealers.append(socket)
        socket.linger = 0
        socket.reconnect_ivl = 20
        if pair is not None:
            socket.curve_serverkey = (server or self.broker_key).encode()
            socket.curve_publickey = pair.public.encode()
            socket.curve_secretkey = pair.secret.encode()
        if kind == zmq.SUB:
            socket.subscribe(b"")
        socket.connect(MDP.endpoint(self.lan, BASE, offset))
        return socket

    def local(self, kind: int, offset: int) -> zmq.Socket[bytes]:
        """A connection over files."""
        socket: zmq.Socket[bytes] = self.stage.context.socket(kind)
        self._dealers.append(socket)
        socket.linger = 0
        socket.connect(MDP.endpoint(self.ip, BASE, offset))
        return socket

    def entries(self) -> dict[str, bytes]:
        """What stands on the tree of devices and events, but those of servers."""
        return self.call(
            lambda broker: {
                key.decode(): entry.body
                for key, entry in broker.proxy.entries.items()
                if not key.startswith((b"/server/", b"/event/server/"))
            }
        )


def ask(socket: zmq.Socket[bytes], service: bytes, *body: bytes, limit: float = LIMIT) -> list[bytes] | None:
    """The reply to a request; None when there is none."""
    socket.send_multipart([b"", MDP.C_CLIENT, service, *body])
    return socket.recv_multipart()[3:] if socket.poll(int(limit * 1000)) else None


def register(socket: zmq.Socket[bytes], service: bytes) -> None:
    """Register a worker."""
    socket.send_multipart([b"", MDP.W_WORKER, MDP.W_READY, service])


def request_of(socket: zmq.Socket[bytes]) -> list[bytes]:
    """The next request that a worker gets: client, body."""
    while True:
        assert socket.poll(int(LIMIT * 1000)), "no request"
        frames = socket.recv_multipart()
        if frames[2] == MDP.W_REQUEST:
            return [frames[3], *frames[5:]]


def answer(socket: zmq.Socket[bytes], client: bytes, *body: bytes) -> None:
    """A worker's reply."""
    socket.send_multipart([b"", MDP.W_WORKER, MDP.W_REPLY, client, b"", *body])


def snapshot(socket: zmq.Socket[bytes], limit: float = LIMIT) -> dict[bytes, bytes] | None:
    """A snapshot of everything; None when there is none."""
    socket.send_multipart([ICANHAZ, b""])
    found: dict[bytes, bytes] = {}
    while socket.poll(int(limit * 1000)):
        key, _, body = socket.recv_multipart()
        if key == KTHXBAI:
            return found
        found[key] = body
    return None


def publish(socket: zmq.Socket[bytes], key: str, body: bytes = READING) -> None:
    """Send an update."""
    socket.send_multipart([key.encode(), pack(0), body])


def hears(socket: zmq.Socket[bytes], key: bytes, limit: float = LIMIT, meanwhile: Callable[[], Any] = int) -> bool:
    """Whether a subscriber hears of a key in time."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        meanwhile()
        while socket.poll(20):
            if socket.recv_multipart()[0] == key:
                return True
    return False


def lines(caplog: pytest.LogCaptureFixture, text: str = "refused: ") -> list[str]:
    """What the door has logged."""
    return [
        record.getMessage() for record in caplog.records if record.name == "raspy.door" and text in record.getMessage()
    ]


@contextmanager
def running_lan(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Iterator[Lan]:
    """A :class:`Lan` for the length of a test."""
    with short_directory() as directory:
        keys = os.path.join(directory, "keys")
        monkeypatch.setenv("RASPY_KEYS", keys)
        lan = Lan(directory, keys, **settings)
        try:
            yield lan
        finally:
            lan.close()


__all__ = ["LIMIT", "Lan", "ask", "eventually", "running_lan"]
