"""raspy.servers.sync.keepers: which other program keeps the clock."""

from __future__ import annotations

from pathlib import Path

import pytest

from raspy.servers.sync.keepers import PROCESSES, UNITS, keeper
from raspy.servers.sync.simulate import SimulatedMachine


@pytest.fixture
def machine(tmp_path: Path) -> SimulatedMachine:
    return SimulatedMachine(str(tmp_path))


def run(machine: SimulatedMachine, pid: str, name: str) -> None:
    directory = Path(machine.proc, pid)
    directory.mkdir(parents=True)
    (directory / "comm").write_text(f"{name}\n")


@pytest.mark.parametrize(("name", "daemon"), PROCESSES.items())
def test_a_process_is_known_by_its_name(machine: SimulatedMachine, name: str, daemon: str) -> None:
    run(machine, "1", "systemd")
    run(machine, "self", name)
    assert keeper(machine) == "", "what is no process counts for nothing"
    run(machine, "812", name)
    assert keeper(machine) == daemon


def test_a_process_that_ends_meanwhile_is_passed_over(machine: SimulatedMachine) -> None:
    Path(machine.proc, "11").mkdir(parents=True)
    assert keeper(machine) == ""
    run(machine, "12", "chronyd")
    assert keeper(machine) == "chrony"


@pytest.mark.parametrize(("unit", "daemon"), UNITS.items())
def test_a_unit_is_known_where_processes_are_hidden(machine: SimulatedMachine, unit: str, daemon: str) -> None:
    Path(machine.cgroups[0], "system.slice", "cron.service").mkdir(parents=True)
    assert keeper(machine) == ""
    Path(machine.cgroups[0], "system.slice", f"{unit}.service").mkdir()
    assert keeper(machine) == daemon


def test_nothing_that_can_be_listed_is_nobody(machine: SimulatedMachine, tmp_path: Path) -> None:
    machine.proc = str(tmp_path / "none")
    assert keeper(machine) == ""
