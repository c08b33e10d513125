"""The 1-Wire server on live buses, whose probes take their time: what is measured when, and in which order."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from raspy.common import pool
from raspy.common.devices.errors import ReadingError
from raspy.common.devices.host import HUNG_LIMIT
from raspy.servers.onewire import OneWire, OneWireConfig, bus, reader, sysfs
from raspy.servers.onewire.probe import Probe
from raspy.servers.onewire.simulate import GOOD, Tree
from tests.support_devices import LIMIT, ask, reading, short_directory, started, until

CONVERSION = 0.1
WIRE = 0.002
TEXT = GOOD["28-031655c9d5ff"][0]


def name_of(number: int, family: int = 0x28) -> str:
    return f"{family:02x}-{number:012x}"


@contextmanager
def live(
    path: Path,
    probes: int = 0,
    bulk: bool = True,
    parasite: bool = False,
    master: str = "w1_bus_master1",
    first: int = 0,
    conversion: float = CONVERSION,
) -> Generator[Tree, None, None]:
    """A live tree with probes of 20.0, 20.0625... °C."""
    tree = Tree.live(str(path), conversion, bulk=bulk, parasite=parasite, wire=WIRE, master=master)
    try:
        for number in range(first, first + probes):
            tree.plug(name_of(number), 20 + number / 16)
        yield tree
    finally:
        tree.close()


@contextmanager
def serving(path: Path, poll: float = 60.0, timeout: float = 8.0, **more: bool) -> Generator[OneWire, None, None]:
    with short_directory() as nowhere:
        settings = OneWireConfig(devices_dir=str(path), poll=poll, timeout=timeout, **more)
        with started(OneWire(hostname="pi", broker_ip=f"ipc://{nowhere}", settings=settings)) as owner:
            yield owner
            assert owner.errors == 0, owner.last_error


def quality(owner: OneWire, name: str) -> str:
    found = reading(owner, name, "temperature")
    return "none" if found is None else found.quality


def good(owner: OneWire, count: int, rounds: int = 1) -> Callable[[], bool]:
    return lambda: len(owner.probes()) == count and all(probe.counts["good"] >= rounds for probe in owner.probes())


def patient(owner: OneWire, probes: list[Probe]) -> dict[str, int]:
    """From here on, calls of these are not given up because the machine is busy; what is refused for the sake of others
    counts as before. By name: how often that was up to now."""
    for probe in probes:
        probe.timeout = LIMIT
    before = {probe.name: probe.counts["good"] for probe in probes}
    # One call may have been under way.
    until(owner, lambda: all(probe.counts["good"] > before[probe.name] + 1 for probe in probes))
    return timeouts(probes)


def timeouts(probes: list[Probe]) -> dict[str, int]:
    return {probe.name: probe.counts["timeout"] for probe in probes}


def counted(tree: Tree) -> tuple[int, int]:
    assert tree.bus is not None
    return tree.bus.bulk_conversions, tree.bus.conversions


# --- Bulk conversion -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("probes", [10, 100])
@pytest.mark.parametrize("parasite", [False, True])
def test_all_probes_are_measured_by_one_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, probes: int, parasite: bool
) -> None:
    # However long it takes to read them all.
    monkeypatch.setattr(bus, "FRESH", LIMIT)
    with live(tmp_path, probes, parasite=parasite) as tree, serving(tmp_path) as owner:
        until(owner, good(owner, probes))
        assert counted(tree) == (1, 0)
        for number in range(probes):
            found = reading(owner, name_of(number), "temperature")
            assert found is not None
            assert found.number() == 20 + number / 16
        for probe in owner.probes():
            owner.read_soon(probe)
        until(owner, good(owner, probes, rounds=2))
        assert counted(tree) == (2, 0)
        assert owner.devices[name_of(0)].details()["bulk"] == "yes"
        assert "slow" not in owner.conditions


@pytest.mark.parametrize("parasite", [False, True])
def test_without_bulk_each_probe_measures_for_itself(tmp_path: Path, parasite: bool) -> None:
    with live(tmp_path, 10, bulk=False, parasite=parasite) as tree, serving(tmp_path) as owner:
        until(owner, good(owner, 10))
        assert counted(tree) == (0, 10)
        assert owner.devices[name_of(0)].details()["bulk"].startswith("no: the kernel has no therm_bulk_read")


def test_a_single_probe_measures_for_itself(tmp_path: Path) -> None:
    with live(tmp_path, 1) as tree, serving(tmp_path) as owner:
        until(owner, good(owner, 1))
        bulk, plain = counted(tree)
        assert bulk == 0
        assert plain == 1
        owner.read_soon(owner.probes()[0])
        until(owner, good(owner, 1, rounds=2))
        assert counted(tree) == (0, 2)


def test_bulk_can_be_switched_off(tmp_path: Path) -> None:
    with live(tmp_path, 3) as tree, serving(tmp_path, bulk=False) as owner:
        until(owner, good(owner, 3))
        assert counted(tree)[0] == 0
        assert owner.devices[name_of(0)].details()["bulk"] == "no: bulk = false in [onewire]"


def test_a_ds28ea00_that_takes_no_part_measures_for_itself(tmp_path: Path) -> None:
    with live(tmp_path, 3) as tree:
        tree.plug(name_of(7, 0x42), 30.0)
        with serving(tmp_path) as owner:
            until(owner, good(owner, 4))
            assert counted(tree) == (1, 1)
            assert owner.devices[name_of(7, 0x42)].details()["bulk"] == "no: its chip cannot"
            found = reading(owner, name_of(7, 0x42), "temperature")
            assert found is not None
            assert found.number() == 30.0


def test_probes_that_fall_due_apart_come_together(tmp_path: Path) -> None:
    with live(tmp_path, 4) as tree, serving(tmp_path, poll=2.0) as owner:
        until(owner, good(owner, 4))
        for number, probe in enumerate(owner.probes()):
            owner._sources[probe.name].due = time.monotonic() + 0.2 * number
        owner._arm()
        before = counted(tree)[0]
        until(owner, good(owner, 4, rounds=3))
        assert counted(tree) == (before + 2, 0)


def test_what_was_measured_long_ago_is_passed_over(tmp_path: Path) -> None:
    """A probe that is read rarely has the result of the last bulk conversion of the others waiting in it."""
    temperature = [20.0]
    rare = name_of(0)
    with live(tmp_path) as tree:
        tree.plug(rare, lambda: temperature[0])
        for number in (1, 2):
            tree.plug(name_of(number), 25.0)
        with serving(tmp_path) as owner:
            until(owner, good(owner, 3))
            # the others are measured, and it with them, and is not read
            for number in (1, 2):
                owner.read_soon(owner.devices[name_of(number)])
            until(owner, lambda: all(owner.devices[name_of(n)].details()["counts"]["good"] == 2 for n in (1, 2)))
            temperature[0] = 30.0
            probe = owner.probe(rare)
            assert probe is not None
            owner.buses.of(probe).converted -= bus.FRESH
            owner.read_soon(probe)
            until(owner, lambda: probe.counts["good"] == 2)
            found = reading(owner, rare, "temperature")
            assert found is not None
            assert found.number() == 30.0


def test_what_another_server_left_behind_is_passed_over(tmp_path: Path) -> None:
    temperature = [20.0]
    with live(tmp_path) as tree:
        tree.plug(name_of(0), lambda: temperature[0])
        sysfs.convert_all(str(tmp_path / "w1_bus_master1" / "therm_bulk_read"), [], 5)
        temperature[0] = 30.0
        with serving(tmp_path) as owner:
            until(owner, good(owner, 1))
            found = reading(owner, name_of(0), "temperature")
            assert found is not None
            assert found.number() == 30.0


def trigger(path: Path) -> None:
    """What another program does: have all probes of the bus measure, and not wait for it."""
    file = os.open(path / "w1_bus_master1" / "therm_bulk_read", os.O_WRONLY)
    os.write(file, b"trigger\n")
    os.close(file)


def test_what_another_program_had_measured_is_passed_over(tmp_path: Path) -> None:
    temperature = [20.0]
    with live(tmp_path) as tree:
        tree.plug(name_of(0), lambda: temperature[0])
        with serving(tmp_path) as owner:
            until(owner, good(owner, 1))
            trigger(tmp_path)
            until(owner, lambda: counted(tree)[0] == 1)
            temperature[0] = 30.0
            owner.read_soon(owner.probes()[0])
            until(owner, good(owner, 1, rounds=2))
            found = reading(owner, name_of(0), "temperature")
            assert found is not None
            assert found.number() == 30.0
            assert counted(tree) == (1, 2)


def test_what_a_bulk_conversion_measured_that_was_given_up_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temperature, free, write = [20.0], threading.Event(), sysfs._write

    def late(path: str, text: str) -> None:
        assert free.wait(60)
        write(path, text)

    with live(tmp_path) as tree:
        for number in range(2):
            tree.plug(name_of(number), lambda: temperature[0])
        monkeypatch.setattr(sysfs, "_write", late)
        # The next try is in a minute: on a busy machine, too, each of them has to answer in that time.
        with serving(tmp_path, timeout=2.0) as owner:
            until(owner, good(owner, 2))
            assert "it hangs" in owner.probes()[0].how
            free.set()
            until(owner, lambda: counted(tree)[0] == 1 and owner.pool.hung == 0)
            temperature[0] = 30.0
            for probe in owner.probes():
                owner.read_soon(probe)
            until(owner, good(owner, 2, rounds=2))
            for number in range(2):
                found = reading(owner, name_of(number), "temperature")
                assert found is not None
                assert found.number() == 30.0


def static_bus(path: Path, state: str | None) -> str:
    """Three probes that have always measured, and a ``therm_bulk_read`` that says what is given."""
    tree = Tree(str(path))
    for number in range(3):
        tree.add(name_of(number), TEXT)
    file = path / "w1_bus_master1" / "therm_bulk_read"
    if state is not None:
        file.write_text(state)
    return str(file)


def fallen_back(owner: OneWire, reason: str) -> Callable[[], bool]:
    def happened() -> bool:
        return good(owner, 3)() and all(reason in probe.details()["bulk"] for probe in owner.probes())

    return happened


def test_a_bulk_conversion_that_never_ends_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus, "BULK_RETRY", 0.3)
    file = static_bus(tmp_path, "")
    with serving(tmp_path, poll=0.2, timeout=0.3) as owner:
        until(owner, fallen_back(owner, "no: not done in 0.24 s (state 'trigger')"))
        assert Path(file).read_text() == "trigger\n"
        Path(file).unlink()
        until(owner, fallen_back(owner, "no: the kernel has no therm_bulk_read"))


def test_a_bulk_conversion_that_hangs_is_given_up_and_holds_up_nobody(tmp_path: Path) -> None:
    file = static_bus(tmp_path, None)
    os.mkfifo(file)
    with serving(tmp_path, poll=0.3, timeout=0.3) as owner:
        until(owner, fallen_back(owner, "no: it hangs: not done in 0.3 s"))
        before = min(probe.counts["good"] for probe in owner.probes())
        until(owner, good(owner, 3, rounds=before + 2))
        until(owner, lambda: owner.pool.hung == 1)
        os.close(os.open(file, os.O_RDWR | os.O_NONBLOCK))


def test_a_bulk_conversion_that_the_kernel_does_not_begin_is_given_up(tmp_path: Path) -> None:
    tree = Tree.live(str(tmp_path), CONVERSION)  # no probe of it is live, so none can
    for number in range(3):
        tree.add(name_of(number), TEXT)
    with serving(tmp_path) as owner:
        until(owner, fallen_back(owner, "no: the kernel does not begin one"))
    tree.close()


def test_a_bulk_conversion_that_is_over_too_early_is_not_believed(tmp_path: Path) -> None:
    file = static_bus(tmp_path, "0\n")
    done = threading.Event()

    def answer() -> None:
        while not done.wait(0.001):
            if Path(file).read_text() == "trigger\n":
                Path(file).write_text("1\n")

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        with serving(tmp_path) as owner:
            until(owner, fallen_back(owner, "too early for a measurement: the bus did not answer"))
    finally:
        done.set()
        thread.join()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
def test_a_bulk_conversion_that_is_not_permitted_is_said() -> None:
    with short_directory() as place:
        os.chmod(place, 0o755)
        file = static_bus(Path(place), "0\n")
        resolution = Path(place, name_of(0), "resolution")
        os.chmod(resolution, 0o444)
        os.seteuid(65534)
        try:
            with pytest.raises(sysfs.NotBegun, match=f"Permission denied: the server must be allowed to write {file}"):
                sysfs.convert_all(file, [], 1)
            problem = sysfs.set_resolution(str(resolution.parent), 9)
            assert problem.startswith("9 bits cannot be set: Permission denied: the server must be allowed to write")
            found = sysfs.measure(str(resolution.parent), 0x28, None, 9, "")
            assert (found.degrees, found.bits, found.problem) == (21.0625, 12, problem)
        finally:
            os.seteuid(0)


def test_a_bulk_conversion_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus, "BULK_RETRY", 0.3)
    with live(tmp_path, 3) as tree, serving(tmp_path, poll=0.5) as owner:
        file = tmp_path / "w1_bus_master1" / "therm_bulk_read"
        away = file.rename(file.with_name("away"))
        file.mkdir()  # cannot be written
        until(owner, fallen_back(owner, "no: Is a directory"))
        file.rmdir()
        away.rename(file)
        until(owner, lambda: counted(tree)[0] > 0)
        until(owner, lambda: all(probe.details()["bulk"] == "yes" for probe in owner.probes()))


# --- Fairness ------------------------------------------------------------------------------------------------------


def test_a_stuck_probe_holds_up_none_of_its_bus(tmp_path: Path) -> None:
    with live(tmp_path, 5) as tree, serving(tmp_path, poll=0.3, timeout=0.6) as owner:
        until(owner, good(owner, 5))
        others = [probe for probe in owner.probes() if probe.name != name_of(2)]
        given_up = patient(owner, others)
        tree.hang(name_of(2))
        until(owner, lambda: quality(owner, name_of(2)) == "error")
        before = min(probe.counts["good"] for probe in others)
        until(owner, lambda: all(probe.counts["good"] >= before + 3 for probe in others))
        assert timeouts(others) == given_up
        assert tree.bus is not None
        tree.bus.probes[name_of(2)].stuck = False
        until(owner, lambda: quality(owner, name_of(2)) == "ok")


@pytest.mark.parametrize("bulk", [False, True])
def test_a_bus_that_hangs_starves_neither_another_nor_the_search(tmp_path: Path, bulk: bool) -> None:
    second = live(tmp_path, 4, bulk=bulk, master="w1_bus_master2", first=100)
    with live(tmp_path, 20, bulk=bulk) as first, second as other, serving(tmp_path, poll=0.2, timeout=0.4) as owner:
        until(owner, good(owner, 24))
        well = [probe for probe in owner.probes() if probe.name >= name_of(100)]
        given_up = patient(owner, well)
        for number in range(20):
            first.hang(name_of(number))
        until(owner, lambda: all(quality(owner, name_of(number)) == "error" for number in range(20)))
        before = [probe.counts["good"] for probe in well]
        other.plug(name_of(104), 33.0)
        until(owner, lambda: quality(owner, name_of(104)) == "ok")
        until(owner, lambda: all(p.counts["good"] > n + 2 for p, n in zip(well, before, strict=True)))
        assert timeouts(well) == given_up
        assert owner.pool.hung < bus.STRANGERS
        until(owner, lambda: not owner.alive())
        assert first.bus is not None
        for probe in first.bus.probes.values():
            probe.stuck = False
        until(owner, lambda: all(quality(owner, name_of(number)) == "ok" for number in range(20)))
        until(owner, owner.alive)


@pytest.mark.parametrize("masters", [1, 3])
@pytest.mark.parametrize("stuck", [1, 3, 9])
def test_stuck_probes_cost_the_others_of_their_bus_nothing_however_long(
    tmp_path: Path, masters: int, stuck: int
) -> None:
    trees = [Tree(str(tmp_path), f"w1_bus_master{number + 1}") for number in range(masters)]
    for number in range(stuck):
        trees[0].add(name_of(number), TEXT)
        trees[0].hang(name_of(number))
    for number, tree in enumerate(trees):
        for well in range(5):
            tree.add(name_of(100 + 10 * number + well), TEXT)
    with serving(tmp_path, poll=0.1, timeout=0.1) as owner:
        until(owner, lambda: len(owner.probes()) == stuck + 5 * masters)
        bad = [probe for probe in owner.probes() if probe.name < name_of(100)]
        others = [probe for probe in owner.probes() if probe not in bad]
        given_up = patient(owner, others)
        # Each of them has been tried as often as it ever is, and is waited for on and on.
        most = min(HUNG_LIMIT * stuck, max(stuck, bus.SUSPECTS))
        until(owner, lambda: owner.pool.hung >= most)
        so_far = timeouts(bad)
        until(owner, lambda: all(probe.counts["timeout"] > so_far[probe.name] + 8 for probe in bad))
        # Calls that were under way when there were enough of them may hang too.
        assert stuck <= owner.pool.hung <= max(stuck, bus.SUSPECTS) + bus.SLOTS
        before = {probe.name: probe.counts["good"] for probe in others}
        until(owner, lambda: all(probe.counts["good"] > before[probe.name] + 2 for probe in others))
        assert timeouts(others) == given_up
        until(owner, owner.alive)


def test_calls_of_probes_that_vanished_count_and_a_probe_that_is_known_is_read_on(tmp_path: Path) -> None:
    tree = Tree(str(tmp_path / "w1"))
    tree.add(name_of(0), TEXT)
    kept: list[str] = []

    def vanish(name: str) -> None:
        kept.append(str(tmp_path / name))
        os.rename(tree.file(name), kept[-1])  # its call stays in the FIFO
        tree.remove(name)

    with serving(tmp_path / "w1", poll=0.1, timeout=0.1) as owner:
        until(owner, good(owner, 1))
        known = owner.probe(name_of(0))
        assert known is not None
        given_up = patient(owner, [known])
        names = [name_of(number) for number in range(1, bus.STRANGERS + 5)]
        for some in [names[first : first + 4] for first in range(0, len(names), 4)]:
            for name in some:
                tree.add(name, TEXT)
                tree.hang(name)
            until(owner, lambda some=some: all(quality(owner, name) == "error" for name in some))  # type: ignore[misc]
            for name in some:
                vanish(name)
            until(owner, lambda some=some: not owner.devices.keys() & {*some})  # type: ignore[misc]
        until(owner, lambda: owner.pool.hung == bus.STRANGERS)
        tree.add(name_of(99), TEXT)
        until(owner, lambda: quality(owner, name_of(99)) == "error")
        found = reading(owner, name_of(99), "temperature")
        assert found is not None
        assert found.reason == f"not tried: {bus.STRANGERS} calls hang, and none has come back"
        before = known.counts["good"]
        until(owner, lambda: known.counts["good"] > before + 2)
        assert timeouts([known]) == given_up
        for path in kept:
            os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
        until(owner, lambda: quality(owner, name_of(99)) == "ok" and owner.pool.hung == 0)


def test_a_probe_that_hung_is_tried_anew_when_it_was_plugged_out_and_in(tmp_path: Path) -> None:
    tree = Tree(str(tmp_path / "w1"))
    tree.add(name_of(0), TEXT)
    with serving(tmp_path / "w1", poll=0.1, timeout=0.1) as owner:
        until(owner, good(owner, 1))
        tree.hang(name_of(0))
        (probe,) = owner.probes()
        until(owner, lambda: owner.hung_calls(probe) == 4)
        os.rename(tree.file(name_of(0)), tmp_path / "kept")  # its calls stay in the FIFO
        tree.remove(name_of(0))
        until(owner, lambda: probe.gone)
        tree.add(name_of(0), TEXT)
        until(owner, lambda: quality(owner, name_of(0)) == "ok")
        until(owner, lambda: owner.pool.hung == 4)
        os.close(os.open(tmp_path / "kept", os.O_RDWR | os.O_NONBLOCK))


def test_a_pool_without_a_thread_left_makes_no_probe_hang_and_no_search_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "QUEUED", 1000)
    tree = Tree(str(tmp_path))
    tree.add(name_of(0), TEXT)
    free = threading.Event()
    with serving(tmp_path, poll=0.2, timeout=0.3) as owner:
        until(owner, good(owner, 1))
        try:
            for number in range(pool.HUNG + 4):
                owner.in_pool(free.wait, 60, done=lambda result, error: None, timeout=0.01)
                until(owner, lambda number=number: owner.pool.hung > min(number, pool.HUNG))  # type: ignore[misc]
            monkeypatch.setattr(pool, "QUEUED", 1)
            until(owner, lambda: quality(owner, name_of(0)) == "error" and "bus" in owner.conditions)
            until(owner, lambda: not owner.alive())
            probe = owner.probe(name_of(0))
            assert probe is not None
            assert owner.hung_calls(probe) == 0
            tree.add(name_of(1), TEXT)
        finally:
            free.set()
        until(owner, lambda: quality(owner, name_of(0)) == quality(owner, name_of(1)) == "ok")
        until(owner, lambda: owner.alive() and "bus" not in owner.conditions)


def test_a_probe_that_is_read_rarely_tells_whether_the_bus_of_one_that_hangs_is_alive(tmp_path: Path) -> None:
    tree = Tree(str(tmp_path))
    for number in range(2):
        tree.add(name_of(number), TEXT)
    with serving(tmp_path, poll=0.2, timeout=0.2) as owner:
        until(owner, good(owner, 2))
        rare, quick = owner.probes()
        rare.configure({"poll": 86400.0})
        owner.read_soon(rare)
        tree.hang(quick.name)
        before = rare.counts["good"]
        until(owner, lambda: quick.counts["timeout"] > 10)
        assert rare.counts["good"] > before + 2
        assert owner.alive()
        tree.hang(rare.name)
        until(owner, lambda: not owner.alive())


def test_two_buses_measure_at_the_same_time(tmp_path: Path) -> None:
    second = live(tmp_path, 5, master="w1_bus_master2", first=100)
    with live(tmp_path, 5) as first, second as other, serving(tmp_path) as owner:
        begun: list[bool] = []

        def both() -> bool:
            begun.append(all(one.converting is not None for one in owner.buses.by_name.values()))
            return good(owner, 10)()

        until(owner, both)
        assert any(begun)
        assert counted(first) == counted(other) == (1, 0)
        found, status = ask_bus(owner)
        assert status == "200"
        assert [(one["master"], len(one["probes"]), one["bulk"]) for one in found] == [
            ("w1_bus_master1", 5, "yes"),
            ("w1_bus_master2", 5, "yes"),
        ]


def test_a_bus_that_cannot_keep_up_is_reported(tmp_path: Path) -> None:
    with live(tmp_path, 12, bulk=False, parasite=True) as tree, serving(tmp_path, poll=0.2) as owner:
        until(owner, lambda: "slow" in owner.conditions)
        assert owner.conditions["slow"].startswith("w1_bus_master1: its probes wait ")
        for number in range(1, 12):
            tree.remove(name_of(number))
        for number in range(1, 12):
            until(owner, lambda number=number: quality(owner, name_of(number)) != "ok")  # type: ignore[misc]
        until(owner, lambda: "slow" not in owner.conditions)


# --- Resolution ----------------------------------------------------------------------------------------------------


def test_a_resolution_is_set_and_read_back(tmp_path: Path) -> None:
    name = name_of(0)
    with live(tmp_path) as tree:
        tree.plug(name, 20.4375)
        with serving(tmp_path) as owner:
            until(owner, good(owner, 1))
            assert owner.devices[name].details()["resolution"] == 12
            assert ask(owner, "exec", name, "config", '{"resolution": 9}')[1] == "200"
            until(owner, lambda: owner.devices[name].details().get("resolution") == 9)
            found = reading(owner, name, "temperature")
            assert found is not None
            assert found.number() == 20.0
            assert owner.devices[name].details()["conversion"] == 0.012  # 12.5 ms, in whole ones
            assert (tmp_path / name / "resolution").read_text().strip() == "9"
            assert "resolution" not in owner.conditions
            assert ask(owner, "exec", name, "config", '{"resolution": 0}')[1] == "200"
            until(owner, good(owner, 1, rounds=3))
            assert (tmp_path / name / "resolution").read_text().strip() == "9", "0 leaves it as it is"


def test_a_clone_that_stays_at_12_bits_is_given_the_time_for_them(tmp_path: Path) -> None:
    name, temperature = name_of(0), [20.0]
    with live(tmp_path) as tree:
        tree.plug(name, lambda: temperature[0], fixed=True)
        with serving(tmp_path) as owner:
            until(owner, good(owner, 1))
            temperature[0] = 30.0
            assert ask(owner, "exec", name, "config", '{"resolution": 9}')[1] == "200"
            until(owner, good(owner, 1, rounds=2))
            found = reading(owner, name, "temperature")
            assert found is not None
            assert found.number() == 30.0, "not what was measured before"
            assert owner.conditions["resolution"] == f"{name}: the chip stays at 12 bits"
            assert owner.devices[name].details()["problem"] == "the chip stays at 12 bits"
            assert (tmp_path / name / "resolution").read_text().strip() == "12"
            temperature[0] = 25.0
            owner.read_soon(owner.devices[name])
            until(owner, good(owner, 1, rounds=3))
            found = reading(owner, name, "temperature")
            assert found is not None
            assert found.number() == 25.0
            assert ask(owner, "exec", name, "config", '{"resolution": 12}')[1] == "200"
            until(owner, lambda: "resolution" not in owner.conditions)


@pytest.mark.parametrize("bulk", [False, True])
def test_a_chip_that_needs_longer_than_the_kernel_waits_is_found_out_at_once(tmp_path: Path, bulk: bool) -> None:
    """As after a loss of power: the chip is back at 12 bits, and the kernel believes what was written before."""
    temperature = [20.0]
    with live(tmp_path, bulk=bulk) as tree:
        for number in range(2):
            tree.plug(name_of(number), lambda: temperature[0], fixed=True)
        with serving(tmp_path) as owner:
            until(owner, good(owner, 2))
            for number in range(2):
                (tmp_path / name_of(number) / "resolution").write_text("9\n")
            temperature[0] = 30.0
            for probe in owner.probes():
                owner.read_soon(probe)
            until(owner, good(owner, 2, rounds=2))
            for number in range(2):
                found = reading(owner, name_of(number), "temperature")
                assert found is not None
                assert found.number() == 30.0, "not what was measured before"
                assert (tmp_path / name_of(number) / "resolution").read_text() == "12\n"


def slow_chip(path: Path, resolution: str, conversion: str) -> str:
    """The directory of a probe of 12 bits, and what the kernel believes of it."""
    for name, text in {"w1_slave": TEXT, "resolution": resolution, "conv_time": conversion}.items():
        (path / name).write_text(text)
    return str(path)


def test_a_time_that_the_owner_set_is_left_as_it_is(tmp_path: Path) -> None:
    found = sysfs.measure(slow_chip(tmp_path, "12\n", "30\n"), 0x28, None, 0, "")
    assert (found.degrees, found.conversion) == (21.0625, 0.03)


def test_nothing_is_believed_that_was_read_too_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysfs, "set_resolution", lambda directory, bits: "not permitted")
    for wanted in (0, 9):
        with pytest.raises(ReadingError) as caught:
            sysfs.measure(slow_chip(tmp_path, "9\n", "94\n"), 0x28, None, wanted, "")
        assert str(caught.value) == "the chip has 12 bits and the kernel does not wait for them"


def test_a_resolution_that_cannot_be_set_is_a_condition_and_readings_go_on(tmp_path: Path) -> None:
    name = name_of(0)
    tree = Tree(str(tmp_path))
    tree.add(name, TEXT)
    file = tmp_path / name / "resolution"
    file.unlink()
    file.mkdir()
    with serving(tmp_path, poll=0.2) as owner:
        until(owner, good(owner, 1))
        assert ask(owner, "exec", name, "config", '{"resolution": 9}')[1] == "200"
        until(owner, lambda: "resolution" in owner.conditions)
        assert owner.conditions["resolution"] == f"{name}: 9 bits cannot be set: Is a directory"
        until(owner, good(owner, 1, rounds=5))
        assert quality(owner, name) == "ok"
        tree.remove(name)
        until(owner, lambda: "resolution" not in owner.conditions)


def test_a_probe_that_lost_power_gets_its_resolution_again(tmp_path: Path) -> None:
    name = name_of(0)
    with live(tmp_path, 1), serving(tmp_path, poll=0.3) as owner:
        until(owner, good(owner, 1))
        assert ask(owner, "exec", name, "config", '{"resolution": 10}')[1] == "200"
        until(owner, lambda: owner.devices[name].details().get("resolution") == 10)
        (tmp_path / name / "resolution").write_text("12\n")
        until(owner, lambda: (tmp_path / name / "resolution").read_text().strip() == "10")
        until(owner, lambda: owner.devices[name].details()["resolution"] == 10)


# --- The bus -------------------------------------------------------------------------------------------------------


def ask_bus(owner: OneWire) -> tuple[list[dict[str, Any]], str]:
    replies: list[list[bytes]] = []
    owner.handle(owner.worker_bus(), [b"list"], replies.append)
    return msgspec.json.decode(replies[0][0]), replies[0][1].decode()


def test_other_slaves_are_listed_and_no_errors(tmp_path: Path) -> None:
    tree = Tree(str(tmp_path))
    tree.add(name_of(1), TEXT)
    tree.add_other("01-0000000A1B2C")
    tree.add_other("ff-000000000001")
    with serving(tmp_path, poll=0.2) as owner:
        until(owner, good(owner, 1))
        assert ask_bus(owner) == (
            [
                {
                    "master": "w1_bus_master1",
                    "bulk": "no: the kernel has no therm_bulk_read for this bus",
                    "probes": [name_of(1)],
                    "unknown": [
                        {"id": "01-0000000a1b2c", "family": "01", "chip": "DS2401 serial number"},
                        {"id": "ff-000000000001", "family": "ff", "chip": "unknown"},
                    ],
                }
            ],
            "200",
        )
        assert owner.conditions == {}
        tree.remove(name_of(1))
        until(owner, lambda: ask_bus(owner)[0][0]["probes"] == [])
        assert "pi.onewire.bus" in owner.services()


def test_a_probe_that_is_gone_can_be_forgotten(tmp_path: Path) -> None:
    tree = Tree(str(tmp_path))
    tree.add(name_of(1), TEXT)
    with serving(tmp_path, poll=0.2) as owner:
        until(owner, good(owner, 1))
        tree.remove(name_of(1))
        until(owner, lambda: (probe := owner.probe(name_of(1))) and probe.gone)
        assert ask(owner, "delete", name_of(1))[1] == "200"
        assert owner.devices == {}


def test_a_probe_with_settings_is_missed_after_a_restart(tmp_path: Path) -> None:
    tree = Tree(str(tmp_path / "w1"))
    for number in (1, 2):
        tree.add(name_of(number), TEXT)
    state = str(tmp_path / "devices.json")
    with short_directory() as nowhere:

        def server() -> OneWire:
            settings = OneWireConfig(devices_dir=str(tmp_path / "w1"), poll=0.2)
            owner = OneWire(hostname="pi", broker_ip=f"ipc://{nowhere}", settings=settings)
            owner.keep_settings(state, store=False)
            return owner

        with started(server()) as owner:
            until(owner, good(owner, 2))
            replies: list[list[bytes]] = []
            request = [b"exec", name_of(1).encode(), b"config", b'{"offset": 1.5}']
            owner.handle(owner.worker_devices(), request, replies.append)
            until(owner, lambda: replies)
            assert replies[0][-1] == b"200"
        for number in (1, 2):
            tree.remove(name_of(number))
        with started(server()) as owner:
            until(owner, lambda: quality(owner, name_of(1)) == "error")
            assert list(owner.devices) == [name_of(1)]
            tree.add(name_of(1), TEXT)
            until(owner, lambda: quality(owner, name_of(1)) == "ok")
            found = reading(owner, name_of(1), "temperature")
            assert found is not None
            assert found.number() == 22.5625


# --- The simulation itself -----------------------------------------------------------------------------------------


def test_a_live_probe_behaves_as_the_kernel_says(tmp_path: Path) -> None:
    with live(tmp_path, 2) as tree:
        assert tree.bus is not None
        slave, other = (str(tmp_path / name_of(number) / "w1_slave") for number in (0, 1))
        assert stat.S_ISFIFO(os.stat(slave).st_mode)
        assert reader.read(slave, 0x28) == reader.Reading(20.0, bits=12, genuine=True)
        assert counted(tree) == (0, 1)
        file = str(tmp_path / "w1_bus_master1" / "therm_bulk_read")
        assert Path(file).read_text() == "0\n"
        sysfs.convert_all(file, [str(tmp_path / name_of(0))], 5)
        assert Path(file).read_text() == "1\n"
        assert reader.read(slave, 0x28).degrees == 20.0
        assert Path(file).read_text() == "1\n", "the other has not been read"
        assert reader.read(other, 0x28).degrees == 20.0625
        assert Path(file).read_text() == "0\n"
        assert counted(tree) == (1, 1)
        assert reader.read(other, 0x28).degrees == 20.0625
        assert counted(tree) == (1, 2)
        assert Path(slave).with_name("temperature").read_text() == "20000\n"
        assert counted(tree) == (1, 3)


def test_a_live_probe_gives_nothing_during_a_bulk_conversion(tmp_path: Path) -> None:
    with live(tmp_path, 1, conversion=30) as tree:
        file = tmp_path / "w1_bus_master1" / "therm_bulk_read"
        file.write_text("trigger\n")
        end = time.monotonic() + 30
        while file.read_text() != "-1\n":
            assert time.monotonic() < end
        with pytest.raises(ReadingError) as caught:
            reader.read(tree.file(name_of(0)), 0x28)
        assert caught.value.kind == "silent"


@pytest.mark.parametrize("text", ["trigger", "triggers", "Trigger\n", "1\n2", ""])
def test_anything_but_a_trigger_and_a_newline_is_ignored(tmp_path: Path, text: str) -> None:
    with live(tmp_path, 1) as tree:
        file = tmp_path / "w1_bus_master1" / "therm_bulk_read"
        file.write_text(text)
        end = time.monotonic() + 30
        while file.read_text() != "0\n":
            assert time.monotonic() < end
        assert counted(tree) == (0, 0)


def test_a_live_tree_leaves_no_thread_behind(tmp_path: Path) -> None:
    before = threading.active_count()
    with live(tmp_path, 5) as tree:
        assert threading.active_count() == before + 11
        tree.remove(name_of(0))
        assert threading.active_count() == before + 9
    assert threading.active_count() == before
