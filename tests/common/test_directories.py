"""Where the files of a server are, and those of a backup."""

from __future__ import annotations

from pathlib import Path

import pytest

from raspy.common import directories
from raspy.common.directories import exchange_directory, state_directory


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("STATE_DIRECTORY", "XDG_STATE_HOME", "RASPY_EXCHANGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(directories, "EXCHANGE", str(tmp_path / "nowhere"))


def test_the_state_is_where_systemd_says_or_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert state_directory("core") == str(tmp_path / "home/.local/state/raspy/core")
    monkeypatch.setenv("XDG_STATE_HOME", "/var/other")
    assert state_directory("core") == "/var/other/raspy/core"
    # systemd gives all that the unit names, the server's own first.
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/raspy/core:/var/lib/raspy/more")
    assert state_directory("core") == "/var/lib/raspy/core"


def test_the_exchange_is_where_it_is_said_or_that_of_an_installed_pi_or_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert exchange_directory() == str(tmp_path / "home/.local/state/raspy/exchange")
    monkeypatch.setenv("XDG_STATE_HOME", "/var/other")
    assert exchange_directory() == "/var/other/raspy/exchange"
    shared = tmp_path / "exchange"
    shared.mkdir()
    monkeypatch.setattr(directories, "EXCHANGE", str(shared))
    shared.chmod(0o2770)
    assert exchange_directory() == str(shared)
    shared.chmod(0o700)
    assert exchange_directory() == "/var/other/raspy/exchange", "one that no group shares is of one user alone"
    monkeypatch.setenv("RASPY_EXCHANGE", "here")
    monkeypatch.chdir(tmp_path)
    assert exchange_directory() == str(tmp_path / "here")
