"""raspy appliance, on a root that a test has made: what the boot partition brings, resets, requests, cloud-init."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raspy.cli import bootfiles, cloudinit, firstboot, main, tomltext
from raspy.common import appliance
from raspy.common.toml import FILE_LIMIT
from tests.support_processes import raspy

FACTORY = """
[bus]
broker_ip = "ipc:///tmp"

[run]
servers = ["broker", "titanic", "core", "web"]

[web]
port = 0
"""
OWNERS = "# My pond.\r\n[web]\r\nsetup_minutes = 5\r\n"
PROGRAMS = ("systemctl", "systemd-tmpfiles", "cloud-init")


class Card:
    """A card, with what an image has.

    :param root: where everything of it is
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.boot, self.etc, self.state = root / "boot/firmware", root / "etc/raspy", root / "var/lib/raspy"
        self.programs = root / "programs"
        for place in (self.boot, self.etc, self.state / "web", root / "etc/cloud", root / "etc/ssh", self.programs):
            place.mkdir(parents=True)
        (root / "etc/apt/apt.conf.d").mkdir(parents=True)
        for name in ("raspy.toml", "raspy.toml.factory"):
            (self.etc / name).write_text(FACTORY)
        for name in PROGRAMS:
            program = self.programs / name
            program.write_text(f'#!/bin/sh\necho {name} "$@" >>{root}/called\n')
            program.chmod(0o755)

    @property
    def called(self) -> list[str]:
        """What was called of the system, since the last time."""
        path = self.root / "called"
        found = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return found

    @property
    def config(self) -> dict[str, Any]:
        return tomllib.loads((self.etc / "raspy.toml").read_text())

    def use(self) -> list[str]:
        """Leave traces of a life: a state, keys, secrets, keys of ssh, a restart window."""
        for path in ("titanic/store.db", "web/auth.json", "exchange/x/y"):
            (self.state / path).parent.mkdir(parents=True, exist_ok=True)
            (self.state / path).write_text("old")
        traces = ["keys/broker.key_secret", "secrets/post", "raspy.toml.noted", "first-boot-done"]
        traces = [f"etc/raspy/{path}" for path in traces]
        traces += ["etc/ssh/ssh_host_ed25519_key", "etc/ssh/ssh_host_ed25519_key.pub"]
        traces += ["etc/systemd/system/raspy-alarm.service.d/50-secrets.conf", "etc/apt/apt.conf.d/53raspy-owner"]
        for each in traces:
            (self.root / each).parent.mkdir(parents=True, exist_ok=True)
            (self.root / each).write_text("old")
        (self.root / "etc/ssh/sshd_config").write_text("kept")
        (self.root / "etc/machine-id").write_text("kept")
        (self.etc / "raspy.toml").write_text(FACTORY.replace("port = 0", "port = 1"))
        return traces

    def is_reset(self) -> bool:
        """Whether nothing of a former life is left, and what is to stay has."""
        old = [path for path in self.root.rglob("*") if path.is_file() and path.read_bytes() == b"old"]
        kept = [(self.root / path).read_text() for path in ("etc/ssh/sshd_config", "etc/machine-id")]
        return (
            not old
            and kept == ["kept", "kept"]
            and list(self.state.iterdir()) == []
            and (self.etc / "raspy.toml").read_text() == FACTORY
            and not (self.etc / "factory-reset").exists()
            and not any((self.boot / name).exists() for name in firstboot.RESET_NAMES)
        )


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Card:
    made = Card(tmp_path)
    monkeypatch.setenv("RASPY_TEST_ROOT", str(tmp_path))
    monkeypatch.setenv("RASPY_KEYS", str(made.etc / "keys"))
    # Nothing of this machine is to be called, least of all its systemctl.
    monkeypatch.setenv("PATH", str(made.programs))
    return made


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of a configuration takes a second, and is not what these tests are about."""
    monkeypatch.setattr(firstboot, "_check", lambda data, name: None)


# ---------------------------------------------------------------- raspy.toml


def test_nothing_to_do(card: Card) -> None:
    before = (card.etc / "raspy.toml").stat().st_ino
    assert firstboot.first_boot() == []
    assert (card.etc / "first-boot-done").exists()
    assert (card.etc / "raspy.toml").stat().st_ino == before
    assert appliance.problems() == []
    assert card.called == []
    card.boot.rmdir()
    assert firstboot.first_boot() == [], "a Pi starts without its boot partition"


def test_the_owners_configuration_is_laid_over_the_image(card: Card) -> None:
    (card.boot / "raspy.toml").write_bytes(b"\xef\xbb\xbf" + OWNERS.encode())
    assert firstboot.first_boot() == []
    assert card.config["web"] == {"port": 0, "setup_minutes": 5}
    assert card.config["bus"] == {"broker_ip": "ipc:///tmp"}
    assert stat.S_IMODE((card.etc / "raspy.toml").stat().st_mode) == 0o644
    assert (card.boot / "raspy.toml.taken").read_bytes().endswith(OWNERS.encode())
    assert not (card.boot / "raspy.toml").exists()
    # It is over the image's, not over what was taken before.
    (card.boot / "raspy.toml.txt").write_text("[web]\nstreams = 20\n")
    assert firstboot.first_boot() == []
    assert card.config["web"] == {"port": 0, "streams": 20}
    assert sorted(os.listdir(card.boot)) == ["raspy.toml.taken"]
    assert not (card.etc / ".trial").exists()


def unreadable(path: Path) -> None:
    path.symlink_to("/etc/passwd")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        ("[web]\nport = 80\nprot = 81\n", "raspy.toml:3: unknown key 'prot' in [web]"),
        ("[web]\nport = 99999\n", "raspy.toml:2: "),
        ("[alarm]\npassword = 'hunter2'\n", "raspy.toml:2: unknown key 'password'"),
        ('[bus]\nbroker_key = "' + "k" * 40 + '"\n', "broker_key in [bus]: is for a broker on another machine"),
        ("[web\n", "is not TOML"),
        ("[web]\nport = 2026-01-01\n", "raspy.toml:2: "),
        ("a = " + "[" * 5000, "nested too deeply"),
        (b"\xff\xfe[\x00w\x00", "is not UTF-8"),
        (b"#" * (FILE_LIMIT + 1), "is longer than 256 kB"),
        (b"#" * (bootfiles.LIMIT + 1), "is longer than 1 MB"),
        ("a." * 15_000 + "a = 1", "dotted keys are nested too deeply"),
        ('[web]\ntls = true\ncertificate = "/boot/firmware/none.pem"\n', "raspy.toml:3: certificate in [web]: "),
        ('[web]\ntls = true\ncertificate = "/dev/zero"\n', "is too long to be one in PEM"),
        ('[web]\nhost = "192.0.2.9"\n', "host in [web]: 192.0.2.9:0: this machine has no"),
        (Path.mkdir, "is no file"),
        (os.mkfifo, "is no file"),
        (unreadable, "cannot be read"),
    ],
)
def test_a_bad_one_is_told_and_changes_nothing(card: Card, make: Any, told: str) -> None:
    place, before = card.boot / "raspy.toml", (card.etc / "raspy.toml").read_text()
    if callable(make):
        make(place)
    else:
        place.write_bytes(make if isinstance(make, bytes) else make.encode())
    (problem,) = firstboot.first_boot()
    assert told in problem
    assert problem.startswith("raspy.toml on the boot partition was not taken: ")
    assert "hunter2" not in problem
    assert str(card.root) not in problem, "it names the owner's file, not ours"
    assert (card.etc / "raspy.toml").read_text() == before
    assert os.path.lexists(place)
    assert told in (card.boot / "raspy.toml.problem.txt").read_text()
    assert appliance.problems() == [problem]
    assert "RasPy: raspy.toml on the boot" in (card.root / "run/issue.d/raspy-problem.issue").read_text()
    # The owner mends it, and everything is well.
    bootfiles.remove(str(place))
    place.write_text(OWNERS)
    assert firstboot.first_boot() == []
    assert appliance.problems() == []
    assert not (card.root / "run/issue.d/raspy-problem.issue").exists()
    assert sorted(os.listdir(card.boot)) == ["raspy.toml.taken"]


def test_a_write_protected_card_is_taken_once(card: Card, unchecked: None) -> None:
    (card.boot / "raspy.toml").write_text(OWNERS)
    (card.boot / "raspy.toml.taken/full").mkdir(parents=True)
    (problem,) = firstboot.first_boot()
    assert "cannot be renamed" in problem
    assert card.config["web"]["setup_minutes"] == 5
    (card.etc / "raspy.toml").write_text(FACTORY)
    assert firstboot.first_boot() == [problem]
    assert (card.etc / "raspy.toml").read_text() == FACTORY, "what was changed since is not undone at each boot"
    (card.boot / "raspy.toml").write_text("[web]\nport = 82\n")
    assert firstboot.first_boot() == [problem]
    assert card.config["web"]["port"] == 82


def test_a_broker_that_others_reach_gets_its_keys(card: Card) -> None:
    (card.boot / "raspy.toml").write_text('[broker]\nlisten = ["0.0.0.0"]\n')
    assert firstboot.first_boot() == []
    secret = (card.etc / "keys/broker.key_secret").read_bytes()
    assert firstboot.first_boot() == []
    assert (card.etc / "keys/broker.key_secret").read_bytes() == secret
    (card.etc / "keys/broker.key").unlink()
    assert firstboot.first_boot() == [], "what a cut has left is completed"
    assert (card.etc / "keys/broker.key").exists()


def test_who_has_two_chooses(card: Card, unchecked: None) -> None:
    (card.boot / "raspy.toml").write_text(OWNERS)
    (card.boot / "raspy.toml.txt").write_text("[web]\nstreams = 20\n")
    for _ in range(2):
        (problem,) = firstboot.first_boot()
        assert "raspy.toml.txt is there too" in problem
        assert card.config["web"] == {"port": 0}
    (card.boot / "raspy.toml").unlink()
    assert firstboot.first_boot() == []
    assert card.config["web"] == {"port": 0, "streams": 20}


def test_what_is_gone_is_no_problem_any_more(card: Card) -> None:
    (card.boot / "raspy.toml").write_text("[web\n")
    assert len(firstboot.first_boot()) == 1
    (card.boot / "raspy.toml").unlink()
    assert firstboot.first_boot() == []
    assert os.listdir(card.boot) == []


def test_lines_end_as_on_any_system(card: Card) -> None:
    (card.boot / "raspy.toml").write_bytes(b"[web]\rstreams = 20\r")
    assert firstboot.first_boot() == []
    assert card.config["web"] == {"port": 0, "streams": 20}


def test_nothing_is_laid_over_nothing(card: Card, unchecked: None) -> None:
    card.use()
    factory, before = card.etc / "raspy.toml.factory", (card.etc / "raspy.toml").read_text()
    factory.unlink()
    factory.mkdir()
    (card.boot / "raspy.toml").write_text(OWNERS)
    (problem,) = firstboot.first_boot()
    assert "raspy.toml.factory: Is a directory" in problem
    (card.boot / "factory-reset").touch()
    assert "Is a directory" in firstboot.first_boot()[0]
    assert (card.etc / "raspy.toml").read_text() == before, "or the page would be gone"
    assert not (card.etc / "factory-reset").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_the_pages_server_is_not_root(card: Card, unchecked: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firstboot, "WEB_USER", "nobody")
    private = card.root / "page.pem"
    private.touch(mode=0o600)
    text = '[web]\ntls = true\ncertificate = "{}"\n'
    (card.boot / "raspy.toml").write_text(text.format(private))
    (problem,) = firstboot.first_boot()
    assert "certificate in [web]: " in problem
    assert "nobody, may not read it" in problem
    (card.boot / "raspy.toml").write_text(text.format("/etc/passwd"))
    assert firstboot.first_boot() == []
    assert card.config["web"]["certificate"] == "/etc/passwd"


def test_a_check_makes_nothing(card: Card) -> None:
    place = card.root / "made/by/root"
    (card.boot / "raspy.toml").write_text(f'[run]\nservers = ["gpio"]\n[gpio]\nmock = "{place}"\n')
    assert firstboot.first_boot() == []
    assert not (card.root / "made").exists()


def test_what_fails_leaves_the_other_steps(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    def much(data: bytes, name: str) -> bytes:
        raise MemoryError

    (card.boot / "raspy.toml").write_text(OWNERS)
    (card.boot / "update-reboot").write_text("never")
    (card.boot / "ssh").touch()
    with monkeypatch.context() as patched:
        patched.setattr(firstboot, "laid_over", much)
        assert firstboot.first_boot() == ["take config: MemoryError"]
    assert appliance.problems() == ["take config: MemoryError"]
    assert sorted(os.listdir(card.boot)) == ["raspy.toml", "update-reboot.taken"]
    assert not (card.etc / "first-boot-done").exists(), "it is tried again"
    assert firstboot.first_boot() == []
    assert (card.etc / "first-boot-done").exists()


def test_keys_that_could_not_be_made_are_made_later(card: Card) -> None:
    assert firstboot.first_boot() == []
    (card.etc / "raspy.toml").write_text(FACTORY + '[broker]\nlisten = ["0.0.0.0"]\n')
    (card.etc / "keys").write_text("a file")
    (problem,) = firstboot.first_boot()
    assert problem.startswith("make keys: ")
    assert not (card.etc / "first-boot-done").exists(), "or the unit would not be started again"
    (card.etc / "keys").unlink()
    assert firstboot.first_boot() == []
    assert (card.etc / "keys/broker.key_secret").exists()


TABLES = st.recursive(
    st.text(max_size=20) | st.integers(-(2**63), 2**63 - 1) | st.booleans() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=8), st.dictionaries(st.text(max_size=8), TABLES, max_size=4), max_size=4))
def test_what_is_written_is_read_again(table: dict[str, Any]) -> None:
    assert tomllib.loads("".join(tomltext.written("", table))) == table


# ---------------------------------------------------------------- factory reset


@pytest.mark.parametrize("name", firstboot.RESET_NAMES)
def test_a_file_sets_everything_back(card: Card, name: str) -> None:
    card.use()
    (card.root / "outside").write_text("kept")
    (card.state / "link").symlink_to(card.root / "outside")
    (card.state / "core").symlink_to(card.root / "etc")
    (card.boot / name).touch()
    assert firstboot.first_boot() == []
    assert card.is_reset()
    assert (card.root / "outside").read_text() == "kept"
    assert (card.etc / "first-boot-done").exists()
    assert card.called == [
        "systemd-tmpfiles --create /etc/tmpfiles.d/raspy.conf",
        "systemctl daemon-reload",
    ]
    (card.state / "web").mkdir()
    (card.state / "web/auth.json").write_text("new")
    assert firstboot.first_boot() == []
    assert (card.state / "web/auth.json").read_text() == "new", "once, not at every boot"


def test_a_file_that_cannot_be_removed_resets_nothing(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    card.use()
    (card.boot / "factory-reset").touch()
    monkeypatch.setattr(firstboot, "remove_from_boot", lambda name: False)
    (problem,) = firstboot.first_boot()
    assert "write-protected" in problem
    assert (card.state / "titanic/store.db").read_text() == "old"
    assert not (card.etc / "factory-reset").exists()


def test_a_full_card_is_reset(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    card.use()
    (card.boot / "factory-reset").touch()
    write = firstboot.replace

    def full(path: str, data: bytes) -> None:
        if data and (card.state / "titanic").exists():
            raise OSError(errno.ENOSPC, "No space left on device", path)
        write(path, data)

    monkeypatch.setattr(firstboot, "replace", full)
    assert firstboot.first_boot() == []
    assert card.is_reset()


@pytest.mark.parametrize("error", [MemoryError(), RecursionError("too deep"), OSError(errno.EIO, "Input/output error")])
def test_what_cannot_be_wiped_is_told_once(card: Card, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    card.use()
    (card.boot / "factory-reset").touch()
    wipe = firstboot.remove

    def fails(path: str) -> None:
        if path.endswith("/titanic"):
            raise error
        wipe(path)

    with monkeypatch.context() as patched:
        patched.setattr(firstboot, "remove", fails)
        (problem,) = firstboot.first_boot()
    assert problem.startswith("factory reset: /var/lib/raspy/titanic: ")
    assert appliance.problems() == [problem]
    assert not (card.etc / "factory-reset").exists(), "or each boot would wipe anew"
    assert os.listdir(card.state) == ["titanic"]
    assert not (card.etc / "keys").exists()


def test_a_tree_of_any_depth_goes(card: Card) -> None:
    place = os.open(card.state / "web", os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=place)
        below = os.open("d", os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = below
    os.close(place)
    bootfiles.remove(str(card.state / "web"))
    assert os.listdir(card.state) == []


def test_what_stays_is_told(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    (card.state / "web/x").touch()
    monkeypatch.setattr(bootfiles, "RM", "/bin/false")
    with pytest.raises(OSError, match=r"cannot be removed: .*/web/x"):
        bootfiles.remove(str(card.state / "web"))


@pytest.mark.skipif(os.geteuid() != 0, reason="it takes root to mount")
def test_another_disk_is_emptied(card: Card) -> None:
    disk = card.state / "logger/disk"
    disk.mkdir(parents=True)
    if subprocess.run(["/bin/mount", "-t", "tmpfs", "none", str(disk)], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        for name in ("a", "disk/b", "sub/c", "zzz"):
            (card.state / "logger" / name).parent.mkdir(exist_ok=True)
            (card.state / "logger" / name).write_text("old")
        (card.boot / "factory-reset").touch()
        assert firstboot.first_boot() == []
        assert os.listdir(card.state / "logger") == ["disk"]
        assert os.listdir(disk) == []
    finally:
        subprocess.run(["/bin/umount", str(disk)], check=True)


def test_a_reset_on_a_write_protected_card_takes_nothing_again(
    card: Card, unchecked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(firstboot, "rename_on_boot", lambda name, new: False)
    (card.boot / "raspy.toml").write_text(OWNERS)
    assert len(firstboot.first_boot()) == 1
    assert card.config["web"]["setup_minutes"] == 5
    appliance.ask(str(card.state / "web"), appliance.RESET)
    assert firstboot.requested() == "factory-reset"
    firstboot.first_boot()
    assert (card.etc / "raspy.toml").read_text() == FACTORY


class Cut(BaseException):
    """The power has gone."""


def boot_with_cuts(monkeypatch: pytest.MonkeyPatch, prepare: Callable[[], None], look: Callable[[], None]) -> int:
    """Prepare, and boot with the power going before the n-th change, each n; then boot in peace, and look.

    Returns how many changes there are.
    """
    left = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def change(*words: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Cut
            return function(*words)

        return change

    changes = 0
    while True:
        prepare()
        with monkeypatch.context() as patched:
            for name in ("replace", "unlink", "remove", "remove_from_boot", "rename_on_boot", "write_to_boot"):
                patched.setattr(firstboot, name, counted(getattr(firstboot, name)))
            left = changes
            try:
                firstboot.first_boot()
                return changes
            except Cut:
                changes += 1
        assert firstboot.first_boot() == []
        look()


def test_a_reset_ends_however_often_the_power_goes(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare() -> None:
        card.use()
        (card.boot / "factory-reset").touch()

    def look() -> None:
        assert card.is_reset()

    assert boot_with_cuts(monkeypatch, prepare, look) >= 12


def test_a_configuration_is_taken_however_often_the_power_goes(
    card: Card, monkeypatch: pytest.MonkeyPatch, unchecked: None
) -> None:
    def prepare() -> None:
        bootfiles.remove(str(card.boot / "raspy.toml.taken"))
        (card.etc / "raspy.toml").write_text(FACTORY)
        (card.boot / "raspy.toml").write_text(OWNERS)

    def look() -> None:
        assert card.config["web"]["setup_minutes"] == 5
        assert sorted(os.listdir(card.boot)) == ["raspy.toml.taken"]
        assert not (card.etc / "raspy.toml.noted").exists()

    assert boot_with_cuts(monkeypatch, prepare, look) >= 4


# ---------------------------------------------------------------- what the page asks for


@pytest.mark.parametrize(
    ("asked", "did", "verb"),
    [
        ([appliance.RESTART], "restart", "reboot"),
        ([appliance.POWER_OFF], "power-off", "poweroff"),
        ([appliance.RESET], "factory-reset", "reboot"),
        ([appliance.POWER_OFF, appliance.RESET], "factory-reset", "reboot"),
    ],
)
def test_what_the_page_asks_for_is_begun(card: Card, asked: list[str], did: str, verb: str) -> None:
    web = card.state / "web"
    for each in asked:
        appliance.ask(str(web), each)
    assert firstboot.requested() == did
    assert card.called == [f"systemctl --no-block {verb}"]
    assert os.listdir(web) == [], "or it would be done after each boot"
    assert (card.etc / "factory-reset").exists() == (appliance.RESET in asked)
    assert firstboot.requested() == ""
    assert card.called == []


def test_a_reset_that_the_page_asks_for_is_done_at_the_next_boot(card: Card) -> None:
    card.use()
    appliance.ask(str(card.state / "web"), appliance.RESET)
    firstboot.requested()
    assert (card.state / "titanic/store.db").exists(), "not while the servers run"
    assert firstboot.first_boot() == []
    assert card.is_reset()


def test_the_pages_server_leads_root_nowhere(card: Card) -> None:
    web, other = card.state / "web", card.root / "other"
    other.mkdir()
    (other / "please-restart").touch()
    web.rmdir()
    web.symlink_to(other)
    with pytest.raises(OSError, match="directory"):
        firstboot.requested()
    assert (other / "please-restart").exists()
    web.unlink()
    assert firstboot.requested() == ""
    (web / "please-restart").mkdir(parents=True)
    assert firstboot.requested() == "", "that is no request"
    assert os.listdir(web) == []
    (web / "please-restart/full").mkdir(parents=True)
    (web / "please-factory-reset").mkdir()
    with pytest.raises(OSError, match="not empty"):
        firstboot.requested()
    assert card.called == [], "what cannot be taken would restart the machine for ever"
    assert not (card.etc / "factory-reset").exists()
    appliance.ask(str(web), appliance.POWER_OFF)
    assert firstboot.requested() == "power-off", "it hinders no other"


def test_what_the_page_asks_for_is_on_the_card(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says that it is done."""
    web, sync, seen = card.state / "web", os.fsync, []

    def look(opened: int) -> None:
        seen.append(os.path.samestat(os.fstat(opened), web.stat()) and os.listdir(web))
        sync(opened)

    monkeypatch.setattr(os, "fsync", look)
    appliance.ask(str(web), appliance.RESET)
    assert seen == [["please-factory-reset"]]


