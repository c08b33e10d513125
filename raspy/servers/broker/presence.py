"""Which servers are there, and how they are: ``/server/<host>.<server>`` on the tree.

The broker sees workers come and go. It asks each server's ``mmi`` service for its status when it registers and at
an interval, so that all which a page needs to know stands on the tree, written by one hand.
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, Any

import msgspec

from raspy import __version__
from raspy.common import MDP
from raspy.common.config import ID
from raspy.common.kvsimple import BAD_BODY
from raspy.common.statistics import memory, supervised
from raspy.common.verbs import json_encode, shown

if TYPE_CHECKING:
    from raspy.servers.broker.broker import Broker
    from raspy.servers.broker.state import Service

INTERVAL = 10.0
"""Seconds between two questions to a server, and the time it has for its answer."""
SERVER_LIMIT = 1024
TWIN_TIME = 1.0
"""Seconds within which a worker that died is noticed: only then a second one of a name counts."""
ERROR_TIME = 600.0
"""Seconds for which an unexpected error of the broker makes it degraded."""
STOPPED = "it was stopped"
STATUS_LIMIT = 16_384
"""Bytes of a server's status."""
MMI = ".mmi"


class Status(msgspec.Struct):
    """What a server answers to ``mmi status``, as far as it is passed on."""

    pid: int = 0
    version: str = ""
    uptime: float = 0.0
    memory: int = 0
    errors: int = 0
    last_error: str = ""
    conditions: dict[str, str] = {}
    state: str = "ok"
    instance: str = ""
    services: list[str] = []
    starts: int = 0
    last_end: str = ""


TOLD = ("pid", "version", "uptime", "memory", "errors", "last_error", "conditions")
decode_status = msgspec.json.Decoder(Status).decode


def told(status: Status) -> dict[str, Any]:
    """A status as it stands on the tree."""
    return {name: getattr(status, name) for name in TOLD}


class Known:
    """What is known of one server."""

    __slots__ = ("asked", "instance", "last_down", "reason", "restarts", "services", "state", "status", "time", "twins")

    def __init__(self) -> None:
        self.state = ""
        self.status: dict[str, Any] = {}
        self.instance = ""
        self.time = time.time()
        self.restarts = 0
        self.last_down: dict[str, Any] | None = None
        self.reason = ""
        self.asked: float | None = None
        self.twins = 0
        """Answers in a row that came while more than one worker had the name."""
        self.services: frozenset[str] = frozenset()
        """The full names of its services, as it told them."""


