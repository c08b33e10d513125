"""The guardian, told by hand; that ``raspy run`` tells it right, and what it costs, is in test_supervisor."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raspy.common import guardian

LIMIT_S = 30.0

RUNNER = """#!/bin/sh
echo "$@" >> "$0.calls"
[ -e "$0.good" ] || { : > "$0.good"; exit 1; }
"""
"""Makes outputs safe when it is tried a second time."""


@pytest.fixture
def runner(tmp_path: Path) -> Path:
    path = tmp_path / "runner"
    path.write_text(RUNNER)
    path.chmod(0o700)
    return path


@pytest.fixture
def start(runner: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts guardians, with site-packages unlike ``raspy run``, so that what they run can be counted."""
    started: list[subprocess.Popen[str]] = []

    def begin(seconds: float) -> subprocess.Popen[str]:
        command = [sys.executable, guardian.__file__, str(seconds), str(runner), "--", "--config=/x"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def server() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does not end by itself."""
    process = subprocess.Popen(["sleep", "1000"])
    yield process
    process.kill()
    process.wait()


def calls(runner: Path) -> list[str]:
    found = runner.with_name("runner.calls")
    return found.read_text().splitlines() if found.exists() else []


def test_it_ends_with_the_supervisor_when_all_is_safe(
    start: Callable[..., subprocess.Popen[str]], runner: Path, server: subprocess.Popen[bytes]
) -> None:
    process = start(1000)
    _, said = process.communicate(f"gpio {server.pid}\nfake {server.pid}\ngpio 0\nfake 0\n", LIMIT_S)
    assert (process.returncode, said, calls(runner)) == (0, "", [])


def test_what_has_ended_is_made_safe_and_tried_again_until_it_is(
    start: Callable[..., subprocess.Popen[str]], runner: Path, server: subprocess.Popen[bytes]
) -> None:
    server.kill()
    process = start(1000)
    _, said = process.communicate(f"gpio {server.pid}\n", LIMIT_S)
    assert process.returncode == 0
    assert calls(runner) == ["gpio --make-safe --ended --config=/x"] * 2
    assert said == "raspy: the supervisor is gone; the outputs of gpio were made safe without it\n"


def test_what_has_not_ended_by_its_time_is_killed_first(
    start: Callable[..., subprocess.Popen[str]], runner: Path, server: subprocess.Popen[bytes]
) -> None:
    runner.with_name("runner.good").touch()
    process = start(0.2)
    process.communicate(f"gpio {server.pid}\n", LIMIT_S)
    assert process.returncode == 0
    assert server.wait(LIMIT_S) == -9
    assert calls(runner) == ["gpio --make-safe --ended --config=/x"]


def test_what_was_gone_when_it_was_told_is_made_safe(
    start: Callable[..., subprocess.Popen[str]], runner: Path, server: subprocess.Popen[bytes]
) -> None:
    runner.with_name("runner.good").touch()
    server.kill()
    server.wait()
    process = start(1000)
    process.communicate(f"gpio {server.pid}\nfake 0\n", LIMIT_S)
    assert process.returncode == 0
    assert calls(runner) == ["gpio --make-safe --ended --config=/x"]


def test_a_runner_that_cannot_be_started_or_hangs_has_not_succeeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not guardian.succeeds([str(tmp_path / "none")], dict(os.environ))
    monkeypatch.setattr(guardian, "TRY_TIME", 0.1)
    assert not guardian.succeeds(["/bin/sleep", "1000"], dict(os.environ))
