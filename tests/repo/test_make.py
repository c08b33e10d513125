"""The Makefile and the scripts behind it, in a copy of the tree."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import need_program

TOP = Path(__file__).parents[2]
PARTS = ("Makefile", "setup.cfg", "pyproject.toml", "README.md", "LICENSE", "scripts", "raspy", "docs", "systemd")
# What the scripts call up to the point where they would need apt.
TOOLS = ("bash", "basename", "cat", "dirname", "flock", "grep", "id", "sha256sum")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the sources, without .venv, in a directory whose name needs quoting."""
    top = tmp_path / "a clone"
    top.mkdir()
    for part in PARTS:
        source = TOP / part
        if source.is_dir():
            shutil.copytree(source, top / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, top / part)
    return top


def run(tree: Path, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "PYTHON"))}
    return subprocess.run(command, cwd=tree, env={**inherited, **env}, capture_output=True, text=True, timeout=500)


def interpreter(directory: Path, name: str, body: str) -> str:
    """A stand-in for an interpreter that this machine does not have."""
    path = directory / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def bare_path(directory: Path) -> str:
    """A PATH without apt-get and sudo."""
    tools = directory / "tools"
    tools.mkdir()
    for name in TOOLS:
        (tools / name).symlink_to(need_program(name))
    return str(tools)


def test_help_is_the_default_and_lists_every_target() -> None:
    make = need_program("make")
    done = run(TOP, make)
    phony = re.search(r"^\.PHONY: (.*)$", (TOP / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    assert done.returncode == 0
    assert re.findall(r"^make ([a-z-]+) +\S", done.stdout, re.MULTILINE) == phony.group(1).split()


def test_an_old_python_is_refused_in_one_line(tree: Path) -> None:
    old = interpreter(tree, "python3.9", 'case $1 in -V) echo "Python 3.9.2" ;; *) exit 1 ;; esac')
    done = run(tree, need_program("make"), "start", PYTHON=old)
    assert done.returncode == 2
    line, make_says = done.stderr.splitlines()
    assert line == f"bootstrap: {old} is Python 3.9.2; RasPy needs Python 3.11 or newer (PYTHON=… names another)"
    assert make_says.startswith("make: ***")
    assert not (tree / ".venv").exists()


def test_no_python_is_said_in_one_line(tree: Path) -> None:
    done = run(tree, "scripts/bootstrap", "run", PYTHON="no-such-python")
    assert done.returncode == 2
    assert done.stderr.startswith("bootstrap: there is no no-such-python here;")
    assert done.stderr.count("\n") == 1


def test_without_rights_the_apt_line_is_named(tree: Path) -> None:
    lacking = interpreter(tree, "python3", 'case "$*" in *ensurepip*) exit 1 ;; -V) echo "Python 3.11.2" ;; esac')
    done = run(tree, "scripts/bootstrap", "run", PYTHON=lacking, PATH=bare_path(tree))
    assert done.returncode == 2
    assert done.stderr == (
        f"bootstrap: {lacking} cannot make virtual environments; run: sudo apt-get install python3-venv\n"
    )


def test_an_unknown_part_is_refused(tree: Path) -> None:
    for arguments in (["everything"], ["run", "everything"], []):
        done = run(tree, "scripts/bootstrap", *arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("bootstrap: cannot prepare for ")
        assert not (tree / ".venv").exists()


def test_install_refuses_what_it_did_not_make(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "lib/raspy").mkdir(parents=True)
    (tmp_path / "lib/raspy/precious").touch()
    done = run(tree, "scripts/install", PREFIX=str(tmp_path))
    assert done.returncode == 2
    assert "was not made by make install" in done.stderr
    assert run(tree, "scripts/install", "--remove", PREFIX=str(tmp_path)).returncode == 0
    assert (tmp_path / "lib/raspy/precious").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_bootstrap_makes_keeps_and_mends_the_venv(tree: Path) -> None:
    python = str(Path(sys.executable).resolve())
    first = run(tree, "scripts/bootstrap", "run", PYTHON=python)
    assert first.returncode == 0, first.stderr
    assert "making .venv" in first.stderr

    # The package is found through a plain path, and the script imports nothing but what it must.
    paths = [file.read_text().strip() for file in tree.glob(".venv/lib/python3*/site-packages/*raspy*.pth")]
    assert paths == [str(tree)]
    script = (tree / ".venv/bin/raspy").read_text()
    assert "from raspy.cli import main" in script
    assert "import re\n" not in script

    again = run(tree, "scripts/bootstrap", "run")
    assert (again.returncode, again.stderr) == (0, "")

    with (tree / "setup.cfg").open("a") as file:
        file.write("\n# changed\n")
    changed = run(tree, "scripts/bootstrap", "run")
    assert changed.returncode == 0, changed.stderr
    assert "installing RasPy" in changed.stderr
    assert "making .venv" not in changed.stderr

    # As after an interrupted first run, or an upgrade that took the interpreter away.
    for python_link in (tree / ".venv/bin").glob("python*"):
        python_link.unlink()
    mended = run(tree, "scripts/bootstrap", "run", PYTHON=python)
    assert mended.returncode == 0, mended.stderr
    assert "making .venv" in mended.stderr
    assert run(tree, ".venv/bin/python", "-c", "import raspy, zmq, bottle").returncode == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_installed_raspy_is_complete_and_goes_away_again(tree: Path, tmp_path: Path) -> None:
    prefix = tmp_path / "prefix"
    done = run(tree, need_program("make"), "install", PYTHON=sys.executable, PREFIX=str(prefix))
    assert done.returncode == 0, done.stderr
    installed = next(prefix.glob("lib/raspy/lib/python3*/site-packages/raspy"))
    wanted = {path.relative_to(tree / "raspy") for path in (tree / "raspy").rglob("*") if path.is_file()}
    found = {path.relative_to(installed) for path in installed.rglob("*") if path.suffix != ".pyc"}
    assert wanted - found == set()
    assert (prefix / "bin/raspy").resolve().is_file()
    for page in ("man1/raspy.1", "man5/raspy.toml.5"):
        assert (prefix / "share/man" / page).read_text().startswith(".TH raspy")
    run(tree, need_program("make"), "uninstall", PREFIX=str(prefix))
    assert [path for path in prefix.rglob("*") if not path.is_dir()] == []
