"""scripts/release in a small clone, whose steps are quick and can fail: what it refuses, and what it leaves."""

from __future__ import annotations

import datetime
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.repo.test_docs import TOP
from tests.support import need_program

TODAY = datetime.datetime.now(datetime.UTC).date()
CHANGELOG = (
    f"# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - {TODAY}\n\n- Something new.\n\n## [0.1.0] - 2026-01-05\n\n- All.\n"
)
MAKEFILE = (
    "lint tests docs:\n\t@echo $@ CI=$$CI $(ARGS)$$PYTEST_ADDOPTS >>build/log\n\t@test ! -e build/fail-$@\n"
    "\t@test ! -e build/do-$@ || sh build/do-$@\n"
)
PACKAGE = f"""\
#!{sys.executable}
# What scripts/wheel and scripts/sdist build, without a program in it.
import io, os, pathlib, re, sys, tarfile, zipfile
if os.path.exists("build/fail-packages"):
    sys.exit(1)
version = re.search('"([0-9.]+)"', open("raspy/__init__.py").read())[1]
told = pathlib.Path("build/told").read_text() if os.path.exists("build/told") else version
about = f"Metadata-Version: 2.1\\nName: raspy\\nVersion: {{told}}\\nSummary: a\\nRequires-Python: >=3.11\\n"
about = (about + "Description-Content-Type: text/markdown\\n\\nRasPy\\n").encode()
target = pathlib.Path(sys.argv[1])
target.mkdir(parents=True, exist_ok=True)
if sys.argv[0].endswith("wheel"):
    with zipfile.ZipFile(target / f"raspy-{{version}}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"raspy-{{version}}.dist-info/METADATA", about)
else:
    with tarfile.open(target / f"raspy-{{version}}.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo(f"raspy-{{version}}/PKG-INFO")
        member.size = len(about)
        archive.addfile(member, io.BytesIO(about))
"""


