"""The Proxy and what strangers send to it; each over real sockets."""

from __future__ import annotations

import json
import os
import socket

import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raspy.common.kvsimple import RESERVED, check_life, pack
from raspy.common.MDP import COLLECTOR, PUBLISHER, SNAPSHOT, ProtocolError
from raspy.servers.broker import aging, snapshots, updates
from raspy.servers.broker import proxy as proxy_module
from tests.servers.kv_stage import READING, staged, update


@pytest.fixture
def stage():
    with staged() as stage:
        yield stage


def number(frames):
    return int.from_bytes(frames[1], "big")


def receive(stage, socket, count=1):
    """The next messages of a socket, while the Proxy goes on."""
    found = []

    def enough():
        while len(found) < count and socket.poll(0):
            found.append(socket.recv_multipart())
        return len(found) == count

    stage.until(enough, stage.loop)
    return found


def receive_all(stage, socket):
    """A whole snapshot."""
    found = receive(stage, socket)
    while found[-1][0] != b"KTHXBAI":
        found += receive(stage, socket)
    return found


def subscribed(stage, *topics):
    """A SUB that has had its first heartbeat."""
    socket = stage.connect(zmq.SUB, PUBLISHER)
    socket.rcvhwm = 0
    for topic in topics:
        socket.subscribe(topic)
    socket.subscribe(b"HUGZ")
    assert receive(stage, socket)[0][0] == b"HUGZ"
    return socket


def of(stage, socket, count, heartbeats=False):
    """The next messages but heartbeats."""
    found = []
    while len(found) < count:
        found += [frames for frames in receive(stage, socket) if heartbeats or frames[0] != b"HUGZ"]
    return found


def test_an_update_is_numbered_stored_and_published(stage):
    proxy = stage.start()
    reader = subscribed(stage, b"/device/")
    writer = stage.connect(zmq.PUSH, COLLECTOR)
    stage.publish(writer, update("/device/pi.fake.tank/t", READING, pack(77)), update("/event/x", b"1"))
    assert of(stage, reader, 1) == [[b"/device/pi.fake.tank/t", pack(proxy.epoch + 1), READING]]
    assert stage.tree() == {"/device/pi.fake.tank/t": READING, "/event/x": b"1"}


def test_sequences_rise_over_everything(stage):
    proxy = stage.start()
    reader = subscribed(stage, b"")
    writer = stage.connect(zmq.PUSH, COLLECTOR)
    stage.publish(writer, *[update(f"/variable/{n % 3}", b"%d" % n) for n in range(10)])
    assert [number(frames) for frames in of(stage, reader, 10)] == list(range(proxy.epoch + 1, proxy.epoch + 11))


def test_an_empty_body_deletes(stage):
    stage.start()
    reader = subscribed(stage, b"/variable/a")
    writer = stage.connect(zmq.PUSH, COLLECTOR)
    stage.publish(writer, update("/variable/a", b"1"), update("/variable/a", b""), update("/variable/never", b""))
    assert [frames[2] for frames in of(stage, reader, 2)] == [b"1", b""]
    assert stage.tree() == {}


BAD = [
    ([b"one frame"], proxy_module.WRONG_FRAMES),
    ([b"/a/b", bytes(8)], proxy_module.WRONG_FRAMES),
    ([b"/a/b", bytes(8), b"x", b"y"], proxy_module.WRONG_FRAMES),
    ([b"/a/b", bytes(8), *[b"y"] * 100], proxy_module.WRONG_FRAMES),
    ([b"/a/b", bytes(4), b"x"], proxy_module.WRONG_SEQUENCE),
    ([b"/device/known/t", bytes(9), READING], proxy_module.WRONG_SEQUENCE),
    ([b"", bytes(8), b"x"], proxy_module.WRONG_KEY),
    ([b"\xff", bytes(8), b"x"], proxy_module.WRONG_KEY),
    ([b"/a/\0", bytes(8), b"x"], proxy_module.WRONG_KEY),
    ([b"/" + b"x" * 512, bytes(8), b"x"], proxy_module.WRONG_KEY),
    *[([key, bytes(8), b"x"], proxy_module.WRONG_KEY) for key in RESERVED],
    ([b"HUGZ", bytes(8), b""], proxy_module.WRONG_KEY),
    ([b"/server/pi.fake", bytes(8), b"{}"], proxy_module.NOT_YOURS),
    ([b"/server/pi.broker", bytes(8), b""], proxy_module.NOT_YOURS),
    ([b"/a/long", bytes(8), bytes(1025)], proxy_module.LONG_BODY),
    ([b"/device/known/t", bytes(8), READING + b" " * 1024], proxy_module.LONG_BODY),
    ([b"/device/new/t", bytes(8), b"21.5"], proxy_module.WRONG_BODY),
    ([b"/device/known/t", bytes(8), b"21.5"], proxy_module.WRONG_BODY),
    ([b"/device/known/t", bytes(8), b'{"quality": "ok"}'], proxy_module.WRONG_BODY),
    ([b"/device/known/t", bytes(8), b'{"quality": "ok", "x": ' + b"[" * 900], proxy_module.WRONG_BODY),
]


