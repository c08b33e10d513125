"""A restore in the state directory of a server: staged beside its files, and put in their place once it is decided.

.. code-block:: text

   restore-ID.part/          being copied, or dropped; worth nothing
   restore-ID/               staged, whole and on the disk: the server's word that it can take it
     plan.json               the names of all that is in the restore
     core.db ...             what has not been put in its place yet
   restored-ID/              all of it is in its place
   before-restore-ID/        what was there before, until the next restore

A server that has given its word does not drop a restore by itself while whoever restores is alive. What is decided it
takes, whoever is alive: it looks every other second. Each step is one rename(2), and all of them can be repeated, so
that an end at any moment leads to all that was, or all that is new, at the next start.

What a server keeps a copy of in the store is marked as a change that the store does not have yet, and what was there
before and is not any more as deleted. So what is restored wins, also over an older store, when Titanic comes late or
never.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import msgspec

from raspy.common.backup import exchange
from raspy.common.backup.parts import BEFORE, ID, LOG_SUFFIXES, STAGED, BackupError, Part, staged
from raspy.common.directories import state_directory

logger = logging.getLogger("raspy.backup")

UNFINISHED, PLACED = ".part", "restored-"
PLAN = "plan.json"
STORE, PAGE = "titanic", "web"
"""The server whose store the others compare themselves with, and the one that does not; it shows how it goes, so it is
the last to restart."""
OTHERS_TIME, STORE_TIME = 15.0, 20.0
"""Seconds for which the store waits for the others, and these for the store."""
LOCK_TIME = 3.0
"""Seconds that a process before this one may take to end."""
PAUSE = 0.05
"""Seconds between looks whether something has come about."""
WAIT, TAKE, DROP = "wait", "take", "drop"


def place(directory: str, identity: str) -> str:
    """Where a restore is staged."""
    return os.path.join(directory, STAGED + identity)


def begin(directory: str, identity: str) -> str:
    """An empty directory for what is to be staged; others that were begun are dropped.

    :raises OSError: it cannot be made
    """
    os.makedirs(directory, mode=0o750, exist_ok=True)
    for name in os.listdir(directory):
        if name.startswith(STAGED):
            exchange.remove_tree(os.path.join(directory, name))
    path = place(directory, identity) + UNFINISHED
    os.mkdir(path, 0o700)
    return path


def give_word(directory: str, identity: str, names: Sequence[str]) -> None:
    """What was copied is whole: from now on it waits for the decision.

    :raises OSError: it is not on the disk
    """
    unfinished = place(directory, identity) + UNFINISHED
    with open(os.path.join(unfinished, PLAN), "xb") as file:
        file.write(msgspec.json.encode(list(names)))
        file.flush()
        os.fsync(file.fileno())
    for below in {os.path.dirname(name) for name in names} | {""}:
        exchange.sync(os.path.join(unfinished, below))
    os.rename(unfinished, place(directory, identity))
    exchange.sync(directory)


def drop(directory: str, identity: str) -> None:
    """Forget a restore that will not be taken; harmless when repeated.

    :raises OSError: it cannot be removed
    """
    exchange.remove_tree(place(directory, identity) + UNFINISHED)
    path = place(directory, identity)
    try:
        # Without its name it is not taken for a whole one.
        os.rename(path, path + UNFINISHED)
    except FileNotFoundError:
        return
    exchange.remove_tree(path + UNFINISHED)


def verdict(identity: str, server: str) -> str:
    """What becomes of a restore that is staged.

    :raises OSError: that cannot be seen
    """
    if exchange.is_decided(identity, server):
        if server != PAGE or set(exchange.open_decisions().get(identity, ())) <= {PAGE} or not exchange.is_held():
            return TAKE
        return WAIT
    if exchange.is_held():
        return WAIT
    # Once nobody restores, no decision can come any more; it may have come just before.
    return TAKE if exchange.is_decided(identity, server) else DROP


def settle(server: str, parts: Sequence[Part]) -> None:
    """Before a server opens its files: take a restore that is decided, drop one that never will be.

    :raises OSError: the disk does not let it be taken; the server must not go on with what it has
    """
    directory = state_directory(server)
    for identity in staged(directory):
        if exchange.is_decided(identity, server):
            with ExitStack() as locks:
                for part in parts:
                    for name in part.files(directory):
                        _lock(locks, os.path.join(directory, name + ".lock"))
                swap(directory, identity, parts)
        else:
            _drop_unless_awaited(directory, server, identity)
    for name in os.listdir(directory):
        if name.startswith(STAGED) and name.endswith(UNFINISHED):
            exchange.remove_tree(os.path.join(directory, name))
        identity = name.removeprefix(PLACED)
        if name.startswith(PLACED) and ID.fullmatch(identity):
            _in_place(directory, server, identity)


def _drop_unless_awaited(directory: str, server: str, identity: str) -> None:
    try:
        if verdict(identity, server) == DROP:
            logger.warning("%s: a restore that was never decided is dropped", server)
            drop(directory, identity)
    except OSError as error:
        # It is not decided, so the server may go on with what it has; it looks again when it runs.
        logger.warning("%s: what becomes of a restore that is staged cannot be seen: %s", server, error)


def _in_place(directory: str, server: str, identity: str) -> None:
    """Go on once the others are as far. The store must not be seen by a server that still has what was before, as it
    compares itself with it, nor what was in the store before by one that is restored."""
    if server == STORE:
        _wait(
            lambda: set(exchange.open_decisions().get(identity, ())) <= {server, PAGE}, OTHERS_TIME, "the other servers"
        )
    exchange.taken(identity, server)
    if server != STORE:
        _wait(lambda: not exchange.is_decided(identity, STORE), STORE_TIME, STORE)
    finish(directory, identity)
    logger.info("%s: restored; what was before is in %s%s", server, BEFORE, identity)


def swap(directory: str, identity: str, parts: Sequence[Part]) -> None:
    """Put what is staged in the place of what is there, which is kept. Every step can be repeated.

    :raises OSError: the disk does not do it
    """
    new, before = place(directory, identity), os.path.join(directory, BEFORE + identity)
    with open(os.path.join(new, PLAN), "rb") as file:
        names = msgspec.json.decode(file.read(), type=list[str])
    waiting = [name for name in names if os.path.lexists(os.path.join(new, name))]
    placed = set(names) - set(waiting)
    touched: set[str] = set()
    os.makedirs(before, mode=0o700, exist_ok=True)
    _adopt(directory, new, before, parts, waiting)
    for part in parts:
        # One that is in its place has no log yet: nobody has opened it.
        found = set(part.files(directory)) | {name for name in names if part.has(name)}
        for name in sorted(found - placed):
            for suffix in ("", *LOG_SUFFIXES) if part.schema else ("",):
                _move(os.path.join(directory, name + suffix), os.path.join(before, name + suffix), touched)
    _sync_all(touched)
    for name in waiting:
        _move(os.path.join(new, name), os.path.join(directory, name), touched)
    _sync_all(touched)
    os.rename(new, os.path.join(directory, PLACED + identity))
    exchange.sync(directory)


def _adopt(directory: str, new: str, before: str, parts: Sequence[Part], waiting: Sequence[str]) -> None:
    """Have what is restored win over the store: before the first step, and again until that is done."""
    for name in waiting:
        part = next((part for part in parts if part.has(name)), None)
        if part is None or part.adopt is None or os.path.lexists(os.path.join(before, name)):
            continue
        old, path = os.path.join(directory, name), os.path.join(new, name)
        part.adopt(path, old if os.path.exists(old) else None)
        os.chmod(path, part.mode)


def finish(directory: str, identity: str) -> None:
    """A restore is in its place, and everybody knows: forget it, and what was kept of one before it.

    :raises OSError: it cannot be removed
    """
    for name in os.listdir(directory):
        if name.startswith(BEFORE) and name != BEFORE + identity:
            exchange.remove_tree(os.path.join(directory, name))
    exchange.remove_tree(os.path.join(directory, PLACED + identity))


def _move(old: str, new: str, touched: set[str]) -> None:
    if os.path.lexists(old):
        to = os.path.dirname(new)
        os.makedirs(to, mode=0o700, exist_ok=True)
        os.rename(old, new)
        # The directory above has the name of one that was made.
        touched.update((os.path.dirname(old), to, os.path.dirname(to)))


def _sync_all(touched: set[str]) -> None:
    for path in sorted(touched):
        exchange.sync(path)
    touched.clear()


def _lock(locks: ExitStack, path: str) -> None:
    """See that nobody has a file open any more."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    locks.callback(os.close, lock)
    until = time.monotonic() + LOCK_TIME
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > until:
                raise BackupError(f"{path}: another process has it; is this server running twice?") from None
            time.sleep(PAUSE)


def _wait(over: Callable[[], bool], longest: float, whom: str) -> None:
    until = time.monotonic() + longest
    while not over():
        if time.monotonic() > until:
            logger.warning("restore: %s did not take it in %g s; this server starts without", whom, longest)
            return
        time.sleep(PAUSE)
