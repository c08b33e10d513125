"""The least Python that puts requests on disk before it answers. Usage: ENDPOINT SERVICE SLOTS DIRECTORY

An MDP worker with so many connections: all requests that have come are one transaction (load/commit.py), then each
is answered with 200 and a number. One thread; no check of anything, and nothing is ever run or fetched.
Prints ``ready``.
"""

from __future__ import annotations

import os
import select
import sys
import time

import zmq

from raspy.common.zhelpers import receiver, sender
from tests.benchmarks.load.commit import File
from tests.benchmarks.load.mdp_worker import HEADER, HEARTBEAT, HEARTBEAT_S, REPLY, REQUEST, connect

Frames = list[bytes]


class Slot:
    """One connection."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, service: str) -> None:
        self.socket = connect(context, endpoint, service.encode())
        self.take, self.put = receiver(self.socket), sender(self.socket)

    def collect(self, waiting: list[tuple[Slot, Frames]]) -> None:
        """All that has come. Only then does the socket's file tell of the next (zmq_getsockopt(3))."""
        while frames := self.take():
            if frames[2] == REQUEST:
                waiting.append((self, frames))


def serve(slots: list[Slot], file: File) -> None:
    """Commit, answer, collect what came meanwhile, until the parent is gone."""
    epoll, parent, due = select.epoll(), os.getppid(), time.monotonic() + HEARTBEAT_S
    by_file = {slot.socket.fileno(): slot for slot in slots}
    for number in by_file:
        epoll.register(number, select.EPOLLIN)
    waiting: list[tuple[Slot, Frames]] = []
    for slot in slots:
        slot.collect(waiting)
    while os.getppid() == parent:
        for number, _ in epoll.poll(0 if waiting else HEARTBEAT_S):
            by_file[number].collect(waiting)
        batch, waiting = waiting, []
        if batch:
            first = file.commit(batch[0][1][5], [frames[6] for _, frames in batch])
            for place, (slot, frames) in enumerate(batch, first):
                slot.put([*HEADER, REPLY, frames[3], b"", b"200", f"{place:032x}".encode()])
                slot.collect(waiting)
        if time.monotonic() >= due:
            due = time.monotonic() + HEARTBEAT_S
            for slot in slots:
                slot.put([*HEADER, HEARTBEAT])
                slot.collect(waiting)


def main(endpoint: str, service: str, count: str, directory: str) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    file = File(directory)
    slots = [Slot(context, endpoint, service) for _ in range(int(count))]
    print("ready", flush=True)
    serve(slots, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
