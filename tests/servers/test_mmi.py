"""The broker's own services from inside. What shows on the wire of a broker in its own process is in
tests/conformance."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Iterator

import pytest

from raspy import __version__
from raspy.common import MDP
from raspy.servers.broker import broker as broker_module
from raspy.servers.broker import mmi
from raspy.servers.broker.mmi import PATTERN_LIMIT, TooSlow, limited_matches
from tests.bus import Bus, eventually, running_bus
from tests.conformance.stage import unique
from tests.support_devices import LIMIT

NAMES = [b"pi.onewire.devices", b"pi.onewire.mmi", b"pi.web.mmi", b"\xff\x00"]


@pytest.fixture
def bus() -> Iterator[Bus]:
    with running_bus(heartbeat=60_000) as running:
        yield running


# ---------------------------------------------------------------- patterns


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pattern that ends has its time, however long the machine is busy with something else."""
    monkeypatch.setattr(mmi, "PATTERN_TIME", LIMIT)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        (rb"mmi$", NAMES[1:3]),
        (rb"^pi\.onewire\.", NAMES[:2]),
        (rb"", NAMES),
        (rb"MMI", []),
        (rb"(?i)MMI", NAMES[1:3]),
        (rb"\xff", NAMES[3:]),
        (b"\xff\x00", NAMES[3:]),
    ],
)
def test_names_are_found_by_a_pattern(patient: None, pattern: bytes, found: list[bytes]) -> None:
    assert limited_matches(pattern, NAMES) == found


@pytest.mark.parametrize("pattern", [b"(", b"[a", b"*", b"a{2,1}", b"(?P<1>a)", b"\\"])
def test_what_is_no_pattern_is_an_error(patient: None, pattern: bytes) -> None:
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(re.error):
        limited_matches(pattern, NAMES)
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.parametrize("pattern", [b"^(a+)+$", b"^(a|aa)+$", b"(a*)*b"])
def test_a_pattern_that_takes_for_ever_is_ended(pattern: bytes) -> None:
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(TooSlow, match="more than 20 ms"):
        limited_matches(pattern, [b"a" * 200 + b"!"])
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_the_limit_is_over_all_names_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmi, "PATTERN_TIME", 0.005)
    with pytest.raises(TooSlow):
        limited_matches(b"^(a+)+$", [b"a" * 12 + b"!"] * 1_000_000)


def test_without_a_way_to_limit_it_nothing_is_matched() -> None:
    refused: list[BaseException] = []

    def match() -> None:
        try:
            limited_matches(b"mmi", NAMES)
        except TooSlow as error:
            refused.append(error)

    thread = threading.Thread(target=match)
    thread.start()
    thread.join()
    assert "in its own process" in str(refused[0])


# ---------------------------------------------------------------- the services


def test_discovery_without_a_pattern_tells_all(bus: Bus) -> None:
    for name in (b"b", b"a"):
        bus.stage.idle_worker(name)
    bus.stage.client().request(b"only asked for", b"work")
    client = bus.stage.client()
    assert client.ask(b"mmi.discovery", b"") == [b"a", b"b", b"200"]
    assert client.ask(b"mmi.services", b"") == [b"a", b"b", b"200"]


