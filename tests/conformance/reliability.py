"""Heartbeats, workers that die, and what becomes of their requests."""

from __future__ import annotations

import time
from itertools import pairwise

from tests.conformance.registry import CheckFailed, Group, NotApplicable
from tests.conformance.stage import Request, Stage, Worker, unique

GROUP = Group("reliability", "7/MDP, heartbeating and reliability")
HEARTBEATING = "7/MDP Heartbeating"
GOALS = "7/MDP Goals: resend requests of dead workers"
TRIES = 20


def _longest_gap(worker: Worker, since: float, until: float) -> float:
    marks = [since, *(beat for beat in worker.beats if beat > since), until]
    return max(later - earlier for earlier, later in pairwise(marks))


def _check_beats(stage: Stage, worker: Worker) -> None:
    """Check that heartbeats come while nothing else does, with no gap that a worker would take for death."""
    since, target = time.monotonic(), stage.target
    stage.listen(target.interval * 4)
    gap = _longest_gap(worker, since, time.monotonic())
    if gap > target.interval * min(target.liveness, 3):
        raise CheckFailed(f"no heartbeat for {gap:.1f} s at an interval of {target.interval:g} s")


def _again(client_body: list[bytes], request: Request) -> None:
    if request.body != client_body:
        raise CheckFailed(f"the second worker got another request: {request.body!r}")


@GROUP.check("heartbeat.idle", HEARTBEATING, "MUST", "An idle worker gets heartbeats at regular intervals.")
def heartbeat_idle(stage: Stage) -> None:
    _check_beats(stage, stage.idle_worker(unique()))


@GROUP.check("heartbeat.busy", HEARTBEATING, "MUST", "A busy worker gets heartbeats at regular intervals too.")
def heartbeat_busy(stage: Stage) -> None:
    worker, _ = stage.busy_worker(unique(), stage.client())
    _check_beats(stage, worker)


@GROUP.check("heartbeat.quiet", HEARTBEATING, "SHOULD", "No heartbeats to a worker that gets other commands anyway.")
def heartbeat_quiet(stage: Stage) -> None:
    service = unique()
    worker, client = stage.worker(service), stage.client()
    worker.echo = True
    start = time.monotonic()
    skipped = 0
    while time.monotonic() < start + stage.target.interval * 5:
        client.ask(service, b"x")
        stage.listen(stage.target.interval / 10)
        if time.monotonic() < start + stage.target.interval:
            skipped = len(worker.beats)
    extra = len(worker.beats) - skipped
    if extra > 1:
        raise NotApplicable(f"optional, and not done: {extra} heartbeats in 4 intervals on top of traffic")


@GROUP.check("alive.heartbeat", HEARTBEATING, "MUST", "A worker that sends heartbeats stays, however long it is idle.")
def alive_heartbeat(stage: Stage) -> None:
    service = unique()
    worker = stage.idle_worker(service)
    stage.listen(stage.target.expiry)
    if worker.disconnects:
        raise CheckFailed("a worker that sent heartbeats was disconnected")
    stage.client().request(service, b"x")
    worker.request()


@GROUP.check(
    "alive.busy",
    HEARTBEATING,
    "MUST",
    "A busy worker that sends heartbeats may take its time and still reply.",
)
def alive_busy(stage: Stage) -> None:
    service, client = unique(), stage.client()
    worker, request = stage.busy_worker(service, client)
    other = stage.worker(service)
    stage.listen(stage.target.expiry)
    if worker.disconnects or other.requests:
        raise CheckFailed("a worker that sent heartbeats was given up while it worked")
    worker.reply(request, b"done")
    if client.reply().body != [b"done"]:
        raise CheckFailed("wrong reply")


@GROUP.check("alive.traffic", HEARTBEATING, "MUST", "Any command counts as a heartbeat: replies keep a worker alive.")
def alive_traffic(stage: Stage) -> None:
    service = unique()
    worker, client = stage.idle_worker(service), stage.client()
    worker.beating, worker.echo = False, True
    end = time.monotonic() + stage.target.expiry
    while time.monotonic() < end:
        client.ask(service, b"x")
        stage.listen(stage.target.interval / 2)
    if worker.disconnects:
        raise CheckFailed("a worker that replied all the time was disconnected")


@GROUP.check("expiry.idle", HEARTBEATING, "MUST", "A silent idle worker gets no request any more; a live one does.")
def expiry_idle(stage: Stage) -> None:
    service = unique()
    silent = stage.idle_worker(service)
    silent.beating = False
    stage.listen(stage.target.expiry)
    client = stage.client()
    client.request(service, b"x")
    live = stage.worker(service)
    if not stage.until(lambda: bool(live.requests or silent.requests)) or silent.requests:
        raise CheckFailed("the request went to the dead worker")


@GROUP.check("expiry.behind", HEARTBEATING, "MUST", "A dead worker is purged also when one registered before it lives.")
def expiry_behind(stage: Stage) -> None:
    stage.idle_worker(unique())
    service = unique()
    silent = stage.idle_worker(service)
    silent.beating = False
    stage.listen(stage.target.expiry)
    stage.client().request(service, b"x")
    live = stage.worker(service)
    if not stage.until(lambda: bool(live.requests or silent.requests)) or silent.requests:
        raise CheckFailed("the request went to the dead worker")


