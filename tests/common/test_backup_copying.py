"""What a server copies out and in: under writers, and with everything that may be wrong."""

from __future__ import annotations

import functools
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from raspy.common.backup import copying, desk, exchange
from raspy.common.backup.copying import Cancelled, Job, Listed, save, take
from raspy.common.backup.parts import NAME, BackupError, Part, part_of
from raspy.common.database import Database
from tests.bus import eventually
from tests.support_disks import small_disk

SCHEMAS = (("CREATE TABLE entry (number INTEGER PRIMARY KEY, twin INTEGER, text TEXT)",), ("CREATE TABLE more (a)",))


def check(data: bytes) -> None:
    if data != b"good":
        raise ValueError("it is not good")


PARTS = (Part("core.db", SCHEMAS), Part("devices.json", check=check), Part("secrets/*", secret=True))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A state directory, and beside it an exchange."""
    for name in ("state", "exchange", "staged"):
        (tmp_path / name).mkdir()
    return tmp_path


def insert(entries: list[tuple[int, int, str]], connection: sqlite3.Connection) -> None:
    connection.executemany("INSERT INTO entry VALUES (?, ?, ?)", entries)


def fill(place: Path, rows: int = 10) -> Database:
    database = Database(str(place / "state" / "core.db"), SCHEMAS, ("entry",))
    database.write(functools.partial(insert, [(i, i, "x" * 500) for i in range(1, rows + 1)]))
    (place / "state" / "devices.json").write_bytes(b"good")
    (place / "state" / "secrets").mkdir()
    (place / "state" / "secrets" / "mail").write_bytes(b"secret\n")
    (place / "state" / "secrets" / ".mail.swp").write_bytes(b"no")
    return database


def saved(place: Path) -> Job:
    job = Job("0" * 16, "save")
    save(job, PARTS, str(place / "state"), str(place / "exchange"))
    return job


def send(place: Path, members: list[Listed]) -> None:
    (place / "exchange" / copying.LISTING).write_bytes(msgspec.json.encode(members))


def taken(place: Path) -> list[str]:
    return take(Job("0" * 16, "stage"), PARTS, str(place / "exchange"), str(place / "staged"))


def rows(path: Path) -> list[tuple[int, int]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute("SELECT number, twin FROM entry ORDER BY number").fetchall()
    finally:
        connection.close()


@contextmanager
def writing(database: Database) -> Iterator[Callable[[], int]]:
    """Somebody who writes all the time: each transaction two rows that belong together."""
    end, count = threading.Event(), [1_000_000]

    def write() -> None:
        while not end.is_set():
            count[0] += 2
            number = count[0]
            twins = [(number, number, "y" * 300), (number + 1, number, "y" * 300)]
            database.write(functools.partial(insert, twins))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield lambda: count[0]
    finally:
        end.set()
        thread.join()


def test_what_is_saved_is_taken(place: Path) -> None:
    database = fill(place)
    job = saved(place)
    database.close()
    assert [(each.name, each.schema) for each in job.members] == [
        ("core.db", 2),
        ("devices.json", 0),
        ("secrets/mail", 0),
    ]
    assert job.done == job.of == sum(each.size for each in job.members)
    assert sorted(os.listdir(place / "exchange")) == ["0", "1", "2"]
    send(place, job.members)
    assert taken(place) == ["core.db", "devices.json", "secrets/mail"]
    assert rows(place / "staged" / "core.db") == [(i, i) for i in range(1, 11)]
    assert (place / "staged" / "secrets" / "mail").read_bytes() == b"secret\n"
    modes = {name: (place / "staged" / name).stat().st_mode & 0o777 for name in ("core.db", "secrets/mail")}
    assert modes == {"core.db": 0o640, "secrets/mail": 0o600}


def test_a_copy_under_constant_writing_ends_and_is_of_one_moment(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = fill(place, 5000)
    with writing(database) as count:
        begun: list[int] = []
        look = Job.look

        def look_on(job: Job) -> None:
            """Once a piece is copied, wait until something is written, however slow the disk is."""
            look(job)
            if job.done:
                begun.append(count())
                eventually(lambda: count() > begun[0] + 2, "somebody writes meanwhile")

        monkeypatch.setattr(Job, "look", look_on)
        job = saved(place)
        assert begun
    database.close()
    found = rows(place / "exchange" / "0")
    assert found[:5000] == [(i, i) for i in range(1, 5001)]
    # All that was there at one moment, and no transaction by half.
    late = [number for number, _ in found[5000:]]
    assert late == list(range(1_000_002, 1_000_002 + len(late)))
    assert len(late) % 2 == 0
    assert job.members[0].size == (place / "exchange" / "0").stat().st_size


def test_what_is_not_there_is_not_saved(place: Path) -> None:
    assert saved(place).members == []
    send(place, [])
    assert taken(place) == []


def test_a_damaged_database_is_not_saved(place: Path) -> None:
    fill(place, 2000).close()
    path = place / "state" / "core.db"
    data = bytearray(path.read_bytes())
    for page in range(40, 50):
        data[page * 4096 : page * 4096 + 100] = os.urandom(100)
    path.write_bytes(data)
    with pytest.raises((BackupError, sqlite3.DatabaseError)) as caught:
        saved(place)
    assert "damaged" in copying.told(caught.value, str(path))


def test_a_job_that_is_not_wanted_ends(place: Path) -> None:
    database = fill(place, 5000)
    job = Job("0" * 16, "save")
    job.cancelled = True
    with pytest.raises(Cancelled):
        save(job, PARTS, str(place / "state"), str(place / "exchange"))
    looks = iter([True, True, False])
    with pytest.raises(Cancelled):
        save(Job("0" * 16, "save", lambda: next(looks)), PARTS, str(place / "state"), str(place / "exchange"))
    database.close()


def test_an_exchange_of_somebody_else_is_named(place: Path) -> None:
    fill(place).close()
    with pytest.raises(BackupError, match="RASPY_EXCHANGE or XDG_STATE_HOME must be the same"):
        save(Job("0" * 16, "save"), PARTS, str(place / "state"), str(place / "none"))
    with pytest.raises(BackupError, match="RASPY_EXCHANGE"):
        take(Job("0" * 16, "stage"), PARTS, str(place / "none"), str(place / "staged"))


def other_database(path: Path, owner: int, version: int, wal: bool = False) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("CREATE TABLE entry (number, twin, text)")
    if wal:
        connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA application_id = {owner}")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()


@pytest.mark.parametrize(
    ("owner", "version", "words"),
    [
        (0x52617350, 3, r"core\.db: it is of a newer RasPy \(schema 3; this one knows 2\)"),
        (1, 1, r"core\.db: it is no database of RasPy"),
        (0x52617350, 0, r"core\.db: it has schema 0, and the backup says 1"),
        (0x52617350, 2, r"core\.db: it has schema 2, and the backup says 1"),
    ],
)
def test_a_database_that_cannot_be_used_is_refused(place: Path, owner: int, version: int, words: str) -> None:
    path = place / "exchange" / "0"
    other_database(path, owner, version)
    send(place, [Listed("0", "core.db", path.stat().st_size, 1)])
    with pytest.raises(BackupError, match=words):
        taken(place)


def test_a_database_of_an_older_schema_is_taken(place: Path) -> None:
    path = place / "exchange" / "0"
    other_database(path, 0x52617350, 1, wal=True)
    send(place, [Listed("0", "core.db", path.stat().st_size, 1)])
    assert taken(place) == ["core.db"]
    assert os.listdir(place / "staged") == ["core.db"]


def test_a_database_that_lacks_a_table_or_a_column_is_refused(place: Path) -> None:
    path = place / "exchange" / "0"
    other_database(path, 0x52617350, 2)
    connection = sqlite3.connect(path)
    connection.execute("ALTER TABLE entry RENAME COLUMN twin TO other")
    connection.close()
    send(place, [Listed("0", "core.db", path.stat().st_size, 2)])
    lacks = r"core\.db: it lacks column entry\.twin, column more\.a, table more, which schema 2 has"
    with pytest.raises(BackupError, match=lacks):
        taken(place)


@pytest.mark.system
def test_a_disk_that_fills_up_while_staging_is_told_and_changes_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(place, 2000).close()
    job = saved(place)
    send(place, job.members)
    with small_disk(512 << 10) as disk:
        monkeypatch.setenv("STATE_DIRECTORY", disk.place)
        monkeypatch.setattr(exchange, "work", lambda *_: str(place / "exchange"))
        server: Any = SimpleNamespace(service="core", KEEPS=PARTS)
        with pytest.raises(BackupError, match="MB are free on the disk"):
            desk.stage(Job("0" * 16, "stage"), server, disk.place)
        assert os.listdir(disk.place) == []
        monkeypatch.setattr(copying, "RESERVE", -(1 << 30))
        with pytest.raises((OSError, sqlite3.Error)) as caught:
            desk.stage(Job("0" * 16, "stage"), server, disk.place)
        assert "No space left" in copying.told(caught.value, "core.db")
        assert os.listdir(disk.place) == [], "nothing of it is left"


def test_a_damaged_copy_is_refused(place: Path) -> None:
    database = fill(place, 2000)
    job = saved(place)
    database.close()
    send(place, job.members)
    copy = place / "exchange" / "0"
    data = bytearray(copy.read_bytes())
    data[40 * 4096 : 50 * 4096] = os.urandom(10 * 4096)
    copy.write_bytes(data)
    with pytest.raises((BackupError, sqlite3.DatabaseError)) as caught:
        taken(place)
    assert "damaged" in copying.told(caught.value, str(copy))


@pytest.mark.parametrize(
    ("member", "words"),
    [
        (Listed("0", "core.db", 3), "no database|not a database|damaged"),
        (Listed("0", "devices.json", 3), r"devices\.json: it is no good: it is not good"),
        (Listed("0", "requests.db", 3), r"requests\.db: this server keeps no such file"),
        (Listed("0", "../core.db", 3), "keeps no such file"),
        (Listed("../0", "devices.json", 3), "keeps no such file"),
        (Listed("0", "devices.json", 2), "longer than 2 bytes"),
        (Listed("0", "devices.json", 4), "another size"),
        (Listed("none", "devices.json", 4), "No such file"),
        (Listed("link", "devices.json", 4), "symbolic link"),
        (Listed("pipe", "devices.json", 4), "not a file"),
    ],
)
def test_what_is_no_good_is_refused(place: Path, member: Listed, words: str) -> None:
    (place / "exchange" / "0").write_bytes(b"bad")
    (place / "state" / "devices.json").write_bytes(b"good")
    os.symlink(place / "state" / "devices.json", place / "exchange" / "link")
    os.mkfifo(place / "exchange" / "pipe")
    send(place, [member])
    with pytest.raises((BackupError, OSError, sqlite3.DatabaseError), match=words):
        taken(place)


@pytest.mark.parametrize("listing", [b"", b"{}", b"[1]", b"[" * 100_000, b"\xff"])
def test_a_list_that_is_no_good_is_refused(place: Path, listing: bytes) -> None:
    (place / "exchange" / copying.LISTING).write_bytes(listing)
    with pytest.raises(BackupError, match="the list of files is no good"):
        taken(place)


def test_a_link_is_not_saved(place: Path) -> None:
    os.symlink("/etc/hostname", place / "state" / "devices.json")
    with pytest.raises(OSError, match="symbolic link"):
        saved(place)


@pytest.mark.system
def test_a_disk_without_room_is_told_before_it_is_full(place: Path) -> None:
    database = fill(place)
    with small_disk() as disk:
        with pytest.raises(BackupError, match="MB are free on the disk"):
            save(Job("0" * 16, "save"), PARTS, str(place / "state"), disk.place)
        assert os.listdir(disk.place) == []
    database.close()


@pytest.mark.system
def test_a_disk_that_fills_up_is_told(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = fill(place, 2000)
    monkeypatch.setattr(copying, "RESERVE", -(1 << 30))
    with small_disk(64 << 10) as disk:
        with pytest.raises((OSError, sqlite3.Error)) as caught:
            save(Job("0" * 16, "save"), PARTS, str(place / "state"), disk.place)
        assert "full" in copying.told(caught.value, os.path.join(disk.place, "0"))
    database.close()


def test_names_of_parts() -> None:
    assert part_of(PARTS, "core.db") is PARTS[0]
    assert part_of(PARTS, "secrets/mail.token") is PARTS[2]
    for name in ("core.db-wal", "secrets", "secrets/", "secrets/.x", "secrets/a/b", "secrets/../core.db", "other", ""):
        assert part_of(PARTS, name) is None, name
    assert NAME.fullmatch("a" * 101) is None
