"""The server that acts at the right time: cron jobs, sun events, scenarios and variables."""

from __future__ import annotations

import os
from typing import Any, ClassVar, Self

from raspy.common.backup.parts import Part
from raspy.common.clock import BootClock
from raspy.common.config import BusConfig, Config, Section, local_hostname
from raspy.common.directories import state_directory
from raspy.common.server import Server
from raspy.common.statistics import SNMP, SNMPCounter
from raspy.common.verbs import Verbs
from raspy.servers.core.child import Nursery
from raspy.servers.core.cron import CronManager
from raspy.servers.core.delivery import Delivery
from raspy.servers.core.entries import SCHEMAS, adopt
from raspy.servers.core.jobs import KEY as JOB_SETTINGS
from raspy.servers.core.jobs import SECTION as JOB
from raspy.servers.core.jobs import Jobs
from raspy.servers.core.manager import MAIN, ScenarioManager
from raspy.servers.core.parts import check_part
from raspy.servers.core.scenario import SECTION
from raspy.servers.core.settings import CoreConfig
from raspy.servers.core.state import State
from raspy.servers.core.values import Values
from raspy.servers.core.variables import VARIABLE, check_kept
from raspy.servers.core.verbs import CRON, SCENARIO, SCENARIOS
from raspy.servers.core.verbs import VARIABLE as VARIABLE_VERBS
from raspy.servers.core.when import Place


class Core(Server):
    """Fires what is due, and runs scenarios.

    :param hostname: name of this host on the bus
    :param service: name of this server
    :param broker_ip: the broker's address, or ``ipc://`` and a directory
    :param broker_port: the broker's base port
    :param data_dir: where its file is; None: the state directory of this server
    :param settings: the section ``[core]``
    :param titanic: whether Titanic is on the bus
    :param clock: what tells the time
    """

    CONFIG: ClassVar[type[Section]] = CoreConfig
    KEEPS: ClassVar[tuple[Part, ...]] = (Part("core.db", SCHEMAS, adopt=adopt),)

    def __init__(
        self,
        hostname: str = "localhost",
        service: str = "core",
        broker_ip: str = "127.0.0.1",
        broker_port: int = 5514,
        data_dir: str | None = None,
        settings: CoreConfig | None = None,
        titanic: bool = True,
        clock: BootClock | None = None,
    ) -> None:
        super().__init__(hostname, service, broker_ip, broker_port)
        self.settings = settings or CoreConfig()
        self.clock = clock or BootClock()
        self.place = Place(self.settings.zone(), self.settings.latitude, self.settings.longitude)
        directory = os.path.abspath(data_dir or state_directory(service))
        self.state = State(self, os.path.join(directory, "core.db"), titanic, self.name)
        self.state.on_taken = self._taken
        self.state.check = self._check
        self.values = Values(self)
        self.nursery = Nursery(self)
        self.cron = CronManager(
            self.place, self.clock.wall, self.clock.since, self.clock.boot_id, trusted=self.clock.trusted
        )
        self.delivery = Delivery(self, titanic)
        self.scenarios = ScenarioManager(self)
        self.jobs = Jobs(self)
        self.fired = self.add_statistic(SNMPCounter(f"{service}.fired", "Cron jobs and sun events that fired"))
        self.add_statistic(SNMP(f"{service}.scenarios", "Scenarios"))
        self.add_statistic(SNMP(f"{service}.running", "Scenarios that run"))
        self.add_statistic(SNMP(f"{service}.commands", "Commands of cron jobs that are on their way"))

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """The server that a configuration describes.

        :raises raspy.common.config.ConfigError: naming file, line and key
        """
        bus = config.section(BusConfig)
        return cls(
            local_hostname(bus),
            broker_ip=bus.broker_ip,
            broker_port=bus.broker_port,
            settings=config.section(CoreConfig),
            titanic=bus.titanic,
        )

    def start(self) -> None:
        """Take up what was kept, and begin."""
        super().start()
        self.state.load()
        self.values.start()
        # Without a scenario there is no need of another process.
        self.nursery.start(now=any(section != MAIN for section in self.state.sections(SECTION)))
        self.jobs.load()
        self.scenarios.start()
        self.state.start()
        self.jobs.start()

    def stop(self) -> None:
        """End the scenarios, then leave the bus."""
        self.scenarios.shutdown()
        self.nursery.close()
        self.delivery.close()
        self.values.close()
        self.jobs.close()
        self.state.close()
        super().stop()

    def summary(self) -> str:
        """What the status line says when all is well."""
        return (
            f"{len(self.scenarios.scenarios)} scenarios, {self.running()} running; {len(self.jobs.names())} cron jobs"
        )

    def running(self) -> int:
        """How many scenarios run."""
        return sum(1 for scenario in self.scenarios.scenarios.values() if scenario.running)

    def _check(self, section: str, key: str, value: Any) -> None:
        """Refuse what the store has and nothing here could use, so that what was there before stays.

        :raises ValueError: with what is wrong
        """
        if section.startswith(JOB) and key == JOB_SETTINGS:
            self.jobs.read(section.removeprefix(JOB), value)
        elif section.startswith(SECTION) and section != MAIN:
            check_part(key, value, self.hostname)
        elif section == VARIABLE:
            check_kept(key, value)

    def _taken(self, places: set[tuple[str, str]]) -> None:
        """Something was changed in the store, as by restoring a backup."""
        self.jobs.taken(places)
        self.scenarios.taken(places)

    def update_statistic(self, oid: str = "") -> None:
        """Bring the values that are counted elsewhere up to date."""
        super().update_statistic(oid)
        for name, value in (
            ("scenarios", len(self.scenarios.scenarios)),
            ("running", self.running()),
            ("commands", self.delivery.flying),
        ):
            self._statistics[f"{self.service}.{name}"].set(value)

    def worker_cron(self) -> Verbs:
        """Serve ``<hostname>.core.cron``."""
        return CRON

    def worker_scenario(self) -> Verbs:
        """Serve ``<hostname>.core.scenario``."""
        return SCENARIO

    def worker_scenarios(self) -> Verbs:
        """Serve ``<hostname>.core.scenarios``."""
        return SCENARIOS

    def worker_variable(self) -> Verbs:
        """Serve ``<hostname>.core.variable``."""
        return VARIABLE_VERBS
