"""Group commit, and what becomes of reads and writes when the disk refuses, hangs or is damaged."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raspy.common import storage
from raspy.common.database import Damaged, Database, Schema, StorageError
from raspy.common.server import Server
from raspy.common.storage import Storage
from tests.bus import BASE
from tests.support_devices import LIMIT, short_directory
from tests.support_disks import ext4_disk, small_disk, tear

FIRST: Schema = ("CREATE TABLE item (id INTEGER PRIMARY KEY, text TEXT NOT NULL)",)
LONG = "x" * 100_000


class Keeper:
    """A storage in a server whose loop is turned by the test.

    :param directory: where the file is
    """

    def __init__(self, directory: str, sockets: str) -> None:
        self.server = Server("pi", "keeper", f"ipc://{sockets}", BASE)
        self.path = os.path.join(directory, "file.db")
        self.storage = Storage(self.server, Database(self.path, (FIRST,), ("item",)), "things")
        self.calls: list[list[Any]] = []
        """The items that came together."""
        self.done: list[tuple[Any, Any, Exception | None]] = []
        """Item, result, error: in the order in which they were told."""

    def turn_until(self, happened: Callable[[], Any]) -> Any:
        """Turn the loop until something has happened; what that says."""
        end = time.monotonic() + LIMIT
        while not (found := happened()):
            assert time.monotonic() < end, f"did not happen; conditions: {self.server.conditions}, done: {self.done}"
            self.server.turn(0.02)
        return found

    def add(self, connection: sqlite3.Connection, items: list[Any]) -> list[Any]:
        """Write texts; the result of each is the number of its row."""
        self.calls.append(items)
        return [connection.execute("INSERT INTO item (text) VALUES (?)", (item,)).lastrowid for item in items]

    def write(self, item: Any, function: storage.Write | None = None, keep: bool = False) -> None:
        self.storage.write(
            function or self.add, item, lambda result, error: self.done.append((item, result, error)), keep=keep
        )

    def written(self, *items: Any, keep: bool = False) -> list[Any]:
        """Write, and wait until all is told; the results."""
        before = len(self.done)
        for item in items:
            self.write(item, keep=keep)
        self.turn_until(lambda: len(self.done) == before + len(items))
        told = self.done[before:]
        assert [item for item, _, _ in told] == list(items)
        assert [error for _, _, error in told] == [None] * len(items)
        return [result for _, result, _ in told]

    def refused(self, item: Any) -> str:
        """Write what must be refused; the reason."""
        before = len(self.done)
        self.write(item)
        self.turn_until(lambda: len(self.done) > before)
        told, result, error = self.done[-1]
        assert (told, result) == (item, None)
        assert isinstance(error, StorageError)
        return str(error)

    def read(self, function: storage.Read) -> list[tuple[Any, Exception | None]]:
        """A list into which the answer to a read will come."""
        told: list[tuple[Any, Exception | None]] = []
        self.storage.read(function, lambda result, error: told.append((result, error)))
        return told

    def texts(self) -> list[str]:
        """What is in the file."""
        told = self.read(lambda connection: [row[0] for row in connection.execute("SELECT text FROM item ORDER BY id")])
        self.turn_until(lambda: told)
        ((texts, error),) = told
        assert error is None
        return list(texts)

    def well(self) -> None:
        """Wait until nothing is wrong."""
        self.turn_until(lambda: "things" not in self.server.conditions and not self.storage.waiting)

    def close(self) -> None:
        self.storage.close()
        self.server.destroy()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "RETRY", 0.02)


@pytest.fixture
def sockets() -> Iterator[str]:
    with short_directory() as directory:
        yield directory


@pytest.fixture
def keeper(tmp_path: Path, sockets: str) -> Iterator[Keeper]:
    made = Keeper(str(tmp_path), sockets)
    try:
        yield made
    finally:
        made.close()
    assert made.server.errors == 0, made.server.last_error


class Gate:
    """Holds a commit under way until the test opens it."""

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper
        self._entered = threading.Event()
        self._open = threading.Event()

    def __enter__(self) -> Gate:
        def hold(connection: sqlite3.Connection, items: list[Any]) -> list[Any]:
            self._entered.set()
            assert self._open.wait(LIMIT)
            return items

        self.keeper.write("gate", hold)
        self.keeper.turn_until(self._entered.is_set)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.set()


def hold_lock(path: str) -> int:
    """Use a file as another process would; to be closed."""
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o640)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return lock


# Groups


def test_what_comes_during_a_commit_shares_the_next_one(keeper: Keeper) -> None:
    items = [f"item {number}" for number in range(100)]
    with Gate(keeper):
        for item in items:
            keeper.write(item)
        assert keeper.storage.waiting == 100
    keeper.turn_until(lambda: len(keeper.done) == 101)
    assert keeper.calls == [items]
    assert keeper.storage.commits == 2
    assert [(item, result) for item, result, _ in keeper.done[1:]] == [(i, n) for n, i in enumerate(items, 1)]
    assert keeper.texts() == items


def test_different_writes_share_it_too(keeper: Keeper) -> None:
    def delete(connection: sqlite3.Connection, items: list[Any]) -> list[Any]:
        keeper.calls.append(items)
        return [connection.execute("DELETE FROM item WHERE text = ?", (item,)).rowcount for item in items]

    keeper.written("old", "older")
    keeper.calls.clear()
    commits = keeper.storage.commits
    with Gate(keeper):
        for item, function in (("new", None), ("old", delete), ("newer", None), ("older", delete)):
            keeper.write(item, function)
    keeper.turn_until(lambda: len(keeper.done) == 7)
    assert keeper.calls == [["new", "newer"], ["old", "older"]]
    assert keeper.storage.commits == commits + 2
    assert keeper.texts() == ["new", "newer"]


def test_what_is_kept_is_done_in_the_order_in_which_it_came(keeper: Keeper) -> None:
    """Two of them may be about the same thing, when they had to wait for the disk."""
    found: list[str] = []

    def first(connection: sqlite3.Connection, items: list[Any]) -> list[Any]:
        found.extend(items)
        return items

    def second(connection: sqlite3.Connection, items: list[Any]) -> list[Any]:
        found.extend(items)
        return items

    with Gate(keeper):
        for item, function in (("a", first), ("b", first), ("c", second), ("d", first), ("e", second)):
            keeper.write(item, function, keep=True)
    keeper.turn_until(lambda: len(keeper.done) == 6)
    assert found == ["a", "b", "c", "d", "e"]
    assert keeper.storage.commits == 2


def test_a_group_that_does_not_come_back_is_not_waited_for(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "LONGEST", 0.2)
    with Gate(keeper):
        for number in range(5):
            keeper.write(f"first {number}")
    keeper.turn_until(lambda: len(keeper.done) == 6)
    keeper.storage.commit_time = 0.4
    commits = keeper.storage.commits
    keeper.write("one")
    assert keeper.storage.waiting == 1
    keeper.write("two")
    keeper.turn_until(lambda: len(keeper.done) == 8)
    assert keeper.calls[-1] == ["one", "two"]
    assert keeper.storage.commits == commits + 1
    keeper.written("three")


def test_a_group_that_is_complete_is_not_waited_for(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "LONGEST", 1000.0)
    with Gate(keeper):
        for number in range(3):
            keeper.write(f"first {number}")
    keeper.turn_until(lambda: len(keeper.done) == 4)
    keeper.storage.commit_time = 2000.0
    keeper.written("one", "two", "three")
    assert keeper.calls[-1] == ["one", "two", "three"]


# A statement at fault


def test_a_bad_item_costs_the_others_nothing(tmp_path: Path, sockets: str) -> None:
    keeper = Keeper(str(tmp_path), sockets)
    with Gate(keeper):
        for item in ("a", "b", {"no": "text"}, "c"):
            keeper.write(item, keep=True)
    keeper.turn_until(lambda: len(keeper.done) == 5)
    assert [item for item, _, error in keeper.done if error is not None] == [{"no": "text"}]
    assert keeper.texts() == ["a", "b", "c"]
    assert keeper.server.conditions == {}
    assert keeper.server.errors == 1
    keeper.close()


def test_a_disk_that_refuses_one_of_them_refuses_those_behind_it(tmp_path: Path, sockets: str) -> None:
    keeper = Keeper(str(tmp_path), sockets)
    trouble = ["the card is out"]

    def fragile(connection: sqlite3.Connection, items: list[Any]) -> list[Any]:
        if trouble:
            raise StorageError(trouble.pop())
        return keeper.add(connection, items)

    with Gate(keeper):
        keeper.write("before")
        keeper.write(("no text",))
        keeper.write("kept", fragile, keep=True)
        keeper.write("behind")
        keeper.write("kept too", keep=True)
    # Together they fail at the bad one, then each is written by itself.
    keeper.turn_until(lambda: len(keeper.done) == 6)
    told = {str(item): error for item, _, error in keeper.done}
    assert told["before"] is None
    assert str(told["behind"]) == "the card is out"
    assert told["kept"] is None
    assert told["kept too"] is None
    assert keeper.texts() == ["before", "kept", "kept too"]
    keeper.well()
    keeper.close()


def test_one_that_raises_when_it_is_told_costs_the_others_nothing(tmp_path: Path, sockets: str) -> None:
    keeper = Keeper(str(tmp_path), sockets)

    def stumble(result: Any, error: Exception | None) -> None:
        raise ValueError("stumbled")

    with Gate(keeper):
        keeper.storage.write(keeper.add, "a", stumble)
        keeper.write("b")
    keeper.turn_until(lambda: len(keeper.done) == 2)
    assert keeper.texts() == ["a", "b"]
    assert "stumbled" in keeper.server.last_error
    keeper.close()


def test_a_read_that_fails_costs_the_others_nothing(tmp_path: Path, sockets: str) -> None:
    keeper = Keeper(str(tmp_path), sockets)
    keeper.written("a")
    bad = keeper.read(lambda connection: connection.execute("SELECT nothing FROM nowhere"))
    assert keeper.texts() == ["a"]
    assert isinstance(bad[0][1], sqlite3.OperationalError)
    assert keeper.server.conditions == {}
    assert keeper.server.errors == 1
    keeper.close()


# A file that cannot be used


def test_it_is_refused_with_the_reason_and_what_is_kept_waits(keeper: Keeper, caplog: pytest.LogCaptureFixture) -> None:
    lock = hold_lock(keeper.path)
    keeper.write("kept", keep=True)
    keeper.write("kept too", keep=True)
    reason = keeper.refused("a")
    assert reason.endswith("file.db: another process uses it")
    assert keeper.server.conditions == {"things": reason}
    assert reason in caplog.text
    assert keeper.refused("b") == reason
    read = keeper.read(lambda connection: None)
    keeper.turn_until(lambda: read)
    assert str(read[0][1]) == reason
    assert [item for item, _, _ in keeper.done] == ["a", "b"]
    os.close(lock)
    keeper.well()
    assert keeper.texts() == ["kept", "kept too"]
    assert [item for item, _, _ in keeper.done] == ["a", "b", "kept", "kept too"]
    assert "things: is well again" in caplog.text


def test_it_is_tried_again_though_nothing_waits(keeper: Keeper) -> None:
    lock = hold_lock(keeper.path)
    keeper.refused("a")
    os.close(lock)
    keeper.well()
    assert keeper.written("b") == [1]


def test_a_trouble_with_reading_alone_is_reported_too(keeper: Keeper) -> None:
    lock = hold_lock(keeper.path)
    read = keeper.read(lambda connection: None)
    keeper.turn_until(lambda: read)
    assert keeper.server.conditions == {"things": f"{keeper.path}: another process uses it"}
    os.close(lock)
    keeper.well()


def test_a_file_that_was_deleted(keeper: Keeper) -> None:
    recovered: list[int] = []
    keeper.storage.on_recovered = lambda: recovered.append(1)
    keeper.written("a")
    for suffix in ("", "-wal", "-shm"):
        os.unlink(keeper.path + suffix)
    keeper.write("kept", keep=True)
    assert "deleted or moved away" in keeper.refused("b")
    assert not recovered
    keeper.well()
    assert keeper.texts() == ["kept"]
    assert recovered == [1]


def filled(keeper: Keeper) -> None:
    """A closed file of more than a connection has in its cache, that is open again."""
    database = keeper.storage.database
    rows = [(f"row {number:04d} " + "x" * 900,) for number in range(1200)]
    database.write(lambda connection: connection.executemany("INSERT INTO item (text) VALUES (?)", rows))
    database.close()
    keeper.written("begun")


@pytest.mark.parametrize("touch", ["read", "write"])
def test_damage_that_shows_while_it_is_used(keeper: Keeper, touch: str, caplog: pytest.LogCaptureFixture) -> None:
    recovered: list[int] = []
    keeper.storage.on_recovered = lambda: recovered.append(1)
    filled(keeper)
    keeper.storage.database.close()
    keeper.written("open again")
    tear(keeper.path, b"row 0600")
    told: list[tuple[Any, Exception | None]] = []
    if touch == "read":
        told = keeper.read(lambda connection: connection.execute("SELECT max(length(text)) FROM item").fetchall())
    else:
        keeper.storage.write(
            lambda connection, items: [connection.execute("UPDATE item SET text = 'other' WHERE id = 601")],
            None,
            lambda result, error: told.append((result, error)),
        )
        keeper.write("kept meanwhile", keep=True)
    keeper.turn_until(lambda: told)
    assert isinstance(told[0][1], Damaged)
    keeper.turn_until(lambda: recovered)
    keeper.well()
    notice = keeper.server.conditions["things damaged"]
    (bad,) = [name for name in os.listdir(os.path.dirname(keeper.path)) if "damaged" in name and name[-1] == "Z"]
    assert f"set aside as {os.path.dirname(keeper.path)}/{bad}" in notice
    assert notice in caplog.text
    if touch == "write":
        keeper.turn_until(lambda: "kept meanwhile" in [item for item, _, _ in keeper.done])
    keeper.written("behind")
    texts = keeper.texts()
    assert 1190 <= len(texts) < 1205
    assert texts[0].startswith("row 0000")
    assert texts[-1] == "behind"
    assert recovered == [1]


def test_reads_that_wait_for_a_recovery_that_fails_are_answered(keeper: Keeper) -> None:
    """As when there is no room for what could be saved."""
    filled(keeper)
    keeper.storage.database.close()
    keeper.written("open again")
    tear(keeper.path, b"row 0600")
    os.mkdir(f"{keeper.path}.saved")

    def everything(connection: sqlite3.Connection) -> list[Any]:
        return connection.execute("SELECT text FROM item").fetchall()

    first = keeper.read(everything)
    second = keeper.read(everything)
    keeper.turn_until(lambda: first)
    third = keeper.read(everything)
    keeper.turn_until(lambda: second and third)
    assert isinstance(first[0][1], Damaged)
    assert isinstance(third[0][1], StorageError)
    keeper.turn_until(lambda: "things" in keeper.server.conditions)
    os.rmdir(f"{keeper.path}.saved")
    keeper.well()
    assert len(keeper.texts()) > 1190


@pytest.mark.system
def test_a_full_disk(sockets: str) -> None:
    with small_disk() as disk:
        keeper = Keeper(disk.place, sockets)
        keeper.written("a", keep=True)
        disk.fill()
        keeper.write(LONG, keep=True)
        keeper.turn_until(lambda: "things" in keeper.server.conditions)
        assert "the disk is full" in keeper.server.conditions["things"]
        assert "the disk is full" in keeper.refused(LONG)
        assert keeper.texts() == ["a"]
        disk.make_room()
        keeper.well()
        keeper.written("b")
        assert keeper.texts() == ["a", LONG, "b"]
        keeper.close()


# A disk that does not answer


def test_a_write_that_hangs_is_reported_and_reads_go_on(
    tmp_path: Path, sockets: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "PATIENCE", 0.05)
    keeper = Keeper(str(tmp_path), sockets)
    keeper.written("a")
    with Gate(keeper):
        keeper.turn_until(lambda: "things" in keeper.server.conditions)
        assert "the disk has not taken a write for 0.05 s" in keeper.server.conditions["things"]
        keeper.write("b")
        assert keeper.texts() == ["a"]
        assert [item for item, _, _ in keeper.done] == ["a"]
    keeper.well()
    keeper.turn_until(lambda: len(keeper.done) == 3)
    assert keeper.texts() == ["a", "b"]
    keeper.close()


def test_a_read_that_hangs_is_reported_and_writes_go_on(
    tmp_path: Path, sockets: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "PATIENCE", 0.05)
    keeper = Keeper(str(tmp_path), sockets)
    keeper.written("a")
    gate = threading.Event()
    told = keeper.read(lambda connection: gate.wait(LIMIT))
    keeper.turn_until(lambda: "things" in keeper.server.conditions)
    assert "the disk has not answered a read for 0.05 s" in keeper.server.conditions["things"]
    keeper.written("b")
    gate.set()
    keeper.turn_until(lambda: told)
    keeper.well()
    assert keeper.texts() == ["a", "b"]
    keeper.close()


@pytest.mark.system
def test_a_real_disk_that_hangs(sockets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PATIENCE", 0.2)
    with ext4_disk() as disk:
        keeper = Keeper(disk.place, sockets)
        keeper.written("a")
        with disk.frozen():
            keeper.write("b")
            keeper.turn_until(lambda: "things" in keeper.server.conditions)
            assert len(keeper.done) == 1
        keeper.well()
        keeper.turn_until(lambda: len(keeper.done) == 2)
        assert keeper.texts() == ["a", "b"]
        keeper.close()


# The end


def test_what_waits_is_written_before_it_is_closed(
    tmp_path: Path, sockets: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "LAST_COMMIT", LIMIT)
    keeper = Keeper(str(tmp_path), sockets)
    for number in range(10):
        keeper.write(f"item {number}")
    keeper.close()
    assert [error for _, _, error in keeper.done] == [None] * 10
    again = Keeper(str(tmp_path), sockets)
    assert len(again.texts()) == 10
    again.close()


def test_a_hanging_disk_does_not_keep_it_from_ending(
    tmp_path: Path, sockets: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "LAST_COMMIT", 0.05)
    keeper = Keeper(str(tmp_path), sockets)
    with Gate(keeper):
        keeper.write("a")
        keeper.close()
    assert keeper.done == []
    keeper.storage.database.close()
