"""Command line of the conformance suite; see `python -m tests.conformance --help`."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections import Counter

from tests.conformance.registry import Check, Group, load_checks
from tests.conformance.runner import (
    FAIL,
    NOT_REACHED,
    PASS,
    Launcher,
    Result,
    answers,
    await_services,
    environment,
    run_suite,
)
from tests.conformance.stage import Target


def _liveness(text: str) -> tuple[float, int]:
    interval, _, liveness = text.partition(",")
    try:
        pair = float(interval), int(liveness or 3)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not INTERVAL,LIVENESS, for example 2.5,3") from None
    if not (0 < pair[0] < 3600 and 0 < pair[1] < 1000):
        raise argparse.ArgumentTypeError(f"{text!r}: both must be above 0")
    return pair


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance",
        description="Check a broker from outside against ZeroMQ RFC 7/MDP v0.1, 8/MMI and 9/TSP; print a table.",
        epilog="Exit code: 0 all passed or not applicable, 1 something failed, 2 wrong use.",
    )
    parser.add_argument("endpoint", nargs="?", help="the broker's endpoint, for example tcp://127.0.0.1:5555")
    parser.add_argument("--only", default="", metavar="PATTERN", help="only checks whose id contains or matches this")
    parser.add_argument(
        "--liveness",
        type=_liveness,
        default=(2.5, 3),
        metavar="SECONDS,COUNT",
        help="the broker's heartbeat interval and liveness (default 2.5,3: the Guide's)",
    )
    parser.add_argument("--timeout", type=float, default=5.0, metavar="SECONDS", help="how long a reply may take (5)")
    parser.add_argument(
        "--request-expiry",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="after how long the broker drops a request that no worker took; without it that is not checked",
    )
    parser.add_argument(
        "--restart",
        metavar="CMD",
        help="start the broker by this command, and a new one after each check that failed",
    )
    parser.add_argument(
        "--wait-for",
        action="append",
        default=[],
        metavar="SERVICE",
        help="begin when this service has a worker, for example titanic.request; may be given several times",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the table")
    parser.add_argument("--list", action="store_true", help="print the checks and their statements, run nothing")
    arguments = parser.parse_args(argv)
    if not arguments.list and not arguments.endpoint:
        parser.error("an endpoint is needed")
    return arguments


class Table:
    """Prints each result as it comes."""

    def __init__(self, checks: list[tuple[Group, Check]]) -> None:
        self.titles = {check.id: group.title for group, check in checks}
        self.width = max(len(check.id) for _, check in checks)
        self.title = ""

    def head(self, target: Target) -> None:
        """Say what is measured."""
        print(f"{target.endpoint}, heartbeat {target.interval:g} s, liveness {target.liveness}, ", end="")
        print(", ".join(f"{key} {value}" for key, value in environment().items()))

    def row(self, result: Result) -> None:
        """One line, and a second one with the reason of anything but a pass."""
        check = result.check
        if self.titles[check.id] != self.title:
            self.title = self.titles[check.id]
            print(f"\n{self.title}\n{'check':{self.width}} level  result          s  statement")
        measured = f"{result.outcome:11} {result.seconds:5.1f}"
        print(f"{check.id:{self.width}} {check.level:6} {measured}  {check.statement}")
        if result.detail:
            print(f"{'':{self.width}} {'':6} -> {result.detail}")
        sys.stdout.flush()


def main(argv: list[str] | None = None) -> int:
    """Run the suite; returns the exit code."""
    arguments = _arguments(argv)
    checks = load_checks(arguments.only)
    if not checks:
        print(f"no check matches {arguments.only!r}; --list shows them all", file=sys.stderr)
        return 2
    if arguments.list:
        for _, check in checks:
            print(f"{check.id}\n    {check.source} ({check.level}): {check.statement}")
        return 0
    interval, liveness = arguments.liveness
    target = Target(
        arguments.endpoint,
        interval,
        liveness,
        patience=arguments.timeout,
        request_expiry=arguments.request_expiry,
    )
    services = [name.encode() for name in arguments.wait_for]
    launcher = Launcher(arguments.restart, target, services=services) if arguments.restart else None
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that the broker ends too
    try:
        if launcher is not None:
            launcher.start()
        elif not answers(target):
            print(f"no broker answers at {target.endpoint}: start one there, or give --restart", file=sys.stderr)
            return 2
        elif missing := await_services(target, services):
            print(f"nobody offers {missing} at {target.endpoint}", file=sys.stderr)
            return 2
        table = Table(checks)
        if not arguments.json:
            table.head(target)
        results = list(run_suite(checks, target, launcher, (lambda result: None) if arguments.json else table.row))
    except (OSError, RuntimeError) as error:
        print(f"{error}", file=sys.stderr)
        return 2
    finally:
        if launcher is not None:
            launcher.stop()
    counts = Counter(result.outcome for result in results)
    if arguments.json:
        document = {
            "endpoint": target.endpoint,
            **environment(),
            "counts": counts,
            "results": [r.as_dict() for r in results],
        }
        print(json.dumps(document, indent=1))
    else:
        print("\n" + ", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
    return 1 if counts[FAIL] or counts[NOT_REACHED] or not counts[PASS] else 0


if __name__ == "__main__":
    sys.exit(main())
