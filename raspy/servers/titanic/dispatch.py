"""Runs the requests: in order for each service, as many at a time as it has workers, until each has its end."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
import zmq

from raspy.common import MDP
from raspy.common.executive import Timer
from raspy.common.kvsimple import BAD_BODY
from raspy.servers.titanic import records, requests
from raspy.servers.titanic.channels import Channel, Channels
from raspy.servers.titanic.directory import Directory
from raspy.servers.titanic.lane import BUFFER, BUFFER_BYTES, FIRST_PAUSE, Lane
from raspy.servers.titanic.records import PARKED, PENDING, Request

if TYPE_CHECKING:
    from raspy.servers.titanic.titanic import Titanic

TICK = 0.1
"""Seconds between looks at what is due."""
ASK_AGAIN = 5.0
"""Seconds after which a service with work is asked for again: its workers may be more or fewer."""
AGREE = 0.7
"""Seconds until it is asked for the second time; the broker has noticed the death of a worker by then."""
LANES = 1000
"""Services known at a time; the others have their turn when one of these is idle or away."""
SCAN = 2.0
"""Seconds between looks for services that had no room."""
STRANGER_TRIES, STRANGER_PAUSE = 4, 0.25
"""A service named as ours are is believed to be foreign when so many answers, with so many seconds between, say so: the
broker marks a service as ours a moment after it is registered."""
UNSTORED = 256
"""Replies that may wait for the disk; with more, nothing is begun."""
STARTS = 10
"""A request during which Titanic has ended so many times is parked: it may be the cause."""
FAILURE_PAUSE = 1.0, 30.0
"""Seconds before a failed request is tried again: first, and the longest; doubled each time."""

decode_text = msgspec.json.Decoder(str).decode


class Flight:
    """A request that is being run."""

    __slots__ = ("channel", "lane", "request", "since", "withdrawn")

    def __init__(self, lane: Lane, request: Request) -> None:
        self.lane = lane
        self.request = request
        self.since = time.monotonic()
        self.channel: Channel | None = None
        self.withdrawn = False
        """Its client wants it no more; nothing comes of it."""


class Dispatcher:
    """Everything here happens on the server's loop.

    :param server: whose requests are run
    :param address: the broker's ROUTER
    """

    def __init__(self, server: Titanic, address: str) -> None:
        self.server = server
        self.lanes: dict[bytes, Lane] = {}
        self.flights: dict[int, Flight] = {}
        """By the request's number."""
        self.first_own = 0
        """Number of the first request that this process accepted; what is before it may have been begun already."""
        self._channels = Channels(server, address)
        self._directory = Directory(server, address, self.lost)
        self._unstored = 0
        self._overflow = False
        self._crowded = False
        """There have been more services than are known at a time: of a new one the file may have requests."""
        self._cursor = b""
        self._scanned = 0.0
        self._ticker: Timer | None = None

    def close(self) -> None:
        """Let go of the bus. What is in flight is run again after the next start."""
        if self._ticker is not None:
            self._ticker.cancel()
        self._directory.close()
        self._let_go()
        waiting = [request for lane in self.lanes.values() for request in lane.buffer]
        for request in [*waiting, *(flight.request for flight in self.flights.values())]:
            if request.marked:
                # It was not what ended this process.
                self.server.queue.write(requests.unmark, request.id, lambda *_: None)

    def begin(self, services: list[bytes], first_own: int) -> None:
        """Start, or start over, with the services for which the file has requests."""
        self.first_own = self.first_own or first_own
        self._overflow = self._crowded = self._crowded or len(services) == LANES
        for service in services:
            self.reread(service)

    def offer(self, request: Request) -> None:
        """A request has been accepted; it is on disk."""
        lane = self._lane(request.service)
        if lane is not None:
            lane.offer(request)
            self._advance(lane)

    def reread(self, service: bytes) -> None:
        """The file has changed for a service."""
        lane = self._lane(service)
        if lane is not None:
            lane.reread()
            self._advance(lane)

    def forget(self, number: int, service: bytes) -> None:
        """A request was withdrawn. One in flight cannot be called back; its reply is dropped."""
        flight = self.flights.get(number)
        if flight is not None:
            flight.withdrawn = True
        lane = self.lanes.get(service)
        if lane is not None:
            lane.withdraw(number)

    def taken(self) -> frozenset[int]:
        """Numbers of the requests that have begun, or are about to."""
        return frozenset(number for lane in self.lanes.values() for number in lane.taken)

    def lost(self) -> None:
        """The broker is gone or new: it knows none of the requests in flight. They are run again, with the same id."""
        self._let_go()
        flights, self.flights = self.flights, {}
        for flight in flights.values():
            if not self._withdrawn(flight):
                flight.lane.again(flight.request)
        for lane in self.lanes.values():
            lane.tries = 0
            lane.stranger = False
            lane.due, lane.pause = 0.0, FIRST_PAUSE

    def _let_go(self) -> None:
        """Close the connections. The replies that have come are taken, but nothing more is begun."""
        for lane in self.lanes.values():
            lane.window = lane.workers = 0
        self._channels.close()

    # Services

    def _lane(self, service: bytes) -> Lane | None:
        lane = self.lanes.get(service)
        if lane is None:
            if len(self.lanes) >= LANES:
                self._overflow = self._crowded = True
                return None
            lane = self.lanes[service] = Lane(service)
            lane.more = self._crowded
            if self._ticker is None:
                self._ticker = self.server.call_later(TICK, self._tick)
        return lane

    def _wake(self, service: bytes) -> None:
        lane = self._lane(service)
        if lane is not None and not lane.busy:
            lane.more = True
            self._advance(lane)

    def _tick(self) -> None:
        now = time.monotonic()
        for lane in list(self.lanes.values()):
            if lane.idle and not lane.asking:
                del self.lanes[lane.service]
            elif lane.has_work and now >= lane.due:
                if lane.window and now - lane.asked_at > ASK_AGAIN:
                    self._ask(lane)
                self._advance(lane)
        self._give_up_slow(now)
        if self._overflow and now - self._scanned > SCAN:
            self._scan(now)
        # Nothing ticks while there is nothing to do.
        self._ticker = self.server.call_later(TICK, self._tick) if self.lanes or self._overflow else None

    def _give_up_slow(self, now: float) -> None:
        patience = self.server.settings.patience
        for flight in [f for f in self.flights.values() if now - f.since > patience]:
            if flight.channel is not None:
                flight.channel.asked.pop(flight.lane.service, None)
                self._channels.retire(flight.channel)
            del self.flights[flight.request.id]
            if not self._withdrawn(flight):
                self._failed(flight.lane, flight.request, f"no reply in {patience:g} s", [])
        self._channels.sweep()

    def _scan(self, now: float) -> None:
        """Give services that had no room the place of those that are away."""
        self._scanned = now
        self._overflow = bool(self._cursor)
        for lane in [lane for lane in self.lanes.values() if not lane.busy]:
            del self.lanes[lane.service]
        after = self._cursor
        self.server.queue.read(
            lambda connection: requests.services(connection, after, LANES // 2), self._scanned_services
        )

    def _scanned_services(self, services: list[bytes] | None, error: Exception | None) -> None:
        if services is None or error is not None:
            self._overflow = True
            return
        self._cursor = services[-1] if len(services) == LANES // 2 else b""
        self._overflow = self._overflow or bool(self._cursor)
        for service in services:
            self._wake(service)

    def _ask(self, lane: Lane) -> None:
        if not lane.asking:
            lane.asking = True
            self._directory.ask(lane.service, functools.partial(self._told, lane))

    def _told(self, lane: Lane, workers: int, ours: bool) -> None:
        lane.asking = False
        lane.asked_at = time.monotonic()
        if not workers:
            lane.tries = 0
            lane.away()
            if lane.buffer:
                # Nobody knows for how long: the file keeps them, and the memory is for those that are run.
                lane.reread()
            return
        lane.tries = 0 if ours else lane.tries + 1
        if not (ours or lane.stranger or self._directory.foreign) and looks_ours(lane.service):
            lane.window = lane.workers = 0
            lane.due = time.monotonic() + STRANGER_PAUSE * max(1, lane.tries - STRANGER_TRIES)
            if lane.tries >= STRANGER_TRIES:
                host, server, _ = lane.service.split(b".")
                self._directory.ask(b".".join((host, server, b"mmi")), functools.partial(self._judge, lane))
            return
        lane.ours = ours
        lane.pause = FIRST_PAUSE
        # One that has died may still be counted, beside the one in its place: a second answer has to agree.
        lane.window = min(workers, lane.workers or 1, self.server.settings.in_flight)
        if workers > lane.workers:
            lane.asked_at -= ASK_AGAIN - AGREE
        lane.workers = workers
        self._advance(lane)

    @staticmethod
    def _judge(lane: Lane, workers: int, ours: bool) -> None:
        """A service named as ours are, and not marked so, is foreign when there is no such server of ours."""
        lane.stranger = not workers

    # Requests

    def _advance(self, lane: Lane) -> None:
        """Begin what can be begun."""
        if time.monotonic() < lane.due or self._unstored > UNSTORED:
            return
        if not lane.window:
            if lane.has_work:
                self._ask(lane)
            return
        while lane.buffer and lane.flying < lane.window and time.monotonic() >= lane.due:
            request = lane.take()
            if self._is_late(request):
                # The server ends it: it looks after the deadlines in the file.
                self._drop(lane, request)
            elif request.id < self.first_own and not request.marked:
                self._mark(lane, request)
            else:
                self._run(lane, request)
        if lane.more and not lane.reading and len(lane.buffer) < BUFFER // 2:
            lane.begin_reading()
            after = lane.last
            self.server.queue.read(
                lambda connection: requests.page(connection, lane.service, after, BUFFER, BUFFER_BYTES),
                functools.partial(self._read, lane),
            )

    def _read(self, lane: Lane, found: tuple[list[Request], bool] | None, error: Exception | None) -> None:
        if found is None or error is not None:
            lane.reading = lane.stale = False
            lane.more = True
            lane.due = time.monotonic() + FIRST_PAUSE
            return
        lane.refill(*found)
        self._advance(lane)

    def _mark(self, lane: Lane, request: Request) -> None:
        """One of an earlier Titanic, which may have begun it, and died of it: take note before it is begun again."""
        request.starts += 1
        request.marked = True
        if request.starts > STARTS:
            self._park(lane, request, f"Titanic has ended {STARTS} times while it was run", [])
            return

        def marked(changed: int | None, error: Exception | None) -> None:
            if changed == 0 or request.id in lane.gone or self._is_late(request):
                self._drop(lane, request)
                self._advance(lane)
            elif error is None and lane.window:
                self._run(lane, request)
            else:
                request.marked = error is None
                lane.again(request)
                lane.due = time.monotonic() + FIRST_PAUSE

        self.server.queue.write(requests.mark, request.id, marked)

    def _is_late(self, request: Request) -> bool:
        return request.deadline is not None and request.deadline <= self.server.clock.now()

    @staticmethod
    def _drop(lane: Lane, request: Request) -> None:
        """Nothing comes of a request that was taken."""
        lane.ended()
        lane.stored(request.id)

    def _run(self, lane: Lane, request: Request) -> None:
        flight = Flight(lane, request)
        body = request.body
        if lane.ours:
            left = None if request.deadline is None else request.deadline - self.server.clock.now()
            body = [MDP.id_frame(request.attempt_id, left), *body]
        try:
            flight.channel = self._channels.request(lane.service, body, functools.partial(self._replied, flight))
        except zmq.ZMQError as error:
            self.server.report(error, "sending a request to the broker")
            lane.again(request)
            lane.due = time.monotonic() + FIRST_PAUSE
            return
        self.flights[request.id] = flight

    def _replied(self, flight: Flight, body: list[bytes]) -> None:
        lane, request = flight.lane, flight.request
        del self.flights[request.id]
        reason = refusal(body)
        if self._withdrawn(flight):
            pass
        elif body[-1] == MDP.UNAVAILABLE and reason is not None:
            # The broker could not place it: it was not run.
            lane.again(request)
            lane.away()
        elif body[-1] == MDP.ERROR and reason is not None:
            self._failed(lane, request, reason, body)
        else:
            item = (records.pack(body), self.server.clock.now(), request.id)
            self._end(lane, request, requests.finish, item, functools.partial(self.server.service_success, request))
        self._advance(lane)

    def _withdrawn(self, flight: Flight) -> bool:
        """Whether nobody wants the request any more, which is then forgotten."""
        if flight.withdrawn:
            self._drop(flight.lane, flight.request)
        return flight.withdrawn

    def _failed(self, lane: Lane, request: Request, reason: str, body: list[bytes]) -> None:
        request.failures += 1
        request.attempt += 1
        if request.failures >= self.server.settings.attempts:
            self._park(lane, request, f"it failed {request.failures} times, at last: {reason}", body)
            return
        pause = min(FAILURE_PAUSE[0] * 2 ** (request.failures - 1), FAILURE_PAUSE[1])
        lane.again(request)
        lane.due = time.monotonic() + pause
        item = (PENDING, records.pack([reason.encode()]), self.server.clock.now(), request.id)
        self.server.queue.write(requests.fail, item, lambda *_: None, keep=True)

    def _park(self, lane: Lane, request: Request, reason: str, body: list[bytes]) -> None:
        """Give a request up, so that those behind it are run."""
        item = (PARKED, records.pack([reason.encode(), *body]), self.server.clock.now(), request.id)
        self._end(lane, request, requests.fail, item, functools.partial(self.server.given_up, request, reason))

    def _end(
        self, lane: Lane, request: Request, function: Callable[..., list[int]], item: object, told: Callable[[], None]
    ) -> None:
        """Have the end of a request kept; ``told()`` follows, unless it was withdrawn meanwhile."""
        lane.ended()
        self._unstored += 1

        def stored(changed: int | None, error: Exception | None) -> None:
            self._unstored -= 1
            lane.stored(request.id)
            if changed:
                told()
            if self._unstored == UNSTORED:
                for other in list(self.lanes.values()):
                    self._advance(other)

        self.server.queue.write(function, item, stored, keep=True)


def refusal(body: list[bytes]) -> str | None:
    """The reason in a reply of the form that says that nothing came of it: a JSON text, then a status."""
    if len(body) != 2:
        return None
    try:
        return decode_text(body[0])
    except BAD_BODY:
        return None


def looks_ours(service: bytes) -> bool:
    """Whether a service is named as those of our servers: ``<host>.<server>.<service>``."""
    return len(service.split(b".")) == 3
