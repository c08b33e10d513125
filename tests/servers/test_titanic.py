"""Durable requests: what is taken and refused, the replies, and how requests are run."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from raspy.common import MDP, slots
from raspy.common.database import StorageError
from raspy.common.executive import Executive, Socket
from raspy.servers.titanic import dispatch, lane, requests
from raspy.servers.titanic import titanic as titanic_module
from tests.bus import BASE, eventually, running
from tests.conformance.stage import READY, WORKER, unique
from tests.conformance.stage import REPLY as WORKER_REPLY
from tests.conformance.stage import REQUEST as WORKER_REQUEST
from tests.servers.titanic_stage import (
    CLOSE,
    PENDING,
    REPLY,
    REQUEST,
    TANK,
    Ship,
    an_id,
    at_sea,
    dispatcher,
    given,
    hold_the_disk,
    let_go,
    make_quick,
    pass_time,
    tank_on,
)

FAILED = (b'"the pump is dry"', b"500")
NOT_NOW = (b'"not now"', b"503")


def waiting(titanic: titanic_module.Titanic) -> list[str]:
    """What waits for the disk."""
    return [operation.function.__name__ for operation in titanic.queue._writes]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    make_quick(monkeypatch)


@pytest.fixture
def harbour(tmp_path: Path) -> Iterator[Ship]:
    """A bus without its Titanic."""
    with at_sea(str(tmp_path)) as ship:
        yield ship


@pytest.fixture
def ship(harbour: Ship) -> Ship:
    """A bus with its Titanic."""
    return harbour.start()


# ---------------------------------------------------------------- titanic.request


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([b"service"], "400 a request is a service and at least one frame"),
        ([an_id(1), b"service"], "400 a request is a service and at least one frame"),
        ([an_id(1)], "400 a request is a service and at least one frame"),
        ([b"", b"work"], "400 the name of a service has 1 to 255 bytes"),
        ([b"s" * 256, b"work"], "400 the name of a service has 1 to 255 bytes"),
        ([b"mmi.workers", b"work"], "400 services under mmi. and titanic. are asked directly"),
        ([b"titanic.request", b"work"], "400 services under mmi. and titanic."),
        ([an_id(1), b"titanic.store", b"get"], "400 services under mmi. and titanic."),
        ([b"RASPY1 short", b"service", b"work"], "400 'RASPY1 short': an id is RASPY1, 32 hexadecimal digits"),
        ([an_id(1) + b" -1", b"service", b"work"], "an id is RASPY1, 32 hexadecimal digits and perhaps a lifetime"),
        ([an_id(1) + b" nan", b"service", b"work"], "an id is RASPY1"),
        ([b"service", b"x" * 1000], "400 1004 bytes; request_bytes in [titanic] allows 1000"),
    ],
)
def test_what_is_no_request_is_refused_with_a_reason(harbour: Ship, frames: list[bytes], reason: str) -> None:
    ship = harbour.start(request_bytes=1000)
    assert reason in ship.refused(*frames)
    assert (ship.statistic("accepted"), ship.statistic("pending")) == (0, 0)
    assert ship.queue("list")[0]["requests"] == []


@pytest.mark.parametrize("service", [b"s", b"s" * 255, b"\xff\x00\n/", "wärme".encode(), b"mmi", b"titanic"])
def test_any_other_name_is_taken(ship: Ship, service: bytes) -> None:
    uuid = ship.request(service)
    assert ship.reply(uuid) == PENDING
    assert ship.info(uuid)["state"] == "pending"


@pytest.mark.parametrize(
    "body", [[b""], [b"", b"a", b"", b""], [bytes(range(256))], [b"%d" % n for n in range(1000)], [b"x" * 999_000]]
)
def test_the_body_comes_to_the_worker_and_its_reply_back_as_they_were(ship: Ship, body: list[bytes]) -> None:
    service = unique()
    worker = ship.worker(service)
    uuid = ship.request(service, *body)
    assert ship.serve(worker).body == body
    assert ship.fetch(uuid) == [b"200", *body]


def test_a_request_is_on_disk_when_it_is_accepted_not_before(ship: Ship) -> None:
    hold_the_disk(ship)
    ship.client.request(REQUEST, b"service", b"work")
    ship.eventually(lambda t: t.queue.waiting == 1)
    assert not ship.client.replies
    let_go(ship)
    assert ship.client.reply().body[0] == b"200"


def test_a_queue_that_is_full_says_so(harbour: Ship) -> None:
    ship = harbour.start(queue_requests=2)
    first, _ = ship.request(b"a"), ship.request(b"b")
    assert ship.refused(b"c", b"work") == "500 2 requests are kept, the most that queue_requests allows"
    ship.close(first)
    assert ship.reply(ship.request(b"c")) == PENDING
    assert ship.restart(queue_requests=2).refused(b"d", b"work").startswith("500 2 requests")


def test_a_queue_that_is_full_still_knows_what_it_has_accepted(harbour: Ship) -> None:
    """The answer to the last one that had room may have been lost."""
    ship = harbour.start(queue_requests=1)
    uuid = ship.accepted(an_id(1), b"a", b"work")
    assert ship.accepted(an_id(1), b"a", b"work") == uuid
    assert ship.refused(an_id(2), b"a", b"work").startswith("500 1 requests are kept")


# ---------------------------------------------------------------- ids


def test_the_same_id_is_the_same_request(ship: Ship) -> None:
    service = unique()
    uuid = ship.accepted(an_id(1), service, b"work")
    assert ship.accepted(an_id(1).replace(b"0", b"0"), service, b"work") == uuid
    assert ship.accepted(an_id(2), service, b"work") != uuid
    ship.restart()
    assert ship.accepted(an_id(1), service, b"work") == uuid
    worker = ship.worker(service)
    worker.echo = True
    assert ship.fetch(uuid) == [b"200", b"work"]
    assert ship.accepted(an_id(1), service, b"work") == uuid
    ship.eventually(lambda t: not t.counts[0])
    assert given(worker) == 2, "one for each id"
    assert ship.restart().accepted(an_id(1), service, b"work") == uuid
    assert ship.reply(uuid) == [b"200", b"work"]
    assert ship.close(uuid) == [b"200"]
    assert ship.accepted(an_id(1), service, b"work") != uuid, "it is not known any more"


def test_the_digits_of_an_id_are_the_same_in_capitals(ship: Ship) -> None:
    digits = b"0123456789abcdef" * 2
    assert ship.accepted(b"RASPY1 " + digits, b"a", b"b") == ship.accepted(b"RASPY1 " + digits.upper(), b"a", b"b")


def test_the_same_id_in_one_commit(ship: Ship) -> None:
    hold_the_disk(ship)
    for number in (1, 2, 1, 3, 1, 2):
        ship.client.request(REQUEST, an_id(number), b"service", b"work")
    ship.client.request(REQUEST, b"service", b"of a foreign client")
    ship.client.request(REQUEST, b"service", b"of a foreign client")
    ship.eventually(lambda t: t.queue.waiting == 8)
    let_go(ship)
    replies = [ship.client.reply().body for _ in range(8)]
    assert {status for status, _ in replies} == {b"200"}
    uuids = [uuid for _, uuid in replies]
    assert sorted(uuids.count(uuid) for uuid in set(uuids)) == [1, 1, 1, 2, 3]
    assert (ship.statistic("accepted"), ship.statistic("pending")) == (5, 5)


# ---------------------------------------------------------------- titanic.reply, titanic.close


HOSTILE = [
    b"",
    b"0" * 31,
    b"0" * 33,
    b"0" * 31 + b"G",
    b"A" * 32,
    b"f" * 32,
    b"0" * 32,
    b"../../../../../../../../etc/pass",
    b"' OR 1=1 --                     ",
    b"\x00" * 32,
    "０".encode() * 10 + b"00",
    b"-" + b"0" * 31,
    b" " + b"0" * 30 + b" ",
    b"0" * 100_000,
]


@pytest.mark.parametrize("uuid", HOSTILE)
def test_what_is_no_uuid_is_not_known_and_may_be_closed(ship: Ship, uuid: bytes) -> None:
    (status,) = ship.reply(uuid)
    assert status[:4] == b"400 "
    assert ship.close(uuid) == [b"200"]


def test_the_secret_part_of_a_uuid_must_be_right(ship: Ship) -> None:
    uuid = ship.request(b"service")
    other = uuid[:-1] + (b"0" if uuid[-1:] != b"0" else b"1")
    assert ship.reply(other) == [b"400 no such request is kept"]
    assert ship.close(other) == [b"200"]
    assert ship.queue("drop", other)[1] == b"404"
    assert ship.reply(uuid) == PENDING


def test_our_clients_may_put_an_id_before_the_uuid(ship: Ship) -> None:
    uuid = ship.request(b"service")
    assert ship.client.ask(REPLY, an_id(1), uuid) == PENDING
    assert ship.client.ask(REPLY, an_id(1))[0].startswith(b"400")
    assert ship.client.ask(b"titanic.close", an_id(2), uuid) == [b"200"]
    assert ship.reply(uuid)[0].startswith(b"400")


def test_a_reply_stays_until_it_is_closed(ship: Ship) -> None:
    service = unique()
    ship.worker(service).echo = True
    uuid = ship.request(service)
    assert ship.fetch(uuid) == ship.reply(uuid) == [b"200", b"work"]
    assert ship.restart().reply(uuid) == [b"200", b"work"]
    assert ship.close(uuid) == [b"200"]
    assert ship.reply(uuid) == [b"400 no such request is kept"]
    assert ship.close(uuid) == [b"200"]
    assert ship.statistic("done") == 0


def test_what_is_closed_before_it_has_begun_is_not_run(ship: Ship) -> None:
    service = unique()
    uuids = ship.requests(service, b"0", b"1", b"2")
    assert ship.close(uuids[1]) == [b"200"]
    worker = ship.worker(service)
    assert [ship.serve(worker).body for _ in range(2)] == [[b"0"], [b"2"]]
    assert ship.fetch(uuids[2]) == [b"200", b"2"]
    assert ship.fetch(uuids[1])[0][:3] == b"400"


def test_the_reply_to_what_was_closed_meanwhile_is_dropped(ship: Ship) -> None:
    service = unique()
    worker = ship.worker(service)
    first, second = ship.request(service, b"first"), ship.request(service, b"second")
    request = worker.request()
    assert ship.close(first) == [b"200"]
    worker.reply(request, b"too late")
    ship.serve(worker)
    assert ship.fetch(second) == [b"200", b"second"]
    assert ship.reply(first)[0][:3] == b"400"
    ship.counts(pending=0, in_flight=0, done=1)


@pytest.mark.parametrize("answer", [FAILED, NOT_NOW])
def test_what_was_closed_in_flight_is_not_tried_again(ship: Ship, answer: tuple[bytes, ...]) -> None:
    service = unique()
    worker = ship.worker(service)
    first, second = ship.request(service, b"first"), ship.request(service, b"second")
    request = worker.request()
    ship.close(first)
    worker.reply(request, *answer)
    assert ship.serve(worker).body == [b"second"]
    assert ship.fetch(second) == [b"200", b"second"]
    ship.counts(pending=0, in_flight=0, done=1, parked=0)


def test_what_was_closed_in_flight_is_not_run_by_a_new_broker(ship: Ship) -> None:
    service = unique()
    worker = ship.worker(service)
    first, second = ship.request(service, b"first"), ship.request(service, b"second")
    worker.request()
    ship.close(first)
    worker.close()
    ship.bus.restart()
    worker = ship.worker(service)
    assert ship.serve(worker).body == [b"second"]
    assert ship.fetch(second) == [b"200", b"second"]


def test_replies_are_forgotten_when_their_time_is_over(harbour: Ship) -> None:
    ship, service = harbour.start(reply_ttl=0.001), unique()
    ship.worker(service).echo = True
    pending, uuid = ship.request(unique()), ship.request(service)
    ship.eventually(lambda t: t.counts[1] == 1)

    def forgotten() -> bool:
        ship.call(lambda t: t._sweep())
        return ship.reply(uuid)[0][:3] == b"400"

    assert ship.stage.until(forgotten)
    ship.eventually(lambda t: t.counts[1] == 0)
    assert ship.reply(pending) == PENDING


def test_a_long_time_to_live_keeps_them(ship: Ship) -> None:
    service = unique()
    ship.worker(service).echo = True
    uuid = ship.request(service)
    ship.fetch(uuid)
    commits = ship.statistic("commits")
    ship.call(lambda t: t._sweep())
    ship.eventually(lambda t: t.queue.commits > commits)
    assert ship.reply(uuid) == [b"200", b"work"]


@pytest.mark.parametrize("reply", [[b"500"], [b'"x"', b"200"], [b"{}", b"500"], [b'"x"', b"500", b""], [b"x", b"503"]])
def test_a_reply_that_is_not_quite_a_failure_is_a_reply(ship: Ship, reply: list[bytes]) -> None:
    service = unique()
    worker = ship.worker(service)
    uuid = ship.request(service)
    ship.serve(worker, *reply)
    assert ship.fetch(uuid) == [b"200", *reply]


def test_a_reply_of_too_many_frames_for_the_broker_takes_no_slot_for_ever(ship: Ship) -> None:
    """Behind a status it is a frame longer than what the broker carries."""
    service = unique()
    worker = ship.worker(service)
    uuid = ship.request(service)
    ship.serve(worker, *([b""] * 1018))
    ship.eventually(lambda t: not t.counts[0])
    (status,) = ship.reply(uuid)
    assert status[:3] == b"500"
    assert b"1018 frames" in status
    assert ship.close(uuid) == [b"200"]


# ---------------------------------------------------------------- order


def texts(ship: Ship, service: bytes, count: int) -> list[bytes]:
    """What one worker is given, as soon as that is so much; it answers all."""
    worker = ship.worker(service)
    return [ship.serve(worker).body[-1] for _ in range(count)]


def test_one_worker_gets_one_after_the_other_in_the_order_of_arrival(ship: Ship) -> None:
    service = unique()
    uuids = ship.requests(service, *(b"%d" % number for number in range(10)))
    worker = ship.worker(service)
    for number in range(10):
        request = worker.request()
        assert request.body == [b"%d" % number]
        assert ship.statistic("in_flight") == 1
        assert ship.bus.statistic("queued") == 0
        worker.reply(request, b"done %d" % number)
    assert [ship.fetch(uuid) for uuid in uuids] == [[b"200", b"done %d" % number] for number in range(10)]


def test_a_worker_that_dies_in_the_middle_changes_no_order(ship: Ship) -> None:
    service = unique()
    ship.requests(service, b"0", b"1", b"2", b"3")
    first = ship.worker(service)
    ship.serve(first)
    assert first.request().body == [b"1"]
    ship.lose(first, service)
    assert texts(ship, service, 3) == [b"1", b"2", b"3"]


def test_a_failed_one_is_tried_again_before_those_behind_it(ship: Ship) -> None:
    service = unique()
    uuids = ship.requests(service, b"0", b"1", b"2")
    worker = ship.worker(service)
    got = []
    for answer in ((b"a",), FAILED, NOT_NOW, FAILED, (b"b",), (b"c",)):
        got.append(ship.serve(worker, *answer).body[0])
    assert got == [b"0", b"1", b"1", b"1", b"1", b"2"]
    assert [ship.fetch(uuid)[1] for uuid in uuids] == [b"a", b"b", b"c"]
    assert ship.statistic("parked") == 0


def test_a_titanic_that_starts_again_in_the_middle_changes_no_order(ship: Ship) -> None:
    service = unique()
    uuids = ship.requests(service, *(b"%d" % number for number in range(5)))
    worker = ship.worker(service)
    ship.serve(worker)
    ship.serve(worker)
    held = worker.request()
    assert held.body == [b"2"]
    assert ship.fetch(uuids[1]) == [b"200", b"1"]
    ship.restart()
    worker.reply(held, b"to nobody")
    got = [ship.serve(worker).body for _ in range(3)]
    assert got == [[b"2"], [b"3"], [b"4"]]
    assert [ship.fetch(uuid) for uuid in uuids] == [[b"200", b"%d" % number] for number in range(5)]


def test_new_ones_come_behind_those_of_an_earlier_titanic(ship: Ship) -> None:
    service = unique()
    ship.requests(service, b"0", b"1")
    ship.restart()
    ship.requests(service, b"2", b"3")
    assert texts(ship, service, 4) == [b"0", b"1", b"2", b"3"]


def test_more_than_the_memory_holds(ship: Ship) -> None:
    service, count = unique(), 2 * lane.BUFFER + 20
    wanted = [b"%d" % number for number in range(count)]
    uuids = ship.requests(service, *wanted[:-10])
    assert ship.call(lambda t: len(dispatcher(t).lanes[service].buffer)) <= lane.BUFFER
    worker = ship.worker(service)
    got = [ship.serve(worker).body[0] for _ in range(70)]
    uuids += ship.requests(service, *wanted[-10:])
    got += [ship.serve(worker).body[0] for _ in range(count - 70)]
    assert got == wanted
    assert ship.fetch(uuids[-1]) == [b"200", wanted[-1]]
    assert [ship.reply(uuid)[1] for uuid in uuids] == wanted


def test_bodies_longer_than_the_memory_holds(ship: Ship, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "BUFFER_BYTES", 10_000)
    monkeypatch.setattr(dispatch, "BUFFER_BYTES", 10_000)
    service = unique()
    sizes = [1, 4000, 0, 30_000, 30_000, 0, 0, 4000, 4000, 4000, 1, 20_000, 3000, 0]
    uuids = [ship.request(service, b"%d" % number, b"x" * size) for number, size in enumerate(sizes)]
    assert ship.call(lambda t: dispatcher(t).lanes[service].bytes) <= 10_000
    worker = ship.worker(service)
    got = []
    for _ in sizes:
        request = worker.request()
        got.append((int(request.body[0]), len(request.body[1])))
        held = ship.call(lambda t: (dispatcher(t).lanes[service].bytes, len(dispatcher(t).lanes[service].buffer)))
        assert held[0] <= 10_000 or held[1] == 1
        worker.reply(request, b"done")
    assert got == list(enumerate(sizes))
    assert ship.fetch(uuids[-1]) == [b"200", b"done"]


def test_several_workers_get_several_at_a_time(ship: Ship) -> None:
    service = unique()
    workers = [ship.worker(service) for _ in range(3)]
    ship.bus.eventually(lambda broker: service in broker.services and broker.services[service].count == 3)
    uuids = ship.requests(service, *(b"%d" % number for number in range(8)))
    held = [(worker, worker.request()) for worker in workers]
    assert sorted(request.body[0] for _, request in held) == [b"0", b"1", b"2"]
    assert (ship.statistic("in_flight"), ship.statistic("pending")) == (3, 8)
    assert ship.bus.statistic("queued") == 0, "nothing waits in the broker"
    # They are answered the other way round, so each next one goes to another worker.
    for worker, request in reversed(held):
        worker.reply(request, b"done " + request.body[0])
    for worker in workers:
        worker.echo = True
    assert [ship.fetch(uuid)[1] for uuid in uuids[:3]] == [b"done 0", b"done 1", b"done 2"]
    assert [ship.fetch(uuid)[1] for uuid in uuids[3:]] == [b"3", b"4", b"5", b"6", b"7"]


def test_a_worker_that_may_be_dead_still_does_not_open_the_way_for_a_second_request(
    ship: Ship, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = unique()
    monkeypatch.setattr(dispatch, "AGREE", dispatch.ASK_AGAIN + 3600)
    monkeypatch.setattr(dispatch, "ASK_AGAIN", 3600)
    workers = [ship.worker(service) for _ in range(2)]
    ship.bus.eventually(lambda broker: service in broker.services and broker.services[service].count == 2)
    uuids = ship.requests(service, b"0", b"1")
    assert ship.stage.until(lambda: sum(len(worker.requests) for worker in workers) == 1)
    lanes = ship.call(lambda t: dispatcher(t).lanes[service])
    assert (lanes.window, lanes.workers, lanes.flying) == (1, 2, 1)
    for worker in workers:
        worker.echo = True
        for request in worker.requests:
            worker.reply(request, b"0")
    assert [ship.fetch(uuid)[1] for uuid in uuids] == [b"0", b"1"]


def test_no_service_is_given_more_than_is_allowed(harbour: Ship) -> None:
    ship, service = harbour.start(in_flight=2), unique()
    workers = [ship.worker(service) for _ in range(4)]
    ship.bus.eventually(lambda broker: service in broker.services and broker.services[service].count == 4)
    uuids = ship.requests(service, b"0", b"1", b"2", b"3")
    assert ship.stage.until(lambda: sum(len(worker.requests) for worker in workers) == 2)
    ship.eventually(lambda t: dispatcher(t).lanes[service].flying == 2)
    assert ship.statistic("in_flight") == 2
    for worker in workers:
        while worker.requests:
            request = worker.requests.popleft()
            worker.reply(request, *request.body)
        worker.echo = True
    assert [ship.fetch(uuid)[1] for uuid in uuids] == [b"0", b"1", b"2", b"3"]


def test_workers_that_come_later_are_used(ship: Ship) -> None:
    service = unique()
    first = ship.worker(service)
    ship.requests(service, b"0", b"1", b"2")
    first.request()
    second = ship.worker(service)
    assert second.request().body == [b"1"]


def test_many_services_do_not_wait_for_each_other(ship: Ship) -> None:
    names = [unique() for _ in range(20)]
    uuids = [ship.request(name, name) for name in names]
    workers = [ship.worker(name) for name in names]
    for worker in workers[1:]:
        worker.echo = True
    workers[0].request()
    assert [ship.fetch(uuid) for uuid in uuids[1:]] == [[b"200", name] for name in names[1:]]
    assert ship.reply(uuids[0]) == PENDING


# ---------------------------------------------------------------- services that are away


def test_a_service_that_comes_later(ship: Ship) -> None:
    service = unique()
    uuid = ship.request(service)
    ship.away(service)
    assert ship.reply(uuid) == PENDING
    assert ship.bus.statistic("queued") == 0, "it waits in Titanic, not in the broker"
    ship.worker(service).echo = True
    assert ship.fetch(uuid) == [b"200", b"work"]


def test_a_service_that_is_away_is_asked_for_less_and_less_often(ship: Ship, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(lane, "LONGEST_PAUSE", 0.008)
    seen: list[float] = []
    away = lane.Lane.away

    def noted(self: lane.Lane) -> None:
        seen.append(self.pause)
        away(self)

    monkeypatch.setattr(lane.Lane, "away", noted)
    ship.request(unique())
    assert ship.stage.until(lambda: len(seen) >= 6)
    assert seen[:6] == [0.001, 0.002, 0.004, 0.008, 0.008, 0.008]


def test_what_the_broker_cannot_place_is_no_failure(tmp_path: Path) -> None:
    """The only worker is busy for another client, longer than a request may wait."""
    with at_sea(str(tmp_path), heartbeat=50, request_expiry=0.05, liveness=100) as ship:
        ship.start(attempts=1)
        service, other = unique(), ship.stage.client()
        worker, held = ship.stage.busy_worker(service, other, b"foreign")
        uuid = ship.request(service)
        ship.away(service)
        assert ship.info(uuid)["failures"] == 0
        worker.reply(held, b"done")
        ship.serve(worker)
        assert ship.fetch(uuid) == [b"200", b"work"]


def test_not_now_is_no_failure(harbour: Ship) -> None:
    ship, service = harbour.start(attempts=1), unique()
    worker = ship.worker(service)
    uuid = ship.request(service)
    for _ in range(5):
        ship.serve(worker, *NOT_NOW)
    ship.serve(worker)
    assert ship.fetch(uuid) == [b"200", b"work"]


def test_more_services_than_are_known_at_a_time(harbour: Ship, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "LANES", 4)
    monkeypatch.setattr(titanic_module, "LANES", 4)
    ship = harbour.start()
    names = [unique() for _ in range(15)]
    uuids = [ship.request(name, name) for name in names for _ in range(2)]
    assert ship.call(lambda t: len(dispatcher(t).lanes)) <= 4
    for name in names[::-1][:10]:
        ship.worker(name).echo = True
    assert [ship.fetch(uuid)[1] for uuid in uuids[10:]] == [name for name in names[5:] for _ in range(2)]
    ship.restart()
    for name in names[:5]:
        ship.worker(name).echo = True
    assert [ship.fetch(uuid)[1] for uuid in uuids[:10]] == [name for name in names[:5] for _ in range(2)]
    ship.eventually(lambda t: not dispatcher(t).lanes)


def test_one_that_had_no_room_is_run_before_those_that_came_later(
    harbour: Ship, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "LANES", 3)
    monkeypatch.setattr(titanic_module, "LANES", 3)
    monkeypatch.setattr(dispatch, "SCAN", 1e9)
    ship, service = harbour.start(), unique()
    crowd = [ship.request(unique()) for _ in range(3)]
    worker = ship.worker(service)
    uuids = ship.requests(service, b"1", b"2")
    assert not ship.call(lambda t: service in dispatcher(t).lanes)
    ship.close(crowd[0])
    ship.call(lambda t: monkeypatch.setattr(dispatch, "SCAN", 0.02))
    uuids.append(ship.request(service, b"3"))
    assert [ship.serve(worker).body[0] for _ in uuids] == [b"1", b"2", b"3"]


def test_a_look_for_more_services_that_failed_is_made_again(harbour: Ship, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "LANES", 2)
    monkeypatch.setattr(titanic_module, "LANES", 2)
    ship = harbour.start()
    for _ in range(3):
        ship.request(unique())
    ship.call(lambda t: dispatcher(t)._scanned_services(None, StorageError("the disk gave nothing")))
    service = unique()
    ship.worker(service).echo = True
    assert ship.fetch(ship.request(service, b"work")) == [b"200", b"work"]


def test_what_is_in_flight_is_sent_again_when_the_tree_tells_of_a_new_broker(ship: Ship) -> None:
    service = unique()
    worker = ship.worker(service)
    uuid = ship.request(service, b"work")
    first = worker.request()
    ship.call(lambda t: t._broker_restarted())
    worker.reply(first, b"to nobody")
    assert ship.serve(worker).body == [b"work"]
    assert ship.fetch(uuid) == [b"200", b"work"]


# ---------------------------------------------------------------- failures


@pytest.mark.parametrize("attempts", [1, 3])
def test_one_that_fails_each_time_is_parked_and_those_behind_it_are_run(harbour: Ship, attempts: int) -> None:
    ship, service = harbour.start(attempts=attempts), unique()
    worker = ship.worker(service)
    poison, good = ship.request(service, b"poison"), ship.request(service, b"good")
    for _ in range(attempts):
        assert ship.serve(worker, *FAILED).body == [b"poison"]
    assert ship.serve(worker).body == [b"good"]
    assert ship.fetch(good) == [b"200", b"good"]
    reason = f"it failed {attempts} times, at last: the pump is dry"
    assert ship.fetch(poison) == [f"500 parked: {reason}".encode()]
    told = ship.info(poison)
    assert (told["state"], told["failures"], told["reason"]) == ("parked", attempts, reason)
    event = ship.event(service)
    assert (event["event"], event["uuid"], event["reason"]) == ("parked", poison.decode(), reason)
    assert ship.statistic("parked") == 1
    ship.restart()
    assert ship.reply(poison) == [f"500 parked: {reason}".encode()]
    assert ship.statistic("parked") == 1
    assert not worker.requests


def test_one_that_kills_its_workers_is_parked_and_those_behind_it_are_run(harbour: Ship) -> None:
    ship, service = harbour.start(attempts=2), unique()
    poison, good = ship.request(service, b"poison"), ship.request(service, b"good")
    for _ in range(2 * ship.bus.settings.attempts):
        worker = ship.worker(service)
        assert worker.request().body == [b"poison"]
        ship.lose(worker, service)
    assert texts(ship, service, 1) == [b"good"]
    assert ship.fetch(good) == [b"200", b"good"]
    (status,) = ship.fetch(poison)
    assert status.startswith(b"500 parked: it failed 2 times, at last: 3 workers of ")
    assert ship.event(service)["event"] == "parked"


def test_failures_are_counted_over_restarts(ship: Ship, monkeypatch: pytest.MonkeyPatch) -> None:
    service = unique()
    worker = ship.worker(service)
    uuid = ship.request(service)
    ship.serve(worker, *FAILED)
    request = worker.request()
    monkeypatch.setattr(dispatch, "FAILURE_PAUSE", (60.0, 60.0))
    worker.reply(request, *FAILED)
    ship.eventually(lambda t: failures(t, uuid) == 2)
    ship.restart()
    ship.serve(worker, *FAILED)
    assert ship.fetch(uuid)[0].startswith(b"500 parked: it failed 3 times")


def failures(titanic: titanic_module.Titanic, uuid: bytes) -> int:
    """Failures of a request, as they are on disk."""
    rows = titanic.queue.database.read(
        lambda c: c.execute("SELECT failures FROM requests WHERE id = ?", (int(uuid[:16], 16),)).fetchone()
    )
    return int(rows[0])


def test_one_over_which_titanic_itself_ends_is_parked(ship: Ship, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "STARTS", 2)
    # As it is when it was killed: nothing is put in order.
    monkeypatch.setattr(requests, "unmark", lambda connection, items: items)
    service = unique()
    worker = ship.worker(service)
    uuid, other = ship.request(service, b"poison"), ship.request(service, b"good")
    for number in range(3):
        request = worker.request()
        assert request.body == [b"poison"], number
        ship.restart()
        worker.reply(request, b"to nobody")
    assert ship.serve(worker).body == [b"good"]
    assert ship.fetch(other) == [b"200", b"good"]
    assert ship.fetch(uuid)[0].startswith(b"500 parked: Titanic has ended 2 times while it was run")


def test_one_that_was_closed_while_the_disk_was_slow_is_not_begun(ship: Ship) -> None:
    first, second = unique(), unique()
    ship.request(first, b"A")
    closed = ship.request(second, b"B")
    ship.restart()
    hold_the_disk(ship)
    one = ship.worker(first)
    ship.eventually(lambda t: waiting(t).count("mark") == 1)
    client = ship.stage.client()
    client.request(CLOSE, closed)
    ship.eventually(lambda t: "close" in waiting(t))
    other = ship.worker(second)
    ship.eventually(lambda t: waiting(t).count("mark") == 2)
    let_go(ship)
    assert client.reply().body == [b"200"]
    assert ship.serve(one).body == [b"A"]
    ship.eventually(lambda t: not dispatcher(t).lanes)
    assert not other.requests


def test_one_whose_lifetime_ended_while_the_disk_was_slow_is_not_begun(ship: Ship) -> None:
    service = unique()
    uuid = ship.accepted(an_id(1, 1000), service, b"on")
    ship.restart()
    hold_the_disk(ship)
    worker = ship.worker(service)
    ship.eventually(lambda t: "mark" in waiting(t))
    pass_time(ship, 1001)
    let_go(ship)
    assert ship.fetch(uuid)[0].startswith(b"500 late")
    assert not worker.requests


def test_a_titanic_that_is_stopped_in_good_order_is_no_mark_against_a_request(
    ship: Ship, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "STARTS", 1)
    service = unique()
    worker = ship.worker(service)
    uuid = ship.request(service, b"slow")
    for _ in range(4):
        request = worker.request()
        ship.restart()
        worker.reply(request, b"to nobody")
    assert ship.serve(worker).body == [b"slow"]
    assert ship.fetch(uuid) == [b"200", b"slow"]


def test_a_service_that_is_slow_runs_it_once(ship: Ship) -> None:
    service = unique()
    worker = ship.worker(service)
    uuids = ship.requests(service, b"slow", b"next")
    request = worker.request()
    asked: set[float] = set()

    def looked_after(titanic: titanic_module.Titanic) -> bool:
        asked.add(dispatcher(titanic).lanes[service].asked_at)
        return len(asked) == 4

    ship.eventually(looked_after, "it is asked for, again and again")
    assert not worker.requests
    worker.reply(request, b"done")
    ship.serve(worker)
    assert ship.fetch(uuids[0]) == [b"200", b"done"]
    assert ship.fetch(uuids[1]) == [b"200", b"next"]
    assert given(worker) == 2


def test_a_service_that_never_answers_fails_and_its_late_answers_are_nobodys(harbour: Ship) -> None:
    ship, service, other = harbour.start(patience=0.05, attempts=2), unique(), unique()
    worker = ship.worker(service)
    slow = ship.request(service, b"slow")
    request = worker.request()
    assert ship.fetch(slow) == [b"500 parked: it failed 2 times, at last: no reply in 0.05 s"]
    ship.call(lambda t: setattr(t, "settings", titanic_module.TitanicConfig()))
    good, elsewhere = ship.request(service, b"good"), ship.request(other, b"elsewhere")
    worker.reply(request, b"late")
    assert ship.serve(worker, b"late too").body == [b"slow"]
    assert ship.serve(worker).body == [b"good"]
    ship.worker(other).echo = True
    assert ship.fetch(good) == [b"200", b"good"]
    assert ship.fetch(elsewhere) == [b"200", b"elsewhere"]
    assert ship.fetch(slow)[0][:3] == b"500"
    ship.eventually(lambda t: all(not channel.retired for channel in dispatcher(t)._channels._channels))


# ---------------------------------------------------------------- our own servers


def test_our_servers_get_an_id_with_each_request_and_foreign_ones_none(ship: Ship) -> None:
    service = unique()
    worker = ship.worker(service)
    with tank_on(ship.bus) as tank:
        first, second = ship.accepted(an_id(7), TANK, b"exec", b"on"), ship.request(TANK, b"exec", b"off")
        foreign = ship.accepted(an_id(8), service, b"work")
        assert ship.fetch(first) == [b"200", b'"on"', b"200"]
        assert ship.fetch(second) == [b"200", b'"off"', b"200"]
        assert ship.serve(worker).body == [b"work"]
        assert ship.fetch(foreign) == [b"200", b"work"]
        assert tank.done == ["on", "off"]
        ids = [MDP.parse_id(frame) for frame in tank.ids]
        assert len({found[0] for found in ids if found}) == 2
        assert an_id(7) not in {found[0] for found in ids if found}


def test_a_broker_that_starts_again_has_it_done_once(ship: Ship) -> None:
    with tank_on(ship.bus) as tank:
        uuid = ship.request(TANK, b"slow", b"feed")
        assert tank.does(1) == ["feed"]
        ship.bus.restart()
        assert ship.stage.until(lambda: len(tank.ids) == 2), "it is sent again"
        tank.answer()
        assert ship.fetch(uuid) == [b"200", b'"ready"', b"200"]
        assert tank.done == ["feed"]
        assert tank.ids[0] == tank.ids[1]


def test_an_answer_that_was_lost_with_the_broker_is_given_from_memory(ship: Ship) -> None:
    with tank_on(ship.bus) as tank:
        uuids = [ship.request(TANK, b"slow", b"%d" % number) for number in range(2)]
        tank.does(2)
        ship.bus.runner.stop()
        tank.answer(0, "first")
        tank.answer(1, "second")
        ship.bus.restart()
        assert ship.fetch(uuids[0]) == [b"200", b'"first"', b"200"]
        assert ship.fetch(uuids[1]) == [b"200", b'"second"', b"200"]
        assert tank.done == ["0", "1"]


def test_a_titanic_that_starts_again_has_it_done_once(ship: Ship) -> None:
    with tank_on(ship.bus) as tank:
        uuid = ship.request(TANK, b"slow", b"feed")
        tank.does(1)
        ship.restart()
        tank.answer()
        assert ship.fetch(uuid) == [b"200", b'"ready"', b"200"]
        assert tank.done == ["feed"]


def test_one_that_failed_is_done_again_under_another_id(ship: Ship) -> None:
    with tank_on(ship.bus) as tank:
        tank.tank.trouble = [b"500", b"500"]
        uuid = ship.request(TANK, b"exec", b"on")
        assert ship.fetch(uuid) == [b"200", b'"on"', b"200"]
        assert tank.done == ["on", "on", "on"]
        assert len({frame[:39] for frame in tank.ids}) == 3


def test_not_now_of_a_server_of_ours_is_asked_again(ship: Ship) -> None:
    """It has done nothing, so there is nothing that it could tell from memory."""
    with tank_on(ship.bus) as tank:
        tank.tank.trouble = [b"503", b"503"]
        uuid = ship.request(TANK, b"exec", b"on")
        assert ship.fetch(uuid) == [b"200", b'"on"', b"200"]
        assert tank.done == ["on", "on", "on"]


@pytest.mark.parametrize("status", [b"400", b"404", b"409"])
def test_another_refusal_is_a_reply(ship: Ship, status: bytes) -> None:
    with tank_on(ship.bus) as tank:
        tank.tank.trouble = [status]
        assert ship.fetch(ship.request(TANK, b"exec", b"on")) == [b"200", b'"the lamp is hot"', status]
        assert tank.done == ["on"]


def test_a_foreign_service_with_a_name_as_ours_have(ship: Ship) -> None:
    service = b"pi.alien.devices"
    worker = ship.worker(service)
    uuid = ship.request(service)
    assert ship.serve(worker).body == [b"work"]
    assert ship.fetch(uuid) == [b"200", b"work"]


# ---------------------------------------------------------------- the broker goes and comes


def test_a_broker_that_starts_again_in_the_middle_changes_no_order(ship: Ship) -> None:
    service = unique()
    uuids = ship.requests(service, *(b"%d" % number for number in range(6)))
    worker = ship.worker(service)
    ship.serve(worker)
    worker.request()
    worker.close()
    ship.bus.restart()
    assert texts(ship, service, 5) == [b"1", b"2", b"3", b"4", b"5"]
    assert [ship.fetch(uuid)[1] for uuid in uuids[1:]] == [b"1", b"2", b"3", b"4", b"5"]


def test_replies_that_are_there_when_the_broker_goes_are_taken_and_no_more_is_begun(ship: Ship) -> None:
    service = unique()
    worker = ship.worker(service)
    uuids = ship.requests(service, b"0", b"1")
    request = worker.request()

    def the_broker_goes() -> None:
        worker.reply(request, b"done")
        channel = dispatcher(t)._channels._channels[0]
        eventually(lambda: channel.socket.poll(0), "the reply is there")
        dispatcher(t).lost()
        assert not dispatcher(t).flights
        assert not dispatcher(t)._channels._channels

    t = ship.titanic
    ship.call(lambda _: the_broker_goes())
    assert ship.serve(worker).body == [b"1"]
    assert [ship.fetch(uuid)[1] for uuid in uuids] == [b"done", b"1"]
    assert given(worker) == 2


def test_titanic_before_the_broker(harbour: Ship) -> None:
    service = unique()
    harbour.bus.runner.stop()
    harbour.launch()
    harbour.bus.restart()
    harbour.ready()
    uuid = harbour.request(service)
    harbour.worker(service).echo = True
    assert harbour.fetch(uuid) == [b"200", b"work"]


# ---------------------------------------------------------------- slots


def test_connections_grow_with_the_need_and_shrink_again(harbour: Ship, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "SHRINK", 0.05)
    ship = harbour.start(slots=8)

    def connections(titanic: titanic_module.Titanic) -> int:
        return len(titanic._slots[0].connections)

    assert ship.call(connections) == slots.FEW
    hold_the_disk(ship)
    for _ in range(10):
        ship.client.request(REQUEST, b"service", b"work")
    ship.eventually(lambda t: (t.queue.waiting, connections(t)) == (8, 8))
    assert ship.bus.statistic("queued") == 2
    let_go(ship)
    for _ in range(10):
        assert ship.client.reply().body[0] == b"200"
    ship.eventually(lambda t: connections(t) == slots.FEW)
    assert ship.reply(ship.request(b"service")) == PENDING


# ---------------------------------------------------------------- a foreign broker


class ForeignBroker(Executive):
    """As little as a broker of RFC 7/MDP and 8/MMI can be."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.socket: Socket = self.ctx.socket(zmq.ROUTER)
        self.socket.linger = 0
        self.socket.bind(address)
        self.register(self.socket, self._take)
        self.workers: dict[bytes, bytes] = {}
        self.idle: dict[bytes, deque[bytes]] = {}
        self.waiting: dict[bytes, deque[list[bytes]]] = {}
        self.asked: list[bytes] = []

    def _take(self) -> None:
        sender, _, header, *frames = self.socket.recv_multipart()
        if header == WORKER:
            if frames[0] == READY:
                self.workers[sender] = frames[1]
                self.idle.setdefault(frames[1], deque()).append(sender)
            elif frames[0] == WORKER_REPLY:
                self.socket.send_multipart([frames[1], b"", MDP.C_CLIENT, self.workers[sender], *frames[3:]])
                self.idle[self.workers[sender]].append(sender)
        elif frames[0].startswith(b"mmi."):
            self.asked.append(frames[0])
            known = frames[0] == b"mmi.service" and frames[1] in self.idle
            answer = b"501" if frames[0] != b"mmi.service" else b"200" if known else b"404"
            self.socket.send_multipart([sender, b"", MDP.C_CLIENT, frames[0], answer])
        else:
            self.waiting.setdefault(frames[0], deque()).append([sender, b"", *frames[1:]])
        for service, waiting in self.waiting.items():
            while waiting and self.idle.get(service):
                to = self.idle[service].popleft()
                self.socket.send_multipart([to, b"", WORKER, WORKER_REQUEST, *waiting.popleft()])


