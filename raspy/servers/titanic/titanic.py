"""The server of durable requests: the Titanic Service Protocol (RFC 9/TSP), and the durable store beside it."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from typing import Any, ClassVar, Self

from raspy.common import MDP
from raspy.common.backup.parts import Part
from raspy.common.config import Section
from raspy.common.database import Database, StorageError
from raspy.common.directories import state_directory
from raspy.common.log import printable
from raspy.common.mdwrkapi import Reply
from raspy.common.server import Server
from raspy.common.slots import Slots
from raspy.common.statistics import SNMP, SNMPCounter
from raspy.common.storage import Read, Storage, Write
from raspy.common.verbs import Later, VerbError, Verbs, shown
from raspy.servers.titanic import records, requests, store
from raspy.servers.titanic.clock import Clock
from raspy.servers.titanic.dispatch import LANES, Dispatcher
from raspy.servers.titanic.queue import QUEUE
from raspy.servers.titanic.records import DONE, LATE, PARKED, PENDING, Accepted, Begun, Request
from raspy.servers.titanic.settings import TitanicConfig
from raspy.servers.titanic.store import STORE
from raspy.servers.titanic.tsp import is_request, refused, reply_frames, request_problem, without_id

REPLY_SLOTS, CLOSE_SLOTS = 16, 32
"""Replies and closings taken at a time: nobody waits for a disk with the first, or for a device with the second."""
SWEEP = 600.0
"""Seconds between looks for replies that were kept for long enough."""
EVENT_NAME_BYTES = 300
"""Bytes of a service's name in the key of an event; more would be too long for a key."""
EVENT_NAMES = 256
"""Services under whose own names events are published; those of further ones share a name."""
FIGURES = (
    ("pending", "Requests that wait to be run, or are run"),
    ("in_flight", "Requests that are being run"),
    ("done", "Requests whose reply is kept"),
    ("parked", "Requests given up after failures"),
    ("late", "Requests whose lifetime was over before they could begin"),
    ("commits", "Commits of the requests, each a write that the disk has confirmed"),
    ("commit_ms", "What the last of them took, in ms"),
)


