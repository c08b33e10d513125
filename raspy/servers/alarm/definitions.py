"""The definitions: those that come with RasPy, those that an owner has made or changed, and where these are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from raspy.common import MDP
from raspy.common.devices.keeper import Keeper
from raspy.common.verbs import VerbError
from raspy.servers.alarm.rules import AlarmSettings, Rule, RuleError, built_in, parse

if TYPE_CHECKING:
    from raspy.servers.alarm.server import Alarm

SECTION = "alarms"
MOST = 300
"""Definitions."""

Done = Callable[[Exception | None], None]


class Definitions:
    """All definitions.

    :param server: whose host, loop and conditions are used
    :param path: the file of those that an owner has made; None: nothing outlives the server
    :param titanic: whether Titanic is on the bus
    """

    def __init__(self, server: Alarm, path: str | None, titanic: bool) -> None:
        self.server = server
        self.built_in = built_in()
        self.on_changed: Callable[[dict[str, Rule]], None] = lambda rules: None
        """Called with all definitions that can be used."""
        self.broken: dict[str, str] = {}
        """Those that are kept and cannot be used, and why."""
        name = server.name
        self.keeper = Keeper(server, path, titanic, lambda _: name, (name,), SECTION)
        self.keeper.on_settings = self._taken
        self.keeper.owned = lambda each: True
        self._own: dict[str, AlarmSettings] = {}
        self._rules: dict[str, Rule] = {}

    def load(self) -> dict[str, Rule]:
        """Those that there are."""
        self.keeper.lock()
        for name in self.keeper.names():
            try:
                self._own[name] = parse(name, self.keeper.find(name) or {}, self.server.hostname)
            except RuleError as error:
                self.broken[name] = str(error)
        self._tell()
        return self.rules()

    def rules(self) -> dict[str, Rule]:
        """Definitions by name: the same objects as before of those that are not changed."""
        before, self._rules = self._rules, {}
        for name, settings in {**self.built_in, **self._own}.items():
            rule = before.get(name)
            if rule is None or rule.settings is not settings:
                rule = Rule(name, settings, name in self.built_in and name not in self._own)
            self._rules[name] = rule
        return dict(self._rules)

    def set(self, name: str, given: Any, done: Done) -> None:
        """Make a definition, or put another one in the place of one; ``done(error)`` follows when it is on the disk.

        :raises VerbError: it cannot be
        """
        settings = parse(name, given, self.server.hostname)
        if name in self.built_in and settings.kind != self.built_in[name].kind:
            raise RuleError(f"{name}: it comes with RasPy, and stays of kind {self.built_in[name].kind}")
        if name not in self._own and name not in self.broken and len(self._own) + len(self.broken) >= MOST:
            raise VerbError(MDP.CONFLICT, f"there are {MOST} alarms defined, which are all that can be; delete some")
        unknown = [channel for channel in settings.channels if channel not in self.server.settings.channels]
        if unknown:
            known = ", ".join(self.server.settings.channels) or "none: see [alarm.channels.NAME] in the configuration"
            raise RuleError(f"{name}: there is no channel {unknown[0]}; known are {known}")
        self._keep(name, settings, done)

    def delete(self, name: str, done: Done) -> None:
        """Have a definition no more; one that comes with RasPy is as it came again.

        :raises VerbError: 404, or 409: it is as it came
        """
        if name in self._own or name in self.broken:
            self._keep(name, None, done)
        elif name in self.built_in:
            raise VerbError(
                MDP.CONFLICT,
                f"{name} comes with RasPy, and cannot be deleted; set it with active=false to be without it",
            )
        else:
            raise VerbError(MDP.NOT_FOUND, f"no definition {name[:80]!r}; definitions names them")

    def _keep(self, name: str, settings: AlarmSettings | None, done: Done) -> None:
        def written(error: Exception | None) -> None:
            if error is None:
                self._put(name, settings)
            done(error)

        self.keeper.keep(name, None if settings is None else msgspec.to_builtins(settings), written)

    def _put(self, name: str, settings: AlarmSettings | None) -> None:
        self.broken.pop(name, None)
        self._own.pop(name, None)
        if settings is not None:
            self._own[name] = settings
        self._tell()
        self.on_changed(self.rules())

    def _taken(self, name: str, given: dict[str, Any]) -> dict[str, Any] | None:
        """The store has another one, as from a backup.

        :raises RuleError: it cannot be used, so that what was there before stays
        """
        settings = parse(name, given, self.server.hostname)
        if name not in self._own and len(self._own) >= MOST:
            raise RuleError(f"{name}: there are {MOST} alarms defined already")
        if name in self.built_in and settings.kind != self.built_in[name].kind:
            raise RuleError(f"{name}: it comes with RasPy, and stays of kind {self.built_in[name].kind}")
        self._put(name, settings)
        found: dict[str, Any] = msgspec.to_builtins(settings)
        return found

    def _tell(self) -> None:
        self.server.condition("definitions", "; ".join(list(self.broken.values())[:3]) or None)
