"""raspy mode, as an owner types it, against the simulated aquarium; modes outlive a server that is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support_processes import Appliance, wait_for


@pytest.fixture(scope="module")
def aquarium() -> Iterator[Appliance]:
    """One that the tests may change."""
    made = Appliance(["broker", "titanic", "fake"])
    try:
        made.start()
        wait_for("the outputs", lambda: value(made, "heater", "power") is False)
        for name in ("pump", "heater"):
            done = made.raspy("device", "edit", name, "modes=feeding: off 10m, boost: on 5m")
            assert done.returncode == 0, done.stderr
        yield made
    finally:
        made.destroy()


def value(appliance: Appliance, device: str, command: str = "mode") -> Any:
    body = appliance.json("get", f"/device/pi.fake.{device}/{command}")
    return body.get("value") if isinstance(body, dict) else None


def mode(appliance: Appliance, *words: str) -> dict[str, dict[str, Any]]:
    done = appliance.json("mode", *words) or {"modes": []}
    return {row["output"]: row for row in done["modes"]}


def test_a_mode_for_all_that_know_it(aquarium: Appliance) -> None:
    found = mode(aquarium, "feeding")
    assert set(found) == {"pi.fake.pump", "pi.fake.heater"}
    wait_for("the tree", lambda: value(aquarium, "pump") == "feeding")
    assert value(aquarium, "pump", "mode_end") > 1e9
    text = aquarium.raspy("mode").stdout
    assert "feeding" in text
    assert "9 min" in text
    assert "command line" in text
    assert set(mode(aquarium, "auto")) == {"pi.fake.pump", "pi.fake.heater"}
    wait_for("the tree", lambda: value(aquarium, "pump") == "auto")


def test_one_output_for_a_time_and_after_its_server_was_killed(aquarium: Appliance) -> None:
    assert mode(aquarium, "heater", "on", "--for", "2h")["pi.fake.heater"]["mode"] == "on"
    wait_for("the heater", lambda: value(aquarium, "heater", "power") is True)
    pid = aquarium.pid("fake")
    os.kill(pid, signal.SIGKILL)

    wait_for("another server", lambda: aquarium.pid("fake") not in (0, pid))
    wait_for("it is on the bus", lambda: "mode" in mode(aquarium).get("pi.fake.heater", {}))
    wait_for("the heater", lambda: value(aquarium, "heater", "power") is True)
    row = mode(aquarium)["pi.fake.heater"]
    assert (row["mode"], row["value"]) == ("on", "on")
    assert aquarium.raspy("exec", "heater", "power", "off").returncode == 0
    assert value(aquarium, "heater", "power") is True, "a mode stands above commands"
    assert mode(aquarium, "heater", "auto")["pi.fake.heater"]["mode"] == "auto"
    wait_for("the heater", lambda: value(aquarium, "heater", "power") is False)


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["dusk"], 1, "no output has such a mode"),
        (["off"], 1, "no output is named"),
        (["heater", "dusk"], 1, "has no mode 'dusk'"),
        (["nothing", "off"], 1, "no such device"),
        (["tank", "off"], 1, "is no output"),
        (["heater", "off", "--for", "31d"], 1, "at most 30d"),
        (["heater", "off", "--for", "soon"], 2, "is no time"),
        (["--for", "5m"], 1, "needs a mode"),
        (["heater", "auto", "--for", "5m"], 1, "leave --for out"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(aquarium: Appliance, words: list[str], code: int, reason: str) -> None:
    done = aquarium.raspy("mode", *words)
    assert done.returncode == code
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
