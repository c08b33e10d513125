"""A small file that is replaced as a whole: what is under the name is always one whole version (rename(2))."""

from __future__ import annotations

import contextlib
import os


def replace(path: str, data: bytes, private: bool = False) -> None:
    """Put data in the place of a file's, on the disk when this returns.

    :param private: nobody but this user may read it
    :raises OSError: it could not; the file is as it was
    """
    directory = os.path.dirname(path)
    os.makedirs(directory, mode=0o750, exist_ok=True)
    new = path + ".new"
    # What an end in the middle left behind, or somebody put there: a pipe would block, a link lead elsewhere.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(new, flags, 0o600 if private else 0o666)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.replace(new, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise
    entry = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(entry)
    finally:
        os.close(entry)
