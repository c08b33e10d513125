"""A real core beside a real broker, Titanic and the simulated tank, each on a thread, and what tests ask of it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from raspy.common import MDP
from raspy.common.clock import BootClock
from raspy.common.executive import Executive
from raspy.common.kvsubscriber import KvSubscriber
from raspy.common.mdcliapi import MajorDomoClient
from raspy.servers.core import Core, CoreConfig
from raspy.servers.fake import Fake
from raspy.servers.fake.pins import Pins
from raspy.servers.titanic import Titanic
from tests.bus import BASE, Bus, OnThread, eventually, running_bus
from tests.support_devices import LIMIT, patient


class SetClock(BootClock):
    """The machine's clocks, and a wall clock that can be set."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = 0.0
        self.sure = True

    def wall(self) -> float:
        return time.time() + self.offset

    def trusted(self) -> bool:
        return self.sure


class Watcher(Executive):
    """Follows a part of the tree."""

    def __init__(self, ip: str, prefix: str) -> None:
        super().__init__("pi", "watcher", ip, BASE)
        self.prefix = prefix
        self.changes: list[tuple[str, Any]] = []
        self.live = False
        self.subscriber: KvSubscriber | None = None

    def start(self) -> None:
        self.subscriber = KvSubscriber(self, self.prefix, self._changed, self._state)

    def stop(self) -> None:
        if self.subscriber is not None:
            self.subscriber.close()

    def _state(self, state: str) -> None:
        self.live = state == "live"

    def _changed(self, key: str, body: bytes) -> None:
        if body and self.live:
            self.changes.append((key, json.loads(body)))


class House:
    """A broker, and core; Titanic and the tank where a test wants them."""

    def __init__(self, bus: Bus, directory: str) -> None:
        self.bus = bus
        self.directory = directory
        self.clock = SetClock()
        self.runner: OnThread[Core] | None = None
        self.others: dict[str, OnThread[Any]] = {}
        self.client = MajorDomoClient(bus.address)
        # Nothing is asked twice because the machine is busy.
        self.client.timeout = self.client.act_timeout = int(LIMIT * 1000)

    def start(self, titanic: bool = False, **settings: Any) -> House:
        """Start core, and wait until its services are there."""
        core = Core("pi", "core", self.bus.ip, BASE, self.directory, CoreConfig(**settings), titanic, self.clock)
        self.runner = OnThread(core).wait()
        self._there(core)
        self.eventually(lambda core: core.values.live, "it follows the tree")
        return self

    def add_tank(self) -> Fake:
        """The simulated tank, with its outputs."""
        fake = Fake("pi", "fake", self.bus.ip, BASE, pins=Pins(os.path.join(self.directory, "pins")))
        self._add("fake", fake)
        return fake

    def add_titanic(self) -> Titanic:
        """Titanic."""
        titanic = Titanic("pi", "titanic", self.bus.ip, BASE, os.path.join(self.directory, "t"))
        self._add("titanic", titanic)
        return titanic

    def remove(self, name: str) -> None:
        """Stop one of the others."""
        self.others.pop(name).stop()

    def stop(self) -> None:
        """End core; nothing unexpected may have happened to it. Harmless when repeated."""
        if self.runner is not None:
            runner, self.runner = self.runner, None
            runner.stop()
            # A file that is being written when a server ends is let go of by the end of its process.
            runner.executive.state._database.close()
            assert runner.executive.errors == 0, runner.executive.last_error

    def close(self) -> None:
        """End everything."""
        try:
            self.stop()
        finally:
            for name in list(self.others):
                self.remove(name)
            self.client.destroy()

    @property
    def core(self) -> Core:
        """The server itself; to be touched inside :meth:`call` only."""
        assert self.runner is not None
        return self.runner.executive

    def call(self, function: Callable[[Core], Any]) -> Any:
        """What a function says that is called with core on its loop."""
        assert self.runner is not None
        return self.runner.call(lambda: function(self.core))

    def eventually(self, condition: Callable[[Core], Any], what: str = "") -> Any:
        """Wait until something is true of core."""
        return eventually(lambda: self.call(condition), what)

    def ask(self, service: str, *words: Any) -> Any:
        """What a verb of core, or of a service with a whole name, answers; it must be good."""
        answer, status = self.answer(service, *words)
        assert status == MDP.OK, answer
        return answer

    def answer(self, service: str, *words: Any) -> tuple[Any, bytes]:
        """Answer and status of a verb; what is no text is sent as JSON."""
        frames = [(word if isinstance(word, str) else json.dumps(word)).encode() for word in words]
        reply = self.client.send(service if "." in service else f"pi.core.{service}", frames)
        assert reply is not None, f"no answer to {words}"
        return json.loads(reply[0]), reply[-1]

    def tree(self, prefix: str) -> dict[str, Any]:
        """What the broker's tree has below a prefix."""
        return self.bus.tree(prefix)

    def follow(self, prefix: str) -> list[tuple[str, Any]]:
        """A list that the changes of the tree below a prefix are added to, from now on: key and what its JSON says."""
        watcher = OnThread(Watcher(self.bus.ip, prefix)).wait()
        self.others[f"watcher {len(self.others)}"] = watcher
        eventually(lambda: watcher.executive.live, "it follows the tree")
        return watcher.executive.changes

    def _add(self, name: str, server: Any) -> None:
        self.others[name] = OnThread(server).wait()
        self._there(server)

    def _there(self, server: Any) -> None:
        names = [name.encode() for name in server.services()]
        self.bus.eventually(
            lambda broker: all(name in broker.services and broker.services[name].waiting for name in names),
            f"{server.service} is there",
        )


@contextmanager
def house(directory: str) -> Iterator[House]:
    """A broker, and a core that the test starts."""
    with ExitStack() as stack:
        stack.enter_context(patient())
        made = House(stack.enter_context(running_bus()), directory)
        stack.callback(made.close)
        yield made
