"""What a server keeps: declared in one place, its class. Every server imports this, so it imports next to nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence

from raspy.common.MDP import GenericError

ID = re.compile(r"[0-9a-f]{16,32}")
"""Of a backup or a restore that is under way."""
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}(/[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99})?")
"""A file in a state directory, or one directory further down. Nothing hidden, and nothing above."""
STAGED, BEFORE = "restore-", "before-restore-"
"""Beginnings of names in a server's state directory: of a restore that is staged there, and of what was there before
one that was taken."""
LOG_SUFFIXES = ("-wal", "-shm", "-journal")
"""What SQLite has beside a file (https://www.sqlite.org/tempfiles.html)."""
PLAIN_LIMIT = 8 << 20
"""Bytes of a file that is no database."""


class BackupError(GenericError, OSError):
    """A backup or a restore cannot be; nothing was changed. The message says why."""


class Part:
    """A file that a server keeps, or all files of a directory of it (``secrets/*``).

    :param name: below the state directory
    :param schemas: of a database: its schemas; without any it is a plain file
    :param check: of a plain file: called with its content, raises a ValueError when it cannot be used; without one
        anything can
    :param secret: whether nobody else may read it
    :param adopt: called before what is restored takes the place of what is there, with the paths of both (the second is
        None when there is nothing): it has the former win over what the store of another moment says
    """

    __slots__ = ("adopt", "check", "name", "schema", "schemas", "secret")

    def __init__(
        self,
        name: str,
        schemas: Sequence[Sequence[str]] = (),
        check: Callable[[bytes], object] | None = None,
        secret: bool = False,
        adopt: Callable[[str, str | None], None] | None = None,
    ) -> None:
        self.name = name
        self.schemas = schemas
        self.schema = len(schemas)
        """The newest version of the schema that is known; 0: it is no database."""
        self.check = check
        self.secret = secret
        self.adopt = adopt

    @property
    def mode(self) -> int:
        """The permissions of the file."""
        return 0o600 if self.secret else 0o640

    def has(self, name: str) -> bool:
        """Whether a file is this part, or of it."""
        if NAME.fullmatch(name) is None:
            return False
        if self.name.endswith("/*"):
            return name.startswith(self.name[:-1]) and not name.endswith(".lock")
        return name == self.name

    def files(self, directory: str) -> list[str]:
        """The names of what there is of it.

        :raises OSError: that cannot be seen
        """
        if not self.name.endswith("/*"):
            return [self.name] if os.path.lexists(os.path.join(directory, self.name)) else []
        below = self.name[:-2]
        try:
            found = sorted(os.listdir(os.path.join(directory, below)))
        except FileNotFoundError:
            return []
        return [name for name in (f"{below}/{each}" for each in found) if self.has(name)]


def part_of(parts: Sequence[Part], name: str) -> Part | None:
    """The part that a file belongs to."""
    return next((part for part in parts if part.has(name)), None)


def staged(directory: str) -> list[str]:
    """The IDs of the restores that are staged in a server's state directory."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    return [
        name.removeprefix(STAGED) for name in names if name.startswith(STAGED) and ID.fullmatch(name[len(STAGED) :])
    ]


def restored(directory: str) -> list[str]:
    """The IDs of the restores that were put in their place and of which what was before is kept: the last one."""
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    return [name.removeprefix(BEFORE) for name in names if name.startswith(BEFORE)]


def is_restoring(directory: str) -> bool:
    """Whether there is anything of a restore that is not over."""
    try:
        return any(name.startswith(("restore-", "restored-")) for name in os.listdir(directory))
    except OSError:
        return False