class Presence:
    """The servers, as the broker sees them.

    :param broker: whose workers they are
    """

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.servers: dict[str, Known] = {}
        self._own = Known()
        self._named: dict[str, str] = {}
        """The servers of services that have no host in their name."""

    def start(self) -> None:
        """Begin to ask."""
        self.broker.call_every(INTERVAL, self._ask_all)
        own = self._own
        starts, last_end = supervised()
        if last_end:
            own.restarts, own.last_down = starts - 1, {"time": own.time, "reason": last_end}
            name = f"{self.broker.hostname}.{self.broker.service}"
            self._event(name, {"time": own.time, "event": "restarted", "reason": last_end})
        self._publish_own()

    def joined(self, service: Service) -> None:
        """A worker of a service has registered."""
        name = self._server_of(service)
        if name is None:
            self._mark(service)
            return
        self.broker.proxy.server_back(name)
        known = self._known(name)
        if known is not None:
            self._ask(name, known)

    def left(self, service: Service, reason: str) -> None:
        """A worker of a service is gone; ``reason`` is empty when it said goodbye."""
        name = self._server_of(service)
        known = self._known(name) if name else None
        if name is None or (known is None and service.count):
            return
        if known is not None and service.count:
            self._ask(name, known)  # it may have been one too many
            return
        if known is not None:
            known.asked = None
            known.services = frozenset()
            reason_told = reason or STOPPED
            known.last_down = {"time": time.time(), "reason": reason_told}
            self._change(name, known, "lost" if reason else "stopped", reason_told)
        self.broker.proxy.server_gone(name)

    def _known(self, name: str) -> Known | None:
        """What is known of a server, with room made for a new one; None when there is no room."""
        known = self.servers.get(name)
        if known is None and (len(self.servers) < SERVER_LIMIT or self._forget_one()):
            known = self.servers[name] = Known()
        return known

    def _workers(self, name: str) -> int:
        service = self.broker.services.get(f"{name}{MMI}".encode())
        return service.count if service is not None else 0

    def _server_of(self, service: Service) -> str | None:
        """``<host>.<server>`` of a service ``<host>.<server>.mmi``, None of any other."""
        parts = service.name.decode("ascii", "replace").split(".")
        if len(parts) != 3 or parts[2] != "mmi" or not all(map(ID.fullmatch, parts)):
            return None
        return f"{parts[0]}.{parts[1]}"

    def _mark(self, service: Service) -> None:
        """A service that its server named before its worker registered is marked as ours now."""
        name = service.name.decode("utf-8", "replace")
        known = self.servers.get(self._named.get(name) or ".".join(name.split(".")[:2]))
        if known is not None and name in known.services:
            service.ours = True

    def _forget_one(self) -> bool:
        """Make room by forgetting a server that is gone."""
        for name in self.servers:
            if not self._workers(name):
                del self.servers[name]
                self.broker.proxy.update(f"/server/{name}", b"")
                self.broker.proxy.update(f"/event/server/{name}", b"")
                return True
        return False

    def _ask_all(self) -> None:
        now = time.monotonic()
        for service in list(self.broker.services.values()):
            name = self._server_of(service) if service.count else None
            known = self._known(name) if name else None
            if name is None or known is None:
                continue
            if known.asked is None:
                self._ask(name, known)
            elif now - known.asked >= INTERVAL and known.state != "silent":
                self._change(name, known, "silent", f"it has not answered for {now - known.asked:.0f} s")
        self._publish_own()

    def _ask(self, name: str, known: Known) -> None:
        service = self.broker.services.get(f"{name}{MMI}".encode())
        if service is not None:
            known.asked = time.monotonic()
            self.broker.ask(service, [b"status"], lambda frames: self._answered(name, frames))

    def _answered(self, name: str, frames: list[bytes]) -> None:
        known = self.servers.get(name)
        workers = self._workers(name)
        if known is None or not workers:
            return
        known.asked = None
        try:
            if frames[-1] != MDP.OK:
                raise MDP.ProtocolError(f"{len(frames)} frames, the last is {shown(frames[-1])}")
            status = decode_status(frames[0])
        except (MDP.ProtocolError, *BAD_BODY) as error:
            self._change(name, known, "degraded", f"its status is not understood: {error}")
            return
        if len(frames[0]) > STATUS_LIMIT:
            # Its services are ours all the same: requests to them need their ids.
            self._take_services(name, known, status.services)
            self._change(name, known, "degraded", f"its status is too long: {len(frames[0])} bytes")
            return
        known.twins = known.twins + 1 if workers > 1 else 0
        if known.twins == 1:
            # One that died may not have been noticed yet.
            self.broker.call_later(TWIN_TIME, self._ask, name, known)
            return
        self._take_services(name, known, status.services)
        if known.twins:
            self._change(name, known, "degraded", f"{workers} servers have this name: stop all but one")
            return
        self._take_status(name, known, status)

    def _take_services(self, name: str, known: Known, services: list[str]) -> None:
        known.services = frozenset(service for service in services if self._may_have(name, service))
        self._named = {service: server for service, server in self._named.items() if server != name}
        self._named.update((service, name) for service in known.services if not service.startswith(f"{name}."))
        for service_name in known.services:
            service = self.broker.services.get(service_name.encode())
            if service is not None:
                service.ours = True

    def _may_have(self, name: str, service: str) -> bool:
        """Whether a server may call a service its own: those under its name, and, of one on the broker's side of the
        door, under the name that it has on every host."""
        host, _, server = name.partition(".")
        return service.startswith(f"{name}.") or (
            service.startswith(f"{server}.") and host not in self.broker.door.keys.values()
        )

    def _take_status(self, name: str, known: Known, status: Status) -> None:
        restarted = bool(known.instance) and status.instance != known.instance
        known.restarts = max(known.restarts + restarted, status.starts - 1)
        if restarted and status.last_end:
            known.last_down = {"time": (known.last_down or {}).get("time", time.time()), "reason": status.last_end}
        # a server that was here before the broker has not come up now
        event = "restarted" if restarted else "" if known.instance or status.uptime < self._uptime() else "found"
        known.instance = status.instance
        known.status = told(status)
        state = "degraded" if status.state == "degraded" else "ok"
        self._change(name, known, state, "; ".join(status.conditions.values()), event)

    def _change(self, name: str, known: Known, state: str, reason: str, event: str = "") -> None:
        """Tell the state; it is an event as well when it is another one than before, unless the broker is new."""
        if (state, reason) == (known.state, known.reason) and not event:
            self._publish(name, known)
            return
        known.state, known.reason = state, reason
        known.time = time.time()
        self._publish(name, known)
        if event == "found" and state == "ok":
            return
        serious = state in ("lost", "silent", "degraded")
        level = logging.WARNING if serious else logging.INFO
        event = "restarted" if event == "restarted" else "up" if state == "ok" else state
        MDP.logger.log(level, "%s is %s%s", name, event, f": {reason}" if serious else "")
        self._event(name, {"time": known.time, "event": event, "reason": reason})

    def _publish(self, name: str, known: Known) -> None:
        head = {
            "state": known.state,
            "time": known.time,
            "as_of": time.time(),
            "restarts": known.restarts,
            "last_down": known.last_down,
        }
        self.broker.proxy.update(f"/server/{name}", json_encode({**head, **known.status}))

    def _uptime(self) -> float:
        return time.monotonic() - self.broker.started

    def _event(self, name: str, fields: dict[str, Any]) -> None:
        self.broker.proxy.update(f"/event/server/{name}", json_encode(fields))

    def _publish_own(self) -> None:
        broker, own = self.broker, self._own
        own.state = "degraded" if time.monotonic() - broker.last_error_at < ERROR_TIME else "ok"
        own.status = told(
            Status(
                pid=os.getpid(),
                version=__version__,
                uptime=round(self._uptime(), 1),
                memory=memory(),
                errors=broker.errors,
                last_error=broker.last_error,
            )
        )
        self._publish(f"{broker.hostname}.{broker.service}", own)