class Titanic(Server):
    """Keeps requests until their reply has been fetched, and runs each of them at least once.

    :param hostname: name of this host on the bus
    :param service: name of this server
    :param broker_ip: the broker's address, or ``ipc://`` and a directory
    :param broker_port: the broker's base port
    :param data_dir: where the two files are; None: the state directory of this server
    :param settings: the bounds
    """

    CONFIG: ClassVar[type[Section]] = TitanicConfig
    # Not requests.db: what waits there, or was done, would be done again.
    KEEPS: ClassVar[tuple[Part, ...]] = (Part("store.db", store.SCHEMAS),)

    def __init__(
        self,
        hostname: str = "localhost",
        service: str = "titanic",
        broker_ip: str = "127.0.0.1",
        broker_port: int = 5514,
        data_dir: str | None = None,
        settings: TitanicConfig | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(hostname, service, broker_ip, broker_port)
        self.settings = settings or TitanicConfig()
        self.clock = clock or Clock()
        directory = os.path.abspath(data_dir or state_directory(service))
        file = os.path.join(directory, "requests.db")
        self.queue = Storage(self, Database(file, requests.SCHEMAS, requests.TABLES), "requests")
        self.queue.on_recovered = self._begin
        # A file of its own: a queue that is damaged never costs a setting.
        file = os.path.join(directory, "store.db")
        self.store = Storage(self, Database(file, store.SCHEMAS, store.TABLES), "store")
        self.dispatcher: Dispatcher | None = None
        self.counts = dict.fromkeys(records.STATES.values(), 0)
        """Requests by state."""
        self._numbers = requests.Numbers()
        self._slots: list[Slots] = []
        self._next_deadline: float | None = None
        self._told: set[str] = set()
        self._leaving = False
        self._accepted = self.add_statistic(SNMPCounter(f"{service}.accepted", "Requests accepted"))
        self._replies = self.add_statistic(SNMPCounter(f"{service}.replied", "Replies that came"))
        for oid, doc in FIGURES:
            self.add_statistic(SNMP(f"{service}.{oid}", doc))

    @classmethod
    def _configured(cls, bus: dict[str, Any], settings: Any) -> Self:
        return cls(**bus, settings=settings)

    def start(self) -> None:
        """Register the services and open the files."""
        super().start()
        address = MDP.endpoint(self.broker_ip, self.broker_port)
        self.dispatcher = Dispatcher(self, address)
        for name, handler, most in (
            (b"titanic.request", self.titanic_request, self.settings.slots),
            (b"titanic.reply", self.titanic_reply, REPLY_SLOTS),
            (b"titanic.close", self.titanic_close, CLOSE_SLOTS),
        ):
            self._slots.append(Slots(self, address, name, handler, min(most, self.settings.slots), grouped=True))
        self.call_every(1.0, self._look_for_late)
        self.call_every(SWEEP, self._sweep)
        self.store.write(nothing, None, lambda *_: None, keep=True)
        self._begin()

    def stop(self) -> None:
        """Leave the bus, have what came kept, close the files."""
        # What has come is answered once it is on disk; what comes now is the broker's to give to the next one.
        self._leaving = True
        if self.dispatcher is not None:
            self.dispatcher.close()
        self.queue.close()
        self.store.close()
        for slots in self._slots:
            slots.close()
        super().stop()

    def services(self) -> list[str]:
        """The full names of the services that this server offers."""
        return [*super().services(), *(slots.service.decode() for slots in self._slots)]

    def summary(self) -> str:
        """What the status line says when all is well."""
        waiting = self.counts[PENDING] - self.flying
        return f"{waiting} requests wait, {self.flying} run, {self.counts[PARKED]} given up"

    def update_statistic(self, oid: str = "") -> None:
        """Bring the values that are counted elsewhere up to date."""
        super().update_statistic(oid)
        for name, value in (
            ("pending", self.counts[PENDING]),
            ("in_flight", self.flying),
            ("done", self.counts[DONE]),
            ("parked", self.counts[PARKED]),
            ("late", self.counts[LATE]),
            ("commits", self.queue.commits),
            ("commit_ms", round(self.queue.commit_time * 1000, 2)),
        ):
            self._statistics[f"{self.service}.{name}"].set(value)

    # 9/TSP

    def titanic_request(self, body: list[bytes], reply: Reply) -> None:
        """``titanic.request``: keep a request, and answer ``200`` and its uuid once it is on disk."""
        if self._leaving:
            return
        parsed = MDP.parse_id(body[0])
        frames = body[1:] if parsed else body
        lifetime = parsed[1] if parsed else None
        client = bytes.fromhex(parsed[0][len(MDP.REQUEST_ID) :].decode()) if parsed else None
        if not is_request(frames):
            reply([refused(MDP.BAD_REQUEST, request_problem(frames))])
            return
        service, packed = frames[0], records.pack(frames[1:])
        if len(packed) > self.settings.request_bytes:
            problem = f"{len(packed)} bytes; request_bytes in [titanic] allows {self.settings.request_bytes}"
            reply([refused(MDP.BAD_REQUEST, problem)])
            return
        if sum(self.counts.values()) >= self.settings.queue_requests:
            problem = f"{self.settings.queue_requests} requests are kept, the most that queue_requests allows"
            self._find(client, refused(MDP.ERROR, problem), reply)
            return
        if lifetime is None and frames[1] == b"exec" and service.endswith(b".devices"):
            lifetime = self.settings.command_lifetime
        item = Accepted(
            service,
            packed,
            client,
            lifetime,
            self.clock.since(),
            time.time(),
            self.clock.trusted(),
            self.settings.queue_bytes,
        )
        self.queue.write(self._numbers.accept, item, functools.partial(self._is_kept, item, frames[1:], reply))

    def _find(self, client: bytes | None, refusal: bytes, reply: Reply) -> None:
        """Answer with the uuid of a request that was accepted before, or with a refusal."""

        def answer(found: tuple[int, bytes] | None, error: Exception | None) -> None:
            reply([refusal] if found is None else [MDP.OK, records.uuid_of(*found).encode()])

        self.queue.read(lambda connection: requests.known(connection, client), answer)

    def _is_kept(
        self,
        item: Accepted,
        body: list[bytes],
        reply: Reply,
        result: tuple[int, bytes, bool] | None,
        error: Exception | None,
    ) -> None:
        if result is None:
            full = f"the file has {self.settings.queue_bytes} bytes, the most that queue_bytes allows"
            reply([refused(MDP.ERROR, str(error or full))])
            return
        number, secret, new = result
        reply([MDP.OK, records.uuid_of(number, secret).encode()])
        if not new:
            return
        self._accepted.set()
        self.counts[PENDING] += 1
        if item.deadline is not None and (self._next_deadline is None or item.deadline < self._next_deadline):
            self._next_deadline = item.deadline
        if self.dispatcher is not None:
            self.dispatcher.offer(Request(number, secret, item.service, body, deadline=item.deadline))

    def titanic_reply(self, body: list[bytes], reply: Reply) -> None:
        """``titanic.reply``: the reply to a request, ``300`` as long as there is none."""
        body = without_id(body)
        parsed = records.parse_uuid(body[0]) if body else None
        if parsed is None:
            reply([refused(MDP.BAD_REQUEST, "this is no id of a request")])
            return
        number, secret = parsed

        def answer(found: tuple[int, bytes | None, int] | None, error: Exception | None) -> None:
            reply(reply_frames(found) if error is None else [refused(MDP.ERROR, str(error))])

        self.queue.read(lambda connection: requests.replies(connection, number, secret), answer)

    def titanic_close(self, body: list[bytes], reply: Reply) -> None:
        """``titanic.close``: the reply has been taken care of; forget the request."""
        body = without_id(body)
        parsed = records.parse_uuid(body[0]) if body else None
        if parsed is None:
            reply([MDP.OK])
            return

        def answer(found: tuple[int, bytes] | None, error: Exception | None) -> None:
            if error is not None:
                reply([refused(MDP.ERROR, str(error))])
                return
            if found is not None:
                self.closed(parsed[0], found)
            reply([MDP.OK])

        self.queue.write(requests.close, parsed, answer)

    def titanic_store(self) -> Verbs:
        """Serve ``titanic.store``: see :mod:`raspy.servers.titanic.store`."""
        return STORE

    def worker_store(self) -> Verbs:
        """Serve ``titanic.store``."""
        return self.titanic_store()

    def worker_queue(self) -> Verbs:
        """Serve ``<hostname>.titanic.queue``."""
        return QUEUE

    # What the dispatcher tells

    @property
    def flying(self) -> int:
        """How many requests are being run."""
        return len(self.dispatcher.flights) if self.dispatcher is not None else 0

    def in_flight(self, number: int) -> bool:
        """Whether a request is being run."""
        return self.dispatcher is not None and number in self.dispatcher.flights

    def service_success(self, request: Request) -> None:
        """A request has its reply, which is on disk."""
        self._replies.set()
        self._moved(PENDING, DONE)

    def given_up(self, request: Request, reason: str) -> None:
        """A request was parked."""
        self._moved(PENDING, PARKED)
        MDP.logger.warning("request %s to %s is given up: %s", request.uuid, shown(request.service), printable(reason))
        self._request_event(request.service, event="parked", uuid=request.uuid, reason=reason)

    def closed(self, number: int, found: tuple[int, bytes]) -> None:
        """A request was forgotten: its state and service."""
        state, service = found
        self.counts[state] -= 1
        if state == PENDING and self.dispatcher is not None:
            self.dispatcher.forget(number, service)

    def run_again(self, service: bytes) -> None:
        """A parked request of a service is pending again."""
        self._moved(PARKED, PENDING)
        self._next_deadline = self.clock.now()
        if self.dispatcher is not None:
            self.dispatcher.reread(service)

    def _moved(self, before: int, after: int) -> None:
        self.counts[before] -= 1
        self.counts[after] += 1

    # Reads and writes for the verbs

    def queue_read(self, function: Read, answer: Callable[[Any], Any]) -> Later:
        """The answer of a verb that reads the requests."""
        return self._later(functools.partial(self.queue.read, function), answer)

    def queue_write(self, function: Write, item: Any, answer: Callable[[Any], Any]) -> Later:
        """The answer of a verb that changes the requests."""
        return self._later(functools.partial(self.queue.write, function, item), answer)

    def store_read(self, function: Read, answer: Callable[[Any], Any]) -> Later:
        """The answer of a verb that reads the store."""
        return self._later(functools.partial(self.store.read, function), answer)

    def store_write(self, function: Write, item: Any, answer: Callable[[Any], Any]) -> Later:
        """The answer of a verb that changes the store."""
        return self._later(functools.partial(self.store.write, function, item), answer)

    def _later(
        self, job: Callable[[Callable[[Any, Exception | None], None]], None], answer: Callable[[Any], Any]
    ) -> Later:
        later = Later()

        def done(result: Any, error: Exception | None) -> None:
            if error is None:
                told = result if isinstance(result, VerbError) else answer(result)
                if isinstance(told, VerbError):
                    later.fail(told.status, str(told))
                else:
                    later.reply(told)
            elif isinstance(error, StorageError):
                later.fail(MDP.ERROR, str(error))
            else:
                later.fail(MDP.ERROR, f"{type(error).__name__} in {self.name}; its log has the details")

        job(done)
        return later

    # The file

    def _begin(self) -> None:
        """Find out from the file where to go on; it is opened by this."""
        self.queue.write(self._numbers.begin, (self.clock.boot(), LANES), self._begun, keep=True)

    def _begun(self, begun: Begun | None, error: Exception | None) -> None:
        if begun is None:
            return
        self.clock.start(begun.base)
        self.counts = {state: begun.counts.get(state, 0) for state in self.counts}
        self._next_deadline = begun.next_deadline
        for service, count in begun.late:
            self._tell_late(service, count, "")
        if self.dispatcher is not None:
            self.dispatcher.begin(begun.services, begun.first_own)
        self._tell()

    def _look_for_late(self) -> None:
        """End the requests that should have begun by now."""
        now = self.clock.now()
        if self.dispatcher is None or self._next_deadline is None or self._next_deadline > now or self.queue.problem:
            return
        self._next_deadline = None
        self.queue.write(requests.overdue, (now, self.dispatcher.taken()), self._ended_late)

    def _ended_late(
        self, found: tuple[list[tuple[int, bytes, bytes]], float | None] | None, error: Exception | None
    ) -> None:
        if found is None:
            self._next_deadline = self.clock.now()
            return
        ended, following = found
        if following is not None and (self._next_deadline is None or following < self._next_deadline):
            self._next_deadline = following
        for number, secret, service in ended:
            self._moved(PENDING, LATE)
            if self.dispatcher is not None:
                self.dispatcher.forget(number, service)
            self._tell_late(service, 1, records.uuid_of(number, secret))

    def _tell_late(self, service: bytes, count: int, uuid: str) -> None:
        MDP.logger.warning("%d request to %s is late: not run any more %s", count, shown(service), uuid)
        self._request_event(service, event="late", count=count, uuid=uuid)

    def _request_event(self, service: bytes, **fields: Any) -> None:
        name = printable(service.decode("utf-8", "backslashreplace")).replace("/", "_")
        name = name.encode()[:EVENT_NAME_BYTES].decode("utf-8", "ignore")
        if name not in self._told:
            if len(self._told) >= EVENT_NAMES:
                name = "others"
            self._told.add(name)
        self.event("request", name, service=name, **fields)

    def _sweep(self) -> None:
        """Forget replies that nobody has fetched in their time."""
        if not self.queue.problem:
            self.queue.write(requests.expire, self.clock.now() - self.settings.reply_ttl, self._swept)

    def _swept(self, found: dict[int, int] | None, error: Exception | None) -> None:
        for state, count in (found or {}).items():
            self.counts[state] -= count
        if found and sum(found.values()) >= requests.EXPIRED:
            self._sweep()

    def _broker_restarted(self) -> None:
        super()._broker_restarted()
        assert self.publisher is not None
        for slots in self._slots:
            slots.reopen(self.publisher.lost)
        if self.dispatcher is not None:
            self.dispatcher.lost()


def nothing(connection: object, items: list[Any]) -> list[Any]:
    """Write nothing: the file is opened by it."""
    return items
