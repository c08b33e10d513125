"""How things are written for humans."""

from __future__ import annotations

import pytest

from raspy.cli.status import code, problem
from raspy.cli.table import duration, number, print_table, reading, size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (-5, "0 s"),
        (119.9, "119 s"),
        (120, "2 min"),
        (7200, "2 h 0 min"),
        (3 * 86400 + 4 * 3600, "3 d 4 h"),
        (float("nan"), ""),
        (float("inf"), "11574074 d 1 h"),
        (None, ""),
        ("x", ""),
    ],
)
def test_duration(seconds: object, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(21.0625, "21.0625"), (24.0, "24"), (-0.3125, "-0.3125"), (True, "true"), (3, "3"), ("on", "on"), (None, "")],
)
def test_number(value: object, text: str) -> None:
    assert number(value) == text


def test_size() -> None:
    assert size(8_140_000) == "8.1 MB"
    assert size(None) == size(0) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"value": 21.0625, "unit": "°C", "quality": "ok"}, "21.0625 °C"),
        ({"value": 1, "quality": "ok"}, "1"),
        ({"quality": "error", "reason": "power-on value"}, "error: power-on value"),
        ({"value": 85.0, "unit": "°C", "quality": "error", "reason": "no"}, "error: no"),
        ({"quality": "stale", "last": 20.0}, "stale"),
        ({"value": None, "quality": "ok"}, "ok"),
        ({"state": "degraded", "conditions": {"bus": "none"}}, "degraded: none"),
        ({"event": "lost", "reason": "killed"}, "lost: killed"),
        ({"quality": "error", "reason": "a\x1b[2J\n"}, r"error: a\x1b[2J\n"),
        ("some\ntext", r"some\ntext"),
        ([1, 2], "[1,2]"),
    ],
)
def test_a_reading_is_a_number_only_when_it_is_good(value: object, text: str) -> None:
    assert reading(value) == text


def test_cells_cannot_break_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["a", "b"], [["1\n2", ""], ["\x1b[31m", "x"]])
    assert capsys.readouterr().out.splitlines() == [
        "A         B",
        r"1\n2      -",
        r"\x1b[31m  x",
    ]


def test_the_problem_of_a_server() -> None:
    assert problem({"conditions": {"bus": "gone"}, "last_error": "old"}) == "bus: gone"
    assert problem({"conditions": {}, "last_error": "old"}) == "old"
    assert problem({"last_down": {"time": 0, "reason": "killed"}}).endswith("ago: killed")
    assert problem({"last_down": None}) == ""


def test_all_is_well_only_when_all_is() -> None:
    assert code([{"state": "ok"}]) == 0
    assert code([{"state": "ok"}, {"state": "lost"}]) == 1
    assert code([]) == 1
    stopped = {"state": "stopped"}
    assert code([{"state": "ok"}, {**stopped, "wanted": False}]) == 0
    assert code([{"state": "ok"}, {**stopped, "wanted": True}]) == code([{"state": "ok"}, stopped]) == 1
    assert code([{"state": "ok"}, {"state": "lost", "wanted": False}]) == 1
