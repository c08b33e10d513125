"""The services of the core: ``<hostname>.core.cron``, ``.scenario``, ``.scenarios`` and ``.variable``."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from raspy.common import MDP, verbs
from raspy.common.verbs import Later, VerbError, Verbs
from raspy.servers.core.cron import Cron, CronSettings
from raspy.servers.core.entries import StateError
from raspy.servers.core.when import WhenError, parse

if TYPE_CHECKING:
    from raspy.servers.core.server import Core

CRON = Verbs("cron", slots=2)
SCENARIO = Verbs("scenario", slots=4)
SCENARIOS = Verbs("scenarios", slots=2)
VARIABLE = Verbs("variable", slots=4)

NEXT, MOST_NEXT = 3, 100

Done = Callable[[Exception | None], None]
T = TypeVar("T")


def decoded(text: str, kind: type[T], what: str) -> T:
    """JSON from outside.

    :raises VerbError: 400: it is not what is wanted
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise VerbError(MDP.BAD_REQUEST, f"{what}: {error}") from error


def kept(server: Core, act: Callable[[Done], Any], answer: Callable[[], Any]) -> Later:
    """As :func:`raspy.common.verbs.kept`; what the state refuses is a 400.

    :raises VerbError: the state refuses
    """
    try:
        return verbs.kept(server, act, answer)
    except StateError as error:
        raise VerbError(MDP.BAD_REQUEST, str(error)) from error


# Cron jobs


def job_of(server: Core, job: Cron) -> dict[str, Any]:
    """A job as a page or command line shows it; times are Unix time, s, to be shown in the time zone ``zone``."""
    return job.to_dict() | {"next": server.cron.next(job.name, NEXT), "zone": server.place.zone}


@CRON.verb(reads=True, name="list_keys")
def cron_list_keys(server: Core) -> list[str]:
    """The names of the cron jobs."""
    return server.jobs.names()


@CRON.verb(reads=True, name="list")
def cron_list(server: Core) -> list[dict[str, Any]]:
    """All cron jobs, each as ``show`` gives it; one that cannot be used has its ``problem`` instead."""
    return [
        {"name": name, "problem": server.jobs.broken[name]}
        if name in server.jobs.broken
        else job_of(server, server.jobs.find(name))
        for name in server.jobs.names()
    ]


@CRON.verb(reads=True, name="show")
def cron_show(server: Core, name: str) -> dict[str, Any]:
    """A cron job: its settings, what it has done, and its next three times (Unix time, s)."""
    return job_of(server, server.jobs.find(name))


@CRON.verb(name="set")
def cron_set(server: Core, name: str, json: str) -> Later:
    """Make a cron job, or put other settings in the place of all that it had; answers the whole of it."""
    settings = decoded(json, CronSettings, name)
    return kept(
        server,
        lambda done: server.jobs.change(name, settings, done),
        lambda: job_of(server, server.jobs.find(name)),
    )


@CRON.verb(name="delete")
def cron_delete(server: Core, name: str) -> Later:
    """Have a cron job no more."""
    return kept(server, lambda done: server.jobs.delete(name, done), lambda: "deleted")


@CRON.verb(name="run")
def cron_run(server: Core, name: str) -> str:
    """Fire a cron job now, whether it is active or not; its times stay as they are."""
    server.jobs.run(name)
    return "fired"


@CRON.verb(reads=True, name="next")
def cron_next(server: Core, name: str, count: str = str(NEXT)) -> list[float]:
    """The next times of a cron job (Unix time, s)."""
    if not (count.isascii() and count.isdecimal() and 1 <= int(count[:6]) <= MOST_NEXT):
        raise VerbError(MDP.BAD_REQUEST, f"count: must be 1 to {MOST_NEXT} (got {count[:20]!r})")
    server.jobs.find(name)
    return server.cron.next(name, int(count))


@CRON.verb(reads=True, name="check")
def cron_check(server: Core, when: str) -> dict[str, Any]:
    """Whether a text says when something is to happen, as ``0 8 * * *``, ``@sunset-00:30``, ``every 10m``, ``at
    2026-12-01T08:00``; and the next three times (Unix time, s), and in which time zone (``zone``)."""
    try:
        parsed = parse(when, server.place)
    except WhenError as error:
        return {"ok": False, "problem": str(error), "next": [], "zone": server.place.zone}
    times = list(islice(parsed.instants(server.clock.wall()), NEXT))
    return {"ok": True, "problem": "", "next": times, "zone": server.place.zone}


# All scenarios


@SCENARIOS.verb(reads=True)
def list_keys(server: Core) -> list[str]:
    """The names of the scenarios."""
    return server.scenarios.list_keys()


@SCENARIOS.verb(reads=True, name="list")
def list_scenarios(server: Core) -> list[dict[str, Any]]:
    """All scenarios with their settings, entries and state; ``show`` has the code."""
    return server.scenarios.list()


