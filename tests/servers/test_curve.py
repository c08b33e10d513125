"""The broker's door: who is let in from other machines, and what each may say. Real sockets, real encryption."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator

import pytest
import zmq

from raspy.common import MDP, curve
from raspy.common.config import ConfigError
from raspy.common.curve import KeyPair
from raspy.servers.broker import Broker, BrokerConfig, callers, shares
from tests.bus import BASE
from tests.bus import OWN as OWN_ID
from tests.servers.curve_stage import (
    LIMIT,
    READING,
    Lan,
    answer,
    ask,
    eventually,
    hears,
    lines,
    own_address,
    publish,
    register,
    request_of,
    running_lan,
    snapshot,
)
from tests.support_devices import short_directory

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01%s\0" + bytes(31)
"""What ZMTP 3.1 begins with, less the name of the mechanism."""
SHORT = 0.7
"""Seconds in which an answer would long have come, or a connection have been made again."""


@pytest.fixture
def lan(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lan]:
    with running_lan(monkeypatch) as made:
        yield made


def pair() -> KeyPair:
    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode(), secret.decode())


# ---------------------------------------------------------------- who is let in


def test_a_host_in_the_list_uses_all_four_sockets_and_this_machine_none_of_its_keys(lan: Lan) -> None:
    key = lan.new("pi2")
    assert ask(lan.connect(zmq.DEALER, MDP.REQUESTS, key), b"mmi.version", b"")[-1] == MDP.OK
    assert ask(lan.local(zmq.DEALER, MDP.REQUESTS), b"mmi.version", b"")[-1] == MDP.OK
    follower = lan.connect(zmq.SUB, MDP.PUBLISHER, key)
    assert hears(follower, b"HUGZ")
    publish(lan.connect(zmq.PUSH, MDP.COLLECTOR, key), "/device/pi2.fake.tank/temperature")
    assert hears(follower, b"/device/pi2.fake.tank/temperature")
    known = snapshot(lan.connect(zmq.DEALER, MDP.SNAPSHOT, key))
    assert known is not None
    assert known[b"/device/pi2.fake.tank/temperature"] == READING
    assert lan.statistic("refused_handshakes") == 0


def strangers(lan: Lan) -> dict[str, tuple[KeyPair | None, str | None]]:
    revoked = lan.new("pi9")
    lan.revoke("pi9")
    return {
        "unknown": (pair(), None),
        "revoked": (revoked, None),
        "none": (None, None),
        "wrong broker key": (lan.new("pi2"), pair().public),
    }


@pytest.mark.parametrize(
    ("who", "why"),
    [
        ("unknown", "its key is not known here"),
        ("revoked", "its key is not known here"),
        ("none", "does not encrypt with this broker's key"),
        ("wrong broker key", "does not encrypt with this broker's key"),
    ],
)
def test_a_stranger_gets_no_answer_and_is_counted_and_told_once(
    lan: Lan, caplog: pytest.LogCaptureFixture, who: str, why: str
) -> None:
    key, server = strangers(lan)[who]
    requests = lan.statistic("requests")
    client = lan.connect(zmq.DEALER, MDP.REQUESTS, key, server)
    client.send_multipart([b"", MDP.C_CLIENT, b"mmi.services", b""])
    asks = lan.connect(zmq.DEALER, MDP.SNAPSHOT, key, server)
    asks.send_multipart([b"ICANHAZ?", b""])
    publisher = lan.connect(zmq.PUSH, MDP.COLLECTOR, key, server)
    publisher.sndtimeo = 0
    try:
        publish(publisher, "/device/pi2.fake.tank/temperature")
    except zmq.Again:
        pass
    follower = lan.connect(zmq.SUB, MDP.PUBLISHER, key, server)
    # libzmq without encryption may take the broker's greeting for a reason never to come again.
    least = 4 if key is None else 8
    lan.eventually(lambda broker: broker.door.refused_handshakes >= least, "each comes, and comes again")
    assert not any(each.poll(0) for each in (client, asks, follower))
    assert lan.entries() == {}
    assert lan.statistic("requests") == requests
    # Of who has hung up at once it cannot be told any more from where it came; ZAP always tells.
    told = lines(caplog)
    froms = {line.split(": ")[1] for line in told}
    # Once for each reason; a key that is refused may come with a connection that hung up amid the handshake.
    assert len(told) == len(set(told)) >= 1
    assert froms <= ({"127.0.0.1"} if key is not None and server is None else {"127.0.0.1", "somebody"})
    assert any(why in line for line in told)
    assert all(why in line or "does not encrypt" in line for line in told)


def test_a_host_whose_key_comes_later_is_let_in_by_itself(lan: Lan) -> None:
    later = pair()
    client = lan.connect(zmq.DEALER, MDP.REQUESTS, later)
    follower = lan.connect(zmq.SUB, MDP.PUBLISHER, later)
    client.send_multipart([b"", MDP.C_CLIENT, b"mmi.version", b""])
    lan.eventually(lambda broker: broker.door.refused_handshakes >= 4)
    with open(os.path.join(lan.keys, "hosts", "pi2.key"), "w", encoding="ascii") as file:
        file.write(f'metadata\ncurve\n    public-key = "{later.public}"\n')
    # Nobody tells the broker to look.
    assert client.poll(int(LIMIT * 1000))
    assert client.recv_multipart()[-1] == MDP.OK
    assert hears(follower, b"HUGZ")


def test_nobody_is_let_in_when_nobody_says_who_may(lan: Lan) -> None:
    key = lan.new("pi2")

    def end_zap(broker: Broker) -> None:
        broker.unregister(broker.door._zap.zap_socket)
        broker.door._zap.stop()

    lan.call(end_zap)
    client = lan.connect(zmq.DEALER, MDP.REQUESTS, key)
    assert ask(client, b"mmi.version", b"", limit=SHORT) is None
    lan.eventually(lambda broker: broker.door.refused_handshakes >= 1)
    assert ask(lan.local(zmq.DEALER, MDP.REQUESTS), b"mmi.version", b"") is not None


def test_complaints_are_bounded(lan: Lan, caplog: pytest.LogCaptureFixture) -> None:
    def complain(broker: Broker) -> int:
        for number in range(1000):
            broker.door._complain(f"10.0.{number % 250}.{number}", "its key is not known here")
            broker.door._complain("10.0.0.1", "again and again")
        return len(broker.door._told)

    assert lan.call(complain) <= 64
    assert len(lines(caplog)) == 20


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 4, id="http"),
        pytest.param(b"\x01\x00" + b"\x05\x00abcd" * 20, id="zmtp 1"),
        pytest.param(GREETING % b"NULL".ljust(20, b"\0"), id="null"),
        pytest.param(GREETING % b"CURVE".ljust(20, b"\0"), id="curve"),
    ],
)
def test_who_speaks_something_else_is_counted(lan: Lan, said: bytes) -> None:
    for offset in range(4):
        before = lan.statistic("refused_handshakes")
        with socket.create_connection((lan.lan, BASE + offset)) as stranger:
            stranger.sendall(said)
        lan.eventually(lambda broker, before=before: broker.door.refused_handshakes == before + 1)  # type: ignore[misc]


def half_open(lan: Lan, number: int) -> list[socket.socket]:
    made = [socket.create_connection((lan.lan, BASE + MDP.REQUESTS)) for _ in range(number)]
    for each in made:
        each.sendall(GREETING % b"CURVE".ljust(20, b"\0"))
    return made


def test_those_who_do_not_say_who_they_are_have_a_bound(
    lan: Lan, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(callers, "MOST_WAITING", 20)
    near, far = lan.local(zmq.DEALER, MDP.REQUESTS), lan.connect(zmq.DEALER, MDP.REQUESTS, lan.new("pi2"))
    assert ask(far, b"mmi.version", b"") is not None
    made = half_open(lan, 100)
    lan.eventually(lambda broker: broker.door.refused_handshakes >= 80, "the others are ended")
    lan.eventually(lambda broker: len(broker.door.callers.all) <= 21, "the others are gone")
    assert ask(near, b"mmi.version", b"") is not None
    assert ask(far, b"mmi.version", b"") is not None
    assert lines(caplog, callers.TOO_MANY)
    for each in made:
        each.close()
    lan.eventually(lambda broker: broker.door.refused_handshakes >= 100, "all are gone")
    assert lan.call(lambda broker: broker.door.callers._waits) == 0
    late = lan.connect(zmq.DEALER, MDP.REQUESTS, lan.new("pi3"))
    assert ask(late, b"mmi.version", b"") is not None
    assert lan.statistic("refused_handshakes") == 100


def test_an_ended_connection_is_the_one_that_was_meant(lan: Lan) -> None:
    far = lan.connect(zmq.DEALER, MDP.REQUESTS, lan.new("pi2"))
    assert ask(far, b"mmi.version", b"") is not None

    def end_another(broker: Broker) -> None:
        ((descriptor, caller),) = broker.door.callers.all.items()
        other = callers.Caller(("127.0.0.1", 1))
        callers._end(descriptor, other)
        assert callers._received(descriptor, other) == -1
        assert callers._received(descriptor, caller) > 200

    lan.call(end_another)
    assert ask(far, b"mmi.version", b"") is not None
    assert lan.statistic("refused_handshakes") == 0


@pytest.mark.parametrize("offset", [MDP.REQUESTS, MDP.SNAPSHOT, MDP.PUBLISHER, MDP.COLLECTOR])
def test_a_message_without_an_end_is_not_kept(
    lan: Lan, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, offset: int
) -> None:
    monkeypatch.setattr(callers, "UNFINISHED", 1 << 20)
    key = lan.new("pi2")
    kinds = {MDP.PUBLISHER: zmq.XSUB, MDP.COLLECTOR: zmq.PUSH}
    far = lan.connect(kinds.get(offset, zmq.DEALER), offset, key)
    for _ in range(30_000):
        far.send(b"\2" + b"x" * 60, zmq.SNDMORE)
    far.send(b"")  # or libzmq would not begin to send it

    def look(broker: Broker) -> None:
        all_callers = broker.door.callers.all
        eventually(lambda: any(callers._received(*each) > 2 << 20 for each in all_callers.items()))
        broker.door.callers.look()

    lan.eventually(lambda broker: broker.door.callers.all and not broker.door.callers._waits, "it is let in")
    lan.call(look)
    assert lines(caplog, callers.TOO_MUCH)
    other = lan.connect(zmq.DEALER, MDP.REQUESTS, key)
    assert ask(other, b"mmi.version", b"") is not None


def test_messages_that_have_an_end_may_be_many(lan: Lan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "UNFINISHED", 1 << 20)
    monkeypatch.setattr(callers, "ALL_UNFINISHED", 1 << 20)
    far = lan.connect(zmq.DEALER, MDP.REQUESTS, lan.new("pi2"))
    for _ in range(20):
        assert ask(far, b"mmi.version", b"x" * 300_000) is not None
        lan.call(lambda broker: broker.door.callers.look())
    (caller,) = lan.call(lambda broker: list(broker.door.callers.all.values()))
    assert caller.mark > 4 << 20


def test_a_frame_that_no_node_sends_ends_its_connection(lan: Lan) -> None:
    key = lan.new("pi2")
    far, near = lan.connect(zmq.DEALER, MDP.REQUESTS, key), lan.local(zmq.DEALER, MDP.REQUESTS)
    assert ask(far, b"mmi.version", b"x" * (3 << 20)) is not None
    assert ask(far, b"mmi.version", b"x" * (5 << 20), limit=SHORT) is None
    assert ask(near, b"mmi.version", b"x" * (5 << 20)) is not None


# ---------------------------------------------------------------- libzmq's own threads


def test_connections_that_come_and_go_during_a_long_turn_do_not_block_the_loop(lan: Lan) -> None:
    """libzmq's thread holds a lock while it tells of a connection, which binding takes too."""
    ended, cut = threading.Event(), threading.Event()

    def blocked() -> None:
        # However long the connections take: on a busy machine nobody may wait for this call meanwhile.
        ended.wait()
        lan.broker.door._cut()
        cut.set()

    lan.broker.call_threadsafe(blocked)
    try:
        # More than the monitor's queue would have room for, two messages each.
        for offset in (MDP.REQUESTS, MDP.SNAPSHOT):
            for _ in range(1500):
                with socket.create_connection((lan.lan, BASE + offset)) as stranger:
                    stranger.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 4)
    finally:
        ended.set()
    assert cut.wait(LIMIT)
    lan.eventually(lambda broker: all(each.bound for each in broker.door._endpoints), "it listens again")
    assert ask(lan.connect(zmq.DEALER, MDP.REQUESTS, lan.new("pi2")), b"mmi.version", b"") is not None


