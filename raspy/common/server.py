"""The mother class of the servers: an event loop, statistics, and services on the bus.

A method ``worker_<name>`` returns the :class:`~raspy.common.verbs.Verbs` of the service
``<hostname>.<server>.<name>``. Nothing else is needed to declare a service.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, ClassVar, Self

from raspy import __version__
from raspy.common import MDP
from raspy.common.backup.parts import Part
from raspy.common.config import BusConfig, Config, Section, local_hostname
from raspy.common.directories import state_directory
from raspy.common.executive import Executive
from raspy.common.kvcliapi import KvPublisher
from raspy.common.log import KEPT_RECORDS, RECENT
from raspy.common.mdwrkapi import Reply
from raspy.common.outbox import is_left
from raspy.common.slots import Slots
from raspy.common.statistics import SNMP, SNMPCounter, Statistics, memory, supervised
from raspy.common.verbs import Later, VerbError, Verbs, json_encode, whole

if TYPE_CHECKING:
    from raspy.common.backup.desk import Desk
    from raspy.common.outbox.outbox import Outbox

MEMORY_REPLIES = 256
"""Replies of acting verbs kept for repeats of their request."""
MEMORY_BYTES = 512 * 1024
"""Bytes that those replies may take together."""
BROKER_PATIENCE = 3.0
"""Seconds that the broker may be away before it is reported."""

TELL_AGAIN = 5.0
"""Seconds after which the status line is told anew, where it has changed."""

CONDITIONS, CONDITION = 20, 500
"""Conditions that are told, and characters of each: what the broker passes on is bounded."""

MMI = Verbs("mmi")


class Server(Executive, Statistics):
    """The generic server.

    :param hostname: name of this host on the bus
    :param service: name of this server
    :param broker_ip: the broker's address, or ``ipc://`` and a directory
    :param broker_port: the broker's base port
    """

    CONFIG: ClassVar[type[Section]] = Section
    """The section of the configuration that is this server's own."""
    KEEPS: ClassVar[tuple[Part, ...]] = ()
    """What of its state directory is in a backup."""

    def __init__(
        self,
        hostname: str = "localhost",
        service: str = "worker",
        broker_ip: str = "127.0.0.1",
        broker_port: int = 5514,
    ) -> None:
        Executive.__init__(self, hostname, service, broker_ip, broker_port)
        Statistics.__init__(self)
        self.conditions: dict[str, str] = {}
        """What is wrong now, by name: reported states, not reasons to die."""
        self.publisher: KvPublisher | None = None
        self.desk: Desk | None = None
        self.outbox: Outbox | None = None
        """Readings that nobody could take; made as soon as there is one to be kept."""
        self.outbox_rows = 0
        """How many of them are kept at most; 0: none."""
        self._offered: list[Slots] = []
        self._memory = ReplyMemory()
        self._requests = self.add_statistic(SNMPCounter(f"{service}.requests", "Requests taken"))
        self._refused = self.add_statistic(
            SNMPCounter(f"{service}.refused", "Requests answered with another status than 200")
        )
        self.add_statistic(SNMP(f"{service}.errors", "Unexpected errors, each in the log"))
        self.add_statistic(SNMP(f"{service}.longest_turn", "Longest turn of the event loop, in ms", 0.0))
        self.add_statistic(SNMP(f"{service}.hung", "Threads whose call has not come back in its time"))

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """The server that a configuration describes.

        :raises raspy.common.config.ConfigError: naming file, line and key
        """
        bus = config.section(BusConfig)
        made = cls._configured(
            {"hostname": local_hostname(bus), "broker_ip": bus.broker_ip, "broker_port": bus.broker_port},
            config.section(cls.CONFIG),
        )
        made.outbox_rows = bus.outbox_rows
        return made

    @classmethod
    def _configured(cls, bus: dict[str, Any], settings: Any) -> Self:
        """Make the instance. One with a section is called as that is, and has the section's values as ``settings``; to
        be overridden by a class whose constructor takes something else."""
        if not cls.CONFIG.SECTION:
            return cls(**bus)
        made = cls(service=cls.CONFIG.SECTION, **bus)
        made.settings = settings  # type: ignore[attr-defined]
        return made

    @property
    def name(self) -> str:
        """``<hostname>.<server>``, the server's name on the bus."""
        return MDP.routing_key(self.hostname, self.service)

    def start(self) -> None:
        """Register the services and open the channel to the tree."""
        self.publisher = KvPublisher(self)
        self.publisher.on_epoch = self._broker_restarted
        self.publisher.on_connected = self._broker_connected
        self.call_later(BROKER_PATIENCE, self._miss_broker)
        if self.outbox_rows:
            self.publisher.on_reading = self._keep_reading
            if is_left(state_directory(self.service)):
                self._make_outbox()
        if self.KEEPS:
            from raspy.common.backup.desk import Desk

            self.desk = Desk(self)
            self.desk.start()
        address = MDP.endpoint(self.broker_ip, self.broker_port)
        for verbs in self._worker_verbs():
            service = self.service_name(verbs).encode()
            self._offered.append(Slots(self, address, service, self._take(verbs), verbs.slots))
        self._tell()
        self.call_every(TELL_AGAIN, self._tell)

    def stop(self) -> None:
        """Leave the bus."""
        if self.outbox is not None:
            self.outbox.stop()
        for slots in self._offered:
            slots.close()
        self._offered.clear()
        if self.publisher is not None:
            self.publisher.close()

    def publish(self, key: str, value: Any) -> None:
        """Put a value on the tree; it is sent again when the Proxy starts anew.

        :param value: bytes as they are (empty: delete the key), anything else as JSON
        """
        if self.publisher is not None:
            self.publisher.send(key, value if isinstance(value, bytes) else json_encode(value))

    def event(self, kind: str, name: str, **fields: Any) -> None:
        """Publish that something happened, under ``/event/<kind>/<name>``, with the time (Unix, s)."""
        self.publish(f"/event/{kind}/{name}", {"time": time.time(), **fields})

    def condition(self, name: str, problem: str | None) -> None:
        """Report a problem that lasts, or (None) that it is over; the server goes on either way."""
        before = self.conditions.get(name)
        if problem == before:
            return
        if problem is None:
            self.conditions.pop(name)
            MDP.logger.info("%s: is well again (was: %s)", name, before)
        else:
            self.conditions[name] = problem
            MDP.logger.warning("%s: %s", name, problem)
        self._tell()

    def summary(self) -> str:
        """What the status line says when all is well. To be extended."""
        return "ok"

    def update_statistic(self, oid: str = "") -> None:
        """Bring errors, turns and hung threads up to date."""
        self._statistics[f"{self.service}.errors"].set(self.errors)
        self._statistics[f"{self.service}.longest_turn"].set(round(self.longest_turn * 1000, 1))
        self._statistics[f"{self.service}.hung"].set(self.pool.hung)
        if self.outbox is not None:
            self._statistics[f"{self.service}.outbox"].set(self.outbox.waiting)

    def worker_mmi(self) -> Verbs:
        """Serve ``<hostname>.<server>.mmi``: how this server is; backup and restore, where it keeps something."""
        if self.KEEPS:
            from raspy.common.backup.desk import BACKUP

            MMI.include(BACKUP)
        return MMI

    def services(self) -> list[str]:
        """The full names of the services that this server offers."""
        return [self.service_name(verbs) for verbs in self._worker_verbs()]

    def service_name(self, verbs: Verbs) -> str:
        """The full name of the service that verbs make up."""
        return verbs.name if verbs.whole_name else f"{self.name}.{verbs.name}"

    def _worker_verbs(self) -> list[Verbs]:
        found = (getattr(self, method)() for method in dir(type(self)) if method.startswith("worker_"))
        return [verbs for verbs in found if verbs is not None]

    def _take(self, verbs: Verbs) -> Any:
        def on_request(body: list[bytes], reply: Reply) -> None:
            self.handle(verbs, body, reply)

        return on_request

    def handle(self, verbs: Verbs, body: list[bytes], reply: Reply) -> None:
        """Answer one request: a repeat from memory, anything else by its verb."""
        self._requests.set()
        request_id = b""
        parsed = MDP.parse_id(body[0]) if body else None
        if parsed is not None:
            (request_id, lifetime), body = parsed, body[1:]
            known = self._memory.find(request_id)
            if known is not None:
                known.then(reply)
                return
            if lifetime == 0:
                self.late(verbs, body)
                reply([json_encode("the request came too late"), MDP.UNAVAILABLE])
                return
        answer, reads = self._answer(verbs, body)
        if request_id and not reads:
            self._memory.keep(request_id, answer)
        answer.then(reply)

    def late(self, verbs: Verbs, body: list[bytes]) -> None:
        """A request came too late, and is not done. To be extended."""

    def _answer(self, verbs: Verbs, body: list[bytes]) -> tuple[Later, bool]:
        later, reads = Later(), True
        try:
            verb = verbs.find(body)
            reads = verb.reads
            result = verb.call(self, body[1:])
            if isinstance(result, Later):
                return result, reads
            later.reply(result)
        except VerbError as error:
            self._refused.set()
            later.fail(error.status, str(error))
        except Exception as error:
            self._refused.set()
            self.report(error, f"verb {body[0].decode('ascii', 'replace')[:60]} of {verbs.name}")
            later.fail(MDP.ERROR, f"{type(error).__name__} in {self.name}; its log has the details")
        return later, reads

    def _broker_restarted(self) -> None:
        assert self.publisher is not None
        for slots in self._offered:
            slots.reopen(self.publisher.lost)

    def _keep_reading(self, key: str, body: bytes) -> None:
        (self.outbox or self._make_outbox()).take(key, body)

    def _make_outbox(self) -> Outbox:
        # Servers without readings, which are most of them, do without it.
        from raspy.common.outbox.outbox import Outbox

        self.outbox = Outbox(self, state_directory(self.service), self.outbox_rows)
        return self.outbox

    def _broker_connected(self, connected: bool) -> None:
        if self.outbox is not None:
            self.outbox.connected_changed(connected)
        if connected:
            self.condition("broker", None)
        else:
            self.call_later(BROKER_PATIENCE, self._miss_broker)

    def _miss_broker(self) -> None:
        """Report a broker that is away for longer than a restart takes; the server goes on without it."""
        if self.publisher is not None and not self.publisher.connected:
            address = MDP.endpoint(self.broker_ip, self.broker_port)
            self.condition("broker", f"it does not answer on {address}; nothing is published until it does")

    def _tell(self) -> None:
        problems = "; ".join(f"{name}: {problem}" for name, problem in self.conditions.items())
        self.notifier.status(f"degraded: {problems}" if problems else self.summary())


