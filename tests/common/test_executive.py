"""The event loop."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import zmq

from raspy.common import executive
from raspy.common.executive import Executive, ExecutiveProcess
from raspy.common.pool import JobTimeout

TOP = str(Path(__file__).parents[2])
LIMIT_S = 10.0


@pytest.fixture
def loop() -> Iterator[Executive]:
    made = Executive("pi", "test")
    made.call_later(LIMIT_S, pytest.fail, "the test takes too long")
    yield made
    made.destroy()


def run_until(loop: Executive, found: object) -> None:
    """Turn until a list has something in it."""
    end = time.monotonic() + LIMIT_S
    while not found:
        assert time.monotonic() < end
        loop.turn(1.0)


def test_the_instance_id_is_its_own(loop: Executive) -> None:
    other = Executive("pi", "test")
    assert loop.get_instance_id() == loop.get_instance_id() != other.get_instance_id()
    assert loop.get_instance_id().startswith(f"pi.test.{os.getpid()}.")
    other.destroy()


def test_the_documented_names_are_importable() -> None:
    assert ExecutiveProcess("fake").name == "fake"


def test_timers_come_in_the_order_of_their_time(loop: Executive) -> None:
    calls: list[str] = []
    loop.call_later(0.02, calls.append, "second")
    loop.call_later(0.01, calls.append, "first")
    loop.call_later(0.015, calls.append, "cancelled").cancel()
    while len(calls) < 2:
        loop.turn()
    assert calls == ["first", "second"]


def test_a_repeated_call_repeats_until_cancelled(loop: Executive) -> None:
    calls: list[float] = []
    began = time.monotonic()
    timer = loop.call_every(0.01, lambda: calls.append(time.monotonic()))
    while len(calls) < 3:
        loop.turn()
    assert calls[2] - began >= 0.025
    timer.cancel()
    timer.cancel()
    done: list[int] = []
    loop.call_later(0.05, done.append, 1)
    run_until(loop, done)
    assert len(calls) == 3


def test_missed_repetitions_are_made_once(loop: Executive, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    # A clock that stands still between the two turns, in which the next call could fall due.
    now = [time.monotonic()]
    monkeypatch.setattr(executive, "time", SimpleNamespace(monotonic=lambda: now[0]))
    loop.call_every(0.01, calls.append, 1)
    now[0] += 0.1
    loop.turn()
    loop.turn(0.0)
    assert len(calls) == 1


def test_a_handler_that_raises_is_counted_and_the_loop_goes_on(loop: Executive) -> None:
    calls: list[int] = []
    loop.call_later(0, lambda: 1 // 0)
    loop.call_later(0.001, calls.append, 1)
    run_until(loop, calls)
    assert loop.errors == 1
    assert "ZeroDivisionError" in loop.last_error


def test_sockets_and_descriptors_are_watched(loop: Executive) -> None:
    ours, theirs = socket.socketpair()
    heard: list[bytes] = []
    loop.register(ours.fileno(), lambda: heard.append(ours.recv(10)))
    pull, push = loop.ctx.socket(zmq.PULL), loop.ctx.socket(zmq.PUSH)
    pull.bind("inproc://x")
    push.connect("inproc://x")
    loop.register(pull, lambda: heard.append(pull.recv()))
    theirs.send(b"one")
    run_until(loop, heard)
    push.send(b"two")
    while len(heard) < 2:
        loop.turn(1.0)
    assert heard == [b"one", b"two"]
    loop.unregister(ours.fileno())
    loop.unregister(ours.fileno())
    theirs.send(b"unheard")
    loop.turn(0.0)
    assert len(heard) == 2
    for end in (ours, theirs, pull, push):
        end.close()


def test_a_call_from_another_thread_comes_on_the_loops(loop: Executive) -> None:
    seen: list[threading.Thread] = []
    thread = threading.Thread(target=lambda: loop.call_threadsafe(lambda: seen.append(threading.current_thread())))
    thread.start()
    run_until(loop, seen)
    thread.join()
    assert seen == [threading.current_thread()]


def test_a_call_left_by_a_call_does_not_starve_the_loop(loop: Executive) -> None:
    calls: list[int] = []

    def again() -> None:
        calls.append(1)
        loop.call_threadsafe(again)

    loop.call_threadsafe(again)
    loop.turn(1.0)
    assert len(calls) == 1
    loop.turn(1.0)
    assert len(calls) == 2


def test_slow_work_comes_back_on_the_loop(loop: Executive) -> None:
    outcomes: list[tuple[object, object, threading.Thread]] = []
    loop.in_pool(pow, 2, 10, done=lambda r, e: outcomes.append((r, e, threading.current_thread())))
    run_until(loop, outcomes)
    assert outcomes == [(1024, None, threading.current_thread())]


def test_slow_work_that_hangs_is_abandoned_in_its_time(loop: Executive) -> None:
    gate = threading.Event()
    outcomes: list[object] = []
    loop.in_pool(gate.wait, LIMIT_S, done=lambda r, e: outcomes.append(e), timeout=1000.0)
    loop.in_pool(gate.wait, LIMIT_S, done=lambda r, e: outcomes.append(e), timeout=0.05)
    run_until(loop, outcomes)
    assert isinstance(outcomes[0], JobTimeout)
    gate.set()
    while len(outcomes) < 2:
        loop.turn(1.0)
    assert outcomes[1] is None


def test_destroy_can_be_repeated_and_a_late_wake_is_harmless(loop: Executive) -> None:
    before = len(os.listdir("/proc/self/fd"))
    other = Executive()
    other.destroy()
    other.destroy()
    other.call_threadsafe(int)
    other.shutdown()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_thread_that_wakes_a_loop_that_ends_writes_to_no_other_file(
    loop: Executive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it was about to write to is closed by then, and its number may be another file's."""
    other = Executive("pi", "test")
    writes, ends = threading.Event(), threading.Event()
    write = os.write

    def late(descriptor: int, data: bytes) -> int:
        writes.set()
        assert ends.wait(LIMIT_S)
        return write(descriptor, data)

    monkeypatch.setattr(executive.os, "write", late)
    thread = threading.Thread(target=other.shutdown)
    thread.start()
    assert writes.wait(LIMIT_S)
    other.destroy()
    others = [end for _ in range(10) for end in socket.socketpair()]
    ends.set()
    thread.join(LIMIT_S)
    written = [end for end in others if select.select([end], [], [], 0)[0]]
    for end in others:
        end.close()
    assert not written


