"""Backups and restores for the page: the command ``raspy backup`` or ``raspy restore``, in a process of its own.

There is one at a time. Its files are in the directory ``page`` of the exchange directory, which only this user may
enter, under names that are drawn by lot. What goes on and what came of it are the lines of JSON that the command
prints. Used from the threads that serve HTTP.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import threading
import time
from typing import Any

import msgspec

from raspy.common.backup.exchange import is_held, remove_tree
from raspy.common.directories import exchange_directory
from raspy.common.process import plain_environment
from raspy.web.refusal import Refusal
from raspy.web.texts import clean

PROGRAM = [sys.executable, os.path.join(os.path.dirname(os.path.dirname(__file__)), "__main__.py")]
BACKUP, CHECK, RESTORE = "backup", "check", "restore"
RUNNING, DONE, FAILED = "running", "done", "failed"
LONGEST = 3600.0
"""Seconds that one may take."""
KEPT = 900.0
"""Seconds for which a backup can be fetched, or a file that was sent be taken; the next one ends that too."""
TAIL = 65536
"""Bytes of what a command has said last that are looked at; a line has a few hundred."""
LAST = "restore"
"""Name of what the last restore said, which outlives this process: it is restarted by it."""
REASON = 500
"""Characters of what went wrong."""

logger = logging.getLogger("raspy.web")


class Job:
    """A backup or a restore.

    :param kind: :data:`BACKUP`, :data:`CHECK` or :data:`RESTORE`
    :param path: of the backup
    :param said: path of what the command says
    """

    def __init__(self, kind: str, path: str, said: str) -> None:
        self.kind = kind
        self.id = os.urandom(16).hex()
        self.path = path
        self.began = time.time()
        self.over = threading.Event()
        """Its process has ended."""
        self.gone = threading.Event()
        """Nobody asks for it any more."""
        self.pid = 0
        self._said = said
        self._pidfd = -1

    def start(self, words: list[str], environment: dict[str, str]) -> None:
        """Start the command, in a session of its own: it does not end with this process.

        :raises OSError: it cannot be started
        """
        new = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        self.pid = os.posix_spawn(
            words[0],
            words,
            environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, self._said, new, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE],
        )
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except OSError:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            raise
        threading.Thread(target=self._watch, daemon=True, name="raspy-job").start()

    @property
    def state(self) -> str:
        """:data:`RUNNING`, :data:`DONE` or :data:`FAILED`."""
        if not self.over.is_set():
            return RUNNING
        return DONE if self.outcome()[0] is not None else FAILED

    def progress(self) -> dict[str, Any]:
        """What goes on: ``step``, perhaps ``server``, ``done`` and ``of``; empty: nothing was said yet."""
        found = [line for line in lines(self._said) if line.get("event") == "progress"]
        return found[-1] if found else {}

    def outcome(self) -> tuple[dict[str, Any] | None, str]:
        """What came of it, or None and why not."""
        return outcome(lines(self._said), self.path)

    @property
    def decided(self) -> bool:
        """Whether servers were told to take what is restored: from then on it cannot be said that nothing changed."""
        return any(line.get("step") == "restart" for line in lines(self._said))

    def end(self) -> None:
        """Have it end; harmless when it has."""
        if not self.over.is_set():
            try:
                signal.pidfd_send_signal(self._pidfd, signal.SIGTERM)
            except OSError:
                pass

    def drop(self) -> None:
        """Remove its files but the last words of a restore."""
        self.gone.set()
        for path in (self.path, *(() if self.kind == RESTORE else (self._said,))):
            try:
                os.unlink(path)
            except OSError:
                pass

    def _watch(self) -> None:
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        if not poller.poll(LONGEST * 1000):
            logger.error("a %s took longer than %g s: it is ended", self.kind, LONGEST)
            self.end()
            poller.poll()
        os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        os.close(self._pidfd)
        self.over.set()
        if self.kind == RESTORE or self.state == FAILED:
            _unlink(self.path)
        elif not self.gone.wait(KEPT):
            self.drop()


class Jobs:
    """The one that is under way, or was last."""

    def __init__(self) -> None:
        self.config: str | None = None
        """Path of the configuration; None: the one that applies."""
        self._job: Job | None = None
        self._lock = threading.Lock()
        self._uploading = False

    @property
    def directory(self) -> str:
        """Where the files are."""
        return os.path.join(exchange_directory(), "page")

    def clear(self) -> None:
        """Remove what a process before this one has left, but what the last restore said."""
        try:
            for name in os.listdir(self.directory):
                if name != LAST:
                    remove_tree_or_file(os.path.join(self.directory, name))
        except FileNotFoundError:
            pass
        except OSError as error:
            logger.warning("%s: %s", error.filename, error.strerror)

    def close(self) -> None:
        """End what is under way, but a restore, which goes on without this process."""
        with self._lock:
            if self._job is not None and self._job.kind != RESTORE:
                self._job.end()
                self._job.drop()

    @property
    def job(self) -> Job | None:
        """The one that is under way, or whose outcome is still of interest."""
        job = self._job
        return None if job is None or job.gone.is_set() else job

    def find(self, identity: str, kind: str) -> Job:
        """The one of an id and kind that is done.

        :raises Refusal: there is none
        """
        job = self.job
        if job is None or job.id != identity or job.kind != kind or job.state != DONE or not os.path.exists(job.path):
            raise Refusal("404 Not Found", "it is not there any more; begin again")
        return job

    def new_path(self) -> str:
        """The path of a file to come.

        :raises Refusal: there can be none
        """
        try:
            # One after the other, so that the mode is that of both.
            for directory in (exchange_directory(), self.directory):
                os.makedirs(directory, mode=0o700, exist_ok=True)
            os.chmod(self.directory, 0o700)
        except OSError as error:
            raise Refusal("500 Internal Server Error", f"{self.directory}: {error.strerror}") from error
        return os.path.join(self.directory, f"{os.urandom(16).hex()}.backup")

    def begin(self, kind: str, path: str, partial: bool = False) -> Job:
        """Start one.

        :raises Refusal: another one is under way, or it cannot be started
        """
        with self._lock:
            if self.busy:
                raise Refusal("409 Conflict", "a backup or restore is under way; wait until it is over")
            before = self._job
            if before is not None and before.path != path:
                before.drop()
            said = os.path.join(self.directory, LAST if kind == RESTORE else f"{os.urandom(16).hex()}.said")
            job = Job(kind, path, said)
            words = {BACKUP: [BACKUP, path], CHECK: [RESTORE, "--check", path], RESTORE: [RESTORE, "--yes", path]}[kind]
            words += ["--json", *(["--partial"] if partial else [])]
            words += ["--config", self.config] if self.config else []
            environment = plain_environment()
            environment.pop("STATE_DIRECTORY", None)
            try:
                job.start([*PROGRAM, *words], environment)
            except OSError as error:
                _unlink(said)
                raise Refusal("500 Internal Server Error", f"it cannot be started: {error.strerror}") from error
            if before is not None and before.path == path:
                before.gone.set()
            self._job = job
            return job

    @property
    def busy(self) -> bool:
        """Whether one is under way here."""
        return self._job is not None and not self._job.over.is_set()

    @property
    def others(self) -> bool:
        """Whether somebody else backs up or restores, as a process before this one, or the command line."""
        try:
            return not self.busy and is_held()
        except OSError:
            return False

    def begin_upload(self) -> None:
        """A file is being sent, of which there is one at a time; backups go on meanwhile.

        :raises Refusal: another one is under way, or a backup or restore
        """
        with self._lock:
            if self._uploading or self.busy:
                raise Refusal("409 Conflict", "a backup or restore is under way; wait until it is over")
            self._uploading = True

    def end_upload(self) -> None:
        """It is no more. Called by the one that has begun it."""
        self._uploading = False

    def last_restore(self) -> tuple[dict[str, Any] | None, str, float] | None:
        """What came of the last restore, or why nothing, and when (Unix, s); None: there was none."""
        path = os.path.join(self.directory, LAST)
        try:
            when = os.stat(path).st_mtime
        except OSError:
            return None
        result, reason = outcome(lines(path))
        return result, reason, when


def lines(path: str) -> list[dict[str, Any]]:
    """The last JSON objects that a command has printed; a line that is none: one with ``text``."""
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - TAIL))
            said = file.read(TAIL)
    except OSError:
        return []
    found = []
    for line in said.splitlines():
        try:
            value = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            value = {"text": line.decode("utf-8", "replace").removeprefix("raspy: ")}
        if isinstance(value, dict):
            found.append(value)
    return found


def outcome(said: list[dict[str, Any]], path: str = "") -> tuple[dict[str, Any] | None, str]:
    """The result among what was said, or None and the reason in one sentence.

    :param path: which nobody needs to read in it
    """
    for kind in ("result", "error"):
        for line in reversed(said):
            if line.get("event") != kind:
                continue
            if kind == "result":
                return line, ""
            return None, _reason(line.get("error"), path)
    if any(line.get("step") == "restart" for line in said):
        return None, "it was decided, and each server takes its part when it starts; its end was not seen"
    texts = [line["text"] for line in said if isinstance(line.get("text"), str)]
    return None, _reason(texts[-1] if texts else "", path) or "it ended before it was done"


def _reason(text: Any, path: str) -> str:
    told = text if isinstance(text, str) else ""
    return clean(told.replace(path, "the file") if path else told, REASON)


def remove_tree_or_file(path: str) -> None:
    """Remove it, whatever it is.

    :raises OSError: it cannot be removed
    """
    if os.path.isdir(path) and not os.path.islink(path):
        remove_tree(path)
    else:
        _unlink(path)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
