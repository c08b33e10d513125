"""raspy.servers.core.state: core's memory over restarts, on real disks and with a real Titanic."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raspy.common.database import InUse, StorageError
from raspy.common.server import Server
from raspy.servers.core import entries, mirror, state
from raspy.servers.core.state import Name, State, StateError
from tests.servers.titanic_stage import Ship, at_sea, make_quick
from tests.support_devices import LIMIT, short_directory
from tests.support_disks import Disk, small_disk, tear
from tests.support_processes import environment

CODE = ("scenario.light", "code")
CONF = ("scenario.light", "conf")
JOB = ("cron.feed", "settings")
LEVEL = ("variable", "level")
FIRED = ("state.cron", "feed")
SERVICE = "pi.memory"


class Memory(Server):
    """A server that has a memory and nothing else."""

    def __init__(self, broker_ip: str, path: Path | None, store: bool = False) -> None:
        super().__init__("pi", "memory", broker_ip)
        self.state = State(self, str(path / "core.db") if path is not None else None, store, self.name)
        self.taken: list[set[Name]] = []
        self.state.on_taken = self.taken.append

    def start(self) -> None:
        super().start()
        self.state.load()
        self.state.start()

    def stop(self) -> None:
        self.state.close()
        super().stop()


@contextmanager
def started(memory: Memory) -> Generator[Memory, None, None]:
    try:
        memory.start()
        yield memory
        assert memory.errors == 0, memory.last_error
    finally:
        memory.stop()
        memory.destroy()


def until(memory: Memory, happened: Callable[[], Any]) -> None:
    """Turn the loop until something has happened."""
    end = time.monotonic() + LIMIT
    while not happened():
        assert time.monotonic() < end, f"did not happen; conditions: {memory.conditions}"
        memory.turn(0.02)


def put(memory: Memory, changes: Mapping[Name, Any]) -> Exception | None:
    """Change, and wait for what the disk says."""
    told: list[Exception | None] = []
    memory.state.put(changes, told.append)
    assert not told, "it is told later"
    until(memory, lambda: told)
    return told[0]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    make_quick(monkeypatch)
    monkeypatch.setattr(state, "RETRY", 0.05)
    monkeypatch.setattr(mirror, "RETRY", 0.05)
    # A store that is there answers, however busy the machine is.
    monkeypatch.setattr(mirror, "TIMEOUT", LIMIT)
    monkeypatch.setattr(mirror, "VARIABLES", 0.3)


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is away at times, which is soon found out."""
    monkeypatch.setattr(mirror, "TIMEOUT", 0.5)


@pytest.fixture
def nowhere() -> Generator[str, None, None]:
    with short_directory() as directory:
        yield f"ipc://{directory}"


# The file


def test_what_was_kept_is_there_after_a_restart(nowhere: str, tmp_path: Path) -> None:
    values = {
        CODE: "get('water') # °\n",
        CONF: {"active": True, "settings": {"x": [1, 2.5, None]}},
        FIRED: {"last": 1.5},
    }
    with started(Memory(nowhere, tmp_path)) as memory:
        assert put(memory, values) is None
        assert put(memory, {JOB: {"when": "0 8 * * *"}, LEVEL: {"value": 1}}) is None
        assert put(memory, {JOB: None}) is None
    with started(Memory(nowhere, tmp_path)) as memory:
        for (section, key), value in values.items():
            assert memory.state.get(section, key) == value
        assert memory.state.get(*JOB, default="none") == "none"
        assert memory.state.section("scenario.light") == {"code": values[CODE], "conf": values[CONF]}
        assert sorted(memory.state.sections()) == ["scenario.light", "state.cron", "variable"]
        assert memory.state.sections("scenario.") == ["scenario.light"]
        assert memory.state.section("gone") == {}


def test_a_change_is_read_at_once_and_told_when_it_is_on_the_disk(nowhere: str, tmp_path: Path) -> None:
    def on_disk() -> list[Any]:
        base = sqlite3.connect(tmp_path / "core.db")
        try:
            return base.execute("SELECT value FROM entry").fetchall()
        finally:
            base.close()

    with started(Memory(nowhere, tmp_path)) as memory:
        told: list[Any] = []
        memory.state.put({CODE: "a"}, lambda error: told.append((error, on_disk())))
        assert memory.state.get(*CODE) == "a"
        until(memory, lambda: told)
        assert told == [(None, [('"a"',)])]


def test_what_is_the_same_costs_no_write(nowhere: str, tmp_path: Path) -> None:
    with started(Memory(nowhere, tmp_path)) as memory:
        put(memory, {CONF: {"active": True}, LEVEL: 1})
        storage = memory.state._storage
        assert storage is not None
        commits = storage.commits
        assert put(memory, {CONF: {"active": True}, LEVEL: 1, JOB: None}) is None
        assert storage.commits == commits
        # In JSON these are others, though Python calls them equal.
        for value in (1.0, True, 1):
            commits = storage.commits
            assert put(memory, {LEVEL: value}) is None
            assert storage.commits == commits + 1
            assert repr(memory.state.get(*LEVEL)) == repr(value)


