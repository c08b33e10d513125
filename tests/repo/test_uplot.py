"""uPlot is fetched with npm, believed by its checksum alone, and never needed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.repo.test_make import TOP, bare_path, interpreter, run, tree
from tests.support import need_program

__all__ = ["tree"]

STATIC = Path("raspy") / "web" / "static"
TOOLS = ("head", "install", "mktemp", "mv", "rm", "tail", "tar", "timeout")


@pytest.fixture
def ready(tree: Path) -> Path:
    """A copy of the sources with a .venv that is good, and without uPlot."""
    binaries = tree / ".venv" / "bin"
    binaries.mkdir(parents=True)
    interpreter(binaries, "python", f'exec "{sys.executable}" "$@"')
    (binaries / "activate").write_text(f'VIRTUAL_ENV="{tree}/.venv"\n')
    for name in ("uplot.js", "uplot.css"):
        (tree / STATIC / name).unlink(missing_ok=True)
    return tree


def tools(ready: Path) -> Path:
    path = Path(bare_path(ready))
    for name in TOOLS:
        (path / name).symlink_to(need_program(name))
    return path


def fetched(ready: Path) -> list[str]:
    return sorted(path.name for path in (ready / STATIC).glob("uplot*"))


def test_without_npm_one_line_says_so(ready: Path) -> None:
    done = run(ready, "scripts/bootstrap", "charts", PATH=str(tools(ready)))
    assert done.returncode == 0
    assert done.stderr == "bootstrap: charts cannot be zoomed: there is no npm here to fetch uPlot with\n"
    assert fetched(ready) == []


def test_a_package_of_another_checksum_is_not_used(ready: Path) -> None:
    path = tools(ready)
    interpreter(path, "npm", "echo no package > uplot-1.6.32.tgz")
    done = run(ready, "scripts/bootstrap", "charts", PATH=str(path))
    assert done.returncode == 0
    assert "what npm fetched is not the uPlot 1.6.32 that is known here" in done.stderr
    assert fetched(ready) == []


def test_without_a_network_it_goes_on(ready: Path) -> None:
    path = tools(ready)
    interpreter(path, "npm", "echo no network >&2; exit 1")
    done = run(ready, "scripts/bootstrap", "charts", PATH=str(path))
    assert done.returncode == 0
    assert "no network" in done.stderr
    assert "npm could not fetch uPlot" in done.stderr
    assert fetched(ready) == []


def test_what_is_there_is_not_fetched_again(ready: Path) -> None:
    path = tools(ready)
    (ready / STATIC / "uplot.js").write_text("/*! https://github.com/leeoniya/uPlot (v1.6.32) */")
    (ready / STATIC / "uplot.css").write_text(".uplot {}")
    interpreter(path, "npm", "exit 3")
    done = run(ready, "scripts/bootstrap", "charts", PATH=str(path))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_the_real_one_is_what_is_known(ready: Path) -> None:
    need_program("npm")
    done = run(ready, "scripts/bootstrap", "charts")
    assert done.returncode == 0
    if "Is there a network?" in done.stderr:
        pytest.skip("needs the network")
    assert fetched(ready) == ["uplot.css", "uplot.js"]


def test_it_is_not_committed() -> None:
    assert "/raspy/web/static/uplot.*" in (TOP / ".gitignore").read_text().splitlines()
