"""What waits in memory when a server stops is there after its next start, whatever the disk does meanwhile."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from raspy.common import storage
from raspy.common.database import Database
from raspy.common.outbox import FILE, LEFT, outbox
from raspy.common.outbox import left as left_module
from raspy.common.outbox.file import SCHEMAS
from raspy.common.pool import PoolFull
from tests.bus import eventually
from tests.common.outbox_stage import Clock, Node, Stage
from tests.common.test_outbox import left, on_disk, quick, rows, spilling, stage, well
from tests.support_devices import LIMIT
from tests.support_disks import ext4_disk, small_disk

__all__ = ["quick", "spilling", "stage"]
"""Fixtures of the other tests of the outbox."""


def cut(node: Node) -> str:
    """The state directory as it is now, for a server after a power cut."""
    copy = f"{node.directory}-cut"
    shutil.copytree(node.directory, copy)
    return copy


def turned(node: Node, turns: int = 20) -> None:
    """The loop has turned so many times, with nothing to wait for but that nothing happens."""
    for _ in range(turns):
        node.server.turn(0.01)


class Gate:
    """Holds up a function that a thread calls, until it is opened."""

    def __init__(self, function: Callable[..., Any], matters: Callable[..., bool] = lambda *_: True) -> None:
        self.function = function
        self.matters = matters
        self.opened, self.reached, self.done = threading.Event(), threading.Event(), threading.Event()

    def __call__(self, *words: Any, **more: Any) -> Any:
        if not self.matters(*words):
            return self.function(*words, **more)
        self.reached.set()
        self.opened.wait(LIMIT)
        try:
            return self.function(*words, **more)
        finally:
            self.done.set()


def is_left(path: Any) -> bool:
    return str(path).endswith(LEFT)


def test_what_was_left_waits_on_through_one_restart_after_the_other(stage: Stage) -> None:
    for number in range(3):
        # Each in a boot of its own, shorter than the one before.
        clock = Clock(boot_id=str(number) * 32)
        clock.more = 1e6 * (3 - number)
        node = stage.node(clock)
        node.count(10 * number, 10 * number + 10)
        node.stop()
        assert left(stage) == list(range(10 * number + 10))
    stage.house.start()
    node = stage.node(Clock(boot_id="9" * 32))
    node.delivered()
    assert stage.house.values() == list(range(30))


@pytest.mark.usefixtures("spilling")
def test_what_was_left_goes_to_the_database_in_a_long_outage(stage: Stage) -> None:
    node = stage.node()
    node.outbox.file = None
    node.outbox._timer and node.outbox._timer.cancel()
    node.count(0, 10)
    node.stop()
    assert left(stage) == list(range(10))
    file = Path(stage.state, LEFT).read_bytes()
    node = stage.node(Clock(boot_id="c" * 32))
    node.count(10, 20)
    on_disk(node, 20)
    assert [value for value, *_ in rows(node.path)] == list(range(20))
    node.until(lambda: not Path(stage.state, LEFT).exists())
    # As after a power cut before that: both are there, and each reading counts once.
    Path(cut(node), LEFT).write_bytes(file)
    node.stop()
    stage.house.start()
    node = stage.node(Clock(boot_id="d" * 32), state=f"{stage.state}-cut")
    node.delivered()
    assert stage.house.values() == list(range(20))
    node.until(lambda: not list(Path(node.directory).iterdir()))


def test_many_go_to_the_database_when_the_server_stops(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    node = stage.node()
    node.count(0, 20)
    monkeypatch.setattr(outbox, "IN_MEMORY", 19)
    node.stop()
    assert [value for value, *_ in rows(node.path)] == list(range(20))
    assert not Path(stage.state, LEFT).exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"format":1}',
        b'{"format":0.5,"readings":[]}',
        b'{"format":1,"readings":[],"more":1}',
        b"\xff" * 100,
        b"[" * 100_000,
        b'{"format":1,"readings":[' + b" " * (4 << 20) + b"]}",
    ],
)
def test_a_damaged_rest_is_set_aside(stage: Stage, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    path = Path(stage.state, LEFT)
    path.parent.mkdir()
    path.write_bytes(content)
    node = stage.node()
    assert node.outbox.waiting == 0
    aside = [name for name in os.listdir(stage.state) if name.startswith(f"{LEFT}.damaged-")]
    assert len(aside) == 1
    assert f"{path}: it is damaged" in caplog.text
    assert aside[0] in caplog.text
    node.count(0, 5)
    node.stop()
    assert left(stage) == list(range(5))
    assert Path(stage.state, aside[0]).read_bytes() == content


@pytest.mark.system
def test_a_rest_that_the_disk_does_not_take_is_counted(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    with small_disk() as disk:
        node = stage.node(state=disk.place)
        node.count(0, 50)
        disk.fill()
        node.stop()
        assert "outbox.json: No space left on device" in caplog.text
        assert "50 readings that the logger does not have are lost" in caplog.text


# What is not to be touched


BLOCKED = {
    "newer": lambda path: path.write_bytes(b'{"format":2,"whatever":[1,2]}'),
    "directory": lambda path: path.mkdir(),
    "pipe": os.mkfifo,
    "dead link": lambda path: path.symlink_to("/nonexistent/x"),
}


@pytest.mark.parametrize("kind", BLOCKED)
def test_what_is_none_of_ours_stays_and_the_database_is_used(
    stage: Stage, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = Path(stage.state, LEFT)
    path.parent.mkdir()
    BLOCKED[kind](path)
    before = os.lstat(path)
    node = stage.node()
    assert str(path) in caplog.text
    node.count(0, 5)
    node.stop()
    assert os.lstat(path).st_ino == before.st_ino
    assert [value for value, *_ in rows(node.path)] == list(range(5))
    assert "are lost" not in caplog.text


def test_one_that_cannot_be_read_now_is_not_overwritten(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    node = stage.node()
    node.count(0, 5)
    node.stop()
    with monkeypatch.context() as patch:

        def refuse(*_: object) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        patch.setattr(left_module, "_read", refuse)
        node = stage.node()
    node.count(5, 10)
    node.stop()
    assert left(stage) == list(range(5))
    assert [value for value, *_ in rows(node.path)] == list(range(5, 10))
    stage.house.start()
    node = stage.node()
    node.delivered()
    assert stage.house.values() == list(range(10))


@pytest.mark.parametrize("leftover", [os.mkfifo, lambda path: os.symlink("/nonexistent/x", path), Path.touch])
def test_what_an_end_in_the_middle_left_behind_is_no_obstacle(stage: Stage, leftover: Callable[[Path], None]) -> None:
    path = Path(stage.state, f"{LEFT}.new")
    path.parent.mkdir()
    leftover(path)
    node = stage.node()
    assert not os.path.lexists(path)
    node.count(0, 5)
    node.stop()
    assert left(stage) == list(range(5))


def test_one_bad_reading_costs_no_other(stage: Stage) -> None:
    node = stage.node()
    node.count(0, 5)
    node.stop()
    path = Path(stage.state, LEFT)
    content = json.loads(path.read_bytes())
    content["readings"][2:2] = [{"key": 1}, 7]
    path.write_text(json.dumps(content), "utf-8")
    stage.house.start()
    node = stage.node()
    assert "2 of its 7 readings are damaged" in node.server.conditions["outbox damaged"]
    node.delivered()
    assert stage.house.values() == list(range(5))
    assert node.statistic("outbox_refused") == 2
    node.until(lambda: not path.exists())
    (aside,) = Path(stage.state).iterdir()
    assert json.loads(aside.read_bytes()) == content


def test_one_that_cannot_be_set_aside_stays_and_what_is_good_is_brought(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = stage.node()
    node.count(0, 5)
    node.stop()
    path = Path(stage.state, LEFT)
    content = json.loads(path.read_bytes())
    content["readings"].append(7)
    path.write_text(json.dumps(content), "utf-8")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", refuse)
    stage.house.start()
    node = stage.node()
    assert "cannot be set aside, and stays: No space left" in node.server.conditions["outbox damaged"]
    node.delivered()
    assert stage.house.values() == list(range(5))
    node.until(lambda: node.outbox._timer is None)
    node.stop()
    assert json.loads(path.read_bytes()) == content


def test_what_comes_while_the_rest_is_written_is_counted(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    node = stage.node()
    node.count(0, 5)
    put = node.outbox._left.put

    def slow(readings: Any) -> None:
        node.publish(5)
        put(readings)

    monkeypatch.setattr(node.outbox._left, "put", slow)
    node.stop()
    assert left(stage) == list(range(5))
    assert "1 readings that the logger does not have are lost" in caplog.text


def test_two_that_are_damaged_in_one_second_are_both_kept(stage: Stage) -> None:
    path = Path(stage.state, LEFT)
    path.parent.mkdir()
    for content in (b"one", b"two", b"three"):
        path.write_bytes(content)
        stage.node().stop()
    assert {file.read_bytes() for file in path.parent.iterdir()} == {b"one", b"two", b"three"}


def test_an_empty_one_goes(stage: Stage) -> None:
    path = Path(stage.state, LEFT)
    path.parent.mkdir()
    path.write_bytes(b'{"format":1,"readings":[]}')
    stage.house.start()
    node = stage.node()
    node.connected()
    node.until(lambda: not path.exists())


# When it goes


def test_it_stays_until_its_readings_are_elsewhere(stage: Stage) -> None:
    node = stage.node()
    node.count(0, 10)
    node.stop()
    node = stage.node()
    turned(node)
    assert left(stage) == list(range(10))


def test_a_single_reading_is_brought_by_a_server_that_was_there_before_the_broker(stage: Stage) -> None:
    node = stage.node()
    node.publish(7)
    node.stop()
    node = stage.node()
    stage.house.start()
    node.until(lambda: stage.house.values() == [7])


@pytest.mark.usefixtures("spilling")
def test_it_goes_once_its_readings_are_in_the_database(stage: Stage) -> None:
    """Or each start of a server that is killed again and again would put them there once more."""
    node = stage.node()
    node.count(0, 100)
    node.stop()
    for number in range(3):
        state = node.directory if not number else cut(node)
        node = stage.node(state=state, most=300)
        node.count(100 + number, 101 + number)
        written(node, 101 + number)
    assert node.statistic("outbox_dropped") == 0


@pytest.mark.usefixtures("spilling")
def test_what_was_given_its_time_is_not_refused_for_the_copy_without(stage: Stage) -> None:
    clock = Clock(trusted=False)
    node = stage.node(clock)
    node.count(0, 10)
    node.stop()
    node = stage.node(clock)
    on_disk(node, 10)
    clock.right = True
    node.publish(10)
    on_disk(node, 11)
    node.until(lambda: all(trusted for *_, trusted in rows(node.path)))
    node.until(lambda: not Path(stage.state, LEFT).exists())
    stage.house.start()
    node = stage.node(Clock(boot_id="c" * 32), state=cut(node))
    node.delivered()
    assert stage.house.values() == list(range(11))
    assert node.statistic("outbox_refused") == 0


def written(node: Node, count: int) -> None:
    """Until so many are in the database, and only there."""
    node.until(lambda: node.outbox.file and node.outbox.file.waiting == count)
    node.until(lambda: not Path(node.directory, LEFT).exists())


# A disk that hangs


def test_the_end_of_a_server_waits_for_a_removal_which_would_take_what_it_writes(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = stage.node()
    node.count(0, 5)
    node.stop()
    gate = Gate(os.unlink, is_left)
    monkeypatch.setattr(os, "unlink", gate)
    monkeypatch.setattr(left_module, "LAST_WRITE", LIMIT)
    stage.house.start()
    node = stage.node()
    node.delivered()
    node.until(gate.reached.is_set)
    stage.house.stop_logger()
    stage.house.stop_broker()
    node.connected(False)
    node.count(5, 50)
    # The broker comes back meanwhile: what is brought then would be lost with the server.
    stage.house.start()

    def opens() -> None:
        eventually(lambda: node.publisher.connected, "the node has the broker again")
        time.sleep(0.3)  # for what would be brought
        gate.opened.set()

    helper = threading.Thread(target=opens)
    helper.start()
    node.stop()
    helper.join()
    assert gate.done.is_set()
    assert left(stage)[-45:] == list(range(5, 50))


@pytest.mark.system
def test_the_end_of_a_server_does_not_wait_for_ever(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(left_module, "LAST_WRITE", 0.3)
    with ext4_disk() as disk:
        node = stage.node(state=disk.place)
        node.count(0, 10)
        with disk.frozen():
            node.server.stop()
            assert "the disk does not answer" in caplog.text
            assert "10 readings that the logger does not have are lost" in caplog.text
        node.stopped = True
        node.server.destroy()


@pytest.mark.usefixtures("spilling")
def test_a_write_that_hangs_at_the_end_leaves_the_file_from_before(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = stage.node()
    node.count(0, 10)
    node.stop()
    monkeypatch.setattr(storage, "LAST_COMMIT", 0.3)
    gate = Gate(Database.write)
    monkeypatch.setattr(Database, "write", lambda self, function: gate(self, function))
    node = stage.node()
    node.until(gate.reached.is_set)
    node.stop()
    copy = cut(node)
    gate.opened.set()
    assert [row["value"] for row in json.loads(Path(copy, LEFT).read_bytes())["readings"]] == list(range(10))


# A database that cannot be used


def newer(path: Path) -> None:
    database = Database(str(path), SCHEMAS, ("reading",))
    database.open()
    database.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")


@pytest.mark.parametrize("how", [newer, Path.mkdir])
def test_memory_is_left_where_the_database_is_known_not_to_work(stage: Stage, how: Callable[[Path], None]) -> None:
    Path(stage.state).mkdir()
    how(Path(stage.state, FILE))
    node = stage.node()
    node.until(lambda: "outbox" in node.server.conditions)
    node.count(0, 50)
    node.stop()
    assert left(stage) == list(range(50))


@pytest.mark.usefixtures("spilling")
def test_a_database_that_can_be_opened_later_is_brought(stage: Stage) -> None:
    node = stage.node()
    node.count(0, 10)
    on_disk(node, 10)
    node.stop()
    stage.house.start()
    other = Database(str(node.path), SCHEMAS, ("reading",))
    other.open()
    node = stage.node()
    node.connected()
    node.until(lambda: "another process uses it" in node.server.conditions.get("outbox", ""))
    node.until(lambda: not node.outbox.keeping)
    turned(node)
    other.close()
    node.until(lambda: stage.house.values() == list(range(10)))


# A file that is closed until it is needed


def resting(stage: Stage) -> Node:
    """A node whose file was used, and will be closed."""
    node = well(stage)
    stage.house.stop_broker()
    node.connected(False)
    node.count(0, 10)
    on_disk(node, 10)
    stage.house.start_broker()
    node.delivered()
    return node


@pytest.mark.usefixtures("spilling")
def test_nobody_writes_while_it_is_deleted_and_a_disk_that_hangs_is_told(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "PATIENCE", 0.1)
    gate = Gate(Database.close, lambda _, remove=False: remove)
    monkeypatch.setattr(Database, "close", lambda self, remove=False: gate(self, remove))
    node = resting(stage)
    node.until(gate.reached.is_set)
    node.until(lambda: "has not let it be closed" in node.server.conditions.get("outbox", ""))
    stage.house.stop_broker()
    node.connected(False)
    node.count(10, 20)
    node.until(lambda: node.outbox._storing)
    gate.opened.set()
    assert gate.done.wait(LIMIT)
    node.until(lambda: not node.server.conditions and not node.outbox._storing)
    assert [value for value, *_ in rows(node.path)][-10:] == list(range(10, 20))


@pytest.mark.usefixtures("spilling")
def test_a_pool_that_is_full_is_tried_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    node = well(stage)
    in_pool = node.server.in_pool
    refused: list[object] = []

    def full(function: Any, *words: Any, **more: Any) -> Any:
        if words == (True,) and len(refused) < 3:
            refused.append(function)
            raise PoolFull("full")
        return in_pool(function, *words, **more)

    monkeypatch.setattr(node.server, "in_pool", full)
    node.outbox._write()
    resting_file = node.outbox.file
    assert resting_file is not None
    node.outbox._keep()
    node.until(lambda: resting_file.rests)
    assert len(refused) == 3


@pytest.mark.usefixtures("spilling")
def test_the_end_of_a_server_spares_a_file_that_somebody_else_made_since(stage: Stage) -> None:
    node = resting(stage)
    node.until(lambda: node.outbox.file and node.outbox.file.rests)
    other = Database(str(node.path), SCHEMAS, ("reading",))
    other.open()
    node.stop()
    assert node.path.exists()
    other.close()


def test_a_log_that_somebody_reads_is_not_left_alone(tmp_path: Path) -> None:
    """The database is deleted only with all that belongs to it."""
    path = tmp_path / FILE
    database = Database(str(path), SCHEMAS, ("reading",))
    database.write(lambda connection: connection.execute("SELECT 1").fetchall())
    with closing(sqlite3.connect(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM reading").fetchone()
        database.close(True)
        assert path.exists()
    database.open()
    database.close(True)
    assert list(tmp_path.iterdir()) == []
