"""The unit files: what is said of each server, that systemd understands it, and how much of a sandbox it makes."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from raspy.common.process import RESTART
from raspy.common.registry import SERVERS
from tests.support import need_program, need_root
from tests.system import footprint
from tests.system.machines import Machine
from tests.system.unitfiles import SYSTEMD, UNITS, files, lay_out, needs, settings

Tool = Callable[..., subprocess.CompletedProcess[str]]
"""Runs systemd-analyze where our units are installed, but for its words."""

SCORES = {"web": 1.6, "onewire": 2.0, "gpio": 2.0, "sync": 6.5}
OTHER_SCORE = 1.4
VISUDO_MODE = 0o440

STAGE = """
set -e
mount -t tmpfs none /opt
mkdir -p /opt/raspy/current/bin
printf '#!/bin/sh\\n' >/opt/raspy/current/bin/raspy
chmod 755 /opt/raspy/current/bin/raspy
SYSTEMD_UNIT_PATH="$1:" SYSTEMD_COLORS=0 SYSTEMD_EMOJI=0
export SYSTEMD_UNIT_PATH SYSTEMD_COLORS SYSTEMD_EMOJI
shift
exec systemd-analyze "$@"
"""
"""What a unit starts is there while it is looked at, in a mount namespace of its own."""


def version_of(said: str) -> int:
    """The version of systemd, from what it says of itself."""
    found = re.match(r"systemd (\d+)", said)
    assert found is not None, said
    return int(found[1])


@pytest.fixture
def here(tmp_path: Path) -> Tool:
    """The systemd of this machine, if it has one."""
    need_root()
    analyze = need_program("systemd-analyze")
    said = subprocess.run([analyze, "--version"], capture_output=True, text=True, check=True).stdout
    lay_out(tmp_path / "units", version_of(said))

    def tool(*words: str) -> subprocess.CompletedProcess[str]:
        command = ["unshare", "--mount", "sh", "-c", STAGE, "sh", str(tmp_path / "units"), *words]
        return subprocess.run(command, capture_output=True, text=True)

    return tool


@pytest.fixture(scope="session")
def there(pi: Machine) -> Tool:
    """Debian 13's systemd, on the machine of the tests. What is installed there is not touched."""
    place = "/run/raspy-units"
    version = version_of(pi.sh("systemctl --version"))
    for path in files(version):
        pi.write(f"{place}/{path}", (SYSTEMD / path).read_bytes())

    def tool(*words: str) -> subprocess.CompletedProcess[str]:
        return pi.run("unshare", "--mount", "sh", "-c", STAGE, "sh", place, *words, check=False)

    return tool


