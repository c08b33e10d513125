"""A loop with a nursery, as core has one: in a test's own process, or as a program that an ordinary user runs.

As a program it reads one JSON object from standard input, ``{"cases": {name: {code, limits, stop}}}``, runs all cases
at once beside a scenario that means no harm, and prints one JSON object: how each ended. One with ``stop`` is stopped
once it logs, and has so many seconds to end.
"""

from __future__ import annotations

import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raspy.common.executive import Executive
from raspy.servers.core import child as child_module
from raspy.servers.core.child import Child, End, Limits, Nursery

TOP = Path(__file__).resolve().parents[2]
LIMIT_S = 60.0
PLENTY = Limits(cpu=0)
NOBODY = "65534"
HARMLESS = "while not stopping():\n    publish('tick', name)\n    sleep(0.02)\n"


class Run:
    """One run and all that was heard of it. Calls are answered by what ``answers`` has for their method."""

    def __init__(self, stage: Stage, code: str, limits: Limits, answers: dict[str, Any], scope: dict[str, Any]):
        self.calls: list[tuple[str, list[Any]]] = []
        self.open: list[tuple[int, str, list[Any]]] = []
        """Calls whose answer is left to the test: those for which ``answers`` has nothing."""
        self.output = ""
        self.end: End | None = None
        self.answers = answers
        self.stage = stage
        self.child = stage.nursery.run("test", code, scope, limits, self._call, self._print, self._end)

    def _call(self, child: Child, call: int, method: str, arguments: list[Any]) -> None:
        if len(self.calls) < 10_000:
            self.calls.append((method, arguments))
        if method not in self.answers:
            self.open.append((call, method, arguments))
            return
        answer = self.answers[method]
        if callable(answer):
            answer = answer(*arguments)
        if isinstance(answer, Refusal):
            child.refuse(call, *answer.args)
        else:
            child.answer(call, answer)

    def _print(self, text: str) -> None:
        self.output = (self.output + text)[-200_000:]

    def _end(self, end: End) -> None:
        assert self.end is None, "a run ended twice"
        self.end = end

    def until_end(self) -> End:
        self.stage.until("the run ends", lambda: self.end)
        return self.over

    @property
    def over(self) -> End:
        """How it ended."""
        assert self.end is not None, "it has not ended"
        return self.end


class Refusal(Exception):
    """An answer that raises in the scenario: its kind and text."""


class Stage(Executive):
    """The loop.

    :param start: the nursery's process too
    """

    def __init__(self, start: bool = True) -> None:
        super().__init__()
        self.states: list[tuple[bool, str]] = []
        self.nursery = Nursery(self, lambda up, reason: self.states.append((up, reason)))
        self.longest = 0.0
        if start:
            self.nursery.start()

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self.nursery.close()
        self.destroy()

    def until(self, what: str, found: Callable[[], Any], limit: float = LIMIT_S) -> None:
        end = time.monotonic() + limit
        while not found():
            self.turn(0.5)
            assert time.monotonic() < end, f"{what}: not within {limit:g} s"

    def play(
        self,
        code: str,
        limits: Limits = PLENTY,
        answers: dict[str, Any] | None = None,
        scope: dict[str, Any] | None = None,
    ) -> Run:
        return Run(self, code, limits, answers or {}, scope or {})

    def play_all(self, code: str, **more: Any) -> Run:
        """Run to the end."""
        run = self.play(code, **more)
        run.until_end()
        return run

    def watch_turns(self) -> None:
        """From now on :attr:`longest` is the longest turn of the loop in s, without waiting in its poll.

        A turn in which the thread slept counts with all its time, any other with its CPU time: so a machine that is
        busy with something else does not count.
        """
        stage, poller = self, self._poller
        before: list[Any] = []

        class Watched:
            register, unregister = poller.register, poller.unregister

            def poll(self, timeout: int | None) -> Any:
                if before:
                    usage = resource.getrusage(resource.RUSAGE_THREAD)
                    wall, cpu = time.monotonic() - before[0], time.thread_time() - before[1]
                    stage.longest = max(stage.longest, wall if usage.ru_nvcsw > before[2] else cpu)
                events = poller.poll(timeout)
                usage = resource.getrusage(resource.RUSAGE_THREAD)
                before[:] = [time.monotonic(), time.thread_time(), usage.ru_nvcsw]
                return events

        self._poller = Watched()  # type: ignore[assignment]


