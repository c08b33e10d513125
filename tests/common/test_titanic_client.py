"""The client of Titanic: what it sends again, and what it tells whom."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from raspy.common import MDP, mdcliapi
from raspy.common.mdcliapi import TitanicClient
from tests.bus import BASE, Bus, eventually, running_bus
from tests.fake_titanic import CLOSE, REPLY, REQUEST, FakeTitanic, Frames
from tests.support_devices import LIMIT, short_directory

UUID = f"{1:032x}"


@pytest.fixture
def bus() -> Iterator[Bus]:
    with running_bus(heartbeat=60_000) as running:
        yield running


@pytest.fixture
def titanic(bus: Bus) -> Iterator[FakeTitanic]:
    with FakeTitanic(bus) as fake:
        yield fake


@pytest.fixture
def client(bus: Bus) -> Iterator[TitanicClient]:
    with TitanicClient(bus.ip, BASE, poll=10, ttl=LIMIT) as client:
        # A busy machine may take its time: what is closed is closed once.
        client.timeout = int(LIMIT * 1000)
        yield client


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request is sent again because of its answer alone, not because that took a second on a busy machine."""
    monkeypatch.setattr(mdcliapi, "FIRST_TRY", LIMIT)
    monkeypatch.setattr(mdcliapi, "LONGEST_TRY", LIMIT)


