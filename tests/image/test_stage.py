"""The stage for pi-gen: what it is made of, in which order it runs, and what comes out on a root of Debian."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.image.checks import of_root
from tests.support import need_program, need_root
from tests.support_processes import TOP
from tests.system.machines import ROLE_DEFAULTS, debian_root, need_capabilities, role_packages

IMAGE = TOP / "image"
STAGE = IMAGE / "stage-raspy"
ORDER = ["prerun.sh", "00-root/00-packages-nr", "00-root/01-run-chroot.sh", "01-role/00-run.sh"]
ORDER += ["02-check/00-run-chroot.sh"]
PASSWORD = "$y$j9T$Vq0RmGsr0$fQ4zZ7kYb0w4cRkGQ6bB2v1WvG8m0mH3Q0eJcXq1nT5"
"""As shadow has one."""


def run(*words: str | Path, check: bool = False, **added: str) -> subprocess.CompletedProcess[str]:
    """Run a program of image/; return what it printed, on both ways together."""
    done = subprocess.run(
        [str(word) for word in words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=TOP,
        env={**os.environ, **added},
        timeout=3600,
        check=False,
    )
    assert not check or done.returncode == 0, done.stdout[-6000:]
    return done


def scripts() -> list[Path]:
    """Whatever a shell runs or reads."""
    found = [IMAGE / "build", IMAGE / "driver", IMAGE / "config", IMAGE / "common/apply-role", STAGE / "EXPORT_IMAGE"]
    return [*found, *STAGE.rglob("*.sh")]


# ---------------------------------------------------------------- as it lies there


def test_shellcheck() -> None:
    done = run(need_program("shellcheck"), *scripts())
    assert (done.returncode, done.stdout) == (0, "")


def test_scripts_can_run() -> None:
    """pi-gen passes over scripts that are not executable, in silence."""
    wrong = [path for path in STAGE.rglob("*.sh") if not os.access(path, os.X_OK)]
    assert wrong == []
    # build.sh looks at these names alone.
    kinds = r"\d\d-(run\.sh|run-chroot\.sh|packages|packages-nr|debconf)"
    assert [path for path in STAGE.glob("*/*") if not re.fullmatch(kinds, path.name)] == []


def test_order_of_the_stage() -> None:
    assert run(IMAGE / "driver", "--list", STAGE).stdout.splitlines() == ORDER


def test_driver_follows_the_documented_order(tmp_path: Path) -> None:
    files = ["01-b/00-run.sh", "00-a/10-packages", "00-a/02-run-chroot.sh", "00-a/02-run.sh", "00-a/02-packages"]
    files += ["00-a/02-packages-nr", "00-a/02-debconf", "00-a/2-run.sh", "00-a/note", "00-a/03-run.sh", "02-c/SKIP"]
    files += ["02-c/00-run.sh"]
    for name in files:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
        path.chmod(0o644 if name == "00-a/03-run.sh" else 0o755)
    found = run(IMAGE / "driver", "--list", tmp_path, check=True).stdout.splitlines()
    kinds = ["debconf", "packages-nr", "packages", "run.sh", "run-chroot.sh"]
    assert found == [*(f"00-a/02-{kind}" for kind in kinds), "00-a/10-packages", "01-b/00-run.sh"]


def test_configuration() -> None:
    words = ["RELEASE", "STAGE_LIST", "TARGET_HOSTNAME", "ENABLE_SSH", "ENABLE_CLOUD_INIT"]
    words += ["DISABLE_FIRST_BOOT_USER_RENAME", "FIRST_USER_NAME", "FIRST_USER_PASS"]
    show = "set -u; source image/config; for name in $0 $*; do printf '%s\\n' \"${!name}\"; done"
    first, second = (run("bash", "-c", show, *words, check=True).stdout.splitlines() for _ in "ab")
    assert first[:5] == ["trixie", "stage0 stage1 stage2 stage-raspy", "raspy", "0", "1"]
    # A wizard on the console would ask for the name of a user, and build.sh wants a password for one that stays.
    assert first[5] == "1"
    assert re.fullmatch(r"[a-z][-a-z0-9_]*", first[6])
    assert re.fullmatch(r"[0-9a-f]{48}", first[7])
    assert first[7] != second[7]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--help"], 0, "--arch arm64|armhf"),
        (["--what"], 2, "--what is not known"),
        (["--arch"], 2, "wants another"),
        (["--arch", "mips"], 2, "arm64 or armhf, not mips"),
        (["--config", "/nowhere"], 2, "no file /nowhere"),
        (["--stage", "docs"], 2, "no stage of ours"),
    ],
)
def test_build_says_what_is_wrong(words: list[str], code: int, said: str) -> None:
    done = run(IMAGE / "build", *words)
    assert done.returncode == code
    assert said in done.stdout


def test_build_without_the_network(tmp_path: Path) -> None:
    need_root()
    for program in ("ansible-playbook", "bmaptool", "debugfs", "sfdisk", "xz"):
        if not (TOP / ".venv/bin" / program).exists():
            need_program(program)
    done = run(IMAGE / "build", "--host", PI_GEN_REPO=str(tmp_path / "no"), RASPY_IMAGE_CACHE=str(tmp_path))
    assert done.returncode == 1
    assert f"'{tmp_path}/no' does not appear to be a git repository" in done.stdout


def test_wrong_roots_are_refused(tmp_path: Path) -> None:
    need_root()
    for words, said in [
        ([], "which root"),
        ([tmp_path], "no python3"),
        (["/"], "this machine"),
        (["/nowhere"], "/nowh"),
    ]:
        done = run(IMAGE / "common/apply-role", *words)
        assert done.returncode == 2
        assert said in done.stdout


# ---------------------------------------------------------------- on a root of Debian


@pytest.fixture(scope="module")
def whole_stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stage as pi-gen gets it."""
    place = tmp_path_factory.mktemp("pi-gen") / "stage-raspy"
    run(IMAGE / "build", "--stage", place, check=True)
    return place


