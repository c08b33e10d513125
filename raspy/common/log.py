"""Logging: to the journal with fields under systemd, readable to the terminal elsewhere."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from typing import Any

import msgspec

_ESCAPES = {number: f"\\x{number:02x}" for number in (*range(32), *range(127, 160))}
_ESCAPES |= {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t", 0x2028: "\\u2028", 0x2029: "\\u2029"}

PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
"""syslog(3)'s priorities of Python's levels; whatever is less is 7, debug."""


def printable(text: str) -> str:
    """The text with its control characters escaped: it can neither forge a line nor steer a terminal."""
    return text.translate(_ESCAPES).encode("utf-8", "backslashreplace").decode()


def priority(level: int) -> int:
    """The syslog(3) priority of a level of :mod:`logging`."""
    return next((value for least, value in PRIORITIES if level >= least), 7)


class Formatter(logging.Formatter):
    """``12:03:04 onewire  warning  text``; the lines of a traceback are indented below it.

    :param name: the server that logs
    :param form: "line" as above; "message": text and traceback alone, for the journal's own handler, where the
        rest is fields; "prefix": each line behind ``<priority>``, as journald reads it from a pipe
    """

    def __init__(self, name: str, form: str = "line") -> None:
        super().__init__(datefmt="%H:%M:%S")
        self._name = name
        self._form = form

    def format(self, record: logging.LogRecord) -> str:
        """The record as text, each line of which is known to be ours."""
        lines = [printable(record.getMessage())]
        if record.exc_info:
            lines += ["    " + printable(line) for line in self.formatException(record.exc_info).splitlines()]
        if self._form == "message":
            return "\n".join(lines)
        if self._form == "prefix":
            mark = f"<{priority(record.levelno)}>"
            return "\n".join(mark + line for line in lines)
        when = self.formatTime(record, self.datefmt)
        lines[0] = f"{when} {self._name:<10} {record.levelname.lower():<8}  {lines[0]}"
        return "\n".join(lines)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (Unix, s), server, level, text and, after an exception, trace."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON, in which control characters are escaped."""
        fields: dict[str, Any] = {
            "time": round(record.created, 3),
            "server": self._name,
            "level": record.levelname.lower(),
            "text": printable(record.getMessage()),
        }
        if record.exc_info:
            fields["trace"] = [printable(line) for line in self.formatException(record.exc_info).splitlines()]
        return msgspec.json.encode(fields).decode()


class RateLimit(logging.Filter):
    """Lets the same message through a few times in an interval, whatever its arguments are.

    What is logged of foreign peers can come thousands of times a second, and would wear a card out. The first one
    of the next interval says how many were left out. A record with a traceback counts like any other.
    """

    def __init__(self, most: int = 30, interval: float = 10.0) -> None:
        super().__init__()
        self._most = most
        self._interval = interval
        self._began = 0.0
        self._counts: dict[tuple[str, object], int] = {}
        self._left_out: dict[tuple[str, object], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written."""
        now = time.monotonic()
        if now - self._began >= self._interval:
            self._left_out = {key: n - self._most for key, n in self._counts.items() if n > self._most}
            self._counts.clear()
            self._began = now
        key = (record.name, record.msg)
        count = self._counts[key] = self._counts.get(key, 0) + 1
        missing = self._left_out.pop(key, 0)
        if missing:
            record.msg = f"{record.getMessage()} ({missing} more like this were left out)"
            record.args = ()
        return count <= self._most


def under_journal() -> bool:
    """Whether stderr is a stream to journald: ``$JOURNAL_STREAM`` names its inode (systemd.exec(5))."""
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def journal_handler(name: str, hostname: str) -> logging.Handler | None:
    """systemd-python's handler, which adds PRIORITY, CODE_FILE, CODE_LINE, CODE_FUNC; or None.

    :param name: for the field RASPY_SERVER, and SYSLOG_IDENTIFIER
    :param hostname: for the field RASPY_HOST
    """
    try:
        from systemd.journal import JournalHandler
    except ImportError:
        return None
    fields: dict[str, Any] = {
        "SYSLOG_IDENTIFIER": f"raspy-{name}",
        "RASPY_SERVER": name,
        "RASPY_HOST": hostname,
    }
    handler: logging.Handler = JournalHandler(**fields)
    handler.setFormatter(Formatter(name, "message"))
    return handler


def setup(name: str, level: str = "info", hostname: str = "", json: bool = False) -> None:
    """Send what is logged, and every exception that nobody caught, to where this process is read.

    :param name: the server's name
    :param level: debug, info, warning or error
    :param hostname: this host's name on the bus
    :param json: write JSON objects to stderr instead of what suits the place
    """
    handler = journal_handler(name, hostname) if under_journal() and not json else None
    if handler is None:
        handler = logging.StreamHandler(sys.stderr)
        # What no line of ours shows need not be looked up for each record.
        logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
        handler.setFormatter(JsonFormatter(name) if json else Formatter(name, "prefix" if under_journal() else "line"))
    handler.addFilter(RateLimit())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    crash = logging.getLogger("raspy.crash")
    sys.excepthook = lambda *error: crash.critical("ended by an error nobody expected", exc_info=error)
    threading.excepthook = lambda caught: crash.error(
        "a thread ended by an error nobody expected", exc_info=caught.exc_value or True
    )
