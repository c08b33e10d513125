"""Publishers and subscribers with a real Proxy: whatever happens on the way, all end up with the true tree."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

import pytest
import zmq

from raspy.common import kvpublisher, kvsubscriber
from raspy.common.kvcliapi import KvPublisherClient, KvSubscriber, KvSubscriberClient, snapshot
from raspy.common.kvtree import UNPROVEN
from raspy.common.MDP import COLLECTOR, ConnectionLost, ProtocolError
from raspy.servers.broker import proxy as proxy_module
from tests.servers.kv_stage import READING, staged, update


@pytest.fixture
def stage():
    with staged() as stage:
        yield stage


class Follower:
    """A subscriber on a loop of its own, its changes and its states."""

    def __init__(self, stage, subtree="", **more):
        self.loop = stage.new_loop()
        self.changes = []
        self.states = []
        self.mirror = {}
        self.subscriber = KvSubscriber(self.loop, subtree, self.change, self.states.append, **more)
        stage.closers.append(self.subscriber.close)

    def change(self, key, body):
        self.changes.append((key, body))
        if body:
            self.mirror[key] = body
        else:
            del self.mirror[key]

    @property
    def live(self):
        return self.subscriber.state == "live"


def has_all(stage, *followers):
    """Whether they have the true tree."""
    tree = stage.tree()
    return all(
        follower.live
        and follower.subscriber.replica.exact
        and follower.mirror
        == follower.subscriber.tree
        == {key: body for key, body in tree.items() if key.startswith(follower.subscriber.replica.subtree)}
        for follower in followers
    )


def is_renewed(stage, follower):
    """Whether it has all that the Proxy has, and knows that it is from this one."""
    replica = follower.subscriber.replica
    return (
        replica.exact
        and replica.epoch == stage.proxy.epoch
        and all(
            replica.tree.get(key) == body and replica._versions[key] != UNPROVEN
            for key, body in stage.tree().items()
            if key.startswith(replica.subtree)
        )
    )


def test_values_reach_subscribers_of_any_subtree(stage):
    proxy = stage.start()
    proxy.update("/device/early/t", READING)
    # Slowly, so that a machine that is busy for some seconds loses none.
    followers = [Follower(stage, subtree, speed=0.1) for subtree in ("", "/device", "/device/pi.", "/event/")]
    publisher = stage.publisher()
    publisher.send("/device/pi.fake.tank/t", READING)
    publisher.send("/event/a/b", b"1")
    stage.until(lambda: len(stage.tree()) == 3 and has_all(stage, *followers))
    publisher.send("/device/pi.fake.tank/t", b"")
    stage.until(lambda: len(stage.tree()) == 2 and has_all(stage, *followers))
    assert [len(follower.mirror) for follower in followers] == [2, 1, 0, 1]
    assert all(follower.states == ["live"] for follower in followers)


def test_a_subscriber_that_did_not_read_mends_its_copy(stage):
    proxy = stage.start()
    followers = [Follower(stage, subtree) for subtree in ("", "/variable/")]
    stage.until(lambda: all(follower.live for follower in followers))
    writer = stage.connect(zmq.PUSH, COLLECTOR)
    while not proxy.updates.lossy:
        stage.publish(writer, *[update(f"/variable/{n}", os.urandom(200)) for n in range(2000)])
    # the last are lost too, among them deletions
    stage.publish(writer, *[update(f"/variable/{n}", b"") for n in range(0, 2000, 2)])
    stage.publish(writer, *[update(f"/variable/{n}", b"last") for n in range(1, 2000, 4)])
    stage.until(lambda: len(stage.tree()) == 1000 and has_all(stage, *followers))
    assert all(follower.subscriber.replica.taken > 1 for follower in followers)
    assert proxy.loop.errors == 0


def test_a_subscriber_that_stalls_in_its_snapshot_gets_it_all(stage):
    proxy = stage.start()
    for index in range(20_000):
        proxy.update(f"/variable/{index}", os.urandom(100))
    follower = Follower(stage, "/variable/")
    stage.until(lambda: proxy.snapshots.routes)
    for index in range(0, 20_000, 3):
        proxy.update(f"/variable/{index}", b"newer" if index % 2 else b"")
    # only the Proxy's loop turns: the reader stands still until the Proxy waits for it
    (route,) = proxy.snapshots.routes.values()
    stage.until(lambda: route.pause > 0.05, stage.loop)
    stage.until(lambda: has_all(stage, follower))


def test_a_stopped_process_ends_up_with_the_true_tree(stage):
    proxy = stage.start()
    program = (
        "import sys\n"
        "from raspy.common.kvcliapi import KvSubscriberClient\n"
        "class Client(KvSubscriberClient):\n"
        "    def on_change(self, key, body):\n"
        "        if key == '/variable/ask':\n"
        "            print(hash(frozenset(self.tree.items())), flush=True)\n"
        "client = Client('pi', '/variable/', sys.argv[1])\n"
        "client.run()\n"
    )
    env = {**os.environ, "PYTHONHASHSEED": "0"}
    child = subprocess.Popen([sys.executable, "-c", program, stage.address], stdout=subprocess.PIPE, env=env, text=True)
    try:
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.extend(iter(child.stdout.readline, "")))
        reader.start()

        def answers():
            proxy.update("/variable/ask", os.urandom(4).hex().encode())
            return len(lines) > before

        before = 0
        stage.until(answers, stage.loop)
        child.send_signal(signal.SIGSTOP)
        writer = stage.connect(zmq.PUSH, COLLECTOR)
        while not proxy.updates.lossy:
            stage.publish(writer, *[update(f"/variable/{n}", os.urandom(200)) for n in range(2000)])
        stage.publish(writer, *[update(f"/variable/{n}", b"") for n in range(0, 2000, 2)])
        child.send_signal(signal.SIGCONT)
        digest = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import json, sys\n"
                "print(hash(frozenset((k, bytes.fromhex(v)) for k, v in json.load(sys.stdin).items())))",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=env,
            text=True,
        )
        proxy.update("/variable/ask", b"final")
        tree = {k: v.hex() for k, v in stage.tree().items() if k.startswith("/variable/")}
        expected = digest.communicate(json.dumps(tree))[0].strip()

        def agrees():
            # the same value again: each is an update, so each is answered
            proxy.update("/variable/ask", b"final")
            return expected in (line.strip() for line in lines)

        stage.until(agrees, stage.loop)
        assert len(tree) == 1001
    finally:
        child.kill()
        child.wait()
        reader.join()
        child.stdout.close()


@pytest.mark.parametrize("step", [-1_000_000_000, 1])
def test_a_restarted_proxy_gets_everything_again(stage, monkeypatch, step):
    """Also when the clock was set back between."""
    monkeypatch.setattr(kvsubscriber, "SETTLE", 1000.0)
    clock = proxy_module.wall_us()
    monkeypatch.setattr(proxy_module, "wall_us", lambda: clock)
    proxy = stage.start()
    epochs = []
    publishers = [stage.publisher() for _ in range(2)]
    publishers[0].on_epoch = lambda: epochs.append("back")
    for number, publisher in enumerate(publishers):
        for index in range(200):
            publisher.send(f"/device/h{number}.s.d{index}/t", READING)
        publisher.send(f"/variable/{number}", b"%d" % number)
        publisher.send(f"/event/happened/{number}", b"once")
        publisher.send(f"/variable/gone{number}", b"1")
        publisher.send(f"/variable/gone{number}", b"")
    proxy.update("/server/pi.broker", b"{}")
    followers = [Follower(stage, subtree) for subtree in ("", "/device", "/device/h1.", "/variable/")]
    stage.until(lambda: len(stage.tree()) == 405 and has_all(stage, *followers))
    for follower in followers:
        follower.changes.clear()
    proxy.stop()
    clock += step
    publishers[0].send("/device/h0.s.d0/t", b'{"quality": "error", "reason": "while it was away"}')
    publishers[0].send("/device/h0.s.d1/t", b"")
    stage.start()
    # the publishers have as long as a busy machine needs, then what the new Proxy lacks is gone
    stage.until(lambda: len(stage.tree()) == 401 and all(is_renewed(stage, follower) for follower in followers))
    for follower in followers:
        follower.subscriber.replica.settle()
    stage.until(lambda: has_all(stage, *followers))
    # each may be told again once, as an update; nothing vanished and came back
    assert {body for _, body in followers[2].changes} <= {READING}
    deleted = [key for key, body in followers[0].changes if not body]
    assert sorted(deleted) == [
        "/device/h0.s.d1/t",
        "/event/happened/0",
        "/event/happened/1",
        "/server/pi.broker",
    ]
    assert epochs == ["back"]


def test_only_what_differs_is_a_change_after_a_restart(stage, monkeypatch):
    monkeypatch.setattr(kvsubscriber, "SETTLE", 0.5)
    proxy = stage.start()
    for index in range(50):
        proxy.update(f"/variable/{index}", b"same")
    follower = Follower(stage)
    stage.until(lambda: has_all(stage, follower))
    follower.changes.clear()
    proxy.stop()
    proxy = stage.start()
    for index in range(1, 50):
        proxy.update(f"/variable/{index}", b"same")
    proxy.update("/variable/1", b"other")
    stage.until(lambda: has_all(stage, follower))
    # What is gone comes first when the snapshot took longer than that.
    assert sorted(follower.changes) == [("/variable/0", b""), ("/variable/1", b"other")]


def test_a_silent_proxy_is_lost_until_it_speaks_again(stage):
    stage.start()
    follower = Follower(stage, speed=2.0)
    stage.until(lambda: follower.live)
    stage.until(lambda: follower.subscriber.state == "lost", follower.loop)
    stage.until(lambda: follower.live)
    assert follower.states == ["live", "lost", "live"]


def test_an_unanswered_snapshot_is_asked_for_again(stage):
    proxy = stage.start()
    proxy.update("/variable/a", b"1")
    take, requests = proxy.snapshots._begin, []
    proxy.snapshots._begin = requests.append
    follower = Follower(stage, speed=20.0)
    stage.until(lambda: len(requests) >= 2)
    assert follower.subscriber.state == "connecting"
    proxy.snapshots._begin = take
    stage.until(lambda: has_all(stage, follower))


def test_a_subscriber_without_a_socket_for_its_snapshot_asks_later(stage):
    proxy = stage.start()
    proxy.update("/variable/a", b"1")
    follower = Follower(stage, "/variable/")
    stage.until(lambda: has_all(stage, follower))
    taken = []
    try:
        # no descriptor is free looks the same
        while True:
            taken.append(follower.loop.ctx.socket(zmq.PAIR))
    except zmq.ZMQError:
        pass
    follower.subscriber.replica.wants_snapshot = True
    try:
        stage.until(lambda: follower.states[-1] == "lost")
        assert not follower.subscriber.replica.exact
    finally:
        for socket in taken:
            socket.close(linger=0)
    proxy.update("/variable/b", b"2")
    stage.until(lambda: has_all(stage, follower))
    assert follower.states == ["live", "lost", "live"]
    assert follower.loop.errors == 0


def test_a_handler_that_fails_costs_only_itself(stage):
    proxy = stage.start()
    loop = stage.new_loop()
    subscriber = KvSubscriber(loop, "", lambda key, body: 1 / 0, lambda state: 1 / 0)
    stage.closers.append(subscriber.close)
    for index in range(5):
        proxy.update(f"/variable/{index}", b"1")
    stage.until(lambda: subscriber.tree == stage.tree() and subscriber.state == "live")
    assert loop.errors == 6


def test_a_closed_subscriber_is_quiet(stage):
    proxy = stage.start()
    follower = Follower(stage)
    stage.until(lambda: follower.live)
    follower.subscriber.close()
    follower.subscriber.close()
    proxy.update("/variable/a", b"1")
    other = Follower(stage)
    stage.until(lambda: has_all(stage, other))
    assert follower.changes == []


# Publishing


def test_a_publisher_waits_for_the_proxy_with_the_latest_values(stage):
    publisher = stage.publisher()
    for number in range(5000):
        publisher.send(f"/variable/{number % 10}", b"%d" % number)
        publisher.send("/event/a/b", b"%d" % number)
    assert publisher.waiting == 10 + kvpublisher.MOST_EVENTS
    assert publisher.dropped == 5000 - kvpublisher.MOST_EVENTS
    proxy = stage.start()
    stage.until(lambda: len(stage.tree()) == 11)
    stage.until(lambda: publisher.waiting == 0 and stage.tree()["/event/a/b"] == b"4999")
    assert stage.tree()["/variable/9"] == b"4999"
    assert proxy.sequence - proxy.epoch == 10 + kvpublisher.MOST_EVENTS


def test_a_publisher_does_not_wait_for_a_proxy_that_stands_still(stage):
    stage.start()
    publisher = stage.publisher()
    loop = publisher.loop
    stage.until(lambda: publisher.connected)
    number = 0
    while publisher.waiting < 5:
        number += 1
        publisher.send(f"/variable/{number % 5}", b"%d" % number + b" " * 1000)
        if number % 100 == 0:
            loop.turn(0)
    last = {f"/variable/{n % 5}": b"%d" % n for n in range(number - 4, number + 1)}
    stage.until(lambda: {key: body.strip() for key, body in stage.tree().items()} == last)


def test_an_old_reading_is_not_young_again_after_a_restart(stage, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(kvpublisher, "monotonic", lambda: now[0])
    proxy = stage.start()
    publisher = stage.publisher()
    publisher.send("/device/a/t", READING)
    publisher.send("/device/b/t", b'{"value": 1, "quality": "ok", "max_age": 700}')
    publisher.send("/device/c/t", b'{"quality": "error", "reason": "no answer"}')
    publisher.send("/variable/d", READING)
    stage.until(lambda: len(stage.tree()) == 4)
    proxy.stop()
    now[0] += 699.9
    stage.start()
    stage.until(lambda: len(stage.tree()) == 4)
    assert json.loads(stage.tree()["/device/a/t"])["quality"] == "stale"
    assert json.loads(stage.tree()["/device/c/t"])["quality"] == "error"
    assert stage.tree()["/variable/d"] == READING
    stage.until(lambda: json.loads(stage.tree()["/device/b/t"])["quality"] == "stale")
    assert json.loads(stage.tree()["/device/b/t"])["last"] == 1


@pytest.mark.parametrize(
    ("key", "body"),
    [("", b"x"), ("HUGZ", b"x"), ("/a\n", b"x"), ("/" + "x" * 512, b"x"), ("/a", bytes(1 << 20) + b"x")],
)
def test_what_the_proxy_would_refuse_is_refused_here(stage, key, body):
    publisher = stage.publisher()
    with pytest.raises(ProtocolError):
        publisher.send(key, body)
    assert publisher.waiting == 0
    publisher.close()
    publisher.close()


def test_deletions_that_are_kept_are_bounded(stage):
    publisher = stage.publisher()
    for number in range(3 * kvpublisher.MOST_DELETED):
        publisher.send(f"/variable/{number}", b"1")
        publisher.send(f"/variable/{number}", b"")
    assert len(publisher._deleted) == kvpublisher.MOST_DELETED
    assert not publisher._kept


# Without a loop


def served(stage):
    """The Proxy's loop on a thread, for what blocks."""
    thread = threading.Thread(target=stage.loop.run)
    thread.start()
    return thread


