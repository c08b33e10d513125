"""MDP/Worker: registration, commands out of turn, and replies that nobody asked for."""

from __future__ import annotations

from tests.conformance.registry import CheckFailed, Group
from tests.conformance.stage import REPLY, Client, Stage, Worker, show, unique

GROUP = Group("worker", "7/MDP, MDP/Worker")
OPENING = "7/MDP Opening and Closing a Connection"
PROCESSING = "7/MDP Request and Reply Processing"


def _quiet(stage: Stage, worker: Worker, service: bytes) -> None:
    """Check that a worker that was disconnected gets nothing more, be it a heartbeat or a request."""
    client = stage.client()
    client.request(service, b"not for you")
    before = len(worker.log)
    stage.listen(max(stage.target.interval * 1.5, stage.target.grace))
    if len(worker.log) > before:
        raise CheckFailed(f"a worker that is no more got {show(worker.log[before])}")


def _disconnected(stage: Stage, worker: Worker, service: bytes) -> None:
    """Check that a worker gets one DISCONNECT and nothing more."""
    worker.wait_disconnect()
    if worker.requests or worker.after_disconnect:
        raise CheckFailed("the worker got something besides one DISCONNECT")
    _quiet(stage, worker, service)


def _unbothered(stage: Stage, victim: Client) -> None:
    """Check that a client got nothing that it did not ask for."""
    if victim.replies:
        raise CheckFailed(f"a forged reply reached a client: {show(victim.replies[0].body)}")
    if stage.until(lambda: bool(victim.replies), stage.target.grace):
        raise CheckFailed(f"a forged reply reached a client: {show(victim.replies[0].body)}")


def _victim(stage: Stage) -> tuple[Client, bytes]:
    """A client that waits for nothing, and its address."""
    client = stage.client()
    worker, request = stage.busy_worker(unique(), client)
    worker.reply(request, b"done")
    client.reply()
    return client, request.client


@GROUP.check("ready.silent", OPENING, "MUST", "There is no response to READY, nothing but heartbeats.")
def ready_silent(stage: Stage) -> None:
    worker = stage.worker(unique())
    stage.listen()
    if worker.requests or worker.disconnects or worker.strange:
        raise CheckFailed(f"READY was answered by {show(worker.log[0])}")


@GROUP.check("request.frames", PROCESSING, "MUST", "REQUEST is '', MDPW01, 0x02, one client address, '', body.")
def request_frames(stage: Stage) -> None:
    address = b"\xf1client-" + unique()
    client = stage.client(address)
    worker, request = stage.busy_worker(unique(), client, b"a", b"b")
    if worker.strange or request.client != address or request.body != [b"a", b"b"]:
        raise CheckFailed(f"got {show(worker.log[-1])}")


@GROUP.check(
    "one-at-a-time",
    "7/MDP Overall Topology",
    "goal",
    "A worker gets no second request before it has replied.",
)
def one_at_a_time(stage: Stage) -> None:
    service, client = unique(), stage.client()
    worker, request = stage.busy_worker(service, client)
    for _ in range(5):
        client.request(service, b"more")
    if stage.until(lambda: bool(worker.requests), stage.target.grace):
        raise CheckFailed("a second request came before the reply to the first")
    worker.reply(request, b"done")
    worker.request()


@GROUP.check("services", OPENING, "MUST", "Each worker gets the requests of its own service, and only those.")
def services(stage: Stage) -> None:
    names = [unique() for _ in range(4)]
    workers = [stage.idle_worker(name) for name in names]
    client = stage.client()
    for name in names:
        client.request(name, name)
    for name, worker in zip(names, workers, strict=True):
        if worker.request().body != [name]:
            raise CheckFailed("a worker got the request of another service")


@GROUP.check(
    "ready.twice-idle",
    OPENING,
    "MUST",
    "A second READY from an idle worker gets DISCONNECT and nothing more.",
    True,
)
def ready_twice_idle(stage: Stage) -> None:
    service = unique()
    worker = stage.idle_worker(service)
    worker.ready(service)
    _disconnected(stage, worker, service)


@GROUP.check(
    "ready.twice-busy",
    OPENING,
    "MUST",
    "A second READY from a busy worker gets DISCONNECT and nothing more.",
    True,
)
def ready_twice_busy(stage: Stage) -> None:
    service = unique()
    worker, _ = stage.busy_worker(service, stage.client())
    worker.ready(service)
    _disconnected(stage, worker, service)


@GROUP.check(
    "ready.other",
    OPENING,
    "MUST",
    "READY for another service gets DISCONNECT: one worker has one service.",
    True,
)
def ready_other(stage: Stage) -> None:
    service, other = unique(), unique()
    worker = stage.idle_worker(service)
    worker.ready(other)
    _disconnected(stage, worker, other)


