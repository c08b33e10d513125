"""What core remembers over restarts: scenarios, jobs and variables, in a file of its own, of which a copy is in
``titanic.store``.

Everything is in memory, where it is read; a change is on the disk when its ``done`` is called. The file is what core
starts from, with no help from anybody. The copy is what a backup holds, so that all of it survives a swap of the card:
:mod:`raspy.servers.core.mirror`. What only this machine has use for, as when a job was last run, has no copy: the
sections whose names begin with :data:`~raspy.servers.core.entries.LOCAL`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from raspy.common import MDP
from raspy.common.database import Database, InUse, StorageError
from raspy.common.server import Server
from raspy.common.storage import Storage, probe
from raspy.servers.core.entries import (
    BAD_VALUE,
    LOCAL,
    SCHEMAS,
    TABLES,
    Entry,
    Name,
    StateError,
    checked,
    read_all,
    read_copy,
    replace_rows,
    row,
    same,
    write_rows,
)
from raspy.servers.core.mirror import VARIABLE, Mirror

__all__ = ["LOCAL", "Entry", "Name", "State", "StateError"]

ENTRIES, LOCAL_ENTRIES = 10_000, 20_000
"""Entries of which the store has a copy, and those of this machine: far more than all jobs and scenarios have, so that
what they have done can be kept however many variables there are."""
FULL = f"core keeps at most {ENTRIES} entries; delete some"
WAITING = 2000
"""Changes that may wait for a disk that hangs."""
RETRY = 1.0
"""Seconds after which a disk that refused is tried again."""

SECTIONS = ("scenario.", "cron.")
"""What the names of the sections begin with that core keeps, :data:`~raspy.servers.core.mirror.VARIABLE` besides."""

Done = Callable[[Exception | None], None]


def is_ours(section: str) -> bool:
    """Whether a section has the name of one that core keeps."""
    return section == VARIABLE or section.startswith(SECTIONS)


class Put:
    """Changes on their way to the disk.

    :param keep: they hold whatever the disk says, and are tried again
    """

    __slots__ = ("done", "entries", "keep")

    def __init__(self, entries: dict[Name, Entry | None], keep: bool, done: Done | None) -> None:
        self.entries = entries
        self.keep = keep
        self.done = done


class State:
    """Core's memory. Everything here is called on the loop.

    :param server: whose loop, pool and conditions are used
    :param path: the file; None: nothing outlives the process
    :param store: whether Titanic is on the bus
    :param service: the service of the store under which the copy is, ``<host>.core``
    """

    def __init__(self, server: Server, path: str | None, store: bool, service: str) -> None:
        self.server = server
        self.path = path
        self.on_taken: Callable[[set[Name]], None] = lambda names: None
        """Called with what was taken over from the store, or was found in the file later than at the start."""
        self.check: Callable[[str, str, Any], None] = lambda section, key, value: None
        """Called with section, key and value of what the store has, before that is taken over; raises a ValueError
        that says why it cannot be: then what was there before stays."""
        self.wants: Callable[[str], bool] = is_ours
        """Whether a section that the store has is taken over; others are somebody else's."""
        self.doubt = ""
        """Why what was put last before this start may be missing; found out by :meth:`load`."""
        self._sections: dict[str, dict[str, Entry]] = {}
        self._counts = [0, 0]
        """Entries of which there is a copy, and those of this machine."""
        self._flying: dict[Name, Put] = {}
        """The last change of each entry that is on its way to the disk."""
        self._disk: dict[Name, Entry | None] = {}
        """What the disk has of those."""
        self._unwritten: set[Name] = set()
        """What the disk may not have as it is here."""
        self._all_unwritten = False
        self._retrying = False
        self._database = Database(path, SCHEMAS, TABLES) if path is not None else None
        self._storage = Storage(server, self._database, "state") if self._database is not None else None
        self._mirror = Mirror(self, server, service) if store and path is not None else None
        if self._storage is not None:
            self._storage.on_recovered = self._rewrite

    @property
    def new(self) -> bool:
        """Nothing was found in the file, or not all, and the store has not told yet what it has: what is missing here
        may be there."""
        return self._mirror is not None and self._mirror.wanted

    @property
    def writable(self) -> bool:
        """Whether the file took a write at the start, so that what was put last before it can be relied on."""
        return not self.doubt

    def load(self) -> None:
        """Read everything into memory. Called once, before the loop turns, so this waits for the disk.

        A file that cannot be read now is read as soon as it can be; core goes on meanwhile.

        :raises raspy.common.database.InUse: another process has the file
        """
        if self._database is None or self._storage is None:
            return
        rows: list[Any] | None
        try:
            rows = self._database.read(read_all)
            self._try_to_write(self._database)
        except InUse:
            raise
        except StorageError as error:
            # As when the file system is read-only, or full.
            rows = read_copy(self._database.path)
            self.doubt = str(error)
            self.server.condition("state read", str(error))
            self._storage.read(read_all, self._read_late)
        if self._database.notice:
            self.doubt = self.doubt or self._database.notice
            self.server.condition("state damaged", self._database.notice)
        bad = self._adopt(rows or [])
        if self._mirror is not None:
            self._mirror.wanted = not rows or bool(bad or self._database.notice)

    def _try_to_write(self, database: Database) -> None:
        try:
            database.write(lambda connection: probe(connection, []))
        except (StorageError, sqlite3.Error) as error:
            self.doubt = str(error)

    def start(self) -> None:
        """Begin to talk with the store."""
        if self._mirror is not None:
            self._mirror.start()

    def close(self) -> None:
        """Write what waits, and let go of the file."""
        if self._mirror is not None:
            self._mirror.close()
        if self._storage is not None:
            self._storage.close()

    # Reading

    def get(self, section: str, key: str, default: Any = None) -> Any:
        """A value, which is not to be changed in place; ``default`` when there is none."""
        entry = self.find((section, key))
        return default if entry is None or entry.value is None else entry.value

    def section(self, section: str) -> dict[str, Any]:
        """The values of a section by key."""
        entries = self._sections.get(section, {})
        return {key: entry.value for key, entry in entries.items() if entry.value is not None}

    def sections(self, prefix: str = "") -> list[str]:
        """The names of the sections in which anything is."""
        return [
            name
            for name, entries in self._sections.items()
            if name.startswith(prefix) and any(entry.value is not None for entry in entries.values())
        ]

    # Changing

    def put(self, changes: Mapping[Name, Any], done: Done | None = None) -> None:
        """Change values, all or none; None deletes one. They are read as changed at once.

        :param changes: values that JSON can hold, by section and key
        :param done: called once, later: with None when all is on the disk, else with what the disk says. Then it is
            undone, but in the sections of :data:`LOCAL`, where it holds, and is written as soon as the disk takes it
        :raises StateError: a name or a value is none
        """
        values = {name: checked(name, value) for name, value in changes.items()}
        more = [name for name, value in values.items() if value is not None and self.find(name) is None]
        local = sum(name[0].startswith(LOCAL) for name in more)
        if local < len(more) and self._counts[False] + len(more) - local > ENTRIES:
            raise StateError(FULL)
        if local and self._counts[True] + local > LOCAL_ENTRIES:
            raise StateError(f"core keeps at most {LOCAL_ENTRIES} entries of what was done")
        entries: dict[Name, Entry | None] = {}
        for name, value in values.items():
            entry = self.find(name)
            if name in self._flying or not same(value, None if entry is None else entry.value):
                entries[name] = self._entry(name, value)
        if self._storage is not None and self._storage.waiting >= WAITING:
            self._refuse(entries, done)
        else:
            self._write(Put(entries, False, done))

    def _refuse(self, entries: dict[Name, Entry | None], done: Done | None) -> None:
        """The disk hangs, and too much waits for it already."""
        local = {name: entry for name, entry in entries.items() if name[0].startswith(LOCAL)}
        self._set(local)
        self._unwritten |= local.keys()
        self._try_later()
        if done is not None:
            problem = StorageError(f"{self.path}: the disk hangs; {WAITING} changes wait for it")
            self.server.call_later(0, done, problem)

    def _entry(self, name: Name, value: Any) -> Entry | None:
        mirrored = not name[0].startswith(LOCAL)
        if value is not None:
            return Entry(value, mirrored)
        return Entry(None, True) if mirrored and self._mirror is not None and self.find(name) is not None else None

    def _write(self, put: Put) -> None:
        if self._storage is None or not put.entries:
            self._set(put.entries)
            if put.done is not None:
                self.server.call_later(0, put.done, None)
            return
        rows = [row(name, entry) for name, entry in put.entries.items()]
        for name in put.entries:
            if name not in self._flying:
                self._disk[name] = self.find(name)
            self._flying[name] = put
        self._set(put.entries)
        self._storage.write(write_rows, rows, lambda _, error: self._written(put, error))

    def _written(self, put: Put, error: Exception | None) -> None:
        for name, entry in put.entries.items():
            last = self._flying.get(name) is put
            if error is None:
                if name in self._flying:
                    self._disk[name] = entry
            elif last and not put.keep and not name[0].startswith(LOCAL):
                # It is not kept, so it is not so.
                self._set({name: self._disk[name]})
            if error is not None:
                self._unwritten.add(name)
            if last:
                del self._flying[name], self._disk[name]
        if error is not None:
            self._try_later()
        elif self._mirror is not None:
            self._mirror.changed(put.entries)
        if put.done is not None:
            self.server.guard(put.done, error)

    def _set(self, entries: Mapping[Name, Entry | None]) -> None:
        for (section, key), entry in entries.items():
            known = self._sections.setdefault(section, {})
            self._counts[section.startswith(LOCAL)] += (entry is not None) - (key in known)
            if entry is not None:
                known[key] = entry
                continue
            known.pop(key, None)
            if not known:
                del self._sections[section]

    # After trouble with the disk

    def _try_later(self) -> None:
        if not self._retrying:
            self._retrying = True
            self.server.call_later(RETRY, self._write_again)

    def _write_again(self) -> None:
        """Write what the disk has refused, as it is now."""
        self._retrying = False
        if self._all_unwritten:
            self._rewrite()
            return
        names, self._unwritten = self._unwritten - self._flying.keys(), self._unwritten & self._flying.keys()
        self._write(Put({name: self.find(name) for name in names}, True, None))
        if self._unwritten:
            self._try_later()

    def _rewrite(self) -> None:
        """Another file has taken the place of one that was damaged or deleted: write all of it."""
        assert self._storage is not None
        self._all_unwritten = False
        self._unwritten.clear()
        rows = [row(name, entry) for name, entry in self.entries()]
        self._storage.write(replace_rows, rows, self._rewritten)

    def _rewritten(self, _: Any, error: Exception | None) -> None:
        if error is not None:
            self._all_unwritten = True
            self._try_later()

    def _read_late(self, rows: list[Any] | None, error: Exception | None) -> None:
        """The file could not be read at the start; now it could, or is tried again."""
        assert self._storage is not None
        if error is not None or rows is None:
            self.server.call_later(RETRY, self._storage.read, read_all, self._read_late)
            return
        self.server.condition("state read", None)
        names = {(section, key) for section, key, *_ in rows}
        missing = [each for each in rows if self.find((each[0], each[1])) is None]
        self._adopt(missing)
        # What is here and not there was taken over meanwhile, or is to be written.
        self._unwritten |= {name for name, _ in self.entries() if name not in names}
        if self._unwritten:
            self._try_later()
        taken = {(each[0], each[1]) for each in missing if self.find((each[0], each[1])) is not None}
        if taken:
            self.server.guard(self.on_taken, taken)

    def _adopt(self, rows: Iterable[Any]) -> int:
        """Take rows of the file into memory; how many are none."""
        bad = 0
        for section, key, text, pending in rows:
            try:
                name = section, key
                value = None if text is None else checked(name, msgspec.json.decode(text))
                if value is None and not pending:
                    raise StateError("it has no value")
                self._set({name: Entry(value, bool(pending))})
            except BAD_VALUE as error:
                bad += 1
                MDP.logger.warning("%s: %.60r %.60r is no entry: %s", self.path, section, key, error)
        return bad

    # For the mirror

    def find(self, name: Name) -> Entry | None:
        """An entry as it is; one without a value was deleted."""
        section = self._sections.get(name[0])
        return None if section is None else section.get(name[1])

    def entries(self) -> Iterator[tuple[Name, Entry]]:
        """All entries."""
        for section, entries in self._sections.items():
            for key, entry in entries.items():
                yield (section, key), entry

    def is_flying(self, name: Name) -> bool:
        """Whether an entry is on its way to the disk: it may still be undone."""
        return name in self._flying

    def keep(self, entries: dict[Name, Entry | None]) -> None:
        """Keep entries as the store has them, or know them to be there."""
        if entries:
            self._write(Put(entries, True, None))

    def wanted(self, name: Name, value: Any, more: int) -> Entry | None:
        """What the store has, as it is to be kept here; None when that is here already.

        :param more: entries that are going to be added besides
        :raises StateError: it is null, or there is no room for it
        :raises ValueError: it cannot be
        """
        entry = self.find(name)
        value = checked(name, value)
        if value is None:
            raise StateError(f"{'/'.join(name)}: null is no value")
        if entry is not None and same(value, entry.value):
            return None
        if entry is None and self._counts[False] + more >= ENTRIES:
            raise StateError(FULL)
        self.check(*name, value)
        return Entry(value, False)
