"""The parts of Titanic by themselves: the lane of a service, the connections, the clock, and the file."""

from __future__ import annotations

import json
import os
import sqlite3
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from raspy.common import MDP
from raspy.common.database import Database
from raspy.common.executive import Executive
from raspy.servers.titanic import directory as directory_module
from raspy.servers.titanic import lane as lane_module
from raspy.servers.titanic import records, requests
from raspy.servers.titanic.channels import Channel, Channels
from raspy.servers.titanic.directory import Directory
from raspy.servers.titanic.dispatch import looks_ours, refusal
from raspy.servers.titanic.lane import Lane
from raspy.servers.titanic.records import DONE, LATE, PARKED, PENDING, Accepted, Boot, Request
from raspy.servers.titanic.requests import Numbers
from tests.bus import Bus, OnThread, eventually, running, running_bus
from tests.conformance.stage import unique
from tests.support_devices import LIMIT, short_directory

# ---------------------------------------------------------------- frames and uuids


@given(st.lists(st.binary(max_size=300)))
def test_packed_frames_come_back(frames: list[bytes]) -> None:
    assert records.unpack(records.pack(frames)) == frames


@given(st.lists(st.binary(max_size=50)), st.integers(0, 200))
def test_packed_frames_that_are_cut_short_end_there(frames: list[bytes], length: int) -> None:
    found = records.unpack(records.pack(frames)[:length])
    whole = max(0, len(found) - 1)
    assert found[:whole] == frames[:whole]
    assert all(frame.startswith(part) for frame, part in zip(frames, found, strict=False))


@given(st.binary(max_size=100))
def test_anything_unpacks_to_no_more_than_it_is(packed: bytes) -> None:
    assert sum(map(len, records.unpack(packed))) <= len(packed)


def test_nothing_unpacks_to_nothing() -> None:
    assert records.unpack(None) == records.unpack(b"") == []


@given(st.integers(0, records.MOST_ID), st.binary(min_size=8, max_size=8))
def test_a_uuid_is_number_and_secret(number: int, secret: bytes) -> None:
    uuid = records.uuid_of(number, secret)
    assert len(uuid) == 32
    assert records.parse_uuid(uuid.encode()) == (number, secret)
    assert Request(number, secret, b"s", []).uuid == uuid


@given(st.binary(max_size=40) | st.from_regex(rb"[0-9a-f]{32}", fullmatch=True))
def test_a_uuid_is_read_as_it_is_written_or_not_at_all(frame: bytes) -> None:
    parsed = records.parse_uuid(frame)
    assert parsed is None or records.uuid_of(*parsed).encode() == frame


@given(st.binary(min_size=8, max_size=8), st.integers(0, records.MOST_ID), st.integers(0, 1000))
def test_each_attempt_has_an_id_of_its_own(secret: bytes, number: int, attempt: int) -> None:
    ids = {Request(number, secret, b"s", [], attempt=attempt + more).attempt_id for more in range(3)}
    assert len(ids) == 3
    for digits in ids:
        assert MDP.parse_id(MDP.id_frame(digits)) == (MDP.id_frame(digits), None)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ([b'"no power"', b"500"], "no power"),
        ([b'""', b"503"], ""),
        ([b"500"], None),
        ([b"no JSON", b"500"], None),
        ([b"{}", b"500"], None),
        ([b'"x"', b"500", b""], None),
        ([b"[" * 100_000, b"500"], None),
        ([b'"\xff"', b"500"], None),
        ([b"", b""], None),
    ],
)
def test_the_reason_of_a_refusal(body: list[bytes], reason: str | None) -> None:
    assert refusal(body) == reason


def test_names_as_our_servers_have() -> None:
    assert looks_ours(b"pi.onewire.devices")
    assert not looks_ours(b"pi.onewire")
    assert not looks_ours(b"a.b.c.d")
    assert not looks_ours(b"")


# ---------------------------------------------------------------- the lane


def made(number: int, size: int = 1) -> Request:
    """A request of a number."""
    return Request(number, bytes(8), b"s", [bytes(size)])


def numbers(lane: Lane) -> list[int]:
    """What is in the buffer."""
    return [request.id for request in lane.buffer]


def served() -> Lane:
    """A lane whose service is there: only then are requests kept in memory."""
    lane = Lane(b"s")
    lane.window = 1
    return lane


