"""Which servers are there and how they are, as the broker writes it on the tree."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from raspy.common.server import Server
from raspy.servers.broker import presence
from tests.bus import BASE, Bus, environment, eventually, running, running_bus, server_command, write_config
from tests.conformance.stage import Client, Request, Worker, unique
from tests.support_devices import LIMIT

NAME = "pi.tank"
HEALTHY: dict[str, Any] = {
    "pid": 17,
    "version": "1.2",
    "uptime": 0.0,
    "memory": 7_000_000,
    "errors": 0,
    "last_error": "",
    "state": "ok",
    "conditions": {},
    "instance": "pi.tank.17.abcd",
    "services": [f"{NAME}.mmi", f"{NAME}.devices"],
}


@pytest.fixture
def bus() -> Iterator[Bus]:
    with running_bus(heartbeat=60_000) as running:
        yield running


class Raw:
    """The ``mmi`` worker of a server, that answers what a test tells it to."""

    def __init__(self, bus: Bus, name: str = NAME) -> None:
        self.bus = bus
        self.name = name
        self.worker: Worker = bus.stage.worker(f"{name}.mmi".encode())

    def asked(self) -> Request:
        request = self.worker.request()
        assert request.body == [b"status"]
        assert request.client == b""
        return request

    def answer(self, *frames: bytes) -> None:
        self.worker.reply(self.asked(), *frames)

    def tell(self, **status: Any) -> None:
        self.answer(json.dumps({**HEALTHY, **status}).encode(), b"200")

    def state(self) -> dict[str, Any] | None:
        return state(self.bus, self.name)

    def becomes(self, wanted: str) -> dict[str, Any]:
        """Wait until the server is in a state, and return what stands on the tree."""
        return becomes(self.bus, self.name, wanted)


def state(bus: Bus, name: str = NAME) -> dict[str, Any] | None:
    """What stands on the tree of a server."""
    entry: dict[str, Any] | None = bus.tree(f"/server/{name}").get(f"/server/{name}")
    return entry


def becomes(bus: Bus, name: str, wanted: str) -> dict[str, Any]:
    """Wait until a server is in a state, and return what stands on the tree."""
    assert bus.stage.until(lambda: (state(bus, name) or {}).get("state") == wanted), f"{wanted}: {state(bus, name)}"
    found = state(bus, name)
    assert found is not None
    return found


def last_event(bus: Bus, name: str = NAME) -> dict[str, Any]:
    """The last event of a server."""
    event: dict[str, Any] = bus.tree("/event/server/")[f"/event/server/{name}"]
    return event


def test_a_server_that_registers_is_asked_and_shown(bus: Bus) -> None:
    raw = Raw(bus)
    raw.tell()
    seen = raw.becomes("ok")
    assert {key: seen[key] for key in presence.TOLD} == {key: HEALTHY[key] for key in presence.TOLD}
    assert (seen["restarts"], seen["last_down"]) == (0, None)
    assert last_event(bus)["event"] == "up"


def test_a_server_that_says_goodbye_was_stopped(bus: Bus) -> None:
    raw = Raw(bus)
    raw.tell()
    raw.becomes("ok")
    raw.worker.disconnect()
    seen = raw.becomes("stopped")
    assert seen["last_down"]["reason"] == "it was stopped"
    assert last_event(bus)["event"] == "stopped"


def test_a_server_whose_connection_breaks_is_lost_and_its_values_stale(bus: Bus) -> None:
    raw = Raw(bus)
    raw.tell()
    raw.becomes("ok")
    reading = {"value": 21.5, "unit": "°C", "time": 1, "max_age": 1000, "quality": "ok"}
    for key in (f"/device/{NAME}.probe/temperature", "/device/pi.other.probe/temperature"):
        bus.call(lambda broker, key=key: broker.proxy.update(key, json.dumps(reading).encode()))  # type: ignore[misc]
    raw.worker.close()
    seen = raw.becomes("lost")
    assert "crashed or was killed" in seen["last_down"]["reason"]
    assert last_event(bus)["event"] == "lost"
    bus.eventually(lambda broker: not broker.proxy.aging.busy)
    values = bus.tree("/device/")
    assert values[f"/device/{NAME}.probe/temperature"]["quality"] == "stale"
    assert "value" not in values[f"/device/{NAME}.probe/temperature"]
    assert values["/device/pi.other.probe/temperature"] == reading


def test_another_instance_is_a_restart(bus: Bus) -> None:
    first = Raw(bus)
    first.tell()
    first.becomes("ok")
    first.worker.close()
    lost = first.becomes("lost")
    second = Raw(bus)
    second.tell(instance="pi.tank.18.ef01", pid=18)
    seen = second.becomes("ok")
    assert (seen["restarts"], seen["pid"]) == (1, 18)
    assert seen["last_down"] == lost["last_down"]
    assert last_event(bus)["event"] == "restarted"


def test_the_same_instance_that_registers_again_is_none(bus: Bus) -> None:
    for _ in range(2):
        raw = Raw(bus)
        raw.tell()
        assert raw.becomes("ok")["restarts"] == 0
        raw.worker.close()
        raw.becomes("lost")


def test_conditions_make_a_server_degraded(bus: Bus) -> None:
    raw = Raw(bus)
    raw.tell(state="degraded", conditions={"bus": "no probe"})
    seen = raw.becomes("degraded")
    assert seen["conditions"] == {"bus": "no probe"}
    assert last_event(bus) == {"time": seen["time"], "event": "degraded", "reason": "no probe"}
    # By hand: at an interval that is short enough for a test, a busy machine makes it silent in between.
    bus.call(lambda broker: broker.presence._ask_all())
    raw.tell()
    raw.becomes("ok")
    assert last_event(bus)["event"] == "up"


def test_a_server_that_does_not_answer_is_silent_until_it_does(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "INTERVAL", 0.05)
    bus.restart()
    raw = Raw(bus)

    def answers() -> bool:
        """Whether it is well; when it was late for a question it is silent, and has answered the next one."""
        while raw.worker.requests:
            raw.tell()
        return (raw.state() or {}).get("state") == "ok"

    assert bus.stage.until(answers)
    request = raw.asked()
    raw.becomes("silent")
    assert last_event(bus)["event"] == "silent"
    raw.worker.reply(request, json.dumps(HEALTHY).encode(), b"200")
    assert bus.stage.until(answers)
    raw.tell()


def test_two_servers_of_one_name_are_told_until_one_is_gone(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "TWIN_TIME", 0.02)
    first, second = Raw(bus), Raw(bus)

    def answered(wanted: str) -> bool:
        for number, raw in enumerate((first, second)):
            while raw.worker.requests:
                raw.tell(instance=f"pi.tank.{number}")
        return (first.state() or {}).get("state") == wanted

    assert bus.stage.until(lambda: answered("degraded"))
    assert last_event(bus)["reason"] == "2 servers have this name: stop all but one"
    first.worker.close()
    bus.eventually(lambda broker: len(broker.workers) == 1)
    assert bus.stage.until(lambda: answered("ok"))
    second.worker.close()
    assert second.becomes("lost")["restarts"] <= 1


def test_a_worker_that_dies_over_the_question_is_asked_no_more(bus: Bus) -> None:
    raw = Raw(bus)
    raw.asked()
    raw.worker.close()
    raw.becomes("lost")
    bus.at_rest()


# ---------------------------------------------------------------- services that are ours


def ours(client: Client, service: str) -> bool | None:
    """What the broker says about a service: None when it has no worker."""
    body, status = client.ask(b"mmi.workers", service.encode())
    return bool(json.loads(body)["ours"]) if status == b"200" else None


@pytest.mark.parametrize("early", [True, False])
def test_the_services_that_a_server_names_are_ours_whenever_they_register(bus: Bus, early: bool) -> None:
    """The connections of one server come in any order."""
    client, service = bus.stage.client(), f"{NAME}.devices"
    if early:
        bus.stage.idle_worker(service.encode())
        assert ours(client, service) is False
    raw = Raw(bus)
    raw.tell()
    raw.becomes("ok")
    if not early:
        assert ours(client, service) is None
        bus.stage.idle_worker(service.encode())
    assert ours(client, service) is True
    assert ours(client, f"{NAME}.mmi") is True


def test_a_name_is_ours_only_while_its_server_is_there(bus: Bus) -> None:
    raw, service = Raw(bus), f"{NAME}.devices"
    raw.tell()
    raw.becomes("ok")
    raw.worker.close()
    raw.becomes("lost")
    bus.stage.idle_worker(service.encode())
    assert ours(bus.stage.client(), service) is False


def test_a_server_names_no_services_but_its_own(bus: Bus) -> None:
    bus.stage.idle_worker(b"foreign")
    bus.stage.idle_worker(b"pi.tanker.devices")
    raw = Raw(bus)
    raw.tell(services=["foreign", "pi.tanker.devices", "\x00", ""])
    raw.becomes("ok")
    client = bus.stage.client()
    assert ours(client, "foreign") is False
    assert ours(client, "pi.tanker.devices") is False


def test_services_without_a_host_in_their_name_are_ours_too(bus: Bus) -> None:
    """Those under the name that the server has on every host, and no others."""
    client, mine, foreign = bus.stage.client(), ["tank.request", "tank.store"], ["tanker.request", "pond.store", "tank"]
    bus.stage.idle_worker(b"tank.request")
    raw = Raw(bus)
    raw.tell(services=[*HEALTHY["services"], *mine, *foreign])
    raw.becomes("ok")
    for service in ("tank.store", *foreign):
        bus.stage.idle_worker(service.encode())
    assert [ours(client, service) for service in mine] == [True, True]
    assert [ours(client, service) for service in foreign] == [False, False, False]


def test_a_service_without_a_host_is_ours_only_while_its_server_is_there(bus: Bus) -> None:
    raw, client = Raw(bus), bus.stage.client()
    raw.tell(services=[*HEALTHY["services"], "tank.request"])
    raw.becomes("ok")
    raw.worker.close()
    raw.becomes("lost")
    worker = bus.stage.idle_worker(b"tank.request")
    assert ours(client, "tank.request") is False
    raw = Raw(bus)
    raw.tell(services=[*HEALTHY["services"], "tank.request"], instance="another")
    raw.becomes("ok")
    assert ours(client, "tank.request") is True
    worker.disconnect()
    assert bus.stage.until(lambda: ours(client, "tank.request") is None)


def test_a_server_that_does_not_name_a_service_any_more(bus: Bus) -> None:
    raw, client = Raw(bus), bus.stage.client()
    raw.tell(services=[*HEALTHY["services"], "tank.request"])
    raw.becomes("ok")
    bus.runner.call(lambda: bus.runner.executive.presence._ask_all())
    raw.tell(memory=8)
    assert bus.stage.until(lambda: (raw.state() or {})["memory"] == 8)
    bus.stage.idle_worker(b"tank.request")
    assert ours(client, "tank.request") is False


# ---------------------------------------------------------------- hostile ones


@pytest.mark.parametrize(
    "frames",
    [
        [b"200"],
        [b""],
        [b"", b"200"],
        [b"\xff\xfe", b"200"],
        [b'{"version":"\xff"}', b"200"],
        [b'{"other":' + b"[" * 20_000, b"200"],
        [b"[]", b"200"],
        [b'{"pid":"x"}', b"200"],
        [b'{"services":["\\udc00"]}', b"200"],
        [b'{"services":3}', b"200"],
        [b'{"conditions":{"a":[]}}', b"200"],
        [b'{"uptime":1e999}', b"200"],
        [b'{"last_error":"' + b"x" * presence.STATUS_LIMIT + b'"}', b"200"],
        [b'"why"', b"500"],
        [b"{}", b"200", b"200", b"404"],
    ],
    ids=range(15),
)
def test_an_answer_that_is_no_status_harms_nobody(bus: Bus, frames: list[bytes]) -> None:
    raw = Raw(bus)
    raw.answer(*frames)
    bus.eventually(lambda broker: broker.presence.servers[NAME].asked is None)
    bus.runner.call(lambda: bus.runner.executive.presence._ask_all())
    raw.asked()
    assert bus.statistic("errors") == 0
    assert (raw.state() or {})["state"] in ("ok", "degraded")


def test_the_services_of_one_with_much_to_say_are_ours_all_the_same(bus: Bus) -> None:
    raw = Raw(bus)
    service = f"{NAME}.devices".encode()
    bus.stage.idle_worker(service)
    told = {"services": [service.decode()], "conditions": {"long": "x" * presence.STATUS_LIMIT}}
    raw.answer(json.dumps(told).encode(), b"200")
    bus.eventually(lambda broker: broker.services[service].ours)
    state = raw.state() or {}
    assert state["state"] == "degraded"


@pytest.mark.parametrize(
    "name",
    [
        b"a\nb.c.mmi",
        b"a\x00.c.mmi",
        b"/a/.b.mmi",
        b"..mmi",
        b".mmi",
        b"a.b.c.mmi",
        b"A.b.mmi",
        b"a b.c.mmi",
        b"\xe4.b.mmi",
    ],
)
def test_a_name_that_is_no_servers_is_not_put_on_the_tree(bus: Bus, name: bytes) -> None:
    before = set(bus.tree())
    client, worker = bus.stage.client(), bus.stage.idle_worker(name)
    client.request(name, b"work")
    worker.request()
    worker.close()
    second = bus.stage.worker(name)
    second.reply(second.request(), b"done")
    assert client.reply().body == [b"done"]
    assert set(bus.tree()) == before


def test_names_of_servers_are_bounded_in_number(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "SERVER_LIMIT", 3)
    # It answers once, and is not silent however long the others take.
    monkeypatch.setattr(presence, "INTERVAL", 3600.0)
    keeper = Raw(bus, "pi.keeper")
    keeper.tell()
    keeper.becomes("ok")
    for number in range(20):
        raw = Raw(bus, f"pi.s{number}")
        raw.tell()
        raw.becomes("ok")
        raw.worker.disconnect()
        raw.becomes("stopped")
    expected = {"pi.keeper", "pi.s18", "pi.s19"}
    assert set(bus.tree("/event/server/")) == {f"/event/server/{name}" for name in expected}
    assert set(bus.tree("/server/")) == {f"/server/{name}" for name in (*expected, "pi.broker")}
    assert (keeper.state() or {})["state"] == "ok"


def test_servers_beyond_the_bound_are_not_shown_while_all_live(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "SERVER_LIMIT", 1)
    first = Raw(bus, "pi.one")
    first.tell()
    first.becomes("ok")
    second = bus.stage.idle_worker(b"pi.two.mmi")
    assert state(bus, "pi.two") is None
    second.close()
    bus.eventually(lambda broker: len(broker.workers) == 1)
    assert state(bus, "pi.two") is None


# ---------------------------------------------------------------- the broker itself, and real servers


def test_the_broker_shows_itself(bus: Bus) -> None:
    seen = becomes(bus, "pi.broker", "ok")
    assert seen["pid"] == os.getpid()
    assert seen["restarts"] == 0


def test_a_server_that_was_here_before_the_broker_has_not_come_up(bus: Bus) -> None:
    raw = Raw(bus)
    raw.tell(uptime=1e6)
    raw.becomes("ok")
    assert bus.tree("/event/server/") == {}
    assert (state(bus, "pi.broker") or {})["restarts"] == 0


def test_what_the_supervisor_knows_of_a_restart_is_told(bus: Bus) -> None:
    raw = Raw(bus)
    raw.tell(starts=1)
    raw.becomes("ok")
    raw.worker.close()
    raw.becomes("lost")
    again = Raw(bus)
    again.tell(instance="pi.tank.18", starts=4, last_end="no sign of life for 10 s")
    seen = again.becomes("ok")
    assert (seen["restarts"], seen["last_down"]["reason"]) == (3, "no sign of life for 10 s")


def test_a_broker_that_was_started_again_says_why(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERVISOR_STARTS", "3")
    monkeypatch.setenv("SUPERVISOR_LAST_END", "ended by SIGKILL")
    bus.restart()
    seen = becomes(bus, "pi.broker", "ok")
    assert (seen["restarts"], seen["last_down"]["reason"]) == (2, "ended by SIGKILL")
    assert last_event(bus, "pi.broker")["event"] == "restarted"


def test_a_broker_with_an_error_is_degraded_for_a_while(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "INTERVAL", 0.05)
    bus.restart()
    bus.runner.call(lambda: bus.runner.executive.report(ValueError("x"), "a test"))
    becomes(bus, "pi.broker", "degraded")
    # Not before it was seen.
    monkeypatch.setattr(presence, "ERROR_TIME", 0.3)
    becomes(bus, "pi.broker", "ok")
    bus.runner.executive.errors = 0


def test_the_brokers_question_comes_before_those_of_others(bus: Bus) -> None:
    raw = Raw(bus)
    raw.tell()
    raw.becomes("ok")
    client = bus.stage.client()
    for _ in range(50):
        client.request(f"{NAME}.mmi".encode(), b"status")
    held = raw.worker.request()
    bus.runner.call(lambda: bus.runner.executive.presence._ask_all())
    raw.worker.reply(held, b"{}", b"200")
    raw.tell(memory=9)
    assert bus.stage.until(lambda: (raw.state() or {})["memory"] == 9)


def test_a_real_server_and_all_its_services(bus: Bus) -> None:
    server = Server("pi", "tank", bus.ip, BASE)
    client = bus.stage.client()
    with running(server) as runner:
        seen = becomes(bus, NAME, "ok")
        assert seen["memory"] > 0
        for service in server.services():
            assert bus.stage.until(lambda service=service: ours(client, service) is True), service  # type: ignore[misc]
        runner.call(lambda: server.condition("probe", "not there"))
    assert becomes(bus, NAME, "stopped")["last_down"]["reason"] == "it was stopped"


def test_after_a_restart_of_the_broker_every_service_is_ours_again(bus: Bus) -> None:
    """Each connection comes back after a pause of its own; the server is asked when the first of them is there."""
    server = Server("pi", "tank", bus.ip, BASE)
    with running(server):
        becomes(bus, NAME, "ok")
        bus.restart()
        client = bus.stage.client()
        bus.eventually(lambda broker: len(broker.workers) == 2)
        becomes(bus, NAME, "ok")
        for service in server.services():
            # One that was registered again already may be opened anew once the server hears of the new broker.
            eventually(lambda name=service: ours(client, name) is True, service)  # type: ignore[misc]


def test_a_process_that_is_killed_and_one_that_takes_its_place(bus: Bus) -> None:
    config = write_config(bus.ip.removeprefix("ipc://"))
    pids = []
    for kill in (signal.SIGKILL, signal.SIGTERM):
        process = subprocess.Popen(server_command("fake", config), env=environment(), stderr=subprocess.DEVNULL)
        try:
            seen = becomes(bus, "pi.fake", "ok")
            pids.append(seen["pid"])
            assert seen["pid"] == process.pid
            assert seen["restarts"] == len(pids) - 1
            process.send_signal(kill)
            down = becomes(bus, "pi.fake", "lost" if kill == signal.SIGKILL else "stopped")
        finally:
            process.kill()
            process.wait(LIMIT)
        expected = "crashed or was killed" if kill == signal.SIGKILL else "it was stopped"
        assert expected in down["last_down"]["reason"]


def test_a_service_of_no_server_is_not_asked(bus: Bus) -> None:
    worker = bus.stage.idle_worker(unique())
    bus.stage.probe()
    assert not worker.requests
    assert set(bus.tree("/server/")) == {"/server/pi.broker"}
