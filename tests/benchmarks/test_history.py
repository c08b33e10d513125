"""The benchmark of the history does what it says, on one day."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks import history


def test_a_day_is_measured_and_told(tmp_path: Path) -> None:
    found: history.Figures = {"disk": "the given directory", "days": 1}
    for part, name, numbers in (
        ("fill", "ours", (1,)),
        ("ask", "ours", (1,)),
        ("plain", "plain", (1, 1)),
        ("plain-ask", "plain", (1,)),
    ):
        (tmp_path / name).mkdir(exist_ok=True)
        found[part] = history.load(part, str(tmp_path / name), *numbers)
    assert found["fill"]["rows"] == found["ask"]["export_rows"] * 10 == 14_400
    assert found["fill"]["commits"] >= 288
    points = {one["range"]: one["points"] for one in found["ask"]["ranges"]}
    assert points["an hour"] == 60
    assert points["a day, all points"] == 1440
    assert points == {**points, "all there is": 1}
    text = history.text(found)
    assert "14,400 readings; the given directory" in text
    assert "written by the process" in text
    assert "written to the device" not in text


def test_an_aim_that_is_missed_is_told() -> None:
    assert history.aimed(4.94, 5) == "4.9 (aim < 5)"
    assert history.aimed(5.0, 5) == "5.0 (aim < 5, MISSED)"
