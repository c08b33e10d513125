"""The man pages have what the program declares, and are good for man(7)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from raspy.cli import COMMANDS
from raspy.cli.completion import actions
from tests.repo.test_docs import KEYS, TOP
from tests.support import need_program

PAGES = {1: "man1/raspy.1", 5: "man5/raspy.toml.5"}


def make(target: Path, columns: str = "80") -> dict[int, str]:
    """Write both pages; return their sources."""
    subprocess.run(
        [sys.executable, TOP / "docs/_ext/man_pages.py", target], check=True, timeout=60, env={"COLUMNS": columns}
    )
    return {number: (target / name).read_text(encoding="utf-8") for number, name in PAGES.items()}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """The sources of both."""
    return make(tmp_path_factory.mktemp("man"))


def shown(source: str) -> str:
    """A page as man(1) shows it, in one line."""
    done = subprocess.run(
        [
            need_program("groff"),
            "-Kutf8",
            "-Tutf8",
            "-man",
            "-ww",
            "-Wbreak",
            "-P-c",
            "-P-b",
            "-P-u",
            "-P-o",
            "-rLL=200n",
        ],
        input=source,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stderr == "", "groff warns of nothing"
    return " ".join(re.sub("\x1b\\[[0-9;]*m", "", done.stdout).split())


def test_every_command_verb_and_option(pages: dict[int, str]) -> None:
    text = shown(pages[1])
    assert [name for name, (_, about) in COMMANDS.items() if f"raspy {name}" not in text] == []
    known = actions()
    assert [words for words in known if f"raspy {words}" not in text] == []
    assert {option for options in known.values() for option in options if option not in text} == set()
    for part in ("NAME raspy - ", "EXIT STATUS", "ENVIRONMENT", "/etc/raspy/raspy.toml", "SEE ALSO raspy.toml(5)"):
        assert part in text
    # What is typed is shown as it is typed.
    assert "raspy cron new feeding '0 8,18 * * *' scenario=feed" in text
    assert 'raspy device edit room label="Living room" poll=30' in text


def test_every_key_with_its_default(pages: dict[int, str]) -> None:
    text = shown(pages[5])
    # Each part begins with its head and ends with the next one.
    heads = [*(f" [{section}] " for section in KEYS), " EXAMPLE "]
    for (section, keys), head, following in zip(KEYS.items(), heads, heads[1:], strict=False):
        part = text.partition(head)[2].partition(following)[0]
        assert part.count("default: ") == len(keys), section
        assert [key for key in keys if f" {key} " not in f" {part}"] == []
    assert "Who this host is, and where the broker is. hostname Name of this Pi on the bus" in text
    assert "``" not in text
    assert "\\" not in re.sub(r"\^[^ ]+", "", text), "only patterns have backslashes"


def test_same_program_same_pages(tmp_path: Path, pages: dict[int, str]) -> None:
    assert make(tmp_path, columns="40") == pages


def test_wrong_use() -> None:
    done = subprocess.run(
        [sys.executable, TOP / "docs/_ext/man_pages.py"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (1, "usage: man_pages.py DIRECTORY\n")
