"""When the sun rises, sets, is highest, and when the civil twilight begins and ends, at a place.

The formulas are astral's, which are those of the US National Oceanic and Atmospheric Administration, good to about a
minute between 72° north and south. They are asked here by solar days, from midnight to midnight by the sun: by dates,
as astral's own functions are, an event close to midnight UTC would be given twice, or not at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from astral import SunDirection, refraction_at_zenith
from astral.julian import julianday_to_juliancentury
from astral.sun import SUN_APPARENT_RADIUS, eq_of_time, hour_angle, sun_declination

DAY = 86400.0
UNIX_EPOCH = 2440587.5
"""The Julian day of 1970-01-01T00:00Z."""
NEAREST_TO_POLE = 89.8
"""Degrees of latitude beyond which hour angles make no sense; astral stops here, too."""
LONGEST_WAIT = 400
"""Days that are looked through for an event: longer than any polar day or night."""

EVENTS: dict[str, tuple[float, SunDirection | None]] = {
    "dawn": (96.0, SunDirection.RISING),
    "sunrise": (90.0 + SUN_APPARENT_RADIUS, SunDirection.RISING),
    "noon": (0.0, None),
    "sunset": (90.0 + SUN_APPARENT_RADIUS, SunDirection.SETTING),
    "dusk": (96.0, SunDirection.SETTING),
}
"""By name the sun's distance from the zenith in degrees, without refraction, and which way it goes."""


def event(name: str, day: int, latitude: float, longitude: float) -> float | None:
    """When an event takes place on a solar day.

    :param name: one of :data:`EVENTS`
    :param day: days from 1970-01-01 to it
    :param latitude: degrees, north of the equator positive
    :param longitude: degrees, east of Greenwich positive
    :return: Unix s, a whole number; None when the sun does not get there on that day, as in a polar summer
    """
    zenith, direction = EVENTS[name]
    zenith += refraction_at_zenith(zenith)
    latitude = max(-NEAREST_TO_POLE, min(NEAREST_TO_POLE, latitude))
    mean_noon = day * DAY + DAY / 2 - longitude * 240.0
    when = mean_noon
    for _ in range(4):
        century = julianday_to_juliancentury(when / DAY + UNIX_EPOCH)
        angle = 0.0
        if direction is not None:
            try:
                angle = math.degrees(hour_angle(latitude, sun_declination(century), zenith, direction))
            except ValueError:
                return None
        when = mean_noon - (eq_of_time(century) + 4.0 * angle) * 60.0
    return float(round(when))


def following(name: str, after: float, latitude: float, longitude: float) -> Iterator[float]:
    """The times of an event after a moment, all in Unix s, until there is none for 400 days."""
    day = math.floor(after / DAY) - 1
    end = day + LONGEST_WAIT
    while day < end:
        when = event(name, day, latitude, longitude)
        if when is not None and when > after:
            yield when
            end = day + LONGEST_WAIT
        day += 1


def preceding(name: str, after: float, until: float, latitude: float, longitude: float) -> float | None:
    """The last time of an event after one moment and not after another, all in Unix s; None when there is none."""
    for day in range(math.floor(until / DAY) + 1, math.floor(after / DAY) - 2, -1):
        when = event(name, day, latitude, longitude)
        if when is not None and when <= until:
            return when if when > after else None
    return None