@GROUP.check("expiry.quiet", HEARTBEATING, "SHOULD", "A dead worker gets no messages of any type any more.")
def expiry_quiet(stage: Stage) -> None:
    stage.idle_worker(unique())
    silent = stage.idle_worker(unique())
    silent.beating = False
    stage.listen(stage.target.expiry)
    before = len(silent.beats)
    stage.listen(stage.target.interval * 1.5)
    if len(silent.beats) > before:
        raise CheckFailed("it still gets heartbeats")


@GROUP.check(
    "expiry.return",
    "7/MDP Opening and Closing",
    "MUST",
    "A worker that was given up and beats again is disconnected.",
)
def expiry_return(stage: Stage) -> None:
    silent = stage.idle_worker(unique())
    silent.beating = False
    stage.listen(stage.target.expiry)
    silent.heartbeat()
    silent.wait_disconnect()


@GROUP.check(
    "resend.silent",
    GOALS,
    "goal",
    "The request of a worker that fell silent goes to another, and is answered.",
    True,
)
def resend_silent(stage: Stage) -> None:
    service, client = unique(), stage.client()
    first, request = stage.busy_worker(service, client, b"precious")
    first.beating = False
    second = stage.worker(service)
    again = second.request(stage.target.expiry + stage.target.patience)
    _again(request.body, again)
    second.reply(again, b"done")
    if client.reply().body != [b"done"]:
        raise CheckFailed("wrong reply")


@GROUP.check("resend.closed", GOALS, "goal", "The request of a worker whose connection broke goes to another.", True)
def resend_closed(stage: Stage) -> None:
    service, client = unique(), stage.client()
    first, request = stage.busy_worker(service, client, b"precious")
    second = stage.worker(service)
    first.close()
    again = second.request(stage.target.expiry + stage.target.patience)
    _again(request.body, again)
    second.reply(again, b"done")
    client.reply()


@GROUP.check("resend.disconnect", GOALS, "goal", "The request of a worker that sent DISCONNECT goes to another.", True)
def resend_disconnect(stage: Stage) -> None:
    service, client = unique(), stage.client()
    first, request = stage.busy_worker(service, client, b"precious")
    second = stage.worker(service)
    first.disconnect()
    again = second.request()
    _again(request.body, again)
    second.reply(again, b"done")
    client.reply()


@GROUP.check("resend.later", GOALS, "goal", "The request waits when there is no other worker, until one comes.", True)
def resend_later(stage: Stage) -> None:
    service, client = unique(), stage.client()
    first, request = stage.busy_worker(service, client, b"precious")
    first.disconnect()
    stage.settle(service)
    second = stage.worker(service)
    again = second.request()
    _again(request.body, again)
    second.reply(again, b"done")
    client.reply()


@GROUP.check(
    "resend.late-reply",
    "docs/protocol MDP",
    "ours",
    "The late reply of the first worker does not reach the client.",
    True,
)
def resend_late_reply(stage: Stage) -> None:
    service, client = unique(), stage.client()
    first, request = stage.busy_worker(service, client, b"precious")
    first.beating = False
    second = stage.worker(service)
    if not stage.until(lambda: bool(second.requests), stage.target.expiry + 1.0):
        raise NotApplicable("the request is not sent again")
    again = second.request()
    first.reply(request, b"late")
    if stage.until(lambda: bool(client.replies), stage.target.grace):
        raise CheckFailed("the late reply reached the client")
    second.reply(again, b"in time")
    if client.reply().body != [b"in time"]:
        raise CheckFailed("the client did not get the reply of the second worker")
    if stage.until(lambda: bool(client.replies), stage.target.grace):
        raise CheckFailed("the client got two replies")


def killed_by(stage: Stage, service: bytes) -> int:
    """How many workers a request of `service` kills: each takes it and leaves, until one does not get it."""
    for count in range(TRIES):
        worker = stage.worker(service)
        if not stage.until(lambda worker=worker: bool(worker.requests), 1.0):  # type: ignore[misc]
            return count
        worker.disconnect()
    return TRIES


@GROUP.check(
    "resend.bounded",
    "docs/protocol MDP",
    "ours",
    "A request that kills its workers is sent a bounded number of times.",
    True,
)
def resend_bounded(stage: Stage) -> None:
    service, client = unique(), stage.client()
    client.request(service, b"poison")
    count = killed_by(stage, service)
    if count <= 1:
        raise NotApplicable("the request is not sent again")
    if count >= TRIES:
        raise CheckFailed(f"it was sent {TRIES} times, and no end")


@GROUP.check("lru", "7/MDP Goals, Overall Topology", "MAY", "Requests go to the least recently used worker.")
def lru(stage: Stage) -> None:
    service, client = unique(), stage.client()
    workers = stage.idle_workers(service, 3)
    order = []
    for n in range(9):
        client.request(service, b"%d" % n)
        if not stage.until(lambda: any(worker.requests for worker in workers)):
            raise CheckFailed("no worker got the request")
        index = next(i for i, worker in enumerate(workers) if worker.requests)
        order.append(index)
        workers[index].reply(workers[index].requests.popleft(), b"done")
        client.reply()
    if order != [0, 1, 2] * 3:
        raise NotApplicable(f"optional, and not done: nine requests went to workers {order}")
