"""The logger: what is logged is found again, at every level, whatever clocks and restarts do."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raspy.common.config import Config, ConfigError
from raspy.common.devices.value import Value
from raspy.common.kvcliapi import KvPublisher
from raspy.servers.logger import LoggerConfig, journal
from raspy.servers.logger import logger as logger_module
from raspy.servers.logger.schema import LEVELS
from tests.servers.logger_stage import DAY, KEY, NOON, OTHER, Book, Watch, a_book
from tests.support_devices import broker

GOOD = "ok"


@pytest.fixture
def book() -> Iterator[Book]:
    with a_book(Watch(NOON + 30 * DAY)) as made:
        yield made


def values(rows: list[list[Any]]) -> list[Any]:
    return [value for _, value, _ in rows]


# What comes in and goes out


def test_recent_readings_are_answered_from_memory(book: Book) -> None:
    book.settle()
    commits = book.logger.storage.commits  # of the opening of the file
    for minute in range(10):
        book.log(NOON + minute * 60, 20 + minute)
    assert [point[:2] for point in book.points(NOON, NOON + 599)] == [[NOON + m * 60, 20 + m] for m in range(10)]
    assert book.logger.storage.commits == commits
    assert book.good("keys") == {"keys": [{"key": KEY, "unit": "°C"}]}
    book.log(NOON + 600, 99.0, OTHER)
    assert values(book.rows(key=OTHER)) == [99]


def test_what_was_written_is_there_after_a_restart(book: Book) -> None:
    book.log(NOON, 1.5)
    book.flush()
    book.log(NOON + 60, 2.5)
    book.restart()  # a stop writes
    assert book.rows() == [[NOON, 1.5, GOOD], [NOON + 60, 2.5, GOOD]]
    assert book.good("keys")["keys"] == [{"key": KEY, "unit": "°C"}]


def test_quality_is_kept_and_is_never_a_number(book: Book) -> None:
    book.log(NOON, 1.5)
    book.log(NOON + 60, None, quality="error")
    book.log(NOON + 120, None, quality="stale")
    book.log(NOON + 180, 2.5)
    wanted = [[NOON, 1.5, GOOD], [NOON + 60, None, "error"], [NOON + 120, None, "stale"], [NOON + 180, 2.5, GOOD]]
    assert book.rows() == wanted
    book.restart()
    assert book.rows() == wanted
    [bucket] = [point for point in book.points(NOON - 10 * DAY, NOON + DAY) if point[6] != "gap"]
    assert bucket[1:] == [2.0, 1.5, 2.5, 2, 2, "error"]


def test_a_gap_stays_a_gap(book: Book) -> None:
    for minute in (0, 1, 2, 10, 11):
        book.log(NOON + minute * 60, 20.0, hold=90)
    found = [[when - NOON, mean, quality] for when, mean, *_, quality in book.points(NOON, NOON + 11 * 60)]
    assert found == [
        [0, 20, GOOD],
        [60, 20, GOOD],
        [120, 20, GOOD],
        [210, None, "gap"],
        [600, 20, GOOD],
        [660, 20, GOOD],
    ]


def test_a_gap_is_seen_in_rollups_and_at_the_end(book: Book) -> None:
    for hour in (*range(5), *range(15, 20)):
        book.log(NOON + hour * 3600, 20.0, hold=3600)
    points = book.points(NOON, NOON + DAY, 30)
    assert [(point[0] - NOON) / 3600 for point in points if point[6] == "gap"] == [5, 20]
    assert [(point[0] - NOON) / 3600 for point in points if point[1] is not None] == [*range(5), *range(15, 20)]


def test_what_is_still_good_now_is_no_gap(book: Book) -> None:
    now = book.logger.now() / 1000
    book.log(now - 120, 20.0, hold=60)
    book.log(now - 30, 21.0, hold=60)
    assert [point[6] for point in book.points(now - 3600, now + 3600)] == [GOOD, "gap", GOOD]


def test_values_of_the_tree_that_say_so_are_logged(book: Book) -> None:
    now = book.logger.now() / 1000

    def told(name: str, value: Value) -> None:
        book.logger.on_change(f"/device/pi.fake.x/{name}", value.encode())

    told("number", Value.ok(1.25, "m", time=now, log=True))
    told("number", Value.error("broken", "m", time=now + 1, log=True))
    told("switch", Value.ok(True, time=now, log=True))
    told("whole", Value.ok((1 << 63) - 1, time=now, log=True))
    told("text", Value.ok("hello", time=now, log=True))
    told("list", Value.ok([1], time=now, log=True))
    told("quiet", Value.ok(1.0, time=now))
    told("broken", Value.error("no number is known of it", time=now, log=True))
    book.logger.on_change("/device/pi.fake.x/gone", b"")
    book.logger.on_change("/device/pi.fake.x/other", b"{}")
    book.logger.on_change("/device/pi.fake.x/other", b'{"log":true}')
    for _ in range(2):
        keys = {each["key"].rpartition("/")[2]: each["unit"] for each in book.good("keys")["keys"]}
        assert keys == {"number": "m", "switch": "", "whole": ""}
        book.flush()
    assert book.rows(key="/device/pi.fake.x/number") == [[now, 1.25, GOOD], [now + 1, None, "error"]]
    assert values(book.rows(key="/device/pi.fake.x/switch")) == [1]
    assert values(book.rows(key="/device/pi.fake.x/whole")) == [2.0**63]


@pytest.mark.parametrize(
    ("off", "max_age", "kept"),
    [(0, 30, 0), (-50, 30, -50), (50, 30, 50), (-61, 30, 0), (61, 30, 0), (-1800, 3600, -1800), (-4000, 3600, 0)],
)
def test_a_time_that_cannot_be_is_now(book: Book, off: float, max_age: float, kept: float) -> None:
    now = book.logger.now() / 1000
    book.logger.on_change(KEY, Value.ok(1.0, "°C", max_age, now + off, log=True).encode())
    assert [row[0] for row in book.rows()] == [now + kept]


def test_a_stale_value_is_stale_now_and_not_at_its_last_reading(book: Book) -> None:
    now = book.logger.now() / 1000
    body = {"last": 1.0, "time": now - 40, "max_age": 30, "quality": "stale", "reason": "silent", "log": True}
    book.logger.on_change(KEY, Value.ok(1.0, "°C", 30, now - 40, log=True).encode())
    book.logger.on_change(KEY, json.dumps(body).encode())
    assert book.rows() == [[now - 40, 1, GOOD], [now, None, "stale"]]


def test_it_follows_the_tree_of_a_broker() -> None:
    with broker() as address, a_book() as book:
        book.logger.broker_ip = address
        book.logger.subscriber = logger_module.KvSubscriber(book.logger, "/device", book.logger.on_change)
        publisher = KvPublisher(book.logger)
        publisher.send(KEY, Value.ok(21.5, "°C", log=True).encode())
        book.until(lambda: book.logger.recent.count)
        assert values(book.rows()) == [21.5]
        publisher.close()


# Levels


def test_a_query_chooses_its_level(book: Book) -> None:
    first = NOON // DAY * DAY
    for minute in range(0, 40 * 1440, 20):
        book.log(first + minute * 60, minute / 1440, hold=3600)
        if minute % 1440 == 0:
            book.flush()
    book.log(first + 41 * DAY, 0.0)
    book.flush()
    end = first + 40 * DAY
    found = {}
    for span, count in ((3600, 400), (DAY, 100), (10 * DAY, 400), (40 * DAY, 400), (40 * DAY, 20)):
        answer = book.good("query", KEY, end - span, end - 1, count)
        assert len(answer["points"]) <= count
        good = [point for point in answer["points"] if point[4]]
        assert sum(point[4] for point in good) >= span / 1200
        found[span, count] = answer["level"], answer["step"]
    assert found == {
        (3600, 400): (0, 0),
        (DAY, 100): (300, 900),
        (10 * DAY, 400): (3600, 3600),
        (40 * DAY, 400): (3600, 10800),
        (40 * DAY, 20): (86400, 345600),
    }


readings = st.lists(
    st.tuples(
        st.integers(0, 3 * DAY * 2).map(lambda n: n / 2),
        st.floats(-1e6, 1e6).map(lambda value: round(value, 3)) | st.none(),
    ),
    min_size=1,
    max_size=40,
)
STEPS = st.lists(st.tuples(st.sampled_from(("log", "log", "append", "restart", "flush")), readings), max_size=6)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS)
def test_every_level_is_what_it_is_by_hand(steps: list[tuple[str, list[tuple[float, float | None]]]]) -> None:
    """Readings in any order, live and late, over restarts and the ends of days, each told twice."""
    base = NOON // DAY * DAY
    told: set[tuple[int, float | None]] = set()
    with a_book(Watch(base + 4 * DAY)) as book:
        book.log(base, 0.0)  # a series begins with a number
        told.add((base * 1000, 0.0))
        for what, found in steps:
            told |= {(round((base + at) * 1000), value) for at, value in found if what in ("log", "append")}
            if what == "log":
                for at, value in found:
                    book.log(base + at, value)
            elif what == "append":
                late = [[KEY, base + at, None, value, GOOD if value is not None else "error"] for at, value in found]
                for _ in range(2):
                    assert book.append(late)["kept"] == len(found)
            elif what == "restart":
                book.restart()
            else:
                book.flush()
        assert_all(book, base, told)
        book.restart()
        book.log(base + 5 * DAY, 1.0)  # the days before are over
        book.flush()
        assert_all(book, base, told)


def assert_all(book: Book, base: int, told: set[tuple[int, float | None]]) -> None:
    rows = [(round(when * 1000), value) for when, value, _ in book.rows(base, base + 4 * DAY)]
    assert [when for when, _ in rows] == sorted(when for when, _ in told)
    assert set(rows) == told
    for count in (2000, 400, 70, 10):
        answer = book.good("query", KEY, base, base + 3 * DAY, count)
        step = round(answer["step"] * 1000)
        if not step:
            continue
        assert step >= next((level.step for level in LEVELS if level.step == round(answer["level"] * 1000)), 0)
        groups: dict[int, list[float | None]] = {}
        for when, value in told:
            if when <= (base + 3 * DAY) * 1000:
                groups.setdefault(when // step * step, []).append(value)
        points = {round(point[0] * 1000): point[1:] for point in answer["points"] if point[6] != "gap"}
        assert set(points) == set(groups)
        for start, group in groups.items():
            mean, low, high, good, bad, quality = points[start]
            numbers = [value for value in group if value is not None]
            assert (good, bad) == (len(numbers), len(group) - len(numbers))
            assert quality == (GOOD if not bad else "error")
            assert (low, high) == ((min(numbers), max(numbers)) if numbers else (None, None))
            if numbers:
                assert math.isclose(mean, math.fsum(numbers) / len(numbers), rel_tol=1e-6, abs_tol=1e-3)


# Retention


def test_old_levels_go_and_the_file_does_not_grow_for_ever() -> None:
    with a_book(Watch(NOON + 100 * DAY), raw_days=3, five_minute_days=6, hour_days=12) as book:
        sizes = []
        for day in range(60):
            for hour in range(24):
                book.log(NOON + day * DAY + hour * 3600, float(day), hold=3600)
            book.flush()
            sizes.append(book.count("PRAGMA page_count"))
        assert max(sizes[30:]) == max(sizes[:30])
        end = NOON + 60 * DAY
        assert {int(value) for value in values(book.rows())} == {56, 57, 58, 59}  # of these the last is not over
        assert min(point[0] for point in book.points(end - 5.5 * DAY, end, 1900)) >= end - 7 * DAY
        points = book.points(0, end, 400)
        assert len({int(point[0] // DAY) for point in points if point[4]}) <= 14
        # A day of which the single readings are gone is answered from what there is.
        start = NOON + 50 * DAY
        answer = book.good("query", KEY, start, start + 3600, 400)
        assert answer["level"] == 3600
        assert [point[1] for point in answer["points"] if point[4]] == [50.0, 50.0]


def test_a_series_of_which_nothing_is_left_is_gone() -> None:
    with a_book(Watch(NOON + 100 * DAY), raw_days=1, five_minute_days=1, hour_days=2) as book:
        book.log(NOON, 1.0, OTHER)
        for day in range(6):
            book.log(NOON + day * DAY, 1.0)
            book.flush()
        assert [each["key"] for each in book.good("keys")["keys"]] == [KEY]
        assert book.ask("query", OTHER, 0, NOON)[1] == "404"


def test_a_clock_that_jumps_ahead_by_years_costs_no_history() -> None:
    clock = Watch(NOON)
    with a_book(clock, raw_days=5, five_minute_days=5, hour_days=5) as book:
        for when in (NOON, NOON + DAY, NOON + 2 * DAY, NOON + 30_000 * DAY, NOON + 2 * DAY + 60, NOON + 3 * DAY):
            clock.time = when
            book.logger.on_change(KEY, Value.ok(when, time=when, log=True).encode())
            book.flush()
        wanted = [NOON, NOON + DAY, NOON + 2 * DAY, NOON + 2 * DAY + 60, NOON + 3 * DAY, NOON + 30_000 * DAY]
        assert values(book.rows()) == wanted
        clock.time = DAY  # a day of 1970
        book.logger.on_change(KEY, Value.ok(1.0, time=DAY, log=True).encode())
        book.flush()
        assert values(book.rows()) == [1.0, *wanted]


# Clocks


def test_a_clock_that_is_set_back_and_forward_loses_nothing_and_keeps_the_order() -> None:
    clock = Watch(NOON)
    with a_book(clock) as book:
        told = []
        for minute in range(60):
            if minute in (20, 40):
                clock.time += -600 if minute == 20 else 1200
            clock.go(60)
            book.logger.look_at_clock()
            told.append((clock.time, minute))
            book.logger.on_change(KEY, Value.ok(minute, time=clock.time, log=True).encode())
            if minute % 5 == 0:
                book.flush()
        rows = book.rows()
        assert [row[0] for row in rows] == sorted(row[0] for row in rows)
        assert sorted((row[0], row[1]) for row in rows) == sorted(told)
        assert sum(point[4] for point in book.points(NOON - DAY, NOON + DAY)) == 60


def test_what_was_logged_before_the_clock_was_right_is_moved() -> None:
    clock = Watch(NOON, trusted=False)
    with a_book(clock) as book:
        for minute in range(10):  # at the wrong time
            clock.go(60)
            book.log(clock.time, float(minute))
            if minute == 4:
                book.flush()
            book.logger.look_at_clock()
        clock.time += 3 * DAY
        book.logger.look_at_clock()  # set, and not known yet to be right
        clock.go(60)
        book.log(clock.time, 10.0)
        clock.right = True
        book.logger.look_at_clock()
        clock.go(60)
        book.log(clock.time, 11.0)
        book.settle()
        wanted = [[NOON + 3 * DAY + (minute + 1) * 60, minute, GOOD] for minute in range(12)]
        assert book.rows() == wanted
        book.restart()
        assert book.rows() == wanted


def test_what_a_boot_has_logged_is_moved_by_the_next_process_of_it() -> None:
    clock = Watch(NOON, trusted=False)
    with a_book(clock) as book:
        book.log(clock.time, 1.0)
        book.stop()
        clock.time += DAY
        clock.right = True
        book.logger = book._start()
        book.settle()
        assert book.rows() == [[NOON + DAY, 1, GOOD]]


def test_what_another_boot_has_logged_stays_where_it_is() -> None:
    clock = Watch(NOON, trusted=False)
    with a_book(clock) as book:
        book.log(clock.time, 1.0)
        book.stop()
        book.clock = Watch(NOON + DAY, boot_id="c" * 32)
        book.logger = book._start()
        book.settle()
        assert book.rows() == [[NOON, 1, GOOD]]


def test_readings_of_an_unknown_clock_are_not_put_into_their_days_at_once() -> None:
    clock = Watch(NOON, trusted=False)
    with a_book(clock) as book:
        for day in range(8):
            clock.time = NOON + day * DAY
            clock.went = 1000 + day * DAY
            book.log(clock.time, float(day))
            book.flush()
        clock.time += 100 * DAY
        clock.right = True
        book.logger.look_at_clock()
        book.settle()
        moved = [round((when - NOON) / DAY) for when, _, _ in book.rows()]
        assert moved == [0, 1, 2, 3, 104, 105, 106, 107]


# Bounds and hostile requests


def test_no_more_than_4095_series(book: Book) -> None:
    for number in range(4100):
        book.log(NOON, float(number), f"/device/pi.x.{number:04d}/value")
        if number == 2000:
            book.flush()
    book.flush()
    assert len(book.good("keys")["keys"]) == 4095
    assert "5 more are not kept" in book.logger.conditions["series"]
    assert values(book.rows(key="/device/pi.x.4094/value")) == [4094]
    assert book.ask("rows", "/device/pi.x.4099/value", 0, 1e11)[1] == "404"
    book.log(NOON + DAY, 1.0, "/device/pi.x.0000/value")
    book.flush()
    assert values(book.rows(key="/device/pi.x.0000/value")) == [0, 1]
    book.good("forget", "/device/pi.x.0001/value")
    book.log(NOON, 7.0, "/device/pi.x.4099/value")
    book.flush()
    assert values(book.rows(key="/device/pi.x.4099/value")) == [7]
    assert book.ask("rows", "/device/pi.x.0001/value", 0, 1e11)[1] == "404"


def test_many_readings_are_written_before_they_fill_the_memory(book: Book) -> None:
    commits = book.logger.storage.commits
    for number in range(logger_module.MOST_WAITING):
        book.log(NOON + number, 1.0)
    assert book.logger.recent.count == 0
    book.settle()
    assert book.logger.storage.commits > commits


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("query",), "usage"),
        (("query", KEY, "yesterday", "1"), "since: a Unix time in s, not 'yesterday'"),
        (("query", KEY, "1", "nan"), "until: a Unix time in s, not 'nan'"),
        (("query", KEY, "inf", "1"), "since: a Unix time"),
        (("query", KEY, "1", "1" * 400), "until: a Unix time"),
        (("query", KEY, "2", "1"), "since (2) is after until (1)"),
        (("query", KEY, "1", "2", "0"), "points: a whole number from 10 to 2000"),
        (("query", KEY, "1", "2", "1e9"), "points: a whole number"),
        (("query", KEY, "1", "2", "-5"), "points: a whole number"),
        (("query", KEY, "1", "2", "99999999999999999999"), "points: a whole number"),
        (("query", KEY, "1", "2", "²0"), "points: a whole number"),
        (("rows", KEY, "1", "2", "0"), "limit: a whole number from 1 to 10000"),
        (("rows", KEY, "1", "2", "10001"), "limit: a whole number"),
        (("append", "{"), "append: this is not understood"),
        (("append", "[]"), "append: this is not understood"),
        (("append", '{"host":"","boot":"1","trusted":true,"rows":[]}'), "host is 1 to 64"),
        (("append", '{"host":"x","boot":"\\u0000","trusted":true,"rows":[]}'), "boot is 1 to 64"),
        (("append", '{"host":"x","boot":"1","trusted":1,"rows":[]}'), "append: this is not understood"),
        (("append", '{"host":"x","boot":"1","trusted":true,"rows":[' + "1," * 10_000 + "1]}"), "at most 10000"),
        (("append", "[" * 100_000), "append: this is not understood"),
    ],
)
def test_what_cannot_be_asked_is_refused(book: Book, words: tuple[str, ...], says: str) -> None:
    book.log(NOON, 1.0)
    answer, status = book.ask(*words)
    assert (status, says in answer) == ("400", True), answer


@pytest.mark.parametrize("key", ["", "/", "x" * 5000, "/device/%", "' OR 1=1 --", "\x00", "/device/none/none"])
def test_an_unknown_key_is_said_to_be_unknown(book: Book, key: str) -> None:
    book.log(NOON, 1.0)
    for words in (("query", key, "0", "1"), ("rows", key, "0", "1"), ("forget", key)):
        answer, status = book.ask(*words)
        assert status == "404"
        assert "there is no history of" in answer
        assert len(answer) < 300


@pytest.mark.parametrize(("since", "until"), [("-1e300", "1e300"), ("0", "1e18"), ("-5", "0"), ("1e17", "1e18")])
def test_times_far_away_are_answered(book: Book, since: str, until: str) -> None:
    for day in range(5):
        book.log(NOON + day * DAY, float(day))
        book.flush()
    answer = book.good("query", KEY, since, until, 2000)
    assert len(answer["points"]) <= 2000
    assert sum(point[4] for point in answer["points"]) == (5 if float(until) > NOON > float(since) else 0)
    assert len(book.good("rows", KEY, since, until)["rows"]) == (5 if float(until) > NOON > float(since) else 0)


def test_pages_lose_and_repeat_nothing(book: Book) -> None:
    told = []
    for number in range(300):
        when = NOON + number // 3 * 600  # three of one time
        told.append([when, number, GOOD])
        book.log(when, float(number))
        if number % 100 == 0:
            book.flush()
    for limit in (1, 2, 7, 299, 300, 301):
        found: list[Any] = []
        place, skip = 0.0, 0
        while place is not None:
            page = book.good("rows", KEY, place, 1e11, limit, skip)
            assert len(page["rows"]) <= limit
            found += page["rows"]
            place, skip = page["next"], page["skip"]
        assert sorted(found) == sorted(told)
        assert [row[0] for row in found] == [row[0] for row in told]


def test_values_of_any_size_are_kept(book: Book) -> None:
    extremes = [1.7e308, -1.7e308, 5e-324, 0.0, 1.7e308, 1e-300]
    for number, value in enumerate(extremes):
        book.log(NOON + number, value)
    assert values(book.rows()) == extremes
    book.restart()
    assert values(book.rows()) == extremes
    [bucket] = [point for point in book.points(NOON - 30 * DAY, NOON + 30 * DAY, 10) if point[4]]
    assert bucket[2:5] == [-1.7e308, 1.7e308, 6]
    assert math.isfinite(bucket[1])


def test_a_day_of_many_series_is_folded_in_parts(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raspy.servers.logger.folding.AT_ONCE", 3)
    for day in range(2):
        for number in range(10):
            book.log(NOON + day * DAY, float(number), f"/device/pi.x.{number}/value")
        book.flush()
    assert book.count("SELECT count(*) FROM journal") == 10
    assert all(values(book.rows(key=f"/device/pi.x.{n}/value")) == [n, n] for n in range(10))


def test_a_damaged_row_costs_no_other(book: Book) -> None:
    for day in range(4):
        book.log(NOON + day * DAY, float(day))
        book.flush()

    def spoil(connection: Any, items: list[None]) -> list[None]:
        connection.execute("UPDATE raw SET data = x'01abcdef' WHERE id >> 12 = ?", (NOON // DAY + 1,))
        connection.execute("UPDATE minutes SET data = x'' WHERE id >> 12 = ?", (NOON // DAY + 1,))
        return items

    book.logger.storage.write(spoil, None, lambda *_: None)
    book.settle()
    assert values(book.rows()) == [0, 2, 3]
    assert len([p for p in book.points(NOON - DAY, NOON + 4 * DAY, 300) if p[4]]) == 3


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"five_minute_days.*at least raw_days, which is 90 \(got 30\)"):
        Config({"logger": {"five_minute_days": 30}}).section(LoggerConfig)
    with pytest.raises(ConfigError, match=r"batch.*10"):
        Config({"logger": {"batch": 1}}).section(LoggerConfig)


def test_a_write_that_the_statement_fails_is_told_and_the_next_one_goes_on(
    book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    book.settle()
    monkeypatch.setattr(journal, "keep_one", lambda *_: 1 / 0)
    book.log(NOON, 1.0)
    book.flush()
    assert "1 readings were given up" in book.logger.conditions["lost"]
    monkeypatch.undo()
    book.log(NOON + 1, 2.0)
    book.flush()
    assert "lost" not in book.logger.conditions
    assert values(book.rows()) == [2]
    assert book.logger.errors == 1
    book.logger.errors = 0


def test_statistics_tell_what_waits(book: Book) -> None:
    book.log(NOON, 1.0)
    assert book.logger.statistics()["logger.waiting"] == 1
    book.flush()
    found = book.logger.statistics()
    assert (found["logger.waiting"], found["logger.rows"], found["logger.lost"]) == (0, 1, 0)


def test_what_is_read_and_written_does_not_grow_with_the_history(book: Book) -> None:
    """A scaled-down year: what the benchmark measures as times and bytes, as counts of rows and pages."""
    series = [f"/device/pi.x.{number}/value" for number in range(10)]
    written = []
    for day in range(40):
        for hour in range(24):
            for key in series:
                book.log(NOON + day * DAY + hour * 3600, (day * 31 + hour * 7) % 19 / 16, key, hold=3600)
            if hour % 8 == 7:
                book.flush()
                written.append(book.count("SELECT count(*) FROM journal"))
    assert max(written) <= 10 * 3 * 3  # of each series so many batches of a day, and of one that begins in between
    assert book.count("SELECT count(*) FROM raw") <= 10 * 41
    assert book.count("SELECT sum(length(data)) FROM raw") / (40 * 240) < 8  # bytes for each reading
    assert book.count("SELECT max(length(data)) FROM days") < 100

    steps = 0

    def look(connection: Any) -> None:
        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        connection.set_progress_handler(count, 10)

    book.logger.storage.database.read(look)
    spent = {}
    for name, span in (("week", 7), ("month", 30), ("all", 36_500)):
        steps = 0
        book.points(NOON + 38 * DAY - span * DAY, NOON + 38 * DAY, 100, series[0])
        spent[name] = steps * 10
    assert 0 < max(spent.values()) < 10_000, f"steps of SQLite, which looks only for what there is: {spent}"
