"""The versions of what runs here."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator

from raspy import __version__
from raspy.cli.command import body_value
from raspy.cli.doctor.check import Found, Look, check, ok, warning
from raspy.cli.status import GONE, PREFIX
from raspy.common import MDP
from raspy.common.appliance import at
from raspy.common.config import ConfigError


@check("versions")
def versions(look: Look) -> Iterator[Found]:
    """What is installed, and whether the servers run it."""
    yield ok(", ".join(f"{name} {version}" for name, version in known().items()))
    try:
        tree = look.request.snapshot(PREFIX)
    except (MDP.ConnectionLost, ConfigError):
        return
    others = {}
    for key, body in tree.items():
        fields = body_value(body)
        if isinstance(fields, dict) and fields.get("state") not in GONE and "version" in fields:
            others[key.removeprefix(PREFIX)] = str(fields["version"])
    wrong = [f"{name} {version}" for name, version in others.items() if version != __version__]
    if wrong:
        yield warning(
            f"running: {', '.join(wrong)}", f"restart what is older than {__version__} (raspy restart), or update it"
        )


def known() -> dict[str, str]:
    """By name; what cannot be told is left out."""
    from sqlite3 import sqlite_version

    import msgspec
    import zmq

    found = {
        "RasPy": __version__,
        "Python": sys.version.split()[0],
        "libzmq": zmq.zmq_version(),
        "pyzmq": zmq.__version__,
        "msgspec": str(getattr(msgspec, "__version__", "")),
        "SQLite": sqlite_version,
        "Linux": f"{os.uname().release} ({os.uname().machine})",
        "system": _system(),
        "board": _first(at("/proc/device-tree/model")).strip("\0 "),
    }
    return {name: version for name, version in found.items() if version and version != "unknown"}


def _system() -> str:
    """The distribution (os-release(5)), and which point release of Debian it is or descends from."""
    name = re.search(r'^PRETTY_NAME="?([^"\n]+)"?$', _first(at("/etc/os-release")), re.M)
    return " / ".join(filter(None, [name[1] if name else "", _first(at("/etc/debian_version")).strip()]))


def _first(path: str) -> str:
    """The beginning of a file; empty: it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(4096)
    except OSError:
        return ""
