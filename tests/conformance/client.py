"""MDP/Client: requests and replies as a client sees them."""

from __future__ import annotations

from collections import Counter

from tests.conformance.registry import CheckFailed, Group, NotApplicable
from tests.conformance.stage import Stage, show, unique

GROUP = Group("client", "7/MDP, MDP/Client")


def _carried(stage: Stage, *body: bytes) -> None:
    """Check that a body comes unchanged to the worker, and unchanged back."""
    service = unique()
    client = stage.client()
    worker, request = stage.busy_worker(service, client, *body)
    if request.body != list(body):
        raise CheckFailed(f"sent {show(list(body))}, the worker got {show(request.body)}")
    worker.reply(request, *body)
    reply = client.reply()
    if reply.body != list(body):
        raise CheckFailed(f"sent {show(list(body))}, the client got {show(reply.body)}")


@GROUP.check(
    "echo",
    "7/MDP MDP/Client",
    "MUST",
    "A request reaches a worker; the client gets '', MDPC01, service, body.",
)
def echo(stage: Stage) -> None:
    service = unique()
    client = stage.client()
    worker, request = stage.busy_worker(service, client, b"question")
    worker.reply(request, b"answer")
    reply = client.reply()
    if (reply.service, reply.body) != (service, [b"answer"]):
        raise CheckFailed(f"got {show([reply.service, *reply.body])}")


@GROUP.check(
    "body.frames",
    "7/MDP MDP/Client, frames 3+",
    "MUST",
    "A body of 50 frames is carried unchanged both ways.",
)
def body_frames(stage: Stage) -> None:
    _carried(stage, *(b"part %d" % n for n in range(50)))


@GROUP.check(
    "body.empty",
    "7/MDP MDP/Client, frames 3+",
    "MUST",
    "Empty frames in a body are kept, first, last or all.",
)
def body_empty(stage: Stage) -> None:
    _carried(stage, b"")
    _carried(stage, b"", b"", b"x", b"", b"")


@GROUP.check(
    "body.binary",
    "7/MDP MDP/Client, frames 3+",
    "MUST",
    "A body is opaque: any byte, even what looks like MDP.",
)
def body_binary(stage: Stage) -> None:
    _carried(stage, bytes(range(256)))
    _carried(stage, b"", b"MDPW01", b"\x05")
    _carried(stage, b"MDPC01", b"mmi.service", b"\xff\xfe", b"\x00" * 16)


@GROUP.check("body.1mb", "7/MDP MDP/Client, frames 3+", "MUST", "A body of 1 MB in one frame is carried unchanged.")
def body_large(stage: Stage) -> None:
    _carried(stage, bytes(range(256)) * 4096)


@GROUP.check(
    "service.exact",
    "7/MDP MDP/Client, frame 2",
    "MUST",
    "A request goes only to workers of exactly its service.",
)
def service_exact(stage: Stage) -> None:
    service = unique("Name")
    worker = stage.idle_worker(service)
    client = stage.client()
    for other in (service + b" ", service[:-1], service + b"x", service.lower()):
        client.request(other, b"not for you")
    if stage.until(lambda: bool(worker.requests), stage.target.grace):
        raise CheckFailed(f"a worker of {service!r} got a request for another service")
    client.request(service, b"for you")
    if worker.request().body != [b"for you"]:
        raise CheckFailed(f"a worker of {service!r} got a request for another service")


@GROUP.check("service.nul", "docs/protocol MDP", "ours", "A name with a zero byte is not taken for the name before it.")
def service_nul(stage: Stage) -> None:
    service = unique()
    worker, client = stage.idle_worker(service), stage.client()
    client.request(service + b"\x00x", b"not for you")
    if stage.until(lambda: bool(worker.requests), stage.target.grace):
        raise CheckFailed(f"a worker of {service!r} got the request for {service + b'-'!r}, where - is a zero byte")


