"""A node for tests that kill it: it publishes a number many times a second, and writes down when it has."""

from __future__ import annotations

import os
import sys
import time
from typing import Any, Self

from raspy.common.clock import BootClock
from raspy.common.config import Config
from raspy.common.devices.value import Value
from raspy.common.outbox import delivery, outbox
from raspy.common.process import hold_on_to_parent
from raspy.common.server import Server

KEY = "/device/shed.node.probe/count"
STEP = 0.02


class Right(BootClock):
    """A clock that is known to be right, which that of a machine for tests may not be."""

    def trusted(self) -> bool:
        return True


class Node(Server):
    """The server."""

    @classmethod
    def _configured(cls, bus: dict[str, Any], settings: Any) -> Self:
        return cls(**bus, service="node")

    def begin(self, first: int, record: str) -> None:
        """Publish from now on.

        :param first: the first number
        :param record: the file in which to write each down, how many wait then, and how many of them on the disk
        """
        self.number = first
        self.record = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.call_every(STEP, self._read)

    def _make_outbox(self) -> outbox.Outbox:
        made = super()._make_outbox()
        made.clock = Right()
        return made

    def _read(self) -> None:
        now = round(time.time(), 3)
        self.publish(KEY, Value.ok(self.number, "", 10, now, True).encode())
        waiting = self.outbox.waiting if self.outbox is not None else 0
        stored = self.outbox.file.waiting if self.outbox is not None and self.outbox.file is not None else 0
        os.write(self.record, f"{self.number} {now} {waiting} {stored}\n".encode())
        self.number += 1


def main() -> None:
    first, record, look, spill = sys.argv[1:]
    hold_on_to_parent()
    outbox.LOOK, outbox.SPILL, outbox.SETTLE = float(look), float(spill), 1.0
    delivery.PAUSE, delivery.LONGEST_PAUSE, delivery.JITTER = 0.05, 0.5, 0.0
    node = Node.from_config(Config.load())
    node.call_later(0, node.begin, int(first), record)
    node.run()


if __name__ == "__main__":
    main()
