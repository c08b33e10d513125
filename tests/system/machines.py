"""Whole machines for tests: Debian 13 with systemd as PID 1, each in a container, joined by a network of their own.

A machine is a systemd-nspawn container on an overlay over one cached root (:func:`debian_root`), in a network namespace
that has nothing but a cable (a veth pair) to the bridge of its :class:`Lan`. The bridge's own namespace, at
:data:`CONTROLLER`, is where Ansible and its like run. Nothing has a name outside: namespaces and mounts end with their
processes, which end with the test run, however that ends.

What a test needs is skipped for without root or the packages mmdebstrap and systemd-container.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from tests.support import need_program, need_root
from tests.support_processes import wait_for

TOP = Path(__file__).resolve().parents[2]
NETWORK = "10.77.0"
CONTROLLER = f"{NETWORK}.1"
"""Address of the bridge, from which machines are reached."""
USER = "pi"
"""A user of each machine who may use sudo for everything, as the first one of a Raspberry Pi. Root can log in, too."""

BASE_PACKAGES = [
    "systemd-sysv",
    "udev",
    "dbus",
    "openssh-server",
    "sudo",
    "kmod",
    "iproute2",
    "procps",
    "rsync",
    "ca-certificates",
    "tzdata",
    "python3",
    "python3-apt",
    "python3-venv",
]
"""What any Raspberry Pi has before anything is installed there."""
ROLE_DEFAULTS = TOP / "ansible/roles/raspy/defaults/main.yml"
ROOT_DAYS = 7
BOOT_LIMIT_S = 60.0
CAP_NET_ADMIN, CAP_SYS_ADMIN = 12, 21  # capabilities(7), linux/capability.h
# What is not of Debian: a machine's name, keys and resolver are its own.
_HOOK = r"""
rm -f "$1"/etc/ssh/ssh_host_*_key* "$1"/etc/hostname "$1"/etc/resolv.conf
chroot "$1" useradd --create-home --shell /bin/bash USER
echo 'USER ALL=(ALL) NOPASSWD: ALL' >"$1"/etc/sudoers.d/010_USER
chmod 440 "$1"/etc/sudoers.d/010_USER
: >"$1"/etc/default/locale
""".replace("USER", USER)


# ---------------------------------------------------------------- the root that all have below them


def role_packages() -> list[str]:
    """Debian packages that the role installs: a machine without internet has them from the start."""
    if not ROLE_DEFAULTS.exists():
        return []
    import yaml  # comes with Ansible

    given = yaml.safe_load(ROLE_DEFAULTS.read_text(encoding="utf-8")) or {}
    return [str(name) for name in given.get("raspy_packages", [])]


def cache_directory() -> Path:
    """$RASPY_TEST_CACHE, else ``raspy`` in the user's cache; scripts/test-debian keeps its roots there as well."""
    given = os.environ.get("RASPY_TEST_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "raspy"


def debian_root(packages: list[str], suite: str = "trixie") -> tuple[Path, IO[bytes]]:
    """Return a root directory with packages, and a lock to be held open while it is in use.

    It is made when there is none, and again after :data:`ROOT_DAYS`; when that fails, an old one does.
    """
    wanted = sorted({*BASE_PACKAGES, *packages})
    key = hashlib.sha256(" ".join([suite, *wanted, _HOOK]).encode()).hexdigest()[:16]
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    # It has programs that are setuid.
    own = cache / "machines"
    own.mkdir(mode=0o700, exist_ok=True)
    with open(own / f"{suite}-{key}.making", "wb") as making:
        fcntl.flock(making, fcntl.LOCK_EX)
        root = _youngest(own, suite, key)
        if root is None or time.time() - root.stat().st_mtime > ROOT_DAYS * 86400:
            try:
                root = _make_root(own, suite, key, wanted)
            except subprocess.CalledProcessError as error:
                if root is None:
                    raise RuntimeError(f"mmdebstrap could not make a root: {error.stderr[-2000:]}") from None
        lock = open(f"{root}.lock", "wb")  # noqa: SIM115
        fcntl.flock(lock, fcntl.LOCK_SH)
    _forget_old_roots(own, root)
    return root, lock


def _youngest(own: Path, suite: str, key: str) -> Path | None:
    return max(own.glob(f"{suite}-{key}-*.root"), key=lambda path: path.stat().st_mtime, default=None)


def _make_root(own: Path, suite: str, key: str, packages: list[str]) -> Path:
    need_program("mmdebstrap")
    root = own / f"{suite}-{key}-{int(time.time())}.root"
    new = root.with_suffix(".new")
    shutil.rmtree(new, ignore_errors=True)
    subprocess.run(
        [
            *("mmdebstrap", "--quiet", "--format=directory", "--variant=minbase", "--skip=cleanup/apt/lists"),
            *(f"--include={','.join(packages)}", f"--customize-hook={_HOOK}", suite, str(new)),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=1800,
    )
    new.rename(root)
    os.utime(root)
    return root


def _forget_old_roots(own: Path, kept: Path) -> None:
    """Remove the roots that no one has used for two weeks or that are older than the one of the same packages."""
    for root in own.glob("*.root"):
        same = root.name.rpartition("-")[0] == kept.name.rpartition("-")[0]
        if root == kept or not (same or time.time() - root.stat().st_mtime > 2 * ROOT_DAYS * 86400):
            continue
        with open(f"{root}.lock", "wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # machines are running on it
            shutil.rmtree(root, ignore_errors=True)
            os.unlink(lock.name)


# ---------------------------------------------------------------- processes that end with this one


def need_capabilities() -> None:
    """Skip in a container that may not make networks or mounts of its own: root has everything elsewhere."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    effective = int(status.partition("CapEff:")[2].split()[0], 16)
    if not all(effective >> number & 1 for number in (CAP_NET_ADMIN, CAP_SYS_ADMIN)):
        pytest.skip("a container that may not make networks has no machines in it")


_DIES_WITH_US = ["setpriv", "--pdeathsig", "KILL", "--"]


def _ip(*words: str, netns: int | None = None) -> None:
    inside = ["nsenter", "-t", str(netns), "-n"] if netns else []
    subprocess.run([*inside, "ip", *words], check=True, capture_output=True, text=True)


class Holder:
    """A network namespace, which is there as long as this."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [*_DIES_WITH_US, "unshare", "--net", "sleep", "infinity"], stdin=subprocess.DEVNULL
        )
        self.pid = self._process.pid
        ours = os.readlink("/proc/self/ns/net")
        wait_for("a network namespace", lambda: os.readlink(f"/proc/{self.pid}/ns/net") != ours)
        self.namespace = os.readlink(f"/proc/{self.pid}/ns/net")
        _ip("link", "set", "lo", "up", netns=self.pid)

    def close(self) -> None:
        """End every process that is left in it."""
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, ProcessLookupError):
                if os.readlink(place / "ns/net") == self.namespace:
                    os.kill(int(place.name), signal.SIGKILL)
        self._process.wait()


def _cgroup_roots() -> list[Path]:
    """The unified hierarchy, and the named one of systemd where there are both."""
    found = []
    with open("/proc/self/mounts", encoding="utf-8") as mounts:
        for line in mounts:
            _, place, kind, options = line.split()[:4]
            if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options):
                found.append(Path(place))
    return found


