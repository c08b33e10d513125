"""What RasPy's Titanic offers beside 9/TSP, see docs/protocol; not applicable to others."""

from __future__ import annotations

import json
import time

from tests.conformance.registry import CheckFailed, Group, NotApplicable
from tests.conformance.stage import Stage, Worker, show, unique
from tests.conformance.titanic import LONGEST_BACK_OFF, OURS, REPLY, REQUEST, Titanic, expect_runs, serves
from tests.conformance.titanic import applies as has_titanic

LIFETIME = b"1"
FAILURES = 20


def _applies(stage: Stage) -> None:
    has_titanic(stage)
    client = stage.client()
    # The broker learns who is ours by asking it for its status, a while after it has registered.
    if not stage.until(lambda: _ours(client.ask(b"mmi.workers", REQUEST)), 1.0):
        raise NotApplicable("an extension: the broker does not say that titanic.request is RasPy's")
    client.close()


def _ours(body: list[bytes]) -> bool:
    try:
        return body[-1] == b"200" and json.loads(body[0])["ours"] is True
    except (ValueError, KeyError, TypeError):
        return False


GROUP = Group("tsp-extensions", "Extensions of RasPy's Titanic", applies=_applies, bystander=serves, party="Titanic")


def _id(lifetime: bytes | None = None) -> bytes:
    return b"RASPY1 " + unique().hex()[:32].zfill(32).encode() + (b"" if lifetime is None else b" " + lifetime)


def _ended(stage: Stage, titanic: Titanic, uuid: bytes, patience: float) -> bytes:
    """The status frame of titanic.reply once it is not 300 any more."""
    frames: list[bytes] = []

    def over() -> bool:
        frames[:] = titanic.client.ask(REPLY, uuid)
        return frames[0][:3] != b"300"

    if not over():
        stage.until(over, patience)
    return frames[0]


@GROUP.check("id.repeat", OURS, "ours", "A request that is sent again with its id gets the same UUID, and is run once.")
def id_repeat(stage: Stage) -> None:
    service, request_id = unique(), _id()
    uuids = {Titanic(stage).store(request_id, service, b"x") for _ in range(3)}
    if len(uuids) != 1:
        raise CheckFailed(f"it has {len(uuids)} UUIDs")
    worker = stage.worker(service)
    worker.echo = True
    titanic = Titanic(stage)
    [uuid] = uuids
    if titanic.fetch(uuid, LONGEST_BACK_OFF) != [b"x"]:
        raise CheckFailed("wrong reply: a foreign worker must not get the id")
    if titanic.store(request_id, service, b"x") != uuid:
        raise CheckFailed("it has another UUID after it was run")
    expect_runs(stage, [worker], [b"x"], 1.0)


@GROUP.check("id.other", OURS, "ours", "Requests with different ids have different UUIDs, and are all run.")
def id_other(stage: Stage) -> None:
    service, titanic = unique(), Titanic(stage)
    worker = stage.worker(service)
    worker.echo = True
    uuids = [titanic.store(_id(), service, b"%d" % n) for n in range(5)]
    if [titanic.fetch(uuid) for uuid in uuids] != [[b"%d" % n] for n in range(5)]:
        raise CheckFailed("wrong replies")
    expect_runs(stage, [worker], [b"%d" % n for n in range(5)])


@GROUP.check("id.bad", OURS, "ours", "What begins like an id and is none, or has a bad lifetime, is answered 400.")
def id_bad(stage: Stage) -> None:
    titanic = Titanic(stage)
    lifetimes = (b"-1", b"nan", b"inf", b"1e999", b"x", b"", b"1 1", b"\xd9\xa3", b"1_0", b"9" * 400)
    for bad in (b"RASPY1 ", b"RASPY1 x", _id()[:-1], _id() + b"0", _id() + b"\n", *map(_id, lifetimes)):
        code, rest = titanic.ask(REQUEST, bad, unique(), b"x")
        if code != b"400" or rest:
            raise CheckFailed(f"{bad!r} is answered {show([code, *rest])}")


