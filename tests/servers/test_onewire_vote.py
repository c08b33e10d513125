"""A vote of several 1-Wire probes."""

from __future__ import annotations

import math
import time
from pathlib import Path

import msgspec
import pytest

from raspy.common.devices.device import BaseDevice
from raspy.common.devices.errors import ReadingError
from raspy.common.devices.value import Value
from raspy.servers.onewire import OneWire, OneWireConfig
from raspy.servers.onewire.probe import Probe
from raspy.servers.onewire.reader import Reading
from raspy.servers.onewire.simulate import GOOD, Tree
from raspy.servers.onewire.vote import Vote
from tests.support_devices import ask, reading, short_directory, started, until

A, B, C = "28-00000000000a", "28-00000000000b", "28-00000000000c"


def stage(degrees: dict[str, float | None], **settings: object) -> Vote:
    """A vote of probes that have just been read; None: not well."""
    devices: dict[str, BaseDevice] = {}
    for name, found in degrees.items():
        probe = devices[name] = Probe.new({"name": name, "poll": 10.0})
        if found is None:
            probe.update(ReadingError("crc", "CRC failed"))
        else:
            probe.update({"temperature": found, "found": Reading(found)})
    vote = Vote.new({"name": "tank", "probes": " ".join(degrees), **settings})
    vote.devices = devices
    return vote


def result(vote: Vote) -> float:
    return vote.do_poll()["temperature"]


def refusal(vote: Vote) -> str:
    with pytest.raises(ReadingError) as caught:
        vote.do_poll()
    return str(caught.value)


def test_the_median_of_three_and_of_two() -> None:
    assert result(stage({A: 24.0, B: 24.5, C: 24.25})) == 24.25
    assert result(stage({A: 24.0, B: 24.5})) == 24.25


def test_the_mean_of_those_that_agree() -> None:
    assert result(stage({A: 24.0, B: 24.5, C: 24.25}, method="agreement")) == 24.25
    assert result(stage({A: 24.0, B: 25.0, C: 24.0}, method="agreement")) == 24.3333


def test_those_that_differ_are_named() -> None:
    text = refusal(stage({A: 24.0, B: 24.25, C: 26.0}))
    assert text == f"{C} (26 °C) differ by more than 1 °C from the median (24.25 °C)"
    text = refusal(stage({A: 24.0, B: 24.75, C: 25.25}, method="agreement"))
    assert text == f"{A} (24 °C) and {C} (25.25 °C) differ by more than 1 °C"
    assert result(stage({A: 24.0, B: 24.75, C: 25.25})) == 24.75


def test_the_limit_itself_is_no_difference() -> None:
    assert result(stage({A: 24.0, B: 25.0}, method="agreement")) == 24.5
    assert result(stage({A: 24.0, B: 25.0}, limit=1)) == 24.5
    assert result(stage({A: 24.0, B: 25.0, C: 26.0}, limit=1)) == 25.0


def test_a_median_is_not_taken_between_two_that_contradict_each_other() -> None:
    assert refusal(stage({A: 24.0, B: 25.9})) == f"{A} (24 °C) and {B} (25.9 °C) differ by more than 1 °C"
    two_and_two = {A: 24.0, B: 24.0, C: 26.0, "28-00000000000d": 26.0}
    assert refusal(stage(two_and_two)).endswith("differ by more than 1 °C")


def test_a_probe_in_error_is_left_out_and_said() -> None:
    vote = stage({A: 24.0, B: 24.5, C: None})
    assert result(vote) == 24.25
    assert vote.details() == {"used": [A, B], "left_out": {C: "CRC failed"}}


def test_fewer_than_the_quorum_are_no_vote() -> None:
    vote = stage({A: 24.0, B: None})
    assert refusal(vote) == f"1 of 2 good readings: {B}: CRC failed"
    assert result(stage({A: 24.0, B: None}, quorum=1)) == 24.0
    assert refusal(stage({A: 24.0, B: 24.0, C: None}, quorum=3)).startswith("2 of 3 good readings")


