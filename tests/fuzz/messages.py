"""What hostile peers send: arbitrary frames, near-valid messages, and what they do otherwise."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TypeVar

from hypothesis import strategies as st

REQUESTS, SNAPSHOT, COLLECTOR, UPDATES = "requests", "snapshot", "collector", "updates"
PEERS = {REQUESTS: 8, SNAPSHOT: 3, COLLECTOR: 3, UPDATES: 2}
"""Hostile peers of each of the broker's sockets."""
DEAF = {(REQUESTS, 0), (REQUESTS, 1), (SNAPSHOT, 0), (UPDATES, 0)}
"""Those of them that never read."""

STATUS = (
    b'{"pid":1,"version":"1","state":"ok","instance":"i","services":["a.b.devices","mmi.x","\\u0000"],"uptime":9e9}'
)
STATUSES = [
    STATUS,
    b"",
    b"{}",
    b"[]",
    b"200",
    b"\xff",
    b'{"version":"\xff"}',
    b"[" * 3000,
    b'{"a":' + b"[" * 3000,
    b'{"services":["\\udc00"]}',
    b'{"state":"degraded","conditions":{"\\u0000":"\\n"}}',
    b'{"last_error":"' + b"x" * 70_000 + b'"}',
]
"""What a server may say of itself."""
SERVICES = [b"svc", b"a.b.mmi", b"c.d.mmi", b"a.b.devices", b"\n.\x00.mmi", b"mmi.x", b"n" * 255, b"n" * 256]
WORDS = [
    b"",
    b"MDPC01",
    b"MDPW01",
    b"MDPC02",
    *(bytes([code]) for code in range(8)),
    *SERVICES,
    b"..mmi",
    b"mmi.",
    b"mmi.service",
    b"mmi.discovery",
    b"mmi.services",
    b"mmi.workers",
    b"mmi.statistics",
    b"mmi.version",
    b"RASPY1 " + b"0" * 32,
    b"RASPY1 ",
    b"status",
    b"200",
    b"404",
    *STATUSES[:-1],
    b"^(a+)+$",
    b"(",
    b"(?P<x>.)\\1",
]
"""Frames that mean something to the ROUTER of requests."""
KEYS = [
    b"",
    b"HUGZ",
    b"KTHXBAI",
    b"ICANHAZ?",
    b"/",
    b"//",
    b"/device/",
    b"/device/a.b.probe/temperature",
    b"/device/a.b.probe2/temperature",
    b"/server/a.b",
    b"/event/x/y",
    b"/top",
    b"no slash",
    b"/\xff/x",
    b"/a\n/x",
    b"/k" * 256,
    b"/k" * 257,
]
BODIES = [
    b"",
    b'{"quality":"ok","value":1,"max_age":1}',
    b'{"quality":"ok","value":1,"max_age":0.001}',
    b'{"quality":"ok","value":1,"max_age":31536000}',
    b'{"quality":"ok","value":1}',
    b'{"quality":"ok","max_age":-1}',
    b'{"quality":"ok","max_age":1e999}',
    b'{"quality":"error","reason":"x"}',
    b'{"quality":"stale"}',
    b'{"quality":"ok","max_age":1,"x":"\xff"}',
    b'{"quality":"ok","max_age":1,"x":' + b"[" * 3000,
    b"[]",
    b"null",
    b"x" * 20_000,
    b"x" * 70_000,
]
SEQUENCES = [struct.pack(">Q", 0), struct.pack(">Q", 2**64 - 1), b"", b"1234567", b"123456789"]
SUBSCRIPTIONS = [b"\x01", b"\x00", b"\x01HUGZ", b"\x01/device/", b"\x00/device/", b"\x02", b""]


@dataclass(frozen=True)
class Step:
    """One thing that a peer does: ``send``, ``vanish``, ``read``, or ``answer`` the next request with a body."""

    what: str
    socket: str
    peer: int
    frames: tuple[bytes, ...] = ()


T = TypeVar("T")


def weighted(*choices: tuple[int, st.SearchStrategy[T]]) -> st.SearchStrategy[T]:
    """One of several strategies, each as often as its weight says (``one_of`` counts equal ones once)."""
    table = [strategy for weight, strategy in choices for _ in range(weight)]
    return st.integers(0, len(table) - 1).flatmap(table.__getitem__)


def _words(words: list[bytes]) -> st.SearchStrategy[bytes]:
    return weighted((3, st.sampled_from(words)), (1, st.binary(max_size=40)))


