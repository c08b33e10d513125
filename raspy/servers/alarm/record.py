"""What outlives the server: each change of an alarm is on the disk, and then handed to the voice, once.

A change is written together with what is to be told of it. When the voice has that on its disk, it is written that it
has. So a crash in between has it told again at most, and never loses it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from raspy.common.database import Database, InUse, StorageError
from raspy.common.storage import Read, Storage
from raspy.servers.alarm import store
from raspy.servers.alarm.alarms import NORMAL, Alarm, Kept
from raspy.servers.alarm.message import Notice
from raspy.servers.alarm.store import Change, Item, Key

if TYPE_CHECKING:
    from raspy.servers.alarm.server import Alarm as AlarmServer

PATIENCE = 3.0
"""Seconds that the disk may take for an alarm before it is told all the same."""
MOST_CHANGES = 50
"""Changes of one alarm that wait for the disk."""
RETRY = 1.0
"""Seconds after which a disk that refused is tried again."""
LAST = 1.0
"""Seconds that what is to be told may take to reach the disk when the server stops."""

Rows = list[tuple[Key, Kept]]


class Record:
    """The file of the alarms.

    :param server: whose loop and voice are used
    :param path: the file; None: nothing outlives the server
    """

    def __init__(self, server: AlarmServer, path: str | None) -> None:
        self.server = server
        self.lost = 0
        """Changes that are not in the history, as the disk did not take them."""
        self.on_recovered: Callable[[], None] = lambda: None
        """Called when the file is a new one, so that everything is to be written again."""
        self._dirty: dict[Key, Alarm | None] = {}
        self._changes: dict[Key, list[Change]] = {}
        self._writing: set[Key] = set()
        self._waits: dict[object, tuple[set[Key], Callable[[], None]]] = {}
        """Who waits for which alarms to be on the disk."""
        self._untold: dict[Key, tuple[Alarm, float]] = {}
        """What the disk has not taken yet, and since when (monotonic, s)."""
        self._database = Database(path, store.SCHEMAS, store.TABLES) if path is not None else None
        self._storage = Storage(server, self._database, "alarms") if self._database is not None else None

    def load(self, late: Callable[[Rows], None]) -> Rows:
        """What was kept. Called once, before the loop turns, so this waits for the disk.

        :param late: called with it when the file could not be read now, as soon as it can be
        :raises raspy.common.database.InUse: another process has the file
        """
        if self._database is None or self._storage is None:
            return []
        try:
            rows = self._database.read(store.read_all)
        except InUse:
            raise
        except StorageError as error:
            # What is wrong is told again then, which is better than not at all.
            self.server.condition("alarms read", str(error))
            self._read_again(late)
            return []
        if self._database.notice:
            self.server.condition("alarms damaged", self._database.notice)
        self._storage.on_recovered = self.on_recovered
        return rows

    def _read_again(self, late: Callable[[Rows], None]) -> None:
        assert self._storage is not None

        def done(rows: Rows | None, error: Exception | None) -> None:
            if error is not None or rows is None:
                self.server.call_later(RETRY, self._read_again, late)
                return
            self.server.condition("alarms read", None)
            if self._storage is not None:
                self._storage.on_recovered = self.on_recovered
            late(rows)

        self._storage.read(store.read_all, done)

    def close(self) -> None:
        """Write what waits, and let go of the file. Called when the server stops, so this waits."""
        until = time.monotonic() + LAST
        alarms = self.server.book.alarms
        while self._storage is not None and time.monotonic() < until:
            self._flush()
            if not self._writing and not self._untold and not any(each.kept.to_tell for each in alarms.values()):
                break
            # A loop that is to end does not wait for anything.
            self.server.turn(0.0)
            time.sleep(0.005)
        if self._storage is not None:
            self._storage.close()

    def read(self, function: Read, done: Callable[[Any, Exception | None], None]) -> None:
        """Read from the file; ``done(result, error)`` follows, with nothing where there is no file."""
        if self._storage is None:
            self.server.call_later(0, done, [], None)
        else:
            self._storage.read(function, done)

    def keep(self, key: Key, alarm: Alarm | None, change: Change | None = None) -> None:
        """Have an alarm written as it is then, and a change of it; None: it is not kept any more."""
        if self._storage is None:
            if alarm is not None and alarm.kept.to_tell:
                self._tell(key, alarm)
            return
        if not self._dirty:
            self.server.call_later(0, self._flush)
        self._dirty[key] = alarm
        if change is not None:
            changes = self._changes.setdefault(key, [])
            changes.append(change)
            if len(changes) > MOST_CHANGES:
                del changes[0]
                self.lost += 1
        if alarm is not None and alarm.kept.to_tell:
            self._untold.setdefault(key, (alarm, time.monotonic()))

    def wait(self, token: object, keys: set[Key], done: Callable[[], None]) -> None:
        """Have ``done()`` called when alarms are on the disk as they are now.

        :param token: with which :meth:`wait_no_more` can end that
        """
        left = {key for key in keys if key in self._dirty or key in self._writing}
        if left:
            self._waits[token] = left, done
        else:
            done()

    def wait_no_more(self, token: object) -> None:
        """Nobody waits any more."""
        self._waits.pop(token, None)

    def tick(self) -> None:
        """Tell what the disk does not take."""
        now = time.monotonic()
        for key, (alarm, at) in list(self._untold.items()):
            if now >= at + PATIENCE:
                self._tell(key, alarm)

    def tell(self, key: Key, alarm: Alarm) -> None:
        """Tell what the server before this one has kept, and not told."""
        self._tell(key, alarm)

    def _flush(self) -> None:
        """Write what has changed; of one alarm one thing at a time, as it is then."""
        if self._storage is None:
            return
        for key in [key for key in self._dirty if key not in self._writing]:
            alarm = self._dirty.pop(key)
            kept = None
            if alarm is not None and not alarm.idle:
                # What is changed meanwhile is not to be half in it.
                kept = store.encode(alarm.kept)
            self._writing.add(key)
            item = Item(key, kept, self._changes.pop(key, []))
            self._storage.write(store.write, item, self._done(key, alarm), keep=True)

    def _done(self, key: Key, alarm: Alarm | None) -> Callable[[Any, Exception | None], None]:
        telling = alarm.kept.to_tell if alarm is not None else ""

        def done(_: Any, error: Exception | None) -> None:
            self._writing.discard(key)
            if error is not None:
                self.lost += 1
            if alarm is not None and telling and key in self._untold and alarm.kept.to_tell == telling:
                self._tell(key, alarm)
            if key in self._dirty:
                self._flush()
            elif error is None:
                self._landed(key)

        return done

    def _landed(self, key: Key) -> None:
        for token, (left, done) in list(self._waits.items()):
            left.discard(key)
            if not left:
                del self._waits[token]
                self.server.guard(done)

    def _tell(self, key: Key, alarm: Alarm) -> None:
        """Hand to the voice what is to be told."""
        self._untold.pop(key, None)
        kept, settings = alarm.kept, alarm.rule.settings
        telling, since = kept.to_tell, kept.since
        if not telling:
            return
        notice = Notice(
            name=alarm.name,
            label=alarm.label,
            severity=alarm.severity,
            state=telling,
            key=alarm.key,
            value=kept.value,
            unit=kept.unit,
            reason=kept.reason,
            time=kept.since,
            channels=list(settings.channels),
        )

        def told() -> None:
            if kept.to_tell == telling and kept.since == since:
                kept.to_tell, kept.told = "", "" if alarm.state == NORMAL else telling
                self.keep(key, alarm)
                self.server.book.settle(alarm)

        self.server.voice.tell(notice, told)
