"""``python -m tests.benchmarks``: the table of docs/benchmarks.rst on this machine, now."""

from __future__ import annotations

import argparse
import json
import platform
import re
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.benchmarks import child, durable_table, firing, history, idle, onewire, page, reflex, web
from tests.benchmarks.durable import Disk, DurableRow, default_directory, durable_rows, durable_ways
from tests.benchmarks.process import BenchError, Children, free_ports, progress
from tests.benchmarks.rows import Row, all_rows
from tests.benchmarks.table import Table
from tests.benchmarks.targets import Target, kv_targets, mdp_targets


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny rounds that show only that everything works")
    parser.add_argument("--only", metavar="PATTERN", default="", help="rows whose name matches this regular expression")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every sample there")
    parser.add_argument("--rounds", metavar="N", type=int, default=0, help="rounds of each row (default 5; durable 3)")
    parser.add_argument(
        "--reference",
        metavar="NAME=COMMAND@ENDPOINT",
        action="append",
        default=[],
        help="another MDP broker, for instance guide-c='mdbroker@tcp://127.0.0.1:5555'",
    )
    parser.add_argument("--idle-seconds", metavar="S", type=float, default=0, help="idle window (default 60)")
    parser.add_argument(
        "--directory",
        metavar="DIR",
        type=Path,
        default=default_directory(),
        help="where the durable rows keep their state, on the disk to be measured (default: build)",
    )
    options = parser.parse_args()
    options.durable_rounds = options.rounds or (1 if options.quick else 3)
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.idle_seconds = options.idle_seconds or (2.0 if options.quick else 60.0)
    if not 1 <= options.rounds <= 100 or not 1 <= options.idle_seconds <= 3600:
        parser.error("--rounds is 1 to 100, --idle-seconds 1 to 3600")
    return options


def measure(row: Row, targets: list[Target], rounds: int, scratch: Path) -> None:
    """Rounds interleaved: every target once, then every target again."""
    for turn in range(rounds):
        for target in targets:
            if missing := target.missing():
                row.failures[target.name] = missing
                continue
            progress(f"{row.name}: {turn + 1}/{rounds} {target.name}")
            try:
                with Children(scratch) as children:
                    sample = row.measure(children, target)
                row.samples.setdefault(target.name, []).append(sample)
            except BenchError as error:
                row.failures[target.name] = str(error).splitlines()[-1]
        if not any(target.name in row.samples for target in targets):
            return


def make_directory(directory: Path) -> None:
    """Before anything is measured: a mistake in it is told at once."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--directory {directory}: {error.strerror}") from error


def measure_durable(options: argparse.Namespace, rows: list[DurableRow], ports: Iterator[int], scratch: Path) -> str:
    """The durable rows, on a directory of their own that is gone afterwards; what is printed of them."""
    if not rows:
        return ""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.directory) as directory:
        disk = Disk(Path(directory), scratch)
        ways = durable_ways(ports, disk)
        for row in rows:
            measure(row, row.fitting(ways), options.durable_rounds, scratch)
        return durable_table.text(rows, options.durable_rounds, disk)


def measure_history(options: argparse.Namespace) -> history.Figures:
    """The year of the logger; why not, where it failed."""
    make_directory(options.directory)
    try:
        return history.measure(options.directory, options.quick)
    except BenchError as error:
        return {"error": str(error)}


def measure_child(options: argparse.Namespace) -> child.Found:
    """The processes of scenarios; why not, where it failed."""
    try:
        return child.measure(options.quick)
    except BenchError as error:
        return {"error": str(error)}


def measure_firing(options: argparse.Namespace) -> firing.Found:
    """How soon scenarios run; why not, where it failed."""
    try:
        return firing.measure(options.quick)
    except BenchError as error:
        return {"error": str(error)}


def measure_reflex(options: argparse.Namespace, scratch: Path) -> reflex.Found:
    """How soon a relay follows a switch; why not, where it failed."""
    try:
        return reflex.measure(options.quick, scratch)
    except BenchError as error:
        return {"error": str(error)}


def measure_web(options: argparse.Namespace, scratch: Path) -> web.Found:
    """The page under load; why not, where it failed."""
    try:
        return web.measure(options.quick, scratch, options.rounds)
    except BenchError as error:
        return {"error": str(error)}


def as_json(rows: Sequence[Row]) -> dict[str, object]:
    return {row.name: {"unit": row.unit, "samples": row.samples, "failures": row.failures} for row in rows}


def run(options: argparse.Namespace, scratch: Path) -> int:
    ports = free_ports()
    mdp, kv = mdp_targets(ports, options.reference), kv_targets(ports)
    only = re.compile(options.only)
    rows = [row for row in all_rows(options.quick) if only.search(row.name)]
    durable = [row for row in durable_rows(options.quick) if only.search(row.name)]
    if durable:
        make_directory(options.directory)
    for row in rows:
        measure(row, kv if row.group == "kv" else mdp, options.rounds, scratch)
    durable_text = measure_durable(options, durable, ports, scratch)
    processes = idle.measure(scratch, ports, options.idle_seconds) if only.search("idle") else []
    cases = [case for case in (onewire.QUICK if options.quick else onewire.CASES) if only.search(case.name)]
    buses = onewire.measure(scratch, ports, cases, options.rounds)
    year = measure_history(options) if only.search(history.NAME) else {}
    scenario = measure_child(options) if only.search(child.NAME) else {}
    fired = measure_firing(options) if only.search(firing.NAME) else {}
    followed = measure_reflex(options, scratch) if only.search(reflex.NAME) else {}
    loaded = measure_web(options, scratch) if only.search(web.NAME) else {}
    first = page.measure(options.quick) if only.search(page.NAME) else {}
    progress("")
    names = list(dict.fromkeys(target.name for target in [*mdp, *kv]))
    table = Table(rows, names, options.reference[0].partition("=")[0] if options.reference else "")
    print(f"Python {platform.python_version()}, {platform.machine()}, rounds: {options.rounds}, interleaved")
    if rows:
        print(table.text())
    if durable:
        print(durable_text)
    if processes:
        print(idle.text(processes, options.idle_seconds))
    if buses:
        print(onewire.text(buses))
    if year:
        print(f"\nhistory: {year['error']}" if "error" in year else history.text(year))
    if scenario:
        print(f"\n{child.NAME}: {scenario['error']}" if "error" in scenario else child.text(scenario))
    if fired:
        print(f"\n{firing.NAME}: {fired['error']}" if "error" in fired else firing.text(fired))
    if followed:
        print(f"\n{reflex.NAME}: {followed['error']}" if "error" in followed else reflex.text(followed))
    if loaded:
        print(f"\n{web.NAME}: {loaded['error']}" if "error" in loaded else web.text(loaded))
    if first:
        print(page.text(first))
    if options.json:
        found: dict[str, object] = {"rows": as_json(rows), "durable": as_json(durable), "idle": processes}
        found |= {
            "onewire": buses,
            "history": year,
            "scenario": scenario,
            "firing": fired,
            "reflex": followed,
            "web": loaded,
            "page": first,
        }
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    done = (rows, durable, processes, buses, year, scenario, fired, followed, loaded, first)
    return 0 if any(done) else 1


def main() -> int:
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        try:
            return run(options, Path(scratch))
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            return 130


if __name__ == "__main__":
    sys.exit(main())
