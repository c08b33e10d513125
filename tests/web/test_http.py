"""The page over HTTP: headers, escaping, methods, names, the API, streams and their bounds."""

from __future__ import annotations

import base64
import contextlib
import errno
import gzip
import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser

import pytest
from cheroot.makefile import MakeFile

from raspy.common.config import ConfigError
from raspy.web import board as board_module
from raspy.web import connection, serve
from raspy.web.guard import SECURITY, HostNames, accepts_gzip
from raspy.web.pages.home import DEVICE_ROWS
from tests.web.hand import LIMIT, TANK, Answer, Events, Hand, ask, events, reading, until

HOSTILE = "<script>alert('x')</script>\"'&"


@pytest.fixture
def hand() -> Iterator[Hand]:
    served = Hand()
    yield served
    served.close()


def tree(hand: Hand) -> dict[str, dict[str, object]]:
    return dict(ask(hand.port, "/api/v1/tree").json["tree"])


class Elements(HTMLParser):
    """The start tags of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def row(self, key: str) -> dict[str, str | None]:
        return next(attributes for _, attributes in self.tags if attributes.get("data-key") == key)


# ---------------------------------------------------------------- the page


def test_the_page_lists_what_is_on_the_tree(hand: Hand) -> None:
    now = time.time()
    hand.bus("live")
    hand.put(TANK, reading(21.0625))
    hand.put("/device/pi1.onewire.sump/temperature", {"quality": "error", "reason": "CRC mismatch", "time": now})
    hand.put(
        "/server/pi1.onewire",
        {"state": "ok", "time": now, "last_down": {"time": now - 2, "reason": "killed"}},
    )
    hand.put("/event/server/pi1.onewire", {"time": now, "event": "restarted", "reason": ""})
    hand.put("/variable/light", {"on": True})
    answer = ask(hand.port)
    assert answer.status == 200
    page = Elements(answer.text)
    assert page.row(TANK)["data-state"] == "ok"
    assert page.row("/device/pi1.onewire.sump/temperature")["data-state"] == "error"
    assert page.row("/server/pi1.onewire")["data-state"] == "ok"
    for words in (
        "21.0625",
        "°C",
        "CRC mismatch",
        "was lost (killed) at",
        "restarted",
        "/variable/light",
        '{"on": true}',
    ):
        assert words in page.text


def test_without_the_bus_the_page_says_so_and_shows_nothing_as_current(hand: Hand) -> None:
    hand.bus("live")
    hand.put(TANK, reading(21.5))
    hand.bus("lost")
    page = Elements(ask(hand.port).text)
    assert "The bus is not reachable" in page.text
    assert page.row(TANK)["data-state"] == "stale"
    assert tree(hand)[TANK]["body"]["quality"] == "stale"  # type: ignore[index]
    assert "value" not in tree(hand)[TANK]["body"]  # type: ignore[operator]
    assert ask(hand.port, "/health").status == 503
    hand.bus("live")
    assert Elements(ask(hand.port).text).row(TANK)["data-state"] == "ok"
    assert ask(hand.port, "/health").json["state"] == "ok"


def test_hostile_keys_and_bodies_are_text(hand: Hand) -> None:
    hand.bus("live")
    plain = Elements(ask(hand.port).text)
    hand.put(TANK, {"quality": "error", "reason": HOSTILE, "unit": HOSTILE})
    hand.put(
        "/device/pi1.onewire.a/temperature",
        {"quality": "ok", "value": HOSTILE, "unit": HOSTILE, "time": HOSTILE},
    )
    hand.put("/device/pi1.onewire.b/temperature", HOSTILE.encode())
    hand.put("/server/pi1.onewire", {"state": HOSTILE, "last_error": HOSTILE, "version": HOSTILE})
    hand.put(
        "/server/pi1.fake",
        {"state": "ok", "conditions": {HOSTILE: HOSTILE}, "last_down": {"time": 1, "reason": HOSTILE}},
    )
    hand.put(f"/event/{HOSTILE}/{HOSTILE}", {"event": HOSTILE, "reason": HOSTILE})
    hand.put(f"/device/{HOSTILE}", HOSTILE.encode())
    hand.put(HOSTILE, b"\xff\x00")
    hand.put("/variable/huge", b"<b>" * 1_000_000)
    hand.put("/variable/deep", b"[" * 1_000_000)
    answer = ask(hand.port)
    page = Elements(answer.text)
    assert {tag for tag, _ in page.tags} - {tag for tag, _ in plain.tags} <= {
        "article",
        "dt",
        "dd",
        "div",
        "ul",
        "code",
        "b",
        "small",
        "h3",
        "span",
        "dl",
    }
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert page.text.count("alert('x')") >= 9
    assert len(answer.body) < 30_000


def test_a_huge_tree_makes_a_bounded_page(hand: Hand) -> None:
    hand.bus("live")
    for number in range(DEVICE_ROWS + 20):
        hand.put(f"/device/pi1.fake.d{number}/level", reading(number))
    page = ask(hand.port).text
    assert page.count('class="reading"') == DEVICE_ROWS
    assert "20 more are not shown" in page
    assert len(tree(hand)) == DEVICE_ROWS + 20


def test_no_page_has_anything_inline_or_from_outside(hand: Hand) -> None:
    hand.put(TANK, reading(21))
    for path in ("/", "/nowhere"):
        for tag, attributes in Elements(ask(hand.port, path).text).tags:
            assert tag != "style"
            assert "style" not in attributes
            assert tag != "script" or attributes["src"]
            for name in ("src", "href", "action"):
                assert (attributes.get(name) or "/").startswith(("/", "#"))
    script, style = ask(hand.port, "/static/page.js").text, ask(hand.port, "/static/style.css").text
    assert "innerHTML" not in script
    assert "eval(" not in script
    for text in (script, style):
        assert not re.search(r"https?://|@import|url\(", text)


# ---------------------------------------------------------------- headers, methods, names


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_every_answer_has_the_security_headers(hand: Hand, method: str) -> None:
    for path in ("/", "/health", "/api/v1/tree", "/static/style.css", "/nowhere", "/favicon.ico"):
        check_security(ask(hand.port, path, method))


def check_security(answer: Answer) -> None:
    for name, value in SECURITY:
        assert answer.headers.get_all(name) == [value]
    policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert "unsafe" not in str(policy)
    assert "cheroot" not in answer.headers["Server"].lower()
    assert answer.headers["Cache-Control"]


def test_what_can_only_be_read_says_so(hand: Hand) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"):
        for path in ("/", "/api/v1/tree", "/events"):
            answer = ask(hand.port, path, method)
            assert answer.status == 405
            assert answer.headers["Allow"].startswith("GET, HEAD")
        assert ask(hand.port, "/nowhere", method).status in (404, 405)


def test_head_is_get_without_the_body(hand: Hand) -> None:
    for path in ("/", "/health", "/static/page.js", "/events", "/nowhere"):
        answer = ask(hand.port, path, "HEAD")
        assert answer.body == b""
        assert answer.status == (404 if path == "/nowhere" else 503 if path == "/health" else 200)
    assert ask(hand.port, "/health").json["streams"] == 0


def test_what_is_not_there_is_a_page_of_its_own(hand: Hand) -> None:
    for path in (
        "/nowhere",
        "/static/../app.py",
        "/static/%2e%2e%2fapp.py",
        "/static/",
        "/api/v1/",
        "/%ff%00<script>",
    ):
        answer = ask(hand.port, path)
        assert answer.status == 404
        assert "there is no such" in answer.text
    odd = ask(hand.port, "/%ff%00<script>")
    assert odd.status in (400, 404)  # Bottle 0.12 and 0.13
    assert "<script" not in odd.text


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("127.0.0.1:8080", True),
        ("192.168.1.5", True),
        ("[::1]:8080", True),
        ("[fe80::1]", True),
        ("localhost:8080", True),
        ("raspberrypi", True),
        ("raspberrypi.local", True),
        ("RaspberryPi.Local.:80", True),
        ("tank.lan", True),
        ("tank.example.org:8080", True),
        ("evil.example.org", False),
        ("example.org", False),
        ("127.0.0.1.evil.example", False),
        ("local", True),
        ("evillocal.example", False),
        ("", False),
        (":8080", False),
        ("[", False),
        ("a.b:c:d", False),
        ("<script>.com", False),
    ],
)
def test_only_local_names_are_answered(host: str, known: bool) -> None:
    assert (host in HostNames(["tank.example.org"])) is known


def test_a_foreign_name_is_refused(hand: Hand) -> None:
    hand.put(TANK, reading(21.5))
    for path in ("/", "/api/v1/tree", "/events", "/static/page.js"):
        answer = ask(hand.port, path, Host_="evil.example.org")
        assert answer.status == 421
        assert "21.5" not in answer.text
        assert "names in [web]" in answer.text


def test_garbage_and_huge_requests_leave_the_server_well(hand: Hand) -> None:
    for garbage in (
        b"\x16\x03\x01\x02\x00\x01",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", hand.port), timeout=10) as client:
            try:
                client.sendall(garbage)
                client.shutdown(socket.SHUT_WR)
                while client.recv(65536):
                    pass
            except OSError as error:
                # the server may be done with the garbage, and have closed, at any of these
                if error.errno not in (errno.ENOTCONN, errno.EPIPE, errno.ECONNRESET):
                    raise
    assert ask(hand.port).status == 200


# ---------------------------------------------------------------- size


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        ("gzip", True),
        ("br, gzip;q=0.8", True),
        ("*", True),
        ("", False),
        ("br", False),
        ("gzip;q=0", False),
        ("gzip; q=0.0", False),
    ],
)
def test_accept_encoding(header: str, accepted: bool) -> None:
    assert accepts_gzip(header) is accepted


def test_the_first_load_is_small(hand: Hand) -> None:
    hand.bus("live")
    for number in range(50):
        hand.put(f"/device/pi1.onewire.28-00000{number:07}/temperature", reading(20 + number / 16))
    total = 0
    page = ask(hand.port, Accept_Encoding="gzip")
    for path in ("/", *re.findall(r'(?:src|href)="(/static/[^"]+)"', gzip.decompress(page.body).decode())):
        packed, plain = ask(hand.port, path, Accept_Encoding="gzip"), ask(hand.port, path)
        assert "Content-Encoding" not in plain.headers
        assert packed.headers["Vary"] == plain.headers["Vary"]
        assert "Accept-Encoding" in plain.headers["Vary"]
        if packed.headers["Content-Encoding"] == "gzip":
            assert gzip.decompress(packed.body)[:40] == plain.body[:40]
        total += len(packed.body)
    assert total < 60_000


def test_static_files_are_cached_by_their_version(hand: Hand) -> None:
    path = re.findall(r'"(/static/page.js\?[^"]+)"', ask(hand.port).text)[0]
    answer = ask(hand.port, path)
    assert "immutable" in answer.headers["Cache-Control"]
    assert ask(hand.port, "/static/page.js").headers["Cache-Control"] == "no-cache"
    assert ask(hand.port, path, If_None_Match=answer.headers["ETag"]).status == 304
    assert ask(hand.port).headers["Cache-Control"] == "no-store"


# ---------------------------------------------------------------- the API


def test_the_api_gives_every_body_as_it_is(hand: Hand) -> None:
    hand.bus("live")
    hand.put(TANK, reading(21.0625, age=5))
    hand.put("/variable/text", b"plain <text>")
    hand.put("/variable/bytes", b"\xff\x00")
    hand.put("/variable/big", b"1" * 30)
    found = tree(hand)
    assert found[TANK]["body"]["value"] == 21.0625  # type: ignore[index]
    assert 5 <= float(str(found[TANK]["age"])) < 60
    assert found["/variable/text"] == {"age": None, "text": "plain <text>"}
    assert found["/variable/bytes"] == {"age": None, "base64": base64.b64encode(b"\xff\x00").decode()}
    assert found["/variable/big"]["body"] == int("1" * 30)
    hand.put(TANK, b"")
    until(lambda: TANK not in tree(hand), "the deleted key is gone")


# ---------------------------------------------------------------- streams


def test_a_change_comes_down_the_stream(hand: Hand) -> None:
    hand.bus("live")
    hand.put(TANK, reading(21))
    with events(hand.port, hand.settled()) as stream:
        assert stream.status == 200
        assert stream.response.getheader("Content-Type") == "text/event-stream"
        assert stream.next()[0] == "alive"
        hand.put(TANK, reading(22.5))
        (update,) = stream.wait("rows")["rows"]
        assert update["key"] == TANK
        assert update["state"] == "ok"
        assert update["cells"]["value"] == "22.5"


def test_changes_are_gathered(hand: Hand) -> None:
    hand.bus("live")
    hand.put(TANK, reading(0))
    with events(hand.port, hand.settled()) as stream:
        stream.wait("alive")
        for number in range(1000):
            hand.put(TANK, reading(number))
        told = 0
        while (update := stream.wait("rows"))["rows"][0]["cells"]["value"] != "999":
            told += 1
        assert told < 100
        assert len(update["rows"]) == 1


def test_whoever_shows_an_old_version_is_told_to_reload(hand: Hand) -> None:
    hand.bus("live")
    with events(hand.port, "another-1") as stream:
        assert stream.next()[0] == "reload"


@pytest.mark.parametrize("what", ["new key", "deleted key", "event", "bus"])
def test_what_changes_the_page_itself_is_a_reload(hand: Hand, what: str) -> None:
    hand.bus("live")
    hand.put(TANK, reading(21))
    hand.put("/event/server/pi1.onewire", {"event": "lost"})
    with events(hand.port, hand.settled()) as stream:
        assert stream.next()[0] == "alive"
        if what == "new key":
            hand.put("/device/pi1.onewire.other/temperature", reading(1))
        elif what == "deleted key":
            hand.put(TANK, b"")
        elif what == "event":
            hand.put("/event/server/pi1.onewire", {"event": "restarted"})
        else:
            hand.bus("lost")
        stream.wait("reload")


def test_streams_live_on(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_module, "KEEP_ALIVE", 0.05)
    quick = Hand()
    try:
        with events(quick.port, quick.settled()) as stream:
            for _ in range(5):
                stream.wait("alive")
    finally:
        quick.close()


def test_the_cap_on_streams_leaves_plain_pages_alone(hand: Hand) -> None:
    opened = [Events(hand.port) for _ in range(4)]
    try:
        assert all(stream.next()[0] == "reload" for stream in opened)
        with events(hand.port) as refused:
            assert refused.status == 503
            assert refused.response.getheader("Retry-After")
        assert ask(hand.port).status == 200
        assert ask(hand.port, "/health").json["streams"] == 4
    finally:
        for stream in opened:
            stream.close()

    def free() -> bool:
        with events(hand.port) as stream:  # each refusal has the server look for clients that left
            return stream.status == 200

    until(free, "the places of clients that left are free again")


def test_a_client_that_reads_nothing_costs_nothing(hand: Hand) -> None:
    """Its queue is bounded; it is told to load everything anew, and in the end let go."""
    left: list[board_module.Stream] = []
    stream = board_module.Stream(left.append)
    for number in range(10 * board_module.STREAM_QUEUE):
        stream.put(b"%d" % number)
        assert stream._queue.qsize() <= board_module.STREAM_QUEUE
    assert stream in left
    assert list(stream) == []
    slow = board_module.Stream(lambda _: None)
    for number in range(board_module.STREAM_QUEUE + 1):
        slow.put(b"%d" % number)
    assert next(slow) == board_module.RELOAD


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hand]:
    """One that waits for a client far longer than any test does."""
    for module in (serve, connection):
        monkeypatch.setattr(module, "TIMEOUT", 10 * LIMIT)
    served = Hand()
    yield served
    served.close()


def test_idle_connections_hold_no_thread(patient: Hand) -> None:
    """Browsers open connections ahead; more of them than threads must not keep a page waiting."""
    idle = [socket.create_connection(("127.0.0.1", patient.port)) for _ in range(30)]
    try:
        assert ask(patient.port).status == 200
    finally:
        for connection in idle:
            connection.close()


def test_stop_ends_open_streams(patient: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_module, "SILENCE", 10 * LIMIT)  # else a stream that is forgotten ends by itself
    streams = [Events(patient.port) for _ in range(4)]
    try:
        for stream in streams:
            stream.wait("reload")
        patient.close()
        for stream in streams:
            while stream.next()[0]:
                pass
    finally:
        for stream in streams:
            stream.close()


def test_a_stalled_client_does_not_keep_it_from_stopping(patient: Hand) -> None:
    with socket.create_connection(("127.0.0.1", patient.port)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        patient.put("/variable/big", b"x" * 30_000_000)
        head = f"GET /api/v1/tree HTTP/1.1\r\nHost: localhost\r\nCookie: {patient.cookie}\r\n\r\n"
        client.sendall(head.encode())
        assert client.recv(100).startswith(b"HTTP/1.1 200")
        stopping = threading.Thread(target=patient.close, daemon=True)
        stopping.start()
        stopping.join(LIMIT)
        assert not stopping.is_alive()


def test_a_writer_whose_client_is_gone_closes_quietly(patient: Hand) -> None:
    """Python 3.13 writes a traceback when the garbage collector closes one that cannot."""
    ours, theirs = socket.socketpair()
    theirs.close()
    writer = connection.Connection(patient.http, ours, MakeFile).wfile
    with pytest.raises(BrokenPipeError):
        writer.write(b"x")
    ours.close()
    writer.close()
    assert writer.closed


# ---------------------------------------------------------------- clients that are slow, and many


HEAD = b"GET /login HTTP/1.1\r\nHost: localhost\r\n"
BODY = b"POST /login HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\n"
BODY += b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 4000\r\n\r\n"
SLOW = [HEAD + b"X: ", BODY]


@pytest.mark.parametrize("begun", SLOW)
def test_who_sends_a_byte_now_and_then_is_cut_off(hand: Hand, monkeypatch: pytest.MonkeyPatch, begun: bytes) -> None:
    monkeypatch.setattr(connection, "HEAD_TIME", 0.5)
    monkeypatch.setattr(serve, "BODY_TIME", 0.5)
    found: list[bytes] = []
    with socket.create_connection(("127.0.0.1", hand.port), timeout=LIMIT) as client:
        client.sendall(begun)
        reading = threading.Thread(target=lambda: found.append(client.recv(100)))
        reading.start()
        end = time.monotonic() + LIMIT
        while reading.is_alive() and time.monotonic() < end:
            with contextlib.suppress(OSError):  # it may be cut off by now, and what it was told not read yet
                client.sendall(b"a")
            reading.join(0.1)
        assert found
        assert found[0].startswith(b"HTTP/1.1 408 ")


def test_a_route_that_bounds_the_time_itself_has_it(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "BODY_TIME", 0.0)
    monkeypatch.setattr(serve, "SLOWEST", 1e9)
    body = b'--x\r\nContent-Disposition: form-data; name="csrf"\r\n\r\nwrong\r\n--x--\r\n'
    for path, status in (("/system/backup/upload", b"403"), ("/nothing", b"404")):
        with socket.create_connection(("127.0.0.1", hand.port), LIMIT) as client:
            client.sendall(
                f"POST {path} HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nCookie: {hand.cookie}\r\n"
                "Content-Type: multipart/form-data; boundary=x\r\n"
                f"Expect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            )
            assert client.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.sendall(body)
            assert client.recv(12) == b"HTTP/1.1 " + status, "of what nobody wants nothing is waited for"


@pytest.mark.parametrize("begun", SLOW)
def test_one_address_keeps_no_other_waiting(patient: Hand, monkeypatch: pytest.MonkeyPatch, begun: bytes) -> None:
    monkeypatch.setattr(connection, "HEAD_TIME", 10 * LIMIT)
    monkeypatch.setattr(serve, "BODY_TIME", 10 * LIMIT)
    slow = [socket.create_connection(("127.0.0.1", patient.port)) for _ in range(40)]
    try:
        for client in slow:
            client.sendall(begun)
        until(lambda: len(patient.http._held) == 40 - serve.READING, "they stand behind one another")
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", patient.port), LIMIT, ("127.0.0.2", 0)) as client:
                client.sendall(HEAD + b"Connection: close\r\n\r\n")
                assert client.recv(12) == b"HTTP/1.1 200"
        for client in slow[: serve.READING]:
            client.close()
        until(lambda: len(patient.http._held) == 40 - 2 * serve.READING, "the next have their turn")
    finally:
        for client in slow:
            client.close()
    assert ask(patient.port).status == 200
    until(lambda: not patient.http._reading and not patient.http._held, "nothing is left of them")


def test_what_waits_beyond_the_bound_is_closed(patient: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_TIME", 10 * LIMIT)
    monkeypatch.setattr(serve, "WAITING", 3)
    slow = [socket.create_connection(("127.0.0.1", patient.port), LIMIT) for _ in range(serve.READING + 3)]
    try:
        for client in slow:
            client.sendall(SLOW[0])
        until(lambda: len(patient.http._held) == 3, "they stand behind one another")
        with socket.create_connection(("127.0.0.1", patient.port), LIMIT) as client:
            client.sendall(SLOW[0])
            assert ended(client)
    finally:
        for client in slow:
            client.close()


def ended(client: socket.socket) -> bool:
    """Wait until the other end closes."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def test_idle_connections_end_when_the_clock_is_set_back(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time
    with socket.create_connection(("127.0.0.1", hand.port), LIMIT) as client:
        until(lambda: hand.http._connections._num_connections == 1, "it is idle")
        monkeypatch.setattr(time, "time", lambda: now() - 3600)
        hand.http.timeout = 0.1
        assert ended(client)


