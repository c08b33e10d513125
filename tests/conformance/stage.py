"""The actors of a check: clients and workers on raw DEALER sockets, all driven by one thread.

Every wait of a check goes through `Stage.until`, which receives for all actors and sends the heartbeats that
are due, so a worker that is meant to be alive stays alive whatever the check waits for.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

import zmq

from tests.conformance.registry import CheckFailed, Unanswered

CLIENT = b"MDPC01"
WORKER = b"MDPW01"
READY, REQUEST, REPLY, HEARTBEAT, DISCONNECT = b"\x01", b"\x02", b"\x03", b"\x04", b"\x05"
COMMANDS = {
    READY: "READY",
    REQUEST: "REQUEST",
    REPLY: "REPLY",
    HEARTBEAT: "HEARTBEAT",
    DISCONNECT: "DISCONNECT",
}


@dataclass(frozen=True)
class Target:
    """The broker under test. All times are in seconds.

    `interval` and `liveness` are the broker's own heartbeat settings; `patience` is how long an answer may
    take; `grace` how long to listen for a message that must not come; `request_expiry` after how long the
    broker drops a request that nobody took, 0 when not known.
    """

    endpoint: str
    interval: float = 2.5
    liveness: int = 3
    patience: float = 5.0
    grace: float = 0.3
    request_expiry: float = 0.0

    @property
    def expiry(self) -> float:
        """After how long a silent worker must be gone, with an allowance for the broker's own timer."""
        return self.interval * (self.liveness + 1.5) + 0.2


def show(frames: list[bytes]) -> str:
    """Frames for a message to the reader, cut short."""
    parts = [repr(f[:24]) + ("…" if len(f) > 24 else "") for f in frames[:8]]
    return "[" + ", ".join(parts) + (f", … {len(frames)} frames" if len(frames) > 8 else "") + "]"


def unique(prefix: str = "svc") -> bytes:
    """A service name that no other check uses."""
    return f"{prefix}-{os.urandom(6).hex()}".encode()


@dataclass(frozen=True)
class Request:
    """A REQUEST as a worker got it."""

    client: bytes
    body: list[bytes]


@dataclass(frozen=True)
class Reply:
    """A REPLY as a client got it."""

    service: bytes
    body: list[bytes]


class Peer:
    """A DEALER socket; `inbox` holds what came and was not yet looked at, `log` everything that ever came."""

    def __init__(self, stage: Stage, identity: bytes | None = None) -> None:
        self.stage = stage
        self.socket: zmq.Socket[bytes] = stage.context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.sndhwm = self.socket.rcvhwm = 0
        if identity is not None:
            self.socket.setsockopt(zmq.IDENTITY, identity)
        self.socket.connect(stage.target.endpoint)
        self.log: list[list[bytes]] = []

    def send(self, *frames: bytes) -> None:
        """Send frames as they are: the caller adds the empty first frame, or does not."""
        self.socket.send_multipart(frames)

    def receive(self) -> None:
        """Take in what has arrived, up to a bound, so that no peer starves the others."""
        for _ in range(256):
            try:
                frames = self.socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            self.log.append(frames)
            self.take(frames)

    def take(self, frames: list[bytes]) -> None:
        """Sort in one message; the base class only keeps it."""

    def beat(self, now: float) -> None:
        """Send a heartbeat if one is due; only workers do."""

    def close(self) -> None:
        """Die: close the socket without a word to the broker."""
        if self in self.stage.peers:
            self.stage.peers.remove(self)
        self.socket.close(linger=0)


class Client(Peer):
    """MDP/Client on a DEALER socket. A message that is no REPLY fails the check at once."""

    def __init__(self, stage: Stage, identity: bytes | None = None) -> None:
        super().__init__(stage, identity)
        self.replies: deque[Reply] = deque()

    def take(self, frames: list[bytes]) -> None:
        if len(frames) < 4 or frames[0] or frames[1] != CLIENT:
            raise CheckFailed(f"a client got {show(frames)}, which is no REPLY")
        self.replies.append(Reply(frames[2], frames[3:]))

    def request(self, service: bytes, *body: bytes) -> None:
        """Send a REQUEST."""
        self.send(b"", CLIENT, service, *body)

    def reply(self, patience: float | None = None) -> Reply:
        """The next REPLY; CheckFailed when none comes in time."""
        if not self.stage.until(lambda: bool(self.replies), patience):
            raise CheckFailed("the client got no reply")
        return self.replies.popleft()

    def ask(self, service: bytes, *body: bytes) -> list[bytes]:
        """Send a REQUEST and return the body of its REPLY, which must name the same service."""
        self.request(service, *body)
        reply = self.reply()
        if reply.service != service:
            raise CheckFailed(f"the reply names service {reply.service!r}, asked was {service!r}")
        return reply.body


