"""Many ZeroMQ sockets that a loop watches as one.

``zmq_poll`` looks at every socket in each turn: 0.8 microseconds each, which with a hundred of them is more than the
work on a message. epoll costs by those that have something.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any

import zmq

from raspy.common.executive import Executive, Socket


class PollGroup:
    """Watches sockets by their files, which tell of news only once (ZMQ_FD, zmq_getsockopt(3)).

    So a handler takes all that there is, and looks again after it has sent something: sending may take notice of what
    has come, and then the file does not tell of it any more.

    :param loop: handlers are called on it
    """

    def __init__(self, loop: Executive) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], Any]] = {}
        self._files: dict[Socket, int] = {}
        loop.register(self._epoll.fileno(), self._ready)

    def register(self, socket: Socket, handler: Callable[[], Any]) -> None:
        """Have ``handler()`` called when something has come, or may have."""
        file = self._files[socket] = int(socket.getsockopt(zmq.FD))
        self._handlers[file] = handler
        self._epoll.register(file, select.EPOLLIN)

    def unregister(self, socket: Socket) -> None:
        """Stop watching a socket, before it is closed; harmless when it is not watched."""
        file = self._files.pop(socket, None)
        if file is not None:
            del self._handlers[file]
            self._epoll.unregister(file)

    def close(self) -> None:
        """Watch nothing any more; harmless when repeated."""
        if not self._epoll.closed:
            self._loop.unregister(self._epoll.fileno())
            self._epoll.close()

    def _ready(self) -> None:
        for file, _ in self._epoll.poll(0):
            handler = self._handlers.get(file)
            if handler is not None:
                self._loop.guard(handler)
