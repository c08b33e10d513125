"""The chapters "A new device" and "A new server": their packages are as small as they say, and each command works."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.support_packages import commands, looks_like
from tests.support_processes import LIMIT_S, TOP, environment, wait_for

EXAMPLES = TOP / "docs" / "examples"
CHAPTERS = {"new-device.rst": "device", "new-server.rst": "server"}
LINES = 40
COMMAND_S = 110.0
"""For pip on a machine that is busy."""


@pytest.mark.parametrize("file", sorted(EXAMPLES.rglob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= LINES


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_shows_the_files_of_its_example(chapter: str) -> None:
    folder = EXAMPLES / CHAPTERS[chapter]
    text = (TOP / "docs" / chapter).read_text(encoding="utf-8")
    named = set(re.findall(rf"literalinclude:: examples/{folder.name}/(\S+)", text))
    assert named == {file.name for file in folder.iterdir() if file.is_file()}
    (lines,) = re.findall(r":emphasize-lines: (\d+)-(\d+)", text)
    project = (folder / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    shown = project[int(lines[0]) - 1 : int(lines[1])]
    assert len(shown) == 2
    assert shown[0].startswith('[project.entry-points."raspy.')


class Terminal:
    """A directory with an example's files, on an empty machine: what its chapter tells to type is typed here.

    :param example: the folder of the example
    """

    def __init__(self, example: Path) -> None:
        # The path of a socket may have 107 bytes, which pytest's own directories use up.
        self.top = Path(tempfile.mkdtemp(prefix="raspy-"))
        self.folder = self.top / "example"
        shutil.copytree(example, self.folder, ignore=shutil.ignore_patterns("__pycache__"))
        self.site = self.top / "site"
        self.site.mkdir()
        self.running: subprocess.Popen[str] | None = None
        self._program("raspy", f'exec "{sys.executable}" -m raspy "$@"')
        self._program("python", f'exec "{sys.executable}" "$@"')
        self._program("pip", f'PYTHONPATH="{TOP}" exec "{sys.executable}" -m tests.support_packages "{self.site}" "$@"')
        (self.top / "temp").write_text("48312\n")
        self.environment = environment(
            PATH=f"{self.top}/bin:{os.environ['PATH']}",
            PYTHONPATH=f"{self.site}:{TOP}",
            XDG_STATE_HOME=str(self.top),
            RASPY_BUS_BROKER_IP=f"ipc://{self.top}",
            RASPY_BUS_HOSTNAME="pi",
        )
        if example.name == "server":
            # A machine without such a thermometer.
            self.environment["RASPY_THERMAL_FILE"] = str(self.top / "temp")
        else:
            # Of the whole appliance, whose page would take a port, what has to do with it.
            self.environment["RASPY_RUN_SERVERS"] = '["broker", "titanic", "fake"]'

    def _program(self, name: str, text: str) -> None:
        file = self.top / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)

    def type(self, command: str, shown: str) -> None:
        """Do what a line says, until it prints what is shown: a server may not be up yet, nor a value there."""
        if command == "raspy run":
            with open(self.top / "log", "w", encoding="utf-8") as log:
                # In one process, which gets the signals.
                self.running = self._start(f"exec {command}", log)
            return
        printed = ""

        def done() -> bool:
            nonlocal printed
            process = self._start(command)
            printed = process.communicate(timeout=COMMAND_S)[0]
            good = (process.returncode == 0) != shown.startswith("raspy: ")
            return (good and looks_like(shown, printed)) or (self.running is None and pytest.fail(printed))

        try:
            wait_for(command, done, LIMIT_S * 2)
        except AssertionError:
            raise AssertionError(f"$ {command}\n{printed}\nshown is:\n{shown}") from None
        finally:
            print(f"$ {command}\n{printed}")

    def _start(self, command: str, log: IO[str] | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if log is None else log,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def close(self) -> str:
        """End what runs; return what it logged."""
        log = ""
        if self.running is not None:
            self.running.send_signal(signal.SIGTERM)
            code = self.running.wait(LIMIT_S * 2)
            log = (self.top / "log").read_text(encoding="utf-8")
            assert code == 0, log
        shutil.rmtree(self.top, ignore_errors=True)
        return log


@pytest.fixture
def terminal(request: pytest.FixtureRequest) -> Iterator[Terminal]:
    made = Terminal(EXAMPLES / CHAPTERS[request.param])
    yield made
    if made.top.exists():
        made.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("terminal", "chapter"), [(name, name) for name in CHAPTERS], indirect=["terminal"])
def test_every_command_of_a_chapter_works(terminal: Terminal, chapter: str) -> None:
    on_a_pi = ("sudo ", "systemctl ")
    typed = [(command, shown) for command, shown in commands(chapter) if not command.startswith(on_a_pi)]
    assert [command for command, _ in typed][:1] == ["pip install ."]
    assert "raspy run" in [command for command, _ in typed]
    assert len(typed) >= 9
    for command, shown in typed:
        terminal.type(command, shown)
    log = terminal.close()
    assert "Traceback" not in log
    assert "restarting in" not in log.replace("restarting in 0.2 s", "", 1)