PROGRAM = """
import os, sys, time
from raspy.common.executive import Executive
class Loop(Executive):
    def start(self): print("start", flush=True)
    def stop(self): print("stop", flush=True)
    def reload(self): print("reload", flush=True)
    def alive(self): return os.environ.get("ALIVE") != "no"
Loop().run()
print("end", flush=True)
"""


class Notified:
    """The program above, with a notify socket."""

    def __init__(self, tmp_path: Path, **environment: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(tmp_path / "notify"))
        self.socket.settimeout(30)
        environment = {**os.environ, "PYTHONPATH": TOP, "NOTIFY_SOCKET": str(tmp_path / "notify"), **environment}
        environment.pop("WATCHDOG_PID", None)
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], env=environment, stdout=subprocess.PIPE, text=True
        )

    def said(self) -> str:
        return self.socket.recv(4096).decode()

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> int:
        """Close everything; return the exit code."""
        try:
            return self.process.wait(30)
        finally:
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.socket.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_is_ready_reloads_and_stops(tmp_path: Path, number: int) -> None:
    program = Notified(tmp_path)
    assert program.line() == "start"
    assert program.said() == "READY=1"
    program.process.send_signal(signal.SIGHUP)
    assert program.line() == "reload"
    reloading, ready = program.said(), program.said()
    assert reloading.startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert ready == "READY=1"
    program.process.send_signal(number)
    assert [program.line(), program.line()] == ["stop", "end"]
    assert program.said() == "STOPPING=1"
    assert program.end() == 0


def test_the_watchdog_is_fed(tmp_path: Path) -> None:
    program = Notified(tmp_path, WATCHDOG_USEC="200000")
    assert [program.said() for _ in range(3)] == ["READY=1", "WATCHDOG=1", "WATCHDOG=1"]
    program.process.terminate()
    assert program.end() == 0


def test_the_watchdog_starves_when_the_hardware_is_dead(tmp_path: Path) -> None:
    program = Notified(tmp_path, WATCHDOG_USEC="20000", ALIVE="no")
    assert program.said() == "READY=1"
    program.socket.settimeout(0.5)
    with pytest.raises(TimeoutError):
        program.said()
    program.process.terminate()
    assert program.end() == 0
