"""The broker's process: the ROUTER of the Majordomo Protocol and the key/value Proxy on one loop."""

from __future__ import annotations

import os
import resource
import time
from typing import ClassVar

import zmq

from raspy.common import MDP
from raspy.common.config import PORTS, BusConfig, Config, Section, local_hostname
from raspy.common.executive import Socket
from raspy.common.statistics import SNMP
from raspy.common.zhelpers import sender
from raspy.servers.broker.door import Door
from raspy.servers.broker.mdp import FRAME_LIMIT, Majordomo
from raspy.servers.broker.mmi import Internal
from raspy.servers.broker.outbox import Outbox
from raspy.servers.broker.presence import Presence
from raspy.servers.broker.proxy import Proxy
from raspy.servers.broker.rules import may_send
from raspy.servers.broker.settings import MESSAGE_LIMIT, BrokerConfig, check_address
from raspy.servers.broker.state import Budget, Worker

BATCH = 200
"""Messages taken before timers and other sockets have their turn."""
TURN = 0.05
"""Seconds after which they have it in any case."""
PEER_LIMIT = 2_000
"""Messages that libzmq queues for one peer, either way (ZMQ_SNDHWM, ZMQ_RCVHWM)."""
REPLY_SHARE = 4
"""Replies that their clients do not read get this part of ``queue_bytes``, beside it."""
PROBES = (0.0, 0.05, 0.5)
"""Seconds after a connection closed at which the workers are asked for: libzmq forgets a peer a moment later."""
FIGURES = (
    ("workers", "Workers registered"),
    ("services", "Services known"),
    ("queued", "Requests that wait for a worker"),
    ("replies_dropped", "Replies dropped because their client was gone or did not read them"),
    ("held_bytes", "Memory of waiting requests and replies, in bytes"),
    ("refused_handshakes", "Connections from other machines that were not let in"),
    ("refused_messages", "Messages of other machines that their host may not send"),
    ("errors", "Unexpected errors, each in the log"),
    ("longest_turn", "Longest turn of the event loop, in ms"),
)
"""Statistics that are read when they are asked for."""


