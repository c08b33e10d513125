"""How much of the tree other machines may take, so that none of them keeps this one's new values from it."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raspy.servers.broker.proxy import Proxy

ONE, ALL = 4, 2
"""One host gets this part of ``tree_keys`` and ``tree_bytes``, and all hosts together the other."""
FEW = 1024
"""Values of a revoked host that stay, stale, to be seen; of one that has more they are all deleted."""
BATCH = 300
PAUSE = 0.01
"""Seconds until the next batch."""


class Share:
    """What one host has on the tree."""

    __slots__ = ("bytes", "keys")

    def __init__(self) -> None:
        self.keys = 0
        self.bytes = 0


class Shares:
    """The shares of all hosts.

    :param proxy: whose tree it is
    """

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._hosts: dict[str, Share] = {}
        self._gone: list[tuple[bytes, Share]] = []
        """Keys that are to be deleted."""

    def speaker(self) -> Share | None:
        """The share of the host that sent the message that was taken last; None: it came from this machine."""
        door = self._proxy.door
        if not door.speaker:
            return None
        return self._hosts.setdefault(door.keys[door.speaker], Share())

    def has_room(self, share: Share, keys: int, size: int) -> bool:
        """Whether so many more keys and bytes are there for a host."""
        proxy = self._proxy
        if share.keys + keys > max(1, proxy.tree_keys // ONE) or share.bytes + size > proxy.tree_bytes // ONE:
            return False
        every = self._hosts.values()
        if sum(each.keys for each in every) + keys > max(1, proxy.tree_keys // ALL):
            return False
        return sum(each.bytes for each in every) + size <= proxy.tree_bytes // ALL

    def revoked(self, hosts: Collection[str]) -> None:
        """Delete what hosts that are let in no more have crowded the tree with.

        :param hosts: those that are still let in
        """
        for host in [host for host in self._hosts if host not in hosts]:
            share = self._hosts[host]
            if share.keys > FEW:
                entries = self._proxy.entries
                self._gone += [(key, share) for key, entry in entries.items() if entry.share is share]
                self._proxy.loop.call_later(0.0, self._delete_some)

    def _delete_some(self) -> None:
        proxy = self._proxy
        for _ in range(BATCH):
            if not self._gone or proxy.updates.waiting:
                break
            key, share = self._gone.pop()
            entry = proxy.entries.get(key)
            if entry is not None and entry.share is share:
                proxy.delete(key, entry)
        if self._gone and not proxy.updates.socket.closed:
            proxy.loop.call_later(PAUSE, self._delete_some)
