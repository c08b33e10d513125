"""raspy.common.devices.command: which values a command takes."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raspy.common.devices.command import Command
from raspy.common.devices.errors import BadValue, FieldErrors
from raspy.common.devices.value import Value

TYPES = ["List", "Bool", "Byte", "Int", "Real", "Str", "Sch", "Dict"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize(
    ("type_", "given_value", "taken"),
    [
        ("Bool", True, True),
        ("Bool", "off", False),
        ("Bool", " ON ", True),
        ("Bool", 1, True),
        ("Byte", "255", 255),
        ("Int", "-7", -7),
        ("Int", 7, 7),
        ("Real", "21.5", 21.5),
        ("Real", 3, 3.0),
        ("Str", "", ""),
        ("Sch", "*/5 * * * *", "*/5 * * * *"),
        ("List", "[1, 2]", [1, 2]),
        ("Dict", '{"a": 1}', {"a": 1}),
    ],
)
def test_takes(type_: Any, given_value: Any, taken: Any) -> None:
    checked = Command(name="x", type=type_).check(given_value)
    assert checked == taken
    assert type(checked) is type(taken)


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        ("Bool", "maybe"),
        ("Bool", 2),
        ("Bool", None),
        ("Byte", 256),
        ("Byte", -1),
        ("Int", True),
        ("Int", 1.5),
        ("Int", "1.5"),
        ("Int", 2**63),
        ("Int", "9" * 10_000),
        ("Real", "nan"),
        ("Real", "1e999"),
        ("Real", math.inf),
        ("Real", 10**400),
        ("Real", True),
        ("Real", "warm"),
        ("Str", 5),
        ("Str", "x" * 5000),
        ("List", "{}"),
        ("List", "[" * 100_000),
        ("List", [math.nan]),
        ("Dict", "[]"),
        pytest.param("Bool", 10**5000, id="huge Bool"),
        pytest.param("Int", 10**5000, id="huge Int"),
        ("Str", "\ud800"),
        ("Dict", {"\ud800": 1}),
        ("Dict", {"a": 2**64}),
        ("List", "[" * 100 + "]" * 100),
        ("Dict", "{"),
    ],
)
def test_refuses(type_: Any, value: Any) -> None:
    with pytest.raises(BadValue, match=r"^x: ") as caught:
        Command(name="x", type=type_).check(value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("value", [0.9, "10.1", -5])
def test_range(value: Any) -> None:
    with pytest.raises(BadValue, match="is not 1 to 10"):
        Command(name="x", type="Real", minimum=1, maximum=10).check(value)


def test_range_ends_are_in_it() -> None:
    command = Command(name="x", type="Real", minimum=1, maximum=10)
    assert command.check(1) == 1
    assert command.check("10") == 10


def test_choices() -> None:
    command = Command(name="x", type="List", choices=("red", 1))
    assert command.check("red") == "red"
    assert command.check("1") == 1
    for bad in ("blue", True, 1.5, None, ["red"]):
        with pytest.raises(BadValue, match="is not one of red, 1"):
            command.check(bad)


@given(st.sampled_from(TYPES), JSON)
def test_any_value_is_taken_or_refused(type_: Any, value: Any) -> None:
    command = Command(name="x", type=type_)
    try:
        checked = command.check(value)
    except BadValue:
        return
    assert command.check(checked) == checked
    assert Value.decode(Value.ok(checked).encode()).value == checked


@given(
    st.builds(
        Command,
        name=st.text(max_size=5),
        type=st.sampled_from(TYPES),
        info=st.text(max_size=5),
        unit=st.text(max_size=3),
        minimum=st.none() | st.floats(allow_nan=False, allow_infinity=False),
        maximum=st.none() | st.floats(allow_nan=False, allow_infinity=False),
        choices=st.lists(st.text(max_size=3) | st.integers(-9, 9), max_size=3).map(tuple),
        readonly=st.booleans(),
        writeonly=st.booleans(),
        datasource=st.sampled_from(["", "COUNTER", "DERIVE", "ABSOLUTE", "GAUGE"]),
        value=st.none() | st.booleans() | st.text() | st.integers(-9, 9),
    )
)
def test_command_to_json_to_command_is_the_identity(command: Command) -> None:
    assert Command.from_json(command.to_json()) == command


@given(
    st.binary()
    | JSON.map(msgspec.json.encode)
    | st.dictionaries(st.sampled_from(["type", "value"]), JSON).map(msgspec.json.encode)
)
def test_arbitrary_json_makes_a_command_or_field_errors(json: bytes) -> None:
    try:
        command = Command.from_json(json)
    except FieldErrors:
        return
    assert Command.from_json(command.to_json()) == command


@pytest.mark.parametrize("value", ["1" * 30, "[" * 60 + "]" * 60, "1e999", '"\\ud800"'])
def test_a_value_that_json_cannot_hold_is_a_field_error(value: str) -> None:
    with pytest.raises(FieldErrors):
        Command.from_json(f'{{"type": "List", "value": {value}}}')


@pytest.mark.parametrize("json", ['{"callback": "os.system"}', '{"reading": {}}', '{"nmae": "x"}'])
def test_unknown_fields_are_named(json: str) -> None:
    with pytest.raises(FieldErrors, match="unknown; known are name, type"):
        Command.from_json(json)


def test_a_bad_reading_takes_the_value_away() -> None:
    command = Command(name="x", type="Real")
    command.update(Value.ok(21.0))
    assert command.value == 21.0
    command.update(Value.error("CRC failed"))
    assert command.value is None
    assert command.reading is not None
    assert command.reading.reason == "CRC failed"
