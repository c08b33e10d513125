"""Which series a reading belongs to: never to another one's history, whatever is damaged, renamed or told twice."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from raspy.common.devices.value import Value
from raspy.common.sqlitefile import transaction
from raspy.servers.logger import schema
from tests.servers.logger_stage import DAY, KEY, NOON, OTHER, Book, Watch, a_book

FORMER = f"(°F) {KEY}"


@pytest.fixture
def book() -> Iterator[Book]:
    with a_book(Watch(NOON + 3 * DAY)) as made:
        yield made


def told(book: Book, value: float, when: float, unit: str = "°C", key: str = KEY, max_age: float = 30) -> None:
    """A value of the tree."""
    book.logger.on_change(key, Value.ok(value, unit, max_age, when, log=True).encode())


def values(book: Book, key: str = KEY) -> list[float]:
    return [value for _, value, _ in book.rows(key=key)]


def units(book: Book) -> dict[str, str]:
    return {each["key"]: each["unit"] for each in book.good("keys")["keys"]}


def spoil(book: Book, *tables: str) -> None:
    """End the logger, destroy the first page of tables, and start it again."""
    book.stop()
    base = sqlite3.connect(book.file)
    base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    (size,) = base.execute("PRAGMA page_size").fetchone()
    pages = [base.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone() for name in tables]
    base.close()
    with open(book.file, "r+b") as file:
        for (page,) in pages:
            file.seek((page - 1) * size)
            file.write(b"\xff" * size)
    book.logger = book._start()


def two_probes(book: Book) -> None:
    """Three days of one that always has 25, and of one that always has 5; the last day is in the journal."""
    for day in range(3):
        for hour in range(24):
            book.log(NOON + day * DAY + hour * 60, 25.0, KEY)
            book.log(NOON + day * DAY + hour * 60, 5.0, OTHER)
        book.flush()


# Damage


@pytest.mark.parametrize("table", ["series", "name"])
def test_a_damaged_page_of_names_costs_no_series_its_history(book: Book, table: str) -> None:
    two_probes(book)
    spoil(book, table)
    # The probes come up in the other order.
    for key, value in ((OTHER, 5.5), (KEY, 25.5)):
        book.log(NOON + 3 * DAY, value, key)
        book.flush()
    assert values(book) == [25.0] * 72 + [25.5]
    assert values(book, OTHER) == [5.0] * 72 + [5.5]
    assert units(book) == {KEY: "°C", OTHER: "°C"}
    book.restart()
    assert values(book) == [25.0] * 72 + [25.5]


def test_rows_of_which_no_name_is_left_are_kept_apart(book: Book) -> None:
    two_probes(book)
    spoil(book, "series", "name")
    for key, value in ((OTHER, 5.5), (KEY, 25.5)):
        book.log(NOON + 3 * DAY, value, key)
        book.flush()
    assert values(book) == [25.5]
    assert values(book, OTHER) == [5.5]
    lost = sorted(key for key in units(book) if key.startswith("(lost) "))
    assert [values(book, key) for key in lost] == [[25.0] * 72, [5.0] * 72]
    assert book.good("forget", lost[0]) == {"forgotten": lost[0]}
    assert lost[0] not in units(book)
    book.log(NOON + 3 * DAY, 1.0, "/device/pi.onewire.new/temperature")
    book.flush()
    assert values(book, "/device/pi.onewire.new/temperature") == [1.0]


def test_a_file_that_was_saved_is_put_in_order_before_its_days_are(book: Book) -> None:
    two_probes(book)

    def lose(connection: sqlite3.Connection, items: list[None]) -> list[None]:
        connection.execute("DELETE FROM checked")
        connection.execute("DELETE FROM series")
        return items

    book.logger.storage.write(lose, None, lambda *_: None)
    book.settle()
    book.logger.fold()
    book.settle()
    assert values(book, OTHER) == [5.0] * 72


def test_a_lost_table_of_clocks_moves_nothing_that_it_should_not() -> None:
    clock = Watch(NOON, trusted=False)
    with a_book(clock) as book:
        book.log(NOON, 1.0)
        spoil(book, "clock")
        clock.time += 1000  # set: a time of another clock begins
        book.logger.look_at_clock()
        book.log(clock.time, 2.0)
        book.flush()
        clock.time += 50_000
        clock.right = True
        book.logger.look_at_clock()
        book.settle()
        assert [row[:2] for row in book.rows()] == [[NOON, 1.0], [NOON + 51_000, 2.0]]


def test_a_file_of_the_first_version_is_brought_up_to_date() -> None:
    with a_book(Watch(NOON + 3 * DAY)) as book:
        two_probes(book)
        book.stop()
        base = sqlite3.connect(book.file)
        found = {
            table: base.execute(f"SELECT {columns} FROM {table}").fetchall()
            for table, columns in (
                ("series", "id, key, unit, last"),
                ("journal", "id, start, clock, data"),
                *((table, "id, start, data") for table in ("raw", "minutes", "hours", "days")),
            )
        }
        base.close()
        for path in book.directory.glob("history.db*"):
            path.unlink()
        old = sqlite3.connect(book.file, isolation_level=None)

        def first(connection: sqlite3.Connection) -> None:
            for statement in (*schema.SCHEMAS[0], "PRAGMA application_id = 1382118224", "PRAGMA user_version = 1"):
                connection.execute(statement)
            for table, rows in found.items():
                marks = ", ".join("?" * len(rows[0]))
                connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)

        transaction(old, first)
        old.close()
        book.logger = book._start()
        assert values(book) == [25.0] * 72
        spoil(book, "series")
        book.flush()
        assert values(book, OTHER) == [5.0] * 72


# Units


def test_another_unit_begins_another_series(book: Book) -> None:
    told(book, 77.0, NOON + 3 * DAY - 50, "°F")
    told(book, 25.0, NOON + 3 * DAY - 40)
    assert values(book) == [25.0]
    for _ in range(2):
        assert units(book)[KEY] == "°C"
        book.flush()
        assert units(book) == {KEY: "°C", FORMER: "°F"}
        assert (values(book), values(book, FORMER)) == ([25.0], [77.0])
    told(book, 78.0, NOON + 3 * DAY - 30, "°F")
    assert (units(book)[KEY], values(book)) == ("°F", [77.0, 78.0])
    book.flush()
    assert units(book) == {KEY: "°F", f"(°C) {KEY}": "°C"}
    assert (values(book), values(book, f"(°C) {KEY}")) == ([77.0, 78.0], [25.0])
    book.restart()
    assert values(book) == [77.0, 78.0]


def test_a_late_reading_in_another_unit_changes_none(book: Book) -> None:
    book.log(NOON, 25.0)
    book.flush()
    rows = [[KEY, NOON - 60, None, 76.0, "ok", 30, "°F"], [KEY, NOON - 30, None, 24.0, "ok"]]
    for _ in range(2):
        assert book.append(rows)["kept"] == 2
    assert units(book) == {KEY: "°C", FORMER: "°F"}
    assert (values(book), values(book, FORMER)) == ([24.0, 25.0], [76.0])
    told(book, 77.0, NOON + 3 * DAY, "°F")
    book.flush()
    assert (values(book), values(book, f"(°C) {KEY}")) == ([76.0, 77.0], [24.0, 25.0])


def test_a_unit_that_is_not_told_is_the_one_before(book: Book) -> None:
    for second, unit in enumerate(("", "°C", "", "°C")):
        told(book, float(second), NOON + 3 * DAY + second, unit)
        if second == 2:
            book.flush()
    assert values(book) == [0, 1, 2, 3]
    book.flush()
    assert units(book) == {KEY: "°C"}
    assert values(book) == [0, 1, 2, 3]


def test_units_that_come_and_go_lose_nothing(book: Book) -> None:
    wanted: dict[str, list[float]] = {}
    for number, unit in enumerate(("a", "b", "", "a", "c", "b", "a", "a", "c", "b") * 3):
        told(book, float(number), NOON + 3 * DAY + number / 10, unit)
        wanted.setdefault(unit or "b", []).append(float(number))
        if number % 4 == 0:
            book.flush()
        if number % 7 == 6:
            book.append([[KEY, NOON + number, None, float(-number), "ok", 30, "a"]])
            wanted["a"].append(float(-number))
        if number % 15 == 14:
            book.restart()
    book.flush()
    assert {unit: sorted(values(book, key)) for key, unit in units(book).items()} == {
        unit: sorted(found) for unit, found in wanted.items()
    }
    assert units(book)[KEY] == "b"
    book.good("forget", KEY)
    book.append([[KEY, NOON, None, 0.5, "ok", 30, "a"]])
    assert 0.5 in values(book, f"(a) {KEY}")


def test_a_long_unit_is_cut(book: Book) -> None:
    told(book, 1.0, NOON + 3 * DAY, "u\n" * 100_000)
    assert units(book) == {KEY: ("u\\n" * 7)[:20]}


# What is told again


@pytest.mark.parametrize("off", [-600.0, -3600.0, 5000.0, -61.0])
def test_a_reading_that_is_told_again_counts_once(book: Book, off: float) -> None:
    now = NOON + 3 * DAY
    for _ in range(3):
        told(book, 24.0, now + off)
        assert isinstance(book.clock, Watch)
        book.clock.go(70)
        book.restart()
    assert [row[:2] for row in book.rows()] == [[now, 24.0]]
    told(book, 24.0, now + off + 1)
    assert len(book.rows()) == 2


def test_a_reading_of_now_is_known_when_it_is_told_again_much_later(book: Book) -> None:
    clock = book.clock
    assert isinstance(clock, Watch)
    now = clock.time
    told(book, 24.0, now)
    book.restart()
    clock.go(2 * DAY)
    told(book, 5.0, clock.time, key=OTHER)
    book.flush()  # its day is over, and it is no longer in the journal
    book.restart()
    told(book, 24.0, now)
    told(book, 5.0, clock.time, key=OTHER)
    assert book.rows() == [[now, 24.0, "ok"]]
    assert len(book.rows(key=OTHER)) == 1


def test_a_stale_reading_that_is_told_again_counts_once(book: Book) -> None:
    now = NOON + 3 * DAY
    told(book, 1.0, now - 40)
    body = {"last": 1.0, "time": now - 40, "max_age": 30, "quality": "stale", "reason": "x", "log": True, "unit": "°C"}
    for _ in range(3):
        book.logger.on_change(KEY, json.dumps(body).encode())
        assert isinstance(book.clock, Watch)
        book.clock.go(100)
        book.restart()
    assert book.rows() == [[now - 40, 1, "ok"], [now, None, "stale"]]


def test_a_reading_is_known_again_once_the_clock_was_set_right() -> None:
    clock = Watch(NOON - DAY, trusted=False)
    with a_book(clock) as book:
        told(book, 20.0, clock.time)
        clock.go(10)
        clock.time = NOON
        clock.right = True
        book.logger.look_at_clock()
        for _ in range(2):
            told(book, 20.0, NOON - DAY)
            book.restart()
        assert book.rows() == [[NOON - 10, 20, "ok"]]


# What a series begins with


def test_a_probe_that_is_broken_from_the_start_has_a_history_of_its_failures(book: Book) -> None:
    now = NOON + 3 * DAY
    for second in range(4):
        book.logger.on_change(KEY, Value.error("broken", "°C", time=now + second, log=True).encode())
        assert len(book.rows()) == second + 1
        book.flush()
    told(book, 20.0, now + 4)
    wanted: list[Any] = [[now + second, None, "error"] for second in range(4)] + [[now + 4, 20, "ok"]]
    assert book.rows() == wanted
    book.restart()
    assert book.rows() == wanted


def test_there_is_no_minus_zero(book: Book) -> None:
    told(book, -0.0, NOON + 3 * DAY)
    book.append([[KEY, NOON, None, -0.0, "ok"]])
    book.flush()
    assert "-" not in json.dumps(values(book))
