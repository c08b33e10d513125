"""The key/value tree: collector (PULL), store, updates (XPUB, for SUBs) and snapshots (ROUTER), on the broker's loop.

Losses happen in one place only, on the way to a subscriber that does not keep up, and the heartbeat's counts tell
it (:class:`raspy.common.kvsimple.Heartbeat`). Whatever else is full makes its other end wait: the collector stops
reading, a snapshot keeps its place. An update that is refused is counted and logged, and hurts no other.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator
from time import monotonic

import zmq

from raspy.common import MDP
from raspy.common.executive import Executive, Timer
from raspy.common.kvsimple import (
    BAD_BODY,
    DEVICE,
    HUGZ,
    MOST_FRAMES,
    OTHERS,
    SERVER,
    Heartbeat,
    Life,
    check_key,
    check_life,
    decode_life,
    encode_heartbeat,
    pack,
    stale,
    top,
)
from raspy.common.zhelpers import receiver
from raspy.servers.broker.settings import MESSAGE_LIMIT, BrokerConfig, bind
from raspy.servers.broker.snapshots import SHARED, Route, Snapshots
from raspy.servers.broker.updates import LARGE, Updates

__all__ = ["Proxy", "Route"]

logger = logging.getLogger("raspy.proxy")

BATCH = 300
"""Updates handled before other sockets and timers have their turn: some 3 ms."""
HEARTBEAT = 1.0
"""Seconds between heartbeats, on a busy channel too, for they are how losses are seen."""
SLOTS = 2
"""Slots per second of the wheel of deadlines: a value goes stale at most a second late."""
AGING_PAUSE = 0.002
WALK = 1000
"""Keys looked at for values of servers that are gone before other sockets and timers have their turn."""
GRACE = 1.0
"""Seconds after which a value that came from a server that is gone is stale, unless the server is back by then."""
MOST_GONE = 1024
"""Servers that are remembered as gone."""
STALE = -1.0
"""The deadline of what is stale."""
SMALL = 4096
"""Bytes up to which the next value of a known reading is taken though the tree is full..."""
RESERVE = 4
"""...as long as the tree is not larger than allowed by more than one part in so many."""
NAMED = ("device", "server", "event", "scenario", "variable", "alarm")
"""Subtrees that strangers cannot crowd out of the heartbeat."""
MOST_NAMED = 64
LONGEST_NAME = 64
LOG_INTERVAL = 10.0

WRONG_FRAMES, WRONG_SEQUENCE, WRONG_KEY = "not 3 frames", "the sequence is not 8 bytes", "bad key"
NOT_YOURS, WRONG_BODY, LONG_BODY = "only the broker writes /server/", "not a reading", "body too long"
TREE_FULL, OVERDUE = "the tree is full", "nothing was published in time"


def wall_us() -> int:
    """Microseconds of the wall clock: where sequences begin, so that they rise over restarts for any client."""
    return max(1, time.time_ns() // 1000)


def server_prefix(key: bytes) -> bytes:
    """What all keys of readings of the same server begin with: ``/device/<host>.<server>.``."""
    return key[: key.find(b".", key.find(b".", len(DEVICE)) + 1) + 1]


class Count:
    """The updates of one top-level subtree in this epoch."""

    __slots__ = ("updates",)

    def __init__(self) -> None:
        self.updates = 0


class Entry:
    """What the tree holds of one key."""

    __slots__ = ("body", "count", "deadline", "device", "sequence", "slot")

    def __init__(self, count: Count, device: bool) -> None:
        self.body = b""
        self.sequence = b""
        self.count = count
        self.device = device
        self.deadline = 0.0
        """Monotonic time at which it goes stale; 0: never; :data:`STALE`: it is."""
        self.slot = 0
        """The slot of the wheel that it is in, at or before its deadline's; 0: none."""


