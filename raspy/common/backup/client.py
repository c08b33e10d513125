"""Backs up and restores the servers of this host: what they are to do, one after the other, and who decides."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import msgspec

from raspy import __version__
from raspy.common import MDP
from raspy.common.backup import copying, exchange
from raspy.common.backup.copying import LISTING, Listed, newer_schema
from raspy.common.backup.exchange import Exchange
from raspy.common.backup.format import Manifest, Member, Reader, digest, verify, write
from raspy.common.backup.parts import BackupError, Part
from raspy.common.backup.servers import POLL, Servers, Status, Tell
from raspy.common.backup.staging import PAGE, STORE
from raspy.common.directories import exchange_directory

RESTART = 60.0
"""Seconds in which servers are back with what is restored."""
LOOK = 4 << 20
"""Bytes that are written between two looks at the room on the disk."""
NOT_RUNNING = "it does not run"


class Coordinator:
    """One backup or restore.

    :param broker: address of the broker's ROUTER
    :param hostname: name of this host on the bus; the servers of others are not touched
    :param expected: the names of the servers that are to run here and keep something
    :param tell: is told how it goes
    """

    def __init__(self, broker: str, hostname: str, expected: Iterable[str], tell: Tell) -> None:
        self.hostname = hostname
        self.expected = set(expected)
        self.tell = tell
        self._servers = Servers(broker, hostname, tell)

    def __enter__(self) -> Coordinator:
        return self

    def __exit__(self, *_: object) -> None:
        self._servers.close()

    def backup(self, file: BinaryIO, partial: bool = False) -> dict[str, Any]:
        """Write a backup of all servers.

        :param partial: leave out a server that does not run, or cannot be saved
        :returns: what is in it, and what was ``left`` out, with the reasons
        :raises BackupError: it cannot be; what was written is none
        """
        with _told(), Exchange() as held:
            _refuse_open()
            running = self._servers.running()
            left = dict.fromkeys(sorted(self.expected - running), NOT_RUNNING)
            if left and not partial:
                raise BackupError(_missing(left))
            if not running:
                raise BackupError("no server runs here that keeps something: is raspy run under way?")
            found: dict[str, list[Listed]] = {}
            # The store is the last, as it then has all that the others have told it.
            for name in sorted(running, key=lambda name: (name == STORE, name)):
                held.prepare(name)
                try:
                    found[name] = self._servers.do(name, "save", held.id).members
                except BackupError as error:
                    if not partial:
                        raise
                    left[name] = str(error)
            members, places = self._summed(held.id, found)
            manifest = Manifest(__version__, self.hostname, time.time(), sorted(found), members)
            of = sum(member.size for member in members)
            look = _room(file)

            def written(done: int) -> None:
                look(done)
                self.tell({"step": "write", "done": done, "of": of})

            look(0)
            total = write(
                file,
                manifest,
                lambda member: open(places[member.server, member.name], "rb"),  # noqa: SIM115  closed there
                written,
            )
            return {**summary(manifest), "sha256": total, "left": left}

    def check(self, path: str, name: str) -> Manifest:
        """Read a backup to its end.

        :raises BackupError: it is no good
        """
        return verify(path, name, lambda done, of: self.tell({"step": "verify", "done": done, "of": of}))

    def restore(self, path: str, name: str, manifest: Manifest, partial: bool = False) -> dict[str, Any]:
        """Put the servers back to what is in a backup, which was checked before.

        :param partial: leave out a server that does not run
        :returns: what was ``restored``, ``left`` out, ``kept`` (a server that is not in the backup), and is ``late``:
            not seen to run with what is restored
        :raises BackupError: nothing was changed. Once it is decided, nothing is raised
        """
        with _told(), Exchange() as held:
            _refuse_open()
            self._refuse_host(name, manifest)
            running = self._servers.running()
            left = dict.fromkeys((each for each in manifest.servers if each not in running), NOT_RUNNING)
            if left and not partial:
                raise BackupError(_missing(left))
            servers = [each for each in manifest.servers if each not in left]
            if not servers:
                raise BackupError(f"{name}: there is nothing in it for a server that runs")
            before = self._refuse_unknown(manifest, servers)
            try:
                self._stage(held, path, name, manifest, servers)
                self.tell({"step": "decide"})
                held.decide(servers)
            except BaseException:
                if not held.decided:
                    self._discard(held.id, servers)
                    raise
            late = self._commit(held.id, servers, before)
            kept = sorted(running - set(manifest.servers))
            return {**summary(manifest), "restored": servers, "left": left, "kept": kept, "late": late}

    def _stage(self, held: Exchange, path: str, name: str, manifest: Manifest, servers: list[str]) -> None:
        """Have each server copy and check its part.

        :raises BackupError: one cannot take it, or the file is another one than before
        """
        try:
            with open(path, "rb") as file:
                reader = Reader(file, name)
                if reader.manifest != manifest:
                    raise BackupError(f"{name}: it was changed after it was checked")
                last, listed = "", list[Listed]()
                for member, content in reader.members():
                    if member.server != last:
                        self._stage_one(held, last, listed, servers)
                        last, listed = member.server, []
                        if last in servers:
                            held.prepare(last)
                    if last in servers:
                        listed.append(_extract(exchange.work(held.id, last), len(listed), member, content))
                    else:
                        for _ in content:
                            pass
                self._stage_one(held, last, listed, servers)
                for server in set(servers) - {member.server for member in manifest.members}:
                    held.prepare(server)
                    self._stage_one(held, server, [], servers)
        except BackupError:
            raise
        except OSError as error:
            raise BackupError(f"{error.filename or name}: {error.strerror or error}") from error

    def _stage_one(self, held: Exchange, server: str, listed: list[Listed], servers: list[str]) -> None:
        if server not in servers:
            return
        place = exchange.work(held.id, server)
        _put(os.path.join(place, LISTING), [msgspec.json.encode(listed)])
        self._servers.do(server, "stage", held.id)
        exchange.remove_tree(place)

    def _discard(self, identity: str, servers: list[str]) -> None:
        for server in servers:
            self._servers.send(server, "discard", identity)

    def _commit(self, identity: str, servers: list[str], before: dict[str, str]) -> list[str]:
        """Have all restart; return those that were not seen with it in time. They take it whenever they are started."""
        self._servers.hurry()
        waiting = set(servers)
        try:
            for page in (False, True):
                group = sorted(each for each in servers if (each == PAGE) == page)
                self._restart(identity, group, waiting, before)
        except KeyboardInterrupt:
            pass  # it happens all the same, which is what is told
        return sorted(waiting)

    def _restart(self, identity: str, group: list[str], waiting: set[str], before: dict[str, str]) -> None:
        """Wait for a group of servers. Each sees by itself what is decided; that it is told saves a moment."""
        for server in group:
            self.tell({"step": "restart", "server": server})
        heard: set[str] = set()
        until = time.monotonic() + RESTART
        while waiting & set(group) and time.monotonic() < until:
            try:
                running = self._servers.running()
            except MDP.ConnectionLost:
                running = set()
            for server in [each for each in group if each in waiting & running and each not in heard]:
                if self._servers.send(server, "commit", identity) is not None:
                    heard.add(server)
            waiting -= {each for each in waiting & running if self._is_back(identity, each, before[each])}
            time.sleep(POLL)

    def _is_back(self, identity: str, server: str, before: str) -> bool:
        """Whether a server runs with what is restored, as it says itself."""
        try:
            if exchange.is_decided(identity, server):
                return False
            reply = self._servers.send(server, "status")
            if reply is None or reply[-1] != MDP.OK:
                return False
            status = msgspec.json.decode(reply[0], type=Status)
        except (OSError, msgspec.MsgspecError, ValueError, RecursionError):
            return False
        return status.instance != before and identity in status.restored

    def _summed(self, identity: str, found: dict[str, list[Listed]]) -> tuple[list[Member], dict[tuple[str, str], str]]:
        """What was saved, as the manifest has it, and where it is."""
        members, places = [], {}
        for server in sorted(found):
            for each in found[server]:
                place = os.path.join(exchange.work(identity, server), os.path.basename(each.file))
                places[server, each.name] = place
                try:
                    with open(place, "rb") as file:
                        size = os.fstat(file.fileno()).st_size
                        members.append(Member(server, each.name, size, digest(file), each.schema))
                except OSError as error:
                    raise BackupError(f"{place}: {error.strerror or error}") from error
        return members, places

    def _refuse_host(self, name: str, manifest: Manifest) -> None:
        if manifest.host != self.hostname:
            raise BackupError(
                f"{name}: it is of {manifest.host}, and this is {self.hostname}: everything in it has that name; "
                f'to have it here, set hostname = "{manifest.host}" in [bus] and restart first'
            )

    def _refuse_unknown(self, manifest: Manifest, servers: list[str]) -> dict[str, str]:
        """Refuse what a server could not take, before anything is copied; return the instances that run."""
        instances = {}
        for server in servers:
            status = self._servers.status(server)
            instances[server] = status.instance
            keeps = [(Part(name), schema) for name, schema in status.keeps.items()]
            for member in (each for each in manifest.members if each.server == server):
                schema = next((schema for part, schema in keeps if part.has(member.name)), None)
                if schema is None:
                    raise BackupError(f"{server}: it keeps no {member.name}; is the backup of a newer RasPy?")
                if member.schema > schema:
                    raise BackupError(f"{server}: {newer_schema(member.name, member.schema, schema)}")
        return instances


def summary(manifest: Manifest) -> dict[str, Any]:
    """What is in a backup, as it is shown."""
    files: dict[str, dict[str, int]] = {server: {} for server in manifest.servers}
    for member in manifest.members:
        files[member.server][member.name] = member.size
    return {"host": manifest.host, "version": manifest.version, "time": manifest.time, "servers": files}


def _refuse_open() -> None:
    """Refuse to go on while a restore is not over."""
    for identity, servers in exchange.open_decisions().items():
        place = os.path.join(exchange_directory(), exchange.DECIDED + identity)
        raise BackupError(
            f"a restore is not over: {', '.join(servers)} must be restarted first (a server that is to be never "
            f"again: remove its file in {place})"
        )


def _missing(left: dict[str, str]) -> str:
    told = "; ".join(f"{name}: {why}" for name, why in left.items())
    return f"{told}. Start it, or say --partial to do it without"


@contextmanager
def _told() -> Iterator[None]:
    """Have what a disk refuses told in a sentence.

    :raises BackupError: it refuses something
    """
    try:
        yield
    except MDP.GenericError:
        raise
    except OSError as error:
        raise BackupError(f"{error.filename or 'the file'}: {error.strerror or error}") from error


def _room(file: BinaryIO) -> Callable[[int], None]:
    """What looks, with the bytes that are written, whether the servers still have room on the disk of a file."""
    try:
        number = file.fileno()
        found = os.fstat(number)
        shared = stat.S_ISREG(found.st_mode) and found.st_dev == os.stat(exchange_directory()).st_dev
    except (OSError, ValueError):
        shared = False
    if not shared:
        return lambda _: None
    next_look = 0

    def look(written: int) -> None:
        nonlocal next_look
        if written >= next_look:
            next_look = written + LOOK
            disk = os.fstatvfs(number)
            if disk.f_bavail * disk.f_frsize < copying.RESERVE + LOOK:
                raise BackupError(
                    f"the disk has no room for the file: {copying.RESERVE / 1e6:.0f} MB are left to the servers; "
                    "write it to another disk"
                )

    return look


def _extract(place: str, number: int, member: Member, content: Iterable[bytes]) -> Listed:
    """Put a member where its server finds it."""
    found = os.statvfs(place)
    if found.f_bavail * found.f_frsize < member.size + copying.RESERVE:
        raise BackupError(
            f"{place}: the disk has no room for {member.size / 1e6:.1f} MB and the {copying.RESERVE / 1e6:.0f} MB that "
            "are left to the servers"
        )
    _put(os.path.join(place, str(number)), content)
    return Listed(str(number), member.name, member.size, member.schema)


def _put(path: str, content: Iterable[bytes]) -> None:
    mode = exchange.modes(os.path.dirname(path))[1]
    with open(path, "xb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o600)) as file:
        os.fchmod(file.fileno(), mode)
        for data in content:
            file.write(data)