def test_the_same_again_is_told_no_sooner_than_the_first(nowhere: str, tmp_path: Path) -> None:
    with started(Memory(nowhere, tmp_path)) as memory:
        told: list[str] = []
        memory.state.put({CODE: "a"}, lambda error: told.append(f"first {error}"))
        memory.state.put({CODE: "a"}, lambda error: told.append(f"second {error}"))
        until(memory, lambda: len(told) == 2)
        assert told == ["first None", "second None"]


def test_many_changes_share_commits(nowhere: str, tmp_path: Path) -> None:
    with started(Memory(nowhere, tmp_path)) as memory:
        put(memory, {CODE: "a"})
        told: list[Any] = []
        assert memory.state._storage is not None
        before = memory.state._storage.commits
        for number in range(300):
            memory.state.put({("variable", f"v{number}"): number}, told.append)
        until(memory, lambda: len(told) == 300)
        assert not any(told)
        assert memory.state._storage.commits - before < 20


def test_without_a_file_nothing_outlives_the_process(nowhere: str) -> None:
    with started(Memory(nowhere, None, store=True)) as memory:
        assert put(memory, {CODE: "a"}) is None
        assert memory.state.get(*CODE) == "a"
        assert not memory.state.new
    with started(Memory(nowhere, None)) as memory:
        assert memory.state.get(*CODE) is None


def test_what_was_given_may_be_changed_afterwards(nowhere: str, tmp_path: Path) -> None:
    with started(Memory(nowhere, tmp_path)) as memory:
        conf = {"active": True}
        put(memory, {CONF: conf})
        conf["active"] = False
        assert memory.state.get(*CONF) == {"active": True}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({("", "key"): 1}, "a name is"),
        ({("variable", ""): 1}, "a name is"),
        ({("variable", "a\nb"): 1}, "a name is"),
        ({("variable", "ü" * 128): 1}, "a name is"),
        ({("variable", "\udc80"): 1}, "a name is"),
        ({("variable", 5): 1}, "a name is"),
        ({LEVEL: object()}, "variable/level: the value cannot be kept"),
        ({LEVEL: "\ud800"}, "variable/level: the value cannot be kept"),
        ({LEVEL: "x" * (256 << 10)}, "variable/level: a value has at most 262144 bytes, not 262146"),
    ],
)
def test_what_cannot_be_kept_is_refused_and_changes_nothing(
    nowhere: str, changes: dict[Name, Any], reason: str
) -> None:
    with started(Memory(nowhere, None)) as memory:
        with pytest.raises(StateError, match=reason):
            memory.state.put({CODE: "a", **changes})
        assert memory.state.sections() == []


def test_a_value_that_contains_itself_is_refused(nowhere: str) -> None:
    deep: list[Any] = []
    deep.append(deep)
    with started(Memory(nowhere, None)) as memory, pytest.raises(StateError, match="the value cannot be kept"):
        memory.state.put({LEVEL: deep})


def test_a_loop_that_makes_variables_is_stopped(nowhere: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "ENTRIES", 20)
    with started(Memory(nowhere, None)) as memory:
        for number in range(20):
            memory.state.put({("variable", f"v{number}"): 1})
        with pytest.raises(StateError, match="keeps at most"):
            memory.state.put({CODE: "a"})
        memory.state.put({("variable", "v3"): 2})
        memory.state.put({("variable", "v3"): None})
        memory.state.put({CODE: "a"})


def test_what_was_done_can_be_kept_however_many_variables_there_are(
    nowhere: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "ENTRIES", 20)
    monkeypatch.setattr(state, "LOCAL_ENTRIES", 30)
    with started(Memory(nowhere, tmp_path)) as memory:
        assert put(memory, {("variable", f"v{number}"): 1 for number in range(20)}) is None
        assert put(memory, {("state.cron", f"job{number}"): {"last": 1} for number in range(30)}) is None
        for more in ({CODE: "a"}, {FIRED: 1}, {FIRED: 1, LEVEL: None}):
            with pytest.raises(StateError, match="keeps at most"):
                memory.state.put(more)
        assert put(memory, {("state.cron", "job0"): None}) is None
        assert put(memory, {FIRED: {"last": 2}}) is None
        with pytest.raises(StateError, match="delete some"):
            memory.state.put({CODE: "a", ("state.cron", "job1"): None})
    with started(Memory(nowhere, tmp_path)) as memory:
        assert memory.state.get(*FIRED) == {"last": 2}
        with pytest.raises(StateError, match="keeps at most"):
            memory.state.put({("state.cron", "job0"): 1})


class Model:
    """What the memory should be."""

    def __init__(self) -> None:
        self.values: dict[Name, Any] = {}

    def put(self, changes: dict[Name, Any]) -> None:
        for name, value in changes.items():
            if value is None:
                self.values.pop(name, None)
            else:
                self.values[name] = value


names = st.tuples(st.sampled_from(["scenario.a", "cron.b", "variable", "state.cron"]), st.sampled_from("xyz"))
values = st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3)


@given(
    steps=st.lists(st.dictionaries(names, values, max_size=4) | st.just("restart"), max_size=12), store=st.booleans()
)
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_changes_and_restarts(steps: list[Any], store: bool) -> None:
    model = Model()
    with short_directory() as directory:
        ip, path = f"ipc://{directory}", Path(directory)
        memory = Memory(ip, path, store)
        memory.start()
        try:
            for step in [*steps, "restart"]:
                if step == "restart":
                    memory.stop()
                    memory.destroy()
                    memory = Memory(ip, path, store)
                    memory.start()
                else:
                    memory.state.put(step)
                    model.put(step)
                sections = memory.state.sections()
                found = {(section, key): v for section in sections for key, v in memory.state.section(section).items()}
                assert found == model.values
                assert sum(memory.state._counts) == sum(1 for _ in memory.state.entries())
        finally:
            memory.stop()
            memory.destroy()