@pytest.mark.parametrize(("frames", "reason"), BAD)
def test_a_bad_update_is_refused_alone(stage, frames, reason):
    proxy = stage.start(body_bytes=1024)
    proxy.update("/server/pi.broker", b"{}")
    writer = stage.connect(zmq.PUSH, COLLECTOR)
    stage.publish(writer, update("/device/known/t", READING))
    before = stage.tree()
    stage.publish(writer, update("/a/before", b"1"), frames, update("/a/after", b"2"))
    assert stage.tree() == {**before, "/a/before": b"1", "/a/after": b"2"}
    assert proxy.refused == {reason: 1}


def test_refusals_are_logged_now_and_then(stage, caplog):
    proxy = stage.start()
    stage.publish(stage.connect(zmq.PUSH, COLLECTOR), *[[b"junk\n"]] * 1000)
    lines = [record for record in caplog.records if record.name == "raspy.proxy"]
    assert len(lines) == 1
    assert "\n" not in lines[0].getMessage()
    assert proxy.statistics()["refused_updates"] == 1000


def test_the_tree_is_bounded_in_keys(stage):
    proxy = stage.start(tree_keys=3)
    writer = stage.connect(zmq.PUSH, COLLECTOR)
    keys = [f"/device/d{n}/t" for n in range(3)]
    # the marker of Stage.publish needs a place too
    for key in keys[:2]:
        stage.publish(writer, update(key, READING))
    proxy.update("/variable/own", b"1")
    writer.send_multipart(update("/device/new/t", READING))
    writer.send_multipart(update("/variable/own", b"2"))
    stage.until(lambda: stage.tree()["/variable/own"] == b"2", stage.loop)
    assert set(stage.tree()) == {*keys[:2], "/variable/own"}
    assert proxy.refused == {proxy_module.TREE_FULL: 1}
    proxy.update("/server/pi.broker", b"{}")
    assert "/server/pi.broker" in stage.tree()


def test_the_tree_is_bounded_in_bytes_and_they_are_counted_right(stage):
    proxy = stage.start(tree_bytes=1 << 16)
    writer = stage.connect(zmq.PUSH, COLLECTOR)
    big = b"x" * 20_000
    stage.publish(writer, *[update(f"/a/{n}", big) for n in range(5)], update("/a/0", big + b"y" * 40_000))
    assert set(stage.tree()) == {"/a/0", "/a/1", "/a/2"}
    assert stage.tree()["/a/0"] == big
    assert proxy.refused == {proxy_module.TREE_FULL: 3}
    assert proxy.bytes == sum(len(key) + len(body) for key, body in stage.tree().items())
    stage.publish(writer, *[update(f"/a/{n}", b"small") for n in range(3)], update("/a/4", big))
    assert proxy.bytes == sum(len(key) + len(body) for key, body in stage.tree().items())
    stage.publish(writer, *[update(f"/a/{n}", b"") for n in range(5)])
    assert proxy.bytes == 0


def test_the_broker_itself_is_told_of_a_bad_key(stage):
    proxy = stage.start()
    with pytest.raises(ProtocolError):
        proxy.update("/server/\n", b"{}")
    with pytest.raises(ProtocolError):
        proxy.update("/device/pi.x/t", b"21.5")
    assert stage.tree() == {}


