"""``python -m tests.system.footprint``: what an installed Pi costs: memory of each unit, CPU when idle, time to start.

On a machine of its own (:mod:`tests.system.machines`), installed with the role. The time is that of an amd64 machine,
to be compared with another one from the same machine only. Memory is the proportional set size of the main process, of
which what servers share counts in parts.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from raspy.common.registry import SERVERS
from tests.system.machines import Lan, Machine

TOP = Path(__file__).parents[2]
APPLIANCE = [name for name in SERVERS if name != "fake"]
"""The nine of an appliance."""
MB = 1 << 20
AIMS = {"core": 18 * MB, "web": 30 * MB}
OTHER_AIM, SUM_AIM = 12 * MB, 135 * MB
CPU_AIM, TARGET_AIM_S = 0.01, 3.0
SETTLED_S = 30.0
"""After the start, when all has come to rest."""
BOOT_LIMIT_S = 120.0


class Footprint(NamedTuple):
    """What was measured: bytes and share of a core by server, and seconds from basic.target to raspy.target."""

    memory: dict[str, int]
    cpu: dict[str, float]
    target: float


def install(lan: Lan, name: str = "appliance", servers: Iterable[str] = APPLIANCE) -> Machine:
    """A machine with these servers, by the role and a wheel of what is here."""
    done = subprocess.run([TOP / "scripts" / "wheel", lan.directory / "dist"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    wheel = next((lan.directory / "dist").glob("*.whl"))
    machine = lan.machine(name)
    variables = {"raspy_servers": list(servers), "raspy_wheel": str(wheel)}
    lan.ansible("site.yml", {"raspy_broker": {name: variables}, "raspy_nodes": {}})
    return machine


def main_pid(machine: Machine, server: str) -> int:
    """The process of a server."""
    return int(machine.property(f"raspy-{server}.service", "MainPID"))


def memory(machine: Machine, server: str) -> int:
    """Its proportional set size in bytes (proc_pid_smaps(5))."""
    text = machine.run("cat", f"/proc/{main_pid(machine, server)}/smaps_rollup").stdout
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:"))


def cpu_time(machine: Machine, server: str) -> float:
    """Seconds of CPU that the unit has used, with all its processes."""
    return int(machine.property(f"raspy-{server}.service", "CPUUsageNSec")) / 1e9


def time_to_target(machine: Machine) -> float:
    """Seconds of the last boot from when units may start to when all servers were ready."""

    def active(unit: str) -> int:
        return int(machine.property(unit, "ActiveEnterTimestampMonotonic"))

    until = time.monotonic() + BOOT_LIMIT_S
    while not active("raspy.target"):
        assert time.monotonic() < until, "raspy.target was not reached"
        time.sleep(0.1)
    return (active("raspy.target") - active("basic.target")) / 1e6


def measure(machine: Machine, seconds: float, servers: Iterable[str] = APPLIANCE) -> Footprint:
    """Start the machine anew, let it come to rest, and look at it for some time."""
    machine.reboot()
    target = time_to_target(machine)
    time.sleep(SETTLED_S)
    before = {name: cpu_time(machine, name) for name in servers}
    begin = time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - begin
    cpu = {name: (cpu_time(machine, name) - before[name]) / took for name in servers}
    return Footprint({name: memory(machine, name) for name in servers}, cpu, target)


def table(found: Footprint) -> str:
    """As it is printed."""

    def row(name: str, size: int, aim: int, cpu: float) -> str:
        told = f"aim <= {aim / MB:g}" + (", MISSED" if size > aim else "")
        return f"{name:<10}{size / MB:>8.1f}  {told:<20}{cpu * 100:>6.2f}"

    lines = [f"{'unit':<10}{'PSS, MB':>8}  {'':<20}{'CPU, %':>6}"]
    lines += [row(name, size, AIMS.get(name, OTHER_AIM), found.cpu[name]) for name, size in found.memory.items()]
    cpu = sum(found.cpu.values())
    lines.append(row("all", sum(found.memory.values()), SUM_AIM, cpu) + (", MISSED" if cpu > CPU_AIM else ""))
    missed = ", MISSED" if found.target > TARGET_AIM_S else ""
    lines.append(f"raspy.target {found.target:.2f} s after basic.target (aim <= {TARGET_AIM_S:g}{missed})")
    return "\n".join(lines)


def main() -> int:
    """Measure and print; 0 when every aim is met, 1 when one is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.system.footprint", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="for which CPU is measured (60)")
    options = parser.parse_args()
    with Lan() as lan:
        found = table(measure(install(lan), options.seconds))
    print(found)
    return 1 if "MISSED" in found else 0


if __name__ == "__main__":
    sys.exit(main())