ANY = st.lists(st.one_of(st.binary(max_size=60), st.sampled_from(WORDS)), max_size=9)
MDP = st.tuples(
    st.sampled_from([b"", b"", b"", b"", b"x"]),
    st.sampled_from([b"MDPC01", b"MDPW01", b"MDPW01", b"MDPC02", b""]),
    st.lists(_words(WORDS), max_size=6),
).map(lambda parts: [parts[0], parts[1], *parts[2]])
LONG = st.tuples(st.sampled_from([b"MDPC01", b"MDPW01"]), st.sampled_from([100, 1021, 1022, 1023, 5000])).map(
    lambda parts: [b"", parts[0], b"svc", *([b"x"] * parts[1])]
)
READY = st.sampled_from(SERVICES).map(lambda name: [b"", b"MDPW01", b"\x01", name])
REQUEST = st.tuples(_words(WORDS), st.lists(_words(WORDS), max_size=3)).map(
    lambda parts: [b"", b"MDPC01", parts[0], *parts[1]]
)
UPDATE = st.tuples(
    weighted((2, _words(KEYS)), (1, st.integers(0, 5000).map(lambda n: b"/crowd%d/k" % n))),
    weighted((5, st.sampled_from(SEQUENCES[:2])), (1, st.sampled_from(SEQUENCES))),
    _words(BODIES),
).map(list)
ASK = st.tuples(st.sampled_from([b"ICANHAZ?", b"ICANHAZ?", b"ICANHAZ", b""]), _words(KEYS)).map(list)
MESSAGES = {
    REQUESTS: weighted((20, MDP), (10, READY), (30, REQUEST), (10, ANY), (1, LONG)),
    SNAPSHOT: weighted((3, ASK), (1, ANY)),
    COLLECTOR: weighted((5, UPDATE), (1, ANY)),
    UPDATES: weighted((3, _words(SUBSCRIPTIONS).map(lambda frame: [frame])), (1, ANY)),
}


def _steps_at(socket: str) -> st.SearchStrategy[Step]:
    peers = st.integers(0, PEERS[socket] - 1)
    send = st.builds(lambda peer, frames: Step("send", socket, peer, tuple(frames) or (b"",)), peers, MESSAGES[socket])
    vanish = st.builds(lambda peer: Step("vanish", socket, peer), peers)
    read = st.builds(lambda peer: Step("read", socket, peer), peers)
    if socket != REQUESTS:
        return weighted((30, send), (2, read), (1, vanish))
    answer = st.builds(lambda peer, body: Step("answer", socket, peer, tuple(body)), peers, ANSWER)
    return weighted((30, send), (8, answer), (2, read), (1, vanish))


ANSWER = weighted(
    (3, st.sampled_from(STATUSES).map(lambda status: [status, b"200"])),
    (1, st.lists(_words(WORDS), max_size=3)),
)


@st.composite
def _service(draw: st.DrawFn) -> list[Step]:
    """A worker registers, somebody asks for it, it answers (or not), and goes away (or not)."""
    worker, client = draw(st.integers(2, PEERS[REQUESTS] - 1)), draw(st.integers(0, PEERS[REQUESTS] - 1))
    name = draw(st.sampled_from(SERVICES))
    steps = [Step("send", REQUESTS, worker, (b"", b"MDPW01", b"\x01", name))]
    for _ in range(draw(st.integers(0, 3))):
        steps.append(Step("send", REQUESTS, client, (b"", b"MDPC01", name, *draw(ANSWER))))
    for _ in range(draw(st.integers(0, 3))):
        steps.append(Step("answer", REQUESTS, worker, tuple(draw(ANSWER))))
    ending = draw(weighted((4, st.just("")), (1, st.just("vanish")), (2, st.just("send"))))
    if ending:
        steps.append(Step(ending, REQUESTS, worker, (b"", b"MDPW01", b"\x05") if ending == "send" else ()))
    return steps


def _alone(socket: str) -> st.SearchStrategy[list[Step]]:
    return _steps_at(socket).map(lambda step: [step])


STEPS = st.lists(
    weighted(
        (4, _alone(REQUESTS)), (1, _service()), (1, _alone(SNAPSHOT)), (3, _alone(COLLECTOR)), (1, _alone(UPDATES))
    ),
    min_size=10,
    max_size=50,
).map(lambda stories: [step for story in stories for step in story])