class ReplyMemory:
    """The answers to the last requests that carried an id, bounded in number and bytes; the oldest goes first."""

    def __init__(self) -> None:
        self._answers: dict[bytes, Later] = {}
        self._sizes: dict[bytes, int] = {}
        self._bytes = 0

    def find(self, request_id: bytes) -> Later | None:
        """The answer, given or still to come, to a request seen before."""
        return self._answers.get(request_id)

    def keep(self, request_id: bytes, answer: Later) -> None:
        """Remember an answer; its size counts once it is given. One that says "not now" (503) is forgotten then."""
        self._answers[request_id] = answer
        self._sizes[request_id] = 0
        answer.then(lambda frames: self._given(request_id, frames))
        self._trim()

    def _given(self, request_id: bytes, frames: list[bytes]) -> None:
        if frames[-1] == MDP.UNAVAILABLE and request_id in self._answers:
            # Nothing was done, so a repeat may try again.
            del self._answers[request_id]
            self._bytes -= self._sizes.pop(request_id)
        else:
            self._weigh(request_id, sum(map(len, frames)))

    def _weigh(self, request_id: bytes, size: int) -> None:
        if request_id in self._sizes:
            self._bytes += size - self._sizes[request_id]
            self._sizes[request_id] = size
            self._trim()

    def _trim(self) -> None:
        while len(self._answers) > MEMORY_REPLIES or self._bytes > MEMORY_BYTES:
            oldest = next(iter(self._answers))
            del self._answers[oldest]
            self._bytes -= self._sizes.pop(oldest)


