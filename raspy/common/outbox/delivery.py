"""Brings to the logger what an outbox holds: batch by batch, the oldest first, with pauses in between.

Of a batch nothing is let go before the logger has said that it is on its disk. Meanwhile new values go onto the tree as
ever, on a connection of their own.
"""

from __future__ import annotations

import os
from time import monotonic
from typing import TYPE_CHECKING

import msgspec

from raspy.common import MDP
from raspy.common.buscall import BusCaller
from raspy.common.executive import Timer
from raspy.common.verbs import json_encode

if TYPE_CHECKING:
    from raspy.common.outbox.outbox import Outbox
    from raspy.common.outbox.reading import Reading

BATCH = 1000
"""Readings in one request."""
PAUSE = 1.0
"""Seconds between two requests at least. After one that took long it is longer, as the logger has others to serve."""
LONGEST_PAUSE = 60.0
"""Seconds after which a logger that is not there, or that cannot keep anything now, is asked again."""
JITTER = 2.0
"""Seconds within which the servers of a fleet begin that all find the broker again at once."""
TIMEOUT = 30.0
"""Seconds that the logger's disk may take."""
SERVICES = "mmi.services"
LOGGER = ".logger.log"
NO_REQUEST = (MDP.BAD_REQUEST, MDP.NOT_IMPLEMENTED)
IN_MEMORY = 0
"""Instead of the number of the last one of a batch from the disk."""


class Counts(msgspec.Struct):
    """The answer of ``append``."""

    kept: int
    unplaced: int = 0
    old: int = 0
    refused: int = 0
    problem: str = ""


decode_counts = msgspec.json.Decoder(Counts).decode


class Delivery:
    """The way to the logger.

    :param outbox: what is brought
    """

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self.server = outbox.server
        self.found: float | None = None
        """Monotonic time at which the logger was last found, in this connection to the broker."""
        address = MDP.endpoint(self.server.broker_ip, self.server.broker_port)
        self._caller = BusCaller(self.server, address)
        self._service = ""
        self._timer: Timer | None = None
        self._busy = False
        self._size = BATCH
        self._pause = PAUSE
        self._told = False
        self._turn = 0
        """Another one for each connection: what the disk gives late belongs to none."""

    def start(self) -> None:
        """Begin, unless it is under way."""
        if not self._busy and self._timer is None:
            self._pause = PAUSE
            self._again(_jitter())

    def lost(self) -> None:
        """The broker is away: what is known of the logger is no longer true."""
        self._service, self.found = "", None
        self._turn += 1
        self._busy = False
        self._caller.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def look_again(self) -> None:
        """The logger went or came: it is to be found anew."""
        self.found = None
        if not self._busy:
            self._pause = PAUSE
            self._again(_jitter())

    def close(self) -> None:
        """End it; what is under way stays in the outbox."""
        self.lost()

    def _again(self, pause: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.server.call_later(pause, self._go)

    def _later(self) -> None:
        """Not now: look for the logger again, ever more rarely."""
        self._busy = False
        self._service = ""
        if self.outbox.connected:
            self._again(self._pause)
            self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _go(self) -> None:
        self._timer = None
        if self._busy or not self.outbox.connected:
            return
        self._busy = True
        if not self._service or self.found is None:
            self._caller.call(SERVICES, [b""], self._services)
        else:
            self._next()

    def _services(self, reply: list[bytes] | None) -> None:
        names = [] if reply is None else [frame.decode("utf-8", "replace") for frame in reply[:-1]]
        loggers = sorted(name for name in names if name.endswith(LOGGER))
        if not loggers:
            self._later()
            return
        own = self.server.hostname + LOGGER
        self._service = own if own in loggers else loggers[0]
        if self.found is None:
            self.found = monotonic()
            self.outbox.found_logger()
        self._next()

    def _next(self) -> None:
        """The next batch, from the disk first: what is there is older."""
        outbox = self.outbox
        outbox.set_right()
        if outbox.file is not None and outbox.file.waiting and outbox.file.usable:
            turn = self._turn
            outbox.file.read(self._size, lambda batch, last: self._read(turn, batch, last))
        else:
            self._next_in_memory()

    def _next_in_memory(self) -> None:
        batch = self.outbox.depart(self._size)
        if batch:
            self._send(batch, IN_MEMORY)
            return
        self._busy = False
        if not self.outbox.waiting:
            self.outbox.drained()

    def _read(self, turn: int, batch: list[Reading], last: int) -> None:
        if turn != self._turn:
            return
        if batch:
            self._send(batch, last)
        else:
            # The disk is empty, or does not give what it has: others need not wait for that.
            self._next_in_memory()

    def _send(self, batch: list[Reading], last: int) -> None:
        clock = self.outbox.clock
        now = clock.since()
        right = batch[0].trusted
        if not right and batch[0].boot == clock.boot_id and clock.trusted():
            right = True
            for reading in batch:
                reading.set_right(clock.wall() - now)
        body = json_encode(
            {
                "host": self.server.hostname,
                "boot": batch[0].boot,
                "trusted": right,
                "rows": [reading.late(clock.boot_id, now) for reading in batch],
            }
        )
        began = monotonic()
        self._caller.call(
            self._service,
            [b"append", body],
            lambda reply: self._answered(len(batch), last, reply, monotonic() - began),
            TIMEOUT,
        )

    def _answered(self, count: int, last: int, reply: list[bytes] | None, took: float) -> None:
        status = reply[-1] if reply else b""
        if reply is not None and status == MDP.OK:
            try:
                counts = decode_counts(reply[0])
            except (msgspec.MsgspecError, UnicodeDecodeError):
                status = MDP.BAD_REQUEST
            else:
                self._count(counts)
                self._let_go(last)
                self._busy = False
                self._pause = PAUSE
                self._size = min(2 * self._size, BATCH)
                if not self.outbox.waiting:
                    self.outbox.drained()
                else:
                    self._again(max(PAUSE, 2 * took))
                return
        if status not in NO_REQUEST:
            self.outbox.come_back()
            self._later()
            return
        # It does not even understand it. If one reading is at fault, it is to be found, and costs no other.
        if self._size > 1:
            self.outbox.come_back()
            self._size = max(min(self._size, count) // 2, 1)
            self._busy = False
            self._again(PAUSE)
            return
        self._tell("the logger does not understand one")
        self.outbox.refused.set(count)
        self._let_go(last)
        self._pause = LONGEST_PAUSE
        self._later()

    def _let_go(self, last: int) -> None:
        outbox = self.outbox
        if last == IN_MEMORY:
            outbox.flying.clear()
        elif outbox.file is not None:
            outbox.file.sent(last)

    def _count(self, counts: Counts) -> None:
        self.outbox.delivered.set(counts.kept)
        lost = counts.unplaced + counts.old + counts.refused
        if lost:
            self.outbox.refused.set(lost)
            self._tell(
                f"{counts.unplaced} without a time that can be known, {counts.old} too old, {counts.refused} refused"
                + (f" ({counts.problem:.200})" if counts.problem else "")
            )

    def _tell(self, problem: str) -> None:
        """Once, as each batch may say the same."""
        if not self._told:
            self._told = True
            MDP.logger.warning(
                "not all late readings can be kept: %s; the statistic outbox_refused counts them", problem
            )


def _jitter() -> float:
    return JITTER * os.urandom(1)[0] / 256