def test_a_cable_that_is_pulled_is_noticed_by_the_kernel_at_both_ends(lan: Lan) -> None:
    """And not by ZMTP's heartbeats: with those libzmq ends the process when one is due on a connection that broke
    while its queue was full."""
    curve.use_keys(lan.broker_key, lan.new("pi2"))
    context = curve.context()
    far = context.socket(zmq.DEALER)
    events = callers.monitor(far, zmq.EVENT_CONNECTED)
    try:
        far.connect(MDP.endpoint(lan.lan, BASE, MDP.REQUESTS))
        assert ask(far, b"mmi.version", b"") is not None
        own = struct.unpack("=HI", events.recv_multipart()[0][:6])[1]
        (its,) = lan.call(lambda broker: broker.door.callers.all)
        for descriptor in (own, its):
            with socket.socket(fileno=os.dup(descriptor)) as connection:
                assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == curve.DEAD
                assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                times = [socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT]
                idle, pause, count = (connection.getsockopt(socket.IPPROTO_TCP, option) for option in times)
                assert idle + pause * count <= curve.DEAD / 1000
        sockets = lan.call(lambda broker: list(broker.door._monitors))
        assert len(sockets) == 4
        assert [each.getsockopt(zmq.HEARTBEAT_IVL) for each in [*sockets, far]] == [0] * 5
    finally:
        curve.use_keys("", None)
        events.close()
        context.destroy(linger=0)


