"""The server that watches limits, values, servers and outputs, and calls when something is wrong."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar, Self

from raspy.common import MDP
from raspy.common.backup.parts import Part
from raspy.common.clock import BootClock
from raspy.common.config import BusConfig, Config, RunConfig, Section, local_hostname
from raspy.common.devices.keptfile import adopt, check_content
from raspy.common.directories import state_directory
from raspy.common.server import Server
from raspy.common.statistics import SNMP
from raspy.common.verbs import Verbs
from raspy.servers.alarm import store
from raspy.servers.alarm.alarms import ACTIVE
from raspy.servers.alarm.book import Book
from raspy.servers.alarm.causes import Verdict
from raspy.servers.alarm.config import AlarmConfig
from raspy.servers.alarm.definitions import Definitions
from raspy.servers.alarm.disks import Disks
from raspy.servers.alarm.rules import Rule
from raspy.servers.alarm.silent import Silent
from raspy.servers.alarm.verbs import ALARMS
from raspy.servers.alarm.watch import Watch

if TYPE_CHECKING:
    from raspy.servers.alarm.voice import Voice

TICK = 0.5
"""Seconds between looks at what is due."""
NOT_EXPECTED = ("broker",)
"""A server without which nothing is known of any other."""


class Alarm(Server):
    """Watches, and calls.

    :param hostname: name of this host on the bus
    :param service: name of this server
    :param broker_ip: the broker's address, or ``ipc://`` and a directory
    :param broker_port: the broker's base port
    :param data_dir: where its files are; None: the state directory of this server
    :param settings: the section ``[alarm]``
    :param titanic: whether Titanic is on the bus
    :param expected: names of the servers that are to run on this host
    :param clock: what tells the time
    """

    CONFIG: ClassVar[type[Section]] = AlarmConfig
    # Not voice.db: what waits there would be told again.
    KEEPS: ClassVar[tuple[Part, ...]] = (
        Part("alarms.json", check=check_content, adopt=adopt),
        Part("alarms.db", store.SCHEMAS),
        Part("secrets/*", secret=True),
    )

    def __init__(
        self,
        hostname: str = "localhost",
        service: str = "alarm",
        broker_ip: str = "127.0.0.1",
        broker_port: int = 5514,
        data_dir: str | None = None,
        settings: AlarmConfig | None = None,
        titanic: bool = True,
        expected: tuple[str, ...] = (),
        clock: BootClock | None = None,
    ) -> None:
        super().__init__(hostname, service, broker_ip, broker_port)
        self.settings = settings or AlarmConfig()
        self.clock = clock or BootClock()
        directory = os.path.abspath(data_dir or state_directory(service))
        self.definitions = Definitions(self, os.path.join(directory, "alarms.json"), titanic)
        self.voice = self._make_voice(os.path.join(directory, "voice.db"))
        self.voice.ok = self.how
        self.book = Book(self, os.path.join(directory, "alarms.db"))
        self.watch = Watch(self, [MDP.routing_key(hostname, name) for name in expected if name not in NOT_EXPECTED])
        self.disks = Disks(self, directory)
        self.testing: set[str] = set()
        """Channels through which a test is under way."""
        self.definitions.on_changed = self._changed
        self.add_statistic(SNMP(f"{service}.alarms", "Alarms that are not normal"))
        self.add_statistic(SNMP(f"{service}.changes", "Changes of the tree that a definition watches"))

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """The server that a configuration describes.

        :raises raspy.common.config.ConfigError: naming file, line and key
        """
        bus = config.section(BusConfig)
        wanted = config.section(RunConfig).servers
        return cls(
            local_hostname(bus),
            broker_ip=bus.broker_ip,
            broker_port=bus.broker_port,
            settings=config.section(AlarmConfig),
            titanic=bus.titanic,
            # Without such a list it is not known here what somebody else starts.
            expected=tuple(dict.fromkeys(wanted)),
        )

    def start(self) -> None:
        """Take up what was kept, and begin."""
        rules = self.definitions.load()
        super().start()
        self.voice.load()
        self.voice.start()
        self.book.load(rules)
        self.book.start()
        self.watch.set_rules(rules)
        self.watch.start()
        self.disks.start()
        self.definitions.keeper.start()
        self.call_every(TICK, self._tick)

    def stop(self) -> None:
        """Leave the bus."""
        self.watch.close()
        self.definitions.keeper.close()
        self.book.close()
        self.voice.close()
        super().stop()

    def summary(self) -> str:
        """What the status line says when all is well."""
        return self.how()[1]

    def update_statistic(self, oid: str = "") -> None:
        """Bring the values that are counted elsewhere up to date."""
        super().update_statistic(oid)
        self._statistics[f"{self.service}.alarms"].set(sum(self.book.counts().values()))
        self._statistics[f"{self.service}.changes"].set(self.watch.changes)

    def worker_alarms(self) -> Verbs:
        """Serve ``<hostname>.alarm.alarms``."""
        return ALARMS

    def judge(self, rule: Rule, key: str, engaged: bool, pending: bool) -> Verdict:
        """Whether the cause of an alarm is there now."""
        if rule.settings.kind == "disk":
            return self.disks.judge(rule, engaged)
        return self.watch.judge(rule, key, engaged, pending)

    def how(self) -> tuple[bool, str]:
        """Whether all is well: values come, and nothing critical is wrong of which nobody knows. And a line on it."""
        counts = self.book.counts()
        bad = any(alarm.state == ACTIVE and alarm.severity == "critical" for alarm in self.book.alarms.values())
        parts = [f"{count} {state}" for state, count in counts.items() if count]
        if not self.watch.live:
            return False, "; ".join(["the broker does not answer", *parts])
        values = sum(1 for key in self.watch.tree if key.startswith("/device/"))
        text = f"{values} values are watched; " + (f"alarms: {', '.join(parts)}" if parts else "no alarms")
        return not bad, text

    def status(self) -> dict[str, Any]:
        """How things are."""
        well, text = self.how()
        return {
            "well": well,
            "text": text,
            "live": self.watch.live,
            "states": self.book.counts(),
            "definitions": len(self.watch.rules),
            "changes": self.watch.changes,
            "disks": self.disks.summary(),
        }

    def _make_voice(self, path: str) -> Voice | Silent:
        if not self.settings.channels and not self.settings.ping_url and not os.path.exists(path):
            return Silent(self)
        from raspy.servers.alarm.voice import Voice

        return Voice(self, path, self.settings, self.clock)

    def _changed(self, rules: dict[str, Rule]) -> None:
        """The definitions are others."""
        self.watch.set_rules(rules)
        self.book.adopt(rules)
        self.disks.look()

    def _tick(self) -> None:
        if not self.stopping:
            self.watch.tick()
            self.book.tick()
