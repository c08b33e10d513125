"""A text for a bug report: findings with versions, the configuration and the ends of the logs, without secrets."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

from raspy.cli.doctor import masking
from raspy.cli.doctor.check import INSTALLED_CONFIG, SYSTEMD, Look, program
from raspy.cli.doctor.children import Failed
from raspy.cli.tomltext import written
from raspy.common import MDP
from raspy.common.appliance import at
from raspy.common.config import BusConfig, Config, ConfigError, RunConfig, Section
from raspy.common.registry import SERVERS
from raspy.common.runner import load_class

LINES = 200
"""Lines of the logs."""
EACH = 50
"""Lines of one server's own log."""
LONGEST = 500
"""Characters of a line."""
NOTE = f"""\
Left out ({masking.LEFT_OUT}): passwords, tokens, keys, paths and queries of addresses, mailboxes, networks, places and
time zones. Names of devices and hosts are not. Read it before you give it to others."""


def text(findings: list[str], others: dict[str, Any]) -> str:
    """The report, of parts that have nothing private any more.

    :param findings: the table of what was found
    :param others: by title what :func:`configuration` and :func:`log` have answered
    """
    made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    parts = [f"raspy doctor, {made}\n\n{NOTE}", _part("Findings", findings)]
    for title, lines in others.items():
        parts.append(_part(title, [f"not known: {lines.why}"] if isinstance(lines, Failed) else lines))
    return "\n\n".join(parts) + "\n"


def _part(title: str, lines: list[str]) -> str:
    return "\n".join([title, "=" * len(title), "", *lines])


def safe(look: Look, lines: list[str]) -> list[str]:
    """Lines without what is private, and not too long."""
    know(look)
    return [masking.text_without(line[: 4 * LONGEST])[:LONGEST] for line in lines]


def know(look: Look) -> None:
    """Have what this machine keeps secret looked for in all texts of this process."""
    known, tables = sections(), dict[str, Any]()
    try:
        tables = Config.load(look.request.arguments.config).tables
    except ConfigError:
        masking.know_text(masking.beginning(_path(look)))
    for private in (tables, masking.from_environment(known)):
        masking.know(private, masking.tables_without(private, known), look.state("alarm"))


def sections() -> dict[str, type[Section]]:
    """The sections of the configuration by name, of all servers that can be loaded."""
    found: dict[str, type[Section]] = {"bus": BusConfig, "run": RunConfig}
    for name, entry in SERVERS.items():
        try:
            found[entry.section or name] = load_class(name).CONFIG
        except ConfigError:
            found[entry.section or name] = Section  # of which nothing is known, and nothing shown
    return found


def configuration(look: Look) -> list[str]:
    """The file as it was understood, and what the environment changes."""
    known = sections()
    try:
        # One that is wrong is shown too, but for what is no TOML: there nobody can tell what is secret.
        config = Config.load(look.request.arguments.config)
    except ConfigError as error:
        lines = [f"not shown: {error}"]
    else:
        shown = _toml(masking.tables_without(config.tables, known))
        lines = [f"# {config.path}", *shown] if config.path else ["no file, so the defaults"]
    environment = masking.from_environment(known)
    if environment:
        lines += ["", "# from the environment", *_toml(masking.tables_without(environment, known))]
    return safe(look, lines)


def _path(look: Look) -> str:
    """The file that :meth:`Config.load` reads."""
    here = "./raspy.toml"
    given = look.request.arguments.config or os.environ.get("RASPY_CONFIG")
    return str(given or (here if os.path.exists(here) else INSTALLED_CONFIG))


def _toml(tables: dict[str, Any]) -> list[str]:
    return "".join(written("", tables)).strip("\n").split("\n") if tables else ["# empty"]


def log(look: Look) -> list[str]:
    """The last lines of all servers: of the journal where it can be read, else what they have kept themselves."""
    lines = _journal()
    if not lines:
        try:
            lines = _kept(look)
        except MDP.GenericError as error:
            lines = [f"none can be read: no journal, and of the servers themselves: {error}"]
    return safe(look, lines)


def _journal() -> list[str]:
    if not os.path.isdir(at(SYSTEMD)):
        return []
    units = ("--unit=raspy-*", "--unit=appliance-*")
    said = program("journalctl", "--quiet", "--no-pager", "--utc", "--output=short-iso", f"--lines={LINES}", *units)
    return (said or "").splitlines()[-LINES:]


def _kept(look: Look) -> list[str]:
    """What the servers of the bus keep of their logs."""
    records: list[tuple[float, str]] = []
    for key in look.request.snapshot("/server/"):
        name = key.removeprefix("/server/")
        try:
            words = ("mmi.log",) if name.endswith(".broker") else (f"{name}.mmi", "log")
            records += _records(name, look.ask(*words, str(EACH)))
        except MDP.GenericError as error:
            records.append((0.0, f"{name}: {error}"))
    return [line for _, line in sorted(records)[-LINES:]] or ["the servers have logged nothing"]


def _records(name: str, told: Any) -> Iterator[tuple[float, str]]:
    for each in told if isinstance(told, list) else ():
        if isinstance(each, dict) and isinstance(when := each.get("time"), int | float) and 0 <= when < 1e11:
            shown = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))
            yield float(when), f"{shown} {name} {each.get('level')} {each.get('text')}"
