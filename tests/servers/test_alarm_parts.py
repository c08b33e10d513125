"""The parts of the alarm server without a loop: states, patterns, causes and shelves."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raspy.servers.alarm import shelves
from raspy.servers.alarm.alarms import ACKNOWLEDGED, ACTIVE, NORMAL, RETURNED, SHELVED, Alarm, Shelf
from raspy.servers.alarm.causes import judge
from raspy.servers.alarm.rules import AlarmSettings, Rule, built_in, fits, named, parse
from raspy.servers.alarm.store import decode, encode
from tests.servers.alarm_stage import Watch

KEY = "/device/pi.probe.water/temperature"


def alarm(**settings: Any) -> Alarm:
    return Alarm("hot", Rule("hot", AlarmSettings(kind="high", key=KEY, limit=28.0, **settings), False), KEY)


def shelf() -> Shelf:
    return Shelf(60.0, "b", 60.0, 60.0, True)


STEPS = {
    "rise": lambda one: one.rise(1.0, "°C", "so"),
    "fall": lambda one: one.fall(0.0, "°C", ""),
    "forget": lambda one: one.fall(0.0, "°C", "", forget=True),
    "acknowledge": lambda one: one.acknowledge("anna", False),
    "latched": lambda one: one.acknowledge("anna", True),
    "shelve": lambda one: one.shelve(shelf(), "anna"),
    "unshelve": lambda one: one.unshelve("anna"),
}


@pytest.mark.parametrize(
    ("steps", "states"),
    [
        ("rise acknowledge fall", [ACTIVE, ACKNOWLEDGED, NORMAL]),
        ("rise fall acknowledge", [ACTIVE, RETURNED, NORMAL]),
        ("rise fall rise", [ACTIVE, RETURNED, ACTIVE]),
        ("rise acknowledge fall rise", [ACTIVE, ACKNOWLEDGED, NORMAL, ACTIVE]),
        ("rise forget", [ACTIVE, NORMAL]),
        ("rise latched", [ACTIVE, NORMAL]),
        ("acknowledge", [NORMAL]),
        ("rise shelve fall unshelve", [ACTIVE, SHELVED, SHELVED, NORMAL]),
        ("shelve rise unshelve acknowledge", [SHELVED, SHELVED, ACTIVE, ACKNOWLEDGED]),
        ("rise acknowledge shelve acknowledge unshelve", [ACTIVE, ACKNOWLEDGED, SHELVED, SHELVED, ACTIVE]),
        ("rise fall shelve unshelve", [ACTIVE, RETURNED, SHELVED, NORMAL]),
    ],
)
def test_the_states(steps: str, states: list[str]) -> None:
    one, found = alarm(), []
    for step in steps.split():
        STEPS[step](one)
        found.append(one.state)
    assert found == states


@given(st.lists(st.sampled_from(sorted(STEPS)), max_size=12))
def test_any_steps_lead_to_a_state_that_can_be_kept(steps: list[str]) -> None:
    one, wrong = alarm(), False
    for step in steps:
        STEPS[step](one)
        wrong = {"rise": True, "fall": False, "forget": False}.get(step, wrong)
        if step != "latched":
            assert one.kept.on in (wrong, False)
        # What is wrong is never normal, unless somebody knew of it and it was over with that.
        assert one.state != NORMAL or not one.kept.on
        again = Alarm("hot", one.rule, KEY, decode(encode(one.kept)))
        assert (again.state, again.kept) == (one.state, one.kept)


@given(st.text("ab/.*", max_size=12), st.text("ab/.", max_size=20))
def test_a_pattern_fits_as_a_regular_expression_would(pattern: str, key: str) -> None:
    wanted = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), key) is not None
    assert fits(tuple(pattern.split("*")), key) == wanted


def test_what_comes_with_raspy_can_be_set_as_it_is() -> None:
    for name, settings in built_in().items():
        given_again = {field: getattr(settings, field) for field in settings.__struct_fields__}
        assert parse(name, given_again, "pi") == settings


@pytest.mark.parametrize(
    ("settings", "key", "name"),
    [
        ({"kind": "high", "key": "probe.water/temperature", "limit": 1}, KEY, "x"),
        ({"kind": "high", "key": "shed.probe.water/t", "limit": 1}, "/device/shed.probe.water/t", "x"),
        ({"kind": "low", "key": "/variable/level", "limit": 1}, "/variable/level", "x"),
        ({"kind": "low", "key": "/variable/*", "limit": 1}, "/variable/level", "x.variable.level"),
        ({"kind": "stale", "key": "probe.*"}, "/device/probe.a.b/c", "x.probe.a.b.c"),
        ({"kind": "server", "key": "core"}, "/server/pi.core", "x"),
        ({"kind": "output", "key": "fake.heater"}, "/event/output/pi.fake.heater", "x"),
        ({"kind": "scenario", "key": "night"}, "/scenario/night", "x"),
        ({"kind": "scenario"}, "/scenario/night", "x.night"),
    ],
)
def test_short_keys_and_names(settings: dict[str, Any], key: str, name: str) -> None:
    rule = Rule("x", parse("x", settings, "pi"), False)
    assert rule.fits(key)
    assert named(rule, key) == name


def test_what_is_left_out() -> None:
    rule = Rule("x", parse("x", {"kind": "error", "but": ["/device/*.tv/*", "fake.tank/ph"]}, "pi"), False)
    keys = ("/device/pi.fake.tv/volume", "/device/pi.fake.tank/ph", "/device/pi.fake.tank/temperature")
    assert [rule.fits(key) for key in keys] == [False, False, True]


def test_a_server_that_crashes_again_and_again_is_down() -> None:
    rule = Rule("server", built_in()["server"], True)
    back = b'{"state": "ok", "uptime": 5.0, "restarts": 3}'
    assert judge(rule, b'{"state": "lost"}', False).wrong
    assert judge(rule, back, True).wrong
    assert not judge(rule, back, False).wrong
    assert not judge(rule, back.replace(b"5.0", b"65.0"), True).wrong


def test_a_shelf_follows_a_clock_that_is_set() -> None:
    clock = Watch()
    found = shelves.shelf(clock, 600.0)
    assert not shelves.follow(clock, found)
    clock.off = 1e6
    assert shelves.follow(clock, found)
    assert abs(found.until - clock.wall() - 600) < 30
    assert 570 < shelves.left(clock, found) <= 600
