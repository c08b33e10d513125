"""raspy events, and what raspy history marks: what a real output did, who told it, until when."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from raspy.cli import events, history, plot
from raspy.cli.events import Event, fits, pattern, row, until, what
from tests.support_processes import TOP, Appliance, environment, wait_for


@pytest.fixture(scope="module")
def kept() -> Iterator[Appliance]:
    """An appliance whose heater went on and off, by hand too, with an alarm on its power."""
    made = Appliance(["broker", "fake", "logger"])
    try:
        made.start()
        assert made.raspy("device", "edit", "heater", "log=true", "modes=feeding: off 10m").returncode == 0
        for words in (("power", "true", "--for", "10m"), ("power", "false"), ("mode", "on", "--for", "1h")):
            done = made.raspy("exec", "heater", *words)
            assert done.returncode == 0, done.stderr
        wait_for(
            "all of it", lambda: any(each["body"].get("mode") == "on" for each in made.json("events", "heater") or [])
        )
        yield made
    finally:
        made.destroy()


def told(appliance: Appliance, *words: str) -> list[dict[str, Any]]:
    return list(appliance.json("events", *words))


def test_a_table_says_who_why_and_until_when(kept: Appliance) -> None:
    done = kept.raspy("events", "heater", "--kind", "output")
    assert done.returncode == 0, done.stderr
    head, *lines = done.stdout.splitlines()
    assert head.split() == ["TIME", "KIND", "NAME", "WHAT", "BY", "UNTIL", "WHY"]
    by_hand = [line for line in lines if "on, mode on" in line]
    assert by_hand
    assert all("pi.fake.heater" in line for line in lines)
    assert any("(command line)" in line and "told" in line for line in by_hand)
    end = next(each["body"]["mode_end"] for each in told(kept, "heater") if each["body"].get("mode_end"))
    assert any(time.strftime("%H:%M:%S", time.localtime(end)) in line for line in by_hand)
    assert [line[:19] for line in lines] == sorted(line[:19] for line in lines), "the newest is last"


def test_the_last_ones_of_a_time_and_a_kind(kept: Appliance) -> None:
    every = told(kept)
    assert {"output", "server"} <= {each["kind"] for each in every}
    assert {each["kind"] for each in told(kept, "--kind", "output")} == {"output"}
    assert told(kept, "--count", "2") == every[-2:]
    assert told(kept, "--since", "1h", "heater") == told(kept, "output/*heater")
    assert told(kept, "--until", "1h") == []
    assert kept.raspy("events", "nothing-like-it").stdout == "nothing happened that is kept\n"
    device = told(kept, "/device/pi.fake.heater/power")
    assert device == told(kept, "--kind", "output", "heater")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--since=soon",), 2, "is no time"),
        (("--count=0",), 2, "no number from 1 to"),
        (("/device/x", "--kind=output"), 2, "do not go together"),
        (("--follow", "--until=1h"), 2, "do not go together"),
        (("--since=1h", "--until=2h"), 1, "is after until"),
    ],
)
def test_a_mistake_is_explained(kept: Appliance, words: tuple[str, ...], code: int, says: str) -> None:
    done = kept.raspy("events", *words)
    assert done.returncode == code
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_chart_marks_what_happened_beneath(kept: Appliance) -> None:
    key = "/device/pi.fake.heater/power"
    wait_for("a history", lambda: kept.raspy("history", key, "--json").returncode == 0)
    done = kept.raspy("history", key, "--plot", "--since=10min", COLUMNS="80", PYTHONIOENCODING="utf-8")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    axis = next(place for place, line in enumerate(lines) if "└" in line)
    assert set(lines[axis + 1]) == {" ", "^"}
    assert len(lines[axis + 1]) <= 80
    assert "^ of the device" in done.stdout
    assert any("on, mode on" in line for line in lines[axis:])
    chart = json.loads(kept.raspy("history", key, "--json").stdout)
    assert [each["name"] for each in chart["events"]] == ["pi.fake.heater"] * len(chart["events"])
    assert "events" in kept.raspy("history", key, "--table").stdout
    assert "TIME" not in kept.raspy("history", key, "--csv").stdout


def test_what_happens_is_followed(kept: Appliance) -> None:
    options = ["--follow", "--json", "--count", "1", "--config", str(kept.config)]
    words = [sys.executable, "-m", "raspy", "events", "pump", *options]
    lines: list[str] = []
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment(), cwd=TOP) as process:
        assert process.stdout is not None
        reader = threading.Thread(target=lambda: lines.extend(process.stdout or ()), daemon=True)
        reader.start()
        try:
            number = 0

            def has_followed() -> bool:
                # It is told again until the command has subscribed.
                nonlocal number
                number += 1
                power = "true" if number % 2 else "false"
                assert kept.raspy("exec", "pump", "power", power).returncode == 0
                return len(lines) >= 3

            wait_for("more than the one that it begins with", has_followed)
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        reader.join(30)
    found = [json.loads(line) for line in lines]
    assert {(each["kind"], each["name"]) for each in found} == {("output", "pi.fake.pump")}
    times = [each["time"] for each in found]
    assert times == sorted(set(times)), "each once"


def test_without_a_logger_it_says_so(appliance: Appliance) -> None:
    done = appliance.raspy("events")
    assert done.returncode == 1
    assert "the logger is not there" in done.stderr


# What is shown of an event


@pytest.mark.parametrize(
    ("kind", "body", "says"),
    [
        ("output", {"power": True, "state": "held"}, "on"),
        ("output", {"power": False, "state": "safe"}, "off"),
        ("output", {"level": 40.0, "state": "held", "mode": "night"}, "40 %, mode night"),
        ("output", {"state": "failed"}, "failed"),
        ("output", {"power": False, "state": "removed"}, "off, removed"),
        (
            "alarm",
            {"state": "active", "severity": "critical", "value": 31.25, "unit": "°C"},
            "critical active, 31.25 °C",
        ),
        ("alarm", {"state": "returned"}, "returned"),
        ("server", {"event": "lost", "reason": "killed"}, "lost"),
        ("press", {"time": 1, "press": "long"}, "press long"),
        ("contact", {"contact": True}, "contact true"),
        ("output", {"power": [1], "level": {}, "state": 5}, "{} %"),
    ],
)
def test_what_happened_is_a_word_or_two(kind: str, body: dict[str, Any], says: str) -> None:
    assert what(kind, body) == says


def test_until_when_it_holds() -> None:
    noon = time.mktime((2026, 3, 1, 12, 0, 0, 0, 0, -1))
    assert until(noon, {"state": "held", "lease": 60}) == "12:01:00"
    assert until(noon, {"state": "held", "lease": 86_400}) == "2026-03-02 12:00:00"
    assert until(noon, {"state": "held", "lease": 60, "mode_end": noon + 3600}) == "13:00:00"
    assert until(noon, {"until": noon + 5}) == "12:00:05"
    nothing: list[dict[str, Any]] = [{}, {"state": "safe", "lease": 60}, {"mode_end": 0}]
    nothing += [{"until": "soon"}, {"until": float("nan")}, {"mode_end": 10**400}, {"state": "held", "lease": 10**400}]
    for body in nothing:
        assert until(noon, body) == ""


@pytest.mark.parametrize("body", [None, [], "text", 5, {"reason": 5, "by": [], "state": {}, "value": {}}])
def test_any_body_makes_a_row(body: Any) -> None:
    for kind in ("output", "alarm", "x"):
        assert all(isinstance(cell, str) for cell in row(Event(0.0, kind, "x", body, 5)))
    assert row(Event(0.0, "x", "x", body, 5))[-1] == "5 before it are not kept"


def test_what_is_asked_for_fits_what_comes() -> None:
    assert [pattern("a", "k"), pattern("*a", "k"), pattern("", "k"), pattern("a", None)] == [
        "k/*[aA]*",
        "k/*a",
        "k/*",
        "a",
    ]
    for name, kind in (("/a", "k"), ("a", ""), ("", ""), ("", "a/b"), ("", "*")):
        with pytest.raises(events.UseError):
            pattern(name, kind)
    heater = Event(0.0, "output", "pi.fake.heater", {})
    every = ["", "HEAT", "output/*", "/device/pi.fake.heater", "/device/pi.fake.heater/power", "output/[^x]*"]
    for wanted in (*every, pattern("Heater", "output")):
        assert fits(wanted, heater)
    for wanted in ("pump", "alarm/*", "/device/pi.fake.heat", "output/[^p]*", "output/[!x]*"):
        assert not fits(wanted, heater)
    alarm = Event(0.0, "alarm", "x", {"key": "/device/pi.fake.tank/level"})
    assert fits("/device/pi.fake.tank/level", alarm)
    assert fits("/device/pi.fake.tank", alarm)
    assert not fits("/device/pi.fake.tank/lev", alarm)
    assert not fits("/device/hot", Event(0.0, "alarm", "hot", {})), "an alarm is no device"


def test_a_number_without_an_end_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON has whole numbers of any length; those of 400 digits are no time, and stop nothing."""
    huge = 10**400
    names = ("mode_end", "until", "lease", "level", "value", "time", "x")
    events.show([Event(1.0, kind, "x", {"state": "held", name: huge}) for name in names for kind in ("output", "x")])
    assert len(capsys.readouterr().out.splitlines()) == 15
    assert history.local(huge) == "an unknown time"
    assert not events._is_number(huge)


