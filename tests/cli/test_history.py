"""raspy history: plots, tables and exports of a real logger, and the plot by itself."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
import time
from argparse import ArgumentTypeError
from collections.abc import Iterator
from pathlib import Path

import pytest

from raspy.cli import history, moments, plot
from raspy.common import MDP
from tests.servers.logger_stage import KEY, Book
from tests.support_devices import short_directory
from tests.support_processes import TOP, Appliance, environment, wait_for
from tests.support_titanic import ask, site

OTHER = "/device/pi.onewire.28-0316a279f2ff/temperature"
THIRD = "/device/pi.fake.tank/level"
MINUTES = 600
HOLE = range(300, 400)


def late(key: str, when: float, value: float | None, unit: str = "°C") -> list[object]:
    return [key, when, None, value, "ok" if value is not None else "error", 90, unit]


@pytest.fixture(scope="module")
def kept() -> Iterator[tuple[Appliance, float]]:
    """An appliance with ten hours of history, a hole in it, and when it begins."""
    made = Appliance(["broker", "logger"])
    begin = time.time() // 3600 * 3600 - MINUTES * 60
    rows = [late(KEY, begin + m * 60, 20 + m % 60 / 16) for m in range(MINUTES) if m not in HOLE]
    rows += [late(OTHER, begin + m * 60, 5.0) for m in range(10)] + [late(OTHER, begin + 600, None)]
    rows += [late(THIRD, begin, 1e9, "m³")]
    try:
        made.start()
        text = json.dumps({"host": "pi", "boot": "1", "trusted": True, "rows": rows})
        assert made.json("call", "pi.logger.log", "append", text)["frames"][0]["kept"] == len(rows)
        yield made, begin
    finally:
        made.destroy()


def span(begin: float, minutes: float = MINUTES) -> list[str]:
    """The options that ask for the ten hours, or the first minutes of them."""
    form = "%Y-%m-%dT%H:%M:%S"
    return [
        f"--since={time.strftime(form, time.localtime(begin))}",
        f"--until={time.strftime(form, time.localtime(begin + minutes * 60))}",
    ]


def test_a_plot_fits_80_columns_and_leaves_a_gap_empty(kept: tuple[Appliance, float]) -> None:
    appliance, begin = kept
    done = appliance.raspy("history", KEY, "--plot", *span(begin), COLUMNS="80", PYTHONIOENCODING="utf-8")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert KEY in lines[0]
    drawn = [line for line in lines if "│" in line]
    assert len(drawn) == plot.HEIGHT
    assert max(map(len, drawn)) <= 80
    edge = drawn[0].index("│") + 1
    width = 80 - edge
    used = {edge + i for line in drawn for i, sign in enumerate(line[edge:]) if sign != " "}
    hole = range(edge + round(width * 0.52), edge + round(width * 0.65))
    assert not used & set(hole), "nothing is drawn where nothing is known"
    assert {edge + 2, edge + width // 4, edge + width * 5 // 6} <= used
    assert lines[-2].startswith("last 2") or "mean of the last 2" in lines[-2], lines
    assert "max 23.6875 °C" in done.stdout
    assert "1 time nothing was logged for longer than expected" in done.stdout


def test_a_plot_without_unicode_is_plain(kept: tuple[Appliance, float]) -> None:
    appliance, begin = kept
    done = appliance.raspy("history", OTHER, "--plot", *span(begin), PYTHONIOENCODING="ascii:replace", COLUMNS="80")
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert "*" in done.stdout
    assert "1 readings were not good (error)" in done.stdout
    assert "nothing good since" in done.stdout


def test_a_table_says_what_was_not_good(kept: tuple[Appliance, float]) -> None:
    appliance, begin = kept
    done = appliance.raspy("history", OTHER, "--table", *span(begin, 20))
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[2:14]]
    assert [row[-1] for row in rows[:12]] == ["ok"] * 10 + ["error", "gap"]
    assert [row[2] for row in rows[:12]] == ["5"] * 10 + ["-", "-"]
    assert done.stdout.splitlines()[-1].startswith("nothing good since")


def test_times_are_local(kept: tuple[Appliance, float]) -> None:
    appliance, begin = kept
    outs = []
    for zone in ("UTC0", "XYZ-5:45"):
        words = ("history", OTHER, "--table", "--since=20h")
        done = appliance.raspy(*words, TZ=zone)
        outs.append(done.stdout.splitlines()[2].split()[:2])
    gmt = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(begin)).split()
    nepal = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(begin + 5.75 * 3600)).split()
    assert outs == [gmt, nepal]


def test_programs_get_json_and_csv(kept: tuple[Appliance, float]) -> None:
    appliance, begin = kept
    chart = json.loads(appliance.raspy("history", KEY, "--json", *span(begin)).stdout)
    assert chart["key"] == KEY
    assert sum(point[4] for point in chart["points"]) == MINUTES - len(HOLE)
    found = list(csv.DictReader(io.StringIO(appliance.raspy("history", KEY, "--csv", *span(begin)).stdout)))
    assert [float(row["time"]) for row in found] == [point[0] for point in chart["points"]]
    assert [row["mean"] for row in found if row["quality"] == "gap"] == [""]


@pytest.mark.parametrize("form", ["--csv", "--json"])
def test_every_reading_is_exported(kept: tuple[Appliance, float], form: str) -> None:
    appliance, begin = kept
    done = appliance.raspy("history", KEY, "--raw", form, *span(begin))
    assert done.returncode == 0, done.stderr
    wanted = [(begin + m * 60, 20 + m % 60 / 16, "ok") for m in range(MINUTES) if m not in HOLE]
    if form == "--json":
        whole = json.loads(done.stdout)
        assert (whole["key"], whole["unit"]) == (KEY, "°C")
        assert [tuple(row) for row in whole["rows"]] == wanted
    else:
        rows = list(csv.DictReader(io.StringIO(done.stdout)))
        assert [(float(row["time"]), float(row["value"]), row["quality"]) for row in rows] == wanted
    empty = appliance.raspy("history", KEY, "--raw", form, "--since=2001-01-01", "--until=2001-01-02")
    assert empty.returncode == 0
    if form == "--json":
        assert json.loads(empty.stdout)["rows"] == []
    else:
        assert empty.stdout == "time,value,quality\n"


def test_keys_are_listed_and_found_by_a_part(kept: tuple[Appliance, float]) -> None:
    appliance, begin = kept
    assert {row["key"] for row in appliance.json("history")} == {KEY, OTHER, THIRD}
    assert KEY in appliance.raspy("history").stdout
    for part in ("onewire.28-031655c9d5ff", "28-0316a", "tank", "level", "28-0316a279f2ff…"):
        assert appliance.json("history", part, *span(begin))["key"] in (KEY, OTHER, THIRD)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("28-0316",), 1, f"is a part of several: {KEY}, {OTHER}"),
        (("fake.tnak/level",), 1, f"did you mean {THIRD}?"),
        (("nothing-at-all-like-it",), 1, "there are /device/"),
        (("tank", "--since=1h", "--until=2h"), 2, "is after --until"),
        (("tank", "--since=yesterday"), 2, "is no time: a time ago as 24h"),
        (("tank", "--points=5"), 2, "no number from 10 to 2000"),
        (("tank", "--raw"), 2, "--raw goes with --csv or --json"),
        (("tank", "--csv", "--table"), 2, "not allowed with"),
    ],
)
def test_a_mistake_is_explained(kept: tuple[Appliance, float], words: tuple[str, ...], code: int, says: str) -> None:
    done = kept[0].raspy("history", *words)
    assert done.returncode == code
    assert done.stdout == ""
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_a_good_reading_no_plot_is_drawn(kept: tuple[Appliance, float]) -> None:
    appliance, begin = kept
    before = time.strftime("--until=%Y-%m-%dT%H:%M:%S", time.localtime(begin - 3600))
    done = appliance.raspy("history", KEY, "--plot", before, PYTHONIOENCODING="utf-8")
    assert done.returncode == 0
    assert done.stdout.splitlines()[1:] == ["no good reading in this time"]


def test_without_a_logger_it_says_so(appliance: Appliance) -> None:
    done = appliance.raspy("history", "tank")
    assert done.returncode == 1
    assert "the logger is not there" in done.stderr


@pytest.mark.parametrize(
    ("cells", "line"),
    [
        ((1.0, None, "ok"), "1,,ok"),
        ((0.1, -2.5, 'a "b"'), '0.1,-2.5,"a ""b"""'),
        (("a,b", "c\nd", "e\r"), '"a,b","c\nd","e\r"'),
        (("=1+1", "@x", 1e300), "'=1+1,'@x,1e+300"),
        ((1700000000.125, 12, ""), "1700000000.125,12,"),
    ],
)
def test_csv_is_escaped(cells: tuple[object, ...], line: str) -> None:
    assert history.csv_line(cells) == line


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("berlin")
def test_the_hour_that_is_there_twice_says_which_it_is() -> None:
    back = 1792890000  # 2026-10-25 01:00 UTC
    for shift, text in (
        (-3601, "2026-10-25 01:59:59"),
        (-3600, "2026-10-25 02:00:00 +0200"),
        (-1, "2026-10-25 02:59:59 +0200"),
        (0, "2026-10-25 02:00:00 +0100"),
        (3599, "2026-10-25 02:59:59 +0100"),
        (3600, "2026-10-25 03:00:00"),
        (-182 * 86_400, "2026-04-26 03:00:00"),
    ):
        assert moments.local(back + shift, seconds=True) == text
        assert moments.moment(text) == back + shift
    assert moments.local(back) == "2026-10-25 02:00 +0100"
    assert moments.moment("2026-10-25T02:00+01:00") == moments.moment("2026-10-25T01:00Z") == back


