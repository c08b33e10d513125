"""raspy.common.devices.device and the device classes: declarations, JSON both ways, commands, the register."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raspy.common.devices.device import (
    BadValue,
    BaseDevice,
    Command,
    DeviceRegister,
    FieldErrors,
    NotPermitted,
    ReadingError,
    UnknownCommand,
    Unsupported,
)
from raspy.common.devices.media import MediaCamera, MediaTV
from raspy.common.devices.sensor import SensorLevel, SensorTemperature, SensorWind

ALL: list[type[BaseDevice]] = [SensorTemperature, SensorWind, SensorLevel, MediaCamera, MediaTV]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789_-", min_size=1, max_size=63)
PRINTABLE = st.text(max_size=100).filter(str.isprintable)
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "label": PRINTABLE,
        "poll": st.sampled_from([-1, 0, -1.0, 0.1, 86400]) | st.floats(0.1, 86400),
        "log": st.booleans(),
    },
)


class Switch(BaseDevice):
    """A device with a command that does something."""

    oid = "test.switch"
    declared: ClassVar[tuple[Command, ...]] = (
        Command(name="power", type="Bool"),
        Command(name="toggle", type="Bool", writeonly=True),
        Command(name="watts", type="Real", unit="W", minimum=0, readonly=True),
    )

    def __init__(self, json: Any = None) -> None:
        super().__init__(json)
        self.on = False

    def cmd_power(self, value: bool | None = None) -> bool:
        if value is not None:
            self.on = value
        return self.on


@pytest.mark.parametrize("kind", ALL)
def test_nothing_is_shared_between_two_devices(kind: type[BaseDevice]) -> None:
    one, other = kind({"name": "one"}), kind({"name": "other"})
    for mine, yours in zip(one.walk(), other.walk(), strict=True):
        assert mine.config is not yours.config
        for name, command in mine.commands.items():
            assert command is not yours.commands[name]
        mine.poll = 5
        mine.commands.clear()
    assert [part.poll for part in other.walk()] == [-1] * len(list(other.walk()))
    assert all(part.commands for part in other.walk())
    assert kind().poll == -1
    assert "poll" in kind().commands


@given(st.sampled_from(ALL), NAMES, SETTINGS, st.data())
def test_device_to_json_to_device_is_the_identity(
    kind: type[BaseDevice], name: str, settings: dict[str, Any], data: st.DataObject
) -> None:
    parts = {part: data.draw(SETTINGS) for part in kind().subdevices}
    device = kind.new({"name": name, **settings, **({"subdevices": parts} if parts else {})})
    again = DeviceRegister(*ALL).new(device.json)
    assert type(again) is kind
    assert again.json == device.json
    assert again.to_dict() == device.to_dict()
    assert [part.config for part in again.walk()] == [part.config for part in device.walk()]


@given(
    st.binary()
    | JSON.map(msgspec.json.encode)
    | st.fixed_dictionaries(
        {"oid": st.sampled_from([kind.oid for kind in ALL]) | JSON},
        optional={
            "name": NAMES | JSON,
            "label": JSON,
            "poll": JSON,
            "log": JSON,
            "subdevices": JSON | st.dictionaries(st.sampled_from(["volume", "channel"]), SETTINGS | JSON),
            "x": JSON,
        },
    ).map(msgspec.json.encode)
)
def test_arbitrary_json_is_a_device_or_field_errors(json: bytes) -> None:
    register = DeviceRegister(*ALL)
    errors = register.check(json)
    assert all(isinstance(name, str) and text for name, text in errors.items())
    if errors:
        with pytest.raises(FieldErrors):
            register.new(json)
    else:
        device = register.new(json)
        assert register.new(device.json).json == device.json


@pytest.mark.parametrize("json", ["[" * 100_000, '{"a":' * 100_000, b"\xff", b'{"oid":"\xff"}', "", "null", "1e999"])
def test_json_at_its_worst_is_a_field_error_of_the_whole(json: str | bytes) -> None:
    assert list(DeviceRegister(*ALL).check(json)) in ([""], ["oid"])


def test_every_field_at_fault_is_named() -> None:
    errors = SensorTemperature.check(
        '{"oid": "sensor.wind", "name": "A b", "label": 5, "poll": "often", "log": 1, "color": "red"}'
    )
    assert set(errors) == {"oid", "name", "label", "poll", "log", "color"}
    assert "known are name, label, poll, log" in errors["color"]
    assert "'often'" in errors["poll"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "Tank"),
        ("name", "tank\n"),
        ("name", "a" * 64),
        ("name", "tank.1"),
        ("name", "tänk"),
        ("label", "two\nlines"),
        ("label", "\x1b[2J"),
        ("label", "\ud800"),
        ("label", "x" * 101),
        ("poll", -0.5),
        ("poll", 0.01),
        ("poll", -2),
        ("poll", 86401),
        ("poll", math.nan),
        ("poll", math.inf),
        ("poll", True),
        ("log", 1),
    ],
)
def test_a_bad_setting_is_refused(field: str, value: Any) -> None:
    assert list(SensorTemperature.check({"name": "tank", field: value})) == [field]


def test_a_missing_name_is_an_error_of_a_new_device_only() -> None:
    assert SensorTemperature.check("{}") == {"name": "is missing"}
    assert SensorTemperature().name == ""


def test_many_errors_are_cut() -> None:
    assert len(SensorTemperature.check({f"field{i}": i for i in range(10_000)})) <= 20
    assert len(MediaTV.check({"name": "tv", "subdevices": {f"part{i}": i for i in range(10_000)}})) <= 20


def test_settings_change_all_or_none() -> None:
    tv = MediaTV.new({"name": "tv"})
    with pytest.raises(FieldErrors) as caught:
        tv.configure({"label": "Big", "subdevices": {"volume": {"label": "Loud"}, "channel": {"poll": -7}}})
    assert list(caught.value.fields) == ["subdevices.channel.poll"]
    assert tv.label == "tv"
    assert tv.subdevices["volume"].label == "volume"
    tv.configure({"label": "Big", "subdevices": {"volume": {"label": "Loud"}}})
    assert (tv.label, tv.subdevices["volume"].label) == ("Big", "Loud")


def test_names_on_the_bus() -> None:
    tv = MediaTV.new({"name": "tv"})
    assert tv.fullname("pi.media") == "pi.media.tv"
    assert tv.subdevices["volume"].fullname("pi.media") == "pi.media.tv.volume"
    assert tv.subdevices["volume"].oid == "media.tv-volume"


def test_commands_of_all_bases_are_there_once() -> None:
    class Both(SensorTemperature, SensorLevel):
        oid = "test.both"

    assert list(Both().commands) == ["commands", "config", "poll", "log", "reset", "level", "temperature"]
    assert [command.name for command in Both().values()] == ["level", "temperature"]


def test_exec_gets_and_sets() -> None:
    switch = Switch.new({"name": "heater"})
    assert switch.exec_cmd("", "power") is False
    assert switch.exec_cmd("test.switch", "power", "on") is True
    assert switch.exec_cmd("heater", "power") is True
    assert switch.exec_cmd("", "poll", "5") == 5
    assert switch.poll == 5
    assert switch.exec_cmd("", "log", "true") is True
    assert switch.exec_cmd("", "config", '{"label": "Heater"}')["label"] == "Heater"
    assert switch.exec_cmd("", "commands")["watts"]["unit"] == "W"
    assert switch.exec_cmd("", "watts").reason == "not read yet"


@pytest.mark.parametrize(
    ("oid", "command", "value", "error"),
    [
        ("", "fly", None, UnknownCommand),
        ("lamp", "power", None, UnknownCommand),
        ("", "watts", "5", NotPermitted),
        ("", "commands", "5", NotPermitted),
        ("", "toggle", None, NotPermitted),
        ("", "toggle", "on", Unsupported),
        ("", "power", "maybe", BadValue),
        ("", "poll", "nan", BadValue),
        ("", "poll", "0.01", FieldErrors),
        ("", "config", '{"name": "cooler"}', FieldErrors),
        ("", "config", '{"colour": "red"}', FieldErrors),
        ("", "config", "[]", BadValue),
    ],
)
def test_exec_refuses(oid: str, command: str, value: str | None, error: type[Exception]) -> None:
    switch = Switch.new({"name": "heater"})
    before = switch.json
    with pytest.raises(error):
        switch.exec_cmd(oid, command, value)
    assert switch.json == before
    assert not switch.on


def test_exec_of_a_subdevice() -> None:
    tv = MediaTV.new({"name": "tv"})
    assert tv.exec_cmd("media.tv-volume", "config", '{"label": "Loud"}')["label"] == "Loud"
    assert tv.exec_cmd("volume", "config")["label"] == "Loud"
    with pytest.raises(Unsupported, match=r"volume of tv\.volume is not supported"):
        tv.exec_cmd("tv.volume", "volume", "20")
    with pytest.raises(BadValue, match="0 to 100"):
        tv.exec_cmd("volume", "volume", "200")


def test_readings_become_values_or_errors() -> None:
    wind = SensorWind.new({"name": "roof", "poll": 10})
    changed = wind.update({"speed": 3.5, "direction": ReadingError("jam", "the vane is stuck")})
    assert [command.name for command in changed] == ["speed", "direction"]
    speed, direction = (wind.commands[name].reading for name in ("speed", "direction"))
    assert speed is not None
    assert direction is not None
    assert (speed.value, speed.unit, speed.max_age, speed.quality) == (3.5, "m/s", 30, "ok")
    assert (direction.quality, direction.reason) == ("error", "the vane is stuck")
    assert wind.commands["direction"].value is None


@pytest.mark.parametrize("bad", [math.nan, -1, 10**400, "calm", None, True, [], object()])
def test_a_reading_that_is_no_value_is_an_error(bad: Any) -> None:
    wind = SensorWind.new({"name": "roof", "poll": 10})
    wind.update({"speed": 1})
    wind.update({"speed": bad})
    reading = wind.commands["speed"].reading
    assert reading is not None
    assert reading.quality == "error"
    assert wind.commands["speed"].value is None


def test_a_failed_reading_is_the_error_of_all_values() -> None:
    wind = SensorWind.new({"name": "roof", "poll": 10})
    wind.update(ReadingError("gone", "gone"))
    assert [command.reading.reason for command in wind.values() if command.reading] == ["gone", "gone"]


def test_values_say_whether_a_history_is_wanted() -> None:
    wind, tv = SensorWind.new({"name": "roof", "poll": 10}), MediaTV.new({"name": "tv"})
    wind.update({"speed": 1.0, "direction": ReadingError("jam", "stuck")})
    readings = [command.reading for command in wind.values()]
    assert [reading.log for reading in readings if reading] == [True, True]
    tv.update({"power": True})
    tv.subdevices["volume"].configure({"log": True})
    tv.subdevices["volume"].update({"volume": 20, "mute": False})
    parts = [command.reading for part in tv.walk() for command in part.values() if command.reading]
    assert [reading.log for reading in parts] == [msgspec.UNSET, True, msgspec.UNSET]


def test_a_value_that_stands_says_it_too_once_the_setting_is_changed() -> None:
    wind = SensorWind.new({"name": "roof", "poll": 10})
    wind.update({"speed": 1.0})
    before = wind.commands["speed"].reading
    wind.configure({"label": "Roof"})
    assert wind.commands["speed"].reading is before
    wind.exec_cmd("", "log", "off")
    assert before is not None
    assert wind.commands["speed"].reading == msgspec.structs.replace(before, log=msgspec.UNSET)
    wind.log = True
    assert wind.commands["speed"].reading == before


def test_while_its_settings_are_not_known_no_reading_is_believed() -> None:
    wind = SensorWind.new({"name": "roof", "poll": 10})
    wind.update({"speed": 1.0})
    wind.unsettled = "its settings are not here yet"
    changed = wind.update({"speed": 2.0})
    assert [command.name for command in changed] == ["speed", "direction"]
    for command in changed:
        assert command.value is None
        assert command.reading is not None
        assert (command.reading.quality, command.reading.reason) == ("error", "its settings are not here yet")
    wind.unsettled = ""
    wind.update({"speed": 2.0})
    assert wind.commands["speed"].value == 2.0


def test_of_a_subdevice_neither() -> None:
    tv = MediaTV.new({"name": "tv"})
    tv.unsettled = "not yet"
    volume = tv.subdevices["volume"]
    volume.update({"volume": 20})
    assert volume.commands["volume"].reading is not None
    assert volume.commands["volume"].reading.reason == "not yet"


def test_a_schema_says_all_that_a_form_needs() -> None:
    schema = MediaTV().template["schema"]
    assert schema["required"] == ["oid", "name"]
    assert schema["properties"]["oid"] == {"const": "media.tv"}
    assert schema["properties"]["poll"] == {
        "title": "Poll",
        "description": "Seconds between readings; 0: not read, -1: cannot be read.",
        "type": "number",
        "minimum": -1,
        "maximum": 86400,
        "default": -1,
        "unit": "s",
    }
    assert list(schema["properties"]["subdevices"]["properties"]) == ["volume", "channel", "source"]
    assert list(schema["properties"]["subdevices"]["properties"]["volume"]["properties"]) == ["label", "poll", "log"]
    for kind in ALL:
        for template in kind().templates.values():
            assert template["schema"]["additionalProperties"] is False
            for field in template["schema"]["properties"].values():
                assert {"const", "title", "type"} & set(field)


def test_what_a_check_of_its_own_raises_is_a_field_error() -> None:
    class Settings(SensorTemperature.Settings, kw_only=True, forbid_unknown_fields=True):
        low: float = 0.0

        def __post_init__(self) -> None:
            if self.low > 1:
                raise ValueError("too low")

    class Odd(SensorTemperature):
        oid = "test.odd"

    Odd.Settings = Settings
    assert Odd.check({"name": "x", "low": 2}) == {"": "too low"}


@pytest.mark.parametrize(
    ("label", "good"),
    [("👨‍👩‍👧", True), ("می‌خواهم", True), ("\u202eabc", False), ("\u200fabc", False), ("a\u2028b", False)],
)
def test_a_label_is_text_that_can_be_shown(label: str, good: bool) -> None:
    assert (SensorTemperature.check({"name": "x", "label": label}) == {}) is good


def test_reset_forgets_the_readings() -> None:
    wind = SensorWind.new({"name": "roof"})
    wind.update({"speed": 1})
    wind.exec_cmd("", "reset", "")
    assert wind.commands["speed"].reading is None


def test_template_is_enough_to_make_a_device() -> None:
    for kind in ALL:
        template = kind().template
        assert kind.check(template["default"] | {"name": "x"}) == {}
        msgspec.json.encode(kind().templates)
    assert list(MediaTV().templates) == ["media.tv", "media.tv-volume", "media.tv-channel", "media.tv-source"]
    properties = SensorTemperature().template["schema"]["properties"]
    assert set(properties) == {"oid", "name", "label", "poll", "log"}


def test_register() -> None:
    register = DeviceRegister(SensorTemperature)
    assert register.register(SensorTemperature) is SensorTemperature
    device = register.new(oid="sensor.temperature", name="tank", poll=10)
    assert isinstance(device, SensorTemperature)
    assert device.poll == 10
    assert list(register.check('{"oid": "sensor.wind", "name": "x"}')) == ["oid"]
    assert list(register.check('{"name": "x"}')) == ["oid"]

    class Other(BaseDevice):
        oid = "sensor.temperature"

    with pytest.raises(ValueError, match=r"sensor\.temperature is registered twice"):
        register.register(Other)
    assert list(DeviceRegister().types) == []
