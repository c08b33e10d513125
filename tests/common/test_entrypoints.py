"""raspy.common.entrypoints: what other packages say they bring. How device classes use it is in test_register."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raspy.common import entrypoints
from tests.support_packages import inform


def test_each_is_told_with_its_file(tmp_path: Path) -> None:
    one = inform(tmp_path, "[raspy.x]\nlamp = lamp:Lamp\n[other]\nno = rubbish\n", "one_two-1.dist-info")
    two = inform(tmp_path, "[raspy.x]\nlamp\n", "two-2.0b1.dist-info")
    entries, bad = entrypoints.found("raspy.x", [str(tmp_path)])
    assert entries == [(str(one), "lamp", "lamp:Lamp")]
    ((file, error),) = bad
    assert file == str(two)
    assert str(error) == "line 2 is not name = module:Class: 'lamp'"
    assert [entrypoints.package_of(each) for each in (str(one), file)] == ["one_two 1", "two 2.0b1"]


def test_a_packages_name_cannot_forge_a_line() -> None:
    assert entrypoints.package_of("/site/a\nraspy: b-1.dist-info/entry_points.txt") == "a\\nraspy: b 1"
    assert len(entrypoints.package_of(f"/site/{'x' * 200}-1.dist-info/entry_points.txt")) <= entrypoints.SHOWN


@pytest.mark.parametrize("text", ["x" * 300, "\u202e\x1b[2J", "'\""])
def test_what_is_shown_is_short_and_can_be_printed(text: str) -> None:
    shown = entrypoints.shown(text)
    assert shown.isprintable()
    assert len(shown) <= entrypoints.SHOWN
    assert shown[0] == shown[-1]


@given(st.binary() | st.text("[]raspy.devices=:#;\n \r\t").map(lambda text: f"[raspy.devices]\n{text}".encode()))
def test_arbitrary_text_is_read_or_refused(text: bytes) -> None:
    try:
        entries = list(entrypoints.entry_points(text.decode(), "raspy.devices"))
    except ValueError:
        return
    assert all(entrypoints.REFERENCE.fullmatch(reference) for _, reference in entries)
