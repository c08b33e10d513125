"""The commands that ask a running appliance."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time

import pytest

from raspy import __version__
from raspy.cli import status
from raspy.cli.command import Request, parser_of
from tests.support_processes import Appliance, environment, wait_for

LEVEL = "/device/pi.fake.tank/level"


def test_status_is_a_table_and_good(appliance: Appliance) -> None:
    done = appliance.raspy("status")
    assert done.returncode == 0, done.stdout + done.stderr
    head, *rows = done.stdout.splitlines()
    assert re.split(r"  +", head) == ["SERVER", "STATE", "UPTIME", "VERSION", "MEMORY", "RESTARTS", "LAST ERROR"]
    assert [row.split()[0] for row in rows] == ["pi.broker", "pi.fake"]
    for row in rows:
        assert re.split(r"  +", row)[1] == "ok"
        assert __version__ in row
        assert re.search(r"\d+\.\d MB", row)


def test_status_in_json(appliance: Appliance) -> None:
    rows = appliance.json("status")
    assert [row["server"] for row in rows] == ["pi.broker", "pi.fake"]
    assert all(row["state"] == "ok" and row["pid"] > 1 for row in rows)


def test_status_tells_of_a_server_that_never_came(appliance: Appliance) -> None:
    done = appliance.raspy("status", RASPY_RUN_SERVERS='["broker", "fake", "onewire"]')
    assert done.returncode == 1
    assert re.search(r"pi\.onewire +missing ", done.stdout)


def test_a_server_that_is_not_seen_yet(appliance: Appliance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RASPY_RUN_SERVERS", '["broker", "onewire"]')
    request = Request(parser_of("status", status).parse_args(["--config", str(appliance.config)]))
    monkeypatch.setattr(status, "YOUNG", 1e9)
    (row,) = (row for row in status.act(request) if row["state"] == "missing")
    assert (row["server"], row["last_error"]) == ("pi.onewire", "not seen yet: the broker has just started")
    monkeypatch.setattr(status, "YOUNG", 0.0)
    (row,) = (row for row in status.act(request) if row["state"] == "missing")
    assert row["last_error"].startswith("has never come up")
    assert {row["server"]: row.get("wanted") for row in status.act(request)} == {
        "pi.broker": True,
        "pi.fake": False,
        "pi.onewire": True,
    }


def test_status_to_a_full_disk_is_one_line_and_1(appliance: Appliance) -> None:
    for words in (["status"], ["watch", "/device"]):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "raspy", *words, "--config", str(appliance.config)],
                env=environment(),
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                timeout=60,
            )
        assert done.returncode == 1
        assert done.stderr == "raspy: the output cannot be written: No space left on device\n"


def test_check(appliance: Appliance) -> None:
    done = appliance.raspy("check")
    assert done.returncode == 0
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [
        "good  configuration",
        "good  broker",
        "good  pi.broker",
        "good  pi.fake",
    ]
    done = appliance.raspy("check", RASPY_RUN_SERVERS='["onewire"]')
    assert done.returncode == 1
    assert "BAD   pi.onewire: missing" in done.stdout


def test_devices(appliance: Appliance) -> None:
    done = appliance.raspy("devices")
    assert done.returncode == 0
    assert re.search(r"^pi\.fake\.tank +level +[\d.]+ +% +\d+ s +ok", done.stdout, re.M)
    assert re.search(r"^pi\.fake\.tank +temperature +[\d.]+ +°C ", done.stdout, re.M)
    rows = appliance.json("devices")
    assert {(row["device"], row["command"], row["quality"]) for row in rows} >= {("pi.fake.tank", "level", "ok")}


def test_get_one_key(appliance: Appliance) -> None:
    done = appliance.raspy("get", LEVEL)
    assert done.returncode == 0
    assert json.loads(done.stdout)["unit"] == "%"
    assert json.loads(appliance.raspy("get", LEVEL, "--json").stdout)["unit"] == "%"


@pytest.mark.parametrize("prefix", ["/device/", "/device", "/device/pi.fa", "/device/pi.fake.tank/"])
def test_get_all_below(appliance: Appliance, prefix: str) -> None:
    found = appliance.json("get", prefix)
    assert LEVEL in found
    assert all(key.startswith("/device/pi.fake.") for key in found)
    assert re.search(rf"^{LEVEL} +[\d.]+ %$", appliance.raspy("get", prefix).stdout, re.M)


def test_get_of_nothing_is_1(appliance: Appliance) -> None:
    done = appliance.raspy("get", "/device/pi.fake.pond/level")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "raspy: no key is or begins with '/device/pi.fake.pond/level'; raspy get / prints all\n"


def test_watch_prints_the_tree_and_then_each_change(appliance: Appliance) -> None:
    done = appliance.raspy("watch", "/device/pi.fake.tank/", "--count", "6", "--json")
    assert done.returncode == 0
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 6
    assert {line["key"] for line in lines[:2]} == {LEVEL, "/device/pi.fake.tank/temperature"}
    times = [line["body"]["time"] for line in lines if line["key"] == LEVEL]
    assert len(set(times)) == len(times) > 1, "later lines are later values"


def test_watch_for_humans(appliance: Appliance) -> None:
    done = appliance.raspy("watch", LEVEL, "--count", "1")
    assert re.fullmatch(rf"\d\d:\d\d:\d\d {LEVEL}  [\d.]+ %\n", done.stdout)


def test_watch_of_nothing_for_a_time_is_1(appliance: Appliance) -> None:
    done = appliance.raspy("watch", "/nothing", "--for", "0.5")
    assert done.returncode == 1
    assert done.stderr == "raspy: nothing under '/nothing' in 0.5 s\n"


@pytest.mark.parametrize("how", ["Ctrl-C", "closed pipe"])
def test_the_end_of_watch_is_quiet(appliance: Appliance, how: str) -> None:
    watch = subprocess.Popen(
        [sys.executable, "-m", "raspy", "watch", "--config", str(appliance.config)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert watch.stdout is not None
    assert watch.stderr is not None
    try:
        assert b"/" in watch.stdout.readline()
        if how == "Ctrl-C":
            watch.send_signal(signal.SIGINT)
        else:
            watch.stdout.close()
        assert watch.wait(30) == (0 if how == "Ctrl-C" else 141)
        assert watch.stderr.read() == b""
    finally:
        watch.kill()
        watch.wait()
        watch.stdout.close()
        watch.stderr.close()


def test_call(appliance: Appliance) -> None:
    done = appliance.raspy("call", "pi.fake.mmi", "version")
    assert (done.returncode, done.stdout) == (0, f"{__version__}\n200\n")
    answer = appliance.json("call", "pi.fake.devices", "list_keys")
    assert answer["status"] == "200"
    assert "tank" in json.dumps(answer["frames"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pi.fake.nothing", "x"], "pi.fake.nothing: no such service"),
        (["pi.fake.mmi", "nothing"], "501"),
        (["pi.fake.mmi"], "501"),
        (["mmi.nothing"], "501"),
        (["mmi.service", "nothing"], "404"),
    ],
)
def test_a_call_that_is_refused_is_1(appliance: Appliance, words: list[str], said: str) -> None:
    done = appliance.raspy("call", *words)
    assert done.returncode == 1
    assert said in done.stdout + done.stderr


def test_discovery_needs_no_frame(appliance: Appliance) -> None:
    done = appliance.raspy("call", "mmi.discovery")
    assert done.returncode == 0
    assert "pi.fake.devices" in done.stdout


def test_what_completion_offers(appliance: Appliance) -> None:
    assert LEVEL in appliance.raspy("__complete", "keys", "/device/pi.f").stdout.splitlines()
    assert appliance.raspy("__complete", "keys", "/nothing").stdout == ""
    devices = appliance.raspy("__complete", "devices", "pi.fake.t").stdout.splitlines()
    assert devices == ["pi.fake.tank", "pi.fake.tv", "pi.fake.tv.channel", "pi.fake.tv.source", "pi.fake.tv.volume"]
    services = appliance.raspy("__complete", "services", "pi.fake.").stdout.splitlines()
    assert "pi.fake.devices" in services
    assert all(name.startswith("pi.fake.") for name in services)


def test_a_terminal_gets_lines_of_its_width(appliance: Appliance) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "raspy", "status", "--config", str(appliance.config)],
        env=environment(COLUMNS="40"),
        stdout=theirs,
    )
    os.close(theirs)
    text = b""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            text += os.read(ours, 4096)
        except OSError:
            break  # the other side is closed
    os.close(ours)
    assert process.wait(30) == 0
    lines = text.decode().splitlines()
    assert len(lines) == 3
    assert all(len(line) <= 40 for line in lines)
    assert lines[0].endswith("…")


def test_watch_says_that_the_broker_is_lost_and_back() -> None:
    appliance = Appliance(["broker", "fake"])
    watch = None
    try:
        appliance.start()
        said = appliance.directory / "said"
        with open(said, "wb") as file:
            watch = subprocess.Popen(
                [sys.executable, "-m", "raspy", "watch", "/device", "--config", str(appliance.config)],
                env=environment(),
                stdout=subprocess.PIPE,
                stderr=file,
            )
        assert watch.stdout is not None
        assert b"/device/" in watch.stdout.readline()
        appliance.config.write_text(appliance.config.read_text().replace('"broker", ', ""))
        assert appliance.process is not None
        appliance.process.send_signal(signal.SIGHUP)
        wait_for("lost", lambda: "the broker is lost" in said.read_text())
        appliance.config.write_text(appliance.config.read_text().replace('["fake', '["broker", "fake'))
        appliance.process.send_signal(signal.SIGHUP)
        wait_for("back", lambda: "the broker is back" in said.read_text())
    finally:
        if watch is not None:
            watch.kill()
            watch.wait()
            if watch.stdout is not None:
                watch.stdout.close()
        appliance.destroy()
