"""The small lines of 24 hours, and the labels: what is kept, what is asked for, and what is bounded."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raspy.common import MDP
from raspy.common.verbs import VerbError
from raspy.web import names as names_module
from raspy.web import sparks as sparks_module
from raspy.web.rows import Held
from raspy.web.sparks import BUCKETS, HEIGHT, KEYS, STEP, WIDTH, Ring, Sparks, drawn, take
from tests.web.hand import Hand, ask, reading, until
from tests.web.stage_device import TANK, Stage, stage

START = 1_000_000 * STEP
NAN = math.nan


def known(ring: Ring, bucket: int) -> list[float]:
    return [mean for mean in ring.means(bucket) if mean == mean]


# ---------------------------------------------------------------- a ring


def test_a_bucket_has_the_mean_of_its_readings() -> None:
    ring = Ring(START // STEP)
    for value in (1.0, 2.0, 6.0):
        ring.add(value, START + 5, 30)
    assert known(ring, START // STEP) == [3.0]


def test_where_nothing_stood_there_is_a_gap() -> None:
    ring = Ring(START // STEP)
    ring.add(1.0, START + 5, 30)
    ring.add(2.0, START + 3 * STEP, 30)
    assert ring.means(START // STEP + 3)[-4:] == pytest.approx([1.0, NAN, NAN, 2.0], nan_ok=True)


def test_a_reading_that_stands_for_hours_fills_them() -> None:
    ring = Ring(START // STEP)
    ring.add(1.0, START + 5, 2.5 * STEP)
    assert ring.means(START // STEP + 4)[-5:] == pytest.approx([1.0, 1.0, 1.0, NAN, NAN], nan_ok=True)


def test_after_a_day_all_is_new() -> None:
    ring = Ring(START // STEP)
    ring.add(1.0, START, 30)
    ring.add(2.0, START + 10 * 86_400, 30)
    assert known(ring, START // STEP + 480) == [2.0]


def test_a_clock_that_was_ahead_is_forgotten() -> None:
    ring = Ring(START // STEP)
    ring.add(1.0, START + 365 * 86_400, 30)
    ring.add(2.0, START, 30)
    ring.add(4.0, START, 30)
    assert known(ring, START // STEP) == [3.0]


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.integers(-200_000, 200_000), st.floats(0, 1e5)), max_size=60))
def test_whatever_comes_a_ring_has_48_means_within_what_came(readings: list[tuple[float, int, float]]) -> None:
    ring = Ring(START // STEP)
    for value, at, max_age in readings:
        ring.add(value, START + at, max_age)
    means = ring.means(ring.newest)
    assert len(means) == BUCKETS
    values = [value for value, _, _ in readings]
    for mean in (mean for mean in means if mean == mean):
        assert min(values) - 1 <= mean <= max(values) + 1


# ---------------------------------------------------------------- what the logger answers


def answer(points: list[Any], step: float) -> bytes:
    return json.dumps({"step": step, "points": points}).encode()


def point(at: float, mean: float | None, quality: str = "ok") -> list[Any]:
    return [at, mean, mean, mean, 1, 0, quality]


def test_buckets_of_the_logger_are_taken_and_gaps_stay() -> None:
    ring = Ring(START // STEP)
    points = [point(START - 3 * STEP, 1.0), point(START - 2 * STEP, None, "gap"), point(START - STEP, 3.0)]
    take(ring, answer(points, STEP), START)
    assert ring.means(START // STEP)[-4:] == pytest.approx([1.0, NAN, 3.0, NAN], nan_ok=True)


def test_single_readings_stand_until_the_next_point() -> None:
    ring = Ring(START // STEP)
    points = [point(START - 4 * STEP, 1.0), point(START - 2 * STEP, None, "gap"), point(START - 9, 3.0)]
    take(ring, answer(points, 0), START)
    assert ring.means(START // STEP)[-5:] == pytest.approx([1.0, 1.0, NAN, 3.0, NAN], nan_ok=True)


def test_what_came_since_is_not_overwritten() -> None:
    ring = Ring(START // STEP)
    ring.add(5.0, START + 1, 30)
    take(ring, answer([point(START, 1.0)], STEP), START)
    assert known(ring, START // STEP) == [5.0]


@pytest.mark.parametrize(
    "hostile",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"points": 5}',
        b'{"points": [5, [], [1], ["x", 2], [null, 2], [1e300, 2], [1, 1e300]], "step": "x"}',
        b'{"points": [[1, 2], [-1e14, 3], [0, null], [1e14, 4]], "step": 1e14}',
        b"[" * 100_000,
    ],
)
def test_an_answer_that_is_none_changes_nothing(hostile: bytes) -> None:
    ring = Ring(START // STEP)
    take(ring, hostile, START)
    assert known(ring, START // STEP) == []


# ---------------------------------------------------------------- a line


def test_nothing_is_no_line() -> None:
    assert drawn([NAN] * BUCKETS) is None


def test_gaps_and_single_points_are_drawn() -> None:
    line = drawn([1.0, 2.0, NAN, 3.0, NAN, 1.0])
    assert line is not None
    assert line.path.count("M") == 3
    assert line.path.count("h0") == 2
    assert (line.low, line.high) == (1.0, 3.0)


@given(st.lists(st.just(NAN) | st.floats(-(2.0**100), 2.0**100, width=32), min_size=BUCKETS, max_size=BUCKETS))
def test_a_line_stays_in_its_picture_and_is_short(means: list[float]) -> None:
    line = drawn(means)
    if line is None:
        return
    assert len(line.path) < 700
    for spot in line.path.replace("h0", "").replace("M", "L").split("L")[1:]:
        x, y = map(float, spot.split())
        assert 0 <= x <= WIDTH
        assert 0 <= y <= HEIGHT


# ---------------------------------------------------------------- on the page


@pytest.fixture
def hand() -> Iterator[Hand]:
    served = Hand()
    yield served
    served.close()


def test_there_are_so_many_lines_at_most(hand: Hand) -> None:
    sparks: Sparks = hand.board.sparks
    for place in range(KEYS + 10):
        held = Held(f"/device/pi1.x.d{place}/value", json.dumps(reading(place)).encode(), 0.0, time.time())
        sparks.add(held, time.time())
    assert len(sparks.lines()) == KEYS


def test_a_value_has_its_line_until_it_is_gone(hand: Hand) -> None:
    hand.bus("live")
    key = "/device/pi1.x.d/value"
    hand.put(key, reading(5))
    hand.settled()
    assert '<path d="M' in ask(hand.port).text
    hand.put(key, b"")
    hand.put("/device/pi1.x.e/value", {**reading(5), "value": "text"})
    hand.put("/device/pi1.x.f/value", {"quality": "stale", "last": 5})
    hand.put("/device/pi1.x.g/mode_end", reading(1.7e9))
    hand.settled()
    assert '<path d="M' not in ask(hand.port).text


@pytest.fixture
def place() -> Iterator[Stage]:
    with stage() as made:
        yield made


def test_the_logger_is_asked_for_what_was_before(place: Stage) -> None:
    spark = until(lambda: long(place), "the tank has a line of more than this half hour")
    assert spark.high - spark.low > 1
    asked = [words for words in place.log.executive.asked if words[1] == TANK]
    # Once more at most, where the first answer came too late.
    assert 1 <= len(asked) <= 2
    assert asked[0][4] == str(BUCKETS + 2)
    # It goes on with each value.
    until(lambda: f'd="{long(place).path}"' in ask(place.hand.port).text, "the line is on the page")


def long(place: Stage) -> Any:
    found = place.hand.board.ask(lambda: place.hand.board.sparks.lines().get(TANK))
    return found if found is not None and found.path.count("L") > 20 else None


def test_a_logger_that_refuses_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparks_module, "RETRY", 0.2)
    with stage(VerbError(MDP.UNAVAILABLE, "not yet")) as place:
        log = place.log.executive
        until(lambda: len(log.asked) >= 2, "it is asked again")
        place.log.call(lambda: setattr(log, "refusal", None))
        until(lambda: long(place), "it answers at last")


def test_labels_are_asked_for_again_while_somebody_looks(place: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names_module, "AGAIN", 0.1)
    place.fake.call(lambda: place.fake.executive.devices["tank"].configure({"label": "Reef <1>"}))
    until(lambda: "Reef &lt;1&gt;" in ask(place.hand.port).text, "the label is on the page")
    place.fake.call(lambda: place.fake.executive.devices["tank"].configure({"label": ""}))
    until(lambda: "Reef" not in ask(place.hand.port).text, "the label is gone")
