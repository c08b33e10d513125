"""A simulated time of ten probes, given to a real logger, and what it then answers; also a plain table beside it.

``history_load.py fill|ask|plain|plain-ask DIRECTORY FIRST_DAY DAYS [SETTLE]`` prints one line of JSON. Readings go in
through the logger's own intake with their times; the time between them is not waited for.
"""

from __future__ import annotations

import json
import math
import os
import sqlite3
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from raspy.common.clock import BootClock
from raspy.common.verbs import Later
from raspy.servers.logger import Logger
from raspy.servers.logger.verbs import LOG

PROBES = 10
EVERY = 60
"""Seconds between the readings of a probe."""
BATCH = 300
"""Seconds between commits, as the logger has it by default."""
DAY = 86_400
ASKED = 5
"""Series of which each chart is asked."""
KEYS = [f"/device/host.onewire.28-{number:012x}/temperature" for number in range(PROBES)]
RANGES = (
    ("an hour", 1 / 24, 0, 400),
    ("a day", 1, 0, 400),
    ("a day, all points", 1, 0, 2000),
    ("2.7 days, all points", 2.7, 0, 2000),
    ("a week", 7, 0, 400),
    ("a month", 30, 0, 400),
    ("41 days, all points", 41, 0, 2000),
    ("a day, 88 days ago", 1, 88, 2000),
    ("a day, 200 days ago", 1, 200, 2000),
    ("three months", 90, 0, 400),
    ("a year", 365, 0, 400),
    ("a year, all points", 365, 0, 2000),
    ("all there is", 36_500, 0, 2000),
)
"""What is asked: days of a chart, how many days ago it ends, and its points."""


def reading(number: int, when: int) -> float:
    """Of a probe: a daily wave, a ripple of the heater, some noise, in sixteenths of a degree as a DS18B20 has them."""
    noise = zlib.crc32(b"%d %d" % (when, number)) % 5
    wave = 1.5 * math.sin(when / DAY * math.tau + number) + 0.4 * math.sin(when / 1700 * math.tau + number)
    return round((25 + number / 3 + wave) * 16 + noise - 2) / 16


def moments(first: int, days: int) -> Iterator[int]:
    return iter(range(first * DAY, (first + days) * DAY, EVERY))


class Right(BootClock):
    """A clock that is known to be right, as it is on an appliance with a network."""

    def trusted(self) -> bool:
        return True


def a_logger(directory: str) -> Logger:
    """On a bus that is not there."""
    logger = Logger("host", "logger", f"ipc://{directory}", 5514, os.path.join(directory, "state"), clock=Right())
    logger.start()
    return logger


def settle(logger: Logger) -> None:
    """Turn its loop until the disk has it all."""
    while logger.recent.flying or logger._folding:
        logger.turn(1.0)


def written() -> int:
    """Bytes that this process has had written (proc_pid_io(5))."""
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("write_bytes:"):
            return int(line.split()[1])
    return 0


