"""The settings of a server's devices over restarts: in a file of the server's own, and in ``titanic.store``.

The file is what the server starts from, with no help from anybody. The store is what a backup holds, so that the
settings survive a swap of the card. A change is in the file before it is acknowledged, and goes to the store as soon
as that answers. What was changed in the store, as by restoring a backup, is taken over from there, unless a change
made here has not reached it yet.

A device that the file does not know waits until the store has said whether it does: it might have a calibration, or
a safe state. Where no Titanic is on the bus (``titanic = false`` in ``[bus]``) it has the settings of a new one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from raspy.common import MDP
from raspy.common.buscall import BusCaller
from raspy.common.devices.keptfile import Kept, KeptFile
from raspy.common.executive import Timer
from raspy.common.server import Server

STORE = "titanic.store"
SECTION = "devices"
"""The section of the store in which the settings are, by the name of the device."""
RETRY = 1.0
"""Seconds after which the store is tried again when it did not answer."""
TIMEOUT = 2.0
"""Seconds that it has for an answer."""
LOOKS = 60.0
"""Seconds between looks at what was changed there."""
REPORTED = 5
"""Failures in a row after which the store is reported, when something waits for it."""

WAITING = "its settings are not known yet: titanic.store has not answered"

Done = Callable[[Exception | None], None]
T = TypeVar("T")


class Version(msgspec.Struct):
    """What ``set`` answers."""

    version: int


class Keys(msgspec.Struct):
    """What ``list`` of a section answers."""

    keys: dict[str, int]


class Entry(msgspec.Struct):
    """What ``get`` answers."""

    value: msgspec.Raw
    version: int


class Keeper:
    """Keeps the settings of the devices of one server. Everything here is called on the loop.

    :param server: whose loop, pool and conditions are used
    :param path: the file; None: nothing outlives the server, and nobody is asked
    :param store: whether Titanic is on the bus
    :param place: the service of the store under which a device's settings are, by the name of the device
    :param places: all such services; of the first, which is this server's own, everything is taken over, of the
        others what is asked for
    """

    def __init__(
        self,
        server: Server,
        path: str | None,
        store: bool,
        place: Callable[[str], str],
        places: tuple[str, ...],
    ) -> None:
        self.server = server
        self.store = store and path is not None
        self.place = place
        self.places = places
        self.on_settings: Callable[[str, dict[str, Any] | None], None] = lambda name, settings: None
        """Called with what the store has for a device; None: it has nothing. What it raises is reported, and the
        settings are not taken over."""
        self._file = KeptFile(server, path) if path is not None else None
        self._kept: dict[str, Kept] = self._file.load() if self._file is not None else {}
        self._waiting: set[str] = set()
        """Devices of which nothing is known yet."""
        self._caller: BusCaller | None = None
        self._looking = self._again = False
        self._soon: Timer | None = None
        self._refused: dict[str, str] = {}
        self._problem = ""
        self._unreached = 0

    def start(self) -> None:
        """Begin to talk with the store."""
        if self.store:
            self._caller = BusCaller(self.server, MDP.endpoint(self.server.broker_ip, self.server.broker_port))
            self.server.call_every(LOOKS, self.look)
            self.look()

    def close(self) -> None:
        """Talk to nobody any more."""
        if self._caller is not None:
            self._caller.close()
            self._caller = None
        if self._file is not None:
            self._file.close()

    def names(self) -> list[str]:
        """The devices that are kept, those included that have the settings of a new one."""
        return [name for name, kept in self._kept.items() if not kept.deleted]

    def find(self, name: str) -> dict[str, Any] | None:
        """The settings that are kept of a device; None: it has those of a new one, or nothing is known of it."""
        kept = self._kept.get(name)
        return None if kept is None else kept.settings

    def missing(self, name: str) -> str:
        """Why the settings of a device are not known, empty when they are; the store is asked if it can help."""
        if self._file is None or (name in self._kept and not self._kept[name].deleted):
            return ""
        if self.store:
            self._waiting.add(name)
            self.look()
            return WAITING
        return f"its settings were lost ({self._file.lost}); give it some anew" if self._file.lost else ""

    def forget(self, name: str) -> None:
        """A device is no more of which nothing was ever kept, as one that noise on a line has conjured up."""
        self._waiting.discard(name)
        kept = self._kept.get(name)
        if kept is not None and kept.settings is None and not kept.deleted:
            del self._kept[name]
            self._save()

    def keep(self, name: str, settings: dict[str, Any] | None, done: Done) -> None:
        """Keep a device's settings, or (None) that it is no more; ``done(error)`` follows when that is on the disk."""
        if self._file is None:
            done(None)
            return
        before = self._kept.get(name)
        version = before.version if before is not None else 0
        kept = Kept(settings=settings, version=version, pending=self.store, deleted=settings is None)
        if settings is None and not self.store:
            self._kept.pop(name, None)
        else:
            self._kept[name] = kept
        self._refused.pop(name, None)

        def written(error: Exception | None) -> None:
            if error is None:
                self._waiting.discard(name)
                self.look()
            elif self._kept.get(name) is kept or name not in self._kept:
                # It is not kept, so it is not so.
                self._kept.pop(name, None)
                if before is not None:
                    self._kept[name] = before
            done(error)

        self._file.write(self._kept, written)

    def look(self) -> None:
        """Bring the store what is new here, and take from it what is new there, if it answers."""
        if self._caller is None or self._looking:
            self._again = self._looking
            return
        self._looking, self._again = True, False
        self._push()

    def _push(self) -> None:
        """Send a change that has not reached the store; after the last one see what is there."""
        for name, kept in self._kept.items():
            if kept.pending and name not in self._refused:
                break
        else:
            self._list(list(self.places), {})
            return
        words = [self.place(name), SECTION, name]
        if kept.deleted:
            self._ask("delete", words, lambda reply: self._pushed(name, kept, reply))
        else:
            settings = msgspec.json.encode(kept.settings).decode()
            self._ask("set", [*words, settings], lambda reply: self._pushed(name, kept, reply))

    def _pushed(self, name: str, kept: Kept, reply: list[bytes]) -> None:
        if reply[-1] == MDP.BAD_REQUEST:
            # Only this one is at fault; the others go on.
            self._refused[name] = _text(reply)
            self._tell()
        elif reply[-1] != MDP.OK:
            self._over(_text(reply))
            return
        elif self._kept.get(name) is kept:
            if kept.deleted:
                del self._kept[name]
            else:
                kept.version = _decode(reply[0], Version).version
                kept.pending = False
            self._save()
        self._push()

    def _list(self, places: list[str], found: dict[str, int]) -> None:
        """Ask what the places of the store hold, one after the other, then fetch what is new there."""
        if not places:
            self._compare(found)
            return
        place = places.pop()

        def listed(reply: list[bytes]) -> None:
            if reply[-1] != MDP.OK:
                self._over(_text(reply))
                return
            keys = _decode(reply[0], Keys).keys
            found.update({name: version for name, version in keys.items() if self.place(name) == place})
            self._list(places, found)

        self._ask("list", [place, SECTION], listed)

    def _compare(self, found: dict[str, int]) -> None:
        """What is in the store and not here, or in another version, is fetched; what is not there is sent again."""
        here = self.places[0]
        new = []
        for name, version in found.items():
            kept = self._kept.get(name)
            wanted = self.place(name) == here or name in self._waiting
            if wanted if kept is None else (kept.version != version and not kept.pending):
                new.append(name)
        for name, kept in self._kept.items():
            if name not in found and not kept.pending and kept.settings is not None:
                kept.pending = self._again = True
        for name in [name for name in self._waiting if name not in found]:
            self._waiting.discard(name)
            self._kept[name] = Kept()
            self._save()
            self.server.guard(self.on_settings, name, None)
        self._fetch(new)

    def _fetch(self, names: list[str]) -> None:
        if not names:
            self._over("")
            return
        name = names.pop()

        def fetched(reply: list[bytes]) -> None:
            if reply[-1] == MDP.OK:
                entry = _decode(reply[0], Entry)
                self._take(name, entry)
            elif reply[-1] != MDP.NOT_FOUND:
                self._over(_text(reply))
                return
            self._fetch(names)

        self._ask("get", [self.place(name), SECTION, name], fetched)

    def _take(self, name: str, entry: Entry) -> None:
        """Take over what the store has, unless it was changed here meanwhile."""
        before = self._kept.get(name)
        if before is not None and before.pending:
            return
        try:
            settings = msgspec.json.decode(entry.value, type=dict[str, Any])
            self._kept[name] = Kept(settings=settings, version=entry.version)
            self.on_settings(name, settings)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            self._kept.pop(name, None)
            if before is not None:
                self._kept[name] = before
            self._refused[name] = str(error)[:300]
            self._tell()
            return
        if self._refused.pop(name, None) is not None:
            self._tell()
        self._waiting.discard(name)
        self._save()

    def _ask(self, verb: str, words: list[str], done: Callable[[list[bytes]], None]) -> None:
        def answered(reply: list[bytes] | None) -> None:
            if not reply:
                self._over("it does not answer")
                return
            try:
                done(reply)
            except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                self._over(f"its answer to {verb} is none: {error}")

        assert self._caller is not None
        self._caller.call(STORE, [verb.encode(), *(word.encode() for word in words)], answered, TIMEOUT)

    def _over(self, problem: str) -> None:
        """This look is over; the next one follows soon when it failed, or when there was news meanwhile."""
        self._looking = False
        self._problem = problem
        if problem and (self._waiting or any(kept.pending for kept in self._kept.values())):
            self._unreached += 1
        else:
            self._unreached = 0
        self._tell()
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        if self._caller is not None and (problem or self._again):
            self._soon = self.server.call_later(RETRY if problem else 0.0, self.look)

    def _save(self) -> None:
        """Write what was taken over; nobody waits for it."""
        if self._file is not None:
            self._file.write(self._kept, lambda error: None)

    def _tell(self) -> None:
        problems = [f"{name}: {problem}" for name, problem in self._refused.items()]
        if self._unreached > REPORTED:
            problems.append(f"titanic.store: {self._problem}")
        self.server.condition("store", "; ".join(problems[:5]) or None)


def _decode(data: bytes, kind: type[T]) -> T:
    return msgspec.json.decode(data, type=kind)


def _text(reply: list[bytes]) -> str:
    return b" ".join(reply).decode("utf-8", "replace")[:300]
