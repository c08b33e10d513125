"""A hundred thousand requests that wait for a service which is away."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from raspy.common import MDP
from tests.support_processes import wait_for
from tests.support_titanic import (
    LIMIT,
    Client,
    Clients,
    Notified,
    Process,
    Record,
    Site,
    Spans,
    ask,
    check_order,
    request,
    site,
)

pytestmark = [pytest.mark.soak, pytest.mark.slow, pytest.mark.timeout(900)]

PENDING = 100_000
WARM = 10_000
"""With so many pending, and all its connections open, Titanic takes what it takes."""
CONNECTIONS, POLLERS = 100, 12
EXECUTED = 3000
"""So many of them are executed: one after the other, all would take minutes."""
MOST_MORE = 4 << 20
"""Bytes that Titanic may take beyond what it takes with few requests, or none, after the same work."""
FILL_LIMIT = 600.0
TEXT = b"%06d and a body of the length of a usual command"


class Backlog:
    """What was accepted."""

    def __init__(self) -> None:
        self.uuids: list[bytes] = []
        self.spans: Spans = {}

    def fill(self, here: Site, count: int) -> None:
        """Send so many more."""
        numbers = iter(range(len(self.uuids), len(self.uuids) + count))
        Clients(here.address, LIMIT).run([self._send(numbers) for _ in range(CONNECTIONS)], FILL_LIMIT)

    def _send(self, numbers: Iterator[int]) -> Client:
        """One connection that sends until all is sent."""
        for number in numbers:
            sent = time.monotonic_ns()
            self.uuids.append((yield from request(b"away", TEXT % number)))
            self.spans[TEXT % number] = sent, time.monotonic_ns()


def restarted(here: Site, tell: Callable[[str], None], label: str, uuid: bytes) -> Process:
    """Start Titanic anew; tell how long it takes."""
    notified = Notified(here.directory)
    began = time.monotonic()
    titanic = here.titanic(NOTIFY_SOCKET=notified.path)
    notified.ready()
    ready = time.monotonic() - began
    answer = ask(here.address, b"titanic.reply", uuid)
    answered = time.monotonic() - began
    notified.close()
    assert answer[0][:3] == MDP.PENDING or uuid == b"0" * 32, answer
    tell(f"{label}: READY after {ready:.2f} s, first titanic.reply after {answered:.2f} s")
    return titanic


def test_a_hundred_thousand_pending_requests_cost_no_memory(record_property: Record) -> None:
    sizes: dict[str, tuple[int, int]] = {}

    def tell(line: str) -> None:
        record_property("counted", line)

    with site() as here:
        here.broker()
        # What Titanic takes without a backlog: after its start, and after as much work as there will be later.
        titanic = restarted(here, tell, "empty", b"0" * 32)
        sizes["empty"] = titanic.memory()
        here.plain("first")
        Clients(here.address, LIMIT).run([use(50) for _ in range(POLLERS)])
        sizes["empty, used"] = titanic.memory()

        backlog = Backlog()
        backlog.fill(here, WARM)
        sizes[f"{WARM} pending"] = titanic.memory()
        began = time.monotonic()
        backlog.fill(here, PENDING - WARM)
        took = time.monotonic() - began
        assert len(set(backlog.uuids)) == PENDING
        rate = (PENDING - WARM) / took
        tell(f"{PENDING - WARM} accepted in {took:.1f} s, {rate:.0f} a second over {CONNECTIONS} connections")
        sizes[f"{PENDING} pending"] = titanic.memory()
        began = time.monotonic()
        assert titanic.stop() == 0
        tell(f"stopped in {time.monotonic() - began:.2f} s")

        titanic = restarted(here, tell, f"{PENDING} pending", backlog.uuids[-1])
        sizes["started"] = titanic.memory()
        # All are known: some of the first, of the last, and of those between.
        known: list[bytes] = []
        parts = [backlog.uuids[number::POLLERS] for number in range(POLLERS)]
        Clients(here.address, LIMIT).run([poll(part, known) for part in parts])
        assert set(known) == {MDP.PENDING}

        began = time.monotonic()
        here.plain("away")
        wait_for("the first to be executed", lambda: here.record("away"), LIMIT)
        tell(f"first execution {time.monotonic() - began:.2f} s after the start of the worker")
        wait_for(f"{EXECUTED} to be executed", lambda: len(here.record("away")) >= EXECUTED, FILL_LIMIT)
        took = time.monotonic() - began
        sizes["started, used"] = titanic.memory()
        tell(f"{EXECUTED} executed in {took:.1f} s, one at a time, {EXECUTED / took:.0f} a second")
        texts = [text for text, _, _ in here.record("away")]
        assert len(set(texts)) == len(texts), "nothing was killed, so nothing runs twice"
        check_order(texts, backlog.spans)
    for name, (pss, own) in sizes.items():
        tell(f"{name}: PSS {pss / (1 << 20):.1f} MiB, of which {own / (1 << 20):.1f} MiB are no file's")
    for more, less in (
        ("started", "empty"),
        ("started, used", "empty, used"),
        (f"{PENDING} pending", f"{WARM} pending"),
    ):
        assert sizes[more][1] - sizes[less][1] < MOST_MORE, f"{more} takes more than {less}"


def use(times: int) -> Client:
    """So many requests from acceptance to their end."""
    for _ in range(times):
        uuid = yield from request(b"first", b"text")
        answer = [MDP.PENDING]
        while answer[0][:3] == MDP.PENDING:
            answer = yield b"titanic.reply", [uuid]
            yield 0.02
        assert answer == [MDP.OK, b"done", b"text"]
        answer = yield b"titanic.close", [uuid]
        assert answer[0][:3] == MDP.OK


def poll(uuids: list[bytes], known: list[bytes]) -> Client:
    """Ask how some requests are."""
    middle = len(uuids) // 2
    for uuid in uuids[:70] + uuids[middle : middle + 70] + uuids[-70:]:
        known.append((yield b"titanic.reply", [uuid])[0][:3])
