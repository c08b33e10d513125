"""The key/value tree: collector (PULL), store, updates (XPUB, for SUBs) and snapshots (ROUTER), on the broker's loop.

Losses happen in one place only, on the way to a subscriber that does not keep up, and the heartbeat's counts tell
it (:class:`raspy.common.kvsimple.Heartbeat`). Whatever else is full makes its other end wait: the collector stops
reading, a snapshot keeps its place. An update that is refused is counted and logged, and hurts no other.
"""

from __future__ import annotations

import logging
import time
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
    check_key,
    check_life,
    decode_life,
    encode_heartbeat,
    pack,
    top,
)
from raspy.servers.broker.aging import Aging
from raspy.servers.broker.door import Door
from raspy.servers.broker.rules import may_publish
from raspy.servers.broker.settings import MESSAGE_LIMIT, BrokerConfig
from raspy.servers.broker.shares import Share, Shares
from raspy.servers.broker.snapshots import SHARED, Route, Snapshots
from raspy.servers.broker.updates import LARGE, Updates

__all__ = ["Proxy", "Route"]

logger = logging.getLogger("raspy.proxy")

BATCH = 300
"""Updates handled before other sockets and timers have their turn: some 3 ms."""
HEARTBEAT = 1.0
"""Seconds between heartbeats, on a busy channel too, for they are how losses are seen."""
SMALL = 4096
"""Bytes up to which the next value of a known reading is taken though the tree is full..."""
RESERVE = 4
"""...as long as the tree is not larger than allowed by more than one part in so many."""
NAMED = ("device", "server", "event", "scenario", "variable", "alarm")
"""Subtrees that strangers cannot crowd out of the heartbeat."""
MOST_NAMED = 64
LONGEST_NAME = 64
LOG_INTERVAL = 10.0
"""Seconds between lines of the log on what is dropped."""

WRONG_FRAMES, WRONG_SEQUENCE, WRONG_KEY = "not 3 frames", "the sequence is not 8 bytes", "bad key"
NOT_YOURS, WRONG_BODY, LONG_BODY = "only the broker writes /server/", "not a reading", "body too long"
TREE_FULL, SHARE_FULL = "the tree is full", "its host's share of the tree is full"


