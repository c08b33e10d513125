"""The mother class of the servers, over a real bus."""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from raspy import __version__
from raspy.common import MDP
from raspy.common.config import BusConfig, Config
from raspy.common.log import RECENT, Recent
from raspy.common.server import MEMORY_BYTES, MEMORY_REPLIES, ReplyMemory, Server
from raspy.common.verbs import Later, VerbError, Verbs
from tests.bus import BASE, Bus, OnThread, eventually, running, running_bus
from tests.conformance.stage import Client

DEVICES = Verbs("devices", slots=3)


class Tank(Server):
    """Counts what it does."""

    def __init__(self, hostname: str = "pi", broker_ip: str = "127.0.0.1", broker_port: int = BASE) -> None:
        super().__init__(hostname, "tank", broker_ip, broker_port)
        self.done: list[str] = []
        self.later: list[Later] = []
        self.reloads = 0

    def worker_devices(self) -> Verbs:
        return DEVICES

    def reload(self) -> None:
        self.reloads += 1


@DEVICES.verb(reads=True, name="list")
def list_all(server: Tank) -> list[str]:
    """What was done."""
    server.done.append("list")
    return server.done


@DEVICES.verb(name="exec")
def execute(server: Tank, command: str, value: str = "") -> str:
    """Do it."""
    server.done.append(command)
    return command + value


@DEVICES.verb()
def slow(server: Tank) -> Later:
    """Answered when the test says so."""
    server.later.append(Later())
    return server.later[-1]


@DEVICES.verb()
def broken(server: Tank) -> None:
    raise RuntimeError("a secret of the inside")


@DEVICES.verb()
def refused(server: Tank, status: str) -> None:
    raise VerbError(status.encode(), "the lamp is hot")


@DEVICES.verb()
def no_json(server: Tank) -> object:
    return object()


@pytest.fixture
def bus() -> Iterator[Bus]:
    with running_bus(heartbeat=60_000) as running:
        yield running


@contextmanager
def tank_on(bus: Bus) -> Iterator[OnThread[Tank]]:
    """A tank with all its workers registered."""
    with running(Tank("pi", bus.ip)) as runner:
        bus.eventually(lambda broker: len(broker.workers) == 3)
        yield runner


@pytest.fixture
def tank(bus: Bus) -> Iterator[OnThread[Tank]]:
    with tank_on(bus) as runner:
        yield runner


def ask(client: Client, *frames: bytes, service: str = "devices") -> tuple[Any, bytes]:
    """The decoded answer of a verb, and its status."""
    body, status = client.ask(f"pi.tank.{service}".encode(), *frames)
    return json.loads(body), status


def an_id(number: int) -> bytes:
    return MDP.REQUEST_ID + b"%032x" % number


# ---------------------------------------------------------------- verbs over the wire


def test_verbs_are_answered(bus: Bus, tank: OnThread[Tank]) -> None:
    client = bus.stage.client()
    assert ask(client, b"exec", b"on", b"1") == ("on1", b"200")
    assert ask(client, b"list") == (["on", "list"], b"200")


@pytest.mark.parametrize(
    ("frames", "status", "words"),
    [
        ([b"exec"], b"400", "usage: exec command [value]"),
        ([b"exec", b"\xff"], b"400", "UTF-8"),
        ([b"", b""], b"501", "unknown verb ''"),
        ([b"explode"], b"501", "devices knows list, exec"),
        ([b"RASPY1 short"], b"501", "unknown verb"),
        ([an_id(1)], b"400", "the request is empty"),
        ([b"refused", b"409"], b"409", "the lamp is hot"),
    ],
)
def test_refusals_have_a_status_and_a_reason(
    bus: Bus, tank: OnThread[Tank], frames: list[bytes], status: bytes, words: str
) -> None:
    client = bus.stage.client()
    reason, got = ask(client, *frames)
    assert got == status
    assert words in reason
    values, _ = ask(client, b"all", service="statistics")
    assert (values["tank.refused"], values["tank.errors"]) == (1, 0)


@pytest.mark.parametrize("verb", [b"broken", b"no_json"])
def test_an_exception_is_answered_500_and_the_server_goes_on(bus: Bus, tank: OnThread[Tank], verb: bytes) -> None:
    client = bus.stage.client()
    reason, status = ask(client, verb)
    assert status == b"500"
    assert reason.endswith("in pi.tank; its log has the details")
    assert "secret" not in reason
    assert ask(client, b"exec", b"on") == ("on", b"200")
    seen, _ = ask(client, b"status", service="mmi")
    assert seen["errors"] == 1
    assert f"verb {verb.decode()} of devices" in seen["last_error"]


