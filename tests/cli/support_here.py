"""The command line in this very process, before a broker on a thread and services that a test plays."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from raspy.cli import main
from raspy.cli.command import Request, parser_of
from raspy.common import MDP
from tests.bus import Bus, eventually, running_bus, write_config
from tests.conformance.stage import Stage

Frames = list[bytes]
Answer = Callable[[Frames], Frames | None]
"""Called with the body of a request, without what a client of ours puts before it; None: no answer is given."""
Done = subprocess.CompletedProcess[str]


def said(value: Any, status: bytes = MDP.OK) -> Frames:
    """An answer as a server of ours gives it."""
    return [json.dumps(value).encode(), status]


class Played:
    """A service whose answers are the test's, with a worker on a thread.

    :param ours: the broker is told that it is one of our servers
    """

    def __init__(self, bus: Bus, name: str, answer: Answer, ours: bool = True) -> None:
        self.name = name.encode()
        self.answer = answer
        self.got: list[Frames] = []
        self._bus, self._ours = bus, ours
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Played:
        self._thread.start()
        eventually(lambda: self._bus.call(lambda broker: self.name in broker.services))
        self._bus.call(lambda broker: setattr(broker.services[self.name], "ours", self._ours))
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        with Stage(self._bus.stage.target) as stage:
            worker = stage.worker(self.name)
            while not self._ended.is_set():
                stage.until(lambda: bool(worker.requests) or self._ended.is_set(), 0.1)
                while worker.requests:
                    request = worker.requests.popleft()
                    body = request.body[1:] if MDP.parse_id(request.body[0]) else request.body
                    self.got.append(body)
                    frames = self.answer(body)
                    if frames is not None:
                        worker.reply(request, *frames)


@contextmanager
def handlers_kept() -> Iterator[None]:
    """What a command does with signals, which no process has to outlive, is over with it."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Here:
    """An appliance that is a broker alone, and its command line.

    :param directory: for its sockets and its configuration
    """

    def __init__(self, bus: Bus, directory: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.bus = bus
        self.config = Path(write_config(directory))
        self._capsys = capsys

    def raspy(self, *words: str) -> Done:
        """Run one command."""
        self._capsys.readouterr()
        with handlers_kept():
            code = main([*words, "--config", str(self.config)])
        printed = self._capsys.readouterr()
        return subprocess.CompletedProcess(words, code, printed.out, printed.err)

    def json(self, *words: str) -> Any:
        """What a command says in JSON."""
        return json.loads(self.raspy(*words, "--json").stdout)

    def refused(self, *words: str, code: int = 1) -> str:
        """What a command says that fails with one line."""
        done = self.raspy(*words)
        assert (done.returncode, done.stdout) == (code, ""), done
        assert done.stderr.startswith("raspy: ")
        assert len(done.stderr.splitlines()) == 1
        return done.stderr.removeprefix("raspy: ").rstrip()

    def request(self, name: str, command: Any, *words: str) -> Request:
        """What a command is called with."""
        return Request(parser_of(name, command).parse_args([*words, "--config", str(self.config)]))

    def put(self, key: str, value: Any) -> None:
        """Have a value on the tree, as the broker itself puts it there; bytes as they are, anything else as JSON."""
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.bus.call(lambda broker: broker.proxy.update(key, body))

    def play(self, name: str, answer: Answer | Frames | None, ours: bool = True) -> Played:
        """A service; to be used as a context manager.

        :param answer: what it says to any request, or a function that says it
        """
        return Played(self.bus, name, answer if callable(answer) else lambda body: answer, ours)


@contextmanager
def here_on(capsys: pytest.CaptureFixture[str]) -> Iterator[Here]:
    """Such an appliance for the length of a test."""
    with running_bus() as bus:
        yield Here(bus, bus.ip.removeprefix("ipc://"), capsys)
