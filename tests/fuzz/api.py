"""``python -m tests.fuzz.api``: schemathesis, let loose on the API of a whole appliance with a token that may write.

It fails when anything is answered with 500, when an answer is not as the description says, when what is wrong by the
description is taken, or when the log of the appliance has a traceback.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.web.api import Served

NAMES = {
    "devices": ["pi.fake.heater", "pi.fake.light", "pi.fake.pump", "pi.fake.tank", "pi.fake.camera"],
    "alarms": ["stale", "clock", "fuzz"],
    "scenarios": ["fuzz", "other"],
    "schedule": ["fuzz", "other"],
    "system": ["pi.fake", "pi.core", "pi.logger"],
}
"""By tag, names that there are or that there may be soon: random ones alone would find nothing."""
COMMANDS = ["power", "level", "mode", "label", "config", "reset", "temperature", "picture"]
KEYS = ["/device/pi.fake.tank/temperature", "/device/pi.fake.heater/power"]
BODIES: dict[str, dict[str, list[Any]]] = {
    "New": {
        "server": ["pi.fake"],
        "settings": [{"oid": "sensor.cyclic", "name": "fuzz"}, {"oid": "switch", "name": "fuzz", "lease": 5}],
    },
    "Set": {"value": [True, "off", 50, "auto", {"label": "x"}], "seconds": [1, 1.5]},
    "Mode": {"mode": ["on", "off", "auto"]},
    "Job": {"when": ["0 8 * * *", "@sunset", "every 10m"], "scenario": ["fuzz"]},
    "When": {"when": ["0 8 * * *", "@sunset", "every 10m"]},
    "Command": {"device": ["fake.heater"], "command": ["power"]},
    "Definition": {"key": [*KEYS, "/device/*"]},
    "Scenario": {
        "code": ["print(1)", "import time\ntime.sleep(9)", "raise ValueError"],
        "entries": [{"lamp": "fake.light/level"}],
        "conf": [{"startup": True, "label": "x"}],
    },
    "Import": {
        "document": [{"raspy": "scenarios", "version": 1, "scenarios": {"fuzz": {"code": "print(2)"}}}],
    },
}
"""By type, what fields of bodies may be so that something is done."""
TUPLES = ("Chart", "points"), ("Rows", "rows")
"""Where schemathesis does not take prefixItems."""
LEFT_OUT = "restart_server"
"""Whoever is asked next would not answer; and a server that ends otherwise has crashed."""
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "ignored_auth",
)
CONFIG = """\
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "502", "503", "504"]
[checks.negative_data_rejection]
expected-statuses = ["4xx", "503", "504"]
"""
"""A server that is asked may fail (its log is looked at), or be busy."""


def enriched(document: dict[str, Any], requests: list[str]) -> dict[str, Any]:
    """The description, with names that there are among those that parameters may have."""
    for methods in document["paths"].values():
        for operation in methods.values():
            for parameter in operation["parameters"]:
                known = {"command": COMMANDS, "key": KEYS, "uuid": requests}.get(parameter["name"], [])
                if parameter["name"] == "name":
                    known = NAMES[operation["tags"][0]]
                if operation["operationId"] == "kinds":
                    known = ["pi.fake"] if parameter["name"] == "name" else []
                if known:
                    parameter["schema"] = either(known, parameter["schema"])
    schemas = document["components"]["schemas"]
    for name, fields in BODIES.items():
        for field, known in fields.items():
            schemas[name]["properties"][field] = either(known, schemas[name]["properties"][field])
    for name, field in TUPLES:
        schemas[name]["properties"][field]["items"] = {"type": "array"}
    return document


def either(known: list[Any], schema: dict[str, Any]) -> dict[str, Any]:
    """A schema that has some values said aloud."""
    return {"anyOf": [{"enum": known}, schema]}


def program() -> str:
    """Where schemathesis is.

    :raises SystemExit: it is not there
    """
    found = shutil.which("schemathesis", path=str(Path(sys.executable).parent)) or shutil.which("schemathesis")
    if found is None:
        raise SystemExit("schemathesis is not installed: scripts/bootstrap fuzz-api installs it")
    return found


def run(served: Served, seconds: int, rest: list[str]) -> int:
    """Let schemathesis loose; its exit code."""
    document = served.client.good("GET", "/openapi.json")
    requests = [served.appliance.raspy("request", "pi.none.devices", "x", "--no-wait").stdout.strip() for _ in range(9)]
    with tempfile.TemporaryDirectory(prefix="raspy-fuzz-") as name:
        directory = Path(name)
        (directory / "openapi.json").write_text(json.dumps(enriched(document, requests)))
        (directory / "schemathesis.toml").write_text(CONFIG)
        argv = [
            *(program(), "--config-file", str(directory / "schemathesis.toml"), "run", str(directory / "openapi.json")),
            *("--url", f"http://127.0.0.1:{served.port}", "-H", f"Authorization: Bearer {served.client.token}"),
            *("--max-time", str(seconds), "--checks", ",".join(CHECKS), "--continue-on-failure"),
            *("--request-timeout", "30", "--exclude-operation-id", LEFT_OUT, "--output-truncate", "true", *rest),
        ]
        return subprocess.run(argv, cwd=directory, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.api", description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, help="how long (default 600)")
    parser.add_argument("rest", nargs="*", help="behind --: more for schemathesis, as --seed 1")
    options = parser.parse_args()
    served = Served()
    try:
        served.settled()
        code = run(served, options.seconds, options.rest)
        tracebacks = served.appliance.log.count("Traceback (most recent call last)")
        if tracebacks or code:
            log = Path("build") / "fuzz-api.log"
            log.parent.mkdir(exist_ok=True)
            log.write_text(served.appliance.log)
            print(f"{tracebacks} tracebacks in the log of the appliance: {log}")
        restarts = {name: count for name, count in served.appliance.restarts().items() if count}
        if restarts:
            print(f"restarted: {restarts}")
        return 1 if code or tracebacks or restarts else 0
    finally:
        served.appliance.destroy()


if __name__ == "__main__":
    sys.exit(main())
