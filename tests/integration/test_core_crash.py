"""Core is killed at random moments: the same scenarios run, nothing fires twice, what was missed follows its rule."""

from __future__ import annotations

import json
import os
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from raspy.common import MDP
from raspy.common.kvcliapi import KvSubscriber
from raspy.common.server import Server
from raspy.common.verbs import Verbs
from tests.bus import OnThread
from tests.support_processes import wait_for
from tests.support_titanic import Process, Record, Site, ask, site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STAGE = Path(__file__).with_name("stage_core.py")
KILLS = int(os.environ.get("RASPY_TEST_KILLS", "8"))
PAUSE = (0.05, 2.5)
"""Seconds from a start to a kill, beyond what the start takes."""
DOWN = (0.0, 1.5)
"""Seconds until it is started again."""
MINUTE = 60
DEVICES = Verbs("devices", slots=4)

COUNTER = """
number = get("number", 0)
while not stopping():
    number += 1
    set("{name}", number)
    command("rec.log", "note", f"{name} {{number}}")
    sleep(0.1)
"""
"""Once set() has returned the number is on the disk: it never comes again."""
SCENE = """
command("rec.log", "note", f"scene {cause['job']} {cause['due']:.0f}")
"""


@DEVICES.verb(name="exec")
def execute(server: Recorder, device: str, command: str, value: str = "", seconds: str = "", by: str = "") -> str:
    """Note what it is told."""
    if command == "note":
        server.notes.append(value.strip('"'))
    return ""


class Recorder(Server):
    """Plays a device, and follows the events of cron jobs."""

    def __init__(self, ip: str) -> None:
        super().__init__("pi", "rec", ip)
        self.notes: list[str] = []
        self.events: list[tuple[str, dict[str, Any]]] = []

    def start(self) -> None:
        super().start()
        self._subscriber = KvSubscriber(self, "/event/cron", self._on_change)

    def stop(self) -> None:
        self._subscriber.close()
        super().stop()

    def worker_devices(self) -> Verbs:
        return DEVICES

    def _on_change(self, key: str, body: bytes) -> None:
        if body:
            self.events.append((key.rpartition("/")[2], json.loads(body)))


class Stage:
    """Broker, Titanic, a device, and a core to be killed."""

    def __init__(self, here: Site, recorder: OnThread[Recorder]) -> None:
        self.here = here
        self.recorder = recorder
        self.ahead = 0.0
        self.boot = 0
        self.directory = os.path.join(here.directory, "core")
        self.core: Process | None = None

    def start(self) -> Process:
        """Start a core; its services are there soon."""
        command = [sys.executable, str(STAGE), self.here.ip, self.directory, f"{self.ahead}", f"boot{self.boot}"]
        self.core = self.here.processes["core"] = Process("core", command, self.here.directory).start()
        return self.core

    def rest(self, seconds: float) -> None:
        """The machine was off for so long; to be called while core is."""
        self.ahead += seconds
        self.boot += 1

    def now(self) -> float:
        """What core's clock says."""
        return time.time() + self.ahead

    def ask(self, service: str, *words: str) -> Any:
        """What a verb answers, asked again while the broker knows the one that was killed, or none."""
        found: list[Any] = []

        def answered() -> bool:
            found[:] = ask(self.here.address, f"pi.core.{service}".encode(), *(word.encode() for word in words))
            return found[-1] not in (MDP.UNAVAILABLE, MDP.NOT_FOUND) or b"no " in found[0]

        wait_for(f"an answer to {words}", answered)
        assert found[-1] == MDP.OK, (words, found)
        return json.loads(found[0])

    def job(self, name: str, when: str, **settings: Any) -> None:
        """Make a cron job."""
        self.ask("cron", "set", name, json.dumps({"when": when, **settings}))

    def scenario(self, name: str, code: str, **conf: Any) -> None:
        """Make a scenario."""
        entries = {"number": f"/variable/{name}"} if "get(" in code else {}
        self.ask("scenario", "set", name, json.dumps({"code": code, "conf": conf, "entries": entries}))

    def states(self) -> dict[str, str]:
        """The states of the scenarios."""
        return {each["name"]: each["state"] for each in self.ask("scenarios", "list")}

    def events(self, name: str) -> list[dict[str, Any]]:
        """The firings of a job that were published."""
        known = self.recorder.call(lambda: list(self.recorder.executive.events))
        return [event for job, event in known if job == name and event.get("state") == "fired"]

    def notes(self) -> list[str]:
        """What the device was told."""
        return self.recorder.call(lambda: list(self.recorder.executive.notes))


