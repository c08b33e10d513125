"""The broker: Majordomo Protocol (RFC 7/MDP), with the key/value Proxy on the same loop.

Every message from outside may be anything at all. One that is no MDP is dropped and counted; a valid command at the
wrong time gets DISCONNECT and nothing more. A request is held until its reply is sent: when its worker dies it goes
to the next, a bounded number of times. Every queue is bounded in number, bytes and time.
"""

from __future__ import annotations

import errno
import time
from typing import Any, ClassVar

import zmq

from raspy.common import MDP
from raspy.common.config import BusConfig, Config, Section, local_hostname
from raspy.common.executive import Executive, Socket
from raspy.common.statistics import SNMP, SNMPCounter, Statistics
from raspy.common.verbs import json_encode
from raspy.common.zhelpers import receiver, sender
from raspy.servers.broker.mmi import Internal
from raspy.servers.broker.outbox import Outbox
from raspy.servers.broker.presence import Presence
from raspy.servers.broker.proxy import Proxy
from raspy.servers.broker.settings import MESSAGE_LIMIT, BrokerConfig, bind, check_address
from raspy.servers.broker.state import Budget, Request, Service, Worker

BATCH = 200
"""Messages taken before timers and other sockets have their turn."""
NAME_LIMIT = 255
"""Bytes of a service's name."""
FRAME_LIMIT = 1024
"""Frames of one message, the identity included."""
WORKER_LIMIT = 4096
SERVICE_LIMIT = 16_384
PEER_LIMIT = 10_000
"""Messages that libzmq queues for one peer, either way (ZMQ_SNDHWM, ZMQ_RCVHWM)."""
PROBES = (0.0, 0.05, 0.5)
"""Seconds after a connection closed at which the workers are asked for: libzmq forgets a peer a moment later."""


