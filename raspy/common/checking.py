"""The check of a whole configuration, which is made before servers are started: no server has it in its memory."""

from __future__ import annotations

from collections.abc import Callable

from raspy.common import others
from raspy.common.config import BusConfig, Config, ConfigError, RunConfig, Section, local_hostname
from raspy.common.registry import SERVERS, known_sections
from raspy.common.runner import chosen_servers, load_class


def check_config(config: Config, starting: bool = False) -> list[str]:
    """Check every section of every server, and of those that run here whether this machine lets them.

    :param starting: they are about to be started, so their ports must be free
    :returns: which servers of other packages are to run here and cannot be used; that stops nothing else
    :raises ConfigError: the first mistake found
    """
    others.find()
    chosen = chosen_servers(config)
    config.check_sections(known_sections())
    sections: dict[str, type[Section]] = {"bus": BusConfig, "run": RunConfig}
    broken: dict[str, str] = {}
    for name, entry in SERVERS.items():
        try:
            sections[name] = load_class(name).CONFIG
        except ConfigError as error:
            # Its keys cannot be told then, which matters only where it is to run.
            if name in chosen and not entry.package:
                raise
            if name in chosen:
                broken[name] = str(error)

    def look(name: str, function: Callable[..., object], *arguments: object) -> None:
        try:
            function(*arguments)
        except Exception as error:
            if isinstance(error, ConfigError) or name not in SERVERS or not SERVERS[name].package:
                raise
            broken.setdefault(name, str(others.refusal(name, SERVERS[name], error)))

    for name, section in sections.items():
        if section.SECTION:
            look(name, config.section, section)
    local_hostname(config.section(BusConfig))
    for name in chosen:
        if name in sections:
            look(name, config.check_here, sections[name], starting)
    if "broker" not in chosen:
        # Whether this host's own key is there is told when it is needed: it may come later than the configuration.
        bus = config.section(BusConfig)
        try:
            bus.check_reach()
        except ConfigError as error:
            raise config.located(error, BusConfig) from error
    return list(broken.values())
