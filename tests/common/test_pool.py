"""The pool of threads for slow work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from raspy.common.pool import JobTimeout, Pool, PoolFull

LIMIT_S = 10.0
NEVER = 1e9
"""Times its own short time that a job waits for a thread, however long a busy machine takes to start one."""


class Loop:
    """Stands where the event loop does: wakes, collects, calls."""

    def __init__(self, **options: int) -> None:
        self.woken = threading.Semaphore(0)
        self.outcomes: list[tuple[Any, BaseException | None]] = []
        self.errors: list[BaseException] = []
        self.pool = Pool(self.woken.release, self._call, **options)

    def _call(self, function: Callable[..., Any], *args: Any) -> None:
        try:
            function(*args)
        except Exception as error:
            self.errors.append(error)

    def submit(self, function: Callable[..., Any], *args: Any, timeout: float = LIMIT_S) -> None:
        self.pool.submit(function, *args, done=lambda *outcome: self.outcomes.append(outcome), timeout=timeout)

    def until(self, condition: Callable[[], object]) -> None:
        """Collect until it is true."""
        while not condition():
            assert self.woken.acquire(timeout=LIMIT_S), "nothing came from the pool"
            self.pool.collect()


def test_results_and_errors_come_back() -> None:
    loop = Loop()
    loop.submit(divmod, 7, 2)
    loop.submit(divmod, 7, 0)
    loop.until(lambda: len(loop.outcomes) == 2)
    assert (3, 1) in [result for result, _ in loop.outcomes]
    assert [type(error) for _, error in loop.outcomes if error] == [ZeroDivisionError]
    loop.pool.close()


def test_what_arrives_while_outcomes_are_taken_comes_in_the_next_turn() -> None:
    loop = Loop(size=1)
    turns: list[int] = []

    def again(result: Any, error: BaseException | None) -> None:
        turns.append(result)
        if len(turns) < 5:
            loop.pool.submit(abs, len(turns), done=again)
            assert loop.woken.acquire(timeout=LIMIT_S), "the next is there before this one is done with"

    loop.pool.submit(abs, 0, done=again)
    assert loop.woken.acquire(timeout=LIMIT_S)
    for number in range(1, 6):
        loop.pool.collect()
        assert len(turns) == number
    loop.pool.close()


def test_no_thread_before_the_first_job() -> None:
    # One of another test may end meanwhile.
    before = set(threading.enumerate())
    pool = Loop().pool
    assert set(threading.enumerate()) <= before
    pool.close()


def test_a_done_that_raises_spoils_no_other() -> None:
    loop = Loop(size=1)
    loop.pool.submit(int, done=lambda *_: 1 // 0)
    loop.submit(int)
    loop.until(lambda: loop.outcomes)
    assert [type(error) for error in loop.errors] == [ZeroDivisionError]
    loop.pool.close()


def test_no_more_threads_than_its_size() -> None:
    loop = Loop(size=2)
    gate, inside = threading.Event(), []
    most = []
    lock = threading.Lock()

    def work() -> None:
        with lock:
            inside.append(1)
            most.append(len(inside))
        gate.wait(LIMIT_S)
        with lock:
            inside.pop()

    for _ in range(6):
        loop.submit(work)
    gate.set()
    loop.until(lambda: len(loop.outcomes) == 6)
    assert max(most) <= 2
    loop.pool.close()


def test_a_hung_call_is_abandoned_and_its_place_is_taken() -> None:
    loop = Loop(size=1)
    gate, started = threading.Event(), threading.Event()

    def hang() -> None:
        started.set()
        gate.wait(LIMIT_S)

    loop.submit(hang, timeout=0.01)
    loop.submit(int)
    assert started.wait(LIMIT_S)
    end = time.monotonic() + LIMIT_S
    while not loop.outcomes:
        assert time.monotonic() < end
        loop.pool.expire()
    assert isinstance(loop.outcomes[0][1], JobTimeout)
    assert (loop.pool.hung, loop.pool.abandoned) == (1, 1)
    loop.until(lambda: len(loop.outcomes) == 2)
    assert loop.outcomes[1] == (0, None), "the next job runs while the first hangs"
    gate.set()
    loop.until(lambda: loop.pool.hung == 0)
    assert len(loop.outcomes) == 2, "the late return is nobody's"
    for _ in range(3):
        loop.submit(int)
    loop.until(lambda: len(loop.outcomes) == 5)
    loop.pool.close()


def test_a_job_that_waits_for_a_thread_does_not_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raspy.common.pool.QUEUED", NEVER)
    loop = Loop(size=1)
    gate = threading.Event()
    loop.submit(gate.wait, LIMIT_S)
    loop.submit(int, timeout=0.0001)
    left = loop.pool.expire()
    assert left is not None
    assert not loop.outcomes
    gate.set()
    loop.until(lambda: len(loop.outcomes) == 2)
    assert loop.pool.expire() is None
    loop.pool.close()


def test_hung_threads_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raspy.common.pool.QUEUED", NEVER)
    loop = Loop(size=1, hung_limit=2)
    gate = threading.Event()
    count = 5
    for _ in range(count):
        loop.submit(gate.wait, LIMIT_S, timeout=0.01)
    end = time.monotonic() + LIMIT_S
    while loop.pool.hung < 3:
        assert time.monotonic() < end
        loop.pool.expire()
    assert loop.pool.hung == 3, "two replacements, and no third"
    loop.pool.expire()
    gate.set()
    loop.until(lambda: loop.pool.hung == 0 and len(loop.outcomes) == count)
    loop.pool.close()


def test_the_backlog_is_bounded() -> None:
    loop = Loop(size=1, backlog=3)
    gate = threading.Event()
    for _ in range(3):
        loop.submit(gate.wait, LIMIT_S)
    with pytest.raises(PoolFull, match="3 jobs wait"):
        loop.submit(int)
    gate.set()
    loop.until(lambda: len(loop.outcomes) == 3)
    loop.submit(int)
    loop.until(lambda: len(loop.outcomes) == 4)
    loop.pool.close()


def test_threads_that_cannot_be_started_are_tried_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    loop = Loop(size=2)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for number in range(5):
            loop.submit(abs, number)
    loop.submit(abs, 5)
    loop.until(lambda: len(loop.outcomes) == 6)
    assert sorted(result for result, _ in loop.outcomes) == [0, 1, 2, 3, 4, 5]
    loop.pool.close()


def test_a_job_that_no_thread_takes_up_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raspy.common.pool.QUEUED", 0)
    loop = Loop(size=1)
    hold, taken = threading.Event(), threading.Event()
    loop.submit(lambda: taken.set() or hold.wait(LIMIT_S))
    assert taken.wait(LIMIT_S)
    loop.submit(abs, -1)
    loop.pool.expire()
    assert [type(error) for _, error in loop.outcomes] == [PoolFull]
    assert loop.pool.hung == 0, "it was never begun, and cannot hang"
    hold.set()
    loop.until(lambda: len(loop.outcomes) == 2)
    loop.submit(abs, -3)
    loop.until(lambda: len(loop.outcomes) == 3)
    assert loop.outcomes[-1] == (3, None)
    loop.pool.close()