def test_a_lane_that_nobody_serves_keeps_nothing_in_memory() -> None:
    lane = Lane(b"s")
    lane.offer(made(1))
    assert (numbers(lane), lane.more, lane.has_work) == ([], True, True)


def test_what_ended_while_the_file_was_read_is_not_run_again() -> None:
    lane = served()
    lane.offer(made(1))
    taken = lane.take()
    lane.reread()
    lane.begin_reading()
    lane.ended()
    lane.stored(taken.id)
    lane.refill([made(1), made(2)], False)
    assert numbers(lane) == [2]


def test_what_was_put_back_while_the_file_was_read_is_there_once() -> None:
    lane = served()
    for number in (1, 2):
        lane.offer(made(number))
    first = lane.take()
    lane.reread()
    lane.begin_reading()
    lane.again(first)
    lane.refill([made(1), made(2), made(3)], False)
    assert numbers(lane) == [1, 2, 3]


def test_a_lane_holds_as_many_as_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_module, "BUFFER", 3)
    lane = served()
    for number in range(1, 6):
        lane.offer(made(number))
    assert (numbers(lane), lane.more, lane.last) == ([1, 2, 3], True, 3)
    assert lane.has_work
    assert not lane.idle


def test_a_lane_holds_as_many_bytes_as_it_may_and_always_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_module, "BUFFER_BYTES", 10)
    lane = served()
    lane.offer(made(1, 100))
    lane.offer(made(2, 0))
    assert (numbers(lane), lane.bytes, lane.more) == ([1], 100, True)
    assert lane.take().id == 1
    assert lane.bytes == 0
    lane.refill([made(2, 5), made(3, 5), made(4, 1), made(5, 0)], False)
    assert (numbers(lane), lane.bytes, lane.more) == ([2, 3], 10, True)


def test_what_was_read_from_the_file_is_not_taken_again() -> None:
    """A request is in the file a moment before the loop hears that it is."""
    lane = served()
    lane.refill([made(1), made(2)], False)
    lane.offer(made(2))
    lane.offer(made(3))
    assert numbers(lane) == [1, 2, 3]


def test_what_comes_while_the_file_is_read_is_read_next() -> None:
    lane = served()
    lane.reading = True
    lane.offer(made(3))
    assert numbers(lane) == []
    lane.refill([made(1), made(2)], False)
    assert (numbers(lane), lane.more) == ([1, 2], True)
    lane.reading = True
    lane.refill([made(3)], False)
    assert (numbers(lane), lane.more) == ([1, 2, 3], False)


def test_one_that_is_put_back_has_its_old_place() -> None:
    lane = served()
    for number in (1, 2, 3, 4):
        lane.offer(made(number))
    first, second, third = lane.take(), lane.take(), lane.take()
    assert (lane.taken, lane.flying) == ({1, 2, 3}, 3)
    for request in (third, first, second):
        lane.again(request)
    assert (numbers(lane), lane.taken, lane.flying, lane.bytes) == ([1, 2, 3, 4], set(), 0, 4)


def test_what_is_run_is_not_read_again() -> None:
    lane = served()
    lane.offer(made(1))
    taken = lane.take()
    lane.reread()
    lane.reading = True
    lane.refill([taken, made(2)], False)
    assert numbers(lane) == [2]
    lane.ended()
    assert not lane.idle, "its end is not in the file yet"
    lane.taken.discard(1)
    lane.take()
    assert lane.busy


def test_what_was_read_before_the_file_changed_is_read_again() -> None:
    lane = served()
    lane.reading = True
    lane.reread()
    lane.refill([made(1)], False)
    assert (numbers(lane), lane.more) == ([], True)


def test_what_is_withdrawn_is_forgotten() -> None:
    lane = served()
    for number in (1, 2, 3):
        lane.offer(made(number))
    lane.withdraw(2)
    lane.withdraw(7)
    assert (numbers(lane), lane.bytes, lane.more) == ([1, 3], 2, False)
    lane.begin_reading()
    lane.withdraw(9)
    lane.refill([made(9), made(10)], False)
    assert (numbers(lane), lane.more) == ([1, 3, 10], False)
    taken = lane.take()
    lane.withdraw(taken.id)
    assert lane.gone == {1}
    lane.ended()
    lane.stored(taken.id)
    assert (lane.gone, lane.taken) == (set(), set())


