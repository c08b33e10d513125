"""All scenarios: made, changed, kept, started and stopped; and the variables that they share."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from raspy.common import MDP
from raspy.common.verbs import VerbError
from raspy.servers.core import document, proposals
from raspy.servers.core.document import Parts
from raspy.servers.core.parts import check_code
from raspy.servers.core.scenario import PAUSED, SECTION, STATES, STOPPING, Scenario
from raspy.servers.core.schedules import Schedules
from raspy.servers.core.today import Sun
from raspy.servers.core.triggers import Cause
from raspy.servers.core.variables import VARIABLE, Variables

if TYPE_CHECKING:
    from raspy.servers.core.child import Problem
    from raspy.servers.core.server import Core
    from raspy.servers.core.state import State

MAIN = "scenario.main"
MOST = 500
"""Scenarios."""
PATIENCE = 5.0
"""Seconds that the tree of values has to be there before scenarios begin without it."""
GRACE = 2.0
"""Seconds that scenarios have to end when core stops."""
LETTING_GO = 1.0
"""Seconds that outputs have then to say that they are let go of."""

Done = Callable[[Exception | None], None]
Changes = dict[tuple[str, str], Any]
Names = list[str]
Dicts = list[dict[str, Any]]


class ScenarioManager:
    """The manager of scenarios.

    :param publisher: the core, whose memory, values, jobs and processes are used
    """

    def __init__(self, publisher: Core) -> None:
        self.core = publisher
        self.scenarios: dict[str, Scenario] = {}
        """By name."""
        self.begun = False
        """Scenarios are fired: the values of the tree are known, or nobody waits for them any more."""
        self.releasing = 0
        """Outputs that are told to let go, and have not answered."""
        self.schedules = Schedules(publisher)
        self._variables = Variables(publisher)
        self._renew: set[str] = set()
        self._sun = Sun(publisher.place, publisher.clock.wall)
        self.stopped = False
        """Core comes to its end."""
        self._leaving: dict[str, Scenario] = {}
        """Those that were deleted, and whose run has not ended."""

    # From start to end

    def start(self) -> None:
        """Take up what was kept, and begin."""
        self.load(self.core.state)
        self._variables.start()
        for scenario in self.scenarios.values():
            scenario.tell()
        # A scenario that begins before the values are known could only fail.
        self.core.values.on_live.append(self._begin)
        self.core.call_later(PATIENCE, self._begin)

    def _begin(self) -> None:
        if self.begun or self.stopped:
            return
        self.begun = True
        for scenario in list(self.scenarios.values()):
            scenario.review()
            scenario.arm()

    def load(self, store: State) -> None:
        """Take the scenarios from core's memory."""
        for section in store.sections(SECTION):
            if section != MAIN:
                self._load(section.removeprefix(SECTION), store)

    def store(self, store: State) -> None:
        """Put all scenarios into core's memory."""
        changes: Changes = {(MAIN, "keys"): self.list_keys(), (MAIN, "conf"): store.get(MAIN, "conf", {})}
        for scenario in self.scenarios.values():
            changes |= scenario.changes()
        store.put(changes)

    def shutdown(self) -> None:
        """End all scenarios, and let go of what they hold; returns when that is done, after a few seconds at most."""
        self.stopped = True
        scenarios = [*self.scenarios.values(), *self._leaving.values()]
        for scenario in scenarios:
            scenario.shutdown(GRACE)
        self._turn(lambda: any(scenario.running for scenario in scenarios), 2 * GRACE)
        for scenario in scenarios:
            scenario.abandon()
        self._turn(lambda: self.releasing > 0, LETTING_GO)

    def _turn(self, busy: Callable[[], bool], limit: float) -> None:
        end = time.monotonic() + limit
        while busy() and time.monotonic() < end:
            # A loop that is to end does not wait for anything.
            self.core.turn(0.0)
            time.sleep(0.005)

    # What there is

    def list_keys(self) -> Names:
        """The names of the scenarios."""
        return sorted(self.scenarios)

    def find(self, name: str) -> Scenario:
        """A scenario.

        :raises VerbError: 404
        """
        scenario = self.scenarios.get(name)
        if scenario is None:
            known = ", ".join(self.scenarios) or "none"
            raise VerbError(MDP.NOT_FOUND, f"no scenario {name[:80]!r}; known are {known[:1000]}")
        return scenario

    def show(self, name: str) -> dict[str, Any]:
        """A scenario with its parts and its state."""
        scenario = self.find(name)
        parts = {"conf": scenario.conf, "entries": scenario.entries, "code": scenario.code}
        return {"name": name, **parts, **scenario.to_dict()}

    def output(self, name: str) -> dict[str, Any]:
        """What a scenario printed and logged last, and the traceback of its last failure."""
        scenario = self.find(name)
        return {"output": scenario.output.text(), "traceback": scenario.traceback, "last": scenario.last}

    def examples(self) -> Dicts:
        """The documents that come with RasPy."""
        return document.examples()

    # Changes

    def add(
        self,
        name: str = "scenar1",
        entries: dict[str, Any] | None = None,
        code: str | None = None,
        conf: dict[str, Any] | None = None,
    ) -> None:
        """Add a scenario.

        :raises VerbError: there is one of that name, or a part of it cannot be
        """
        if name in self.scenarios:
            raise VerbError(MDP.CONFLICT, f"there is a scenario {name} already")
        self._keep({name: self._merged(name, {"entries": entries or {}, "code": code or "", "conf": conf or {}})})

    def update(
        self,
        name: str = "scenar1",
        entries: dict[str, Any] | None = None,
        code: str | None = None,
        conf: dict[str, Any] | None = None,
    ) -> None:
        """Change the parts of a scenario that are given.

        :raises VerbError: there is none of that name, or a part cannot be
        """
        self.find(name)
        given = {"entries": entries, "code": code, "conf": conf}
        self._keep({name: self._merged(name, {part: value for part, value in given.items() if value is not None})})

    def change(self, name: str, parts: dict[str, Any], done: Done) -> None:
        """Make a scenario, or change the parts of one that are given; ``done`` follows when that is on the disk.

        :raises VerbError: a part cannot be; code that does not compile is told to ``done``
        """
        merged = self._merged(name, parts)
        before = self.scenarios.get(name)
        if before is not None and before.code == merged.code:
            self._keep({name: merged}, done)
        else:
            proposals.compiled(
                self.core, {name: merged.code}, lambda error: done(error) if error else self._keep({name: merged}, done)
            )

    def delete(self, name: str = "scenar1", done: Done | None = None) -> None:
        """Stop a scenario, and have it no more; ``done`` follows when that is on the disk.

        :raises VerbError: 404
        """
        scenario = self.find(name)
        changes: Changes = {(SECTION + name, part): None for part in ("conf", "entries", "code")}
        changes |= {(STATES, name): None} | self.schedules.clear(scenario.name)
        changes[MAIN, "keys"] = [known for known in self.list_keys() if known != name]

        def written(error: Exception | None) -> None:
            if error is None and self.scenarios.get(name) is scenario:
                self._drop(name)
            if done is not None:
                done(error)

        self.core.state.put(changes, written)

    def enable(self, name: str, on: bool, done: Done) -> None:
        """Have a scenario act by itself, or by hand only.

        :raises VerbError: 404
        """
        scenario = self.find(name)
        self.change(name, {"conf": {**scenario.conf, "active": on}}, done)

    def resume(self, name: str, done: Done) -> None:
        """Have a scenario act again that was paused.

        :raises VerbError: 404, or 409: it is not paused
        """
        scenario = self.find(name)
        if scenario.state != PAUSED:
            raise VerbError(MDP.CONFLICT, f"{name} is not paused, but {scenario.state}")

        def written(error: Exception | None) -> None:
            scenario.forget()
            if scenario.load(self.core.state):
                scenario.arm()
            done(error)

        self.core.state.put({(STATES, name): None}, written)

    def export(self, names: Names) -> dict[str, Any]:
        """Scenarios, without names all of them, as one document.

        :raises VerbError: 404
        """
        chosen = [self.find(name) for name in names] if names else list(self.scenarios.values())
        return document.make({one.name: Parts(one.code, one.conf, one.entries) for one in chosen})

    def import_(self, given: Any, replace: bool, done: Done) -> None:
        """Take the scenarios of a document, all or none, and none of them active: whoever takes them looks at them
        first. ``done`` follows when they are on the disk.

        :param replace: those are replaced that are there already
        :raises VerbError: it cannot be taken; code that does not compile is told to ``done``
        """
        found = document.read(given, self.core.hostname)
        taken = [name for name in found if name in self.scenarios]
        if taken and not replace:
            raise VerbError(MDP.CONFLICT, f"there is {', '.join(taken[:20])} already; say replace to replace it")
        merged = {
            name: self._merged(
                name, {"code": parts.code, "conf": {**parts.conf, "active": False}, "entries": parts.entries}
            )
            for name, parts in found.items()
        }
        codes = {name: parts.code for name, parts in found.items()}
        proposals.compiled(self.core, codes, lambda error: done(error) if error else self._keep(merged, done))

    def check(self, code: str, done: Callable[[Problem | None], None]) -> None:
        """Compile code; ``done`` gets what is wrong with it.

        :raises VerbError: it is too long
        """
        self.core.nursery.check(check_code(code), done)

    # Runs

    def fire(self, name: str, cause: Cause) -> bool:
        """Run a scenario because of something; whether it runs, or will."""
        scenario = self.scenarios.get(name)
        return scenario is not None and not self.stopped and scenario.fire(cause)

    def run_by_hand(self, name: str) -> None:
        """Run a scenario.

        :raises VerbError: 404, or 409: it runs already, or is paused
        """
        scenario = self.find(name)
        if name in self._leaving:
            raise VerbError(MDP.CONFLICT, f"a {name} that was deleted has not ended yet; try again")
        scenario.fire({"by": "hand"})

    def stop(self, name: str) -> None:
        """End the run of a scenario.

        :raises VerbError: 404, or 409: it does not run
        """
        scenario = self.find(name)
        if not scenario.running and scenario.state != "waiting":
            raise VerbError(MDP.CONFLICT, f"{name} does not run: it is {scenario.state}")
        scenario.stop("stopped by hand")

    def ended(self, scenario: Scenario) -> None:
        """A run is over: what is new under its name may begin."""
        if self._leaving.get(scenario.name) is scenario:
            del self._leaving[scenario.name]
        elif scenario.name not in self._renew:
            return
        self._renew.discard(scenario.name)
        new = self.scenarios.get(scenario.name)
        if new is not None and not self.stopped:
            new.arm()

    def about(self, cause: Cause) -> Cause:
        """What a run is told of why it runs; with the times of the sun today (Unix, s), where they are known."""
        sun = self._sun.today()
        return {**cause, "time": round(self.core.clock.wall(), 3), **({"sun": sun} if sun else {})}

    # Variables

    def variables(self) -> dict[str, Any]:
        """All variables: value and time (Unix, s) by name."""
        return self._variables.all()

    def set_variable(self, name: Any, value: Any, done: Done) -> None:
        """Set a variable; ``done`` follows when it is on the disk.

        :raises VerbError: it is none
        """
        self._variables.set(name, value, done)

    def delete_variable(self, name: str, done: Done) -> None:
        """Have a variable no more; ``done`` follows when that is on the disk.

        :raises VerbError: 404
        """
        self._variables.delete(name, done)

    # What was changed elsewhere

    def taken(self, places: set[tuple[str, str]]) -> None:
        """Something was taken over from the store: half of a scenario may come, and the rest later."""
        for section in {section for section, _ in places}:
            if section.startswith(SECTION) and section != MAIN:
                name = section.removeprefix(SECTION)
                if self.core.state.section(section):
                    self._apply(name)
                elif name in self.scenarios:
                    self._drop(name)
        for section, name in places:
            if section == VARIABLE:
                self._variables.show(name)

    # Inside

    def _merged(self, name: str, parts: dict[str, Any]) -> Parts:
        """The parts that a scenario is to have, checked.

        :raises VerbError: it cannot have them
        """
        return proposals.merged(self.core, name, parts, self.scenarios.get(name))

    def _keep(self, parts: dict[str, Parts], done: Done | None = None) -> None:
        """Put scenarios on the disk, then have them so."""
        # What is on its way to the disk counts too.
        known = {section.removeprefix(SECTION) for section in self.core.state.sections(SECTION) if section != MAIN}
        if len(known | parts.keys()) > MOST and not parts.keys() <= known:
            self._refuse(f"there can be {MOST} scenarios, and there are {len(known)}; delete some first", done)
            return
        changes: Changes = {(MAIN, "keys"): sorted({*self.scenarios, *parts})}
        if self.core.state.get(MAIN, "conf") is None:
            changes[MAIN, "conf"] = {}
        for name, found in parts.items():
            section = SECTION + name
            changes |= {(section, "conf"): found.conf, (section, "entries"): found.entries}
            changes[section, "code"] = found.code
            before = self.scenarios.get(name)
            if before is None or before.state == PAUSED or before.changes() != {**before.changes(), **changes}:
                changes[STATES, name] = None

        def written(error: Exception | None) -> None:
            if error is not None:
                told(error)
                return
            for name in parts:
                self._apply(name)
            self.core.jobs.note(told)

        def told(error: Exception | None) -> None:
            if done is not None:
                done(error)

        try:
            self.core.state.put(changes, written)
        except ValueError as error:
            self._refuse(str(error), done)

    def _refuse(self, reason: str, done: Done | None) -> None:
        """Refuse a change; the verb may have returned, so that nobody else would hear of it."""
        error = VerbError(MDP.BAD_REQUEST, reason)
        if done is None:
            raise error
        done(error)

    def _apply(self, name: str) -> None:
        """Have a scenario as core's memory has it: what runs of it as it was is stopped first."""
        scenario = self.scenarios.get(name)
        if scenario is not None:
            kept = self.core.state.section(SECTION + name)
            same = (kept.get("code"), kept.get("conf"), kept.get("entries"))
            if same == (scenario.code, scenario.conf, scenario.entries) and scenario.state != PAUSED:
                return
            before = list(scenario.settings.schedule), scenario.settings.active
            scenario.disarm()
            scenario.forget()
        found = self._load(name, self.core.state)
        if scenario is not None and before != (list(found.settings.schedule), found.settings.active):
            # Other times, or a rest: what passed before is not missed.
            self.core.state.put(self.schedules.clear(found.name))
        if self.stopped:
            return
        if found.running:
            self._renew.add(name)
            if found.state != STOPPING:
                found.stop("it was changed")
        elif name not in self._leaving:
            found.arm()
        found.tell()

    def _load(self, name: str, store: State) -> Scenario:
        scenario = self.scenarios.get(name)
        if scenario is None:
            scenario = self.scenarios[name] = Scenario(name, self.core)
        scenario.load(store)
        return scenario

    def _drop(self, name: str) -> None:
        scenario = self.scenarios.pop(name)
        self.schedules.clear(scenario.name)
        scenario.untell()
        scenario.disarm()
        scenario.stop("it was deleted")
        if scenario.running:
            self._leaving[name] = scenario

    def list(self) -> Dicts:
        """All scenarios with their settings, entries and state; their code is shown one by one."""
        return [{key: value for key, value in self.show(name).items() if key != "code"} for name in self.list_keys()]