@SCENARIOS.verb(reads=True)
def examples(server: Core) -> list[dict[str, Any]]:
    """The examples that come with RasPy, each a document that ``import`` takes."""
    return server.scenarios.examples()


@SCENARIOS.verb(reads=True, name="export")
def export_scenarios(server: Core, *names: str) -> dict[str, Any]:
    """Scenarios, or without names all of them, as one document that ``import`` takes."""
    return server.scenarios.export(list(names))


@SCENARIOS.verb(name="import")
def import_scenarios(server: Core, json: str, replace: str = "") -> Later:
    """Take the scenarios of a document; all of it is checked before anything is changed. Those that are there already
    are refused unless the second argument is ``replace``. Answers their names."""
    if replace not in ("", "replace"):
        raise VerbError(MDP.BAD_REQUEST, f"the second argument is replace, or not there (got {replace[:20]!r})")
    document = decoded(json, dict[str, Any], "the document")
    names = document.get("scenarios")
    return kept(
        server,
        lambda done: server.scenarios.import_(document, replace == "replace", done),
        lambda: sorted(names) if isinstance(names, dict) else [],
    )


@SCENARIOS.verb(reads=True)
def check(server: Core, code: str) -> Later:
    """Whether code can be compiled: ``{"ok": true}``, or the line, the column and what is wrong there."""
    later = Later()
    server.scenarios.check(
        code,
        lambda problem: later.reply(
            {"ok": True}
            if problem is None
            else {"ok": False, "line": problem.line, "column": problem.column, "problem": problem.text}
        ),
    )
    return later


# One scenario


@SCENARIO.verb(reads=True)
def show(server: Core, name: str) -> dict[str, Any]:
    """A scenario: settings, entries, code, and its state."""
    return server.scenarios.show(name)


@SCENARIO.verb(name="set")
def set_scenario(server: Core, name: str, json: str) -> Later:
    """Make a scenario, or change it: ``{"conf": {…}, "entries": {…}, "code": "…"}``, each of which may be left out.
    Answers the whole of it."""
    parts = decoded(json, dict[str, Any], name)
    return kept(
        server,
        lambda done: server.scenarios.change(name, parts, done),
        lambda: server.scenarios.show(name),
    )


@SCENARIO.verb(name="delete")
def delete_scenario(server: Core, name: str) -> Later:
    """Stop a scenario, and have it no more."""
    return kept(server, lambda done: server.scenarios.delete(name, done), lambda: "deleted")


@SCENARIO.verb()
def run(server: Core, name: str) -> str:
    """Run a scenario now, by hand. 409 when it runs already."""
    server.scenarios.run_by_hand(name)
    return "started"


@SCENARIO.verb()
def stop(server: Core, name: str) -> str:
    """Stop a scenario that runs; it is killed when it does not end by itself. Its outputs are let go."""
    server.scenarios.stop(name)
    return "stopping"


@SCENARIO.verb()
def resume(server: Core, name: str) -> Later:
    """Have a scenario that was paused, because it kept failing, act again."""
    return kept(server, lambda done: server.scenarios.resume(name, done), lambda: "resumed")


@SCENARIO.verb()
def enable(server: Core, name: str) -> Later:
    """Have a scenario act by itself."""
    return kept(server, lambda done: server.scenarios.enable(name, True, done), lambda: "enabled")


@SCENARIO.verb()
def disable(server: Core, name: str) -> Later:
    """Stop a scenario, and have it act by hand only."""
    return kept(server, lambda done: server.scenarios.enable(name, False, done), lambda: "disabled")


@SCENARIO.verb(reads=True)
def output(server: Core, name: str) -> dict[str, Any]:
    """What a scenario printed last, and the traceback of its last failure."""
    return server.scenarios.output(name)


# Variables


@VARIABLE.verb(reads=True, name="list")
def list_variables(server: Core) -> dict[str, Any]:
    """All variables: value and time (Unix, s) by name."""
    return server.scenarios.variables()


@VARIABLE.verb(reads=True, name="get")
def get_variable(server: Core, name: str) -> dict[str, Any]:
    """A variable: its value, and when it was set (Unix time, s)."""
    found = server.scenarios.variables().get(name)
    if found is None:
        known = ", ".join(server.scenarios.variables()) or "none"
        raise VerbError(MDP.NOT_FOUND, f"no variable {name[:80]!r}; known are {known[:1000]}")
    return {"value": found["value"], "time": found["time"]}


@VARIABLE.verb(name="set")
def set_variable(server: Core, name: str, json: str) -> Later:
    """Set a variable, which scenarios see, to a number, a text in quotes, true or false."""
    value = decoded(json, bool | int | float | str, name)  # type: ignore[arg-type]
    return kept(
        server,
        lambda done: server.scenarios.set_variable(name, value, done),
        lambda: dict(server.scenarios.variables()[name]),
    )


@VARIABLE.verb(name="delete")
def delete_variable(server: Core, name: str) -> Later:
    """Have a variable no more."""
    return kept(server, lambda done: server.scenarios.delete_variable(name, done), lambda: "deleted")
