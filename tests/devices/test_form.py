"""raspy.common.devices.form: what a form says, what it lets in, and what it refuses."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import pytest
from msgspec import Meta

from raspy.common.devices import form
from raspy.common.devices.device import BaseDevice, Command, DeviceRegister, FieldErrors, NotPermitted, UnknownCommand
from raspy.common.devices.media import MediaTV
from raspy.common.devices.sensor import SensorSettings, SensorTemperature
from raspy.common.devices.settings import DeviceSettings
from raspy.common.devices.value import Value
from tests.support_forms import Page

HOSTILE = """"><script>alert(1)</script><b x='&lt;' """


class BoilerSettings(SensorSettings, kw_only=True, forbid_unknown_fields=True):
    offset: Annotated[float, Meta(ge=-5, le=5, title="Offset", extra={"unit": "°C"})] | None = None
    mode: Annotated[Literal["mean", "median"], Meta(title=HOSTILE, description=HOSTILE)] = "mean"
    above: Annotated[int, Meta(gt=0, lt=10)] = 1
    notes: Annotated[str, Meta(max_length=50, extra={"multiline": True})] = ""


class Boiler(BaseDevice):
    """A boiler."""

    oid = "test.boiler"
    Settings: ClassVar[type[DeviceSettings]] = BoilerSettings
    declared: ClassVar[tuple[Command, ...]] = (
        Command(name="power", type="Bool", info="Power"),
        Command(name="heat", type="Real", unit="W", info="Heat", minimum=0, maximum=2000),
        Command(name="mode", type="List", info="Mode", choices=("eco", 2, "<b>")),
        Command(name="text", type="Str", info=HOSTILE),
        Command(name="watts", type="Real", readonly=True),
    )


def test_a_field_has_label_unit_help_and_range() -> None:
    page = Page(Boiler({"name": "cellar"}).to_html())
    poll, offset, above = page.control("poll"), page.control("offset"), page.control("above")
    assert page.labels[poll["id"]] == "Poll"
    assert [page.ids[id_] for id_ in poll["aria-describedby"].split()] == [
        "s",
        "Seconds between readings; 0: not read, -1: cannot be read.",
    ]
    assert (poll["type"], poll["min"], poll["max"], poll["step"], "required" in poll) == (
        "number",
        "-1",
        "86400",
        "any",
        True,
    )
    assert (offset["type"], offset["min"], offset["max"], "required" in offset) == ("number", "-5", "5", False)
    assert page.labels[offset["id"]] == "Offset"
    assert page.ids[offset["aria-describedby"]] == "°C"
    assert (above["min"], above["max"], above["step"]) == ("1", "9", "1")
    assert page.control("label")["maxlength"] == "100"
    assert page.control("notes")["tag"] == "textarea"
    assert page.control("mode")["options"].split() == ["mean", "median"]
    assert page.labels[page.control("above")["id"]] == "Above"


def test_what_all_devices_have_comes_first() -> None:
    names = [control["name"] for control in Page(Boiler().to_html()).controls]
    assert names == ["oid", "name", "label", "poll", "log", "log", "offset", "mode", "above", "notes"]


def test_the_name_of_a_device_is_shown_and_stays() -> None:
    assert "readonly" in Page(Boiler({"name": "cellar"}).to_html()).control("name")
    new = Page(Boiler().to_html()).control("name")
    assert "required" in new
    assert "readonly" not in new


@pytest.mark.parametrize("log", [True, False])
def test_a_box_survives_being_unchecked(log: bool) -> None:
    sent = Page(Boiler({"name": "cellar", "log": log}).to_html()).submit()
    assert sent["log"] == (["false", "true"] if log else ["false"])
    assert Boiler.from_form(sent).log is log
    assert Boiler.from_form({"name": "cellar"}).log is True


def test_an_empty_number_is_none_where_it_may_be() -> None:
    sent = {"name": ["x"], "offset": ["-1.5"]}
    assert Boiler.from_form(sent).to_dict()["offset"] == -1.5
    assert Boiler.from_form(sent | {"offset": ["  "]}).to_dict()["offset"] is None
    with pytest.raises(FieldErrors, match="poll: must be a number"):
        Boiler.from_form(sent | {"poll": [""]})