def test_a_probe_that_is_not_there_or_was_not_read_or_is_not_settled_is_left_out() -> None:
    vote = stage({A: 24.0, B: 24.5, C: 24.0})
    devices = dict(vote.devices)
    del devices[A]
    devices[B] = Probe.new({"name": B, "poll": 10.0})
    unsettled = devices[C]
    unsettled.unsettled = "its settings are not known"
    assert isinstance(unsettled, Probe)
    unsettled.update({"temperature": 24.0, "found": Reading(24.0)})
    vote.devices = devices
    refusal(vote)
    assert vote.details()["left_out"] == {
        A: "not on this server",
        B: "not read yet",
        C: "its settings are not known",
    }


def test_an_old_reading_is_left_out() -> None:
    vote = stage({A: 24.0, B: 24.5, C: 24.0})
    old = vote.devices[A]
    assert isinstance(old, Probe)
    old.last_at = time.monotonic() - 3 * old.poll - 1
    assert result(vote) == 24.25
    assert vote.left_out == {A: "its last reading is too old"}


def test_a_member_that_is_read_less_often_than_the_vote_counts_while_it_is_fresh() -> None:
    vote = stage({A: 24.0, B: 24.5, C: 24.0})
    slow = vote.devices[A]
    assert isinstance(slow, Probe)
    slow.configure({"poll": 3600.0})
    slow.last_at = time.monotonic() - 25
    assert result(vote) == 24.0
    slow.last_at = time.monotonic() - 31
    result(vote)
    assert vote.left_out == {A: "its last reading is too old"}


def published(vote: Vote) -> Value:
    """What a vote puts on the tree."""
    vote.update(vote.do_poll())
    found = vote.commands["temperature"].reading
    assert found is not None
    return found


def test_a_vote_is_as_old_as_the_oldest_reading_that_counted() -> None:
    vote = stage({A: 24.0, B: 24.5, C: 24.0})
    assert published(vote).time == pytest.approx(time.time(), abs=1)
    assert vote.good_until == pytest.approx(time.monotonic() + 30, abs=1)
    now = time.monotonic()
    for name, age in ((A, 12.0), (B, 25.0), (C, 31.0)):
        probe = vote.devices[name]
        assert isinstance(probe, Probe)
        probe.last_at = now - age
    for _ in range(2):  # to count it once more makes it no newer
        found = published(vote)
        assert found.time == pytest.approx(time.time() - 25, abs=1)
        assert found.max_age == 30.0
        assert vote.used == [A, B]
        assert vote.good_until == pytest.approx(now + 5, abs=0.1)
    for name in (A, B):
        vote.devices[name].update(ReadingError("crc", "CRC failed"))
    with pytest.raises(ReadingError) as caught:
        vote.do_poll()
    vote.update(caught.value)
    error = vote.commands["temperature"].reading
    assert error is not None
    assert error.time == pytest.approx(time.time(), abs=1)
    assert vote.good_until == math.inf


def test_one_that_hangs_is_left_out_as_soon_as_its_reading_is_too_old(tmp_path: Path) -> None:
    """Published as of its oldest reading, the vote would not be believed until it is next due."""
    tree = Tree(str(tmp_path))
    probes = list(GOOD)[:2]
    for name in probes:
        tree.add(name, GOOD[probes[0]][0])
    with short_directory() as nowhere:
        settings = OneWireConfig(devices_dir=str(tmp_path), poll=0.2, timeout=8.0)
        with started(OneWire(hostname="pi", broker_ip=f"ipc://{nowhere}", settings=settings)) as owner:
            until(owner, lambda: len(owner.devices) == 2)
            json = {"oid": "sensor.vote", "name": "tank", "probes": " ".join(probes), "quorum": 1, "poll": 60}
            assert ask(owner, "new", msgspec.json.encode(json).decode())[1] == "200"
            vote = owner.devices["tank"]
            assert isinstance(vote, Vote)
            until(owner, lambda: vote.used == probes)
            tree.hang(probes[1])
            until(owner, lambda: probes[1] in vote.left_out)
            assert vote.left_out == {probes[1]: "its last reading is too old"}
            found = reading(owner, "tank", "temperature")
            assert found is not None
            assert found.quality == "ok"