# ---------------------------------------------------------------- what a host may say


def test_a_host_serves_under_its_own_name_only(lan: Lan, caplog: pytest.LogCaptureFixture) -> None:
    key = lan.new("pi2")
    for service in (b"pi.logger.log", b"pi22.fake.mmi", b"titanic.request", b"pi2"):
        register(lan.connect(zmq.DEALER, MDP.REQUESTS, key), service)
    register(lan.connect(zmq.DEALER, MDP.REQUESTS, key), b"pi2.fake.mmi")
    lan.eventually(lambda broker: broker.door.refused_messages >= 4 and b"pi2.fake.mmi" in broker.services)
    assert lan.call(lambda broker: list(broker.services)) == [b"pi2.fake.mmi"]
    assert lan.statistic("refused_messages") == 4
    assert any("pi2: it may not serve titanic.request" in line for line in lines(caplog))


OWN = ["/device/pi2.fake.tank/temperature", "/event/output/pi2.gpio.heater", "/event/time/pi2", "/event/my/pi2.door"]
OTHERS = [
    "/device/pi.fake.tank/temperature",
    "/device/pi22.fake.tank/temperature",
    "/device/pi2",
    "/event/output/pi.gpio.heater",
    "/event/time/pi",
    "/event/time/pi22",
    "/event/server/pi2.fake",
    "/event/notify/pi2.x",
    "/event/pi2.x",
    "x/event/time/pi2",
    "/variable/pi2.x",
    "/alarm/pi2.x",
    "/scenario/pi2.x",
    "/server/pi2.fake",
    "",
]


