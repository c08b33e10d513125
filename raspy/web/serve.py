"""cheroot, fitted in: its threads are daemons, everything it holds is bounded, and it stops in time.

This module and :mod:`raspy.web.connection` are the only ones that import cheroot.
"""

from __future__ import annotations

import errno
import logging
import math
import queue
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Container
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from cheroot import connections, wsgi

from raspy.common.config import ConfigError
from raspy.web.auth.throttle import network
from raspy.web.connection import HEADERS_LIMIT, TIMEOUT, Connection, Encryption
from raspy.web.guard import HostNames

if TYPE_CHECKING:
    from raspy.web.certificate import Tls

PLAIN_THREADS = 14
"""Threads on top of one for every stream: streams never block a plain page."""
WAITING = 64
"""Connections that may wait: idle ones (kept alive, or opened ahead by a browser), and ones for a thread."""
BODY_TIME, SLOWEST = 10.0, 20_000
"""Seconds that a body may take, and bytes a second of what comes on top."""
READING = PLAIN_THREADS // 2
"""Connections of one address that are read, or wait for it, at once; what comes beyond stands behind them."""
BODY_LIMIT = 1 << 31
"""Bytes of a request's body; what a route takes is bounded by the route, far below."""

LEFT_LIMIT = 4 << 20
"""Bytes of a body that the application did not want, which are read all the same: a browser that still sends reads no
answer."""
PIECE = 65536

logger = logging.getLogger("raspy.web")


# What cheroot measures with how long a connection is idle: the time may be set back meanwhile, by years.
connections.time = SimpleNamespace(time=time.monotonic, sleep=time.sleep)  # type: ignore[attr-defined]


class Gateway(wsgi.Gateway_10):
    """cheroot's way to the application."""

    def get_environ(self) -> Any:
        """WSGI's, once the head is read. ``raspy.patient``: to be called by who bounds the time for the body itself."""
        left = getattr(self.req.rfile, "remaining", 0)
        if not left:
            self.req.server.was_read(self.req.conn)
        self.req.conn.rfile.give(BODY_TIME + left / SLOWEST)
        return {**super().get_environ(), "raspy.patient": lambda: self.req.conn.rfile.give(math.inf)}

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        """Begin the answer, once what is left of the request's body is thrown away. Where that is much, or comes slowly
        or in chunks, the connection ends with it instead: cheroot would read all that is left at once, into memory."""
        left = getattr(self.req.rfile, "remaining", 0)
        if left > LEFT_LIMIT or self.req.chunked_read:
            self.req.close_connection = True
        self.req.conn.rfile.give(BODY_TIME)
        try:
            while 0 < left <= LEFT_LIMIT and self.req.rfile.read(min(left, PIECE)):
                left = self.req.rfile.remaining
        except OSError:
            self.req.close_connection = True
        self.req.server.was_read(self.req.conn)
        return super().start_response(status, headers, exc_info)


