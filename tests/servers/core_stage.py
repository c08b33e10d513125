"""A real core on a real broker, each on a thread, with values that the test publishes and simulated outputs."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raspy.common.devices.value import Value
from raspy.common.server import Server
from raspy.servers.core.server import Core
from raspy.servers.core.settings import CoreConfig
from raspy.servers.fake import Fake
from raspy.servers.fake.server import FakeConfig
from tests.bus import BASE, Bus, OnThread, eventually, running_bus
from tests.support_devices import patient, short_directory

WATER = "/device/pi.probe.water/temperature"


class CoreStage:
    """A core that can be started again on the same file.

    :param bus: the broker
    :param directory: where the file is
    :param config: keys of ``[core]``
    """

    def __init__(self, bus: Bus, directory: str, **config: Any) -> None:
        self.bus = bus
        self.directory = Path(directory)
        self.config = CoreConfig(**config)
        self.probe = OnThread(Server("pi", "probe", bus.ip, BASE)).wait()
        self._others: list[OnThread[Any]] = [self.probe]
        self.runner = self._start()

    def _start(self) -> OnThread[Core]:
        core = Core("pi", "core", self.bus.ip, BASE, str(self.directory), self.config, False)
        runner = OnThread(core).wait()
        self.runner = runner
        eventually(lambda: runner.call(lambda: core.values.live), "the tree")
        return runner

    @property
    def core(self) -> Core:
        """The core; to be touched inside :meth:`call` only."""
        return self.runner.executive

    def call(self, function: Callable[[Core], Any]) -> Any:
        """What a function says that is called with the core on its loop."""
        return self.runner.call(lambda: function(self.core))

    def fake(self, **settings: Any) -> Fake:
        """Start the simulated devices.

        :param settings: keys of ``[fake]``
        """
        server = Fake("pi", "fake", self.bus.ip, BASE, FakeConfig(**settings))
        self.tank = OnThread(server).wait()
        self._others.append(self.tank)
        key = "/device/pi.fake.tank/temperature"
        eventually(lambda: self.call(lambda core: core.values.read(key).good), "the tank")
        eventually(lambda: self.bus.call(lambda broker: b"pi.fake.devices" in broker.services), "its devices")
        return server

    def configure(self, device: str, **settings: Any) -> None:
        """Change settings of a simulated device."""
        server = self.tank.executive
        replies: list[list[bytes]] = []
        body = [b"exec", device.encode(), b"config", json.dumps(settings).encode()]
        self.tank.call(lambda: server.handle(server.worker_devices(), body, replies.append))
        eventually(lambda: replies, "an answer")
        assert replies[0][-1] == b"200", replies

    def restart(self) -> None:
        """Another core in the place of this one."""
        self.stop_core()
        self._start()

    def stop_core(self) -> None:
        """End the core. No exception may have escaped in it."""
        errors, last = self.call(lambda core: (core.errors, core.last_error))
        self.runner.stop()
        assert errors == 0, last

    def close(self) -> None:
        self.stop_core()
        for runner in self._others:
            runner.stop()

    def tell(self, value: Any, key: str = WATER, max_age: float = 60.0, time: float | None = None) -> None:
        """Publish a reading, and wait until core has it."""
        self._publish(key, Value.ok(value, "°C", max_age, time).encode())

    def fail(self, reason: str, key: str = WATER) -> None:
        """Publish an error, and wait until core has it."""
        self._publish(key, Value.error(reason).encode())

    def _publish(self, key: str, body: bytes) -> None:
        before = self.call(lambda core: core.values.read(key).version)
        self.probe.call(lambda: self.probe.executive.publish(key, body))
        eventually(lambda: self.call(lambda core: core.values.read(key).version) != before, f"{key} at core")

    def ask(self, service: str, *words: str) -> tuple[Any, str]:
        """The answer and status of a verb of core."""
        replies: list[list[bytes]] = []
        came = threading.Event()

        def reply(frames: list[bytes]) -> None:
            replies.append(frames)
            came.set()

        verbs = getattr(self.core, f"worker_{service}")()
        self.runner.call(lambda: self.core.handle(verbs, [word.encode() for word in words], reply))
        assert came.wait(30), f"{service} {words[:2]} was not answered"
        return json.loads(replies[0][0]), replies[0][1].decode()

    def good(self, service: str, *words: str) -> Any:
        """The answer of a verb that must do what it is asked."""
        answer, status = self.ask(service, *words)
        assert status == "200", f"{service} {words[:2]}: {status} {answer}"
        return answer

    def make(self, name: str, code: str, entries: dict[str, Any] | None = None, **conf: Any) -> None:
        """Make a scenario, or change it."""
        parts = {"code": code, "entries": entries or {}, "conf": conf}
        self.good("scenario", "set", name, json.dumps(parts))

    def state(self, name: str) -> str:
        """The state of a scenario."""
        return str(self.call(lambda core: core.scenarios.scenarios[name].state))

    def becomes(self, name: str, state: str, reason: str = "") -> dict[str, Any]:
        """Wait until a scenario is in a state, and has said a reason; return what is told of it."""

        def told() -> dict[str, Any] | None:
            found = self.call(lambda core: core.scenarios.scenarios[name].to_dict())
            return found if found["state"] == state and reason in found["reason"] else None

        def last() -> Any:
            return self.call(lambda core: (core.scenarios.scenarios[name].to_dict(), core.scenarios.output(name)))

        try:
            return dict(eventually(told) or {})
        except AssertionError:
            raise AssertionError(f"{name} did not become {state} {reason!r}: {last()}") from None

    def printed(self, name: str, text: str, times: int = 1) -> str:
        """Wait until a scenario has printed a text so many times; return all that it printed."""

        def output() -> str:
            return str(self.call(lambda core: core.scenarios.scenarios[name].output.text()))

        try:
            eventually(lambda: output().count(text) >= times)
        except AssertionError:
            told = self.call(lambda core: core.scenarios.show(name))
            raise AssertionError(f"{text!r} {times} times, not {output()!r}; {told}") from None
        return output()

    def ended(self, name: str, runs: int = 1) -> dict[str, Any]:
        """Wait until a scenario has run so often and does not run; return how its last run ended."""
        eventually(
            lambda: self.call(
                lambda core: core.scenarios.scenarios[name].runs >= runs and not core.scenarios.scenarios[name].running
            ),
            f"{runs} runs of {name}",
        )
        return dict(self.call(lambda core: core.scenarios.scenarios[name].last))

    def tree(self, key: str) -> Any:
        """What stands on the tree."""
        return self.bus.tree(key).get(key)


@contextmanager
def core_stage(**config: Any) -> Iterator[CoreStage]:
    """A :class:`CoreStage` for the length of a test."""
    with patient(), running_bus() as bus, short_directory() as directory:
        stage = CoreStage(bus, directory, **config)
        try:
            yield stage
        finally:
            stage.close()
