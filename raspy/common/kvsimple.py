"""Key/value messages: the frames of the ZeroMQ Guide's clone pattern (``kvsimple``), with 64-bit sequences.

==========  ==================================================================================================
update      key (UTF-8), sequence (8 bytes, network order), body; an empty body deletes the key
snapshot    asked by ``ICANHAZ?``, subtree; answered by updates, then ``KTHXBAI``, sequence, subtree
heartbeat   ``HUGZ``, current sequence, JSON of :class:`Heartbeat`
==========  ==================================================================================================

Everything here is about frames and bodies; of RasPy only the errors are imported.
"""

from __future__ import annotations

import re
from struct import Struct
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import zmq
from msgspec import Meta

from raspy.common.MDP import ProtocolError

HUGZ = b"HUGZ"
KTHXBAI = b"KTHXBAI"
ICANHAZ = b"ICANHAZ?"
RESERVED = (HUGZ, KTHXBAI, ICANHAZ)

KEY_BYTES = 512
"""Longest key, and longest subtree, in bytes of UTF-8."""
FRAME_BYTES = KEY_BYTES + 16
"""Longest frame to the Proxy that has no body: a subscription, or a request for a snapshot."""
BODY_BYTES = 1 << 20
"""Longest body that a Proxy takes unless it is told otherwise."""
MOST_FRAMES = 4
"""Frames of a message that are kept: one more than any message of the channel has."""

DEVICE = b"/device/"
SERVER = b"/server/"
OTHERS = "*"
"""In a heartbeat: all the keys that belong to no subtree counted by name."""

pack = Struct(">Q").pack
_unpack = Struct(">Q").unpack
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")

RECONNECT_MS, LONGEST_RECONNECT_MS = 100, 1000
PING_MS, PONG_MS = 5000, 10_000
"""Pings of ZMTP, so that a connection is found dead whose other end lost its power."""

