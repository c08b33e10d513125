"""The way in, attacked over HTTP."""

from __future__ import annotations

import http.client
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from raspy.web.auth import facade, keeper, passwords
from raspy.web.pages.login import PROXY
from tests.web.hand import LIMIT, PASSWORD, Answer, Hand, until
from tests.web.test_auth_passwords import cheap

AGENT = "test"
ELSEWHERE = [
    "//evil.org",
    "/\\evil.org",
    "https://evil.org",
    "\t//evil.org",
    "/\t/evil.org",
    "/\n/evil.org",
    "evil.org",
]
ELSEWHERE += ["", "/é", "/\r\nSet-Cookie: raspy=x", "javascript:alert(1)", " /x", "///evil.org", "\\\\evil.org"]
COOKIES = ["raspy", "raspy=", "=", ";;;", "raspy=\xff", 'raspy="x', "a" * 9000, "raspy=" + "%00" * 9]


@pytest.fixture
def hand() -> Iterator[Hand]:
    made = Hand(password=False)
    made.auth.put_hash(cheap(PASSWORD))
    made.cookie = f"raspy={made.auth.log_in(PASSWORD, '127.0.0.1')}"
    yield made
    made.close()


@pytest.fixture
def bare() -> Iterator[Hand]:
    """Without a password yet."""
    made = Hand(password=False)
    yield made
    made.close()


def send(hand: Hand, method: str, path: str, form: dict[str, str] | None = None, **headers: str | None) -> Answer:
    """One request of a browser that has no session, from our own page."""
    connection = http.client.HTTPConnection("127.0.0.1", hand.port, timeout=LIMIT)
    known: dict[str, str | None] = {"Host": f"127.0.0.1:{hand.port}", "User-Agent": AGENT}
    body = b""
    if form is not None:
        body = urlencode(form).encode()
        known |= {
            "Content-Type": "application/x-www-form-urlencoded",
            "Content-Length": str(len(body)),
            "Origin": f"http://127.0.0.1:{hand.port}",
            "Sec-Fetch-Site": "same-origin",
        }
    known |= {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in known.items():
            if value is not None:
                connection.putheader(name, value)
        connection.endheaders(body or None)
        return Answer(connection.getresponse())
    finally:
        connection.close()


def cookie_of(answer: Answer) -> str:
    found = re.match(r"(raspy=[A-Za-z0-9_-]{43});", answer.headers.get("Set-Cookie", ""))
    assert found is not None
    return found[1]


def test_who_logs_in_gets_a_cookie_that_was_not_theirs_before(hand: Hand) -> None:
    brought = f"raspy={'A' * 43}"
    answer = send(hand, "POST", "/login", {"password": PASSWORD}, Cookie=brought)
    assert answer.status == 303
    cookie = cookie_of(answer)
    assert cookie != brought
    assert answer.headers["Set-Cookie"].endswith("; HttpOnly; SameSite=Lax")
    assert answer.headers["Cache-Control"] == "no-store"
    assert send(hand, "GET", "/", Cookie=brought).status == 303
    assert send(hand, "GET", "/", Cookie=cookie).status == 200


@pytest.mark.parametrize(
    "back",
    ELSEWHERE,
)
def test_the_way_back_leads_nowhere_else(hand: Hand, back: str) -> None:
    answer = send(hand, "POST", "/login", {"password": PASSWORD, "back": back})
    assert answer.status == 303
    assert answer.headers["Location"] == "/"
    assert len(answer.headers.get_all("Set-Cookie") or []) == 1


def test_the_way_back_leads_back(hand: Hand) -> None:
    answer = send(hand, "GET", "/modes?x=1%202")
    assert answer.headers["Location"].startswith("/login?next=")
    shown = send(hand, "GET", answer.headers["Location"]).text
    found = re.search(r'name="back" value="([^"]*)"', shown)
    assert found is not None
    answer = send(hand, "POST", "/login", {"password": PASSWORD, "back": found[1]})
    assert answer.headers["Location"] == "/modes?x=1%202"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": None, "Sec_Fetch_Site": None},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Origin": "http://evil.org", "Sec_Fetch_Site": None},
        {"Origin": "null", "Sec_Fetch_Site": None},
        {"Content_Type": "text/plain"},
        {"Content_Type": "multipart/form-data; boundary=x"},
    ],
)
@pytest.mark.parametrize("path", ["/login", "/setup", "/language"])
def test_a_form_from_elsewhere_does_nothing(bare: Hand, hand: Hand, path: str, headers: dict[str, str | None]) -> None:
    site = bare if path == "/setup" else hand
    form = {"password": PASSWORD, "again": PASSWORD, "language": "fr"}
    answer = send(site, "POST", path, form, **headers)
    assert answer.status in (400, 403)
    assert "Set-Cookie" not in answer.headers
    assert not bare.auth.has_password