def alive(pid: int) -> bool:
    """Whether a process runs: not one that is only to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def as_ordinary_user(*arguments: str) -> list[str]:
    """The command line of this program as an ordinary user, who may read what this user may."""
    command = [sys.executable, "-m", "tests.servers.child_stage", *arguments]
    if os.geteuid():
        return command
    setpriv = shutil.which("setpriv")
    assert setpriv, "util-linux has setpriv"
    kept = "-all,+dac_read_search"
    user = [setpriv, "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--bounding-set", kept]
    return [*user, "--inh-caps", kept, "--ambient-caps", kept, *command]


def start(*arguments: str, user: bool = True) -> subprocess.Popen[str]:
    """Start this program."""
    command = as_ordinary_user(*arguments) if user else [sys.executable, "-m", "tests.servers.child_stage", *arguments]
    pipe = subprocess.PIPE
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE_")}
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=TOP, env=environment)


def perform(cases: dict[str, Any], silent: float = 10.0, user: bool = True) -> dict[str, Any]:
    """Have cases run by an ordinary user."""
    process = start(user=user)
    try:
        output, errors = process.communicate(json.dumps({"cases": cases, "silent": silent}), timeout=2 * LIMIT_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, errors
    found: dict[str, Any] = json.loads(output)
    found["errors"] = errors
    return found


def _below(pid: int) -> list[int]:
    words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(word) for word in words]


def _main() -> None:
    job = json.loads(sys.stdin.read())
    child_module.SILENT = job["silent"]
    with Stage() as stage:
        stage.until("the nursery is up", lambda: stage.nursery.up)
        nursery = stage.nursery.pid
        quiet = {"publish": None}
        other = stage.play(HARMLESS, answers=quiet)
        stage.until("the harmless one runs", lambda: len(other.calls) > 3)
        stage.watch_turns()
        runs = {}
        for name, case in job["cases"].items():
            limits = Limits(**case.get("limits", {}))
            answers: dict[str, Any] = {"get": {"value": 1}, "log": None}
            if "stop" in case:
                answers["log"] = _stopper(stage, lambda name=name, case=case: runs[name].child.stop(case["stop"]))  # type: ignore[misc]
            runs[name] = stage.play(case["code"], limits, answers=answers)
        ticks = len(other.calls)
        stage.until("all end", lambda: all(run.end for run in runs.values()))
        during = len(other.calls) - ticks
        gone = [name for name, run in runs.items() if not alive(run.child.pid)]
        if len(stage.states) > 1:
            other.until_end()
            stage.until("the nursery is up again", lambda: stage.nursery.up)
            other = stage.play(HARMLESS, answers=quiet)
        after = len(other.calls)
        stage.until("the harmless one goes on", lambda: len(other.calls) > after + 3)
        other.child.stop()
        other.until_end()
        told = {
            name: {
                "how": run.end.how,
                "reason": run.end.reason,
                "line": run.end.line,
                "error": run.end.error,
                "traceback": run.end.traceback,
                "output": run.output[-2000:],
            }
            for name, run in runs.items()
            if run.end
        }
        result = {
            "told": told,
            "ticks": during,
            "gone": gone,
            "longest": stage.longest,
            "same": stage.nursery.pid == nursery,
            "below": _below(stage.nursery.pid),
            "other": other.end and other.end.how,
            "uid": os.getuid(),
            "errors": stage.errors,
            "states": stage.states,
        }
    print(json.dumps(result))


def _stopper(stage: Stage, stop: Callable[[], None]) -> Callable[..., None]:
    """Answers what a scenario logs, and has it stopped then: by its first word it has begun."""

    def log(*_: Any) -> None:
        stage.call_later(0, stop)

    return log


def _stand(code: str) -> None:
    """Run one scenario that never ends, tell the processes, those too that it logs, and wait to be killed."""
    with Stage() as stage:
        run = stage.play(code, answers={"log": None})
        stage.until("it runs", lambda: run.calls)
        logged = run.calls[0][1][0].split()
        print(json.dumps([stage.nursery.pid, run.child.pid, *map(int, logged)]), flush=True)
        signal.pause()


def ended(pid: int, limit: float) -> bool:
    """Whether a process ends in time."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], limit)[0])
    finally:
        os.close(pidfd)


if __name__ == "__main__":
    _stand(sys.argv[2]) if sys.argv[1:2] == ["stand"] else _main()
