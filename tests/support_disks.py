"""Disks that are full, read-only, broken or that hang: real ones, small, each mounted for one test."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from tests.support import need_program, need_root
from tests.support_devices import short_directory

PAGE = 4096
"""Bytes of a page of SQLite's (``PRAGMA page_size``, the default)."""
EXT4_BYTES = 8 << 20
FIFREEZE, FITHAW = 0xC0045877, 0xC0045878  # linux/fs.h
SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN, fs/ext4/ext4.h


class Disk:
    """A file system of its own.

    :param place: where it is mounted
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self._ballast = os.path.join(place, "ballast")

    def fill(self) -> None:
        """Leave no room."""
        with open(self._ballast, "ab", buffering=0) as file:
            for size in (1 << 16, PAGE, 1):
                while _has_taken(file, size):
                    pass

    def make_room(self) -> None:
        """Undo :meth:`fill`."""
        os.unlink(self._ballast)

    def remount(self, option: str) -> None:
        """``ro`` or ``rw``; nobody may write to it meanwhile."""
        subprocess.run(["mount", "-o", f"remount,{option}", self.place], check=True)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Who writes to it waits (ioctl_fs(2))."""
        descriptor = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, FIFREEZE, 0)
            try:
                yield
            finally:
                fcntl.ioctl(descriptor, FITHAW, 0)
        finally:
            os.close(descriptor)

    def break_down(self) -> None:
        """From now on, each read and write is an I/O error; what was written before is on the disk."""
        descriptor = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, b"\0\0\0\0")
        finally:
            os.close(descriptor)

    def become_read_only(self) -> None:
        """What the kernel does with ``errors=remount-ro`` when it finds the file system in disorder (ext4(5))."""
        device = os.stat(self.place).st_dev
        name = os.path.basename(os.path.realpath(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"))
        trigger = Path(f"/sys/fs/ext4/{name}/trigger_fs_error")
        if not trigger.exists():
            pytest.skip(f"needs {trigger}: a kernel with /sys/fs/ext4/*/trigger_fs_error")
        trigger.write_text("1")


class Ext4(Disk):
    """One on a file."""

    def __init__(self, place: str, file: str) -> None:
        super().__init__(place)
        self.file = file

    def replace(self) -> None:
        """Put in another disk with the same on it, as an owner does who has saved what was on a bad card."""
        os.sync()
        _unmount(self.place)
        copy = f"{self.file}-copy"
        shutil.copyfile(self.file, copy)
        subprocess.run([need_program("e2fsck"), "-y", copy], capture_output=True)
        _mount(["-t", "ext4", "-o", "loop"], copy, self.place)


def _has_taken(file: IO[bytes], size: int) -> bool:
    try:
        file.write(bytes(size))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return False
    return True


def _mount(options: list[str], what: str, place: str) -> None:
    done = subprocess.run(["mount", *options, what, place], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"needs to mount file systems: {done.stderr.strip()}")


def _unmount(place: str) -> None:
    # Lazily: whoever still has a file open on it keeps it alive, and no test fails for that.
    subprocess.run(["umount", "-l", place], check=True, capture_output=True)


@contextmanager
def small_disk(size: int = 2 << 20) -> Iterator[Disk]:
    """A tmpfs.

    :param size: bytes
    """
    need_root()
    with short_directory() as place:
        _mount(["-t", "tmpfs", "-o", f"size={size}"], "tmpfs", place)
        try:
            yield Disk(place)
        finally:
            _unmount(place)


@contextmanager
def ext4_disk() -> Iterator[Ext4]:
    """A disk that can hang and break."""
    need_root()
    with short_directory() as directory:
        file, place = os.path.join(directory, "disk"), os.path.join(directory, "mount")
        with open(file, "wb") as made:
            made.truncate(EXT4_BYTES)
        subprocess.run([need_program("mkfs.ext4"), "-q", "-F", "-E", "lazy_itable_init=0", file], check=True)
        os.mkdir(place)
        _mount(["-t", "ext4", "-o", "loop,errors=remount-ro"], file, place)
        try:
            yield Ext4(place, file)
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):
                while os.path.ismount(place):
                    _unmount(place)


OVERWRITE = """
import sys
path, marker, page = sys.argv[1], sys.argv[2].encode(), int(sys.argv[3])
with open(path, "r+b") as file:
    offset = file.read().find(marker)
    assert offset > page, (offset, path)
    file.seek(offset // page * page)
    file.write(bytes(range(256)) * (page // 256))
"""


def tear(path: str | Path, marker: bytes) -> None:
    """Overwrite the page of an SQLite file in which some text begins, as a torn write does.

    In a process of its own: when one that has the file open closes another descriptor of it, SQLite's locks are gone
    (fcntl_locking(2)).
    """
    subprocess.run([sys.executable, "-c", OVERWRITE, str(path), marker.decode(), str(PAGE)], check=True)
