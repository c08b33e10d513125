"""Whatever the order in which disk, logger and broker answer, fail and go: what is kept is never lost uncounted."""

from __future__ import annotations

import json
import sqlite3
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from raspy.common import MDP
from raspy.common.database import StorageError
from raspy.common.devices.value import Value
from raspy.common.outbox import delivery, file, outbox
from raspy.common.server import Server
from raspy.common.storage import Operation, act
from tests.common.outbox_stage import KEY, Clock
from tests.support_devices import short_directory

MOST = 12
"""Readings that there may be in the file."""
OK = [b'{"kept":1}', MDP.OK]


class Disk:
    """A storage whose commits and answers come when the test says."""

    def __init__(self, server: Server, database: object, name: str) -> None:
        self.problem = ""
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.connection.execute(file.SCHEMAS[0][0])
        self.waiting: list[Operation] = []
        self.untold: deque[list[tuple[Operation, Any, Exception | None]]] = deque()
        self.unread: list[tuple[Callable[[sqlite3.Connection], Any], Any]] = []
        self.untold_reads: list[tuple[Any, Any]] = []
        self.rests = self.closing = False

    def __del__(self) -> None:
        self.connection.close()

    def rest(self) -> None:
        busy = self.waiting or self.untold or self.unread or self.untold_reads
        self.closing = self.closing or not (busy or self.problem or self.rests)

    def deleted(self) -> None:
        """It is closed and deleted, with what is in it; those wait that came meanwhile."""
        self.connection.execute("DELETE FROM reading")
        self.closing = False
        self.rests = not (self.waiting or self.unread)

    def write(self, function: Any, item: Any, done: Any, keep: bool = False) -> None:
        self.rests = False
        self.waiting.append(Operation(function, item, done, keep))

    def read(self, function: Any, done: Any) -> None:
        self.rests = False
        self.unread.append((function, done))

    def commit(self, good: bool) -> None:
        """One transaction with all that waits; what must be kept waits on if the disk refuses."""
        batch = self.waiting
        if self.problem and any(operation.keep for operation in batch):
            batch = [operation for operation in batch if operation.keep]
        self.waiting = [operation for operation in self.waiting if operation not in batch]
        if good:
            results = act(self.connection, batch)
            self.untold.append([(op, result, None) for op, result in zip(batch, results, strict=True)])
        else:
            self.untold.append([(op, None, StorageError("refused")) for op in batch if not op.keep])
            self.waiting = [op for op in batch if op.keep] + self.waiting

    def tell(self) -> None:
        """The answers to the oldest commit."""
        told = self.untold.popleft()
        self.problem = "refused" if any(error for *_, error in told) else ""
        for operation, result, error in told:
            operation.done(result, error)

    def look(self) -> None:
        """Do the oldest read, which is answered later."""
        function, done = self.unread.pop(0)
        self.untold_reads.append((done, function(self.connection)))

    def limbo(self) -> list[float | None]:
        """Values of readings that are to be written, or were not, and nobody was told."""
        lost = [operation for told in self.untold for operation, _, error in told if error]
        items = [op.item for op in (*self.waiting, *lost) if op.function is file.write]
        return [reading.value for batch in items for reading in batch.readings]

    @property
    def dropped(self) -> int:
        """Readings that were dropped, of which nobody was told."""
        results = (result for told in self.untold for op, result, _ in told if op.function is file.write)
        return sum(result.dropped for result in results if result is not None)

    def rows(self, sent: int) -> list[float]:
        """Values in the file behind a number."""
        return [value for (value,) in self.connection.execute("SELECT value FROM reading WHERE id > ?", (sent,))]

    def close(self, is_empty: object) -> None:
        """Nothing is written any more."""


class Caller:
    """The way to a logger that answers when the test says."""

    def __init__(self) -> None:
        self.call_waits: tuple[list[bytes], Any] | None = None

    def call(self, service: str, body: list[bytes], done: Any, *_: Any) -> None:
        assert self.call_waits is None
        self.call_waits = body, done

    def close(self) -> None:
        self.call_waits = None