class Later:
    """A call on a thread, and what became of it."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self._call = call
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._call()
        except BaseException as error:
            self.error = error

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()

    def wait(self) -> Any:
        self._thread.join(LIMIT)
        assert self.over
        if self.error is not None:
            raise self.error
        return self.result


@contextmanager
def looking_after(client: TitanicClient) -> Iterator[Later]:
    """``run()`` on a thread for the length of a test."""
    runs = Later(client.run)
    try:
        yield runs
    finally:
        client.shutdown()
        runs.wait()


class Told(list[tuple[Any, ...]]):
    """A callback that remembers its calls."""

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        self.append((*args, kwargs))


# ---------------------------------------------------------------- request


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ({}, [b"localhost.worker", b"mmi.echo"]),
        (
            {"hostname": "pi", "service": "fake.devices", "data": ["info", b"\xff"]},
            [b"pi.fake.devices", b"info", b"\xff"],
        ),
        ({"hostname": "", "service": "echo", "data": "bare"}, [b"echo", b"bare"]),
        ({"hostname": "", "service": "echo", "data": b"bare"}, [b"echo", b"bare"]),
        ({"hostname": "", "service": "echo", "data": []}, [b"echo", b""]),
        ({"hostname": "", "service": "a\udcffb", "data": ["ä\udcfe"]}, [b"a\xffb", b"\xc3\xa4\xfe"]),
    ],
)
def test_a_request_is_kept_with_its_frames(
    titanic: FakeTitanic, client: TitanicClient, asked: dict[str, Any], sent: Frames
) -> None:
    assert client.request(**asked) == UUID
    assert titanic.kept == {UUID.encode(): sent}
    (identity,) = titanic.ids()
    assert MDP.parse_id(identity) == (identity, None)


def test_each_request_has_an_id_of_its_own(titanic: FakeTitanic, client: TitanicClient) -> None:
    assert client.request() != client.request()
    assert len(set(titanic.ids())) == 2


def test_a_lifetime_goes_along(titanic: FakeTitanic, client: TitanicClient) -> None:
    client.request(lifetime=30)
    parsed = MDP.parse_id(titanic.ids()[0])
    assert parsed is not None
    assert parsed[1] is not None
    assert 0 < parsed[1] <= 30


@pytest.mark.usefixtures("patient")
def test_waiting_for_titanic_is_a_part_of_the_lifetime(titanic: FakeTitanic, client: TitanicClient) -> None:
    titanic.before = lambda service, body: [b'"full"', b"503"] if titanic.count(REQUEST) < 4 else None
    client.request(lifetime=30)
    # As it was written into each: what would be left by now is nearly the same of all.
    lifetimes = [float(identity.split()[-2]) for identity in titanic.ids()]
    assert len(lifetimes) == 4
    assert lifetimes == sorted(set(lifetimes), reverse=True)
    assert {identity[: MDP.REQUEST_ID_LENGTH] for identity in titanic.ids()} == {titanic.ids()[0][:39]}


def test_a_lifetime_that_ends_before_titanic_has_the_request(titanic: FakeTitanic, client: TitanicClient) -> None:
    titanic.deaf.set()
    with pytest.raises(MDP.ConnectionLost, match=r"no titanic took the request in 0\.2 s"):
        client.request(lifetime=0.2)


@pytest.mark.parametrize("lifetime", [0, -1, 0.0009, float("nan"), float("inf"), 2e9])
def test_what_is_no_lifetime_is_refused(client: TitanicClient, lifetime: float) -> None:
    with pytest.raises(MDP.ClientError, match=r"a lifetime is seconds, 0\.001 to 1e\+09: not "):
        client.request(lifetime=lifetime)


@pytest.mark.parametrize("data", [[b"x"] * 1018, [""] * 5000, [b"x", b"x" * ((16 << 20) + 1)]])
def test_what_the_broker_does_not_carry_is_refused_at_once(data: list[str | bytes]) -> None:
    """No broker is there: it is not even asked."""
    with short_directory() as directory, TitanicClient(f"ipc://{directory}", BASE) as client:
        allowed = r"a request has at most %d frames of 16777216 bytes each"
        with pytest.raises(MDP.ClientError, match=allowed % 1017) as refused:
            client.request(data=data)
        assert not isinstance(refused.value, MDP.ConnectionLost)
        with pytest.raises(MDP.ClientError, match=allowed % 1018):
            client.send("pi.pump", [b"x", *map(mdcliapi._frame, data)])


def test_the_most_frames_and_the_longest_arrive(titanic: FakeTitanic, client: TitanicClient) -> None:
    for data in ([b"%d" % number for number in range(1017)], [b"x", b"y" * (16 << 20)]):
        client.request("pi", "pump", data)
        assert titanic.kept.popitem()[1] == [b"pi.pump", *data]


@pytest.mark.parametrize("field", [{"service": "\ud800"}, {"data": ["\ud800"]}, {"hostname": "\ud800"}])
def test_what_is_no_text_is_refused(client: TitanicClient, field: dict[str, Any]) -> None:
    with pytest.raises(MDP.ClientError, match=r"cannot be sent: it is no text"):
        client.request(**field)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ([b"400 there is no body"], "400 there is no body"),
        ([b"500 the disk is full"], "500 the disk is full"),
        ([b"500\xff"], "500"),
        ([b"200"], "200"),
        ([b"200", b""], "200"),
        ([b"200", b"\xff"], "200"),
        ([b"200", b"\x1b[2J"], "200"),
    ],
)
def test_what_titanic_refuses_is_an_error_with_its_reason(
    titanic: FakeTitanic, client: TitanicClient, answer: Frames, said: str
) -> None:
    titanic.before = lambda service, body: answer
    with pytest.raises(MDP.ClientError, match=f"titanic does not take the request to pi.pump: {said}"):
        client.request("pi", "pump")
    assert titanic.count(REQUEST) == 1


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("answer", [[b'"too much waits"', b"503"], [b'"its workers died"', b"500"], [b""], [b"hello"]])
def test_what_is_not_titanics_answer_is_tried_again(
    titanic: FakeTitanic, client: TitanicClient, answer: Frames
) -> None:
    titanic.before = lambda service, body: answer if titanic.count(REQUEST) == 1 else None
    assert client.request() == UUID
    assert titanic.count(REQUEST) == 2
    assert len(set(titanic.ids())) == 1


def test_a_broker_restarted_meanwhile(bus: Bus, titanic: FakeTitanic, client: TitanicClient) -> None:
    titanic.deaf.set()
    asking = Later(lambda: client.request("pi", "pump", ["on"]))
    eventually(lambda: titanic.count(REQUEST))
    bus.restart()
    titanic.reopen.set()
    titanic.deaf.clear()
    assert asking.wait() == UUID
    assert titanic.kept == {UUID.encode(): [b"pi.pump", b"on"]}
    assert titanic.count(REQUEST) >= 2
    assert len(set(titanic.ids())) == 1


def test_titanic_killed_when_it_had_kept_the_request_and_not_said_so(
    titanic: FakeTitanic, client: TitanicClient
) -> None:
    titanic.die_after_commit.set()
    assert client.request("pi", "pump", ["on"]) == UUID
    assert titanic.kept == {UUID.encode(): [b"pi.pump", b"on"]}
    assert titanic.count(REQUEST) >= 2
    assert len(set(titanic.ids())) == 1


def test_a_titanic_that_comes_later(bus: Bus, client: TitanicClient) -> None:
    asked = bus.statistic("requests")
    asking = Later(client.request)
    eventually(lambda: bus.statistic("requests") >= asked + 2)
    with FakeTitanic(bus) as titanic:
        assert asking.wait() == UUID
        assert len(titanic.kept) == 1


def test_a_broker_that_comes_later() -> None:
    with short_directory() as directory:
        client = TitanicClient(f"ipc://{directory}", BASE, ttl=LIMIT)
        asking = Later(client.request)
        bus = Bus(directory, heartbeat=60_000)
        try:
            with FakeTitanic(bus):
                assert asking.wait() == UUID
        finally:
            client.destroy()
            bus.close()


def test_without_titanic_there_is_an_error_once_the_time_is_over(bus: Bus, client: TitanicClient) -> None:
    client.ttl = 0.3
    with pytest.raises(MDP.ConnectionLost, match=r"no titanic took the request in 0\.3 s, at ipc://"):
        client.request()


@pytest.mark.usefixtures("patient")
def test_the_titanic_of_others_gets_no_id(bus: Bus, client: TitanicClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mdcliapi, "MARKING", 0.1)
    with FakeTitanic(bus, ours=False) as titanic:
        client.request("pi", "pump", ["on"])
        assert titanic.got == [(REQUEST, [b"pi.pump", b"on"])]
        with pytest.raises(MDP.ClientError, match="not RasPy's own"):
            client.request("pi", "pump", ["on"], lifetime=5)


def test_a_titanic_that_is_marked_as_ours_a_little_later(
    bus: Bus, client: TitanicClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mdcliapi, "MARKING", LIMIT)
    with FakeTitanic(bus, ours=False) as titanic:
        asked = bus.statistic("requests")
        asking = Later(client.request)
        eventually(lambda: bus.statistic("requests") > asked)
        bus.call(lambda broker: setattr(broker.services[REQUEST], "ours", True))
        asking.wait()
        assert MDP.parse_id(titanic.ids()[0]) is not None


def test_destroy_ends_a_request_that_waits(bus: Bus, client: TitanicClient) -> None:
    asked = bus.statistic("requests")
    asking = Later(client.request)
    eventually(lambda: bus.statistic("requests") > asked)
    client.destroy()
    client.destroy()
    with pytest.raises(MDP.ClientError, match="destroyed"):
        asking.wait()
    with pytest.raises(MDP.ClientError, match="destroyed"):
        client.request()


# ---------------------------------------------------------------- status, close, send


def test_status_and_close(titanic: FakeTitanic, client: TitanicClient) -> None:
    uuid = client.request()
    assert client.status(uuid) == [b"300"]
    titanic.replies[uuid.encode()] = [b"200", b"a", b""]
    assert client.status(uuid) == [b"200", b"a", b""]
    client.close(uuid)
    client.close(uuid)
    assert client.status(uuid) == [b"400"]
    assert client.status("no uuid \udcff") == [b"400"]
    assert titanic.got[-1] == (REPLY, [b"no uuid \xff"])


def test_a_close_that_titanic_cannot_do(titanic: FakeTitanic, client: TitanicClient) -> None:
    titanic.before = lambda service, body: [b"500 read-only"]
    with pytest.raises(MDP.ClientError, match="does not close 'x': 500 read-only"):
        client.close("x")


def test_status_and_close_without_an_answer(titanic: FakeTitanic, client: TitanicClient) -> None:
    titanic.deaf.set()
    client.timeout = 50
    for call in (client.status, client.close):
        with pytest.raises(MDP.ConnectionLost, match="no titanic answers"):
            call(UUID)


def test_send_goes_past_titanic(titanic: FakeTitanic, client: TitanicClient) -> None:
    assert client.send("mmi.service", b"titanic.request") == [b"200"]
    assert titanic.got == []


# ---------------------------------------------------------------- run


def test_callbacks_get_status_frames_and_their_arguments(titanic: FakeTitanic, client: TitanicClient) -> None:
    told = Told()
    with looking_after(client):
        first = client.request(callback=told, args=(1, "b"), kwargs={"c": [2]})
        second = client.request(callback=told)
        assert told == []
        titanic.replies[second.encode()] = [b"200 well", b"x", b""]
        eventually(lambda: len(told) == 1)
        titanic.replies[first.encode()] = [b"200"]
        eventually(lambda: len(titanic.closed) == 2)
    assert told == [(second, b"200", [b"x", b""], {}), (first, b"200", [], 1, "b", {"c": [2]})]
    assert titanic.closed == [second.encode(), first.encode()]


@pytest.mark.parametrize(
    ("answer", "status", "closed"),
    [
        (b"500 late", b"500 late", True),
        (b"500 late: by 3 s", b"500 late: by 3 s", True),
        (b"500 parked: it killed its workers", b"500 parked: it killed its workers", False),
        (b"400", b"400", False),
        (b"400 unknown", b"400", False),
    ],
)
def test_a_request_that_will_not_be_done(
    titanic: FakeTitanic, client: TitanicClient, answer: bytes, status: bytes, closed: bool
) -> None:
    told = Told()
    with looking_after(client):
        uuid = client.request(callback=told)
        titanic.replies[uuid.encode()] = [answer]
        eventually(lambda: told)
        eventually(lambda: not client._outstanding)
    assert told == [(uuid, status, [], {})]
    assert titanic.closed == [uuid.encode()] * closed


@pytest.mark.parametrize("trouble", [[b"500 the disk is full"], [b"500"], [b"300 soon"], [b'"full"', b"503"]])
def test_trouble_is_not_the_end(titanic: FakeTitanic, client: TitanicClient, trouble: Frames) -> None:
    told = Told()
    with looking_after(client):
        uuid = client.request(callback=told)
        titanic.replies[uuid.encode()] = trouble
        eventually(lambda: titanic.count(REPLY) >= 3)
        assert told == []
        titanic.replies[uuid.encode()] = [b"200", b"x"]
        eventually(lambda: told)
    assert told == [(uuid, b"200", [b"x"], {})]


def test_a_close_is_tried_until_it_is_done(titanic: FakeTitanic, client: TitanicClient) -> None:
    titanic.before = lambda service, body: [b"500 full"] if service == CLOSE and titanic.count(CLOSE) < 3 else None
    told = Told()
    with looking_after(client):
        uuid = client.request(callback=told)
        titanic.replies[uuid.encode()] = [b"200", b"x"]
        eventually(lambda: titanic.closed)
    assert told == [(uuid, b"200", [b"x"], {})]


def test_one_that_gets_no_answer_does_not_hold_up_the_others(titanic: FakeTitanic, client: TitanicClient) -> None:
    told = Told()
    client.timeout = 50
    with looking_after(client):
        silent, others = client.request(callback=told), [client.request(callback=told) for _ in range(3)]
        titanic.before = lambda service, body: [b"?"] if body == [silent.encode()] else None
        for uuid in others:
            titanic.replies[uuid.encode()] = [b"200", b"x"]
        # One that is closed too slowly is closed again.
        eventually(lambda: set(titanic.closed) == {uuid.encode() for uuid in others})
    assert sorted(call[0] for call in told) == others


def short_lived(titanic: FakeTitanic, client: TitanicClient, **asked: Any) -> str:
    """A request that has all the time to be accepted, and then a second for its reply."""
    titanic.before = lambda service, body: setattr(client, "ttl", 1.0) if service == REQUEST else None
    client.ttl = LIMIT
    return client.request(**asked)


def test_a_request_whose_time_is_over_is_told_and_forgotten(titanic: FakeTitanic, client: TitanicClient) -> None:
    told = Told()
    with looking_after(client):
        uuid = short_lived(titanic, client, callback=told, args=("me",))
        eventually(lambda: told)
        eventually(lambda: not client._outstanding)
    assert told == [(uuid, b"300", [], "me", {})]
    assert titanic.closed == []


def test_the_time_is_over_while_titanic_is_away_too(titanic: FakeTitanic, client: TitanicClient) -> None:
    told = Told()
    client.timeout = 20
    with looking_after(client):
        uuids = [short_lived(titanic, client, callback=told) for _ in range(3)]
        titanic.deaf.set()
        eventually(lambda: len(told) == 3)
    assert sorted(told) == [(uuid, b"300", [], {}) for uuid in uuids]


def test_a_callback_that_raises_does_not_end_run(
    titanic: FakeTitanic, client: TitanicClient, caplog: pytest.LogCaptureFixture
) -> None:
    told = Told()

    def bad(*args: Any) -> None:
        told(*args)
        raise ValueError("a mistake of the program's")

    with looking_after(client) as runs:
        first, second = client.request(callback=bad), client.request(callback=told)
        titanic.replies = {uuid.encode(): [b"200", b"x"] for uuid in (first, second)}
        eventually(lambda: len(titanic.closed) == 2)
        assert not runs.over
    assert sorted(call[0] for call in told) == sorted([first, second])
    assert f"the callback of request {first} failed" in caplog.text
    assert "a mistake of the program's" in caplog.text


def test_a_callback_may_make_the_next_request_and_end_it_all(titanic: FakeTitanic, client: TitanicClient) -> None:
    told = Told()

    def next_one(*args: Any) -> None:
        told(*args)
        uuid = client.request(callback=lambda *_: client.shutdown())
        titanic.replies[uuid.encode()] = [b"200"]

    uuid = client.request(callback=next_one)
    titanic.replies[uuid.encode()] = [b"200", b"x"]
    client.run()
    assert [call[0] for call in told] == [uuid]


def test_run_goes_on_over_restarts_of_titanic_and_broker(bus: Bus, titanic: FakeTitanic, client: TitanicClient) -> None:
    told = Told()
    client.timeout = 200
    with looking_after(client):
        first = client.request(callback=told)
        eventually(lambda: titanic.count(REPLY))
        bus.restart()
        titanic.reopen.set()
        titanic.replies[first.encode()] = [b"200", b"1"]
        eventually(lambda: len(told) == 1)
        titanic.die_after_commit.set()
        second = client.request(callback=told)
        titanic.replies[second.encode()] = [b"200", b"2"]
        eventually(lambda: len(told) == 2)
    assert [call[:3] for call in told] == [(first, b"200", [b"1"]), (second, b"200", [b"2"])]


def test_other_calls_while_run_looks_after_requests(titanic: FakeTitanic, client: TitanicClient) -> None:
    told = Told()
    with looking_after(client):
        uuids = [client.request(callback=told) for _ in range(20)]
        for uuid in uuids:
            assert client.status(uuid) == [b"300"]
            titanic.replies[uuid.encode()] = [b"200"]
            assert client.send("mmi.service", b"titanic.reply") == [b"200"]
        eventually(lambda: len(titanic.closed) == 20)
    assert sorted(call[0] for call in told) == uuids


@pytest.mark.parametrize("when", ["nothing is outstanding", "a reply is awaited", "titanic is silent", "before run"])
def test_shutdown_from_another_thread(titanic: FakeTitanic, client: TitanicClient, when: str) -> None:
    told = Told()
    client.timeout = 100
    if when != "nothing is outstanding":
        client.request(callback=told)
    if when == "titanic is silent":
        titanic.deaf.set()
    if when == "before run":
        client.shutdown()
        client.run()
    else:
        runs = Later(client.run)
        if when != "nothing is outstanding":
            eventually(lambda: titanic.count(REPLY) >= 1)
        client.shutdown()
        runs.wait()
    assert told == []


def test_run_does_not_ask_for_a_reply_that_has_no_callback(titanic: FakeTitanic, client: TitanicClient) -> None:
    with looking_after(client):
        client.request()
        for _ in range(20):
            client.send("mmi.service", b"x")
    assert titanic.count(REPLY) == 0
