"""The event loop of every process: sockets, timers, signals, slow work on threads, the watchdog.

State is touched from the loop's thread only, so there are no locks. What happens elsewhere (a pool thread, a
signal, a page's thread) reaches the loop as a call in a queue and a byte in a pipe.
"""

from __future__ import annotations

import heapq
import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import zmq

from raspy.common import MDP
from raspy.common.curve import context
from raspy.common.notify import Notifier
from raspy.common.pool import Done, Job, Pool
from raspy.common.process import ExecutiveProcess

__all__ = ["Executive", "ExecutiveProcess", "Timer"]

logger = logging.getLogger("raspy.executive")

Socket = zmq.Socket[bytes]

LONG_TURN = 0.25
"""Seconds of one turn of the loop that are worth a line in the log."""

RESTART_AFTER = 0.2
"""Seconds between the answer to a restart and the end of the loop."""

SLEPT = 0.0001
"""Seconds; a poll that took longer has waited."""


class Timer:
    """A call due at a monotonic time, once or at an interval.

    :param due: monotonic time, s
    :param interval: seconds from one call to the next; 0: once
    """

    __slots__ = ("args", "cancelled", "due", "function", "interval")

    def __init__(self, due: float, function: Callable[..., Any], args: tuple[Any, ...], interval: float) -> None:
        self.due = due
        self.function = function
        self.args = args
        self.interval = interval
        self.cancelled = False

    def cancel(self) -> None:
        """The call will not happen (again); harmless when repeated."""
        self.cancelled = True

    def __lt__(self, other: Timer) -> bool:
        return self.due < other.due


class _Bell:
    """The end of a pipe that any thread writes to; closed when the last who holds it lets go.

    Closed at once, its number could be another file's by the time a thread that had read it comes to write.
    """

    __slots__ = ("descriptor",)

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def ring(self) -> None:
        """Have a byte in the pipe."""
        try:
            os.write(self.descriptor, b"\0")
        except OSError:
            pass  # full: a wake-up is already on its way; its reader is gone: nobody is left to wake

    def __del__(self) -> None:
        os.close(self.descriptor)


