"""The benchmark works: every row has figures, nothing is left behind. No time is asserted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import durable_table, idle
from tests.benchmarks.durable import (
    ACCEPTED,
    BARE_WORKER,
    ONE_SLOT,
    RUN,
    SLOTS,
    SQLITE,
    Disk,
    durable_rows,
    file_system,
)
from tests.benchmarks.durable_table import verdicts
from tests.benchmarks.load.counters import synced
from tests.benchmarks.process import ROOT, BenchError, cpu_seconds, descendants, started_at
from tests.benchmarks.rows import Sample, all_rows
from tests.benchmarks.table import Table, aligned
from tests.benchmarks.targets import LOOP, OURS, Reference

LIMIT_S = 100


def bench(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.benchmarks", *arguments]


def quick(only: str, file: Path) -> tuple[str, dict[str, Any]]:
    argv = bench("--quick", "--only", only, "--json", str(file))
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(file.read_text())


@pytest.mark.parametrize(
    "only",
    [
        "one outstanding",
        pytest.param("outstanding", marks=pytest.mark.soak),
        pytest.param("pipelined|memory", marks=pytest.mark.soak),
        pytest.param("key/value", marks=pytest.mark.soak),
    ],
)
def test_every_row_has_figures_for_our_broker_and_loses_nothing(only: str, tmp_path: Path) -> None:
    printed, found = quick(only, tmp_path / "bench.json")
    assert found["rows"]
    for name, row in found["rows"].items():
        assert OURS in row["samples"], row["failures"]
        for sample in row["samples"][OURS]:
            assert sample["value"] > 0 or name.startswith("memory")
            assert sample["lost"] == 0
            assert sample.get("refused", 0) == 0
        for other, why in row["failures"].items():
            assert other != OURS
            assert why in ("not installed", "keeps no queue of its own")
        assert name in printed


@pytest.mark.parametrize(
    "only",
    [
        "durable: 10 clients",
        pytest.param("durable.*1 client", marks=pytest.mark.slow),
        pytest.param("durable.*100", marks=pytest.mark.slow),
    ],
)
@pytest.mark.soak
def test_every_durable_row_has_figures_and_loses_nothing(only: str, tmp_path: Path) -> None:
    file, state = tmp_path / "bench.json", tmp_path / "state"
    argv = bench("--quick", "--only", only, "--json", str(file), "--directory", str(state))
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())["durable"]
    assert found
    for name, row in found.items():
        assert {SQLITE, BARE_WORKER, ACCEPTED, RUN} <= set(row["samples"]), row["failures"]
        assert not row["failures"]
        for samples in row["samples"].values():
            assert samples[0]["value"] > 0
            assert samples[0].get("lost", 0) == samples[0].get("refused", 0) == 0
        assert name in done.stdout
    assert "state on " in done.stdout
    assert not list(state.iterdir())


@pytest.mark.slow
@pytest.mark.soak
def test_idle_processes_are_listed_with_memory_and_time(tmp_path: Path) -> None:
    printed, found = quick("^idle$", tmp_path / "bench.json")
    names = [one["process"] for one in found["idle"]]
    assert "bare pyzmq worker (mean of 10)" in names
    assert any(name.startswith("raspy ") and name.endswith("broker") for name in names), found["idle"]
    assert all(one["pss_mib"] > 1 and one["cpu"] >= 0 for one in found["idle"])
    assert "PSS MiB" in printed


@pytest.mark.soak
def test_every_bus_has_figures(tmp_path: Path) -> None:
    printed, found = quick("onewire: 10 ", tmp_path / "bench.json")
    (bus,) = found["onewire"]
    assert "error" not in bus
    assert all(0 < one["first"] <= one["all"] and one["longest_turn"] > 0 for one in bus["rounds"])
    assert "onewire: 10 probes, bulk" in printed


def alive(starts: dict[int, str]) -> list[int]:
    """Those processes that still run, by their process ids and start times."""
    return [pid for pid, start in starts.items() if start and started_at(pid) == start]


@pytest.mark.parametrize("how", ["Ctrl-C", "killed"])
def test_no_process_outlives_the_harness(how: str) -> None:
    harness = subprocess.Popen(bench("--only", "one outstanding", "--rounds", "9"), cwd=ROOT, stdout=subprocess.DEVNULL)
    starts: dict[int, str] = {}
    try:
        deadline = time.monotonic() + 30
        while len(below := descendants(harness.pid)) < 3 and time.monotonic() < deadline:
            assert harness.poll() is None
            cpu_seconds(harness.pid)
        assert len(below) >= 3
        starts = {pid: started_at(pid) for pid in below}
        harness.send_signal(signal.SIGINT if how == "Ctrl-C" else signal.SIGKILL)
        assert harness.wait(30) == (130 if how == "Ctrl-C" else -signal.SIGKILL)
        deadline = time.monotonic() + 30
        while (left := alive(starts)) and how == "killed" and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not left
    finally:
        harness.kill()
        harness.wait()
        for pid in alive(starts):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("guide", "want NAME=COMMAND@tcp"),
        ("guide=@tcp://127.0.0.1:5555", "want NAME=COMMAND@tcp"),
        ("guide=mdbroker@ipc://x", "want NAME=COMMAND@tcp"),
        ("guide=mdbroker@tcp://192.0.2.1:5555", "only the loopback"),
    ],
)
def test_a_reference_that_cannot_be_used_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Reference(text)


def test_ratios_and_aims_are_in_the_last_column() -> None:
    rows = {row.name: row for row in all_rows(quick=False)}
    one, slot, slots = (
        rows[name] for name in ("one outstanding", "100 outstanding, 1 slot", "100 outstanding, 16 slots")
    )
    memory = next(row for name, row in rows.items() if name.startswith("memory"))
    for row, ours, theirs in ((one, 75, 100), (slot, 90, 100), (slots, 160, 200), (memory, 30, 60)):
        for name, value in ((OURS, ours), (LOOP, theirs), ("guide", theirs)):
            row.samples[name] = [{"value": v, "lost": 0} for v in (value, value / 2, value * 2)]
    table = Table(list(rows.values()), [OURS, LOOP, "guide"], "guide")
    assert table.verdict(one, OURS) == ""
    assert table.verdict(one, LOOP) == "0.75 (aim >= 0.8, MISSED)"
    assert table.verdict(one, "guide") == "0.75"
    assert table.verdict(slot, "guide") == "0.90 (aim >= 0.8)"
    assert table.verdict(slots, "guide") == "0.80; 1.60 of its 1 slot (aim >= 1.5)"
    assert table.verdict(memory, "guide") == "0.50 (aim < 1)"
    assert "1.60 of its 1 slot" in table.text()


def durable_sample(rate: float, **more: float) -> Sample:
    """A round of one second."""
    return {"value": rate, "good": rate, "seconds": 1.0, **more}


def titanic_sample(rate: float, syncs: float) -> Sample:
    used = {"cpu": 0.5, "broker_cpu": 0.2, "written": rate * 1000, "syncs": syncs, "commits": syncs}
    return durable_sample(rate, **used, refused=0, lost=0, pss=12 << 20, pss_after=13 << 20)


def test_durable_rows_print_the_ratios_and_aims() -> None:
    rows = {row.name: row for row in durable_rows(quick=False)}
    plain, slow = rows["durable: 100 clients"], rows["durable, fsync + 10 ms: 100 clients"]
    plain.samples |= {SLOTS: [durable_sample(8000)], ONE_SLOT: [durable_sample(4000)]}
    plain.samples[ACCEPTED] = [titanic_sample(rate, rate / 20) for rate in (4000, 3000, 5000)]
    slow.samples |= {SQLITE: [durable_sample(8000)], ACCEPTED: [titanic_sample(6000, 100)]}
    whole = {f"{part}_{key}": value for part in ("run", "closed") for key, value in (("seconds", 2.0), ("syncs", 400))}
    plain.samples[RUN] = [titanic_sample(2000, 200) | whole]
    assert list(verdicts(plain)) == [
        "0.50 of 32 slots (aim >= 0.6, MISSED)",
        "1.00 of 1 slot",
        "20 per fsync (aim >= 10)",
    ]
    assert list(verdicts(slow)) == ["0.75 of bare SQLite (aim >= 0.7)"]
    plain.failures["fsync loop, 4 KiB"] = "the disk is full"
    lines = durable_table.table([plain, slow]).splitlines()
    assert "the disk is full" in lines[1]
    run = next(line for line in lines if "and run" in line)
    assert run.split()[2:5] == ["1,000", "1,000", "1,000"]
    assert run.split()[5] == "5.0"
    assert any("PSS of Titanic 12.0 MiB, 13.0 after 2,000 requests" in line for line in lines)


def test_the_file_system_of_a_directory_is_told() -> None:
    assert file_system(Path("/proc/self"))[0] == "proc"
    assert file_system(Path("/"))[0] not in ("", "unknown")


def test_fsync_is_counted_and_slowed_down(tmp_path: Path) -> None:
    disk = Disk(tmp_path, tmp_path)
    if disk.no_shim:
        pytest.skip(disk.no_shim)
    settings, count = disk.environment(delay_us=30_000)
    code = "import os; fd = os.open('.', 0); os.fsync(fd); os.fdatasync(fd)"
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", code], env=os.environ | settings, cwd=tmp_path, timeout=30, check=True)
    assert synced(count) == 2
    assert time.monotonic() - began >= 0.06


def test_without_a_compiler_fsync_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    disk = Disk(tmp_path, tmp_path)
    assert disk.environment(delay_us=0) == ({}, "")
    with pytest.raises(BenchError, match="no C compiler"):
        disk.environment(delay_us=1)
    assert "no C compiler" in disk.text()


def test_idle_processes_of_ours_have_aims() -> None:
    small, big = {"pss_mib": 11.0, "rss_mib": 20.0, "cpu": 0.1}, {"pss_mib": 12.0, "rss_mib": 20.0, "cpu": 0.2}
    ours, ours_big, bare = (
        idle.verdict({"process": name, **figures})
        for name, figures in (("raspy fake", small), ("raspy web", big), ("bare pyzmq worker", big))
    )
    assert (ours, ours_big, bare) == ("reached", "MISSED: PSS, core", "")


def test_a_reason_in_place_of_figures_does_not_widen_the_columns() -> None:
    text = aligned([("row", "who", "median", "min"), ("a", "b", "1", "2"), ("c", "d", "was not there at all")])
    assert text.splitlines()[1] == "a    b         1  2"
