"""What is known of one service for which requests wait."""

from __future__ import annotations

import time
from collections import deque

from raspy.servers.titanic.records import Request

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 10.0
"""Seconds until a service that is away is asked for again; doubled each time."""
BUFFER = 64
"""Requests of one service that are held in memory."""
BUFFER_BYTES = 1 << 20
"""Bytes of their bodies; one is always held, whatever its size."""


class Lane:
    """The requests of one service, in the order of their arrival. Only a few are in memory; the rest is in the file.

    :param service: its name
    """

    __slots__ = (
        "asked_at",
        "asking",
        "buffer",
        "bytes",
        "due",
        "flying",
        "fresh",
        "gone",
        "last",
        "more",
        "ours",
        "passed",
        "pause",
        "reading",
        "service",
        "stale",
        "stranger",
        "taken",
        "tries",
        "window",
        "workers",
    )

    def __init__(self, service: bytes) -> None:
        self.service = service
        self.buffer: deque[Request] = deque()
        self.bytes = 0
        self.last = 0
        """Number of the last request that came into the buffer."""
        self.more = False
        """The file has later ones."""
        self.fresh = False
        """Later ones came while the file was read."""
        self.reading = False
        self.stale = False
        """What is being read is to be read again."""
        self.taken: set[int] = set()
        """Numbers of those out of the buffer whose end is not in the file yet."""
        self.passed: set[int] = set()
        """Numbers of those whose end came into the file while it was being read, which may have been before."""
        self.gone: set[int] = set()
        """Numbers of those taken that were withdrawn before they were begun."""
        self.flying = 0
        """How many of them have no reply yet."""
        self.window = 0
        """Requests that it may have at a time: its workers; 0: it is away, or not known."""
        self.workers = 0
        """What the last answer said."""
        self.ours = False
        self.stranger = False
        """It is named as ours are and belongs to somebody else."""
        self.asking = False
        self.asked_at = 0.0
        """Monotonic time of the last answer about it."""
        self.tries = 0
        """Answers in a row that it is there and not one of ours."""
        self.due = 0.0
        """Monotonic time before which nothing is done for it."""
        self.pause = FIRST_PAUSE

    @property
    def idle(self) -> bool:
        """Whether nothing of it is known to be left."""
        return not (self.buffer or self.more or self.reading or self.taken)

    @property
    def busy(self) -> bool:
        """Whether it cannot be forgotten now, and read from the file again later."""
        return bool(self.window or self.taken or self.reading or self.asking)

    @property
    def has_work(self) -> bool:
        """Whether a request waits to be begun."""
        return bool(self.buffer) or self.more

    def offer(self, request: Request) -> None:
        """Take a request that is on disk. It is read from there later when the memory is full, or nobody serves it."""
        if request.id <= self.last:
            return  # it was read from there already
        full = len(self.buffer) >= BUFFER or (self.bytes + request_bytes(request) > BUFFER_BYTES and bool(self.buffer))
        if self.more or self.reading or full or not self.window:
            self.more = self.fresh = True
            return
        self._put(request)

    def begin_reading(self) -> None:
        """The file is being read from now on."""
        self.reading = True
        self.passed.clear()

    def refill(self, requests: list[Request], more: bool) -> None:
        """Take what was read from the file, which has more, or not."""
        self.reading = False
        if self.stale:
            self.stale = False
            return
        self.more = more or self.fresh
        self.fresh = False
        known = self.taken | self.passed | {request.id for request in self.buffer}
        for request in requests:
            if self.bytes and self.bytes + request_bytes(request) > BUFFER_BYTES:
                self.more = True
                return
            self.last = max(self.last, request.id)
            if request.id not in known:
                self._put(request)

    def again(self, request: Request) -> None:
        """Put one back that could not be run now: at its place, before all that came later."""
        self.taken.discard(request.id)
        self.flying -= 1
        self._put(request)

    def take(self) -> Request:
        """The next one; it counts as taken until its end is in the file."""
        request = self.buffer.popleft()
        self.bytes -= request_bytes(request)
        self.taken.add(request.id)
        self.flying += 1
        return request

    def stored(self, number: int) -> None:
        """The end of one that was taken is in the file, or it has none."""
        self.taken.discard(number)
        self.gone.discard(number)
        if self.reading:
            self.passed.add(number)

    def ended(self) -> None:
        """It is not run any more; what came of it is not in the file yet."""
        self.flying -= 1

    def reread(self) -> None:
        """Forget the buffer: the file says what is to be done."""
        self.buffer.clear()
        self.bytes = self.last = 0
        self.more = True
        self.stale = self.reading

    def withdraw(self, number: int) -> None:
        """Forget a request that has not begun."""
        if number in self.taken:
            self.gone.add(number)
        for request in [request for request in self.buffer if request.id == number]:
            self.buffer.remove(request)
            self.bytes -= request_bytes(request)
        if self.reading:
            self.passed.add(number)

    def away(self) -> None:
        """It cannot be asked to do anything for a while."""
        self.window = self.workers = 0
        self.due = time.monotonic() + self.pause
        self.pause = min(self.pause * 2, LONGEST_PAUSE)

    def _put(self, request: Request) -> None:
        """Put one at its place in the order of arrival."""
        index = len(self.buffer)
        while index and self.buffer[index - 1].id > request.id:
            index -= 1
        self.buffer.insert(index, request)
        self.last = max(self.last, request.id)
        self.bytes += request_bytes(request)


def request_bytes(request: Request) -> int:
    """Bytes of a request's body."""
    return sum(map(len, request.body))
