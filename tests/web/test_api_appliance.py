"""Every operation of the API does what it says, asked over HTTP of a whole appliance."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from raspy.web.api import openapi
from tests.support_processes import wait_for
from tests.web.api import Client, Served

TANK = "/device/pi.fake.tank/temperature"
CODE = "print('it runs')\n"

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    made = Served()
    try:
        made.settled()
        yield made
    finally:
        made.appliance.destroy()


@pytest.fixture
def api(served: Served) -> Client:
    return served.client


def test_devices(api: Client) -> None:
    """Listed as they are on the tree, shown by their server, made, changed, told, and deleted."""
    listed = {each["name"]: each for each in api.good("GET", "/devices")["items"]}
    assert listed["pi.fake.tank"]["server"] == "pi.fake"
    assert listed["pi.fake.tank"]["readings"]["temperature"]["unit"] == "°C"
    assert api.good("GET", "/devices?limit=1")["next"] == min(listed)

    kinds = {kind["oid"]: kind for kind in api.good("GET", "/servers/pi.fake/kinds")["items"]}
    assert kinds["sensor.cyclic"]["make"]
    made = api.good(
        "POST", "/devices", {"server": "pi.fake", "settings": {"oid": "sensor.cyclic", "name": "attic", "poll": 1}}
    )
    assert made["name"] == "attic"
    assert "already" in api.refused(
        400, "POST", "/devices", {"server": "pi.fake", "settings": {"oid": "sensor.cyclic", "name": "attic"}}
    )
    api.good("POST", "/devices/pi.fake.attic/settings", {"label": "Under the roof"})
    assert api.good("GET", "/devices/pi.fake.attic")["label"] == "Under the roof"
    api.refused(400, "POST", "/devices/pi.fake.attic/settings", {"colour": "red"})
    assert api.good("DELETE", "/devices/pi.fake.attic") is None
    api.refused(404, "GET", "/devices/pi.fake.attic")
    assert "no server pi.nothing" in api.refused(404, "GET", "/devices/pi.nothing.attic")

    api.good("PUT", "/devices/pi.fake.heater/commands/power", {"value": True, "seconds": 600})
    info = api.good("GET", "/devices/pi.fake.heater")
    assert info["commands"]["power"]["reading"]["value"] is True
    assert info["details"]["by"] == "token writer"
    assert api.good("GET", "/devices/pi.fake.heater/commands/power")["value"] is True
    assert "not true or false" in api.refused(400, "PUT", "/devices/pi.fake.heater/commands/power", {"value": "maybe"})
    api.refused(404, "PUT", "/devices/pi.fake.heater/commands/colour", {"value": 1})
    api.good("PUT", "/devices/pi.fake.heater/commands/power", {"value": "off"})
    wait_for(
        "the tree has it off",
        lambda: (
            next(each for each in api.good("GET", "/devices?after=pi.fake.h&limit=1")["items"])["readings"][
                "power"
            ].get("value")
            is False
        ),
    )


def test_modes(api: Client) -> None:
    """One output is put into a mode, and all of them; named modes are told with what they do."""
    assert api.good("GET", "/modes") == {"modes": {}, "problems": []}
    api.good("POST", "/devices/pi.fake.pump/settings", {"modes": "feeding: off 10m"})
    assert list(api.good("GET", "/modes")["modes"]) == ["feeding"]
    assert api.good("PUT", "/devices/pi.fake.pump/mode", {"mode": "on", "seconds": 60})["pump"]["mode"] == "on"
    api.refused(400, "PUT", "/devices/pi.fake.pump/mode", {"mode": "dancing"})
    api.refused(404, "PUT", "/devices/pi.fake.tank/mode", {"mode": "on"})
    done = api.good("PUT", "/modes", {"mode": "feeding"})
    assert done["pi.fake.pump"]["mode"] == "feeding"
    assert done["pi.fake.pump"]["mode_end"] > time.time()
    assert "pi.fake.pump" in api.good("PUT", "/modes", {"mode": "auto"})


def test_history(api: Client) -> None:
    """Charts, readings page by page, and events; what is asked wrongly is said."""
    wait_for(
        "a history of the tank", lambda: TANK in {each["key"] for each in api.good("GET", "/history/keys")["keys"]}
    )
    now = time.time()
    span = f"key={TANK}&since={now - 600}&until={now + 600}"
    chart = wait_for("points", lambda: [p for p in api.good("GET", f"/history?{span}&points=10")["points"] if p[4]])
    assert len(chart) <= 10
    rows: dict[str, Any] = wait_for(
        "three readings", lambda: (found := api.good("GET", f"/history/rows?{span}&limit=2"))["next"] and found
    )
    assert len(rows["rows"]) == 2
    after = api.good("GET", f"/history/rows?key={TANK}&since={rows['next']}&until={now + 600}&skip={rows['skip']}")
    assert after["rows"][0][0] >= rows["rows"][-1][0]
    assert "after until" in api.refused(400, "GET", f"/history?key={TANK}&since=2&until=1")
    assert "no history" in api.refused(404, "GET", "/history?key=/device/pi.fake.none/x&since=1&until=2")
    api.refused(400, "GET", f"/history?{span}&points=1")
    api.good("PUT", "/devices/pi.fake.light/mode", {"mode": "on", "seconds": 5})
    found = wait_for("the event", lambda: api.good("GET", "/events?pattern=output/pi.fake.light&limit=1").get("events"))
    assert "light" in str(found)
    api.good("PUT", "/devices/pi.fake.light/mode", {"mode": "auto"})


def test_alarms(api: Client) -> None:
    """A definition is made and raises an alarm, which is shelved, told again, and acknowledged."""
    made = api.good("PUT", "/definitions/cold", {"kind": "low", "key": TANK, "limit": 90.0, "label": "Cold"})
    assert made["settings"]["limit"] == 90.0
    assert "cold" in {each["name"] for each in api.good("GET", "/definitions")["items"]}

    def state() -> Any:
        return {each["name"]: each["state"] for each in api.good("GET", "/alarms")["items"]}.get("cold")

    wait_for("the alarm", lambda: state() == "active")
    assert api.good("POST", "/alarms/cold/shelve", {"seconds": 60}) == ["cold"]
    assert state() == "shelved"
    assert api.good("POST", "/alarms/cold/unshelve") == ["cold"]
    assert api.good("POST", "/alarms/cold/acknowledge") == ["cold"]
    shown = api.good("GET", "/definitions/cold")
    assert [(each["state"], each["by"]) for each in shown["alarms"]] == [("acknowledged", "token writer")]
    api.refused(404, "POST", "/alarms/nothing/acknowledge")
    api.refused(400, "POST", "/alarms/cold/shelve", {"seconds": 1e9})
    assert "kind" in api.refused(400, "PUT", "/definitions/cold", {"kind": "magic"})
    assert "key" in api.refused(400, "PUT", "/definitions/cold", {"kind": "low", "limit": 1})
    assert api.good("DELETE", "/definitions/cold") == "deleted"
    api.refused(409, "DELETE", "/definitions/stale")


def test_scenarios(api: Client) -> None:
    """A scenario is checked, made, run, looked at, switched, exported, imported and deleted."""
    assert api.good("POST", "/check/scenario", {"code": CODE})["ok"]
    wrong = api.good("POST", "/check/scenario", {"code": "x = 1\nif:\n"})
    assert (wrong["ok"], wrong["line"]) == (False, 2)
    assert api.good("PUT", "/scenarios/hello", {"code": CODE, "conf": {"label": "Hello"}})["code"] == CODE
    assert "line 1" in api.refused(400, "PUT", "/scenarios/hello", {"code": "if:"})
    assert api.good("GET", "/scenarios/hello")["code"] == CODE
    assert api.good("PUT", "/scenarios/hello", {"conf": {"label": "Hi"}})["code"] == CODE
    listed = {each["name"]: each for each in api.good("GET", "/scenarios")["items"]}
    assert listed["hello"]["conf"]["label"] == "Hi"
    assert api.good("POST", "/scenarios/hello/run") == "started"
    wait_for("its output", lambda: "it runs" in api.good("GET", "/scenarios/hello/output")["output"])
    assert api.good("POST", "/scenarios/hello/enable") == "enabled"
    assert api.good("POST", "/scenarios/hello/disable") == "disabled"
    for action in ("stop", "resume"):
        assert api.ask("POST", f"/api/v1/scenarios/hello/{action}").status in (200, 409)
        api.refused(404, "POST", f"/scenarios/nothing/{action}")
    document = api.good("GET", "/export/scenarios?names=hello")
    assert list(document["scenarios"]) == ["hello"]
    assert "hello" in api.good("GET", "/export/scenarios")["scenarios"]
    assert "hello" in api.refused(409, "POST", "/import/scenarios", {"document": document})
    assert api.good("POST", "/import/scenarios", {"document": document, "replace": True}) == ["hello"]
    assert api.good("DELETE", "/scenarios/hello") == "deleted"
    api.refused(404, "GET", "/scenarios/hello")


def test_schedule_and_variables(api: Client) -> None:
    """A job is made, fired and deleted; a variable is set by type."""
    assert len(api.good("POST", "/check/when", {"when": "0 8 * * *"})["next"]) == 3
    assert not api.good("POST", "/check/when", {"when": "tomorrow"})["ok"]
    job = {"when": "at 2099-01-01T08:00", "command": {"device": "fake.light", "command": "level", "value": 40}}
    made = api.good("PUT", "/schedule/dawn", job)
    assert len(made["next"]) == 1
    assert "dawn" in {each["name"] for each in api.good("GET", "/schedule")["items"]}
    assert api.good("GET", "/schedule/dawn")["settings"]["when"] == job["when"]
    assert api.good("POST", "/schedule/dawn/run") == "fired"
    wait_for("the light", lambda: api.good("GET", "/devices/pi.fake.light/commands/level").get("value") == 40)
    api.refused(400, "PUT", "/schedule/dawn", {**job, "when": "tomorrow"})
    assert api.good("DELETE", "/schedule/dawn") == "deleted"
    api.refused(404, "GET", "/schedule/dawn")

    for value in (25.5, True, "warm"):
        assert api.good("PUT", "/variables/target", {"value": value})["value"] == value
        assert api.good("GET", "/variables/target")["value"] == value
    api.refused(400, "PUT", "/variables/target", {"value": [1]})
    assert [each["name"] for each in api.good("GET", "/variables")["items"]] == ["target"]
    assert api.good("DELETE", "/variables/target") == "deleted"
    api.refused(404, "GET", "/variables/target")


def test_requests(served: Served, api: Client) -> None:
    """What Titanic holds is listed, shown, and withdrawn; only what is parked is tried again."""
    done = served.appliance.raspy("request", "pi.nothing.devices", "list", "--no-wait")
    uuid = done.stdout.strip()
    assert len(uuid) == 32, done.stderr
    listed = api.good("GET", "/requests?state=pending")
    assert uuid in {each["uuid"] for each in listed["items"]}
    assert api.good("GET", f"/requests/{uuid}")["service"] == "pi.nothing.devices"
    api.refused(409, "POST", f"/requests/{uuid}/retry")
    assert api.good("DELETE", f"/requests/{uuid}")["uuid"] == uuid
    api.refused(404, "GET", f"/requests/{uuid}")
    api.refused(400, "GET", "/requests?state=lost")
    api.refused(400, "GET", "/requests/x")


def test_system(api: Client) -> None:
    """Servers are listed and shown, the clocks are told, the document is the whole API."""
    listed = {each["name"]: each for each in api.good("GET", "/servers")["items"]}
    assert listed["pi.fake"]["state"] == "ok"
    assert api.good("GET", "/servers/pi.fake")["services"]
    api.refused(404, "GET", "/servers/pi.nothing")
    assert "system" in api.good("GET", "/clock")
    assert api.good("GET", "/openapi.json") == openapi.described(openapi.DOCUMENT.operations)
    assert TANK in api.good("GET", "/tree")["tree"]


def test_metrics_of_the_appliance(api: Client) -> None:
    """The readings and the servers of the appliance are there, by the labels."""
    for line in (
        'raspy_reading{host="pi",server="fake",device="tank",command="temperature",unit="°C"} ',
        'raspy_server_up{host="pi",server="core"} 1\n',
    ):
        # On a busy machine a reading may be stale for a moment, and is left out then.
        wait_for(line, lambda line=line: line in api.ask("GET", "/metrics").text)


def test_restart(served: Served, api: Client) -> None:
    """A server that is told to restart ends and is started again; the API goes on."""
    before = served.appliance.log.count(" fake: started in")
    assert api.good("POST", "/servers/pi.fake/restart") == "restarting"
    served.appliance.wait_ready("fake", before + 1)
    served.settled()
