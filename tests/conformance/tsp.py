"""9/TSP: requests, replies, closing, and how requests are run."""

from __future__ import annotations

import random
import re

from tests.conformance.registry import CheckFailed, Group
from tests.conformance.stage import Stage, show, unique
from tests.conformance.titanic import (
    CLOSE,
    GOALS,
    LONGEST_BACK_OFF,
    OURS,
    REPLY,
    REQUEST,
    STATUS_FRAMES,
    Titanic,
    applies,
    bodies,
    expect_runs,
    serves,
)

GROUP = Group("tsp", "9/TSP", applies=applies, bystander=serves, party="Titanic")
SERVICES = "9/TSP Services"
ON_REQUEST = "9/TSP The titanic.request Service"
ON_REPLY = "9/TSP The titanic.reply Service"
ON_CLOSE = "9/TSP The titanic.close Service"
EXECUTION = "9/TSP Request Execution"


# The services


@GROUP.check("services", SERVICES, "MUST", "titanic.request, titanic.reply and titanic.close are there.")
def services(stage: Stage) -> None:
    missing = [name.decode() for name in (REQUEST, REPLY, CLOSE) if stage.registered(name) != b"200"]
    if missing:
        raise CheckFailed(f"mmi.service does not know {', '.join(missing)}")


@GROUP.check("request.frames", ON_REQUEST, "MUST", "titanic.request answers 200 and a UUID of 32 hexadecimal digits.")
def request_frames(stage: Stage) -> None:
    service, titanic = unique(), Titanic(stage)
    stage.worker(service).echo = True
    uuid = titanic.store(service, b"x")
    if not re.fullmatch(rb"[0-9A-Fa-f]{32}", uuid):
        raise CheckFailed(f"the UUID is {uuid!r}")


@GROUP.check("request.unique", ON_REQUEST, "MUST", "Equal requests of several clients get different UUIDs.")
def request_unique(stage: Stage) -> None:
    service = unique()
    stage.worker(service).echo = True
    uuids = [titanic.store(service, b"x") for titanic in (Titanic(stage), Titanic(stage)) for _ in range(10)]
    if len({uuid.lower() for uuid in uuids}) != len(uuids):
        raise CheckFailed("two requests have the same UUID")
    for uuid in uuids:
        Titanic(stage).fetch(uuid)


@GROUP.check("request.busy", EXECUTION, "MUST", "A request is accepted while its service is away, or busy.")
def request_busy(stage: Stage) -> None:
    service, titanic = unique(), Titanic(stage)
    away = titanic.store(unique(), b"x")
    stage.busy_worker(service, stage.client())
    busy = titanic.store(service, b"x")
    for uuid in (away, busy):
        titanic.expect(uuid, b"300", "before it was run")
        titanic.close(uuid)


def _carried(stage: Stage, *body: bytes) -> None:
    """Check that a body comes unchanged to the worker, and its reply, the same body, unchanged back."""
    service, titanic = unique(), Titanic(stage)
    worker = stage.worker(service)
    uuid = titanic.store(service, *body)
    request = worker.request(2 * stage.target.patience)
    if request.body != list(body):
        raise CheckFailed(f"sent {show(list(body))}, the worker got {show(request.body)}")
    worker.reply(request, *body)
    reply = titanic.fetch(uuid)
    if reply != list(body):
        raise CheckFailed(f"the worker answered {show(list(body))}, titanic.reply {show([b'200', *reply])}")


@GROUP.check("body", ON_REQUEST, "MUST", "A body comes to the worker as it was sent, and its reply back.")
def body_plain(stage: Stage) -> None:
    _carried(stage, b"question")


@GROUP.check("body.frames", ON_REQUEST, "MUST", "A body of 50 frames is carried unchanged both ways.")
def body_frames(stage: Stage) -> None:
    _carried(stage, *(b"%d" % n for n in range(50)))


