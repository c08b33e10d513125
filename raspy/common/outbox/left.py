"""What waited in memory when a server stopped: a small file, until the logger has it.

Most often that is little, and soon delivered, as at each restart of the machine. A database for it would be made,
opened and deleted each time, and SQLite takes a MB of a process that has none otherwise.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from raspy.common import MDP
from raspy.common.outbox.reading import Reading
from raspy.common.pool import PoolFull
from raspy.common.wholefile import replace

if TYPE_CHECKING:
    from raspy.common.server import Server

FORMAT = 1
LIMIT = 4 << 20
"""Bytes of the file."""
NEVER = 1e9
"""Seconds: whether it is gone must be known before another is written."""
LAST_REMOVAL = 3.0
"""Seconds that a removal which is under way may take when the server stops."""


class _Format(msgspec.Struct):
    format: int


class _Content(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    readings: list[Reading]


class Left:
    """The file of one server. Everything here is called on the loop.

    :param path: where it is
    """

    def __init__(self, server: Server, path: str) -> None:
        self.path = path
        self.there = False
        """Whether there is one, all of whose readings are in memory, or further, as well."""
        self._server = server
        self._removing = False
        self._newer = False

    def take(self) -> list[Reading]:
        """What it holds; it stays until :meth:`remove`. One that is damaged is set aside, one of a newer program left
        alone, and the log says so. Called before the loop turns."""
        try:
            with open(self.path, "rb") as file:
                data = file.read(LIMIT + 1)
        except FileNotFoundError:
            return []
        except OSError as error:
            MDP.logger.error("%s: it cannot be read: %s", self.path, error.strerror or error)
            return []
        try:
            if len(data) > LIMIT:
                raise msgspec.ValidationError(f"it is longer than {LIMIT} bytes")
            if msgspec.json.decode(data, type=_Format).format > FORMAT:
                self._newer = True
                MDP.logger.error("%s: a newer RasPy wrote it; its readings wait until that is back", self.path)
                return []
            found = msgspec.json.decode(data, type=_Content).readings
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            self._set_aside(error)
            return []
        self.there = True
        return found

    def _set_aside(self, error: Exception) -> None:
        aside = f"{self.path}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
        try:
            os.replace(self.path, aside)
        except OSError as caught:
            aside = f"nothing: {caught.strerror or caught}"
        MDP.logger.error("%s: it is damaged: %.200s; it was set aside as %s", self.path, error, aside)

    def remove(self) -> None:
        """Delete it, on a pool thread: the logger has all of it. To be called until it is not there."""
        if self.there and not self._removing:
            try:
                self._server.in_pool(os.unlink, self.path, done=self._removed, timeout=NEVER)
            except PoolFull:
                return  # later
            self._removing = True

    def _removed(self, _: object, error: BaseException | None) -> None:
        self._removing = False
        # One that cannot be deleted is taken once more at the next start, where each reading counts once.
        self.there = False
        if error is not None and not isinstance(error, FileNotFoundError):
            MDP.logger.warning("%s: it cannot be deleted: %s", self.path, error)

    def put(self, readings: Iterable[Reading]) -> None:
        """Write it, or delete it when there are none; on the disk when this returns. Called when the server stops.

        :raises OSError: it is as it was
        """
        until = time.monotonic() + LAST_REMOVAL
        while self._removing:
            if time.monotonic() > until:
                raise TimeoutError("the disk does not answer")
            self._server.turn(0.05)
        rest = list(readings)
        if rest and self._newer:
            raise FileExistsError("a newer RasPy has written the file that is there")
        if rest:
            replace(self.path, msgspec.json.encode(_Content(FORMAT, rest)))
        elif self.there:
            os.unlink(self.path)
        self.there = bool(rest)