def test_a_host_publishes_its_own_only(lan: Lan) -> None:
    key = lan.new("pi2")
    local = lan.local(zmq.PUSH, MDP.COLLECTOR)
    for name in ("/device/pi.fake.tank/temperature", "/variable/pi2.x"):
        publish(local, name)
    lan.eventually(lambda broker: b"/variable/pi2.x" in broker.proxy.entries)
    before = lan.entries()
    publisher = lan.connect(zmq.PUSH, MDP.COLLECTOR, key)
    for name in OTHERS:
        publish(publisher, name, b'{"quality": "error", "max_age": 1}')
        publish(publisher, name, b"")
    for name in OWN:
        publish(publisher, name)
    lan.eventually(lambda broker: OWN[-1].encode() in broker.proxy.entries)
    assert lan.entries() == {**before, **dict.fromkeys(OWN, READING)}
    assert lan.statistic("refused_messages") == 2 * len(OTHERS)


FOR_ITSELF = [
    (b"mmi.restart", b""),
    (b"mmi.reload", b""),
    (b"mmi.restart", OWN_ID),
    (b"pi.logger.mmi", b"restart"),
    (b"pi.logger.mmi", OWN_ID, b"restart"),
    (b"pi22.fake.mmi", b"reload"),
    (b"pi.logger.mmi", b"backup_save", b"x"),
    (b"titanic.request", b"pi.logger.mmi", b"restart"),
    (b"titanic.request", OWN_ID, b"pi.logger.mmi", OWN_ID + b" 60", b"restart"),
    (b"titanic.request", b"pi.logger.mmi", b"backup_stage"),
]
FOR_ALL = [
    (b"mmi.version", b""),
    (b"mmi.services", b""),
    (b"pi2.fake.mmi", b"restart"),
    (b"pi2.fake.mmi", b"backup_status"),
    (b"pi.logger.mmi", b"status"),
    (b"pi.logger.log", b"restart"),
    (b"titanic.request", b"pi.logger.log", b"append"),
]


