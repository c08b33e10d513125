"""``/api/v1/tree``: all that is on the tree, as it is."""

from __future__ import annotations

import base64
import time
from typing import Any

import msgspec

from raspy.web.api.operation import Operations
from raspy.web.rows import UNREACHABLE
from raspy.web.site import Site
from raspy.web.texts import fields
from raspy.web.visit import Visit

OPERATIONS = Operations("tree")


class Tree(msgspec.Struct):
    """All that is on the tree."""

    time: float
    """Unix, s."""
    version: str
    """Another one after every change."""
    bus: str
    """``live``, ``connecting`` or ``lost``."""
    tree: dict[str, dict[str, Any]]


@OPERATIONS.add("GET", "/tree", answer=Tree, asks=False)
def tree(site: Site, visit: Visit) -> Tree:
    """The whole tree: each key's body as JSON (``body``), ``text`` or ``base64``, and the ``age`` of its time in s."""
    snapshot = site.board.ask(site.board.snapshot)
    now = time.monotonic()
    entries = {}
    for key in sorted(snapshot.held):
        held = snapshot.held[key]
        age = held.age_at(now)
        entries[key] = {"age": None if age is None else round(age, 3), **body(key, held.body, snapshot.live)}
    return Tree(time.time(), snapshot.version, snapshot.bus, entries)


def body(key: str, content: bytes, live: bool) -> dict[str, Any]:
    """A body as the API gives it. A reading that cannot be current has its number under ``last`` alone."""
    if key.startswith("/device/") and not live:
        reading = fields(content)
        if reading.get("quality") == "ok":
            reading["last"] = reading.pop("value", None)
            return {"body": {**reading, "quality": "stale", "reason": UNREACHABLE}}
    try:
        text = content.decode()
        msgspec.json.decode(content)
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(content).decode()}
    except (msgspec.DecodeError, RecursionError):
        return {"text": text}
    return {"body": msgspec.Raw(content)}


ROUTES = OPERATIONS.routes()
