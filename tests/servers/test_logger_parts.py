"""The logger's columns, tables and rollups: what is packed is unpacked, and every figure is as it is by hand."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raspy.servers.logger import rollups
from raspy.servers.logger.packing import BadTable
from raspy.servers.logger.query import STEPS, fitting_step
from raspy.servers.logger.recent import MOST_ROWS, Recent
from raspy.servers.logger.rollups import Buckets
from raspy.servers.logger.rows import DAY, OK, Rows
from raspy.servers.logger.schema import LEVELS

START = 20_000 * DAY
Reading = tuple[int, float, int, int]
numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-800, 2000).map(lambda n: n / 16)
readings = st.lists(
    st.tuples(
        st.integers(START, START + DAY - 1) | st.integers(0, 50).map(lambda n: START + n * 60_000),
        numbers,
        st.sampled_from((0, 0, 0, 1, 2)),
        st.integers(1, 31_536_000),
    ).map(lambda r: (r[0], r[1] if r[2] == OK else 0.0, r[2], r[3])),
    min_size=1,
    max_size=60,
)


def rows_of(found: list[Reading]) -> Rows:
    rows = Rows()
    for one in found:
        rows.add(*one)
    return rows


def listed(rows: Rows) -> list[Reading]:
    return list(zip(rows.times, rows.values, rows.qualities, rows.holds, strict=True))


@given(readings)
def test_what_is_packed_is_unpacked(found: list[Reading]) -> None:
    rows = rows_of(found)
    rows.sort()
    again = Rows.unpack(rows.times[0], rows.pack())
    assert listed(again) == listed(rows)


@given(readings)
def test_sorted_readings_are_each_there_once_and_in_order(found: list[Reading]) -> None:
    rows = rows_of(found + found[: len(found) // 2])
    rows.sort()
    assert list(rows.times) == sorted(rows.times)
    assert sorted({one[:3] for one in found}) == [one[:3] for one in listed(rows)]
    assert [part[0] for day, part in ((d, p.times) for d, p in rows.days())] == [rows.times[0]]


@given(readings, st.integers(0, 200), st.integers(0, 255))
def test_a_damaged_table_is_refused_or_read_but_never_more(found: list[Reading], place: int, byte: int) -> None:
    rows = rows_of(found)
    rows.sort()
    data = bytearray(rows.pack())
    data[place % len(data)] = byte
    for broken in (bytes(data), bytes(data[: place % len(data)])):
        try:
            read = Rows.unpack(rows.times[0], broken)
        except BadTable:
            continue
        # Without a checksum, which plain tables have not, a changed number is a number.
        assert len(read) <= len(rows)


@pytest.mark.parametrize("data", [b"", b"\0", b"\1", b"\2abc", b"\0abc", b"\1abc", b"\0" * 18 + b"x"])
def test_bytes_that_are_no_table_are_refused(data: bytes) -> None:
    with pytest.raises(BadTable):
        Rows.unpack(0, data)


def by_hand(found: list[Reading], step: int) -> dict[int, tuple[int, int, float, float, float, int, int]]:
    """The buckets of readings, computed the plain way."""
    groups: dict[int, list[Reading]] = {}
    for one in sorted(set(found)):
        groups.setdefault(one[0] // step * step, []).append(one)
    buckets = {}
    for start, group in groups.items():
        good = [value for _, value, quality, _ in group if quality == OK]
        bad = len(group) - len(good)
        mean = math.fsum(value / len(good) for value in good) if good else 0.0
        figures = (min(good), mean, max(good)) if good else (0.0, 0.0, 0.0)
        buckets[start] = (len(good), bad, *figures, max(g[2] for g in group), max(g[3] for g in group))
    return buckets


def assert_same(buckets: Buckets, wanted: dict[int, tuple[int, int, float, float, float, int, int]]) -> None:
    assert list(buckets.starts) == sorted(wanted)
    for place, start in enumerate(buckets.starts):
        good, bad, low, mean, high, worst, hold = wanted[start]
        assert (buckets.counts[place], buckets.bads[place]) == (good, bad)
        assert (buckets.lows[place], buckets.highs[place]) == (low, high)
        size = max(abs(low), abs(high))
        assert math.isclose(buckets.means[place], mean, rel_tol=1e-9, abs_tol=size * 1e-9)
        assert (buckets.worsts[place], buckets.holds[place]) == (worst, hold)


@given(readings, st.sampled_from(STEPS[:20]))
def test_rollups_are_what_they_are_by_hand(found: list[Reading], step: int) -> None:
    found = list({one[:3]: one for one in found}.values())
    rows = rows_of(found)
    rows.sort()
    assert_same(rollups.of_rows(rows, step), by_hand(found, step))


@given(readings)
def test_coarse_rollups_of_fine_ones_are_those_of_the_readings(found: list[Reading]) -> None:
    found = list({one[:3]: one for one in found}.values())
    rows = rows_of(found)
    rows.sort()
    buckets = rollups.of_rows(rows, LEVELS[0].step)
    for level in LEVELS[1:]:
        buckets = rollups.of_buckets(buckets, level.step)
        assert_same(Buckets.unpack(buckets.starts[0], buckets.pack()), by_hand(found, level.step))


@given(st.lists(numbers, min_size=1, max_size=9), st.integers(1, 9), st.sampled_from((1, 300_000)))
def test_a_mean_is_not_beyond_what_it_is_of(found: list[float], times: int, apart: int) -> None:
    rows = rows_of([(START + n * apart, value, OK, 60) for n, value in enumerate([0.1] * 3 + found * times)])
    for lot in (rows, rows.between(START, START + 3 * apart)):
        fine = rollups.of_rows(lot, LEVELS[0].step)
        for buckets in (fine, rollups.of_buckets(fine, LEVELS[1].step), rollups.of_buckets(fine, LEVELS[2].step)):
            for low, mean, high in zip(buckets.lows, buckets.means, buckets.highs, strict=True):
                assert low <= mean <= high


@given(readings, st.integers(0, 60))
def test_two_lots_of_buckets_become_one(found: list[Reading], cut: int) -> None:
    found = list({one[:3]: one for one in found}.values())
    lots = []
    for part in (found[:cut], found[cut:]):
        rows = rows_of(part)
        rows.sort()
        lots.append(rollups.of_rows(rows, LEVELS[0].step))
    assert_same(rollups.merged(lots[0], lots[1], LEVELS[0].step), by_hand(found, LEVELS[0].step))


@given(st.integers(0, 10**15), st.integers(10, 2000))
def test_a_span_is_covered_by_so_many_buckets(span: int, points: int) -> None:
    step = fitting_step(span, points)
    assert span // step + 2 <= points
    levels = [level.step for level in LEVELS if level.step <= step]
    assert all(step % level == 0 for level in levels)


def test_recent_readings_are_bounded_and_the_later_ones_stay() -> None:
    recent, draw = Recent(), random.Random(1)
    keys = [f"/device/pi.x.{number}/value" for number in range(7)]
    given_times: dict[str, list[int]] = {key: [] for key in keys}
    for time in range(MOST_ROWS * 3):
        key = draw.choice(keys)
        given_times[key].append(time)
        assert recent.add(key, "", time, 1.0, OK, 60)
        assert recent.count <= MOST_ROWS
    assert recent.count + recent.lost == MOST_ROWS * 3
    assert recent.count == sum(len(recent.of(key)) for key in keys)
    for key in keys:
        kept = list(recent.of(key).times)
        assert kept
        assert kept == given_times[key][-len(kept) :]
