"""The server that keeps the history of logged values."""

from __future__ import annotations

import functools
import math
import os
import sqlite3
import zlib
from collections.abc import Callable
from time import monotonic
from typing import Any, ClassVar, Self

import msgspec

from raspy.common import MDP
from raspy.common.backup.parts import Part
from raspy.common.clock import BootClock
from raspy.common.config import Section
from raspy.common.database import Database, StorageError
from raspy.common.devices.value import Value, ValueFormatError
from raspy.common.directories import state_directory
from raspy.common.kvsubscriber import KvSubscriber
from raspy.common.log import printable
from raspy.common.server import Server
from raspy.common.statistics import SNMP, SNMPCounter
from raspy.common.storage import Read, Storage, Write
from raspy.common.verbs import Later, VerbError, Verbs, json_encode
from raspy.servers.logger import events, folding, journal, numbers, reading, schema
from raspy.servers.logger.append import UNIT_LENGTH, is_key, is_unit
from raspy.servers.logger.folding import Fold
from raspy.servers.logger.recent import MOST_SERIES, Batch, Recent, Segment
from raspy.servers.logger.rows import DAY, ERROR, LATEST, OK, STALE
from raspy.servers.logger.settings import LoggerConfig
from raspy.servers.logger.verbs import LOG

MOST_WAITING = 20_000
"""Readings after which a batch is written early, so that memory stays bounded."""
STEP = 1000
"""Milliseconds by which a clock that is not known to be right goes wrong before that counts as set."""
OFF = 60.0
"""Seconds by which the time of a reading may be off this clock; then it was made now. Older ones too when they are
still good (``max_age``)."""
MUCH = 20_000
"""Readings after which the journal is looked through without waiting for the end of the day: for late ones, whose days
are over, and for more of one series than are to stay there."""
EARLY = 10.0
"""Seconds between batches that are written early because of events: a storm that does not end is not to wear a card."""
PATIENCE = 5.0
"""Seconds that the disk may take to say what was logged last, before the devices are followed without it."""
MOST_MISSING = 100
"""Rows that cannot be read, of those that are counted."""


