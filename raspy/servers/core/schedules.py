"""The times of scenarios: each of them is a job of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raspy.servers.core.cron import CronSettings
from raspy.servers.core.when import WhenError

if TYPE_CHECKING:
    from raspy.servers.core.scenario import Scenario
    from raspy.servers.core.server import Core

CRON_STATES = "state.cron"


class Schedules:
    """The jobs that fire scenarios.

    :param core: whose jobs and memory are used
    """

    def __init__(self, core: Core) -> None:
        self.core = core

    def set(self, scenario: Scenario) -> None:
        """Have a scenario fired at its times, and no others."""
        wanted = {job_name(scenario.name, number): when for number, when in enumerate(scenario.settings.schedule)}
        for job in self._jobs_of(scenario.name):
            if job not in wanted:
                self.core.cron.delete(job)
        for job, when in wanted.items():
            known = self.core.cron.jobs.get(job)
            settings = CronSettings(when=when, scenario=scenario.name, misfire=scenario.settings.misfire)
            if known is not None and known.settings == settings:
                continue
            try:
                kept = self.core.state.get(CRON_STATES, job) if known is None else self.core.cron.state(job)
                self.core.cron.add(job, settings, kept)
            except WhenError as error:
                # As after its place has lost its latitude.
                scenario.pause(f"schedule: {error}")
                return

    def clear(self, name: str) -> dict[tuple[str, str], Any]:
        """Have a scenario fired at no time; the changes of core's memory that forget at which it was."""
        jobs = self._jobs_of(name)
        for job in jobs:
            self.core.cron.delete(job)
        return {(CRON_STATES, job): None for job in jobs}

    def _jobs_of(self, name: str) -> list[str]:
        prefix = job_name(name, "")
        return [job for job in self.core.cron.jobs if job.startswith(prefix)]


def job_name(scenario: str, number: int | str) -> str:
    """The name of the cron job of one of a scenario's times: none that an owner can give."""
    return f"scenario.{scenario}.{number}"
