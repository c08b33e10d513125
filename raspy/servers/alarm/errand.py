"""The server's side of the process that sends: it is started, given its task, and killed when it takes too long."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable

import msgspec

from raspy.common.executive import Executive
from raspy.servers.alarm.task import Outcome, Task

COMMAND = [sys.executable, "-P", os.path.join(os.path.dirname(os.path.abspath(__file__)), "sender.py")]
ENVIRONMENT = (
    "CREDENTIALS_DIRECTORY",
    "HOME",
    "LANG",
    "LC_ALL",
    "PATH",
    "PYTHONPATH",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TZ",
    "VIRTUAL_ENV",
)
"""What it gets of the server's environment."""
PATIENCE = 60.0
"""Seconds after which it is killed; it gives up before by itself (:data:`raspy.servers.alarm.sender.LAST`)."""
OUTPUT = 65536
"""Bytes of its outcome that are read; a pipe holds as many, so that it never waits for us (pipe(7))."""


class Errand:
    """One such process.

    :param loop: the server
    :param done: called once, on a later turn of the loop
    """

    def __init__(self, loop: Executive, task: Task, done: Callable[[Outcome], None]) -> None:
        self._loop = loop
        self._done = done
        self._output = self._pidfd = -1
        self._timer = loop.call_later(PATIENCE, self._overrun)
        self._late = False
        try:
            self._start(msgspec.json.encode(task))
        except OSError as error:
            self._timer.cancel()
            outcome = Outcome(f"the process that sends cannot be started: {error.strerror}")
            loop.call_later(0, done, outcome)

    def _start(self, task: bytes) -> None:
        given = theirs = -1
        try:
            given = _file_of(task)
            self._output, theirs = os.pipe2(os.O_CLOEXEC)
            pid = os.posix_spawn(
                COMMAND[0],
                COMMAND,
                {key: os.environ[key] for key in ENVIRONMENT if key in os.environ},
                file_actions=[(os.POSIX_SPAWN_DUP2, given, 0), (os.POSIX_SPAWN_DUP2, theirs, 1)],
                setpgroup=0,
                setsigmask=[signal.SIGTTOU],
                setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE],
            )
            try:
                self._pidfd = os.pidfd_open(pid)
            except OSError:
                # Nobody could watch it. It is a zombie at most until here, so the number is still its own.
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise
            self._loop.register(self._pidfd, self._ended)
        except OSError:
            self._close()
            raise
        finally:
            for descriptor in (given, theirs):
                if descriptor >= 0:
                    os.close(descriptor)

    def close(self) -> None:
        """End it now; nobody is told."""
        self._timer.cancel()
        if self._pidfd >= 0:
            self._kill()
            poller = select.poll()
            poller.register(self._pidfd, select.POLLIN)
            poller.poll(500)
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        self._close()

    def _overrun(self) -> None:
        self._late = True
        self._kill()

    def _kill(self) -> None:
        try:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        except (ProcessLookupError, OSError):
            pass

    def _ended(self) -> None:
        ended = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        if ended is None:
            return
        self._timer.cancel()
        os.set_blocking(self._output, False)
        try:
            said = os.read(self._output, OUTPUT)
        except OSError:
            said = b""
        self._close()
        try:
            outcome = msgspec.json.decode(said, type=Outcome)
        except msgspec.MsgspecError:
            outcome = Outcome(self._why(ended), uncertain=True)
        self._done(outcome)

    def _why(self, ended: os.waitid_result) -> str:
        if self._late:
            return f"the process that sends did not end within {PATIENCE:g} s and was killed"
        how = "exit code" if ended.si_code == os.CLD_EXITED else "signal"
        return f"the process that sends ended with {how} {ended.si_status}, and said nothing"

    def _close(self) -> None:
        if self._pidfd >= 0:
            self._loop.unregister(self._pidfd)
            os.close(self._pidfd)
        if self._output >= 0:
            os.close(self._output)
        self._pidfd = self._output = -1


def _file_of(data: bytes) -> int:
    """A descriptor of a file in memory, at its beginning."""
    descriptor = os.memfd_create("task", os.MFD_CLOEXEC)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
