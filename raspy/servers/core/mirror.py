"""The copy of core's memory in ``titanic.store``, as the keeper of devices has one of their settings.

A change goes there once it is on core's own disk. What was changed there, as by restoring a backup, is taken over,
unless a change made here has not reached it yet. What the store has lost it gets again.

A variable is nearly always newer here, as it is sent seldom. So it is sent with the version that the store had when it
was looked at last: one that was changed there since, as by restoring a backup, is taken over all the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import msgspec

from raspy.common import MDP
from raspy.common.buscall import BusCaller
from raspy.common.executive import Timer
from raspy.common.server import Server
from raspy.servers.core.entries import BAD_VALUE, LOCAL, Entry, Name

if TYPE_CHECKING:
    from raspy.servers.core.state import State

STORE = "titanic.store"
RETRY = 1.0
"""Seconds after which the store is tried again when it did not answer."""
TIMEOUT = 2.0
"""Seconds that it has for an answer."""
LOOKS = 60.0
"""Seconds between looks at what was changed there."""
VARIABLE = "variable"
"""The section of what scenarios change all the time."""
VARIABLES = 30.0
"""Seconds between two times that it is sent, as each costs the card a write."""
REPORTED = 5
"""Failures in a row after which the store is reported, when something waits for it."""
SHOWN = 300


class Exported(msgspec.Struct):
    """What ``export`` answers: values by service, section and key."""

    services: dict[str, dict[str, dict[str, msgspec.Raw]]]


class Listed(msgspec.Struct):
    """What ``list`` answers of a section: the versions of its keys."""

    keys: dict[str, int]


class Stored(msgspec.Struct):
    """What ``set`` answers; ``delete`` says nothing of a version."""

    version: int = 0


class Mirror:
    """Sends what is new here, and takes what is new there. Everything here is called on the loop.

    :param state: core's memory
    :param server: whose loop and conditions are used
    :param service: the service of the store under which the copy is
    """

    def __init__(self, state: State, server: Server, service: str) -> None:
        self.state = state
        self.server = server
        self.service = service
        self.wanted = False
        """The store may have what was lost here, and has not been asked yet."""
        self._caller: BusCaller | None = None
        self._looking = self._again = False
        self._soon: Timer | None = None
        self._seen: dict[Name, int] = {}
        """What was seen in the store, so that it is looked at once."""
        self._queue: list[Name] = []
        self._sent: dict[Name, Entry] = {}
        self._variables_after = 0.0
        self._versions: dict[Name, int] = {}
        """Of variables, as the store was known to have them last; without one it is not asked for any."""
        self._listed: dict[Name, int] = {}
        self._moved: set[Name] = set()
        """Variables that have another version there."""
        self._refused: dict[Name, str] = {}
        """What the store has refused; it is asked again at the next look."""
        self._bad: dict[Name, str] = {}
        """What is in the store and cannot be taken over."""
        self._problem = ""
        self._unreached = 0

    def start(self) -> None:
        """Begin to talk with the store."""
        self._caller = BusCaller(self.server, MDP.endpoint(self.server.broker_ip, self.server.broker_port))
        self.server.call_every(LOOKS, self._look_anew)
        self.look()

    def close(self) -> None:
        """Talk to nobody any more."""
        if self._caller is not None:
            self._caller.close()
            self._caller = None

    def changed(self, names: Iterable[Name]) -> None:
        """These were changed here, which is on the disk."""
        for name in names:
            self._seen.pop(name, None)
            self._refused.pop(name, None)
            self._bad.pop(name, None)
        if any(entry.pending for entry in map(self.state.find, names) if entry is not None):
            self.look()

    def look(self) -> None:
        """Bring the store what is new here, and take from it what is new there, if it answers."""
        if self._caller is None or self._looking:
            self._again = self._looking
            return
        self._looking, self._again = True, False
        self._queue = self._waiting()
        if any(name[0] == VARIABLE for name in self._queue):
            now = time.monotonic()
            if now < self._variables_after:
                self._queue = [name for name in self._queue if name[0] != VARIABLE]
                if not self._queue:
                    self._over("", self._variables_after - now)
                    return
            else:
                self._variables_after = now + VARIABLES
        self._push()

    def _look_anew(self) -> None:
        self._refused.clear()
        self.look()

    def _waiting(self) -> list[Name]:
        """What the store does not have yet and has not refused, the last first."""
        names = [
            name
            for name, entry in self.state.entries()
            if entry.pending and name not in self._refused and not self.state.is_flying(name)
        ]
        return names[::-1]

    def _push(self) -> None:
        """Send the next change; after the last one see what is there."""
        while self._queue:
            name = self._queue.pop()
            entry = self.state.find(name)
            if entry is None or not entry.pending or self.state.is_flying(name):
                continue
            self._send(name, entry)
            return
        self._note_sent()
        self._ask("list", [self.service, VARIABLE], self._have_versions)

    def _send(self, name: Name, entry: Entry) -> None:
        words = [self.service, *name]
        verb = "delete"
        if entry.value is not None:
            verb = "set"
            words.append(msgspec.json.encode(entry.value).decode())
            if name[0] == VARIABLE:
                # Without an answer it is not known what the store has, so that the next time it is asked for nothing.
                version = self._versions.pop(name, 0)
                words += [str(version)] if version else []
        self._ask(verb, words, lambda reply: self._pushed(name, entry, reply))

    def _pushed(self, name: Name, entry: Entry, reply: list[bytes]) -> None:
        if reply[-1] == MDP.OK:
            self._sent[name] = entry
            self._seen.pop(name, None)
            self._know(name, msgspec.json.decode(reply[0], type=Stored).version)
        elif reply[-1] == MDP.CONFLICT and name[0] == VARIABLE:
            self._moved.add(name)
        elif reply[-1] in (MDP.BAD_REQUEST, MDP.ERROR):
            # Only this one is at fault; the others go on.
            self._refused[name] = _text(reply)
        else:
            self._over(_text(reply))
            return
        self._push()

    def _note_sent(self) -> None:
        """Remember what the store has, unless it was changed here meanwhile."""
        entries: dict[Name, Entry | None] = {}
        for name, entry in self._sent.items():
            if self.state.find(name) is entry and not self.state.is_flying(name):
                entries[name] = None if entry.value is None else Entry(entry.value, False)
        self._sent.clear()
        self.state.keep(entries)

    def _know(self, name: Name, version: int) -> None:
        if name[0] == VARIABLE and version:
            self._versions[name] = version
        else:
            self._versions.pop(name, None)

    def _have_versions(self, reply: list[bytes]) -> None:
        if reply[-1] != MDP.OK:
            self._over(_text(reply))
            return
        keys = msgspec.json.decode(reply[0], type=Listed).keys
        self._listed = {(VARIABLE, key): version for key, version in keys.items()}
        self._ask("export", [self.service], self._exported)

    def _exported(self, reply: list[bytes]) -> None:
        if reply[-1] != MDP.OK:
            self._over(_text(reply))
            return
        sections = msgspec.json.decode(reply[0], type=Exported).services.get(self.service, {})
        self._compare(
            {
                (section, key): bytes(raw)
                for section, entries in sections.items()
                if not section.startswith(LOCAL)
                for key, raw in entries.items()
            }
        )

    def _compare(self, found: dict[Name, bytes]) -> None:
        """Take what is new in the store; send again what it does not have."""
        taken: dict[Name, Entry] = {}
        skipped = False
        for name, raw in found.items():
            entry = self.state.find(name)
            if self.state.is_flying(name):
                skipped = True
                continue
            mine = entry is not None and entry.pending
            if name[0] == VARIABLE:
                mine = self._is_newer_here(name, mine)
            ours = entry is not None or self.state.wants(name[0])
            if ours and not mine and self._seen.get(name) != hash(raw):
                self._seen[name] = hash(raw)
                self._take(name, raw, taken)
        for gone in [name for name in self._seen if name not in found]:
            del self._seen[gone]
        for gone in [name for name in self._bad if name not in found]:
            del self._bad[gone]
        for gone in [name for name in self._versions if name not in found]:
            self._know(gone, 0)
        self._moved.clear()
        lost = {
            name: Entry(entry.value, True)
            for name, entry in self.state.entries()
            if name not in found and not entry.pending and not name[0].startswith(LOCAL)
        }
        self._again = self._again or bool(lost)
        self.state.keep({**taken, **lost})
        self.wanted = False
        if taken:
            self.server.guard(self.state.on_taken, set(taken))
        # What is on its way to the disk is compared soon.
        self._over("", RETRY if skipped else None)

    def _is_newer_here(self, name: Name, waits: bool) -> bool:
        """Whether a variable that waits for being sent holds; not when another than was known is in the store."""
        if waits and name not in self._moved:
            return True
        self._know(name, self._listed.get(name, 0))
        if waits:
            MDP.logger.warning("%s was changed here, and then in %s, which is what holds", "/".join(name), STORE)
            self._seen.pop(name, None)
        return False

    def _take(self, name: Name, raw: bytes, taken: dict[Name, Entry]) -> None:
        """See whether an entry of the store is another one than here, and can be taken over."""
        self._bad.pop(name, None)
        try:
            entry = self.state.wanted(name, msgspec.json.decode(raw), len(taken))
        except Exception as error:
            # Whatever it is, what was kept before stays.
            if not isinstance(error, BAD_VALUE):
                self.server.report(error, f"{'/'.join(name)} from {STORE}")
            self._bad[name] = str(error)[:SHOWN]
        else:
            before = self.state.find(name)
            if entry is not None:
                taken[name] = entry
            elif before is not None and before.pending:
                self.state.keep({name: Entry(before.value, False)})

    def _ask(self, verb: str, words: list[str], done: Callable[[list[bytes]], None]) -> None:
        def answered(reply: list[bytes] | None) -> None:
            if not reply:
                self._over("it does not answer")
                return
            try:
                done(reply)
            except Exception as error:
                # Whatever is wrong, the next look is to come.
                if not isinstance(error, BAD_VALUE):
                    self.server.report(error, f"core's memory from {STORE}")
                self._over(f"its answer to {verb} is not understood: {error}"[:SHOWN])

        if self._caller is not None:
            self._caller.call(STORE, [verb.encode(), *(word.encode() for word in words)], answered, TIMEOUT)

    def _over(self, problem: str, again: float | None = None) -> None:
        """This look is over; the next one follows soon when it failed, or when there was news meanwhile."""
        self._looking = False
        self._note_sent()
        self._problem = problem
        waiting = self._waiting()
        self._unreached = self._unreached + 1 if problem and (waiting or self.wanted) else 0
        self._tell()
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        if problem:
            again = RETRY
        elif self._again:
            again = 0.0
        elif again is None and any(name[0] == VARIABLE for name in waiting):
            again = max(self._variables_after - time.monotonic(), 0.0)
        if self._caller is not None and again is not None:
            self._soon = self.server.call_later(again, self.look)

    def _tell(self) -> None:
        problems = [f"{'/'.join(name)}: {why}" for name, why in (*self._refused.items(), *self._bad.items())]
        if self._unreached > REPORTED:
            problems.append(f"{STORE}: {self._problem}")
        self.server.condition("store", "; ".join(problems[:5]) or None)


def _text(reply: list[bytes]) -> str:
    return b" ".join(reply).decode("utf-8", "replace")[:SHOWN]
