"""The plug is pulled while Titanic writes: what was acknowledged is there afterwards.

A cut is a copy of the disk as it was at one instant. Copying the file behind a loop device takes a while, in which it
is written to, so that a copy holds early blocks from before and late ones from after: no disk ever held that. Freezing
the file system that is to be cut would be no better, because that first writes out whatever it still had in memory.
So the disk is a file on a file system of its own, and that is frozen during the copy (FIFREEZE, ioctl_fs(2)): the disk
stands still, and nobody above it was told.

There are two such below Titanic's, each ext4 on a loop device, which makes two kinds of cut::

    upper      Titanic's state; power fails for this one
    middle     holds upper's disk. Frozen: upper's disk has all that was ever written to it.
    lower      holds middle's disk. Frozen: what middle had in memory is lost too, and so of upper's disk all that was
               written and not flushed, as with a card that has a cache of its own.

The copy is mounted, which replays the journal, and a real Titanic is started on it.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import time
from collections import deque
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from raspy.common import MDP
from tests.support import need_program, need_root
from tests.support_devices import short_directory
from tests.support_disks import Disk
from tests.support_processes import wait_for
from tests.support_titanic import LIMIT, Client, Clients, OnThread, Record, Site, request, site

pytestmark = [pytest.mark.slow, pytest.mark.system, pytest.mark.timeout(900)]

CUTS = int(os.environ.get("RASPY_TEST_CUTS", "25"))
LOWER, MIDDLE, UPPER = 160 << 20, 80 << 20, 32 << 20
"""Sizes in bytes. A file system needs room for its journal and for the disk of the one above it."""
DISK = "disk"
CLIENTS = 6
KEPT = 40
"""Requests that a client has open; it closes the oldest of more."""
FOR_EVER = 20
"""Requests of each client that are never closed, so that old ones are looked for as well."""
WRITES = 200
"""Most acknowledged writes that are waited for before a cut; the first cut waits for one."""
CHECKED_CLOSED = 300
"""The last closed ones that are looked for."""
CHECKERS = 16


def mount(disk: str, place: str) -> None:
    """Mount a file as a disk on a new directory, or skip where there is nothing to do that with."""
    os.mkdir(place)
    done = subprocess.run(["mount", "-t", "ext4", "-o", "loop", disk, place], capture_output=True, text=True)
    if done.returncode != 0:
        os.rmdir(place)
        pytest.skip(f"needs loop devices and ext4: {done.stderr.strip()}")


def unmount(place: str) -> None:
    """As soon as nobody uses it, which a process that was just killed may do for another moment."""

    def gone() -> bool:
        return subprocess.run(["umount", place], capture_output=True).returncode == 0

    wait_for(f"{place} to be unmounted", gone)
    os.rmdir(place)


@contextmanager
def mounted(disk: str, place: str) -> Generator[str, None, None]:
    mount(disk, place)
    try:
        yield place
    finally:
        unmount(place)


def make_disk(path: str, size: int) -> None:
    """A file system in a file all of whose blocks are written, so that it cannot run out of them later."""
    with open(path, "wb") as file:
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))
    subprocess.run([need_program("mkfs.ext4"), "-q", "-F", path], check=True, capture_output=True)


class Disks:
    """The three file systems."""

    def __init__(self, directory: str) -> None:
        self.copies = os.path.join(directory, "copies")
        os.mkdir(self.copies)
        places = []
        disk = os.path.join(directory, DISK)
        with ExitStack() as stack:
            for name, size in (("lower", LOWER), ("middle", MIDDLE), ("upper", UPPER)):
                make_disk(disk, size)
                place = stack.enter_context(mounted(disk, os.path.join(directory, name)))
                disk = os.path.join(place, DISK)
                places.append(place)
            self._stack = stack.pop_all()
        self.lower, self.middle, self.upper = places

    def cut(self, cached: bool) -> str:
        """Copy upper's disk, or middle's with that in it, as it is at one instant of this call."""
        source = self.lower if cached else self.middle
        copy = os.path.join(self.copies, DISK)
        with Disk(source).frozen():
            shutil.copyfile(os.path.join(source, DISK), copy)
        return copy

    @contextmanager
    def after(self, copy: str, cached: bool) -> Generator[str, None, None]:
        """What stands on upper when power is back."""
        with ExitStack() as stack:
            if cached:
                copy = os.path.join(stack.enter_context(mounted(copy, os.path.join(self.copies, "middle"))), DISK)
            yield stack.enter_context(mounted(copy, os.path.join(self.copies, "upper")))

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def disks() -> Generator[Disks, None, None]:
    need_root()
    need_program("mkfs.ext4")
    need_program("mount")
    with short_directory() as directory:
        made = Disks(directory)
        try:
            yield made
        finally:
            made.close()


class Known:
    """What the clients were told, in the order of the telling; written by their thread, read by the test's."""

    def __init__(self) -> None:
        self.accepted: list[bytes] = []
        self.fetched: list[bytes] = []
        """Those whose reply was given."""
        self.closing: list[bytes] = []
        """Those whose close was sent."""
        self.closed: list[bytes] = []
        self.sets: dict[str, int] = {}
        """The last value that was acknowledged, by key; each key has one writer, which counts up."""
        self.sets_done = 0
        self.writes = 0
        """All that was acknowledged."""

    def members(self) -> list[Client]:
        """The clients: of a service that is away, of one that answers, of the store."""
        return [
            *(self.requests(b"away" if number % 2 else b"here", number) for number in range(CLIENTS)),
            *(self.store(number) for number in range(CLIENTS // 2)),
        ]

    def requests(self, service: bytes, number: int) -> Client:
        """Send, fetch and close without end."""
        mine: deque[bytes] = deque()
        count = 0
        while True:
            count += 1
            text = b"%d.%d %s" % (number, count, b"x" * (count * 37 % 900))
            uuid = yield from request(service, text)
            self.accepted.append(uuid)
            self.writes += 1
            if count <= FOR_EVER:
                continue
            mine.append(uuid)
            if service == b"here" and count % 4 == 0:
                answer = [MDP.PENDING]
                while answer[0][:3] == MDP.PENDING:
                    yield 0.02
                    answer = yield b"titanic.reply", [uuid]
                assert answer == [MDP.OK, b"done", text], answer
                self.fetched.append(uuid)
            if len(mine) > KEPT:
                oldest = mine.popleft()
                self.closing.append(oldest)
                answer = yield b"titanic.close", [oldest]
                assert answer[0] == MDP.OK, answer
                self.closed.append(oldest)
                self.writes += 1

    def store(self, number: int) -> Client:
        """Set one key after the other without end."""
        count = 0
        while True:
            count += 1
            key = f"{number}/{count % 7}"
            answer = yield b"titanic.store", [b"set", b"svc", b"section", key.encode(), b"%d" % count]
            assert answer[-1] == MDP.OK, answer
            self.sets[key] = count
            self.sets_done += 1
            self.writes += 1


class Promise:
    """What must be there after a cut: made right before it, and narrowed right after."""

    def __init__(self, known: Known) -> None:
        self.accepted = set(known.accepted)
        self.fetched = set(known.fetched)
        self.closed = known.closed[-CHECKED_CLOSED:]
        # All that were closed before are in it as well, as they were closing.
        self.sets = dict(known.sets)

    def narrow(self, known: Known) -> None:
        """Leave out what somebody may have closed in the meantime."""
        self.accepted -= set(known.closing)
        self.fetched &= self.accepted


def check(after: Site, promise: Promise) -> None:
    """A Titanic that was started on what is left keeps the promise."""
    problems: list[str] = []
    uuids = [(uuid, True) for uuid in promise.accepted] + [(uuid, False) for uuid in promise.closed]

    def ask_requests(part: list[tuple[bytes, bool]]) -> Client:
        for uuid, kept in part:
            [status, *_] = yield b"titanic.reply", [uuid]
            wanted = (MDP.OK if uuid in promise.fetched else MDP.PENDING, MDP.OK) if kept else (MDP.BAD_REQUEST,)
            if status[:3] not in wanted:
                was = "fetched" if uuid in promise.fetched else "accepted" if kept else "closed"
                problems.append(f"{uuid.decode()}, which was {was}: {status.decode()}")

    def ask_store() -> Client:
        for key, value in promise.sets.items():
            answer = yield b"titanic.store", [b"get", b"svc", b"section", key.encode()]
            found = json.loads(answer[0])
            if answer[-1] != MDP.OK or found["value"] < value:
                problems.append(f"key {key}, which was set to {value}: {answer}")

    parts = [ask_requests(uuids[number::CHECKERS]) for number in range(CHECKERS)]
    Clients(after.address, 5.0).run([*parts, ask_store()], LIMIT)
    assert not problems, f"{len(problems)} of {len(uuids) + len(promise.sets)} are not as they were: {problems[:10]}"


def sound(directory: str) -> None:
    """Nothing was set aside as damaged, and what is there is sound."""
    names = sorted(path.name for path in Path(directory).iterdir())
    assert not [name for name in names if "damaged" in name], names
    for name in ("requests.db", "store.db"):
        base = sqlite3.connect(os.path.join(directory, name))
        try:
            assert base.execute("PRAGMA integrity_check").fetchall() == [("ok",)], name
        finally:
            base.close()


def size(path: str) -> int:
    """Bytes of a file, none when it is not there."""
    return os.path.getsize(path) if os.path.exists(path) else 0


def synced(directory: str) -> None:
    """What stands in a directory now is on the disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def state(upper: str) -> str:
    return os.path.join(upper, "state")


def test_what_was_acknowledged_survives_a_power_cut(disks: Disks, record_property: Record) -> None:
    known = Known()
    checked = lost = 0
    began = time.monotonic()
    with site(state(disks.upper)) as here, site() as after:
        synced(disks.upper)
        here.broker()
        here.titanic()
        after.broker()
        here.plain("here")
        here.answers()
        canary = open(os.path.join(disks.upper, "canary"), "ab")  # noqa: SIM115
        clients = OnThread(Clients(here.address, LIMIT), known.members(), 900.0)
        try:
            for number in range(CUTS):
                cached = bool(number % 2)
                enough = known.writes + 1 + number * 37 % WRITES

                def written(enough: int = enough) -> bool:
                    clients.check()
                    return known.writes >= enough

                wait_for("more writes", written, LIMIT)
                canary.write(b"never synced\n" * 400)
                canary.flush()
                promise = Promise(known)
                copy = disks.cut(cached)
                promise.narrow(known)
                with disks.after(copy, cached) as upper:
                    lost += canary.tell() - size(os.path.join(upper, "canary"))
                    after.state = state(upper)
                    titanic = after.titanic()
                    try:
                        check(after, promise)
                    finally:
                        titanic.kill()
                    sound(state(upper))
                checked += len(promise.accepted) + len(promise.closed) + len(promise.sets)
        finally:
            # Whoever writes to a disk must have ended before it goes.
            try:
                clients.stop()
            finally:
                canary.close()
                here.close()
        took = time.monotonic() - began
        for process in (*here.processes.values(), *after.processes.values()):
            assert "Traceback" not in process.log, f"{process.name}: {process.log}"
        assert lost > 0, "nothing was lost that was not synced: these were no power cuts"
        for line in (
            f"{CUTS} cuts in {took:.1f} s; {lost} bytes lost of a file that is never synced",
            f"accepted {len(known.accepted)}, replies fetched {len(known.fetched)}, closed {len(known.closed)}, "
            f"keys set {known.sets_done}",
            f"looked for {checked} that were accepted, closed or set before a cut: all are as they were",
        ):
            record_property("counted", line)