@GROUP.check(
    "service.bytes",
    "7/MDP MDP/Client, frame 2",
    "SHOULD",
    "A name that is not UTF-8 is carried as it is, or refused.",
)
def service_bytes(stage: Stage) -> None:
    service = b"\xff\xfe\xe9" + unique()
    worker, client = stage.worker(service), stage.client()
    worker.echo = True
    client.request(service, b"x")
    if stage.until(lambda: bool(client.replies) or worker.disconnects > 0, 1.0) and client.replies:
        reply = client.replies.popleft()
        if reply.service != service:
            raise CheckFailed(f"asked {service!r}, the reply names {reply.service!r}")


@GROUP.check(
    "identity.bytes",
    "7/MDP ROUTER Addressing",
    "MUST",
    "Identities are opaque: binary ones of 1 and 255 bytes work.",
)
def identity_bytes(stage: Stage) -> None:
    long = b"\xff\xfe\xe9\x00/../" + bytes(range(1, 248))
    for identity in (b"\xf0", long):
        service = unique()
        worker, client = (
            stage.worker(service, identity=identity),
            stage.client(identity[::-1] + b"!"[: 255 - len(identity)]),
        )
        worker.echo = True
        if client.ask(service, b"x") != [b"x"]:
            raise CheckFailed(f"identity {identity[:8]!r} of {len(identity)} bytes: wrong reply")


@GROUP.check("queue", "7/MDP MDP/Client", "SHOULD", "Requests for a service without a worker wait for it, in order.")
def queue(stage: Stage) -> None:
    service, client = unique(), stage.client()
    for n in range(20):
        client.request(service, b"%d" % n)
    stage.listen()
    worker = stage.worker(service)
    worker.echo = True
    got = [client.reply().body for _ in range(20)]
    if got != [[b"%d" % n] for n in range(20)]:
        raise CheckFailed("the replies came in another order")


@GROUP.check("pipeline", "7/MDP MDP/Client (DEALER)", "MUST", "1,000 requests sent without waiting: one reply each.")
def pipeline(stage: Stage) -> None:
    service = unique()
    worker, client = stage.idle_worker(service), stage.client()
    worker.echo = True
    for n in range(1000):
        client.request(service, b"%d" % n)
    stage.until(lambda: len(client.replies) >= 1000, stage.target.patience * 4)
    stage.listen(0.1)
    counts = Counter(reply.body[0] for reply in client.replies)
    if len(client.replies) != 1000 or len(counts) != 1000:
        raise CheckFailed(f"{len(client.replies)} replies to {len(counts)} of 1000 requests")


@GROUP.check(
    "own-replies",
    "7/MDP ROUTER Addressing",
    "MUST",
    "50 clients with 20 requests each: each gets exactly its own.",
)
def own_replies(stage: Stage) -> None:
    service = unique()
    for worker in stage.idle_workers(service, 4):
        worker.echo = True
    clients = [stage.client() for _ in range(50)]
    for n in range(20):
        for who, client in enumerate(clients):
            client.request(service, b"%d" % who, b"%d" % n)
    stage.until(lambda: all(len(client.replies) >= 20 for client in clients), stage.target.patience * 4)
    stage.listen(0.1)
    for who, client in enumerate(clients):
        got = sorted(reply.body for reply in client.replies)
        if got != sorted([b"%d" % who, b"%d" % n] for n in range(20)):
            raise CheckFailed(f"client {who} got {len(got)} replies for 20 requests, or not its own")


@GROUP.check("queue.expiry", "7/MDP MDP/Client", "SHOULD", "A request that no worker took is dropped after a time.")
def queue_expiry(stage: Stage) -> None:
    seconds = stage.target.request_expiry
    if not seconds:
        raise NotApplicable("the broker's limit is not known: give --request-expiry")
    service, client = unique(), stage.client()
    client.request(service, b"old")
    stage.listen(seconds + stage.target.interval + stage.target.grace)
    worker = stage.worker(service)
    client.request(service, b"new")
    if worker.request().body != [b"new"]:
        raise CheckFailed(f"the request was still delivered after {seconds:g} s")
