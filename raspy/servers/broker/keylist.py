"""The keys of the hosts that are let in: a file each, ``<host>.key``, and ``<host>.old.key`` while a key is changed."""

from __future__ import annotations

import os

from raspy.common.config import ID
from raspy.common.curve import KEY, OLD_KEY, read_file

MOST = 512
"""Files that are looked at."""

Mark = tuple[tuple[str, int, int, int], ...]


def host_of(name: str) -> str:
    """The host that the name of a file of the list tells; empty when none can be called so."""
    host = name.removesuffix(OLD_KEY) if name.endswith(OLD_KEY) else name.removesuffix(KEY)
    return host if ID.fullmatch(host) else ""


class KeyList:
    """A directory of public keys.

    :param directory: where they are
    :param own: the name of this host, which no other may have
    """

    def __init__(self, directory: str, own: str) -> None:
        self.directory = directory
        self.own = own
        self.wrong: dict[str, str] = {}
        """What is wrong with files, by their names, when they were last read."""
        self.problems: list[str] = []
        """What was wrong when it was last read; a file that is damaged locks its own host out and no other."""
        self._mark: Mark | None = ()
        self._unread: list[str] = []
        """Files that could not be opened; rights and what a link leads to change without a mark in the directory."""
        self._keys: dict[str, str] = {}

    def changed(self) -> bool:
        """Whether it is another one than when it was last read, or a file that could not be read then may be now."""
        mark = self._look()
        if mark != self._mark:
            return True
        return any(_readable(os.path.join(self.directory, name)) for name in self._unread)

    def read(self) -> dict[str, str]:
        """The keys, and their hosts. While the directory cannot be read, those that were read before."""
        self.problems = []
        self.wrong = {}
        self._unread = []
        self._mark = self._look()
        if self._mark is None:
            self.problems.append(f"{self.directory} cannot be read: the keys known so far are let in, and no others")
            return self._keys
        found: dict[str, str] = {}
        for name, *_ in self._mark:
            try:
                problem = self._take(name, found)
            except OSError as error:
                self._unread.append(name)
                problem = f"{error.strerror}: this key is not let in"
            except ValueError as error:
                problem = f"{error}: this key is not let in"
            if problem:
                self.wrong[name] = problem.removesuffix(": this key is not let in")
                self.problems.append(f"{os.path.join(self.directory, name)}: {problem}")
        if len(self._mark) >= MOST:
            self.problems.append(f"{self.directory} has more than {MOST} keys: the others are not let in")
        self._keys = found
        return found

    def _take(self, name: str, found: dict[str, str]) -> str:
        """Put a file's key to those that are let in; answers why not, or nothing.

        :raises OSError: it cannot be read
        :raises ValueError: it is none
        """
        host = host_of(name)
        if not host:
            return "a host's name is 1 to 63 of a-z, 0-9, _ and -: this key is not let in"
        if host == self.own:
            return f"{host} is this host's own name: this key is not let in"
        public = read_file(os.path.join(self.directory, name)).public
        if found.setdefault(public, host) != host:
            return f"{found[public]} has the same key: {host} is not let in with it"
        return ""

    def _look(self) -> Mark | None:
        """Names, times, sizes and inodes of the files; None when the directory cannot be read."""
        marks = []
        try:
            with os.scandir(self.directory) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or not entry.name.endswith(KEY):
                        continue
                    try:
                        about = entry.stat()
                    except OSError:
                        marks.append((entry.name, 0, 0, 0))  # what is wrong with it, reading it tells
                        continue
                    marks.append((entry.name, about.st_ctime_ns, about.st_size, about.st_ino))
        except FileNotFoundError:
            return ()
        except OSError:
            return None
        return tuple(sorted(marks)[:MOST])


def _readable(path: str) -> bool:
    try:
        read_file(path)
    except OSError:
        return False
    except ValueError:
        pass
    return True
