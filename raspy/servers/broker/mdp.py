"""The Majordomo Protocol (RFC 7/MDP), as the broker speaks it.

Every message from outside may be anything at all. One that is no MDP is dropped and counted; a valid command at the
wrong time gets DISCONNECT and nothing more. A request is held until its reply is sent: when its worker dies it goes
to the next, a bounded number of times. Every queue is bounded in number, bytes and time.
"""

from __future__ import annotations

import errno
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import zmq

from raspy.common import MDP
from raspy.common.executive import Executive
from raspy.common.statistics import SNMPCounter, Statistics
from raspy.common.verbs import json_encode
from raspy.servers.broker.door import REVOKED, Door
from raspy.servers.broker.mmi import Internal
from raspy.servers.broker.outbox import Outbox
from raspy.servers.broker.presence import Presence
from raspy.servers.broker.settings import BrokerConfig
from raspy.servers.broker.state import Budget, Request, Service, Worker

NAME_LIMIT = 255
"""Bytes of a service's name."""
FRAME_LIMIT = 1024
"""Frames of one message, the identity included."""
WORKER_LIMIT = 4096
SERVICE_LIMIT = 16_384
COMMAND_LIFETIME = 30.0
"""Seconds for which a command to a device may wait that does not say itself for how long."""


class Majordomo(Executive, Statistics):
    """The protocol: what a broker does with each message. What it is made of, and its sockets, are the
    :class:`~raspy.servers.broker.broker.Broker`'s."""

    HEARTBEAT_EXPIRY = MDP.HEARTBEAT_INTERVAL * MDP.HEARTBEAT_LIVENESS
    settings: BrokerConfig
    outbox: Outbox
    presence: Presence
    internal: Internal
    door: Door
    _send: Callable[[list[bytes]], None]
    """Sends a message on the ROUTER, or raises ``zmq.ZMQError``: EAGAIN, EHOSTUNREACH."""

    def __init__(self, hostname: str, service: str, broker_ip: str, broker_port: int, settings: BrokerConfig) -> None:
        Executive.__init__(self, hostname, service, broker_ip, broker_port)
        Statistics.__init__(self)
        self.settings = settings
        self.services: dict[bytes, Service] = {}
        self.workers: dict[bytes, Worker] = {}
        self.queued = 0
        """Requests that wait for a worker, over all services."""
        self.budget = Budget(settings.queue_bytes)
        counter = self._counter
        self._requests = counter("requests", "Requests taken from clients")
        self._malformed = counter("malformed", "Messages dropped because they are no MDP")
        self._surprises = counter("unexpected", "Valid commands at the wrong time, answered with DISCONNECT")
        self._refused = counter("refused", "Requests turned away: queue full or time over")
        self._redispatched = counter("redispatched", "Requests dispatched again because their worker died")
        self._unreachable = counter("unreachable", "Commands to workers that were gone")

    def _counter(self, oid: str, doc: str) -> SNMPCounter:
        return self.add_statistic(SNMPCounter(f"{self.service}.{oid}", doc))

    def _process(self, frames: list[bytes]) -> None:
        if len(frames) < 4 or frames[1] or len(frames) > FRAME_LIMIT:
            self._malformed.set()
        elif frames[2] == MDP.C_CLIENT:
            self.process_client(frames[0], frames[3:])
        elif frames[2] == MDP.W_WORKER:
            self.process_worker(frames[0], frames[3:])
        else:
            self._malformed.set()

    # Clients

    def process_client(self, sender: bytes, msg: list[bytes]) -> None:
        """Take a client's message: service, body."""
        name = msg[0]
        if len(msg) < 2 or not 0 < len(name) <= NAME_LIMIT:
            self._malformed.set()
            return
        self._requests.set()
        if name.startswith(b"mmi."):
            self.service_internal(name, [sender, *msg[1:]])
            return
        request = Request(sender, msg[1:], time.monotonic() + self._time_for(name, msg[1:]), key=self.door.speaker)
        if name not in self.services and len(self.services) >= SERVICE_LIMIT:
            self._refuse(name, request, "the broker knows too many services")
        else:
            self.dispatch(self.require_service(name), request)

    def _time_for(self, service: bytes, body: list[bytes]) -> float:
        """Seconds for which a request may wait: those that it says itself, when they are fewer."""
        lifetime = self._lifetime(body[0])
        longest = self.settings.request_expiry
        if body[0] == b"exec" and service.endswith(b".devices"):
            # It says nothing, and may turn something on.
            lifetime = COMMAND_LIFETIME
        return longest if lifetime is None else min(lifetime, longest)

    @staticmethod
    def _lifetime(frame: bytes) -> float | None:
        """Seconds within which a request says itself that it must begin."""
        parsed = MDP.parse_id(frame) if len(frame) > MDP.REQUEST_ID_LENGTH else None
        return None if parsed is None else parsed[1]

    def service_internal(self, service: bytes, msg: list[bytes]) -> None:
        """Answer a service of the broker itself (RFC 8/MMI); ``msg`` is client, body."""
        self.outbox.send(
            [msg[0], b"", MDP.C_CLIENT, service, *self.internal.answer(service, msg[1:])], self.door.speaker
        )

    def ask(self, service: Service, body: list[bytes], on_reply: Any) -> None:
        """Make a request of the broker's own, before all others; ``on_reply(frames)`` gets what comes of it."""
        request = Request(b"", body, time.monotonic() + self.settings.request_expiry, on_reply)
        if service.waiting:
            self._assign(service, request)
        else:
            self._queue(service, request, first=True)

    def require_service(self, name: bytes) -> Service:
        """The service of a name, made when there is none."""
        service = self.services.get(name)
        if service is None:
            service = self.services[name] = Service(name)
        return service

    def dispatch(self, service: Service, msg: Request | None = None) -> None:
        """Give requests to idle workers, as far as both go; ``msg`` is one more request."""
        if msg is not None:
            if service.waiting and not service.requests:
                self._assign(service, msg)
                return
            self._queue(service, msg)
        while service.waiting and service.requests:
            request = service.requests.popleft()
            self.queued -= 1
            self.budget.give(request.size)
            if request.expiry < time.monotonic():
                self._refuse(service.name, request, "no worker took the request in its time")
            else:
                self._assign(service, request)

    def _assign(self, service: Service, request: Request) -> None:
        """Give a request to an idle worker; when they all turn out to be gone it waits again."""
        while service.waiting:
            _, worker = service.waiting.popitem(last=False)
            worker.request = request
            request.attempts += 1
            if self._to_worker(
                worker, [worker.address, b"", MDP.W_WORKER, MDP.W_REQUEST, request.client, b"", *request.body]
            ):
                return
            worker.request = None
            request.attempts -= 1
            self._lose([worker], "its connection is gone")
        self._queue(service, request, first=True)

    def _queue(self, service: Service, request: Request, first: bool = False) -> None:
        full = len(service.requests) >= self.settings.queue_requests
        if not self.budget.take(request.size, force=first, unless=full and not first):
            reason = f"{len(service.requests)} requests wait for it" if full else "the broker's memory is full"
            self._refuse(service.name, request, reason)
            self._drop_if_unused(service)
            return
        self.services[service.name] = service  # the loss of its last worker may just have removed it
        (service.requests.appendleft if first else service.requests.append)(request)
        self.queued += 1

    def _refuse(self, service: bytes, request: Request, reason: str) -> None:
        """Turn a request away. Our own clients are told; to a foreign one any frame would look like the service's."""
        self._refused.set()
        ours = request.body[0].startswith(MDP.REQUEST_ID) or request.client.startswith(MDP.REQUEST_ID)
        if request.on_reply is not None or ours:
            self._answer(service, request, refusal(service, reason, MDP.UNAVAILABLE))

    def _answer(self, service: bytes, request: Request, body: list[bytes]) -> None:
        if request.on_reply is not None:
            request.on_reply(body)
        elif not request.key or request.key in self.door.keys:
            self.outbox.send([request.client, b"", MDP.C_CLIENT, service, *body], request.key)

    # Workers

    def process_worker(self, sender: bytes, msg: list[bytes]) -> None:
        """Take a worker's message: command, then what belongs to it."""
        command = msg[0]
        worker = self.workers.get(sender)
        if worker is not None and worker.key != self.door.speaker:
            self._lose([worker], "another host has taken its address")
            worker = None
        if command == MDP.W_REPLY:
            if len(msg) < 4 or msg[2]:
                self._malformed.set()
            elif worker is None or worker.request is None or worker.request.client != msg[1]:
                self._unexpected(sender, worker)
            else:
                self._replied(worker, msg[3:])
        elif command == MDP.W_HEARTBEAT:
            if worker is None:
                self._unexpected(sender, worker)
            else:
                worker.expiry = time.monotonic() + self.HEARTBEAT_EXPIRY / 1000
        elif command == MDP.W_READY:
            if len(msg) < 2 or not 0 < len(msg[1]) <= NAME_LIMIT:
                self._malformed.set()
            elif worker is not None or msg[1].startswith(b"mmi.") or len(self.workers) >= WORKER_LIMIT:
                self._unexpected(sender, worker)
            else:
                self._ready(sender, msg[1])
        elif command == MDP.W_DISCONNECT:
            if worker is not None:
                self._lose([worker], "")
        elif command == MDP.W_REQUEST:
            self._unexpected(sender, worker)
        else:
            self._malformed.set()

    def require_worker(self, address: bytes) -> Worker:
        """The worker of an address, made when there is none."""
        worker = self.workers.get(address)
        if worker is None:
            worker = self.workers[address] = Worker(address.hex(), address, self.HEARTBEAT_EXPIRY / 1000)
            worker.expiry += time.monotonic()
        return worker

    def _ready(self, address: bytes, name: bytes) -> None:
        worker = self.require_worker(address)
        worker.key = self.door.speaker
        service = self.require_service(name)
        worker.service = service
        service.count += 1
        self.worker_waiting(worker)
        self.presence.joined(service)

    def worker_waiting(self, worker: Worker) -> None:
        """The worker is idle now; what waits for it is dispatched."""
        service = worker.service
        if service is not None:
            worker.expiry = time.monotonic() + self.HEARTBEAT_EXPIRY / 1000
            service.waiting[worker.address] = worker
            if service.requests:
                self.dispatch(service)

    def _replied(self, worker: Worker, body: list[bytes]) -> None:
        """Pass a reply on. The worker gets its next request first: it works while its reply travels."""
        request, worker.request = worker.request, None
        self.worker_waiting(worker)
        if request is not None and worker.service is not None:
            self._answer(worker.service.name, request, body)

    def _unexpected(self, address: bytes, worker: Worker | None) -> None:
        """A valid command at the wrong time: the worker is told to start anew."""
        self._surprises.set()
        if worker is not None:
            self.delete_worker(worker, True)
            return
        try:
            self._send([address, b"", MDP.W_WORKER, MDP.W_DISCONNECT])
        except zmq.ZMQError:
            self._unreachable.set()

    def send_to_worker(
        self, worker: Worker, command: bytes, option: bytes | None = None, msg: list[bytes] | None = None
    ) -> bool:
        """Send a command to a worker; False when its connection is gone."""
        frames = [worker.address, b"", MDP.W_WORKER, command]
        if option is not None:
            frames.append(option)
        return self._to_worker(worker, frames + (msg or []))

    def _to_worker(self, worker: Worker, frames: list[bytes]) -> bool:
        worker.sent = time.monotonic()
        try:
            self._send(frames)
        except zmq.ZMQError as error:
            # EAGAIN: it left thousands of messages unread, which is as good as gone
            if error.errno not in (errno.EHOSTUNREACH, errno.EAGAIN):
                raise
            return False
        return True

    def delete_worker(self, worker: Worker, disconnect: bool, reason: str = "it broke the protocol") -> None:
        """Forget a worker; the request that it held goes to another.

        :param disconnect: tell it so
        :param reason: for the record; empty: it said goodbye
        """
        if disconnect:
            self.send_to_worker(worker, MDP.W_DISCONNECT)
        self._lose([worker], reason)

    def _lose(self, workers: Iterable[Worker], reason: str) -> None:
        """Forget workers, and only then give to others what they held: those of a process are lost together."""
        left: list[tuple[Service, Request | None]] = []
        for worker in workers:
            service, request = worker.service, worker.request
            if self.workers.pop(worker.address, None) is None or service is None:
                continue
            worker.request = None
            service.waiting.pop(worker.address, None)
            service.count -= 1
            self.presence.left(service, reason)
            left.append((service, request))
        for service, request in left:
            if request is not None:
                self._again(service, request)
        for service, _ in left:
            if service.count == 0:
                service.ours = False
                self._drop_if_unused(service)

    def silence(self, keys: set[str]) -> None:
        """Forget workers, requests and replies of hosts whose keys are revoked."""
        self._lose([worker for worker in self.workers.values() if worker.key in keys], REVOKED)
        self._withdraw(lambda request: request.key in keys)
        self.outbox.silence(keys)

    def _withdraw(self, unwanted: Callable[[Request], bool]) -> list[tuple[Service, Request]]:
        """Take waiting requests out of their queues, wherever they stand in them; answers which."""
        taken: list[tuple[Service, Request]] = []
        for service in list(self.services.values()):
            found = [request for request in service.requests if unwanted(request)]
            if found:
                service.requests = deque(request for request in service.requests if not unwanted(request))
            for request in found:
                self.queued -= 1
                self.budget.give(request.size)
                taken.append((service, request))
            self._drop_if_unused(service)
        return taken

    def _again(self, service: Service, request: Request) -> None:
        """A worker died over this request: another gets it, or the client is told."""
        if request.attempts < self.settings.attempts and request.on_reply is None:
            self._redispatched.set()
            if self._lifetime(request.body[0]) is None:
                # It did not expire while it was taken; now it waits anew.
                request.expiry = time.monotonic() + self.settings.request_expiry
            self._queue(service, request, first=True)
            self.dispatch(service)
        else:
            reason = f"{request.attempts} workers of {service.name.decode('utf-8', 'replace')} died over this request"
            if request.on_reply is None:
                MDP.logger.warning("request given up: %s", reason)
            self._answer(service.name, request, refusal(service.name, reason, MDP.ERROR))

    def _drop_if_unused(self, service: Service) -> None:
        if not service.count and not service.requests:
            self.services.pop(service.name, None)


def refusal(service: bytes, reason: str, status: bytes) -> list[bytes]:
    """The broker's own answer in the place of a worker's: a reason as JSON, then a status.

    Those of the services of RFC 9/TSP have their status in front, and 500 is the only one for trouble.
    """
    if service in MDP.STATUS_FIRST:
        return [MDP.ERROR + b" " + reason.encode("ascii", "backslashreplace")]
    return [json_encode(reason), status]
