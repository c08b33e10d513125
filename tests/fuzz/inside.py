"""The handlers of frames in this process, driven by atheris (libFuzzer), which follows the coverage.

``python -m tests.fuzz.inside DIRECTORY SECONDS SEED``. An exception that escapes, or a broken invariant, ends it
with an exit code other than 0, and libFuzzer keeps the input in the directory; so does a client that is not
answered between two inputs, or memory that grows.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable

import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore]
import zmq

with atheris.instrument_imports(include=["raspy"]):
    from raspy.common.kvsimple import KVMsg
    from raspy.common.kvtree import Replica
    from raspy.common.MDP import ProtocolError
    from raspy.servers.broker import Broker, BrokerConfig

from tests.benchmarks.process import MIB, memory_bytes
from tests.fuzz.messages import BODIES, KEYS, SEQUENCES, SERVICES, STATUSES, SUBSCRIPTIONS, WORDS

BASE = 5514
NAMES = [b"p0", b"p1", b"p2", b"gone"]
SETTINGS = BrokerConfig(
    heartbeat=50, liveness=2, queue_requests=50, queue_bytes=1 << 17, tree_keys=200, tree_bytes=1 << 17
)
EVERY = 500
"""Inputs from one look at memory and service to the next."""
ANSWER_LIMIT = 10.0
"""Seconds within which the client is answered."""
GROWTH = 64 * MIB
"""Most that this process may grow after the first quarter of its time; what libFuzzer keeps is in it."""


class Inside:
    """A broker whose messages are given to its handlers directly; what it sends goes to real peers."""

    def __init__(self, directory: str, seconds: float) -> None:
        self.broker = broker = Broker("pi", broker_ip=f"ipc://{directory}", broker_port=BASE, settings=SETTINGS)
        broker.start()
        self.peers = [self._peer(name, offset) for name in NAMES[:3] for offset in (0, 1)]
        self.replica = Replica("/device", lambda key, body: None)
        self.client = self._peer(b"client", 0)
        self.inputs = self.answers = 0
        self._warm_at = time.monotonic() + seconds / 4
        self._warm = 0
        self._messages: list[list[bytes]] = []
        # the handlers of the sockets that are not the ROUTER take their messages themselves
        broker.proxy._receive = self._take
        broker.proxy.snapshots._take = self._take
        broker.proxy.updates._take = self._take

    def _peer(self, name: bytes, offset: int) -> zmq.Socket[bytes]:
        peer: zmq.Socket[bytes] = self.broker.ctx.socket(zmq.DEALER)
        peer.setsockopt(zmq.IDENTITY, name)
        peer.connect(f"{self.broker.broker_ip}/{BASE + offset}")
        return peer

    def _take(self) -> list[bytes] | None:
        return self._messages.pop(0) if self._messages else None

    def one(self, data: bytes) -> None:
        """Give the broker the messages that some bytes stand for, then a turn of its loop."""
        source = atheris.FuzzedDataProvider(data)
        broker = self.broker
        for _ in range(source.ConsumeIntInRange(1, 12)):
            kind = source.ConsumeIntInRange(0, 7)
            if kind < 4:
                broker._process([source.PickValueInList(NAMES), *self._mdp(source)])
            elif kind == 4:
                self._give(broker.proxy._collect, self._frames(source, KEYS, SEQUENCES, BODIES))
            elif kind == 5:
                frames = [source.PickValueInList(NAMES), *self._frames(source, [b"ICANHAZ?"], KEYS)]
                self._give(broker.proxy.snapshots._take_requests, frames)
            elif kind == 6:
                self._give(broker.proxy.updates._take_subscriptions, self._frames(source, SUBSCRIPTIONS))
            else:
                self._parse(self._frames(source, KEYS, SEQUENCES, BODIES))
        broker.turn(0)
        for peer in self.peers:
            while peer.poll(0):
                peer.recv_multipart()
        self._check()
        self.inputs += 1
        if self.inputs % EVERY == 0:
            self._serve()
            self._weigh()

    def _serve(self) -> None:
        """A client over a real socket is answered."""
        self.client.send_multipart([b"", b"MDPC01", b"mmi.version", b""])
        until = time.monotonic() + ANSWER_LIMIT
        while not self.client.poll(0):
            assert time.monotonic() < until, f"a client was not answered in {ANSWER_LIMIT:g} s"
            self.broker.turn(0.01)
        frames = self.client.recv_multipart()
        assert (frames[:3], frames[-1]) == ([b"", b"MDPC01", b"mmi.version"], b"200"), frames
        self.answers += 1

    def _weigh(self) -> None:
        """The process does not grow once it is warm."""
        size = memory_bytes(os.getpid())["pss"]
        print(f"answers: {self.answers}, PSS {size / MIB:.1f} MiB", flush=True)
        if time.monotonic() >= self._warm_at:
            self._warm = self._warm or size
            assert size < self._warm + GROWTH, f"memory grew from {self._warm / MIB:.1f} to {size / MIB:.1f} MiB"

    def _give(self, handler: Callable[[], None], frames: list[bytes]) -> None:
        self._messages = [frames or [b""]]
        handler()

    def _parse(self, frames: list[bytes]) -> None:
        try:
            message = KVMsg.parse(frames)
        except ProtocolError:
            return
        assert KVMsg.parse(message.frames()).frames() == message.frames()
        self.replica.update(message.key or "", message.sequence, message.body or b"")
        self.replica.entry(message.key or "", message.sequence, message.body or b"")

    def _mdp(self, source: atheris.FuzzedDataProvider) -> list[bytes]:
        shape = source.ConsumeIntInRange(0, 5)
        if shape == 0:
            return self._frames(source, WORDS)
        if shape == 1:
            return [b"", b"MDPC01", *self._frames(source, [*SERVICES, b"mmi.workers", b"mmi.discovery"], WORDS)]
        if shape == 2:
            return [b"", b"MDPW01", b"\x01", source.PickValueInList(SERVICES)]
        if shape == 3:
            client = source.PickValueInList([*NAMES, b"", b""])
            return [b"", b"MDPW01", b"\x03", client, b"", *self._frames(source, STATUSES, [b"200"])]
        return [b"", b"MDPW01", *self._frames(source, WORDS)]

    def _frames(self, source: atheris.FuzzedDataProvider, *words: list[bytes]) -> list[bytes]:
        """Some frames, most of them words, each from the list of its place."""
        frames: list[bytes] = []
        for place in range(source.ConsumeIntInRange(0, 5)):
            if source.ConsumeIntInRange(0, 3):
                frames.append(source.PickValueInList(words[place % len(words)]))
            else:
                frames.append(source.ConsumeBytes(source.ConsumeIntInRange(0, 60)))
        return frames

    def _check(self) -> None:
        broker = self.broker
        assert not broker.errors, broker.last_error
        services = broker.services.values()
        assert broker.queued == sum(len(service.requests) for service in services)
        waiting = sum(request.size for service in services for request in service.requests)
        assert broker.budget.used >= waiting
        if not broker.outbox._held:
            assert broker.budget.used == waiting
        assert all(service.count or service.requests for service in services), "an unused service is kept"
        assert sum(service.count for service in services) == len(broker.workers)
        proxy = broker.proxy
        assert proxy.bytes == sum(len(key) + len(entry.body) for key, entry in proxy.entries.items())
        for worker in broker.workers.values():
            assert worker.service is not None
            assert (worker.request is None) == (worker.address in worker.service.waiting)


def main(directory: str, seconds: int, seed: int) -> None:
    """Fuzz, and end the process."""
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    inside = Inside(directory, seconds)
    # no -timeout: libFuzzer's is the signal that ends a slow regular expression here
    options = [
        f"-max_total_time={seconds}",
        f"-seed={seed or 1}",
        "-timeout=0",
        "-max_len=2048",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={directory}/"], inside.one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