class Worker(Peer):
    """MDP/Worker on a DEALER socket. It sends heartbeats by itself while `beating`, replies while `echo`."""

    def __init__(self, stage: Stage, identity: bytes | None = None) -> None:
        super().__init__(stage, identity)
        self.requests: deque[Request] = deque()
        self.beats: list[float] = []
        self.disconnects = 0
        self.after_disconnect: list[list[bytes]] = []
        self.strange: list[list[bytes]] = []
        self.beating = False
        self.echo = False
        self.next_beat = 0.0

    def take(self, frames: list[bytes]) -> None:
        if self.disconnects:
            self.after_disconnect.append(frames)
            return
        if frames[:2] != [b"", WORKER] or len(frames) < 3:
            self.strange.append(frames)
        elif frames[2] == HEARTBEAT and len(frames) == 3:
            self.beats.append(time.monotonic())
        elif frames[2] == DISCONNECT and len(frames) == 3:
            self.disconnects += 1
            self.beating = False
        elif frames[2] == REQUEST and len(frames) >= 6 and frames[4] == b"":
            request = Request(frames[3], frames[5:])
            if self.echo:
                self.reply(request, *request.body)
            else:
                self.requests.append(request)
        else:
            self.strange.append(frames)

    def beat(self, now: float) -> None:
        if self.beating and now >= self.next_beat:
            self.heartbeat()

    def command(self, code: bytes, *frames: bytes) -> None:
        """Send any command."""
        self.send(b"", WORKER, code, *frames)

    def ready(self, service: bytes) -> Worker:
        """Register and begin to send heartbeats."""
        self.command(READY, service)
        self.beating = True
        self.next_beat = time.monotonic() + self.stage.target.interval / 2
        return self

    def heartbeat(self) -> None:
        """Send a HEARTBEAT now."""
        self.command(HEARTBEAT)
        self.next_beat = time.monotonic() + self.stage.target.interval / 2

    def disconnect(self) -> None:
        """Send a DISCONNECT and stop the heartbeats."""
        self.command(DISCONNECT)
        self.beating = False

    def reply(self, request: Request, *body: bytes) -> None:
        """Send the REPLY to a request."""
        self.command(REPLY, request.client, b"", *body)

    def request(self, patience: float | None = None) -> Request:
        """The next REQUEST; CheckFailed when none comes in time."""
        if not self.stage.until(lambda: bool(self.requests), patience):
            also = f" (but {show(self.strange[0])})" if self.strange else ""
            also = also or (" (but DISCONNECT)" if self.disconnects else "")
            raise CheckFailed("the worker got no request" + also)
        return self.requests.popleft()

    def wait_disconnect(self) -> None:
        """Wait for the DISCONNECT of the broker; CheckFailed when none comes in time."""
        if not self.stage.until(lambda: self.disconnects > 0, min(self.stage.target.patience, 2.0)):
            raise CheckFailed("the worker got no DISCONNECT")


class Stage:
    """All actors of one check; use it as a context manager."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.context.max_sockets = 4096
        self.peers: list[Peer] = []

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.context.destroy(linger=0)

    def client(self, identity: bytes | None = None) -> Client:
        """A new client."""
        client = Client(self, identity)
        self.peers.append(client)
        return client

    def worker(self, service: bytes | None = None, identity: bytes | None = None) -> Worker:
        """A new worker, which has sent READY if a service is given; the broker may not have read it yet."""
        worker = Worker(self, identity)
        self.peers.append(worker)
        return worker.ready(service) if service is not None else worker

    def until(self, condition: Callable[[], bool], patience: float | None = None) -> bool:
        """Run the actors until `condition` holds (True) or the time is over (False)."""
        end = time.monotonic() + (self.target.patience if patience is None else patience)
        poller = zmq.Poller()
        for peer in self.peers:
            poller.register(peer.socket, zmq.POLLIN)
        while not condition():
            now = time.monotonic()
            if now >= end:
                return False
            for peer in self.peers:
                peer.beat(now)
            events = dict(poller.poll(int(max(1.0, min(20.0, (end - now) * 1000)))))
            for peer in self.peers:
                if peer.socket in events:
                    peer.receive()
        return True

    def listen(self, seconds: float | None = None) -> None:
        """Run the actors for a time in which something must not happen (or must go on happening)."""
        self.until(lambda: False, self.target.grace if seconds is None else seconds)

    def idle_workers(self, service: bytes, count: int = 1) -> list[Worker]:
        """`count` workers of `service`, known to be registered and idle, the one idle for longest first.

        READY has no response, so each worker is proved by a request that it holds until all of them have one.
        """
        client = self.client()
        held = []
        for _ in range(count):
            worker = self.worker(service)
            client.request(service, b"prove")
            held.append((worker, worker.request()))
        for worker, request in held:
            worker.reply(request, b"proved")
            client.reply()
        client.close()
        return [worker for worker, _ in held]

    def idle_worker(self, service: bytes) -> Worker:
        """One worker of `service`, known to be registered and idle."""
        return self.idle_workers(service)[0]

    def busy_worker(self, service: bytes, client: Client, *body: bytes) -> tuple[Worker, Request]:
        """A worker of `service` and the request of `client` that it holds."""
        worker = self.worker(service)
        client.request(service, *(body or (b"work",)))
        return worker, worker.request()

    def registered(self, service: bytes) -> bytes:
        """What `mmi.service` says about a name: b'200' or b'404'."""
        client = self.client()
        try:
            return client.ask(b"mmi.service", service)[-1]
        finally:
            client.close()

    def settle(self, service: bytes) -> None:
        """Wait until the broker has taken notice that `service` lost its last worker.

        Asks 8/MMI, and gives up after a second: a broker may not have it or may not do it right.
        """
        end = time.monotonic() + 1.0
        client = self.client()
        while time.monotonic() < end:
            client.request(b"mmi.service", service)
            if self.until(lambda: bool(client.replies), 0.5) and client.replies.popleft().body[-1:] == [b"404"]:
                break
            self.listen(0.02)
        client.close()

    def probe(self, patience: float | None = None) -> None:
        """A round trip of a fresh client through a fresh worker; CheckFailed when it does not come back."""
        service = unique("probe")
        worker, client = self.worker(service), self.client()
        worker.echo = True
        client.request(service, b"alive?")
        answered = self.until(lambda: bool(client.replies), patience)
        client.close()
        worker.close()
        if not answered:
            raise Unanswered("a bystander got no reply")
        if client.replies[0].body != [b"alive?"]:
            raise CheckFailed("a bystander got a wrong reply")