def test_the_series_of_a_unit_that_a_key_had_is_found_by_its_name() -> None:
    keys = [f"(°F) {KEY}", KEY, OTHER]
    assert history.find(KEY, keys) == history.find("28-031655c9d5ff", keys) == KEY
    assert history.find("(°F) /device/pi", keys) == history.find(keys[0], keys) == keys[0]


@pytest.mark.parametrize("text", ["1", "h", "-1h", "1e3s", "24 h", "9999999d", "2026-13-01", "nan", "²d", ""])
def test_a_time_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError):
        moments.moment(text)


def test_times_are_understood() -> None:
    assert abs(time.time() - 5400 - moments.moment("1.5h")) < 5
    assert abs(time.time() - 7 * 86400 - moments.moment("7d")) < 5
    assert moments.moment("999999y") == 0
    assert moments.moment("2026-03-01T18:30") == time.mktime((2026, 3, 1, 18, 30, 0, 0, 0, -1))
    assert moments.moment("2026-03-01") == time.mktime((2026, 3, 1, 0, 0, 0, 0, 0, -1))


@pytest.mark.parametrize(
    "points",
    [
        [],
        [(0.0, 1.0, 1.0, 1.0)],
        [(0.0, 1e308, 1e308, 1e308), (5.0, -1e308, -1e308, -1e308)],
        [(float(n), n * 1e-9 + 1e6, n * 1e-9 + 1e6, n * 1e-9 + 1e6) for n in range(10)],
        [(-50.0, 1.0, 1.0, 2.0), (500.0, 2.0, 2.0, 2.0)],
        [(1.0, None, None, None)],
        [(0.0, 5e-324, 0.0, 5e-324)],
    ],
)
@pytest.mark.parametrize("width", [20, 80, 200])
def test_any_values_are_plotted(points: list[plot.Sample], width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for can in (True, False):
        monkeypatch.setattr(plot, "can_braille", lambda can=can: can)
        lines = plot.plot(points, 0.0, 10.0, 1.0, width)
        assert bool(lines) == any(point[1] is not None for point in points)
        assert all(len(line) <= max(width, 40) for line in lines[: plot.HEIGHT])


def test_a_spike_between_points_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot, "can_braille", lambda: False)
    points = [(float(n), 10.0, 10.0, 90.0 if n == 5 else 10.0) for n in range(10)]
    lines = plot.plot(points, 0.0, 10.0, 1.0, 60)
    assert "*" in lines[0]
    assert "*" in lines[plot.HEIGHT - 1]
    assert lines[0].strip().startswith("90")


