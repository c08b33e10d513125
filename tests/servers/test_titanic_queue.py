"""What an owner sees of durable requests, and those with a lifetime."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raspy.common import MDP
from raspy.common import clock as clock_module
from raspy.servers.titanic import queue as queue_module
from raspy.servers.titanic import records, requests
from raspy.servers.titanic.clock import Clock
from raspy.servers.titanic.records import Boot
from tests.conformance.stage import unique
from tests.servers.titanic_stage import (
    PENDING,
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
LATE = [b"500 late: it could not be begun in its lifetime"]


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


class BootClock(Clock):
    """The clock of a boot that a test makes up.

    :param since: seconds for which the machine has run
    :param ahead: seconds that the wall clock is ahead of the real one
    """

    def __init__(self, boot_id: str, trusted: bool, since: float = 100.0, ahead: float = 0.0) -> None:
        super().__init__(boot_id)
        self.ahead = ahead
        self.is_trusted = trusted
        self._start = super().since() - since

    def boot(self) -> Boot:
        return Boot(self.boot_id, self.since(), time.time() + self.ahead, self.is_trusted)

    def since(self) -> float:
        return super().since() - self._start

    def trusted(self) -> bool:
        return self.is_trusted


def ends(ship: Ship, uuid: bytes) -> list[bytes]:
    """The reply to a request as soon as there is one, with the deadlines looked at all the time."""
    found: list[list[bytes]] = []

    def has_ended() -> bool:
        ship.call(lambda t: t._look_for_late())
        found[:] = [ship.reply(uuid)]
        return found[0] != PENDING

    assert ship.stage.until(has_ended), ship.info(uuid)
    return found[0]


def parked(ship: Ship, service: bytes = b"") -> bytes:
    """A request that was given up."""
    service = service or unique()
    worker = ship.worker(service)
    uuid = ship.request(service)
    for _ in range(3):
        ship.serve(worker, *FAILED)
    assert ship.fetch(uuid)[0].startswith(b"500 parked")
    ship.lose(worker, service)
    return uuid


# ---------------------------------------------------------------- list, info


def test_all_states_are_told(ship: Ship) -> None:
    service, slow, away = unique(), unique(), unique()
    given_up = parked(ship)
    ship.worker(service).echo = True
    done = ship.request(service)
    ship.fetch(done)
    late = ship.accepted(an_id(1, 0), away, b"work")
    ends(ship, late)
    waits = ship.accepted(an_id(2, 1000), away, b"work")
    flies = ship.request(slow)
    ship.worker(slow).request()
    told, status = ship.queue("list")
    assert status == b"200"
    assert told["counts"] == {"pending": 1, "in flight": 1, "parked": 1, "late": 1, "done": 1}
    assert told["more"] is False
    wanted = [
        (given_up, "parked", 3, "it failed 3 times, at last: the pump is dry"),
        (done, "done", 0, ""),
        (late, "late", 0, ""),
        (waits, "pending", 0, ""),
        (flies, "in flight", 0, ""),
    ]
    rows = told["requests"]
    assert [(row["uuid"].encode(), row["state"], row["failures"], row["reason"]) for row in rows] == wanted
    assert [row["service"].encode() for row in rows[1:]] == [service, away, away, slow]
    assert all(0 <= row["age"] < 60 for row in rows)
    assert all(abs(row["time"] - time.time()) < 60 for row in rows)
    assert [row["lifetime"] is None for row in rows] == [True, True, True, False, True]
    assert 900 < rows[3]["lifetime"] <= 1000
    for state, uuids in (("pending", [waits, flies]), ("done", [done]), ("late", [late]), ("parked", [given_up])):
        listed, _ = ship.queue("list", state)
        assert [row["uuid"].encode() for row in listed["requests"]] == uuids
        assert listed["counts"] == told["counts"]


def test_what_failed_and_is_tried_again_tells_why(ship: Ship) -> None:
    service = unique()
    worker = ship.worker(service)
    uuid = ship.request(service)
    ship.serve(worker, *FAILED)
    worker.request()
    assert ship.stage.until(lambda: ship.info(uuid)["failures"] == 1)
    told = ship.info(uuid)
    assert (told["state"], told["reason"], told["reply"]) == ("in flight", "the pump is dry", None)


def test_only_the_oldest_are_listed(ship: Ship, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "LISTED", 3)
    service = unique()
    uuids = ship.requests(service, b"0", b"1", b"2")
    assert ship.queue("list")[0]["more"] is False
    ship.request(service)
    told, _ = ship.queue("list", "pending")
    assert [row["uuid"].encode() for row in told["requests"]] == uuids
    assert told["more"] is True
    assert told["counts"]["pending"] == 4


def test_a_list_reads_no_bodies(ship: Ship) -> None:
    """A thousand long ones would not fit into the memory."""
    ship.request(unique(), bytes(100_000))
    found = ship.call(lambda t: t.queue.database.read(lambda connection: requests.rows(connection, None, 10)))
    assert sum(len(value) for value in found[0] if isinstance(value, bytes)) < 1000


def test_info_shows_any_frames(ship: Ship) -> None:
    service = unique()
    worker = ship.worker(service)
    uuid = ship.request(service, b"\xff\x00", "°C".encode(), b"x" * 5000)
    told = ship.info(uuid)
    assert told["body"] == ["\\xff\x00", "°C", "x" * 4096 + "…"]
    assert told["reply"] is None
    ship.serve(worker, b"", b"\xfe")
    ship.fetch(uuid)
    told = ship.info(uuid)
    assert (told["body"], told["reply"]) == ([], ["", "\\xfe"])


def test_info_of_a_giant_fits_into_a_message(ship: Ship) -> None:
    uuid = ship.request(unique(), *([b"\xff" * 1000] * 1000))
    told = ship.info(uuid)
    assert len(told["body"]) == queue_module.FRAMES + 1
    assert told["body"][-1] == "…"


def test_a_reason_of_any_length_and_kind_is_shown(ship: Ship) -> None:
    service = unique()
    worker = ship.worker(service)
    uuid = ship.request(service)
    for _ in range(3):
        ship.serve(worker, b'"' + "\u0000° ".encode().replace(b"\x00", b"\\u001b") * 50_000 + b'"', b"500")
    (status,) = ship.fetch(uuid)
    assert len(status) < 1000
    assert b"\x1b" not in status
    assert len(ship.info(uuid)["reason"]) <= queue_module.REASON + 1
    assert len(ship.queue("list")[0]["requests"][0]["reason"]) <= queue_module.REASON + 1


@pytest.mark.parametrize(
    ("frames", "status", "words"),
    [
        (["list", "in flight"], b"400", "the states are pending, done, parked, late"),
        (["list", "DONE"], b"400", "not 'DONE'"),
        (["list", "a", "b"], b"400", "usage: list [state]"),
        (["info"], b"400", "usage: info uuid"),
        (["info", "x"], b"400", "has 32 hexadecimal digits"),
        (["info", "0" * 32], b"404", "no such request is kept"),
        (["retry", "x" * 100_000], b"400", "has 32 hexadecimal digits"),
        (["retry", "0" * 32], b"404", "no such request is kept"),
        (["drop", "f" * 32], b"400", "has 32 hexadecimal digits"),
        (["drop", "0" * 32], b"404", "no such request is kept"),
        (["dance"], b"501", "queue knows list, info, retry, drop"),
    ],
)
def test_refusals_have_a_status_and_a_reason(ship: Ship, frames: list[str], status: bytes, words: str) -> None:
    told, got = ship.queue(*frames)
    assert got == status
    assert words in told


# ---------------------------------------------------------------- retry, drop


def test_a_parked_one_is_run_again_when_that_is_asked_for(ship: Ship) -> None:
    service = unique()
    uuid = parked(ship, service)
    assert ship.queue("retry", uuid) == ({"uuid": uuid.decode(), "state": "pending"}, b"200")
    assert ship.reply(uuid) == PENDING
    assert (ship.statistic("parked"), ship.statistic("pending")) == (0, 1)
    told = ship.info(uuid)
    assert (told["failures"], told["reason"]) == (0, "")
    ship.serve(ship.worker(service), b"at last")
    assert ship.fetch(uuid) == [b"200", b"at last"]
    ship.counts(done=1)


def test_one_that_is_run_again_comes_before_younger_ones(ship: Ship) -> None:
    service = unique()
    uuid = parked(ship, service)
    ship.requests(service, b"younger", b"youngest")
    ship.queue("retry", uuid)
    worker = ship.worker(service)
    assert [ship.serve(worker).body for _ in range(3)] == [[b"work"], [b"younger"], [b"youngest"]]


def test_while_others_are_in_flight_a_retry_runs_nothing_twice(ship: Ship) -> None:
    service = unique()
    uuid = parked(ship, service)
    worker = ship.worker(service)
    others = ship.requests(service, b"0", b"1", b"2")
    held = worker.request()
    ship.queue("retry", uuid)
    worker.reply(held, b"done")
    assert [ship.serve(worker).body for _ in range(3)] == [[b"work"], [b"1"], [b"2"]]
    assert ship.fetch(others[2]) == [b"200", b"2"]
    assert given(worker) == 4


def test_a_server_of_ours_does_again_what_is_tried_again(ship: Ship) -> None:
    with tank_on(ship.bus) as tank:
        tank.tank.trouble = [b"500"] * 3
        uuid = ship.request(TANK, b"exec", b"on")
        assert ship.fetch(uuid)[0].startswith(b"500 parked: it failed 3 times, at last: the lamp is hot")
        assert ship.queue("retry", uuid)[1] == b"200"
        assert ship.fetch(uuid) == [b"200", b'"on"', b"200"]
        assert tank.done == ["on"] * 4
        assert len({frame[:39] for frame in tank.ids}) == 4, "an id that is known would be answered from memory"


def test_a_command_that_is_tried_again_has_a_lifetime_again(harbour: Ship) -> None:
    """Nobody wants the heater on when its server is back tomorrow."""
    ship = harbour.start()
    with tank_on(ship.bus) as tank:
        tank.tank.trouble = [b"500"] * 3
        uuid = ship.request(TANK, b"exec", b"on")
        ship.fetch(uuid)
    ship.queue("retry", uuid)
    told = ship.info(uuid)
    assert told["state"] in ("pending", "in flight"), "its server may still count as there"
    assert 27 < told["lifetime"] <= 30, "as long as it had, from now on"
    assert tank.tank.done == ["on"] * 3


@pytest.mark.parametrize("state", ["pending", "in flight", "done", "late"])
def test_only_a_parked_one_is_run_again(ship: Ship, state: str) -> None:
    service = unique()
    uuid = ship.accepted(an_id(1, 0), service, b"work") if state == "late" else ship.request(service)
    if state in ("in flight", "done"):
        worker = ship.worker(service)
        request = worker.request()
        if state == "done":
            worker.reply(request, b"done")
            ship.fetch(uuid)
    elif state == "late":
        ends(ship, uuid)
    before = ship.info(uuid)
    assert before["state"] == state
    reason, status = ship.queue("retry", uuid)
    assert status == b"409"
    assert "only a parked one is run again" in reason
    assert ship.info(uuid)["state"] == state


def test_any_may_be_dropped(ship: Ship) -> None:
    service, slow = unique(), unique()
    uuid = parked(ship)
    assert ship.queue("drop", uuid) == ({"uuid": uuid.decode(), "state": "parked"}, b"200")
    waits = ship.request(unique())
    assert ship.queue("drop", waits)[0]["state"] == "pending"
    ship.worker(service).echo = True
    done = ship.request(service)
    ship.fetch(done)
    assert ship.queue("drop", done)[0]["state"] == "done"
    flies = ship.request(slow)
    worker = ship.worker(slow)
    held = worker.request()
    ship.queue("drop", flies)
    worker.reply(held, b"nobody wants it")
    assert ship.queue("drop", flies)[1] == b"404"
    ship.eventually(lambda t: not t.flying)
    assert ship.queue("list")[0]["counts"] == {"pending": 0, "in flight": 0, "parked": 0, "late": 0, "done": 0}
    assert [ship.statistic(name) for name in ("pending", "parked", "late", "done")] == [0, 0, 0, 0]


def test_what_was_dropped_while_an_old_one_is_begun_is_not_run(ship: Ship) -> None:
    """After a restart it is noted first that it is begun; meanwhile it may be withdrawn."""
    service = unique()
    uuids = ship.requests(service, b"0", b"1")
    ship.restart()
    ship.away(service)
    hold_the_disk(ship)
    worker = ship.worker(service)
    ship.eventually(lambda t: t.queue.waiting == 1, "it is noted")
    ship.client.request(b"titanic.close", uuids[0])
    ship.eventually(lambda t: t.queue.waiting == 2)
    # As if the disk had been slow: the withdrawal is the first.
    ship.call(lambda t: t.queue._writes.rotate(1))
    let_go(ship)
    assert ship.client.reply().body == [b"200"]
    assert ship.serve(worker).body == [b"1"]
    assert ship.fetch(uuids[1]) == [b"200", b"1"]


def test_what_was_dropped_while_it_was_read_is_not_run(harbour: Ship) -> None:
    service = unique()
    ship = harbour.start()
    uuids = ship.requests(service, b"0", b"1")
    ship.restart()
    ship.away(service)

    def read_and_drop() -> None:
        """The file is read before it is dropped there, and what was read comes after that."""
        titanic = ship.titanic
        lane = dispatcher(titanic).lanes[service]
        found = titanic.queue.database.read(lambda connection: requests.page(connection, service, 0, 64, 1 << 20))
        lane.reading = True
        name = records.parse_uuid(uuids[0])
        assert name is not None
        titanic.queue.database.write(lambda connection: requests.close(connection, [name]))
        titanic.closed(name[0], (records.PENDING, service))
        dispatcher(titanic)._read(lane, found, None)

    ship.call(lambda _: read_and_drop())
    worker = ship.worker(service)
    assert ship.serve(worker).body == [b"1"]
    assert ship.fetch(uuids[1]) == [b"200", b"1"]
    assert given(worker) == 1


# ---------------------------------------------------------------- lifetimes


def test_what_could_not_begin_in_time_never_begins(ship: Ship) -> None:
    service = unique()
    late, good = ship.accepted(an_id(1, 0.05), service, b"late"), ship.request(service, b"good")
    assert ends(ship, late) == LATE
    event = ship.event(service)
    assert (event["event"], event["count"], event["uuid"]) == ("late", 1, late.decode())
    assert (ship.statistic("late"), ship.statistic("pending")) == (1, 1)
    worker = ship.worker(service)
    assert ship.serve(worker).body == [b"good"]
    assert ship.fetch(good) == [b"200", b"good"]
    assert ship.restart().reply(late) == LATE
    assert given(worker) == 1


def test_the_server_looks_at_the_deadlines_by_itself(ship: Ship) -> None:
    assert ship.fetch(ship.accepted(an_id(1, 0.05), unique(), b"late")) == LATE


@pytest.mark.parametrize("service", [b"\xff" * 255, b"a/b//c/", b"/", "ü".encode() * 100, b"\n\x1b[2J"])
def test_an_event_of_a_service_with_any_name(ship: Ship, service: bytes) -> None:
    assert ends(ship, ship.accepted(an_id(1, 0), service, b"late")) == LATE
    assert ship.stage.until(lambda: len(ship.bus.tree("/event/request/")) == 1)
    ((key, event),) = ship.bus.tree("/event/request/").items()
    assert event["event"] == "late"
    assert key.isprintable()
    assert "/" not in key.removeprefix("/event/request/")


def test_events_of_many_services_share_a_name(ship: Ship, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raspy.servers.titanic.titanic.EVENT_NAMES", 2)
    for number in range(4):
        ends(ship, ship.accepted(an_id(number, 0), b"s%d" % number, b"late"))
    names = {"/event/request/s0", "/event/request/s1", "/event/request/others"}
    assert ship.stage.until(lambda: set(ship.bus.tree("/event/request/")) == names)


def test_what_has_begun_in_time_may_take_longer(ship: Ship) -> None:
    service = unique()
    worker = ship.worker(service)
    ship.bus.eventually(lambda broker: service in broker.services)
    uuid = ship.accepted(an_id(1, 1000), service, b"slow")
    request = worker.request()
    pass_time(ship, 1001)
    ship.call(lambda t: t._look_for_late())
    assert ship.info(uuid)["state"] == "in flight"
    worker.reply(request, b"done")
    assert ship.fetch(uuid) == [b"200", b"done"]
    assert ship.statistic("late") == 0


def test_what_failed_is_not_tried_again_when_it_is_too_late(ship: Ship, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raspy.servers.titanic.dispatch.FAILURE_PAUSE", (60.0, 60.0))
    service = unique()
    worker = ship.worker(service)
    uuid = ship.accepted(an_id(1, 1000), service, b"work")
    ship.serve(worker, *FAILED)
    pass_time(ship, 1001)
    assert ends(ship, uuid) == LATE


def test_what_is_too_late_in_the_brokers_queue_is_not_run(ship: Ship) -> None:
    with tank_on(ship.bus) as tank:
        others = ship.stage.client()
        for name in (b"a", b"b"):
            others.request(TANK, an_id(100 + name[0]), b"slow", name)
        assert tank.does(2) == ["a", "b"]
        # By the broker's clock, which a test does not set; it has to be in the broker's queue by then.
        uuid = ship.accepted(an_id(1, 2.0), TANK, b"exec", b"on")
        ship.eventually(lambda t: t.flying == 1)
        ship.bus.eventually(lambda broker: broker.queued == 1)
        deadline = ship.call(lambda t: t.clock.now()) + 2.0
        ship.eventually(lambda t: t.clock.now() > deadline)
        tank.answer(0)
        assert ends(ship, uuid) == LATE
        tank.answer(1)
        assert ship.fetch(ship.request(TANK, b"exec", b"off"))[0] == b"200"
        assert tank.done == ["a", "b", "off"]


def test_what_is_left_of_it_goes_along(ship: Ship) -> None:
    with tank_on(ship.bus) as tank:
        for lifetime in (1000.0, None):
            ship.fetch(ship.accepted(an_id(int(lifetime or 0), lifetime), TANK, b"exec", b"on"))
        ship.fetch(ship.request(TANK, b"list"))
        lifetimes = [(MDP.parse_id(frame) or (b"", -1.0))[1] for frame in tank.ids]
        assert 900 < (lifetimes[0] or 0) <= 1000
        assert 25 < (lifetimes[1] or 0) <= 30, "a command to an output always has one"
        assert lifetimes[2] is None


@pytest.mark.parametrize(
    ("frames", "lifetime"),
    [
        ((b"pi.gone.devices", b"exec", b"heater", b"on"), 30),
        (("", b"pi.gone.devices", b"exec", b"heater", b"on"), 30),
        ((500, b"pi.gone.devices", b"exec", b"heater", b"on"), 500),
        ((b"pi.gone.devices", b"list"), None),
        ((b"pi.gone.cron", b"exec", b"x"), None),
        ((b"pi.gone.devices", b"new", b"exec"), None),
        ((3, b"pi.gone.cron", b"fire"), 3),
    ],
)
def test_a_command_to_a_device_has_a_lifetime(ship: Ship, frames: tuple[Any, ...], lifetime: float | None) -> None:
    if not isinstance(frames[0], bytes):
        # Made now: its lifetime begins with it.
        frames = (an_id(1, frames[0] or None), *frames[1:])
    told = ship.info(ship.accepted(*frames))["lifetime"]
    assert told is None if lifetime is None else lifetime - 3 < told <= lifetime


def test_the_lifetime_of_commands_can_be_set(harbour: Ship) -> None:
    ship = harbour.start(command_lifetime=0.05)
    assert ends(ship, ship.request(b"pi.gone.devices", b"exec", b"heater", b"on")) == LATE


# ---------------------------------------------------------------- reboots


@pytest.mark.parametrize(
    ("before", "after", "ahead", "in_time"),
    [
        (True, True, 0.0, True),
        (True, True, 900.0, True),
        (True, True, 1100.0, False),
        (True, True, -100.0, False),
        (False, True, 0.0, False),
        (True, False, 0.0, False),
        (False, False, 0.0, False),
    ],
)
def test_after_a_reboot_only_what_is_known_to_be_in_time_is_run(
    harbour: Ship, before: bool, after: bool, ahead: float, in_time: bool
) -> None:
    service = unique()
    ship = harbour.start(BootClock("one", before))
    limited, without = ship.accepted(an_id(1, 1000), service, b"limited"), ship.request(service, b"without")
    ship.restart(BootClock("two", after, since=5.0, ahead=ahead))
    if in_time:
        left = ship.info(limited)["lifetime"]
        assert 1000 - ahead - 30 < left <= 1000 - ahead
    else:
        assert ship.reply(limited) == LATE
        event = ship.event(service)
        assert (event["event"], event["count"]) == ("late", 1)
        assert ship.statistic("late") == 1
    worker = ship.worker(service)
    expected = [b"limited", b"without"] if in_time else [b"without"]
    assert [ship.serve(worker).body[0] for _ in expected] == expected
    assert ship.fetch(without) == [b"200", b"without"]


def test_a_restart_is_no_reboot(harbour: Ship) -> None:
    service = unique()
    ship = harbour.start(BootClock("one", False))
    uuid = ship.accepted(an_id(1, 1000), service, b"limited")
    ship.restart(BootClock("one", False, since=101.0))
    assert ship.reply(uuid) == PENDING
    assert 900 < ship.info(uuid)["lifetime"] < 1000
    ship.worker(service).echo = True
    assert ship.fetch(uuid) == [b"200", b"limited"]


def test_the_clock_never_goes_back(harbour: Ship) -> None:
    ship, times = harbour, []
    for number, since in enumerate((1e6, 5.0, 5.0, 2e6, 1.0)):
        ship.restart(BootClock(str(number), False, since=since))
        ship.eventually(lambda t: t.queue.commits)
        ship.request(unique())
        times.append(ship.call(lambda t: t.clock.now()))
    assert times == sorted(times)


def test_what_comes_before_the_file_is_open_has_its_whole_lifetime(
    harbour: Ship, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's own clock is known from the file only."""
    ship = harbour.start(BootClock("one", False, since=1e6))
    ship.request(unique())
    ship.stop()
    opened, begin = threading.Event(), requests.begin

    def slowly(*args: Any) -> records.Begun:
        assert opened.wait(30)
        return begin(*args)

    monkeypatch.setattr(requests, "begin", slowly)
    ship.launch(BootClock("two", False, since=5.0)).ready()
    service = unique()
    ship.client.request(b"titanic.request", an_id(1, 1000), service, b"work")
    ship.eventually(lambda t: t.queue.waiting == 1)
    opened.set()
    uuid = ship.client.reply().body[1]
    ship.call(lambda t: t._look_for_late())
    assert 900 < ship.info(uuid)["lifetime"] <= 1000
    ship.worker(service).echo = True
    assert ship.fetch(uuid) == [b"200", b"work"]


def test_the_clock_is_trusted_once_it_was_set_from_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock_module, "SYNCHRONIZED", str(tmp_path / "synchronized"))
    assert not Clock().boot().trusted
    (tmp_path / "synchronized").touch()
    assert Clock().boot().trusted


def test_all_clocks_of_a_boot_know_it() -> None:
    assert Clock().boot_id == Clock().boot_id == MDP.boot_id()


def test_the_clock_counts_from_where_the_file_says() -> None:
    clock = Clock()
    clock.start(0.0)
    before = clock.now()
    clock.start(1000.0)
    assert before + 1000 <= clock.now() < before + 1060
