"""How long the values of the tree are believed: each for its max_age, and no longer than its server is there."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from time import monotonic
from typing import TYPE_CHECKING

from raspy.common.executive import Executive, Timer
from raspy.common.kvsimple import DEVICE, Life, stale

if TYPE_CHECKING:
    from raspy.servers.broker.proxy import Entry

BATCH = 300
"""Values made stale before other sockets and timers have their turn: some 3 ms."""
SLOTS = 2
"""Slots per second of the wheel of deadlines: a value goes stale at most a second late."""
PAUSE = 0.002
"""Seconds until the next batch."""
WALK = 1000
"""Keys looked at for values of servers that are gone before other sockets and timers have their turn."""
GRACE = 1.0
"""Seconds after which a value that came from a server that is gone is stale, unless the server is back by then."""
MOST_GONE = 1024
"""Servers that are remembered as gone."""
STALE = -1.0
"""The deadline (monotonic, s) of what is stale."""
OVERDUE = "nothing was published in time"


def server_prefix(key: bytes) -> bytes:
    """What all keys of readings of the same server begin with: ``/device/<host>.<server>.``."""
    return key[: key.find(b".", key.find(b".", len(DEVICE)) + 1) + 1]


class Aging:
    """Makes values stale, some at a time, when their time is over or their server is gone.

    :param loop: the broker's loop
    :param entries: the tree, as it is at any time
    :param last: answers the sequence of the tree's last update
    :param waiting: updates that cannot be sent yet; while there are any, no value is made stale
    :param publish: called with a key, its entry and the next body of it
    """

    def __init__(
        self,
        loop: Executive,
        entries: dict[bytes, Entry],
        last: Callable[[], bytes],
        waiting: Collection[object],
        publish: Callable[[bytes, Entry, bytes], None],
    ) -> None:
        self._loop = loop
        self._entries = entries
        self._last = last
        self._waiting = waiting
        self._publish = publish
        self._wheel: dict[int, set[bytes]] = {}
        self._slot = int(monotonic() * SLOTS)
        self._overdue: deque[tuple[bytes, bytes]] = deque()
        """Keys whose time was over, and the sequences that they had then."""
        self._gone: dict[bytes, None] = {}
        """The servers that are gone, by what their keys begin with; the last one that went is at the end."""
        self._late: set[bytes] = set()
        """Those of them that have published since."""
        self._condemned: dict[bytes, bytes] = {}
        """By what keys begin with: the last sequence of those values that are to be made stale."""
        self._round: dict[bytes, bytes] = {}
        """Those for which the keys are walked over now."""
        self._walk: Iterator[bytes] = iter(())
        self._next: Timer | None = None
        self._tick: Timer | None = None

    @property
    def busy(self) -> bool:
        """Whether there are values that are to be made stale as soon as their turn comes."""
        return self._next is not None

    def start(self) -> None:
        """Begin to look at deadlines."""
        self._tick = self._loop.call_every(1 / SLOTS, self._age)

    def stop(self) -> None:
        """Make nothing stale any more. Harmless when repeated."""
        for timer in (self._tick, self._next):
            if timer is not None:
                timer.cancel()
        self._gone.clear()

    def believe(self, key: bytes, entry: Entry, life: Life, now: float) -> None:
        """Note how long the value that an entry gets now may be believed.

        :param now: the monotonic time
        """
        if life.quality == "stale":
            entry.deadline = STALE
        elif life.max_age is None:
            entry.deadline = 0.0
        else:
            entry.deadline = deadline = now + life.max_age
            if not entry.slot or int(deadline * SLOTS) < entry.slot:
                self._schedule(key, entry)
        if self._gone:
            prefix = server_prefix(key)
            if prefix in self._gone:
                if not self._late:
                    self._loop.call_later(GRACE, self._condemn_late)
                self._late.add(prefix)

    def forget(self, key: bytes, entry: Entry) -> None:
        """Take an entry out of its slot, if it is in one."""
        bucket = self._wheel.get(entry.slot)
        if bucket is not None:
            bucket.discard(key)
            if not bucket:
                del self._wheel[entry.slot]
        entry.slot = 0

    def spoil(self, key: bytes, entry: Entry, reason: str) -> None:
        """Make a value stale now, unless it is."""
        if entry.deadline != STALE:
            entry.deadline = STALE
            self._publish(key, entry, stale(entry.body, reason))

    def server_gone(self, name: str) -> None:
        """Every value of the server ``<host>.<server>`` is stale from now on, and so is what still comes from it."""
        prefix = DEVICE + name.encode() + b"."
        self._gone.pop(prefix, None)
        self._gone[prefix] = None
        if len(self._gone) > MOST_GONE:
            del self._gone[next(iter(self._gone))]
        self._condemn(prefix)

    def server_back(self, name: str) -> None:
        """The server ``<host>.<server>`` is there (again): what it publishes is believed."""
        self._gone.pop(DEVICE + name.encode() + b".", None)

    def _schedule(self, key: bytes, entry: Entry) -> None:
        """Put an entry into the slot of its deadline. It is in one slot only, so memory does not grow."""
        self.forget(key, entry)
        entry.slot = slot = int(entry.deadline * SLOTS)
        bucket = self._wheel.get(slot)
        if bucket is None:
            bucket = self._wheel[slot] = set()
        bucket.add(key)

    def _age(self) -> None:
        """Look at the slots that have passed: what was published since has a later deadline by now."""
        now = monotonic()
        while self._slot < int(now * SLOTS):
            for key in self._wheel.pop(self._slot, ()):
                entry = self._entries[key]
                entry.slot = 0
                if entry.deadline > now:
                    self._schedule(key, entry)
                elif entry.deadline > 0:
                    self._overdue.append((key, entry.sequence))
            self._slot += 1
        if self._next is None:
            self._age_some()

    def _condemn(self, prefix: bytes) -> None:
        """Make stale, soon, what stands below a prefix now. However often that is asked for, one walk does it."""
        self._condemned[prefix] = self._last()
        if self._next is None:
            self._next = self._loop.call_later(0.0, self._age_some)

    def _condemn_late(self) -> None:
        """Values that were under way when their server went have come since; or it is back, and they are new."""
        late, self._late = self._late, set()
        for prefix in late:
            if prefix in self._gone:
                self._condemn(prefix)

    def _age_some(self) -> None:
        """Make some values stale. Nothing that goes wrong with one of them may keep the others from their turn."""
        self._next = None
        try:
            self._age_batch()
        finally:
            if self._overdue or self._round or self._condemned:
                self._next = self._loop.call_later(PAUSE, self._age_some)

    def _age_batch(self) -> None:
        """Publish some values as stale: those whose time is over, then those of servers that are gone."""
        entries, waiting = self._entries, self._waiting
        left = BATCH
        while self._overdue and left and not waiting:
            left -= 1
            key, sequence = self._overdue.popleft()
            entry = entries.get(key)
            if entry is not None and entry.sequence == sequence:
                self.spoil(key, entry, OVERDUE)
        if not self._round:
            self._round, self._condemned = self._condemned, {}
            self._walk = iter(list(entries) if self._round else ())
        for _ in range(WALK):
            if not left or waiting:
                return
            key = next(self._walk, b"")
            if not key:
                self._round = {}
                return
            prefix = server_prefix(key)
            last = self._round.get(prefix)
            entry = entries.get(key) if last is not None else None
            if entry is not None and last is not None and entry.sequence <= last and entry.deadline != STALE:
                left -= 1
                self.spoil(key, entry, f"server {prefix[len(DEVICE) : -1].decode()} is gone")
