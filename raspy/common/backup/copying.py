"""What a pool thread of a server does for a backup or a restore: copy its files out, and in, and check them."""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import msgspec

from raspy.common.backup import exchange
from raspy.common.backup.parts import PLAIN_LIMIT, BackupError, Part, part_of
from raspy.common.sqlitefile import APPLICATION_ID, CACHE_KIB, explain

PAGES = 64
"""Pages that are copied at a time."""
PAUSE = 0.005
"""Seconds between two times, in which the card is for others."""
CHUNK = 1 << 18
"""Bytes of a file that are copied at a time."""
RESERVE = 32 << 20
"""Bytes of the disk that are left for those who go on writing."""
LOOK = 10_000
"""Steps of SQLite's machine between two looks whether a check is still wanted."""
LISTING = "members.json"
"""The list of what is to be taken, beside it."""
LISTING_LIMIT = 1 << 20


class Cancelled(Exception):
    """The job is not wanted any more."""


class Listed(msgspec.Struct):
    """One file that passes: it is ``file`` in the exchange, ``name`` in the state directory."""

    file: str
    name: str
    size: int
    """Bytes."""
    schema: int = 0
    """Version of a database's schema; 0: it is none."""


class Job:
    """What goes on, as the loop sees it. A thread writes, the loop reads.

    :param doing: ``save`` or ``stage``
    :param wanted: whether somebody still waits for it
    """

    def __init__(self, identity: str, doing: str, wanted: Callable[[], bool] = lambda: True) -> None:
        self.id = identity
        self.doing = doing
        self.state = "busy"
        """``busy``, ``done`` or ``failed``."""
        self.done = 0
        self.of = 0
        """Bytes that are copied, and all of them."""
        self.problem = ""
        self.members: list[Listed] = []
        self.cancelled = False
        self._wanted = wanted

    def look(self) -> None:
        """See whether it is still wanted.

        :raises Cancelled: it is not
        """
        if self.cancelled or not self._wanted():
            raise Cancelled


def save(job: Job, parts: Sequence[Part], directory: str, target: str) -> None:
    """Copy all that there is of the parts into the exchange.

    :raises BackupError: something cannot be copied, or is damaged
    """
    found = [(part, name) for part in parts for name in part.files(directory)]
    job.of = sum(_size(os.path.join(directory, name)) for _, name in found)
    mode = _there(target)
    _need_room(target, job.of)
    for number, (part, name) in enumerate(found):
        job.look()
        source, copy = os.path.join(directory, name), os.path.join(target, str(number))
        before, schema = job.done, 0
        with _named(name):
            if part.schema:
                os.close(_new(copy, mode))
                schema = _copy_database(job, source, copy)
            else:
                try:
                    _copy_file(job, source, copy, mode, PLAIN_LIMIT)
                except FileNotFoundError:
                    continue  # deleted since
            size = os.stat(copy).st_size
        job.done = before + size
        job.members.append(Listed(str(number), name, size, schema))
    job.of = job.done


def take(job: Job, parts: Sequence[Part], source: str, target: str) -> list[str]:
    """Copy what is in the exchange into an empty directory, and see that this program can use it.

    :returns: the names
    :raises BackupError: it cannot be copied, or cannot be used
    """
    members = _listing(source)
    job.of = sum(member.size for member in members)
    _need_room(target, job.of)
    for member in members:
        job.look()
        part = part_of(parts, member.name)
        if part is None or "/" in member.file:
            raise BackupError(f"{member.name}: this server keeps no such file; is the backup of a newer RasPy?")
        with _named(member.name):
            _take_one(job, part, member, os.path.join(source, member.file), os.path.join(target, member.name))
    return [member.name for member in members]


