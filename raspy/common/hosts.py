"""Names and addresses of machines, as a configuration has them."""

from __future__ import annotations

import re
import socket

HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?)*\.?")
"""A host name (RFC 1123), and what else a resolver takes."""
LOOPBACK = ("localhost", "::1", "[::1]")


def is_local(broker_ip: str) -> bool:
    """Whether an address is in files, or a loopback address: what is said to it does not leave the machine."""
    if broker_ip.startswith("ipc://") or broker_ip in LOOPBACK:
        return True
    try:
        return socket.inet_pton(socket.AF_INET, broker_ip)[0] == 127
    except OSError:
        return False


def is_host(text: str) -> bool:
    """Whether it is an IP address or a host name."""
    address = text[1:-1] if text[:1] == "[" and text[-1:] == "]" and ":" in text else text
    family = socket.AF_INET
    if ":" in address:
        # fe80::1%eth0 is an address with its interface
        address, percent, interface = address.partition("%")
        family = socket.AF_INET6
        if percent and not HOST.fullmatch(interface):
            return False
    elif not re.fullmatch("[0-9.]+", address):
        return len(text) <= 253 and HOST.fullmatch(text) is not None
    try:
        socket.inet_pton(family, address)
    except (OSError, ValueError):
        return False
    return True
