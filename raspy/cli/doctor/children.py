"""Work in processes of its own, each with a time limit: what hangs in the kernel hangs nobody else.

A thread would not do: a process ends only when none of its threads waits in the kernel, and a read of a broken card or
of sysfs may wait there for ever (state D, ps(1)), also when it is killed. A child that waits so is left behind.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

AT_ONCE = 4
"""Children that begin together, on a machine that may be short of memory..."""
SETTLED = 1.0
"""...until one has taken so many seconds: then it waits for something, and the next one begins."""
TICK = 0.2
"""Seconds between what is told of those that take long."""
ANSWER = 1 << 22
"""Bytes of an answer."""


class Failed(msgspec.Struct):
    """Work that came to nothing, and why."""

    why: str


class Child:
    """One piece of work, and its process.

    :param work: returns what JSON can hold
    :param limit: seconds that it may take
    """

    def __init__(self, work: Callable[[], Any], limit: float) -> None:
        self.pipe, write = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(self.pipe)
            _work(work, write)
        os.close(write)
        self.started = time.monotonic()
        self.due = self.started + limit
        self._limit = limit
        self._data = bytearray()

    def read(self) -> bool:
        """Take what it has written; whether that was all."""
        data = os.read(self.pipe, 1 << 16)
        self._data += data
        return not data or len(self._data) > ANSWER

    def answer(self) -> Any:
        """What it has answered, or :class:`Failed`; it is over then."""
        os.close(self.pipe)
        try:
            return msgspec.json.decode(self._data)
        except msgspec.DecodeError:
            return Failed("its process has ended without an answer")
        finally:
            self.kill()

    def give_up(self) -> Failed:
        """It has had its time."""
        os.close(self.pipe)
        self.kill()
        return Failed(f"no answer within {self._limit:g} s: what it looks at hangs, or the machine is very busy")

    def kill(self) -> None:
        """Have it end, with the programs that it has started; one that waits in the kernel is not waited for."""
        for end in (os.killpg, os.kill):
            try:
                end(self.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass  # it has ended, or is not yet the first of its group
        try:
            os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            pass


def run(
    jobs: Mapping[str, Callable[[], Any]], limit: float, waiting: Callable[[list[str], float], None]
) -> dict[str, Any]:
    """Do all of them, and return what each answered, or :class:`Failed`.

    :param limit: seconds that each may take
    :param waiting: called now and then with those that are not done and the seconds since the start
    """
    began = time.monotonic()
    left, running, answers = list(jobs), dict[str, Child](), dict[str, Any]()
    try:
        while left or running:
            now = time.monotonic()
            while left and sum(now - child.started < SETTLED for child in running.values()) < AT_ONCE:
                name = left.pop(0)
                # A Ctrl-C that comes just then would be swallowed by what Python calls around a fork, or leave a child.
                before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
                try:
                    running[name] = Child(jobs[name], limit)
                except OSError as error:
                    answers[name] = Failed(f"no process can be started: {error.strerror}")
                finally:
                    signal.pthread_sigmask(signal.SIG_SETMASK, before)
            for name in _ready(running):
                if running[name].read():
                    answers[name] = running.pop(name).answer()
            now = time.monotonic()
            for name in [name for name, child in running.items() if child.due <= now]:
                answers[name] = running.pop(name).give_up()
            waiting([name for name in jobs if name not in answers], now - began)
    finally:
        for child in running.values():
            child.kill()
    return {name: answers[name] for name in jobs}


def _ready(running: dict[str, Child]) -> list[str]:
    """Those that have written something, or ended; waits a moment for one."""
    poller = select.poll()
    names = {child.pipe: name for name, child in running.items()}
    for pipe in names:
        poller.register(pipe, select.POLLIN)
    return [names[pipe] for pipe, _ in poller.poll(TICK * 1000)]


def _work(work: Callable[[], Any], pipe: int) -> None:
    """In the child: do it and end, whatever happens, without what the parent would do at its end."""
    try:
        os.setpgid(0, 0)
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(nothing, number)
        data = memoryview(msgspec.json.encode(work()))
        while data:
            data = data[os.write(pipe, data) :]
    except BaseException:  # noqa: S110  what it has not answered is told
        pass
    finally:
        os._exit(0)
