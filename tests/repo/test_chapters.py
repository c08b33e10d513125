"""The owner's chapters: each of their commands is run, or names the test that does it in its place."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raspy.cli import COMMANDS
from tests import chapters
from tests.chapters import ChapterError, Command, Elsewhere, Event, Stage, matches, steps
from tests.conftest import COUNTED

TOP = Path(__file__).parents[2]
PLAYBOOKS = {path.name for path in (TOP / "ansible").glob("*.yml")}
TARGETS = set(re.findall(r"^([a-z-]+):", (TOP / "Makefile").read_text(encoding="utf-8"), re.M))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_command_does_what_its_chapter_shows(record_property: Callable[[str, object], None]) -> None:
    count = chapters.run(print)
    record_property(COUNTED, f"{count} commands of the chapters were run")
    assert count > 40


def test_every_chapter_is_in_the_index() -> None:
    assert sorted(chapters.chapters()) == sorted((TOP / "docs" / "first-steps").glob("*.rst"))


ELSEWHERE = [step for path in chapters.chapters() for step in steps(path) if isinstance(step, Elsewhere)]


@pytest.mark.parametrize("step", ELSEWHERE, ids=lambda step: step.place)
def test_what_is_not_run_here_has_a_test_that_is_there(step: Elsewhere) -> None:
    path, _, name = step.test.partition("::")
    tree = ast.parse((TOP / path).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert step.commands


@pytest.mark.parametrize("step", ELSEWHERE, ids=lambda step: step.place)
def test_what_is_not_run_here_names_what_there_is(step: Elsewhere) -> None:
    text = "\n".join(step.commands)
    assert set(re.findall(r"\bmake ([a-z-]+)", text)) <= TARGETS
    assert set(re.findall(r"\braspy ([a-z-]+)", text)) <= set(COMMANDS)
    assert set(re.findall(r"([\w-]+\.yml)\b", text.replace("inventory/hosts.yml", ""))) <= PLAYBOOKS


@pytest.mark.parametrize("path", chapters.chapters(), ids=lambda path: path.stem)
def test_commands_named_in_the_text_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert set(re.findall(r"``raspy ([a-z-]+)", text)) <= set(COMMANDS)
    assert set(re.findall(r"``make ([a-z-]+)", text)) <= TARGETS


# The reader of the chapters


def read(tmp_path: Path, text: str) -> list[chapters.Step]:
    path = tmp_path / "chapter.rst"
    path.write_text(text)
    return steps(path)


def test_commands_with_what_they_show(tmp_path: Path) -> None:
    text = """
Text
----

.. code-block:: console

   $ raspy scenario edit light \\
         startup=true
   light is changed
   $ raspy clock      # exit code 1
   CLOCK

   NTP SERVER

.. stage: unplug 28-031655c9d5ff

* a list

  .. elsewhere: it needs a Pi; tests/web/test_home.py::test_one

  .. code-block:: console

     $ sudo make image
"""
    assert read(tmp_path, text) == [
        Command("chapter.rst:7", "raspy scenario edit light \\\n      startup=true", "light is changed", 0),
        Command("chapter.rst:10", "raspy clock", "CLOCK\n\nNTP SERVER", 1),
        Event("chapter.rst:15", ["unplug", "28-031655c9d5ff"]),
        Elsewhere("chapter.rst:19", "it needs a Pi", "tests/web/test_home.py::test_one", ["sudo make image"]),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (".. code-block:: console\n\n   raspy status\n", "chapter.rst:3: .* begins with a line"),
        (".. code-block:: console\n\n   # raspy keys init\n   $ raspy status\n", "chapter.rst:3: .* begins with"),
        (".. code-block:: console\n\nText\n", "begins with a line"),
        (".. code-block:: sh\n\n   raspy status\n", "chapter.rst:1: only a block of console is run"),
        (".. code-block::\n\n   raspy status\n", "only a block of console is run"),
        ("So::\n\n   raspy status\n", "only a block of console is run"),
        (".. elsewhere: tests/web/test_home.py::test_one\n", "wanted is"),
        (".. elsewhere: it is hard; some test\n", "wanted is"),
        (".. elsewhere: it is hard; tests/a.py::test_one\n", "no block of console follows"),
        (".. elsewhere: it is hard; tests/a.py::test_one\n\nText\n", "no block of console follows"),
        (
            ".. elsewhere: it is hard; tests/a.py::test_one\n\n.. code-block:: toml\n\n   a = 1\n",
            "no block of console follows",
        ),
    ],
)
def test_what_nobody_would_run_is_refused(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ChapterError, match=told):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("21.0625 °C", "21.0625 °C\n", True),
        ("21.0625 °C", "21.125 °C\n", False),
        ("false", "", False),
        ("", "", True),
        ("", "an error that nobody shows\n", False),
        ("a\n...\nz", "a\nb\nc\nz\n", True),
        ("a\n...\nz", "a\nb\nc\n", False),
        ("A   B\n1 s  ok", "A      B\n120 min  ok\n", True),
        ("1 s  ok", "1 s  lost\n", False),
        ("Mon 2026-11-22 16:30:05  on", "Tue 2027-01-02 00:00:01  on\n", True),
        ("raspy-pi-20261122-163005.backup, 12 kB", "raspy-pi-20270102-000001.backup, 1.5 MB\n", True),
        ("off by -3600.000 s", "off by -3599.874 s\n", True),
        ("off by +0.000 s", "off by -0.013 s\n", True),
        ("off by +0.000 s", "off by +3599.874 s\n", False),
    ],
)
def test_what_is_shown_and_what_is_printed(shown: str, printed: str, same: bool) -> None:
    assert matches(shown, printed) is same


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """One on which nothing runs."""
    monkeypatch.setattr(chapters, "LIMIT_S", 5.0)
    made = Stage()
    yield made
    made.__exit__()


def test_a_command_that_does_something_else_is_found(stage: Stage) -> None:
    stage.run(Command("a.rst:1", "echo good", "good", 0))
    stage.run(Command("a.rst:1", "exit 3", "", 3))
    for text, shown, code, told in [
        ("exit 3", "", 0, "printed, with exit code 3"),
        ("echo good", "good", 1, "printed, with exit code 0"),
        ("echo bad", "good", 0, "    bad"),
        ("no-such-program", "", 0, "printed, with exit code 127"),
        ("sleep 60", "", 0, "not done within 5 s"),
    ]:
        with pytest.raises(ChapterError, match=rf"(?s)^a\.rst:1: \$ {text}.*{told}"):
            stage.run(Command("a.rst:1", text, shown, code))


def test_what_changes_something_is_run_once(stage: Stage) -> None:
    with pytest.raises(ChapterError):
        stage.run(Command("a.rst:1", "echo x >> count; cat count", "x x x", 0))
    assert (stage.home / "count").read_text() == "x\n"


@pytest.mark.parametrize("words", ["plug nothing", "unplug 28-031655c9d5ff", "ntp soon", "rain", ""])
def test_an_event_that_cannot_be_is_refused(stage: Stage, words: str) -> None:
    with pytest.raises(ChapterError, match="nobody knows how"):
        stage.happen(Event("a.rst:1", words.split()))