@pytest.mark.parametrize("host", ["evil.org", "evil.org:80", "127.0.0.1.evil.org", "local.evil.org", "", "[evil.org]"])
def test_a_name_from_out_there_is_not_answered(bare: Hand, host: str) -> None:
    form = {"password": PASSWORD, "again": PASSWORD}
    answer = send(bare, "POST", "/setup", form, Host=host, Origin=f"http://{host}")
    assert answer.status in (400, 421)
    assert not bare.auth.has_password


def test_before_there_is_a_password_nothing_else_is_told(bare: Hand) -> None:
    for path in ("/", "/modes", "/system/access", "/login"):
        assert send(bare, "GET", path).headers["Location"] == "/setup"
    assert send(bare, "POST", "/login", {"password": ""}).headers["Location"] == "/setup"
    assert send(bare, "GET", "/api/v1/tree").status == 401
    assert send(bare, "GET", "/events").status in (303, 401)
    answer = send(bare, "POST", "/setup", {"password": PASSWORD, "again": PASSWORD})
    assert answer.status == 303
    assert send(bare, "GET", "/", Cookie=cookie_of(answer)).status == 200
    assert send(bare, "GET", "/setup").headers["Location"] == "/login"
    again = {"password": "another good one", "again": "another good one"}
    assert send(bare, "POST", "/setup", again).headers["Location"] == "/login"


@pytest.mark.parametrize("header", PROXY)
def test_behind_a_proxy_nobody_sets_the_first_password(bare: Hand, header: str) -> None:
    """Whoever sends the header is of this network, and so may stand for anybody."""
    headers: dict[str, str | None] = {header: "192.168.0.9"}
    assert "somebody stands in between (a proxy)" in send(bare, "GET", "/setup", **headers).text
    answer = send(bare, "POST", "/setup", {"password": PASSWORD, "again": PASSWORD}, **headers)
    assert answer.status == 403
    assert "somebody stands in between (a proxy)" in answer.text
    assert not bare.auth.has_password


@pytest.mark.parametrize(
    ("password", "again", "why"),
    [
        (PASSWORD, PASSWORD + " ", "the two passwords are not the same"),
        ("short", "short", "too short"),
        ("raspberry", "raspberry", "everybody would guess this password"),
    ],
)
def test_a_first_password_that_is_none_is_told_on_the_form(bare: Hand, password: str, again: str, why: str) -> None:
    answer = send(bare, "POST", "/setup", {"password": password, "again": again})
    assert answer.status == 400
    assert why in answer.text
    assert 'action="/setup"' in answer.text
    assert "Set-Cookie" not in answer.headers
    assert not bare.auth.has_password