def _remove_cgroup(place: Path) -> None:
    for path, _, _ in os.walk(place, topdown=False):
        # A process that was killed may take its time to go.
        with contextlib.suppress(FileNotFoundError):
            wait_for(f"an empty {path}", lambda path=path: _has_gone(path), 10.0)


def _has_gone(path: str) -> bool:
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


# ---------------------------------------------------------------- a machine

# Arguments: place, options of the overlay, process in the network namespace, cgroup.procs…, --, command…
_PREPARE = """
place=$1 overlay=$2 network=$3
shift 3
while [ "$1" != -- ]; do
    echo $$ >"$1"
    shift
done
shift
mkdir -p /run/systemd/nspawn
mount -t tmpfs tmpfs /run/systemd/nspawn
touch "$place/net"
mount --bind "/proc/$network/ns/net" "$place/net"
mount -t overlay overlay -o "$overlay" "$place/root"
exec "$@"
"""


class Machine:
    """One host. It is made by :meth:`Lan.machine`, and boots at once.

    :param lan: the network that it is in
    :param name: its host name
    :param number: of its address in the network
    """

    def __init__(self, lan: Lan, name: str, number: int) -> None:
        self.lan, self.name = lan, name
        self.address = f"{NETWORK}.{number}"
        self.log_path = lan.directory / f"{name}.log"
        self._place = lan.directory / name
        self._port = f"v{number}"
        self._process: subprocess.Popen[bytes] | None = None
        self._leader: int | None = None
        self._cgroups = [root / f"{lan.directory.name}-{name}" for root in _cgroup_roots()]
        for part in ("upper", "work", "root"):
            (self._place / part).mkdir(parents=True)
        self._network = Holder()
        _ip("link", "add", self._port, "type", "veth", "peer", "eth0", "netns", str(self._network.pid), netns=lan.pid)
        _ip("addr", "add", f"{self.address}/24", "dev", "eth0", netns=self._network.pid)
        _ip("link", "set", "eth0", "up", netns=self._network.pid)
        _ip("link", "set", self._port, "up", "master", "lan", netns=lan.pid)
        self._furnish()
        self.boot()

    def _furnish(self) -> None:
        self._put("etc/hostname", f"{self.name}\n")
        self._put("etc/resolv.conf", "")
        self._put("etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {self.name}\n")
        self._put("root/.ssh/authorized_keys", self.lan.public_key, 0o600)
        self._put(f"home/{USER}/.ssh/authorized_keys", self.lan.public_key, 0o600)
        for path in (f"home/{USER}", f"home/{USER}/.ssh", f"home/{USER}/.ssh/authorized_keys"):
            os.chown(self._place / "upper" / path, 1000, 1000)
        for name in ("ssh_host_ed25519_key", "ssh_host_ed25519_key.pub"):
            self._put(f"etc/ssh/{name}", (self.lan.directory / name).read_text(), 0o600)

    def _put(self, path: str, text: str, mode: int = 0o644) -> None:
        place = self._place / "upper" / path
        for parent in reversed(list(place.relative_to(self._place / "upper").parents)[:-1]):
            directory = self._place / "upper" / parent
            directory.mkdir(mode=0o700 if directory.name in (".ssh", "root") else 0o755, exist_ok=True)
        place.write_text(text)
        place.chmod(mode)

    # ------------------------------------------------ power

    def boot(self, wait: bool = True) -> None:
        """Switch it on, with the disk as it was left; wait until systemd has started what it has to."""
        assert self._process is None, f"{self.name} is running"
        for cgroup in self._cgroups:
            cgroup.mkdir(exist_ok=True)
        overlay = f"lowerdir={self.lan.root},upperdir={self._place}/upper,workdir={self._place}/work"
        cgroups = [f"{cgroup}/cgroup.procs" for cgroup in self._cgroups]
        with open(self.log_path, "ab") as log:
            self._process = subprocess.Popen(
                [
                    *(*_DIES_WITH_US, "unshare", "--mount", "--propagation", "private", "--"),
                    *("sh", "-ec", _PREPARE, "sh", str(self._place), overlay, str(self._network.pid), *cgroups, "--"),
                    # A process namespace around it: with its first process all others are gone.
                    *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--"),
                    *("systemd-nspawn", "--quiet", f"--directory={self._place}/root", "--boot", "--register=no"),
                    *("--keep-unit", f"--machine={self.name}", f"--hostname={self.name}", "--console=pipe"),
                    *(f"--network-namespace-path={self._place}/net", "--resolv-conf=off", "--timezone=off"),
                    "--link-journal=no",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # The host may have another hierarchy: that of the machine is systemd's own.
                env={**os.environ, "UNIFIED_CGROUP_HIERARCHY": "1"},
            )
        if wait:
            self.wait_booted()

    def wait_booted(self, limit: float = BOOT_LIMIT_S) -> str:
        """Wait until systemd has started what it has to; return ``running`` or ``degraded``."""
        return wait_for(f"{self.name} to boot", self._booted, limit)

    def _booted(self) -> str | None:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"{self.name} has ended:\n{self.log_path.read_text(errors='replace')[-2000:]}")
        if not self.leader:
            return None
        state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
        return state if state in ("running", "degraded") else None

    @property
    def leader(self) -> int | None:
        """Process id of its PID 1, None while it is off."""
        if self._leader and self._is_leader(self._leader):
            return self._leader
        self._leader = None
        if self._process is not None:
            # Of unshare, and of nspawn.
            grandchildren = [pid for child in _children(self._process.pid) for pid in _children(child)]
            self._leader = next((pid for pid in grandchildren if self._is_leader(pid)), None)
        return self._leader

    def _is_leader(self, pid: int) -> bool:
        """systemd itself, not what nspawn runs before."""
        try:
            return Path(f"/proc/{pid}/comm").read_text() == "systemd\n"
        except OSError:
            return False

    def stop(self, limit: float = 60.0) -> None:
        """Shut it down in order."""
        assert self._process is not None, f"{self.name} is off"
        self.run("systemctl", "poweroff")
        self._process.wait(limit)
        self.power_off()

    def power_off(self) -> None:
        """Pull the plug: every process of it is gone at once. The disk stays, as the kernel has it."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for cgroup in self._cgroups:
            _remove_cgroup(cgroup)
        self._process = self._leader = None

    def reboot(self) -> None:
        """Restart it in order, and wait until it is up again."""
        assert self._process is not None, f"{self.name} is off"
        self.run("systemctl", "reboot")
        # The unit of a container is started again by who sees this (systemd-nspawn(1), --keep-unit).
        assert self._process.wait(60) == 133
        self.power_off()
        self.boot()

    def close(self) -> None:
        """Switch it off for good."""
        self.power_off()
        self._network.close()

    # ------------------------------------------------ what is done there

    def run(
        self, *words: str, check: bool = True, given: str | None = None, limit: float = 120.0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a program there as root, by no way of the network; its output is in the error when it fails."""
        return self._run(["nsenter", "-t", str(self.leader), "--all", *_env(environment), *words], check, given, limit)

    def sh(self, script: str, check: bool = True, limit: float = 120.0) -> str:
        """Run lines of shell there as root; return what they print."""
        return self.run("sh", "-ec", script, check=check, limit=limit).stdout

    def popen(self, *words: str, **more: Any) -> subprocess.Popen[bytes]:
        """Start a program there as root, which ends with this process at the latest."""
        inside = ["nsenter", "-t", str(self.leader), "--all", *_env({}), *words]
        return subprocess.Popen([*_DIES_WITH_US, *inside], stdin=subprocess.DEVNULL, **more)

    def ssh(
        self, command: str, user: str = USER, check: bool = True, given: str | None = None, limit: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a line of shell there over ssh, from the controller."""
        words = ["ssh", *self.lan.ssh_options, f"{user}@{self.address}", command]
        return self._run(self.lan.inside(words), check, given, limit)

    def _run(self, words: list[str], check: bool, given: str | None, limit: float) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            words,
            input=given or "",
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit,
        )
        if check and done.returncode:
            shown = " ".join(words[-3:])
            raise AssertionError(f"{self.name}: {shown}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def path(self, path: str) -> Path:
        """A file of it, while it is on, as this process can read and write it (symbolic links may lead astray)."""
        return Path(f"/proc/{self.leader}/root") / path.lstrip("/")

    def write(self, path: str, content: str | bytes, mode: int = 0o644) -> None:
        """Write a file of root's there, with the directories that it needs."""
        place = self.path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content.encode() if isinstance(content, str) else content)
        place.chmod(mode)

    def property(self, unit: str, name: str) -> str:
        """One of ``systemctl show``."""
        return self.run("systemctl", "show", "--value", "--property", name, unit).stdout.strip()

    def json(self, *words: str, check: bool = True) -> Any:
        """What a program there prints, which is JSON."""
        done = self.run(*words, check=check)
        return json.loads(done.stdout)

    # ------------------------------------------------ its cable

    def cut(self, carrier: bool = True) -> None:
        """Take it off the network.

        :param carrier: it goes on seeing a live cable, which leads nowhere; else the cable is pulled there as well
        """
        if carrier:
            _ip("link", "set", self._port, "nomaster", netns=self.lan.pid)
        else:
            _ip("link", "set", self._port, "down", netns=self.lan.pid)

    def join(self) -> None:
        """Undo :meth:`cut`."""
        _ip("link", "set", self._port, "up", "master", "lan", netns=self.lan.pid)


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _env(added: dict[str, str]) -> list[str]:
    """Nothing of this machine's environment is of any concern to another."""
    known = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
    return ["env", "-i", *(f"{name}={value}" for name, value in {**known, **added}.items())]