@GROUP.check("body.empty", ON_REQUEST, "MUST", "Empty frames in a body are kept, first, last or all.")
def body_empty(stage: Stage) -> None:
    _carried(stage, b"")
    _carried(stage, b"", b"", b"x", b"", b"")


@GROUP.check("body.binary", ON_REQUEST, "MUST", "A body is opaque: any byte, also what looks like MDP or TSP.")
def body_binary(stage: Stage) -> None:
    _carried(stage, bytes(range(256)))
    _carried(stage, b"", b"MDPW01", b"\x05", b"\xff\xfe", b"\x00" * 16)
    _carried(stage, REQUEST, b"200", b"0" * 32)


@GROUP.check("body.large", ON_REQUEST, "MUST", "A body of 500 KB in one frame is carried unchanged both ways.")
def body_large(stage: Stage) -> None:
    _carried(stage, bytes(range(256)) * 2000)


@GROUP.check("body.status", ON_REPLY, "MUST", "A worker's reply that looks like a status is a reply: 200, then it.")
def body_status(stage: Stage) -> None:
    _carried(stage, b"300")
    _carried(stage, b"500 no status of ours")
    _carried(stage, b"400", b"")


@GROUP.check("service.exact", ON_REQUEST, "MUST", "A request goes only to workers of exactly its service.")
def service_exact(stage: Stage) -> None:
    service, titanic = unique("Name"), Titanic(stage)
    worker = stage.idle_worker(service)
    others = [service + b" ", service[:-1], service + b"x", service.lower()]
    uuids = [titanic.store(other, b"not for you") for other in others]
    titanic.fetch(titanic.done())
    for uuid in uuids:
        titanic.close(uuid)
    if len(bodies(worker)) > 1:
        raise CheckFailed(f"a worker of {service!r} got a request for another service")


@GROUP.check(
    "service.dotted", "9/TSP Overview", "MUST", "A worker needs no change: it gets the body alone, whatever its name."
)
def service_dotted(stage: Stage) -> None:
    titanic = Titanic(stage)
    for service in (unique("pi.server."), b"pi." + unique() + b".devices", b"RASPY." + unique()):
        worker = stage.worker(service)
        uuid = titanic.store(service, b"body")
        request = worker.request(LONGEST_BACK_OFF)
        if request.body != [b"body"]:
            raise CheckFailed(f"the worker of {service!r} got {show(request.body)}")
        worker.reply(request, b"done")
        titanic.fetch(uuid)


@GROUP.check("service.nul", OURS, "ours", "A name with a zero byte is not taken for the name before it.")
def service_nul(stage: Stage) -> None:
    service, titanic = unique(), Titanic(stage)
    worker = stage.idle_worker(service)
    titanic.ask(REQUEST, service + b"\x00x", b"not for you")
    titanic.done()
    if len(bodies(worker)) > 1:
        raise CheckFailed(f"a worker of {service!r} got the request for {service + b'-'!r}, where - is a zero byte")


@GROUP.check("service.bytes", ON_REQUEST, "SHOULD", "A name that is not UTF-8 is carried as it is, or refused.")
def service_bytes(stage: Stage) -> None:
    service, titanic = b"\xff\xfe\xe9" + unique(), Titanic(stage)
    stage.worker(service).echo = True
    code, rest = titanic.ask(REQUEST, service, b"x")
    if code == b"200" and titanic.fetch(rest[0]) != [b"x"]:
        raise CheckFailed("the reply is another one")


def _refused(stage: Stage, *request: bytes) -> None:
    code, rest = Titanic(stage).ask(REQUEST, *request)
    if code != b"400" or rest:
        raise CheckFailed(f"{show(list(request))} is answered {show([code, *rest])}")


@GROUP.check("request.no-body", ON_REQUEST, "MUST", "A request of a service name alone is not accepted.", True)
def request_no_body(stage: Stage) -> None:
    service = unique()
    worker = stage.idle_worker(service)
    code, _ = Titanic(stage).ask(REQUEST, service)
    stage.listen(stage.target.grace + 1.0)
    if code not in (b"400", b"500") or len(bodies(worker)) > 1:
        raise CheckFailed(f"it is answered {code.decode()}")


