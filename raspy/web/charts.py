"""A chart as a picture, for where there is no script: an SVG made from what the logger answers to a query."""

from __future__ import annotations

import math
import time
from typing import Any

from raspy.web.texts import clean, number

WIDTH, HEIGHT = 400, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 8, 22
TICKS = 4
"""Lines across, about."""
SPANS = {"hour": 3600, "day": 86_400, "week": 7 * 86_400, "month": 30 * 86_400, "year": 365 * 86_400}
"""What a chart is of, in s."""


class Point:
    """A point of a chart; mean, low and high are None where nothing was good."""

    __slots__ = ("bad", "good", "high", "low", "mean", "quality", "time")

    def __init__(self, fields: list[Any]) -> None:
        self.time = number(fields[0]) or 0.0
        self.mean, self.low, self.high = (number(each) for each in fields[1:4])
        self.good, self.bad = number(fields[4]) or 0, number(fields[5]) or 0
        self.quality = clean(str(fields[6]), 20)


class Chart:
    """The logger's answer to a query, as far as it is one.

    :param answer: from a server that is not trusted
    """

    __slots__ = ("points", "since", "step", "unit", "until")

    def __init__(self, answer: Any, since: float, until: float) -> None:
        found = answer if isinstance(answer, dict) else {}
        points = found.get("points")
        rows = [row for row in points if isinstance(row, list) and len(row) == 7] if isinstance(points, list) else []
        self.points = [point for point in map(Point, rows) if point.time]
        self.step = number(found.get("step")) or 0.0
        self.unit = clean(str(found.get("unit") or ""), 20)
        self.since, self.until = since, until

    @property
    def known(self) -> list[Point]:
        """The points that have a value, the newest last."""
        return [point for point in self.points if point.mean is not None]

    def range(self) -> tuple[float, float]:
        """The lowest and the highest of all; 0 and 0 when there is nothing."""
        lows = [point.low for point in self.points if point.low is not None]
        highs = [point.high for point in self.points if point.high is not None]
        return (min(lows), max(highs)) if lows and highs else (0.0, 0.0)


def nice(low: float, high: float) -> list[float]:
    """Round numbers from about low to about high."""
    span = high - low or abs(low) * 0.02 or 1.0
    rough = span / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(each * power for each in (1, 2, 5, 10) if each * power >= rough * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step)
    if first == last:
        first, last = first - 1, last + 1
    return [round(place * step, 10) for place in range(first, last + 1)]


def times(since: float, until: float) -> list[tuple[float, str]]:
    """Moments of the local clock across a chart, and what they are called."""
    span = until - since
    steps = (600, 900, 1800, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 86_400, 2 * 86_400, 7 * 86_400, 30 * 86_400)
    step = next((each for each in steps if span / each <= 5), 61 * 86_400)
    shape = "%H:%M" if step < 12 * 3600 else "%m-%d %Hh" if step < 86_400 else "%m-%d" if step < 2e6 else "%Y-%m"
    offset = time.localtime(since).tm_gmtoff
    first = math.ceil((since + offset) / step) * step - offset
    return [(at, time.strftime(shape, time.localtime(at))) for at in range(int(first), int(until) + 1, step)]


class Picture:
    """Where the points of a chart are on its picture."""

    def __init__(self, chart: Chart) -> None:
        self.chart = chart
        self.ticks = nice(*chart.range())
        self.span = max(chart.until - chart.since, 1.0)

    def x(self, at: float) -> float:
        """Of a moment."""
        place = (min(max(at, self.chart.since), self.chart.until) - self.chart.since) / self.span
        return round(LEFT + place * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        """Of a value."""
        low, high = self.ticks[0], self.ticks[-1]
        return round(HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    def across(self) -> list[tuple[float, str]]:
        """The lines across: where, and what they say."""
        return [(self.y(value), f"{value:g}") for value in self.ticks]

    def along(self) -> list[tuple[float, str]]:
        """The moments along the bottom."""
        return [(self.x(at), said) for at, said in times(self.chart.since, self.chart.until)]

    def parts(self) -> list[list[Point]]:
        """The points between the gaps."""
        found: list[list[Point]] = [[]]
        for point in self.chart.points:
            if point.mean is not None:
                found[-1].append(point)
            elif found[-1]:
                found.append([])
        return [part for part in found if part]

    def line(self) -> str:
        """The means, as the attribute ``d`` of a path."""
        paths = []
        for part in self.parts():
            spots = [f"{self.x(point.time)} {self.y(point.mean or 0.0)}" for point in part]
            paths.append("M" + "L".join(spots) + ("h.1" if len(part) == 1 else ""))
        return "".join(paths)

    def band(self) -> str:
        """From the lowest to the highest, as the attribute ``d`` of a path; empty where there is no difference."""
        paths = []
        for part in self.parts():
            if len(part) > 1 and any(point.low != point.high for point in part):
                upper = [f"{self.x(point.time)} {self.y(point.high or 0.0)}" for point in part]
                lower = [f"{self.x(point.time)} {self.y(point.low or 0.0)}" for point in reversed(part)]
                paths.append("M" + "L".join([*upper, *lower]) + "Z")
        return "".join(paths)
