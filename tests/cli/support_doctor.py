"""A machine that is made up for `raspy doctor`: below ``$RASPY_TEST_ROOT``, with stand-ins for programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from raspy.cli import doctor
from raspy.cli.command import Request, parser_of
from raspy.cli.doctor.check import CHECKS, Finding, Look, findings


class Root:
    """The root of a machine of its own, with a configuration.

    :param directory: it is made there
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / "root"
        self.programs = directory / "programs"
        self.config = directory / "raspy.toml"
        self.path.mkdir()
        self.programs.mkdir()
        self.write(f'[bus]\nhostname = "pi"\nbroker_ip = "ipc://{directory}"\n[run]\nservers = ["broker"]\n')

    def write(self, text: str) -> None:
        """Have another configuration."""
        self.config.write_text(text)

    def put(self, path: str, text: str = "", mode: int = 0o644) -> Path:
        """A file of the machine."""
        file = self.path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)
        return file

    def folder(self, path: str, mode: int = 0o755) -> Path:
        """A directory of the machine."""
        made = self.path / path
        made.mkdir(parents=True, exist_ok=True)
        made.chmod(mode)
        return made

    def program(self, name: str, script: str) -> None:
        """A stand-in for a program, in sh."""
        file = self.programs / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have this process look at it."""
        monkeypatch.setenv("RASPY_TEST_ROOT", str(self.path))
        monkeypatch.setenv("RASPY_KEYS", str(self.path / "etc" / "raspy" / "keys"))
        monkeypatch.setenv("XDG_STATE_HOME", str(self.path / "home"))
        monkeypatch.setenv("PATH", f"{self.programs}:/usr/bin:/bin")

    @property
    def added(self) -> dict[str, str]:
        """The environment in which a command looks at it."""
        return {
            "RASPY_TEST_ROOT": str(self.path),
            "RASPY_KEYS": str(self.path / "etc" / "raspy" / "keys"),
            "XDG_STATE_HOME": str(self.path / "home"),
            "PATH": f"{self.programs}:/usr/bin:/bin",
        }

    def look(self, *words: str) -> Look:
        """What the checks look at."""
        given = words or ("--config", str(self.config))
        return Look(Request(parser_of("doctor", doctor).parse_args(given)))

    def check(self, name: str, *words: str) -> list[Finding]:
        """What one check finds, in this process."""
        assert doctor._load() == []
        return findings(name, CHECKS[name], self.look(*words))

    def results(self, name: str, *words: str) -> list[str]:
        """The results alone."""
        return [each.result for each in self.check(name, *words)]
