"""The supervisor, with real processes: tests/common/stage_supervisor.py supervises servers that serve nothing."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raspy.common.guardianship import GUARDIAN
from raspy.common.process import ExecutiveProcess
from raspy.common.supervisor import Supervisor
from tests.support import need_program
from tests.support_processes import doing

STAGE = str(Path(__file__).with_name("stage_supervisor.py"))
TOP = str(Path(__file__).parents[2])
LIMIT_S = 30.0
NOBODY = 65534


def wait_for(what: str, found: Callable[[], object], limit: float = LIMIT_S) -> None:
    """Ask again until it is true."""
    end = time.monotonic() + limit
    while not found():
        assert time.monotonic() < end, f"{what}: not within {limit:g} s"
        time.sleep(0.01)


def thread_stats(pid: int) -> list[str]:
    """What proc_pid_stat(5) has of each thread, from its state on."""
    return [path.read_text().rpartition(")")[2] for path in Path(f"/proc/{pid}/task").glob("*/stat")]


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie (which nobody may be left to wait for)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Stage:
    """A supervisor under test, its log, and the journal that its servers write."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = directory / "raspy.toml"
        self.config.write_text("")
        self.journal = directory / "journal"
        self.log_path = directory / "log"
        self.run_directory = directory / "run"
        self.run_directory.mkdir()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *before: str, stderr: int | None = None, **environment: str) -> Stage:
        """Start it, behind a program that starts others; capitals are its environment.

        :param stderr: instead of the log
        """
        known = {key: value for key, value in os.environ.items() if not key.startswith(("RASPY_", "NOTIFY_"))}
        places: dict[str, str] = {"STAGE_JOURNAL": str(self.journal), "XDG_RUNTIME_DIR": str(self.run_directory)}
        places["PYTHONPATH"] = TOP
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [*before, sys.executable, STAGE, "run", str(self.config)],
                stdin=subprocess.DEVNULL,
                stderr=log if stderr is None else stderr,
                env={**known, **places, **environment},
                # As a login has; what looks after its orphans is then outside of it.
                start_new_session=True,
            )
        return self

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def entries(self) -> list[tuple[str, str, int]]:
        """Server, what happened to it, its process id."""
        if not self.journal.exists():
            return []
        lines = self.journal.read_text().splitlines()
        return [(line.split()[0], " ".join(line.split()[1:-1]), int(line.split()[-1])) for line in lines]

    def pids(self, name: str, what: str = "start") -> list[int]:
        """The processes to which something happened, in order."""
        return [pid for server, event, pid in self.entries() if (server, event) == (name, what)]

    def wait_ready(self, name: str, times: int = 1) -> int:
        """Wait until the supervisor has seen so many READYs of a server; return the process id of the last."""
        try:
            wait_for(f"{name} ready {times} times", lambda: self.log.count(f"{name}: started in") >= times)
        except AssertionError as error:
            pid = self.process.pid if self.process else 0
            raise AssertionError(f"{error}\n{self.log}\n{self.entries()}\n{doing(pid)}") from None
        return self.pids(name)[-1]

    def wait_log(self, pattern: str) -> None:
        """Wait for a line of the supervisor's."""
        wait_for(f"{pattern!r} in the log", lambda: re.search(pattern, self.log))

    def send(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Stop it; return its exit code."""
        self.send(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end; return its exit code."""
        assert self.process is not None
        return self.process.wait(LIMIT_S)

    def destroy(self) -> None:
        """Leave nothing behind."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid in [pid for _, what, pid in self.entries() if what == "start"] + guardians(self):
            if alive(pid):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.destroy()


def test_starts_the_broker_first_and_stops_in_reverse_order(stage: Stage) -> None:
    stage.start(STAGE_BROKER="slow")
    for name in ("broker", "plain", "output"):
        stage.wait_ready(name)
    assert stage.entries()[0][:2] == ("broker", "start")
    log = stage.log
    assert log.index("broker: started in") < log.index("plain: started in")
    assert stage.pids("second") == [], "one that is not on by default"
    assert stage.end() == 0
    stops = [name for name, what, _ in stage.entries() if what == "stop"]
    assert stops == ["output", "plain", "broker"]


def test_who_is_ready_while_others_are_started_is_heard(stage: Stage) -> None:
    # Was taken for a stranger, as it was not there yet when the supervisor began to listen; and killed 90 s later.
    stage.start(STAGE_DAWDLE="1")
    for name in ("broker", "plain", "output"):
        stage.wait_ready(name)
    assert stage.end() == 0


def test_the_children_get_a_watchdog_and_a_state_directory_each(stage: Stage) -> None:
    stage.start(TIMES_WATCHDOG="7.5", STATE_DIRECTORY="/var/lib/raspy", NOTIFY_SOCKET="/nowhere", WATCHDOG_PID="1")
    stage.wait_ready("plain")
    assert ("plain", "starts=1 last_end=") in [e[:2] for e in stage.entries()]
    assert ("plain", "watchdog=7500000 state=/var/lib/raspy/plain") in [e[:2] for e in stage.entries()]
    assert stage.end() == 0


def test_who_could_not_tell_a_supervisor_that_stood_still_is_not_killed_for_it(stage: Stage) -> None:
    stage.start(TIMES_WATCHDOG="4")
    pids = {name: stage.wait_ready(name) for name in ("broker", "plain", "output")}
    stage.send(signal.SIGSTOP)
    try:
        # Strangers have taken all the room there is for signs of life.
        assert stage.process is not None
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            (name,) = re.findall(rf"@(raspy-{stage.process.pid}-\w+)", Path("/proc/net/unix").read_text())
            other.connect(f"\0{name}")
            other.settimeout(5)
            with contextlib.suppress(TimeoutError):
                # The last one waits for longer than a server may be silent.
                for _ in range(1000):
                    other.send(b"x")
    finally:
        stage.send(signal.SIGCONT)
    stage.send(signal.SIGHUP)
    for name in pids:
        wait_for(f"{name} to reload", lambda: stage.pids(name, "reload"))  # noqa: B023
    assert {name: stage.pids(name)[-1] for name in pids} == pids
    assert "no sign of life" not in stage.log
    assert stage.end() == 0


def test_a_killed_server_is_back_and_nothing_else_restarts(stage: Stage) -> None:
    stage.start()
    for name in ("broker", "plain", "output"):
        pid = stage.wait_ready(name)
    pid = stage.wait_ready("plain")
    os.kill(pid, signal.SIGKILL)
    again = stage.wait_ready("plain", 2)
    assert again != pid
    assert "plain: ended by SIGKILL" in stage.log
    assert "plain: restarting in 0.2 s" in stage.log
    assert ("plain", "starts=2 last_end=ended by SIGKILL", again) in stage.entries()
    assert len(stage.pids("broker")) == len(stage.pids("output")) == 1
    assert stage.end() == 0


def test_backoff_doubles(stage: Stage) -> None:
    stage.start(STAGE_PLAIN="crash")
    stage.wait_log("plain: restarting in 0.8 s")
    waits = re.findall(r"plain: restarting in ([\d.]+) s", stage.log)
    assert waits[:3] == ["0.2", "0.4", "0.8"]
    assert "plain: exit code 3" in stage.log
    assert stage.end() == 0


def test_a_restart_that_was_asked_for_is_no_crash(stage: Stage) -> None:
    stage.start(STAGE_PLAIN="restart", STAGE_OUTPUT="restart")
    for name in ("plain", "output"):
        again = stage.wait_ready(name, 4)
        assert (name, "starts=4 last_end=a restart was asked for", again) in stage.entries()
    waits = re.findall(r"(?:plain|output): restarting in ([\d.]+) s", stage.log)
    assert waits == ["0.2"] * 6, "no back-off grows"
    assert "plain: stopped to be started again" in stage.log
    assert len([what for name, what, _ in stage.entries() if (name, what) == ("output", "safe")]) == 3
    # But that a turn took long, which one tells that had to wait for the processor.
    assert not [line for line in stage.log.splitlines() if "warning" in line and "one turn of the loop" not in line]
    assert len(stage.pids("broker")) == 1
    assert stage.end() == 0


def test_backoff_is_forgotten_after_a_settled_life(stage: Stage) -> None:
    stage.start(TIMES_SETTLED="0")
    for times in (1, 2, 3):
        os.kill(stage.wait_ready("plain", times), signal.SIGKILL)
    stage.wait_ready("plain", 4)
    assert re.findall(r"plain: restarting in ([\d.]+) s", stage.log) == ["0.2"] * 3
    assert stage.end() == 0


@pytest.mark.parametrize("how", ["stopped", "hung"])
def test_the_watchdog_replaces_a_silent_server(stage: Stage, how: str) -> None:
    # One that hangs ends by itself once it is let: on a busy machine its dump takes a while.
    behaviour = {"STAGE_PLAIN": "hang", "TIMES_ABORT": "20"} if how == "hung" else {"TIMES_ABORT": "0.3"}
    # The others have to be quicker than that, on a busy machine too.
    stage.start(TIMES_WATCHDOG="4", **behaviour)
    stage.wait_ready("broker")
    pid = stage.wait_ready("plain")
    if how == "stopped":
        os.kill(pid, signal.SIGSTOP)
    stage.wait_log("plain: no sign of life for 4 s")
    again = stage.wait_ready("plain", 2)
    assert again != pid
    assert not alive(pid)
    assert ("plain", "starts=2 last_end=no sign of life for 4 s", again) in stage.entries()
    if how == "hung":
        # A process that can still act on SIGABRT shows where it was.
        stage.wait_log("Fatal Python error: Aborted")
        stage.wait_log("executive.py")
    else:
        assert "plain: ended by SIGKILL" in stage.log
    assert stage.pids("broker") == [stage.wait_ready("broker")], "the others feed the watchdog, and stay"
    assert stage.end() == 0


def test_one_that_never_gets_ready_is_replaced(stage: Stage) -> None:
    # On a busy machine it takes a while until one says that it was started.
    stage.start(PLAIN_START="2", PLAIN_ABORT="0.3", STAGE_PLAIN="never ready", STAGE_BROKER="")
    stage.wait_log("plain: not ready after 2 s")
    wait_for("a second start", lambda: len(stage.pids("plain")) > 1)
    assert stage.end() == 0


def test_one_that_ignores_sigterm_is_killed(stage: Stage) -> None:
    stage.start(PLAIN_STOP="0.5", STAGE_PLAIN="deaf")
    stage.wait_ready("plain")
    stage.wait_ready("output")
    assert stage.end() == 0
    assert "plain: does not end: killed" in stage.log
    assert [name for name, what, _ in stage.entries() if what == "stop"] == ["output", "broker"]


def test_asked_twice_it_kills(stage: Stage) -> None:
    stage.start(TIMES_STOP="1000", STAGE_PLAIN="deaf")
    stage.wait_ready("plain")
    stage.wait_ready("output")
    stage.send(signal.SIGINT)
    stage.wait_log("output: its outputs are safe")
    assert stage.end(signal.SIGINT) == 0
    assert "plain: ended by SIGKILL" in stage.log


def test_a_first_exit_with_2_stops_everything(stage: Stage) -> None:
    stage.start(STAGE_PLAIN="refuse")
    assert stage.wait() == 2
    lines = [line for line in stage.log.splitlines() if line.startswith("raspy:")]
    assert lines == ["raspy: plain: the port is taken"]
    assert "Traceback" not in stage.log
    assert not any(alive(pid) for name, what, pid in stage.entries() if what == "start")


def test_a_later_exit_with_2_is_not_restarted(stage: Stage) -> None:
    stage.start(STAGE_PLAIN="refuse later")
    pid = stage.wait_ready("plain")
    refuse = Path(f"{stage.journal}.refuse")
    refuse.write_text("")
    os.kill(pid, signal.SIGKILL)
    stage.wait_log(r"plain: not restarted \(exit code 2\)")
    starts = len(stage.pids("plain"))
    refuse.unlink()
    stage.send(signal.SIGHUP)
    stage.wait_ready("plain", 2)
    assert len(stage.pids("plain")) == starts + 1
    assert len(stage.pids("broker")) == 1
    assert stage.end() == 0


def test_a_later_exit_with_2_of_one_that_was_never_ready_stops_nothing(stage: Stage) -> None:
    stage.start(STAGE_PLAIN="crash, then refuse")
    stage.wait_log(r"plain: not restarted \(exit code 2\)")
    stage.wait_ready("output")
    assert stage.end() == 0


def test_a_reload_that_adds_one_that_cannot_start_stops_nothing(stage: Stage) -> None:
    stage.start(STAGE_SECOND="refuse")
    for name in ("broker", "plain", "output"):
        stage.wait_ready(name)
    stage.config.write_text("[run]\nservers = ['broker', 'second', 'plain', 'output']\n")
    stage.send(signal.SIGHUP)
    stage.wait_log(r"second: not restarted \(exit code 2\)")
    assert "raspy: second: the port is taken" in stage.log
    os.kill(stage.pids("plain")[0], signal.SIGKILL)
    stage.wait_ready("plain", 2)
    assert {name for name, what, _ in stage.entries() if what == "stop"} == {"second"}
    assert stage.end() == 0


@pytest.mark.parametrize("ended", ["killed", "stopped"])
def test_outputs_are_made_safe_after_any_exit(stage: Stage, ended: str) -> None:
    stage.start()
    pid = stage.wait_ready("output")
    if ended == "killed":
        os.kill(pid, signal.SIGKILL)
        stage.wait_ready("output", 2)
        happened = [what for name, what, _ in stage.entries() if name == "output" and "=" not in what]
        assert happened == ["start", "safe", "start"], "made safe before the next start"
    assert stage.end() == 0
    assert [what for name, what, _ in stage.entries() if name == "output"][-2:] == ["stop", "safe"]
    assert not stage.pids("plain", "safe"), "one without outputs is left alone"


def switch_for(stage: Stage, name: str) -> Path:
    """A file by which the servers of the stage are told to do something, as long as it is there."""
    made = Path(f"{stage.journal}.{name}")
    made.write_text("")
    return made


def history(stage: Stage) -> list[str]:
    """What happened to the server with an output, its starts and what was done for it."""
    return [what for name, what, _ in stage.entries() if name == "output" and "=" not in what and what != "hangs"]


def test_outputs_that_cannot_be_made_safe_are_tried_until_they_can_and_nothing_starts_before(stage: Stage) -> None:
    stage.start()
    pid = stage.wait_ready("output")
    broken = switch_for(stage, "broken")
    os.kill(pid, signal.SIGKILL)
    stage.wait_log(r"output: tried again in 0.8 s")
    assert history(stage)[:4] == ["start", "not safe", "not safe", "not safe"]
    assert "output: its outputs could NOT be made safe (exit code 1)" in stage.log
    assert re.findall(r"output: tried again in ([\d.]+) s", stage.log)[:3] == ["0.2", "0.4", "0.8"]
    assert "the chip does not answer" in stage.log
    broken.unlink()
    stage.wait_ready("output", 2)
    # It may have been tried more often than that before there was another answer.
    tries = history(stage)[1:-2]
    assert history(stage) == ["start", *["not safe"] * len(tries), "safe", "start"]
    assert stage.end() == 0


def test_outputs_of_one_that_was_refused_are_tried_too(stage: Stage) -> None:
    stage.config.write_text("[run]\nservers = ['broker']\n")
    broken = switch_for(stage, "broken")
    stage.start(STAGE_OUTPUT="refuse")
    stage.wait_ready("broker")
    stage.config.write_text("[run]\nservers = ['broker', 'output']\n")
    stage.send(signal.SIGHUP)
    stage.wait_log("output: tried again in 0.4 s")
    assert "raspy: output: the port is taken" in stage.log
    broken.unlink()
    stage.wait_log(r"output: not restarted \(exit code 2\)")
    tries = history(stage)[2:-1]
    assert len(tries) >= 2
    assert history(stage) == ["start", "stop", *["not safe"] * len(tries), "safe"]
    assert stage.end() == 0


def test_one_that_leaves_is_tried_until_its_outputs_are_safe(stage: Stage) -> None:
    broken = switch_for(stage, "broken")
    stage.start()
    stage.wait_ready("output")
    stage.wait_ready("plain")
    stage.config.write_text("[run]\nservers = ['broker', 'plain']\n")
    stage.send(signal.SIGHUP)
    stage.wait_log("output: tried again in 0.4 s")
    # Two signals that have not been taken are one.
    wait_for("the first reload", lambda: stage.pids("plain", "reload"))
    stage.send(signal.SIGHUP)
    wait_for("both reloads", lambda: len(stage.pids("plain", "reload")) == 2)
    broken.unlink()
    stage.wait_log("output: its outputs are safe")
    assert stage.end() == 0
    assert len(stage.pids("output")) == 1


@pytest.mark.parametrize("mistake", ["[run\n", "[run]\nlog_level = 'debgu'\n", "[bus]\nx = 1\n[stage]\ny = 1\n", None])
def test_outputs_are_made_safe_with_any_configuration(stage: Stage, mistake: str | None) -> None:
    stage.start(STAGE_READS_CONFIG="1")
    stage.wait_ready("plain")
    pid = stage.wait_ready("output")
    if mistake is None:
        stage.config.unlink()
    else:
        stage.config.write_text(mistake)
    os.kill(pid, signal.SIGKILL)
    stage.wait_log(r"output: not restarted \(exit code 2\)")
    assert history(stage)[:2] == ["start", "safe"]
    assert "could NOT" not in stage.log
    assert "the outputs are made safe" in stage.log, "the mistake is told"
    assert stage.end() == 0


def test_at_its_stop_it_tries_until_the_outputs_are_safe(stage: Stage) -> None:
    broken = switch_for(stage, "broken")
    stage.start()
    stage.wait_ready("output")
    stage.send(signal.SIGTERM)
    stage.wait_log("output: tried again in 0.4 s")
    wait_for("the stop of the others", lambda: stage.pids("broker", "stop"))
    broken.unlink()
    assert stage.wait() == 0
    assert history(stage)[-1] == "safe"


def test_asked_twice_to_stop_it_leaves_what_is_not_safe_to_the_guardian(stage: Stage) -> None:
    broken = switch_for(stage, "broken")
    stage.start()
    stage.wait_ready("output")
    stage.send(signal.SIGTERM)
    stage.wait_log("output: tried again in 0.4 s")
    assert stage.end() == 1
    assert "ended while the outputs of output are NOT safe" in stage.log
    broken.unlink()
    wait_for("the outputs safe", lambda: history(stage)[-1] == "safe")
    stage.wait_log("the supervisor is gone; the outputs of output were made safe without it")


def test_outputs_are_safe_when_the_supervisor_dies_with_their_server(stage: Stage) -> None:
    stage.start()
    pid = stage.wait_ready("output")
    # It cannot have begun to make them safe.
    stage.send(signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    stage.end(signal.SIGKILL)
    wait_for("the outputs safe", lambda: history(stage)[-1] == "safe")
    stage.wait_log("the supervisor is gone; the outputs of output were made safe without it")


def test_outputs_are_safe_when_the_supervisor_dies_while_they_are_made_so(stage: Stage) -> None:
    switch_for(stage, "slow")
    stage.start()
    pid = stage.wait_ready("output")
    os.kill(pid, signal.SIGKILL)
    wait_for("the beginning", lambda: history(stage)[-1] == "begins")
    stage.end(signal.SIGKILL)
    first = stage.pids("output", "begins")[0]
    wait_for("its end", lambda: first in stage.pids("output", "safe"))


@pytest.mark.parametrize("how", ["hung", "hung for ever", "killed"])
def test_outputs_are_safe_when_their_hung_server_ends_after_the_supervisor(stage: Stage, how: str) -> None:
    grace = "0.3" if how == "hung" else "1000"
    broken = switch_for(stage, "broken")
    stage.start(
        STAGE_OUTPUT="hang", STAGE_GRACE=grace, STAGE_GUARDIAN_GRACE="0.3" if how == "hung for ever" else "1000"
    )
    pid = stage.wait_ready("output")
    stage.wait_ready("plain")
    wait_for("its hang", lambda: stage.pids("output", "hangs"))
    stage.end(signal.SIGKILL)
    wait_for("the others' end", lambda: not any(map(alive, stage.pids("broker") + stage.pids("plain"))))
    if how == "killed":
        assert alive(pid)
        os.kill(pid, signal.SIGKILL)
    wait_for("its end", lambda: not alive(pid))
    wait_for("some tries", lambda: history(stage).count("not safe") >= 2)
    broken.unlink()
    wait_for("the outputs safe", lambda: history(stage)[-1] == "safe")


def guardians(stage: Stage) -> list[int]:
    """The processes of the guardian of a stage."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if GUARDIAN[-1].encode() in words and f"--config={stage.config}".encode() in words:
            found.append(int(entry.name))
    return found


def test_the_guardian_is_there_for_outputs_alone_and_ends_with_the_supervisor(stage: Stage) -> None:
    stage.config.write_text("[run]\nservers = ['broker', 'plain']\n")
    stage.start()
    stage.wait_ready("plain")
    assert guardians(stage) == []
    stage.config.write_text("")
    stage.send(signal.SIGHUP)
    stage.wait_ready("output")
    [pid] = guardians(stage)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(pid, number)
    os.kill(stage.pids("output")[0], signal.SIGKILL)
    stage.wait_ready("output", 2)
    assert guardians(stage) == [pid]
    os.kill(pid, signal.SIGKILL)
    wait_for("the guardian's end", lambda: not alive(pid))
    os.kill(stage.pids("output")[-1], signal.SIGKILL)
    stage.wait_ready("output", 3)
    assert guardians(stage) not in ([], [pid]), "another one"
    made_safe = history(stage).count("safe")
    assert stage.end() == 0
    wait_for("the guardian's end", lambda: guardians(stage) == [])
    assert history(stage).count("safe") == made_safe + 1, "nothing is done twice"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[stage]\nintervall = 3\n", "raspy.toml:2: unknown key 'intervall' in [stage]"),
        ("[stage]\ninterval = true\n", "raspy.toml:2: interval in [stage]"),
        ("[stages]\n", "raspy.toml:1: unknown section [stages]"),
        ("[run]\nservers = ['brocker']\n", "there is no server 'brocker'"),
        ("[stage\n", "is not TOML"),
        ("[stage]\ndirectory = '/nowhere/at/all'\n", "/nowhere/at/all: cannot be read: No such file"),
    ],
)
def test_a_mistake_in_the_configuration_is_one_line_and_exit_code_2(stage: Stage, text: str, message: str) -> None:
    stage.config.write_text(text)
    stage.start()
    assert stage.wait() == 2
    lines = [line for line in stage.log.splitlines() if line.startswith("raspy:")]
    assert message in lines[0]
    assert len(set(lines)) <= len({"broker", "plain", "output"})
    assert "Traceback" not in stage.log
    if "directory" not in text:
        assert len(lines) == 1
        assert not stage.entries(), "nothing is started on a wrong configuration"


