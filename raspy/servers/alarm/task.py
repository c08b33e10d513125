"""What the server gives to the process that sends, and what that answers; both are JSON."""

from __future__ import annotations

from typing import Any

import msgspec

from raspy.servers.alarm.message import Message


class Task(msgspec.Struct):
    """What is to be sent.

    ``message`` is None to fetch ``url`` of the settings; ``left``: those of several receivers that do not have the
    message yet, empty: all.
    """

    channel: str
    settings: dict[str, Any]
    secrets: str
    """Directory of the secrets."""
    message: Message | None = None
    left: list[str] = []
    trusted: bool = True
    """Whether the clock is known to be right."""


class Outcome(msgspec.Struct):
    """What became of it: ``error`` is empty when it was delivered.

    The rest is as in :class:`raspy.servers.alarm.channels.ChannelError`.
    """

    error: str = ""
    permanent: bool = False
    uncertain: bool = False
    pause: float = 0.0
    """Seconds."""
    left: list[str] = []
    refused: dict[str, str] = {}
    taken: bool = False
    note: str = ""
    """What is worth knowing although it was delivered."""