def test_patterns_that_take_long_get_a_share_of_the_time(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(mmi, "monotonic", lambda: now[0])

    def slow(pattern: bytes, names: list[bytes]) -> list[bytes]:
        now[0] += 0.02
        raise TooSlow("too slow")

    monkeypatch.setattr(mmi, "limited_matches", slow)
    client = bus.stage.client()
    statuses = [client.ask(b"mmi.discovery", b"x")[-1] for _ in range(50)]
    # 0.1 s ahead, and no more of them while no time passes; names without a pattern cost nothing.
    assert statuses == [b"400"] * 6 + [b"503"] * 44
    assert client.ask(b"mmi.discovery", b"") == [b"200"]
    now[0] += 0.5
    assert client.ask(b"mmi.discovery", b"x")[-1] == b"400"


def test_one_turn_ends_though_more_requests_wait(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "TURN", 0.0)
    client = bus.stage.client()
    for _ in range(20):
        client.request(b"mmi.version", b"")
    bus.eventually(lambda broker: broker._requests.value == 20)
    assert bus.call(lambda broker: broker._batch) < broker_module.BATCH


def test_discovery_refuses_with_a_reason(bus: Bus) -> None:
    bus.stage.idle_worker(b"a")
    client = bus.stage.client()
    reason, status = client.ask(b"mmi.discovery", b"a" * (PATTERN_LIMIT + 1))
    assert status == b"400"
    assert "256 bytes" in json.loads(reason)
    reason, status = client.ask(b"mmi.discovery", b"a")
    assert (status, json.loads(reason)) == (b"400", "patterns are answered by a broker in its own process only")


def test_a_bad_pattern_is_shown_in_the_reason(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(pattern: bytes, names: list[bytes]) -> list[bytes]:
        re.compile(pattern)
        return names

    monkeypatch.setattr(mmi, "limited_matches", broken)  # the broker of this test is on a thread
    reason, status = bus.stage.client().ask(b"mmi.discovery", b"(\xff\n")
    assert status == b"400"
    assert json.loads(reason).startswith("'(�\\n' is no regular expression: missing ), unterminated subpattern")


def test_a_pattern_that_re_refuses_with_another_error_is_a_bad_one(
    bus: Bus, patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mmi.threading, "main_thread", mmi.threading.current_thread)
    monkeypatch.setattr(mmi.signal, "signal", lambda *_: None)
    reason, status = bus.stage.client().ask(b"mmi.discovery", b"(?a)(?L)x")
    assert (status, json.loads(reason).partition(": ")[0]) == (b"400", "'(?a)(?L)x' is no regular expression")


def test_workers_of_one_service_and_of_all(bus: Bus) -> None:
    client, busy, idle = bus.stage.client(), unique(), b"caf\xe9"
    bus.stage.busy_worker(busy, client, b"work")
    client.request(busy, b"waits")
    bus.stage.idle_workers(idle, 2)
    expected = {"workers": 1, "idle": 0, "waiting": 1, "ours": False}
    other = bus.stage.client()
    told, status = other.ask(b"mmi.workers", busy)
    assert (json.loads(told), status) == (expected, b"200")
    told, status = other.ask(b"mmi.workers", b"")
    assert status == b"200"
    assert json.loads(told) == {
        busy.decode(): expected,
        "caf\\xe9": {"workers": 2, "idle": 2, "waiting": 0, "ours": False},
    }
    told, status = other.ask(b"mmi.workers", b"nobody's\x00")
    assert (json.loads(told), status) == ('no worker of "nobody\'s\\x00"', b"404")


def test_workers_of_a_service_that_waits_for_its_first(bus: Bus) -> None:
    client, name = bus.stage.client(), unique()
    client.request(name, b"work")
    assert client.ask(b"mmi.workers", name)[-1] == b"404"
    assert client.ask(b"mmi.service", name) == [b"404"]


@pytest.mark.parametrize("lifetime", [None, 2.0])
def test_an_id_before_what_is_asked_makes_no_difference(bus: Bus, lifetime: float | None) -> None:
    """As our servers ask, which do not look at whom they ask."""
    bus.stage.idle_worker(b"a")
    client, mark = bus.stage.client(), MDP.id_frame(MDP.new_id(), lifetime)
    assert client.ask(b"mmi.service", mark, b"a") == [b"200"]
    assert client.ask(b"mmi.service", mark, b"b") == [b"404"]
    assert client.ask(b"mmi.services", mark) == [b"a", b"200"]
    assert client.ask(b"mmi.workers", mark, b"b")[-1] == b"404"
    assert client.ask(b"mmi.restart", mark, b"1") == client.ask(b"mmi.restart", b"1")
    assert client.ask(b"mmi.nothing", mark, b"a") == [b"501"]


def test_statistics_of_broker_and_proxy(bus: Bus) -> None:
    told, status = bus.stage.client().ask(b"mmi.statistics", b"")
    counters = json.loads(told)
    assert status == b"200"
    assert counters["broker.requests"] == 1
    assert {"broker.malformed", "broker.held_bytes", "tree_keys", "refused_updates"} <= set(counters)


def test_version(bus: Bus) -> None:
    assert bus.stage.client().ask(b"mmi.version", b"") == [__version__.encode(), b"200"]


@pytest.mark.parametrize("name", [b"mmi.", b"mmi.titanic", b"mmi.Service", b"mmi.service.", b"mmi.\xff"])
def test_what_the_broker_does_not_have(bus: Bus, name: bytes) -> None:
    assert bus.stage.client().ask(name, b"anything", b"at all") == [b"501"]


def test_a_flood_of_questions_is_held_for_who_does_not_read(bus: Bus) -> None:
    """The broker's own answers are in the same memory as all replies."""
    name = b"n" * 255
    for number in range(50):
        bus.stage.worker(b"%03d" % number + name[3:])
    bus.eventually(lambda broker: len(broker.workers) == 50)
    dealer = bus.dealer(rcvhwm=1, sndhwm=0)
    for _ in range(1500):
        dealer.send_multipart([b"", b"MDPC01", b"mmi.services", b""])
    bus.eventually(lambda broker: broker._requests.value == 1500)
    for _ in range(1500):
        assert dealer.poll(int(LIMIT * 1000))
        assert len(dealer.recv_multipart()) == 54
    bus.at_rest()
    assert bus.statistic("replies_dropped") == 0


def test_the_log_of_the_broker(bus: Bus) -> None:
    client = bus.stage.client()
    told, status = client.ask(b"mmi.log", b"5")
    assert status == b"200"
    assert len(json.loads(told)) <= 5
    assert client.ask(b"mmi.log", MDP.id_frame(MDP.new_id(), 5.0))[-1] == b"200"
    for wrong in (b"x", b"-1", b"\xff", b"9" * 12):
        assert client.ask(b"mmi.log", wrong)[-1] == b"400"


def test_the_broker_is_restarted_once(bus: Bus) -> None:
    client = bus.stage.client()
    an_id = MDP.id_frame(MDP.new_id(), 5.0)
    assert client.ask(b"mmi.restart", b"1")[-1] == b"409"
    assert client.ask(b"mmi.restart", an_id, b"1")[-1] == b"409"
    broker = bus.runner.executive
    assert not broker.again
    assert client.ask(b"mmi.restart", str(os.getpid()).encode())[-1] == b"200"
    eventually(lambda: broker.again, "it ends to be started again")
    bus.restart()
