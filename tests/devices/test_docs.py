"""docs/devices.rst: the class that it shows works."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from raspy.common.devices.device import DeviceRegister, ReadingError

PAGE = Path(__file__).parents[2] / "docs" / "devices.rst"


def test_the_new_kind_of_device_of_the_page() -> None:
    block = re.search(r"\.\. code-block:: python\n\n((?:   .*\n|\n)+)", PAGE.read_text(encoding="utf-8"))
    assert block is not None
    names: dict[str, Any] = {"__name__": "raspy_example"}
    exec(compile(textwrap.dedent(block[1]), "devices.rst", "exec", dont_inherit=True), names)
    device = DeviceRegister(names["SensorPh"]).new({"oid": "sensor.ph", "name": "reef", "offset": 0.1})
    assert list(names["SensorPh"].check({"name": "reef", "offset": 3})) == ["offset"]
    with pytest.raises(ReadingError, match="pH probe cannot be read"):
        device.do_poll()
    device.update({"ph": 8.2})
    assert device.commands["ph"].value == 8.2
