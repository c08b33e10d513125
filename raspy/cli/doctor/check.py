"""What a check is, what it finds, and what it may look at.

A check is a function with :func:`check` in front of it, which takes a :class:`Look` and yields findings. It is called
in a process of its own, which is ended when it takes too long, so it may read whatever it likes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from raspy.cli.command import Request, body_value, text_of
from raspy.common import MDP
from raspy.common.appliance import at
from raspy.common.config import Config, ConfigError
from raspy.common.directories import state_directory
from raspy.common.mdcliapi import MajorDomoClient
from raspy.common.runner import chosen_servers

OK, WARNING, PROBLEM, UNCHECKED = "ok", "warning", "problem", "not checked"
RESULTS = (OK, WARNING, PROBLEM, UNCHECKED)
INSTALLED_STATE = "/var/lib/raspy"
INSTALLED_CONFIG = "/etc/raspy/raspy.toml"
SYSTEMD = "/run/systemd/system"
"""Is there where systemd runs (sd_booted(3))."""
ANSWER = 3.0
"""Seconds that a server may take for an answer, and a program for its."""
TRIES = 3
OUTPUT = 1 << 18
"""Characters of a program's output that are looked at."""


class Finding(msgspec.Struct):
    """What a check has found."""

    check: str
    result: str
    """One of :data:`RESULTS`."""
    found: str
    """In a line, with figures; of what was not checked the reason."""
    todo: str = ""
    """What the owner can do about it."""


class Found(msgspec.Struct):
    """A finding to which its check's name is still to be added."""

    result: str
    found: str
    todo: str = ""


Act = Callable[["Look"], Iterator[Found]]
CHECKS: dict[str, Act] = {}
"""By name, in the order in which they are shown."""


def check(name: str) -> Callable[[Act], Act]:
    """Register a check.

    :param name: what it looks at, as it is shown
    """

    def register(act: Act) -> Act:
        CHECKS[name] = act
        return act

    return register


def ok(found: str) -> Found:
    """All is well."""
    return Found(OK, found)


def warning(found: str, todo: str) -> Found:
    """It works, and is worth a look."""
    return Found(WARNING, found, todo)


def problem(found: str, todo: str) -> Found:
    """It does not work, or soon will not."""
    return Found(PROBLEM, found, todo)


def unchecked(why: str, todo: str = "") -> Found:
    """Nobody knows, and why."""
    return Found(UNCHECKED, why, todo)


class Look:
    """What checks look at: the bus by the command's request, and this machine.

    :param request: the command
    """

    def __init__(self, request: Request) -> None:
        self.request = request

    @property
    def config(self) -> Config:
        """The configuration.

        :raises ConfigError: it cannot be read
        """
        return self.request.config

    def runs(self, server: str) -> bool:
        """Whether a server is to run on this host.

        :raises ConfigError: the configuration does not say
        """
        return server in chosen_servers(self.config)

    @property
    def installed(self) -> bool:
        """Whether it is about the servers of an installed Pi, each a unit with a user of its own."""
        given = self.request.arguments.config or os.environ.get("RASPY_CONFIG")
        return os.path.isdir(at(INSTALLED_STATE)) and given in (None, INSTALLED_CONFIG, at(INSTALLED_CONFIG))

    def state(self, server: str) -> str:
        """Where a server keeps its files."""
        return os.path.join(at(INSTALLED_STATE), server) if self.installed else state_directory(server)

    def ask(self, service: str, *words: str) -> Any:
        """What a verb that only reads answers.

        :raises raspy.common.MDP.ClientError: it refuses, or does not answer
        """
        with MajorDomoClient(self.request.address) as client:
            client.retries, client.timeout = TRIES, int(ANSWER * 1000 / TRIES)
            reply = client.send(service, [word.encode() for word in words] or [b""])
        if reply is None:
            raise MDP.ClientError(f"{service} does not answer")
        answer = body_value(reply[0]) if len(reply) > 1 else None
        if reply[-1] != MDP.OK:
            raise MDP.ClientError(f"{service}: {answer or reply[-1].decode('ascii', 'replace')}")
        return answer

    def restart(self, server: str) -> str:
        """What to do about a server of this host that does not run."""
        if self.installed:
            return f"sudo systemctl restart raspy-{server}; journalctl -u raspy-{server} says why it ended"
        return "start all with raspy run, and see what it says"


def findings(name: str, act: Act, look: Look) -> list[Finding]:
    """What a check finds; what it raises is what it could not check."""
    found: list[Found] = []
    try:
        for each in act(look):
            found.append(each)
    except ConfigError:
        found.append(unchecked("the configuration is wrong", "see the finding on the configuration"))
    except MDP.ConnectionLost:
        found.append(unchecked("the broker does not answer", "see the finding on the broker"))
    except MDP.GenericError as error:
        found.append(unchecked(str(error)))
    except OSError as error:
        place = f"{error.filename}: " if isinstance(error.filename, str) else ""
        found.append(unchecked(f"{place}{error.strerror or error}"))
    except Exception as error:
        wrong = f"{type(error).__name__}: {error}"
        found.append(unchecked(wrong, "this is a mistake in raspy doctor: please report it"))
    # A path may have bytes that are no UTF-8.
    return [Finding(name, each.result, text_of(each.found), text_of(each.todo)) for each in found]


def program(*words: str) -> str | None:
    """What a program says on its standard output; None: it is not there, fails, or does not end.

    :param words: its name, looked for in the PATH and where Debian has those of root, and its arguments
    """
    path = shutil.which(words[0]) or shutil.which(words[0], path="/usr/sbin:/sbin")
    if path is None:
        return None
    try:
        done = subprocess.run(
            [path, *words[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=ANSWER,
            env={**os.environ, "LC_ALL": "C.UTF-8", "PAGER": "cat"},
        )
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return done.stdout.decode("utf-8", "replace")[-OUTPUT:] if done.returncode == 0 else None


def amount(count: float) -> str:
    """Bytes, as they are read."""
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 999.5:
            return f"{count:.1f} {unit}" if count < 9.95 else f"{count:.0f} {unit}"
    return f"{count / 1000:.1f} TB"


def listed(words: list[str], most: int = 5) -> str:
    """Names in a line, and how many more there are."""
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more
