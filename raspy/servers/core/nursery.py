"""The process from which those of scenarios are forked: small, with one thread, and all loaded that they need.

It is run by its path, in isolated mode, by :class:`raspy.servers.core.child.Nursery`; standard input is its
SOCK_SEQPACKET socket to core. ``run <id> <MB>`` comes with three descriptors: the scenario's own socket, the pipe for
what it prints, and a file with what it runs; the answer is ``began <id> <pid>`` with the process's pidfd, or ``failed
<id> <why>``, and in the end ``ended <id> <exit code, or a signal's negative number>``. ``ping`` is answered ``pong``.
When the socket is closed, everything below this process is killed, and it ends.
"""

from __future__ import annotations

import ctypes
import faulthandler
import fcntl
import gc
import os
import resource
import select
import signal
import socket
import sys
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import NoReturn

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 36, 38
"""linux/prctl.h."""
MB = 1_000_000
SPARE = 16 * MB
"""Bytes of address space that are kept for telling that the memory was not enough."""
NICE = 10
FILE_SIZE = 1 * MB
FILES = 64
LOADED = ("collections", "datetime", "functools", "itertools", "math", "random", "re", "statistics", "traceback")
"""What scenarios are likely to import: so it is there, once for all of them."""
CHANNEL, SOURCE = 3, 4
"""Descriptors in a scenario's process."""
SWEEPS = 1000