def test_of_two_that_set_the_first_password_at_once_one_is_refused(bare: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other comes first while this one's is made, which takes a second on a Pi."""

    def slow(text: str) -> str:
        bare.auth.put_hash(cheap("that of the other"))
        return cheap(text)

    monkeypatch.setattr(facade, "hash_password", slow)
    answer = send(bare, "POST", "/setup", {"password": PASSWORD, "again": PASSWORD})
    assert answer.status == 403
    assert facade.THERE in answer.text
    assert "Set-Cookie" not in answer.headers
    assert bare.auth.sessions() == []


def test_a_password_that_cannot_be_looked_at_now_lets_nobody_in(
    bare: Hand, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passwords, "PATIENCE", 0.01)
    with passwords._one:
        first = send(bare, "POST", "/setup", {"password": PASSWORD, "again": PASSWORD})
        answer = send(hand, "POST", "/login", {"password": PASSWORD, "back": "/modes"})
    for each in (first, answer):
        assert each.status == 503
        assert "too many passwords wait to be looked at" in each.text
        assert "Set-Cookie" not in each.headers
    assert not bare.auth.has_password
    assert 'name="back" value="/modes"' in answer.text
    # It was no wrong one: nobody waits for it.
    assert send(hand, "POST", "/login", {"password": PASSWORD}).status == 303


def test_ten_wrong_passwords_slow_the_eleventh(hand: Hand) -> None:
    for _ in range(10):
        answer = send(hand, "POST", "/login", {"password": "wrong"})
        assert answer.status == 403
        assert "Set-Cookie" not in answer.headers
    answer = send(hand, "POST", "/login", {"password": PASSWORD})
    assert answer.status == 429
    assert 1 <= int(answer.headers["Retry-After"]) <= 6
    assert "Set-Cookie" not in answer.headers


def test_a_header_that_says_another_address_does_not_count(hand: Hand) -> None:
    for number in range(10):
        more = {
            "X_Forwarded_For": f"10.0.0.{number}",
            "X_Real_IP": f"10.0.0.{number}",
            "Forwarded": f"for=10.0.0.{number}",
        }
        assert send(hand, "POST", "/login", {"password": "wrong"}, **more).status == 403
    assert send(hand, "POST", "/login", {"password": PASSWORD}, X_Forwarded_For="10.1.1.1").status == 429


def test_a_session_cannot_send_the_form_of_another(hand: Hand) -> None:
    one = cookie_of(send(hand, "POST", "/login", {"password": PASSWORD}))
    other = hand.auth.session(hand.cookie.removeprefix("raspy="))
    mine = hand.auth.session(one.removeprefix("raspy="))
    assert other is not None
    assert mine is not None
    for word in ("", other.csrf, mine.csrf[:-1], mine.id, "é"):
        assert send(hand, "POST", "/logout", {"csrf": word}, Cookie=one).status == 403
    assert send(hand, "GET", "/logout", Cookie=one).status == 405
    answer = send(hand, "POST", "/logout", {"csrf": mine.csrf}, Cookie=one)
    assert answer.status == 303
    assert "Max-Age=0" in answer.headers["Set-Cookie"]
    assert send(hand, "GET", "/", Cookie=one).status == 303
    assert send(hand, "GET", "/", Cookie=hand.cookie).status == 200


def test_a_token_is_for_programs_alone(hand: Hand) -> None:
    reads, writes = hand.auth.make_token("reads"), hand.auth.make_token("writes", "write")
    for secret in (reads, writes):
        assert send(hand, "GET", "/api/v1/tree", Authorization=f"Bearer {secret}").status == 200
        assert send(hand, "GET", "/", Authorization=f"Bearer {secret}").status == 303
        assert send(hand, "GET", "/api/v1/tree", Cookie=f"raspy={secret}").status == 401
        assert send(hand, "GET", f"/api/v1/tree?token={secret}").status == 401
        assert send(hand, "GET", "/api/v1/tree", Authorization=f"Basic {secret}").status == 401
        assert send(hand, "GET", "/api/v1/tree", Authorization=f"Bearer {secret[:-1]}").status == 401
        assert send(hand, "GET", "/system/access", Authorization=f"Bearer {secret}").status == 303
    hand.auth.revoke("reads")
    assert send(hand, "GET", "/api/v1/tree", Authorization=f"Bearer {reads}").status == 401


def test_what_was_said_to_the_owner_is_not_told_to_others(hand: Hand) -> None:
    number = hand.site.notices.put("the secret word")
    for path in (f"/login?said={number}", f"/setup?said={number}", f"/nothing?said={number}"):
        assert "secret word" not in send(hand, "GET", path).text
    assert "secret word" in send(hand, "GET", f"/?said={number}", Cookie=hand.cookie).text


def test_a_stream_ends_with_its_session(hand: Hand) -> None:
    with socket.create_connection(("127.0.0.1", hand.port), LIMIT) as sock:
        sock.sendall(f"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: {hand.cookie}\r\n\r\n".encode())
        assert b"200 OK" in sock.recv(65536)
        hand.auth.log_out_all()
        end = time.monotonic() + 2 * LIMIT
        while not sock.recv(65536).endswith(b"0\r\n\r\n"):  # the last chunk (RFC 9112, section 7.1)
            assert time.monotonic() < end, "what nobody may read any more goes on"
    until(lambda: hand.board.ask(hand.board.snapshot).streams == 0, "its place is free")


def test_a_refused_body_takes_no_memory(hand: Hand) -> None:
    def memory() -> int:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        assert found is not None
        return int(found[1])

    size, piece = 300 << 20, bytes(1 << 20)
    before = memory()
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        with socket.create_connection(("127.0.0.1", hand.port), LIMIT) as sock:
            sock.sendall(
                f"POST /login HTTP/1.1\r\nHost: 127.0.0.1:{hand.port}\r\nOrigin: http://127.0.0.1:{hand.port}\r\n"
                f"Content-Type: {kind}\r\nContent-Length: {size}\r\n\r\n".encode()
            )
            try:
                for _ in range(size // len(piece)):
                    sock.sendall(piece)
            except OSError:
                pass
    until(lambda: send(hand, "GET", "/health").status in (200, 503), "it goes on")
    assert memory() - before < 50_000, "in kB"


def test_a_body_that_is_a_little_too_long_is_answered_in_words(hand: Hand) -> None:
    answer = send(hand, "POST", "/login", {"password": "x" * 1_000_000})
    assert answer.status == 413
    assert "bytes at most" in answer.text


@pytest.mark.parametrize("cookie", COOKIES)
def test_any_cookie_is_taken(hand: Hand, cookie: str) -> None:
    assert send(hand, "GET", "/", Cookie=cookie).status == 303


def test_a_cookie_of_another_program_on_this_machine_ends_no_session(hand: Hand) -> None:
    for other in ('prefs={"a": [1,2]}', "bad[name]=1", "raspy=junk", f"raspy={'B' * 43}"):
        assert send(hand, "GET", "/", Cookie=f"{other}; {hand.cookie}").status == 200


@pytest.mark.parametrize("path", ["/login", "/logout"])
def test_a_form_that_ends_too_early_does_nothing(hand: Hand, path: str) -> None:
    body = urlencode({"password": PASSWORD, "csrf": hand.csrf}).encode()
    with socket.create_connection(("127.0.0.1", hand.port), LIMIT) as sock:
        sock.sendall(
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://127.0.0.1\r\nCookie: {hand.cookie}\r\n"
            f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body) + 1}\r\n\r\n".encode()
            + body
        )
        sock.shutdown(socket.SHUT_WR)
        answer = Answer(reader(sock))
    assert answer.status == 400
    assert "ended too early" in answer.text
    assert "Set-Cookie" not in answer.headers
    assert len(hand.auth.sessions()) == 1


def reader(sock: socket.socket) -> http.client.HTTPResponse:
    response = http.client.HTTPResponse(sock)
    response.begin()
    return response


def test_when_the_disk_takes_nothing_one_can_log_in_and_is_told_for_how_long(hand: Hand, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    hand.auth._file.path = str(tmp_path / "file" / "auth.json")
    answer = send(hand, "POST", "/login", {"password": PASSWORD, "back": "/modes"})
    assert answer.status == 303
    assert answer.headers["Location"].startswith("/modes?said=")
    shown = send(hand, "GET", answer.headers["Location"], Cookie=cookie_of(answer))
    assert shown.status == 200
    assert "logged in until the page" in shown.text


def test_a_disk_that_hangs_is_a_503(hand: Hand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()
    monkeypatch.setattr(keeper, "replace", lambda *_, **__: answers.wait(60))
    monkeypatch.setattr(keeper, "PATIENCE", 0.1)
    hand.auth._file.path = str(tmp_path / "auth.json")
    try:
        for _ in range(2):
            answer = send(hand, "POST", "/login", {"password": PASSWORD})
            assert answer.status == 503
            assert "does not answer" in answer.text
            assert "Set-Cookie" not in answer.headers
    finally:
        answers.set()
