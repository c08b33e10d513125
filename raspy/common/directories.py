"""Where the files of a server are, and those of a backup."""

from __future__ import annotations

import os

EXCHANGE = "/var/lib/raspy/exchange"
"""Where the files of a backup pass on an installed Pi, whose servers may be of several users."""


def state_directory(server: str) -> str:
    """Where a server keeps its files: ``$STATE_DIRECTORY`` (systemd's), else below ``$XDG_STATE_HOME/raspy``."""
    given = os.environ.get("STATE_DIRECTORY")
    if given:
        return given.split(":")[0]
    base = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(base, "raspy", server)


def exchange_directory() -> str:
    """Where files of a backup pass between the servers and the command line: ``$RASPY_EXCHANGE``, else that of an
    installed Pi where this user may write, else below ``$XDG_STATE_HOME/raspy``."""
    given = os.environ.get("RASPY_EXCHANGE")
    if given:
        return os.path.abspath(given)
    if os.path.isdir(EXCHANGE) and os.stat(EXCHANGE).st_mode & 0o020 and os.access(EXCHANGE, os.W_OK | os.X_OK):
        return EXCHANGE
    base = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(base, "raspy", "exchange")
