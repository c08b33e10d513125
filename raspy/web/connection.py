"""One connection: what it is read and written with, each for a bounded time, its requests and its encryption."""

from __future__ import annotations

import logging
import math
import re
import socket
import time
from typing import TYPE_CHECKING, Any

from cheroot.errors import FatalSSLAlert
from cheroot.makefile import StreamReader, StreamWriter
from cheroot.server import HTTPConnection, HTTPRequest

from raspy.web.guard import SECURITY

if TYPE_CHECKING:
    from raspy.web.certificate import Tls

TIMEOUT = 10
"""Seconds that a client may take to send something, to receive something, or to stay idle."""
HEAD_TIME = 10.0
"""Seconds that the whole head of a request may take."""
HEADERS_LIMIT = 16384
"""Bytes of a request's head."""

HANDSHAKE = 0x16
"""The first byte of a record of TLS that begins a connection (RFC 8446, section 5.1)."""
SHAKE_TIME = 5
"""Seconds that a client may take for the handshake."""
RECORD = 16384
"""Bytes of a record of TLS: with a buffer of so many nothing stays behind in OpenSSL, where epoll does not see it."""
ON_HTTP = re.compile(
    rb"(?:GET|HEAD) (/[!-~]{0,2000}) HTTP/1\.[01]\r\n(?:[^\n]*\n)*?"
    rb"[Hh][Oo][Ss][Tt]:[ \t]*([A-Za-z0-9._:\[\]-]{1,255})[ \t]*\r\n"
)
"""The head of a request for a page on plain HTTP: path and host."""

PIECED = 4096
"""Bytes of such a head that are waited for when it comes in pieces."""

logger = logging.getLogger("raspy.web")


class Timed(socket.SocketIO):
    """What comes from a socket, until a time: who sends a byte now and then gets no further than others."""

    until = math.inf
    """Monotonic, in s."""

    def readinto(self, buffer: Any) -> int | None:
        """Receive what there is.

        :raises TimeoutError: nothing comes, or the time is over
        """
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        sock: socket.socket = self._sock  # type: ignore[attr-defined]
        sock.settimeout(min(TIMEOUT, left))
        try:
            return super().readinto(buffer)
        finally:
            sock.settimeout(TIMEOUT)


class Reader(StreamReader):
    """What a connection is read with.

    :param size: bytes of its buffer
    """

    def __init__(self, sock: socket.socket, mode: Any, size: int) -> None:
        self._timed = Timed(sock, mode)
        super(StreamReader, self).__init__(self._timed, size)
        self.bytes_read = 0

    def give(self, seconds: float) -> None:
        """Let what is read from now on take so long."""
        self._timed.until = time.monotonic() + seconds


class Request(HTTPRequest):
    """A request; what cheroot answers by itself has our headers too."""

    def simple_response(self, status: Any, msg: Any = "") -> None:
        """Refuse it, and end the connection."""
        self.close_connection = True
        body = msg.encode("latin-1", "replace") if isinstance(msg, str) else bytes(msg)
        more = [("Content-Type", "text/plain"), ("Content-Length", str(len(body))), ("Connection", "close")]
        lines = [f"{self.server.protocol} {status}", *(f"{name}: {value}" for name, value in [*SECURITY, *more])]
        try:
            self.conn.wfile.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        except OSError as error:
            logger.debug("%s was not told %s: %s", self.conn.remote_addr, status, error)


class Writer(StreamWriter):
    """What a connection writes with; every write goes to the socket at once."""

    _write_buf: bytearray

    def close(self) -> None:
        """Drop what a failed write has left behind, for which there is no socket any more.

        cheroot leaves its writers to the garbage collector; from Python 3.13 on that writes a traceback to
        the log when closing fails (``io.IOBase.__del__``).
        """
        self._write_buf.clear()
        super().close()


class Connection(HTTPConnection):
    """A connection with our reader and writer; with TLS the first thing that is read from it is the handshake."""

    RequestHandlerClass = Request

    def __init__(self, server: Any, sock: socket.socket, makefile: Any) -> None:
        self._to_shake = server.ssl_adapter is not None
        size = RECORD if self._to_shake else self.rbufsize
        super().__init__(
            server, sock, lambda raw, mode, _: Writer(raw, mode, size) if "w" in mode else Reader(raw, mode, size)
        )
        self.where = ""
        """Whose it is; it counts as such while it is read."""
        self.counted = False

    def communicate(self) -> bool:
        """Serve a request, or do the handshake; whether the connection goes on.

        It is given back after the handshake, as browsers make connections ahead that say nothing for long.
        """
        try:
            if not self._to_shake:
                self.rfile.give(HEAD_TIME)
                return bool(super().communicate())
            self._to_shake = False
            return self._shake()
        except OSError as error:
            logger.debug("%s: %s", self.remote_addr, error)
            return False
        finally:
            self.server.was_read(self)

    def _shake(self) -> bool:
        until = time.monotonic() + SHAKE_TIME
        self.socket.settimeout(SHAKE_TIME)
        # A socket of TLS takes no flags itself.
        first = socket.socket.recv(self.socket, 1, socket.MSG_PEEK)
        if first and first[0] != HANDSHAKE:
            self._lead_to_tls(until)
            return False
        if first:
            self.socket.settimeout(max(until - time.monotonic(), 0.001))
            self.socket.do_handshake()
            self.socket.settimeout(TIMEOUT)
        return bool(first)

    def _lead_to_tls(self, until: float) -> None:
        """Answer what came without TLS: where the page is."""
        # What is not taken from the socket would make the kernel throw the answer away (RST).
        head = b""
        while b"\r\n\r\n" not in head and len(head) < PIECED and (b"GET ".startswith(head[:4]) or head[:1] == b"H"):
            self.socket.settimeout(max(until - time.monotonic(), 0.001))
            data = socket.socket.recv(self.socket, HEADERS_LIMIT)
            if not data:
                break
            head += data
        found = ON_HTTP.match(head)
        said = b"this page is on https://\n"
        more = b"Content-Type: text/plain\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(said), said)
        if found is None or found[2].decode() not in self.server.hosts:
            answer = b"HTTP/1.1 400 Bad Request\r\n"
        else:
            answer = b"HTTP/1.1 307 Temporary Redirect\r\nLocation: https://%s%s\r\n" % (found[2], found[1])
        self.socket.settimeout(TIMEOUT)
        socket.socket.sendall(self.socket, answer + more)


class Encryption:
    """What cheroot calls an adapter. Its own do the handshake where connections are taken, so that one client that
    does nothing keeps all others waiting.

    :param tls: the certificate
    """

    def __init__(self, tls: Tls) -> None:
        self._tls = tls

    def bind(self, sock: socket.socket) -> socket.socket:
        """Nothing is done with the socket that listens."""
        return sock

    def wrap(self, sock: socket.socket) -> tuple[socket.socket, dict[str, str]]:
        """A connection and what requests are told of it.

        :raises cheroot.errors.FatalSSLAlert: it has ended
        """
        try:
            return self._tls.wrap(sock), {"wsgi.url_scheme": "https", "HTTPS": "on"}
        except OSError as error:
            sock.close()
            raise FatalSSLAlert(str(error)) from error

    def makefile(self, sock: socket.socket, mode: str = "r", size: int = RECORD) -> StreamReader:
        """What a connection is read with, ``size`` bytes at a time or more."""
        return Reader(sock, mode, max(size, RECORD))
