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
from raspy.common.statistics import memory
from raspy.common.verbs import json_encode, shown

if TYPE_CHECKING:
    from raspy.servers.broker.mdp import Broker
    from raspy.servers.broker.state import Service

INTERVAL = 10.0
"""Seconds between two questions to a server, and the time it has for its answer."""
SERVER_LIMIT = 1024
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


TOLD = ("pid", "version", "uptime", "memory", "errors", "last_error", "conditions")
decode_status = msgspec.json.Decoder(Status).decode


def told(status: Status) -> dict[str, Any]:
    """A status as it stands on the tree."""
    return {name: getattr(status, name) for name in TOLD}


class Known:
    """What is known of one server."""

    __slots__ = ("asked", "instance", "last_down", "restarts", "services", "state", "status", "time", "workers")

    def __init__(self) -> None:
        self.state = ""
        self.status: dict[str, Any] = {}
        self.instance = ""
        self.time = time.time()
        self.restarts = 0
        self.last_down: dict[str, Any] | None = None
        self.workers = 0
        self.asked: float | None = None
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

    def start(self) -> None:
        """Begin to ask."""
        self.broker.call_every(INTERVAL, self._ask_all)
        self._publish_own()

    def joined(self, service: Service) -> None:
        """A worker of a service has registered."""
        name = self._server_of(service)
        if name is None:
            self._mark(service)
            return
        known = self.servers.get(name)
        if known is None:
            if len(self.servers) >= SERVER_LIMIT and not self._forget_one():
                return
            known = self.servers[name] = Known()
        known.workers += 1
        self._ask(name, known)

    def left(self, service: Service, reason: str) -> None:
        """A worker of a service is gone; ``reason`` is empty when it said goodbye."""
        name = self._server_of(service)
        known = self.servers.get(name) if name else None
        if name is None or known is None:
            return
        known.workers -= 1
        if known.workers > 0:
            return
        known.asked = None
        known.services = frozenset()
        known.last_down = {"time": time.time(), "reason": reason or "it was stopped"}
        self._change(name, known, "lost" if reason else "stopped", reason or "it was stopped")
        self.broker.proxy.server_gone(name)

    def _server_of(self, service: Service) -> str | None:
        """``<host>.<server>`` of a service ``<host>.<server>.mmi``, None of any other."""
        parts = service.name.decode("ascii", "replace").split(".")
        if len(parts) != 3 or parts[2] != "mmi" or not all(map(ID.fullmatch, parts)):
            return None
        return f"{parts[0]}.{parts[1]}"

    def _mark(self, service: Service) -> None:
        """A service that its server named before its worker registered is marked as ours now."""
        name = service.name.decode("utf-8", "replace")
        known = self.servers.get(".".join(name.split(".")[:2]))
        if known is not None and name in known.services:
            service.ours = True

    def _forget_one(self) -> bool:
        """Make room by forgetting a server that is gone."""
        for name, known in self.servers.items():
            if known.workers <= 0:
                del self.servers[name]
                self.broker.proxy.update(f"/server/{name}", b"")
                self.broker.proxy.update(f"/event/server/{name}", b"")
                return True
        return False

    def _ask_all(self) -> None:
        now = time.monotonic()
        for name, known in self.servers.items():
            if known.workers <= 0:
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
        if known is None or known.workers <= 0:
            return
        known.asked = None
        try:
            if frames[-1] != MDP.OK or len(frames[0]) > STATUS_LIMIT:
                raise MDP.ProtocolError(f"{len(frames)} frames, the last is {shown(frames[-1])}")
            status = decode_status(frames[0])
        except (MDP.ProtocolError, *BAD_BODY) as error:
            if known.state != "silent":
                self._change(name, known, "silent", f"its status is not understood: {error}")
            return
        known.services = frozenset(service for service in status.services if service.startswith(f"{name}."))
        for service_name in known.services:
            service = self.broker.services.get(service_name.encode())
            if service is not None:
                service.ours = True
        restarted = bool(known.instance) and status.instance != known.instance
        if restarted:
            known.restarts += 1
        elif not known.instance and status.uptime > self._uptime() + 1:
            self._broker_was_away()
        known.instance = status.instance
        known.status = told(status)
        state = "degraded" if status.state == "degraded" else "ok"
        reason = "; ".join(status.conditions.values())
        if state != known.state or restarted:
            self._change(name, known, state, reason, "restarted" if restarted else "")
        else:
            self._publish(name, known)

    def _change(self, name: str, known: Known, state: str, reason: str, event: str = "") -> None:
        known.state = state
        known.time = time.time()
        serious = state in ("lost", "silent", "degraded")
        level = logging.WARNING if serious else logging.INFO
        MDP.logger.log(level, "%s is %s%s", name, event or state, f": {reason}" if serious else "")
        self._publish(name, known)
        self._event(name, {"time": known.time, "event": event or ("up" if state == "ok" else state), "reason": reason})

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

    def _broker_was_away(self) -> None:
        """A server was already running when this broker started: the broker was restarted."""
        if self._own.restarts:
            return
        self._own.restarts = 1
        self._own.last_down = {"time": self._own.time, "reason": "the broker started anew; the servers were running"}
        name = f"{self.broker.hostname}.{self.broker.service}"
        self._event(name, {"time": self._own.time, "event": "restarted", "reason": self._own.last_down["reason"]})
        self._publish_own()

    def _event(self, name: str, fields: dict[str, Any]) -> None:
        self.broker.proxy.update(f"/event/server/{name}", json_encode(fields))

    def _publish_own(self) -> None:
        broker, own = self.broker, self._own
        own.state = "degraded" if broker.errors else "ok"
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
