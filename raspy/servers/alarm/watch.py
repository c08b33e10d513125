"""Follows the tree, and judges what changes there by the definitions."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from raspy.common.kvsubscriber import SETTLE, KvSubscriber
from raspy.servers.alarm.causes import BAD, GONE, UNKNOWN, Verdict, judge, server_in
from raspy.servers.alarm.rules import DEVICE, DOWN, ITSELF, NOTIFY, SERVER, Rule

if TYPE_CHECKING:
    from raspy.servers.alarm.server import Alarm

BATCH = 200
"""Keys that are judged in one turn of the loop when all are."""
GRACE = 60.0
"""Seconds after the tree came (back) in which a value that is not there may still come."""
STEADY = 10.0
"""Seconds that a server which is back has for publishing its values again."""
FIRST = 10.0
"""Seconds after the start in which the broker may still be on its way."""
MISSING = 300.0
"""Seconds that a value, or a server, which is wanted by its name may be missing."""
NOBODY = "there is no such value"
NOT_UP = "it is not there: it was not started, or ends at once"

Rules = tuple[Rule, ...]


class Watch:
    """Judges the tree.

    :param server: whose loop and alarms are used
    :param expected: servers that are to be up, as they stand on the tree
    """

    def __init__(self, server: Alarm, expected: Iterable[str] = ()) -> None:
        self.server = server
        self.grace, self.steady, self.missing, self.first = GRACE, STEADY, MISSING, FIRST
        self.expected = tuple(expected)
        self.subscriber: KvSubscriber | None = None
        self.rules: dict[str, Rule] = {}
        """All definitions that can be used, by name."""
        self.changes = 0
        """Changes of the tree that a definition watches, since the start."""
        self._fitting: dict[str, Rules] = {}
        """The definitions that watch a key."""
        self._same: dict[Rules, Rules] = {}
        self._down: dict[str, bool] = {}
        """Servers that are down, ``<host>.<server>``, or (False) were so a moment ago."""
        self._was_settled = False
        self._queue: dict[str, None] = {}
        """Keys that are to be judged soon."""
        self._working = False
        self._started = time.monotonic()
        self._live_since: float | None = None
        self._epoch: int | None = None
        self._epoch_since = -math.inf
        """When a broker that was started anew was first heard of (monotonic, s)."""
        self._absent: dict[tuple[str, str], float] = {}
        """What is wanted by its name and not there: definition and key, and since when."""

    def start(self) -> None:
        """Follow the tree."""
        self._started = time.monotonic()
        self.subscriber = KvSubscriber(self.server, "", self._changed, self._state)

    def close(self) -> None:
        """Follow it no more."""
        if self.subscriber is not None:
            self.subscriber.close()
            self.subscriber = None

    @property
    def live(self) -> bool:
        """Whether the tree is followed without a gap."""
        return self.subscriber is not None and self.subscriber.state == "live"

    @property
    def settled(self) -> bool:
        """Whether what is not on the tree by now is not there."""
        return self.live and self._live_since is not None and time.monotonic() >= self._live_since + self.grace

    @property
    def tree(self) -> dict[str, bytes]:
        """The copy of the tree."""
        return self.subscriber.tree if self.subscriber is not None else {}

    def set_rules(self, rules: dict[str, Rule]) -> None:
        """Have these definitions from now on."""
        before, self.rules = self.rules, rules
        self._fitting.clear()
        self._same.clear()
        for place in [place for place in self._absent if rules.get(place[0]) is not before.get(place[0])]:
            del self._absent[place]
        self.soon(self.tree)

    def keys_of(self, rule: Rule) -> list[str]:
        """The keys of the tree that a definition watches."""
        return [key for key in self.tree if rule.fits(key)]

    def judge(self, rule: Rule, key: str, engaged: bool, pending: bool) -> Verdict:
        """Whether the cause of an alarm is there now."""
        if rule.settings.kind == ITSELF:
            if not self.live and self._live_since is None and time.monotonic() < self._started + self.first:
                return UNKNOWN
            return Verdict(not self.live, None, "", "nothing is known of any value")
        if not self.live:
            return UNKNOWN
        body = self.tree.get(key)
        if body is None:
            return self._judge_absent(rule, key)
        kind = rule.settings.kind
        if kind in ("stale", "server") and not self.settled:
            # A broker that was started anew learns only now which servers there are, and what they publish.
            return UNKNOWN
        if kind == "stale" and self._is_told_of_server(key):
            return UNKNOWN
        return judge(rule, body, engaged or (pending and kind == "server"))

    def tick(self) -> None:
        """See what is not there. Called about every second."""
        self._look_at_epoch()
        if not self.live:
            self._judge_itself()
        if not self.settled:
            self._absent.clear()
            self._was_settled = False
            return
        if not self._was_settled:
            self._was_settled = True
            self.soon(self.tree)
        now = time.monotonic()
        for rule, key in self._wanted():
            place = rule.name, key
            if key in self.tree:
                self._absent.pop(place, None)
            elif now >= self._absent.setdefault(place, now) + self.missing:
                self._judge(rule, key)

    @property
    def busy(self) -> bool:
        """Whether there are keys that are still to be judged."""
        return bool(self._queue)

    def lost(self, rule: Rule, key: str) -> bool:
        """Whether what an alarm is of is nowhere, and need not be."""
        return (
            self.settled and key.startswith("/") and rule.settings.kind != "disk" and key not in self.tree
        ) and not self.judge(rule, key, True, False).wrong

    def absent(self, rule: Rule) -> bool:
        """Whether the one key that a definition watches is not on the tree."""
        return rule.exact and self.live and rule.settings.key not in self.tree

    def _wanted(self) -> list[tuple[Rule, str]]:
        """What must be there: keys that a definition names, and servers that are to run."""
        found = []
        for rule in self.rules.values():
            if not rule.settings.active:
                continue
            if rule.exact and rule.settings.kind not in ("output", "scenario", NOTIFY):
                found.append((rule, rule.settings.key))
            elif rule.cause == DOWN:
                found += [(rule, key) for name in self.expected if rule.fits(key := SERVER + name)]
        return found

    def _judge_absent(self, rule: Rule, key: str) -> Verdict:
        since = self._absent.get((rule.name, key))
        if since is None or time.monotonic() < since + self.missing:
            return UNKNOWN
        return Verdict(True, None, "", NOT_UP if key.startswith(SERVER) else NOBODY)

    def _is_told_of_server(self, key: str) -> bool:
        """Whether a value is stale because its server is down, which is an alarm of its own."""
        name = ".".join(key.removeprefix(DEVICE).split(".", 2)[:2])
        if name not in self._down:
            return False
        return any(rule.cause == DOWN and rule.fits(SERVER + name) for rule in self.rules.values())

    def _changed(self, key: str, body: bytes) -> None:
        if key.startswith(SERVER):
            self._note_server(key, body)
        if not body:
            self._look_at_epoch()
            self._queue.pop(key, None)
            if self._fitting.pop(key, ()):
                self.server.book.gone(key, self._is_removed())
            return
        rules = self.rules_of(key)
        if rules:
            self.changes += 1
            if self.live:
                # All keys are judged once it is.
                for rule in rules:
                    self._judge(rule, key)

    def _look_at_epoch(self) -> None:
        """See whether the broker was started anew, which may be so quick that nothing else tells."""
        epoch = self.subscriber.replica.epoch if self.subscriber is not None else None
        if epoch != self._epoch:
            if self._epoch is not None:
                self._epoch_since = time.monotonic()
                self._live_since = self._live_since and self._epoch_since
            self._epoch = epoch

    def _is_removed(self) -> bool:
        """Whether a key that is gone was deleted by somebody: a broker that was started anew has never heard of what
        is not published again."""
        return self.live and time.monotonic() >= self._epoch_since + max(self.grace, 2 * SETTLE)

    def _judge_itself(self) -> None:
        for rule in self.rules.values():
            if rule.settings.kind == ITSELF and rule.settings.active:
                self._judge(rule, "")

    def _judge(self, rule: Rule, key: str, again: bool = False) -> None:
        book = self.server.book
        alarm = book.find(rule, key)
        engaged, pending = (alarm.kept.on, alarm.pending is not None) if alarm is not None else (False, False)
        book.judged(rule, key, self.judge(rule, key, engaged, pending), again)

    def rules_of(self, key: str) -> Rules:
        """The definitions that watch a key; found once."""
        found = self._fitting.get(key)
        if found is None:
            found = tuple(rule for rule in self.rules.values() if rule.fits(key))
            # Most keys are watched by the same ones.
            found = self._fitting[key] = self._same.setdefault(found, found)
        return found

    def _note_server(self, key: str, body: bytes) -> None:
        name = key.removeprefix(SERVER)
        try:
            down = bool(body) and server_in(body).state in GONE
        except BAD:
            return
        if down:
            self._down[name] = True
        elif self._down.get(name):
            self._down[name] = False
            self.server.call_later(self.steady, self._server_is_back, name)

    def _server_is_back(self, name: str) -> None:
        """A server has been back for a moment: what it does not publish any more is to be told."""
        if not self._down.get(name, True):
            del self._down[name]
            self.soon(key for key in self.tree if key.startswith(f"{DEVICE}{name}."))

    def _state(self, state: str) -> None:
        """The tree has come, or is lost."""
        self._live_since = time.monotonic() if state == "live" else None
        if state == "live":
            self._look_at_epoch()
            self.soon(self.tree)
        else:
            self._queue.clear()
            self.server.book.rest()
        self._judge_itself()

    def soon(self, keys: Iterable[str]) -> None:
        """Have keys judged, some in each turn of the loop."""
        self._queue.update(dict.fromkeys(keys))
        if self._queue and not self._working:
            self._working = True
            self.server.call_later(0, self._work)

    def _work(self) -> None:
        self._working = False
        if not self.live:
            self._queue.clear()
            return
        for key in [key for _, key in zip(range(BATCH), self._queue, strict=False)]:
            del self._queue[key]
            for rule in self.rules_of(key):
                # What goes wrong with one costs the others nothing.
                self.server.guard(self._judge, rule, key, True)
        self.soon(())
