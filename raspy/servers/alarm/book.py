"""All alarms: raised, over, acknowledged and shelved, and shown on the tree."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from raspy.common import MDP
from raspy.servers.alarm import shelves
from raspy.servers.alarm.alarms import ACKNOWLEDGED, ACTIVE, NORMAL, RETURNED, SHELVED, STATES, Alarm, Kept
from raspy.servers.alarm.causes import Verdict
from raspy.servers.alarm.record import Record
from raspy.servers.alarm.rules import DOWN, FLAPPING, ITSELF, NOTIFY, Rule, apart, named
from raspy.servers.alarm.showing import Dict, body, change_of, event_of, listed, telling_of
from raspy.servers.alarm.store import Change, Key
from raspy.servers.alarm.watch import NOBODY, NOT_UP

if TYPE_CHECKING:
    from raspy.servers.alarm.server import Alarm as AlarmServer

MOST = 2000
"""Alarms that are not normal, or about to be."""
MOST_TOLD = 200
"""Of these, what scenarios tell."""
GAP = 10.0
"""Seconds from one time that a scenario tells to the next: what comes in between is told together."""
BACK = 5.0
"""Seconds for which a cause must be away before an alarm is over, so that it does not chatter."""
LOOKS = 60.0
"""Seconds between looks whether the wall clock was set."""
REMOVED, OVER = "its value was removed", "it is over"


class Book:
    """The alarms of the server.

    :param server: whose clock, tree and voice are used
    :param path: the file; None: nothing outlives the server
    """

    def __init__(self, server: AlarmServer, path: str | None) -> None:
        self.server = server
        self.back, self.gap = BACK, GAP
        self.most = MOST
        self.most_told = MOST_TOLD
        self.alarms: dict[Key, Alarm] = {}
        """Those that are not normal, or about to be; by the name of their definition and their key."""
        self.record = Record(server, path)
        self.record.on_recovered = self._rewrite
        self.names: dict[str, Alarm] = {}
        self._pending: dict[Key, Alarm] = {}
        self.shelved: dict[Key, Alarm] = {}
        self._loaded: dict[Key, Kept] = {}
        self._refused: dict[Key, None] = {}
        """Alarms for which there was no room, to be judged again when there is."""
        self._full = self._more = False
        """Some are refused; and even more of them than are remembered."""
        self._looked = time.monotonic()

    # From start to end

    def load(self, rules: dict[str, Rule]) -> None:
        """Take up what was kept.

        :raises raspy.common.database.InUse: another process has the file
        """
        self._loaded = dict(self.record.load(self._late))
        self.adopt(rules)

    def start(self) -> None:
        """Tell what the server before this one has not."""
        for key, alarm in list(self.alarms.items()):
            if alarm.kept.to_tell:
                self.record.tell(key, alarm)

    def _late(self, rows: list[tuple[Key, Kept]]) -> None:
        self._loaded = {key: kept for key, kept in rows if key not in self.alarms}
        self.adopt(self.server.watch.rules)

    def _rewrite(self) -> None:
        for key, alarm in self.alarms.items():
            if not alarm.idle:
                self.record.keep(key, alarm)

    def close(self) -> None:
        """Write what waits, and let go of the file."""
        self.record.close()

    def adopt(self, rules: dict[str, Rule]) -> None:
        """Have the alarms of these definitions and no others: what was kept of them is taken up, what has none is
        over."""
        loaded, self._loaded = self._loaded, {}
        for key, kept in loaded.items():
            rule = rules.get(key[0])
            if rule is None or not _is_of(rule, key[1]):
                self.record.keep(key, None)
                continue
            alarm = self.add(rule, key[1], kept)
            if alarm is None:
                continue
            if kept.shelf is not None:
                self.shelved[key] = alarm
                if shelves.take_up(self.server.clock, kept.shelf):
                    self.record.keep(key, alarm)
            self._show(alarm)
        for key, alarm in list(self.alarms.items()):
            rule = rules.get(key[0])
            if rule is None or not _is_of(rule, key[1]):
                self._drop(key, alarm, "its definition is deleted" if rule is None else "its definition is another one")
            elif rule is not alarm.rule:
                alarm.rule = rule
                self._calm(alarm)
                self._show(alarm)

    # What the tree says

    def find(self, rule: Rule, key: str) -> Alarm | None:
        """The alarm of a definition for a key, if there is one."""
        return self.alarms.get((rule.name, key))

    def judged(self, rule: Rule, key: str, verdict: Verdict, again: bool = False) -> None:
        """What is known of a cause now: raise it, or have it over, once that has lasted.

        :param again: it is no other reading than before
        """
        alarm = self.alarms.get((rule.name, key))
        if alarm is None:
            alarm = self.add(rule, key) if verdict.wrong else None
        if alarm is None or verdict.wrong is None:
            # What cannot be told ends nothing, not even that something has lasted so far.
            return
        kept, wrong, now = alarm.kept, verdict.wrong, time.monotonic()
        event = wrong and verdict.mark is not None
        if event and not kept.on and verdict.mark == kept.mark:
            wrong = event = False  # Somebody knows of this event.
        flaps = rule.settings.kind in FLAPPING
        if flaps:
            if alarm.well(now, self.back) and wrong and not kept.on:
                alarm.pending = None
            alarm.read(wrong, now, again)
        anew = event and kept.on and verdict.mark != kept.mark
        if wrong == kept.on and not (anew and rule.settings.kind == NOTIFY):
            if anew:
                kept.mark = verdict.mark
                self.record.keep(alarm.place, alarm)
            if not flaps or wrong or alarm.well(now, self.back):
                self._calm(alarm)
            return
        if alarm.pending is None:
            alarm.pending = now
            alarm.due = now + (rule.settings.delay if wrong else self.back)
            if rule.settings.kind == NOTIFY:
                alarm.due = max(now, alarm.raised + self.gap)
        if now < alarm.due or (flaps and not wrong and not alarm.well(now, self.back)):
            self._pending[rule.name, key] = alarm
            return
        before = alarm.state
        if wrong:
            self._rise(alarm, verdict)
        else:
            alarm.fall(verdict.value, verdict.unit, "")
        self.changed(alarm, before, again=anew and before != SHELVED)
        self._calm(alarm)

    def _rise(self, alarm: Alarm, verdict: Verdict) -> None:
        reason = verdict.reason
        if alarm.rule.settings.kind == NOTIFY:
            reason = alarm.hear(verdict.label, verdict.severity, reason)
        if verdict.mark is not None:
            alarm.kept.mark = verdict.mark
        alarm.raised = time.monotonic()
        alarm.rise(verdict.value, verdict.unit, reason)

    def gone(self, key: str, removed: bool) -> None:
        """A key is not on the tree any more.

        :param removed: somebody has deleted it, so that what was wrong with it is over; else it may come back
        """
        for name in self.server.watch.rules:
            alarm = self.alarms.get((name, key))
            if alarm is not None:
                if removed:
                    self._removed(alarm)
                self._calm(alarm)

    def rest(self) -> None:
        """Nothing is known of any value now: what has to last begins anew."""
        for alarm in list(self._pending.values()):
            if alarm.key.startswith("/") and alarm.rule.settings.kind != "disk":
                self._calm(alarm)

    def tick(self) -> None:
        """Do what is due. Called about every second."""
        now, clock = time.monotonic(), self.server.clock
        for alarm in [alarm for alarm in self._pending.values() if now >= alarm.due]:
            self.server.guard(self._judge, alarm)
        for alarm in [each for each in self.shelved.values() if _left(each, clock) <= 0]:
            self.unshelve(alarm, "its time is over", "")
        self.record.tick()
        if now >= self._looked + LOOKS:
            self._looked = now
            for key, alarm in self.shelved.items():
                if alarm.kept.shelf is not None and shelves.follow(clock, alarm.kept.shelf):
                    self._show(alarm)
                    self.record.keep(key, alarm)
        if self._full:
            self._look_for_room()

    def _judge(self, alarm: Alarm) -> None:
        verdict = self.server.judge(alarm.rule, alarm.key, alarm.kept.on, True)
        self.judged(alarm.rule, alarm.key, verdict, again=True)

    def _removed(self, alarm: Alarm) -> None:
        kept, before, rule = alarm.kept, alarm.state, alarm.rule
        if kept.on and (rule.cause == DOWN or rule.settings.kind == NOTIFY or kept.reason in (NOBODY, NOT_UP)):
            return  # A broker may forget a server that is down, and events; and what is not there was never there.
        kept.mark = None
        if kept.on:
            alarm.fall(None, "", REMOVED, forget=True)
            self.changed(alarm, before)
        else:
            self.record.keep(alarm.place, alarm)

    def unshelve(self, alarm: Alarm, reason: str, by: str) -> None:
        """Tell of an alarm again, from now on."""
        self.shelved.pop(alarm.place, None)
        alarm.unshelve(by)
        if reason and not alarm.kept.on:
            alarm.kept.reason = reason
        self.changed(alarm, SHELVED)

    # What there is

    def listed(self, alarms: Iterable[Alarm] | None = None) -> list[Dict]:
        """Alarms as the tree shows them with their names, the most urgent first; those that are normal left out."""
        return listed(self.alarms.values() if alarms is None else alarms, self.server.clock.wall())

    def counts(self) -> dict[str, int]:
        """How many alarms are in each state, but normal."""
        found = dict.fromkeys(STATES[:-1], 0)
        for alarm in self.alarms.values():
            if alarm.state in found:
                found[alarm.state] += 1
        return found

    # Inside

    def add(self, rule: Rule, key: str, kept: Kept | None = None) -> Alarm | None:
        """Another alarm; None when there is no room for it, or another one has its name."""
        place = rule.name, key
        if place in self.alarms:
            return self.alarms[place]
        name = named(rule, key)
        if name in self.names:
            # As of the keys a.b/c and a/b.c.
            name = apart(name, key)
        if not self._has_room(rule) or name in self.names:
            self._refuse(place, name)
            return None
        alarm = self.alarms[place] = self.names[name] = Alarm(name, rule, key, kept)
        return alarm

    def _has_room(self, rule: Rule) -> bool:
        if len(self.alarms) >= self.most:
            return False
        if rule.settings.kind != NOTIFY:
            return True
        return sum(1 for alarm in self.alarms.values() if alarm.rule.settings.kind == NOTIFY) < self.most_told

    def _refuse(self, place: Key, name: str) -> None:
        if len(self._refused) < self.most:
            self._refused[place] = None
        elif place not in self._refused:
            self._more = True
        if not self._full:
            self._full = True
            self.server.condition(
                "too many",
                f"there are {len(self.alarms)} alarms: more are not told of, as {name[:100]}; see what is wrong first, "
                "or have fewer definitions active",
            )

    def _look_for_room(self) -> None:
        """Have those judged again for which there was no room, when there may be some."""
        watch = self.server.watch
        if not watch.settled or watch.busy:
            return
        for alarm in [each for each in self.alarms.values() if each.state == NORMAL and each.key not in watch.tree]:
            # Events of which somebody knows, and which nobody will repeat.
            if alarm.pending is None and not alarm.kept.to_tell:
                alarm.kept.mark = None
                self.record.keep(alarm.place, alarm)
                self.settle(alarm)
        refused, more = self._refused, self._more
        if not refused and not more:
            self._full = False
            self.server.condition("too many", None)
        elif any(self._has_room(rule) for name, _ in refused if (rule := watch.rules.get(name)) is not None):
            self._refused, self._more = {}, False
            watch.soon(
                [key for key in (watch.tree if more else dict.fromkeys(key for _, key in refused)) if key in watch.tree]
            )
        else:
            self._refused = {place: None for place in refused if place[0] in watch.rules and place[1] in watch.tree}

    def _calm(self, alarm: Alarm) -> None:
        """It is as it was: nothing has to last."""
        alarm.pending = None
        self._pending.pop(alarm.place, None)
        self.settle(alarm)

    def settle(self, alarm: Alarm) -> None:
        """Have an alarm no more of which nothing is to be known any more."""
        place = alarm.rule.name, alarm.key
        if alarm.idle and self.alarms.get(place) is alarm:
            del self.alarms[place], self.names[alarm.name]

    def _drop(self, key: Key, alarm: Alarm, reason: str) -> None:
        """An alarm is none any more, whatever it is."""
        if alarm.state != NORMAL:
            alarm.kept.reason, alarm.kept.by = reason, ""
            change = self._change(alarm, NORMAL)
            self.server.event("alarm", alarm.name, **event_of(change))
            self.record.keep(key, None, change)
        else:
            self.record.keep(key, None)
        alarm.kept = Kept()
        self._show(alarm)
        for places in (self.alarms, self._pending, self.shelved):
            places.pop(key, None)
        self.names.pop(alarm.name, None)

    def changed(self, alarm: Alarm, before: str, again: bool = False, telling: str = "") -> None:
        """An alarm may be in another state: show it, have it kept, and told.

        :param again: even if it is the same state
        :param telling: what is told of it; empty: what follows from the states
        """
        state, kept, place = alarm.state, alarm.kept, alarm.place
        if state == before and not again:
            change = None
            if state == SHELVED:
                change = self._change(alarm, state)
                change.reason = change.reason or OVER
                self.server.event("alarm", alarm.name, **event_of(change))
            self._show(alarm)
            self.record.keep(place, alarm, change)
            return
        kept.since = round(self.server.clock.wall(), 3)
        if state not in (ACKNOWLEDGED, SHELVED) and before != SHELVED and not (state == NORMAL and before == RETURNED):
            kept.by = ""
        telling = telling or telling_of(before, state)
        known = kept.told or kept.to_tell
        if telling == ACTIVE or (telling and known):
            kept.to_tell = telling
        elif state == NORMAL:
            kept.told = kept.to_tell = ""
        change = self._change(alarm, state)
        MDP.logger.warning("alarm %s: %s%s", alarm.name, state, f": {kept.reason}" if kept.reason else "")
        self._show(alarm)
        self.server.event("alarm", alarm.name, **event_of(change))
        self.record.keep(place, alarm, change)
        self.settle(alarm)

    def _show(self, alarm: Alarm) -> None:
        if alarm.state != NORMAL:
            alarm.shown = True
            self.server.publish(f"/alarm/{alarm.name}", body(alarm, self.server.clock.wall()))
        elif alarm.shown:
            alarm.shown = False
            self.server.publish(f"/alarm/{alarm.name}", b"")

    def _change(self, alarm: Alarm, state: str) -> Change:
        return change_of(alarm, state, self.server.clock.wall())


def _is_of(rule: Rule, key: str) -> bool:
    """Whether a definition can have an alarm for a key."""
    if rule.settings.kind in (ITSELF, "disk"):
        return rule.settings.active and key == rule.settings.key
    return rule.fits(key)


def _left(alarm: Alarm, clock: Any) -> float:
    return shelves.left(clock, alarm.kept.shelf) if alarm.kept.shelf is not None else 0.0
