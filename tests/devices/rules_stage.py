"""A server with outputs and contacts on a stage: its clocks, disk and hardware are the test's, all else is real.

The loop, the timers, the verbs, the files of settings and modes are those of the product. The server is not on the
bus, and time passes only when the test says so.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import time as real_time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any, ClassVar

import msgspec

from raspy.common.devices.command import Command
from raspy.common.devices.device import BaseDevice
from raspy.common.devices.dimmer import Dimmer
from raspy.common.devices.errors import ReadingError
from raspy.common.devices.host import DeviceServer
from raspy.common.devices.output import OutputDevice
from raspy.common.devices.switch import Switch
from raspy.common.executive import Timer
from raspy.common.server import Server
from tests.devices.rules_machine import LIMIT, POLL, Clocks, Disk, Sense, Wire, played

CALLS = 5_000
"""Calls that are asked for at one moment: more is a loop that spins."""
TURNS = 200
"""Turns of the loop at one moment: more is a loop that spins."""


class Wired(OutputDevice):
    """An output on a wire."""

    wire: Wire

    def drive(self, value: float) -> None:
        self.wire.drive(value)


class StageSwitch(Wired, Switch):
    """A switch on a wire."""


class StageDimmer(Wired, Dimmer):
    """A dimmer on a wire."""


class Contact(BaseDevice):
    """A contact: read at an interval, and told by the edges."""

    oid: ClassVar[str] = "stage.contact"
    declared: ClassVar[tuple[Command, ...]] = (Command(name="contact", type="Bool", readonly=True),)
    sense: Callable[[], bool]

    def do_poll(self) -> Mapping[str, Any]:
        return {"contact": self.sense()}


class Tree:
    """Stands for the channel to the tree, and shows what was published."""

    connected = True

    def __init__(self) -> None:
        self.shown: dict[str, bytes] = {}

    def send(self, key: str, body: bytes) -> None:
        self.shown[key] = body

    def close(self) -> None:
        """There is nothing to close."""


class OffTheBus(Server):
    """A server without sockets."""

    def start(self) -> None:
        self.publisher = Tree()  # type: ignore[assignment]


class StageServer(DeviceServer, OffTheBus):
    """Owns what is on the stage."""

    makes: ClassVar[frozenset[str]] = frozenset({"switch", "dimmer"})
    stage: Stage
    calls, called_at = 0, -math.inf
    """Calls that were asked for at one moment, and when that was."""

    def start(self) -> None:
        super().start()
        for name in self.stage.senses:
            self.add_device(self.types.new({"oid": Contact.oid, "name": name, "poll": POLL}))

    def make_rest_safe(self) -> None:
        for name, wire in self.stage.wires.items():
            wire.make_safe(self.stage.safe_levels.get(name, 0.0))

    def add_device(self, device: BaseDevice, kept: bool = True) -> None:
        if isinstance(device, Wired):
            device.wire = self.stage.wires[device.name]
        elif isinstance(device, Contact):
            device.sense = self.stage.senses[device.name]
        super().add_device(device, kept)

    def read_devices(self, due: Iterable[BaseDevice]) -> None:
        senses = self.stage.senses
        super().read_devices([device for device in due if senses[device.name].trouble != "mute"])

    def call_later(self, delay: float, function: Callable[..., Any], *args: Any) -> Timer:
        # The time stands still: a call that has itself called again at once would be the last thing that is done.
        now = self.stage.now if hasattr(self, "stage") else 0.0
        self.calls = self.calls + 1 if self.called_at == now else 0
        self.called_at = now
        assert self.calls < CALLS, "the loop spins"
        return super().call_later(delay, function, *args)

    def next_timer(self) -> float:
        """When the loop has something to do (monotonic, s)."""
        return min((timer.due for timer in self._timers if not timer.cancelled), default=math.inf)


class Stage:
    """A machine: clocks, disk, wires, contacts, and the server that is run on it again and again.

    :param on_edge: see :class:`Wire`
    :param on_turn: called after each turn of the loop
    :param on_pass: called before the time passes to a moment, until which the loop has nothing to do
    """

    def __init__(
        self, on_edge: Callable[[Wire, float], None], on_turn: Callable[[], None], on_pass: Callable[[float], None]
    ) -> None:
        self.clocks, self.disk = Clocks(), Disk()
        self.on_edge, self.on_turn, self.on_pass = on_edge, on_turn, on_pass
        self.wires: dict[str, Wire] = {}
        self.safe_levels: dict[str, float] = {}
        self.senses: dict[str, Sense] = {}
        self.directory = tempfile.mkdtemp(prefix="raspy-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        self.late_from = math.inf
        """Since when the loop stands still."""
        self.server: StageServer | None = None
        self._played = ExitStack()
        self._played.enter_context(played(self.clocks, self.disk, self.directory))
        self.trust(True)

    @property
    def now(self) -> float:
        return self.clocks.now

    def trust(self, trusted: bool) -> None:
        """Whether the wall clock was set since the boot."""
        self.trusted = trusted
        path = os.path.join(self.directory, "synchronized")
        if trusted:
            open(path, "w").close()
        elif os.path.exists(path):
            os.unlink(path)

    def wire(self, name: str) -> Wire:
        """A new wire."""
        self.wires[name] = Wire(lambda: self.clocks.now, self.on_edge)
        return self.wires[name]

    def sense(self, name: str) -> Sense:
        """A new contact."""
        self.senses[name] = Sense(lambda: self.clocks.now)
        return self.senses[name]

    # The server

    def start(self) -> None:
        server = StageServer(hostname="pi", service="stage")
        self.server, server.stage = server, self
        for kind in (StageSwitch, StageDimmer, Contact):
            server.types.register(kind)
        server.keep_settings(os.path.join(self.directory, "devices.json"), False)
        server.start()
        self.advance(0)

    def end(self, killed: bool) -> None:
        """The server ends, by itself or by SIGKILL."""
        server, self.server = self.server, None
        if server is None:
            return
        if killed:
            # What it had begun to write may be there or not: it is.
            server.outputs.make_safe = lambda why: None  # type: ignore[method-assign]
        server.stop()
        server.destroy()

    def close(self) -> None:
        self.disk.gate.set()
        try:
            self.end(True)
        finally:
            self._played.close()
            shutil.rmtree(self.directory, ignore_errors=True)

    # Time

    def advance(self, seconds: float) -> None:
        """Let time pass, with the loop doing what is due."""
        assert self.server is not None
        end = self.now + seconds
        turns = 0
        while True:
            due = self.server.next_timer()
            self.on_pass(min(due + self.clocks.booted, end))
            if due > end - self.clocks.booted:
                break
            turns = turns + 1 if due + self.clocks.booted <= self.now else 0
            assert turns < TURNS, "the loop spins"
            self.clocks.now = max(self.now, due + self.clocks.booted)
            while self.clocks.monotonic() < due:
                # The sum was rounded.
                self.clocks.now = math.nextafter(self.now, math.inf)
            self.turn()
        self.clocks.now = max(self.now, end)
        self.turn()

    def turn(self) -> None:
        """One turn of the loop."""
        assert self.server is not None
        errors = self.server.errors
        self.server.turn(0)
        assert self.server.errors == errors, self.server.last_error
        self.late_from = math.inf
        self.on_turn()

    def stall(self, seconds: float) -> None:
        """Let time pass, and the loop stand still."""
        self.late_from = min(self.late_from, self.now)
        self.clocks.now += seconds

    # Commands

    def send(self, *words: str) -> list[tuple[int, Any]]:
        """Ask the server; the answer is in the list that is returned, sooner or later."""
        assert self.server is not None
        errors = self.server.errors
        answers: list[tuple[int, Any]] = []
        frames = [word.encode() for word in words]
        self.server.handle(
            self.server.worker_devices(),
            frames,
            lambda reply: answers.append((int(reply[-1]), msgspec.json.decode(reply[0]))),
        )
        assert self.server.errors == errors, self.server.last_error
        return answers

    def answer(self, answers: list[tuple[int, Any]]) -> tuple[int, Any]:
        """Wait for the disk, not for the time; then do what that has brought about."""
        assert self.server is not None
        end = real_time.monotonic() + LIMIT
        while not answers:
            assert real_time.monotonic() < end, "no answer"
            self.server.turn(0.02)
        assert len(answers) == 1
        return answers[0]

    def ask(self, *words: str) -> tuple[int, Any]:
        """Status and answer of a verb."""
        return self.answer(self.send(*words))

    def edge(self, name: str) -> None:
        """A contact's line told its edge: the value is there in the same turn."""
        assert self.server is not None
        device = self.server.devices[name]
        try:
            device.update({"contact": self.senses[name]()})
        except ReadingError as error:
            device.update(error)
        self.server.publish_device(device)

    def shown(self, name: str, command: str) -> Any:
        """The value on the tree."""
        assert self.server is not None
        tree: Any = self.server.publisher
        return msgspec.json.decode(tree.shown[f"/device/pi.stage.{name}/{command}"]).get("value")

    def details(self, name: str) -> dict[str, Any]:
        """What ``info`` tells of an output."""
        status, answer = self.ask("info", name)
        assert status == 200, answer
        found: dict[str, Any] = answer["details"]
        return found
