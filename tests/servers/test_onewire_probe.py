"""What an owner sets of a 1-Wire probe: calibration and resolution; and what it tells of itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raspy.common.devices.errors import FieldErrors, ReadingError
from raspy.servers.onewire.probe import Probe
from raspy.servers.onewire.reader import Reading

NAME = "28-031655c9d5ff"
ICE_AND_STEAM = {"measured_low": 0.5, "true_low": 0.0, "measured_high": 98.5, "true_high": 100.0}


def probe(**settings: object) -> Probe:
    return Probe.new({"name": NAME, "poll": 10.0, **settings})


def value(device: Probe, degrees: float) -> object:
    device.update({"temperature": degrees, "found": Reading(degrees, bits=12, conversion=0.75)})
    return device.commands["temperature"].value


def test_without_a_calibration_the_value_is_what_the_chip_says() -> None:
    assert value(probe(), 21.0625) == 21.0625


def test_an_offset_is_added() -> None:
    device = probe(offset=-0.3)
    assert value(device, 21.0625) == 20.7625
    assert device.details()["raw"] == 21.0625


def test_two_points_make_a_line() -> None:
    device = probe(**ICE_AND_STEAM)
    assert value(device, 0.5) == 0.0
    assert value(device, 98.5) == 100.0
    assert value(device, 49.5) == 50.0
    assert value(probe(**ICE_AND_STEAM, offset=1), 49.5) == 51.0


def test_a_calibrated_value_beyond_the_range_of_the_chip_is_a_value() -> None:
    assert value(probe(offset=5), 124.0) == 129.0
    assert value(probe(offset=-10), -55.0) == -65.0


@given(
    st.floats(-55, 125),
    st.floats(-65, 135),
    st.floats(-55, 125),
    st.floats(-65, 135),
    st.floats(-10, 10),
    st.floats(-55, 125),
)
def test_any_calibration_that_is_taken_keeps_the_value_near_and_in_order(
    low: float, true_low: float, high: float, true_high: float, offset: float, degrees: float
) -> None:
    points = {"measured_low": low, "true_low": true_low, "measured_high": high, "true_high": true_high}
    try:
        device = probe(**points, offset=offset)
    except FieldErrors:
        return
    calibrated = device.config.calibrated(degrees)
    assert abs(calibrated - degrees) <= 10 + 10 + 0.25 * 180
    assert calibrated > -273.15
    assert device.config.calibrated(degrees + 1) > calibrated


@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        ({"offset": 11}, ["offset"]),
        ({"offset": None}, ["offset"]),
        ({"measured_low": 0.5}, ["true_low", "measured_high", "true_high"]),
        ({**ICE_AND_STEAM, "true_high": None}, ["true_high"]),
        ({**ICE_AND_STEAM, "measured_high": 5.0}, ["measured_high"]),
        ({**ICE_AND_STEAM, "measured_high": -5.0}, ["measured_high"]),
        ({**ICE_AND_STEAM, "true_low": 12.0}, ["true_low"]),
        ({**ICE_AND_STEAM, "true_high": 80.0}, ["true_high"]),
        ({"measured_low": 0.0, "true_low": -4.0, "measured_high": 10.0, "true_high": 14.0}, ["true_high"]),
        ({"measured_low": 0.0, "true_low": 4.0, "measured_high": 10.0, "true_high": 6.0}, ["true_high"]),
        ({**ICE_AND_STEAM, "measured_low": -56.0}, ["measured_low"]),
        ({"resolution": 8}, ["resolution"]),
        ({"resolution": 13}, ["resolution"]),
        ({"resolution": -1}, ["resolution"]),
        ({"resolution": 9.5}, ["resolution"]),
        ({"name": "10-00080283a977", "resolution": 9}, ["resolution"]),
        ({"name": "tank"}, ["name"]),
        ({"name": "01-00080283a977"}, ["name"]),
    ],
)
def test_settings_that_cannot_be_are_errors_of_their_fields(settings: dict[str, object], fields: list[str]) -> None:
    errors = Probe.check({"name": NAME, **settings})
    assert list(errors) == fields
    assert all(errors.values())


def test_a_calibration_can_be_taken_back() -> None:
    device = probe(**ICE_AND_STEAM)
    device.configure(dict.fromkeys(ICE_AND_STEAM))
    assert value(device, 0.5) == 0.5
    assert Probe.new(device.json).config == device.config


def test_details_tell_how_a_reading_was_come_by() -> None:
    device = probe()
    assert "raw" not in device.details()
    value(device, 21.0625)
    details = device.details()
    assert (details["raw"], details["resolution"], details["conversion"]) == (21.0625, 12, 0.75)
    assert "checks" not in details
    assert "problem" not in details
    device.update({"temperature": 20.0, "found": Reading(20.0, plain=True, problem="the chip stays at 12 bits")})
    assert "not the bytes" in device.details()["checks"]
    assert device.details()["problem"] == "the chip stays at 12 bits"


def test_readings_are_counted_by_kind() -> None:
    device = probe()
    value(device, 20.0)
    device.update({"temperature": 20.0, "found": Reading(20.0, retried=True)})
    for kind in ("crc", "crc", "power-on", "timeout", "gone", "range"):
        device.update(ReadingError(kind, "no good"))
    device.update(OSError("what nobody expected"))
    assert device.counts == {
        "good": 2,
        "retried": 1,
        "crc": 2,
        "power-on": 1,
        "timeout": 1,
        "gone": 1,
        "range": 1,
        "internal": 1,
    }
    device.exec_cmd("", "reset", "")
    assert set(device.counts.values()) == {0}
    assert device.last is None


def test_the_power_on_value_is_judged_by_what_the_chip_said_not_by_what_was_made_of_it() -> None:
    device = probe(offset=10)
    value(device, 74.0)
    assert device.last is not None
    assert device.last.degrees == 74.0


def test_what_is_known_of_the_chip_is_kept_until_a_reading_says_otherwise() -> None:
    device = probe()
    for genuine, known in ((None, False), (True, True), (None, True), (False, False), (True, True)):
        device.update({"temperature": 20.0, "found": Reading(20.0, genuine=genuine)})
        assert device.genuine is known
    device.update(ReadingError("crc", "no good"))
    assert device.genuine
    device.exec_cmd("", "reset", "")
    assert not device.genuine


def test_a_probe_without_known_settings_gives_no_value() -> None:
    device = probe()
    device.unsettled = "its settings are not known yet"
    assert value(device, 20.0) is None
    assert device.counts["good"] == 1
    assert device.details()["raw"] == 20.0
