"""What arrives at a real notify socket."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raspy.common.executive import Executive
from raspy.common.notify import Notifier


@pytest.fixture
def receiver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A datagram socket that $NOTIFY_SOCKET names."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "notify"))
        made.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
            monkeypatch.delenv(name, raising=False)
        yield made


def fill(receiver: socket.socket) -> int:
    """Send it as much as there is room for, from elsewhere; how many."""
    filled = 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.connect(receiver.getsockname())
        other.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while filled < 100_000:
                filled += other.send(b"x")
    assert 0 < filled < 100_000
    return filled


def test_each_message_arrives(receiver: socket.socket) -> None:
    notifier = Notifier()
    notifier.ready()
    notifier.alive()
    notifier.reloading(1234)
    notifier.stopping()
    assert [receiver.recv(200) for _ in range(4)] == [
        b"READY=1",
        b"WATCHDOG=1",
        b"RELOADING=1\nMONOTONIC_USEC=1234",
        b"STOPPING=1",
    ]
    notifier.close()


def test_a_status_is_one_ascii_line_and_sent_when_it_changes(receiver: socket.socket) -> None:
    notifier = Notifier()
    notifier.status("degraded: 21 °C\nREADY=1")
    notifier.status("degraded: 21 °C\nREADY=1")
    notifier.status("ok")
    assert receiver.recv(200) == b"STATUS=degraded: 21 ?C READY=1"
    assert receiver.recv(200) == b"STATUS=ok"
    notifier.close()


# sdnotify leaves the socket it could not connect to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_socket_that_is_not_there_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "none"))
    monkeypatch.setenv("WATCHDOG_USEC", "10000000")
    notifier = Notifier()
    notifier.alive()
    assert notifier.watchdog == 10.0
    gc.collect()


@pytest.mark.parametrize(
    ("usec", "pid", "expected"),
    [
        ("10000000", None, 10.0),
        ("10000000", "mine", 10.0),
        ("10000000", "1", 0.0),
        ("x", None, 0.0),
        (None, None, 0.0),
        ("²", None, 0.0),
        ("١", None, 0.0),
        ("-1", None, 0.0),
        ("9" * 5000, None, 0.0),
    ],
)
def test_the_watchdogs_time(
    receiver: socket.socket, monkeypatch: pytest.MonkeyPatch, usec: str | None, pid: str | None, expected: float
) -> None:
    if usec is not None:
        monkeypatch.setenv("WATCHDOG_USEC", usec)
    if pid is not None:
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "mine" else pid)
    notifier = Notifier()
    assert notifier.watchdog == expected
    notifier.close()


def test_without_a_supervisor_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", "10000000")
    notifier = Notifier()
    notifier.ready()
    assert notifier.watchdog == 0


def test_a_supervisor_that_does_not_read_blocks_nobody(receiver: socket.socket) -> None:
    # A stopped supervisor must not freeze the loop that keeps a heater safe.
    notifier = Notifier()
    for _ in range(5000):
        notifier.alive()
    assert receiver.recv(200) == b"WATCHDOG=1"
    notifier.close()


def test_what_the_supervisor_had_no_room_for_is_sent_again(receiver: socket.socket) -> None:
    # A READY that is lost has a good server killed for not having started.
    filled = fill(receiver)
    later: list[Callable[[], None]] = []
    notifier = Notifier(lambda delay, function: later.append(function))
    notifier.status("starting")
    notifier.ready()
    notifier.alive()
    notifier.reloading(1234)
    notifier.status("ok")
    notifier.ready()
    assert len(later) == 1
    later.pop()()
    assert len(later) == 1, "there is no room yet"
    assert {receiver.recv(200) for _ in range(filled)} == {b"x"}
    later.pop()()
    assert [receiver.recv(200) for _ in range(4)] == [
        b"WATCHDOG=1",
        b"RELOADING=1\nMONOTONIC_USEC=1234",
        b"STATUS=ok",
        b"READY=1",
    ]
    notifier.stopping()
    assert receiver.recv(200) == b"STOPPING=1"
    assert not later
    notifier.close()


def test_a_loop_that_found_the_supervisor_busy_is_ready_all_the_same(receiver: socket.socket) -> None:
    filled = fill(receiver)
    executive = Executive()
    serves = threading.Event()
    executive.call_later(0, serves.set)
    thread = threading.Thread(target=executive.run)
    thread.start()
    try:
        assert serves.wait(10)
        assert {receiver.recv(200) for _ in range(filled)} == {b"x"}
        assert receiver.recv(200) == b"READY=1"
    finally:
        executive.shutdown()
        thread.join()


def test_what_is_left_at_the_end_is_tried_once_more(receiver: socket.socket) -> None:
    filled = fill(receiver)
    later: list[Callable[[], None]] = []
    notifier = Notifier(lambda delay, function: later.append(function))
    notifier.ready()
    assert {receiver.recv(200) for _ in range(filled)} == {b"x"}
    notifier.stopping()
    assert [receiver.recv(200) for _ in range(2)] == [b"READY=1", b"STOPPING=1"]
    filled = fill(receiver)
    notifier.alive()
    assert {receiver.recv(200) for _ in range(filled)} == {b"x"}
    notifier.close()
    assert receiver.recv(200) == b"WATCHDOG=1"
    for again in later:
        again()


def test_a_supervisor_that_is_gone_is_no_error(receiver: socket.socket) -> None:
    notifier = Notifier()
    receiver.close()
    notifier.alive()
    notifier.close()
