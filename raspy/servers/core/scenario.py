"""One scenario: what it is made of, how it runs, and what becomes of it when it fails.

===========  =======================================================================================================
``off``      it is fired by hand only
``idle``     it waits to be fired; one that runs from the start has come to its end
``running``
``stopping`` it was asked to end
``waiting``  it failed, and is started again soon, or as soon as the value that it lacks can be believed
``paused``   it kept failing, or cannot be used as it is; somebody has to look at it
===========  =======================================================================================================
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from raspy.common import MDP
from raspy.common.verbs import VerbError
from raspy.servers.core.calls import Calls
from raspy.servers.core.limits import Tail
from raspy.servers.core.parts import Conf, Entry, check_code, parse_conf, parse_entries
from raspy.servers.core.triggers import Cause, Change, Threshold

if TYPE_CHECKING:
    from raspy.common.executive import Timer
    from raspy.servers.core.child import Child, End
    from raspy.servers.core.server import Core
    from raspy.servers.core.state import State

SECTION = "scenario."
STATES = "state.scenario"

OFF, IDLE, RUNNING, STOPPING, WAITING, PAUSED = "off", "idle", "running", "stopping", "waiting", "paused"

FAILURES = 5
"""Failures in a row after which a scenario is paused."""
LONG = 60.0
"""Seconds of a run after which a failure is a new one, and not one more of the same."""
BACK_OFF, LONGEST_BACK_OFF = 1.0, 60.0
BURST, RATE = 20.0, 2.0
"""Starts of one scenario at once, and per second; those above wait for their turn."""
UNUSABLE = ("StaleValue", "ErrorValue", "NoValue")
"""Exceptions of a value that cannot be believed."""
SHOWN = 300
"""Characters of a reason."""
TELL = 0.5
"""Seconds between two publications of a scenario's state."""


