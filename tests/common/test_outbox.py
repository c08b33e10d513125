"""While the broker is away nothing is lost that the logger would have kept, and nothing counts twice."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from raspy.common import MDP, storage
from raspy.common.devices.value import Value
from raspy.common.kvcliapi import KvSubscriber
from raspy.common.outbox import LEFT, delivery, outbox
from raspy.common.outbox.reading import BODY_BYTES, read
from raspy.common.server import Server
from raspy.common.verbs import VerbError
from raspy.servers.logger import append
from raspy.servers.logger import verbs as logger_verbs
from tests.common.outbox_stage import KEY, Clock, Node, Stage, a_stage
from tests.support_devices import LIMIT
from tests.support_disks import ext4_disk, small_disk

DAY = 86_400
NOW = 1_790_000_000.0
OTHER = "/device/shed.onewire.28-0316a279f2ff/temperature"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses that a test can wait for; no node does without one at all."""
    monkeypatch.setattr(storage, "RETRY", 0.05)
    # Nothing is given up because the disk is busy.
    monkeypatch.setattr(storage, "LAST_COMMIT", LIMIT)
    monkeypatch.setattr(outbox, "LOOK", 0.1)
    monkeypatch.setattr(outbox, "SPILL", 3600.0)
    monkeypatch.setattr(outbox, "SETTLE", 0.3)
    monkeypatch.setattr(delivery, "PAUSE", 0.02)
    monkeypatch.setattr(delivery, "LONGEST_PAUSE", 0.2)
    monkeypatch.setattr(delivery, "JITTER", 0.0)


@pytest.fixture
def stage() -> Iterator[Stage]:
    with a_stage() as made:
        yield made


