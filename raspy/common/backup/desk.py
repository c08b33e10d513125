"""A server's side of backup and restore: verbs of ``<hostname>.<server>.mmi``.

A backup is ``backup_save``, then ``backup_status`` until it is done. A restore is ``backup_stage``, then
``backup_status``; then ``backup_commit`` once it is decided (:mod:`raspy.common.backup.exchange`), or
``backup_discard``. Files pass through the exchange directory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from raspy.common import MDP
from raspy.common.backup.parts import ID, BackupError, is_restoring, restored, staged
from raspy.common.directories import exchange_directory, state_directory
from raspy.common.pool import PoolFull
from raspy.common.verbs import Later, VerbError, Verbs

if TYPE_CHECKING:
    from raspy.common.backup.copying import Job
    from raspy.common.pool import Done
    from raspy.common.server import Server

LOOK = 2.0
"""Seconds between looks whether a staged restore was decided: nobody needs to tell it."""
AGAIN = 0.1
"""Seconds between two looks whether a job has ended."""
NEVER = 1e9
"""Seconds: a job ends when its files are copied; the disk decides how long that takes."""

BACKUP = Verbs("mmi")
"""They are no service of their own, as a connection that is used once a week would take its memory all the time."""


class Desk:
    """What goes on for a backup or a restore, one thing at a time. Everything here is called on the loop, which looks
    at no disk but at the start.

    :param server: whose files they are
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.directory = state_directory(server.service)
        self._exchange = exchange_directory()
        self._restored = restored(self.directory)
        self.job: Job | None = None
        self._running = False
        self._watching = False
        self._leaving = False

    def start(self) -> None:
        """Look whether a restore is staged that is not decided yet."""
        if is_restoring(self.directory):
            self._watch()

    def begin(self, identity: str, doing: str) -> dict[str, Any]:
        """Save or stage; :meth:`status` tells how it goes.

        :raises VerbError: something else goes on, or there is no thread for it
        """
        from raspy.common.backup.copying import Job

        if self._running:
            raise VerbError(MDP.CONFLICT, "another backup or restore is under way here")
        job = Job(identity, doing, lambda: not self.server.stopping)
        copy = save if doing == "save" else stage
        try:
            self._begin(copy, job, self.server, self.directory, done=lambda _, error: self._ended(job, error))
        except PoolFull as error:
            raise VerbError(MDP.UNAVAILABLE, str(error)) from error
        self.job = job
        return self.status()

    def _begin(self, function: Callable[..., Any], *args: Any, done: Done) -> None:
        """Have it done on a pool thread, and nothing else meanwhile.

        :raises PoolFull: there is none for it
        """
        self.server.in_pool(function, *args, done=done, timeout=NEVER)
        self._running = True

    def status(self) -> dict[str, Any]:
        """How it goes."""
        job = self.job
        told: dict[str, Any] = {
            "instance": self.server.get_instance_id(),
            "exchange": self._exchange,
            "restored": self._restored,
            "keeps": {part.name: part.schema for part in self.server.KEEPS},
            "state": "idle",
        }
        if job is not None:
            told.update(id=job.id, doing=job.doing, state=job.state, problem=job.problem, done=job.done, of=job.of)
            told["members"] = job.members if job.state == "done" else []
        return told

    def discard(self, identity: str) -> Later:
        """End a job, and drop what it has staged."""
        later = Later()
        if self.job is not None and self.job.id == identity:
            self.job.cancelled = True
        self._when_idle(lambda: self._drop(identity, later))
        return later

    def commit(self, identity: str) -> Later:
        """End, if that is decided; the next start takes what is staged. Without it that is seen at the next look.

        :raises VerbError: there is no thread to look
        """
        later = Later()

        def judged(refusal: tuple[bytes, str] | None, error: BaseException | None) -> None:
            if error is not None:
                later.fail(MDP.ERROR, str(error))
            elif refusal is not None:
                later.fail(*refusal)
            else:
                later.reply("restarting")
                self._leave()

        try:
            self.server.in_pool(refusal, self.directory, identity, self.server.service, done=judged, timeout=NEVER)
        except PoolFull as error:
            raise VerbError(MDP.UNAVAILABLE, str(error)) from error
        return later

    def _ended(self, job: Job, error: BaseException | None) -> None:
        from raspy.common.backup.copying import Cancelled, told

        self._running = False
        if error is None:
            job.state = "done"
        else:
            job.state, job.problem = "failed", "cancelled" if isinstance(error, Cancelled) else told(error, job.doing)
            if not isinstance(error, Cancelled):
                MDP.logger.warning("%s of a backup: %s", job.doing, job.problem)
        if job.doing == "stage":
            self._watch()

    def _when_idle(self, act: Callable[[], None]) -> None:
        if self._running:
            self.server.call_later(AGAIN, self._when_idle, act)
        else:
            act()

    def _drop(self, identity: str, later: Later) -> None:
        def dropped(_: Any, error: BaseException | None) -> None:
            self._running = False
            if error is None:
                later.reply("discarded")
            else:
                later.fail(MDP.ERROR if isinstance(error, OSError) else MDP.CONFLICT, str(error))

        try:
            self._begin(drop, self.directory, identity, self.server.service, done=dropped)
        except PoolFull as error:
            later.fail(MDP.UNAVAILABLE, str(error))

    def _watch(self) -> None:
        """Have what is staged looked after: whoever restores may be gone, or not heard, before all are told."""
        if not self._watching:
            self._watching = True
            self.server.call_later(LOOK, self._look)

    def _look(self) -> None:
        self._watching = False
        if self._running or self.server.stopping:
            self._watch()
            return
        try:
            self._begin(judge, self.directory, self.server.service, done=self._judged)
        except PoolFull:
            self._watch()

    def _judged(self, found: str | None, error: BaseException | None) -> None:
        from raspy.common.backup import staging

        self._running = False
        if error is not None:
            self.server.report(error, "looking after a restore")
        if found == staging.TAKE:
            self._leave()
        elif found == staging.WAIT or error is not None:
            self._watch()

    def _leave(self) -> None:
        if self._leaving:
            return
        self._leaving = True
        MDP.logger.info("ending, to start with what is restored")
        self.server.restart()


