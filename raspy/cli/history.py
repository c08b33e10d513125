"""Shows how a value went: a plot on a terminal, else a table. Times are local time.

KEY is a key of the tree, as /device/pi.onewire.28-0316a279f2ff/temperature, or a part of it that only one key has.
FROM and TO are a time ago (90s, 30min, 24h, 7d, 4w, 1y), a date (2026-03-01), or a date and time (2026-03-01T18:30);
an offset from UTC may follow (2026-10-25T02:30+02:00), as the hour in which clocks go back is there twice.
A pause in the plot is one in the readings; nothing is drawn where nothing is known. What happened to the device
meanwhile is marked beneath (^), and so are alarms on the value (!); raspy events KEY shows all of it.
Exit code: 0 good, 1 no such history, or the logger does not answer.
"""

from __future__ import annotations

import re
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterator
from typing import Any

import msgspec

from raspy.cli.command import Request, UseError
from raspy.cli.logger import Logger
from raspy.cli.moments import local, moment
from raspy.cli.plot import LEAST_WIDTH, plot, terminal_width
from raspy.cli.table import duration, number, print_table
from raspy.common import MDP
from raspy.common.log import printable
from raspy.common.mdcliapi import MajorDomoClient

TABLE_POINTS = 40
MOST_POINTS = 2000
MOST_EVENTS = 1000
SHOWN_EVENTS = 5
"""Events that are listed beneath a chart."""
MOST_NAMED = 10
"""Keys that a message lists."""
COLUMNS = ("time", "mean", "minimum", "maximum", "good", "bad", "quality")
ROW_COLUMNS = ("time", "value", "quality")


class Chart(msgspec.Struct):
    """The answer to ``query``."""

    key: str
    unit: str
    since: float
    until: float
    level: float
    step: float
    points: list[tuple[float, float | None, float | None, float | None, int, int, str]]
    events: list[Any] = []
    """What happened to the device, and alarms on the key, the newest last; the logger answers it by itself."""
    more_events: bool = False


class Page(msgspec.Struct):
    """The answer to ``rows``."""

    key: str
    unit: str
    rows: list[tuple[float, float | None, str]]
    next: float | None
    skip: int


class Key(msgspec.Struct):
    """A value that has a history."""

    key: str
    unit: str


class Keys(msgspec.Struct):
    """The answer to ``keys``."""

    keys: list[Key]


def points(text: str) -> int:
    """How many points."""
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and 10 <= int(text) <= MOST_POINTS):
        raise ArgumentTypeError(f"{text!r} is no number from 10 to {MOST_POINTS}")
    return int(text)


def arguments(parser: ArgumentParser) -> None:
    """The value, the time, the form."""
    parser.add_argument("key", metavar="KEY", nargs="?", help="without it: the values that have a history")
    parser.add_argument("--since", metavar="FROM", type=moment, help="begin; default 24h")
    parser.add_argument("--until", metavar="TO", type=moment, help="end; default now")
    parser.add_argument("--points", metavar="N", type=points, help="so many points at most")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--plot", action="store_true", help="print a plot, into a file or pipe too")
    form.add_argument("--table", action="store_true", help="print a table, on a terminal too")
    form.add_argument("--csv", action="store_true", help="print comma-separated values; times are Unix times")
    parser.add_argument("--raw", action="store_true", help="with --csv or --json: every reading as it was kept")


def act(request: Request) -> Any:
    """Ask the logger; rows of a whole export are printed as they come."""
    words = request.arguments
    if words.raw and not (words.csv or request.json):
        raise UseError("--raw goes with --csv or --json")
    until = time.time() if words.until is None else words.until
    since = until - 86_400 if words.since is None else words.since
    if since > until:
        raise UseError(f"--since ({local(since)}) is after --until ({local(until)})")
    with MajorDomoClient(request.address) as client:
        bus = Logger(request, client)
        keys = bus.ask(Keys, "keys").keys
        if words.key is None:
            return keys
        key = find(words.key, [each.key for each in keys])
        if words.raw:
            _export(_pages(bus, key, since, until), words.csv and not request.json)
            return None
        count = words.points or (
            TABLE_POINTS if words.table and not request.json else MOST_POINTS if words.csv or request.json else 0
        )
        # Two dots beside each other make a column of the plot.
        count = count or max(2 * (terminal_width() - LEAST_WIDTH), TABLE_POINTS)
        chart = bus.ask(Chart, "query", key, repr(since), repr(until), str(count))
        if not words.csv:
            _add_events(bus, chart)
    if request.json:
        return chart
    plain = words.table or not (words.plot or sys.stdout.isatty())
    return (chart, "csv" if words.csv else "table" if plain else "plot")


