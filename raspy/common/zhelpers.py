"""Small helpers around ZeroMQ sockets, under the names of the ZeroMQ Guide's zhelpers."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import zmq
import zmq.backend


def dump(msg_or_socket: list[bytes] | zmq.Socket[bytes]) -> str:
    """Write a message, one frame a line with its length, and return what was written.

    Text is shown as text, anything else in hexadecimal.

    :param msg_or_socket: a message, or a socket of which one message is received
    """
    frames = msg_or_socket if isinstance(msg_or_socket, list) else msg_or_socket.recv_multipart()
    lines = ["-" * 40]
    for frame in frames:
        try:
            text = frame.decode("ascii")
            shown = text if text.isprintable() else "0x" + frame.hex()
        except UnicodeDecodeError:
            shown = "0x" + frame.hex()
        lines.append(f"[{len(frame):03d}] {shown}")
    written = "\n".join(lines)
    print(written)  # noqa: T201  what this function is for
    return written


def set_id(zsocket: zmq.Socket[bytes]) -> None:
    """Give a socket a random printable identity; call it before connecting."""
    digits = os.urandom(4).hex().upper()
    zsocket.setsockopt(zmq.IDENTITY, f"{digits[:4]}-{digits[4:]}".encode())


def zpipe(ctx: zmq.Context[zmq.Socket[bytes]]) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
    """A pair of PAIR sockets joined over inproc, for talking to a thread.

    Each end holds at most one message, as the Guide's does, so that neither side can run ahead unseen.
    """
    one, other = ctx.socket(zmq.PAIR), ctx.socket(zmq.PAIR)
    for end in (one, other):
        end.linger = 0
        end.hwm = 1
    address = f"inproc://{os.urandom(8).hex()}"
    one.bind(address)
    other.connect(address)
    return one, other


_Backend: Any = zmq.backend.Socket
_MORE = int(zmq.SNDMORE)
_NOW = int(zmq.DONTWAIT)
_NOW_MORE = _NOW | _MORE
_EVENTS = int(zmq.EVENTS)
_INPUT = int(zmq.POLLIN)
_DROPPED_PARTS = 2000


def receiver(
    zsocket: zmq.Socket[bytes], frame_limit: int = 1024, note: Callable[[zmq.Frame], None] | None = None
) -> Callable[[], list[bytes] | None]:
    """A function that takes one message off a socket without waiting; None when there is none now.

    It does what ``recv_multipart`` does in half the time: a part's own ``more`` flag is asked, where
    ``recv_multipart`` asks the socket's RCVMORE option of each. A message of more parts than ``frame_limit`` is cut
    to that; the calls after it drop the rest, a bounded number of parts each, so that millions hold up nobody.

    :param note: is shown the first part, whose properties tell of the connection that it came by
    """
    receive = _Backend.recv.__get__(zsocket)
    dropping = False

    def take() -> list[bytes] | None:
        nonlocal dropping
        for _ in range(_DROPPED_PARTS):
            if not dropping:
                break
            dropping = receive(0, False).more
        if dropping:
            return None
        try:
            frame = receive(_NOW, False)
        except zmq.Again:
            return None
        if note is not None:
            note(frame)
        frames = [frame.bytes]
        while frame.more:
            if len(frames) == frame_limit:
                dropping = True
                break
            frame = receive(0, False)
            frames.append(frame.bytes)
        return frames

    return take


def looker(zsocket: zmq.Socket[bytes]) -> Callable[[], bool]:
    """A function that says whether there is a message; half the cost of finding none by receiving."""
    state = _Backend.get.__get__(zsocket)
    return lambda: bool(state(_EVENTS) & _INPUT)


def sender(zsocket: zmq.Socket[bytes]) -> Callable[[list[bytes]], None]:
    """A function that sends one message without waiting, as ``send_multipart`` with DONTWAIT does, ten times faster.

    ``send_multipart`` checks each part in Python and joins enum flags; bytes need neither.

    :raises zmq.Again: (the function made) the message cannot be queued
    :raises zmq.ZMQError: (the function made) for a ROUTER with ROUTER_MANDATORY, EHOSTUNREACH: there is no such peer
    """
    send = _Backend.send.__get__(zsocket)

    def put(frames: list[bytes]) -> None:
        last = len(frames) - 1
        if not last:
            send(frames[0], _NOW)
            return
        send(frames[0], _NOW_MORE)
        for index in range(1, last):
            send(frames[index], _MORE)
        send(frames[last], 0)

    return put
