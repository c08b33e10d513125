"""A small pool of daemon threads for slow work, made so that a call which never returns costs a thread and no more."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from raspy.common import MDP
from raspy.common.MDP import ServerError

QUEUED = 10
"""Times its own time that a job may wait for a thread."""
HUNG = 32
"""Hung threads that are replaced."""

Done = Callable[[Any, BaseException | None], None]


class JobTimeout(ServerError, TimeoutError):
    """A job did not end in its time and was abandoned; its call may still hang."""


class PoolFull(ServerError, RuntimeError):
    """There is no thread for a job: more wait than the pool may hold, or none took it up. It was not begun."""


class Job:
    """A call handed to the pool. ``done(result, error)`` is called once, on the loop.

    :param timeout: seconds after which it is given up
    """

    __slots__ = ("args", "claim", "done", "finished", "function", "started", "submitted", "timeout")

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], done: Done, timeout: float) -> None:
        self.function = function
        self.args = args
        self.done = done
        self.timeout = timeout
        self.submitted = time.monotonic()
        self.started = 0.0
        self.finished = False
        self.claim = [None]
        """Whoever takes this out, the thread that begins the job or the loop that gives it up, has the job."""


class Pool:
    """Runs jobs on at most ``size`` threads, started when first needed.

    Jobs are submitted, collected and abandoned from the loop's thread only. A job that overruns its time is
    abandoned: its ``done`` gets a :class:`JobTimeout`, a thread takes the place of the hung one, and the hung one
    ends when its call returns. At most ``hung_limit`` threads may hang before no replacement is made.

    :param wake: called from a pool thread to have :meth:`collect` called on the loop
    :param call: calls a ``done`` with its arguments and keeps what it raises from the other jobs
    :param size: threads at a time
    :param hung_limit: hung threads that are replaced
    :param backlog: jobs that may wait
    """

    def __init__(
        self,
        wake: Callable[[], None],
        call: Callable[..., Any],
        size: int = 4,
        hung_limit: int = HUNG,
        backlog: int = 1000,
    ) -> None:
        self._wake = wake
        self._call = call
        self._size = size
        self._hung_limit = hung_limit
        self._backlog = backlog
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._results: deque[tuple[Job, Any, BaseException | None, bool]] = deque()
        self._running: list[Job] = []
        self._threads = 0
        self.hung = 0
        """Threads whose call overran its time and has not returned yet."""
        self.abandoned = 0
        """Jobs abandoned since the start."""

    def submit(self, function: Callable[..., Any], *args: Any, done: Done, timeout: float = 30.0) -> Job:
        """Have ``function(*args)`` called on a thread and its outcome given to ``done`` on the loop.

        :param timeout: seconds the call may take, from when a thread takes it up
        :raises PoolFull: too many jobs wait
        """
        if len(self._running) >= self._backlog:
            raise PoolFull(f"{len(self._running)} jobs wait for a thread")
        job = Job(function, args, done, timeout)
        self._running.append(job)
        self._jobs.put(job)
        self._fill()
        return job

    def collect(self) -> None:
        """Give the outcomes that have arrived to their ``done``."""
        # Those that arrive meanwhile come in the next turn: each may begin a job that is over at once.
        for _ in range(len(self._results)):
            job, result, error, leaving = self._results.popleft()
            if job.finished:
                self.hung -= 1
                self._threads += not leaving
                if self._threads > self._size:
                    self._threads -= 1
                    self._jobs.put(None)
                self._fill()
                continue
            job.finished = True
            self._running.remove(job)
            self._call(job.done, result, error)

    def expire(self) -> float | None:
        """Abandon the jobs that overran; return the seconds until the next one may, None when none runs."""
        now = time.monotonic()
        next_in: float | None = None
        for job in list(self._running):
            left = job.started + job.timeout - now if job.started else job.timeout
            if left <= 0:
                self._abandon(job)
            elif not job.started and now - job.submitted > QUEUED * job.timeout:
                self._give_up(job)
            elif next_in is None or left < next_in:
                next_in = left
        return next_in

    def _abandon(self, job: Job) -> None:
        job.finished = True
        self._running.remove(job)
        self.hung += 1
        self.abandoned += 1
        self._threads -= 1
        self._fill()
        name = getattr(job.function, "__name__", "call")
        self._call(job.done, None, JobTimeout(f"{name} did not return in {job.timeout:g} s"))

    def _give_up(self, job: Job) -> None:
        if _taken(job):
            return
        self._running.remove(job)
        self._call(job.done, None, PoolFull(f"no thread took it up in {QUEUED * job.timeout:g} s"))

    def close(self) -> None:
        """Tell the idle threads to end; hung ones are daemons and end with the process."""
        for _ in range(self._threads):
            self._jobs.put(None)

    def _fill(self) -> None:
        while self._threads < min(len(self._running), self._size) and self.hung <= self._hung_limit:
            try:
                threading.Thread(target=self._work, daemon=True, name="raspy-pool").start()
            except RuntimeError as error:
                # no memory or no task left: those that live do the work, and each later job tries anew
                MDP.logger.warning("no thread could be started: %s", error)
                return
            self._threads += 1

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            if _taken(job):
                continue
            job.started = time.monotonic()
            result, error = None, None
            try:
                result = job.function(*job.args)
            except BaseException as caught:
                error = caught
            leaving = job.finished
            self._results.append((job, result, error, leaving))
            self._wake()
            if leaving:
                return


def _taken(job: Job) -> bool:
    """Take a job, unless it is taken already; safe from any thread."""
    try:
        job.claim.pop()
    except IndexError:
        return True
    return False