@MMI.verb(reads=True)
def status(server: Server) -> dict[str, Any]:
    """How the server is: state, conditions, uptime in s, memory (PSS) in bytes, errors since the start."""
    starts, last_end = supervised()
    return {
        "server": server.service,
        "host": server.hostname,
        "pid": os.getpid(),
        "instance": server.get_instance_id(),
        "version": __version__,
        "state": "degraded" if server.conditions else "ok",
        "conditions": {name: server.conditions[name][:CONDITION] for name in list(server.conditions)[:CONDITIONS]},
        "uptime": round(time.monotonic() - server.started, 1),
        "memory": memory(),
        "errors": server.errors,
        "last_error": server.last_error,
        "services": server.services(),
        "starts": starts,
        "last_end": last_end,
    }


@MMI.verb(reads=True)
def version(server: Server) -> str:
    """The version of RasPy that the server runs."""
    return __version__


@MMI.verb(reads=True)
def info(server: Server) -> dict[str, Any]:
    """The services of the server with their verbs."""
    return {
        server.service_name(verbs): [{"verb": verb.usage, "doc": verb.doc} for verb in verbs]
        for verbs in server._worker_verbs()
    }


@MMI.verb()
def reload(server: Server) -> str:
    """Do what SIGHUP does: look at the hardware again. The configuration is read when a server starts."""
    server.call_later(0, server._reload)
    return "reloading"


@MMI.verb()
def restart(server: Server, pid: str = "") -> str:
    """End cleanly and be started again at once, by ``raspy run`` or systemd; outputs go to their safe state
    meanwhile. With a process id: only when the server is still that process (else ``409``), so that what comes twice
    is done once."""
    if pid and pid != str(os.getpid()):
        raise VerbError(MDP.CONFLICT, f"{server.name} is another process by now: it was restarted already")
    MDP.logger.info("a restart was asked for")
    server.restart()
    return "restarting"


@MMI.verb(reads=True)
def log(server: Server, lines: str = str(KEPT_RECORDS)) -> list[dict[str, Any]]:
    """The last records of the server's log since its start, from INFO on and 200 at most, the newest last: time
    (Unix, s), level, name, text."""
    return RECENT.last(whole(lines, "lines"))