@GROUP.check("lifetime.late", OURS, "ours", "A request not begun within its lifetime is answered 500, never run.")
def lifetime_late(stage: Stage) -> None:
    service, titanic = unique(), Titanic(stage)
    uuid = titanic.store(_id(LIFETIME), service, b"late")
    status = _ended(stage, titanic, uuid, LONGEST_BACK_OFF)
    if not status.startswith(b"500 late"):
        raise CheckFailed(f"titanic.reply answered {status!r}")
    worker = stage.worker(service)
    worker.echo = True
    titanic.fetch(titanic.store(service, b"next"), LONGEST_BACK_OFF)
    expect_runs(stage, [worker], [b"next"])


@GROUP.check("lifetime.kept", OURS, "ours", "A request that is begun within its lifetime may take longer than it.")
def lifetime_kept(stage: Stage) -> None:
    service, titanic = unique(), Titanic(stage)
    worker = stage.worker(service)
    uuid = titanic.store(_id(LIFETIME), service, b"x")
    request = worker.request()
    stage.listen(1.5)
    worker.reply(request, b"done")
    if titanic.fetch(uuid) != [b"done"]:
        raise CheckFailed("wrong reply")


def _fail(stage: Stage, worker: Worker, body: bytes) -> int:
    """Have a worker answer `body` with an error as long as it comes; returns how often."""
    for count in range(FAILURES):
        request = worker.request(LONGEST_BACK_OFF)
        if request.body != [body]:
            worker.reply(request, *request.body)
            return count
        worker.reply(request, b'"out of order"', b"500")
    return FAILURES


@GROUP.check("parked.fails", OURS, "ours", "A request that fails again and again is parked: 500, and the next is run.")
def parked_fails(stage: Stage) -> None:
    service, titanic = unique(), Titanic(stage)
    worker = stage.worker(service)
    poison, good = titanic.store(service, b"poison"), titanic.store(service, b"good")
    count = _fail(stage, worker, b"poison")
    if not 2 <= count < FAILURES:
        raise CheckFailed(f"it was run {count} times")
    status = _ended(stage, titanic, poison, LONGEST_BACK_OFF)
    if not status.startswith(b"500 parked"):
        raise CheckFailed(f"titanic.reply answered {status!r}")
    if titanic.fetch(good) != [b"good"]:
        raise CheckFailed("wrong reply to the next request")


@GROUP.check("parked.kills", OURS, "ours", "A request that kills its workers is parked: 500, and others are run.", True)
def parked_kills(stage: Stage) -> None:
    service, titanic = unique(), Titanic(stage)
    poison = titanic.store(service, b"poison")
    kills, end = 0, time.monotonic() + 3 * LONGEST_BACK_OFF
    while titanic.ask(REPLY, poison)[0] == b"300":
        if time.monotonic() > end or kills == FAILURES:
            raise CheckFailed(f"after {kills} dead workers titanic.reply still says 300")
        worker = stage.worker(service)
        stage.until(lambda worker=worker: bool(worker.requests), 1.0)  # type: ignore[misc]
        worker.disconnect()
        kills += len(worker.requests)
    status = _ended(stage, titanic, poison, 0.0)
    if not status.startswith(b"500 parked"):
        raise CheckFailed(f"after {kills} dead workers titanic.reply answered {status!r}")


@GROUP.check("busy", OURS, "ours", "A service that answers 503 is asked again later, and that is no failure.")
def busy(stage: Stage) -> None:
    service, titanic = unique(), Titanic(stage)
    worker = stage.worker(service)
    uuid = titanic.store(service, b"x")
    for _ in range(3):
        worker.reply(worker.request(LONGEST_BACK_OFF), b'"not now"', b"503")
    worker.reply(worker.request(LONGEST_BACK_OFF), b"done")
    if titanic.fetch(uuid) != [b"done"]:
        raise CheckFailed("wrong reply")
