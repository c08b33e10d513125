"""A Pi that the role has installed, as the tests of tests/system share it."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import time
from functools import cache
from pathlib import Path
from typing import Any

from raspy.common.registry import SERVERS
from tests.support_processes import TOP, wait_for
from tests.system.machines import Lan, Machine

UNITS = [f"raspy-{name}.service" for name in SERVERS]
BOOT_CONFIG = "/boot/firmware/config.txt"
BOOT_TEXT = "arm_64bit=1\n\n[pi4]\narm_boost=1\n"
PLACES = "/boot /etc /home /opt /root /srv /usr /var/lib"
"""Where a role may leave something; below the others everything is of the running system alone."""
UP_LIMIT_S = 60.0
SECRETS = {"post": "a'b \"c\\ d"}


SOURCES = ["raspy", "systemd", "docs/_ext", "scripts", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"]
"""What a wheel is made of."""


def _changed() -> float:
    """When a source was changed last, or one was added or removed."""
    paths = [path for name in SOURCES for path in (TOP / name, *(TOP / name).rglob("*"))]
    return max(path.stat().st_mtime for path in paths if "__pycache__" not in path.parts)


@cache
def wheel() -> Path:
    """The wheel of these sources, which all test processes share."""
    target = TOP / "build" / "wheel"
    target.mkdir(parents=True, exist_ok=True)
    with open(target / ".lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for found in target.glob("raspy-*.whl"):
            if found.stat().st_mtime >= _changed():
                return found
        begin = time.time()
        subprocess.run([TOP / "scripts/wheel", target], check=True, capture_output=True, text=True, timeout=300)
        made = next(target.glob("raspy-*.whl"))
        os.utime(made, (begin, begin))
        return made


def counts(printed: str) -> dict[str, int]:
    """How many tasks did what, by the last line that ansible-playbook prints of its one host."""
    line = printed.rpartition("PLAY RECAP")[2].strip().splitlines()[-1]
    return {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", line)}


def files(machine: Machine) -> dict[str, str]:
    """Every file by its path, with kind, mode, owner, size, time and target."""
    # Not what apt, ssh and Python keep for themselves.
    text = machine.sh(
        f"find {PLACES} -xdev "
        "\\( -path '/var/lib/apt*' -o -name .ansible -o -name .cache -o -name __pycache__ \\) -prune -o "
        "! -type d -printf '%p\\t%y %m %u:%g %s %T@ %l\\n' -o -printf '%p\\t%y %m %u:%g\\n'"
    )
    return dict(line.split("\t", 1) for line in text.splitlines())


class Installed:
    """A machine with everything, and what the role said.

    :param lan: its network
    :param pi: the machine, on which nothing is installed yet
    """

    def __init__(self, lan: Lan, pi: Machine) -> None:
        self.lan, self.pi = lan, pi
        self.seconds: dict[str, float] = {}
        # Where there is such a file the role takes the machine for a Raspberry Pi.
        pi.write(BOOT_CONFIG, BOOT_TEXT)
        self.users = pi.sh("getent passwd; getent group")
        self.before = files(pi)
        self.checked = self.role("--check", "--diff", what="check mode")
        self.after_check = files(pi)
        self.first = self.role(what="first run")

    def role(self, *words: str, what: str = "", check: bool = True, **variables: Any) -> str:
        """Run site.yml; return what it prints.

        :param what: name under which the time that it took is kept
        """
        begin = time.monotonic()
        given = {"raspy_wheel": str(wheel()), "raspy_servers": list(SERVERS), "raspy_secrets": SECRETS, **variables}
        groups: dict[str, dict[str, dict[str, Any]]] = {"raspy_broker": {self.pi.name: given}, "raspy_nodes": {}}
        printed = self.lan.ansible("site.yml", groups, *words, check=check).stdout
        self.seconds[what] = time.monotonic() - begin
        return printed

    def units(self, *names: str) -> dict[str, dict[str, str]]:
        """Properties of each unit, as ``systemctl show`` has them."""
        text = self.pi.run("systemctl", "show", "-p", ",".join(("Id", *names)), *UNITS).stdout
        rows = [dict(line.split("=", 1) for line in block.splitlines()) for block in text.strip().split("\n\n")]
        return {row["Id"]: row for row in rows}

    def rows(self) -> dict[str, dict[str, Any]]:
        """What the broker says of each server; empty while it does not answer."""
        done = self.pi.run("raspy", "status", "--json", check=False)
        rows = json.loads(done.stdout) if done.stdout.startswith("[") else []
        return {row["server"].partition(".")[2]: row for row in rows}

    def are_up(self) -> bool:
        """Whether the broker has every server."""
        rows = self.rows()
        return all(rows.get(name, {}).get("state") in ("ok", "degraded") for name in SERVERS)

    def wait_up(self, limit: float = UP_LIMIT_S) -> None:
        """Wait until systemd and the broker have every server."""
        wait_for("all units active", lambda: self.states() == {"active"}, limit)
        wait_for("all servers up", self.are_up, limit)

    def states(self) -> set[str]:
        """The states of the units."""
        return {row["ActiveState"] for row in self.units("ActiveState").values()}

    def temperatures(self) -> dict[str, float]:
        """Of each good temperature of the fake devices, by key, the time at which it was measured (Unix, s)."""
        done = self.pi.run("raspy", "get", "--json", f"/device/{self.pi.name}.fake.", check=False)
        # There may be none yet, or no broker.
        found: dict[str, Any] = json.loads(done.stdout or "{}")
        return {
            key: body["time"]
            for key, body in found.items()
            if key.endswith("/temperature") and body.get("quality") == "ok"
        }
