"""What calls an owner: notices of alarms are kept, gathered into messages, and brought to every channel.

:meth:`Voice.tell` returns at once. A notice is on the disk before it is sent anywhere (where the disk takes nothing it
is sent from memory, as that is when an owner must hear of it), and stays until it was delivered. Back-off and grouping
go by the monotonic clock.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Any

from raspy.common.clock import BootClock
from raspy.common.database import Database
from raspy.common.directories import state_directory
from raspy.common.server import Server
from raspy.common.storage import Done, Storage, Write
from raspy.servers.alarm import queue
from raspy.servers.alarm.config import AlarmConfig
from raspy.servers.alarm.errand import Errand
from raspy.servers.alarm.letters import Entry, sent_of
from raspy.servers.alarm.message import WELL, Frame, Notice, cleaned, rank
from raspy.servers.alarm.outlet import Outlet, Tested
from raspy.servers.alarm.queue import Batch, Found
from raspy.servers.alarm.task import Outcome, Task

__all__ = ["Notice", "Voice"]

logger = logging.getLogger("raspy.alarm.voice")

GAP = 0.2
"""Seconds between two writes of a storm: cards wear with each."""
MOST = 2_000
"""Alarms whose notices wait for the disk in memory; changes of others are then only counted."""
TICK = 1.0
"""Seconds between looks at the disk and the time of day."""
PATIENCE = 5.0
"""Seconds that the disk may take to say what still waits, before the channels are used without it."""
FIRST_PING = 10.0
"""Seconds after the start at most."""
SILENT = 1800.0
"""Seconds for which no channel has reached anybody after which the address outside is not called any more either."""
PING_FAILURES = 2
"""In a row, after which they are reported."""


class Voice:
    """Brings notices to the channels. Everything here is called on the loop.

    :param server: whose loop, pool and conditions are used
    :param path: the file of what waits; secrets are beside it; None: ``voice.db`` in the server's state directory
    :param settings: the section ``[alarm]``
    :param clock: what tells the time
    """

    def __init__(self, server: Server, path: str | None, settings: AlarmConfig, clock: BootClock | None = None) -> None:
        self.server = server
        self.settings = settings
        self.clock = clock or BootClock()
        path = os.path.abspath(path or os.path.join(state_directory(server.service), "voice.db"))
        self.secrets = os.path.join(os.path.dirname(path), "secrets")
        self.storage = Storage(server, Database(path, queue.SCHEMAS, queue.TABLES), "voice")
        self.storage.on_recovered = self._recovered
        self.ok: Callable[[], tuple[bool, str]] = lambda: (True, "")
        """Whether all is well, and how things are in a line. To be set by whoever knows."""
        self.outlets = {
            name: Outlet(self, name, found, settings.channels[name]) for name, found in settings.read_channels().items()
        }
        self.writing = False
        """A write that changes what waits is under way; there is one at a time."""
        self._fresh: dict[tuple[str, tuple[str, ...]], Entry] = {}
        self._landing: list[Entry] = []
        self._floor = 0
        """Nothing in memory is less grave than that (:func:`raspy.servers.alarm.message.rank`)."""
        self._gone: dict[str, int] = {}
        self._counted: dict[str, Callable[[], None]] = {}
        """Who waits for what is only counted, by alarm."""
        self._landing_counted: list[Callable[[], None]] = []
        self._marks: dict[str, Any] = {}
        self._wrote = float("-inf")
        self._waiting_to_write = False
        self._started = self._closed = self._loaded = False
        self._counted_by_write = False
        """What a write said of how much waits is newer than what the file said at the start, whichever comes first."""
        self._load_error = ""
        self._day = ""
        self._ping: Errand | None = None
        self._ping_failures = 0

    def load(self) -> None:
        """Ask the file what still waits."""
        self.storage.read(queue.load, self._have_loaded)

    def start(self) -> None:
        """Begin to send."""
        self._started = True
        self.server.call_later(PATIENCE, self._go_on_without)
        self.server.call_every(TICK, self._tick)
        if self.settings.ping_url:
            self.server.call_later(min(FIRST_PING, self.settings.ping_every), self._call_out)
            self.server.call_every(self.settings.ping_every, self._call_out)
        for outlet in self.outlets.values():
            outlet.look()

    def close(self) -> None:
        """Write what is not on the disk yet, and end what is being sent. It goes on at the next start."""
        self._closed = True
        for outlet in self.outlets.values():
            outlet.close()
        if self._ping is not None:
            self._ping.close()
        if self._fresh or self._gone or self._marks:
            self.storage.write(queue.put, self._take(), lambda *_: None, keep=True)
        self.storage.close()

    def tell(self, notice: Notice, done: Callable[[], None] | None = None) -> None:
        """Have something told. Never waits, never raises.

        :param done: called when this, or a later notice of the same alarm, is on the disk, if only as one of those that
            are counted. Then only this call of it is made: not those of notices which that one has overtaken
        """
        notice = cleaned(notice, self.clock.wall())
        self._tell(notice, self._channels_of(notice), done)

    def channels(self) -> list[dict[str, Any]]:
        """How each channel is: ``name``, ``kind``, ``to`` (host), ``least`` (severity), ``waiting`` (alarms),
        ``sending``, ``tries`` (failures in a row), ``next_try`` (s), ``last_success`` and ``last_error_time`` (Unix
        time in s, or None), ``last_error``."""
        return [outlet.describe() for outlet in self.outlets.values()]

    def test(self, channel: str, done: Tested) -> None:
        """Send a message for a test, once; ``done(problem)`` follows, with an empty text when it was delivered.

        :raises KeyError: there is no such channel
        """
        self.outlets[channel].test(done)

    # For the outlets

    def frame(self, note: str = "") -> Frame:
        """What surrounds a message that is put together now."""
        link = self.settings.link or f"http://{self.server.hostname}.local/"
        return Frame(os.urandom(16).hex(), self.server.hostname, link, self.clock.wall(), self.clock.trusted(), note)

    def held(self, channel: str) -> list[Entry]:
        """What is not on the disk yet and was not told to a channel, the oldest first."""
        return [
            entry
            for entry in (*self._landing, *self._fresh.values())
            if channel in entry.channels and channel not in entry.without
        ]

    def unwritten(self, channel: str) -> int:
        """How many notices that is."""
        return len(self.held(channel)) if self._landing or self._fresh else 0

    def write(self, function: Write, item: Any, done: Done) -> None:
        """Do the one write that changes what waits; nobody else may have one under way (:attr:`writing`)."""
        self.writing = True

        def ended(result: Any, error: Exception | None) -> None:
            self._wrote = time.monotonic()
            self.writing = False
            self.server.guard(done, result, error)
            self._write_soon()
            self._look()

        self.storage.write(function, item, ended)

    # What comes in

    def _channels_of(self, notice: Notice) -> tuple[str, ...]:
        wanted = [name for name in notice.channels if name in self.outlets]
        # What names only channels that are there no more must not be silent.
        names = wanted or list(self.outlets)
        return tuple(name for name in names if self.outlets[name].wants(notice.severity))

    def _tell(self, notice: Notice, channels: tuple[str, ...], done: Callable[[], None] | None) -> None:
        if not channels:
            if done is not None:
                self.server.call_later(0, done)
            return
        entry = self._fresh.get((notice.name, channels))
        if entry is not None:
            entry.notice, entry.done = notice, done
            entry.changes += 1
            entry.without = frozenset()
            self._floor = min(self._floor, rank(notice.severity))
        elif len(self._fresh) < MOST or self._make_room(rank(notice.severity)):
            self._fresh[notice.name, channels] = Entry(notice, channels, done)
            self._floor = min(self._floor, rank(notice.severity))
        else:
            self._count(Entry(notice, channels, done))
        if entry is None:
            for name in channels:
                self.outlets[name].arrived(notice.severity)
        self._write_soon()

    def _make_room(self, grave: int) -> bool:
        """Only count the oldest of the least grave that waits for the disk, if that is less grave."""
        if grave <= self._floor:
            return False
        key, least = None, grave
        for each, entry in self._fresh.items():
            found = rank(entry.notice.severity)
            if found < least:
                key, least = each, found
                if found <= self._floor:
                    break
        self._floor = least
        if key is None:
            return False
        self._count(self._fresh.pop(key))
        return True

    def _count(self, entry: Entry) -> None:
        """Have no more of a notice than that there was one."""
        for name in entry.channels:
            if name not in entry.without:
                self._gone[name] = self._gone.get(name, 0) + entry.changes
        if entry.done is not None:
            if len(self._counted) >= MOST and entry.notice.name not in self._counted:
                self.server.call_later(0, entry.done)
            else:
                self._counted[entry.notice.name] = entry.done

    def _write_soon(self) -> None:
        if self.writing or self._waiting_to_write or self._closed or not (self._fresh or self._gone or self._marks):
            return
        wait = self._wrote + GAP - time.monotonic()
        if wait > 0:
            self._waiting_to_write = True
            self.server.call_later(wait, self._write_now)
        else:
            self._put()

    def _write_now(self) -> None:
        self._waiting_to_write = False
        if not self.writing and not self._closed:
            self._put()

    def _put(self) -> None:
        self.writing = True
        batch = self._take()
        self._landing = batch.entries
        self.storage.write(queue.put, batch, self._landed, keep=True)

    def _take(self) -> Batch:
        batch = Batch(list(self._fresh.values()), self._gone, self._marks)
        self._fresh, self._gone, self._marks, self._floor = {}, {}, {}, rank("critical")
        self._landing_counted, self._counted = list(self._counted.values()), {}
        return batch

    def _landed(self, counts: dict[str, int] | None, error: Exception | None) -> None:
        self._wrote = time.monotonic()
        self.writing = False
        landed, self._landing = self._landing, []
        counted, self._landing_counted = self._landing_counted, []
        if counts is None:
            # A statement that failed: to try it again would fail again.
            self.server.condition("lost", f"{len(landed)} notices could not be kept: {error}")
        else:
            self._counted_by_write = True
            for name, outlet in self.outlets.items():
                outlet.stored = counts.get(name, 0)
            for done in (*(entry.done for entry in landed), *counted):
                if done is not None:
                    self.server.guard(done)
        self._write_soon()
        self._look()

    # The file

    def _have_loaded(self, found: Found | None, error: Exception | None) -> None:
        if self._closed or self._loaded:
            return
        if found is None or error is not None:
            # The storage has told why.
            self._load_error = str(error)
            if "voice slow" in self.server.conditions:
                self._tell_slow()
            self.server.call_later(TICK, self.load)
            return
        self._loaded = True
        if found.bad:
            self.server.condition(
                "voice rows",
                f"{found.bad} rows of {self.storage.database.path} cannot be read, so that what they say is not told; "
                "they are set aside in its table mark",
            )
            self.storage.write(queue.set_aside, "", self._have_set_aside, keep=True)
        self._day = self._day or str(found.marks.get(queue.DAY, ""))
        for name, outlet in self.outlets.items():
            sent = sent_of(found.marks.get(queue.SENT + name))
            stored = outlet.stored if self._counted_by_write else found.counts.get(name, 0)
            outlet.open(stored, found.letters.get(name), sent)
        for name in sorted((found.counts.keys() | found.letters.keys()) - self.outlets.keys()):
            self.storage.write(queue.drop, name, lambda *_: None)
            waiting = found.counts.get(name, 0) + (name in found.letters)
            logger.warning("channel %s is not configured any more: what waited for it is dropped (%s)", name, waiting)

    def _have_set_aside(self, counts: dict[str, int] | None, error: Exception | None) -> None:
        for name, outlet in self.outlets.items():
            outlet.stored = (counts or {}).get(name, 0) if error is None else outlet.stored

    def _go_on_without(self) -> None:
        if not self._loaded:
            self._tell_slow()
            for outlet in self.outlets.values():
                # A message in the file is found when the next one is put together.
                outlet.opened = True
            self._look()

    def _tell_slow(self) -> None:
        why = self._load_error or "the disk is slow"
        self.server.condition("voice slow", f"what still waits to be told is not known yet: {why}")

    def _recovered(self) -> None:
        """The file is a new one; what is being sent is in memory, so it is kept there again."""
        for name, outlet in self.outlets.items():
            if outlet.letter is not None:
                self.storage.write(queue.keep, (name, outlet.letter), lambda *_: None, keep=True)

    def _look(self) -> None:
        if not self._closed:
            for outlet in self.outlets.values():
                outlet.look()

    def _tick(self) -> None:
        if self._closed:
            return
        if self._loaded:
            self.server.condition("voice slow", None)
        if self.storage.problem:
            self._look()
        if self.settings.well_at and self._loaded:
            self._look_at_day()

    # Signs of life

    def _look_at_day(self) -> None:
        """Say once a day how things are, as soon as the clock is known to be right."""
        if not self.clock.trusted():
            return
        now = time.localtime(self.clock.wall())
        today = time.strftime("%Y-%m-%d", now)
        if self._day == today or time.strftime("%H:%M", now) < self.settings.well_at:
            if not self._day:
                # From the first day on, the word comes at its time.
                self._set_day("none")
            return
        first = not self._day
        self._set_day(today)
        if first:
            return
        well, summary = self._how()
        label = "All is well" if well else "Not all is well"
        notice = cleaned(Notice(name="well", label=label, severity="info", reason=summary), self.clock.wall())
        notice.name = WELL
        self._tell(notice, tuple(name for name, outlet in self.outlets.items() if outlet.settings.well), None)

    def _set_day(self, day: str) -> None:
        self._day = self._marks[queue.DAY] = day
        self._write_soon()

    def _how(self) -> tuple[bool, str]:
        try:
            return self.ok()
        except Exception as error:
            self.server.report(error, "finding out whether all is well")
            return False, "it could not be found out how things are"

    def _call_out(self) -> None:
        """Call the address outside, unless somebody should come and look."""
        if self._ping is not None or self._closed or not self._how()[0] or self.storage.problem or self._unheard():
            return
        task = Task("ping", {"url": self.settings.ping_url}, self.secrets, trusted=self.clock.trusted())
        self._ping = Errand(self.server, task, self._called_out)

    def _unheard(self) -> bool:
        """Whether no channel has reached anybody for long."""
        now = time.monotonic()
        return bool(self.outlets) and all(
            outlet.failing_since is not None and now - outlet.failing_since > SILENT for outlet in self.outlets.values()
        )

    def _called_out(self, outcome: Outcome) -> None:
        self._ping = None
        if outcome.error:
            self._ping_failures += 1
            if self._ping_failures >= PING_FAILURES:
                self.server.condition("ping", outcome.error)
        else:
            self._ping_failures = 0
            self.server.condition("ping", None)
