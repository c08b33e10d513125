"""Black-box conformance suite for ZeroMQ RFC 7/MDP v0.1 and 8/MMI brokers, and for a Titanic (9/TSP) beside one.

It knows a broker by its endpoint only, talks to it with raw DEALER sockets and imports nothing of RasPy,
so it runs against any broker. From a shell::

    python -m tests.conformance tcp://127.0.0.1:5555 --liveness 2.5,3

From a test: `load_checks()` gives the checks, `run_check(check, target)` runs one of them.
"""

from tests.conformance.registry import Check, CheckFailed, Group, NotApplicable, groups, load_checks
from tests.conformance.runner import Launcher, Result, run_check, run_suite
from tests.conformance.stage import Stage, Target

__all__ = [
    "Check",
    "CheckFailed",
    "Group",
    "Launcher",
    "NotApplicable",
    "Result",
    "Stage",
    "Target",
    "groups",
    "load_checks",
    "run_check",
    "run_suite",
]
