"""One run of a scenario as core sees it: its calls, its output, its limits and its end."""

from __future__ import annotations

import codecs
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from raspy.servers.core.limits import Limits, Window
from raspy.servers.core.scene import INTERRUPT, MEMORY, MESSAGE

if TYPE_CHECKING:
    from raspy.common.executive import Timer
    from raspy.servers.core.child import Nursery

How = Literal["finished", "stopped", "raised", "killed", "limit", "lost"]

OPEN_CALLS = 8
"""Calls that wait for an answer; the names of a scenario make one at a time."""
BURST, REST = 20, 0.1
"""Messages that are taken from one scenario in REST s."""
TURN = 4
"""Messages that are taken from one scenario in a turn of the loop."""
READ = 16384
"""Bytes of output that are taken from one scenario in a turn of the loop."""
GONE = 2.0
"""Seconds that a process may take to end after its last word."""
BEGIN = 90.0
"""Seconds until a run must have begun."""


class End(msgspec.Struct, frozen=True):
    """How a run ended.

    ``how``: "finished": the code came to its end. "stopped": it was asked to stop, and did. "raised": an exception,
    or its process ended by itself. "killed": by :meth:`Child.kill`, because it did not stop, or by somebody else.
    "limit": it used more than it may. "lost": its process is gone through no fault of its own, or never began.

    ``line`` is the last one of the scenario's own that was reached; ``error`` the exception's class; ``outside``:
    it is one of the family of :class:`raspy.servers.core.scene.Outside`. ``memory`` is JSON for the next run, None:
    the same as this one was given.
    """

    how: How
    reason: str = ""
    line: int | None = None
    error: str = ""
    traceback: str = ""
    outside: bool = False
    memory: str | None = None


class Word(msgspec.Struct, frozen=True):
    """A scenario's own account of its end."""

    how: Literal["finished", "stopped", "raised", "limit"]
    reason: str = ""
    line: int | None = None
    column: int | None = None
    error: str = ""
    traceback: str = ""
    outside: bool = False
    memory: Annotated[str, Meta(max_length=MEMORY)] | None = None


class Problem(msgspec.Struct, frozen=True):
    """Why code cannot be compiled; ``line`` and ``column`` count from 1; 0: not known."""

    line: int
    column: int
    text: str


_message = msgspec.json.Decoder(tuple[int, str, list[Any]])
encode = msgspec.json.Encoder().encode


