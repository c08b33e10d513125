"""Runs one server in this process: what ``raspy server NAME`` and a systemd unit start.

Exit codes: 0 stopped as asked, 1 failed, 2 the configuration or the machine must be changed first (one line
on stderr says how), so that a restart would be in vain.
"""

from __future__ import annotations

import faulthandler
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from raspy.servers import SERVERS

if TYPE_CHECKING:
    from raspy.common.config import Config

GOOD, FAILED, WRONG_USE = 0, 1, 2

USAGE = "use: raspy server NAME [--config FILE] [--json]; the servers are " + ", ".join(SERVERS)


def light_zmq() -> None:
    """Import pyzmq, then let go of what it needs while it is imported.

    On Python 3.13 it takes a few constants from inspect, which brings along the parser of Python's own syntax:
    0.5 MB for each process.
    """
    before = set(sys.modules)
    import zmq  # noqa: F401

    for name in ("inspect", "ast", "dis", "opcode", "tokenize", "token"):
        if name not in before:
            sys.modules.pop(name, None)


def light_msgspec() -> None:
    """Import msgspec, keeping it from typing_extensions, where typing has all it needs.

    typing_extensions imports inspect, and with it 1.3 MB for each process.
    """
    if "msgspec" in sys.modules or "typing_extensions" in sys.modules:
        return
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]
    try:
        import msgspec  # noqa: F401
    finally:
        del sys.modules["typing_extensions"]


def say(problem: object) -> None:
    """Write one line to stderr. Under journald it has the priority of an error."""
    from raspy.common.log import printable, under_journal

    mark = "<3>" if under_journal() else ""
    try:
        sys.stderr.write(f"{mark}raspy: {printable(str(problem))}\n")
        sys.stderr.flush()
    except OSError:
        pass  # nobody reads


def load_class(name: str) -> Any:
    """Import the class of a server.

    :raises ConfigError: there is no such server, or a Python module that it needs is not installed
    """
    from raspy.common.config import ConfigError

    entry = SERVERS.get(name)
    if entry is None:
        raise ConfigError(f"there is no server {name!r}; known are {', '.join(SERVERS)}")
    module, _, attribute = entry.place.partition(":")
    try:
        return getattr(__import__(module, fromlist=[attribute]), attribute)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"server {name} needs the Python module {error.name}, which is not installed: "
            f"install it, or leave {name} out of servers in [run]"
        ) from error


def load_config(path: str | None = None) -> Config:
    """Read the configuration.

    :raises ConfigError: it cannot be read
    """
    light_msgspec()
    from raspy.common.config import Config

    return Config.load(path)


def chosen_servers(config: Config) -> list[str]:
    """The servers that run on this host, in the order in which they start.

    :raises ConfigError: ``servers`` in ``[run]`` names one that does not exist
    """
    from raspy.common.config import ConfigError, RunConfig

    wanted = config.section(RunConfig).servers
    for name in wanted:
        if name not in SERVERS:
            raise ConfigError(f"servers in [run]: there is no server {name!r}; known are {', '.join(SERVERS)}")
    return [name for name, entry in SERVERS.items() if (name in wanted if wanted else entry.default)]


def check_config(config: Config) -> None:
    """Check every section of every server, also of those that do not run here.

    :raises ConfigError: the first mistake found
    """
    from raspy.common.config import BusConfig, ConfigError, RunConfig, Section, local_hostname

    sections: list[type[Section]] = [BusConfig, RunConfig]
    chosen = chosen_servers(config)
    for name in SERVERS:
        try:
            sections.append(load_class(name).CONFIG)
        except ConfigError:
            # Its keys cannot be told then, which matters only where it is to run.
            if name in chosen:
                raise
    named = {section.SECTION for section in sections if section.SECTION}
    config.check_sections(sorted(named.union(SERVERS)))
    for section in sections:
        if section.SECTION:
            config.section(section)
    local_hostname(config.section(BusConfig))


def run_server(name: str, config_path: str | None = None, json: bool = False) -> int:
    """Run a server until it is told to stop; return the exit code of the process.

    :param json: log JSON objects instead of readable lines
    """
    return _guarded(name, config_path, json, lambda config: load_class(name).from_config(config).run())


def make_safe(name: str, config_path: str | None = None, json: bool = False) -> int:
    """Put the outputs of a server into their safe state, whether it runs or not; return the exit code.

    Nothing happens where the server has no outputs.
    """

    def act(config: Config) -> None:
        server = load_class(name)
        if SERVERS[name].output:
            server.make_safe(config)

    return _guarded(name, config_path, json, act)


def check(config_path: str | None = None, json: bool = False) -> int:
    """Check the configuration; return the exit code."""
    return _guarded("check", config_path, json, check_config)


def _guarded(name: str, config_path: str | None, json: bool, act: Callable[[Config], None]) -> int:
    # SIGABRT, the watchdog's, then shows where each thread was.
    faulthandler.enable()
    light_zmq()
    light_msgspec()
    from raspy.common import log
    from raspy.common.config import BusConfig, ConfigError, RunConfig, local_hostname
    from raspy.common.process import hold_on_to_parent

    hold_on_to_parent()
    try:
        config = load_config(config_path)
        log.setup(name, config.section(RunConfig).log_level, local_hostname(config.section(BusConfig)), json)
        act(config)
    except ConfigError as error:
        say(f"{name}: {error}" if name in SERVERS else error)
        return WRONG_USE
    except KeyboardInterrupt:
        return FAILED
    return GOOD


def main(arguments: list[str] | None = None) -> int:
    """Do what the arguments say; return the exit code.

    They are a server's name, ``--config FILE`` and ``--json``; with ``--make-safe`` its outputs are made safe
    instead, and with ``--check`` in place of a name the configuration is checked.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    config_path: str | None = None
    names: list[str] = []
    flags: set[str] = set()
    while words:
        word = words.pop(0)
        if word.startswith("--config="):
            config_path = word.partition("=")[2]
        elif word == "--config" and words:
            config_path = words.pop(0)
        elif word in ("--make-safe", "--check", "--json"):
            flags.add(word)
        elif word.startswith("-"):
            say(f"{word} is not known, or lacks its value; {USAGE}")
            return WRONG_USE
        else:
            names.append(word)
    json = "--json" in flags
    if "--check" in flags and not names:
        return check(config_path, json)
    if len(names) != 1 or "--check" in flags:
        say(USAGE)
        return WRONG_USE
    return (make_safe if "--make-safe" in flags else run_server)(names[0], config_path, json)


if __name__ == "__main__":
    sys.exit(main())
