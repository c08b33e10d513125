"""raspy device and raspy exec, as an owner types them, against the simulated aquarium."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support_processes import Appliance, wait_for

HEATER = "/device/pi.fake.heater/power"


@pytest.fixture(scope="module")
def aquarium() -> Iterator[Appliance]:
    """One that the tests may change."""
    made = Appliance(["broker", "titanic", "fake"])
    try:
        made.start()
        wait_for("the outputs", lambda: value(made, HEATER) is False)
        yield made
    finally:
        made.destroy()


def value(appliance: Appliance, key: str) -> Any:
    body = appliance.json("get", key)
    return body.get("value") if isinstance(body, dict) else None


def test_list_and_show(aquarium: Appliance) -> None:
    done = aquarium.raspy("device", "list")
    assert done.returncode == 0
    assert re.search(r"^pi\.fake\.heater +switch ", done.stdout, re.M)
    assert re.search(r"^pi\.fake\.tank +sensor\.tank ", done.stdout, re.M)
    shown = json.loads(aquarium.raspy("device", "show", "fake.heater").stdout)
    assert (shown["name"], shown["oid"], shown["details"]["state"]) == ("heater", "switch", "safe")


def test_an_output_is_held_for_the_time_said_and_falls_by_itself(aquarium: Appliance) -> None:
    done = aquarium.raspy("exec", "heater", "power", "on", "--for", "1h")
    assert (done.returncode, done.stderr) == (0, "")
    wait_for("the tree", lambda: value(aquarium, HEATER) is True)
    details = aquarium.json("device", "show", "heater")["result"]["details"]
    assert "command line" in details["by"]
    # For so short a time only now: on a busy machine each of these commands takes as long.
    done = aquarium.raspy("exec", "heater", "power", "on", "--for", "1s")
    assert (done.returncode, done.stderr) == (0, "")
    wait_for("the end of the lease", lambda: value(aquarium, HEATER) is False)


def test_a_value_is_read(aquarium: Appliance) -> None:
    done = aquarium.raspy("exec", "tank", "temperature")
    assert done.returncode == 0
    assert re.fullmatch(r"[\d.]+ °C\n", done.stdout)


def test_make_edit_and_delete(aquarium: Appliance) -> None:
    done = aquarium.raspy("device", "new", "fake", "sensor.cyclic", "name=pond", "minimum=4", "maximum=5", "poll=0.1")
    assert (done.returncode, done.stderr) == (0, "")
    wait_for("its value", lambda: 4 <= (value(aquarium, "/device/pi.fake.pond/value") or 0) <= 5)
    done = aquarium.raspy("device", "edit", "pond", "label=Garden pond", "minimum=6", "maximum=7")
    assert (done.returncode, done.stderr) == (0, "")
    wait_for("the new range", lambda: (value(aquarium, "/device/pi.fake.pond/value") or 0) >= 6)
    assert aquarium.json("device", "show", "Garden pond")["result"]["name"] == "pond"
    done = aquarium.raspy("exec", "Garden pond", "poll", "0.2")
    assert done.returncode == 0
    wait_for(
        "the store has it",
        lambda: (aquarium.json("store", "get", "pi.fake", "devices", "pond") or {}).get("value", {}).get("poll") == 0.2,
    )
    done = aquarium.raspy("device", "delete", "pi.fake.pond")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    wait_for("it is gone", lambda: aquarium.json("get", "/device/pi.fake.pond/value") is None)


def test_settings_survive_a_restart_of_the_server(aquarium: Appliance) -> None:
    assert aquarium.raspy("device", "edit", "camera", "label=Eye").returncode == 0
    before = aquarium.log.count(" fake: started in")
    aquarium.raspy("exec", "heater", "power", "on", "--for", "1h")
    os.kill(aquarium.pid("fake"), signal.SIGKILL)
    aquarium.wait_ready("fake", before + 1)
    wait_for(
        "the label", lambda: (aquarium.json("device", "show", "camera") or {}).get("result", {}).get("label") == "Eye"
    )
    # What is on the tree may still be of the one before, or of nobody.
    wait_for("the heater off", lambda: value(aquarium, HEATER) is False)


def test_templates(aquarium: Appliance) -> None:
    done = aquarium.raspy("device", "template", "fake")
    assert re.search(r"^switch +yes ", done.stdout, re.M)
    done = aquarium.raspy("device", "template", "fake", "switch")
    assert re.search(r"^longest_on +0\.0 +s ", done.stdout, re.M)
    assert re.search(r"^power +Bool ", done.stdout, re.M)
    assert "schema" in aquarium.json("device", "template", "fake", "switch")["result"]


def test_a_picture_goes_into_a_file(aquarium: Appliance, tmp_path: Path) -> None:
    place = tmp_path / "photo.png"
    done = aquarium.raspy("exec", "camera", "photo", "png", "--output", str(place))
    assert (done.returncode, done.stderr) == (0, "")
    assert place.read_bytes().startswith(b"\x89PNG\r\n")
    assert abs(json.loads(done.stdout)["time"] - time.time()) < 60


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["exec", "nothing", "power"], 1, "nothing: no such device; raspy device list names all"),
        (["exec", "heater", "fly"], 1, "heater has no command 'fly'"),
        (["exec", "heater", "power", "warm"], 1, "'warm' is not true or false"),
        (["exec", "heater", "power", "on", "--for", "0"], 2, "'0' is no time"),
        (["exec", "heater", "power", "on", "--for", "2d"], 1, "at most 86400"),
        (["exec", "heater", "power", "--for", "2s"], 1, "--for needs a value"),
        (["exec", "tank", "temperature", "21"], 1, "read only"),
        (["exec", "tank", "poll", "5", "--for", "9s"], 1, "no output"),
        (["device", "show", "pi.fake.nothing"], 1, "no such device"),
        (["device", "new", "nowhere", "switch", "name=x"], 1, "no such server with devices? There are pi.fake"),
        (["device", "new", "fake", "no.kind", "name=x"], 1, "no.kind"),
        (["device", "new", "fake", "switch", "x"], 1, "'x': a setting is given as name=value"),
        (["device", "new", "fake", "switch", "name=heater"], 1, "there is a device heater already"),
        (["device", "edit", "heater", "longest_on=-1"], 1, "longest_on"),
        (["device", "edit", "heater", "name=other"], 1, "never changes"),
        (["device", "delete", "heater"], 1, "heater comes with the server"),
        (["device", "fly"], 2, "fly"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(aquarium: Appliance, words: list[str], code: int, said: str) -> None:
    done = aquarium.raspy(*words)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
