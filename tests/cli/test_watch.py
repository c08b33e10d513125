"""raspy watch and raspy request in this process: what is printed, and what ends them."""

from __future__ import annotations

import argparse
import io
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import pytest

from raspy.cli import request as asking
from raspy.cli import watch
from tests.bus import write_config
from tests.cli.support_here import Here
from tests.fake_titanic import FakeTitanic
from tests.support_devices import LIMIT

LEVEL = "/device/pi.x.tank/level"


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Terminal]:
    """To be called in the test: from then on standard error is a terminal."""

    def become() -> Terminal:
        made = Terminal()
        monkeypatch.setattr(sys, "stderr", made)
        return made

    return become


@pytest.fixture
def full() -> Iterator[TextIO]:
    """A stream on a disk that is full."""
    file = open("/dev/full", "w")  # noqa: SIM115  its end fails, too
    yield file
    with pytest.raises(OSError, match="No space left"):
        file.close()


# ---------------------------------------------------------------- watch


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "x", "", "1" * 10, "٣"])
def test_a_count_that_is_none(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="no whole number above 0"):
        watch.count(text)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "x", "", "1e9"])
def test_seconds_that_are_none(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="no number above 0 and below 1e9"):
        watch.positive(text)


def test_lines_up_to_a_count_and_no_more(here: Here) -> None:
    for number in range(5):
        here.put(f"/x/{number}", {"value": number, "unit": "%", "quality": "ok"})
    done = here.raspy("watch", "/x", "--count", "3")
    assert done.returncode == 0
    assert [line.split()[1:] for line in done.stdout.splitlines()] == [
        ["/x/0", "0", "%"],
        ["/x/1", "1", "%"],
        ["/x/2", "2", "%"],
    ]
    lines = [json.loads(line) for line in here.raspy("watch", "/x", "--count", "5", "--json").stdout.splitlines()]
    assert [line["key"] for line in lines] == [f"/x/{number}" for number in range(5)]
    assert lines[4]["body"] == {"value": 4, "unit": "%", "quality": "ok"}


@pytest.mark.parametrize("json_lines", [False, True])
def test_a_key_that_is_deleted(here: Here, json_lines: bool, capsys: pytest.CaptureFixture[str]) -> None:
    made = watch.Watch(here.request("watch", watch, "/x", *(["--json"] if json_lines else [])))
    try:
        made.on_change("/x/\x1ba", b"")
        made.on_change("/x/b", b"\xff")
        first, second = capsys.readouterr().out.splitlines()
    finally:
        made.destroy()
    if json_lines:
        assert json.loads(first) == {"key": "/x/\x1ba"}
        assert json.loads(second)["body"] == "\\xff"
    else:
        assert first.endswith("a  deleted")
        assert second.endswith("/x/b  \\xff")
    assert "\x1b" not in first


def test_a_watch_ends_after_its_time(here: Here) -> None:
    assert here.refused("watch", "/nothing", "--for", "0.1") == "nothing under '/nothing' in 0.1 s"
    here.put(LEVEL, {"value": 1, "quality": "ok", "max_age": 60})
    done = here.raspy("watch", "/device", "--for", "0.5")
    assert (done.returncode, len(done.stdout.splitlines()), done.stderr) == (0, 1, "")


def test_the_broker_is_missed_once_and_welcomed_back(
    here: Here, tmp_path: Path, terminal: Callable[[], Terminal]
) -> None:
    here.config = Path(write_config(str(tmp_path)))
    told = terminal()
    made = watch.Watch(here.request("watch", watch))
    try:
        made._is_there()
        made._is_there()
        first, *more = told.getvalue().splitlines()
        assert first.startswith(f"raspy: the broker at ipc://{tmp_path}/5514 does not answer")
        assert first.endswith("; waiting for it")
        assert more == []
        for state in ("lost", "snapshot", "live", "live", "lost", "lost", "snapshot", "live"):
            made.on_state(state)
        made._is_there()
        assert told.getvalue().splitlines()[1:] == [
            "raspy: the broker is back",
            "raspy: the broker is lost: values may be old",
            "raspy: the broker is back",
        ]
    finally:
        made.destroy()


def test_nobody_reads_what_a_watch_says(here: Here, monkeypatch: pytest.MonkeyPatch, full: TextIO) -> None:
    made = watch.Watch(here.request("watch", watch))
    try:
        monkeypatch.setattr(sys, "stderr", full)
        made.on_state("lost")
        monkeypatch.setattr(sys, "stdout", full)
        made.on_change("/x", b"1")
        assert made.broken is not None
        assert made.broken.strerror == "No space left on device"
        assert made.stopping, "values that nobody can read need no watch"
    finally:
        monkeypatch.undo()
        made.destroy()


# ---------------------------------------------------------------- request


@pytest.mark.parametrize("text", ["0", "0.0009", "1e10", "nan", "soon", ""])
def test_a_lifetime_that_is_none(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="no number of seconds above 0"):
        asking.lifetime(text)


