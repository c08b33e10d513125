"""Commands of cron jobs on their way: a real broker, a Titanic and a device that fail where the test wants it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from raspy.common import MDP, buscall
from raspy.common.server import Server
from raspy.common.verbs import Later, Verbs
from raspy.servers.core import delivery
from raspy.servers.core.cron import Command
from raspy.servers.core.delivery import DONE, LATE, REFUSED, UNKNOWN, Delivery
from tests.bus import BASE, Bus, OnThread, running_bus
from tests.fake_titanic import CLOSE, REPLY, REQUEST, FakeTitanic, Frames
from tests.support_devices import LIMIT, patient, short_directory

HEATER = Command("fake.heater", "power", True, 60.0)
BODY = [b"pi.fake.devices", b"exec", b"heater", b"power", b"true", b"60", b"cron warm"]
UUID = b"%032x" % 1
DEVICES = Verbs("devices")


@DEVICES.verb(name="exec")
def execute(server: Device, *words: str) -> Later:
    """Do a command."""
    server.done.append(list(words))
    later = Later()
    if server.hangs:
        server.held.append(later)
    else:
        later.reply(server.answer)
    return later


class Device(Server):
    """A server with a heater."""

    def __init__(self, bus: Bus) -> None:
        super().__init__("pi", "fake", bus.ip, BASE)
        self.done: list[list[str]] = []
        self.held: list[Later] = []
        self.hangs = False
        self.answer = True

    def worker_devices(self) -> Verbs:
        """Serve it."""
        return DEVICES


class Sender(Server):
    """A loop that the test turns, and what became of the commands that it sends."""

    def __init__(self, ip: str, titanic: bool) -> None:
        super().__init__("pi", "core", ip, BASE)
        self.delivery = Delivery(self, titanic)
        self.told: list[tuple[str, str]] = []
        self.kept = 0

    def send(self) -> None:
        """Send a command."""
        self.delivery.send(HEATER, MDP.new_id(), "cron warm", self._note_end, self._note_kept, LIMIT)

    def fails(self, problem: str) -> None:
        """Wait until the one command that is on its way has a problem, and have its lifetime be over then."""
        (flight,) = self.delivery._flights
        self.until(lambda: flight.problem == problem)
        self.age()

    def age(self) -> None:
        """Have the lifetime of all be over."""
        for flight in (*self.delivery._flights, *self.delivery._waiting):
            flight.end = time.monotonic()

    def until(self, happened: Callable[[], Any]) -> None:
        """Turn until something is so."""
        end = time.monotonic() + LIMIT
        while not happened():
            assert time.monotonic() < end, "did not happen"
            self.turn(0.02)

    def landed(self, count: int = 1) -> tuple[str, str]:
        """Wait until so many commands are over; what became of the last."""
        self.until(lambda: len(self.told) == count)
        assert self.kept >= count
        assert self.delivery.flying == 0
        return self.told[-1]

    def close(self) -> None:
        """End it; nothing unexpected may have happened."""
        self.delivery.close()
        self.destroy()
        assert self.errors == 0, self.last_error

    def _note_end(self, how: str, why: str) -> None:
        self.told.append((how, why))

    def _note_kept(self) -> None:
        self.kept += 1


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "TRY", 0.3)
    monkeypatch.setattr(delivery, "PAUSE", 0.02)
    monkeypatch.setattr(delivery, "AFTER", 0.2)
    monkeypatch.setattr(delivery, "FORGET", 0.05)


@pytest.fixture
def bus() -> Iterator[Bus]:
    with patient(), running_bus() as bus:
        yield bus


@pytest.fixture
def titanic(bus: Bus) -> Iterator[FakeTitanic]:
    with FakeTitanic(bus) as titanic:
        yield titanic


@pytest.fixture
def device(bus: Bus) -> Iterator[Device]:
    device = Device(bus)
    runner = OnThread(device).wait()
    bus.eventually(lambda broker: b"pi.fake.devices" in broker.services, "the device")
    yield device
    runner.stop()


@pytest.fixture
def sender(bus: Bus) -> Iterator[Sender]:
    made = Sender(bus.ip, True)
    yield made
    made.close()


@pytest.fixture
def direct(bus: Bus) -> Iterator[Sender]:
    made = Sender(bus.ip, False)
    yield made
    made.close()


# Through Titanic


def test_it_is_safe_once_titanic_has_it_and_forgotten_there_when_it_is_done(
    sender: Sender, titanic: FakeTitanic
) -> None:
    sender.send()
    sender.until(lambda: sender.kept)
    assert titanic.kept == {UUID: BODY}
    sender.until(lambda: titanic.count(REPLY) > 1)
    assert sender.told == []
    titanic.replies[UUID] = [b"200", b"true", b"200"]
    assert sender.landed() == (DONE, "")
    sender.until(lambda: titanic.closed == [UUID])


@pytest.mark.parametrize(
    ("reply", "how", "why"),
    [
        ([b"200", b'"it is blocked"', b"409"], REFUSED, "409: it is blocked"),
        ([b"200", b"\xff{", b"500"], REFUSED, "500: \ufffd{"),
        ([b"200", b"[" * 100_000, b"500"], REFUSED, f"500: {'[' * delivery.SHOWN}"),
        ([b"200", b"501"], REFUSED, "501: without a reason"),
        ([b"200"], REFUSED, "an empty answer: without a reason"),
        ([b"500 late: nobody took it"], LATE, "titanic: 500 late: nobody took it"),
        ([b"500 parked after 5 tries"], REFUSED, "titanic: 500 parked after 5 tries"),
        ([b"400 unknown"], UNKNOWN, "titanic does not know the request any more"),
    ],
)
def test_what_became_of_it_is_told_as_titanic_has_it(
    sender: Sender, titanic: FakeTitanic, reply: Frames, how: str, why: str
) -> None:
    titanic.replies[UUID] = reply
    sender.send()
    assert sender.landed() == (how, why)
    # What it does not know it cannot forget.
    if how != UNKNOWN:
        sender.until(lambda: titanic.closed == [UUID])
    else:
        assert titanic.count(CLOSE) == 0


def test_an_error_of_titanic_s_own_says_nothing_and_it_is_asked_again(sender: Sender, titanic: FakeTitanic) -> None:
    titanic.replies[UUID] = [b"500 the disk is full"]
    sender.send()
    sender.until(lambda: titanic.count(REPLY) > 2)
    assert sender.told == []
    titanic.replies[UUID] = [b"200", b"200"]
    assert sender.landed()[0] == DONE


def test_a_reply_that_never_comes_is_not_waited_for_for_ever(sender: Sender, titanic: FakeTitanic) -> None:
    sender.send()
    sender.until(lambda: sender.kept)
    sender.age()
    how, why = sender.landed()
    assert how == UNKNOWN
    assert why.startswith("there is no answer yet; see request ")
    assert why.split()[-1].encode() in titanic.kept
    # Once it has it, it is Titanic's.
    assert titanic.count(REQUEST) == 1


def test_what_titanic_may_have_is_sent_to_it_again_under_the_same_id_and_to_nobody_else(
    sender: Sender, titanic: FakeTitanic, device: Device
) -> None:
    titanic.die_after_commit.set()
    titanic.replies[UUID] = [b"200", b"true", b"200"]
    sender.send()
    assert sender.landed() == (DONE, "")
    assert titanic.count(REQUEST) == 2
    assert len({MDP.parse_id(frame)[0] for frame in titanic.ids()}) == 1  # type: ignore[index]
    assert device.done == []


def test_what_titanic_may_have_waits_for_it_to_be_back(sender: Sender, titanic: FakeTitanic, device: Device) -> None:
    titanic.deaf.set()
    titanic.replies[UUID] = [b"200", b"true", b"200"]
    sender.send()
    (flight,) = sender.delivery._flights
    sender.until(lambda: flight.problem == "titanic does not answer")
    titanic.deaf.clear()
    titanic.reopen.set()
    assert sender.landed() == (DONE, "")
    assert titanic.count(REQUEST) > 1
    sender.until(lambda: titanic.closed == [UUID])
    assert list(titanic.kept) == [UUID]
    assert device.done == []


def test_what_titanic_never_said_that_it_has_is_late(sender: Sender, titanic: FakeTitanic, device: Device) -> None:
    titanic.deaf.set()
    sender.send()
    sender.fails("titanic does not answer")
    assert sender.landed() == (LATE, "nobody took it in time: titanic does not answer")
    assert device.done == []


def test_what_titanic_refuses_goes_straight_to_the_device(
    sender: Sender, titanic: FakeTitanic, device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    titanic.before = lambda service, body: [b"500 the disk is full"] if service == REQUEST else None
    sender.send()
    assert sender.landed() == (DONE, "")
    assert device.done == [["heater", "power", "true", "60", "cron warm"]]
    assert "titanic: 500 the disk is full: sent past it: pi.fake.devices" in caplog.text


def test_without_a_broker_it_is_late() -> None:
    with short_directory() as nowhere:
        sender = Sender(f"ipc://{nowhere}", True)
        sender.send()
        sender.fails("the broker does not answer")
        assert sender.landed() == (LATE, "nobody took it in time: the broker does not answer")
        sender.close()


# Straight to the device


def test_a_device_that_hangs_is_asked_again_and_does_it_once(direct: Sender, device: Device) -> None:
    device.hangs = True
    direct.send()
    direct.until(lambda: device.held)
    flight = next(iter(direct.delivery._flights))
    direct.until(lambda: flight.problem == "pi.fake.devices does not answer")
    later = device.held[0]
    device.call_threadsafe(lambda: later.reply(True))
    assert direct.landed() == (DONE, "")
    assert len(device.done) == 1


@pytest.mark.parametrize(("problem", "why"), [("it is blocked", "409: it is blocked"), ("x" * 500, None)])
def test_a_refusal_is_told_with_its_reason(direct: Sender, device: Device, problem: str, why: str | None) -> None:
    device.hangs = True
    direct.send()
    direct.until(lambda: device.held)
    device.call_threadsafe(lambda: device.held[0].fail(MDP.CONFLICT, problem))
    assert direct.landed() == (REFUSED, why or f"409: {'x' * delivery.SHOWN}")


def test_what_waits_behind_others_can_be_late(direct: Sender, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "FLYING", 1)
    device.hangs = True
    direct.send()
    direct.send()
    assert direct.delivery.flying == 2
    direct.fails("pi.fake.devices does not answer")
    direct.landed(2)
    assert direct.told == [
        (LATE, "nobody took it in time: pi.fake.devices does not answer"),
        (LATE, "nobody took it in time"),
    ]


def test_there_are_so_many_on_their_way_and_no_more(direct: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "FLYING", 1)
    monkeypatch.setattr(delivery, "WAITING", 1)
    for _ in range(3):
        direct.send()
    assert direct.told == [(REFUSED, "2 commands are on their way already")]
    assert direct.kept == 1
    assert direct.delivery.flying == 2


@pytest.mark.parametrize("titanic_there", [True, False])
def test_a_connection_that_takes_no_more_is_tried_again(
    bus: Bus, device: Device, monkeypatch: pytest.MonkeyPatch, titanic_there: bool
) -> None:
    sender = Sender(bus.ip, titanic_there)
    monkeypatch.setattr(buscall, "WAITING", 0)
    sender.send()
    (flight,) = sender.delivery._flights
    assert flight.problem.startswith("0 requests wait for ")
    monkeypatch.setattr(buscall, "WAITING", 300)
    assert sender.landed() == (DONE, "")
    sender.close()


def test_an_answer_that_cannot_be_asked_for_now_is_asked_for_later(
    sender: Sender, titanic: FakeTitanic, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender.send()
    sender.until(lambda: titanic.count(REPLY))
    monkeypatch.setattr(buscall, "WAITING", 0)
    (flight,) = sender.delivery._flights
    sender.delivery._ask(flight)
    # Nor forgotten there, which is no reason not to tell.
    sender.delivery._forget(flight)
    monkeypatch.setattr(buscall, "WAITING", 300)
    titanic.replies[UUID] = [b"200", b"200"]
    assert sender.landed() == (DONE, "")


def test_after_its_end_nothing_is_sent_and_nobody_told(
    bus: Bus, titanic: FakeTitanic, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is on its way then is told at the next start."""
    waits, asks, tries = Sender(bus.ip, True), Sender(bus.ip, True), Sender(bus.ip, False)
    monkeypatch.setattr(buscall, "WAITING", 0)
    waits.send()
    monkeypatch.setattr(buscall, "WAITING", 300)
    asks.send()
    asks.until(lambda: asks.kept)
    monkeypatch.setattr(buscall, "WAITING", 0)
    asks.delivery._ask(next(iter(asks.delivery._flights)))
    monkeypatch.setattr(buscall, "WAITING", 300)
    device.hangs = True
    tries.send()
    (flight,) = tries.delivery._flights
    tries.until(lambda: flight.problem)
    for sender in (waits, asks, tries):
        sender.delivery.close()
    before = (list(titanic.got), len(device.done))
    titanic.replies[UUID] = [b"200", b"200"]
    end = time.monotonic() + 0.2
    while time.monotonic() < end:
        for sender in (waits, asks, tries):
            sender.turn(0.01)
    assert (titanic.got, len(device.done)) == before
    for sender in (waits, asks, tries):
        assert sender.told == []
        sender.close()
