"""What the disk can do without a server. Argument: one JSON object (see :func:`main`); prints another.

``fsync`` overwrites blocks of 4 KiB in a file and waits for each to be on disk. ``sqlite`` inserts rows like those
of Titanic, so many in each transaction, and does nothing else.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import time
from collections.abc import Callable
from typing import Any

from raspy.servers.titanic.requests import SCHEMAS
from tests.benchmarks.load.counters import between, look

BLOCK, BLOCKS = 4096, 1024
INSERT = (
    "INSERT INTO requests (id, secret, client, service, body, at, deadline, time, trusted) "
    "VALUES (?, ?, NULL, ?, ?, ?, NULL, ?, 1)"
)
PACKED = b"\0\0\0\0"
"""In Titanic's file the length of each frame stands before it."""


class File:
    """Titanic's tables and indexes with nothing around them.

    SQLite has all its own settings but those that make a commit durable.
    """

    def __init__(self, directory: str) -> None:
        self.connection = sqlite3.connect(f"{directory}/bare.db", isolation_level=None)
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("PRAGMA synchronous = FULL")
        for statement in SCHEMAS[0]:
            self.connection.execute(statement)
        self.number = 0

    def commit(self, service: bytes, bodies: list[bytes]) -> int:
        """A transaction of so many new rows; the number of the first."""
        first, at, now = self.number + 1, time.monotonic(), time.time()
        self.number += len(bodies)
        rows = ((n, os.urandom(8), service, PACKED + body, at, now) for n, body in enumerate(bodies, first))
        self.connection.execute("BEGIN IMMEDIATE")
        self.connection.executemany(INSERT, rows)
        self.connection.execute("COMMIT")
        return first


def fsync_loop(job: dict[str, Any]) -> Callable[[], int]:
    """One block to disk, over and over through a file that exists already: no metadata changes but its time."""
    file = os.open(f"{job['directory']}/blocks", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    block = b"x" * BLOCK
    for _ in range(BLOCKS):  # by blocks: what was written at once may be one folio, which counts as written in full
        os.write(file, block)
    os.fsync(file)
    place = 0

    def once() -> int:
        nonlocal place
        os.pwrite(file, block, place)
        os.fdatasync(file)
        place = (place + BLOCK) % (BLOCK * BLOCKS)
        return 1

    return once


def group_commit(job: dict[str, Any]) -> Callable[[], int]:
    """Transactions of ``rows`` rows, one after the other."""
    file, service, bodies = File(job["directory"]), job["service"].encode(), [b"x" * job["body"]] * job["rows"]

    def once() -> int:
        file.commit(service, bodies)
        return len(bodies)

    return once


def repeat(once: Callable[[], int], seconds: float) -> int:
    done, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        done += once()
    return done


def main() -> None:
    """Keys of the job.

    kind, directory, seconds, warm_up (seconds), sync_file; for ``sqlite`` service, body (bytes) and rows too.
    """
    job = json.loads(sys.argv[1])
    once = fsync_loop(job) if job["kind"] == "fsync" else group_commit(job)
    repeat(once, job["warm_up"])
    before = look(os.getpid(), job["sync_file"])
    done = repeat(once, job["seconds"])
    print(json.dumps({"good": done, **between(before, look(os.getpid(), job["sync_file"]))}), flush=True)


if __name__ == "__main__":
    main()
