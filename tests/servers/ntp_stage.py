"""NTP servers that a test controls: on a thread each, on a port of 127.0.0.1."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

DELTA = 2_208_988_800
"""Seconds from 1900, NTP's epoch, to 1970."""


def stamp(wall: float) -> bytes:
    """An NTP timestamp."""
    seconds = int(wall // 1)
    return struct.pack("!II", (seconds + DELTA) % 2**32, int((wall - seconds) * 2**32) % 2**32)


class NtpServer:
    """One server.

    :param mode: ``right``, or how it is wrong: ``unsynchronised``, ``stratum``, ``mute``, ``short``, ``noise``,
        ``stranger`` (answers another request), ``client`` (mode 3), ``far`` (root dispersion), ``stale`` (not set for
        days), ``backwards``, ``zero``, ``slow`` (the way back takes 1.5 s), a kiss code as ``DENY``
    :param ahead: s by which it is ahead of the true time
    """

    def __init__(self, mode: str = "right", ahead: float = 0.0) -> None:
        self.mode = mode
        self.ahead = ahead
        self.requests: list[bytes] = []
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.name = f"127.0.0.1:{self.socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wake:
            wake.sendto(b"end", self.socket.getsockname())
        self._thread.join(10)
        self.socket.close()

    def packet(self, request: bytes, received: float, sent: float) -> bytes:
        """The answer to a request."""
        leap, stratum, mode, dispersion, reference, name = 0, 2, 4, 0.01, received - 60, b"\x7f\0\0\1"
        origin = request[40:48]
        if self.mode == "unsynchronised":
            leap = 3
        elif self.mode == "stratum":
            stratum = 16
        elif self.mode == "stranger":
            origin = bytes(8)
        elif self.mode == "client":
            mode = 3
        elif self.mode == "far":
            dispersion = 2.0
        elif self.mode == "stale":
            reference = received - 200_000
        elif self.mode == "backwards":
            sent = received - 1
        elif self.mode.isupper():
            stratum, name = 0, self.mode.encode()
        head = struct.pack("!BBBbII", leap << 6 | 4 << 3 | mode, stratum, 6, -20, 655, int(dispersion * 65536))
        last = bytes(8) if self.mode == "zero" else stamp(sent)
        return head + name + stamp(reference) + origin + stamp(received) + last

    def _serve(self) -> None:
        while True:
            request, address = self.socket.recvfrom(512)
            if request == b"end":
                return
            self.requests.append(request)
            now = time.time() + self.ahead
            if self.mode == "mute":
                continue
            reply = self.packet(request, now, now + 0.0001)
            if self.mode == "short":
                reply = reply[:47]
            elif self.mode == "noise":
                reply = os.urandom(len(reply))
            elif self.mode == "slow":
                time.sleep(1.5)
            self.socket.sendto(reply, address)


@contextmanager
def ntp_servers(*wanted: tuple[str, float]) -> Iterator[list[NtpServer]]:
    """Servers, each by its mode and by how far it is ahead."""
    with ExitStack() as stack:
        servers = []
        for mode, ahead in wanted:
            server = NtpServer(mode, ahead)
            stack.callback(server.close)
            servers.append(server)
        yield servers
