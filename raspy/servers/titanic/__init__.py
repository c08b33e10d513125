"""Durable requests (RFC 9/TSP) and the durable store."""

from __future__ import annotations

from raspy.servers.titanic.settings import TitanicConfig
from raspy.servers.titanic.titanic import Titanic

__all__ = ["Titanic", "TitanicConfig"]
