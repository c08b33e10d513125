"""raspy.common.buscall: requests from a loop, with a real broker and a worker of ours."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from raspy.common import MDP, buscall
from raspy.common.buscall import WAITING, BusCaller
from raspy.common.executive import Executive
from raspy.common.server import Server
from raspy.common.verbs import Later, Verbs
from tests.bus import BASE, Bus, OnThread, running_bus
from tests.support_devices import short_directory

LIMIT = 30.0
ECHO = Verbs("echo")


@ECHO.verb(reads=True)
def say(server: Echo, text: str) -> str:
    """The same."""
    server.said.append(text)
    return text


@ECHO.verb()
def hold(server: Echo) -> Later:
    """No answer, until the test gives one."""
    server.held.append(Later())
    return server.held[-1]


class Echo(Server):
    """A server of ours."""

    def __init__(self, bus: Bus) -> None:
        super().__init__("pi", "echo", bus.ip, BASE)
        self.said: list[str] = []
        self.held: list[Later] = []

    def worker_echo(self) -> Verbs:
        """Serve it."""
        return ECHO


class Caller(Executive):
    """A loop that the test turns."""

    def until(self, happened: Callable[[], Any]) -> None:
        end = time.monotonic() + LIMIT
        while not happened():
            assert time.monotonic() < end, "did not happen"
            self.turn(0.05)


@pytest.fixture
def bus() -> Iterator[Bus]:
    with running_bus() as found:
        yield found


@pytest.fixture
def echo(bus: Bus) -> Iterator[OnThread[Echo]]:
    runner = OnThread(Echo(bus)).wait()
    bus.eventually(lambda broker: b"pi.echo.echo" in broker.services, "the service is there")
    yield runner
    runner.stop()


@pytest.fixture
def loop() -> Iterator[Caller]:
    made = Caller()
    yield made
    made.destroy()


def test_calls_are_answered_in_their_order(bus: Bus, echo: OnThread[Echo], loop: Caller) -> None:
    caller = BusCaller(loop, bus.address)
    got: list[Any] = []
    for number in range(20):
        caller.call("pi.echo.echo", [b"say", str(number).encode()], got.append, LIMIT)
    loop.until(lambda: len(got) == 20)
    assert got == [[f'"{number}"'.encode(), MDP.OK] for number in range(20)]
    caller.close()


def test_a_connection_that_nobody_needs_is_closed(
    bus: Bus, echo: OnThread[Echo], loop: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = BusCaller(loop, bus.address)
    got: list[Any] = []
    caller.call("pi.echo.echo", [b"say", b"1"], got.append, LIMIT)
    loop.until(lambda: got)
    assert caller.connected
    monkeypatch.setattr(buscall, "IDLE", 0.05)
    caller.call("pi.echo.echo", [b"say", b"2"], got.append, LIMIT)
    loop.until(lambda: not caller.connected)
    caller.call("pi.echo.echo", [b"say", b"3"], got.append, LIMIT)
    loop.until(lambda: len(got) == 3)
    assert [frames[0] for frames in got] == [b'"1"', b'"2"', b'"3"']
    caller.close()


def test_a_connection_that_is_needed_is_kept(
    bus: Bus, echo: OnThread[Echo], loop: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long an answer takes."""
    monkeypatch.setattr(buscall, "IDLE", 0.01)
    caller = BusCaller(loop, bus.address)
    got: list[Any] = []
    caller.call("pi.echo.echo", [b"say", b"1"], got.append, LIMIT)
    caller.call("pi.echo.echo", [b"hold"], got.append, LIMIT)
    loop.until(lambda: echo.call(lambda: len(echo.executive.held)) == 1)
    late: list[bool] = []
    loop.call_later(0.1, late.append, True)
    loop.until(lambda: late)
    assert caller.connected
    echo.call(lambda: echo.executive.held[0].reply("at last"))
    loop.until(lambda: len(got) == 2)
    assert got[1] == [b'"at last"', MDP.OK]
    caller.close()


def test_a_refusal_is_an_answer(bus: Bus, echo: OnThread[Echo], loop: Caller) -> None:
    caller = BusCaller(loop, bus.address)
    got: list[Any] = []
    caller.call("pi.echo.echo", [b"fly"], got.append, LIMIT)
    loop.until(lambda: got)
    assert got[0][-1] == MDP.NOT_IMPLEMENTED
    caller.close()