def test_a_lane_that_is_away_waits_longer_each_time() -> None:
    lane = Lane(b"s")
    pauses = []
    for _ in range(8):
        pauses.append(lane.pause)
        lane.window = 3
        lane.away()
        assert lane.window == 0
    assert pauses == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_an_empty_lane_is_idle() -> None:
    lane = Lane(b"s")
    assert lane.idle
    assert not lane.busy
    assert not lane.has_work


# ---------------------------------------------------------------- the connections


@pytest.fixture
def bus() -> Iterator[Bus]:
    with running_bus(heartbeat=60_000) as running:
        yield running


@pytest.fixture
def loop(bus: Bus) -> Iterator[OnThread[Executive]]:
    with running(Executive(broker_ip=bus.ip)) as runner:
        yield runner
        assert runner.executive.errors == 0, runner.executive.last_error


def test_one_connection_asks_each_service_once_at_a_time(bus: Bus, loop: OnThread[Executive]) -> None:
    channels = loop.call(lambda: Channels(loop.executive, bus.address))
    names = [unique() for _ in range(3)]
    got: list[tuple[bytes, list[bytes]]] = []

    def ask(name: bytes, text: bytes) -> Channel:
        return loop.call(lambda: channels.request(name, [text], lambda body: got.append((text, body))))

    used = [ask(names[0], b"0"), ask(names[1], b"1"), ask(names[0], b"2"), ask(names[2], b"3"), ask(names[0], b"4")]
    assert [used.index(channel) for channel in used] == [0, 0, 2, 0, 4]
    for name in names:
        bus.stage.worker(name).echo = True
    assert bus.stage.until(lambda: len(got) == 5)
    assert sorted(got) == [(b"%d" % number, [b"%d" % number]) for number in range(5)]
    assert ask(names[0], b"5") is used[0], "it is free again"
    loop.call(channels.close)
    loop.call(channels.close)


def test_a_connection_that_is_retired_takes_nothing_more_and_goes_when_it_is_idle(
    bus: Bus, loop: OnThread[Executive]
) -> None:
    channels = loop.call(lambda: Channels(loop.executive, bus.address))
    slow, other = unique(), unique()
    got: list[list[bytes]] = []
    first = loop.call(lambda: channels.request(slow, [b"slow"], got.append))
    assert loop.call(lambda: channels.request(other, [b"other"], got.append)) is first
    loop.call(lambda: first.asked.pop(slow))
    loop.call(lambda: channels.retire(first))
    second = loop.call(lambda: channels.request(slow, [b"next"], got.append))
    assert second is not first
    bus.stage.worker(slow).echo = True
    bus.stage.worker(other).echo = True
    assert bus.stage.until(lambda: len(got) == 2)
    assert sorted(got) == [[b"next"], [b"other"]], "the late answer is nobody's"
    loop.call(channels.sweep)
    assert loop.call(lambda: list(channels._channels)) == [second]
    loop.call(channels.close)


def test_the_broker_tells_titanic_what_it_cannot_place(loop: OnThread[Executive]) -> None:
    """A foreign service gets no id with a request, so the broker knows Titanic by its identity."""
    with running_bus(heartbeat=60_000, queue_requests=1) as full, running(Executive()) as other:
        channels = other.call(lambda: Channels(other.executive, full.address))
        got: list[list[bytes]] = []
        service = unique()
        for _ in range(2):
            other.call(lambda: channels.request(service, [b"plain"], got.append))
        assert full.stage.until(lambda: len(got) == 1)
        assert got[0][1] == b"503"
        other.call(channels.close)


def test_what_is_no_answer_is_dropped(loop: OnThread[Executive]) -> None:
    with short_directory() as directory:
        address = f"ipc://{directory}/5514"
        got: list[list[bytes]] = []
        router: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
        router.rcvtimeo = int(LIMIT * 1000)
        router.linger = 0
        router.bind(address)
        try:
            channels = loop.call(lambda: Channels(loop.executive, address))
            loop.call(lambda: channels.request(b"service", [b"work"], got.append))
            sender, *frames = router.recv_multipart()
            assert frames == [b"", MDP.C_CLIENT, b"service", b"work"]
            assert MDP.parse_id(sender) is not None
            for odd in (
                [b""],
                [b"x", MDP.C_CLIENT, b"service", b"x"],
                [b"", b"MDPC02", b"service", b"x"],
                [b"", MDP.C_CLIENT, b"service"],
                [b"", MDP.C_CLIENT, b"nobody", b"x"],
                [b"", MDP.C_CLIENT, b"service", b"the answer"],
                [b"", MDP.C_CLIENT, b"service", b"a second one"],
            ):
                router.send_multipart([sender, *odd])
            loop.call(lambda: channels.request(b"other", [b"work"], got.append))
            router.recv_multipart()
            router.send_multipart([sender, b"", MDP.C_CLIENT, b"other", b"the last"])
            eventually(lambda: len(got) == 2)
            assert got == [[b"the answer"], [b"the last"]]
            loop.call(channels.close)
        finally:
            router.close()


