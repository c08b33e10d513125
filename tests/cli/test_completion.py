"""Completion scripts."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

import pytest

from raspy.cli import COMMANDS
from raspy.common.registry import SERVERS
from tests.support import need_program
from tests.support_processes import environment, raspy


@functools.cache
def script(shell: str) -> str:
    """What makes a shell complete."""
    done = raspy("completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def completed(tmp_path: Path, line: str, offered: str = "") -> list[str]:
    """What bash offers for a line; a stand-in for raspy on the PATH says what is on the bus."""
    stand_in = tmp_path / "bin" / "raspy"
    stand_in.parent.mkdir(exist_ok=True)
    stand_in.write_text(f"#!/bin/sh\necho '{offered}'\n")
    stand_in.chmod(0o755)
    words = line.split(" ")
    program = (
        f"{script('bash')}\n"
        f"COMP_WORDS=({' '.join(map(repr, words))}); COMP_CWORD={len(words) - 1}; _raspy\n"
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    path = f"{stand_in.parent}:{environment()['PATH']}"
    done = subprocess.run(
        [need_program("bash"), "--norc", "-c", program],
        env=environment(PATH=path),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes(tmp_path: Path) -> None:
    assert completed(tmp_path, "raspy sta") == ["status"]
    assert set(completed(tmp_path, "raspy ")) == {*COMMANDS, "--help", "--version"}
    assert completed(tmp_path, "raspy server ") == list(SERVERS)
    assert completed(tmp_path, "raspy make-safe br") == ["broker"]
    # Those of other packages.
    assert completed(tmp_path, "raspy server t", "thermal") == ["titanic", "thermal"]
    assert completed(tmp_path, "raspy restart the", "thermal") == ["thermal"]
    assert completed(tmp_path, "raspy device new f") == ["fake"]
    assert completed(tmp_path, "raspy watch --") == ["--help", "--count", "--for", "--json", "--config"]
    assert completed(tmp_path, "raspy completion z") == ["zsh"]
    assert completed(tmp_path, "raspy status ") == []
    assert completed(tmp_path, "raspy --json sta") == ["status"]
    assert completed(tmp_path, "raspy --config some.toml --json sta") == ["status"]
    assert completed(tmp_path, "raspy --json server --json br") == ["broker"]
    assert completed(tmp_path, "raspy server broker br") == []
    assert completed(tmp_path, "raspy help sta") == ["status"]
    keys = "/device/pi.fake.tank/level"
    assert completed(tmp_path, "raspy get /dev", keys) == [keys]
    assert completed(tmp_path, "raspy call pi", "pi.fake.mmi") == ["pi.fake.mmi"]
    assert completed(tmp_path, "raspy request pi", "pi.fake.mmi") == ["pi.fake.mmi"]
    assert completed(tmp_path, "raspy store ") == ["get", "set", "delete", "list", "export", "import"]
    assert completed(tmp_path, "raspy queue r") == ["retry"]
    assert completed(tmp_path, "raspy store set --") == ["--help", "--version", "--json", "--config"]
    assert completed(tmp_path, "raspy store lamp export --") == ["--help", "--json", "--config"]
    assert completed(tmp_path, "raspy queue list ") == ["pending", "parked", "late", "done"]
    assert completed(tmp_path, "raspy queue list late ") == []
    assert completed(tmp_path, "raspy queue info ") == []
    for known in ("scenario run", "scenario edit", "cron show", "variable set"):
        assert completed(tmp_path, f"raspy {known} fe", "feeding") == ["feeding"]
    assert completed(tmp_path, "raspy variable ") == ["list", "get", "set", "delete"]
    assert completed(tmp_path, "raspy scenario check ", "feeding") == []
    assert completed(tmp_path, "raspy request --lifetime 3 --no-wait pi", "pi.fake.mmi") == ["pi.fake.mmi"]
    assert completed(tmp_path, "raspy request --lifetime ", "pi.fake.mmi") == []
    assert completed(tmp_path, "raspy request pi.fake.mmi --timeout 3 pi", "pi.fake.mmi") == []
    (tmp_path / "my.toml").write_text("")
    assert completed(tmp_path, "raspy status --config my") == ["my.toml"]
    assert completed(tmp_path, "raspy store export --output my") == ["my.toml"]
    assert completed(tmp_path, "raspy scenario new light --code my") == ["my.toml"]
    assert completed(tmp_path, "raspy doctor --report my") == ["my.toml"]
    assert completed(tmp_path, "raspy doctor --re") == ["--report"]


FISH = {
    "raspy sta": ["status"],
    "raspy help sta": ["status"],
    "raspy server br": ["broker"],
    "raspy restart /dev": ["/device/level"],
    "raspy --json --config x.toml queue list ": ["pending", "parked", "late", "done"],
    "raspy queue list late ": [],
    "raspy watch --count 3 ": ["/device/level"],
    "raspy request --lifetime 3 ": ["/device/level"],
    "raspy request --lifetime 3 pi ": [],
    "raspy store set --": ["--help", "--version", "--json", "--config"],
    "raspy store --": ["--help", "--json", "--config"],
}


def test_fish_completes(tmp_path: Path) -> None:
    """In one shell: it takes a second to start."""
    (tmp_path / "raspy.fish").write_text(script("fish"))
    stand_in = tmp_path / "raspy"
    stand_in.write_text("#!/bin/sh\necho /device/level\n")
    stand_in.chmod(0o755)
    program = "; ".join(["source raspy.fish", *(f"echo '==' {line!r}; complete -C {line!r}" for line in FISH)])
    done = subprocess.run(
        [need_program("fish"), "--no-config", "-c", program],
        env=environment(PATH=f"{tmp_path}:{environment()['PATH']}", HOME=str(tmp_path)),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert done.stderr == ""
    found: dict[str, list[str]] = {}
    for row in done.stdout.splitlines():
        if row.startswith("== "):
            offered = found[row.removeprefix("== ")] = []
        else:
            offered.append(row.split("\t")[0])
    assert {line: sorted(words) for line, words in found.items()} == {
        line: sorted(words) for line, words in FISH.items()
    }


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_script_knows_commands_options_and_servers(shell: str) -> None:
    for word in (*COMMANDS, *SERVERS, "offline", "__complete keys", "__complete services"):
        assert word in script(shell)
