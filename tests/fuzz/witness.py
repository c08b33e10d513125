"""A client, a worker, a publisher and a subscriber who behave, and check that they are served.

``python -m tests.fuzz.witness BROKER_IP BROKER_PORT`` prints a line once it is served, ends when its standard input
does, and then prints a report in JSON.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

from raspy.common import MDP
from raspy.common.executive import Executive
from raspy.common.kvcliapi import KvPublisher, KvSubscriber
from raspy.common.mdcliapi import MajorDomoClient
from raspy.common.mdwrkapi import WorkerConnection

ANSWER_LIMIT, TREE_LIMIT = 10.0, 30.0
"""Seconds within which a request must be answered, and a copy of the tree be exact."""
PAUSE = 0.01
KEYS = 20
MOST_FAULTS = 20


class Witness:
    """All four of them."""

    def __init__(self, broker_ip: str, broker_port: int) -> None:
        self.loop = Executive("pi", "witness", broker_ip, broker_port)
        self.address = MDP.endpoint(broker_ip, broker_port)
        self.service = f"witness-{os.urandom(8).hex()}".encode()
        self.subtree = f"/variable/witness-{os.urandom(8).hex()}/"
        self.faults: list[str] = []
        self.answers = self.changes = 0
        self.slowest_answer = self.slowest_change = 0.0
        self._ended = threading.Event()
        self._expected: dict[str, bytes] = {}
        self._since = time.monotonic()
        self._late = False
        self._served = False
        self.worker = WorkerConnection(self.loop, self.address, self.service, lambda body, reply: reply(body))
        self.publisher = KvPublisher(self.loop)
        self.subscriber = KvSubscriber(self.loop, self.subtree, lambda key, body: None)

    def run(self) -> dict[str, Any]:
        """Serve and check until standard input ends; return the report."""
        asks = threading.Thread(target=self._ask)
        ends = threading.Thread(target=self._wait_for_the_end, args=(asks,))
        asks.start()
        ends.start()
        self.loop.call_every(PAUSE, self._check_tree)
        self._publish()
        while not self.loop.stopping:
            self.loop.turn()
        ends.join()
        if self.loop.errors:
            self._fault(f"{self.loop.errors} errors, the last: {self.loop.last_error}")
        self.publisher.close()
        self.subscriber.close()
        self.worker.close()
        self.loop.destroy()
        return {
            "answers": self.answers,
            "slowest_answer": round(self.slowest_answer, 3),
            "changes": self.changes,
            "slowest_change": round(self.slowest_change, 3),
            "faults": self.faults,
        }

    def _fault(self, text: str) -> None:
        if len(self.faults) < MOST_FAULTS:
            self.faults.append(text)

    def _wait_for_the_end(self, asks: threading.Thread) -> None:
        sys.stdin.read()
        self._ended.set()
        asks.join()  # the loop serves the last request
        self.loop.shutdown()

    def _ask(self) -> None:
        """Ask the worker, through the broker, again and again."""
        with MajorDomoClient(self.address) as client:
            client.retries, client.timeout = 1, int(ANSWER_LIMIT * 1000)
            while not self._ended.wait(PAUSE):
                body = [b"%d" % self.answers, os.urandom(20)]
                began = time.monotonic()
                reply = client.send(self.service, body)
                if reply != body:
                    self._fault(f"request {self.answers} was answered {reply!r}")
                self.answers += 1
                self.slowest_answer = max(self.slowest_answer, time.monotonic() - began)

    def _publish(self) -> None:
        """Change some values: set, and now and then delete and set again."""
        for _ in range(5):
            key = f"{self.subtree}{self.changes % KEYS}"
            body = b"" if self.changes % 7 == 6 else b"%020d" % self.changes
            self.publisher.send(key, body)
            if body:
                self._expected[key] = body
            else:
                self._expected.pop(key, None)
            self.changes += 1
        self._since = time.monotonic()
        self._late = False

    def _check_tree(self) -> None:
        """Once the subscriber's copy is exact, change the tree again."""
        took = time.monotonic() - self._since
        self.slowest_change = max(self.slowest_change, took)
        if self.subscriber.tree == self._expected:
            if self.answers and not self._served:
                self._served = True
                print("served", flush=True)
            self._publish()
        elif took > TREE_LIMIT and not self._late:
            self._late = True
            self._fault(f"the tree is not exact {took:.0f} s after change {self.changes}")


if __name__ == "__main__":
    print(json.dumps(Witness(sys.argv[1], int(sys.argv[2])).run()))
