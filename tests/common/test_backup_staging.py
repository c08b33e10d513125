"""Restores that end at any moment: what follows is all that was, or all that is new."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raspy.common import MDP
from raspy.common.backup import client, copying, exchange, staging
from raspy.common.backup.desk import BACKUP, Desk
from raspy.common.backup.exchange import Exchange
from raspy.common.backup.parts import BackupError, Part, is_restoring, staged
from raspy.common.database import Database
from raspy.common.devices.host import DeviceServer
from raspy.common.directories import exchange_directory
from raspy.common.pool import PoolFull
from raspy.common.verbs import Later, VerbError
from raspy.servers.core.entries import SCHEMAS, read_all, write_rows
from raspy.servers.core.server import Core

ID = "0123456789abcdef"
PARTS = (Part("core.db", [""]), Part("devices.json"), Part("secrets/*", secret=True))
OLD = {
    "core.db": "old",
    "core.db-wal": "old log",
    "core.db-shm": "old map",
    "core.db.lock": "",
    "modes.json": "stays",
    "secrets/gone": "old",
    "secrets/mail": "old",
}
NEW = {"core.db": "new", "devices.json": "new", "secrets/mail": "new", "secrets/sms": "new"}
AFTER = {**NEW, "core.db.lock": "", "modes.json": "stays"}
STEPS = ("mkdir", "rename", "unlink", "rmdir", "open", "fsync")
"""What changes a disk; each is a moment at which a process may end."""


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the state of a server is, and that of a store."""
    monkeypatch.delenv("RASPY_EXCHANGE", raising=False)
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(staging, "OTHERS_TIME", 0.2)
    monkeypatch.setattr(staging, "STORE_TIME", 0.2)
    monkeypatch.setattr(staging, "LOCK_TIME", 0.2)
    return tmp_path / "raspy" / "core"


def put(directory: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)


def content(directory: Path) -> dict[str, str]:
    """The files, without what belongs to restores."""
    found = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if path.is_file() and not name.startswith(("restore", "before-restore")):
            found[name] = path.read_text()
    return found


def stage(directory: Path, identity: str = ID) -> None:
    put(Path(staging.begin(str(directory), identity)), NEW)
    staging.give_word(str(directory), identity, list(NEW))


def decide(*servers: str) -> None:
    held = Exchange()
    held.id = ID
    with held:
        held.decide(list(servers))


def settle() -> None:
    staging.settle("core", PARTS)


def steps(monkeypatch: pytest.MonkeyPatch, last: int) -> list[str]:
    """Have the process end before the step of that number; returns the list of those that are done."""
    done: list[str] = []

    def stepped(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **more: Any) -> Any:
            if name != "open" or args[1] & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
                if len(done) == last:
                    raise Killed
                done.append(name)
            return real(*args, **more)

        return step

    for name in STEPS:
        monkeypatch.setattr(os, name, stepped(name, getattr(os, name)))
    return done


def each_step(act: Callable[[], None], prepare: Callable[[], None]) -> Iterator[int]:
    """Do something again and again, killed one step later each time, until it gets to its end."""
    for last in range(500):
        prepare()
        with pytest.MonkeyPatch.context() as patch:
            done = steps(patch, last)
            try:
                act()
            except Killed:
                pass
            else:
                assert len(done) == last > 5
                return
        yield last
    raise AssertionError("it does not end")


def renew(directory: Path, decided: bool) -> None:
    exchange.remove_tree(str(directory.parent))
    put(directory, OLD)
    stage(directory)
    if decided:
        decide("core")


def test_a_decided_restore_is_taken_once(place: Path) -> None:
    put(place, OLD)
    stage(place)
    assert staged(str(place)) == [ID]
    assert content(place) == OLD
    decide("core")
    settle()
    assert content(place) == AFTER
    before = place / f"before-restore-{ID}"
    assert {name: (before / name).read_text() for name in content(before)} == {
        name: text for name, text in OLD.items() if name not in ("core.db.lock", "modes.json")
    }
    assert exchange.open_decisions() == {}
    assert not is_restoring(str(place))
    assert os.listdir(exchange_directory()) == ["lock"]
    (place / "core.db").write_text("newer")
    settle()
    assert content(place)["core.db"] == "newer"


def test_a_kill_at_every_step_of_taking_leads_to_all_that_is_new(place: Path) -> None:
    count = 0
    for _ in each_step(settle, lambda: renew(place, decided=True)):
        count += 1
        settle()
        assert content(place) == AFTER
        assert not is_restoring(str(place))
        assert exchange.open_decisions() == {}
    assert count > 20