# ---------------------------------------------------------------- the directory


class Answers(Executive):
    """A broker that answers questions about services as a test tells it to."""

    def __init__(self, address: str, answers: Callable[[bytes, bytes], list[list[bytes]]]) -> None:
        super().__init__()
        self.answers = answers
        self.asked: list[tuple[bytes, bytes]] = []
        self.router = self.ctx.socket(zmq.ROUTER)
        self.router.linger = 0
        self.router.bind(address)
        self.register(self.router, self._take)

    def _take(self) -> None:
        sender, _, _, mmi, service = self.router.recv_multipart()
        self.asked.append((mmi, service))
        for frames in self.answers(mmi, service):
            self.router.send_multipart([sender, b"", MDP.C_CLIENT, *frames])


@contextmanager
def directory_of(
    loop: OnThread[Executive], answers: Callable[[bytes, bytes], list[list[bytes]]]
) -> Iterator[tuple[Directory, Answers, list[int]]]:
    """A directory that asks a broker that a test plays, the broker, and when its connection was lost."""
    with short_directory() as place:
        address = f"ipc://{place}/5514"
        with running(Answers(address, answers)) as broker:
            lost: list[int] = []
            directory = loop.call(lambda: Directory(loop.executive, address, lambda: lost.append(1)))
            yield directory, broker.executive, lost
            loop.call(directory.close)
            loop.call(directory.close)
        assert broker.executive.errors == 0, broker.executive.last_error


Told = list[tuple[int, bool]]


def ask(loop: OnThread[Executive], directory: Directory, *services: bytes) -> Told:
    """What the directory says of services, all asked at once."""
    told: dict[int, tuple[int, bool]] = {}

    def tell(number: int) -> Callable[[int, bool], None]:
        return lambda workers, ours: told.update({number: (workers, ours)})

    def ask_all() -> None:
        for number, service in enumerate(services):
            directory.ask(service, tell(number))

    loop.call(ask_all)
    eventually(lambda: len(told) == len(services), "all are told")
    return [told[number] for number in range(len(services))]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ([b'{"workers":3,"idle":1,"waiting":0,"ours":true}', b"200"], (3, True)),
        ([b'{"workers":1}', b"200"], (1, False)),
        ([b"{}", b"200"], (0, False)),
        ([b'{"workers":-5}', b"200"], (0, False)),
        ([b'"no worker"', b"404"], (0, False)),
        ([b'"full"', b"503"], (0, False)),
        ([b"no JSON", b"200"], (0, False)),
        ([b'{"workers":"many"}', b"200"], (0, False)),
        ([b'{"workers":1e99}', b"200"], (0, False)),
        ([b"[" * 100_000, b"200"], (0, False)),
        ([b"\xff", b"200"], (0, False)),
        ([b"200"], (0, False)),
    ],
)
def test_what_the_broker_says_is_understood_or_the_service_is_away(
    loop: OnThread[Executive], answer: list[bytes], told: tuple[int, bool]
) -> None:
    with directory_of(loop, lambda mmi, service: [[mmi, *answer]]) as (directory, _, _):
        assert ask(loop, directory, b"service") == [told]


def test_each_gets_its_own_answer(loop: OnThread[Executive]) -> None:
    def answers(mmi: bytes, service: bytes) -> list[list[bytes]]:
        return [[mmi, json.dumps({"workers": int(service), "ours": True}).encode(), b"200"]]

    with directory_of(loop, answers) as (directory, broker, lost):
        assert ask(loop, directory, *(b"%d" % number for number in range(50))) == [(n, True) for n in range(50)]
        assert len(broker.asked) == 50
        assert not lost