def drive(stage: Path, root: Path, work: Path) -> subprocess.CompletedProcess[str]:
    """Run the stage on a root; what comes out is ``stage-raspy/rootfs`` in the work directory."""
    program = Path(sys.executable).with_name("ansible-playbook")
    if not program.exists():
        pytest.skip("needs ansible-playbook: make tests installs it")
    return run(IMAGE / "driver", stage, root, work, ANSIBLE_PLAYBOOK=str(program))


def as_pi_gen_leaves_it(root: Path) -> None:
    """What the stages before do that this one has to do with."""
    for place, text in {
        "boot/firmware/config.txt": "arm_64bit=1\n[pi5]\ndtoverlay=nospi10\n[all]\n",
        "boot/firmware/cmdline.txt": "console=tty1 root=ROOTDEV rootwait resize\n",
        "etc/machine-id": "uninitialized\n",
        "etc/hostname": "raspy\n",
        "etc/fstab": "BOOTDEV /boot/firmware vfat defaults 0 2\nROOTDEV / ext4 defaults,noatime 0 1\n",
    }.items():
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    # pi-gen's stage2/01-sys-tweaks/01-run.sh removes them.
    for path in (root / "etc/ssh").glob("ssh_host_*_key*"):
        path.unlink()
    subprocess.run(["chroot", root, "useradd", "--create-home", "pigen"], check=True)
    subprocess.run(["chroot", root, "usermod", "-p", PASSWORD, "-aG", "sudo", "pigen"], check=True)


def files_of(root: Path) -> dict[str, tuple[int, float]]:
    """Every file, with size and time, but what apt and shadow keep for themselves."""
    found = {}
    for directory, names, files in os.walk(root):
        names[:] = [name for name in names if Path(directory, name).relative_to(root) != Path("var/lib/apt")]
        for name in files:
            path = Path(directory, name)
            found[str(path.relative_to(root))] = (path.lstat().st_size, path.lstat().st_mtime)
    return found


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A root of this machine's architecture, as the stages before leave it."""
    need_root()
    need_capabilities()
    # Yaml comes with Ansible. The packages are those of tests/system/test_appliance.py, so that both share a root.
    yaml = pytest.importorskip("yaml", reason="needs Ansible: make tests installs it")
    defaults = yaml.safe_load(ROLE_DEFAULTS.read_text(encoding="utf-8"))
    more = defaults["raspy_appliance_packages"] + defaults["raspy_appliance_image_packages"]
    base, lock = debian_root([*role_packages(), *more, "systemd-resolved"])
    root = tmp_path_factory.mktemp("before") / "root"
    subprocess.run(["cp", "-a", "--reflink=auto", base, root], check=True)
    lock.close()
    subprocess.run(["chroot", root, "userdel", "--remove", "pi"], check=True, capture_output=True)
    (root / "etc/sudoers.d/010_pi").unlink()
    as_pi_gen_leaves_it(root)
    yield root
    shutil.rmtree(root)


