"""Configuration: one TOML file, typed by the sections that the servers declare, overridden by the environment.

The file is the one given, else ``$RASPY_CONFIG``, else ``./raspy.toml``, else ``/etc/raspy/raspy.toml``, else
none at all: every key has a default. ``RASPY_<SECTION>_<KEY>`` overrides one key. A server declares its keys as
a :class:`Section`; what is not declared is refused by name and line.
"""

from __future__ import annotations

import math
import os
import re
from typing import Annotated, Any, ClassVar, TypeVar

import msgspec
from msgspec import Meta as Meta  # also for who declares a section

from raspy.common.directories import exchange_directory, state_directory
from raspy.common.hosts import HOST, is_host, is_local
from raspy.common.MDP import GenericError
from raspy.common.toml import FILE_LIMIT, read_toml

__all__ = [
    "FILE_LIMIT",
    "HOST",
    "ID",
    "NOT_KEYS",
    "PORTS",
    "SECRET",
    "SHOWN",
    "BusConfig",
    "Config",
    "ConfigError",
    "NothingDriven",
    "RunConfig",
    "Section",
    "exchange_directory",
    "is_local",
    "local_hostname",
    "read_table",
    "read_toml",
    "shown",
    "state_directory",
]

ID = re.compile(r"[a-z0-9_-]{1,63}")
"""Host, server, device and subdevice names on the tree."""

SHOWN = 60
"""Characters of a wrong value that a message repeats."""
SECRET = re.compile("password|passphrase|token|secret|credential", re.IGNORECASE)
"""In the name of a key whose value no message repeats."""
PORTS = 4
NOT_KEYS = ("RASPY_CONFIG", "RASPY_EXCHANGE", "RASPY_KEYS", "RASPY_TEST_")
"""Beginnings of environment variables that are no keys."""


class ConfigError(GenericError, ValueError):
    """A configuration that cannot be used. The message names file, line and key, and says what is wanted."""


class NothingDriven(GenericError, FileNotFoundError):
    """There is nothing that a server ever drove, where its outputs should be. The message says where that is."""


class Section(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """A table of the configuration file; a subclass declares its keys as typed attributes with defaults.

    Units, ranges and texts come in ``Annotated[type, Meta(...)]``: ``description`` (wanted of every key), ``ge``,
    ``le``, ``pattern`` (of the whole text), and ``extra={"unit": "s"}``; ``extra={"form": "a list of names"}`` says
    what to write where type and range do not. ``SECTION`` is the table's name.

    A key of the type ``dict[str, dict[str, Any]]`` takes tables by name, as ``[section.key.NAME]``; the names are of
    a-z, 0-9, _ and -, and what is in the tables is for :meth:`check` to look at.

    The checks below raise :class:`ConfigError` with ``key: problem``, of a key of the section or of ``[bus]``, or with
    ``key.NAME: problem`` or ``key.NAME.setting: problem``; :class:`Config` adds file and line.
    """

    SECTION: ClassVar[str] = ""

    def check(self) -> None:
        """Refuse what types and ranges cannot tell, looking at nothing but the values."""

    def check_here(self, bus: BusConfig) -> None:
        """Refuse what cannot be on this machine; asked only where the section's server is to run."""

    def check_free(self, bus: BusConfig) -> None:
        """Refuse what is held by somebody else, as a port; asked only before the section's server is started."""


class BusConfig(Section, frozen=True):
    """``[bus]``: who this host is, and where the broker is."""

    SECTION: ClassVar[str] = "bus"

    hostname: Annotated[
        str,
        Meta(
            pattern=r"^([a-z0-9_-]{1,63})?$",
            description="Name of this Pi on the bus; empty: its host name.",
            extra={"form": 'a name of 1 to 63 of a-z, 0-9, _ and -, as "pi"'},
        ),
    ] = ""
    broker_ip: Annotated[
        str,
        Meta(min_length=1, description="Address of the broker, or ipc:// and a directory for sockets in files."),
    ] = "127.0.0.1"
    broker_port: Annotated[
        int,
        Meta(ge=1, le=65535 - PORTS + 1, description="First of the broker's four consecutive ports."),
    ] = 5514
    broker_key: Annotated[
        str,
        Meta(
            pattern=r"^([0-9A-Za-z.:+=^!/*?&<>()\[\]{}@%$#-]{40})?$",
            description="Public key of a broker on another machine, by which the connection is encrypted.",
            extra={"form": "40 characters, as `raspy keys list` shows them on the broker's host"},
        ),
    ] = ""
    titanic: Annotated[
        bool,
        Meta(description="Titanic is on the bus; its store holds the settings of devices, and new ones wait for it."),
    ] = True
    outbox_rows: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000,
            description="Readings that a server keeps at most while the broker is away, to log them later; 0: none.",
        ),
    ] = 200_000

    def check(self) -> None:
        if self.broker_ip.startswith("ipc://"):
            directory = self.broker_ip.removeprefix("ipc://")
            if not directory.startswith("/") or len(directory.encode()) > 90 or not directory.isprintable():
                raise ConfigError(
                    "broker_ip: must be ipc:// and an absolute directory of at most 90 bytes, as ipc:///run/raspy "
                    f"(got {shown(self.broker_ip)})"
                )
        elif not is_host(self.broker_ip):
            raise ConfigError(
                "broker_ip: must be an IP address, a host name, or ipc:// and a directory, as 127.0.0.1 "
                f"(got {shown(self.broker_ip)})"
            )
        if self.broker_key and self.broker_ip.startswith("ipc://"):
            raise ConfigError(
                f"broker_key: is for a broker on another machine, and {self.broker_ip} is on this one: leave it out"
            )

    def check_reach(self) -> None:
        """Refuse a broker on another machine without its key; asked before anything but a broker speaks to it.

        :raises ConfigError: ``key: problem``
        """
        if not self.broker_key and not is_local(self.broker_ip):
            raise ConfigError(
                f"broker_ip: {self.broker_ip} is another machine, and what is said to it must be encrypted: set "
                "broker_key to the key that `raspy keys list` shows on the broker's host, and have `raspy keys new` "
                "make one for this host there"
            )