@GROUP.check("request.400", OURS, "ours", "A request without a service or a body is answered 400 alone.", True)
def request_400(stage: Stage) -> None:
    _refused(stage, b"")
    _refused(stage, b"", b"body")
    _refused(stage, unique())


@GROUP.check("request.long-service", OURS, "ours", "A service name of 256 bytes is answered 400.")
def request_long_service(stage: Stage) -> None:
    _refused(stage, b"x" * 256, b"body")


@GROUP.check("request.reserved", OURS, "ours", "Requests to mmi.* and to Titanic itself are answered 400.")
def request_reserved(stage: Stage) -> None:
    for service in (b"mmi.service", b"mmi.", REQUEST, REPLY, CLOSE, b"titanic.x"):
        _refused(stage, service, b"echo", b"x")


@GROUP.check("request.too-large", OURS, "ours", "A body of 8 MB is refused with a status, or carried unchanged.")
def request_too_large(stage: Stage) -> None:
    service, titanic = unique(), Titanic(stage)
    stage.worker(service).echo = True
    body = bytes(8 << 20)
    code, rest = titanic.ask(REQUEST, service, body)
    if code == b"200" and titanic.fetch(rest[0]) != [body]:
        raise CheckFailed("the reply is another one")


# Replies


@GROUP.check("reply.300", STATUS_FRAMES, "MUST", "titanic.reply says 300 while the service is away or works.")
def reply_300(stage: Stage) -> None:
    service, titanic = unique(), Titanic(stage)
    uuid = titanic.store(service, b"x")
    titanic.expect(uuid, b"300", "while the service was away")
    worker = stage.worker(service)
    request = worker.request(LONGEST_BACK_OFF)
    titanic.expect(uuid, b"300", "while the worker worked")
    worker.reply(request, b"done")
    if titanic.fetch(uuid) != [b"done"]:
        raise CheckFailed("wrong reply")


@GROUP.check("reply.400", STATUS_FRAMES, "MUST", "titanic.reply says 400 for a UUID that it never gave.")
def reply_400(stage: Stage) -> None:
    titanic = Titanic(stage)
    for uuid in (b"0" * 32, b"f" * 32, b"F" * 32, random.randbytes(16).hex().encode()):
        titanic.expect(uuid, b"400", f"for {uuid!r}")


@GROUP.check("reply.again", ON_REPLY, "MUST", "A reply is not deleted by being delivered: any client gets it again.")
def reply_again(stage: Stage) -> None:
    uuid = Titanic(stage).done(b"precious", b"", b"\xff")
    for _ in range(3):
        if Titanic(stage).fetch(uuid, 0.0) != [b"precious", b"", b"\xff"]:
            raise CheckFailed("the second time it was another reply")


@GROUP.check("close.frames", ON_CLOSE, "MUST", "titanic.close answers one frame, 200; then titanic.reply says 400.")
def close_frames(stage: Stage) -> None:
    titanic = Titanic(stage)
    uuid = titanic.done()
    titanic.close(uuid)
    titanic.expect(uuid, b"400", "for a request that was closed")


@GROUP.check("close.unknown", ON_CLOSE, "MUST", "titanic.close says 200 for a UUID that it does not know, each time.")
def close_unknown(stage: Stage) -> None:
    titanic = Titanic(stage)
    uuid = titanic.done()
    for _ in range(3):
        titanic.close(uuid)
    titanic.close(random.randbytes(16).hex().encode())


@GROUP.check("close.only", ON_CLOSE, "MUST", "titanic.close deletes what its UUID names, and nothing else.")
def close_only(stage: Stage) -> None:
    titanic = Titanic(stage)
    kept, closed = titanic.done(b"this"), titanic.done(b"that")
    titanic.close(closed)
    if titanic.fetch(kept) != [b"this"]:
        raise CheckFailed("another request has another reply now")


