"""What simulated sensors feel: functions of the time since time zero, none of them random."""

from __future__ import annotations

import math


def cyclic(elapsed: float, period: float, low: float, high: float) -> float:
    """A value that swings as a cosine does: ``low`` at 0 and at each period, ``high`` at half of one.

    :param elapsed: seconds since time zero
    :param period: seconds
    """
    phase = math.fmod(elapsed, period) / period
    return low + (high - low) * (1 - math.cos(2 * math.pi * phase)) / 2


def linear(elapsed: float, start: float, rate: float, low: float, high: float) -> float:
    """A value that changes evenly until it comes to an end of its range.

    :param elapsed: seconds since time zero
    :param start: the value at time zero
    :param rate: change per hour
    """
    return min(max(start + rate * elapsed / 3600, low), high)


def direction(elapsed: float, start: float, turn: float) -> float:
    """A direction that turns evenly, in degrees clockwise from north, from 0 to below 360.

    :param elapsed: seconds since time zero
    :param start: the direction at time zero, °
    :param turn: seconds of a full turn, anticlockwise if negative; 0: it stays
    """
    return (start + 360 * math.fmod(elapsed, turn) / turn) % 360 % 360 if turn else start % 360
