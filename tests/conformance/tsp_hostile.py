"""UUIDs that are none, and malformed requests to the services of 9/TSP: a status, and no harm to others."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.conformance.registry import CheckFailed, Group
from tests.conformance.stage import Stage, show, unique
from tests.conformance.titanic import (
    CLOSE,
    LONGEST_BACK_OFF,
    OURS,
    REPLY,
    REQUEST,
    STATUS,
    STATUS_FRAMES,
    STATUSES,
    UUID,
    Titanic,
    applies,
    serves,
)

GROUP = Group("tsp-hostile", "9/TSP, hostile requests", applies=applies, bystander=serves, party="Titanic")

#: Name of the check, what it is, the UUID made of that of a reply that is kept.
UUIDS: list[tuple[str, str, Callable[[bytes], bytes]]] = [
    ("path", "the path of a file", lambda uuid: b"../../etc/passwd"),
    ("path-beside", "the path of a file beside the Titanic's own", lambda uuid: b"../victim"),
    ("path-same", "a path that leads to a UUID", lambda uuid: b"./" + uuid),
    ("short", "a UUID without its last digit", lambda uuid: uuid[:-1]),
    ("longer", "a UUID with one digit more", lambda uuid: uuid + b"0"),
    ("newline", "a UUID with a line end", lambda uuid: uuid + b"\n"),
    ("space", "a UUID with a space in front", lambda uuid: b" " + uuid),
    ("nul", "a UUID with a zero byte behind it", lambda uuid: uuid + b"\x00"),
    ("nul-inside", "a zero byte in place of a digit", lambda uuid: uuid[:16] + b"\x00" + uuid[17:]),
    ("empty", "an empty frame", lambda uuid: b""),
    ("not-utf8", "32 bytes that are not UTF-8", lambda uuid: b"\xff\xfe" * 16),
    ("digits", "32 digits of another alphabet", lambda uuid: "٣".encode() * 32),
    ("underscores", "digits and underscores", lambda uuid: b"1_" * 15 + b"11"),
    ("wildcard", "a wildcard", lambda uuid: b"*"),
    ("sql", "a piece of SQL", lambda uuid: b"' OR '1'='1"),
    ("format", "format specifiers", lambda uuid: b"%s%n%n%s" * 4),
    ("huge", "a UUID 32,000 times", lambda uuid: uuid * 32_000),
]


def _hostile(make: Callable[[bytes], bytes]) -> Callable[[Stage], None]:
    def function(stage: Stage) -> None:
        titanic, service = Titanic(stage), unique()
        kept, pending = titanic.done(), titanic.store(service, b"pending")
        bad = make(kept)
        titanic.expect(bad, b"400", f"for {bad[:40]!r}")
        titanic.ask(CLOSE, bad)
        titanic.ask(CLOSE, make(pending))
        if titanic.ask(REPLY, kept) != (b"200", [b"kept"]):
            raise CheckFailed(f"to close {bad[:40]!r} deleted the reply to another request")
        titanic.expect(pending, b"300", f"for another request, after {make(pending)[:40]!r} was closed")
        stage.worker(service).echo = True
        titanic.fetch(pending, LONGEST_BACK_OFF)

    return function


for _name, _what, _make in UUIDS:
    GROUP.add(
        f"uuid.{_name}",
        STATUS_FRAMES,
        "MUST",
        f"titanic.reply says 400, and titanic.close harms nothing: {_what}.",
        _hostile(_make),
    )


@GROUP.check("uuid.case", OURS, "ours", "A UUID with its letters in the other case is another one.")
def uuid_case(stage: Stage) -> None:
    _hostile(bytes.swapcase)(stage)


#: Name of the check, what is wrong, the frames after the empty one and MDPC01 (b"UUID" stands for one that is kept).
MESSAGES: list[tuple[str, str, list[bytes]]] = [
    ("request-nothing", "titanic.request without a body", [REQUEST]),
    ("reply-nothing", "titanic.reply without a body", [REPLY]),
    ("close-nothing", "titanic.close without a body", [CLOSE]),
    ("reply-frames", "titanic.reply with 20 frames behind the UUID", [REPLY, b"UUID", *[b"x"] * 20]),
    ("close-frames", "titanic.close with 20 frames before the UUID", [CLOSE, *[b"x"] * 20, b"UUID"]),
    ("reply-two", "titanic.reply with an empty frame before the UUID", [REPLY, b"", b"UUID"]),
]


def _malformed(frames: list[bytes]) -> Callable[[Stage], None]:
    def function(stage: Stage) -> None:
        titanic = Titanic(stage)
        uuid = titanic.done()
        client = stage.client()
        client.send(b"", b"MDPC01", *(uuid if frame == b"UUID" else frame for frame in frames))
        stage.until(lambda: bool(client.replies), 1.0)
        for reply in client.replies:
            if STATUS.fullmatch(reply.body[0]) is None or reply.body[0][:3] not in STATUSES:
                raise CheckFailed(f"it is answered {show(reply.body)}")
        if titanic.fetch(uuid) != [b"kept"]:
            raise CheckFailed("another reply is kept now")

    return function


for _name, _what, _frames in MESSAGES:
    GROUP.add(
        f"malformed.{_name}",
        STATUS_FRAMES,
        "MUST",
        f"Dropped, or answered with a status: {_what}.",
        _malformed(_frames),
        True,
    )


@GROUP.check("malformed.random", STATUS_FRAMES, "MUST", "300 requests of random frames harm nobody.", True)
def malformed_random(stage: Stage) -> None:
    titanic, source = Titanic(stage), random.Random(9)
    uuid = titanic.done()
    parts = [b"", b"\x00", b"\xff" * 33, b"RASPY1 " + b"0" * 32, b"RASPY1 x", b"-1", uuid[:31], b"x" * 300, b"echo"]
    for _ in range(300):
        frames = [source.choice(parts) for _ in range(source.randint(1, 6))]
        code, rest = titanic.ask(source.choice((REQUEST, REPLY, CLOSE)), *frames)
        if code == b"200" and rest and UUID.fullmatch(rest[0]):
            titanic.close(rest[0])
    if titanic.fetch(uuid) != [b"kept"]:
        raise CheckFailed("another reply is kept now")
