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
from typing import TYPE_CHECKING, Any

import msgspec

from raspy.common import MDP
from raspy.common.buscall import BusCaller
from raspy.common.devices.keptfile import Done, Kept, KeptFile
from raspy.common.executive import Timer

if TYPE_CHECKING:
    from raspy.common.server import Server

STORE = "titanic.store"
SECTION = "devices"
"""The section of the store in which the settings of devices are, by the name of the device."""
RETRY = 1.0
"""Seconds after which the store is tried again when it did not answer."""
TIMEOUT = 2.0
"""Seconds that it has for an answer."""
LOOKS = 60.0
"""Seconds between looks at what was changed there."""
REPORTED = 5
"""Failures in a row after which the store is reported, when something waits for it."""
SHOWN = 300

WAITING = "its settings are not known yet: titanic.store has not answered"

BAD = (msgspec.MsgspecError, ValueError, RecursionError)


class Exported(msgspec.Struct):
    """What ``export`` answers: values by service, section and key."""

    services: dict[str, dict[str, dict[str, msgspec.Raw]]]


class Keeper:
    """Keeps the settings of the devices of one server. Everything here is called on the loop.

    :param server: whose loop and conditions are used
    :param path: the file; None: nothing outlives the server, and nobody is asked
    :param store: whether Titanic is on the bus
    :param place: the service of the store under which a device's settings are, by the name of the device
    :param places: all such services; of the first, which is this server's own, everything is taken over, of the
        others what is asked for
    :param section: the section of the store, by whose keys they are found
    """

    def __init__(
        self,
        server: Server,
        path: str | None,
        store: bool,
        place: Callable[[str], str],
        places: tuple[str, ...],
        section: str = SECTION,
    ) -> None:
        self.server = server
        self.section = section
        self.store = store and path is not None
        self.place = place
        self.places = places
        self.on_settings: Callable[[str, dict[str, Any]], dict[str, Any] | None] = lambda name, settings: None
        """Called with what the store has for a device; returns what the device has then, None when there is no use for
        it. What it raises is reported, and the settings are not taken over."""
        self.on_nothing: Callable[[str, str], None] = lambda name, reason: None
        """Called when the store has nothing for a device that waits: it is new, or (with a reason) that is not sure."""
        self.owned: Callable[[str], bool] = lambda name: True
        """Whether there is such a device."""
        self._file = KeptFile(server, path) if path is not None else None
        self._kept: dict[str, Kept] = self._file.load() if self._file is not None else {}
        self._waiting: set[str] = set()
        """Devices of which nothing is known yet."""
        self._seen: dict[str, int] = {}
        """What was seen in the store, so that it is looked at once."""
        self._caller: BusCaller | None = None
        self._looking = self._again = False
        self._soon: Timer | None = None
        self._refused: dict[str, str] = {}
        self._problem = ""
        self._unreached = 0

    def lock(self) -> None:
        """See that no other process keeps the same file. Called first of all, when the server starts.

        :raises raspy.common.devices.keptfile.KeepError: another one does
        """
        if self._file is not None:
            self._file.lock()

    def start(self) -> None:
        """Begin to talk with the store."""
        if self.store:
            self._caller = BusCaller(self.server, MDP.endpoint(self.server.broker_ip, self.server.broker_port))
            self.server.call_every(LOOKS, self.look)
            self.look()

    def close(self) -> None:
        """Talk to nobody any more, and let go of the file once it is written."""
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

    def waits(self, name: str) -> bool:
        """Whether the store may still have settings for a device, so that it must not be given others."""
        return name in self._waiting and not self._lost()

    def missing(self, name: str) -> str:
        """Why the settings of a device are not known, empty when they are; the store is asked if it can help."""
        if self._file is None or (name in self._kept and not self._kept[name].deleted):
            return ""
        if self.store:
            self._waiting.add(name)
            self.look()
            return WAITING
        return self._lost()

    def forget(self, name: str) -> None:
        """A device is no more of which nothing was ever kept, as one that noise on a line has conjured up."""
        self._waiting.discard(name)
        kept = self._kept.get(name)
        if kept is not None and kept.settings is None and not kept.deleted:
            del self._kept[name]
            self._save()

    def keep(self, name: str, settings: dict[str, Any] | None, done: Done) -> None:
        """Keep a device's settings, or (None) that it is no more; ``done(error)`` follows when that is on the disk.

        Of one device, the next change is made when the one before is over.
        """
        if self._file is None:
            done(None)
            return
        before = self._kept.get(name)
        kept = Kept(settings=settings, pending=self.store, deleted=settings is None)
        if settings is None and not self.store:
            self._kept.pop(name, None)
        else:
            self._kept[name] = kept

        def written(error: Exception | None) -> None:
            if error is None:
                self._waiting.discard(name)
                self._refused.pop(name, None)
                self._seen.pop(name, None)
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
            self._export(list(self.places), {})
            return
        words = [self.place(name), self.section, name]
        if kept.deleted:
            self._ask("delete", words, lambda reply: self._pushed(name, kept, reply))
        else:
            settings = msgspec.json.encode(kept.settings).decode()
            self._ask("set", [*words, settings], lambda reply: self._pushed(name, kept, reply))

    def _pushed(self, name: str, kept: Kept, reply: list[bytes]) -> None:
        if reply[-1] == MDP.BAD_REQUEST:
            # Only this one is at fault; the others go on.
            self._refuse(name, _text(reply))
        elif reply[-1] != MDP.OK:
            self._over(_text(reply))
            return
        elif self._kept.get(name) is kept:
            if kept.deleted:
                del self._kept[name]
            else:
                kept.pending = False
            self._save()
        self._push()

    def _export(self, places: list[str], found: dict[str, bytes]) -> None:
        """Ask what the places of the store hold, one after the other, then see what is new there."""
        if not places:
            self._compare(found)
            return
        place = places.pop()

        def exported(reply: list[bytes]) -> None:
            if reply[-1] != MDP.OK:
                self._over(_text(reply))
                return
            entries = msgspec.json.decode(reply[0], type=Exported).services.get(place, {}).get(self.section, {})
            found.update({name: bytes(raw) for name, raw in entries.items() if self.place(name) == place})
            self._export(places, found)

        self._ask("export", [place], exported)

    def _compare(self, found: dict[str, bytes]) -> None:
        """Take what is new in the store; send again what it does not have; a device it does not know is a new one."""
        for name, raw in found.items():
            kept = self._kept.get(name)
            wanted = self.place(name) == self.places[0] or name in self._waiting if kept is None else not kept.pending
            if wanted and self._seen.get(name) != hash(raw):
                self._seen[name] = hash(raw)
                self._take(name, raw)
        self._seen = {name: mark for name, mark in self._seen.items() if name in found}
        for name, kept in self._kept.items():
            if name not in found and not kept.pending and kept.settings is not None and self.owned(name):
                kept.pending = self._again = True
        for name in [name for name in self._waiting if name not in found]:
            if not self._lost():
                self._waiting.discard(name)
                self._kept[name] = Kept()
                self._save()
            self.server.guard(self.on_nothing, name, self._lost())
        self._over("")

    def _take(self, name: str, raw: bytes) -> None:
        """Take over what the store has."""
        before = self._kept.pop(name, None)
        taken = before
        try:
            settings = msgspec.json.decode(raw, type=dict[str, Any])
            if before is None or before.settings != settings:
                self._kept[name] = Kept(settings=settings)
                has = self.on_settings(name, settings)
                if has is not None:
                    # What the device made of it goes back, so that both are the same.
                    taken = Kept(settings=has, pending=has != settings)
                    self._again = self._again or taken.pending
        except Exception as error:
            # Whatever it is, what was kept before stays.
            if not isinstance(error, BAD):
                self.server.report(error, f"settings of {name} from {STORE}")
            self._refuse(name, str(error))
        else:
            if taken is not None:
                self._waiting.discard(name)
            if self._refused.pop(name, None) is not None:
                self._tell()
        self._kept.pop(name, None)
        if taken is not None:
            self._kept[name] = taken
        if taken is not before:
            self._save()

    def _ask(self, verb: str, words: list[str], done: Callable[[list[bytes]], None]) -> None:
        def answered(reply: list[bytes] | None) -> None:
            if not reply:
                self._over("it does not answer")
                return
            try:
                done(reply)
            except Exception as error:
                # Whatever is wrong, the next look is to come.
                if not isinstance(error, BAD):
                    self.server.report(error, f"settings from {STORE}")
                self._over(f"its answer to {verb} is not understood: {error}"[:SHOWN])

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

    def _lost(self) -> str:
        lost = self._file.lost if self._file is not None else ""
        return f"its settings were lost ({lost}); give it some anew" if lost else ""

    def _refuse(self, name: str, problem: str) -> None:
        self._refused[name] = problem[:SHOWN]
        self._tell()

    def _tell(self) -> None:
        problems = [f"{name}: {problem}" for name, problem in self._refused.items()]
        if self._unreached > REPORTED:
            problems.append(f"titanic.store: {self._problem}")
        self.server.condition("store", "; ".join(problems[:5]) or None)


def _text(reply: list[bytes]) -> str:
    return b" ".join(reply).decode("utf-8", "replace")[:SHOWN]