class RunConfig(Section, frozen=True):
    """``[run]``: how the processes live."""

    SECTION: ClassVar[str] = "run"

    servers: Annotated[
        list[str],
        Meta(
            description="Servers that `raspy run` starts on this host; empty: all that are on by default.",
            extra={"form": 'a list of names, as ["broker", "fake"]'},
        ),
    ] = []
    log_level: Annotated[
        str,
        Meta(pattern="^(debug|info|warning|error)$", description="Least severity that is logged."),
    ] = "info"


S = TypeVar("S", bound=Section)


class Config:
    """The parsed file, from which each part of the program takes its own section.

    :param tables: the tables of the file by name
    :param path: where they came from, for messages; None when there is no file
    :param text: the text of the file, by which a line is found for a message
    """

    def __init__(self, tables: dict[str, Any] | None = None, path: str | None = None, text: str = "") -> None:
        self.tables = tables or {}
        self.path = path
        self._text = text

    @classmethod
    def load(cls, path: str | None = None) -> Config:
        """Read the file that applies (see the module's text).

        :raises ConfigError: the file named cannot be read, or is not TOML
        """
        named = path or os.environ.get("RASPY_CONFIG")
        for candidate in [named] if named else ["./raspy.toml", "/etc/raspy/raspy.toml"]:
            if not named and not os.path.exists(candidate):
                continue
            try:
                with open(candidate, encoding="utf-8-sig") as file:
                    text = file.read(FILE_LIMIT + 1)
            except OSError as error:
                raise ConfigError(f"{candidate}: cannot be read: {error.strerror}") from error
            except UnicodeDecodeError as error:
                raise ConfigError(f"{candidate}: is not UTF-8 text") from error
            except ValueError as error:
                raise ConfigError(f"{candidate}: cannot be read: {error}") from error
            if len(text) > FILE_LIMIT:
                raise ConfigError(f"{candidate}: is longer than {FILE_LIMIT >> 10} kB: is it the configuration?")
            try:
                return cls(read_toml(text), candidate, text)
            except RecursionError as error:
                told = "is not a configuration: brackets or dotted keys are nested too deeply"
                raise ConfigError(f"{candidate}: {told}") from error
            except ValueError as error:
                # What is not TOML is told with its place; other than that, only a number can be refused.
                told = "is not TOML" if type(error) is not ValueError else "is not a configuration"
                told += f": {error}" if type(error) is not ValueError else ": a number has too many digits"
                raise ConfigError(f"{candidate}: {told}") from error
        return cls()

    def section(self, section: type[S]) -> S:
        """The values of one section: file, then environment over it, then checked.

        :raises ConfigError: an unknown key, a wrong type, a value out of range; the message names file and line
        """
        name = section.SECTION
        table = self.tables.get(name, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{self._where(name)}: [{name}] must be a table of keys, not {_kind(table)}")
        known = section.__struct_fields__
        for key in table:
            if key not in known:
                raise ConfigError(
                    f"{self._where(name, key)}: unknown key {shown(key)} in [{name}]; known are {', '.join(known)}"
                )
        values = dict(table)
        given = self._environment(name, known)
        values.update((key, _from_text(text)) for key, text in given.items())
        for key, value in values.items():
            problem = _problem(section, key, value, key in given)
            if problem:
                raise self.refusal(section, key, problem)
            if isinstance(value, dict):
                self._check_names(section, key, value)
        try:
            result = msgspec.convert(values, section, strict=False)
            result.check()
        except ConfigError as error:
            raise self.located(error, section) from error
        except msgspec.ValidationError as error:
            raise ConfigError(f"{self._where(name)}: [{name}]: {error}") from error
        return result

    def check_here(self, section: type[Section], free: bool = False) -> None:
        """Look whether a section's server can run on this machine.

        :param free: look also whether what it needs for itself, as a port, is free
        :raises ConfigError: naming file, line and key
        """
        bus = self.section(BusConfig)
        settings = self.section(section)
        try:
            settings.check_here(bus)
            if free:
                settings.check_free(bus)
        except ConfigError as error:
            raise self.located(error, section) from error

    def refusal(self, section: type[Section], key: str, problem: str) -> ConfigError:
        """The error to raise for a key: where it was set, or would be, and what is wrong with it.

        :param key: of the section; ``key.NAME`` a table by name, ``key.NAME.setting`` what is in one
        """
        name = section.SECTION
        key, *below = key.split(".", 2)
        variable = f"RASPY_{name.upper()}_{key.upper()}"
        if variable in os.environ:
            return ConfigError(
                ": ".join([f"environment variable {variable}", *filter(None, [".".join(below), problem])])
            )
        where = self._where(name, key, *below)
        if not below:
            return ConfigError(f"{where}: {key} in [{name}]: {problem}")
        table = f"[{name}.{key}.{below[0]}]"
        return ConfigError(f"{where}: {f'{below[1]} in {table}' if len(below) > 1 else table}: {problem}")

    def _check_names(self, section: type[Section], key: str, tables: dict[str, Any]) -> None:
        for name in tables:
            if not ID.fullmatch(name):
                variable = f"RASPY_{section.SECTION.upper()}_{key.upper()}"
                must = f"{shown(name)} must be a name of 1 to 63 of a-z, 0-9, _ and -"
                if variable in os.environ:
                    raise ConfigError(f"environment variable {variable}: {must}")
                where = self._where(section.SECTION, key, name)
                place = (
                    f"[{section.SECTION}.{key}.{name[:SHOWN]}]" if name.isprintable() else f"[{section.SECTION}.{key}]"
                )
                raise ConfigError(f"{where}: {place}: {must}")

    def located(self, error: ConfigError, section: type[Section]) -> ConfigError:
        """An error that begins with a key, of the section or of ``[bus]``, or of a table by name, with the place in
        front; else itself."""
        head, _, problem = str(error).partition(": ")
        key = head.removesuffix(f" in [{section.SECTION}]")
        for owner in (section, BusConfig):
            if problem and key.partition(".")[0] in owner.__struct_fields__:
                return self.refusal(owner, key, problem)
        return error

    def check_sections(self, known: list[str]) -> None:
        """Refuse a table, or a variable of the environment, that belongs to no server.

        :raises ConfigError: with the table's name and line, or the variable's name
        """
        for name in self.tables:
            if name not in known:
                raise ConfigError(
                    f"{self._where(name)}: unknown section [{name[:SHOWN]}]; known are {', '.join(sorted(set(known)))}"
                )
        prefixes = tuple(f"RASPY_{name.upper()}_" for name in known) + NOT_KEYS
        for variable in os.environ:
            if variable.startswith("RASPY_") and not variable.startswith(prefixes):
                raise ConfigError(
                    f"environment variable {variable}: unknown section; known are "
                    + ", ".join(f"RASPY_{name.upper()}_<KEY>" for name in sorted(set(known)))
                )

    @staticmethod
    def _environment(name: str, known: tuple[str, ...]) -> dict[str, str]:
        prefix = f"RASPY_{name.upper()}_"
        found = {key[len(prefix) :].lower(): text for key, text in os.environ.items() if key.startswith(prefix)}
        for key in found:
            if key not in known:
                raise ConfigError(
                    f"environment variable {prefix}{key.upper()}: unknown key {shown(key)} in [{name}]; "
                    f"known are {', '.join(known)}"
                )
            if not _is_text(found[key]):
                raise ConfigError(f"environment variable {prefix}{key.upper()}: is not UTF-8 text")
        return found

    def _where(self, *wanted: str) -> str:
        """``file:line`` of a section, of a key of it, or of what is below that, as well as the text tells."""
        if self.path is None:
            return "configuration"
        from raspy.common.mistakes import line_of

        line = line_of(self._text, wanted)
        return f"{self.path}:{line}" if line else self.path


def _from_text(text: str) -> Any:
    """A value given as text: a TOML array or table when it looks like one, else the text itself."""
    if text[:1] in "[{":
        try:
            return read_toml(f"value = {text}")["value"]
        except (ValueError, RecursionError):
            return text
    return text


def _is_text(text: str) -> bool:
    """Whether it can be written as UTF-8, which bytes of the environment that are not text cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _problem(section: type[Section], key: str, value: Any, from_text: bool) -> str:
    """What is wrong with the value of one key, in the words of an owner; empty when nothing is."""
    (kind,) = (field.type for field in msgspec.structs.fields(section) if field.name == key)
    rules = [rule for rule in getattr(kind, "__metadata__", ()) if isinstance(rule, Meta)]
    try:
        alone = msgspec.convert([value], list[kind], strict=not from_text)[0]  # type: ignore[valid-type]
    except msgspec.ValidationError:
        pass
    else:
        whole = all(re.fullmatch(rule.pattern, alone) for rule in rules if rule.pattern and isinstance(alone, str))
        if whole and not (isinstance(alone, float) and not math.isfinite(alone)):
            return ""
    from raspy.common.mistakes import wanted

    takes = wanted(kind, rules)
    # What was meant to be in a table may be a secret, as passwords of channels are.
    got = shown(value) if takes and not SECRET.search(key) else _kind(value)
    return f"must be {takes or f'tables by name, as [{section.SECTION}.{key}.NAME]'} (got {got})"


def shown(value: object) -> str:
    """A wrong value as a message repeats it: cut when it is long, and without what is in tables."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list | tuple) and any(isinstance(each, dict | list | tuple) for each in value):
        return "a list"
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        # A number of thousands of digits, or brackets within brackets.
        return _kind(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


def _kind(value: object) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "a table"}
    return names.get(type(value), type(value).__name__)


def read_table(section: type[S], table: dict[str, Any]) -> S:
    """What a table holds that is not in the file by itself, as one of those by name; its own check is not made.

    :raises ConfigError: ``key: problem``
    """
    known = section.__struct_fields__
    for key, value in table.items():
        if key not in known:
            raise ConfigError(f"{key}: is not known; known are {', '.join(known)}")
        problem = _problem(section, key, value, False)
        if problem:
            raise ConfigError(f"{key}: {problem}")
    try:
        return msgspec.convert(table, section, strict=False)
    except msgspec.ValidationError as error:
        required = [field.name for field in msgspec.structs.fields(section) if field.required]
        missing = next((f"{name}: must be given" for name in required if name not in table), None)
        raise ConfigError(missing or f"{section.SECTION}: {error}") from error


def local_hostname(config: BusConfig) -> str:
    """The name of this host on the tree: the configured one, else the machine's short name in lower case.

    :raises ConfigError: the machine's name cannot be one, and none is configured
    """
    name = config.hostname or os.uname().nodename.split(".")[0].lower()
    if not ID.fullmatch(name):
        raise ConfigError(
            f"this machine's name {name!r} cannot be a name on the bus: set hostname in [bus] "
            "to 1 to 63 of a-z, 0-9, _ and -"
        )
    return name
