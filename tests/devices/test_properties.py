"""Whatever a device is set to, JSON and forms give it back; whatever is sent, it is taken or refused by field."""

from __future__ import annotations

import importlib
import math
import pkgutil
import re
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta

import raspy.common.devices
from raspy.common.devices.command import Command
from raspy.common.devices.device import BaseDevice, DeviceRegister
from raspy.common.devices.errors import FieldErrors
from raspy.common.devices.settings import DeviceSettings
from tests.support_forms import Page


class Point(msgspec.Struct):
    at: float = 0.0
    to: float | None = None


Hostile = Annotated[
    float,
    Meta(
        ge=-5,
        title="\"><script>alert('1')</script>",
        description='</p> & " \u202e <!-- -->',
        extra={"unit": "<b>µ</b>"},
    ),
]


class OddSettings(DeviceSettings, kw_only=True, forbid_unknown_fields=True):
    """Every type that a setting may have."""

    offset: Annotated[float, Meta(ge=-2, le=2, title="Offset", extra={"unit": "pH"})] | None = None
    hostile: Hostile = 0.0
    anything: float = 0.0
    count: int = 3
    some: Annotated[int, Meta(gt=0, lt=100, multiple_of=5)] = 5
    perhaps: int | None = None
    yes: bool = True
    unsure: bool | None = None
    word: str | None = None
    code: Annotated[str, Meta(pattern=r"^[A-F]{2,4}$", max_length=4)] = "AB"
    part: Annotated[str, Meta(pattern="[a-z]")] = "a"
    notes: Annotated[str, Meta(extra={"multiline": True}, max_length=300)] = "\none\n"
    lines: Annotated[str, Meta(extra={"multiline": True})] | None = None
    mode: Literal["mean", "", "a\nb", "<b>"] = "mean"
    level: Literal[1, "1", 2] = 1
    choice: Literal["", "x"] | None = None
    points: list[Point] = msgspec.field(default_factory=list)
    pair: tuple[int, str] | None = None
    table: dict[str, float] = msgspec.field(default_factory=dict)
    free: Any = None
    either: int | float | str = 1
    label_help: str = ""


class OddPart(BaseDevice):
    """A part with the settings of its whole."""

    oid = "odd.part"
    Settings: ClassVar[type[DeviceSettings]] = OddSettings


class SmallPart(BaseDevice):
    """A part with nothing of its own."""

    oid = "odd.small"


class Odd(BaseDevice):
    """A device of somebody else, <b>"odd"</b> in all that it may be."""

    oid = "odd"
    Settings: ClassVar[type[DeviceSettings]] = OddSettings
    parts: ClassVar[dict[str, type[BaseDevice]]] = {"label": OddPart, "do-poll": SmallPart, "-": SmallPart}
    declared: ClassVar[tuple[Command, ...]] = (
        Command(name="say", type="Str", info='<i>"say"'),
        Command(name="plan", type="Sch"),
        Command(name="byte", type="Byte", minimum=-7, maximum=1000, unit="µ&"),
        Command(name="int", type="Int"),
        Command(name="real", type="Real", minimum=0.5),
        Command(name="pick", type="List", choices=("a", 1, 2.5, '"<b>')),
        Command(name="list", type="List"),
        Command(name="dict", type="Dict"),
        Command(name="bool", type="Bool"),
    )


def own_classes() -> Iterator[type[BaseDevice]]:
    """Every class of raspy.common.devices that can be made."""
    for module in pkgutil.iter_modules(raspy.common.devices.__path__):
        importlib.import_module(f"raspy.common.devices.{module.name}")
    waiting: list[type[BaseDevice]] = [BaseDevice]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if kind.__module__.startswith("raspy.common.devices."):
            yield kind


REGISTER = DeviceRegister(*own_classes(), Odd)
KINDS = [kind for _, kind in sorted(REGISTER.all().items())]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NUL_FREE = JSON.map(lambda value: msgspec.json.decode(msgspec.json.encode(value)))
"""What JSON makes of it: NaN is null there."""
NAMES = st.from_regex(r"[a-z0-9_-]{1,63}", fullmatch=True)
TEXT = st.text(max_size=80) | st.sampled_from(
    [
        '"><script>alert(1)</script>',
        "' onfocus='x",
        "a\r\nb",
        "\n\nx",
        "&amp;",
        "\u200f\u202eabc",
        "\u05d0b",
        "👨‍👩‍👧",
        " x ",
    ]
)
DEEP = "[" * 500 + "]" * 500


