"""A machine whose time, disk and hardware are the test's: see rules_stage.py."""

from __future__ import annotations

import math
import os
import sys
import threading
import time as real_time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from raspy.common import MDP, clock
from raspy.common.devices import keptfile
from raspy.common.devices.errors import ReadingError

LIMIT = 20.0
"""Seconds of real time that the disk may take."""
POLL = 4.0
"""Seconds between readings of a contact."""
MAX_AGE = 3 * POLL
"""Seconds after which a reading that nothing followed is stale (docs/devices.rst: three polls in a row)."""


class Clocks:
    """The clocks of a machine; ``now`` is what a watch in the hand of somebody beside it shows, in s."""

    def __init__(self) -> None:
        self.now = 0.0
        self.booted = -1000.0
        self.boot = 1
        self.offset = 1_800_000_000.0
        """What the wall clock shows when the watch shows 0."""

    def monotonic(self) -> float:
        return self.now - self.booted

    def wall(self) -> float:
        return self.now + self.offset

    def boot_id(self) -> str:
        return f"{self.boot:032x}"

    def reboot(self) -> None:
        self.boot += 1
        self.booted = self.now - 20


class _Time:
    """Stands for the module ``time`` in all modules of the product."""

    def __init__(self, clocks: Clocks) -> None:
        self.monotonic, self.time = clocks.monotonic, clocks.wall

    def clock_gettime(self, which: int) -> float:
        return self.time() if which == real_time.CLOCK_REALTIME else self.monotonic()

    def sleep(self, seconds: float) -> None:
        raise AssertionError("the loop sleeps")

    def __getattr__(self, name: str) -> Any:
        return getattr(real_time, name)


class Disk:
    """Between the files and the disk: writes may be held, and fail."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.full = False
        self._replace = keptfile.replace

    def replace(self, path: str, data: bytes) -> None:
        assert self.gate.wait(LIMIT)
        if self.full:
            raise OSError(28, "No space left on device")
        self._replace(path, data)


@contextmanager
def played(clocks: Clocks, disk: Disk, directory: str) -> Iterator[None]:
    """Have the product live in the time of the clocks."""
    times = _Time(clocks)
    with ExitStack() as stack:
        for name, module in list(sys.modules.items()):
            if name.startswith("raspy."):
                for attribute, value in list(vars(module).items()):
                    if value is real_time:
                        stack.enter_context(mock.patch.object(module, attribute, times))
                    elif value is disk._replace:
                        stack.enter_context(mock.patch.object(module, attribute, disk.replace))
        stack.enter_context(mock.patch.object(MDP, "boot_id", clocks.boot_id))
        stack.enter_context(mock.patch.object(clock, "SYNCHRONIZED", os.path.join(directory, "synchronized")))
        stack.enter_context(mock.patch.object(clock, "MARK", os.path.join(directory, "no-mark")))
        # A machine's disk is waited for elsewhere.
        stack.enter_context(mock.patch.object(os, "fsync", return_value=None))
        yield


class Wire:
    """What an output drives: it outlives the server, and remembers all that it was told and when.

    :param now: the watch
    :param on_edge: called with the wire and its level before, when it took another one
    """

    def __init__(self, now: Callable[[], float], on_edge: Callable[[Wire, float], None]) -> None:
        self.now, self.on_edge = now, on_edge
        self.level = 0.0
        self.trouble = ""
        """``refuses``: takes nothing; ``complains``: takes it, and fails; ``off only``: refuses to go on."""
        self.trace: list[tuple[float, float, bool]] = []
        """When it was told which level, and whether that went well."""
        self.failures = 0
        self.unknown = True
        """Whoever drives it cannot know what it is at: the last thing that it was told failed, or there was none."""
        self.known_at = -math.inf
        """Since when that is known again."""

    @property
    def told_at(self) -> float:
        return self.trace[-1][0] if self.trace else -math.inf

    def drive(self, level: float) -> None:
        failed = bool(self.trouble) and not (self.trouble == "off only" and level == 0)
        before = self.level
        self.trace.append((self.now(), level, not failed))
        if not failed or self.trouble == "complains":
            self.level = level
        if self.unknown and not failed:
            self.known_at = self.now()
        self.unknown = failed
        if self.level != before:
            self.on_edge(self, before)
        if failed:
            self.failures += 1
            raise OSError("Remote I/O error")

    def make_safe(self, level: float) -> None:
        """First thing at the start, when nobody knows of the output yet."""
        self.unknown = True
        if self.trouble in ("", "complains") or (self.trouble == "off only" and level == 0):
            self.level = level


class Sense:
    """What a contact would say, and what it last said.

    :param now: the watch
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.closed = False
        self.trouble = ""
        """``error``: its reading fails; ``mute``: it is not read any more."""
        self.said: bool | None = None
        """What it said; None: an error, or nothing yet."""
        self.said_at = -math.inf

    def so(self, wanted: bool) -> bool:
        """Whether it is known to be so: it said so, and not too long ago."""
        return self.said is wanted and self.now() - self.said_at <= MAX_AGE

    def __call__(self) -> bool:
        self.said_at, self.said = self.now(), None if self.trouble else self.closed
        if self.trouble:
            raise ReadingError("stage", "the wire is broken")
        return self.closed
