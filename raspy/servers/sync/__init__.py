"""The time: NTP, the real-time clock and the system clock are measured, reported, and set where that is right."""

from __future__ import annotations

from raspy.servers.sync.server import Sync
from raspy.servers.sync.settings import SyncConfig

__all__ = ["Sync", "SyncConfig"]
