"""What happened is kept: in its order, bounded, over restarts, wrong clocks and damaged files."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raspy.common.config import Config, ConfigError
from raspy.common.executive import Executive
from raspy.common.kvcliapi import KvPublisher
from raspy.servers.logger import LoggerConfig, events
from raspy.servers.logger import logger as logger_module
from raspy.servers.logger.schema import SCHEMAS
from tests.servers.logger_stage import DAY, NOON, Book, Watch, a_book
from tests.support_devices import broker
from tests.support_processes import wait_for
from tests.support_titanic import Site, ask, site

HEATER = "output/pi.fake.heater"
NOW = NOON + 30 * DAY


@pytest.fixture
def book() -> Iterator[Book]:
    with a_book(Watch(NOW)) as made:
        yield made


def happens(book: Book, name: str = HEATER, when: float | None = None, **body: Any) -> None:
    """An event comes in from the tree."""
    told = {"time": book.logger.now() / 1000 if when is None else when, **body}
    book.logger.on_event(f"/event/{name}", json.dumps(told).encode())


def page(book: Book, *words: object) -> list[dict[str, Any]]:
    return list(book.good("events", *words)["events"])


def numbers(found: list[dict[str, Any]]) -> list[Any]:
    return [event["body"]["n"] for event in found]


def test_an_event_is_answered_from_memory_and_from_the_file_newest_first(book: Book) -> None:
    happens(book, when=NOW - 20, n=1, state="held", by="heating", reason="told by heating")
    happens(book, "alarm/tank-high", when=NOW - 10, n=2)
    for _ in range(2):
        found = page(book)
        assert [(event["kind"], event["name"], event["time"]) for event in found] == [
            ("alarm", "tank-high", NOW - 10),
            ("output", "pi.fake.heater", NOW - 20),
        ]
        assert found[1]["body"] == {
            "time": NOW - 20, "n": 1, "state": "held", "by": "heating", "reason": "told by heating"
        }  # fmt: skip
        book.flush()
    book.restart()
    assert numbers(page(book)) == [2, 1]


def test_events_and_readings_share_one_commit(book: Book) -> None:
    book.log(NOW - 60, 20.0)
    book.flush()
    before = book.logger.storage.commits
    book.log(NOW - 5, 20.0)
    happens(book, n=1)
    book.flush()
    assert book.logger.storage.commits == before + 1
    assert book.count("SELECT count(*) FROM event") == 1


def test_what_was_gathered_before_it_died_is_lost_and_what_was_written_is_not(book: Book) -> None:
    happens(book, when=NOW, n=1)
    book.flush()
    happens(book, when=NOW, n=2)
    book.die()
    book.logger = book._start()
    assert numbers(page(book)) == [1]
    # The tree still has the last one of each name.
    happens(book, when=NOW, n=1)
    happens(book, when=NOW, n=2)
    book.flush()
    assert numbers(page(book)) == [2, 1]


def test_what_is_told_again_after_a_restart_counts_once(book: Book) -> None:
    body = json.dumps({"time": NOW - 5, "n": 1}).encode()
    for _ in range(2):
        book.logger.on_event(f"/event/{HEATER}", body)
        book.restart()
    assert numbers(page(book)) == [1]


def test_it_follows_the_events_of_a_broker_and_those_of_before_it_came() -> None:
    with broker() as address, a_book() as book:
        publisher = KvPublisher(book.logger)
        book.stop()
        for part in range(2):
            book.clock = None
            book.logger = book._start()
            book.logger.broker_ip = address
            for follower in (book.logger.subscriber, book.logger.happenings):
                assert follower is not None
                follower.close()
            publisher = KvPublisher(book.logger)
            book.logger.subscriber = None
            book.logger._follow(None, None)
            now = book.logger.now() / 1000
            publisher.send(f"/event/{HEATER}", json.dumps({"time": now, "n": part}).encode())
            book.until(lambda part=part: numbers(page(book))[:1] == [part])
            publisher.close()
            book.stop()
        book.logger = book._start()
        assert numbers(page(book)) == [1, 0]


def test_pages_follow_each_other_even_within_one_moment(book: Book) -> None:
    for number in range(50):
        happens(book, f"output/pi.fake.p{number}", when=NOW - 60 + number // 20, n=number)
        if number == 30:
            book.flush()
    whole = numbers(page(book))
    assert sorted(whole, reverse=True) == whole == list(range(49, -1, -1))
    found: list[Any] = []
    until, skip = "", 0
    while True:
        answer = book.good("events", "", "", until, 7, skip)
        found += numbers(answer["events"])
        if answer["next"] is None:
            break
        until, skip = repr(answer["next"]), answer["skip"]
    assert found == whole


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("", {1, 2, 3, 4, 5, 6}),
        ("output", {1, 2}),
        ("HEAT", {1, 5}),
        ("output/*", {1, 2}),
        ("*heater", {1, 5}),
        ("output/pi.fake.[hp]*", {1, 2}),
        ("heater*", set()),
        ("/device/pi.fake.heater/power", {1, 4}),
        ("/device/pi.fake.heater", {1, 4}),
        ("/device/pi.fake.heat", set()),
        ("/device/pi.fake.float/contact", {3}),
        ("%", set()),
        ("'; DROP TABLE event; --", set()),
        ("[", {6}),
    ],
)
def test_a_pattern_chooses_alike_in_memory_and_in_the_file(book: Book, pattern: str, wanted: set[int]) -> None:
    happens(book, n=1)
    happens(book, "output/pi.fake.pump", n=2)
    happens(book, "contact/pi.fake.float", n=3)
    happens(book, "alarm/hot", n=4, key="/device/pi.fake.heater/power")
    happens(book, "cron/heater", n=5)
    happens(book, "scenario/a[b", n=6)
    if pattern == "[":
        wanted = set()  # a class that is not closed is like nothing
    for _ in range(2):
        assert set(numbers(page(book, pattern))) == wanted
        book.flush()


def test_a_part_of_time_is_given(book: Book) -> None:
    for number in range(10):
        happens(book, when=NOW - 100 + number, n=number)
    assert numbers(page(book, "", NOW - 98, NOW - 95)) == [5, 4, 3, 2]
    assert numbers(page(book, "", "", NOW - 95, 2)) == [5, 4]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("x" * 301,), "pattern: at most 300"),
        (("", "soon"), "since: a Unix time"),
        (("", 5, 4), "is after until"),
        (("", "", "", 0), "limit: a whole number from 1"),
        (("", "", "", 1001), "limit: a whole number from 1"),
        (("", "", "", 1, -1), "skip: a whole number"),
    ],
)
def test_a_mistake_is_explained(book: Book, words: tuple[object, ...], says: str) -> None:
    answer, status = book.ask("events", *words)
    assert status == "400"
    assert says in answer


# What is kept


def test_only_the_kinds_of_the_settings_are_kept() -> None:
    with a_book(Watch(NOW), events=("press",)) as book:
        happens(book, n=1)
        happens(book, "press/pi.gpio.button", n=2)
        assert numbers(page(book)) == [2]
    with a_book(Watch(NOW), events=()) as book:
        assert book.logger.happenings is None


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"events": ["a b"]}, "is no kind of events"),
        ({"event_count": 5}, "event_count"),
        ({"event_days": 0}, "event_days"),
    ],
)
def test_wrong_settings_are_named(table: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Config({"logger": table}).section(LoggerConfig)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"1", b"{", b"\xff", b'{"a":"' + b"x" * 5000 + b'"}', b'{"a":' * 3000, b'{"time": NaN}'],
)
def test_what_is_no_event_costs_nothing(book: Book, body: bytes) -> None:
    happens(book, n=1)
    book.logger.on_event(f"/event/{HEATER}", body)
    for key in ("/event/output/", "/event/output", "/event/", "/event/output/a\nb", "/event/output/" + "x" * 300):
        book.logger.on_event(key, b'{"n": 2}')
    book.flush()
    assert numbers(page(book)) == [1]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | st.dictionaries(st.sampled_from(["time", "key", "n"]), st.floats() | st.text()).map(
    lambda body: json.dumps(body).encode()
))  # fmt: skip
def test_any_body_is_an_event_with_a_time_or_none(body: bytes) -> None:
    event = events.read("/event/output/x", body, events.KINDS, 1000.0, 60.0)
    assert event is None or 0 <= event.time <= 1_060_000


@pytest.mark.parametrize(("off", "kept"), [(-86_400, -86_400), (-1, -1), (59, 59), (61, 0), (1e9, 0)])
def test_the_time_is_that_of_the_event_unless_it_is_ahead(book: Book, off: float, kept: float) -> None:
    happens(book, when=NOW + off, n=1)
    assert page(book)[0]["time"] == NOW + kept


def test_without_a_time_it_was_now(book: Book) -> None:
    for stamp in (None, "soon", True, -5, 1e400):
        book.logger.on_event(
            f"/event/{HEATER}", json.dumps({"time": stamp, "n": 1}).replace("Infinity", "1e400").encode()
        )
    assert {event["time"] for event in page(book)} == {NOW}


# Clocks


def test_what_happened_before_the_clock_was_right_is_moved() -> None:
    clock = Watch(NOON, trusted=False)
    with a_book(clock) as book:
        happens(book, n=1)
        book.flush()
        clock.go(10)
        happens(book, n=2)
        happens(book, when=NOON - 5 * DAY, n=3)  # told late, by whom the time is not known
        happens(book, "alarm/late", when=NOON - 300, n=5)  # told late, of this boot
        clock.go(10)
        clock.time, clock.right = NOW, True
        book.logger.look_at_clock()
        happens(book, n=4)
        book.flush()
        found = {event["body"]["n"]: event["time"] for event in page(book)}
        assert found == {1: NOW - 20, 2: NOW - 10, 3: NOON - 5 * DAY, 4: NOW, 5: NOW - 320}
        assert book.count("SELECT count(*) FROM event WHERE clock <> 0") == 0
        # It is told again, with the time that it had.
        book.logger.on_event(f"/event/{HEATER}", json.dumps({"time": NOON, "n": 1}).encode())
        book.restart()
        book.logger.on_event(f"/event/{HEATER}", json.dumps({"time": NOON, "n": 1}).encode())
        assert sorted(event["body"]["n"] for event in page(book)) == [1, 1, 2, 3, 4, 5]


def test_a_boot_that_ended_before_its_clock_was_right_keeps_its_times() -> None:
    with a_book(Watch(NOON, trusted=False)) as book:
        book.log(NOON, 1.0)
        happens(book, n=1)
        book.restart()
        book.logger.clock = Watch(NOW, boot_id="c" * 32)
        book.stop()
        book.clock = Watch(NOW, boot_id="c" * 32)
        book.logger = book._start()
        book.log(NOW, 1.0)
        book.flush()
        assert [event["time"] for event in page(book)] == [NOON]
        assert book.count("SELECT count(*) FROM clock") == 0


# Bounds


def test_a_storm_of_one_name_keeps_its_begin_and_its_end(book: Book) -> None:
    for number in range(10_000):
        happens(book, n=number)
        if number % 100 == 0:
            happens(book, "alarm/quiet", n=-number)
    gathered = book.logger.recent.gathering.events.events
    assert len(gathered) == 2 * events.MOST_OF_NAME
    book.flush()
    found = page(book, "output", "", "", 1000)
    assert sorted(numbers(found)) == [*range(events.MOST_OF_NAME - 1), 9999]
    assert [event["left_out"] for event in found if "left_out" in event] == [10_000 - events.MOST_OF_NAME]
    assert len(page(book, "alarm", "", "", 1000)) == 100
    happens(book, n=10_000)
    assert numbers(page(book, "output"))[0] == 10_000


def test_a_storm_of_one_kind_costs_no_other_its_own(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    # However long the storms take here, they are all of one moment.
    monkeypatch.setattr(logger_module, "monotonic", lambda: 1000.0)

    def storm() -> None:
        for number in range(events.MOST_OF_NAME):
            for contact in range(events.MOST // events.MOST_OF_NAME):
                happens(book, f"contact/pi.gpio.c{contact}", n=number)

    storm()
    # The disk is idle: what is full is written at once.
    happens(book, "alarm/leak", n=-1)
    assert len(book.logger.recent.flying) == 1
    # It is not: there is room for other kinds all the same.
    storm()
    happens(book, "contact/pi.gpio.other", n=0)
    happens(book, "alarm/fire", n=-2)
    book.settle()
    storm()
    happens(book, "alarm/smoke", n=-3)
    assert not book.logger.recent.flying, "the next early one has to wait"
    book.flush()
    assert numbers(page(book, "alarm")) == [-3, -2, -1]
    assert book.logger._events_lost.value == 1
    gathered = events.Gathered()
    for kind in ("a", "b", "c"):
        for number in range(2 * events.MOST):
            gathered.add(events.Event(kind, str(number), 0, "{}"))
    assert len(gathered.events) == events.MOST + 2 * events.ROOM_OF_KIND


def test_without_a_time_it_is_another_one_each_time() -> None:
    clock = Watch(NOW)
    with a_book(clock) as book:
        for part in range(3):
            for _ in range(2):
                book.logger.on_event("/event/notify/door", b'{"text": "door opened"}')
                clock.go(60)
            # The tree tells the last one again, once.
            book.restart()
            book.logger.on_event("/event/notify/door", b'{"text": "door opened"}')
            assert len(page(book, "door")) == 2 * (part + 1)


def test_events_that_a_statement_loses_are_counted(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ValueError("it does not work")

    for number in range(events.MOST_OF_NAME + 1):
        happens(book, n=number)
    with monkeypatch.context() as patch:
        patch.setattr(events, "keep", fails)
        book.flush()
    lost = events.MOST_OF_NAME + 1
    assert book.logger._events_lost.value == lost
    assert f"{lost} events were given up" in book.logger.conditions["events lost"]
    assert "lost" not in book.logger.conditions
    happens(book, n=-1)
    book.flush()
    assert "events lost" not in book.logger.conditions
    book.logger.errors = 0


def test_a_page_loads_no_more_than_it_shows(book: Book) -> None:
    for number in range(900):
        happens(book, f"alarm/a{number}", when=NOW - number, n=number)
    book.flush()
    asked: list[str] = []

    def look(connection: sqlite3.Connection) -> dict[str, Any]:
        connection.set_trace_callback(asked.append)
        try:
            return events.find(connection, events.Wanted("", 0, round(NOW * 1000), 2, 999_999_999, []))
        finally:
            connection.set_trace_callback(None)

    found = book.logger.storage.database.read(look)
    assert numbers(found["events"]) == [1, 2], "the one of the very time is left out"
    assert any("LIMIT 4" in each for each in asked), asked


def test_a_storm_of_names_is_bounded_and_said(book: Book) -> None:
    happens(book, n=0)
    for number in range(3 * events.MOST):
        happens(book, f"output/pi.fake.p{number}", n=number)
    happens(book, n=-1)
    gathered = book.logger.recent.gathering.events.events
    assert len(gathered) == events.MOST
    assert book.logger._events_lost.value == events.MOST + 2
    assert "events are not kept" in book.logger.conditions["events"]
    assert numbers(page(book, "heater")) == [0]
    book.settle()
    book.flush()
    happens(book, n=1)
    book.flush()
    assert "events" not in book.logger.conditions


def test_the_kinds_that_have_most_pay_for_the_room() -> None:
    with a_book(Watch(NOW), event_count=1000) as book:
        for number in range(3000):
            happens(book, f"press/pi.gpio.b{number}", when=NOW - 5000 + number, n=number)
            if number % 100 == 0:
                happens(book, "alarm/hot", when=NOW - 5000 + number, n=number)
            if number % 500 == 499:
                book.flush()
        book.flush()
        assert book.count("SELECT count(*) FROM event") <= 1050
        assert book.count("SELECT count(*) FROM event WHERE kind = 'alarm'") == 30
        assert numbers(page(book, "press", "", "", 1))[0] == 2999


@pytest.mark.parametrize(
    ("counts", "room", "share"),
    [([], 5, 5), ([10], 4, 4), ([1, 10], 5, 4), ([3, 3, 3], 6, 2), ([1, 2, 90, 90], 23, 10), ([1, 1], 10, 9)],
)
def test_room_is_shared(counts: list[int], room: int, share: int) -> None:
    assert events.fair_share(counts, room) == share
    assert sum(min(count, share) for count in counts) <= room


def test_old_days_go_and_a_clock_that_jumped_ahead_costs_nothing() -> None:
    clock = Watch(NOW)
    with a_book(clock, event_days=3) as book:
        for day in range(5):
            happens(book, n=day)
            book.flush()
            clock.go(DAY)
        assert numbers(page(book)) == [4, 3, 2]
        clock.go(3650 * DAY)
        happens(book, n=5)
        book.flush()
        assert numbers(page(book)) == [5, 4, 3]


# Files


def test_a_file_of_before_gets_the_table(book: Book) -> None:
    book.stop()
    for path in book.directory.glob("history.db*"):
        path.unlink()
    with sqlite3.connect(book.file) as old:
        for schema in SCHEMAS[:2]:
            for statement in schema:
                old.execute(statement)
        old.execute("PRAGMA user_version = 2")
        old.execute(f"PRAGMA application_id = {0x52617350}")
    old.close()
    book.logger = book._start()
    happens(book, n=1)
    book.flush()
    assert numbers(page(book)) == [1]
    assert not book.logger.conditions


def test_events_are_saved_from_a_damaged_file(book: Book) -> None:
    for number in range(900):
        happens(book, f"output/pi.fake.p{number}", n=number, reason="x" * 200)
    book.flush()
    book.stop()
    size = book.file.stat().st_size
    with open(book.file, "r+b") as file:
        file.seek(size // 4096 // 2 * 4096)
        file.write(b"\x55" * 4096)
    book.logger = book._start()
    book.until(lambda: "history damaged" in book.logger.conditions or book.logger.storage.commits)
    happens(book, n=-1)
    book.flush()
    found = numbers(page(book, "", "", "", 1000))
    assert 0.8 * 900 < len(found) <= 901
    assert found[0] == -1


def test_a_row_that_cannot_be_read_costs_no_other(book: Book) -> None:
    happens(book, n=1)
    happens(book, when=NOW - 9, n=2)
    book.flush()

    def damage(connection: sqlite3.Connection, items: list[None]) -> list[None]:
        connection.execute("UPDATE event SET body = x'ff00' WHERE time = ?", ((NOW - 9) * 1000,))
        return items

    book.logger.storage.write(damage, None, lambda *_: None)
    book.settle()
    found = page(book)
    assert found[0]["body"]["n"] == 1
    assert "cannot be read" in found[1]["body"]["reason"]


@pytest.mark.slow
def test_kill_9_costs_no_event_that_was_written_nor_the_last_of_its_name() -> None:
    with site() as here:
        here.broker()
        process = here.server("logger", STATE_DIRECTORY=here.state)
        loop = Executive("pi", "test", here.ip, 5514)
        publisher = KvPublisher(loop)

        def found() -> list[int]:
            answer = ask(here.address, b"pi.logger.log", b"events", b"output", b"", b"", b"1000")
            return numbers(json.loads(answer[0])["events"]) if answer[-1] == b"200" else []

        def tell(number: int) -> None:
            publisher.send(f"/event/{HEATER}", json.dumps({"time": time.time(), "n": number}).encode())
            wait_for("it to leave", lambda: (loop.turn(0.001), not publisher.waiting)[1])
            wait_for("it is taken", lambda: number in found())

        try:
            told: list[int] = []
            for part in range(3):
                for number in range(part * 10, part * 10 + 5):
                    tell(number)
                    told.append(number)
                commits = statistic(here, "logger.commits")
                ask(here.address, b"pi.logger.mmi", b"reload")
                wait_for("a commit", lambda commits=commits: statistic(here, "logger.commits") > commits)
                for number in range(part * 10 + 5, part * 10 + 8):
                    tell(number)
                told.append(part * 10 + 7)  # the broker still has the last one
                process.kill()
                process = here.server("logger", STATE_DIRECTORY=here.state)
                wait_for("all of it", lambda: sorted(found()) == told)
            assert "Traceback" not in process.log
        finally:
            publisher.close(1.0)
            loop.destroy()


def statistic(here: Site, name: str) -> int:
    answer = ask(here.address, b"pi.logger.statistics", b"all")
    return int(json.loads(answer[0])[name]) if answer[-1] == b"200" else 0