def wall_us() -> int:
    """Microseconds of the wall clock: where sequences begin, so that they rise over restarts for any client."""
    return max(1, time.time_ns() // 1000)


class Count:
    """The updates of one top-level subtree in this epoch."""

    __slots__ = ("updates",)

    def __init__(self) -> None:
        self.updates = 0


class Entry:
    """What the tree holds of one key."""

    __slots__ = ("body", "count", "deadline", "device", "sequence", "share", "slot")

    def __init__(self, count: Count, device: bool, share: Share | None) -> None:
        self.body = b""
        self.sequence = b""
        self.count = count
        self.device = device
        self.share = share
        """Of the host that put it on the tree; None: this one."""
        self.deadline = 0.0
        """Monotonic time at which it goes stale; 0: never; :data:`~raspy.servers.broker.aging.STALE`: it is."""
        self.slot = 0
        """The slot of the wheel that it is in, at or before its deadline's; 0: none."""


class Proxy:
    """The key/value proxy.

    :param loop: the broker's loop, which also says where to bind
    :param hostname: name of the broker's host
    :param settings: bounds: ``tree_keys``, ``tree_bytes``, ``body_bytes``
    :param door: who may come from other machines; left out: nobody
    """

    def __init__(
        self,
        loop: Executive,
        hostname: str = "localhost",
        settings: BrokerConfig | None = None,
        door: Door | None = None,
    ) -> None:
        settings = settings or BrokerConfig()
        self.loop = loop
        self.door = door or Door(loop)
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
        self.updates = Updates(self.door, self._hold, self._beat)
        self.snapshots = Snapshots(self)
        self.aging = Aging(loop, self.entries, lambda: pack(self.sequence), self.updates.waiting, self._set)
        self.shares = Shares(self)
        self._keys: list[bytes] | None = None
        self._counts = {name: Count() for name in (*NAMED, OTHERS)}
        self._log_after = 0.0
        self._unlogged = 0
        self._heartbeat: Timer | None = None
        self._collector = loop.ctx.socket(zmq.PULL)
        self._receive = self.door.receiver(self._collector, MOST_FRAMES, may_publish)

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
        self.door.bind(self._collector, MDP.COLLECTOR)
        loop.register(self._collector, self._collect)
        self._heartbeat = loop.call_every(HEARTBEAT, self._beat)
        self.aging.start()

    def run(self) -> None:
        """Start, and serve on the loop until that is shut down."""
        self.start()
        self.loop.run()

    def stop(self) -> None:
        """Close the sockets; the tree is lost, and comes again from its publishers. Harmless when repeated."""
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        self.aging.stop()
        self.snapshots.stop()
        self.updates.stop()
        self.loop.unregister(self._collector)
        self.door.leave(self._collector)
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

        :raises raspy.common.MDP.ProtocolError: bad key, or a body under ``/device/`` that is not a reading
        """
        raw = key.encode()
        life = check_life(body) if raw.startswith(DEVICE) and body else None
        entry = self.entries.get(raw)
        if entry is None:
            if not body:
                return
            entry = self._enter(raw)
        if life is not None:
            self.aging.believe(raw, entry, life, monotonic())
        self._set(raw, entry, body)

    def server_gone(self, name: str) -> None:
        """Every value of the server ``<host>.<server>`` is stale from now on, and so is what still comes from it."""
        self.aging.server_gone(name)

    def server_back(self, name: str) -> None:
        """The server ``<host>.<server>`` is there (again): what it publishes is believed."""
        self.aging.server_back(name)

    def delete(self, key: bytes, entry: Entry) -> None:
        """Take an entry from the tree."""
        self._set(key, entry, b"")

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
                self.aging.spoil(key, entry, TREE_FULL)  # what it was before is not true any more
                return TREE_FULL
            share = entry.share
            if share is not None and size > SMALL and not self.shares.has_room(share, 0, size - len(entry.body)):
                self.aging.spoil(key, entry, SHARE_FULL)
                return SHARE_FULL
        self.aging.believe(key, entry, life, now)
        self._set(key, entry, body)
        return ""

    def _take_unusual(self, key: bytes, number: bytes, body: bytes, now: float) -> str:
        """Take a new key, a deletion, or a key outside ``/device/``; answers why it is refused, or nothing."""
        if len(number) != 8:
            return WRONG_SEQUENCE
        if key.startswith(SERVER):
            return NOT_YOURS
        entry = self.entries.get(key)
        share = None
        if entry is None:
            try:
                check_key(key)
            except MDP.ProtocolError:
                return WRONG_KEY
            if not body:
                return ""
            if len(self.entries) >= self.tree_keys or self.bytes + len(key) + len(body) > self.tree_bytes:
                return TREE_FULL
            share = self.shares.speaker()
            if share is not None and not self.shares.has_room(share, 1, len(key) + len(body)):
                return SHARE_FULL
        elif body and self.bytes + len(body) - len(entry.body) > max(self.tree_bytes, self.bytes):
            return TREE_FULL
        elif (
            entry.share is not None
            and len(body) > max(SMALL, len(entry.body))
            and not self.shares.has_room(entry.share, 0, len(body) - len(entry.body))
        ):
            return SHARE_FULL
        if len(body) > self.body_bytes:
            return LONG_BODY
        life = None
        if body and key.startswith(DEVICE):
            try:
                life = check_life(body)
            except MDP.ProtocolError:
                return WRONG_BODY
        if entry is None:
            entry = self._enter(key, share)
        if life is not None:
            self.aging.believe(key, entry, life, now)
        self._set(key, entry, body)
        return ""

    def _enter(self, key: bytes, share: Share | None = None) -> Entry:
        """A new entry in the tree.

        :raises raspy.common.MDP.ProtocolError: bad key
        """
        name = top(check_key(key))
        count = self._counts.get(name)
        if count is None:
            if len(self._counts) <= MOST_NAMED and len(name) <= LONGEST_NAME:
                count = self._counts[name] = Count()
            else:
                count = self._counts[OTHERS]
        entry = self.entries[key] = Entry(count, key.startswith(DEVICE), share)
        self.bytes += len(key)
        if share is not None:
            share.keys += 1
            share.bytes += len(key)
        self._keys = None
        return entry

    def _set(self, key: bytes, entry: Entry, body: bytes) -> None:
        """Give an entry its next value and publish it: the only way that the tree changes."""
        self.sequence = number = self.sequence + 1
        entry.count.updates += 1
        more = len(body) - len(entry.body)
        self.bytes += more
        if entry.share is not None:
            entry.share.bytes += more
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
        self.aging.forget(key, entry)
        self.bytes -= len(key)
        if entry.share is not None:
            entry.share.keys -= 1
            entry.share.bytes -= len(key)
        self._keys = None

    def _beat(self) -> None:
        """Publish a heartbeat."""
        self.updates.end_lossy()
        counts = {name: count.updates for name, count in self._counts.items() if count.updates or name != OTHERS}
        self.updates.publish(HUGZ, pack(self.sequence), encode_heartbeat(Heartbeat(self.epoch, counts)))
