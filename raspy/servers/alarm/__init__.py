"""The server that watches values, servers and outputs, and calls when something is wrong."""

from __future__ import annotations

from raspy.servers.alarm.config import AlarmConfig
from raspy.servers.alarm.server import Alarm

__all__ = ["Alarm", "AlarmConfig"]