@pytest.fixture
def spilling(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits goes to the disk at once."""
    monkeypatch.setattr(outbox, "SPILL", 0.0)


def well(stage: Stage, node: Node | None = None) -> Node:
    """A node on a bus on which all is well."""
    stage.house.start()
    node = node or stage.node()
    node.connected()
    node.delivered()
    node.until(lambda: stage.house.follows and node.outbox.loggers.there and not node.outbox.keeping)
    return node


def rows(path: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT value, boot, trusted FROM reading ORDER BY id").fetchall()


def left(stage: Stage) -> list[float]:
    """Values of those that a server had in memory when it stopped."""
    content = json.loads(Path(stage.state, LEFT).read_bytes())
    return [reading["value"] for reading in content["readings"]]


def on_disk(node: Node, count: int) -> None:
    """Until so many wait on the disk, and none in memory."""
    node.until(lambda: node.outbox.file and node.outbox.waiting == node.outbox.file.waiting == count)


# The network goes, and comes back


def test_while_all_is_well_nothing_is_kept_and_no_disk_is_used(stage: Stage) -> None:
    node = well(stage)
    node.count(0, 20)
    node.until(lambda: len(stage.house.values()) == 20)
    assert (node.outbox.waiting, node.outbox.file, node.outbox.delivery, node.outbox._timer) == (0, None, None, None)
    node.stop()
    assert not Path(stage.state).exists()


def test_what_is_read_while_the_broker_is_away_is_logged_at_its_time(stage: Stage) -> None:
    node = well(stage)
    stage.house.stop_broker()
    node.connected(False)
    times = node.count(0, 50)
    when = node.publish(None)
    assert node.outbox.waiting == 51
    stage.house.start_broker()
    node.delivered()
    wanted = [[when, number, "ok"] for number, when in enumerate(times)] + [[when, None, "error"]]
    assert stage.house.history() == wanted
    assert node.outbox.file is None
    assert node.statistic("outbox_delivered") >= 51
    node.until(lambda: not node.outbox.keeping)
    assert node.outbox._timer is None


def test_old_values_never_go_onto_the_tree(stage: Stage) -> None:
    node = well(stage)
    seen: list[float] = []
    subscriber = KvSubscriber(
        node.server, "/device", lambda key, body: seen.append(json.loads(body).get("value", -1)) if body else None
    )
    stage.house.stop_broker()
    node.connected(False)
    node.count(0, 50)
    stage.house.start_broker()
    node.delivered()
    node.until(lambda: KEY in stage.house.tree())
    node.publish(50)
    node.until(lambda: 50 in seen)
    subscriber.close()
    assert set(seen) <= {-1, 49, 50}


def test_what_was_told_just_before_the_loss_counts_once(stage: Stage) -> None:
    node = well(stage)
    node.count(0, 30)
    node.until(lambda: len(stage.house.values()) == 30)
    before = stage.house.history()
    stage.house.stop_broker()
    node.connected(False)
    assert node.outbox.waiting == 30
    node.publish(30)
    stage.house.start_broker()
    node.delivered()
    assert stage.house.history()[:-1] == before
    # What the logger had in memory has met the late ones on the disk.
    stage.house.stop_logger()
    stage.house.start_logger()
    node.until(lambda: stage.house.values() == list(range(31)))


def test_only_what_is_recent_is_kept_against_a_loss(stage: Stage) -> None:
    clock = Clock()
    node = well(stage, stage.node(clock))
    node.publish(0)
    clock.more += outbox.UNNOTICED + 1
    node.count(1, 5)
    assert [reading.value for reading in node.outbox._recent] == [1, 2, 3, 4]
    for number in range(3 * outbox.RECENT):
        node.publish(number)
    assert len(node.outbox._recent) == outbox.RECENT


def test_a_restart_of_the_broker_at_once_costs_nothing(stage: Stage) -> None:
    node = well(stage)
    for number in range(5):
        node.publish(number)
        stage.house.stop_broker()
        stage.house.start_broker()
        node.until(lambda: node.publisher.connected and node.outbox.keeping)
    node.publish(5)
    node.until(lambda: stage.house.values() == list(range(6)))
    node.delivered()
    assert stage.house.values() == list(range(6))


def test_a_server_that_is_there_before_the_broker_sends_each_value_once(stage: Stage) -> None:
    node = stage.node()
    node.publish(1)
    node.publish(2, key=OTHER)
    stage.house.start()
    node.until(lambda: stage.house.values() == [1] and stage.house.values(OTHER) == [2])
    assert node.outbox.delivery is None


def test_a_server_that_has_read_more_than_once_before_the_broker_came_loses_none(stage: Stage) -> None:
    node = stage.node()
    node.count(0, 5)
    stage.house.start()
    node.until(lambda: stage.house.values() == list(range(5)))


def test_a_server_makes_its_outbox_with_its_first_reading_if_it_may(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", stage.state)
    for most in (0, 10):
        server = Server("shed", "onewire", stage.house.ip)
        server.outbox_rows = most
        server.start()
        server.publish("/variable/x", 1)
        assert server.outbox is None
        server.publish(KEY, Value.ok(1, log=True).encode())
        assert (server.outbox is not None) == bool(most)
        assert ("onewire.outbox" in server.statistics()) == bool(most)
        server.stop()
        server.destroy()
        assert Path(stage.state, "outbox.json").exists() == bool(most)


# The disk


@pytest.mark.usefixtures("spilling")
def test_a_long_outage_is_kept_on_the_disk_and_the_file_goes_when_it_is_over(stage: Stage) -> None:
    node = well(stage)
    stage.house.stop_broker()
    node.connected(False)
    for number in range(5):
        node.count(10 * number, 10 * number + 10)
        on_disk(node, 10 * number + 10)
    assert [value for value, *_ in rows(node.path)] == list(range(50))
    stage.house.start_broker()
    node.delivered()
    assert stage.house.values() == list(range(50))
    node.until(lambda: node.outbox.file.rests)
    assert list(Path(stage.state).iterdir()) == []
    node.until(lambda: node.outbox._timer is None)
    assert node.outbox.file.waiting == 0
    node.stop()
    assert list(Path(stage.state).iterdir()) == []


@pytest.mark.usefixtures("spilling")
def test_the_disk_is_used_again_for_the_next_outage(stage: Stage) -> None:
    node = well(stage)
    for number in range(3):
        stage.house.stop_broker()
        node.connected(False)
        waits = node.outbox.waiting
        node.count(10 * number, 10 * number + 10)
        on_disk(node, waits + 10)
        assert [value for value, *_ in rows(node.path)][-10:] == list(range(10 * number, 10 * number + 10))
        stage.house.start_broker()
        node.delivered()
        assert stage.house.values() == list(range(10 * number + 10))
        node.until(lambda: node.outbox.file.rests)
        assert not node.path.exists()


@pytest.mark.usefixtures("spilling")
def test_what_comes_while_the_file_is_closed_is_written(stage: Stage) -> None:
    node = well(stage)
    stage.house.stop_broker()
    node.connected(False)
    node.count(0, 10)
    on_disk(node, 10)
    stage.house.start_broker()
    node.delivered()
    node.until(lambda: node.outbox.file.rests)
    file = node.outbox.file
    assert file is not None
    for number in range(20):
        # It is opened, and closed behind what was written meanwhile.
        written: list[bool] = []
        file.storage.rests = False
        file.storage.rest()
        file.write([read(KEY, Value.ok(number, log=True).encode(), node.clock)], written.append)  # type: ignore[list-item]
        assert not file.rests
        node.until(lambda told=written: told)
        assert written == [True]
        assert [value for value, *_ in rows(node.path)] == [number]
        file.sent(file._last)
        assert file.waiting == 0
        node.until(lambda: file.rest() or file.rests)
        assert not node.path.exists()


def test_what_waits_in_memory_is_written_when_the_server_stops(stage: Stage) -> None:
    node = well(stage)
    stage.house.stop_broker()
    node.connected(False)
    node.count(0, 20)
    node.stop()
    assert left(stage) == list(range(20))
    other = stage.node()
    other.count(20, 30)
    stage.house.start_broker()
    other.delivered()
    other.until(lambda: stage.house.values() == list(range(30)))
    other.until(lambda: not Path(stage.state, LEFT).exists() and other.outbox._timer is None)
    assert other.outbox.file is None, "a few need no database"
    other.stop()
    assert list(Path(stage.state).iterdir()) == []


@pytest.mark.usefixtures("spilling")
def test_the_oldest_are_given_up_counted_and_told(stage: Stage) -> None:
    node = well(stage, stage.node(most=50))
    stage.house.stop_broker()
    node.connected(False)
    for number in range(10):
        node.count(20 * number, 20 * number + 20)
        on_disk(node, min(20 * number + 20, 50))
    assert [value for value, *_ in rows(node.path)] == list(range(150, 200))
    assert node.statistic("outbox_dropped") == 150
    assert "given up" in node.server.conditions["outbox full"]
    stage.house.start_broker()
    node.delivered()
    node.until(lambda: "outbox full" not in node.server.conditions)
    assert stage.house.values() == list(range(150, 200))


@pytest.mark.system
@pytest.mark.usefixtures("spilling")
def test_with_a_full_disk_memory_is_used_and_that_is_told(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "MOST_IN_MEMORY", 100)
    with small_disk() as disk:
        node = well(stage, stage.node(state=disk.place))
        disk.fill()
        stage.house.stop_broker()
        node.connected(False)
        node.count(0, 50)
        node.until(lambda: "the disk is full" in node.server.conditions.get("outbox", ""))
        node.count(50, 150)
        node.until(lambda: node.statistic("outbox_dropped") == 50)
        stage.house.start_broker()
        node.until(lambda: not node.outbox.waiting)
        assert stage.house.values() == list(range(50, 150))
        disk.make_room()
        node.until(lambda: not node.server.conditions)
        node.stop()


@pytest.mark.usefixtures("spilling")
def test_a_write_that_fails_while_others_are_on_their_way_costs_none(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = well(stage)
    stage.house.stop_broker()
    node.connected(False)
    node.count(0, 10)
    written: list[Any] = []

    def write(self: outbox.Outbox) -> None:
        written.extend(self.readings)
        self.readings.clear()

    monkeypatch.setattr(outbox.Outbox, "_write", write)
    node.until(lambda: len(written) == 10)
    box = node.outbox
    box._storing = 10
    node.count(10, 20)
    before = delivery.Delivery._answered

    def answered(self: delivery.Delivery, *more: Any) -> None:
        if box._storing:
            # what comes back is not to be written anew: the disk of this test keeps nothing
            monkeypatch.setattr(outbox, "SPILL", 3600.0)
            box._written(written, False)  # the disk says no before the logger answers
        before(self, *more)

    monkeypatch.setattr(delivery.Delivery, "_answered", answered)
    stage.house.start_broker()
    node.until(lambda: stage.house.values() == list(range(20)))
    node.delivered()
    assert node.statistic("outbox_dropped") == 0


@pytest.mark.system
@pytest.mark.usefixtures("spilling")
def test_a_disk_that_fills_up_later_is_emptied_and_holds_nothing_back(stage: Stage) -> None:
    with small_disk() as disk:
        node = well(stage, stage.node(state=disk.place))
        stage.house.stop_broker()
        node.connected(False)
        node.count(0, 100)
        on_disk(node, 100)
        disk.fill()
        node.count(100, 150)
        node.until(lambda: "outbox" in node.server.conditions)
        stage.house.start_broker()
        # What is in memory comes through; the file may have to wait for the disk.
        node.until(lambda: set(range(100, 150)) <= set(stage.house.values()))
        disk.make_room()
        node.delivered()
        assert stage.house.values() == list(range(150))
        node.until(lambda: not rows(node.path) and not node.server.conditions)
        node.stop()


@pytest.mark.slow
@pytest.mark.system
@pytest.mark.usefixtures("spilling")
def test_a_disk_that_hangs_holds_up_nobody(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "MOST_IN_MEMORY", 100)
    with ext4_disk() as disk:
        node = well(stage, stage.node(state=disk.place))
        stage.house.stop_broker()
        node.connected(False)
        node.count(0, 50)
        on_disk(node, 50)
        with disk.frozen():
            node.count(50, 100)
            node.until(lambda: "has not taken a write" in node.server.conditions.get("outbox", ""))
            node.count(100, 250)
            assert node.statistic("outbox_dropped") == 50
            assert node.server.longest_turn < storage.PATIENCE
            stage.house.start_broker()
            node.until(lambda: set(range(150, 250)) <= set(stage.house.values()))
        node.delivered()
        assert stage.house.values() == [*range(100), *range(150, 250)]
        node.stop()


@pytest.mark.usefixtures("spilling")
@pytest.mark.parametrize("content", [b"this is no database" * 100, b""])
def test_a_file_that_is_none_of_ours_is_set_aside(stage: Stage, content: bytes) -> None:
    path = Path(stage.state, "outbox.db")
    path.parent.mkdir()
    path.write_bytes(content)
    node = stage.node()
    node.count(0, 10)
    on_disk(node, 10)
    stage.house.start()
    node.delivered()
    node.until(lambda: stage.house.values() == list(range(10)))
    node.stop()
    assert any("damaged" in file.name for file in path.parent.iterdir()) == bool(content)


@pytest.mark.usefixtures("spilling")
def test_a_file_of_a_newer_program_is_left_alone(stage: Stage) -> None:
    node = stage.node()
    node.count(0, 10)
    on_disk(node, 10)
    node.stop()
    with closing(sqlite3.connect(node.path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    other = stage.node()
    other.count(10, 20)
    other.until(lambda: "newer RasPy" in other.server.conditions.get("outbox", ""))
    stage.house.start()
    other.until(lambda: stage.house.values() == list(range(10, 20)))
    other.stop()
    assert len(rows(node.path)) == 10


# The logger


def test_a_logger_that_comes_later_than_the_broker_gets_all(stage: Stage) -> None:
    node = well(stage)
    stage.house.stop_logger()
    stage.house.stop_broker()
    node.connected(False)
    node.count(0, 10)
    stage.house.start_broker()
    node.connected()
    tries = node.outbox.waiting
    node.count(10, 20)  # the broker takes them, and nobody logs them
    node.until(lambda: KEY in stage.house.tree())
    assert node.outbox.waiting == tries + 10
    stage.house.start_logger()
    node.delivered()
    assert stage.house.values() == list(range(20))
    node.until(lambda: not node.outbox.keeping)


def test_without_any_logger_what_comes_later_is_not_kept_for_ever(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "PATIENCE", 0.5)
    stage.house.start_broker()
    node = stage.node()
    node.connected()
    stage.house.stop_broker()
    node.connected(False)
    node.count(0, 10)
    stage.house.start_broker()
    node.until(lambda: not node.outbox.keeping)
    node.count(10, 20)
    assert node.outbox.waiting == 10
    stage.house.start_logger()
    node.delivered()
    # Of what came meanwhile, that of the last seconds; the tree has the last one, which the logger may still have to
    # look for there.
    node.until(lambda: {*range(10), 19} <= set(stage.house.values()))
    assert set(stage.house.values()) <= set(range(20))


@pytest.mark.parametrize("long", [False, True])
def test_a_logger_that_restarts_while_the_broker_stays_gets_all(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, long: bool
) -> None:
    node = well(stage)
    node.publish(0)
    stage.house.stop_logger()
    # It has the process of the next one here, which is not known for another unless this one was seen to go.
    node.until(lambda: node.outbox.keeping)
    if long:
        monkeypatch.setattr(outbox, "PATIENCE", 0.2)
        began = node.outbox._connected_at
        node.until(lambda: monotonic() > began + 1)
        assert node.outbox.keeping
    node.count(1, 6)
    stage.house.start_logger()
    node.until(lambda: stage.house.values() == list(range(6)))
    node.delivered()
    node.until(lambda: not node.outbox.keeping)
    assert node.outbox._timer is None


def test_another_logger_process_is_noticed_though_none_was_seen_to_go(stage: Stage) -> None:
    node = well(stage)
    node.count(0, 5)
    [(key, pid, restarts)] = node.outbox.loggers.there or ()
    broker = stage.house.broker
    assert broker is not None
    body = json.dumps({"state": "ok", "pid": pid, "restarts": restarts + 1}).encode()
    broker.call(lambda: broker.executive.proxy.update(key, body))
    node.until(lambda: node.outbox.keeping)
    node.until(lambda: node.statistic("outbox_delivered") == 5)


@pytest.mark.parametrize("early", [True, False])
def test_a_logger_that_starts_after_the_node_was_connected_gets_all(stage: Stage, early: bool) -> None:
    if early:
        node = stage.node()
        node.count(0, 1)
        stage.house.start_broker()
    else:
        stage.house.start_broker()
        node = stage.node()
    node.connected()
    node.until(lambda: node.outbox.loggers.away)
    node.count(1, 6)
    assert not node.outbox.waiting
    stage.house.start_logger()
    node.until(lambda: stage.house.values() == list(range(0 if early else 1, 6)))
    node.until(lambda: not node.outbox.keeping)


def test_what_cannot_be_read_about_a_logger_is_told(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    node = well(stage)
    broker = stage.house.broker
    assert broker is not None
    broker.call(lambda: broker.executive.proxy.update("/server/other.logger", b"[]"))
    node.until(lambda: any("/server/other.logger is not understood" in found.getMessage() for found in caplog.records))
    assert not node.outbox.keeping


@pytest.mark.system
@pytest.mark.usefixtures("spilling")
def test_what_the_loggers_full_disk_does_not_take_stays(stage: Stage) -> None:
    with small_disk() as disk:
        stage.house.data = disk.place
        try:
            node = well(stage)
            stage.house.stop_broker()
            node.connected(False)
            node.count(0, 100)
            on_disk(node, 100)
            disk.fill()
            stage.house.start_broker()
            answers: list[Any] = []
            node.until(lambda: node.outbox.delivery)
            watch_answers(node, answers)
            node.until(lambda: answers.count(MDP.ERROR) >= 3)
            assert node.outbox.waiting == 100
            disk.make_room()
            node.delivered()
            assert stage.house.values() == list(range(100))
        finally:
            stage.house.stop_logger()


def watch_answers(node: Node, answers: list[Any]) -> None:
    """Collect the statuses of the logger's answers."""
    found = node.outbox.delivery
    assert found is not None
    before = found._answered

    def answered(count: int, last: int, reply: list[bytes] | None, took: float) -> None:
        answers.append(reply[-1] if reply else None)
        before(count, last, reply, took)

    found._answered = answered  # type: ignore[method-assign]


@pytest.mark.usefixtures("spilling")
def test_a_broker_that_goes_again_and_again_while_all_is_brought(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "BATCH", 50)
    node = well(stage)
    stage.house.stop_broker()
    node.connected(False)
    node.count(0, 1500)
    on_disk(node, 1500)
    for part in range(4):
        stage.house.start_broker()
        node.until(lambda part=part: node.outbox.waiting <= 1500 - 200 * (part + 1))
        stage.house.stop_broker()
        node.connected(False)
    stage.house.start_broker()
    node.delivered()
    assert stage.house.values() == list(range(1500))


@pytest.mark.usefixtures("spilling")
def test_one_reading_that_the_logger_does_not_understand_costs_no_other(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "BATCH", 64)
    before = append.read

    def poisoned(text: str, *more: Any) -> Any:
        if '"ok",30.0,"°C"' in text and ",77.0," in text:
            raise VerbError(MDP.BAD_REQUEST, "this is not understood")
        return before(text, *more)

    monkeypatch.setattr(logger_verbs.late, "read", poisoned)
    node = well(stage)
    stage.house.stop_broker()
    node.connected(False)
    node.count(0, 200)
    stage.house.start_broker()
    node.delivered()
    assert stage.house.values() == [number for number in range(200) if number != 77]
    assert node.statistic("outbox_refused") == 1


def test_what_is_refused_is_counted_and_told_once(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    node = well(stage)
    stage.house.stop_broker()
    node.connected(False)
    now = node.clock.wall()
    for number in range(3):
        node.publish(number, now + 5 * DAY + number)
    node.publish(3, now)
    stage.house.start_broker()
    node.delivered()
    assert node.statistic("outbox_refused") == 3
    assert len([record for record in caplog.records if "more than a day ahead" in record.getMessage()]) == 1


def test_of_two_loggers_that_of_the_own_host_is_taken(stage: Stage) -> None:
    stage.house.start_broker()
    stage.house.start_logger("shed")
    own = stage.house.logger
    stage.house.data += "-other"
    stage.house.start_logger()
    try:
        node = stage.node()
        node.count(0, 5)
        node.delivered()
        assert own is not None
        assert node.outbox.delivery is not None
        assert node.outbox.delivery._service == "shed.logger.log"
    finally:
        assert own is not None
        own.stop()


# A flood


def test_a_flood_is_bounded_comes_through_and_holds_up_nothing_new(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 20_000
    monkeypatch.setattr(delivery, "PAUSE", 0.1)
    node = well(stage, stage.node(most=most))
    stage.house.stop_broker()
    node.connected(False)
    for number in range(0, most + 5000, 500):
        for each in range(number, number + 500):
            node.publish(each)
        node.server.turn(0.0)
        assert len(node.outbox.readings) <= outbox.MOST_IN_MEMORY
    # All is on the disk: what is in memory then would come on top of the most.
    node.until(lambda: node.outbox.file and node.outbox.waiting == node.outbox.file.waiting)
    sizes: list[int] = []
    before = append.read
    monkeypatch.setattr(
        logger_verbs.late, "read", lambda text, *more: (sizes.append(text.count("/device/")), before(text, *more))[1]
    )
    stage.house.start_broker()
    node.until(lambda: node.statistic("outbox_delivered") > 0)
    node.publish(1.5, key=OTHER)
    node.until(lambda: stage.house.tree().get(OTHER, {}).get("value") == 1.5)
    assert node.outbox.waiting > 1000
    node.delivered()
    assert max(sizes) <= delivery.BATCH
    assert node.statistic("outbox_dropped") >= 5000
    assert node.statistic("outbox_delivered") + node.statistic("outbox_dropped") >= most + 5000


# Clocks


def placed(stage: Stage, wanted: list[float], within: float = 1.0) -> bool:
    """Whether the readings 0, 1, … are at these times."""
    found = stage.house.history()
    return [value for _, value, _ in found] == list(range(len(wanted))) and all(
        abs(when - right) < within for (when, *_), right in zip(found, wanted, strict=True)
    )


@pytest.mark.usefixtures("spilling")
def test_a_clock_that_is_wrong_and_turned_meanwhile_moves_nothing(stage: Stage) -> None:
    clock = Clock(trusted=False)
    node = well(stage, stage.node(clock))
    stage.house.stop_broker()
    node.connected(False)
    for number, turned in enumerate((-400 * DAY, 0.0, 3 * DAY, -7200.0)):
        clock.off += turned
        node.publish(number)
        clock.more += 600
        clock.off += 600
    on_disk(node, 4)
    now = Clock().wall()
    stage.house.start_broker()
    node.delivered()
    # The last one is also on the tree, and so in the history at the time at which it came there.
    found = [(when, value) for when, value, _ in stage.house.history() if when < now - 60]
    assert [value for _, value in found] == list(range(4))
    for number, (when, _) in enumerate(found):
        assert abs(when - (now - 600 * (4 - number))) < 30


@pytest.mark.usefixtures("spilling")
def test_after_a_reboot_those_of_a_right_clock_are_placed_and_others_counted(stage: Stage) -> None:
    right, wrong = Clock(), Clock(trusted=False, boot_id="c" * 32)
    wrong.off = -400 * DAY
    node = stage.node(right)
    node.count(0, 5)
    on_disk(node, 5)
    node.stop()
    node = stage.node(wrong)
    node.count(5, 10)
    on_disk(node, 10)
    node.stop()
    assert [(boot, trusted) for _, boot, trusted in rows(node.path)] == [("b" * 32, 1)] * 5 + [("c" * 32, 0)] * 5
    stage.house.start()
    node = stage.node(Clock(boot_id="d" * 32))
    node.delivered()
    assert stage.house.values() == list(range(5))
    assert node.statistic("outbox_refused") == 5


@pytest.mark.usefixtures("spilling")
def test_a_clock_that_is_set_right_gives_the_times_before_a_reboot_takes_them(stage: Stage) -> None:
    clock = Clock(trusted=False)
    clock.off = -400 * DAY
    node = stage.node(clock)
    node.publish(0)
    on_disk(node, 1)
    true = Clock().wall()
    clock.off = 0.0
    clock.right = True
    node.publish(1)
    on_disk(node, 2)
    node.until(lambda: all(trusted for *_, trusted in rows(node.path)))
    node.stop()
    stage.house.start()
    node = stage.node(Clock(boot_id="d" * 32))
    node.delivered()
    assert placed(stage, [true, true], 10.0)


def test_a_clock_that_is_set_right_by_the_network_that_comes_back_places_what_is_in_memory(stage: Stage) -> None:
    clock = Clock(trusted=False)
    clock.off = -400 * DAY
    node = well(stage, stage.node(clock))
    stage.house.stop_broker()
    node.connected(False)
    node.count(0, 3)
    true = Clock().wall()
    clock.off = 0.0
    clock.right = True
    node.publish(3)
    stage.house.start_broker()
    node.delivered()
    node.until(lambda: placed(stage, [true] * 4, 10.0))


# What is no reading


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no JSON",
        b"[]",
        b"[" * 5000,
        b'{"quality":"ok"}',
        b'{"quality":"ok","value":1,"time":1,"max_age":30}',  # is not logged
        b'{"quality":"ok","value":"on","log":true}',
        b'{"quality":"ok","value":[1],"log":true}',
        b'{"quality":"good","value":1,"log":true}',
        b'{"quality":"ok","value":1,"log":true,"max_age":0}',
        b'{"quality":"ok","value":1,"log":true,"max_age":1e300}',
        b'{"quality":"ok","value":1,"log":true,"time":-1}',
        b'{"quality":"ok","value":1,"log":1}',
        b'{"quality":"ok","value":1e999,"log":true}',
        b'{"quality":"ok","value":1' + b"0" * 400 + b',"log":true}',
        b'{"quality":"ok","value":1,"log":true,"last":"' + b"x" * BODY_BYTES + b'"}',
        '{"quality":"ok","value":1,"log":true,"unit":"°'.encode()[:-1] + b'"}',
    ],
)
def test_what_the_logger_would_not_keep_is_not_kept(body: bytes) -> None:
    assert read(KEY, body, Clock()) is None


@pytest.mark.parametrize("key", ["/device/" + "x" * 300, "/device/a\u200bb", "/device/\udcff"])
def test_a_key_that_the_logger_would_not_keep_is_not_kept(key: str) -> None:
    assert read(key, Value.ok(1, log=True).encode(), Clock()) is None


@pytest.mark.parametrize(
    "body",
    [
        Value.ok(21.5, "°C", 30, NOW, True).encode(),
        Value.ok(True, time=NOW, log=True).encode(),
        Value.ok(-(1 << 62), "x" * 40, time=NOW, log=True).encode(),
        Value.error("CRC", "°C", time=NOW, log=True).encode(),
        b'{"quality":"stale","log":true,"last":5}',
        b'{"quality":"ok","value":0,"log":true,"unit":"a\\u0007b"}',
    ],
)
def test_what_is_kept_is_taken_by_the_logger(body: bytes) -> None:
    clock = Clock()
    reading = read(KEY, body, clock)
    assert reading is not None
    envelope = {"host": "shed", "boot": "1", "trusted": True, "rows": [reading.late(clock.boot_id, clock.since())]}
    lot = append.read(json.dumps(envelope), 1, None, 90)
    assert (len(lot.rows), lot.refused, lot.problem) == (1, 0, "")


def test_a_reading_that_is_published_later_has_the_age_of_the_reading() -> None:
    clock = Clock()
    body = Value.ok(1, max_age=100, time=clock.wall() - 90, log=True).encode()
    reading = read(KEY, body, clock)
    assert reading is not None
    assert 90 <= reading.late(clock.boot_id, clock.since())[2] < 95
    assert reading.late("another", clock.since())[2] is None


def test_what_comes_in_time_and_late_counts_once_though_the_clock_is_not_known_to_be_right(stage: Stage) -> None:
    clock = Clock(trusted=False)
    clock.off = 5.0
    node = well(stage, stage.node(clock))
    times = node.count(0, 10)
    node.until(lambda: len(stage.house.values()) == 10)
    stage.house.stop_broker()
    node.connected(False)
    times += node.count(10, 20)
    stage.house.start_broker()
    node.delivered()
    assert stage.house.history() == sorted([when, number, "ok"] for number, when in enumerate(times))


def test_what_is_known_of_the_file_is_what_was_found_last(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    # It writes nothing by itself meanwhile.
    monkeypatch.setattr(outbox, "LOOK", 3600.0)
    node = stage.node()
    node.count(0, 10)
    found: list[bool] = []
    node.outbox._open()
    file = node.outbox.file
    assert file is not None
    readings = list(node.outbox.readings)
    for _ in range(3):
        file.look(lambda: None)
        file.write(readings, found.append)
        file.look(lambda: None)
    node.until(lambda: len(found) == 3 and not file._removing and not file.storage._writing)
    assert (found, file.waiting, len(rows(node.path))) == ([True] * 3, 30, 30)