def test_every_field_at_fault_is_named() -> None:
    sent: dict[str, Any] = {
        "oid": ["test.kettle"],
        "name": ["A b"],
        "label": ["x", "y"],
        "poll": ["1_0"],
        "log": ["maybe"],
        "offset": ["9"],
        "mode": ["worst"],
        "above": ["1.0"],
        "notes": ["x" * 51],
        "color": ["red"],
        "x" * 1000: ["y"],
    }
    with pytest.raises(FieldErrors) as caught:
        Boiler.from_form(sent)
    errors = caught.value.fields
    assert [name for name in sent if name in errors] == list(sent)[:-1]
    assert len(errors) == len(sent)
    assert max(map(len, errors)) <= 63
    assert errors["label"] == "must be given once"
    assert errors["mode"] == "must be one of mean, median (got 'worst')"
    assert "<= 5" in errors["offset"]


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("poll", "nan"),
        ("poll", "inf"),
        ("poll", "1e999"),
        ("poll", "9" * 65),
        ("poll", "٣"),
        ("poll", "0x10"),
        ("above", "9" * 64),
        ("above", "1e0"),
        ("label", "two\r\nlines"),
        ("label", "x" * 5000),
        ("label", "\u202eabc"),
        ("notes", "\x00"),
        ("log", "on"),
        ("name", "tank\n"),
    ],
)
def test_a_text_that_is_no_value_is_refused(field: str, text: str) -> None:
    with pytest.raises(FieldErrors) as caught:
        Boiler.from_form({"name": "x", field: text})
    assert list(caught.value.fields) == [field]
    assert len(str(caught.value)) < 300


def test_many_unknown_fields_are_cut() -> None:
    with pytest.raises(FieldErrors) as caught:
        Boiler.from_form({f"field{i}": ["x"] for i in range(10_000)})
    assert len(caught.value.fields) <= 21


def test_several_lines_survive_the_way_through_a_browser() -> None:
    for notes in ("\none", "one\n\ntwo\n", "<textarea>\n</textarea>", "\tx & y"):
        boiler = Boiler.new({"name": "x", "notes": notes})
        assert Boiler.from_form(Page(boiler.to_html()).submit()).to_dict()["notes"] == notes
    assert list(Boiler.check({"name": "x", "notes": "a\r\nb"})) == ["notes"]


def test_no_text_leaves_its_place() -> None:
    boiler = Boiler.new({"name": "x", "label": HOSTILE, "notes": f"</textarea>{HOSTILE}"})
    html = boiler.to_html({"poll": HOSTILE, HOSTILE: HOSTILE, "": HOSTILE}, {"offset": HOSTILE, "notes": [HOSTILE]})
    page = Page(html)
    page.check_accessible()
    assert "<script" not in html
    assert page.labels[page.control("mode")["id"]] == HOSTILE
    assert page.ids["x:poll.error"] == HOSTILE
    assert page.control("label")["value"] == HOSTILE
    assert page.control("notes")["text"] == f"\n{HOSTILE}"
    for command in ("mode", "text"):
        html = boiler.command_html(command, HOSTILE, {"value": [HOSTILE]})
        Page(html).check_accessible()
        assert "<script" not in html


def test_a_text_of_no_use_to_a_page_does_not_break_it() -> None:
    for text in ("\ud800", "\x00", "\r", "\ufdd0"):
        html = Boiler().to_html({"label": text}, {"label": [text], "notes": text, "poll": []})
        Page(html).check_accessible()
        assert "\ud800" not in html
        assert "\x00" not in html


def test_errors_are_told_at_once_and_at_their_field() -> None:
    sent = {"name": ["Öl"], "poll": ["often"], "log": ["false"], "mode": ["worst"], "x": ["1"]}
    with pytest.raises(FieldErrors) as caught:
        Boiler.from_form(sent)
    html = Boiler().to_html(caught.value.fields, sent)
    page = Page(html)
    page.check_accessible()
    assert 'role="alert"' in html
    assert set(page.links) == {f"#new.test.boiler:{name}" for name in ("name", "poll", "mode")}
    assert "x: unknown" in html
    assert page.control("name")["value"] == "Öl"
    assert page.control("poll")["value"] == "often"
    assert "checked" not in page.control("log")
    assert page.control("poll")["aria-invalid"] == "true"
    assert "aria-invalid" not in page.control("offset")
    assert page.ids["new.test.boiler:poll.error"].startswith("must be a number")


def test_subdevices_are_fields_too() -> None:
    tv = MediaTV.new({"name": "tv", "subdevices": {"volume": {"label": "Loud", "log": True}}})
    page = Page(tv.to_html({"subdevices.volume.label": "too loud"}))
    page.check_accessible()
    assert page.ids["tv:volume:label.error"] == "too loud"
    sent = page.submit()
    assert sent["subdevices.volume.label"] == ["Loud"]
    assert MediaTV.from_form(sent).json == tv.json
    with pytest.raises(FieldErrors) as caught:
        MediaTV.from_form(sent | {"subdevices.volume.poll": ["x"], "subdevices.light.poll": ["1"]})
    assert list(caught.value.fields) == ["subdevices.volume.poll", "subdevices.light.poll"]


