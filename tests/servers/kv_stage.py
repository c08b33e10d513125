"""A Proxy, publishers and subscribers over real sockets, turned by the test's own hand: no threads, no sleeping."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import zmq

from raspy.common import MDP
from raspy.common.config import ConfigError
from raspy.common.executive import Executive
from raspy.common.kvpublisher import KvPublisher
from raspy.common.kvsimple import pack
from raspy.servers.broker.proxy import Proxy
from raspy.servers.broker.settings import BrokerConfig

LIMIT = 30.0
READING = b'{"value": 21.5, "unit": "C", "time": 1700000000.5, "max_age": 600, "quality": "ok"}'


class Stage:
    """Loops over one directory of sockets; the first is the Proxy's."""

    def __init__(self, directory: str) -> None:
        self.address = f"ipc://{directory}"
        self.loops: list[Executive] = []
        self.sockets: list[zmq.Socket[bytes]] = []
        self.closers: list[Callable[[], None]] = []
        """What else is to be closed with the stage."""
        self.loop = self.new_loop()
        self.proxy: Proxy | None = None

    def new_loop(self) -> Executive:
        loop = Executive(broker_ip=self.address)
        self.loops.append(loop)
        return loop

    def endpoint(self, offset: int) -> str:
        return MDP.endpoint(self.address, 5514, offset)

    def start(self, **bounds: int) -> Proxy:
        """Start a Proxy as soon as the sockets of the one before are closed."""
        deadline = time.monotonic() + LIMIT
        while True:
            proxy = Proxy(self.loop, "localhost", BrokerConfig(**bounds))
            try:
                proxy.start()
            except ConfigError:
                proxy.stop()
                assert time.monotonic() < deadline
                self.loop.turn(0.01)
            else:
                self.proxy = proxy
                return proxy

    def until(self, condition: Callable[[], object], *loops: Executive) -> None:
        """Turn the loops (or all) until the condition holds."""
        deadline = time.monotonic() + LIMIT
        while not condition():
            assert time.monotonic() < deadline, "it did not happen"
            for loop in loops or self.loops:
                loop.turn(0.001)

    def publisher(self) -> KvPublisher:
        """A publisher on a loop of its own."""
        publisher = KvPublisher(self.new_loop())
        self.closers.append(publisher.close)
        return publisher

    def connect(self, kind: int, offset: int) -> zmq.Socket[bytes]:
        """A stranger's socket; it is closed with the stage."""
        socket = self.loop.ctx.socket(kind)
        self.sockets.append(socket)
        socket.linger = 0
        socket.connect(self.endpoint(offset))
        return socket

    def publish(self, socket: zmq.Socket[bytes], *messages: list[bytes]) -> None:
        """Send from a stranger, then wait until the Proxy has handled it all."""
        assert self.proxy is not None
        marker = f"/variable/marker{time.monotonic_ns()}".encode()
        for frames in [*messages, [marker, bytes(8), b"x"]]:
            while True:
                try:
                    socket.send_multipart(frames, zmq.DONTWAIT)
                    break
                except zmq.Again:
                    self.loop.turn(0.001)
        self.until(lambda: marker in self.proxy.entries, self.loop)
        self.proxy.update(marker.decode(), b"")

    def tree(self) -> dict[str, bytes]:
        """The true tree."""
        assert self.proxy is not None
        return {key.decode(): entry.body for key, entry in self.proxy.entries.items()}


@contextmanager
def staged() -> Iterator[Stage]:
    # the path of a socket has 107 characters at most, too few for tmp_path
    directory = tempfile.mkdtemp(prefix="kv")
    stage = Stage(directory)
    try:
        yield stage
    finally:
        if stage.proxy is not None:
            stage.proxy.stop()
        for close in stage.closers:
            close()
        for socket in stage.sockets:
            socket.close()
        for loop in stage.loops:
            loop.destroy()
        shutil.rmtree(directory)


def update(key: str | bytes, body: bytes, number: bytes = pack(0)) -> list[bytes]:
    """Frames of an update."""
    return [key if isinstance(key, bytes) else key.encode(), number, body]
