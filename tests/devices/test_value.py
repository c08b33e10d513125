"""raspy.common.devices.value: what may stand on the tree, and what may be used as a number."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raspy.common.devices.value import DEPTH_LIMIT, NoValue, Value, ValueFormatError
from raspy.common.kvsimple import check_life, stale

SCALARS = (
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)


def test_json_of_a_good_value_is_the_documented_one() -> None:
    value = Value.ok(21.0625, "°C", 30, time=1700000000.5)
    assert msgspec.json.decode(value.encode()) == {
        "value": 21.0625,
        "unit": "°C",
        "time": 1700000000.5,
        "max_age": 30,
        "quality": "ok",
    }


def test_whether_a_history_is_wanted_is_said_when_it_is() -> None:
    assert msgspec.json.decode(Value.ok(1, log=True).encode())["log"] is True
    assert msgspec.json.decode(Value.error("gone", log=True).encode())["log"] is True
    assert b"log" not in Value.ok(1).encode() + Value.error("gone", log=False).encode()
    assert Value.decode(stale(Value.ok(1, log=True).encode(), "no news")).log is True


def test_an_error_has_a_reason_and_no_value() -> None:
    fields = msgspec.json.decode(Value.error("CRC failed", "°C", 30).encode())
    assert "value" not in fields
    assert fields["quality"] == "error"
    assert fields["reason"] == "CRC failed"


@given(SCALARS | st.lists(SCALARS, max_size=4) | st.dictionaries(st.text(), SCALARS, max_size=4))
def test_what_is_encoded_is_decoded(content: object) -> None:
    value = Value.ok(content, "u", 3)  # type: ignore[arg-type]
    assert Value.decode(value.encode()) == value


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, [1.0, math.nan], {"a": math.inf}])
def test_what_json_cannot_hold_is_refused(bad: object) -> None:
    with pytest.raises(ValueError, match="finite"):
        Value.ok(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ("\ud800", "surrogate"),
        ({"\udfff": 1}, "surrogate"),
        (2**63, "64 bits"),
        ([-(2**63) - 1], "64 bits"),
        pytest.param(10**5000, "64 bits", id="huge"),
        (object(), "nothing that JSON has"),
        ({1: 2}, "nothing that JSON has"),
        (b"x", "nothing that JSON has"),
    ],
)
def test_what_would_not_come_back_is_refused(bad: object, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Value.ok(bad)  # type: ignore[arg-type]


def test_what_is_nested_too_deep_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(DEPTH_LIMIT - 1):
        deep = [deep]
    assert Value.decode(Value.ok(deep).encode()).value == deep
    with pytest.raises(ValueError, match="more than 32 deep"):
        Value.ok([deep])
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ValueError, match="more than 32 deep"):
        Value.ok(loop)


@pytest.mark.parametrize(
    "value",
    [
        Value.error("CRC failed"),
        Value(time=1, quality="stale", last=21.0, reason="no news for 30 s"),
        Value.ok(True),
        Value.ok("21.0"),
        Value.ok([21.0]),
    ],
)
def test_nothing_but_a_good_number_is_a_number(value: Value) -> None:
    with pytest.raises(NoValue):
        value.number()
    with pytest.raises(TypeError):
        _ = value < 20  # type: ignore[operator]


def test_a_good_number_is_one() -> None:
    assert Value.ok(-0.3125).number() == -0.3125
    assert Value.ok(3).number() == 3


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"21.0",
        b'{"quality":"ok"}',
        b'{"time":1,"quality":"ok"}',
        b'{"time":1,"quality":"error","value":21.0}',
        b'{"time":1,"quality":"stale","value":21.0}',
        b'{"time":1,"quality":"good","value":21.0}',
        b'{"time":1,"quality":"ok","value":null}',
        b'{"time":1,"quality":"ok","value":1e999}',
        b'{"time":1,"quality":"ok","value":NaN}',
        b'{"time":1,"quality":"ok","value":1,"max_age":-1}',
        b'{"time":1,"quality":"ok","value":1,"max_age":0}',
        b'{"time":1,"quality":"ok","value":1,"max_age":1e9}',
        b'{"time":1,"quality":"ok","value":"\xff"}',
        b"[" * 100_000,
    ],
)
def test_a_body_that_is_no_value_is_refused(body: bytes) -> None:
    with pytest.raises(ValueFormatError):
        Value.decode(body)


@given(st.binary())
def test_arbitrary_bytes_raise_nothing_else(body: bytes) -> None:
    try:
        value = Value.decode(body)
    except ValueFormatError:
        return
    assert Value.decode(value.encode()) == value


@pytest.mark.parametrize("value", [Value.ok(1), Value.ok(1, max_age=0.3), Value.error("CRC failed")])
def test_the_proxy_takes_every_value(value: Value) -> None:
    assert check_life(value.encode()).quality == value.quality


def test_what_the_proxy_makes_stale_is_no_number_and_keeps_the_last() -> None:
    value = Value.decode(stale(Value.ok(21.5, "°C").encode(), "no news for 60 s"))
    assert (value.quality, value.last, value.unit, value.reason) == ("stale", 21.5, "°C", "no news for 60 s")
    with pytest.raises(NoValue, match="no news"):
        value.number()


def test_a_field_of_a_later_version_is_ignored() -> None:
    assert Value.decode(b'{"time":1,"quality":"ok","value":2,"trust":"high"}').number() == 2


def test_a_long_reason_is_cut_and_an_empty_one_is_not_left_out() -> None:
    assert len(str(Value.error("x" * 10_000).reason)) == 200
    assert Value.error("").reason
