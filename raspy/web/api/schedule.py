"""The schedule: cron jobs by the clock and by the sun."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from raspy.web.api import services
from raspy.web.api.operation import ID, LIST, Operations, Page, encoded, page
from raspy.web.hands import LOOK, SET
from raspy.web.site import Site
from raspy.web.visit import Visit

OPERATIONS = Operations("schedule")

ONE = {"name": ID}


class Command(msgspec.Struct, forbid_unknown_fields=True):
    """A command that a job sends to a device."""

    device: Annotated[str, Meta(min_length=3, max_length=255)]
    """Its whole name; without the host, this one."""
    command: Annotated[str, Meta(min_length=1, max_length=63)]
    value: Any = None
    seconds: Annotated[float, Meta(gt=0, le=86400)] | None = None
    """How long an output is to be held."""


class Job(msgspec.Struct, forbid_unknown_fields=True):
    """The settings of a job (see the page on cron)."""

    when: Annotated[str, Meta(max_length=200)]
    """As ``0 8 * * *``, ``@sunset-00:30``, ``every 10m``, ``at 2026-12-01T08:00``."""
    active: bool = True
    label: Annotated[str, Meta(max_length=100)] = ""
    jitter: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    misfire: Literal["once", "skip", "all"] = "once"
    grace: Annotated[float, Meta(ge=0, le=86400)] = 60.0
    """Seconds."""
    trusted: bool = False
    scenario: Annotated[str, Meta(max_length=63)] = ""
    """That is run."""
    command: Command | None = None
    """That is sent to a device."""


class When(msgspec.Struct, forbid_unknown_fields=True):
    """A text that says when something is to happen."""

    when: Annotated[str, Meta(max_length=200)]


class Instants(msgspec.Struct):
    """Whether a text says when, and else why not."""

    ok: bool
    problem: str
    next: list[float]
    """The next times; Unix, s."""
    zone: str
    """The time zone that it is in."""


def _ask(site: Site, purpose: str, *words: str) -> Any:
    return services.ask(site, purpose, "core", "cron", *words)


@OPERATIONS.add("GET", "/schedule", LIST, answer=Page)
def list_jobs(site: Site, visit: Visit, limit: int, after: str) -> Page:
    """The jobs with their settings and their ``next`` three times (Unix, s), in the time zone ``zone``."""
    return page(_ask(site, LOOK, "list"), "name", limit, after)


@OPERATIONS.add("GET", "/schedule/{name}", ONE)
def job(site: Site, visit: Visit, name: str) -> Any:
    """A job: its settings, what it has done, and its next three times."""
    return _ask(site, LOOK, "show", name)


@OPERATIONS.add("PUT", "/schedule/{name}", ONE, body=Job)
def set_job(site: Site, visit: Visit, name: str, body: Job) -> Any:
    """Make a job, or put other settings in the place of all that it had; the answer is the whole of it."""
    return _ask(site, SET, "set", name, encoded(body))


@OPERATIONS.add("DELETE", "/schedule/{name}", ONE, answer=str)
def delete_job(site: Site, visit: Visit, name: str) -> Any:
    """Have a job no more."""
    return _ask(site, SET, "delete", name)


@OPERATIONS.add("POST", "/schedule/{name}/run", ONE, answer=str)
def run_job(site: Site, visit: Visit, name: str) -> Any:
    """Fire a job now, whether it is active or not."""
    return _ask(site, SET, "run", name)


@OPERATIONS.add("POST", "/check/when", body=When, answer=Instants)
def check_when(site: Site, visit: Visit, body: When) -> Any:
    """Whether a text says when something is to happen, and the next three times."""
    return _ask(site, LOOK, "check", body.when)


ROUTES = OPERATIONS.routes()
