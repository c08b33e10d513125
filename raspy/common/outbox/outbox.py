"""What a server keeps while the broker or the logger is away.

While all is well, that is what it has published within the last seconds: when a connection breaks, or the logger ends,
nobody knows how much of it has arrived. From then on every reading is kept that the logger would keep: in memory at
first, on the disk once it takes longer. Once the logger is back, :mod:`raspy.common.outbox.delivery` brings it there,
where a reading that comes twice counts once.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Collection
from time import monotonic
from typing import TYPE_CHECKING

from raspy.common import MDP, kvsimple
from raspy.common.clock import BootClock
from raspy.common.executive import Timer
from raspy.common.outbox import FILE, LEFT, is_stored
from raspy.common.outbox.left import Left
from raspy.common.outbox.loggers import Loggers
from raspy.common.outbox.reading import Reading, read
from raspy.common.statistics import SNMP, SNMPCounter

if TYPE_CHECKING:
    from raspy.common.outbox.delivery import Delivery
    from raspy.common.outbox.file import File
    from raspy.common.server import Server

UNNOTICED = (kvsimple.PING_MS + kvsimple.PONG_MS) / 1000 + 5.0
"""Seconds for which a connection can be dead before that is noticed, and some more."""
RECENT = 1000
"""Readings of those seconds that are kept at most, and of those in which no logger was seen yet."""
LOOK = 10.0
"""Seconds between writes: cards wear with each. What is lost at most when the power fails as well."""
SPILL = 30.0
"""Seconds for which a reading may wait in memory, as a restart of the broker takes no longer, before the disk is
used."""
IN_MEMORY = 1000
"""Readings in memory from which on they are written without waiting for that."""
MOST_IN_MEMORY = 4000
"""Readings in memory at most, while the disk takes none; the oldest go first."""
SETTLE = 10.0
"""Seconds for which readings are kept on after the logger was found: it may still be on its way to the tree."""
PATIENCE = 120.0
"""Seconds after which that ends if no logger was ever seen: there may be none on this bus."""


class Outbox:
    """The outbox of one server.

    :param server: whose readings these are; everything happens on its loop
    :param directory: its state directory
    :param most: readings that are kept at most; the oldest go first
    """

    def __init__(self, server: Server, directory: str, most: int, clock: BootClock | None = None) -> None:
        self.server = server
        self.directory = directory
        self.most = most
        self.clock = clock or BootClock()
        self.keeping = False
        """Whether what is published now is kept."""
        self.readings: deque[Reading] = deque()
        """Those in memory, the oldest first."""
        self.flying: list[Reading] = []
        """Those from memory that are on their way to the logger, and come back if they do not arrive."""
        self.file: File | None = None
        self.delivery: Delivery | None = None
        self.loggers = Loggers(server, self._loggers_changed)
        self._looked = False
        self._recent: deque[Reading] = deque(maxlen=RECENT)
        self._connected = server.publisher is not None and server.publisher.connected
        self._connected_at = monotonic()
        self._first = not self._connected
        self._is_wrong = False
        self._is_full = False
        self._storing = 0
        self._stopped = False
        self._timer: Timer | None = None
        name = server.service
        server.add_statistic(SNMP(f"{name}.outbox", "Readings that wait for the logger, as the broker was away"))
        self.delivered = server.add_statistic(SNMPCounter(f"{name}.outbox_delivered", "Of them, brought to the logger"))
        self.dropped = server.add_statistic(
            SNMPCounter(f"{name}.outbox_dropped", "Of them, given up as there were too many, the oldest first")
        )
        self.refused = server.add_statistic(
            SNMPCounter(f"{name}.outbox_refused", "Of them, those that the logger could not keep; the log says why")
        )
        self._left = Left(server, os.path.join(directory, LEFT))
        if is_stored(directory):
            self._open()
        self._put_back(self._left.take())
        self.refused.set(self._left.bad)
        if self._left.notice:
            server.condition("outbox damaged", self._left.notice)
        some = self.file is not None or self._left.there or bool(self.readings)
        self._first = self._first and not some
        if not self._connected or some:
            self._keep()
        if self._connected and some:
            self._deliver()

    @property
    def waiting(self) -> int:
        """Readings that are not with the logger yet."""
        memory = len(self.readings) + len(self.flying) + self._storing
        return memory + (max(self.file.waiting, 0) if self.file is not None else 0)

    @property
    def connected(self) -> bool:
        """Whether the broker is there."""
        return self._connected

    def take(self, key: str, body: bytes) -> None:
        """A value below ``/device/`` is being published."""
        reading = read(key, body, self.clock)
        if reading is None:
            return
        if not self.keeping:
            recent = self._recent
            recent.append(reading)
            first = reading.since - (UNNOTICED if self.loggers.seen else PATIENCE)
            while recent[0].since < first:
                recent.popleft()
            return
        self._is_wrong = self._is_wrong or not reading.trusted
        self.readings.append(reading)
        self._bound()
        if self._stopped:
            return
        if len(self.readings) >= IN_MEMORY and not self._storing and (self.file is None or self.file.usable):
            self._spill()

    def connected_changed(self, connected: bool) -> None:
        """The connection was made, or broke."""
        if self._stopped:
            return
        self._connected = connected
        if not connected:
            self._first = False
            if self.delivery is not None:
                self.delivery.lost()
            self.come_back()
            self._keep()
            return
        self._connected_at = monotonic()
        first, self._first = self._first, False
        if first and self.file is None and _are_latest(self.readings):
            # The publisher still has them all, and they are on their way.
            self._recent.extend(self.readings)
            self.readings.clear()
            self._is_well()
        elif self.keeping or self.waiting:
            self._deliver()

    def _loggers_changed(self) -> None:
        """A logger went, came, or is another process than before: what it was told last may not have been kept."""
        looked, self._looked = self._looked, True
        if not self._connected or (self.loggers.away and not self.loggers.seen):
            return
        if not looked and _are_latest(self._recent):
            # It was there before this server began to look: the tree has them all, and so has it.
            return
        self._keep()
        self._deliver().look_again()

    def found_logger(self) -> None:
        """The logger is there."""
        self.server.call_later(SETTLE, self._look)

    def drained(self) -> None:
        """Nothing waits at this moment."""
        self._left.remove()
        if self._is_full:
            self._is_full = False
            self.server.condition("outbox full", None)
            MDP.logger.warning("%d readings were given up before the logger could be reached", self.dropped.value)

    def stop(self) -> None:
        """Write what waits; called when the server stops, so this may take a moment."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.loggers.close()
        if self.delivery is not None:
            self.delivery.close()
        self.come_back()
        self._connected, self._stopped = False, True
        file = self.file
        opened = file is not None and file.usable and not file.rests
        if self.readings and (opened or self._left.blocked or len(self.readings) > IN_MEMORY):
            file = self._write()
        if file is not None:
            file.close()
        # A disk that has not answered to that hangs.
        if not self._storing:
            self._put_left()
        lost = len(self.readings) + self._storing
        if lost:
            MDP.logger.error("%d readings that the logger does not have are lost", lost)

    def _put_left(self) -> None:
        readings = list(self.readings)
        try:
            self._left.put(readings)
            # What came while the disk worked is not among them.
            for _ in readings:
                self.readings.popleft()
        except OSError as error:
            MDP.logger.error("%s: %s", self._left.path, error.strerror or error)

    def depart(self, most: int) -> list[Reading]:
        """The next from memory that go to the logger, all of one boot and one kind of clock."""
        readings, batch = self.readings, self.flying
        while readings and len(batch) < most:
            first = batch[0] if batch else readings[0]
            if (readings[0].boot, readings[0].trusted) != (first.boot, first.trusted):
                break
            batch.append(readings.popleft())
        return batch

    def come_back(self) -> None:
        """What was on its way to the logger has not arrived."""
        back, self.flying = self.flying, []
        self._put_back(back)

    def _keep(self) -> None:
        if not self.keeping:
            self.keeping = True
            self._is_wrong = self._is_wrong or any(not reading.trusted for reading in self._recent)
            self.readings.extend(self._recent)
            self._recent.clear()
            self._bound()
        if self._timer is None:
            self._timer = self.server.call_every(LOOK, self._look)

    def _is_well(self) -> None:
        self.keeping = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _deliver(self) -> Delivery:
        if self.delivery is None:
            from raspy.common.outbox.delivery import Delivery

            self.delivery = Delivery(self)
        self.delivery.start()
        return self.delivery

    def _look(self) -> None:
        """What is to be done from time to time while not all is well."""
        now = monotonic()
        delivery = self.delivery
        if self.keeping and self._connected and delivery is not None:
            found = delivery.found is not None and now - max(delivery.found, self._connected_at) >= SETTLE
            lasts = found or (not self.loggers.seen and now - self._connected_at >= PATIENCE)
            if lasts and not (self.loggers.away and self.loggers.seen):
                self.keeping = False
        self.set_right()
        file = self.file
        if file is not None:
            if file.waiting < 0:
                file.look(self._deliver_if_connected)
            elif not file.waiting and self.keeping:
                file.remove()
            elif not file.waiting:
                file.rest()
        if self.readings:
            # Those of another boot are on the disk.
            own = next((reading.since for reading in self.readings if reading.boot == self.clock.boot_id), math.inf)
            waits = self.clock.since() - own >= SPILL
            if waits or (file is not None and not file.rests and not self._connected):
                self._spill()
        self._deliver_if_connected()
        if not self.waiting:
            self._left.remove()
        opened = file is not None and not file.rests
        if not (self.keeping or self.waiting or self._left.there or opened):
            self._is_well()

    def _deliver_if_connected(self) -> None:
        if self._connected and (self.waiting or self.keeping):
            self._deliver()

    def set_right(self) -> None:
        """Once the clock is right, give the readings of this boot their times."""
        if not self._is_wrong or not self.clock.trusted():
            return
        self._is_wrong = False
        base = self.clock.wall() - self.clock.since()
        for reading in self.readings:
            if not reading.trusted and reading.boot == self.clock.boot_id:
                reading.set_right(base)
        if self.file is not None and not self.file.rests:
            self.file.set_right(self.clock.boot_id, base)

    def _open(self) -> File:
        if self.file is None:
            from raspy.common.outbox.file import File

            self.file = File(self.server, os.path.join(self.directory, FILE), self.most, self._drop)
            # There may be some of this boot, from before a restart.
            self._is_wrong = True
            self.file.look(self._deliver_if_connected)
        return self.file

    def _spill(self) -> None:
        """Have what is in memory written, unless some of it is on its way, to the logger or to the disk."""
        if not self.flying and not self._storing:
            self._write()

    def _write(self) -> File:
        file = self._open()
        readings = list(self.readings)
        self.readings.clear()
        self._storing += len(readings)
        file.write(readings, lambda good: self._written(readings, good))
        return file

    def _written(self, readings: list[Reading], good: bool) -> None:
        self._storing -= len(readings)
        # A clock that was set right meanwhile did not find them, neither here nor in the file.
        self._is_wrong = self._is_wrong or any(not reading.trusted for reading in readings)
        if good:
            # A write takes all that there is, while nothing is on its way.
            self._left.remove()
        else:
            self._put_back(readings)

    def _put_back(self, readings: list[Reading]) -> None:
        """To their place among those in memory: what comes back from the disk and from the logger may come in any
        order."""
        if readings:
            self._is_wrong = self._is_wrong or any(not reading.trusted for reading in readings)
            self.readings = deque(sorted((*readings, *self.readings), key=self._age))
            self._bound()

    def _age(self, reading: Reading) -> float:
        """What to sort by: those of other boots are older, and in their order."""
        return reading.since if reading.boot == self.clock.boot_id else -math.inf

    def _bound(self) -> None:
        more = len(self.readings) + len(self.flying) - min(MOST_IN_MEMORY, self.most)
        more = min(more, len(self.readings))
        if more > 0:
            for _ in range(more):
                self.readings.popleft()
            self._drop(more)

    def _drop(self, count: int) -> None:
        self.dropped.set(count)
        if not self._is_full:
            self._is_full = True
            problem = "the logger has been out of reach for so long that the oldest readings are given up"
            self.server.condition("outbox full", problem)


def _are_latest(readings: Collection[Reading]) -> bool:
    """Whether each is the only one of its key, and so the value that the tree has of it."""
    return len({reading.key for reading in readings}) == len(readings)