def test_ids_are_unique_on_a_page_of_many_devices() -> None:
    names = ["tv", "a", "a-b", "new", "switch", "volume"]
    html = [MediaTV({"name": name}).to_html() for name in names] + [SensorTemperature().to_html(), MediaTV().to_html()]
    tv = MediaTV({"name": "tv"})
    html += [part.command_html(name) for part in tv.walk() for name, c in part.commands.items() if not c.readonly]
    html += [
        tv.to_html(prefix="pi.fake."),
        tv.to_html(prefix="pi2.fake."),
        tv.command_html("power", prefix="pi2.fake."),
    ]
    Page("".join(html)).check_accessible()


def test_the_register_takes_the_kind_from_the_form() -> None:
    register = DeviceRegister(Boiler, MediaTV)
    tv = MediaTV.new({"name": "tv"})
    assert register.from_form(Page(tv.to_html()).submit()).json == tv.json
    assert register.from_form({"oid": "media.tv", "name": "tv"}).json == tv.json
    for oid in (["kettle"], [], ["media.tv", "media.tv"], [5], 5):
        with pytest.raises(FieldErrors) as caught:
            register.from_form({"oid": oid, "name": ["x"]})  # type: ignore[dict-item]
        assert list(caught.value.fields) == ["oid"]
    with pytest.raises(FieldErrors, match="oid: is missing"):
        register.from_form({"name": ["x"]})


def test_a_command_has_a_field() -> None:
    boiler = Boiler({"name": "cellar"})
    heat = Page(boiler.command_html("heat", error="too hot"))
    control = heat.control("value")
    assert (control["type"], control["min"], control["max"], control["value"]) == ("number", "0", "2000", "")
    assert heat.labels[control["id"]] == "Heat"
    assert [heat.ids[id_] for id_ in control["aria-describedby"].split()] == ["W", "too hot"]
    boiler.commands["heat"].update(Value.ok(1500.0))
    assert Page(boiler.command_html("heat")).control("value")["value"] == "1500"
    assert boiler.commands["heat"].from_form({"value": ["12.5"]}) == 12.5


def test_what_is_not_known_is_not_shown_as_off() -> None:
    boiler = Boiler({"name": "cellar"})
    page = Page(boiler.command_html("power"))
    assert page.control("value")["choice"] == ""
    assert page.invalid() == ["value"]
    boiler.commands["power"].update(Value.ok(False))
    page = Page(boiler.command_html("power"))
    assert (page.control("value")["choice"], page.control("value")["options"].split()) == ("false", ["true", "false"])
    assert boiler.commands["power"].from_form(page.submit()) is False


def test_a_choice_keeps_its_type() -> None:
    mode = Boiler().commands["mode"]
    assert mode.from_form({"value": "2"}) == 2
    assert mode.from_form({"value": ["<b>"]}) == "<b>"


@pytest.mark.parametrize(
    ("command", "sent"),
    [
        ("heat", {}),
        ("heat", {"value": []}),
        ("heat", {"value": ["1", "2"]}),
        ("heat", {"value": [""]}),
        ("heat", {"value": ["2001"]}),
        ("heat", {"value": ["nan"]}),
        ("heat", {"value": [7]}),
        ("power", {"value": [""]}),
        ("power", {"value": ["false", "true"]}),
        ("mode", {"value": [""]}),
        ("mode", {"value": ["3"]}),
        ("text", {"value": ["x" * 5000]}),
        ("config", {"value": ["[]"]}),
        ("config", {"value": ["{" * 5000]}),
    ],
)
def test_a_command_refuses(command: str, sent: dict[str, Any]) -> None:
    with pytest.raises(FieldErrors) as caught:
        Boiler().commands[command].from_form(sent)
    assert list(caught.value.fields) == ["value"]


def test_a_command_takes_no_other_field() -> None:
    with pytest.raises(FieldErrors) as caught:
        Boiler().commands["heat"].from_form({"value": ["1"], "color": ["red"]})
    assert list(caught.value.fields) == ["color"]


def test_what_cannot_be_told_has_no_field() -> None:
    with pytest.raises(NotPermitted, match="watts of cellar is read only"):
        Boiler({"name": "cellar"}).command_html("watts")
    with pytest.raises(UnknownCommand):
        Boiler({"name": "cellar"}).command_html("fly")


def test_the_words_can_be_translated(monkeypatch: pytest.MonkeyPatch) -> None:
    german = {"form.true": "an", "form.choose": "wählen", "Power": "Strom", "Poll": "Abstand", "s": "Sek."}
    for key, said in german.items():
        monkeypatch.setitem(form.WORDS, key, said)
    html = Boiler({"name": "x"}).command_html("power") + Boiler().to_html()
    for said in german.values():
        assert f">{said}<" in html
