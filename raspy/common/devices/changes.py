"""Changes of devices' settings: each is on the disk before it holds, and of one device one comes after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from raspy.common.devices.device import BaseDevice, Plan
from raspy.common.devices.errors import FieldErrors
from raspy.common.devices.keptfile import Done, KeepError

if TYPE_CHECKING:
    from raspy.common.devices.host import DeviceServer

CHANGES_LIMIT = 20
"""Changes of one device's settings that may wait for the disk."""


class Changes:
    """The changes of all devices of a server, which are made on its loop.

    :param server: whose devices they are
    """

    def __init__(self, server: DeviceServer) -> None:
        self.server = server
        self.busy: set[str] = set()
        """Names of devices that are being made or deleted, which waits for the disk."""
        self._waiting: dict[str, deque[tuple[BaseDevice, Mapping[str, Any], Done]]] = {}

    def change(self, device: BaseDevice, changes: Mapping[str, Any], done: Done) -> None:
        """Change settings of a device: ``done(error)`` follows when they are on the disk, and hold from then on.

        The changes of one device are made one after the other. The error is a :class:`FieldErrors` when they cannot
        be, and a :class:`~raspy.common.devices.keptfile.KeepError` when they cannot be kept; nothing is changed then.
        """
        whole = device.parent or device
        if device is not whole:
            changes = {"subdevices": {device.name: dict(changes)}}
        if whole.name in self.busy:
            done(KeepError(f"{whole.name}: it is being deleted, which waits for the disk"))
            return
        waiting = self._waiting.setdefault(whole.name, deque())
        if len(waiting) >= CHANGES_LIMIT:
            done(KeepError(f"{whole.name}: {len(waiting)} changes of its settings wait for the disk"))
            return
        waiting.append((whole, changes, done))
        if len(waiting) == 1:
            self._next(whole.name)

    def changing(self, name: str) -> bool:
        """Whether something of a device waits for the disk: its settings, itself, or its end."""
        return name in self._waiting or name in self.busy

    def _next(self, name: str) -> None:
        waiting = self._waiting[name]
        while waiting:
            whole, changes, done = waiting[0]
            try:
                plan = whole.plan(changes)
            except FieldErrors as error:
                waiting.popleft()
                self.server.guard(done, error)
                continue
            self.server.keeper.keep(name, whole.to_dict(plan), partial(self._kept, name, plan))
            return
        del self._waiting[name]

    def _kept(self, name: str, plan: Plan, error: Exception | None) -> None:
        whole, _, done = self._waiting[name].popleft()
        if error is None and self.server.devices.get(name) is whole:
            try:
                whole.adopt(plan)
                self.server.settled(whole)
            except FieldErrors as problem:
                error = problem
                self.server.keeper.keep(name, whole.to_dict(), lambda _: None)
        self.server.guard(done, error)
        self._next(name)