def test_a_slow_verb_holds_up_no_other(bus: Bus, tank: OnThread[Tank]) -> None:
    slow_one, quick = bus.stage.client(), bus.stage.client()
    slow_one.request(b"pi.tank.devices", b"slow")
    assert bus.stage.until(lambda: tank.call(lambda: len(tank.executive.later)) == 1)
    assert ask(quick, b"exec", b"on") == ("on", b"200")
    tank.call(lambda: tank.executive.later[0].reply("ready"))
    assert slow_one.reply().body == [b'"ready"', b"200"]


def test_a_service_takes_as_many_requests_as_it_has_slots(bus: Bus, tank: OnThread[Tank]) -> None:
    client = bus.stage.client()
    for _ in range(4):
        client.request(b"pi.tank.devices", b"slow")
    assert bus.stage.until(lambda: tank.call(lambda: len(tank.executive.later)) == 3)
    assert bus.stage.until(lambda: bus.statistic("queued") == 1)
    tank.call(lambda: tank.executive.later[1].fail(b"503", "no power"))
    assert client.reply().body == [b'"no power"', b"503"]
    assert bus.stage.until(lambda: tank.call(lambda: len(tank.executive.later)) == 4)


def test_what_is_answered_at_once_needs_one_connection(bus: Bus, tank: OnThread[Tank]) -> None:
    clients = [bus.stage.client() for _ in range(5)]
    for client in clients:
        client.request(b"pi.tank.devices", b"exec", b"on")
    assert [client.reply().body for client in clients] == [[b'"on"', b"200"]] * 5
    assert tank.call(lambda: [len(slots.connections) for slots in tank.executive._offered]) == [1, 1, 1]


def test_a_late_answer_of_a_server_that_left_reaches_nobody(bus: Bus, tank: OnThread[Tank]) -> None:
    client = bus.stage.client()
    client.request(b"pi.tank.devices", b"slow")
    assert bus.stage.until(lambda: tank.call(lambda: len(tank.executive.later)) == 1)
    tank.call(tank.executive._broker_restarted)
    assert bus.stage.until(lambda: tank.call(lambda: len(tank.executive.later)) == 2), "it is dispatched again"
    tank.call(lambda: tank.executive.later[0].reply("the first"))
    tank.call(lambda: tank.executive.later[1].reply("the second"))
    assert client.reply().body == [b'"the second"', b"200"]
    assert not client.replies


# ---------------------------------------------------------------- repeats


def test_a_repeat_of_an_acting_verb_is_answered_from_memory(bus: Bus, tank: OnThread[Tank]) -> None:
    client = bus.stage.client()
    for _ in range(3):
        assert ask(client, an_id(1), b"exec", b"feed") == ("feed", b"200")
    assert ask(client, an_id(2), b"exec", b"feed") == ("feed", b"200")
    assert tank.call(lambda: tank.executive.done) == ["feed", "feed"]


def test_a_repeat_while_the_first_is_worked_on_waits_for_it(bus: Bus, tank: OnThread[Tank]) -> None:
    clients = [bus.stage.client() for _ in range(3)]
    for client in clients:
        client.request(b"pi.tank.devices", an_id(1), b"slow")
    bus.eventually(lambda broker: broker._requests.value == 3)
    client = bus.stage.client()
    assert bus.stage.until(lambda: ask(client, b"all", service="statistics")[0]["tank.requests"] >= 4)
    assert tank.call(lambda: len(tank.executive.later)) == 1
    tank.call(lambda: tank.executive.later[0].reply("fed"))
    for client in clients:
        assert client.reply().body == [b'"fed"', b"200"]


def test_a_repeat_of_a_refusal_is_refused_the_same(bus: Bus, tank: OnThread[Tank]) -> None:
    client = bus.stage.client()
    first = ask(client, an_id(1), b"refused", b"409")
    assert ask(client, an_id(1), b"refused", b"409") == first
    assert ask(client, b"all", service="statistics")[0]["tank.refused"] == 1


def test_a_reading_verb_is_read_anew(bus: Bus, tank: OnThread[Tank]) -> None:
    client = bus.stage.client()
    assert ask(client, an_id(1), b"list") == (["list"], b"200")
    assert ask(client, an_id(1), b"list") == (["list", "list"], b"200")


@pytest.mark.parametrize("length", [31, 33])
def test_an_id_of_another_length_is_none(bus: Bus, tank: OnThread[Tank], length: int) -> None:
    assert ask(bus.stage.client(), MDP.REQUEST_ID + b"0" * length, b"exec", b"feed")[1] == b"501"
    assert tank.call(lambda: tank.executive.done) == []


def answered(text: str) -> Later:
    later = Later()
    later.reply(text)
    return later


def test_the_memory_is_bounded_in_number() -> None:
    memory = ReplyMemory()
    for number in range(MEMORY_REPLIES + 10):
        memory.keep(an_id(number), answered("ok"))
    assert len(memory._answers) == len(memory._sizes) == MEMORY_REPLIES
    assert memory.find(an_id(9)) is None
    assert memory.find(an_id(10)) is not None


