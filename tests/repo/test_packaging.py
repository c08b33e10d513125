"""The wheel and the archive of the sources: what is in them, that they are the same each time, and that they work."""

from __future__ import annotations

import configparser
import email.parser
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from raspy import __version__
from tests.repo.test_docs import TOP
from tests.support import need_program
from tests.support_processes import Appliance, environment, wait_for

pytestmark = pytest.mark.slow

NAME = f"raspy-{__version__}"
BESIDE = {"share/man/man1/raspy.1", "share/man/man5/raspy.toml.5"}
"""What is made for both, besides systemd's files."""
UPLOT = {"raspy/web/static/uplot.js", "raspy/web/static/uplot.css"}
"""Fetched, never committed, and not always there."""
QUICK = [
    "tests/common/test_kvsimple.py",
    "tests/common/test_MDP.py",
    "tests/cli/test_table.py",
    "tests/repo/test_docs.py",
]
"""Tests of the archive in itself here; all the quick ones are `make test-sdist`."""


def build(script: str, target: Path) -> Path:
    """What a script builds of these sources."""
    done = subprocess.run([TOP / "scripts" / script, target], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


@pytest.fixture(scope="module")
def clone() -> set[str]:
    """The files that git knows here."""
    git = need_program("git")
    done = subprocess.run([git, "ls-files", "-z"], cwd=TOP, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0 or not done.stdout:
        pytest.skip("no clone of git: what is in a package is compared with what git knows")
    return set(done.stdout.strip("\0").split("\0"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel."""
    return build("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(clone: set[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive."""
    del clone  # there is one
    return build("sdist", tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def unpacked(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory in the archive, unpacked."""
    place = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(place, filter="data")
    return place / NAME


def of_systemd(clone: set[str]) -> set[str]:
    """Where systemd's files are in a package."""
    files = {path.removeprefix("systemd/") for path in clone if path.startswith("systemd/")}
    return {f"share/raspy/{'systemd/' if name.startswith(('raspy', 'appliance')) else ''}{name}" for name in files}


def in_wheel(path: Path) -> set[str]:
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


def test_the_wheel_has_what_git_has_of_the_package(clone: set[str], wheel: Path) -> None:
    """Templates, static files, words and examples included; and nothing that it has not."""
    names = in_wheel(wheel)
    package = {path for path in clone if path.startswith("raspy/")}
    for kind in ("templates/", "static/", "words/", "core/examples/", "py.typed"):
        assert any(kind in path for path in package), f"the test knows of {kind}"
    data = {f"{NAME}.data/data/{path}" for path in BESIDE | of_systemd(clone)}
    about = {
        f"{NAME}.dist-info/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt")
    }
    found = {name for name in names if not re.fullmatch(rf"{NAME}\.dist-info/(licenses/)?LICENSE", name)}
    assert len(names - found) == 1, "the licence"
    assert found - UPLOT == package | data | about


def test_the_archive_has_what_git_has(clone: set[str], sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {member.name.removeprefix(f"{NAME}/") for member in archive if member.isfile()}
        assert {member.uid for member in archive} == {0}
        modes = {member.name.removeprefix(f"{NAME}/"): member.mode for member in archive if member.isfile()}
    made = {"PKG-INFO", "MANIFEST.in"} | BESIDE | of_systemd(clone)
    assert {name for name in names if not name.startswith("raspy.egg-info/")} - UPLOT == clone | made
    assert modes["scripts/wheel"] == 0o755
    assert modes["README.md"] == 0o644


@pytest.mark.parametrize("script", ["wheel", "sdist"])
def test_same_sources_same_bytes(
    script: str, tmp_path: Path, clone: set[str], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the time, the umask, the place and the language."""
    del clone
    first: Path = request.getfixturevalue(script)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    before = os.umask(0o077)
    try:
        second = build(script, tmp_path / "again")
    finally:
        os.umask(before)
    assert second.read_bytes() == first.read_bytes()


def test_the_archive_builds_the_same_wheel(unpacked: Path, wheel: Path, tmp_path: Path) -> None:
    """As pip does it, with what is in the archive alone."""
    subprocess.run(
        [sys.executable, "-c", f"from setuptools import build_meta; build_meta.build_wheel({str(tmp_path)!r})"],
        cwd=shutil.copytree(unpacked, tmp_path / "sources"),
        env={
            **os.environ,
            "PYTHONPATH": str(TOP / ".venv/packaging"),
            "SOURCE_DATE_EPOCH": str(int((unpacked / "PKG-INFO").stat().st_mtime)),
        },
        check=True,
        capture_output=True,
        timeout=120,
    )
    assert next(tmp_path.glob("*.whl")).read_bytes() == wheel.read_bytes()


def test_the_archive_runs_its_tests(unpacked: Path) -> None:
    """A quick part of them, on what it has itself."""
    where = "import raspy; print(raspy.__file__)"
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *QUICK]
    for command, expected in (([sys.executable, "-c", where], str(unpacked / "raspy/__init__.py")), (tests, " passed")):
        done = subprocess.run(command, cwd=unpacked, capture_output=True, text=True, timeout=110, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert expected in done.stdout


def test_the_archive_can_be_laid_out_again(unpacked: Path, tmp_path: Path) -> None:
    """As scripts/wheel does it there; its setup.cfg names the files already, as setuptools has written it anew."""
    sources = shutil.copytree(unpacked, tmp_path / "sources")
    (sources / ".venv").symlink_to(TOP / ".venv")
    (tmp_path / "stage").mkdir()
    parts = ["raspy", "setup.cfg", "pyproject.toml"]
    subprocess.run([sources / "scripts/stage", tmp_path / "stage", *parts], check=True, timeout=60)
    setup = configparser.ConfigParser()
    setup.read(tmp_path / "stage/setup.cfg")
    named = [name for names in setup["options.data_files"].values() for name in names.split()]
    assert set(named) == {str(path.relative_to(unpacked)) for path in (unpacked / "share").rglob("*") if path.is_file()}
    assert (tmp_path / "stage/setup.cfg").stat().st_mtime == (unpacked / "PKG-INFO").stat().st_mtime


def test_no_archive_without_git(tmp_path: Path) -> None:
    shutil.copytree(TOP / "scripts", tmp_path / "scripts")
    done = subprocess.run(
        [tmp_path / "scripts/sdist"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)},
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"sdist: {tmp_path} is no clone: an archive is made of what git knows\n"


def test_what_the_wheel_says_of_itself(wheel: Path) -> None:
    """As the index of Python's packages wants it (core metadata, PEP 566 and later)."""
    with zipfile.ZipFile(wheel) as archive:
        about = email.parser.Parser().parsestr(archive.read(f"{NAME}.dist-info/METADATA").decode())
        points = archive.read(f"{NAME}.dist-info/entry_points.txt").decode()
    assert (about["Name"], about["Version"]) == ("raspy", __version__)
    for field in ("Summary", "Requires-Python", "Author"):
        assert about[field]
    assert "\n" not in about["Summary"]
    assert about["Description-Content-Type"] == "text/markdown"
    assert about.get_payload().strip() == (TOP / "README.md").read_text(encoding="utf-8").strip()
    assert {"web", "hardware", "docs", "tests"} <= set(about.get_all("Provides-Extra", []))
    assert points.split() == ["[console_scripts]", "raspy", "=", "raspy.cli:main"]


def test_the_version_is_in_one_place(clone: set[str]) -> None:
    setup = configparser.ConfigParser()
    setup.read(TOP / "setup.cfg")
    assert setup["metadata"]["version"] == "attr: raspy.__version__"
    line = re.compile(r"^__version__ = ", re.M)
    python = [path for path in clone if path.endswith(".py") and not path.startswith("tests/")]
    assert [path for path in python if line.search((TOP / path).read_text(encoding="utf-8"))] == ["raspy/__init__.py"]


@pytest.mark.timeout(600)
def test_the_wheel_alone_runs(wheel: Path, tmp_path: Path) -> None:
    """Without the extra web there is no page, which is said, and what to do; the rest runs."""
    home = tmp_path / "fresh"
    subprocess.run([sys.executable, "-m", "venv", home], check=True, timeout=120)
    pip = [home / "bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check", "--prefer-binary"]
    subprocess.run([*pip, wheel], check=True, capture_output=True, timeout=300)
    assert (home / "share/man/man1/raspy.1").exists()
    known = {key: value for key, value in environment().items() if key != "PYTHONPATH"}
    appliance = Appliance(["broker", "titanic", "onewire", "fake", "logger", "core", "alarm"])
    known["XDG_STATE_HOME"] = str(appliance.directory)
    command = [home / "bin/raspy", "run", "--config", appliance.config]
    try:
        with_page = {**known, "RASPY_RUN_SERVERS": '["broker", "fake", "web"]'}
        done = subprocess.run(
            command, env=with_page, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 2
        assert re.fullmatch(
            r"raspy: the page needs the Python package \w+: pip install 'raspy\[web\]', .*\n", done.stderr
        )
        with open(appliance.log_path, "wb") as log:
            by_default = {**known, "RASPY_RUN_SERVERS": "[]"}
            appliance.process = subprocess.Popen(command, env=by_default, cwd=tmp_path, stdout=log, stderr=log)
        appliance.wait_all()
        assert (
            "web is left out, as Python's bottle and cheroot cannot be imported: pip install 'raspy[web]'"
            in appliance.log
        )
        look = [home / "bin/raspy", "doctor", "--json", "--config", appliance.config]
        done = subprocess.run(look, env=by_default, cwd=tmp_path, capture_output=True, timeout=60, check=False)
        (page,) = [each for each in json.loads(done.stdout)["findings"] if each["check"] == "page"]
        assert page["result"] == "warning"
        assert "so the page cannot be served" in page["found"]
        readings = wait_for("readings", lambda: appliance.json("devices"))
        assert any(reading["device"].startswith("pi.fake.") for reading in readings)
        assert appliance.stop() == 0
    finally:
        appliance.destroy()
