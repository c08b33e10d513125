"""How runs end that do not keep to their manners, or whose processes are taken from them, as core's side sees it.

That nobody else notices, and what an ordinary user cannot do, is in test_core_child_hostile.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raspy.servers.core import child as child_module
from raspy.servers.core import run as run_module
from raspy.servers.core.child import End, Limits, Problem
from raspy.servers.core.run import name_of
from tests.servers.child_stage import LIMIT_S, PLENTY, Stage, alive, ended

ASKS = "import os, time\nn = 0\nwhile True:\n    n += 1\n    os.write(3, b'[%d,\"ask\",[]]' % n)"


@pytest.fixture(scope="module")
def shared() -> Iterator[Stage]:
    with Stage() as stage:
        yield stage
        assert stage.nursery.running == 0
        assert stage.errors == 0


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage() as stage:
        stage.until("the nursery is up", lambda: stage.nursery.up)
        yield stage
        assert stage.errors == 0


def raw(text: str) -> str:
    """A message as it is."""
    return f"import os, time\nos.write(3, {text})\ntime.sleep(1000)"


@pytest.mark.parametrize(
    ("code", "limits", "how", "reason"),
    [
        (raw("bytes(range(256))"), PLENTY, "killed", "it sent core something that is no call: "),
        (raw("b' ' * 70_000"), PLENTY, "killed", "it sent core something that is no call: too long"),
        (raw("b'[' * 60_000"), PLENTY, "killed", "it sent core something that is no call: "),
        (raw("b'[0,\"end\",[]]'"), PLENTY, "killed", "it sent core something that is no call: "),
        (raw("b'[0,\"ask\",[]]'"), PLENTY, "killed", "it sent core something that is no call: not a number of a call"),
        (ASKS.replace("% n", "% 7"), PLENTY, "killed", "it sent core something that is no call: not a number"),
        (ASKS, PLENTY, "killed", "it made 8 calls without waiting for the answers"),
        (ASKS.replace("ask", "get"), PLENTY, "killed", "it does not read the answers to its calls"),
        ("print('x' * 5000)\nsleep(1000)", Limits(output=1000), "limit", "printed more than 1000 bytes in a minute"),
        ("while True:\n    pass", Limits(cpu=0.01), "limit", "of CPU time in a minute, 0.01 s is its limit"),
        ("sleep(1000)", Limits(wall=0.1), "limit", "ran for its 0.1 s"),
        ("import os\nos.kill(os.getpid(), 9)", PLENTY, "killed", "its process was killed, not by core: "),
        ("import os\nos.kill(os.getpid(), 6)", PLENTY, "raised", "its process ended with signal SIGABRT"),
        ("import os\nos._exit(7)", PLENTY, "raised", "its process ended by itself with exit code 7"),
    ],
)
def test_ends_that_it_does_not_tell_itself(
    shared: Stage, monkeypatch: pytest.MonkeyPatch, code: str, limits: Limits, how: str, reason: str
) -> None:
    monkeypatch.setattr(child_module, "TICK", 0.05)
    run = shared.play_all(code, limits=limits, answers={"get": {"value": "x" * 2000}})
    assert run.over.how == how
    assert reason in run.over.reason
    assert not alive(run.child.pid)


@pytest.mark.parametrize(("code", "text"), [(0, "exit code 0"), (-15, "signal SIGTERM"), (-200, "signal 200")])
def test_how_a_process_ended_in_words(code: int, text: str) -> None:
    assert name_of(code) == text


def test_an_answer_to_one_that_listens_no_more_is_nothing(shared: Stage, tmp_path: Path) -> None:
    mark = tmp_path / "closed"
    run = shared.play(
        "import os, time\nos.write(3, b'[1,\"ask\",[]]')\nos.close(3)\n"
        f"open({str(mark)!r}, 'w').close()\ntime.sleep(1000)",
        answers={"ask": 1},
    )
    end = time.monotonic() + LIMIT_S
    while not mark.exists():
        assert time.monotonic() < end, "it does not run"
        time.sleep(0.005)
    shared.until("it asks", lambda: run.calls)
    run.child.kill("it is over")
    assert run.until_end() == End("killed", "it is over")
    # Nothing ends twice, nor is asked to stop then.
    run.child.end(None, 5)
    run.child.kill("again")
    run.child.stop()
    assert run.over.reason == "it is over"


def test_what_was_printed_before_the_end_is_not_lost(shared: Stage) -> None:
    run = shared.play("log()\nprint('a' * 20_000, 'last', flush=True)\nlog()\nsleep(1000)", answers={"log": None})
    shared.until("it has printed", lambda: len(run.calls) == 2)
    shared.nursery._told(["ended", str(run.child.number), "0"], [])
    assert run.over.how == "raised"
    assert run.output.endswith("a last\n")
    shared.until("its process is gone", lambda: not alive(run.child.pid))


def test_one_that_is_gone_and_not_reaped_uses_no_time(shared: Stage) -> None:
    run = shared.play("log()\nsleep(1000)", answers={"log": None})
    shared.until("it runs", lambda: run.calls)
    os.kill(run.child.pid, signal.SIGKILL)
    assert ended(run.child.pid, LIMIT_S)
    end = time.monotonic() + LIMIT_S
    while Path(f"/proc/{run.child.pid}").exists():
        assert time.monotonic() < end, "nobody reaps it"
        time.sleep(0.005)
    run.child.look(time.monotonic())
    assert run.end is None
    assert "not by core" in run.until_end().reason


def test_a_warning_of_the_compiler_is_no_problem(shared: Stage) -> None:
    found: list[Problem | None] = []
    shared.nursery.check("x = 5\nif x is 5:\n    pass", found.append)
    shared.until("it is checked", lambda: found)
    assert found == [None]


# The nursery


def test_without_a_nursery_nothing_is_checked() -> None:
    with Stage(start=False) as stage:
        found: list[Problem | None] = []
        stage.nursery.check("1", found.append)
        stage.until("it is told", lambda: found)
        assert found == [Problem(0, 0, "it could not be checked: core is not ready, or comes to its end")]


def test_a_nursery_that_is_closed_before_it_was_started_never_is() -> None:
    with Stage(start=False) as stage:
        stage.nursery.start()
        stage.nursery.close()
        stage.turn(0)
        stage.turn(0)
        assert (stage.nursery.pid, stage.states) == (0, [])


@pytest.mark.parametrize("settled", [True, False])
def test_a_nursery_that_is_killed_loses_what_runs_and_is_replaced(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, settled: bool
) -> None:
    monkeypatch.setattr(child_module, "SETTLED", 0.0 if settled else 1000.0)
    monkeypatch.setattr(child_module, "BACKOFF", (0.02, 0.02))
    runs = [stage.play("log()\nsleep(1000)", answers={"log": None}) for _ in range(2)]
    stage.until("they run", lambda: all(run.calls for run in runs))
    # That it is looked at while it lives ends nothing.
    stage.nursery._died()
    before = stage.nursery.pid
    stage.nursery._wait = 1e6
    os.kill(before, signal.SIGKILL)
    stage.until("it is gone", lambda: not stage.nursery.up)
    assert stage.nursery._wait == 0.02
    for run in runs:
        assert run.until_end() == End("lost", "the process that starts scenarios ended with signal SIGKILL")
        assert not alive(run.child.pid)
    if settled:
        stage.until("it is up again", lambda: stage.nursery.up)
        assert stage.nursery.pid != before
        assert stage.play_all("print(1)").output == "1\n"
    else:
        assert stage.nursery.pid == 0


def test_a_nursery_that_is_silent_is_replaced(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    before = stage.nursery.pid
    monkeypatch.setattr(child_module, "TICK", 0.02)
    monkeypatch.setattr(child_module, "SILENT", 0.05)
    os.kill(before, signal.SIGSTOP)
    run = stage.play("1")
    assert run.until_end() == End("lost", "the process that starts scenarios ended with signal SIGKILL")
    monkeypatch.undo()
    stage.until("it is up again", lambda: stage.nursery.up and stage.nursery.pid != before)
    assert stage.play_all("1").over.how == "finished"


def test_a_run_that_does_not_begin_is_lost_and_killed_when_it_does(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.kill(stage.nursery.pid, signal.SIGSTOP)
    late, failed = stage.play("sleep(1000)"), stage.play("1")
    stage.nursery._look()
    assert (late.end, late.child.began) == (None, False)
    # As the nursery says it when the machine has too many processes.
    stage.nursery._told(["failed", str(failed.child.number), "no process can be started"], [])
    assert failed.over == End("lost", "no process can be started")
    monkeypatch.setattr(run_module, "BEGIN", 0.0)
    stage.nursery._look()
    assert late.over == End("lost", "it did not begin in 0 s")
    monkeypatch.undo()
    os.kill(stage.nursery.pid, signal.SIGCONT)
    assert stage.play_all("print(1)").output == "1\n"
    children = Path(f"/proc/{stage.nursery.pid}/task/{stage.nursery.pid}/children")
    stage.until("none is left", lambda: children.read_text() == "")


def test_a_run_that_is_killed_before_it_began_never_does_a_thing(stage: Stage, tmp_path: Path) -> None:
    os.kill(stage.nursery.pid, signal.SIGSTOP)
    run = stage.play("sleep(1000)")
    run.child.kill("not wanted")
    assert run.end is None
    os.kill(stage.nursery.pid, signal.SIGCONT)
    assert run.until_end() == End("killed", "not wanted")


def test_a_run_for_which_there_is_no_memory_is_lost_and_leaves_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = sorted(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(child_module.os, "write", full)
        run = stage.play("1")
    assert run.until_end() == End("lost", "it cannot be started: [Errno 28] No space left on device")
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert stage.nursery.running == 0
