"""Late readings land in their place, each once, or it is said why not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raspy.common.verbs import VerbError
from raspy.servers.logger import append
from tests.servers.logger_stage import DAY, KEY, NOON, OTHER, Book, Watch, a_book

NOW = NOON + DAY
NOTHING = {"kept": 0, "unplaced": 0, "old": 0, "refused": 0, "problem": ""}


@pytest.fixture
def book() -> Iterator[Book]:
    with a_book(Watch(NOW)) as made:
        yield made


def test_late_readings_land_in_their_place_once(book: Book) -> None:
    for minute in (0, 1, 8, 9):
        book.log(NOON + minute * 60, float(minute))
    book.flush()
    late = [[KEY, NOON + minute * 60, 5.0, float(minute), "ok", 30, "°C"] for minute in range(2, 8)]
    for _ in range(3):
        assert book.append(late) == {**NOTHING, "kept": 6}
    assert [row[1] for row in book.rows()] == list(range(10))
    book.restart()
    assert book.append(late[:1]) == {**NOTHING, "kept": 1}
    assert [row[1] for row in book.rows()] == list(range(10))


def test_late_readings_of_a_day_that_is_over_are_in_its_rollups(book: Book) -> None:
    book.log(NOON - 5 * DAY, 10.0)
    book.log(NOW, 1.0)
    book.flush()  # the first day is over by now
    book.append([[KEY, NOON - 5 * DAY + 60, None, 30.0, "ok"], [KEY, NOON - 5 * DAY + 120, None, None, "error"]])
    for _ in range(2):
        [first, *_] = book.points(NOON - 30 * DAY, NOW, 100)
        assert first[1:] == [20.0, 10.0, 30.0, 2, 1, "error"]
        assert [row[1] for row in book.rows(until=NOW)] == [10, 30, None, 1]
        book.log(NOW + DAY, 1.0)
        book.flush()  # it is derived anew
        assert book.count(f"SELECT count(*) FROM journal WHERE start < {NOON * 1000}") == 0


def test_a_series_may_begin_with_late_readings_and_with_an_error(book: Book) -> None:
    assert book.append([[OTHER, NOON, None, None, "stale"], [OTHER, NOON + 1, None, True, "ok"]])["kept"] == 2
    assert book.rows(key=OTHER) == [[NOON, None, "stale"], [NOON + 1, 1, "ok"]]


def test_without_a_right_clock_the_age_says_when(book: Book) -> None:
    clock = book.clock
    assert isinstance(clock, Watch)
    wrong = 1000.0  # the sender's time, of 1970
    late = [[KEY, wrong + n * 60, 3600.0 - n * 60, float(n), "ok"] for n in range(5)]
    assert book.append(late, trusted=False)["kept"] == 5
    wanted = [[NOW - 3600 + n * 60, n, "ok"] for n in range(5)]
    assert book.rows() == wanted
    # The same once more, half a minute later, and with the ages that they have then; and another one.
    for more in (0, 30):
        clock.go(15)
        again = [[key, when, age + more, *rest] for key, when, age, *rest in late]
        assert book.append(again, trusted=False)["kept"] == 5
    assert book.rows() == wanted
    book.append([[KEY, wrong + 300, 3300.0 + 30, 5.0, "ok"]], trusted=False)
    assert book.rows() == [*wanted, [NOW - 3300, 5, "ok"]]


def test_two_boots_of_a_sender_are_told_apart(book: Book) -> None:
    book.append([[KEY, 1000.0, 7200.0, 1.0, "ok"]], trusted=False, boot="1")
    book.append([[KEY, 1000.0, 3600.0, 2.0, "ok"]], trusted=False, boot="2")
    assert [row[:2] for row in book.rows()] == [[NOW - 7200, 1], [NOW - 3600, 2]]


def test_readings_of_which_nobody_knows_when_are_counted(book: Book) -> None:
    late = [[KEY, 1000.0, None, 1.0, "ok"], [KEY, 1000.0, 60.0, 2.0, "ok"]]
    assert book.append(late, trusted=False) == {**NOTHING, "kept": 1, "unplaced": 1}


def test_a_receiver_whose_clock_is_set_right_moves_them_too() -> None:
    clock = Watch(NOON, trusted=False)
    with a_book(clock) as book:
        book.append([[KEY, 1000.0, 60.0, 1.0, "ok"]], trusted=False)
        book.append([[KEY, NOON + DAY, 60.0, 2.0, "ok"]], trusted=True)
        clock.time += DAY
        clock.right = True
        book.logger.look_at_clock()
        book.settle()
        assert [row[:2] for row in book.rows()] == [[NOON + DAY - 60, 1], [NOON + DAY, 2]]


def test_what_is_too_old_or_ahead_is_counted() -> None:
    with a_book(Watch(NOW), raw_days=2) as book:
        for day in range(5):
            book.log(NOW + (day - 5) * DAY, 1.0)
            book.flush()
        late = [[KEY, when, None, 2.0, "ok"] for when in (NOW - 30 * DAY, NOW - 3600, NOW + 2 * DAY)]
        answer = book.append(late)
        assert (answer["kept"], answer["old"], answer["refused"]) == (1, 1, 1)
        assert "more than a day ahead" in answer["problem"]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ([KEY, NOON, None, 1.0], "row 0"),
        ([KEY, NOON, None, 1.0, "ok", 1, "", 1], "row 0"),
        ([KEY, NOON, None, "1", "ok"], "row 0"),
        ([1, NOON, None, 1.0, "ok"], "row 0"),
        (["device", NOON, None, 1.0, "ok"], "a key begins with /"),
        (["/" + "x" * 300, NOON, None, 1.0, "ok"], "at most 255 bytes"),
        (["/device/shed.onewire.28-0316/temperature", NOON, None, 1.0, "ok"], "not below /device/pi."),
        (["/device/pi", NOON, None, 1.0, "ok"], "not below /device/pi."),
        (["/variable/pi.x", NOON, None, 1.0, "ok"], "not below /device/pi."),
        (["/device/\x00", NOON, None, 1.0, "ok"], "printable"),
        ([KEY, -1, None, 1.0, "ok"], "a Unix time"),
        ([KEY, 1e300, None, 1.0, "ok"], "a Unix time"),
        ([KEY, NOON, -1, 1.0, "ok"], "age"),
        ([KEY, NOON, 1e300, 1.0, "ok"], "age"),
        ([KEY, NOON, None, 1.0, "good"], "ok, stale or error"),
        ([KEY, NOON, None, None, "ok"], "has a value"),
        ([KEY, NOON, None, 1.0, "error"], "has a value"),
        ([KEY, NOON, None, 1.0, "ok", 0], "max_age"),
        ([KEY, NOON, None, 1.0, "ok", 1e12], "max_age"),
        ([KEY, NOON, None, 1.0, "ok", 30, "x" * 21], "unit"),
        ({}, "row 0"),
        (None, "row 0"),
    ],
)
def test_a_reading_that_cannot_be_costs_the_others_nothing(book: Book, row: Any, problem: str) -> None:
    answer = book.append([row, [KEY, NOON, None, 5.0, "ok"]])
    assert (answer["kept"], answer["refused"]) == (1, 1)
    assert problem in answer["problem"]
    assert book.rows() == [[NOON, 5, "ok"]]


def test_no_room_for_a_series_is_said(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raspy.servers.logger.numbers.MOST_SERIES", 1)
    answer = book.append([[KEY, NOON, None, 1.0, "ok"], [OTHER, NOON, None, 1.0, "ok"]])
    assert (answer["kept"], answer["refused"]) == (1, 1)
    assert OTHER in answer["problem"]


def test_one_host_does_not_take_the_room_of_all(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(append, "MOST_OF_HOST", 3)
    keys = [f"/device/barn.x.{number}/v" for number in range(9)]
    for number in range(2):
        book.log(NOON, 1.0, f"/device/barn.x.old{number}/v")
    book.log(NOON, 1.0)
    book.flush()
    for _ in range(2):
        answer = book.append([[key, NOON + 60, None, 1.0, "ok"] for key in keys for _ in range(2)], host="barn")
        assert (answer["kept"], answer["refused"]) == (2, 16)
        assert "of barn there are 3 series already" in answer["problem"]
    # Another unit is another series.
    another = ["/device/barn.x.old0/v", NOON + 60, None, 1.0, "ok", 30, "K"]
    assert book.append([another], host="barn")["refused"] == 1
    # Those that there are go on, and so do other hosts.
    assert book.append([["/device/barn.x.old0/v", NOON + 120, None, 2.0, "ok"]], host="barn")["kept"] == 1
    assert book.append([[OTHER, NOON, None, 1.0, "ok"]])["kept"] == 1
    book.log(NOON + 120, 1.0, keys[8])
    book.flush()
    assert book.append([[keys[8], NOON + 60, None, 1.0, "ok"]], host="barn")["kept"] == 1


def test_many_late_readings_are_put_into_their_days_soon(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raspy.servers.logger.logger.MUCH", 100)
    book.append([[KEY, NOON - 3 * DAY + minute, None, 1.0, "ok"] for minute in range(150)])
    book.settle()
    assert book.count("SELECT count(*) FROM journal") == 0
    assert len(book.rows()) == 150


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda data: data.decode("latin-1")))
def test_a_text_that_is_nothing_of_the_kind_is_refused(text: str) -> None:
    with pytest.raises(VerbError, match="append:"):
        append.read(text, NOW * 1000, None, 90)


json_like = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(st.lists(json_like | st.tuples(st.just(KEY), json_like, json_like, json_like, st.just("ok")), max_size=10))
def test_any_rows_are_kept_or_counted(rows: list[Any]) -> None:
    text = json.dumps({"host": "pi", "boot": "1", "trusted": True, "rows": rows})
    lot = append.read(text, NOW * 1000, None, 90)
    assert len(lot.rows) + lot.refused == len(rows)
