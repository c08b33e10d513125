"""Runs one server in this process: what ``raspy server NAME`` and a systemd unit start.

Exit codes: 0 stopped as asked, 1 failed, 2 the configuration or the machine must be changed first (one line
on stderr says how), so that a restart would be in vain; 75 (``process.RESTART``) to be started again at once.
"""

from __future__ import annotations

import faulthandler
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from raspy.common.lent import Lent, lent
from raspy.common.registry import SERVERS, known_sections

with lent(Lent("traceback")):
    # Which it has for errors, and imports with the first one: 0.2 MB for each process that meets none.
    import logging

if TYPE_CHECKING:
    from raspy.common.config import Config

GOOD, FAILED, WRONG_USE = 0, 1, 2

USAGE = "use: raspy {} NAME [--config FILE] [--json]; the servers are " + ", ".join(SERVERS)


def light_zmq() -> None:
    """Import pyzmq, then let go of what it needs while it is imported; and socket without selectors, which it has for
    sending files.

    On Python 3.13 it takes a few constants from inspect, which brings along the parser of Python's own syntax:
    0.5 MB for each process. And it imports pickle, random, platform and json for functions that nobody calls here: as
    much again.
    """
    before = set(sys.modules)
    with lent(
        Lent("pickle", DEFAULT_PROTOCOL=4),
        Lent("random"),
        Lent("platform", python_implementation=lambda: sys.implementation.name),
        Lent("json"),
    ):
        import zmq  # noqa: F401
    with lent(Lent("selectors")):
        import socket  # noqa: F401

    for name in ("inspect", "ast", "dis", "opcode", "tokenize", "token"):
        if name not in before:
            sys.modules.pop(name, None)


def light_msgspec() -> None:
    """Import msgspec, keeping it from typing_extensions, where typing has all it needs; from uuid and decimal, of which
    it wants to know the classes: no value here is of them; from its own parts for schemas, which few servers make, and
    then only when asked, and for other formats; and from reading its version, for which it imports json.

    typing_extensions imports inspect, and with it 1.3 MB for each process; the others take 0.6 MB.
    """
    if "msgspec" in sys.modules or "typing_extensions" in sys.modules:
        return
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]
    unused = type("Unused", (), {"unknown": None})
    schemas = Lent("msgspec._json_schema")
    for name in ("schema", "schema_components"):
        schemas.__dict__[name] = schemas.later(name)
    try:
        with lent(
            Lent("uuid", UUID=unused, SafeUUID=unused),
            Lent("decimal", Decimal=unused),
            schemas,
            Lent("msgspec._version", get_versions=lambda: {"version": "unknown"}, __version__="unknown"),
            *(Lent(f"msgspec.{name}") for name in ("inspect", "toml", "yaml")),
        ):
            import msgspec  # noqa: F401
    finally:
        del sys.modules["typing_extensions"]


def say(problem: object, json: bool = False, name: str = "raspy") -> None:
    """Write one line to stderr. Under journald it has the priority of an error.

    :param json: write a JSON object as those of the log
    :param name: the server that it is about, in JSON
    """
    from raspy.common.log import JsonFormatter, printable, under_journal

    if json:
        record = logging.LogRecord(name, logging.ERROR, "", 0, "%s", (problem,), None)
        line = JsonFormatter(name).format(record)
    else:
        line = f"{'<3>' if under_journal() else ''}raspy: {printable(str(problem))}"
    try:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
    except OSError:
        pass  # nobody reads


def load_class(name: str) -> Any:
    """Import the class of a server.

    :raises ConfigError: there is no such server, a Python module that it needs is not installed, or another package's
        cannot be used
    """
    from raspy.common.config import ConfigError, shown

    if not is_known(name):
        raise ConfigError(f"there is no server {shown(name)}; known are {', '.join(SERVERS)}")
    entry = SERVERS[name]
    if entry.package:
        from raspy.common import others

        return others.load(name, entry)
    module, _, attribute = entry.place.partition(":")
    try:
        return getattr(__import__(module, fromlist=[attribute]), attribute)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"server {name} needs the Python module {error.name}, which is not installed: "
            f"install it, or leave {name} out of servers in [run]"
        ) from error


