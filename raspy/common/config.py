"""Configuration: one TOML file, typed by the sections that the servers declare, overridden by the environment.

The file is the one given, else ``$RASPY_CONFIG``, else ``./raspy.toml``, else ``/etc/raspy/raspy.toml``, else
none at all: every key has a default. ``RASPY_<SECTION>_<KEY>`` overrides one key. A server declares its keys as
a :class:`Section`; what is not declared is refused by name and line.
"""

from __future__ import annotations

import os
import re
import tomllib
from typing import Annotated, Any, ClassVar, TypeVar

import msgspec
from msgspec import Meta

from raspy.common.MDP import GenericError

ID = re.compile(r"[a-z0-9_-]{1,63}")
"""Host, server, device and subdevice names on the tree."""

PORTS = 4
NOT_KEYS = ("RASPY_CONFIG", "RASPY_TEST_")
"""Beginnings of environment variables that are no keys."""


class ConfigError(GenericError, ValueError):
    """A configuration that cannot be used. The message names file, line and key, and says what is wanted."""


class Section(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """A table of the configuration file; a subclass declares its keys as typed attributes with defaults.

    Units, ranges and texts come in ``Annotated[type, Meta(...)]``: ``description`` (wanted of every key), ``ge``,
    ``le``, ``pattern``, and ``extra={"unit": "s"}``. ``SECTION`` is the table's name.
    """

    SECTION: ClassVar[str] = ""

    def check(self) -> None:
        """Refuse what types and ranges cannot tell; raise :class:`ConfigError` naming the key."""


class BusConfig(Section, frozen=True):
    """``[bus]``: who this host is, and where the broker is."""

    SECTION: ClassVar[str] = "bus"

    hostname: Annotated[
        str,
        Meta(pattern=r"^([a-z0-9_-]{1,63})?$", description="Name of this Pi on the bus; empty: its host name."),
    ] = ""
    broker_ip: Annotated[
        str,
        Meta(min_length=1, description="Address of the broker, or ipc:// and a directory for sockets in files."),
    ] = "127.0.0.1"
    broker_port: Annotated[
        int,
        Meta(ge=1, le=65535 - PORTS + 1, description="First of the broker's four consecutive ports."),
    ] = 5514

    def check(self) -> None:
        if self.broker_ip.startswith("ipc://"):
            directory = self.broker_ip.removeprefix("ipc://")
            if not directory.startswith("/") or len(directory) > 90:
                raise ConfigError(
                    f"broker_ip: {self.broker_ip!r} must be ipc:// and an absolute directory of at most 90 characters"
                )


class RunConfig(Section, frozen=True):
    """``[run]``: how the processes live."""

    SECTION: ClassVar[str] = "run"

    servers: Annotated[
        list[str],
        Meta(description="Servers that `raspy run` starts on this host; empty: all that are on by default."),
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
                with open(candidate, encoding="utf-8") as file:
                    text = file.read()
                return cls(tomllib.loads(text), candidate, text)
            except OSError as error:
                raise ConfigError(f"{candidate}: cannot be read: {error.strerror}") from error
            except UnicodeDecodeError as error:
                raise ConfigError(f"{candidate}: is not UTF-8 text") from error
            except tomllib.TOMLDecodeError as error:
                raise ConfigError(f"{candidate}: is not TOML: {error}") from error
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
                    f"{self._where(name, key)}: unknown key {key!r} in [{name}]; known are {', '.join(known)}"
                )
        values = dict(table)
        sources = {key: f"{self._where(name, key)}: {key} in [{name}]" for key in table}
        for key, text in self._environment(name, known).items():
            values[key] = _from_text(text)
            sources[key] = f"environment variable RASPY_{name.upper()}_{key.upper()}"
        for key, value in values.items():
            self._check_key(section, key, value, sources[key], sources[key].startswith("environment"))
        try:
            result = msgspec.convert(values, section, strict=False)
            result.check()
        except ConfigError as error:
            key = str(error).split(":", 1)[0]
            raise ConfigError(f"{sources.get(key, f'[{name}]')}: {str(error).split(': ', 1)[-1]}") from error
        except msgspec.ValidationError as error:
            raise ConfigError(f"{self._where(name)}: [{name}]: {error}") from error
        return result

    def check_sections(self, known: list[str]) -> None:
        """Refuse a table, or a variable of the environment, that belongs to no server.

        :raises ConfigError: with the table's name and line, or the variable's name
        """
        for name in self.tables:
            if name not in known:
                raise ConfigError(
                    f"{self._where(name)}: unknown section [{name}]; known are {', '.join(sorted(known))}"
                )
        prefixes = tuple(f"RASPY_{name.upper()}_" for name in known) + NOT_KEYS
        for variable in os.environ:
            if variable.startswith("RASPY_") and not variable.startswith(prefixes):
                raise ConfigError(
                    f"environment variable {variable}: unknown section; known are "
                    + ", ".join(f"RASPY_{name.upper()}_<KEY>" for name in sorted(known))
                )

    def _check_key(self, section: type[Section], key: str, value: Any, source: str, from_text: bool) -> None:
        """Convert one key alone, so that the message can name it and its line."""
        try:
            alone = msgspec.defstruct(
                "Alone", [(f.name, f.type) for f in msgspec.structs.fields(section) if f.name == key]
            )
            msgspec.convert({key: value}, alone, strict=not from_text)
        except msgspec.ValidationError as error:
            problem = str(error).split(" - at ")[0]
            raise ConfigError(f"{source}: {problem[:1].lower()}{problem[1:]} (got {value!r})") from error

    @staticmethod
    def _environment(name: str, known: tuple[str, ...]) -> dict[str, str]:
        prefix = f"RASPY_{name.upper()}_"
        found = {key[len(prefix) :].lower(): text for key, text in os.environ.items() if key.startswith(prefix)}
        for key in found:
            if key not in known:
                raise ConfigError(
                    f"environment variable {prefix}{key.upper()}: unknown key {key!r} in [{name}]; "
                    f"known are {', '.join(known)}"
                )
        return found

    def _where(self, section: str, key: str | None = None) -> str:
        """``file:line`` of a table or key, as well as the text tells."""
        if self.path is None:
            return "configuration"
        table = ""
        for number, line in enumerate(self._text.splitlines(), 1):
            head = re.match(r"\s*\[\s*\"?([^\]\"]+?)\"?\s*\]", line)
            if head:
                table = head[1]
                if key is None and table == section:
                    return f"{self.path}:{number}"
            elif (key is not None and table == section and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line)) or (
                not table and re.match(rf"\s*{re.escape(section)}\s*[.=]", line)
            ):
                return f"{self.path}:{number}"
        return self.path


def _from_text(text: str) -> Any:
    """A value given as text: a TOML array or table when it looks like one, else the text itself."""
    if text[:1] in "[{":
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            return text
    return text


def _kind(value: object) -> str:
    return {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list"}.get(
        type(value), type(value).__name__
    )


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


def state_directory(server: str) -> str:
    """Where a server keeps its files: ``$STATE_DIRECTORY`` (systemd's), else below ``$XDG_STATE_HOME/raspy``."""
    given = os.environ.get("STATE_DIRECTORY")
    if given:
        return given.split(":")[0]
    base = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(base, "raspy", server)