def test_a_body_that_nobody_wants_is_read_before_the_answer(hand: Hand) -> None:
    """Else a browser that still sends is told nothing but that the connection is gone."""
    with socket.create_connection(("127.0.0.1", hand.port), LIMIT) as client:
        size = serve.LEFT_LIMIT
        client.sendall(b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n")
        client.sendall(b"Content-Length: %d\r\n\r\n" % size)
        for _ in range(size // serve.PIECE):
            client.sendall(bytes(serve.PIECE))
        assert client.recv(12) == b"HTTP/1.1 404"


def test_a_body_in_chunks_ends_its_connection(hand: Hand) -> None:
    with socket.create_connection(("127.0.0.1", hand.port), LIMIT) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += client.recv(65536)
        assert b"\r\nConnection: close\r\n" in answer


@pytest.mark.parametrize(
    "sent", [b"GET / HTTP/9.9\r\n", b"CONNECT a:1 HTTP/1.1\r\n", b"get / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nX\r\n"]
)
def test_what_the_server_itself_refuses_has_the_security_headers(hand: Hand, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", hand.port), LIMIT) as client:
        client.sendall(sent + b"\r\n")
        response = http.client.HTTPResponse(client)
        response.begin()
        assert response.status in (400, 405, 505)
        for name, value in SECURITY:
            assert response.headers[name] == value
        assert response.headers["Connection"] == "close"
        response.read()


# ---------------------------------------------------------------- where it listens


def test_a_taken_port_is_one_clear_line(hand: Hand) -> None:
    with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{hand.port}: the port is taken .* set port in \[web\]"):
        Hand(port=hand.port)


def test_the_loop_busy_is_a_503_not_a_hang(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hand.board, "ask", partial(hand.board.ask, timeout=0.1))
    release = threading.Event()
    hand.loop.call_threadsafe(release.wait, 30)
    try:
        answer = ask(hand.port)
        assert answer.status == 503
        assert "busy" in answer.text
        assert json.loads(ask(hand.port, "/health").body)["bus"] == "unknown"
    finally:
        release.set()
