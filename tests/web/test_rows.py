"""What is shown of a key: current numbers as numbers, everything else as words, whatever the tree holds."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raspy.web import rows
from raspy.web.rows import KEY_LIMIT, TEXT_LIMIT, Held, Row, clock, duration, event_row, row, text
from tests.web.hand import TANK, reading

SERVER = "/server/pi1.onewire"


def shown(key: str, body: Any, live: bool = True) -> Row:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    now = time.monotonic()
    return row(Held(key, raw, now, time.time()), now, live)


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
NAMES += ["memory", "errors", "last_error", "conditions", "version", "event"]
WORDS = st.sampled_from(["ok", "stale", "error", "lost", "degraded"])
BODIES = st.binary(max_size=80) | st.dictionaries(st.sampled_from(NAMES), ANY_JSON | WORDS).map(
    lambda body: json.dumps(body).encode()
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(key=st.sampled_from([TANK, SERVER, "/event/a/b", "/x", ""]), body=BODIES, live=st.booleans())
def test_any_body_makes_a_row(key: str, body: bytes, live: bool) -> None:
    now = time.monotonic()
    held = Held(key, body, now, time.time())
    for result in (row(held, now + 1, live), event_row(held)):
        assert all(isinstance(cell, str) and len(cell) < 3000 for cell in result.cells.values())
        assert all(cell.isprintable() for cell in result.cells.values())
        json.dumps(result.update(), allow_nan=False)
    if not live and key == TANK:
        assert row(held, now, live).state in ("stale", "error")


def test_the_number_of_a_reading_is_only_shown_while_it_is_good() -> None:
    for quality in ("stale", "error", "", "OK"):
        assert shown(TANK, {"quality": quality, "value": 21.5, "unit": "°C"}).cells["value"] == rows.NOT_NOW
