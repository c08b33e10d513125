"""The book of alarms and its record without a broker, on a loop that the test turns; with one, see test_alarm."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raspy.common.database import InUse
from raspy.common.verbs import VerbError
from raspy.servers.alarm import Alarm, AlarmConfig, record, store
from raspy.servers.alarm.alarms import ACTIVE, NORMAL, RETURNED, SHELVED
from raspy.servers.alarm.book import LOOKS, REMOVED, Book
from raspy.servers.alarm.causes import Verdict
from raspy.servers.alarm.message import Notice
from raspy.servers.alarm.rules import RuleError
from raspy.servers.alarm.shelves import shelf
from tests.bus import BASE
from tests.servers.alarm_stage import WATER, Watch

LIMIT_S = 30.0
WRONG, RIGHT = Verdict(True, 30.0, "°C", "too hot"), Verdict(False, 20.0, "°C")
HOT = {"kind": "high", "key": WATER, "limit": 28}


class Turned(Alarm):
    """An alarm server that the test turns, and what it tells."""

    def __init__(self, directory: Path) -> None:
        super().__init__("pi", "alarm", f"ipc://{directory}", BASE, str(directory), AlarmConfig(), False, clock=Watch())
        self.told: list[Notice] = []
        self.book.back = 0.0
        tell = self.voice.tell

        def spy(notice: Notice, done: Callable[[], None] | None = None) -> None:
            self.told.append(notice)
            tell(notice, done)

        self.voice.tell = spy  # type: ignore[method-assign]

    def until(self, happened: Callable[[], Any]) -> None:
        """Turn until something is so."""
        end = time.monotonic() + LIMIT_S
        while not happened():
            assert time.monotonic() < end, "did not happen"
            self.turn(0.01)

    def define(self, name: str, **settings: Any) -> None:
        """Set a definition, and wait until it is on the disk."""
        done: list[Exception | None] = []
        self.definitions.set(name, settings, done.append)
        self.until(lambda: done)
        assert done == [None]

    def judge_so(self, name: str, verdict: Verdict, key: str = WATER) -> None:
        """Something is known of a cause."""
        self.book.judged(self.watch.rules[name], key, verdict)

    def state(self, name: str, key: str = WATER) -> str:
        """The state of an alarm."""
        alarm = self.book.alarms.get((name, key))
        return NORMAL if alarm is None else alarm.state

    def at_rest(self) -> None:
        """Turn until everything is on the disk."""
        kept = self.book.record
        self.until(lambda: not (kept._dirty or kept._writing or kept._untold))

    def close(self) -> None:
        """End it; nothing unexpected may have happened."""
        self.stop()
        self.destroy()
        assert self.errors == 0, self.last_error


def begin(directory: Path) -> Turned:
    """Start one."""
    alarm = Turned(directory)
    alarm.start()
    return alarm


@pytest.fixture
def alarm(tmp_path: Path) -> Iterator[Turned]:
    made = begin(tmp_path)
    yield made
    made.close()


def kept(directory: Path) -> list[str]:
    """The definitions whose alarms are in the file."""
    connection = sqlite3.connect(directory / "alarms.db")
    try:
        return sorted(name for (name,) in connection.execute("SELECT rule FROM alarm"))
    finally:
        connection.close()


def with_hot(directory: Path) -> None:
    """A file with an alarm that is active."""
    alarm = begin(directory)
    alarm.define("hot", **HOT)
    alarm.judge_so("hot", WRONG)
    alarm.at_rest()
    alarm.close()


# The file


def test_a_file_that_cannot_be_read_now_is_read_as_soon_as_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "RETRY", 0.01)
    with_hot(tmp_path)
    (tmp_path / "alarms.db").rename(tmp_path / "away")
    (tmp_path / "alarms.db").mkdir()
    alarm = begin(tmp_path)
    assert "alarms.db" in alarm.conditions["alarms read"]
    assert alarm.book.alarms == {}
    # What is found out meanwhile counts more than what was kept of it.
    alarm.define("cold", kind="low", key=WATER, limit=20)
    alarm.judge_so("cold", WRONG)
    alarm.until(lambda: alarm.book.record._storage is not None and not alarm.book.record._storage._reading)
    assert "alarms read" in alarm.conditions
    (tmp_path / "alarms.db").rmdir()
    (tmp_path / "away").rename(tmp_path / "alarms.db")
    alarm.until(lambda: alarm.state("hot") == ACTIVE)
    assert "alarms read" not in alarm.conditions
    assert alarm.state("cold") == ACTIVE
    alarm.until(lambda: kept(tmp_path) == ["cold", "hot"])
    assert [notice.name for notice in alarm.told] == ["cold"]
    alarm.close()


def test_a_file_that_another_process_has_is_not_used(tmp_path: Path, alarm: Turned) -> None:
    other = record.Record(alarm, str(tmp_path / "alarms.db"))
    with pytest.raises(InUse, match="another process uses it"):
        other.load(lambda rows: None)
    assert other._storage is not None
    other._storage._watch.cancel()


def test_a_damaged_file_is_set_aside_and_said(tmp_path: Path) -> None:
    (tmp_path / "alarms.db").write_bytes(b"no database" * 1000)
    alarm = begin(tmp_path)
    assert "alarms.db" in alarm.conditions["alarms damaged"]
    alarm.define("hot", **HOT)
    alarm.judge_so("hot", WRONG)
    alarm.until(lambda: kept(tmp_path) == ["hot"])
    alarm.close()


def test_a_file_that_is_deleted_is_written_again(tmp_path: Path, alarm: Turned) -> None:
    for name in ("hot", "warm"):
        alarm.define(name, **HOT)
        alarm.judge_so(name, WRONG)
    alarm.at_rest()
    for path in tmp_path.glob("alarms.db*"):
        if path.suffix != ".lock":
            path.unlink()
    alarm.define("cold", kind="low", key=WATER, limit=20)

    def written() -> bool:
        # A write that finds its file gone is done again in the new one.
        alarm.book.record.keep(("cold", WATER), alarm.book.alarms["cold", WATER])
        alarm.at_rest()
        return (tmp_path / "alarms.db").exists() and kept(tmp_path) == ["cold", "hot", "warm"]

    alarm.judge_so("cold", WRONG)
    alarm.until(written)


def test_without_a_file_everything_is_told_at_once_and_nothing_kept(tmp_path: Path, alarm: Turned) -> None:
    alarm.define("hot", **HOT)
    book = alarm.book
    book.close()
    alarm.book = Book(alarm, None)
    alarm.book.load(alarm.watch.rules)
    alarm.judge_so("hot", WRONG)
    assert [(notice.name, notice.state) for notice in alarm.told] == [("hot", ACTIVE)]
    done: list[Any] = []
    alarm.book.record.wait(done, {("hot", WATER)}, lambda: done.append("kept"))
    assert done == ["kept"]
    alarm.book.record.read(lambda connection: 1 / 0, lambda *found: done.append(found))
    alarm.until(lambda: len(done) == 2)
    assert done[1] == ([], None)
    alarm.book.record._flush()
    # Who does not know of it is told nothing more once nothing is to be told.
    alarm.book.record.tell(("hot", WATER), alarm.book.alarms["hot", WATER])
    assert len(alarm.told) == 1


def test_changes_that_wait_for_the_disk_are_bounded_and_counted(alarm: Turned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "MOST_CHANGES", 2)
    alarm.define("hot", **HOT)
    alarm.at_rest()
    for _ in range(3):
        alarm.judge_so("hot", WRONG)
        alarm.judge_so("hot", RIGHT)
        alarm.judge_so("hot", RIGHT)
    assert alarm.state("hot") == RETURNED
    alarm.at_rest()
    rows: list[Any] = []
    alarm.book.record.read(
        lambda connection: store.history(connection, "", 0, 1e11, 10), lambda *found: rows.append(found)
    )
    alarm.until(lambda: rows)
    assert [json.loads(bytes(row))["state"] for row in rows[0][0]] == [RETURNED, ACTIVE]
    assert alarm.book.record.lost == 4


def test_a_change_that_cannot_be_written_is_counted_and_told_all_the_same(
    alarm: Turned, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise ArithmeticError("as in a test")

    alarm.define("hot", **HOT)
    monkeypatch.setattr(store, "write", broken)
    alarm.judge_so("hot", WRONG)
    alarm.until(lambda: alarm.told)
    assert alarm.book.record.lost == 1
    monkeypatch.undo()
    alarm.at_rest()
    alarm.errors = 0


# Definitions


def test_a_definition_that_is_kept_and_cannot_be_used_is_said_and_can_be_deleted(tmp_path: Path) -> None:
    first = begin(tmp_path)
    first.define("hot", **HOT)
    first.define("cold", kind="low", key=WATER, limit=20)
    first.close()
    text = (tmp_path / "alarms.json").read_text()
    assert '"high"' in text
    (tmp_path / "alarms.json").write_text(text.replace('"high"', '"higher"'))
    alarm = begin(tmp_path)
    assert list(alarm.definitions.broken) == ["hot"]
    assert "higher" in alarm.conditions["definitions"]
    assert "cold" in alarm.watch.rules
    assert "hot" not in alarm.watch.rules
    done: list[Any] = []
    alarm.definitions.delete("hot", done.append)
    alarm.until(lambda: done == [None])
    assert "definitions" not in alarm.conditions
    with pytest.raises(VerbError, match="no definition 'hot'"):
        alarm.definitions.delete("hot", done.append)
    alarm.close()


def test_what_the_store_has_is_taken_over_when_it_can_be_used(alarm: Turned, monkeypatch: pytest.MonkeyPatch) -> None:
    take = alarm.definitions.keeper.on_settings
    taken = take("hot", HOT)
    assert taken is not None
    assert (taken["key"], taken["limit"]) == (WATER, 28)
    assert alarm.watch.rules["hot"].settings.limit == 28
    alarm.judge_so("hot", WRONG)
    monkeypatch.setattr("raspy.servers.alarm.definitions.MOST", 1)
    for name, given, problem in (
        ("hot", {"kind": "high"}, "give it"),
        ("disk", {"kind": "bus"}, "it comes with RasPy, and stays of kind disk"),
        ("cold", {"kind": "low", "key": WATER, "limit": 1}, "cold: there are 1 alarms defined already"),
    ):
        if name == "disk":
            monkeypatch.setattr("raspy.servers.alarm.definitions.MOST", 2)
        else:
            monkeypatch.setattr("raspy.servers.alarm.definitions.MOST", 1)
        with pytest.raises(RuleError, match=problem):
            take(name, given)
    assert alarm.state("hot") == ACTIVE
    take("hot", {**HOT, "limit": 30})
    assert alarm.watch.rules["hot"].settings.limit == 30
    # The alarm is that of the definition as it is now.
    assert alarm.book.alarms["hot", WATER].rule is alarm.watch.rules["hot"]


# Alarms


def test_alarms_for_which_there_is_no_room_after_a_start_are_said(tmp_path: Path) -> None:
    first = begin(tmp_path)
    for name in ("one", "two"):
        first.define(name, **HOT)
        first.judge_so(name, WRONG)
    first.at_rest()
    first.close()
    alarm = Turned(tmp_path)
    alarm.book.most = 1
    alarm.start()
    assert len(alarm.book.alarms) == 1
    assert "there are 1 alarms: more are not told of" in alarm.conditions["too many"]
    rule, key = next((alarm.watch.rules[name], key) for name, key in alarm.book.alarms)
    assert alarm.book.add(rule, key) is alarm.book.find(rule, key)
    alarm.close()


def test_another_event_of_what_is_wrong_already_is_the_one_that_is_known(alarm: Turned) -> None:
    alarm.define("fell", kind="output", key="fake.heater")
    key = "/event/output/pi.fake.heater"
    alarm.judge_so("fell", Verdict(True, None, "", "a", 1.0), key)
    alarm.judge_so("fell", Verdict(True, None, "", "b", 2.0), key)
    found = alarm.book.alarms["fell", key]
    assert (found.state, found.kept.mark, found.kept.reason) == (ACTIVE, 2.0, "a")
    assert found.acknowledge("anna", True)
    alarm.book.changed(found, ACTIVE, telling="acknowledged")
    for mark, state in ((2.0, NORMAL), (3.0, ACTIVE)):
        alarm.judge_so("fell", Verdict(True, None, "", "c", mark), key)
        assert alarm.state("fell", key) == state


def test_good_readings_that_have_lasted_begin_a_delay_anew(alarm: Turned) -> None:
    alarm.define("error", kind="error", delay=100)
    alarm.judge_so("error", WRONG)
    found = alarm.book.alarms["error", WATER]
    alarm.book.back = 50.0
    for _ in range(3):
        alarm.judge_so("error", RIGHT)
    began = found.pending
    assert began is not None
    alarm.judge_so("error", WRONG)
    assert found.pending == began
    for _ in range(3):
        alarm.judge_so("error", RIGHT)
    assert found.good_since is not None
    found.good_since -= 51
    alarm.judge_so("error", WRONG)
    assert found.pending is not None
    assert found.pending > began


def test_while_nothing_is_known_nothing_goes_on_to_last(alarm: Turned) -> None:
    alarm.define("hot", **HOT, delay=100)
    alarm.judge_so("hot", WRONG)
    alarm.define("full", kind="disk", limit=90, delay=100)
    alarm.judge_so("full", WRONG, "/")
    assert len(alarm.book._pending) == 2
    alarm.book.rest()
    assert list(alarm.book._pending) == [("full", "/")]
    assert ("hot", WATER) not in alarm.book.alarms


def test_what_was_shelved_follows_a_clock_that_is_set(alarm: Turned) -> None:
    alarm.define("hot", **HOT)
    alarm.judge_so("hot", WRONG)
    found = alarm.book.alarms["hot", WATER]
    found.shelve(shelf(alarm.clock, 3600.0), "anna")
    alarm.book.shelved["hot", WATER] = found
    alarm.book.changed(found, ACTIVE)
    alarm.at_rest()
    assert found.kept.shelf is not None
    before = found.kept.shelf.until
    alarm.clock.off = 86_400.0  # type: ignore[attr-defined]
    alarm.book.tick()
    assert found.kept.shelf.until == before
    alarm.book._looked -= LOOKS
    alarm.book.tick()
    assert abs(found.kept.shelf.until - before - 86_400) < 30
    assert ("hot", WATER) in alarm.book.record._dirty
    assert found.state == SHELVED


def test_what_is_removed_is_over_and_forgotten(alarm: Turned) -> None:
    alarm.define("hot", **HOT)
    alarm.define("fell", kind="output", key="fake.heater")
    alarm.judge_so("hot", WRONG)
    alarm.until(lambda: alarm.told)
    alarm.book.gone(WATER, removed=False)
    assert alarm.state("hot") == ACTIVE
    alarm.book.gone(WATER, removed=True)
    assert alarm.state("hot") == NORMAL
    key = "/event/output/pi.fake.heater"
    alarm.judge_so("fell", Verdict(True, None, "", "a", 1.0), key)
    found = alarm.book.alarms["fell", key]
    found.acknowledge("anna", True)
    alarm.book.changed(found, ACTIVE, telling="acknowledged")
    assert found.kept.mark == 1.0
    alarm.until(lambda: not found.kept.to_tell)
    # Nobody has to remember of which event somebody knew.
    alarm.book.gone(key, removed=True)
    assert ("fell", key) not in alarm.book.alarms
    alarm.until(lambda: len(alarm.told) > 1)
    told = [(notice.name, notice.state, notice.reason) for notice in alarm.told]
    assert told[:2] == [("hot", ACTIVE, "too hot"), ("hot", RETURNED, REMOVED)]


def test_room_is_made_by_events_that_nobody_will_repeat(alarm: Turned) -> None:
    keys = [f"/event/output/pi.fake.heater{number}" for number in range(4)]
    alarm.define("fell", kind="output", key="fake.*")
    alarm.book.most = 1
    for key in keys:
        alarm.judge_so("fell", Verdict(True, None, "", "a", 1.0), key)
    # Of three that were refused one is remembered, so that all are looked at again.
    assert (len(alarm.book._refused), alarm.book._more) == (1, True)
    found = alarm.book.alarms["fell", keys[0]]
    found.acknowledge("anna", True)
    alarm.book.changed(found, ACTIVE, telling="acknowledged")
    alarm.until(lambda: not found.kept.to_tell)
    tree = dict.fromkeys(keys[:3], b"{}")
    follows = SimpleNamespace(state="live", tree=tree, replica=SimpleNamespace(epoch=1), close=lambda: None)
    subscriber, alarm.watch.subscriber = alarm.watch.subscriber, follows  # type: ignore[assignment]
    alarm.watch._live_since, alarm.watch.grace = time.monotonic(), 0.0
    try:
        # It is on the tree, and would be told of again.
        alarm.book._look_for_room()
        assert alarm.book.alarms == {("fell", keys[0]): found}
        assert "too many" in alarm.conditions
        del tree[keys[0]]
        alarm.book._look_for_room()
        assert alarm.book.alarms == {}
        assert list(alarm.watch._queue) == keys[1:3]
        # What is nowhere any more is refused no longer.
        alarm.watch._queue.clear()
        alarm.judge_so("fell", Verdict(True, None, "", "a", 1.0), keys[1])
        alarm.judge_so("fell", Verdict(True, None, "", "a", 1.0), keys[3])
        assert list(alarm.book._refused) == [("fell", keys[3])]
        alarm.book._look_for_room()
        alarm.book._look_for_room()
        assert "too many" not in alarm.conditions
    finally:
        alarm.watch.subscriber = subscriber


def test_who_has_no_channel_tells_nobody_and_says_that_it_is_done(alarm: Turned) -> None:
    done: list[str] = []
    notice = Notice(name="hot", state=ACTIVE)
    alarm.voice.tell(notice)
    alarm.voice.tell(notice, lambda: done.append("told"))
    assert done == []
    alarm.until(lambda: done)
    assert (alarm.voice.channels(), alarm.voice.ok()[0], done) == ([], False, ["told"])
    with pytest.raises(KeyError, match="mail"):
        alarm.voice.test("mail", done.append)
