"""The exchange directory: where files pass between the servers and whoever backs them up, and where it is decided.

.. code-block:: text

   lock                  held (flock(2)) by the one that backs up or restores, as long as it lives
   work-ID/SERVER/...    files that pass
   decided-ID/SERVER     a restore is decided, and this server has still to take it

A decision is made by one rename(2), so it is there for every server or for none. It comes only from the holder of the
lock with that ID, so that a server which sees the lock free, and then no decision, knows that there will be none.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
import time

from raspy.common.backup.parts import ID, BackupError
from raspy.common.directories import exchange_directory

logger = logging.getLogger("raspy.backup")

LOCK, WORK, DECIDED, DECIDING = "lock", "work-", "decided-", "deciding-"
LOCK_PATIENCE = 3.0
"""Seconds for which a server that only looks may have the lock."""


def modes(directory: str) -> tuple[int, int]:
    """The permissions of a directory and a file in the exchange: its group's too, where it is shared.

    That what is made in a directory is its group's (S_ISGID) comes from the directory above it: units are forbidden to
    set that (RestrictSUIDSGID, systemd.exec(5)).
    """
    shared = os.stat(directory).st_mode & stat.S_IWGRP
    return (0o770, 0o660) if shared else (0o700, 0o600)


def make_directory(path: str, mode: int) -> None:
    """Make a directory with these permissions, whatever the umask is; chmod(2) would take S_ISGID from it.

    :raises OSError: it cannot be made
    """
    before = os.umask(0o777 & ~mode)
    try:
        os.mkdir(path, mode)
    finally:
        os.umask(before)


def work(identity: str, server: str) -> str:
    """Where the files of a server pass."""
    return os.path.join(exchange_directory(), WORK + identity, server)


def is_decided(identity: str, server: str) -> bool:
    """Whether a server is to take what it has staged.

    :raises OSError: that cannot be seen, which is not the same as no
    """
    try:
        os.stat(os.path.join(exchange_directory(), DECIDED + identity, server))
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def taken(identity: str, server: str) -> None:
    """A server has taken it; harmless when repeated.

    :raises OSError: that cannot be noted
    """
    directory = os.path.join(exchange_directory(), DECIDED + identity)
    try:
        os.unlink(os.path.join(directory, server))
        sync(directory)
    except FileNotFoundError:
        pass
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def open_decisions() -> dict[str, list[str]]:
    """The servers that have still to take a restore, by its ID."""
    try:
        names = os.listdir(exchange_directory())
    except FileNotFoundError:
        return {}
    found = {}
    for name in names:
        if name.startswith(DECIDED) and ID.fullmatch(name.removeprefix(DECIDED)):
            try:
                found[name.removeprefix(DECIDED)] = sorted(os.listdir(os.path.join(exchange_directory(), name)))
            except FileNotFoundError:
                continue  # the last one has just taken it
    return {identity: servers for identity, servers in found.items() if servers}


def is_held() -> bool:
    """Whether somebody backs up or restores now.

    :raises OSError: that cannot be seen
    """
    try:
        lock = os.open(os.path.join(exchange_directory(), LOCK), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


class Exchange:
    """The exchange directory, held by this process: a context manager.

    :raises BackupError: it cannot be used, or somebody else backs up or restores now
    """

    def __init__(self) -> None:
        self.directory = exchange_directory()
        self.id = os.urandom(16).hex()
        self.decided = False
        """It is decided: that cannot be taken back."""
        self._lock = -1

    def __enter__(self) -> Exchange:
        try:
            os.makedirs(self.directory, mode=0o700, exist_ok=True)
            if os.stat(self.directory).st_mode & stat.S_IWOTH:
                raise BackupError(f"{self.directory}: everybody can write there: chmod o-w {self.directory}")
            self._take()
            self._clear()
            self._make_directory(os.path.join(self.directory, WORK + self.id))
        except BackupError:
            self._let_go()
            raise
        except OSError as error:
            self._let_go()
            raise BackupError(f"{self.directory}: cannot be used: {error.strerror}") from error
        return self

    def __exit__(self, *_: object) -> None:
        try:
            remove_tree(os.path.join(self.directory, WORK + self.id))
        except OSError:
            pass  # the next one clears it
        self._let_go()

    def prepare(self, server: str) -> str:
        """An empty directory for the files of a server.

        :raises OSError: it cannot be made
        """
        path = work(self.id, server)
        remove_tree(path)
        self._make_directory(path)
        return path

    def decide(self, servers: list[str]) -> None:
        """From now on these servers take what they have staged, whatever happens.

        :raises OSError: it is not decided
        """
        deciding = os.path.join(self.directory, DECIDING + self.id)
        try:
            self._write_decision(deciding, servers)
            # Before, as a signal may come between the two.
            self.decided = True
            os.rename(deciding, os.path.join(self.directory, DECIDED + self.id))
        except BaseException:
            if os.path.lexists(deciding):
                self.decided = False
                remove_tree(deciding)
            raise
        try:
            sync(self.directory)
        except OSError as error:
            # Servers may have seen it: it cannot be taken back.
            logger.error("%s: %s: a power cut now may undo a part of the restore", self.directory, error.strerror)

    def _write_decision(self, deciding: str, servers: list[str]) -> None:
        directory_mode, file_mode = modes(self.directory)
        # Nobody looks at it before it has its name.
        make_directory(deciding, directory_mode)
        for server in servers:
            marker = os.open(os.path.join(deciding, server), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.fchmod(marker, file_mode)
                os.fsync(marker)
            finally:
                os.close(marker)
        sync(deciding)

    def _make_directory(self, path: str) -> None:
        make_directory(path, modes(self.directory)[0])

    def _take(self) -> None:
        path = os.path.join(self.directory, LOCK)
        mode = modes(self.directory)[1]
        # For reading is enough to lock, also where it is somebody else's.
        self._lock = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        found = os.fstat(self._lock)
        if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) != mode:
            # Not as the umask has it: the others look at it too.
            os.fchmod(self._lock, mode)
        until = time.monotonic() + LOCK_PATIENCE
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > until:
                    raise BackupError("another backup or restore is under way: wait until it is over") from None
                time.sleep(0.05)

    def _clear(self) -> None:
        """Remove what one that was killed has left, decisions excepted."""
        for name in os.listdir(self.directory):
            if name.startswith((WORK, DECIDING)):
                remove_tree(os.path.join(self.directory, name))

    def _let_go(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def sync(directory: str) -> None:
    """Have the names in a directory on the disk (fsync(2))."""
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def remove_tree(path: str) -> None:
    """Remove a directory and all below it; harmless when it is not there. No link is followed.

    :raises OSError: not all could be removed
    """
    try:
        entries = list(os.scandir(path))
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            remove_tree(entry.path)
        else:
            os.unlink(entry.path)
    os.rmdir(path)
