"""Titanic on disks that are full, read-only, broken, damaged, gone, or that hang.

What was acknowledged is there afterwards, what was refused was answered with the reason, and the server lives.
"""

from __future__ import annotations

import os
import resource
import shutil
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from raspy.common import storage
from tests.conformance.stage import unique
from tests.servers.titanic_stage import PENDING, REQUEST, STORE, Ship, at_sea, make_quick
from tests.support_devices import LIMIT, short_directory
from tests.support_disks import ext4_disk, small_disk, tear
from tests.support_processes import wait_for
from tests.support_titanic import ask, new_id, site

AWAY = b"nobody"
BIG = b"x" * 100_000
"""More than a file may have left in what it occupies already."""
ROWS, TORN = 260, 100
BODY = b"request %04d " + b"x" * 3000
"""Each of these has a page. Behind that of TORN are more than a connection has in its cache, and before it more than
Titanic has read."""


class Status:
    """Takes what a server tells its supervisor (sd_notify(3))."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(path)
        self.socket.settimeout(LIMIT)

    def says(self, *texts: str) -> None:
        """Wait for a status line with all of these in it."""
        while True:
            line = self.socket.recv(4096).decode()
            if line.startswith("STATUS=") and all(text in line for text in texts):
                return


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    make_quick(monkeypatch)


@pytest.fixture
def status(monkeypatch: pytest.MonkeyPatch) -> Iterator[Status]:
    """Has to be asked for before the server is made."""
    with short_directory() as directory:
        made = Status(os.path.join(directory, "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", os.path.join(directory, "notify"))
        yield made
        made.socket.close()


@pytest.fixture
def ship(tmp_path: Path, status: Status) -> Iterator[Ship]:
    """One that has not been started."""
    with at_sea(str(tmp_path / "state")) as made:
        yield made


@contextmanager
def on_disk(place: str) -> Iterator[Ship]:
    with at_sea(os.path.join(place, "state")) as made:
        yield made


def conditions(ship: Ship) -> dict[str, str]:
    """What the server says is wrong, as anybody may ask it."""
    told, code = ship.verb(b"pi.titanic.mmi", "status")
    assert code == b"200"
    assert told["state"] == ("degraded" if told["conditions"] else "ok")
    return dict(told["conditions"])


def in_trouble(ship: Ship, status: Status, reason: str, name: str = "requests") -> None:
    """Clients are refused with the reason; its condition and its status line tell it too."""
    refused = ship.refused(AWAY, BIG)
    assert refused.startswith("500 ")
    assert reason in refused
    assert reason in conditions(ship)[name]
    status.says("degraded: ", f"{name}: ", reason)


def well(ship: Ship, status: Status) -> None:
    """Wait until nothing is wrong any more."""
    ship.eventually(lambda titanic: not titanic.conditions, "is well again")
    status.says("requests wait")


def fill_requests(ship: Ship, count: int = ROWS) -> list[bytes]:
    """Have many requests accepted to a service that is away; their uuids."""
    return ship.requests(AWAY, *(BODY % number for number in range(count)))


def lost(ship: Ship, uuids: list[bytes]) -> list[int]:
    """The numbers of requests that are not kept any more; the others are pending."""
    found = []
    for number, uuid in enumerate(uuids):
        answer = ship.reply(uuid)
        if answer != PENDING:
            assert answer[0].startswith(b"400 "), answer
            found.append(number)
    return found


def set_aside(ship: Ship, file: str = "requests.db") -> str:
    """The one file that was set aside."""
    names = [name for name in os.listdir(ship.directory) if name.startswith(f"{file}.damaged-")]
    (name,) = [name for name in names if not name.endswith(("-wal", "-shm"))]
    return os.path.join(ship.directory, name)


# Full


@pytest.mark.system
def test_a_full_disk(status: Status, caplog: pytest.LogCaptureFixture) -> None:
    with small_disk() as disk, on_disk(disk.place) as ship:
        ship.start()
        service = unique()
        worker = ship.worker(service)
        replied = ship.request(service)
        ship.serve(worker, b"done")
        assert ship.fetch(replied) == [b"200", b"done"]
        waiting = ship.request(AWAY)
        before, _ = ship.store("set", "pump", "day", "speed", "3")

        disk.fill()
        assert "the disk is full" in ship.refused(AWAY, BIG)
        in_trouble(ship, status, "the disk is full")
        assert "requests.db: the disk is full" in caplog.text
        told, code = ship.store("set", "pump", "day", "text", '"' + BIG.decode() + '"')
        assert (code, "the disk is full" in told) == (b"500", True)
        assert "store.db: the disk is full" in ship.call(lambda titanic: titanic.conditions["store"])
        # What is there can be asked for all the time.
        assert ship.reply(replied) == [b"200", b"done"]
        assert ship.reply(waiting) == PENDING
        assert ship.store("get", "pump", "day", "speed") == ({"value": 3, **before}, b"200")
        assert ship.store("get", "pump", "day", "text")[1] == b"404"

        disk.make_room()
        well(ship, status)
        accepted = ship.request(AWAY, BIG)
        ship.restart()
        assert ship.reply(replied) == [b"200", b"done"]
        assert [ship.reply(uuid) for uuid in (waiting, accepted)] == [PENDING] * 2
        assert ship.queue("list")[0]["counts"]["pending"] == 2
        assert ship.store("get", "pump", "day", "speed")[0]["value"] == 3


@pytest.mark.system
def test_replies_that_come_while_the_disk_is_full_are_kept(status: Status) -> None:
    with small_disk() as disk, on_disk(disk.place) as ship:
        ship.start()
        service = unique()
        workers = [ship.worker(service) for _ in range(3)]
        uuids = [ship.request(service, b"%d" % number) for number in range(3)]
        requests = [worker.request() for worker in workers]
        disk.fill()
        for worker, request in zip(workers, requests, strict=True):
            worker.reply(request, BIG, *request.body)
        in_trouble(ship, status, "the disk is full")
        ship.eventually(lambda titanic: titanic.dispatcher is not None and not titanic.dispatcher.flights, "replies")
        assert [ship.reply(uuid) for uuid in uuids] == [PENDING] * 3
        disk.make_room()
        assert [ship.fetch(uuid) for uuid in uuids] == [[b"200", BIG, b"%d" % number] for number in range(3)]
        well(ship, status)
        ship.restart()
        assert [ship.reply(uuid)[0] for uuid in uuids] == [b"200"] * 3
        assert [len(worker.requests) for worker in workers] == [0] * 3


@pytest.mark.system
def test_what_failed_while_the_disk_was_full_is_not_undone_by_it(status: Status) -> None:
    """A failure and the reply of the next attempt, written together, must be written in that order."""
    with small_disk() as disk, on_disk(disk.place) as ship:
        ship.start()
        first, other = unique(), unique()
        worker, second = ship.worker(first), ship.worker(other)
        uuid, beside = ship.request(first), ship.request(other)
        request, held = worker.request(), second.request()
        disk.fill()
        second.reply(held, BIG)
        ship.eventually(lambda titanic: titanic.queue.problem, "it is full")
        worker.reply(request, b'"too hot"', b"500")
        ship.serve(worker, BIG)
        ship.eventually(lambda titanic: titanic.dispatcher is not None and not titanic.dispatcher.flights, "replies")
        disk.make_room()
        assert ship.fetch(beside) == [b"200", BIG]
        assert ship.fetch(uuid) == [b"200", BIG]
        # The file has it a moment before the loop knows; one that ends in between leaves the file in use.
        well(ship, status)
        ship.restart()
        assert ship.reply(uuid) == [b"200", BIG]
        assert ship.info(uuid)["failures"] == 1


# Not writable


@pytest.mark.system
def test_a_read_only_file_system(status: Status) -> None:
    with small_disk() as disk, on_disk(disk.place) as ship:
        ship.start()
        uuid = ship.request(AWAY)
        ship.stop()
        disk.remount("ro")
        ship.launch().ready()
        in_trouble(ship, status, "ead-only")
        assert "ead-only" in ship.reply(uuid)[0].decode()
        assert ship.store("list")[1] == b"500"
        disk.remount("rw")
        well(ship, status)
        assert ship.reply(uuid) == PENDING
        assert ship.reply(ship.request(AWAY, BIG)) == PENDING


@pytest.mark.system
@pytest.mark.parametrize("trouble", ["become_read_only", "break_down"])
def test_a_disk_that_fails_while_it_is_used(status: Status, trouble: str) -> None:
    with ext4_disk() as disk, on_disk(disk.place) as ship:
        ship.start()
        service = unique()
        worker = ship.worker(service)
        held = ship.request(service)
        request = worker.request()
        uuids = [ship.request(AWAY, b"%d" % number) for number in range(5)]
        getattr(disk, trouble)()
        in_trouble(ship, status, "requests.db: ")
        worker.reply(request, b"done")
        assert ship.refused(AWAY, b"work").startswith("500 ")
        disk.replace()
        well(ship, status)
        assert ship.fetch(held) == [b"200", b"done"]
        uuids.append(ship.request(AWAY))
        ship.restart()
        assert [ship.reply(uuid) for uuid in uuids] == [PENDING] * 6
        assert ship.reply(held) == [b"200", b"done"]
        assert not worker.requests


def test_a_directory_whose_place_is_taken(ship: Ship, status: Status) -> None:
    Path(ship.directory).write_text("a file")
    ship.launch().ready()
    in_trouble(ship, status, "exists")
    assert ship.store("set", "a", "b", "c", "1")[1] == b"500"
    os.unlink(ship.directory)
    well(ship, status)
    uuid = ship.request(AWAY)
    ship.restart()
    assert ship.reply(uuid) == PENDING


def test_a_process_whose_writes_fail() -> None:
    """A limit of the process stands for the disk: each write beyond it fails (setrlimit(2), RLIMIT_FSIZE)."""
    with site() as here:
        here.broker()
        titanic = here.titanic()
        here.answers()
        kept = [ask(here.address, REQUEST, new_id(), AWAY, b"work")[1] for _ in range(3)]
        resource.prlimit(titanic.pid, resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        (refused,) = ask(here.address, REQUEST, new_id(), AWAY, BIG)
        assert refused.startswith(b"500 ")
        assert b"requests.db: the disk does not read or write as it should" in refused
        wait_for("its word", lambda: "requests.db: the disk does not read or write" in titanic.log)
        assert ask(here.address, b"pi.titanic.mmi", b"status")[1] == b"200"
        assert [ask(here.address, b"titanic.reply", uuid) for uuid in kept] == [PENDING] * 3
        resource.prlimit(titanic.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        wait_for("well again", lambda: "requests: is well again" in titanic.log)
        kept.append(ask(here.address, REQUEST, new_id(), AWAY, BIG)[1])
        assert titanic.stop() == 0
        here.titanic()
        assert [ask(here.address, b"titanic.reply", uuid) for uuid in kept] == [PENDING] * 4


# Hanging


@pytest.mark.system
def test_a_disk_that_does_not_answer(status: Status, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PATIENCE", 0.3)
    with ext4_disk() as disk, on_disk(disk.place) as ship:
        ship.start()
        service = unique()
        worker = ship.worker(service)
        uuid = ship.request(service)
        waiting = ship.stage.client()
        with disk.frozen():
            ship.serve(worker, b"done")
            for number in range(3):
                waiting.request(REQUEST, AWAY, b"%d" % number)
            waiting.request(STORE, b"set", b"pump", b"day", b"speed", b"3")
            for name in ("requests", "store"):
                ship.eventually(lambda titanic, name=name: name in titanic.conditions, "it is reported")
            found = conditions(ship)
            for name in ("requests", "store"):
                assert f"{name}.db: the disk has not taken a write for 0.3 s" in found[name]
            assert not waiting.replies
        answers = [waiting.reply() for _ in range(4)]
        uuids = [reply.body[1] for reply in answers if reply.service == REQUEST]
        assert [reply.body[-1] for reply in answers if reply.service == STORE] == [b"200"]
        assert ship.fetch(uuid) == [b"200", b"done"]
        well(ship, status)
        ship.restart()
        assert [ship.reply(uuid) for uuid in uuids] == [PENDING] * 3
        assert ship.reply(uuid) == [b"200", b"done"]
        assert ship.store("get", "pump", "day", "speed")[0]["value"] == 3


# Damaged


def other_program(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE requests (id INTEGER PRIMARY KEY, wish TEXT)")
        connection.execute("INSERT INTO requests VALUES (1, 'peace')")
    connection.close()


@pytest.mark.parametrize("kind", ["text", "another program"])
def test_a_file_that_is_not_ours(ship: Ship, status: Status, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    file = Path(ship.directory, "requests.db")
    os.makedirs(ship.directory)
    if kind == "text":
        file.write_bytes(b"# this is no database\n" * 500)
    else:
        other_program(file)
    before = file.read_bytes()
    ship.start()
    uuid = ship.request(AWAY)
    bad = set_aside(ship)
    assert Path(bad).read_bytes() == before
    assert bad in conditions(ship)["requests damaged"]
    status.says("requests damaged", bad)
    assert bad in caplog.text
    ship.restart()
    assert ship.reply(uuid) == PENDING
    assert conditions(ship) == {}


def test_a_page_in_the_middle_is_torn(ship: Ship, status: Status, caplog: pytest.LogCaptureFixture) -> None:
    ship.start()
    uuids = fill_requests(ship)
    ship.store("set", "pump", "day", "speed", "3")
    ship.stop()
    file = Path(ship.directory, "requests.db")
    tear(file, b"request %04d" % TORN)
    torn = file.read_bytes()
    ship.start()
    missing = lost(ship, uuids)
    assert missing == [TORN]
    bad = set_aside(ship)
    assert Path(bad).read_bytes() == torn
    notice = conditions(ship)["requests damaged"]
    # The row about this boot is one of them.
    assert f"set aside as {bad}, {ROWS - len(missing) + 1} entries could be saved" in notice
    status.says("requests damaged", bad)
    assert notice in caplog.text
    assert ship.store("get", "pump", "day", "speed")[0]["value"] == 3
    worker = ship.worker(AWAY)
    run = [ship.serve(worker, b"done").body for _ in range(3)]
    assert run == [[BODY % number] for number in range(3)]


@pytest.mark.parametrize("touch", ["reply", "close", "dispatch"])
def test_damage_that_shows_while_it_runs(ship: Ship, status: Status, touch: str) -> None:
    ship.start()
    uuids = fill_requests(ship)
    ship.restart()
    ship.away(AWAY)
    tear(Path(ship.directory, "requests.db"), b"request %04d" % TORN)
    worker = None
    if touch == "reply":
        (answer,) = ship.reply(uuids[TORN])
        assert answer.startswith(b"500 ")
        assert b"it is damaged" in answer
    elif touch == "close":
        (answer,) = ship.close(uuids[TORN])
        assert answer.startswith(b"500 ")
        assert b"it is damaged" in answer
    else:
        worker = ship.worker(AWAY)
    told: dict[int, bytes] = {}

    def recovered() -> bool:
        if worker is not None and worker.requests:
            request = worker.requests.popleft()
            number = int(request.body[0].split()[1])
            told[number] = request.body[0]
            worker.reply(request, b"done")
        return bool(ship.call(lambda t: "requests damaged" in t.conditions and "requests" not in t.conditions))

    assert ship.stage.until(recovered, LIMIT)
    bad = set_aside(ship)
    assert bad in conditions(ship)["requests damaged"]
    status.says("requests damaged", bad)
    accepted = ship.request(AWAY, b"request 9999")
    if worker is None:
        missing = lost(ship, uuids)
        assert missing == [TORN]
        worker = ship.worker(AWAY)
    while 9999 not in told:
        request = worker.request()
        number = int(request.body[0].split()[1])
        assert number not in told
        told[number] = request.body[0]
        worker.reply(request, b"done")
    missing = [number for number in range(ROWS) if number not in told]
    assert missing == [TORN]
    assert list(told) == sorted(told)
    assert ship.fetch(accepted) == [b"200", b"done"]


def test_a_damaged_store_costs_no_request(ship: Ship, status: Status) -> None:
    ship.start()
    uuid = ship.request(AWAY)
    for number in range(200):
        ship.client.request(STORE, b"set", b"pump", b"day", b"key %04d" % number, b'"%s"' % (b"x" * 900))
    assert [ship.client.reply().body[-1] for _ in range(200)] == [b"200"] * 200
    ship.stop()
    tear(Path(ship.directory, "store.db"), b"key 0100")
    ship.start()
    assert ship.reply(uuid) == PENDING
    keys = ship.store("list", "pump", "day")[0]["keys"]
    assert 190 <= len(keys) < 200
    assert {"key 0000", "key 0199"} <= set(keys)
    assert set_aside(ship, "store.db") in conditions(ship)["store damaged"]
    assert ship.store("set", "pump", "day", "key 0100", "1")[1] == b"200"
    assert not [name for name in conditions(ship) if name.startswith("requests")]


# Newer, gone, shared


def test_a_file_of_a_newer_program(ship: Ship, status: Status, caplog: pytest.LogCaptureFixture) -> None:
    ship.start()
    uuid = ship.request(AWAY)
    ship.stop()
    file = Path(ship.directory, "requests.db")
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA user_version = 9")
    connection.close()
    before = file.read_bytes()
    ship.launch().ready()
    in_trouble(ship, status, "it was written by a newer RasPy (schema 9; this one knows 1)")
    assert "newer RasPy" in caplog.text
    assert ship.reply(uuid)[0].startswith(b"500 ")
    assert ship.close(uuid)[0].startswith(b"500 ")
    assert ship.queue("list")[1] == b"500"
    assert ship.store("set", "pump", "day", "speed", "3")[1] == b"200"
    assert file.read_bytes() == before
    os.rename(file, f"{file}.newer")
    well(ship, status)
    assert ship.reply(uuid)[0].startswith(b"400 ")
    assert ship.reply(ship.request(AWAY)) == PENDING
    assert Path(f"{file}.newer").read_bytes() == before


def test_a_state_directory_that_is_deleted(ship: Ship, status: Status) -> None:
    ship.start()
    ship.request(AWAY)
    ship.store("set", "pump", "day", "speed", "3")
    shutil.rmtree(ship.directory)
    assert "deleted or moved away" in ship.refused(AWAY, b"work")
    told, code = ship.store("set", "pump", "day", "speed", "4")
    assert (code, "deleted or moved away" in told) == (b"500", True)
    well(ship, status)
    uuid = ship.request(AWAY)
    assert ship.store("set", "pump", "day", "speed", "5")[1] == b"200"
    # What is in the file says so too, not what was in the one that is gone.
    assert ship.statistic("pending") == 1
    ship.restart()
    assert ship.reply(uuid) == PENDING
    assert ship.store("get", "pump", "day", "speed")[0]["value"] == 5


def test_a_second_one_on_the_same_files(ship: Ship, status: Status) -> None:
    ship.start()
    service = unique()
    uuid = ship.request(service)
    with at_sea(ship.directory) as second:
        second.launch().ready()
        worker = second.worker(service)
        in_trouble(second, status, "another process uses it")
        assert second.reply(uuid)[0].startswith(b"500 ")
        assert second.store("list")[1] == b"500"
        assert second.statistic("pending") == 0
        assert not worker.requests
        assert ship.reply(uuid) == PENDING
        accepted = ship.request(AWAY)
        ship.stop()
        second.serve(worker, b"done")
        assert second.fetch(uuid) == [b"200", b"done"]
        well(second, status)
        assert second.reply(accepted) == PENDING
        assert second.store("list")[1] == b"200"


def test_somebody_who_looks_in_with_another_program(ship: Ship, status: Status) -> None:
    """Such as sqlite3(1), which knows nothing of our lock."""
    ship.start()
    uuid = ship.request(AWAY)
    other = sqlite3.connect(Path(ship.directory, "requests.db"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert "another process uses it" in ship.refused(AWAY, b"work")
    assert ship.reply(uuid) == PENDING
    other.execute("ROLLBACK")
    other.close()
    well(ship, status)
    ship.request(AWAY)
    assert ship.statistic("pending") == 2


def test_requests_that_come_before_the_file_is_open_wait(ship: Ship) -> None:
    """A reply is asked for in the moment in which the server starts."""
    ship.start()
    uuid = ship.request(AWAY)
    ship.stop()
    early: list[Any] = [ship.stage.client() for _ in range(3)]
    for client in early:
        client.request(b"titanic.reply", uuid)
    ship.launch()
    assert [client.reply().body for client in early] == [PENDING] * 3
