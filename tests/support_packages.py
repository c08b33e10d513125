"""Packages beside RasPy: installed by pip, as their owners do, and the commands of a chapter that are about them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support_processes import TOP

BUILDER = TOP / ".venv" / "packaging"
"""Where `scripts/bootstrap packaging` puts what pip builds with."""


def install(source: Path, site: Path) -> None:
    """Install a package into a directory, without a network."""
    if not (BUILDER / "setuptools").is_dir():
        _unpack(source, site)
        return
    _pip("install", "--target", str(site), str(source))


def wheel(source: Path, target: Path) -> Path:
    """Build the wheel of a package, without a network.

    :raises pytest.skip.Exception: there is nothing to build it with
    """
    if not (BUILDER / "setuptools").is_dir():
        pytest.skip("needs setuptools: scripts/bootstrap tests fetches it")
    _pip("wheel", "--wheel-dir", str(target), str(source))
    (made,) = target.glob("*.whl")
    return made


def _pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", *words, "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*command, "--no-index", "--no-deps", "--no-build-isolation"],
        env={**os.environ, "PYTHONPATH": str(BUILDER), "PIP_CONFIG_FILE": os.devnull},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _unpack(source: Path, site: Path) -> None:
    """What pip would leave there."""
    project = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))
    site.mkdir(exist_ok=True)
    for name in project["tool"]["setuptools"]["py-modules"]:
        shutil.copy(source / f"{name}.py", site)
    lines = []
    for group, entries in project["project"]["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {place}" for name, place in entries.items())]
    name, version = project["project"]["name"].replace("-", "_"), project["project"]["version"]
    inform(site, "\n".join(lines), f"{name}-{version}.dist-info")


def inform(site: Path, text: str | bytes, name: str = "some-1.0.dist-info") -> Path:
    """What pip leaves of a package's entry points."""
    (site / name).mkdir(parents=True)
    file = site / name / "entry_points.txt"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


@contextmanager
def on_the_path(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have this process find the packages in a directory first; what it has loaded of them is forgotten afterwards."""
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "") or "").startswith(str(site)):
            del sys.modules[name]


def commands(page: str) -> list[tuple[str, str]]:
    """The commands of a page's sessions, each with the output that is shown."""
    text = (TOP / "docs" / page).read_text(encoding="utf-8")
    found: list[tuple[str, str]] = []
    for block in re.findall(r"\.\. code-block:: console\n\n((?:   .*\n|\n)+)", text):
        for part in re.split(r"^\$ ", textwrap.dedent(block), flags=re.M)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output.strip()))
    return found


def looks_like(shown: str, printed: str) -> bool:
    """Whether an output is as a page shows it, where … stands for anything, and spaces are not counted."""
    pattern = ".*".join(re.escape(" ".join(part.split())) for part in shown.split("…"))
    flat = " ".join(printed.split())
    return re.fullmatch(pattern.replace(r"\ ", " ?"), flat, re.S) is not None


if __name__ == "__main__":
    # In place of pip on the PATH of a chapter's commands: SITE install .
    assert sys.argv[2:] == ["install", "."], sys.argv
    install(Path.cwd(), Path(sys.argv[1]))