def test_what_cannot_be_begun_is_told(card: Card) -> None:
    (card.programs / "systemctl").write_text("#!/bin/sh\nexit 1\n")
    appliance.ask(str(card.state / "web"), appliance.POWER_OFF)
    with pytest.raises(OSError, match="does not begin it: 'systemctl poweroff'"):
        firstboot.requested()


def test_what_was_asked_as_the_power_went_is_forgotten() -> None:
    """But for a reset, which was asked for with the password; tmpfiles.d(5)."""
    lines = (Path(__file__).parents[2] / "systemd/tmpfiles.d/raspy.conf").read_text().splitlines()
    gone = {line.removeprefix("r! ") for line in lines if line.startswith("r! ")}
    asked = (appliance.RESTART, appliance.POWER_OFF)
    assert gone == {f"{firstboot.WEB}/{appliance.PREFIX}{each}" for each in asked}


# ---------------------------------------------------------------- cloud-init, ssh, updates


def test_nothing_is_noted_before_it_is_on_the_card(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither cloud-init nor systemctl waits until what it has written is there."""
    off, ssh, seen = card.root / "etc/cloud/cloud-init.disabled", card.boot / "ssh", []
    (card.root / "run/cloud-init").mkdir(parents=True)
    (card.root / "run/cloud-init/result.json").write_text("{}")
    monkeypatch.setattr(os, "sync", lambda: seen.append((off.exists(), ssh.exists(), len(card.called))))
    assert cloudinit.customised() == "noted"
    assert seen.pop() == (False, False, 0)
    ssh.touch()
    assert firstboot.first_boot() == []
    assert seen.pop() == (True, True, 2)
    (card.boot / "user-data").write_text("#cloud-config\n")
    assert cloudinit.customised() == "again"
    assert seen.pop() == (True, False, 1), "cloud-init clean"
    assert seen == []


def test_ssh_that_cannot_be_turned_on_is_told(card: Card) -> None:
    good = (card.programs / "systemctl").read_text()
    (card.programs / "systemctl").write_text("#!/bin/sh\nexit 1\n")
    (card.boot / "ssh").touch()
    (problem,) = firstboot.first_boot()
    assert "ssh could not be turned on" in problem
    (card.programs / "systemctl").write_text(good)
    assert firstboot.first_boot() == []
    assert os.listdir(card.boot) == []


def test_cloud_init_rests_until_its_files_change(card: Card) -> None:
    off, result = card.root / "etc/cloud/cloud-init.disabled", card.root / "run/cloud-init/result.json"
    (card.boot / "user-data").write_text("#cloud-config\nhostname: pond\n")
    (card.boot / "meta-data").write_text("instance-id: raspy\n")
    assert cloudinit.customised() == ""
    assert not off.exists(), "it has not run"
    result.parent.mkdir(parents=True)
    result.write_text("{}")
    assert cloudinit.customised() == "noted"
    sums = ["sha256sum", "--check", "--status", str(off)]
    assert subprocess.run(sums, env={"PATH": "/usr/bin:/bin"}).returncode == 0, "the condition of the unit"
    assert cloudinit.customised() == ""
    assert card.called == []
    (card.boot / "user-data").write_text("#cloud-config\nenable_ssh: true\n")
    assert subprocess.run(sums, env={"PATH": "/usr/bin:/bin"}).returncode == 1
    assert cloudinit.customised() == "again"
    assert card.called == ["cloud-init clean", "systemctl --no-block reboot"]
    assert not off.exists()
    assert cloudinit.customised() == "noted"
    assert card.called == ["systemctl enable ssh.service", "systemctl --no-block start ssh.service"]


def test_who_turned_cloud_init_off_keeps_it_off(card: Card) -> None:
    (card.root / "etc/cloud/cloud-init.disabled").touch()
    (card.boot / "user-data").write_text("#cloud-config\n")
    assert cloudinit.customised() == ""
    assert card.called == []


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("enable_ssh: true\n", True),
        ("hostname: a\r\nenable_ssh: true\r\nusers: []\r\n", True),
        ("enable_ssh: false\n", False),
        ("#enable_ssh: true\n", False),
        ("write_files:\n- content: |\n    enable_ssh: true\n", False),
        ("", False),
    ],
)
def test_ssh_is_off_unless_asked(card: Card, text: str, wanted: bool) -> None:
    (card.boot / "user-data").write_text(f"#cloud-config\n{text}", newline="")
    (card.root / "run/cloud-init").mkdir(parents=True)
    (card.root / "run/cloud-init/result.json").write_text("{}")
    cloudinit.customised()
    assert ("systemctl enable ssh.service" in card.called) is wanted


def test_a_file_turns_ssh_on(card: Card) -> None:
    (card.boot / "ssh.txt").touch()
    assert firstboot.first_boot() == []
    assert card.called == ["systemctl enable ssh.service", "systemctl --no-block start ssh.service"]
    assert os.listdir(card.boot) == []


@pytest.mark.parametrize(
    ("text", "wanted"), [("\ufeff03:30\r\n", '"03:30"'), (" Never ", '"false"'), ("23:59", '"23:59"')]
)
def test_when_updates_may_restart_it(card: Card, text: str, wanted: str) -> None:
    (card.boot / "update-reboot.txt").write_text(text)
    assert firstboot.first_boot() == []
    assert wanted in (card.root / "etc/apt/apt.conf.d/53raspy-owner").read_text()
    assert os.listdir(card.boot) == ["update-reboot.taken"]


@pytest.mark.parametrize("text", ["24:00", "3:30", "soon", '03:30"; Pwn "1', "03:30\n04:30", "\xff"])
def test_a_time_that_is_none(card: Card, text: str) -> None:
    (card.boot / "update-reboot").write_text(text, encoding="latin-1")
    (problem,) = firstboot.first_boot()
    assert "03:30, or the word never" in problem
    assert not (card.root / "etc/apt/apt.conf.d/53raspy-owner").exists()


# ---------------------------------------------------------------- the command


def test_the_command(card: Card) -> None:
    words = {"RASPY_TEST_ROOT": str(card.root), "PATH": str(card.programs)}

    def good(*verb: str) -> Any:
        done = raspy("appliance", *verb, "--json", **words)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert good("status") == {"appliance": False, "problems": [], "reset_waits": False, "customised": False}
    (card.boot / "raspy.toml").write_text("x")
    listens = card.root / appliance.LISTENS.lstrip("/")
    listens.parent.mkdir(parents=True)
    listens.symlink_to("nowhere")
    (problem,) = good("first-boot")["problems"]
    assert good("status") == {"appliance": True, "problems": [problem], "reset_waits": False, "customised": False}
    assert good("request") == {"did": ""}
    assert good("customised") == {"did": ""}
    card.state.joinpath("web").rmdir()
    card.state.joinpath("web").symlink_to("/tmp")
    done = raspy("appliance", "request", **words)
    assert done.returncode == 1
    assert "appliance request: " in done.stderr


def test_what_it_says_to_a_human(card: Card, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*words: str) -> list[str]:
        assert main(["appliance", *words]) == 0
        return capsys.readouterr().out.splitlines()

    assert told("status") == ["this machine is no appliance"]
    assert told("request") == []
    listens = card.root / appliance.LISTENS.lstrip("/")
    listens.parent.mkdir(parents=True)
    listens.symlink_to("nowhere")
    card.boot.joinpath("raspy.toml").write_text("x")
    (problem,) = told("first-boot")
    assert problem.startswith("problem: raspy.toml on the boot partition was not taken: ")
    (card.etc / "factory-reset").touch()
    assert told("status") == [
        "this machine is an appliance",
        "at the next start everything is set back as it left the factory",
        problem,
    ]
    (card.boot / "user-data").write_text("#cloud-config\n")
    (card.root / "run/cloud-init").mkdir(parents=True)
    (card.root / "run/cloud-init/result.json").write_text("{}")
    assert told("customised") == ["cloud-init rests from now on"]
    (card.boot / "user-data").write_text("#cloud-config\nhostname: pond\n")
    assert told("customised") == ["again is under way"]


def test_only_root_changes_an_appliance(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], card: Card
) -> None:
    def never(*_: object) -> str:
        raise AssertionError("it is done")

    monkeypatch.delenv("RASPY_TEST_ROOT")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for name in ("first_boot", "requested"):
        monkeypatch.setattr(firstboot, name, never)
    monkeypatch.setattr(cloudinit, "customised", never)
    for verb in ("first-boot", "request", "customised"):
        assert main(["appliance", verb]) == 1
        assert capsys.readouterr().err == f"raspy: appliance {verb}: it takes root\n"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"problems": 3}', b"\xff", b'{"problems": [1]}'])
def test_a_report_that_is_none_says_nothing(card: Card, content: bytes) -> None:
    report = card.root / "run/raspy-appliance/report.json"
    report.parent.mkdir(parents=True)
    report.write_bytes(content)
    assert appliance.problems() == []