def test_a_late_answer_is_not_taken_for_the_next_one(bus: Bus, echo: OnThread[Echo], loop: Caller) -> None:
    caller = BusCaller(loop, bus.address)
    got: list[Any] = []
    # It lives for longer than it is waited for: on a busy machine it takes a while until it is begun.
    caller.call("pi.echo.echo", [b"hold"], got.append, 0.05, lifetime=LIMIT)
    loop.until(lambda: got)
    assert got == [None]
    caller.call("pi.echo.echo", [b"say", b"next"], got.append, LIMIT)
    loop.until(lambda: echo.call(lambda: len(echo.executive.held)) == 1)
    echo.call(lambda: echo.executive.held[0].reply("late"))
    loop.until(lambda: len(got) == 2)
    assert got[1] == [b'"next"', MDP.OK]
    caller.close()


def test_what_nobody_waits_for_any_more_is_not_begun(bus: Bus, loop: Caller) -> None:
    caller = BusCaller(loop, bus.address)
    got: list[Any] = []
    caller.call("pi.echo.echo", [b"say", b"too late"], got.append, 0.05)
    # It was sent a little after its time had begun to be counted here.
    over = time.monotonic() + 0.06
    loop.until(lambda: got and time.monotonic() > over)
    assert got == [None]
    runner = OnThread(Echo(bus)).wait()
    try:
        caller.call("pi.echo.echo", [b"say", b"in time"], got.append, LIMIT)
        loop.until(lambda: len(got) == 2)
        assert runner.call(lambda: runner.executive.said) == ["in time"]
    finally:
        runner.stop()
    caller.close()


def test_a_call_that_is_made_again_under_its_id_is_done_once(bus: Bus, loop: Caller) -> None:
    caller = BusCaller(loop, bus.address)
    got: list[Any] = []
    identity = MDP.new_id()
    runner = OnThread(Echo(bus)).wait()
    try:
        for _ in range(2):
            caller.call("pi.echo.echo", [b"hold"], got.append, 0.2, identity=identity, lifetime=LIMIT)
        loop.until(lambda: len(got) == 2)
        assert got == [None, None]
        loop.until(lambda: runner.call(lambda: len(runner.executive.held)) == 1)
        # The repeat waits at the broker, and is answered as the first one was.
        runner.call(lambda: runner.executive.held[0].reply("done"))
        caller.call("pi.echo.echo", [b"say", b"after them"], got.append, LIMIT)
        loop.until(lambda: len(got) == 3)
        assert runner.call(lambda: len(runner.executive.held)) == 1
    finally:
        runner.stop()
    caller.close()


def test_a_call_may_live_longer_than_it_is_waited_for(bus: Bus, loop: Caller) -> None:
    caller = BusCaller(loop, bus.address)
    got: list[Any] = []
    caller.call("pi.echo.echo", [b"hold"], got.append, 0.05, lifetime=LIMIT)
    caller.call("pi.echo.echo", [b"hold"], got.append, 0.05)
    loop.until(lambda: len(got) == 2)
    over = time.monotonic() + 0.06
    loop.until(lambda: time.monotonic() > over)
    runner = OnThread(Echo(bus)).wait()
    try:
        caller.call("pi.echo.echo", [b"say", b"after them"], got.append, LIMIT)
        loop.until(lambda: runner.call(lambda: len(runner.executive.held)) == 1)
        runner.call(lambda: runner.executive.held[0].reply("done"))
        loop.until(lambda: len(got) == 3)
        assert runner.call(lambda: len(runner.executive.held)) == 1, "the second one was late"
    finally:
        runner.stop()
    caller.close()


def test_without_a_broker_nothing_comes(loop: Caller) -> None:
    with short_directory() as directory:
        caller = BusCaller(loop, f"ipc://{directory}/none")
        got: list[Any] = []
        caller.call("x", [b"y"], got.append, 0.05)
        caller.call("x", [b"y"], got.append, 0.05)
        loop.until(lambda: len(got) == 2)
        assert got == [None, None]
        caller.close()


def test_what_waits_is_bounded_and_forgotten_at_the_end(loop: Caller) -> None:
    with short_directory() as directory:
        caller = BusCaller(loop, f"ipc://{directory}/none")
        got: list[Any] = []
        for _ in range(WAITING + 1):
            caller.call("x", [b"y"], got.append, LIMIT)
        with pytest.raises(MDP.ClientError, match=f"{WAITING} requests wait"):
            caller.call("x", [b"y"], got.append, LIMIT)
        caller.close()
        loop.turn(0)
        assert got == []


def test_what_raises_costs_the_others_nothing(bus: Bus, echo: OnThread[Echo], loop: Caller) -> None:
    caller = BusCaller(loop, bus.address)
    got: list[Any] = []

    def broken(reply: list[bytes] | None) -> None:
        raise ValueError("a bug")

    caller.call("pi.echo.echo", [b"say", b"1"], broken, LIMIT)
    caller.call("pi.echo.echo", [b"say", b"2"], got.append, LIMIT)
    loop.until(lambda: got)
    assert loop.errors == 1
    caller.close()
