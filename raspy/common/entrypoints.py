"""What other packages bring for us, found by their entry points.

What is installed is read from the files ``entry_points.txt`` beside the packages (PyPA, "Entry points specification",
"File format"; ``*.dist-info``: PyPA, "Recording installed projects"). Nothing is imported, and not
:mod:`importlib.metadata` either, which costs a process 3 MB.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator

from raspy.common.MDP import GenericError

FILE = "entry_points.txt"
FILE_LIMIT = 1 << 18
"""Bytes of a file of entry points."""
SHOWN = 60
"""Characters of what is wrong that a message repeats."""

REFERENCE = re.compile(r"(\w+(?:\.\w+)*)\s*:\s*(\w+(?:\.\w+)*)\s*(?:\[[\w\s,.-]*\])?", re.ASCII)
"""An object reference: the module, the object in it, and extras, which are old and mean nothing to us."""


class EntryPointsError(GenericError, ValueError):
    """A file of entry points that cannot be understood."""


def found(
    group: str, path: Iterable[str] | None = None
) -> tuple[list[tuple[str, str, str]], list[tuple[str, Exception]]]:
    """The entry points of a group: file, name and ``module:object`` of each; and the files that could not be read or
    understood, each with the reason. Of a package that is installed twice the first on the path is looked at.

    :param path: directories with installed packages; None: those of ``sys.path``
    """
    entries: list[tuple[str, str, str]] = []
    bad: list[tuple[str, Exception]] = []
    for file in _files(sys.path if path is None else path):
        try:
            text = _read(file)
            # All of a file, or nothing.
            entries += [(file, name, reference) for name, reference in list(entry_points(text or "", group))]
        except (OSError, ValueError) as error:
            bad.append((file, error))
    return entries, bad


def entry_points(text: str, group: str) -> Iterator[tuple[str, str]]:
    """The names and references of a group in the text of a file of entry points.

    :raises EntryPointsError: a line of the group is none of the format
    """
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        if line[0] == "[" and line[-1] == "]":
            section = line[1:-1].strip()
        elif section == group:
            name, _, value = line.partition("=")
            reference = REFERENCE.fullmatch(value.strip())
            if reference is None:
                raise EntryPointsError(f"line {number} is not name = module:Class: {shown(line)}")
            yield name.strip(), f"{reference[1]}:{reference[2]}"


def package_of(file: str) -> str:
    """The package that a file of entry points belongs to, as its name and version."""
    stem = os.path.splitext(os.path.basename(os.path.dirname(file)))[0]
    return shown(stem.replace("-", " ", 1))[1:-1]


def shown(text: str) -> str:
    """A text from outside as it may stand in a message: short, and of characters that can be printed."""
    quoted = repr(text)
    return quoted if len(quoted) <= SHOWN else quoted[: SHOWN - 4] + "..." + quoted[-1]


def _files(path: Iterable[str]) -> Iterator[str]:
    """The files of entry points there may be, of each package that which would be imported."""
    seen = set()
    for directory in dict.fromkeys(path):
        try:
            names = sorted(os.listdir(directory or "."))
        except OSError:
            # a zip file, or what is not there
            continue
        for name in names:
            stem, ending = os.path.splitext(name)
            project = re.sub(r"[-_.]+", "-", stem.split("-")[0]).lower()
            if ending in (".dist-info", ".egg-info") and project not in seen:
                seen.add(project)
                yield os.path.join(directory, name, FILE)


def _read(file: str) -> str | None:
    """The text of a file; None when there is none.

    :raises OSError: it cannot be read
    :raises ValueError: it is no such text
    """
    try:
        # a FIFO must not keep the server waiting
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with open(descriptor, "rb") as opened:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise EntryPointsError("not a file")
        data = opened.read(FILE_LIMIT + 1)
    if len(data) > FILE_LIMIT:
        raise EntryPointsError(f"longer than {FILE_LIMIT} bytes")
    return data.decode("utf-8-sig")