def test_blocking_clients_and_snapshot(stage):
    stage.start()
    thread = served(stage)
    publisher = KvPublisherClient("pi", stage.address)
    changed = threading.Event()
    subscriber = KvSubscriberClient("pi", "/variable", stage.address, speed=2.0)

    def on_change(key, body):
        if (key, body) == ("/variable/b", b"2"):
            changed.set()

    subscriber.on_change = on_change
    follower = threading.Thread(target=subscriber.run)
    follower.start()
    try:
        publisher.send("/variable", "a", "ü")
        publisher.send("/variable/", "/b", b"2")
        publisher.send("", "c", b"3")
        assert changed.wait(20)
        publisher.destroy()
        publisher.destroy()
        tree = {"/variable/a": "ü".encode(), "/variable/b": b"2"}
        assert snapshot(stage.address, 5514, "/variable") == tree == subscriber.tree
        assert snapshot(stage.address, 5514, "") == {**tree, "c": b"3"}
        assert snapshot(stage.address, 5514, "/none/") == {}
    finally:
        subscriber.shutdown()
        follower.join()
        subscriber.destroy()
        stage.loop.shutdown()
        thread.join()


def test_what_was_sent_arrives_though_the_client_is_destroyed_at_once(stage):
    stage.start()
    thread = served(stage)
    try:
        publisher = KvPublisherClient("pi", stage.address)
        for number in range(50):
            publisher.send("/variable", str(number), b"1")
        publisher.destroy()
        follower = Follower(stage, "/variable/")
        stage.until(lambda: len(follower.mirror) == 50, follower.loop)
    finally:
        stage.loop.shutdown()
        thread.join()


def test_nobody_is_there(stage):
    with pytest.raises(ConnectionLost, match="is the broker running"):
        snapshot(stage.address, 5514, "", timeout=0.05)
    publisher = KvPublisherClient("pi", stage.address)
    publisher.timeout = 0.05
    with pytest.raises(ConnectionLost, match="is the broker running"):
        publisher.send("/variable", "a", "1")
    publisher.destroy()
    subscriber = KvSubscriberClient("pi", "", stage.address)
    subscriber.destroy()
    subscriber.destroy()
