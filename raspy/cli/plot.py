"""A plot in text: dots of braille, two beside and four above each other in a character, or plain signs.

Where there is no value nothing is drawn, and no line leads over it.
"""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Sequence

HEIGHT = 12
LEAST_WIDTH = 12
"""Columns for the numbers beside the plot."""
DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""Bits of a character by column and row (the Unicode Standard, Braille Patterns)."""
BRAILLE = 0x2800
Sample = Sequence[float | None]
"""When, mean, minimum, maximum; None where there is nothing."""


def terminal_width() -> int:
    """Columns to print in."""
    return max(40, min(shutil.get_terminal_size().columns, 200))


def can_braille() -> bool:
    """Whether the output takes other characters than ASCII."""
    return (sys.stdout.encoding or "").lower().replace("-", "") in ("utf8", "utf16", "utf32")


def plot(
    points: Sequence[Sample],
    since: float,
    until: float,
    step: float,
    width: int = 0,
    marks: Sequence[tuple[float, str]] = (),
) -> list[str]:
    """The lines of a plot.

    :param points: in order of time
    :param since: Unix time at its left
    :param until: at its right
    :param step: seconds that each point stands for; 0: it is a moment
    :param width: columns; 0: as wide as the terminal
    :param marks: when something happened, and the sign that says so beneath the plot; of several in one place the
        least sign is shown
    """
    width = width or terminal_width()
    numbers = [value for point in points for value in point[2:4] if value is not None]
    if not numbers or until <= since:
        return []
    low, high = min(numbers), max(numbers)
    labels = _labels(low, high)
    margin = max(map(len, labels)) + 1
    columns = max(width - margin - 1, 10)
    braille = can_braille()
    grid = _draw(points, since, until, step, low, high, columns * (2 if braille else 1), HEIGHT * (4 if braille else 1))
    lines = _as_braille(grid, columns) if braille else ["".join("*" if dot else " " for dot in row) for row in grid]
    edge = "│" if braille else "|"
    found = []
    for row, line in enumerate(lines):
        label = labels[0] if row == 0 else labels[2] if row == HEIGHT - 1 else labels[1] if row == HEIGHT // 2 else ""
        found.append(f"{label:>{margin - 1}} {edge}{line}".rstrip())
    found.append(" " * margin + ("└" + "─" * columns if braille else "+" + "-" * columns))
    if marks:
        found.append(" " * (margin + 1) + mark_line(marks, since, until, columns))
    found.append(" " * (margin + 1) + _time_axis(since, until, columns))
    return found


def mark_line(marks: Sequence[tuple[float, str]], since: float, until: float, columns: int) -> str:
    """A line with the signs of what happened in their places."""
    line = [" "] * columns
    for when, sign in marks:
        if since <= when <= until:
            place = min(int((when - since) / (until - since) * columns), columns - 1)
            line[place] = sign if line[place] == " " else min(line[place], sign)
    return "".join(line).rstrip()


def _draw(
    points: Sequence[Sample], since: float, until: float, step: float, low: float, high: float, width: int, height: int
) -> list[list[bool]]:
    """The dots: of each point the span from minimum to maximum, and a line to the one before."""
    grid = [[False] * width for _ in range(height)]
    scale = high - low

    def row(value: float) -> int:
        if scale == 0 or not math.isfinite(scale):
            return height // 2
        return round((high - value) / scale * (height - 1))

    def column(when: float) -> int:
        return min(width - 1, max(0, int((when - since) / (until - since) * width)))

    before: tuple[int, int] | None = None
    for when, mean, least, most in points:
        if when is None or mean is None or least is None or most is None:
            before = None
            continue
        at = column(when + step / 2), row(mean)
        for up in range(row(most), row(least) + 1):
            grid[up][at[0]] = True
        if before is not None:
            _line(grid, before, at)
        grid[at[1]][at[0]] = True
        before = at
    return grid


def _line(grid: list[list[bool]], begin: tuple[int, int], end: tuple[int, int]) -> None:
    steps = max(abs(end[0] - begin[0]), abs(end[1] - begin[1]), 1)
    for place in range(steps + 1):
        x = round(begin[0] + (end[0] - begin[0]) * place / steps)
        y = round(begin[1] + (end[1] - begin[1]) * place / steps)
        grid[y][x] = True


def _as_braille(grid: list[list[bool]], columns: int) -> list[str]:
    lines = []
    for top in range(0, len(grid), 4):
        line = []
        for left in range(0, 2 * columns, 2):
            bits = sum(DOTS[x][y] for x in (0, 1) for y in range(4) if grid[top + y][left + x])
            line.append(chr(BRAILLE + bits) if bits else " ")
        lines.append("".join(line))
    return lines


def _labels(low: float, high: float) -> tuple[str, str, str]:
    """Top, middle and bottom, with as many digits as tell them apart."""
    if low == high:
        return "", f"{low:.6g}", ""
    digits = 0
    if max(abs(low), abs(high)) < 1e6:
        digits = max(0, min(6, 2 - math.floor(math.log10(high - low))))
        return f"{high:.{digits}f}", f"{_middle(low, high):.{digits}f}", f"{low:.{digits}f}"
    return f"{high:.6g}", f"{_middle(low, high):.6g}", f"{low:.6g}"


def _middle(low: float, high: float) -> float:
    # As far below the top as the row is, of which the plot has an even number.
    part = (HEIGHT // 2 + 0.5) / HEIGHT
    return high * (1 - part) + low * part


def _time_axis(since: float, until: float, columns: int) -> str:
    """Begin, middle and end in local time, dates where there are several days."""
    span = until - since
    form = (
        "%H:%M:%S" if span < 600 else "%H:%M" if span < 80_000 else "%m-%d %H:%M" if span < 40 * 86_400 else "%Y-%m-%d"
    )
    begin, middle, end = (time.strftime(form, time.localtime(when)) for when in (since, (since + until) / 2, until))
    if columns < 3 * len(begin) + 4:
        return begin + end.rjust(columns - len(begin))
    left = columns // 2 - len(middle) // 2
    return (begin.ljust(left) + middle).ljust(columns - len(end)) + end