@pytest.mark.parametrize(
    ("key", "unit", "asked"),
    [
        ("/device/x/y", "", ["/device/x/y"]),
        ("(l/min) /device/x/y", "l/min", ["/device/x/y"]),
        ("(°F) /device/x/y", "°F", ["/device/x/y"]),
        ("(lost) 5", "", []),
    ],
)
def test_events_are_those_of_the_key_whatever_the_unit(key: str, unit: str, asked: list[str]) -> None:
    words: list[str] = []

    class Logger:
        def ask(self, kind: Any, verb: str, wanted: str, *_: str) -> Any:
            words.append(wanted)
            return events.Page([], None, 0)

    history._add_events(Logger(), history.Chart(key, unit, 0.0, 1.0, 0.0, 0.0, []))  # type: ignore[arg-type]
    assert words == asked


def test_marks_stand_in_their_places() -> None:
    marks = [(0.0, "^"), (5.0, "^"), (5.0, "!"), (5.01, "^"), (10.0, "^"), (-1.0, "!"), (11.0, "!")]
    assert plot.mark_line(marks, 0.0, 10.0, 11) == "^    !    ^"
    points = [(float(n), float(n), float(n), float(n)) for n in range(10)]
    lines = plot.plot(points, 0.0, 10.0, 1.0, 60, marks=marks)
    assert len(lines) == plot.HEIGHT + 3
    assert plot.plot([], 0.0, 10.0, 1.0, 60, marks=marks) == []


def test_a_logger_without_events_is_no_reason_to_show_no_chart(capsys: pytest.CaptureFixture[str]) -> None:
    class Old:
        def ask(self, *_: object) -> object:
            raise history.MDP.ClientError("pi.logger.log: unknown verb 'events'")

    chart = history.Chart("/device/x/y", "", 0.0, 1.0, 0.0, 0.0, [])
    history._add_events(Old(), chart)  # type: ignore[arg-type]
    assert chart.events == []
    assert "what happened is not shown" in capsys.readouterr().err
