"""Bare MDP echo worker: READY, an echo, a heartbeat a second. Usage: mdp_worker.py ENDPOINT SERVICE SLOTS

Imports nothing but pyzmq, so that it is also the yardstick for the memory of an idle process.
Prints ``ready``, and on SIGTERM the number of requests each slot answered.
"""

from __future__ import annotations

import os
import signal
import sys
import time

import zmq

HEADER = [b"", b"MDPW01"]
READY, REQUEST, REPLY, HEARTBEAT, DISCONNECT = b"\x01", b"\x02", b"\x03", b"\x04", b"\x05"
HEARTBEAT_S = 1.0


def connect(context: zmq.Context[zmq.Socket[bytes]], endpoint: str, service: bytes) -> zmq.Socket[bytes]:
    """A DEALER that has said READY: one slot."""
    slot: zmq.Socket[bytes] = context.socket(zmq.DEALER)
    slot.linger = 0
    slot.rcvtimeo = int(HEARTBEAT_S * 1000)
    slot.connect(endpoint)
    slot.send_multipart([*HEADER, READY, service])
    return slot


def answer(slot: zmq.Socket[bytes], frames: list[bytes]) -> bool:
    """Echo a request; True when there was one to echo."""
    if frames[2] == REQUEST:
        frames[2] = REPLY
        slot.send_multipart(frames)
        return True
    if frames[2] == DISCONNECT:
        raise SystemExit("the broker sent DISCONNECT")
    return False


def serve_one(slot: zmq.Socket[bytes], counts: list[int], parent: int) -> None:
    """One slot: no poller; a reply in the last second is the sign of life."""
    while os.getppid() == parent:
        try:
            while True:
                counts[0] += answer(slot, slot.recv_multipart())
        except zmq.Again:
            slot.send_multipart([*HEADER, HEARTBEAT])


def serve_many(slots: list[zmq.Socket[bytes]], counts: list[int], parent: int) -> None:
    """Several slots in one process, each an MDP worker of its own to the broker."""
    poller = zmq.Poller()
    for slot in slots:
        poller.register(slot, zmq.POLLIN)
    number = {slot: i for i, slot in enumerate(slots)}
    due = time.monotonic() + HEARTBEAT_S
    while os.getppid() == parent:
        for slot, _ in poller.poll(int(HEARTBEAT_S * 1000)):
            counts[number[slot]] += answer(slot, slot.recv_multipart())
        if time.monotonic() >= due:
            due = time.monotonic() + HEARTBEAT_S
            for slot in slots:
                slot.send_multipart([*HEADER, HEARTBEAT])


def main(endpoint: str, service: str, count: str) -> None:
    """Serve until SIGTERM, or until the parent is gone."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    context = zmq.Context()
    slots = [connect(context, endpoint, service.encode()) for _ in range(int(count))]
    counts = [0] * len(slots)
    print("ready", flush=True)
    try:
        if len(slots) == 1:
            serve_one(slots[0], counts, os.getppid())
        else:
            serve_many(slots, counts, os.getppid())
    finally:
        print(*counts, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