def is_known(name: str) -> bool:
    """Whether there is a server of that name; only for one that is not RasPy's own is looked what is installed."""
    if name not in SERVERS:
        from raspy.common import others

        others.find()
    return name in SERVERS


def load_config(path: str | None = None) -> Config:
    """Read the configuration, and refuse sections that no server has.

    :raises ConfigError: it cannot be read, or has such a section
    """
    light_msgspec()
    from raspy.common.config import Config

    config = Config.load(path)
    check_sections(config)
    return config


def check_sections(config: Config) -> None:
    """Refuse sections that no server has.

    A section is believed when ``servers`` in ``[run]`` names its server; that there is one is looked at where it is to
    be started. So no other process has to know what is installed, and a package that is gone stops nothing else.

    :raises ConfigError: with the section's name and line
    """
    from raspy.common.config import ConfigError, RunConfig

    believed = config.section(RunConfig).servers
    try:
        config.check_sections([*known_sections(), *believed])
    except ConfigError:
        from raspy.common import others

        others.find()
        config.check_sections([*known_sections(), *believed])


def chosen_servers(config: Config) -> list[str]:
    """The servers that run on this host, in the order in which they start.

    :raises ConfigError: ``servers`` in ``[run]`` names one that does not exist
    """
    from raspy.common.config import RunConfig, shown

    wanted = config.section(RunConfig).servers
    for name in wanted:
        if not is_known(name):
            problem = f"there is no server {shown(name)}; known are {', '.join(SERVERS)}"
            raise config.refusal(RunConfig, "servers", problem)
    if wanted:
        return [name for name in SERVERS if name in wanted]
    return [name for name, entry in SERVERS.items() if entry.default and not missing_modules(name)]


def missing_modules(name: str) -> list[str]:
    """What a server needs, an extra brings, and is not installed."""
    needs = SERVERS[name].needs
    if not needs:
        return []
    from importlib.util import find_spec

    return [module for module in needs if find_spec(module) is None]


def left_out(config: Config) -> dict[str, list[str]]:
    """The servers that would run on this host were their extras installed, and what is missing of those."""
    from raspy.common.config import RunConfig

    if config.section(RunConfig).servers:
        return {}
    return {name: missing for name, entry in SERVERS.items() if entry.default and (missing := missing_modules(name))}


def run_server(name: str, config_path: str | None = None, json: bool = False) -> int:
    """Run a server until it is told to stop; return the exit code of the process.

    :param json: log JSON objects instead of readable lines
    """

    def act(config: Config) -> int:
        from raspy.common.config import ConfigError
        from raspy.common.process import RESTART

        check_sections(config)
        server = load_class(name)
        config.check_here(server.CONFIG)
        if name != "broker":
            from raspy.common.curve import reach

            reach(config, serves=True)
        _settle(name, server)
        try:
            made = server.from_config(config)
            if made.service != name and SERVERS[name].package:
                from raspy.common import others

                raise others.refusal(name, SERVERS[name], ValueError(f"its service is {made.service!r}"))
            made.run()
            return RESTART if made.again else GOOD
        except ConfigError as error:
            raise config.located(error, server.CONFIG) from error

    return _guarded(name, config_path, json, act)


def _settle(name: str, server: Any) -> None:
    """Take a restore that is decided, before the server looks at its files. See :mod:`raspy.common.backup.staging`.

    :raises SystemExit: it cannot be taken now, and nothing else may be served; a restart tries again
    """
    from raspy.common.backup.parts import is_restoring
    from raspy.common.directories import state_directory

    if not is_restoring(state_directory(name)):
        return
    from raspy.common.backup.staging import settle

    try:
        settle(name, getattr(server, "KEEPS", ()))
    except (OSError, ValueError) as error:
        logging.getLogger("raspy.backup").error("%s: what is restored cannot be taken: %s", name, error)
        raise SystemExit(FAILED) from error