def test_two_kills_at_any_step_lead_to_all_that_is_new(place: Path) -> None:
    for last in each_step(settle, lambda: renew(place, decided=True)):
        with pytest.MonkeyPatch.context() as patch:
            steps(patch, last // 2)
            try:
                settle()
            except Killed:
                pass
        settle()
        assert content(place) == AFTER


def test_a_kill_at_every_step_of_staging_changes_nothing(place: Path) -> None:
    def prepare() -> None:
        exchange.remove_tree(str(place.parent))
        put(place, OLD)
        Path(exchange_directory()).mkdir(parents=True)

    for _ in each_step(lambda: stage(place), prepare):
        settle()
        assert content(place) == OLD
        assert not is_restoring(str(place))


def test_a_kill_at_every_step_of_the_decision_is_all_or_nothing(place: Path) -> None:
    seen = set()
    for _ in each_step(lambda: decide("core", "fake"), lambda: renew(place, decided=False)):
        opened = exchange.open_decisions()
        assert opened in ({}, {ID: ["core", "fake"]})
        seen.add(bool(opened))
        settle()
        assert content(place) == (AFTER if opened else OLD)
    assert seen == {True, False}


def test_a_server_keeps_its_word_while_whoever_restores_is_alive(place: Path) -> None:
    put(place, OLD)
    with Exchange() as held:
        stage(place, held.id)
        assert staging.verdict(held.id, "core") == staging.WAIT
        settle()
        assert staged(str(place)) == [held.id]
        held.decide(["core", "web"])
        # What is decided is taken, whoever is alive; but the page shows how it goes.
        assert staging.verdict(held.id, "core") == staging.TAKE
        assert staging.verdict(held.id, "web") == staging.WAIT
        settle()
        assert staging.verdict(held.id, "web") == staging.TAKE
        assert content(place) == AFTER


def test_a_restore_that_nobody_will_decide_is_dropped(place: Path) -> None:
    put(place, OLD)
    with Exchange() as held:
        stage(place, held.id)
    assert staging.verdict(held.id, "core") == staging.DROP
    settle()
    assert content(place) == OLD
    assert not is_restoring(str(place))


def test_what_was_before_is_kept_until_the_next_restore(place: Path) -> None:
    put(place, OLD)
    (place / "before-restore-ffffffffffffffff").mkdir()
    stage(place)
    decide("core")
    settle()
    assert [name for name in os.listdir(place) if name.startswith("before")] == [f"before-restore-{ID}"]


def test_a_file_that_another_process_has_is_not_taken_from_it(place: Path) -> None:
    put(place, OLD)
    stage(place)
    decide("core")
    with open(place / "core.db.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BackupError, match="another process has it"):
            settle()
        assert content(place) == OLD
    settle()
    assert content(place) == AFTER


def test_a_disk_that_refuses_is_tried_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(place, OLD)
    stage(place)
    decide("core")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        with pytest.raises(OSError, match="No space"):
            settle()
    settle()
    assert content(place) == AFTER


def test_the_store_waits_for_the_others_and_these_for_the_store(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = place.parent / "titanic"
    seen: list[tuple[str, dict[str, list[str]]]] = []

    def wait(over: Callable[[], bool], longest: float, whom: str) -> None:
        seen.append((whom, exchange.open_decisions()))
        assert not over()

    for directory in (place, store):
        put(directory, OLD)
        stage(directory)
    decide("core", "titanic", "web")
    monkeypatch.setattr(staging, "_wait", wait)
    staging.settle("titanic", PARTS)
    assert content(store) == AFTER
    assert seen == [("the other servers", {ID: ["core", "titanic", "web"]})]
    decide_again = place.parent / "exchange" / f"decided-{ID}" / "titanic"
    decide_again.write_text("")
    settle()
    assert seen[1:] == [("titanic", {ID: ["titanic", "web"]})]


def test_the_exchange_is_for_one_at_a_time(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "LOCK_PATIENCE", 0.1)
    monkeypatch.setenv("RASPY_EXCHANGE", str(place.parent / "exchange"))
    assert not exchange.is_held()
    with Exchange() as held:
        assert exchange.is_held()
        with pytest.raises(BackupError, match="another backup or restore is under way"), Exchange():
            pass
        work = held.prepare("core")
        assert os.stat(work).st_mode & 0o777 == 0o700
    assert not exchange.is_held()
    assert not os.path.exists(work)


def test_what_one_that_was_killed_has_left_is_cleared(place: Path) -> None:
    with Exchange():
        pass
    directory = Path(exchange_directory())
    put(directory, {f"work-{ID}/core/0": "secret", f"deciding-{ID}/core": "", f"decided-{ID}/core": ""})
    with Exchange():
        assert sorted(name for name in os.listdir(directory) if ID in name) == [f"decided-{ID}"]
    assert exchange.open_decisions() == {ID: ["core"]}


def test_an_exchange_that_everybody_can_write_to_is_refused(place: Path) -> None:
    directory = Path(exchange_directory())
    directory.mkdir(parents=True)
    directory.chmod(0o777)
    with pytest.raises(BackupError, match="everybody can write there"), Exchange():
        pass


def test_a_shared_exchange_is_for_its_group(place: Path) -> None:
    directory = Path(exchange_directory())
    directory.mkdir(parents=True)
    directory.chmod(0o2770)
    with Exchange() as held:
        assert os.stat(held.prepare("core")).st_mode & 0o7777 == 0o2770
        held.decide(["core"])
        decided = directory / f"decided-{held.id}"
        assert decided.stat().st_mode & 0o777 == 0o770
        assert (decided / "core").stat().st_mode & 0o777 == 0o660
    exchange.taken(held.id, "core")
    exchange.taken(held.id, "core")
    assert not decided.exists()


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_the_lock_is_for_the_group_whatever_the_umask(place: Path, umask: int) -> None:
    directory = Path(exchange_directory())
    directory.mkdir(parents=True)
    directory.chmod(0o2770)
    before = os.umask(umask)
    try:
        with Exchange():
            assert (directory / "lock").stat().st_mode & 0o777 == 0o660
    finally:
        os.umask(before)


def test_a_lock_that_cannot_be_read_keeps_nobody_from_starting(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> bool:
        raise PermissionError(errno.EACCES, "Permission denied")

    put(place, OLD)
    stage(place)
    with monkeypatch.context() as patch:
        patch.setattr(exchange, "is_held", refuse)
        settle()
        assert content(place) == OLD
        assert staged(str(place)) == [ID], "it may still be decided"
        decide("core")
        settle()
        assert content(place) == AFTER


def test_a_decision_that_fails_is_none(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Exchange() as held:
        with monkeypatch.context() as patch:
            patch.setattr(exchange, "sync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
            with pytest.raises(OSError, match="No space"):
                held.decide(["core"])
        assert not held.decided
        assert not [name for name in os.listdir(exchange_directory()) if name.startswith("deci")]
        held.decide(["core"])
        assert held.decided
        assert exchange.open_decisions() == {held.id: ["core"]}


def decided(place: Path, names: list[str]) -> None:
    staging.give_word(str(place), ID, names)
    decide("core")


def test_settings_that_are_restored_win_over_an_older_store(place: Path) -> None:
    now = {"devices": {"a": {"settings": {"label": "now"}}, "gone": {"settings": {}}, "new": {"settings": {"x": 1}}}}
    then = {"devices": {"a": {"settings": {"label": "then"}}, "new": {}, "dead": {"deleted": True, "pending": True}}}
    for _ in each_step(lambda: staging.settle("core", DeviceServer.KEEPS), lambda: renew_settings(place, now, then)):
        staging.settle("core", DeviceServer.KEEPS)
        assert json.loads((place / "devices.json").read_text())["devices"] == {
            "a": {"settings": {"label": "then"}, "pending": True},
            "new": {"pending": True, "deleted": True},
            "dead": {"pending": True, "deleted": True},
            "gone": {"pending": True, "deleted": True},
        }


def renew_settings(place: Path, now: dict[str, Any], then: dict[str, Any]) -> None:
    exchange.remove_tree(str(place.parent))
    put(place, {"devices.json": json.dumps({"format": 1, **now})})
    put(Path(staging.begin(str(place), ID)), {"devices.json": json.dumps({"format": 1, **then})})
    decided(place, ["devices.json"])


def memory(path: Path, rows: list[tuple[str, str, str | None, bool]]) -> None:
    database = Database(str(path), SCHEMAS, ("entry",))
    database.write(lambda connection: write_rows(connection, [rows]))
    database.close()


def test_a_memory_that_is_restored_wins_over_an_older_store(place: Path) -> None:
    place.mkdir(parents=True)
    memory(place / "core.db", [("cron", "a", "2", False), ("cron", "gone", "2", False), ("state.x", "y", "2", False)])
    memory(
        Path(staging.begin(str(place), ID)) / "core.db",
        [("cron", "a", "1", False), ("variable", "v", "1", False), ("state.x", "z", "1", False)],
    )
    decided(place, ["core.db"])
    staging.settle("core", Core.KEEPS)
    connection = sqlite3.connect(place / "core.db")
    try:
        assert sorted(read_all(connection), key=lambda row: row[:2]) == [
            ("cron", "a", "1", 1),
            ("cron", "gone", None, 1),
            ("state.x", "z", "1", 0),
            ("variable", "v", "1", 1),
        ]
    finally:
        connection.close()
    assert sorted(os.listdir(place)) == [f"before-restore-{ID}", "core.db", "core.db.lock"]


class Loop:
    """What a desk has of a server; its pool is full as long as it is told so."""

    service = "core"
    KEEPS = ()
    stopping = False

    def __init__(self) -> None:
        self.full = True
        self.jobs: list[Any] = []
        self.timers: list[Any] = []
        self.again = False
        self.reported: list[str] = []

    def report(self, error: BaseException, what: str) -> None:
        self.reported.append(f"{what}: {error}")

    def get_instance_id(self) -> str:
        return "x"

    def call_later(self, delay: float, function: Any, *args: Any) -> None:
        self.timers.append((function, args))

    def restart(self) -> None:
        self.again = True

    def in_pool(self, *args: Any, done: Any, timeout: float) -> None:
        if self.full:
            raise PoolFull("1000 jobs wait for a thread")
        self.jobs.append((args, done))

    def work(self) -> None:
        """Do what was given to the pool, then what is due."""
        for (function, *args), done in [self.jobs.pop() for _ in list(self.jobs)]:
            try:
                result = function(*args)
            except Exception as error:
                done(None, error)
            else:
                done(result, None)
        for function, args in [self.timers.pop() for _ in list(self.timers)]:
            function(*args)


def test_a_full_pool_ends_nothing_for_ever(place: Path) -> None:
    loop: Any = Loop()
    desk = Desk(loop)
    with pytest.raises(VerbError, match="wait for a thread"):
        desk.begin(ID, "save")
    assert desk.status()["state"] == "idle"
    refused: list[list[bytes]] = []
    desk.discard(ID).then(refused.append)
    assert refused[0][-1] == MDP.UNAVAILABLE
    with pytest.raises(VerbError, match="wait for a thread"):
        desk.commit(ID)
    loop.full = False
    assert desk.begin(ID, "save")["state"] == "busy"


def test_what_is_decided_is_seen_though_nobody_is_told(place: Path) -> None:
    """The word of whoever restores is lost, and that one hangs: it holds the exchange."""
    put(place, OLD)
    with Exchange() as held:
        stage(place, held.id)
        loop: Any = Loop()
        desk = Desk(loop)
        desk.start()
        loop.work()  # the pool is full at the first look
        loop.full = False
        for _ in range(4):
            loop.work()
            assert not loop.again
        held.decide(["core"])
        for _ in range(4):
            loop.work()
        assert loop.again
        settle()
        assert Desk(loop).status()["restored"] == [held.id]


@pytest.fixture
def loop(place: Path) -> Any:
    """A server's, whose pool has room."""
    made = Loop()
    made.full = False
    return made


def broken(*_: object) -> Any:
    raise OSError(errno.EIO, "Input/output error")


def answer(later: Later) -> tuple[Any, bytes]:
    """What was answered, and its status."""
    frames: list[list[bytes]] = []
    later.then(frames.append)
    ((body, status),) = frames
    return json.loads(body), status


def test_one_thing_at_a_time(place: Path, loop: Any) -> None:
    desk = Desk(loop)
    desk.begin(ID, "save")
    for doing in ("save", "stage"):
        with pytest.raises(VerbError, match="another backup or restore is under way here") as refused:
            desk.begin("f" * 16, doing)
        assert refused.value.status == MDP.CONFLICT
    assert desk.status()["id"] == ID


def test_a_save_that_fails_says_why_and_one_that_works_what_it_has(place: Path, loop: Any) -> None:
    desk = Desk(loop)
    desk.begin(ID, "save")
    loop.work()
    told = desk.status()
    assert (told["state"], told["members"]) == ("failed", [])
    assert "RASPY_EXCHANGE" in told["problem"], "nobody has made a place for it"
    os.makedirs(exchange.work(ID, "core"))
    desk.begin(ID, "save")
    loop.work()
    told = desk.status()
    assert (told["state"], told["problem"], told["members"]) == ("done", "", [])
    assert loop.timers == [], "nothing is to be looked after"


def test_what_is_discarded_while_it_is_made_is_not_kept(place: Path, loop: Any) -> None:
    desk = Desk(loop)
    put(Path(exchange.work(ID, "core")), {copying.LISTING: '[{"file": "0", "name": "x", "size": 0, "schema": 0}]'})
    desk.begin(ID, "stage")
    later = desk.discard(ID)
    # It waits for the job, which sees that it is not wanted.
    for _ in range(3):
        loop.work()
    assert answer(later) == ("discarded", MDP.OK)
    assert (desk.status()["state"], desk.status()["problem"]) == ("failed", "cancelled")
    assert staged(str(place)) == []


def test_what_is_decided_is_not_discarded(place: Path, loop: Any) -> None:
    stage(place)
    decide("core")
    desk = Desk(loop)
    later = desk.discard(ID)
    loop.work()
    assert answer(later) == ("this restore is decided, and cannot be discarded", MDP.CONFLICT)
    desk.begin("f" * 16, "stage")
    loop.work()
    assert desk.status()["problem"] == "another restore waits for this server's restart: restart it first"
    assert staged(str(place)) == [ID]


def test_a_disk_that_does_not_let_it_be_discarded_is_told(
    place: Path, loop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage(place)
    monkeypatch.setattr(staging, "drop", broken)
    later = Desk(loop).discard(ID)
    loop.work()
    text, status = answer(later)
    assert ("Input/output error" in text, status) == (True, MDP.ERROR)


def test_who_commits_what_is_not_decided_is_refused(place: Path, loop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(loop)

    def committed() -> tuple[Any, bytes]:
        later = desk.commit(ID)
        loop.work()
        return answer(later)

    assert committed() == ("no such restore is staged here", MDP.NOT_FOUND)
    stage(place)
    assert committed() == ("this restore is not decided", MDP.CONFLICT)
    with monkeypatch.context() as patch:
        patch.setenv("RASPY_EXCHANGE", "/" + "x" * 300)
        text, status = committed()
        assert ("File name too long" in text, status) == (True, MDP.ERROR)
    assert not loop.again
    decide("core")
    assert committed() == ("restarting", MDP.OK)
    assert loop.again
    loop.again = False
    assert committed() == ("restarting", MDP.OK)
    assert not loop.again, "it is leaving already"


def test_a_restore_is_looked_after_again_when_that_could_not_be_done(
    place: Path, loop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage(place)
    desk = Desk(loop)
    desk.start()
    desk.start()
    assert len(loop.timers) == 1, "once is enough"
    loop.stopping = True
    loop.work()
    assert (len(loop.timers), loop.jobs) == (1, []), "not while it ends"
    loop.stopping = False
    with Exchange():
        with monkeypatch.context() as patch:
            patch.setattr(staging, "verdict", broken)
            loop.work()  # the look is given to the pool
            loop.work()
        assert loop.reported == ["looking after a restore: [Errno 5] Input/output error"]
        for _ in range(3):
            loop.work()
            assert len(loop.jobs) == 1, "and again"
        assert staged(str(place)) == [ID]
    # Nobody restores any more, so nobody decides.
    for _ in range(3):
        loop.work()
    assert (staged(str(place)), loop.timers, loop.again) == ([], [], False)


@pytest.mark.parametrize("text", ["", "x" * 16, "0" * 15, "0" * 33, "../" + "0" * 16, "A" * 16])
def test_an_id_that_is_none_is_refused(loop: Any, text: str) -> None:
    loop.desk = Desk(loop)
    for verb in ("save", "stage", "discard", "commit"):
        with pytest.raises(VerbError, match="is no ID: 16 to 32 hexadecimal digits") as refused:
            BACKUP.find([f"backup_{verb}".encode()]).call(loop, [text.encode()])
        assert refused.value.status == MDP.BAD_REQUEST
    assert loop.jobs == []


def test_a_server_that_keeps_nothing_says_so(loop: Any) -> None:
    loop.desk, loop.name = None, "pi.core"
    with pytest.raises(VerbError, match=r"pi\.core keeps nothing") as refused:
        BACKUP.find([b"backup_status"]).call(loop, [])
    assert refused.value.status == MDP.NOT_FOUND


def test_the_file_of_a_backup_leaves_room_to_the_servers(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = Path(exchange_directory())
    directory.mkdir(parents=True)
    monkeypatch.setattr(copying, "RESERVE", 1 << 60)
    with open(directory / "x.backup", "wb") as file, pytest.raises(BackupError, match="no room for the file"):
        client._room(file)(0)
    with open(os.devnull, "wb") as file:
        client._room(file)(0)
