"""A database as a loop uses it: writes that come together share one commit, reads run beside them.

A write is on disk when its ``done`` is called without an error. What the disk refuses is a reported state of the
server, which goes on; what must not be lost (``keep``) is tried again until the disk takes it.
"""

from __future__ import annotations

import sqlite3
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from raspy.common.database import Damaged, Database, StorageError
from raspy.common.executive import Timer
from raspy.common.pool import PoolFull

if TYPE_CHECKING:
    from raspy.common.server import Server

RETRY = 1.0
"""Seconds after which a disk that refused is tried again."""
PATIENCE = 5.0
"""Seconds after which a write that does not come back is reported."""
NEVER = 1e9
"""Seconds: a job is never given up, as nobody else may use its connection until it is back."""
LONGEST = 0.01
"""Seconds that a group may gather."""
TICK = 0.001
"""Seconds that a timer can tell (poll(2))."""
BATCH = 1000
"""Operations in one transaction, or reads in one job."""
LAST_COMMIT = 3.0
"""Seconds that a commit which is under way may take when the server stops."""

Write = Callable[[sqlite3.Connection, list[Any]], list[Any]]
"""Writes a list of items in a transaction, and returns a result for each."""
Read = Callable[[sqlite3.Connection], Any]
Done = Callable[[Any, Exception | None], None]
Outcome = tuple[Any, Exception | None]


class Operation:
    """One item to be written."""

    __slots__ = ("done", "function", "item", "keep")

    def __init__(self, function: Write, item: Any, done: Done, keep: bool) -> None:
        self.function = function
        self.item = item
        self.done = done
        self.keep = keep


