"""The server's side of the process that sends: whatever that is and does, there is one outcome, and nothing is left."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from raspy.common.executive import Executive
from raspy.servers.alarm import errand
from raspy.servers.alarm.errand import Errand
from raspy.servers.alarm.task import Outcome, Task

LIMIT_S = 30.0
TASK = Task("hook", {"kind": "webhook", "url": "x" * 100_000}, "/nowhere")


class Stage(Executive):
    """A loop that the test turns."""

    def __init__(self) -> None:
        super().__init__()
        self.outcomes: list[Outcome] = []

    def until(self, happened: Callable[[], Any]) -> None:
        end = time.monotonic() + LIMIT_S
        while not happened():
            assert time.monotonic() < end, "did not happen"
            self.turn(0.05)

    def perform(self) -> Outcome:
        """Run one to its end."""
        made = Errand(self, TASK, self.outcomes.append)
        assert self.outcomes == []
        self.until(lambda: self.outcomes)
        made.close()
        self.turn(0)
        assert len(self.outcomes) == 1
        return self.outcomes[0]


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    made.turn(0)
    before = set(os.listdir("/proc/self/fd"))
    yield made
    assert set(os.listdir("/proc/self/fd")) <= before
    made.destroy()
    assert made.errors == 0


def shell(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Have something else run in its place."""
    monkeypatch.setattr(errand, "COMMAND", ["/bin/sh", "-c", code])


def test_it_has_its_task_and_little_of_the_environment(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RASPY_SECRET", "x")
    monkeypatch.setenv("HOME", "/nowhere")
    shell(monkeypatch, """printf '{"note": "%s %s"}' "$(wc -c)" "$(env | cut -d= -f1 | tr '\\n' ' ')" """)
    size, *names = stage.perform().note.split()
    assert int(size) == len(msgspec.json.encode(TASK))
    assert "HOME" in names
    assert set(names) <= {*errand.ENVIRONMENT, "PWD", "OLDPWD", "SHLVL", "_"}


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("exit 3", "exit code 3, and said nothing"),
        ("kill -9 $$", "signal 9, and said nothing"),
        ("echo nonsense", "exit code 0, and said nothing"),
        ("""echo '{"error": 5}'""", "exit code 0, and said nothing"),
        # Somebody else has its output open.
        ("sleep 3 & exit 4", "exit code 4, and said nothing"),
    ],
)
def test_one_that_says_nothing_of_use(stage: Stage, monkeypatch: pytest.MonkeyPatch, code: str, why: str) -> None:
    shell(monkeypatch, code)
    assert stage.perform() == Outcome(f"the process that sends ended with {why}", uncertain=True)


def test_one_that_does_not_end_is_killed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    shell(monkeypatch, "exec sleep 1000")
    monkeypatch.setattr(errand, "PATIENCE", 0.1)
    assert stage.perform().error == "the process that sends did not end within 0.1 s and was killed"


def test_one_that_cannot_be_started(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errand, "COMMAND", ["/nowhere/python"])
    assert stage.perform() == Outcome("the process that sends cannot be started: No such file or directory")


def test_one_whose_task_finds_no_memory(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(errand.os, "write", full)
        made = Errand(stage, TASK, stage.outcomes.append)
    stage.until(lambda: stage.outcomes)
    made.close()
    assert stage.outcomes == [Outcome("the process that sends cannot be started: No space left on device")]


def test_one_that_nobody_could_watch_is_ended(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    def none_left(pid: int) -> int:
        started.append(pid)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    shell(monkeypatch, "exec sleep 1000")
    monkeypatch.setattr(errand.os, "pidfd_open", none_left)
    assert stage.perform() == Outcome("the process that sends cannot be started: Too many open files")
    assert not Path(f"/proc/{started[0]}").exists()


def test_one_that_is_closed_is_ended_and_nobody_told(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errand, "COMMAND", [sys.executable, "-S", "-c", "import time; time.sleep(1000)"])
    made = Errand(stage, TASK, stage.outcomes.append)
    # That it is looked at while it runs ends nothing.
    made._ended()
    pids = [
        line.split()[1] for line in Path(f"/proc/self/fdinfo/{made._pidfd}").read_text().splitlines() if "Pid:" in line
    ]
    assert Path(f"/proc/{pids[0]}").exists()
    made.close()
    assert not Path(f"/proc/{pids[0]}").exists()
    made.close()
    stage.turn(0)
    assert stage.outcomes == []