def _add_events(bus: Logger, chart: Chart) -> None:
    """Add what happened meanwhile; a chart is there without it, too."""
    from raspy.cli.events import ask

    # A series of a unit that the key had before goes by both, and a unit may have a slash.
    key = chart.key if chart.key.startswith("/") else chart.key.removeprefix(f"({chart.unit}) ")
    if not key.startswith("/"):
        return
    try:
        chart.events, chart.more_events = ask(bus, key, chart.since, chart.until, MOST_EVENTS)
    except MDP.ClientError as error:
        print(f"raspy: what happened is not shown: {printable(str(error))}", file=sys.stderr)


def find(text: str, keys: list[str]) -> str:
    """The key that a text means: it, or the only one that the text is a part of.

    :raises raspy.common.MDP.ClientError: there is none, or there are several; the message names those that come near
    """
    text = text.removesuffix("…").removesuffix("...")
    if text in keys:
        return text
    found = [key for key in keys if text.lower() in key.lower()]
    # The others are those of units that keys had before.
    found = [key for key in found if key.startswith("/")] or found
    whole = [key for key in found if re.search(rf"(^|[/.]){re.escape(text.lower())}($|[/.])", key.lower())]
    if len(whole or found) == 1:
        return (whole or found)[0]
    if found:
        raise MDP.ClientError(f"{text!r} is a part of several: {_named(found)}")
    if not keys:
        raise MDP.ClientError(f"there is no history of {text!r}, nor of anything yet: log is a setting of a device")
    from difflib import get_close_matches

    names = {key.removeprefix("/device/"): key for key in keys}
    close = get_close_matches(text.removeprefix("/device/"), names, n=3, cutoff=0.5)
    hint = f"did you mean {_named([names[name] for name in close])}?" if close else f"there are {_named(keys)}"
    raise MDP.ClientError(f"there is no history of {text!r}; {hint}")


def _named(keys: list[str]) -> str:
    more = f" and {len(keys) - MOST_NAMED} more" if len(keys) > MOST_NAMED else ""
    return ", ".join(keys[:MOST_NAMED]) + more


def show(result: Any) -> None:
    """Print keys, or a chart as it was asked for."""
    if isinstance(result, list):
        print_table(["key", "unit"], [[each.key, each.unit] for each in result]) if result else print("no history yet")
    elif isinstance(result, tuple):
        chart, form = result
        {"csv": _print_csv, "table": _print_table, "plot": _print_plot}[form](chart)


def summary(chart: Chart) -> list[str]:
    """What there is in a few words: last, minimum, mean, maximum; bad readings; gaps."""
    good = [point for point in chart.points if point[1] is not None]
    unit = f" {printable(chart.unit)}" if chart.unit else ""
    lines = []
    if good:
        count = sum(point[4] for point in good)
        mean = sum((point[1] or 0.0) * (point[4] / count) for point in good)
        figures = (
            ("last", good[-1][1]),
            ("min", min(_figures(good, 2))),
            ("mean", mean),
            ("max", max(_figures(good, 3))),
        )
        word = "mean of the last" if chart.step else "last"
        lines.append(", ".join(f"{word if name == 'last' else name} {number(value)}{unit}" for name, value in figures))
    else:
        lines.append("no good reading in this time")
    bad = sum(point[5] for point in chart.points)
    kinds = sorted({point[6] for point in chart.points if point[5]})
    if bad:
        lines.append(f"{bad} readings were not good ({', '.join(map(printable, kinds))})")
    gaps = sum(point[6] == "gap" for point in chart.points)
    if gaps:
        lines.append(f"{gaps} {'times' if gaps > 1 else 'time'} nothing was logged for longer than expected")
    last = chart.points[-1] if chart.points else None
    if last is not None and last[1] is None:
        lines.append(f"nothing good since {local(good[-1][0])}" if good else "")
    return [line for line in lines if line]