def test_a_host_administers_itself_only(lan: Lan, caplog: pytest.LogCaptureFixture) -> None:
    far, near = lan.connect(zmq.DEALER, MDP.REQUESTS, lan.new("pi2")), lan.local(zmq.DEALER, MDP.REQUESTS)
    pid = lan.call(lambda broker: broker.get_instance_id())
    for service, *body in FOR_ITSELF:
        far.send_multipart([b"", MDP.C_CLIENT, service, *body])
    assert ask(far, b"mmi.version", b"") is not None
    assert lan.statistic("refused_messages") == len(FOR_ITSELF)
    assert lan.call(lambda broker: (broker.queued, broker.get_instance_id())) == (0, pid)
    for service, *body in FOR_ALL:
        far.send_multipart([b"", MDP.C_CLIENT, service, *body])
    lan.eventually(lambda broker: broker.queued == len(FOR_ALL) - 2, "they wait for their servers")
    assert lan.statistic("refused_messages") == len(FOR_ITSELF)
    assert any("pi2: it may not ask pi.logger.mmi for restart" in line for line in lines(caplog))
    # This machine may.
    assert ask(near, b"mmi.reload", b"") == [MDP.OK]


def test_a_host_takes_no_more_than_its_share_of_the_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "FEW", 10)
    with running_lan(monkeypatch, tree_keys=400, tree_bytes=1 << 20) as lan:
        keys = {host: lan.new(host) for host in ("pi2", "pi3", "pi4")}
        for host, key in keys.items():
            publisher = lan.connect(zmq.PUSH, MDP.COLLECTOR, key)
            for number in range(150):
                publish(publisher, f"/device/{host}.x.{number}/v")
            publish(publisher, f"/event/my/{host}", b"")
            lan.eventually(lambda broker: sum(broker.proxy.refused.values()) >= 50, "the rest is refused")
            lan.call(lambda broker: broker.proxy.refused.clear())

        # A quarter each, and half of it together.
        counts = lan.call(lambda broker: [count_of(broker, host.encode()) for host in keys])
        assert counts == [100, 100, 0]
        publisher = lan.connect(zmq.PUSH, MDP.COLLECTOR, keys["pi2"])
        publish(publisher, "/device/pi2.x.0/v", READING[:-1] + b" " * 300_000 + b"}")
        # What is refused of another host may still come.
        eventually(lambda: b'"stale"' in lan.entries()["/device/pi2.x.0/v"], "it is too long")
        local = lan.local(zmq.PUSH, MDP.COLLECTOR)
        for number in range(100):
            publish(local, f"/device/pi.x.{number}/v")
        lan.eventually(lambda broker: b"/device/pi.x.99/v" in broker.proxy.entries)
        # What has crowded it is deleted with the key of its host, and others have its place.
        lan.revoke("pi2")
        lan.eventually(lambda broker: not count_of(broker, b"pi2"), "its values are deleted")
        publisher = lan.connect(zmq.PUSH, MDP.COLLECTOR, keys["pi4"])
        publish(publisher, "/device/pi4.x.1/v")
        lan.eventually(lambda broker: count_of(broker, b"pi4") == 1)


def count_of(broker: Broker, host: bytes) -> int:
    return sum(name.startswith(b"/device/" + host + b".") for name in broker.proxy.entries)


def test_a_worker_is_not_spoken_for_by_another_host_with_its_address(lan: Lan) -> None:
    keys = lan.new("pi2"), lan.new("pi3")
    worker = lan.connect(zmq.DEALER, MDP.REQUESTS, keys[0])
    register(worker, b"pi2.fake.mmi")
    lan.eventually(lambda broker: b"pi2.fake.mmi" in broker.services)

    def beat(broker: Broker, key: str) -> int:
        # libzmq gives an address to nobody else while its connection stands, but may right after that.
        (address,) = broker.workers
        broker.door.speaker = key
        broker.process_worker(address, [MDP.W_HEARTBEAT])
        return len(broker.workers)

    assert lan.call(lambda broker: beat(broker, keys[0].public)) == 1
    assert lan.call(lambda broker: beat(broker, keys[1].public)) == 0


