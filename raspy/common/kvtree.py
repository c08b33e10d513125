"""A subscriber's copy of a subtree: what to do with updates, snapshots and heartbeats. No sockets, no clock.

How the copy becomes exact, and stays so:

* Updates come in the Proxy's order, some may be lost. The heartbeat travels among them and counts the updates of
  the subtree: whoever received another number since the heartbeat before has lost some, and takes a snapshot.
* A snapshot is asked for only after a heartbeat came, so the subscription stands, and whatever is published
  after the snapshot began also comes as an update, or is missed in the count.
* Updates are taken while a snapshot comes in. Each key keeps the highest sequence seen, so an entry and an update
  of one key may come in either order. A key the snapshot lacks is gone unless it changed after the snapshot began.
* Another epoch is another Proxy, whose numbers say nothing about the old ones: everything held is unproven.
"""

from __future__ import annotations

from collections.abc import Callable

from raspy.common.kvsimple import OTHERS, Heartbeat, top

Changed = Callable[[str, bytes], None]
MOST_DELETED = 65_536
"""Deletions remembered while a snapshot comes in; beyond them it is taken again."""
UNPROVEN = -1
"""The sequence of a key that was held before the epoch began."""


class Replica:
    """The exact copy of all keys that begin with ``subtree``.

    One whole component with or without a slash at its end (``/device``) means that top-level subtree; below it,
    and for keys that have no leading slash, a subtree is a plain prefix.

    :param subtree: the prefix; empty: everything
    :param on_change: called with key and body (empty: deleted) after each change of :attr:`tree`
    """

    def __init__(self, subtree: str, on_change: Changed) -> None:
        if subtree.startswith("/") and len(subtree) > 1 and subtree.find("/", 1) < 0:
            subtree += "/"
        self.subtree = subtree
        self.tree: dict[str, bytes] = {}
        self.epoch: int | None = None
        self.wants_snapshot = False
        """A snapshot must be taken; the answer to this is :meth:`begin`."""
        self.taken = 0
        """Snapshots that were completed."""
        self._top = top(subtree)
        self.topic = "" if self._top == OTHERS else f"/{self._top}/"
        """What to subscribe to: the whole top-level subtree, so that its updates can be counted."""
        self._on_change = on_change
        self._versions: dict[str, int] = {}
        self._last = 0
        self._received = 0
        self._counted = 0
        self._entries: dict[str, tuple[int, bytes]] | None = None
        self._deleted: dict[str, int] = {}
        self._again = False
        self._settled = True

    @property
    def exact(self) -> bool:
        """No loss is known, and a snapshot of this epoch was taken."""
        return self.epoch is not None and not self.wants_snapshot and self._entries is None

    def update(self, key: str, sequence: int, body: bytes) -> None:
        """Take an update; what is not newer than the channel has already been is a repeat, and ignored."""
        if self.epoch is None or sequence <= self._last or not key.startswith(self.topic):
            return
        self._last = sequence
        self._received += 1
        if not key.startswith(self.subtree) or sequence <= self._versions.get(key, UNPROVEN):
            return
        if not body and self._entries is not None:
            if len(self._deleted) < MOST_DELETED:
                self._deleted[key] = sequence
            else:
                self._again = True
        self._put(key, sequence, body)

    def heartbeat(self, sequence: int, heartbeat: Heartbeat) -> None:
        """Compare with what was received; may set :attr:`wants_snapshot`."""
        # a subtree the Proxy has no name for shares one number with others: then a change of any other
        # costs a needless snapshot, and a loss is still never missed
        named = heartbeat.count.get(self._top, heartbeat.count.get(OTHERS, 0))
        count = named if self.topic else sequence
        if heartbeat.epoch != self.epoch:
            self._new_epoch(heartbeat.epoch)
        elif sequence < self._last:
            return
        elif count - self._counted != self._received:
            if self._entries is None:
                self.wants_snapshot = True
            else:
                self._again = True
        self._last = sequence
        self._counted = count
        self._received = 0

    def begin(self) -> None:
        """A snapshot is asked for now; what an earlier one brought is forgotten."""
        self.wants_snapshot = False
        self._again = False
        self._entries = {}
        self._deleted = {}

    def entry(self, key: str, sequence: int, body: bytes) -> None:
        """Take one entry of the snapshot."""
        if self._entries is not None and key.startswith(self.subtree):
            self._entries[key] = (sequence, body)

    def finish(self, sequence: int) -> None:
        """The snapshot is complete. Only what differs from the copy is a change.

        :param sequence: the Proxy's when the snapshot began; entries may be newer, never older
        """
        entries, self._entries = self._entries, None
        if entries is None:
            return
        self.wants_snapshot = self._again
        self.taken += 1
        for key in [key for key in self.tree if key not in entries]:
            version = self._versions[key]
            if version <= sequence and (version != UNPROVEN or self._settled):
                self._put(key, sequence, b"")
        for key, (number, body) in entries.items():
            if number > max(self._versions.get(key, UNPROVEN), self._deleted.get(key, UNPROVEN)):
                if self.tree.get(key) == body:
                    self._versions[key] = number
                else:
                    self._put(key, number, body)
        self._deleted = {}

    def settle(self) -> None:
        """The publishers had time to send their state to the new Proxy: what it still lacks is gone."""
        self._settled = True
        if self.exact:
            for key in [key for key, version in self._versions.items() if version == UNPROVEN]:
                self._put(key, UNPROVEN, b"")

    def _new_epoch(self, epoch: int) -> None:
        """Keep what is held until the publishers sent their state again, lest all of it vanish and come back."""
        self._settled = self.epoch is None
        self.epoch = epoch
        self._versions = dict.fromkeys(self.tree, UNPROVEN)
        self._entries = None
        self._deleted = {}
        self.wants_snapshot = True

    def _put(self, key: str, sequence: int, body: bytes) -> None:
        if body:
            self.tree[key] = body
            self._versions[key] = sequence
        else:
            self._versions.pop(key, None)
            if self.tree.pop(key, None) is None:
                return
        self._on_change(key, body)
