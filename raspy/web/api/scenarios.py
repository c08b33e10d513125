"""Scenarios, and the variables that they share."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from raspy.web.api import services
from raspy.web.api.operation import ID, LIST, NAME, Operations, Page, Parameter, encoded, page
from raspy.web.hands import LOOK, SET
from raspy.web.site import Site
from raspy.web.visit import Visit

OPERATIONS = Operations("scenarios")

ONE = {"name": ID}
DOCUMENT_BYTES = 1_000_000
Code = Annotated[str, Meta(max_length=200_000)]


class Scenario(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The parts of a scenario; what is left out stays, or is empty in a new one."""

    conf: dict[str, Any] | UnsetType = UNSET
    """Its settings: active, startup, schedule, label and others."""
    entries: dict[str, Any] | UnsetType = UNSET
    """Keys of the tree by friendly names."""
    code: Code | UnsetType = UNSET
    """Python."""


class Check(msgspec.Struct, forbid_unknown_fields=True):
    """Code to be checked."""

    code: Code


class Checked(msgspec.Struct):
    """Whether code compiles, and else where not."""

    ok: bool
    line: int = 0
    column: int = 0
    problem: str = ""


class Import(msgspec.Struct, forbid_unknown_fields=True):
    """Scenarios to be taken."""

    document: dict[str, Any]
    """As an export has it."""
    replace: bool = False
    """Whether those that are there already are replaced."""


class Value(msgspec.Struct, forbid_unknown_fields=True):
    """What a variable is set to."""

    value: bool | float | Annotated[str, Meta(max_length=2000)]


class Variable(msgspec.Struct):
    """A variable."""

    value: bool | float | str
    time: float
    """When it was set; Unix time, s."""


def _one(site: Site, purpose: str, *words: str) -> Any:
    return services.ask(site, purpose, "core", "scenario", *words)


def _all(site: Site, purpose: str, *words: str) -> Any:
    return services.ask(site, purpose, "core", "scenarios", *words)


@OPERATIONS.add("GET", "/scenarios", LIST, answer=Page)
def list_scenarios(site: Site, visit: Visit, limit: int, after: str) -> Page:
    """The scenarios with their settings, entries and state; without their code."""
    return page(_all(site, LOOK, "list"), "name", limit, after)


@OPERATIONS.add("GET", "/scenarios/{name}", ONE)
def scenario(site: Site, visit: Visit, name: str) -> Any:
    """All of a scenario: settings, entries, code, and its state."""
    return _one(site, LOOK, "show", name)


@OPERATIONS.add("PUT", "/scenarios/{name}", ONE, body=Scenario)
def set_scenario(site: Site, visit: Visit, name: str, body: Scenario) -> Any:
    """Make a scenario, or change the parts of one that are given; the answer is the whole of it. Code that does not
    compile is refused, with the line."""
    return _one(site, SET, "set", name, encoded(body))


@OPERATIONS.add("DELETE", "/scenarios/{name}", ONE, answer=str)
def delete_scenario(site: Site, visit: Visit, name: str) -> Any:
    """Stop a scenario, and have it no more."""
    return _one(site, SET, "delete", name)


@OPERATIONS.add("POST", "/scenarios/{name}/run", ONE, answer=str)
def run_scenario(site: Site, visit: Visit, name: str) -> Any:
    """Run a scenario now, by hand; 409 when it runs already."""
    return _one(site, SET, "run", name)


@OPERATIONS.add("POST", "/scenarios/{name}/stop", ONE, answer=str)
def stop_scenario(site: Site, visit: Visit, name: str) -> Any:
    """Stop a scenario that runs. Its outputs are let go."""
    return _one(site, SET, "stop", name)


@OPERATIONS.add("POST", "/scenarios/{name}/enable", ONE, answer=str)
def enable_scenario(site: Site, visit: Visit, name: str) -> Any:
    """Have a scenario act by itself."""
    return _one(site, SET, "enable", name)


@OPERATIONS.add("POST", "/scenarios/{name}/disable", ONE, answer=str)
def disable_scenario(site: Site, visit: Visit, name: str) -> Any:
    """Stop a scenario, and have it act by hand only."""
    return _one(site, SET, "disable", name)


@OPERATIONS.add("POST", "/scenarios/{name}/resume", ONE, answer=str)
def resume_scenario(site: Site, visit: Visit, name: str) -> Any:
    """Have a scenario that was paused, because it kept failing, act again."""
    return _one(site, SET, "resume", name)


@OPERATIONS.add("GET", "/scenarios/{name}/output", ONE)
def scenario_output(site: Site, visit: Visit, name: str) -> Any:
    """What a scenario printed last, and the traceback of its last failure."""
    return _one(site, LOOK, "output", name)


@OPERATIONS.add("POST", "/check/scenario", body=Check, answer=Checked)
def check_scenario(site: Site, visit: Visit, body: Check) -> Any:
    """Whether code compiles."""
    return _all(site, LOOK, "check", body.code)


NAMES = {
    "names": Parameter(
        "names with commas between; left out: all", default="", pattern=rf"(?:{NAME}(?:,{NAME}){{0,49}})?"
    )
}


@OPERATIONS.add("GET", "/export/scenarios", NAMES)
def export_scenarios(site: Site, visit: Visit, names: str) -> Any:
    """Scenarios as one document, to be imported elsewhere. They are not active in it."""
    return _all(site, LOOK, "export", *(name for name in names.split(",") if name))


@OPERATIONS.add("POST", "/import/scenarios", body=Import, answer=list[str], most_bytes=DOCUMENT_BYTES)
def import_scenarios(site: Site, visit: Visit, body: Import) -> Any:
    """Take the scenarios of a document, all or none. The answer names them."""
    return _all(site, SET, "import", encoded(body.document), *(["replace"] if body.replace else []))


@OPERATIONS.add("GET", "/variables", LIST, answer=Page)
def list_variables(site: Site, visit: Visit, limit: int, after: str) -> Page:
    """The variables: ``name``, ``value`` and ``time`` (Unix, s)."""
    found = services.ask(site, LOOK, "core", "variable", "list")
    items = [{**each, "name": name} for name, each in found.items()] if isinstance(found, dict) else []
    return page(items, "name", limit, after)


@OPERATIONS.add("GET", "/variables/{name}", ONE, answer=Variable)
def variable(site: Site, visit: Visit, name: str) -> Any:
    """A variable."""
    return services.ask(site, LOOK, "core", "variable", "get", name)


@OPERATIONS.add("PUT", "/variables/{name}", ONE, body=Value)
def set_variable(site: Site, visit: Visit, name: str, body: Value) -> Any:
    """Set a variable; the answer is what it was set to, and when."""
    return services.ask(site, SET, "core", "variable", "set", name, encoded(body.value))


@OPERATIONS.add("DELETE", "/variables/{name}", ONE, answer=str)
def delete_variable(site: Site, visit: Visit, name: str) -> Any:
    """Have a variable no more."""
    return services.ask(site, SET, "core", "variable", "delete", name)


ROUTES = OPERATIONS.routes()