def test_calibrated_values_are_compared() -> None:
    vote = stage({A: 24.0, B: 26.0})
    probe = vote.devices[B]
    assert isinstance(probe, Probe)
    probe.configure({"offset": -2})
    probe.update({"temperature": 26.0, "found": Reading(26.0)})
    assert result(vote) == 24.0


@pytest.mark.parametrize("text", [f"{A} {B}", f"{A},{B}", f" {A.upper()} ,  {B} "])
def test_probes_are_told_apart_by_spaces_or_commas(text: str) -> None:
    assert Vote.new({"name": "tank", "probes": text}).config.members == [A, B]


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"probes": ""}, "probes"),
        ({"probes": A}, "probes"),
        ({"probes": f"{A} {A}"}, "probes"),
        ({"probes": f"{A} tank"}, "probes"),
        ({"probes": f"{A} 01-00000000000b"}, "probes"),
        ({"probes": " ".join(f"28-{n:012x}" for n in range(17))}, "probes"),
        ({"probes": [A, B]}, "probes"),
        ({"probes": "x" * 401}, "probes"),
        ({"quorum": 3}, "quorum"),
        ({"quorum": 0}, "quorum"),
        ({"limit": 0}, "limit"),
        ({"limit": 51}, "limit"),
        ({"method": "mode"}, "method"),
        ({"name": A}, "name"),
        ({"poll": -1}, "poll"),
    ],
)
def test_settings_that_cannot_be_are_errors_of_their_fields(settings: dict[str, object], field: str) -> None:
    errors = Vote.check({"name": "tank", "probes": f"{A} {B}"} | settings)
    assert list(errors) == [field]


def test_it_is_complete_when_all_that_are_read_were() -> None:
    vote = stage({A: 24.0, B: 24.5, C: 24.0})
    missing = dict(vote.devices)
    del missing[C]
    vote.devices = missing
    assert not vote.complete(A)
    assert not vote.complete("28-0000000000ff")
    assert vote.complete(B)
    result(vote)
    assert not vote.complete(B)


def test_a_vote_is_made_read_with_its_probes_and_deleted(tmp_path: Path) -> None:
    tree = Tree(str(tmp_path))
    probes = list(GOOD)[:3]
    text = GOOD[probes[0]][0]
    for name in probes:
        tree.add(name, text)
    with short_directory() as nowhere:
        settings = OneWireConfig(devices_dir=str(tmp_path), poll=0.2)
        with started(OneWire(hostname="pi", broker_ip=f"ipc://{nowhere}", settings=settings)) as owner:
            until(owner, lambda: len(owner.devices) == 3)
            json = f'{{"oid": "sensor.vote", "name": "tank", "probes": "{" ".join(probes)}", "poll": 60}}'
            made, status = ask(owner, "new", json)
            assert (made["name"], status) == ("tank", "200")
            until(owner, lambda: reading(owner, "tank", "temperature"))
            found = reading(owner, "tank", "temperature")
            assert found is not None
            assert (found.number(), found.unit) == (21.0625, "°C")
            assert ask(owner, "info", "tank")[0]["details"] == {"used": probes, "left_out": {}}
            tree.add(probes[2], GOOD["28-00000623003b"][0])  # 23.125
            until(owner, lambda: (now := reading(owner, "tank", "temperature")) and now.quality == "error")
            now = reading(owner, "tank", "temperature")
            assert now is not None
            assert now.reason == f"{probes[2]} (23.125 °C) differ by more than 1 °C from the median (21.0625 °C)"
            tree.remove(probes[2])
            until(owner, lambda: (now := reading(owner, "tank", "temperature")) and now.quality == "ok")
            left_out = ask(owner, "info", "tank")[0]["details"]["left_out"]
            assert left_out == {probes[2]: "gone: the probe is not on the bus"}
            assert ask(owner, "delete", "tank")[1] == "200"
            assert "tank" not in owner.devices
            assert owner.errors == 0
