"""Logging: to the journal with fields under systemd, readable to the terminal elsewhere."""

from __future__ import annotations

import logging
import os
import select
import socket
import sys
import threading
import time
from collections import deque
from queue import SimpleQueue
from typing import Any

import msgspec

_ESCAPES = {number: f"\\x{number:02x}" for number in (*range(32), *range(127, 160))}
_ESCAPES |= {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t", 0x2028: "\\u2028", 0x2029: "\\u2029"}

PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
"""syslog(3)'s priorities of Python's levels; whatever is less is 7, debug."""


def printable(text: str) -> str:
    """The text with its control characters escaped: it can neither forge a line nor steer a terminal."""
    return text.translate(_ESCAPES).encode("utf-8", "backslashreplace").decode()


WAITING_RECORDS = 500
"""Records that wait for whoever reads the log, at most."""
WAITING_TEXT = 131072
"""Characters of their text, at most, unless one alone has more."""
JOURNAL = "/run/systemd/journal/socket"
"""Where journald takes records with fields."""
JOURNAL_TEXT = 8_000
"""Characters of a record in the journal: 32 KB at most, for which every kernel has the memory at once."""
MORE = "    ... "
"""Before each further part of a text that is longer, so that no foreign text begins a record."""
KEPT_RECORDS, KEPT_TEXT = 200, 300
"""Records that a process keeps of its own, and characters of each."""
LAST_WORDS = 2.0
"""Seconds at most that the end of a process waits until what it has logged is written."""


def priority(level: int) -> int:
    """The syslog(3) priority of a level of :mod:`logging`."""
    return next((value for least, value in PRIORITIES if level >= least), 7)


class Formatter(logging.Formatter):
    """``12:03:04 onewire  warning  text``; the lines of a traceback are indented below it.

    :param name: the server that logs
    :param form: "line" as above; "message": text and traceback alone, for :class:`JournalHandler`, where the
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


class Recent(logging.Filter):
    """Keeps the last records that pass, from INFO on, for whoever asks the process; lets everything through."""

    def __init__(self) -> None:
        super().__init__()
        self._records: deque[tuple[float, int, str, str]] = deque(maxlen=KEPT_RECORDS)

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep the record; of an exception, what it says."""
        if record.levelno >= logging.INFO:
            text = record.getMessage()
            if record.exc_info and record.exc_info[1] is not None:
                text += f": {type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
            self._records.append((record.created, record.levelno, record.name, printable(text[:KEPT_TEXT])))
        return True

    def last(self, most: int) -> list[dict[str, Any]]:
        """The last records, the newest last: time (Unix, s), level, name, text."""
        found = list(self._records)[-most:] if most > 0 else []
        return [
            {"time": round(created, 3), "level": logging.getLevelName(level).lower(), "name": name, "text": text}
            for created, level, name, text in found
        ]


RECENT = Recent()
"""The records of this process."""


class DescriptorHandler(logging.Handler):
    """Writes the lines of records to a file descriptor, waiting for as long as nobody reads it.

    Without a stream, whose lock would be held meanwhile, and would be missed at the end of the process.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def emit(self, record: logging.LogRecord) -> None:
        """Write it, or forget it when nobody can read it any more."""
        left = (self.format(record) + "\n").encode("utf-8", "backslashreplace")
        try:
            while left:
                try:
                    left = left[os.write(self._descriptor, left) :]
                except BlockingIOError:
                    # Others have the same open file, and may have made it so.
                    poller = select.poll()
                    poller.register(self._descriptor, select.POLLOUT)
                    poller.poll()
        except OSError:
            pass  # a closed pipe, a terminal that is gone, a full disk


class JournalHandler(logging.Handler):
    """Sends records to journald with fields of their own, waiting for as long as it takes none.

    As https://systemd.io/JOURNAL_NATIVE_PROTOCOL has it. (systemd-python does the same, for 0.3 MB in each process.)

    :param fields: what all records have
    """

    def __init__(self, **fields: str) -> None:
        super().__init__()
        self._fields = fields
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def emit(self, record: logging.LogRecord) -> None:
        """Send it, or forget it when no journald is there. A long text becomes several records."""
        fields = {
            **self._fields,
            "PRIORITY": str(priority(record.levelno)),
            "LOGGER": record.name,
            "CODE_FILE": record.pathname,
            "CODE_LINE": str(record.lineno),
            "CODE_FUNC": record.funcName or "",
        }
        head = b"".join(journal_field(name, value) for name, value in fields.items())
        text = self.format(record)
        try:
            for start in range(0, len(text) or 1, JOURNAL_TEXT):
                part = (MORE if start else "") + text[start : start + JOURNAL_TEXT]
                self._socket.sendto(head + journal_field("MESSAGE", part), JOURNAL)
        except OSError:
            pass

    def close(self) -> None:
        """Let go of the socket."""
        self._socket.close()
        super().close()


def journal_field(name: str, value: str) -> bytes:
    """A field as journald takes it; one of several lines has its length before it (64 bits, little-endian)."""
    data = value.encode("utf-8", "backslashreplace")
    if b"\n" in data:
        return name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
    return name.encode() + b"=" + data + b"\n"


class QueueHandler(logging.Handler):
    """Formats records, and has another handler write them on a thread, so that nobody has to wait for it.

    A terminal that is held (Ctrl-S), a stopped pager and a hung journald read nothing, and would stop the loop of
    every process that logs. When too much waits, what comes is dropped, and counted in a line of its own.
    (logging.handlers has a class like this, and imports pickle and more.)

    :param target: what writes; its own formatter is not used
    """

    def __init__(self, target: logging.Handler) -> None:
        super().__init__()
        self._target = target
        target.setFormatter(None)
        # Its put() neither waits nor takes a lock that a signal handler could find taken.
        self._queue: SimpleQueue[logging.LogRecord | threading.Event] = SimpleQueue()
        # Two counters that only grow, as each has one writer: emit() is called with the handler's lock held.
        self._put = 0
        self._written = 0
        self._lost = 0
        threading.Thread(target=self._write, daemon=True, name="raspy-log").start()

    def emit(self, record: logging.LogRecord) -> None:
        """Have it written, unless too much waits already."""
        try:
            text = self.format(record)
        except Exception:
            self.handleError(record)
            return
        waiting = self._put - self._written
        if waiting and (self._queue.qsize() >= WAITING_RECORDS or waiting + len(text) > WAITING_TEXT):
            self._lost += 1
            return
        self._tell_lost()
        self._enqueue(record, text)

    def flush(self) -> None:
        """Wait until all is written, :data:`LAST_WORDS` seconds at most; :mod:`logging` calls it at the exit."""
        self._tell_lost()
        written = threading.Event()
        self._queue.put(written)
        written.wait(LAST_WORDS)

    def _tell_lost(self) -> None:
        if self._lost:
            values: dict[str, Any] = {"name": "raspy.log", "levelno": logging.WARNING, "levelname": "WARNING"}
            values["msg"] = f"{self._lost} lines were lost here: more than the reader of the log took"
            self._lost = 0
            record = logging.makeLogRecord(values)
            self._enqueue(record, self.format(record))

    def _enqueue(self, record: logging.LogRecord, text: str) -> None:
        # A copy, whose text is all that is left to say: what its arguments name may have changed until it is written.
        values = {"msg": text, "args": (), "exc_info": None, "exc_text": None, "stack_info": None}
        self._put += len(text)
        self._queue.put(logging.makeLogRecord({**record.__dict__, **values}))

    def _write(self) -> None:
        while True:
            entry = self._queue.get()
            if isinstance(entry, threading.Event):
                entry.set()
                continue
            try:
                # Not handle(), whose lock logging takes at the end of the process.
                self._target.emit(entry)
            except Exception:
                self._target.handleError(entry)
            self._written += len(entry.msg)
            del entry


def under_journal() -> bool:
    """Whether stderr is a stream to journald: ``$JOURNAL_STREAM`` names its inode (systemd.exec(5))."""
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def setup(name: str, level: str = "info", hostname: str = "", json: bool = False) -> None:
    """Send what is logged, and every exception that nobody caught, to where this process is read.

    Logging never waits for the reader, see :class:`QueueHandler`.

    :param name: the server's name
    :param level: debug, info, warning or error
    :param hostname: this host's name on the bus
    :param json: write JSON objects to stderr instead of what suits the place
    """
    # What no line of ours shows need not be looked up for each record.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    target: logging.Handler = DescriptorHandler(2)
    form = "prefix" if under_journal() else "line"
    if form == "prefix" and not json and os.path.exists(JOURNAL):
        target = JournalHandler(SYSLOG_IDENTIFIER=f"raspy-{name}", RASPY_SERVER=name, RASPY_HOST=hostname)
        form = "message"
    handler = QueueHandler(target)
    handler.setFormatter(JsonFormatter(name) if json else Formatter(name, form))
    handler.addFilter(RateLimit())
    handler.addFilter(RECENT)
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
