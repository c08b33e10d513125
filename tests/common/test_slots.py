"""The worker connections of one service."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from raspy.common import slots
from raspy.common.executive import Executive
from raspy.common.slots import Slots
from tests.bus import Bus, OnThread, running, running_bus
from tests.conformance.stage import unique


@pytest.fixture
def bus() -> Iterator[Bus]:
    with running_bus(heartbeat=60_000) as made:
        yield made


@pytest.fixture
def loop(bus: Bus) -> Iterator[OnThread[Executive]]:
    with running(Executive(broker_ip=bus.ip)) as runner:
        yield runner
        assert runner.executive.errors == 0, runner.executive.last_error


@pytest.mark.parametrize("grouped", [False, True])
def test_slots_grow_to_the_most_and_no_further(bus: Bus, loop: OnThread[Executive], grouped: bool) -> None:
    service, held = unique(), []
    made = loop.call(
        lambda: Slots(loop.executive, bus.address, service, lambda body, reply: held.append((body, reply)), 5, grouped)
    )
    client = bus.stage.client()
    for number in range(8):
        client.request(service, b"%d" % number)
    assert bus.stage.until(lambda: len(held) == 5)
    assert loop.call(lambda: len(made.connections)) == 5
    bus.eventually(lambda broker: broker.queued == 3)
    for _ in range(8):
        assert bus.stage.until(lambda: bool(held))
        body, reply = held.pop()
        loop.call(lambda body=body, reply=reply: reply(body))  # type: ignore[misc]
    assert sorted(client.reply().body[0] for _ in range(8)) == [b"%d" % number for number in range(8)]
    loop.call(made.close)
    loop.call(made.close)
    bus.eventually(lambda broker: service not in broker.services)


@pytest.mark.parametrize("grouped", [False, True])
def test_a_single_slot_is_enough_where_that_is_the_most(bus: Bus, loop: OnThread[Executive], grouped: bool) -> None:
    service = unique()
    made = loop.call(lambda: Slots(loop.executive, bus.address, service, lambda body, reply: reply(body), 1, grouped))
    client = bus.stage.client()
    for number in range(5):
        assert client.ask(service, b"%d" % number) == [b"%d" % number]
    assert loop.call(lambda: len(made.connections)) == 1
    loop.call(made.close)


@pytest.mark.parametrize("grouped", [False, True])
def test_slots_that_are_busy_are_not_closed(bus: Bus, loop: OnThread[Executive], grouped: bool) -> None:
    service, held = unique(), []
    made = loop.call(
        lambda: Slots(loop.executive, bus.address, service, lambda body, reply: held.append(reply), 8, grouped)
    )
    clients = [bus.stage.client() for _ in range(6)]
    for client in clients:
        client.request(service, b"work")
    assert bus.stage.until(lambda: len(held) == 6)
    for _ in range(3):
        loop.call(made._shrink)
    assert loop.call(lambda: sum(connection.client is not None for connection in made.connections)) == 6
    for reply in held:
        loop.call(lambda reply=reply: reply([b"done"]))  # type: ignore[misc]
    assert [client.reply().body for client in clients] == [[b"done"]] * 6
    for _ in range(2):
        loop.call(made._shrink)
    assert loop.call(lambda: len(made.connections)) == slots.FEW
    loop.call(made.close)
