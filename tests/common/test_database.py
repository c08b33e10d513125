"""SQLite files and what can happen to them, on real disks."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raspy.common import database, sqlitefile
from raspy.common.database import APPLICATION_ID, Damaged, Database, NewerSchema, Schema, StorageError
from tests.support import need_root
from tests.support_devices import short_directory
from tests.support_disks import ext4_disk, small_disk, tear
from tests.support_processes import TOP

FIRST: Schema = ("CREATE TABLE item (id INTEGER PRIMARY KEY, text TEXT NOT NULL CHECK (text <> 'never'))",)
SECOND: Schema = (
    "ALTER TABLE item ADD COLUMN size INTEGER NOT NULL DEFAULT 0",
    "UPDATE item SET size = length(text)",
)
NOBODY = 65534
ROWS = 1200
"""Rows of about a quarter of a page each: more than a connection has in its cache."""


def text_of(number: int) -> str:
    return f"row {number:05d} " + "x" * 900


def add(*numbers: int) -> Callable[[sqlite3.Connection], None]:
    """Write rows."""

    def write(connection: sqlite3.Connection) -> None:
        connection.executemany("INSERT INTO item (id, text) VALUES (?, ?)", [(n, text_of(n)) for n in numbers])

    return write


def numbers(connection: sqlite3.Connection) -> list[int]:
    return [row[0] for row in connection.execute("SELECT id FROM item ORDER BY id")]


def pragma(name: str) -> Callable[[sqlite3.Connection], Any]:
    return lambda connection: connection.execute(f"PRAGMA {name}").fetchone()[0]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "state" / "file.db")


@pytest.fixture
def made(path: str) -> Iterator[Callable[..., Database]]:
    """Makes databases, of that file where nothing else is said, and closes them."""
    all_made: list[Database] = []

    def make(*schemas: Schema, file: str = path) -> Database:
        all_made.append(Database(file, schemas or (FIRST,), ("item",)))
        return all_made[-1]

    yield make
    for each in all_made:
        each.close()


Make = Callable[..., Database]


def filled(make: Make, count: int = ROWS, **more: Any) -> str:
    """A closed file with rows from 1; its path."""
    made = make(**more)
    made.write(add(*range(1, count + 1)))
    made.close()
    return made.path


def aside(path: str) -> list[str]:
    """The files that were set aside, without those that belong to them."""
    directory, name = os.path.split(path)
    found = [entry for entry in os.listdir(directory) if entry.startswith(f"{name}.damaged-")]
    return sorted(os.path.join(directory, entry) for entry in found if not entry.endswith(("-wal", "-shm")))


def test_what_is_written_is_there_after_it_was_opened_anew(made: Make) -> None:
    first = made()
    first.write(add(1, 2))
    assert first.read(numbers) == [1, 2]
    first.close()
    first.close()
    assert made().read(numbers) == [1, 2]


def test_a_commit_is_on_disk_when_it_returns(made: Make) -> None:
    here = made()
    assert here.write(pragma("journal_mode")) == "wal"
    assert here.write(pragma("synchronous")) == 2
    assert here.write(pragma("application_id")) == APPLICATION_ID
    assert here.write(pragma("user_version")) == 1
    assert here.begun == 1


def test_its_directory_is_for_the_owner(made: Make, path: str) -> None:
    made().open()
    assert os.stat(os.path.dirname(path)).st_mode & 0o027 == 0


def test_a_reader_cannot_write(made: Make) -> None:
    here = made()
    here.write(add(1))
    with pytest.raises(StorageError, match="cannot be written"):
        here.read(add(2))
    assert here.read(numbers) == [1]


def test_a_transaction_is_whole_or_not_at_all(made: Make) -> None:
    here = made()
    here.write(add(1))
    with pytest.raises(sqlite3.IntegrityError):
        here.write(add(2, 3, 1))
    here.write(add(4))
    assert here.read(numbers) == [1, 4]


def test_a_read_waits_for_the_opening(made: Make) -> None:
    assert made().read(numbers) == []


# Schemas


def test_a_file_is_brought_to_the_present_schema(made: Make) -> None:
    filled(made, 3)
    here = made(FIRST, SECOND)
    sizes = here.read(lambda connection: connection.execute("SELECT size FROM item").fetchall())
    assert sizes == [(len(text_of(1)),)] * 3
    assert here.write(pragma("user_version")) == 2


def test_a_migration_that_fails_leaves_all_as_it_was(made: Make, path: str) -> None:
    filled(made, 3)
    bad = made(FIRST, (*SECOND, "UPDATE item SET text = 'never' WHERE id = 3"))
    for call in (bad.open, lambda: bad.write(add(9)), lambda: bad.read(numbers)):
        with pytest.raises(StorageError, match="it cannot be opened: CHECK constraint failed"):
            call()
    bad.close()
    assert aside(path) == []
    here = made(FIRST)
    assert here.write(pragma("user_version")) == 1
    assert here.read(lambda connection: len(connection.execute("PRAGMA table_info(item)").fetchall())) == 2
    assert here.read(numbers) == [1, 2, 3]
    here.close()
    assert made(FIRST, SECOND).read(numbers) == [1, 2, 3]


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_file_of_a_newer_program_is_left_as_it_is(made: Make, path: str, mode: str) -> None:
    filled(made, 3)
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode}")
        connection.execute("PRAGMA user_version = 7")
    connection.close()
    before = Path(path).read_bytes()
    here = made()
    for call in (here.open, lambda: here.write(add(9)), lambda: here.read(numbers)):
        with pytest.raises(NewerSchema, match=r"newer RasPy \(schema 7; this one knows 1\).*move the file away"):
            call()
    assert Path(path).read_bytes() == before
    assert aside(path) == []
    os.rename(path, f"{path}.newer")
    here.write(add(9))
    assert here.read(numbers) == [9]
    assert Path(f"{path}.newer").read_bytes() == before


# Files that are not what they should be


def other_program(path: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE item (id INTEGER PRIMARY KEY, colour TEXT)")
        connection.execute("INSERT INTO item VALUES (1, 'red')")
    connection.close()


@pytest.mark.parametrize(
    ("make_file", "reason"),
    [
        (lambda path: Path(path).write_bytes(b"[titanic]\nslots = 3\n" * 300), "file is not a database"),
        (lambda path: Path(path).write_bytes(b"SQLite format 3\0" + b"\xff" * 8000), "it is damaged"),
        (other_program, "it is a database of another program"),
    ],
    ids=["text", "header", "another program"],
)
def test_a_file_that_is_not_ours_is_set_aside(
    made: Make, path: str, make_file: Callable[[str], None], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    os.makedirs(os.path.dirname(path))
    make_file(path)
    before = Path(path).read_bytes()
    here = made()
    here.write(add(1))
    assert here.read(numbers) == [1]
    (bad,) = aside(path)
    assert Path(bad).read_bytes() == before
    assert reason in here.notice
    assert f"set aside as {bad}, 0 entries could be saved" in here.notice
    assert here.notice in caplog.text
    assert here.begun == 1


def test_an_empty_file_is_a_new_one(made: Make, path: str) -> None:
    os.makedirs(os.path.dirname(path))
    Path(path).touch()
    here = made()
    here.write(add(1))
    assert here.notice == ""
    assert aside(path) == []


def saved_around(found: list[int], lost: int) -> None:
    """Rows were lost around one, those of a page, and no others."""
    missing = sorted(set(range(1, ROWS + 1)) - set(found))
    assert lost in missing
    assert 1 <= len(missing) <= 8
    assert missing == list(range(missing[0], missing[-1] + 1))


def test_rows_before_and_behind_a_torn_page_are_saved(made: Make, path: str, caplog: pytest.LogCaptureFixture) -> None:
    filled(made)
    tear(path, b"row 00600")
    torn = Path(path).read_bytes()
    here = made()
    found = here.read(numbers)
    saved_around(found, 600)
    (bad,) = aside(path)
    assert Path(bad).read_bytes() == torn
    assert f"set aside as {bad}, {len(found)} entries could be saved" in here.notice
    assert "\n" not in here.notice
    assert here.notice in caplog.text
    here.write(add(5000))
    here.close()
    assert made().read(numbers) == [*found, 5000]


MANY = 20_000


def small_rows(connection: sqlite3.Connection) -> None:
    rows = [(n, f"row {n:05d} " + "x" * 60) for n in range(1, MANY + 1)]
    connection.executemany("INSERT INTO item (id, text) VALUES (?, ?)", rows)


def one_by_one(path: str) -> list[int]:
    """The numbers of the rows that can be read from a file when each is asked for by its number."""
    found = []
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    for number in range(1, MANY + 1):
        try:
            row = connection.execute("SELECT id, text FROM item WHERE id = ?", (number,)).fetchone()
        except sqlite3.Error:
            continue
        if row is not None:
            assert row[1].startswith(f"row {number:05d} ")
            found.append(number)
    connection.close()
    return found


@pytest.mark.parametrize(
    ("torn", "gaps"),
    [
        ((400, 10_000, 19_600), 3),
        ((1, 10_000, MANY), 3),
        ((10_000, 10_120, 10_240), 3),
        ((1, 60, 110), 1),
        ((MANY - 100, MANY - 50, MANY), 1),
    ],
    ids=["far apart", "at the ends", "close together", "side by side at the beginning", "side by side at the end"],
)
def test_rows_between_torn_pages_are_saved(
    made: Make, path: str, torn: tuple[int, ...], gaps: int, caplog: pytest.LogCaptureFixture
) -> None:
    here = made()
    here.write(small_rows)
    here.close()
    for number in torn:
        tear(path, b"row %05d" % number)
    found = made().read(numbers)
    assert set(torn).isdisjoint(found)
    assert MANY - 70 * len(torn) < len(found)
    assert found == one_by_one(aside(path)[0])
    told = [record.getMessage() for record in caplog.records if "cannot be read" in record.getMessage()]
    assert len(told) == gaps


def test_rows_of_high_numbers_between_torn_pages_are_saved(made: Make, path: str) -> None:
    """The search for them begins far away, as the first page is torn."""
    first = 1 << 40
    here = made()
    here.write(small_rows)
    here.write(lambda connection: connection.execute("UPDATE item SET id = id + ? - 1", (first,)))
    here.close()
    torn = range(1, MANY, 400)
    for number in torn:
        tear(path, b"row %05d" % number)
    found = made().read(numbers)
    assert {first + n - 1 for n in torn}.isdisjoint(found)
    assert MANY - 70 * len(torn) < len(found)


def test_rows_at_both_ends_are_saved_when_no_time_is_left(
    made: Make, path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sqlitefile, "SEARCH_TIME", 0.0)
    here = made()
    here.write(small_rows)
    here.close()
    for number in (400, 10_000, 19_600):
        tear(path, b"row %05d" % number)
    found = made().read(numbers)
    readable = one_by_one(aside(path)[0])
    assert found == [n for n in readable if not 400 < n < 19_600]
    told = [record.getMessage() for record in caplog.records if "cannot be read" in record.getMessage()]
    assert len(told) == 1


def test_a_torn_page_of_a_large_row_costs_that_row(made: Make, path: str) -> None:
    here = made()
    here.write(small_rows)
    large = "x" * 9000 + "the end" + "x" * 9000
    here.write(lambda connection: connection.execute("UPDATE item SET text = ? WHERE id = 600", (large,)))
    here.close()
    tear(path, b"the end")
    here = made()
    assert here.read(numbers) == [n for n in range(1, MANY + 1) if n != 600]
    assert "it is damaged" in here.notice


def test_a_row_under_a_false_number_costs_no_other(made: Make, path: str) -> None:
    here = made()
    here.write(small_rows)
    here.close()
    page = bytearray(Path(path).read_bytes())
    # Before the text: the row's number in two bytes, then four of the header (https://www.sqlite.org/fileformat2.html).
    place = page.index(b"row 00600 ") - 6
    assert page[place : place + 2] == bytes([0x80 | 600 >> 7, 600 & 0x7F])
    page[place : place + 2] = bytes([0x80 | 16_000 >> 7, 16_000 & 0x7F])
    Path(path).write_bytes(page)
    here = made()
    assert here.read(numbers) == [n for n in range(1, MANY + 1) if n != 600]
    assert "out of order" in here.notice


def test_not_every_damaged_place_is_in_the_log(
    made: Make, path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sqlitefile, "MOST_TOLD", 2)
    filled(made)
    for number in (100, 300, 500, 700, 900):
        tear(path, b"row %05d" % number)
    made().open()
    told = [record.getMessage() for record in caplog.records if "cannot be read" in record.getMessage()]
    assert len(told) == 3
    assert told[-1] == "more rows of item cannot be read"


def test_a_large_file_is_not_read_at_its_opening(made: Make, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage in it is found when that part of it is used."""
    filled(made)
    tear(path, b"row 00600")
    monkeypatch.setattr(sqlitefile, "CHECK_SIZE", os.path.getsize(path) - 1)
    here = made()
    here.open()
    assert here.notice == ""
    with pytest.raises(Damaged, match="it is damaged"):
        here.read(numbers)
    here.close()
    monkeypatch.setattr(sqlitefile, "CHECK_SIZE", os.path.getsize(path))
    here = made()
    here.open()
    assert "it is damaged" in here.notice


