"""raspy backup and raspy restore in this process, of one server that keeps something."""

from __future__ import annotations

import fcntl
import io
import json
import os
import signal
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import pytest

from raspy.cli import OutputError, backup, restore
from raspy.common.backup import client, desk, servers
from raspy.common.backup.client import Coordinator
from raspy.common.backup.parts import BackupError
from raspy.common.config import ConfigError
from tests.cli.support_here import Here
from tests.support_keepers import Running, keepers

BACK = {
    "host": "pi",
    "version": "0",
    "time": 0.0,
    "servers": {},
    "restored": ["a", "b"],
    "left": {},
    "kept": [],
    "late": [],
}


@pytest.fixture
def fake(here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """The only server of an appliance; it keeps notes."""
    for name in ("STATE_DIRECTORY", "RASPY_EXCHANGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for module in (servers, client):
        monkeypatch.setattr(module, "POLL", 0.01)
    monkeypatch.setattr(desk, "LOOK", 0.1)
    here.config.write_text(here.config.read_text() + '[run]\nservers = ["broker", "fake"]\n')
    with keepers(here.bus, "fake") as (made,):
        yield made


class Terminal(io.StringIO):
    """A terminal, at which somebody may say something."""

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return 0


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


# ---------------------------------------------------------------- backup


def test_a_backup_and_what_is_done_with_it(here: Here, fake: Running, tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / ".raspy-1.part").write_text("left by one that was killed")
    (tmp_path / "to" / ".raspy-2.part").symlink_to("/etc/passwd")
    (tmp_path / "to" / ".raspy-3.part").write_text("of one that runs")
    (tmp_path / "to" / ".raspy-4.part").mkdir()
    with open(tmp_path / "to" / ".raspy-3.part") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = here.raspy("backup", str(tmp_path / "to"))
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(os.listdir(tmp_path / "to"))[:3] == [".raspy-2.part", ".raspy-3.part", ".raspy-4.part"]
    (path,) = (tmp_path / "to").glob("raspy-pi-*.backup")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first, second, third = done.stdout.splitlines()
    assert first == "fake: notes.json (1 kB)"
    assert second == f"written to {path}, 1 kB"
    assert third == "It holds passwords and keys: keep it as safe as those."
    fake.write("changed")
    done = here.raspy("restore", str(path), "--yes")
    assert (done.returncode, done.stdout, done.stderr) == (0, "restored: fake\n", "")
    assert fake.read() == "fake"


def test_lines_of_json_tell_it_all(here: Here, fake: Running, tmp_path: Path) -> None:
    path = str(tmp_path / "x.backup")
    *told, result = lines(here.raspy("backup", path, "--json").stdout)
    assert [event["step"] for event in told if event["event"] == "progress"][-1] == "write"
    assert (result["event"], result["file"], result["size"]) == ("result", path, os.path.getsize(path))
    *told, result = lines(here.raspy("restore", path, "--json", "--yes").stdout)
    steps = [event["step"] for event in told]
    assert steps[0] == "verify"
    assert steps[-2:] == ["decide", "restart"]
    assert (result["restored"], result["late"]) == (["fake"], [])
    Path(path).write_bytes(b"x" * 100)
    done = here.raspy("restore", path, "--json", "--yes")
    assert done.returncode == 1
    assert lines(done.stdout)[-1] == {"event": "error", "error": done.stderr.removeprefix("raspy: ").strip()}


def test_a_terminal_is_told_in_one_line(
    here: Here, fake: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Terminal()
    monkeypatch.setattr(sys, "stderr", told)
    assert here.raspy("backup", str(tmp_path / "x.backup")).returncode == 0
    assert "\n" not in told.getvalue()
    said = told.getvalue().split("\r\x1b[K")
    assert said[0] == said[-1] == "", "it is left as it was"
    assert any(each.startswith("saving fake") for each in said)
    assert "writing the file 100 %" in said


def test_progress_is_told_at_a_pace(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    progress = backup.Progress(True)
    for done in range(100):
        progress({"step": "write", "done": done, "of": 100})
    progress({"step": "write", "done": 100, "of": 100})
    told = [event["done"] for event in lines(capsys.readouterr().out)]
    assert told[0] == 0
    assert told[-1] == 100, "the end is always told"
    assert len(told) < 100
    progress.end()
    assert capsys.readouterr() == ("", ""), "there is no terminal to be cleared"


def test_nobody_who_reads_stops_no_restore(monkeypatch: pytest.MonkeyPatch, full: TextIO) -> None:
    monkeypatch.setattr(sys, "stdout", full)
    progress = backup.Progress(True)
    progress({"step": "decide"})
    progress({"step": "restart", "server": "fake"})
    with pytest.raises(OutputError):
        backup.line({"event": "result"})


@pytest.fixture
def full() -> Iterator[TextIO]:
    """A stream on a disk that is full."""
    file = open("/dev/full", "w")  # noqa: SIM115  its end fails, too
    yield file
    with pytest.raises(OSError, match="No space left"):
        file.close()


def test_standard_output_is_what_a_backup_is_written_to(
    here: Here, fake: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.backup"
    with open(path, "w") as file, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", file)
        done = here.raspy("backup", "-", "--partial")
    assert (done.returncode, done.stderr) == (0, "")
    assert here.raspy("restore", "--check", str(path)).stdout.endswith("The file is good.\n")
    # It is no part of a file, and is told all the same.
    here.config.write_text(here.config.read_text().replace('["broker", "fake"]', '["broker", "fake", "alarm"]'))
    with open(path, "w") as file, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", file)
        done = here.raspy("backup", "-", "--partial")
    assert (done.returncode, done.stderr) == (0, "raspy: alarm: NOT in it: it does not run\n")
    assert "alarm: NOT in it: it does not run\n" in here.raspy("backup", str(path), "--partial").stdout
    assert here.refused("backup", str(path)).startswith("alarm: it does not run. Start it, or say --partial")


def test_an_output_that_takes_nothing_is_told(monkeypatch: pytest.MonkeyPatch, full: TextIO) -> None:
    monkeypatch.setattr(sys, "stdout", full)
    assert backup.Output().fileno() == full.fileno()
    with pytest.raises(OutputError) as error:
        backup.Output().write(b"x")
    assert error.value.error.strerror == "No space left on device"


def test_what_goes_nowhere_is_wrong_use(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        here.refused("backup", "-", "--json", code=2) == "backup: - and --json both want standard output: name a file"
    )
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert here.raspy("backup", "-").returncode == 2
    assert sys.stdout.getvalue() == ""  # type: ignore[attr-defined]


def test_what_is_no_file_is_left_as_it_is(here: Here, fake: Running, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert here.refused("backup", str(pipe)) == f"{pipe}: is not a file"
    place = f"{tmp_path}/nowhere/x"
    assert here.refused("backup", place) == f"{place} cannot be written: No such file or directory"
    long = f"{tmp_path}/{'x' * 300}"
    assert here.refused("backup", long) == f"{long} cannot be written: File name too long"
    assert os.listdir(tmp_path / "state/raspy/fake") == ["notes.json"]
    assert sorted(os.listdir(tmp_path)) == ["pipe", "state"], "no part of a file stays"


def test_a_backup_that_fails_leaves_what_was_there(
    here: Here, fake: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.backup"
    path.write_text("older")

    def broken(*_: object) -> None:
        raise BackupError("it is broken")

    with monkeypatch.context() as patch:
        patch.setattr(Coordinator, "backup", broken)
        assert here.refused("backup", str(path)) == "it is broken"

    def terminated(*_: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Coordinator, "backup", terminated)
        assert here.raspy("backup", str(path)).returncode == 130, "as Ctrl-C"
    assert sorted(os.listdir(tmp_path)) == ["state", "x.backup"]
    assert path.read_text() == "older"


def test_a_server_that_is_not_installed_keeps_nothing(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    here.config.write_text(here.config.read_text() + '[run]\nservers = ["core", "broker", "fake", "web"]\n')
    load = backup.load_class

    def without_web(name: str) -> Any:
        if name == "web":
            raise ConfigError("web: bottle is missing")
        return load(name)

    monkeypatch.setattr(backup, "load_class", without_web)
    # In our order, not that of the configuration.
    assert set(backup.keepers(here.request("backup", backup))) == {"core", "fake"}


def test_amounts() -> None:
    assert [backup.amount(count) for count in (0, 1, 1000, 1001, 999_999, 1e6, 2.55e9)] == [
        "0 kB", "1 kB", "1 kB", "2 kB", "1000 kB", "1.0 MB", "2550.0 MB",
    ]  # fmt: skip


# ---------------------------------------------------------------- restore


def test_an_owner_is_asked(here: Here, fake: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "x.backup")
    assert here.raspy("backup", path).returncode == 0
    fake.write("changed")
    assert here.refused("restore", path, code=2) == "restore: it replaces what the servers have: say --yes"
    for word in ("", "n\n", "\n", "yess\n"):
        monkeypatch.setattr(sys, "stdin", Terminal(word))
        done = here.raspy("restore", path)
        assert (done.returncode, done.stderr) == (1, "raspy: nothing was changed\n")
        first, second, question = done.stdout.splitlines()
        assert first.startswith(f"{path}: of pi, ")
        assert second == "fake: notes.json (1 kB)"
        assert question.endswith("Replace what they have? [y/N] ")
        assert fake.read() == "changed"
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    assert here.raspy("restore", path, "--json").returncode == 2, "a program is not asked"
    monkeypatch.setattr(sys, "stdin", Terminal(" Yes \n"))
    done = here.raspy("restore", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("restored: fake\n")
    assert fake.read() == "fake"


def test_one_that_is_not_back_yet_is_3(
    here: Here, fake: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "x.backup")
    assert here.raspy("backup", path).returncode == 0
    monkeypatch.setattr(Coordinator, "restore", lambda *_: {**BACK, "late": ["b"]})
    late = "it is decided, and not over: b not back yet; each takes what is restored when it starts"
    done = here.raspy("restore", path, "--yes")
    assert (done.returncode, done.stdout, done.stderr) == (3, f"restored: a\n{late}\n", "")
    done = here.raspy("restore", path, "--yes", "--json")
    assert (done.returncode, done.stderr) == (3, f"raspy: {late}\n")
    events = lines(done.stdout)
    assert (events[-1]["event"], events[-1]["late"]) == ("result", ["b"])


def test_what_a_restore_has_done(capsys: pytest.CaptureFixture[str]) -> None:
    restore.show({**BACK, "restored": ["a"], "late": ["a"], "left": {"c": "it does not run\x1b[2J"}, "kept": ["d"]})
    first, second, third, _ = capsys.readouterr().out.splitlines()
    assert first == "restored: none yet"
    assert second.startswith("c: NOT restored: it does not run")
    assert second.isprintable()
    assert third == "d: is not in the backup, and keeps what it has"
    assert (restore.code(BACK), restore.code({**BACK, "late": ["a"]}), restore.code({"good": True})) == (0, 3, 0)
