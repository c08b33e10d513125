"""Hooks for the whole suite."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import settings

# No test fails because the machine is busy, nor for an example that nobody's change has to do with: new ones, and more,
# are looked for by `make soak`.
_random = "RASPY_TEST_RANDOM" in os.environ
settings.register_profile("raspy", deadline=None, derandomize=not _random, max_examples=100 if _random else 50)
settings.load_profile("raspy")

for _name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "STATE_DIRECTORY", "RUNTIME_DIRECTORY"):
    # What a supervisor of the test run meant for that alone, as in a container.
    os.environ.pop(_name, None)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    # In the background, as with `nohup make tests &`: what the tests start would ignore Ctrl-C as well.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if os.environ.get("CI") != "true" or not report.skipped or hasattr(report, "wasxfail"):
        return
    path, line, reason = report.longrepr  # type: ignore[misc]
    if str(reason).removeprefix("Skipped: ").startswith("needs "):
        report.outcome = "failed"
        report.longrepr = f"{path}:{line}: {reason} (under CI=true nothing may be missing)"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, None]:
    _refuse_skip((yield).get_result())


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, None]:
    _refuse_skip((yield).get_result())


COUNTED = "counted"
"""Name of a property, recorded by a test with ``record_property``, that the reader of the run is shown."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests have counted, which is of interest when they pass too."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            lines = [text for name, text in report.user_properties if name == COUNTED]
            if lines and report.when == "call":
                terminalreporter.write_sep("=", report.nodeid)
                for line in lines:
                    terminalreporter.write_line(str(line))


if "COVERAGE_PROCESS_START" in os.environ:
    # Scenarios are measured, too, which get next to nothing of core's environment.
    from raspy.servers.core import child

    child.ENVIRONMENT = (*child.ENVIRONMENT, "COVERAGE_PROCESS_START", "COVERAGE_FILE")
