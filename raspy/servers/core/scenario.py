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
from raspy.servers.core.arming import RATE, Arming, Rate
from raspy.servers.core.calls import Calls
from raspy.servers.core.limits import Tail
from raspy.servers.core.parts import Conf, Entry, check_code, parse_conf, parse_entries
from raspy.servers.core.retry import BACK_OFF, Retry
from raspy.servers.core.telling import Teller
from raspy.servers.core.triggers import Cause

if TYPE_CHECKING:
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
UNUSABLE = ("StaleValue", "ErrorValue", "NoValue")
"""Exceptions of a value that cannot be believed."""
SHOWN = 300
"""Characters of a reason."""
UNUSABLE_PARTS = "it cannot be used: "
TOO_OFTEN = f"it is fired more than {RATE:g} times a second"


class Scenario:
    """A scenario.

    :param name: its name, an id
    :param publisher: the core that it runs in; without one it cannot run
    """

    def __init__(self, name: str = "scenar1", publisher: Core | None = None) -> None:
        self.name = name
        self.code = ""
        """Python."""
        self.conf: dict[str, Any] = {}
        """Its settings, as they were given."""
        self.entries: dict[str, Any] = {}
        """Friendly names for keys of the tree."""
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
        self._memory = ""
        """What the last run has left for the next one, JSON."""
        self._remembers = False
        """The present run may leave something."""
        self._arming = Arming(publisher, self.fire, self._keep)
        self._armed = False
        self._again: Cause | None = None
        """Fired while it runs."""
        self._due: Cause | None = None
        """Fired, and to be started when the timer says so."""
        self._retry = Retry()
        self._rate = Rate()
        self._teller = Teller(name, publisher, self.to_dict)

    # What it is made of

    def set(self, code: str, conf: dict[str, Any], entries: dict[str, Any], host: str) -> None:
        """Give it its parts.

        :raises raspy.servers.core.parts.PartError: one of them cannot be; then nothing has changed
        """
        checked, settings, keys = check_code(code), parse_conf(conf), parse_entries(entries, host)
        self.code, self.conf, self.entries = checked, conf, entries
        self.settings, self.keys = settings, keys

    def load(self, store: State) -> bool:
        """Take its parts from core's memory; whether there are any.

        What is wrong with them pauses it; they are shown, exported and changed as they are.
        """
        kept = store.section(SECTION + self.name)
        if not kept:
            return False
        try:
            self.set(kept.get("code", ""), kept.get("conf", {}), kept.get("entries", {}), self._host)
        except VerbError as error:
            self.settings, self.keys = Conf(), {}
            self.code, self.conf, self.entries = (
                kept[part] if isinstance(kept.get(part), kind) else kind()
                for part, kind in (("code", str), ("conf", dict), ("entries", dict))
            )
            self._become(PAUSED, f"{UNUSABLE_PARTS}{error}"[:SHOWN])
            if self._core is not None and self._core.scenarios.begun:
                self._teller.paused(self.reason)
            return True
        state = store.get(STATES, self.name, {})
        self.failures = int(state.get("failures", 0))
        self._arming.load(state)
        paused = str(state.get("paused", ""))
        if paused:
            self._become(PAUSED, paused)
        elif self.state == PAUSED:
            self._become(self._rest_state, "")
        return True

    def review(self) -> None:
        """Tell what is wrong with it as core begins: that it cannot be used, or that core's end has cut it off."""
        core = self._core
        assert core is not None
        if self.state == PAUSED and self.reason.startswith(UNUSABLE_PARTS):
            self._teller.paused(self.reason)
        cut = core.state.get(STATES, self.name, {}).get("open", [])
        if cut:
            self._teller.unrepeated(cut, "core ended before it did")
            self._keep()

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
        self._arming.set(self.keys)
        core.scenarios.schedules.set(self)
        if self.state == OFF:
            self._become(IDLE, "")
        if self.settings.startup and not self.running:
            self.fire({"by": "startup"})

    def disarm(self) -> None:
        """Have nothing fire it but a hand, and start it no more."""
        self._armed = False
        self._again = None
        self._arming.close()
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
            # It runs soon anyway; if not as what failed, then because of the latest.
            if self._due is not None:
                self._due = cause
            return True
        if self.state == WAITING and self.reason == TOO_OFTEN:
            return True
        self._calm()
        wait = self._rate.take()
        if wait:
            self._start_later(wait, cause, TOO_OFTEN)
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
        self._arming.begin()
        self._remembers = True
        self.runs += 1
        self._began = time.monotonic()
        self._calls = calls = Calls(core, self.name, self.keys, self._say)
        scope = {
            "entries": {name: entry.key for name, entry in self.keys.items()},
            "settings": self.settings.settings,
            "cause": self.cause,
            "memory": self._memory,
        }
        self._child = core.nursery.run(
            self.name, self.code, scope, self.settings.limits.limits(), calls.take, self.output.add, self._ended
        )
        self._become(RUNNING, "")
        self._teller.event("fired", by=self.cause.get("by"))

    def stop(self, why: str, grace: float | None = None) -> None:
        """End its run: it is asked to, then killed. What it holds is let go. Harmless when it does not run.

        :param grace: seconds from asking to killing; None: its own
        """
        self._again = None
        # What core's own end cuts off, the next start is to find.
        if self._core is not None and not self._core.scenarios.stopped and self._arming.rest():
            self._keep()
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
        self.failures = 0
        self._retry.reset()
        if self.state == PAUSED:
            self._become(self._rest_state, "")

    def _ended(self, end: End) -> None:
        child, self._child = self._child, None
        calls, self._calls = self._calls, None
        core = self._core
        assert child is not None
        assert calls is not None
        assert core is not None
        stopped, reason = self.state == STOPPING, self.reason
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
        if end.memory is not None and self._remembers:
            self._memory = end.memory
        again, self._again = self._again, None
        if stopped or end.how in ("finished", "stopped"):
            self._rested(stopped, end, reason)
        elif end.how == "lost" and not child.began and self._armed:
            # It cannot have done anything.
            self._arming.undo()
            self._teller.failed(end, told, took)
            self._start_later(self._retry.longer(), self.cause, told)
        else:
            self._failed(end, told, took, calls.unusable)
        core.scenarios.ended(self)
        if again is not None and self._armed and not self.running:
            self.fire(again)

    def _rested(self, stopped: bool, end: End, reason: str) -> None:
        """It did what it should, or was stopped."""
        core = self._core
        assert core is not None
        assert self.last is not None
        well = self.failures and not stopped
        if well:
            self.failures = 0
        cut = core.scenarios.stopped and end.how != "finished"
        if (not cut and self._arming.end()) or well:
            self._keep()
        self._retry.reset()
        self._become(self._rest_state, reason if stopped else "finished")
        self._teller.event(self.last["how"], reason=self.last["reason"], took=self.last["took"])

    def _failed(self, end: End, told: str, took: float, unusable: str) -> None:
        """It did not end well: start it again, if it is to run always, or pause it."""
        core = self._core
        assert core is not None
        if took >= LONG:
            self._retry.reset()
        outside = end.outside or end.how == "lost"
        if not outside:
            self.failures = self.failures + 1 if took < LONG else 1
        self._teller.failed(end, told, took)
        served = self._arming.end()
        if not outside and self.failures >= FAILURES and self.settings.active:
            self.pause(f"it failed {self.failures} times in a row, last: {told}"[:SHOWN])
            return
        if self.settings.startup and self._armed:
            self._become(WAITING, told)
            self._retry.after(core, self._retry.longer(), self._restart)
            if end.error in UNUSABLE and unusable:
                # At once when the cause is gone, but not while that comes and goes.
                self._retry.once_good(core, unusable, self._began + BACK_OFF, self._restart)
        else:
            self._become(self._rest_state, told)
            if served and end.outside and self._armed:
                self._arming.rearm(served, self._retry.longer())
            elif served:
                self._teller.unrepeated(served, told)
        if served or not outside:
            self._keep()

    def _start_later(self, wait: float, cause: Cause, why: str) -> None:
        assert self._core is not None
        self._become(WAITING, why)
        self._due = cause
        self._retry.after(self._core, wait, self._start_due)

    def _start_due(self) -> None:
        self.run(self._due)

    def _restart(self) -> None:
        if self.state == WAITING:
            self.run({"by": "restart", "reason": self.reason})

    def pause(self, why: str) -> None:
        """Fire it no more, until it is resumed or changed."""
        self.disarm()
        self._become(PAUSED, why)
        self._arming.rest()
        self._keep()
        self._teller.paused(self.reason)

    # What is kept and told

    def _keep(self, done: Any = None) -> None:
        """Keep what outlives core: that it failed, was paused, or which thresholds have fired."""
        core = self._core
        if core is None or self._teller.gone:
            return
        state = self._arming.to_dict()
        if self.failures:
            state["failures"] = self.failures
        if self.state == PAUSED:
            state["paused"] = self.reason
        core.state.put({(STATES, self.name): state or None}, done)

    def forget(self) -> None:
        """It was changed: what it has done says nothing of what it is now."""
        self._arming.forget()
        self._memory, self._remembers = "", False
        self.failures = 0
        self._retry.reset()
        if self.state == PAUSED:
            self._become(self._rest_state, "")

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
        self._teller.soon()

    def untell(self) -> None:
        """Take it off the tree: there is no such scenario any more."""
        self._teller.remove()

    def _become(self, state: str, reason: str) -> None:
        if state != self.state:
            self.since = time.time()
        self.state, self.reason = state, reason
        self.tell()

    def _say(self, line: str) -> None:
        self.output.add(line + "\n")

    def _calm(self) -> None:
        """Start it no more by itself."""
        self._due = None
        self._retry.cancel()
