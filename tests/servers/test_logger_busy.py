"""Series with very many readings, and days of which the single readings are gone: nothing is lost or counted twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from raspy.servers.logger import folding, packing, query, reading
from raspy.servers.logger.packing import BadTable
from raspy.servers.logger.recent import MOST_ROWS, Recent
from raspy.servers.logger.rows import OK, Rows
from tests.servers.logger_stage import DAY, KEY, NOON, OTHER, Book, Watch, a_book

MIDNIGHT = NOON - DAY // 2
NOW = MIDNIGHT + 3 * DAY


@pytest.fixture
def book() -> Iterator[Book]:
    with a_book(Watch(NOW)) as made:
        yield made


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a row could hold little."""
    monkeypatch.setattr(folding, "MOST_OF_DAY", 500)
    monkeypatch.setattr(folding, "READINGS_AT_ONCE", 1000)
    monkeypatch.setattr(folding, "HEAVY", 2000)
    monkeypatch.setattr("raspy.servers.logger.logger.MUCH", 1500)


def counted(book: Book, since: float, until: float, points: int = 10, key: str = KEY) -> tuple[int, float, float]:
    """Good readings of a chart, the least and the greatest."""
    found = [point for point in book.points(since, until, points, key) if point[4]]
    return sum(p[4] for p in found), min(p[2] for p in found), max(p[3] for p in found)


def spoil(book: Book, statement: str) -> None:
    def do(connection: Any, items: list[None]) -> list[None]:
        connection.execute(statement)
        return items

    book.logger.storage.write(do, None, lambda *_: None)
    book.settle()


# Too many for one row


def log_day(book: Book, day: int, count: int, step: float) -> list[list[Any]]:
    """So many readings from midnight on."""
    start = MIDNIGHT + day * DAY
    rows = [[start + number * step, float(number), "ok"] for number in range(count)]
    for number, (when, value, _) in enumerate(rows):
        book.log(when, value)
        if number % 250 == 249:
            book.flush()
    book.flush()
    return rows


def test_a_day_with_too_many_readings_for_a_row_loses_none(book: Book, small: None) -> None:
    quiet = [[MIDNIGHT - DAY, 0.0, "ok"]]
    book.log(MIDNIGHT - DAY, 0.0)
    busy = log_day(book, 0, 4000, 20)
    for over in (False, True):
        assert book.rows() == quiet + busy
        assert counted(book, MIDNIGHT, MIDNIGHT + DAY - 1) == (4000, 0, 3999)
        assert counted(book, MIDNIGHT, MIDNIGHT + DAY - 1, 2000) == (4000, 0, 3999)
        assert counted(book, MIDNIGHT + 600, MIDNIGHT + 1199, 100) == (30, 30, 59)
        assert book.count("SELECT max(length(data)) FROM raw") < 1000
        assert book.count("SELECT count(*) FROM pieces") > 100
        if not over:
            # All but the last of it was put into its day before that was over.
            assert book.count("SELECT sum(length(data)) FROM journal") < 20_000
            book.log(MIDNIGHT + DAY, 1.0)
            book.flush()
            assert book.count(f"SELECT count(*) FROM journal WHERE start < {(MIDNIGHT + DAY) * 1000}") == 0
            quiet_end = [[MIDNIGHT + DAY, 1.0, "ok"]]
            busy += quiet_end
    book.restart()
    assert book.rows() == quiet + busy
    assert not book.logger.conditions.keys() - {"broker"}


def test_late_readings_of_such_a_day_count_once(book: Book, small: None) -> None:
    rows = log_day(book, 0, 1000, 60)
    book.log(MIDNIGHT + DAY, 1.0)
    book.flush()
    late = [[KEY, MIDNIGHT + 30 + number * 3000, None, -5.0, "ok"] for number in range(20)]
    late += [[KEY, rows[7][0], None, rows[7][1], "ok"], [KEY, MIDNIGHT + DAY - 1, None, 7.0, "ok"]]
    for day in range(2, 4):
        assert book.append(late)["kept"] == len(late)
        for _ in range(2):
            assert counted(book, MIDNIGHT, MIDNIGHT + DAY - 1) == (1021, -5, 999)
            assert len(book.rows(MIDNIGHT, MIDNIGHT + DAY - 1)) == 1021
            book.log(MIDNIGHT + day * DAY, 1.0)
            book.flush()


