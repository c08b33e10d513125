"""A sync server on a simulated machine, its loop turned by the test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from raspy.servers.sync import Sync, SyncConfig
from raspy.servers.sync.simulate import SimulatedMachine
from tests.servers.ntp_stage import NtpServer
from tests.support_devices import short_directory, started, until

NOWHERE = "ipc:///nonexistent"
SHORT = 0.5
"""Seconds that a server has for its answer where none is to come; one that answers has more, on a busy machine too."""


@contextmanager
def sync(machine: SimulatedMachine, broker_ip: str = "", **settings: Any) -> Iterator[Sync]:
    """A server; without a broker it goes on just the same."""
    with short_directory() as directory:
        server = Sync(
            "pi",
            broker_ip=broker_ip or f"ipc://{directory}",
            settings=SyncConfig(**{"servers": [], "timeout": 5.0, **settings}),
            machine=machine,
            path=os.path.join(os.path.dirname(machine.rtcs), "state", "clock.json"),
        )
        with started(server):
            yield server


def measured(server: Sync) -> Sync:
    """Turn its loop until the measurement that is under way has ended, with all that followed."""
    until(server, lambda: server.round is None and not server._saving)
    return server


def again(server: Sync) -> Sync:
    """Have it measure once more."""
    server.measure()
    return measured(server)


def fall_silent(server: Sync, servers: list[NtpServer]) -> None:
    """From now on, none of the NTP servers answers."""
    for each in servers:
        each.mode = "mute"
    server.settings = msgspec.structs.replace(server.settings, timeout=SHORT)


def call(server: Sync, *words: str) -> tuple[Any, str]:
    """The answer and status of a verb of the service ``time``."""
    replies: list[list[bytes]] = []
    server.handle(server.worker_time(), [word.encode() for word in words], replies.append)
    until(server, lambda: replies)
    return msgspec.json.decode(replies[0][0]), replies[0][1].decode()
