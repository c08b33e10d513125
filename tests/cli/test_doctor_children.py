"""Work in processes of its own: what hangs, dies or shouts there harms nobody."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.support_processes import TOP, environment, wait_for

CODE = """
import os, signal, sys, time, json, subprocess
from raspy.cli.doctor import children
{work}
told = []
answers = children.run({jobs}, {limit}, lambda names, seconds: told.append(names))
print(json.dumps({{name: each.why if isinstance(each, children.Failed) else each for name, each in answers.items()}}))
assert told[-1] == []
"""


def answers(work: str, jobs: str, limit: float = 100.0) -> dict[str, Any]:
    """What jobs answer, in a process that forks nobody else's threads."""
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(work=work, jobs=jobs, limit=limit)],
        cwd=TOP,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return dict(json.loads(done.stdout))


def test_answers_come_in_order_whatever_happens_to_others() -> None:
    work = """
def dies(): os.kill(os.getpid(), signal.SIGKILL)
def raises(): raise ValueError("no")
def leaves(): sys.exit(3)
def shouts():
    print("out"); print("err", file=sys.stderr); os.write(1, b"raw")
    return "shouted"
"""
    found = answers(
        work, '{"dies": dies, "one": lambda: [1, "ü"], "raises": raises, "leaves": leaves, "shouts": shouts}'
    )
    over = "its process has ended without an answer"
    assert found == {"dies": over, "one": [1, "ü"], "raises": over, "leaves": over, "shouts": "shouted"}
    assert list(found) == ["dies", "one", "raises", "leaves", "shouts"]


def test_a_long_answer_and_one_that_is_too_long() -> None:
    found = answers("", '{"long": lambda: "x" * 1_000_000, "longer": lambda: "x" * 8_000_000}')
    assert len(found["long"]) == 1_000_000
    assert found["longer"] == "its process has ended without an answer"


def test_what_hangs_is_given_up_with_what_it_has_started(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    work = f"""
def hangs():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    started = subprocess.Popen(["sleep", "1000"])
    open({str(pid)!r}, "w").write(str(started.pid))
    signal.pause()
"""
    began = time.monotonic()
    # More than begin together: the others have their turn.
    jobs = "{**{f'hangs {n}': hangs for n in range(6)}, 'good': lambda: 1}"
    found = answers(work, jobs, 5)
    assert time.monotonic() - began < 60
    assert found.pop("good") == 1
    assert all("no answer within 5 s" in each for each in found.values())
    sleeper = int(pid.read_text())
    wait_for("what it has started", lambda: not _sleeps(sleeper))


def _sleeps(pid: int) -> bool:
    try:
        return "sleep" in Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_child_that_is_stopped_is_given_up() -> None:
    found = answers("", '{"stopped": lambda: os.kill(os.getpid(), signal.SIGSTOP)}', 2)
    assert "no answer within 2 s" in found["stopped"]


def test_a_machine_that_can_start_no_process() -> None:
    work = """
def none(): raise OSError(11, "Resource temporarily unavailable")
os.fork = none
"""
    assert answers(work, '{"one": lambda: 1}') == {"one": "no process can be started: Resource temporarily unavailable"}
