"""Stands in for the voice of an appliance that has no channel, and never had one: no file, no thread, 0.6 MB less."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from raspy.common.server import Server

if TYPE_CHECKING:
    from raspy.servers.alarm.message import Notice


class Silent:
    """What is used of a :class:`~raspy.servers.alarm.voice.Voice`, where nobody is to be told.

    :param server: on whose loop everything happens
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.ok: Callable[[], tuple[bool, str]] = lambda: (True, "")
        """Not asked: there is no daily message, and nobody outside is called."""

    def load(self) -> None:
        """There is nothing that waits."""

    def start(self) -> None:
        """There is nothing to be sent."""

    def close(self) -> None:
        """There is nothing to be written."""

    def tell(self, _: Notice, done: Callable[[], None] | None = None) -> None:
        """Nobody is told; ``done()`` follows."""
        if done is not None:
            self.server.call_later(0, done)

    def channels(self) -> list[dict[str, Any]]:
        """None."""
        return []

    def test(self, channel: str, _: object) -> None:
        """Send a message for a test.

        :raises KeyError: there is no such channel
        """
        raise KeyError(channel)
