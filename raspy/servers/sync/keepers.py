"""Who else keeps the system clock: a time daemon that runs on this machine."""

from __future__ import annotations

import os

from raspy.servers.sync.machine import Machine

PROCESSES = {
    "systemd-timesyn": "systemd-timesyncd",
    "chronyd": "chrony",
    "ntpd": "ntpd",
    "openntpd": "openntpd",
    "ptp4l": "ptp4l",
    "phc2sys": "phc2sys",
}
"""By the name of the process as the kernel has it, 15 bytes at most (proc(5))."""
UNITS = {
    "systemd-timesyncd": "systemd-timesyncd",
    "chrony": "chrony",
    "chronyd": "chrony",
    "ntp": "ntpd",
    "ntpd": "ntpd",
    "ntpsec": "ntpd",
    "openntpd": "openntpd",
}
"""By the name of the unit. A unit has a control group while it runs; a process may be hidden (ProtectProc=)."""


def keeper(machine: Machine) -> str:
    """The daemon that keeps the system clock; empty when none runs. A few hundred small files are read: on a thread."""
    for root in machine.cgroups:
        for unit, name in UNITS.items():
            if os.path.isdir(f"{root}/system.slice/{unit}.service"):
                return name
    for entry in machine.names(machine.proc):
        if entry.isdecimal():
            try:
                found = PROCESSES.get(machine.read(f"{machine.proc}/{entry}/comm"))
            except OSError:
                continue
            if found is not None:
                return found
    return ""
