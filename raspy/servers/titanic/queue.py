"""``<host>.titanic.queue``: what waits, is run, was given up; to look at, to run again, to drop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raspy.common import MDP
from raspy.common.verbs import Later, VerbError, Verbs
from raspy.servers.titanic import records, requests

if TYPE_CHECKING:
    from raspy.servers.titanic.titanic import Titanic

LISTED = 1000
TEXT = 4096
"""Bytes of a frame that are shown."""
FRAMES = 100
"""Frames of a message that are shown."""
REASON = 400
"""Bytes of a reason that are shown."""
NAMES = {number: name for name, number in records.STATES.items()}

QUEUE = Verbs("queue")


def described(server: Titanic, row: Any) -> dict[str, Any]:
    """A row of the file, for people."""
    number, secret, service, state, at, failures, deadline, time, reply, *_ = row
    now = server.clock.now()
    name = NAMES[state]
    if state == records.PENDING and server.in_flight(number):
        name = "in flight"
    frames = records.unpack(reply) if state != records.DONE else []
    return {
        "uuid": records.uuid_of(number, secret),
        "service": text(service),
        "state": name,
        "age": round(max(0.0, now - at), 1),
        "time": time,
        "failures": failures,
        "lifetime": None if deadline is None or state != records.PENDING else round(max(0.0, deadline - now), 1),
        "reason": text(frames[0], REASON) if frames else "",
    }


def text(frame: bytes, limit: int = TEXT) -> str:
    """A frame as JSON can hold it, cut when it is long."""
    return frame[:limit].decode("utf-8", "backslashreplace") + ("…" if len(frame) > limit else "")


def texts(frames: list[bytes]) -> list[str]:
    """Frames as JSON can hold them; what would be too much for one message is left off."""
    return [text(frame) for frame in frames[:FRAMES]] + ["…"] * (len(frames) > FRAMES)


def checked(uuid: str) -> tuple[int, bytes]:
    """Number and secret of a uuid.

    :raises VerbError: 400 when it is none
    """
    parsed = records.parse_uuid(uuid.encode())
    if parsed is None:
        raise VerbError(MDP.BAD_REQUEST, f"{uuid!r:.60}: the id of a request has 32 hexadecimal digits")
    return parsed


def unknown(uuid: str) -> VerbError:
    """The refusal of a request that is not kept."""
    return VerbError(MDP.NOT_FOUND, f"{uuid}: no such request is kept")


@QUEUE.verb(name="list", reads=True)
def list_requests(server: Titanic, state: str = "") -> Later:
    """How many requests there are by state (``counts``), and the oldest 1000 of them (``requests``) or of one state:
    ``pending``, ``done``, ``parked`` or ``late``; ``more`` says whether there are more."""
    if state and state not in records.STATES:
        raise VerbError(MDP.BAD_REQUEST, f"the states are {', '.join(records.STATES)}, not {state!r:.60}")
    number = records.STATES.get(state)

    def answer(found: tuple[list[Any], dict[int, int]]) -> dict[str, Any]:
        rows, counts = found
        flying = server.flying
        told = {name: counts.get(value, 0) for name, value in records.STATES.items()}
        told["in flight"] = min(flying, told["pending"])
        told["pending"] -= told["in flight"]
        return {
            "counts": told,
            "requests": [described(server, row) for row in rows[:LISTED]],
            "more": len(rows) > LISTED,
        }

    return server.queue_read(
        lambda connection: (requests.rows(connection, number, LISTED + 1), requests.counts(connection)), answer
    )


@QUEUE.verb(reads=True)
def info(server: Titanic, uuid: str) -> Later:
    """What is known of one request, with its ``body`` and ``reply`` as texts."""
    number, secret = checked(uuid)

    def answer(row: Any) -> Any:
        if row is None:
            return unknown(uuid)
        told = described(server, row)
        told["body"] = texts(records.unpack(row[-1]))
        done = row[3] == records.DONE
        told["reply"] = texts(records.unpack(row[-2])) if done else None
        return told

    return server.queue_read(lambda connection: requests.row(connection, number, secret), answer)


@QUEUE.verb()
def retry(server: Titanic, uuid: str) -> Later:
    """Run a parked request again; a lifetime that it had counts from now; ``409`` when it is not parked."""
    number, secret = checked(uuid)
    now = server.clock.now()

    def answer(found: tuple[int, bytes] | None) -> Any:
        if found is None:
            return unknown(uuid)
        if found[0] != records.PARKED:
            return VerbError(MDP.CONFLICT, f"{uuid}: it is {NAMES[found[0]]}; only a parked one is run again")
        server.run_again(found[1])
        return {"uuid": uuid, "state": "pending"}

    item = (number, secret, now)
    return server.queue_write(requests.retry, item, answer)


@QUEUE.verb()
def drop(server: Titanic, uuid: str) -> Later:
    """Forget a request, whatever its state; one in flight cannot be called back, but its reply is dropped."""
    number, secret = checked(uuid)

    def answer(found: tuple[int, bytes] | None) -> Any:
        if found is None:
            return unknown(uuid)
        server.closed(number, found)
        return {"uuid": uuid, "state": NAMES[found[0]]}

    return server.queue_write(requests.close, (number, secret), answer)