@pytest.mark.system
@pytest.mark.image
@pytest.mark.timeout(600)
def test_stage_on_a_root(whole_stage: Path, before: Path, tmp_path: Path) -> None:
    was = files_of(before)
    done = drive(whole_stage, before, tmp_path)
    root = tmp_path / "stage-raspy/rootfs"
    assert done.returncode == 0, done.stdout[-6000:]
    # In order: each is logged as it begins.
    begun = [line.rpartition("stage-raspy/")[2] for line in done.stdout.splitlines() if "] Begin " in line]
    assert begun == ORDER
    assert of_root(root) == []
    text = (root / "boot/firmware/config.txt").read_text()
    assert text.startswith("arm_64bit=1\n")
    assert {"dtoverlay=w1-gpio,gpiopin=4", "dtparam=i2c_arm=on"} <= set(text.splitlines())
    assert not (root / "home/pigen").exists()
    # Nothing of the machine that builds it, and nothing that was only there for it.
    for name in ("usr/sbin/policy-rc.d", "etc/resolv.conf", "root/.ansible"):
        assert name in was or not os.path.lexists(root / name)
    for place in ("run", "tmp"):
        assert [each for each in os.listdir(root / place) if each != "lock"] == []
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
    assert files_of(before) == was
    # The role finds all as it has left it.
    program = Path(sys.executable).with_name("ansible-playbook")
    apply = whole_stage / "01-role/files/raspy/image/common/apply-role"
    again = run(apply, root, check=True, ANSIBLE_PLAYBOOK=str(program)).stdout
    assert re.search(r"^image +: ok=\d+ +changed=0 ", again, re.MULTILINE), again[-3000:]
    # And the stage ends where something is left that each Pi must have of its own.
    (root / "etc/ssh/ssh_host_ed25519_key").write_text("x")
    (root / "var/lib/raspy/web").mkdir(exist_ok=True)
    (root / "var/lib/raspy/web/secret").write_text("x")
    check = (STAGE / "02-check/00-run-chroot.sh").read_text()
    ended = subprocess.run(
        ["chroot", root, "/bin/bash", "-e"], input=check, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert "ssh keys: /etc/ssh/ssh_host_ed25519_key" in ended.stderr
    assert "state of RasPy: /var/lib/raspy/web/secret" in ended.stderr


@pytest.mark.system
@pytest.mark.image
@pytest.mark.timeout(600)
def test_stage_ends_when_the_role_fails(whole_stage: Path, before: Path, tmp_path: Path) -> None:
    stage = tmp_path / "stage-raspy"
    shutil.copytree(whole_stage, stage)
    next(stage.rglob("raspy-*.whl")).unlink()
    done = drive(stage, before, tmp_path / "work")
    assert done.returncode == 1
    assert "There is no wheel" in done.stdout
    assert "02-check" not in done.stdout


def arm64_base() -> Path | None:
    """As image/debian/build looks for it."""
    if given := os.environ.get("RASPY_IMAGE_BASE"):
        return Path(given)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = Path(os.environ.get("RASPY_IMAGE_CACHE") or home / "raspy/image")
    return max(place.glob("trixie-arm64-*.tar"), key=lambda path: path.stat().st_mtime, default=None)


@pytest.mark.image
@pytest.mark.timeout(3600)
def test_stage_on_the_root_of_the_arm64_image(whole_stage: Path, tmp_path: Path) -> None:
    """On what image/debian begins with, whose programs are those of a Pi."""
    need_root()
    need_capabilities()
    tar = arm64_base()
    if tar is None:
        pytest.skip("needs the root that image/debian begins with: make image keeps one")
    root = tmp_path / "root"
    root.mkdir()
    subprocess.run(["tar", "-C", root, "--exclude=./dev/*", "-xf", tar], check=True)
    as_pi_gen_leaves_it(root)
    done = drive(whole_stage, root, tmp_path)
    assert done.returncode == 0, done.stdout[-6000:]
    assert of_root(tmp_path / "stage-raspy/rootfs") == []
