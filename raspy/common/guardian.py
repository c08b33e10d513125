"""The guardian: makes outputs safe once ``raspy run`` is gone, and could not do it itself.

A process of its own, ``guardian.py SECONDS RUNNER... -- OPTIONS...``, that waits at its standard input, and is told
there of each server that drives outputs: ``NAME PID`` when such a process was started, ``NAME 0`` when its outputs
have been made safe after its end. When the input ends, so has ``raspy run``. What is not safe by then is made safe
here, as soon as the server has ended, or SECONDS later.

It is there all the time for what hardly ever happens, so it is run by its path and without site-packages (-I -S), and
imports nothing before it has to: 3 MB.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

PAUSES = (0.5, 10.0)
"""Seconds between two tries: the first time, and the longest after doublings."""
TRY_TIME = 30.0
"""Seconds that a try may take."""
LOOK = 0.05
"""Seconds between two looks whether something is due."""
KILL_TIME = 2.0
"""Seconds that a server may take to end once it was killed."""


def listen() -> dict[str, int]:
    """Wait for the end of the input; return what is not safe then: by name a descriptor of the process
    (pidfd_open(2)), or -1 when that has ended already."""
    servers: dict[str, int] = {}
    rest = b""
    while True:
        try:
            data = os.read(0, 4096)
        except OSError:
            data = b""
        if not data:
            return servers
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            name, _, pid = line.decode("utf-8", "replace").partition(" ")
            before = servers.pop(name, -1)
            if before >= 0:
                os.close(before)
            if int(pid):
                try:
                    servers[name] = os.pidfd_open(int(pid))
                except OSError:
                    servers[name] = -1


def ended(process: int, deadline: float) -> bool:
    """Whether a process has ended; after the deadline it is killed, and counts as ended whatever it does."""
    if process < 0:
        return True
    poller = select.poll()
    poller.register(process, select.POLLIN)
    if poller.poll(0):
        return True
    if time.monotonic() < deadline:
        return False
    try:
        signal.pidfd_send_signal(process, signal.SIGKILL)
    except OSError:
        pass  # its outputs are tried all the same
    poller.poll(int(KILL_TIME * 1000))
    return True


def succeeds(command: list[str], environment: dict[str, str]) -> bool:
    """Run a command, which may hang or crash; whether its exit code was 0."""
    try:
        pid = os.posix_spawn(command[0], command, environment)
    except OSError:
        return False
    until = time.monotonic() + TRY_TIME
    while True:
        over, status = os.waitpid(pid, os.WNOHANG)
        if over:
            return status == 0
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
        time.sleep(LOOK)


def main(words: list[str]) -> None:
    """Wait for the end of ``raspy run``, then until all outputs are safe."""
    split = words.index("--")
    seconds, runner, options = float(words[0]), words[1:split], words[split + 1 :]
    servers = listen()
    if not servers:
        return
    deadline = time.monotonic() + seconds
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from raspy.common.process import server_environment

    due = dict.fromkeys(servers, 0.0)
    pauses = dict.fromkeys(servers, PAUSES[0])
    while due:
        for name, when in list(due.items()):
            if when > time.monotonic() or not ended(servers[name], deadline):
                continue
            if succeeds([*runner, name, "--make-safe", "--ended", *options], server_environment(name)):
                del due[name]
            else:
                due[name] = time.monotonic() + pauses[name]
                pauses[name] = min(pauses[name] * 2, PAUSES[1])
        time.sleep(LOOK)
    # At last, as a log that nobody reads must not stand in the way.
    names = ", ".join(servers)
    os.write(2, f"raspy: the supervisor is gone; the outputs of {names} were made safe without it\n".encode())


if __name__ == "__main__":
    main(sys.argv[1:])
