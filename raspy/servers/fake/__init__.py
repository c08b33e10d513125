"""Simulated devices: a tank with heater, pump and light, sensors, a camera and a TV, to try RasPy with before any
hardware is there.

Nothing is random: a value is a function of the settings, of the time since the server's start on the monotonic
clock, and of when the outputs were switched.
"""

from __future__ import annotations

from raspy.servers.fake.server import Fake, FakeConfig

__all__ = ["Fake", "FakeConfig"]
