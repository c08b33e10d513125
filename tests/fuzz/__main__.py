"""``python -m tests.fuzz``: see ``--help``. Exit codes: 0 nothing found, 1 something found, 2 wrong use."""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from raspy.common import MDP
from raspy.common.executive import Executive
from raspy.common.kvcliapi import KvSubscriber, snapshot
from raspy.common.mdcliapi import MajorDomoClient
from tests.benchmarks.process import MIB, ROOT, memory_bytes
from tests.bus import BASE, broker_process, environment
from tests.conformance.runner import Launcher
from tests.fuzz.attack import Attackers
from tests.fuzz.messages import STEPS, Step
from tests.support_devices import short_directory

BOUNDS = {
    "heartbeat": 500,
    "queue_requests": 2000,
    "queue_bytes": 8 << 20,
    "request_expiry": 5,
    "tree_keys": 3000,
    "tree_bytes": 4 << 20,
    "body_bytes": 1 << 16,
}
"""Of the broker under test: small, so that all are reached during the warm-up."""
GROWTH = 24 * MIB
"""Most that the broker's memory may grow after the warm-up: it is full of held messages at any time."""
WARM_UP = 0.25
"""Part of the attack after which memory should not grow any more."""
EXAMPLES = 100
ABOUT = (
    "Throw arbitrary frames at the broker. hypothesis attacks a broker in a process of its own over real sockets, and "
    "shows that it lives, keeps to its memory and serves peers that behave, who watch all the time. atheris gives "
    "messages to the handlers of a second broker inside its process, and shows that no exception escapes them, that "
    "the broker's counts stay true, that a client over a real socket is answered between inputs, and that the memory "
    "of that process does not grow."
)
QUIET_LIMIT = 60.0


