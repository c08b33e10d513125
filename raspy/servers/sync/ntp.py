"""What NTP servers say, what of it is believed, and what they agree on (:rfc:`5905`, :rfc:`8633`).

Each server is asked for one packet in a round: a pool's servers are other people's.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import ntplib

from raspy.common.clock import BUILT, plausible
from raspy.common.devices.errors import ReadingError

PACKET = 48
"""Bytes of an NTP packet without extensions (RFC 5905, figure 8)."""
REQUEST = bytes([0b00_100_011]) + bytes(39)
"""Version 4, mode client; nothing else of this machine is told (RFC 8633, section 3.5, and chrony's practice)."""
ERA = 2.0**32
"""Seconds of an NTP era; the second one begins in February 2036 (RFC 5905, section 6)."""

LONGEST_DISTANCE = 1.5
"""s of root distance, half of all delay plus all dispersion, above which a server is not believed (RFC 5905's MAXDIST
is 1 s, and ntpd's default 1.5 s)."""
LONGEST_DELAY = 1.0
"""s of the way there and back above which an answer is not believed."""
LONGEST_HOLDOVER = 86_400.0
"""s since a server's own clock was set last, above which it is not believed (RFC 5905, appendix A.5.1.1)."""
AGREEMENT = 0.25
"""s, besides its own root distance, by which an offset may differ from the median."""

STOP_KISSES = ("DENY", "RSTR")
"""Kiss codes after which a server is not to be asked again (RFC 5905, section 7.4)."""
SLOWER_KISS = "RATE"


class NTPError(ReadingError):
    """A server gave no answer that can be believed; ``kind`` says in a word what was wrong."""

    address = ""
    """Who said so, where somebody did."""


class Sample(msgspec.Struct, frozen=True):
    """One believable answer."""

    server: str
    offset: float
    """s to be added to the system clock, as it was at ``base``."""
    delay: float
    """s, there and back."""
    distance: float
    """s, by which it may be wrong."""
    stratum: int
    base: float
    """The system clock less the seconds since the boot, when the packet was sent: it tells whether somebody has set
    the clock since."""


class Consensus(msgspec.Struct, frozen=True):
    """What the believable servers agree on."""

    offset: float
    """s to be added to the system clock, as it was at ``base``."""
    base: float
    agreeing: tuple[str, ...]
    answered: int
    """Believable answers, those that do not agree too."""
    stratum: int
    """Of the best of those that agree."""
    distance: float
    """s by which the best of them may be wrong."""


def ask(
    server: str,
    host: str,
    port: int,
    timeout: float,
    wall: Callable[[], float],
    since: Callable[[], float],
    taken: dict[str, str] | None = None,
    denied: Mapping[str, str] | None = None,
) -> Sample:
    """Ask a server what time it is. Blocks; the resolver may take longer than ``timeout``, too.

    :param server: how it is called
    :param timeout: s
    :param taken: by address, the servers that are asked in this round; this one is added
    :param denied: by address, with which kiss code it wanted never to be asked again
    :raises NTPError: no answer, or none that can be believed
    """
    try:
        # As bytes: a name of letters needs no IDNA, whose tables take half a megabyte.
        found = socket.getaddrinfo(host.encode() if host.isascii() else host, port, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        raise NTPError("name", f"its name is not found: {getattr(error, 'strerror', None) or error}") from error
    addresses = [(family, where(address), address) for family, _, _, _, address in found]
    family, name, address = choose(server, addresses, {} if taken is None else taken, denied or {})
    # What a client calls its time of sending is a number to know its answer by (RFC 5905, section 8, TEST2).
    nonce = os.urandom(8)
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as connection:
            # Connected: the kernel lets nothing through from other addresses and ports.
            connection.connect(address)
            sent, sent_at = wall(), since()
            connection.send(REQUEST + nonce)
            reply = _receive(connection, nonce, time.monotonic() + timeout)
            took = since() - sent_at
    except NTPError:
        raise  # which is an OSError, too
    except TimeoutError:
        raise NTPError("mute", f"no answer within {timeout:g} s") from None
    except OSError as error:
        raise NTPError("network", f"cannot be reached: {error.strerror or error}") from error
    try:
        return judge(server, reply, sent, took, sent - sent_at)
    except NTPError as error:
        error.address = name
        raise


Address = tuple[int, str, tuple[Any, ...]]
"""Family, how it is called, and what a socket takes."""


def choose(server: str, addresses: Sequence[Address], taken: dict[str, str], denied: Mapping[str, str]) -> Address:
    """The address of a server that is asked: the first that may be, and that no other one is asked at in this round.

    What answers under several names is one server, and counts once. The names of a pool may have addresses in common,
    so each takes another; but not one of the other family, as that may be the same machine.

    :raises NTPError: there is none
    """
    may = [each for each in addresses if each[1] not in denied]
    if not may:
        name = addresses[0][1]
        raise NTPError("denied", f"{denied[name]} (kiss-o'-death): {name} is not asked again")
    for each in may:
        # Several threads do this at once; setdefault() is one step.
        if each[0] == may[0][0] and taken.setdefault(each[1], server) == server:
            return each
    raise NTPError("twin", f"it is the same server as {taken[may[0][1]]}, at {may[0][1]}, and counts once")


def where(address: tuple[Any, ...]) -> str:
    """How the address of a socket is called: ``192.168.1.1:123`` or ``[fd00::1]:123``."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _receive(connection: socket.socket, nonce: bytes, end: float) -> bytes:
    """The answer to a request; what is none is let go by, until the time is up.

    :raises TimeoutError: none came in time
    :raises NTPError: none came, and something else did
    """
    strange = ""
    while True:
        left = end - time.monotonic()
        if left <= 0:
            break
        connection.settimeout(left)
        try:
            reply = connection.recv(512)
        except TimeoutError:
            break
        if len(reply) < PACKET:
            strange = f"it sent {len(reply)} bytes, which is no NTP packet"
        elif reply[24:32] != nonce:
            strange = "what it sent answers another request"
        else:
            return reply
    if strange:
        raise NTPError("garbage", strange)
    raise TimeoutError


def judge(server: str, reply: bytes, sent: float, took: float, base: float) -> Sample:
    """Whether an answer can be believed (RFC 5905, section 7.3 and appendix A.5.1.1).

    :param sent: the system clock when the request was sent, Unix s
    :param took: s until the answer came
    :raises NTPError: it cannot; of kind ``kiss``, the kiss code is the first word of the reason
    """
    packet = ntplib.NTPStats()
    try:
        packet.from_data(reply)
    except ntplib.NTPException as error:
        raise NTPError("garbage", f"what it sent is no NTP packet: {error}") from error
    if packet.mode != 4 or not 1 <= packet.version <= 4:
        raise NTPError("garbage", f"its answer has mode {packet.mode} and version {packet.version}, not 4 and 4")
    if packet.stratum == 0:
        code = "".join(chr(c) if 32 < c < 127 else "?" for c in packet.ref_id.to_bytes(4, "big"))
        raise NTPError("kiss", f"{code} (kiss-o'-death)")
    if packet.leap == 3 or packet.stratum > 15:
        raise NTPError("unsynchronised", f"its own clock is not set (leap {packet.leap}, stratum {packet.stratum})")
    held = _between(packet.recv_timestamp, packet.tx_timestamp)
    if not packet.tx_timestamp or not packet.recv_timestamp or held < 0:
        raise NTPError("garbage", "its times contradict each other")
    delay = took - held
    if not -0.001 <= delay <= LONGEST_DELAY or took > 10 * LONGEST_DELAY:
        raise NTPError(
            "delay", f"the way there and back took {delay:.3g} s, more than {LONGEST_DELAY:g}, or less than 0"
        )
    if not -1 <= _between(packet.ref_timestamp, packet.tx_timestamp) <= LONGEST_HOLDOVER:
        raise NTPError("holdover", "its own clock was last set more than a day ago")
    distance = (packet.root_delay + max(delay, 0.0)) / 2 + packet.root_dispersion
    if distance > LONGEST_DISTANCE:
        raise NTPError("distance", f"it may be wrong by {distance:.3g} s, more than {LONGEST_DISTANCE:g} s")
    told = packet.recv_time + held / 2
    if told < BUILT - ERA / 2:
        told += ERA
    if not plausible(told):
        raise NTPError("implausible", f"it says {date(told)}, which cannot be")
    return Sample(server, told - (sent + took / 2), max(delay, 0.0), distance, packet.stratum, base)


def _between(earlier: float, later: float) -> float:
    """Seconds from one NTP timestamp to another, over the end of an era too."""
    return (later - earlier + ERA / 2) % ERA - ERA / 2


def agree(samples: Sequence[Sample], wanted: int) -> Consensus:
    """What answers agree on: those near their median, if that is more than half of them and enough.

    :param wanted: how many must agree
    :raises NTPError: they do not
    """
    if not samples:
        raise NTPError("none", "no server gave an answer that can be believed")
    base = samples[-1].base
    offsets = {sample.server: sample.offset + sample.base - base for sample in samples}
    middle = _median(list(offsets.values()))
    near = [sample for sample in samples if abs(offsets[sample.server] - middle) <= AGREEMENT + sample.distance]
    if len(near) < wanted or 2 * len(near) <= len(samples):
        told = ", ".join(f"{name} {offset:+.3f} s" for name, offset in offsets.items())
        few = f"{wanted} are needed that agree" if len(samples) < wanted else "they contradict each other"
        raise NTPError("disagree", f"{few}: {told}")
    return Consensus(
        _median([offsets[sample.server] for sample in near]),
        base,
        tuple(sample.server for sample in near),
        len(samples),
        min(sample.stratum for sample in near),
        min(sample.distance for sample in near),
    )


def _median(numbers: list[float]) -> float:
    ordered = sorted(numbers)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def date(wall: float) -> str:
    """A Unix time as a message has it: ``2026-03-01 18:30:05 UTC``."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(wall))
    except (ValueError, OverflowError, OSError):
        return f"{wall:.0f} s"