def test_a_reply_is_printed_and_then_closed(here: Here) -> None:
    with FakeTitanic(here.bus) as titanic:
        uuid = f"{1:032x}".encode()
        titanic.replies[uuid] = [b"200", b"3 mm", b"\xff"]
        done = here.raspy("request", "feeder", "turn", "--timeout", "30")
        assert (done.returncode, done.stdout, done.stderr) == (0, "3 mm\n\\xff\n", "")
        assert titanic.closed == [uuid]
        assert titanic.kept[uuid] == [b"feeder", b"turn"]


def test_titanic_is_asked_again_until_it_knows(here: Here) -> None:
    with FakeTitanic(here.bus) as titanic:
        asked: list[bytes] = []

        def before(service: bytes, body: list[bytes]) -> list[bytes] | None:
            if service != b"titanic.reply":
                return None
            asked.append(body[0])
            # In trouble, then pending.
            return [[b"500"], [b"300"], [b"200", b"done"]][min(len(asked), 3) - 1]

        titanic.before = before
        assert here.raspy("request", "feeder", "turn").stdout == "done\n"
        assert len(asked) == 3


def test_a_reply_that_does_not_come_leaves_the_request_with_titanic(
    here: Here, terminal: Callable[[], Terminal]
) -> None:
    with FakeTitanic(here.bus) as titanic:
        titanic.before = lambda service, body: [b"500"] if service == b"titanic.reply" else None
        told = terminal()
        done = here.raspy("request", "feeder", "turn", "--timeout", "1.2")
        assert (done.returncode, done.stdout) == (1, "")
        uuid = f"{1:032x}"
        first, second = told.getvalue().splitlines()
        assert first == ("raspy: waiting for feeder (titanic: 500); Ctrl-C leaves the request with titanic")
        assert second == (f"raspy: feeder: no reply in 1.2 s (titanic: 500); the request stays with titanic: {uuid}")
        assert titanic.closed == []
        assert here.raspy("request", "feeder", "turn", "--no-wait").stdout == f"{2:032x}\n"


@pytest.mark.parametrize("place", ["titanic.request", "titanic.reply"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_waiting_alone(
    here: Here, monkeypatch: pytest.MonkeyPatch, terminal: Callable[[], Terminal], place: str, number: signal.Signals
) -> None:
    # What SIGTERM does in the end, this process has to outlive.
    ended: list[int] = []
    monkeypatch.setattr(asking.os, "kill", lambda pid, number: ended.append(number))
    sent = threading.Event()

    def before(service: bytes, body: list[bytes]) -> list[bytes] | None:
        if service == place.encode() and not sent.is_set():
            sent.set()
            signal.pthread_kill(threading.main_thread().ident or 0, number)
        return [b"300"] if service == b"titanic.reply" else None

    with FakeTitanic(here.bus) as titanic:
        titanic.before = before
        if place == "titanic.request":
            monkeypatch.setattr(titanic, "_request", lambda body: [b"300"])
        told = terminal()
        assert here.raspy("request", "feeder", "turn").returncode == 130
        assert ended == ([signal.SIGTERM] if number == signal.SIGTERM else [])
        (line,) = told.getvalue().splitlines()
        if place == "titanic.request":
            assert line == (
                "raspy: feeder: stopped before titanic said that it has the request; raspy queue lists what it has"
            )
        else:
            assert line == f"raspy: the request stays with titanic: {1:032x}; raspy queue info {1:032x} shows how it is"
        assert titanic.closed == []


def test_sigterm_is_what_it_was_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with asking._terminable():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_command_of_another_thread_leaves_signals_alone() -> None:
    found: list[object] = []

    def act() -> None:
        with asking._terminable():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=act)
    thread.start()
    thread.join(LIMIT)
    assert found == [signal.getsignal(signal.SIGTERM)]


def test_a_reply_that_cannot_be_printed_is_kept(here: Here, monkeypatch: pytest.MonkeyPatch, full: TextIO) -> None:
    result = {"uuid": f"{1:032x}", "status": "200", "frames": ["x"]}
    full.write("x")
    with FakeTitanic(here.bus) as titanic:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(asking.OutputError):
            asking.done(here.request("request", asking, "feeder"), result)
        monkeypatch.undo()
        assert titanic.closed == []


def test_a_reply_that_titanic_does_not_close_is_told(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeTitanic(here.bus) as titanic:
        titanic.replies[f"{1:032x}".encode()] = [b"200", b"done"]
        titanic.before = lambda service, body: [b"500"] if service == b"titanic.close" else None
        done = here.raspy("request", "feeder", "turn")
        assert (done.returncode, done.stdout) == (0, "done\n")
        assert done.stderr.startswith("raspy: the reply is kept until its time is over: ")


def test_what_is_parked_stays_for_somebody_to_look_into(here: Here) -> None:
    with FakeTitanic(here.bus) as titanic:
        uuid = f"{1:032x}"
        titanic.replies[uuid.encode()] = [asking.PARKED + b" after 5 tries"]
        done = here.raspy("request", "feeder", "turn")
        assert done.returncode == 1
        assert done.stdout.endswith(f"raspy queue retry {uuid} has it tried again\n")
        assert titanic.closed == []