# ---------------------------------------------------------------- revocation


def test_a_revoked_key_is_silent_in_open_connections(lan: Lan) -> None:
    gone, stays = lan.new("pi2"), lan.new("pi3")
    client = lan.connect(zmq.DEALER, MDP.REQUESTS, gone)
    worker = lan.connect(zmq.DEALER, MDP.REQUESTS, gone)
    publisher = lan.connect(zmq.PUSH, MDP.COLLECTOR, gone)
    asks = lan.connect(zmq.DEALER, MDP.SNAPSHOT, gone)
    followers = [lan.connect(zmq.SUB, MDP.PUBLISHER, key) for key in (gone, stays)]
    other = lan.connect(zmq.DEALER, MDP.REQUESTS, stays)
    assert ask(client, b"mmi.version", b"") is not None
    assert snapshot(asks) is not None
    assert all(hears(follower, b"HUGZ") for follower in followers)
    register(worker, b"pi2.fake.mmi")
    publish(publisher, "/device/pi2.fake.tank/temperature")
    lan.eventually(lambda broker: broker.workers and b"/device/pi2.fake.tank/temperature" in broker.proxy.entries)
    assert ask(other, b"mmi.version", b"") is not None

    lan.revoke("pi2")
    assert lan.call(lambda broker: len(broker.workers)) == 0
    status = b'"quality":"stale"'
    assert status in lan.entries()["/device/pi2.fake.tank/temperature"]
    handled = lan.statistic("refused_messages")
    client.send_multipart([b"", MDP.C_CLIENT, b"mmi.version", b""])
    register(worker, b"pi2.fake.mmi")
    publish(publisher, "/device/pi2.fake.tank/other")
    lan.eventually(lambda broker: broker.door.refused_messages >= handled + 3)
    asks.send_multipart([b"ICANHAZ?", b""])
    # Others of the LAN come back by themselves, and hear what happens then; the one that is revoked does not.
    local = lan.local(zmq.PUSH, MDP.COLLECTOR)
    assert hears(followers[1], b"/variable/now", meanwhile=lambda: publish(local, "/variable/now", b"1"))
    while followers[0].poll(0):
        assert followers[0].recv_multipart()[0] != b"/variable/now"
    assert not client.poll(0)
    assert not asks.poll(0)
    assert ask(other, b"mmi.version", b"") is not None
    assert not followers[0].poll(int(SHORT * 1000))
    assert set(lan.entries()) == {"/device/pi2.fake.tank/temperature", "/variable/now"}
    lan.eventually(lambda broker: broker.door.refused_handshakes > 0, "it comes again, in vain")


def test_what_a_revoked_host_asked_for_is_not_done_and_not_answered(lan: Lan) -> None:
    key = lan.new("pi2")
    worker = lan.local(zmq.DEALER, MDP.REQUESTS)
    register(worker, b"pi.slow")
    clients = [lan.connect(zmq.DEALER, MDP.REQUESTS, key) for _ in range(3)]
    for client in clients:
        client.send_multipart([b"", MDP.C_CLIENT, b"pi.slow", b"from the revoked"])
    first, _ = request_of(worker)
    lan.eventually(lambda broker: broker.queued == 2)
    local = lan.local(zmq.DEALER, MDP.REQUESTS)
    local.send_multipart([b"", MDP.C_CLIENT, b"pi.slow", b"from here"])
    lan.eventually(lambda broker: broker.queued == 3)
    lan.revoke("pi2")
    assert lan.call(lambda broker: broker.queued) == 1
    answer(worker, first, b"too late")
    following = request_of(worker)
    assert following[1:] == [b"from here"]
    answer(worker, following[0], b"done")
    assert local.poll(int(LIMIT * 1000))
    assert local.recv_multipart()[3:] == [b"done"]
    lan.at_rest()
    assert not any(client.poll(0) for client in clients)


def test_replies_that_wait_for_a_revoked_host_are_dropped(lan: Lan) -> None:
    key = lan.new("pi2")

    def waiting(broker: Broker) -> int:
        broker.outbox._hold([b"\0nobody", b"", MDP.C_CLIENT, b"x", b"reply"], key.public)
        broker.outbox._hold([b"\0local", b"", MDP.C_CLIENT, b"x", b"reply"], "")
        broker.silence({key.public})
        return len(broker.outbox._held)

    assert lan.call(waiting) == 1