def test_under_a_broker_that_does_not_know_how_many_workers_there_are(harbour: Ship) -> None:
    ship, service = harbour, unique()
    ship.bus.runner.stop()
    try:
        with running(ForeignBroker(MDP.endpoint(ship.bus.ip, BASE))) as foreign:
            t = titanic_module.Titanic("pi", "titanic", ship.bus.ip, BASE, ship.directory)
            with running(t):
                uuid = ship.request(service, b"0")
                third = b"pi.alien.devices"
                odd = ship.request(third, b"1")
                worker, alien = ship.worker(service), ship.worker(third)
                assert ship.serve(worker).body == [b"0"]
                assert ship.serve(alien).body == [b"1"]
                assert ship.fetch(uuid) == [b"200", b"0"]
                assert ship.fetch(odd) == [b"200", b"1"]
                assert foreign.call(lambda: foreign.executive.asked.count(b"mmi.workers")) == 1
            assert t.errors == 0, t.last_error
    finally:
        ship.bus.restart()


# ---------------------------------------------------------------- what an owner sees


def test_statistics_and_the_status_line(ship: Ship) -> None:
    service, gone = unique(), unique()
    worker = ship.worker(service)
    worker.echo = True
    ship.fetch(ship.request(service))
    ship.request(gone)
    values, status = ship.verb(b"pi.titanic.statistics", "all")
    assert status == b"200"
    wanted = {"accepted": 2, "replied": 1, "pending": 1, "in_flight": 0, "done": 1, "parked": 0, "late": 0}
    assert {name: values[f"titanic.{name}"] for name in wanted} == wanted
    assert values["titanic.commits"] >= 3
    assert values["titanic.commit_ms"] > 0
    assert ship.call(lambda t: t.summary()) == "1 requests wait, 0 run, 0 given up"
    seen, _ = ship.verb(b"pi.titanic.mmi", "status")
    assert (seen["state"], seen["errors"]) == ("ok", 0)
    assert {"titanic.request", "titanic.reply", "titanic.close", "titanic.store", "pi.titanic.queue"} < set(
        seen["services"]
    )


def test_its_services_are_ours(ship: Ship) -> None:
    for service in ship.titanic.services():
        body, status = ship.client.ask(b"mmi.workers", service.encode())
        assert status == b"200", service
        assert json.loads(body)["ours"] is True, service