@GROUP.check(
    "heartbeat.stranger",
    "7/MDP Heartbeating",
    "MUST",
    "HEARTBEAT before READY gets DISCONNECT and nothing more.",
    True,
)
def heartbeat_stranger(stage: Stage) -> None:
    worker = stage.worker()
    worker.heartbeat()
    _disconnected(stage, worker, unique())


@GROUP.check("reply.stranger", OPENING, "MUST", "REPLY before READY gets DISCONNECT and reaches no client.", True)
def reply_stranger(stage: Stage) -> None:
    victim, address = _victim(stage)
    worker = stage.worker()
    worker.command(REPLY, address, b"", b"forged")
    worker.wait_disconnect()
    _unbothered(stage, victim)


@GROUP.check("reply.idle", OPENING, "MUST", "REPLY from an idle worker gets DISCONNECT and nothing more.", True)
def reply_idle(stage: Stage) -> None:
    _, address = _victim(stage)
    service = unique()
    worker = stage.idle_worker(service)
    worker.command(REPLY, address, b"", b"forged")
    _disconnected(stage, worker, service)


@GROUP.check(
    "forged.idle",
    "docs/protocol MDP",
    "ours",
    "A reply that nobody asked for, from an idle worker, reaches no client.",
)
def forged_idle(stage: Stage) -> None:
    victim, address = _victim(stage)
    stage.idle_worker(unique()).command(REPLY, address, b"", b"forged")
    _unbothered(stage, victim)


@GROUP.check(
    "forged.busy",
    "docs/protocol MDP",
    "ours",
    "A worker cannot reply to another client than that of its request.",
)
def forged_busy(stage: Stage) -> None:
    victim, address = _victim(stage)
    worker, _ = stage.busy_worker(unique(), stage.client())
    worker.command(REPLY, address, b"", b"forged")
    _unbothered(stage, victim)


@GROUP.check("forged.other", "docs/protocol MDP", "ours", "A worker cannot answer a request that another worker holds.")
def forged_other(stage: Stage) -> None:
    client = stage.client()
    worker, request = stage.busy_worker(unique(), client)
    stage.idle_worker(unique()).command(REPLY, request.client, b"", b"forged")
    _unbothered(stage, client)
    worker.reply(request, b"true")
    if client.reply().body != [b"true"]:
        raise CheckFailed("the true reply did not come first")


@GROUP.check("forged.twice", "docs/protocol MDP", "ours", "A second reply to the same request reaches nobody.")
def forged_twice(stage: Stage) -> None:
    client = stage.client()
    worker, request = stage.busy_worker(unique(), client)
    worker.reply(request, b"first")
    worker.reply(request, b"second")
    client.reply()
    _unbothered(stage, client)


@GROUP.check(
    "reply.gone",
    "7/MDP Reliability",
    "goal",
    "A reply to a client that has gone harms nobody; the worker goes on.",
)
def reply_gone(stage: Stage) -> None:
    service, client = unique(), stage.client()
    worker, request = stage.busy_worker(service, client)
    client.close()
    stage.listen()
    worker.reply(request, b"too late")
    worker.echo = True
    stage.client().ask(service, b"next")


@GROUP.check("disconnect.idle", OPENING, "MUST", "After DISCONNECT an idle worker gets no further command.", True)
def disconnect_idle(stage: Stage) -> None:
    service = unique()
    worker = stage.idle_worker(service)
    worker.disconnect()
    stage.settle(service)
    _quiet(stage, worker, service)


@GROUP.check("disconnect.busy", OPENING, "MUST", "After DISCONNECT a busy worker gets no further command.", True)
def disconnect_busy(stage: Stage) -> None:
    service = unique()
    worker, _ = stage.busy_worker(service, stage.client())
    worker.disconnect()
    stage.settle(service)
    _quiet(stage, worker, service)


@GROUP.check("disconnect.stranger", OPENING, "MUST", "DISCONNECT is allowed before READY; nothing comes back.", True)
def disconnect_stranger(stage: Stage) -> None:
    worker = stage.worker()
    worker.disconnect()
    stage.listen()
    if worker.log:
        raise CheckFailed(f"got {show(worker.log[0])}")


@GROUP.check(
    "disconnect.queue",
    OPENING,
    "MUST",
    "After DISCONNECT of one worker requests go to the others of its service.",
    settle=True,
)
def disconnect_queue(stage: Stage) -> None:
    service = unique()
    first, second = stage.idle_workers(service, 2)
    first.disconnect()
    stage.listen()
    client = stage.client()
    second.echo = True
    for n in range(3):
        if client.ask(service, b"%d" % n) != [b"%d" % n]:
            raise CheckFailed("wrong reply")