# ---------------------------------------------------------------- another key for a host


def test_no_request_is_lost_while_a_key_is_changed(lan: Lan) -> None:
    """Two hosts ask all the time, one of them while its key is changed; each reply comes once and is the right one."""
    keys = {host: lan.new(host) for host in ("pi2", "pi3")}
    worker = lan.local(zmq.DEALER, MDP.REQUESTS)
    register(worker, b"pi.echo")
    ended = threading.Event()

    def serve() -> None:
        while not ended.is_set():
            if worker.poll(50):
                frames = worker.recv_multipart()
                if frames[2] == MDP.W_REQUEST:
                    answer(worker, frames[3], *frames[5:])

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        sockets = {host: lan.connect(zmq.DEALER, MDP.REQUESTS, key) for host, key in keys.items()}
        counts = dict.fromkeys(sockets, 0)

        def go_on(times: int = 30) -> None:
            for _ in range(times):
                for host, each in sockets.items():
                    body = f"{host} {counts[host]}".encode()
                    assert ask(each, b"pi.echo", body) == [body]
                    counts[host] += 1

        go_on()
        newer = lan.new("pi2")
        go_on()
        before = sockets["pi2"]
        before.send_multipart([b"", MDP.C_CLIENT, b"pi.echo", b"the last by the old key"])
        sockets["pi2"] = lan.connect(zmq.DEALER, MDP.REQUESTS, newer)
        go_on()
        assert before.recv_multipart()[3:] == [b"the last by the old key"]
        under_way = sockets["pi2"], sockets["pi3"]
        for number in range(200):
            for each in under_way:
                each.send_multipart([b"", MDP.C_CLIENT, b"pi.echo", b"%d" % number])
            if number == 100:
                lan.revoke("pi2", old=True)
        for each in under_way:
            for number in range(200):
                assert each.poll(int(LIMIT * 1000))
                assert each.recv_multipart()[3:] == [b"%d" % number]
        go_on()
        assert ask(before, b"pi.echo", b"by the old key", limit=SHORT) is None
        lan.eventually(lambda broker: broker.door.refused_messages >= 1, "it is refused")
        assert lan.statistic("refused_messages") == 1
    finally:
        ended.set()
        thread.join()


# ---------------------------------------------------------------- the list of keys


def test_a_damaged_file_locks_out_its_own_host_and_no_other(lan: Lan, caplog: pytest.LogCaptureFixture) -> None:
    keys = {host: lan.new(host) for host in ("pi2", "pi3", "pi4")}
    hosts = os.path.join(lan.keys, "hosts")
    with open(os.path.join(hosts, "pi2.key"), "wb") as file:
        file.write(b"\xff" * 100)
    with open(os.path.join(hosts, "Wrong Name.key"), "wb") as file:
        file.write(b"")
    os.mkdir(os.path.join(hosts, "pi5.key"))
    os.symlink("pi4.key", os.path.join(hosts, "pi6.key"))
    os.symlink("pi3.key", os.path.join(hosts, "pi.key"))
    lan.look()
    assert lan.call(lambda broker: broker.door.keys) == {keys["pi3"].public: "pi3", keys["pi4"].public: "pi4"}
    told = "\n".join(lines(caplog, "not let in"))
    for part in ("pi2.key", "Wrong Name.key", "pi5.key", "pi4 has the same key: pi6", "pi is this host's own name"):
        assert part in told
    assert "\xff" not in told
    # As pi2 is revoked, the door listens anew meanwhile, and says so.
    lan.call(lambda broker: broker.door._look())
    assert "\n".join(lines(caplog, "not let in")) == told


def test_a_file_that_cannot_be_read_locks_out_its_own_host_and_is_looked_at_again(lan: Lan) -> None:
    keys = {host: lan.new(host) for host in ("pi2", "pi3")}
    hosts = os.path.join(lan.keys, "hosts")
    os.symlink("pi4.key", os.path.join(hosts, "pi4.key"))  # to itself
    os.symlink("pi3.key/x", os.path.join(hosts, "pi5.key"))
    lan.look()
    assert lan.call(lambda broker: set(broker.door.keys.values())) == {"pi2", "pi3"}
    lan.revoke("pi2")
    assert lan.call(lambda broker: broker.door.keys) == {keys["pi3"].public: "pi3"}
    assert lan.call(lambda broker: set(broker.door._list.wrong)) == {"pi4.key", "pi5.key"}
    assert lan.call(lambda broker: broker.door._list.changed()) is False
    for name in ("pi4.key", "pi5.key"):
        os.unlink(os.path.join(hosts, name))
    lan.look()
    assert lan.call(lambda broker: broker.door._list.problems) == []


