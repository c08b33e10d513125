"""What the tests of devices and their servers share: a broker on a thread, and loops turned by the test."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar
from unittest import mock

import msgspec

from raspy.common.devices.host import DeviceServer
from raspy.common.devices.value import Value
from raspy.common.kvcliapi import KvSubscriber
from raspy.servers.broker import Broker

LIMIT = 30.0
"""Seconds that any event may take; far more than it should."""


@contextmanager
def short_directory() -> Generator[str, None, None]:
    """A directory whose path is short enough for a socket in it."""
    path = tempfile.mkdtemp(prefix="raspy-", dir="/tmp")
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def patient(*more: str) -> Generator[None, None, None]:
    """Servers of this process wait for a busy machine's disk for as long as a test does.

    :param more: more modules that have a name for that time
    """
    with ExitStack() as stack:
        for module in ("raspy.common.verbs", "raspy.common.devices.verbs", *more):
            stack.enter_context(mock.patch(f"{module}.PATIENCE", LIMIT))
        yield


@contextmanager
def broker() -> Generator[str, None, None]:
    """A real broker; gives the ``broker_ip`` to reach it by."""
    with short_directory() as directory:
        server = Broker(hostname="pi", broker_ip=f"ipc://{directory}")
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        try:
            yield f"ipc://{directory}"
        finally:
            server.shutdown()
            thread.join(LIMIT)


S = TypeVar("S", bound=DeviceServer)


@contextmanager
def started(server: S) -> Generator[S, None, None]:
    """A server whose loop the test turns with :func:`until`."""
    server.start()
    try:
        yield server
    finally:
        server.stop()
        server.destroy()


def until(server: DeviceServer, happened: Callable[[], Any], limit: float = LIMIT) -> None:
    """Turn a server's loop until something has happened."""
    end = time.monotonic() + limit
    while not happened():
        assert time.monotonic() < end, f"did not happen in {limit:g} s; conditions: {server.conditions}"
        server.turn(0.05)


def ask(server: DeviceServer, *frames: str | bytes) -> tuple[Any, str]:
    """The answer and status of a verb of the server's devices."""
    replies: list[list[bytes]] = []
    body = [frame.encode() if isinstance(frame, str) else frame for frame in frames]
    server.handle(server.worker_devices(), body, replies.append)
    until(server, lambda: replies)
    assert len(replies) == 1
    assert len(replies[0]) == 2
    return msgspec.json.decode(replies[0][0]), replies[0][1].decode()


def reading(server: DeviceServer, name: str, command: str) -> Value | None:
    """The last reading of a command as the server has it; None before the first."""
    device = server.devices.get(name)
    return None if device is None else device.commands[command].reading


def follow(server: DeviceServer, subtree: str = "/device") -> dict[str, bytes]:
    """The tree as the broker tells it to a subscriber, which lives on the server's loop."""
    return KvSubscriber(server, subtree, lambda key, body: None).tree
