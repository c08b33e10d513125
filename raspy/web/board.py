"""What the page shows, kept on the loop's thread, and the streams that tell open pages of changes.

A thread that serves HTTP never touches the board: it has the loop make a :class:`Snapshot`, which never
changes, or reads its own :class:`Stream`.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from raspy.common.executive import Executive, Timer
from raspy.common.MDP import ServerError
from raspy.web.names import Names
from raspy.web.rows import ALARM, DEVICE, EVENT, MODE, MODE_END, RUNNING, SERVER, Held, is_mode_end, row
from raspy.web.sparks import Spark, Sparks
from raspy.web.texts import ENGLISH, fields
from raspy.web.words import Words

FLUSH = 0.2
"""Seconds in which changes are gathered into one message."""
KEEP_ALIVE = 5.0
"""Seconds between the signs of life that every stream gets from the loop."""
SILENCE = 3 * KEEP_ALIVE
"""Seconds without any message after which a stream ends: the loop hangs."""
STREAM_QUEUE = 32
"""Messages that may wait for one slow client; then it is told to load everything anew."""
ROWS_LIMIT = 300
"""Changed rows that are told one by one; more, and loading everything anew is cheaper."""
EVENTS = 20
"""Events that the page remembers."""
LIVE = "live"
GONE = ("stopped", "lost")
"""States of a server that answers nothing."""

_encode = msgspec.json.Encoder().encode


class Busy(ServerError, TimeoutError):
    """The loop did not answer a page's question in time."""


class Snapshot:
    """The board at one moment; nobody changes it.

    :param version: rises with every change; of no meaning after a restart of the server
    :param bus: ``live``, ``connecting`` or ``lost``
    :param taken: monotonic time, s
    :param sparks: by key, how a value went
    :param labels: by ``<host>.<server>.<device>``, what an owner calls a device
    """

    __slots__ = ("bus", "events", "held", "labels", "sparks", "streams", "taken", "version")

    def __init__(
        self,
        version: str,
        bus: str,
        taken: float,
        held: dict[str, Held],
        events: tuple[Held, ...],
        streams: int,
        sparks: dict[str, Spark] | None = None,
        labels: dict[str, str] | None = None,
    ) -> None:
        self.version = version
        self.bus = bus
        self.taken = taken
        self.held = held
        self.events = events
        self.streams = streams
        self.sparks = sparks or {}
        self.labels = labels or {}

    def label(self, device: str) -> str:
        """What an owner calls a device ``<host>.<server>.<device>``; its name where there is nothing else."""
        return self.labels.get(device) or device.split(".", 2)[-1]

    def service(self, hostname: str, server: str) -> str:
        """The server of a kind that there is one of, as ``logger``: that of a host if it has one, and one that runs if
        there is any."""
        own = f"{hostname}.{server}"
        known = [key.removeprefix("/server/") for key in self.held if SERVER.fullmatch(key)]
        found = [name for name in known if name.endswith(f".{server}")]
        running = [name for name in found if self.runs(name)] or found
        return own if own in running or not running else min(running)

    def runs(self, server: str) -> bool:
        """Whether a server can answer, by its whole name."""
        held = self.held.get(f"/server/{server}")
        return held is not None and fields(held.body).get("state") not in GONE

    @property
    def live(self) -> bool:
        """Whether values can be current at all."""
        return self.bus == LIVE


class Stream:
    """Server-Sent Events for one client: filled by the loop, read by the thread that writes to the client.

    An iterator of bytes; :meth:`close` is called by whoever serves it, also when it was never read.
    """

    def __init__(self, leave: Callable[[Stream], None], words: Words = ENGLISH) -> None:
        self.words = words
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._leave = leave
        self._behind = False
        self.closed = False

    def put(self, message: bytes) -> None:
        """From the loop, its only producer: add a message; it never waits.

        A client that is too slow gets one message in place of all that wait: to load everything anew. When
        it has taken nothing until the queue is full again, it is let go.
        """
        if self._queue.qsize() >= STREAM_QUEUE:
            if self._behind:
                self.end()
                self._leave(self)
                return
            self._behind = True
            self._empty()
            message = RELOAD
        self._queue.put(message)

    def end(self) -> None:
        """From the loop: have the stream end now, whatever still waits."""
        self._empty()
        self._queue.put(None)

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> bytes:
        try:
            message = None if self.closed else self._queue.get(timeout=SILENCE)
        except queue.Empty:
            message = None
        if message is None:
            self.closed = True
            raise StopIteration
        self._behind = False
        return message

    def close(self) -> None:
        """From the serving thread: the client is gone; harmless when repeated."""
        self.closed = True
        self._leave(self)

    def _empty(self) -> None:
        try:
            while True:
                self._queue.get_nowait()
        except queue.Empty:
            pass


def message(event: str, data: bytes = b"1") -> bytes:
    """One message of a stream (WHATWG HTML, 9.2 Server-sent events); ``data`` is one line."""
    return b"event: %s\ndata: %s\n\n" % (event.encode(), data)


RELOAD = message("reload")
ALIVE = message("alive")


