"""Writes all that this Pi keeps into one file: devices, settings, scenarios, cron jobs, variables, history, password.

Everything goes on meanwhile. FILE is a file or a directory; - writes to standard output. Without it the file is
raspy-HOST-DATE.backup in this directory. It holds passwords and keys: keep it as safe as those. With --json each line
is a JSON object: what goes on, and at last the result, or the error.
Exit code: 0 good, 1 a server does not run or cannot be saved, the disk is full, or the broker does not answer.
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, cast

import msgspec

from raspy.cli import OutputError
from raspy.cli.command import Request, UseError, text_of
from raspy.common import MDP
from raspy.common.backup.client import Coordinator
from raspy.common.backup.exchange import sync
from raspy.common.backup.parts import BackupError
from raspy.common.config import ConfigError
from raspy.common.log import printable
from raspy.common.registry import SERVERS
from raspy.common.runner import chosen_servers, load_class

STEPS = {
    "verify": "checking the file",
    "save": "saving",
    "write": "writing the file",
    "stage": "checking and copying",
    "decide": "all servers can take it",
    "restart": "restarting",
}
"""What is said of what goes on."""
PACE = 0.2
"""Seconds between two lines of one step."""
PART = re.compile(r"\.raspy-[0-9]+\.part")
"""Name of a file that is being written."""


class Progress:
    """Tells how it goes: a JSON object a line on standard output, or one line on a terminal that changes.

    :param json: the former
    """

    def __init__(self, json: bool) -> None:
        self._json = json
        self._terminal = not json and sys.stderr.isatty()
        self._last: tuple[Any, Any] = (None, None)
        self._told = 0.0

    def __call__(self, event: dict[str, Any]) -> None:
        """Tell."""
        step = event.get("step"), event.get("server")
        over = event.get("done") == event.get("of")
        now = time.monotonic()
        if step == self._last and not over and now - self._told < PACE:
            return
        self._last, self._told = step, now
        try:
            if self._json:
                line({"event": "progress", **event})
            elif self._terminal:
                words = [STEPS[event["step"]], event.get("server", "")]
                if event.get("of"):
                    words.append(f"{100 * event['done'] // event['of']} %")
                sys.stderr.write(f"\r\x1b[K{' '.join(filter(None, words))}")
                sys.stderr.flush()
        except OutputError:
            # Nobody reads, which is no reason to leave a restore half done.
            self._json = False

    def end(self) -> None:
        """Leave the terminal as it was."""
        if self._terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


class Output:
    """Standard output, as what a backup is written to."""

    def write(self, data: bytes) -> None:
        """Write all of it."""
        try:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        except OSError as error:
            raise OutputError(error) from error

    def fileno(self) -> int:
        """Its descriptor."""
        return sys.stdout.fileno()


@contextmanager
def coordinated(request: Request) -> Iterator[tuple[Coordinator, Progress]]:
    """Who speaks with the servers, and what tells how it goes, and with --json how it failed.

    SIGTERM ends it as Ctrl-C does, so that nothing is left behind.
    """
    progress = Progress(request.json)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Coordinator(request.address, request.host, keepers(request), progress) as coordinator:
            yield coordinator, progress
    except MDP.GenericError as error:
        if request.json:
            line({"event": "error", "error": str(error)})
        raise
    finally:
        progress.end()


def line(event: dict[str, Any]) -> None:
    """Print a JSON object in a line, at once."""
    try:
        sys.stdout.write(msgspec.json.encode(event).decode() + "\n")
        sys.stdout.flush()
    except OSError as error:
        raise OutputError(error) from error


def keepers(request: Request) -> list[str]:
    """The servers that are to run on this host, and keep something."""
    found = []
    for name in chosen_servers(request.config):
        try:
            if getattr(load_class(name), "KEEPS", ()):
                found.append(name)
        except ConfigError:
            continue  # what it needs is not installed, so it does not run
    return [name for name in SERVERS if name in found]


def arguments(parser: ArgumentParser) -> None:
    """Where to."""
    parser.add_argument("file", metavar="FILE", nargs="?", default=".", help="a file, a directory, or -")
    parser.add_argument("--partial", action="store_true", help="leave out a server that does not run")


def act(request: Request) -> dict[str, Any] | None:
    """Ask all servers, and write the file."""
    words = request.arguments
    if words.file == "-" and request.json:
        raise UseError("backup: - and --json both want standard output: name a file")
    if words.file == "-" and sys.stdout.isatty():
        raise UseError("backup: it would be written to the terminal: name a file")
    with coordinated(request) as (coordinator, _):
        if words.file == "-":
            result = coordinator.backup(cast("BinaryIO", Output()), words.partial)
        else:
            result = _to_file(coordinator, place(words.file, request.host), words.partial)
    if request.json:
        line({"event": "result", **result})
        return None
    if words.file == "-":
        _warn(result)
        return None
    return result


def place(path: str, host: str) -> str:
    """The file that is meant."""
    if not os.path.isdir(path):
        return path
    return os.path.join(path, f"raspy-{host}-{time.strftime('%Y%m%d-%H%M%S')}.backup")


def _to_file(coordinator: Coordinator, path: str, partial: bool) -> dict[str, Any]:
    """Write a file, whole or not at all, that nobody else can read."""
    path = os.path.realpath(path)
    if os.path.exists(path) and not os.path.isfile(path):
        raise BackupError(f"{text_of(path)}: is not a file")
    part = os.path.join(os.path.dirname(path), f".raspy-{os.getpid()}.part")
    try:
        _clear(os.path.dirname(path))
        try:
            opened = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with open(opened, "wb") as file:
                with suppress(OSError):  # some file systems have no locks, and nobody clears there
                    fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                result = coordinator.backup(file, partial)
                file.flush()
                os.fsync(file.fileno())
                length = os.fstat(file.fileno()).st_size
            os.replace(part, path)
            sync(os.path.dirname(path))
        except BaseException:
            if os.path.lexists(part):
                os.unlink(part)
            raise
    except MDP.GenericError:
        raise
    except OSError as error:
        raise BackupError(f"{text_of(path)} cannot be written: {error.strerror or error}") from error
    return {"file": text_of(path), "size": length, **result}


def _clear(directory: str) -> None:
    """Remove what one that was killed has left: nobody has it locked any more.

    :raises OSError: the directory cannot be read
    """
    for name in filter(PART.fullmatch, os.listdir(directory)):
        path = os.path.join(directory, name)
        try:
            opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            continue  # somebody else's
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)
        except OSError:
            continue
        finally:
            os.close(opened)


def show(result: dict[str, Any]) -> None:
    """Print what is in it, and where it is."""
    show_servers(result["servers"])
    for name, why in result["left"].items():
        print(f"{name}: NOT in it: {printable(why)}")
    print(f"written to {printable(result['file'])}, {amount(result['size'])}")
    print("It holds passwords and keys: keep it as safe as those.")


def amount(count: int) -> str:
    """Bytes, as they are shown."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{-(-count // 1000)} kB"


def show_servers(servers: dict[str, dict[str, int]]) -> None:
    """Print a line for each server."""
    for name, files in servers.items():
        print(f"{name}: {', '.join(f'{each} ({amount(count)})' for each, count in files.items()) or 'nothing yet'}")


def _warn(result: dict[str, Any]) -> None:
    for name, why in result["left"].items():
        sys.stderr.write(f"raspy: {name}: NOT in it: {printable(why)}\n")
