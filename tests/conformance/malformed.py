"""Malformed messages: the broker drops them and serves everybody else.

7/MDP, Opening and Closing a Connection: "The broker SHOULD respond to invalid messages by dropping them and
treating that peer as invalid." Each is sent by a peer of its own; a bystander, a client and a worker, uses
the broker before and after it.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.conformance.registry import CheckFailed, Group
from tests.conformance.stage import (
    CLIENT,
    DISCONNECT,
    HEARTBEAT,
    READY,
    REPLY,
    REQUEST,
    WORKER,
    Request,
    Stage,
    show,
    unique,
)

GROUP = Group("malformed", "Malformed messages")
SOURCE = "7/MDP: SHOULD drop invalid messages"
NAME = b"malformed-service"
DISCONNECT_MESSAGE = [b"", WORKER, DISCONNECT]

#: Name of the check, what is wrong, the frames after the identity.
MESSAGES: list[tuple[str, str, list[bytes]]] = [
    ("frames.one-empty", "one empty frame", [b""]),
    ("frames.one", "one frame, not empty", [b"hello"]),
    ("frames.two-empty", "an empty frame and an empty header", [b"", b""]),
    ("frames.first", "first frame not empty", [b"x", CLIENT, NAME, b"body"]),
    ("frames.first-worker", "first frame of a worker not empty", [b"x", WORKER, READY, NAME]),
    ("frames.no-empty", "no empty first frame", [CLIENT, NAME, b"body"]),
    ("header.unknown", "unknown header", [b"", b"MDPX01", NAME, b"body"]),
    ("header.long", "a header of 64 KB", [b"", b"MDPC01" * 11000, NAME, b"body"]),
    ("client.no-service", "REQUEST without service and body", [b"", CLIENT]),
    ("client.no-body", "REQUEST without a body", [b"", CLIENT, NAME]),
    ("client.empty-service", "REQUEST for the empty service name", [b"", CLIENT, b"", b"body"]),
    ("client.mmi-no-body", "mmi.service without a body", [b"", CLIENT, b"mmi.service"]),
    ("worker.no-command", "no command", [b"", WORKER]),
    ("worker.empty-command", "an empty command", [b"", WORKER, b""]),
    ("worker.unknown-command", "an unknown command", [b"", WORKER, b"\x09", b"x"]),
    ("worker.long-command", "a command of two bytes", [b"", WORKER, b"\x01\x01", NAME]),
    ("worker.ready-no-service", "READY without a service", [b"", WORKER, READY]),
    ("worker.ready-empty-service", "READY with the empty service name", [b"", WORKER, READY, b""]),
    ("worker.reply-short", "REPLY of a stranger without an address", [b"", WORKER, REPLY]),
    ("worker.request", "REQUEST, which only a broker sends", [b"", WORKER, REQUEST, b"c", b"", b"body"]),
    ("huge.frames", "20,000 empty frames", [b""] * 20_000),
    ("huge.worker", "READY with 20,000 frames", [b"", WORKER, READY, *[NAME] * 20_000]),
    ("huge.heartbeat", "HEARTBEAT with 20,000 frames", [b"", WORKER, HEARTBEAT, *[b"x"] * 20_000]),
    ("huge.frame", "a header of 17 MB", [b"", bytes(17 << 20)]),
]

#: The same for the frames after the command that a worker sends in place of the REPLY it owes.
REPLIES: list[tuple[str, str, Callable[[Request], list[bytes]]]] = [
    ("reply.no-address", "REPLY without an address", lambda r: []),
    ("reply.no-delimiter", "REPLY that ends after the address", lambda r: [r.client]),
    ("reply.no-body", "REPLY without a body", lambda r: [r.client, b""]),
    ("reply.delimiter", "REPLY whose delimiter is not empty", lambda r: [r.client, b"x", b"body"]),
    ("reply.empty-address", "REPLY to an empty address", lambda r: [b"", b"", b"body"]),
    ("reply.unknown-address", "REPLY to an address nobody has", lambda r: [b"nobody", b"", b"body"]),
]


def _drop(frames: list[bytes]) -> Callable[[Stage], None]:
    def function(stage: Stage) -> None:
        stage.probe()
        service = unique()
        peer = stage.worker()
        peer.send(*(service if frame is NAME else frame for frame in frames))
        # A valid request on the same connection comes after the bad one, unless the broker gave the peer up.
        peer.send(b"", CLIENT, b"mmi.service", unique())
        stage.until(lambda: len(peer.log) > 0, stage.target.grace)
        stage.probe()
        worker = stage.worker(service)
        stage.client().request(service, b"valid")
        stage.until(lambda: bool(worker.requests))
        wrong = [m for m in peer.log if m != DISCONNECT_MESSAGE and m[2:3] != [b"mmi.service"]]
        if wrong:
            raise CheckFailed(f"the sender got {show(wrong[0])}")
        if not worker.requests or worker.requests[0].body != [b"valid"]:
            raise CheckFailed(f"a worker got {show(worker.log[-1]) if worker.log else 'nothing'}")

    return function


def _drop_reply(make: Callable[[Request], list[bytes]]) -> Callable[[Stage], None]:
    def function(stage: Stage) -> None:
        client = stage.client()
        worker, request = stage.busy_worker(unique(), client)
        worker.command(REPLY, *make(request))
        stage.until(lambda: bool(client.replies) or worker.disconnects > 0, stage.target.grace)
        stage.probe()
        if client.replies:
            raise CheckFailed(f"the client got {show(client.replies[0].body)}")

    return function


for _name, _what, _frames in MESSAGES:
    GROUP.add(_name, SOURCE, "SHOULD", f"The broker drops: {_what}.", _drop(_frames))
for _name, _what, _make in REPLIES:
    GROUP.add(_name, SOURCE, "SHOULD", f"The broker drops, from a busy worker: {_what}.", _drop_reply(_make))


@GROUP.check(
    "huge.body",
    "7/MDP MDP/Client",
    "MUST",
    "A request with 20,000 body frames is carried or dropped, harming nobody.",
)
def huge_body(stage: Stage) -> None:
    service, client = unique(), stage.client()
    body = [b"%d" % n for n in range(20_000)]
    worker = stage.idle_worker(service)
    client.request(service, *body)
    stage.until(lambda: bool(worker.requests), 2.0)
    if worker.requests and worker.requests[0].body != body:
        raise CheckFailed("the worker got another body")
    stage.probe()


def _random_message(rng: random.Random) -> list[bytes]:
    parts = [
        b"",
        b"",
        CLIENT,
        WORKER,
        READY,
        REPLY,
        REQUEST,
        HEARTBEAT,
        DISCONNECT,
        NAME,
        b"mmi.",
        b"mmi.service",
    ]
    frames = [
        rng.choice(parts) if rng.random() < 0.8 else rng.randbytes(rng.randrange(64))
        for _ in range(rng.randrange(1, 9))
    ]
    if rng.random() < 0.7:
        frames[:2] = [b"", rng.choice((CLIENT, WORKER))]
    return frames


@GROUP.check("random", SOURCE, "SHOULD", "2,000 messages of random frames from 20 peers harm nobody.", settle=True)
def random_messages(stage: Stage) -> None:
    rng = random.Random(7)
    peers = [stage.worker() for _ in range(20)]
    for n in range(2000):
        rng.choice(peers).send(*_random_message(rng))
        if n % 200 == 0:
            stage.probe()
    stage.probe()