class Executive:
    """The mother class of all processes on the bus: one ``zmq.Poller`` loop.

    :param hostname: name of this host on the bus
    :param service: name of this server
    :param broker_ip: the broker's address, or ``ipc://`` and a directory
    :param broker_port: the broker's base port
    """

    def __init__(
        self,
        hostname: str = "localhost",
        service: str = "executive",
        broker_ip: str = "127.0.0.1",
        broker_port: int = 5514,
    ) -> None:
        self.hostname = hostname
        self.service = service
        self.broker_ip = broker_ip
        self.broker_port = broker_port
        self.ctx: zmq.Context[Socket] = context()
        self.notifier = Notifier(self.call_later)
        self.pool = Pool(self._wake, self.guard)
        self.errors = 0
        """Exceptions that escaped a handler since the start; each is in the log."""
        self.last_error = ""
        self.last_error_at = float("-inf")
        """Monotonic time of the last of them, in seconds."""
        self.longest_turn = 0.0
        """Seconds of the longest turn of the loop since the start, waiting excluded."""
        self.slept = False
        """This turn began with waiting: nothing had piled up."""
        self.started = time.monotonic()
        self._poller = zmq.Poller()
        self._handlers: dict[Any, Callable[[], Any]] = {}
        self._timers: list[Timer] = []
        self._calls: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        self._running = False
        self.stopping = False
        self.again = False
        """It ends to be started again."""
        self._destroyed = False
        self._instance = f"{MDP.routing_key(hostname, service)}.{os.getpid()}.{os.urandom(4).hex()}"
        self._pool_timer: Timer | None = None
        self._wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._bell: _Bell | None = _Bell(wake_write)
        self.register(self._wake_read, self._awake)

    def get_instance_id(self) -> str:
        """A name of this very process: ``<hostname>.<service>.<pid>.<random>``, unique over hosts and restarts."""
        return self._instance

    def register(self, source: Socket | int, handler: Callable[[], Any]) -> None:
        """Have ``handler()`` called on the loop whenever a socket or file descriptor can be read.

        A handler takes a bounded number of messages and returns; it is called again when more are there.
        """
        self._handlers[source] = handler
        self._poller.register(source, zmq.POLLIN)

    def unregister(self, source: Socket | int) -> None:
        """Stop watching a socket or descriptor; harmless when it is not watched."""
        if self._handlers.pop(source, None) is not None:
            self._poller.unregister(source)

    def call_later(self, delay: float, function: Callable[..., Any], *args: Any) -> Timer:
        """Call ``function(*args)`` on the loop in ``delay`` seconds of monotonic time."""
        timer = Timer(time.monotonic() + delay, function, args, 0.0)
        heapq.heappush(self._timers, timer)
        return timer

    def call_every(self, interval: float, function: Callable[..., Any], *args: Any) -> Timer:
        """Call ``function(*args)`` on the loop every ``interval`` seconds, first in one interval.

        Calls that fell due while the process was stopped are made once, not in a burst.
        """
        timer = Timer(time.monotonic() + interval, function, args, interval)
        heapq.heappush(self._timers, timer)
        return timer

    def call_threadsafe(self, function: Callable[..., Any], *args: Any) -> None:
        """From any thread: have ``function(*args)`` called on the loop."""
        self._calls.append((function, args))
        self._wake()

    def in_pool(self, function: Callable[..., Any], *args: Any, done: Done, timeout: float = 30.0) -> Job:
        """Do slow work on a pool thread; ``done(result, error)`` is called on the loop.

        :raises raspy.common.pool.PoolFull: too many jobs wait
        """
        job = self.pool.submit(function, *args, done=done, timeout=timeout)
        if self._pool_timer is None or self._pool_timer.cancelled or timeout < self._pool_timer.due - time.monotonic():
            self._arm_pool(timeout)
        return job

    def start(self) -> None:
        """Open what the process serves; called on the loop's thread before its first turn. To be extended."""

    def stop(self) -> None:
        """Let go of everything; called on the loop's thread after its last turn. To be extended."""

    def reload(self) -> None:
        """Look at the world again (SIGHUP). To be extended; the configuration is read at the start only."""

    def alive(self) -> bool:
        """Whether the watchdog may be fed. To be extended by a server whose whole hardware can fall silent."""
        return True

    def run(self) -> None:
        """Serve until :meth:`shutdown`, SIGTERM or SIGINT; then stop and destroy."""
        self._take_signals()
        self._running = True
        try:
            self.start()
            if self.notifier.watchdog:
                self.call_every(self.notifier.watchdog / 2, self._feed)
            self.notifier.ready()
            while not self.stopping:
                self.turn()
        finally:
            self._running = False
            self.notifier.stopping()
            try:
                self.stop()
            finally:
                self.destroy()

    def turn(self, longest_wait: float | None = None) -> None:
        """One turn of the loop: wait for something to do, then do it.

        :param longest_wait: seconds to wait at most; None: until something happens
        """
        asked = time.monotonic()
        events = self._poller.poll(self._wait_ms(longest_wait))
        began = time.monotonic()
        self.slept = began - asked > SLEPT
        for source, _ in events:
            handler = self._handlers.get(source)
            if handler is not None:
                self.guard(handler)
        while self._timers and self._timers[0].due <= began:
            timer = heapq.heappop(self._timers)
            if timer.cancelled:
                continue
            if timer.interval:
                timer.due = max(timer.due + timer.interval, began + timer.interval / 2)
                heapq.heappush(self._timers, timer)
            self.guard(timer.function, *timer.args)
        took = time.monotonic() - began
        if took > self.longest_turn:
            self.longest_turn = took
            if took > LONG_TURN:
                logger.warning("one turn of the loop took %.0f ms", took * 1000)

    def shutdown(self) -> None:
        """Ask the loop to end, from any thread or a signal; :meth:`run` then returns."""
        self.stopping = True
        self._wake()

    def restart(self) -> None:
        """On the loop: end in a moment, once what was just answered is out; the supervisor starts it again at once."""
        self.call_later(RESTART_AFTER, self._restart)

    def _restart(self) -> None:
        self.again = not self.stopping
        self.shutdown()

    def destroy(self) -> None:
        """Close every socket and the context; harmless when repeated."""
        if self._destroyed:
            return
        self._destroyed = True
        self.pool.close()
        self.notifier.close()
        self._handlers.clear()
        self.ctx.destroy(linger=100)
        if threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(-1)
        self._bell = None
        os.close(self._wake_read)

    def report(self, error: BaseException, doing: str) -> None:
        """Count and log an exception that nobody expected, with its traceback; the loop goes on."""
        self.errors += 1
        self.last_error_at = time.monotonic()
        self.last_error = f"{doing}: {type(error).__name__}: {error}"
        logger.error("%s failed", doing, exc_info=error)

    def guard(self, function: Callable[..., Any], *args: Any) -> None:
        """Call a handler; an exception that escapes it is reported, and the loop goes on."""
        try:
            function(*args)
        except Exception as error:
            self.report(error, getattr(function, "__qualname__", "a handler"))

    def _wait_ms(self, longest_wait: float | None) -> int | None:
        """Milliseconds to wait, rounded up so that a timer is never polled for in a busy loop."""
        while self._timers and self._timers[0].cancelled:
            heapq.heappop(self._timers)
        if self._calls or self.stopping:
            return 0
        if not self._timers:
            return None if longest_wait is None else int(longest_wait * 1000)
        wait = self._timers[0].due - time.monotonic()
        if longest_wait is not None:
            wait = min(wait, longest_wait)
        return max(0, int(wait * 1000 + 0.999))

    def _wake(self) -> None:
        if (bell := self._bell) is not None:
            bell.ring()

    def _awake(self) -> None:
        """Empty the pipe, then take what threads have left for the loop."""
        try:
            os.read(self._wake_read, 65536)
        except BlockingIOError:
            pass
        self.pool.collect()
        for _ in range(len(self._calls)):
            function, args = self._calls.popleft()
            self.guard(function, *args)

    def _arm_pool(self, delay: float) -> None:
        if self._pool_timer is not None:
            self._pool_timer.cancel()
        self._pool_timer = self.call_later(delay, self._expire_pool)

    def _expire_pool(self) -> None:
        self._pool_timer = None
        left = self.pool.expire()
        if left is not None:
            self._arm_pool(max(left, 0.01))

    def _feed(self) -> None:
        if self.alive():
            self.notifier.alive()

    def _take_signals(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        if self._bell is not None:
            signal.set_wakeup_fd(self._bell.descriptor, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.shutdown())
        signal.signal(signal.SIGHUP, lambda *_: self.call_threadsafe(self._reload))

    def _reload(self) -> None:
        self.notifier.reloading(time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000)
        try:
            self.reload()
        finally:
            self.notifier.ready()