def test_the_memory_is_bounded_in_bytes() -> None:
    memory = ReplyMemory()
    for number in range(10):
        memory.keep(an_id(number), answered("x" * (MEMORY_BYTES // 4)))
        assert memory._bytes <= MEMORY_BYTES
    assert len(memory._answers) == 3
    assert memory.find(an_id(9)) is not None
    memory.keep(an_id(10), answered("x" * MEMORY_BYTES))
    assert (memory._bytes, memory._answers) == (0, {})


def test_an_answer_counts_when_it_is_given() -> None:
    memory, later = ReplyMemory(), Later()
    memory.keep(an_id(1), later)
    assert memory._bytes == 0
    later.reply("x" * 1000)
    assert memory._bytes > 1000


def test_an_answer_that_is_given_after_it_was_forgotten_does_not_count() -> None:
    memory, later = ReplyMemory(), Later()
    memory.keep(an_id(0), later)
    for number in range(1, MEMORY_REPLIES + 1):
        memory.keep(an_id(number), answered("ok"))
    before = memory._bytes
    later.reply("x" * 1000)
    assert memory._bytes == before


# ---------------------------------------------------------------- mmi, statistics, the tree


def test_the_status(bus: Bus, tank: OnThread[Tank]) -> None:
    client = bus.stage.client()
    seen, status = ask(client, b"status", service="mmi")
    assert status == b"200"
    assert (seen["server"], seen["host"], seen["pid"]) == ("tank", "pi", os.getpid())
    assert (seen["state"], seen["conditions"], seen["version"]) == ("ok", {}, __version__)
    assert seen["services"] == ["pi.tank.devices", "pi.tank.mmi", "pi.tank.statistics"]
    assert seen["memory"] > 0
    assert seen["uptime"] >= 0
    tank.call(lambda: tank.executive.condition("probe", "not there"))
    seen, _ = ask(client, b"status", service="mmi")
    assert (seen["state"], seen["conditions"]) == ("degraded", {"probe": "not there"})
    tank.call(lambda: tank.executive.condition("probe", None))
    assert ask(client, b"status", service="mmi")[0]["state"] == "ok"


def test_the_rest_of_mmi(bus: Bus, tank: OnThread[Tank]) -> None:
    client = bus.stage.client()
    assert ask(client, b"version", service="mmi") == (__version__, b"200")
    told, _ = ask(client, b"info", service="mmi")
    assert {"verb": "exec command [value]", "doc": "Do it."} in told["pi.tank.devices"]
    assert set(told) == {"pi.tank.devices", "pi.tank.mmi", "pi.tank.statistics"}
    assert ask(client, b"reload", service="mmi") == ("reloading", b"200")
    assert bus.stage.until(lambda: tank.call(lambda: tank.executive.reloads) == 1)


def test_the_statistics(bus: Bus, tank: OnThread[Tank]) -> None:
    client = bus.stage.client()
    ask(client, b"list")
    values, _ = ask(client, b"all", service="statistics")
    assert values["tank.requests"] >= 2
    assert {"tank.errors", "tank.longest_turn", "tank.hung", "tank.refused"} <= set(values)
    told, status = ask(client, b"get", b"tank.hung", service="statistics")
    assert (told["value"], status) == (0, b"200")


def test_what_is_published_is_on_the_tree_and_again_after_a_restart(bus: Bus, tank: OnThread[Tank]) -> None:
    tank.call(lambda: tank.executive.publish("/variable/light", {"on": True}))
    tank.call(lambda: tank.executive.publish("/variable/raw", b'"bytes"'))
    tank.call(lambda: tank.executive.event("alarm", "tank", level=3))
    wanted = {"/variable/light": {"on": True}, "/variable/raw": "bytes"}
    assert bus.stage.until(lambda: bus.tree("/variable/") == wanted)
    assert bus.stage.until(lambda: bus.tree("/event/alarm/").get("/event/alarm/tank", {}).get("level") == 3)
    bus.restart()
    assert bus.stage.until(lambda: bus.tree("/variable/") == wanted)
    tank.call(lambda: tank.executive.publish("/variable/raw", b""))
    assert bus.stage.until(lambda: set(bus.tree("/variable/")) == {"/variable/light"})


def test_all_workers_come_back_to_a_new_broker(bus: Bus, tank: OnThread[Tank]) -> None:
    for _ in range(2):
        bus.restart()
        bus.eventually(lambda broker: len(broker.workers) == 3)
        assert ask(bus.stage.client(), b"exec", b"on") == ("on", b"200")


def connections(server: Tank) -> list[int]:
    """How often each of its worker connections was opened."""
    return [connection._connection for slots in server._offered for connection in slots.connections]


def test_workers_that_are_with_the_new_broker_already_stay(bus: Bus, tank: OnThread[Tank]) -> None:
    """Else it would see connections close without a goodbye, and say that the server has crashed."""

    def come_back() -> tuple[list[int], list[int]]:
        server = tank.executive
        assert server.publisher is not None
        before = connections(server)
        server.publisher.lost = min(c._opened for slots in server._offered for c in slots.connections) - 1
        server._broker_restarted()
        return before, connections(server)

    before, after = tank.call(come_back)
    assert before == after
    assert ask(bus.stage.client(), b"exec", b"on") == ("on", b"200")
    assert tank.call(lambda: connections(tank.executive)) == before


def test_a_server_that_stops_leaves_nothing_behind(bus: Bus) -> None:
    with tank_on(bus):
        pass
    bus.eventually(lambda broker: not broker.workers and not broker.services)


def test_a_server_without_a_broker_starts_and_waits(bus: Bus) -> None:
    bus.runner.stop()
    with running(Tank("pi", bus.ip)) as runner:
        runner.call(lambda: runner.executive.publish("/variable/light", 1))
        bus.restart()
        bus.eventually(lambda broker: len(broker.workers) == 3)
        assert bus.stage.until(lambda: bus.tree("/variable/") == {"/variable/light": 1})


def test_a_broker_that_stays_away_is_a_condition(
    bus: Bus, tank: OnThread[Tank], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raspy.common.server.BROKER_PATIENCE", 0.1)
    assert tank.call(lambda: tank.executive.conditions) == {}
    bus.runner.stop()
    eventually(lambda: "does not answer" in tank.call(lambda: tank.executive.conditions.get("broker", "")))
    bus.restart()
    eventually(lambda: not tank.call(lambda: tank.executive.conditions))


def test_a_server_is_made_from_the_configuration(tmp_path: Any) -> None:
    path = tmp_path / "raspy.toml"
    path.write_text('[bus]\nhostname = "tankroom"\nbroker_port = 6000\n')
    config = Config.load(str(path))
    server = Server.from_config(config)
    try:
        assert (server.hostname, server.broker_port) == ("tankroom", 6000)
        assert server.broker_ip == BusConfig().broker_ip
        assert server.name == "tankroom.worker"
    finally:
        server.destroy()


def test_instances_have_names_of_their_own() -> None:
    servers = [Tank() for _ in range(2)]
    names = {server.get_instance_id() for server in servers}
    for server in servers:
        server.destroy()
        server.destroy()
    assert len(names) == 2
    assert all(name.startswith(f"pi.tank.{os.getpid()}.") for name in names)


def test_signals_are_left_alone_off_the_main_thread(bus: Bus) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with tank_on(bus):
        assert signal.getsignal(signal.SIGTERM) is before


# ---------------------------------------------------------------- its log, and a restart


def test_a_server_tells_the_last_of_its_log(bus: Bus, tank: OnThread[Tank]) -> None:
    recent = Recent()
    logging.getLogger("raspy.tank").addFilter(RECENT)
    try:
        logging.getLogger("raspy.tank").warning("the lamp is %s", "hot\n\x1b[2J")
        logging.getLogger("raspy.tank").debug("not of interest")
        client = bus.stage.client()
        [record], status = ask(client, b"log", b"1", service="mmi")
        assert status == b"200"
        assert (record["level"], record["name"]) == ("warning", "raspy.tank")
        assert record["text"] == r"the lamp is hot\n\x1b[2J"
        assert ask(client, b"log", b"0", service="mmi") == ([], b"200")
        whole, _ = ask(client, b"log", service="mmi")
        assert whole[-1] == record
        reason, status = ask(client, b"log", b"-1", service="mmi")
        assert (status, "whole number" in reason) == (b"400", True)
    finally:
        logging.getLogger("raspy.tank").removeFilter(RECENT)
    assert recent.last(5) == []


def test_a_restart_is_answered_then_done(bus: Bus, tank: OnThread[Tank]) -> None:
    client = bus.stage.client()
    reason, status = ask(client, b"restart", b"1", service="mmi")
    assert (status, "another process" in reason) == (b"409", True)
    assert not tank.executive.again
    assert ask(client, b"restart", str(os.getpid()).encode(), service="mmi") == ("restarting", b"200")
    eventually(lambda: tank.executive.again, "it ends to be started again")
    tank.stop()


class Counting(Tank):
    """Has something new to say of itself each time."""

    def summary(self) -> str:
        """How often it was asked."""
        self.done.append("told")
        return f"{len(self.done)} times"


def test_the_status_line_is_told_again(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says changes while nothing happens that would have it told."""
    monkeypatch.setattr("raspy.common.server.TELL_AGAIN", 0.02)
    with running(Counting("pi", bus.ip)) as counting:
        eventually(lambda: counting.call(lambda: counting.executive.done.count("told") > 3))
