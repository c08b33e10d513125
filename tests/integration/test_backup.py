"""A backup while everything writes, and what is made of it: all of it or nothing, whatever fails meanwhile."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from raspy.common import MDP
from raspy.common.backup.format import MAGIC, NUMBER, Reader
from raspy.common.mdcliapi import MajorDomoClient
from raspy.web.auth import Auth, WrongPassword
from tests.common.test_backup_format import manifest_of, sealed, written
from tests.support_processes import Appliance, environment, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

KEEPERS = ["titanic", "fake", "logger", "core", "alarm", "web"]
SERVERS = ["broker", *KEEPERS]
MORE = (
    "[web]\nport = 0\n[fake]\npoll = 0.1\n[logger]\nbatch = 10\n"
    '[core]\ntimezone = "Europe/Paris"\nlatitude = 48.9\nlongitude = 2.3\n'
)
PASSWORD = "the fish sleep at night"
KILLS = 8


class House:
    """An appliance with something of everything."""

    def __init__(self) -> None:
        self.appliance = Appliance(SERVERS, MORE)
        self.state = self.appliance.directory / "raspy"
        self.file = self.appliance.directory / "house.backup"

    def start(self) -> None:
        before = self.appliance.log.count(" web: started in") if self.appliance.log_path.exists() else 0
        self.appliance.start()
        self.appliance.wait_ready("web", before + 1)
        self.wait_well()

    def wait_well(self) -> None:
        wait_for(f"all servers\n{self.appliance.log[-4000:]}", lambda: self.run("status").returncode == 0, 90)

    def run(self, *words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "raspy", *words, "--config", str(self.appliance.config)],
            input=text,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=150,
        )

    def environment(self) -> dict[str, str]:
        return environment(XDG_STATE_HOME=str(self.appliance.directory))

    def good(self, *words: str, text: str | None = None) -> str:
        done = self.run(*words, text=text)
        assert done.returncode == 0, (words, done, self.appliance.log[-4000:])
        return done.stdout

    def refused(self, *words: str) -> str:
        done = self.run(*words)
        assert done.returncode == 1, (words, done)
        assert len(done.stderr.splitlines()) == 1, done.stderr
        return done.stderr

    def mark(self, text: str) -> None:
        """Have each server keep a text of its own."""
        self.good("store", "set", "lamp", "colours", "day", json.dumps(text))
        self.good("device", "edit", "heater", f"label={text}")
        self.good("variable", "set", "mark", text)
        self.good("cron", "edit", "feeding", f"label={text}")
        self.good("alarm", "edit", "cold", f"label={text}")
        (self.state / "alarm" / "secrets" / "mail").write_text(text)

    def marks(self) -> dict[str, str]:
        return {
            "store": json.loads(self.good("store", "get", "lamp", "colours", "day")),
            "device": self.json("device", "show", "heater")["result"]["label"],
            "variable": self.good("variable", "get", "mark").strip().strip('"'),
            "cron": self.json("cron", "show", "feeding")["result"]["settings"]["label"],
            "alarm": self.json("alarm", "show", "cold")["result"]["settings"]["label"],
            "secret": (self.state / "alarm" / "secrets" / "mail").read_text(),
        }

    def json(self, *words: str) -> Any:
        return json.loads(self.good(*words, "--json"))

    def is_settled(self) -> bool:
        """Nothing of a restore is under way any more."""
        below = [name for server in KEEPERS for name in os.listdir(self.state / server)]
        exchange = os.listdir(self.state / "exchange") if (self.state / "exchange").exists() else []
        return not [name for name in below if name.startswith("restore")] and not [
            name for name in exchange if name.startswith("decided")
        ]

    def has_password(self, text: str) -> bool:
        copy = self.appliance.directory / "copy.json"
        shutil.copyfile(self.state / "web" / "auth.json", copy)
        try:
            Auth(str(copy)).log_in(text, "192.168.1.2")
        except WrongPassword:
            return False
        return True


@pytest.fixture
def house() -> Iterator[House]:
    made = House()
    try:
        made.start()
        (made.state / "alarm" / "secrets").mkdir(mode=0o700)
        code = made.appliance.directory / "light.py"
        code.write_text("print('light')\n")
        made.good("cron", "new", "feeding", "0 8,18 * * *")
        made.good("scenario", "new", "light", "--code", str(code))
        made.good("passwd", "--stdin", text=f"{PASSWORD}\n")
        made.good("alarm", "new", "cold", "kind=low", "key=fake.tank/temperature", "limit=10")
        made.mark("first")
        (made.state / "alarm" / "secrets" / "mail").chmod(0o600)
        yield made
    finally:
        made.appliance.destroy()


@contextmanager
def everything_writes(house: House) -> Iterator[dict[str, int]]:
    """The store and core are written to all the time; the logger is by the readings."""
    end, counts = threading.Event(), {"titanic.store": 0, "pi.core.variable": 0}

    def write(service: str, *words: bytes) -> None:
        with MajorDomoClient(MDP.endpoint(f"ipc://{house.appliance.directory}", 5514)) as client:
            while not end.is_set():
                # What is counted is what is kept, be it that nothing is written any more.
                reply = client.send(service, [b"set", *words, b"%d" % (counts[service] + 1)])
                counts[service] += bool(reply) and reply[-1] == MDP.OK

    threads = [
        threading.Thread(target=write, args=("titanic.store", b"writer", b"one", b"count")),
        threading.Thread(target=write, args=("pi.core.variable", b"busy")),
    ]
    for thread in threads:
        thread.start()
    try:
        wait_for("writes", lambda: all(count > 5 for count in counts.values()))
        yield counts
    finally:
        end.set()
        for thread in threads:
            thread.join()


def batches(house: House) -> int:
    """How many the logger has written."""
    connection = sqlite3.connect(house.state / "logger" / "history.db")
    try:
        (count,) = connection.execute("SELECT count(*) FROM journal").fetchone()
        return int(count)
    finally:
        connection.close()


def history(house: House, until: float) -> list[str]:
    """The readings of the tank up to a time, as the logger tells them."""
    moment = datetime.fromtimestamp(int(until), tz=UTC).isoformat()
    return house.good(
        "history", "fake.tank/temperature", "--csv", "--raw", "--since", "1h", "--until", moment
    ).splitlines()


def unpacked(backup: Path, server: str, name: str, to: Path) -> Path:
    """A member of a backup as a file."""
    with open(backup, "rb") as file:
        for member, content in Reader(file, "backup").members():
            data = b"".join(content)
            if (member.server, member.name) == (server, name):
                to.write_bytes(data)
                return to
    raise AssertionError(f"{server}/{name} is not in it")


def test_all_is_there_again_after_the_state_was_wiped(house: House) -> None:
    with everything_writes(house) as counts:
        written_before = batches(house)
        wait_for("readings on the disk", lambda: batches(house) > written_before)
        flushed = time.time() - 1.0
        before = dict(counts)
        told = house.good("backup", str(house.file))
        wait_for("more writes", lambda: all(counts[name] > before[name] for name in counts))
    assert "alarm: alarms.json" in told
    assert "keep it as safe as those" in told
    assert house.file.stat().st_mode & 0o777 == 0o600
    assert house.appliance.restarts() == dict.fromkeys(SERVERS, 0)
    assert os.listdir(house.state / "exchange") == ["lock"]
    kept = history(house, flushed)
    assert len(kept) > 5
    scenario = house.good("scenario", "export", "light")

    house.appliance.stop()
    shutil.rmtree(house.state)
    house.start()
    assert house.run("store", "get", "lamp", "colours", "day").returncode == 1
    assert house.run("cron", "show", "feeding").returncode == 1
    assert not (house.state / "web" / "auth.json").exists()

    told = house.good("restore", str(house.file), "--yes")
    assert told == "restored: alarm, core, fake, logger, titanic, web\n"
    house.wait_well()
    assert set(house.marks().values()) == {"first"}
    assert house.good("scenario", "export", "light") == scenario
    assert before["titanic.store"] <= int(house.good("store", "get", "writer", "one", "count"))
    assert before["pi.core.variable"] <= int(house.good("variable", "get", "busy"))
    assert history(house, flushed) == kept
    assert house.has_password(PASSWORD)
    assert not house.has_password("password of somebody else")
    assert house.is_settled()
    assert house.appliance.restarts() == {**dict.fromkeys(SERVERS, 1), "broker": 0}


@pytest.mark.soak
def test_a_file_that_is_no_good_changes_nothing(house: House) -> None:
    house.good("backup", str(house.file))
    data = house.file.read_bytes()
    house.mark("second")
    bad = house.appliance.directory / "bad.backup"
    for place in (0, len(MAGIC) + 1, len(MAGIC) + 20, len(data) // 3, len(data) // 2, len(data) - 40, len(data) - 1):
        flipped = bytearray(data)
        flipped[place] ^= 4
        bad.write_bytes(flipped)
        assert "damaged" in house.refused("restore", str(bad), "--yes"), place
    for length in (0, len(MAGIC), len(data) // 2, len(data) - 1):
        bad.write_bytes(data[:length])
        assert "ends too early" in house.refused("restore", str(bad), "--yes"), length
    bad.write_bytes(sealed(b"{}", version=2))
    assert "newer RasPy (format 2; this one knows 1)" in house.refused("restore", str(bad), "--yes")

    core = unpacked(house.file, "core", "core.db", house.appliance.directory / "core.db")
    connection = sqlite3.connect(core)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    for server, name, content, schema, words in (
        ("core", "core.db", core.read_bytes(), 99, "core.db: it is of a newer RasPy (schema 99; this one knows"),
        ("core", "core.db", core.read_bytes(), 1, "core.db: it is of a newer RasPy (schema 99; this one knows"),
        ("core", "core.db", bytes(5000), 1, "core: core.db: it is"),
        ("fake", "devices.json", b"{", 0, "fake: devices.json: it is no good"),
        ("titanic", "requests.db", b"", 0, "titanic: it keeps no requests.db"),
        ("web", "auth.json", b"{}", 0, "web: auth.json: it is no good"),
    ):
        # What is good goes first, so that somebody has staged it when the other refuses.
        members = {("alarm", "secrets/mail"): b"other\n", (server, name): content}
        manifest = manifest_of(members, servers=sorted({server, "alarm"}))
        manifest = msgspec.structs.replace(
            manifest,
            members=[
                msgspec.structs.replace(member, schema=schema if member.server == server else 0)
                for member in manifest.members
            ],
        )
        bad.write_bytes(written(members, manifest))
        assert house.good("restore", str(bad), "--check").endswith("The file is good.\n")
        assert words in house.refused("restore", str(bad), "--yes"), words

    assert NUMBER.size == 4
    assert "of other, and this is pi" in _other_host(house, bad)
    assert set(house.marks().values()) == {"second"}
    assert house.is_settled()
    assert os.listdir(house.state / "exchange") == ["lock"]
    assert house.appliance.restarts() == dict.fromkeys(SERVERS, 0)
    done = house.run("restore", str(house.file))
    assert (done.returncode, done.stderr) == (2, "raspy: restore: it replaces what the servers have: say --yes\n")


def _other_host(house: House, bad: Path) -> str:
    bad.write_bytes(written({}, manifest_of({}, host="other", servers=["core"])))
    return house.refused("restore", str(bad), "--yes")


@pytest.mark.soak
def test_a_server_that_is_missing_is_told_and_left_out_only_when_that_is_asked_for(house: House) -> None:
    house.good("backup", str(house.file))
    house.mark("second")
    config = house.appliance.config
    before = config.read_text()
    config.write_text(before.replace('"alarm", ', ""))
    assert house.appliance.process is not None
    house.appliance.process.send_signal(signal.SIGHUP)
    wait_for("no alarm", lambda: house.appliance.pid("alarm") == 0)
    assert "alarm: it does not run" in house.refused("restore", str(house.file), "--yes")
    told = house.good("restore", str(house.file), "--yes", "--partial")
    assert "alarm: NOT restored: it does not run" in told
    assert json.loads(house.good("store", "get", "lamp", "colours", "day")) == "first"
    # The backup of those that are to run is whole without it.
    house.good("backup", str(house.file))
    config.write_text(before)
    assert "alarm: it does not run" in house.refused("backup", str(house.file))
    assert "alarm: NOT in it: it does not run" in house.good("backup", str(house.file), "--partial")


def json_lines(house: House, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "raspy", *words, "--json", "--config", str(house.appliance.config)],
        env=house.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def test_a_word_that_is_lost_and_a_command_that_hangs_leave_nothing_mixed(house: House) -> None:
    """The store does not hear that it is decided; then whoever restores hangs, and a server is killed meanwhile."""
    house.good("backup", str(house.file))
    house.mark("second")
    hung: list[threading.Timer] = []
    with json_lines(house, "restore", str(house.file), "--yes") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line).get("step") == "decide":
                pid = house.appliance.pid("titanic")
                os.kill(pid, signal.SIGSTOP)
                # Longer than the word is worth something, shorter than a server is taken for dead.
                hung.append(threading.Timer(3.0, os.kill, (pid, signal.SIGCONT)))
                hung[0].start()
    hung[0].join()
    event = json.loads(line)
    assert (process.returncode, event["event"], event["late"]) == (0, "result", [])
    house.wait_well()
    assert set(house.marks().values()) == {"first"}
    assert "titanic: exit code" not in house.appliance.log, "it ended once, to start again"

    house.mark("third")
    with json_lines(house, "restore", str(house.file), "--yes") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line).get("step") == "restart":
                os.kill(process.pid, signal.SIGSTOP)
                break
        # It may be between its end and its next start.
        os.kill(wait_for("fake", lambda: house.appliance.pid("fake")), signal.SIGKILL)
        wait_for("all", house.is_settled, 90)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        event = json.loads(process.stdout.read().splitlines()[-1])
    assert (process.returncode, event["event"], bool(event["late"])) == (3, "result", True), (
        "it is decided, not refused"
    )
    house.wait_well()
    assert set(house.marks().values()) == {"first"}


def test_what_is_restored_wins_over_a_store_that_is_not(house: House) -> None:
    house.good("backup", str(house.file))
    house.mark("second")
    house.good("cron", "new", "later", "0 9 * * *")
    wait_for("a store that knows it", lambda: '"cron.later"' in house.good("store", "export"))
    config = house.appliance.config
    before = config.read_text()
    config.write_text(before.replace('"titanic", ', ""))
    assert house.appliance.process is not None
    house.appliance.process.send_signal(signal.SIGHUP)
    wait_for("no titanic", lambda: house.appliance.pid("titanic") == 0)
    told = house.good("restore", str(house.file), "--yes", "--partial")
    assert "titanic: NOT restored: it does not run" in told
    config.write_text(before)
    house.appliance.process.send_signal(signal.SIGHUP)
    house.wait_well()
    # What is the store's own stays, all that it has a copy of is as restored.
    wait_for("a store that has it", lambda: house.good("store", "export").count('"second"') == 1, 60)
    wait_for("one that is gone", lambda: '"cron.later"' not in house.good("store", "export"))
    assert house.marks() == {**dict.fromkeys(house.marks(), "first"), "store": "second"}
    assert house.run("cron", "show", "later").returncode == 1


@pytest.mark.soak
def test_whoever_restores_or_is_restored_may_be_killed_at_any_moment(house: House, record_property: Any) -> None:
    house.good("backup", str(house.file))
    with json_lines(house, "restore", str(house.file), "--yes") as process:
        assert process.stdout is not None
        events = [json.loads(line) for line in process.stdout]
    assert events[-1]["event"] == "result"
    steps = [(event["step"], event.get("server")) for event in events[:-1]]
    assert steps.index(("decide", None)) < steps.index(("restart", "titanic"))
    house.wait_well()
    chance = random.Random()
    seed = chance.getrandbits(32)
    record_property("counted", f"seed {seed}")
    chance.seed(seed)
    outcomes = []
    for number in range(KILLS):
        house.mark(f"now {number}")
        victim = chance.choice(["coordinator", "coordinator", *KEEPERS])
        last = chance.randrange(len(events))
        with json_lines(house, "restore", str(house.file), "--yes") as process:
            assert process.stdout is not None
            for count, _ in enumerate(process.stdout):
                if count == last:
                    pid = process.pid if victim == "coordinator" else house.appliance.pid(victim)
                    if pid:
                        os.kill(pid, signal.SIGKILL)
        wait_for(f"the end of {victim} {last}\n{house.appliance.log[-4000:]}", house.is_settled, 90)
        house.wait_well()
        found = set(house.marks().values())
        outcomes.append(f"{victim} at {events[last].get('step', 'end')}: {found}")
        assert found in ({"first"}, {f"now {number}"}), (outcomes, house.marks(), house.appliance.log[-6000:])
    record_property("counted", "; ".join(outcomes))
