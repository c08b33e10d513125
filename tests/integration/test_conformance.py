"""Our broker and Titanic, each in a process of its own, against the conformance suite; and it against bad ones."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from tests.conformance import (
    Check,
    CheckFailed,
    Group,
    Launcher,
    NotApplicable,
    Target,
    load_checks,
    run_check,
    run_suite,
)
from tests.conformance.__main__ import main
from tests.conformance.runner import FAIL, NA, NOT_REACHED, PASS, Result, await_services

INTERVAL, LIVENESS, REQUEST_EXPIRY = 0.5, 4, 2.0
CONFIG = """
[bus]
broker_ip = "ipc://{directory}"
[broker]
heartbeat = {interval:.0f}
liveness = {liveness}
request_expiry = {expiry}
"""


TITANIC = [b"titanic.request", b"titanic.reply", b"titanic.close"]
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("RASPY_")}


def _waits(check: Check) -> bool:
    """Whether a check has to wait for the death of a worker, for heartbeats, or for a service to come back."""
    waiting = ("reliability.", "tsp.run.", "tsp.worker.died", "tsp-extensions.")
    return check.settle or check.id.startswith(waiting) or "died" in check.id or "expiry" in check.id


def _params(party: str) -> list[Any]:
    """The checks about one party, as pytest takes them."""
    return [
        pytest.param(group, check, id=check.id, marks=[pytest.mark.slow] if _waits(check) else [])
        for group, check in load_checks()
        if group.party == party
    ]


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    """Our broker, on sockets in a directory of its own."""
    directory = tempfile.mkdtemp(prefix="raspy-")  # pytest's own are too long for the path of a socket
    target = Target(f"ipc://{directory}/5514", INTERVAL, LIVENESS, patience=10.0, request_expiry=REQUEST_EXPIRY)
    config = os.path.join(directory, "raspy.toml")
    with open(config, "w") as file:
        file.write(
            CONFIG.format(directory=directory, interval=INTERVAL * 1000, liveness=LIVENESS, expiry=REQUEST_EXPIRY)
        )
    launcher = Launcher(
        [sys.executable, "-m", "raspy.common.runner", "broker", "--config", config],
        target,
        environment=ENVIRONMENT,
        log=os.path.join(directory, "log"),
    )
    launcher.start()
    yield launcher
    launcher.stop()
    shutil.rmtree(directory)


class Beside:
    """Our Titanic beside a broker. `victim` is a file where the paths of some hostile UUIDs lead to."""

    def __init__(self, launcher: Launcher) -> None:
        self.launcher = launcher
        directory = os.path.dirname(launcher.log)
        self.config, self.log = os.path.join(directory, "raspy.toml"), os.path.join(directory, "titanic.log")
        self.state = os.path.join(directory, "state")
        self.victim = [os.path.join(directory, f"victim{end}") for end in ("", ".req", ".rep")]
        self.process: subprocess.Popen[bytes] | None = None
        for path in self.victim:
            with open(path, "w"):
                pass

    def start(self) -> None:
        """Start it, and wait until the broker knows its services."""
        command = [sys.executable, "-m", "raspy.common.runner", "titanic", "--config", self.config]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**ENVIRONMENT, "STATE_DIRECTORY": self.state},
            )
        missing = await_services(self.launcher.target, TITANIC)
        if missing:
            self.stop()
            with open(self.log, encoding="utf-8", errors="replace") as log_text:
                pytest.fail(f"Titanic did not register {missing}: {log_text.read()[-2000:]}")

    def stop(self) -> None:
        """End it."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=10.0)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def restart(self) -> None:
        """End it and the broker, and start both again."""
        self.stop()
        self.launcher.restart()
        self.start()


@pytest.fixture(scope="module")
def titanic(launcher: Launcher) -> Iterator[Beside]:
    """Our Titanic beside our broker, with a state directory of its own."""
    beside = Beside(launcher)
    beside.start()
    yield beside
    beside.stop()


def expect_pass(result: Result) -> None:
    """Skip what is optional and not done; anything else must have passed."""
    if result.outcome == NA and result.check.level in ("SHOULD", "MAY"):
        pytest.skip(result.detail)
    assert result.outcome == PASS, f"{result.check.statement} {result.detail}"


@pytest.mark.parametrize(("group", "check"), _params("broker"))
def test_broker(launcher: Launcher, group: Group, check: Check) -> None:
    """One statement of 7/MDP, 8/MMI or docs/protocol about our broker."""
    result = run_check(check, launcher.target, group)
    if result.stopped:
        ended = launcher.epitaph()
        launcher.restart()
        pytest.fail(f"{check.statement} {result.detail} ({ended})")
    expect_pass(result)


@pytest.mark.parametrize(("group", "check"), _params("Titanic"))
def test_titanic(titanic: Beside, group: Group, check: Check) -> None:
    """One statement of 9/TSP or docs/protocol about our Titanic."""
    result = run_check(check, titanic.launcher.target, group)
    if result.outcome == FAIL:
        titanic.restart()
    expect_pass(result)
    assert [path for path in titanic.victim if not os.path.exists(path)] == []


