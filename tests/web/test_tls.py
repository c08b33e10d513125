"""The page on TLS: real handshakes, and clients that do not do theirs."""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import re
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raspy.web import connection, serve
from raspy.web.certificate import Tls
from raspy.web.serve import HttpServer
from tests.web.hand import until
from tests.web.test_server import Process

LIMIT = 20.0
PLACE = re.compile(r"page is on https://127\.0\.0\.1:(\d+)")
BIG = os.urandom(1 << 20)
NAMES = ["tankpi1", "localhost"]


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Says what it was asked, big for /big, and back what it was sent."""
    path = environ["PATH_INFO"]
    if environ["REQUEST_METHOD"] == "POST":
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    else:
        body = BIG if path == "/big" else f"{environ['wsgi.url_scheme']} {environ['REMOTE_ADDR']} {path}".encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


class Served:
    """A server on TLS."""

    def __init__(self, directory: Path, threads: int = 4) -> None:
        self.path = str(directory / "tls.pem")
        self.tls = Tls(self.path, "", NAMES, ["127.0.0.1"])
        self.http = HttpServer(("127.0.0.1", 0), app, threads, self.tls)
        self.http.expiration_interval = 0.05
        self.url = self.http.begin()
        self.port = int(self.url.rsplit(":", 1)[1])
        self.context = ssl.create_default_context(cafile=self.path)
        self.context.verify_flags |= ssl.VERIFY_X509_STRICT  # as from Python 3.13 on

    def connect(self, host: str = "localhost") -> ssl.SSLSocket:
        raw = socket.create_connection(("127.0.0.1", self.port), LIMIT)
        try:
            return self.context.wrap_socket(raw, server_hostname=host)
        except BaseException:
            raw.close()
            raise

    def raw(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), LIMIT)

    def ask(self, path: str = "/", method: str = "GET", body: bytes | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPSConnection("localhost", self.port, context=self.context, timeout=LIMIT)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    found = Served(tmp_path)
    yield found
    found.http.end(3.0)


def whole(sock: socket.socket) -> bytes:
    """All until the other end closes."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while data := sock.recv(65536):
            found += data
    return found


def test_a_browser_that_trusts_the_certificate_gets_the_page(served: Served) -> None:
    assert served.url.startswith("https://127.0.0.1:")
    assert served.ask("/a?b") == (200, b"https 127.0.0.1 /a")
    for host in (*NAMES, "127.0.0.1"):
        with served.connect(host) as sock:
            assert sock.version() in ("TLSv1.2", "TLSv1.3")


def test_one_that_does_not_trust_it_or_asks_for_another_name_does_not(served: Served) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        served.connect("elsewhere")
    strict, served.context = served.context, ssl.create_default_context()
    with pytest.raises(ssl.SSLCertVerificationError):
        served.connect()
    served.context = strict
    assert served.ask()[0] == 200


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_old_versions_of_tls_are_refused(served: Served) -> None:
    served.context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    served.context.maximum_version = ssl.TLSVersion.TLSv1_1
    served.context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        served.connect()


def test_much_goes_both_ways(served: Served) -> None:
    assert served.ask("/big") == (200, BIG)
    assert served.ask("/", "POST", BIG) == (200, BIG)


