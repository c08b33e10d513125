"""Contacts (switches, floats, leak sensors, buttons) and pulse counters on lines."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from raspy.common.devices.command import Command
from raspy.common.devices.device import DeviceSettings, Plan
from raspy.common.devices.errors import ReadingError
from raspy.common.devices.sensor import SensorDevice, SensorSettings
from raspy.servers.gpio.chips import Edge, Input, LineError
from raspy.servers.gpio.lines import Lines, checked
from raspy.servers.gpio.outputs import Line

ASKED = 0.1
"""Seconds between looks at a contact whose chip tells no edges."""
LONGEST_POLL = 600.0
"""Seconds."""
ROUNDS = 16
"""Portions of edges that are taken at one reading of a counter; what is left is taken at the next."""

Bias = Annotated[
    Literal["up", "down", "off", "as-is"],
    Meta(title="Bias", description="The resistor within the chip: up for a contact to ground, down for one to 3.3 V."),
]
Poll = Annotated[
    float,
    Meta(ge=0.1, le=LONGEST_POLL, title="Poll", description="Seconds between readings.", extra={"unit": "s"}),
]


class GpioInputSettings(SensorSettings, kw_only=True, forbid_unknown_fields=True):
    """What the settings of inputs have in common."""

    poll: Poll = 5.0
    line: Line = ""
    bias: Bias = "up"

    def check(self) -> dict[str, str]:
        """It needs a line."""
        errors = super().check()
        if not self.line.strip():
            errors["line"] = "is missing: the name of a line, as GPIO17"
        return errors


class ContactSettings(GpioInputSettings, kw_only=True, forbid_unknown_fields=True):
    """The settings of a contact."""

    poll: Annotated[
        float,
        Meta(
            ge=0.1,
            le=60,
            title="Poll",
            description="Seconds between readings; edges are told at once besides.",
            extra={"unit": "s"},
        ),
    ] = 5.0
    active_low: Annotated[
        bool, Meta(title="Active low", description="It is on while the line is low, as a contact to ground.")
    ] = True
    debounce: Annotated[
        float,
        Meta(
            ge=1,
            le=10_000,
            title="Debounce",
            description="It is another only when it has been so for this time.",
            extra={"unit": "ms"},
        ),
    ] = 20.0
    button: Annotated[bool, Meta(title="Button", description="Tell each press, when it ends, as an event.")] = False
    long: Annotated[
        float,
        Meta(
            ge=0.1, le=60, title="Long press", description="A press of this time or more is long.", extra={"unit": "s"}
        ),
    ] = 1.0


class CounterSettings(GpioInputSettings, kw_only=True, forbid_unknown_fields=True):
    """The settings of a pulse counter."""

    poll: Poll = 1.0
    edge: Annotated[
        Literal["falling", "rising", "both"], Meta(title="Edge", description="Which edges of the line count.")
    ] = "falling"
    debounce: Annotated[
        float,
        Meta(
            ge=0,
            le=10_000,
            title="Debounce",
            description="Pulses that are shorter do not count; 0: all do.",
            extra={"unit": "ms"},
        ),
    ] = 0.0
    per_pulse: Annotated[
        float,
        Meta(
            gt=0,
            le=1e6,
            title="Per pulse",
            description="How much one pulse stands for: 1/450 of a litre is 0.00222.",
        ),
    ] = 1.0
    unit: Annotated[str, Meta(max_length=12, title="Unit", description="Of what is counted, as L.")] = ""


class GpioInput(SensorDevice):
    """What contacts and counters have in common."""

    Settings: ClassVar[type[DeviceSettings]] = GpioInputSettings

    def __init__(self, json: str | bytes | Mapping[str, Any] | None = None) -> None:
        self.lines: Lines | None = None
        """Those of its server; without them it cannot be read."""
        self.given: dict[str, Any] = {}
        """Settings that come from the configuration, and cannot be changed elsewhere."""
        self._line: Input | None = None
        self._key = ""
        self._wired: tuple[Any, ...] = ()
        super().__init__(json)

    def wiring(self) -> tuple[str, str, float, str]:
        """Line, bias, debounce in s, and the edges that are told, by its settings."""
        raise NotImplementedError

    def have(self) -> Input:
        """The line; taken, if need be.

        :raises ReadingError: it cannot be had
        """
        if self._line is None:
            if self.lines is None:
                raise ReadingError("line", "it has no server")
            self._wired = self.wiring()
            try:
                self._key, self._line = self.lines.input(self.name, *self._wired)
            except LineError as error:
                raise ReadingError("line", str(error)) from error
            self.taken(self._line)
        return self._line

    def taken(self, line: Input) -> None:
        """The line was taken; to be extended."""

    def close(self) -> None:
        """Give the line back; to be extended."""
        line, self._line = self._line, None
        if line is not None:
            line.close()
            if self.lines is not None:
                self.lines.free(self.name, self._key)

    def lost(self, error: LineError) -> ReadingError:
        """The line does not answer: it is given back, and taken anew at the next reading."""
        self.close()
        return ReadingError("line", str(error))

    def plan(self, json: str | bytes | Mapping[str, Any]) -> Plan:
        """The settings that it would have; see :meth:`BaseDevice.plan`."""
        return checked(self, super().plan(json), self.given, self.lines)

    def settings_changed(self) -> None:
        """A line that is another now, or is to be read in another way, is given back, and the new one taken at the
        reading that follows."""
        super().settings_changed()
        if self._line is not None and self._wired != self.wiring():
            self.close()

    def details(self) -> dict[str, Any]:
        """The line by chip and number."""
        return {"wired": self._key, "edges": self._line.edges} if self._line is not None else {}


class Contact(GpioInput):
    """A contact: a switch, a float, a leak sensor, a button."""

    oid: ClassVar[str] = "sensor.contact"
    Settings: ClassVar[type[DeviceSettings]] = ContactSettings
    declared: ClassVar[tuple[Command, ...]] = (
        Command(name="contact", type="Bool", info="Contact", readonly=True, datasource="GAUGE"),
    )

    def __init__(self, json: str | bytes | Mapping[str, Any] | None = None) -> None:
        self._watched = -1
        self._was: bool | None = None
        self._pressed_at: int | None = None
        super().__init__(json)

    @property
    def _contact(self) -> ContactSettings:
        config = self.config
        assert isinstance(config, ContactSettings)
        return config

    @property
    def poll(self) -> float:
        """Seconds between readings."""
        poll = self.config.poll
        return poll if self._line is None or self._line.edges else min(poll, ASKED)

    @poll.setter
    def poll(self, seconds: float) -> None:
        self.configure({"poll": seconds})

    def wiring(self) -> tuple[str, str, float, str]:
        """Line, bias, debounce in s, edges."""
        config = self._contact
        return config.line.strip(), config.bias, config.debounce / 1000, "both"

    def taken(self, line: Input) -> None:
        """Have its edges told."""
        self._pressed_at = None
        if line.edges and self.lines is not None:
            self._watched = line.fileno()
            self.lines.server.register(self._watched, self._edges)

    def close(self) -> None:
        """Give the line back."""
        if self._watched >= 0 and self.lines is not None:
            self.lines.server.unregister(self._watched)
        self._watched = -1
        super().close()

    def do_poll(self) -> dict[str, Any]:
        """Whether it is on."""
        try:
            return {"contact": self.have().get() != self._contact.active_low}
        except LineError as error:
            raise self.lost(error) from error

    def update(self, readings: Mapping[str, Any] | BaseException) -> list[Command]:
        """Take what was read; when it is another than before, that is an event."""
        changed = super().update(readings)
        value = self.commands["contact"].value
        if isinstance(value, bool):
            if self._was is not None and value is not self._was and self.lines is not None:
                # After the value is on the tree, and whatever hangs on it done.
                self.lines.server.call_later(0, self._tell, "contact", {"contact": value})
            self._was = value
        return changed

    def _edges(self) -> None:
        """There are edges: on the loop, as soon as they come."""
        lines, line = self.lines, self._line
        if lines is None or line is None:
            return
        try:
            edges = line.read()
            if not edges:
                return
            readings: Mapping[str, Any] | BaseException = {"contact": line.get() != self._contact.active_low}
        except LineError as error:
            edges, readings = [], self.lost(error)
        self.update(readings)
        # Interlocks hang on it, so nothing comes before this.
        lines.server.publish_device(self)
        if self._contact.button:
            for edge in edges:
                self._press(edge)

    def _press(self, edge: Edge) -> None:
        if edge.level != self._contact.active_low:
            self._pressed_at = edge.time
        elif self._pressed_at is not None:
            seconds, self._pressed_at = (edge.time - self._pressed_at) / 1e9, None
            kind = "long" if seconds >= self._contact.long else "short"
            self._tell("press", {"press": kind, "seconds": round(seconds, 3)})

    def _tell(self, kind: str, facts: dict[str, Any]) -> None:
        if self.lines is not None:
            server = self.lines.server
            server.event(kind, self.fullname(server.name), **facts)


class Counter(GpioInput):
    """A counter of pulses, as of a flow meter."""

    oid: ClassVar[str] = "sensor.counter"
    Settings: ClassVar[type[DeviceSettings]] = CounterSettings
    declared: ClassVar[tuple[Command, ...]] = (
        Command(name="total", type="Real", info="Total", readonly=True, datasource="GAUGE"),
        Command(name="rate", type="Real", info="Rate", readonly=True, datasource="GAUGE"),
    )

    def __init__(self, json: str | bytes | Mapping[str, Any] | None = None) -> None:
        self.pulses = 0
        """Since the server's start, or the last reset."""
        self.lost_edges = 0
        """Pulses among them whose time is not known, as there were too many at once."""
        self._number = 0
        self._last_at: int | None = None
        self._rate = 0.0
        super().__init__(json)

    @property
    def _counter(self) -> CounterSettings:
        config = self.config
        assert isinstance(config, CounterSettings)
        return config

    def wiring(self) -> tuple[str, str, float, str]:
        """Line, bias, debounce in s, edges."""
        config = self._counter
        return config.line.strip(), config.bias, config.debounce / 1000, config.edge

    def taken(self, line: Input) -> None:
        """Count from here."""
        self._number, self._last_at, self._rate = 0, None, 0.0
        if not line.edges:
            self.close()
            raise ReadingError("line", "the chip tells no edges, so that pulses cannot be counted: take another line")

    def do_poll(self) -> dict[str, Any]:
        """What was counted, and how fast."""
        try:
            line = self.have()
            edges: list[Edge] = []
            for _ in range(ROUNDS):
                portion = line.read()
                edges += portion
                if not portion:
                    break
            else:
                portion = []
            if not edges:
                # That it is still there is seen by this alone.
                line.get()
        except LineError as error:
            raise self.lost(error) from error
        self._count(edges, time.monotonic_ns())
        per = self._counter.per_pulse
        return {"total": round(self.pulses * per, 6), "rate": round(self._rate * 60 * per, 6)}

    def _count(self, edges: list[Edge], now: int) -> None:
        """Take the edges of one reading; the rate is that of the time between the last pulses (pulses a second)."""
        if edges:
            count = edges[-1].number - self._number
            self.pulses += count
            self.lost_edges += count - len(edges)
            self._number = edges[-1].number
            since, last = self._last_at, edges[-1].time
            if since is None:
                since, count = edges[0].time, count - 1
            self._last_at = last
            self._rate = count * 1e9 / (last - since) if last > since and count else 0.0
        elif self._last_at is not None:
            # It cannot be faster than one pulse in the time that there was none.
            silent = (now - self._last_at) / 1e9
            self._rate = min(self._rate, 1 / silent) if 0 < silent < LONGEST_POLL else 0.0

    def settings_changed(self) -> None:
        """The unit may be another."""
        super().settings_changed()
        unit = self._counter.unit
        self.commands["total"].unit = unit
        self.commands["rate"].unit = f"{unit}/min" if unit else "1/min"

    def details(self) -> dict[str, Any]:
        """Pulses, and how many of them came too fast to be timed."""
        return super().details() | {"pulses": self.pulses, "lost_edges": self.lost_edges}

    def cmd_reset(self, value: Any = None) -> bool:
        """Count from 0."""
        self.pulses = self.lost_edges = 0
        return super().cmd_reset(value)
