"""An owner's editor: which one is started, and that what was written is never lost; and words of raspy run."""

from __future__ import annotations

import os
import runpy
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raspy import __version__
from raspy.cli import editor, main, run
from raspy.common import MDP
from tests.cli.support_here import handlers_kept

TOP = Path(__file__).resolve().parents[2]


class Kept:
    """Code that is kept somewhere, and what is done to it."""

    def __init__(self) -> None:
        self.now = "print(1)\n"
        self.saved: list[str] = []
        self.problems: list[str] = []
        """What is wrong with the code, one time after the other."""

    def edit(self) -> Any:
        return editor.edit_code("feed/ing", "print(1)\n", self.check, lambda: self.now, self.save)

    def check(self, code: str) -> str:
        return self.problems.pop(0) if self.problems else ""

    def save(self, code: str) -> str:
        self.saved.append(code)
        return "saved"

    def lost(self) -> str:
        """What an edit says that is not saved, without the path of its text."""
        with pytest.raises(MDP.ClientError) as error:
            self.edit()
        said, _, path = str(error.value).partition("; nothing is saved, the text is in ")
        assert Path(path).name.startswith("raspy-feeding-")
        assert self.saved == []
        return said


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """What EDITOR is: a script in sh."""
    (tmp_path / "texts").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "texts"))

    def write(text: str) -> None:
        path = tmp_path / "an editor"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        monkeypatch.setenv("VISUAL", f"'{path}' -w")
        monkeypatch.setenv("EDITOR", "/nowhere/editor")

    return write


def texts() -> list[str]:
    """The texts that are left for an owner."""
    return [Path(tempfile.gettempdir(), name).read_text() for name in os.listdir(tempfile.gettempdir())]


def test_what_was_edited_is_saved_and_nothing_is_left(kept: Kept, script: Callable[[str], None]) -> None:
    script('[ "$1" = -w ] && echo "print(2)" >> "$2"')
    assert kept.edit() == "saved"
    assert kept.saved == ["print(1)\nprint(2)\n"]
    assert texts() == []


def test_what_is_left_as_it_was_is_not_saved(
    kept: Kept, script: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    script("true")
    assert kept.edit() is None
    assert capsys.readouterr().err == "raspy: nothing was changed\n"
    assert kept.saved == []
    assert texts() == []


def test_what_cannot_be_saved_is_left_for_its_owner(kept: Kept, script: Callable[[str], None]) -> None:
    script('echo "print(2)" > "$2"')
    kept.problems = ["line 1: no"]
    assert kept.lost() == "line 1: no"
    assert texts() == ["print(2)\n"]
    kept.now = "print(3)\n"
    assert kept.lost() == "somebody else has changed feed/ing meanwhile"
    script('printf "\\377" > "$2"')
    assert "can't decode" in kept.lost()
    script("exit 3")
    assert kept.lost().endswith("an editor ended with 3")


def test_an_editor_that_is_not_there(
    kept: Kept, script: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISUAL", "/nowhere/editor")
    assert kept.lost() == "/nowhere/editor cannot be started: No such file or directory; set EDITOR to an editor"
    monkeypatch.setenv("VISUAL", "vi 'x")
    with pytest.raises(MDP.ClientError, match=r"^VISUAL: \"vi 'x\" is no command: No closing quotation$"):
        kept.edit()


def test_where_none_is_named_the_first_that_is_there_is_taken(
    kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("VISUAL", "EDITOR"):
        monkeypatch.setenv(variable, " ")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MDP.ClientError, match="no editor is found: set EDITOR to one, as EDITOR=nano, or give --code"):
        kept.edit()
    for name in ("vi", "nano"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
        assert editor._editor() == [name]


class Answers:
    """A terminal at which somebody answers."""

    def __init__(self, *lines: str) -> None:
        self.lines = list(lines)

    def isatty(self) -> bool:
        return True

    def readline(self) -> str:
        return self.lines.pop(0)


def test_somebody_at_a_terminal_may_edit_it_again(
    kept: Kept, script: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script('echo "# again" >> "$2"')
    kept.problems = ["line 1: no", "line 2: no"]
    answers = Answers("\n", "yes\n")
    monkeypatch.setattr(sys, "stdin", answers)
    assert kept.edit() == "saved"
    assert kept.saved == ["print(1)\n" + 3 * "# again\n"], "the text is edited on, not begun anew"
    assert answers.lines == []
    assert capsys.readouterr().err == "".join(f"raspy: line {number}: no\nEdit it again? [Y/n] " for number in (1, 2))
    kept.saved.clear()
    kept.problems = ["line 1: no"]
    answers.lines = ["n\n"]
    assert kept.lost() == "line 1: no"


# ---------------------------------------------------------------- run, and the package as a program


@pytest.mark.parametrize("words", [["--config"], ["x"], ["--confg=x"], ["--json", "--all"]])
def test_words_that_run_does_not_know(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(words) == 2
    assert capsys.readouterr().err == (
        f"raspy: run: {words[-1]!r} is not known, or lacks its value; raspy run --help shows what is\n"
    )


@pytest.mark.parametrize("words", [["--config", "{}"], ["--config={}"], ["--json", "--config", "{}"]])
def test_run_with_a_configuration_that_is_not_there(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "raspy.toml")
    with handlers_kept():
        assert run.main([word.format(path) for word in words]) == 2
    assert f"{path}: cannot be read: No such file or directory" in capsys.readouterr().err


def test_help_of_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: raspy run [--config FILE] [--json]\n")


@pytest.mark.parametrize("how", ["module", "path"])
def test_the_package_is_a_program(
    how: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["raspy", "--version"])
    monkeypatch.setattr(sys, "path", [str(TOP / "raspy"), *sys.path[1:]])
    act, what = (runpy.run_module, "raspy") if how == "module" else (runpy.run_path, str(TOP / "raspy" / "__main__.py"))
    with pytest.raises(SystemExit) as end:
        act(what, run_name="__main__")
    assert end.value.code == 0
    assert capsys.readouterr().out == f"raspy {__version__}\n"
    # Our own directory would offer raspy/common and the like as modules of any program.
    assert (str(TOP / "raspy") in sys.path) == (how == "module")


def test_the_program_may_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert runpy.run_path(str(TOP / "raspy" / "__main__.py"), run_name="other")["main"] is main