@contextmanager
def stage() -> Generator[Stage, None, None]:
    with site() as here:
        here.broker()
        here.titanic()
        recorder = OnThread(Recorder(here.ip)).wait()
        try:
            made = Stage(here, recorder)
            made.start()
            yield made
        finally:
            recorder.stop()


def at(moment: float) -> str:
    """The expression of one time."""
    return f"at {datetime.fromtimestamp(moment, UTC):%Y-%m-%dT%H:%M:%S+00:00}"


def command(text: str) -> dict[str, Any]:
    return {"device": "rec.log", "command": "note", "value": text}


def test_kill_9_at_any_moment(record_property: Record) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    print(f"seed {seed}")
    chance = random.Random(seed)
    with stage() as here:
        loops = [f"loop{number}" for number in range(3)]
        for name in loops:
            here.scenario(name, COUNTER.format(name=name), active=True, startup=True)
        here.scenario("off", COUNTER.format(name="off"), startup=True)
        here.scenario("done", "log('done')", active=True, startup=True)
        here.scenario("scene", SCENE, active=True)
        here.job("beat", "every 1s")
        first = int(here.now()) + 3
        shots = {f"shot{number:02}": first + number for number in range(int(KILLS * 3))}
        for number, (name, moment) in enumerate(shots.items()):
            rule = ("once", "all")[number % 2]
            what = {"command": command(name)} if number % 3 else {"scenario": "scene"}
            here.job(name, at(moment), misfire=rule, **what)
        running = dict.fromkeys(loops, "running")

        def as_it_should_be() -> bool:
            found = here.states()
            return {n: s for n, s in found.items() if s == "running"} == running and found["off"] == "off"

        wait_for("the scenarios", as_it_should_be)
        kills = 0
        while kills < KILLS:
            time.sleep(chance.uniform(*PAUSE))
            assert here.core is not None
            assert here.core.process is not None
            assert here.core.process.poll() is None, "it has ended by itself"
            here.core.kill()
            kills += 1
            time.sleep(chance.uniform(*DOWN))
            here.start()
            if kills % 3 == 0:
                wait_for("the same scenarios", as_it_should_be)
        wait_for("the same scenarios", as_it_should_be)
        wait_for("the last shot", lambda: here.now() > max(shots.values()) + 2, 120)

        def told() -> Counter[str]:
            found: Counter[str] = Counter()
            for note in here.notes():
                if note.startswith("shot"):
                    found[note] += 1
                elif note.startswith("scene"):
                    found[note.split()[1]] += 1
            return found

        log = here.core.log

        def settled() -> bool:
            # The run that a job had begun may have been killed in the middle.
            return all(
                told()[name] or f"job {name}: a firing was cut short" in log or (number % 3 == 0 and here.events(name))
                for number, name in enumerate(shots)
            )

        def numbers(name: str) -> list[int]:
            return [int(note.split()[1]) for note in here.notes() if note.startswith(f"{name} ")]

        wait_for("all shots to be fired, or told of", settled)
        # On a busy machine it hardly ran between the kills.
        wait_for("the beats", lambda: len(here.events("beat")) >= KILLS)
        wait_for("the loops", lambda: all(len(numbers(name)) > KILLS for name in loops))
        shot = told()
        assert {name: count for name, count in shot.items() if count > 1} == {}, "fired twice"
        lost = [name for name in shots if not shot[name]]
        # A kill in the very moment between the note on the disk and the deed loses that one, and says so.
        assert len(lost) <= KILLS
        assert "is not run" not in log
        beats = [event["due"] for event in here.events("beat")]
        assert len(beats) == len(set(beats)), "one instant fired twice"
        for name in loops:
            found = numbers(name)
            assert found == sorted(set(found)), f"{name} did something again"
        assert not [note for note in here.notes() if note.startswith("off ")]
        assert "Traceback" not in log
        assert not [name for name in os.listdir(here.directory) if "damaged" in name]
        record_property(
            "counted", f"{kills} kills; {len(shots)} one-shots, {len(lost)} lost and told; {len(beats)} beats"
        )


