"""One supervised server: what its process says and how it ends, with processes of sh."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raspy.common.child import (
    DOWN,
    READY,
    REFUSED,
    STARTING,
    STOPPING,
    UNSAFE,
    WAITING,
    Child,
    Times,
    signal_name,
)
from raspy.common.process import RESTART
from tests.bus import eventually
from tests.support_devices import LIMIT

SLEEP = ["/bin/sh", "-c", "exec sleep 1000"]
Make = Callable[..., "Seen"]


class Seen(Child):
    """A server, and the states in which it said that it had changed."""

    def __init__(self, command: list[str], times: Times) -> None:
        self.changes: list[str] = []
        super().__init__("x", command, "@raspy-test", times, lambda child: self.changes.append(child.state))

    def ended(self) -> Seen:
        """Wait for its process's end, and have it taken note of."""
        assert self.process is not None
        self.process.wait(LIMIT)
        self.on_exit()
        return self

    def in_s(self) -> float:
        """Seconds until it is to be looked after."""
        assert self.due is not None
        return self.due - time.monotonic()


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Seen] = []

    def one(command: list[str] = SLEEP, **times: float) -> Seen:
        made.append(Seen(command, Times(**times)))  # type: ignore[arg-type]
        return made[-1]

    yield one
    for each in made:
        if each.process is not None:
            each.process.kill()
            each.process.wait(LIMIT)


def shell(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


def trapping(act: str, number: str, ready: Path) -> list[str]:
    """A process that does something else at a signal, from the moment that a file is there."""
    return shell(f"trap '{act}' {number}; echo >{ready}; while :; do sleep 0.02; done")


def test_a_life(make: Make) -> None:
    server = make()
    assert (server.state, server.up, server.due) == (DOWN, False, None)
    server.start()
    assert (server.state, server.up, server.starts, server.was_ready) == (STARTING, True, 1, False)
    assert 80 < server.in_s() <= 90
    server.on_notify(b"STATUS=opening\nREADY=1\n")
    assert (server.state, server.was_ready, server.status) == (READY, True, "opening")
    assert 5 < server.in_s() <= 10
    server.stop()
    assert server.state == STOPPING
    server.stop()  # harmless
    server.ended()
    assert (server.state, server.up, server.due, server.status) == (DOWN, False, None, "")
    assert (server.exit_code, server.last_end) == (-signal.SIGTERM, "stopped")
    assert server.changes == [STARTING, READY, DOWN]
    server.stop()
    server.kill()
    server.reload()
    server.on_exit()
    assert server.changes == [STARTING, READY, DOWN]


def test_what_its_process_is_told(make: Make, tmp_path: Path) -> None:
    script = f'echo "$NOTIFY_SOCKET $WATCHDOG_USEC $SUPERVISOR_STARTS $SUPERVISOR_LAST_END" >>{tmp_path}/told; exit 3'
    server = make(shell(script), watchdog=2.5)
    for _ in range(2):
        server.start()
        server.ended()
    assert server.last_end == "exit code 3"
    first, second = (tmp_path / "told").read_text().splitlines()
    assert first == "@raspy-test 2500000 1 "
    assert second == "@raspy-test 2500000 2 exit code 3"


@pytest.mark.parametrize(
    ("script", "code", "told"),
    [
        ("exit 0", 0, "exit code 0"),
        ("exit 1", 1, "exit code 1"),
        ("kill -SEGV $$", -signal.SIGSEGV, "ended by SIGSEGV"),
        ("kill -TERM $$", -signal.SIGTERM, "ended by SIGTERM"),
        (f"exit {RESTART}", RESTART, "a restart was asked for"),
    ],
)
def test_why_it_has_ended(make: Make, caplog: pytest.LogCaptureFixture, script: str, code: int, told: str) -> None:
    server = make(shell(script))
    server.start()
    server.ended()
    assert (server.exit_code, server.last_end) == (code, told)
    # Only what was not asked for is worth a warning.
    warned = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == (code != RESTART)


def test_a_signal_without_a_name() -> None:
    assert signal_name(9) == "SIGKILL"
    assert signal_name(200) == "signal 200"


def test_a_program_that_is_not_there_is_tried_again_later(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    server = make(["/nowhere/program"], backoff=(0.5, 1.5))
    for delay in (0.5, 1.0, 1.5, 1.5):
        server.start()
        assert (server.state, server.up, server.exit_code) == (WAITING, False, 1)
        assert delay - 0.4 < server.in_s() <= delay
    assert server.last_end.startswith("could not be started: ")
    assert server.changes == [], "nobody is to look at what has not been there"
    assert "cannot be started" in caplog.text


def test_backoff_is_forgotten_where_it_was_asked_for_and_after_a_settled_life(make: Make) -> None:
    server = make(shell("exit 1"), backoff=(100.0, 1000.0))
    waits = []
    for _ in range(3):
        server.start()
        server.ended().wait()
        waits.append(round(server.in_s(), -2))
    assert waits == [100, 200, 400]
    server.exit_code = RESTART
    server.wait()
    assert round(server.in_s(), -2) == 100
    settled = make(shell("exit 1"), backoff=(100.0, 1000.0), settled=0.0)
    for _ in range(3):
        settled.start()
        settled.ended().wait()
        assert round(settled.in_s(), -2) == 100


def test_a_wait_that_is_over_is_a_start(make: Make) -> None:
    server = make(shell("exit 1"))
    server.start()
    server.ended().wait()
    server.expire()
    assert (server.state, server.starts) == (STARTING, 2)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ([], "not ready after 90 s"),
        ([b"READY=1"], "no sign of life for 10 s"),
    ],
)
def test_one_that_is_silent_is_replaced(make: Make, said: list[bytes], told: str) -> None:
    server = make()
    server.start()
    for each in said:
        server.on_notify(each)
    server.expire()
    assert server.state == STOPPING
    assert 0 < server.in_s() <= 2, "so long it may take to show where it was"
    server.ended()
    assert (server.exit_code, server.last_end) == (-signal.SIGABRT, told)
    server.start()
    server.kill()
    assert server.ended().last_end == "ended by SIGKILL", "what was before is forgotten"