@GROUP.check("close.pending", ON_CLOSE, "MUST", "A request that is closed before its service came is never run.")
def close_pending(stage: Stage) -> None:
    service, titanic = unique(), Titanic(stage)
    uuid, live = titanic.store(service, b"withdrawn"), titanic.store(service, b"wanted")
    titanic.close(uuid)
    titanic.expect(uuid, b"400", "for a request that was closed")
    worker = stage.worker(service)
    worker.echo = True
    titanic.fetch(live, LONGEST_BACK_OFF)
    expect_runs(stage, [worker], [b"wanted"])


@GROUP.check("close.in-flight", ON_CLOSE, "MUST", "The reply to a request that was closed meanwhile is not kept.")
def close_in_flight(stage: Stage) -> None:
    service, titanic = unique(), Titanic(stage)
    worker = stage.worker(service)
    uuid = titanic.store(service, b"x")
    request = worker.request(2 * stage.target.patience)
    titanic.close(uuid)
    worker.reply(request, b"nobody wants it")
    worker.echo = True
    titanic.fetch(titanic.store(service, b"next"))
    titanic.expect(uuid, b"400", "for a request that was closed")


# Execution


@GROUP.check("run.later", EXECUTION, "MUST", "A request is run when its service comes, though its client has gone.")
def run_later(stage: Stage) -> None:
    service, titanic = unique(), Titanic(stage)
    uuid = titanic.store(service, b"waited")
    titanic.client.close()
    stage.listen(1.5)
    worker = stage.worker(service)
    request = worker.request(LONGEST_BACK_OFF)
    worker.reply(request, b"done")
    stage.listen()
    worker.disconnect()
    if Titanic(stage).fetch(uuid) != [b"done"]:
        raise CheckFailed("wrong reply")


@GROUP.check("run.once", GOALS, "ours", "30 requests to one worker are run in their order, each once.")
def run_once(stage: Stage) -> None:
    service, titanic = unique(), Titanic(stage)
    worker = stage.worker(service)
    worker.echo = True
    wanted = [b"%02d" % n for n in range(30)]
    uuids = {titanic.store(service, body): body for body in wanted}
    for uuid, body in uuids.items():
        if titanic.fetch(uuid) != [body]:
            raise CheckFailed(f"the reply to {body!r} is another one")
    expect_runs(stage, [worker], wanted, 1.2)
    if [body[0] for body in bodies(worker)] != wanted:
        raise CheckFailed(f"the order is {show([body[0] for body in bodies(worker)])}")


@GROUP.check("run.mixed", GOALS, "ours", "Requests to a service that is away do not disturb others: each is run once.")
def run_mixed(stage: Stage) -> None:
    here, away, titanic = unique("here"), unique("away"), Titanic(stage)
    worker = stage.worker(here)
    worker.echo = True
    stored = [(titanic.store(service, b"%d" % n), n) for n in range(10) for service in (away, here)]
    for uuid, n in stored[1::2]:
        if titanic.fetch(uuid) != [b"%d" % n]:
            raise CheckFailed(f"the reply to request {n} is another one")
    late = stage.worker(away)
    late.echo = True
    for uuid, n in stored[::2]:
        if titanic.fetch(uuid, LONGEST_BACK_OFF) != [b"%d" % n]:
            raise CheckFailed(f"the reply to request {n} is another one")
    wanted = [b"%d" % n for n in range(10)]
    expect_runs(stage, [worker], wanted, 1.2)
    expect_runs(stage, [late], wanted)


@GROUP.check("run.slow", GOALS, "ours", "A worker that takes 3 s gets its request once.")
def run_slow(stage: Stage) -> None:
    service, titanic = unique(), Titanic(stage)
    worker = stage.worker(service)
    uuid = titanic.store(service, b"slow")
    request = worker.request(2 * stage.target.patience)
    stage.listen(3.0)
    worker.reply(request, b"done")
    worker.echo = True
    if titanic.fetch(uuid) != [b"done"]:
        raise CheckFailed("the reply is not that of the first run")
    expect_runs(stage, [worker], [b"slow"], 2.5)


