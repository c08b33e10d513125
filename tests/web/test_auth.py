"""Who may come in: first password, log in, sessions, tokens; by clocks that the test turns."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

import pytest

from raspy.web.auth import (
    Auth,
    BadPassword,
    Overloaded,
    SetUpRefused,
    TokenError,
    TooMany,
    WrongPassword,
    facade,
    passwords,
)
from raspy.web.auth.keeper import SESSIONS, TOKENS
from tests.web.test_auth_passwords import GOOD, cheap

HERE = "192.168.1.20"
DAY = 86400.0
OTHER = "another good one"


class Clock:
    """One that is monotonic, and one on the wall."""

    def __init__(self) -> None:
        self.mono = 50.0
        self.time = 1_790_000_000.0

    def now(self) -> float:
        return self.mono

    def wall(self) -> float:
        return self.time

    def go(self, seconds: float) -> None:
        self.mono += seconds
        self.time += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def new(clock: Clock, path: str | None = None, **more: float) -> Auth:
    return Auth(path, hostname="tankpi1", now=clock.now, wall=clock.wall, **more)


@pytest.fixture
def auth(clock: Clock) -> Auth:
    """With a password that costs nothing."""
    found = new(clock)
    found.put_hash(cheap(GOOD))
    return found


def test_the_first_visitor_of_the_network_sets_the_password(clock: Clock) -> None:
    auth = new(clock)
    assert not auth.has_password
    assert auth.may_set_up(HERE) == ""
    cookie = auth.set_up(GOOD, HERE, "Firefox")
    assert auth.has_password
    session = auth.session(cookie)
    assert session is not None
    assert session.agent == "Firefox"
    assert auth.log_in(GOOD, "8.8.8.8")
    with pytest.raises(SetUpRefused, match="there is a password"):
        auth.set_up(OTHER, HERE)
    with pytest.raises(WrongPassword):
        auth.log_in(OTHER, HERE)


def test_there_is_no_password_that_fits_before_it_is_set(clock: Clock) -> None:
    auth = new(clock)
    for text in ("", "raspberry", "password", GOOD):
        with pytest.raises(WrongPassword):
            auth.log_in(text, HERE)


def test_nobody_from_outside_sets_it(clock: Clock) -> None:
    auth = new(clock)
    for address in ("8.8.8.8", "2001:db8::1", "", "100.64.0.1"):
        assert "network" in auth.may_set_up(address)
        with pytest.raises(SetUpRefused):
            auth.set_up(GOOD, address)
    assert not auth.has_password


def test_nobody_sets_it_when_the_time_is_over(clock: Clock) -> None:
    auth = new(clock, setup_minutes=30)
    clock.mono += 30 * 60 - 1
    assert auth.may_set_up(HERE) == ""
    clock.time += 10**9  # the wall clock does not count
    assert auth.may_set_up(HERE) == ""
    clock.mono += 1
    with pytest.raises(SetUpRefused, match="time"):
        auth.set_up(GOOD, HERE)
    auth.put_hash(cheap(GOOD))
    assert auth.log_in(GOOD, HERE)


def test_with_no_minutes_nobody_sets_it(clock: Clock) -> None:
    assert new(clock, setup_minutes=0).may_set_up("127.0.0.1")


@pytest.mark.parametrize("text", ["short", "password", "TankPi-1", "raspberry"])
def test_a_bad_first_password_is_refused(clock: Clock, text: str) -> None:
    auth = new(clock)
    with pytest.raises(BadPassword):
        auth.set_up(text, HERE)
    assert not auth.has_password


def test_of_two_first_visitors_one_is_refused(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    auth = new(clock)
    gate = threading.Barrier(4)
    found: list[str] = []

    def slow(text: str) -> str:
        gate.wait(20)  # all have been let in by then
        return cheap(text)

    monkeypatch.setattr(facade, "hash_password", slow)

    def visit(number: int) -> None:
        try:
            auth.set_up(f"good one number {number}", HERE)
            found.append(f"good one number {number}")
        except SetUpRefused:
            found.append("")

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(found)[:3] == ["", "", ""]
    assert auth.log_in(max(found), HERE)
    assert len(auth.sessions()) == 2


def test_each_log_in_has_a_session_of_its_own(auth: Auth) -> None:
    first, second = auth.log_in(GOOD, HERE, "Firefox"), auth.log_in(GOOD, HERE, "Chrome")
    assert first != second
    one, two = auth.session(first), auth.session(second)
    assert one is not None
    assert two is not None
    assert one.id != two.id
    assert one.csrf != two.csrf
    assert not one.owns(two.csrf)
    assert {each.agent for each in auth.sessions()} == {"Firefox", "Chrome"}
    assert not any(each.csrf for each in auth.sessions())


@pytest.mark.parametrize("cookie", ["", "x", "A" * 43, "A" * 44, "é" * 43, "A" * 42 + "\n", "\0" * 43])
def test_a_cookie_that_was_not_given_out_is_no_session(auth: Auth, cookie: str) -> None:
    auth.log_in(GOOD, HERE)
    assert auth.session(cookie) is None


def test_neither_an_id_nor_what_is_kept_is_a_cookie(auth: Auth) -> None:
    session = auth.session(auth.log_in(GOOD, HERE))
    assert session is not None
    for text in (session.id, session.csrf, auth._file.content.sessions[0].digest):
        assert auth.session(text) is None


def test_log_out_ends_one(auth: Auth) -> None:
    first, second = auth.log_in(GOOD, HERE), auth.log_in(GOOD, HERE)
    session = auth.session(first)
    assert session is not None
    assert auth.log_out(session)
    assert not auth.log_out(session)
    assert not auth.log_out("")
    assert auth.session(first) is None
    other = auth.session(second)
    assert other is not None
    assert auth.log_out(other.id)
    assert auth.sessions() == []


def test_log_out_all_ends_all_but_one(auth: Auth) -> None:
    cookies = [auth.log_in(GOOD, HERE) for _ in range(4)]
    auth.log_out_all(auth.session(cookies[2]))
    assert [auth.session(each) is not None for each in cookies] == [False, False, True, False]
    auth.log_out_all()
    assert auth.session(cookies[2]) is None


def test_a_new_password_ends_all_sessions_and_begins_one(auth: Auth) -> None:
    old = auth.log_in(GOOD, HERE)
    secret = auth.make_token("grafana")
    with pytest.raises(WrongPassword):
        auth.change("not the old one", OTHER, HERE)
    with pytest.raises(BadPassword):
        auth.change(GOOD, "short", HERE)
    assert auth.session(old) is not None
    cookie = auth.change(GOOD, OTHER, HERE)
    assert auth.session(old) is None
    assert auth.session(cookie) is not None
    assert auth.token(secret) is not None
    with pytest.raises(WrongPassword):
        auth.log_in(GOOD, HERE)
    assert auth.log_in(OTHER, HERE)


def test_a_password_that_changes_meanwhile_lets_the_old_one_not_in(auth: Auth, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(text: str, stored: str) -> bool:
        found = passwords.verify(text, stored)
        auth.put_hash(cheap(OTHER))
        return found

    monkeypatch.setattr(facade, "verify", late)
    with pytest.raises(WrongPassword):
        auth.log_in(GOOD, HERE)
    assert auth.sessions() == []


def test_a_session_ends_when_it_is_not_used(clock: Clock, tmp_path: Path) -> None:
    path = str(tmp_path / "auth.json")
    auth = new(clock, path)
    auth.put_hash(cheap(GOOD))
    used, unused = auth.log_in(GOOD, HERE), auth.log_in(GOOD, HERE)
    for _ in range(4):
        clock.go(30 * DAY)
        assert auth.session(used) is not None
    assert auth.session(unused) is None
    assert len(auth.sessions()) == 1
    clock.go(80 * DAY)
    assert new(clock, path).session(used) is not None, "its use is on the disk"
    clock.go(91 * DAY)
    assert new(clock, path).session(used) is None


def test_a_clock_that_is_set_ends_no_session_in_use(clock: Clock) -> None:
    clock.time = 0.0  # as a Pi starts without any clock
    auth = new(clock)
    auth.put_hash(cheap(GOOD))
    cookie = auth.log_in(GOOD, HERE)
    clock.time = 1_790_000_000.0
    session = auth.session(cookie)
    assert session is not None
    shown = auth.session(cookie)
    assert shown is not None
    assert shown.seen == clock.time // DAY * DAY
    clock.time = -5.0
    assert auth.session(cookie) is not None
    assert auth.log_in(GOOD, HERE)


def test_the_disk_is_written_once_a_day_for_a_session_and_a_token(clock: Clock, tmp_path: Path) -> None:
    path = tmp_path / "auth.json"
    auth = new(clock, str(path))
    auth.put_hash(cheap(GOOD))
    cookie, secret = auth.log_in(GOOD, HERE), auth.make_token("grafana")
    assert auth.token(secret) is not None
    for _ in range(3):
        before = os.stat(path).st_ino, path.read_bytes()
        for _ in range(20):
            auth.session(cookie)
            auth.token(secret)
        assert (os.stat(path).st_ino, path.read_bytes()) == before
        clock.go(DAY)
        auth.session(cookie)
        auth.token(secret)
        assert path.read_bytes() != before[1]
        assert auth.tokens()[0].used == clock.time // DAY * DAY


def test_a_disk_that_fails_ends_no_session_and_fills_no_log(
    clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "state" / "auth.json"
    auth = new(clock, str(path))
    auth.put_hash(cheap(GOOD))
    cookie = auth.log_in(GOOD, HERE)
    clock.go(2 * DAY)
    (tmp_path / "state").rename(tmp_path / "away")
    (tmp_path / "state").write_text("no directory")
    caplog.clear()
    for _ in range(50):
        assert auth.session(cookie) is not None
    assert caplog.text.count("cannot be written") == 1
    (tmp_path / "state").unlink()
    clock.go(601)
    auth.session(cookie)
    assert path.exists()


def test_there_are_fifty_sessions_and_the_one_unused_for_longest_goes(auth: Auth, clock: Clock) -> None:
    first = auth.log_in(GOOD, HERE)
    cookies = []
    for _ in range(SESSIONS):
        clock.go(60)
        cookies.append(auth.log_in(GOOD, HERE))
    assert len(auth.sessions()) == SESSIONS
    assert auth.session(first) is None
    clock.go(DAY)
    assert auth.session(cookies[0]) is not None, "used today"
    auth.log_in(GOOD, HERE)
    assert auth.session(cookies[0]) is not None
    assert auth.session(cookies[1]) is None
    assert len(auth._used) <= SESSIONS + 1


def test_of_the_sessions_of_one_day_the_one_unused_for_longest_goes(auth: Auth, clock: Clock) -> None:
    phone, other = auth.log_in(GOOD, HERE), auth.log_in(GOOD, HERE)
    for _ in range(SESSIONS):
        clock.go(1)
        assert auth.session(phone) is not None
        auth.log_in(GOOD, HERE)
    assert auth.session(phone) is not None
    assert auth.session(other) is None


def test_raspy_passwd_is_the_way_out_after_wrong_ones(auth: Auth) -> None:
    for address in (HERE, *(f"192.168.2.{number}" for number in range(4))):
        for _ in range(10):
            with pytest.raises(WrongPassword):
                auth.log_in("wrong one", address)
    for address in (HERE, "192.168.3.1"):
        with pytest.raises(TooMany):
            auth.log_in(GOOD, address)
    auth.put_hash(cheap(OTHER))
    assert auth.log_in(OTHER, HERE)
    assert auth.log_in(OTHER, "192.168.3.1")


def test_ten_wrong_passwords_slow_the_eleventh_even_if_it_is_right(auth: Auth, clock: Clock) -> None:
    for _ in range(10):
        with pytest.raises(WrongPassword):
            auth.log_in("wrong one", HERE)
    with pytest.raises(TooMany) as caught:
        auth.log_in(GOOD, HERE)
    assert caught.value.seconds == 5
    assert auth.log_in(GOOD, "192.168.1.21"), "others are not"
    clock.go(5)
    assert auth.log_in(GOOD, HERE)
    with pytest.raises(WrongPassword):
        auth.log_in("wrong one", HERE)


def test_who_is_slowed_costs_nothing(auth: Auth, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(10):
        with pytest.raises(WrongPassword):
            auth.change("wrong one", OTHER, HERE)
    monkeypatch.setattr(facade, "verify", lambda text, stored: pytest.fail("it was looked at"))
    with pytest.raises(TooMany):
        auth.log_in(GOOD, HERE)


def test_who_is_not_looked_at_is_not_slowed(auth: Auth, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "PATIENCE", 0.0)
    with passwords._one:
        for _ in range(30):
            with pytest.raises(Overloaded):
                auth.log_in(GOOD, HERE)
    assert auth.log_in(GOOD, HERE)


def test_a_session_keeps_its_address_from_the_wait_of_others(auth: Auth) -> None:
    cookie = auth.log_in(GOOD, "8.8.8.8")
    assert auth.session(cookie, HERE) is not None
    for number in range(50):
        with pytest.raises(WrongPassword):
            auth.log_in("wrong one", f"10.0.0.{number}")
    with pytest.raises(TooMany):
        auth.log_in(GOOD, "10.9.9.9")
    assert auth.log_in(GOOD, HERE)


def test_no_password_gets_into_the_log(auth: Auth, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    cookie = auth.log_in(GOOD, HERE)
    secret = auth.make_token("grafana")
    auth.token(secret)
    with pytest.raises(WrongPassword) as caught:
        auth.log_in("a wrong one", "1.2.3.4\r\nforged")
    auth.change(GOOD, OTHER, HERE)
    said = caplog.text + str(caught.value)
    for told in (GOOD, "a wrong one", OTHER, cookie, secret):
        assert told not in said
    assert "a wrong password" in said
    assert "\nforged" not in said
    assert HERE in said


def test_a_token_is_known_once_and_then_by_what_it_is(auth: Auth, clock: Clock) -> None:
    secret = auth.make_token("home assistant", "write")
    assert secret.startswith("raspy_")
    token = auth.token(secret)
    assert token is not None
    assert (token.name, token.scope, token.writes) == ("home assistant", "write", True)
    other = auth.token(auth.make_token("grafana"))
    assert other is not None
    assert not other.writes
    assert [each.name for each in auth.tokens()] == ["grafana", "home assistant"]
    bare = secret.removeprefix("raspy_")
    for text in ("", "raspy_", secret[:-1], secret + "A", bare, "raspy_" + "é" * 43, "x" * 10**6):
        assert auth.token(text) is None
    assert auth.session(bare) is None


def test_a_cookie_is_no_token(auth: Auth) -> None:
    cookie = auth.log_in(GOOD, HERE)
    assert auth.token(cookie) is None
    assert auth.token("raspy_" + cookie) is None


def test_a_token_that_is_revoked_opens_nothing(auth: Auth) -> None:
    secret = auth.make_token("grafana")
    assert auth.revoke("grafana")
    assert not auth.revoke("grafana")
    assert auth.token(secret) is None
    assert auth.make_token("grafana") != secret


@pytest.mark.parametrize("name", ["", " a", "a ", "é", "a" * 41, "a\nb", "<b>", "a/b", "-a"])
def test_a_name_that_is_none_is_refused(auth: Auth, name: str) -> None:
    with pytest.raises(TokenError, match="name"):
        auth.make_token(name)


def test_tokens_have_names_of_their_own_a_scope_and_a_bound(auth: Auth) -> None:
    auth.make_token("grafana")
    with pytest.raises(TokenError, match="already"):
        auth.make_token("grafana")
    with pytest.raises(TokenError, match="read or write"):
        auth.make_token("b", "admin")
    for number in range(TOKENS - 1):
        auth.make_token(f"t{number}")
    with pytest.raises(TokenError, match="revoke one"):
        auth.make_token("one more")


@pytest.mark.parametrize("stored", ["", GOOD, "scrypt$1$1$1$AAAA$AAAA", cheap(GOOD) + "\n"])
def test_only_a_hash_is_taken_for_one(auth: Auth, stored: str) -> None:
    cookie = auth.log_in(GOOD, HERE)
    with pytest.raises(BadPassword):
        auth.put_hash(stored)
    assert auth.session(cookie) is not None


def test_threads_that_do_everything_at_once_lose_nothing(auth: Auth) -> None:
    made: list[str] = []
    problems: list[Exception] = []

    def work(number: int) -> None:
        try:
            for turn in range(8):
                cookie = auth.log_in(GOOD, f"10.0.0.{number}")
                session = auth.session(cookie)
                assert session is not None
                secret = auth.make_token(f"t{number}.{turn}")
                assert auth.token(secret) is not None
                if turn % 2:
                    assert auth.log_out(session)
                    assert auth.revoke(f"t{number}.{turn}")
                else:
                    made.append(cookie)
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert problems == []
    assert len(made) == 24
    assert all(auth.session(cookie) is not None for cookie in made)
    assert len(auth.tokens()) == 24
    assert len(auth.sessions()) == 24
