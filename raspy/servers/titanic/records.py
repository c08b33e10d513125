"""What Titanic knows of a request: its states, its name, its frames as they are kept."""

from __future__ import annotations

import struct
from collections.abc import Iterable

PENDING, DONE, PARKED, LATE = 0, 1, 2, 3
"""States: to be run; its reply is kept; given up; its lifetime was over."""
STATES = {"pending": PENDING, "done": DONE, "parked": PARKED, "late": LATE}

MOST_ID = (1 << 62) - 1
COUNT = struct.Struct("!I")


class Request:
    """A request that waits to be run, as it is held in memory."""

    __slots__ = ("attempt", "body", "deadline", "failures", "id", "marked", "secret", "service", "starts")

    def __init__(
        self,
        number: int,
        secret: bytes,
        service: bytes,
        body: list[bytes],
        failures: int = 0,
        attempt: int = 0,
        starts: int = 0,
        deadline: float | None = None,
    ) -> None:
        self.id = number
        self.secret = secret
        self.service = service
        self.body = body
        self.failures = failures
        """Replies that said it failed, and workers that died over it."""
        self.attempt = attempt
        """Failures ever; of it and the uuid the id of an attempt is made."""
        self.starts = starts
        """Times that it may have been begun by a Titanic that then ended."""
        self.deadline = deadline
        """Time of the server's own clock, in seconds, by which it must have begun."""
        self.marked = False
        """This start of it is in the file."""

    @property
    def uuid(self) -> str:
        """As clients know it: 32 hexadecimal digits."""
        return uuid_of(self.id, self.secret)

    @property
    def attempt_id(self) -> str:
        """The id that goes with it to a server of ours: the same for each repeat, another after a failure."""
        number = int.from_bytes(self.id.to_bytes(8, "big") + self.secret, "big") + self.attempt
        return f"{number % (1 << 128):032x}"


def uuid_of(number: int, secret: bytes) -> str:
    """The uuid of a request."""
    return f"{number:016x}{secret.hex()}"


def parse_uuid(frame: bytes) -> tuple[int, bytes] | None:
    """Number and secret of a uuid; None when it cannot be one of ours."""
    if len(frame) != 32 or frame.strip(b"0123456789abcdef"):
        return None
    number = int(frame[:16], 16)
    return (number, bytes.fromhex(frame[16:].decode())) if number <= MOST_ID else None


def pack(frames: Iterable[bytes]) -> bytes:
    """Frames as one value, each behind its length."""
    return b"".join([part for frame in frames for part in (COUNT.pack(len(frame)), frame)])


def unpack(packed: bytes | None) -> list[bytes]:
    """The frames again. What is cut short, as only a damaged file is, ends there."""
    frames: list[bytes] = []
    at, end = 0, len(packed or b"")
    while packed is not None and at + COUNT.size <= end:
        (length,) = COUNT.unpack_from(packed, at)
        at += COUNT.size
        frames.append(packed[at : at + length])
        at += length
    return frames


class Accepted:
    """A request as it comes in.

    :param client: the id that the client gave it, 16 bytes
    :param lifetime: seconds
    :param since: seconds since the machine started; the server's own clock is known once the file is open
    :param time: Unix time
    :param trusted: whether that can be believed
    :param most_bytes: of the file, beyond which it is refused
    """

    __slots__ = ("body", "client", "deadline", "lifetime", "most_bytes", "service", "since", "time", "trusted")

    def __init__(
        self,
        service: bytes,
        body: bytes,
        client: bytes | None,
        lifetime: float | None,
        since: float,
        time: float,
        trusted: bool,
        most_bytes: int,
    ) -> None:
        self.service = service
        self.body = body
        self.client = client
        self.lifetime = lifetime
        self.deadline: float | None = None
        """Set when it is written."""
        self.since = since
        self.time = time
        self.trusted = trusted
        self.most_bytes = most_bytes


class Boot:
    """What is known of this boot.

    :param boot_id: another one for each
    :param since: seconds since the machine started
    :param time: Unix time
    :param trusted: whether that can be believed
    :param base: what the clock of this process, which has begun before, adds to ``since``; None: it begins now
    """

    __slots__ = ("base", "boot_id", "since", "time", "trusted")

    def __init__(self, boot_id: str, since: float, time: float, trusted: bool, base: float | None = None) -> None:
        self.base = base
        self.boot_id = boot_id
        self.since = since
        self.time = time
        self.trusted = trusted


class Begun:
    """What a start found.

    :param base: what is to be added to the seconds since the machine started, to have the server's own clock
    :param late: service and count of those that are late now
    """

    __slots__ = ("base", "counts", "first_own", "late", "next_deadline", "services")

    def __init__(self, base: float, late: list[tuple[bytes, int]]) -> None:
        self.base = base
        self.late = late
        self.counts: dict[int, int] = {}
        """Requests by state."""
        self.first_own = 0
        """Number of the first request that will be accepted after it."""
        self.next_deadline: float | None = None
        self.services: list[bytes] = []
        """Those, or some of those, for which requests are pending."""
