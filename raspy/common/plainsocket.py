"""Sockets without what Python's own module adds: enumerations, files and servers, 0.15 MB for each process.

It has what those need that ask whether a text is an address, look at a connection, or talk to systemd; who does more
with sockets imports :mod:`socket`.
"""

from __future__ import annotations

import _socket
from _socket import (
    AF_INET,
    AF_INET6,
    AF_UNIX,
    IPPROTO_TCP,
    SHUT_RDWR,
    SO_REUSEADDR,
    SOCK_DGRAM,
    SOL_SOCKET,
    TCP_INFO,
    inet_pton,
)
from typing import Self

__all__ = [
    "AF_INET",
    "AF_INET6",
    "AF_UNIX",
    "IPPROTO_TCP",
    "SHUT_RDWR",
    "SOCK_DGRAM",
    "SOL_SOCKET",
    "SO_REUSEADDR",
    "TCP_INFO",
    "inet_pton",
    "socket",
]


class socket(_socket.socket):
    """A socket that is closed at the end of a ``with``."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