# Disks


def test_another_process_that_has_the_file_keeps_it(nowhere: str, tmp_path: Path) -> None:
    with started(Memory(nowhere, tmp_path)):
        second = Memory(nowhere, tmp_path)
        with pytest.raises(InUse, match=r"core\.db: another process uses it"):
            second.state.load()
        second.destroy()


def test_a_damaged_file_is_set_aside_and_the_rest_saved(nowhere: str, tmp_path: Path) -> None:
    with started(Memory(nowhere, tmp_path)) as memory:
        put(memory, {("variable", f"v{number:03}"): f"{number:03} " + "x" * 3000 for number in range(40)})
    tear(tmp_path / "core.db", b"020 x")
    with started(Memory(nowhere, tmp_path)) as memory:
        saved = memory.state.section("variable")
        assert 30 < len(saved) < 40
        assert all(value.startswith(key[1:]) for key, value in saved.items())
        assert "was set aside as" in memory.conditions["state damaged"]
        assert put(memory, {CODE: "a"}) is None
    assert [name for name in os.listdir(tmp_path) if ".damaged-" in name]


@pytest.mark.parametrize("content", [b"", b"\0" * 8192, b"no database" * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_none_is_set_aside(nowhere: str, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "core.db").write_bytes(content)
    with started(Memory(nowhere, tmp_path)) as memory:
        assert memory.state.sections() == []
        assert put(memory, {CODE: "a"}) is None
    with started(Memory(nowhere, tmp_path)) as memory:
        assert memory.state.get(*CODE) == "a"


def test_rows_that_are_no_entries_cost_no_other(nowhere: str, tmp_path: Path) -> None:
    with started(Memory(nowhere, tmp_path)) as memory:
        put(memory, {CODE: "a", JOB: "b"})
    base = sqlite3.connect(tmp_path / "core.db")
    rows = [
        ("", "k", "1"),
        ("x" * 300, "k", "1"),
        ("variable", "a\nb", "1"),
        ("variable", "k", "null"),
        ("variable", "", "1"),
    ]
    base.executemany("INSERT INTO entry (section, key, value, pending) VALUES (?, ?, ?, 0)", rows)
    base.commit()
    base.close()
    with started(Memory(nowhere, tmp_path)) as memory:
        assert sorted(memory.state.sections()) == ["cron.feed", "scenario.light"]
        assert memory.state.get(*CODE) == "a"
        assert put(memory, {LEVEL: 1}) is None


def test_a_file_that_is_damaged_while_it_is_used_is_written_anew(nowhere: str, tmp_path: Path) -> None:
    with started(Memory(nowhere, tmp_path)) as memory:
        # More than a connection has in its memory.
        put(memory, {("variable", f"v{number:03}"): f"{number:03} " + "x" * 3000 for number in range(400)})
        put(memory, {CODE: "a"})
    with started(Memory(nowhere, tmp_path)) as memory:
        tear(tmp_path / "core.db", b"020 x")
        error = put(memory, {("variable", "v020"): "new", FIRED: 1})
        assert isinstance(error, StorageError)
        assert "damaged" in str(error)
        assert memory.state.get("variable", "v020").startswith("020 x"), "what was refused is not so"
        until(memory, lambda: aside(tmp_path) and not memory.state._unwritten and "state" not in memory.conditions)
        assert "was set aside as" in memory.conditions["state damaged"]
        assert put(memory, {("variable", "v021"): "last"}) is None
    with started(Memory(nowhere, tmp_path)) as memory:
        assert len(memory.state.section("variable")) == 400
        assert memory.state.get("variable", "v020").startswith("020 x")
        assert (memory.state.get(*CODE), memory.state.get(*FIRED)) == ("a", 1)
        assert memory.state.get("variable", "v021") == "last"


def aside(path: Path) -> list[str]:
    return [name for name in os.listdir(path) if ".damaged-" in name]


def test_a_file_that_is_deleted_while_it_is_used_is_written_anew(nowhere: str, tmp_path: Path) -> None:
    with started(Memory(nowhere, tmp_path)) as memory:
        put(memory, {CODE: "a", FIRED: 1})
        for path in tmp_path.iterdir():
            path.unlink()
        error = put(memory, {JOB: "refused", FIRED: 2})
        assert isinstance(error, StorageError)
        assert memory.state.get(*JOB) is None
        assert memory.state.get(*FIRED) == 2
        until(memory, lambda: "state" not in memory.conditions)
        assert put(memory, {LEVEL: 1}) is None
    with started(Memory(nowhere, tmp_path)) as memory:
        assert (memory.state.get(*CODE), memory.state.get(*FIRED), memory.state.get(*LEVEL)) == ("a", 2, 1)


@pytest.fixture
def disk() -> Generator[Disk, None, None]:
    with small_disk() as made:
        yield made


def test_a_full_disk_refuses_and_what_is_of_this_machine_is_written_later(nowhere: str, disk: Disk) -> None:
    path = Path(disk.place, "core")
    with started(Memory(nowhere, path)) as memory:
        put(memory, {CODE: "old", LEVEL: 1, FIRED: {"last": 1}})
        disk.fill()
        error = put(memory, {CODE: "x" * 200_000, LEVEL: None})
        assert isinstance(error, StorageError)
        assert "the disk is full" in str(error)
        assert "the disk is full" in memory.conditions["state"]
        assert (memory.state.get(*CODE), memory.state.get(*LEVEL)) == ("old", 1), "it is not kept, so it is not so"
        big = {"last": 2, "more": "x" * 200_000}
        assert put(memory, {FIRED: big}) is not None
        assert memory.state.get(*FIRED) == big
        disk.make_room()
        until(memory, lambda: not memory.state._unwritten)
        until(memory, lambda: not memory.conditions)
    with started(Memory(nowhere, path)) as memory:
        assert (memory.state.get(*CODE), memory.state.get(*LEVEL)) == ("old", 1)
        assert memory.state.get(*FIRED) == big


def test_changes_behind_one_that_the_disk_refuses(nowhere: str, disk: Disk) -> None:
    """Each is told for itself, and what is in memory is what is on the disk."""
    path = Path(disk.place, "core")
    with started(Memory(nowhere, path)) as memory:
        put(memory, {CODE: "old"})
        disk.fill()
        told: list[Exception | None] = []
        for number in range(5):
            memory.state.put({CODE: f"{number} " + "x" * 200_000}, told.append)
        until(memory, lambda: len(told) == 5)
        assert all(isinstance(error, StorageError) for error in told)
        assert memory.state.get(*CODE) == "old"
        disk.make_room()
        until(memory, lambda: not memory.conditions)
        assert put(memory, {CODE: "new"}) is None
        assert not memory.state._flying
        assert not memory.state._disk
    with started(Memory(nowhere, path)) as memory:
        assert memory.state.get(*CODE) == "new"


def test_a_disk_that_is_read_only_at_the_start_is_read_all_the_same(nowhere: str, disk: Disk) -> None:
    """As after a power cut that left the file system in disorder: the heater is to be regulated nonetheless."""
    path = Path(disk.place, "core")
    path.mkdir()
    _end_badly(path, {CODE: "a", FIRED: {"last": 1}})
    disk.remount("ro")
    with started(Memory(nowhere, path)) as memory:
        assert not memory.state.writable
        assert "Read-only" in memory.state.doubt
        assert (memory.state.get(*CODE), memory.state.get(*FIRED)) == ("a", {"last": 1})
        until(memory, lambda: "state read" in memory.conditions and "state" in memory.conditions)
        assert "Read-only" in memory.conditions["state"]
        assert put(memory, {CODE: "refused"}) is not None
        assert put(memory, {FIRED: {"last": 2}}) is not None
        disk.remount("rw")
        until(memory, lambda: not memory.conditions)
        until(memory, lambda: not memory.state._unwritten)
        assert put(memory, {LEVEL: 1}) is None
        assert memory.taken == []
    with started(Memory(nowhere, path)) as memory:
        assert memory.state.writable
        assert (memory.state.get(*CODE), memory.state.get(*FIRED), memory.state.get(*LEVEL)) == ("a", {"last": 2}, 1)


def test_a_disk_that_is_full_at_the_start_is_read_all_the_same(nowhere: str, disk: Disk) -> None:
    path = Path(disk.place, "core")
    path.mkdir()
    _end_badly(path, {CODE: "a"})
    (path / "core.db-shm").unlink()
    disk.fill()
    with started(Memory(nowhere, path)) as memory:
        assert memory.state.get(*CODE) == "a"
        assert "the disk is full" in memory.state.doubt
        disk.make_room()
        until(memory, lambda: not memory.conditions)
        assert put(memory, {LEVEL: 1}) is None


@pytest.mark.parametrize("how", ["ended", "killed"])
def test_a_disk_that_was_full_and_still_is_leaves_a_doubt(nowhere: str, disk: Disk, how: str) -> None:
    """The file opens and reads well; only a write tells that the last ones may be missing."""
    path = Path(disk.place, "core")
    path.mkdir()
    if how == "killed":
        _end_badly(path, {CODE: "a", FIRED: {"last": 1}})
    with started(Memory(nowhere, path)) as memory:
        put(memory, {CODE: "a", FIRED: {"last": 1}})
        assert memory.state.writable
        disk.fill()
        assert put(memory, {FIRED: {"last": 2}}) is not None
    with started(Memory(nowhere, path)) as memory:
        assert memory.state.get(*FIRED) == {"last": 1}
        assert "the disk is full" in memory.state.doubt
        assert not memory.state.writable


def test_a_file_that_cannot_be_read_at_the_start_is_read_later(nowhere: str, tmp_path: Path) -> None:
    with started(Memory(nowhere, tmp_path)) as memory:
        put(memory, {CODE: "old", CONF: {"active": True}, FIRED: 1})
    os.rename(tmp_path / "core.db", tmp_path / "away")
    (tmp_path / "core.db").mkdir()
    with started(Memory(nowhere, tmp_path)) as memory:
        assert memory.state.sections() == []
        until(memory, lambda: "state" in memory.conditions)
        assert put(memory, {LEVEL: 1}) is not None
        put(memory, {FIRED: 2})
        (tmp_path / "core.db").rmdir()
        os.rename(tmp_path / "away", tmp_path / "core.db")
        until(memory, lambda: not memory.conditions)
        assert memory.state.get(*CODE) == "old"
        assert memory.taken == [{CODE, CONF}]
        assert memory.state.get(*FIRED) == 2
        until(memory, lambda: not memory.state._unwritten)
    with started(Memory(nowhere, tmp_path)) as memory:
        assert (memory.state.get(*CODE), memory.state.get(*FIRED)) == ("old", 2)


def test_a_file_of_a_newer_version_is_left_as_it_is(nowhere: str, tmp_path: Path) -> None:
    with started(Memory(nowhere, tmp_path)) as memory:
        put(memory, {CODE: "a"})
    base = sqlite3.connect(tmp_path / "core.db")
    base.execute("PRAGMA user_version = 99")
    base.close()
    content = (tmp_path / "core.db").read_bytes()
    with started(Memory(nowhere, tmp_path)) as memory:
        until(memory, lambda: "newer RasPy" in memory.conditions.get("state", ""))
        assert put(memory, {CODE: "b"}) is not None
    assert (tmp_path / "core.db").read_bytes() == content


def test_a_disk_that_hangs_holds_no_more_than_it_may(
    nowhere: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "WAITING", 10)
    with started(Memory(nowhere, tmp_path)) as memory:
        put(memory, {LEVEL: "old"})
        assert memory.state._storage is not None
        memory.state._storage._writing = True
        told: list[Exception | None] = []
        for number in range(30):
            memory.state.put({LEVEL: number, FIRED: number}, told.append)
        until(memory, lambda: len(told) == 20)
        assert all("10 changes wait for it" in str(error) for error in told)
        memory.state._storage._writing = False
        memory.state._storage._go()
        until(memory, lambda: len(told) == 30)
        assert told[20:] == [None] * 10
        assert (memory.state.get(*LEVEL), memory.state.get(*FIRED)) == (9, 29)
        until(memory, lambda: not memory.state._unwritten and not memory.state._flying)
    with started(Memory(nowhere, tmp_path)) as memory:
        assert (memory.state.get(*LEVEL), memory.state.get(*FIRED)) == (9, 29)


WRITER = """
import sys
from pathlib import Path
from tests.servers.test_core_state import Memory
memory = Memory("ipc:///nonexistent", Path(sys.argv[1]))
memory.start()
number = max([0, *memory.state.section("variable").values()])
def told(number):
    def tell(error):
        assert error is None, error
        sys.stdout.write(f"{number}\\n")
        sys.stdout.flush()
    return tell
print("ready", flush=True)
while True:
    for _ in range(5):
        number += 1
        key = f"v{number % 50}"
        memory.state.put({("variable", key): number, ("state.cron", key): number}, told(number))
    memory.turn(0.001)
"""


def _writer(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True, env=environment()
    )


def _end_badly(path: Path, changes: dict[Name, Any]) -> None:
    """Keep something in a process that is killed, so that it stands in the log beside the file."""
    code = f"""
import os, signal
from pathlib import Path
from tests.servers.test_core_state import Memory, put
memory = Memory("ipc:///nonexistent", Path({str(path)!r}))
memory.start()
assert put(memory, {changes!r}) is None
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert (path / "core.db-wal").stat().st_size > 0


def test_kill_9_while_it_writes_loses_nothing_that_was_told(nowhere: str, tmp_path: Path) -> None:
    acknowledged = 0
    for round_ in range(6):
        process = _writer(tmp_path)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for _ in range(40 + 37 * round_):
            acknowledged = int(process.stdout.readline())
        process.kill()
        with process:
            rest = process.stdout.read().split("\n")
        acknowledged = max([acknowledged, *map(int, rest[:-1])])
        with started(Memory(nowhere, tmp_path)) as memory:
            found = memory.state.section("variable")
            last = max(found.values())
            assert last >= acknowledged
            # All or none of each change, and no change without those before it.
            assert found == memory.state.section("state.cron")
            assert sorted(found.values()) == list(range(last - len(found) + 1, last + 1))
            assert "state damaged" not in memory.conditions


# The store


@pytest.fixture
def ship(tmp_path: Path) -> Generator[Ship, None, None]:
    with at_sea(str(tmp_path / "titanic")) as found:
        yield found


def on_ship(ship: Ship, path: Path) -> AbstractContextManager[Memory]:
    return started(Memory(ship.bus.ip, path, store=True))


def stored(ship: Ship) -> dict[Name, Any]:
    """What the store has of this server."""
    told, status = ship.store("export", SERVICE)
    assert status == b"200"
    sections = told["services"].get(SERVICE, {})
    return {(section, key): value for section, keys in sections.items() for key, value in keys.items()}


def change(ship: Ship, name: Name, value: Any) -> None:
    assert ship.store("set", SERVICE, *name, json.dumps(value))[1] == b"200"


def look(memory: Memory) -> None:
    assert memory.state._mirror is not None
    memory.state._mirror.look()


def settled(memory: Memory) -> None:
    """Wait until nothing is on its way to the store, or from there."""
    assert memory.state._mirror is not None
    found = memory.state._mirror
    until(memory, lambda: not found._looking and not found._again and not found._waiting() and not memory.state._flying)


def test_the_store_has_a_copy_but_of_what_is_of_this_machine(ship: Ship, tmp_path: Path) -> None:
    ship.start()
    kept = {CODE: "a\n°", CONF: {"active": True}, JOB: {"when": "@noon"}, LEVEL: {"value": 1, "time": 2.5}}
    with on_ship(ship, tmp_path) as memory:
        put(memory, {**kept, FIRED: 1, ("state.scenario", "light"): 2})
        until(memory, lambda: stored(ship) == kept)
        put(memory, {CODE: None, CONF: {"active": False}})
        del kept[CODE]
        until(memory, lambda: stored(ship) == {**kept, CONF: {"active": False}})
        settled(memory)
        assert memory.state.find(CODE) is None, "nothing is left of what was deleted"


def test_a_new_card_takes_all_from_the_store(ship: Ship, tmp_path: Path) -> None:
    ship.start()
    with on_ship(ship, tmp_path / "old") as memory:
        put(memory, {CODE: "a", CONF: {"active": True}, JOB: {"when": "@noon"}, LEVEL: 5, FIRED: 1})
        until(memory, lambda: len(stored(ship)) == 4)
    with on_ship(ship, tmp_path / "new") as memory:
        assert memory.state.new
        until(memory, lambda: memory.taken)
        assert memory.taken == [{CODE, CONF, JOB, LEVEL}]
        assert not memory.state.new
        assert memory.state.get(*CODE) == "a"
        assert memory.state.get(*FIRED) is None
    # What is known once needs nobody.
    ship.stop()
    with on_ship(ship, tmp_path / "new") as memory:
        assert not memory.state.new
        assert (memory.state.get(*CODE), memory.state.get(*LEVEL)) == ("a", 5)


@pytest.mark.usefixtures("away")
def test_core_works_without_titanic_and_tells_it_later(ship: Ship, tmp_path: Path) -> None:
    with on_ship(ship, tmp_path) as memory:
        assert put(memory, {CODE: "a"}) is None
        until(memory, lambda: "titanic.store: " in memory.conditions.get("store", ""))
        assert put(memory, {JOB: "b"}) is None
        ship.start()
        until(memory, lambda: stored(ship) == {CODE: "a", JOB: "b"})
        until(memory, lambda: "store" not in memory.conditions)
        ship.restart()
        put(memory, {CODE: "c"})
        until(memory, lambda: stored(ship) == {CODE: "c", JOB: "b"})


def test_a_change_that_is_pending_survives_a_restart_and_wins(ship: Ship, tmp_path: Path) -> None:
    ship.start()
    with on_ship(ship, tmp_path) as memory:
        put(memory, {CODE: "a", CONF: 1, JOB: "b"})
        until(memory, lambda: len(stored(ship)) == 3)
        settled(memory)
        change(ship, CODE, "there")
        change(ship, JOB, "there")
        change(ship, CONF, 2)
        ship.stop()
        assert put(memory, {CODE: "here", JOB: None}) is None
    with on_ship(ship, tmp_path) as memory:
        assert (memory.state.get(*CODE), memory.state.get(*JOB)) == ("here", None)
        ship.start()
        until(memory, lambda: stored(ship) == {CODE: "here", CONF: 2})
        until(memory, lambda: memory.taken)
        assert memory.taken == [{CONF}]
        assert (memory.state.get(*CODE), memory.state.get(*JOB), memory.state.get(*CONF)) == ("here", None, 2)
    with on_ship(ship, tmp_path) as memory:
        settled(memory)
        assert memory.taken == []


def test_a_restored_backup_is_taken_over(ship: Ship, tmp_path: Path) -> None:
    ship.start()
    with on_ship(ship, tmp_path) as memory:
        put(memory, {CODE: "good", CONF: {"active": True}, LEVEL: 1})
        until(memory, lambda: len(stored(ship)) == 3)
        backup, _ = ship.store("export")
        settled(memory)
        put(memory, {CODE: "bad", LEVEL: 2, JOB: "new"})
        until(memory, lambda: len(stored(ship)) == 4)
        settled(memory)
        assert ship.store("import", json.dumps(backup), "replace")[1] == b"200"
        look(memory)
        until(memory, lambda: memory.taken)
        assert memory.taken == [{CODE, LEVEL}]
        assert (memory.state.get(*CODE), memory.state.get(*LEVEL)) == ("good", 1)
        # A deletion there is not one here, as of devices: the store may have lost it.
        until(memory, lambda: stored(ship).get(JOB) == "new")
    with on_ship(ship, tmp_path) as memory:
        assert (memory.state.get(*CODE), memory.state.get(*LEVEL)) == ("good", 1)


def quiet(memory: Memory) -> None:
    """Wait until nothing is on its way but variables, which are sent seldom."""
    assert memory.state._mirror is not None
    found = memory.state._mirror
    until(memory, lambda: not found._looking and not found._again and not memory.state._flying)


@pytest.mark.parametrize("other", [5, 1], ids=["another value", "what the store had"])
def test_a_restored_variable_beats_one_that_was_not_sent_yet(
    ship: Ship, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, other: int
) -> None:
    ship.start()
    with on_ship(ship, tmp_path) as memory:
        put(memory, {LEVEL: 1})
        until(memory, lambda: stored(ship) == {LEVEL: 1})
        settled(memory)
        look(memory)
        settled(memory)
        monkeypatch.setattr(mirror, "VARIABLES", 3600.0)
        found = memory.state._mirror
        assert found is not None
        found._variables_after = time.monotonic() + 3600
        put(memory, {LEVEL: 2})
        quiet(memory)
        change(ship, LEVEL, other)
        look(memory)
        quiet(memory)
        assert memory.state.get(*LEVEL) == 2, "it has not been tried yet"
        found._variables_after = 0.0
        look(memory)
        until(memory, lambda: memory.taken)
        settled(memory)
        assert memory.taken == [{LEVEL}]
        assert memory.state.get(*LEVEL) == other
        assert stored(ship) == {LEVEL: other}
        assert "variable/level was changed here, and then in titanic.store, which is what holds" in caplog.text
        # From then on it is as before.
        found._variables_after = 0.0
        put(memory, {LEVEL: 3})
        until(memory, lambda: stored(ship) == {LEVEL: 3})
    with on_ship(ship, tmp_path) as memory:
        settled(memory)
        assert memory.state.get(*LEVEL) == 3


@pytest.mark.usefixtures("away")
def test_a_variable_that_the_store_has_lost_or_perhaps_taken_is_sent_again(ship: Ship, tmp_path: Path) -> None:
    ship.start()
    with on_ship(ship, tmp_path) as memory:
        put(memory, {LEVEL: 1})
        until(memory, lambda: stored(ship) == {LEVEL: 1})
        settled(memory)
        assert ship.store("delete", SERVICE)[1] == b"200"
        put(memory, {LEVEL: 2})
        until(memory, lambda: stored(ship) == {LEVEL: 2})
        settled(memory)
        # Nobody answers, so that what was sent may be there or not.
        ship.stop()
        put(memory, {LEVEL: 3})
        until(memory, lambda: "titanic.store: " in memory.conditions.get("store", ""))
        put(memory, {LEVEL: 4})
        ship.start()
        until(memory, lambda: stored(ship) == {LEVEL: 4})
        settled(memory)
        assert memory.state.get(*LEVEL) == 4
        assert memory.taken == []


def test_a_backup_restored_while_core_was_off_is_taken_over(ship: Ship, tmp_path: Path) -> None:
    ship.start()
    with on_ship(ship, tmp_path) as memory:
        put(memory, {CODE: "a", LEVEL: 1})
        until(memory, lambda: len(stored(ship)) == 2)
        settled(memory)
    change(ship, CODE, "restored")
    change(ship, LEVEL, 7)
    with on_ship(ship, tmp_path) as memory:
        assert not memory.state.new
        until(memory, lambda: memory.taken)
        assert memory.taken == [{CODE, LEVEL}]
        assert (memory.state.get(*CODE), memory.state.get(*LEVEL)) == ("restored", 7)


def test_a_store_that_lost_everything_gets_it_back(ship: Ship, tmp_path: Path) -> None:
    ship.start()
    with on_ship(ship, tmp_path) as memory:
        put(memory, {CODE: "a", LEVEL: 1})
        until(memory, lambda: len(stored(ship)) == 2)
        settled(memory)
        ship.store("delete", SERVICE)
        look(memory)
        until(memory, lambda: stored(ship) == {CODE: "a", LEVEL: 1})


def test_what_a_damaged_file_has_lost_comes_from_the_store(ship: Ship, tmp_path: Path) -> None:
    ship.start()
    many = {(f"scenario.s{number}", "code"): f"{number:03} " + "x" * 3000 for number in range(40)}
    with on_ship(ship, tmp_path / "core") as memory:
        put(memory, many)
        until(memory, lambda: len(stored(ship)) == 40)
    tear(tmp_path / "core" / "core.db", b"020 x")
    with on_ship(ship, tmp_path / "core") as memory:
        assert memory.state.new
        assert len(memory.state.sections()) < 40
        until(memory, lambda: not memory.state.new)
        assert {(section, "code"): memory.state.get(section, "code") for section in memory.state.sections()} == many


@pytest.mark.parametrize(
    ("name", "text"),
    [(CODE, "null"), (LEVEL, json.dumps("x" * 262_100 + "ü" * 40)), (CODE, '{"refused": true}')],
)
def test_what_cannot_be_taken_over_is_told_and_what_was_there_stays(
    ship: Ship, tmp_path: Path, name: Name, text: str
) -> None:
    def check(section: str, key: str, value: Any) -> None:
        if not isinstance(value, str):
            raise ValueError("a code is a text")

    ship.start(value_bytes=1 << 20)
    with on_ship(ship, tmp_path) as memory:
        memory.state.check = check
        put(memory, {name: "good", JOB: "b"})
        until(memory, lambda: len(stored(ship)) == 2)
        settled(memory)
        assert ship.store("set", SERVICE, *name, text)[1] == b"200"
        change(ship, JOB, "other")
        look(memory)
        until(memory, lambda: memory.taken)
        assert memory.taken == [{JOB}]
        assert "/".join(name) in memory.conditions["store"]
        assert memory.state.get(*name) == "good"
        change(ship, name, "better")
        look(memory)
        until(memory, lambda: "store" not in memory.conditions)
        assert memory.state.get(*name) == "better"


def test_a_check_that_fails_costs_one_entry(ship: Ship, tmp_path: Path) -> None:
    def check(section: str, key: str, value: Any) -> None:
        if key == "code":
            raise ZeroDivisionError("a defect")

    ship.start()
    memory = Memory(ship.bus.ip, tmp_path, store=True)
    memory.state.check = check
    change(ship, CODE, "a")
    change(ship, JOB, "b")
    memory.start()
    try:
        until(memory, lambda: memory.taken)
        assert memory.taken == [{JOB}]
        assert memory.errors == 1
        assert "a defect" in memory.conditions["store"]
    finally:
        memory.stop()
        memory.destroy()


def test_what_somebody_else_has_put_there_is_left_alone(ship: Ship, tmp_path: Path) -> None:
    ship.start()
    change(ship, ("state.cron", "feed"), "not from there")
    change(ship, ("notes", "mine"), 1)
    change(ship, CODE, "a")
    with on_ship(ship, tmp_path) as memory:
        until(memory, lambda: memory.taken)
        assert memory.taken == [{CODE}]
        assert memory.state.sections() == ["scenario.light"]
        ship.store("delete", SERVICE, "notes")
        put(memory, {CODE: "b"})
        until(memory, lambda: stored(ship).get(CODE) == "b")
        assert ("notes", "mine") not in stored(ship)
        assert stored(ship)[FIRED] == "not from there"


def test_what_the_store_refuses_is_told_and_costs_no_other(ship: Ship, tmp_path: Path) -> None:
    ship.start(value_bytes=1000)
    with on_ship(ship, tmp_path) as memory:
        put(memory, {CODE: "x" * 2000, JOB: "b", LEVEL: "x" * 2000})
        until(memory, lambda: stored(ship) == {JOB: "b"})
        until(memory, lambda: "store" in memory.conditions)
        assert "scenario.light/code: " in memory.conditions["store"]
        assert "value_bytes in [titanic]" in memory.conditions["store"]
        assert memory.state.get(*CODE) == "x" * 2000
        turns = ship.statistic("commits")
        put(memory, {CODE: "short", LEVEL: None})
        until(memory, lambda: stored(ship) == {JOB: "b", CODE: "short"})
        until(memory, lambda: "store" not in memory.conditions)
        assert ship.statistic("commits") - turns < 10, "it is not asked again and again"


def test_variables_are_sent_together_and_seldom(ship: Ship, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "VARIABLES", 3600.0)
    ship.start()
    with on_ship(ship, tmp_path) as memory:
        put(memory, {LEVEL: 0})
        until(memory, lambda: stored(ship) == {LEVEL: 0})
        settled(memory)
        for number in range(1, 20):
            put(memory, {LEVEL: number})
        put(memory, {CODE: "a"})
        until(memory, lambda: stored(ship).get(CODE) == "a")
        assert stored(ship)[LEVEL] == 0, "the code is sent at once, the variable is not"
        found = memory.state._mirror
        assert found is not None
        until(memory, lambda: not found._looking and not found._again)
        monkeypatch.setattr(mirror, "VARIABLES", 0.1)
        found._variables_after = 0.0
        look(memory)
        until(memory, lambda: stored(ship)[LEVEL] == 19)
        put(memory, {LEVEL: 20})
        until(memory, lambda: stored(ship)[LEVEL] == 20)  # by itself, when it is time


def test_a_change_made_while_the_store_is_asked_is_not_overwritten(ship: Ship, tmp_path: Path) -> None:
    ship.start()
    with on_ship(ship, tmp_path) as memory:
        for number in range(30):
            put(memory, {CODE: f"a{number}"})
            change(ship, CODE, f"there {number}")
            look(memory)
            memory.turn(0.001)
            assert put(memory, {CODE: f"b{number}"}) is None
            until(memory, lambda number=number: stored(ship).get(CODE) == f"b{number}")  # type: ignore[misc]
            assert memory.state.get(*CODE) == f"b{number}"
        settled(memory)
        assert memory.state.get(*CODE) == "b29"


def test_a_change_that_the_disk_refuses_does_not_reach_the_store(ship: Ship, disk: Disk) -> None:
    ship.start()
    with on_ship(ship, Path(disk.place, "core")) as memory:
        put(memory, {CODE: "old"})
        until(memory, lambda: stored(ship) == {CODE: "old"})
        settled(memory)
        disk.fill()
        assert put(memory, {CODE: "new " + "x" * 200_000}) is not None
        look(memory)
        settled(memory)
        assert stored(ship) == {CODE: "old"}
        # What the store has is taken over all the same, and written when there is room.
        change(ship, CODE, "there " + "x" * 200_000)
        look(memory)
        until(memory, lambda: memory.taken)
        disk.make_room()
        until(memory, lambda: not memory.state._unwritten and not memory.state._flying and not memory.conditions)
    ship.stop()
    with on_ship(ship, Path(disk.place, "core")) as memory:
        assert memory.state.get(*CODE).startswith("there ")


def test_a_copy_in_memory_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "PLACES", (str(tmp_path / "missing"), str(tmp_path / "b")))
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    (tmp_path / "b").mkdir()
    assert entries.read_copy(str(tmp_path / "none")) is None
    (tmp_path / "bad").write_bytes(b"\xff" * 5000)
    assert entries.read_copy(str(tmp_path / "bad")) is None
    assert list((tmp_path / "b").iterdir()) == []
