"""A node and its outbox in processes that are killed: what was written is logged once, at its time."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from raspy.common import MDP
from tests.integration.stage_outbox import KEY
from tests.integration.test_power_cut import Disks, disks, state, synced
from tests.support_processes import wait_for
from tests.support_titanic import Notified, Process, Site, ask, site

__all__ = ["disks"]

pytestmark = [pytest.mark.slow]

LOOK = 0.2
ROUNDS = 3
CUTS = 10
Line = tuple[int, float, int, int]


class House:
    """Broker, logger and node.

    :param spill: seconds before the node's disk is used
    """

    def __init__(self, here: Site, spill: float = 0.0) -> None:
        self.here = here
        self.spill = spill
        self.state = os.path.join(here.directory, "shed")
        self.record = Path(here.directory, "record")
        self.config = os.path.join(here.directory, "shed.toml")
        Path(self.config).write_text(f'[bus]\nhostname = "shed"\nbroker_ip = "{here.ip}"\n')

    def start(self) -> None:
        self.here.broker()
        self.here.server("logger", STATE_DIRECTORY=self.here.state)
        wait_for("a logger", lambda: ask(self.here.address, b"pi.logger.log", b"keys")[-1] == MDP.OK)
        self.start_node()

    def start_node(self) -> None:
        first = str(self.lines[-1][0] + 1) if self.record.exists() else "0"
        script = str(Path(__file__).with_name("stage_outbox.py"))
        command = [sys.executable, script, first, str(self.record), str(LOOK), str(self.spill)]
        self.here._start(
            Process("node", command, self.here.directory, STATE_DIRECTORY=self.state, RASPY_CONFIG=self.config)
        )
        count = int(first) + 10
        wait_for("a node that reads", lambda: self.record.exists() and len(self.lines) >= count)

    @property
    def lines(self) -> list[Line]:
        """What the node has published so far: number, time, how many waited then, how many of them on its disk."""
        # The last line may be half there.
        text = self.record.read_text().rpartition("\n")[0].splitlines()
        return [(int(n), float(when), int(waits), int(stored)) for n, when, waits, stored in map(str.split, text)]

    def process(self, name: str) -> Process:
        return self.here.processes[name]

    def kept(self, count: int) -> None:
        """Until so many more than now wait on the disk of the node."""
        wait_for(f"{count} on the disk", lambda: self.lines[-1][3] >= count)

    def delivered(self) -> None:
        """Until nothing waits any more that was there at the call."""
        published = len(self.lines)
        wait_for("all delivered", lambda: any(not waits for _, _, waits, _ in self.lines[published + 5 :]))

    def history(self) -> list[tuple[float, int]]:
        """Time and number of all that is logged."""
        found = []
        place, skip = "0", "0"
        while place:
            words = ("rows", KEY, place, "1e11", "10000", skip)
            answer = ask(self.here.address, b"pi.logger.log", *(word.encode() for word in words))
            assert answer[-1] == MDP.OK, answer
            page = json.loads(answer[0])
            found += [(when, round(value)) for when, value, quality in page["rows"] if quality == "ok"]
            place, skip = repr(page["next"]) if page["next"] is not None else "", str(page["skip"])
        return found

    def complete(self, lost: set[int]) -> bool:
        """Whether all but what may be lost is logged, each once and at its time."""
        found = self.history()
        wanted = {number: when for number, when, *_ in self.lines}
        numbers = [number for _, number in found]
        assert len(numbers) == len(set(numbers)), sorted(n for n in numbers if numbers.count(n) > 1)
        last = max(numbers)
        assert all(abs(when - wanted[number]) < 0.002 for when, number in found)
        return {number for number in wanted if number <= last} - set(numbers) <= lost


@pytest.fixture
def house() -> Iterator[House]:
    with site() as here:
        yield House(here)


def test_a_node_that_is_killed_again_and_again_loses_what_was_not_written_yet(house: House) -> None:
    house.start()
    lost: set[int] = set()
    for _ in range(ROUNDS):
        house.process("broker").kill()
        house.kept(50)
        house.process("node").kill()
        number, _, waits, stored = house.lines[-1]
        assert waits - stored < 50
        lost |= set(range(number - (waits - stored), number + 2))
        house.start_node()
        house.kept(stored)
        house.here.broker()
        house.delivered()
    assert house.complete(lost)


def test_a_broker_that_hangs_and_is_killed_takes_nothing_along(house: House) -> None:
    house.spill = 60.0
    house.start()
    for _ in range(ROUNDS):
        published = len(house.lines)
        os.kill(house.process("broker").pid, signal.SIGSTOP)
        wait_for("readings that nobody takes", lambda count=published: len(house.lines) >= count + 50)
        house.process("broker").kill()
        house.here.broker()
        house.delivered()
    assert house.complete(set())
    assert not os.path.exists(house.state)


def test_a_logger_that_restarts_while_all_is_brought_has_all(house: House) -> None:
    house.start()
    house.process("broker").kill()
    house.kept(100)
    house.process("logger").stop()
    house.here.broker()
    published = len(house.lines)
    wait_for("more readings", lambda: len(house.lines) >= published + 50)
    house.here.server("logger", STATE_DIRECTORY=house.here.state)
    house.delivered()
    assert house.complete(set())


def test_a_server_as_it_is_installed_keeps_its_readings_over_a_restart(house: House) -> None:
    here = house.here
    key = "/device/pi.fake.tank/temperature"

    def logged() -> list[float]:
        answer = ask(here.address, b"pi.logger.log", b"rows", key.encode(), b"0", b"1e11")
        return [when for when, _, quality in json.loads(answer[0])["rows"]] if answer[-1] == MDP.OK else []

    def kept() -> list[float]:
        """Start and stop it; the times of what it has left then."""
        fake.start()
        notified.ready()
        assert fake.stop() == 0
        found = json.loads(Path(house.state, "outbox.json").read_bytes())["readings"]
        return [reading["time"] for reading in found if reading["key"] == key]

    notified = Notified(here.directory)
    try:
        command = [sys.executable, "-m", "raspy.common.runner", "fake", "--config", here.config]
        more = {"STATE_DIRECTORY": house.state, "RASPY_FAKE_POLL": "0.1", "NOTIFY_SOCKET": notified.path}
        fake = here.processes["fake"] = Process("fake", command, here.directory, **more)
        found = wait_for("readings before the stop", kept)
        here.broker()
        here.server("logger", STATE_DIRECTORY=here.state)
        fake.start()
        notified.ready()
        wait_for("what was kept", lambda: set(found) <= set(logged()))
        assert fake.stop() == 0
    finally:
        notified.close()


@pytest.mark.soak
@pytest.mark.system
@pytest.mark.timeout(600)
def test_a_power_cut_costs_what_was_not_written_yet(house: House, disks: Disks) -> None:
    house.state = state(disks.upper)
    os.makedirs(house.state)
    synced(disks.upper)
    house.start_node()
    try:
        for number in range(CUTS):
            house.kept(1 + 20 * number)
            *_, stored = house.lines[-1]
            cached = bool(number % 2)
            copy = disks.cut(cached)
            with disks.after(copy, cached) as upper:
                found = left(os.path.join(state(upper), "outbox.db"))
            assert found[:stored] == list(range(stored))
            assert found == list(range(len(found)))
    finally:
        house.process("node").kill()


def left(path: str) -> list[float]:
    """What is in a file that is sound."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [value for (value,) in connection.execute("SELECT value FROM reading ORDER BY id")]
