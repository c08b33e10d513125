"""Device classes of other packages, found by their entry points in the group ``raspy.devices``.

The name of an entry point is the oid, its value ``module:Class``. What is installed is read from the files
``entry_points.txt`` beside the packages (PyPA, "Entry points specification", "File format"; ``*.dist-info``: PyPA,
"Recording installed projects"). Nothing is imported, and not :mod:`importlib.metadata` either, which costs a server
3 MB.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator

from raspy.common.devices.command import shown
from raspy.common.devices.register import is_oid
from raspy.common.MDP import GenericError, logger

GROUP = "raspy.devices"
FILE = "entry_points.txt"
FILE_LIMIT = 1 << 18
"""Bytes of a file of entry points."""

REFERENCE = re.compile(r"(\w+(?:\.\w+)*)\s*:\s*(\w+(?:\.\w+)*)\s*(?:\[[\w\s,.-]*\])?", re.ASCII)
"""An object reference: the module, the object in it, and extras, which are old and mean nothing to us."""


class EntryPointsError(GenericError, ValueError):
    """A file of entry points that cannot be understood."""


def found(path: Iterable[str] | None = None) -> dict[str, str]:
    """The device classes of the installed packages, as ``module:Class`` by oid.

    What cannot be read or understood is left out, and the log says so. Of two that have the same oid the first on
    the path is taken.

    :param path: directories with installed packages; None: those of ``sys.path``
    """
    classes: dict[str, str] = {}
    for file in _files(sys.path if path is None else path):
        try:
            text = _read(file)
            entries = [] if text is None else list(entry_points(text, GROUP))
        except (OSError, ValueError) as error:
            logger.warning("%s: left out: %s", shown(file), error)
            continue
        for oid, reference in entries:
            if not is_oid(oid):
                logger.warning("%s: %s is left out: not an oid", shown(file), shown(oid))
            elif classes.setdefault(oid, reference) != reference:
                logger.warning("%s: %s is left out: it is %s already", shown(file), oid, classes[oid])
    return classes


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
                raise EntryPointsError(f"line {number} is not oid = module:Class: {shown(line)}")
            yield name.strip(), f"{reference[1]}:{reference[2]}"


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