def test_a_connection_takes_many_requests_even_all_at_once(served: Served) -> None:
    with served.connect() as sock:
        for number in range(5):
            sock.sendall(f"GET /{number} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            answer = b""
            while not answer.endswith(b"https 127.0.0.1 /%d" % number):
                answer += sock.recv(65536)
        many = b"".join(b"GET /%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % number for number in range(600))
        sock.sendall(many + b"GET /last HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert whole(sock).count(b"200 OK") == 601


@pytest.fixture
def patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """One that waits for a client far longer than any test does, for its handshake as for its request."""
    monkeypatch.setattr(connection, "SHAKE_TIME", 10 * LIMIT)
    for module in (serve, connection):
        monkeypatch.setattr(module, "TIMEOUT", 10 * LIMIT)
    found = Served(tmp_path)
    yield found
    found.http.end(3.0)


def test_connections_that_say_nothing_keep_nobody_waiting(patient: Served) -> None:
    silent = [patient.raw() for _ in range(20)]
    ahead = [patient.connect() for _ in range(20)]  # as browsers make them: the handshake, and nothing more
    try:
        for _ in range(5):
            assert patient.ask()[0] == 200
    finally:
        for sock in (*silent, *ahead):
            sock.close()


def test_a_handshake_that_stops_half_way_keeps_nobody_waiting(served: Served) -> None:
    hanging = []
    try:
        for _ in range(3):  # of four threads
            sock = served.raw()
            sock.sendall(b"\x16\x03\x01\x02\x00\x01")
            hanging.append(sock)
        assert served.ask()[0] == 200
        assert served.ask()[0] == 200
        assert all(whole(sock) == b"" for sock in hanging), "they are cut off"
    finally:
        for sock in hanging:
            sock.close()


@pytest.mark.parametrize(
    ("sent", "head"),
    [
        (b"GET / HTTP/1.1\r\nHost: tankpi1:%d\r\n\r\n", b"307 Temporary Redirect\r\nLocation: https://tankpi1:%d/\r\n"),
        (b"GET /a?b=%%22 HTTP/1.1\r\nX: y\r\nhOST:tankpi1:%d\r\n\r\n", b"Location: https://tankpi1:%d/a?b=%%22\r\n"),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", b"400 Bad Request\r\n"),
        (b"GET /\rX: y HTTP/1.1\r\nHost: tankpi1\r\n\r\n", b"400 Bad Request\r\n"),
        (b"GET / HTTP/1.1\r\nHost: a@b\r\nX: y\r\n\r\n", b"400 Bad Request\r\n"),
        (b"POST /login HTTP/1.1\r\nHost: tankpi1\r\nContent-Length: 9\r\n\r\npassword=", b"400 Bad Request\r\n"),
        (b"\x00\x01\x02", b"400 Bad Request\r\n"),
        (b"GET /" + b"x" * 9000, b"400 Bad Request\r\n"),
    ],
)
def test_who_forgets_the_s_is_led_to_it(served: Served, sent: bytes, head: bytes) -> None:
    with served.raw() as sock:
        sock.sendall(sent % served.port if b"%d" in sent else sent)
        answer = whole(sock)
    if answer or b"400" not in head:  # what is too long is cut off, and the answer perhaps with it
        assert (head % served.port if b"%d" in head else head) in answer
        assert answer.startswith(b"HTTP/1.1 ")
        assert b"https://" in answer
    assert served.ask()[0] == 200


def test_who_forgets_the_s_may_say_so_in_pieces(served: Served) -> None:
    with served.raw() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in (b"G", b"ET /a HT", b"TP/1.1\r\nHost: tankpi1\r\n", b"\r\n"):
            sock.sendall(piece)
            until(lambda: unread(served.port) == 0, "it is read")
        assert b"Location: https://tankpi1/a\r\n" in whole(sock)


def unread(port: int) -> int:
    """Bytes that wait at a server's end of a connection (proc(5), /proc/net/tcp: rx_queue)."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(int(line[4].partition(":")[2], 16) for line in lines if line[1].endswith(f":{port:04X}"))


def test_nobody_is_led_to_a_foreign_name(served: Served) -> None:
    with served.raw() as sock:
        sock.sendall(b"GET //evil.org/ HTTP/1.1\r\nHost: evil.org\r\n\r\n")
        answer = whole(sock)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"evil" not in answer


def test_noise_is_no_line_in_the_log_and_no_thread_is_lost(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for data in (b"\x16", b"\x16\x03\x01\x00\x05junk!", b"\x16" + os.urandom(500), b"", os.urandom(300)):
        for _ in range(5):
            with served.raw() as sock:
                sock.sendall(data)
                with contextlib.suppress(OSError):  # the server may be done with it already
                    sock.shutdown(socket.SHUT_WR)
                whole(sock)
    for _ in range(8):
        sock = served.connect()
        sock.sendall(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
        sock.recv(10)
        raw = socket.socket(fileno=sock.detach())
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        raw.close()  # RST in the middle
    for _ in range(8):
        assert served.ask() == (200, b"https 127.0.0.1 /")
    assert [record.message for record in caplog.records] == []


def test_junk_inside_tls_ends_its_connection_alone(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with served.connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: local")
        raw = socket.socket(fileno=os.dup(sock.fileno()))
        raw.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))  # a record that nobody encrypted
        raw.close()
        with contextlib.suppress(OSError):
            whole(sock)
    assert served.ask()[0] == 200
    assert "Traceback" not in caplog.text


def test_many_at_once(served: Served) -> None:
    found: list[tuple[int, bytes]] = []
    threads = [threading.Thread(target=lambda: found.append(served.ask())) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert found == [(200, b"https 127.0.0.1 /")] * 24


def test_a_new_certificate_is_used_without_a_start(served: Served) -> None:
    with served.connect() as sock:
        before = sock.getpeercert(binary_form=True)
        os.unlink(served.path)
        served.tls.look()
        assert served.tls.trouble == ""
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in sock.recv(65536), "those that are there go on"
    with pytest.raises(ssl.SSLCertVerificationError):
        served.connect()
    served.context = ssl.create_default_context(cafile=served.path)
    with served.connect() as sock:
        assert sock.getpeercert(binary_form=True) != before


def test_it_stops_in_time_with_handshakes_that_hang(tmp_path: Path) -> None:
    found = Served(tmp_path)
    socks = [found.raw() for _ in range(4)]
    try:
        for sock in socks:
            sock.sendall(b"\x16\x03\x01")
        begun = time.monotonic()
        found.http.end(1.0)
        assert time.monotonic() - begun < 4
    finally:
        for sock in socks:
            sock.close()


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rw") as name:
        yield Path(name)


def process(directory: Path, **settings: object) -> Process:
    return Process("web", directory, RASPY_WEB_PORT=0, RASPY_WEB_TLS="true", STATE_DIRECTORY=directory, **settings)


def test_the_server_makes_a_certificate_and_keeps_it(directory: Path) -> None:
    path = directory / "tls.pem"
    before = b""
    for _ in range(2):
        web = process(directory)
        try:
            until(lambda log=web.log: PLACE.search(log.read_text()), "the page is on")
            found = PLACE.search(web.log.read_text())
            assert found is not None
            context = ssl.create_default_context(cafile=str(path))
            connection = http.client.HTTPSConnection("localhost", int(found[1]), context=context, timeout=LIMIT)
            connection.request("GET", "/health", headers={"Host": f"pi1.local:{found[1]}"})
            assert b'"version"' in connection.getresponse().read()
            connection.close()
        finally:
            assert web.end() == 0
        assert not before or path.read_bytes() == before
        before = path.read_bytes()
    assert "Traceback" not in web.log.read_text()


def test_a_certificate_that_is_no_good_is_one_line_and_exit_code_2(directory: Path) -> None:
    missing = directory / "no.pem"
    web = process(directory, RASPY_WEB_CERTIFICATE=missing)
    assert web.popen.wait(LIMIT) == 2
    said = web.log.read_text()
    assert said.count("\n") == 1
    assert f"{missing} cannot be read" in said