def test_a_list_that_cannot_be_read_stays_as_it_was(lan: Lan, caplog: pytest.LogCaptureFixture) -> None:
    key = lan.new("pi2")
    hosts = os.path.join(lan.keys, "hosts")
    os.rename(hosts, f"{hosts}.away")
    with open(hosts, "wb"):
        pass  # a file, which cannot be looked into, whoever looks
    lan.look()
    assert ask(lan.connect(zmq.DEALER, MDP.REQUESTS, key), b"mmi.version", b"") is not None
    assert lines(caplog, "cannot be read")
    os.unlink(hosts)
    lan.look()
    assert lan.call(lambda broker: broker.door.keys) == {}
    os.rename(f"{hosts}.away", hosts)
    lan.look()
    assert lan.call(lambda broker: len(broker.door.keys)) == 1


# ---------------------------------------------------------------- addresses


def test_an_address_that_is_not_there_yet_does_not_keep_the_broker_from_its_work(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # 192.0.2.1 is an address for documentation (RFC 5737), which no machine has.
    with running_lan(monkeypatch) as first:
        first.runner.stop()
        first.settings = BrokerConfig(listen=["192.0.2.1", first.lan])
        first.restart()
        assert ask(first.local(zmq.DEALER, MDP.REQUESTS), b"mmi.version", b"") is not None
        assert ask(first.connect(zmq.DEALER, MDP.REQUESTS, first.new("pi2")), b"mmi.version", b"") is not None
        assert [line for line in lines(caplog) if "192.0.2.1:5514: it cannot be listened on now" in line]


def test_a_taken_address_is_refused(lan: Lan) -> None:
    with short_directory() as directory:
        second = Broker("pi", broker_ip=f"ipc://{directory}", broker_port=BASE, settings=lan.settings)
        with pytest.raises(ConfigError, match=f"port {BASE + 1} is taken|port {BASE} is taken"):
            second.run()
    assert ask(lan.local(zmq.DEALER, MDP.REQUESTS), b"mmi.version", b"") is not None


def test_without_its_key_a_broker_does_not_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    with short_directory() as directory:
        monkeypatch.setenv("RASPY_KEYS", os.path.join(directory, "none"))
        broker = Broker("pi", broker_ip=f"ipc://{directory}", settings=BrokerConfig(listen=[own_address()]))
        with pytest.raises(ConfigError, match=r"listen: the key .* is missing: `raspy keys init` makes it"):
            broker.run()


def test_subscribers_come_again_after_all_were_disconnected(lan: Lan) -> None:
    follower = lan.connect(zmq.SUB, MDP.PUBLISHER, lan.new("pi2"))
    assert hears(follower, b"HUGZ")
    lan.call(lambda broker: broker.proxy.updates._start_anew())
    local = lan.local(zmq.PUSH, MDP.COLLECTOR)
    assert hears(follower, b"/variable/now", meanwhile=lambda: publish(local, "/variable/now", b"1"))


def test_the_address_of_updates_is_bound_again_though_it_was_taken_meanwhile(lan: Lan) -> None:
    follower = lan.connect(zmq.SUB, MDP.PUBLISHER, lan.new("pi2"))
    assert hears(follower, b"HUGZ")

    def start_anew(broker: Broker) -> socket.socket:
        broker.proxy.updates._start_anew()
        return eventually(lambda: taken(lan.lan, BASE + MDP.PUBLISHER), "libzmq lets go of it")

    with lan.call(start_anew):
        local = lan.local(zmq.SUB, MDP.PUBLISHER)
        local.subscribe(b"")
        assert hears(local, b"HUGZ")
    assert hears(follower, b"HUGZ")
    assert lan.call(lambda broker: broker.proxy.updates.socket in broker._handlers)


def taken(address: str, port: int) -> socket.socket | None:
    try:
        return socket.create_server((address, port))
    except OSError:
        return None
