"""Pins: relays, dimmers, contacts and pulse counters on the lines of GPIO chips, and on PWM channels.

Lines are found by name, through libgpiod 2. docs/gpio.rst tells an owner all of it.
"""

from __future__ import annotations

from raspy.servers.gpio.server import Gpio
from raspy.servers.gpio.settings import GpioConfig

__all__ = ["Gpio", "GpioConfig"]