def test_a_day_that_comes_to_have_too_many_moves_into_pieces(book: Book, small: None) -> None:
    log_day(book, 0, 400, 60)
    book.log(MIDNIGHT + DAY, 1.0)
    book.flush()
    assert book.count("SELECT count(*) FROM pieces") == 0
    book.append([[KEY, MIDNIGHT + 30 + number * 60, None, 500.0, "ok"] for number in range(400)])
    book.log(MIDNIGHT + 2 * DAY, 1.0)
    book.flush()
    assert book.count("SELECT count(*) FROM pieces") == 80
    assert counted(book, MIDNIGHT, MIDNIGHT + DAY - 1) == (800, 0, 500)
    assert len(book.rows(MIDNIGHT, MIDNIGHT + DAY - 1)) == 800
    # Without their rollups these are made anew.
    spoil(book, "DELETE FROM minutes")
    book.append([[KEY, MIDNIGHT + 45, None, 501.0, "ok"]])
    book.log(MIDNIGHT + 3 * DAY, 1.0)
    book.flush()
    assert counted(book, MIDNIGHT, MIDNIGHT + DAY - 1, 100) == (801, 0, 501)
    book.good("forget", KEY)
    assert book.count("SELECT count(*) FROM pieces") == 0


def test_pieces_are_kept_as_long_as_single_readings(small: None) -> None:
    with a_book(Watch(MIDNIGHT + 30 * DAY), raw_days=2, five_minute_days=4, hour_days=6) as book:
        for day in range(8):
            log_day(book, day, 600, 60)
        book.log(MIDNIGHT + 8 * DAY, 1.0)
        book.flush()
        first = (MIDNIGHT // DAY + 6) * 288
        assert book.count("SELECT min(id) >> 12 FROM pieces") == first
        assert book.rows(0, MIDNIGHT + 6 * DAY - 1) == []
        assert counted(book, MIDNIGHT + 4 * DAY, MIDNIGHT + 5 * DAY - 1, 300)[0] == 600


def test_a_chart_of_very_many_readings_is_made_from_rollups(book: Book, small: None) -> None:
    log_day(book, 0, 4000, 20)
    span = (MIDNIGHT, MIDNIGHT + 20_000)
    answer = book.good("query", KEY, *span, 2000)
    assert (answer["level"], answer["step"]) == (300, 300)
    answer = book.good("query", KEY, MIDNIGHT, MIDNIGHT + 600, 2000)
    assert (answer["step"], len(answer["points"])) == (0, 31)
    assert query.MOST_PIECES * 300 < 20_000


def test_more_than_a_piece_can_hold_is_told(book: Book, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MOST_OF_PIECE", 300)
    log_day(book, 0, 1000, 0.25)
    book.log(MIDNIGHT + DAY, 1.0)
    book.flush()
    assert len(book.rows(MIDNIGHT, MIDNIGHT + DAY - 1)) == 300
    assert counted(book, MIDNIGHT, MIDNIGHT + DAY - 1)[0] == 300
    assert "readings of 5 minutes that had more than 300" in book.logger.conditions["missing"]


def test_what_is_packed_can_be_unpacked_up_to_the_same_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "MOST_BYTES", 17 * 1000)
    rows = Rows()
    for number in range(1000):
        rows.add(number, 1.0, OK, 60)
    assert len(Rows.unpack(0, rows.pack())) == 1000
    rows.add(1000, 1.0, OK, 60)
    with pytest.raises(BadTable, match="1001 rows are too many"):
        rows.pack()


def test_readings_of_a_busy_series_do_not_wait_for_the_clock_without_end(
    small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folding, "MOST_WAITING", 3000)
    with a_book(Watch(MIDNIGHT, trusted=False)) as book:
        log_day(book, 0, 4000, 0.3)
        assert book.count("SELECT sum(length(data)) FROM journal") < 20_000
        assert len(book.rows()) == 4000


# Days of which the single readings are gone


def test_a_late_reading_of_a_day_without_single_readings_is_old() -> None:
    clock = Watch(NOON)
    with a_book(clock, raw_days=2, five_minute_days=700, hour_days=700) as book:
        for _ in range(8):
            book.log(clock.time, 20.0)
            book.flush()
            clock.go(DAY)
        book.stop()
        book.settings = {"raw_days": 30, "five_minute_days": 700, "hour_days": 700}
        book.logger = book._start()
        for _ in range(2):
            answer = book.append([[KEY, NOON + DAY + 60, None, 90.0, "ok"]])
            assert (answer["kept"], answer["old"]) == (0, 1)
            book.log(clock.time, 20.0)
            book.flush()
            clock.go(DAY)
        assert counted(book, NOON + DAY / 2, NOON + 1.4 * DAY) == (1, 20, 20)
        # A day of which there is nothing at all has nothing to be counted twice.
        assert book.append([[OTHER, NOON + DAY + 60, None, 90.0, "ok"]])["kept"] == 1


def test_a_row_that_cannot_be_read_is_told_and_nothing_of_it_counted_twice(book: Book) -> None:
    for number in range(50):
        book.log(NOON + number * 60, 20.0 + number)
    book.flush()
    book.log(NOON + DAY, 1.0)
    book.flush()
    spoil(book, "UPDATE raw SET data = CAST(substr(data, 1, length(data) - 5) || x'0102030405' AS BLOB)")
    for _ in range(2):
        assert book.append([[KEY, NOON + 30, None, 7.0, "ok"]])["old"] == 1
    book.log(NOON + 2 * DAY, 1.0)
    book.flush()
    assert [row[1] for row in book.rows()] == [1, 1]
    assert counted(book, NOON - DAY / 2, NOON + DAY / 2 - 1) == (50, 20, 69)
    assert f"{KEY}: a row of raw from 2024-10-04 that cannot be read" in book.logger.conditions["missing"]


def test_a_row_of_the_journal_that_cannot_be_read_is_told(book: Book) -> None:
    for second in range(2):
        book.log(NOON + second, 1.0)
        book.flush()
    spoil(book, "UPDATE journal SET data = x'07' WHERE id = (SELECT min(id) FROM journal)")
    book.log(NOON + DAY, 1.0)
    book.flush()
    assert len(book.rows()) == 2
    assert "of journal that cannot be read" in book.logger.conditions["missing"]


def test_a_piece_that_cannot_be_read_is_told(book: Book, small: None) -> None:
    log_day(book, 0, 1000, 60)
    book.log(MIDNIGHT + DAY, 1.0)
    book.flush()
    spoil(book, "UPDATE pieces SET data = x'07' WHERE id = (SELECT min(id) FROM pieces)")
    book.append([[KEY, MIDNIGHT + 30, None, -5.0, "ok"], [KEY, MIDNIGHT + 330, None, -7.0, "ok"]])
    for day in (2, 3):
        assert counted(book, MIDNIGHT, MIDNIGHT + DAY - 1) == (1001, -7, 999)
        assert len(book.rows(MIDNIGHT, MIDNIGHT + DAY - 1)) >= 996
        book.log(MIDNIGHT + day * DAY, 1.0)
        book.flush()
    assert "a row of pieces from " in book.logger.conditions["missing"]


# Days ahead


def test_days_of_a_clock_that_was_ahead_go_as_others_do() -> None:
    with a_book(Watch(NOON), raw_days=3, five_minute_days=5, hour_days=7) as book:

        def log(first: int, count: int) -> None:
            for day in range(first, first + count):
                book.log(NOON + day * DAY, float(day), hold=3600)
                book.flush()

        def days(table: str) -> int:
            return book.count(f"SELECT count(DISTINCT id >> 12) FROM {table}")

        log(0, 10)
        log(8000, 4)
        log(10, 1)
        assert [row[1] for row in book.rows() if row[1] > 1000] == [8001, 8002, 8003]
        log(11, 2)
        book.restart()
        assert max(row[1] for row in book.rows()) == 8003
        log(13, 2)
        assert (days("raw"), max(row[1] for row in book.rows())) == (3, 14)
        assert days("days") > 7
        log(15, 10)
        assert (days("raw"), days("minutes"), days("hours"), days("days")) == (3, 5, 7, 7)


def test_a_clock_that_nobody_vouches_for_costs_no_history_however_long_it_is_behind() -> None:
    clock = Watch(NOON, trusted=False)
    with a_book(clock, raw_days=2, five_minute_days=2, hour_days=2) as book:
        for day in range(3):
            book.append([[KEY, NOON + day * DAY, None, float(day), "ok"]])
        for day in range(20):
            clock.time, clock.went = day * DAY, day * DAY
            book.logger.look_at_clock()
            book.log(day * DAY, -1.0)
            book.flush()
        assert {row[1] for row in book.rows(NOON - DAY)} >= {1, 2}


# What waits for the disk


def test_what_is_given_up_is_the_oldest_whatever_series_it_is_of() -> None:
    recent = Recent()
    for number in range(MOST_ROWS):
        recent.add(KEY, "", number, 1.0, OK, 60)
        if number % 1000 == 999:
            recent.add(OTHER, "", number, 1.0, OK, 60)
    # Of both the older half went, once.
    assert min(recent.of(KEY).times) == pytest.approx(MOST_ROWS / 2, abs=100)
    assert min(recent.of(OTHER).times) == pytest.approx(MOST_ROWS / 2, abs=1000)
    assert recent.count + recent.lost == MOST_ROWS + MOST_ROWS // 1000


def test_readings_of_one_time_can_be_given_up_too() -> None:
    recent = Recent()
    for number in range(MOST_ROWS + 10):
        recent.add(KEY, "", 5, float(number), OK, 60)
    assert (recent.count, recent.lost) == (10, MOST_ROWS)
    assert list(recent.of(KEY).values) == [MOST_ROWS + number for number in range(10)]


def test_a_page_is_no_longer_than_it_may_be(book: Book) -> None:
    book.append([[KEY, NOON, None, float(number), "ok"] for number in range(2500)])
    book.append([[KEY, NOON + 1, None, float(number), "ok"] for number in range(10)])
    found, place, skip = [], 0.0, 0
    while place is not None:
        page = book.good("rows", KEY, place, 1e11, 700, skip)
        assert len(page["rows"]) <= 700
        found += page["rows"]
        place, skip = page["next"], page["skip"]
    assert [value for _, value, _ in found] == [*range(2500), *range(10)]
    assert book.ask("rows", KEY, 0, 1, 10, -1)[1] == "400"