def _take_one(job: Job, part: Part, member: Listed, source: str, copy: str) -> None:
    os.makedirs(os.path.dirname(copy), mode=0o750, exist_ok=True)
    _copy_file(job, source, copy, part.mode, member.size)
    if os.stat(copy).st_size != member.size:
        raise BackupError(f"{member.name}: it has another size than the backup says")
    if part.schema:
        _check_database(job, copy, member, part)
    elif part.check is not None:
        with open(copy, "rb") as file:
            _check_plain(file.read(PLAIN_LIMIT + 1), member.name, part)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Say of what is wrong with which file it is.

    :raises BackupError: something is
    """
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        if isinstance(error, BackupError):
            raise
        raise BackupError(told(error, name)) from error


def _listing(source: str) -> list[Listed]:
    try:
        with open(os.path.join(source, LISTING), "rb") as file:
            return msgspec.json.decode(file.read(LISTING_LIMIT), type=list[Listed])
    except FileNotFoundError:
        raise _no_exchange(source) from None
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BackupError(f"{source}: the list of files is no good: {error}") from error


def _there(target: str) -> int:
    """The permissions that files have in a directory of the exchange.

    :raises BackupError: it is not there
    """
    try:
        return exchange.modes(target)[1]
    except FileNotFoundError:
        raise _no_exchange(target) from None


def _no_exchange(place: str) -> BackupError:
    return BackupError(
        f"{place}: is not there; RASPY_EXCHANGE or XDG_STATE_HOME must be the same for the servers and the command"
    )


def _need_room(directory: str, size: int) -> None:
    found = os.statvfs(directory)
    free = found.f_bavail * found.f_frsize
    if free < size + RESERVE:
        raise BackupError(
            f"{directory}: {size / 1e6:.1f} MB are wanted, and {RESERVE / 1e6:.0f} MB are left to others, but "
            f"{free / 1e6:.1f} MB are free on the disk"
        )


def _copy_database(job: Job, source: str, copy: str) -> int:
    """Copy a database while it is written to (https://www.sqlite.org/backup.html); return its schema's version."""
    # A connection of its own, so that nobody waits for it.
    ours = sqlite3.connect(f"file:{escaped(source)}?mode=rw", uri=True, isolation_level=None, timeout=5.0)
    try:
        theirs = sqlite3.connect(copy, isolation_level=None)
        try:
            ours.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            theirs.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            theirs.execute("PRAGMA journal_mode = OFF")
            theirs.execute("PRAGMA synchronous = OFF")
            # Without a transaction around it each write by somebody else would have it begin anew, without an end.
            ours.execute("BEGIN")
            (version,) = ours.execute("PRAGMA user_version").fetchone()
            ours.execute("SELECT count(*) FROM sqlite_master").fetchone()
            (page,) = ours.execute("PRAGMA page_size").fetchone()
            before = job.done

            def progress(_: int, left: int, of: int) -> None:
                job.done = before + (of - left) * page
                job.look()
                time.sleep(PAUSE)

            ours.backup(theirs, pages=PAGES, progress=progress)
            ours.execute("COMMIT")
            # One file, with no log beside it.
            theirs.execute("PRAGMA journal_mode = DELETE")
            _quick_check(job, theirs, source)
        finally:
            theirs.close()
    finally:
        ours.close()
    return int(version)


def _check_database(job: Job, path: str, member: Listed, part: Part) -> None:
    """See that a copy is a sound database of ours with all its tables, and none of a newer program."""
    name = member.name
    connection = sqlite3.connect(f"file:{escaped(path)}?immutable=1", uri=True, isolation_level=None)
    try:
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        (owner,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if owner != APPLICATION_ID:
            raise BackupError(f"{name}: it is no database of RasPy")
        if version > part.schema:
            raise BackupError(newer_schema(name, version, part.schema))
        if version < 1 or version != member.schema:
            raise BackupError(f"{name}: it has schema {version}, and the backup says {member.schema}")
        _quick_check(job, connection, name)
        missing = _layout(part.schemas[:version]) - _layout_of(connection)
        if missing:
            raise BackupError(f"{name}: it lacks {', '.join(sorted(missing)[:5])}, which schema {version} has")
    finally:
        connection.close()


def _layout(schemas: Sequence[Sequence[str]]) -> set[str]:
    """The tables, columns and indexes that these schemas make."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        for statements in schemas:
            for statement in statements:
                connection.execute(statement)
        return _layout_of(connection)
    finally:
        connection.close()


def _layout_of(connection: sqlite3.Connection) -> set[str]:
    rows = connection.execute("SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'").fetchall()
    found = {f"{kind} {name}" for kind, name in rows}
    for kind, name in rows:
        if kind == "table":
            columns = connection.execute("SELECT name FROM pragma_table_info(?)", (name,)).fetchall()
            found.update(f"column {name}.{column}" for (column,) in columns)
    return found


def newer_schema(name: str, version: int, newest: int) -> str:
    """What is said of a database that a newer program has written."""
    return f"{name}: it is of a newer RasPy (schema {version}; this one knows {newest}): install that version first"


def _quick_check(job: Job, connection: sqlite3.Connection, name: str) -> None:
    def unwanted() -> bool:
        try:
            job.look()
        except Cancelled:
            return True
        return False

    connection.set_progress_handler(unwanted, LOOK)
    try:
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError:
        job.look()
        raise
    finally:
        connection.set_progress_handler(None, 0)
    if verdict != "ok":
        raise BackupError(f"{name}: it is damaged ({' '.join(verdict.split())})")


def _check_plain(data: bytes, name: str, part: Part) -> None:
    if len(data) > PLAIN_LIMIT:
        raise BackupError(f"{name}: is longer than {PLAIN_LIMIT >> 20} MB")
    try:
        if part.check is not None:
            part.check(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BackupError(f"{name}: it is no good: {error}") from error


def _copy_file(job: Job, source: str, copy: str, mode: int, limit: int) -> None:
    opened = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise BackupError(f"{source}: is not a file")
        to = _new(copy, mode)
        try:
            size = 0
            while data := os.read(opened, CHUNK):
                count = len(data)
                size += count
                if size > limit:
                    raise BackupError(f"{source}: is longer than {limit} bytes")
                while data:
                    data = data[os.write(to, data) :]
                job.done += count
                job.look()
            os.fsync(to)
        finally:
            os.close(to)
    finally:
        os.close(opened)


def _new(path: str, mode: int) -> int:
    """A new file, opened for writing."""
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    os.fchmod(opened, mode)
    return opened


def _size(path: str) -> int:
    try:
        return os.stat(path, follow_symlinks=False).st_size
    except FileNotFoundError:
        return 0


def escaped(path: str) -> str:
    """A path as a part of an SQLite URI (https://www.sqlite.org/uri.html)."""
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def told(error: BaseException, path: str) -> str:
    """What an error of the disk or of a file means, for an owner."""
    if isinstance(error, BackupError):
        return str(error)
    found = explain(error, path) if isinstance(error, Exception) else None
    return str(found) if found is not None else f"{path}: {type(error).__name__}: {error}"