class Proxy:
    """The key/value proxy.

    :param loop: the broker's loop, which also says where to bind
    :param hostname: name of the broker's host
    :param settings: bounds: ``tree_keys``, ``tree_bytes``, ``body_bytes``
    """

    def __init__(self, loop: Executive, hostname: str = "localhost", settings: BrokerConfig | None = None) -> None:
        settings = settings or BrokerConfig()
        self.loop = loop
        self.hostname = hostname
        self.tree_keys = settings.tree_keys
        self.tree_bytes = settings.tree_bytes
        self.body_bytes = settings.body_bytes
        self.epoch = wall_us()
        self.sequence = self.epoch
        self.bytes = 0
        """Bytes of all keys and bodies."""
        self.refused: dict[str, int] = {}
        """Refused messages by reason."""
        self.entries: dict[bytes, Entry] = {}
        self.updates = Updates(loop, self._hold, self._beat)
        self.snapshots = Snapshots(self)
        self._keys: list[bytes] | None = None
        self._counts = {name: Count() for name in (*NAMED, OTHERS)}
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
        self._aging: Timer | None = None
        self._log_after = 0.0
        self._unlogged = 0
        self._timers: list[Timer] = []
        self._collector = loop.ctx.socket(zmq.PULL)
        self._receive = receiver(self._collector, MOST_FRAMES)

    def start(self) -> None:
        """Bind the three sockets and begin to serve.

        :raises raspy.common.config.ConfigError: an address is taken or cannot be used
        """
        loop = self.loop
        self.snapshots.start()
        self.updates.start()
        self._collector.linger = 0
        # a connection that sends more is cut, and loses what was under way: hence far above what is refused
        self._collector.setsockopt(zmq.MAXMSGSIZE, MESSAGE_LIMIT)
        bind(self._collector, loop.broker_ip, loop.broker_port, MDP.COLLECTOR)
        loop.register(self._collector, self._collect)
        self._timers = [loop.call_every(HEARTBEAT, self._beat), loop.call_every(1 / SLOTS, self._age)]

    def run(self) -> None:
        """Start, and serve on the loop until that is shut down."""
        self.start()
        self.loop.run()

    def stop(self) -> None:
        """Close the sockets; the tree is lost, and comes again from its publishers. Harmless when repeated."""
        for timer in self._timers:
            timer.cancel()
        if self._aging is not None:
            self._aging.cancel()
        self._gone.clear()
        self.snapshots.stop()
        self.updates.stop()
        self.loop.unregister(self._collector)
        self._collector.close(linger=0)

    shutdown = stop

    def statistics(self) -> dict[str, int]:
        """Counters for people: what the tree holds and what happened to it."""
        return {
            "tree_keys": len(self.entries),
            "tree_bytes": self.bytes,
            "updates": self.sequence - self.epoch,
            "refused_updates": sum(self.refused.values()),
            "left_out_updates": self.updates.left_out,
            "snapshots": len(self.snapshots.routes),
        }

    def keys(self) -> list[bytes]:
        """All keys now. The list is shared and never changed, a later call may answer another."""
        if self._keys is None:
            self._keys = list(self.entries)
        return self._keys

    def update(self, key: str, body: bytes) -> None:
        """Put a value on the tree on the broker's own account; an empty body deletes.

        :raises ProtocolError: bad key, or a body under ``/device/`` that is not a reading
        """
        raw = key.encode()
        life = check_life(body) if raw.startswith(DEVICE) and body else None
        entry = self.entries.get(raw)
        if entry is None:
            if not body:
                return
            entry = self._enter(raw)
        if life is not None:
            self._believe(raw, entry, life, monotonic())
        self._set(raw, entry, body)

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

    def send_single(self, key: bytes, kvmsg: Entry, route: Route) -> None:
        """Send one entry of a snapshot.

        :raises zmq.Again: the reader's queue is full; nothing of the entry was sent
        :raises zmq.ZMQError: EHOSTUNREACH, the reader is gone
        """
        size = len(kvmsg.body)
        shared = size >= SHARED
        if shared and not route.room_for(size):
            raise zmq.Again
        send = route.socket.send
        send(route.identity, 3)
        send(key, 2)
        send(kvmsg.sequence, 2)
        if shared:
            route.hold(send(kvmsg.body, 0, False, True), size)
        else:
            send(kvmsg.body, 0)

    def refuse(self, reason: str, about: bytes) -> None:
        """Count a message that is not taken, and log it if the last was logged long enough ago."""
        self.refused[reason] = self.refused.get(reason, 0) + 1
        self._unlogged += 1
        now = monotonic()
        if now >= self._log_after:
            self._log_after = now + LOG_INTERVAL
            logger.warning("refused %d message(s); the last: %s (%r)", self._unlogged, reason, about[:80])
            self._unlogged = 0

    def _hold(self, full: bool) -> None:
        """Take no updates while a subscriber is full: they wait with their publishers."""
        if full:
            self.loop.unregister(self._collector)
        else:
            self.loop.register(self._collector, self._collect)

    def _collect(self) -> None:
        """Take up to a batch of updates from the collector."""
        receive, entries, waiting = self._receive, self.entries, self.updates.waiting
        now = monotonic()
        for _ in range(BATCH):
            frames = receive()
            if frames is None:
                return
            if len(frames) != 3:
                self.refuse(WRONG_FRAMES, frames[0])
                continue
            key, number, body = frames
            entry = entries.get(key)
            if entry is None or not entry.device or not body or len(number) != 8:
                reason = self._take_unusual(key, number, body, now)
            else:
                reason = self._take_reading(key, entry, body, now)
            if reason:
                self.refuse(reason, key)
            elif waiting:
                return

    def _take_reading(self, key: bytes, entry: Entry, body: bytes, now: float) -> str:
        """Take the next reading of a known device, the usual update; answers why it is refused, or nothing."""
        try:
            life = decode_life(body)
        except BAD_BODY:
            return WRONG_BODY
        size = len(body)
        if size > self.body_bytes:
            return LONG_BODY
        if life.max_age is None and life.quality == "ok":
            return WRONG_BODY
        if size > len(entry.body):
            excess = self.bytes + size - len(entry.body) - self.tree_bytes
            if excess > 0 and (size > SMALL or excess > self.tree_bytes // RESERVE):
                self._spoil(key, entry, TREE_FULL)  # what it was before is not true any more
                return TREE_FULL
        self._believe(key, entry, life, now)
        self._set(key, entry, body)
        return ""

    def _take_unusual(self, key: bytes, number: bytes, body: bytes, now: float) -> str:
        """Take a new key, a deletion, or a key outside ``/device/``; answers why it is refused, or nothing."""
        if len(number) != 8:
            return WRONG_SEQUENCE
        if key.startswith(SERVER):
            return NOT_YOURS
        entry = self.entries.get(key)
        if entry is None:
            try:
                check_key(key)
            except MDP.ProtocolError:
                return WRONG_KEY
            if not body:
                return ""
            if len(self.entries) >= self.tree_keys or self.bytes + len(key) + len(body) > self.tree_bytes:
                return TREE_FULL
        elif body and self.bytes + len(body) - len(entry.body) > max(self.tree_bytes, self.bytes):
            return TREE_FULL
        if len(body) > self.body_bytes:
            return LONG_BODY
        life = None
        if body and key.startswith(DEVICE):
            try:
                life = check_life(body)
            except MDP.ProtocolError:
                return WRONG_BODY
        if entry is None:
            entry = self._enter(key)
        if life is not None:
            self._believe(key, entry, life, now)
        self._set(key, entry, body)
        return ""

    def _believe(self, key: bytes, entry: Entry, life: Life, now: float) -> None:
        """Note how long the value that an entry gets now may be believed."""
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
                    self.loop.call_later(GRACE, self._condemn_late)
                self._late.add(prefix)

    def _enter(self, key: bytes) -> Entry:
        """A new entry in the tree.

        :raises ProtocolError: bad key
        """
        name = top(check_key(key))
        count = self._counts.get(name)
        if count is None:
            if len(self._counts) <= MOST_NAMED and len(name) <= LONGEST_NAME:
                count = self._counts[name] = Count()
            else:
                count = self._counts[OTHERS]
        entry = self.entries[key] = Entry(count, key.startswith(DEVICE))
        self.bytes += len(key)
        self._keys = None
        return entry

    def _set(self, key: bytes, entry: Entry, body: bytes) -> None:
        """Give an entry its next value and publish it: the only way that the tree changes."""
        self.sequence = number = self.sequence + 1
        entry.count.updates += 1
        self.bytes += len(body) - len(entry.body)
        entry.sequence = sequence = pack(number)
        entry.body = body
        if not body:
            self._remove(key, entry)
        if self.updates.waiting or len(body) >= LARGE:
            self.updates.publish(key, sequence, body)
            return
        # 3 is SNDMORE and DONTWAIT, 2 SNDMORE: joining the enums costs more than the sending
        send = self.updates.send
        try:
            send(key, 3)
        except zmq.Again:
            self.updates.publish(key, sequence, body)
            return
        send(sequence, 2)
        send(body, 0)

    def _remove(self, key: bytes, entry: Entry) -> None:
        del self.entries[key]
        self._unschedule(key, entry)
        self.bytes -= len(key)
        self._keys = None

    def _beat(self) -> None:
        """Publish a heartbeat."""
        self.updates.end_lossy()
        counts = {name: count.updates for name, count in self._counts.items() if count.updates or name != OTHERS}
        self.updates.publish(HUGZ, pack(self.sequence), encode_heartbeat(Heartbeat(self.epoch, counts)))

    def _schedule(self, key: bytes, entry: Entry) -> None:
        """Put an entry into the slot of its deadline. It is in one slot only, so memory does not grow."""
        self._unschedule(key, entry)
        entry.slot = slot = int(entry.deadline * SLOTS)
        bucket = self._wheel.get(slot)
        if bucket is None:
            bucket = self._wheel[slot] = set()
        bucket.add(key)

    def _unschedule(self, key: bytes, entry: Entry) -> None:
        bucket = self._wheel.get(entry.slot)
        if bucket is not None:
            bucket.discard(key)
            if not bucket:
                del self._wheel[entry.slot]
        entry.slot = 0

    def _age(self) -> None:
        """Look at the slots that have passed: what was published since has a later deadline by now."""
        now = monotonic()
        while self._slot < int(now * SLOTS):
            for key in self._wheel.pop(self._slot, ()):
                entry = self.entries[key]
                entry.slot = 0
                if entry.deadline > now:
                    self._schedule(key, entry)
                elif entry.deadline > 0:
                    self._overdue.append((key, entry.sequence))
            self._slot += 1
        if self._aging is None:
            self._age_some()

    def _condemn(self, prefix: bytes) -> None:
        """Make stale, soon, what stands below a prefix now. However often that is asked for, one walk does it."""
        self._condemned[prefix] = pack(self.sequence)
        if self._aging is None:
            self._aging = self.loop.call_later(0.0, self._age_some)

    def _condemn_late(self) -> None:
        """Values that were under way when their server went have come since; or it is back, and they are new."""
        late, self._late = self._late, set()
        for prefix in late:
            if prefix in self._gone:
                self._condemn(prefix)

    def _age_some(self) -> None:
        """Make some values stale. Nothing that goes wrong with one of them may keep the others from their turn."""
        self._aging = None
        try:
            self._age_batch()
        finally:
            if self._overdue or self._round or self._condemned:
                self._aging = self.loop.call_later(AGING_PAUSE, self._age_some)

    def _age_batch(self) -> None:
        """Publish some values as stale: those whose time is over, then those of servers that are gone."""
        entries, waiting = self.entries, self.updates.waiting
        left = BATCH
        while self._overdue and left and not waiting:
            left -= 1
            key, sequence = self._overdue.popleft()
            entry = entries.get(key)
            if entry is not None and entry.sequence == sequence:
                self._spoil(key, entry, OVERDUE)
        if not self._round:
            self._round, self._condemned = self._condemned, {}
            self._walk = iter(self.keys() if self._round else ())
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
                self._spoil(key, entry, f"server {prefix[len(DEVICE) : -1].decode()} is gone")

    def _spoil(self, key: bytes, entry: Entry, reason: str) -> None:
        """Make a value stale, unless it is."""
        if entry.deadline != STALE:
            entry.deadline = STALE
            self._set(key, entry, stale(entry.body, reason))
