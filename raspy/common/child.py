"""One supervised server: its process, its notify socket, its watchdog and its next start."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable

from raspy.common.log import printable
from raspy.common.process import LAST_END, RESTART, STARTS, ExecutiveProcess, server_environment

logger = logging.getLogger("raspy.supervisor")

DOWN, STARTING, READY, STOPPING, UNSAFE, WAITING, REFUSED = (
    "down",
    "starting",
    "ready",
    "stopping",
    "unsafe",
    "waiting",
    "refused",
)
"""Not wanted; no READY yet; serving; told to end; has ended, and its outputs could not be made safe yet; until its
next start; needs its owner first."""


class Times:
    """How long things may take, in seconds."""

    def __init__(
        self,
        watchdog: float = 10.0,
        start: float = 90.0,
        stop: float = 10.0,
        abort: float = 2.0,
        backoff: tuple[float, float] = (0.2, 10.0),
        settled: float = 60.0,
    ) -> None:
        self.watchdog = watchdog
        """A server that gives no sign of life for so long is replaced."""
        self.start = start
        """Until READY, as systemd's DefaultTimeoutStartSec."""
        self.stop = stop
        """Between SIGTERM and SIGKILL."""
        self.abort = abort
        """Between the watchdog's SIGABRT, with which a process shows where it was, and SIGKILL."""
        self.backoff = backoff
        """Between an exit and the next start, or the tries to make outputs safe: the first time, and the longest
        after doublings."""
        self.settled = settled
        """A server that lived so long has its back-off forgotten."""


