"""A disk that is full, files that are damaged or gone: a reported state, and the logger goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from raspy.common import storage
from tests.servers.logger_stage import DAY, KEY, NOON, Book, Watch, a_book
from tests.support_disks import PAGE, small_disk

DAYS = 12


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "RETRY", 0.05)


@pytest.fixture
def book() -> Iterator[Book]:
    with a_book(Watch(NOON + 30 * DAY)) as made:
        yield made


def found(book: Book) -> list[float]:
    return [value for _, value, _ in book.rows()]


@pytest.mark.system
def test_a_full_disk_costs_no_reading() -> None:
    with small_disk() as disk:
        book = Book(Path(disk.place), Watch(NOON + 30 * DAY))
        try:
            book.log(NOON, 0.0)
            book.flush()
            disk.fill()
            count = 1
            while "history" not in book.logger.conditions:
                book.log(NOON + count, float(count))
                book.logger.flush()
                count += 1
                book.logger.turn(0.01)
            assert "the disk is full" in book.logger.conditions["history"]
            late = {"host": "pi", "boot": "1", "trusted": True, "rows": [[KEY, 1, None, 1, "ok"]]}
            answer, status = book.ask("append", json.dumps(late))
            assert (status, "the disk is full" in answer) == ("500", True)
            book.log(NOON + count, float(count))
            assert found(book) == list(range(count + 1))
            disk.make_room()
            book.until(lambda: "history" not in book.logger.conditions)
            book.flush()
            book.restart()
            assert found(book) == list(range(count + 1))
        finally:
            book.stop()


def test_a_file_that_is_damaged_is_set_aside_and_what_can_be_is_saved(book: Book) -> None:
    for day in range(DAYS):
        for minute in range(0, 1440, 2):
            book.log(NOON + day * DAY + minute * 60, (day * 1440 + minute) * 0.3716 % 7)
        book.flush()
    book.stop()
    size = book.file.stat().st_size
    with open(book.file, "r+b") as file:
        file.seek(size // PAGE // 2 * PAGE)
        file.write(os.urandom(PAGE))
    book.logger = book._start()
    book.until(lambda: "history damaged" in book.logger.conditions or book.logger.storage.commits)
    book.log(NOON + DAYS * DAY, 8.0)
    book.flush()
    kept = found(book)
    assert DAYS * 720 * 0.6 < len(kept) <= DAYS * 720 + 1
    assert kept[-1] == 8.0
    assert any("damaged" in path.name for path in book.directory.iterdir())
    assert "set aside" in book.logger.conditions["history damaged"]


def test_a_file_that_is_nothing_of_ours_is_set_aside(book: Book) -> None:
    book.stop()
    book.file.write_bytes(b"this is no database " * 1000)
    book.logger = book._start()
    book.log(NOON, 1.0)
    book.flush()
    assert found(book) == [1]
    assert "set aside" in book.logger.conditions["history damaged"]


def test_a_file_that_is_deleted_is_made_anew_and_nothing_in_memory_is_lost(book: Book) -> None:
    book.log(NOON, 1.0)
    book.flush()
    for path in book.directory.glob("history.db*"):
        path.unlink()
    book.log(NOON + 1, 2.0)
    book.flush()
    book.until(lambda: not book.logger.recent.flying)
    assert found(book) == [2]
    book.log(NOON + 2, 3.0)
    book.flush()
    book.restart()
    assert found(book) == [2, 3]


def test_a_directory_that_cannot_be_made_is_reported(book: Book) -> None:
    place = book.directory / "file"
    place.write_text("")
    other = Book(place, Watch(NOON))
    try:
        other.log(NOON, 1.0)
        other.until(lambda: "history" in other.logger.conditions)
        assert str(place) in other.logger.conditions["history"]
        assert other.ask("query", KEY, NOON, NOON + 1)[1] == "500"
        place.unlink()
        other.until(lambda: "history" not in other.logger.conditions)
        other.flush()
        assert found(other) == [1]
    finally:
        other.stop()
        for path in place.iterdir():
            path.unlink()
        place.rmdir()


def test_a_file_of_a_newer_program_is_left_alone(book: Book) -> None:
    def change(connection, items):  # type: ignore[no-untyped-def]
        connection.execute("PRAGMA user_version = 99")
        return items

    book.logger.storage.write(change, None, lambda *_: None)
    book.settle()
    book.stop()
    before = book.file.read_bytes()
    book.logger = book._start()
    book.until(lambda: "history" in book.logger.conditions)
    assert "newer RasPy" in book.logger.conditions["history"]
    assert book.file.read_bytes() == before