class Child:
    """One run of a scenario; made by :meth:`raspy.servers.core.child.Nursery.run`."""

    def __init__(
        self,
        nursery: Nursery,
        number: int,
        name: str,
        limits: Limits,
        on_call: OnCall,
        on_output: Callable[[str], None],
        on_end: Callable[[End], None],
    ) -> None:
        self.name = name
        self.number = number
        self.limits = limits
        self.pid = 0
        """Its process; 0 before it began."""
        self.started = time.monotonic()
        """Monotonic time at which it was asked for."""
        self.stop_asked = False
        self.ended = False
        self._loop = nursery.loop
        self._nursery = nursery
        self._on_call = on_call
        self._on_output = on_output
        self._on_end = on_end
        self._socket: socket.socket | None = None
        self._output = -1
        self._pidfd = -1
        self._timers: list[Timer] = []
        self._calls: set[int] = set()
        self._taken, self._taken_since = 0, 0.0
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._printed = Window()
        self._cpu, self._cpu_before = Window(), 0.0
        self._verdict: End | None = None
        self.word: Word | None = None

    @property
    def began(self) -> bool:
        """Whether it can have done anything."""
        return self.pid != 0 or self._taken > 0

    def stop(self, grace: float = 5.0) -> None:
        """Ask it to end; after half of ``grace`` s interrupt it, after all of it kill it. Harmless when repeated."""
        if self.stop_asked or self.ended:
            return
        self.stop_asked = True
        self._send([0, "", None])
        self._timers.append(self._loop.call_later(grace / 2, self._signal, INTERRUPT))
        self._timers.append(self._loop.call_later(grace, self.kill, f"did not stop in {grace:g} s"))

    def kill(self, why: str, how: How = "killed") -> None:
        """End it now; its :class:`End` is "killed" with ``why``, unless it had told its end before."""
        if self.ended:
            return
        if self._verdict is None and self.word is None:
            self._verdict = End(how, why)
        self._close_socket()
        self._signal(signal.SIGKILL)

    def answer(self, call: int, value: Any) -> None:
        """The result of a call, anything that JSON can tell. Harmless when it has ended."""
        self._reply(call, "", value)

    def refuse(self, call: int, kind: str, text: str) -> None:
        """An exception instead: ``kind`` names a class of :mod:`raspy.servers.core.scene`."""
        self._reply(call, kind, text[:4000])

    def open(self, channel: socket.socket, output: int) -> None:
        """Take core's ends of its socket and of its output."""
        self._socket, self._output = channel, output
        self._loop.register(channel.fileno(), self._hear)
        self._loop.register(output, self._read)
        if self.limits.wall:
            reason = f"ran for its {self.limits.wall:g} s"
            self._timers.append(self._loop.call_later(self.limits.wall, self.kill, reason, "limit"))

    def begin(self, pid: int, pidfd: int) -> None:
        """Its process is there."""
        self.pid, self._pidfd = pid, pidfd
        if self._verdict is not None:
            self._signal(signal.SIGKILL)

    def look(self, now: float) -> None:
        """Count its CPU time, and the time until it begins."""
        if not self.pid:
            if now - self.started > BEGIN:
                self.end(End("lost", f"it did not begin in {BEGIN:g} s"))
            return
        try:
            # A process's CPU-time clock, all its threads: clock_getcpuclockid(3), MAKE_PROCESS_CPUCLOCK(pid, SCHED).
            used = time.clock_gettime(~self.pid << 3 | 2)
        except OSError:
            return  # it has ended, which the nursery is about to tell
        total = self._cpu.add(used - self._cpu_before, now)
        self._cpu_before = used
        if self.limits.cpu and total > self.limits.cpu:
            self.kill(f"used {total:.1f} s of CPU time in a minute, {self.limits.cpu:g} s is its limit", "limit")

    def lose(self, why: str) -> None:
        """The nursery is gone, which would have told its end: kill it, and see to that here."""
        if self._pidfd < 0:
            self.end(End("lost", why))
            return
        self.kill(why, "lost")
        self._loop.register(self._pidfd, self._gone)
        self._timers.append(self._loop.call_later(GONE, self._gone))

    def end(self, end: End | None, code: int = 0) -> None:
        """It is over: take what it has left behind, let go of all, and tell.

        :param end: how, when it was not told and not decided here
        :param code: exit code of its process, or a signal's negative number
        """
        if self.ended:
            return
        self._last_words()
        self.ended = True
        for timer in self._timers:
            timer.cancel()
        self._signal(signal.SIGKILL)
        self._close_socket()
        self._close_output()
        if self._pidfd >= 0:
            self._loop.unregister(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        self._nursery.forget(self)
        self._loop.guard(self._on_end, self._verdict or _told(self.word) or end or _unspoken(code))

    def _gone(self) -> None:
        self.end(None)

    def _signal(self, number: int) -> None:
        if self._pidfd >= 0:
            try:
                signal.pidfd_send_signal(self._pidfd, number)
            except (ProcessLookupError, PermissionError):
                pass  # ended; or become a program of another user

    def _hear(self) -> None:
        for _ in range(TURN):
            if not self._take_message():
                return
            now = time.monotonic()
            if now - self._taken_since > REST:
                self._taken, self._taken_since = 0, now
            self._taken += 1
            if self._taken >= BURST:
                self._rest()
                return

    def _rest(self) -> None:
        """Leave the rest unread for a moment, so that it waits."""
        if self._socket is not None:
            self._loop.unregister(self._socket.fileno())
            self._timers = [timer for timer in self._timers if not timer.cancelled and timer.due > time.monotonic()]
            self._timers.append(self._loop.call_later(REST, self._go_on))

    def _go_on(self) -> None:
        if self._socket is not None:
            self._loop.register(self._socket.fileno(), self._hear)

    def _take_message(self, act: bool = True) -> bool:
        """Take one message; False when there is none, or none may be taken any more.

        :param act: make its call too
        """
        if self._socket is None:
            return False
        try:
            packet = self._socket.recv(MESSAGE + 1)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            # It ended without reading all that it was sent, as a request to stop; what it sent itself comes after.
            return True
        except OSError:
            packet = b""
        if not packet:
            self._silence("it closed its connection to core")
            return False
        try:
            if len(packet) > MESSAGE:
                raise ValueError("too long")
            call, method, arguments = _message.decode(packet)
            if not call and method == "end":
                self.word = msgspec.convert(arguments[0], Word)
                self._silence("")
                return False
            if call <= 0 or call in self._calls:
                raise ValueError("not a number of a call")
        except (ValueError, LookupError, RecursionError) as error:
            self.kill(f"it sent core something that is no call: {error}")
            return False
        if act:
            self._make(call, method, arguments)
        return True

    def _make(self, call: int, method: str, arguments: list[Any]) -> None:
        if len(self._calls) >= OPEN_CALLS:
            self.kill(f"it made {OPEN_CALLS} calls without waiting for the answers")
            return
        self._calls.add(call)
        try:
            self._on_call(self, call, method, arguments)
        except Exception as error:
            self._loop.report(error, f"{method} of scenario {self.name}")
            self.refuse(call, "ScenarioError", f"{method}: core failed at it; its log says how")

    def _silence(self, why: str) -> None:
        """Nothing more is heard from it: it should end now."""
        self._close_socket()
        self._timers.append(self._loop.call_later(GONE, self.kill, why))

    def _read(self) -> None:
        try:
            data = os.read(self._output, READ)
        except BlockingIOError:
            return
        if not data:
            self._close_output()
            return
        self._print(data)

    def _print(self, data: bytes) -> None:
        limit = self.limits.output
        if limit and self._printed.add(len(data), time.monotonic()) > limit:
            self._close_output()
            self.kill(f"printed more than {limit} bytes in a minute", "limit")
        if text := self._decode(data):
            self._loop.guard(self._on_output, text)

    def _last_words(self) -> None:
        """What was sent and printed before the end: of messages only its own account counts."""
        for _ in range(BURST):
            if not self._take_message(act=False):
                break
        for _ in range(65536 // READ):
            if self._output < 0:
                break
            try:
                data = os.read(self._output, READ)
            except OSError:
                break
            if not data:
                break
            self._print(data)

    def _reply(self, call: int, kind: str, value: Any) -> None:
        if call not in self._calls:
            return
        self._calls.discard(call)
        try:
            self._send([call, kind, value])
        except (TypeError, ValueError, RecursionError, OverflowError) as error:
            self._send([call, "ScenarioError", f"the answer cannot be sent: {error}"])

    def _send(self, message: list[Any]) -> None:
        if self._socket is None:
            return
        packet = encode(message)
        if len(packet) > MESSAGE:
            raise ValueError(f"it has {len(packet)} bytes, {MESSAGE} is the most")
        try:
            self._socket.send(packet)
        except BlockingIOError:
            self.kill("it does not read the answers to its calls")
        except OSError:
            pass  # it has ended, which the nursery is about to tell

    def _close_socket(self) -> None:
        if self._socket is not None:
            self._loop.unregister(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _close_output(self) -> None:
        if self._output >= 0:
            self._loop.unregister(self._output)
            os.close(self._output)
            self._output = -1


OnCall = Callable[[Child, int, str, list[Any]], None]


def _told(word: Word | None) -> End | None:
    if word is None:
        return None
    return End(word.how, word.reason, word.line, word.error, word.traceback, word.outside, word.memory)


def _unspoken(code: int) -> End:
    """What is known of a process that ended without a word."""
    if code >= 0:
        return End("raised", f"its process ended by itself with {name_of(code)}")
    if code == -signal.SIGKILL:
        return End("killed", "its process was killed, not by core: the machine's memory is full, or somebody did it")
    return End("raised", f"its process ended with {name_of(code)}")


def name_of(code: int) -> str:
    """How a process ended, in words.

    :param code: its exit code; minus the number of the signal that ended it
    """
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
