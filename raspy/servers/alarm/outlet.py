"""One channel: when its next message is due, who carries it, and what happens when nobody takes it."""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from raspy.servers.alarm import queue
from raspy.servers.alarm.channels import ChannelSettings
from raspy.servers.alarm.errand import Errand
from raspy.servers.alarm.letters import Entry, Letter, Sent, letter_of, merged
from raspy.servers.alarm.message import Message, Told, rank, trial
from raspy.servers.alarm.queue import Draft
from raspy.servers.alarm.task import Outcome, Task

if TYPE_CHECKING:
    from raspy.common.executive import Timer
    from raspy.servers.alarm.voice import Voice

logger = logging.getLogger("raspy.alarm.voice")

GATHER, GATHER_CRITICAL = 10.0, 2.0
"""Seconds that a message waits for what else happens."""
RETRY = (5.0, 300.0)
"""Seconds between two tries: the first time, and the longest after doublings."""
RETRY_REFUSED = (300.0, 3600.0)
"""The same after a refusal that will not change by itself."""
DISK = 2.0
"""Seconds after which a disk that did not take a message is tried again."""
TEST_EVERY = 30.0
"""Seconds from one test to the next."""
NEVER = float("inf")

Tested = Callable[[str], None]


class Outlet:
    """A channel as the server sees it. Everything here is called on the loop; one message is sent at a time.

    :param settings: what it can be told
    :param table: the same as it is in the configuration, for the process that sends
    """

    def __init__(self, voice: Voice, name: str, settings: ChannelSettings, table: dict[str, Any]) -> None:
        self.voice = voice
        self.name = name
        self.settings = settings
        self.table = table
        self.stored = 0
        """Alarms that wait in the file."""
        self.sent = Sent()
        self.last_error = ""
        self.last_error_time = 0.0
        self.failing_since: float | None = None
        """Monotonic time of the first of the failures in a row."""
        self.tries = 0
        """Failures in a row."""
        self.letter: Letter | None = None
        self.opened = False
        """Whether it is known what the file holds."""
        self._durable = True
        """Whether the message is in the file."""
        self._certain = False
        """No try has ended in doubt, so nobody has the message yet."""
        self._held: list[tuple[Entry, int]] = []
        """What a message that is not in the file was made of, with how often it had changed then."""
        self._parts: list[Told] = []
        """All of what it was made of."""
        self._due = NEVER
        self._next_try = 0.0
        self._not_before = 0.0
        self._busy = self._forgetting = self._closed = False
        self._errand: Errand | None = None
        self._test: Tested | None = None
        self._tested = -NEVER
        self._timer: Timer | None = None
        self._armed = NEVER

    def wants(self, severity: str) -> bool:
        """Whether something so grave goes here."""
        return rank(severity) >= rank(self.settings.least)

    def arrived(self, severity: str) -> None:
        """There is something to be told."""
        wait = GATHER_CRITICAL if severity == "critical" else GATHER
        self._due = min(self._due, time.monotonic() + wait)
        self.look()

    def open(self, stored: int, letter: Letter | None, sent: Sent) -> None:
        """Go on from where the file says that it was."""
        self.opened = True
        self.stored, self.sent = stored, sent
        if letter is not None and self.letter is None:
            # The last try may have been cut off at any point.
            self.letter, self._durable, self._certain = letter, True, False
        clock = self.voice.clock
        if sent.boot == clock.boot_id and 0 <= clock.since() - sent.since < self.settings.every:
            self._not_before = time.monotonic() + self.settings.every - (clock.since() - sent.since)
        if stored and self._due == NEVER:
            self._due = time.monotonic() + GATHER_CRITICAL
        self.look()

    def test(self, done: Tested) -> None:
        """Send a message for a test, once; ``done(problem)`` follows, with an empty text when it was delivered."""
        now = time.monotonic()
        left = self._tested + TEST_EVERY - now
        if self._closed or self._test is not None or left > 0:
            when = f"again in {math.ceil(left)} s" if left > 0 else "once it has ended"
            self.voice.server.call_later(0, done, f"a test of this channel was asked for just now: try {when}")
            return
        self._test, self._tested = done, now
        self.look()

    def describe(self) -> dict[str, Any]:
        """How it is, for an owner."""
        left = self._next_try - time.monotonic()
        return {
            "name": self.name,
            "kind": self.settings.kind,
            "to": self.settings.place(),
            "least": self.settings.least,
            "waiting": self.stored + self.voice.unwritten(self.name),
            "sending": self.letter is not None,
            "tries": self.tries,
            "next_try": round(max(left, 0.0), 1) if self.letter is not None and self.tries else None,
            "last_success": self.sent.time or None,
            "last_error": self.last_error,
            "last_error_time": self.last_error_time or None,
        }

    def close(self) -> None:
        """Send nothing any more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._errand is not None:
            self._errand.close()

    def look(self) -> None:
        """Do what can be done now, and come back when there is more to do."""
        if self._closed or self._errand is not None or self._busy:
            return
        alarms = self._look_at_alarms(time.monotonic())
        if self._test is not None and not alarms and self._errand is None and not self._busy:
            self._send_test(self._test)

    def _look_at_alarms(self, now: float) -> bool:
        """Whether they are being told, or will be soon, so that a test has to wait."""
        if self.letter is not None:
            if now < self._next_try:
                self._arm(self._next_try)
                return False
            if self._certain and not self._durable:
                # What it was made of is in memory still, or on the disk by now.
                self.letter, self._due = None, now
                self._form("")
            elif self._certain and self.stored and not self.voice.storage.problem:
                # Nobody has it yet, so that it may as well say how things are now.
                self._form(self.letter.message.id)
            else:
                self._send()
            return True
        if self._due == NEVER:
            return False
        ready = max(self._due, self._not_before)
        if now < ready:
            self._arm(ready)
            return ready - now <= GATHER
        self._form("")
        return self._due < NEVER

    def _form(self, again: str) -> None:
        """Put a message together, of what is in the file; without a disk, of what is in memory.

        :param again: the id of one that is to be replaced
        """
        voice = self.voice
        unwritten = voice.unwritten(self.name)
        if voice.storage.problem and not again and (unwritten or (self.stored and self.opened)):
            self._form_without_disk()
        elif not self.opened or self._forgetting or voice.writing or (unwritten and not again):
            # What is waited for makes us look again.
            return
        elif self.stored or again:
            self._busy = True
            voice.write(queue.form, Draft(self.name, voice.frame(), again), self._formed)
        else:
            self._due = NEVER

    def _form_without_disk(self) -> None:
        """Put a message together that cannot be kept, of what is in memory and of what can be read."""
        if not self.stored:
            self._have_read([], None)
            return
        self._busy = True
        self.voice.storage.read(functools.partial(queue.peek, channel=self.name), self._have_read)

    def _have_read(self, rows: list[Told] | None, error: Exception | None) -> None:
        self._busy = False
        voice = self.voice
        entries = voice.held(self.name)
        parts = merged([*(rows or []), *(entry.told() for entry in entries)])
        if self._closed or not parts:
            self._due = time.monotonic() + DISK
            self.look()
            return
        problem = voice.storage.problem
        frame = voice.frame(f"The disk of this Pi takes nothing, so this is not kept: {problem}" if problem else "")
        self._held, self._parts = [(entry, entry.changes) for entry in entries], parts
        self.letter = letter_of(frame, parts, 0)
        self._durable, self._certain, self._due = False, True, NEVER
        self._send()

    def _formed(self, letter: Letter | None, error: Exception | None) -> None:
        self._busy = False
        if error is not None:
            if self.letter is None:
                self._due = time.monotonic() + DISK
            else:
                self._send()
        elif letter is None:
            self.stored, self._due = 0, NEVER
        else:
            # Nothing was written meanwhile.
            self.stored, self._due = 0, NEVER
            self.letter, self._durable, self._certain = letter, True, True
            self._next_try = 0.0
        self.look()

    def _send(self) -> None:
        assert self.letter is not None
        self._errand = self._go(self.letter.message, self.letter.left, self._ended)

    def _go(self, message: Message, left: list[str], done: Callable[[Outcome], None]) -> Errand:
        task = Task(self.name, self.table, self.voice.secrets, message, left, message.clock_trusted)
        return Errand(self.voice.server, task, done)

    def _ended(self, outcome: Outcome) -> None:
        self._errand = None
        letter = self.letter
        if self._closed or letter is None:
            return
        before = (letter.left, dict(letter.refused), letter.taken)
        outcome.error, outcome.note = self._whole(letter, outcome.error), self._whole(letter, outcome.note, True)
        letter.refused.update(outcome.refused)
        letter.taken = letter.taken or outcome.taken
        # Of several receivers some may have refused it for good; the others have it then.
        rest_refused = bool(letter.taken and outcome.refused and not outcome.left)
        if outcome.error and not rest_refused:
            if outcome.left:
                letter.left = outcome.left
            elif outcome.refused:
                # Nobody has it, so that all are asked again.
                letter.left, letter.refused = [], {}
            self._failed(letter, outcome, (letter.left, letter.refused, letter.taken) != before)
        else:
            self._delivered(letter, outcome.error or outcome.note)
        self.look()

    @staticmethod
    def _whole(letter: Letter, text: str, good: bool = False) -> str:
        """A text with those who refused the message in an earlier try."""
        if not letter.refused or not (text or good):
            return text
        refused = "; ".join(f"{who}: {why}" for who, why in letter.refused.items())
        return f"{text}{'; ' if text else ''}refused for good before by {refused}"

    def _delivered(self, letter: Letter, note: str) -> None:
        now, clock = time.monotonic(), self.voice.clock
        self.sent = Sent(clock.wall(), clock.boot_id, clock.since())
        self.letter, self.tries, self.failing_since = None, 0, None
        self._not_before = now + self.settings.every
        if note:
            self._note(note)
            logger.warning("channel %s: %s", self.name, note)
        else:
            self.last_error = ""
        self.voice.server.condition(f"channel {self.name}", note or None)
        logger.info("channel %s: message %s was delivered", self.name, letter.message.id[:8])
        self._forgetting = True
        if self._durable:
            item = (self.name, letter.message.id, self.sent)
            self.voice.storage.write(queue.delivered, item, self._forgotten, keep=True)
        else:
            for entry, changes in self._held:
                if entry.changes == changes:
                    entry.without |= {self.name}
            self.stored = 0
            self.voice.storage.write(queue.taken, (self.name, self._parts, self.sent), self._forgotten, keep=True)
            self._held, self._parts = [], []
        if self.stored or self.voice.unwritten(self.name):
            self._due = min(self._due, now)

    def _forgotten(self, waiting: int | None, error: Exception | None) -> None:
        self._forgetting = False
        if waiting is not None:
            self.stored = waiting
            if waiting and self.letter is None:
                self._due = min(self._due, time.monotonic())
        self.look()

    def _failed(self, letter: Letter, outcome: Outcome, changed: bool) -> None:
        now = time.monotonic()
        self._certain = self._certain and not outcome.uncertain and not letter.left and not letter.taken
        if changed and self._durable:
            self.voice.storage.write(queue.change, (self.name, letter), lambda *_: None, keep=True)
        first, longest = RETRY_REFUSED if outcome.permanent else RETRY
        self.tries += 1
        if self.failing_since is None:
            self.failing_since = now
        pause = max(min(first * 2 ** min(self.tries - 1, 20), longest), outcome.pause)
        self._next_try = now + pause
        self._note(outcome.error)
        self.voice.server.condition(f"channel {self.name}", outcome.error)
        logger.info("channel %s: tried again in %.0f s", self.name, pause)

    def _note(self, error: str) -> None:
        self.last_error, self.last_error_time = error, self.voice.clock.wall()

    def _send_test(self, done: Tested) -> None:
        def ended(outcome: Outcome) -> None:
            self._errand = self._test = None
            if outcome.error:
                self._note(outcome.error)
            else:
                # What is due later may find the receiver well now.
                self._next_try = 0.0
            self.voice.server.guard(done, outcome.error or outcome.note)
            self.look()

        self._errand = self._go(trial(self.voice.frame(), self.name), [], ended)

    def _arm(self, when: float) -> None:
        if self._timer is not None and not self._timer.cancelled and self._armed <= when:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._armed = when
        self._timer = self.voice.server.call_later(max(0.0, when - time.monotonic()), self._rang)

    def _rang(self) -> None:
        self._timer, self._armed = None, NEVER
        self.look()
