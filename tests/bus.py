"""A real broker for a test: on a thread, where a test can look inside, or in a process of its own.

The raw peers are those of the conformance suite (:class:`tests.conformance.stage.Stage`).
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, Self, TypeVar

import zmq

from raspy.common import MDP
from raspy.common.executive import Executive
from raspy.servers.broker import Broker, BrokerConfig
from tests.conformance.runner import Launcher
from tests.conformance.stage import Stage, Target
from tests.support_devices import LIMIT, short_directory

T = TypeVar("T")
E = TypeVar("E", bound=Executive)

BASE = 5514
OWN = MDP.REQUEST_ID + b"0" * 32
"""A first frame as our own clients send it."""


def eventually(happened: Callable[[], T], what: str = "", limit: float = LIMIT) -> T:
    """What ``happened`` returns, as soon as that is true."""
    end = time.monotonic() + limit
    while True:
        result = happened()
        if result:
            return result
        assert time.monotonic() < end, f"did not happen in {limit:g} s: {what or happened}"
        time.sleep(0.005)


def found_on(stage: Stage, look: Callable[[], T], what: object) -> T:
    """What ``look`` returns, as soon as that is true, with the peers of a stage running meanwhile."""
    found: list[T] = []

    def holds() -> bool:
        found[:] = [look()]
        return bool(found[0])

    assert stage.until(holds), f"did not happen: {what}"
    return found[0]


class OnThread(Generic[E]):
    """A process of the bus that runs on a thread of this one."""

    def __init__(self, executive: E) -> None:
        self.executive = executive
        self.started = threading.Event()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait(self) -> Self:
        """Until its loop turns."""
        self.call(lambda: None)
        return self

    def call(self, function: Callable[[], T]) -> T:
        """What a function returns that is called on the loop; what it raises is raised here."""
        answers: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

        def answer() -> None:
            try:
                answers.put((function(), None))
            except BaseException as error:
                answers.put((None, error))

        try:
            self.executive.call_threadsafe(answer)
        except OSError:
            self._thread.join(LIMIT)
        end = time.monotonic() + LIMIT
        while True:
            try:
                result, error = answers.get(timeout=0.2)
                break
            except queue.Empty:
                # One that has ended with an error will not answer.
                if self.error is not None:
                    raise self.error from None
                if time.monotonic() > end:
                    raise
        if error is not None:
            raise error
        return result  # type: ignore[return-value]

    def stop(self) -> None:
        """End it, and wait for that; harmless when repeated."""
        if self._thread.is_alive():
            self.executive.shutdown()
            self._thread.join(LIMIT)
        assert not self._thread.is_alive(), "it does not end"
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            self.executive.run()
        except BaseException as error:
            self.error = error


class Bus:
    """A broker on a thread, on sockets in a directory of its own.

    :param settings: keys of ``[broker]``
    """

    def __init__(self, directory: str, **settings: Any) -> None:
        self.settings = BrokerConfig(**settings)
        self.ip = f"ipc://{directory}"
        self.address = MDP.endpoint(self.ip, BASE)
        self.runner = OnThread(self._broker()).wait()
        target = Target(self.address, self.settings.heartbeat / 1000, self.settings.liveness, LIMIT, 0.1)
        self.stage = Stage(target)
        self._dealers: list[zmq.Socket[bytes]] = []

    def _broker(self) -> Broker:
        return Broker("pi", broker_ip=self.ip, broker_port=BASE, settings=self.settings)

    @property
    def broker(self) -> Broker:
        """The broker itself; to be touched inside :meth:`call` only."""
        return self.runner.executive

    def call(self, function: Callable[[Broker], T]) -> T:
        """What a function says that is called with the broker on its loop."""
        return self.runner.call(lambda: function(self.broker))

    def eventually(self, condition: Callable[[Broker], T], what: str = "") -> T:
        """Wait until something is true of the broker, with the peers of the stage running."""
        return found_on(self.stage, lambda: self.call(condition), what or condition)

    def statistic(self, name: str) -> Any:
        """One statistic of the broker."""
        return self.call(lambda broker: broker.statistics()[f"broker.{name}"])

    def at_rest(self) -> None:
        """Wait until nothing is queued and nothing held, and check that the memory is given back."""
        self.eventually(lambda broker: broker.queued == 0 and not broker.outbox._held, "at rest")
        assert self.call(lambda broker: broker.budget.used) == 0

    def tree(self, prefix: str = "/") -> dict[str, Any]:
        """What stands on the tree below a prefix, decoded."""

        def read(broker: Broker) -> dict[str, bytes]:
            return {
                key.decode(): entry.body
                for key, entry in broker.proxy.entries.items()
                if key.startswith(prefix.encode())
            }

        return {key: json.loads(body) for key, body in self.call(read).items()}

    def dealer(self, **options: int) -> zmq.Socket[bytes]:
        """A connected DEALER that the stage does not read."""
        socket: zmq.Socket[bytes] = self.stage.context.socket(zmq.DEALER)
        socket.linger = 0
        for name, value in options.items():
            setattr(socket, name, value)
        socket.connect(self.address)
        self._dealers.append(socket)
        return socket

    def restart(self) -> None:
        """Another broker in the place of this one."""
        self.runner.stop()
        self.runner = OnThread(self._broker()).wait()

    def close(self) -> None:
        """End it. No exception may have escaped."""
        errors, last = self.call(lambda broker: (broker.errors, broker.last_error))
        self.stage.context.destroy(linger=0)
        self.runner.stop()
        assert errors == 0, last


@contextmanager
def running_bus(**settings: Any) -> Iterator[Bus]:
    """A :class:`Bus` for the length of a test."""
    with short_directory() as directory:
        bus = Bus(directory, **settings)
        try:
            yield bus
        finally:
            bus.close()


@contextmanager
def running(executive: E) -> Iterator[OnThread[E]]:
    """A server, or another loop, on a thread for the length of a test."""
    runner = OnThread(executive).wait()
    try:
        yield runner
    finally:
        runner.stop()


def write_config(directory: str, **broker: int | float) -> str:
    """A configuration for processes whose broker has its sockets in a directory; returns its path."""
    path = os.path.join(directory, "raspy.toml")
    keys = "".join(f"{key} = {value}\n" for key, value in broker.items())
    with open(path, "w", encoding="utf-8") as file:
        file.write(f'[bus]\nhostname = "pi"\nbroker_ip = "ipc://{directory}"\n[broker]\n{keys}')
    return path


def environment() -> dict[str, str]:
    """This process's environment, less what would configure a server."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("RASPY_", "NOTIFY_"))}


def server_command(name: str, config: str) -> list[str]:
    """What starts a server in a process of its own."""
    return [sys.executable, "-m", "raspy.common.runner", name, "--config", config]


def broker_process(directory: str, **broker: int | float) -> Launcher:
    """A broker that can be started as a process; it logs to ``log`` in the directory."""
    config = write_config(directory, **broker)
    target = Target(f"ipc://{directory}/{BASE}", broker.get("heartbeat", 3500) / 1000)
    log = os.path.join(directory, "log")
    return Launcher(server_command("broker", config), target, environment(), log)