ROWS = 1_000_000


WATCHED = """
import atexit, runpy, sys
atexit.register(lambda: sys.stderr.write(open("/proc/self/status").read()))
runpy.run_module("raspy", run_name="__main__")
"""
"""Says at its end how much memory it had at most; ru_maxrss begins with that of the process that started it."""


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.soak
def test_a_million_readings_are_exported_in_little_memory() -> None:
    with short_directory() as directory:
        book = Book(Path(directory))
        begin = int(time.time()) // 86_400 * 86_400 - 40 * 86_400
        for number in range(ROWS):
            book.log(begin + number * 3.0, number / 16)
            if number % 20_000 == 0:
                book.flush()
        book.stop()
        with site(directory) as here:
            here.broker()
            process = here.server("logger", STATE_DIRECTORY=directory)
            wait_for("the logger", lambda: ask(here.address, b"pi.logger.log", b"keys")[-1] == MDP.OK)
            before = process.memory()[1]
            words = [
                sys.executable,
                "-c",
                WATCHED,
                "history",
                KEY,
                "--raw",
                "--csv",
                "--since=41d",
                "--config",
                here.config,
            ]
            out = Path(here.directory, "rows.csv")
            with open(out, "wb") as file:
                done = subprocess.run(
                    words, stdout=file, stderr=subprocess.PIPE, env=environment(), cwd=TOP, check=False, text=True
                )
            assert done.returncode == 0
            used = re.search(r"^VmHWM:\s+(\d+) kB$", done.stderr, re.M)
            assert used is not None
            lines = out.read_text().splitlines()
            assert len(lines) == ROWS + 1
            assert lines[1].endswith(",0,ok")
            assert lines[-1] == f"{begin + (ROWS - 1) * 3},{(ROWS - 1) / 16},ok"
            assert int(used[1]) < 60 << 10, "KiB of the command"
            assert process.memory()[1] - before < 25 << 20, "of the logger"