class Broker(Executive, Statistics):
    """Majordomo broker and key/value proxy.

    :param hostname: name of this host on the bus
    :param service: name of this server
    :param broker_ip: address to listen on, or ``ipc://`` and a directory
    :param broker_port: base port: requests; +1 snapshots, +2 updates, +3 collector
    :param settings: the bounds
    """

    CONFIG: ClassVar[type[Section]] = BrokerConfig
    HEARTBEAT_INTERVAL = MDP.HEARTBEAT_INTERVAL
    HEARTBEAT_LIVENESS = MDP.HEARTBEAT_LIVENESS
    HEARTBEAT_EXPIRY = HEARTBEAT_INTERVAL * HEARTBEAT_LIVENESS
    INTERNAL_SERVICE_PREFIX = MDP.INTERNAL_SERVICE_PREFIX

    def __init__(
        self,
        hostname: str = "localhost",
        service: str = "broker",
        broker_ip: str = "127.0.0.1",
        broker_port: int = 5514,
        settings: BrokerConfig | None = None,
    ) -> None:
        Executive.__init__(self, hostname, service, broker_ip, broker_port)
        Statistics.__init__(self)
        self.settings = settings or BrokerConfig()
        self.HEARTBEAT_INTERVAL = self.settings.heartbeat
        self.HEARTBEAT_LIVENESS = self.settings.liveness
        self.HEARTBEAT_EXPIRY = self.HEARTBEAT_INTERVAL * self.HEARTBEAT_LIVENESS
        self.services: dict[bytes, Service] = {}
        self.workers: dict[bytes, Worker] = {}
        self.queued = 0
        """Requests that wait for a worker, over all services."""
        self.budget = Budget(self.settings.queue_bytes)
        self._probing = False
        self._batch = 1
        self._count_statistics()
        self.socket: Socket = self.ctx.socket(zmq.ROUTER)
        self._receive = receiver(self.socket, FRAME_LIMIT + 1)
        self._send = sender(self.socket)
        self.outbox = Outbox(self, self.socket, self.budget)
        self.proxy = Proxy(self, hostname, self.settings)
        self.presence = Presence(self)
        self.internal = Internal(self)

    @classmethod
    def from_config(cls, config: Config) -> Broker:
        """The broker that a configuration describes.

        :raises raspy.common.config.ConfigError: naming file, line and key
        """
        bus = config.section(BusConfig)
        return cls(
            local_hostname(bus),
            broker_ip=bus.broker_ip,
            broker_port=bus.broker_port,
            settings=config.section(BrokerConfig),
        )

    def start(self) -> None:
        """Bind the four sockets.

        :raises raspy.common.config.ConfigError: an address is taken, or must not be listened on
        """
        check_address(self.broker_ip)
        socket = self.socket
        socket.linger = 0
        socket.sndhwm = socket.rcvhwm = PEER_LIMIT
        socket.router_mandatory = True
        socket.setsockopt(zmq.MAXMSGSIZE, MESSAGE_LIMIT)
        monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        bind(socket, self.broker_ip, self.broker_port, MDP.REQUESTS)
        self.register(socket, self._readable)
        self.register(monitor, lambda: self._connection_closed(monitor))
        self.proxy.start()
        self.presence.start()
        self.call_every(self.HEARTBEAT_INTERVAL / 1000, self.send_heartbeats)
        self.call_every(min(1.0, self.HEARTBEAT_INTERVAL / 1000), self.purge_workers)
        self.call_every(5.0, self._tell)
        self._tell()

    def stop(self) -> None:
        """Say goodbye to the workers and close the sockets."""
        for worker in list(self.workers.values()):
            self.send_to_worker(worker, MDP.W_DISCONNECT)
        self.proxy.stop()
        self.socket.disable_monitor()
        self.unregister(self.socket)
        self.socket.close(linger=200)

    def _readable(self) -> None:
        """Take what is there, as far as one can tell without asking: to find nothing costs as much as a request."""
        receive = self._receive
        for count in range(self._batch):
            frames = receive()
            if frames is None:
                self._batch = max(1, count)
                return
            try:
                self._process(frames)
            except Exception as error:
                self.report(error, "a message to the broker")
        if not self.slept:
            self._batch = min(self._batch * 2, BATCH)

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
        request = Request(sender, msg[1:], time.monotonic() + self.settings.request_expiry)
        if name not in self.services and len(self.services) >= SERVICE_LIMIT:
            self._refuse(name, request, "the broker knows too many services")
        else:
            self.dispatch(self.require_service(name), request)

    def service_internal(self, service: bytes, msg: list[bytes]) -> None:
        """Answer a service of the broker itself (RFC 8/MMI); ``msg`` is client, body."""
        self.outbox.send([msg[0], b"", MDP.C_CLIENT, service, *self.internal.answer(service, msg[1:])])

    def ask(self, service: Service, body: list[bytes], on_reply: Any) -> None:
        """Make a request of the broker's own; ``on_reply(frames)`` is called with the reply, if one comes."""
        self.dispatch(service, Request(b"", body, time.monotonic() + self.settings.request_expiry, on_reply))

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
            self._lose(worker, "its connection is gone")
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
        if request.on_reply is not None or request.body[0].startswith(MDP.REQUEST_ID):
            self._answer(service, request, [json_encode(reason), MDP.UNAVAILABLE])

    def _answer(self, service: bytes, request: Request, body: list[bytes]) -> None:
        if request.on_reply is not None:
            request.on_reply(body)
        else:
            self.outbox.send([request.client, b"", MDP.C_CLIENT, service, *body])

    # Workers

    def process_worker(self, sender: bytes, msg: list[bytes]) -> None:
        """Take a worker's message: command, then what belongs to it."""
        command = msg[0]
        worker = self.workers.get(sender)
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
                self._lose(worker, "")
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
        self._lose(worker, reason)

    def _lose(self, worker: Worker, reason: str) -> None:
        service, request = worker.service, worker.request
        if self.workers.pop(worker.address, None) is None or service is None:
            return
        worker.request = None
        service.waiting.pop(worker.address, None)
        service.count -= 1
        self.presence.left(service, reason)
        if request is not None:
            self._again(service, request)
        if service.count == 0:
            service.ours = False
            self._drop_if_unused(service)

    def _again(self, service: Service, request: Request) -> None:
        """A worker died over this request: another gets it, or the client is told."""
        if request.attempts < self.settings.attempts and request.on_reply is None:
            self._redispatched.set()
            self._queue(service, request, first=True)
            self.dispatch(service)
        else:
            reason = f"{request.attempts} workers of {service.name.decode('utf-8', 'replace')} died over this request"
            if request.on_reply is None:
                MDP.logger.warning("request given up: %s", reason)
            self._answer(service.name, request, [json_encode(reason), MDP.ERROR])

    def send_heartbeats(self) -> None:
        """Send a heartbeat to every worker, idle or busy, to which nothing was sent for a while."""
        before = time.monotonic() - self.HEARTBEAT_INTERVAL / 2000
        for worker in list(self.workers.values()):
            if worker.sent < before and not self.send_to_worker(worker, MDP.W_HEARTBEAT):
                self._lose(worker, "its connection closed without a goodbye: it crashed or was killed")

    def purge_workers(self) -> None:
        """Forget the workers that have been silent for too long, and the requests that nobody waits for any more."""
        now = time.monotonic()
        for worker in [w for w in self.workers.values() if w.expiry < now]:
            silent = self.HEARTBEAT_EXPIRY / 1000
            self.delete_worker(worker, True, f"it gave no sign of life for {silent:g} s")
        if not self.queued:
            return
        for service in list(self.services.values()):
            while service.requests and service.requests[0].expiry < now:
                request = service.requests.popleft()
                self.queued -= 1
                self.budget.give(request.size)
                self._refuse(service.name, request, "no worker took the request in its time")
            self._drop_if_unused(service)

    def _drop_if_unused(self, service: Service) -> None:
        if not service.count and not service.requests:
            self.services.pop(service.name, None)

    def _connection_closed(self, monitor: Socket) -> None:
        """Some peer's connection closed; libzmq does not say whose, so the workers are asked for, a few times."""
        for _ in range(BATCH):
            try:
                monitor.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                break
        if not self._probing:
            self._probing = True
            for delay in PROBES:
                self.call_later(delay, self._probe, delay == PROBES[-1])

    def _probe(self, last: bool) -> None:
        self._probing = not last
        for worker in list(self.workers.values()):
            if not self.send_to_worker(worker, MDP.W_HEARTBEAT):
                self._lose(worker, "its connection closed without a goodbye: it crashed or was killed")

    # What an owner sees

    def _count_statistics(self) -> None:
        counter = self._counter
        self._requests = counter("requests", "Requests taken from clients")
        self._malformed = counter("malformed", "Messages dropped because they are no MDP")
        self._surprises = counter("unexpected", "Valid commands at the wrong time, answered with DISCONNECT")
        self._refused = counter("refused", "Requests turned away: queue full or time over")
        self._redispatched = counter("redispatched", "Requests dispatched again because their worker died")
        self._unreachable = counter("unreachable", "Commands to workers that were gone")
        for oid, doc in (
            ("workers", "Workers registered"),
            ("services", "Services known"),
            ("queued", "Requests that wait for a worker"),
            ("replies_dropped", "Replies dropped because their client was gone or did not read them"),
            ("held_bytes", "Memory of waiting requests and replies, in bytes"),
            ("errors", "Unexpected errors, each in the log"),
            ("longest_turn", "Longest turn of the event loop, in ms"),
        ):
            self.add_statistic(SNMP(f"{self.service}.{oid}", doc))

    def _counter(self, oid: str, doc: str) -> SNMPCounter:
        counter = SNMPCounter(f"{self.service}.{oid}", doc)
        self.add_statistic(counter)
        return counter

    def update_statistic(self, oid: str = "") -> None:
        """Bring the values that are counted elsewhere up to date."""
        for name, value in (
            ("workers", len(self.workers)),
            ("services", len(self.services)),
            ("queued", self.queued),
            ("replies_dropped", self.outbox.dropped),
            ("held_bytes", self.budget.used),
            ("errors", self.errors),
            ("longest_turn", round(self.longest_turn * 1000, 1)),
        ):
            self._statistics[f"{self.service}.{name}"].set(value)

    def _tell(self) -> None:
        self.notifier.status(f"{len(self.workers)} workers, {self._requests.value} requests, {self.queued} queued")
