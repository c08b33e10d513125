"""The machines themselves, before anything is asked of what runs on them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import need_root
from tests.support_processes import TOP, wait_for
from tests.system.machines import CONTROLLER, Lan, Machine, _cgroup_roots, need_capabilities

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


def test_a_machine_is_reached_over_ssh_and_its_user_becomes_root(pi: Machine) -> None:
    assert pi.ssh("hostname; sudo id -u; cat /proc/1/comm").stdout.split() == [pi.name, "0", "systemd"]


def test_nothing_is_wrong_on_a_machine_that_has_booted(pi: Machine) -> None:
    assert pi.wait_booted() == "running"


def test_a_machine_sees_nothing_but_its_network(pi: Machine) -> None:
    assert pi.run("ip", "-4", "-o", "route").stdout.split()[:3] == [
        f"{CONTROLLER.rpartition('.')[0]}.0/24",
        "dev",
        "eth0",
    ]
    assert pi.run("ip", "route", "get", "192.0.2.1", check=False).returncode


@pytest.mark.fleet
def test_cables_power_and_frames() -> None:
    with Lan() as lan:
        one, two = lan.machine("one"), lan.machine("two")

        def is_reached() -> bool:
            words = ("timeout", "2", "ssh-keyscan", "-t", "ed25519", two.address)
            return bool(one.run(*words, check=False).stdout)

        with lan.capture() as capture:
            assert is_reached()
        assert b"OpenSSH" in capture.bytes()
        for carrier in (True, False):
            two.cut(carrier)
            assert (two.path("sys/class/net/eth0/carrier").exists(), is_reached()) == (True, False)
            two.join()
            wait_for("the cable", is_reached)
        two.write("/root/kept", "yes")
        for again in (two.reboot, lambda: (two.power_off(), two.boot()), lambda: (two.stop(), two.boot())):
            again()
            assert two.path("/root/kept").read_text() == "yes"
            assert is_reached()


@pytest.mark.fleet
def test_a_run_that_is_killed_leaves_no_process() -> None:
    need_root()
    need_capabilities()
    script = "import time\nfrom tests.system.machines import Lan\nlan = Lan()\nlan.machine('x')\n"
    script += "print(lan.directory, flush=True)\ntime.sleep(100)\n"
    run = subprocess.Popen([sys.executable, "-c", script], cwd=TOP, stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    directory = Path(run.stdout.readline().strip())
    assert directory.is_dir()
    run.send_signal(signal.SIGKILL)
    run.communicate()

    cgroups = [place for root in _cgroup_roots() for place in root.glob(f"{directory.name}*")]
    assert cgroups

    def left() -> list[str]:
        return [pid for cgroup in cgroups for path in cgroup.rglob("cgroup.procs") for pid in path.read_text().split()]

    wait_for("no process to be left", lambda: not left())
    with Lan():
        assert not directory.exists()
        assert not [cgroup for cgroup in cgroups if cgroup.exists()]