def test_a_broker_without_our_question_is_asked_the_common_one(loop: OnThread[Executive]) -> None:
    def answers(mmi: bytes, service: bytes) -> list[list[bytes]]:
        if mmi == b"mmi.workers":
            return [[mmi, b"501"]]
        return [[mmi, b"200" if service == b"there" else b"404"]]

    with directory_of(loop, answers) as (directory, broker, _):
        assert ask(loop, directory, b"there", b"gone", b"there") == [(1, False), (0, False), (1, False)]
        assert [mmi for mmi, _ in broker.asked] == [b"mmi.workers", b"mmi.service", b"mmi.service", b"mmi.service"]
        assert directory.foreign


def test_an_answer_that_does_not_come_is_asked_for_again(
    loop: OnThread[Executive], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_module, "ANSWER_TIME", 0.05)
    answered: deque[list[list[bytes]]] = deque([[], [], [[b"mmi.workers", b'{"workers":2}', b"200"]]])
    # On a busy machine the last answer, too, may come late.
    answer = lambda mmi, service: answered.popleft() if len(answered) > 1 else answered[0]  # noqa: E731
    with directory_of(loop, answer) as (directory, broker, _):
        assert ask(loop, directory, b"service") == [(2, False)]
        assert len(broker.asked) >= 3


def test_answers_to_other_questions_are_dropped(loop: OnThread[Executive]) -> None:
    def answers(mmi: bytes, service: bytes) -> list[list[bytes]]:
        right = [mmi, b'{"workers":2}', b"200"]
        return [[b"mmi.service", b"404"], [b"other", b"x"], [mmi], right, [mmi, b'{"workers":9}', b"200"]]

    with directory_of(loop, answers) as (directory, _, _):
        assert ask(loop, directory, b"one") == [(2, False)]


def test_a_broker_that_is_lost_is_noticed_and_asked_again(bus: Bus, loop: OnThread[Executive]) -> None:
    lost: list[int] = []
    directory = loop.call(lambda: Directory(loop.executive, bus.address, lambda: lost.append(1)))
    service = unique()
    assert ask(loop, directory, service) == [(0, False)]
    bus.restart()
    eventually(lambda: len(lost) == 1, "it is noticed")
    bus.stage.idle_workers(service, 2)
    assert ask(loop, directory, service) == [(2, False)]
    loop.call(directory.close)


# ---------------------------------------------------------------- the file


@pytest.fixture
def file(tmp_path: Path) -> Iterator[File]:
    made = File(tmp_path)
    yield made
    made.database.close()


