"""What puts a line, or a PWM channel, into a duty cycle of 0 to 1."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from raspy.common.executive import Executive, Timer
from raspy.servers.gpio.chips import LineError, Output
from raspy.servers.gpio.pwm import Channel


class Wiring(msgspec.Struct, frozen=True):
    """What an output drives, as its settings say."""

    line: str = ""
    """Its name; empty: :attr:`pwm`."""
    pwm: str = ""
    """A PWM channel by chip and number."""
    active_low: bool = False
    safe: float = 0.0
    """Duty cycle in the safe state, 0 to 1."""
    period: float = 0.0
    """Of the PWM, s; 0: there is none, it is on or off."""
    pulse: float = 0.0
    """The shortest pulse of a software PWM, s."""


class Driver:
    """The hardware of one output, in use."""

    key = ""
    """The same for all names of it."""

    def put(self, duty: float) -> None:
        """Have a duty cycle, 0 to 1.

        :raises LineError: it does not do so
        """
        raise NotImplementedError

    def close(self) -> None:
        """Give the hardware back as it is; harmless when repeated."""
        raise NotImplementedError


class LineDriver(Driver):
    """A line that is on or off.

    :param key: of the line
    :param line: the line, at the level that is off, or at any
    """

    def __init__(self, key: str, line: Output, active_low: bool) -> None:
        self.key = key
        self.line = line
        self.active_low = active_low

    def put(self, duty: float) -> None:
        """Be on for any duty cycle above 0."""
        self.switch(duty > 0)

    def switch(self, on: bool) -> None:
        """Be on or off."""
        self.line.set(on != self.active_low)

    def close(self) -> None:
        """Give the line back."""
        self.line.close()


class SoftPwm(LineDriver):
    """A line that is on for a part of each period, by timers of the loop.

    Edges are some 0.1 ms late, up to 1 ms, which does not add up. A pulse, or a break, is never shorter than the
    shortest one: the period is longer instead, so that the mean stays what it is.

    :param loop: on which the timers are
    :param failed: called with what went wrong at an edge
    """

    def __init__(
        self,
        key: str,
        line: Output,
        wiring: Wiring,
        loop: Executive,
        failed: Callable[[LineError], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(key, line, wiring.active_low)
        self._wiring = wiring
        self._loop = loop
        self._failed = failed
        self._clock = clock
        self._timer: Timer | None = None
        self._duty = 0.0
        self._begun = 0.0
        self._on: bool | None = None

    @property
    def period(self) -> float:
        """Of the duty cycle that it has, in s."""
        duty, shortest = self._duty, self._wiring.pulse
        if not 0 < duty < 1:
            return self._wiring.period
        return max(self._wiring.period, shortest / duty, shortest / (1 - duty))

    def put(self, duty: float) -> None:
        """Have a duty cycle from now on, in the period that has begun."""
        running = self._timer is not None
        self._stop()
        self._duty = duty
        if 0 < duty < 1:
            if not running:
                self._begun = self._clock()
            self._edge()
        else:
            self.switch(duty > 0)

    def switch(self, on: bool) -> None:
        """Be on or off."""
        self._on = None
        super().switch(on)
        self._on = on

    def close(self) -> None:
        """Stop, and give the line back, off: nobody would end the pulse."""
        self._stop()
        try:
            self.switch(False)
        except LineError:
            # Whoever gives it back has told so, or is about to.
            pass
        super().close()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _edge(self) -> None:
        """Be what the time says, and see to the next edge."""
        now, period = self._clock(), self.period
        if now >= self._begun + period:
            # What was missed, as the machine was busy, is not made up for.
            self._begun = max(self._begun + period, now - period / 2)
        on_until = self._begun + self._duty * period
        on = now < on_until
        if on is not self._on:
            self.switch(on)
        self._timer = self._loop.call_later((on_until if on else self._begun + period) - now, self._due)

    def _due(self) -> None:
        self._timer = None
        try:
            self._edge()
        except LineError as error:
            self._failed(error)


class PwmDriver(Driver):
    """A PWM channel of the hardware.

    :param key: of the channel
    :param channel: in use
    """

    def __init__(self, key: str, channel: Channel) -> None:
        self.key = key
        self.channel = channel

    def put(self, duty: float) -> None:
        """Have a duty cycle."""
        self.channel.set(duty)

    def close(self) -> None:
        """Give the channel back."""
        self.channel.close()
