"""The diagrams of the documentation: what is drawn of what is written, and what is said of mistakes."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from tests.repo.test_docs import DOCS
from tests.support import need_module

LANES = ["client", "broker", "worker"]
LINES = """
    worker -> broker: READY, service
    == later ==
    client -> worker: <past> & over
    note broker: waits
"""


@pytest.fixture
def sequence(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The extension."""
    need_module("sphinx")
    monkeypatch.syspath_prepend(DOCS / "_ext")
    return need_module("sequence")


def test_letters(sequence: ModuleType) -> None:
    expected = """\
           client      broker              worker
              |           |                   |
              |           |<- READY, service -|
              |           |                   |
              |============ later ============|
              |           |                   |
              |------- <past> & over -------->|
              |           |                   |
              |           * waits             |
              |           |                   |"""
    shown = sequence.letters(LANES, sequence.parse(LANES, LINES.splitlines()))
    assert textwrap.dedent(shown) == textwrap.dedent(expected)


def test_drawing(sequence: ModuleType) -> None:
    """It is XML; each text is in it, within its bounds."""
    picture = ElementTree.fromstring(sequence.drawing('a "title"', LANES, sequence.parse(LANES, LINES.splitlines())))
    space = "{http://www.w3.org/2000/svg}"
    texts = [each.text for each in picture.iter(f"{space}text")]
    assert texts == [*LANES, "READY, service", "later", "<past> & over", "waits"]
    assert picture.get("aria-label") == 'a "title"'
    said = picture.find(f"{space}desc")
    assert said is not None
    assert said.text == "worker to broker: READY, service; later: client to worker: <past> & over; broker: waits;"
    places = [float(each.get(key, "0")) for each in picture.iter() for key in ("x", "x1", "x2", "cx")]
    assert 0 <= min(places) <= max(places) <= float(picture.get("width", "0"))
    # The page says in which colour.
    assert set(re.findall(r"(?:stroke|fill)=\"(\w+)\"", ElementTree.tostring(picture).decode())) == {"currentColor"}


def test_a_long_text_has_room(sequence: ModuleType) -> None:
    """Whatever stands between two lanes is shorter than what is between them."""
    for lines in (["client -> broker: " + "x" * 90], ["note client: " + "x" * 90], ["worker -> client: " + "x" * 90]):
        steps = sequence.parse(LANES, lines)
        left, middle, right, end = sequence.places(LANES, steps, 1, 6)
        assert right - left > 90
        assert end > right > middle > left
        assert "x" * 90 in sequence.letters(LANES, steps)
    steps = sequence.parse(LANES, ["note worker: " + "x" * 90])
    assert ("* " + "x" * 90) in sequence.letters(LANES, steps)


@pytest.mark.parametrize(
    ("lanes", "line", "said"),
    [
        ("a, b", "a > b: text", "'a > b: text' is no line of a sequence: A -> B: text, note A: text, or == text =="),
        ("a, b", "a -> b:", "'a -> b:' is no line of a sequence"),
        ("a, b", "a -> c: text", "'a -> c: text': there is no lane 'c', only a, b"),
        ("a, b", "note c: text", "'note c: text': there is no lane 'c'"),
        ("a, b", "a -> a: text", "a message to oneself is a note"),
        ("a", "note a: text", ":lanes: has to name two lanes or more"),
        ("a, a", "note a: text", ":lanes: has to name two lanes or more"),
        ("a, , b", "note a: text", ":lanes: has to name two lanes or more"),
    ],
)
def test_a_mistake_stops_the_build(sequence: ModuleType, tmp_path: Path, lanes: str, line: str, said: str) -> None:
    del sequence
    (tmp_path / "conf.py").write_text(
        f"import sys\nsys.path.insert(0, {str(DOCS / '_ext')!r})\nextensions = ['sequence']\n"
    )
    (tmp_path / "index.rst").write_text(f"Title\n=====\n\n.. sequence:: What\n   :lanes: {lanes}\n\n   {line}\n")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "text", str(tmp_path), str(tmp_path / "built")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "index.rst:4" in done.stderr
    assert said in done.stderr