def test_an_unreadable_directory(stage: Stage, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    before: list[str] = []
    if os.geteuid() == 0:
        # Root without the capabilities that open every door; the interpreter stays readable this way.
        os.chown(closed, NOBODY, NOBODY)
        doors = "-dac_override,-dac_read_search"
        before = [need_program("setpriv"), f"--bounding-set={doors}", f"--inh-caps={doors}", f"--ambient-caps={doors}"]
    stage.config.write_text(f"[stage]\ndirectory = '{closed}'\n[run]\nservers = ['plain']\n")
    stage.start(*before)
    assert stage.wait() == 2
    lines = [line for line in stage.log.splitlines() if line.startswith("raspy:")]
    assert lines == [f"raspy: plain: {closed}: cannot be read: Permission denied"]


def test_reload_starts_and_stops_what_the_configuration_says(stage: Stage) -> None:
    stage.start()
    for name in ("broker", "plain", "output"):
        stage.wait_ready(name)
    stage.config.write_text("[run]\nservers = ['broker', 'second', 'plain']\n")
    stage.send(signal.SIGHUP)
    stage.wait_ready("second")
    stage.wait_log("output: its outputs are safe")
    wait_for("the reload", lambda: stage.pids("plain", "reload") and stage.pids("broker", "reload"))
    assert len(stage.pids("plain")) == len(stage.pids("broker")) == len(stage.pids("output")) == 1
    assert stage.end() == 0
    assert [n for n, what, _ in stage.entries() if what == "stop"] == ["output", "second", "plain", "broker"]


def test_reload_of_a_wrong_configuration_changes_nothing(stage: Stage) -> None:
    stage.start()
    for name in ("broker", "plain", "output"):
        stage.wait_ready(name)
    stage.config.write_text("[run]\nservers = ['second']\nx = 1\n")
    stage.send(signal.SIGHUP)
    stage.wait_log("unknown key 'x'")
    stage.wait_log("everything stays as it was")
    assert not stage.pids("second")
    assert stage.end() == 0
    assert not stage.pids("plain", "reload")


def checks_of(supervisor: int) -> int:
    """How many checks of the configuration run."""
    found = 0
    for entry in Path("/proc").iterdir():
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            found += parent == supervisor and b"--check" in (entry / "cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError, IndexError):
            continue
    return found


def test_many_reloads_are_one_check_at_a_time_and_one_more(stage: Stage) -> None:
    stage.start()
    for name in ("broker", "plain", "output"):
        stage.wait_ready(name)
    hold = Path(f"{stage.journal}.hold")
    hold.write_text("")
    assert stage.process is not None
    for _ in range(5):
        stage.send(signal.SIGHUP)
        stage.wait_log("reading the configuration again")
    # The loop has had the signals when it has seen what came after them.
    os.kill(stage.pids("plain")[0], signal.SIGKILL)
    stage.wait_ready("plain", 2)
    assert checks_of(stage.process.pid) == 1
    # One after the other: two signals that the broker has not taken are one.
    switch_for(stage, "one")
    wait_for("the first reload", lambda: len(stage.pids("broker", "reload")) == 1)
    hold.unlink()
    wait_for("two reloads", lambda: len(stage.pids("broker", "reload")) == 2)
    assert stage.end() == 0
    assert stage.log.count("reading the configuration again") == 2
    assert len(stage.pids("broker", "reload")) == 2


def test_a_bug_in_what_is_done_to_one_server_ends_nothing(stage: Stage) -> None:
    stage.start(STAGE_BUG="1")
    for name in ("broker", "plain", "output"):
        stage.wait_ready(name)
    stage.send(signal.SIGHUP)
    wait_for("the reload of the others", lambda: stage.pids("broker", "reload") and stage.pids("output", "reload"))
    stage.wait_log("RuntimeError: a bug")
    assert stage.end() == 0
    assert len(stage.pids("plain")) == 1


def test_the_children_end_with_a_killed_supervisor(stage: Stage) -> None:
    stage.start()
    for name in ("broker", "plain", "output"):
        stage.wait_ready(name)
    assert stage.end(signal.SIGKILL) == -signal.SIGKILL
    pids = [pid for _, what, pid in stage.entries() if what == "start"]
    wait_for("the end of all children", lambda: not any(map(alive, pids)))
    stopped = {name for name, what, _ in stage.entries() if what == "stop"}
    assert stopped == {"broker", "plain", "output"}, "each had the time to stop, and so to make its outputs safe"


def test_a_hung_child_ends_with_a_killed_supervisor(stage: Stage) -> None:
    stage.start(STAGE_PLAIN="hang", STAGE_GRACE="0.3")
    stage.wait_ready("output")
    pid = stage.wait_ready("plain")
    stage.end(signal.SIGKILL)
    wait_for("the end of the hung child", lambda: not alive(pid))


def test_a_stopped_child_ends_with_a_killed_supervisor(stage: Stage) -> None:
    stage.start()
    stage.wait_ready("output")
    pid = stage.wait_ready("plain")
    os.kill(pid, signal.SIGSTOP)
    # Of all its threads: before that the kernel knows of nothing stopped that it has to wake as an orphan.
    wait_for("its stop", lambda: {stat.split()[0] for stat in thread_stats(pid)} == {"T"})
    stage.end(signal.SIGKILL)
    wait_for("the end of the stopped child", lambda: not alive(pid))
    assert pid in stage.pids("plain", "stop"), "in good order"


def test_ctrl_c_at_a_terminal_reaches_the_supervisor_alone(stage: Stage) -> None:
    stage.start()
    pid = stage.wait_ready("plain")
    assert stage.process is not None
    assert os.getpgid(pid) == pid, "in the background of the terminal"
    [blocked] = re.findall(r"SigBlk:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    assert int(blocked, 16) == 1 << signal.SIGTTOU - 1, "which does not stop it for what it writes"
    assert stage.end(signal.SIGINT) == 0
    assert "SIGINT: stopping" in stage.log


def test_a_program_that_cannot_be_run_is_1(tmp_path: Path) -> None:
    code = (
        "import sys; from raspy.common.supervisor import Supervisor; "
        "sys.exit(Supervisor(['/nowhere/at/all'], sys.argv[1]).run())"
    )
    path = tmp_path / "raspy.toml"
    path.write_text("")
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        env={**os.environ, "PYTHONPATH": TOP, "XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "check: cannot be run: " in done.stderr
    assert "Traceback" not in done.stderr


def test_an_instance_id_names_host_and_process() -> None:
    one = Supervisor()
    assert one.get_instance_id() == one.get_instance_id() != Supervisor().get_instance_id()
    assert one.get_instance_id().startswith(f"localhost.supervisor.{os.getpid()}.")


def test_it_tells_its_own_supervisor(stage: Stage, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.settimeout(LIMIT_S)
        # The kernel keeps no more than ten datagrams that nobody has read: what it says at its end needs room.
        stage.start(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="4000000")
        said = set()
        while not said >= {b"READY=1", b"WATCHDOG=1"}:
            said.add(heard.recv(4096))
        for name in ("broker", "plain", "output"):
            stage.wait_ready(name)
        assert stage.end() == 0
        heard.setblocking(False)
        while True:
            try:
                said.add(heard.recv(4096))
            except BlockingIOError:
                break
    assert said == {b"READY=1", b"WATCHDOG=1", b"STOPPING=1"}, "the servers talk to us, not past us"


def test_no_disk_is_needed_to_replace_a_server(stage: Stage) -> None:
    stage.run_directory.rmdir()
    stage.run_directory.write_text("no directory")
    stage.start(TMPDIR="/nowhere/at/all")
    pid = stage.wait_ready("plain")
    stage.wait_ready("output")
    address = notify_address(pid)
    assert address.startswith("@"), "one that is no file"
    os.kill(pid, signal.SIGKILL)
    assert notify_address(stage.wait_ready("plain", 2)) == address
    assert stage.end() == 0


def notify_address(pid: int) -> str:
    """Where a process tells how it is."""
    variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return next(variable for variable in variables if variable.startswith("NOTIFY_SOCKET=")).partition("=")[2]


def test_a_stranger_cannot_speak_for_a_server(stage: Stage) -> None:
    stage.start()
    pid = stage.wait_ready("plain")
    stage.wait_ready("output")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        stranger.connect(notify_address(pid).replace("@", "\0"))
        for word in (b"WATCHDOG=trigger", b"READY=1", b"\xff\0", b""):
            stranger.send(word)
    os.kill(stage.pids("output")[0], signal.SIGKILL)
    stage.wait_ready("output", 2)
    assert "asks to be replaced" not in stage.log
    assert stage.end() == 0
    assert len(stage.pids("plain")) == 1


def test_a_log_that_nobody_reads_stops_nothing(stage: Stage) -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    while True:
        try:
            os.write(write, b"x" * 4096)
        except BlockingIOError:
            break
    os.set_blocking(write, True)
    stage.start(stderr=write)
    for name in ("broker", "plain", "output"):
        wait_for(f"{name} in the journal", lambda: stage.pids(name))  # noqa: B023
    os.kill(stage.pids("plain")[0], signal.SIGKILL)
    wait_for("plain again", lambda: len(stage.pids("plain")) == 2)
    assert stage.end() == 0
    assert len(stage.pids("broker")) == len(stage.pids("broker", "stop")) == 1
    for end in (read, write):
        os.close(end)


def test_children_are_seen_to_end_where_their_ends_are_ignored(stage: Stage) -> None:
    # A daemon that ignores SIGCHLD hands that on to what it starts.
    code = "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    stage.start(sys.executable, "-c", code)
    os.kill(stage.wait_ready("plain"), signal.SIGKILL)
    stage.wait_ready("plain", 2)
    assert "plain: ended by SIGKILL" in stage.log
    assert stage.end() == 0


def test_a_process_that_cannot_be_watched_is_not_left_behind() -> None:
    code = """if True:
        import os, resource
        from raspy.common.process import ExecutiveProcess
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
        taken = []
        while len(os.listdir("/proc/self/fd")) < 39:
            taken.append(os.open("/dev/null", os.O_RDONLY))
        process = ExecutiveProcess(["/bin/sleep", "1000"])
        # One after the other is given back, until there are enough for the pipe but none for the process.
        while not process.pid:
            try:
                process.run()
            except OSError as error:
                print(error.strerror)
                os.close(taken.pop())
        print(process.fileno(), len(os.listdir("/proc/self/fd")) < 40)
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            print("none left")
    """
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": TOP}, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines()[-3:] == ["Too many open files", "-1 True", "none left"], done.stderr


def test_a_signal_to_one_that_has_ended_leaves_its_end_to_be_seen() -> None:
    process = ExecutiveProcess([sys.executable, "-c", "raise SystemExit(3)"])
    process.run()
    os.waitid(os.P_PIDFD, process.fileno(), os.WEXITED | os.WNOWAIT)
    process.kill(signal.SIGTERM)
    assert process.fileno() >= 0, "the loop still watches it"
    assert process.poll() == 3
    process.kill(signal.SIGTERM)
