"""A server in a process of its own, as the supervisor starts it.

Imports next to nothing, because every server imports it with :mod:`raspy.common.executive`.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import threading
import time

from raspy.common.registry import SERVERS

LIFELINE = "RASPY_LIFELINE"
"""Set for a child whose standard input is a pipe that its parent holds open: it ends with the parent."""
STARTS = "SUPERVISOR_STARTS"
"""Set by the supervisor for a server: which of its starts this is, since the supervisor's own; the first is 1."""
LAST_END = "SUPERVISOR_LAST_END"
"""Set by the supervisor from the second start on: why the process before ended, one line of printable text."""
RUNNER = [sys.executable, os.path.join(os.path.dirname(os.path.dirname(__file__)), "__main__.py"), "server"]
"""What a server's name is added to; a script costs each process 0.2 MB less than ``-m`` and a module."""
RESTART = 75
"""Exit code of a server that was asked to be started again: EX_TEMPFAIL of sysexits(3head), which nothing else uses."""
GRACE = 10.0
"""Seconds a process may take to stop before it is killed."""


class ExecutiveProcess:
    """A command in a process and process group of its own, that ends when this process does, however that ends.

    It is to call :func:`hold_on_to_parent`, as :mod:`raspy.common.runner` does. For use by one thread.

    The group is in this process's session, so that this process's end makes it an orphaned one. When it is stopped
    then (SIGSTOP), the kernel continues it, with SIGHUP and SIGCONT (setpgid(2)), and it can see that its parent is
    gone. Ctrl-C does not reach it, as it is in the background of a terminal.

    :param executive: the name of a server; or a command: the program, by its path, and its arguments
    :param executive_name: what it is called in messages; the server's name when empty
    :param environment: its environment; None: this process's
    :param deaf_to: signals that it does not get, from its very beginning
    """

    def __init__(
        self,
        executive: str | list[str],
        executive_name: str = "",
        environment: dict[str, str] | None = None,
        deaf_to: tuple[signal.Signals, ...] = (),
    ) -> None:
        self.command = [*RUNNER, executive] if isinstance(executive, str) else executive
        self.name = executive_name or self.command[-1]
        self.environment = environment
        self.deaf_to = deaf_to
        self.pid = 0
        self.returncode: int | None = None
        """None while it runs; then its exit code, or a signal's negative number."""
        self._pidfd = -1
        self._lifeline = -1

    def run(self) -> None:
        """Start it; returns at once.

        :raises OSError: the program cannot be run; no process is left behind
        """
        environment = {**(os.environ if self.environment is None else self.environment), LIFELINE: "1"}
        ours, theirs = -1, -1
        try:
            theirs, ours = os.pipe2(os.O_CLOEXEC)
            self.pid = os.posix_spawn(
                self.command[0],
                self.command,
                environment,
                file_actions=[(os.POSIX_SPAWN_DUP2, theirs, 0)],
                setpgroup=0,
                # A terminal that is set to stop what writes to it from the background (stty tostop) does not then.
                setsigmask=[signal.SIGTTOU, *self.deaf_to],
                setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE],
            )
            try:
                self._pidfd = os.pidfd_open(self.pid)
            except OSError:
                # Nobody could watch it. It is a zombie at most until here, so the number is still its own.
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise
            os.set_blocking(ours, False)
            self._lifeline, ours = ours, -1
        finally:
            for end in (theirs, ours):
                if end >= 0:
                    os.close(end)

    def fileno(self) -> int:
        """A descriptor that is readable once the process has ended (pidfd_open(2)); -1 when there is none."""
        return self._pidfd

    def poll(self) -> int | None:
        """Return :attr:`returncode`, after a look."""
        if self.returncode is None and self._pidfd >= 0:
            ended = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
            if ended is not None:
                self.returncode = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
                self._close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait until it has ended, ``timeout`` seconds at most; return :attr:`returncode`."""
        if self._pidfd >= 0:
            poller = select.poll()
            poller.register(self._pidfd, select.POLLIN)
            poller.poll(None if timeout is None else max(0, int(timeout * 1000 + 0.999)))
        return self.poll()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal; harmless when it has ended. Whether it has is for :meth:`poll` to find out."""
        if self._pidfd >= 0:
            try:
                signal.pidfd_send_signal(self._pidfd, number)
            except ProcessLookupError:
                pass

    def tell(self, line: str) -> None:
        """Write a line to its standard input, without waiting for it to be read.

        :raises OSError: it has ended, or has not read for long
        """
        if self._lifeline < 0:
            raise BrokenPipeError(errno.EPIPE, "it has ended")
        os.write(self._lifeline, line.encode() + b"\n")

    def let_go(self) -> None:
        """Close its standard input, by which it sees that it is not needed any more."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
        self._lifeline = -1

    def shutdown(self, grace: float = GRACE) -> int | None:
        """Ask it to stop, wait ``grace`` seconds, then kill it; return :attr:`returncode`."""
        self.kill(signal.SIGTERM)
        if self.wait(grace) is None:
            self.kill(signal.SIGKILL)
            self.wait()
        return self.returncode

    def _close(self) -> None:
        self.let_go()
        if self._pidfd >= 0:
            os.close(self._pidfd)
        self._pidfd = -1


def server_environment(name: str) -> dict[str, str]:
    """The environment of a server, and of what makes its outputs safe when it has ended."""
    environment = plain_environment()
    if "STATE_DIRECTORY" in environment:
        # Given for all of us: each server has one of its own below it.
        environment["STATE_DIRECTORY"] = os.path.join(environment["STATE_DIRECTORY"].split(":")[0], name)
    return {**SERVERS[name].environment, **environment} if name in SERVERS else environment


def plain_environment() -> dict[str, str]:
    """This process's environment, without what its own supervisor meant for it alone."""
    meant = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", STARTS, LAST_END)
    return {key: value for key, value in os.environ.items() if key not in meant}


def hold_on_to_parent() -> None:
    """In the child: stop this process, as SIGTERM does, once its parent is gone; kill it after ``GRACE`` s.

    Does nothing where no parent has asked for it. Unlike PR_SET_PDEATHSIG, which kills at once, this leaves a
    server the time to make its outputs safe.
    """
    if os.environ.pop(LIFELINE, "") == "1":
        threading.Thread(target=_outlive, daemon=True, name="raspy-lifeline").start()


def _outlive() -> None:
    try:
        while os.read(0, 64):
            pass
    except OSError:
        pass  # a standard input that cannot be read has no parent behind it either
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    sys.stderr.write(f"raspy: did not stop in {GRACE:g} s after the supervisor's death: killed\n")
    os.kill(os.getpid(), signal.SIGKILL)