def inode(path: str) -> tuple[int, int]:
    """Device and inode of a file; zeros when there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


class Broker(Majordomo):
    """Majordomo broker and key/value proxy.

    :param hostname: name of this host on the bus
    :param service: name of this server
    :param broker_ip: address to listen on, or ``ipc://`` and a directory
    :param broker_port: base port: requests; +1 snapshots, +2 updates, +3 collector
    :param settings: the bounds
    """

    CONFIG: ClassVar[type[Section]] = BrokerConfig
    HEARTBEAT_INTERVAL = MDP.HEARTBEAT_INTERVAL
    """Milliseconds between heartbeats."""
    HEARTBEAT_LIVENESS = MDP.HEARTBEAT_LIVENESS
    """Silent intervals after which a worker counts as dead."""
    HEARTBEAT_EXPIRY = HEARTBEAT_INTERVAL * HEARTBEAT_LIVENESS
    """Both together in ms."""
    INTERNAL_SERVICE_PREFIX = MDP.INTERNAL_SERVICE_PREFIX
    """What the names of the broker's own services begin with."""

    def __init__(
        self,
        hostname: str = "localhost",
        service: str = "broker",
        broker_ip: str = "127.0.0.1",
        broker_port: int = 5514,
        settings: BrokerConfig | None = None,
    ) -> None:
        super().__init__(hostname, service, broker_ip, broker_port, settings or BrokerConfig())
        self.HEARTBEAT_INTERVAL = self.settings.heartbeat
        self.HEARTBEAT_LIVENESS = self.settings.liveness
        self.HEARTBEAT_EXPIRY = self.HEARTBEAT_INTERVAL * self.HEARTBEAT_LIVENESS
        self._probing = False
        self._batch = 1
        for oid, doc in FIGURES:
            self.add_statistic(SNMP(f"{self.service}.{oid}", doc))
        self.socket: Socket = self.ctx.socket(zmq.ROUTER)
        self.door = Door(self, self.settings.listen, self.settings.body_bytes)
        self.door.on_revoked = self._revoked
        self._receive = self.door.receiver(self.socket, FRAME_LIMIT + 1, may_send)
        self._send = sender(self.socket)
        self.outbox = Outbox(self, self.socket, Budget(self.settings.queue_bytes // REPLY_SHARE))
        self.proxy = Proxy(self, hostname, self.settings, self.door)
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
        self.door.start()
        # each connection is a descriptor, and the usual soft limit of 1024 is for programs that use select(2)
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        socket = self.socket
        socket.linger = 0
        socket.sndhwm = socket.rcvhwm = PEER_LIMIT
        socket.router_mandatory = True
        socket.setsockopt(zmq.MAXMSGSIZE, MESSAGE_LIMIT)
        self.door.watch(socket, self._connection_closed)
        self.door.bind(socket, MDP.REQUESTS)
        self.register(socket, self._readable)
        self.proxy.start()
        self.presence.start()
        self.call_every(self.HEARTBEAT_INTERVAL / 1000, self.send_heartbeats)
        self.call_every(min(1.0, self.HEARTBEAT_INTERVAL / 1000), self.purge_workers)
        self._files = self._socket_files()
        self.call_every(5.0, self._look_after)
        self._tell()

    def _socket_files(self) -> list[tuple[int, int]]:
        """Device and inode of the sockets' files, of a broker that listens on such; a missing one is (0, 0)."""
        if not self.broker_ip.startswith("ipc://"):
            return []
        return [inode(MDP.endpoint(self.broker_ip, self.broker_port, n).removeprefix("ipc://")) for n in range(PORTS)]

    def _look_after(self) -> None:
        """Tell how it is; and end when nobody can connect any more, so that a new broker is started."""
        self._tell()
        if self._socket_files() != self._files:
            MDP.logger.error("the sockets in %s were removed or replaced: ending, to be started anew", self.broker_ip)
            self.shutdown()

    def stop(self) -> None:
        """Say goodbye to the workers and close the sockets."""
        for worker in list(self.workers.values()):
            self.send_to_worker(worker, MDP.W_DISCONNECT)
        self.proxy.stop()
        self.door.leave(self.socket)
        self.unregister(self.socket)
        self.socket.close(linger=200)
        self.door.stop()

    def reload(self) -> None:
        """Look at the list of keys (SIGHUP)."""
        self.door.reread()

    def _revoked(self, keys: set[str]) -> None:
        self.silence(keys)
        self.proxy.shares.revoked(set(self.door.keys.values()))

    def _readable(self) -> None:
        """Take what is there, as far as one can tell without asking: to find nothing costs as much as a request."""
        receive = self._receive
        end = time.monotonic() + TURN
        for count in range(self._batch):
            frames = receive()
            if frames is None:
                self._batch = max(1, count)
                return
            try:
                self._process(frames)
            except Exception as error:
                self.report(error, "a message to the broker")
            if time.monotonic() > end:
                return
        if not self.slept:
            self._batch = min(self._batch * 2, BATCH)

    def send_heartbeats(self) -> None:
        """Send a heartbeat to every worker, idle or busy, to which nothing was sent for a while."""
        before = time.monotonic() - self.HEARTBEAT_INTERVAL / 2000
        self._beat([worker for worker in self.workers.values() if worker.sent < before])

    def _beat(self, workers: list[Worker]) -> None:
        """Send them a heartbeat; those to whom that is not possible are gone."""
        gone = [worker for worker in workers if not self.send_to_worker(worker, MDP.W_HEARTBEAT)]
        self._lose(gone, "its connection closed without a goodbye: it crashed or was killed")

    def purge_workers(self) -> None:
        """Forget the workers that have been silent for too long, and the requests that nobody waits for any more."""
        now = time.monotonic()
        silent = [worker for worker in self.workers.values() if worker.expiry < now]
        for worker in silent:
            self.send_to_worker(worker, MDP.W_DISCONNECT)
        self._lose(silent, f"it gave no sign of life for {self.HEARTBEAT_EXPIRY / 1000:g} s")
        if not self.queued:
            return
        # Not only at the head: a request may have less time than those before it.
        for service, request in self._withdraw(lambda request: request.expiry < now):
            self._refuse(service.name, request, "no worker took the request in its time")

    def _connection_closed(self) -> None:
        """Some peer's connection closed; libzmq does not say whose, so the workers are asked for, a few times."""
        if not self._probing:
            self._probing = True
            for delay in PROBES:
                self.call_later(delay, self._probe, delay == PROBES[-1])

    def _probe(self, last: bool) -> None:
        self._probing = not last
        self._beat(list(self.workers.values()))

    def update_statistic(self, oid: str = "") -> None:
        """Bring the values that are counted elsewhere up to date."""
        for name, value in (
            ("workers", len(self.workers)),
            ("services", len(self.services)),
            ("queued", self.queued),
            ("replies_dropped", self.outbox.dropped),
            ("held_bytes", self.budget.used + self.outbox.budget.used),
            ("refused_handshakes", self.door.refused_handshakes),
            ("refused_messages", self.door.refused_messages),
            ("errors", self.errors),
            ("longest_turn", round(self.longest_turn * 1000, 1)),
        ):
            self._statistics[f"{self.service}.{name}"].set(value)

    def _tell(self) -> None:
        self.notifier.status(f"{len(self.workers)} workers, {self._requests.value} requests, {self.queued} queued")
