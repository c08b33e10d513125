"""docs/devices.rst and new-device.rst: the classes and the form that they show work. The chapter's package is tried in
test_register, its commands in tests/integration/test_examples.py."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from raspy.common.devices.device import DeviceRegister, ReadingError
from tests.support_forms import Page

DOCS = Path(__file__).parents[2] / "docs"
BLOCKS = [
    textwrap.dedent(block)
    for page in ("devices.rst", "new-device.rst")
    for block in re.findall(r"\.\. code-block:: python\n\n((?:   .*\n|\n)+)", (DOCS / page).read_text(encoding="utf-8"))
]


def run(text: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "raspy_example"}
    exec(compile(text, "devices.rst", "exec", dont_inherit=True), names)
    return names


def block(word: str) -> dict[str, Any]:
    """What the one block of the page defines that has a word in it."""
    (text,) = (text for text in BLOCKS if word in text)
    return run(text)


def test_the_new_kind_of_device(tmp_path: Path) -> None:
    kind = run((DOCS / "examples" / "device" / "reef_ph.py").read_text(encoding="utf-8"))["SensorPh"]
    file = str(tmp_path / "ph")
    device = DeviceRegister(kind).new({"oid": "sensor.ph", "name": "reef", "offset": 0.1, "file": file})
    assert device.log
    assert list(kind.check({"name": "reef", "offset": 3})) == ["offset"]
    with pytest.raises(ReadingError, match="the pH cannot be read"):
        device.do_poll()
    device.update({"ph": 8.2})
    assert device.commands["ph"].value == 8.2
    assert kind.from_form(Page(device.to_html()).submit()).json == device.json


def test_the_settings() -> None:
    kind = block("BoilerSettings")["BoilerSettings"]
    assert kind().check() == {}
    assert list(kind(low=30.0, high=20.0).check()) == ["low"]


def test_the_subdevice() -> None:
    tv = block("LivingRoomTV")["LivingRoomTV"].new({"name": "tv"})
    assert list(tv.subdevices) == ["volume", "channel", "source"]
    assert tv.exec_cmd("source", "source", "hdmi1").value == "hdmi1"


def test_the_form() -> None:
    names = block("register.from_form")
    assert list(names["register"].check({"oid": "sensor.temperature", "name": "tank", "poll": "often"})) == ["poll"]
    page = Page(names["form"])
    page.check_accessible()
    assert page.control("poll")["value"] == "often"
    assert page.control("label")["value"] == "Reef"
    assert [name for name in page.ids if name.endswith(".error")] == ["new.sensor.temperature:poll.error"]