def test_a_check_of_rows_that_takes_long_ends(made: Make, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    here = made()
    here.write(small_rows)
    here.close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute("UPDATE item SET text = 'never' WHERE id = 19000")
    connection.close()
    monkeypatch.setattr(sqlitefile, "CHECK_TIME", 0.0)
    here = made()
    here.open()
    assert here.notice == ""
    here.close()
    monkeypatch.undo()
    here = made()
    here.open()
    assert "CHECK constraint failed" in here.notice


def test_a_row_that_no_check_allows_is_not_saved(made: Make, path: str) -> None:
    filled(made, 5)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute("UPDATE item SET text = 'never' WHERE id = 3")
    connection.close()
    here = made()
    assert here.read(numbers) == [1, 2, 4, 5]
    assert "CHECK constraint failed" in here.notice


def test_a_damaged_file_of_an_older_schema_is_saved_too(made: Make, path: str) -> None:
    filled(made)
    tear(path, b"row 00600")
    here = made(FIRST, (*SECOND, "CREATE TABLE more (id INTEGER PRIMARY KEY)"))
    saved_around(here.read(numbers), 600)


def test_what_its_log_holds_is_saved_too(made: Make, path: str) -> None:
    """The last commits may be in the write-ahead log alone, as after a crash."""
    filled(made)
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("INSERT INTO item VALUES (9000, 'in the log')")
    for suffix in ("", "-wal"):
        shutil.copyfile(path + suffix, f"{path}.copy{suffix}")
    writer.close()
    tear(f"{path}.copy", b"row 00600")
    assert made(file=f"{path}.copy").read(numbers)[-1] == 9000


def test_one_more_in_the_same_second_has_another_name(made: Make, path: str) -> None:
    os.makedirs(os.path.dirname(path))
    for _ in range(3):
        Path(path).write_bytes(b"no database" * 100)
        here = made()
        here.open()
        here.close()
    assert len(aside(path)) == 3


@pytest.mark.parametrize("touch", ["read", "write"])
def test_damage_that_shows_while_it_is_open(made: Make, path: str, touch: str) -> None:
    filled(made)
    here = made()
    here.open()
    tear(path, b"row 00600")
    change = "UPDATE item SET text = 'other' WHERE id = 600"
    call = functools.partial(*(here.read, numbers) if touch == "read" else (here.write, lambda c: c.execute(change)))
    with pytest.raises(Damaged, match="it is damaged") as caught:
        call()
    here.recover(caught.value)
    found = here.read(numbers)
    saved_around(found, 600)
    here.write(add(600))
    assert here.read(numbers) == sorted([*found, 600])
    assert aside(path)[0] in here.notice
    assert here.begun == 2


def test_a_power_cut_between_the_two_names(made: Make, path: str) -> None:
    """The bad file has its new name, the saved one not yet; a log of the bad one still lies there."""
    filled(made, 5)
    os.rename(path, path + database.SAVED)
    Path(f"{path}-wal").write_bytes(b"of the damaged one" * 500)
    assert made().read(numbers) == [1, 2, 3, 4, 5]
    assert not os.path.exists(path + database.SAVED)


@pytest.mark.system
def test_a_damaged_file_stays_until_there_is_room_to_save_it() -> None:
    with small_disk(4 << 20) as disk:
        path = os.path.join(disk.place, "file.db")
        here = Database(path, (FIRST,), ("item",))
        here.write(add(*range(1, ROWS + 1)))
        here.close()
        tear(path, b"row 00600")
        torn = Path(path).read_bytes()
        disk.fill()
        for _ in range(2):
            with pytest.raises(StorageError, match="the disk is full"):
                here.open()
        assert Path(path).read_bytes() == torn
        assert aside(path) == []
        assert not os.path.exists(path + database.SAVED)
        disk.make_room()
        saved_around(here.read(numbers), 600)
        here.close()


# Others


def test_two_do_not_use_one_file(made: Make) -> None:
    first, second = made(), made()
    first.write(add(1))
    for call in (second.open, lambda: second.write(add(2)), lambda: second.read(numbers)):
        with pytest.raises(StorageError, match="another process uses it"):
            call()
    first.write(add(3))
    first.close()
    assert second.read(numbers) == [1, 3]


def test_a_process_that_was_killed_leaves_no_lock(made: Make, path: str) -> None:
    holds = "import sys; from raspy.common.database import *; d = Database(sys.argv[1], ()); d.open(); print()"
    with subprocess.Popen(
        [sys.executable, "-u", "-c", f"{holds}; sys.stdin.read()", path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=TOP,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        here = made()
        with pytest.raises(StorageError, match="another process uses it"):
            here.open()
        process.kill()
    here.write(add(1))


def test_somebody_who_looks_in_with_another_program(made: Make, path: str) -> None:
    """Such as sqlite3(1), which knows nothing of our lock."""
    here = made()
    here.write(add(1))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError, match="another process uses it"):
        here.write(add(2))
    assert here.read(numbers) == [1]
    other.execute("ROLLBACK")
    other.close()
    here.write(add(3))
    assert here.read(numbers) == [1, 3]


@pytest.mark.parametrize("deed", ["deleted", "moved", "replaced"])
def test_a_file_that_is_gone_takes_nothing_any_more(made: Make, path: str, deed: str) -> None:
    here = made()
    here.write(add(1))
    assert here.read(numbers) == [1]
    directory = os.path.dirname(path)
    if deed == "deleted":
        shutil.rmtree(directory)
    else:
        os.rename(directory, f"{directory}.old")
    if deed == "replaced":
        filled(made, 5)
    with pytest.raises(StorageError, match="deleted or moved away while it was used"):
        here.write(add(2))
    here.write(add(9))
    expected = [1, 2, 3, 4, 5, 9] if deed == "replaced" else [9]
    assert here.read(numbers) == expected
    assert here.begun == 2
    with pytest.raises(StorageError, match="another process"):
        made().open()
    here.close()
    assert made().read(numbers) == expected


# Disks


@pytest.mark.system
def test_a_full_disk_refuses_and_goes_on_when_there_is_room() -> None:
    with small_disk() as disk:
        here = Database(os.path.join(disk.place, "file.db"), (FIRST,))
        here.write(add(1))
        disk.fill()
        kept = [1]

        def go_on() -> None:
            for number in range(2, 1000):
                here.write(add(number))
                kept.append(number)

        with pytest.raises(StorageError, match=r"file.db: the disk is full"):
            go_on()
        assert here.read(numbers) == kept
        with pytest.raises(StorageError, match="the disk is full"):
            here.write(add(*range(2000, 2400)))
        disk.make_room()
        here.write(add(5000))
        here.close()
        assert here.read(numbers) == [*kept, 5000]
        here.close()


@pytest.mark.system
@pytest.mark.parametrize("there", [False, True])
def test_a_read_only_file_system(there: bool) -> None:
    with small_disk() as disk:
        here = Database(os.path.join(disk.place, "state", "file.db"), (FIRST,))
        if there:
            here.write(add(1))
            here.close()
        disk.remount("ro")
        with pytest.raises(StorageError, match=r"(?i)read-only file system|is read-only"):
            here.write(add(2))
        disk.remount("rw")
        here.write(add(3))
        assert here.read(numbers) == ([1, 3] if there else [3])
        here.close()


@pytest.mark.system
def test_a_file_system_that_becomes_read_only() -> None:
    """As ext4 does when it finds itself in disorder."""
    with ext4_disk() as disk:
        here = Database(os.path.join(disk.place, "file.db"), (FIRST,))
        here.write(add(1))
        assert here.read(numbers) == [1]
        disk.become_read_only()
        for _ in range(2):
            # Newer kernels do not tell it apart from any other error (statvfs(3) says nothing of it).
            with pytest.raises(StorageError, match=r"is read-only|does not read or write as it should"):
                here.write(add(2))
            assert here.read(numbers) == [1]
        disk.replace()
        here.write(add(3))
        assert here.read(numbers) == [1, 3]
        assert here.begun == 2
        here.close()


@pytest.mark.system
def test_a_disk_that_breaks() -> None:
    with ext4_disk() as disk:
        here = Database(os.path.join(disk.place, "file.db"), (FIRST,))
        here.write(add(*range(1, 200)))
        here.read(numbers)
        disk.break_down()
        for number in (1000, 1001):
            with pytest.raises(StorageError, match=r"file.db: "):
                here.write(add(number))
        disk.replace()
        here.write(add(1002))
        assert here.read(numbers) == [*range(1, 200), 1002]
        here.close()


@pytest.mark.system
def test_a_disk_that_hangs() -> None:
    """Who writes waits, who reads does not; then all is there."""
    with ext4_disk() as disk:
        here = Database(os.path.join(disk.place, "file.db"), (FIRST,))
        here.write(add(1))
        here.read(numbers)
        writer = threading.Thread(target=here.write, args=(add(2),))
        with disk.frozen():
            writer.start()
            assert here.read(numbers) == [1]
            assert writer.is_alive()
        writer.join(30)
        assert here.read(numbers) == [1, 2]
        here.close()


# As it is for others than root, in a process of its own

SCRIPT = """
import json, os, resource, sqlite3, sys
from raspy.common.database import Database, StorageError
path = sys.argv[1]
first = "CREATE TABLE item (id INTEGER PRIMARY KEY, text TEXT)"
here = Database(path, ((first,),))
told = []
def attempt(size=10):
    try:
        told.append(here.write(lambda c: c.execute("INSERT INTO item (text) VALUES (?)", ("x" * size,)).lastrowid))
    except StorageError as error:
        told.append(str(error))
def count():
    told.append(here.read(lambda c: c.execute("SELECT count(*) FROM item").fetchone()[0]))
"""


BECOME = f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY}); "