def verify(tool: Tool) -> None:
    """:raises AssertionError: with what systemd says of our units"""
    done = tool("verify", "--man=no", "raspy.target", *UNITS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def score(tool: Tool, unit: str) -> float:
    """How exposed a unit is, by systemd."""
    said = tool("security", "--offline=yes", "--no-pager", unit).stdout
    found = re.search(rf"exposure level for {unit}: ([0-9.]+)", said)
    assert found is not None, said
    return float(found[1])


@pytest.mark.system
def test_verify_here(here: Tool) -> None:
    verify(here)


@pytest.mark.system
def test_verify_finds_mistakes(here: Tool, tmp_path: Path) -> None:
    extra = tmp_path / "units" / "raspy-core.service.d" / "90-mistake.conf"
    extra.write_text("[Service]\nProtectSistem=yes\n")
    with pytest.raises(AssertionError, match="ProtectSistem"):
        verify(here)


@pytest.mark.system
def test_verify_debian_13(there: Tool) -> None:
    verify(there)


@pytest.mark.system
def test_security_here(here: Tool) -> None:
    check_scores(here)


@pytest.mark.system
def test_security_debian_13(there: Tool) -> None:
    check_scores(there)


def check_scores(tool: Tool) -> None:
    """:raises AssertionError: with the units that are more exposed than they may be"""
    scores = {name: score(tool, f"raspy-{name}.service") for name in SERVERS}
    assert {name: found for name, found in scores.items() if found > SCORES.get(name, OTHER_SCORE)} == {}


def test_each_server_has_a_unit() -> None:
    assert set(UNITS) == {f"raspy-{name}.service" for name in SERVERS}
    for name, entry in SERVERS.items():
        text = (SYSTEMD / f"raspy-{name}.service").read_text()
        assert f"Description=RasPy: {entry.text}\n" in text
        assert "WantedBy=raspy.target\n" in text


@pytest.mark.parametrize("name", SERVERS)
def test_what_all_have(name: str) -> None:
    found = settings(f"raspy-{name}.service")
    assert found["ExecStart"] == [f"/opt/raspy/current/bin/raspy server {name}"]
    assert found["Type"] == ["notify"]
    assert found["WatchdogSec"] == ["10"]
    assert found["User"][-1] == f"raspy-{name}"
    assert found["Group"][-1] == "raspy"
    assert found["StateDirectory"] == [f"raspy/{name}"]
    assert found["PartOf"] == ["raspy.target"]
    assert found["SuccessExitStatus"] == found["RestartForceExitStatus"] == [str(RESTART)]
    assert found["Restart"][-1] == "always"
    assert found["StartLimitIntervalSec"] == ["0"]
    assert found["MemoryMax"][-1].endswith("M")
    assert int(found["TasksMax"][-1]) <= 128


@pytest.mark.parametrize("name", SERVERS)
def test_the_environment_of_the_registry(name: str) -> None:
    given = dict(
        word.split("=", 1) for line in settings(f"raspy-{name}.service")["Environment"] for word in line.split()
    )
    assert given.items() >= SERVERS[name].environment.items()


@pytest.mark.parametrize("name", SERVERS)
def test_outputs_are_made_safe(name: str) -> None:
    wanted = [f"/opt/raspy/current/bin/raspy make-safe {name} --ended"] if SERVERS[name].output else []
    assert settings(f"raspy-{name}.service").get("ExecStopPost", []) == wanted


def test_only_sync_may_use_sudo() -> None:
    for name in SERVERS:
        found = settings(f"raspy-{name}.service")
        assert found["NoNewPrivileges"][-1] == ("no" if name == "sync" else "yes")
    # What implies NoNewPrivileges in an older systemd is all in the file for newer ones.
    old = settings("raspy-sync.service", 252)
    for key in ("LockPersonality", "MemoryDenyWriteExecute", "PrivateDevices", "ProtectClock", "ProtectHostname"):
        assert old[key][-1] == "no"
    for key in ("ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables", "RestrictNamespaces"):
        assert old[key][-1] == "no"
    for key in ("RestrictRealtime", "RestrictSUIDSGID"):
        assert old[key][-1] == "no"
    for key in ("SystemCallFilter", "SystemCallArchitectures", "RestrictAddressFamilies"):
        assert old[key] == []


def test_what_needs_a_newer_systemd() -> None:
    found = {str(path): needs(SYSTEMD / path) for path in files(10_000)}
    assert {path: version for path, version in found.items() if version} == {
        "raspy-.service.d/20-backoff.conf": 254,
        "raspy-sync.service.d/40-filters.conf": 257,
    }


def test_users_and_directories(tmp_path: Path) -> None:
    """As systemd-sysusers of this machine makes them in an empty root."""
    need_root()
    sysusers = need_program("systemd-sysusers")
    (tmp_path / "etc").mkdir()
    for name in ("passwd", "group", "shadow", "gshadow"):
        (tmp_path / "etc" / name).touch()
    done = subprocess.run(
        [sysusers, f"--root={tmp_path}", SYSTEMD / "sysusers.d" / "raspy.conf"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "ignoring" not in done.stderr
    assert "valid" not in done.stderr
    lines = (tmp_path / "etc" / "group").read_text().splitlines()
    groups = {name: (number, members) for name, _, number, members in (line.split(":") for line in lines)}
    assert groups["gpio"][1] == "raspy-gpio"
    assert groups["i2c"][1] == "raspy-sync"
    users = [line.split(":") for line in (tmp_path / "etc" / "passwd").read_text().splitlines()]
    assert {user[0] for user in users} == {f"raspy-{name}" for name in SERVERS}
    assert {user[3] for user in users} == {groups["raspy"][0]}
    assert {user[6] for user in users} == {"/usr/sbin/nologin"}


def test_what_tmpfiles_makes() -> None:
    lines = (SYSTEMD / "tmpfiles.d" / "raspy.conf").read_text().splitlines()
    made = {words[1]: words[2:5] for words in (line.split() for line in lines if not line.startswith("#"))}
    assert made["/run/raspy"] == ["2750", "raspy-broker", "raspy"]
    assert made["/var/lib/raspy/exchange"] == ["2770", "root", "raspy"]


def test_the_drop_in_of_sudo(tmp_path: Path) -> None:
    """Owner, mode and grammar; what it lets through is tested with the commands themselves."""
    need_root()
    visudo = need_program("visudo")
    installed = tmp_path / "raspy-sync"
    shutil.copyfile(SYSTEMD / "sudoers" / "raspy-sync", installed)
    os.chown(installed, 0, 0)
    installed.chmod(VISUDO_MODE)
    done = subprocess.run([visudo, "-O", "-P", "-cf", installed], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    installed.chmod(0o644)
    assert subprocess.run([visudo, "-O", "-P", "-cf", installed], capture_output=True).returncode != 0


@pytest.mark.parametrize(
    ("core", "cpu", "target", "code"),
    [(18.0, 0.004, 3.0, 0), (18.1, 0.004, 3.0, 1), (18.0, 0.006, 3.0, 1), (18.0, 0.004, 3.1, 1)],
)
def test_what_it_costs_fails_when_an_aim_is_missed(
    monkeypatch: pytest.MonkeyPatch, core: float, cpu: float, target: float, code: int
) -> None:
    """The measured is given here; no machine is needed."""
    measured = footprint.Footprint(
        {"core": int(core * footprint.MB), "web": 30 * footprint.MB}, {"core": cpu, "web": 0.005}, target
    )
    monkeypatch.setattr("sys.argv", ["footprint"])
    monkeypatch.setattr(footprint, "Lan", contextlib.nullcontext)
    monkeypatch.setattr(footprint, "install", lambda lan: None)
    monkeypatch.setattr(footprint, "measure", lambda machine, seconds: measured)
    assert footprint.main() == code
