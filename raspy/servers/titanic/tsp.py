"""The frames of RFC 9/TSP: what is refused, and what a reply looks like."""

from __future__ import annotations

from raspy.common import MDP
from raspy.common.log import printable
from raspy.common.verbs import shown
from raspy.servers.titanic.records import DONE, LATE, PENDING, unpack

SERVICE_BYTES = 255
"""Bytes of a service's name, as in the broker."""
NOT_SERVICES = (b"mmi.", b"titanic.", MDP.REQUEST_ID)
"""Names that no request may have: answered at once by the broker or by Titanic; the last is an id that is not right."""
FRAMES = 1017
"""Frames of a reply that the broker carries behind a status."""
REASON = 400
"""Characters behind a status."""


def is_request(frames: list[bytes]) -> bool:
    """Whether frames are a service and a body."""
    return len(frames) >= 2 and 0 < len(frames[0]) <= SERVICE_BYTES and not frames[0].startswith(NOT_SERVICES)


def refused(status: bytes, problem: str) -> bytes:
    """A status with a reason behind it, which RFC 9/TSP allows."""
    return status + b" " + printable(problem)[:REASON].encode("ascii", "backslashreplace")


def request_problem(frames: list[bytes]) -> str:
    """What is wrong with a request for ``titanic.request``."""
    if len(frames) < 2:
        return "a request is a service and at least one frame of body"
    if not 0 < len(frames[0]) <= SERVICE_BYTES:
        return f"the name of a service has 1 to {SERVICE_BYTES} bytes"
    if frames[0].startswith(MDP.REQUEST_ID):
        return f"{shown(frames[0])}: an id is RASPY1, 32 hexadecimal digits and perhaps a lifetime in seconds"
    return "services under mmi. and titanic. are asked directly"


def without_id(body: list[bytes]) -> list[bytes]:
    """The frames behind the id that our own clients put first."""
    return body[1:] if body and MDP.parse_id(body[0]) else body


def reply_frames(found: tuple[int, bytes | None, int] | None) -> list[bytes]:
    """The answer of ``titanic.reply``."""
    if found is None:
        return [refused(MDP.BAD_REQUEST, "no such request is kept")]
    state, packed, _ = found
    if state == PENDING:
        return [MDP.PENDING]
    frames = unpack(packed)
    if state == DONE and len(frames) > FRAMES:
        return [refused(MDP.ERROR, f"the reply has {len(frames)} frames; {FRAMES} can be passed on")]
    if state == DONE:
        return [MDP.OK, *frames]
    if state == LATE:
        return [refused(MDP.ERROR, "late: it could not be begun in its lifetime")]
    return [refused(MDP.ERROR, f"parked: {frames[0].decode('utf-8', 'replace') if frames else 'given up'}")]
