"""What the sandboxes of an installed Pi let through, and what not: with the servers' own programs, as their users.

A command runs as a server does when it takes the place of ``ExecStart=``: users, mounts, filters and all.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from raspy.common.registry import SERVERS
from raspy.servers.sync.privilege import DATE, HWCLOCK, SUDO
from tests.support_processes import wait_for
from tests.system.footprint import AIMS, APPLIANCE, MB, SUM_AIM, install, memory
from tests.system.machines import Lan, Machine

pytestmark = [pytest.mark.system, pytest.mark.fleet, pytest.mark.timeout(600)]

OTHER_LIMIT = 14 * MB
"""Of what all but core and the page take; the aim, less, is measured by :mod:`tests.system.footprint`."""
SAID = "/run/raspy-test.said"
DROP_IN = "/run/systemd/system/raspy-{}.service.d/95-test.conf"
ONCE = (
    "[Service]\nType=exec\nRestart=no\nWatchdogSec=0\nExecStopPost=\nExecStart=\nExecStart=/bin/sh /run/raspy-test.sh\n"
    # The journal may take a last line for nobody's, as its process is gone when it looks whose it was.
    f"StandardOutput=truncate:{SAID}\nStandardError=inherit\n"
)


@pytest.fixture(scope="module")
def appliance(lan: Lan) -> Machine:
    """A machine with all servers, and the broker's key, as one with nodes has it."""
    machine = install(lan, "appliance", SERVERS)
    machine.run("raspy", "keys", "init")
    return machine


@pytest.fixture
def settled(appliance: Machine) -> Iterator[Machine]:
    """With no command in a server's place, before and after."""
    appliance.run("systemctl", "start", "raspy.target")
    yield appliance
    appliance.sh("rm -rf /run/systemd/system/raspy-*.service.d; systemctl daemon-reload")
    appliance.run("systemctl", "restart", "raspy.target")


def inside(machine: Machine, server: str, script: str) -> str:
    """What a script says that runs in the place of a server; it is over when it has said so."""
    machine.write("/run/raspy-test.sh", script + "\n", 0o755)
    machine.write(DROP_IN.format(server), ONCE)
    unit = f"raspy-{server}.service"
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "stop", unit)
    machine.sh(f"systemctl start --wait {unit} || true", limit=60)
    return machine.path(SAID).read_text()


def test_all_are_active(settled: Machine) -> None:
    for name in SERVERS:
        assert settled.property(f"raspy-{name}.service", "ActiveState") == "active"
    assert settled.run("systemctl", "--failed", "--no-legend", "--plain").stdout.strip() == ""


def test_memory(settled: Machine) -> None:
    found = {name: memory(settled, name) for name in APPLIANCE}
    assert {name: size for name, size in found.items() if size > AIMS.get(name, OTHER_LIMIT)} == {}
    assert sum(found.values()) <= SUM_AIM


@pytest.mark.parametrize("server", SERVERS)
def test_what_nobody_may(settled: Machine, server: str) -> None:
    """Write elsewhere, see homes, other states, secrets or disks; only sync can become somebody else, by sudo alone."""
    assert settled.path("/etc/raspy/keys/broker.key_secret").stat().st_size
    said = inside(
        settled,
        server,
        "touch /etc/raspy/x 2>/dev/null && echo WROTE /etc/raspy\n"
        "touch /opt/raspy/x 2>/dev/null && echo WROTE /opt/raspy\n"
        "touch /usr/x 2>/dev/null && echo WROTE /usr\n"
        "touch /run/x 2>/dev/null && echo WROTE /run\n"
        "ls /root >/dev/null 2>&1 && echo SAW /root\n"
        "ls /var/lib/raspy/*/* 2>/dev/null | grep -v ^/var/lib/raspy/exchange | grep -v ^/var/lib/raspy/"
        f"{server}/ && echo SAW other states\n"
        "cat /etc/raspy/keys/broker.key_secret >/dev/null 2>&1 && echo READ the key\n"
        "cat /etc/shadow >/dev/null 2>&1 && echo READ /etc/shadow\n"
        "echo 1 >/proc/sys/kernel/panic && echo WROTE /proc/sys\n"
        "touch $STATE_DIRECTORY/x && rm $STATE_DIRECTORY/x && echo its own state\n"
        "id -un\n",
    )
    lines = [line for line in said.splitlines() if line.split(" ")[0] in ("WROTE", "SAW", "READ")]
    assert lines == []
    assert "its own state" in said
    assert f"raspy-{server}" in said.splitlines()


