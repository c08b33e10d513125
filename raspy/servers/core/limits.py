"""What a scenario may use, how that is counted, and how much of what it prints is kept."""

from __future__ import annotations

from collections import deque
from typing import Annotated

import msgspec
from msgspec import Meta

SPAN = 60.0
"""Seconds over which CPU time and output are counted."""
SLOT = 5.0
"""Seconds that are counted together: what is older than SPAN counts for up to SLOT less, never for longer."""
KEPT = 64 * 1024
"""Characters of a scenario's output that are kept."""


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one run of a scenario may use; beyond it, it is ended with that reason.

    ``memory``: MB that it may ask for on top of what every scenario begins with; more raises MemoryError in its code.
    ``cpu``: s of CPU time in any minute; 0: as much as it can get.
    ``wall``: s from its start to its end; 0: as long as it likes.
    ``output``: bytes printed in any minute; 0: as many as it likes.
    """

    memory: Annotated[int, Meta(ge=4, le=65536)] = 128
    cpu: Annotated[float, Meta(ge=0, le=3600)] = 10.0
    wall: Annotated[float, Meta(ge=0, le=31_536_000)] = 0.0
    output: Annotated[int, Meta(ge=0, le=1_000_000_000)] = 1_000_000


class Window:
    """What was used in the last minute, in slots, so that it takes a few numbers however much is added."""

    __slots__ = ("_slots", "total")

    def __init__(self) -> None:
        self._slots: deque[tuple[float, float]] = deque()
        self.total = 0.0

    def add(self, amount: float, now: float) -> float:
        """Count ``amount`` at the monotonic time ``now``; return what the last minute holds."""
        slots = self._slots
        while slots and slots[0][0] <= now - SPAN:
            self.total -= slots.popleft()[1]
        began = now - now % SLOT
        if slots and slots[-1][0] >= began:
            began, before = slots.pop()
            slots.append((began, before + amount))
        elif amount:
            slots.append((began, amount))
        self.total += amount
        if not slots:
            self.total = 0.0
        return self.total


class Tail:
    """The end of what a scenario has printed.

    :param most: characters that are kept
    """

    __slots__ = ("_parts", "_size", "dropped", "most")

    def __init__(self, most: int = KEPT) -> None:
        self.most = most
        self.dropped = 0
        """Characters that are not kept any more."""
        self._parts: deque[str] = deque()
        self._size = 0

    def add(self, text: str) -> None:
        """Keep ``text``, and of what came before it as much as still fits."""
        if len(text) > self.most:
            self.dropped += len(text) - self.most
            text = text[-self.most :]
        if self._parts and len(self._parts[-1]) + len(text) < 1024:
            self._parts[-1] += text
        else:
            self._parts.append(text)
        self._size += len(text)
        while self._size > self.most:
            over = self._size - self.most
            first = self._parts.popleft()
            if len(first) > over:
                self._parts.appendleft(first[over:])
            gone = min(over, len(first))
            self._size -= gone
            self.dropped += gone

    def clear(self) -> None:
        """Forget all of it."""
        self._parts.clear()
        self._size = self.dropped = 0

    def text(self) -> str:
        """What is kept; when it is not all, the first line says so."""
        said = f"[... {self.dropped} characters before this are not kept]\n" if self.dropped else ""
        return said + "".join(self._parts)