@GROUP.check("run.own-reply", ON_REPLY, "MUST", "Workers that answer in another order: each UUID has its own reply.")
def run_own_reply(stage: Stage) -> None:
    service, titanic = unique(), Titanic(stage)
    workers = [stage.worker(service) for _ in range(4)]
    uuids = [titanic.store(service, b"%d" % n) for n in range(12)]
    answered = 0
    while answered < len(uuids):
        if not stage.until(lambda: any(worker.requests for worker in workers), 2 * stage.target.patience):
            raise CheckFailed(f"only {answered} of {len(uuids)} requests came")
        stage.until(lambda: all(worker.requests for worker in workers), stage.target.grace)
        for worker in reversed([worker for worker in workers if worker.requests]):
            request = worker.requests.popleft()
            worker.reply(request, b"reply to", *request.body)
            answered += 1
            stage.listen(0.02)
    for n, uuid in enumerate(uuids):
        if titanic.fetch(uuid) != [b"reply to", b"%d" % n]:
            raise CheckFailed(f"the reply to request {n} is {show(titanic.fetch(uuid))}")


@GROUP.check("run.at-once", OURS, "ours", "A service with three workers is given three requests at a time.")
def run_at_once(stage: Stage) -> None:
    service, titanic = unique(), Titanic(stage)
    workers = stage.idle_workers(service, 3)
    uuids = [titanic.store(service, b"%d" % n) for n in range(3)]
    if not stage.until(lambda: all(worker.requests for worker in workers)):
        raise CheckFailed(f"{sum(len(worker.requests) for worker in workers)} of 3 workers have a request")
    for worker in workers:
        worker.reply(worker.requests.popleft(), b"done")
    for uuid in uuids:
        titanic.fetch(uuid)


@GROUP.check("run.clients", GOALS, "goal", "20 clients with 5 requests each: each gets exactly its own replies.")
def run_clients(stage: Stage) -> None:
    service = unique()
    worker = stage.worker(service)
    worker.echo = True
    clients = [Titanic(stage) for _ in range(20)]
    for who, titanic in enumerate(clients):
        for n in range(5):
            titanic.client.request(REQUEST, service, b"%d-%d" % (who, n))
    if not stage.until(lambda: all(len(titanic.client.replies) == 5 for titanic in clients), 20.0):
        raise CheckFailed("titanic.request did not answer all of 100 requests")
    for who, titanic in enumerate(clients):
        uuids = [reply.body[1] for reply in titanic.client.replies]
        titanic.client.replies.clear()
        got = sorted(titanic.fetch(uuid, 20.0)[0] for uuid in uuids)
        if got != [b"%d-%d" % (who, n) for n in range(5)]:
            raise CheckFailed(f"client {who} got {show(got)}")
    expect_runs(stage, [worker], [b"%d-%d" % (who, n) for who in range(20) for n in range(5)])


@GROUP.check("worker.stuck", OURS, "ours", "A worker that never replies holds up no other service.")
def worker_stuck(stage: Stage) -> None:
    service, titanic = unique(), Titanic(stage)
    worker = stage.worker(service)
    uuid = titanic.store(service, b"stuck")
    worker.request(2 * stage.target.patience)
    for _ in range(3):
        titanic.done()
    titanic.expect(uuid, b"300", "for a request that was not answered")


@GROUP.check("worker.died", GOALS, "goal", "A request whose worker died is run by the next one, and answered.")
def worker_died(stage: Stage) -> None:
    service, titanic = unique(), Titanic(stage)
    worker = stage.worker(service)
    uuid = titanic.store(service, b"precious")
    worker.request(2 * stage.target.patience)
    worker.close()
    titanic.expect(uuid, b"300", "for a request whose worker died")
    second = stage.worker(service)
    second.echo = True
    if titanic.fetch(uuid, stage.target.expiry + LONGEST_BACK_OFF) != [b"precious"]:
        raise CheckFailed("wrong reply")
    titanic.done()