def _figures(points: list[Any], place: int) -> Iterator[float]:
    return (point[place] for point in points)


def _head(chart: Chart) -> str:
    each = f"; each point {duration(chart.step)}" if chart.step else ""
    unit = f" in {printable(chart.unit)}" if chart.unit else ""
    return f"{printable(chart.key)}{unit}, {local(chart.since)} to {local(chart.until)}{each}"


def _print_plot(chart: Chart) -> None:
    print(_head(chart))
    marks = [(event.time, "!" if event.kind == "alarm" else "^") for event in chart.events]
    for line in plot([point[:4] for point in chart.points], chart.since, chart.until, chart.step, marks=marks):
        print(line)
    for line in summary(chart):
        print(line)
    _print_events(chart)


def _print_table(chart: Chart) -> None:
    print(_head(chart))
    heads = ["time", "mean", "min", "max", "readings", "bad", "quality"] if chart.step else ["time", "value", "quality"]
    rows = []
    for when, mean, low, high, good, bad, quality in chart.points:
        figures = [number(mean), number(low), number(high), str(good), str(bad)] if chart.step else [number(mean)]
        rows.append([local(when, seconds=True), *figures, quality])
    print_table(heads, rows)
    for line in summary(chart):
        print(line)
    _print_events(chart)


def _print_events(chart: Chart) -> None:
    """The last events of a chart, and how many there are."""
    if not chart.events:
        return
    from raspy.cli.events import show as show_events

    alarms = sum(event.kind == "alarm" for event in chart.events)
    others = len(chart.events) - alarms
    counts = [f"{others} ^ of the device"] * bool(others) + [f"{alarms} ! of alarms"] * bool(alarms)
    shown = "" if len(chart.events) <= SHOWN_EVENTS else f"; the last {SHOWN_EVENTS}"
    more = "the last " if chart.more_events else ""
    print(f"{more}{len(chart.events)} {'events' if len(chart.events) > 1 else 'event'}: {', '.join(counts)}{shown}")
    show_events(chart.events[-SHOWN_EVENTS:])


def _print_csv(chart: Chart) -> None:
    print(csv_line(COLUMNS))
    for point in chart.points:
        print(csv_line(point))


def csv_line(cells: Any) -> str:
    """One line of comma-separated values (RFC 4180), without its end."""
    return ",".join(_cell(cell) for cell in cells)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    text = str(value)
    if text[:1] in ("=", "+", "-", "@") and isinstance(value, str):
        text = "'" + text  # a spreadsheet would compute it
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\r\n') else text


def _pages(bus: Logger, key: str, since: float, until: float) -> Iterator[Page]:
    place: float | None = since
    skip = 0
    while place is not None:
        page: Page = bus.ask(Page, "rows", key, repr(place), repr(until), "10000", str(skip))
        yield page
        if page.next is not None and (page.next, page.skip) <= (place, skip):
            raise MDP.ClientError("the logger does not come to an end; its log may say why")
        place, skip = page.next, page.skip


def _export(pages: Iterator[Page], as_csv: bool) -> None:
    """Print readings page by page, so that any number fits into memory."""
    from raspy.cli import out

    first = True
    for page in pages:
        if first:
            out(csv_line(ROW_COLUMNS) if as_csv else _opening(page))
        if as_csv:
            lines = "\n".join(csv_line(row) for row in page.rows)
        else:
            lines = ",\n".join(msgspec.json.encode(row).decode() for row in page.rows)
            lines = f",\n{lines}" if lines and not first else lines
        if lines:
            out(lines) if as_csv else _write(lines)
        first = False
    if not as_csv:
        out("\n]}")


def _opening(page: Page) -> str:
    head = msgspec.json.encode({"key": page.key, "unit": page.unit}).decode()
    return f'{head[:-1]},"rows":['


def _write(text: str) -> None:
    from raspy.cli import OutputError

    try:
        sys.stdout.write(text)
    except OSError as error:
        raise OutputError(error) from error
