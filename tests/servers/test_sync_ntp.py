"""What NTP servers say, what of it is believed, and what they agree on."""

from __future__ import annotations

import struct
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raspy.common.clock import BUILT
from raspy.servers.sync import ntp
from raspy.servers.sync.ntp import NTPError, Sample, agree
from raspy.servers.sync.sources import EASE, LONGEST_INTERVAL, MOST_DENIED, Source
from tests.servers.ntp_stage import DELTA, NtpServer, ntp_servers, stamp

YEAR = 31_556_952.0


def ask(server: NtpServer, timeout: float = 0.5) -> Sample:
    host, _, port = server.name.partition(":")
    return ntp.ask(server.name, host, int(port), timeout, time.time, time.monotonic)


@pytest.mark.parametrize("ahead", [0.0, 3.25, -7200.0, YEAR])
def test_a_server_is_measured(ahead: float) -> None:
    with ntp_servers(("right", ahead)) as (server,):
        began = time.monotonic()
        sample = ask(server, 10)
        took = time.monotonic() - began
    assert 0 <= sample.delay <= took
    # As wrong as it can be when all of the delay was on the way there, or back: on a busy machine it is long.
    assert abs(sample.offset - ahead) <= sample.delay / 2 + 0.001
    assert sample.stratum == 2
    assert sample.distance == pytest.approx(sample.delay / 2 + 0.015, abs=0.001)
    assert sample.base == pytest.approx(time.time() - time.monotonic(), abs=0.05)


def test_a_request_tells_nothing_of_this_machine() -> None:
    with ntp_servers(("right", 0.0)) as (server,):
        ask(server, 10)
        ask(server, 10)
    first, second = server.requests
    assert first[:40] == second[:40] == b"\x23" + bytes(39)
    assert first[40:] != second[40:]
    assert len(first) == 48


REFUSED = {
    "unsynchronised": ("unsynchronised", "its own clock is not set"),
    "stratum": ("unsynchronised", "stratum 16"),
    "mute": ("mute", "no answer within 0.5 s"),
    "short": ("garbage", "47 bytes"),
    "noise": ("garbage", "another request"),
    "stranger": ("garbage", "another request"),
    "client": ("garbage", "mode 3"),
    "far": ("distance", "may be wrong by"),
    "stale": ("holdover", "more than a day"),
    "backwards": ("garbage", "contradict"),
    "zero": ("garbage", "contradict"),
    "DENY": ("kiss", "DENY (kiss-o'-death)"),
    "RATE": ("kiss", "RATE (kiss-o'-death)"),
}


@pytest.mark.parametrize("mode", REFUSED)
def test_what_is_not_believed(mode: str) -> None:
    kind, reason = REFUSED[mode]
    # Who gets no answer waits for all of the time, and the others only until theirs is here.
    timeout = {"mute": 0.5, "short": 2.0, "noise": 2.0, "stranger": 2.0}.get(mode, 10.0)
    with ntp_servers((mode, 0.0)) as (server,), pytest.raises(NTPError, match=r"\w") as caught:
        ask(server, timeout)
    assert caught.value.kind == kind
    assert reason in str(caught.value)


def test_a_long_way_back_is_not_believed() -> None:
    with ntp_servers(("slow", 0.0)) as (server,), pytest.raises(NTPError, match="the way there and back") as caught:
        ask(server, 10)
    assert caught.value.kind == "delay"


def test_times_that_cannot_be_are_not_believed() -> None:
    ahead = BUILT - 43_200 - time.time()
    day = datetime.fromtimestamp(BUILT - 43_200, UTC).date()
    with ntp_servers(("right", ahead)) as (server,), pytest.raises(NTPError, match=f"it says {day}") as caught:
        ask(server, 10)
    assert caught.value.kind == "implausible"


def at(*places: tuple[int, str]) -> list[ntp.Address]:
    return [(family, where, ()) for family, where in places]


def test_a_server_of_two_names_is_asked_once() -> None:
    with ntp_servers(("right", 0.0)) as (server,):
        host, _, port = server.name.partition(":")
        taken: dict[str, str] = {}
        ntp.ask("a", host, int(port), 10, time.time, time.monotonic, taken)
        with pytest.raises(NTPError, match=f"the same server as a, at {server.name}") as caught:
            ntp.ask("b", "127.1", int(port), 10, time.time, time.monotonic, taken)
        assert caught.value.kind == "twin"
        assert len(server.requests) == 1


def test_names_of_a_pool_take_different_servers() -> None:
    pool, taken = at((2, "a"), (2, "b"), (2, "c")), {}
    found = [ntp.choose(name, pool, taken, {"b": "DENY"})[1] for name in ("0", "1")]
    assert found == ["a", "c"]
    with pytest.raises(NTPError, match="the same server as 0"):
        ntp.choose("2", pool, taken, {"b": "DENY"})
    with pytest.raises(NTPError, match=r"RSTR .* x is not asked again"):
        ntp.choose("3", at((2, "x")), taken, {"x": "RSTR"})
    # Its other address may be the same machine's.
    with pytest.raises(NTPError, match="the same server"):
        ntp.choose("4", at((2, "a"), (10, "six")), taken, {})


