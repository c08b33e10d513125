"""Where a machine that is an appliance has what root does for it: what the page can ask for, and what it is told.

What root does is in :mod:`raspy.cli.appliance`; systemd starts it, at boot and when a request is there. A request is an
empty file in the directory of the page's server; who may write there may ask for these three things, and nothing else.
"""

from __future__ import annotations

import os
import stat

import msgspec

RESTART, POWER_OFF, RESET = "restart", "power-off", "factory-reset"
REQUESTS = (RESTART, POWER_OFF, RESET)
PREFIX = "please-"
"""Of a request's file; ``appliance-request.path`` has the whole names."""
LISTENS = "/etc/systemd/system/multi-user.target.wants/appliance-request.path"
"""Is there where root listens to requests."""
REPORT = "/run/raspy-appliance/report.json"
LIMIT = 65536
"""Bytes of a report."""
PROBLEMS = 10
LONGEST = 500
"""Characters of a problem."""


class Report(msgspec.Struct):
    """What the last boot found wrong with what is on the boot partition."""

    problems: list[str] = []


def at(path: str) -> str:
    """A path of this machine; tests have theirs below ``$RASPY_TEST_ROOT``."""
    return os.environ.get("RASPY_TEST_ROOT", "") + path


def listens() -> bool:
    """Whether root listens to requests: not on a machine that somebody else looks after, nor in development."""
    return os.path.lexists(at(LISTENS))


def ask(directory: str, request: str) -> None:
    """Ask root for something; it is done a moment later, or at the next start when the power goes before.

    :param directory: of the page's server
    :param request: one of :data:`REQUESTS`
    :raises OSError: it cannot be asked for
    """
    place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(os.open(PREFIX + request, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=place))
        # The file, which is empty, comes along.
        os.fsync(place)
    finally:
        os.close(place)


def problems() -> list[str]:
    """What the last boot found wrong with what is on the boot partition; a report that is no good says nothing."""
    try:
        opened = os.open(at(REPORT), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            return []
        found = msgspec.json.decode(os.read(opened, LIMIT), type=Report).problems
    except (OSError, ValueError, RecursionError):
        return []
    finally:
        os.close(opened)
    return [text[:LONGEST] for text in found[:PROBLEMS]]