def values(schema: dict[str, Any], whole: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that a schema allows, or nearly."""
    if "$ref" in schema:
        return values(whole["$defs"][schema["$ref"].rpartition("/")[2]], whole)
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "anyOf" in schema:
        return st.one_of(*(values(branch, whole) for branch in schema["anyOf"]))
    kind = schema.get("type")
    low, high = (schema.get(key) for key in ("minimum", "maximum"))
    if kind == "number":
        return st.floats(low, high, allow_nan=False, allow_infinity=False) | st.integers(math.ceil(low or -9), 99)
    if kind == "integer":
        step = schema.get("multipleOf", 1)
        return st.integers(low, high).map(lambda n: n * step) | st.integers(0, 20).map(lambda n: n * step)
    if kind == "string":
        return TEXT | (st.from_regex(schema["pattern"], fullmatch=True) if "pattern" in schema else st.nothing())
    if kind == "array" and isinstance(schema.get("items"), dict):
        return st.lists(values(schema["items"], whole), max_size=3)
    if kind == "array":
        return st.tuples(*(values(item, whole) for item in schema["prefixItems"])).map(list)
    if kind == "object" and "properties" in schema:
        return st.fixed_dictionaries({}, optional={k: values(v, whole) for k, v in schema["properties"].items()})
    if kind == "object":
        return st.dictionaries(TEXT, values(schema["additionalProperties"], whole), max_size=3)
    return {"boolean": st.booleans(), "null": st.none(), None: NUL_FREE}[kind]


def fields(kind: type[BaseDevice]) -> st.SearchStrategy[dict[str, Any]]:
    """JSON of a device as its schema has it."""
    schema = kind().template["schema"]
    properties = {**schema["properties"]}
    del properties["oid"], properties["name"]
    names = st.fixed_dictionaries({"oid": st.just(kind.oid), "name": NAMES})
    optional = st.fixed_dictionaries({}, optional={k: values(v, schema) for k, v in properties.items()})
    return st.builds(lambda one, other: {**one, **other}, names, optional)


STRATEGIES = {kind: fields(kind) for kind in KINDS}


def devices(kind: type[BaseDevice]) -> st.SearchStrategy[BaseDevice]:
    """Devices of a kind: what its own check refuses is left out."""

    def make(json: dict[str, Any]) -> BaseDevice:
        errors = REGISTER.check(json)
        for path in errors:
            *parts, name = path.split(".")
            place = json
            for part in parts:
                place = place[part]
            place.pop(name, None)
        again = REGISTER.check(json)
        # settings that do not go together
        return REGISTER.new(json if not again else {"oid": json["oid"], "name": json["name"]})

    return STRATEGIES[kind].map(make)


def same(one: BaseDevice, other: BaseDevice) -> None:
    assert type(one) is type(other)
    assert [part.config for part in one.walk()] == [part.config for part in other.walk()]
    # -0.0 and 0.0 are equal
    assert one.json == other.json


def test_every_class_is_tried() -> None:
    oids = {"base", "sensor", "sensor.temperature", "sensor.wind", "sensor.level", "output", "switch", "dimmer", "odd"}
    oids |= {"media", "media.camera", "media.tv", "media.tv-volume", "media.tv-channel", "media.tv-source"}
    assert oids <= {kind.oid for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.oid)
@given(data=st.data())
def test_device_to_json_to_device_is_the_identity(kind: type[BaseDevice], data: st.DataObject) -> None:
    device = data.draw(devices(kind))
    same(REGISTER.new(device.json), device)
    same(REGISTER.new(device.to_dict()), device)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.oid)
@given(data=st.data())
def test_device_to_form_to_device_is_the_identity(kind: type[BaseDevice], data: st.DataObject) -> None:
    device = data.draw(devices(kind))
    page = Page(device.to_html())
    page.check_accessible()
    assert page.invalid() == []
    same(kind.from_form(page.submit()), device)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.oid)
def test_the_form_of_a_new_device_makes_it(kind: type[BaseDevice]) -> None:
    page = Page(kind().to_html())
    page.check_accessible()
    assert page.invalid() == ["name"]
    page.control("name")["value"] = "x"
    assert page.invalid() == []
    same(kind.from_form(page.submit()), kind.new({"name": "x"}))


@settings(max_examples=200)
@given(
    st.binary()
    | NUL_FREE
    | st.sampled_from(KINDS).flatmap(
        lambda kind: st.fixed_dictionaries(
            {"oid": st.just(kind.oid) | JSON, "name": NAMES | JSON},
            optional={
                "subdevices": JSON
                | st.dictionaries(
                    st.sampled_from([*kind.parts, "x"]),
                    JSON | st.dictionaries(st.sampled_from([*kind.Settings.__struct_fields__, "x"]), JSON),
                ),
                **dict.fromkeys(kind.Settings.__struct_fields__[1:], JSON),
                "x": JSON,
            },
        )
    )
)
def test_any_json_is_a_device_or_field_errors(json: Any) -> None:
    text = json if isinstance(json, bytes) else msgspec.json.encode(json)
    errors = REGISTER.check(text)
    assert len(errors) <= 100
    msgspec.json.encode(errors)
    assert all(isinstance(name, str) and reason for name, reason in errors.items())
    if errors:
        with pytest.raises(FieldErrors):
            REGISTER.new(text)
    else:
        same(REGISTER.new(REGISTER.new(text).json), REGISTER.new(text))


AWFUL = [
    DEEP,
    '{"a":' * 500 + "1" + "}" * 500,
    "[" * 100_000,
    "1" * 5000,
    "-1" + "0" * 400,
    "1e999",
    "-1e999",
    "NaN",
    "Infinity",
    '"\\ud800"',
    '"\\u0000"',
    '"' + "x" * 70_000 + '"',
    "[" + "1," * 70_000 + "1]",
    '{"a": NaN}',
    "9223372036854775808",
    "18446744073709551616",
    "-9223372036854775809",
    "null",
    "true",
    "[]",
    "{}",
    '""',
    "-0.0",
]


@pytest.mark.parametrize("text", AWFUL, ids=lambda text: text[:12])
def test_awful_json_in_every_setting(text: str) -> None:
    for field in OddSettings.__struct_fields__:
        json = f'{{"oid": "odd", "name": "x", "subdevices": {{"label": {{"poll": 0}}}}, "{field}": {text}}}'
        errors = REGISTER.check(json)
        msgspec.json.encode(errors)
        assert sum(map(len, errors.values())) < 2000
        if not errors:
            device = REGISTER.new(json)
            same(REGISTER.new(device.json), device)
            same(Odd.from_form(Page(device.to_html()).submit()), device)


class Loop(dict[str, Any]):
    """A mapping within itself."""

    def __init__(self) -> None:
        super().__init__(a=self)


@pytest.mark.parametrize(
    "value",
    [Loop(), 10**5000, math.nan, "\ud800", object(), {1: 2}, {"\ud800": 1}, b"x", {("a",): 1}, 1j],
    ids=lambda value: type(value).__name__,
)
def test_what_no_json_can_be_is_refused_too(value: Any) -> None:
    for field in (*OddSettings.__struct_fields__, "subdevices", "oid", "x", "\ud800"):
        for part in ({field: value}, {"subdevices": {"label": {field: value}}}, {"subdevices": {field: value}}):
            json = {"oid": "odd", "name": "x"} | part
            errors = REGISTER.check(json)
            msgspec.json.encode(errors)
            if not errors:
                same(REGISTER.new(REGISTER.new(json).json), REGISTER.new(json))


@settings(max_examples=200)
@given(
    st.sampled_from(KINDS),
    st.dictionaries(
        st.sampled_from(["oid", "name", "poll", "log", "subdevices.label.poll", "subdevices", "offset", "mode", "free"])
        | st.text(max_size=8),
        TEXT | st.lists(TEXT, max_size=3) | st.sampled_from(AWFUL).map(lambda text: [text]),
    ),
)
def test_any_form_is_a_device_or_field_errors(kind: type[BaseDevice], sent: dict[str, Any]) -> None:
    try:
        device = kind.from_form(sent)
    except FieldErrors as error:
        msgspec.json.encode(error.fields)
        page = Page(kind().to_html(error.fields, sent))
        page.check_accessible()
    else:
        same(kind.from_form(Page(device.to_html()).submit()), device)


def commands() -> list[tuple[type[BaseDevice], str]]:
    """Every command that takes a value, and a kind that has it: of those that are declared alike one."""
    found = {}
    for kind in KINDS:
        for name, command in kind().commands.items():
            if not command.readonly:
                found.setdefault(command.to_json(), (kind, name))
    return list(found.values())


@pytest.mark.parametrize(("kind", "name"), commands(), ids=lambda value: getattr(value, "oid", value))
@given(data=st.data())
def test_command_to_form_to_command_is_the_identity(kind: type[BaseDevice], name: str, data: st.DataObject) -> None:
    device = kind({"name": "x"})
    command = device.commands[name]
    schema = {
        "List": {"enum": list(command.choices)} if command.choices else {"type": "array", "items": {}},
        "Dict": {"type": "object", "additionalProperties": {}},
        "Bool": {"type": "boolean"},
        "Byte": {"type": "integer", "minimum": 0, "maximum": 255},
        "Int": {"type": "integer", "minimum": command.minimum, "maximum": command.maximum},
        "Real": {"type": "number", "minimum": command.minimum, "maximum": command.maximum},
    }.get(command.type, {"type": "string"})
    value = data.draw(values(schema, schema))
    try:
        command.value = command.check(value)
    except ValueError:
        command.value = None
    if isinstance(command.value, str) and re.search("[\r\n\0]", command.value):
        # one line is all that its field has
        command.value = None
    page = Page(device.command_html(name))
    page.check_accessible()
    if command.value is not None:
        assert page.invalid() == []
        assert command.from_form(page.submit()) == command.value
    try:
        command.from_form({"value": [str(value)]})
    except FieldErrors as error:
        Page(device.command_html(name, error.fields["value"], {"value": [str(value)]})).check_accessible()
