"""A broker and a logger on threads that come and go, and a node whose loop the test turns."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raspy.common import MDP
from raspy.common.clock import BootClock
from raspy.common.devices.value import Value
from raspy.common.outbox import FILE
from raspy.common.outbox.loggers import GONE
from raspy.common.outbox.outbox import Outbox
from raspy.common.server import Server
from raspy.servers.broker import Broker
from raspy.servers.logger import Logger, LoggerConfig
from tests.bus import OnThread, eventually
from tests.support_devices import LIMIT, short_directory
from tests.support_titanic import ask

KEY = "/device/shed.onewire.28-031655c9d5ff/temperature"
PORT = 5514
MOST = 10_000


class Clock(BootClock):
    """The machine's clock, that a test can turn.

    :param trusted: whether it is known to be right
    :param boot_id: the boot
    """

    def __init__(self, trusted: bool = True, boot_id: str = "b" * 32) -> None:
        super().__init__(boot_id)
        self.right = trusted
        self.off = 0.0
        """Seconds by which the wall clock is wrong."""
        self.more = 0.0
        """Seconds by which the machine has been on for longer than it says."""

    def since(self) -> float:
        return super().since() + self.more

    def wall(self) -> float:
        return super().wall() + self.off

    def trusted(self) -> bool:
        return self.right


class House:
    """The broker's host: ``pi``.

    :param directory: for its sockets and its history
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.ip = f"ipc://{directory}"
        self.address = MDP.endpoint(self.ip, PORT)
        self.data = os.path.join(directory, "history")
        self.broker: OnThread[Broker] | None = None
        self.logger: OnThread[Logger] | None = None
        self.last = 0.0
        """When the last reading was published (monotonic, s)."""

    def start_broker(self) -> None:
        self.broker = OnThread(Broker("pi", broker_ip=self.ip, broker_port=PORT)).wait()

    def stop_broker(self) -> None:
        if self.broker is not None:
            self.broker.stop()
            self.broker = None

    def start_logger(self, host: str = "pi") -> None:
        settings = LoggerConfig(batch=3600)
        self.logger = OnThread(Logger(host, "logger", self.ip, PORT, self.data, settings, Clock())).wait()
        # A node that looks before the broker knows of it takes it for one that came later, or finds none.
        eventually(lambda: self._is_known(host), "the broker knows the logger")

    @property
    def follows(self) -> bool:
        """Whether the logger is told of each change of the tree."""
        logger = self.logger
        assert logger is not None
        subscriber = logger.call(lambda: logger.executive.subscriber)
        return subscriber is not None and subscriber.state == "live"

    def _is_known(self, host: str) -> bool:
        """Whether the broker has the services of a host's logger, and says on the tree that it is there."""
        broker = self.broker
        assert broker is not None

        def found() -> bool:
            entry = broker.executive.proxy.entries.get(f"/server/{host}.logger".encode())
            there = entry is not None and json.loads(entry.body)["state"] not in GONE
            return there and f"{host}.logger.log".encode() in broker.executive.services

        return broker.call(found)

    def stop_logger(self) -> None:
        if self.logger is not None:
            self.logger.stop()
            assert self.logger.executive.errors == 0, self.logger.executive.last_error
            self.logger = None

    def start(self) -> None:
        self.start_broker()
        self.start_logger()

    def history(self, key: str = KEY) -> list[list[Any]]:
        """Time, value and quality of all that the logger has, but of what it has found stale itself."""
        answer = ask(self.address, b"pi.logger.log", b"rows", key.encode(), b"0", b"1e11", b"10000")
        found = json.loads(answer[0])["rows"] if answer[-1] == MDP.OK else []
        return [row for row in found if row[2] != "stale"]

    def values(self, key: str = KEY) -> list[float | None]:
        """The values that it has, in the order of their times."""
        return [value for _, value, _ in self.history(key)]

    def tree(self) -> dict[str, Any]:
        """What the broker has of devices."""
        broker = self.broker
        assert broker is not None
        entries = broker.call(lambda: {key: entry.body for key, entry in broker.executive.proxy.entries.items()})
        return {key.decode(): json.loads(body) for key, body in entries.items() if key.startswith(b"/device/")}


class Node:
    """A server of the host ``shed``, and its outbox."""

    def __init__(self, house: House, directory: str, clock: BootClock | None = None, most: int = MOST) -> None:
        self.house = house
        self.directory = directory
        self.clock = clock or Clock()
        self.server = Server("shed", "onewire", house.ip, PORT)
        self.server.start()
        self.server.outbox = Outbox(self.server, directory, most, self.clock)
        assert self.server.publisher is not None
        self.publisher = self.server.publisher
        self.publisher.on_reading = self.server._keep_reading
        self.stopped = False

    @property
    def outbox(self) -> Outbox:
        assert self.server.outbox is not None
        return self.server.outbox

    @property
    def path(self) -> Path:
        return Path(self.directory, FILE)

    def publish(self, value: float | None, when: float | None = None, key: str = KEY) -> float:
        """A reading; returns its time."""
        self.house.last = time.monotonic()
        when = round(self.clock.wall() if when is None else when, 3)
        reading = Value.error("CRC", "°C", 30, when, True) if value is None else Value.ok(value, "°C", 30, when, True)
        self.server.publish(key, reading.encode())
        return when

    def count(self, first: int, end: int) -> list[float]:
        """One reading of each of these numbers, one ms apart; their times."""
        # The first of them is not to be older than the last one of before.
        while time.monotonic() <= self.house.last + (end - first) / 1000:
            time.sleep(0.001)
        now = self.clock.wall()
        return [self.publish(number, now + (number - end) / 1000) for number in range(first, end)]

    def until(self, happened: Callable[[], Any], limit: float = LIMIT) -> Any:
        """Turn the loop until something is true."""
        end = time.monotonic() + limit
        while not (found := happened()):
            assert time.monotonic() < end, f"not within {limit:g} s; conditions: {self.server.conditions}"
            self.server.turn(0.02)
        return found

    def connected(self, there: bool = True) -> None:
        self.until(lambda: self.publisher.connected is there)

    def delivered(self) -> None:
        """Until the logger has all."""
        self.until(lambda: not self.outbox.waiting and (self.outbox.file is None or self.outbox.file.waiting == 0))

    def statistic(self, name: str) -> int:
        return int(self.server.statistics()[f"onewire.{name}"])

    def stop(self) -> None:
        if not self.stopped:
            self.stopped = True
            self.server.stop()
            self.server.destroy()
            assert self.server.errors == 0, self.server.last_error


class Stage:
    """All of them."""

    def __init__(self, directory: str) -> None:
        self.house = House(os.path.join(directory, "pi"))
        os.mkdir(self.house.directory)
        self.state = os.path.join(directory, "shed")
        self.nodes: list[Node] = []

    def node(self, clock: BootClock | None = None, most: int = MOST, state: str = "") -> Node:
        self.nodes.append(Node(self.house, state or self.state, clock, most))
        return self.nodes[-1]


@contextmanager
def a_stage() -> Iterator[Stage]:
    """A :class:`Stage` for the length of a test."""
    with short_directory() as directory:
        stage = Stage(directory)
        try:
            yield stage
        finally:
            for node in stage.nodes:
                node.stop()
            stage.house.stop_logger()
            stage.house.stop_broker()