def run_script(text: str, path: str) -> list[Any]:
    """What a script has told, in JSON."""
    done = subprocess.run(
        [sys.executable, "-c", f"{SCRIPT}{text}\nhere.close()\nprint(json.dumps(told))", path],
        cwd=TOP,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def test_writes_that_fail_are_undone(path: str) -> None:
    """A limit of the process stands for the disk: each write beyond it fails (setrlimit(2), RLIMIT_FSIZE)."""
    told = run_script(
        """
attempt()
count()
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
attempt(300_000)
attempt()
count()
attempt(300_000)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
attempt(300_000)
count()
""",
        path,
    )
    refused = told.pop(2), told.pop(4)
    assert told == [1, 1, 2, 2, 3, 3]
    for reason in refused:
        assert re.fullmatch(r".*file.db: the disk does not read or write as it should \(SQLITE_IOERR_\w+\)", reason)


@pytest.mark.system
def test_what_belongs_to_somebody_else() -> None:
    need_root()
    with short_directory() as directory:
        os.chmod(directory, 0o755)
        path = os.path.join(directory, "file.db")
        assert run_script(f"{BECOME}attempt()", path) == [f"{path}: Permission denied"]
        os.chown(directory, NOBODY, NOBODY)
        assert run_script(f"{BECOME}attempt(); count()", path) == [1, 1]
        os.chown(path, 0, 0)
        (told,) = run_script(f"{BECOME}attempt()", path)
        assert "file.db: it cannot be written: the file or its file system is read-only" in told
        os.chmod(path, 0o600)
        (told,) = run_script(f"{BECOME}attempt()", path)
        assert "file.db: it cannot be opened" in told
        os.chown(path, NOBODY, NOBODY)
        assert run_script(f"{BECOME}attempt(); count()", path) == [2, 2]


def test_a_directory_whose_place_is_taken(made: Make, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    here = made(file=str(tmp_path / "state" / "deeper" / "file.db"))
    with pytest.raises(StorageError, match="Not a directory"):
        here.open()
    (tmp_path / "state").unlink()
    here.write(add(1))
