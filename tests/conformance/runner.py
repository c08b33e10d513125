"""Runs checks one after the other and says after each whether the broker still answers."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from tests.conformance.registry import Check, CheckFailed, Group, NotApplicable, Unanswered
from tests.conformance.stage import Stage, Target

PASS, FAIL, NA, NOT_REACHED = "pass", "fail", "n/a", "not reached"
STOPPED = "stopped answering"


@dataclass(frozen=True)
class Result:
    """What a check found.

    `seconds` is the time it took, `detail` the reason of anything but a pass, `stopped` whether nobody else
    was answered any more afterwards.
    """

    check: Check
    outcome: str
    seconds: float = 0.0
    detail: str = ""
    stopped: bool = False

    def as_dict(self) -> dict[str, object]:
        """For --json: everything but the function."""
        fields = asdict(self)
        check = fields.pop("check")
        check.pop("function")
        return {**check, **fields}


class Launcher:
    """Starts the broker under test by a command and replaces it when it has died.

    A command in one string is split as a shell would, but no shell runs it. What the broker prints goes to
    `log`. It has started when it answers and knows a worker of each of `services`.
    """

    def __init__(
        self,
        command: str | Sequence[str],
        target: Target,
        environment: Mapping[str, str] | None = None,
        log: str = os.devnull,
        services: Sequence[bytes] = (),
    ) -> None:
        self.argv = shlex.split(command) if isinstance(command, str) else list(command)
        self.target = target
        self.environment = environment
        self.log = log
        self.services = services
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the broker and wait until it answers; RuntimeError when it does not."""
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.argv, stdout=log, stderr=subprocess.STDOUT, env=self.environment)
        if not answers(self.target, patience=20.0):
            self.stop()
            raise RuntimeError(
                f"the broker started by {shlex.join(self.argv)} does not answer at {self.target.endpoint}"
            )
        missing = await_services(self.target, self.services)
        if missing:
            self.stop()
            raise RuntimeError(f"nobody offers {missing} at {self.target.endpoint}")

    def epitaph(self) -> str:
        """How the broker ended, or that it hangs."""
        if self.process is None:
            return ""
        try:
            code = self.process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return "the process still runs"
        return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def stop(self) -> None:
        """End the broker; a second SIGTERM is a SIGKILL."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=5.0)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None

    def restart(self) -> None:
        """End the broker if it hangs, and start it again."""
        self.stop()
        self.start()


def answers(target: Target, patience: float | None = None) -> bool:
    """Whether a fresh client gets its reply from a fresh worker."""
    with Stage(target) as stage:
        try:
            stage.probe(patience)
        except CheckFailed:
            return False
        return True


def await_services(target: Target, services: Sequence[bytes], patience: float = 20.0) -> str:
    """Wait until 8/MMI knows a worker of each service; returns those that are missing in the end, or ''."""
    end = time.monotonic() + patience
    missing = list(services)
    with Stage(target) as stage:
        while missing and time.monotonic() < end:
            missing = [name for name in missing if stage.registered(name) != b"200"]
            stage.listen(0.05)
    return ", ".join(name.decode("ascii", "backslashreplace") for name in missing)


def _stopped(check: Check, target: Target, group: Group | None) -> str:
    """Who serves nobody any more after a check that applied; '' when all is well."""
    if not answers(target) or (check.settle and not _survives_purge(target)):
        return "broker"
    if group is not None and group.bystander is not None:
        with Stage(target) as stage:
            try:
                group.bystander(stage)
            except CheckFailed:
                return group.party
    return ""


def _survives_purge(target: Target) -> bool:
    """Keep asking until the broker's next purge of dead workers must have happened."""
    end = time.monotonic() + target.expiry + target.interval
    while time.monotonic() < end:
        if not answers(target):
            return False
        time.sleep(target.interval / 4)
    return answers(target)


def run_check(check: Check, target: Target, group: Group | None = None) -> Result:
    """Run one check on actors of its own.

    Fails with "broker stopped answering" when nobody else gets a reply any more afterwards, or with the same of
    the group's party.
    """
    started = time.monotonic()
    outcome, detail, bystander = PASS, "", False
    try:
        with Stage(target) as stage:
            if group is not None and group.applies is not None:
                group.applies(stage)
            check.function(stage)
    except NotApplicable as reason:
        outcome, detail = NA, str(reason)
    except CheckFailed as failure:
        outcome, detail, bystander = FAIL, str(failure), isinstance(failure, Unanswered)
    gone = _stopped(check, target, group) if outcome != NA else "" if answers(target) else "broker"
    if gone:
        stopped = f"{gone} {STOPPED}"
        outcome, detail = FAIL, f"{detail}; then {stopped}" if detail and not bystander else stopped
    return Result(check, outcome, time.monotonic() - started, detail, bool(gone))


def run_suite(
    checks: Iterable[tuple[Group, Check]],
    target: Target,
    launcher: Launcher | None = None,
    report: Callable[[Result], None] = lambda result: None,
) -> Iterator[Result]:
    """Run checks in order.

    A broker that died is started again by `launcher`; without one, the rest is not reached. One that failed a
    check is replaced too, so that what it was left with cannot fail the next.
    """
    dead = False
    for group, check in checks:
        if dead:
            result = Result(check, NOT_REACHED)
        else:
            result = run_check(check, target, group)
            if result.stopped and launcher is not None:
                result = replace(result, detail=f"{result.detail} ({launcher.epitaph()})")
            if result.outcome == FAIL and launcher is not None:
                launcher.restart()
            dead = result.stopped and launcher is None
        report(result)
        yield result


def environment() -> dict[str, str]:
    """What a reader of a table must know about the machine that made it."""
    import zmq

    return {
        "libzmq": zmq.zmq_version(),
        "pyzmq": zmq.__version__,
        "system": " ".join(os.uname()[i] for i in (0, 2, 4)),
    }
