"""The file in which a server keeps the settings of its devices.

It is small and rarely written, so it is JSON, replaced as a whole: what is under the name is always one whole
version (rename(2)), and it is on the disk before a change is acknowledged (fsync(2), of the directory too). It is
written by a thread of its own: the pool's may be busy with hardware that hangs.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from raspy.common.MDP import ServerError
from raspy.common.wholefile import replace

if TYPE_CHECKING:
    from raspy.common.server import Server

FORMAT = 1
LIMIT = 4 << 20
"""Bytes of the file."""
ENTRIES = 1024
PATIENCE = 5.0
"""Seconds after which a write that does not come back is reported."""
LAST_WRITE = 2.0
"""Seconds that a write may take when the server stops."""
LOCK_PATIENCE = 3.0
"""Seconds that a process before this one may take to end."""

Done = Callable[[Exception | None], None]


class KeepError(ServerError, OSError):
    """Settings could not be kept."""


class Kept(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What is kept of one device."""

    settings: dict[str, Any] | None = None
    """As the device's JSON has them; None: those of a new device."""
    pending: bool = False
    """The store does not have it yet."""
    deleted: bool = False
    """The device is no more, which the store does not know yet."""


class _Content(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    format: int
    devices: dict[str, Kept]
    lost: str = ""
    """What happened to the settings that were kept before, when they were lost."""
    aside: str = ""
    """Where they are."""


class KeptFile:
    """Reads the file once, and writes one version of it after the other.

    :param server: whose loop and conditions are used
    :param path: the file; its directory is made when it is missing
    :param condition: the name under which trouble with it is reported
    """

    def __init__(self, server: Server, path: str, condition: str = "settings") -> None:
        self.server = server
        self.condition = condition
        self.path = path
        self.lost = ""
        """What happened to the settings that were kept before, as long as what is left of them is there."""
        self._aside = ""
        self._unreadable = ""
        self._lock: int | None = None
        self._writing = False
        self._waiting: list[Done] = []

    def lock(self) -> None:
        """Have the file for this process alone, as long as it lives (flock(2)).

        :raises KeepError: another process has it
        """
        try:
            os.makedirs(os.path.dirname(self.path), mode=0o750, exist_ok=True)
            self._lock = os.open(self.path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            # Nothing can be kept then, which is told when something is to be.
            self.server.condition(self.condition, f"{self.path} cannot be written: {error.strerror}")
            return
        until = time.monotonic() + LOCK_PATIENCE
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > until:
                    raise KeepError(f"{self.path}: another process uses it; is this server running twice?") from None
                time.sleep(0.05)

    def load(self) -> dict[str, Kept]:
        """What is kept; nothing when there is no file. A file that is no good is set aside, and told."""
        try:
            with open(self.path, "rb") as file:
                data = file.read(LIMIT + 1)
        except FileNotFoundError:
            return {}
        except OSError as error:
            self._unreadable = self.lost = f"{self.path} cannot be read: {error.strerror}"
            self.server.condition(self.condition, self._unreadable)
            return {}
        try:
            content = msgspec.json.decode(data, type=_Content)
            if content.format == FORMAT:
                if content.lost and os.path.exists(content.aside):
                    self.lost, self._aside = content.lost, content.aside
                    self.server.condition(f"{self.condition} damaged", self.lost)
                return content.devices
            problem = f"it has format {content.format}, and this program knows {FORMAT}"
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            problem = str(error)
        self._set_aside(problem)
        return {}

    def write(self, devices: dict[str, Kept], done: Done) -> None:
        """Have the file replaced by what the devices are then; ``done(error)`` follows when that is on the disk.

        It is written as it is when the write before is over, so that what that one could not keep is not in it.
        """
        self._waiting.append(done)
        self._go(devices)

    def close(self) -> None:
        """Wait for what is being written, but not long. Called when the server stops; harmless when repeated."""
        until = time.monotonic() + LAST_WRITE
        while self._writing and time.monotonic() < until:
            self.server.turn(0.05)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _go(self, devices: dict[str, Kept]) -> None:
        if self._writing or not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        self._writing = True
        slow = self.server.call_later(
            PATIENCE,
            self.server.condition,
            self.condition,
            f"{self.path}: the disk has not taken it for {PATIENCE:g} s",
        )

        def written(error: Exception | None) -> None:
            self._writing = False
            slow.cancel()
            told = error if isinstance(error, KeepError) else None
            if error is not None and told is None:
                reason = getattr(error, "strerror", None) or str(error)
                told = KeepError(f"{self.path} cannot be written: {reason}")
            self.server.condition(self.condition, str(told) if told else None)
            for each in waiting:
                self.server.guard(each, told)
            self._go(devices)

        try:
            data = self._encode(devices)
            threading.Thread(target=self._write, args=(data, written), daemon=True, name="raspy-settings").start()
        except (KeepError, RuntimeError) as error:
            # On the next turn, as those who wait may still have to note that they do.
            self.server.call_later(0, written, error)

    def _write(self, data: bytes, written: Done) -> None:
        """On a thread of its own, of which there is one at a time."""
        problem = None
        try:
            replace(self.path, data)
        except Exception as error:
            problem = error
        try:
            self.server.call_threadsafe(written, problem)
        except OSError:
            # The server has ended meanwhile.
            return

    def _encode(self, devices: dict[str, Kept]) -> bytes:
        if self._unreadable:
            raise KeepError(self._unreadable)
        data = msgspec.json.encode(_Content(FORMAT, devices, self.lost, self._aside))
        if len(data) > LIMIT or len(devices) > ENTRIES:
            raise KeepError(
                f"{self.path}: no more can be kept: {len(devices)} devices of {ENTRIES}, {len(data)} bytes of {LIMIT}"
            )
        return data

    def _set_aside(self, problem: str) -> None:
        self._aside = f"{self.path}.damaged-{time.strftime('%Y%m%d-%H%M%S')}"
        try:
            os.replace(self.path, self._aside)
            self.lost = f"{self.path} was no good and is now {self._aside}: {problem}"
            # So that the next start knows it too.
            replace(self.path, self._encode({}))
        except OSError as error:
            self.lost = f"{self.path} is no good, and cannot be set aside ({error.strerror}): {problem}"
        self.server.condition(f"{self.condition} damaged", self.lost)


def check_content(data: bytes) -> None:
    """See that a file with this content could be loaded.

    :raises ValueError: it could not
    """
    content = msgspec.json.decode(data, type=_Content)
    if content.format != FORMAT:
        raise ValueError(f"it has format {content.format}, and this program knows {FORMAT}")


def adopt(path: str, before: str | None) -> None:
    """Have a file that is restored win over the store: what it has is a change that the store does not know, and what
    only the file before it has is deleted there.

    :raises OSError: it cannot be written
    :raises ValueError: it cannot be read
    """
    with open(path, "rb") as file:
        content = msgspec.json.decode(file.read(), type=_Content)
    for kept in content.devices.values():
        kept.pending = kept.pending or kept.settings is not None
    for name, old in _devices(before).items():
        kept_now = content.devices.get(name)
        nothing = kept_now is None or (kept_now.settings is None and not kept_now.deleted)
        if old.settings is not None and nothing and (kept_now is not None or len(content.devices) < ENTRIES):
            content.devices[name] = Kept(pending=True, deleted=True)
    replace(path, msgspec.json.encode(content))


def _devices(path: str | None) -> dict[str, Kept]:
    if path is None:
        return {}
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(LIMIT + 1), type=_Content).devices
    except (OSError, ValueError, RecursionError):
        return {}  # what cannot be read was not served either
