"""The verbs by which a page asks for forms: what is sent is kept before it is answered, or shown again and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from raspy.common import MDP
from tests.devices.test_keeper import RAW, Rig, becomes, verb
from tests.support_devices import short_directory, started
from tests.support_forms import Page


@pytest.fixture
def rig(tmp_path: Path) -> Any:
    with short_directory() as nowhere, started(Rig(f"ipc://{nowhere}", tmp_path)) as made:
        becomes(made, "one", RAW)
        yield made


def sent(rig: Rig, name: str, **fields: str) -> str:
    """What the form of a device sends, with some fields filled in."""
    answer, status = verb(rig, "form", name)
    assert status == "200"
    return json.dumps({**Page(answer["settings"]).submit(), **{key: [text] for key, text in fields.items()}})


def test_a_form_is_kept_before_it_is_answered(rig: Rig, tmp_path: Path) -> None:
    answer, status = verb(rig, "form_set", "one", sent(rig, "one", label="Pond", offset="2"))
    assert (status, answer["ok"]) == ("200", True)
    kept = msgspec.json.decode((tmp_path / "devices.json").read_bytes())["devices"]["one"]["settings"]
    assert (kept["label"], kept["offset"]) == ("Pond", 2)
    assert verb(rig, "labels")[0] == {"one": "Pond"}
    becomes(rig, "one", RAW + 2)


def test_what_is_wrong_is_in_its_place_with_what_was_sent(rig: Rig, tmp_path: Path) -> None:
    answer, status = verb(rig, "form_set", "one", sent(rig, "one", offset="99", label="Pond"))
    assert (status, answer["ok"], answer["status"]) == ("200", False, "400")
    page = Page(answer["html"])
    assert page.control("offset")["aria-invalid"] == "true"
    assert (page.control("offset")["value"], page.control("label")["value"]) == ("99", "Pond")
    assert rig.devices["one"].label == "one"
    assert not (tmp_path / "devices.json").exists()


def test_a_disk_that_takes_nothing_is_said_with_the_form(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "devices.json.new").mkdir()
    answer, status = verb(rig, "form_set", "one", sent(rig, "one", label="Pond"))
    assert (status, answer["ok"], answer["status"]) == ("200", False, MDP.UNAVAILABLE.decode())
    assert "devices.json" in answer["html"]
    assert Page(answer["html"]).control("label")["value"] == "Pond"
    assert rig.devices["one"].label == "one"


def test_a_device_is_made_by_its_form(rig: Rig) -> None:
    assert verb(rig, "form_kinds")[0].keys() == {"test.made"}
    blank, _ = verb(rig, "form_new", "test.made")
    fields = Page(blank).submit()
    answer, _ = verb(rig, "form_make", "test.made", json.dumps({**fields, "name": ["one"]}))
    assert (answer["ok"], Page(answer["html"]).control("name")["value"]) == (False, "one")
    answer, _ = verb(rig, "form_make", "test.made", json.dumps({**fields, "name": ["pond"]}))
    assert (answer["ok"], answer["result"]["name"]) == (True, "pond")
    assert verb(rig, "form", "pond")[0]["keep"] == ""
    assert verb(rig, "form", "one")[0]["keep"]


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["form", "nobody"], "404"),
        (["form_set", "one", "no JSON"], "400"),
        (["form_set", "one", "[]"], "400"),
        (["form_set", "one", '{"label": "x"}'], "400"),
        (["form_set", "one", '{"label": [5]}'], "400"),
        (["form_set", "one", " " * 300_000], "400"),
        (["form_do", "one", "config", "{}"], "404"),
        (["form_do", "one", "nothing", "{}"], "404"),
        (["form_new", "test.thermometer"], "404"),
        (["form_make", "nothing", "{}"], "404"),
    ],
)
def test_what_makes_no_sense_is_refused(rig: Rig, words: list[str], status: str) -> None:
    assert verb(rig, *words)[1] == status
    assert sorted(rig.devices) == ["one", "relay", "two"]


def test_a_command_is_given_and_refused_by_its_form(rig: Rig) -> None:
    (form,) = (each for each in verb(rig, "form", "relay")[0]["commands"] if each["name"] == "power")
    assert form["held"] is True
    assert Page(form["html"]).control("value")["tag"] == "select"
    answer, _ = verb(rig, "form_do", "relay", "power", '{"value": ["maybe"]}', "10", "ada")
    assert (answer["ok"], answer["status"]) == (False, "400")
    answer, _ = verb(rig, "form_do", "relay", "power", '{"value": ["true"]}', "10", "ada")
    assert answer == {"ok": True, "result": True}
    assert rig.devices["relay"].details()["by"] == "ada"
