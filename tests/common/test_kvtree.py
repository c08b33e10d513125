"""The copy of a subtree against a model of Proxy and network: drops, repeats, restarts, any interleaving."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from raspy.common.kvsimple import Heartbeat, top
from raspy.common.kvtree import Replica

KEYS = ["/device/a", "/device/b", "/device/ab", "/deviceful/a", "/event/x", "bare"]


class Machine(RuleBasedStateMachine):
    """``self.tree`` is the Proxy's; ``self.channel`` is what it published and has not arrived."""

    @initialize(subtree=st.sampled_from(["", "/", "/device", "/device/", "/device/a", "/event/", "ba"]))
    def begin(self, subtree):
        self.mirror: dict[str, bytes] = {}
        self.replica = Replica(subtree, self.changed)
        self.in_snapshot = False
        self.channel: list[tuple] = []
        self.asked = False
        self.snapshot: list | None = None
        self.number = 0
        self.epochs: set[int] = set()
        self.start(1_000_000)

    def start(self, epoch):
        while epoch in self.epochs:
            epoch += 1
        self.epochs.add(epoch)
        self.epoch = self.sequence = epoch
        self.tree: dict[str, tuple[int, bytes]] = {}
        self.count: dict[str, int] = {}

    def changed(self, key, body):
        if self.in_snapshot:
            assert self.mirror.get(key, b"") != body
        if body:
            self.mirror[key] = body
        else:
            del self.mirror[key]

    @rule(key=st.sampled_from(KEYS), delete=st.booleans())
    def publish(self, key, delete):
        self.number += 1
        body = b"" if delete else b"%d" % (self.number % 3)
        if not delete or key in self.tree:
            self.sequence += 1
            self.count[top(key)] = self.count.get(top(key), 0) + 1
            self.channel.append(("update", self.epoch, self.sequence, key, body))
            if delete:
                del self.tree[key]
            else:
                self.tree[key] = (self.sequence, body)

    @rule()
    def heartbeat(self):
        self.channel.append(("heartbeat", self.epoch, self.sequence, dict(self.count), b""))

    @rule(step=st.sampled_from([-500, -1, 1, 500]))
    def restart(self, step):
        """The clock may have been set back; requests that wait are answered by the new Proxy."""
        self.start(self.sequence + step)
        self.snapshot = None
        self.heartbeat()

    @precondition(lambda self: self.channel)
    @rule(lost=st.sampled_from([0, 0, 0, 1, 3]), twice=st.booleans())
    def deliver(self, lost, twice):
        del self.channel[:lost]
        if self.channel:
            message = self.channel.pop(0)
            for _ in range(1 + twice):
                self.take(message)

    def take(self, message):
        kind, epoch, sequence, what, body = message
        before = self.replica.epoch
        if kind == "update":
            self.replica.update(what, sequence, body)
            return
        self.replica.heartbeat(sequence, Heartbeat(epoch, what))
        if before != self.replica.epoch:
            self.asked = False
            self.snapshot = None
        if self.replica.wants_snapshot and not self.asked and self.snapshot is None:
            self.ask()

    @precondition(lambda self: self.asked or self.snapshot is not None)
    @rule()
    def ask(self):
        """Ask for the first time, or again after nothing came for a while."""
        self.replica.begin()
        self.asked = True
        self.snapshot = None

    @precondition(lambda self: self.asked)
    @rule()
    def answer(self):
        """The Proxy begins the snapshot."""
        self.asked = False
        self.snapshot = [self.sequence, [key for key in self.tree if key.startswith(self.replica.subtree)]]

    @precondition(lambda self: self.snapshot is not None)
    @rule()
    def entry(self):
        """One entry, as it is now; or the end."""
        sequence, keys = self.snapshot
        while keys:
            key = keys.pop(0)
            if key in self.tree:
                self.replica.entry(key, *self.tree[key])
                return
        self.snapshot = None
        self.in_snapshot = True
        self.replica.finish(sequence)
        self.in_snapshot = False
        if self.replica.wants_snapshot:
            self.ask()

    @rule()
    def settle(self):
        self.replica.settle()

    @invariant()
    def follows(self):
        if hasattr(self, "mirror"):
            assert self.mirror == self.replica.tree

    def teardown(self):
        """Whatever happened: the next heartbeat, and what it asks for, mends it all."""
        if not hasattr(self, "mirror"):
            return
        self.heartbeat()
        while self.channel:
            self.take(self.channel.pop(0))
        for _ in range(3):
            if self.asked:
                self.answer()
            while self.snapshot is not None:
                self.entry()
        self.replica.settle()
        assert self.replica.exact
        expected = {key: body for key, (_, body) in self.tree.items() if key.startswith(self.replica.subtree)}
        assert self.replica.tree == expected
        assert self.mirror == expected


