"""raspy cron, raspy scenario and raspy variable, as an owner types them, against a real core."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raspy.cli.core import merged, moment, settings_of
from raspy.cli.scenario import placed
from tests.support_processes import LIMIT_S, Appliance, environment, wait_for

LOOP = """\
number = 0
while not stopping():
    number += 1
    print("turn", number)
    sleep(0.2)
"""


@pytest.fixture(scope="module")
def aquarium() -> Iterator[Appliance]:
    """One that the tests may change."""
    made = Appliance(
        ["broker", "titanic", "fake", "core"], '[core]\ntimezone = "Europe/Paris"\nlatitude = 48.9\nlongitude = 2.3\n'
    )
    try:
        made.start()
        wait_for("core", lambda: made.raspy("cron", "list").returncode == 0)
        yield made
    finally:
        made.destroy()


@pytest.fixture
def code(tmp_path: Path) -> Path:
    path = tmp_path / "light.py"
    path.write_text('print("hello", settings.get("word"))\n')
    return path


def good(appliance: Appliance, *words: str, **added: str) -> str:
    """What a command prints that goes well."""
    done = appliance.raspy(*words, **added)
    assert (done.returncode, done.stderr) == (0, ""), (words, done)
    return done.stdout


def refused(appliance: Appliance, *words: str, code: int = 1, **added: str) -> str:
    """What a command says in one line that fails."""
    done = appliance.raspy(*words, **added)
    assert (done.returncode, done.stdout) == (code, ""), (words, done)
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("raspy: ")
    return done.stderr


def result(appliance: Appliance, *words: str) -> Any:
    """What a command says in JSON."""
    return appliance.json(*words)["result"]


# Cron


def test_a_job_from_its_making_to_its_end(aquarium: Appliance) -> None:
    told = good(aquarium, "cron", "new", "feeding", "0 8,18 * * *", "scenario=feed", "label=Breakfast", "jitter=5m")
    assert told.startswith("feeding is made\n")
    assert re.search(r"^when +0 8,18 \* \* \*$", told, re.M)
    assert re.search(r"^does +scenario feed$", told, re.M)
    assert re.search(r"^jitter +300", told, re.M)
    listed = good(aquarium, "cron", "list")
    row = next(line for line in listed.splitlines() if line.startswith("feeding "))
    assert "0 8,18 * * *" in row
    assert "scenario feed" in row
    assert "there is a cron job feeding already" in refused(aquarium, "cron", "new", "feeding", "@noon")
    good(aquarium, "cron", "edit", "feeding", "when=@sunset-00:30", "jitter=", "scenario=", "misfire=skip")
    told = good(aquarium, "cron", "show", "feeding")
    assert re.search(r"^when +@sunset-00:30$", told, re.M)
    assert re.search(r"^does +event$", told, re.M)
    assert re.search(r"^misfire +skip$", told, re.M)
    assert re.search(r"^label +Breakfast$", told, re.M)
    assert len(re.findall(r"^(?:next)? +\w{3} \d{4}-\d\d-\d\d \d\d:\d\d", told, re.M)) == 3
    assert good(aquarium, "cron", "disable", "feeding").startswith("feeding is not active\n")
    assert re.search(r"^active +no$", good(aquarium, "cron", "show", "feeding"), re.M)
    assert good(aquarium, "cron", "run", "feeding") == "feeding was fired\n"
    wait_for("its event", lambda: (aquarium.json("get", "/event/cron/feeding") or {}).get("cause") == "hand")
    assert good(aquarium, "cron", "enable", "feeding").startswith("feeding is active\n")
    assert good(aquarium, "cron", "delete", "feeding") == "feeding is deleted\n"
    assert "feeding" in refused(aquarium, "cron", "show", "feeding")


def test_a_job_that_tells_a_device(aquarium: Appliance) -> None:
    good(
        aquarium, "cron", "new", "lamp", "every 1s", "command.device=fake.heater", "command.command=power",
        "command.value=true", "command.seconds=2s",
    )  # fmt: skip
    told = good(aquarium, "cron", "show", "lamp")
    assert re.search(r"^does +fake.heater power true for 2 s$", told, re.M)

    def is_on() -> Any:
        return (aquarium.json("get", "/device/pi.fake.heater/power") or {}).get("value")

    wait_for("the heater", is_on)
    good(aquarium, "cron", "edit", "lamp", "command=")
    assert re.search(r"^does +event$", good(aquarium, "cron", "show", "lamp"), re.M)
    good(aquarium, "cron", "delete", "lamp")
    wait_for("the end of its lease", lambda: is_on() is False)


def test_times_are_those_of_the_appliance(aquarium: Appliance) -> None:
    told = good(aquarium, "cron", "new", "yearly", "30 6 1 7 *", TZ="Asia/Kolkata")
    assert re.search(r"^next +\w{3} \d{4}-07-01 06:30 Europe/Paris$", told, re.M)
    here = good(aquarium, "cron", "next", "yearly", "--count", "2", TZ="Europe/Paris").splitlines()
    there = good(aquarium, "cron", "next", "yearly", "--count", "2", TZ="Asia/Kolkata").splitlines()
    assert len(here) == len(there) == 2
    assert all(line.endswith("-07-01 06:30") for line in here)
    assert there == [f"{line} Europe/Paris" for line in here]
    (row,) = [line for line in good(aquarium, "cron", "list", TZ="UTC").splitlines() if line.startswith("yearly ")]
    assert "-07-01 06:30 Europe/Paris " in row
    told = good(aquarium, "cron", "check", "30 6 1 7 *", TZ="UTC").splitlines()
    assert all(line.endswith("-07-01 06:30 Europe/Paris") for line in told)
    assert result(aquarium, "cron", "show", "yearly")["zone"] == "Europe/Paris"
    times = result(aquarium, "cron", "next", "yearly")
    assert len(times) == 3
    assert moment(times[0]) in [moment(at) for at in times]
    good(aquarium, "cron", "delete", "yearly")


def test_check_tells_times_or_what_is_wrong(aquarium: Appliance) -> None:
    told = good(aquarium, "cron", "check", "0 8 * * *", TZ="Europe/Paris")
    assert [line[-5:] for line in told.splitlines()] == ["08:00"] * 3
    assert len(good(aquarium, "cron", "check", "@sunrise+01:00").splitlines()) == 3
    for wrong in ("61 * * * *", "0 0 31 2 *", "@midnight-sun", "every 0s", "tomorrow", ""):
        done = aquarium.raspy("cron", "check", wrong)
        assert done.returncode == 1, wrong
        assert len(done.stdout.splitlines()) == 1
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["cron", "show", "nothing"], 1, "nothing"),
        (["cron", "run", "nothing"], 1, "nothing"),
        (["cron", "delete", "nothing"], 1, "nothing"),
        (["cron", "edit", "nothing", "label=x"], 1, "nothing"),
        (["cron", "new", "Bad Name", "@noon"], 1, "Bad Name"),
        (["cron", "new", "x", "61 * * * *"], 1, "61"),
        (["cron", "new", "x", "@noon", "nonsense=1"], 1, "nonsense"),
        (["cron", "new", "x", "@noon", "misfire=sometimes"], 1, "misfire"),
        (["cron", "new", "x", "@noon", "jitter=1w"], 2, "jitter"),
        (["cron", "new", "x", "@noon", "label"], 2, "a setting is given as name=value"),
        (["cron", "new", "x", "@noon", "command=on", "command.device=a"], 2, "do not go together"),
        (["cron", "new", "x", "@noon", "command.device=nowhere", "command.command=power"], 1, "command"),
        (["cron", "next", "x", "--count", "0"], 2, "no number from 1 to 100"),
        (["cron", "next", "x", "--count", "0001001"], 2, "no number from 1 to 100"),
        (["cron", "fly"], 2, "fly"),
        (["cron"], 2, "VERB"),
        (["variable", "get", "nothing"], 1, "nothing"),
        (["variable", "delete", "nothing"], 1, "nothing"),
        (["variable", "set", "Bad Name", "1"], 1, "Bad Name"),
        (["variable", "set", "long", "x" * 3000], 1, "long"),
        (["variable", "set", "x"], 2, "VALUE"),
        (["scenario", "show", "nothing"], 1, "nothing"),
        (["scenario", "run", "nothing"], 1, "nothing"),
        (["scenario", "stop", "nothing"], 1, "nothing"),
        (["scenario", "output", "nothing"], 1, "nothing"),
        (["scenario", "output", "nothing", "--follow"], 1, "nothing"),
        (["scenario", "edit", "nothing", "active=true"], 1, "nothing"),
        (["scenario", "export", "nothing"], 1, "nothing"),
        (["scenario", "new", "x", "--code", "/nonexistent"], 1, "/nonexistent cannot be read"),
        (["scenario", "new", "x", "--code", "/dev/null", "--entries", "{"], 1, "--entries: '{' is no JSON"),
        (["scenario", "new", "x", "--code", "/dev/null", "--entries", '{"lamp": "nowhere"}'], 1, "nowhere"),
        (["scenario", "new", "x", "--code", "/dev/null", "schedule=[\"never\"]"], 1, "never"),
        (["scenario", "new", "Bad Name", "--code", "/dev/null"], 1, "Bad Name"),
        (["scenario", "new", "x", "--code", "/dev/null", "unknown=1"], 1, "unknown"),
        (["scenario", "import", "/nonexistent"], 1, "/nonexistent cannot be read"),
        (["scenario", "import", "/dev/null"], 1, "document"),
        (["scenario", "examples", "none"], 1, "no such example; there are"),
        (["scenario", "examples", "--import"], 1, "which example?"),
        (["scenario", "check", "/nonexistent"], 1, "cannot be read"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(aquarium: Appliance, words: list[str], code: int, said: str) -> None:
    assert said in refused(aquarium, *words, code=code)


def test_without_a_core_it_is_said(appliance: Appliance) -> None:
    for words in (["cron", "list"], ["scenario", "list"], ["variable", "list"]):
        assert "the core is not there" in refused(appliance, *words)


def test_without_a_broker_it_is_said(tmp_path: Path) -> None:
    config = tmp_path / "raspy.toml"
    config.write_text(f'[bus]\nhostname = "pi"\nbroker_ip = "ipc://{tmp_path}"\n')
    done = subprocess.run(
        [sys.executable, "-m", "raspy", "cron", "list", "--config", str(config)],
        env=environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "does not answer: is it running" in done.stderr


# Variables


def test_variables(aquarium: Appliance) -> None:
    assert good(aquarium, "variable", "set", "level", "21.5") == "level is 21.5\n"
    assert good(aquarium, "variable", "set", "feeding", "true") == "feeding is true\n"
    assert good(aquarium, "variable", "set", "mode", "night light") == "mode is night light\n"
    assert good(aquarium, "variable", "set", "code", '"0815"') == "code is 0815\n"
    assert good(aquarium, "variable", "set", "below", "-5") == "below is -5\n"
    assert good(aquarium, "variable", "get", "mode") == "night light\n"
    listed = good(aquarium, "variable", "list")
    assert re.search(r"^level +21\.5 +\w{3} \d{4}-", listed, re.M)
    kinds = {name: each["value"] for name, each in result(aquarium, "variable", "list").items()}
    assert kinds == {"level": 21.5, "feeding": True, "mode": "night light", "code": "0815", "below": -5}
    wait_for("the tree", lambda: (aquarium.json("get", "/variable/level") or {}).get("value") == 21.5)
    assert good(aquarium, "__complete", "variables", "le") == "level\n"
    # They survive a restart.
    before = aquarium.log.count(" core: started in")
    os.kill(aquarium.pid("core"), signal.SIGKILL)
    aquarium.wait_ready("core", before + 1)
    wait_for("core", lambda: aquarium.raspy("variable", "get", "level").stdout == "21.5\n")
    wait_for("the tree", lambda: (aquarium.json("get", "/variable/level") or {}).get("value") == 21.5)
    for name in kinds:
        assert good(aquarium, "variable", "delete", name) == f"{name} is deleted\n"
    assert good(aquarium, "variable", "list") == "no variables\n"


# Scenarios


def test_a_scenario_from_its_making_to_its_end(aquarium: Appliance, code: Path) -> None:
    told = good(
        aquarium, "scenario", "new", "light", "--code", str(code), "--entries", '{"water": "fake.tank/temperature"}',
        "settings.word=world", "label=Light",
    )  # fmt: skip
    assert told == "light is made; raspy scenario enable light has it act\n"
    assert "there is a scenario light already" in refused(aquarium, "scenario", "new", "light", "--code", str(code))
    assert re.search(r"^light +off +no ", good(aquarium, "scenario", "list"), re.M)
    assert good(aquarium, "scenario", "run", "light") == "light is started\n"
    wait_for("its output", lambda: "hello world" in good(aquarium, "scenario", "output", "light"))
    wait_for("its end", lambda: result(aquarium, "scenario", "show", "light")["state"] == "off")
    shown = good(aquarium, "scenario", "show", "light")
    assert shown.startswith("state    off")
    assert 'water = "' in shown
    assert shown.endswith(code.read_text())
    assert good(aquarium, "scenario", "edit", "light", "settings.word=moon", "label=") == "light is changed\n"
    conf = result(aquarium, "scenario", "show", "light")["conf"]
    assert conf["settings"] == {"word": "moon"}
    assert not conf.get("label")
    assert good(aquarium, "scenario", "enable", "light") == "light acts by itself\n"
    assert re.search(r"^light +idle +yes ", good(aquarium, "scenario", "list"), re.M)
    assert good(aquarium, "scenario", "disable", "light") == "light acts by hand only\n"
    assert "not paused" in refused(aquarium, "scenario", "resume", "light")
    assert "does not run" in refused(aquarium, "scenario", "stop", "light")
    wait_for("the tree", lambda: good(aquarium, "__complete", "scenarios", "li") == "light\n")
    assert good(aquarium, "scenario", "delete", "light") == "light is deleted\n"
    assert "light" not in good(aquarium, "scenario", "list")


def test_code_is_checked_before_it_is_saved(aquarium: Appliance, tmp_path: Path, code: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("x = 1\nif x\n    pass\n")
    done = aquarium.raspy("scenario", "check", str(bad))
    assert done.returncode == 1
    assert done.stdout.startswith(f"{bad}:2:")
    assert good(aquarium, "scenario", "check", str(code)) == f"{code}: good\n"
    assert "2" in refused(aquarium, "scenario", "new", "bad", "--code", str(bad))
    assert "bad" not in result(aquarium, "scenario", "list")
    good(aquarium, "scenario", "new", "kept", "--code", str(code))
    refused(aquarium, "scenario", "edit", "kept", "--code", str(bad))
    assert result(aquarium, "scenario", "show", "kept")["code"] == code.read_text()
    good(aquarium, "scenario", "delete", "kept")


def editor(tmp_path: Path, script: str) -> str:
    """An editor that does what a script says with the file."""
    path = tmp_path / "edit or"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return f"'{path}'"


def test_an_editor_changes_code(aquarium: Appliance, tmp_path: Path, code: Path) -> None:
    good(aquarium, "scenario", "new", "edited", "--code", str(code))
    words = ("scenario", "edit", "edited")
    temporary = {"TMPDIR": str(tmp_path), "VISUAL": ""}
    done = aquarium.raspy(*words, EDITOR=editor(tmp_path, 'echo "# more" >> "$1"'), **temporary)
    assert (done.returncode, done.stdout, done.stderr) == (0, "edited is changed\n", "")
    assert result(aquarium, "scenario", "show", "edited")["code"] == code.read_text() + "# more\n"
    done = aquarium.raspy(*words, EDITOR="true", **temporary)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "raspy: nothing was changed\n")
    assert [path.name for path in tmp_path.glob("raspy-*")] == []
    # What is not saved is not lost.
    for script, said in (
        ('echo "if" >> "$1"', "line 3"),
        ('echo "# much" >> "$1"; exit 3', "ended with 3"),
        ('printf "\\377" >> "$1"', "utf-8"),
        (
            f'echo "# mine" >> "$1"; "{sys.executable}" -m raspy scenario edit edited --code "{code}" '
            f'--config "{aquarium.config}" > "{tmp_path}/other" 2>&1',
            "somebody else has changed edited meanwhile",
        ),
    ):
        before = result(aquarium, "scenario", "show", "edited")["code"]
        told = refused(aquarium, *words, EDITOR=editor(tmp_path, script), **temporary)
        assert said in told
        left = list(tmp_path.glob("raspy-*.py"))
        assert len(left) == 1
        assert f"nothing is saved, the text is in {left[0]}" in told
        assert left[0].read_bytes().startswith(before.encode())
        left[0].unlink()
    assert "cannot be started" in refused(aquarium, *words, EDITOR="/nonexistent/editor", **temporary)
    assert "is no command" in refused(aquarium, *words, EDITOR="'vi", **temporary)
    good(aquarium, "scenario", "delete", "edited")
    done = aquarium.raspy("scenario", "new", "typed", EDITOR=editor(tmp_path, 'echo "print(1)" > "$1"'), **temporary)
    assert (done.returncode, done.stderr) == (0, "")
    assert result(aquarium, "scenario", "show", "typed")["code"] == "print(1)\n"
    good(aquarium, "scenario", "delete", "typed")


def test_at_a_terminal_a_mistake_can_be_edited_again(aquarium: Appliance, tmp_path: Path, code: Path) -> None:
    good(aquarium, "scenario", "new", "again", "--code", str(code))
    script = 'if grep -q "^if$" "$1"; then echo "print(2)" > "$1"; else echo "if" >> "$1"; fi'
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "raspy", "scenario", "edit", "again", "--config", str(aquarium.config)],
            env=environment(EDITOR=editor(tmp_path, script), VISUAL="", TMPDIR=str(tmp_path)),
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        os.write(ours, b"y\n")
        with process:
            assert process.stdout is not None
            said = process.stdout.read()
        assert process.returncode == 0, said
        assert "line 2" in said
        assert "Edit it again?" in said
    finally:
        os.close(ours)
        os.close(theirs)
    assert result(aquarium, "scenario", "show", "again")["code"] == "print(2)\n"
    good(aquarium, "scenario", "delete", "again")


def test_a_loop_is_followed_and_stopped(aquarium: Appliance, tmp_path: Path) -> None:
    path = tmp_path / "loop.py"
    path.write_text(LOOP)
    good(aquarium, "scenario", "new", "loop", "--code", str(path))
    good(aquarium, "scenario", "run", "loop")
    assert "loop" in refused(aquarium, "scenario", "run", "loop")
    process = subprocess.Popen(
        [sys.executable, "-m", "raspy", "scenario", "output", "loop", "--follow", "--config", str(aquarium.config)],
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        turns = [process.stdout.readline() for _ in range(8)]
        first = int(turns[0].split()[1])
        assert turns == [f"turn {number}\n" for number in range(first, first + 8)]
        process.send_signal(signal.SIGINT)
        process.wait(LIMIT_S)
        assert process.stderr.read() == ""
        assert process.returncode == 130
    assert good(aquarium, "scenario", "stop", "loop") == "loop is being stopped\n"
    wait_for("its end", lambda: result(aquarium, "scenario", "show", "loop")["state"] == "off")
    good(aquarium, "scenario", "delete", "loop")


def test_a_failure_shows_its_own_line(aquarium: Appliance, tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text("x = 0\nprint(1 / x)\n")
    good(aquarium, "scenario", "new", "failing", "--code", str(path))
    good(aquarium, "scenario", "run", "failing")
    wait_for("its traceback", lambda: "ZeroDivisionError" in good(aquarium, "scenario", "output", "failing"))
    told = good(aquarium, "scenario", "output", "failing")
    assert "line 2" in told
    assert "print(1 / x)" in told
    good(aquarium, "scenario", "delete", "failing")


def test_export_and_import(aquarium: Appliance, tmp_path: Path, code: Path) -> None:
    for name in ("one", "two"):
        good(aquarium, "scenario", "new", name, "--code", str(code), "settings.word=°")
    document = json.loads(good(aquarium, "scenario", "export"))
    assert sorted(document["scenarios"]) == ["one", "two"]
    place = tmp_path / "scenarios.json"
    assert good(aquarium, "scenario", "export", "one", "--output", str(place)) == f"written to {place}\n"
    assert list(json.loads(place.read_text())["scenarios"]) == ["one"]
    assert "one" in refused(aquarium, "scenario", "import", str(place))
    assert "taken: one" in good(aquarium, "scenario", "import", str(place), "--replace")
    good(aquarium, "scenario", "delete", "one")
    good(aquarium, "scenario", "import", str(place))
    assert result(aquarium, "scenario", "show", "one")["conf"]["settings"] == {"word": "°"}
    place.write_text(place.read_text().replace('"version": 1', '"version": 99'))
    assert "version" in refused(aquarium, "scenario", "import", str(place), "--replace")
    for name in ("one", "two"):
        good(aquarium, "scenario", "delete", name)


def test_examples_are_shown_and_taken_over(aquarium: Appliance) -> None:
    listed = good(aquarium, "scenario", "examples")
    names = [line.split()[0] for line in listed.splitlines()[1:]]
    assert "thermostat" in names
    for name in names:
        assert f"scenario {name}\n" in good(aquarium, "scenario", "examples", name)
    assert "taken: thermostat" in good(aquarium, "scenario", "examples", "thermostat", "--import")
    assert result(aquarium, "scenario", "show", "thermostat")["state"] == "off"
    good(aquarium, "scenario", "delete", "thermostat")


# Parts


def test_a_tail_has_its_place() -> None:
    assert placed("abc\n") == (0, "abc\n")
    assert placed("[... 70 characters before this are not kept]\nabc\n") == (70, "abc\n")
    assert placed("[... many]\nabc\n") == (0, "[... many]\nabc\n")


def test_settings_are_put_together() -> None:
    words = ["label=5", "active=true", "limits.memory=64", "misfire=", "settings.a=x=y"]
    found = settings_of(words, ("label",))
    assert found == {"label": "5", "active": True, "limits": {"memory": 64}, "misfire": None, "settings": {"a": "x=y"}}
    old = {"misfire": "skip", "limits": {"cpu": 5}, "startup": True}
    assert merged(old, found) == {
        "label": "5", "active": True, "limits": {"cpu": 5, "memory": 64}, "startup": True, "settings": {"a": "x=y"},
    }  # fmt: skip
    assert old == {"misfire": "skip", "limits": {"cpu": 5}, "startup": True}


@pytest.mark.parametrize("at", [None, True, "now", [], float("nan"), 1e300, -1e300])
def test_what_is_no_time_is_no_time(at: Any) -> None:
    assert moment(at) in ("", "?")


def test_a_zone_that_is_not_known_here_is_not_named() -> None:
    assert moment(1784867405.0, "Europe/Atlantis") == moment(1784867405.0, "../../etc/passwd") == moment(1784867405.0)
    assert moment(1e300, "Europe/Paris") == "?"


def test_seconds_are_shown_where_there_are_any() -> None:
    at = time.mktime((2026, 11, 22, 8, 0, 0, 0, 0, -1))
    assert moment(at) == "Sun 2026-11-22 08:00"
    assert moment(at + 5) == "Sun 2026-11-22 08:00:05"