class Clone:
    """The clone.

    :param top: where it is made
    """

    def __init__(self, top: Path) -> None:
        self.top = top
        for name in ("scripts", "raspy/common", "build"):
            (top / name).mkdir(parents=True)
        shutil.copy(TOP / "scripts/release", top / "scripts/release")
        self.write("raspy/__init__.py", (TOP / "raspy/__init__.py").read_text())
        self.write(
            "raspy/__init__.py", re.sub('__version__ = ".*"', '__version__ = "0.1.0"', self.text("raspy/__init__.py"))
        )
        self.write("raspy/common/clock.py", (TOP / "raspy/common/clock.py").read_text())
        self.write("CHANGELOG.md", CHANGELOG)
        self.write("Makefile", MAKEFILE)
        self.write(".gitignore", "/build/\n")
        for name in ("wheel", "sdist"):
            self.write(f"scripts/{name}", PACKAGE)
            (top / "scripts" / name).chmod(0o755)
        self.git("init", "-q", "-b", "main")
        self.commit("first")
        self.git("tag", "v0.1.0")

    def git(self, *words: str) -> str:
        """What git says, whatever the machine's configuration is."""
        who = ["-c", "user.name=Tester", "-c", "user.email=tester@example.org"]
        done = subprocess.run(
            [need_program("git"), *who, *words], cwd=self.top, capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout.strip()

    def commit(self, text: str) -> None:
        """Everything."""
        self.git("add", "-A")
        self.git("commit", "-q", "-m", text)

    def text(self, name: str) -> str:
        return (self.top / name).read_text(encoding="utf-8")

    def write(self, name: str, text: str) -> None:
        (self.top / name).write_text(text, encoding="utf-8")

    def release(self, *words: str, **added: str) -> subprocess.CompletedProcess[str]:
        """Make a release."""
        who = {
            f"GIT_{role}_{what}": "tester@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
        }
        known = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "MAKE", "CI"))}
        return subprocess.run(
            [sys.executable, "scripts/release", *words],
            cwd=self.top,
            env={**known, **who, **added},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def steps(self) -> list[str]:
        """What make was asked to do."""
        return self.text("build/log").splitlines() if (self.top / "build/log").exists() else []

    def is_as_before(self) -> bool:
        """Whether nothing was committed, tagged or changed."""
        return (
            self.git("status", "--porcelain"),
            self.git("tag"),
            self.git("rev-list", "--count", "v0.1.0..main"),
        ) == (
            "",
            "v0.1.0",
            "0",
        )


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    """The clone of each test, in which 0.2.0 can be released."""
    return Clone(tmp_path / "clone")


def test_a_release(clone: Clone) -> None:
    done = clone.release("0.2.0")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert clone.steps() == ["lint CI=", "tests CI=true", "docs CI="]
    assert clone.git("status", "--porcelain") == ""
    assert clone.git("tag") == "v0.1.0\nv0.2.0"
    assert clone.git("cat-file", "-t", "v0.2.0") == "tag", "annotated"
    assert clone.git("rev-parse", "v0.2.0^{}") == clone.git("rev-parse", "main")
    assert clone.git("diff", "--name-only", "v0.1.0", "v0.2.0").split() == [
        "raspy/__init__.py",
        "raspy/common/clock.py",
    ]
    assert '__version__ = "0.2.0"' in clone.text("raspy/__init__.py")
    built = re.search(r"^BUILT = ([\d_.]+)\n.*\((\d{4}-\d\d-\d\d)\)", clone.text("raspy/common/clock.py"), re.M)
    assert built is not None
    assert built[2] == str(TODAY)
    assert datetime.datetime.fromtimestamp(float(built[1]), datetime.UTC) == datetime.datetime.combine(
        TODAY, datetime.time(), datetime.UTC
    )
    assert "git push origin main v0.2.0" in done.stdout, "told, not done"
    again = clone.release("0.2.0")
    assert (again.returncode, again.stderr) == (1, "release: 0.2.0 is not above 0.2.0, which has a tag\n")


def test_what_would_be_done(clone: Clone) -> None:
    done = clone.release("0.2.0", "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    for part in (f"to 0.2.0 and {TODAY}", "make tests", "commit, and tag v0.2.0"):
        assert part in done.stdout
    assert clone.steps() == []
    assert clone.is_as_before()


def test_without_tests_there_is_no_tag(clone: Clone) -> None:
    done = clone.release("0.2.0", "--skip-tests")
    assert done.returncode == 1
    assert "THE TESTS ARE SKIPPED" in done.stdout
    assert "no commit and no tag, as the tests were skipped" in done.stderr
    assert clone.steps() == ["lint CI=", "docs CI="]
    assert clone.is_as_before()
    done = clone.release("0.2.0", "--skip-tests", "--dry-run")
    assert "no tests" in done.stdout
    assert "neither commit nor tag" in done.stdout


@pytest.mark.parametrize("step", ["lint", "tests", "docs", "packages"])
def test_a_step_that_fails_leaves_all_as_it_was(clone: Clone, step: str) -> None:
    (clone.top / f"build/fail-{step}").touch()
    done = clone.release("0.2.0")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("release: ")
    assert "has failed: nothing was committed" in done.stderr
    assert clone.is_as_before()


@pytest.mark.parametrize("variable", ["ARGS", "PYTEST_ADDOPTS"])
def test_nobody_chooses_among_the_tests(clone: Clone, variable: str) -> None:
    assert clone.release("0.2.0", **{variable: "-k word"}).returncode == 0
    assert clone.steps() == ["lint CI=", "tests CI=true", "docs CI="]


def test_a_make_that_goes_on_after_failures_hides_none(clone: Clone) -> None:
    (clone.top / "build/fail-tests").touch()
    assert clone.release("0.2.0", MAKEFLAGS="i").returncode == 1
    assert clone.is_as_before()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("touch new", "release: 'new' has changed meanwhile"),
        ("echo >>CHANGELOG.md", "release: 'CHANGELOG.md' has changed meanwhile"),
        ("git commit -q --allow-empty -m other", "release: there was another commit meanwhile"),
    ],
)
def test_what_changes_meanwhile_was_not_checked(clone: Clone, script: str, said: str) -> None:
    clone.write("build/do-tests", script)
    done = clone.release("0.2.0")
    assert done.returncode == 1
    assert done.stderr.startswith(said)
    assert clone.git("tag") == "v0.1.0"
    assert '"0.1.0"' in clone.text("raspy/__init__.py")


