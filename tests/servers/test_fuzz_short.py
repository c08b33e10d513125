"""A few seconds of what ``make fuzz`` does for ten minutes; and that it finds what it is for."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import closing

import pytest

from raspy.servers.broker import presence
from tests.benchmarks.process import ROOT
from tests.bus import environment, running_bus
from tests.fuzz.attack import Attackers
from tests.fuzz.messages import DEAF, REQUESTS, Step

LIMIT_S = 100


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "tests.fuzz", *arguments]
    return subprocess.run(
        argv, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=LIMIT_S, check=False
    )


@pytest.mark.slow
def test_arbitrary_frames_harm_nobody() -> None:
    done = fuzz("--minutes", "0.07", "--engine", "hypothesis", "--seed", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing found" in done.stdout
    for name in ("send requests", "send snapshot", "send collector", "send updates"):
        found = re.search(rf"{name} +([\d,]+)", done.stdout)
        assert found, done.stdout
    assert re.search(r"witness: answers [1-9]", done.stdout)
    assert re.search(r"updates and snapshot agree", done.stdout)


def test_wrong_use() -> None:
    done = fuzz("--minutes", "0")
    assert done.returncode == 2
    assert "--minutes" in done.stderr


def test_steps_of_a_hostile_worker_reach_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peers do what they are told, so a fault in the broker would be met."""
    seen: list[bytes] = []

    def decode(body: bytes) -> presence.Status:
        seen.append(body)
        return presence.Status()

    monkeypatch.setattr(presence, "decode_status", decode)
    # One that reads nothing but what it answers: what comes to the others is thrown away after each step.
    peer = 1
    assert (REQUESTS, peer) in DEAF
    ready = Step("send", REQUESTS, peer, (b"", b"MDPW01", b"\x01", b"a.b.mmi"))
    answer = Step("answer", REQUESTS, peer, (b"hostile", b"200"))
    with running_bus(heartbeat=60_000) as bus, closing(Attackers(bus.ip, 5514)) as attackers:
        attackers.do([ready])
        while not seen:
            attackers.do([answer])
        assert seen[0] == b"hostile"
        attackers.do([Step("vanish", REQUESTS, peer)])
        bus.eventually(lambda broker: not broker.workers)
    assert attackers.counts["answered requests"] == 1