def save(job: Job, server: Server, directory: str) -> None:
    """On a pool thread: copy what the server keeps into the exchange."""
    from raspy.common.backup import copying, exchange

    copying.save(job, server.KEEPS, directory, exchange.work(job.id, server.service))


def stage(job: Job, server: Server, directory: str) -> None:
    """On a pool thread: copy what is to be restored beside what the server keeps, and check it.

    :raises BackupError: another restore waits already
    """
    from raspy.common.backup import copying, exchange, staging

    for identity in staged(directory):
        if exchange.is_decided(identity, server.service):
            raise BackupError("another restore waits for this server's restart: restart it first")
    target = staging.begin(directory, job.id)
    try:
        names = copying.take(job, server.KEEPS, exchange.work(job.id, server.service), target)
        job.look()
        staging.give_word(directory, job.id, names)
    except BaseException:
        staging.drop(directory, job.id)
        raise


def drop(directory: str, identity: str, server: str) -> None:
    """On a pool thread: drop what is staged.

    :raises ValueError: it is decided
    """
    from raspy.common.backup import exchange, staging

    if exchange.is_decided(identity, server):
        raise ValueError("this restore is decided, and cannot be discarded")
    staging.drop(directory, identity)


def refusal(directory: str, identity: str, server: str) -> tuple[bytes, str] | None:
    """On a pool thread: why the server is not to end for a restore, with the status of the answer; None: it is."""
    from raspy.common.backup import exchange

    if identity not in staged(directory):
        return MDP.NOT_FOUND, "no such restore is staged here"
    if not exchange.is_decided(identity, server):
        return MDP.CONFLICT, "this restore is not decided"
    return None


def judge(directory: str, server: str) -> str:
    """On a pool thread: what the server is to do about what is staged; what nobody will decide is dropped."""
    from raspy.common.backup import staging

    verdicts = set()
    for identity in staged(directory):
        found = staging.verdict(identity, server)
        verdicts.add(found)
        if found == staging.DROP:
            MDP.logger.warning("a restore that was never decided is dropped")
            staging.drop(directory, identity)
    return next((each for each in (staging.TAKE, staging.WAIT) if each in verdicts), staging.DROP)


def _desk(server: Server) -> Desk:
    if server.desk is None:
        raise VerbError(MDP.NOT_FOUND, f"{server.name} keeps nothing")
    return server.desk


def _id(text: str) -> str:
    if ID.fullmatch(text) is None:
        raise VerbError(MDP.BAD_REQUEST, f"{text[:40]!r} is no ID: 16 to 32 hexadecimal digits")
    return text


@BACKUP.verb()
def backup_save(server: Server, identity: str) -> dict[str, Any]:
    """Begin to copy what the server keeps into the exchange directory; ``backup_status`` tells how it goes."""
    return _desk(server).begin(_id(identity), "save")


@BACKUP.verb()
def backup_stage(server: Server, identity: str) -> dict[str, Any]:
    """Begin to copy what is to be restored beside what the server keeps, and check it; nothing is changed yet."""
    return _desk(server).begin(_id(identity), "stage")


@BACKUP.verb(reads=True)
def backup_status(server: Server) -> dict[str, Any]:
    """What the server keeps, with the versions of the schemas it knows, and how what was begun goes."""
    return _desk(server).status()


@BACKUP.verb()
def backup_discard(server: Server, identity: str) -> Later:
    """End what was begun, and drop what was staged."""
    return _desk(server).discard(_id(identity))


@BACKUP.verb()
def backup_commit(server: Server, identity: str) -> Later:
    """End, so that the next start takes what is staged. Refused (409) unless that was decided."""
    return _desk(server).commit(_id(identity))
