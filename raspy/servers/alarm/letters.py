"""What is told: notices put together, and the messages that are made of them; where they wait is elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from raspy.servers.alarm.message import WELL, Frame, Message, Notice, Told, compose


class Letter(msgspec.Struct):
    """A message that is being sent.

    ``parts`` is what it was made of; ``left``: those of several receivers who do not have it yet; empty: all;
    ``refused``: those who refused it for good, and why; ``taken``: whether any of them has it.
    """

    message: Message
    parts: list[Told] = []
    left: list[str] = []
    refused: dict[str, str] = {}
    taken: bool = False


class Sent(msgspec.Struct):
    """When the last message went out: Unix time and seconds since the boot ``boot``, in s."""

    time: float = 0.0
    boot: str = ""
    since: float = 0.0


def sent_of(value: Any) -> Sent:
    """What a mark says; nothing where it cannot be read."""
    try:
        return msgspec.convert(value, Sent)
    except msgspec.ValidationError:
        return Sent()


class Entry:
    """A notice that is not on the disk yet, and what it stands for."""

    __slots__ = ("changes", "channels", "done", "first", "notice", "without")

    def __init__(self, notice: Notice, channels: tuple[str, ...], done: Callable[[], None] | None) -> None:
        self.notice = notice
        self.channels = channels
        self.done = done
        self.changes = 1
        self.first = notice.time
        self.without: frozenset[str] = frozenset()
        """Channels to which it was told without a disk."""

    def told(self) -> Told:
        """As it stands in a message."""
        given = self.notice
        return Told(
            name=given.name,
            label=given.label,
            severity=given.severity,
            state=given.state,
            key=given.key,
            value=given.value,
            unit=given.unit,
            reason=given.reason,
            time=given.time,
            changes=self.changes,
            first=self.first,
        )


def merged(parts: list[Told]) -> list[Told]:
    """Each alarm once, as it is in the last of its parts, with the changes of all."""
    found: dict[str, Told] = {}
    for told in parts:
        before = found.get(told.name)
        if before is not None:
            told = after(before, told)
        found[told.name] = told
    return list(found.values())


def after(before: Told, told: Told) -> Told:
    """A notice that stands for the one before it, too."""
    return msgspec.structs.replace(told, changes=before.changes + told.changes, first=min(before.first, told.first))


def letter_of(frame: Frame, alarms: list[Told], more: int) -> Letter:
    """A message of alarms, and what it can be made of again."""
    message = compose(frame, alarms, more)
    return Letter(message, [*message.alarms, *(told for told in alarms if told.name == WELL)])