TestReplica = Machine.TestCase
TestReplica.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize(
    ("subtree", "prefix", "topic"),
    [
        ("", "", ""),
        ("/", "/", ""),
        ("/device", "/device/", "/device/"),
        ("/device/", "/device/", "/device/"),
        ("/device/pi.", "/device/pi.", "/device/"),
        ("plain", "plain", ""),
    ],
)
def test_subtrees(subtree, prefix, topic):
    replica = Replica(subtree, lambda key, body: None)
    assert (replica.subtree, replica.topic) == (prefix, topic)


def copy(subtree="/device"):
    """A copy that is exact and empty, and its changes."""
    changes: list[tuple[str, bytes]] = []
    replica = Replica(subtree, lambda key, body: changes.append((key, body)))
    replica.heartbeat(10, Heartbeat(10, {"device": 0}))
    replica.begin()
    replica.finish(10)
    return replica, changes


def test_a_loss_in_the_middle_is_seen():
    replica, _ = copy()
    replica.update("/device/a", 11, b"1")
    replica.update("/device/a", 13, b"3")
    replica.heartbeat(13, Heartbeat(10, {"device": 3}))
    assert replica.wants_snapshot


def test_updates_of_other_subtrees_are_no_loss():
    replica, _ = copy()
    replica.update("/device/a", 15, b"1")
    replica.heartbeat(20, Heartbeat(10, {"device": 1, "event": 9}))
    assert replica.exact


def test_the_same_value_in_a_snapshot_is_no_change():
    replica, changes = copy()
    replica.update("/device/a", 11, b"1")
    replica.update("/device/b", 12, b"1")
    del changes[:]
    replica.begin()
    replica.entry("/device/a", 13, b"1")
    replica.finish(13)
    assert changes == [("/device/b", b"")]


def test_a_new_epoch_keeps_what_is_published_again():
    replica, changes = copy()
    for sequence, key in enumerate(["/device/a", "/device/b", "/device/c"], 11):
        replica.update(key, sequence, b"1")
    del changes[:]
    replica.heartbeat(5, Heartbeat(5, {"device": 0}))
    assert replica.wants_snapshot
    replica.begin()
    replica.finish(5)
    assert changes == []
    replica.update("/device/a", 6, b"1")
    replica.update("/device/b", 7, b"2")
    replica.settle()
    assert changes == [("/device/a", b"1"), ("/device/b", b"2"), ("/device/c", b"")]
    assert replica.tree == {"/device/a": b"1", "/device/b": b"2"}


def test_a_name_that_shares_its_count_never_misses_a_loss():
    replica, _ = copy("/rare")
    replica.heartbeat(12, Heartbeat(10, {"device": 0, "*": 2}))
    assert replica.wants_snapshot


def test_too_many_deletions_in_a_snapshot_take_another(monkeypatch):
    monkeypatch.setattr("raspy.common.kvtree.MOST_DELETED", 2)
    replica, _ = copy()
    for number in range(3):
        replica.update(f"/device/{number}", 11 + number, b"1")
    replica.begin()
    for number in range(3):
        replica.update(f"/device/{number}", 14 + number, b"")
    replica.finish(13)
    assert replica.wants_snapshot


def test_a_key_that_is_new_since_the_snapshot_began_stays():
    replica, changes = copy()
    replica.begin()
    replica.update("/device/new", 12, b"1")
    replica.finish(11)
    assert replica.tree == {"/device/new": b"1"}
    assert changes == [("/device/new", b"1")]


def test_a_key_that_was_deleted_since_the_snapshot_began_stays_away():
    replica, _ = copy()
    replica.begin()
    replica.entry("/device/a", 11, b"1")
    replica.update("/device/a", 12, b"")
    replica.finish(11)
    assert replica.tree == {}


def test_a_loss_while_a_snapshot_comes_takes_another():
    replica, _ = copy()
    replica.begin()
    replica.heartbeat(12, Heartbeat(10, {"device": 2}))
    assert not replica.wants_snapshot
    replica.finish(10)
    assert replica.wants_snapshot
    assert not replica.exact