class Machine(RuleBasedStateMachine):
    """An outbox, and what it has promised."""

    @initialize(trusted=st.booleans())
    def start(self, trusted: bool) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(file, "Storage", Disk)
        self.patch.setattr(delivery, "BATCH", 3)
        for name, value in (("RECENT", 4), ("IN_MEMORY", 4), ("MOST_IN_MEMORY", 8), ("SPILL", 0.0), ("SETTLE", 0.0)):
            self.patch.setattr(outbox, name, value)
        self.room = short_directory()
        directory = self.room.__enter__()
        self.server = Server("shed", "onewire", f"ipc://{directory}")
        self.clock = Clock(trusted)
        self.box = outbox.Outbox(self.server, directory, MOST, self.clock)
        self.caller = Caller()
        self.box.delivery = delivery.Delivery(self.box)
        self.box.delivery._caller = self.caller  # type: ignore[assignment]
        self.number = 0
        self.promised: set[float] = set()
        self.logged: set[float] = set()

    @property
    def disk(self) -> Disk | None:
        return self.box.file.storage if self.box.file is not None else None  # type: ignore[return-value]

    @rule(count=st.integers(1, 5))
    def publish(self, count: int) -> None:
        for _ in range(count):
            self.number += 1
            if self.box.keeping:
                self.promised.add(self.number)
            self.box.take(KEY, Value.ok(float(self.number), "", 30, self.clock.wall(), True).encode())

    @rule(there=st.booleans())
    def connect(self, there: bool) -> None:
        if there is not self.box.connected:
            self.box.connected_changed(there)
            if not self.box.keeping:
                # The first connection, for which the publisher has them all.
                self.promised.difference_update(reading.value or 0 for reading in self.box._recent)

    @rule(pid=st.integers(0, 2))
    def logger(self, pid: int) -> None:
        """None, or one or the other."""
        loggers = self.box.loggers
        loggers.there = frozenset({("pi.logger", pid, 0)} if pid else ())
        loggers.seen = loggers.seen or bool(pid)
        self.box._loggers_changed()

    @rule()
    def clock_is_set(self) -> None:
        self.clock.right = True

    @rule()
    def look(self) -> None:
        self.box._look()

    @rule()
    def bring(self) -> None:
        found = self.box.delivery
        assert found is not None
        if found._timer is not None:
            found._timer.cancel()
            found._go()

    @precondition(lambda self: self.disk and self.disk.closing)
    @rule()
    def disk_closes(self) -> None:
        assert self.disk
        self.disk.deleted()

    @precondition(lambda self: self.disk and self.disk.waiting and not self.disk.closing)
    @rule(good=st.booleans())
    def disk_writes(self, good: bool) -> None:
        assert self.disk
        self.disk.commit(good)

    @precondition(lambda self: self.disk and self.disk.untold)
    @rule()
    def disk_tells(self) -> None:
        assert self.disk
        self.disk.tell()

    @precondition(lambda self: self.disk and self.disk.unread and not self.disk.closing)
    @rule()
    def disk_reads(self) -> None:
        assert self.disk
        self.disk.look()

    @precondition(lambda self: self.disk and self.disk.untold_reads)
    @rule(good=st.booleans())
    def disk_gives(self, good: bool) -> None:
        assert self.disk
        done, found = self.disk.untold_reads.pop(0)
        done(found if good else None, None if good else StorageError("cannot be read"))

    @precondition(lambda self: self.caller.call_waits)
    @rule(takes=st.booleans(), answer=st.sampled_from(["ok", "nothing", "busy", "bad", "refused"]))
    def logger_answers(self, takes: bool, answer: str) -> None:
        assert self.caller.call_waits
        (_, *more), done = self.caller.call_waits
        self.caller.call_waits = None
        if not more:
            done([b"pi.logger.log", MDP.OK] if answer == "ok" else None)
            return
        values = {row[3] for row in json.loads(more[0])["rows"]}
        if answer == "ok" or (takes and answer == "nothing"):
            self.logged |= values
        counts = json.dumps({"kept": 0, "refused": len(values)}).encode()
        replies = {"ok": OK, "busy": [b"", MDP.UNAVAILABLE], "bad": [b"", MDP.BAD_REQUEST], "refused": [counts, MDP.OK]}
        done(replies.get(answer))

    @invariant()
    def nothing_is_lost_uncounted(self) -> None:
        memory = [reading.value for reading in (*self.box.readings, *self.box.flying)]
        stored = self.disk.rows(self.box.file._sent) if self.disk and self.box.file else []
        limbo = self.disk.limbo() if self.disk else []
        self.promised.update(value for value in memory if value is not None)
        lost = self.promised - {*memory, *stored, *limbo} - self.logged
        counted = self.box.dropped.value + self.box.refused.value + (self.disk.dropped if self.disk else 0)
        assert len(lost) <= counted, sorted(lost)
        assert len(memory) <= outbox.MOST_IN_MEMORY
        if not limbo and not (self.disk and self.disk.untold):
            told = self.box.file is None or self.box.file.waiting >= 0
            assert not told or self.box.waiting == len(memory) + len(stored)

    def teardown(self) -> None:
        if not hasattr(self, "patch"):
            return
        try:
            self.connect(True)
            self.logger(1)
            for _ in range(30):
                self.look()
                self.bring()
                while disk := self.disk:
                    if disk.closing:
                        disk.deleted()
                    if not disk.waiting and not disk.untold:
                        disk.problem = ""  # as it is tried again
                    if disk.waiting:
                        disk.commit(True)
                    if disk.untold:
                        disk.tell()
                    elif disk.unread:
                        disk.look()
                    elif disk.untold_reads:
                        self.disk_gives(True)
                    else:
                        break
                if self.caller.call_waits:
                    self.logger_answers(True, "ok")
                self.nothing_is_lost_uncounted()
            assert self.box.waiting == 0
            lost = len(self.promised - self.logged)
            assert lost <= self.box.dropped.value + self.box.refused.value
        finally:
            self.box.stop()
            self.server.destroy()
            self.room.__exit__(None, None, None)
            self.patch.undo()


TestOutbox = Machine.TestCase
TestOutbox.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