class Board:
    """The tree as the page needs it. All but :meth:`ask` and :meth:`leave` are called on the loop only.

    :param loop: the server's loop
    :param streams: streams that may be open at a time
    """

    def __init__(self, loop: Executive, streams: int) -> None:
        self._loop = loop
        self._cap = streams
        self._held: dict[str, Held] = {}
        self._events: deque[Held] = deque(maxlen=EVENTS)
        self._streams: set[Stream] = set()
        self._bus = "connecting"
        self._start = f"{loop.get_instance_id().rsplit('.', 1)[-1]}-"
        self._version = 0
        self._snapshot: Snapshot | None = None
        self._changed: set[str] = set()
        self._reload = False
        self._flush_timer: Timer | None = None
        self._closed = False
        self.sparks = Sparks(loop, self.told)
        self.names = Names(loop, self.told)

    def start(self) -> None:
        """Begin to give the streams signs of life."""
        self._loop.call_every(KEEP_ALIVE, self._tell, ALIVE)

    def close(self) -> None:
        """End every stream, and take no more."""
        self._closed = True
        self.sparks.close()
        self.names.close()
        for stream in self._streams:
            stream.end()
        self._streams.clear()

    def change(self, key: str, body: bytes) -> None:
        """A key has a new body; an empty one deletes it."""
        if body:
            wall = time.time()
            held = Held(key, body, time.monotonic(), wall)
            # An alarm in another state stands in another place, and other things can be done with it.
            before = self._held.get(key)
            self._reload |= before is None or key.startswith(ALARM)
            self._held[key] = held
            if key.startswith(EVENT):
                self._events.append(held)
                self._reload = True
            else:
                self._follow(held, before, wall)
        elif self._held.pop(key, None) is not None:
            self._reload = True
            self.sparks.drop(key)
        self._changed.add(key)
        self._touch()

    def _follow(self, held: Held, before: Held | None, wall: float) -> None:
        """Have the lines and labels follow what is on the tree."""
        device = DEVICE.fullmatch(held.key)
        if device is not None:
            self.names.see(f"{device['host']}.{device['server']}")
            if not held.key.endswith(MODE_END):
                self.sparks.add(held, wall)
            return
        server = SERVER.fullmatch(held.key)
        if server is not None and _runs(held) and not (before is not None and _runs(before)):
            name = held.key.removeprefix("/server/")
            self.names.ask(name)
            if server["server"] == "logger" and (server["host"] == self._loop.hostname or not self.sparks.service):
                self.sparks.logger(f"{name}.log")

    def told(self) -> None:
        """More is known than what is on the tree: open pages are to load anew."""
        self._reload = True
        self._touch()

    def bus(self, state: str) -> None:
        """The state of the channel to the tree: ``connecting``, ``live`` or ``lost``."""
        if state != self._bus:
            self._bus = state
            self._reload = True
            self._touch()

    def snapshot(self) -> Snapshot:
        """The board as it is now."""
        if self._snapshot is None:
            now = time.monotonic()
            events = tuple(sorted(self._events, key=lambda held: _old(held, now)))
            self._snapshot = Snapshot(
                f"{self._start}{self._version}",
                self._bus,
                now,
                dict(self._held),
                events,
                len(self._streams),
                self.sparks.lines(),
                self.names.labels,
            )
            self.names.look()
        return self._snapshot

    def subscribe(self, since: str, words: Words = ENGLISH) -> Stream | None:
        """A stream of what changes from now on; None: there are as many as may be.

        :param since: the version that the client shows; when it is not the newest, it is told to reload
        :param words: the language of the client
        """
        if self._closed or len(self._streams) >= self._cap:
            # A client that left is noticed when it is written to: make room for the next one to ask.
            self._tell(ALIVE)
            return None
        stream = Stream(self.leave, words)
        self._streams.add(stream)
        self._snapshot = None
        current = since == f"{self._start}{self._version}"
        stream.put(b"retry: 2000\n\n" + (ALIVE if current else RELOAD))
        return stream

    def leave(self, stream: Stream) -> None:
        """From any thread: a stream's client is gone."""
        self._loop.call_threadsafe(self._forget, stream)

    def ask(self, function: Callable[..., Any], *args: Any, timeout: float = 2.0) -> Any:
        """From a thread that is not the loop's: call a function on the loop and return its result.

        :raises Busy: the loop did not get to it within ``timeout`` seconds
        """
        done, given_up = threading.Event(), threading.Event()
        result: list[Any] = []

        def call() -> None:
            try:
                if not given_up.is_set():
                    result.append(function(*args))
            finally:
                done.set()

        self._loop.call_threadsafe(call)
        if not done.wait(timeout) or not result:
            given_up.set()
            raise Busy("the server is busy or stopping")
        return result[0]

    def _forget(self, stream: Stream) -> None:
        self._streams.discard(stream)
        self._snapshot = None

    def _touch(self) -> None:
        self._version += 1
        self._snapshot = None
        if self._flush_timer is None:
            self._flush_timer = self._loop.call_later(FLUSH, self._flush)

    def _flush(self) -> None:
        """Tell the open pages what changed since the last time."""
        self._flush_timer = None
        changed, self._changed = self._changed, set()
        reload, self._reload = self._reload, False
        if not self._streams:
            return
        if reload or len(changed) > ROWS_LIMIT:
            self._tell(RELOAD)
            return
        now = time.monotonic()
        ends = [key for key in changed if is_mode_end(key, self._held)]
        changed = changed.difference(ends).union(key.removesuffix(MODE_END) + MODE for key in ends)
        for words in {stream.words for stream in self._streams}:
            rows = [row(self._held[key], now, self._bus == LIVE, self._held, words).update() for key in sorted(changed)]
            self._tell(message("rows", _encode({"version": self._version, "rows": rows})), words)

    def _tell(self, text: bytes, words: Words | None = None) -> None:
        for stream in list(self._streams):
            if words is None or stream.words is words:
                stream.put(text)


def _old(held: Held, now: float) -> float:
    """Seconds since something happened; since it was told, where it does not say when."""
    age = held.age_at(now)
    return now - held.arrived if age is None else age


def _runs(held: Held) -> bool:
    """Whether a server does."""
    return fields(held.body).get("state") in RUNNING
