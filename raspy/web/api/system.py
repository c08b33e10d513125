"""Servers, clocks, and the requests that Titanic holds."""

from __future__ import annotations

from typing import Any

from raspy.web.api import services
from raspy.web.api.operation import LIST, SERVER, Operations, Page, Parameter, page
from raspy.web.hands import LOOK, SET
from raspy.web.rows import SERVER as SERVER_KEY
from raspy.web.rows import UNREACHABLE
from raspy.web.site import Site
from raspy.web.texts import fields
from raspy.web.visit import Visit

OPERATIONS = Operations("system")

ONE = {"name": SERVER}
REQUEST = {"uuid": Parameter("the id of a request, 32 hexadecimal digits", pattern="[0-9a-f]{32}")}
STATE = {
    "state": Parameter("only those", default="", choices=("", "pending", "parked", "late", "done")),
}


@OPERATIONS.add("GET", "/servers", LIST, answer=Page, asks=False)
def list_servers(site: Site, visit: Visit, limit: int, after: str) -> Page:
    """The servers as they are on the tree: ``name``, ``state``, ``memory`` (bytes), ``restarts`` and more. While the
    bus is not live their state is unknown."""
    snapshot = services.snapshot(site)
    items = []
    for key in snapshot.held:
        if SERVER_KEY.fullmatch(key):
            content = fields(snapshot.held[key].body)
            if not snapshot.live:
                content |= {"state": "unknown", "reason": UNREACHABLE}
            items.append({**content, "name": key.removeprefix("/server/")})
    return page(items, "name", limit, after)


@OPERATIONS.add("GET", "/servers/{name}", ONE)
def server(site: Site, visit: Visit, name: str) -> Any:
    """How a server is, by its own word: state, conditions, uptime in s, memory in bytes, errors, services."""
    return services.call(site, LOOK, name, "mmi", "status")


@OPERATIONS.add("POST", "/servers/{name}/restart", ONE, answer=Any)
def restart_server(site: Site, visit: Visit, name: str) -> Any:
    """Have a server end, and be started again. Outputs go into their safe state meanwhile."""
    return services.call(site, SET, name, "mmi", "restart")


@OPERATIONS.add("GET", "/clock")
def clock(site: Site, visit: Visit) -> Any:
    """The clocks as they were last measured, whether they can be trusted, and who keeps the system clock."""
    return services.ask(site, LOOK, "sync", "time", "status")


@OPERATIONS.add("GET", "/requests", {**STATE, **LIST})
def list_requests(site: Site, visit: Visit, state: str, limit: int, after: str) -> dict[str, Any]:
    """The durable requests that Titanic holds, of the oldest 1000 (``more`` says whether there are others): ``counts``
    by state, and ``items`` by uuid, which is the order in which they came."""
    found = services.ask(site, LOOK, "titanic", "queue", "list", *([state] if state else []))
    found = found if isinstance(found, dict) else {}
    part = page(found.get("requests") or [], "uuid", limit, after)
    return {
        "counts": found.get("counts", {}),
        "more": found.get("more", False),
        "items": part.items,
        "next": part.next,
    }


@OPERATIONS.add("GET", "/requests/{uuid}", REQUEST)
def request(site: Site, visit: Visit, uuid: str) -> Any:
    """All that is known of a request, with its frames and those of its reply."""
    return services.ask(site, LOOK, "titanic", "queue", "info", uuid)


@OPERATIONS.add("POST", "/requests/{uuid}/retry", REQUEST)
def retry_request(site: Site, visit: Visit, uuid: str) -> Any:
    """Have a parked request tried again; 409 when it is not parked."""
    return services.ask(site, SET, "titanic", "queue", "retry", uuid)


@OPERATIONS.add("DELETE", "/requests/{uuid}", REQUEST)
def drop_request(site: Site, visit: Visit, uuid: str) -> Any:
    """Withdraw a request, whatever its state."""
    return services.ask(site, SET, "titanic", "queue", "drop", uuid)


ROUTES = OPERATIONS.routes()
