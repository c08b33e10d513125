"""Guesses are slowed, by a clock that the test turns."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raspy.web.auth.throttle import ADDRESSES, ALL, ATTEMPTS, KNOWN, QUIET, Throttle, TooMany, is_local, network

HERE = "192.168.1.20"
PUBLIC = ["8.8.8.8", "172.32.0.1", "100.64.0.1", "192.0.2.1", "203.0.113.9", "0.0.0.0", "2001:db8::1", "::"]
PUBLIC += ["::ffff:8.8.8.8", "fec0::1", "64:ff9b::c0a8:7", "2002:c0a8:7::1"]


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def throttle(clock: Clock) -> Throttle:
    return Throttle(clock)


def wrong(throttle: Throttle, times: int, address: str = HERE) -> None:
    for _ in range(times):
        throttle.begin(address)


def wait_of(throttle: Throttle, address: str = HERE) -> int:
    with pytest.raises(TooMany) as caught:
        throttle.begin(address)
    return caught.value.seconds


def test_ten_wrong_ones_slow_the_eleventh(throttle: Throttle) -> None:
    wrong(throttle, ATTEMPTS)
    assert wait_of(throttle) == 5


def test_the_wait_doubles_up_to_a_quarter_of_an_hour(throttle: Throttle, clock: Clock) -> None:
    wrong(throttle, ATTEMPTS)
    waits = []
    for _ in range(12):
        waits.append(wait_of(throttle))
        clock.time += waits[-1]
        throttle.begin(HERE)
    assert waits == [5, 10, 20, 40, 80, 160, 320, 640, 900, 900, 900, 900]


def test_who_asks_meanwhile_waits_no_longer(throttle: Throttle, clock: Clock) -> None:
    wrong(throttle, ATTEMPTS)
    for _ in range(100):
        assert wait_of(throttle) == 5
    clock.time += 4.5
    assert wait_of(throttle) == 1
    clock.time += 0.5
    throttle.begin(HERE)


def test_slow_mistakes_are_never_slowed(throttle: Throttle, clock: Clock) -> None:
    for _ in range(100):
        throttle.begin(HERE)
        clock.time += 101


def test_the_wait_is_not_forgotten_while_one_waits(throttle: Throttle, clock: Clock) -> None:
    wrong(throttle, ATTEMPTS)
    for _ in range(9):
        clock.time += 900
        throttle.begin(HERE)
    assert wait_of(throttle) == 900


def test_a_quiet_day_begins_anew(throttle: Throttle, clock: Clock) -> None:
    wrong(throttle, ATTEMPTS)
    clock.time += QUIET + 1
    wrong(throttle, ATTEMPTS)
    assert wait_of(throttle) == 5


def test_the_right_one_begins_anew(throttle: Throttle) -> None:
    for _ in range(10):
        wrong(throttle, ATTEMPTS)
        throttle.right(HERE)


def test_other_addresses_do_not_wait(throttle: Throttle) -> None:
    wrong(throttle, ATTEMPTS)
    throttle.begin("192.168.1.21")


def test_fifty_of_all_slow_everybody_but_who_is_known(throttle: Throttle, clock: Clock) -> None:
    throttle.know("192.168.1.9")
    for number in range(ALL):
        throttle.begin(f"10.0.0.{number}")
    assert wait_of(throttle, "10.9.9.9") == 5
    throttle.begin("192.168.1.9")
    clock.time += 5
    throttle.begin("10.9.9.9")
    assert wait_of(throttle, "10.9.9.10") == 10


def test_who_is_known_is_slowed_all_the_same(throttle: Throttle) -> None:
    throttle.right(HERE)
    wrong(throttle, ATTEMPTS)
    assert wait_of(throttle) == 5


def test_what_was_not_looked_at_does_not_count(throttle: Throttle) -> None:
    wrong(throttle, ATTEMPTS - 1)
    for _ in range(50):
        throttle.begin(HERE)
        throttle.undo(HERE)
    throttle.begin(HERE)
    assert wait_of(throttle) == 5


def test_right_ones_do_not_slow_others(throttle: Throttle) -> None:
    for number in range(3 * ALL):
        throttle.begin(f"10.0.{number}.1")
        throttle.right(f"10.0.{number}.1")
    throttle.begin("10.9.9.9")


def test_all_addresses_of_a_network_of_ipv6_are_one(throttle: Throttle) -> None:
    for number in range(ATTEMPTS):
        throttle.begin(f"2001:db8:1:2::{number:x}")
    assert wait_of(throttle, "2001:db8:1:2:ffff::1") == 5
    throttle.begin("2001:db8:1:3::1")


def test_ipv4_in_the_clothes_of_ipv6_is_the_same_address(throttle: Throttle) -> None:
    wrong(throttle, ATTEMPTS)
    assert wait_of(throttle, f"::ffff:{HERE}") == 5
    throttle.begin("::ffff:192.168.1.21")


def test_at_once_is_no_way_around(throttle: Throttle) -> None:
    passed = []
    gate = threading.Barrier(30)

    def attempt() -> None:
        gate.wait(20)
        try:
            throttle.begin(HERE)
        except TooMany:
            return
        passed.append(1)

    threads = [threading.Thread(target=attempt) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(passed) == ATTEMPTS


def test_what_is_known_is_bounded(throttle: Throttle, clock: Clock) -> None:
    for number in range(1000):
        clock.time += 1000
        address = f"2001:db8:{number:x}::1"
        throttle.begin(address)
        throttle.know(address)
    assert len(throttle._records) == ADDRESSES
    assert len(throttle._known) == KNOWN


@given(st.text(max_size=60) | st.ip_addresses().map(str))
def test_any_address_is_taken(address: str) -> None:
    throttle = Throttle()
    throttle.begin(address)
    throttle.right(address)
    assert isinstance(is_local(address), bool)
    assert len(network(address)) <= 40


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.31.0.1",
        "192.168.0.7",
        "169.254.3.3",
        "::1",
        "fe80::1%eth0",
        "fd00::7",
        "::ffff:192.168.0.7",
        "fe80::aa",
    ],
)
def test_addresses_of_this_network(address: str) -> None:
    assert is_local(address, "/nowhere")


@pytest.mark.parametrize(
    "address",
    [
        *PUBLIC,
        "",
        "localhost",
        "192.168.0",
        "192.168.0.7, 8.8.8.8",
        "\x00",
    ],
)
def test_addresses_of_outside(address: str) -> None:
    assert not is_local(address, "/nowhere")


def test_a_neighbour_in_a_public_network_of_ipv6_is_local(tmp_path: Path) -> None:
    table = tmp_path / "if_inet6"
    table.write_text(
        "20010db8000100020000000000000005 02 40 00 80     eth0\n"
        "fe800000000000000000000000000005 02 40 20 80     eth0\n"
        "00000000000000000000000000000001 01 80 10 80       lo\n"
    )
    assert is_local("2001:db8:1:2::77", str(table))
    assert not is_local("2001:db8:1:3::77", str(table))
    assert not is_local("::2", str(table))
    table.write_text("junk\n\nzz 1 2 00 4 x\n")
    assert not is_local("2001:db8:1:2::77", str(table))


def test_the_table_of_the_kernel_is_understood() -> None:
    assert not is_local("2001:db8:1:2::77")
