"""What must hold of an appliance, whichever way its image was made: of its root as it lies there, and once it runs.

``python -m tests.image.checks ROOT`` looks at the root of an image in a directory; exit code 0: good, 1: complaints.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from raspy.common.registry import SERVERS

Sh = Callable[..., str]
"""Runs lines of shell as root in the machine and returns what they print; with ``check=False``, failed or not."""

PLACES = ["/etc", "/root", "/home", "/var", "/opt", "/usr/local"]
"""Where secrets may be; the rest is as Debian's packages have it."""
NEVER = {
    "etc/ssh/ssh_host_*": "an ssh host key",
    "var/lib/dbus/machine-id": "a machine id",
    "var/lib/systemd/random-seed": "a random seed",
    "var/lib/systemd/credential.secret": "a secret of systemd",
    "var/lib/raspy/*/*": "state of a server",
    "etc/raspy/keys/*": "a key of the bus",
    "etc/raspy/secrets/*": "a secret of a channel",
    "root/.*_history": "what was typed",
    "root/.ssh/*": "a way in",
    "home/*": "a user's home",
    "var/lib/cloud/instance*": "what cloud-init knows of a machine",
    "var/lib/cloud/data/*": "what cloud-init knows of a machine",
    "etc/NetworkManager/system-connections/*": "a network",
    "etc/wpa_supplicant/*.conf": "a network",
    "etc/cloud/cloud-init.disabled": "a mark that the first boot is over",
    "var/log/journal/*": "a journal",
    "var/lib/systemd/coredump/*": "a core dump",
}
"""What the first boot makes, or somebody has left."""
PRIVATE_KEY = re.compile(rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----\s+[A-Za-z0-9+/=\s]{40}")
NO_PASSWORD = re.compile(r"[!*]+")
"""What nobody can log in with (shadow(5))."""
LARGEST = 1 << 20
"""Bytes of a file that may be a key."""
EVERYBODYS, NOBODY = 1000, 65534
COMMANDS = ["/usr/bin/date ^-u -s @[0-9]{10}$", "/usr/sbin/hwclock ^--systohc --utc --noadjfile --rtc=/dev/rtc[0-9]$"]
"""What raspy-sync may run as root, as sudo shows it."""
HERE = re.compile(r"127\.|\[::1\]|\[::ffff:127\.")
OPEN_TCP = {80}
"""Ports of TCP that anybody in the network may knock at."""
OPEN_UDP = {68, 546, 5353}
"""Those of UDP: DHCP (RFC 2131, RFC 8415) and names in the network (RFC 6762), for which avahi has others that come and
go, too."""


# ---------------------------------------------------------------- as it lies there


def of_root(root: Path) -> list[str]:
    """Complaints about the root of an image that has not booted yet.

    :param root: a directory with at least :data:`PLACES` of it
    """
    return [*_secrets(root), *_users(root), *_private_keys(root), *_appliance(root)]


def _secrets(root: Path) -> Iterator[str]:
    for pattern, what in NEVER.items():
        for path in root.glob(pattern):
            if not path.is_symlink() and not (path.is_dir() and not any(path.iterdir())):
                yield f"{path.relative_to(root)}: {what}"
    # machine-id(5): what makes the first boot make one.
    if (root / "etc/machine-id").read_text().strip() not in ("", "uninitialized"):
        yield "etc/machine-id: a machine id"


def _users(root: Path) -> Iterator[str]:
    for line in (root / "etc/shadow").read_text().splitlines():
        name, password = line.split(":")[:2]
        if not NO_PASSWORD.fullmatch(password):
            yield f"etc/shadow: {name} has {'a' if password else 'an empty'} password"
    for line in (root / "etc/passwd").read_text().splitlines():
        name, _, uid, *_ = line.split(":")
        if EVERYBODYS <= int(uid) < NOBODY:
            yield f"etc/passwd: a user {name}"


def _private_keys(root: Path) -> Iterator[str]:
    for top in PLACES:
        for directory, _, names in os.walk(root / top.lstrip("/")):
            for name in names:
                path = Path(directory, name)
                if path.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST:
                    continue
                if name.startswith("authorized_keys") or PRIVATE_KEY.search(path.read_bytes()):
                    yield f"{path.relative_to(root)}: a key"


def _appliance(root: Path) -> Iterator[str]:
    for path in (root / "etc/sudoers.d").glob("*"):
        found = path.stat()
        if path.name != "README" and (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) != (0, 0, 0o440):
            yield f"{path.relative_to(root)}: owner or mode"
        if path.name not in ("README", "raspy-sync"):
            yield f"{path.relative_to(root)}: whose is that?"
    if not (root / "etc/sudoers.d/raspy-sync").exists():
        yield "etc/sudoers.d/raspy-sync: missing"
    if not os.path.islink(root / "opt/raspy/current"):
        yield "opt/raspy/current: missing"
    wanted = {path.name for path in (root / "etc/systemd/system/raspy.target.wants").glob("*")}
    if missing := {f"raspy-{name}.service" for name in SERVERS if name != "fake"} - wanted:
        yield f"not enabled: {sorted(missing)}"
    for name in ("ssh.service", "ssh.socket"):
        if list((root / "etc/systemd/system").glob(f"*.wants/{name}")):
            yield f"{name} is enabled"
    modules = root / "etc/modules-load.d/raspy.conf"
    if not modules.exists() or "w1-gpio" not in modules.read_text():
        yield "etc/modules-load.d/raspy.conf: no 1-Wire"


# ---------------------------------------------------------------- once it runs


def inside(sh: Sh, name: str = "raspy", ssh: bool = False, servers: str = "") -> list[str]:
    """Complaints about an appliance that has booted, as a root shell sees it.

    :param name: its host name
    :param ssh: whether somebody has turned ssh on
    :param servers: the units that are expected to run; all but ``fake`` if none are given
    """
    parts = [_units(sh, servers), _modules(sh), _sudo(sh), _card(sh), _keys(sh, ssh), _network(sh, name, ssh)]
    return [complaint for part in parts for complaint in part]


def _units(sh: Sh, servers: str) -> Iterator[str]:
    for line in sh("systemctl list-units --failed --no-legend --plain").splitlines():
        unit = line.split()[0]
        yield f"failed: {unit}: {sh(f'journalctl -b -n 20 --no-pager -u {unit}', check=False)}"
    for unit in ["raspy.target", *(servers.split() or [f"raspy-{each}.service" for each in SERVERS if each != "fake"])]:
        if (state := sh(f"systemctl is-active {unit}", check=False).strip()) != "active":
            yield f"{unit} is {state}"
    if restarts := sh(
        "systemctl show 'raspy-*.service' -p Id -p NRestarts | grep -B1 -A1 'NRestarts=[1-9]'", check=False
    ):
        yield f"started again: {restarts}"
    if wrong := sh("systemd-analyze --no-pager cat-config systemd/system.conf 2>&1 >/dev/null", check=False):
        yield wrong
    cycles = sh("journalctl -b --no-pager -g 'ordering cycle|Cannot add dependency' | head -5", check=False)
    if "ordering cycle" in cycles:
        yield cycles


def _modules(sh: Sh) -> Iterator[str]:
    loaded = {line.split()[0] for line in sh("cat /proc/modules").splitlines()}
    for module in ("w1_gpio", "w1_therm", "i2c_dev"):
        if module not in loaded and not sh(f"grep -l {module} /lib/modules/$(uname -r)/modules.builtin", check=False):
            yield f"the module {module} is not loaded"


def _sudo(sh: Sh) -> Iterator[str]:
    if checked := sh("visudo -O -P -cf /etc/sudoers 2>&1 >/dev/null", check=False).strip():
        yield f"visudo: {checked}"
    listed = sh("sudo -n -l -U raspy-sync", check=False)
    found = re.findall(r"\(root\) NOPASSWD: (.*)", listed)
    flat = " ".join(found).replace("\\", "")
    if [each for each in COMMANDS if each.replace("\\", "") not in flat] or len(found) > 2:
        yield f"raspy-sync may do by sudo: {listed}"
    refused = "setpriv --reuid=raspy-{0} --regid=raspy --init-groups sudo -n {1}"
    for user in (name for name in SERVERS if name != "fake"):
        for command in ("/bin/true", "/usr/bin/date -u -s @1234567890 -R"):
            if sh(f"{refused.format(user, command)} >/dev/null 2>&1 && echo done", check=False):
                yield f"raspy-{user} may run {command} by sudo"


def _card(sh: Sh) -> Iterator[str]:
    options = sh("findmnt -no OPTIONS /").strip()
    if "noatime" not in options.split(",") or "commit=" not in options:
        yield f"/ is mounted {options}"
    kinds = dict(line.split()[1:3] for line in sh("cat /proc/mounts").splitlines())
    if kinds.get("/tmp") != "tmpfs":
        yield f"/tmp is {kinds.get('/tmp', 'on the card')}"
    if kinds.get("/boot/firmware", "autofs") not in ("vfat", "autofs"):
        yield f"/boot/firmware is {kinds.get('/boot/firmware')}"
    swaps = [line.split()[0] for line in sh("cat /proc/swaps").splitlines()[1:]]
    if [name for name in swaps if not name.startswith("/dev/zram")] or not swaps:
        yield f"swap is on {swaps}"
    if sh("ls -A /var/log/journal 2>/dev/null", check=False) or not sh("ls /run/log/journal", check=False):
        yield "the journal is on the card"
    # Some of it is the file system's own, and ext4 keeps a part for root.
    size, card = (int(each) for each in sh(_SIZES).split())
    if size < 0.9 * card:
        yield f"the root has {size >> 20} MB of {card >> 20}"


_AVAHI = "org.freedesktop.Avahi / org.freedesktop.Avahi.Server"
_SIZES = """
device=$(findmnt -no SOURCE /)
disk=$(lsblk -ndo PKNAME "$device")
boot=$(findmnt -nbo SIZE /boot/firmware || echo 0)
echo "$(findmnt -nbo SIZE /) $(($(cat /sys/class/block/$disk/size) * 512 - boot))"
"""


def _keys(sh: Sh, ssh: bool) -> Iterator[str]:
    if not re.fullmatch(r"[0-9a-f]{32}\n", sh("cat /etc/machine-id")):
        yield "no machine id"
    if sh("findmnt -no SOURCE /etc/machine-id", check=False):
        yield "the machine id is not on the card"
    keys = sh("stat -c '%a %U %n' /etc/ssh/ssh_host_*_key 2>/dev/null", check=False)
    # They are made when ssh starts for the first time, at the latest.
    wrong = [line for line in keys.splitlines() if not line.startswith("600 root ")]
    if wrong or (ssh and "ssh_host_ed25519_key" not in keys):
        yield f"ssh host keys: {keys}"
    if sh("stat -c %a /var/lib/raspy/web").strip() != "700":
        yield "others may read the page's secrets"


def _network(sh: Sh, name: str, ssh: bool) -> Iterator[str]:
    if (found := sh("hostname").strip()) != name:
        yield f"its name is {found}"
    heard = sh(f"busctl call {_AVAHI} GetHostNameFqdn 2>&1", check=False)
    if f'"{name}.local"' not in heard:
        yield f"avahi: {heard}"
    for line in sh("ss -Hltn").splitlines():
        address, _, port = line.split()[3].rpartition(":")
        if not HERE.match(address) and int(port) not in OPEN_TCP | ({22} if ssh else set()):
            yield f"TCP port {port} is open at {address}"
    for line in sh("ss -Hlunp").splitlines():
        address, _, port = line.split()[3].rpartition(":")
        if not HERE.match(address) and int(port) not in OPEN_UDP and "avahi" not in line:
            yield f"UDP port {port} is open: {line}"


if __name__ == "__main__":
    complaints = of_root(Path(sys.argv[1]))
    print("\n".join(complaints) or f"{sys.argv[1]}: nothing is wrong")
    sys.exit(bool(complaints))
