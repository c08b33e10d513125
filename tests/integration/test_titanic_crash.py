"""Durable requests while broker, Titanic and workers are killed at random: what was answered 200 is executed."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter, deque

import pytest

from raspy.common import MDP
from tests.support_titanic import (
    OURS,
    Client,
    Clients,
    OnThread,
    Process,
    Record,
    Site,
    Spans,
    check_order,
    request,
    site,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

REQUESTS = int(os.environ.get("RASPY_TEST_REQUESTS", "2000"))
THREADS, CLIENTS = 4, 6
"""Threads of clients, and clients on each; each client has one request in acceptance at a time."""
PACE = 0.1
"""Seconds between two requests of a client, so that all of them are sent among kills."""
PAUSE = (0.2, 0.8)
"""Seconds between kills."""
MOST_KILLS = 160
"""After so many the rest is done in peace, however slow the machine."""
LATER_KILLS = 20
"""Most kills after the last request was accepted."""
LIMIT = 400.0
FOREIGN, SHARED = b"foreign", b"shared"
SERVICES = (OURS, FOREIGN, SHARED)
ORDERED = {OURS: "ours", FOREIGN: "foreign"}
"""Services with one worker, and the names of their records."""
RECORDS = {**ORDERED, SHARED: "shared"}


class Ledger:
    """What the clients of one thread know of their requests. Touched by that thread, read when it has ended."""

    def __init__(self, number: int, most: int) -> None:
        self.number = number
        self.left = most
        self.accepted: dict[bytes, Spans] = {service: {} for service in SERVICES}
        self.fetched: set[bytes] = set()
        self.closed = 0
        self.senders = CLIENTS

    def members(self) -> list[Client]:
        """The clients: each a sender, and a fetcher of the replies."""
        made: list[Client] = []
        for number in range(CLIENTS):
            uuids: deque[tuple[bytes, bytes, bytes]] = deque()
            done = threading.Event()
            made += [self._send(number, uuids, done), self._fetch(uuids, done)]
        return made

    def _send(self, client: int, uuids: deque[tuple[bytes, bytes, bytes]], done: threading.Event) -> Client:
        count = 0
        while self.left:
            self.left -= 1
            service = SERVICES[count % len(SERVICES)]
            count += 1
            text = b"%d.%d.%d" % (self.number, client, count)
            body = (b"write", text) if service == OURS else (text,)
            sent = time.monotonic_ns()
            uuid = yield from request(service, *body)
            self.accepted[service][text] = sent, time.monotonic_ns()
            uuids.append((uuid, service, text))
            yield PACE
        self.senders -= 1
        done.set()

    def _fetch(self, uuids: deque[tuple[bytes, bytes, bytes]], done: threading.Event) -> Client:
        while uuids or not done.is_set():
            if not uuids:
                yield 0.05
                continue
            uuid, service, text = uuids.popleft()
            answer = yield b"titanic.reply", [uuid]
            if answer[0][:3] == MDP.PENDING:
                # Others behind it may be ready: their services are.
                uuids.append((uuid, service, text))
                yield 0.02
                continue
            right = [b'"%s"' % text, MDP.OK] if service == OURS else [b"done", text]
            assert answer[0][:3] == MDP.OK, f"{text!r} to {service!r} was accepted, and then: {answer}"
            assert answer[1:] == right, f"the reply to {text!r} of {service!r} is {answer[1:]}"
            self.fetched.add(text)
            answer = yield b"titanic.close", [uuid]
            assert answer[0][:3] == MDP.OK, f"close: {answer}"
            self.closed += 1


class Killer:
    """Kills one process after the other, and starts it again at once."""

    def __init__(self, processes: list[Process], chance: random.Random, clients: OnThreads) -> None:
        self.processes = processes
        self.random = chance
        self.clients = clients
        self.before_accepted = 0
        self.after_accepted = 0
        self._round: list[Process] = []

    def run(self) -> None:
        """Until all is fetched, or there were enough."""
        while not self.clients.fetched() and self.before_accepted < MOST_KILLS and self.after_accepted < LATER_KILLS:
            if self.clients.ended(self.random.uniform(*PAUSE)):
                return
            # Each once in a round, so that nobody is left out.
            self._round = self._round or self.random.sample(self.processes, len(self.processes))
            victim = self._round.pop()
            victim.kill()
            victim.start()
            if self.clients.accepted():
                self.after_accepted += 1
            else:
                self.before_accepted += 1


class OnThreads:
    """All threads of clients."""

    def __init__(self, address: str) -> None:
        self.ledgers = [Ledger(number, REQUESTS // THREADS) for number in range(THREADS)]
        self.clients = [Clients(address) for _ in self.ledgers]
        self._threads = [
            OnThread(clients, ledger.members(), LIMIT)
            for clients, ledger in zip(self.clients, self.ledgers, strict=True)
        ]

    def accepted(self) -> bool:
        return not any(ledger.senders for ledger in self.ledgers)

    def spans(self, service: bytes) -> Spans:
        """All that was accepted for a service."""
        return {text: span for ledger in self.ledgers for text, span in ledger.accepted[service].items()}

    def count(self) -> int:
        """How many were accepted."""
        return sum(len(self.spans(service)) for service in SERVICES)

    def fetched(self) -> bool:
        return not any(thread.is_alive() for thread in self._threads)

    def ended(self, pause: float) -> bool:
        """Let a time go by; True as soon as all clients have ended in it. Raises what one of them has raised."""
        end = time.monotonic() + pause
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
            thread.check()
        return self.fetched()

    def join(self) -> None:
        """Wait for the end of all."""
        for thread in self._threads:
            thread.join(LIMIT)
            thread.check()
        assert self.fetched()


def test_what_was_accepted_is_executed_whoever_is_killed(record_property: Record) -> None:
    seed = int(os.environ.get("RASPY_TEST_SEED", "0")) or int.from_bytes(os.urandom(4), "big")
    record_property("counted", f"seed {seed}; to repeat it: RASPY_TEST_SEED={seed}")
    with site() as here:
        processes = [here.broker(), here.titanic(), here.ours(), here.plain(FOREIGN.decode())]
        processes += [here.plain(SHARED.decode(), f"shared{number}") for number in range(2)]
        here.answers()
        started = time.monotonic()
        clients = OnThreads(here.address)
        killer = Killer(processes, random.Random(seed), clients)
        try:
            killer.run()
            clients.join()
        finally:
            took = time.monotonic() - started
            for line in counts(here, clients, killer, took):
                record_property("counted", line)
        check(here, clients)
        assert min(process.kills for process in processes) > 0, "somebody was never killed"
        for process in processes:
            assert not process.unexpected, f"{process.name} ended by itself: {process.log[-2000:]}"
            assert "Traceback" not in process.log, f"{process.name}: {process.log}"


def test_the_order_that_is_checked() -> None:
    """The second was sent after the first was accepted, the third while the second was not yet."""
    spans = {b"1": (1, 2), b"2": (3, 5), b"3": (4, 6)}
    check_order([b"1", b"2", b"3"], spans)
    check_order([b"1", b"3", b"1", b"2"], spans)
    for wrong in ([b"2", b"1", b"3"], [b"3"], [b"2", b"3"]):
        with pytest.raises(AssertionError, match="'1' was"):
            check_order(wrong, spans)


def executions(here: Site, service: bytes) -> list[tuple[bytes, int, int]]:
    return here.record(RECORDS[service])


def check(here: Site, clients: OnThreads) -> None:
    """What must hold at the end."""
    assert clients.count() == REQUESTS
    assert sum(len(ledger.fetched) for ledger in clients.ledgers) == REQUESTS
    assert sum(ledger.closed for ledger in clients.ledgers) == REQUESTS
    for service in SERVICES:
        rows = executions(here, service)
        assert {text for text, _, _ in rows} == clients.spans(service).keys(), service
        assert {frames for _, _, frames in rows} == {1}, f"{service!r} got frames that were not meant for it"
    for service in ORDERED:
        check_order((text for text, _, _ in executions(here, service)), clients.spans(service))
    # A server of ours answers a repeat from memory: once, until it is started again.
    ours = Counter((text, pid) for text, pid, _ in executions(here, OURS))
    assert max(ours.values()) == 1, [row for row, times in ours.items() if times > 1]


def counts(here: Site, clients: OnThreads, killer: Killer, took: float) -> list[str]:
    """What happened, for a reader."""
    ledgers = clients.ledgers
    fetched, closed = sum(len(ledger.fetched) for ledger in ledgers), sum(ledger.closed for ledger in ledgers)
    asked, repeats = sum(each.asked for each in clients.clients), sum(each.repeats for each in clients.clients)
    lines = [
        f"accepted {clients.count()} of {REQUESTS}, fetched {fetched}, closed {closed}, in {took:.1f} s",
        f"asked {asked}, re-sent {repeats}",
    ]
    for service in SERVICES:
        times = Counter(text for text, _, _ in executions(here, service))
        often = Counter(count for count in times.values() if count > 1)
        more = ", ".join(f"{number} of them {count} times" for count, number in sorted(often.items()))
        lines.append(f"{service.decode()}: executed {len(times)}, more than once {sum(often.values())} ({more})")
    kills = ", ".join(f"{process.name} {process.kills}" for process in killer.processes)
    lines.append(f"kills {killer.before_accepted} before all was accepted, {killer.after_accepted} after: {kills}")
    return lines