def test_signs_of_life_put_the_end_off(make: Make) -> None:
    server = make(watchdog=1000.0)
    server.start()
    server.on_notify(b"WATCHDOG=1")
    assert server.in_s() < 100, "one that is not ready has another time"
    server.on_notify(b"WATCHDOG=trigger")
    assert server.state == STARTING
    server.on_notify(b"READY=1")
    server.due = 0.0
    server.on_notify(b"WATCHDOG=2\nwatchdog=1\nWATCHDOG\n\xff=1\n=\n")
    assert server.due == 0.0
    server.on_notify(b"READY=1")
    assert (server.due, server.changes) == (0.0, [STARTING, READY]), "it is ready once"
    server.on_notify(b"WATCHDOG=1")
    assert server.in_s() > 900
    server.on_notify(b"WATCHDOG=trigger")
    assert server.state == STOPPING
    assert server.ended().last_end == "asks to be replaced"


def test_what_it_says_is_short_and_printable(make: Make) -> None:
    server = make()
    server.start()
    server.on_notify(b"STATUS=\x1b[2J" + b"x" * 1000)
    assert server.status.isprintable()
    assert len(server.status) < 600


def test_one_that_ignores_sigterm_is_killed(make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server = make(trapping("", "TERM", tmp_path / "trapped"), stop=50.0)
    server.start()
    eventually((tmp_path / "trapped").exists)
    server.stop()
    assert 40 < server.in_s() <= 50
    server.expire()
    assert "does not end: killed" in caplog.text
    assert server.ended().exit_code == -signal.SIGKILL


def test_a_reload_waits_until_it_is_ready(make: Make, tmp_path: Path) -> None:
    server = make(trapping("exit 7", "HUP", tmp_path / "trapped"))
    server.start()
    eventually((tmp_path / "trapped").exists)
    server.reload()
    assert server.process is not None
    assert server.process.poll() is None
    server.on_notify(b"READY=1")
    assert server.ended().exit_code == 7
    # It was for that process alone.
    server.start()
    server.on_notify(b"READY=1")
    assert server.process.poll() is None


def test_one_that_nobody_could_hear_is_spared(make: Make) -> None:
    server = make()
    server.spare(1e9)
    assert server.due is None
    server.start()
    server.spare(time.monotonic() + 500)
    assert server.in_s() > 400
    server.spare(0)
    assert server.in_s() > 400, "it never takes time away"
    server.stop()
    server.spare(time.monotonic() + 500)
    assert server.in_s() < 100, "one that is to end has to"


def test_outputs_that_are_not_safe_are_tried_until_they_are(make: Make) -> None:
    server = make(shell("exit 1"), backoff=(100.0, 300.0))
    server.start()
    server.ended()
    waits = []
    for _ in range(3):
        server.unsafe()
        assert server.state == UNSAFE
        waits.append(round(server.in_s(), -2))
        server.stop()
        assert (server.state, server.due is None) == (UNSAFE, False), "at its stop they are tried, too"
        server.expire()
        assert (server.state, server.due) == (DOWN, None)
    assert waits == [100, 200, 300]
    assert server.changes == [STARTING, *[DOWN] * 4], "each time somebody has to try"
    server.safe()
    server.unsafe()
    assert round(server.in_s(), -2) == 100


def test_one_that_needs_its_owner_is_not_started(make: Make) -> None:
    server = make(shell("exit 2"))
    server.start()
    server.ended().refuse()
    assert (server.state, server.due) == (REFUSED, None)
    server.expire()
    assert (server.state, server.starts) == (REFUSED, 1)


def test_an_end_that_has_not_come_is_none(make: Make) -> None:
    server = make()
    server.start()
    server.on_exit()
    assert (server.state, server.up, server.changes) == (STARTING, True, [STARTING])