class Run:
    """One run: a broker, the witness, the attack, and what was found.

    :param directory: for sockets, logs and inputs that break something
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.ip = f"ipc://{directory}"
        self.faults: list[str] = []
        self.broker: Launcher = broker_process(directory, **BOUNDS)
        self.broker.start()
        assert self.broker.process is not None
        self.pid = self.broker.process.pid
        self.witness = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.witness", self.ip, str(BASE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=environment(),
        )
        said = self.witness.stdout
        assert said is not None
        if not select.select([said], [], [], QUIET_LIMIT)[0] or said.readline() != b"served\n":
            self.faults.append("the witness was not served, before anything was attacked")

    def alive(self) -> bool:
        """Whether the broker still runs."""
        return self.broker.process is not None and self.broker.process.poll() is None

    def memory(self) -> int:
        """The broker's PSS, in bytes; 0 when it is gone."""
        return memory_bytes(self.pid)["pss"] if self.alive() else 0

    def attack(self, seconds: float, number: int) -> None:
        """Send what hypothesis makes for a time."""
        attackers = Attackers(self.ip, BASE)
        began = time.monotonic()
        warm = peak = 0
        while self.alive() and time.monotonic() - began < seconds:
            number += 1
            self._batch(attackers, number, began + seconds)
            peak = max(peak, self.memory())
            if not warm and time.monotonic() - began > seconds * WARM_UP:
                warm = peak
        end = self.memory()
        counts = dict(sorted(attackers.counts.items()))
        if not self.alive() or not self._answers():
            self.faults.append("the broker is gone, or does not answer; the last steps are in steps.txt")
            Path(self.directory, "steps.txt").write_text("\n".join(map(repr, attackers.recent)), encoding="utf-8")
        attackers.close()
        for name, count in counts.items():
            print(f"  {name:<24} {count:>10,}")
        after = self.memory()
        print(f"  memory of the broker: {warm / MIB:.1f} MiB after the warm-up, {peak / MIB:.1f} at most, ", end="")
        print(f"{end / MIB:.1f} at the end, {after / MIB:.1f} when all had vanished")
        if warm and end > warm + GROWTH:
            self.faults.append(f"memory grew from {warm / MIB:.1f} to {end / MIB:.1f} MiB after the warm-up")

    def _batch(self, attackers: Attackers, number: int, until: float) -> None:
        @seed(number)
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(STEPS)
        def attack(steps: Sequence[Step]) -> None:
            if time.monotonic() < until:
                attackers.do(steps)

        attack()

    def inside(self, seconds: int, number: int) -> None:
        """Have atheris drive the handlers in a process of its own."""
        scratch = Path(self.directory, "in")
        scratch.mkdir()
        argv = [sys.executable, "-m", "tests.fuzz.inside", str(scratch), str(seconds), str(number)]
        log = Path(self.directory, "inside.log")
        with log.open("wb") as file:
            done = subprocess.run(
                argv, cwd=ROOT, env=environment(), stdout=file, stderr=file, timeout=seconds * 2 + 120, check=False
            )
        text = log.read_text(encoding="utf-8", errors="replace")
        runs = re.findall(r"number_of_executed_units:\s*(\d+)", text) or ["?"]
        coverage = re.findall(r"\bcov: (\d+)", text) or ["?"]
        answers = re.findall(r"^answers: (\d+), (.*)", text, re.M)
        served = f"{answers[-1][0]} answers to its client, {answers[-1][1]}" if answers else "no client was served"
        print(f"  {runs[-1]} inputs, coverage {coverage[-1]}, {served}")
        if not answers:
            self.faults.append("atheris was too short to show that its broker serves a client")
        if done.returncode:
            self.faults.append(f"atheris ended with {done.returncode}:\n{text[-3000:]}")

    def finish(self) -> None:
        """When all is quiet again: what the witness saw, whether the tree is exact, and the broker's own counts."""
        if self.alive():
            self._check_tree()
            self._check_statistics()
        report = self._end_witness()
        print("witness:", ", ".join(f"{name} {value}" for name, value in report.items() if name != "faults"))
        self.faults += report["faults"]
        self.broker.stop()
        log = Path(self.directory, "log").read_text(encoding="utf-8", errors="replace")
        if "Traceback" in log:
            self.faults.append(f"the broker's log has a traceback:\n{log[log.index('Traceback') - 200 :][:3000]}")

    def close(self) -> None:
        """End both processes, whatever happened."""
        if self.witness.poll() is None:
            self.witness.kill()
        self.witness.communicate()
        self.broker.stop()

    def _answers(self) -> bool:
        with MajorDomoClient(MDP.endpoint(self.ip, BASE)) as client:
            client.timeout = 5000
            return client.send("mmi.version", b"") is not None

    def _end_witness(self) -> dict[str, Any]:
        try:
            output, _ = self.witness.communicate(b"", timeout=QUIET_LIMIT)
            report: dict[str, Any] = json.loads(output)
        except (subprocess.TimeoutExpired, ValueError) as error:
            return {"faults": [f"the witness gave no report: {error}"]}
        return report

    def _check_tree(self) -> None:
        """A copy made by updates and one made by a snapshot agree."""
        loop = Executive("pi", "fuzz", self.ip, BASE)
        subscriber = KvSubscriber(loop, "", lambda key, body: None)
        until = time.monotonic() + QUIET_LIMIT
        try:
            while time.monotonic() < until:
                for _ in range(20):
                    loop.turn(0.01)
                taken = snapshot(self.ip, BASE, "", timeout=QUIET_LIMIT)
                for _ in range(20):
                    loop.turn(0.01)
                mine = "/variable/witness-"
                same = {key: body for key, body in subscriber.tree.items() if not key.startswith(mine)}
                if same and same == {key: body for key, body in taken.items() if not key.startswith(mine)}:
                    print(f"tree: {len(taken)} keys, updates and snapshot agree")
                    return
            self.faults.append("the tree of the updates and that of a snapshot differ")
        finally:
            subscriber.close()
            loop.destroy()

    def _check_statistics(self) -> None:
        with MajorDomoClient(MDP.endpoint(self.ip, BASE)) as client:
            client.timeout = 5000
            reply = client.send("mmi.statistics", b"")
        counters = json.loads(reply[0]) if reply else {}
        print("broker:", ", ".join(f"{name.removeprefix('broker.')} {value}" for name, value in counters.items()))
        if counters.get("broker.errors") != 0:
            self.faults.append(f"an exception escaped: {counters}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print a summary, and return the exit code."""
    parser = argparse.ArgumentParser("python -m tests.fuzz", description=ABOUT)
    parser.add_argument("--minutes", type=float, default=10.0, help="time for all engines together (10)")
    parser.add_argument("--engine", choices=["hypothesis", "atheris", "both"], default="both")
    parser.add_argument("--seed", type=int, default=0, help="0: another each time")
    options = parser.parse_args(arguments)
    if options.minutes <= 0:
        parser.error("--minutes must be more than 0")
    number = options.seed or time.time_ns() % 1_000_000_000
    engines = ["hypothesis", "atheris"] if options.engine == "both" else [options.engine]
    if "atheris" in engines and importlib.util.find_spec("atheris") is None:
        print("atheris is not installed here (it has wheels for x86-64 only): hypothesis has all the time")
        engines = ["hypothesis"]
    seconds = options.minutes * 60 / len(engines)
    with short_directory() as directory:
        run = Run(directory)
        try:
            for engine in engines:
                print(f"{engine}: {seconds:.0f} s, seed {number}", flush=True)
                if engine == "hypothesis":
                    run.attack(seconds, number)
                else:
                    run.inside(max(1, round(seconds)), number % (1 << 31))
            run.finish()
        finally:
            run.close()
        if run.faults:
            keep = Path(ROOT, "build", "fuzz", str(number))
            shutil.copytree(
                directory, keep, dirs_exist_ok=True, ignore=lambda at, names: [n for n in names if n.isdigit()]
            )
            print(f"FOUND {len(run.faults)}, kept in {keep}:")
            print("\n".join(run.faults))
            Path(keep, "faults.txt").write_text("\n".join(run.faults), encoding="utf-8")
            return 1
    print("nothing found")
    return 0


if __name__ == "__main__":
    sys.exit(main())
