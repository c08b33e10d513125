"""Under CI=true, a skip for want of something fails its test; any other skip stays one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# Each starts pytest anew.
pytestmark = pytest.mark.slow

TESTS = Path(__file__).parents[1]

CASES = """
import pytest
from tests.support import need_module, need_program, need_root

def test_body():
    need_program("no-such-program")

@pytest.fixture
def program():
    return need_program("no-such-program")

def test_fixture(program):
    pass

def test_module():
    need_module("no_such_module.inside")

def test_there():
    assert need_program("sh").endswith("/sh")
    assert need_module("json").loads("1") == 1

def test_other_reason():
    pytest.skip("not on a Sunday")

@pytest.mark.skipif(True, reason="needs a Sunday")
def test_mark():
    pass

@pytest.mark.xfail(reason="needs mending")
def test_xfail():
    raise AssertionError
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    (tmp_path / "tests").mkdir()
    for name in ("conftest.py", "support.py"):
        shutil.copy(TESTS / name, tmp_path / "tests")
    (tmp_path / "tests/test_cases.py").write_text(CASES)
    (tmp_path / "tests/test_module.py").write_text(
        "from tests.support import need_program\nneed_program('no-such-program')\n"
    )
    return tmp_path


def run(suite: Path, ci: str) -> tuple[int, str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "COVERAGE_"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-o", "pythonpath=."],
        cwd=suite,
        env={**env, "CI": ci},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout


def test_elsewhere_it_skips_and_says_what_to_install(suite: Path) -> None:
    code, output = run(suite, "")
    assert code == 0, output
    assert "1 passed, 6 skipped, 1 xfailed" in output
    assert "needs no-such-program: sudo apt-get install no-such-program" in output


def test_under_ci_it_fails(suite: Path) -> None:
    code, output = run(suite, "true")
    assert code != 0
    # The module that needs a program is an error of the collection, which stops the rest.
    assert "test_module.py" in output
    assert "nothing may be missing" in output

    (suite / "tests/test_module.py").unlink()
    code, output = run(suite, "true")
    assert code == 1, output
    assert "2 failed, 1 passed, 1 skipped, 1 xfailed, 2 errors" in output
    assert "not on a Sunday" in output


def test_a_broken_module_is_not_a_missing_one(suite: Path) -> None:
    (suite / "broken.py").write_text("import no_such_module\n")
    (suite / "tests/test_cases.py").write_text(
        "from tests.support import need_module\ndef test_it():\n    need_module('broken')\n"
    )
    (suite / "tests/test_module.py").unlink()
    code, output = run(suite, "")
    assert code == 1
    assert "1 failed" in output