@pytest.mark.parametrize("name", ["HUP", "TERM"])
def test_one_that_is_ended_leaves_all_as_it_was(clone: Clone, name: str) -> None:
    clone.write("build/do-tests", f"kill -{name} $(cat build/pid)")
    command = ["sh", "-c", 'echo $$ >build/pid; exec "$0" scripts/release 0.2.0', sys.executable]
    who = {f"GIT_{role}_{what}": "a@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}

    def heard() -> None:
        # Where the tests run under nohup it is ignored by all that they start.
        signal.signal(getattr(signal, f"SIG{name}"), signal.SIG_DFL)

    done = subprocess.run(
        command,
        cwd=clone.top,
        env={**os.environ, **who},
        capture_output=True,
        timeout=110,
        check=False,
        preexec_fn=heard,
    )
    assert done.returncode == 1
    assert clone.steps() == ["lint CI=" + os.environ.get("CI", ""), "tests CI=true"]
    assert clone.is_as_before()


def test_nobody_to_make_the_commit_is_told_at_once(clone: Clone) -> None:
    clone.git("config", "user.useConfigOnly", "true")
    done = clone.release("0.2.0", "--dry-run", GIT_AUTHOR_EMAIL="", GIT_AUTHOR_NAME="", HOME="/nonexistent")
    assert done.returncode == 1
    assert "git does not know who the author of the commit is" in done.stderr


def test_a_package_of_another_version(clone: Clone) -> None:
    clone.write("build/told", "0.1.9")
    done = clone.release("0.2.0")
    assert done.returncode == 1
    assert "raspy-0.2.0-py3-none-any.whl says that it is raspy 0.1.9" in done.stderr
    assert clone.is_as_before()


def test_a_package_that_is_missing(clone: Clone) -> None:
    clone.write("scripts/sdist", f"#!{sys.executable}\n")
    clone.git("commit", "-q", "-a", "--amend", "-m", "first")
    clone.git("tag", "-f", "v0.1.0")
    done = clone.release("0.2.0")
    assert done.returncode == 1
    assert "the packages in build/release are not whole" in done.stderr
    assert clone.is_as_before()


def changelog(old: str, new: str) -> Callable[[Clone], None]:
    """Have another changelog, committed."""

    def change(clone: Clone) -> None:
        assert old in CHANGELOG
        clone.write("CHANGELOG.md", CHANGELOG.replace(old, new))
        clone.commit("changelog")

    return change


def elsewhere(clone: Clone) -> None:
    """On a branch."""
    clone.git("switch", "-q", "-c", "other")


def no_version(clone: Clone) -> None:
    """A package that does not say its version."""
    clone.write("raspy/__init__.py", "")
    clone.commit("no version")


def no_day(clone: Clone) -> None:
    """A clock that is written otherwise."""
    clone.write("raspy/common/clock.py", "BUILT = 5\n")
    clone.commit("no day")


@pytest.mark.parametrize(
    ("version", "change", "said"),
    [
        ("0.2.0", elsewhere, "this is the branch other: a release is made on main"),
        ("0.2.0", lambda clone: clone.write("new", ""), "the clone is not clean: commit or put away 'new'"),
        ("0.2.0", lambda clone: clone.write("Makefile", "#"), "commit or put away 'Makefile'"),
        ("0.1.0", lambda clone: None, "0.1.0 is not above 0.1.0, which has a tag"),
        ("0.0.9", lambda clone: None, "0.0.9 is not above 0.1.0, which has a tag"),
        ("0.2.0", lambda clone: clone.git("tag", "v0.10.0"), "0.2.0 is not above 0.10.0, which has a tag"),
        ("0.0.9", lambda clone: clone.git("tag", "-d", "v0.1.0"), "0.0.9 is below 0.1.0, which raspy/__init__.py says"),
        ("0.2.0", no_version, "raspy/__init__.py: there is no line __version__"),
        ("0.2.0", no_day, "raspy/common/clock.py: there is no BUILT with a day in its text"),
        ("0.3.0", lambda clone: None, "CHANGELOG.md: the first section has to be ## [0.3.0] - DATE"),
        ("0.2.0", changelog("[Unreleased]\n", "[Unreleased]\n\n- More.\n"), "move what is under [Unreleased] into"),
        ("0.2.0", changelog(f" - {TODAY}", ""), "[0.2.0] has no date: write ## [0.2.0] - YYYY-MM-DD"),
        ("0.2.0", changelog(f"{TODAY}", "2026-02-30"), "[0.2.0] has no date"),
        ("0.2.0", changelog(f"{TODAY}", "2999-01-01"), "[0.2.0] is of 2999-01-01, and today is "),
        ("0.2.0", changelog("- Something new.\n", ""), "the section [0.2.0] is empty"),
        ("0.2.0", changelog("## [", "### ["), "the first section has to be ## [0.2.0] - DATE"),
    ],
)
def test_what_is_refused(clone: Clone, version: str, change: Callable[[Clone], None], said: str) -> None:
    """At once, in one line, and also when it is only asked what would be done."""
    change(clone)
    for words in ([version], [version, "--dry-run"]):
        done = clone.release(*words)
        assert done.returncode == 1, done.stdout
        assert done.stderr.startswith("release: ")
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
    assert clone.steps() == []
    assert "v0.2.0" not in clone.git("tag").split()


@pytest.mark.parametrize(
    "words", [[], ["1.2"], ["v1.2.3"], ["1.2.3rc1"], ["01.2.3"], ["1.2.3\n"], ["1.2.3", "--force"]]
)
def test_wrong_use(clone: Clone, words: list[str]) -> None:
    done = clone.release(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert clone.is_as_before()
