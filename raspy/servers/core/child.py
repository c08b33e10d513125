"""Core's side of the processes in which scenarios run: starts, calls, output, limits and ends, all on core's loop.

Scenarios are a tool for the owner, not a jail for strangers: what is contained here are mistakes, however bad. Code
that means harm can do what core's user can.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from raspy.common.executive import Executive, Timer
from raspy.servers.core.limits import Limits
from raspy.servers.core.run import Child, End, How, OnCall, Problem, encode, name_of

__all__ = ["Child", "End", "How", "Limits", "Nursery", "OnCall", "Problem"]

logger = logging.getLogger("raspy.core.nursery")

COMMAND = [sys.executable, "-I", os.path.join(os.path.dirname(os.path.abspath(__file__)), "nursery.py")]
ENVIRONMENT = ("HOME", "LANG", "LC_ALL", "LC_CTYPE", "PATH", "TZ")
"""What a scenario gets of core's environment."""
MOST = 100
"""Scenarios that run at once."""
TICK = 1.0
"""Seconds between looks at CPU times."""
SILENT, START = 10.0, 60.0
"""Seconds after which a nursery that does not answer is replaced, and one that has not answered yet."""
TURN = 8
"""Messages that are taken from the nursery in a turn of the loop."""
BACKOFF = (0.2, 10.0)
"""Seconds between a nursery's end and the next start: the first time after a short life, and the longest."""
SETTLED = 60.0
"""Seconds: a nursery that lived so long is replaced at once."""
CHECK = Limits(memory=128, cpu=5.0, wall=10.0, output=100_000)
"""For compiling."""


