"""The role makes a machine an appliance: what its card brings, what its page asks for, and what stays after a reset.

A machine here is a container: it has no firmware, and its boot partition is a directory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.support_processes import wait_for
from tests.system.installed import counts, wheel
from tests.system.machines import ROLE_DEFAULTS, Lan, Machine, role_packages

pytestmark = [pytest.mark.system, pytest.mark.fleet, pytest.mark.timeout(900)]

SERVERS = ["broker", "titanic", "core", "web"]
PASSWORD = "a good password"
UP_S = 90.0
IMAGER_USER = """#cloud-config
hostname: pool
manage_etc_hosts: true
timezone: Europe/Paris
enable_ssh: true
users:
- name: anna
  groups: users,adm,dialout,audio,netdev,video,plugdev,cdrom,games,input,gpio,spi,i2c,render,sudo
  shell: /bin/bash
  lock_passwd: true
  ssh_authorized_keys:
    - KEY
  sudo: ALL=(ALL) NOPASSWD:ALL
"""
IMAGER_NETWORK = """network:
  version: 2
  wifis:
    wlan0:
      dhcp4: true
      regulatory-domain: "FR"
      access-points:
        "Home \\"net\\"":
          password: "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
      optional: true
"""
"""What Raspberry Pi Imager 2 writes (its src/customization_generator.cpp)."""


def given(**more: object) -> dict[str, dict[str, object]]:
    return {"raspy_wheel": str(wheel()), "raspy_servers": SERVERS, "raspy_appliance": True, **more}  # type: ignore[dict-item]


@pytest.fixture(scope="module")
def lan() -> Iterator[Lan]:
    """Machines that have what an appliance needs besides: there is no internet."""
    import yaml  # comes with Ansible

    defaults = yaml.safe_load(ROLE_DEFAULTS.read_text(encoding="utf-8"))
    more = defaults["raspy_appliance_packages"] + defaults["raspy_appliance_image_packages"]
    with Lan([*role_packages(), *more, "systemd-resolved"]) as network:
        yield network


@pytest.fixture(scope="module")
def pond(lan: Lan) -> Machine:
    """An appliance that the role has set up over ssh."""
    machine = lan.machine("pond")
    machine.write("/etc/fstab", "LABEL=root / ext4 errors=remount-ro 0 1\n")
    machine.write("/boot/firmware/nothing", "")
    groups = {"raspy_broker": {"pond": given()}, "raspy_nodes": {}}
    assert counts(lan.ansible("site.yml", groups).stdout)["failed"] == 0
    again = lan.ansible("site.yml", groups).stdout
    assert counts(again)["changed"] == 0, again
    assert counts(lan.ansible("site.yml", groups, "--check").stdout)["changed"] == 0
    # A container has no such disk.
    machine.sh("mv /etc/fstab /etc/fstab.made")
    return machine


def is_up(machine: Machine) -> bool:
    return machine.run("raspy", "check", check=False).returncode == 0


def page(machine: Machine, path: str = "/", data: str = "", *more: str) -> str:
    """What the page answers, with its status at the end; asked from the machine itself."""
    script = (
        "import sys,http.client,urllib.parse as p;c=http.client.HTTPConnection('127.0.0.1',80,timeout=20);"
        "path,data,cookie=sys.argv[1:4];h={'Cookie':cookie,'Origin':'http://127.0.0.1',"
        "'Content-Type':'application/x-www-form-urlencoded'};"
        "c.request('POST' if data else 'GET',path,data or None,h);r=c.getresponse();"
        "print(r.read().decode(),r.getheader('Set-Cookie') or '',r.status,sep='\\n')"
    )
    return machine.run("python3", "-c", script, path, data, *(more or ("",))).stdout


def log_in(machine: Machine) -> tuple[str, str]:
    """Set the first password; return the cookie and the word for forms."""
    from raspy.web.auth.sessions import csrf

    answer = page(machine, "/setup", f"password={PASSWORD}&again={PASSWORD}".replace(" ", "+"))
    assert answer.rstrip().endswith("303"), answer
    value = answer.split("raspy=")[1].split(";")[0]
    return f"raspy={value}", csrf(value)


def reboots(machine: Machine, boot: str) -> None:
    """Wait until the machine has gone down by itself, and start it again, as its hardware does."""
    assert machine._process is not None
    assert machine._process.wait(90) == 133, boot
    machine.power_off()
    machine.boot()


def test_what_it_is_afterwards(pond: Machine) -> None:
    assert pond.property("appliance-request.path", "ActiveState") == "active"
    assert pond.sh("systemctl --failed --no-legend --plain") == ""
    assert pond.sh("cat /etc/fstab.made") == "LABEL=root / ext4 errors=remount-ro,noatime,commit=30 0 1\n"
    policy = pond.sh("apt-config dump | grep -E 'Unattended-Upgrade::(Origins|Automatic)'")
    assert policy.count("Origins-Pattern::") == 1, policy
    assert "label=Debian-Security" in policy
    assert 'Automatic-Reboot-Time "03:30"' in policy
    assert "size=25%%" in pond.sh("systemctl cat tmp.mount")
    assert "page is at http://" in pond.sh("cat /etc/issue.d/raspy.issue")
    assert json.loads(pond.run("raspy", "appliance", "status", "--json").stdout)["appliance"] is True
    verified = pond.run("systemd-analyze", "verify", "appliance-first-boot.service", "appliance-request.path",
                        "appliance-request.service", "appliance-customised.service", check=False)  # fmt: skip
    assert "appliance" not in verified.stderr, verified.stderr


def test_boot_partition_and_resets(pond: Machine) -> None:
    # A configuration that is no good, and a good one.
    pond.write("/boot/firmware/raspy.toml", "[web]\nprot = 1\n")
    pond.reboot()
    wait_for("all up", lambda: is_up(pond), UP_S)
    assert pond.sh("systemctl --failed --no-legend --plain") == ""
    assert "raspy.toml:2: unknown key 'prot'" in pond.sh("cat /boot/firmware/raspy.toml.problem.txt")
    assert "unknown key 'prot'" in pond.sh("cat /run/issue.d/raspy-problem.issue")
    cookie, word = log_in(pond)
    assert "unknown key &#039;prot&#039;" in page(pond, "/", "", cookie)
    pond.write("/boot/firmware/raspy.toml", "[web]\nsetup_minutes = 7\n")
    pond.reboot()
    wait_for("all up", lambda: is_up(pond), UP_S)
    assert "setup_minutes = 7" in pond.sh("cat /etc/raspy/raspy.toml")
    assert 'broker_ip = "ipc:///run/raspy"' in pond.sh("cat /etc/raspy/raspy.toml")
    assert pond.sh("ls /boot/firmware").split() == ["nothing", "raspy.toml.taken"]
    assert "prot" not in page(pond, "/", "", cookie), "the session and the password outlive a restart"

    # The page's restart; then its reset.
    assert "200" in page(pond, "/system/power/restart", f"csrf={word}", cookie).splitlines()[-1]
    reboots(pond, "the page asked for a restart")
    wait_for("all up", lambda: is_up(pond), UP_S)
    pond.run("raspy", "variable", "set", "level", "3")
    assert "level" in pond.json("raspy", "variable", "list", "--json")["result"]
    form = f"csrf={word}&words=factory+reset&password={PASSWORD.replace(' ', '+')}"
    answer = page(pond, "/system/reset", form, cookie)
    assert answer.rstrip().endswith("200"), answer
    before = pond.sh("cat /etc/machine-id")
    reboots(pond, "the page asked for a reset")
    wait_for("all up", lambda: is_up(pond), UP_S)
    assert "setup_minutes" not in pond.sh("cat /etc/raspy/raspy.toml")
    assert page(pond, "/setup").rstrip().endswith("200"), "the first password is asked for"
    assert "level" not in pond.json("raspy", "variable", "list", "--json")["result"]
    assert pond.sh("cat /etc/machine-id") == before
    assert pond.sh("ls /etc/ssh/ssh_host_ed25519_key").strip(), "ssh has a new key"
    assert pond.sh("systemctl --failed --no-legend --plain") == ""
    # The first password is asked for again.
    cookie, _ = log_in(pond)

    # The file does the same.
    pond.write("/boot/firmware/factory-reset.txt", "")
    pond.power_off()
    pond.boot()
    wait_for("all up", lambda: is_up(pond), UP_S)
    assert pond.sh("ls /boot/firmware").split() == ["nothing", "raspy.toml.taken"]
    log_in(pond)

    # What the page asked for as the plug was pulled is not done at the next start.
    pond.run("systemctl", "stop", "appliance-request.path")
    pond.write("/var/lib/raspy/web/please-power-off", "")
    pond.power_off()
    pond.boot()
    wait_for("all up", lambda: is_up(pond), UP_S)
    assert pond.property("appliance-first-boot.service", "ActiveState") == "inactive"
    assert "please" not in pond.sh("ls /var/lib/raspy/web")


def test_the_root_of_an_image(lan: Lan) -> None:
    machine = lan.machine("card")
    machine.write("/etc/fstab", "LABEL=root / ext4 noatime,commit=30 0 1\n")
    machine.write("/boot/firmware/nothing", "")
    groups = {"raspy_broker": {"card": given(raspy_image_build=True)}, "raspy_nodes": {}}
    assert counts(lan.ansible("site.yml", groups).stdout)["failed"] == 0
    again = lan.ansible("site.yml", groups).stdout
    assert counts(again)["changed"] == 0, again
    assert machine.sh("cat /etc/hostname") == "raspy\n"
    assert machine.sh("systemctl list-units --no-legend --plain 'raspy*'") == ""
    enabled = machine.sh("systemctl is-enabled ssh.service systemd-networkd systemd-networkd-wait-online "
                         "systemd-firstboot || true").split()  # fmt: skip
    assert enabled == ["disabled", "enabled", "masked", "masked"]
    assert machine.sh("ls /boot/firmware").split() == ["meta-data", "network-config", "nothing", "user-data"]
    # What cloud-init itself says of the examples, and of Imager's.
    assert "Valid schema" in machine.sh("cloud-init schema --config-file /boot/firmware/user-data")
    assert "Valid schema" in machine.sh(
        "cloud-init schema --schema-type network-config --config-file /boot/firmware/network-config"
    )
    assert machine.sh("ls /etc/raspy/keys 2>/dev/null || true") == "", "no keys are in an image"

    # Its owner has customised it with Imager.
    machine.sh("rm -f /etc/fstab /etc/ssh/ssh_host_*")
    machine.write("/boot/firmware/user-data", IMAGER_USER.replace("KEY", lan.public_key.strip()))
    machine.write("/boot/firmware/network-config", IMAGER_NETWORK)
    machine.reboot()
    rests = "/etc/cloud/cloud-init.disabled"
    wait_for("cloud-init to rest", lambda: machine.run("test", "-e", rests, check=False).returncode == 0, UP_S)
    wait_for("all up", lambda: is_up(machine), UP_S)
    assert machine.sh("systemctl --failed --no-legend --plain") == ""
    assert machine.sh("hostname; date +%Z").split() == ["pool", machine.sh("TZ=Europe/Paris date +%Z").strip()]
    searched = machine.sh("grep -i LABEL=cidata /var/log/cloud-init.log || true")
    assert searched == "", "a disk that somebody plugs in has no say"
    assert "sudo" in machine.sh("id -nG anna")
    assert machine.sh("getent passwd debian || true") == "", "no user that nobody asked for"
    assert machine.sh("cut -d: -f2 /etc/shadow | grep '^[$]' || true") == "", "and no password"
    assert "ssid=" in machine.sh("cat /run/netplan/wpa-wlan0.conf")
    wait_for("ssh", lambda: machine.property("ssh.service", "ActiveState") == "active")
    assert len(machine.sh("ls /etc/ssh/ssh_host_*_key").split()) >= 2

    # Later boots do not wait for it, until one of its files changes.
    machine.reboot()
    assert machine.property("cloud-init-main.service", "ActiveState") == "inactive"
    assert machine.property("appliance-first-boot.service", "ActiveState") == "inactive"
    machine.write("/boot/firmware/user-data", IMAGER_USER.replace("pool", "lake").replace("KEY", "ssh-ed25519 AAAA a"))
    machine.sh("systemctl start --no-block appliance-customised.service")
    reboots(machine, "cloud-init was asked again")
    wait_for("cloud-init to rest", lambda: machine.run("test", "-e", rests, check=False).returncode == 0, UP_S)
    assert machine.sh("hostname") == "lake\n"