class Storage:
    """Bunches the writes to a file, and the reads. Everything here is called on the loop.

    :param server: whose loop, pool and conditions are used
    :param database: the file
    :param name: what its condition is called
    """

    def __init__(self, server: Server, database: Database, name: str) -> None:
        self.server = server
        self.database = database
        self.name = name
        self.problem = ""
        """Why the disk refuses at present."""
        self.commits = 0
        self.commit_time = 0.0
        """Seconds that the last commit took."""
        self.on_recovered: Callable[[], None] = lambda: None
        """Called when another file has taken the place of one that was damaged or deleted: what was derived from it is
        to be derived again."""
        self._writes: deque[Operation] = deque()
        self._reads: deque[tuple[Read, Done]] = deque()
        self.rests = False
        """Whether the file is closed until it is used again (:meth:`rest`)."""
        self._writing = self._reading = self._recovering = False
        self._group = 1
        self._gathering: Timer | None = None
        self._retry: Timer | None = None
        self._started = self._read_started = self._closing_since = 0.0
        self._begun = 0
        self._watch = server.call_every(PATIENCE / 2, self._look)

    @property
    def waiting(self) -> int:
        """Operations that are not on disk yet, those of a commit that is under way excepted."""
        return len(self._writes)

    def write(self, function: Write, item: Any, done: Done, keep: bool = False) -> None:
        """Have ``function(connection, [item, …])`` called with all items that wait for it, in one transaction.

        :param done: called with the item's result, or with the error that kept it from the disk
        :param keep: try again until it is on disk
        """
        self.rests = False
        self._writes.append(Operation(function, item, done, keep))
        self._go()

    def read(self, function: Read, done: Done) -> None:
        """Have ``function(connection)`` called; ``done(result, error)`` follows."""
        self.rests = False
        self._reads.append((function, done))
        if not self._reading and not self._recovering:
            self._start_reads()

    def rest(self) -> None:
        """Close the file, and delete it: it holds nothing, and is not needed for long. Nothing happens while it is
        used, or while the disk refuses. What is written or read later opens it again."""
        busy = self._writing or self._reading or self._recovering or self._writes or self._reads
        if not (busy or self.rests or self.problem):
            try:
                self.server.in_pool(self.database.close, True, done=self._rested, timeout=NEVER)
            except PoolFull:
                return
            # As while it is set aside: nobody begins before it is done.
            self._recovering = True
            self._closing_since = time.monotonic()

    def close(self, is_empty: Callable[[], bool] = lambda: False) -> None:
        """Write what waits, then close the file. Called when the server stops, so this waits.

        :param is_empty: whether it is to be deleted then, as it holds nothing any more
        """
        self._watch.cancel()
        until = time.monotonic() + LAST_COMMIT
        while (self._writing or self._writes or self._reading) and time.monotonic() < until and not self.problem:
            self.server.turn(0.05)
        if not self._writing and not self._reading and not self._recovering:
            self.database.close(not self.problem and is_empty())

    def _go(self) -> None:
        """Commit what waits, unless a commit is under way or the group still gathers."""
        if self._writing or self._recovering or not self._writes:
            return
        if self._worth_waiting():
            if self._gathering is None:
                self._gathering = self.server.call_later(min(self.commit_time / 2, LONGEST), self._gathered)
            return
        self._start_commit()

    def _worth_waiting(self) -> bool:
        """Whether one operation more is likely to come so soon that to wait for it makes all of them faster.

        Those that were just answered are likely to come again. With few of them a commit is dear, and to wait half its
        time for all is what PostgreSQL's documentation advises (commit_delay). One more is worth the time of a commit
        divided by those that wait; with many that is less than a timer can tell.
        """
        return len(self._writes) < self._group and self.commit_time > TICK * max(len(self._writes), 1)

    def _gathered(self) -> None:
        self._group = 0
        self._gathering = None
        self._go()

    def _start_commit(self) -> None:
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        batch = [self._writes.popleft() for _ in range(min(len(self._writes), BATCH))]
        if self.problem and any(operation.keep for operation in batch):
            # What must be kept is not to be refused together with what fills the disk.
            self._writes.extendleft(operation for operation in reversed(batch) if not operation.keep)
            batch = [operation for operation in batch if operation.keep]
        self._writing = True
        self._started = time.monotonic()
        self.server.in_pool(
            commit,
            self.database,
            batch,
            done=lambda outcomes, error: self._wrote(batch, outcomes, error),
            timeout=NEVER,
        )

    def _wrote(self, batch: list[Operation], outcomes: list[Outcome] | None, error: BaseException | None) -> None:
        self._writing = False
        if outcomes is None or error is not None:
            self._refused(batch, error)
            return
        self.commit_time = time.monotonic() - self._started
        self.commits += 1
        # Those that came meanwhile are as many as did not fit into this group's turn: half of all who ask.
        self._group = len(batch) + len(self._writes)
        refused = [problem for _, problem in outcomes if isinstance(problem, StorageError)]
        if not refused:
            self._report("")
            self._look_for_new()
            # The disk works on the next group while the answers to this one are sent.
            self._go()
        for operation, (result, problem) in zip(batch, outcomes, strict=True):
            if isinstance(problem, StorageError):
                continue
            if problem is not None:
                self.server.report(problem, f"writing to {self.database.path}")
            self._tell(operation.done, result, problem)
        if refused:
            self._refused(batch[-len(refused) :], refused[0])

    def _look_for_new(self) -> None:
        """Tell when the file is another one than before."""
        before, self._begun = self._begun, self.database.begun
        if before and before != self._begun:
            self.on_recovered()

    def _refused(self, batch: list[Operation], error: BaseException | None) -> None:
        """Nothing of a batch is on disk."""
        told = error if isinstance(error, StorageError) else StorageError(f"{self.database.path}: {error}")
        if not isinstance(error, StorageError) and error is not None:
            self.server.report(error, f"writing to {self.database.path}")
        self._report(str(told))
        self._group = 1
        self._writes.extendleft(operation for operation in reversed(batch) if operation.keep)
        for operation in batch:
            if not operation.keep:
                self._tell(operation.done, None, told)
        if isinstance(told, Damaged):
            self._recover(told)
        else:
            self._try_later()
        if not self._writing and any(not operation.keep for operation in self._writes):
            self._refuse_rest(told)

    def _refuse_rest(self, told: StorageError) -> None:
        """Answer those that came meanwhile; they would fail too."""
        rest = [operation for operation in self._writes if not operation.keep]
        self._writes = deque(operation for operation in self._writes if operation.keep)
        for operation in rest:
            self._tell(operation.done, None, told)

    def _try_later(self) -> None:
        if self._retry is None:
            self._retry = self.server.call_later(RETRY, self._try_again)

    def _try_again(self) -> None:
        """Try the disk with what must be kept, or with nothing."""
        self._retry = None
        if not self._writes and not self.problem:
            return
        if not self._writes:
            self._writes.append(Operation(probe, None, lambda *_: None, keep=True))
        if not self._writing and not self._recovering:
            self._start_commit()

    def _recover(self, error: Damaged) -> None:
        if self._recovering:
            return
        self._recovering = True
        self.server.in_pool(self.database.recover, error, done=self._recovered, timeout=NEVER)

    def _recovered(self, _: Any, error: BaseException | None) -> None:
        self._recovering = False
        if error is not None:
            self._report(str(error))
            self._try_later()
        else:
            self._report("")
            self._look_for_new()
            self._go()
        if self._reads and not self._reading:
            self._start_reads()

    def _rested(self, _: Any, error: BaseException | None) -> None:
        self._closing_since = 0.0
        self.rests = error is None and not (self._writes or self._reads)
        self._recovered(_, error)

    def _start_reads(self) -> None:
        jobs = [self._reads.popleft() for _ in range(min(len(self._reads), BATCH))]
        self._reading = True
        self._read_started = time.monotonic()
        functions = [function for function, _ in jobs]
        self.server.in_pool(
            read, self.database, functions, done=lambda outcomes, error: self._have_read(jobs, outcomes, error),
            timeout=NEVER,
        )  # fmt: skip

    def _have_read(
        self, jobs: list[tuple[Read, Done]], outcomes: list[Outcome] | None, error: BaseException | None
    ) -> None:
        self._reading = False
        for index, (_, done) in enumerate(jobs):
            result, problem = outcomes[index] if outcomes is not None else (None, _as_exception(error))
            if isinstance(problem, Damaged):
                self._report(str(problem))
                self._recover(problem)
            elif isinstance(problem, StorageError):
                self._report(str(problem))
                self._try_later()
            elif problem is not None:
                self.server.report(problem, f"reading from {self.database.path}")
            self._tell(done, result, problem)
        if self.problem:
            self._try_later()
        if self._reads and not self._recovering:
            self._start_reads()

    def _tell(self, done: Done, result: Any, problem: Exception | None) -> None:
        """Call a ``done``; what it raises is kept from the others."""
        try:
            done(result, problem)
        except Exception as error:
            self.server.report(error, f"{self.name}: after a job")

    def _look(self) -> None:
        """Report a disk that hangs."""
        if self.problem:
            return
        before = time.monotonic() - PATIENCE
        if self._writing and self._started < before:
            self._report(f"{self.database.path}: the disk has not taken a write for {PATIENCE:g} s")
        elif self._reading and self._read_started < before:
            self._report(f"{self.database.path}: the disk has not answered a read for {PATIENCE:g} s")
        elif 0 < self._closing_since < before:
            self._report(f"{self.database.path}: the disk has not let it be closed for {PATIENCE:g} s")

    def _report(self, problem: str) -> None:
        if problem != self.problem:
            self.problem = problem
            self.server.condition(self.name, problem or None)
        if self.database.notice:
            self.server.condition(f"{self.name} damaged", self.database.notice)