class Child:
    """A server as the supervisor sees it.

    :param name: the server
    :param command: what starts it
    :param address: its NOTIFY_SOCKET
    :param times: how long things may take
    :param changed: called when it was started, when it got ready, when its process has ended, and again then for as
        long as it is said to be :meth:`unsafe`
    """

    def __init__(
        self, name: str, command: list[str], address: str, times: Times, changed: Callable[[Child], None]
    ) -> None:
        self.name = name
        self.state = DOWN
        self.status = ""
        """The last STATUS= line."""
        self.starts = 0
        self.was_ready = False
        """Whether it has been ready since the supervisor started."""
        self.exit_code = 0
        """Of the last process that ended; a signal's is negative."""
        self.last_end = ""
        """Why the last process ended; its next one is told."""
        self.due: float | None = None
        """Monotonic time at which :meth:`expire` is to be called."""
        self.process: ExecutiveProcess | None = None
        self._command = command
        self._address = address
        self._times = times
        self._changed = changed
        self._started = 0.0
        self._delay = self._unsafe_delay = times.backoff[0]
        self._reload_when_ready = False
        self._why = ""

    @property
    def up(self) -> bool:
        """Whether there is a process."""
        return self.process is not None

    def start(self) -> None:
        """Start the process; a machine that cannot is tried again later."""
        self.starts += 1
        self.process = ExecutiveProcess(self._command, self.name, self._environment())
        self._started = time.monotonic()
        self.state = STARTING
        self.due = self._started + self._times.start
        try:
            self.process.run()
        except OSError as error:
            logger.error("%s: cannot be started: %s", self.name, error)
            self._ended(f"could not be started: {error}")
            self.exit_code = 1
            self.wait()
        else:
            self._changed(self)

    def stop(self) -> None:
        """Have it end: SIGTERM, and SIGKILL when that takes too long. Outputs that are not safe go on to be tried."""
        if self.process is None:
            if self.state != UNSAFE:
                self.state, self.due = DOWN, None
        elif self.state != STOPPING:
            self._end(signal.SIGTERM, self._times.stop)

    def kill(self) -> None:
        """Have it end now."""
        if self.process is not None:
            self._end(signal.SIGKILL, self._times.stop)

    def reload(self) -> None:
        """SIGHUP; a server that is not ready gets it when it is, as the signal would end it before."""
        if self.state == READY and self.process is not None:
            self.process.kill(signal.SIGHUP)
        else:
            self._reload_when_ready = self.state == STARTING

    def wait(self) -> None:
        """Arrange the next start, with back-off unless it was asked for."""
        if self.exit_code == RESTART:
            self._delay = self._times.backoff[0]
        if time.monotonic() - self._started >= self._times.settled:
            self._delay = self._times.backoff[0]
        logger.info("%s: restarting in %.1f s", self.name, self._delay)
        self.state = WAITING
        self.due = time.monotonic() + self._delay
        self._delay = min(self._delay * 2, self._times.backoff[1])

    def unsafe(self) -> None:
        """Its outputs could not be made safe: arrange the next try, with back-off."""
        logger.error("%s: tried again in %.1f s; until then it is not started", self.name, self._unsafe_delay)
        self.state = UNSAFE
        self.due = time.monotonic() + self._unsafe_delay
        self._unsafe_delay = min(self._unsafe_delay * 2, self._times.backoff[1])

    def safe(self) -> None:
        """Its outputs are safe."""
        self._unsafe_delay = self._times.backoff[0]
        self.state, self.due = DOWN, None

    def refuse(self) -> None:
        """Do not start it again until its owner has done something."""
        logger.error("%s: not restarted (exit code 2): change what it says, then send SIGHUP", self.name)
        self.state, self.due = REFUSED, None

    def expire(self) -> None:
        """Do what :attr:`due` stands for."""
        if self.state == STARTING:
            self._abort(f"not ready after {self._times.start:g} s")
        elif self.state == READY:
            self._abort(f"no sign of life for {self._times.watchdog:g} s")
        elif self.state == STOPPING and self.process is not None:
            logger.warning("%s: does not end: killed", self.name)
            self._end(signal.SIGKILL, self._times.stop)
        elif self.state == UNSAFE:
            self.state, self.due = DOWN, None
            self._changed(self)
        elif self.state == WAITING:
            self.start()

    def spare(self, until: float) -> None:
        """Do not judge it before then (monotonic time): nobody has listened to it for a while."""
        if self.state in (STARTING, READY) and self.due is not None:
            self.due = max(self.due, until)

    def on_notify(self, datagram: bytes) -> None:
        """Take a notification of its process (sd_notify(3))."""
        for line in datagram.decode("utf-8", "replace").splitlines():
            self._take(line)

    def on_exit(self) -> None:
        """Take note of the end of the process."""
        if self.process is None or self.process.poll() is None:
            return
        code = self.process.returncode or 0
        how = f"exit code {code}" if code >= 0 else f"ended by {signal_name(-code)}"
        again = code == RESTART
        asked = again or (self.state == STOPPING and code in (0, -signal.SIGTERM))
        log = logger.info if asked else logger.warning
        log(
            "%s: %s after %.1f s",
            self.name,
            "stopped to be started again" if again else "stopped" if asked else how,
            time.monotonic() - self._started,
        )
        self._ended(self._why or ("a restart was asked for" if again else "stopped" if asked else how))
        self.exit_code = code
        self._changed(self)

    def _take(self, line: str) -> None:
        field, _, value = line.partition("=")
        if field == "WATCHDOG" and value == "1" and self.state == READY:
            self.due = time.monotonic() + self._times.watchdog
        elif field == "WATCHDOG" and value == "trigger" and self.state == READY:
            self._abort("asks to be replaced")
        elif field == "READY" and value == "1" and self.state == STARTING:
            now = time.monotonic()
            self.state, self.due, self.was_ready = READY, now + self._times.watchdog, True
            logger.info("%s: started in %.0f ms", self.name, (now - self._started) * 1000)
            if self._reload_when_ready:
                self.reload()
            self._changed(self)
        elif field == "STATUS" and value != self.status:
            self.status = printable(value[:500])
            logger.debug("%s: says: %s", self.name, self.status)

    def _abort(self, why: str) -> None:
        logger.warning("%s: %s: replaced", self.name, why)
        self._why = why
        self._end(signal.SIGABRT, self._times.abort)

    def _end(self, number: int, grace: float) -> None:
        self.state = STOPPING
        self.due = time.monotonic() + grace
        if self.process is not None:
            self.process.kill(number)

    def _ended(self, why: str) -> None:
        self.process = None
        self.last_end, self._why = printable(why), ""
        self.state, self.due, self.status = DOWN, None, ""
        self._reload_when_ready = False

    def _environment(self) -> dict[str, str]:
        environment = server_environment(self.name)
        environment["NOTIFY_SOCKET"] = self._address
        environment["WATCHDOG_USEC"] = str(int(self._times.watchdog * 1e6))
        environment[STARTS] = str(self.starts)
        if self.last_end:
            environment[LAST_END] = self.last_end
        return environment


def signal_name(number: int) -> str:
    """``SIGKILL`` of 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
