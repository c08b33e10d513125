"""A real alarm server on a real broker, each on a thread, with values that the test publishes and simulated outputs."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raspy.common.clock import BootClock
from raspy.common.devices.value import Value
from raspy.common.server import Server
from raspy.servers.alarm import Alarm, AlarmConfig
from raspy.servers.alarm.message import Notice
from tests.bus import BASE, Bus, OnThread, eventually, running_bus
from tests.support_devices import patient, short_directory

WATER = "/device/pi.probe.water/temperature"


class Watch(BootClock):
    """A clock that a test sets."""

    def __init__(self, boot_id: str = "b" * 32) -> None:
        super().__init__(boot_id)
        self.went = 0.0
        self.off = 0.0
        self.right = True

    def since(self) -> float:
        return super().since() + self.went

    def wall(self) -> float:
        return super().wall() + self.went + self.off

    def trusted(self) -> bool:
        return self.right


class AlarmStage:
    """An alarm server that can be started again on the same files.

    :param bus: the broker
    :param directory: where the files are
    :param clock: what tells the time
    """

    def __init__(self, bus: Bus, directory: str, clock: BootClock | None = None, **options: Any) -> None:
        self.bus = bus
        self.directory = Path(directory)
        self.clock = clock or Watch()
        self.options = options
        self.told: list[Notice] = []
        """What was handed to the voice, by all servers one after the other."""
        self.back = 0.2
        self.grace = 0.3
        self.gap = 0.3
        self.first = 0.3
        self.steady = 0.3
        self.missing = 3600.0
        self.sent: dict[str, bytes] = {}
        """What was published last, by key."""
        self.others: list[OnThread[Any]] = []
        self.probe = self.another(Server("pi", "probe", bus.ip, BASE))
        self.runner = self.start()

    def another(self, server: Any) -> OnThread[Any]:
        """Start another server."""
        runner = OnThread(server).wait()
        self.others.append(runner)
        return runner

    def start(self) -> OnThread[Alarm]:
        """Start one, with shorter times."""
        alarm = Alarm(
            "pi",
            "alarm",
            self.bus.ip,
            BASE,
            str(self.directory),
            AlarmConfig(),
            False,
            clock=self.clock,
            **self.options,
        )
        alarm.book.back, alarm.watch.steady = self.back, self.steady
        alarm.book.gap, alarm.watch.first = self.gap, self.first
        alarm.watch.grace, alarm.watch.missing = self.grace, self.missing
        tell = alarm.voice.tell

        def spy(notice: Notice, done: Callable[[], None] | None = None) -> None:
            self.told.append(notice)
            tell(notice, done)

        alarm.voice.tell = spy  # type: ignore[method-assign]
        runner = OnThread(alarm).wait()
        self.runner = runner
        eventually(lambda: runner.call(lambda: alarm.watch.live), "the tree")
        return runner

    def miss(self) -> None:
        """From now on what is wanted by its name is soon missed; before, it has all the time to come."""
        self.missing = 0.5
        self.call(lambda alarm: setattr(alarm.watch, "missing", self.missing))

    @property
    def alarm(self) -> Alarm:
        """The server; to be touched inside :meth:`call` only."""
        return self.runner.executive

    def call(self, function: Callable[[Alarm], Any]) -> Any:
        """What a function says that is called with the server on its loop."""
        return self.runner.call(lambda: function(self.alarm))

    def stop(self) -> None:
        """End the server. No exception may have escaped in it."""
        errors, last = self.call(lambda alarm: (alarm.errors, alarm.last_error))
        self.runner.stop()
        assert errors == 0, last

    def restart(self) -> None:
        """Another server in the place of this one."""
        self.stop()
        self.start()

    def close(self) -> None:
        self.stop()
        for runner in self.others:
            runner.stop()

    # What is published

    def publish(self, key: str, body: Any) -> None:
        """Put something on the tree."""
        data = self.sent[key] = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.probe.call(lambda: self.probe.executive.publish(key, data))

    def tell(self, value: Any, key: str = WATER, unit: str = "°C") -> None:
        """Publish a reading."""
        self.publish(key, Value.ok(value, unit, 60.0).encode())

    def fail(self, reason: str = "CRC failed", key: str = WATER) -> None:
        """Publish an error."""
        self.publish(key, Value.error(reason).encode())

    def arrived(self, key: str = WATER) -> None:
        """Wait until the server has what was published last, or what the broker has made of it."""

        def there() -> bool:
            stands = self.bus.call(
                lambda broker: entry.body if (entry := broker.proxy.entries.get(key.encode())) is not None else None
            )
            sent = self.sent.get(key, stands)
            if stands != (sent or None) and b'"stale"' not in (stands or b""):
                return False
            return bool(self.call(lambda alarm: alarm.watch.tree.get(key)) == stands)

        eventually(there, f"{key} at the alarm")

    # What is asked

    def ask(self, *words: str) -> tuple[Any, str]:
        """The answer and status of a verb."""
        replies: list[list[bytes]] = []
        came = threading.Event()

        def reply(frames: list[bytes]) -> None:
            replies.append(frames)
            came.set()

        body = [word.encode() for word in words]
        self.runner.call(lambda: self.alarm.handle(self.alarm.worker_alarms(), body, reply))
        assert came.wait(30), f"{words[:2]} was not answered"
        return json.loads(replies[0][0]), replies[0][1].decode()

    def good(self, *words: str) -> Any:
        """The answer of a verb that must do what it is asked."""
        answer, status = self.ask(*words)
        assert status == "200", f"{words[:2]}: {status} {answer}"
        return answer

    def define(self, name: str, **settings: Any) -> Any:
        """Set a definition."""
        return self.good("set", name, json.dumps(settings))

    def only(self, name: str, **settings: Any) -> Any:
        """Have no definition active but one."""
        for each in self.good("definitions"):
            if each["settings"].get("active", True):
                self.define(each["name"], **{**each["settings"], "active": False})
        return self.define(name, **settings)

    def state(self, name: str) -> str:
        """The state of an alarm on the tree; normal when it is not there."""
        body = self.tree(name)
        return str(body["state"]) if body is not None else "normal"

    def tree(self, name: str) -> Any:
        """An alarm as it stands on the tree."""
        return self.bus.tree(f"/alarm/{name}").get(f"/alarm/{name}")

    def becomes(self, name: str, state: str) -> Any:
        """Wait until an alarm is in a state; return it."""
        eventually(lambda: self.state(name) == state, f"{name} {state}; is {self.tree(name)}")
        return self.tree(name)

    def heard(self, name: str, *states: str) -> list[Notice]:
        """Wait until the voice has been told so of an alarm, and nothing else."""

        def found() -> list[str]:
            return [notice.state for notice in self.told if notice.name == name]

        try:
            eventually(lambda: found() == list(states))
        except AssertionError:
            raise AssertionError(f"{name}: told {found()}, not {list(states)}") from None
        return [notice for notice in self.told if notice.name == name]

    def at_rest(self) -> None:
        """Wait until everything is on the disk, and told."""
        eventually(
            lambda: self.call(
                lambda alarm: (
                    not (alarm.book.record._dirty or alarm.book.record._writing or alarm.book.record._untold)
                    and all(not each.kept.to_tell for each in alarm.book.alarms.values())
                )
            ),
            "everything written",
        )


@contextmanager
def alarm_stage(clock: BootClock | None = None, **options: Any) -> Iterator[AlarmStage]:
    """An :class:`AlarmStage` for the length of a test."""
    with patient("raspy.servers.alarm.verbs"), running_bus() as bus, short_directory() as directory:
        stage = AlarmStage(bus, directory, clock, **options)
        try:
            yield stage
        finally:
            stage.close()
