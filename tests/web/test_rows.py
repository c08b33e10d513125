"""What is shown of a key: current numbers as numbers, everything else as words, whatever the tree holds."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from raspy.common.verbs import json_encode
from raspy.web import rows
from raspy.web.api import tree as tree_page
from raspy.web.board import Snapshot
from raspy.web.pages import home
from raspy.web.rows import Held, Row, event_row, row, urgency
from raspy.web.site import Site
from raspy.web.texts import KEY_LIMIT, TEXT_LIMIT, clock, duration, text
from raspy.web.visit import Visit
from raspy.web.words import Words
from tests.web.hand import TANK, reading

SERVER = "/server/pi1.onewire"
ALARM = "/alarm/hot"
HEATER = "/device/pi1.fake.heater"


def shown(key: str, body: Any, live: bool = True) -> Row:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    now = time.monotonic()
    held = Held(key, raw, now, time.time())
    return row(held, now, live, {key: held})


def test_a_good_reading_is_a_number_with_unit_and_age() -> None:
    good = shown(TANK, reading(21.0625, age=3))
    assert (good.state, good.cells["value"], good.cells["unit"]) == ("ok", "21.0625", "°C")
    assert good.cells["badge"] == "ok"
    assert good.age == pytest.approx(3, abs=1)
    assert good.label == "temperature"


def test_a_subdevice_is_named() -> None:
    assert shown("/device/pi1.fake.aquarium.tank/water_level", reading(80)).label == "tank water level"


def test_an_error_shows_its_reason_and_no_number() -> None:
    bad = shown(TANK, {"quality": "error", "reason": "CRC mismatch", "value": 85.0, "last": 85.0})
    assert bad.state == bad.cells["badge"] == "error"
    assert bad.cells["note"] == "CRC mismatch"
    assert "85" not in str(bad.cells)


def test_a_stale_reading_says_what_it_was_and_has_no_number_in_its_place() -> None:
    stale = shown(TANK, {"quality": "stale", "unit": "°C", "last": 20.5, "reason": "no news for 30 s"})
    assert (stale.state, stale.cells["value"], stale.cells["unit"]) == ("stale", "—", "")
    assert stale.cells["note"] == "was 20.5 °C; no news for 30 s"


def test_without_the_bus_nothing_is_current() -> None:
    stale = shown(TANK, reading(21.5), live=False)
    assert (stale.state, stale.cells["value"]) == ("stale", "—")
    assert stale.cells["note"] == "was 21.5 °C; the bus is not reachable"
    server = shown(SERVER, {"state": "ok", "time": 1.0}, live=False)
    assert (server.state, server.cells["badge"]) == ("stale", "unknown")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"not JSON",
        b"[1,2]",
        b"12.5",
        b'{"value": 12.5}',
        b'{"quality": "ok"}',
        b'{"quality": "ok", "value": null}',
        b'{"quality": "perfect", "value": 12.5}',
        b'{"quality": ["ok"], "value": 12.5}',
        b"[" * 100_000,
        b'{"quality": "ok", "value": 1e999}',
    ],
)
def test_a_body_that_is_no_reading_is_an_error(body: bytes) -> None:
    bad = shown(TANK, body)
    assert bad.state == "error"
    assert bad.cells["value"] == "—"
    assert bad.cells["note"].startswith("unreadable")


def test_an_old_clock_makes_no_reading_young() -> None:
    """The wall clock was set by years between two looks; the age follows the monotonic clock."""
    held = Held(TANK, json.dumps(reading(20) | {"time": 1000.0}).encode(), arrived=50.0, wall=1010.0)
    assert held.age_at(55.0) == 15.0
    ahead = Held(TANK, json.dumps(reading(20) | {"time": 2000.0}).encode(), arrived=50.0, wall=1010.0)
    assert ahead.age_at(55.0) == 5.0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (21.0625, "21.0625"),
        (-0.3125, "-0.3125"),
        (21.0, "21"),
        (24.738294, "24.7383"),
        (-0.00001, "-1e-05"),
        (0.0, "0"),
        (-0.0, "0"),
        (1013.25, "1013.25"),
        (3.5e20, "3.5e+20"),
        (7, "7"),
        (10**30, "1e+30"),
        (10**500, "a number too large to show"),
        (True, "on"),
        (False, "off"),
        ("feeding", "feeding"),
        ({"a": [1]}, '{"a":[1]}'),
    ],
)
def test_values_read_well(value: Any, expected: str) -> None:
    assert text(value) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-1, "0 s"),
        (0, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (200_000, "2 d"),
    ],
)
def test_durations_read_well(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


@pytest.mark.parametrize(
    ("state", "looks"), [("running", "ok"), ("idle", "ok"), ("waiting", "stale"), ("paused", "error"), ("odd", "stale")]
)
def test_a_scenario_tells_its_state_and_why(state: str, looks: str) -> None:
    body = {"state": state, "reason": "water: it was unplugged", "since": 1e9, "runs": 1, "failures": 3}
    told = shown("/scenario/thermostat", body)
    assert (told.label, told.state) == ("thermostat", looks)
    assert (told.cells["badge"], told.cells["story"]) == (state, "water: it was unplugged")
    assert told.cells["facts"].endswith("1 run · 3 failures")


def test_nobody_knows_of_a_scenario_without_the_bus() -> None:
    told = shown("/scenario/thermostat", {"state": "running"}, live=False)
    assert (told.state, told.cells["badge"]) == ("stale", "unknown")


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b'{"state": 5}', b'{"state": ""}'])
def test_a_scenario_that_says_nonsense_is_an_error(body: bytes) -> None:
    told = shown("/scenario/thermostat", body)
    assert told.state == "error"
    assert told.cells["story"].startswith("unreadable: ")


def test_a_server_tells_what_happened() -> None:
    now = time.time()
    back = shown(
        SERVER,
        {"state": "ok", "time": now, "restarts": 1, "last_down": {"time": now - 2, "reason": "killed"}},
    )
    assert back.cells["story"] == f"was lost (killed) at {clock(now - 2)} and is back since {clock(now)}"
    assert "1 restart" in back.cells["facts"]
    lost = shown(SERVER, {"state": "lost", "time": now, "last_down": {"time": now, "reason": "killed"}})
    assert (lost.state, lost.cells["story"]) == ("lost", f"lost (killed) since {clock(now)}")
    silent = shown(SERVER, {"state": "silent", "time": now, "last_down": {"time": 5, "reason": "killed"}})
    assert silent.cells["story"] == f"silent since {clock(now)}"
    stopped = shown(SERVER, {"state": "stopped", "time": now, "last_down": {"time": now, "reason": "it was stopped"}})
    assert stopped.cells["story"] == f"stopped since {clock(now)}"
    well = shown(SERVER, {"state": "ok", "time": now, "uptime": 7200, "memory": 8_250_000, "last_down": None})
    assert well.cells["story"] == ""
    assert "up for 2 h" in well.cells["facts"]
    assert "8.2 MB" in well.cells["facts"]
    ill = shown(SERVER, {"state": "degraded", "conditions": {"bus": "no bus"}, "last_error": "poll: no"})
    assert ill.cells["trouble"] == "bus: no bus; last error: poll: no"


def of_an_output(mode: str, end: float, event: dict[str, Any] | None = None, live: bool = True) -> Row:
    now = time.monotonic()
    bodies: dict[str, Any] = {
        HEATER + "/mode": {"value": mode, "quality": "ok"},
        HEATER + "/mode_end": {"value": end, "quality": "ok"},
    }
    if event is not None:
        bodies["/event/output/pi1.fake.heater"] = event
    tree = {key: Held(key, json.dumps(body).encode(), now, time.time()) for key, body in bodies.items()}
    return row(tree[HEATER + "/mode"], now, live, tree)


def test_a_mode_tells_until_when_and_by_whom() -> None:
    end = time.time() + 600
    shown = of_an_output("feeding", end, {"mode": "feeding", "by": "ada (command line)", "mode_end": end})
    assert (shown.state, shown.label, shown.cells["value"]) == ("manual", "mode", "feeding")
    assert shown.cells["note"] == f"until {clock(end)}, by ada (command line)"
    # What is told of another mode is told of another mode.
    assert of_an_output("off", end, {"mode": "feeding", "by": "ada"}).cells["note"] == f"until {clock(end)}"
    assert of_an_output("off", 0).cells["note"] == ""
    auto = of_an_output("auto", 0, {"mode": "auto", "by": "ada"})
    assert (auto.state, auto.cells["value"], auto.cells["note"]) == ("ok", "auto", "")
    assert of_an_output("off", end, live=False).state == "stale"


def test_a_mode_of_what_is_no_output_is_a_value() -> None:
    assert shown(HEATER + "/mode", {"value": "eco", "quality": "ok"}).state == "ok"


def an_alarm(name: str = "hot", **body: Any) -> Held:
    told = {"state": "active", "severity": "warning", "label": "Tank", "since": 1e9, **body}
    return Held(f"/alarm/{name}", json.dumps(told).encode(), time.monotonic(), time.time())


def test_an_alarm_tells_what_and_why() -> None:
    told = shown(ALARM, {
        "state": "active", "severity": "critical", "label": "Tank too hot", "value": 31.25, "unit": "°C",
        "reason": "above 30 °C", "since": time.time() - 60, "by": "ada",
    })  # fmt: skip
    assert (told.label, told.state, told.cells["badge"]) == ("Tank too hot", "error", "active")
    assert told.cells["story"] == "above 30 °C: 31.25 °C"
    assert told.cells["facts"].startswith("critical · since ")
    assert told.cells["facts"].endswith("by ada")
    assert shown(ALARM, {"state": "acknowledged", "severity": "critical"}).state == "ok"
    assert shown(ALARM, {"state": "active", "severity": "warning"}).state == "stale"
    assert shown(ALARM, {"state": "active"}).state == "error"
    assert shown(ALARM, {"state": "active"}, live=False).cells["badge"] == "unknown"
    assert shown(ALARM, {"state": "odd"}).cells["story"].startswith("unreadable")
    assert shown(ALARM, {"state": "active"}).label == "hot"


def test_the_worst_alarm_is_first() -> None:
    order = [
        an_alarm("a", severity="critical", since=5),
        an_alarm("b", severity="critical", since=4),
        an_alarm("c", severity="critical", state="returned", since=9),
        an_alarm("d", since=9),
        an_alarm("e", severity="info", since=9),
        an_alarm("f", severity="critical", state="acknowledged", since=8),
        an_alarm("g", severity="critical", state="shelved", since=9),
        an_alarm("h", severity="info", state="acknowledged", since=9),
    ]
    shuffled = order[::-1]
    assert sorted(shuffled, key=urgency) == order
    assert urgency(Held("/alarm/x", b"{", 0, 0))[:3] == (False, 0, 0)


def test_an_event_tells_what_happened() -> None:
    now = time.time()
    event = event_row(
        Held(
            "/event/server/pi1.onewire",
            json.dumps({"time": now, "event": "lost", "reason": "killed"}).encode(),
            0,
            now,
        )
    )
    assert event.label == "server pi1.onewire"
    assert (event.cells["when"], event.cells["what"]) == (clock(now), "lost (killed)")
    plain = event_row(Held("/event/x/y", b'{"time": 1, "level": 3}', 0, now))
    assert plain.cells["what"] == "level 3"


def test_text_is_bounded_and_printable() -> None:
    other = shown("/variable/" + "k" * 5000, b"v" * 1_000_000)
    assert len(other.label) == KEY_LIMIT + 1
    assert len(other.cells["value"]) == TEXT_LIMIT + 1
    assert shown("/variable/x", "a‮b\nc\x00".encode()).cells["value"] == "a·b·c·"
    assert shown("/variable/x", ("é" * 2000).encode()).cells["value"] == "é" * TEXT_LIMIT + "…"
    assert shown("/variable/x", b"\xff\xfe").cells["value"] == "2 bytes that are not text"


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=5), inside, max_size=4),
    max_leaves=6,
)
NAMES = ["value", "unit", "time", "quality", "reason", "last", "state", "last_down", "uptime", "restarts"]
NAMES += [
    "severity",
    "label",
    "since",
    "until",
    "by",
    "memory",
    "errors",
    "last_error",
    "conditions",
    "version",
    "event",
]
NAMES += ["mode", "power", "runs", "failures", "key"]
WORDS = st.sampled_from(
    ["ok", "stale", "error", "lost", "degraded", "running", "active", "returned", "shelved", "warning", "auto", "off"]
)
HUGE = st.sampled_from([10**30, -(10**400), 10**4200, 1e15, 2**63])
DEEP = st.integers(1, 1200).map(lambda depth: b'{"value":' + b"[" * depth + b"]" * depth + b',"state":"ok","event":1}')
BODIES = (
    st.binary(max_size=80)
    | DEEP
    | st.dictionaries(st.sampled_from(NAMES), ANY_JSON | WORDS | HUGE).map(lambda body: json.dumps(body).encode())
)
KEYS = [TANK, SERVER, ALARM, "/alarm/cold", "/event/a/b", "/event/output/pi1.fake.heater", "/x", "/scenario/a", ""]
KEYS += [f"{HEATER}/mode", f"{HEATER}/mode_end", f"{HEATER}/power"]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(key=st.sampled_from(KEYS), body=BODIES, live=st.booleans())
def test_any_body_makes_a_row(key: str, body: bytes, live: bool) -> None:
    now = time.monotonic()
    held = Held(key, body, now, time.time())
    for result in (row(held, now + 1, live, {key: held}), event_row(held)):
        assert all(isinstance(cell, str) and len(cell) < 3000 for cell in result.cells.values())
        assert all(cell.isprintable() for cell in result.cells.values())
        json.dumps(result.update(), allow_nan=False)
    if not live and key == TANK:
        assert row(held, now, live, {key: held}).state in ("stale", "error")


class Page:
    """The page of a tree, as it is rendered; without HTTP around it."""

    def __init__(self) -> None:
        self.board: Any = type("Board", (), {"ask": lambda self, function: function(), "snapshot": lambda self: None})()
        nothing: Any = None
        self.site = Site(self.board, nothing, nothing, "pi1")

    def render(self, tree: dict[str, bytes], live: bool, words: Words = rows.ENGLISH) -> str:
        held = {key: Held(key, body, time.monotonic(), time.time()) for key, body in tree.items()}
        events = tuple(each for key, each in held.items() if key.startswith("/event/"))
        taken = Snapshot("1-1", "live" if live else "lost", time.monotonic(), held, events, 0)
        self.board.snapshot = lambda: taken
        visit = Visit({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, words)
        assert set(json.loads(json_encode(tree_page.tree(self.site, visit)))["tree"]) == set(tree)
        return home.home(self.site, visit).decode()


PAGE = Page()


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tree=st.dictionaries(st.sampled_from([key for key in KEYS if key]), BODIES, max_size=12), live=st.booleans())
@example(tree={ALARM: b'{"state": "active", "severity": {"a": 1}}', "/alarm/cold": b'{"severity": []}'}, live=True)
@example(tree={TANK: b'{"quality": "ok", "value": ' + b"9" * 4000 + b"}"}, live=False)
def test_any_tree_makes_a_page(tree: dict[str, bytes], live: bool) -> None:
    shown = PAGE.render(tree, live)
    for key in tree:
        if not key.startswith("/event/") and not (key == f"{HEATER}/mode_end" and f"{HEATER}/mode" in tree):
            assert f'data-key="{key}"' in shown


def test_an_alarm_of_unknown_severity_is_critical() -> None:
    for severity in ({"a": 1}, [], 5, None, "odd"):
        assert shown(ALARM, {"state": "active", "severity": severity}).cells["facts"] == "critical"
        assert urgency(an_alarm(severity=severity))[1] == 0


def test_the_number_of_a_reading_is_only_shown_while_it_is_good() -> None:
    for quality in ("stale", "error", "", "OK"):
        assert shown(TANK, {"quality": quality, "value": 21.5, "unit": "°C"}).cells["value"] == rows.NOT_NOW


def test_rows_are_in_the_language_of_whoever_looks() -> None:
    said = []

    class Shouting(Words):
        __slots__ = ()

        def __call__(self, text: str, **values: Any) -> str:
            said.append(text)
            return super().__call__(text, **values).upper()

    words = Shouting("en")
    now = time.monotonic()
    server = {"state": "lost", "time": 1.0, "last_down": {"time": 1.0, "reason": "killed"}, "restarts": 2, "errors": 3}
    tree = {
        TANK: {"quality": "stale", "last": 5},
        SERVER: server,
        ALARM: {"state": "active", "severity": "warning", "since": 1.0},
        "/scenario/heating": {"state": "running", "runs": 3},
    }
    held = {key: Held(key, json.dumps(body).encode(), now, time.time()) for key, body in tree.items()}
    shown = {key: row(each, now, True, held, words) for key, each in held.items()}
    assert shown[TANK].cells["note"] == "WAS 5; NO NEWS"
    assert shown[TANK].cells["badge"] == "STALE"
    assert shown[SERVER].cells["story"].startswith("LOST (KILLED) SINCE")
    assert "2 RESTARTS" in shown[SERVER].cells["facts"]
    assert shown[ALARM].cells["facts"].startswith("WARNING · SINCE")
    assert shown["/scenario/heating"].cells["badge"] == "RUNNING"
    assert "was {value}" in said
    # What decides the looks is no text.
    assert {each.state for each in shown.values()} == {"stale", "lost", "ok"}
