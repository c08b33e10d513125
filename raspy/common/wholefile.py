"""A small file that is replaced as a whole: what is under the name is always one whole version (rename(2))."""

from __future__ import annotations

import os


def replace(path: str, data: bytes, private: bool = False) -> None:
    """Put data in the place of a file's, on the disk when this returns.

    :param private: nobody but this user may read it
    :raises OSError: it could not; the file is as it was
    """
    directory = os.path.dirname(path)
    os.makedirs(directory, mode=0o750, exist_ok=True)
    new = path + ".new"
    with open(new, "wb", opener=_open_private if private else None) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
    entry = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(entry)
    finally:
        os.close(entry)


def _open_private(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NOFOLLOW, 0o600)
    os.fchmod(descriptor, 0o600)  # one that an end in the middle left behind may be open to others
    return descriptor