BAD_BODY = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding a hostile body may raise."""


class Heartbeat(msgspec.Struct):
    """The body of ``HUGZ``.

    ``count`` holds, per top-level subtree (``/device/...`` is ``device``), how many updates were published since
    the Proxy's start, this epoch. The last *sequence* of a subtree would not do: who lost an update in the middle
    but has the newest one could not tell.
    """

    epoch: int
    count: dict[str, int]


class Life(msgspec.Struct):
    """What of a reading under ``/device/`` decides how long it may be believed; the rest is not looked at."""

    quality: Literal["ok", "stale", "error"]
    max_age: Annotated[float, Meta(gt=0, le=31_536_000, extra={"unit": "s"})] | None = None


decode_life = msgspec.json.Decoder(Life).decode
decode_heartbeat = msgspec.json.Decoder(Heartbeat).decode
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
encode_heartbeat = _encode


def check_key(key: bytes) -> str:
    """The key as text.

    :raises ProtocolError: it is empty, too long, not UTF-8, reserved, or has control characters
    """
    if not key:
        raise ProtocolError("a key must not be empty")
    if len(key) > KEY_BYTES:
        raise ProtocolError(f"a key may have {KEY_BYTES} bytes, this one has {len(key)}")
    if key in RESERVED:
        raise ProtocolError(f"the key {key.decode()} is reserved for the protocol")
    try:
        text = key.decode()
    except UnicodeDecodeError as error:
        raise ProtocolError(f"the key {key!r} is not UTF-8") from error
    if _CONTROLS.search(text):
        raise ProtocolError(f"the key {text!r} has control characters")
    return text


def top(key: str) -> str:
    """The name of the top-level subtree a key is in (``/device/...``: ``device``), or :data:`OTHERS`."""
    end = key.find("/", 1)
    return key[1:end] if end > 1 and key[0] == "/" else OTHERS


def check_life(body: bytes) -> Life:
    """What says how long a reading may be believed.

    :raises ProtocolError: not a JSON object with ``quality``, and ``max_age`` in seconds when that is ``ok``
    """
    try:
        life = decode_life(body)
    except BAD_BODY as error:
        raise ProtocolError(f"not a reading: {error}") from error
    if life.max_age is None and life.quality == "ok":
        raise ProtocolError("not a reading: max_age in seconds is missing")
    return life


def stale(body: bytes, reason: str) -> bytes:
    """A reading that may no longer be believed: ``quality`` is ``stale``, and what was ``value`` is now ``last``.

    Without a ``value`` nobody can use it as a number by mistake.
    """
    try:
        reading: Any = _decode(body)
        if not isinstance(reading, dict):
            reading = {}
        if "value" in reading:
            reading["last"] = reading.pop("value")
        return _encode({**reading, "quality": "stale", "reason": reason})
    except BAD_BODY:
        # nested so deep that it can be read for its quality, but not taken apart or put together again
        return _encode({"quality": "stale", "reason": reason})


def connection(context: zmq.Context[zmq.Socket[bytes]], kind: int, address: str) -> zmq.Socket[bytes]:
    """A socket that, once connected, keeps trying to reach the Proxy, and notices when it is gone."""
    socket = context.socket(kind)
    socket.linger = 0
    if not socket.heartbeat_ivl:  # else the context has given it what a connection to another machine needs
        socket.reconnect_ivl = RECONNECT_MS
        socket.reconnect_ivl_max = LONGEST_RECONNECT_MS
        socket.heartbeat_ivl = PING_MS
        socket.heartbeat_timeout = PONG_MS
        socket.ipv6 = address.startswith("tcp://[")
    return socket


def parse(frames: list[bytes]) -> tuple[bytes, int, bytes]:
    """Key, sequence and body of a message.

    :raises ProtocolError: not three frames, or a sequence that is not 8 bytes
    """
    if len(frames) != 3:
        raise ProtocolError(f"a key/value message has 3 frames, this one {len(frames)}")
    key, number, body = frames
    if len(number) != 8:
        raise ProtocolError(f"a sequence has 8 bytes, this one {len(number)}")
    return key, _unpack(number)[0], body


M = TypeVar("M", bound="KVMsg")


class KVMsg:
    """One key/value message.

    :param sequence: its place in the order of updates, 0 to 2**64 - 1; a publisher sends 0
    :param key: the key; None or empty in a message without one
    :param body: the value; None or empty deletes
    :raises ProtocolError: the sequence is none
    """

    def __init__(self, sequence: int, key: str | None = None, body: bytes | None = None) -> None:
        if not isinstance(sequence, int) or not 0 <= sequence < 1 << 64:
            raise ProtocolError(f"a sequence is an integer from 0 to 2**64 - 1, not {sequence!r}")
        self.sequence = sequence
        self.key = key
        self.body = body

    def frames(self) -> list[bytes]:
        """The three frames on the wire.

        :raises ProtocolError: the key cannot be UTF-8
        """
        try:
            key = (self.key or "").encode()
        except UnicodeEncodeError as error:
            raise ProtocolError(f"the key {self.key!r} cannot be UTF-8") from error
        return [key, pack(self.sequence), self.body or b""]

    @classmethod
    def parse(cls: type[M], frames: list[bytes]) -> M:
        """The message in these frames.

        :raises ProtocolError: wrong number of frames, sequence or key
        """
        key, sequence, body = parse(frames)
        try:
            text = key.decode()
        except UnicodeDecodeError as error:
            raise ProtocolError(f"the key {key!r} is not UTF-8") from error
        return cls(sequence, text or None, body or None)

    def send(self, socket: zmq.Socket[bytes]) -> None:
        """Send the message; a missing key or body is an empty frame."""
        socket.send_multipart(self.frames())

    @classmethod
    def recv(cls: type[M], socket: zmq.Socket[bytes]) -> M:
        """Wait for a message.

        :raises ProtocolError: what came is none; it is consumed, and the next call takes the next message
        """
        return cls.parse(socket.recv_multipart())

    def store(self, dikt: dict[str, Any]) -> None:
        """Put the message into a dictionary under its key; without a body, take the key out of it."""
        if not self.key:
            return
        if self.body:
            dikt[self.key] = self
        else:
            dikt.pop(self.key, None)

    def dump(self) -> str:
        """One line that shows the message, for people."""
        body = self.body or b""
        return f"[seq:{self.sequence}][key:{self.key}][size:{len(body)}] {body!r}"
