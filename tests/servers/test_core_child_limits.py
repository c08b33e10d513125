"""Counting over a minute, and the end of a long output."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raspy.servers.core.limits import SLOT, SPAN, Limits, Tail, Window

steps = st.lists(st.tuples(st.floats(0, 100), st.integers(0, 1000)), max_size=200)


@given(steps, st.floats(0, 1e6))
def test_a_window_counts_the_last_minute_less_a_slot_at_most(taken: list[tuple[float, int]], now: float) -> None:
    window = Window()
    added: list[tuple[float, int]] = []
    for wait, amount in taken:
        now += wait
        added.append((now, amount))
        total = window.add(amount, now)
        within = sum(amount for at, amount in added if at > now - SPAN)
        surely = sum(amount for at, amount in added if at > now - SPAN + SLOT)
        assert surely <= total <= within
        assert len(window._slots) <= SPAN / SLOT + 1


def test_a_window_that_was_idle_is_empty() -> None:
    window = Window()
    window.add(0.1, 0)
    window.add(0.2, 30)
    assert window.add(0, 1000) == 0.0


@given(st.lists(st.text(max_size=30), max_size=50), st.integers(1, 60))
def test_a_tail_is_the_end_and_tells_how_much_is_missing(pieces: list[str], most: int) -> None:
    tail = Tail(most)
    for piece in pieces:
        tail.add(piece)
    whole = "".join(pieces)
    kept = whole[-most:]
    assert tail.dropped == len(whole) - len(kept)
    said = f"[... {tail.dropped} characters before this are not kept]\n" if tail.dropped else ""
    assert tail.text() == said + kept
    tail.clear()
    assert tail.text() == ""


def test_many_small_pieces_cost_no_more_than_a_few_long_ones() -> None:
    tail = Tail(10_000)
    for _ in range(100_000):
        tail.add("x")
    assert len(tail._parts) < 30
    assert len(tail.text()) == 10_000 + len("[... 90000 characters before this are not kept]\n")


@pytest.mark.parametrize(
    "wrong",
    [
        '{"memory": 0}',
        '{"cpu": -1}',
        '{"wall": -1}',
        '{"output": -1}',
        '{"memory": "x"}',
        '{"more": 1}',
        '{"cpu": 1e9}',
    ],
)
def test_limits_that_are_none(wrong: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(wrong, type=Limits)