def on_device(directory: str) -> int | None:
    """Bytes written to the block device below (kernel.org, Documentation/block/stat.rst); None for no loop device."""
    device = os.stat(directory).st_dev
    name = os.path.basename(os.path.realpath(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"))
    stat = Path(f"/sys/block/{name}/stat")
    if not name.startswith("loop") or not stat.exists():
        return None
    os.sync()
    return int(stat.read_text().split()[6]) * 512


class Meter:
    """What was written between its making and :meth:`figures`."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.began = time.monotonic()
        self.device = on_device(directory)
        self.process = written()

    def figures(self, days: int) -> dict[str, Any]:
        """MB a day, and seconds."""
        device = on_device(self.directory)
        return {
            "process_mb": (written() - self.process) / days / 1e6,
            "device_mb": None if self.device is None or device is None else (device - self.device) / days / 1e6,
            "seconds": time.monotonic() - self.began,
        }


def size_of(directory: str) -> int:
    state = Path(directory, "state")
    return sum(path.stat().st_size for path in state.iterdir()) if state.exists() else 0


def fill(directory: str, first: int, days: int) -> dict[str, Any]:
    """The history of so many days."""
    meter = Meter(directory)
    logger = a_logger(directory)
    for when in moments(first, days):
        for number, key in enumerate(KEYS):
            logger.take(key, "°C", when * 1000 + number * 75, reading(number, when), hold=3 * EVERY)
        if when % BATCH == BATCH - EVERY:
            logger.flush()
            settle(logger)
    settle(logger)
    logger.stop()
    commits = logger.storage.commits
    logger.destroy()
    return {
        **meter.figures(days),
        "bytes": size_of(directory),
        "commits": commits,
        "rows": days * DAY // EVERY * PROBES,
    }


def drop_cache(directory: str) -> None:
    """Let the kernel forget what it holds of the files (posix_fadvise(2))."""
    for path in Path(directory, "state").iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def answer(logger: Logger, *words: str) -> Any:
    """What a verb answers, decoded."""
    frames: list[list[bytes]] = []
    later = next(verb for verb in LOG if verb.name == words[0]).call(logger, [word.encode() for word in words[1:]])
    assert isinstance(later, Later)
    later.then(frames.append)
    while not frames:
        logger.turn(1.0)
    assert frames[0][-1] == b"200", frames
    return frames[0][0]


def timed(ask: Callable[[str, float, float, int], int], directory: str, first: int, days: int) -> list[dict[str, Any]]:
    """Each range, of a file that nothing is cached of, then again of several series."""
    end = (first + days) * DAY
    found = []
    for name, span, ago, points in RANGES:
        until = end - ago * DAY
        since = max(until - span * DAY, 0)
        drop_cache(directory)
        times, cpu = [], []
        count = 0
        for key in [KEYS[0], *KEYS[:ASKED]]:
            began, used = time.perf_counter(), time.process_time()
            count = ask(key, since, until, points)
            cpu.append((time.process_time() - used) * 1000)
            times.append((time.perf_counter() - began) * 1000)
        found.append({"range": name, "points": count, "cold_ms": times[0], "ms": times[1:], "cpu_ms": cpu[1:]})
    return found


def ask(directory: str, first: int, days: int) -> dict[str, Any]:
    """Charts, by a logger that has just been started."""
    drop_cache(directory)
    began = time.perf_counter()
    logger = a_logger(directory)
    end = (first + days) * DAY
    answer(logger, "query", KEYS[0], str(end - DAY), str(end))
    start = time.perf_counter() - began

    def chart(key: str, since: float, until: float, points: int) -> int:
        return len(json.loads(answer(logger, "query", key, str(since), str(until), str(points)))["points"])

    found = timed(chart, directory, first, days)
    began = time.perf_counter()
    rows, place, skip = 0, "0", "0"
    while place:
        page = json.loads(answer(logger, "rows", KEYS[1], place, str(end), "10000", skip))
        rows += len(page["rows"])
        place, skip = str(page["next"] or ""), str(page["skip"])
    export = time.perf_counter() - began
    logger.stop()
    logger.destroy()
    return {"start_ms": start * 1000, "ranges": found, "export_rows": rows, "export_s": export}


def plain_table(directory: str) -> sqlite3.Connection:
    os.makedirs(os.path.join(directory, "state"), exist_ok=True)
    base = sqlite3.connect(os.path.join(directory, "state", "plain.db"), isolation_level=None)
    base.execute("PRAGMA journal_mode = WAL")
    base.execute("PRAGMA synchronous = FULL")
    base.execute(
        "CREATE TABLE IF NOT EXISTS reading "
        "(series INTEGER, time INTEGER, value REAL, quality INTEGER, PRIMARY KEY (series, time)) WITHOUT ROWID"
    )
    return base


PUT = "INSERT INTO reading VALUES (?, ?, ?, 0)"


def plain(directory: str, first: int, days: int, measured: int) -> dict[str, Any]:
    """The same rows in a clustered table: all but the last days at once, those as they come, each minute a commit."""
    base = plain_table(directory)
    base.execute("BEGIN")
    for number in range(PROBES):
        rows = ((number, when * 1000 + number * 75, reading(number, when)) for when in moments(first, days - measured))
        base.executemany(PUT, rows)
    base.execute("COMMIT")
    base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    meter = Meter(directory)
    for when in moments(first + days - measured, measured):
        base.execute("BEGIN")
        base.executemany(PUT, [(n, when * 1000 + n * 75, reading(n, when)) for n in range(PROBES)])
        base.execute("COMMIT")
    base.close()
    return {**meter.figures(measured), "bytes": size_of(directory)}


def plain_ask(directory: str, first: int, days: int) -> dict[str, Any]:
    """The same charts, grouped by SQLite."""
    base = plain_table(directory)

    def chart(key: str, since: float, until: float, points: int) -> int:
        step = max(1, int((until - since) * 1000 / points))
        rows = base.execute(
            "SELECT time / ? AS slot, min(value), avg(value), max(value), count(*) FROM reading "
            "WHERE series = ? AND time BETWEEN ? AND ? GROUP BY slot ORDER BY slot",
            (step, KEYS.index(key), since * 1000, until * 1000),
        ).fetchall()
        return len(rows)

    found = timed(chart, directory, first, days)
    base.close()
    return {"ranges": found}


def main() -> None:
    what, directory, first, days, *more = sys.argv[1:]
    does: dict[str, Callable[..., dict[str, Any]]] = {
        "fill": fill, "ask": ask, "plain": plain, "plain-ask": plain_ask
    }  # fmt: skip
    print(json.dumps(does[what](directory, int(first), int(days), *map(int, more))))


if __name__ == "__main__":
    main()