def test_how_an_address_is_called() -> None:
    assert ntp.where(("192.168.1.1", 123)) == "192.168.1.1:123"
    assert ntp.where(("fd00::1", 123, 0, 0)) == "[fd00::1]:123"


def test_a_name_that_is_none() -> None:
    with pytest.raises(NTPError) as caught:
        ntp.ask("x", "no-such-host.invalid", 123, 0.5, time.time, time.monotonic)
    assert caught.value.kind == "name"


def test_nobody_listens() -> None:
    server = NtpServer()
    server.close()
    with pytest.raises(NTPError) as caught:
        ask(server)
    assert caught.value.kind in ("network", "mute")


def reply(received: float, reference: float | None = None) -> bytes:
    reference = received - 60 if reference is None else reference
    head = struct.pack("!BBBbII4s", 0x24, 1, 6, -20, 0, 0, b"GPS\0")
    return head + stamp(reference) + bytes(8) + stamp(received) + stamp(received)


def test_the_era_after_february_2036() -> None:
    # RFC 5905, section 6: the seconds begin at 0 again on 2036-02-07 06:28:16 UTC.
    end = 2**32 - DELTA
    for true in (end - 1.0, end + 1.0, end + 40_000_000.0):
        sample = ntp.judge("x", reply(true), true - 5.0, 0.0, 0.0)
        assert sample.offset == pytest.approx(5.0, abs=1e-3)


@given(st.binary(min_size=0, max_size=100))
def test_any_bytes_are_a_sample_or_an_error(data: bytes) -> None:
    now = time.time()
    try:
        sample = ntp.judge("x", data, now, 0.01, 0.0)
    except NTPError:
        return
    assert BUILT <= now + sample.offset <= BUILT + 41 * YEAR
    assert sample.distance <= ntp.LONGEST_DISTANCE


def sample(name: str, offset: float, base: float = 0.0, distance: float = 0.02) -> Sample:
    return Sample(name, offset, 0.01, distance, 2, base)


def test_the_median_of_the_plausible() -> None:
    found = agree([sample("a", 1.0), sample("b", 1.01), sample("c", YEAR), sample("d", 1.02)], 2)
    assert found.offset == pytest.approx(1.01)
    assert found.agreeing == ("a", "b", "d")
    assert found.answered == 4


@pytest.mark.parametrize(
    ("offsets", "wanted"),
    [([], 1), ([1.0], 2), ([0.0, YEAR], 2), ([0.0, 0.01, YEAR, YEAR], 2), ([0.0, 5.0, 10.0], 2)],
)
def test_no_agreement(offsets: list[float], wanted: int) -> None:
    with pytest.raises(NTPError):
        agree([sample(str(number), offset) for number, offset in enumerate(offsets)], wanted)


def test_offsets_taken_before_and_after_the_clock_was_set() -> None:
    # The second was measured after the clock had been set on by 2 s.
    found = agree([sample("a", 3.0, base=100.0), sample("b", 1.0, base=102.0)], 2)
    assert found.offset + found.base == pytest.approx(103.0)


def test_kisses_are_honoured() -> None:
    source = Source("ntp.example.org:1234")
    assert (source.host, source.port) == ("ntp.example.org", 1234)
    assert source.ready(0.0)
    source.take(None, NTPError("kiss", "RATE (kiss-o'-death)"), 100.0, 1024.0)
    assert not source.ready(100.0 + 2047)
    assert source.ready(100.0 + 2048)
    source.take(sample("x", 0.0), None, 3000.0, 1024.0)
    assert not source.ready(3000.0 + 2047), "it has not said that it may be asked more often again"
    for _ in range(30):
        source.take(None, NTPError("kiss", "RATE (kiss-o'-death)"), 5000.0, 1024.0)
    assert source.interval == LONGEST_INTERVAL
    refusal = NTPError("kiss", "DENY (kiss-o'-death)")
    refusal.address = "192.0.2.1:123"
    source.take(None, refusal, 5000.0, 1024.0)
    assert source.denied == {"192.0.2.1:123": "DENY"}
    assert source.problem == "DENY (kiss-o'-death): 192.0.2.1:123 is not asked again"
    for number in range(2 * MOST_DENIED):
        refusal.address = str(number)
        source.take(None, refusal, 5000.0, 1024.0)
    assert len(source.denied) == MOST_DENIED


def test_a_server_that_answers_well_is_asked_as_often_as_others_again() -> None:
    # It may be a pool's name, and have been another machine that had too much.
    source = Source("x")
    for _ in range(2):
        source.take(None, NTPError("kiss", "RATE (kiss-o'-death)"), 0.0, 1024.0)
    assert source.interval == 4096
    found = []
    for _ in range(2 * EASE):
        source.take(sample("x", 0.0), None, 0.0, 1024.0)
        found.append(source.interval)
    assert found == [4096] * (EASE - 1) + [2048] * EASE + [0]
    assert source.ready(0.0)


def test_other_kisses_are_faults_that_pass() -> None:
    source = Source("x")
    source.take(None, NTPError("kiss", "INIT (kiss-o'-death)"), 100.0, 1024.0)
    assert source.ready(100.0)