def make_safe(name: str, config_path: str | None = None, json: bool = False, ended: bool = False) -> int:
    """Put the outputs of a server into their safe state, whether it runs or not; return the exit code.

    Nothing happens where the server has no outputs. No mistake in the configuration stands in the way: it is told,
    and defaults are used. The process does not end with its parent, as a server does.

    :param ended: it is done because the server has ended: where there is nothing that it ever drove, that is good
    """
    faulthandler.enable()
    light_zmq()
    light_msgspec()
    from raspy.common import log
    from raspy.common.config import BusConfig, Config, ConfigError, NothingDriven, RunConfig, local_hostname

    # What is told goes through the log, as whoever does not read it must not stand in the way either.
    logger = logging.getLogger("raspy.make_safe")
    config, hostname, level, problem = Config(), "", "info", ""
    try:
        if name not in SERVERS:
            load_class(name)
    except ConfigError as error:
        say(error, json, name)
        return WRONG_USE
    if not SERVERS[name].output:
        return GOOD
    try:
        config = Config.load(config_path)
        hostname = local_hostname(config.section(BusConfig))
        # What somebody has asked for is told in any case.
        configured = config.section(RunConfig).log_level
        level = configured if ended else level
    except ConfigError as error:
        problem = str(error)
    log.setup(name, level, hostname, json)
    if problem:
        logger.error("%s; the outputs are made safe without it", problem)
    try:
        server = load_class(name)
        try:
            found = server.make_safe(config)
        except ConfigError as error:
            logger.error("%s; the outputs are made safe with the defaults", error)
            found = server.make_safe(Config())
    except NothingDriven as error:
        if ended:
            return GOOD
        logger.error("%s", error)
        return FAILED
    except (ConfigError, OSError) as error:
        logger.error("%s", error)
        return FAILED
    except KeyboardInterrupt:
        return FAILED
    logger.info("%s", found)
    return GOOD


def check(config_path: str | None = None, json: bool = False, starting: bool = False) -> int:
    """Check the configuration as :mod:`raspy.common.checking` does; return the exit code.

    What is wrong with another package stops nothing: it is told, but for what the server's own process will tell.
    """

    def act(config: Config) -> None:
        from raspy.common import others
        from raspy.common.checking import check_config

        for problem in others.find():
            say(problem, json, "check")
        check_config(config, starting)

    return _guarded("check", config_path, json, act)


def _guarded(name: str, config_path: str | None, json: bool, act: Callable[[Config], int | None]) -> int:
    # SIGABRT, the watchdog's, then shows where each thread was.
    faulthandler.enable()
    light_zmq()
    light_msgspec()
    from raspy.common import log
    from raspy.common.config import BusConfig, Config, ConfigError, RunConfig, local_hostname
    from raspy.common.process import hold_on_to_parent

    hold_on_to_parent()
    try:
        config = Config.load(config_path)
        log.setup(name, config.section(RunConfig).log_level, local_hostname(config.section(BusConfig)), json)
        return act(config) or GOOD
    except ConfigError as error:
        if json:
            say(error, json, name)
        else:
            say(f"{name}: {error}" if name in SERVERS else error)
        return WRONG_USE
    except KeyboardInterrupt:
        return FAILED


def main(arguments: list[str] | None = None) -> int:
    """Do what the arguments say; return the exit code.

    They are a server's name, ``--config FILE`` and ``--json``; with ``--make-safe`` its outputs are made safe
    instead, with ``--make-safe --ended`` because it has ended. With ``--check`` in place of a name the configuration
    is checked; with ``--check --start`` also whether the ports are free.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    usage = USAGE.format("make-safe" if "--make-safe" in words else "server")
    json = "--json" in words
    config_path: str | None = None
    names: list[str] = []
    flags: set[str] = set()
    while words:
        word = words.pop(0)
        if word.startswith("--config="):
            config_path = word.partition("=")[2]
        elif word == "--config" and words:
            config_path = words.pop(0)
        elif word in ("--make-safe", "--ended", "--check", "--start", "--json"):
            flags.add(word)
        elif word.startswith("-"):
            say(f"{word} is not known, or lacks its value; {usage}", json)
            return WRONG_USE
        else:
            names.append(word)
    if "--check" in flags and not names:
        return check(config_path, json, "--start" in flags)
    if len(names) != 1 or flags & {"--check", "--start"} or ("--ended" in flags) > ("--make-safe" in flags):
        say(usage, json)
        return WRONG_USE
    if "--make-safe" in flags:
        return make_safe(names[0], config_path, json, "--ended" in flags)
    return run_server(names[0], config_path, json)


if __name__ == "__main__":
    sys.exit(main())