class Logger(Server):
    """Keeps every value of the tree that says so.

    :param hostname: name of this host on the bus
    :param service: name of this server
    :param broker_ip: the broker's address, or ``ipc://`` and a directory
    :param broker_port: the broker's base port
    :param data_dir: where the file is; None: the state directory of this server
    :param settings: the bounds
    :param clock: what tells the time
    """

    CONFIG: ClassVar[type[Section]] = LoggerConfig
    KEEPS: ClassVar[tuple[Part, ...]] = (Part("history.db", schema.SCHEMAS),)

    def __init__(
        self,
        hostname: str = "localhost",
        service: str = "logger",
        broker_ip: str = "127.0.0.1",
        broker_port: int = 5514,
        data_dir: str | None = None,
        settings: LoggerConfig | None = None,
        clock: BootClock | None = None,
    ) -> None:
        super().__init__(hostname, service, broker_ip, broker_port)
        self.settings = settings or LoggerConfig()
        self.clock = clock or BootClock()
        directory = os.path.abspath(data_dir or state_directory(service))
        database = Database(os.path.join(directory, "history.db"), schema.SCHEMAS, schema.TABLES)
        self.storage = Storage(self, database, "history")
        self.recent = Recent()
        self.subscriber: KvSubscriber | None = None
        self.happenings: KvSubscriber | None = None
        self._happened: set[int] = set()
        self._lost_some = False
        self._flushed = -EARLY
        self.today: int | None = None
        """The day of the last live reading of the last batch; the days before it are over."""
        self._segment: Segment | None = self._segment_now()
        self._folding = False
        self._unfolded = 0
        self._unkept: set[str] = set()
        self._missing: dict[str, None] = {}
        self._stopped = False
        self._rows = self.add_statistic(SNMPCounter(f"{service}.rows", "Readings taken"))
        self.add_statistic(SNMP(f"{service}.waiting", "Readings that are not on the disk yet"))
        self._events = self.add_statistic(SNMPCounter(f"{service}.events", "Events taken"))
        self._events_lost = self.add_statistic(
            SNMPCounter(f"{service}.events_lost", "Events given up: too many names at once, or the disk took none")
        )
        self.add_statistic(SNMP(f"{service}.lost", "Readings given up because the disk took none for too long"))
        self.add_statistic(SNMP(f"{service}.commits", "Commits, each a write that the disk has confirmed"))

    @classmethod
    def _configured(cls, bus: dict[str, Any], settings: Any) -> Self:
        return cls(**bus, settings=settings)

    def start(self) -> None:
        """Open the file and follow the devices."""
        super().start()
        self.storage.write(journal.prepare, None, lambda *_: None, keep=True)
        if self._segment is None:
            self._set_right()
        # The broker tells the last readings again, which are not to be logged again.
        self.storage.read(marks, self._follow)
        self.call_later(PATIENCE, self._follow, None, None)
        self.call_every(self.settings.batch, self.flush)
        self.call_every(1.0, self.look_at_clock)

    def _follow(self, found: tuple[dict[str, int], set[int]] | None, error: Exception | None) -> None:
        if self.subscriber is None and not self._stopped:
            self.recent.marks, self._happened = found or ({}, set())
            self.subscriber = KvSubscriber(self, "/device", self.on_change)
            if self.settings.events:
                self.happenings = KvSubscriber(self, "/event", self.on_event)

    def stop(self) -> None:
        """Write what there is, and leave the bus."""
        self._stopped = True
        for subscriber in (self.subscriber, self.happenings):
            if subscriber is not None:
                subscriber.close()
        self._send()
        self.storage.close()
        super().stop()

    def reload(self) -> None:
        """Write what was gathered, as before the plug is pulled."""
        self.flush()

    def summary(self) -> str:
        """What the status line says when all is well."""
        return f"{len(self.recent.units())} values are logged"

    def update_statistic(self, oid: str = "") -> None:
        """Bring the values that are counted elsewhere up to date."""
        super().update_statistic(oid)
        flying = sum(map(len, self.recent.flying))
        for name, value in (
            ("waiting", self.recent.count + flying),
            ("lost", self.recent.lost),
            ("commits", self.storage.commits),
        ):
            self._statistics[f"{self.service}.{name}"].set(value)

    def worker_log(self) -> Verbs:
        """Serve ``<hostname>.logger.log``."""
        return LOG

    # What comes in

    def on_change(self, key: str, body: bytes) -> None:
        """A value of the tree has changed."""
        try:
            value = Value.decode(body) if body else None
        except ValueFormatError:
            return
        if value is None or value.log is not True or not is_key(key):
            return
        number, quality = 0.0, OK
        if value.quality != "ok":
            quality = STALE if value.quality == "stale" else ERROR
        elif isinstance(value.value, bool | int | float):
            number = float(value.value)
        else:
            return
        if self.recent.seen(key, zlib.crc32(body) or 1):
            return
        # Before the reading joins those of a clock that has just been set.
        self.look_at_clock()
        now = self.now() / 1000
        # What is stale still has the time of the last reading.
        near = quality != STALE and -max(OFF, value.max_age) <= value.time - now <= OFF
        time = value.time if near else now
        self.take(key, value.unit, round(time * 1000), number, quality, math.ceil(value.max_age))

    def take(self, key: str, unit: str, time: int, value: float, quality: int = OK, hold: int = 60) -> None:
        """Log one live reading.

        :param time: Unix time in ms
        :param value: finite; 0 when the quality is not ok
        :param quality: one of :data:`~raspy.servers.logger.rows.QUALITIES`, by its place
        :param hold: seconds within which the next one is expected
        """
        self._rows.set()
        lost = self.recent.lost
        value += 0.0  # no minus zero
        unit = unit if is_unit(unit) else printable(unit)[:UNIT_LENGTH]
        if not self.recent.add(key, unit, min(max(time, 0), LATEST - 1), value, quality, hold):
            self._no_room([key])
        if self.recent.lost != lost:
            self._tell_lost()
        if self.recent.count >= MOST_WAITING:
            self.flush()

    def on_event(self, key: str, body: bytes) -> None:
        """Something happened, or is told again."""
        self.look_at_clock()
        segment = self._segment
        boot = segment.offset / 1000 if segment is not None else math.inf
        event = events.read(key, body, self.settings.events, self.now() / 1000, OFF, boot)
        if event is None:
            return
        mark = events.mark(event.kind, event.name, event.body)
        if mark in self._happened:
            if not event.stamped:
                # The next one that says the same is another one.
                self._happened.discard(mark)
            return
        self._events.set()
        event.moves = event.moves and segment is not None
        now = monotonic()
        if self.recent.gathering.events.full and now - self._flushed >= EARLY and not self.recent.flying:
            self._flushed = now
            self.flush()
        if not self.recent.gathering.events.add(event):
            self._events_lost.set()
            if not self._lost_some:
                self._lost_some = True
                told = f"too much happens at once: from {event.kind}/{printable(event.name)} on events are not kept"
                self.condition("events", f"{told}, until the next batch is written")

    def flush(self) -> None:
        """Write what was gathered, unless the disk still has the last batch; then it goes on gathering."""
        if not self.recent.flying:
            self._send()

    def _send(self) -> None:
        batch = self.recent.take(self._segment)
        if not self._lost_some:
            self.condition("events", None)
        self._lost_some = False
        if batch is None:
            return
        batch.room = self.settings.event_count, self.settings.event_days
        self.storage.write(journal.keep, batch, functools.partial(self._kept, batch), keep=True)
        self._unfolded += len(batch)
        if not batch.rows:
            return
        day = max(rows.times[-1] for rows in batch.rows.values()) // DAY
        if day != self.today or self._unfolded >= MUCH:
            self.today = day
            self.fold()

    def _kept(self, batch: Batch, refused: journal.Refused | None, error: Exception | None) -> None:
        self.recent.landed(batch)
        if error is not None:
            # A statement that failed: to try it again would fail again.
            self.recent.lost += len(batch)
            count = len(batch.events)
            self._events_lost.set(count)
            if len(batch):
                self._tell_lost()
            if count:
                self.condition("events lost", f"{count} events were given up, as the disk did not take them")
            return
        self.condition("lost", None)
        self.condition("events lost", None)
        if refused:
            self._no_room([key for key, _ in refused])

    def _no_room(self, keys: list[str]) -> None:
        if len(self._unkept) < MOST_SERIES:
            self._unkept.update(keys)
            self.condition(
                "series",
                f"{MOST_SERIES} values have a history, which are all that can: {len(self._unkept)} more are not kept, "
                f"as {keys[0]}; turn log off for some, and delete what is not needed (forget of {self.name}.log)",
            )

    def _tell_lost(self) -> None:
        self.condition("lost", f"{self.recent.lost} readings were given up, as the disk did not take them")

    # Days that are over, and clocks that are set

    def fold(self) -> None:
        """Turn the journal of days that are over into rows of a day, and drop what is old."""
        if self._folding or self.today is None:
            return
        self._folding = True
        settings = self.settings
        keep = {
            "raw": settings.raw_days,
            "pieces": settings.raw_days,
            "minutes": settings.five_minute_days,
            "hours": settings.hour_days,
            "days": settings.hour_days,
        }
        since = round(self.clock.since() * 1000)
        item = Fold(self.today, self.clock.boot_id, since, self._segment is None, keep)
        self.storage.write(folding.fold, item, self._folded)

    def _folded(self, result: tuple[bool, list[str]] | None, error: Exception | None) -> None:
        self._folding = False
        if result is None or error is not None:
            # What is not folded is read from the journal; the next batch asks for it again.
            self.today = None
            return
        more, missing = result
        self._tell_missing(missing)
        if more:
            self.fold()
        else:
            self._unfolded = 0

    def _tell_missing(self, missing: list[str]) -> None:
        if not missing:
            return
        for what in missing:
            if len(self._missing) < MOST_MISSING:
                self._missing[what] = None
        count = len(self._missing)
        more = f", and {count - 1} more (in the log)" if count > 1 else ""
        self.condition("missing", f"not all of the history is there: {next(iter(self._missing))}{more}")

    def look_at_clock(self) -> None:
        """See whether the clock was set, or is known to be right now; what is gathered is moved with it."""
        before = self._segment
        if before is None:
            return
        now = self._boot()
        right = self.clock.trusted()
        if not right and abs(now.offset - before.offset) < STEP:
            return
        self.recent.move(now.offset - before.offset)
        self._segment = None if right else now
        if right:
            self._set_right()

    def _segment_now(self) -> Segment | None:
        return None if self.clock.trusted() else self._boot()

    def _boot(self) -> Segment:
        return Segment(self.clock.boot_id, round((self.clock.wall() - self.clock.since()) * 1000))

    def _set_right(self) -> None:
        """Move what this boot has logged before its clock was right."""
        self.storage.write(journal.set_right, self._boot(), lambda *_: None, keep=True)

    # For the verbs

    @property
    def segment(self) -> Segment | None:
        """While which time a reading is made now; None: the clock is right."""
        return self._segment

    def now(self) -> int:
        """Unix time in ms; while the clock is not known to be right, as it went when it was last looked at."""
        if self._segment is not None:
            return round(self.clock.since() * 1000) + self._segment.offset
        return round(self.clock.wall() * 1000)

    def appended(self, count: int) -> None:
        """Late readings were written."""
        self._unfolded += count
        if self._unfolded >= MUCH:
            self.today = self.now() // DAY if self.today is None else self.today
            self.fold()

    def read(self, function: Read, answer: Callable[[Any], Any]) -> Later:
        """The answer of a verb that reads, from one state of the file."""

        def whole(connection: Any) -> Any:
            connection.execute("BEGIN")
            try:
                result = function(connection)
                return msgspec.Raw(json_encode(result)) if result is not None else None, reading.noted()
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

        def found(result: tuple[Any, list[str]]) -> Any:
            self._tell_missing(result[1])
            return answer(result[0])

        return self._later(functools.partial(self.storage.read, whole), found)

    def write(self, function: Write, item: Any, answer: Callable[[Any], Any]) -> Later:
        """The answer of a verb that writes."""
        return self._later(functools.partial(self.storage.write, function, item), answer)

    def _later(
        self, job: Callable[[Callable[[Any, Exception | None], None]], None], answer: Callable[[Any], Any]
    ) -> Later:
        later = Later()

        def done(result: Any, error: Exception | None) -> None:
            if error is None:
                told = answer(result)
                if isinstance(told, VerbError):
                    later.fail(told.status, str(told))
                else:
                    later.reply(told)
            elif isinstance(error, StorageError):
                later.fail(MDP.ERROR, str(error))
            else:
                later.fail(MDP.ERROR, f"{type(error).__name__} in {self.name}; its log has the details")

        job(done)
        return later


def marks(connection: sqlite3.Connection) -> tuple[dict[str, int], set[int]]:
    """What tells the last readings and events that were written from others."""
    return numbers.marks(connection), events.marks(connection)
