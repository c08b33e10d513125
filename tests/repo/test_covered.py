"""What is said of the coverage of a module."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]

CONFIG = """
[tool.coverage.run]
source = ["thing"]
branch = true
parallel = true
data_file = "build/coverage/data"
[tool.coverage.html]
directory = "build/coverage/html"
[tool.coverage.xml]
output = "build/coverage/coverage.xml"
[tool.coverage.json]
output = "build/coverage/coverage.json"
"""

MODULE = """
def sign(number):
    if number < 0:
        return -1
    return 1
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "thing").mkdir()
    (tmp_path / "thing/__init__.py").touch()
    (tmp_path / "thing/signs.py").write_text(MODULE)
    (tmp_path / "pyproject.toml").write_text(CONFIG)
    return tmp_path


def run(tree: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE_")}
    return subprocess.run(
        [sys.executable, *words],
        cwd=tree,
        env={**env, "PYTHONPATH": str(TOP)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def measure(tree: Path, *numbers: int) -> None:
    for number in numbers:
        (tree / "use.py").write_text(f"from thing.signs import sign\nsign({number})\n")
        done = run(tree, "-m", "coverage", "run", "use.py")
        assert done.returncode == 0, done.stderr


def test_what_several_processes_reached_together_is_good(tree: Path) -> None:
    measure(tree, 1, -1)
    # Of a process that was killed while it wrote.
    (tree / "build/coverage/data.vm.pid1.Xabcdefg").write_bytes(b"SQLite")
    done = run(tree, "-m", "tests.covered")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout.startswith("coverage: 100.0 % of 2 modules, least 100.0 % of thing/"), done.stdout
    assert (tree / "build/coverage/html/index.html").exists()


def test_a_branch_that_was_not_taken_fails(tree: Path) -> None:
    measure(tree, 1)
    done = run(tree, "-m", "tests.covered")
    assert done.returncode == 1
    # Three of four statements and one of two branches.
    assert done.stderr == f"coverage: {os.path.join('thing', 'signs.py')}: 66.7 %, below 90 %\n"


SKIPPED = '<testcase name="a"><skipped type="pytest.{}" message="needs root" /></testcase>'
REPORT = '<testsuites><testsuite><testcase name="b" />{}</testsuite></testsuites>'


@pytest.mark.parametrize(("more", "code"), [(SKIPPED.format("skip"), 0), (SKIPPED.format("xfail"), 1), ("", 1)])
def test_where_tests_were_skipped_it_is_told_and_not_judged(tree: Path, more: str, code: int) -> None:
    measure(tree, 1)
    (tree / "tests.xml").write_text(REPORT.format(more))
    done = run(tree, "-m", "tests.covered", "tests.xml")
    assert done.returncode == code, done.stderr
    assert "signs.py: 66.7 %, below 90 %" in done.stderr
    assert ("1 of the measured tests were skipped here" in done.stdout) is (code == 0)


def test_a_module_that_nothing_imports_fails(tree: Path) -> None:
    (tree / "thing/other.py").write_text("NAME = 1\n")
    measure(tree, 1, -1)
    done = run(tree, "-m", "tests.covered")
    assert done.returncode == 1
    assert "thing/other.py: 0.0 %, below 90 %" in done.stderr


def test_nothing_measured_fails(tree: Path) -> None:
    done = run(tree, "-m", "tests.covered")
    assert done.returncode == 1
    assert "coverage: " in done.stderr


def test_the_measured_files_are_there_once() -> None:
    lines = [line for line in (TOP / "tests/measured.txt").read_text().splitlines() if not line.startswith("#")]
    assert sorted(lines) == sorted(set(lines))
    assert [line for line in lines if not (TOP / line).is_file()] == []