class Careless(threading.Thread):
    """Forwards what looks right, says the same to any mmi.service, and ends at the first bad message."""

    def __init__(self, mmi: bytes = b"200") -> None:
        super().__init__(daemon=True)
        self.mmi = mmi
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.router = self.context.socket(zmq.ROUTER)
        self.router.linger = 0
        self.port = self.router.bind_to_random_port("tcp://127.0.0.1")
        self.ended = threading.Event()
        self.workers: dict[bytes, list[bytes]] = {}
        self.names: dict[bytes, bytes] = {}
        self.requests: dict[bytes, list[list[bytes]]] = {}

    def run(self) -> None:
        while not self.ended.is_set():
            if self.router.poll(20):
                try:
                    sender, _, header, *rest = self.router.recv_multipart()
                    self.handle(sender, header, rest)
                except (ValueError, IndexError):
                    break
        self.router.close()

    def handle(self, sender: bytes, header: bytes, rest: list[bytes]) -> None:
        if header == b"MDPC01" and rest[0] == b"mmi.service":
            self.router.send_multipart([sender, b"", header, rest[0], self.mmi])
            return
        service = rest[0]
        if header == b"MDPC01":
            self.requests.setdefault(service, []).append([sender, b"", rest[1], *rest[2:]])
        elif rest[0] == b"\x01":
            service = self.names[sender] = rest[1]
            self.workers.setdefault(service, []).append(sender)
        elif rest[0] == b"\x03":
            service = self.names[sender]
            self.router.send_multipart([rest[1], b"", b"MDPC01", service, *rest[3:]])
            self.workers[service].append(sender)
        if self.workers.get(service) and self.requests.get(service):
            worker, request = self.workers[service].pop(0), self.requests[service].pop(0)
            self.router.send_multipart([worker, b"", b"MDPW01", b"\x02", *request])


def careless_broker(mmi: bytes) -> Iterator[Target]:
    """A careless broker that runs as long as this generator does."""
    broker = Careless(mmi)
    broker.start()
    yield Target(f"tcp://127.0.0.1:{broker.port}", 0.1, 3, patience=2.0)
    broker.ended.set()
    broker.join(10)
    broker.context.term()


@pytest.fixture
def careless() -> Iterator[Target]:
    yield from careless_broker(b"200")


@pytest.fixture
def bare() -> Iterator[Target]:
    """A broker that says of every service that it is not there."""
    yield from careless_broker(b"404")


def test_suite_finds_faults(careless: Target) -> None:
    """A broker that is wrong about one thing fails that check and passes another."""
    checks = {check.id: (group, check) for group, check in load_checks()}
    chosen = [checks[name] for name in ("client.echo", "mmi.service.404", "mmi.service.200")]
    # Its answers come; on a busy machine after a while.
    patient = dataclasses.replace(careless, patience=30.0)
    results = {result.check.id: result for result in run_suite(chosen, patient)}
    assert [result.outcome for result in results.values()] == [PASS, FAIL, PASS]
    assert "200" in results["mmi.service.404"].detail


def test_suite_stops_at_a_dead_broker(careless: Target) -> None:
    """A check that kills the broker says so, and what comes after it is not reached."""
    checks = {check.id: (group, check) for group, check in load_checks()}
    chosen = [checks[name] for name in ("malformed.frames.one", "client.echo")]
    results = list(run_suite(chosen, careless))
    assert [result.outcome for result in results] == [FAIL, NOT_REACHED]
    assert results[0].stopped
    assert results[0].detail == "broker stopped answering"


def test_group_that_does_not_apply(careless: Target) -> None:
    """A group may turn down a broker as a whole, with its reason."""

    def refuse(stage: object) -> None:
        raise NotApplicable("not for you")

    group = Group("none", "Nothing", applies=refuse)
    group.add("check", "nowhere", "ours", "Nothing is true.", refuse)
    [result] = run_suite([(group, group.checks[0])], careless)
    assert (result.outcome, result.detail) == (NA, "not for you")


def test_group_whose_party_stops(careless: Target) -> None:
    """A check after which the group's own party serves nobody fails, and what comes after it is not reached."""

    def gone(stage: object) -> None:
        raise CheckFailed("no reply")

    group = Group("party", "A party", bystander=gone, party="Titanic")
    group.add("first", "nowhere", "ours", "It goes on.", lambda stage: None)
    group.add("second", "nowhere", "ours", "It goes on.", lambda stage: None)
    results = list(run_suite([(group, check) for check in group.checks], careless))
    assert [(result.outcome, result.detail) for result in results] == [
        (FAIL, "Titanic stopped answering"),
        (NOT_REACHED, ""),
    ]


def test_no_titanic(bare: Target) -> None:
    """Where 8/MMI does not know titanic.request, the checks of 9/TSP do not apply."""
    [check] = [(group, check) for group, check in load_checks("tsp.request.frames")]
    [result] = run_suite([check], bare)
    assert (result.outcome, result.detail) == (NA, "no Titanic: mmi.service does not know titanic.request")


def test_a_service_that_is_missing(bare: Target) -> None:
    """To wait for a service ends, and says which one is missing."""
    assert await_services(bare, [b"titanic.request"], patience=0.2) == "titanic.request"


def test_command_line(careless: Target, capsys: pytest.CaptureFixture[str]) -> None:
    """The table has a row and a total, and the exit code tells the outcome."""
    options = ["--liveness", "0.1,3", "--timeout", "30"]
    assert main([careless.endpoint, *options, "--only", "client.echo"]) == 0
    out = capsys.readouterr().out
    assert "client.echo" in out
    assert "1 pass" in out
    assert main([careless.endpoint, *options, "--only", "mmi.service.404", "--json"]) == 1
    assert '"outcome": "fail"' in capsys.readouterr().out


def test_command_line_without_a_broker(capsys: pytest.CaptureFixture[str]) -> None:
    """No broker, or a pattern that chooses nothing, is wrong use."""
    assert main(["inproc://nobody", "--timeout", "0.2"]) == 2
    assert "no broker answers" in capsys.readouterr().err
    assert main(["inproc://nobody", "--only", "no-such-check"]) == 2
    assert "no check matches" in capsys.readouterr().err