class HttpServer(wsgi.Server):
    """The WSGI server for one application.

    :param address: host and port to listen on; port 0: any free one
    :param app: the WSGI application
    :param threads: threads that serve
    :param tls: the certificate; None: plain HTTP
    :param hosts: the names that who comes to TLS without it is led to
    """

    max_request_header_size = HEADERS_LIMIT
    max_request_body_size = BODY_LIMIT
    keep_alive_conn_limit = WAITING
    ConnectionClass = Connection

    def __init__(
        self,
        address: tuple[str, int],
        app: Any,
        threads: int,
        tls: Tls | None = None,
        hosts: Container[str] = HostNames(()),
    ) -> None:
        super().__init__(
            address,
            app,
            numthreads=threads,
            max=threads,
            server_name="RasPy",
            request_queue_size=WAITING,
            timeout=TIMEOUT,
            shutdown_timeout=1,
            accepted_queue_size=WAITING,
            accepted_queue_timeout=1,
        )
        if tls is not None:
            self.ssl_adapter = Encryption(tls)
        self.gateway = Gateway
        self.hosts = hosts
        self._reading: Counter[str] = Counter()
        """Connections that are read, by address."""
        self._held: deque[Connection] = deque()
        """Those that have something to say, and stand behind others of their address."""
        self._count = threading.Lock()
        self._asked = address
        self._failure: OSError | None = None
        self._prepared = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="raspy-http", daemon=True)

    def begin(self) -> str:
        """Listen and serve on threads of its own; return the address as an owner types it.

        :raises ConfigError: the address cannot be listened on
        """
        self._thread.start()
        self._prepared.wait()
        if self._failure is not None:
            raise ConfigError(f"{_shown(self._asked)}: {_reason(self._failure)}") from self._failure
        return f"{'http' if self.ssl_adapter is None else 'https'}://{_shown(self.bind_addr)}"

    def end(self, limit: float) -> None:
        """Stop within ``limit`` seconds; what has not ended by then ends with the process."""
        stopper = threading.Thread(target=self.stop, name="raspy-http-stop", daemon=True)
        stopper.start()
        stopper.join(limit)
        if stopper.is_alive():
            logger.warning("a client kept the page's server from stopping in time: it is cut off")
        else:
            self._thread.join(limit)

    def _serve(self) -> None:
        """On a daemon thread, so that the workers it starts are daemons as well."""
        try:
            self.prepare()
        except OSError as error:
            self._failure = self._failure or error
            return
        finally:
            self._prepared.set()
        self.serve()

    def bind(self, family: int, type: int, proto: int = 0) -> Any:  # noqa: A002
        """Listen; keep the reason when that fails, as cheroot raises an error without its number."""
        try:
            return super().bind(family, type, proto)
        except OSError as error:
            self._failure = error
            raise

    @staticmethod
    def bind_socket(socket_: socket.socket, bind_addr: tuple[str, int]) -> socket.socket:
        """Bind, and leave no open socket behind when that fails."""
        try:
            socket_.bind(bind_addr)
        except OSError:
            socket_.close()
            raise
        return socket_

    def process_conn(self, conn: Any) -> None:
        """Give a connection a thread once it has something to say, not when it is opened.

        Browsers open connections ahead, and each would hold a thread until it times out.
        """
        if conn.last_used is None and self.can_add_keepalive_connection:
            self.put_conn(conn)
            return
        conn.where = conn.where or network(conn.remote_addr or "")
        with self._count:
            conn.counted = self._reading[conn.where] < READING
            if conn.counted:
                self._reading[conn.where] += 1
            elif len(self._held) < WAITING:
                self._held.append(conn)
                return
        try:
            if conn.counted:
                self.requests.put(conn)
                return
        except queue.Full:
            self.was_read(conn)
        conn.close()

    def was_read(self, conn: Connection) -> None:
        """All that a connection had to say was read, or will not be: the next one of its address has its turn."""
        with self._count:
            if not conn.counted:
                return
            conn.counted = False
            self._reading[conn.where] -= 1
            if not self._reading[conn.where]:
                del self._reading[conn.where]
            following = next((each for each in self._held if each.where == conn.where), None)
            if following is not None:
                self._held.remove(following)
        if following is not None:
            self.process_conn(following)

    def stop(self) -> None:
        """Stop; what was held is not served any more."""
        super().stop()
        while self._held:
            self._held.popleft().close()

    def error_log(self, msg: str = "", level: int = logging.INFO, traceback: bool = False) -> None:
        """cheroot's messages, to our log."""
        logger.log(min(level, logging.WARNING) if not traceback else level, "%s", msg, exc_info=traceback)


def try_address(host: str, port: int) -> None:
    """Listen for a moment, to see whether one can.

    :raises ConfigError: naming the key at fault
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except (OSError, UnicodeError) as error:
        key = "port" if getattr(error, "errno", 0) in (errno.EADDRINUSE, errno.EACCES) else "host"
        raise ConfigError(f"{key}: {_shown((host, port))}: {_reason(error)}") from error


def _shown(address: Any) -> str:
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _reason(error: OSError | UnicodeError) -> str:
    if not isinstance(error, OSError) or isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address: set host in [web] to one of its own, 0.0.0.0 for all"
    if error.errno == errno.EADDRINUSE:
        return "the port is taken by another program: stop that, or set port in [web] to a free one"
    if error.errno == errno.EACCES:
        return (
            "the system does not let this user listen there: set port in [web] to one above 1023, "
            "or give the program CAP_NET_BIND_SERVICE (AmbientCapabilities= in its unit)"
        )
    return f"cannot be listened on: {error.strerror or error}"
