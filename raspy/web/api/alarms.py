"""Alarms, and the definitions of what is watched."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from raspy.web.api import services
from raspy.web.api.operation import ID, LIST, Operations, Page, Parameter, encoded, page
from raspy.web.hands import ALARM, LOOK, SET
from raspy.web.site import Site
from raspy.web.visit import Visit

OPERATIONS = Operations("alarms")

# The name of an alarm has the key's in it, whatever that is.
ALARM_NAME = {
    "name": Parameter("the name of an alarm, or of a definition: all its alarms", pattern=r"[^/\x00-\x1f\x7f]{1,255}")
}
DEFINITION = {"name": ID}
Text = Annotated[str, Meta(max_length=500)]


class Shelve(msgspec.Struct, forbid_unknown_fields=True):
    """For how long an alarm is not told."""

    seconds: Annotated[float, Meta(ge=1, le=86_400, extra_json_schema={"unit": "s"})] = 3600.0


class Definition(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The settings of a definition (see the page on alarms)."""

    kind: Literal[
        "high", "low", "is", "stale", "error", "server", "clock", "disk", "output", "scenario", "notify", "bus"
    ]
    key: Text = ""
    but: Annotated[list[Text], Meta(max_length=20)] = []
    limit: float | None = None
    hysteresis: Annotated[float, Meta(ge=0)] = 0.0
    """In the unit of the value."""
    value: bool | float | Annotated[str, Meta(max_length=255)] | None = None
    delay: Annotated[float, Meta(ge=0, le=86_400, extra={"unit": "s"})] = 0.0
    severity: Literal["info", "warning", "critical"] = "warning"
    label: Annotated[str, Meta(max_length=100)] = ""
    channels: Annotated[list[Text], Meta(max_length=20)] = []
    active: bool = True


def _ask(site: Site, purpose: str, *words: str) -> Any:
    return services.ask(site, purpose, "alarm", "alarms", *words)


@OPERATIONS.add("GET", "/alarms", LIST, answer=Page)
def list_alarms(site: Site, visit: Visit, limit: int, after: str) -> Page:
    """The alarms that are not normal, by name: ``state`` (active, returned, acknowledged, shelved), ``severity``,
    ``since`` (Unix time, s), ``reason`` and more."""
    return page(_ask(site, LOOK, "list"), "name", limit, after)


@OPERATIONS.add("POST", "/alarms/{name}/acknowledge", ALARM_NAME, answer=list[str])
def acknowledge(site: Site, visit: Visit, name: str) -> Any:
    """Say that somebody knows of it. The answer names the alarms of which nobody knew."""
    return _ask(site, ALARM, "acknowledge", name, services.by(visit))


@OPERATIONS.add("POST", "/alarms/{name}/shelve", ALARM_NAME, body=Shelve, answer=list[str])
def shelve(site: Site, visit: Visit, name: str, body: Shelve) -> Any:
    """Have it not told for some time, whatever becomes of it. The answer names the alarms."""
    return _ask(site, ALARM, "shelve", name, f"{body.seconds:.3f}", services.by(visit))


@OPERATIONS.add("POST", "/alarms/{name}/unshelve", ALARM_NAME, answer=list[str])
def unshelve(site: Site, visit: Visit, name: str) -> Any:
    """Have it told again. The answer names the alarms that were shelved."""
    return _ask(site, ALARM, "unshelve", name, services.by(visit))


@OPERATIONS.add("GET", "/definitions", LIST, answer=Page)
def list_definitions(site: Site, visit: Visit, limit: int, after: str) -> Page:
    """What is watched: ``settings``, how much each ``watches``, and a ``note`` when it cannot do what it is for."""
    return page(_ask(site, LOOK, "definitions"), "name", limit, after)


@OPERATIONS.add("GET", "/definitions/{name}", DEFINITION)
def definition(site: Site, visit: Visit, name: str) -> Any:
    """A definition, and its alarms that are not normal."""
    return _ask(site, LOOK, "show", name)


@OPERATIONS.add("PUT", "/definitions/{name}", DEFINITION, body=Definition)
def set_definition(site: Site, visit: Visit, name: str, body: Definition) -> Any:
    """Make a definition, or put other settings in the place of all that it had; the answer is the whole of it."""
    return _ask(site, SET, "set", name, encoded(body))


@OPERATIONS.add("DELETE", "/definitions/{name}", DEFINITION, answer=str)
def delete_definition(site: Site, visit: Visit, name: str) -> Any:
    """Have a definition no more; one that comes with RasPy is as it came again."""
    return _ask(site, SET, "delete", name)


ROUTES = OPERATIONS.routes()
