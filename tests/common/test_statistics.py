"""Statistics, and the worker that serves them."""

from __future__ import annotations

from typing import Any

import pytest

from raspy.common import MDP
from raspy.common.statistics import SNMP, SNMPCounter, SNMPFloat, SNMPString, Statistics, memory
from raspy.common.verbs import VerbError


class Pump(Statistics):
    """Counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.add_statistic(SNMP("pump.speed", "Turns per minute"))
        self.add_statistic(SNMPFloat("pump.flow", "Flow, in l/h"))
        self.add_statistic(SNMPString("pump.state", "State"))
        self.runs = self.add_statistic(SNMPCounter("pump.runs", "Runs since the start"))

    def update_statistic(self, oid: str = "") -> None:
        self.asked.append(oid)
        self._statistics["pump.speed"].set(1200)


def ask(pump: Pump, *frames: bytes) -> Any:
    return pump.worker_statistics().find(list(frames)).call(pump, list(frames[1:]))


def test_each_kind_has_its_first_value() -> None:
    assert Pump().statistics() == {"pump.speed": 1200, "pump.flow": 0.0, "pump.state": "", "pump.runs": 0}
    assert (SNMP().value, SNMPCounter().value, SNMPFloat(initial=1.5).value, SNMPString(initial="x").value) == (
        0,
        0,
        1.5,
        "x",
    )


def test_a_counter_adds_and_starts_again() -> None:
    counter = SNMPCounter(initial=4294967294)
    counter.set()
    assert counter.value == 4294967295
    counter.set(3)
    assert counter.value == 2
    small = SNMPCounter(overflow=10)
    small.set(25)
    assert small.value == 5


def test_the_verbs() -> None:
    pump = Pump()
    pump.runs.set(2)
    assert ask(pump, b"list_keys") == ["pump.speed", "pump.flow", "pump.state", "pump.runs"]
    assert ask(pump, b"all") == {"pump.speed": 1200, "pump.flow": 0.0, "pump.state": "", "pump.runs": 2}
    assert ask(pump, b"get", b"pump.runs") == {"oid": "pump.runs", "value": 2, "doc": "Runs since the start"}
    assert pump.asked == ["", "pump.runs"]
    assert all(verb.reads for verb in pump.worker_statistics())


@pytest.mark.parametrize("oid", ["pump", "", "pump.runs ", "x" * 1000])
def test_an_unknown_one_is_answered_404(oid: str) -> None:
    with pytest.raises(VerbError, match="list_keys names them") as caught:
        ask(Pump(), b"get", oid.encode())
    assert caught.value.status == MDP.NOT_FOUND
    assert len(str(caught.value)) < 200


def test_an_oid_is_taken_once_and_may_be_given_back() -> None:
    pump = Pump()
    with pytest.raises(ValueError, match=r"pump\.runs exists"):
        pump.add_statistic(SNMP("pump.runs"))
    for _ in range(2):
        pump.remove_statistic("pump.runs")
    again = pump.add_statistic(SNMP("pump.runs", initial=7))
    assert pump.statistics()["pump.runs"] == again.value == 7


def test_no_two_have_their_statistics_in_common() -> None:
    one, other = Pump(), Pump()
    one.runs.set()
    assert other.statistics()["pump.runs"] == 0


def test_the_memory_of_a_process_is_known_here() -> None:
    assert 1 << 20 < memory() < 1 << 40
