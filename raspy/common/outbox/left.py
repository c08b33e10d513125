"""What waited in memory when a server stopped: a small file, until the logger has it.

Most often that is little, and soon delivered, as at each restart of the machine. A database for it would be made,
opened and deleted each time, and SQLite takes a MB of a process that has none otherwise.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from raspy.common import MDP
from raspy.common.outbox.reading import Reading
from raspy.common.pool import Done, PoolFull
from raspy.common.wholefile import replace

if TYPE_CHECKING:
    from raspy.common.server import Server

FORMAT = 1
LIMIT = 4 << 20
"""Bytes of the file."""
NEVER = 1e9
"""Seconds: whether it is gone must be known before another is written."""
LAST_WRITE = 3.0
"""Seconds that the disk may take when the server stops."""
BAD = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class _Format(msgspec.Struct):
    format: int


class _Content(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    readings: list[msgspec.Raw]


class Left:
    """The file of one server. Everything here is called on the loop.

    :param path: where it is
    """

    def __init__(self, server: Server, path: str) -> None:
        self.path = path
        self.there = False
        """Whether there is one, all of whose readings are in memory, or further, as well."""
        self.blocked = ""
        """Why what is under the name is not to be touched; empty: it may be."""
        self.notice = ""
        """What was damaged, for the owner."""
        self.bad = 0
        """Readings that were damaged."""
        self._server = server
        self._busy = False
        """Whether a thread removes or writes it."""

    def take(self) -> list[Reading]:
        """What it holds; it stays until :meth:`remove`. What is damaged is set aside, what is none of ours left alone.
        Called before the loop turns."""
        with contextlib.suppress(OSError):
            os.unlink(f"{self.path}.new")  # of an end in the middle
        try:
            data = _read(self.path)
            if data is None:
                return []
            rows = self._rows(data)
        except OSError as error:
            self._block(f"it cannot be read: {error.strerror or error}; it stays, for the next start")
            return []
        except BAD as error:
            self._set_aside(f"it is damaged: {error!s:.200}", os.replace)
            return []
        if rows is None:
            return []
        found: list[Reading] = []
        problem = ""
        for row in rows:
            try:
                found.append(msgspec.json.decode(row, type=Reading))
            except BAD as error:
                self.bad += 1
                problem = problem or f"{error!s:.200}"
        self.there = True
        if problem:
            self._set_aside(f"{self.bad} of its {len(rows)} readings are damaged: {problem}", os.link)
        return found

    def _rows(self, data: bytes) -> list[msgspec.Raw] | None:
        if len(data) > LIMIT:
            raise msgspec.ValidationError(f"it is longer than {LIMIT} bytes")
        if msgspec.json.decode(data, type=_Format).format > FORMAT:
            self._block("a newer RasPy wrote it; its readings wait until that is back")
            return None
        return msgspec.json.decode(data, type=_Content).readings

    def _block(self, problem: str) -> None:
        self.blocked, self.there = problem, False
        MDP.logger.error("%s: %s", self.path, problem)

    def _set_aside(self, problem: str, how: Callable[[str, str], None]) -> None:
        stem = f"{self.path}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
        aside, number = stem, 1
        while os.path.lexists(aside):
            number += 1
            aside = f"{stem}-{number}"
        try:
            how(self.path, aside)
        except OSError as error:
            self._block(f"{problem}; it cannot be set aside, and stays: {error.strerror or error}")
            self.notice = f"{self.path}: {self.blocked}"
            return
        self.notice = f"{self.path}: {problem}; it was set aside as {aside}"
        MDP.logger.error("%s", self.notice)

    def remove(self) -> None:
        """Delete it: all of it is on the disk elsewhere, or with the logger. To be called until it is not there."""
        if self.there and not self._busy:
            self._act(os.unlink, self.path, done=self._removed)

    def _act(self, function: Callable[..., None], *args: Any, done: Done) -> None:
        """Have a thread do it, as the disk may hang."""

        def acted(result: Any, error: BaseException | None) -> None:
            self._busy = False
            done(result, error)

        try:
            self._server.in_pool(function, *args, done=acted, timeout=NEVER)
        except PoolFull:
            return  # later
        self._busy = True

    def _removed(self, _: Any, error: BaseException | None) -> None:
        # One that cannot be deleted is taken once more at the next start, where each reading counts once.
        self.there = False
        if error is not None and not isinstance(error, FileNotFoundError):
            MDP.logger.warning("%s: it cannot be deleted: %s", self.path, error)

    def put(self, readings: Iterable[Reading]) -> None:
        """Write it, or delete it when there are none; on the disk when this returns. For the end of the server.

        :raises OSError: it is as it was, or the disk does not answer
        """
        rest = list(readings)
        if rest and self.blocked:
            raise FileExistsError(self.blocked)
        until = time.monotonic() + LAST_WRITE
        self._wait(until)
        outcome: list[BaseException | None] = []

        def put(_: Any, error: BaseException | None) -> None:
            outcome.append(error)

        if rest:
            self._act(replace, self.path, msgspec.json.encode({"format": FORMAT, "readings": rest}), done=put)
        elif self.there:
            self._act(os.unlink, self.path, done=put)
        else:
            return
        self._wait(until)
        error = outcome[0] if outcome else TimeoutError("there is no thread that could write it")
        if error is not None and (rest or not isinstance(error, FileNotFoundError)):
            raise error if isinstance(error, OSError) else OSError(str(error))
        self.there = bool(rest)

    def _wait(self, until: float) -> None:
        while self._busy:
            if time.monotonic() > until:
                raise TimeoutError("the disk does not answer")
            self._server.turn(0.05)


def _read(path: str) -> bytes | None:
    """A file's beginning; None when there is none.

    :raises OSError: it cannot be read, or is no file
    """
    try:
        # A pipe would block.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("it is no file")
        return file.read(LIMIT + 1)
