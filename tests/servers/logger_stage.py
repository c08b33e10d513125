"""A real logger whose loop the test turns, on a bus that is not there, fed through its own intake."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from raspy.common import storage
from raspy.common.clock import BootClock
from raspy.servers.logger import Logger, LoggerConfig
from raspy.servers.logger import logger as logger_module
from raspy.servers.logger.rows import OK, QUALITIES
from tests.support_devices import LIMIT, short_directory

DAY = 86_400
NOON = 20_000 * DAY + DAY // 2
"""A day at noon, Unix time."""
KEY = "/device/pi.onewire.28-031655c9d5ff/temperature"
OTHER = "/device/pi.onewire.28-0316a279f2ff/temperature"


class Watch(BootClock):
    """A clock that a test sets.

    :param wall: what it says, Unix time
    :param trusted: whether that is right
    :param boot_id: the boot
    """

    def __init__(self, wall: float, trusted: bool = True, boot_id: str = "b" * 32) -> None:
        super().__init__(boot_id)
        self.went = 1000.0
        self.time = wall
        self.right = trusted

    def go(self, seconds: float) -> None:
        """Let time pass."""
        self.went += seconds
        self.time += seconds

    def since(self) -> float:
        return self.went

    def wall(self) -> float:
        return self.time

    def trusted(self) -> bool:
        return self.right


class Book:
    """A logger that can be started again on the same file.

    :param directory: where the file is
    """

    def __init__(self, directory: Path, clock: BootClock | None = None, **settings: Any) -> None:
        self.directory = directory
        self.clock = clock
        self.settings = settings
        self.logger = self._start()

    def _start(self) -> Logger:
        self.logger = Logger(
            "pi",
            "logger",
            f"ipc://{self.directory}",
            5514,
            str(self.directory),
            LoggerConfig(**self.settings),
            self.clock,
        )
        # However slow the disk of a busy machine is, what was told before is known when more is told.
        with mock.patch.object(logger_module, "PATIENCE", LIMIT):
            self.logger.start()
        self.until(lambda: self.logger.subscriber)
        return self.logger

    @property
    def file(self) -> Path:
        return self.directory / "history.db"

    def log(self, when: float, value: float | None, key: str = KEY, quality: str = "", hold: int = 60) -> None:
        """Log one reading.

        :param when: Unix time in s
        :param value: None: it is an error, unless ``quality`` says something else
        """
        code = OK if value is not None else QUALITIES.index(quality or "error")
        self.logger.take(key, "°C", round(when * 1000), value or 0.0, code, hold)

    def flush(self) -> None:
        """Write what was gathered, and all that follows from it."""
        self.logger.flush()
        self.settle()

    def settle(self) -> None:
        storage = self.logger.storage
        self.until(lambda: not (storage.waiting or storage._writing or self.logger._folding))

    def count(self, query: str) -> int:
        """The number that an SQL query gives."""
        return int(self.logger.storage.database.read(lambda connection: connection.execute(query).fetchone()[0]))

    def until(self, happened: Any, limit: float = LIMIT) -> None:
        """Turn the loop until something is true."""
        end = time.monotonic() + limit
        while not happened():
            assert time.monotonic() < end, f"not within {limit:g} s; conditions: {self.logger.conditions}"
            self.logger.turn(0.02)

    def ask(self, *words: object) -> tuple[Any, str]:
        """The answer and the status of a verb."""
        replies: list[list[bytes]] = []
        self.logger.handle(self.logger.worker_log(), [str(word).encode() for word in words], replies.append)
        self.until(lambda: replies)
        return json.loads(replies[0][0]), replies[0][1].decode()

    def good(self, *words: object) -> Any:
        """The answer of a verb that does as it is told."""
        answer, status = self.ask(*words)
        assert status == "200", answer
        return answer

    def points(self, since: float, until: float, count: int = 400, key: str = KEY) -> list[list[Any]]:
        return list(self.good("query", key, repr(since), repr(until), count)["points"])

    def rows(self, since: float = 0, until: float = 1e11, key: str = KEY) -> list[list[Any]]:
        """All readings, page by page."""
        found: list[list[Any]] = []
        place: float | None = since
        skip = 0
        while place is not None:
            page = self.good("rows", key, repr(place), repr(until), 1000, skip)
            found += page["rows"]
            place, skip = page["next"], page["skip"]
        return found

    def append(self, rows: list[Any], trusted: bool = True, host: str = "pi", boot: str = "1") -> Any:
        """What ``append`` says of late readings."""
        return self.good("append", json.dumps({"host": host, "boot": boot, "trusted": trusted, "rows": rows}))

    def stop(self) -> None:
        """End it as it should be; nothing unexpected may have happened."""
        with mock.patch.object(storage, "LAST_COMMIT", LIMIT):
            self.logger.stop()
        self.logger.destroy()
        assert self.logger.errors == 0, self.logger.last_error

    def die(self) -> None:
        """End it with what it has in memory."""
        assert self.logger.subscriber is not None
        self.logger.subscriber.close()
        self.logger.storage.close()
        Logger.__mro__[1].stop(self.logger)  # type: ignore[attr-defined]
        self.logger.destroy()

    def restart(self) -> None:
        """End it, and start another one."""
        self.stop()
        self.logger = self._start()


@contextmanager
def a_book(clock: BootClock | None = None, **settings: Any) -> Iterator[Book]:
    """A :class:`Book` in a directory of its own."""
    with short_directory() as directory:
        book = Book(Path(directory), clock, **settings)
        try:
            yield book
        finally:
            book.logger.stop()
            book.logger.destroy()
        assert book.logger.errors == 0, book.logger.last_error
