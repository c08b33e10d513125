"""Which passwords are taken, and what is kept of one."""

from __future__ import annotations

import base64
import hashlib
import threading
import time
import tracemalloc
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raspy.web.auth import passwords
from raspy.web.auth.passwords import (
    COMMON,
    BadPassword,
    Overloaded,
    check_new,
    hash_password,
    is_stored,
    verify,
)
from tests.web.hand import cheap

LOOSE = ["c2FsdHNhbHR=$" + "A" * 43 + "=", "c2FsdHNhbHQ=$" + "A" * 42 + "B="]
"""What a careless decoder takes."""
GOOD = "heron under the bridge"


def test_a_password_fits_what_was_kept_of_it_and_no_other_does() -> None:
    stored = hash_password(GOOD)
    assert verify(GOOD, stored)
    for other in (GOOD[:-1], GOOD + " ", GOOD.upper(), "", "\0", GOOD + "\0"):
        assert not verify(other, stored)
    assert GOOD not in stored
    assert is_stored(stored)
    assert hash_password(GOOD) != stored, "each has a salt of its own"


def test_the_figures_are_those_of_the_cheat_sheet() -> None:
    _, n, r, p, salt, found = hash_password(GOOD).split("$")
    assert (int(n), int(r), int(p)) == (2**14, 8, 5)
    assert len(base64.b64decode(salt)) == 16
    assert len(base64.b64decode(found)) == 32


def test_the_vector_of_rfc_7914_fits() -> None:
    """Section 12: P="pleaseletmein", S="SodiumChloride", N=16384, r=8, p=1; the first 32 bytes of it."""
    wanted = bytes.fromhex("7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2")
    salt = base64.b64encode(b"SodiumChloride").decode()
    stored = f"scrypt$16384$8$1${salt}${base64.b64encode(wanted).decode()}"
    assert verify("pleaseletmein", stored)
    assert not verify("pleaseletmeim", stored)


def test_a_composed_and_a_decomposed_letter_are_the_same_password() -> None:
    text = "écluse du château"
    apart = unicodedata.normalize("NFD", text)
    assert apart != text
    assert verify(apart, cheap(text))


@settings(max_examples=300)
@given(st.binary(max_size=40), st.integers(0, 120), st.sampled_from(["cut", "put", "flip"]))
def test_a_damaged_hash_fits_nothing_and_raises_nothing(junk: bytes, at: int, how: str) -> None:
    stored = cheap(GOOD).encode()
    at = min(at, len(stored) - 1)
    if how == "cut":
        damaged = stored[:at]
    elif how == "put":
        damaged = stored[:at] + junk + stored[at:]
    else:
        damaged = stored[:at] + bytes([stored[at] ^ 1]) + stored[at + 1 :]
    text = damaged.decode("utf-8", "replace")
    if text != stored.decode():
        assert not verify(GOOD, text)


@pytest.mark.parametrize(
    "figures",
    ["0$1$1", "1$1$1", "3$1$1", "16777216$8$1", "1048576$8$1", "16384$99$1", "2$1$0", "16384$8$999", "-2$1$1", "2$0$1"],
)
def test_figures_that_would_eat_the_memory_or_the_day_are_refused(figures: str) -> None:
    tail = cheap(GOOD).split("$", 4)[4]
    stored = f"scrypt${figures}${tail}"
    assert not is_stored(stored)
    assert not verify(GOOD, stored)


def test_the_largest_figures_that_are_taken_are_within_the_bounds() -> None:
    stored = "scrypt$65536$8$1$" + cheap(GOOD).split("$", 4)[4]
    assert is_stored(stored)
    assert not is_stored(stored.replace("65536", "131072"))
    assert not verify(GOOD, stored)


@pytest.mark.parametrize(
    "tail",
    [
        "$",
        "AAAA$AAAA",
        "c2FsdHNhbHQ=$QUJD",
        "c2FsdHNhbHQ$" + "A" * 44,
        "!$!",
        *LOOSE,
    ],
)
def test_a_salt_or_a_hash_that_is_none_is_refused(tail: str) -> None:
    assert not is_stored(f"scrypt$2$1$1${tail}")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "short"),
        ("1234567", "short"),
        ("e\u0301" * 7, "short"),
        ("x" * 257, "long"),
        ("ab" * 5000, "long"),
        ("aaaaaaaa", "repeated"),
        ("abababababab", "repeated"),
        ("        ", "repeated"),
        ("password", "known"),
        ("PassWord", "known"),
        ("pass-word", "known"),
        ("Raspberry", "known"),
        ("1234 5678", "known"),
        ("Tank-Pi-1", "known"),
        ("two\nlines here", "control"),
        ("bell\x07 bell bell", "control"),
        ("half \ud83d of a sign", "control"),
    ],
)
def test_a_password_that_breaks_a_rule_is_refused_with_a_reason(text: str, rule: str) -> None:
    with pytest.raises(BadPassword, match="password") as caught:
        check_new(text, "tankpi1")
    assert caught.value.rule == rule
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    "text", [GOOD, "8letters", "mot de passe!?x ", "пароль-рыба", "🐟🐠🐡🦐🦑🐙🐚🪸", "x1" + "y" * 254]
)
def test_a_password_that_breaks_none_is_taken(text: str) -> None:
    check_new(text, "pi1")
    assert verify(text, cheap(unicodedata.normalize("NFC", text)))


def test_every_common_one_would_pass_the_other_rules() -> None:
    for text in COMMON:
        with pytest.raises(BadPassword) as caught:
            check_new(text)
        assert caught.value.rule == "known", f"{text} need not be in the list"


def test_what_is_no_text_fits_nothing() -> None:
    assert not verify("\ud83d", cheap(GOOD))
    assert not verify("x" * 100_000_000, cheap(GOOD))


def test_only_one_is_looked_at_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    inside, most, lock = 0, 0, threading.Lock()
    real = hashlib.scrypt

    def counted(*words: bytes, **more: int) -> bytes:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        found = real(*words, **more)  # type: ignore[arg-type]
        with lock:
            inside -= 1
        return found

    monkeypatch.setattr(hashlib, "scrypt", counted)
    stored = cheap(GOOD, n=1024, r=8)
    most = 0
    threads = [threading.Thread(target=verify, args=(GOOD, stored)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert most == 1
    assert inside == 0


def test_who_waits_too_long_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "PATIENCE", 0.01)
    with passwords._one, pytest.raises(Overloaded):
        verify(GOOD, cheap(GOOD))
    assert verify(GOOD, cheap(GOOD)), "and the next one has its turn"


def test_a_long_text_is_refused_before_it_is_worked_on() -> None:
    text = "é" * 10_000_000
    tracemalloc.start()
    try:
        before = time.process_time()
        assert not verify(text, cheap(GOOD))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        assert time.process_time() - before < 5
    finally:
        tracemalloc.stop()
