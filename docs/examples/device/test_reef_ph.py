"""The pH probe, without a server."""

import pytest
from reef_ph import SensorPh

from raspy.common.devices.device import ReadingError


def test_the_ph_is_read(tmp_path):
    (tmp_path / "ph").write_text("8.1\n")
    probe = SensorPh.new({"name": "reef", "file": str(tmp_path / "ph"), "offset": 0.1})
    assert probe.do_poll()["ph"] == pytest.approx(8.2)


def test_a_file_that_is_not_there_is_an_error():
    probe = SensorPh.new({"name": "reef", "file": "/nowhere"})
    with pytest.raises(ReadingError, match="the pH cannot be read"):
        probe.do_poll()


def test_settings_are_checked():
    assert list(SensorPh.check({"name": "reef", "offset": 3})) == ["offset"]
