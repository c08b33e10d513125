"""The server that acts: cron jobs, sun events, scenarios and the variables they share."""

from __future__ import annotations

from raspy.servers.core.cron import Cron, CronManager
from raspy.servers.core.manager import ScenarioManager
from raspy.servers.core.scenario import Scenario
from raspy.servers.core.server import Core
from raspy.servers.core.settings import CoreConfig

__all__ = ["Core", "CoreConfig", "Cron", "CronManager", "Scenario", "ScenarioManager"]
