"""What an update keeps of the state, and puts back."""

from __future__ import annotations

import errno
import importlib.machinery
import importlib.util
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support_processes import TOP

PROGRAM = TOP / "ansible/files/go-back"
OLD, NEW = "/opt/raspy/releases/1", "/opt/raspy/releases/2"


@pytest.fixture
def program(tmp_path: Path) -> ModuleType:
    """It, with a directory of its own instead of the machine's; which release is used goes to a file."""
    loader = importlib.machinery.SourceFileLoader("go_back", str(PROGRAM))
    spec = importlib.util.spec_from_loader("go_back", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    module.OPT, module.STATE, module.WANTS = tmp_path / "opt", tmp_path / "state", tmp_path / "wants"
    module.KEPT = module.OPT / "kept"
    module.NOTE, module.RUNS_WITH = module.KEPT / "note.json", module.OPT / "runs-with"
    for path in (module.OPT, module.STATE / "core", module.STATE / "titanic", module.WANTS):
        path.mkdir(parents=True)
    for server in ("core", "titanic"):
        (module.WANTS / f"raspy-{server}.service").symlink_to("/nowhere")
    module.RUNS_WITH.write_text(OLD)
    release = module.OPT / "release"
    release.write_text(f'#!/bin/sh\necho "$@" >{module.OPT}/used\n')
    release.chmod(0o755)
    return module


def database(program: ModuleType, name: str, version: int, row: str) -> Path:
    """One with a schema and one more row."""
    path = program.STATE / name
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS t (x TEXT)")
        connection.execute(f"PRAGMA user_version = {version}")
        connection.execute("INSERT INTO t VALUES (?)", (row,))
    connection.close()
    return Path(path)


def rows(path: Path) -> list[str]:
    """What is in it."""
    connection = sqlite3.connect(path)
    try:
        return [row for (row,) in connection.execute("SELECT x FROM t ORDER BY rowid")]
    finally:
        connection.close()


def test_only_a_database_of_another_schema_is_put_back(program: ModuleType) -> None:
    core = database(program, "core/core.db", 3, "before")
    titanic = database(program, "titanic/requests.db", 5, "before")
    core.chmod(0o640)
    program.keep(OLD)
    database(program, "core/core.db", 4, "after")
    database(program, "titanic/requests.db", 5, "acknowledged")
    program.RUNS_WITH.write_text(NEW)
    program.put_back(json.loads(program.NOTE.read_text()))
    assert (rows(core), core.stat().st_mode & 0o777) == (["before"], 0o640)
    assert rows(core.with_name("core.db.before-going-back")) == ["before", "after"]
    assert rows(titanic) == ["before", "acknowledged"]
    assert program.RUNS_WITH.read_text() == OLD
    assert (program.OPT / "used").read_text() == f"use {OLD} --servers core,titanic\n"


def test_what_a_killed_server_has_left_in_the_journal_is_kept(program: ModuleType) -> None:
    core = program.STATE / "core/core.db"
    script = (
        f"import os, sqlite3\nc = sqlite3.connect({str(core)!r}, isolation_level=None)\n"
        "c.execute('PRAGMA journal_mode = WAL')\nc.execute('CREATE TABLE t (x TEXT)')\n"
        "c.execute('PRAGMA user_version = 3')\nc.execute(\"INSERT INTO t VALUES ('in the journal')\")\nos._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    assert core.with_name("core.db-wal").stat().st_size
    program.keep(OLD)
    database(program, "core/core.db", 4, "after")
    program.put_back(json.loads(program.NOTE.read_text()))
    assert rows(core) == ["in the journal"]


def test_a_large_or_damaged_database_is_left_alone(program: ModuleType) -> None:
    program.LARGEST = 8192
    large = database(program, "core/core.db", 3, "x" * 20_000)
    damaged = program.STATE / "titanic/requests.db"
    damaged.write_bytes(b"no database " * 1000)
    program.keep(OLD)
    database(program, "core/core.db", 4, "after")
    program.put_back(json.loads(program.NOTE.read_text()))
    assert rows(large)[1:] == ["after"]
    assert damaged.read_bytes() == b"no database " * 1000


def test_a_copy_that_was_not_finished_is_none(program: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    database(program, "core/core.db", 3, "before")
    program.keep(OLD)
    assert program.NOTE.exists()

    full(program, monkeypatch, "core-core.db")
    with pytest.raises(OSError, match="No space"):
        program.keep(OLD)
    assert not program.KEPT.exists(), "half a copy is left on the full disk"


def full(program: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Have the disk full when a file of that name is written."""
    copyfileobj = shutil.copyfileobj

    def write(source: Any, target: Any, size: int) -> None:
        if os.readlink(f"/proc/self/fd/{target.fileno()}").endswith(f"/{name}"):
            target.write(source.read(100))
            raise OSError(errno.ENOSPC, "No space left on device")
        copyfileobj(source, target, size)

    monkeypatch.setattr(program.shutil, "copyfileobj", write)


def test_a_full_disk_loses_no_database_and_going_back_goes_on_later(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = database(program, "core/core.db", 3, "before")
    titanic = database(program, "titanic/requests.db", 5, "before")
    program.keep(OLD)
    database(program, "core/core.db", 4, "after")
    database(program, "titanic/requests.db", 6, "after")
    with monkeypatch.context() as patch:
        full(program, patch, "core.db.going-back")
        with pytest.raises(OSError, match=r"core\.db: No space.* back again"):
            program.put_back(json.loads(program.NOTE.read_text()))
    assert rows(core) == ["before", "after"]
    assert rows(titanic) == ["before"]
    assert [path.name for path in core.parent.iterdir()] == ["core.db"]
    database(program, "titanic/requests.db", 5, "since")
    program.put_back(json.loads(program.NOTE.read_text()))
    assert (rows(core), rows(titanic)) == (["before"], ["before", "since"])
    assert rows(core.with_name("core.db.before-going-back")) == ["before", "after"]


def test_a_database_is_there_at_every_moment(program: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    core = database(program, "core/core.db", 3, "before")
    program.keep(OLD)
    database(program, "core/core.db", 4, "after")

    def dies(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    newer = core.read_bytes()
    # What could not be got into it.
    monkeypatch.setattr(program, "schema", lambda _: None)
    core.with_name("core.db-wal").write_bytes(b"newer")
    for name in ("link", "rename", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(program.os, name, dies)
            with pytest.raises(KeyboardInterrupt):
                program.put_back(json.loads(program.NOTE.read_text()))
        assert core.read_bytes() == newer
    calls = iter([os.rename])
    with monkeypatch.context() as patch:
        # The journal is moved, the database not yet.
        patch.setattr(program.os, "rename", lambda *words, **more: next(calls, dies)(*words, **more))
        with pytest.raises(KeyboardInterrupt):
            program.put_back(json.loads(program.NOTE.read_text()))
    assert core.read_bytes() == newer
    program.put_back(json.loads(program.NOTE.read_text()))
    assert rows(core) == ["before"]
    aside = core.with_name("core.db.before-going-back")
    assert (aside.read_bytes(), aside.with_name(f"{aside.name}-wal").read_bytes()) == (newer, b"newer")


@pytest.mark.parametrize("end", [".new", ".going-back", ".before-going-back", "-wal", "-shm", "-journal", ""])
def test_a_link_of_a_server_is_not_followed(program: ModuleType, tmp_path: Path, end: str) -> None:
    mine = tmp_path / "shadow"
    mine.write_text("root's\n")
    mine.chmod(0o640)
    core = database(program, "core/core.db", 3, "before")
    program.keep(OLD)
    database(program, "core/core.db", 4, "after")
    link = Path(f"{core}{end}")
    if not end:
        core.unlink()
    link.symlink_to(mine)
    before = mine.stat()
    program.put_back(json.loads(program.NOTE.read_text()))
    assert rows(core) == ["before"]
    assert not core.is_symlink()
    after = mine.stat()
    assert mine.read_text() == "root's\n"
    assert (after.st_mode, after.st_uid, after.st_ino) == (before.st_mode, before.st_uid, before.st_ino)


def test_a_link_of_a_server_is_not_copied(program: ModuleType, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.db"
    with sqlite3.connect(theirs) as connection:
        connection.execute("PRAGMA user_version = 3")
    connection.close()
    (program.STATE / "core/core.db").symlink_to(theirs)
    os.mkfifo(program.STATE / "core/pipe.db")
    (program.STATE / "away").symlink_to(program.STATE / "titanic")
    database(program, "titanic/requests.db", 5, "before")
    program.keep(OLD)
    assert [name for name, *_ in json.loads(program.NOTE.read_text())["databases"]] == [
        str(program.STATE / "titanic/requests.db")
    ]


def test_it_says_how_it_is_used() -> None:
    done = subprocess.run([sys.executable, str(PROGRAM), "forth"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: go-back" in done.stderr
    assert os.access(PROGRAM, os.R_OK)
