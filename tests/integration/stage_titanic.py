"""Workers for the tests of Titanic, each in a process of its own, which ends with the test's.

``stage_titanic.py ours ADDRESS FILE`` is a server of ours, whose service is ``pi.recorder.record``;
``stage_titanic.py plain ADDRESS FILE SERVICE`` speaks RFC 7/MDP and knows nothing of RasPy. Both append a line to the
file for every request that they execute: its text, the worker's pid, and the number of frames that it came with.
"""

from __future__ import annotations

import os
import sys
import time

import zmq

BEAT_MS = 500
WORK = 0.003
"""Seconds between an execution and its reply, so that some are killed in between."""


def record(file: int, text: bytes, frames: int) -> None:
    """Append one execution, in one write, so that it is there whole or not at all when the process is killed."""
    os.write(file, b"%s %d %d\n" % (text, os.getpid(), frames))


def open_record(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def ours(directory: str, path: str) -> None:
    """A server on the loop, statistics and memory that all ours have."""
    from raspy.common.process import hold_on_to_parent
    from raspy.common.server import Server
    from raspy.common.verbs import Later, Verbs

    verbs = Verbs("record")
    file = open_record(path)

    class Recorder(Server):
        def worker_record(self) -> Verbs:
            return verbs

    @verbs.verb()
    def write(server: Recorder, text: str) -> Later:
        """Execute a request."""
        record(file, text.encode(), 1)
        answer = Later()
        server.call_later(WORK, answer.reply, text)
        return answer

    hold_on_to_parent()
    Recorder("pi", "recorder", directory).run()


def plain(directory: str, path: str, service: str) -> None:
    """A worker as anybody would write it from the specification."""
    file = open_record(path)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    while True:
        worker = context.socket(zmq.DEALER)
        worker.linger = 0
        worker.connect(f"{directory}/5514")
        worker.send_multipart([b"", b"MDPW01", b"\x01", service.encode()])
        serve(worker, file)
        worker.close()


def serve(worker: zmq.Socket[bytes], file: int) -> None:
    """Until the broker says DISCONNECT."""
    poller = zmq.Poller()
    poller.register(worker, zmq.POLLIN)
    poller.register(0, zmq.POLLIN)
    while True:
        ready = dict(poller.poll(BEAT_MS))
        if 0 in ready:
            sys.exit()  # whoever held the other end of the pipe is gone
        if not ready:
            worker.send_multipart([b"", b"MDPW01", b"\x04"])
            continue
        frames = worker.recv_multipart()
        if frames[2] == b"\x05":
            return
        if frames[2] == b"\x02":
            client, body = frames[3], frames[5:]
            record(file, body[-1], len(body))
            time.sleep(WORK)
            worker.send_multipart([b"", b"MDPW01", b"\x03", client, b"", b"done", body[-1]])


if __name__ == "__main__":
    if sys.argv[1] == "ours":
        ours(sys.argv[2], sys.argv[3])
    else:
        plain(sys.argv[2], sys.argv[3], sys.argv[4])
