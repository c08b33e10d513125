"""The files that set an appliance up: those of the boot partition, of which none is believed, and root's own."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterable

from raspy.common.appliance import at
from raspy.common.backup.exchange import sync
from raspy.common.MDP import GenericError
from raspy.common.wholefile import replace

BOOT = "/boot/firmware"
LIMIT = 1 << 20
"""Bytes of a file."""
RM = "/bin/rm"
PATIENCE = 120.0
"""Seconds that a program which is called may take."""


class BadFile(GenericError, ValueError):
    """A file of the boot partition that cannot be taken; the message is for its owner."""


def names(directory: str) -> list[str]:
    """What is in a directory; nothing when there is none.

    :raises OSError: it cannot be read
    """
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []


def present(names: Iterable[str]) -> list[str]:
    """Those of some names that the boot partition has."""
    return [name for name in names if os.path.lexists(f"{at(BOOT)}/{name}")]


def read(name: str) -> bytes:
    """A file of the boot partition.

    :raises BadFile: it is none, is too long, or cannot be read
    """
    try:
        opened = os.open(f"{at(BOOT)}/{name}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise BadFile(f"{name}: cannot be read: {error.strerror}") from None
    try:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise BadFile(f"{name}: is no file")
        with open(opened, "rb", closefd=False) as file:
            data = file.read(LIMIT + 1)
    except OSError as error:
        raise BadFile(f"{name}: cannot be read: {error.strerror}") from None
    finally:
        os.close(opened)
    if len(data) > LIMIT:
        raise BadFile(f"{name}: is longer than {LIMIT >> 20} MB: is it the right file?")
    return data


def content(path: str) -> bytes | None:
    """The content of a file of our own; None: there is none.

    :raises OSError: it cannot be read, which is not the same
    """
    try:
        with open(path, "rb") as file:
            return file.read(LIMIT)
    except FileNotFoundError:
        return None


def _on_boot(change: Callable[[], None]) -> bool:
    """Change something on the boot partition for good; whether that could be done."""
    try:
        change()
        sync(at(BOOT))
    except OSError:
        return False
    return True


def remove_from_boot(name: str) -> bool:
    """Remove a file of the boot partition for good; whether it is gone."""
    path = f"{at(BOOT)}/{name}"
    return not os.path.lexists(path) or _on_boot(lambda: remove(path))


def rename_on_boot(name: str, new: str) -> bool:
    """Give a file of the boot partition another name for good; whether that could be done."""
    return _on_boot(lambda: os.replace(f"{at(BOOT)}/{name}", f"{at(BOOT)}/{new}"))


def write_to_boot(name: str, text: str) -> None:
    """Write a text for whoever puts the card into another computer; where that cannot be, the page tells it."""
    data, path = text.encode("utf-8", "replace"), f"{at(BOOT)}/{name}"

    def write() -> None:
        # The card is not worn by every boot.
        if content(path) != data:
            replace(path, data)

    _on_boot(write)


def remove(path: str) -> None:
    """Remove a file, or a directory with all that is in it; harmless when it is not there. No link is followed; what
    another disk is mounted on is emptied, and stays.

    :raises OSError: something else stays; all that could be removed is
    """
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            return
    except FileNotFoundError:
        return
    # It goes on where something cannot be removed, and a tree may be deeper than Python, or a path, can be.
    try:
        subprocess.run([RM, "-rf", "--", path], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise OSError(errno.ETIMEDOUT, f"to remove it takes more than {PATIENCE:g} s", path) from None
    if not os.path.lexists(path):
        return

    def unreadable(error: OSError) -> None:
        raise error

    for place, below, files in os.walk(path, onerror=unreadable):
        if files or not (below or os.path.ismount(place)):
            left = os.path.join(place, *files[:1])
            raise OSError(errno.EBUSY, f"cannot be removed: {left[:200]}", path)


def take(name: str, directory: int) -> bool:
    """Take a file out of a directory that is somebody else's; whether there was one. What else has its name goes, when
    that can be done with one call.

    :param directory: a file descriptor
    :raises OSError: it stays
    """
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return False
    except IsADirectoryError:
        os.rmdir(name, dir_fd=directory)
        return False
    return True


def unlink(path: str) -> None:
    """Remove a file of our own for good; harmless when it is not there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    sync(os.path.dirname(path))


def run(words: list[str]) -> bool:
    """Call a program of the system; whether it did its work. What it complains of goes to the journal."""
    try:
        return subprocess.run(words, stdin=subprocess.DEVNULL, timeout=PATIENCE).returncode == 0
    except (OSError, subprocess.SubprocessError) as error:
        sys.stderr.write(f"raspy: {words[0]}: {reason(error)}\n")
        return False


def reason(error: BaseException) -> str:
    """Why, in short."""
    return str(getattr(error, "strerror", None) or error)[:400]


def enable_ssh() -> bool:
    """Have ssh start, now and with the machine; whether it will."""
    done = run(["systemctl", "enable", "ssh.service"])
    # At boot this is part of what systemd is about to do: to wait for it would be to wait for ourselves.
    run(["systemctl", "--no-block", "start", "ssh.service"])
    return done
