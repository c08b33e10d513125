"""The history of logged values."""

from __future__ import annotations

from raspy.servers.logger.logger import Logger
from raspy.servers.logger.settings import LoggerConfig

__all__ = ["Logger", "LoggerConfig"]