# ---------------------------------------------------------------- the network


class Lan:
    """A network of machines, with :data:`CONTROLLER` as this process's own place in it.

    Use it in a ``with``: all that it has started is gone afterwards.

    :param packages: what machines have installed besides :data:`BASE_PACKAGES`; the role's, if none are given
    """

    def __init__(self, packages: list[str] | None = None) -> None:
        need_root()
        need_capabilities()
        for name in ("systemd-nspawn", "mmdebstrap", "ip", "ssh", "ssh-keygen", "nsenter"):
            need_program(name)
        self.root, self._lock = debian_root(role_packages() if packages is None else packages)
        self.machines: dict[str, Machine] = {}
        _sweep()
        # The upper half of an overlay may not lie on another overlay, as /tmp does in many containers.
        place = "/dev/shm" if os.path.ismount("/dev/shm") else None
        self.directory = Path(tempfile.mkdtemp(prefix=f"raspy-lan-{os.getpid()}-", dir=place))
        self._network = Holder()
        self.pid = self._network.pid
        _ip("link", "add", "lan", "type", "bridge", "forward_delay", "0", netns=self.pid)
        _ip("addr", "add", f"{CONTROLLER}/24", "dev", "lan", netns=self.pid)
        _ip("link", "set", "lan", "up", netns=self.pid)
        self._make_keys()

    def __enter__(self) -> Lan:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make_keys(self) -> None:
        for name in ("key", "ssh_host_ed25519_key"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "raspy-tests", "-f", str(self.directory / name)],
                check=True,
                stdin=subprocess.DEVNULL,
            )
        self.key_path = self.directory / "key"
        self.public_key = (self.directory / "key.pub").read_text()
        host_key = (self.directory / "ssh_host_ed25519_key.pub").read_text()
        (self.directory / "known_hosts").write_text(f"{NETWORK}.* {host_key}")
        self.ssh_options = [
            "-F",
            "none",
            "-i",
            str(self.key_path),
            "-o",
            f"UserKnownHostsFile={self.directory}/known_hosts",
        ]
        self.ssh_options += ["-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "IdentitiesOnly=yes"]

    def machine(self, name: str) -> Machine:
        """Add a machine and boot it (about 2 s)."""
        machine = Machine.__new__(Machine)
        self.machines[name] = machine  # first, so that it is closed when it does not boot
        Machine.__init__(machine, self, name, 10 + len(self.machines))
        return machine

    def inside(self, words: list[str]) -> list[str]:
        """The command line that runs a program of this machine at :data:`CONTROLLER`."""
        return [*_DIES_WITH_US, "nsenter", "-t", str(self.pid), "-n", *words]

    def run(
        self, words: list[str], check: bool = True, limit: float = 600.0, **added: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of this machine at :data:`CONTROLLER`, from the top of the sources."""
        done = subprocess.run(
            self.inside(words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=TOP,
            env={**os.environ, **added},
            timeout=limit,
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(words[:4])}: exit {done.returncode}\n{done.stdout[-8000:]}")
        return done

    def ansible(
        self, playbook: str, groups: dict[str, dict[str, dict[str, Any]]], *words: str, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a playbook of ansible/ over ssh, as :data:`USER` with sudo.

        :param groups: hosts by group, with the variables of each
        """
        program = Path(sys.executable).with_name("ansible-playbook")
        if not program.exists():
            pytest.skip("needs ansible-playbook: make tests installs it")
        inventory = self.directory / f"inventory-{len(list(self.directory.glob('inventory-*')))}.json"
        content: dict[str, Any] = {}
        for group, hosts in groups.items():
            content[group] = {"hosts": {name: {**self._reach(name), **more} for name, more in hosts.items()}}
        inventory.write_text(json.dumps(content))
        home = self.directory / "ansible"
        added = {
            "ANSIBLE_LOCAL_TEMP": str(home),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(home / "cp"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_HOME": str(home),
            "PYTHONWARNINGS": "",
        }
        config = TOP / "ansible/ansible.cfg"
        if config.exists():
            added["ANSIBLE_CONFIG"] = str(config)
        return self.run([str(program), "-i", str(inventory), f"ansible/{playbook}", *words], check, **added)

    def _reach(self, name: str) -> dict[str, Any]:
        options = " ".join(self.ssh_options)
        reach = {"ansible_user": USER, "ansible_become": True, "ansible_ssh_common_args": options}
        return {**reach, "ansible_host": self.machines[name].address, "ansible_python_interpreter": "/usr/bin/python3"}

    @contextmanager
    def capture(self) -> Iterator[Capture]:
        """Record every frame in the network while the body runs."""
        capture = Capture(self)
        try:
            yield capture
        finally:
            capture.close()

    def close(self) -> None:
        """Switch all machines off, and leave nothing behind."""
        for machine in self.machines.values():
            with contextlib.suppress(AttributeError):  # one whose making failed early
                machine.close()
        self._network.close()
        shutil.rmtree(self.directory, ignore_errors=True)
        self._lock.close()


class Capture:
    """Frames that went over a network, each as often as it passed a port."""

    def __init__(self, lan: Lan) -> None:
        self._path = lan.directory / f"capture-{time.monotonic_ns()}"
        self._process = subprocess.Popen(
            lan.inside([sys.executable, "-c", _RECORDER, str(self._path)]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def bytes(self) -> bytes:
        """All of them so far, one after the other."""
        return self._path.read_bytes()

    def close(self) -> None:
        """Stop recording; what was recorded can be read until the network is closed."""
        self._process.kill()
        self._process.communicate()


_RECORDER = f"""
import socket, sys
recorder = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
recorder.setsockopt(socket.SOL_SOCKET, {socket.SO_RCVBUF}, 8 << 20)
with open(sys.argv[1], "wb", buffering=0) as file:
    print("ready", flush=True)
    while True:
        file.write(recorder.recv(1 << 17))
"""


def _sweep() -> None:
    """Remove what a run has left that was killed: directories and cgroups, for its processes are gone."""
    leftovers = [*Path("/dev/shm").glob("raspy-lan-*"), *Path(tempfile.gettempdir()).glob("raspy-lan-*")]
    for root in _cgroup_roots():
        leftovers += root.glob("raspy-lan-*")
    for place in leftovers:
        pid = place.name.split("-")[2]
        if not pid.isdigit() or os.path.exists(f"/proc/{pid}"):
            continue
        if (place / "cgroup.procs").exists():
            with contextlib.suppress(AssertionError):
                _remove_cgroup(place)
        else:
            shutil.rmtree(place, ignore_errors=True)