@given(
    st.lists(
        st.lists(
            st.one_of(st.binary(max_size=20), st.sampled_from([b"ICANHAZ?", b"/device/a/t", bytes(8), READING])),
            min_size=1,
            max_size=5,
        ),
        max_size=20,
    )
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_arbitrary_frames_at_all_sockets(stage, messages):
    proxy = stage.proxy or stage.start()
    writer = stage.connect(zmq.PUSH, COLLECTOR)
    asker = stage.connect(zmq.DEALER, SNAPSHOT)
    listener = stage.connect(zmq.XSUB, PUBLISHER)
    for frames in messages:
        asker.send_multipart(frames)
        listener.send_multipart(frames)
    stage.publish(writer, *messages)
    asker.send_multipart([b"ICANHAZ?", b"/nothing/"])
    while receive(stage, asker)[0][2] != b"/nothing/":
        pass
    for mine in (writer, asker, listener):
        mine.close()
    assert proxy.loop.errors == 0
    assert proxy.bytes == sum(len(key) + len(body) for key, body in proxy.entries.items() for body in [body.body])


# Heartbeats


def test_a_new_subscriber_gets_a_heartbeat_at_once(stage, monkeypatch):
    monkeypatch.setattr(proxy_module, "HEARTBEAT", 3600.0)
    proxy = stage.start()
    proxy.update("/device/a/t", READING)
    proxy.update("/foo/bar", b"1")
    proxy.update("bare", b"1")
    socket = stage.connect(zmq.SUB, PUBLISHER)
    socket.subscribe(b"HUGZ")
    key, sequence, body = receive(stage, socket)[0]
    heartbeat = json.loads(body)
    assert (key, sequence) == (b"HUGZ", pack(proxy.epoch + 3))
    assert heartbeat["epoch"] == proxy.epoch
    assert {name: count for name, count in heartbeat["count"].items() if count} == {"device": 1, "foo": 1, "*": 1}


def test_a_busy_channel_has_heartbeats_too(stage):
    proxy = stage.start()
    reader = subscribed(stage, b"/a/")
    sent = 0
    beats = 0
    while beats < 2:
        proxy.update("/a/b", b"%d" % sent)
        sent += 1
        beats += receive(stage, reader)[0][0] == b"HUGZ"
    assert sent > 2


def test_strangers_do_not_crowd_a_heartbeat(stage):
    proxy = stage.start()
    for index in range(200):
        proxy.update(f"/junk{index}/x", b"1")
    proxy.update("/" + "n" * 300 + "/x", b"1")
    proxy.update("/alarm/heater", b"1")
    reader = subscribed(stage)
    counts = json.loads(receive(stage, reader)[0][2])["count"]
    assert len(counts) <= proxy_module.MOST_NAMED + 1
    assert counts["alarm"] == 1
    assert sum(counts.values()) == 202


# Staleness


def test_a_value_goes_stale_when_nothing_comes(stage):
    proxy = stage.start()
    reading = {"value": 21.5, "unit": "C", "time": 17.5, "max_age": 0.2, "quality": "ok"}
    writer = stage.connect(zmq.PUSH, COLLECTOR)
    error = {"quality": "error", "reason": "no answer", "max_age": 0.2}
    stage.publish(
        writer,
        update("/device/a/t", json.dumps(reading).encode()),
        update("/device/b/t", READING),
        update("/device/c/t", json.dumps(error).encode()),
        update("/variable/d", json.dumps(reading).encode()),
    )

    def quality(key):
        return json.loads(stage.tree()[key])["quality"]

    stage.until(lambda: quality("/device/a/t") == "stale" and quality("/device/c/t") == "stale", stage.loop)
    told = json.loads(stage.tree()["/device/a/t"])
    assert "value" not in told
    assert (told["last"], told["time"], told["reason"]) == (21.5, 17.5, "nothing was published in time")
    assert quality("/device/b/t") == "ok"
    assert quality("/variable/d") == "ok"
    sequence = proxy.sequence
    stage.publish(writer, update("/device/a/t", READING))
    assert quality("/device/a/t") == "ok"
    assert proxy.sequence == sequence + 3  # the reading, and the marker of Stage.publish twice


def test_a_value_that_comes_again_is_not_stale_and_takes_no_memory(stage, monkeypatch):
    now = [1000.0]
    for module in (proxy_module, aging):
        monkeypatch.setattr(module, "monotonic", lambda: now[0])
    proxy = stage.start()
    writer = stage.connect(zmq.PUSH, COLLECTOR)
    ages = [600, 1, 300, 599.5, 2, 601]
    for step in range(60):
        now[0] += 0.4
        body = b'{"quality": "ok", "max_age": %r}' % ages[step % len(ages)]
        stage.publish(writer, *[update(f"/device/d{n}/t", body) for n in range(5)])
        proxy.aging._age()
        assert sum(map(len, proxy.aging._wheel.values())) == 5
    assert all(b"stale" not in body for body in stage.tree().values())
    now[0] += 602
    proxy.aging._age()
    assert all(b"stale" in body for body in stage.tree().values())
    assert not proxy.aging._wheel


def test_a_shorter_max_age_counts_at_once(stage, monkeypatch):
    now = [1000.0]
    for module in (proxy_module, aging):
        monkeypatch.setattr(module, "monotonic", lambda: now[0])
    proxy = stage.start()
    writer = stage.connect(zmq.PUSH, COLLECTOR)
    stage.publish(writer, update("/device/d/t", READING))
    stage.publish(writer, update("/device/d/t", b'{"quality": "ok", "max_age": 2}'))
    now[0] += 1.9
    proxy.aging._age()
    assert b"stale" not in stage.tree()["/device/d/t"]
    now[0] += 1
    proxy.aging._age()
    assert b"stale" in stage.tree()["/device/d/t"]


def test_a_deleted_value_leaves_the_wheel(stage):
    proxy = stage.start()
    writer = stage.connect(zmq.PUSH, COLLECTOR)
    stage.publish(writer, update("/device/d/t", READING), update("/device/d/t", b""))
    assert not proxy.aging._wheel
    assert stage.tree() == {}


def test_a_dead_server_makes_its_values_stale_and_no_others(stage):
    proxy = stage.start()
    mine = [f"/device/pi.fake.d{n}/t" for n in range(700)]
    others = ["/device/pi.fakes.d/t", "/device/pi.fake2.d/t", "/device/pi2.fake.d/t"]
    stage.publish(stage.connect(zmq.PUSH, COLLECTOR), *[update(key, READING) for key in [*mine, *others]])
    proxy.server_gone("pi.fake")
    proxy.server_gone("pi.fake")
    back = mine[-1]
    proxy.update(back, READING)  # the server is back before its turn comes
    stage.until(lambda: all(b"stale" in stage.tree()[key] for key in mine[:-1]), stage.loop)
    assert json.loads(stage.tree()[mine[0]])["reason"] == "server pi.fake is gone"
    assert [stage.tree()[key] for key in [back, *others]] == [READING] * 4


def nested(depth):
    return b'{"quality": "ok", "max_age": 600, "value": ' + b"[" * depth + b"1" + b"]" * depth + b"}"


def deepest():
    """How deep a reading may be nested to be just understood here."""
    good, bad = 1, 1 << 18
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            check_life(nested(middle))
        except ProtocolError:
            bad = middle
        else:
            good = middle
    return good


def test_bodies_nested_as_deep_as_can_be_go_stale_like_others(stage):
    """One that can just be read when it comes cannot be when more functions have called each other."""
    proxy = stage.start()
    writer = stage.connect(zmq.PUSH, COLLECTOR)
    limit = deepest()
    keys = {f"/device/pi.fake.d{depth}/t": nested(depth) for depth in range(limit - 60, limit + 1)}
    stage.publish(writer, *[update(key, READING) for key in keys])
    stage.publish(writer, *[update(key, body) for key, body in keys.items()])
    assert any(stage.tree()[key] == body for key, body in keys.items())

    def gone(depth):
        if depth:
            gone(depth - 1)
        else:
            proxy.server_gone("pi.fake")

    stage.loop.call_later(0.0, gone, 30)
    stage.until(lambda: all(b'"stale"' in body for body in stage.tree().values()), stage.loop)
    stage.publish(writer, update("/device/pi.other/t", b'{"quality": "ok", "max_age": 0.2}'))
    stage.until(lambda: b'"stale"' in stage.tree()["/device/pi.other/t"], stage.loop)
    assert proxy.loop.errors == 0


def test_an_error_in_ageing_costs_one_value_its_turn(stage, monkeypatch):
    proxy = stage.start()
    for index in range(10):
        proxy.update(f"/device/pi.fake.d{index}/t", READING)

    def broken(body, reason):
        monkeypatch.undo()
        raise ValueError("broken")

    monkeypatch.setattr(aging, "stale", broken)
    proxy.server_gone("pi.fake")
    stage.until(lambda: sum(b'"stale"' in body for body in stage.tree().values()) == 9, stage.loop)
    assert proxy.loop.errors == 1


def test_a_server_that_goes_again_and_again_costs_nothing_twice(stage):
    proxy = stage.start()
    keys = [f"/device/pi.fake.d{n}/t" for n in range(5000)]
    for key in keys:
        proxy.update(key, READING)
    sequence = proxy.sequence
    for index in range(1000):
        proxy.server_gone("pi.fake")
        proxy.server_gone(f"pi.x{index % 10}")
        proxy.server_back("pi.fake")
    assert len(proxy.aging._overdue) + len(proxy.aging._condemned) + len(proxy.aging._round) == 11
    stage.until(lambda: not proxy.aging.busy, stage.loop)
    tree = stage.tree()
    assert all(b'"stale"' in tree[key] for key in keys)
    assert proxy.sequence == sequence + 5000


def test_what_was_under_way_when_its_server_died_goes_stale(stage, monkeypatch):
    monkeypatch.setattr(aging, "GRACE", 0.05)
    proxy = stage.start()
    writer = stage.connect(zmq.PUSH, COLLECTOR)
    for name in ("pi.fake", "pi.back"):
        proxy.server_gone(name)
    stage.until(lambda: not proxy.aging.busy, stage.loop)
    keys = [f"/device/pi.{name}/t" for name in ("fake.a", "fake.b", "back.a", "fakes.a")]
    stage.publish(writer, *[update(key, READING) for key in keys[:2]])
    proxy.server_back("pi.back")
    stage.publish(writer, *[update(key, READING) for key in keys[2:]])
    stage.until(lambda: all(b'"stale"' in stage.tree()[key] for key in keys[:2]), stage.loop)
    assert json.loads(stage.tree()[keys[0]])["reason"] == "server pi.fake is gone"
    stage.publish(writer, update(keys[0], READING))
    stage.until(lambda: b'"stale"' in stage.tree()[keys[0]], stage.loop)
    assert [stage.tree()[key] for key in keys[2:]] == [READING] * 2


def test_the_first_values_of_a_server_that_is_back_are_believed(stage, monkeypatch):
    """They may be here before its worker is."""
    monkeypatch.setattr(aging, "GRACE", 0.1)
    proxy = stage.start()
    proxy.server_gone("pi.fake")
    stage.publish(stage.connect(zmq.PUSH, COLLECTOR), update("/device/pi.fake.a/t", READING))
    assert proxy.aging._late
    proxy.server_back("pi.fake")
    stage.until(lambda: not proxy.aging._late and not proxy.aging.busy, stage.loop)
    assert stage.tree()["/device/pi.fake.a/t"] == READING


def test_servers_that_are_gone_are_bounded_in_number(stage, monkeypatch):
    monkeypatch.setattr(aging, "MOST_GONE", 3)
    proxy = stage.start()
    for index in (0, 1, 2, 0, 3):
        proxy.server_gone(f"pi.s{index}")
    assert list(proxy.aging._gone) == [b"/device/pi.s2.", b"/device/pi.s0.", b"/device/pi.s3."]


def test_a_full_tree_still_takes_the_next_value_of_a_reading(stage):
    proxy = stage.start(tree_bytes=1 << 16)
    writer = stage.connect(zmq.PUSH, COLLECTOR)
    stage.publish(writer, update("/device/d/t", READING), update("/device/e/t", READING))
    proxy.update("/variable/big", b"x" * ((1 << 16) - proxy.bytes - 13))
    error = json.dumps({"quality": "error", "reason": "the sensor is not connected", "max_age": 30}).encode()
    assert len(error) > len(READING) - 13
    long = error[:-1] + b" " * 200 + b"}"
    writer.send_multipart(update("/device/d/t", long))
    stage.until(lambda: stage.tree()["/device/d/t"] == long, stage.loop)
    writer.send_multipart(update("/variable/new", b"1"))
    writer.send_multipart(update("/device/e/t", error[:-1] + b" " * proxy_module.SMALL + b"}"))
    stage.until(lambda: proxy.refused == {proxy_module.TREE_FULL: 2}, stage.loop)
    told = json.loads(stage.tree()["/device/e/t"])
    assert (told["quality"], told["reason"], told["last"]) == ("stale", proxy_module.TREE_FULL, 21.5)


def test_known_readings_do_not_grow_without_bound(stage):
    proxy = stage.start(tree_bytes=1 << 16)
    writer = stage.connect(zmq.PUSH, COLLECTOR)
    keys = [f"/device/d{n}/t" for n in range(100)]
    stage.publish(writer, *[update(key, READING) for key in keys])
    for key in keys:
        writer.send_multipart(update(key, READING + b" " * 3000))

    def settled() -> bool:
        bodies = stage.tree().values()
        return len(bodies) >= 100 and all(len(body) > 3000 or b'"stale"' in body for body in bodies)

    stage.until(settled, stage.loop)
    assert sum(proxy.refused.values()) > 70
    assert proxy.bytes < (1 << 16) * 1.25 + 100 * 100


# Snapshots


@pytest.mark.parametrize(
    ("request_frames", "keys"),
    [
        ([b"ICANHAZ?", b"/client/"], ["/client/1", "/client/2"]),
        ([b"ICANHAZ?", b"/client/1"], ["/client/1"]),
        ([b"ICANHAZ?", b""], ["/client/1", "/client/2", "bare"]),
        ([b"ICANHAZ?"], ["/client/1", "/client/2", "bare"]),
        ([b"ICANHAZ?", b"ba"], ["bare"]),
        ([b"ICANHAZ?", b"\xff"], []),
    ],
)
def test_a_snapshot_as_the_guide_has_it(stage, request_frames, keys):
    proxy = stage.start()
    for key in ["/client/1", "/client/2", "bare"]:
        proxy.update(key, key.encode())
    asker = stage.connect(zmq.DEALER, SNAPSHOT)
    asker.send_multipart(request_frames)
    *entries, end = receive_all(stage, asker)
    assert [[frames[0].decode(), frames[2].decode()] for frames in entries] == [[key, key] for key in keys]
    assert {len(frames) for frames in entries} <= {3}
    assert all(proxy.epoch < number(frames) <= proxy.sequence for frames in entries)
    assert end == [b"KTHXBAI", pack(proxy.sequence), *(request_frames[1:] or [b""])]


@pytest.mark.parametrize(
    "frames", [[b"HELLO"], [b"ICANHAZ?", b"", b""], [b"ICANHAZ?", b"x" * 513], [b"", b"ICANHAZ?", b""], [b""]]
)
def test_a_bad_request_is_refused(stage, frames):
    proxy = stage.start()
    asker = stage.connect(zmq.DEALER, SNAPSHOT)
    asker.send_multipart(frames)
    asker.send_multipart([b"ICANHAZ?", b"/good/"])
    assert receive(stage, asker) == [[b"KTHXBAI", pack(proxy.epoch), b"/good/"]]
    assert proxy.refused == {"not a request for a snapshot": 1}


def many(proxy, count=20_000, size=100):
    body = os.urandom(size)
    for index in range(count):
        proxy.update(f"/many/{index}", body)


def test_a_reader_that_stalls_on_20000_keys_gets_them_all(stage):
    proxy = stage.start()
    many(proxy)
    slow = stage.connect(zmq.DEALER, SNAPSHOT)
    slow.send_multipart([b"ICANHAZ?", b"/many/"])
    stage.until(lambda: proxy.snapshots.routes, stage.loop)
    (route,) = proxy.snapshots.routes.values()
    stage.until(lambda: route.pause == snapshots.SLOWEST_RETRY, stage.loop)
    began = proxy.sequence
    assert route.position < 20_000
    proxy.update("/many/19999", b"newer")
    proxy.update("/many/19998", b"")
    proxy.update("/many/20000", b"after")
    other = stage.connect(zmq.DEALER, SNAPSHOT)
    other.send_multipart([b"ICANHAZ?", b"/many/1"])
    assert len(receive_all(stage, other)) == 11_111  # 11,110 keys begin with 1 (one is deleted), and the end
    *entries, end = receive_all(stage, slow)
    assert {frames[0].decode() for frames in entries} == {f"/many/{n}" for n in range(20_000)} - {"/many/19998"}
    assert len(entries) == 19_999
    assert entries[-1][2] == b"newer"
    assert number(end) == began
    stage.until(lambda: not proxy.snapshots.routes, stage.loop)


def test_a_repeated_request_begins_again(stage):
    proxy = stage.start()
    many(proxy)
    asker = stage.connect(zmq.DEALER, SNAPSHOT)
    asker.send_multipart([b"ICANHAZ?", b"/many/"])
    stage.until(lambda: proxy.snapshots.routes, stage.loop)
    (first,) = proxy.snapshots.routes.values()
    asker.send_multipart([b"ICANHAZ?", b"/many/7"])
    stage.until(lambda: first not in proxy.snapshots.routes.values(), stage.loop)
    assert receive_all(stage, asker)[-1][2] == b"/many/7"
    assert not proxy.snapshots.routes


def test_a_reader_that_goes_away_is_forgotten(stage):
    proxy = stage.start()
    many(proxy)
    asker = stage.connect(zmq.DEALER, SNAPSHOT)
    asker.send_multipart([b"ICANHAZ?", b""])
    stage.until(lambda: proxy.snapshots.routes, stage.loop)
    asker.close()
    stage.until(lambda: not proxy.snapshots.routes, stage.loop)


def test_a_reader_without_progress_is_given_up(stage, monkeypatch):
    monkeypatch.setattr(snapshots, "ROUTE_EXPIRY", 0.3)
    proxy = stage.start()
    many(proxy)
    asker = stage.connect(zmq.DEALER, SNAPSHOT)
    asker.send_multipart([b"ICANHAZ?", b""])
    stage.until(lambda: proxy.snapshots.routes, stage.loop)
    stage.until(lambda: not proxy.snapshots.routes, stage.loop)
    assert not asker.closed


def test_snapshots_are_bounded_and_stalled_ones_make_room(stage, monkeypatch):
    monkeypatch.setattr(snapshots, "ROUTES", 2)
    proxy = stage.start()
    many(proxy)
    askers = [stage.connect(zmq.DEALER, SNAPSHOT) for _ in range(3)]
    for asker in askers[:2]:
        asker.send_multipart([b"ICANHAZ?", b"/many/"])
    stage.until(lambda: len(proxy.snapshots.routes) == 2, stage.loop)
    askers[2].send_multipart([b"ICANHAZ?", b"/many/1"])
    stage.until(lambda: proxy.refused == {"too many snapshots under way": 1}, stage.loop)
    monkeypatch.setattr(snapshots, "ROUTE_STALLED", 0.0)
    askers[2].send_multipart([b"ICANHAZ?", b"/many/1"])
    assert len(receive_all(stage, askers[2])) == 11_112


def test_many_requests_share_one_batch(stage, monkeypatch):
    monkeypatch.setattr(snapshots, "SHARE", 10)
    proxy = stage.start()
    many(proxy, 3000)
    sent = []
    send_single = proxy.send_single
    monkeypatch.setattr(proxy, "send_single", lambda *entry: (sent.append(entry), send_single(*entry)))
    askers = [stage.connect(zmq.DEALER, SNAPSHOT) for _ in range(20)]
    for asker in askers:
        asker.rcvhwm = 0
        for _ in range(20):
            asker.send_multipart([b"ICANHAZ?", b""])
    most = 0
    unfinished = set(askers)
    while unfinished:
        before = len(sent)
        stage.loop.turn(0.01)
        most = max(most, len(sent) - before)
        for asker in list(unfinished):
            while asker.poll(0):
                if asker.recv_multipart()[0] == b"KTHXBAI":
                    unfinished.discard(asker)
    assert 0 < most <= snapshots.BATCH


def test_a_reader_that_stalls_holds_few_bytes(stage):
    proxy = stage.start()
    for index in range(200):
        proxy.update(f"/many/{index}", bytes([index]) * 20_000)
    slow = stage.connect(zmq.DEALER, SNAPSHOT)
    slow.rcvhwm = 1
    slow.send_multipart([b"ICANHAZ?", b"/many/"])
    stage.until(lambda: proxy.snapshots.routes, stage.loop)
    (route,) = proxy.snapshots.routes.values()
    stage.until(lambda: route.pause == snapshots.SLOWEST_RETRY, stage.loop)
    assert 0 < route.held <= snapshots.ROUTE_BYTES
    slow.send_multipart([b"ICANHAZ?", b"/many/1"])
    stage.until(lambda: route not in proxy.snapshots.routes.values(), stage.loop)
    (again,) = proxy.snapshots.routes.values()
    assert again.held > 0
    found = receive_all(stage, slow)
    assert found[-1][2] == b"/many/1"
    assert {frames[0] for frames in found[:-1]} >= {f"/many/1{n}".encode() for n in range(100)}
    assert all(frames[2] == bytes([int(frames[0][6:])]) * 20_000 for frames in found[:-1])


def test_a_body_larger_than_the_window_gets_through(stage):
    proxy = stage.start()
    body = os.urandom(snapshots.ROUTE_BYTES * 2)
    for index in range(3):
        proxy.update(f"/many/{index}", body)
    asker = stage.connect(zmq.DEALER, SNAPSHOT)
    asker.send_multipart([b"ICANHAZ?", b""])
    assert [frames[2] for frames in receive_all(stage, asker)[:-1]] == [body] * 3


# Subscriptions


def test_subscriptions_are_bounded_and_subscribers_come_again(stage, caplog):
    proxy = stage.start()
    reader = subscribed(stage, b"/a/")
    first = proxy.updates.socket
    junk = stage.connect(zmq.SUB, PUBLISHER)
    for _ in range(updates.SUBSCRIPTION_BYTES // 500 + 50):
        junk.subscribe(os.urandom(500))
    stage.until(lambda: proxy.updates.socket is not first, stage.loop)
    assert first.closed
    proxy.update("/a/meanwhile", b"1")
    junk.close()
    before = number(of(stage, reader, 1, heartbeats=True)[0])
    # a heartbeat that is newer than what was lost meanwhile, and then the next update
    while before < proxy.sequence:
        before = number(of(stage, reader, 1, heartbeats=True)[0])
    proxy.update("/a/after", b"2")
    assert of(stage, reader, 1)[0][0] == b"/a/after"
    assert sum("subscriptions take" in record.getMessage() for record in caplog.records) == 1
    assert proxy.loop.errors == 0


def test_subscriptions_that_end_are_not_counted(stage, monkeypatch):
    monkeypatch.setattr(updates, "SUBSCRIPTION_BYTES", 2000)
    proxy = stage.start()
    first = proxy.updates.socket
    for _ in range(20):
        reader = subscribed(stage, b"/a/" + b"x" * 400)
        reader.close()
        stage.until(lambda: proxy.updates._subscriptions == 0, stage.loop)
    assert proxy.updates.socket is first
    assert proxy.updates._subscribed > 4 * 2000


def raw_subscriber(stage):
    """The bytes of a SUB (ZMTP 3.0), for what libzmq would not send."""
    raw = socket.socket(socket.AF_UNIX)
    raw.connect(stage.endpoint(PUBLISHER).removeprefix("ipc://"))
    ready = b"\x05READY\x0bSocket-Type\0\0\0\x03SUB"
    raw.sendall(b"\xff" + bytes(8) + b"\x7f\x03\0" + b"NULL".ljust(20, b"\0") + bytes(32))
    raw.sendall(bytes([4, len(ready)]) + ready)
    return raw


def test_ending_what_another_has_subscribed_to_gives_no_room(stage, monkeypatch):
    monkeypatch.setattr(updates, "SUBSCRIBED_BYTES", 10_000)
    proxy = stage.start()
    first = proxy.updates.socket
    one = stage.connect(zmq.XSUB, PUBLISHER)
    other = raw_subscriber(stage)
    for index in range(60):
        topic = b"%03d" % index + b"x" * 250
        one.send(b"\1" + topic)
        stage.until(lambda: proxy.updates._subscriptions or proxy.updates.socket is not first, stage.loop)
        if proxy.updates.socket is not first:
            break
        other.sendall(bytes([0, len(topic) + 1, 0]) + topic)
        stage.until(lambda: not proxy.updates._subscriptions, stage.loop)
    other.close()
    assert proxy.updates.socket is not first


# Subscribers that do not keep up


def test_a_burst_loses_nothing(stage):
    proxy = stage.start()
    readers = [subscribed(stage, b"/variable/") for _ in range(3)]
    writer = stage.connect(zmq.PUSH, COLLECTOR)
    stage.publish(writer, *[update(f"/variable/{n % 7}", b"%d" % n) for n in range(20_000)])
    expected = [b"%d" % n for n in range(20_000)]
    for reader in readers:
        assert [frames[2] for frames in of(stage, reader, 20_000)] == expected
    assert not proxy.updates.lossy


def test_a_stopped_subscriber_does_not_stop_the_others(stage):
    proxy = stage.start()
    stopped = stage.connect(zmq.SUB, PUBLISHER)
    stopped.subscribe(b"")
    assert receive(stage, stopped)[0][0] == b"HUGZ"
    reader = subscribed(stage, b"/variable/")
    writer = stage.connect(zmq.PUSH, COLLECTOR)
    sent = 0
    while not proxy.updates.lossy:
        stage.publish(writer, *[update("/variable/x", b"%d" % (sent + n)) for n in range(1000)])
        sent += 1000
    stage.publish(writer, update("/variable/end", b"1"))
    while of(stage, reader, 1)[0][0] != b"/variable/end":
        pass
    assert sent < 20_000


def test_a_stopped_subscriber_is_waited_for_again_later(stage, monkeypatch):
    monkeypatch.setattr(updates, "SHORTEST_LOSSY", 0.0)
    proxy = stage.start()
    stopped = stage.connect(zmq.SUB, PUBLISHER)
    stopped.subscribe(b"")
    assert receive(stage, stopped)[0][0] == b"HUGZ"
    writer = stage.connect(zmq.PUSH, COLLECTOR)
    while not proxy.updates.lossy:
        stage.publish(writer, *[update("/variable/x", b"1")] * 1000)
    stopped.close()
    stage.until(lambda: not proxy.updates.lossy, stage.loop)
    stage.publish(writer, *[update("/variable/x", b"1")] * 1000)
    assert not proxy.updates.lossy


def test_large_bodies_under_way_are_bounded(stage, monkeypatch):
    monkeypatch.setattr(updates, "LARGE_WINDOW", 4 << 20)
    proxy = stage.start()
    stopped = stage.connect(zmq.SUB, PUBLISHER)
    stopped.subscribe(b"")
    assert receive(stage, stopped)[0][0] == b"HUGZ"
    body = b"x" * (1 << 20)
    writer = stage.connect(zmq.PUSH, COLLECTOR)
    stopped.rcvhwm = 1
    stage.publish(writer, *[update("/variable/x", body[n:]) for n in range(60)])
    assert proxy.updates.left_out > 0
    assert stage.tree() == {"/variable/x": body[59:]}
    assert proxy.updates._large <= 4 << 20


# Life and death


def test_sequences_rise_over_restarts(stage):
    first = stage.start()
    first.update("/a/b", b"1")
    first.stop()
    first.stop()
    second = stage.start()
    assert second.epoch > first.sequence
    assert stage.tree() == {}


def test_a_clock_without_an_epoch_of_its_own(monkeypatch):
    monkeypatch.setattr(proxy_module.time, "time_ns", lambda: -5)
    assert proxy_module.wall_us() == 1