class Scenario:
    """A scenario.

    :param name: its name, an id
    :param publisher: the core that it runs in; without one it cannot run
    """

    def __init__(self, name: str = "scenar1", publisher: Core | None = None) -> None:
        self.name = name
        self.code = ""
        self.conf: dict[str, Any] = {}
        self.entries: dict[str, Any] = {}
        self.output = Tail()
        """What it printed and logged last."""
        self.traceback = ""
        """Of its last failure."""
        self.state = OFF
        self.reason = ""
        self.since = time.time()
        self.cause: Cause = {}
        self.runs = 0
        self.failures = 0
        """Failures in a row."""
        self.last: dict[str, Any] | None = None
        """How the last run ended."""
        self.settings = Conf()
        self.keys: dict[str, Entry] = {}
        self._core = publisher
        self._child: Child | None = None
        self._calls: Calls | None = None
        self._began = 0.0
        self._triggers: list[Change | Threshold] = []
        self._tripped: dict[str, bool] = {}
        self._armed = False
        self._again: Cause | None = None
        self._gone = False
        self._back_off = BACK_OFF
        self._timer: Timer | None = None
        self._unwatch: Any = None
        self._tokens, self._filled = BURST, time.monotonic()
        self._telling: Timer | None = None
        self._told = -TELL

    # What it is made of

    def set(self, code: str, conf: dict[str, Any], entries: dict[str, Any], host: str) -> None:
        """Give it its parts.

        :raises PartError: one of them cannot be; then nothing has changed
        """
        checked, settings, keys = check_code(code), parse_conf(conf), parse_entries(entries, host)
        self.code, self.conf, self.entries = checked, conf, entries
        self.settings, self.keys = settings, keys

    def load(self, store: State) -> bool:
        """Take its parts from core's memory; whether there are any.

        What is wrong with them pauses it.
        """
        kept = store.section(SECTION + self.name)
        if not kept:
            return False
        try:
            self.set(kept.get("code", ""), kept.get("conf", {}), kept.get("entries", {}), self._host)
        except VerbError as error:
            self.settings, self.keys = Conf(), {}
            self._become(PAUSED, f"it cannot be used: {error}"[:SHOWN])
            return True
        state = store.get(STATES, self.name, {})
        self.failures = int(state.get("failures", 0))
        self._tripped = dict.fromkeys(state.get("tripped", []), True)
        paused = str(state.get("paused", ""))
        if paused:
            self._become(PAUSED, paused)
        elif self.state == PAUSED:
            self._become(self._rest_state, "")
        return True

    def store(self, store: State) -> None:
        """Put its parts into core's memory."""
        store.put(self.changes())

    def changes(self) -> dict[tuple[str, str], Any]:
        """Its parts, as core's memory has them."""
        section = SECTION + self.name
        return {(section, "conf"): self.conf, (section, "entries"): self.entries, (section, "code"): self.code}

    @property
    def _host(self) -> str:
        return self._core.hostname if self._core is not None else "localhost"

    # Fired

    @property
    def running(self) -> bool:
        """Whether its code runs now."""
        return self._child is not None

    @property
    def _rest_state(self) -> str:
        return IDLE if self.settings.active else OFF

    def arm(self) -> None:
        """Have its triggers fire it, if it is active; one that runs from the start is started."""
        self.disarm()
        core = self._core
        if core is None or not core.scenarios.begun or not self.settings.active or self.state == PAUSED:
            return
        self._armed = True
        for name, entry in self.keys.items():
            if entry.fire == "change":
                self._triggers.append(Change(name, entry, core.values, self.fire))
            elif entry.fire is not None:
                self._triggers.append(self._threshold(name, entry))
        core.scenarios.schedule(self)
        if self.state == OFF:
            self._become(IDLE, "")
        if self.settings.startup and not self.running:
            self.fire({"by": "startup"})

    def disarm(self) -> None:
        """Have nothing fire it but a hand, and start it no more."""
        self._armed = False
        self._again = None
        triggers, self._triggers = self._triggers, []
        for trigger in triggers:
            trigger.close()
        self._calm()
        if self.state in (IDLE, WAITING):
            self._become(self._rest_state, "")

    def fire(self, cause: Cause | None = None) -> bool:
        """Run it, because of something; once more after its end when it runs already.

        :returns: whether it runs, or will
        :raises VerbError: 409, when fired by hand: it runs already, or is paused
        """
        cause = cause or {"by": "hand"}
        by_hand = cause.get("by") == "hand"
        if self._core is None:
            return False
        if by_hand and (self.running or self.state == PAUSED):
            problem = "runs already" if self.running else f"is paused: {self.reason}; resume it first"
            raise VerbError(MDP.CONFLICT, f"{self.name} {problem}")
        if not by_hand and not self._armed:
            return False
        if self.running:
            self._again = cause
            return True
        if self.state == WAITING and not by_hand:
            # It runs soon anyway.
            return True
        self._calm()
        wait = self._token()
        if wait:
            self._become(WAITING, f"it is fired more than {RATE:g} times a second")
            self._timer = self._core.call_later(wait, self.run, cause)
        else:
            self.run(cause)
        return True

    def run(self, cause: Cause | None = None) -> None:
        """Run its code now, in a process of its own."""
        core = self._core
        if core is None or self.running:
            return
        self._calm()
        self.cause = core.scenarios.about(cause or {"by": "hand"})
        self.runs += 1
        self._began = time.monotonic()
        self._calls = calls = Calls(core, self.name, self.keys, self._say)
        scope = {
            "entries": {name: entry.key for name, entry in self.keys.items()},
            "settings": self.settings.settings,
            "cause": self.cause,
        }
        self._child = core.nursery.run(
            self.name, self.code, scope, self.settings.limits.limits(), calls.take, self.output.add, self._ended
        )
        self._become(RUNNING, "")
        self._event("fired", by=self.cause.get("by"))

    def stop(self, why: str, grace: float | None = None) -> None:
        """End its run: it is asked to, then killed. What it holds is let go. Harmless when it does not run."""
        self._again = None
        self._calm()
        if self._child is not None:
            self._become(STOPPING, why)
            self._child.stop(self.settings.stop_grace if grace is None else grace)
        elif self.state == WAITING:
            self._become(self._rest_state, why)

    def shutdown(self, grace: float | None = None) -> None:
        """End its run, and fire it no more.

        :param grace: seconds from asking to killing; None: its own
        """
        self.disarm()
        self.stop("core stops", grace)

    def abandon(self) -> None:
        """Its process is gone, and nobody will say so: let go of what it holds."""
        calls, self._calls, self._child = self._calls, None, None
        if calls is not None:
            calls.close(release=True)

    def resume(self) -> None:
        """Forget that it kept failing."""
        self.failures, self._back_off = 0, BACK_OFF
        if self.state == PAUSED:
            self._become(self._rest_state, "")

    def _ended(self, end: End) -> None:
        calls, self._calls, self._child = self._calls, None, None
        stopped, reason = self.state == STOPPING, self.reason
        assert calls is not None
        # What is left on after a good end was meant to be: for as long as its lease.
        calls.close(release=stopped or end.how != "finished")
        took = time.monotonic() - self._began
        told = end.reason[:SHOWN] or end.how
        self.last = {
            "time": round(time.time(), 3),
            "how": "stopped" if stopped else end.how,
            "reason": reason if stopped and end.how in ("stopped", "finished") else told,
            "took": round(took, 3),
        }
        if end.line is not None:
            self.last["line"] = end.line
        if end.traceback:
            self.traceback = end.traceback
        again, self._again = self._again, None
        if stopped or end.how in ("finished", "stopped"):
            if self.failures and not stopped:
                self.failures = 0
                self._keep()
            self._back_off = BACK_OFF
            self._become(self._rest_state, "finished" if not stopped else reason)
            self._event(self.last["how"], reason=self.last["reason"], took=self.last["took"])
        else:
            self._failed(end, told, took, calls.unusable)
        core = self._core
        assert core is not None
        core.scenarios.ended(self)
        if again is not None and self._armed and not self.running:
            self.fire(again)

    def _failed(self, end: End, told: str, took: float, unusable: str) -> None:
        """It did not end well: start it again, if it is to run always, or pause it."""
        core = self._core
        assert core is not None
        if took >= LONG:
            self._back_off = BACK_OFF
        outside = end.outside or end.how == "lost"
        if not outside:
            self.failures = self.failures + 1 if took < LONG else 1
        MDP.logger.warning("scenario %s: %s: %s", self.name, end.how, told)
        self._event("failed", how=end.how, reason=told, line=end.line, took=round(took, 3), outside=outside)
        if not outside and self.failures >= FAILURES and self.settings.active:
            self.pause(f"it failed {self.failures} times in a row, last: {told}"[:SHOWN])
            return
        if not outside:
            self._keep()
        if not (self.settings.startup and self._armed):
            self._become(self._rest_state, told)
            return
        wait, self._back_off = self._back_off, min(2 * self._back_off, LONGEST_BACK_OFF)
        self._become(WAITING, told)
        self._timer = core.call_later(wait, self._restart)
        if end.error in UNUSABLE and unusable:
            # At once when the cause is gone, but not while that comes and goes.
            soonest = self._began + BACK_OFF
            self._unwatch = core.values.watch(unusable, lambda: self._look(unusable, soonest))
            self._look(unusable, soonest)

    def _look(self, key: str, soonest: float) -> None:
        core = self._core
        assert core is not None
        if self._unwatch is None or self.state != WAITING or not core.values.read(key).good:
            return
        self._quiet()
        if self._timer is not None:
            self._timer.cancel()
        self._back_off = BACK_OFF
        self._timer = core.call_later(max(soonest - time.monotonic(), 0.0), self._restart)

    def _restart(self) -> None:
        self._timer = None
        if self.state == WAITING:
            self.run({"by": "restart", "reason": self.reason})

    def pause(self, why: str) -> None:
        """Fire it no more, until it is resumed or changed."""
        self.disarm()
        self._become(PAUSED, why)
        self._keep()
        MDP.logger.warning("scenario %s is paused: %s", self.name, why)
        self._event("paused", reason=why)

    # What is kept and told

    def _keep(self, done: Any = None) -> None:
        """Keep what outlives core: that it failed, was paused, or which thresholds have fired."""
        core = self._core
        if core is None:
            return
        state: dict[str, Any] = {}
        if self.failures:
            state["failures"] = self.failures
        if self.state == PAUSED:
            state["paused"] = self.reason
        tripped = [name for name, is_so in self._tripped.items() if is_so]
        if tripped:
            state["tripped"] = tripped
        core.state.put({(STATES, self.name): state or None}, done)

    def forget(self) -> None:
        """It was changed: what it has done says nothing of what it is now."""
        self._tripped.clear()
        self.failures, self._back_off = 0, BACK_OFF
        if self.state == PAUSED:
            self._become(self._rest_state, "")

    def _threshold(self, name: str, entry: Entry) -> Threshold:
        core = self._core
        assert core is not None
        assert entry.fire is not None
        assert entry.fire != "change"

        def keep(tripped: bool, then: Any) -> None:
            self._tripped[name] = tripped
            # On the disk first, so that it fires once whatever happens; whether the disk took it or not.
            self._keep(lambda error: then())

        tripped = self._tripped.get(name, False)
        return Threshold(name, entry, entry.fire, core.values, core, tripped, keep, self.fire)

    def to_dict(self) -> dict[str, Any]:
        """What the tree shows of it."""
        found: dict[str, Any] = {
            "state": self.state,
            "reason": self.reason,
            "since": round(self.since, 3),
            "cause": {key: value for key, value in self.cause.items() if key != "sun"},
            "runs": self.runs,
            "failures": self.failures,
        }
        if self.settings.label:
            found["label"] = self.settings.label
        if self.last is not None:
            found["last"] = self.last
        return found

    def tell(self) -> None:
        """Put its state on the tree, soon."""
        if self._core is None or self._telling is not None or self._gone:
            return
        wait = self._told + TELL - time.monotonic()
        self._telling = self._core.call_later(max(wait, 0.0), self._tell_now)

    def untell(self) -> None:
        """Take it off the tree: there is no such scenario any more."""
        self._gone = True
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
        if self._core is not None:
            self._core.publish(f"/scenario/{self.name}", b"")

    def _tell_now(self) -> None:
        self._telling = None
        self._told = time.monotonic()
        if self._core is not None:
            self._core.publish(f"/scenario/{self.name}", self.to_dict())

    def _become(self, state: str, reason: str) -> None:
        if state != self.state:
            self.since = time.time()
        self.state, self.reason = state, reason
        self.tell()

    def _event(self, what: str, **fields: Any) -> None:
        if self._core is not None:
            self._core.event("scenario", self.name, state=what, **fields)

    def _say(self, line: str) -> None:
        self.output.add(line + "\n")

    def _calm(self) -> None:
        """Start it no more by itself."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._quiet()

    def _quiet(self) -> None:
        if self._unwatch is not None:
            self._unwatch()
            self._unwatch = None

    def _token(self) -> float:
        """Seconds to wait before the next start."""
        now = time.monotonic()
        self._tokens = min(self._tokens + (now - self._filled) * RATE, BURST) - 1
        self._filled = now
        return max(-self._tokens / RATE, 0.0)
