"""`raspy clock`: against a real server, that measures this machine's clock and, not being installed, sets nothing."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator

import pytest

from raspy.cli import clock
from raspy.common.clock import MARK
from tests.servers.ntp_stage import NtpServer, ntp_servers
from tests.support_processes import Appliance, wait_for


@pytest.fixture(scope="module")
def servers() -> Iterator[list[NtpServer]]:
    with ntp_servers(("right", 0.0), ("right", 0.0), ("mute", 0.0)) as made:
        yield made


@pytest.fixture(scope="module")
def timed(servers: list[NtpServer]) -> Iterator[Appliance]:
    if os.path.isdir(os.path.dirname(MARK)):
        pytest.skip("an installed Pi, whose clock is not to be played with")
    names = json.dumps([server.name for server in servers])
    made = Appliance(["broker", "sync"], f'[sync]\nservers = {names}\ntimeout = 3\nrtc = "none"\n')
    try:
        made.start()
        trusted = "/device/pi.sync.clock/trusted"
        wait_for("the clock", lambda: (made.json("get", trusted) or {}).get("value") is True)
        yield made
    finally:
        made.destroy()


def test_the_table(timed: Appliance, servers: list[NtpServer]) -> None:
    done = timed.raspy("clock")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [re.split(r"  +", line) for line in done.stdout.splitlines()]
    assert lines[0] == ["CLOCK", "TIME (UTC)", "OFFSET", "STATE"]
    assert lines[1][0] == "system"
    assert lines[1][3] == "trusted by ntp: 2 servers agree with it"
    assert lines[2][0] == "ntp"
    assert re.fullmatch(r"[+-]0\.\d{3} s", lines[2][2])
    assert lines[2][3].startswith("2 of 2 agree, ")
    assert lines[3] == ["rtc", "-", "-", "there is none"]
    rows = {line[0]: line for line in lines if line[0].startswith("127.0.0.1")}
    assert [rows[server.name][-1] for server in servers] == ["good", "good", "off: no answer within 3 s"]
    assert "nothing is set, as this is no installed Pi" in done.stdout


def test_json(timed: Appliance) -> None:
    answer = timed.json("clock")
    assert answer["system"]["trusted"] is True
    assert abs(answer["system"]["time"] - time.time()) < 30
    assert answer["last_change"] is None
    assert timed.json("clock", "pi") is not None


def test_a_host_without_the_server(timed: Appliance) -> None:
    done = timed.raspy("clock", "shed")
    assert done.returncode == 1
    assert "shed.sync.time is not served" in done.stderr


def test_the_server_is_well(timed: Appliance) -> None:
    done = timed.raspy("check")
    assert done.returncode == 0, done.stdout + done.stderr


WORST = {
    "system": {"time": 1e18, "trusted": False, "source": None, "reason": "NTP: no", "last_known": None},
    "ntp": {"offset": None, "age": None, "agreeing": [], "answered": 0, "problem": "", "servers": []},
    "rtc": {"name": "rtc0", "device": "", "time": None, "offset": None, "problem": "it stands still", "weak": ""},
    "keeper": "",
    "may_set": "",
    "last_change": {"clock": "rtc", "before": None, "after": 1.8e9, "source": "system", "reason": "by hand"},
}


def test_a_clock_that_is_not_to_be_trusted(capsys: pytest.CaptureFixture[str]) -> None:
    clock.show(WORST)
    text = capsys.readouterr().out
    assert "NOT to be trusted: NTP: no" in text
    assert "rtc0: off: it stands still" in text
    assert "kept by:      sync\n" in text
    assert "rtc clock from nothing to 2027-01-15 08:00:00, by system: by hand" in text
    assert clock.code(WORST) == 1