class File:
    """The file of the requests, as a pool thread uses it."""

    def __init__(self, directory: Path) -> None:
        self.database = Database(str(directory / "requests.db"), requests.SCHEMAS, requests.TABLES)
        self.numbers = Numbers()
        self.begin("one")

    def write(self, function: Any, *items: Any) -> list[Any]:
        found: list[Any] = self.database.write(lambda connection: function(connection, list(items)))
        return found

    def read(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.database.read(lambda connection: function(connection, *args))

    def begin(self, boot_id: str, since: float = 0.0, time: float = 0.0, trusted: bool = False) -> records.Begun:
        (begun,) = self.write(self.numbers.begin, (Boot(boot_id, since, time, trusted), 10))
        assert isinstance(begun, records.Begun)
        return begun

    def accept(self, service: bytes = b"s", **given: Any) -> tuple[int, bytes]:
        """Number and secret of a new request."""
        (found,) = self.write(self.numbers.accept, accepted(service, **given))
        return found[0], found[1]

    def page(self, service: bytes = b"s", limit: int = 10) -> list[Request]:
        """The pending requests of a service."""
        found: list[Request] = self.read(requests.page, service, 0, limit, 1 << 20)[0]
        return found

    def change(self, statement: str) -> None:
        """Execute a statement."""
        self.database.write(lambda connection: connection.execute(statement))

    def state(self, number: int) -> int:
        """The state of a request."""
        rows = self.read(lambda connection: connection.execute("SELECT state FROM requests WHERE id = ?", (number,)))
        return int(rows.fetchone()[0])


def accepted(
    service: bytes = b"s",
    client: bytes | None = None,
    lifetime: float | None = None,
    since: float = 1.0,
    time: float = 0.0,
    trusted: bool = False,
    most_bytes: int = 1 << 30,
    body: bytes = b"",
) -> Accepted:
    """A request as it comes in."""
    return Accepted(service, body or records.pack([b"work"]), client, lifetime, since, time, trusted, most_bytes)


def test_numbers_are_given_in_order_and_never_twice(file: File) -> None:
    first = [file.accept()[0] for _ in range(3)]
    again = Numbers()
    begun = file.write(again.begin, (Boot("one", 0, 0, False), 10))[0]
    assert begun.first_own == first[-1] + 1
    file.numbers = again
    assert [*first, file.accept()[0]] == [1, 2, 3, 4]


def test_secrets_are_random(file: File) -> None:
    assert len({file.accept()[1] for _ in range(20)}) == 20


def test_ids_of_clients_in_one_write_and_over_several(file: File) -> None:
    ids = [b"a" * 16, None, b"a" * 16, b"b" * 16, None, b"a" * 16]
    found = file.write(file.numbers.accept, *(accepted(client=client) for client in ids))
    assert [new for _, _, new in found] == [True, True, False, True, True, False]
    assert found[0][:2] == found[2][:2] == found[5][:2]
    assert len({number for number, _, _ in found}) == 4
    assert file.write(file.numbers.accept, accepted(client=b"b" * 16)) == [(*found[3][:2], False)]
    assert file.read(requests.known, b"a" * 16) == found[0][:2]
    assert file.read(requests.known, b"c" * 16) is None
    assert file.read(requests.known, None) is None
    assert file.read(requests.counts) == {PENDING: 4}


def test_a_file_that_is_full_knows_what_it_has(file: File) -> None:
    kept = file.accept(client=b"a" * 16)
    found = file.write(file.numbers.accept, accepted(client=b"a" * 16, most_bytes=1), accepted(client=b"b" * 16))
    assert found == [(*kept, False), None]
    assert file.read(requests.counts) == {PENDING: 1}


def test_pages_are_in_order_of_their_service_alone(file: File) -> None:
    for number in range(10):
        file.accept(b"even" if number % 2 else b"odd", body=records.pack([b"%d" % number, b""]))
    found, more = file.read(requests.page, b"odd", 0, 3, 1000)
    assert more
    assert [request.body for request in found] == [[b"0", b""], [b"2", b""], [b"4", b""]]
    rest, more = file.read(requests.page, b"odd", found[-1].id, 2, 1000)
    assert ([request.body[0] for request in rest], more) == ([b"6", b"8"], False)
    file.write(requests.finish, (b"", 1.0, found[0].id))
    assert [request.id for request in file.page(b"odd", 1)] == [found[1].id]


def test_pages_have_so_many_bytes_and_one_request_at_least(file: File) -> None:
    for size in (1000, 0, 500, 0, 0, 1000):
        file.accept(body=bytes(4) + bytes(size))
    pages, after, more = [], 0, True
    while more:
        found, more = file.read(requests.page, b"s", after, 10, 600)
        after = found[-1].id
        pages.append([request.id for request in found])
    assert pages == [[1], [2, 3, 4, 5], [6]]


def test_services_are_told_in_pages(file: File) -> None:
    for name in (b"c", b"a", b"b", b"a", b"\xff", b"d"):
        file.accept(name)
    assert file.read(requests.services, b"", 3) == [b"a", b"b", b"c"]
    assert file.read(requests.services, b"c", 3) == [b"d", b"\xff"]
    assert file.read(requests.services, b"\xff", 3) == []
    assert file.begin("one").services == [b"a", b"b", b"c", b"d", b"\xff"]


def test_a_reply_takes_the_place_of_the_body(file: File) -> None:
    number, secret = file.accept(body=records.pack([b"x" * 1000]))
    assert file.read(requests.replies, number, secret) == (PENDING, None, 0)
    assert file.write(requests.finish, (records.pack([b"done"]), 5.0, number), (b"", 5.0, 99)) == [1, 0]
    state, reply, _ = file.read(requests.replies, number, secret)
    assert (state, records.unpack(reply)) == (DONE, [b"done"])
    assert records.unpack(file.read(requests.row, number, secret)[-1]) == []
    assert file.read(requests.replies, number, bytes(8)) is None


def test_failures_are_counted_until_one_is_parked(file: File) -> None:
    number, secret = file.accept()
    other, _ = file.accept()
    assert file.write(requests.fail, (PENDING, records.pack([b"why"]), 5.0, number), (PENDING, b"", 5.0, 99)) == [1, 0]
    (found, *_) = file.page()
    assert (found.id, found.failures, found.attempt) == (number, 1, 1)
    file.write(requests.fail, (PARKED, records.pack([b"why"]), 6.0, number))
    assert file.state(number) == PARKED
    assert [request.id for request in file.page()] == [other]
    assert file.write(requests.retry, (number, secret, 7.0), (99, secret, 7.0)) == [(PARKED, b"s"), None]
    (found, *_) = file.page()
    assert (found.id, found.failures, found.attempt, found.starts, found.deadline) == (number, 0, 3, 0, None)


def test_only_parked_ones_are_run_again(file: File) -> None:
    number, secret = file.accept()
    assert file.write(requests.retry, (number, secret, 7.0)) == [(PENDING, b"s")]
    assert file.page()[0].attempt == 0


def test_one_with_a_lifetime_gets_a_new_one_when_it_is_run_again(file: File) -> None:
    number, secret = file.accept(lifetime=5.0)
    file.write(requests.fail, (PARKED, b"", 6.0, number))
    file.write(requests.retry, (number, secret, 100.0))
    assert file.page()[0].deadline == 105.0
    assert file.read(requests.next_deadline) == 105.0


def test_starts_are_counted(file: File) -> None:
    number, _ = file.accept()
    assert file.write(requests.mark, number, 99) == [1, 0]
    file.write(requests.mark, number)
    assert file.page()[0].starts == 2


def test_closing_needs_the_secret(file: File) -> None:
    number, secret = file.accept()
    assert file.write(requests.close, (number, bytes(8)), (99, secret)) == [None, None]
    assert file.write(requests.close, (number, secret), (number, secret)) == [(PENDING, b"s"), None]
    assert file.read(requests.counts) == {}


def test_what_ended_long_ago_is_forgotten_some_at_a_time(file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "EXPIRED", 3)
    ids = [file.accept()[0] for _ in range(7)]
    for number in ids[:4]:
        file.write(requests.finish, (b"", 10.0, number))
    file.write(requests.fail, (PARKED, b"", 10.0, ids[4]))
    file.write(requests.finish, (b"", 20.0, ids[5]))
    assert file.write(requests.expire, 10.0) == [{}]
    assert [sum(file.write(requests.expire, 15.0)[0].values()) for _ in range(3)] == [3, 2, 0]
    assert file.read(requests.counts) == {PENDING: 1, DONE: 1}


def test_what_is_overdue_ends_unless_it_has_begun(file: File) -> None:
    first, second, third, _ = (file.accept(lifetime=lifetime)[0] for lifetime in (5.0, 6.0, 50.0, None))
    assert file.read(requests.next_deadline) == 6.0
    ((ended, following),) = file.write(requests.overdue, (10.0, frozenset([first])))
    assert [(number, service) for number, _, service in ended] == [(second, b"s")]
    assert following == 6.0, "that of the one that has begun"
    assert [file.state(number) for number in (first, second, third)] == [PENDING, LATE, PENDING]
    file.write(requests.finish, (b"", 11.0, first))
    assert file.write(requests.overdue, (10.0, frozenset())) == [([], 51.0)]
    assert file.write(requests.overdue, (51.0, frozenset()))[0][0][0][0] == third
    assert file.read(requests.next_deadline) is None


def test_within_a_boot_the_clock_goes_on(file: File) -> None:
    file.accept(lifetime=1.0, since=50.0)
    begun = file.begin("one", since=1000.0)
    assert (begun.base, begun.late) == (0.0, [])
    assert begun.next_deadline == 51.0
    assert begun.counts == {PENDING: 1}


def test_a_file_that_is_made_anew_goes_by_the_clock_of_the_process(file: File) -> None:
    file.accept(lifetime=1.0, since=50.0)
    (begun,) = file.write(file.numbers.begin, (Boot("one", 60.0, 0.0, False, base=300.0), 10))
    assert (begun.base, begun.late, begun.next_deadline) == (300.0, [], 51.0)
    assert file.begin("one").base == 300.0


def test_over_reboots_the_clock_goes_on_from_the_latest_time(file: File) -> None:
    number, _ = file.accept(since=50.0)
    assert file.begin("two").base == 50.0
    assert file.begin("two").base == 50.0
    file.write(requests.finish, (b"", 80.0, number))
    assert file.begin("three").base == 80.0
    assert file.begin("four").base == 80.0


@pytest.mark.parametrize(
    ("trusted", "boot_trusted", "passed", "in_time"),
    [
        (True, True, 99.0, True),
        (True, True, 0.0, True),
        (True, True, 100.0, False),
        (True, True, -0.1, False),
        (True, False, 1.0, False),
        (False, True, 1.0, False),
        (False, False, 1.0, False),
    ],
)
def test_after_a_reboot_what_is_not_known_to_be_in_time_is_late(
    file: File, trusted: bool, boot_trusted: bool, passed: float, in_time: bool
) -> None:
    limited, _ = file.accept(b"a", lifetime=100.0, since=50.0, time=1e9, trusted=trusted)
    without, _ = file.accept(b"b", since=50.0, time=1e9, trusted=trusted)
    begun = file.begin("two", since=7.0, time=1e9 + passed, trusted=boot_trusted)
    assert file.state(limited) == (PENDING if in_time else LATE)
    assert file.state(without) == PENDING
    assert begun.late == ([] if in_time else [(b"a", 1)])
    assert begun.services == ([b"a", b"b"] if in_time else [b"b"])
    now = begun.base + 7.0
    assert begun.next_deadline == (pytest.approx(now + 100.0 - passed) if in_time else None)


def test_two_reboots_count_the_age_from_the_beginning(file: File) -> None:
    number, _ = file.accept(lifetime=100.0, since=50.0, time=1e9, trusted=True)
    file.begin("two", since=7.0, time=1e9 + 60, trusted=True)
    assert file.state(number) == PENDING
    begun = file.begin("three", since=7.0, time=1e9 + 90, trusted=True)
    assert begun.next_deadline == pytest.approx(begun.base + 7.0 + 10)
    file.begin("four", since=7.0, time=1e9 + 101, trusted=True)
    assert file.state(number) == LATE


def test_what_has_a_lifetime_and_has_ended_is_not_late(file: File) -> None:
    done, parked = file.accept(lifetime=5.0)[0], file.accept(lifetime=5.0)[0]
    file.write(requests.finish, (b"", 2.0, done))
    file.write(requests.fail, (PARKED, b"", 2.0, parked))
    assert file.begin("two").late == []
    assert [file.state(number) for number in (done, parked)] == [DONE, PARKED]
    assert file.write(requests.overdue, (100.0, frozenset())) == [([], None)]


def test_the_usual_questions_need_no_walk_over_the_queue(file: File) -> None:
    """Each uses an index, so that a hundred thousand requests cost nothing."""

    def plan(connection: sqlite3.Connection, statement: str) -> str:
        return " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}"))

    for statement, index in (
        ("SELECT id FROM requests WHERE state = 0 AND service = x'' AND id > 5 ORDER BY id LIMIT 9", "INDEX pending"),
        ("SELECT service FROM requests WHERE state = 0 AND service > x'' ORDER BY service LIMIT 1", "INDEX pending"),
        ("SELECT min(deadline) FROM requests WHERE state = 0 AND deadline IS NOT NULL", "INDEX deadline"),
        ("SELECT id FROM requests WHERE state = 0 AND deadline <= 5.0 LIMIT 2000", "INDEX deadline"),
        ("SELECT id FROM requests WHERE client = x''", "INDEX client"),
        ("SELECT max(id) FROM requests", "SEARCH requests"),
    ):
        found = file.read(plan, statement)
        assert index in found, statement
        assert "TEMP B-TREE" not in found


def test_a_row_that_is_no_request_is_not_taken(file: File) -> None:
    for change in ("secret = x''", "service = 'text'", "state = 4", "at = 'x'", "trusted = 2", "failures = 'x'"):
        file.accept()
        with pytest.raises(sqlite3.IntegrityError):
            file.change(f"UPDATE requests SET {change}")


def test_the_bytes_in_use(file: File) -> None:
    before = file.read(requests.used_bytes)
    for _ in range(20):
        file.accept(body=os.urandom(10_000))
    assert 200_000 < file.read(requests.used_bytes) - before < 400_000
    rows = file.read(requests.rows, None, 100)
    file.write(requests.close, *((row[0], row[1]) for row in rows))
    assert file.read(requests.used_bytes) - before < 50_000
