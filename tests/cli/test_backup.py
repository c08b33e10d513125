"""raspy backup and raspy restore, as an owner types them."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raspy.common.backup.format import verify
from tests.support_processes import Appliance, environment


def run(appliance: Appliance, *words: str, **added: str) -> subprocess.CompletedProcess[str]:
    return appliance.raspy(*words, **{"XDG_STATE_HOME": str(appliance.directory), **added})


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_backup_is_named_by_host_and_date(appliance: Appliance, tmp_path: Path) -> None:
    done = run(appliance, "backup", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    (name,) = os.listdir(tmp_path)
    assert re.fullmatch(r"raspy-pi-\d{8}-\d{6}\.backup", name)
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    assert re.search(r"^fake: (nothing yet|devices\.json \(1 kB\))$", done.stdout, re.M)
    assert f"written to {tmp_path / name}, " in done.stdout
    done = run(appliance, "restore", "--check", str(tmp_path / name))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{tmp_path / name}: of pi, ")
    assert done.stdout.endswith("The file is good.\n")


def test_a_program_is_told_in_lines_of_json(appliance: Appliance, tmp_path: Path) -> None:
    path = tmp_path / "x.backup"
    done = run(appliance, "backup", str(path), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    *progress, result = lines(done.stdout)
    assert {event["event"] for event in progress} == {"progress"}
    assert ("save", "fake") in {(event["step"], event.get("server")) for event in progress}
    assert all(0 <= event["done"] <= event["of"] for event in progress)
    assert result["event"] == "result"
    assert result["file"] == str(path)
    assert result["size"] == path.stat().st_size
    assert list(result["servers"]) == ["fake"]
    assert result["left"] == {}
    *_, result = lines(run(appliance, "restore", str(path), "--check", "--json").stdout)
    assert (result["event"], result["good"], result["host"]) == ("result", True, "pi")
    path.write_bytes(path.read_bytes()[:-1])
    done = run(appliance, "restore", str(path), "--yes", "--json")
    assert done.returncode == 1
    assert lines(done.stdout)[-1] == {"event": "error", "error": done.stderr.removeprefix("raspy: ").strip()}
    assert "ends too early" in done.stderr


def test_a_backup_can_be_piped(appliance: Appliance, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "raspy", "backup", "-", "--config", str(appliance.config)],
        env=environment(XDG_STATE_HOME=str(appliance.directory)),
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    path = tmp_path / "x.backup"
    path.write_bytes(done.stdout)
    assert verify(str(path), "x").servers == ["fake"]


@pytest.mark.parametrize(("to", "code", "said"), [("> /dev/full", 1, "No space left"), ("| true", 141, "")])
def test_an_output_that_takes_nothing_is_told(appliance: Appliance, to: str, code: int, said: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f'"$0" -m raspy backup - --config "$1" {to}; exit "${{PIPESTATUS[0]}}"',
         sys.executable, str(appliance.config)],
        env=environment(XDG_STATE_HOME=str(appliance.directory)),
        capture_output=True,
        text=True,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == code
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == bool(said)


def test_what_one_that_was_killed_has_left_is_removed(appliance: Appliance, tmp_path: Path) -> None:
    (tmp_path / ".raspy-1.part").write_text("secret")
    (tmp_path / ".raspy-2.part").write_text("of one that runs")
    (tmp_path / ".raspy-x.part").write_text("no file of ours")
    with open(tmp_path / ".raspy-2.part") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert run(appliance, "backup", str(tmp_path / "x.backup")).returncode == 0
    assert sorted(os.listdir(tmp_path)) == [".raspy-2.part", ".raspy-x.part", "x.backup"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["backup", "-", "--json"], 2, "both want standard output"),
        (["backup", "/dev/full"], 1, "/dev/full: is not a file"),
        (["backup", "/nowhere/x.backup"], 1, "/nowhere/x.backup cannot be written: No such file or directory"),
        (["restore"], 2, "FILE"),
        (["restore", "/nowhere/x.backup"], 1, "/nowhere/x.backup: cannot be read: No such file or directory"),
        (["restore", "/dev/null", "--check"], 1, "is not a file"),
        (["restore", "/etc/passwd", "--check"], 1, "is no backup of RasPy"),
    ],
)
def test_wrong_use_is_one_line(appliance: Appliance, words: list[str], code: int, said: str) -> None:
    done = run(appliance, *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_restore_wants_a_yes(appliance: Appliance, tmp_path: Path) -> None:
    path = tmp_path / "x.backup"
    assert run(appliance, "backup", str(path)).returncode == 0
    done = run(appliance, "restore", str(path))
    assert (done.returncode, done.stderr) == (2, "raspy: restore: it replaces what the servers have: say --yes\n")


def test_another_exchange_is_told(appliance: Appliance, tmp_path: Path) -> None:
    done = run(appliance, "backup", str(tmp_path / "x.backup"), RASPY_EXCHANGE=str(tmp_path / "exchange"))
    assert done.returncode == 1
    assert "RASPY_EXCHANGE or XDG_STATE_HOME must be the same" in done.stderr
    assert os.listdir(tmp_path) == ["exchange"]


def test_without_a_broker_it_is_one_line(tmp_path: Path) -> None:
    config = tmp_path / "raspy.toml"
    config.write_text(f'[bus]\nhostname = "pi"\nbroker_ip = "ipc://{tmp_path}"\n[run]\nservers = ["broker"]\n')
    done = subprocess.run(
        [sys.executable, "-m", "raspy", "backup", str(tmp_path / "x"), "--config", str(config)],
        env=environment(XDG_STATE_HOME=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "does not answer: is it running (raspy run)?" in done.stderr
    assert not (tmp_path / "x").exists()
