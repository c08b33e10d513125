"""A heater that is held on, in real processes: whatever dies, it is in its safe state within the lease and 1 s.

Each test turns on the heater of the simulated tank; what a real relay would see is the file of its pin.
"""

from __future__ import annotations

import glob
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raspy.servers.fake.pins import Pin, Pins
from tests.conftest import COUNTED
from tests.support import need_program
from tests.support_processes import LIMIT_S, TOP, Appliance, environment, wait_for

LEASE = 2.0
AFTER = 1.0
"""Seconds after the end of the lease within which the output must be safe."""
BUSY = 2.0
"""Seconds that a machine which runs other tests as well may take on top, for what is measured from outside."""
WATCHDOG = 12.0
"""Seconds: the watchdog's ten, and the two that a process which was told to abort has to show where it was."""
NO_TITANIC = {"RASPY_BUS_TITANIC": "false"}
"""Nobody is to wait for settings from a store that is not there."""
HEATER = "pi.fake.heater"
EVENT = f"/event/output/{HEATER}"

ON, OFF = Pin(1, 0), Pin(0, 0)
Record = Callable[[str, object], None]


class Bench:
    """An appliance with a broker and the simulated tank, and what was started besides."""

    def __init__(self) -> None:
        self.appliance = Appliance(["broker", "fake"])
        self.directory = self.appliance.directory
        self.pins = Pins(str(self.directory / "raspy" / "fake" / "pins"))
        self.processes: list[subprocess.Popen[str]] = []

    def run(self) -> None:
        """Start all under `raspy run`."""
        self.appliance.start(**NO_TITANIC)

    def server(self, name: str, **added: str) -> subprocess.Popen[str]:
        """Start a server with nobody to look after it."""
        command = [sys.executable, "-m", "raspy", "server", name, "--config", str(self.appliance.config)]
        with open(self.appliance.log_path, "ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, text=True,
                env=environment(XDG_STATE_HOME=str(self.directory), **NO_TITANIC, **added),
            )  # fmt: skip
        self.processes.append(process)
        return process

    def holder(self) -> subprocess.Popen[str]:
        """Start a client that holds the heater on, by renewals; return once some have been answered."""
        script = str(Path(__file__).with_name("hold_output.py"))
        address = f"ipc://{self.directory}/5514"
        process = subprocess.Popen(
            [sys.executable, script, address, HEATER, f"{LEASE:g}", f"{LEASE / 4:g}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(PYTHONPATH=str(TOP)),
        )
        self.processes.append(process)
        assert process.stdout is not None
        # For longer than a lease, so that it is the renewals that keep it on.
        for _ in range(6):
            assert process.stdout.readline() == "200\n", self.appliance.log
            assert self.pin() == ON
        return process

    def turn_on(self) -> None:
        """Turn the heater on for one lease, by the command line."""
        done = self.appliance.raspy("exec", HEATER, "power", "on", "--for", f"{LEASE:g}s")
        assert done.returncode == 0, done.stderr

    def pin(self) -> Pin:
        """What the relay sees."""
        return self.pins.read("heater")

    def safe_at(self, limit: float = LIMIT_S) -> float:
        """Wait until the heater is off; return when it was put off (Unix, s), as the kernel saw it."""
        wait_for("the heater off", lambda: self.pin() == OFF, limit)
        return os.stat(os.path.join(self.pins.directory, "heater")).st_mtime

    def made_safe(self) -> None:
        """Wait until somebody else has put the heater off for a server that could not. The next one would do it as
        well, but later."""
        wait_for("its outputs safe", lambda: "fake: its outputs are safe" in self.appliance.log)
        log = self.appliance.log
        assert "pin heater: from 1 to its safe state, 0" in log
        assert log.index("pin heater: from 1 to its safe state, 0") < log.index("fake: its outputs are safe")

    def last_event(self) -> dict[str, Any]:
        """The last event of the heater; empty when there is none."""
        done = self.appliance.raspy("get", EVENT, "--json")
        found = json.loads(done.stdout) if done.returncode == 0 and done.stdout else {}
        return found if isinstance(found, dict) else {}

    def event(self, reason: str) -> dict[str, Any]:
        """Wait until the last event says so."""
        return dict(
            wait_for(
                f"the event {reason!r}, not {self.last_event()}\n{self.appliance.log}",
                lambda: (found := self.last_event()) and reason in found.get("reason", "") and found,
            )
        )

    def destroy(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        self.appliance.destroy()


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    try:
        yield made
    finally:
        made.destroy()


def check_lease_ended(event: dict[str, Any], record_property: Record) -> None:
    """The event of a lease that ended, by the server's own clock."""
    record_property(COUNTED, f"safe {event['after'] - event['lease']:+.3f} s after the end of a lease of {LEASE:g} s")
    assert (event["state"], event["power"], event["lease"]) == ("safe", False, LEASE)
    assert LEASE <= event["after"] <= LEASE + AFTER


def test_the_lease_simply_ends(bench: Bench, record_property: Record) -> None:
    bench.run()
    bench.turn_on()
    assert bench.pin() == ON
    bench.safe_at()
    event = bench.event("the lease ended")
    check_lease_ended(event, record_property)
    assert "command line" in event["by"]


def test_the_holder_is_killed(bench: Bench, record_property: Record) -> None:
    bench.run()
    holder = bench.holder()
    holder.kill()
    killed = time.time()
    assert bench.safe_at() <= killed + LEASE + AFTER + BUSY
    event = bench.event("the lease ended")
    check_lease_ended(event, record_property)
    assert event["by"] == "holder"
    assert event["on"] > LEASE


def test_the_broker_is_killed_and_stays_dead(bench: Bench, record_property: Record) -> None:
    broker = bench.server("broker")
    bench.server("fake")
    wait_for("the heater", lambda: bench.appliance.raspy("exec", HEATER, "power").returncode == 0)
    bench.holder()
    broker.kill()
    broker.wait()
    killed = time.time()
    assert bench.safe_at() <= killed + LEASE + AFTER + BUSY
    # For the event to be read; the heater has been off long before.
    bench.processes[-1].kill()
    bench.server("broker")
    check_lease_ended(bench.event("the lease ended"), record_property)


@pytest.mark.slow
def test_the_servers_loop_is_stopped(bench: Bench, record_property: Record) -> None:
    bench.run()
    holder = bench.holder()
    os.kill(bench.appliance.pid("fake"), signal.SIGSTOP)
    stopped = time.time()
    holder.kill()
    bench.made_safe()
    took = bench.safe_at() - stopped
    record_property(COUNTED, f"safe {took:.3f} s after SIGSTOP")
    assert took <= WATCHDOG + AFTER + BUSY
    assert "fake: no sign of life for 10 s" in bench.appliance.log
    event = bench.event("no sign of life for 10 s")
    assert (event["state"], event["power"]) == ("safe", False)


def test_the_server_is_killed(bench: Bench, record_property: Record) -> None:
    bench.run()
    holder, fake = bench.holder(), bench.appliance.pid("fake")
    holder.kill()
    killed = time.time()
    os.kill(fake, signal.SIGKILL)
    bench.made_safe()
    took = bench.safe_at() - killed
    record_property(COUNTED, f"safe {took:.3f} s after SIGKILL")
    assert took <= LEASE + AFTER + BUSY
    event = bench.event("SIGKILL")
    assert (event["state"], event["power"]) == ("safe", False)
    assert bench.pin() == OFF


def test_the_supervisor_is_killed(bench: Bench) -> None:
    bench.run()
    fake = bench.appliance.pid("fake")
    bench.holder()
    assert bench.appliance.process is not None
    bench.appliance.process.kill()
    bench.appliance.process.wait()
    killed = time.time()
    assert bench.safe_at() <= killed + LEASE + AFTER + BUSY
    wait_for("the server's end", lambda: not os.path.exists(f"/proc/{fake}"))
    assert bench.pin() == OFF
    assert "heater: safe: the server stops" in bench.appliance.log


def test_the_server_and_the_supervisor_are_killed_at_once(bench: Bench) -> None:
    bench.run()
    bench.turn_on()
    fake, supervisor = bench.appliance.pid("fake"), bench.appliance.process
    assert supervisor is not None
    # It has no time at all to see to it.
    supervisor.send_signal(signal.SIGSTOP)
    os.kill(fake, signal.SIGKILL)
    killed = time.time()
    supervisor.kill()
    supervisor.wait()
    assert bench.safe_at() <= killed + LEASE + AFTER + BUSY


def test_the_configuration_is_broken_when_the_server_is_killed(bench: Bench) -> None:
    bench.run()
    fake = bench.appliance.pid("fake")
    bench.turn_on()
    bench.appliance.config.write_text("[run\n")
    os.kill(fake, signal.SIGKILL)
    bench.made_safe()
    assert bench.pin() == OFF
    assert "is not TOML" in bench.appliance.log


def test_a_server_that_is_told_to_stop_puts_it_off_first(bench: Bench) -> None:
    bench.run()
    bench.holder()
    text = bench.appliance.config.read_text().replace(', "fake"', "")
    bench.appliance.config.write_text(text)
    assert bench.appliance.process is not None
    bench.appliance.process.send_signal(signal.SIGHUP)
    event = bench.event("the server stops")
    assert (event["state"], event["power"], event["by"]) == ("safe", False, "holder")
    assert bench.pin() == OFF


@pytest.mark.parametrize("days", ["-1d", "+1d"])
def test_the_clock_is_set_by_a_day(bench: Bench, days: str, record_property: Record) -> None:
    need_program("faketime")
    (library,) = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")
    offset = bench.directory / "offset"
    offset.write_text("+0\n")
    bench.server("broker")
    bench.server(
        "fake",
        LD_PRELOAD=library,
        FAKETIME_TIMESTAMP_FILE=str(offset),
        FAKETIME_NO_CACHE="1",
        FAKETIME_DONT_FAKE_MONOTONIC="1",
    )
    wait_for("the heater", lambda: bench.appliance.raspy("exec", HEATER, "power").returncode == 0)
    bench.turn_on()
    before = time.time()
    fresh = offset.with_suffix(".new")
    fresh.write_text(f"{days}\n")
    fresh.replace(offset)
    assert bench.pin() == ON, "it was off before the clock was set"
    assert bench.safe_at() <= before + LEASE + AFTER + BUSY
    event = bench.event("the lease ended")
    check_lease_ended(event, record_property)
    day = 86_400 * int(days.rstrip("d"))
    assert abs(event["time"] - time.time() - day) < 3600, "the server's clock was not set"
