"""The broker from inside: bounds, budgets, expiry, workers that die. What shows on the wire alone is in
tests/conformance."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from raspy.common.config import ConfigError
from raspy.servers.broker import Broker, mdp
from raspy.servers.broker.settings import check_address
from raspy.servers.broker.state import Budget, Request
from tests.bus import BASE, OWN, Bus, running_bus
from tests.conformance.stage import CLIENT, DISCONNECT, Client, Reply, unique
from tests.support_devices import LIMIT, short_directory

KIB = 1024
FEW = 20
"""Messages for a peer; more than a worker is sent in a millisecond: no sooner libzmq learns that it has taken some."""
FOR_EVER_MS = 60_000
"""A heartbeat interval in which no test ends: what happens, happens without it."""
PATIENT = 100
"""Heartbeats that a worker may miss where they come often, so that none is given up whose test gets no turn."""


@pytest.fixture
def bus() -> Iterator[Bus]:
    with running_bus(heartbeat=FOR_EVER_MS) as running:
        yield running


def nothing_for(client: Client) -> None:
    """Whatever was sent to the client before has arrived: the answer to a later question is the first it got."""
    assert client.ask(b"mmi.version", b"")[-1] == b"200"
    assert not client.replies


def refusal(reply: Reply) -> str:
    """The reason in a 503."""
    assert reply.body[1:] == [b"503"]
    return str(json.loads(reply.body[0]))


# ---------------------------------------------------------------- bounds of the queues


def test_a_full_queue_refuses_our_clients_with_a_reason_and_foreign_ones_in_silence() -> None:
    service = unique()
    with running_bus(heartbeat=FOR_EVER_MS, queue_requests=3) as bus:
        own, foreign = bus.stage.client(), bus.stage.client()
        for number in range(5):
            own.request(service, OWN, b"%d" % number)
        assert "3 requests wait" in refusal(own.reply())
        assert "3 requests wait" in refusal(own.reply())
        foreign.request(service, b"too many")
        nothing_for(foreign)
        assert bus.statistic("refused") == 3
        assert bus.statistic("queued") == 3
        worker = bus.stage.worker(service)
        for number in range(3):
            request = worker.request()
            assert request.body == [OWN, b"%d" % number]
            worker.reply(request, b"done")
            assert own.reply().body == [b"done"]
        bus.at_rest()


def test_one_full_queue_is_no_other_services_matter() -> None:
    full, other = unique(), unique()
    with running_bus(heartbeat=FOR_EVER_MS, queue_requests=1) as bus:
        client = bus.stage.client()
        client.request(full, OWN)
        client.request(other, OWN)
        client.request(full, OWN)
        assert client.reply().service == full
        assert bus.statistic("queued") == 2


def test_the_memory_of_all_queues_together_is_bounded() -> None:
    with running_bus(heartbeat=FOR_EVER_MS, queue_bytes=64 * KIB) as bus:
        own, foreign = bus.stage.client(), bus.stage.client()
        names = [unique() for _ in range(4)]
        for name in names:
            own.request(name, OWN, bytes(20 * KIB))
        assert "memory is full" in refusal(own.reply())
        foreign.request(names[0], bytes(20 * KIB))
        nothing_for(foreign)
        assert bus.statistic("queued") == 3
        assert 60 * KIB < bus.statistic("held_bytes") <= 64 * KIB
        assert bus.call(lambda broker: names[3] not in broker.services), "the refused one left its name"
        for name in names[:3]:
            worker = bus.stage.worker(name)
            worker.echo = True
            assert own.reply().service == name
        bus.at_rest()
        own.request(names[3], OWN, bytes(20 * KIB))
        bus.eventually(lambda broker: broker.queued == 1)


def test_small_frames_count_with_what_they_cost() -> None:
    """A thousand empty frames are not free."""
    with running_bus(heartbeat=FOR_EVER_MS, queue_bytes=64 * KIB) as bus:
        client, service = bus.stage.client(), unique()
        for _ in range(2):
            client.request(service, OWN, *([b""] * 1000))
        assert "memory is full" in refusal(client.reply())


def test_a_budget_counts_what_is_taken_by_force() -> None:
    budget = Budget(10)
    assert budget.take(8)
    assert not budget.take(3)
    assert budget.take(3, force=True)
    assert not budget.take(0, unless=True)
    budget.give(11)
    assert budget.used == 0


def test_a_request_has_a_size_of_its_frames_and_itself() -> None:
    assert Request(b"c", [b"12345"], 0).size - Request(b"c", [b""], 0).size == 5
    assert Request(b"c", [b"", b""], 0).size > Request(b"c", [b""], 0).size > 0


def test_names_of_services_are_bounded_in_number(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    known = bus.call(lambda broker: len(broker.services))
    monkeypatch.setattr(mdp, "SERVICE_LIMIT", known + 2)
    client, names = bus.stage.client(), [unique() for _ in range(3)]
    for name in names:
        client.request(name, OWN)
    reply = client.reply()
    assert reply.service == names[2]
    assert "too many services" in refusal(reply)
    assert bus.call(lambda broker: len(broker.services)) == known + 2


def test_workers_are_bounded_in_number(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mdp, "WORKER_LIMIT", 2)
    service = unique()
    workers = bus.stage.idle_workers(service, 2)
    late = bus.stage.worker(service)
    late.wait_disconnect()
    assert bus.statistic("workers") == 2
    assert not any(worker.disconnects for worker in workers)


@pytest.mark.parametrize("length", [0, 256, 100_000])
def test_a_name_that_is_empty_or_too_long_is_no_name(bus: Bus, length: int) -> None:
    name = b"n" * length
    client, worker = bus.stage.client(), bus.stage.worker(name)
    client.request(name, OWN)
    nothing_for(client)
    bus.eventually(lambda broker: broker.statistics()["broker.malformed"] == 2)
    assert bus.call(lambda broker: (len(broker.services), len(broker.workers))) == (0, 0)
    assert not worker.log


@pytest.mark.parametrize("extra", [-1, 0, 1, 500])
def test_a_message_of_too_many_frames_is_dropped_never_cut(bus: Bus, extra: int) -> None:
    service, client = unique(), bus.stage.client()
    worker = bus.stage.idle_worker(service)
    body = [b"%d" % number for number in range(mdp.FRAME_LIMIT - 4 + extra)]
    client.request(service, *body)
    client.request(service, b"the next")
    request = worker.request()
    if extra <= 0:
        assert request.body == body
        worker.reply(request, b"done")
        request = worker.request()
    assert request.body == [b"the next"]
    assert bus.statistic("malformed") == (extra > 0)


# ---------------------------------------------------------------- expiry


def test_a_request_that_nobody_takes_expires() -> None:
    with running_bus(heartbeat=100, liveness=PATIENT, request_expiry=0.2) as bus:
        own, foreign, service = bus.stage.client(), bus.stage.client(), unique()
        foreign.request(service, b"mine")
        own.request(service, OWN, b"mine")
        assert "in its time" in refusal(own.reply())
        bus.eventually(lambda broker: broker._refused.value == 2)
        nothing_for(foreign)
        bus.eventually(lambda broker: service not in broker.services, "its name is forgotten")
        bus.at_rest()
        worker = bus.stage.worker(service)
        bus.eventually(lambda broker: broker.workers)
        assert not worker.requests


def test_a_command_to_a_device_that_says_nothing_of_its_time_expires_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mdp, "COMMAND_LIFETIME", 0.1)
    with running_bus(heartbeat=100, liveness=PATIENT) as bus:
        client, service = bus.stage.client(), unique() + b".devices"
        client.request(service, b"exec", b"heater", b"power", b"on")
        bus.eventually(lambda broker: broker._refused.value == 1)
        client.request(service, b"list")
        worker = bus.stage.worker(service)
        assert worker.request().body == [b"list"]


def test_a_request_expires_when_it_says_so_itself_wherever_it_stands() -> None:
    with running_bus(heartbeat=50, liveness=PATIENT) as bus:
        client, service = bus.stage.client(), unique()
        client.request(service, OWN, b"0")
        client.request(service, OWN + b" 0.05", b"late")
        client.request(service, OWN + b" 1000", b"1")
        assert "in its time" in refusal(client.reply())
        assert bus.statistic("queued") == 2
        worker = bus.stage.worker(service)
        for number in range(2):
            request = worker.request()
            assert request.body[1] == b"%d" % number
            worker.reply(request, b"done")
        assert [client.reply().body for _ in range(2)] == [[b"done"]] * 2
        bus.at_rest()


def test_a_request_is_given_to_no_worker_after_its_time(bus: Bus) -> None:
    client, service = bus.stage.client(), unique()
    worker, held = bus.stage.busy_worker(service, client, OWN, b"slow")
    client.request(service, OWN + b" 0.05", b"late")
    client.request(service, OWN, b"next")
    bus.eventually(lambda broker: broker.queued == 2)
    end = time.monotonic() + 0.06
    bus.eventually(lambda _: time.monotonic() > end)
    worker.reply(held, b"done")
    assert worker.request().body == [OWN, b"next"]
    bodies = [client.reply().body for _ in range(2)]
    assert [b"done"] in bodies
    assert [json.loads(body[0]) for body in bodies if body != [b"done"]] == ["no worker took the request in its time"]


def test_a_request_without_any_time_is_run_at_once_or_never(bus: Bus) -> None:
    client, service = bus.stage.client(), unique()
    worker, held = bus.stage.busy_worker(service, client, OWN, b"slow")
    client.request(service, OWN + b" 0", b"never")
    bus.eventually(lambda broker: broker.queued == 1)
    worker.reply(held, b"done")
    bodies = [client.reply().body for _ in range(2)]
    assert sorted(body[-1] for body in bodies) == [b"503", b"done"]
    assert not worker.requests


@pytest.mark.parametrize("own", [b" 1000", b" -1", b" x", b""])
def test_no_request_waits_for_longer_than_the_broker_allows(own: bytes) -> None:
    with running_bus(heartbeat=50, request_expiry=0.05) as bus:
        client = bus.stage.client()
        client.request(unique(), OWN + own, b"work")
        assert "in its time" in refusal(client.reply())


def test_a_time_in_another_frame_is_none(bus: Bus) -> None:
    client, service = bus.stage.client(), unique()
    client.request(service, b"work", OWN + b" 0")
    bus.eventually(lambda broker: broker.queued == 1)
    worker = bus.stage.worker(service)
    assert worker.request().body == [b"work", OWN + b" 0"]


def test_a_request_whose_worker_died_is_not_begun_again_after_its_time(bus: Bus) -> None:
    client, service = bus.stage.client(), unique()
    worker = bus.stage.idle_worker(service)
    client.request(service, OWN + b" 0.2", b"work")
    worker.request()
    end = time.monotonic() + 0.2
    bus.eventually(lambda _: time.monotonic() > end)
    worker.close()
    second = bus.stage.worker(service)
    assert "in its time" in refusal(client.reply())
    assert not second.requests


def hasten(broker: Broker, service: bytes) -> None:
    """The time is over of what waits for a service."""
    for request in broker.services[service].requests:
        request.expiry = 0.0


def test_a_client_of_ours_is_told_by_its_name_too() -> None:
    """What Titanic sends to a foreign service must not begin with an id."""
    with running_bus(heartbeat=50, queue_requests=1) as bus:
        titanic, foreign, service = bus.stage.client(OWN), bus.stage.client(b"RASPY"), unique()
        titanic.request(service, b"first")
        titanic.request(service, b"too many")
        assert "1 requests wait" in refusal(titanic.reply())
        bus.call(lambda broker: hasten(broker, service))
        assert "in its time" in refusal(titanic.reply())
        foreign.request(service, b"first")
        foreign.request(service, b"too many")
        bus.eventually(lambda broker: broker._refused.value == 3)
        bus.call(lambda broker: hasten(broker, service))
        bus.eventually(lambda broker: broker._refused.value == 4)
        nothing_for(foreign)


def test_a_request_that_is_worked_on_does_not_expire() -> None:
    with running_bus(heartbeat=100, liveness=PATIENT, request_expiry=0.1) as bus:
        client, service = bus.stage.client(), unique()
        worker, request = bus.stage.busy_worker(service, client, OWN, b"slow")
        client.request(service, OWN, b"waits")
        assert "in its time" in refusal(client.reply())
        worker.reply(request, b"done")
        assert client.reply().body == [b"done"]
        bus.at_rest()


# ---------------------------------------------------------------- workers that die


@pytest.mark.parametrize("busy", [False, True])
def test_a_closed_connection_is_noticed_without_any_heartbeat(bus: Bus, busy: bool) -> None:
    service, client = unique(), bus.stage.client()
    if busy:
        worker, request = bus.stage.busy_worker(service, client, b"precious")
    else:
        worker = bus.stage.idle_worker(service)
    worker.close()
    bus.eventually(lambda broker: not broker.workers, "the loss is noticed")
    if busy:
        second = bus.stage.worker(service)
        again = second.request()
        assert (again.body, again.client) == (request.body, request.client)
        second.reply(again, b"done")
        assert client.reply().body == [b"done"]
        assert bus.statistic("redispatched") == 1
    bus.at_rest()


def test_a_hundred_workers_that_die_at_once_are_all_noticed(bus: Bus) -> None:
    names = [unique() for _ in range(100)]
    workers = [bus.stage.worker(name) for name in names]
    survivor = bus.stage.idle_worker(b"survivor")
    bus.eventually(lambda broker: len(broker.workers) == 101)
    for worker in workers:
        worker.close()
    bus.eventually(lambda broker: len(broker.workers) == 1)
    assert not survivor.disconnects
    assert bus.call(lambda broker: list(broker.services)) == [b"survivor"]


@pytest.mark.parametrize("own", [True, False])
def test_a_request_that_kills_its_workers_is_answered_in_the_end(own: bool) -> None:
    with running_bus(heartbeat=FOR_EVER_MS, attempts=2) as bus:
        client, service = bus.stage.client(), unique()
        client.request(service, *([OWN] if own else []), b"poison")
        for _ in range(2):
            worker = bus.stage.worker(service)
            worker.request()
            worker.close()
        reply = client.reply()
        assert reply.body[1] == b"500"
        assert json.loads(reply.body[0]) == f"2 workers of {service.decode()} died over this request"
        bus.at_rest()
        assert bus.call(lambda broker: (broker.workers, broker.services)) == ({}, {})


def silence(broker: Broker) -> None:
    """All workers have been silent for too long."""
    for worker in broker.workers.values():
        worker.expiry = 0.0
    broker.purge_workers()


def test_the_workers_of_a_process_that_stalls_are_not_tried_one_after_the_other() -> None:
    with running_bus(heartbeat=FOR_EVER_MS, attempts=2) as bus:
        client, service = bus.stage.client(), unique()
        for _ in range(3):
            bus.stage.worker(service)
        bus.eventually(lambda broker: len(broker.workers) == 3)
        client.request(service, b"precious")
        bus.eventually(lambda broker: any(worker.request for worker in broker.workers.values()))
        bus.call(silence)
        assert bus.call(lambda broker: (len(broker.workers), broker.queued)) == (0, 1)
        again = bus.stage.worker(service)
        again.reply(again.request(), b"done")
        assert client.reply().body == [b"done"]
        bus.at_rest()


def test_a_request_of_a_dead_worker_comes_before_those_that_wait(bus: Bus) -> None:
    client, service = bus.stage.client(), unique()
    first, _ = bus.stage.busy_worker(service, client, b"0")
    client.request(service, b"1")
    client.request(service, b"2")
    bus.eventually(lambda broker: broker.queued == 2)
    first.close()
    bus.eventually(lambda broker: broker.queued == 3)
    second = bus.stage.worker(service)
    order = []
    for _ in range(3):
        request = second.request()
        order += request.body
        second.reply(request, *request.body)
    assert order == [b"0", b"1", b"2"]
    assert [client.reply().body for _ in range(3)] == [[b"0"], [b"1"], [b"2"]]
    bus.at_rest()


def test_a_dead_workers_request_is_kept_even_where_the_queue_is_full() -> None:
    """What was accepted is not refused later."""
    with running_bus(heartbeat=FOR_EVER_MS, queue_requests=1, queue_bytes=64 * KIB) as bus:
        client, service, body = bus.stage.client(), unique(), bytes(50 * KIB)
        first, _ = bus.stage.busy_worker(service, client, OWN, body)
        client.request(service, OWN, body)
        bus.eventually(lambda broker: broker.queued == 1)
        first.close()
        bus.eventually(lambda broker: broker.queued == 2)
        assert bus.statistic("held_bytes") > 100 * KIB
        bus.stage.worker(service).echo = True
        assert [len(client.reply().body) for _ in range(2)] == [2, 2]
        bus.at_rest()
        assert bus.statistic("refused") == 0


def test_a_worker_that_dies_while_it_is_given_a_request_costs_nothing(bus: Bus) -> None:
    """It may be the first of the idle ones until the broker sees that its connection is gone."""
    client, service = bus.stage.client(), unique()
    workers = bus.stage.idle_workers(service, 5)
    for worker in workers[:4]:
        worker.close()
        client.request(service, b"work")
    last = workers[4]
    for _ in range(4):
        last.reply(last.request(), b"done")
        assert client.reply().body == [b"done"]
    bus.at_rest()


def test_names_are_forgotten_when_nobody_uses_them(bus: Bus) -> None:
    used, gone, waited_for = unique(), unique(), unique()
    client = bus.stage.client()
    bus.stage.idle_worker(used)
    bus.stage.idle_worker(gone).disconnect()
    client.request(waited_for, b"work")
    client.request(b"mmi.service", unique())
    bus.eventually(lambda broker: set(broker.services) == {used, waited_for})
    worker = bus.stage.worker(waited_for)
    worker.reply(worker.request(), b"done")
    client.reply()
    worker.disconnect()
    bus.eventually(lambda broker: set(broker.services) == {used})


def test_nobody_registers_as_the_broker_itself(bus: Bus) -> None:
    for name in (b"mmi.service", b"mmi.", b"mmi.new"):
        bus.stage.worker(name).wait_disconnect()
    assert bus.call(lambda broker: (broker.workers, broker.services)) == ({}, {})
    assert bus.statistic("unexpected") == 3


def test_a_worker_with_a_name_close_to_the_brokers_own_is_one_like_any(bus: Bus) -> None:
    for name in (b"mmi", b"mmix", b"MMI.service"):
        bus.stage.idle_worker(name)
    assert bus.call(lambda broker: set(broker.services)) == {b"mmi", b"mmix", b"MMI.service"}


@pytest.mark.parametrize("frames", [[b"\x03"], [b"\x03", b"x"], [b"\x03", b"x", b""], [b"\x01"], [b"\x09"], [b""]])
def test_bad_commands_of_a_busy_worker_lose_no_request(bus: Bus, frames: list[bytes]) -> None:
    client, service = bus.stage.client(), unique()
    worker, request = bus.stage.busy_worker(service, client, b"work")
    worker.command(frames[0], *frames[1:])
    worker.reply(request, b"done")
    assert client.reply().body == [b"done"]
    assert bus.statistic("malformed") == 1


# ---------------------------------------------------------------- clients that go away, or do not read


def test_a_reply_to_a_client_that_is_gone_is_dropped(bus: Bus) -> None:
    client, other, service = bus.stage.client(), bus.stage.client(), unique()
    worker, request = bus.stage.busy_worker(service, client, b"work")
    client.close()

    worker.reply(request, b"too late")
    other.request(service, b"next")
    worker.reply(worker.request(), b"done")
    assert other.reply().body == [b"done"]
    bus.at_rest()
    assert bus.statistic("errors") == 0


@pytest.mark.parametrize("service", [b"titanic.request", b"titanic.reply", b"titanic.close"])
def test_a_client_of_9tsp_gets_the_status_in_front(service: bytes) -> None:
    with running_bus(heartbeat=FOR_EVER_MS, attempts=1) as bus:
        client = bus.stage.client()
        worker = bus.stage.idle_worker(service)
        client.request(service, b"work")
        worker.request()
        worker.close()
        assert client.reply().body == [b"500 1 workers of " + service + b" died over this request"]


def test_what_a_client_that_is_gone_asked_for_is_still_done_and_given_back(bus: Bus) -> None:
    client, service = bus.stage.client(b"short-lived"), unique()
    for _ in range(10):
        client.request(service, b"work")
    bus.eventually(lambda broker: broker.queued == 10)
    client.close()

    def gone(broker: Broker) -> bool:
        try:
            broker._send([b"short-lived", b""])
        except zmq.ZMQError:
            return True
        return False

    bus.eventually(gone)
    worker = bus.stage.worker(service)
    worker.echo = True
    bus.eventually(lambda broker: broker.outbox.dropped == 10)
    bus.at_rest()


def read_all(dealer: zmq.Socket[bytes], count: int) -> list[list[bytes]]:
    """Up to so many messages, fewer when no more come."""
    got: list[list[bytes]] = []
    while len(got) < count and dealer.poll(int(LIMIT * 1000)):
        got.append(dealer.recv_multipart())
    return got


def test_replies_for_a_client_that_does_not_read_are_held_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("raspy.servers.broker.broker.PEER_LIMIT", FEW)
    count, padding = 300, bytes(10 * KIB)
    with running_bus(heartbeat=FOR_EVER_MS) as bus:
        service = unique()
        worker = bus.stage.idle_worker(service)
        worker.echo = True
        dealer = bus.dealer(rcvhwm=1, sndhwm=0)
        for number in range(count):
            dealer.send_multipart([b"", CLIENT, service, b"%d" % number, padding])
        # The worker is free again: its last reply has come too.
        bus.eventually(lambda broker: broker._requests.value == count + 1 and broker.services[service].waiting)
        assert bus.call(lambda broker: len(broker.outbox._held)) == 1
        assert bus.statistic("held_bytes") > 100 * KIB
        bus.stage.probe()
        got = read_all(dealer, count)
        assert [int(frames[3]) for frames in got] == list(range(count))
        bus.at_rest()
        assert bus.statistic("replies_dropped") == 0


def test_replies_beyond_the_budget_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raspy.servers.broker.broker.PEER_LIMIT", FEW)
    count, padding = 300, bytes(10 * KIB)
    with running_bus(heartbeat=FOR_EVER_MS, queue_bytes=256 * KIB) as bus:
        service = unique()
        worker, client = bus.stage.idle_worker(service), bus.stage.client()
        worker.echo = True
        dealer = bus.dealer(rcvhwm=1, sndhwm=0)
        for number in range(count):
            dealer.send_multipart([b"", CLIENT, service, b"%d" % number, padding])
            # one at a time: requests that wait would need the budget too
            bus.eventually(lambda broker, taken=number + 2: broker._requests.value == taken)  # type: ignore[misc]
            bus.eventually(lambda broker: broker.services[service].waiting)
        dropped = bus.statistic("replies_dropped")
        assert dropped > 0
        assert bus.statistic("held_bytes") <= 256 * KIB
        assert client.ask(service, b"others are answered") == [b"others are answered"]
        got = read_all(dealer, count - dropped)
        numbers = [int(frames[3]) for frames in got]
        assert len(numbers) == count - dropped
        assert numbers == sorted(numbers)
        bus.at_rest()


def test_what_is_held_for_a_client_goes_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raspy.servers.broker.broker.PEER_LIMIT", FEW)
    with running_bus(heartbeat=FOR_EVER_MS) as bus:
        service = unique()
        bus.stage.idle_worker(service).echo = True
        dealer = bus.dealer(rcvhwm=1, sndhwm=0)
        for _ in range(200):
            dealer.send_multipart([b"", CLIENT, service, bytes(10 * KIB)])
        bus.eventually(lambda broker: broker._requests.value == 201 and not broker.queued)
        assert bus.statistic("held_bytes") > 0
        dealer.close(linger=0)
        bus.at_rest()
        assert bus.statistic("replies_dropped") > 0


# ---------------------------------------------------------------- start, stop, addresses


def test_workers_are_told_when_the_broker_stops(bus: Bus) -> None:
    worker = bus.stage.idle_worker(unique())
    bus.runner.stop()
    assert bus.stage.until(lambda: worker.disconnects == 1)
    bus.restart()


def test_a_second_broker_in_the_same_place_is_refused(bus: Bus) -> None:
    second = Broker("pi", broker_ip=bus.ip, broker_port=BASE)
    with pytest.raises(ConfigError, match=f"{BASE} is taken: a broker runs already"):
        second.run()
    bus.stage.probe()


def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"broker_port: port {port} is taken"):
            Broker("pi", broker_ip="127.0.0.1", broker_port=port).run()


def test_a_directory_that_is_missing_is_named() -> None:
    with short_directory() as directory, pytest.raises(ConfigError, match="must exist"):
        Broker("pi", broker_ip=f"ipc://{directory}/missing").run()


def test_a_socket_that_a_dead_broker_left_is_taken_over() -> None:
    with short_directory() as directory:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(f"{directory}/{BASE}")
        with running_bus() as bus:
            bus.runner.stop()
            bus.ip = f"ipc://{directory}"
            bus.restart()
            assert os.stat(f"{directory}/{BASE}").st_mode & 0o777 == 0o660


def test_a_broker_whose_socket_was_removed_ends_to_be_started_anew(bus: Bus) -> None:
    broker = bus.runner.executive
    bus.runner.call(broker._look_after)
    assert not broker.stopping
    os.unlink(f"{bus.ip.removeprefix('ipc://')}/{BASE}")
    bus.runner.call(broker._look_after)
    assert broker.stopping
    bus.restart()


@pytest.mark.parametrize("address", ["0.0.0.0", "192.168.1.5", "*", "pi.local", "::", "127.1.evil", ""])
def test_only_this_machine_may_be_listened_to(address: str) -> None:
    with pytest.raises(ConfigError, match="no encryption"):
        check_address(address)
    with pytest.raises(ConfigError, match="broker_ip"):
        Broker("pi", broker_ip=address).run()


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "localhost", "::1", "ipc:///run/raspy"])
def test_loopback_and_directories_are_allowed(address: str) -> None:
    check_address(address)


def test_a_heartbeat_goes_to_workers_that_heard_nothing_else() -> None:
    with running_bus(heartbeat=50, liveness=PATIENT) as bus:
        worker = bus.stage.idle_worker(unique())
        assert bus.stage.until(lambda: len(worker.beats) >= 5, LIMIT)
        assert not worker.disconnects


def test_a_silent_worker_is_told_that_it_was_given_up() -> None:
    with running_bus(heartbeat=50, liveness=PATIENT) as bus:
        worker = bus.stage.idle_worker(unique())
        bus.call(lambda broker: setattr(broker, "HEARTBEAT_EXPIRY", 100))
        worker.heartbeat()
        worker.beating = False
        assert bus.stage.until(lambda: worker.disconnects == 1)
        assert worker.log[-1] == [b"", b"MDPW01", DISCONNECT]
        bus.eventually(lambda broker: not broker.workers and not broker.services)


def test_what_an_owner_sees(bus: Bus) -> None:
    before = time.monotonic()
    bus.stage.probe()
    seen: dict[str, Any] = bus.call(lambda broker: broker.statistics())
    assert seen["broker.requests"] >= 1
    assert 0 <= seen["broker.longest_turn"] <= (time.monotonic() - before) * 1000 + 60_000
    assert seen["broker.errors"] == 0
    assert all(name.startswith("broker.") for name in seen)
