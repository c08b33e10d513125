"""The socket on which servers tell how they are, sd_notify(3), from the side of who has started them."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator

DATAGRAM = 4096
"""Bytes of a notification that are looked at; ours have less than 300."""
DATAGRAMS = 100
"""Notifications taken in one turn."""
CREDENTIALS = 12
"""Bytes of struct ucred: pid, uid and gid of a sender (unix(7))."""


class NotifySocket:
    """It is there, with an address of its own, until it is closed."""

    def __init__(self) -> None:
        # An abstract address (unix(7)) needs no directory that could be full, read-only, removed or left behind.
        # Whoever is on this machine can write to it, so what comes is believed by the process id of its sender.
        name = f"raspy-{os.getpid()}-{os.urandom(8).hex()}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(f"\0{name}")
        self.address = f"@{name}"
        """As ``$NOTIFY_SOCKET`` has it."""

    def fileno(self) -> int:
        """Its descriptor, for poll(2)."""
        return self._socket.fileno()

    def take(self) -> Iterator[tuple[int, bytes]]:
        """The notifications that wait, each with the process id of its sender; no more than are for one turn."""
        for _ in range(DATAGRAMS):
            try:
                datagram, control, _, _ = self._socket.recvmsg(DATAGRAM, socket.CMSG_SPACE(CREDENTIALS))
            except OSError:
                return
            for level, kind, data in control:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                    yield int.from_bytes(data[:4], sys.byteorder), datagram

    def close(self) -> None:
        """Hear nothing more."""
        self._socket.close()
