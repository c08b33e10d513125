"""cheroot, fitted in: its threads are daemons, everything it holds is bounded, and it stops in time.

The only module that imports cheroot.
"""

from __future__ import annotations

import errno
import logging
import socket
import threading
from typing import Any

from cheroot import wsgi
from cheroot.makefile import StreamWriter
from cheroot.server import HTTPConnection

from raspy.common.config import ConfigError

PLAIN_THREADS = 8
"""Threads on top of one for every stream: streams never block a plain page."""
WAITING = 64
"""Connections that may wait: idle ones (kept alive, or opened ahead by a browser), and ones for a thread."""
TIMEOUT = 10
"""Seconds that a client may take to send, to receive, or to stay idle."""
HEADERS_LIMIT = 16384
"""Bytes of a request's head."""
BODY_LIMIT = 65536
"""Bytes of a request's body, which nothing reads so far."""

logger = logging.getLogger("raspy.web")


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
    """A connection with our writer."""

    def __init__(self, server: Any, sock: socket.socket, makefile: Any) -> None:
        super().__init__(
            server, sock, lambda raw, mode, size: Writer(raw, mode, size) if "w" in mode else makefile(raw, mode, size)
        )


class HttpServer(wsgi.Server):
    """The WSGI server for one application.

    :param address: host and port to listen on; port 0: any free one
    :param app: the WSGI application
    :param threads: threads that serve
    """

    max_request_header_size = HEADERS_LIMIT
    max_request_body_size = BODY_LIMIT
    keep_alive_conn_limit = WAITING
    ConnectionClass = Connection

    def __init__(self, address: tuple[str, int], app: Any, threads: int) -> None:
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
        return f"http://{_shown(self.bind_addr)}"

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
        else:
            super().process_conn(conn)

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
        return "the system does not let this user listen there: set port in [web] to one above 1023"
    return f"cannot be listened on: {error.strerror or error}"