class Nursery:
    """Starts the processes of scenarios, from one that has loaded all they need.

    Nothing here raises or blocks; every run that was asked for ends in one call of its ``on_end``, on a later turn.
    When its process dies or falls silent, the runs are lost, and the next one is there at once, later when it dies
    again and again.

    :param loop: core
    :param on_state: called with whether scenarios can be started, and why not
    """

    def __init__(self, loop: Executive, on_state: Callable[[bool, str], None] | None = None) -> None:
        self.loop = loop
        self.pid = 0
        """Of the nursery's process; 0: there is none."""
        self.up = False
        self._on_state = on_state
        self._control: socket.socket | None = None
        self._theirs: socket.socket | None = None
        self._pidfd = -1
        self._runs: dict[int, Child] = {}
        self._number = 0
        self._tick: Timer | None = None
        self._pinged = 0.0
        self._born = 0.0
        self._wait = 0.0
        self._asleep = False
        self._closed = False

    def start(self, now: bool = True) -> None:
        """Start its process; returns at once.

        :param now: False: only with :meth:`wake`, or with the first run, which has to wait for it
        """
        self._open()
        self._asleep = True
        if now:
            self.wake()

    def wake(self) -> None:
        """Start its process if that was put off: 8 MB that nobody needs as long as there is no scenario."""
        if self._asleep:
            self._asleep = False
            # On a later turn: where it fails that ends runs, of which the caller does not know yet.
            self.loop.call_later(0, self._spawn)

    @property
    def running(self) -> int:
        """Runs that have not ended."""
        return len(self._runs)

    def run(
        self,
        name: str,
        code: str,
        scope: dict[str, Any],
        limits: Limits,
        on_call: OnCall,
        on_output: Callable[[str], None],
        on_end: Callable[[End], None],
    ) -> Child:
        """Run code.

        :param name: of the scenario, for its tracebacks
        :param scope: ``entries``, ``settings`` and ``cause``, which its code sees under these names
        :param on_call: ``(child, call, method, arguments)``: to be answered by :meth:`Child.answer` or ``refuse``,
            at once or later; what ``arguments`` holds is the scenario's own, to be checked
        :param on_output: a piece of what it prints
        :param on_end: once, and the last
        """
        given = {"name": name, "code": code, "scope": scope}
        return self._start(name, given, limits, on_call, on_output, on_end)

    def check(self, code: str, done: Callable[[Problem | None], None]) -> None:
        """Compile code, in a process of its own too: source can be too much for a compiler.

        :param done: called with what is wrong with it, None when nothing is
        """

        def ended(end: End) -> None:
            word = child.word
            if end.how == "finished":
                done(None)
            elif word is not None:
                done(Problem(word.line or 0, word.column or 0, word.reason))
            else:
                done(Problem(0, 0, f"it could not be checked: {end.reason}"))

        child = self._start("check", {"name": "check", "code": code, "check": True}, CHECK, _no_call, _no_output, ended)

    def close(self) -> None:
        """End everything, in half a second at most; no ``on_end`` is called any more."""
        self._closed = True
        for child in list(self._runs.values()):
            child._on_end = _no_end
            child.end(None)
        self._stop_ticking()
        if self._theirs is not None:
            self._theirs.close()
        self._close_control()
        if self._pidfd >= 0:
            # Without the socket it sees to what scenarios have left behind, which takes a few milliseconds.
            _wait_for(self._pidfd, 0.5)
            self._kill()
            _wait_for(self._pidfd, 0.1)
            self._reap()

    def forget(self, child: Child) -> None:
        """A run has ended."""
        self._runs.pop(child.number, None)
        if not self._runs:
            self._stop_ticking()

    def _start(
        self,
        name: str,
        given: dict[str, Any],
        limits: Limits,
        on_call: OnCall,
        on_output: Callable[[str], None],
        on_end: Callable[[End], None],
    ) -> Child:
        self._number += 1
        child = Child(self, self._number, name, limits, on_call, on_output, on_end)
        if problem := self._hand_over(child, given):
            # On a later turn, as every end.
            self.loop.call_later(0, child.end, End("lost", problem))
            return child
        self._runs[child.number] = child
        self.wake()
        if self._tick is None:
            self._pinged = 0.0
            self._tick = self.loop.call_every(TICK, self._look)
        return child

    def _hand_over(self, child: Child, given: dict[str, Any]) -> str:
        """Send it to the nursery's process; why not, where it failed."""
        if self._control is None:
            return "core is not ready, or comes to its end"
        if len(self._runs) >= MOST:
            return f"{MOST} scenarios run at once already"
        theirs: list[int] = []
        ours: socket.socket | None = None
        output = -1
        try:
            ours, channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            theirs.append(channel.detach())
            output, write_end = os.pipe2(os.O_CLOEXEC)
            theirs.append(write_end)
            theirs.append(_file_of(encode(given)))
            ours.setblocking(False)
            os.set_blocking(output, False)
            socket.send_fds(self._control, [f"run {child.number} {child.limits.memory}".encode()], theirs)
        except (OSError, TypeError, ValueError, RecursionError) as error:
            if ours is not None:
                ours.close()
            if output >= 0:
                os.close(output)
            return f"it cannot be started: {error}"
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        child.open(ours, output)
        return ""

    def _open(self) -> None:
        """A new socket: what is asked for from now on is done as soon as a process has the other end."""
        self._control, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        self.loop.register(self._control.fileno(), self._hear)

    def _spawn(self) -> None:
        if self._closed or self._theirs is None:
            return
        self._born = time.monotonic()
        try:
            self.pid = os.posix_spawn(
                COMMAND[0],
                COMMAND,
                {key: os.environ[key] for key in ENVIRONMENT if key in os.environ},
                file_actions=[(os.POSIX_SPAWN_DUP2, self._theirs.fileno(), 0)],
                setsid=True,
                setsigmask=[],
                setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE],
            )
            self._pidfd = os.pidfd_open(self.pid)
        except OSError as error:
            self._fail(f"the process that starts scenarios cannot be started: {error}")
            return
        self._theirs.close()
        self._theirs = None
        self.loop.register(self._pidfd, self._died)
        self._ping()

    def _hear(self) -> None:
        for _ in range(TURN):
            if self._control is None:
                return
            try:
                packet, descriptors, _, _ = socket.recv_fds(self._control, 4096, 4, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return
            except OSError:
                packet, descriptors = b"", []
            if not packet:
                self._kill()
                self._close_control()
                return
            self._told(packet.decode("utf-8", "replace").split(" ", 2), descriptors)

    def _told(self, words: list[str], descriptors: list[int]) -> None:
        self._pinged = 0.0
        if words[0] == "pong":
            if not self.up:
                self.up = True
                self._state(True, "")
            return
        child = self._runs.get(int(words[1]))
        if words[0] == "began" and descriptors:
            if child is not None:
                child.begin(int(words[2]), descriptors[0])
                return
            # Nobody waits for it any more.
            signal.pidfd_send_signal(descriptors[0], signal.SIGKILL)
            os.close(descriptors[0])
        elif child is not None and words[0] == "ended":
            child.end(None, int(words[2]))
        elif child is not None and words[0] == "failed":
            child.end(End("lost", words[2]))

    def _look(self) -> None:
        now = time.monotonic()
        for child in list(self._runs.values()):
            child.look(now)
        if self._pidfd >= 0 and self._runs:
            if not self._pinged:
                self._ping()
            elif now - self._pinged > (SILENT if self.up else START):
                logger.error("the process that starts scenarios does not answer: it is replaced")
                self._kill()

    def _ping(self) -> None:
        self._pinged = time.monotonic()
        try:
            if self._control is not None:
                self._control.send(b"ping")
        except OSError:
            pass  # full or gone: then no answer comes, or its end

    def _stop_ticking(self) -> None:
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None

    def _kill(self) -> None:
        if self._pidfd >= 0:
            try:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def _died(self) -> None:
        code = self._reap()
        if code is not None and not self._closed:
            self._fail(f"the process that starts scenarios ended with {name_of(code)}")

    def _reap(self) -> int | None:
        ended = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        if ended is None:
            return None
        self.loop.unregister(self._pidfd)
        os.close(self._pidfd)
        self._pidfd, self.pid = -1, 0
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    def _fail(self, reason: str) -> None:
        """There is no process: what ran is lost, and another one is started."""
        logger.error("%s", reason)
        self.up = False
        self._close_control()
        if self._theirs is not None:
            self._theirs.close()
        self._open()
        if time.monotonic() - self._born > SETTLED:
            self._wait = 0.0
        # Those that were asked for after this have the new socket.
        lost = list(self._runs.values())
        self.loop.call_later(self._wait, self._spawn)
        self._wait = min(max(2 * self._wait, BACKOFF[0]), BACKOFF[1])
        self._state(False, reason)
        for child in lost:
            child.lose(reason)

    def _close_control(self) -> None:
        if self._control is not None:
            self.loop.unregister(self._control.fileno())
            self._control.close()
            self._control = None

    def _state(self, up: bool, reason: str) -> None:
        if self._on_state is not None:
            self.loop.guard(self._on_state, up, reason)


def _file_of(data: bytes) -> int:
    """A descriptor of a file in memory."""
    descriptor = os.memfd_create("scenario", os.MFD_CLOEXEC)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _wait_for(pidfd: int, seconds: float) -> None:
    import select

    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.poll(seconds * 1000)


def _no_call(child: Child, call: int, method: str, arguments: list[Any]) -> None:
    child.kill("it made a call")


def _no_output(text: str) -> None:
    pass


def _no_end(end: End) -> None:
    pass