def commit(database: Database, batch: list[Operation]) -> list[Outcome]:
    """On a pool thread: everything in one transaction, or, when a statement is at fault, each by itself.

    :raises StorageError: the disk did not take it; nothing was written
    """
    try:
        return [(result, None) for result in database.write(lambda connection: act(connection, batch))]
    except StorageError:
        raise
    except Exception:
        return alone(database, batch)


def act(connection: sqlite3.Connection, batch: list[Operation]) -> list[Any]:
    """Do a batch, all items of one function together, in the order in which each function first came.

    What is kept is done in the order in which it came: it may have waited for long, one item for another.
    """
    groups: dict[tuple[Write, int], list[int]] = {}
    last, run = None, 0
    for index, operation in enumerate(batch):
        if operation.keep and operation.function is not last:
            last, run = operation.function, run + 1
        groups.setdefault((operation.function, run if operation.keep else 0), []).append(index)
    results: list[Any] = [None] * len(batch)
    for (function, _), indexes in groups.items():
        outcome = function(connection, [batch[index].item for index in indexes])
        for index, result in zip(indexes, outcome, strict=True):
            results[index] = result
    return results


def alone(database: Database, batch: list[Operation]) -> list[Outcome]:
    """Do each of a batch in a transaction of its own; when the disk refuses one, those behind it are refused too."""
    outcomes: list[Outcome] = []
    refused: StorageError | None = None
    for operation in batch:
        try:
            if refused is None:
                outcomes.append((database.write(lambda connection: act(connection, [operation])[0]), None))  # noqa: B023
            else:
                outcomes.append((None, refused))
        except Exception as error:
            refused = error if isinstance(error, StorageError) else None
            outcomes.append((None, error))
    return outcomes


def read(database: Database, functions: list[Read]) -> list[Outcome]:
    """On a pool thread: do the reads one after the other; one that fails costs the others nothing."""
    outcomes: list[Outcome] = []
    for function in functions:
        try:
            outcomes.append((database.read(function), None))
        except Exception as error:
            outcomes.append((None, error))
    return outcomes


def probe(connection: sqlite3.Connection, items: list[Any]) -> list[Any]:
    """Write something that changes nothing, to see whether the disk takes it."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    connection.execute(f"PRAGMA user_version = {version}")
    return items


def _as_exception(error: BaseException | None) -> Exception:
    return error if isinstance(error, Exception) else StorageError(str(error))