class Nursery:
    """Forks, watches and reaps.

    :param control: the socket to core
    :param scene: the module :mod:`raspy.servers.core.scene`
    """

    def __init__(self, control: socket.socket, scene: ModuleType) -> None:
        self._control = control
        self._scene = scene
        self._prctl = ctypes.CDLL(None, use_errno=True).prctl
        self._prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
        self._runs: dict[int, tuple[int, int]] = {}
        """By pidfd: core's number of the run, and its process."""
        self._poll = select.poll()
        self._poll.register(control.fileno(), select.POLLIN)
        self._pid = os.getpid()
        self._null = os.open("/dev/null", os.O_RDONLY)

    def serve(self) -> None:
        """Until core closes its end."""
        # When core dies the socket is closed; killed itself, this process could not sweep. It may stand still, though.
        self._set(PR_SET_PDEATHSIG, signal.SIGCONT)
        self._set(PR_SET_CHILD_SUBREAPER, 1)
        self._set(PR_SET_NO_NEW_PRIVS, 1)
        try:
            while True:
                for descriptor, _ in self._poll.poll():
                    if descriptor in self._runs:
                        self._reap(descriptor)
                    elif not self._obey():
                        return
        except (BrokenPipeError, ConnectionResetError):
            pass  # core is gone
        finally:
            for _, pid in self._runs.values():
                os.kill(pid, signal.SIGKILL)
            self._runs.clear()
            self._sweep()

    def _obey(self) -> bool:
        packet, descriptors, _, _ = socket.recv_fds(self._control, 4096, 8, socket.MSG_CMSG_CLOEXEC)
        words = packet.split()
        if not words:
            return False
        try:
            if words[0] == b"run" and len(descriptors) == 3:
                self._run(int(words[1]), int(words[2]), descriptors)
            elif words[0] == b"ping":
                self._control.send(b"pong")
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return True

    def _run(self, number: int, memory: int, descriptors: list[int]) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            self._control.send(f"failed {number} no process can be started: {error.strerror}".encode())
            return
        if not pid:
            self._become(memory, descriptors)
        pidfd = os.pidfd_open(pid)
        self._runs[pidfd] = (number, pid)
        self._poll.register(pidfd, select.POLLIN)
        socket.send_fds(self._control, [f"began {number} {pid}".encode()], [pidfd])

    def _become(self, memory: int, descriptors: list[int]) -> NoReturn:
        """In the new process: give everything up, then run the scenario."""
        try:
            packet = _take(descriptors, self._null, max([*self._runs, 0]))
            self._confine(memory)
            gc.enable()
            faulthandler.enable()
            self._scene.play(CHANNEL, packet)
        except BaseException as error:
            sys.stderr.write(f"the process of a scenario could not be prepared: {type(error).__name__}: {error}\n")
            sys.stderr.flush()
        finally:
            os._exit(os.EX_OSERR)

    def _confine(self, memory: int) -> None:
        self._set(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self._pid:
            os._exit(os.EX_OSERR)
        # Its children's children are its own, and this process's when it has ended, which tells whose they were.
        self._set(PR_SET_CHILD_SUBREAPER, 1)
        os.setsid()
        os.nice(NICE)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with open("/proc/self/oom_score_adj", "w") as file:
                file.write("1000")
        except OSError:
            pass  # then the kernel chooses without being told
        with open("/proc/self/statm") as file:
            most = int(file.read().split()[0]) * resource.getpagesize() + memory * MB
        for limit, soft, hard in (
            (resource.RLIMIT_AS, most, most + SPARE),
            (resource.RLIMIT_CORE, 0, 0),
            (resource.RLIMIT_FSIZE, FILE_SIZE, FILE_SIZE),
            (resource.RLIMIT_MSGQUEUE, 0, 0),
            (resource.RLIMIT_NOFILE, FILES, FILES),
            (resource.RLIMIT_NPROC, 0, 0),
        ):
            _, highest = resource.getrlimit(limit)
            if highest != resource.RLIM_INFINITY:
                soft, hard = min(soft, highest), min(hard, highest)
            resource.setrlimit(limit, (soft, hard))

    def _reap(self, pidfd: int) -> None:
        ended = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return
        number, pid = self._runs.pop(pidfd)
        # As long as it is not reaped nobody else has its number.
        try:
            os.killpg(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        self._sweep()
        code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        self._control.send(f"ended {number} {code}".encode())

    def _sweep(self) -> None:
        """Kill what runs that have ended have left behind: all children that are no runs."""
        known = {pid for _, pid in self._runs.values()}
        for _ in range(SWEEPS):
            left = [pid for pid in _children() if pid not in known]
            if not left:
                return
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            for pid in left:
                os.waitpid(pid, 0)

    def _set(self, option: int, value: int) -> None:
        if self._prctl(option, value, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")


def _take(descriptors: list[int], null: int, highest: int) -> bytes:
    """Put the descriptors where they belong, close all others, and read what is to be run.

    :param highest: of those that this process had before it got ``descriptors``
    """
    # Out of the way first: one of them may have the number of another's place.
    moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 16) for descriptor in descriptors]
    channel, output, source = moved
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(channel, CHANNEL, inheritable=False)
    os.dup2(source, SOURCE, inheritable=False)
    os.closerange(SOURCE + 1, max(highest, null, *descriptors, *moved) + 1)
    with open(SOURCE, "rb") as file:
        file.seek(0)
        return file.read()


def _children() -> list[int]:
    """The processes that this one is the parent of: proc_pid_task(5); stat where the kernel has no such file."""
    own = os.getpid()
    try:
        with open(f"/proc/{own}/task/{own}/children") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        pass
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as file:
                    if int(file.read().rpartition(")")[2].split()[1]) == own:
                        found.append(int(entry))
            except OSError:
                pass  # it has ended meanwhile
    return found


def main() -> None:
    """Prepare what all scenarios share, then serve."""
    # Stopped by systemd, all of the unit get SIGTERM: core then stops the scenarios one by one, with SIGUSR1.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    os.umask(0o077)
    os.chdir("/")
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        # Whatever core itself was given by its parent is nothing for scenarios.
        if descriptor > 2:
            try:
                os.close(descriptor)
            except OSError:
                pass  # the one of the directory
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "scene.py")
    # Its exceptions are to stand in tracebacks as the scenario's own, under their bare names.
    scene = ModuleType("__main__")
    scene.__file__ = path
    code = SourceFileLoader("scene", path).get_code("scene")
    assert code is not None
    exec(code, scene.__dict__)  # noqa: S102 (a module of ours, without its package)
    for name in LOADED:
        __import__(name)
    sys.argv[:] = [""]
    gc.collect()
    gc.disable()
    gc.freeze()
    Nursery(socket.socket(fileno=0), scene).serve()


if __name__ == "__main__":
    main()
