"""Servers of other packages, found by their entry points and taken into the registry.

A server is an entry point in the group ``raspy.servers``, or in ``raspy.output_servers`` when it drives outputs; that
has to be known while its class cannot be imported, too. Its name is the server's, its value ``module:Class``. They are
looked for when a name is asked for that the registry does not have; the processes of RasPy's own servers never do, so
that what is installed costs them nothing.
"""

from __future__ import annotations

from typing import Any

from raspy.common import entrypoints
from raspy.common.config import ConfigError
from raspy.common.registry import SERVERS, Entry

GROUPS = {"raspy.servers": False, "raspy.output_servers": True}
"""The groups of entry points, and whether their servers drive outputs."""

RESERVED = frozenset(("bus", "config", "exchange", "keys", "run", "supervisor", "test"))
"""What a server cannot be called: sections, directories and variables that have another meaning."""

TOLD = 300
"""Characters of what is wrong with a class that a message repeats."""

LONGEST_NAME = 25
"""Characters: the server's user, ``raspy-NAME``, may have 31 (systemd, "User/Group Name Syntax")."""


def find(path: list[str] | None = None) -> list[str]:
    """Look for the servers of other packages, and have them in :data:`SERVERS` after RasPy's own. Nothing of theirs is
    imported.

    None of them is on by default: what is installed runs where ``servers`` in ``[run]`` names it, or its unit does.

    :param path: directories with installed packages; None: those of ``sys.path``
    :returns: which packages' servers were left out, and why
    """
    left_out: list[str] = []
    seen: dict[str, str] = {}
    for group, output in GROUPS.items():
        entries, bad = entrypoints.found(group, path)
        left_out += [f"the package {entrypoints.package_of(file)} is left out: {error}" for file, error in bad]
        for file, name, place in entries:
            package = entrypoints.package_of(file)
            problem = _flaw(name, seen)
            if problem:
                left_out.append(f"server {entrypoints.shown(name)} of the package {package} is left out: {problem}")
            else:
                seen[name] = package
                SERVERS[name] = Entry(place, f"of the package {package}", False, output, package=package)
    # A file that cannot be read is so for every group.
    return list(dict.fromkeys(left_out))


def _flaw(name: str, seen: dict[str, str]) -> str:
    """Why a server of another package cannot be called so; empty when it can."""
    if name in seen:
        return f"the package {seen[name]} has one of that name"
    if name in SERVERS and not SERVERS[name].package:
        return "RasPy has one of that name"
    # A hyphen would end the instance in the unit's name, an underscore the section in a variable's.
    if not (name.isascii() and name.isalnum() and name.islower() and name[0].isalpha() and len(name) <= LONGEST_NAME):
        return f"a name is 1 to {LONGEST_NAME} of a-z and 0-9, and begins with a letter"
    return "that name means something else" if name in RESERVED else ""


def load(name: str, entry: Entry) -> Any:
    """Import the class of another package's server; whatever that raises, the message names the package.

    :raises ConfigError: it cannot be used
    """
    from raspy.common.server import Server

    module, _, attribute = entry.place.partition(":")
    try:
        found: Any = __import__(module, fromlist=["*"])
        for part in attribute.split("."):
            found = getattr(found, part)
        if not (isinstance(found, type) and issubclass(found, Server)):
            raise TypeError(f"{entry.place} is no subclass of raspy.common.server.Server")
        if found.CONFIG.SECTION not in ("", name):
            raise ValueError(f"its section is [{found.CONFIG.SECTION}], and must be [{name}]")
        if hasattr(found, "make_safe") != entry.output:
            group = "raspy.servers" if entry.output else "raspy.output_servers"
            has = "has no make_safe" if entry.output else "has make_safe, as one that drives outputs"
            raise TypeError(f"{entry.place} {has}: its entry point must be in the group {group}")
    except (Exception, SystemExit) as error:
        raise refusal(name, entry, error) from error
    return found


def refusal(name: str, entry: Entry, error: BaseException) -> ConfigError:
    """The error to raise when another package's server cannot be used."""
    told = "".join(c if c.isprintable() else " " for c in f"{type(error).__name__}: {error}"[:TOLD])
    return ConfigError(
        f"server {name} of the package {entry.package} cannot be used: {told}; mend or take off the package, and leave "
        f"{name} out of servers in [run] until then"
    )
