"""Majordomo Protocol 0.1 (ZeroMQ RFC 7/MDP): the constants, the frames and the errors.

Everything here is about frames; nothing of RasPy is imported. The frames, after the identity a ROUTER adds:

=====================  ==================================================
client REQUEST, REPLY  ``''``, ``MDPC01``, service, body...
worker READY           ``''``, ``MDPW01``, ``\\x01``, service
worker REQUEST, REPLY  ``''``, ``MDPW01``, ``\\x02`` or ``\\x03``, client, ``''``, body...
worker HEARTBEAT       ``''``, ``MDPW01``, ``\\x04``
worker DISCONNECT      ``''``, ``MDPW01``, ``\\x05``
=====================  ==================================================
"""

from __future__ import annotations

import logging
import os
import re
import time

C_CLIENT = b"MDPC01"
W_WORKER = b"MDPW01"

W_READY = b"\x01"
W_REQUEST = b"\x02"
W_REPLY = b"\x03"
W_HEARTBEAT = b"\x04"
W_DISCONNECT = b"\x05"

INTERNAL_SERVICE_PREFIX = "mmi."
"""Names under this prefix are answered by the broker itself (RFC 8/MMI); no worker may claim one."""

HEARTBEAT_INTERVAL = 3500
"""Milliseconds between heartbeats on a quiet connection, the value of the original."""
HEARTBEAT_LIVENESS = 5
"""Silent heartbeat intervals after which a peer counts as dead."""

OK = b"200"
PENDING = b"300"
BAD_REQUEST = b"400"
NOT_FOUND = b"404"
CONFLICT = b"409"
ERROR = b"500"
NOT_IMPLEMENTED = b"501"
UNAVAILABLE = b"503"
"""Status frames, as in docs/protocol: last in a reply, first in Titanic's."""

STATUS_FIRST = frozenset((b"titanic.request", b"titanic.reply", b"titanic.close"))
"""The services of RFC 9/TSP."""

REQUEST_ID = b"RASPY1 "
"""A first frame of this and 32 hex digits names a request, so that a repeat of it is answered from memory."""
REQUEST_ID_LENGTH = len(REQUEST_ID) + 32
LONGEST_LIFETIME = 1e9
"""Seconds; a lifetime may follow the digits of a request's id, behind a space."""

COLLECTOR, PUBLISHER, SNAPSHOT, REQUESTS = 3, 2, 1, 0
"""Offsets from the base port: ROUTER of requests, ROUTER of snapshots, PUB of updates, PULL of the collector."""

logger = logging.getLogger("raspy")
"""The parent of all loggers of RasPy."""


class GenericError(Exception):
    """The ancestor of every error of RasPy.

    :param value: the message, which names what is at fault and what to do
    """

    def __init__(self, value: object = "") -> None:
        super().__init__(value)
        self.value = value

    def __str__(self) -> str:
        return str(self.value)


class ClientError(GenericError):
    """A client's request could not be made or was refused."""


class ServerError(GenericError):
    """A server could not do its work."""


class ConnectionLost(ClientError, ConnectionError):
    """The broker did not answer."""


class ProtocolError(GenericError, ValueError):
    """Frames that are not what the specification says."""


def routing_key(hostname: str, service: str) -> str:
    """The name of a server or service on the bus: ``<hostname>.<service>``."""
    return f"{hostname}.{service}"


def new_id() -> str:
    """An id for a request: 32 hexadecimal digits that no other has."""
    return os.urandom(16).hex()


def id_frame(digits: str, lifetime: float | None = None) -> bytes:
    """The frame with a request's id.

    A lifetime is written twice: as what is left of it, and as the time of this machine's own clock at which it is over,
    by which it is told on the same machine for how long the request has been under way.

    :param digits: 32 hexadecimal digits
    :param lifetime: seconds after which the request must not be begun any more; None: it has no such limit
    """
    frame = REQUEST_ID + digits.encode()
    if lifetime is None:
        return frame
    left = min(max(0.0, lifetime), LONGEST_LIFETIME)  # in this order: max(-0.0, 0.0) is -0.0
    return frame + f" {left:.3f} {boot_id()}:{time.clock_gettime(time.CLOCK_BOOTTIME) + left:.3f}".encode()


ID_FRAME = re.compile(
    REQUEST_ID + rb"([0-9A-Fa-f]{32})(?: ([0-9]{1,10}(?:\.[0-9]{1,6})?)(?: ([0-9a-f]{32}):([0-9]{1,12}\.[0-9]{1,6}))?)?"
)


def parse_id(frame: bytes) -> tuple[bytes, float | None] | None:
    """The id of a request, as a frame without lifetime, and the lifetime in seconds; None when it is no such frame.

    Of a lifetime from this machine, since its last start, it is what is left now; 0 when it is over.
    """
    if not frame.startswith(REQUEST_ID):
        return None
    found = ID_FRAME.fullmatch(frame)
    if found is None:
        return None
    if found[2] is None:
        return frame[:REQUEST_ID_LENGTH], None
    left = min(float(found[2]), LONGEST_LIFETIME)
    if found[3] is not None and found[3].decode() == boot_id():
        left = max(0.0, min(left, float(found[4]) - time.clock_gettime(time.CLOCK_BOOTTIME)))
    return frame[:REQUEST_ID_LENGTH], left


_boot_id = ""


def boot_id() -> str:
    """32 hexadecimal digits that are others after each start of the machine (random(4))."""
    global _boot_id
    if not _boot_id:
        try:
            with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
                _boot_id = file.read(64).strip().replace("-", "")
        except (OSError, ValueError):
            pass
        if re.fullmatch("[0-9a-f]{32}", _boot_id) is None:
            _boot_id = new_id()  # nothing is known of other processes then
    return _boot_id


def endpoint(broker_ip: str, broker_port: int, offset: int = REQUESTS) -> str:
    """The ZeroMQ address of one of the broker's four sockets.

    :param broker_ip: an IP address or host name; or ``ipc://<directory>``, in which the sockets are files
        named by their port number
    :param broker_port: the base port (or number)
    :param offset: one of ``REQUESTS``, ``SNAPSHOT``, ``PUBLISHER``, ``COLLECTOR``
    """
    if broker_ip.startswith("ipc://"):
        return f"{broker_ip.rstrip('/')}/{broker_port + offset}"
    if ":" in broker_ip:
        return f"tcp://[{broker_ip.strip('[]')}]:{broker_port + offset}"
    return f"tcp://{broker_ip}:{broker_port + offset}"