def cut(log: str, job: str) -> int:
    """How many firings of a job a log says were cut short."""
    found = re.findall(rf"job {job}: (a|\d+) firings? w(?:as|ere) cut short", log)
    return sum(1 if number == "a" else int(number) for number in found)


def test_a_job_misses_what_passes_once_it_is_told_to_be_there() -> None:
    """The power fails right after the answer, and comes back a while later."""
    with stage() as here:
        here.job("minutes", "* * * * *", command=command("minutes"))
        here.job("single", at(here.now() + 5 * MINUTE), command=command("single"))
        here.scenario("timed", SCENE, active=True, schedule=["* * * * *"])
        assert here.core is not None
        here.core.kill()
        here.rest(10 * MINUTE)
        here.start()

        def told() -> set[str]:
            return {note.split()[0] for note in here.notes()}

        wait_for("what was missed", lambda: told() == {"minutes", "single", "scene"})
        assert {job["name"]: job["missed"] for job in here.ask("cron", "list")} in (
            {"minutes": 10, "single": 1},
            # The tenth is just now.
            {"minutes": 9, "single": 1},
        )


def test_what_was_missed_follows_its_rule_though_core_is_killed_meanwhile(record_property: Record) -> None:
    """The machine is off for minutes again and again, and core is killed while it makes up for them."""
    seed = int.from_bytes(os.urandom(4), "big")
    print(f"seed {seed}")
    chance = random.Random(seed)
    rules = ("once", "skip", "all")
    with stage() as here:
        wait_for("a time that is not near the next minute", lambda: here.now() % MINUTE < 45, MINUTE)
        begun = here.now() // MINUTE
        for rule in rules:
            here.job(rule, "* * * * *", misfire=rule, grace=5, command=command(rule))
        rests = kills = 0
        while kills < KILLS:
            time.sleep(chance.uniform(*PAUSE))
            assert here.core is not None
            here.core.kill()
            kills += 1
            if kills % 3 == 1:
                rests += 1
                here.rest(chance.uniform(2, 12) * MINUTE)
            here.start()

        def jobs() -> dict[str, dict[str, Any]]:
            return {job["name"]: job for job in here.ask("cron", "list")}

        expected = 0

        def settled() -> bool:
            nonlocal expected
            expected = int(here.now() // MINUTE - begun)
            found = jobs()
            return (
                5 < here.now() % MINUTE < 50
                and found["all"]["runs"] == expected
                and found["skip"]["runs"] + found["skip"]["missed"] == expected
            )

        wait_for("all that was missed", settled, 2 * MINUTE)
        assert here.core is not None
        cut_short = {rule: cut(here.core.log, rule) for rule in rules}
        found = jobs()

        def done() -> Counter[str]:
            return Counter(here.notes())

        wait_for(
            "the device was told", lambda: all(done()[rule] >= found[rule]["runs"] - cut_short[rule] for rule in rules)
        )
        counts = done()
        for rule in rules:
            dues = [event["due"] for event in here.events(rule)]
            assert len(dues) == len(set(dues)), f"{rule}: one instant fired twice"
            assert counts[rule] <= found[rule]["runs"], f"{rule}: something was done twice"
            assert counts[rule] >= found[rule]["runs"] - cut_short[rule], f"{rule}: something was neither done nor told"
        # One of each time off, and those of the minutes that were lived through.
        assert expected <= found["once"]["runs"] + found["once"]["missed"] <= expected + rests
        assert found["once"]["runs"] <= rests + (expected - found["skip"]["missed"])
        assert not [event for event in here.events("skip") if event["cause"] == "misfire"]
        assert found["skip"]["missed"] >= rests
        assert "Traceback" not in here.core.log
        record_property(
            "counted",
            f"{kills} kills, {rests} times off, {expected} minutes: "
            + ", ".join(f"{rule} ran {found[rule]['runs']}, missed {found[rule]['missed']}" for rule in rules),
        )
