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
from raspy.web.rows import EVENT, Held, row

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

_encode = msgspec.json.Encoder().encode


class Busy(ServerError, TimeoutError):
    """The loop did not answer a page's question in time."""


class Snapshot:
    """The board at one moment; nobody changes it.

    :param version: rises with every change; of no meaning after a restart of the server
    :param bus: ``live``, ``connecting`` or ``lost``
    :param taken: monotonic time, s
    """

    __slots__ = ("bus", "events", "held", "streams", "taken", "version")

    def __init__(
        self,
        version: str,
        bus: str,
        taken: float,
        held: dict[str, Held],
        events: tuple[Held, ...],
        streams: int,
    ) -> None:
        self.version = version
        self.bus = bus
        self.taken = taken
        self.held = held
        self.events = events
        self.streams = streams

    @property
    def live(self) -> bool:
        """Whether values can be current at all."""
        return self.bus == LIVE


class Stream:
    """Server-Sent Events for one client: filled by the loop, read by the thread that writes to the client.

    An iterator of bytes; :meth:`close` is called by whoever serves it, also when it was never read.
    """

    def __init__(self, leave: Callable[[Stream], None]) -> None:
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

    def start(self) -> None:
        """Begin to give the streams signs of life."""
        self._loop.call_every(KEEP_ALIVE, self._tell, ALIVE)

    def close(self) -> None:
        """End every stream, and take no more."""
        self._closed = True
        for stream in self._streams:
            stream.end()
        self._streams.clear()

    def change(self, key: str, body: bytes) -> None:
        """A key has a new body; an empty one deletes it."""
        if body:
            held = Held(key, body, time.monotonic(), time.time())
            self._reload |= key not in self._held
            self._held[key] = held
            if key.startswith(EVENT):
                self._events.append(held)
                self._reload = True
        elif self._held.pop(key, None) is not None:
            self._reload = True
        self._changed.add(key)
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
            events = tuple(sorted(self._events, key=lambda held: held.age_at(time.monotonic()) or 0.0))
            self._snapshot = Snapshot(
                f"{self._start}{self._version}",
                self._bus,
                time.monotonic(),
                dict(self._held),
                events,
                len(self._streams),
            )
        return self._snapshot

    def subscribe(self, since: str) -> Stream | None:
        """A stream of what changes from now on; None: there are as many as may be.

        :param since: the version that the client shows; when it is not the newest, it is told to reload
        """
        if self._closed or len(self._streams) >= self._cap:
            # A client that left is noticed when it is written to: make room for the next one to ask.
            self._tell(ALIVE)
            return None
        stream = Stream(self.leave)
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
        rows = [row(self._held[key], now, self._bus == LIVE).update() for key in sorted(changed)]
        data = _encode({"version": self._version, "rows": rows})
        self._tell(message("rows", data))

    def _tell(self, text: bytes) -> None:
        for stream in self._streams:
            stream.put(text)
