"""The API as programs meet it: who may, what is refused and how, lists, its description, metrics."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raspy.servers.alarm.rules import AlarmSettings
from raspy.servers.core.cron import Command, CronSettings
from raspy.web.api import API, DESCRIBED, alarms, metrics, openapi, schedule
from raspy.web.api.metrics import Metric
from raspy.web.api.operation import Parameter, page
from raspy.web.board import Snapshot
from raspy.web.refusal import Refusal
from raspy.web.rows import Held
from tests.fuzz import api as fuzz
from tests.web.api import Client
from tests.web.hand import TANK, Hand, ask, reading, until
from tests.web.metrics import parsed


@pytest.fixture(scope="module")
def shared() -> Iterator[Hand]:
    made = Hand()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def hand(shared: Hand) -> Iterator[Hand]:
    shared.bus("live")
    yield shared
    for key in ask(shared.port, "/api/v1/tree").json["tree"]:
        shared.put(key, b"")


@pytest.fixture(scope="module")
def tokens(shared: Hand) -> dict[str, str]:
    return {scope: shared.auth.make_token(scope, scope) for scope in ("read", "write")}


@pytest.fixture
def api(hand: Hand, tokens: dict[str, str]) -> Client:
    return Client(hand.port, tokens["write"])


# Who may


def test_nobody_without_a_token_or_a_session(hand: Hand) -> None:
    """Every operation and the metrics want one, and say which."""
    stranger = Client(hand.port, "")
    for module in API:
        for route in module.ROUTES:
            path = re.sub(r"<\w+>", "x", route.rule)
            answer = stranger.ask(route.method, path, {} if route.method != "GET" else None)
            assert answer.status == 401, path
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
            assert answer.json["status"] == 401


@pytest.mark.parametrize("given", ["Bearer raspy_" + "x" * 43, "Bearer ", "Basic eDp5", "x" * 4000, "Bearer \xff"])
def test_a_token_that_is_not_known(hand: Hand, given: str) -> None:
    """It is refused, also when the browser has a session."""
    answer = ask(hand.port, "/api/v1/devices", Authorization=given)
    assert answer.status == 401
    assert "invalid_token" in answer.headers["WWW-Authenticate"]


def test_a_token_that_may_read(hand: Hand, tokens: dict[str, str]) -> None:
    """It reads everything, and changes nothing: whatever is not a GET wants one that may write."""
    reader = Client(hand.port, tokens["read"])
    assert reader.ask("GET", "/api/v1/devices").status == 200
    assert reader.ask("GET", "/metrics").status == 200
    for module in DESCRIBED:
        for each in module.OPERATIONS.all:
            path = "/api/v1" + re.sub(r"{\w+}", "x", each.path)
            if each.method != "GET":
                assert reader.ask(each.method, path, {}).status == 403, path


def test_a_token_that_is_revoked(hand: Hand) -> None:
    """It is known no more at once."""
    client = Client(hand.port, hand.auth.make_token("short", "read"))
    assert client.ask("GET", "/api/v1/devices").status == 200
    hand.auth.revoke("short")
    assert client.ask("GET", "/api/v1/devices").status == 401


def test_a_session_needs_its_word(hand: Hand) -> None:
    """A browser that has logged in may read, and change things only with its word and from this very page."""
    assert ask(hand.port, "/api/v1/devices").status == 200
    path, origin = "/api/v1/scenarios/NONE/run", f"http://127.0.0.1:{hand.port}"
    assert ask(hand.port, path, "POST", X_CSRF_Token=hand.csrf).status == 403
    assert ask(hand.port, path, "POST", Origin=origin).status == 403
    assert ask(hand.port, path, "POST", Origin="http://evil.example", X_CSRF_Token=hand.csrf).status == 403
    # It passes, and what is wrong with the name is told.
    assert ask(hand.port, path, "POST", Origin=origin, X_CSRF_Token=hand.csrf).status == 400


# What is refused


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("/devices?limit=0", "limit"),
        ("/devices?limit=501", "limit"),
        ("/devices?limit=1_0", "limit"),
        ("/devices?limit=1e2", "limit"),
        ("/devices?limit=" + "9" * 5000, "limit"),
        ("/devices?limit=1&limit=2", "once"),
        ("/devices?colour=red", "colour"),
        ("/devices?limit=%ff", "understood"),
        ("/devices?after=" + "x" * 301, "after"),
        ("/devices?after=%00", "after"),
        ("/devices?" + "&".join(f"a{n}=1" for n in range(200)), "understood"),
        ("/history?since=1&until=2", "key is missing"),
        ("/history?key=x&since=nan&until=2", "since"),
        ("/history?key=x&since=inf&until=2", "since"),
        ("/history?key=x&since=-1&until=2", "since"),
        ("/devices/pi.fake", "name"),
        ("/devices/..%2f..%2fetc", "name"),
        ("/devices/pi.fake.tank%00", "name"),
        ("/devices/pi.fake.tank%0a", "name"),
        ("/devices/PI.fake.tank", "name"),
        ("/servers/mmi.service%20x", "name"),
        ("/servers/titanic", "name"),
        ("/requests/" + "0" * 31, "uuid"),
        ("/scenarios/" + "x" * 64, "name"),
    ],
)
def test_a_wrong_address(api: Client, path: str, what: str) -> None:
    """It is refused before anybody is asked, and what is wrong is named."""
    assert what in api.refused(400, "GET", path)


@pytest.mark.parametrize(
    "path", ["/nothing", "/devices/", "/devices/a/b", "/", "/../../etc/passwd", "/devices/%2e%2e", "/devices/%ff"]
)
def test_no_such_address(api: Client, path: str) -> None:
    """What there is not is a 404 or a 400 in JSON."""
    answer = api.ask("GET", f"/api/v1{path}")
    assert answer.status in (400, 404)
    assert answer.json["status"] == answer.status


def test_another_method(api: Client) -> None:
    """It is told which there are."""
    answer = api.ask("DELETE", "/api/v1/devices")
    assert answer.status == 405
    assert {"GET", "POST"} <= set(answer.headers["Allow"].replace(" ", "").split(","))
    assert answer.json["status"] == 405


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "/variables/x", b"{"),
        ("PUT", "/variables/x", b"[" * 100_000),
        ("PUT", "/variables/x", b"\xff"),
        ("PUT", "/variables/x", b'"text"'),
        ("PUT", "/variables/x", b"{}"),
        ("PUT", "/variables/x", {"value": 1, "colour": "red"}),
        ("PUT", "/variables/x", {"value": None}),
        ("PUT", "/variables/x", {"value": "x" * 2001}),
        ("PUT", "/variables/x", b'{"value": 1e999}'),
        ("PUT", "/devices/pi.fake.heater/commands/power", {"value": 1, "seconds": 0}),
        ("PUT", "/devices/pi.fake.heater/commands/power", {"value": 1, "seconds": "10"}),
        ("PUT", "/devices/pi.fake.heater/commands/power", {"value": 1, "seconds": 1e300}),
        ("PUT", "/devices/pi.fake.heater/mode", {"mode": "On"}),
        ("PUT", "/devices/pi.fake.heater/mode", {"mode": "on\n"}),
        ("PUT", "/definitions/x", {"kind": "high", "limit": "28"}),
        ("PUT", "/schedule/x", {"when": "0 8 * * *", "command": {"device": "x"}}),
        ("POST", "/devices", {"server": "../x", "settings": {}}),
        ("POST", "/check/scenario", {"code": "x" * 200_001}),
        ("POST", "/devices/pi.fake.heater/settings", []),
    ],
)
def test_a_wrong_body(api: Client, method: str, path: str, body: Any) -> None:
    """It is refused before anybody is asked."""
    assert api.refused(400, method, path, body)


def test_a_number_that_no_server_takes(api: Client) -> None:
    """JSON has numbers of any length; those that cannot be read are refused."""
    assert "range" in api.refused(
        400, "PUT", "/devices/pi.fake.heater/commands/level", b'{"value": %s}' % (b"9" * 5000)
    )


def test_a_body_of_another_kind_or_too_long(api: Client) -> None:
    """Each has the status that says so."""
    assert api.ask("PUT", "/api/v1/variables/x", b"value=1", Content_Type="text/plain").status == 415
    assert api.ask("PUT", "/api/v1/variables/x").status == 415
    long = b'{"value": "%s"}' % (b"x" * 300_000)
    assert api.ask("PUT", "/api/v1/variables/x", long).status == 413


@given(st.text(max_size=50), st.sampled_from(["integer", "number"]))
def test_a_number_is_one_or_refused(text: str, kind: str) -> None:
    """Whatever stands there, it is a number within the bounds or is refused."""
    try:
        found = Parameter("x", kind, least=1, most=9).read("x", text)
    except Refusal:
        return
    assert 1 <= found <= 9
    assert math.isfinite(found)


# Lists


def test_devices_are_those_of_the_tree(hand: Hand, api: Client) -> None:
    """Whole names and parts of devices, in order, page by page; what is no reading is an error, and no other key."""
    hand.put(TANK, reading(25.5))
    hand.put("/device/pi1.onewire.tank.top/temperature", reading(26.5))
    hand.put("/device/pi1.onewire.broken/temperature", b"\xff")
    hand.put("/device/Not.A.Device/x", reading(1))
    hand.put("/other", reading(1))
    hand.settled()
    whole = api.good("GET", "/devices")
    assert [each["name"] for each in whole["items"]] == [
        "pi1.onewire.broken",
        "pi1.onewire.tank",
        "pi1.onewire.tank.top",
    ]
    assert whole["items"][1]["readings"]["temperature"]["value"] == 25.5
    assert whole["items"][0]["readings"]["temperature"]["quality"] == "error"
    parts, after = [], ""
    while after is not None:
        part = api.good("GET", f"/devices?limit=1&after={after}")
        parts += part["items"]
        after = part["next"]
    assert parts == whole["items"]


def test_nothing_is_current_while_the_bus_is_lost(hand: Hand, api: Client) -> None:
    """A number is under last alone, servers are unknown, and metrics have no value."""
    hand.put(TANK, reading(25.5))
    hand.put("/server/pi1.onewire", {"state": "ok", "memory": 1e7, "restarts": 2})
    hand.bus("lost")
    hand.settled()
    found = api.good("GET", "/devices")
    assert found["bus"] == "lost"
    told = found["items"][0]["readings"]["temperature"]
    assert (told["quality"], told["last"], "value" in told) == ("stale", 25.5, False)
    assert api.good("GET", "/servers")["items"][0]["state"] == "unknown"
    figures = parsed(api.ask("GET", "/metrics").text)
    assert figures["raspy_bus_live"] == {(): 0}
    assert "raspy_reading" not in figures
    assert set(figures["raspy_reading_ok"].values()) == {0}
    assert set(figures["raspy_server_up"].values()) == {0}


NASTY = (
    b"",
    b"[" * 5000,
    b"null",
    b'"text"',
    b'{"value": "\\ud800", "state": "\\ud800", "quality": "ok"}',
    b'{"value": %s, "memory": %s, "quality": "ok", "state": "ok"}' % (b"9" * 400, b"9" * 400),
    b'{"value": -0.0, "time": 1e308, "memory": true, "state": ["ok"], "quality": {"ok": 1}}',
    b'{"name": 5, "last": [[[]]], "quality": "ok", "state": {}}',
    b'{"x": 1, "x": 2}',
    b"\xff\x00",
    b'{"value": "%s"}' % (b"x" * 70_000),
)


@pytest.mark.parametrize("path", ["/devices", "/servers", "/tree", "/devices?limit=1"])
@pytest.mark.parametrize("bus", ["live", "lost"])
def test_whatever_is_on_the_tree(hand: Hand, api: Client, path: str, bus: str) -> None:
    """A body of any kind is no reason not to answer, and never a number that could be believed."""
    for number, body in enumerate(NASTY):
        hand.put(f"/device/pi1.fake.d{number}/x", body)
        hand.put(f"/server/pi1.s{number}", body)
    hand.bus(bus)
    hand.settled()
    answer = api.good("GET", path)
    if path == "/devices":
        assert len(answer["items"]) == len(NASTY) - 1
        for each in answer["items"]:
            told = each["readings"]["x"]
            assert "value" not in told or (bus, told["quality"]) == ("live", "ok")


@given(st.lists(st.text(min_size=1), unique=True), st.integers(1, 9))
def test_pages_of_a_list_are_the_list(names: list[str], limit: int) -> None:
    """Each item comes once, in order, in parts that are not longer than asked for."""
    items = [{"name": name} for name in names]
    found, after = [], ""
    for _ in range(len(names) + 1):
        part = page(items, "name", limit, after)
        assert len(part.items) <= limit
        found += part.items
        if part.next is None:
            break
        after = part.next
    assert found == sorted(items, key=lambda each: each["name"])


# Its description


def refs(value: Any) -> Iterator[str]:
    """All references in a document."""
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from refs(each)
    if isinstance(value, dict) and isinstance(value.get("$ref"), str):
        yield value["$ref"]


def test_every_route_is_described(api: Client) -> None:
    """Routes and description are the same set; a method, a parameter and a body are there as the route takes them."""
    document = api.good("GET", "/openapi.json")
    described = {
        (path, method.upper()) for path, methods in document["paths"].items() for method in methods
    }  # fmt: skip
    routes = {
        (route.rule.replace("<", "{").replace(">", "}"), route.method)
        for module in API
        for route in module.ROUTES
        if route.rule.startswith("/api/")
    }
    assert routes == described


def test_the_description_is_whole(api: Client) -> None:
    """What the specification wants of an operation is there (OpenAPI 3.1.0, section 4.8), and every reference leads to
    something."""
    document = api.good("GET", "/openapi.json")
    assert document["openapi"] == "3.1.0"
    assert {"title", "version"} <= set(document["info"])
    for ref in refs(document):
        found: Any = document
        for part in ref.removeprefix("#/").split("/"):
            found = found[part]
        assert found
    assert '"items":[' not in api.ask("GET", "/api/v1/openapi.json").text, "tuples are prefixItems since 2020-12"
    names = []
    for path, methods in document["paths"].items():
        for method, each in methods.items():
            names.append(each["operationId"])
            assert each["summary"]
            assert each["tags"][0] in {tag["name"] for tag in document["tags"]}
            parts = {given["name"] for given in each["parameters"] if given["in"] == "path"}
            assert parts == set(re.findall(r"{(\w+)}", path))
            assert all(given["required"] for given in each["parameters"] if given["in"] == "path")
            assert all(given["schema"]["type"] in ("string", "integer", "number") for given in each["parameters"])
            assert ("requestBody" in each) <= (method in ("put", "post"))
            assert {"400", "401", "503"} <= set(each["responses"])
            good = [status for status in each["responses"] if status.startswith("2")]
            assert len(good) == 1
            assert "schema" in each["responses"][good[0]]["content"]["application/json"]
    assert len(set(names)) == len(names)


def test_the_description_is_made_once() -> None:
    """A program that asks for it again and again costs nothing more."""
    assert openapi.DOCUMENT.get() is openapi.DOCUMENT.get()


def test_what_is_let_loose_on_it_knows_it(api: Client) -> None:
    """The names that `make fuzz-api` gives to schemathesis are those of the description."""
    document = fuzz.enriched(api.good("GET", "/openapi.json"), ["0" * 32])
    assert fuzz.LEFT_OUT in {each["operationId"] for methods in document["paths"].values() for each in methods.values()}
    assert list(refs(document))


@pytest.mark.parametrize(
    ("ours", "servers"),
    [(alarms.Definition, AlarmSettings), (schedule.Job, CronSettings), (schedule.Command, Command)],
)
def test_types_are_those_of_the_servers(ours: Any, servers: Any) -> None:
    """What is declared here again, as importing the server would cost 2 MB, takes the same as the server."""

    def limits(kind: Any) -> Any:
        (_,), found = msgspec.json.schema_components([kind], ref_template="{name}")
        return {
            name: {key: value for key, value in each.items() if key != "$ref"}
            for name, each in found[kind.__name__]["properties"].items()
        }

    assert limits(ours) == limits(servers)


# Metrics


def test_metrics(hand: Hand, api: Client) -> None:
    """Each number that is current is there with its labels; one that is stale or wrong is not."""
    hand.put(TANK, reading(25.5, age=10))
    hand.put("/device/pi1.fake.pump/power", reading(True))
    hand.put("/device/pi1.fake.tv/channel", reading("news"))  # type: ignore[arg-type]
    hand.put("/device/pi1.fake.dry.top/level", {"quality": "stale", "last": 3.5, "time": 1.0, "unit": "%"})
    hand.put("/server/pi1.fake", {"state": "degraded", "memory": 12_345_678, "restarts": 3, "errors": 1})
    hand.put("/server/pi1.core", {"state": "lost", "memory": 1e7, "restarts": 1})
    hand.put("/alarm/hot", {"state": "active", "severity": "critical"})
    hand.put("/alarm/odd", {"state": ["?"]})
    hand.settled()
    answer = api.ask("GET", "/metrics")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    figures = parsed(answer.text)
    at = {"host": "pi1", "server": "onewire", "device": "tank", "command": "temperature"}
    pump = {"host": "pi1", "server": "fake", "device": "pump", "command": "power"}
    assert figures["raspy_reading"] == {
        tuple({**at, "unit": "°C"}.items()): 25.5,
        tuple({**pump, "unit": "°C"}.items()): 1,
    }
    dry = tuple({"host": "pi1", "server": "fake", "device": "dry.top", "command": "level"}.items())
    assert figures["raspy_reading_ok"][dry] == 0
    assert figures["raspy_reading_ok"][tuple(at.items())] == 1
    assert 10 <= figures["raspy_reading_age_seconds"][tuple(at.items())] < 60
    fake, core = (("host", "pi1"), ("server", "fake")), (("host", "pi1"), ("server", "core"))
    assert figures["raspy_server_up"] == {fake: 1, core: 0}
    assert figures["raspy_server_ok"] == {fake: 0, core: 0}
    assert figures["raspy_server_memory_bytes"] == {fake: 12_345_678}
    assert figures["raspy_server_restarts_total"] == {fake: 3, core: 1}
    assert figures["raspy_alarms"][(("state", "active"),)] == 1
    assert sum(figures["raspy_alarms"].values()) == 1


HOSTILE = st.one_of(
    st.binary(max_size=60),
    st.dictionaries(
        st.sampled_from(["value", "unit", "quality", "time", "state", "memory", "restarts"]),
        st.one_of(
            st.text(st.characters(codec="utf-8"), max_size=20),
            st.integers(-(2**60), 2**60),
            st.floats(),
            st.booleans(),
            st.none(),
            st.just("ok"),
            st.just([1]),
        ),
    ).map(msgspec.json.encode),
)


@given(HOSTILE)
def test_metrics_of_anything(body: bytes) -> None:
    """Whatever stands on the tree, what is answered can be parsed."""
    keys = TANK, "/server/pi1.core", '/alarm/x\n"\\{}'
    held = {key: Held(key, body, time.monotonic(), time.time()) for key in keys}
    found = Snapshot("1", "live", time.monotonic(), held, (), 0)
    parsed(metrics.text(found))


@given(st.text(st.characters(codec="utf-8")))
def test_a_label_of_anything(text: str) -> None:
    """It comes back as it was; a carriage return, which parsers may take for the end of a line, as a space."""
    metric = Metric("x", "A metric.")
    metric.add(1, (("unit", text),))
    assert parsed(metric.text()) == {"x": {(("unit", text.replace("\r", " ")),): 1}}


def test_metrics_are_bounded(hand: Hand, api: Client) -> None:
    """Readings beyond what is told are counted."""
    for number in range(2010):
        hand.put(f"/device/pi1.fake.d{number}/x", reading(number))
    hand.settled()
    until(lambda: len(ask(hand.port, "/api/v1/tree").json["tree"]) == 2010, "all are there")
    figures = parsed(api.ask("GET", "/metrics").text)
    assert len(figures["raspy_reading_ok"]) == 2000
    assert figures["raspy_readings_left_out"] == {(): 10}