def test_sudo_of_sync(settled: Machine) -> None:
    """What sudoers lets through reaches the command as root; a container has no clock that could be set."""
    said = inside(
        settled,
        "sync",
        f"{SUDO} -n {DATE} -u -s @1795365005\n"
        f"{SUDO} -n {HWCLOCK} --systohc --utc --noadjfile --rtc=/dev/rtc0\n"
        f"for command in '{DATE}' '{DATE} -u -s @17953650050' '{HWCLOCK} --hctosys' /bin/sh '-u raspy-web id'\n"
        f"do {SUDO} -n $command >/dev/null 2>&1 && echo DONE $command; done\n"
        "echo over",
    )
    assert "date: cannot set date: Operation not permitted" in said
    assert "DONE" not in said
    assert "over" in said.splitlines()
    allowed = {f"COMMAND={DATE} -u -s @1795365005", f"COMMAND={HWCLOCK} --systohc --utc --noadjfile --rtc=/dev/rtc0"}

    def logged() -> bool:
        told = settled.run("journalctl", "--quiet", "--boot", "-o", "cat", "-t", "sudo", check=False).stdout
        return all(command in told for command in allowed)

    wait_for("sudo's own word", logged)


def test_backup_and_restore_by_the_page(settled: Machine) -> None:
    """The page runs the commands in its own sandbox; files pass through the exchange."""
    said = inside(
        settled,
        "web",
        "cd $STATE_DIRECTORY; raspy backup --partial x.backup && raspy restore --partial --yes x.backup; "
        "echo code $?; rm -f x.backup",
    )
    assert "code 0" in said.splitlines(), said


@pytest.mark.parametrize("server", ["core", "logger", "titanic"])
def test_no_network(settled: Machine, server: str) -> None:
    """No sockets of the Internet. (Network namespaces are more than this machine's systemd may make.)"""
    said = inside(settled, server, "/usr/bin/python3 -c 'import socket; socket.socket()'")
    assert "OSError: [Errno 97] Address family not supported by protocol" in said
    assert settled.property(f"raspy-{server}.service", "PrivateNetwork") == "yes"


def test_sockets_and_directories(settled: Machine) -> None:
    assert settled.run("stat", "-c", "%a %U %G", "/run/raspy").stdout.split() == ["2750", "raspy-broker", "raspy"]
    found = settled.sh("stat -c '%a %U %G' /run/raspy/551[4-7]").splitlines()
    assert found == ["660 raspy-broker raspy"] * 4
    assert settled.run("stat", "-c", "%a %G", "/var/lib/raspy/exchange").stdout.split() == ["2770", "raspy"]
    assert settled.sh("stat -c %a /var/lib/raspy/core").strip() == "700"


def test_the_status_line(settled: Machine) -> None:
    assert settled.property("raspy-broker.service", "StatusText").split()[1::2] == ["workers,", "requests,", "queued"]
    for name in set(SERVERS) - {"broker"}:
        assert settled.property(f"raspy-{name}.service", "StatusText") != ""


def test_fields_of_the_journal(settled: Machine) -> None:
    lines = settled.run("journalctl", "-o", "cat", "-n", "1", "RASPY_SERVER=web", "PRIORITY=6", "RASPY_HOST=appliance")
    assert lines.stdout.strip() != ""
